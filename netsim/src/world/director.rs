//! The director of a run: its events, the plan as it is carried out, and its phases.

use std::collections::BTreeSet;

use mesh_core::crypto::Signer as _;
use mesh_core::entry::{Kind, SignedEntry, encode};
use mesh_core::epoch::{Claim, Epoch};
use mesh_core::frame::{EntryItem, Frame};
use mesh_core::ids::{Hash, Incarnation, NodeId, PeerId};
use mesh_core::io::{Command, Input, NewCall, Now, Space};
use mesh_core::policy::Credential;
use mesh_core::record::{ChangeKind, Effect, MembershipChange, Payload, Tier};
use mesh_core::test_kit::{Author, Snapshot};

use super::calls::logs_agree;
use super::commands::Purpose;
use super::liveness::beliefs;
use super::mesh::Mesh;
use super::peer::{Sim, State};
use super::statements::Statements;
use super::{rights, words};
use crate::dice::Dice;
use crate::env::Env;
use crate::event::{Event, Phase};
use crate::keys::Key;
use crate::network::{Network, pair_of};
use crate::node::{self, Node};
use crate::plan::{Ask, Case, Fault, MS, NEVER, SECOND};
use crate::trace::{Being, Level, Moment, Trace};

/// A machine without a clock of its own believes that it is the day it was built.
const CLOCKLESS_MS: i64 = 10 * 365 * 24 * 3_600 * 1_000;
/// A run that began so long ago has put a checkpoint into its target's log (after 200 ms), and slow disks have synced
/// it.
const RECEIVED_US: u64 = 1_200 * MS;
/// The setup may take this long.
const SETUP_US: u64 = 15 * SECOND;
/// The first quiescence: topology kept.
const QUIET_US: u64 = 8 * SECOND;
/// The second quiescence lasts at least this long; the first, with its topology, is looked at for longer.
const HEALED_US: u64 = 3 * SECOND;
/// Time for which the single link stays cut.
const L2_CUT_US: u64 = 4 * SECOND;

/// One run.
pub(super) struct Director {
    pub(super) env: Env,
    net: Network,
    pub(super) mesh: Mesh,
    /// When the groups of a split last came apart.
    split_at: u64,
    faults_at: u64,
}

impl Director {
    pub(super) fn new(case: &Case, level: Level) -> Self {
        let mut dice = Dice::new(case.seed, 2);
        let mesh = Mesh::new(case, &mut dice);
        let env = Env::new(dice, Trace::new(level));
        Self { env, net: Network::new(&case.plan), mesh, split_at: 0, faults_at: 0 }
    }

    /// Runs to the end, or to the first broken promise.
    pub(super) fn drive(&mut self) {
        self.mesh.found(&mut self.env, &mut self.net);
        while let Some(event) = self.env.next() {
            self.mesh.stats.events += 1;
            self.handle(event);
            let Self { env, net, mesh, .. } = self;
            mesh.liveness.note_settled(env.now, &mesh.peers, net, &mut mesh.checks, &mut mesh.stats);
            if mesh.checks.violation.is_some() || mesh.liveness.phase == Phase::End {
                break;
            }
        }
        self.mesh.stats.virtual_us = self.env.now;
        self.mesh.stats.runs = self.mesh.checks.runs.len() as u64;
    }

