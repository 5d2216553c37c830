//! Devices that were let in for a tag of a tailnet.

use std::collections::BTreeMap;

use mesh_core::ids::ReqId;
use mesh_core::io::{CallState, Command, Input, Refusal, Reply};
use mesh_core::policy::Cause;
use mesh_core::record::{Directory, Effect, Ending, TaggedNode, Tier, ToolDecl};
use mesh_core::tailnet::Untagged;
use mesh_core::test_kit::{Net, id, key, offers, tool};

use crate::call;

fn of() -> TaggedNode {
    TaggedNode { tailnet: "t.example".to_owned(), node: "n1".to_owned(), tag: "tag:agent-node".to_owned() }
}

fn approve_tagged(net: &mut Net, by: usize, n: usize, tier: Tier) -> Reply {
    let node_id = format!("peer-{n}").parse().unwrap();
    net.command(by, Command::ApproveTagged { key: key(n), node_id, tier, of: of() })
}

/// Two owners and a device that the first let in for its tag; the first leads, and all offer `echo` to all.
fn with_tagged() -> Net {
    let mut net = Net::of(2);
    let reply = approve_tagged(&mut net, 0, 2, Tier::Shared);
    net.join_by(2, &reply);
    net.join_all();
    for n in 0..3 {
        let open = ToolDecl { owner_only: false, ..tool("echo", Effect::Idempotent) };
        net.command(n, Command::SetDirectory(Directory { ..offers(vec![open]) }));
    }
    net.pass(2_000);
    assert_eq!(net.leader(), Some(0));
    net
}

/// The tailnet of this device says so of device 2.
fn says(net: &mut Net, at: usize, why: Option<Untagged>) {
    let untagged: BTreeMap<_, _> = why.map(|why| (id(2), why)).into_iter().collect();
    net.input(at, Input::Untagged(untagged));
}

/// Fate of a call, as its origin knows it a second later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// Refused at the door.
    Refused(Untagged),
    Waits(ReqId),
}

fn fate(net: &Net, origin: usize, call: &ReqId) -> Fate {
    let record = net.record(origin, call).unwrap();
    match record.state {
        CallState::Ended(Ending::Done) => Fate::Done,
        CallState::Open(_) if net.runs(call) == 0 => Fate::Waits(*call),
        other @ (CallState::Open(_) | CallState::Ended(_)) => panic!("{other:?} {}", record.reason),
    }
}

/// All calls between device 2 and the others.
fn asked(net: &mut Net) -> [Fate; 4] {
    [(2, 0), (2, 1), (0, 2), (1, 2)].map(|(from, to)| {
        let reply = net.command(from, Command::Call(call(to)));
        if let Reply::Refused(Refusal::Denied(denial)) = &reply {
            let Cause::Untagged(why) = denial.decision.rule else { panic!("{}", denial.decision.rule) };
            return Fate::Refused(why);
        }
        let Reply::Call { id: call, .. } = reply else { panic!("{reply:?}") };
        net.pass(1_000);
        fate(net, from, &call)
    })
}

const WORKS: [Fate; 4] = [Fate::Done; 4];

#[test]
fn a_lost_tag_refuses_new_calls_where_it_is_known_and_holds_those_of_others_until_it_is_back() {
    let mut net = with_tagged();
    assert_eq!(asked(&mut net), WORKS);
    let lost = Fate::Refused(Untagged::NoTag);

    // One that does not lead holds back what it is asked for.
    says(&mut net, 1, Some(Untagged::NoTag));
    let [first, Fate::Waits(of_target), third, fourth] = asked(&mut net) else { panic!() };
    assert_eq!([first, third, fourth], [Fate::Done, Fate::Done, lost]);
    // Whoever leads holds back for all.
    says(&mut net, 1, None);
    net.pass(3_000);
    assert_eq!((fate(&net, 2, &of_target), net.runs(&of_target)), (Fate::Done, 1));
    says(&mut net, 0, Some(Untagged::NoTag));
    let [Fate::Waits(a), Fate::Waits(b), third, Fate::Waits(c)] = asked(&mut net) else { panic!() };
    assert_eq!(third, lost);
    let shown = |net: &Net, at: usize| net.peer(at).view().by_peer(&id(2)).and_then(|node| node.untagged);
    assert_eq!((shown(&net, 0), shown(&net, 1)), (Some(Untagged::NoTag), None));
    // It belongs as before, and is linked.
    assert!((0..3).all(|n| net.peer(n).view().nodes.len() == 3 && net.peer(n).view().links.len() == 2));

    says(&mut net, 0, None);
    net.pass(3_000);
    for (origin, held) in [(2, a), (2, b), (1, c)] {
        assert_eq!((fate(&net, origin, &held), net.runs(&held)), (Fate::Done, 1));
    }
    assert_eq!(asked(&mut net), WORKS);
    // The device itself knows it too.
    says(&mut net, 2, Some(Untagged::KeyEnded));
    assert_eq!(asked(&mut net)[0], Fate::Refused(Untagged::KeyEnded));
}

