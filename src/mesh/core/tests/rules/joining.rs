//! Ways into a mesh: what a newcomer takes up of a welcome, what a store must hold to start, and who uses an invite up.

use bytes::Bytes;
use mesh_core::config::Config;
use mesh_core::crypto::{Signer as _, Symbolic};
use mesh_core::entry::{Kind, SignedEntry, encode};
use mesh_core::epoch::{Claim, Epoch, Fence};
use mesh_core::ids::{Hash, MeshId};
use mesh_core::io::{Batch, Command, Fact, Image, NewCall, Now, Output, Refusal, Reply, Space, Welcome, Write};
use mesh_core::limits;
use mesh_core::peer::{BadWelcome, Joined, Peer, founded, joined};
use mesh_core::record::{Directory, Effect, Tier};
use mesh_core::rows;
use mesh_core::test_kit::{Author, Desk, Machine, MemDisk, at, call, offers, tool};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

const NOW: Now = at(1_000_000);

fn newcomer() -> Symbolic {
    Symbolic::new(7)
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(3)
}

/// A founder that leads, and what it hands to a newcomer.
fn welcomed() -> (Desk, Welcome) {
    let mut founder = Desk::founder(Symbolic::new(0), NOW);
    founder.ask(Command::SetDirectory(offers(vec![tool("echo", Effect::None)])));
    founder.pass(5_000);
    assert!(founder.peer().leads());
    let node_id = "bureau".parse().unwrap();
    let welcome =
        founder.approve(Command::Approve { key: newcomer().public_key(), node_id, tier: Tier::Shared, stay: None });
    (founder, welcome)
}

fn judge(welcome: &Welcome, mesh: Option<MeshId>) -> Result<Joined, BadWelcome> {
    joined(welcome, mesh, &Config::default(), Box::new(newcomer()), NOW, &mut rng())
}

/// Starts a peer from what was taken up.
fn start(joined: &Joined) -> Desk {
    let machine = Machine::new(newcomer(), Config::default(), &joined.rows);
    Desk::started(machine, NOW)
}

#[test]
fn s07_a_welcome_is_judged_before_anything_is_replaced() {
    let (founder, welcome) = welcomed();
    let mesh = founder.peer().view().mesh;
    let good = judge(&welcome, Some(mesh)).unwrap();
    assert_eq!((good.node_id.as_str(), good.tier, good.left_out), ("bureau", Tier::Shared, 0));
    let view = start(&good).peer().view();
    assert_eq!((view.mesh, view.nodes.len()), (mesh, 2));

    assert_eq!(judge(&welcome, Some(MeshId([9; 32]))), Err(BadWelcome::OtherMesh));
    let lies = Welcome { tier: Tier::Owner, node_id: "king".parse().unwrap(), ..welcome.clone() };
    assert_eq!(judge(&lies, None).unwrap(), good, "what it says of us counts for nothing beside the signed changes");
    let without = |kind| {
        let trust = welcome.trust.iter().filter(|entry| entry.entry.kind != kind).cloned().collect();
        judge(&Welcome { trust, ..welcome.clone() }, None)
    };
    assert_eq!(without(Kind::GENESIS), Err(BadWelcome::NoMesh));
    assert_eq!(without(Kind::MEMBERSHIP), Err(BadWelcome::NotApproved));
    // Approved by somebody who is no owner there.
    let stranger = Desk::founder(Symbolic::new(5), NOW);
    let foreign = Welcome { mesh: stranger.peer().view().mesh, ..welcome.clone() };
    assert_eq!(judge(&foreign, None), Err(BadWelcome::NoMesh));
}

