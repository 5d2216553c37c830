//! The state machine by itself: what it is told, and what it wants done.

use mesh_core::epoch::{Epoch, Fence};
use mesh_core::ids::{MeshId, PublicKey};
use mesh_core::io::{NodeView, ReapprovalView, Welcome};
use mesh_core::record::{TaggedNode, Tier};
use mesh_core::tailnet::{NodeState, Untagged};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::mesh::check_words::CheckWords;
use crate::mesh::disk_room::DiskRoom;
use crate::mesh::error::JoinError;
use crate::mesh::identity::DeviceKey;
use crate::mesh::machine::{self, Machine};
use crate::mesh::store::{MemStore, Store};
use crate::mesh::tailnet::{Identity, Node};
use crate::mesh::transport::{JoinAnswer, JoinRequest, RefusalCode, UnderlayKind};

const NOW: Now = Now { mono_ms: 1, wall_ms: 2 };

fn name(text: &str) -> NodeId {
    text.parse().unwrap()
}

/// A mesh of one, as it sees itself.
fn view() -> View {
    let home = tempfile::tempdir().unwrap();
    let (key, name) = (DeviceKey::load_or_create(home.path()).unwrap(), name("desk"));
    let store = MemStore::new(mpsc::channel(8).0);
    let mut rng = machine::entropy();
    store.wipe_and_commit(machine::founded(&key, &name, &mut rng)).unwrap();
    let config = mesh_core::config::Config::default();
    let disk = DiskRoom::new(std::env::temp_dir(), Some(0));
    let (machine, _) = Machine::boot(key, config, name, disk, store.image().unwrap(), rng).unwrap();
    machine.peer.view()
}

fn member(n: u8) -> NodeView {
    let key = PublicKey([n; 32]);
    NodeView {
        peer: key.peer_id(),
        key,
        node_id: name("nas"),
        first_name: name("nas"),
        confirmed: true,
        asks: None,
        tier: Tier::Owner,
        approved_by: None,
        since_ms: 0,
        online: true,
        last_seen_ms: 0,
        stay: None,
        of: None,
        untagged: None,
        directory: None,
    }
}

fn effects(admission: &mut Admission) -> Vec<Effect> {
    std::iter::from_fn(|| admission.poll_effect()).collect()
}

/// The effects, without what goes with them.
fn kinds(admission: &mut Admission) -> Vec<&'static str> {
    let kind = |effect: Effect| match effect {
        Effect::Command(..) => "command",
        Effect::Untagged(_) => "untagged",
        Effect::Ask(_) => "ask",
        Effect::Farewell(_) => "farewell",
        Effect::Switch(Destination::Joined(..)) => "switch",
        Effect::Switch(Destination::Founded) => "found",
        Effect::AnswerNewcomer(newcomer, answer) => {
            let _ = newcomer.try_send(answer);
            "answer newcomer"
        }
        Effect::AnswerDoor(answer) => {
            answer.send();
            "answer door"
        }
        Effect::NoteAddresses(..) => "note",
        Effect::PublishSurroundings => "publish",
        Effect::Tell(_) => "tell",
    };
    effects(admission).into_iter().map(kind).collect()
}

/// A device at an address whose words nobody has compared: it is looked at first.
fn there() -> JoinTarget {
    JoinTarget::Address { address: Address::from("10.0.0.1:7"), words: None }
}

/// Asks at an address; with the number of the conversation and what the door hears.
fn ask(admission: &mut Admission, view: &View) -> (u64, oneshot::Receiver<Result<Joined, MeshError>>) {
    let (door, answer) = oneshot::channel();
    admission.join(there(), false, door, view);
    let mut effects = effects(admission);
    let Some(Effect::Ask(ask)) = effects.pop() else { panic!("{effects:?}") };
    assert!(effects.is_empty());
    (ask.number, answer)
}

