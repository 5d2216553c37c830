//! The door of a real peer.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use testbed::http::{Request, ask_unix};
pub(super) use testbed::text;

/// Longest that an agent may stay silent within one answer, also on a disk that is busy with other things.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// The body; null when it is empty or no JSON.
    pub(super) body: Value,
}

impl Answer {
    /// True for a status of success.
    pub(super) fn is_yes(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A field of the body as text; empty when it is not there.
    pub(super) fn text(&self, field: &str) -> String {
        text(&self.body, field).to_owned()
    }
}

/// Asks at `socket`; `key` goes along as `Idempotency-Key`.
pub(super) fn ask(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    key: Option<&str>,
) -> io::Result<Answer> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut headers = vec![("Content-Type", "application/json")];
    headers.extend(key.map(|key| ("Idempotency-Key", key)));
    let path = format!("/api/v1/{path}");
    let request = Request { method, path: &path, headers: &headers, body: body.as_bytes() };
    let response = ask_unix(socket, &request, SILENCE_MAX)?;
    Ok(Answer { status: response.status, body: response.value() })
}
