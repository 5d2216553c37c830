//! The peers as their shells drive them: inputs in, outputs out, disk, tools, replies; and their life cycle:
//! founding, joining, starting, stopping, crashing, freezing.

use std::collections::BTreeMap;

use mesh_core::crypto::Signer;
use mesh_core::epoch::Epoch;
use mesh_core::frame::{Answer, AnswerKind, Frame};
use mesh_core::ids::{Attempt, Hash, Incarnation, NodeId, PeerId, ReqId};
use mesh_core::io::{
    Batch, CallState, CmdId, Command, Fact, Input, Invocation, LogReader, Output, Reply, Space, ToolOutcome, TxnId,
    Welcome,
};
use mesh_core::record::{Effect, Ending, Payload, Tier};

use super::calls::{Accepted, Calls};
use super::commands::{Commands, Purpose};
use super::liveness::Liveness;
use super::peer::{Peers, State};
use super::rights::{self, Rights};
use super::statements::Statements;
use super::stats::Stats;
use crate::dice::Dice;
use crate::env::Env;
use crate::event::{Event, Phase};
use crate::network::{Hosts, Network, pair_of};
use crate::node::{self, Node};
use crate::plan::{Case, Fault, MS, Near, Plan, SECOND};
use crate::predicates::{Checks, output_of};
use crate::trace::{Being, Moment};

/// All peers, and what is known and judged of them.
pub(super) struct Mesh {
    pub(super) plan: Plan,
    /// Somebody says who may do what.
    pub(super) governed: bool,
    pub(super) peers: Peers,
    pub(super) commands: Commands,
    pub(super) calls: Calls,
    pub(super) liveness: Liveness,
    pub(super) checks: Checks,
    pub(super) stats: Stats,
    pub(super) rights: Rights,
    pub(super) statements: Statements,
    /// Secrets of invites, by newcomer.
    invited: BTreeMap<usize, Hash>,
    /// Longest time that a frame or a frozen peer was on its way, for runs-only-when-allowed's time.
    slack_us: u64,
    /// Spare room for the outputs of a step.
    out: Vec<Output>,
}

impl Hosts for Mesh {
    fn id(&self, peer: usize) -> PeerId {
        self.peers[peer].id
    }

    fn index_of(&self, id: &PeerId) -> Option<usize> {
        self.peers.index_of(id)
    }

    fn is_running(&self, peer: usize) -> bool {
        self.peers[peer].state == State::Running
    }

    fn is_awake(&self, peer: usize) -> bool {
        self.peers[peer].awake()
    }

    fn frozen_until(&self, peer: usize) -> Option<u64> {
        let sim = &self.peers[peer];
        sim.frozen().then_some(sim.frozen_until)
    }

    fn relays(&self, peer: usize, other: usize) -> Vec<usize> {
        let view = self.peers[peer].node.as_ref().map(Node::view);
        let relays = view.and_then(|view| view.relays.get(&self.peers[other].id).cloned()).unwrap_or_default();
        relays.iter().filter_map(|relay| self.peers.index_of(relay)).collect()
    }

    fn is_owner(&self, peer: usize, other: usize) -> bool {
        let view = self.peers[peer].node.as_ref().map(Node::view);
        view.and_then(|view| view.by_peer(&self.peers[other].id).map(|node| node.tier == Tier::Owner)).unwrap_or(false)
    }

    fn trusts(&self, peer: usize, other: usize) -> bool {
        self.peers.trusts(peer, other)
    }

    fn gateway(&self, peer: usize) -> Option<Epoch> {
        self.peers[peer].gateway
    }

    fn input(&mut self, env: &mut Env, network: &mut Network, peer: usize, input: Input) {
        self.input(env, network, peer, input);
    }

    fn receive(&mut self, env: &mut Env, network: &mut Network, from: usize, to: usize, frame: Frame) {
        env.detail(|| format!("p{to} <- p{from} {frame:?}"));
        if !self.peers[to].key.all_hold(&frame) {
            self.checks.fail("signature", env.now, || format!("p{from} sends p{to} what does not verify: {frame:?}"));
        }
        let id = self.peers[from].id;
        self.input(env, network, to, Input::Recv(id, frame));
    }
}

impl Mesh {
    pub(super) fn new(case: &Case, dice: &mut Dice) -> Self {
        let plan = case.plan.clone();
        let peers = Peers::new(case, dice);
        let ids = peers.iter().map(|sim| sim.id).collect();
        Self {
            peers,
            commands: Commands::default(),
            calls: Calls::default(),
            liveness: Liveness::new(plan.handovers),
            checks: Checks::new(ids, plan.keep_entries_ms.map(|ms| ms * MS)),
            stats: Stats::default(),
            rights: Rights::default(),
            statements: Statements::default(),
            invited: BTreeMap::new(),
            slack_us: 0,
            out: Vec::new(),
            governed: plan.is_governed(),
            plan,
        }
    }