#[test]
fn what_waits_for_a_device_that_sleeps_outlasts_a_key_that_ends_meanwhile() {
    let mut net = with_tagged();
    net.cut_off(2);
    net.pass(2_000);
    let (waits, late) = (net.ask(1, call(2)), net.ask(0, call(2)));
    for n in 0..3 {
        says(&mut net, n, Some(Untagged::KeyEnded));
    }
    net.pass(20_000);
    for n in 0..2 {
        net.link(n, 2);
    }
    net.pass(10_000);
    assert_eq!((fate(&net, 1, &waits), fate(&net, 0, &late)), (Fate::Waits(waits), Fate::Waits(late)));
    // Its person logs in again.
    for n in 0..3 {
        says(&mut net, n, None);
    }
    net.pass(5_000);
    assert_eq!((fate(&net, 1, &waits), fate(&net, 0, &late)), (Fate::Done, Fate::Done));
    assert_eq!((net.runs(&waits), net.runs(&late)), (1, 1));
}

#[test]
fn what_was_taken_and_waits_for_a_place_goes_back() {
    let mut net = with_tagged();
    net.tools_end = false;
    // More than the device runs at once, all with it already.
    let calls: Vec<ReqId> = (0..40).map(|_| net.ask(2, call(1))).collect();
    net.pass(1_000);
    let run = |net: &Net| calls.iter().filter(|id| net.runs(id) > 0).count();
    let before = run(&net);
    assert!(0 < before && before < calls.len());
    says(&mut net, 1, Some(Untagged::NoTag));
    net.finish_tools(1);
    net.pass(3_000);
    assert_eq!(run(&net), before);
    says(&mut net, 1, None);
    for _ in 0..calls.len() {
        net.pass(1_000);
        net.finish_tools(1);
    }
    net.pass(1_000);
    assert!(calls.iter().all(|id| fate(&net, 2, id) == Fate::Done && net.runs(id) == 1));
}

#[test]
fn what_runs_goes_on_when_the_tag_is_lost() {
    let mut net = with_tagged();
    net.tools_end = false;
    let runs = net.ask(2, call(1));
    net.pass(1_000);
    assert_eq!(net.runs(&runs), 1);
    for n in 0..3 {
        says(&mut net, n, Some(Untagged::NoTag));
    }
    net.finish_tools(1);
    net.pass(1_000);
    assert_eq!(fate(&net, 2, &runs), Fate::Done);
}

#[test]
fn who_is_approved_by_hand_needs_no_tag() {
    let mut net = with_tagged();
    assert_eq!(net.peer(1).view().by_peer(&id(2)).and_then(|node| node.of.clone()), Some(of()));
    says(&mut net, 0, Some(Untagged::NoTag));
    // That it comes again for its tag, or gets a name, changes nothing of what its approval rests on.
    assert!(matches!(approve_tagged(&mut net, 0, 2, Tier::Shared), Reply::Approved(_)));
    net.command(0, Command::Rename { peer: id(2), node_id: "panel".parse().unwrap() });
    assert!(asked(&mut net).iter().all(|fate| *fate != Fate::Done));

    assert!(matches!(net.approve(1, 2, "panel", Tier::Shared), Reply::Approved(_)));
    net.pass(1_000);
    assert_eq!(net.peer(0).view().by_peer(&id(2)).and_then(|node| node.of.clone()), None);
    assert_eq!(asked(&mut net), WORKS);
    // And a tag takes it nothing.
    assert!(matches!(approve_tagged(&mut net, 0, 2, Tier::Owner), Reply::Approved(_)));
    net.pass(1_000);
    assert_eq!((net.peer(1).tier(&id(2)), asked(&mut net)), (Some(Tier::Shared), WORKS));
}

#[test]
fn a_tag_lets_nobody_in_whom_a_person_removed() {
    let mut net = with_tagged();
    net.revoke(1, 2);
    net.pass(1_000);
    let refused = |reply: Reply| matches!(reply, Reply::Refused(Refusal::Invalid(_)));
    assert!(refused(approve_tagged(&mut net, 0, 2, Tier::Shared)));
    assert!(net.peer(0).tier(&id(2)).is_none());
    assert!(refused(approve_tagged(&mut net, 0, 5, Tier::Ephemeral)));
    let node_id = "peer-5".parse().unwrap();
    let of = TaggedNode { tailnet: String::new(), ..of() };
    assert!(refused(net.command(0, Command::ApproveTagged { key: key(5), node_id, tier: Tier::Shared, of })));
    // Nor does one that is no owner let anybody in.
    assert!(matches!(net.approve(0, 2, "peer-2", Tier::Shared), Reply::Approved(_)));
    net.join_all();
    net.pass(1_000);
    assert_eq!(approve_tagged(&mut net, 2, 5, Tier::Shared), Reply::Refused(Refusal::NotOwner));
}
