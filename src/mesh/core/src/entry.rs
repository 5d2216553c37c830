//! Entries of the replicated log: what is signed, relayed as opaque bytes, and merged (`docs/protocol.md`, Log).
//!
//! An entry is encoded once, by its author, as CBOR after a version byte. Everyone else keeps and relays those bytes. What
//! is signed is an envelope: it covers its body by a salted hash, so that the body can be left out where it is not to be
//! read, and the chain is checked all the same.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rand_core::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audience::Audience;
use crate::crypto::{Signer, Verifier};
use crate::ids::{Hash, Incarnation, MeshId, PeerId, PublicKey, Signature};
use crate::limits;
use crate::record::{Header, Payload};

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
    /// The body is another than the one that was signed.
    #[error("an entry comes with another body than its author signed")]
    Body,
    /// Of a kind that is for everyone, but named for some, or the other way round.
    #[error("an entry is for an audience that its kind does not have")]
    Audience,
    /// Nobody has a reason to leave it out.
    #[error("an entry that is for everyone comes without its body")]
    Withheld,
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
    /// [`crate::policy::Consent`]: a person answers a call that asks.
    pub const CONSENT: Self = Self(3);
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
    /// [`crate::audit_record::AuditBatch`]: what happened at the doors of its author.
    pub const AUDIT: Self = Self(20);
    /// The highest that this version knows: the approved tools of a device.
    pub const NEWEST: Self = Self(21);

    /// True if this version knows its meaning.
    #[must_use]
    pub fn is_known(self) -> bool {
        [
            Self::GENESIS,
            Self::MEMBERSHIP,
            Self::CONSENT,
            Self::DIRECTORY,
            Self::CALL,
            Self::OUTCOME,
            Self::CANCEL,
            Self::CHECKPOINT,
            Self::TRUNCATION,
            Self::AUDIT,
        ]
        .contains(&self)
            || self.is_about_rights()
    }

    /// True if it says who may do what; [`crate::policy::Key::kind`] says about what each of these kinds is.
    #[must_use]
    pub const fn is_about_rights(self) -> bool {
        matches!(self.0, 10..=19 | 21)
    }

    /// True if a peer that does not know it must neither lead nor start calls. Of what is said about rights that is all
    /// but what must hold (19), by which nothing is decided.
    #[must_use]
    pub const fn is_critical(self) -> bool {
        self.is_about_rights() && self.0 != 19
    }

    /// True if entries of this kind may be for that audience: what the mesh is made of is for everyone, what names a call
    /// for those whom it concerns, the audit for owners.
    #[must_use]
    pub fn may_be_for(self, audience: &Audience) -> bool {
        let of_call = [Self::CALL, Self::OUTCOME, Self::CANCEL, Self::CONSENT].contains(&self);
        let of_audit = self == Self::AUDIT;
        !self.is_known()
            || match audience {
                Audience::Everyone => !of_call && !of_audit,
                Audience::Owners => of_audit,
                Audience::Call { .. } | Audience::Asked { .. } => of_call,
                Audience::Unknown(_) => of_call || of_audit,
            }
    }
}

/// Bytes of a [`Salt`].
const SALT_BYTES: usize = 16;

/// Random bytes before a body. Without them whoever guesses a body could check the guess by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(pub [u8; SALT_BYTES]);

impl Salt {
    /// A new one; the source must be unpredictable outside of tests.
    pub fn draw(rng: &mut dyn Rng) -> Self {
        let mut salt = [0; SALT_BYTES];
        rng.fill_bytes(&mut salt);
        Self(salt)
    }
}

/// All that an envelope says of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyCommitment {
    /// SHA-256 of salt and body.
    pub hash: Hash,
    /// Bytes of the body, without its salt.
    pub len: u32,
}

impl BodyCommitment {
    /// The commitment to a body.
    ///
    /// # Panics
    /// When the body has 4 GiB.
    #[must_use]
    pub fn of(salt: Salt, body: &[u8]) -> Self {
        let hash = Hash(Sha256::new().chain_update(salt.0).chain_update(body).finalize().into());
        Self { hash, len: u32::try_from(body.len()).expect("a body is far smaller") }
    }

