//! Tests: sets of membership changes and the membership that they derive.

use super::*;
use crate::audience::Audience;
use crate::crypto::{Signer, Symbolic};
use crate::entry::{BodyCommitment, Entry, Salt, encode};
use crate::record::{ChangeKind, MembershipChange};

mod laws;

/// No secret in tests.
const SALT: Salt = Salt([7; 16]);

fn key(n: u64) -> PublicKey {
    Symbolic::new(n).public_key()
}

fn id(n: u64) -> PeerId {
    key(n).peer_id()
}

#[expect(clippy::needless_pass_by_value, reason = "bodies are made where they are passed")]
fn signed(incarnation: u32, author: u64, seq: u64, mesh: MeshId, kind: Kind, body: Vec<u8>) -> SignedEntry {
    let signer = Symbolic::new(author);
    let entry = Entry {
        mesh,
        author: signer.public_key(),
        incarnation: Incarnation(incarnation),
        seq,
        hlc: seq,
        kind,
        critical: false,
        previous: Hash::ZERO,
        audience: Audience::Everyone,
        body: BodyCommitment::of(SALT, &body),
    };
    SignedEntry::sign(&signer, entry, SALT, &body)
}

fn genesis() -> SignedEntry {
    let body = Genesis { name: "home".into(), nonce: 1, node_id: "founder".parse().unwrap() };
    signed(1, 0, 1, MeshId([0; 32]), Kind::GENESIS, encode(&body))
}

/// Grounds of the founder's word.
fn root() -> Hash {
    genesis().hash
}

/// A change as somebody may sign it.
#[derive(Debug, Clone)]
struct Word {
    incarnation: u32,
    author: u64,
    seq: u64,
    grant: Hash,
    stands: Vec<Hash>,
    fence: u64,
}

/// The word of `author` at this place of its log.
fn by(author: u64, seq: u64, grant: Hash) -> Word {
    Word { incarnation: 1, author, seq, grant, stands: Vec::new(), fence: 0 }
}

impl Word {
    fn says(&self, subject: u64, what: ChangeKind) -> SignedEntry {
        let Self { incarnation, author, seq, grant, stands, fence } = self.clone();
        let body = encode(&MembershipChange { subject: key(subject), grant, stands, rights: Vec::new(), fence, what });
        signed(incarnation, author, seq, MeshId(root().0), Kind::MEMBERSHIP, body)
    }

    fn standing(self, stands: &[&SignedEntry]) -> Self {
        Self { stands: stands.iter().map(|entry| entry.hash).collect(), ..self }
    }

    fn approves(&self, subject: u64, tier: Tier, after: &[&SignedEntry]) -> SignedEntry {
        let after = after.iter().map(|entry| entry.hash).collect();
        self.says(
            subject,
            ChangeKind::Approved {
                tier,
                node_id: "macbook".parse().unwrap(),
                after,
                unseen: false,
                stay: None,
                of: None,
            },
        )
    }

    fn owner(&self, subject: u64) -> SignedEntry {
        self.approves(subject, Tier::Owner, &[])
    }

    fn revokes(&self, subject: u64) -> SignedEntry {
        self.cuts(subject, &[(1, u64::MAX)])
    }

    fn cuts(&self, subject: u64, cutoffs: &[(u32, u64)]) -> SignedEntry {
        let cutoffs = cutoffs.iter().map(|(incarnation, seq)| (Incarnation(*incarnation), *seq)).collect();
        self.says(subject, ChangeKind::Revoked { cutoffs, left: false, unsaid: false })
    }

    fn leaves(&self) -> SignedEntry {
        self.says(
            self.author,
            ChangeKind::Revoked { cutoffs: vec![(Incarnation(1), u64::MAX)], left: true, unsaid: false },
        )
    }
}

fn trust<'a>(records: impl IntoIterator<Item = &'a SignedEntry>) -> Trust {
    let all = [genesis()].into_iter().chain(records.into_iter().cloned()).collect();
    Trust::new(all, ProtocolRules::default()).unwrap()
}

/// Adds one change, and judges. None: it was not taken, or not kept.
fn add(trust: &mut Trust, entry: SignedEntry) -> Option<bool> {
    trust
        .take(entry)
        .then(|| trust.judge(true, 0))
        .flatten()
        .filter(|judged| !judged.kept.is_empty())
        .map(|j| j.changed)
}

fn tiers(trust: &Trust) -> Vec<(u64, Tier)> {
    (0..20).filter_map(|n| Some((n, trust.tier(&id(n))?))).collect()
}

fn inside<'a>(records: impl IntoIterator<Item = &'a SignedEntry>) -> Vec<u64> {
    tiers(&trust(records)).into_iter().map(|(n, _)| n).collect()
}

