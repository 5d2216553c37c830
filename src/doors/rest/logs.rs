//! The newest log lines, kept in memory for `GET /logs`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::extract::{Query, check_accept};
use super::model::{Page, now_ms, time};
use super::problem::Problems;
use crate::status::{ErrorCode, Fault};

/// Lines kept.
pub const LINES_MAX: usize = 1000;
/// Bytes of one line's message; with [`LINES_MAX`] this bounds the ring at about 2 MiB.
const LINE_BYTES_MAX: usize = 2048;

/// A line of the log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogLine {
    /// Rises by one; starts anew with the process.
    pub id: u64,
    /// When.
    pub at: String,
    /// error, warn, info, debug or trace.
    pub level: &'static str,
    /// Which part of the program.
    pub target: String,
    /// The message and its fields.
    pub message: String,
}

#[derive(Debug, Default)]
struct Ring {
    next: u64,
    lines: VecDeque<Line>,
}

#[derive(Debug)]
struct Line {
    id: u64,
    at_ms: u64,
    level: Level,
    target: &'static str,
    message: String,
}

/// The newest [`LINES_MAX`] lines. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LogRing(Arc<Mutex<Ring>>);

impl LogRing {
    /// The part that fills it; add it to the subscriber, with the filter of the other outputs.
    #[must_use]
    pub fn layer(&self) -> RingLayer {
        RingLayer(self.clone())
    }

    fn push(&self, level: Level, target: &'static str, message: String) {
        let at_ms = now_ms();
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.next += 1;
        let id = ring.next;
        ring.lines.push_back(Line { id, at_ms, level, target, message });
        if ring.lines.len() > LINES_MAX {
            ring.lines.pop_front();
        }
    }

    /// The newest `limit` lines after `after` that are at least as grave as `level`, oldest first.
    #[must_use]
    pub fn lines(&self, after: u64, level: Level, limit: usize) -> Vec<LogLine> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |line: &&Line| line.id > after && line.level <= level;
        let mut lines: Vec<_> = ring.lines.iter().rev().filter(fits).take(limit).map(Line::show).collect();
        lines.reverse();
        lines
    }

    fn newest(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next
    }
}

impl Line {
    fn show(&self) -> LogLine {
        let level = match self.level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        LogLine {
            id: self.id,
            at: time(self.at_ms),
            level,
            target: self.target.to_owned(),
            message: self.message.clone(),
        }
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

/// Which lines to show.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// At most so many, the newest, 1 to 1000; default 200.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// error, warn, info, debug or trace: this and graver ones; default all that are kept.
    level: Option<String>,
    /// `next_cursor` of an earlier answer: only what came after it.
    cursor: Option<String>,
}

/// The newest log lines of this agent, oldest first. `next_cursor` is always given: ask again with it for what follows.
#[utoipa::path(get, path = "/api/v1/logs", operation_id = "listLogs", tag = "operation", params(LogQuery),
    responses((status = 200, description = "Lines", body = Page<LogLine>), Problems))]
pub(super) async fn logs(
    State(app): Shared,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<LogLine>>, Fault> {
    check_accept(&headers, "application/json")?;
    let limit = query.limit.unwrap_or(200);
    if !(1..=LINES_MAX).contains(&limit) {
        return Err(Fault::new(ErrorCode::Invalid, format!("limit must be 1 to {LINES_MAX}")));
    }
    let level = query.level.map_or(Ok(Level::TRACE), |word| {
        word.parse().map_err(|_| Fault::new(ErrorCode::Invalid, "level must be error, warn, info, debug or trace"))
    })?;
    let after = query.cursor.map_or(Ok(0), |cursor| {
        cursor.parse().map_err(|_| Fault::new(ErrorCode::Invalid, "`cursor` is not one that this route gave out"))
    })?;
    let newest = app.context.logs.newest();
    let mut items = app.context.logs.lines(after, level, limit);
    // Lines that came between the two looks belong to the next answer.
    items.retain(|line| line.id <= newest);
    Ok(Json(Page { items, next_cursor: Some(newest.to_string()) }))
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