#[test]
fn s07_a_second_genesis_does_not_lead_into_another_mesh() {
    // A store takes up the first genesis that it finds: which one that is must not be the inviter's to choose.
    let (_, welcome) = welcomed();
    for n in 20..40 {
        let rows = founded(&Symbolic::new(n), "trap", &"trap".parse().unwrap(), NOW, &mut rng());
        let trap = rows.writes.iter().find(|write| write.space == Space::Trust).and_then(|write| write.value.clone());
        let trap = SignedEntry::from_stored(&trap.unwrap()).unwrap();
        for first in [true, false] {
            let mut trust = welcome.trust.clone();
            trust.insert(if first { 0 } else { trust.len() }, trap.clone());
            let taken = judge(&Welcome { trust, ..welcome.clone() }, None).unwrap();
            assert_eq!(taken.left_out, 1);
            assert_eq!(start(&taken).peer().view().mesh, welcome.mesh);
        }
    }
}

#[test]
fn s07_directories_that_are_of_no_use_are_left_out_and_nobody_is_bricked() {
    let (founder, welcome) = welcomed();
    // Each is newer than the honest one, which it must not displace.
    let says = |key: Symbolic, kind, body: Vec<u8>| Author::new(key, welcome.mesh, at(9_000_000)).says(kind, body);
    let everything = Directory { platform: "x".repeat(33), ..Directory::default() };
    let odd = [
        says(Symbolic::new(0), Kind::DIRECTORY, b"nonsense".to_vec()),
        says(Symbolic::new(0), Kind::DIRECTORY, encode(&everything)),
        says(Symbolic::new(0), Kind::CHECKPOINT, encode(&Directory::default())),
        says(Symbolic::new(30), Kind::DIRECTORY, encode(&Directory::default())),
    ];
    let honest = welcome.directory.len();
    assert_eq!(honest, 1);
    for entry in &odd {
        for first in [true, false] {
            let mut directory = welcome.directory.clone();
            directory.insert(if first { 0 } else { honest }, entry.clone());
            let taken = judge(&Welcome { directory, ..welcome.clone() }, None).unwrap();
            assert_eq!(taken.left_out, 1);
            let view = start(&taken).peer().view();
            assert_eq!(view.by_peer(&founder.id()).unwrap().tools().len(), 1, "the honest one stays");
        }
    }
}

#[test]
fn s23_the_fence_of_a_welcome_is_proven_and_leaves_room_above() {
    let (founder, welcome) = welcomed();
    let (honest, mesh) = (welcome.fence.clone(), welcome.mesh);
    assert!(honest.proof.is_some() && honest.epoch.peer == founder.id());
    let fenced = |fence| judge(&Welcome { fence, ..welcome.clone() }, None).map(|taken| taken.rows.writes.len());
    let unproven = Err(BadWelcome::UnprovenFence);
    let above = Epoch { counter: honest.epoch.counter + 1, ..honest.epoch };
    assert_eq!(fenced(Fence { proof: None, ..honest.clone() }), unproven);
    assert_eq!(fenced(Fence { epoch: above, ..honest.clone() }), unproven, "a proof of another epoch");
    for counter in [limits::EPOCH_WELCOME_MAX + 1, u64::MAX - 1, u64::MAX] {
        let epoch = Epoch { counter, ..honest.epoch };
        let proof = Some(Claim::sign(&Symbolic::new(0), mesh, epoch, 1));
        assert_eq!(fenced(Fence { epoch, proof }), Err(BadWelcome::EpochTooHigh(counter)));
    }
    let epoch = Epoch { counter: 1 << 40, ..honest.epoch };
    assert!(fenced(Fence { epoch, proof: Some(Claim::sign(&Symbolic::new(0), mesh, epoch, 1)) }).is_ok());
    assert!(fenced(Fence { epoch: Epoch::ZERO, proof: None }).is_ok(), "a mesh that nobody has led yet");
    let elsewhere = Claim::sign(&Symbolic::new(0), MeshId([9; 32]), honest.epoch, 1);
    assert_eq!(fenced(Fence { proof: Some(elsewhere), ..honest.clone() }), unproven, "a proof of another mesh");
    // By a member that may not lead, and by a stranger.
    for key in [newcomer(), Symbolic::new(30)] {
        let epoch = Epoch { counter: 5, class: 3, peer: key.public_key().peer_id() };
        let proof = Some(Claim::sign(&key, mesh, epoch, 1));
        assert_eq!(fenced(Fence { epoch, proof }), unproven);
    }
}