    fn handle(&mut self, event: Event) {
        let Self { env, net, mesh, .. } = self;
        match event {
            Event::Wake { peer, boot, at } => mesh.wake(env, net, peer, boot, at),
            Event::Synced { peer, boot, txn } => mesh.synced(env, net, peer, boot, txn),
            Event::Input { peer, boot, input } => {
                if mesh.peers[peer].boot == boot {
                    mesh.input(env, net, peer, *input);
                }
            }
            Event::ToolDone { peer, boot, id, attempt, ending } => {
                mesh.tool_done(env, net, peer, boot, (id, attempt), ending);
            }
            Event::Deliver { key, end, conn, frame } => net.deliver(env, mesh, key, end, conn, *frame),
            Event::Detect { key, conn, end } => net.detect(env, mesh, key, conn, end),
            Event::Doubt { key, conn } => net.doubt(env, mesh, key, conn),
            Event::LinkUp { key, conn, end } => net.link_up(env, mesh, key, conn, end),
            Event::Dial(key) => net.dialled(env, mesh, key),
            Event::Register(node) => net.try_register(env, mesh, node),
            Event::Goodbye { gateway, node, id } => net.goodbye(env, mesh, gateway, node, id),
            Event::Moved { node, id } => net.moved(env, mesh, node, id),
            Event::CloseUntrusted { peer, boot } => {
                if mesh.peers[peer].boot == boot {
                    net.close_untrusted(env, mesh, peer);
                }
            }
            Event::Crash { peer, boot, down_us } => {
                if mesh.peers[peer].boot == boot {
                    mesh.crash(env, net, peer, down_us);
                }
            }
            Event::Exit { peer, boot, down_us } => {
                if mesh.peers[peer].boot == boot {
                    mesh.exit(env, net, peer, down_us);
                }
            }
            Event::Boot(peer) => mesh.boot(env, net, peer),
            Event::ClockFound { peer, by_ms } => mesh.peers[peer].wall_off_ms += by_ms,
            Event::Thaw { peer, boot } => {
                if mesh.peers[peer].boot == boot {
                    mesh.thaw(env, net, peer);
                }
            }
            Event::Join(peer) => mesh.join(env, net, peer),
            Event::Fault(index) => self.fault(index),
            Event::Ask(index) => self.ask(index),
            Event::Cancel { peer, id } => {
                if mesh.peers[peer].state == State::Running {
                    mesh.command(
                        env,
                        net,
                        peer,
                        Purpose::Cancel,
                        Command::Cancel { id, reason: "the person changed their mind".into() },
                    );
                }
            }
            Event::Phase(phase) => self.enter(phase),
            Event::Look => self.look(),
        }
    }

    // --- The plan -------------------------------------------------------------------------------------------------

    fn ask(&mut self, index: usize) {
        let Self { env, net, mesh, .. } = self;
        let ask: Ask = mesh.plan.asks[index].1.clone();
        let origin = ask.origin;
        if mesh.peers[origin].state != State::Running {
            return;
        }
        let node = match ask.target {
            None => "any".to_owned(),
            Some(target) => mesh.name_of(origin, target).to_string(),
        };
        let text = format!("{{\"n\":{}}}", ask.argument);
        let arguments = if ask.blob {
            let hash = Hash::of(text.as_bytes());
            mesh.peers[origin].blobs.insert(hash);
            Payload::Blob { hash, len: text.len() as u64 }
        } else {
            Payload::Inline(text.into())
        };
        let call = NewCall {
            node,
            tool: ask.tool.parse().expect("a valid constant"),
            arguments,
            ttl_ms: ask.ttl_ms,
            timeout_ms: ask.timeout_ms.unwrap_or(60_000),
            effect: ask.strict.then_some(Effect::Once),
            principal: ask.principal.as_deref().map(rights::constant),
            credential: ask.token.as_deref().map(|token| Credential { token: rights::constant(token), over: false }),
            workspace: None,
            client_key: ask.key,
        };
        env.story(|| format!("p{origin} is asked for {} at {} within {} ms", call.tool, call.node, call.ttl_ms));
        let by_owner = mesh.peers[origin].owner;
        mesh.command(env, net, origin, Purpose::Ask { index, by_owner }, Command::Call(call));
    }

