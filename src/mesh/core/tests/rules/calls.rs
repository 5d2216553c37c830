//! One call, or what looks like one, from two halves of a mesh.

use std::num::NonZeroU8;

use bytes::Bytes;
use mesh_core::config::Config;
use mesh_core::io::{CallState, Command, Edit, Fact, Input, NewCall, Refusal, Reply};
use mesh_core::policy::{Device, Key, Person, Role, Value};
use mesh_core::record::{Effect, Ending, Payload, Tier, ToolDecl};
use mesh_core::test_kit::{self, Net, done, id, offers, tool};

use crate::revoked::by_hand;
use crate::{call, once};

fn keyed(target: usize, key: &str) -> NewCall {
    NewCall { client_key: Some(key.to_owned()), ..call(target) }
}

#[test]
fn one_client_key_in_two_halves_runs_once_and_the_second_id_reads_as_the_first() {
    let mut net = Net::of(3);
    net.split(&[&[0], &[1, 2]]);
    let second = net.ask(0, keyed(2, "order-7"));
    let first = net.ask(1, keyed(2, "order-7"));
    assert_ne!(first, second);
    net.join_all();
    assert_eq!((net.runs(&first), net.runs(&second)), (1, 0));
    for n in 0..3 {
        let (ran, other) = (net.record(n, &first).unwrap(), net.record(n, &second).unwrap());
        assert_eq!((ran.state, ran.alias_of), (CallState::Ended(Ending::Done), None), "at {n}");
        assert_eq!((other.alias_of, other.confirmed), (Some(first), true), "at {n}");
    }
    // The client that asks once more gets one that leads to the same.
    let again = net.command(0, Command::Call(keyed(2, "order-7")));
    assert_eq!(again, Reply::Call { id: second, created: false });
}

#[test]
fn one_client_key_for_two_things_in_two_halves_is_refused_for_the_second() {
    let mut net = Net::of(3);
    net.split(&[&[0], &[1, 2]]);
    let other = NewCall { arguments: Payload::Inline(Bytes::from_static(b"{\"n\":2}")), ..keyed(2, "order-7") };
    let second = net.ask(0, other.clone());
    let first = net.ask(1, keyed(2, "order-7"));
    net.join_all();
    assert_eq!((net.runs(&first), net.runs(&second)), (1, 0));
    let record = net.record(0, &second).unwrap();
    assert_eq!((record.state, record.alias_of), (CallState::Ended(Ending::Denied), None));
    assert!(record.reason.starts_with("key reused"), "{}", record.reason);
    let third = net.command(1, Command::Call(other));
    assert_eq!(third, Reply::Refused(Refusal::KeyReused(first)));
}

#[test]
fn a_repeat_that_comes_while_the_first_only_waits_does_not_take_its_key() {
    let mut net = Net::of(3);
    net.tools_end = false;
    // All places are taken.
    for _ in 0..4 {
        net.ask(1, call(2));
    }
    net.split(&[&[0], &[1, 2]]);
    let second = net.ask(0, keyed(2, "order-7"));
    let first = net.ask(1, keyed(2, "order-7"));
    net.join_all();
    assert_eq!(net.record(1, &second).unwrap().alias_of, Some(first));
    net.finish_tools(2);
    net.pass(1_000);
    assert_eq!(net.runs(&first), 1);
    // The process dies in the middle: the attempt that follows is not taken for a repeat of its own repeat.
    net.restart(2);
    net.tools_end = true;
    net.join_all();
    net.pass(5_000);
    let record = net.record(1, &first).unwrap();
    assert_eq!((record.state, record.attempt, net.runs(&first)), (CallState::Ended(Ending::Done), 2, 2));
    assert_eq!(net.runs(&second), 0);
}