#[test]
fn an_approval_by_a_stranger_counts_for_nothing() {
    let seven = by(0, 2, root()).owner(7);
    assert_eq!(inside([&by(7, 1, root()).owner(8)]), [0]);
    assert_eq!(inside([&seven, &by(7, 1, seven.hash).owner(8)]), [0, 7, 8]);
    // Nor one by an owner that names somebody else's grant, or one that makes no owner of it.
    let eight = by(0, 3, root()).approves(8, Tier::Shared, &[]);
    assert_eq!(inside([&seven, &eight, &by(7, 1, root()).owner(9)]), [0, 7, 8]);
    assert_eq!(inside([&seven, &eight, &by(8, 1, eight.hash).owner(9)]), [0, 7, 8]);
    assert_eq!(inside([&seven, &eight, &by(8, 1, seven.hash).owner(9)]), [0, 7, 8]);
}

#[test]
fn revocation_beats_an_approval_that_did_not_know_it() {
    let first = by(0, 2, root()).owner(1);
    let second = by(0, 3, root()).owner(2);
    let revoked = by(2, 1, second.hash).standing(&[]).revokes(1);
    assert_eq!(inside([&first, &second, &revoked]), [0, 2]);
    let blind = by(0, 4, root()).owner(1);
    assert_eq!(inside([&first, &second, &revoked, &blind]), [0, 2]);
    let knowing = by(0, 4, root()).approves(1, Tier::Owner, &[&revoked]);
    assert_eq!(inside([&first, &second, &revoked, &knowing]), [0, 1, 2]);
    // Everyone knows what he said himself.
    let own = by(0, 3, root()).revokes(1);
    assert_eq!(inside([&first, &own]), [0]);
    assert_eq!(inside([&first, &own, &by(0, 4, root()).owner(1)]), [0, 1]);
}

/// The founder made 1 an owner, who let 2 in as one; and said something more, which the founder has not seen.
struct Scene {
    one: SignedEntry,
    two: SignedEntry,
    unseen: SignedEntry,
}

impl Scene {
    fn new() -> Self {
        let one = by(0, 2, root()).owner(1);
        let two = by(1, 5, one.hash).owner(2);
        let unseen = by(1, 6, one.hash).owner(3);
        Self { one, two, unseen }
    }

    fn all(&self) -> [&SignedEntry; 3] {
        [&self.one, &self.two, &self.unseen]
    }

    /// The founder ends the word of 1, having seen what it said of 2.
    fn ended(&self, tier: Option<Tier>) -> SignedEntry {
        let word = by(0, 3, root()).standing(&[&self.two]);
        tier.map_or_else(|| word.cuts(1, &[(1, 5)]), |tier| word.approves(1, tier, &[]))
    }
}

#[test]
fn s01_demotion_and_revocation_end_a_word_alike() {
    let scene = Scene::new();
    assert_eq!(inside(scene.all()), [0, 1, 2, 3]);
    for tier in [None, Some(Tier::Shared), Some(Tier::Ephemeral)] {
        let ended = scene.ended(tier);
        let all = || scene.all().into_iter().chain([&ended]);
        let held = trust(all());
        assert_eq!(held.tier(&id(1)), tier);
        assert!(held.tier(&id(2)).is_some() && held.tier(&id(3)).is_none(), "{tier:?}");
        assert_eq!(held.membership().awaiting_reapproval[&id(3)].revoked_by, Some(id(0)));
        // Later words: to raise itself, to let a sybil in, to lower and to remove an owner.
        for (seq, grant) in [(7, &scene.one), (7, &ended), (4, &scene.one), (5, &scene.one)] {
            let word = by(1, seq, grant.hash);
            let words = [
                word.approves(1, Tier::Owner, &[&ended]),
                word.owner(4),
                word.approves(2, Tier::Shared, &[]),
                word.revokes(2),
                word.revokes(0),
            ];
            for said in &words {
                assert_eq!(tiers(&trust(all().chain([said]))), tiers(&held), "{tier:?}, place {seq}");
            }
            assert_eq!(tiers(&trust(all().chain(&words))), tiers(&held), "{tier:?}, place {seq}");
        }
    }
}

#[test]
fn s01_what_was_said_of_an_earlier_place_and_not_seen_is_void() {
    // Places up to the cut-off do not tell: the key may sign another entry for any of them.
    let scene = Scene::new();
    let ended = scene.ended(None);
    let earlier = [by(1, 4, scene.one.hash).owner(4), by(1, 5, scene.one.hash).owner(4)];
    for earlier in &earlier {
        assert_eq!(inside(scene.all().into_iter().chain([&ended, earlier])), [0, 2]);
    }
}

#[test]
fn s01_readmission_gives_the_tier_it_names_and_nothing_older() {
    let scene = Scene::new();
    let ended = scene.ended(None);
    let shared = by(0, 4, root()).standing(&[&scene.two]).approves(1, Tier::Shared, &[&ended]);
    let again = by(0, 5, root()).approves(1, Tier::Owner, &[&shared, &ended]);
    let mut late = by(1, 1, scene.one.hash);
    late.incarnation = 2;
    let (old, new) = (late.owner(4), Word { grant: again.hash, ..late.clone() }.owner(5));
    let as_shared = Word { grant: shared.hash, ..late }.owner(6);
    let all = || scene.all().into_iter().chain([&ended, &shared, &old, &as_shared, &new]);
    assert_eq!(tiers(&trust(all())), [(0, Tier::Owner), (1, Tier::Shared), (2, Tier::Owner)]);
    let again: Vec<_> = all().chain([&again]).collect();
    assert_eq!(inside(again.iter().copied()), [0, 1, 2, 5], "what it said before stays void");
}

