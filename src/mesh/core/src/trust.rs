//! Membership: a pure function of the set of approvals and revocations that a peer holds (`docs/protocol.md`, Trust).
//!
//! Because [`Membership`] is computed from a set, it does not depend on the order in which entries arrived: merging is
//! commutative, associative and idempotent by construction. What is void stays in the set: else two peers would
//! hold different sets for ever, of which one might come to count again.

mod argumentation;

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::{Kind, SignedEntry};
use crate::ids::{Hash, Incarnation, MeshId, NodeId, PeerId, PublicKey};
use crate::limits;
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::record::{ChangeKind, Genesis, Tier};
use argumentation::{Judged, Record, Standing};

/// A peer that belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) key: PublicKey,
    pub(crate) tier: Tier,
    /// Unique in the mesh.
    pub(crate) node_id: NodeId,
    /// Steps from the founder.
    pub(crate) depth: u32,
    /// Author of the approval by which it belongs; `None`: the founder.
    pub(crate) by: Option<PeerId>,
    /// Wall time of that approval by its author's clock.
    pub(crate) since_ms: u64,
}

/// A revocation in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revocation {
    /// Key of its subject.
    pub(crate) key: PublicKey,
    /// Its signer.
    pub(crate) by: PeerId,
    /// When.
    pub(crate) hlc: u64,
    /// Last entry of its subject that stands, by incarnation; nothing of any other stands.
    pub(crate) cutoffs: BTreeMap<Incarnation, u64>,
    pub(crate) hash: Hash,
    pub(crate) generation: u32,
    /// An owner who knew it approved the peer again. Then incarnations that it does not name count, since they may be
    /// newer.
    pub(crate) taken_back: bool,
}

impl Revocation {
    fn voids(&self, incarnation: Incarnation, seq: u64) -> bool {
        self.cutoffs.get(&incarnation).map_or(!self.taken_back, |cutoff| seq > *cutoff)
    }
}

/// A device that belonged until its approval turned out to be void: an owner may approve it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AwaitingReapproval {
    pub(crate) key: PublicKey,
    /// Name that it was given.
    pub(crate) node_id: NodeId,
    /// Its tier.
    pub(crate) tier: Tier,
    /// Its approver.
    pub(crate) by: PeerId,
    /// Peer that revoked the approver; `None` when the approver awaits re-approval itself.
    pub(crate) revoked_by: Option<PeerId>,
}

/// Membership that the set of changes amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) members: BTreeMap<PeerId, Member>,
    /// Every revocation that is in force, also of peers that were approved again.
    pub(crate) revocations: BTreeMap<PeerId, Vec<Revocation>>,
    pub(crate) awaiting_reapproval: BTreeMap<PeerId, AwaitingReapproval>,
}

/// The set, and the membership that it derives.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    rules: ProtocolRules,
    mesh: MeshId,
    genesis: SignedEntry,
    name: String,
    /// Each with what it says, decoded once: all of them are read at every membership change.
    records: BTreeMap<Hash, Record>,
    /// Everyone who was ever an owner, void or not, with the distance from the founder.
    depths: BTreeMap<PeerId, u32>,
    membership: Membership,
}

/// Mesh and content of `entry`, if it is a well-formed genesis.
pub(crate) fn genesis_of(entry: &SignedEntry) -> Option<(MeshId, Genesis)> {
    let genesis: Genesis = (entry.entry.kind == Kind::GENESIS).then(|| entry.record())??;
    Some((MeshId(entry.hash.0), genesis))
}