#[test]
fn l3_a_repeat_of_a_call_that_is_cancelled_while_it_waits_does_not_run() {
    let mut net = Net::of(3);
    net.tools_end = false;
    for _ in 0..4 {
        net.ask(1, call(2));
    }
    net.split(&[&[0], &[1, 2]]);
    let second = net.ask(0, keyed(2, "order-7"));
    let first = net.ask(1, keyed(2, "order-7"));
    net.join_all();
    // The second ends as a repeat of one that only waits, and that one is cancelled.
    assert_eq!(net.record(1, &second).unwrap().alias_of, Some(first));
    net.command(1, Command::Cancel { id: first, reason: "no more".to_owned() });
    net.pass(1_000);
    assert_eq!((net.runs(&first), net.runs(&second)), (0, 0));
    net.tools_end = true;
    net.finish_tools(2);
}

#[test]
fn a_key_that_waits_while_its_origin_is_raised_to_owner_is_one_of_the_owners_when_it_starts() {
    let mut net = Net::of(3);
    net.approve(0, 1, "guest", Tier::Shared);
    // At both of them sits the same person.
    let mia = Value::Person(Person { role: Role::Owner, ..Person::default() });
    let hers = || Some(Value::Device(Device { people: vec!["mia".parse().unwrap()], ..Device::default() }));
    let changes = vec![
        (Key::Person("mia".parse().unwrap()), Some(mia)),
        (Key::Device(id(0)), hers()),
        (Key::Device(id(1)), hers()),
    ];
    let edit = Edit { by: "person:owner".parse().unwrap(), changes, declared: false, force: false, seen: Vec::new() };
    assert_eq!(net.command(0, Command::Edit(edit)), Reply::Edited { written: 3 });
    net.pass(1_000);
    net.tools_end = false;
    for _ in 0..4 {
        net.ask(0, call(2));
    }
    let first = net.ask(1, keyed(2, "order-7"));
    let second = net.ask(0, keyed(2, "order-7"));
    net.approve(0, 1, "guest", Tier::Owner);
    net.pass(1_000);
    net.tools_end = true;
    net.finish_tools(2);
    net.pass(5_000);
    assert_eq!((net.runs(&first), net.runs(&second)), (1, 0));
    let record = net.record(0, &second).unwrap();
    assert_eq!((record.alias_of, record.confirmed), (Some(first), true));
}

#[test]
fn a_second_attempt_that_two_gateways_open_is_the_same_attempt() {
    let mut net = Net::of(3);
    net.tools_end = false;
    let asked = net.ask(0, call(2));
    assert_eq!(net.runs(&asked), 1);
    net.restart(2);
    net.split(&[&[0, 2], &[1]]);
    net.pass(2_000);
    assert_eq!(net.runs(&asked), 2, "0 leads and opens the second attempt");
    net.split(&[&[1, 2], &[0]]);
    net.pass(5_000);
    assert!(net.peer(1).leads(), "and so does 1, which did not know of it");
    net.finish_tools(2);
    net.join_all();
    let attempts: Vec<_> = net.devices[2].ran.iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1, 2]);
    for n in 0..3 {
        let record = net.record(n, &asked).unwrap();
        assert_eq!((record.state, record.attempt), (CallState::Ended(Ending::Done), 2), "at {n}");
    }
}

#[test]
fn calls_for_which_a_gateway_had_no_room_run_when_it_has() {
    let mut net = Net::of(3);
    for n in 0..3 {
        net.restart_as(n, Config { queue_max: 2, ..Config::default() });
    }
    net.join_all();
    let gateway = (0..3).find(|n| net.peer(*n).leads()).unwrap();
    let (origin, target) = ((gateway + 1) % 3, (gateway + 2) % 3);
    net.split(&[&[gateway, origin]]);
    let asked: Vec<_> = (0..7).map(|_| net.ask(origin, call(target))).collect();
    net.pass(5_000);
    assert_eq!(net.peer(gateway).open_calls().count(), 2);
    net.join_all();
    net.pass(10_000);
    for id in asked {
        assert_eq!(net.runs(&id), 1);
        for n in 0..3 {
            assert_eq!(net.record(n, &id).unwrap().state, CallState::Ended(Ending::Done), "at {n}");
        }
    }
}

