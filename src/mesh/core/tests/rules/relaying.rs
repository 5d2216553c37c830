//! Relayed links: who wants one and by whom, and what handover makes of them.

use std::collections::BTreeMap;

use mesh_core::io::{CallState, Command};
use mesh_core::record::{Directory, Effect, Ending};
use mesh_core::relay::{RELAYED_SERVICE, RELAYING_SERVICE};
use mesh_core::test_kit::{Net, id, offers, tool};

use crate::call;

/// A mesh of devices that can all be relayed for; these relay for others, of this class.
fn mesh(count: usize, relays: &[(usize, u8)]) -> (Net, usize) {
    let mut net = Net::of(count);
    for n in 0..count {
        says(&mut net, n, relays.iter().find(|(relay, _)| *relay == n).map(|(_, class)| *class));
    }
    net.pass(1_000);
    let leader = (0..count).find(|peer| net.peer(*peer).leads()).unwrap();
    (net, leader)
}

fn says(net: &mut Net, n: usize, relay: Option<u8>) {
    let services = if relay.is_some() { vec![RELAYED_SERVICE, RELAYING_SERVICE] } else { vec![RELAYED_SERVICE] };
    let directory = offers(vec![tool("echo", Effect::Idempotent)]);
    let class = relay.unwrap_or(directory.class);
    net.command(n, Command::SetDirectory(Directory { services, class, ..directory }));
}

/// By whom a device wants whom to be relayed, by their numbers.
fn wanted(net: &Net, n: usize) -> BTreeMap<usize, Vec<usize>> {
    let number = |peer: &_| (0..100).find(|n| id(*n) == *peer).unwrap();
    let view = net.peer(n).view();
    view.relays.iter().map(|(peer, relays)| (number(peer), relays.iter().map(number).collect())).collect()
}

fn others(leader: usize) -> [usize; 3] {
    let mut others = (0..4).filter(|peer| *peer != leader);
    std::array::from_fn(|_| others.next().unwrap())
}

#[test]
fn the_gateway_and_who_lost_it_want_a_link_by_those_linked_to_both_the_strongest_first() {
    let (mut net, leader) = mesh(4, &[(0, 3), (1, 3), (2, 3), (3, 3)]);
    let [a, b, c] = others(leader);
    assert!((0..4).all(|n| wanted(&net, n).is_empty()), "everyone is linked directly");
    says(&mut net, c, Some(4));
    net.unlink(leader, a);
    assert_eq!(wanted(&net, leader), [(a, vec![c, b])].into());
    assert_eq!(wanted(&net, a), [(leader, vec![c, b])].into());
    assert!(wanted(&net, b).is_empty() && wanted(&net, c).is_empty());
    // A pair without the gateway waits for no link: its calls go by the gateway.
    net.unlink(a, b);
    assert_eq!(wanted(&net, leader), [(a, vec![c])].into(), "who lost one end relays to it no more");
    assert_eq!(wanted(&net, a), [(leader, vec![c])].into());
    assert!(wanted(&net, b).is_empty());
    net.link(leader, a);
    assert!((0..4).all(|n| wanted(&net, n).is_empty()));
}

#[test]
fn only_an_owner_that_says_so_relays_and_only_for_one_that_can_be_relayed_for() {
    let (mut net, leader) = mesh(4, &[]);
    let [a, b, c] = others(leader);
    net.unlink(leader, a);
    assert!(wanted(&net, leader).is_empty(), "nobody relays");
    says(&mut net, b, Some(3));
    assert_eq!(wanted(&net, leader), [(a, vec![b])].into());
    net.revoke(c, b);
    net.pass(1_000);
    assert!(wanted(&net, leader).is_empty(), "who was revoked carries nothing any more");
    says(&mut net, c, Some(3));
    assert_eq!(wanted(&net, leader), [(a, vec![c])].into());
    let old = Directory { services: Vec::new(), ..offers(vec![tool("echo", Effect::Idempotent)]) };
    net.command(a, Command::SetDirectory(old));
    assert!(wanted(&net, leader).is_empty(), "an older program does not know what a relay is");
}

#[test]
fn no_relayed_link_stands_on_a_relayed_link() {
    let (mut net, leader) = mesh(4, &[(0, 3), (1, 3), (2, 3), (3, 3)]);
    let [a, b, c] = others(leader);
    // A chain: leader - c - b - a.
    for (one, other) in [(leader, a), (leader, b), (a, c)] {
        net.unlink(one, other);
    }
    assert_eq!(wanted(&net, leader), [(b, vec![c])].into());
    net.link_by_relay(leader, b);
    assert_eq!(wanted(&net, leader), [(b, vec![c])].into(), "it stays wanted, and is no way to others");
    assert!(wanted(&net, a).is_empty());
}

#[test]
fn a_relayed_link_carries_calls_and_a_direct_one_replaces_it_unnoticed() {
    let (mut net, leader) = mesh(4, &[(0, 3), (1, 3), (2, 3), (3, 3)]);
    let [a, b, _] = others(leader);
    net.unlink(leader, a);
    net.link_by_relay(leader, a);
    let first = net.ask(b, call(a));
    net.pass(1_000);
    assert_eq!(net.record(b, &first).unwrap().state, CallState::Ended(Ending::Done));
    net.link_directly(leader, a);
    assert!(wanted(&net, leader).is_empty());
    let second = net.ask(b, call(a));
    net.pass(1_000);
    assert_eq!(net.record(b, &second).unwrap().state, CallState::Ended(Ending::Done));
    assert!(net.peer(leader).leads());
}

#[test]
fn l8_a_star_is_led_by_its_hub_although_a_leaf_reaches_as_many_by_it() {
    let (mut net, leader) = mesh(4, &[(0, 3), (1, 3), (2, 3), (3, 3)]);
    let hub = (leader + 1) % 4;
    for a in 0..4 {
        for b in a + 1..4 {
            if a != hub && b != hub {
                net.unlink(a, b);
                if a == leader || b == leader {
                    net.link_by_relay(a, b);
                }
            }
        }
    }
    let leaf = (0..4).find(|peer| *peer != hub && *peer != leader).unwrap();
    let asked = net.ask(leader, call(leaf));
    net.pass(10_000);
    assert!(net.peer(leader).leads(), "nothing is wrong yet");
    assert_eq!(net.runs(&asked), 1, "and no call waits for the hub");
    net.pass(35_000);
    assert!(net.peer(hub).leads());
}

#[test]
fn who_could_reach_more_by_a_relay_is_not_replaced_by_one_with_more_links_of_its_own() {
    // The leader sees one; by that one it could reach everyone. Another leads no better than it could.
    let (mut net, leader) = mesh(4, &[(0, 3), (1, 3), (2, 3), (3, 3)]);
    let [a, ..] = others(leader);
    net.unlink(leader, a);
    net.link_by_relay(leader, a);
    net.pass(20_000);
    assert!(net.peer(leader).leads(), "a cut link that is relayed does not move the gateway at once");
}
