//! Yeses for an hour: listed, and taken back.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{JSON, Segment, check_accept};
use super::model::{Page, time};
use super::shapes::HourId;
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::hours;
use crate::status::OpError;

/// A yes for an hour that counts: calls like the one that it was said to do not ask until it is over.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HourItem {
    /// Its id.
    #[schema(value_type = HourId)]
    id: String,
    /// The person who said it.
    by: String,
    /// Name of the device at which that was; null: it belongs to the mesh no more.
    at: Option<String>,
    /// The principal whose calls it lets through.
    principal: String,
    /// The workspace in which they are made; null: in none.
    workspace: Option<String>,
    /// Name of the device that they are for; null: it belongs to the mesh no more.
    node: Option<String>,
    /// The tool.
    tool: String,
    /// The asks that it answers.
    asks: Vec<String>,
    /// Time at which it is over.
    expires_at: String,
    /// True if the caller may take it back here.
    revocable: bool,
}

impl From<hours::Hour> for HourItem {
    fn from(hour: hours::Hour) -> Self {
        Self {
            id: hour.id.to_string(),
            by: format!("person:{}", hour.by),
            at: hour.at,
            principal: hour.asker.to_string(),
            workspace: hour.workspace,
            node: hour.node,
            tool: hour.tool,
            asks: hour.of.iter().map(ToString::to_string).collect(),
            expires_at: time(hour.until_ms),
            revocable: hour.is_revocable,
        }
    }
}

/// The yeses for an hour that count, as this device knows them, the one that is over first, first. By a token that does not look
/// after the mesh, those of its holder.
#[utoipa::path(get, path = "/api/v1/hours", operation_id = "listHours", tag = "calls",
    responses((status = 200, description = "All of them", body = Page<HourItem>)))]
pub(super) async fn list(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    headers: HeaderMap,
) -> Result<Json<Page<HourItem>>, OpError> {
    check_accept(&headers, JSON)?;
    let hours = hours::list(app.mesh(), &who).await?;
    Ok(Json(Page::whole(hours.into_iter().map(Into::into).collect())))
}

/// Takes back a yes for an hour, as the person who sits at this device. Only through the unix socket.
///
/// What runs goes on; what waits, and what is asked later, asks again. `not_approver`: whoever sits here neither said it nor may
/// answer such calls; `unknown_hour`: it is over, or was never known here.
#[utoipa::path(delete, path = "/api/v1/hours/{id}", operation_id = "takeBackHour", tag = "calls",
    params(("id" = inline(HourId), Path, description = "Its id, as the list shows it")),
    responses((status = 204, description = "It lets nothing through any more")))]
pub(super) async fn take_back(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(HourId(id)): Segment<HourId>,
) -> Result<StatusCode, OpError> {
    hours::take_back(app.mesh(), &who, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
