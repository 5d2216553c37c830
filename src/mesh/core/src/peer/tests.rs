//! Whole peers against each other, over a network and a disk that take no time: what becomes of one that is revoked.

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

use std::collections::{BTreeSet, VecDeque};

use super::*;
use crate::crypto::Symbolic;
use crate::entry::Effect;
use crate::entry::Payload;
use crate::entry::{Directory, Ending, ToolDecl};
use crate::incarnations::CLAIMS_LOST_MAX;
use crate::io::CallState;
use crate::io::Command;
use crate::io::NewCall;
use crate::io::Refusal;
use crate::io::ToolOutcome;
use crate::limits;
use crate::membership::in_frames;

type Rows = BTreeMap<(Space, Vec<u8>), Bytes>;

struct Sim {
    peer: Peer,
    rows: Rows,
    replies: BTreeMap<CmdId, Reply>,
    facts: Vec<Fact>,
    invoked: Vec<ReqId>,
    log_reads: usize,
    /// Frames that it got.
    got: Vec<(PeerId, Frame)>,
}

struct Net {
    sims: Vec<Sim>,
    links: BTreeSet<(usize, usize)>,
    todo: VecDeque<(usize, Input)>,
    now: u64,
    rng: ChaCha8Rng,
    commands: CmdId,
}

fn key(n: usize) -> PublicKey {
    Symbolic::new(n as u64).public_key()
}

fn id(n: usize) -> PeerId {
    key(n).peer_id()
}

fn name(n: usize) -> NodeId {
    format!("peer-{n}").parse().unwrap()
}

fn call(target: usize) -> Command {
    Command::Call(NewCall {
        node: name(target).to_string(),
        tool: "echo".parse().unwrap(),
        arguments: Payload::empty(),
        ttl_ms: 60_000,
        timeout_ms: 1_000,
        effect: None,
        principal: "owner".to_owned(),
        client_key: None,
    })
}

