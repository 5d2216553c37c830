//! Tests: sets of membership changes and the membership that they derive.

use super::*;
use crate::audience::Audience;
use crate::crypto::{Signer, Symbolic};
use crate::entry::{BodyMark, Entry, Salt, encode};
use crate::record::{ChangeKind, MembershipChange};
use proptest::prelude::*;

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
        body: BodyMark::of(SALT, &body),
    };
    SignedEntry::sign(&signer, entry, SALT, &body)
}

fn genesis() -> SignedEntry {
    let body = Genesis { name: "home".into(), nonce: 1, node_id: "founder".parse().unwrap() };
    signed(1, 0, 1, MeshId([0; 32]), Kind::GENESIS, encode(&body))
}

/// What the founder's word rests on.
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
        let body = encode(&MembershipChange { subject: key(subject), grant, stands, fence, what });
        signed(incarnation, author, seq, MeshId(root().0), Kind::MEMBERSHIP, body)
    }

    fn standing(self, stands: &[&SignedEntry]) -> Self {
        Self { stands: stands.iter().map(|entry| entry.hash).collect(), ..self }
    }

    fn approves(&self, subject: u64, tier: Tier, after: &[&SignedEntry]) -> SignedEntry {
        let after = after.iter().map(|entry| entry.hash).collect();
        self.says(subject, ChangeKind::Approved { tier, node_id: "macbook".parse().unwrap(), after })
    }

    fn owner(&self, subject: u64) -> SignedEntry {
        self.approves(subject, Tier::Owner, &[])
    }

    fn revokes(&self, subject: u64) -> SignedEntry {
        self.cuts(subject, &[(1, u64::MAX)])
    }

    fn cuts(&self, subject: u64, cutoffs: &[(u32, u64)]) -> SignedEntry {
        let cutoffs = cutoffs.iter().map(|(incarnation, seq)| (Incarnation(*incarnation), *seq)).collect();
        self.says(subject, ChangeKind::Revoked { cutoffs, left: false })
    }

    fn leaves(&self) -> SignedEntry {
        self.says(self.author, ChangeKind::Revoked { cutoffs: vec![(Incarnation(1), u64::MAX)], left: true })
    }
}

fn trust<'a>(records: impl IntoIterator<Item = &'a SignedEntry>) -> Trust {
    let all = [genesis()].into_iter().chain(records.into_iter().cloned()).collect();
    Trust::new(all, ProtocolRules::default()).unwrap()
}

