//! A device whose disk was put back to an older state, or copied.

use mesh_core::entry::Place;
use mesh_core::frame::{Dispatch, Frame};
use mesh_core::ids::{Hash, ReqId};
use mesh_core::io::{CallState, Command, Fact, Halt, Input, Refusal, Reply, Space};
use mesh_core::record::{Ending, Tier};
use mesh_core::rows;
use mesh_core::test_kit::{Net, done, id, key};

use crate::revoked::{by_hand, settled};
use crate::{call, of_unknown_kind, once};

fn warned(net: &Net, n: usize, about: usize, part: &str) -> bool {
    let hit = |fact: &Fact| matches!(fact, Fact::Warning(text, peer) if *peer == id(about) && text.contains(part));
    net.devices[n].facts.iter().any(hit)
}

#[test]
fn a_restored_device_starts_a_new_incarnation_and_runs_nothing_a_second_time() {
    let mut net = Net::of(3);
    let backup = net.backup(2);
    let before = net.peer(2).view().incarnation;
    let over = net.ask(0, call(2));
    net.tools_end = false;
    let open = net.ask(0, call(2));
    assert_eq!((net.runs(&over), net.runs(&open)), (1, 1));
    net.restore(2, &backup, false);
    net.join_all();
    net.pass(10_000);
    assert_eq!((net.runs(&over), net.runs(&open)), (1, 1));
    assert_ne!(net.peer(2).view().incarnation, before);
    assert!(warned(&net, 2, 2, "restored"));
    for n in [0, 1] {
        assert_eq!(net.record(n, &over).unwrap().state, CallState::Ended(Ending::Done), "at {n}");
        let record = net.record(n, &open).unwrap();
        assert_eq!((record.state, record.confirmed), (CallState::Ended(Ending::Undeliverable), false), "at {n}");
        assert!(record.reason.contains("may or may not have happened"), "{}", record.reason);
    }
    // It is a member as before, and what is asked of its new incarnation runs.
    net.tools_end = true;
    let late = net.ask(0, call(2));
    net.pass(1_000);
    assert_eq!(net.runs(&late), 1);
    assert_eq!(net.record(0, &late).unwrap().state, CallState::Ended(Ending::Done));
    assert!(net.peer(2).view().halts.is_empty());
}

#[test]
fn a_store_restored_after_others_received_news_of_a_run_does_not_run_it_again() {
    let mut net = Net::of(3);
    let backup = net.backup(2);
    net.tools_end = false;
    let open = net.ask(0, call(2));
    // Nothing else is ever written by the target: the checkpoint alone tells.
    net.pass(1_000);
    net.restore(2, &backup, false);
    net.join_all();
    net.pass(10_000);
    assert_eq!(net.runs(&open), 1);
    assert!(warned(&net, 2, 2, "restored"));
    let record = net.record(0, &open).unwrap();
    assert_eq!((record.state, record.confirmed), (CallState::Ended(Ending::Undeliverable), false));
}

#[test]
fn a_restored_device_gets_its_own_lost_entries_back() {
    let mut net = Net::of(3);
    let backup = net.backup(2);
    net.split(&[&[0, 2], &[1]]);
    // What it had asked for itself, and whom it had approved.
    let asked = net.ask(2, call(1));
    net.approve(2, 3, "tablet", mesh_core::record::Tier::Shared);
    net.pass(1_000);
    net.restore(2, &backup, false);
    assert!(!net.names(2).contains_key(&3) && net.record(2, &asked).is_none());
    net.join_all();
    assert!(net.names(2).contains_key(&3));
    net.pass(5_000);
    assert_eq!(net.runs(&asked), 1);
    assert_eq!(net.record(2, &asked).unwrap().state, CallState::Ended(Ending::Done));
}

#[test]
fn one_that_wrote_on_before_it_met_anyone_is_found_out_all_the_same() {
    let mut net = Net::of(3);
    let backup = net.backup(2);
    let before = net.peer(2).view().incarnation;
    net.ask(2, call(0));
    net.pass(1_000);
    net.restore(2, &backup, false);
    // As many entries as were lost, and some more: no digest shows that they are others.
    for _ in 0..3 {
        net.ask(2, call(2));
    }
    net.join_all();
    net.pass(5_000);
    assert_ne!(net.peer(2).view().incarnation, before);
    assert!(warned(&net, 0, 2, "two conflicting log entries") || warned(&net, 1, 2, "two conflicting log entries"));
    let late = net.ask(2, call(0));
    net.pass(2_000);
    assert_eq!(net.runs(&late), 1, "its new incarnation is trusted as before");
    for n in 0..3 {
        assert!(net.peer(n).view().forked.is_empty(), "at {n}");
    }
}

