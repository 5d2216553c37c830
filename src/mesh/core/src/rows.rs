//! The schema of the store: for each [`Space`] the codec of its keys, and the type of its rows.
//!
//! Nobody else spells a key. [`RowKey`] ties a key to the type of its row, so that writers and readers cannot disagree.
//! Keys sort as their numbers do: all of them are big endian.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::budget::Amount;
use crate::entry::{Kind, Place, SignedEntry, decode, encode};
use crate::epoch::Fence;
use crate::ids::{Attempt, Hash, Incarnation, NodeId, PeerId, PublicKey, ReqId, Series};
use crate::io::{CallRecord, CallState, Space, Write};
use crate::record::{CancelRequest, Ending, StayTerms, Tier};

/// A value as the store holds it.
pub trait Row: Sized {
    /// Its bytes.
    fn to_bytes(&self) -> Bytes;

    /// Reads [`Self::to_bytes`]; `None` when they are damaged.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// Records: a version byte, then CBOR.
impl<T: Serialize + DeserializeOwned> Row for T {
    fn to_bytes(&self) -> Bytes {
        encode(self).into()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        decode(bytes)
    }
}

/// Entries: see [`SignedEntry::to_stored`].
impl Row for SignedEntry {
    fn to_bytes(&self) -> Bytes {
        self.to_stored()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::from_stored(bytes)
    }
}

/// The row of a key that says everything by itself: no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty;

impl Row for Empty {
    fn to_bytes(&self) -> Bytes {
        Bytes::new()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(Self)
    }
}

/// The place of one row, and by its type what stands there.
#[derive(Debug)]
pub struct RowKey<T> {
    /// The space.
    pub space: Space,
    /// The key within the space.
    pub key: Vec<u8>,
    row: PhantomData<fn() -> T>,
}

impl<T> RowKey<T> {
    fn new(space: Space, key: impl Into<Vec<u8>>) -> Self {
        Self { space, key: key.into(), row: PhantomData }
    }

    /// The write that deletes the row.
    #[must_use]
    pub fn delete(self) -> Write {
        Write { space: self.space, key: self.key, value: None }
    }
}

impl<T: Row> RowKey<T> {
    /// The write that puts the row.
    #[must_use]
    pub fn put(self, row: &T) -> Write {
        Write { space: self.space, key: self.key, value: Some(row.to_bytes()) }
    }

