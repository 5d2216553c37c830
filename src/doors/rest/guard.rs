//! The guard around every route of REST: the caller is proven, errors and panics are problems, and headers that tame
//! browsers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;

use super::{metrics, problem};
use crate::doors::app::{App, AppState};
use crate::doors::auth;
use crate::doors::seats::SeatMark;
use crate::mesh::note_refused;
use crate::status::{ErrorCode, OpError};

/// No page of another origin may load an answer, not even as a picture.
const SAME_ORIGIN: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The policy of answers that are data: nothing in them may run, load or be framed.
const DATA_ONLY: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

/// Names the home that a request is meant for, as [`FileId`](crate::platform::FileId) shows it. An agent of another home
/// refuses: the copy of a home may lead to the socket of the original.
pub(crate) const HOME_HEADER: &str = "sigil-home";

/// Puts the guard around all of `routes`, and around what answers unknown paths.
pub(crate) fn guarded(routes: Router<Arc<App>>, app: Arc<App>) -> Router {
    routes.layer(middleware::from_fn_with_state(app.clone(), guard)).with_state(app)
}

/// Longest path and query, bytes; the longest of ours has some 300.
const URI_BYTES_MAX: usize = 8 * 1024;
/// Bytes of all headers together. The listener cuts the connection far above it, with an answer that explains nothing.
const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// The head of a request has its limits like its body.
fn check_head(request: &Request) -> Result<(), OpError> {
    let uri = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if uri > URI_BYTES_MAX {
        return Err(OpError::new(
            ErrorCode::UriTooLong,
            format!("path and query may have at most {URI_BYTES_MAX} bytes"),
        ));
    }
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers > HEADERS_BYTES_MAX {
        let detail = format!("all headers together may have at most {HEADERS_BYTES_MAX} bytes");
        return Err(OpError::new(ErrorCode::HeadersTooLarge, detail));
    }
    Ok(())
}

async fn guard(State(app): AppState, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = answer(&app, request, next).await.unwrap_or_else(IntoResponse::into_response);
    let mut response = problem::finish(response).await;
    metrics::count(route.as_ref().map_or("none", MatchedPath::as_str), response.status());
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(SAME_ORIGIN, HeaderValue::from_static("same-origin"));
    // Only files of the page say otherwise.
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(DATA_ONLY));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Proves the caller and runs the handler, which finds the [`Identity`](crate::doors::Identity) in the extensions.
async fn answer(app: &App, mut request: Request, next: Next) -> Result<Response, OpError> {
    check_head(&request)?;
    let meant = request.headers().get(HOME_HEADER).map(|home| home.to_str().ok().and_then(|home| home.parse().ok()));
    if meant.is_some_and(|home| home != Some(app.context.home_id)) {
        let detail =
            format!("this is the agent of {}, not that of the home that was meant", app.context.home.display());
        return Err(OpError::new(ErrorCode::WrongHost, detail).hint("start one there with `sigil up --detach`"));
    }
    let mut found = None;
    let identified = auth::identify(&app.context, &request, &mut found).inspect_err(|error| {
        if let Some(row) = auth::refused(&request, found.as_deref(), error) {
            note_refused(app.mesh(), row);
        }
    });
    if let Some(identity) = identified? {
        if let Some(seat) = request.extensions().get::<SeatMark>() {
            seat.prove(identity.seats());
        }
        request.extensions_mut().insert(identity);
    }
    AssertUnwindSafe(next.run(request)).catch_unwind().await.map_err(|_| {
        // The panic hook has logged where; the client learns only that it was our fault.
        OpError::new(ErrorCode::Internal, "an internal error, not a fault of the request; the log has the details")
    })
}
