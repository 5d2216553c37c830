//! The peers that may be linked.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::ids::{PeerId, PublicKey};

use super::address::Address;
use super::stream::ServiceId;

/// An approved peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its key; its hash is the peer id.
    pub key: PublicKey,
    /// Addresses at which it may be, best first. The first 40 that can be dialled here are tried.
    pub addresses: Vec<Address>,
    /// Services that its directory record offers. `None` while there is no record: then it may be asked, and refuses
    /// what it does not know.
    pub services: Option<BTreeSet<ServiceId>>,
    /// Peers by which it is wanted to be linked while it is not linked directly, best first.
    pub relays: Vec<PeerId>,
    /// It was revoked, and may only come to hear so: never dialled; its link takes frames to it and from it only
    /// entries (a few frames of them), and is closed 1 s after it came up, or after its peer was revoked. The same
    /// holds for everyone when we were.
    pub leaving: bool,
    /// It is of tier owner. What others send is read at a pace.
    pub owner: bool,
}

impl Member {
    /// One that was revoked.
    #[must_use]
    pub fn leaving(key: PublicKey) -> Self {
        Self { key, addresses: Vec::new(), services: None, relays: Vec::new(), leaving: true, owner: false }
    }
}

/// All approved peers, and those that were revoked and should learn it.
pub type Members = BTreeMap<PeerId, Member>;