    fn fault(&mut self, index: usize) {
        let Self { env, net, mesh, .. } = self;
        let fault = mesh.plan.faults[index].1.clone();
        if mesh.liveness.phase != Phase::Faults {
            return;
        }
        env.story(|| format!("-- {fault:?}"));
        env.moment(|| Moment::Fault(format!("{fault:?}")));
        mesh.liveness.disturb();
        match fault {
            Fault::Split { groups } => {
                net.split = groups;
                self.split_at = env.now;
                reconnect(env, net, mesh);
            }
            Fault::Unsplit => {
                net.split.clear();
                reconnect(env, net, mesh);
            }
            Fault::Cut { a, b } | Fault::Uncut { a, b } => {
                let (key, _) = pair_of(a, b);
                net.pairs.of(key).single = [matches!(fault, Fault::Cut { .. }); 2];
                reconnect(env, net, mesh);
            }
            Fault::CutOneWay { from, to } => {
                let (key, end) = pair_of(from, to);
                net.pairs.of(key).single[end] = true;
                reconnect(env, net, mesh);
            }
            Fault::OneWay { from, to, loss } => {
                let (key, end) = pair_of(from, to);
                net.pairs.of(key).loss[end] = loss;
            }
            Fault::Loss { loss } => net.loss = loss,
            Fault::Crash { peer, down_us } => mesh.crash(env, net, peer, down_us),
            Fault::CrashNear { peer, near, after_us, down_us } => {
                mesh.peers[peer].armed = Some((near, after_us, down_us));
            }
            Fault::Stop { peer, down_us } => {
                if mesh.peers[peer].awake() {
                    mesh.liveness.note_leaving(env.now, peer, true, &mesh.peers, net);
                    mesh.peers[peer].stopping = true;
                    mesh.command(env, net, peer, Purpose::Stop(down_us), Command::Stop);
                    let boot = mesh.peers[peer].boot;
                    // The shell does not wait for ever (`docs/protocol.md`, Election).
                    env.at(150 * MS, Event::Exit { peer, boot, down_us });
                }
            }
            Fault::Suspend { peer, for_us } => mesh.freeze(env, net, peer, for_us),
            Fault::Stall { peer, for_us } => mesh.peers[peer].stall_us = for_us,
            Fault::WallJump { peer, by_ms } => mesh.peers[peer].wall_off_ms += by_ms,
            Fault::ClockLost { peer, down_us, for_us } => {
                if mesh.peers[peer].state == State::Running {
                    mesh.crash(env, net, peer, down_us);
                    mesh.peers[peer].wall_off_ms -= CLOCKLESS_MS;
                    env.at(down_us + for_us, Event::ClockFound { peer, by_ms: CLOCKLESS_MS });
                }
            }
            Fault::Revoke { by, peer, unsaid } => {
                let id = mesh.peers[peer].id;
                let owner = mesh.peers[by].plan.tier == Tier::Owner;
                if owner && mesh.peers[by].awake() && mesh.peers[peer].state != State::Absent {
                    let purpose = if unsaid { Purpose::Unsay { by, peer } } else { Purpose::Other };
                    let ends = Statements::may_end(by, peer, &mesh.peers);
                    mesh.command(env, net, by, purpose, Command::Revoke { peer: id, unsaid });
                    mesh.statements.note_end(by, peer, ends && !unsaid, &mesh.peers);
                }
            }
            Fault::Demote { by, peer } => self.approve_as(by, peer, Tier::Owner, Tier::Shared),
            Fault::Raise { by, peer } => self.approve_as(by, peer, Tier::Shared, Tier::Owner),
            Fault::Steal { peer } => {
                mesh.crash(env, net, peer, 0);
                if mesh.peers[peer].state == State::Down {
                    mesh.peers[peer].state = State::Gone;
                    mesh.peers[peer].stolen = true;
                    env.moment(|| Moment::Is(peer, Being::Gone));
                }
            }
            Fault::Forge { peer } => self.forge(peer),
            Fault::Claims { peer } => self.claim_on(peer),
            Fault::Fill { peer } => self.fill(peer),
            Fault::Govern { by } => {
                let changes = rights::workspace();
                mesh.edit(env, net, by, rights::edit(changes));
            }
            Fault::Seat { by, peer, gives } => {
                let changes = rights::seat(mesh.name_of(by, peer), gives);
                mesh.edit(env, net, by, rights::edit(changes));
            }
            Fault::Rule { by, tool, says, wait_ms } => {
                mesh.edit(env, net, by, rights::edit(rights::rule(&tool, says, wait_ms)));
            }
            Fault::Say { by, word } => {
                let changes = words::changes(&word, |peer| mesh.peers[peer].id);
                mesh.edit(env, net, by, rights::edit(changes));
            }
            Fault::Forbid { peer, tool, forbids } => mesh.forbid(env, net, peer, tool, forbids),
            Fault::Answer { peer, choice } => mesh.answer(env, net, peer, choice),
            Fault::TakeBack { peer } => mesh.take_back(env, net, peer),
            Fault::Leave { peer } => {
                if mesh.peers[peer].awake() {
                    mesh.command(env, net, peer, Purpose::Leave, Command::Leave);
                }
            }
            Fault::Backup { peer } => {
                if matches!(mesh.peers[peer].state, State::Running | State::Down) {
                    mesh.peers[peer].backup = Some((env.now, mesh.peers[peer].disk.snapshot()));
                }
            }
            Fault::Restore { peer, down_us, unnoticed } => self.restore(peer, down_us, unnoticed),
            Fault::Wipe { peer, heir, down_us } => {
                if mesh.peers[peer].state == State::Running {
                    mesh.crash(env, net, peer, down_us);
                    mesh.peers[peer].state = State::Gone;
                    env.moment(|| Moment::Is(peer, Being::Gone));
                    env.at(down_us, Event::Join(heir));
                }
            }
            Fault::DiskFull { peer, for_us } => mesh.peers[peer].full_until = env.now + for_us,
        }
    }

