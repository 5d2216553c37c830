//! Who belongs: a pure function of the set of approvals and revocations that a peer holds (mesh-protocol.md §5).
//!
//! Because [`Membership`] is computed from a set, it does not depend on the order in which entries arrived: merging is
//! commutative, associative and idempotent by construction (S10).

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::{Genesis, Kind, SignedEntry, Tier, Verdict, VerdictKind};
use crate::ids::{Hash, Incarnation, MeshId, NodeId, PeerId, PublicKey};
use crate::limits;
use crate::mutants::{Mutant, Mutation};

/// A peer that belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) key: PublicKey,
    pub(crate) tier: Tier,
    /// Unique in the mesh.
    pub(crate) node_id: NodeId,
    /// Steps from the founder.
    pub(crate) depth: u32,
}

/// A revocation in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revocation {
    /// Whom it throws out.
    pub(crate) key: PublicKey,
    /// When.
    pub(crate) hlc: u64,
    pub(crate) mark: Option<(Incarnation, u64)>,
    pub(crate) hash: Hash,
    pub(crate) generation: u32,
}

/// What the set of approvals amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) members: BTreeMap<PeerId, Member>,
    /// Every revocation that is valid, also of peers that were approved again.
    pub(crate) revocations: BTreeMap<PeerId, Revocation>,
}

/// An approval or revocation that is held.
#[derive(Debug, Clone)]
struct Record {
    entry: SignedEntry,
    subject: PeerId,
    verdict: Verdict,
}

/// The set, and what it amounts to.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    mutation: Mutation,
    mesh: MeshId,
    genesis: SignedEntry,
    name: String,
    /// Each with what it says, decoded once: all of them are read at every verdict.
    records: BTreeMap<Hash, Record>,
    /// Everyone who was ever an owner, see [`Self::chain`].
    depths: BTreeMap<PeerId, u32>,
    membership: Membership,
}

/// Whether `entry` is a well-formed genesis, and of which mesh.
pub(crate) fn genesis_of(entry: &SignedEntry) -> Option<(MeshId, Genesis)> {
    let genesis: Genesis = (entry.entry.kind == Kind::GENESIS).then(|| entry.record())??;
    Some((MeshId(entry.hash.0), genesis))
}

impl Trust {
    /// `None` when there is no genesis among the records.
    pub(crate) fn new(records: Vec<SignedEntry>, mutation: Mutation) -> Option<Self> {
        let (genesis, (mesh, body)) = records.iter().find_map(|entry| Some((entry.clone(), genesis_of(entry)?)))?;
        let mut trust = Self {
            mutation,
            mesh,
            genesis,
            name: body.name,
            records: BTreeMap::new(),
            depths: BTreeMap::new(),
            membership: Membership::default(),
        };
        for entry in records {
            trust.keep(entry);
        }
        trust.recompute();
        Some(trust)
    }

    /// Whether this rule is left out, see [`Mutant`].
    pub(crate) const fn without(&self, rule: Mutant) -> bool {
        self.mutation.without(rule)
    }

    pub(crate) fn mesh(&self) -> MeshId {
        self.mesh
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) fn member(&self, peer: &PeerId) -> Option<&Member> {
        self.membership.members.get(peer)
    }

    pub(crate) fn tier(&self, peer: &PeerId) -> Option<Tier> {
        self.member(peer).map(|member| member.tier)
    }

    pub(crate) fn is_owner(&self, peer: &PeerId) -> bool {
        self.tier(peer) == Some(Tier::Owner)
    }

    /// Whether what `author` wrote at this place counts: it belongs, or its revocation lets that place stand.
    pub(crate) fn admits(&self, author: &PeerId, incarnation: Incarnation, seq: u64) -> bool {
        let standing = self
            .membership
            .revocations
            .get(author)
            .and_then(|revocation| revocation.mark)
            .is_some_and(|mark| mark.0 == incarnation && seq <= mark.1);
        let void = self
            .membership
            .revocations
            .get(author)
            .and_then(|revocation| revocation.mark)
            .is_some_and(|mark| mark.0 == incarnation && seq > mark.1);
        standing || (self.member(author).is_some() && !void)
    }

