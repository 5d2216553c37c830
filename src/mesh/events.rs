//! Events for clients that follow the mesh: numbered, kept for a while, and fed live.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::ids::{PeerId, ReqId};
use mesh_core::io::HistoryRow;
use tokio::sync::broadcast;

/// One thing that happened, numbered so that a client can resume.
#[derive(Debug, Clone)]
pub struct Event {
    /// Rises by one; starts anew with the process.
    pub id: u64,
    /// Wall time.
    pub at_ms: u64,
    /// The event itself.
    pub what: EventKind,
}

/// See [`Event`].
#[derive(Debug, Clone)]
pub enum EventKind {
    /// The gateway has changed: peer and counter of its epoch.
    Gateway(Option<(PeerId, u64)>),
    /// Nodes, links or tiers have changed.
    Nodes,
    /// A call has changed.
    Call(ReqId, HistoryRow),
    /// The list of devices that await approval has changed.
    Pending,
    /// The list of nearby devices has changed.
    Nearby,
    /// Something asks for attention.
    Warning(String),
}

/// Events that are kept for clients that resume.
pub const EVENTS_KEPT: usize = 4096;

/// The newest [`EVENTS_KEPT`] events, and a live feed of them.
#[derive(Debug)]
pub struct EventLog {
    kept: Mutex<(u64, VecDeque<Arc<Event>>)>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { kept: Mutex::default(), live: broadcast::channel(1024).0 }
    }
}

impl EventLog {
    /// Adds an event and tells whoever listens.
    pub fn push(&self, at_ms: u64, what: EventKind) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 += 1;
        let event = Arc::new(Event { id: kept.0, at_ms, what });
        kept.1.push_back(event.clone());
        if kept.1.len() > EVENTS_KEPT {
            kept.1.pop_front();
        }
        // Nobody listening is fine. Sent under the lock, so that a subscriber sees no gap and no double.
        let _ = self.live.send(event);
    }

    /// Number of the newest event, 0 before the first: with [`Self::since`] the place to begin without a gap.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Events after `after` that are still kept, and the feed of what follows them. `None` in place of the list when
    /// some after `after` are gone (the client must start over).
    #[must_use]
    pub fn since(&self, after: Option<u64>) -> (Option<Vec<Arc<Event>>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        let Some(after) = after else { return (Some(Vec::new()), live) };
        let oldest = kept.1.front().map_or(kept.0 + 1, |event| event.id);
        let old = (after + 1 >= oldest && after <= kept.0)
            .then(|| kept.1.iter().filter(|event| event.id > after).cloned().collect());
        (old, live)
    }
}
