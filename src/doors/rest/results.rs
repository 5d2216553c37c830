//! What calls and parts of their results share: where they are, and how long they are waited for.

use std::time::Duration;

use axum::http::HeaderMap;
use mesh_core::ids::ReqId;
use utoipa::ToSchema;

/// Longest `Prefer: wait=`.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// Wait for the bytes of a result on their way here, if the client names none.
pub(super) const RESULT_WAIT: Duration = Duration::from_secs(30);
/// Path of a call.
pub(super) fn url(id: ReqId) -> String {
    format!("/api/v1/calls/{id}")
}

/// `Prefer: wait=N` (RFC 7240); anything else in it is not for us.
pub(super) fn prefer_wait(headers: &HeaderMap) -> Option<Duration> {
    let mut preferences =
        headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split([',', ';']));
    let seconds = preferences.find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("wait").then(|| value.parse::<u64>().ok()).flatten()
    })?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

/// Any bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it describes")]
pub(super) struct RawBytes(Vec<u8>);
