//! Tests: sets of membership changes and the membership that they derive.

use super::*;
use crate::crypto::{Signer, Symbolic};
use crate::entry::{Entry, encode};
use crate::record::MembershipChange;
use proptest::prelude::*;

fn key(n: u64) -> PublicKey {
    Symbolic::new(n).public_key()
}

fn entry(author: u64, seq: u64, generation: u32, mesh: MeshId, kind: Kind, body: Vec<u8>) -> SignedEntry {
    in_incarnation(1, author, seq, generation, mesh, kind, body)
}

fn in_incarnation(
    incarnation: u32,
    author: u64,
    seq: u64,
    generation: u32,
    mesh: MeshId,
    kind: Kind,
    body: Vec<u8>,
) -> SignedEntry {
    let signer = Symbolic::new(author);
    SignedEntry::sign(
        &signer,
        Entry {
            mesh,
            author: signer.public_key(),
            incarnation: Incarnation(incarnation),
            seq,
            hlc: seq,
            kind,
            critical: false,
            generation,
            previous: Hash::ZERO,
            body: body.into(),
        },
    )
}

fn genesis() -> SignedEntry {
    let body = Genesis { name: "home".into(), nonce: 1, node_id: "founder".parse().unwrap() };
    entry(0, 1, 0, MeshId([0; 32]), Kind::GENESIS, encode(&body))
}

fn say(author: u64, seq: u64, generation: u32, subject: u64, what: ChangeKind) -> SignedEntry {
    let mesh = MeshId(genesis().hash.0);
    entry(author, seq, generation, mesh, Kind::MEMBERSHIP, encode(&MembershipChange { subject: key(subject), what }))
}

fn approve(author: u64, seq: u64, generation: u32, subject: u64, after: Option<Hash>) -> SignedEntry {
    let after = after.into_iter().collect();
    let what = ChangeKind::Approved { tier: Tier::Owner, node_id: "macbook".parse().unwrap(), after };
    say(author, seq, generation, subject, what)
}

fn revoke(author: u64, seq: u64, generation: u32, subject: u64, cutoff: Option<u64>) -> SignedEntry {
    let cutoffs = cutoff.map(|seq| (Incarnation(1), seq)).into_iter().collect();
    say(author, seq, generation, subject, ChangeKind::Revoked { cutoffs, left: false })
}

fn members(records: &[SignedEntry]) -> Vec<(String, bool)> {
    let mut all = vec![genesis()];
    all.extend_from_slice(records);
    let trust = Trust::new(all, ProtocolRules::default()).unwrap();
    trust.membership.members.values().map(|m| (m.node_id.to_string(), m.tier == Tier::Owner)).collect()
}

fn has(records: &[SignedEntry], n: u64) -> bool {
    let mut all = vec![genesis()];
    all.extend_from_slice(records);
    Trust::new(all, ProtocolRules::default()).unwrap().member(&key(n).peer_id()).is_some()
}

#[test]
fn an_approval_by_a_stranger_counts_for_nothing() {
    assert!(!has(&[approve(7, 1, 1, 8, None)], 8));
    assert!(has(&[approve(0, 2, 1, 7, None), approve(7, 1, 1, 8, None)], 8));
}

#[test]
fn revocation_beats_an_approval_that_did_not_know_it() {
    let revoked = revoke(0, 3, 2, 1, Some(0));
    assert!(!has(&[approve(0, 2, 1, 1, None), revoked.clone()], 1));
    assert!(!has(&[approve(0, 2, 1, 1, None), revoked.clone(), approve(0, 4, 9, 1, None)], 1));
    assert!(has(&[approve(0, 2, 1, 1, None), revoked.clone(), approve(0, 4, 3, 1, Some(revoked.hash))], 1));
}

#[test]
fn a_stolen_owner_cannot_backdate() {
    // Owner 1 approved 2 at its seq 5; the revocation names seq 5, so 2 stands; what it signed as seq 6 is void.
    let base = [approve(0, 2, 1, 1, None), approve(1, 5, 1, 2, None), revoke(0, 3, 2, 1, Some(5))];
    assert!(has(&base, 2));
    let mut later = base.to_vec();
    later.push(approve(1, 6, 1, 3, None));
    assert!(!has(&later, 3));
}

