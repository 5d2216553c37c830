//! Membership: a pure function of the set of approvals and revocations that a peer holds (`docs/protocol.md`, Trust).
//!
//! Because [`Membership`] is computed from a set, it does not depend on the order in which entries arrived: merging is
//! commutative, associative and idempotent by construction. What is void stays in the set: else two peers would
//! hold different sets for ever, of which one might come to count again.
//!
//! Changes are taken one by one and judged together, once for each frame: what that costs is in proportion to the set.

mod argumentation;
mod derivation;
mod shares;

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::{Kind, Place, SignedEntry};
use crate::ids::{Hash, Incarnation, MeshId, NodeId, PeerId, PublicKey};
use crate::limits;
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::record::{Genesis, Stay, TaggedNode, Tier};
use argumentation::{Graph, Node, Positions, Record, raise};
use shares::Shares;

/// Times that changes are judged before the frame ends that brings them, where an entry in it is by somebody whom they
/// let in.
const JUDGED_EARLY_MAX: u32 = 4;
/// And of how many changes the set may be. In a larger one the entry comes again once they are judged.
const JUDGED_EARLY_OF_MAX: usize = 512;
/// Changes that a set may have without being judged less often for it.
const JUDGED_AT_ONCE: u64 = 64;
/// Changes of a set for which its next judging waits a millisecond: about a tenth of the time is spent on it at most.
const CHANGES_PER_MS: u64 = 16;
/// Times that a set is judged anew because something was dropped from it. What is dropped may hold something up that
/// counts for nothing then, and that is the end of it in all but made-up cases.
const DROPS_MAX: u32 = 8;

/// A peer that belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) key: PublicKey,
    pub(crate) tier: Tier,
    /// Unique in the mesh.
    pub(crate) node_id: NodeId,
    /// The name that the first approval in force gave to it; of the founder that of the genesis. Not unique.
    pub(crate) first_name: NodeId,
    /// Steps from the founder.
    pub(crate) depth: u32,
    /// Author of the approval by which it belongs, of several the one nearest to the founder, and first; `None`: the
    /// founder.
    pub(crate) by: Option<PeerId>,
    /// Wall time of that approval by its author's clock.
    pub(crate) since_ms: u64,
    /// Clock of the first approval in force that gave it this name; 0: the founder.
    pub(crate) named_hlc: u64,
    /// True if an owner gave or saw this name.
    pub(crate) confirmed: bool,
    /// The approval by which it belongs; of the founder the genesis. What it signs about members rests on it.
    pub(crate) grant: Hash,
    /// Of an ephemeral one, how long and what for.
    pub(crate) stay: Option<Stay>,
    /// The node of a tailnet on whose tag its approval rests.
    pub(crate) of: Option<TaggedNode>,
}

impl Member {
    /// True if it may call itself as it likes, and rights do not know it by that: no owner gave or saw its name, and it is
    /// none.
    pub(crate) const fn takes_names_by_itself(&self) -> bool {
        !self.confirmed && !matches!(self.tier, Tier::Owner)
    }

    /// True if it has the name that an owner gave or saw, and may only ask for another.
    pub(crate) const fn has_given_name(&self) -> bool {
        self.confirmed && !matches!(self.tier, Tier::Owner)
    }
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
    /// Nothing that its subject said about rights in the incarnations that it names stands.
    pub(crate) unsaid: bool,
    /// An owner who knew it approved the peer again. Then incarnations that it does not name count, since they may be
    /// newer.
    pub(crate) taken_back: bool,
}

impl Revocation {
    /// The last place of this incarnation that stands by it.
    fn stands_until(&self, incarnation: Incarnation) -> u64 {
        self.cutoffs.get(&incarnation).copied().unwrap_or(if self.taken_back { u64::MAX } else { 0 })
    }

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
    /// Those of them that stay for a while.
    pub(crate) stays: BTreeSet<PeerId>,
    /// Every revocation that is in force, also of peers that were approved again.
    pub(crate) revocations: BTreeMap<PeerId, Vec<Revocation>>,
    pub(crate) awaiting_reapproval: BTreeMap<PeerId, AwaitingReapproval>,
    /// Of those whose authority was ended, and of those who were made owners by such a one and by nobody whose word stands.
    pub(crate) known_epochs: BTreeMap<PeerId, KnownEpochs>,
    /// Whose approvals of a peer count, of all but the founder: of a member those that admit it, of a former one any.
    pub(crate) vouched_by: BTreeMap<PeerId, BTreeSet<PeerId>>,
    /// Whom an approval that counts ever made an owner, so that what they say about rights counts. Of those who were
    /// lowered since, the last place of each incarnation that still does.
    pub(crate) said_rights: BTreeMap<PeerId, Option<BTreeMap<Incarnation, u64>>>,
}

