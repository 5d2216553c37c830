//! What people have edited without knowing of each other: listed with every text, and ended.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JSON, Segment, body, check_accept};
use super::model::{Page, time};
use super::shapes::EditRef;
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::policy::{self, Conflict, ConflictText, Held};
use crate::status::OpError;

/// Something that people have edited without knowing of each other. What gives holds only where all say so, and what takes
/// away where anybody does.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConflictItem {
    /// By which it is ended.
    #[schema(value_type = EditRef)]
    id: String,
    /// The keys that lead to it in `sigil.toml`.
    at: String,
    /// Everything that was said of it, at least two.
    texts: Vec<TextItem>,
    /// The device whose `sigil.toml` says it: there it is ended; null: it stands in none.
    declared_by: Option<String>,
}

/// One of several texts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TextItem {
    /// By which it is taken.
    #[schema(value_type = EditRef)]
    id: String,
    /// Who said it.
    by: String,
    /// The device at which it was; null: it is gone.
    node: Option<String>,
    /// Time, by the clock of that device.
    at: String,
    /// What it says, as `sigil.toml` says it; null: it took it away.
    text: Option<String>,
    /// True of the text that holds: to take it gives nothing back. No text holds by itself where several take something away.
    holds: bool,
}

impl From<Conflict> for ConflictItem {
    fn from(Conflict { id, at, texts, declared_by }: Conflict) -> Self {
        let text = |ConflictText { id, by, node, at_ms, text, holds }: ConflictText| TextItem {
            id: id.to_string(),
            by: by.to_string(),
            node: node.map(|node| node.to_string()),
            at: time(at_ms),
            text,
            holds,
        };
        Self {
            id: id.to_string(),
            at,
            texts: texts.into_iter().map(text).collect(),
            declared_by: declared_by.map(|node| node.to_string()),
        }
    }
}

/// What people have edited without knowing of each other, and nobody has ended.
#[utoipa::path(get, path = "/api/v1/policy/conflicts", operation_id = "listConflicts", tag = "rights",
    responses((status = 200, description = "By key; empty: nothing is in two versions", body = Page<ConflictItem>)))]
pub(super) async fn list(State(app): AppState, headers: HeaderMap) -> Result<Json<Page<ConflictItem>>, OpError> {
    check_accept(&headers, JSON)?;
    let all = Held::of(app.mesh().view()).conflicts();
    Ok(Json(Page::whole(all.into_iter().map(Into::into).collect())))
}

/// The text to take.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeText {
    /// Its id.
    text: EditRef,
}

/// A conflict that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndedConflict {
    /// The keys that lead to it in `sigil.toml`.
    at: String,
}

/// Ends a conflict: this text holds from now on, and nothing else that was said of the same. Through the unix socket, or by a new
/// session of the page.
#[utoipa::path(post, path = "/api/v1/policy/conflicts/{id}", operation_id = "endConflict", tag = "rights",
    request_body = TakeText, params(("id" = inline(EditRef), Path, description = "The conflict")),
    responses((status = 200, description = "It has ended", body = EndedConflict)))]
pub(super) async fn end(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(EditRef(id)): Segment<EditRef>,
    request: Request<Body>,
) -> Result<Json<EndedConflict>, OpError> {
    let TakeText { text: EditRef(text) } = body(request).await?;
    let at = policy::end_conflict(app.mesh(), &who, id, text).await?;
    Ok(Json(EndedConflict { at }))
}