#[test]
fn of_crossing_revocations_the_one_nearer_to_the_founder_counts() {
    let records = [
        approve(0, 2, 1, 1, None),
        approve(1, 1, 1, 2, None),
        revoke(1, 2, 2, 2, Some(0)),
        revoke(2, 1, 2, 1, Some(1)),
    ];
    assert!(has(&records, 1));
    assert!(!has(&records, 2));
}

#[test]
fn two_with_one_name_both_stay_in() {
    let names = members(&[approve(0, 2, 1, 1, None), approve(0, 3, 1, 2, None)]);
    let mut names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["founder", "macbook", "macbook-2"]);
}

#[test]
fn what_a_stranger_to_power_signs_uses_no_generation_up() {
    // 7 belongs, but not as an owner.
    let shared = ChangeKind::Approved { tier: Tier::Shared, node_id: "tablet".parse().unwrap(), after: Vec::new() };
    let mut trust = Trust::new(vec![genesis(), say(0, 2, 1, 7, shared)], ProtocolRules::default()).unwrap();
    trust.add(approve(7, 1, u32::MAX, 8, None));
    trust.add(revoke(7, 2, u32::MAX, 0, None));
    assert_eq!(trust.next_change(&key(8).peer_id()), (1, Vec::new()));
    assert_eq!(trust.membership().members.len(), 2);
    // An owner may, and then nothing overflows.
    trust.add(approve(0, 3, u32::MAX, 8, None));
    assert_eq!(trust.next_change(&key(8).peer_id()).0, u32::MAX);
}

#[test]
fn membership_changes_that_count_for_nothing_do_not_pile_up() {
    let mut trust = Trust::new(vec![genesis()], ProtocolRules::default()).unwrap();
    let kept = (1..200).filter(|seq| trust.add(approve(7, *seq, 1, 8, None)).is_some()).count();
    assert_eq!(kept, limits::STRAY_CHANGES_MAX);
    // They count once their author turns out to be an owner, and then there is no limit.
    assert_eq!(trust.add(approve(0, 2, 1, 7, None)), Some(true));
    assert!(trust.member(&key(8).peer_id()).is_some());
    assert!((200..300).all(|seq| trust.add(approve(7, seq, 1, seq, None)).is_some()));
}

#[test]
fn a_leave_cuts_its_incarnation_off_whatever_it_names() {
    let leave = |seq, generation, cutoff: u64| {
        let what = ChangeKind::Revoked { cutoffs: vec![(Incarnation(1), cutoff)], left: true };
        say(1, seq, generation, 1, what)
    };
    // Gone at 5; what it signs later as an owner is void.
    let base = [approve(0, 2, 1, 1, None), leave(5, 2, u64::MAX), approve(1, 6, 1, 3, None)];
    assert!(!has(&base, 1) && !has(&base, 3));
    // Nor does a leave undo the cut-off of a revocation.
    let base = [
        approve(0, 2, 1, 1, None),
        revoke(0, 3, 2, 1, Some(5)),
        approve(1, 6, 1, 3, None),
        leave(7, u32::MAX, u64::MAX),
    ];
    assert!(!has(&base, 1) && !has(&base, 3));
}

fn trust(records: &[SignedEntry]) -> Trust {
    let mut all = vec![genesis()];
    all.extend_from_slice(records);
    Trust::new(all, ProtocolRules::default()).unwrap()
}

fn id(n: u64) -> PeerId {
    key(n).peer_id()
}

/// A membership change of any incarnation.
fn said(incarnation: u32, author: u64, seq: u64, generation: u32, subject: u64, what: ChangeKind) -> SignedEntry {
    let body = encode(&MembershipChange { subject: key(subject), what });
    in_incarnation(incarnation, author, seq, generation, MeshId(genesis().hash.0), Kind::MEMBERSHIP, body)
}

