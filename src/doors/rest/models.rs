//! Models on this device.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use memory_models::BUILT_IN;
use memory_models::catalogue::File;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JSON, Segment, body, check_accept};
use super::shapes::ModelName;
use crate::doors::app::AppState;
use crate::doors::ops::models::{self, Listed, Yes};
use crate::doors::ops::pulls::Pull;
use crate::memory::Presence;
use crate::status::OpError;

/// State of a model on this device's disk, as far as names and sizes tell.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModelPresence {
    /// All its files are here.
    Whole,
    /// Some are, or what has come of them: fetching it goes on from there.
    Partial,
    /// Nothing of it is here.
    Absent,
}

/// A file of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelFile {
    /// Its name.
    name: String,
    /// Its size.
    bytes: u64,
    /// Its SHA-256: another file is not used.
    sha256: String,
    /// Where it is had.
    url: String,
}

/// A model that memory can use.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelShown {
    /// Its name.
    name: String,
    /// Its use, in a few words.
    what: String,
    /// Under which terms it may be used.
    licence: String,
    /// Who made it.
    by: String,
    /// Languages that it knows well.
    languages: String,
    /// Size of all its files.
    bytes: u64,
    /// Memory of its process while it runs.
    memory_bytes: u64,
    /// State on this device.
    state: ModelPresence,
    /// Bytes of it that are here.
    bytes_here: u64,
    /// True if memory is searched by it, or it writes for memory.
    in_use: bool,
    /// How fetching it goes; null: it is not fetched now, and the last time went well.
    pull: Option<ModelPull>,
    /// Its files.
    files: Vec<ModelFile>,
}

/// How fetching a model goes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelPull {
    /// State.
    state: ModelPullState,
    /// Bytes of all its files that are here, while it comes.
    bytes: Option<u64>,
    /// Why it did not come whole.
    why: Option<String>,
    /// What can be done about it.
    next: Option<String>,
}

/// State of fetching a model.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModelPullState {
    /// It comes.
    Running,
    /// It did not come whole. What has come stays, unless it was another file.
    Failed,
}

impl From<Pull> for ModelPull {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::Running { bytes } => {
                Self { state: ModelPullState::Running, bytes: Some(bytes), why: None, next: None }
            }
            Pull::Failed { why, next } => {
                let next = next.map(str::to_owned);
                Self { state: ModelPullState::Failed, bytes: None, why: Some(why), next }
            }
        }
    }
}

/// A yes to what a model comes with: its licence and its size, as the list shows them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelYes {
    /// Its licence.
    #[schema(example = "Apache-2.0", pattern = "^[ -~]{1,64}$", min_length = 1, max_length = 64)]
    licence: String,
    /// Size of all its files.
    #[schema(example = 98_362_432, minimum = 1, maximum = 4_294_967_296_u64)]
    bytes: u64,
}

/// All models that are known.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelsShown {
    /// The recommended one first.
    items: Vec<ModelShown>,
    /// False: this program was built without what runs models, and memory works by words alone.
    built_in: bool,
}

/// Result of reading a model's files.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelVerified {
    /// True: every file is the one that was asked for.
    sound: bool,
    /// What is wrong with the first that is not; null: nothing.
    why: Option<String>,
}

impl From<Listed> for ModelShown {
    fn from(Listed { entry, presence, in_use, pull }: Listed) -> Self {
        let (state, bytes_here) = match presence {
            Presence::Whole => (ModelPresence::Whole, entry.bytes()),
            Presence::Partial { bytes } => (ModelPresence::Partial, bytes),
            Presence::Absent => (ModelPresence::Absent, 0),
        };
        let file = |file: File| ModelFile {
            name: file.name.to_owned(),
            bytes: file.bytes,
            sha256: file.sha256.to_owned(),
            url: file.url.to_owned(),
        };
        Self {
            name: entry.name.to_owned(),
            what: entry.what.to_owned(),
            licence: entry.licence.to_owned(),
            by: entry.by.to_owned(),
            languages: entry.languages.to_owned(),
            bytes: entry.bytes(),
            memory_bytes: entry.memory_bytes,
            state,
            bytes_here,
            in_use,
            pull: pull.map(Into::into),
            files: entry.files().into_iter().map(file).collect(),
        }
    }
}

/// Lists the models that memory can use, with licence and size, and what of them is on this device. None is fetched without a
/// person's yes to both.
#[utoipa::path(get, path = "/api/v1/models", operation_id = "listModels", tag = "memory",
    responses((status = 200, description = "All that are known", body = ModelsShown)))]
pub(super) async fn list(State(app): AppState, headers: HeaderMap) -> Result<Json<ModelsShown>, OpError> {
    check_accept(&headers, JSON)?;
    let items = models::list(&app.context.home, &app.context.pulls).into_iter().map(Into::into).collect();
    Ok(Json(ModelsShown { items, built_in: BUILT_IN }))
}

/// Fetches what is lacking of a model, for whoever says yes to its licence and its size by repeating both. It goes on after this
/// is answered, and the list tells how far it has come; what broke off is taken up where it did. Each file is used only if its
/// hash is the one that the list shows.
#[utoipa::path(post, path = "/api/v1/models/{name}/pull", operation_id = "pullModel", tag = "memory",
    params(("name" = inline(ModelName), Path, description = "Its name, as the list shows it")),
    request_body = ModelYes,
    responses((status = 202, description = "It comes, or is here", body = ModelShown)))]
pub(super) async fn pull(
    State(app): AppState,
    Segment(ModelName(name)): Segment<ModelName>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<ModelShown>), OpError> {
    let ModelYes { licence, bytes } = body(request).await?;
    let listed = models::begin_pull(&app.context.home, &app.context.pulls, &name, &Yes { licence, bytes })?;
    Ok((StatusCode::ACCEPTED, Json(listed.into())))
}

/// Reads every file of a model that is on this device, and compares its hash.
#[utoipa::path(post, path = "/api/v1/models/{name}/verify", operation_id = "verifyModel", tag = "memory",
    params(("name" = inline(ModelName), Path, description = "Its name, as the list shows it")),
    responses((status = 200, description = "What was found", body = ModelVerified)))]
pub(super) async fn verify(
    State(app): AppState,
    Segment(ModelName(name)): Segment<ModelName>,
) -> Result<Json<ModelVerified>, OpError> {
    let why = models::verify(&app.context.home, &name).await?;
    Ok(Json(ModelVerified { sound: why.is_none(), why }))
}

/// Removes a model's files from this device, also while it is used: memory goes on by words, and what was made by it stays for
/// when it comes back.
#[utoipa::path(delete, path = "/api/v1/models/{name}", operation_id = "removeModel", tag = "memory",
    params(("name" = inline(ModelName), Path, description = "Its name, as the list shows it")),
    responses((status = 204, description = "Nothing of it is here any more")))]
pub(super) async fn remove(
    State(app): AppState,
    Segment(ModelName(name)): Segment<ModelName>,
) -> Result<StatusCode, OpError> {
    models::remove(&app.context.home, &app.context.pulls, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