impl Net {
    /// A founder and those that it approved, all of them up and none of them linked.
    fn of(count: usize) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(7);
        let mut net =
            Self { sims: Vec::new(), links: BTreeSet::new(), todo: VecDeque::new(), now: 1_000_000, rng, commands: 0 };
        let rows = founded(&Symbolic::new(0), "home", &name(0), net.clock(), &mut net.rng);
        net.boot(rows);
        for n in 1..count {
            let rows = net.approve(n);
            net.boot(rows);
        }
        net
    }

    fn approve(&mut self, n: usize) -> Batch {
        let reply = self.command(0, Command::Approve { key: key(n), node_id: name(n), tier: Tier::Owner });
        let Reply::Approved(welcome) = reply else { panic!("not approved: {reply:?}") };
        joined(&welcome, &mut self.rng).unwrap()
    }

    fn clock(&self) -> Now {
        Now { mono_ms: self.now, wall_ms: 1_700_000_000_000 + self.now }
    }

    fn boot(&mut self, batch: Batch) {
        let n = self.sims.len();
        let rows: Rows =
            batch.writes.into_iter().filter_map(|write| Some(((write.space, write.key), write.value?))).collect();
        let image = rows.iter().map(|((space, key), value)| (*space, key.clone(), value.clone())).collect();
        let image = Image { rows: image, rolled_back: false };
        let mut out = Vec::new();
        let signer = Box::new(Symbolic::new(n as u64));
        let peer = Peer::boot(Config::default(), signer, image, self.clock(), &mut self.rng, &mut out).unwrap();
        let (replies, facts, invoked, got) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        self.sims.push(Sim { peer, rows, replies, facts, invoked, log_reads: 0, got });
        self.perform(n, out);
        let echo = ToolDecl {
            name: "echo".parse().unwrap(),
            effect: Effect::Once,
            description: String::new(),
            owner_only: false,
        };
        let directory = Directory { eligible: true, class: 3, tools: vec![echo], ..Directory::default() };
        self.command(n, Command::SetDirectory(directory));
    }

    /// An old state of its store is played back, and it notices; nobody is linked to it then.
    fn restore(&mut self, n: usize, rows: Rows) {
        for other in (0..self.sims.len()).filter(|other| *other != n) {
            self.links.remove(&(n.min(other), n.max(other)));
            self.input(other, Input::LinkDown(id(n)));
        }
        let image = rows.iter().map(|((space, key), value)| (*space, key.clone(), value.clone())).collect();
        let image = Image { rows: image, rolled_back: true };
        let directory = self.sims[n].peer.nodes.directory(&id(n)).map(|own| Directory::clone(own)).unwrap();
        let mut out = Vec::new();
        let signer = Box::new(Symbolic::new(n as u64));
        let now = self.clock();
        self.sims[n].rows = rows;
        self.sims[n].peer = Peer::boot(Config::default(), signer, image, now, &mut self.rng, &mut out).unwrap();
        self.perform(n, out);
        self.command(n, Command::SetDirectory(directory));
    }

    fn input(&mut self, n: usize, input: Input) {
        self.todo.push_back((n, input));
        while let Some((n, input)) = self.todo.pop_front() {
            if let Input::Recv(from, frame) = &input {
                self.sims[n].got.push((*from, frame.clone()));
            }
            let mut out = Vec::new();
            let now = self.clock();
            self.sims[n].peer.step(now, &mut self.rng, input, &mut out);
            self.perform(n, out);
        }
    }

    fn perform(&mut self, n: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(to, frame) => {
                    let to = (0..self.sims.len()).find(|other| id(*other) == to);
                    if let Some(to) = to.filter(|to| self.links.contains(&(n.min(*to), n.max(*to)))) {
                        self.todo.push_back((to, Input::Recv(id(n), frame)));
                    }
                }
                Output::Commit(txn, batch) => {
                    for write in batch.writes {
                        match write.value {
                            Some(value) => drop(self.sims[n].rows.insert((write.space, write.key), value)),
                            None => drop(self.sims[n].rows.remove(&(write.space, write.key))),
                        }
                    }
                    self.todo.push_back((n, Input::Durable(txn)));
                }
                Output::ReadLog { reader, ranges } => {
                    self.sims[n].log_reads += 1;
                    let rows = &self.sims[n].rows;
                    let entries = ranges
                        .iter()
                        .flat_map(|(author, incarnation, first, last)| {
                            (*first..=*last).filter_map(|seq| {
                                rows.get(&(Space::Log, rows::entry(author, *incarnation, seq).key))
                                    .and_then(|stored| SignedEntry::from_stored(stored))
                            })
                        })
                        .collect();
                    self.todo.push_back((n, Input::LogRead { reader, entries, more: false }));
                }
                Output::Reply(command, reply) => drop(self.sims[n].replies.insert(command, reply)),
                Output::Fact(fact) => self.sims[n].facts.push(fact),
                Output::Invoke(invocation) => self.sims[n].invoked.push(invocation.id),
                Output::Kill(..) | Output::Fetch { .. } => {}
            }
        }
    }

    fn command(&mut self, n: usize, command: Command) -> Reply {
        self.commands += 1;
        let number = self.commands;
        self.input(n, Input::Command(number, command));
        self.sims[n].replies.remove(&number).expect("every command has its reply")
    }

    fn link(&mut self, a: usize, b: usize) {
        self.links.insert((a.min(b), a.max(b)));
        self.input(a, Input::LinkUp(id(b)));
        self.input(b, Input::LinkUp(id(a)));
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now += 50;
            for n in 0..self.sims.len() {
                self.input(n, Input::Wake);
            }
        }
    }

    /// Three peers, linked, of which one leads.
    fn settled() -> (Self, usize) {
        let mut net = Self::of(3);
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            net.link(a, b);
        }
        net.pass(4_000);
        let leader = (0..3).find(|n| net.sims[*n].peer.leads()).expect("somebody leads");
        (net, leader)
    }

    fn is_revoked(&self, n: usize) -> bool {
        self.sims[n].peer.view().revoked
    }

    fn knows(&self, n: usize, other: usize) -> bool {
        self.sims[n].peer.view().nodes.iter().any(|node| node.peer == id(other))
    }
}