fn out(cutoffs: &[(u32, u64)]) -> ChangeKind {
    ChangeKind::Revoked {
        cutoffs: cutoffs.iter().map(|(incarnation, seq)| (Incarnation(*incarnation), *seq)).collect(),
        left: false,
    }
}

#[test]
fn an_incarnation_that_the_revoker_had_not_seen_is_void() {
    let owner = ChangeKind::Approved { tier: Tier::Owner, node_id: "nas".parse().unwrap(), after: Vec::new() };
    let base = [approve(0, 2, 1, 1, None), said(2, 1, 1, 1, 5, owner.clone()), said(3, 1, 4, 1, 6, owner)];
    assert!(has(&base, 5) && has(&base, 6));
    let revoked = [base.as_slice(), &[say(0, 3, 2, 1, out(&[(1, 9), (3, 4)]))]].concat();
    assert!(!has(&revoked, 1) && !has(&revoked, 5) && has(&revoked, 6));
    // Of one of whom the revoker had seen nothing, nothing stands.
    let blind = [base.as_slice(), &[say(0, 3, 2, 1, out(&[]))]].concat();
    assert!(!has(&blind, 5) && !has(&blind, 6));
}

#[test]
fn a_device_whose_approval_is_void_awaits_reapproval() {
    let base = [approve(0, 2, 1, 1, None), revoke(0, 3, 2, 1, Some(5)), approve(1, 6, 1, 2, None)];
    let held = trust(&base);
    let again = &held.membership().awaiting_reapproval[&id(2)];
    assert_eq!((again.by, again.revoked_by), (id(1), Some(id(0))));
    assert!(held.is_excluded(&id(2)) && !held.is_revoked(&id(2)) && held.excluded().contains(&(id(2), key(2))));
    assert_eq!(held.void(), [base[2].hash]);
    // Whom it approved itself waits as well, and no revocation stands between.
    let chained = trust(&[base.as_slice(), &[approve(2, 1, 1, 3, None)]].concat());
    assert_eq!(chained.membership().awaiting_reapproval[&id(3)].revoked_by, None);
    let (generation, after) = held.next_change(&id(2));
    assert_eq!((generation, after.len()), (2, 0), "above the void one, which may come to count again");
    let again = trust(&[base.as_slice(), &[approve(0, 4, generation, 2, None)]].concat());
    assert!(again.member(&id(2)).is_some() && again.membership().awaiting_reapproval.is_empty());
    // No is an answer too.
    let no = trust(&[base.as_slice(), &[revoke(0, 4, generation, 2, None)]].concat());
    assert!(no.membership().awaiting_reapproval.is_empty() && no.is_revoked(&id(2)));
}

#[test]
fn an_accomplice_whom_a_revoked_owner_approved_later_revokes_nobody() {
    let records = [
        approve(0, 2, 1, 1, None),
        approve(0, 3, 1, 2, None),
        revoke(0, 4, 2, 1, Some(0)),
        approve(1, 1, 1, 7, None),
        revoke(7, 1, 2, 2, None),
        revoke(7, 2, 2, 0, None),
    ];
    assert!(has(&records, 0) && has(&records, 2) && !has(&records, 7));
}

#[test]
fn what_a_deeper_owner_voids_counts_for_nothing_although_its_signer_is_nearer_to_the_founder() {
    // 1 is at depth 1, 2 at depth 2; 2 revokes 1, who knows nothing against 2 but says something against 3.
    let records = [
        approve(0, 2, 1, 1, None),
        approve(1, 1, 1, 2, None),
        approve(0, 3, 1, 3, None),
        revoke(2, 1, 2, 1, Some(1)),
        revoke(1, 2, 2, 3, None),
    ];
    assert!(has(&records, 2) && has(&records, 3) && !has(&records, 1));
}

#[test]
fn a_revocation_that_takes_the_ground_from_under_its_own_signer_counts_for_nothing() {
    let base = [approve(0, 2, 1, 1, None), approve(1, 1, 1, 2, None)];
    let blind = [base.as_slice(), &[revoke(2, 1, 2, 0, None)]].concat();
    assert!(has(&blind, 0) && has(&blind, 1) && has(&blind, 2));
    let knowing = [base.as_slice(), &[revoke(2, 1, 2, 0, Some(2))]].concat();
    assert!(!has(&knowing, 0) && has(&knowing, 1) && has(&knowing, 2));
}