fn welcome(mesh: MeshId) -> Step {
    let fence = Fence { epoch: Epoch::ZERO, proof: None };
    let (trust, directory) = (Vec::new(), Vec::new());
    let welcome =
        Welcome { mesh, trust, directory, rights: Vec::new(), fence, node_id: name("desk-2"), tier: Tier::Owner };
    Step::Welcome { welcome: Box::new(welcome), peer: PublicKey([7; 32]).peer_id(), address: "10.0.0.1:7".into() }
}

#[test]
fn a_join_that_waits_for_a_person_ends_in_the_other_mesh() {
    let (mut admission, view, at) = (Admission::new(name("desk")), view(), PublicKey([7; 32]).peer_id());
    let (number, mut door) = ask(&mut admission, &view);
    assert_eq!(admission.asking_to_join(), None);
    admission.handle_step(number, Step::Waiting(at), &view);
    assert_eq!(kinds(&mut admission), ["publish", "answer door"]);
    assert_eq!(door.try_recv().unwrap().unwrap(), Joined::Pending { peer: at });
    assert_eq!(admission.asking_to_join(), Some(at));
    admission.handle_step(number, Step::Waiting(at), &view);
    assert_eq!(kinds(&mut admission), ["publish"], "the door has its answer");
    admission.handle_step(number, welcome(MeshId([0; 32])), &view);
    assert_eq!(kinds(&mut admission), ["publish", "note", "switch"]);
    assert_eq!(admission.asking_to_join(), None);
    admission.handle_switched(Ok(&view));
    assert!(kinds(&mut admission).is_empty());
}

#[test]
fn an_approval_that_comes_late_leaves_nobody_who_came_in_meanwhile() {
    let (mut admission, mut view, at) = (Admission::new(name("desk")), view(), PublicKey([7; 32]).peer_id());
    let (number, _door) = ask(&mut admission, &view);
    admission.handle_step(number, Step::Waiting(at), &view);
    kinds(&mut admission);
    view.nodes.push(member(9));
    admission.handle_step(number, welcome(MeshId([0; 32])), &view);
    assert_eq!(kinds(&mut admission), ["publish", "tell", "publish"], "we stay, and it is told");
    assert_eq!(admission.asking_to_join(), None);
}

#[test]
fn an_invite_is_answered_once_the_mesh_is_switched_and_not_before() {
    let (mut admission, view) = (Admission::new(name("desk")), view());
    let (number, mut door) = ask(&mut admission, &view);
    admission.handle_step(number, welcome(MeshId([0; 32])), &view);
    assert_eq!(kinds(&mut admission), ["publish", "note", "switch"]);
    assert!(door.try_recv().is_err());
    admission.handle_switched(Ok(&view));
    assert_eq!(kinds(&mut admission), ["answer door"]);
    assert_eq!(door.try_recv().unwrap().unwrap(), Joined::Member { node_id: name("desk"), tier: Some(Tier::Owner) });
}

#[test]
fn a_welcome_without_its_mesh_is_told_and_we_stay() {
    let (mut admission, view) = (Admission::new(name("desk")), view());
    let (number, mut door) = ask(&mut admission, &view);
    admission.handle_step(number, welcome(MeshId([0; 32])), &view);
    effects(&mut admission);
    admission.handle_switched(Err(BadWelcome::NoMesh));
    assert_eq!(kinds(&mut admission), ["publish", "answer door"]);
    let told = door.try_recv().unwrap();
    assert!(matches!(told, Err(MeshError::Join(JoinError::BadWelcome(BadWelcome::NoMesh)))), "{told:?}");
    ask(&mut admission, &view);
}