    /// Whether `peer` was revoked, and not approved again since.
    pub(crate) fn is_revoked(&self, peer: &PeerId) -> bool {
        self.member(peer).is_none() && self.membership.revocations.contains_key(peer)
    }

    /// Everyone who is revoked, the newest first; at most [`limits::REVOKED_TOLD_MAX`].
    pub(crate) fn revoked(&self) -> Vec<(PeerId, PublicKey)> {
        let revocations = &self.membership.revocations;
        let mut revoked: Vec<_> = revocations.iter().filter(|(peer, _)| self.member(peer).is_none()).collect();
        revoked.sort_by_key(|(_, revocation)| std::cmp::Reverse(revocation.hlc));
        revoked.truncate(limits::REVOKED_TOLD_MAX);
        revoked.into_iter().map(|(peer, revocation)| (*peer, revocation.key)).collect()
    }

    /// Whether `peer` was ever an owner, whatever became of it.
    pub(crate) fn was_owner(&self, peer: &PeerId) -> bool {
        self.depths.contains_key(peer)
    }

    /// Adds an approval or revocation. `None`: it is not one that is kept. True when it changed who belongs.
    pub(crate) fn add(&mut self, entry: SignedEntry) -> Option<bool> {
        if self.is_stray_too_many(&entry.author) || !self.keep(entry) {
            return None;
        }
        Some(self.recompute())
    }

    /// Whether an author who was never an owner has said enough: what counts for nothing must not grow for ever, nor
    /// crowd out of a welcome what counts.
    fn is_stray_too_many(&self, author: &PeerId) -> bool {
        !self.was_owner(author)
            && self.records.values().filter(|record| record.entry.author == *author).count()
                >= limits::STRAY_VERDICTS_MAX
    }

    fn recompute(&mut self) -> bool {
        let (depths, membership) = self.compute();
        self.depths = depths;
        let changed = membership != self.membership;
        self.membership = membership;
        changed
    }

    fn keep(&mut self, entry: SignedEntry) -> bool {
        let fits = entry.entry.kind == Kind::APPROVAL
            && entry.entry.mesh == self.mesh
            && !self.records.contains_key(&entry.hash);
        let Some(verdict) = entry.record::<Verdict>().filter(|_| fits) else { return false };
        self.records.insert(entry.hash, Record { subject: verdict.subject.peer_id(), verdict, entry });
        true
    }

    /// Genesis first, then each author's approvals after the approval of that author.
    pub(crate) fn records_in_order(&self) -> Vec<SignedEntry> {
        let depth = |peer: &PeerId| self.member(peer).map_or(u32::MAX, |member| member.depth);
        let mut records: Vec<_> = self.records.values().map(|record| record.entry.clone()).collect();
        records.sort_by_key(|entry| (depth(&entry.author), entry.author, entry.entry.incarnation, entry.entry.seq));
        records.insert(0, self.genesis.clone());
        records
    }

    /// A handle nobody has: the wanted one, or `wanted-2`, …
    pub(crate) fn free_handle(&self, wanted: &NodeId, of: &PeerId) -> NodeId {
        let taken: BTreeSet<&NodeId> =
            self.membership.members.iter().filter(|(peer, _)| *peer != of).map(|(_, m)| &m.node_id).collect();
        free(wanted, |handle| taken.contains(handle))
    }

    /// Generation and revocation that a new verdict on `peer` must rise above and name.
    pub(crate) fn next_verdict(&self, peer: &PeerId) -> (u32, Option<Hash>) {
        // What does not count must not use generations up either: anyone may sign a verdict with the highest of all.
        let counts =
            |entry: &SignedEntry| self.was_owner(&entry.author) && !is_void(&self.membership.revocations, entry);
        let highest = self
            .records
            .values()
            .filter(|record| record.subject == *peer && counts(&record.entry))
            .map(|record| record.entry.entry.generation)
            .max()
            .unwrap_or(0);
        (highest.saturating_add(1), self.membership.revocations.get(peer).map(|revocation| revocation.hash))
    }