    /// Reads what stands there; `None` when it is damaged.
    #[must_use]
    pub fn read(&self, value: &[u8]) -> Option<T> {
        T::from_bytes(value)
    }
}

// --- Meta: single values
// ------------------------------------------------------------------------------------------------

fn meta<T>(name: &[u8]) -> RowKey<T> {
    RowKey::new(Space::Meta, name)
}

/// A row of [`Space::Meta`] for each of many things of one sort.
fn meta_of<T>(sort: &[u8], which: &[u8]) -> RowKey<T> {
    RowKey::new(Space::Meta, [sort, which].concat())
}

/// The highest epoch seen, with its proof.
#[must_use]
pub fn fence() -> RowKey<Fence> {
    meta(b"fence")
}

/// The incarnation of this store.
#[must_use]
pub fn incarnation() -> RowKey<Incarnation> {
    meta(b"incarnation")
}

/// All incarnations of this device's store that it knows of.
#[must_use]
pub fn incarnations() -> RowKey<IncarnationsRow> {
    meta(b"incarnations")
}

/// Milliseconds for which this store has been at work.
#[must_use]
pub fn age() -> RowKey<u64> {
    meta(b"age")
}

/// Starts within the incarnation.
#[must_use]
pub fn boot() -> RowKey<u64> {
    meta(b"boot")
}

/// The counter of the newest request id.
#[must_use]
pub fn counter() -> RowKey<u64> {
    meta(b"counter")
}

/// The counter above which this peer claims epochs.
#[must_use]
pub fn claim_floor() -> RowKey<u64> {
    meta(b"claim_floor")
}

const FORK: &[u8] = b"fork:";
const TRUNCATION: &[u8] = b"truncation:";
const SWEEP: &[u8] = b"sweep:";
const UNSUPPORTED: &[u8] = b"unsupported:";
const VOID: &[u8] = b"void:";
const BUDGET: &[u8] = b"budget:";
const BUDGET_AS_OWNER: &[u8] = b"budget_as_owner:";
const CLOSED: &[u8] = b"closed:";
const LACKING: &[u8] = b"lacking:";
const UNREAD: &[u8] = b"unread:";
const UNHEARD: &[u8] = b"unheard:";
const DIRECTORY_AT: &[u8] = b"directory_at:";
const ONE: &[u8] = b"one:";

/// The first entry that contradicts an author's log.
#[must_use]
pub fn fork(author: &PeerId, incarnation: Incarnation) -> RowKey<ForkRow> {
    meta_of(FORK, &log_key(author, incarnation))
}

/// Reads a key of [`fork`].
#[must_use]
pub fn fork_of(key: &[u8]) -> Option<(PeerId, Incarnation)> {
    log_of(key.strip_prefix(FORK)?)
}

/// The entry by which an author dropped a part of its log.
#[must_use]
pub fn truncation(author: &PeerId, incarnation: Incarnation) -> RowKey<SignedEntry> {
    meta_of(TRUNCATION, &log_key(author, incarnation))
}

/// Reads a key of [`truncation`].
#[must_use]
pub fn truncation_of(key: &[u8]) -> Option<(PeerId, Incarnation)> {
    log_of(key.strip_prefix(TRUNCATION)?)
}

/// Runs of dropped places (first, last) whose rows are still to be deleted.
#[must_use]
pub fn sweep(author: &PeerId, incarnation: Incarnation) -> RowKey<Vec<(u64, u64)>> {
    meta_of(SWEEP, &log_key(author, incarnation))
}

/// Reads a key of [`sweep`].
#[must_use]
pub fn sweep_of(key: &[u8]) -> Option<(PeerId, Incarnation)> {
    log_of(key.strip_prefix(SWEEP)?)
}

/// An entry of a kind that this version does not support.
#[must_use]
pub fn unsupported(place: &Place) -> RowKey<UnsupportedRow> {
    meta_of(UNSUPPORTED, &place_key(&place.author, place.incarnation, place.seq))
}

/// The key of [`unsupported`], read: `None` when it is another's, `Some(None)` when it is damaged.
#[must_use]
pub fn unsupported_of(key: &[u8]) -> Option<Option<Place>> {
    key.strip_prefix(UNSUPPORTED).map(place_of)
}

/// Void places of one log that were dealt with.
#[must_use]
pub fn void(author: &PeerId, incarnation: Incarnation) -> RowKey<VoidRow> {
    meta_of(VOID, &log_key(author, incarnation))
}

/// The key of [`void`], read: `None` when it is another's, `Some(None)` when it is damaged.
#[must_use]
pub fn void_of(key: &[u8]) -> Option<Option<(PeerId, Incarnation)>> {
    key.strip_prefix(VOID).map(log_of)
}

/// Room that an author's logs take here.
#[must_use]
pub fn budget(author: &PeerId) -> RowKey<BudgetRow> {
    meta_of(BUDGET, &author.0)
}

/// Reads a key of [`budget`].
#[must_use]
pub fn budget_of(key: &[u8]) -> Option<PeerId> {
    PeerId::from_slice(key.strip_prefix(BUDGET)?)
}

/// Part of [`budget`] that its author wrote as an owner, at the most.
#[must_use]
pub fn budget_as_owner(author: &PeerId) -> RowKey<BudgetRow> {
    meta_of(BUDGET_AS_OWNER, &author.0)
}

/// Reads a key of [`budget_as_owner`].
#[must_use]
pub fn budget_as_owner_of(key: &[u8]) -> Option<PeerId> {
    PeerId::from_slice(key.strip_prefix(BUDGET_AS_OWNER)?)
}

/// Room that the rows of an origin's calls that are over take here.
#[must_use]
pub fn closed(origin: &PeerId) -> RowKey<Amount> {
    meta_of(CLOSED, &origin.0)
}

/// Reads a key of [`closed`].
#[must_use]
pub fn closed_of(key: &[u8]) -> Option<PeerId> {
    PeerId::from_slice(key.strip_prefix(CLOSED)?)
}

/// An entry whose body is lacking here although this peer may read it.
#[must_use]
pub fn lacking(place: &Place) -> RowKey<LackingRow> {
    meta_of(LACKING, &place_key(&place.author, place.incarnation, place.seq))
}

/// The key of [`lacking`], read: `None` when it is another's, `Some(None)` when it is damaged.
#[must_use]
pub fn lacking_of(key: &[u8]) -> Option<Option<Place>> {
    key.strip_prefix(LACKING).map(place_of)
}

/// The first and the last place of one log that are still to be looked through for bodies that are lacking.
#[must_use]
pub fn unread(author: &PeerId, incarnation: Incarnation) -> RowKey<(u64, u64)> {
    meta_of(UNREAD, &log_key(author, incarnation))
}

/// The key of [`unread`], read: `None` when it is another's, `Some(None)` when it is damaged.
#[must_use]
pub fn unread_of(key: &[u8]) -> Option<Option<(PeerId, Incarnation)>> {
    key.strip_prefix(UNREAD).map(log_of)
}

/// The first and the last place in one log of what it says about rights that was not read, since its author is no owner
/// as far as this peer knows.
#[must_use]
pub fn unheard(author: &PeerId, incarnation: Incarnation) -> RowKey<(u64, u64)> {
    meta_of(UNHEARD, &log_key(author, incarnation))
}

/// The key of [`unheard`], read: `None` when it is another's, `Some(None)` when it is damaged.
#[must_use]
pub fn unheard_of(key: &[u8]) -> Option<Option<(PeerId, Incarnation)>> {
    key.strip_prefix(UNHEARD).map(log_of)
}

/// Clock and place of a directory whose author does not belong now: it is read from the log if that one belongs again.
#[must_use]
pub fn directory_at(author: &PeerId) -> RowKey<(u64, Place)> {
    meta_of(DIRECTORY_AT, &author.0)
}

/// The key of [`directory_at`], read: `None` when it is another's, `Some(None)` when it is damaged.
#[must_use]
pub fn directory_at_of(key: &[u8]) -> Option<Option<PeerId>> {
    key.strip_prefix(DIRECTORY_AT).map(PeerId::from_slice)
}

/// The call that used up the stay of a device that was let in for one.
#[must_use]
pub fn one(origin: &PeerId) -> RowKey<OneRow> {
    meta_of(ONE, &origin.0)
}

/// Reads a key of [`one`].
#[must_use]
pub fn one_of(key: &[u8]) -> Option<PeerId> {
    PeerId::from_slice(key.strip_prefix(ONE)?)
}

/// The row of [`one`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneRow {
    /// End of the stay, by which it is told from another that begins later.
    pub until_ms: u64,
    /// The call.
    pub call: ReqId,
}