    /// A member of one tier gets another.
    fn approve_as(&mut self, by: usize, peer: usize, from: Tier, tier: Tier) {
        let (env, net, mesh) = (&mut self.env, &mut self.net, &mut self.mesh);
        let key = mesh.peers[peer].key.public_key();
        let is_of = |node: &Node| node.tier(&key.peer_id()) == Some(from);
        if mesh.peers[by].awake() && mesh.peers[by].node.as_ref().is_some_and(is_of) {
            let node_id = "lowered".parse().expect("a valid constant");
            let ends = Statements::may_end(by, peer, &mesh.peers);
            mesh.command(env, net, by, Purpose::Other, Command::Approve { key, node_id, tier, stay: None });
            mesh.statements.note_end(by, peer, ends, &mesh.peers);
        }
    }

    /// The key of a former owner speaks on as one: by the approval that made it one, and by the last that it got. With a
    /// stolen device, which nothing that its key says can stop, by all approvals but the one that makes it an owner now, and
    /// also in places before those of what it had said of members.
    fn forge(&mut self, peer: usize) {
        let (env, net, mesh) = (&mut self.env, &mut self.net, &mut self.mesh);
        let (id, stolen) = (mesh.peers[peer].id, mesh.peers[peer].stolen);
        // A thief reads along at somebody.
        let reads = if stolen { mesh.peers.iter().position(|sim| sim.node.is_some()) } else { Some(peer) };
        let Some(reads) = reads else { return };
        let Some(node) = mesh.peers[reads].node.as_ref() else { return };
        let present = node.grant_of(&id).filter(|_| node.tier(&id) == Some(Tier::Owner));
        if present.is_some() && !stolen {
            return;
        }
        let rows = mesh.peers[reads].disk.scan(Space::Trust, vec![], vec![255; 33]);
        let entries: Vec<_> = rows.filter_map(|(_, value)| SignedEntry::from_stored(value)).collect();
        let about = entries.iter().filter_map(|entry| Some((entry.hash, entry.record::<MembershipChange>()?)));
        let about = about.filter(|(_, change)| change.subject.peer_id() == id);
        let grants: Vec<_> = about.map(|(hash, _)| hash).collect();
        let now = Now { mono_ms: env.now / MS, wall_ms: env.now / MS };
        let mut forger = Author::new(mesh.peers[peer].key.clone(), node.view().mesh, now);
        forger.incarnation = Incarnation(u32::MAX - u32::try_from(env.now % 1_000_000).unwrap_or(0));
        let last = entries.iter().filter(|entry| stolen && entry.author == id && entry.entry.seq > 1);
        let last = last.map(|entry| (entry.entry.incarnation, entry.entry.seq)).max();
        let victim = mesh.peers[usize::from(peer == 0)].key.public_key();
        let sybil = Key::new(1_000_000 + peer as u64, false).public_key();
        let approved = |tier| ChangeKind::Approved {
            tier,
            node_id: NodeId::slug("sybil"),
            after: grants.clone(),
            unseen: false,
            stay: None,
            of: None,
        };
        let said = [
            (sybil, approved(Tier::Owner)),
            (forger.public_key(), approved(Tier::Owner)),
            (victim, approved(Tier::Shared)),
            (victim, ChangeKind::Revoked { cutoffs: Vec::new(), left: false, unsaid: false }),
        ];
        // Whom it lets in is judged before it says anything against those who might object.
        let mut frames = Vec::new();
        for (subject, what) in said {
            let mut entries = Vec::new();
            for grant in grants.iter().filter(|grant| Some(**grant) != present) {
                let what = what.clone();
                let change = MembershipChange {
                    subject,
                    grant: *grant,
                    stands: Vec::new(),
                    rights: Vec::new(),
                    fence: u64::MAX,
                    what,
                };
                let earlier = last.map(|(incarnation, seq)| {
                    let mut forger = Author { incarnation, seq: seq - 2, ..forger.clone() };
                    forger.says(Kind::MEMBERSHIP, encode(&change))
                });
                let entry = forger.says(Kind::MEMBERSHIP, encode(&change));
                entries.extend(earlier.into_iter().chain([entry]).map(|entry| EntryItem { entry, left_ms: None }));
            }
            frames.push(entries);
        }
        env.story(|| {
            format!("p{peer} speaks on as an owner in {} changes", frames.iter().map(Vec::len).sum::<usize>())
        });
        mesh.peers[peer].forged = true;
        for to in (0..mesh.peers.len()).filter(|to| *to != peer) {
            for entries in frames.clone() {
                mesh.input(env, net, to, Input::Recv(id, Frame::Entries { entries, more: false }));
            }
        }
    }

