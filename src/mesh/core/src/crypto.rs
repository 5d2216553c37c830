//! Signing as the core sees it: deterministic functions handed in, so that the simulator may use symbols for keys.

use std::fmt;

use crate::ids::{Hash, PublicKey, Signature};

/// Signs with the device key. Ed25519 is deterministic, so a seed still replays with real keys.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The key that others check with.
    fn public_key(&self) -> PublicKey;
    /// Signs a message.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Checks signatures; used by the shell at the edge, before anything reaches the core.
pub trait Verifier {
    /// True if `signature` is `key`'s over `message`.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
}

/// Symbolic keys for simulation and tests: the "signature" is a hash anyone could compute. Never used by the product.
#[derive(Debug, Clone)]
pub struct Symbolic(PublicKey);

impl Symbolic {
    /// The symbolic key number `n`.
    #[must_use]
    pub fn new(n: u64) -> Self {
        Self(PublicKey(Hash::of(&n.to_be_bytes()).0))
    }

    fn symbol(key: &PublicKey, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&Hash::of(&[key.0.as_slice(), message].concat()).0);
        Signature(signature)
    }
}

impl Signer for Symbolic {
    fn public_key(&self) -> PublicKey {
        self.0
    }
    fn sign(&self, message: &[u8]) -> Signature {
        Self::symbol(&self.0, message)
    }
}

impl Verifier for Symbolic {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        Self::symbol(key, message) == *signature
    }
}
