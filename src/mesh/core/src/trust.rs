//! Membership: a pure function of the set of approvals and revocations that a peer holds (`docs/protocol.md`, Trust).
//!
//! Because [`Membership`] is computed from a set, it does not depend on the order in which entries arrived: merging is
//! commutative, associative and idempotent by construction. What is void stays in the set: else two peers would
//! hold different sets for ever, of which one might come to count again.
//!
//! Changes are taken one by one and judged together, once for each frame: what that costs is in proportion to the set.

mod argumentation;
mod derivation;

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::{Kind, SignedEntry};
use crate::ids::{Hash, Incarnation, MeshId, NodeId, PeerId, PublicKey};
use crate::limits;
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::record::{Genesis, Tier};
use argumentation::{Positions, Record, raise};

/// Times that one frame's changes are judged before its end, where an entry in it is by somebody whom it lets in.
const JUDGED_EARLY_MAX: u32 = 4;

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
    /// Clock of the first approval in force that gave it this name; 0: the founder.
    pub(crate) named_hlc: u64,
    /// The approval by which it belongs; of the founder the genesis. What it signs about members rests on it.
    pub(crate) grant: Hash,
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
    /// Of those whose authority was ended: the highest counter of an epoch that was known then to all who ended
    /// it.
    pub(crate) fences: BTreeMap<PeerId, u64>,
}

/// What changes have led to, judged together.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// Those of them that are kept.
    pub(crate) kept: Vec<SignedEntry>,
    /// Changes that no log brings from now on, since their place is void.
    pub(crate) void: Vec<Hash>,
    /// True if they changed who belongs, or as what.
    pub(crate) changed: bool,
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
    /// Records of each author.
    authors: BTreeMap<PeerId, BTreeSet<Hash>>,
    /// Those that count.
    counted: BTreeSet<Hash>,
    /// What those that count build on.
    named: BTreeSet<Hash>,
    /// See [`Self::void`].
    void: BTreeSet<Hash>,
    /// Everyone who was ever an owner, void or not, with the distance from the founder.
    depths: BTreeMap<PeerId, u32>,
    /// Number of changes of each author that count for nothing, and that nothing which counts names.
    strays: BTreeMap<PeerId, usize>,
    membership: Membership,
    unjudged: Unjudged,
}