    fn fits(&self, sealed: &[u8]) -> bool {
        sealed.len().checked_sub(SALT_BYTES) == Some(self.len as usize) && Hash::of(sealed) == self.hash
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
    /// Class of peers that may read the body.
    pub audience: Audience,
    /// The body, which travels beside this.
    pub body: BodyCommitment,
}

/// An entry with its exact signed bytes, and its body unless that is withheld. A value of this type has been checked (or
/// comes from our own store); its clones share it.
#[derive(Clone)]
pub struct SignedEntry(Arc<Signed>);

/// Content of a [`SignedEntry`].
pub struct Signed {
    /// The decoded content.
    pub entry: Entry,
    /// The signed bytes, as the author encoded them: all but the body.
    pub bytes: Bytes,
    /// The author's signature.
    pub signature: Signature,
    /// Hash of `bytes`.
    pub hash: Hash,
    /// Identity of `entry.author`.
    pub author: PeerId,
    /// Signature ‖ length of `bytes` (u32 BE) ‖ `bytes` ‖ salt ‖ body, the last two not where the body is withheld.
    stored: Bytes,
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
        self.stored == other.stored
    }
}

impl Eq for SignedEntry {}

impl fmt::Debug for SignedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Signed { entry, bytes: _, signature, hash, author, stored, header: _ } = &*self.0;
        f.debug_struct("SignedEntry")
            .field("entry", entry)
            .field("stored", stored)
            .field("signature", signature)
            .field("hash", hash)
            .field("author", author)
            .finish()
    }
}

/// Arguments from this many bytes on are not held beside the entry that they came in.
const SHARED_BYTES_MIN: usize = 1024;
/// Bytes of a body that stand before its arguments: names and ids.
const SHARED_FROM_MAX: usize = 4096;
/// Bytes before the envelope in what is stored.
const HEAD_BYTES: usize = 64 + 4;

impl SignedEntry {
    /// `stored` is of the layout that [`Signed`] says, with `len` bytes of `entry`.
    fn new(entry: Entry, stored: Bytes, len: usize, signature: Signature) -> Self {
        let bytes = stored.slice(HEAD_BYTES..HEAD_BYTES + len);
        let (hash, author) = (Hash::of(&bytes), entry.author.peer_id());
        Self(Arc::new(Signed { entry, bytes, signature, hash, author, stored, header: OnceLock::new() }))
    }

    fn laid_out(signature: &Signature, bytes: &[u8], salt: &[u8], body: &[u8]) -> Bytes {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        Bytes::from([&signature.0, &len[..], bytes, salt, body].concat())
    }

    /// Encodes and signs. `entry.body` commits to this salt and body.
    pub fn sign(signer: &dyn Signer, entry: Entry, salt: Salt, body: &[u8]) -> Self {
        let bytes = encode(&entry);
        let signature = signer.sign(&[ENTRY_CONTEXT, &bytes].concat());
        Self::new(entry, Self::laid_out(&signature, &bytes, &salt.0, body), bytes.len(), signature)
    }

    /// Decodes and checks what a peer sent. `sealed`: salt and body; empty when the body is withheld. Copies both.
    ///
    /// # Errors
    /// When the entry is over its limit, of another version, malformed, not signed by its author, with another body than
    /// was signed, or for an audience that its kind does not have.
    pub fn verify(
        bytes: &[u8],
        signature: Signature,
        sealed: &[u8],
        verifier: &dyn Verifier,
    ) -> Result<Self, EntryError> {
        let entry = Self::trusted(bytes, signature, sealed)?;
        let Entry { kind, audience, body, .. } = &entry.entry;
        if !kind.may_be_for(audience) {
            return Err(EntryError::Audience);
        }
        if sealed.is_empty() && *audience == Audience::Everyone {
            return Err(EntryError::Withheld);
        }
        if !sealed.is_empty() && !body.fits(sealed) {
            return Err(EntryError::Body);
        }
        let message = [ENTRY_CONTEXT, &entry.bytes].concat();
        if verifier.verify(&entry.entry.author, &message, &signature) { Ok(entry) } else { Err(EntryError::Signature) }
    }