#[test]
fn s23_no_counter_of_an_epoch_wraps() {
    let rows = welcomed().0.machine.disk.image().rows;
    let mut writes: Vec<_> =
        rows.into_iter().map(|(space, key, value)| Write { space, key, value: Some(value) }).collect();
    writes.push(rows::claim_floor().put(&u64::MAX));
    let machine = Machine::new(Symbolic::new(0), Config::default(), &Batch { writes, sync: true });
    let mut founder = Desk::started(machine, NOW);
    founder.pass(60_000);
    assert!(!founder.peer().leads(), "there is no epoch above it");
    assert!(founder.peer().view().fence.counter > 0);
}

#[test]
fn s23_an_owner_that_does_not_lead_yet_hands_out_a_fence_with_proof() {
    let (mut founder, _) = welcomed();
    // With another owner it does not lead at once.
    let other = Symbolic::new(8).public_key();
    founder.approve(Command::Approve { key: other, node_id: "loft".parse().unwrap(), tier: Tier::Owner, stay: None });
    founder.crash();
    assert!(!founder.peer().leads() && founder.peer().view().fence.counter > 0);
    let node_id = "cellar".parse().unwrap();
    let key = newcomer().public_key();
    let welcome = founder.approve(Command::Approve { key, node_id, tier: Tier::Owner, stay: None });
    assert!(judge(&welcome, None).is_ok());
}

#[test]
fn s16_an_invite_is_used_up_only_by_whoever_it_lets_in() {
    let mut founder = Desk::founder(Symbolic::new(0), NOW);
    founder.pass(5_000);
    let node_id = "bureau".parse::<mesh_core::ids::NodeId>().unwrap();
    founder.approve(Command::Approve {
        key: newcomer().public_key(),
        node_id: node_id.clone(),
        tier: Tier::Shared,
        stay: None,
    });
    // The only owner itself would be one no more by it.
    let key = Symbolic::new(0).public_key();
    let secret = Hash::of(b"secret");
    assert_eq!(
        founder.ask(Command::Invite { secret, tier: Tier::Shared, ttl_ms: 60_000, name: None, stay: None }),
        Reply::Invited
    );
    let redeem = |key| Command::Redeem { secret, key, node_id: node_id.clone() };
    let before = founder.machine.disk.clone();
    assert_eq!(founder.ask(redeem(key)), Reply::Refused(Refusal::LastOwner));
    let is_invite = |space: &Space| *space == Space::Invites;
    let kept =
        |disk: &MemDisk| disk.image().rows.into_iter().filter(|(space, ..)| is_invite(space)).collect::<Vec<_>>();
    assert_eq!(kept(&founder.machine.disk), kept(&before));
    let other = Symbolic::new(8).public_key();
    assert!(matches!(founder.ask(redeem(other)), Reply::Approved(_)), "the code is still good");
    assert_eq!(founder.ask(redeem(key)), Reply::Refused(Refusal::InviteUsed));
}

#[test]
fn b11_an_invite_gives_the_name_that_is_asked_for_also_where_a_leave_was_not_heard() {
    let mut founder = Desk::founder(Symbolic::new(0), NOW);
    founder.pass(5_000);
    let key = newcomer().public_key();
    let mut redeem = |n: u8, name: &str| {
        let secret = Hash::of(&[n]);
        assert_eq!(
            founder.ask(Command::Invite { secret, tier: Tier::Shared, ttl_ms: 60_000, name: None, stay: None }),
            Reply::Invited
        );
        let reply = founder.ask(Command::Redeem { secret, key, node_id: name.parse().unwrap() });
        let Reply::Approved(welcome) = reply else { panic!("{reply:?}") };
        let view = founder.peer().view();
        assert_eq!(view.by_peer(&key.peer_id()).map(|node| &node.node_id), Some(&welcome.node_id));
        (welcome.node_id.to_string(), welcome.trust.len())
    };
    assert_eq!(redeem(1, "cellar").0, "cellar");
    // It left since, which nobody here has heard, and comes back as another.
    let (name, changes) = redeem(2, "porch");
    assert_eq!(name, "porch");
    // Who asks for the name that it has needs nothing new, and a name that another has is not taken away.
    assert_eq!(redeem(3, "porch"), ("porch".to_owned(), changes));
    assert_eq!(redeem(4, "attic").0, "attic-2");
    // An approval by a person does not rename a member.
    let renamed = Command::Approve { key, node_id: "shed".parse().unwrap(), tier: Tier::Owner, stay: None };
    let Reply::Approved(welcome) = founder.ask(renamed) else { panic!() };
    assert_eq!(welcome.node_id.as_str(), "attic-2");
}

