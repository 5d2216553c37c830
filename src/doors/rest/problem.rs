//! RFC 9457 problems: every error answer of every route, also those that axum itself gives.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, to_bytes};
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::Object;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::status::{ErrorCode, OpError};

/// Media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error answer (RFC 9457). Some codes bring more members, such as `choices`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:sigil:error:<code>`.
    #[serde(rename = "type")]
    #[schema(pattern = "^urn:sigil:error:[a-z_]+$")]
    pub kind: String,
    /// The same for every occurrence of the code.
    pub title: String,
    /// HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// This occurrence, for people.
    pub detail: String,
    /// Stable word, for machines.
    #[schema(schema_with = codes)]
    pub code: String,
    /// Next step, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Finds the matching lines in the log.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    pub trace_id: String,
    /// Seconds after which another try makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<f64>,
    /// Members of the particular code.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: Map<String, Value>,
}

/// All words of `code`.
fn codes() -> Object {
    let words = ErrorCode::ALL.iter().map(|code| code.as_str());
    let about = "Stable word, for machines.";
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).description(Some(about)).build()
}

impl IntoResponse for OpError {
    /// Leaves the body to `finish`, which knows the trace id.
    fn into_response(self) -> axum::response::Response {
        let status = StatusCode::from_u16(self.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// A new trace id: unique within the process, hard to mix up between processes.
fn trace_id() -> String {
    static BASE: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let base = BASE.get_or_init(|| {
        let mut bytes = [0; 8];
        // Without entropy the ids merely begin at 0.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
        u64::from_le_bytes(bytes)
    });
    // An odd factor (2^64 / golden ratio) makes neighbours look different and never repeats.
    let n = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:016x}", base.wrapping_add(n))
}

/// The answers that axum and hyper give by themselves, in our words.
fn foreign(status: StatusCode, text: &str) -> OpError {
    let code = match status.as_u16() {
        404 => ErrorCode::NotFound,
        405 => ErrorCode::MethodNotAllowed,
        406 => ErrorCode::NotAcceptable,
        408 => ErrorCode::RequestTimeout,
        413 => ErrorCode::TooLarge,
        414 => ErrorCode::UriTooLong,
        415 => ErrorCode::UnsupportedMedia,
        422 => ErrorCode::Invalid,
        431 => ErrorCode::HeadersTooLarge,
        500..=599 => ErrorCode::Internal,
        _ => ErrorCode::BadRequest,
    };
    let error = OpError::new(code, if text.is_empty() { code.title() } else { text });
    if code == ErrorCode::NotFound {
        error.hint("/openapi.json lists the routes")
    } else if code == ErrorCode::MethodNotAllowed {
        error.hint("the Allow header names the methods of this route")
    } else {
        error
    }
}

/// In the extensions of an answer that tells its error in the words of another protocol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told;

/// Turns an error answer into a problem; leaves all others alone, and those that are [`Told`].
pub(super) async fn finish(response: axum::response::Response) -> axum::response::Response {
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    if !is_error || response.extensions().get::<Told>().is_some() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let error = if let Some(error) = parts.extensions.remove::<OpError>() {
        error
    } else {
        let bytes = to_bytes(body, 4096).await.unwrap_or_default();
        foreign(parts.status, &String::from_utf8_lossy(&bytes))
    };
    let trace_id = trace_id();
    if error.code.http() == 500 {
        tracing::warn!(trace_id, code = %error.code, error = %error.detail, "a request failed");
    } else {
        tracing::debug!(trace_id, code = %error.code, error = %error.detail, "a request was refused");
    }
    let problem = Problem {
        kind: format!("urn:sigil:error:{}", error.code),
        title: error.code.title().to_owned(),
        status: error.code.http(),
        detail: error.detail,
        code: error.code.as_str().to_owned(),
        hint: error.hint,
        trace_id,
        retry_after_s: error.retry_after.map(|wait| wait.as_secs_f64()),
        extra: error.extra.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    };
    let bytes = serde_json::to_vec(&problem).unwrap_or_default();
    let mut answer = axum::response::Response::new(Body::from(bytes));
    *answer.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if let Some(allow) = parts.headers.remove(ALLOW) {
        headers.insert(ALLOW, allow);
    }
    if problem.status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sigil\""));
    }
    // RFC 9110 §10.2.3 knows whole seconds only; never less than what we mean.
    let retry = match problem.status {
        429 | 503 | 507 => Some(problem.retry_after_s.unwrap_or(1.0)),
        _ => problem.retry_after_s,
    };
    if let Some(seconds) = retry {
        let seconds = std::time::Duration::from_secs_f64(seconds.ceil().max(1.0)).as_secs();
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}
