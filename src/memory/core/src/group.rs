//! Signed groups of items, one chain per author and incarnation of its store.
//!
//! One signature stands for up to [`limits::GROUP_ITEMS_MAX`] items: it covers their hashes, not their bytes, so an item
//! can be erased, or be lacking, and the group still checks.

use serde::{Deserialize, Serialize};

use mesh_core::crypto::{Signer, Verifier};
use mesh_core::ids::{Hash, PublicKey, Signature};

use crate::codec;
use crate::ids::{AuthorId, Incarnation, WorkspaceId};
use crate::item::{Item, Kind};
use crate::limits;

const CONTEXT: &[u8] = b"sigil memory group 1\0";

/// Hybrid clock: 48 bits of milliseconds since 1970, 16 bits of counter. It rises along every chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first value of a millisecond.
    #[must_use]
    pub const fn at(ms: u64) -> Self {
        Self(ms << 16)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// The value for something that happens now: after `self`, and not before `now_ms`.
    #[must_use]
    pub fn next(self, now_ms: u64) -> Self {
        Self::at(now_ms).max(Self(self.0.saturating_add(1)))
    }

    /// Our clock after another's value was seen. That one pushes ours at most [`limits::CLOCK_AHEAD_MS_MAX`] beyond
    /// `now_ms`, so a device whose clock is wrong does not take ours along.
    #[must_use]
    pub fn seen(self, other: Self, now_ms: u64) -> Self {
        self.max(other.min(Self::at(now_ms.saturating_add(limits::CLOCK_AHEAD_MS_MAX))))
    }
}

/// When and by whom an item was said: of two that cannot both count, the lower does. Total over all items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Clock of its group.
    pub hlc: Hlc,
    /// Who said it.
    pub author: AuthorId,
    /// In which incarnation of the store.
    pub incarnation: Incarnation,
    /// Place in its group.
    pub index: u16,
}

/// One chain: an author and an incarnation of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChainId {
    /// The author.
    pub author: AuthorId,
    /// The incarnation.
    pub incarnation: Incarnation,
}

/// Bytes that the author of a group signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The workspace; a group counts in no other.
    pub workspace: WorkspaceId,
    /// The author's key.
    pub author: PublicKey,
    /// Incarnation of its store.
    pub incarnation: Incarnation,
    /// Number in its chain, from 1 on.
    pub seq: u64,
    /// Later than that of the group before.
    pub hlc: Hlc,
    /// Hash of the group before; zeroes for the first.
    pub previous: Hash,
    /// Hashes of its items, 1 to [`limits::GROUP_ITEMS_MAX`].
    pub items: Vec<Hash>,
}

impl Header {
    /// Reads what [`SignedGroup::bytes`] gave; `None` when it is malformed or of another version. It is not checked.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        codec::decode(bytes)
    }
}

/// Place of one item in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// Here it is.
    Held(Item),
    /// It was erased on purpose by who says so, who takes it no more.
    Erased,
    /// Who sent it lacks it; another may have it.
    Missing,
}

/// A header with its signature and what is held of its items. Made by [`SignedGroup::sign`] or checked by
/// [`SignedGroup::verify`]: there is no other way to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedGroup {
    header: Header,
    bytes: Vec<u8>,
    signature: Signature,
    slots: Vec<Slot>,
}

/// Why a group is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Its header is of another version or malformed.
    #[error("a group's header is malformed or of another version")]
    Malformed,
    /// It has no item, too many, or too many bytes.
    #[error("a group is empty or over its limits")]
    Limits,
    /// It belongs elsewhere.
    #[error("a group is of another workspace")]
    Workspace,
    /// An item is not the one that was signed, or their number differs.
    #[error("an item of a group is not the one that was signed")]
    Item,
    /// The signature is not its author's.
    #[error("a group is not signed by its author")]
    Signature,
}