#[test]
fn one_that_answers_its_own_revocation_crosses_nothing() {
    // 1 held the revocation by 2 when it signed its own: that is no crossing, whatever the depth.
    let records = [
        approve(0, 2, 1, 1, None),
        approve(1, 1, 1, 2, None),
        revoke(2, 1, 2, 1, Some(1)),
        revoke(1, 2, 2, 2, Some(1)),
    ];
    assert!(has(&records, 2) && !has(&records, 1));
}

#[test]
fn an_approval_takes_back_only_the_revocations_that_it_names() {
    let mut records = vec![
        approve(0, 2, 1, 1, None),
        approve(0, 3, 1, 2, None),
        revoke(0, 4, 2, 2, Some(0)),
        revoke(1, 1, 2, 2, Some(0)),
    ];
    let (generation, both) = trust(&records).next_change(&id(2));
    assert_eq!((generation, both.len()), (3, 2));
    let approved = |after: &[Hash]| ChangeKind::Approved {
        tier: Tier::Owner,
        node_id: "nas".parse().unwrap(),
        after: after.to_vec(),
    };
    for one in &both {
        records.push(say(0, 5, 3, 2, approved(&[*one])));
        assert!(!has(&records, 2), "the other half's revocation was not known");
        records.pop();
    }
    records.push(say(0, 5, 3, 2, approved(&both)));
    let held = trust(&records);
    assert!(held.member(&id(2)).is_some());
    // The incarnation that was revoked stays as it was cut, a new one counts.
    assert!(!held.admits(&id(2), Incarnation(1), 1) && held.admits(&id(2), Incarnation(9), 1));
}

#[test]
fn a_later_approval_to_another_tier_does_not_cost_a_device_its_name() {
    let tier = |tier, seq| {
        let what = ChangeKind::Approved { tier, node_id: "macbook".parse().unwrap(), after: Vec::new() };
        say(0, seq, u32::try_from(seq).unwrap(), 1, what)
    };
    let held = trust(&[tier(Tier::Owner, 2), approve(0, 3, 1, 2, None), tier(Tier::Shared, 4)]);
    assert_eq!(held.member(&id(1)).unwrap().node_id.as_str(), "macbook");
    assert_eq!(held.member(&id(1)).unwrap().tier, Tier::Shared);
    assert_eq!(held.member(&id(2)).unwrap().node_id.as_str(), "macbook-2");
}

/// A change that one of four owners (the founder and three) may have signed, in one of two incarnations.
#[derive(Debug, Clone)]
struct Saying {
    author: u64,
    incarnation: u32,
    generation: u32,
    subject: u64,
    approves: bool,
    owner: bool,
    names: Vec<usize>,
    cutoffs: [Option<u64>; 2],
}

fn saying() -> impl Strategy<Value = Saying> {
    (
        (0..4_u64, 1..3_u32, 1..5_u32, 0..6_u64),
        (any::<bool>(), any::<bool>()),
        proptest::collection::vec(0..16_usize, 0..3),
        [proptest::option::of(0..12_u64), proptest::option::of(0..12_u64)],
    )
        .prop_map(|((author, incarnation, generation, subject), (approves, owner), names, cutoffs)| Saying {
            author,
            incarnation,
            generation,
            subject,
            approves,
            owner,
            names,
            cutoffs,
        })
}