/// The row of [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkRow {
    /// Place of the entry.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The row of [`lacking`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LackingRow {
    /// Hash of the entry.
    pub hash: Hash,
    /// Its kind.
    pub kind: Kind,
}

/// The row of [`incarnations`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncarnationsRow {
    /// All of them.
    pub known: BTreeSet<Incarnation>,
}

/// The row of [`unsupported`]: an entry in the log that was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsupportedRow {
    /// Its kind.
    pub kind: Kind,
    /// True if this peer must not lead while it is there.
    pub critical: bool,
    /// Its bytes.
    pub len: u64,
}

/// The row of [`budget`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRow {
    /// Entries besides answers to calls of others.
    pub log: Amount,
    /// Those.
    pub answers: Amount,
}

/// The row of [`void`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoidRow {
    /// First void place.
    pub first: u64,
    /// Last one that was read; below `first` when none was.
    pub last: u64,
}

// --- Log and heads
// --------------------------------------------------------------------------------------------------------

fn log_key(author: &PeerId, incarnation: Incarnation) -> Vec<u8> {
    [author.0.as_slice(), &incarnation.0.to_be_bytes()].concat()
}

fn place_key(author: &PeerId, incarnation: Incarnation, seq: u64) -> Vec<u8> {
    [author.0.as_slice(), &incarnation.0.to_be_bytes(), &seq.to_be_bytes()].concat()
}

/// An entry: author ‖ incarnation ‖ seq.
#[must_use]
pub fn entry(author: &PeerId, incarnation: Incarnation, seq: u64) -> RowKey<SignedEntry> {
    RowKey::new(Space::Log, place_key(author, incarnation, seq))
}