#[test]
fn a_promotion_that_did_not_know_the_demotion_gives_nothing() {
    let scene = Scene::new();
    let ended = scene.ended(Some(Tier::Shared));
    let blind = by(2, 1, scene.two.hash).owner(1);
    let words = by(1, 7, blind.hash).owner(4);
    let held = trust(scene.all().into_iter().chain([&ended, &blind, &words]));
    assert_eq!(tiers(&held), [(0, Tier::Owner), (1, Tier::Shared), (2, Tier::Owner)]);
}

#[test]
fn the_founder_can_be_lowered_and_its_word_ends_with_that() {
    let one = by(0, 2, root()).owner(1);
    let lowered = by(1, 1, one.hash).standing(&[&one]).approves(0, Tier::Shared, &[]);
    let later = by(0, 3, root()).owner(3);
    assert_eq!(tiers(&trust([&one, &lowered, &later])), [(0, Tier::Shared), (1, Tier::Owner)]);
    let raised = by(1, 2, one.hash).approves(0, Tier::Owner, &[&lowered]);
    let held = trust([&one, &lowered, &later, &raised]);
    assert_eq!(tiers(&held), [(0, Tier::Owner), (1, Tier::Owner)]);
    assert_eq!(held.member(&id(0)).unwrap().grant, raised.hash);
}

#[test]
fn s24_a_former_owner_proves_no_epoch_that_was_not_known_then() {
    let scene = Scene::new();
    for tier in [None, Some(Tier::Shared)] {
        assert!(trust(scene.all()).may_prove(&id(1), u64::MAX), "an owner may");
        let word = Word { fence: 40, ..by(0, 3, root()).standing(&[&scene.two]) };
        let ended = tier.map_or_else(|| word.revokes(1), |tier| word.approves(1, tier, &[]));
        let held = trust(scene.all().into_iter().chain([&ended]));
        assert!(held.may_prove(&id(1), 40) && !held.may_prove(&id(1), 41), "{tier:?}");
        // By two who ended it, as far as both knew; and an owner again may do what owners may.
        let other = Word { fence: 30, ..by(2, 1, scene.two.hash).standing(&[&scene.two]) }.revokes(1);
        let held = trust(scene.all().into_iter().chain([&ended, &other]));
        assert!(held.may_prove(&id(1), 30) && !held.may_prove(&id(1), 31), "{tier:?}");
        let again = by(0, 4, root()).approves(1, Tier::Owner, &[&ended, &other]);
        assert!(trust(scene.all().into_iter().chain([&ended, &other, &again])).may_prove(&id(1), 99));
    }
    let shared = by(0, 9, root()).approves(9, Tier::Shared, &[]);
    assert!(!trust([&shared]).may_prove(&id(9), 0), "who never was an owner proves nothing");
}

#[test]
fn s16_no_number_that_anybody_signs_uses_anything_up() {
    // Approvals and revocations of the highest numbers there are, in all that a change can be numbered by.
    let one = by(0, 2, root()).owner(1);
    let two = by(0, 3, root()).owner(2);
    let mut high = by(1, u64::MAX, one.hash);
    high.incarnation = u32::MAX;
    let words = [high.revokes(2), high.approves(2, Tier::Ephemeral, &[])];
    let mut records = vec![one, two];
    records.extend(words);
    let held = trust(&records);
    let after = held.known_about(&id(2));
    assert!(!held.is_owner(&id(2)) && after.len() == 2, "{after:?}");
    let again = by(0, 4, root()).says(
        2,
        ChangeKind::Approved {
            tier: Tier::Owner,
            node_id: "nas".parse().unwrap(),
            after,
            unseen: false,
            stay: None,
            of: None,
        },
    );
    records.push(again);
    assert!(trust(&records).is_owner(&id(2)));
}

#[test]
fn s16_however_often_somebody_was_revoked_by_one_owner_one_name_takes_it_back() {
    let one = by(0, 2, root()).owner(1);
    let mut records = vec![one.clone(), by(0, 3, root()).owner(2)];
    records.extend((1..500).map(|seq| by(1, seq, one.hash).revokes(2)));
    let held = trust(&records);
    let after = held.known_about(&id(2));
    assert_eq!((held.tier(&id(2)), after.len()), (None, 2));
    let what = ChangeKind::Approved {
        tier: Tier::Owner,
        node_id: "nas".parse().unwrap(),
        after,
        unseen: false,
        stay: None,
        of: None,
    };
    records.push(by(0, 4, root()).says(2, what));
    assert!(trust(&records).is_owner(&id(2)));
}

