//! Names of things in memory. None of them tells what a message says: ids of callers appear in messages only.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(#[serde(with = "serde_bytes")] pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase().chars().take(7).collect::<String>())
            }
        }
    };
}

bytes_id!(
    /// A workspace: random, and kept when it is renamed.
    WorkspaceId, 16
);
bytes_id!(
    /// A message: from workspace and caller's id, so that the same id appended at two peers is one message. Shown as 26
    /// characters of base32, which is what paths and `forget` take.
    MessageKey, 16
);
bytes_id!(
    /// A batch: from algorithm, messages and their revisions, so that two peers that compact the same make one batch.
    BatchId, 16
);
bytes_id!(
    /// Present content of a message: hash of its content. Derived items name it, and die with it.
    Rev, 8
);
bytes_id!(
    /// An author of groups: the first half of its peer id.
    AuthorId, 16
);
bytes_id!(
    /// A model that embeds or writes: hash of its files. Vectors of two models are never compared.
    ModelId, 16
);

/// One incarnation of a memory store: random when it is made, renewed after a roll-back, a restore or a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u32);

/// Hashes length-prefixed parts under a context, so that no two lists of parts are hashed alike.
pub(crate) fn hash<const N: usize>(context: &str, parts: &[&[u8]]) -> [u8; N] {
    let mut sha = Sha256::new();
    sha.update(context.as_bytes());
    sha.update([0]);
    for part in parts {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    let full: [u8; 32] = sha.finalize().into();
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(full) {
        *to = from;
    }
    out
}

impl MessageKey {
    /// The key of a caller's id in a workspace.
    #[must_use]
    pub fn of(workspace: &WorkspaceId, caller_id: &str) -> Self {
        Self(hash("sigil msg 1", &[&workspace.0, caller_id.as_bytes()]))
    }

    /// The key under which a content lives on whose caller's id another content has.
    #[must_use]
    pub fn variant(&self, content: &Rev) -> Self {
        Self(hash("sigil msg variant 1", &[&self.0, &content.0]))
    }

    /// Reads what [`fmt::Display`] writes; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl BatchId {
    /// The id of what `algorithm` makes of these messages, in any order.
    #[must_use]
    pub fn of(workspace: &WorkspaceId, algorithm: u16, messages: &[(MessageKey, Rev)]) -> Self {
        let mut sorted = messages.to_vec();
        sorted.sort_unstable();
        let mut bytes = Vec::with_capacity(sorted.len() * 24);
        for (key, rev) in &sorted {
            bytes.extend_from_slice(&key.0);
            bytes.extend_from_slice(&rev.0);
        }
        Self(hash("sigil batch 1", &[&workspace.0, &algorithm.to_be_bytes(), &bytes]))
    }
}

impl AuthorId {
    /// The author that owns a key.
    #[must_use]
    pub fn of(key: &mesh_core::ids::PublicKey) -> Self {
        Self::of_peer(&key.peer_id())
    }

    /// The author that is this peer.
    #[must_use]
    pub fn of_peer(peer: &mesh_core::ids::PeerId) -> Self {
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(peer.0) {
            *to = from;
        }
        Self(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_as_it_is_shown() {
        let key = MessageKey::of(&WorkspaceId([1; 16]), "D1:3");
        assert_eq!(key.to_string().len(), 26);
        assert_eq!(MessageKey::parse(&key.to_string()), Some(key));
        assert_eq!(MessageKey::parse("D1:3"), None);
        assert_ne!(key, MessageKey::of(&WorkspaceId([2; 16]), "D1:3"));
    }

    #[test]
    fn a_batch_has_one_id_in_any_order() {
        let (ws, rev) = (WorkspaceId([1; 16]), Rev([0; 8]));
        let (a, b) = ((MessageKey([1; 16]), rev), (MessageKey([2; 16]), rev));
        assert_eq!(BatchId::of(&ws, 1, &[a, b]), BatchId::of(&ws, 1, &[b, a]));
        assert_ne!(BatchId::of(&ws, 1, &[a, b]), BatchId::of(&ws, 2, &[a, b]));
        assert_ne!(BatchId::of(&ws, 1, &[a, b]), BatchId::of(&ws, 1, &[a, (b.0, Rev([1; 8]))]));
    }
}
