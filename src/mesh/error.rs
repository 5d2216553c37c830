//! Errors of the mesh as its name answers them.

use std::io;

use mesh_core::ids::PeerId;
use mesh_core::io::Refusal;
use mesh_core::peer::{BadWelcome, BootError};

use crate::mesh::check_words::CheckWords;
use crate::mesh::store::StoreError;

/// The reason for which the mesh could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// The core refused the command.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
    /// The question was asked in a mesh that this device has left since.
    #[error("this device has since moved to another mesh; ask again")]
    Moved,
    /// Our own store failed.
    #[error("reading the local store")]
    Store(#[source] StoreError),
    /// A large payload could not be kept.
    #[error("keeping a large payload on disk")]
    Blob(#[source] io::Error),
    /// The operating system gives no random bytes, so no secret can be made.
    #[error("the operating system gives no random bytes")]
    NoEntropy,
    /// This device neither asks to join nor awaits re-approval.
    #[error("no device `{}` awaits approval", .0.short())]
    UnknownPending(PeerId),
    /// Joining failed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The bytes of a result were removed, to make room for newer ones.
    #[error("its output is not kept any more")]
    ResultGone,
    /// The card of a tool is not here, and its device cannot be reached or does not give it.
    #[error("what is told of the tool is not here yet")]
    CardAway,
    /// The call has run; the bytes of its result are not here yet.
    #[error("{}", away(.node, *.received, *.len))]
    ResultAway {
        /// The name of the device that ran the call.
        node: String,
        /// Bytes that have come, while they come; `None` when nobody who has them can be reached.
        received: Option<u64>,
        /// Bytes of the whole result.
        len: u64,
    },
}

fn away(node: &str, received: Option<u64>, len: u64) -> String {
    match received {
        Some(received) => format!("the result is on its way from `{node}`: {received} of {len} bytes are here"),
        None => format!("the result is still at `{node}`, which cannot be reached now"),
    }
}

/// The reason for which a join failed. Each has its own code at the doors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The text is not a code.
    #[error("this is not a sigil code: {0}")]
    BadCode(String),
    /// The inviter says the code has been used.
    #[error("this code has been used already; ask for a new one with `sigil invite` on the other device")]
    Used,
    /// The inviter says it expired, or the code itself says so.
    #[error("this code has expired; ask for a new one with `sigil invite` on the other device")]
    Expired,
    /// The inviter does not know the code.
    #[error("this code is not known to the device that it names")]
    UnknownCode,
    /// No device answers at the addresses in the code.
    #[error("the inviting device does not answer at {tried}; is it on, and on the same network?")]
    InviterDown {
        /// Addresses that were tried, for people.
        tried: String,
    },
    /// No address leads anywhere, and why.
    #[error("{0}")]
    Unreachable(String),
    /// A person refused, or a rule did.
    #[error("the other side refused: {0}")]
    Rejected(String),
    /// This device is in a mesh with other devices, and leaving it was not asked for.
    #[error("this device is in a mesh with {others} other devices; leave it first, or pass --force")]
    WouldLeave {
        /// Number of the others.
        others: usize,
    },
    /// Nobody has compared whom this would join: nothing was asked of it.
    #[error("this would join the device {}: compare its check words with the ones that it shows itself, {words}", named(*.peer, name.as_deref()))]
    Unconfirmed {
        /// Its identity; proven only when it has answered at an address.
        peer: PeerId,
        /// The name that it shows, if it was seen nearby.
        name: Option<String>,
        /// Its check words.
        words: CheckWords,
    },
    /// Another device than the one whose check words were given.
    #[error("another device than the one that you compared is there: {}, whose check words are {words}", .peer.short())]
    OtherWords {
        /// Its identity.
        peer: PeerId,
        /// Its check words.
        words: CheckWords,
    },
    /// The welcome is not one that can be taken up. Nothing here has changed.
    #[error("what the other side sent cannot be joined: {0}")]
    BadWelcome(#[from] BadWelcome),
    /// An owner has taken the code back.
    #[error("this code was taken back; ask for a new one with `sigil invite` on the other device")]
    Void,
    /// This device was removed from that mesh in a way that no approval takes back.
    #[error(
        "that mesh cannot let this device in under its present key: a removal of it stands that no approval takes back"
    )]
    NeedsNewKey,
    /// No device of this name is nearby.
    #[error("no device `{0}` is nearby")]
    NotNearby(String),
}

fn named(peer: PeerId, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("`{}` ({})", name.escape_debug(), peer.short()),
        None => peer.short(),
    }
}

/// The reason for which the mesh did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FatalError {
    /// The store does not work. The process must end: only a new one reads what is really there.
    #[error("the local store failed")]
    Store(#[from] StoreError),
    /// The store holds nothing that makes a peer.
    #[error("the local store does not hold a mesh that can be taken up")]
    Boot(#[from] BootError),
}

impl FatalError {
    /// Next step of a person; `None` where that is said by the message.
    #[must_use]
    pub const fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Store(_) => None,
            Self::Boot(_) => Some(
                "move this home away, and `sigil restore` a backup of it or join the mesh again; nothing in it was changed",
            ),
        }
    }
}