#[test]
fn of_crossing_revocations_the_one_nearer_to_the_founder_counts() {
    let one = by(0, 2, root()).owner(1);
    let two = by(1, 1, one.hash).owner(2);
    let records = [by(1, 2, one.hash).revokes(2), by(2, 1, two.hash).standing(&[&two]).revokes(1)];
    assert_eq!(inside([&one, &two].into_iter().chain(&records)), [0, 1]);
    // And so do demotions that cross.
    let records = [
        by(1, 2, one.hash).approves(2, Tier::Shared, &[]),
        by(2, 1, two.hash).standing(&[&two]).approves(1, Tier::Shared, &[]),
    ];
    let held = trust([&one, &two].into_iter().chain(&records));
    assert_eq!(tiers(&held), [(0, Tier::Owner), (1, Tier::Owner), (2, Tier::Shared)]);
}

#[test]
fn two_with_one_name_both_stay_in() {
    let held = trust([&by(0, 2, root()).owner(1), &by(0, 3, root()).owner(2), &by(0, 4, root()).owner(3)]);
    let mut names: Vec<_> = held.membership.members.values().map(|m| m.node_id.to_string()).collect();
    names.sort();
    assert_eq!(names, ["founder", "macbook", "macbook-2", "macbook-3"]);
}

/// Takes as frames do what comes; judges now and then.
fn hears<'a>(trust: &mut Trust, said: impl IntoIterator<Item = &'a SignedEntry>) -> usize {
    let mut taken = 0;
    for (nth, entry) in said.into_iter().enumerate() {
        taken += usize::from(trust.take(entry.clone()));
        if nth % 500 == 499 {
            trust.judge(true, 0);
        }
    }
    trust.judge(true, 0);
    taken
}

/// Bytes of all that is held, as a welcome carries it.
fn bytes(trust: &Trust) -> u64 {
    trust.records_in_order().iter().map(|entry| entry.len() as u64).sum()
}

#[test]
fn k1_whoever_was_never_let_in_says_nothing_that_is_kept() {
    // Nor does anybody become a former owner by being named as one.
    let phone = by(0, 2, root()).approves(5, Tier::Shared, &[]);
    let mut held = trust([&phone]);
    assert!(!held.take(by(7, 1, root()).owner(8)));
    assert!(held.take(by(5, 1, Hash([9; 32])).owner(7)), "it was let in, and may come to be an owner");
    assert!(!held.was_owner(&id(7)) && !held.judges_early(&id(7)));
    assert!(!held.take(by(7, 1, Hash([9; 32])).owner(8)), "not before a frame is judged either");
    held.judge(true, 0);
    assert!(!held.was_owner(&id(7)) && !held.take(by(7, 1, Hash([9; 32])).owner(8)));
}

#[test]
fn s09_what_counts_for_nothing_is_bounded_in_bytes() {
    // 64 of 139 kB by a guest, and 2,000 small ones.
    let phone = by(0, 2, root()).approves(5, Tier::Shared, &[]);
    let mut held = trust([&phone]);
    let stands: Vec<Hash> = (0..4_096_u64).map(|n| Hash::of(&n.to_be_bytes())).collect();
    let large = |seq| Word { stands: stands.clone(), ..by(5, seq, Hash([9; 32])) }.approves(9, Tier::Shared, &[]);
    let all: Vec<_> = (1..=64).map(large).chain((65..2_000).map(|seq| by(5, seq, Hash([9; 32])).owner(9))).collect();
    hears(&mut held, &all);
    assert!(bytes(&held) <= limits::STRAY_CHANGES_BYTES_MAX + 4_096, "{}", bytes(&held));
    assert!(held.held() <= 513 && inside([&phone]) == [0, 5]);
    // One more device than was ever heard of is still let in.
    assert_eq!(add(&mut held, by(0, 3, root()).owner(6)), Some(true));
}

#[test]
fn s09_revocations_of_keys_that_were_never_let_in_count_for_nothing() {
    let one = by(0, 2, root()).owner(1);
    let mut records = vec![one.clone()];
    records.extend((1..=5).map(|n| by(1, n, one.hash).owner(n + 10)));
    let mut held = trust(&records);
    let grants: Vec<(u64, Hash)> =
        [(1, one.hash)].into_iter().chain((1..=5).map(|n| (n + 10, records[n as usize].hash))).collect();
    let flood = |(author, grant): &(u64, Hash)| {
        let word = (*author, *grant);
        (10..810).map(move |seq| by(word.0, seq, word.1).revokes(seq + 1_000 * word.0)).collect::<Vec<_>>()
    };
    for said in grants.iter().map(flood) {
        hears(&mut held, &said);
    }
    assert!(held.membership().revocations.is_empty() && held.held() <= 512 + 6, "{}", held.held());
    // Of somebody who awaits re-approval they count; and of one whose approval comes later.
    let (early, late) = (by(0, 9, root()).revokes(700), by(1, 900, one.hash).owner(700));
    hears(&mut held, [&early]);
    assert!(!held.is_revoked(&id(700)));
    hears(&mut held, [&late]);
    assert!(held.is_revoked(&id(700)) && held.member(&id(700)).is_none());
}

