//! Bytes of what was forgotten: removed from the disk at once.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::Segment;
use super::memory::place;
use super::shapes::SpaceName;
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::memory::{self, Use};
use crate::status::OpError;

/// What became of the files.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryVacuumed {
    /// True: all that is left was written into new files, and the old ones are gone. False: nothing was forgotten since.
    rewritten: bool,
}

/// Removes the bytes of what was forgotten from the files of this device at once. By itself that happens when nobody has asked
/// memory for a while. Takes as long as the disk needs to write what is left once more.
#[utoipa::path(post, path = "/api/v1/workspaces/{workspace}/memory:vacuum", operation_id = "vacuumMemory", tag = "memory",
    params(("workspace" = inline(SpaceName), Path, description = "`home`")),
    responses((status = 200, description = "It is done", body = MemoryVacuumed)))]
pub(super) async fn vacuum(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
) -> Result<Json<MemoryVacuumed>, OpError> {
    let place = place(&app, &who, &name, Use::Write)?;
    Ok(Json(MemoryVacuumed { rewritten: memory::vacuum(&place).await? }))
}
