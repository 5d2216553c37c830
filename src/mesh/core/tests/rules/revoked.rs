//! Revocation of a device, over links and node streams that a test holds in its hand.

use mesh_core::entry::Kind;
use mesh_core::frame::Frame;
use mesh_core::ids::{PeerId, ReqId};
use mesh_core::io::{CallState, Command, Fact, Input, Refusal, Reply};
use mesh_core::limits;
use mesh_core::record::{Ending, Tier};
use mesh_core::test_kit::{Net, id, key};

use crate::once;

/// Devices of whom no node registers by itself, and whose tools do not end.
pub(crate) fn by_hand(count: usize) -> Net {
    let mut net = Net::apart(count);
    (net.nodes_register, net.tools_end) = (false, false);
    net
}

/// Three devices, linked, of which one leads; and another of them that is not the founder.
pub(crate) fn settled() -> (Net, usize, usize) {
    let mut net = by_hand(3);
    net.join_all();
    let leader = net.leader().expect("one leads");
    (net, leader, if leader == 1 { 2 } else { 1 })
}

fn is_revoked(net: &Net, n: usize) -> bool {
    net.peer(n).view().revoked
}

fn knows(net: &Net, n: usize, other: usize) -> bool {
    net.peer(n).view().nodes.iter().any(|node| node.peer == id(other))
}

fn is_online(net: &Net, n: usize, other: usize) -> bool {
    net.peer(n).view().nodes.iter().any(|node| node.peer == id(other) && node.online)
}

fn ran(net: &Net, n: usize) -> Vec<ReqId> {
    net.devices[n].ran.iter().map(|run| run.id).collect()
}

fn dispatches(net: &Net, n: usize) -> usize {
    net.devices[n].got.iter().filter(|(_, frame)| matches!(frame, Frame::Dispatch(_))).count()
}

/// Kinds of the entries that a revoked peer got; nothing else.
fn kinds(frames: &[(PeerId, Frame)]) -> Vec<Kind> {
    let items = frames.iter().flat_map(|(_, frame)| {
        let Frame::Entries { entries, .. } = frame else { panic!("a revoked peer gets no {frame:?}") };
        entries
    });
    items.map(|item| item.entry.entry.kind).collect()
}

#[test]
fn one_that_is_linked_hears_of_its_revocation_and_works_no_more() {
    let (mut net, leader, gone) = settled();
    let other = 3 - gone;
    net.input(leader, Input::NodeUp(id(gone), 1));
    let before = net.ask(0, once(gone));
    assert_eq!(ran(&net, gone), [before], "while it belongs, it runs what it is sent");
    net.input(leader, Input::NodeDown(id(gone), 1));
    let waiting = net.ask(0, once(gone));
    net.input(leader, Input::NodeUp(id(gone), 2));
    assert_eq!(ran(&net, gone), [before, waiting]);
    net.input(leader, Input::NodeDown(id(gone), 2));
    let queued = net.ask(0, once(gone));
    let seen = net.devices[gone].got.len();

    net.revoke(0, gone);
    assert!(is_revoked(&net, gone));
    assert!(net.devices[gone].facts.contains(&Fact::Revoked));
    assert!(net.devices[gone].got.len() > seen);
    for n in [0, other] {
        assert!(!knows(&net, n, gone), "its tools are gone from the lists with it");
        assert!(!net.peer(n).view().links.contains(&id(gone)));
        assert_eq!(net.peer(n).revoked_peers(), [(id(gone), key(gone))]);
    }
    let ended = net.peer(0).open_call(&queued).expect("its target may still say otherwise");
    assert_eq!(ended.state, CallState::Ended(Ending::Undeliverable));
    // A registration that was under way, and a call at its own door.
    let sent = dispatches(&net, gone);
    net.input(leader, Input::NodeUp(id(gone), 3));
    assert_eq!(net.command(gone, Command::Call(once(0))), Reply::Refused(Refusal::NotMember));
    net.pass(5_000);
    assert_eq!((dispatches(&net, gone), ran(&net, gone)), (sent, vec![before, waiting]));
    assert!(!net.peer(gone).leads(), "it belongs to nothing that it could lead");
}

