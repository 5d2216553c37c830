//! Promises that the simulator once saw broken, each in the smallest shape: two peers, one call.
#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may stop at what it did not expect")]

use std::collections::VecDeque;

use mesh_core::crypto::{Signer as _, Symbolic};
use mesh_core::entry::{Kind, SignedEntry, encode};
use mesh_core::frame::{Answer, AnswerKind, Frame};
use mesh_core::ids::{Attempt, Incarnation, ReqId};
use mesh_core::io::{CallState, Command, Fact, Input, Invocation, NewCall, Output};
use mesh_core::record::{Effect, Ending, Outcome, Tier};
use mesh_core::test_kit::{self, Author, Desk, at, done, offers, pushed, tool};

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

/// A leads, B follows and is registered there; both offer `put`.
fn pair() -> (Desk, Desk) {
    let (a_key, b_key) = (Symbolic::new(1), Symbolic::new(2));
    let directory = || Command::SetDirectory(offers(vec![tool("put", Effect::Idempotent)]));
    let mut a = Desk::founder(a_key, at(0));
    a.pass(10);
    a.ask(directory());
    let node_id = "b".parse().unwrap();
    let welcome = a.approve(Command::Approve { key: b_key.public_key(), node_id, tier: Tier::Owner, stay: None });
    let mut b = Desk::newcomer(b_key, &welcome, a.now);
    b.ask(directory());
    link(&mut a, &mut b);
    assert_eq!(b.peer().view().gateway.map(|epoch| epoch.peer), Some(a.id()), "b follows a");
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
    Command::Call(NewCall { timeout_ms: 10_000, ..test_kit::call(node, "put") })
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

/// An author with the key of a desk, out of the order of its log.
fn beside(desk: &Desk) -> Author {
    let mut author = Author::new(desk.machine.key().clone(), desk.peer().view().mesh, at(0));
    author.incarnation = Incarnation(99);
    author
}

/// An outcome as `desk` would sign it, out of the order of its log.
fn outcome(desk: &Desk, id: ReqId, attempt: Attempt, ending: Ending) -> SignedEntry {
    beside(desk).says(Kind::OUTCOME, encode(&Outcome { attempt, ..test_kit::outcome(id, ending) }))
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
    let id = a.peer().open_calls().next().unwrap().header.id;
    let entry = outcome(&b, id, 2, Ending::Expired);
    // The entry of the first attempt's interruption has not come.
    a.held = true;
    let b_id = b.id();
    a.step(Input::Recv(b_id, Frame::Answer(Answer { id, attempt: 2, what: AnswerKind::Ended(entry) })));
    let record = a.peer().open_call(&id).unwrap();
    assert_eq!((record.state, record.confirmed), (CallState::Ended(Ending::Interrupted), true));
}

#[test]
fn an_outcome_before_its_header_outlives_a_crash() {
    let (mut a, mut b) = pair();
    a.held = true;
    a.command(call("b"));
    let id = a.peer().open_calls().next().unwrap().header.id;
    // B is a bystander here: an outcome by A, for a call whose header A has not told yet.
    let early = outcome(&a, id, 1, Ending::Expired);
    let a_id = a.id();
    b.step(Input::Recv(a_id, pushed(early)));
    b.crash();
    a.release();
    link(&mut a, &mut b);
    let record = b.peer().open_call(&id).expect("the header has come by now");
    assert!(record.history.iter().any(|row| row.state == CallState::Ended(Ending::Expired)), "{:?}", record.history);
}

#[test]
fn one_s_own_revocation_is_told_again_after_a_crash() {
    let (mut a, mut b) = pair();
    let b_id = b.id();
    let out = a.command(Command::Revoke { peer: b_id, unsaid: false });
    carry(&mut a, &mut b, out, Vec::new());
    assert!(b.peer().view().revoked);
    let out = b.crash();
    assert!(out.iter().any(|output| matches!(output, Output::Fact(Fact::Revoked))));
}

#[test]
fn a_revoked_target_does_not_infer_endings_of_what_it_runs() {
    let (mut a, mut b) = pair();
    let sent = a.command(call("b"));
    let (_, run) = carry(&mut a, &mut b, sent, Vec::new());
    let id = invoked(&run).id;
    let b_id = b.id();
    let out = a.command(Command::Revoke { peer: b_id, unsaid: false });
    carry(&mut a, &mut b, out, Vec::new());
    let record = b.peer().open_call(&id).expect("it runs");
    assert!(!record.confirmed, "its executor will say how it ended, and only once: {:?}", record.state);
}

#[test]
fn a_gap_that_shows_right_after_a_digest_is_asked_about_all_the_same() {
    let (a, mut b) = pair();
    let a_id = a.id();
    let digests = |out: &[Output]| out.iter().filter(|o| matches!(o, Output::Send(_, Frame::Digest { .. }))).count();
    b.pass(1_000);
    let mut later = beside(&a);
    later.incarnation = a.peer().view().incarnation;
    // Pushed entries overtake those that were read for a digest.
    let mut gap = |seq| {
        pushed(later.entry(Kind::DIRECTORY, encode(&offers(Vec::new())), |entry| (entry.seq, entry.hlc) = (seq, 1)))
    };
    assert_eq!(digests(&b.step(Input::Recv(a_id, gap(50)))), 1);
    assert_eq!(digests(&b.step(Input::Recv(a_id, gap(51)))), 0, "not one for every entry");
    assert_eq!(digests(&b.pass(300)), 1);
}
