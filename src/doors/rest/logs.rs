//! The newest log lines over REST.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use tracing::Level;
use utoipa::{IntoParams, ToSchema};

use super::events::write_id;
use super::extract::{Query, check_accept};
use super::model::{Page, time};
use super::shapes::{LogCursor, LogLevel, Whole, of_query};
use crate::doors::app::AppState;
use crate::doors::log_ring::{LINES_MAX, Line};
use crate::status::OpError;

/// A line of the log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogLine {
    /// Rises by one; starts anew with the process.
    pub id: u64,
    /// Wall time.
    pub at: String,
    /// error, warn, info, debug or trace.
    pub level: &'static str,
    /// Part of the program.
    pub target: String,
    /// The message and its fields.
    pub message: String,
}

impl From<Line> for LogLine {
    fn from(line: Line) -> Self {
        let level = match line.level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        Self { id: line.id, at: time(line.at_ms), level, target: line.target.to_owned(), message: line.message }
    }
}

/// Lines in one answer.
type LinesLimit = Whole<1, { LINES_MAX as u64 }>;

/// Filter of lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// At most so many, the newest; default 200.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    limit: Option<LinesLimit>,
    /// This and more severe ones; default all that are kept.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    level: Option<LogLevel>,
    /// `next_cursor` of an earlier answer: only what came after it. After a restart of the agent, which begins a new log,
    /// it means all that is kept.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    cursor: Option<LogCursor>,
}

/// The newest log lines of this agent, oldest first. `next_cursor` is always given: ask again with it for the lines that follow.
#[utoipa::path(get, path = "/api/v1/logs", operation_id = "listLogs", tag = "operation", params(LogQuery),
    responses((status = 200, description = "Lines", body = Page<LogLine>)))]
pub(super) async fn logs(
    State(app): AppState,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<LogLine>>, OpError> {
    check_accept(&headers, "application/json")?;
    let limit = query.limit.map_or(200, |limit| limit.0);
    let level = query.level.map_or(Level::TRACE, |level| level.0);
    let after = query.cursor.map_or(0, |cursor| after(app.started_ms, &cursor));
    let newest = app.context.logs.newest();
    let mut items = app.context.logs.lines(after, level, usize::try_from(limit).unwrap_or(LINES_MAX));
    // Lines that came between the two looks belong to the next answer.
    items.retain(|line| line.id <= newest);
    let items = items.into_iter().map(Into::into).collect();
    Ok(Json(Page { items, next_cursor: Some(write_id(app.started_ms, newest)) }))
}

/// The line after which a cursor stands; 0 for a cursor of another run, whose lines have gone with it.
fn after(run: u64, LogCursor((of, line)): &LogCursor) -> u64 {
    if *of == run { *line } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::rest::shapes::Shape as _;

    #[test]
    fn b13_a_cursor_of_another_run_starts_anew() {
        let cursor = LogCursor::read(&write_id(7, 42)).unwrap();
        assert_eq!((after(7, &cursor), after(8, &cursor)), (42, 0));
        for bad in ["", "42", "7-", "-42", "7-x", "g-1", "+7-42", "7-+42"] {
            assert!(LogCursor::read(bad).is_err(), "{bad}");
        }
    }
}