#[test]
fn what_ran_while_two_wrote_at_the_same_places_reads_alike_in_all_books() {
    let mut net = Net::of(3);
    let copied = net.backup(2);
    // 1 alone receives what the one process writes, and 0 what the other does.
    net.split(&[&[0], &[1, 2]]);
    for _ in 0..3 {
        net.ask(2, call(2));
    }
    net.restore(2, &copied, false);
    net.split(&[&[0, 2], &[1]]);
    net.pass(5_000);
    let asked = net.ask(0, call(2));
    net.pass(1_000);
    assert_eq!(net.runs(&asked), 1);
    net.join_all();
    net.pass(5_000);
    for n in 0..3 {
        let told = net.record(n, &asked).unwrap();
        assert_eq!((told.state, told.confirmed), (CallState::Ended(Ending::Done), true), "at {n}");
    }
    assert_eq!(net.endings_said(2), 2, "in the incarnation that another wrote in, too, and in its own");
}

#[test]
fn what_contradicts_its_author_s_log_is_kept_apart_and_nothing_after_it_runs() {
    let mut net = Net::of(2);
    assert!(matches!(net.approve(0, 2, "liar", mesh_core::record::Tier::Shared), mesh_core::io::Reply::Approved(_)));
    let mut liar = net.author(2);
    let mut forked = liar.clone();
    let (first, other) = (of_unknown_kind(&mut liar, 98, false), of_unknown_kind(&mut forked, 97, false));
    net.hears(1, &liar, first);
    net.hears(1, &liar, other);
    assert_eq!(net.peer(1).view().forked, [id(2)]);
    let second = of_unknown_kind(&mut liar, 98, false);
    net.hears(1, &liar, second);
    let kept = net.backup(1);
    let forks = kept.keys(Space::Meta).filter(|key| rows::fork_of(key).is_some()).count();
    let unsupported = kept.keys(Space::Meta).filter(|key| rows::unsupported_of(key).is_some()).count();
    assert_eq!((forks, unsupported), (1, 2), "the other, and the branch that came first");
    net.restart(1);
    assert_eq!(net.peer(1).view().forked, [id(2)], "it outlives a restart");
}

#[test]
fn sessions_that_alternate_are_a_copy_and_neither_gets_calls() {
    let mut net = Net::of(2);
    for nonce in [1, 2, 3] {
        net.input(0, Input::Session(id(1), nonce));
    }
    assert!(net.peer(0).view().copied.is_empty(), "it was started three times");
    net.input(0, Input::Session(id(1), 2));
    assert_eq!(net.peer(0).view().copied, [id(1)]);
    assert!(warned(&net, 0, 1, "twice"));
    let (to_it, of_it) = (net.ask(0, call(1)), net.ask(1, call(0)));
    net.pass(5_000);
    assert_eq!((net.runs(&to_it), net.runs(&of_it)), (0, 0));
    // Nothing alternates any more.
    net.pass(620_000);
    assert!(net.peer(0).view().copied.is_empty());
    let late = net.ask(0, call(1));
    net.pass(31_000);
    assert_eq!(net.runs(&late), 1);
}

#[test]
fn an_attempt_of_one_process_goes_to_another_once_the_former_had_time_to_come_back() {
    let dispatches = |net: &Net, n: usize, about: ReqId| {
        let sent = |frame: &Frame| matches!(frame, Frame::Dispatch(Dispatch { header, .. }) if header.header().is_some_and(|header| header.id == about));
        net.devices[n].got.iter().filter(|(_, frame)| sent(frame)).count()
    };
    for returns in [false, true] {
        let (mut net, leader, target) = settled();
        net.tools_end = false;
        net.input(leader, Input::Session(id(target), 1));
        net.input(leader, Input::NodeUp(id(target), 1));
        let asked = net.ask(leader, call(target));
        let before = dispatches(&net, target, asked);
        assert_eq!(net.runs(&asked), 1);
        net.input(leader, Input::NodeDown(id(target), 1));
        // A process with the same key takes its place: the device began anew, or it is a copy of it.
        net.input(leader, Input::Session(id(target), 2));
        net.input(leader, Input::NodeUp(id(target), 2));
        let new = net.ask(leader, call(target));
        net.pass(2_500);
        assert_eq!(dispatches(&net, target, asked), before, "the other may still be there, and run it");
        assert_eq!(net.runs(&new), 1, "one that nobody was given yet does not wait");
        if returns {
            net.input(leader, Input::Session(id(target), 1));
            net.pass(5_000);
            assert_eq!(dispatches(&net, target, asked), before, "there are two");
        } else {
            net.pass(1_000);
            assert!(dispatches(&net, target, asked) > before, "the other did not come back");
        }
    }
}