/// Changes that were taken since the set was judged last.
#[derive(Debug, Clone, Default)]
struct Unjudged {
    records: Vec<Hash>,
    /// Whom they let in, and as whom at the most.
    subjects: BTreeMap<PeerId, Tier>,
    /// How many of those do not belong yet.
    newcomers: usize,
    /// Times that this frame's changes were judged already.
    early: u32,
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
            authors: BTreeMap::new(),
            counted: BTreeSet::new(),
            named: BTreeSet::new(),
            void: BTreeSet::new(),
            depths: BTreeMap::new(),
            strays: BTreeMap::new(),
            membership: Membership::default(),
            unjudged: Unjudged::default(),
        };
        for entry in records {
            if let Some(record) = trust.read(entry) {
                trust.insert(record);
            }
        }
        trust.derive();
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
        self.depths.contains_key(peer) || self.unjudged.subjects.get(peer) == Some(&Tier::Owner)
    }

    /// True if a claim by `peer` to an epoch with this counter proves that epoch although an owner does not show it: of
    /// an owner any does, of one whose authority was ended those that were known then.
    pub(crate) fn may_prove(&self, peer: &PeerId, counter: u64) -> bool {
        let known = self.membership.fences.get(peer).filter(|_| self.enforces(ProtocolRule::FenceOfFormerOwner));
        self.was_owner(peer) && known.is_none_or(|known| counter <= *known)
    }

    /// Hash over the membership changes that count, in the order of their hashes.
    pub(crate) fn fingerprint(&self) -> Hash {
        Hash::of(&self.counted.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>())
    }

    // --- The set ------------------------------------------------------------------------------------------------------

    /// Takes an approval or revocation into the set, to be judged with others by [`Self::judge`]. False: it is not one
    /// that is kept.
    pub(crate) fn take(&mut self, entry: SignedEntry) -> bool {
        if self.records.contains_key(&entry.hash) {
            return false;
        }
        let Some(record) = self.read(entry) else { return false };
        if self.is_over_limit(&record) {
            return false;
        }
        if let Some(tier) = record.tier() {
            let is_new = self.member(&record.subject).is_none();
            let most = self.unjudged.subjects.entry(record.subject).or_insert_with(|| {
                self.unjudged.newcomers += usize::from(is_new);
                tier
            });
            *most = tier.max(*most);
        }
        if !self.is_owner(&record.entry.author) {
            *self.strays.entry(record.entry.author).or_default() += 1;
        }
        self.unjudged.records.push(record.entry.hash);
        self.insert(record);
        true
    }

    /// Number of changes in the set.
    pub(crate) fn held(&self) -> usize {
        self.records.len()
    }

    /// True if the changes of this frame are to be judged before its end, so that an entry by `author` is seen to
    /// count. Not often: else a frame could be made that costs as much as its changes times the set.
    pub(crate) fn judges_early(&mut self, author: &PeerId) -> bool {
        let judges = self.unjudged.subjects.contains_key(author) && self.unjudged.early < JUDGED_EARLY_MAX;
        self.unjudged.early += u32::from(judges);
        judges
    }

    /// Judges the set, if changes were taken since. `ends`: the frame is over.
    pub(crate) fn judge(&mut self, ends: bool) -> Option<Judgement> {
        let early = if ends { 0 } else { self.unjudged.early };
        let taken = std::mem::replace(&mut self.unjudged, Unjudged { early, ..Unjudged::default() });
        if taken.records.is_empty() {
            return None;
        }
        let (void, membership) = (std::mem::take(&mut self.void), std::mem::take(&mut self.membership));
        self.derive();
        let dropped = self.drop_strays(&taken.records);
        let kept = taken.records.iter().filter(|hash| !dropped.contains(hash));
        Some(Judgement {
            kept: kept.filter_map(|hash| self.record(hash)).cloned().collect(),
            void: self.void.difference(&void).copied().collect(),
            changed: self.membership != membership,
        })
    }

    fn read(&self, entry: SignedEntry) -> Option<Record> {
        let fits = entry.entry.kind == Kind::MEMBERSHIP && entry.entry.mesh == self.mesh;
        let mut record = fits.then(|| Record::new(entry)).flatten()?;
        if !self.enforces(ProtocolRule::CutoffVoids) {
            record.cutoffs.values_mut().for_each(|cutoff| *cutoff = u64::MAX);
        }
        Some(record)
    }

    fn insert(&mut self, record: Record) {
        self.authors.entry(record.entry.author).or_default().insert(record.entry.hash);
        self.records.insert(record.entry.hash, record);
    }

    /// True if a change is one too many of its author, or lets one too many in. What a change that counts names is
    /// taken in any case, and so are those who remove somebody as long as their author has said little.
    fn is_over_limit(&self, record: &Record) -> bool {
        if self.named.contains(&record.entry.hash) {
            return false;
        }
        let (author, unjudged) = (&record.entry.author, self.unjudged.records.len());
        let said = self.authors.get(author).map_or(0, BTreeSet::len);
        let belong = self.membership.members.len() + self.unjudged.newcomers;
        let is_new = || self.member(&record.subject).is_none() && !self.unjudged.subjects.contains_key(&record.subject);
        let admits = record.tier().is_some();
        said >= limits::CHANGES_PER_AUTHOR_MAX
            || (admits && self.counted.len() + unjudged >= limits::CHANGES_MAX && said >= limits::STRAY_CHANGES_MAX)
            || (admits && is_new() && belong >= limits::PEERS_MAX)
            || (!self.is_owner(author) && !self.unjudged.subjects.contains_key(author) && self.has_said_enough(author))
    }

    /// True if an author or everyone together has said enough that counts for nothing: it must not grow for ever, nor
    /// crowd out of a welcome what counts.
    fn has_said_enough(&self, author: &PeerId) -> bool {
        let strays = self.strays.get(author).copied().unwrap_or(0);
        let in_all = self.records.len() - self.counted.len() - self.unjudged.records.len();
        strays >= limits::STRAY_CHANGES_MAX || in_all >= limits::STRAY_CHANGES_IN_ALL_MAX
    }

    /// True if a change counts for nothing, and nothing that counts names it.
    fn is_stray(&self, hash: &Hash) -> bool {
        !self.counted.contains(hash) && !self.named.contains(hash)
    }

    /// Drops those of these changes that turn out to be strays too many.
    fn drop_strays(&mut self, taken: &[Hash]) -> BTreeSet<Hash> {
        let mut dropped = BTreeSet::new();
        let mut in_all = self.records.len() - self.counted.len();
        for hash in taken.iter().rev().filter(|hash| self.is_stray(hash)).copied().collect::<Vec<_>>() {
            let Some(author) = self.records.get(&hash).map(|record| record.entry.author) else { continue };
            let said = self.strays.entry(author).or_default();
            if *said > limits::STRAY_CHANGES_MAX || in_all > limits::STRAY_CHANGES_IN_ALL_MAX {
                *said = said.saturating_sub(1);
                in_all -= 1;
                dropped.insert(hash);
                self.records.remove(&hash);
                self.void.remove(&hash);
                if let Some(all) = self.authors.get_mut(&author) {
                    all.remove(&hash);
                }
            }
        }
        dropped
    }

    /// Membership changes of those who were owners that no log brings, since their place is void: hashes, in an order
    /// in which each author is known before it speaks. Everyone must hold them all.
    pub(crate) fn void(&self) -> Vec<Hash> {
        let mut void: Vec<&SignedEntry> = self.void.iter().filter_map(|hash| self.record(hash)).collect();
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

    fn derive(&mut self) {
        let graph = argumentation::judge(self.genesis.author, self.genesis.hash, &self.records, self.rules);
        let mut depths = BTreeMap::from([(self.genesis.author, 0)]);
        for node in graph.nodes().filter(|node| node.depth != u32::MAX && !node.record.is_limit()) {
            let depth = depths.entry(node.record.subject).or_insert(u32::MAX);
            *depth = node.depth.saturating_add(1).min(*depth);
        }
        let counted: BTreeSet<Hash> =
            graph.nodes().filter(|node| node.counts()).map(|node| node.record.entry.hash).collect();
        let named: BTreeSet<Hash> =
            graph.nodes().filter(|node| node.counts()).flat_map(|node| node.record.named()).collect();
        self.membership = derivation::membership(&graph, &self.genesis, self.rules);
        (self.depths, self.counted, self.named) = (depths, counted, named);
        let mut strays: BTreeMap<PeerId, usize> = BTreeMap::new();
        for record in self.records.values().filter(|record| self.is_stray(&record.entry.hash)) {
            *strays.entry(record.entry.author).or_default() += 1;
        }
        self.strays = strays;
        let void = self.records.values().map(|record| &record.entry).filter(|entry| {
            self.depths.contains_key(&entry.author)
                && !self.admits(&entry.author, entry.entry.incarnation, entry.entry.seq)
        });
        self.void = void.map(|entry| entry.hash).collect();
    }

    /// Genesis first, then each author's approvals after the approval of that author.
    pub(crate) fn records_in_order(&self) -> Vec<SignedEntry> {
        let mut records: Vec<_> = self.records.values().map(|record| record.entry.clone()).collect();
        records.sort_by_cached_key(|entry| self.order(entry));
        records.insert(0, self.genesis.clone());
        records
    }

    /// True if a peer may be sent the body of an entry: it wrote it, is an owner now, or belongs to its audience by name.
    pub(crate) fn may_read(&self, entry: &SignedEntry, peer: &PeerId) -> bool {
        entry.entry.audience.names(peer)
            || entry.author == *peer
            || self.is_owner(peer)
            || !self.enforces(ProtocolRule::Audience)
    }

    /// An entry as a peer may have it: without its body if it is outside of the audience.
    pub(crate) fn shown_to(&self, entry: &SignedEntry, peer: &PeerId) -> SignedEntry {
        if self.may_read(entry, peer) { entry.clone() } else { entry.without_body() }
    }

    /// All that decides on the standing of a peer: what is said of it, and of everyone who says so, back to the founder.
    pub(crate) fn records_about(&self, peer: &PeerId) -> Vec<SignedEntry> {
        let mut about = BTreeSet::from([*peer]);
        loop {
            let of = self.records.values().filter(|record| about.contains(&record.subject));
            let authors: Vec<PeerId> = of.map(|record| record.entry.author).collect();
            let before = about.len();
            about.extend(authors);
            if about.len() == before {
                break;
            }
        }
        let mut records: Vec<_> = self.records.values().filter(|record| about.contains(&record.subject)).collect();
        records.sort_by_key(|record| self.order(&record.entry));
        let records = records.into_iter().map(|record| record.entry.clone());
        std::iter::once(self.genesis.clone()).chain(records).collect()
    }

    // --- What a new change says ---------------------------------------------------------------------------------------

    /// A name nobody has: the wanted one, or `wanted-2`, …
    /// `chosen`: names that members have given themselves.
    pub(crate) fn free_name(&self, wanted: &NodeId, of: &PeerId, chosen: &BTreeMap<PeerId, NodeId>) -> NodeId {
        let taken: BTreeSet<&NodeId> =
            self.membership.members.iter().filter(|(peer, _)| *peer != of).map(|(_, m)| &m.node_id).collect();
        let others: BTreeSet<&NodeId> = chosen.iter().filter(|(peer, _)| *peer != of).map(|(_, name)| name).collect();
        derivation::free(wanted, 2, |name| taken.contains(name) || others.contains(name)).0
    }

    /// The newest changes about `peer` that count, of each log one: a new change is later than those.
    pub(crate) fn known_about(&self, peer: &PeerId) -> Vec<Hash> {
        let mut known = Positions::new();
        let about = self.records.values().filter(|record| record.subject == *peer);
        about
            .filter(|record| self.counted.contains(&record.entry.hash))
            .for_each(|record| raise(&mut known, record.log(), record.position()));
        known.into_values().map(|(_, hash)| hash).collect()
    }

    fn counted_of(&self, peer: &PeerId) -> impl Iterator<Item = &Record> {
        let said = self.authors.get(peer).into_iter().flatten().filter(|hash| self.counted.contains(hash));
        said.filter_map(|hash| self.records.get(hash))
    }

    /// What `peer` said about members that counts: that stands when its authority ends.
    pub(crate) fn statements(&self, peer: &PeerId) -> Vec<Hash> {
        let statements = self.counted_of(peer).map(|record| record.entry.hash);
        statements.take(limits::CHANGES_PER_AUTHOR_MAX).collect()
    }

    /// Last place of the membership changes of `peer` that are held and count, by incarnation. A revocation lets those
    /// stand.
    pub(crate) fn cutoffs(&self, peer: &PeerId) -> BTreeMap<Incarnation, u64> {
        let mut cutoffs = BTreeMap::new();
        for (incarnation, seq) in self.counted_of(peer).map(|one| (one.entry.entry.incarnation, one.entry.entry.seq)) {
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
}

#[cfg(test)]
mod tests;
