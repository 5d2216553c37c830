//! Everything that the mesh publishes to those above it: the view, the surroundings, events.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::PeerId;
use mesh_core::io::View;
use tokio::sync::watch;

use crate::mesh::clock;
use crate::mesh::events::{EventKind, EventLog};
use crate::mesh::snapshot::Surroundings;
use crate::mesh::warnings::Warnings;

/// The publishing ends. Receivers see the newest state; events are numbered and kept for a while.
#[derive(Debug)]
pub(super) struct Publisher {
    view: watch::Sender<Arc<View>>,
    surroundings: watch::Sender<Arc<Surroundings>>,
    events: Arc<EventLog>,
    warnings: Warnings,
    /// True if the surroundings have changed since they were published.
    changed: bool,
    longest_step: Duration,
}

impl Publisher {
    /// Creates one that shows this view, and empty surroundings that are not up to date.
    pub(super) fn new(view: View) -> Self {
        Self {
            view: watch::Sender::new(Arc::new(view)),
            surroundings: watch::Sender::default(),
            events: Arc::default(),
            warnings: Warnings::default(),
            changed: true,
            longest_step: Duration::ZERO,
        }
    }

    /// The view that was published last.
    pub(super) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The surroundings that were published last.
    pub(super) fn surroundings(&self) -> Arc<Surroundings> {
        self.surroundings.borrow().clone()
    }

    /// The event log.
    pub(super) fn events(&self) -> Arc<EventLog> {
        self.events.clone()
    }

    /// A receiver of the view.
    pub(super) fn watch_view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// A receiver of the surroundings.
    pub(super) fn watch_surroundings(&self) -> watch::Receiver<Arc<Surroundings>> {
        self.surroundings.subscribe()
    }

    /// Publishes a view.
    pub(super) fn publish_view(&self, view: View) {
        self.view.send_replace(Arc::new(view));
    }

    /// Publishes the surroundings.
    pub(super) fn publish_surroundings(&mut self, surroundings: Surroundings) {
        self.changed = false;
        self.surroundings.send_replace(Arc::new(surroundings));
    }

    /// Notes that the surroundings have changed: they are published within a second.
    pub(super) fn note_change(&mut self) {
        self.changed = true;
    }

    /// Notes how long the driver took for one thing that happened; nothing else happened meanwhile.
    pub(super) fn note_step(&mut self, took: Duration) {
        if took > self.longest_step {
            self.longest_step = took;
            self.changed = true;
        }
    }

    /// The longest step since this process began.
    pub(super) const fn longest_step(&self) -> Duration {
        self.longest_step
    }

    /// Returns true if the published surroundings are not up to date. `open_calls`: how many calls have no ending now.
    pub(super) fn is_stale(&self, open_calls: usize) -> bool {
        self.changed || self.surroundings.borrow().open_calls != open_calls
    }

    /// Tells clients of an event.
    pub(super) fn tell(&self, what: EventKind) {
        self.events.push(clock::now().wall_ms, what);
    }

    /// Tells people of a peer that needs attention; the same thing once in a while, however often it shows.
    pub(super) fn warn(&mut self, what: &'static str, peer: PeerId) {
        if let Some(text) = self.warnings.give(what, peer, clock::now()) {
            self.tell(EventKind::Warning(text));
        }
    }
}
