//! Parts of a result: listed with their call, and each as its raw bytes.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use mesh_core::io::CallRecord;
use mesh_core::limits::PARTS_MAX;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Segments;
use super::results::{RESULT_WAIT, RawBytes, prefer_wait, url};
use super::shapes::{CallId, Whole};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::calls::{self, PartRead};
use crate::mesh::ResultBody;
use crate::status::{ErrorCode, OpError};

/// Types that browsers show without running anything; all others are for files.
const SHOWN: [&str; 15] = [
    "application/json",
    "text/plain",
    "text/csv",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "audio/mpeg",
    "audio/wav",
    "audio/ogg",
    "audio/webm",
    "video/mp4",
    "video/webm",
    "video/ogg",
];
/// Number of a part.
type PartNumber = Whole<0, 15>;
const _: () = assert!(PARTS_MAX == 16, "the numbers of parts end at 15");

/// A part of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Part {
    /// Its number, from 0.
    n: usize,
    /// Type of its bytes, as its device says.
    media_type: String,
    /// Their number.
    bytes: u64,
    /// Name of a file; null: it has none.
    name: Option<String>,
    /// SHA-256 of the bytes.
    sha256: String,
    /// Path of the raw bytes.
    url: String,
}

/// All parts of the result of a call; none where the output is all of it. `id`: as the call is asked for.
pub(super) fn of(id: mesh_core::ids::ReqId, record: &CallRecord) -> Vec<Part> {
    let of = |(n, part): (usize, &mesh_core::record::Part)| {
        let payload = part.payload.as_ref().unwrap_or(&record.output);
        Part {
            n,
            media_type: part.media_type.clone(),
            bytes: payload.len(),
            name: Some(part.name.clone()).filter(|name| !name.is_empty()),
            sha256: data_encoding::HEXLOWER.encode(&payload.hash().0),
            url: format!("{}/result/{n}", url(id)),
        }
    };
    record.parts.iter().enumerate().map(of).collect()
}

/// One part of the result of a call, as raw bytes.
///
/// Of a type that is not shown in a browser it is `application/octet-stream`, to be kept as a file. Bytes that are on their way
/// here are waited for, as of the whole result.
#[utoipa::path(get, path = "/api/v1/calls/{id}/result/{n}", operation_id = "getResultPart", tag = "calls",
    params(("id" = inline(CallId), Path, description = "Id of the call"),
           ("n" = inline(PartNumber), Path, description = "Number of the part, from 0"),
           ("Prefer" = String, Header, description = "`wait=N`")),
    responses((status = 200, description = "The bytes",
        content((serde_json::Value = "application/json"), (String = "text/plain"), (String = "text/csv"),
            (RawBytes = "image/*"), (RawBytes = "audio/*"), (RawBytes = "video/*"), (RawBytes = "application/octet-stream")))))]
pub(super) async fn part(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segments(CallId(id), Whole(n)): Segments<CallId, PartNumber>,
    headers: HeaderMap,
) -> Result<Response, OpError> {
    let wait = prefer_wait(&headers).unwrap_or(RESULT_WAIT);
    let n = usize::try_from(n).unwrap_or(usize::MAX);
    let PartRead { media_type, name, body } = calls::part(app.mesh(), &who, id, n, wait).await?;
    let (len, body) = match body {
        ResultBody::Inline(bytes) => (bytes.len() as u64, Body::from(bytes)),
        ResultBody::File { path, len } => {
            let read =
                |error: std::io::Error| OpError::new(ErrorCode::StoreFailed, format!("reading the result: {error}"));
            let file = tokio::fs::File::open(&path).await.map_err(read)?;
            (len, Body::from_stream(tokio_util::io::ReaderStream::with_capacity(file, 64 * 1024)))
        }
    };
    let invalid = |error: axum::http::header::InvalidHeaderValue| OpError::new(ErrorCode::Internal, error.to_string());
    let (kind, disposition) = (shown_as(&media_type), disposition(&media_type, &name));
    let disposition = HeaderValue::from_str(&disposition).map_err(invalid)?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CONTENT_LENGTH, HeaderValue::from(len)),
        (CONTENT_DISPOSITION, disposition),
    ];
    Ok((headers, body).into_response())
}

fn essence(media_type: &str) -> Option<&'static str> {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    SHOWN.into_iter().find(|shown| shown.eq_ignore_ascii_case(essence))
}

fn shown_as(media_type: &str) -> &'static str {
    match essence(media_type) {
        Some("text/plain") => "text/plain; charset=utf-8",
        Some("text/csv") => "text/csv; charset=utf-8",
        Some(other) => other,
        None => "application/octet-stream",
    }
}

/// A header that says whether it is shown or kept, and under which name (RFC 6266, RFC 8187).
fn disposition(media_type: &str, name: &str) -> String {
    let what = if essence(media_type).is_some() { "inline" } else { "attachment" };
    if name.is_empty() {
        return what.to_owned();
    }
    let escaped: String = name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("{what}; filename*=UTF-8''{escaped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_would_run_is_a_file() {
        for (said, shown) in [
            ("image/png", "image/png"),
            ("Text/Plain; charset=latin1", "text/plain; charset=utf-8"),
            ("text/html", "application/octet-stream"),
            ("image/svg+xml", "application/octet-stream"),
            ("application/javascript", "application/octet-stream"),
        ] {
            assert_eq!(shown_as(said), shown, "{said}");
        }
        assert_eq!(
            disposition("text/html", "a\"; b=c\r\n.html"),
            "attachment; filename*=UTF-8''a%22%3B%20b%3Dc%0D%0A.html"
        );
        assert_eq!(disposition("image/png", ""), "inline");
    }
}
