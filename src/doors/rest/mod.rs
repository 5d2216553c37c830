//! REST: `/api/v1` on a unix socket and on loopback HTTP, the same on every peer, gateway or not (architecture.md §9).
//!
//! Everything here is a client of [`MeshHandle`]; nothing is decided here but who may ask and how it is said.

mod auth;
pub mod calls;
mod doctor;
mod events;
pub mod extract;
mod joining;
mod logs;
mod metrics;
pub mod model;
mod nodes;
mod openapi;
pub mod problem;
pub mod server;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use auth::{Door, TOKENS_MAX, TokenStore};
pub use doctor::{Check, CheckState, Report};
pub use extract::JSON_DEPTH_MAX;
pub use logs::{LINES_MAX, LogLine, LogRing, RingLayer};
pub use metrics::recorder;
pub use model::{Endpoints, NodeState, time};
pub use openapi::document;
pub use problem::{PROBLEM_JSON, Problem};
pub use server::{Bound, ServeError, serve};

use crate::mesh::MeshHandle;
use crate::mesh::transport::Address;
use crate::status::{ErrorCode, Fault};

/// Who asks, in the books of a call. Every door admits only the owner until there are workspaces.
pub const PRINCIPAL: &str = "owner";

/// What the doors need.
#[derive(Debug)]
pub struct RestContext {
    /// The mesh.
    pub mesh: MeshHandle,
    /// UDP addresses that the mesh listens on, for `status`.
    pub quic: Vec<Address>,
    /// Tokens of the loopback door.
    pub tokens: Arc<TokenStore>,
    /// The newest log lines.
    pub logs: LogRing,
    /// Data directory: `doctor` looks at its file modes and free space.
    pub home: PathBuf,
    /// More checks of `doctor`, from whoever knows.
    pub checks: Vec<DoctorCheck>,
}

/// A check that another part brings to `doctor`. Runs on a thread that may block.
#[derive(Clone)]
pub struct DoctorCheck(pub Arc<dyn Fn() -> Check + Send + Sync>);

impl std::fmt::Debug for DoctorCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DoctorCheck")
    }
}

/// The context with what is known once the doors are open.
#[derive(Debug)]
pub(crate) struct App {
    context: RestContext,
    bound: Bound,
    stop: CancellationToken,
    started_ms: u64,
}

type Shared = State<Arc<App>>;

impl App {
    fn new(context: RestContext, bound: Bound, stop: CancellationToken) -> Self {
        Self { context, bound, stop, started_ms: model::now_ms() }
    }

    fn mesh(&self) -> &MeshHandle {
        &self.context.mesh
    }
}

/// All routes, and their description.
pub(crate) fn router(app: Arc<App>) -> (Router, utoipa::openapi::OpenApi) {
    let (router, api) = described().split_for_parts();
    let guard = middleware::from_fn_with_state(app.clone(), around);
    (router.layer(guard).with_state(app), api)
}

fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(nodes::status))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::show, nodes::forget))
        .routes(routes!(nodes::approve))
        .routes(routes!(nodes::tools))
        .routes(routes!(joining::pending))
        .routes(routes!(joining::approve))
        .routes(routes!(joining::reject))
        .routes(routes!(joining::nearby))
        .routes(routes!(joining::invite))
        .routes(routes!(joining::join))
        .routes(routes!(joining::leave))
        .routes(routes!(joining::mint_token, joining::revoke_tokens))
        .routes(routes!(calls::create, calls::list))
        .routes(routes!(calls::show))
        .routes(routes!(calls::result))
        .routes(routes!(calls::cancel))
        .routes(routes!(events::events))
        .routes(routes!(logs::logs))
        .routes(routes!(doctor::doctor))
        .routes(routes!(metrics::metrics))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(openapi::openapi))
}

/// Around every route: who may ask, what a panic looks like, how errors look, headers that tame browsers.
async fn around(State(app): Shared, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = match auth::check(&app.context.tokens, &request) {
        Err(fault) => fault.into_response(),
        Ok(()) => AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
            // The panic hook has logged where; the client learns only that it was our fault.
            Fault::new(ErrorCode::Internal, "a fault of sigil, not of the request; the log has the details")
                .into_response()
        }),
    };
    let mut response = problem::finish(response).await;
    metrics::count(route.as_ref().map_or("none", MatchedPath::as_str), response.status());
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"),
    );
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", operation_id = "getHealth", tag = "operation", security(()),
    responses((status = 200, description = "It does", body = String), problem::Problems))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the agent can take calls: its store is open, it belongs to a mesh (be it of one), and it is not stopping.
#[utoipa::path(get, path = "/readyz", operation_id = "getReady", tag = "operation", security(()),
    responses((status = 200, description = "It can", body = String), problem::Problems))]
async fn readyz(State(app): Shared) -> Result<&'static str, Fault> {
    if app.stop.is_cancelled() || app.mesh().requests.is_closed() {
        return Err(crate::mesh::MeshError::Stopping.into());
    }
    Ok("ready\n")
}