/// Adds one change, and judges. None: it was not taken, or not kept.
fn add(trust: &mut Trust, entry: SignedEntry) -> Option<bool> {
    trust.take(entry).then(|| trust.judge(true)).flatten().filter(|judged| !judged.kept.is_empty()).map(|j| j.changed)
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
    let again =
        by(0, 4, root()).says(2, ChangeKind::Approved { tier: Tier::Owner, node_id: "nas".parse().unwrap(), after });
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
    let what = ChangeKind::Approved { tier: Tier::Owner, node_id: "nas".parse().unwrap(), after };
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

#[test]
fn membership_changes_that_count_for_nothing_do_not_pile_up() {
    let seven = by(0, 2, root()).owner(7);
    let mut trust = trust(&[]);
    let said = |seq: u64| by(7, seq, seven.hash).approves(seq % 5 + 8, Tier::Shared, &[]);
    let kept = (1..200).filter(|seq| add(&mut trust, said(*seq)).is_some()).count();
    assert_eq!(kept, limits::STRAY_CHANGES_MAX);
    // They count once their author turns out to be an owner, and then that limit is none.
    assert_eq!(add(&mut trust, seven.clone()), Some(true));
    assert!(trust.member(&id(8)).is_some());
    assert!((200..300).all(|seq| add(&mut trust, said(seq)).is_some()));
    // But an owner's that rest on nothing are no better than anybody's.
    let kept = (300..500).filter(|seq| add(&mut trust, by(7, *seq, root()).owner(9)).is_some()).count();
    assert_eq!(kept, limits::STRAY_CHANGES_MAX);
    // In one frame or in many.
    let taken = (300..600).filter(|seq| trust.take(by(0, *seq, seven.hash).owner(9))).count();
    let kept = trust.judge(true).unwrap().kept.len();
    assert_eq!((taken, kept), (300, limits::STRAY_CHANGES_MAX));
}

#[test]
fn s09_one_author_says_so_much_and_a_mesh_has_so_many_members() {
    let one = by(0, 2, root()).owner(1);
    let mut trust = trust([&one]);
    let taken = (1..=6_000).filter(|n| trust.take(by(1, *n, one.hash).approves(n + 100, Tier::Shared, &[]))).count();
    assert_eq!(taken, limits::PEERS_MAX - 2);
    assert_eq!(trust.judge(true).unwrap().kept.len(), taken);
    assert_eq!(trust.membership().members.len(), limits::PEERS_MAX);
    assert!(!trust.take(by(0, 3, root()).owner(9)), "it is full");
    // Removing is not letting in, and makes room.
    assert_eq!(add(&mut trust, by(0, 4, root()).revokes(101)), Some(true));
    assert_eq!(add(&mut trust, by(0, 5, root()).owner(9)), Some(true));
    let taken = (10_000..20_000).filter(|n| trust.take(by(1, *n, one.hash).revokes(n % 50 + 110))).count();
    assert_eq!(taken, limits::CHANGES_PER_AUTHOR_MAX - (limits::PEERS_MAX - 2));
    trust.judge(true);
    assert_eq!(add(&mut trust, by(0, 6, root()).revokes(1)), Some(true), "whoever floods is removed all the same");
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
    // 1 is at depth 1, 2 at depth 2; 2 throws 1 out, who knows nothing against 2 but says something against 3.
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

/// Changes of a flood, as one owner may sign them: flat, in a chain of sybils, back and forth, or against each other.
fn flood(kind: usize, count: u64) -> Vec<SignedEntry> {
    let one = by(0, 2, root()).owner(1);
    let mut records = vec![one.clone()];
    let mut last = (1, one.hash);
    for n in 1..=count {
        let (author, grant) = last;
        let said = match kind {
            0 => by(1, n, one.hash).owner(n + 100),
            1 => by(author, n, grant).owner(n + 100),
            2 if n % 2 == 0 => by(1, n, one.hash).revokes(n / 2 % 300 + 100),
            2 => by(1, n, one.hash).owner(n / 2 % 300 + 100),
            _ if n <= count / 2 => by(1, n, one.hash).owner(n + 100),
            _ => {
                let mine = records[(n - count / 2) as usize].hash;
                by(n - count / 2 + 100, 1, mine).revokes(n % (count / 2) + 100)
            }
        };
        last = (n + 100, said.hash);
        records.push(said);
    }
    records
}

#[test]
fn s09_a_flood_costs_in_proportion_to_what_it_sends() {
    for kind in 0..4 {
        let cost = |count| {
            let held = trust(&flood(kind, count));
            argumentation::judge(id(0), root(), &held.records, ProtocolRules::default()).compared.get()
        };
        let (small, large) = (cost(400), cost(1_600));
        assert!(large <= 5 * small.max(400), "flood {kind}: {small}, four times as many {large}");
    }
}

/// A change that one of four owners (the founder and three) may sign, in one of two incarnations.
#[derive(Debug, Clone)]
struct Saying {
    author: u64,
    incarnation: u32,
    back: u64,
    subject: u64,
    tier: Option<Tier>,
    leaves: bool,
    grant: usize,
    names: Vec<usize>,
    stands: Vec<usize>,
    cutoffs: [Option<u64>; 2],
}

fn saying() -> impl Strategy<Value = Saying> {
    let tier = prop::sample::select(vec![None, None, Some(Tier::Owner), Some(Tier::Owner), Some(Tier::Shared)]);
    let which = || proptest::collection::vec(0..20_usize, 0..5);
    (
        (0..4_u64, 1..3_u32, 0..3_u64, 0..6_u64),
        (tier, proptest::bool::weighted(0.1), 0..8_usize),
        (which(), which()),
        [proptest::option::of(0..12_u64), proptest::option::of(0..12_u64)],
    )
        .prop_map(|((author, incarnation, back, subject), (tier, leaves, grant), (names, stands), cutoffs)| {
            Saying { author, incarnation, back, subject, tier, leaves, grant, names, stands, cutoffs }
        })
}

/// The founder approves three owners; then anybody says anything, mostly by a grant that it has.
fn script(sayings: &[Saying]) -> Vec<SignedEntry> {
    let one = by(0, 2, root()).owner(1);
    let mut records = vec![one.clone(), by(0, 3, root()).owner(2), by(1, 1, one.hash).owner(3)];
    for (i, said) in sayings.iter().enumerate() {
        let hashes = |of: &[usize]| of.iter().filter_map(|at| records.get(*at)).map(|entry| entry.hash).collect();
        let grants: Vec<Hash> =
            records.iter().filter(|entry| subject(entry) == id(said.author)).map(|e| e.hash).collect();
        let grant =
            if said.author == 0 && said.grant < 5 { None } else { grants.get(said.grant % grants.len().max(1)) };
        let word = Word {
            incarnation: said.incarnation,
            author: said.author,
            seq: i as u64 + 4 - said.back,
            grant: grant.copied().unwrap_or_else(root),
            stands: hashes(&said.stands),
            fence: 0,
        };
        let cutoffs = (1..).map(Incarnation).zip(said.cutoffs).filter_map(|(log, cutoff)| Some((log, cutoff?)));
        records.push(match said.tier {
            _ if said.leaves => word.leaves(),
            None => word.says(said.subject, ChangeKind::Revoked { cutoffs: cutoffs.collect(), left: false }),
            Some(tier) => {
                let after = hashes(&said.names);
                word.says(said.subject, ChangeKind::Approved { tier, node_id: "macbook".parse().unwrap(), after })
            }
        });
    }
    records
}

fn subject(entry: &SignedEntry) -> PeerId {
    entry.record::<MembershipChange>().unwrap().subject.peer_id()
}

/// Tier of everyone, but for one.
fn others(trust: &Trust, but: PeerId) -> Vec<(PeerId, Tier)> {
    let members = trust.membership.members.iter().filter(|(peer, _)| **peer != but);
    members.map(|(peer, member)| (*peer, member.tier)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn the_order_of_arrival_and_repetition_do_not_matter(
        sayings in proptest::collection::vec(saying(), 0..14),
        order in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..40),
    ) {
        let records = script(&sayings);
        let straight = trust(&records);
        let mut shuffled = trust(&[]);
        for (at, judges) in order {
            shuffled.take(records[at.index(records.len())].clone());
            if judges { shuffled.judge(true); }
        }
        for record in records.iter().rev() { shuffled.take(record.clone()); }
        shuffled.judge(true);
        prop_assert_eq!(straight.membership(), shuffled.membership());
        prop_assert_eq!(straight.void(), shuffled.void());
        prop_assert_eq!(straight.fingerprint(), shuffled.fingerprint());
        prop_assert_eq!(straight.records_in_order(), shuffled.records_in_order());
    }

    #[test]
    fn nothing_void_is_in_force(sayings in proptest::collection::vec(saying(), 0..14)) {
        let records = script(&sayings);
        let held = trust(&records);
        let graph = argumentation::judge(id(0), root(), &held.records, ProtocolRules::default());
        let counted: Vec<_> = graph.nodes().filter(|node| node.counts()).collect();
        for node in &counted {
            // It rests on what counts, up to the genesis, and nothing that counts voids it.
            let grant = node.record.change.grant;
            let founder = grant == root() && node.record.entry.author == id(0);
            let ground = counted.iter().find(|one| one.record.entry.hash == grant);
            prop_assert!(founder || ground.is_some_and(|one| one.record.subject == node.record.entry.author));
            prop_assert!(graph.voided_by(node).is_none(), "{:?}", node);
        }
        for (peer, member) in held.membership.members.iter().filter(|(_, member)| member.by.is_some()) {
            // Somebody whose word stands says so, and knows every revocation there is; and every demotion, if it is one
            // as owner.
            let about: Vec<_> = counted.iter().filter(|node| node.record.subject == *peer).collect();
            let by = about.iter().find(|node| node.record.entry.hash == member.grant).unwrap();
            prop_assert_eq!(by.record.tier(), Some(member.tier));
            prop_assert!(about
                .iter()
                .filter(|one| one.record.is_limit() && (member.tier == Tier::Owner || one.record.tier().is_none()))
                .all(|one| by.knows(&one.record.log(), one.record.position())));
        }
        let Membership { members, revocations, awaiting_reapproval, .. } = held.membership();
        for peer in awaiting_reapproval.keys() {
            prop_assert!(!members.contains_key(peer) && !revocations.contains_key(peer));
        }
        // And what is void is so for a reason.
        for node in graph.nodes().filter(|node| !node.counts() && node.depth != u32::MAX) {
            let founder = node.record.change.grant == root() && node.record.entry.author == id(0);
            let grounded = founder || counted.iter().any(|one| one.record.entry.hash == node.record.change.grant);
            let digs = node.record.is_limit() && graph.digs_itself(node);
            prop_assert!(!grounded || digs || graph.by_order || graph.voided_by(node).is_some(), "{:?}", node);
        }
        let names: BTreeSet<_> = members.values().map(|member| &member.node_id).collect();
        prop_assert_eq!(names.len(), members.len());
    }

    #[test]
    fn whoever_is_no_owner_changes_nothing_by_what_it_says_later(
        sayings in proptest::collection::vec(saying(), 0..10),
        later in proptest::collection::vec(saying(), 1..8),
    ) {
        // Of all that anybody may sign, with any grant, at any place: whoever is none says it of others in vain.
        let before = script(&sayings);
        let held = trust(&before);
        let all = script(&[sayings, later].concat());
        for author in (0..4).map(id).filter(|author| !held.is_owner(author)) {
            let said = all.iter().skip(before.len()).filter(|entry| entry.author == author);
            let with = trust(before.iter().chain(said));
            // Who contradicts whoever ended its word, and had one for longer, may have spoken before it knew.
            if argumentation::judge(id(0), root(), &with.records, ProtocolRules::default()).by_order {
                continue;
            }
            prop_assert_eq!(others(&held, author), others(&with, author));
            prop_assert!(!with.is_owner(&author), "it raised itself");
        }
    }
}
