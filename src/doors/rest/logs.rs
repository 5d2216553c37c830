//! The newest log lines over REST.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use tracing::Level;
use utoipa::{IntoParams, ToSchema};

use super::events::{read_id, write_id};
use super::extract::{Query, check_accept};
use super::model::{Page, time};
use super::problem::Problems;
use crate::doors::app::AppState;
use crate::doors::log_ring::{LINES_MAX, Line};
use crate::status::{ErrorCode, OpError};

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

/// Filter of lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// At most so many, the newest, 1 to 1000; default 200.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// error, warn, info, debug or trace: this and more severe ones; default all that are kept.
    level: Option<String>,
    /// `next_cursor` of an earlier answer: only what came after it. After a restart of the agent, which begins a new log,
    /// it means all that is kept.
    cursor: Option<String>,
}

/// The newest log lines of this agent, oldest first. `next_cursor` is always given: ask again with it for the lines that follow.
#[utoipa::path(get, path = "/api/v1/logs", operation_id = "listLogs", tag = "operation", params(LogQuery),
    responses((status = 200, description = "Lines", body = Page<LogLine>), Problems))]
pub(super) async fn logs(
    State(app): AppState,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<LogLine>>, OpError> {
    check_accept(&headers, "application/json")?;
    let limit = query.limit.unwrap_or(200);
    if !(1..=LINES_MAX).contains(&limit) {
        return Err(OpError::new(ErrorCode::Invalid, format!("limit must be 1 to {LINES_MAX}")));
    }
    let level = query.level.map_or(Ok(Level::TRACE), |word| {
        word.parse().map_err(|_| OpError::new(ErrorCode::Invalid, "level must be error, warn, info, debug or trace"))
    })?;
    let after = query.cursor.as_deref().map_or(Ok(0), |cursor| after(app.started_ms, cursor))?;
    let newest = app.context.logs.newest();
    let mut items = app.context.logs.lines(after, level, limit);
    // Lines that came between the two looks belong to the next answer.
    items.retain(|line| line.id <= newest);
    let items = items.into_iter().map(Into::into).collect();
    Ok(Json(Page { items, next_cursor: Some(write_id(app.started_ms, newest)) }))
}

/// The line after which a cursor stands; 0 for a cursor of another run, whose lines have gone with it.
fn after(run: u64, cursor: &str) -> Result<u64, OpError> {
    let parts = cursor.split_once('-').and_then(|(run, id)| Some((u64::from_str_radix(run, 16).ok()?, id)));
    let well_formed = parts.is_some_and(|(of, _)| read_id(of, cursor).is_some());
    let foreign = || OpError::new(ErrorCode::Invalid, "`cursor` is not one that this route gave out");
    if well_formed { Ok(read_id(run, cursor).unwrap_or(0)) } else { Err(foreign()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b13_a_cursor_of_another_run_starts_anew() {
        assert_eq!(after(7, &write_id(7, 42)), Ok(42));
        assert_eq!(after(8, &write_id(7, 42)), Ok(0));
        for bad in ["", "42", "7-", "-42", "7-x", "g-1"] {
            assert!(after(7, bad).is_err(), "{bad}");
        }
    }
}