/// Reads a key of [`entry`].
#[must_use]
pub fn place_of(key: &[u8]) -> Option<Place> {
    let (log, seq) = key.split_at_checked(36)?;
    let (author, incarnation) = log_of(log)?;
    Some(Place { author, incarnation, seq: u64::from_be_bytes(seq.try_into().ok()?) })
}

/// The first and the last key that an entry of this author may have.
#[must_use]
pub fn logs_of(author: &PeerId) -> (Vec<u8>, Vec<u8>) {
    (place_key(author, Incarnation(0), 0), place_key(author, Incarnation(u32::MAX), u64::MAX))
}

/// The head of a log as far as it is held: author ‖ incarnation.
#[must_use]
pub fn head(author: &PeerId, incarnation: Incarnation) -> RowKey<Head> {
    RowKey::new(Space::Heads, log_key(author, incarnation))
}

/// Reads a key of [`head`].
#[must_use]
pub fn log_of(key: &[u8]) -> Option<(PeerId, Incarnation)> {
    let (author, incarnation) = key.split_at_checked(32)?;
    Some((PeerId::from_slice(author)?, Incarnation(u32::from_be_bytes(incarnation.try_into().ok()?))))
}

/// The row of [`head`]: how far one author's log is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Place of the newest entry.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its clock.
    pub hlc: u64,
}

// --- Membership
// -----------------------------------------------------------------------------------------------------------

/// An entry that trust is computed from, by its hash.
#[must_use]
pub fn trust(hash: &Hash) -> RowKey<SignedEntry> {
    RowKey::new(Space::Trust, hash.0)
}

/// The newest directory entry of a peer.
#[must_use]
pub fn directory(peer: &PeerId) -> RowKey<SignedEntry> {
    RowKey::new(Space::Directory, peer.0)
}

/// A statement about rights, by its place.
#[must_use]
pub fn statement(place: &Place) -> RowKey<SignedEntry> {
    RowKey::new(Space::Policy, place_key(&place.author, place.incarnation, place.seq))
}

/// An entry of the audit, by wall time and place.
#[must_use]
pub fn audit(at_ms: u64, place: &Place) -> RowKey<SignedEntry> {
    let place = place_key(&place.author, place.incarnation, place.seq);
    RowKey::new(Space::Audit, [at_ms.to_be_bytes().as_slice(), &place].concat())
}

/// Reads a key of [`audit`].
#[must_use]
pub fn audit_of(key: &[u8]) -> Option<(u64, Place)> {
    let (at_ms, place) = key.split_at_checked(8)?;
    Some((u64::from_be_bytes(at_ms.try_into().ok()?), place_of(place)?))
}

/// An invite, by the hash of its secret.
#[must_use]
pub fn invite(secret: &Hash) -> RowKey<InviteRow> {
    RowKey::new(Space::Invites, secret.0)
}

/// The row of [`invite`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRow {
    /// Tier that it grants.
    pub tier: Tier,
    /// Wall time at which it was made.
    pub created_ms: u64,
    /// Wall time at which it expires.
    pub expires_ms: u64,
    /// The peer that it approved.
    pub used_by: Option<PublicKey>,
    /// True if it was taken back before anybody used it.
    pub void: bool,
    /// Name that it gives to whoever comes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeId>,
    /// Of one that grants the ephemeral tier, how long and what for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stay: Option<StayTerms>,
}

// --- Calls
// ----------------------------------------------------------------------------------------------------------------

/// A call without a confirmed ending, by its id.
#[must_use]
pub fn open_call<'a>(id: &ReqId) -> RowKey<OpenRow<'a>> {
    RowKey::new(Space::Open, id.0)
}

/// An outcome that came before its call's header: id ‖ hash of the entry.
#[must_use]
pub fn early_outcome(id: &ReqId, hash: &Hash) -> RowKey<SignedEntry> {
    RowKey::new(Space::Open, [id.0.as_slice(), &hash.0].concat())
}

/// A request to cancel that came before its call's header: id ‖ zeroes.
#[must_use]
pub fn early_cancel(id: &ReqId) -> RowKey<CancelRequest> {
    RowKey::new(Space::Open, [id.0.as_slice(), &Hash::ZERO.0].concat())
}

const CONSENT: &[u8] = b"consent";

/// Answer of a person to a call that asks; of the entry with this hash.
#[must_use]
pub fn consent(hash: &Hash) -> RowKey<ConsentRow> {
    RowKey::new(Space::Open, [&[0; 16], CONSENT, &hash.0].concat())
}