/// The epochs that a former owner's claims prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KnownEpochs {
    /// The highest counter that was known then to all who ended its authority.
    pub(crate) counter: u64,
    /// Whose authority that was: its own, or that of whoever let it in.
    pub(crate) ended: PeerId,
}

/// Result of changes, judged together.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// Those of them that are kept.
    pub(crate) kept: Vec<SignedEntry>,
    /// Changes that were held before, and are not any more.
    pub(crate) dropped: Vec<Hash>,
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
    /// See [`Self::fingerprint`].
    fingerprint: Hash,
    /// Those that rest on the genesis, counting or not.
    rooted: BTreeSet<Hash>,
    /// Whom these ever let in, as whatever.
    approved: BTreeSet<PeerId>,
    /// See [`Self::void`].
    void: BTreeSet<Hash>,
    /// Whom these ever made an owner, with the distance from the founder.
    depths: BTreeMap<PeerId, u32>,
    membership: Membership,
    unjudged: Unjudged,
    /// When the set was judged last.
    judged_ms: u64,
}

/// Changes that were taken since the set was judged last.
#[derive(Debug, Clone, Default)]
struct Unjudged {
    records: Vec<Hash>,
    /// Room that they take.
    bytes: u64,
    /// Whom they let in.
    subjects: BTreeSet<PeerId>,
    /// Number of those that do not belong yet.
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
            fingerprint: Hash::ZERO,
            rooted: BTreeSet::new(),
            approved: BTreeSet::new(),
            void: BTreeSet::new(),
            depths: BTreeMap::new(),
            membership: Membership::default(),
            unjudged: Unjudged::default(),
            judged_ms: 0,
        };
        for entry in records {
            if let Some(record) = trust.read(entry) {
                trust.insert(record);
            }
        }
        trust.derive_within_limits();
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

    /// True if what this peer says about rights may count.
    pub(crate) fn may_say_rights(&self, peer: &PeerId) -> bool {
        self.membership.said_rights.contains_key(peer)
    }

    /// Last place of this log that counts as a statement of an owner: as far as those had seen who ended its author's
    /// authority. So it counts alike whichever of the two is received first. 0: none of it.
    pub(crate) fn stands_until(&self, author: &PeerId, incarnation: Incarnation) -> u64 {
        let said = match self.membership.said_rights.get(author) {
            None => 0,
            Some(None) => u64::MAX,
            Some(Some(until)) => until.get(&incarnation).copied().unwrap_or(0),
        };
        self.standing(author, incarnation, said)
    }

    /// The same for statements about rights, less those that the owner withdrew who removed the author, whoever that is by
    /// now.
    pub(crate) fn rights_stand_until(&self, author: &PeerId, incarnation: Incarnation) -> u64 {
        if !self.enforces(ProtocolRule::AuthorStanding) {
            return u64::MAX;
        }
        let takes_back = |one: &Revocation| one.unsaid && one.cutoffs.contains_key(&incarnation);
        if self.revocations(author).iter().any(takes_back) && self.enforces(ProtocolRule::UnsaidIsVoid) {
            return 0;
        }
        match self.membership.said_rights.get(author) {
            // Who lowered it said what stands. That it left, and what it says of itself then, changes nothing about it: it
            // would lift its bans by a departure that names none of its incarnations.
            Some(Some(_)) if self.member(author).is_none() && self.revocations(author).is_empty() => 0,
            Some(Some(until)) => {
                let others = self.revocations(author).iter().filter(|one| one.by != *author);
                let said = until.get(&incarnation).copied().unwrap_or(0);
                others.map(|one| one.stands_until(incarnation)).fold(said, u64::min)
            }
            Some(None) | None => self.stands_until(author, incarnation),
        }
    }

    /// True if what was said about rights at this place stands.
    pub(crate) fn rights_stand(&self, place: &Place) -> bool {
        place.seq <= self.rights_stand_until(&place.author, place.incarnation)
    }

    /// True if what was written at this place counts as an owner's word.
    pub(crate) fn stands(&self, place: &Place) -> bool {
        place.seq <= self.stands_until(&place.author, place.incarnation)
    }

    /// True if a revocation has said how far this incarnation of `author` counts.
    pub(crate) fn closes(&self, author: &PeerId, incarnation: Incarnation) -> bool {
        self.revocations(author).iter().any(|revocation| revocation.cutoffs.contains_key(&incarnation))
    }

    /// True if `peer` was revoked, and not approved again since.
    pub(crate) fn is_revoked(&self, peer: &PeerId) -> bool {
        self.member(peer).is_none() && self.membership.revocations.contains_key(peer)
    }

    /// True if `peer` is revoked or awaits re-approval. A peer whose approval has not arrived is not excluded.
    pub(crate) fn is_excluded(&self, peer: &PeerId) -> bool {
        self.is_revoked(peer) || self.membership.awaiting_reapproval.contains_key(peer)
    }

    /// Everyone who is excluded: whom present owners revoked, then whom others did, the newest first; then those awaiting
    /// re-approval; at most [`limits::REVOKED_TOLD_MAX`].
    pub(crate) fn excluded(&self) -> Vec<(PeerId, PublicKey)> {
        let Membership { awaiting_reapproval, revocations, .. } = &self.membership;
        let rank = |one: &Revocation| (self.is_owner(&one.by), one.hlc);
        let first = |of: &[Revocation]| of.iter().max_by_key(|one| rank(one)).map(|one| (rank(one), one.key));
        let mut revoked: Vec<_> = revocations
            .iter()
            .filter(|(peer, _)| self.is_revoked(peer))
            .filter_map(|(peer, of)| first(of).map(|(rank, key)| (rank, *peer, key)))
            .collect();
        revoked.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
        let awaiting_reapproval = awaiting_reapproval.iter().map(|(peer, awaiting)| (*peer, awaiting.key));
        let revoked = revoked.into_iter().map(|(_, peer, key)| (peer, key));
        revoked.chain(awaiting_reapproval).take(limits::REVOKED_TOLD_MAX).collect()
    }

    /// True if `peer` was ever an owner, whatever became of it.
    pub(crate) fn was_owner(&self, peer: &PeerId) -> bool {
        self.depths.contains_key(peer)
    }

    /// True if a claim of `peer` with this counter proves its epoch without an owner showing it. Any claim of an owner does;
    /// of a former owner, or of one that such an owner approved, those known when that authority ended.
    pub(crate) fn may_prove(&self, peer: &PeerId, counter: u64) -> bool {
        let known = self.membership.known_epochs.get(peer).filter(|_| self.enforces(ProtocolRule::FenceOfFormerOwner));
        self.was_owner(peer) && known.is_none_or(|known| counter <= known.counter)
    }

    /// The peer with whose authority that of `peer` ended: its own, or its approver's.
    pub(crate) fn ended_with(&self, peer: &PeerId) -> PeerId {
        self.membership.known_epochs.get(peer).map_or(*peer, |known| known.ended)
    }

    /// Hash over the membership changes that count, in the order of their hashes.
    pub(crate) const fn fingerprint(&self) -> Hash {
        self.fingerprint
    }

    // --- The set ------------------------------------------------------------------------------------------------------

    /// Adds a membership change to the set; [`Self::judge`] decides. False if it is not kept. A change without a path to the
    /// genesis is kept only if its author may yet become an owner.
    pub(crate) fn take(&mut self, entry: SignedEntry) -> bool {
        if self.records.contains_key(&entry.hash) {
            return false;
        }
        let Some(record) = self.read(entry) else { return false };
        let (subject, room) = (record.subject, shares::room_of(record.entry.len()));
        let roots = self.roots(&record);
        let is_new = self.member(&subject).is_none() && !self.unjudged.subjects.contains(&subject);
        let belong = self.membership.members.len() + self.unjudged.newcomers;
        if (!roots && !self.may_count(&record.entry.author))
            || self.unjudged.bytes.saturating_add(room) > limits::CHANGES_UNJUDGED_BYTES_MAX
            || (roots && is_new && record.tier().is_some() && belong >= limits::PEERS_MAX)
        {
            return false;
        }
        if roots && record.tier().is_some() {
            self.unjudged.subjects.insert(subject);
            self.unjudged.newcomers += usize::from(is_new);
        }
        self.unjudged.bytes += room;
        self.unjudged.records.push(record.entry.hash);
        self.insert(record);
        true
    }

    /// True if a change rests on the genesis.
    fn roots(&self, record: &Record) -> bool {
        let by_approval = || self.records.get(&record.change.grant).is_some_and(|grant| record.may_rest_on(grant));
        record.is_of_founder(self.genesis.author, self.genesis.hash)
            || (self.rooted.contains(&record.change.grant) && by_approval())
    }

    /// True if anyone who rests on the genesis ever let this peer in: what it says may come to count.
    fn may_count(&self, peer: &PeerId) -> bool {
        *peer == self.genesis.author || self.approved.contains(peer) || !self.enforces(ProtocolRule::StrangersUnkept)
    }

    /// Number of changes in the set.
    pub(crate) fn held(&self) -> usize {
        self.records.len()
    }

    /// True if the changes of this frame are to be judged before its end, so that an entry by `author` is seen to
    /// count. Not often: else a frame could be made that costs as much as its changes times the set.
    pub(crate) fn judges_early(&mut self, author: &PeerId) -> bool {
        let judges = self.unjudged.subjects.contains(author)
            && self.unjudged.early < JUDGED_EARLY_MAX
            && self.records.len() <= JUDGED_EARLY_OF_MAX;
        self.unjudged.early += u32::from(judges);
        judges
    }

    /// When the changes that were taken are to be judged, on the clock of the steps. The larger the set, the less often:
    /// whoever sends one change after the other does not choose how often all are read.
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        let waits_ms = (self.records.len() as u64).saturating_sub(JUDGED_AT_ONCE) / CHANGES_PER_MS;
        (!self.unjudged.records.is_empty()).then(|| self.judged_ms.saturating_add(waits_ms))
    }

    /// A frame is over that leaves nothing to be judged.
    pub(crate) const fn end_frame(&mut self) {
        self.unjudged.early = 0;
    }

    /// Judges the set, if changes were taken since. `ends`: the frame or command is over.
    pub(crate) fn judge(&mut self, ends: bool, now_ms: u64) -> Option<Judgement> {
        let early = if ends { 0 } else { self.unjudged.early };
        let taken = std::mem::replace(&mut self.unjudged, Unjudged { early, ..Unjudged::default() });
        if taken.records.is_empty() {
            return None;
        }
        self.judged_ms = now_ms;
        let (void, membership) = (std::mem::take(&mut self.void), std::mem::take(&mut self.membership));
        let dropped = self.derive_within_limits();
        let news: BTreeSet<Hash> = taken.records.iter().copied().collect();
        Some(Judgement {
            kept: taken.records.iter().filter_map(|hash| self.record(hash)).cloned().collect(),
            dropped: dropped.difference(&news).copied().collect(),
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
        if self.roots(&record) {
            self.rooted.insert(record.entry.hash);
            if record.tier().is_some() {
                self.approved.insert(record.subject);
            }
            if !record.is_limit() {
                self.depths.entry(record.subject).or_insert(u32::MAX);
            }
        }
        self.authors.entry(record.entry.author).or_default().insert(record.entry.hash);
        self.records.insert(record.entry.hash, record);
    }

    fn remove(&mut self, hash: &Hash) {
        if let Some(record) = self.records.remove(hash)
            && let Some(said) = self.authors.get_mut(&record.entry.author)
        {
            said.remove(hash);
        }
    }

    /// Judges the set, without what there is no room for. Which that is depends on the set alone.
    fn derive_within_limits(&mut self) -> BTreeSet<Hash> {
        let mut dropped = BTreeSet::new();
        for _ in 0..DROPS_MAX {
            let beyond = self.derive();
            if beyond.is_empty() {
                break;
            }
            for hash in &beyond {
                self.remove(hash);
            }
            dropped.extend(beyond);
        }
        dropped
    }

    /// True if a change by this peer of this size, in bytes, would be kept although it said it last.
    pub(crate) fn has_room(&self, author: &PeerId, len: usize) -> bool {
        let Some(member) = self.member(author) else { return false };
        let graph = argumentation::judge(self.genesis.author, self.genesis.hash, &self.records, self.rules);
        let (mut counting, _, _) = self.shares(&graph);
        counting.add_next(*author, member.grant, len);
        !counting.beyond(limits::CHANGES_BYTES_MAX).contains(&Hash::ZERO)
    }

    /// Changes by budget: those that count, with their dependencies, and all others. The third part lists those that are
    /// dropped.
    fn shares(&self, graph: &Graph<'_>) -> (Shares, Shares, Vec<Hash>) {
        let counting = || graph.nodes().filter(|node| node.counts());
        let mut needed: BTreeSet<Hash> = counting().flat_map(|node| node.record.named()).collect();
        // A limit needs that its subject was let in.
        let mut first: BTreeMap<PeerId, (u32, Hash)> = BTreeMap::new();
        for node in graph.nodes().filter(|node| node.admits_somebody()) {
            let this = (node.depth, node.record.entry.hash);
            first.entry(node.record.subject).and_modify(|first| *first = this.min(*first)).or_insert(this);
        }
        let limits = counting().filter(|node| node.record.is_limit());
        needed.extend(limits.filter_map(|node| first.get(&node.record.subject)).map(|(_, hash)| *hash));
        // Which of those that contradict each other is preferred depends on all of them.
        let contradict = |node: &&Node<'_>| node.contradicts() && self.enforces(ProtocolRule::ContradictionsKept);
        needed.extend(graph.nodes().filter(contradict).map(|node| node.record.entry.hash));
        // And what is needed, whatever it rests on.
        let mut chain: Vec<Hash> = needed.iter().copied().collect();
        while let Some(hash) = chain.pop() {
            let grant = self.records.get(&hash).map(|record| record.change.grant);
            chain.extend(grant.filter(|grant| needed.insert(*grant)));
        }
        let empty = || Shares::new(graph, self.genesis.hash, self.genesis.author, self.rules);
        let (mut with, mut strays, mut out) = (empty(), empty(), Vec::new());
        for node in graph.nodes() {
            let hash = node.record.entry.hash;
            let is_needed = node.counts() || (node.is_rooted() && needed.contains(&hash));
            if !(if is_needed { &mut with } else { &mut strays }).add(node) {
                out.push(hash);
            }
        }
        (with, strays, out)
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

    /// Judges the set. The changes that there is no room for, none if it is empty.
    fn derive(&mut self) -> Vec<Hash> {
        let graph = argumentation::judge(self.genesis.author, self.genesis.hash, &self.records, self.rules);
        let hash = |node: &Node<'_>| node.record.entry.hash;
        let rooted = || graph.nodes().filter(|node| node.is_rooted());
        let mut depths = BTreeMap::from([(self.genesis.author, 0)]);
        for node in rooted().filter(|node| !node.record.is_limit()) {
            let depth = depths.entry(node.record.subject).or_insert(u32::MAX);
            *depth = node.depth.saturating_add(1).min(*depth);
        }
        let (counting, strays, mut beyond) = self.shares(&graph);
        beyond.extend(counting.beyond(limits::CHANGES_BYTES_MAX));
        beyond.extend(strays.beyond(limits::STRAY_CHANGES_BYTES_MAX));
        let counted: BTreeSet<Hash> = graph.nodes().filter(|node| node.counts()).map(hash).collect();
        let approved = rooted().filter(|node| node.admits_somebody()).map(|node| node.record.subject).collect();
        let rooted = rooted().map(hash).collect();
        self.membership = derivation::membership(&graph, &self.genesis, self.rules);
        (self.depths, self.counted, self.rooted, self.approved) = (depths, counted, rooted, approved);
        self.fingerprint = Hash::of(&self.counted.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>());
        let void = self.records.values().map(|record| &record.entry).filter(|entry| {
            self.depths.contains_key(&entry.author)
                && !self.admits(&entry.author, entry.entry.incarnation, entry.entry.seq)
        });
        self.void = void.map(|entry| entry.hash).collect();
        beyond
    }

    /// True if a membership change is kept that stands at this place.
    pub(crate) fn holds(&self, place: &Place) -> bool {
        self.records.values().any(|record| record.entry.place() == *place)
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

    /// Names that others than `of` have. What an owner gives (`seen`) is not kept by who took it by itself.
    /// `chosen`: names that members have given themselves.
    pub(crate) fn names_of_others<'a>(
        &'a self,
        of: Option<&PeerId>,
        seen: bool,
        chosen: &'a BTreeMap<PeerId, NodeId>,
    ) -> BTreeSet<&'a NodeId> {
        let members = self.membership.members.iter();
        let others = members.filter(|(peer, member)| Some(*peer) != of && !(seen && member.takes_names_by_itself()));
        others.flat_map(|(peer, member)| [&member.node_id].into_iter().chain(chosen.get(peer))).collect()
    }

    /// Founder of the mesh, member or not.
    pub(crate) fn founder(&self) -> PeerId {
        self.genesis.author
    }

    /// A name nobody has: the wanted one, or `wanted-2`, … See [`Self::names_of_others`].
    pub(crate) fn free_name(
        &self,
        wanted: &NodeId,
        of: &PeerId,
        seen: bool,
        chosen: &BTreeMap<PeerId, NodeId>,
    ) -> NodeId {
        let taken = self.names_of_others(Some(of), seen, chosen);
        derivation::free(wanted, 2, |name| taken.contains(name)).0
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

    /// All that `peer` said about members that counts: that stands when its authority ends.
    pub(crate) fn statements(&self, peer: &PeerId) -> Vec<Hash> {
        let statements = self.counted_of(peer).map(|record| record.entry.hash);
        statements.take(limits::CHANGES_NAMED_MAX).collect()
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
        self.revocations(peer).iter().map(|one| one.stands_until(incarnation)).fold(seq, u64::min)
    }
}

#[cfg(test)]
mod tests;
