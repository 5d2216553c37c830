//! How what models make for a workspace's memory is coming along: vectors, and words.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use memory_core::writing::When;
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

/// State of a job of models.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum EmbeddingState {
    /// There is no model for it on this device: memory works without. `sigil model pull` gets one.
    NoModel,
    /// Nothing is left to do.
    Idle,
    /// The model is at work.
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

/// State of a model's words.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WritingShown {
    /// When a model writes here: see `memory.summarizer`.
    when: WritingWhen,
    /// State of the job.
    state: EmbeddingState,
    /// State of the model's process.
    process: ModelProcess,
    /// The model of this device; null: there is none, and summaries are as rules make them.
    model: Option<String>,
    /// Heads of summaries that were kept since the agent started.
    heads: u64,
    /// Facts.
    facts: u64,
    /// Heads that were refused: they name what their messages do not.
    heads_refused: u64,
    /// Facts that were refused.
    facts_refused: u64,
    /// What went wrong last; null: nothing.
    why: Option<String>,
}

/// When a model writes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum WritingWhen {
    /// Never.
    Rules,
    /// When nothing else is to be done.
    Auto,
    /// As soon as there is a summary.
    Model,
}

/// How far the words of a model have come that stand in front of summaries. They are written in the background, by a model on
/// this device, if there is one that writes; without one, summaries are whole all the same.
#[utoipa::path(get, path = "/api/v1/workspaces/{workspace}/memory/writing", operation_id = "getMemoryWriting", tag = "memory",
    params(("workspace" = inline(SpaceName), Path, description = "`home`")),
    responses((status = 200, description = "How far they have come", body = WritingShown)))]
pub(super) async fn writing(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    headers: HeaderMap,
) -> Result<Json<WritingShown>, OpError> {
    check_accept(&headers, JSON)?;
    let place = place(&app, &who, &name, Use::Read)?;
    let it = memory::writing(&place);
    // A program that cannot run models has no way to one.
    let when = match it.as_ref().map_or(When::Never, |it| it.when) {
        When::Never => WritingWhen::Rules,
        When::Idle => WritingWhen::Auto,
        When::AtOnce => WritingWhen::Model,
    };
    let (state, why) = it.as_ref().map_or((EmbeddingState::NoModel, None), |it| state_of(it.job.clone()));
    let (process, failed) = it.as_ref().map_or((ModelProcess::Asleep, None), |it| process_of(it.process.clone()));
    let kept = it.as_ref().map(|it| it.kept).unwrap_or_default();
    Ok(Json(WritingShown {
        when,
        state,
        process,
        model: it.and_then(|it| it.model).map(str::to_owned),
        heads: kept.heads,
        facts: kept.facts,
        heads_refused: kept.heads_refused,
        facts_refused: kept.facts_refused,
        why: why.or(failed),
    }))
}

fn state_of(job: JobState) -> (EmbeddingState, Option<String>) {
    match job {
        JobState::NoModel => (EmbeddingState::NoModel, None),
        JobState::Idle => (EmbeddingState::Idle, None),
        JobState::Running => (EmbeddingState::Running, None),
        JobState::Waiting { why } => (EmbeddingState::Waiting, Some(why)),
    }
}

fn process_of(process: ModelState) -> (ModelProcess, Option<String>) {
    match process {
        ModelState::Asleep => (ModelProcess::Asleep, None),
        ModelState::Loading => (ModelProcess::Loading, None),
        ModelState::Ready => (ModelProcess::Ready, None),
        ModelState::Resting { why, .. } => (ModelProcess::Resting, Some(why)),
    }
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
    let ((state, why), (process, failed)) = (state_of(it.job), process_of(it.process));
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
