//! The newest log lines, kept in memory for whoever looks at a running agent.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::mesh::clock;

/// Lines kept.
pub const LINES_MAX: usize = 1000;
/// Bytes of one line's message; with [`LINES_MAX`] this bounds the ring at about 2 MiB.
const LINE_BYTES_MAX: usize = 2048;

#[derive(Debug, Default)]
struct Ring {
    next: u64,
    lines: VecDeque<Line>,
}

/// A line of the log.
#[derive(Debug, Clone)]
pub struct Line {
    /// Rises by one; starts anew with the process.
    pub id: u64,
    /// Wall time, milliseconds since 1970.
    pub at_ms: u64,
    /// Severity.
    pub level: Level,
    /// Part of the program.
    pub target: &'static str,
    /// The message and its fields.
    pub message: String,
}

/// The newest [`LINES_MAX`] lines. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LogRing(Arc<Mutex<Ring>>);

impl LogRing {
    /// The layer that fills it; add it to the subscriber, with the filter of the other outputs.
    #[must_use]
    pub fn layer(&self) -> RingLayer {
        RingLayer(self.clone())
    }

    fn push(&self, level: Level, target: &'static str, message: String) {
        let at_ms = clock::now().wall_ms;
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.next += 1;
        let id = ring.next;
        ring.lines.push_back(Line { id, at_ms, level, target, message });
        if ring.lines.len() > LINES_MAX {
            ring.lines.pop_front();
        }
    }

    /// The newest `limit` lines after `after` that are at least as severe as `level`, oldest first.
    #[must_use]
    pub fn lines(&self, after: u64, level: Level, limit: usize) -> Vec<Line> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |line: &&Line| line.id > after && line.level <= level;
        let mut lines: Vec<_> = ring.lines.iter().rev().filter(fits).take(limit).cloned().collect();
        lines.reverse();
        lines
    }

    /// Number of the newest line; 0 before the first.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next
    }
}

/// Fills a [`LogRing`].
#[derive(Debug, Clone)]
pub struct RingLayer(LogRing);

impl<S: Subscriber> Layer<S> for RingLayer {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text { message: String::new(), fields: String::new() };
        event.record(&mut text);
        let mut line = text.message;
        line.push_str(&text.fields);
        line.truncate(mesh_core::limits::cut(&line, LINE_BYTES_MAX).len());
        let meta = event.metadata();
        self.0.push(*meta.level(), meta.target(), line);
    }
}

struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn the_newest_lines_are_kept_and_cut() {
        let ring = LogRing::default();
        let subscriber = tracing_subscriber::registry().with(ring.layer());
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..1100 {
                tracing::info!(n, name = "ä", "counting");
            }
            tracing::warn!("{}", "x".repeat(10_000));
        });
        let lines = ring.lines(0, Level::TRACE, 5000);
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[LINES_MAX - 2].message, "counting n=1099 name=\"ä\"");
        assert_eq!(lines[LINES_MAX - 1].message.len(), LINE_BYTES_MAX);
        assert_eq!(ring.lines(0, Level::WARN, 5000).len(), 1);
        assert_eq!(ring.lines(1099, Level::TRACE, 5000).len(), 2);
        assert_eq!(ring.lines(0, Level::TRACE, 3).len(), 3);
    }
}
