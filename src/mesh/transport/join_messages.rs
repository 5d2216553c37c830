//! Messages of joining: the request of a newcomer, the answers to it, and the two ends of the conversation.

use std::net::SocketAddr;

use mesh_core::ids::{NodeId, PeerId, PublicKey};
use mesh_core::io::Welcome;
use tokio::sync::mpsc;

use super::address::Address;
use super::underlay::UnderlayKind;
use crate::mesh::tailnet::Identity;

/// The request of a newcomer. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Secret of an invite; none = a join request, to be approved by hand.
    pub secret: Option<[u8; 16]>,
    /// Name that it asks for.
    pub node_id: NodeId,
    /// "linux", …; at most 64 bytes, no control characters.
    pub platform: String,
    /// Version of its program; the same limits.
    pub version: String,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("secret", &self.secret.map(|_| "…"))
            .field("node_id", &self.node_id)
            .field("platform", &self.platform)
            .field("version", &self.version)
            .finish()
    }
}

/// An answer to a newcomer. `Waiting` may come first, once; the others end the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinAnswer {
    /// The join request was noted and waits for a person.
    Waiting {
        /// Name of the peer that was asked.
        node_id: NodeId,
    },
    /// You are in.
    Welcome(Box<Welcome>),
    /// No.
    Refused {
        /// The reason, for programs.
        code: RefusalCode,
        /// The reason, for people.
        detail: String,
    },
}

/// The reason for which a newcomer is refused: `JoinRefusal.code` in `mesh.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// The peer does not know the invite.
    InviteUnknown,
    /// The invite was used.
    InviteUsed,
    /// The invite has expired.
    InviteExpired,
    /// The invite was taken back.
    InviteVoid,
    /// The newcomer cannot come back under its present key.
    NeedsNewKey,
    /// The peer that was asked may not approve anyone.
    NotOwner,
    /// A person refused.
    Rejected,
    /// Too many devices wait for an answer already.
    TooMany,
    /// The request is not valid, or cannot be granted now.
    Invalid,
    /// A code of a newer version.
    Other,
}

impl RefusalCode {
    const ALL: [Self; 10] = [
        Self::InviteUnknown,
        Self::InviteUsed,
        Self::InviteExpired,
        Self::InviteVoid,
        Self::NeedsNewKey,
        Self::NotOwner,
        Self::Rejected,
        Self::TooMany,
        Self::Invalid,
        Self::Other,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InviteUnknown => "invite_unknown",
            Self::InviteUsed => "invite_used",
            Self::InviteExpired => "invite_expired",
            Self::InviteVoid => "invite_void",
            Self::NeedsNewKey => "needs_new_key",
            Self::NotOwner => "not_owner",
            Self::Rejected => "rejected",
            Self::TooMany => "too_many",
            Self::Invalid => "invalid",
            Self::Other => "other",
        }
    }

    /// Reads the word; an unknown one is [`Self::Other`].
    #[must_use]
    pub fn parse(word: &str) -> Self {
        Self::ALL.into_iter().find(|code| code.as_str() == word).unwrap_or(Self::Other)
    }
}

/// Someone asks to join. Its key is proven; nothing else of it is.
#[derive(Debug)]
pub struct JoinAttempt {
    /// Its key.
    pub key: PublicKey,
    /// Its identity.
    pub peer: PeerId,
    /// The underlay over which it came.
    pub underlay: UnderlayKind,
    /// The node of the tailnet that it comes from, if it came over one.
    pub tailnet: Option<Identity>,
    /// The address that it asks from, on that underlay.
    pub address: SocketAddr,
    /// Its request.
    pub request: JoinRequest,
    /// Sender of the answers; holds 4. Closed when the newcomer has gone; dropping it ends the conversation unanswered.
    pub answers: mpsc::Sender<JoinAnswer>,
}

/// A conversation under way. Dropping it ends it.
#[derive(Debug)]
pub struct JoinConversation {
    /// The key of the peer that answers; proven.
    pub key: PublicKey,
    /// Its identity.
    pub peer: PeerId,
    /// The address at which it answers.
    pub address: Address,
    /// Its answers. Closed after `Welcome` and `Refused`; closed before them when the conversation broke: ask again.
    pub answers: mpsc::Receiver<JoinAnswer>,
}

/// Why no conversation began.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinDialError {
    /// Nobody answers.
    #[error("nobody answers at {}", shown(.tried))]
    Nobody {
        /// Addresses that were tried.
        tried: Vec<Address>,
    },
    /// The only address is a host that is not found.
    #[error("no address of a host `{host}` is found; is the name right? An IP address does as well")]
    UnknownHost {
        /// Its name.
        host: String,
    },
    /// Someone answers, with another key than expected.
    #[error("another device, {}, answers at {address}", .peer.short())]
    Stranger {
        /// The address.
        address: Address,
        /// The identity that it shows.
        peer: PeerId,
    },
    /// Someone answers, and has too many guests.
    #[error("the device at {address} has too many guests just now; try again in a minute")]
    Busy {
        /// The address.
        address: Address,
    },
    /// The connection broke before the request was sent.
    #[error("the connection to {address} broke")]
    Broken {
        /// The address.
        address: Address,
    },
}

fn shown(addresses: &[Address]) -> String {
    if addresses.is_empty() {
        return "any address: none is known".to_owned();
    }
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
