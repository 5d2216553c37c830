//! Entries of the replicated log: what is signed, relayed as opaque bytes, and merged (`docs/protocol.md`, Log).
//!
//! An entry is encoded once, by its author, as CBOR after a version byte. Everyone else keeps and relays those bytes.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::crypto::{Signer, Verifier};
use crate::ids::{Hash, Incarnation, MeshId, PeerId, PublicKey, Signature};
use crate::limits;
use crate::record::Header;

/// First byte of every encoded entry and stored record. Another major version is refused, never misread.
pub const VERSION: u8 = 3;

const ENTRY_CONTEXT: &[u8] = b"sigil entry 3\0";

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

/// Kind of an entry. Numbers are for ever; an unknown one is checked, stored and relayed, but not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kind(pub u16);

impl Kind {
    /// `Genesis`.
    pub const GENESIS: Self = Self(1);
    /// `MembershipChange` on a peer: approval or revocation.
    pub const MEMBERSHIP: Self = Self(2);
    /// `Directory` record of its author.
    pub const DIRECTORY: Self = Self(4);
    /// [`Header`] of a call.
    pub const CALL: Self = Self(5);
    /// `Outcome` of a call's attempt.
    pub const OUTCOME: Self = Self(6);
    /// `CancelRequest`.
    pub const CANCEL: Self = Self(7);
    /// Empty: its author's log has come this far. Written when a call has started of which nothing else there tells.
    pub const CHECKPOINT: Self = Self(8);
    /// `Truncation` for entries of its author.
    pub const TRUNCATION: Self = Self(9);
    /// The highest that this version knows.
    pub const NEWEST: Self = Self::TRUNCATION;

    /// True if this version knows its meaning.
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
    /// Key of the author.
    pub author: PublicKey,
    /// Incarnation of the author's database.
    pub incarnation: Incarnation,
    /// Position in the author's log of this incarnation, from 1, without gaps.
    pub seq: u64,
    /// Hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
    pub hlc: u64,
    /// Kind of `body`.
    pub kind: Kind,
    /// A peer that does not know `kind` must not lead, nor start calls, while this is set.
    pub critical: bool,
    /// Hash of the author's previous entry, or [`Hash::ZERO`].
    pub previous: Hash,
    /// The record, encoded.
    pub body: Bytes,
}

/// An entry with its exact signed bytes. A value of this type has been checked (or comes from our own store); its
/// clones share it.
#[derive(Clone)]
pub struct SignedEntry(Arc<Signed>);

/// Content of a [`SignedEntry`].
pub struct Signed {
    /// The decoded content.
    pub entry: Entry,
    /// The signed bytes, as the author encoded them.
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
    /// Author of the log.
    pub author: PeerId,
    /// Incarnation of that author's database.
    pub incarnation: Incarnation,
    /// Position, from 1.
    pub seq: u64,
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