    fn compute(&self) -> (BTreeMap<PeerId, u32>, Membership) {
        let verdicts: Vec<Said<'_>> =
            self.records.values().map(|record| (&record.entry, record.subject, &record.verdict)).collect();
        // First as if nobody had ever been revoked: how far is each owner from the founder?
        let depths = self.chain(&verdicts, &BTreeMap::new());
        let mut revocations = valid_revocations(&verdicts, &depths);
        if self.without(Mutant::MarkVoids) {
            for revocation in revocations.values_mut() {
                revocation.mark = revocation.mark.map(|(life, _)| (life, u64::MAX));
            }
        }
        let owners = self.chain(&verdicts, &revocations);

        let mut chosen: BTreeMap<PeerId, (&SignedEntry, Tier, NodeId, PublicKey)> = BTreeMap::new();
        for (entry, subject, verdict) in &verdicts {
            let VerdictKind::Approved { tier, node_id, after } = &verdict.what else { continue };
            if !owners.contains_key(&entry.author) || is_void(&revocations, entry) {
                continue;
            }
            // Revocation wins over every approval that does not know it.
            let in_force = revocations.get(subject).is_none_or(|revocation| {
                self.without(Mutant::RevocationWins)
                    || *after == Some(revocation.hash) && entry.entry.generation > revocation.generation
            });
            let rank = |entry: &SignedEntry| (entry.entry.generation, entry.entry.hlc, entry.author, entry.hash);
            if in_force && chosen.get(subject).is_none_or(|(best, ..)| rank(best) < rank(entry)) {
                chosen.insert(*subject, (*entry, *tier, node_id.clone(), verdict.subject));
            }
        }
        let founder = self.genesis.author;
        let mut ordered: Vec<(u64, PeerId, Tier, NodeId, PublicKey)> =
            chosen.into_iter().map(|(peer, (entry, tier, id, key))| (entry.entry.hlc, peer, tier, id, key)).collect();
        if !revocations.contains_key(&founder)
            && let Some((_, genesis)) = genesis_of(&self.genesis)
        {
            ordered.retain(|(_, peer, ..)| *peer != founder);
            ordered.push((0, founder, Tier::Owner, genesis.node_id, self.genesis.entry.author));
        }
        // Of two with one handle the one approved later becomes `name-2`, everywhere alike.
        ordered.sort_by_key(|(hlc, peer, ..)| (*hlc, *peer));
        let mut taken = BTreeSet::new();
        let mut members = BTreeMap::new();
        for (_, peer, tier, wanted, key) in ordered {
            let node_id = free(&wanted, |handle| taken.contains(handle));
            taken.insert(node_id.clone());
            let depth = depths.get(&peer).copied().unwrap_or(u32::MAX);
            members.insert(peer, Member { key, tier, node_id, depth });
        }
        (depths, Membership { members, revocations })
    }