    /// The key of a stolen device that is no owner's any more claims three epochs that nobody knew when it was one, each
    /// higher than the last. The first may be believed, since whoever shows it may have followed it; no other.
    fn claim_on(&mut self, peer: usize) {
        let (env, net, mesh) = (&mut self.env, &mut self.net, &mut self.mesh);
        let id = mesh.peers[peer].id;
        if !mesh.peers[peer].stolen {
            return;
        }
        let fences = mesh.peers.iter().filter_map(|sim| Some(sim.node.as_ref()?.view().fence.counter));
        let known = fences.max().unwrap_or(0);
        let key = mesh.peers[peer].key.clone();
        for to in (0..mesh.peers.len()).filter(|to| *to != peer) {
            let view = mesh.peers[to].node.as_ref().filter(|node| node.tier(&id) != Some(Tier::Owner)).map(Node::view);
            let Some(view) = view.filter(|_| mesh.peers[to].awake()) else { continue };
            for above in [1_000, 2_000, 3_000] {
                let epoch = Epoch { counter: known + above, class: 12, peer: id };
                let claim = Claim::sign(&key, view.mesh, epoch, 1);
                mesh.input(env, net, to, Input::Recv(id, Frame::Notice(claim)));
                let fence = mesh.peers[to].node.as_ref().map(|node| node.view().fence);
                if above > 1_000 && fence == Some(epoch) {
                    mesh.checks.fail("ended-authority-has-no-effect", env.now, || {
                        format!("p{to} believes one claim of p{peer} after the other, which is no owner any more")
                    });
                }
            }
        }
    }

