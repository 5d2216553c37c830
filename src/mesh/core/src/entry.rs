//! Entries of the replicated log: what is signed, relayed as opaque bytes, and merged (mesh-protocol.md §5).
//!
//! An entry is encoded once, by its author, as CBOR after a version byte. Everyone else keeps and relays those bytes.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::crypto::{Signer, Verifier};
use crate::epoch::Epoch;
use crate::ids::{Attempt, Hash, Incarnation, MeshId, NodeId, PeerId, PublicKey, ReqId, Signature, ToolName};
use crate::limits;

/// First byte of every encoded entry and stored record. Another major version is refused, never misread.
pub const VERSION: u8 = 2;

const ENTRY_CONTEXT: &[u8] = b"sigil entry 2\0";

/// Why bytes are not an entry that we may take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Over [`limits::ENTRY_BYTES_MAX`].
    #[error("an entry of {0} bytes is over the limit")]
    TooLarge(usize),
    /// First byte.
    #[error("entry version {0} is not known here")]
    Version(u8),
    /// Not CBOR, or not of the shape of an entry.
    #[error("an entry does not decode")]
    Malformed,
    /// The author did not sign this.
    #[error("an entry carries a signature that is not its author's")]
    Signature,
}

/// Encodes a record: version byte, then CBOR.
///
/// # Panics
/// Never for our own record types: they hold nothing that CBOR cannot say.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Most records fit: growing from nothing cost more than writing.
    let mut bytes = Vec::with_capacity(512);
    bytes.push(VERSION);
    cbor4ii::serde::to_vec(bytes, record).expect("our records are plain data")
}

/// Decodes a record; `None` when it is of another version or malformed.
#[must_use]
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let (version, body) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    cbor4ii::serde::from_slice(body).ok()
}

/// What an entry says. Numbers are for ever; an unknown one is checked, stored and relayed, but not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kind(pub u16);

impl Kind {
    /// [`Genesis`].
    pub const GENESIS: Self = Self(1);
    /// [`MembershipChange`] on a peer: approval or revocation.
    pub const MEMBERSHIP: Self = Self(2);
    /// [`Directory`] record of its author.
    pub const DIRECTORY: Self = Self(4);
    /// [`Header`] of a call.
    pub const CALL: Self = Self(5);
    /// [`Outcome`] of a call's attempt.
    pub const OUTCOME: Self = Self(6);
    /// [`CancelRequest`].
    pub const CANCEL: Self = Self(7);
    /// Empty: its author's log has come this far. Written when a call has started of which nothing else there tells.
    pub const CHECKPOINT: Self = Self(8);
    /// [`Truncation`] for entries of its author.
    pub const TRUNCATION: Self = Self(9);
    /// The highest that this version knows.
    pub const NEWEST: Self = Self::TRUNCATION;

    /// Whether this version knows what it means.
    #[must_use]
    pub fn is_known(self) -> bool {
        [
            Self::GENESIS,
            Self::MEMBERSHIP,
            Self::DIRECTORY,
            Self::CALL,
            Self::OUTCOME,
            Self::CANCEL,
            Self::CHECKPOINT,
            Self::TRUNCATION,
        ]
        .contains(&self)
    }
}

/// One signed statement of one author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The mesh it is about; all zeroes in the genesis, whose hash *is* the mesh id.
    pub mesh: MeshId,
    /// Who says so.
    pub author: PublicKey,
    /// Incarnation of the author's database.
    pub incarnation: Incarnation,
    /// Position in the author's log of this incarnation, from 1, without gaps.
    pub seq: u64,
    /// Hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
    pub hlc: u64,
    /// What `body` is.
    pub kind: Kind,
    /// A peer that does not know `kind` must not lead, nor start calls, while this is set.
    pub critical: bool,
    /// 1 + the highest generation that the author had seen for what this is about: causally later wins.
    pub generation: u32,
    /// Hash of the author's previous entry, or [`Hash::ZERO`].
    pub previous: Hash,
    /// The record, encoded.
    pub body: Bytes,
}

/// An entry with its exact signed bytes. A value of this type has been checked (or comes from our own store); its clones
/// share it.
#[derive(Clone)]
pub struct SignedEntry(Arc<Signed>);

/// What a [`SignedEntry`] holds.
pub struct Signed {
    /// The decoded content.
    pub entry: Entry,
    /// What was signed, as the author encoded it.
    pub bytes: Bytes,
    /// The author's signature.
    pub signature: Signature,
    /// Hash of `bytes`.
    pub hash: Hash,
    /// Identity of `entry.author`.
    pub author: PeerId,
    /// The body of a call, once somebody has asked for it.
    header: OnceLock<Option<Arc<Header>>>,
}

