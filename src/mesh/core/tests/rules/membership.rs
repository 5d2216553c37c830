//! Membership after two halves of a mesh have signed different changes.

use mesh_core::entry::{Kind, encode};
use mesh_core::epoch::{Claim, Epoch};
use mesh_core::frame::{EntryItem, Frame};
use mesh_core::ids::{Hash, Incarnation, PeerId, PublicKey};
use mesh_core::io::{CallState, Command, Fact, Input, Refusal, Reply};
use mesh_core::peer::should_switch;
use mesh_core::record::{ChangeKind, Directory, Ending, MembershipChange, Tier};

use mesh_core::test_kit::{Author, Net, id, key, offers};

use crate::call;

/// Peer 1 is revoked in one half; in the other it approves 3, which has asked 2 for something that 2 has not run yet.
fn approved_by_one_who_was_revoked() -> Net {
    let mut net = Net::of(3);
    net.split(&[&[0, 2], &[1]]);
    net.revoke(0, 1);
    net.invite(1, 3, "guest", Tier::Owner);
    net.split(&[&[0, 2], &[1, 3]]);
    assert!(net.names(3).contains_key(&3) && net.names(1).contains_key(&3), "it belongs in its own half");
    net
}

#[test]
fn a_device_approved_by_an_owner_revoked_in_the_other_half_awaits_reapproval_and_nothing_it_asked_for_runs() {
    let mut net = approved_by_one_who_was_revoked();
    let early = net.ask(3, call(2));
    net.join_all();
    for n in [0, 2] {
        let view = net.peer(n).view();
        assert_eq!(net.names(n).into_keys().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(view.awaiting_reapproval.len(), 1);
        let again = &view.awaiting_reapproval[0];
        assert_eq!((again.peer, again.approved_by, again.revoked_by), (id(3), id(1), Some(id(0))));
        assert!(view.links.iter().all(|peer| [id(0), id(2)].contains(peer)), "it is no neighbour");
    }
    // It knows where it stands, and whom it may wait for.
    let view = net.peer(3).view();
    assert!(!view.revoked && view.awaiting_reapproval.iter().any(|again| again.peer == id(3)), "{view:?}");
    assert!(net.devices[3].facts.contains(&Fact::Revoked));
    assert_eq!(net.command(3, Command::Call(call(2))), Reply::Refused(Refusal::NotMember));
    assert!(net.peer(1).view().revoked);
    net.pass(70_000);
    assert_eq!(net.runs(&early), 0);
    let ended = net.record(3, &early).unwrap();
    assert_eq!(ended.state, CallState::Ended(Ending::Undeliverable), "and it does not hang");
    assert!(!net.peer(3).leads());

    // An owner approves it again: it is back at once, and what it asks for runs.
    assert!(matches!(net.approve(0, 3, "guest", Tier::Owner), Reply::Approved(_)));
    net.pass(5_000);
    for n in [0, 2, 3] {
        assert_eq!(net.names(n).into_keys().collect::<Vec<_>>(), [0, 2, 3], "at {n}");
        assert!(net.peer(n).view().awaiting_reapproval.is_empty());
    }
    let late = net.ask(3, call(2));
    net.pass(1_000);
    assert_eq!((net.runs(&late), net.runs(&early)), (1, 0));
    assert_eq!(net.record(3, &late).unwrap().state, CallState::Ended(Ending::Done));
}

#[test]
fn calls_of_a_device_that_awaits_reapproval_end_denied_at_their_target() {
    let mut net = Net::of(3);
    net.split(&[&[0], &[1, 2]]);
    net.revoke(0, 1);
    net.invite(1, 3, "guest", Tier::Owner);
    net.split(&[&[0], &[1, 2, 3]]);
    net.tools_end = false;
    let asked: Vec<_> = (0..6).map(|_| net.ask(3, call(2))).collect();
    net.pass(1_000);
    let running = net.devices[2].ran.len();
    assert!(running > 0 && running < asked.len(), "some run, the rest waits for a place");
    net.join_all();
    net.pass(1_000);
    assert_eq!(net.devices[2].ran.len(), running);
    let denied = asked.iter().filter_map(|id| net.record(2, id));
    let denied = denied.filter(|call| call.state == CallState::Ended(Ending::Denied) && call.confirmed).count();
    assert_eq!(denied, asked.len() - running);
}

#[test]
fn a_void_approval_reaches_also_those_who_received_the_revocation_first() {
    let mut net = approved_by_one_who_was_revoked();
    // 0 receives it from 1 that was revoked, then 2 from 0 alone: no log brings it there.
    net.split(&[&[0, 1], &[2], &[3]]);
    net.split(&[&[0, 2], &[1], &[3]]);
    let view = net.peer(2).view();
    assert_eq!(view.awaiting_reapproval.iter().map(|again| again.peer).collect::<Vec<_>>(), [id(3)]);
}

/// State of a call in the books of these peers.
fn told(net: &Net, id: &mesh_core::ids::ReqId, by: &[usize]) -> Vec<(CallState, bool)> {
    by.iter()
        .map(|n| net.record(*n, id).map_or_else(|| panic!("{n} knows it"), |call| (call.state, call.confirmed)))
        .collect()
}

#[test]
fn what_a_revoked_device_did_while_its_half_knew_nothing_reads_alike_in_all_books() {
    let mut net = Net::of(5);
    net.split(&[&[0, 1], &[2, 3, 4]]);
    net.revoke(0, 4);
    let early = net.ask(2, call(4));
    net.pass(1_000);
    assert_eq!(net.runs(&early), 1);
    net.join_all();
    net.pass(5_000);
    let done = CallState::Ended(Ending::Done);
    assert_eq!(told(&net, &early, &[2, 3, 0, 1]), [(done, true), (done, true), (done, false), (done, false)]);
    // Nothing of it is said twice, also not by a process that has forgotten it.
    let said = |net: &Net| (0..4).map(|n| net.endings_said(n)).collect::<Vec<_>>();
    assert_eq!(said(&net), [0, 0, 1, 0]);
    net.restart(2);
    net.restart(3);
    net.join_all();
    net.pass(40_000);
    assert_eq!(said(&net), [0, 0, 1, 0]);
}

#[test]
fn a_call_that_its_origin_gave_up_reads_alike_in_all_books_when_the_other_half_received_its_end() {
    let mut net = Net::of(4);
    net.tools_end = false;
    let asked = net.ask(0, call(3));
    net.pass(1_000);
    assert_eq!(net.runs(&asked), 1, "it runs, and its header is everywhere");
    net.split(&[&[0], &[1, 2, 3]]);
    net.finish_tools(3);
    net.pass(1_000);
    net.revoke(0, 3);
    net.pass(1_000);
    let ended = |ending| CallState::Ended(ending);
    assert_eq!(net.record(0, &asked).map(|call| call.state), Some(ended(Ending::Undeliverable)));
    net.join_all();
    net.pass(5_000);
    let done = ended(Ending::Done);
    assert_eq!(told(&net, &asked, &[0, 1, 2]), [(done, false), (done, true), (done, true)]);
}

#[test]
fn of_two_owners_who_revoke_each_other_in_two_halves_the_one_nearer_to_the_founder_stays() {
    let mut net = Net::of(3);
    net.invite(2, 3, "fourth", Tier::Owner);
    net.join_all();
    net.split(&[&[1, 0], &[2, 3]]);
    net.revoke(1, 3);
    net.revoke(3, 1);
    net.join_all();
    for n in [0, 1, 2] {
        assert_eq!(net.names(n).into_keys().collect::<Vec<_>>(), [0, 1, 2], "at {n}");
    }
    assert!(net.peer(3).view().revoked && !net.peer(1).view().revoked);
}

#[test]
fn a_peer_revoked_by_a_void_revocation_is_back_with_what_it_wrote_meanwhile() {
    let mut net = Net::of(4);
    // In one half 3 revokes 1, and 2 receives that; in the other 0 revokes 3, and knows nothing of that.
    net.split(&[&[0, 1], &[2, 3]]);
    net.revoke(3, 1);
    net.revoke(0, 3);
    let asked = net.ask(1, call(2));
    // 1 alone comes over: 2 takes it for revoked, until it receives what 1 holds.
    net.split(&[&[1, 2], &[0], &[3]]);
    for n in [1, 2] {
        assert_eq!(net.names(n).into_keys().collect::<Vec<_>>(), [0, 1, 2], "at {n}");
    }
    net.pass(5_000);
    assert_eq!(net.runs(&asked), 1, "what it had asked for meanwhile runs");
    net.join_all();
    assert!(net.peer(3).view().revoked && !net.peer(1).view().revoked);
}

#[test]
fn a_revoked_owner_that_is_approved_again_starts_a_new_incarnation_and_its_old_entries_stay_void() {
    let mut net = approved_by_one_who_was_revoked();
    net.join_all();
    let before = net.peer(1).view().incarnation;
    assert!(matches!(net.approve(0, 1, "peer-1", Tier::Owner), Reply::Approved(_)));
    net.pass(5_000);
    assert_ne!(net.peer(1).view().incarnation, before);
    let asked = net.ask(1, call(2));
    net.pass(1_000);
    assert_eq!(net.runs(&asked), 1);
    for n in [0, 1, 2] {
        assert_eq!(net.names(n).into_keys().collect::<Vec<_>>(), [0, 1, 2], "at {n}");
        assert_eq!(net.peer(n).view().awaiting_reapproval.len(), 1, "whom it had approved still waits");
    }
    // And now its approvals count.
    assert!(matches!(net.approve(1, 3, "guest", Tier::Shared), Reply::Approved(_)));
    net.pass(5_000);
    assert!(net.names(0).contains_key(&3) && net.names(3).contains_key(&3));
}

#[test]
fn the_last_owner_stays() {
    let mut net = Net::of(1);
    net.invite(0, 1, "tablet", Tier::Shared);
    net.join_all();
    assert_eq!(net.command(0, Command::Leave), Reply::Refused(Refusal::LastOwner));
    assert_eq!(net.command(1, Command::Revoke { peer: id(0), unsaid: false }), Reply::Refused(Refusal::NotOwner));
    net.revoke(0, 1);
    assert_eq!(net.command(0, Command::Leave), Reply::Left, "alone, it may go");
}

#[test]
fn who_led_alone_restarts_and_was_lowered_in_the_meantime_shows_its_fence() {
    let mut net = Net::of(3);
    net.split(&[&[2], &[0, 1]]);
    net.pass(10_000);
    assert!(net.peer(2).leads());
    net.approve(0, 2, "guest", Tier::Shared);
    net.restart(2);
    net.join_all();
    net.pass(10_000);
    let leader = net.leader();
    assert!(leader.is_some_and(|leader| leader < 2), "{leader:?}");
    let gateways: Vec<_> = (0..3).map(|n| net.peer(n).view().gateway).collect();
    assert!(gateways.iter().all(|gateway| gateway.is_some() && *gateway == gateways[0]), "{gateways:?}");
}

#[test]
fn of_two_joins_that_cross_the_one_into_the_lower_mesh_proceeds() {
    let welcome = |net: &mut Net, n| {
        let reply = net.approve(0, n, "guest", Tier::Owner);
        let Reply::Approved(welcome) = reply else { panic!("not approved: {reply:?}") };
        welcome
    };
    let (mut a, mut b) = (Net::of(1), Net::of(2));
    let (to_a, to_b) = (welcome(&mut a, 5), welcome(&mut b, 6));
    assert_ne!(to_a.mesh, to_b.mesh);
    let (a_goes, b_goes) = (should_switch(to_a.mesh, &to_b, true), should_switch(to_b.mesh, &to_a, true));
    assert_eq!((a_goes, b_goes), (to_b.mesh < to_a.mesh, to_a.mesh < to_b.mesh), "one goes, the other stays");
    assert!(should_switch(to_a.mesh, &to_b, false) && should_switch(to_b.mesh, &to_a, false), "alone, each goes");
}

#[test]
fn two_devices_of_one_name_from_two_halves_both_stay_and_no_call_reaches_the_wrong_one() {
    let mut net = Net::of(2);
    net.split(&[&[0], &[1]]);
    net.invite(0, 2, "macbook", Tier::Owner);
    net.pass(100);
    net.invite(1, 3, "macbook", Tier::Owner);
    net.split(&[&[0, 2], &[1, 3]]);
    // Each half means its own; 3 is away, its call waits.
    let mut by_name = call(3);
    "macbook".clone_into(&mut by_name.node);
    let for_two = net.ask(0, by_name.clone());
    net.split(&[&[0, 2], &[1], &[3]]);
    let for_three = net.ask(1, by_name);
    net.join_all();
    for n in 0..4 {
        let names = net.names(n);
        assert_eq!((names[&2].as_str(), names[&3].as_str()), ("macbook", "macbook-2"), "at {n}");
    }
    assert_eq!(net.peer(3).view().node_id.as_str(), "macbook-2");
    let ran = |n: usize| net.devices[n].ran.iter().map(|run| run.id).collect::<Vec<_>>();
    assert_eq!((ran(2), ran(3)), (vec![for_two], vec![for_three]));
}

#[test]
fn s02_who_approved_whom_is_known_and_so_are_the_guests_of_guests() {
    let mut net = Net::of(2);
    net.invite(1, 2, "guest", Tier::Owner);
    net.join_all();
    net.invite(2, 3, "guest-of-guest", Tier::Shared);
    net.join_all();
    for n in 0..4 {
        let view = net.peer(n).view();
        let by = |peer: usize| view.by_peer(&id(peer)).unwrap().approved_by;
        assert_eq!([by(0), by(1), by(2), by(3)], [None, Some(id(0)), Some(id(1)), Some(id(2))], "at {n}");
        assert_eq!(view.by_peer(&id(0)).unwrap().since_ms, 0);
        assert!(view.by_peer(&id(3)).unwrap().since_ms >= view.by_peer(&id(2)).unwrap().since_ms);
        let guests = |peer: usize| view.guests_of(&[id(peer)].into()).iter().map(|node| node.peer).collect::<Vec<_>>();
        // Nobody is his own host's guest in his own eyes.
        let both = [id(2), id(3)];
        let of_one: &[PeerId] = [&both[..], &both, &[], &both[..1]][n];
        assert_eq!(guests(1), of_one, "at {n}");
        assert_eq!(guests(3), []);
    }
    // What a revocation lets stand is still somebody's guest, and another owner's approval takes it over.
    net.revoke(0, 1);
    net.pass(1_000);
    assert_eq!(net.peer(0).view().guests_of(&[id(1)].into()).len(), 2);
    assert!(matches!(net.approve(0, 2, "guest", Tier::Shared), Reply::Approved(_)));
    net.pass(1_000);
    assert_eq!(net.peer(0).view().guests_of(&[id(1)].into()), Vec::<&mesh_core::io::NodeView>::new());
}

/// Statement of a former owner about this key.
fn change(subject: PublicKey, grant: Hash, what: ChangeKind) -> Vec<u8> {
    encode(&MembershipChange { subject, grant, stands: Vec::new(), rights: Vec::new(), fence: u64::MAX, what })
}

fn approved(tier: Tier, after: &[Hash]) -> ChangeKind {
    ChangeKind::Approved {
        tier,
        node_id: "guest".parse().unwrap(),
        after: after.to_vec(),
        unseen: false,
        stay: None,
        of: None,
    }
}

fn tiers(net: &Net, n: usize) -> Vec<(PeerId, Tier)> {
    net.peer(n).view().nodes.iter().map(|node| (node.peer, node.tier)).collect()
}

#[test]
fn s01_a_former_owner_answers_in_vain_in_one_half_or_two() {
    for (ends, halves) in (0..3).flat_map(|ends| [(ends, false), (ends, true)]) {
        let mut net = Net::of(4);
        let mut thief = net.author(9);
        assert!(matches!(net.approve(0, 9, "thief", Tier::Owner), Reply::Approved(_)));
        net.pass(1_000);
        let first = net.peer(0).grant_of(&thief.id()).unwrap();
        let seen = thief.says(Kind::MEMBERSHIP, change(key(20), first, approved(Tier::Shared, &[])));
        net.hears(0, &thief, seen);
        net.pass(1_000);
        let backdated = thief.clone();
        if halves {
            net.split(&[&[0, 1], &[2, 3]]);
        }
        if ends == 0 {
            assert!(matches!(net.approve(0, 9, "thief", Tier::Shared), Reply::Approved(_)));
        } else {
            net.revoke(0, 9);
            if ends == 2 {
                assert!(matches!(net.approve(0, 9, "thief", Tier::Shared), Reply::Approved(_)));
            }
        }
        net.pass(1_000);
        let held = tiers(&net, 0);
        assert!(held.iter().any(|(peer, _)| *peer == id(20)), "what was seen stands");
        let grants: Vec<Hash> = [first].into_iter().chain(net.peer(0).grant_of(&thief.id())).collect();
        // Later, in another incarnation, and as if it had been said before.
        let mut renewed = thief.clone();
        (renewed.incarnation, renewed.seq, renewed.previous) = (Incarnation(77), 0, Hash::ZERO);
        let mut backdated = Author { seq: backdated.seq - 1, ..backdated };
        for author in [&mut backdated, &mut thief, &mut renewed] {
            let mut entries = Vec::new();
            for grant in &grants {
                let mut says = |subject, what| {
                    entries.push(author.says(Kind::MEMBERSHIP, change(subject, *grant, what)));
                };
                says(key(9), approved(Tier::Owner, &grants));
                for victim in [0, 1] {
                    says(key(victim), approved(Tier::Shared, &grants));
                    says(key(victim), ChangeKind::Revoked { cutoffs: Vec::new(), left: false, unsaid: false });
                }
                for sybil in 100..140 {
                    says(key(sybil), approved(Tier::Owner, &[]));
                }
            }
            for to in 0..4 {
                let entries = entries.iter().cloned().map(|entry| EntryItem { entry, left_ms: None }).collect();
                net.input(to, Input::Recv(author.id(), Frame::Entries { entries, more: false }));
            }
        }
        net.pass(1_000);
        assert_eq!(tiers(&net, 0), held, "ends {ends}, halves {halves}");
        net.join_all();
        net.pass(5_000);
        for n in 0..4 {
            assert_eq!(tiers(&net, n), held, "ends {ends}, halves {halves}, at {n}");
        }
        assert!(net.leader().is_some(), "ends {ends}, halves {halves}");
    }
}

#[test]
fn s01_an_owner_that_is_lowered_and_raised_again_says_what_counts() {
    let mut net = Net::of(3);
    assert!(matches!(net.approve(0, 1, "peer-1", Tier::Shared), Reply::Approved(_)));
    net.pass(1_000);
    assert_eq!(net.approve(1, 9, "guest", Tier::Shared), Reply::Refused(Refusal::NotOwner));
    assert!(matches!(net.approve(2, 1, "peer-1", Tier::Owner), Reply::Approved(_)));
    net.pass(1_000);
    assert!(matches!(net.approve(1, 9, "guest", Tier::Shared), Reply::Approved(_)));
    net.pass(1_000);
    for n in 0..3 {
        assert_eq!(net.peer(n).tier(&id(9)), Some(Tier::Shared), "at {n}");
        assert_eq!(net.peer(n).tier(&id(1)), Some(Tier::Owner), "at {n}");
    }
}

#[test]
fn s15_no_change_leaves_a_mesh_without_an_owner() {
    let mut net = Net::of(1);
    net.invite(0, 1, "phone", Tier::Shared);
    net.join_all();
    let last = Reply::Refused(Refusal::LastOwner);
    // The founder too: it is told so.
    assert_eq!(net.approve(0, 0, "peer-0", Tier::Shared), last);
    assert_eq!(net.command(0, Command::Leave), last);
    assert!(matches!(net.approve(0, 1, "phone", Tier::Owner), Reply::Approved(_)));
    net.pass(1_000);
    assert!(matches!(net.approve(1, 0, "peer-0", Tier::Shared), Reply::Approved(_)));
    net.pass(1_000);
    for n in 0..2 {
        assert_eq!(net.peer(n).tier(&id(0)), Some(Tier::Shared), "the founder is one like others, at {n}");
    }
    for tier in [Tier::Shared, Tier::Ephemeral] {
        assert_eq!(net.approve(1, 1, "phone", tier), last);
    }
    assert_eq!(net.command(1, Command::Leave), last);
    net.pass(5_000);
    assert_eq!(net.leader(), Some(1));
    // A mesh of one may be left.
    net.revoke(1, 0);
    assert_eq!(net.command(1, Command::Leave), Reply::Left);
}

#[test]
fn s24_a_former_owner_makes_nobody_claim_again_and_again() {
    let mut net = Net::of(3);
    let thief = net.author(9);
    assert!(matches!(net.approve(0, 9, "thief", Tier::Owner), Reply::Approved(_)));
    assert!(matches!(net.approve(0, 8, "friend", Tier::Shared), Reply::Approved(_)));
    net.pass(1_000);
    net.revoke(0, 9);
    net.pass(1_000);
    let leader = net.leader().unwrap();
    let before = net.peer(leader).view().fence.counter;
    for n in 1..50 {
        let epoch = Epoch { counter: before + 1_000 * n, class: 15, peer: thief.id() };
        net.input(leader, Input::Recv(id(8), Frame::Notice(Claim::sign(&thief.key, thief.mesh, epoch, 1))));
        net.pass(200);
    }
    let after = net.peer(leader).view().fence.counter;
    assert!(after <= before + 1_001, "{before} {after}: a member that may have followed it is believed once");
    assert_eq!(net.leader(), Some(leader));
}

fn node_names(net: &Net, at: usize) -> Vec<String> {
    let view = net.peer(at).view();
    (0..4).filter_map(|n| Some(view.by_peer(&id(n))?.node_id.to_string())).collect()
}

fn rename(net: &mut Net, n: usize, name: &str) {
    let directory = Directory { name: Some(name.parse().unwrap()), ..offers(Vec::new()) };
    assert_eq!(net.command(n, Command::SetDirectory(directory)), Reply::Noted);
    net.pass(1_000);
}

#[test]
fn b11_a_device_renames_itself_and_names_stay_unique() {
    let mut net = Net::of(3);
    let before = node_names(&net, 0);
    // Both are owners: that of longer standing has it.
    rename(&mut net, 1, "loft");
    rename(&mut net, 2, "loft");
    let (first, second) = if node_names(&net, 0)[1] == "loft" { (1, 2) } else { (2, 1) };
    let named = |n: usize, name: &str| {
        let mut names = before.clone();
        names[n] = name.to_owned();
        names
    };
    for at in 0..3 {
        assert_eq!(node_names(&net, at), named(first, "loft"));
    }
    assert_eq!(net.peer(first).view().node_id.as_str(), "loft");
    // Neither the name that another owner has chosen, nor one that an approval has given, be it in use or not.
    for name in ["loft", &before[0], &before[first], &id(0).to_string()[..7], &id(1).to_string()] {
        rename(&mut net, second, name);
        assert_eq!(node_names(&net, 0), named(first, "loft"), "{name}");
    }
    // Its own name of old is free for itself, and the other has what it wants once nobody else does.
    rename(&mut net, second, "loft");
    rename(&mut net, first, &before[first]);
    assert_eq!(node_names(&net, 2), named(second, "loft"));
    // Who comes later does not get a name that is in use.
    assert!(matches!(net.approve(0, 3, "loft", Tier::Shared), Reply::Approved(_)));
    let view = net.peer(0).view();
    assert_eq!(view.by_peer(&id(3)).unwrap().node_id.as_str(), "loft-2");
}

#[test]
fn b11_who_comes_back_is_called_as_it_was_approved() {
    let mut net = Net::of(3);
    rename(&mut net, 1, "loft");
    // Another tier costs no name.
    assert!(matches!(net.approve(0, 1, "x", Tier::Shared), Reply::Approved(_)));
    net.pass(1_000);
    assert_eq!(node_names(&net, 0)[1], "loft");
    net.cut_off(1);
    net.revoke(0, 1);
    net.pass(1_000);
    assert!(matches!(net.approve(0, 1, "porch", Tier::Shared), Reply::Approved(_)));
    assert_eq!(node_names(&net, 0)[1], "porch", "its record is of before");
}

/// The device becomes a member of tier shared by an invite that names nobody, and asks for this name.
fn redeem(net: &mut Net, n: usize, invite: Option<&str>, asked: &str) {
    let secret = Hash::of(asked.as_bytes());
    let name = invite.map(|name| name.parse().unwrap());
    let invite = Command::Invite { secret, tier: Tier::Shared, ttl_ms: 60_000, name, stay: None };
    assert_eq!(net.command(0, invite), Reply::Invited);
    let redeem = Command::Redeem { secret, key: key(n), node_id: asked.parse().unwrap() };
    assert!(matches!(net.command(0, redeem), Reply::Approved(_)));
    net.pass(1_000);
}

/// Name, whether rights know it by that, and what it asks for, the same at all these devices.
fn known(net: &Net, n: usize, at: &[usize]) -> (String, bool, Option<String>) {
    let of = |at: &usize| {
        let view = net.peer(*at).view();
        let node = view.by_peer(&id(n)).unwrap();
        assert_eq!(view.rights.name_of(&id(n)).is_some(), node.confirmed);
        (node.node_id.to_string(), node.confirmed, node.asks.as_ref().map(ToString::to_string))
    };
    let first = of(&at[0]);
    assert!(at.iter().all(|at| of(at) == first));
    first
}

fn named(name: &str, confirmed: bool, asks: Option<&str>) -> (String, bool, Option<String>) {
    (name.to_owned(), confirmed, asks.map(str::to_owned))
}

#[test]
fn r11_rights_know_a_shared_device_only_by_a_name_that_an_owner_gave_or_saw() {
    let mut net = Net::of(3);
    let name = |net: &mut Net, n: usize, to: &str| {
        net.command(0, Command::Rename { peer: id(n), node_id: to.parse().unwrap() })
    };
    // Who was approved by hand only asks for another name, and an owner gives it.
    assert!(matches!(net.approve(0, 1, "peer-1", Tier::Shared), Reply::Approved(_)));
    rename(&mut net, 1, "panel-x");
    assert_eq!(known(&net, 1, &[0, 1, 2]), named("peer-1", true, Some("panel-x")));
    assert_eq!(name(&mut net, 1, "peer-0"), Reply::Refused(Refusal::NameTaken("peer-0".parse().unwrap())));
    let own = name(&mut net, 2, "loft");
    assert!(matches!(own, Reply::Refused(Refusal::Invalid(_))), "an owner's device names itself: {own:?}");
    let not_owner = Command::Rename { peer: id(1), node_id: "panel-x".parse().unwrap() };
    assert_eq!(net.command(1, not_owner), Reply::Refused(Refusal::NotOwner));
    assert_eq!(name(&mut net, 1, "panel-x"), Reply::Renamed);
    net.pass(1_000);
    assert_eq!(known(&net, 1, &[0, 1, 2]), named("panel-x", true, None));
    assert_eq!(net.peer(0).view().by_peer(&id(1)).unwrap().tier, Tier::Shared);
    // An owner's device is known as it calls itself, and keeps that when it is lowered.
    rename(&mut net, 2, "loft");
    assert_eq!(known(&net, 2, &[0, 1, 2]), named("loft", true, None));
    assert!(matches!(net.approve(0, 2, "x", Tier::Shared), Reply::Approved(_)));
    net.pass(1_000);
    assert_eq!(known(&net, 2, &[0, 1, 2]), named("loft", true, None));
    // With an invite that names nobody it names itself, as often as it likes, and rights know it by none of that.
    redeem(&mut net, 7, None, "panel-y");
    assert_eq!(known(&net, 7, &[0, 1, 2]), named("panel-y", false, None));
    // What an owner gives is not kept by who took it.
    redeem(&mut net, 8, Some("panel-y"), "whatever");
    assert_eq!(known(&net, 8, &[0, 1, 2]), named("panel-y", true, None));
    assert_eq!(known(&net, 7, &[0, 1, 2]), named("panel-y-2", false, None));
    // Nobody sheds the name that it has by another invite.
    redeem(&mut net, 8, None, "panel-z");
    assert_eq!(known(&net, 8, &[0, 1, 2]), named("panel-y", true, None));
    assert_eq!(name(&mut net, 7, "panel-y-2"), Reply::Renamed);
    net.pass(1_000);
    assert_eq!(known(&net, 7, &[0, 1, 2]), named("panel-y-2", true, None));
    net.restart(2);
    assert_eq!(known(&net, 7, &[0, 1, 2]), named("panel-y-2", true, None));
    let taken = Command::Invite {
        secret: Hash::of(b"taken"),
        tier: Tier::Shared,
        ttl_ms: 60_000,
        name: Some("panel-y".parse().unwrap()),
        stay: None,
    };
    assert_eq!(net.command(0, taken), Reply::Refused(Refusal::NameTaken("panel-y".parse().unwrap())));
}

/// A thief that was an owner called the phone by the tablet's name. Who removes it and takes back what it said takes that back
/// too; who removes it alone, as an old laptop is, keeps the names that it gave.
#[test]
fn k1_names_that_a_removed_owner_gave_go_with_what_it_said() {
    for unsaid in [false, true] {
        let mut net = Net::of(4);
        for (n, name) in [(1, "peer-1"), (2, "peer-2")] {
            assert!(matches!(net.approve(0, n, name, Tier::Shared), Reply::Approved(_)));
        }
        assert!(matches!(net.approve(3, 9, "made-up", Tier::Shared), Reply::Approved(_)));
        net.pass(1_000);
        for (n, name) in [(1, "box"), (2, "peer-1")] {
            let renamed = net.command(3, Command::Rename { peer: id(n), node_id: name.parse().unwrap() });
            assert_eq!(renamed, Reply::Renamed);
            net.pass(1_000);
        }
        assert_eq!(known(&net, 2, &[0, 1, 2, 3]), named("peer-1", true, None));
        assert_eq!(net.command(0, Command::Revoke { peer: id(3), unsaid }), Reply::Revoked);
        net.pass(1_000);
        let expected = if unsaid { ["peer-1", "peer-2"] } else { ["box", "peer-1"] };
        for (n, name) in [(1, expected[0]), (2, expected[1])] {
            assert_eq!(known(&net, n, &[0, 1, 2]), named(name, true, None));
        }
        // A name that nobody else gave stays what it is called by, and rights know it by none.
        assert_eq!(known(&net, 9, &[0, 1, 2]), named("made-up", !unsaid, None));
        net.restart(0);
        assert_eq!(known(&net, 2, &[0]), named(expected[1], true, None));
    }
}

#[test]
fn k4_nobody_takes_the_name_that_another_has_chosen() {
    let mut net = Net::of(4);
    let before = node_names(&net, 0);
    for n in [1, 2] {
        assert!(matches!(net.approve(0, n, &before[n], Tier::Shared), Reply::Approved(_)));
    }
    net.pass(1_000);
    rename(&mut net, 3, "loft");
    // Of who is no owner it does not count; nor does it take anything from an owner that comes later.
    for name in ["loft", "cellar"] {
        rename(&mut net, 1, name);
        assert_eq!(node_names(&net, 0), [before[0].as_str(), &before[1], &before[2], "loft"]);
    }
    rename(&mut net, 3, "cellar");
    for at in 0..4 {
        assert_eq!(node_names(&net, at), [before[0].as_str(), &before[1], &before[2], "cellar"]);
    }
    let unknown = net.command(0, Command::Call(mesh_core::test_kit::call("loft", "echo")));
    assert!(matches!(unknown, Reply::Refused(Refusal::UnknownNode(_))), "{unknown:?}");
}