/// The founder made 1 and 2 owners; 1 lets in a hundred sybils, each of whom says so much.
fn flooded(each: u64) -> (Trust, Vec<SignedEntry>) {
    let (one, two) = (by(0, 2, root()).owner(1), by(0, 3, root()).owner(2));
    let mut all = vec![one.clone(), two];
    let sybils: Vec<_> = (1..=100).map(|n| by(1, n, one.hash).owner(n + 100)).collect();
    for (n, sybil) in (1_u64..).zip(&sybils) {
        all.push(sybil.clone());
        // Approved and revoked again: such revocations count.
        let said = |seq: u64| {
            let word = by(n + 100, seq, sybil.hash);
            if seq.is_multiple_of(2) {
                word.approves(1_000 * n + seq, Tier::Shared, &[])
            } else {
                word.revokes(1_000 * n + seq - 1)
            }
        };
        all.extend((2..each + 2).map(said));
    }
    let mut held = trust(&all[..2]);
    hears(&mut held, &all[2..]);
    (held, all)
}

#[test]
fn s09_sybils_share_what_their_host_may_say_and_nobody_else_goes_short() {
    let (mut held, _) = flooded(60);
    let most = (limits::CHANGES_BYTES_MAX + limits::STRAY_CHANGES_BYTES_MAX) / shares::CHANGE_BYTES_MIN;
    assert!(held.held() as u64 <= most && held.held() > 4_000, "{}", held.held());
    assert!(bytes(&held) <= limits::CHANGES_BYTES_MAX + limits::STRAY_CHANGES_BYTES_MAX);
    assert!(held.has_room(&id(0), 400) && held.has_room(&id(2), 400) && !held.has_room(&id(101), 400));
    // The other owners go on as ever: 300 devices of the founder, 300 of the other one, and whoever floods is removed.
    let two = held.member(&id(2)).unwrap().grant;
    let founder: Vec<_> = (10..310).map(|n| by(0, n, root()).approves(n + 200_000, Tier::Shared, &[])).collect();
    let other: Vec<_> = (10..310).map(|n| by(2, n, two).approves(n + 300_000, Tier::Shared, &[])).collect();
    hears(&mut held, founder.iter().chain(&other));
    assert!((10..310).all(|n| held.member(&id(n + 200_000)).is_some() && held.member(&id(n + 300_000)).is_some()));
    assert_eq!(add(&mut held, by(0, 400, root()).standing(&[]).revokes(1)), Some(true));
    assert!(held.is_revoked(&id(1)) && !held.is_owner(&id(101)));
}

#[test]
fn k1_what_is_dropped_from_a_set_that_is_full_depends_on_the_set_alone() {
    let (held, all) = flooded(60);
    let mut other = trust(&[]);
    // The approvals first, as everyone is shown them; the rest the other way round.
    hears(&mut other, all.iter().filter(|entry| entry.author == id(0) || entry.author == id(1)));
    hears(&mut other, all.iter().rev());
    // Both show each other all that they hold.
    let mut held = held;
    for _ in 0..2 {
        let (ours, theirs) = (held.records_in_order(), other.records_in_order());
        hears(&mut held, &theirs);
        hears(&mut other, &ours);
    }
    assert_eq!(held.fingerprint(), other.fingerprint());
    assert_eq!(held.membership(), other.membership());
}

#[test]
fn k1_no_number_of_strays_refuses_the_word_of_a_former_owner_against_whoever_limits_it() {
    // The thief tells a device that the founder is out, and fills it with what counts for nothing; then comes what the
    // founder had said before.
    let one = by(0, 2, root()).owner(1);
    let phone = by(0, 3, root()).approves(5, Tier::Shared, &[]);
    let mut held = trust([&one, &phone]);
    let against = by(1, 50, one.hash).standing(&[&one, &phone]).revokes(0);
    assert_eq!(add(&mut held, against), Some(true));
    assert!(held.is_revoked(&id(0)) && held.is_owner(&id(1)));
    let guest = (1..1_500).map(|seq| by(5, seq, Hash([9; 32])).owner(seq + 50)).collect::<Vec<_>>();
    let sybils: Vec<_> = (1..18).map(|n| by(1, n, one.hash).owner(n + 100)).collect();
    let said =
        |n: u64| (1..65).map(move |seq| by(n + 100, seq, Hash([8; 32])).approves(seq + 2_000, Tier::Shared, &[]));
    let said: Vec<_> = sybils.iter().cloned().chain((1..18).flat_map(said)).collect();
    hears(&mut held, guest.iter().chain(&said));
    let forgets = by(0, 4, root()).standing(&[]).revokes(1);
    assert_eq!(add(&mut held, forgets), Some(true));
    assert!(held.is_owner(&id(0)) && held.is_revoked(&id(1)));
    // A thief who is out already fills nothing either.
    let late = (200..2_000).map(|seq| by(1, seq, one.hash).owner(seq + 50)).collect::<Vec<_>>();
    hears(&mut held, &late);
    assert_eq!(add(&mut held, by(0, 5, root()).owner(2)), Some(true));
    assert!(held.is_owner(&id(2)) && held.held() <= 520);
}