impl SignedGroup {
    /// Makes and signs the next group of a chain. `hlc` comes from [`Hlc::next`] of the chain's clock.
    ///
    /// # Errors
    /// When there is no item, or more than one group may have.
    pub fn sign(
        signer: &dyn Signer,
        workspace: WorkspaceId,
        incarnation: Incarnation,
        head: &Head,
        hlc: Hlc,
        items: Vec<Item>,
    ) -> Result<Self, GroupError> {
        let header = Header {
            workspace,
            author: signer.public_key(),
            incarnation,
            seq: head.seq + 1,
            hlc,
            previous: head.hash,
            items: items.iter().map(Item::hash).collect(),
        };
        let slots: Vec<_> = items.into_iter().map(Slot::Held).collect();
        check_limits(&header, &slots)?;
        let bytes = codec::encode(&header);
        let signature = signer.sign(&[CONTEXT, &bytes].concat());
        Ok(Self { header, bytes, signature, slots })
    }

    /// Checks what a peer sent.
    ///
    /// # Errors
    /// When it is over its limits, of another workspace, with other items than were signed, or not signed by its author.
    pub fn verify(
        bytes: Vec<u8>,
        signature: Signature,
        slots: Vec<Slot>,
        workspace: &WorkspaceId,
        verifier: &dyn Verifier,
    ) -> Result<Self, GroupError> {
        let header: Header = codec::decode(&bytes).ok_or(GroupError::Malformed)?;
        if header.workspace != *workspace {
            return Err(GroupError::Workspace);
        }
        check_limits(&header, &slots)?;
        let as_signed = |(slot, hash): (&Slot, &Hash)| match slot {
            Slot::Held(item) => item.hash() == *hash,
            Slot::Erased | Slot::Missing => true,
        };
        if !slots.iter().zip(&header.items).all(as_signed) {
            return Err(GroupError::Item);
        }
        if !verifier.verify(&header.author, &[CONTEXT, &bytes].concat(), &signature) {
            return Err(GroupError::Signature);
        }
        Ok(Self { header, bytes, signature, slots })
    }

    /// All that was signed.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The header as it was signed, for the store and the wire.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its author's signature over [`SignedGroup::bytes`].
    #[must_use]
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// All that is held of its items, in order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Its hash, which the next group names.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.bytes)
    }

    /// Its chain.
    #[must_use]
    pub fn chain(&self) -> ChainId {
        ChainId { author: AuthorId::of(&self.header.author), incarnation: self.header.incarnation }
    }

    /// The head of its chain once it is appended.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { seq: self.header.seq, hash: self.hash(), hlc: self.header.hlc }
    }

    /// The items that it carries, each with its stamp.
    pub fn items(&self) -> impl Iterator<Item = (Stamp, &Item)> {
        let ChainId { author, incarnation } = self.chain();
        (0..).zip(&self.slots).filter_map(move |(index, slot)| match slot {
            Slot::Held(item) => Some((Stamp { hlc: self.header.hlc, author, incarnation, index }, item)),
            Slot::Erased | Slot::Missing => None,
        })
    }

    /// Erases the item at a place, with its salt; header and signature stay.
    pub fn erase(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Slot::Erased;
        }
    }

    /// The same group as it is taken of another: what that one calls erased is missing here, since nobody but its eraser knows
    /// why (see [`crate::holes`]).
    #[must_use]
    pub fn doubted(mut self) -> Self {
        for slot in &mut self.slots {
            if *slot == Slot::Erased {
                *slot = Slot::Missing;
            }
        }
        self
    }

    /// Fills a place whose item was missing; `false` when it was not, or the item is another.
    pub fn fill(&mut self, index: usize, item: Item) -> bool {
        let fits = self.header.items.get(index) == Some(&item.hash());
        match self.slots.get_mut(index) {
            Some(slot) if fits && *slot == Slot::Missing => {
                *slot = Slot::Held(item);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The same group with only some of its items; the others are marked missing.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&Item) -> bool) -> Self {
        let slots = self.slots.iter().map(|slot| match slot {
            Slot::Held(item) if keep(item) => Slot::Held(item.clone()),
            Slot::Erased => Slot::Erased,
            Slot::Held(_) | Slot::Missing => Slot::Missing,
        });
        Self { slots: slots.collect(), ..self.clone() }
    }

    /// Bytes of the items that it carries.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + body_bytes(&self.slots)
    }
}