    /// Hands an input to a peer's core, at once or when it thaws.
    pub(super) fn input(&mut self, env: &mut Env, net: &mut Network, peer: usize, input: Input) {
        if self.peers[peer].state != State::Running {
            return;
        }
        if self.peers[peer].frozen() && !self.peers[peer].thawing {
            self.peers[peer].held.push(input);
            return;
        }
        let now = self.peers[peer].clocks(env.now);
        self.peers[peer].trusted_before.clear();
        self.peers[peer].owners_before.clear();
        if self.governed {
            let sim = &mut self.peers[peer];
            let (rights, said) = sim.node.as_ref().map(Node::rights).unzip();
            (sim.rights_before, sim.said_before) = (rights, said.unwrap_or_default());
        }
        if self.peers[peer].node.is_none() {
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        let is_call = self.governed && matches!(input, Input::Command(_, Command::Call(_)));
        let own_before = is_call.then(|| Rights::unsaid_of(&self.peers[peer], &self.checks));
        // What an excluded peer sends is not even received.
        if let Input::Recv(from, Frame::Dispatch(dispatch)) = &input
            && self.peers[peer].trusted.contains(from)
        {
            self.checks.dispatched(self.peers[peer].own_now(env.now), peer, dispatch, &self.peers[peer].disk);
        }
        if !matches!(input, Input::Recv(..)) {
            env.detail(|| format!("p{peer} :: {input:?}"));
        }
        if let Some(node) = &mut self.peers[peer].node {
            node.step(now, &mut env.dice, input, &mut out);
        }
        if self.governed {
            let sim = &self.peers[peer];
            self.statements.note_step(env.now, sim, &mut self.checks);
            if let Some(before) = own_before {
                Rights::accepted_by_right(env.now, sim, &before, &self.statements, &mut self.checks);
            }
        }
        self.outputs(env, net, peer, &mut out);
        self.out = out;
        self.peers[peer].set_timer(env);
    }

    pub(super) fn wake(&mut self, env: &mut Env, net: &mut Network, peer: usize, boot: u64, at: u64) {
        let sim = &mut self.peers[peer];
        if sim.boot != boot || sim.wake_at != Some(at) || !sim.awake() {
            return;
        }
        sim.wake_at = None;
        if sim.is_due(env.now) {
            self.input(env, net, peer, Input::Wake);
            let sim = &mut self.peers[peer];
            sim.spins = if sim.is_due(env.now) { sim.spins + 1 } else { 0 };
            if sim.spins > 50 {
                self.checks.fail("spin", env.now, || format!("p{peer} asks to be woken at once, again and again"));
            }
        } else {
            sim.set_timer(env);
        }
    }

    fn outputs(&mut self, env: &mut Env, net: &mut Network, peer: usize, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Send(to, frame) => self.send_out(env, net, peer, &to, frame),
                Output::Commit(txn, batch) => self.commit(env, peer, txn, batch),
                Output::ReadLog { reader, ranges } => {
                    let input = self.read_log(peer, reader, &ranges);
                    let delay = env.dice.range(20..=1_000);
                    self.peers[peer].input_later(env, delay, input);
                }
                Output::ReadClosed { first, last } => {
                    let (calls, more) = self.peers[peer].disk.read_closed(&first, &last);
                    let delay = env.dice.range(20..=1_000);
                    self.peers[peer].input_later(env, delay, Input::ClosedRead { calls, more });
                }
                Output::Invoke(invocation) => self.invoke(env, peer, &invocation),
                Output::Kill(id, attempt) => {
                    if self.peers[peer].tools.contains(&(id, attempt)) {
                        let boot = self.peers[peer].boot;
                        let delay = env.dice.range(0..=20 * MS);
                        env.at(delay, Event::ToolDone { peer, boot, id, attempt, ending: Ending::Cancelled });
                    }
                }
                Output::Fetch { hash, from, .. } => {
                    let delay = env.dice.range(MS..=100 * MS);
                    let has = from.iter().filter_map(|id| self.peers.index_of(id)).find(|other| {
                        net.sees_link(peer, *other)
                            && self.peers[*other].awake()
                            && self.peers[*other].blobs.contains(&hash)
                    });
                    let input = if has.is_some() || self.peers[peer].blobs.contains(&hash) {
                        self.peers[peer].blobs.insert(hash);
                        Input::Fetched(hash)
                    } else {
                        Input::FetchFailed(hash)
                    };
                    self.peers[peer].input_later(env, delay, input);
                }
                Output::Reply(cmd, reply) => self.reply(env, net, peer, cmd, reply),
                Output::Fact(fact) => self.fact(env, net, peer, fact),
            }
        }
    }

    fn send_out(&mut self, env: &mut Env, net: &mut Network, peer: usize, to: &PeerId, frame: Frame) {
        let Some(to_index) = self.peers.index_of(to) else { return };
        env.detail(|| format!("p{peer} -> p{to_index} {frame:?}"));
        if let Frame::Dispatch(dispatch) = &frame {
            if self.governed {
                Rights::sent_by_right(env.now, &self.peers[peer], dispatch, &mut self.checks);
            }
            // One frame may bring a call and, after it, the revocation of its target.
            let trusted = self.peers.trusts(peer, to_index) || self.peers[peer].trusted_before.contains(to);
            self.checks.dispatches_to_members_only(env.now, peer, to_index, trusted);
        }
        if let Frame::Answer(Answer { id, what: AnswerKind::Waiting | AnswerKind::Lacking, .. }) = &frame
            && self.governed
        {
            Rights::taken_by_right(env.now, &self.peers[peer], *id, &mut self.checks);
        }
        if let Frame::Answer(answer) = &frame
            && matches!(
                answer.what,
                AnswerKind::Fenced(_) | AnswerKind::Rejected(_) | AnswerKind::Running { .. } | AnswerKind::Ended(_)
            )
        {
            self.checks.not_obeyed(peer, answer.id, answer.attempt, *to);
        }
        // As with dispatches: it may have been one until the end of this very step.
        let sim = &self.peers[peer];
        let is_owner = || sim.node.as_ref().and_then(|node| node.tier(to)) == Some(Tier::Owner);
        let owner = || sim.owners.contains(to) || sim.owners_before.contains(to) || is_owner();
        self.checks.bodies_stay_inside(env.now, peer, to, owner, &frame);
        net.send(env, peer, to_index, frame);
    }

    fn commit(&mut self, env: &mut Env, peer: usize, txn: TxnId, batch: Batch) {
        env.detail(|| {
            let rows: Vec<&str> = batch.writes.iter().map(|write| write.space.name()).collect();
            format!("p{peer} commits {txn} sync={} {rows:?}", batch.sync)
        });
        if self.peers[peer].full_until > env.now {
            // A write that fails is the end of the process, and a new one reads what is really there.
            env.story(|| format!("p{peer}'s disk is full"));
            let (boot, down_us) = (self.peers[peer].boot, self.peers[peer].full_until - env.now);
            env.at(0, Event::Crash { peer, boot, down_us });
            return;
        }
        for (id, attempt) in batch.writes.iter().filter_map(node::started) {
            let origin = self.peers.iter().find(|origin| id.is_of(&origin.id));
            if let Some(origin) = origin.filter(|_| attempt == 1) {
                let for_owner = self.peers[peer].holds_for_owner(&origin.id);
                self.checks.starts(id, for_owner);
            }
        }
        let waited = batch.sync;
        let changes = batch.writes.iter().any(|write| write.space == Space::Trust);
        self.peers[peer].disk.commit(txn, batch);
        if changes {
            let sim = &self.peers[peer];
            let tier = |id: &PeerId| Some((*id, sim.node.as_ref()?.tier(id)?));
            let members = sim.trusted.iter().filter_map(tier).collect();
            self.checks.revocation_not_undone(env.now, peer, &members, &sim.disk);
        }
        self.peers[peer].begin_sync(env);
        if waited {
            self.armed(env, peer, Near::Commit);
        }
    }

    pub(super) fn synced(&mut self, env: &mut Env, net: &mut Network, peer: usize, boot: u64, txn: TxnId) {
        if self.peers[peer].boot != boot || self.peers[peer].disk.syncing != Some(txn) {
            return;
        }
        let batches = self.peers[peer].disk.end_sync(txn);
        self.peers[peer].rolled_back = false;
        self.note_durable(env.now, peer, &batches);
        self.input(env, net, peer, Input::Durable(txn));
        self.peers[peer].begin_sync(env);
        self.armed(env, peer, Near::Durable);
    }

    fn note_durable(&mut self, now: u64, peer: usize, batches: &[Batch]) {
        for batch in batches {
            self.checks.on_durable(now, peer, batch, &self.peers[peer].disk);
        }
    }

    fn read_log(&self, peer: usize, reader: LogReader, ranges: &[(PeerId, Incarnation, u64, u64)]) -> Input {
        let read = |key: &[u8], value: &bytes::Bytes| self.checks.entry_of(key, value);
        let (entries, more) = self.peers[peer].disk.read_log_by(ranges, read);
        Input::LogRead { reader, entries, more }
    }

    // --- Tools ----------------------------------------------------------------------------------------------------

    fn invoke(&mut self, env: &mut Env, peer: usize, invocation: &Invocation) {
        let (id, attempt) = (invocation.id, invocation.attempt);
        env.moment(|| Moment::Runs(peer));
        env.story(|| format!("p{peer} RUNS {id} attempt {attempt} {}", invocation.header.tool));
        let origin = self.peers.index_of(&invocation.origin);
        let node = self.peers[peer].node.as_ref();
        let revoked = node.is_some_and(Node::is_revoked);
        let tier = node.and_then(|node| node.tier(&invocation.origin));
        let own = self.peers[peer].own_now(env.now);
        let sim = &self.peers[peer];
        let (checks, now) = (&mut self.checks, env.now);
        checks.started_is_durable_and_origin_approved(now, peer, invocation, &sim.disk, origin, tier.is_some());
        checks.origin_of_sufficient_tier(now, peer, invocation, tier);
        checks.revoked_invokes_nothing(now, peer, revoked, id);
        checks.nothing_cancelled_runs(now, peer, id);
        checks.running_within_limit(now, peer, sim.tools.len() + 1, &sim.config);
        if !self.plan.wall_jumps && !self.plan.drifts() && self.slack_us == 0 {
            checks.nothing_runs_that_was_reported_expired(now, peer, id);
        }
        checks.time_is_left(now, own, peer, id, attempt);
        checks.obeyed_epochs_never_decrease(now, peer, id, attempt, &sim.disk);
        checks.nothing_runs_after_its_ending(now, peer, id, attempt);
        checks.nothing_forgotten_runs(now, peer, id);
        self.rights.runs_by_right(now, sim, invocation, &self.statements, checks);
        checks.at_most_one_run(now, peer, id, attempt);
        if attempt == 1 {
            checks.one_run_per_client_key(now, peer, invocation);
        }
        if invocation.header.target != sim.id || origin.is_none() {
            checks.fail("runs-only-when-allowed", now, || format!("{id} runs at p{peer}, which is not its target"));
        }
        if attempt > 1 && invocation.header.effect == Effect::Once {
            checks.fail("at-most-one-run", now, || format!("{id}, a call to run once, gets attempt {attempt}"));
        }
        self.not_long_after_its_time(env.now, peer, id);
        if let Payload::Blob { hash, .. } = &invocation.header.arguments
            && !self.peers[peer].blobs.contains(hash)
        {
            self.checks.fail("blob", now, || format!("{id} runs at p{peer} without its arguments"));
        }
        self.peers[peer].tools.insert((id, attempt));
        let runs_for = match invocation.header.tool.as_str() {
            "look" => env.dice.range(0..=20 * MS),
            "put" => env.dice.range(0..=300 * MS),
            _ => env.dice.range(0..=2_500 * MS),
        };
        let ending = if env.dice.chance(60) { Ending::Failed } else { Ending::Done };
        let boot = self.peers[peer].boot;
        if env.dice.chance(300) {
            self.peers[peer].input_later(env, runs_for / 2, Input::ToolProgress(id, attempt, "half".into()));
        }
        env.at(runs_for, Event::ToolDone { peer, boot, id, attempt, ending });
        self.armed(env, peer, Near::Invoke);
    }

    /// **expired-never-runs**, coarsely: no call starts long after its time as its origin counted it. Each hop may add
    /// what the frame was on its way; a restart under a wall clock that jumps may add the time away.
    fn not_long_after_its_time(&mut self, now: u64, peer: usize, id: ReqId) {
        let Some(known) = self.checks.known.get(&id) else { return };
        let Some(origin) = self.peers.index_of(&known.origin) else { return };
        let ttl_us = known.header.ttl_ms * MS;
        let Some(accepted) = self.calls.get(&id) else { return };
        // With durations beyond their bound a call may start late, until its target's outcome replaces that.
        if self.plan.wall_jumps || self.plan.drifts() || accepted.origin != origin {
            return;
        }
        let late = now.saturating_sub(accepted.at + ttl_us);
        if late > self.slack_us + 3 * SECOND {
            self.checks
                .fail("expired-never-runs", now, || format!("{id} starts at p{peer} {} ms after its time", late / MS));
        }
    }

    pub(super) fn tool_done(
        &mut self,
        env: &mut Env,
        net: &mut Network,
        peer: usize,
        boot: u64,
        (id, attempt): (ReqId, Attempt),
        ending: Ending,
    ) {
        if self.peers[peer].boot != boot || !self.peers[peer].tools.contains(&(id, attempt)) {
            return;
        }
        if self.peers[peer].frozen() {
            let delay = self.peers[peer].frozen_until.saturating_sub(env.now) + env.dice.range(0..=10 * MS);
            env.at(delay, Event::ToolDone { peer, boot, id, attempt, ending });
            return;
        }
        self.peers[peer].tools.remove(&(id, attempt));
        if let Some(run) = self.checks.runs.get_mut(&(id, attempt)) {
            run.ended = Some(ending);
        }
        let said = output_of(&id, attempt);
        let output = if env.dice.chance(80) {
            self.peers[peer].blobs.insert(Hash::of(&said));
            Payload::Blob { hash: Hash::of(&said), len: said.len() as u64 }
        } else {
            Payload::Inline(said)
        };
        let reason = if ending == Ending::Done { String::new() } else { "it did not work".into() };
        let outcome = ToolOutcome { ending, reason, output, parts: Vec::new(), partial: false, error: String::new() };
        env.story(|| format!("p{peer}'s run of {id} attempt {attempt} ends {}", ending.as_str()));
        self.input(env, net, peer, Input::ToolEnded(id, attempt, outcome));
        self.armed(env, peer, Near::Ended);
    }

    // --- Facts and replies ----------------------------------------------------------------------------------------

    fn fact(&mut self, env: &mut Env, net: &mut Network, peer: usize, fact: Fact) {
        match fact {
            Fact::Gateway(epoch) => self.gateway_changed(env, net, peer, epoch),
            Fact::Trust => {
                self.refresh_trust(peer);
                let boot = self.peers[peer].boot;
                let delay = env.dice.range(MS..=150 * MS);
                env.at(delay, Event::CloseUntrusted { peer, boot });
            }
            Fact::Revoked => {
                env.story(|| format!("p{peer} holds its own revocation"));
                self.checks.own_revocation_is_durable(env.now, peer);
                self.peers[peer].revoked = true;
                self.liveness.unsettle();
                let boot = self.peers[peer].boot;
                let delay = env.dice.range(0..=2 * SECOND);
                env.at(delay, Event::Crash { peer, boot, down_us: 0 });
            }
            Fact::Call(id, row) => {
                if let CallState::Ended(ending) = row.state
                    && self.calls.get(&id).is_some_and(|accepted| accepted.origin == peer)
                {
                    env.moment(|| Moment::Ended(peer, ending.as_str(), row.confirmed));
                }
                if row.state == CallState::Ended(Ending::Denied) {
                    rights::denied(env.now, &self.peers[peer], &id, &self.plan, &mut self.checks);
                }
                env.story(|| {
                    let by = self.peers.iter().position(|sim| sim.id == row.peer);
                    format!(
                        "p{peer} has {id} {} (attempt {}, by {by:?}, confirmed {}) {}",
                        row.state.as_str(),
                        row.attempt,
                        row.confirmed,
                        row.reason
                    )
                });
            }
            Fact::Warning(text, about) => {
                let about = self.peers.index_of(&about);
                env.story(|| format!("p{peer} warns about {about:?}: {text}"));
            }
            Fact::CallEnded(id) => self.checks.told_ending_is_durable(env.now, peer, id, &self.peers[peer].disk),
            Fact::View => {}
        }
    }

    fn refresh_trust(&mut self, peer: usize) {
        if let Some(node) = &self.peers[peer].node {
            let (trusted, owner) = (node.members().collect(), node.tier(&self.peers[peer].id) == Some(Tier::Owner));
            let owners = node.members().filter(|other| node.tier(other) == Some(Tier::Owner)).collect();
            let sim = &mut self.peers[peer];
            sim.owner = owner;
            // One step may bring several membership changes.
            let mut before = std::mem::replace(&mut sim.trusted, trusted);
            sim.trusted_before.append(&mut before);
            let mut before = std::mem::replace(&mut sim.owners, owners);
            sim.owners_before.append(&mut before);
            self.liveness.unsettle();
        }
    }

    fn gateway_changed(&mut self, env: &mut Env, net: &mut Network, peer: usize, epoch: Option<Epoch>) {
        let me = self.peers[peer].id;
        let led = self.peers[peer].gateway.is_some_and(|epoch| epoch.peer == me);
        let leads = epoch.is_some_and(|epoch| epoch.peer == me);
        let (before, now) = (self.peers[peer].gateway, env.now);
        self.liveness.gateway_stays(now, peer, before, epoch, &mut self.checks);
        self.peers[peer].gateway = epoch;
        self.liveness.unsettle();
        env.story(|| match epoch {
            Some(epoch) => {
                let whom = self.peers.iter().position(|sim| sim.id == epoch.peer);
                format!("p{peer} follows p{} in epoch {} class {}", whom.unwrap_or(99), epoch.counter, epoch.class)
            }
            None => format!("p{peer} follows nobody"),
        });
        env.moment(|| {
            let whom =
                epoch.and_then(|epoch| Some((self.peers.iter().position(|sim| sim.id == epoch.peer)?, epoch.counter)));
            Moment::Follows(peer, whom)
        });
        if let (true, Some(epoch)) = (leads, epoch) {
            let (heir, checks, stats) = (&self.peers[peer], &mut self.checks, &mut self.stats);
            self.liveness.taken_over(now, heir, epoch.class, net, checks, stats);
            self.stats.epochs_led += 1;
            let boot = self.peers[peer].boot;
            self.checks.one_leader_per_epoch(env.now, peer, boot, epoch, &self.peers[peer].disk);
        }
        if led && !leads {
            net.close_sessions(env, peer);
        }
        net.register(env, self, peer);
        self.liveness.gateway_kept(env.now, peer, epoch, &mut self.checks);
    }

    pub(super) fn command(
        &mut self,
        env: &mut Env,
        net: &mut Network,
        peer: usize,
        purpose: Purpose,
        command: Command,
    ) {
        let id = self.commands.add(purpose, env.now);
        self.input(env, net, peer, Input::Command(id, command));
    }

    /// Name of a peer as another knows it.
    pub(super) fn name_of(&self, at: usize, of: usize) -> NodeId {
        let id: PeerId = self.peers[of].id;
        let view = self.peers[at].node.as_ref().map(Node::view);
        let named =
            view.and_then(|view| view.nodes.iter().find(|node| node.peer == id).map(|node| node.node_id.clone()));
        named.unwrap_or_else(|| self.peers.wanted_name(of))
    }

    fn reply(&mut self, env: &mut Env, net: &mut Network, peer: usize, cmd: CmdId, reply: Reply) {
        let Some((purpose, asked_at)) = self.commands.take(cmd) else {
            self.checks.fail("reply", env.now, || format!("p{peer} answers command {cmd} twice"));
            return;
        };
        env.story(|| {
            if let Reply::Approved(welcome) = &reply {
                format!("p{peer} approves {}", welcome.node_id)
            } else {
                format!("p{peer} replies {reply:?}")
            }
        });
        match (purpose, reply) {
            (Purpose::Ask { index, by_owner }, Reply::Call { id, created }) => {
                let origin = self.peers.iter().position(|sim| id.is_of(&sim.id));
                self.checks.receipt_after_durable_header(env.now, peer, origin, id);
                if !created && self.peers[peer].owner == by_owner {
                    let asked = self.plan.asks[index].1.principal.as_deref();
                    // What an owner bound stays owners', whatever became of that one.
                    let shares = origin == Some(peer) || by_owner && !origin.is_some_and(|of| self.plan.never_owns(of));
                    self.checks.keys_are_ones_own(env.now, peer, shares, asked, id);
                }
                // A wall clock that jumps may end a key's time. And whoever's tier has changed since it asked may have had
                // the one or the other when it was answered.
                if let Some(key) = &self.plan.asks[index].1.key
                    && !self.plan.wall_jumps
                    && self.peers[peer].owner == by_owner
                {
                    self.checks.one_receipt_per_client_key(env.now, (peer, by_owner), key, id, created);
                }
                if created {
                    env.moment(|| Moment::Accepted(peer));
                    let sim = &self.peers[peer];
                    if let Some(node) = &sim.node {
                        let open = node.open_calls();
                        self.checks.open_calls_within_limit(env.now, peer, sim.id, &id, open, &sim.config);
                    }
                    self.stats.accepted += 1;
                    let ask = &self.plan.asks[index].1;
                    let waits = sim.node.as_ref().and_then(|node| node.open_call(&id));
                    let (ttl_ms, cancel) =
                        (waits.map_or(ask.ttl_ms, |record| record.header.ttl_ms), ask.cancel_after_us);
                    let timeout_ms = ask.timeout_ms.unwrap_or_default();
                    self.calls.accept(id, Accepted { origin: peer, at: asked_at, ttl_ms, timeout_ms });
                    if let Some(delay) = cancel {
                        env.at(delay, Event::Cancel { peer, id });
                    }
                }
            }
            (Purpose::Answer { call, choice }, Reply::Answered { of }) => {
                self.rights.note_answer((env.now, peer), call, choice, of);
            }
            (Purpose::Unsay { by, peer: of }, Reply::Revoked) => self.rights.note_unsaid(by, of),
            (Purpose::Ask { .. }, Reply::Refused(_)) => self.stats.refused += 1,
            (Purpose::Approve(newcomer) | Purpose::Redeem(newcomer), Reply::Approved(welcome)) => {
                self.welcome(env, net, newcomer, &welcome);
                let (owner, newcomer) = (&self.peers[peer], &self.peers[newcomer]);
                self.statements.newcomers_know(env.now, owner, newcomer, &mut self.checks);
            }
            (Purpose::Invite(newcomer), Reply::Invited) => {
                let (key, node_id) = (self.peers[newcomer].key.public_key(), self.peers.wanted_name(newcomer));
                let secret = self.invited[&newcomer];
                self.input_command_later(
                    env,
                    peer,
                    Purpose::Redeem(newcomer),
                    Command::Redeem { secret, key, node_id },
                );
            }
            (Purpose::Stop(down_us), _) => {
                let boot = self.peers[peer].boot;
                env.at(0, Event::Exit { peer, boot, down_us });
            }
            (Purpose::Leave, Reply::Left) => {
                // The shell would found another mesh; this one sees it no more.
                self.peers[peer].revoked = true;
                self.liveness.unsettle();
                let boot = self.peers[peer].boot;
                env.at(0, Event::Crash { peer, boot, down_us: 0 });
            }
            (
                Purpose::Cancel
                | Purpose::Leave
                | Purpose::Other
                | Purpose::Approve(_)
                | Purpose::Redeem(_)
                | Purpose::Invite(_)
                | Purpose::Answer { .. }
                | Purpose::Unsay { .. }
                | Purpose::Ask { .. },
                _,
            ) => {}
        }
    }

    fn input_command_later(&mut self, env: &mut Env, peer: usize, purpose: Purpose, command: Command) {
        let id = self.commands.add(purpose, env.now);
        let delay = env.dice.range(MS..=50 * MS);
        self.peers[peer].input_later(env, delay, Input::Command(id, command));
    }

    // --- Founding, joining, starting, stopping, crashing, freezing ------------------------------------------------

    pub(super) fn found(&mut self, env: &mut Env, net: &mut Network) {
        let batch =
            node::founded(&self.peers[0].key, &self.peers.wanted_name(0), self.peers[0].clocks(env.now), &mut env.dice);
        self.install(env, net, 0, &batch);
        for peer in 1..self.peers.len() {
            if self.peers[peer].plan.join_at == 0 {
                env.at(peer as u64 * 150 * MS, Event::Join(peer));
            }
        }
        env.at(0, Event::Look);
    }

    fn install(&mut self, env: &mut Env, net: &mut Network, peer: usize, batch: &Batch) {
        self.peers[peer].disk.reset(batch);
        self.note_durable(env.now, peer, std::slice::from_ref(batch));
        self.peers[peer].state = State::Down;
        self.boot(env, net, peer);
    }

    /// A newcomer asks an owner that is there; the first that is up.
    pub(super) fn join(&mut self, env: &mut Env, net: &mut Network, peer: usize) {
        if self.peers[peer].state != State::Absent {
            return;
        }
        let owners: Vec<usize> = (0..self.peers.len())
            .filter(|owner| {
                // Whom a revoked owner approved is another story, told with crossing revocations.
                let doomed = |fault: &Fault| matches!(fault, Fault::Revoke { peer, .. } if peer == owner);
                let sim = &self.peers[*owner];
                sim.awake()
                    && sim.plan.tier == Tier::Owner
                    && (self.plan.crossing || !self.plan.faults.iter().any(|(_, fault)| doomed(fault)))
            })
            .collect();
        env.at(1_500 * MS, Event::Join(peer));
        if owners.is_empty() {
            return;
        }
        let owner = if self.liveness.phase == Phase::Setup { owners[0] } else { env.dice.pick(&owners) };
        let (key, tier) = (self.peers[peer].key.public_key(), self.peers[peer].plan.tier);
        if self.peers[peer].plan.invited {
            let secret = Hash::of(&[peer as u8, self.commands.newest() as u8, 7]);
            self.invited.insert(peer, secret);
            self.command(
                env,
                net,
                owner,
                Purpose::Invite(peer),
                Command::Invite { secret, tier, ttl_ms: 600_000, name: None, stay: None },
            );
        } else {
            let node_id = self.peers.wanted_name(peer);
            self.command(env, net, owner, Purpose::Approve(peer), Command::Approve { key, node_id, tier, stay: None });
        }
    }

    fn welcome(&mut self, env: &mut Env, net: &mut Network, peer: usize, welcome: &Welcome) {
        if self.peers[peer].state != State::Absent {
            return;
        }
        let now = self.peers[peer].clocks(env.now);
        let sim = &self.peers[peer];
        match node::joined(&sim.key, &sim.config, welcome, now, &mut env.dice) {
            Ok(batch) => self.install(env, net, peer, &batch),
            Err(error) => self.checks.fail("join", env.now, || format!("p{peer} cannot join: {error}")),
        }
    }

    pub(super) fn boot(&mut self, env: &mut Env, net: &mut Network, peer: usize) {
        if self.peers[peer].state != State::Down {
            return;
        }
        if self.peers[peer].full_until > env.now {
            // It cannot write that it starts, so it does not.
            env.at(500 * MS, Event::Boot(peer));
            return;
        }
        env.story(|| format!("p{peer} starts"));
        env.moment(|| Moment::Is(peer, Being::Awake));
        let now = self.peers[peer].clocks(env.now);
        let mut out = Vec::new();
        let sim = &mut self.peers[peer];
        sim.boot += 1;
        sim.wake_at = None;
        sim.gateway = None;
        sim.spins = 0;
        sim.stopping = false;
        let mut image = sim.disk.image();
        image.rolled_back = sim.rolled_back;
        match node::boot(&sim.key, sim.config.clone(), image, now, &mut env.dice, &mut out) {
            Ok(node) => sim.node = Some(node),
            Err(error) => {
                self.checks.fail("boot", env.now, || format!("p{peer} does not start: {error}"));
                return;
            }
        }
        sim.state = State::Running;
        sim.booted_at = env.now;
        self.refresh_trust(peer);
        if self.governed {
            let sim = &mut self.peers[peer];
            (sim.said_before, sim.rights_before) = (mesh_core::policy::InForce::default(), None);
            self.statements.note_step(env.now, sim, &mut self.checks);
            Rights::hours_end_at_boot(env.now, sim, &mut self.checks);
        }
        self.outputs(env, net, peer, &mut out);
        self.peers[peer].set_timer(env);
        self.set_directory(env, net, peer);
        net.note_awake(env, peer, true);
        net.dial_all(env, peer);
        self.liveness.unsettle();
    }

    /// The power fails.
    pub(super) fn crash(&mut self, env: &mut Env, net: &mut Network, peer: usize, down_us: u64) {
        if self.peers[peer].state != State::Running {
            return;
        }
        let pending = self.peers[peer].disk.pending();
        let survivors = env.dice.index(pending + 1);
        env.story(|| format!("p{peer} CRASHES, {survivors} of {pending} unsynced batches survive"));
        let batches = self.peers[peer].disk.crash(survivors);
        self.liveness.note_leaving(env.now, peer, false, &self.peers, net);
        self.note_durable(env.now, peer, &batches);
        self.gone(env, net, peer, false, down_us);
        if env.dice.chance(500) {
            // The machine itself went down: its clock of durations starts anew.
            self.peers[peer].mono_ms = env.dice.range(0..=100_000);
        }
    }

    /// The process ended as asked; what it committed is flushed.
    pub(super) fn exit(&mut self, env: &mut Env, net: &mut Network, peer: usize, down_us: u64) {
        if self.peers[peer].state != State::Running {
            return;
        }
        env.story(|| format!("p{peer} has stopped"));
        let pending = self.peers[peer].disk.pending();
        let batches = self.peers[peer].disk.crash(pending);
        self.note_durable(env.now, peer, &batches);
        self.gone(env, net, peer, true, down_us);
    }

    fn gone(&mut self, env: &mut Env, net: &mut Network, peer: usize, clean: bool, down_us: u64) {
        let sim = &mut self.peers[peer];
        sim.node = None;
        sim.state = if sim.revoked { State::Gone } else { State::Down };
        sim.boot += 1;
        sim.frozen_until = 0;
        sim.held.clear();
        sim.tools.clear();
        sim.gateway = None;
        sim.armed = None;
        let gone = sim.state == State::Gone;
        env.moment(|| Moment::Is(peer, if gone { Being::Gone } else { Being::Down }));
        env.moment(|| Moment::Follows(peer, None));
        self.checks.process_gone(peer);
        net.drop_ends(env, peer, clean);
        self.liveness.unsettle();
        if !gone {
            let delay = if self.liveness.phase == Phase::Faults { down_us } else { env.dice.range(0..=100 * MS) };
            env.at(delay, Event::Boot(peer));
        }
    }

    pub(super) fn freeze(&mut self, env: &mut Env, net: &mut Network, peer: usize, for_us: u64) {
        if !self.peers[peer].awake() {
            return;
        }
        env.story(|| format!("p{peer} freezes for {} ms", for_us / MS));
        env.moment(|| Moment::Is(peer, Being::Frozen));
        self.slack_us += for_us;
        self.peers[peer].frozen_until = env.now + for_us;
        let boot = self.peers[peer].boot;
        env.at(for_us, Event::Thaw { peer, boot });
        net.note_awake(env, peer, false);
        for other in (0..self.peers.len()).filter(|other| *other != peer) {
            let (key, end) = pair_of(peer, other);
            let pair = &net.pairs[&key];
            if pair.alive {
                let conn = pair.conn;
                let delay = env.dice.range(1_800 * MS..=2_400 * MS);
                env.at(delay, Event::Detect { key, conn, end: 1 - end });
            }
        }
        self.liveness.unsettle();
    }

    pub(super) fn thaw(&mut self, env: &mut Env, net: &mut Network, peer: usize) {
        if !self.peers[peer].frozen() {
            return;
        }
        env.story(|| format!("p{peer} thaws"));
        env.moment(|| Moment::Is(peer, Being::Awake));
        // The late timer and what waited in the sockets come in either order; only once it is all handed over is the
        // peer awake, so that nothing of now overtakes what came before.
        let wake_first = env.dice.chance(500);
        self.peers[peer].thawing = true;
        if wake_first {
            self.input(env, net, peer, Input::Wake);
        }
        for input in std::mem::take(&mut self.peers[peer].held) {
            self.input(env, net, peer, input);
        }
        self.input(env, net, peer, Input::Wake);
        self.peers[peer].thawing = false;
        self.peers[peer].thaws += 1;
        self.peers[peer].frozen_until = 0;
        self.peers[peer].wake_at = None;
        self.peers[peer].set_timer(env);
        self.peers[peer].begin_sync(env);
        for other in (0..self.peers.len()).filter(|other| *other != peer) {
            let (key, end) = pair_of(peer, other);
            let pair = &net.pairs[&key];
            let conn = pair.conn;
            if pair.view[end] == conn && !pair.alive && conn != 0 {
                let delay = env.dice.range(0..=2_400 * MS);
                env.at(delay, Event::Detect { key, conn, end });
            }
        }
        net.note_awake(env, peer, true);
        net.dial_all(env, peer);
        net.register(env, self, peer);
        self.liveness.unsettle();
    }

    fn armed(&mut self, env: &mut Env, peer: usize, near: Near) {
        if let Some((what, after_us, down_us)) = self.peers[peer].armed
            && what == near
            && self.liveness.phase == Phase::Faults
        {
            self.peers[peer].armed = None;
            let boot = self.peers[peer].boot;
            env.at(after_us, Event::Crash { peer, boot, down_us });
        }
    }
}
