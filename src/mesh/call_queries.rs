//! Listings of calls.

use mesh_core::entry::Ending;
use mesh_core::ids::{NodeId, ReqId};
use mesh_core::io::{CallRecord, CallState};

/// Selection of calls to list.
#[derive(Debug, Clone, Default)]
pub struct CallFilter {
    /// Only calls for this node.
    pub node: Option<NodeId>,
    /// Only calls in this state. [`CallStateFilter::Queued`] is everything that has not started.
    pub state: Option<CallStateFilter>,
}

/// See [`CallFilter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStateFilter {
    /// Exactly this one.
    Is(CallState),
    /// Accepted, queued or dispatched.
    Queued,
    /// Any ending.
    Ended,
    /// No ending yet.
    Open,
}

impl CallStateFilter {
    /// Returns true if a call in `state` passes.
    #[must_use]
    pub fn passes(self, state: CallState) -> bool {
        use mesh_core::frame::Phase;
        match self {
            Self::Is(wanted) => wanted == state,
            Self::Queued => matches!(state, CallState::Open(Phase::Accepted | Phase::Queued | Phase::Dispatched)),
            Self::Ended => matches!(state, CallState::Ended(_)),
            Self::Open => matches!(state, CallState::Open(_)),
        }
    }

    /// Reads the word that people use: `queued`, `open`, `ended`, or a state's own name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        use mesh_core::frame::Phase;
        Some(match word {
            "queued" => Self::Queued,
            "open" => Self::Open,
            "ended" => Self::Ended,
            "accepted" => Self::Is(CallState::Open(Phase::Accepted)),
            "dispatched" => Self::Is(CallState::Open(Phase::Dispatched)),
            "running" => Self::Is(CallState::Open(Phase::Running)),
            "done" => Self::Is(CallState::Ended(Ending::Done)),
            "failed" => Self::Is(CallState::Ended(Ending::Failed)),
            "interrupted" => Self::Is(CallState::Ended(Ending::Interrupted)),
            "expired" => Self::Is(CallState::Ended(Ending::Expired)),
            "cancelled" => Self::Is(CallState::Ended(Ending::Cancelled)),
            "denied" => Self::Is(CallState::Ended(Ending::Denied)),
            "undeliverable" => Self::Is(CallState::Ended(Ending::Undeliverable)),
            _ => return None,
        })
    }
}

/// Start of a page of calls: wall time of acceptance and id of the last one shown; newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallCursor {
    /// Wall time of acceptance.
    pub accepted_ms: u64,
    /// The call.
    pub id: ReqId,
}

/// A page of calls, newest first.
#[derive(Debug, Clone)]
pub struct CallPage {
    /// The calls.
    pub items: Vec<CallRecord>,
    /// Start of the next page, if there is one.
    pub next: Option<CallCursor>,
}