    /// An owner lets sybils in, each of which says as much as an author ever could that rests on nothing.
    fn fill(&mut self, peer: usize) {
        let (env, net, mesh) = (&mut self.env, &mut self.net, &mut self.mesh);
        let id = mesh.peers[peer].id;
        let Some(node) = mesh.peers[peer].node.as_ref() else { return };
        let Some(grant) = node.grant_of(&id) else { return };
        let (mesh_id, now) = (node.view().mesh, Now { mono_ms: env.now / MS, wall_ms: env.now / MS });
        let approved = |name, tier| ChangeKind::Approved {
            tier,
            node_id: NodeId::slug(name),
            after: Vec::new(),
            unseen: false,
            stay: None,
            of: None,
        };
        let says = |by: &mut Author<Key>, subject, grant, what| {
            let change = MembershipChange { subject, grant, stands: Vec::new(), rights: Vec::new(), fence: 0, what };
            EntryItem { entry: by.says(Kind::MEMBERSHIP, encode(&change)), left_ms: None }
        };
        let mut owner = Author::new(mesh.peers[peer].key.clone(), mesh_id, now);
        owner.incarnation = Incarnation(u32::MAX - u32::try_from(env.now % 1_000_000).unwrap_or(0));
        let sybils = (0..20).map(|n| Key::new(2_000_000 + 100 * peer as u64 + n, false));
        let sybils: Vec<_> = sybils.map(|key| (key.public_key(), Author::new(key, mesh_id, now))).collect();
        let mut frames = vec![Vec::new()];
        for (key, _) in &sybils {
            frames[0].push(says(&mut owner, *key, grant, approved("sybil", Tier::Owner)));
        }
        for (key, mut sybil) in sybils {
            let said = (0..64).map(|_| says(&mut sybil, key, Hash([9; 32]), approved("stray", Tier::Shared)));
            frames.push(said.collect());
        }
        env.story(|| format!("p{peer} fills everyone with what counts for nothing"));
        for to in (0..mesh.peers.len()).filter(|to| *to != peer) {
            for entries in frames.clone() {
                mesh.input(env, net, to, Input::Recv(id, Frame::Entries { entries, more: false }));
            }
        }
    }

    /// Power fails and the last backup is played back. What the peer had promised since is lost: what it obeyed, forgot
    /// and told before is not held against its new incarnation, and receipts that it gave since are void. Where its own
    /// store does not tell it, something is promised only if the others can, and no call was in hand (README, what is
    /// assumed); else the plan is not carried out.
    fn restore(&mut self, peer: usize, down_us: u64, unnoticed: bool) {
        let Self { env, net, mesh, .. } = self;
        if mesh.peers[peer].state != State::Running {
            return;
        }
        let Some((since, backup)) = mesh.peers[peer].backup.take() else { return };
        if unnoticed
            && (node::is_in_hand(&backup, mesh.peers[peer].id) || !others_received(mesh, peer, since, self.split_at))
        {
            return;
        }
        mesh.crash(env, net, peer, down_us);
        if unnoticed {
            retract(mesh, peer, &backup);
        }
        let sim = &mut mesh.peers[peer];
        sim.disk.restore(&backup);
        sim.rolled_back = !unnoticed;
        mesh.checks.rolled_back(peer, sim.id, &sim.disk);
        mesh.calls.void_but(peer, &mesh.checks.told[peer]);
    }

    // --- Phases ---------------------------------------------------------------------------------------------------

