//! The health of this device over REST.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{Nothing, body_or_default, check_accept};
use crate::doors::app::AppState;
use crate::doors::ops::doctor::{self, Severity};
use crate::doors::ops::providers;
use crate::doors::settings::Reloaded;
use crate::status::OpError;

/// Severity of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// It works, but should not stay so.
    Warn,
    /// Something does not work.
    Error,
}

impl From<Severity> for CheckState {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Ok => Self::Ok,
            Severity::Warn => Self::Warn,
            Severity::Error => Self::Error,
        }
    }
}

/// A thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Finding)]
pub struct Check {
    /// Stable word.
    pub id: String,
    /// Severity.
    pub state: CheckState,
    /// Finding.
    pub cause: String,
    /// Next step; null when all is as it should be.
    pub fix: Option<String>,
}

impl From<doctor::Check> for Check {
    fn from(check: doctor::Check) -> Self {
        let doctor::Check { id, severity, cause, fix } = check;
        Self { id: id.to_owned(), state: severity.into(), cause, fix }
    }
}

/// All checks.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Report {
    /// The worst of them.
    pub state: CheckState,
    /// In a fixed order.
    pub checks: Vec<Check>,
}

/// Result of a reload.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Reload {
    /// Keys whose new values are in use.
    pub changed: Vec<String>,
    /// Keys whose new values take effect at the next start.
    pub at_next_start: Vec<String>,
    /// Settings in the file that are hardly meant.
    pub warnings: Vec<String>,
}

/// Reads `sigil.toml` anew. A file that cannot be used changes nothing, and the answer says what is wrong in it.
#[utoipa::path(post, path = "/api/v1/reload", operation_id = "reload", tag = "operation", request_body = Option<Nothing>,
    responses((status = 200, description = "The settings of the file are in use", body = Reload)))]
pub(super) async fn reload(State(app): AppState, request: Request<Body>) -> Result<Json<Reload>, OpError> {
    let Nothing {} = body_or_default(request).await?;
    let Reloaded { changed, at_next_start, warnings } = app.context.settings.reload().await?;
    Ok(Json(Reload { changed, at_next_start, warnings }))
}

/// Looks for what is wrong, and names the next step.
#[utoipa::path(get, path = "/api/v1/doctor", operation_id = "getDoctor", tag = "operation",
    responses((status = 200, description = "The findings", body = Report)))]
pub(super) async fn doctor(State(app): AppState, headers: HeaderMap) -> Result<Json<Report>, OpError> {
    check_accept(&headers, "application/json")?;
    let sandbox = app.context.sandbox.borrow().clone();
    let mut checks =
        doctor::examine(app.mesh(), &app.context.memory, &app.context.settings, sandbox, &app.context.home).await?;
    checks.push(doctor::containers(&app.context.engine.borrow()));
    checks.extend(doctor::tailnet_door(&app.tailnet.borrow()));
    let roster = app.context.roster.borrow().clone();
    checks.extend(providers::findings(&roster));
    let worst = checks.iter().map(|check| check.severity).max().unwrap_or(Severity::Ok);
    Ok(Json(Report { state: worst.into(), checks: checks.into_iter().map(Into::into).collect() }))
}