#[test]
fn a_new_join_takes_the_place_of_an_old_one() {
    let (mut admission, view, at) = (Admission::new(name("desk")), view(), PublicKey([7; 32]).peer_id());
    let (door, mut first_door) = oneshot::channel();
    admission.join(there(), false, door, &view);
    let Some(Effect::Ask(first)) = admission.poll_effect() else { panic!("nobody is asked") };
    let (second, _door) = ask(&mut admission, &view);
    assert!(first.cancel.is_cancelled());
    assert!(matches!(first_door.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    admission.handle_step(first.number, Step::Waiting(at), &view);
    assert!(kinds(&mut admission).is_empty(), "its last steps are not read");
    admission.handle_step(second, Step::Waiting(at), &view);
    assert_eq!(kinds(&mut admission), ["publish", "answer door"]);
}

#[test]
fn two_that_ask_each_other_end_in_the_lower_mesh() {
    let (mut admission, mut view) = (Admission::new(name("desk")), view());
    let (number, mut door) = ask(&mut admission, &view);
    // Meanwhile a person here has approved the other one.
    view.nodes.push(member(7));
    admission.handle_step(number, welcome(MeshId([0xff; 32])), &view);
    assert_eq!(kinds(&mut admission), ["publish", "answer door"]);
    assert_eq!(
        door.try_recv().unwrap().unwrap(),
        Joined::Member { node_id: view.node_id.clone(), tier: Some(Tier::Owner) }
    );
}

#[test]
fn a_refusal_after_the_wait_is_told_as_a_warning() {
    let (mut admission, view, at) = (Admission::new(name("desk")), view(), PublicKey([7; 32]).peer_id());
    let (number, _door) = ask(&mut admission, &view);
    admission.handle_step(number, Step::Waiting(at), &view);
    effects(&mut admission);
    admission.handle_step(number, Step::Refused(JoinError::Rejected("no".to_owned())), &view);
    let told = effects(&mut admission);
    assert!(matches!(told.as_slice(), [Effect::Tell(EventKind::Warning(_)), Effect::PublishSurroundings]), "{told:?}");
    assert_eq!(admission.asking_to_join(), None);
}

#[test]
fn who_would_leave_others_must_say_so() {
    let (mut admission, mut view) = (Admission::new(name("desk")), view());
    view.nodes.push(member(7));
    let (door, mut answer) = oneshot::channel();
    admission.join(there(), false, door, &view);
    assert_eq!(kinds(&mut admission), ["answer door"]);
    let told = answer.try_recv().unwrap();
    assert!(matches!(told, Err(MeshError::Join(JoinError::WouldLeave { others: 1 }))), "{told:?}");
    let (door, _answer) = oneshot::channel();
    admission.join(there(), true, door, &view);
    assert_eq!(kinds(&mut admission), ["ask"]);
}

#[test]
fn leaving_says_farewell_then_founds_and_then_answers() {
    let (mut admission, view) = (Admission::new(name("desk")), view());
    let (door, mut answer) = oneshot::channel();
    admission.leave(door);
    let Some(Effect::Command(Command::Leave, errand)) = admission.poll_effect() else { panic!("no command") };
    admission.handle_reply(errand, Ok(Reply::Left));
    let Some(Effect::Farewell(number)) = admission.poll_effect() else { panic!("no farewell") };

    // No other mesh is joined on the way out, and nobody leaves twice.
    let (door, mut refused) = oneshot::channel();
    admission.join(there(), true, door, &view);
    assert_eq!(kinds(&mut admission), ["answer door"]);
    assert!(matches!(refused.try_recv().unwrap(), Err(MeshError::Moved)));
    let (door, mut refused) = oneshot::channel();
    admission.leave(door);
    assert_eq!(kinds(&mut admission), ["answer door"]);
    assert!(matches!(refused.try_recv().unwrap(), Err(MeshError::Moved)));

    admission.handle_step(number, Step::FarewellOver, &view);
    assert_eq!(kinds(&mut admission), ["found"]);
    admission.handle_switched(Ok(&view));
    assert_eq!(kinds(&mut admission), ["answer door"]);
    assert!(answer.try_recv().unwrap().is_ok());
}

#[test]
fn the_last_owner_may_not_leave_and_can_try_again() {
    let mut admission = Admission::new(name("desk"));
    for _ in 0..2 {
        let (door, mut answer) = oneshot::channel();
        admission.leave(door);
        let Some(Effect::Command(Command::Leave, errand)) = admission.poll_effect() else { panic!("no command") };
        admission.handle_reply(errand, Err(Refusal::LastOwner));
        assert_eq!(kinds(&mut admission), ["answer door"]);
        assert!(matches!(answer.try_recv().unwrap(), Err(MeshError::Refused(Refusal::LastOwner))));
    }
}

fn attempt(n: u8, secret: Option<[u8; 16]>) -> (JoinAttempt, mpsc::Receiver<JoinAnswer>) {
    let (answers, received) = mpsc::channel(4);
    let key = PublicKey([n; 32]);
    let address = format!("10.0.0.{}:7", n % 5).parse().unwrap();
    let request = JoinRequest { secret, node_id: name("phone"), platform: "ios".to_owned(), version: "1".to_owned() };
    let (peer, underlay) = (key.peer_id(), UnderlayKind::Udp);
    (JoinAttempt { key, peer, underlay, tailnet: None, address, request, answers }, received)
}

fn first(received: &mut mpsc::Receiver<JoinAnswer>) -> JoinAnswer {
    received.try_recv().unwrap()
}

#[test]
fn a_newcomer_waits_until_a_person_approves_it() {
    let (mut admission, view) = (Admission::new(name("desk")), view());
    let (attempt, mut received) = attempt(7, None);
    let (peer, key) = (attempt.peer, attempt.key);
    admission.handle_attempt(attempt, &view, NOW);
    assert_eq!(kinds(&mut admission), ["answer newcomer", "tell", "publish"]);
    assert_eq!(first(&mut received), JoinAnswer::Waiting { node_id: view.node_id.clone() });
    assert_eq!(admission.pending(&view, &[], NOW).len(), 1);

    let (door, mut answer) = oneshot::channel();
    admission.approve(peer, None, Some(name("tablet")), door, &view);
    let Some(Effect::Command(command, errand)) = admission.poll_effect() else { panic!("no command") };
    let Command::Approve { key: approved, node_id, tier, stay: None } = command else { panic!("{command:?}") };
    assert_eq!((approved, node_id, tier), (key, name("tablet"), Tier::Shared));
    let Step::Welcome { welcome, .. } = welcome(view.mesh) else { unreachable!() };
    admission.handle_reply(errand, Ok(Reply::Approved(welcome)));
    // The list of those that wait is published before the person hears that one fewer does.
    assert_eq!(kinds(&mut admission), ["answer newcomer", "tell", "publish", "answer door"]);
    assert!(matches!(first(&mut received), JoinAnswer::Welcome(_)));
    assert_eq!(answer.try_recv().unwrap().unwrap(), name("desk-2"));
    assert!(admission.pending(&view, &[], NOW).is_empty());
}

#[test]
fn a_newcomer_is_rejected_once() {
    let (mut admission, view) = (Admission::new(name("desk")), view());
    let (attempt, mut received) = attempt(7, None);
    let peer = attempt.peer;
    admission.handle_attempt(attempt, &view, NOW);
    kinds(&mut admission);
    first(&mut received);
    let (door, mut answer) = oneshot::channel();
    admission.reject(peer, door, &view);
    assert_eq!(kinds(&mut admission), ["answer newcomer", "tell", "publish", "answer door"]);
    assert!(matches!(first(&mut received), JoinAnswer::Refused { code: RefusalCode::Rejected, .. }));
    assert!(answer.try_recv().unwrap().is_ok());
    let (door, mut answer) = oneshot::channel();
    admission.reject(peer, door, &view);
    assert_eq!(kinds(&mut admission), ["answer door"]);
    assert!(matches!(answer.try_recv().unwrap(), Err(MeshError::UnknownPending(unknown)) if unknown == peer));
}

#[test]
fn an_invite_is_redeemed_and_a_refusal_has_its_code() {
    let (mut admission, view) = (Admission::new(name("desk")), view());
    for (refusal, code) in [(Refusal::InviteUsed, RefusalCode::InviteUsed), (Refusal::NotMember, RefusalCode::NotOwner)]
    {
        let (attempt, mut received) = attempt(7, Some([3; 16]));
        admission.handle_attempt(attempt, &view, NOW);
        let Some(Effect::Command(Command::Redeem { .. }, errand)) = admission.poll_effect() else { panic!() };
        admission.handle_reply(errand, Err(refusal));
        assert_eq!(kinds(&mut admission), ["answer newcomer"]);
        assert!(matches!(first(&mut received), JoinAnswer::Refused { code: told, .. } if told == code));
    }
}

#[test]
fn one_address_cannot_take_all_places_and_places_of_the_gone_are_free() {
    let (mut admission, view) = (Admission::new(name("desk")), view());
    let mut all = Vec::new();
    let mut refused = 0;
    for n in (5..=255_u8).filter(|n| n % 5 == 0) {
        let (attempt, mut received) = attempt(n, None);
        admission.handle_attempt(attempt, &view, NOW);
        kinds(&mut admission);
        if matches!(first(&mut received), JoinAnswer::Refused { code: RefusalCode::TooMany, .. }) {
            refused += 1;
        }
        all.push(received);
    }
    assert_eq!((all.len(), refused), (51, 35), "16 from one address");
    all.remove(0);
    let (attempt, mut received) = attempt(250, None);
    admission.handle_attempt(attempt, &view, NOW);
    kinds(&mut admission);
    assert!(matches!(first(&mut received), JoinAnswer::Waiting { .. }));
}

/// A join request of a peer that nobody else is, from an address.
fn attempt_from(n: u16, from: &str) -> (JoinAttempt, mpsc::Receiver<JoinAnswer>) {
    let (mut attempt, received) = attempt(0, None);
    let [high, low] = n.to_be_bytes();
    attempt.key.0[..2].copy_from_slice(&[high, low]);
    attempt.peer = attempt.key.peer_id();
    attempt.address = from.parse().unwrap();
    (attempt, received)
}

#[test]
fn s32_join_requests_from_few_machines_keep_no_honest_one_out() {
    let floods: [&dyn Fn(u16) -> String; 3] = [
        &|n| format!("10.0.0.{}:7", n % 4),
        &|n| format!("10.0.0.{}:7", n % 32),
        // As many addresses as it likes, of one IPv6 network.
        &|n| format!("[2001:db8::{n:x}]:7"),
    ];
    for flood in floods {
        let (mut admission, view) = (Admission::new(name("desk")), view());
        let mut kept = Vec::new();
        for n in 0..640 {
            let (attempt, received) = attempt_from(n, &flood(n));
            admission.handle_attempt(attempt, &view, NOW);
            kept.push(received);
        }
        kinds(&mut admission);
        for (n, from) in [(1000, "10.0.7.7:7"), (1001, "[fd00::7]:7")] {
            let (attempt, mut received) = attempt_from(n, from);
            let peer = attempt.peer;
            admission.handle_attempt(attempt, &view, NOW);
            kinds(&mut admission);
            assert!(matches!(first(&mut received), JoinAnswer::Waiting { .. }), "{from}");
            // And what comes afterwards does not take its place.
            for n in 2000..2640 {
                let (attempt, received) = attempt_from(n, &flood(n));
                admission.handle_attempt(attempt, &view, NOW);
                kept.push(received);
            }
            kinds(&mut admission);
            let pending = admission.pending(&view, &[], NOW);
            assert!(pending.len() <= 64 && pending.iter().any(|pending| pending.peer == peer), "{from}");
        }
    }
}

#[test]
fn the_only_device_nearby_needs_no_name_and_two_of_one_name_are_refused() {
    let (mut admission, view) = (Admission::new(name("desk")), view());
    let near = |n: u8| LanEvent::Discovered {
        peer: PublicKey([n; 32]).peer_id(),
        name: "guest".to_owned(),
        addresses: vec![Address::from("10.0.0.9:7")],
        node: None,
    };
    let words = |n: u8| Some(CheckWords::of(&PublicKey([n; 32]).peer_id()));
    let compared = |admission: &mut Admission, name: Option<&str>, words: Option<CheckWords>| {
        let (door, mut answer) = oneshot::channel();
        admission.join(JoinTarget::Nearby { name: name.map(str::to_owned), words }, false, door, &view);
        let wanted = kinds(admission);
        (wanted, answer.try_recv().ok().map(Result::unwrap_err))
    };
    let join = |admission: &mut Admission, name: Option<&str>| compared(admission, name, words(3));
    let (_, told) = join(&mut admission, None);
    assert!(matches!(told, Some(MeshError::Join(JoinError::NotNearby(_)))), "{told:?}");
    admission.handle_lan(near(3), NOW);
    assert_eq!(kinds(&mut admission), ["tell", "publish"]);
    assert_eq!(join(&mut admission, None).0, ["ask"]);
    assert_eq!(join(&mut admission, Some("guest")).0, ["ask"]);
    // s08: nobody is asked before a person has compared, and nobody else than who was compared.
    for (given, expected) in [(None, false), (words(4), true)] {
        let (asked, told) = compared(&mut admission, None, given);
        assert_eq!(asked, ["answer door"]);
        let Some(MeshError::Join(told)) = told else { panic!("{told:?}") };
        let named = matches!(&told, JoinError::Unconfirmed { name, words: its, .. } if name.as_deref() == Some("guest") && Some(*its) == words(3));
        let other = matches!(&told, JoinError::OtherWords { words: its, .. } if Some(*its) == words(3));
        assert_eq!((named, other), (!expected, expected), "{told:?}");
    }
    admission.handle_lan(near(4), NOW);
    effects(&mut admission);
    let (_, told) = join(&mut admission, Some("guest"));
    assert!(matches!(told, Some(MeshError::Join(JoinError::Rejected(_)))), "{told:?}");
    let id = PublicKey([4; 32]).peer_id().to_string();
    assert_eq!(compared(&mut admission, Some(&id[..8]), words(4)).0, ["ask"]);
}

#[test]
fn nobody_is_asked_whom_to_join_where_the_tailnet_says_it_has_the_tag() {
    let (mut admission, view) = (Admission::new(name("desk")), view());
    let node = |tailnet: &str, tags: &[&str]| Node {
        stable_id: "n3".to_owned(),
        tailnet: tailnet.to_owned(),
        tags: tags.iter().map(ToString::to_string).collect(),
        ..Node::default()
    };
    let near = |node: Option<Node>| LanEvent::Discovered {
        peer: PublicKey([3; 32]).peer_id(),
        name: "attic".to_owned(),
        addresses: vec![Address::from("tailnet://100.64.0.9:7435")],
        node: node.map(Box::new),
    };
    let asks = |admission: &mut Admission, node: Option<Node>| {
        admission.handle_lan(near(node), NOW);
        effects(admission);
        let (door, _answer) = oneshot::channel();
        admission.join(JoinTarget::Nearby { name: None, words: None }, false, door, &view);
        kinds(admission) == ["ask"]
    };
    let netmap = |tags: &[&str], key_ended, whole| {
        let state = NodeState { tags: tags.iter().map(ToString::to_string).collect(), key_ended };
        Netmap { tailnet: "t.example".to_owned(), nodes: [("n3".to_owned(), state)].into(), whole, ..Netmap::default() }
    };
    let tagged = || Some(node("t.example", &["tag:agent-node"]));
    admission.handle_tailnet(netmap(&["tag:agent-node"], false, true), &view);
    assert!(!asks(&mut admission, tagged()), "no tag lets anybody in here");
    admission.set_tag_rule(Some(TagRule { tag: "tag:agent-node".to_owned(), tier: Tier::Shared }));
    assert!(asks(&mut admission, tagged()));
    assert!(!asks(&mut admission, None), "one of the local network");
    assert!(!asks(&mut admission, Some(node("u.example", &["tag:agent-node"]))), "of another tailnet");
    // What the tailnet says now counts, and not what it said when the device was found.
    for (tags, key_ended) in [(&[][..], false), (&["tag:agent-node"][..], true)] {
        admission.handle_tailnet(netmap(tags, key_ended, true), &view);
        assert!(!asks(&mut admission, tagged()));
    }
    let others = Netmap { nodes: [].into(), ..netmap(&[], false, false) };
    admission.handle_tailnet(others.clone(), &view);
    assert!(asks(&mut admission, tagged()) && !asks(&mut admission, Some(node("t.example", &["tag:other"]))));
    admission.handle_tailnet(Netmap { whole: true, ..others }, &view);
    assert!(!asks(&mut admission, tagged()), "it is not in the tailnet any more");
}

#[test]
fn s13_whoever_awaits_reapproval_comes_back_as_shared_unless_more_is_said() {
    let (mut admission, mut view) = (Admission::new(name("desk")), view());
    let key = PublicKey([7; 32]);
    view.awaiting_reapproval.push(ReapprovalView {
        peer: key.peer_id(),
        key,
        node_id: name("phone"),
        tier: Tier::Owner,
        approved_by: PublicKey([8; 32]).peer_id(),
        revoked_by: None,
    });
    for (said, given) in [(None, Tier::Shared), (Some(Tier::Owner), Tier::Owner)] {
        let (door, _answer) = oneshot::channel();
        admission.approve(key.peer_id(), said.map(Grant::from), None, door, &view);
        let Some(Effect::Command(Command::Approve { tier, .. }, _)) = admission.poll_effect() else { panic!() };
        assert_eq!(tier, given);
    }
}

/// One that comes over the tailnet, from a node with these tags.
fn over_tailnet(n: u8, tags: &[&str]) -> (JoinAttempt, mpsc::Receiver<JoinAnswer>) {
    let (attempt, received) = attempt(n, None);
    let node = Node {
        stable_id: format!("n{n}"),
        name: "shed".to_owned(),
        tailnet: "t.example".to_owned(),
        tags: tags.iter().map(ToString::to_string).collect(),
        ..Node::default()
    };
    let login = tags.is_empty().then(|| "ada@example.org".to_owned());
    let tailnet = Some(Identity { node, login });
    (JoinAttempt { underlay: UnderlayKind::Tailnet, tailnet, ..attempt }, received)
}

fn with_rule() -> Admission {
    let mut admission = Admission::new(name("desk"));
    admission.set_tag_rule(Some(TagRule { tag: "tag:agent-node".to_owned(), tier: Tier::Shared }));
    admission
}

#[test]
fn a_tag_lets_a_newcomer_in_and_it_never_waits() {
    let (mut admission, view) = (with_rule(), view());
    let (attempt, mut received) = over_tailnet(7, &["tag:agent-node"]);
    let key = attempt.key;
    admission.handle_attempt(attempt, &view, NOW);
    let Some(Effect::Command(command, errand)) = admission.poll_effect() else { panic!("no command") };
    let Command::ApproveTagged { key: approved, tier, of, .. } = command else { panic!("{command:?}") };
    assert_eq!((approved, tier, of.node.as_str()), (key, Tier::Shared, "n7"));
    assert_eq!((of.tailnet.as_str(), of.tag.as_str()), ("t.example", "tag:agent-node"));
    assert_eq!(kinds(&mut admission), ["tell", "publish"]);
    let Step::Welcome { welcome, .. } = welcome(view.mesh) else { unreachable!() };
    admission.handle_reply(errand, Ok(Reply::Approved(welcome)));
    assert_eq!(kinds(&mut admission), ["answer newcomer", "tell", "publish"]);
    assert!(matches!(first(&mut received), JoinAnswer::Welcome(_)));
    assert!(admission.pending(&view, &[], NOW).is_empty());
}

#[test]
fn whom_its_tag_does_not_let_in_after_all_waits_for_a_person_and_hears_so() {
    let (mut admission, view) = (with_rule(), view());
    let (attempt, mut received) = over_tailnet(7, &["tag:agent-node"]);
    admission.handle_attempt(attempt, &view, NOW);
    let Some(Effect::Command(_, errand)) = admission.poll_effect() else { panic!("no command") };
    kinds(&mut admission);
    admission.handle_reply(errand, Err(Refusal::Invalid("it belonged before".to_owned())));
    assert_eq!(kinds(&mut admission), ["answer newcomer", "tell", "publish"]);
    assert!(matches!(first(&mut received), JoinAnswer::Waiting { .. }));
    let pending = admission.pending(&view, &[], NOW);
    assert!(pending[0].why.contains("its tag does not let it in: it belonged before"), "{}", pending[0].why);
}

#[test]
fn one_without_the_tag_waits_with_its_node_and_user_shown() {
    let (mut admission, view) = (with_rule(), view());
    let (attempt, mut received) = over_tailnet(7, &[]);
    admission.handle_attempt(attempt, &view, NOW);
    assert_eq!(kinds(&mut admission), ["answer newcomer", "tell", "publish"]);
    assert!(matches!(first(&mut received), JoinAnswer::Waiting { .. }));
    let why = admission.pending(&view, &[], NOW)[0].why.clone();
    assert_eq!(why, "it asks to join over the tailnet from `shed` of ada@example.org, without `tag:agent-node`");
    // Where no tag lets in, none is missed; and a device that is no owner lets nobody in.
    let mut without = Admission::new(name("desk"));
    without.handle_attempt(over_tailnet(8, &[]).0, &view, NOW);
    assert!(without.pending(&view, &[], NOW)[0].why.ends_with("of ada@example.org"));
    let mut view = view;
    view.nodes.clear();
    admission.handle_attempt(over_tailnet(9, &["tag:agent-node"]).0, &view, NOW);
    assert!(!effects(&mut admission).iter().any(|effect| matches!(effect, Effect::Command(..))));
}

#[test]
fn a_member_that_was_let_in_for_its_tag_comes_again_as_that() {
    let (mut admission, mut view) = (with_rule(), view());
    let (attempt, _received) = over_tailnet(7, &["tag:agent-node"]);
    let (tailnet, tag) = ("t.example".to_owned(), "tag:agent-node".to_owned());
    let of = Some(TaggedNode { tailnet, node: "n7".to_owned(), tag });
    view.nodes.push(NodeView { peer: attempt.peer, key: attempt.key, of: of.clone(), ..member(7) });
    admission.handle_attempt(attempt, &view, NOW);
    let Some(Effect::Command(command, _)) = admission.poll_effect() else { panic!("no command") };
    assert!(matches!(&command, Command::ApproveTagged { of: again, .. } if Some(again) == of.as_ref()), "{command:?}");
}

#[test]
fn the_core_is_told_of_a_lost_tag_once_and_again_when_others_belong() {
    let (mut admission, mut view) = (Admission::new(name("desk")), view());
    let peer = PublicKey([7; 32]).peer_id();
    let of = |node: &str| {
        let (tailnet, tag) = ("t.example".to_owned(), "tag:agent-node".to_owned());
        Some(TaggedNode { tailnet, node: node.to_owned(), tag })
    };
    admission.judge_tags(&view);
    let nodes = [("n7".to_owned(), NodeState::default())].into();
    admission
        .handle_tailnet(Netmap { tailnet: "t.example".to_owned(), nodes, whole: true, ..Netmap::default() }, &view);
    assert!(effects(&mut admission).is_empty(), "nobody belongs for a tag");
    view.nodes.push(NodeView { peer, of: of("n7"), ..member(7) });
    admission.judge_tags(&view);
    let Some(Effect::Untagged(told)) = admission.poll_effect() else { panic!("nothing is told") };
    assert_eq!(told, [(peer, Untagged::NoTag)].into());
    view.nodes.last_mut().unwrap().untagged = Some(Untagged::NoTag);
    admission.judge_tags(&view);
    assert!(effects(&mut admission).is_empty(), "it is known");
}