    fn enter(&mut self, phase: Phase) {
        let Self { env, net, mesh, .. } = self;
        env.story(|| format!("== {phase:?}"));
        env.moment(|| Moment::Phase(format!("{phase:?}")));
        mesh.liveness.enter(phase, env.now);
        match phase {
            Phase::Setup => {}
            Phase::Faults => {
                self.faults_at = env.now;
                net.sparse_holds = true;
                reconnect(env, net, mesh);
                for index in 0..mesh.plan.faults.len() {
                    env.at(mesh.plan.faults[index].0, Event::Fault(index));
                }
                for index in 0..mesh.plan.asks.len() {
                    env.at(mesh.plan.asks[index].0, Event::Ask(index));
                }
                for peer in 0..mesh.peers.len() {
                    if mesh.peers[peer].state == State::Absent && mesh.peers[peer].plan.join_at < NEVER {
                        env.at(mesh.peers[peer].plan.join_at, Event::Join(peer));
                    }
                }
                env.at(mesh.plan.faults_us, Event::Phase(Phase::Quiet));
            }
            Phase::Quiet => {
                self.calm();
                self.env.at(QUIET_US, Event::Phase(Phase::Healed));
            }
            Phase::Healed => {
                net.split.clear();
                net.sparse_holds = false;
                for pair in net.pairs.values_mut() {
                    pair.single = [false; 2];
                }
                reconnect(env, net, mesh);
            }
            Phase::LinkCut => self.cut_one_link(),
            Phase::End => mesh.calls.count_endings(&mesh.peers, &mesh.checks, &mut mesh.stats),
        }
    }

    /// Nothing goes wrong any more; everyone is awake.
    fn calm(&mut self) {
        let Self { env, net, mesh, .. } = self;
        net.loss = 0;
        for pair in net.pairs.values_mut() {
            pair.loss = [0; 2];
        }
        for peer in 0..mesh.peers.len() {
            mesh.peers[peer].armed = None;
            mesh.peers[peer].stall_us = 0;
            mesh.peers[peer].full_until = 0;
            mesh.thaw(env, net, peer);
            if mesh.peers[peer].state == State::Down {
                let delay = env.dice.range(0..=100 * MS);
                env.at(delay, Event::Boot(peer));
            }
        }
    }

    /// Looked at now and then: deadlines of the liveness predicates, and whether the phase is over.
    fn look(&mut self) {
        let Self { env, net, mesh, .. } = self;
        env.at(250 * MS, Event::Look);
        for sim in mesh.peers.iter() {
            if let Some(node) = &sim.node {
                mesh.checks.queue_within_limit(env.now, sim.index, sim.id, node.open_calls(), &sim.config);
                if mesh.plan.small_budgets && !sim.plan.floods {
                    let seen = (&node.view(), &node.usage());
                    let floods = |peer: &PeerId| mesh.peers.iter().any(|other| other.id == *peer && other.plan.floods);
                    mesh.checks.budgets_hold(env.now, sim.index, seen, floods, &sim.config);
                }
            }
        }
        mesh.liveness.look(env.now, &mut mesh.stats);
        let now = env.now;
        for (at, (a, b)) in std::mem::take(&mut net.dropped) {
            mesh.checks
                .fail("a-second-relay-takes-over", at, || format!("p{a} and p{b} lose their link with their relay"));
        }
        mesh.liveness.relayed_where_it_can_be(now, &mesh.peers, net, &mut mesh.checks);
        if mesh.governed {
            mesh.statements.same_words_same_rights(now, &mesh.peers, &mut mesh.checks);
            mesh.statements.edit_arrives(now, &mesh.peers, net, &mut mesh.checks);
            mesh.statements.only_owners_say(now, &mesh.peers, &mesh.plan, &mut mesh.checks);
        }
        let since = now - mesh.liveness.phase_at;
        match mesh.liveness.phase {
            Phase::Setup => {
                let here = mesh.peers.iter().all(|sim| sim.plan.join_at > 0 || sim.state == State::Running);
                let linked = net.pairs.iter().all(|(key, pair)| {
                    pair.view[0] != 0
                        || mesh.peers[key.0].state != State::Running
                        || mesh.peers[key.1].state != State::Running
                });
                if here && linked && mesh.liveness.settled_for(500 * MS, now) {
                    self.enter(Phase::Faults);
                } else if since > SETUP_US + mesh.peers.len() as u64 * 300 * MS {
                    let beliefs = beliefs(&mesh.peers, net);
                    mesh.checks.fail("setup", now, || format!("not all joined, linked and settled: {beliefs}"));
                }
            }
            Phase::Quiet | Phase::Healed => {
                if mesh.liveness.is_overdue(now) {
                    let beliefs = beliefs(&mesh.peers, net);
                    mesh.checks.fail("one-gateway-for-all", now, || format!("not settled: {beliefs}"));
                }
                if mesh.liveness.phase == Phase::Healed {
                    if mesh.liveness.settled_for(2 * SECOND, now) {
                        mesh.rights.look(now, &mesh.peers, &mesh.plan, &mut mesh.checks);
                    }
                    self.look_at_calls();
                }
            }
            Phase::LinkCut => {
                if since > L2_CUT_US {
                    self.enter(Phase::End);
                }
            }
            Phase::Faults | Phase::End => {}
        }
    }