#[test]
fn of_two_processes_with_one_key_the_one_that_sees_the_other_begin_again_starts_nothing() {
    let mut net = Net::of(3);
    let copy = net.backup(2);
    net.ask(2, call(0));
    net.pass(1_000);
    // The copy comes up beside the first: it is taken for one that was restored, once.
    net.restore(2, &copy, false);
    net.join_all();
    assert!(net.peer(2).view().halts.is_empty());
    // And the first, in another incarnation again, says something too.
    let seen = net.peer(2).view().incarnation;
    let other = net.as_another_incarnation(2, seen);
    net.input(2, other);
    net.pass(1_000);
    assert_eq!(net.peer(2).view().halts, [Halt::Copied]);
    assert!(!net.peer(2).leads());
    let told = net.peer(2).view().incarnation;
    assert_ne!(told, seen, "the other, which saw that one, learns by this one that there are two");
    assert!(net.devices[0].log().iter().any(|entry| entry.place().incarnation == told), "it goes round");
    let third = net.as_another_incarnation(2, told);
    net.input(2, third);
    net.pass(1_000);
    assert_eq!(net.peer(2).view().incarnation, told, "two that see each other do so once");
    let asked = net.ask(0, call(2));
    net.pass(5_000);
    assert_eq!(net.runs(&asked), 0);
    let waiting = net.record(0, &asked).unwrap();
    assert!(waiting.history.iter().any(|row| row.reason.contains("two devices use this key")), "{waiting:?}");
}

#[test]
fn a_restored_peer_runs_nothing_of_its_former_incarnation_and_gets_its_own_entries_back() {
    let (mut net, leader, target) = settled();
    let former = net.peer(target).view().incarnation;
    let backup = net.backup(target);
    net.input(leader, Input::NodeUp(id(target), 1));
    let ran = net.ask(0, once(target));
    net.input(target, Input::ToolEnded(ran, 1, done()));
    net.input(leader, Input::NodeDown(id(target), 1));
    let waits = net.ask(0, once(target));
    let said = |net: &Net| {
        let of_former = |place: Place| (place.author, place.incarnation) == (id(target), former);
        net.devices[target].log().iter().filter(|entry| of_former(entry.place())).count()
    };
    let invoked = |net: &Net| net.devices[target].ran.iter().map(|run| run.id).collect::<Vec<_>>();
    let before = said(&net);

    net.restore(target, &backup, true);
    assert_ne!(net.peer(target).view().incarnation, former);
    assert!(said(&net) < before);
    for other in (0..3).filter(|other| *other != target) {
        net.link(target, other);
    }
    net.pass(1_000);
    assert_eq!(said(&net), before, "what it had sent to the others it gets back from them");
    let told = net.peer(0).open_call(&waits).expect("not confirmed by anyone");
    assert_eq!((told.state, told.confirmed), (CallState::Ended(Ending::Undeliverable), false));
    let leader = (0..3).find(|n| net.peer(*n).leads()).expect("somebody leads");
    net.input(leader, Input::NodeUp(id(target), 2));
    net.pass(2_000);
    assert_eq!(invoked(&net), [ran], "neither again nor anew");
    let new = net.ask(0, once(target));
    assert_eq!(invoked(&net), [ran, new], "its new incarnation is like any other");
}

/// A code that may have let somebody in since.
#[test]
fn codes_of_a_store_that_was_restored_let_nobody_in() {
    for noticed in [true, false] {
        let mut net = Net::of(2);
        let secret = Hash([1; 32]);
        let invite = Command::Invite { secret, tier: Tier::Owner, ttl_ms: 3_600_000, name: None, stay: None };
        assert_eq!(net.command(0, invite), Reply::Invited);
        let backup = net.backup(0);
        let redeem = |n| Command::Redeem { secret, key: key(n), node_id: "guest".parse().unwrap() };
        assert!(matches!(net.command(0, redeem(7)), Reply::Approved(_)));
        net.pass(1_000);
        net.restore(0, &backup, noticed);
        net.join_all();
        net.pass(5_000);
        let answer = net.command(0, redeem(8));
        assert!(matches!(answer, Reply::Refused(Refusal::InviteVoid)), "noticed {noticed}: {answer:?}");
    }
}

#[test]
fn a_restored_peer_leads_with_no_epoch_that_it_may_have_led_with_before() {
    /// Claims that a restored store may have lost at most.
    const LOST_MAX: u64 = 4_096;
    let mut net = by_hand(1);
    let backup = net.backup(0);
    net.pass(2_000);
    let led = net.peer(0).view().gateway.expect("it is alone");
    let mut counters = vec![led.counter];
    for _ in 0..3 {
        net.restore(0, &backup, true);
        net.pass(2_000);
        counters.push(net.peer(0).view().gateway.expect("it is alone").counter);
    }
    assert!(counters.iter().skip(1).all(|counter| *counter > led.counter + LOST_MAX));
    counters.sort_unstable();
    counters.dedup();
    assert_eq!(counters.len(), 4, "not even when the same backup comes back again");
}