/// The founder approves three owners; then anybody says anything.
fn script(sayings: &[Saying]) -> Vec<SignedEntry> {
    let mut records = vec![approve(0, 2, 1, 1, None), approve(0, 3, 1, 2, None), approve(1, 1, 1, 3, None)];
    for (i, said_by) in sayings.iter().enumerate() {
        let seq = i as u64 + 4;
        let what = if said_by.approves {
            let after = said_by.names.iter().filter_map(|at| records.get(*at)).map(|entry| entry.hash).collect();
            let tier = if said_by.owner { Tier::Owner } else { Tier::Shared };
            ChangeKind::Approved { tier, node_id: "macbook".parse().unwrap(), after }
        } else {
            let cutoffs = [1, 2]
                .into_iter()
                .zip(said_by.cutoffs)
                .filter_map(|(incarnation, cutoff)| Some((incarnation, cutoff?)));
            out(&cutoffs.collect::<Vec<_>>())
        };
        records.push(said(said_by.incarnation, said_by.author, seq, said_by.generation, said_by.subject, what));
    }
    records
}

proptest! {
    #[test]
    fn the_order_of_arrival_and_repetition_do_not_matter(
        sayings in proptest::collection::vec(saying(), 0..14),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let records = script(&sayings);
        let straight = trust(&records);
        let mut shuffled = Trust::new(vec![genesis()], ProtocolRules::default()).unwrap();
        for at in order { shuffled.add(records[at.index(records.len())].clone()); }
        for record in records.iter().rev() { shuffled.add(record.clone()); }
        prop_assert_eq!(straight.membership(), shuffled.membership());
        prop_assert_eq!(straight.void(), shuffled.void());
        prop_assert_eq!(straight.records_in_order(), shuffled.records_in_order());
    }

    #[test]
    fn nothing_void_is_in_force(sayings in proptest::collection::vec(saying(), 0..14)) {
        let records = script(&sayings);
        let held = trust(&records);
        let Membership { members, revocations, awaiting_reapproval } = held.membership();
        let by_hash: BTreeMap<Hash, &SignedEntry> = records.iter().map(|entry| (entry.hash, entry)).collect();
        let judged = argumentation::judge(id(0), &held.records);
        for (peer, of) in revocations {
            for revocation in of {
                let entry = by_hash[&revocation.hash];
                prop_assert!(held.admits(&entry.author, entry.entry.incarnation, entry.entry.seq), "void: {:?}", entry);
                prop_assert!(judged.standing.owners.contains_key(&entry.author));
                prop_assert_eq!(*peer, id_of(entry));
            }
        }
        for peer in members.keys().filter(|peer| **peer != id(0)) {
            // An owner whose changes stand says so, and knows every revocation there is.
            let stands = records.iter().any(|entry| {
                let change: MembershipChange = entry.record().unwrap();
                let ChangeKind::Approved { after, .. } = &change.what else { return false };
                id_of(entry) == *peer
                    && judged.standing.owners.contains_key(&entry.author)
                    && held.admits(&entry.author, entry.entry.incarnation, entry.entry.seq)
                    && held.revocations(peer).iter().all(|one| after.contains(&one.hash))
            });
            prop_assert!(stands, "{:?} belongs without an approval that stands", peer);
        }
        for peer in awaiting_reapproval.keys() {
            prop_assert!(!members.contains_key(peer) && !revocations.contains_key(peer));
        }
        // And what is skipped is skipped for a reason.
        let approvals: Vec<_> = held
            .records
            .values()
            .filter(|record| matches!(record.change.what, ChangeKind::Approved { .. }))
            .collect();
        for entry in &records {
            let change: MembershipChange = entry.record().unwrap();
            let skipped = matches!(change.what, ChangeKind::Revoked { .. })
                && !held.revocations(&id_of(entry)).iter().any(|one| one.hash == entry.hash);
            if skipped && judged.standing.owners.contains_key(&entry.author) {
                let void = !held.admits(&entry.author, entry.entry.incarnation, entry.entry.seq);
                let record = &held.records[&entry.hash];
                let digs = !argumentation::is_kept(id(0), &approvals, &judged.revocations, record, record);
                prop_assert!(void || digs || judged.by_order, "{:?} is skipped", entry);
            }
        }
        let names: BTreeSet<_> = members.values().map(|member| &member.node_id).collect();
        prop_assert_eq!(names.len(), members.len());
    }
}

fn id_of(entry: &SignedEntry) -> PeerId {
    entry.record::<MembershipChange>().unwrap().subject.peer_id()
}
