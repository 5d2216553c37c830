//! How the vectors of a workspace's memory are coming along.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{JSON, Segment, check_accept};
use super::memory::place;
use super::shapes::SpaceName;
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::memory::{self, Use};
use crate::memory::{JobState, ModelState};
use crate::status::OpError;

/// State of the job that makes vectors.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum EmbeddingState {
    /// There is no model on this device: words alone count. `sigil model pull` gets one.
    NoModel,
    /// Everything has its vector.
    Idle,
    /// Vectors are made.
    Running,
    /// Something failed, and is tried again; see `why`.
    Waiting,
}

/// State of the model's process.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModelProcess {
    /// It is not there, and takes no memory.
    Asleep,
    /// It loads its model.
    Loading,
    /// It answers.
    Ready,
    /// It failed, and is left alone for a while; see `why`.
    Resting,
}

/// How the vectors are coming along.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingShown {
    /// State of the job.
    state: EmbeddingState,
    /// State of the model's process.
    process: ModelProcess,
    /// The model of this device; null: there is none.
    model: Option<String>,
    /// Messages that have a vector.
    messages: usize,
    /// Lines of summaries and facts that have one.
    lines_and_facts: usize,
    /// Texts that the model fails with; they are found by words.
    unembeddable: usize,
    /// Vectors that were made since the agent started.
    made: u64,
    /// What went wrong last; null: nothing.
    why: Option<String>,
}

/// How far the vectors of a workspace have come, by which its memory is searched by meaning. They are made in the background,
/// when nobody writes.
#[utoipa::path(get, path = "/api/v1/workspaces/{workspace}/memory/embedding", operation_id = "getMemoryEmbedding", tag = "memory",
    params(("workspace" = inline(SpaceName), Path, description = "`home`")),
    responses((status = 200, description = "How far they have come", body = EmbeddingShown)))]
pub(super) async fn embedding(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    headers: HeaderMap,
) -> Result<Json<EmbeddingShown>, OpError> {
    check_accept(&headers, JSON)?;
    let place = place(&app, &who, &name, Use::Read)?;
    let Some(it) = memory::embedding(&place).await? else {
        return Ok(Json(EmbeddingShown {
            state: EmbeddingState::NoModel,
            process: ModelProcess::Asleep,
            model: None,
            messages: 0,
            lines_and_facts: 0,
            unembeddable: 0,
            made: 0,
            why: None,
        }));
    };
    let (state, why) = match it.job {
        JobState::NoModel => (EmbeddingState::NoModel, None),
        JobState::Idle => (EmbeddingState::Idle, None),
        JobState::Running => (EmbeddingState::Running, None),
        JobState::Waiting { why } => (EmbeddingState::Waiting, Some(why)),
    };
    let (process, failed) = match it.process {
        ModelState::Asleep => (ModelProcess::Asleep, None),
        ModelState::Loading => (ModelProcess::Loading, None),
        ModelState::Ready => (ModelProcess::Ready, None),
        ModelState::Resting { why } => (ModelProcess::Resting, Some(why)),
    };
    Ok(Json(EmbeddingShown {
        state,
        process,
        model: it.model.map(str::to_owned),
        messages: it.progress.messages,
        lines_and_facts: it.progress.notes,
        unembeddable: it.progress.unembeddable,
        made: it.made,
        why: why.or(failed),
    }))
}