fn body_bytes(slots: &[Slot]) -> usize {
    slots
        .iter()
        .map(|slot| match slot {
            Slot::Held(item) => item.size(),
            Slot::Erased | Slot::Missing => 0,
        })
        .sum()
}

fn check_limits(header: &Header, slots: &[Slot]) -> Result<(), GroupError> {
    if header.items.len() != slots.len() {
        return Err(GroupError::Item);
    }
    let forgets = slots.iter().any(|slot| matches!(slot, Slot::Held(item) if item.kind == Kind::TOMBSTONE));
    let most = if forgets { limits::TOMBSTONE_GROUP_ITEMS_MAX } else { limits::GROUP_ITEMS_MAX };
    let fits = (1..=most).contains(&slots.len()) && body_bytes(slots) <= limits::GROUP_BYTES_MAX;
    if fits { Ok(()) } else { Err(GroupError::Limits) }
}

/// Extent to which a chain is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of its last group; 0 when none is held.
    pub seq: u64,
    /// Hash of that; zeroes when none is held.
    pub hash: Hash,
    /// Its clock.
    pub hlc: Hlc,
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, hash: Hash::ZERO, hlc: Hlc::default() }
    }
}

/// Why a group does not go onto a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// It is held already.
    #[error("the group is held already")]
    Known,
    /// Groups before it are lacking: ask for them.
    #[error("the group does not follow the last that is held")]
    Gap,
    /// Another group with this number is held, or it names another before it: its author has appended to a copy of its
    /// store. The first stays; the author takes a new incarnation and appends again.
    #[error("the author has appended to a copy of its store: this group and the one that is held exclude each other")]
    Fork,
    /// Its clock does not rise.
    #[error("the group's clock is not later than that of the one before")]
    Clock,
}

impl Head {
    /// True if `group` is the next of this chain.
    ///
    /// # Errors
    /// See [`ChainError`]. A fork further back than the head shows only where that group is held; see
    /// [`Head::is_fork_of`].
    pub fn accepts(&self, group: &SignedGroup) -> Result<(), ChainError> {
        let Header { seq, previous, hlc, .. } = &group.header;
        if *seq < self.seq || (*seq == self.seq && *seq > 0 && group.hash() == self.hash) {
            return Err(ChainError::Known);
        }
        if *seq > self.seq.saturating_add(1) {
            return Err(ChainError::Gap);
        }
        if *seq == self.seq || *previous != self.hash {
            return Err(ChainError::Fork);
        }
        if *hlc > self.hlc { Ok(()) } else { Err(ChainError::Clock) }
    }