impl Deref for SignedEntry {
    type Target = Signed;

    fn deref(&self) -> &Signed {
        &self.0
    }
}

impl PartialEq for SignedEntry {
    fn eq(&self, other: &Self) -> bool {
        (&self.bytes, &self.signature) == (&other.bytes, &other.signature)
    }
}

impl Eq for SignedEntry {}

impl fmt::Debug for SignedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Signed { entry, bytes, signature, hash, author, header: _ } = &*self.0;
        f.debug_struct("SignedEntry")
            .field("entry", entry)
            .field("bytes", bytes)
            .field("signature", signature)
            .field("hash", hash)
            .field("author", author)
            .finish()
    }
}

impl SignedEntry {
    /// `bytes` are those of `entry`.
    pub(crate) fn new(entry: Entry, bytes: Bytes, signature: Signature) -> Self {
        let (hash, author) = (Hash::of(&bytes), entry.author.peer_id());
        Self(Arc::new(Signed { entry, bytes, signature, hash, author, header: OnceLock::new() }))
    }

    /// Encodes and signs.
    pub fn sign(signer: &dyn Signer, entry: Entry) -> Self {
        let bytes = Bytes::from(encode(&entry));
        let signature = signer.sign(&[ENTRY_CONTEXT, &bytes].concat());
        Self::new(entry, bytes, signature)
    }

    /// Decodes and checks what a peer sent.
    pub fn verify(bytes: Bytes, signature: Signature, verifier: &dyn Verifier) -> Result<Self, EntryError> {
        let entry = Self::trusted(bytes, signature)?;
        let message = [ENTRY_CONTEXT, &entry.bytes].concat();
        if verifier.verify(&entry.entry.author, &message, &signature) { Ok(entry) } else { Err(EntryError::Signature) }
    }

    /// Decodes what our own store gave back: it was checked before it was stored.
    pub fn trusted(bytes: Bytes, signature: Signature) -> Result<Self, EntryError> {
        if bytes.len() > limits::ENTRY_BYTES_MAX {
            return Err(EntryError::TooLarge(bytes.len()));
        }
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(EntryError::Version(version)),
            None => return Err(EntryError::Malformed),
        }
        let entry: Entry = decode(&bytes).ok_or(EntryError::Malformed)?;
        Ok(Self::new(entry, bytes, signature))
    }

    /// Decodes the body as a record.
    #[must_use]
    pub fn record<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        decode(&self.entry.body)
    }

    /// The body of a call, decoded once for all who share the entry; `None` when it is something else.
    #[must_use]
    pub fn header(&self) -> Option<Arc<Header>> {
        let decoded = || (self.entry.kind == Kind::CALL).then(|| self.record().map(Arc::new)).flatten();
        self.0.header.get_or_init(decoded).clone()
    }

    /// Where the entry stands.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { author: self.author, incarnation: self.entry.incarnation, seq: self.entry.seq }
    }

    /// Bytes for the store: signature, then the signed bytes.
    #[must_use]
    pub fn to_stored(&self) -> Vec<u8> {
        [self.signature.0.as_slice(), &self.bytes].concat()
    }

    /// Reads [`Self::to_stored`].
    #[must_use]
    pub fn from_stored(stored: &[u8]) -> Option<Self> {
        let (signature, bytes) = stored.split_at_checked(64)?;
        Self::trusted(Bytes::copy_from_slice(bytes), Signature::from_slice(signature)?).ok()
    }
}

/// Where an entry stands in the replicated logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Whose log.
    pub author: PeerId,
    /// Incarnation of that author's database.
    pub incarnation: Incarnation,
    /// Position, from 1.
    pub seq: u64,
}

/// First entry of a mesh, signed by its founder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// For people.
    pub name: String,
    /// Random, so that two meshes of one founder differ.
    pub nonce: u64,
    /// The founder's handle.
    pub node_id: NodeId,
}

/// How far a peer is trusted (architecture.md §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Named tools only, expires by itself.
    Ephemeral,
    /// Tools within workspaces.
    Shared,
    /// Everything; may lead and approve.
    Owner,
}

/// Body of [`Kind::MEMBERSHIP`]: what an owner says about a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChange {
    /// The peer's key.
    pub subject: PublicKey,
    /// What is said.
    pub what: ChangeKind,
}