#[test]
fn a_node_stream_that_is_up_counts_no_more_after_the_revocation() {
    let (mut net, leader, gone) = settled();
    net.input(leader, Input::NodeUp(id(gone), 1));
    assert!(is_online(&net, leader, gone));
    let running = net.ask(0, once(gone));
    assert_eq!(ran(&net, gone), [running]);
    net.revoke(0, gone);
    let ended = net.peer(0).open_call(&running).expect("unconfirmed");
    assert_eq!(ended.state, CallState::Ended(Ending::Undeliverable));
    // Approved again, it is not online by the stream of before.
    let sent = dispatches(&net, gone);
    assert!(matches!(net.approve(0, gone, "again", Tier::Owner), Reply::Approved(_)));
    assert!(knows(&net, leader, gone) && !is_online(&net, leader, gone));
    net.ask(0, once(gone));
    assert_eq!(dispatches(&net, gone), sent);
    net.input(leader, Input::NodeDown(id(gone), 1));
    net.input(leader, Input::LinkDown(id(gone)));
}

#[test]
fn one_that_was_away_hears_of_it_from_anyone_and_gets_nothing_else() {
    let mut net = by_hand(3);
    net.split(&[&[0, 1], &[2]]);
    // Entries that the one who was away never gets: the revocation does not follow on what it holds.
    for _ in 0..5 {
        net.ask(0, once(1));
    }
    net.revoke(0, 2);
    assert!(!is_revoked(&net, 2) && !knows(&net, 1, 2));
    net.devices[2].got.clear();
    net.link(1, 2);
    assert!(is_revoked(&net, 2));
    assert!(net.devices[2].facts.contains(&Fact::Revoked));
    let kinds = kinds(&net.devices[2].got);
    assert_eq!(kinds.first(), Some(&Kind::GENESIS));
    assert!(kinds.iter().skip(1).all(|kind| *kind == Kind::MEMBERSHIP), "{kinds:?}");
    assert!(!net.peer(1).view().links.contains(&id(2)));

    // It outlives a restart, and leaving is a matter of its own: nothing is written for others.
    net.restart(2);
    assert!(is_revoked(&net, 2));
    let before = net.devices[2].log();
    assert_eq!(net.command(2, Command::Leave), Reply::Left);
    assert_eq!(net.devices[2].log(), before);
}

#[test]
fn one_that_is_approved_again_over_a_link_that_stayed_is_a_neighbour_again() {
    let (mut net, ..) = settled();
    net.revoke(0, 2);
    assert!(!net.peer(1).view().links.contains(&id(2)));
    assert!(matches!(net.approve(0, 2, "peer-2", Tier::Owner), Reply::Approved(_)));
    for n in [0, 1] {
        assert!(knows(&net, n, 2));
        assert!(net.peer(n).view().links.contains(&id(2)));
        assert!(net.peer(n).revoked_peers().is_empty());
    }
}

#[test]
fn a_run_of_which_nothing_is_received_any_more_is_given_up() {
    let (mut net, leader, target) = settled();
    net.input(leader, Input::NodeUp(id(target), 1));
    let running = net.ask(0, once(target));
    net.input(target, Input::ToolProgress(running, 1, "half".into()));
    assert_eq!(net.peer(0).open_call(&running).unwrap().state.as_str(), "running");
    net.cut_off(target);
    let header = net.peer(0).open_call(&running).unwrap().header.clone();
    net.pass(header.ttl_ms + header.timeout_ms);
    assert_eq!(net.peer(0).open_call(&running).unwrap().state.as_str(), "running", "it may still end");
    net.pass(4 * limits::epsilon_ms(header.ttl_ms) + 10_000);
    let told = net.peer(0).open_call(&running).unwrap();
    assert_eq!((told.state, told.confirmed), (CallState::Ended(Ending::Interrupted), false));
}

#[test]
fn a_call_that_others_gave_up_is_confirmed_by_its_target_after_a_restart_too() {
    let mut net = Net::of(4);
    net.split(&[&[1, 2], &[0, 3]]);
    let asked = net.ask(1, once(3));
    net.revoke(2, 3);
    net.pass(1_000);
    let given_up = net.record(1, &asked).unwrap();
    assert_eq!((given_up.state, given_up.confirmed), (CallState::Ended(Ending::Undeliverable), false));
    // The founder revokes the one that revoked: the target stays a member, and is told of the call and of its ending.
    net.revoke(0, 2);
    net.join_all();
    assert!(!is_revoked(&net, 3));
    net.restart(3);
    net.join_all();
    net.pass(given_up.header.ttl_ms + 10_000);
    let record = net.record(1, &asked).unwrap();
    assert!(record.confirmed, "{record:?}");
    assert_eq!(net.runs(&asked), 0);
}