    /// Everyone who was ever an owner by a chain of approvals that stand, with the distance from the founder; and, for
    /// the depth of others, everyone whom such an owner approved.
    fn chain(&self, verdicts: &[Said<'_>], revocations: &BTreeMap<PeerId, Revocation>) -> BTreeMap<PeerId, u32> {
        let mut depths = BTreeMap::from([(self.genesis.author, 0)]);
        loop {
            let mut grown = false;
            for (entry, subject, verdict) in verdicts {
                let VerdictKind::Approved { tier: Tier::Owner, .. } = &verdict.what else { continue };
                let Some(depth) = depths.get(&entry.author).copied() else { continue };
                if !is_void(revocations, entry) && depths.get(subject).is_none_or(|known| *known > depth + 1) {
                    depths.insert(*subject, depth + 1);
                    grown = true;
                }
            }
            if !grown {
                return depths;
            }
        }
    }
}

/// Who says what about whom.
type Said<'a> = (&'a SignedEntry, PeerId, &'a Verdict);

fn free(wanted: &NodeId, is_taken: impl Fn(&NodeId) -> bool) -> NodeId {
    if !is_taken(wanted) {
        return wanted.clone();
    }
    (2..=limits::PEERS_MAX + 1)
        .map(|n| wanted.variant(n))
        .find(|handle| !is_taken(handle))
        .unwrap_or_else(|| wanted.clone())
}

/// Whether an author's revocation voids this entry: it lies above the mark, in the life that the mark names; or the
/// signer had seen nothing of that author at all.
fn is_void(revocations: &BTreeMap<PeerId, Revocation>, entry: &SignedEntry) -> bool {
    revocations.get(&entry.author).is_some_and(|revocation| match revocation.mark {
        Some((incarnation, seq)) => incarnation == entry.entry.incarnation && entry.entry.seq > seq,
        None => false,
    })
}

/// The revocations that count. Concurrent ones among owners apply in order of the signer's distance from the founder,
/// then peer id; what a voided signer said beyond its mark is skipped.
fn valid_revocations(verdicts: &[Said<'_>], depths: &BTreeMap<PeerId, u32>) -> BTreeMap<PeerId, Revocation> {
    let mut candidates: Vec<_> = verdicts
        .iter()
        .filter_map(|(entry, subject, verdict)| match &verdict.what {
            VerdictKind::Revoked { mark, left } => {
                let depth = depths.get(&entry.author).copied();
                // One's own leave needs no owner. It is the last word of that life, whatever mark it names.
                if *left && entry.author == *subject {
                    let mark = Some((entry.entry.incarnation, entry.entry.seq));
                    return Some((depth.unwrap_or(u32::MAX), *entry, *subject, verdict.subject, mark));
                }
                depth.map(|depth| (depth, *entry, *subject, verdict.subject, *mark))
            }
            VerdictKind::Approved { .. } => None,
        })
        .collect();
    candidates
        .sort_by_key(|(depth, entry, ..)| (*depth, entry.author, entry.entry.incarnation, entry.entry.seq, entry.hash));
    let mut valid: BTreeMap<PeerId, Revocation> = BTreeMap::new();
    for (_, entry, subject, key, mark) in candidates {
        if is_void(&valid, entry) {
            continue;
        }
        let revocation =
            Revocation { key, hlc: entry.entry.hlc, mark, hash: entry.hash, generation: entry.entry.generation };
        let rank = |r: &Revocation| (r.generation, r.hash);
        if valid.get(&subject).is_none_or(|known| rank(known) < rank(&revocation)) {
            valid.insert(subject, revocation);
        }
    }
    valid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Signer, Symbolic};
    use crate::entry::{Entry, encode};
    use proptest::prelude::*;

    fn key(n: u64) -> PublicKey {
        Symbolic::new(n).public_key()
    }

    fn entry(author: u64, seq: u64, generation: u32, mesh: MeshId, kind: Kind, body: Vec<u8>) -> SignedEntry {
        let signer = Symbolic::new(author);
        SignedEntry::sign(
            &signer,
            Entry {
                mesh,
                author: signer.public_key(),
                incarnation: Incarnation(1),
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

    fn say(author: u64, seq: u64, generation: u32, subject: u64, what: VerdictKind) -> SignedEntry {
        let mesh = MeshId(genesis().hash.0);
        entry(author, seq, generation, mesh, Kind::APPROVAL, encode(&Verdict { subject: key(subject), what }))
    }

    fn approve(author: u64, seq: u64, generation: u32, subject: u64, after: Option<Hash>) -> SignedEntry {
        let what = VerdictKind::Approved { tier: Tier::Owner, node_id: "macbook".parse().unwrap(), after };
        say(author, seq, generation, subject, what)
    }

    fn revoke(author: u64, seq: u64, generation: u32, subject: u64, mark: Option<u64>) -> SignedEntry {
        let mark = mark.map(|seq| (Incarnation(1), seq));
        say(author, seq, generation, subject, VerdictKind::Revoked { mark, left: false })
    }

    fn members(records: &[SignedEntry]) -> Vec<(String, bool)> {
        let mut all = vec![genesis()];
        all.extend_from_slice(records);
        let trust = Trust::new(all, Mutation::default()).unwrap();
        trust.membership.members.values().map(|m| (m.node_id.to_string(), m.tier == Tier::Owner)).collect()
    }

    fn has(records: &[SignedEntry], n: u64) -> bool {
        let mut all = vec![genesis()];
        all.extend_from_slice(records);
        Trust::new(all, Mutation::default()).unwrap().member(&key(n).peer_id()).is_some()
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
        // Owner 1 let 2 in at its seq 5; the revocation names seq 5, so 2 stands; what it signed as seq 6 is void.
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
    fn two_with_one_handle_both_stay_in() {
        let names = members(&[approve(0, 2, 1, 1, None), approve(0, 3, 1, 2, None)]);
        let mut names: Vec<_> = names.into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["founder", "macbook", "macbook-2"]);
    }

    #[test]
    fn what_a_stranger_to_power_signs_uses_no_generation_up() {
        // 7 belongs, but not as an owner.
        let shared = VerdictKind::Approved { tier: Tier::Shared, node_id: "tablet".parse().unwrap(), after: None };
        let mut trust = Trust::new(vec![genesis(), say(0, 2, 1, 7, shared)], Mutation::default()).unwrap();
        trust.add(approve(7, 1, u32::MAX, 8, None));
        trust.add(revoke(7, 2, u32::MAX, 0, None));
        assert_eq!(trust.next_verdict(&key(8).peer_id()), (1, None));
        assert_eq!(trust.membership().members.len(), 2);
        // An owner may, and then nothing overflows.
        trust.add(approve(0, 3, u32::MAX, 8, None));
        assert_eq!(trust.next_verdict(&key(8).peer_id()).0, u32::MAX);
    }

    #[test]
    fn verdicts_that_count_for_nothing_do_not_pile_up() {
        let mut trust = Trust::new(vec![genesis()], Mutation::default()).unwrap();
        let kept = (1..200).filter(|seq| trust.add(approve(7, *seq, 1, 8, None)).is_some()).count();
        assert_eq!(kept, limits::STRAY_VERDICTS_MAX);
        // They count once their author turns out to be an owner, and then there is no limit.
        assert_eq!(trust.add(approve(0, 2, 1, 7, None)), Some(true));
        assert!(trust.member(&key(8).peer_id()).is_some());
        assert!((200..300).all(|seq| trust.add(approve(7, seq, 1, seq, None)).is_some()));
    }

    #[test]
    fn a_leave_is_the_last_word_whatever_it_says() {
        let leave = |seq, generation, mark: u64| {
            let what = VerdictKind::Revoked { mark: Some((Incarnation(1), mark)), left: true };
            say(1, seq, generation, 1, what)
        };
        // Gone at 5; what it signs later as an owner is void.
        let base = [approve(0, 2, 1, 1, None), leave(5, 2, u64::MAX), approve(1, 6, 1, 3, None)];
        assert!(!has(&base, 1) && !has(&base, 3));
        // Nor does a leave undo the mark of a revocation.
        let base = [
            approve(0, 2, 1, 1, None),
            revoke(0, 3, 2, 1, Some(5)),
            approve(1, 6, 1, 3, None),
            leave(7, u32::MAX, u64::MAX),
        ];
        assert!(!has(&base, 1) && !has(&base, 3));
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_matter(
            script in proptest::collection::vec((0..4_u64, 0..6_u32, 1..5_u64, any::<bool>(), 0..6_u64), 0..12),
            order in any::<u64>(),
        ) {
            let mut records: Vec<SignedEntry> = Vec::new();
            for (i, (author, generation, subject, yes, mark)) in script.into_iter().enumerate() {
                let after = records.last().map(|entry| entry.hash);
                let seq = i as u64 + 2;
                records.push(if yes {
                    approve(author, seq, generation, subject, after)
                } else {
                    revoke(author, seq, generation, subject, Some(mark))
                });
            }
            let mut straight = Trust::new(vec![genesis()], Mutation::default()).unwrap();
            for record in &records { straight.add(record.clone()); }
            let mut shuffled = Trust::new(vec![genesis()], Mutation::default()).unwrap();
            let n = records.len().max(1);
            for i in 0..records.len() {
                let at = (i * 7 + usize::try_from(order % 1000).unwrap()) % n;
                shuffled.add(records[at].clone());
            }
            for record in records.iter().rev() { shuffled.add(record.clone()); }
            prop_assert_eq!(straight.membership(), shuffled.membership());
        }
    }
}