/// The row of [`consent`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConsentRow {
    /// Its entry, as stored.
    pub entry: Bytes,
    /// Milliseconds for which it is kept, at `saved_ms`.
    pub left_ms: u64,
    /// Wall time of this row.
    pub saved_ms: u64,
}

/// The meaning of a key of [`Space::Open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenKey {
    /// See [`open_call`].
    Call(ReqId),
    /// See [`early_outcome`].
    EarlyOutcome(ReqId),
    /// See [`early_cancel`].
    EarlyCancel(ReqId),
    /// See [`consent`].
    Consent(Hash),
}

impl OpenKey {
    /// Reads a key; `None` when it is damaged.
    #[must_use]
    pub fn of(key: &[u8]) -> Option<Self> {
        let (id, hash) = key.split_at_checked(16)?;
        let id = ReqId::from_slice(id)?;
        if hash.is_empty() {
            return Some(Self::Call(id));
        }
        if let Some((CONSENT, hash)) = hash.split_last_chunk::<32>().map(|(tag, hash)| (tag, Hash(*hash))) {
            return Some(Self::Consent(hash));
        }
        let hash = Hash::from_slice(hash)?;
        Some(if hash == Hash::ZERO { Self::EarlyCancel(id) } else { Self::EarlyOutcome(id) })
    }
}

/// The row of [`open_call`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenRow<'a> {
    /// The call.
    pub record: Cow<'a, CallRecord>,
    /// The entry of its header, as stored.
    pub entry: Bytes,
    /// Milliseconds that it had left at `saved_ms`.
    pub left_ms: u64,
    /// Wall time of this row.
    pub saved_ms: u64,
    /// The request to cancel it.
    pub cancel: Option<Cow<'a, CancelRequest>>,
    /// The source of its ending.
    #[serde(default)]
    pub basis: Basis,
}

/// The ground of a call's ending. The greater takes the place of the lesser, so that all books come to say the same
/// in whatever order they receive it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Basis {
    /// It is open.
    #[default]
    Nothing,
    /// The inference of an owner that received nothing from the target: of several the first, by their clocks.
    Inferred(Reverse<(u64, Hash)>),
    /// The same of its origin.
    Origin(Reverse<(u64, Hash)>),
    /// Relayed from the target, of the last attempt that anyone received.
    Relayed(Attempt),
    /// The target itself.
    Target,
}

/// A call with a confirmed ending, or whose time in the books is over.
#[must_use]
pub fn call(id: &ReqId) -> RowKey<CallRecord> {
    RowKey::new(Space::Calls, id.0)
}

/// As much of a [`CallRecord`] as a reader of many needs: reading all of each costs several times as much.
#[derive(Debug, Clone, Deserialize)]
pub struct CallOutline {
    /// The header.
    pub header: HeaderOutline,
    /// Where the call is.
    pub state: CallState,
    /// True if the target itself wrote the ending.
    pub confirmed: bool,
    /// Newest attempt that anything is known of.
    pub attempt: Attempt,
    /// The call that this one repeats.
    pub alias_of: Option<ReqId>,
}

/// As much of a call's [`crate::record::Header`].
#[derive(Debug, Clone, Deserialize)]
pub struct HeaderOutline {
    /// The one peer that may run it.
    pub target: PeerId,
    /// The incarnation of the target's store that the origin knew.
    #[serde(default)]
    pub target_incarnation: Option<Incarnation>,
}

impl CallOutline {
    /// Reads a row of [`call`].
    #[must_use]
    pub fn of_call(value: &[u8]) -> Option<Self> {
        decode(value)
    }

    /// Reads a row of [`open_call`].
    #[must_use]
    pub fn of_open(value: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Open {
            record: CallOutline,
        }
        decode::<Open>(value).map(|row| row.record)
    }
}

/// The order in which people list calls: wall time of acceptance ‖ id.
#[must_use]
pub fn call_by_time(accepted_ms: u64, id: &ReqId) -> RowKey<Empty> {
    RowKey::new(Space::CallsByTime, [accepted_ms.to_be_bytes().as_slice(), &id.0].concat())
}

