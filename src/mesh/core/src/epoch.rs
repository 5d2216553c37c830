//! Epochs and their proofs: the totally ordered [`Epoch`] and the signed [`Claim`] to it.

use serde::{Deserialize, Serialize};

use crate::crypto::{Signer, Verifier};
use crate::ids::{MeshId, PeerId, PublicKey, Signature};

/// An epoch. Compared by counter, then class, then peer, so that two halves of a mesh that claim the same counter are
/// ordered all the same (`docs/protocol.md`, Election). Durable before it is claimed, and before it is obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Rises with every claim.
    pub counter: u64,
    /// Class of the claimant, see [`crate::config::Class`].
    pub class: u8,
    /// The claimant.
    pub peer: PeerId,
}

impl Epoch {
    /// Below every epoch that anyone can claim.
    pub const ZERO: Self = Self { counter: 0, class: 0, peer: PeerId([0; 32]) };
}

/// Domain separation: a signature over a claim can never pass for one over an entry.
const CLAIM_CONTEXT: &[u8] = b"sigil claim 3\0";

/// Signed statement of a leader: its epoch and the number of its beacon. Whoever holds one can prove that the epoch was
/// claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The mesh that it leads: what its device claimed in another one says nothing here.
    pub mesh: MeshId,
    /// The epoch.
    pub epoch: Epoch,
    /// Number of the beacon within the epoch, from 1.
    pub seq: u64,
    /// Key of `epoch.peer`.
    pub key: PublicKey,
    /// Over mesh, epoch and seq.
    pub signature: Signature,
}

impl Claim {
    fn message(mesh: &MeshId, epoch: &Epoch, seq: u64) -> Vec<u8> {
        let mut message = Vec::with_capacity(96);
        message.extend_from_slice(CLAIM_CONTEXT);
        message.extend_from_slice(&mesh.0);
        message.extend_from_slice(&epoch.counter.to_be_bytes());
        message.push(epoch.class);
        message.extend_from_slice(&epoch.peer.0);
        message.extend_from_slice(&seq.to_be_bytes());
        message
    }

    /// Signs a claim. The epoch must be the signer's own.
    pub fn sign(signer: &dyn Signer, mesh: MeshId, epoch: Epoch, seq: u64) -> Self {
        let signature = signer.sign(&Self::message(&mesh, &epoch, seq));
        Self { mesh, epoch, seq, key: signer.public_key(), signature }
    }

    /// True if the key is the epoch's and signed it. The shell asks before it hands a claim to the core, which looks at
    /// the mesh.
    #[must_use]
    pub fn verify(&self, verifier: &dyn Verifier) -> bool {
        self.key.peer_id() == self.epoch.peer
            && verifier.verify(&self.key, &Self::message(&self.mesh, &self.epoch, self.seq), &self.signature)
    }
}

/// The fence as it is stored: the highest epoch ever seen or claimed here, with its proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The epoch.
    pub epoch: Epoch,
    /// A signed claim to it; none for our own until it is durable.
    pub proof: Option<Claim>,
}

impl Fence {
    /// A fence from the store. One of our own claims was stored before it was signed: it is signed now.
    pub(crate) fn restored(self, signer: &dyn Signer, mesh: MeshId) -> Self {
        let own = self.proof.is_none() && self.epoch.peer == signer.public_key().peer_id();
        let signed = || Claim::sign(signer, mesh, self.epoch, 1);
        let proof = if own { Some(signed()) } else { self.proof };
        Self { proof, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Symbolic;

    #[test]
    fn a_claim_by_another_key_is_refused() {
        let (alice, bob) = (Symbolic::new(1), Symbolic::new(2));
        let epoch = Epoch { counter: 1, class: 3, peer: alice.public_key().peer_id() };
        let mesh = MeshId([1; 32]);
        let claim = Claim::sign(&alice, mesh, epoch, 1);
        assert!(claim.verify(&alice));
        assert!(!Claim { seq: 2, ..claim.clone() }.verify(&alice));
        assert!(!Claim { mesh: MeshId([2; 32]), ..claim }.verify(&alice), "of another mesh");
        assert!(!Claim::sign(&bob, mesh, epoch, 1).verify(&alice));
    }
}
