//! A device that was let in for one call, and asks for more.

use mesh_core::frame::EntryItem;
use mesh_core::ids::Attempt;
use mesh_core::limits::STAY_AFTER_CALL_MS;
use mesh_core::record::StayTerms;

use super::*;

const HOUR_MS: u64 = 3_600_000;

fn open() -> ToolDecl {
    ToolDecl { owner_only: false, ..tool("append", Effect::Once) }
}

/// A visitor that was let in for one call. The device that let it in leads, and offers `append`.
fn visited() -> (Honest, Author) {
    let mut honest = Honest::new();
    let visitor = honest.author(1);
    let (key, node_id) = (visitor.public_key(), "visitor".parse().unwrap());
    let stay = Some(StayTerms { lasts_ms: HOUR_MS, scope: None, one_time: true });
    honest.approve(Command::Approve { key, node_id, tier: Tier::Ephemeral, stay });
    honest.step(Input::LinkUp(visitor.id()));
    honest.ask(Command::SetDirectory(offers(vec![open()])));
    (honest, visitor)
}

/// The entry of its call with this number.
fn asks(visitor: &mut Author, counter: u64, target: PeerId) -> SignedEntry {
    let call = header(&visitor.id(), counter, target);
    visitor.says(Kind::CALL, encode(&call))
}

fn invoked(out: &[Output]) -> Vec<(ReqId, Attempt)> {
    let runs = out.iter().filter_map(|output| if let Output::Invoke(run) = output { Some(run) } else { None });
    runs.map(|run| (run.id, run.attempt)).collect()
}

fn together(entries: Vec<SignedEntry>) -> Frame {
    let entries = entries.into_iter().map(|entry| EntryItem { entry, left_ms: None }).collect();
    Frame::Entries { entries, more: false }
}

#[test]
fn one_that_was_let_in_for_one_call_asks_for_many_and_gets_one() {
    let (mut honest, mut visitor) = visited();
    let me = honest.id();
    let first = asks(&mut visitor, 1, me);
    let runs = invoked(&honest.hears(&visitor, pushed(first)));
    let [(id, attempt)] = runs[..] else { panic!("{runs:?}") };
    let more: Vec<SignedEntry> = (2..=5).map(|counter| asks(&mut visitor, counter, me)).collect();
    assert!(invoked(&honest.hears(&visitor, together(more))).is_empty());
    let out = honest.step(Input::ToolEnded(id, attempt, test_kit::done()));
    assert!(invoked(&out).is_empty());
    let after = asks(&mut visitor, 6, me);
    assert!(invoked(&honest.hears(&visitor, pushed(after))).is_empty());
    honest.pass(STAY_AFTER_CALL_MS + 1_000);
    assert!(honest.peer().tier(&visitor.id()).is_none(), "its stay is over with its call");
}

/// The ending of its call and another call come in one frame: no step lies between them in which it could be said that the stay
/// is over.
#[test]
fn one_whose_call_has_ended_asks_again_in_the_same_frame() {
    let (mut honest, mut visitor) = visited();
    let mut target = honest.author(2);
    honest.admit(&target, Tier::Owner);
    let says = target.says(Kind::DIRECTORY, encode(&offers(vec![open()])));
    honest.hears(&target, pushed(says));
    let first = asks(&mut visitor, 1, target.id());
    let id = first.header().unwrap().id;
    honest.hears(&visitor, pushed(first));
    let ended = target.says(Kind::OUTCOME, encode(&outcome(id, Ending::Done)));
    let me = honest.id();
    let again = asks(&mut visitor, 2, me);
    let second = again.header().unwrap().id;
    let out = honest.hears(&target, together(vec![ended, again]));
    assert!(invoked(&out).is_empty(), "{out:?}");
    assert!(!matches!(honest.state(&second), Some(CallState::Open(_))), "{:?}", honest.state(&second));
}

/// The device that saw its call end does not lead, and starts anew before it does.
#[test]
fn one_whose_call_has_ended_asks_again_after_a_restart() {
    let (mut honest, mut visitor) = visited();
    let mut other = honest.author(2);
    honest.admit(&other, Tier::Owner);
    let first = asks(&mut visitor, 1, other.id());
    let id = first.header().unwrap().id;
    honest.hears(&visitor, pushed(first));
    honest.crash();
    honest.step(Input::LinkUp(other.id()));
    let ended = other.says(Kind::OUTCOME, encode(&outcome(id, Ending::Done)));
    honest.hears(&other, pushed(ended));
    assert!(!honest.peer().leads());
    assert!(honest.peer().tier(&visitor.id()).is_some(), "whoever leads says it");
    honest.crash();
    honest.step(Input::LinkUp(visitor.id()));
    let me = honest.id();
    let again = asks(&mut visitor, 2, me);
    let mut out = honest.hears(&visitor, pushed(again));
    out.extend(honest.pass(10_000));
    assert!(honest.peer().leads() && invoked(&out).is_empty(), "{out:?}");
    honest.pass(STAY_AFTER_CALL_MS + 1_000);
    assert!(honest.peer().tier(&visitor.id()).is_none());
}

/// Two gateways that cannot hear each other each send a call of it to one device: it runs one of them.
#[test]
fn one_that_asks_in_two_halves_runs_once_at_a_target_that_saw_both() {
    let (mut honest, mut visitor) = visited();
    let mut other = honest.author(2);
    honest.admit(&other, Tier::Owner);
    let says = other.says(Kind::DIRECTORY, encode(&offers(vec![open()])));
    honest.hears(&other, pushed(says));
    // Its call ended in the other half, whose gateway has not said that its stay is over; then it asks here.
    let first = asks(&mut visitor, 1, other.id());
    let id = first.header().unwrap().id;
    let ended = other.says(Kind::OUTCOME, encode(&outcome(id, Ending::Done)));
    honest.hears(&visitor, pushed(first));
    honest.hears(&other, pushed(ended));
    let me = honest.id();
    let again = asks(&mut visitor, 2, me);
    assert!(invoked(&honest.hears(&visitor, pushed(again))).is_empty());
}