#[test]
fn s24_whoever_was_let_in_by_a_word_that_does_not_stand_proves_no_more_than_its_host() {
    let one = by(0, 2, root()).owner(1);
    let seen = by(1, 1, one.hash).owner(2);
    let ended = Word { fence: 40, ..by(0, 3, root()).standing(&[&seen]) }.revokes(1);
    let unseen = by(1, 2, one.hash).owner(3);
    let theirs = by(3, 1, unseen.hash).owner(4);
    let held = trust([&one, &seen, &ended, &unseen, &theirs]);
    for n in [1, 3, 4] {
        assert!(held.may_prove(&id(n), 40) && !held.may_prove(&id(n), 41), "{n}");
        assert_eq!(held.ended_with(&id(n)), id(1), "one rescue for all of them");
    }
    assert!(held.may_prove(&id(2), 41), "an owner");
    let again = by(0, 4, root()).owner(3);
    assert!(trust([&one, &seen, &ended, &unseen, &theirs, &again]).may_prove(&id(3), 41));
}

#[test]
fn k7_another_approval_takes_nobody_over() {
    // 5 belongs by the founder's word. The thief approves it again, which knows that word, and dates its own earlier.
    let one = by(0, 5, root()).owner(1);
    let first = by(0, 6, root()).owner(5);
    let again = by(1, 1, one.hash).approves(5, Tier::Owner, &[&first]);
    let guest = by(1, 2, one.hash).owner(6);
    let held = trust([&one, &first, &again, &guest]);
    let five = held.member(&id(5)).unwrap();
    assert_eq!((five.by, five.since_ms, five.grant, five.depth), (Some(id(0)), 0, first.hash, 1));
    assert_eq!(held.membership().vouched_by[&id(5)], [id(0), id(1)].into());
    assert_eq!(held.membership().vouched_by[&id(6)], [id(1)].into());
    // So what it says stands on its own, whatever becomes of the thief.
    let said = by(5, 1, five.grant).owner(7);
    let out = by(0, 7, root()).standing(&[&guest]).revokes(1);
    let held = trust([&one, &first, &again, &guest, &said, &out]);
    assert_eq!(tiers(&held).into_iter().map(|(n, _)| n).collect::<Vec<_>>(), [0, 5, 6, 7]);
    assert_eq!(held.membership().vouched_by[&id(5)], [id(0)].into(), "it had not seen that one");
}

#[test]
fn s16_however_many_speak_about_a_device_it_can_be_approved_again() {
    let one = by(0, 2, root()).owner(1);
    let device = by(0, 3, root()).owner(5);
    let mut records = vec![one.clone(), device.clone()];
    let sybils: Vec<_> = (1..=600).map(|n| by(1, n, one.hash).owner(n + 100)).collect();
    let words = sybils.iter().zip(101..).map(|(sybil, n)| by(n, 1, sybil.hash));
    records.extend(words.enumerate().map(|(n, word)| {
        if n % 2 == 0 { word.approves(5, Tier::Owner, &[&device]) } else { word.standing(&[]).revokes(5) }
    }));
    records.extend(sybils);
    let mut held = trust(&records);
    assert!(held.is_revoked(&id(5)));
    let after = held.known_about(&id(5));
    assert!(after.len() > 300, "{}", after.len());
    let what = ChangeKind::Approved {
        tier: Tier::Owner,
        node_id: "nas".parse().unwrap(),
        after,
        unseen: false,
        stay: None,
        of: None,
    };
    assert_eq!(add(&mut held, by(0, 4, root()).says(5, what)), Some(true));
    assert!(held.is_owner(&id(5)));
}

#[test]
fn s16_who_was_revoked_is_told_before_those_who_await_reapproval() {
    let (one, device) = (by(0, 2, root()).owner(1), by(0, 3, root()).owner(5));
    let gone = by(0, 4, root()).revokes(5);
    let mut held = trust([&one, &device, &gone]);
    // The thief has revoked more than there is room for, later; and has let in as many that nobody knew.
    let pairs = (1..400).flat_map(|n| {
        let word = |seq| by(1, seq, one.hash);
        [word(2 * n).approves(n + 1_000, Tier::Shared, &[]), word(2 * n + 1).revokes(n + 1_000)]
    });
    let pairs: Vec<_> = pairs.collect();
    hears(&mut held, &pairs);
    let stands = held.statements(&id(1));
    hears(&mut held, [&Word { stands, ..by(0, 5, root()) }.revokes(1)]);
    let unseen: Vec<_> = (900..1_300).map(|seq| by(1, seq, one.hash).owner(seq + 1_000)).collect();
    hears(&mut held, &unseen);
    let told = held.excluded();
    assert_eq!(told.len(), limits::REVOKED_TOLD_MAX);
    assert!([1, 5].iter().all(|n| told.contains(&(id(*n), key(*n)))));
}

#[test]
fn s09_a_large_set_is_judged_less_often_and_a_small_one_at_once() {
    let (mut held, all) = flooded(60);
    assert_eq!(held.poll_timeout(), None);
    let next = by(0, 500, root()).owner(3);
    assert!(held.take(next.clone()) && held.poll_timeout().unwrap() > 200);
    let mut small = trust(&all[..2]);
    assert!(small.take(next) && small.poll_timeout() == Some(0));
    // What is taken meanwhile is bounded.
    let more = (1..10_000).map(|n| by(0, n + 600, root()).revokes(3)).filter(|entry| small.take(entry.clone())).count();
    assert!((more as u64) < limits::CHANGES_UNJUDGED_BYTES_MAX / shares::CHANGE_BYTES_MIN);
}

