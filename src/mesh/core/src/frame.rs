//! Frames between peers. The shell maps these to `mesh.proto` and `node.proto`, and checks every signature first.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::entry::{Place, SignedEntry};
use crate::epoch::{Claim, Epoch};
use crate::ids::{Attempt, Hash, Incarnation, PeerId, ReqId};

/// Channel of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A datagram: may be lost, is never queued behind anything.
    Datagram,
    /// The link's own ordered stream.
    Stream,
    /// The `NodeService` stream between a node and its gateway.
    Node,
}

/// One message between two linked peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// "I lead", or a relay of it.
    Beacon(Beacon),
    /// "Whom do you follow?"
    Query,
    /// "There is a higher epoch than yours", with the proof.
    Notice(Claim),
    /// "I stop leading"; the successor claims at once.
    Resign {
        /// The epoch that ends.
        epoch: Epoch,
        /// Peer that should claim.
        successor: Option<PeerId>,
    },
    /// "You would be the better gateway: claim above this."
    Handover {
        /// The epoch that wants to end.
        epoch: Epoch,
    },
    /// Peers that the sender is linked to.
    Neighbours {
        /// All of them.
        peers: Vec<PeerId>,
        /// Those of them whose links are relayed.
        relayed: Vec<PeerId>,
    },
    /// Heads of the logs that the sender holds.
    Digest {
        /// Whose logs; of others it says nothing.
        authors: Authors,
        /// Of each author's log, at most [`crate::limits::DIGEST_ROWS_MAX`].
        rows: Vec<DigestRow>,
        /// Hash over all membership changes that count, in the order of their hashes; [`Hash::ZERO`] = not said.
        changes: Hash,
    },
    /// Entries that the receiver lacks, each author's in order.
    Entries {
        /// The entries.
        entries: Vec<EntryItem>,
        /// True if there is more; the receiver answers with its new digest.
        more: bool,
    },
    /// "I hold these entries without their bodies, and may read them."
    Want(Vec<Places>),
    /// Answer to [`Self::Want`]: those of the entries that the sender has a body of, and may show.
    Bodies {
        /// The entries.
        entries: Vec<EntryItem>,
        /// The last place that was looked at; `None` = all that were asked for.
        until: Option<Place>,
    },
    /// Peers that are online as the gateway sees it.
    Presence {
        /// The gateway's epoch.
        epoch: Epoch,
        /// Peers whose node stream is up.
        online: Vec<PeerId>,
    },
    /// Progress of a call, from its gateway to its origin. For people; nothing is decided by it.
    Progress {
        /// Which call.
        id: ReqId,
        /// Which attempt.
        attempt: Attempt,
        /// Where it is.
        state: Phase,
        /// A line of progress from the tool, if there is one.
        note: String,
    },
    /// Gateway to target: run this.
    Dispatch(Dispatch),
    /// Target to gateway: what it did with a dispatch.
    Answer(Answer),
    /// Gateway to target: stop this call. (The durable cancel request travels in the log; this is the fast path.)
    Cancel {
        /// Which call.
        id: ReqId,
    },
}

impl Frame {
    /// Channel of this frame.
    #[must_use]
    pub fn channel(&self) -> Channel {
        match self {
            Self::Beacon(_) | Self::Query | Self::Notice(_) => Channel::Datagram,
            Self::Resign { .. }
            | Self::Handover { .. }
            | Self::Neighbours { .. }
            | Self::Digest { .. }
            | Self::Entries { .. }
            | Self::Want(_)
            | Self::Bodies { .. }
            | Self::Presence { .. }
            | Self::Progress { .. } => Channel::Stream,
            Self::Dispatch(_) | Self::Answer(_) | Self::Cancel { .. } => Channel::Node,
        }
    }
}

/// A leader's heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// Epoch and beacon number, signed by the leader.
    pub claim: Claim,
    /// Milliseconds since the leader sent it, as the relays reckon; so relays never renew a lease.
    pub age_ms: u64,
    /// Peers that have it already.
    pub covered: Arc<BTreeSet<PeerId>>,
}

/// Places of one log that follow on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Author of the log.
    pub author: PeerId,
    /// Incarnation.
    pub incarnation: Incarnation,
    /// The first of them.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// The authors that one digest is about: a range of their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authors {
    /// The lowest.
    pub from: PeerId,
    /// The lowest above them all; `None` = no end.
    pub until: Option<PeerId>,
}

impl Authors {
    /// Everyone.
    pub const ALL: Self = Self { from: PeerId([0; 32]), until: None };

    /// True if this one is among them.
    #[must_use]
    pub fn contains(&self, author: &PeerId) -> bool {
        self.from <= *author && self.until.is_none_or(|until| *author < until)
    }

    /// True if somebody may be among both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.until.is_none_or(|until| other.from < until) && other.until.is_none_or(|until| self.from < until)
    }
}

/// One author in a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestRow {
    /// Author of the log.
    pub author: PeerId,
    /// Incarnation.
    pub incarnation: Incarnation,
    /// Highest sequence held without gaps.
    pub seq: u64,
    /// True if the sender takes no more of it for now: its author is over its budget there.
    pub stopped: bool,
}

/// An entry on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryItem {
    /// The entry.
    pub entry: SignedEntry,
    /// For a call, and for a consent: milliseconds left by the sender's reckoning.
    pub left_ms: Option<u64>,
}

/// Gateway to target: run this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// The epoch in whose name. The target obeys only if it is not below its fence.
    pub claim: Claim,
    /// The header, signed by its origin.
    pub header: SignedEntry,
    /// Which attempt.
    pub attempt: Attempt,
    /// Milliseconds left by the gateway's reckoning.
    pub left_ms: u64,
    /// All that people said to it, as far as it needs that; at most [`crate::limits::CONSENTS_OF_CALL_MAX`].
    pub consents: Vec<EntryItem>,
}

/// Target to gateway, about one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which call.
    pub id: ReqId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The answer itself.
    pub what: AnswerKind,
}

/// See [`Answer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerKind {
    /// Taken; waits for a free place or a fsync.
    Waiting,
    /// Started.
    Running {
        /// A line of progress, or nothing.
        note: String,
    },
    /// Ended: the outcome, as the target's log has it. Sent only when durable.
    Ended(SignedEntry),
    /// Its arguments are on their way, and until then it takes no place: it starts when they come. Sent also of one that
    /// is not kept, since too many of its origin wait for theirs: try again later, at a slow pace.
    Lacking,
    /// A person has to say yes first, as far as its target knows: try again later.
    Asking,
    /// No free place: try again when another call of this target has ended.
    Busy,
    /// The epoch is below the target's fence.
    Fenced(Option<Claim>),
    /// Not acceptable for this target: bad header, unknown origin, and the like. Try again later, at a slow pace.
    Rejected(String),
}

/// Where a call is, as the world sees it, before its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Durable at its origin.
    Accepted,
    /// Waits for a person to say yes.
    Asking,
    /// In a gateway's queue.
    Queued,
    /// Sent to its target.
    Dispatched,
    /// Started.
    Running,
}

impl Phase {
    /// The word that the world sees.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Asking => "asking",
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
        }
    }
}
