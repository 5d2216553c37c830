//! Requests as clients send them: limits first, then shape, each failure a problem that says what to change.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::shapes::Shape;
use crate::json::deeper_than;
use crate::status::{ErrorCode, OpError};

/// Media type of nearly all answers.
pub(super) const JSON: &str = "application/json";
/// Deepest JSON that is taken.
pub const JSON_DEPTH_MAX: usize = crate::json::DEPTH_MAX;
/// Bodies other than those of calls.
pub const SMALL_BODY_BYTES_MAX: usize = 16 * 1024;
/// Longest time for a body: 1 MiB within it is slower than any loopback.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the bytes of a JSON body of at most `max` bytes.
pub(in crate::doors) async fn json_bytes(request: Request<Body>, max: usize, optional: bool) -> Result<Bytes, OpError> {
    let too_large = || OpError::new(ErrorCode::TooLarge, format!("the body may have at most {max} bytes"));
    check_encoding(request.headers())?;
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    let is_json = is_json(request.headers());
    let read = Limited::new(request.into_body(), max).collect();
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(error)) => return Err(OpError::new(ErrorCode::BadRequest, format!("reading the body: {error}"))),
        Err(_) => {
            return Err(OpError::new(
                ErrorCode::RequestTimeout,
                format!("the body took over {} s", BODY_TIMEOUT.as_secs()),
            ));
        }
    };
    if bytes.is_empty() && optional {
        return Ok(Bytes::from_static(b"{}"));
    }
    if !is_json {
        return Err(OpError::new(ErrorCode::UnsupportedMedia, "the body must be JSON")
            .hint("send the header `Content-Type: application/json`"));
    }
    Ok(bytes)
}

/// A compressed body is not taken: nothing here is large, and unpacking would need limits of its own.
fn check_encoding(headers: &HeaderMap) -> Result<(), OpError> {
    let plain = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    match headers.get_all(CONTENT_ENCODING).iter().find(|value| !plain(value)) {
        None => Ok(()),
        Some(other) => {
            let shown: String =
                String::from_utf8_lossy(other.as_bytes()).chars().take(40).flat_map(char::escape_default).collect();
            Err(OpError::new(
                ErrorCode::UnsupportedMedia,
                format!("the body is encoded as `{shown}`, which is not taken"),
            )
            .hint("send it plain, without the header `Content-Encoding`"))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// Parses a JSON object into a request's type: syntax errors are 400, everything else 422. An array is no object, though
/// serde would take one for a struct.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], depth_max: usize) -> Result<T, OpError> {
    if deeper_than(bytes, depth_max) {
        return Err(OpError::new(ErrorCode::Invalid, format!("the JSON is nested deeper than {JSON_DEPTH_MAX}")));
    }
    let problem = |error: serde_json::Error| {
        let code = if error.is_data() { ErrorCode::Invalid } else { ErrorCode::BadRequest };
        OpError::new(code, format!("the body: {error}"))
    };
    if !bytes.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(problem)?;
        return Err(OpError::new(ErrorCode::Invalid, "the body must be a JSON object")
            .hint("/openapi.json says which members it may have"));
    }
    serde_json::from_slice(bytes).map_err(problem)
}

/// Reads a small JSON body.
pub(super) async fn body<T: DeserializeOwned>(request: Request<Body>) -> Result<T, OpError> {
    parse(&json_bytes(request, SMALL_BODY_BYTES_MAX, false).await?, JSON_DEPTH_MAX)
}

/// Reads a small JSON body that may be absent, which means `{}`.
pub(super) async fn body_or_default<T: DeserializeOwned>(request: Request<Body>) -> Result<T, OpError> {
    parse(&json_bytes(request, SMALL_BODY_BYTES_MAX, true).await?, JSON_DEPTH_MAX)
}

/// The body of a request that has nothing to say: absent, or an object without members.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Parameters of the query; an unknown one is an error.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = OpError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, OpError> {
        axum::extract::Query::<T>::try_from_uri(&parts.uri).map(|query| Self(query.0)).map_err(|error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            OpError::new(ErrorCode::Invalid, format!("the query: {cause}"))
        })
    }
}

/// One segment of the path, of a known shape.
#[derive(Debug)]
pub(super) struct Segment<T>(pub(super) T);

impl<T: Shape, S: Send + Sync> FromRequestParts<S> for Segment<T> {
    type Rejection = OpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, OpError> {
        let text = axum::extract::Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| OpError::new(ErrorCode::BadRequest, error.to_string()))?;
        T::read(&text).map(Self).map_err(|why| OpError::new(ErrorCode::Invalid, why))
    }
}

/// The two segments of a path that has as many, each of a known shape.
#[derive(Debug)]
pub(super) struct Segments<A, B>(pub(super) A, pub(super) B);

impl<A: Shape, B: Shape, S: Send + Sync> FromRequestParts<S> for Segments<A, B> {
    type Rejection = OpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, OpError> {
        let (a, b) = axum::extract::Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|error| OpError::new(ErrorCode::BadRequest, error.to_string()))?
            .0;
        let invalid = |why| OpError::new(ErrorCode::Invalid, why);
        Ok(Self(A::read(&a).map_err(invalid)?, B::read(&b).map_err(invalid)?))
    }
}

/// Refuses when the client says that it cannot read `offered` ("application/json").
pub(super) fn check_accept(headers: &HeaderMap, offered: &'static str) -> Result<(), OpError> {
    let mut ranges =
        headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).peekable();
    if ranges.peek().is_none() {
        return Ok(());
    }
    let kind = offered.split_once('/').map_or(offered, |(kind, _)| kind);
    let fits = ranges.any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|p| p.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0)));
        let any_of_kind = name.strip_suffix("/*").is_some_and(|k| k == "*" || k.eq_ignore_ascii_case(kind));
        !refused && (any_of_kind || name.eq_ignore_ascii_case(offered))
    });
    if fits {
        return Ok(());
    }
    Err(OpError::new(ErrorCode::NotAcceptable, format!("this route answers with {offered} only")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accept_is_obeyed() {
        let with = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            check_accept(&headers, "application/json").is_ok()
        };
        assert!(with("*/*") && with("application/*") && with("text/html, application/json;q=0.5"));
        assert!(!with("text/html") && !with("application/json;q=0"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse::<serde_json::Value>(&bytes, JSON_DEPTH_MAX);
            let mut object = b"{".to_vec();
            object.extend(bytes);
            let _ = parse::<serde_json::Value>(&object, JSON_DEPTH_MAX);
        }
    }
}