#[test]
fn l02_an_invite_that_was_taken_back_lets_nobody_in() {
    let mut founder = Desk::founder(Symbolic::new(0), NOW);
    founder.pass(5_000);
    let (key, node_id) = (newcomer().public_key(), "bureau".parse::<mesh_core::ids::NodeId>().unwrap());
    let secrets = [Hash::of(b"one"), Hash::of(b"two")];
    for secret in secrets {
        assert_eq!(
            founder.ask(Command::Invite { secret, tier: Tier::Owner, ttl_ms: 60_000, name: None, stay: None }),
            Reply::Invited
        );
    }
    let redeem = |secret| Command::Redeem { secret, key, node_id: node_id.clone() };
    for _ in 0..2 {
        assert_eq!(founder.ask(Command::VoidInvite { secret: secrets[0] }), Reply::InviteVoided);
        founder.crash();
        assert_eq!(founder.ask(redeem(secrets[0])), Reply::Refused(Refusal::InviteVoid));
    }
    assert!(matches!(founder.ask(redeem(secrets[1])), Reply::Approved(_)));
    assert_eq!(founder.ask(Command::VoidInvite { secret: secrets[1] }), Reply::Refused(Refusal::InviteUsed));
    let unknown = Command::VoidInvite { secret: Hash::of(b"three") };
    assert_eq!(founder.ask(unknown), Reply::Refused(Refusal::InviteUnknown));
    let states: Vec<_> = founder.peer().invites().map(|(_, row)| (row.void, row.used_by)).collect();
    assert_eq!(states.len(), 2);
    assert!(states.contains(&(true, None)) && states.contains(&(false, Some(key))));
    // Those that are over leave room: only open ones count against the limit.
    for n in 0..limits::INVITES_KEPT_MAX + 8 {
        let secret = Hash::of(&n.to_be_bytes());
        assert_eq!(
            founder.ask(Command::Invite { secret, tier: Tier::Owner, ttl_ms: 60_000, name: None, stay: None }),
            Reply::Invited,
            "{n}"
        );
        assert_eq!(founder.ask(Command::VoidInvite { secret }), Reply::InviteVoided);
    }
    assert!(founder.peer().invites().count() <= limits::INVITES_KEPT_MAX);
}

/// A store with a row in every space that is read at the start.
fn lived_in() -> Desk {
    let (mut founder, _) = welcomed();
    founder.ask(Command::Invite { secret: Hash::of(b"s"), tier: Tier::Owner, ttl_ms: 60_000, name: None, stay: None });
    let to_nobody = NewCall { client_key: Some("k".to_owned()), ..call("bureau", "echo") };
    // The newcomer offers nothing yet; the founder does.
    let _ = founder.ask(Command::Call(to_nobody));
    let own = NewCall { client_key: Some("k".to_owned()), ..call("attic", "echo") };
    assert!(matches!(founder.ask(Command::Call(own)), Reply::Call { .. }));
    founder
}

fn boot(image: Image) -> (Result<Peer, mesh_core::peer::BootError>, Vec<Output>) {
    let mut out = Vec::new();
    let peer = Peer::boot(Config::default(), Box::new(Symbolic::new(0)), image, NOW, &mut rng(), &mut out);
    (peer, out)
}