/// What a revoked peer got: entries of these kinds, and nothing else.
fn kinds(frames: &[(PeerId, Frame)]) -> Vec<Kind> {
    let items = frames.iter().flat_map(|(_, frame)| {
        let Frame::Entries { entries, .. } = frame else { panic!("a revoked peer gets no {frame:?}") };
        entries
    });
    items.map(|item| item.entry.entry.kind).collect()
}

#[test]
fn one_that_is_linked_hears_of_its_revocation_and_works_no_more() {
    let (mut net, leader) = Net::settled();
    let gone = if leader == 1 { 2 } else { 1 };
    let other = 3 - gone;
    net.input(leader, Input::NodeUp(id(gone), 1));
    let Reply::Call { id: before, .. } = net.command(0, call(gone)) else { panic!("not accepted") };
    assert_eq!(net.sims[gone].invoked, [before], "while it belongs, it runs what it is sent");
    net.input(leader, Input::NodeDown(id(gone), 1));
    let Reply::Call { id: waiting, .. } = net.command(0, call(gone)) else { panic!("not accepted") };
    net.input(leader, Input::NodeUp(id(gone), 2));
    assert_eq!(net.sims[gone].invoked, [before, waiting]);
    net.input(leader, Input::NodeDown(id(gone), 2));
    let Reply::Call { id: queued, .. } = net.command(0, call(gone)) else { panic!("not accepted") };
    let (seen, session) = (net.sims[gone].got.len(), 3);

    assert_eq!(net.command(0, Command::Revoke { peer: id(gone) }), Reply::Revoked);
    assert!(net.is_revoked(gone));
    assert!(net.sims[gone].facts.contains(&Fact::Revoked));
    assert!(net.sims[gone].got.len() > seen);
    for n in [0, other] {
        assert!(!net.knows(n, gone), "its tools are gone from the lists with it");
        assert!(!net.sims[n].peer.view().links.contains(&id(gone)));
        assert_eq!(net.sims[n].peer.revoked_peers(), [(id(gone), key(gone))]);
    }
    let ended = net.sims[0].peer.open_call(&queued).expect("its target may still say otherwise");
    assert_eq!(ended.state, CallState::Ended(Ending::Undeliverable));
    // A registration that was under way, a call at its own door, and a dispatch that it makes nothing of.
    net.input(leader, Input::NodeUp(id(gone), session));
    assert!(!net.sims[leader].peer.book.online().any(|peer| peer == id(gone)));
    assert_eq!(net.command(gone, call(0)), Reply::Refused(Refusal::NotMember));
    net.pass(5_000);
    assert_eq!(net.sims[gone].invoked, [before, waiting]);
    assert!(!net.sims[gone].peer.leads(), "it belongs to nothing that it could lead");
}

#[test]
fn a_node_stream_that_is_up_counts_no_more_after_the_revocation() {
    let (mut net, leader) = Net::settled();
    let gone = if leader == 1 { 2 } else { 1 };
    net.input(leader, Input::NodeUp(id(gone), 1));
    assert!(net.sims[leader].peer.book.online().any(|peer| peer == id(gone)));
    let Reply::Call { id: running, .. } = net.command(0, call(gone)) else { panic!("not accepted") };
    assert_eq!(net.sims[gone].invoked, [running]);
    net.command(0, Command::Revoke { peer: id(gone) });
    assert!(!net.sims[leader].peer.book.online().any(|peer| peer == id(gone)));
    let ended = net.sims[0].peer.open_call(&running).expect("unconfirmed");
    assert_eq!(ended.state, CallState::Ended(Ending::Undeliverable));
    net.input(leader, Input::NodeDown(id(gone), 1));
    net.input(leader, Input::LinkDown(id(gone)));
}