    /// Decodes what our own store gave back: it was checked before it was stored.
    ///
    /// # Errors
    /// When it is over its limit, of another version, or malformed.
    pub fn trusted(bytes: &[u8], signature: Signature, sealed: &[u8]) -> Result<Self, EntryError> {
        let entry = Self::decoded(bytes, sealed.len())?;
        Ok(Self::new(entry, Self::laid_out(&signature, bytes, sealed, &[]), bytes.len(), signature))
    }

    fn decoded(bytes: &[u8], sealed: usize) -> Result<Entry, EntryError> {
        let len = bytes.len() + sealed;
        if len > limits::ENTRY_BYTES_MAX {
            return Err(EntryError::TooLarge(len));
        }
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(EntryError::Version(version)),
            None => return Err(EntryError::Malformed),
        }
        decode(bytes).ok_or(EntryError::Malformed)
    }

    /// Bytes of envelope, salt and body together, as far as they are here.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an entry is never empty")]
    pub fn len(&self) -> usize {
        self.stored.len() - HEAD_BYTES
    }

    /// Salt and body, as they travel; empty when the body is withheld.
    #[must_use]
    pub fn sealed(&self) -> Bytes {
        self.stored.slice(HEAD_BYTES + self.bytes.len()..)
    }

    /// The body; `None` when it is withheld.
    #[must_use]
    pub fn body(&self) -> Option<&[u8]> {
        self.stored.get(HEAD_BYTES + self.bytes.len() + SALT_BYTES..)
    }

    /// True if the body is here.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.body().is_some()
    }

    /// The envelope alone.
    #[must_use]
    pub fn without_body(&self) -> Self {
        let len = self.bytes.len();
        let Signed { entry, signature, .. } = &*self.0;
        Self::new(entry.clone(), self.stored.slice(..HEAD_BYTES + len), len, *signature)
    }

    /// Decodes the body as a record; `None` also when it is withheld.
    #[must_use]
    pub fn record<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        decode(self.body()?)
    }

    /// The body of a call, decoded once for all who share the entry; `None` when it is something else.
    #[must_use]
    pub fn header(&self) -> Option<Arc<Header>> {
        let decoded = || {
            let mut header: Header = (self.entry.kind == Kind::CALL).then(|| self.record()).flatten()?;
            if let Payload::Inline(arguments) = &mut header.arguments {
                self.share(arguments);
            }
            Some(Arc::new(header))
        };
        self.0.header.get_or_init(decoded).clone()
    }

    /// Turns many bytes that were decoded from the body into a part of it, so that they are not held twice. They lie near
    /// its beginning, unless its author wants them held twice: it is not worth a longer search.
    fn share(&self, decoded: &mut Bytes) {
        let (len, head) = (decoded.len(), decoded.first_chunk::<64>());
        let Some(body) = self.body().filter(|_| len >= SHARED_BYTES_MIN) else { return };
        let begins = body.windows(len).take(SHARED_FROM_MAX).enumerate().filter(|(_, part)| part.first_chunk() == head);
        let found = begins.take(2).find(|(_, part)| *part == decoded.as_ref()).map(|(at, _)| at);
        if let Some(at) = found {
            let start = HEAD_BYTES + self.bytes.len() + SALT_BYTES + at;
            *decoded = self.stored.slice(start..start + len);
        }
    }

    /// Where the entry stands.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { author: self.author, incarnation: self.entry.incarnation, seq: self.entry.seq }
    }

    /// Bytes for the store: signature, length of the signed bytes, the signed bytes, salt and body.
    #[must_use]
    pub fn to_stored(&self) -> Bytes {
        self.stored.clone()
    }

    /// Reads [`Self::to_stored`].
    #[must_use]
    pub fn from_stored(stored: &[u8]) -> Option<Self> {
        let (signature, rest) = stored.split_at_checked(64)?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (bytes, sealed) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        let entry = Self::decoded(bytes, sealed.len()).ok()?;
        Some(Self::new(entry, Bytes::copy_from_slice(stored), bytes.len(), Signature::from_slice(signature)?))
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

    fn signed(body: &[u8]) -> SignedEntry {
        let (signer, salt) = (Symbolic::new(1), Salt([9; 16]));
        let entry = Entry {
            mesh: MeshId([1; 32]),
            author: signer.public_key(),
            incarnation: Incarnation(1),
            seq: 1,
            hlc: 1,
            kind: Kind(999),
            critical: false,
            previous: Hash::ZERO,
            audience: Audience::Call { origin: PeerId([1; 32]), target: PeerId([2; 32]) },
            body: BodyCommitment::of(salt, body),
        };
        SignedEntry::sign(&signer, entry, salt, body)
    }

    fn again(entry: &SignedEntry) -> Result<SignedEntry, EntryError> {
        SignedEntry::verify(&entry.bytes, entry.signature, &entry.sealed(), &Symbolic::new(1))
    }

    proptest! {
        #[test]
        fn an_entry_survives_wire_and_store(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let signed = signed(&body);
            prop_assert_eq!(signed.body(), Some(&*body));
            prop_assert_eq!(&again(&signed).unwrap(), &signed);
            prop_assert_eq!(&SignedEntry::from_stored(&signed.to_stored()).unwrap(), &signed);
            let withheld = signed.without_body();
            prop_assert_eq!((withheld.hash, withheld.body(), withheld.has_body()), (signed.hash, None, false));
            prop_assert_eq!(&again(&withheld).unwrap(), &withheld);
            prop_assert_eq!(&SignedEntry::from_stored(&withheld.to_stored()).unwrap(), &withheld);
            let shown = [withheld.to_stored(), withheld.bytes.clone()].concat();
            prop_assert!(body.len() < 4 || !shown.windows(body.len()).any(|window| window == body));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let verifier = Symbolic::new(1);
            prop_assert!(SignedEntry::verify(&bytes, Signature([0; 64]), &bytes, &verifier).is_err());
            prop_assert!(SignedEntry::from_stored(&bytes).is_none());
        }
    }

    #[test]
    fn a_changed_entry_is_refused() {
        let signed = signed(&[1, 2, 3]);
        let mut bytes = signed.bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let verifier = Symbolic::new(1);
        let refused = |bytes: &[u8], sealed: &[u8]| SignedEntry::verify(bytes, signed.signature, sealed, &verifier);
        assert_eq!(refused(&bytes, &[]), Err(EntryError::Signature));
        let mut sealed = signed.sealed().to_vec();
        *sealed.last_mut().unwrap() ^= 1;
        for sealed in [&*sealed, &sealed[..SALT_BYTES], &sealed[..3], &[&*sealed, &[0]].concat()] {
            assert_eq!(refused(&signed.bytes, sealed), Err(EntryError::Body), "{sealed:?}");
        }
    }

    #[test]
    fn what_a_mesh_is_made_of_is_for_everyone_and_what_names_a_call_is_not() {
        let call = Audience::Call { origin: PeerId([1; 32]), target: PeerId([2; 32]) };
        for (kind, everyone) in [
            (Kind::GENESIS, true),
            (Kind::MEMBERSHIP, true),
            (Kind::DIRECTORY, true),
            (Kind::CALL, false),
            (Kind::OUTCOME, false),
            (Kind::CANCEL, false),
            (Kind::CHECKPOINT, true),
            (Kind::TRUNCATION, true),
        ] {
            assert_eq!(kind.may_be_for(&Audience::Everyone), everyone);
            assert_eq!(kind.may_be_for(&call), !everyone);
            assert!(!kind.may_be_for(&Audience::Owners));
        }
        assert!(Kind::AUDIT.may_be_for(&Audience::Owners));
        assert!(!Kind::AUDIT.may_be_for(&call) && !Kind::AUDIT.may_be_for(&Audience::Everyone));
        assert!(Kind(999).may_be_for(&call) && Kind(999).may_be_for(&Audience::Everyone));
    }
}