#[test]
fn s07_rows_that_others_can_say_again_never_keep_a_store_from_starting() {
    let desk = lived_in();
    let image = desk.machine.disk.image();
    let spaces = [Space::Directory, Space::Open, Space::Keys, Space::Invites];
    for space in spaces {
        assert!(image.rows.iter().any(|(of, ..)| *of == space), "there is a row of {}", space.name());
    }
    for (n, (space, ..)) in image.rows.iter().enumerate().filter(|(_, (space, ..))| spaces.contains(space)) {
        let mut damaged = image.clone();
        damaged.rows[n].2 = Bytes::from_static(b"\xff\xff");
        let key = damaged.rows[n].1.clone();
        let (peer, out) = boot(damaged);
        assert!(peer.is_ok(), "{}", space.name());
        assert!(out.iter().any(|output| matches!(output, Output::Fact(Fact::Warning(..)))), "and it says so: {out:?}");
        // Once: the row is gone after the first start.
        let dropped = |output: &Output| {
            let Output::Commit(_, batch) = output else { return false };
            batch.writes.iter().any(|write| write.key == key && write.value.is_none())
        };
        assert!(out.iter().any(dropped));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Point 7 of the acceptance: whatever stands in a row, the start works, or says which rows keep it from that.
    #[test]
    fn s07_any_damage_to_a_stored_row_is_survived(
        picks in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4),
    ) {
        thread_local!(static IMAGE: Image = lived_in().machine.disk.image());
        let mut image = IMAGE.with(Clone::clone);
        let mut spaces = Vec::new();
        for (row, byte, value, how) in picks {
            let row = row.get(&image.rows).clone();
            spaces.push(row.0);
            let at = image.rows.iter().position(|other| *other == row).unwrap();
            let (_, key, bytes) = &mut image.rows[at];
            let mut text = bytes.to_vec();
            match how {
                0 if !text.is_empty() => { let place = byte.index(text.len()); text[place] = value; }
                1 => text.truncate(byte.index(text.len() + 1)),
                2 => text.extend([value; 9]),
                _ => { key.push(value); }
            }
            *bytes = text.into();
        }
        let (peer, _) = boot(image);
        if let Err(error) = peer {
            let told = error.to_string();
            prop_assert!(!spaces.iter().all(|space| space.is_dispensable()), "{:?}: {}", spaces, told);
            prop_assert!(told.contains("does not decode") || told.contains("no mesh"), "{}", told);
        }
    }

    /// Likewise of a welcome: what is taken up starts, and all else changes nothing.
    #[test]
    fn s07_any_welcome_starts_or_is_refused(
        picks in proptest::collection::vec((0..7_u8, any::<prop::sample::Index>(), any::<u64>()), 1..6),
    ) {
        thread_local!(static WELCOME: Welcome = welcomed().1);
        let mut welcome = WELCOME.with(Clone::clone);
        for (how, at, value) in picks {
            let stranger = Author::new(Symbolic::new(value % 4), welcome.mesh, NOW)
                .says(Kind((value % 9) as u16), value.to_be_bytes().to_vec());
            match how {
                0 if !welcome.trust.is_empty() => drop(welcome.trust.remove(at.index(welcome.trust.len()))),
                1 => welcome.trust.push(stranger),
                2 => welcome.directory.push(stranger),
                3 => welcome.fence.epoch.counter = value,
                4 => welcome.fence.proof = None,
                5 => welcome.trust.extend(welcome.directory.clone()),
                _ => welcome.trust.reverse(),
            }
        }
        if let Ok(taken) = judge(&welcome, None) {
            let desk = start(&taken);
            prop_assert_eq!(desk.peer().view().mesh, welcome.mesh);
            prop_assert!(desk.peer().tier(&desk.id()).is_some());
        }
    }
}

#[test]
fn heads_and_trust_are_promises() {
    // What a start cannot do without is named, so that a person knows what to do.
    let mut image = lived_in().machine.disk.image();
    let (_, _, value) = image.rows.iter_mut().find(|(space, ..)| *space == Space::Heads).unwrap();
    *value = Bytes::from_static(b"?");
    let (peer, _) = boot(image);
    assert!(peer.unwrap_err().to_string().contains("heads"));
}