/// See [`MembershipChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// The peer belongs to the mesh.
    Approved {
        /// How far it is trusted.
        tier: Tier,
        /// The name it asked for; see `Trust` for what it gets when that is taken.
        node_id: NodeId,
        /// Hashes of the revocations that this takes back, all that its signer held: one that it does not name beats it.
        after: Vec<Hash>,
    },
    /// The peer does not belong to the mesh any more.
    Revoked {
        /// The last entry of each incarnation of the revoked peer that the signer held. What the peer wrote later, or in an incarnation
        /// that is not named, is void.
        cutoffs: Vec<(Incarnation, u64)>,
        /// Whether the peer asked for it (`sigil leave`).
        left: bool,
    },
}

/// What a tool's repeated run means (architecture.md §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Changes nothing.
    None,
    /// Twice is as good as once.
    Idempotent,
    /// Never more than one attempt.
    Once,
}

/// A tool as its node declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDecl {
    /// Name on its node.
    pub name: ToolName,
    /// What running it again means.
    pub effect: Effect,
    /// For people; at most 200 characters.
    pub description: String,
    /// Whether only owner-tier principals may call it.
    pub owner_only: bool,
}

/// Body of [`Kind::DIRECTORY`]: what a peer says about itself. Single writer, the highest seq counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// `ip:port` of its QUIC doors, best first.
    pub addresses: Vec<String>,
    /// "linux", "darwin", "ios", …
    pub platform: String,
    /// Version of the program.
    pub version: String,
    /// Class for election, see [`crate::config::Class`].
    pub class: u8,
    /// Whether it may lead at all.
    pub eligible: bool,
    /// What it offers.
    pub tools: Vec<ToolDecl>,
    /// Services that it serves over a link, by number; see `docs/protocol.md`, Frames. Nobody opens a stream of another.
    pub services: Vec<u16>,
}

/// Bytes named by their hash: inline when small, else fetched from whoever has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// At most [`limits::INLINE_BYTES_MAX`].
    Inline(Bytes),
    /// In the blob store of its maker, and of those who fetched it.
    Blob {
        /// SHA-256 of the bytes.
        hash: Hash,
        /// How many bytes.
        len: u64,
    },
}

impl Payload {
    /// Nothing at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self::Inline(Bytes::new())
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SHA-256 of the bytes.
    #[must_use]
    pub fn hash(&self) -> Hash {
        match self {
            Self::Inline(bytes) => Hash::of(bytes),
            Self::Blob { hash, .. } => *hash,
        }
    }
}

/// Body of [`Kind::CALL`]: the immutable header of a call, signed by its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Identity.
    pub id: ReqId,
    /// The one peer that may run it.
    pub target: PeerId,
    /// The incarnation of the target's database that the origin knew. A target that was restored from an old state since cannot
    /// know what it did for this call: it does not run it, and says nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_incarnation: Option<Incarnation>,
    /// Its name at acceptance, for people.
    pub node_id: NodeId,
    /// Which tool.
    pub tool: ToolName,
    /// JSON.
    pub arguments: Payload,
    /// The stricter of what the tool declared and the caller asked.
    pub effect: Effect,
    /// Milliseconds from acceptance within which it must start. At most [`limits::TTL_MS_MAX`].
    pub ttl_ms: u64,
    /// Wall time of acceptance, for people only: nothing is decided by it.
    pub accepted_ms: u64,
    /// Milliseconds that the tool may run.
    pub timeout_ms: u64,
    /// Who asks.
    pub principal: String,
    /// The client's own key for this call, if it gave one.
    pub client_key: Option<String>,
    /// Whether a person must say yes first. Reserved for workspaces; always false now.
    pub needs_approval: bool,
}

impl Header {
    /// Whether this call was meant for the incarnation `own` of its target's database.
    #[must_use]
    pub fn is_for(&self, own: Incarnation) -> bool {
        self.target_incarnation.is_none_or(|incarnation| incarnation == own)
    }

    /// Whether everything in it is within its limits: an origin that says more is not one of ours, and what it says is
    /// not acted on.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        (1..=limits::TTL_MS_MAX).contains(&self.ttl_ms)
            && self.timeout_ms <= limits::TTL_MS_MAX
            && self.arguments.len() <= limits::ARGUMENTS_BYTES_MAX as u64
            && self.principal.len() <= limits::CLIENT_KEY_BYTES_MAX
            && self.client_key.as_ref().is_none_or(|key| (1..=limits::CLIENT_KEY_BYTES_MAX).contains(&key.len()))
    }
}