/// Reads a key of [`call_by_time`].
#[must_use]
pub fn by_time_of(key: &[u8]) -> Option<(u64, ReqId)> {
    let (accepted_ms, id) = key.split_at_checked(8)?;
    Some((u64::from_be_bytes(accepted_ms.try_into().ok()?), ReqId::from_slice(id)?))
}

/// A peer that may have a blob although it is no owner, since a call names both.
#[must_use]
pub fn blob_reader(blob: &Hash, peer: &PeerId) -> RowKey<Empty> {
    RowKey::new(Space::BlobReaders, [blob.0, peer.0].concat())
}

/// A client key, by the hash of it and its principal.
#[must_use]
pub fn client_key(hash: &Hash) -> RowKey<KeyRow> {
    RowKey::new(Space::Keys, hash.0)
}

/// The row of [`client_key`]: which of our calls it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The call.
    pub id: ReqId,
    /// Hash of target, tool and arguments: what must be the same for the key to mean the same call.
    pub fingerprint: Hash,
    /// Where it runs: `any` means the same node again.
    pub target: PeerId,
    /// Age of our store after which the key may be forgotten.
    pub until_ms: u64,
}

// --- The target's journal
// -------------------------------------------------------------------------------------------------

/// An attempt of a call at its target: id ‖ attempt.
#[must_use]
pub fn journal(id: &ReqId, attempt: Attempt) -> RowKey<JournalRow> {
    RowKey::new(Space::Journal, [id.0.as_slice(), &[attempt]].concat())
}

/// Reads a key of [`journal`].
#[must_use]
pub fn journal_of(key: &[u8]) -> Option<(ReqId, Attempt)> {
    let (id, attempt) = key.split_at_checked(16)?;
    Some((ReqId::from_slice(id)?, *attempt.first()?))
}

/// The row of [`journal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRow {
    /// The stage that it has reached.
    pub state: Journaled,
    /// Age of our store at which we got the call: forgetting counts from here.
    pub received_ms: u64,
    /// The key binding that this call made, if any.
    pub key: Option<Box<(Hash, Hash)>>,
}

/// State of one attempt in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Journaled {
    /// Started: its tool may have been invoked.
    Started,
    /// Over.
    Ended(Ending),
}

/// The forgotten mark of a series: the counter up to which its calls left the journal.
#[must_use]
pub fn forgotten_mark(series: &Series) -> RowKey<u64> {
    RowKey::new(Space::ForgottenMarks, series.0)
}

/// Reads a key of [`forgotten_mark`].
#[must_use]
pub fn series_of(key: &[u8]) -> Option<Series> {
    Some(Series(key.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_as_what_they_were_made_of_and_sort_like_it() {
        let (author, incarnation) = (PeerId([7; 32]), Incarnation(0x0102_0304));
        let id = ReqId::new(&author, incarnation, 0x0506);
        let place = Place { author, incarnation, seq: 0x0708 };
        assert_eq!(place_of(&entry(&author, incarnation, place.seq).key), Some(place));
        assert_eq!(log_of(&head(&author, incarnation).key), Some((author, incarnation)));
        assert_eq!(sweep_of(&sweep(&author, incarnation).key), Some((author, incarnation)));
        assert_eq!(unsupported_of(&unsupported(&place).key), Some(Some(place)));
        assert_eq!(void_of(&void(&author, incarnation).key), Some(Some((author, incarnation))));
        assert_eq!(audit_of(&audit(9, &place).key), Some((9, place)));
        assert_eq!(by_time_of(&call_by_time(9, &id).key), Some((9, id)));
        assert_eq!(journal_of(&journal(&id, 3).key), Some((id, 3)));
        assert_eq!(series_of(&forgotten_mark(&id.series()).key), Some(id.series()));
        assert_eq!(OpenKey::of(&open_call(&id).key), Some(OpenKey::Call(id)));
        assert_eq!(OpenKey::of(&early_outcome(&id, &Hash::of(b"x")).key), Some(OpenKey::EarlyOutcome(id)));
        assert_eq!(OpenKey::of(&early_cancel(&id).key), Some(OpenKey::EarlyCancel(id)));
        assert_eq!(OpenKey::of(&consent(&Hash::of(b"x")).key), Some(OpenKey::Consent(Hash::of(b"x"))));
        assert!(entry(&author, incarnation, 255).key < entry(&author, incarnation, 256).key);
        assert!(call_by_time(255, &id).key < call_by_time(256, &id).key);
    }
}
