//! Promises that the simulator once saw broken, each in the smallest shape: two peers, one call.
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may stop at what it did not expect")]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use mesh_core::config::Config;
use mesh_core::crypto::{Signer, Symbolic};
use mesh_core::entry::{
    Directory, Effect, Ending, Entry, Kind, Outcome, Payload, SignedEntry, Source, Tier, ToolDecl, encode,
};
use mesh_core::frame::{Answer, AnswerKind, EntryItem, Frame};
use mesh_core::ids::{Attempt, Hash, Incarnation, PeerId, ReqId};
use mesh_core::io::{
    CallState, Command, Fact, Image, Input, Invocation, NewCall, Now, Output, Reply, Space, ToolOutcome, TxnId, Welcome,
};
use mesh_core::peer::{Peer, founded, joined};
use mesh_core::rows;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// A peer with a disk that syncs at once, unless it is held.
struct Desk {
    key: Symbolic,
    peer: Peer,
    rng: ChaCha8Rng,
    now_ms: u64,
    rows: BTreeMap<(Space, Vec<u8>), Bytes>,
    /// While set, batches stay in the air.
    held: bool,
    air: VecDeque<(TxnId, mesh_core::io::Batch)>,
}

fn now(ms: u64) -> Now {
    Now { mono_ms: ms, wall_ms: 1_750_000_000_000 + ms }
}

impl Desk {
    fn boot(key: Symbolic, rows: BTreeMap<(Space, Vec<u8>), Bytes>, now_ms: u64) -> (Self, Vec<Output>) {
        let mut rng = ChaCha8Rng::seed_from_u64(now_ms);
        let image = rows.iter().filter(|((space, _), _)| space.in_image());
        let image = Image { rows: image.map(|((s, k), v)| (*s, k.clone(), v.clone())).collect(), rolled_back: false };
        let mut out = Vec::new();
        let peer =
            Peer::boot(Config::default(), Box::new(key.clone()), image, now(now_ms), &mut rng, &mut out).unwrap();
        let mut desk = Self { key, peer, rng, now_ms, rows, held: false, air: VecDeque::new() };
        let out = desk.settle(out);
        (desk, out)
    }

    /// What is left on the disk starts again.
    fn crash(self) -> (Self, Vec<Output>) {
        Self::boot(self.key, self.rows, self.now_ms + 1_000)
    }

    fn id(&self) -> PeerId {
        self.key.public_key().peer_id()
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.peer.step(now(self.now_ms), &mut self.rng, input, &mut out);
        self.settle(out)
    }

    /// Lets the disk do its work; hands back the rest.
    fn settle(&mut self, out: Vec<Output>) -> Vec<Output> {
        let mut rest = Vec::new();
        for output in out {
            match output {
                Output::Commit(txn, batch) => self.air.push_back((txn, batch)),
                Output::ReadLog { reader, ranges } => {
                    let mut entries = Vec::new();
                    for (author, incarnation, first, last) in ranges {
                        for seq in first..=last {
                            let key = rows::entry(&author, incarnation, seq).key;
                            entries.extend(self.rows.get(&(Space::Log, key)).and_then(|v| SignedEntry::from_stored(v)));
                        }
                    }
                    rest.extend(self.step(Input::LogRead { reader, entries, more: false }));
                }
                other => rest.push(other),
            }
        }
        while !self.held
            && let Some((txn, batch)) = self.air.pop_front()
        {
            for write in batch.writes {
                match write.value {
                    Some(value) => self.rows.insert((write.space, write.key), value),
                    None => self.rows.remove(&(write.space, write.key)),
                };
            }
            rest.extend(self.step(Input::Durable(txn)));
        }
        rest
    }

    fn release(&mut self) -> Vec<Output> {
        self.held = false;
        self.settle(Vec::new())
    }

    /// Time passes, and the peer is woken when it asks to be.
    fn pass(&mut self, ms: u64) -> Vec<Output> {
        let until = self.now_ms + ms;
        let mut out = Vec::new();
        while let Some(at) = self.peer.poll_timeout().filter(|at| *at <= until) {
            self.now_ms = self.now_ms.max(at);
            out.extend(self.step(Input::Wake));
        }
        self.now_ms = until;
        out
    }

    fn command(&mut self, command: Command) -> Vec<Output> {
        self.step(Input::Command(1, command))
    }
}

fn directory() -> Directory {
    let tool = ToolDecl {
        name: "put".parse().unwrap(),
        effect: Effect::Idempotent,
        description: String::new(),
        owner_only: false,
    };
    Directory { eligible: true, class: 3, tools: vec![tool], ..Directory::default() }
}