/// A mesh of one in which our own outcomes are told to ourselves as the gateway: nothing of that is news.
#[test]
fn calls_in_flight_on_a_mesh_of_one_read_no_log_and_change_no_view() {
    const IN_FLIGHT: usize = 8;
    let mut net = by_hand(1);
    net.pass(4_000);
    assert!(net.peer(0).leads());
    net.devices[0].facts.clear();
    net.devices[0].log_reads = 0;
    for _ in 0..IN_FLIGHT {
        net.ask(0, once(0));
    }
    for ended in 0..400 {
        assert!(ended < net.devices[0].ran.len(), "{ended} calls ran, then none started");
        let ran = net.devices[0].ran[ended].id;
        net.input(0, Input::ToolEnded(ran, 1, done()));
        net.ask(0, once(0));
    }
    let views = net.devices[0].facts.iter().filter(|fact| matches!(fact, Fact::View)).count();
    assert_eq!((net.devices[0].log_reads, views), (0, 0));
}

#[test]
fn a_tool_that_runs_once_at_a_time_loses_no_call_and_holds_up_no_other_tool() {
    const CALLS: usize = 40;
    let mut net = Net::of(3);
    net.tools_end = false;
    let one = ToolDecl { at_once: NonZeroU8::new(1), ..tool("one", Effect::Once) };
    net.command(2, Command::SetDirectory(offers(vec![one, tool("echo", Effect::None)])));
    net.pass(500);
    let calls: Vec<_> = (0..CALLS).map(|_| net.ask(1, test_kit::call(&id(2), "one"))).collect();
    let ran = |net: &Net| calls.iter().take_while(|id| net.runs(id) == 1).count();
    let begun = |net: &Net| calls.iter().map(|id| net.runs(id)).sum::<usize>();
    assert_eq!((ran(&net), begun(&net)), (1, 1));
    let other = net.ask(1, call(2));
    assert_eq!(net.runs(&other), 1, "{CALLS} calls of one tool are more than there are places at its device");
    for round in 1..=CALLS {
        net.finish_tools(2);
        assert_eq!(
            (ran(&net), begun(&net)),
            ((round + 1).min(CALLS), (round + 1).min(CALLS)),
            "in order, round {round}"
        );
    }
    for id in &calls {
        assert_eq!(net.record(1, id).unwrap().state, CallState::Ended(Ending::Done));
    }
}

#[test]
fn how_often_a_tool_runs_at_once_is_taken_while_calls_wait() {
    let mut net = Net::of(2);
    net.tools_end = false;
    let with = |net: &mut Net, at_once: u8| {
        let one = ToolDecl { at_once: NonZeroU8::new(at_once), ..tool("one", Effect::Once) };
        net.command(1, Command::SetDirectory(offers(vec![one])));
        net.pass(500);
    };
    with(&mut net, 1);
    let mut calls: Vec<_> = (0..3).map(|_| net.ask(0, test_kit::call(&id(1), "one"))).collect();
    let begun = |net: &Net, calls: &[_]| calls.iter().map(|id| net.runs(id)).sum::<usize>();
    assert_eq!(begun(&net, &calls), 1);
    with(&mut net, 3);
    assert_eq!(begun(&net, &calls), 3, "what waits at the device begins");
    calls.extend((0..5).map(|_| net.ask(0, test_kit::call(&id(1), "one"))));
    assert_eq!(begun(&net, &calls), 3);
    with(&mut net, 0);
    assert_eq!(begun(&net, &calls), 4, "as many as the device runs calls");
    with(&mut net, 2);
    net.finish_tools(1);
    assert_eq!(begun(&net, &calls), 6);
}
