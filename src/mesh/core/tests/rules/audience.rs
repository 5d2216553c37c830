//! Bodies of entries: who gets them, from whom, and when.

use mesh_core::audience::Audience;
use mesh_core::entry::{Kind, SignedEntry};
use mesh_core::frame::{EntryItem, Frame, Places};
use mesh_core::ids::PeerId;
use mesh_core::io::{CallState, Command, Input};
use mesh_core::record::{Ending, MembershipChange, Tier};
use mesh_core::test_kit::{Net, id};

use crate::call;

/// Two owners, and a device of tier shared.
fn with_a_guest() -> Net {
    let mut net = Net::apart(2);
    net.invite(0, 2, "guest", Tier::Shared);
    net.join_all();
    net
}

fn of_calls(net: &Net, n: usize) -> Vec<SignedEntry> {
    let mut log = net.devices[n].log();
    log.retain(|entry| [Kind::CALL, Kind::OUTCOME, Kind::CANCEL].contains(&entry.entry.kind));
    log
}

fn is_named(entry: &SignedEntry, peer: &PeerId) -> bool {
    entry.author == *peer || entry.entry.audience.names(peer)
}

fn items(frame: &Frame) -> &[EntryItem] {
    if let Frame::Entries { entries, .. } | Frame::Bodies { entries, .. } = frame { entries } else { &[] }
}

/// Asserts that a device that is no owner holds all envelopes, and of bodies only those that name it; and that it was
/// sent no other.
#[track_caller]
fn assert_outside(net: &Net, n: usize) {
    let (owner, guest) = (of_calls(net, 0), of_calls(net, n));
    assert_eq!(owner.len(), guest.len(), "every envelope is here");
    for (full, here) in owner.iter().zip(&guest) {
        assert!(full.has_body() && full.hash == here.hash);
        assert_eq!(here.has_body(), is_named(here, &id(n)), "{here:?}");
    }
    let sent = net.devices[n].got.iter().flat_map(|(_, frame)| items(frame));
    for item in sent.filter(|item| item.entry.has_body()) {
        assert!(item.entry.entry.audience == Audience::Everyone || is_named(&item.entry, &id(n)), "{item:?}");
    }
}

#[test]
fn s03_calls_of_owners_are_withheld_from_those_who_joined_before_and_after() {
    let mut net = with_a_guest();
    let first = net.ask(0, call(1));
    net.tools_end = false;
    let second = net.ask(1, call(0));
    net.command(1, Command::Cancel { id: second, reason: "no more".to_owned() });
    net.tools_end = true;
    net.pass(1_000);
    net.invite(1, 3, "late", Tier::Shared);
    net.join_all();
    // What they ask for and what they run they see, and each only its own.
    let (asked, ran) = (net.ask(2, call(1)), net.ask(0, call(3)));
    net.pass(1_000);
    for n in [2, 3] {
        assert!(net.record(n, &first).is_none() && net.record(n, &second).is_none(), "at {n}");
        assert_outside(&net, n);
    }
    for (n, own, other) in [(2, asked, ran), (3, ran, asked)] {
        assert_eq!(net.record(n, &own).unwrap().state, CallState::Ended(Ending::Done), "at {n}");
        assert!(net.record(n, &other).is_none());
    }
    for n in [0, 1] {
        for call in [first, second, asked, ran] {
            assert!(net.record(n, &call).is_some_and(|record| record.confirmed || call == second), "at {n}");
        }
    }
}

#[test]
fn s03_who_is_raised_to_owner_gets_the_bodies_then_and_who_is_lowered_no_new_ones() {
    let mut net = with_a_guest();
    let before = net.ask(0, call(1));
    net.pass(1_000);
    assert!(net.record(2, &before).is_none());
    net.approve(0, 2, "guest", Tier::Owner);
    net.pass(3_000);
    assert_eq!(net.record(2, &before).unwrap().state, CallState::Ended(Ending::Done));
    assert!(of_calls(&net, 2).iter().all(SignedEntry::has_body));
    let between = net.ask(1, call(0));
    net.pass(1_000);
    assert!(net.record(2, &between).is_some());

    net.approve(0, 2, "guest", Tier::Shared);
    net.pass(1_000);
    let after = net.ask(0, call(1));
    net.pass(31_000);
    assert!(net.record(2, &after).is_none());
    let news: Vec<_> = of_calls(&net, 2).into_iter().filter(|entry| !entry.has_body()).collect();
    assert_eq!(news.len(), 2, "the header and its outcome");
}