#[test]
fn s09_a_mesh_has_so_many_members() {
    let one = by(0, 2, root()).owner(1);
    let mut held = trust([&one]);
    let all: Vec<_> = (1..=2_500).map(|n| by(1, n, one.hash).approves(n + 100, Tier::Shared, &[])).collect();
    assert_eq!(hears(&mut held, &all), limits::PEERS_MAX - 2);
    assert_eq!(held.membership().members.len(), limits::PEERS_MAX);
    assert!(!held.take(by(0, 3, root()).owner(9)), "it is full");
    // Removing is not letting in, and makes room.
    assert_eq!(add(&mut held, by(0, 4, root()).revokes(101)), Some(true));
    assert_eq!(add(&mut held, by(0, 5, root()).owner(9)), Some(true));
}

#[test]
fn k1_a_leave_by_an_older_approval_ends_what_came_after_it() {
    // Lowered, raised again, and gone by the approval that had lowered it: nothing that it says as an owner counts.
    let first = by(0, 2, root()).owner(2);
    let lowered = by(0, 3, root()).standing(&[]).approves(2, Tier::Shared, &[&first]);
    let raised = by(0, 4, root()).approves(2, Tier::Owner, &[&first, &lowered]);
    let left = by(2, 5, lowered.hash).leaves();
    let later = by(2, 6, raised.hash).owner(4);
    assert_eq!(inside([&first, &lowered, &raised, &later]), [0, 2, 4]);
    assert_eq!(inside([&first, &lowered, &raised, &left, &later]), [0]);
    // What it said before it was lowered, and the one who lowered it let stand, is not taken back by its leave.
    let early = by(2, 1, first.hash).owner(5);
    let lowered = by(0, 3, root()).standing(&[&early]).approves(2, Tier::Shared, &[&first]);
    let left = by(2, 5, lowered.hash).leaves();
    assert_eq!(inside([&first, &early, &lowered, &left]), [0, 5]);
}

#[test]
fn a_leave_is_the_last_word() {
    let one = by(0, 2, root()).owner(1);
    let two = by(1, 4, one.hash).owner(2);
    let leave = by(1, 5, one.hash).standing(&[&two]).leaves();
    assert_eq!(inside([&one, &two, &leave, &by(1, 6, one.hash).owner(3)]), [0, 2]);
    // Whoever is no owner may leave too, also who was one; that ends nothing that it said when it was.
    let lowered = by(0, 3, root()).standing(&[&two]).approves(1, Tier::Shared, &[]);
    let leave = by(1, 6, lowered.hash).leaves();
    assert_eq!(inside([&one, &two, &lowered, &leave]), [0, 2]);
    // But not as the owner that it is no more, to take back what it said.
    let as_owner = by(1, 6, one.hash).leaves();
    assert_eq!(inside([&one, &two, &lowered, &as_owner]), [0, 1, 2]);
    // A leave is taken back like any revocation.
    let again = by(0, 7, root()).standing(&[&two]).approves(1, Tier::Shared, &[&leave]);
    assert_eq!(inside([&one, &two, &lowered, &leave, &again]), [0, 1, 2]);
}

#[test]
fn an_incarnation_that_the_revoker_had_not_seen_is_void() {
    let one = by(0, 2, root()).owner(1);
    let revoked = by(0, 3, root()).cuts(1, &[(1, 9), (3, 4)]);
    let held = trust([&one, &revoked]);
    assert!(held.admits(&id(1), Incarnation(1), 9) && !held.admits(&id(1), Incarnation(1), 10));
    assert!(held.admits(&id(1), Incarnation(3), 4) && !held.admits(&id(1), Incarnation(2), 1));
    // Approved again, a new one counts, and what was cut stays cut.
    let again = by(0, 4, root()).approves(1, Tier::Shared, &[&revoked]);
    let held = trust([&one, &revoked, &again]);
    assert!(held.admits(&id(1), Incarnation(2), 1) && !held.admits(&id(1), Incarnation(1), 10));
}

#[test]
fn a_device_whose_approval_is_void_is_pending_until_it_is_approved_again() {
    let scene = Scene::new();
    let ended = by(0, 3, root()).standing(&[&scene.two]).cuts(1, &[(1, 5)]);
    let base = [&scene.one, &scene.two, &scene.unseen, &ended];
    let held = trust(base);
    let pending = &held.membership().awaiting_reapproval[&id(3)];
    assert_eq!((pending.by, pending.revoked_by), (id(1), Some(id(0))));
    assert!(held.is_excluded(&id(3)) && !held.is_revoked(&id(3)) && held.excluded().contains(&(id(3), key(3))));
    assert_eq!(held.void(), [scene.unseen.hash]);
    // Whom it approved itself waits as well, and nobody's word stands between.
    let chained = by(3, 1, scene.unseen.hash).owner(4);
    let held = trust(base.into_iter().chain([&chained]));
    assert_eq!(held.membership().awaiting_reapproval[&id(4)].revoked_by, None);
    assert_eq!(held.known_about(&id(3)), [], "what counts for nothing need not be taken back");
    let again = by(0, 4, root()).owner(3);
    let held = trust(base.into_iter().chain([&chained, &again]));
    assert!(held.member(&id(3)).is_some(), "and it is back, without whom it let in by the void word");
    assert_eq!(held.membership().awaiting_reapproval.keys().collect::<Vec<_>>(), [&id(4)]);
    // No is an answer too.
    let no = by(0, 4, root()).cuts(3, &[]);
    let held = trust(base.into_iter().chain([&no]));
    assert!(held.membership().awaiting_reapproval.is_empty() && held.is_revoked(&id(3)));
}

