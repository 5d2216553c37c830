//! Logs that forget.

use std::collections::BTreeSet;

use mesh_core::config::Config;
use mesh_core::io::{CallState, NewCall, Space};
use mesh_core::record::{Ending, Tier};
use mesh_core::test_kit::Net;

use crate::call;

/// So much of a log may stay although nobody needs it.
const REST: usize = 8;

fn forgets_soon(net: &mut Net, n: usize) {
    let config = Config {
        keep_entries_ms: 60_000,
        keep_calls_ms: 20_000,
        forget_after_ms: 40_000,
        compact_every_ms: 5_000,
        compact_min: REST,
        ..Config::default()
    };
    net.restart_as(n, config);
}

fn logged(net: &Net, n: usize) -> BTreeSet<Vec<u8>> {
    net.backup(n).keys(Space::Log).map(<[u8]>::to_vec).collect()
}

fn ask_many(net: &mut Net, count: usize) {
    for n in 0..count {
        let id = net.ask(n % 2, NewCall { ttl_ms: 5_000, ..call(1 - n % 2) });
        net.pass(100);
        let record = net.record(n % 2, &id).expect("known at its origin");
        assert_eq!(record.state, CallState::Ended(Ending::Done));
    }
}

#[test]
fn what_nobody_needs_goes_everywhere_and_who_was_away_or_is_new_does_without() {
    let mut net = Net::of(3);
    for n in 0..3 {
        forgets_soon(&mut net, n);
    }
    net.join_all();
    let few = logged(&net, 0).len();
    ask_many(&mut net, 20);
    // 2 is away while most happens, and for long after it is forgotten.
    net.split(&[&[0, 1], &[2]]);
    ask_many(&mut net, 60);
    assert!(logged(&net, 0).len() >= few + 160);
    net.pass(120_000);
    let bound = few + 3 * (REST + 1);
    for n in 0..2 {
        assert!(logged(&net, n).len() <= bound, "{} at {n}", logged(&net, n).len());
    }
    net.join_all();
    net.pass(30_000);
    // A newcomer gets what is left, and can do all that others can.
    net.invite(1, 3, "new", Tier::Owner);
    net.join_all();
    net.pass(5_000);
    for n in 1..4 {
        assert_eq!(logged(&net, n), logged(&net, 0), "{n}");
        assert!(net.peer(n).open_calls().next().is_none(), "nothing is waited for at {n}");
        assert_eq!(net.names(n), net.names(0));
    }
    let id = net.ask(3, call(0));
    net.pass(1_000);
    assert_eq!(net.record(3, &id).map(|record| record.state), Some(CallState::Ended(Ending::Done)));
    assert_eq!(net.runs(&id), 1);
    // And so after a restart.
    for n in 0..4 {
        net.restart(n);
    }
    net.join_all();
    net.pass(5_000);
    for n in 1..4 {
        assert_eq!(logged(&net, n), logged(&net, 0), "{n}");
    }
    // What one of them says now reaches all, past what is gone.
    net.revoke(2, 3);
    net.pass(1_000);
    for n in 0..3 {
        assert!(!net.names(n).contains_key(&3), "{n}");
    }
}

#[test]
fn a_leader_is_not_late_for_what_was_due_before_it_was_known() {
    let mut net = Net::of(3);
    for n in 0..3 {
        net.restart_as(n, Config { keep_calls_ms: 0, ..Config::default() });
    }
    net.join_all();
    let leader = (0..3).find(|n| net.peer(*n).leads()).unwrap();
    let away = (leader + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|n| *n != away).collect();
    net.split(&[&others]);
    let led = net.peer(leader).view().gateway;
    // It ends the call at twice the margin after its time; with nothing kept, its books were to close before that.
    let id = net.ask(leader, NewCall { ttl_ms: 1_000, ..call(away) });
    net.pass(15_000);
    assert!(matches!(net.record(leader, &id).map(|record| record.state), Some(CallState::Ended(_))));
    assert_eq!(net.peer(leader).view().gateway, led);
}