/// Carries frames both ways until nobody says anything more; the rest, by peer.
fn carry(a: &mut Desk, b: &mut Desk, from_a: Vec<Output>, from_b: Vec<Output>) -> (Vec<Output>, Vec<Output>) {
    let mut rest = (Vec::new(), Vec::new());
    let mut work: VecDeque<(bool, Output)> = from_a.into_iter().map(|output| (true, output)).collect();
    work.extend(from_b.into_iter().map(|output| (false, output)));
    while let Some((of_a, output)) = work.pop_front() {
        match (of_a, output) {
            (true, Output::Send(_, frame)) => {
                let id = a.id();
                work.extend(b.step(Input::Recv(id, frame)).into_iter().map(|output| (false, output)));
            }
            (false, Output::Send(_, frame)) => {
                let id = b.id();
                work.extend(a.step(Input::Recv(id, frame)).into_iter().map(|output| (true, output)));
            }
            (true, other) => rest.0.push(other),
            (false, other) => rest.1.push(other),
        }
    }
    rest
}

fn welcome(out: &[Output]) -> Welcome {
    let approved = out.iter().find_map(|output| match output {
        Output::Reply(_, Reply::Approved(welcome)) => Some((**welcome).clone()),
        _ => None,
    });
    approved.expect("the owner approves")
}

/// A leads, B follows and is registered there; both offer `put`.
fn pair() -> (Desk, Desk) {
    let (a_key, b_key) = (Symbolic::new(1), Symbolic::new(2));
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let rows = |batch: mesh_core::io::Batch| {
        batch.writes.into_iter().filter_map(|w| w.value.map(|value| ((w.space, w.key), value))).collect()
    };
    let batch = founded(&a_key, "home", &"a".parse().unwrap(), now(0), &mut rng);
    let (mut a, _) = Desk::boot(a_key, rows(batch), 1);
    a.pass(10);
    a.command(Command::SetDirectory(directory()));
    let command = Command::Approve { key: b_key.public_key(), node_id: "b".parse().unwrap(), tier: Tier::Owner };
    let batch = joined(&welcome(&a.command(command)), &mut rng).unwrap();
    let (mut b, _) = Desk::boot(b_key, rows(batch), 20);
    a.now_ms = 20;
    b.command(Command::SetDirectory(directory()));
    link(&mut a, &mut b);
    assert_eq!(b.peer.view().gateway.map(|epoch| epoch.peer), Some(a.id()), "b follows a");
    (a, b)
}

fn link(a: &mut Desk, b: &mut Desk) {
    let (a_id, b_id) = (a.id(), b.id());
    let (from_a, from_b) = (a.step(Input::LinkUp(b_id)), b.step(Input::LinkUp(a_id)));
    carry(a, b, from_a, from_b);
    let from_a = a.step(Input::NodeUp(b_id, 1));
    carry(a, b, from_a, Vec::new());
}

fn call(node: &str) -> Command {
    Command::Call(NewCall {
        node: node.to_owned(),
        tool: "put".parse().unwrap(),
        arguments: Payload::Inline(Bytes::from_static(b"{}")),
        ttl_ms: 60_000,
        timeout_ms: 10_000,
        effect: None,
        principal: "owner".to_owned(),
        client_key: None,
    })
}

fn dispatches(out: &[Output]) -> usize {
    out.iter().filter(|output| matches!(output, Output::Send(_, Frame::Dispatch(_)))).count()
}

fn invoked(out: &[Output]) -> Invocation {
    let invocation = out.iter().find_map(|output| match output {
        Output::Invoke(invocation) => Some((**invocation).clone()),
        _ => None,
    });
    invocation.expect("the tool runs")
}

fn ended(out: &[Output]) -> bool {
    out.iter().any(|output| matches!(output, Output::Send(_, Frame::Answer(Answer { what: AnswerKind::Ended(_), .. }))))
}

fn done() -> ToolOutcome {
    let output = Payload::Inline(Bytes::from_static(b"1"));
    ToolOutcome { ending: Ending::Done, reason: String::new(), output, error: String::new() }
}

/// An outcome as `desk` would sign it, out of the order of its log.
fn outcome(desk: &Desk, mesh: mesh_core::ids::MeshId, id: ReqId, attempt: Attempt, ending: Ending) -> SignedEntry {
    let body = Outcome {
        id,
        attempt,
        ending,
        reason: String::new(),
        output: Payload::empty(),
        error: String::new(),
        at_ms: 0,
        started_ms: 0,
        alias_of: None,
        source: Source::Target,
    };
    let entry = Entry {
        mesh,
        author: desk.key.public_key(),
        incarnation: Incarnation(99),
        seq: 1,
        hlc: 1,
        kind: Kind::OUTCOME,
        critical: false,
        generation: 0,
        previous: Hash::ZERO,
        body: encode(&body).into(),
    };
    SignedEntry::sign(&desk.key, entry)
}