/// How an attempt ended (architecture.md §5's table).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// Ran once, here is the output.
    Done,
    /// Ran once, the tool reported an error or broke a limit.
    Failed,
    /// Started and cut: may or may not have happened.
    Interrupted,
    /// Not run in time.
    Expired,
    /// Not run, or stopped, because someone said so.
    Cancelled,
    /// Policy, approval or a local rule said no.
    Denied,
    /// The target was revoked, wiped or restored from an old state.
    Undeliverable,
}

impl Ending {
    /// The word that the world sees.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Undeliverable => "undeliverable",
        }
    }
}

/// Body of [`Kind::OUTCOME`]. By the target it is confirmed; by anyone else it yields to the target's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which call.
    pub id: ReqId,
    /// Which attempt.
    pub attempt: Attempt,
    /// How it ended.
    pub ending: Ending,
    /// Why, for people.
    pub reason: String,
    /// What the tool said.
    pub output: Payload,
    /// Tail of its stderr.
    pub error: String,
    /// Wall time, for people.
    pub at_ms: u64,
    /// Wall time at which the tool was started, for people; 0 = it was not.
    pub started_ms: u64,
    /// The call that this one turned out to repeat (same client key, same arguments): read that one instead.
    pub alias_of: Option<ReqId>,
    /// How the author knows.
    #[serde(default, skip_serializing_if = "Source::is_target")]
    pub source: Source,
}

/// How the author of an [`Outcome`] knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Source {
    /// It says that it is the target.
    #[default]
    Target,
    /// It heard this of that target, whose own words reach nobody any more. That beats what anyone guesses.
    Relayed(PeerId),
    /// It heard nothing of the target.
    Inferred,
}

impl Source {
    const fn is_target(&self) -> bool {
        matches!(self, Self::Target)
    }
}

/// Body of [`Kind::CANCEL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// Which call.
    pub id: ReqId,
    /// Why, for people.
    pub reason: String,
    /// Whether it is asked because the time was over, so that the target may say `expired`.
    pub expired: bool,
}

/// Body of [`Kind::TRUNCATION`]: which entries of this incarnation of its author's log nobody needs any more. The newest such entry
/// counts, and says all that the former ones did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncation {
    /// In order, before this entry, apart from each other; at most [`limits::TRUNCATED_RUNS_MAX`].
    pub runs: Vec<TruncatedRun>,
}

/// What is left of a run of entries: enough for the chain to go on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruncatedRun {
    /// Place of the first of them.
    pub first: u64,
    /// Place of the last.
    pub last: u64,
    /// Hash of the last.
    pub hash: Hash,
    /// Clock of the last.
    pub hlc: u64,
}

/// The fence as it is stored: the highest epoch ever seen or claimed here, with its proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The epoch.
    pub epoch: Epoch,
    /// A signed claim to it; none for our own until it leads.
    pub proof: Option<crate::epoch::Claim>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Symbolic;
    use proptest::prelude::*;

    fn entry(signer: &Symbolic, body: Vec<u8>) -> Entry {
        Entry {
            mesh: MeshId([1; 32]),
            author: signer.public_key(),
            incarnation: Incarnation(1),
            seq: 1,
            hlc: 1,
            kind: Kind(999),
            critical: false,
            generation: 0,
            previous: Hash::ZERO,
            body: body.into(),
        }
    }

    proptest! {
        #[test]
        fn an_entry_survives_wire_and_store(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let signer = Symbolic::new(1);
            let signed = SignedEntry::sign(&signer, entry(&signer, body));
            let got = SignedEntry::verify(signed.bytes.clone(), signed.signature, &signer).unwrap();
            prop_assert_eq!(&got, &signed);
            prop_assert_eq!(SignedEntry::from_stored(&signed.to_stored()).unwrap(), signed);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let verifier = Symbolic::new(1);
            prop_assert!(SignedEntry::verify(bytes.into(), Signature([0; 64]), &verifier).is_err());
        }
    }

    #[test]
    fn a_changed_entry_is_refused() {
        let signer = Symbolic::new(1);
        let signed = SignedEntry::sign(&signer, entry(&signer, vec![1, 2, 3]));
        let mut bytes = signed.bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(SignedEntry::verify(bytes.into(), signed.signature, &signer), Err(EntryError::Signature));
    }
}