impl Trust {
    /// `None` when there is no genesis among the records.
    pub(crate) fn new(records: Vec<SignedEntry>, rules: ProtocolRules) -> Option<Self> {
        let (genesis, (mesh, body)) = records.iter().find_map(|entry| Some((entry.clone(), genesis_of(entry)?)))?;
        let mut trust = Self {
            rules,
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

    /// True if this rule holds here, see [`ProtocolRule`].
    pub(crate) const fn enforces(&self, rule: ProtocolRule) -> bool {
        self.rules.enforces(rule)
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

    fn revocations(&self, peer: &PeerId) -> &[Revocation] {
        self.membership.revocations.get(peer).map_or(&[], Vec::as_slice)
    }

    /// True if what `author` wrote at this place counts: it belongs, or belonged, and no revocation voids that place.
    pub(crate) fn admits(&self, author: &PeerId, incarnation: Incarnation, seq: u64) -> bool {
        let revocations = self.revocations(author);
        (self.member(author).is_some() || !revocations.is_empty())
            && !revocations.iter().any(|revocation| revocation.voids(incarnation, seq))
    }

    /// True if `peer` was revoked, and not approved again since.
    pub(crate) fn is_revoked(&self, peer: &PeerId) -> bool {
        self.member(peer).is_none() && self.membership.revocations.contains_key(peer)
    }

    /// True if `peer` belonged and does not now: revoked, or awaiting re-approval. One whose approval has only not come
    /// yet is not out.
    pub(crate) fn is_excluded(&self, peer: &PeerId) -> bool {
        self.is_revoked(peer) || self.membership.awaiting_reapproval.contains_key(peer)
    }

    /// Everyone who is excluded: those awaiting re-approval, then the revoked, the newest first; at most
    /// [`limits::REVOKED_TOLD_MAX`].
    pub(crate) fn excluded(&self) -> Vec<(PeerId, PublicKey)> {
        let Membership { awaiting_reapproval, revocations, .. } = &self.membership;
        let newest = |of: &[Revocation]| of.iter().max_by_key(|one| one.hlc).map(|one| (one.hlc, one.key));
        let mut revoked: Vec<_> = revocations
            .iter()
            .filter(|(peer, _)| self.is_revoked(peer))
            .filter_map(|(peer, of)| newest(of).map(|(hlc, key)| (hlc, *peer, key)))
            .collect();
        revoked.sort_by_key(|(hlc, ..)| std::cmp::Reverse(*hlc));
        let awaiting_reapproval =
            awaiting_reapproval.iter().map(|(peer, awaiting_reapproval)| (*peer, awaiting_reapproval.key));
        awaiting_reapproval
            .chain(revoked.into_iter().map(|(_, peer, key)| (peer, key)))
            .take(limits::REVOKED_TOLD_MAX)
            .collect()
    }

    /// True if `peer` was ever an owner, whatever became of it.
    pub(crate) fn was_owner(&self, peer: &PeerId) -> bool {
        self.depths.contains_key(peer)
    }

    /// Hash over the membership changes that count, in the order of their hashes.
    pub(crate) fn fingerprint(&self) -> Hash {
        let reissue = self.records.values().filter(|record| self.is_relayed(&record.entry));
        Hash::of(&reissue.flat_map(|record| record.entry.hash.0).collect::<Vec<u8>>())
    }

    /// Adds an approval or revocation. `None`: it is not one that is kept. True when it changed who belongs.
    pub(crate) fn add(&mut self, entry: SignedEntry) -> Option<bool> {
        if self.records.contains_key(&entry.hash) || self.is_stray_too_many(&entry) || !self.keep(entry) {
            return None;
        }
        Some(self.recompute())
    }

    /// True if an entry counts for nothing, and its author or everyone together has said enough of that: it must not
    /// grow for ever, nor crowd out of a welcome what counts.
    fn is_stray_too_many(&self, entry: &SignedEntry) -> bool {
        if self.is_relayed(entry) {
            return false;
        }
        let strays = || self.records.values().filter(|record| !self.is_relayed(&record.entry));
        strays().filter(|record| record.entry.author == entry.author).count() >= limits::STRAY_CHANGES_MAX
            || strays().count() >= limits::STRAY_CHANGES_IN_ALL_MAX
    }

    /// True if an entry's author was an owner, and its place is not void.
    fn is_relayed(&self, entry: &SignedEntry) -> bool {
        self.was_owner(&entry.author) && self.admits(&entry.author, entry.entry.incarnation, entry.entry.seq)
    }

    /// Membership changes of those who were owners that no log brings, since their place is void: hashes, in an order
    /// in which each author is known before it speaks. Everyone must hold them all.
    pub(crate) fn void(&self) -> Vec<Hash> {
        let mut void: Vec<&SignedEntry> = self
            .records
            .values()
            .map(|record| &record.entry)
            .filter(|entry| self.was_owner(&entry.author) && !self.is_relayed(entry))
            .collect();
        void.sort_by_key(|entry| self.order(entry));
        void.into_iter().map(|entry| entry.hash).collect()
    }

    pub(crate) fn record(&self, hash: &Hash) -> Option<&SignedEntry> {
        self.records.get(hash).map(|record| &record.entry)
    }

    fn order(&self, entry: &SignedEntry) -> (u32, PeerId, Incarnation, u64) {
        let depth = self.depths.get(&entry.author).copied().unwrap_or(u32::MAX);
        (depth, entry.author, entry.entry.incarnation, entry.entry.seq)
    }

    fn recompute(&mut self) -> bool {
        let judged = argumentation::judge(self.genesis.author, &self.records);
        let membership = self.membership_of(&judged);
        self.depths = judged.depths;
        let changed = membership != self.membership;
        self.membership = membership;
        changed
    }

    fn keep(&mut self, entry: SignedEntry) -> bool {
        let fits = entry.entry.kind == Kind::MEMBERSHIP
            && entry.entry.mesh == self.mesh
            && !self.records.contains_key(&entry.hash);
        let Some(mut record) = fits.then(|| Record::new(entry)).flatten() else { return false };
        if !self.enforces(ProtocolRule::CutoffVoids) {
            record.cutoffs.values_mut().for_each(|cutoff| *cutoff = u64::MAX);
        }
        self.records.insert(record.entry.hash, record);
        true
    }

    /// Genesis first, then each author's approvals after the approval of that author.
    pub(crate) fn records_in_order(&self) -> Vec<SignedEntry> {
        let mut records: Vec<_> = self.records.values().map(|record| record.entry.clone()).collect();
        records.sort_by_key(|entry| self.order(entry));
        records.insert(0, self.genesis.clone());
        records
    }

    /// A name nobody has: the wanted one, or `wanted-2`, …
    pub(crate) fn free_name(&self, wanted: &NodeId, of: &PeerId) -> NodeId {
        let taken: BTreeSet<&NodeId> =
            self.membership.members.iter().filter(|(peer, _)| *peer != of).map(|(_, m)| &m.node_id).collect();
        free(wanted, |name| taken.contains(name))
    }

    /// Generation that a new membership change on `peer` must have, and the revocations that an approval takes back.
    pub(crate) fn next_change(&self, peer: &PeerId) -> (u32, Vec<Hash>) {
        let highest = |reissue: bool| {
            self.records
                .values()
                .filter(|record| record.subject == *peer && self.was_owner(&record.entry.author))
                .filter(|record| self.is_relayed(&record.entry) == reissue)
                .map(|record| record.entry.entry.generation)
                .max()
                .unwrap_or(0)
        };
        // What is void may count again, so it is risen above; but it must not use generations up.
        let counts = highest(true);
        let seen = counts.max(highest(false).min(counts.saturating_add(1)));
        (seen.saturating_add(1), self.revocations(peer).iter().map(|revocation| revocation.hash).collect())
    }

    /// Last place of the membership changes of `peer` that are held and count, by incarnation. A revocation lets those
    /// stand.
    pub(crate) fn cutoffs(&self, peer: &PeerId) -> BTreeMap<Incarnation, u64> {
        let mut cutoffs = BTreeMap::new();
        for record in self.records.values().filter(|record| record.entry.author == *peer) {
            let (incarnation, seq) = (record.entry.entry.incarnation, record.entry.entry.seq);
            if self.admits(peer, incarnation, seq) {
                let cutoff: &mut u64 = cutoffs.entry(incarnation).or_default();
                *cutoff = (*cutoff).max(seq);
            }
        }
        cutoffs
    }

    /// The last place at or below `seq` in this incarnation of `peer` that counts; 0 = none does.
    pub(crate) fn standing(&self, peer: &PeerId, incarnation: Incarnation, seq: u64) -> u64 {
        if !self.admits(peer, incarnation, 0) {
            return 0;
        }
        self.revocations(peer)
            .iter()
            .map(|one| one.cutoffs.get(&incarnation).copied().unwrap_or(if one.taken_back { u64::MAX } else { 0 }))
            .fold(seq, u64::min)
    }

    fn membership_of(&self, judged: &Judged<'_>) -> Membership {
        let Standing { owners, taken_back } = &judged.standing;
        let mut chosen = Choice::default();
        let mut refused = Choice::default();
        for record in self.records.values() {
            let ChangeKind::Approved { node_id, after, .. } = &record.change.what else { continue };
            if !owners.contains_key(&record.entry.author) || judged.is_void(record) {
                if judged.depths.contains_key(&record.entry.author) {
                    refused.offer(record, node_id);
                }
            } else if !self.enforces(ProtocolRule::RevocationWins)
                || judged.revocations_of(&record.subject).iter().all(|revocation| record.takes_back(revocation, after))
            {
                chosen.offer(record, node_id);
            }
        }
        let founder = self.genesis.author;
        let mut ordered: Vec<(u64, PeerId, Member)> = chosen
            .approvals()
            .map(|(peer, since, tier, record, node_id)| {
                let by = owners.get(&record.entry.author).map_or(u32::MAX, |depth| depth.saturating_add(1));
                let depth = owners.get(&peer).copied().unwrap_or(by);
                let (by, since_ms) = (Some(record.entry.author), record.entry.entry.hlc >> 16);
                (
                    since,
                    peer,
                    Member { key: record.change.subject, tier, node_id: node_id.clone(), depth, by, since_ms },
                )
            })
            .collect();
        if judged.revocations_of(&founder).is_empty()
            && let Some((_, genesis)) = genesis_of(&self.genesis)
        {
            ordered.retain(|(_, peer, _)| *peer != founder);
            let key = self.genesis.entry.author;
            ordered.push((
                0,
                founder,
                Member { key, tier: Tier::Owner, node_id: genesis.node_id, depth: 0, by: None, since_ms: 0 },
            ));
        }
        // Of two with one name the one approved later becomes `name-2`, everywhere alike.
        ordered.sort_by_key(|(since, peer, _)| (*since, *peer));
        let mut taken = BTreeSet::new();
        let mut members = BTreeMap::new();
        for (_, peer, mut member) in ordered {
            member.node_id = free(&member.node_id, |name| taken.contains(name));
            taken.insert(member.node_id.clone());
            members.insert(peer, member);
        }
        let awaiting_reapproval = refused
            .approvals()
            .filter(|(peer, ..)| !members.contains_key(peer) && judged.revocations_of(peer).is_empty())
            .map(|(peer, _, tier, record, node_id)| {
                let (key, by) = (record.change.subject, record.entry.author);
                (
                    peer,
                    AwaitingReapproval {
                        key,
                        node_id: node_id.clone(),
                        tier,
                        by,
                        revoked_by: judged.voided_by(record),
                    },
                )
            })
            .collect();
        let revocations = judged
            .revocations
            .iter()
            .map(|(peer, of)| (*peer, of.iter().map(|one| one.revocation(taken_back)).collect()))
            .collect();
        Membership { members, revocations, awaiting_reapproval }
    }
}

/// Of each peer's approvals the one that decides how it is trusted.
#[derive(Default)]
struct Choice<'a> {
    best: BTreeMap<PeerId, &'a Record>,
    /// Clock of the first approval under each name: a later one, to another tier, does not cost a peer its name.
    first: BTreeMap<(PeerId, &'a NodeId), u64>,
}

impl<'a> Choice<'a> {
    fn offer(&mut self, record: &'a Record, node_id: &'a NodeId) {
        let rank = |record: &Record| {
            let entry = &record.entry;
            (entry.entry.generation, entry.entry.hlc, entry.author, entry.hash)
        };
        let best = self.best.entry(record.subject).or_insert(record);
        if rank(best) < rank(record) {
            *best = record;
        }
        let hlc = record.entry.entry.hlc;
        self.first.entry((record.subject, node_id)).and_modify(|first| *first = hlc.min(*first)).or_insert(hlc);
    }

    fn approvals(&self) -> impl Iterator<Item = (PeerId, u64, Tier, &'a Record, &'a NodeId)> + '_ {
        self.best.iter().filter_map(|(peer, record)| {
            let ChangeKind::Approved { tier, node_id, .. } = &record.change.what else { return None };
            let since = self.first.get(&(*peer, node_id)).copied().unwrap_or(record.entry.entry.hlc);
            Some((*peer, since, *tier, *record, node_id))
        })
    }
}

fn free(wanted: &NodeId, is_taken: impl Fn(&NodeId) -> bool) -> NodeId {
    if !is_taken(wanted) {
        return wanted.clone();
    }
    (2..=limits::PEERS_MAX + 1)
        .map(|n| wanted.variant(n))
        .find(|name| !is_taken(name))
        .unwrap_or_else(|| wanted.clone())
}

#[cfg(test)]
mod tests;