#[test]
fn s03_who_learns_at_once_that_it_is_lowered_and_of_a_call_asks_for_its_body() {
    let mut net = with_a_guest();
    net.split(&[&[0, 2], &[1]]);
    let asked = net.ask(0, call(1));
    net.approve(0, 1, "lowered", Tier::Shared);
    net.pass(1_000);
    // The guest brings both, without the body.
    net.split(&[&[0], &[1, 2]]);
    net.pass(2_000);
    net.join_all();
    net.pass(10_000);
    assert_eq!(net.record(1, &asked).map(|record| record.state), Some(CallState::Ended(Ending::Done)));
    assert!(of_calls(&net, 1).iter().all(SignedEntry::has_body));
}

#[test]
fn s03_what_came_by_way_of_one_outside_is_completed_by_one_inside() {
    let mut net = with_a_guest();
    // The owners reach each other only by way of the guest.
    net.unlink(0, 1);
    net.pass(5_000);
    let waits = net.ask(0, call(1));
    net.pass(40_000);
    assert!(net.runs(&waits) == 0 && net.record(1, &waits).is_none());
    assert!(of_calls(&net, 1).iter().any(|entry| !entry.has_body()), "the envelope has come");
    assert!(of_calls(&net, 2).iter().all(|entry| !entry.has_body()));
    net.restart(1);
    net.link(0, 1);
    net.pass(5_000);
    assert_eq!(net.runs(&waits), 1);
    for n in [0, 1] {
        assert_eq!(net.record(n, &waits).unwrap().state, CallState::Ended(Ending::Done), "at {n}");
        assert!(of_calls(&net, n).iter().all(SignedEntry::has_body), "at {n}");
    }
    net.join_all();
    assert_outside(&net, 2);
}

#[test]
fn a_call_that_no_linked_device_may_read_says_so() {
    let mut net = with_a_guest();
    net.split(&[&[0, 2], &[1]]);
    let waits = net.ask(0, call(1));
    let record = net.record(0, &waits).unwrap();
    assert!(record.history.last().unwrap().reason.starts_with("withheld by the devices reachable now"), "{record:?}");
    net.join_all();
    assert_eq!(net.record(0, &waits).unwrap().state, CallState::Ended(Ending::Done));
}

#[test]
fn k3_who_asks_for_bodies_that_are_not_for_it_gets_none() {
    let mut net = with_a_guest();
    net.ask(0, call(1));
    net.pass(1_000);
    let wanted: Vec<Places> = of_calls(&net, 0)
        .iter()
        .map(|entry| {
            let place = entry.place();
            Places { author: place.author, incarnation: place.incarnation, first: place.seq, last: place.seq }
        })
        .collect();
    assert_eq!(wanted.len(), 2);
    net.devices[2].got.clear();
    net.input(0, Input::Recv(id(2), Frame::Want(wanted.clone())));
    let answers: Vec<_> =
        net.devices[2].got.iter().filter(|(_, frame)| matches!(frame, Frame::Bodies { .. })).collect();
    assert_eq!(answers.len(), 1);
    assert!(items(&answers[0].1).is_empty(), "{answers:?}");
    // Nor is an answer read that nobody asked for, in the place of what is held.
    let whole = of_calls(&net, 0);
    let entries = whole.iter().map(|entry| EntryItem { entry: entry.clone(), left_ms: None }).collect();
    net.input(2, Input::Recv(id(0), Frame::Bodies { entries, until: None }));
    assert!(of_calls(&net, 2).iter().all(|entry| !entry.has_body()));
}

#[test]
fn s29_a_revoked_device_hears_its_own_revocation_and_what_proves_it() {
    let mut net = Net::of(3);
    net.split(&[&[0, 1], &[2]]);
    net.revoke(1, 2);
    net.invite(1, 3, "late", Tier::Owner);
    net.devices[2].got.clear();
    net.link(1, 2);
    net.pass(1_000);
    assert!(net.peer(2).view().revoked);
    let got = net.devices[2].got.iter().filter(|(from, _)| *from == id(1));
    let changes: Vec<MembershipChange> = got
        .flat_map(|(_, frame)| items(frame))
        .filter(|item| item.entry.entry.kind == Kind::MEMBERSHIP)
        .filter_map(|item| item.entry.record())
        .collect();
    let subjects: Vec<PeerId> = changes.iter().map(|change| change.subject.peer_id()).collect();
    assert!(subjects.contains(&id(2)) && !subjects.contains(&id(3)), "{changes:?}");
}