#[test]
fn one_that_was_away_hears_of_it_from_anyone_and_gets_nothing_else() {
    let mut net = Net::of(3);
    net.link(0, 1);
    net.pass(4_000);
    // Entries that the one who was away never gets: the revocation does not follow on what it holds.
    for _ in 0..5 {
        net.command(0, call(1));
    }
    net.command(0, Command::Revoke { peer: id(2) });
    assert!(!net.is_revoked(2) && !net.knows(1, 2));
    net.sims[2].got.clear();
    net.link(1, 2);
    assert!(net.is_revoked(2));
    assert!(net.sims[2].facts.contains(&Fact::Revoked));
    let kinds = kinds(&net.sims[2].got);
    assert_eq!(kinds.first(), Some(&Kind::GENESIS));
    assert!(kinds.iter().skip(1).all(|kind| *kind == Kind::MEMBERSHIP), "{kinds:?}");
    assert!(!net.sims[1].peer.view().links.contains(&id(2)));
    net.input(1, Input::LinkDown(id(2)));

    // It outlives a restart, and leaving is a matter of its own: nothing is written for others.
    let rows: Vec<_> =
        net.sims[2].rows.iter().map(|((space, key), value)| (*space, key.clone(), value.clone())).collect();
    let mut out = Vec::new();
    let image = Image { rows, rolled_back: false };
    let signer = Box::new(Symbolic::new(2));
    let again = Peer::boot(Config::default(), signer, image, net.clock(), &mut net.rng, &mut out).unwrap();
    assert!(again.view().revoked);
    let log = |net: &Net| net.sims[2].rows.keys().filter(|(space, _)| *space == Space::Log).count();
    let before = log(&net);
    assert_eq!(net.command(2, Command::Leave), Reply::Left);
    assert_eq!(log(&net), before);
}

#[test]
fn one_that_is_approved_again_over_a_link_that_stayed_is_a_neighbour_again() {
    let (mut net, _) = Net::settled();
    net.command(0, Command::Revoke { peer: id(2) });
    assert!(!net.sims[1].peer.view().links.contains(&id(2)));
    net.approve(2);
    for n in [0, 1] {
        assert!(net.knows(n, 2));
        assert!(net.sims[n].peer.view().links.contains(&id(2)));
        assert!(net.sims[n].peer.revoked_peers().is_empty());
    }
}

#[test]
fn many_entries_come_in_frames_of_bounded_size() {
    let net = Net::of(1);
    let genesis = net.sims[0].peer.trust.records_in_order().remove(0);
    let entry = |len: usize| SignedEntry::new(genesis.entry.clone(), vec![0; len].into(), genesis.signature);
    let lens = [1, 100, limits::SYNC_BYTES_MAX / 2, limits::SYNC_BYTES_MAX / 2, 7, limits::SYNC_BYTES_MAX, 9];
    let frames = in_frames(lens.into_iter().map(entry));
    let sizes: Vec<Vec<usize>> = frames
        .iter()
        .map(|frame| {
            let Frame::Entries { entries, .. } = frame else { panic!("no {frame:?}") };
            entries.iter().map(|item| item.entry.bytes.len()).collect()
        })
        .collect();
    assert_eq!(sizes.concat(), lens);
    assert_eq!(sizes.len(), 4);
    assert!(sizes.iter().all(|frame| frame.iter().sum::<usize>() <= limits::SYNC_BYTES_MAX), "{sizes:?}");
}

#[test]
fn a_restored_peer_runs_nothing_of_its_former_incarnation_and_gets_its_own_entries_back() {
    let (mut net, leader) = Net::settled();
    let target = if leader == 1 { 2 } else { 1 };
    let former = net.sims[target].peer.view().incarnation;
    let backup = net.sims[target].rows.clone();
    net.input(leader, Input::NodeUp(id(target), 1));
    let Reply::Call { id: ran, .. } = net.command(0, call(target)) else { panic!("not accepted") };
    let outcome =
        ToolOutcome { ending: Ending::Done, reason: String::new(), output: Payload::empty(), error: String::new() };
    net.input(target, Input::ToolEnded(ran, 1, outcome));
    net.input(leader, Input::NodeDown(id(target), 1));
    let Reply::Call { id: waits, .. } = net.command(0, call(target)) else { panic!("not accepted") };
    let words = |net: &Net| {
        let own = rows::head(&id(target), former).key;
        net.sims[target].rows.keys().filter(|(space, key)| *space == Space::Log && key.starts_with(&own)).count()
    };
    let before = words(&net);

    net.restore(target, backup);
    assert_ne!(net.sims[target].peer.view().incarnation, former);
    assert!(words(&net) < before);
    for other in (0..3).filter(|other| *other != target) {
        net.link(target, other);
    }
    net.pass(1_000);
    assert_eq!(words(&net), before, "what it had told the others it hears from them");
    let told = net.sims[0].peer.open_call(&waits).expect("not confirmed by anyone");
    assert_eq!((told.state, told.confirmed), (CallState::Ended(Ending::Undeliverable), false));
    let leader = (0..3).find(|n| net.sims[*n].peer.leads()).expect("somebody leads");
    net.input(leader, Input::NodeUp(id(target), 2));
    net.pass(2_000);
    assert_eq!(net.sims[target].invoked, [ran], "neither again nor anew");
    let Reply::Call { id: new, .. } = net.command(0, call(target)) else { panic!("not accepted") };
    assert_eq!(net.sims[target].invoked, [ran, new], "its new incarnation is like any other");
}

