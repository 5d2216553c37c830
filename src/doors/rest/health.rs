//! Liveness and readiness, for supervisors.

use axum::extract::State;

use crate::doors::app::AppState;
use crate::mesh::MeshError;
use crate::status::OpError;

/// Answers while the process lives.
#[utoipa::path(get, path = "/healthz", operation_id = "getHealth", tag = "operation", security(()),
    responses((status = 200, description = "It is alive", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers while the agent can take calls: its store is open, it belongs to a mesh (be it of one), and it is not stopping.
#[utoipa::path(get, path = "/readyz", operation_id = "getReady", tag = "operation", security(()),
    responses((status = 200, description = "It is ready", body = String)))]
pub(super) async fn readyz(State(app): AppState) -> Result<&'static str, OpError> {
    if app.stop.is_cancelled() || app.mesh().is_closed() {
        return Err(MeshError::Stopping.into());
    }
    Ok("ready\n")
}