    /// True if `other` is a head of the same chain after another group with the same number.
    #[must_use]
    pub fn is_fork_of(&self, other: &Self) -> bool {
        self.seq == other.seq && self.hash != other.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MessageKey;
    use crate::item::{Body, Salt};
    use mesh_core::crypto::Symbolic;

    const WS: WorkspaceId = WorkspaceId([7; 16]);

    fn item(n: u8) -> Item {
        Item::new(Salt([n; 16]), &Body::Tombstone(MessageKey([n; 16])))
    }

    fn group(head: &Head, items: Vec<Item>) -> SignedGroup {
        SignedGroup::sign(&Symbolic::new(1), WS, Incarnation(1), head, head.hlc.next(5), items).unwrap()
    }

    fn sent(group: &SignedGroup) -> Result<SignedGroup, GroupError> {
        let SignedGroup { bytes, signature, slots, .. } = group.clone();
        SignedGroup::verify(bytes, signature, slots, &WS, &Symbolic::new(1))
    }

    #[test]
    fn an_erased_item_leaves_a_group_that_checks() {
        let mut group = group(&Head::default(), vec![item(1), item(2)]);
        let whole = group.clone();
        group.erase(0);
        assert_eq!(sent(&group).unwrap().hash(), whole.hash());
        assert_eq!(group.items().count(), 1);
        assert!(!group.fill(0, item(1)), "erased is not missing");
        let mut partial = whole.only(|it| *it == item(2));
        assert!(!partial.fill(0, item(2)) && partial.fill(0, item(1)));
        assert_eq!(partial, whole);
    }

    #[test]
    fn what_was_not_signed_is_refused() {
        let group = group(&Head::default(), vec![item(1), item(2)]);
        let mut swapped = group.clone();
        swapped.slots.swap(0, 1);
        assert_eq!(sent(&swapped), Err(GroupError::Item));
        let mut short = group.clone();
        short.slots.pop();
        assert_eq!(sent(&short), Err(GroupError::Item));
        let mut other = group.clone();
        other.signature = Signature([0; 64]);
        assert_eq!(sent(&other), Err(GroupError::Signature));
        let SignedGroup { bytes, signature, slots, .. } = group;
        let elsewhere = SignedGroup::verify(bytes, signature, slots, &WorkspaceId([8; 16]), &Symbolic::new(1));
        assert_eq!(elsewhere, Err(GroupError::Workspace));
    }

    #[test]
    fn limits_of_a_group() {
        let sign = |items| {
            SignedGroup::sign(&Symbolic::new(1), WS, Incarnation(1), &Head::default(), Hlc(1), items).map(|_| ())
        };
        let plain = || Item::new(Salt([1; 16]), &Body::Unknown(Kind(200)));
        assert_eq!(sign(Vec::new()), Err(GroupError::Limits));
        assert_eq!(sign(vec![plain(); limits::GROUP_ITEMS_MAX]), Ok(()));
        assert_eq!(sign(vec![plain(); limits::GROUP_ITEMS_MAX + 1]), Err(GroupError::Limits));
        // Each of its tombstones is kept with its header.
        assert_eq!(sign(vec![item(1); limits::TOMBSTONE_GROUP_ITEMS_MAX]), Ok(()));
        assert_eq!(sign(vec![item(1); limits::TOMBSTONE_GROUP_ITEMS_MAX + 1]), Err(GroupError::Limits));
    }

    #[test]
    fn a_chain_takes_its_next_group_only() {
        let start = Head::default();
        let first = group(&start, vec![item(1)]);
        let second = group(&first.head(), vec![item(2)]);
        assert_eq!(start.accepts(&first), Ok(()));
        assert_eq!(start.accepts(&second), Err(ChainError::Gap));
        assert_eq!(first.head().accepts(&first), Err(ChainError::Known));
        assert_eq!(first.head().accepts(&second), Ok(()));
        let fork = group(&start, vec![item(3)]);
        assert_eq!(first.head().accepts(&fork), Err(ChainError::Fork));
        assert_eq!(fork.head().accepts(&second), Err(ChainError::Fork));
        assert!(first.head().is_fork_of(&fork.head()));
        let back =
            SignedGroup::sign(&Symbolic::new(1), WS, Incarnation(1), &first.head(), Hlc(0), vec![item(4)]).unwrap();
        assert_eq!(first.head().accepts(&back), Err(ChainError::Clock));
    }

    #[test]
    fn a_wrong_clock_pushes_ours_by_a_minute_at_most() {
        let ours = Hlc::at(1_000);
        assert_eq!(ours.next(500), Hlc(ours.0 + 1));
        assert_eq!(ours.next(2_000), Hlc::at(2_000));
        assert_eq!(ours.seen(Hlc::at(9_000_000), 1_000), Hlc::at(61_000));
        assert_eq!(ours.seen(Hlc::at(10), 1_000), ours);
    }
}