#[test]
fn a_restored_peer_leads_with_no_epoch_that_it_may_have_led_with_before() {
    let mut net = Net::of(1);
    let backup = net.sims[0].rows.clone();
    net.pass(2_000);
    let led = net.sims[0].peer.view().gateway.expect("it is alone");
    let mut counters = vec![led.counter];
    for _ in 0..3 {
        net.restore(0, backup.clone());
        net.pass(2_000);
        counters.push(net.sims[0].peer.view().gateway.expect("it is alone").counter);
    }
    assert!(counters.iter().skip(1).all(|counter| *counter > led.counter + CLAIMS_LOST_MAX));
    counters.sort_unstable();
    counters.dedup();
    assert_eq!(counters.len(), 4, "not even when the same backup comes back again");
}

#[test]
fn a_run_of_which_nothing_is_heard_any_more_is_given_up() {
    let (mut net, leader) = Net::settled();
    let target = if leader == 1 { 2 } else { 1 };
    net.input(leader, Input::NodeUp(id(target), 1));
    let Reply::Call { id: running, .. } = net.command(0, call(target)) else { panic!("not accepted") };
    net.input(target, Input::ToolProgress(running, 1, "half".into()));
    assert_eq!(net.sims[0].peer.open_call(&running).unwrap().state.as_str(), "running");
    for other in (0..3).filter(|other| *other != target) {
        net.links.remove(&(target.min(other), target.max(other)));
        net.input(other, Input::LinkDown(id(target)));
        net.input(target, Input::LinkDown(id(other)));
    }
    let (ttl_ms, timeout_ms) = {
        let header = &net.sims[0].peer.open_call(&running).unwrap().header;
        (header.ttl_ms, header.timeout_ms)
    };
    net.pass(ttl_ms + timeout_ms);
    assert_eq!(net.sims[0].peer.open_call(&running).unwrap().state.as_str(), "running", "it may still end");
    net.pass(4 * limits::epsilon_ms(ttl_ms) + 10_000);
    let told = net.sims[0].peer.open_call(&running).unwrap();
    assert_eq!((told.state, told.confirmed), (CallState::Ended(Ending::Interrupted), false));
}

/// A mesh of one in which our own outcomes are told to ourselves as the gateway: nothing of that is news.
#[test]
fn calls_in_flight_on_a_mesh_of_one_read_no_log_and_change_no_view() {
    const IN_FLIGHT: usize = 8;
    let mut net = Net::of(1);
    net.pass(4_000);
    assert!(net.sims[0].peer.leads());
    net.sims[0].facts.clear();
    net.sims[0].log_reads = 0;
    for _ in 0..IN_FLIGHT {
        net.command(0, call(0));
    }
    for done in 0..400 {
        assert!(done < net.sims[0].invoked.len(), "{done} calls ran, then none started");
        let ran = net.sims[0].invoked[done];
        let outcome =
            ToolOutcome { ending: Ending::Done, reason: String::new(), output: Payload::empty(), error: String::new() };
        net.input(0, Input::ToolEnded(ran, 1, outcome));
        net.command(0, call(0));
    }
    let views = net.sims[0].facts.iter().filter(|fact| matches!(fact, Fact::View)).count();
    assert_eq!((net.sims[0].log_reads, views), (0, 0));
}