#[test]
fn a_call_is_dispatched_only_when_its_header_is_durable() {
    let (mut a, _b) = pair();
    a.held = true;
    let mut out = a.command(call("b"));
    // Anything that makes the gateway look at b's queue again, such as a new session.
    let b_id = Symbolic::new(2).public_key().peer_id();
    out.extend(a.step(Input::NodeUp(b_id, 2)));
    assert_eq!(dispatches(&out), 0, "a crash now would issue the same id again");
    assert_eq!(dispatches(&a.release()), 1);
}

#[test]
fn an_outcome_is_told_only_when_durable() {
    let (mut a, mut b) = pair();
    let sent = a.command(call("b"));
    let again = sent.clone();
    let (_, run) = carry(&mut a, &mut b, sent, Vec::new());
    let Invocation { id, attempt, .. } = invoked(&run);
    b.held = true;
    let mut out = b.step(Input::ToolEnded(id, attempt, done()));
    let a_id = a.id();
    for output in again {
        if let Output::Send(_, frame @ Frame::Dispatch(_)) = output {
            out.extend(b.step(Input::Recv(a_id, frame)));
        }
    }
    assert!(!ended(&out), "a crash now would make it `interrupted`");
    assert!(ended(&b.release()));
}

#[test]
fn a_second_attempt_that_did_not_run_leaves_the_call_interrupted() {
    let (mut a, mut b) = pair();
    b.held = true;
    a.command(call("b"));
    let id = a.peer.open_calls().next().unwrap().header.id;
    let entry = outcome(&b, a.peer.view().mesh, id, 2, Ending::Expired);
    // The word of the first attempt's interruption has not come.
    a.held = true;
    let b_id = b.id();
    a.step(Input::Recv(b_id, Frame::Answer(Answer { id, attempt: 2, what: AnswerKind::Ended(entry) })));
    let record = a.peer.open_call(&id).unwrap();
    assert_eq!((record.state, record.confirmed), (CallState::Ended(Ending::Interrupted), true));
}

#[test]
fn an_outcome_before_its_header_outlives_a_crash() {
    let (mut a, mut b) = pair();
    a.held = true;
    a.command(call("b"));
    let id = a.peer.open_calls().next().unwrap().header.id;
    let mesh = a.peer.view().mesh;
    // B is a bystander here: an outcome by A, for a call whose header A has not told yet.
    let early = outcome(&a, mesh, id, 1, Ending::Expired);
    let a_id = a.id();
    let item = EntryItem { entry: early, left_ms: None };
    b.step(Input::Recv(a_id, Frame::Entries { entries: vec![item], more: false }));
    let (mut b, _) = b.crash();
    a.release();
    link(&mut a, &mut b);
    let record = b.peer.open_call(&id).expect("the header has come by now");
    assert!(record.history.iter().any(|row| row.state == CallState::Ended(Ending::Expired)), "{:?}", record.history);
}

#[test]
fn one_s_own_revocation_is_told_again_after_a_crash() {
    let (mut a, mut b) = pair();
    let b_id = b.id();
    let out = a.command(Command::Revoke { peer: b_id });
    carry(&mut a, &mut b, out, Vec::new());
    assert!(b.peer.view().revoked);
    let (_, out) = b.crash();
    assert!(out.iter().any(|output| matches!(output, Output::Fact(Fact::Revoked))));
}

#[test]
fn a_revoked_target_does_not_infer_endings_of_what_it_runs() {
    let (mut a, mut b) = pair();
    let sent = a.command(call("b"));
    let (_, run) = carry(&mut a, &mut b, sent, Vec::new());
    let id = invoked(&run).id;
    let b_id = b.id();
    let out = a.command(Command::Revoke { peer: b_id });
    carry(&mut a, &mut b, out, Vec::new());
    let record = b.peer.open_call(&id).expect("it runs");
    assert!(!record.confirmed, "its executor will say how it ended, and only once: {:?}", record.state);
}

#[test]
fn a_gap_that_shows_right_after_a_digest_is_asked_about_all_the_same() {
    let (a, mut b) = pair();
    let a_id = a.id();
    let digests = |out: &[Output]| out.iter().filter(|o| matches!(o, Output::Send(_, Frame::Digest { .. }))).count();
    b.pass(1_000);
    let mesh = a.peer.view().mesh;
    // Pushed entries overtake those that were read for a digest.
    let gap = |seq| {
        let body = encode(&directory());
        let entry = Entry {
            mesh,
            author: a.key.public_key(),
            incarnation: a.peer.view().incarnation,
            seq,
            hlc: 1,
            kind: Kind::DIRECTORY,
            critical: false,
            generation: 0,
            previous: Hash::ZERO,
            body: body.into(),
        };
        let item = EntryItem { entry: SignedEntry::sign(&a.key, entry), left_ms: None };
        Frame::Entries { entries: vec![item], more: false }
    };
    assert_eq!(digests(&b.step(Input::Recv(a_id, gap(50)))), 1);
    assert_eq!(digests(&b.step(Input::Recv(a_id, gap(51)))), 0, "not one for every entry");
    assert_eq!(digests(&b.pass(300)), 1);
}
