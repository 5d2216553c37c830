//! Keys of the simulated peers: symbols, or real ones that are checked at every link as the product does.

use std::fmt;
use std::sync::Arc;

use mesh_core::crypto::{Signer, Symbolic, Verifier};
use mesh_core::entry::SignedEntry;
use mesh_core::frame::{AnswerKind, Frame};
use mesh_core::ids::{Hash, PublicKey, Signature};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// A device key.
#[derive(Clone)]
pub(crate) enum Key {
    Symbolic(Symbolic),
    Real(Arc<Ed25519KeyPair>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.public_key().fmt(f)
    }
}

impl Key {
    /// The key number `n`.
    pub(crate) fn new(n: u64, real: bool) -> Self {
        if !real {
            return Self::Symbolic(Symbolic::new(n));
        }
        let seed = Hash::of(&n.to_le_bytes()).0;
        Self::Real(Arc::new(Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed")))
    }

    /// True if every signature in a frame holds, as the shell checks it before the core sees the frame.
    pub(crate) fn all_hold(&self, frame: &Frame) -> bool {
        match self {
            Self::Symbolic(_) => true,
            Self::Real(_) => {
                let entry = |entry: &SignedEntry| {
                    let again = SignedEntry::verify(&entry.bytes, entry.signature, &entry.sealed(), self);
                    again.is_ok_and(|again| again == *entry)
                };
                match frame {
                    Frame::Beacon(beacon) => beacon.claim.verify(self),
                    Frame::Notice(claim) => claim.verify(self),
                    Frame::Entries { entries, .. } | Frame::Bodies { entries, .. } => {
                        entries.iter().all(|item| entry(&item.entry))
                    }
                    Frame::Dispatch(dispatch) => dispatch.claim.verify(self) && entry(&dispatch.header),
                    Frame::Answer(answer) => match &answer.what {
                        AnswerKind::Ended(outcome) => entry(outcome),
                        AnswerKind::Fenced(Some(claim)) => claim.verify(self),
                        AnswerKind::Waiting
                        | AnswerKind::Running { .. }
                        | AnswerKind::Lacking
                        | AnswerKind::Asking
                        | AnswerKind::Busy
                        | AnswerKind::Fenced(None)
                        | AnswerKind::Rejected(_) => true,
                    },
                    Frame::Query
                    | Frame::Want(_)
                    | Frame::Resign { .. }
                    | Frame::Handover { .. }
                    | Frame::Neighbours { .. }
                    | Frame::Digest { .. }
                    | Frame::Presence { .. }
                    | Frame::Progress { .. }
                    | Frame::Cancel { .. } => true,
                }
            }
        }
    }
}

impl Signer for Key {
    fn public_key(&self) -> PublicKey {
        match self {
            Self::Symbolic(key) => key.public_key(),
            Self::Real(pair) => PublicKey::from_slice(pair.public_key().as_ref()).expect("32 bytes"),
        }
    }

    fn sign(&self, message: &[u8]) -> Signature {
        match self {
            Self::Symbolic(key) => key.sign(message),
            Self::Real(pair) => Signature::from_slice(pair.sign(message).as_ref()).expect("64 bytes"),
        }
    }
}

impl Verifier for Key {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        match self {
            Self::Symbolic(symbolic) => symbolic.verify(key, message, signature),
            Self::Real(_) => UnparsedPublicKey::new(&ED25519, key.0).verify(message, &signature.0).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_signature_is_checked() {
        let (alice, bob) = (Key::new(1, true), Key::new(2, true));
        let signature = alice.sign(b"hello");
        assert!(bob.verify(&alice.public_key(), b"hello", &signature));
        assert!(!bob.verify(&bob.public_key(), b"hello", &signature));
        assert!(!bob.verify(&alice.public_key(), b"hullo", &signature));
    }
}