#[test]
fn an_accomplice_whom_a_revoked_owner_let_in_later_throws_nobody_out() {
    let (one, two) = (by(0, 2, root()).owner(1), by(0, 3, root()).owner(2));
    let revoked = by(0, 4, root()).cuts(1, &[(1, 0)]);
    let accomplice = by(1, 1, one.hash).owner(7);
    let words = [by(7, 1, accomplice.hash).revokes(2), by(7, 2, accomplice.hash).revokes(0)];
    assert_eq!(inside([&one, &two, &revoked, &accomplice].into_iter().chain(&words)), [0, 2]);
}

#[test]
fn what_a_deeper_owner_voids_counts_for_nothing_although_its_signer_is_nearer_to_the_founder() {
    // 1 is at depth 1, 2 at depth 2; 2 revokes 1, and 1, which knows nothing against 2, revokes 3.
    let (one, three) = (by(0, 2, root()).owner(1), by(0, 3, root()).owner(3));
    let two = by(1, 1, one.hash).owner(2);
    let out = by(2, 1, two.hash).standing(&[&two]).revokes(1);
    assert_eq!(inside([&one, &two, &three, &out, &by(1, 2, one.hash).revokes(3)]), [0, 2, 3]);
}

#[test]
fn a_change_that_takes_the_ground_from_under_its_own_signer_counts_for_nothing() {
    let one = by(0, 2, root()).owner(1);
    let two = by(1, 1, one.hash).owner(2);
    for lowers in [false, true] {
        let said = |word: Word| if lowers { word.approves(0, Tier::Shared, &[]) } else { word.revokes(0) };
        let blind = said(by(2, 1, two.hash));
        assert_eq!(tiers(&trust([&one, &two, &blind])).len(), 3);
        assert!(trust([&one, &two, &blind]).is_owner(&id(0)));
        let knowing = said(by(2, 1, two.hash).standing(&[&one]));
        let held = trust([&one, &two, &knowing]);
        assert!(!held.is_owner(&id(0)) && held.is_owner(&id(1)) && held.is_owner(&id(2)));
    }
}

#[test]
fn one_that_answers_its_own_revocation_crosses_nothing() {
    // 1 held the revocation by 2 when it signed its own: that is no crossing, whatever the depth.
    let one = by(0, 2, root()).owner(1);
    let two = by(1, 1, one.hash).owner(2);
    let out = by(2, 1, two.hash).standing(&[&two]).revokes(1);
    let answer = by(1, 2, one.hash).standing(&[&out]).revokes(2);
    assert_eq!(inside([&one, &two, &out, &answer]), [0, 2]);
}

#[test]
fn an_approval_takes_back_only_the_revocations_that_it_names() {
    let (one, two) = (by(0, 2, root()).owner(1), by(0, 3, root()).owner(2));
    let theirs = by(0, 4, root()).cuts(2, &[(1, 0)]);
    let ours = by(1, 1, one.hash).cuts(2, &[(1, 0)]);
    let base = [&one, &two, &theirs, &ours];
    assert_eq!(trust(base).known_about(&id(2)).len(), 2);
    let blind = by(0, 5, root()).approves(2, Tier::Owner, &[&theirs]);
    assert_eq!(inside(base.into_iter().chain([&blind])), [0, 1], "the other half's revocation was not known");
    let both = by(0, 5, root()).approves(2, Tier::Owner, &[&theirs, &ours]);
    let held = trust(base.into_iter().chain([&both]));
    assert!(held.member(&id(2)).is_some());
    // The incarnation that was revoked stays as it was cut, a new one counts.
    assert!(!held.admits(&id(2), Incarnation(1), 1) && held.admits(&id(2), Incarnation(9), 1));
}

#[test]
fn a_later_approval_to_another_tier_does_not_cost_a_device_its_name() {
    let first = by(0, 2, root()).owner(1);
    let lowered = by(0, 4, root()).approves(1, Tier::Shared, &[&first]);
    let held = trust([&first, &by(0, 3, root()).owner(2), &lowered]);
    assert_eq!(held.member(&id(1)).unwrap().node_id.as_str(), "macbook");
    assert_eq!(held.member(&id(1)).unwrap().tier, Tier::Shared);
    assert_eq!(held.member(&id(2)).unwrap().node_id.as_str(), "macbook-2");
}