    /// After the healing: do all calls end, and once they have, do all books and logs agree?
    fn look_at_calls(&mut self) {
        let Mesh { plan, peers, calls, liveness, checks, .. } = &mut self.mesh;
        let now = self.env.now;
        calls.accepted_calls_end(now, liveness.phase_at, peers, plan, checks);
        let settled = liveness.settled_for(SECOND, now);
        let asked = now >= self.faults_at + plan.faults_us + 3 * SECOND + QUIET_US;
        let told = calls.all_over_for(2 * SECOND, now);
        if told && settled && asked && now - liveness.phase_at >= HEALED_US {
            calls.books_agree(now, peers, plan, checks);
            logs_agree(now, peers, checks);
            self.enter(Phase::LinkCut);
        }
    }

    /// **one-cut-moves-nothing** cutting one link of a connected component does not change the gateway: the link is cut
    /// here, and every change of belief judged where it happens (`gateway_changed` of the mesh).
    fn cut_one_link(&mut self) {
        let Self { env, net, mesh, .. } = self;
        let members: Vec<usize> = (0..mesh.peers.len()).filter(|peer| mesh.peers[*peer].is_member()).collect();
        let whole = members
            .iter()
            .all(|a| members.iter().all(|b| a == b || (mesh.peers.trusts(*a, *b) && net.sees_link(*a, *b))));
        if members.len() < 3 || !whole {
            self.enter(Phase::End);
            return;
        }
        mesh.liveness.kept = mesh.peers[members[0]].gateway;
        // The links to the gateway are the ones that matter.
        let leader =
            mesh.liveness.kept.and_then(|epoch| mesh.peers.index_of(&epoch.peer)).filter(|_| env.dice.chance(800));
        let a = leader.unwrap_or(members[0]);
        let others: Vec<usize> = members.into_iter().filter(|peer| *peer != a).collect();
        let b = env.dice.pick(&others);
        let (key, _) = pair_of(a, b);
        env.story(|| format!("-- one-cut-moves-nothing: cut p{a}-p{b}"));
        net.pairs.of(key).single = [true; 2];
        reconnect(env, net, mesh);
    }
}

/// Cuts and joins pairs as the plan has it now.
fn reconnect(env: &mut Env, net: &mut Network, mesh: &mut Mesh) {
    if net.refresh_cuts(env) {
        mesh.liveness.unsettle();
    }
}

/// True if all that ran at a peer since its backup began long enough before it was alone for the others to hear of it.
fn others_received(mesh: &Mesh, peer: usize, since: u64, split_at: u64) -> bool {
    let runs = mesh.checks.runs.values().filter(|run| run.peer == peer && run.at >= since);
    runs.map(|run| run.at).all(|at| at + RECEIVED_US <= split_at)
}

/// Forgets all that a peer signed since its backup and no other disk holds: it was never said.
fn retract(mesh: &mut Mesh, peer: usize, backup: &Snapshot) {
    let Mesh { peers, checks, .. } = mesh;
    let kept: BTreeSet<&[u8]> = backup.keys(Space::Log).collect();
    for (key, value) in peers[peer].disk.logs_of(&peers[peer].id) {
        let elsewhere = |sim: &Sim| sim.index != peer && sim.disk.applied(Space::Log, key).is_some();
        if !kept.contains(key) && !peers.iter().any(elsewhere) {
            checks.never_said(key, value);
        }
    }
}
