//! Rights: people, workspaces, rules; who may use what, and why.

pub(super) mod schema;

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ETAG, IF_MATCH, InvalidHeaderValue};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use mesh_core::policy::{Domain, Mode, Name, PersonId, Role, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use self::schema::{RulesShape, WorkspaceShape};
use super::extract::{JSON, JSON_DEPTH_MAX, Query, Segment, Segments, body, check_accept, json_bytes, parse};
use super::model::Page;
use super::shapes::{EntityTags, LoginName, NodeName, PersonName, RightsText, Shape, SpaceName, of_query};
use crate::config::{PersonSettings, PolicySettings, RuleSettings, WorkspaceSettings};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::logins;
use crate::doors::ops::policy::{self, Edited, Held, IfMatch, Matrix, Part};
use crate::doors::questions::Work;
use crate::status::{ErrorCode, OpError};

/// Longest body that says all rights, with what JSON adds to its text.
pub(super) const RIGHTS_BODY_BYTES_MAX: usize = 3 << 20;

/// True if an edit may break a check.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct Force {
    /// True: also where a check would not hold any more. Owners of the mesh only. Default false.
    force: bool,
}

/// Standing in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoleName {
    /// Has what is said for guests.
    Guest,
    /// Has what is said for members.
    Member,
    /// Manages people below this rank, and workspaces.
    Admin,
    /// Manages everything.
    Owner,
}

impl From<RoleName> for Role {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Guest => Self::Guest,
            RoleName::Member => Self::Member,
            RoleName::Admin => Self::Admin,
            RoleName::Owner => Self::Owner,
        }
    }
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::Guest => Self::Guest,
            Role::Member => Self::Member,
            Role::Admin => Self::Admin,
            Role::Owner => Self::Owner,
        }
    }
}

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum VerdictName {
    /// Yes.
    Allow,
    /// Once somebody says yes.
    Ask,
    /// No.
    Deny,
}

impl From<Verdict> for VerdictName {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Ask => Self::Ask,
            Verdict::Deny => Self::Deny,
        }
    }
}

/// Present mode of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ModeName {
    /// Tiers: a device of tier owner calls everything.
    Open,
    /// People, workspaces and rules.
    Workspaces,
}

impl From<ModeName> for Mode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Open => Self::Open,
            ModeName::Workspaces => Self::Workspaces,
        }
    }
}

impl From<Mode> for ModeName {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Open => Self::Open,
            Mode::Workspaces => Self::Workspaces,
        }
    }
}

/// All that an edit has done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EditAnswer {
    /// Number of records that changed.
    written: usize,
    /// All that is most likely not meant, for people.
    warnings: Vec<String>,
}

impl From<Edited> for EditAnswer {
    fn from(Edited { written, warnings }: Edited) -> Self {
        Self { written, warnings }
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, OpError> {
    let mut lines = Vec::new();
    for line in headers.get_all(IF_MATCH) {
        let text = line.to_str().map_err(|_| OpError::new(ErrorCode::BadRequest, "If-Match is no text"))?;
        lines.push(text);
    }
    if lines.is_empty() {
        return Ok(None);
    }
    let tags = EntityTags::read(&lines.join(", ")).map_err(|why| OpError::new(ErrorCode::Invalid, why))?;
    Ok(Some(tags.0))
}

/// An answer with the state of the part that it shows.
fn with_etag(held: &Held, part: &Part, answer: impl IntoResponse) -> Result<Response, OpError> {
    let mut response = answer.into_response();
    if let Some(etag) = held.etag(part) {
        let internal = |error: InvalidHeaderValue| OpError::new(ErrorCode::Internal, error.to_string());
        response.headers_mut().insert(ETAG, HeaderValue::from_str(&etag.to_string()).map_err(internal)?);
    }
    Ok(response)
}

fn held(app: &crate::doors::app::App) -> Held {
    Held::of(app.mesh().view())
}

// --- All -------------------------------------------------------------------------------------------------------------

/// All rights.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rights {
    /// Cause of a decision.
    mode: ModeName,
    /// Rights as the sections `people`, `agents`, `devices`, `workspaces` and `checks` of `sigil.toml` say them; empty: nobody
    /// has said anything.
    toml: String,
    /// The same as JSON.
    #[schema(value_type = Object)]
    #[serde(rename = "rights")]
    said: PolicySettings,
    /// What people have edited without knowing of each other: what takes a right away holds, until somebody edits it.
    conflicts: Vec<Conflict>,
    /// Checks that do not hold.
    failed_checks: Vec<FailedCheck>,
}

/// A record that was edited in two halves of the mesh.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Conflict {
    /// The keys that lead to it in `sigil.toml`.
    at: String,
    /// Who has edited it.
    by: Vec<Editor>,
}

/// Somebody who has edited.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Editor {
    /// The person.
    principal: String,
    /// The device at which it was; null: it is gone.
    node_id: Option<String>,
}

/// A check that does not hold.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FailedCheck {
    /// Its name.
    pub(super) name: String,
    /// The answer that must be.
    pub(super) expect: VerdictName,
    /// The answer that there is.
    pub(super) verdict: VerdictName,
}

/// All that is said about who may use what.
#[utoipa::path(get, path = "/api/v1/policy", operation_id = "getPolicy", tag = "rights",
    responses((status = 200, description = "As this device holds it now", body = Rights,
        headers(("ETag" = String, description = "Its state, for If-Match")))))]
pub(super) async fn all(State(app): AppState, headers: HeaderMap) -> Result<Response, OpError> {
    check_accept(&headers, JSON)?;
    let held = held(&app);
    let view = app.mesh().view();
    let said = held.settings(&Part::All);
    let editor = |text: policy::ConflictText| Editor {
        principal: text.by.to_string(),
        node_id: text.node.map(|node| node.to_string()),
    };
    let conflict = |policy::Conflict { at, texts, .. }| Conflict { at, by: texts.into_iter().map(editor).collect() };
    let failed = view.rights.broken_checks().map(|(name, check, verdict)| FailedCheck {
        name: name.to_string(),
        expect: check.expect.into(),
        verdict: verdict.into(),
    });
    let answer = Rights {
        mode: view.rights.mode().into(),
        toml: said.to_toml(),
        conflicts: held.conflicts().into_iter().map(conflict).collect(),
        failed_checks: failed.collect(),
        said,
    };
    with_etag(&held, &Part::All, Json(answer))
}

/// All rights, in the place of those that there are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRights {
    /// At most 1 MiB. What is left out is taken away; the approved tools of devices, tokens and logins stay.
    toml: RightsText,
}

/// Puts these rights in the place of all that there are. Only through the unix socket.
#[utoipa::path(put, path = "/api/v1/policy", operation_id = "putPolicy", tag = "rights", request_body = NewRights,
    params(Force, ("If-Match" = inline(EntityTags), Header, description = "The ETag of what was edited")),
    responses((status = 200, description = "They hold", body = EditAnswer)))]
pub(super) async fn put_all(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Query(Force { force }): Query<Force>,
    headers: HeaderMap,
    request: Request<Body>,
) -> Result<Json<EditAnswer>, OpError> {
    let bytes = json_bytes(request, RIGHTS_BODY_BYTES_MAX, false).await?;
    let NewRights { toml: RightsText(wanted) } = parse(&bytes, JSON_DEPTH_MAX)?;
    let edited = policy::replace(app.mesh(), &who, &Part::All, &wanted, if_match(&headers)?.as_ref(), force).await?;
    Ok(Json(edited.into()))
}

/// The question to decide.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMode {
    /// `workspaces` comes by itself with the first workspace.
    mode: ModeName,
}

/// Says whether workspaces decide, or tiers alone. What was said stays, for when they decide again. Only through the unix
/// socket, by an owner of the mesh.
#[utoipa::path(put, path = "/api/v1/policy/mode", operation_id = "putMode", tag = "rights", request_body = NewMode,
    responses((status = 200, description = "It is so", body = EditAnswer)))]
pub(super) async fn put_mode(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<Json<EditAnswer>, OpError> {
    let NewMode { mode } = body(request).await?;
    Ok(Json(policy::set_mode(app.mesh(), &who, mode.into()).await?.into()))
}

// --- Questions -------------------------------------------------------------------------------------------------------

/// Kind of a row of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ByName {
    /// A person.
    #[default]
    Person,
    /// An agent of which something is said.
    Agent,
    /// A device that asks for itself.
    Device,
}

impl From<ByName> for policy::By {
    fn from(by: ByName) -> Self {
        match by {
            ByName::Person => Self::Person,
            ByName::Agent => Self::Agent,
            ByName::Device => Self::Device,
        }
    }
}

/// A part of the table.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TableOf {
    /// Only who is in this workspace, asked as in it. `mesh`: as without.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    workspace: Option<SpaceName>,
    /// Rows. Default: people.
    #[serde(default)]
    #[param(inline)]
    by: ByName,
}

/// Who may use what.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Table {
    /// Who asks.
    rows: Vec<String>,
    /// Tool that is asked for.
    cols: Vec<Column>,
    /// The answers, row by row.
    cells: Vec<Cell>,
}

/// A tool of a device.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Column {
    /// The device.
    node: String,
    /// The tool.
    tool: String,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cell {
    /// Index of the row.
    row: usize,
    /// Index of the column.
    col: usize,
    /// The answer.
    verdict: VerdictName,
    /// Rule that decided.
    rule: String,
    /// Where it comes from.
    from: SourceName,
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SourceName {
    /// Nothing was said of it.
    Default,
    /// A rule.
    Rule,
    /// The device itself.
    Node,
}

impl From<Matrix> for Table {
    fn from(Matrix { rows, cols, cells }: Matrix) -> Self {
        let cell = |row: usize, (col, cell): (usize, Option<policy::Cell>)| {
            let policy::Cell { verdict, rule, from } = cell?;
            let from = match from {
                policy::Source::Default => SourceName::Default,
                policy::Source::Rule => SourceName::Rule,
                policy::Source::Node => SourceName::Node,
            };
            Some(Cell { row, col, verdict: verdict.into(), rule, from })
        };
        let cells = cells.into_iter().enumerate();
        Self {
            rows: rows.iter().map(ToString::to_string).collect(),
            cols: cols.iter().map(|(node, tool)| Column { node: node.to_string(), tool: tool.to_string() }).collect(),
            cells: cells.flat_map(|(row, of)| of.into_iter().enumerate().filter_map(move |of| cell(row, of))).collect(),
        }
    }
}

/// The table of who may use what. 413: it would have too many cells.
#[utoipa::path(get, path = "/api/v1/policy/matrix", operation_id = "getMatrix", tag = "rights", params(TableOf),
    responses((status = 200, description = "The table", body = Table)))]
pub(super) async fn matrix(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Query(TableOf { workspace, by }): Query<TableOf>,
    headers: HeaderMap,
) -> Result<Json<Table>, OpError> {
    check_accept(&headers, JSON)?;
    app.questions.ask(&who, Work::Matrix, &app.mesh().view().rights)?;
    let workspace = workspace.as_ref().and_then(|SpaceName(domain)| domain.workspace());
    Ok(Json(policy::matrix(&app.mesh().view(), workspace, by.into())?.into()))
}

// --- Rules -----------------------------------------------------------------------------------------------------------

/// The rules of a workspace.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RulesOf {
    /// The workspace. Default: `mesh`, the rules that hold in all of them.
    #[serde(default = "in_all")]
    #[param(inline)]
    workspace: SpaceName,
    /// Of an edit. True: also where a check would not hold any more. Owners of the mesh only. Default false.
    #[serde(default)]
    #[param(inline)]
    force: bool,
}

const fn in_all() -> SpaceName {
    SpaceName(Domain::Mesh)
}

/// Rules by name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    rules: BTreeMap<Name, RuleSettings>,
}

/// The rules of a workspace, or those that hold in all of them.
#[utoipa::path(get, path = "/api/v1/policy/rules", operation_id = "getRules", tag = "rights", params(RulesOf),
    responses((status = 200, description = "By name", body = RulesShape,
        headers(("ETag" = String, description = "Their state, for If-Match")))))]
pub(super) async fn rules(
    State(app): AppState,
    Query(RulesOf { workspace: SpaceName(domain), force: _ }): Query<RulesOf>,
    headers: HeaderMap,
) -> Result<Response, OpError> {
    check_accept(&headers, JSON)?;
    let held = held(&app);
    let mut settings = space(&held, &domain)?;
    let rules = settings.workspaces.remove(&domain).unwrap_or_default().rules;
    with_etag(&held, &Part::Rules(domain), Json(Rules { rules }))
}

/// Puts these rules in the place of all that the workspace has. Through the unix socket, or by a new session of the page.
#[utoipa::path(put, path = "/api/v1/policy/rules", operation_id = "putRules", tag = "rights", request_body = RulesShape,
    params(RulesOf, ("If-Match" = inline(EntityTags), Header, description = "The ETag of what was edited")),
    responses((status = 200, description = "They hold", body = EditAnswer)))]
pub(super) async fn put_rules(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Query(RulesOf { workspace: SpaceName(domain), force }): Query<RulesOf>,
    headers: HeaderMap,
    request: Request<Body>,
) -> Result<Json<EditAnswer>, OpError> {
    let bytes = json_bytes(request, RIGHTS_BODY_BYTES_MAX, false).await?;
    let Rules { rules } = parse(&bytes, JSON_DEPTH_MAX)?;
    let mut settings = space(&held(&app), &domain)?;
    settings.workspaces.entry(domain.clone()).or_default().rules = rules;
    let part = Part::Rules(domain);
    let edited = policy::replace(app.mesh(), &who, &part, &settings, if_match(&headers)?.as_ref(), force).await?;
    Ok(Json(edited.into()))
}

/// All that is said of a workspace, and nothing else.
fn space(held: &Held, domain: &Domain) -> Result<PolicySettings, OpError> {
    let part = Part::Workspace(domain.clone());
    if held.etag(&part).is_none() {
        return Err(OpError::new(ErrorCode::UnknownWorkspace, format!("there is no workspace `{domain}`"))
            .hint("`sigil workspace list` shows those that there are; `sigil workspace add` makes one"));
    }
    Ok(held.settings(&part))
}

// --- People ----------------------------------------------------------------------------------------------------------

/// All that is said of a person.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Person {
    /// Name for people; default: none.
    #[serde(default)]
    #[schema(max_length = 64, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    name: String,
    /// Standing in the mesh; default: member.
    #[serde(default = "member")]
    role: RoleName,
    /// True if nothing may be asked for her; default false.
    #[serde(default)]
    suspended: bool,
    /// Devices at which she is spoken for; default: none. An owner's device speaks for everybody.
    #[serde(default)]
    #[schema(max_items = 64)]
    devices: Vec<NodeName>,
}

const fn member() -> RoleName {
    RoleName::Member
}

impl Person {
    fn of(id: &PersonId, said: &PersonSettings, settings: &PolicySettings) -> Self {
        let devices = settings.devices.iter().filter(|(_, device)| device.people.contains(id));
        Self {
            name: said.name.as_str().to_owned(),
            role: said.role.into(),
            suspended: said.suspended,
            devices: devices.map(|(node, _)| NodeName(node.clone())).collect(),
        }
    }
}

/// A person of the list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PersonRow {
    /// By which rules name her.
    #[schema(value_type = String)]
    id: String,
    /// All else.
    #[serde(flatten)]
    said: Person,
}

/// The people of the mesh. Whoever sits at an owner's device that is nobody's is `owner`, and stands in no list.
#[utoipa::path(get, path = "/api/v1/people", operation_id = "listPeople", tag = "rights",
    responses((status = 200, description = "By id; empty: nobody was named yet", body = Page<PersonRow>,
        headers(("ETag" = String, description = "State of all rights")))))]
pub(super) async fn people(State(app): AppState, headers: HeaderMap) -> Result<Response, OpError> {
    check_accept(&headers, JSON)?;
    let held = held(&app);
    let settings = held.settings(&Part::All);
    let row = |(id, said): (&PersonId, &PersonSettings)| PersonRow {
        id: id.to_string(),
        said: Person::of(id, said, &settings),
    };
    with_etag(&held, &Part::All, Json(Page::whole(settings.people.iter().map(row).collect())))
}

fn nobody(id: &PersonId) -> OpError {
    OpError::new(ErrorCode::UnknownPerson, format!("nobody is called `{id}`"))
        .hint("`sigil person list` shows who is; `sigil person add` adds somebody")
}

/// One person.
#[utoipa::path(get, path = "/api/v1/people/{id}", operation_id = "getPerson", tag = "rights",
    params(("id" = inline(PersonName), Path, description = "The person")),
    responses((status = 200, description = "What is said of her", body = Person,
        headers(("ETag" = String, description = "Its state, for If-Match")))))]
pub(super) async fn person(
    State(app): AppState,
    Segment(PersonName(id)): Segment<PersonName>,
    headers: HeaderMap,
) -> Result<Response, OpError> {
    check_accept(&headers, JSON)?;
    let held = held(&app);
    let part = Part::Person(id.clone());
    let settings = held.settings(&part);
    let said = settings.people.get(&id).cloned().or_else(|| id.is_owner().then(PersonSettings::default));
    let said = said.ok_or_else(|| nobody(&id))?;
    with_etag(&held, &part, Json(Person::of(&id, &said, &settings)))
}

/// Adds a person, or puts this in the place of what is said of her. Through the unix socket, or by a new session of the page.
#[utoipa::path(put, path = "/api/v1/people/{id}", operation_id = "putPerson", tag = "rights", request_body = Person,
    params(("id" = inline(PersonName), Path, description = "The person"), Force,
        ("If-Match" = inline(EntityTags), Header, description = "The ETag of what was edited; not of somebody new")),
    responses((status = 200, description = "It is so", body = EditAnswer)))]
pub(super) async fn put_person(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(PersonName(id)): Segment<PersonName>,
    Query(Force { force }): Query<Force>,
    headers: HeaderMap,
    request: Request<Body>,
) -> Result<Json<EditAnswer>, OpError> {
    let Person { name, role, suspended, devices } = body(request).await?;
    let name = name.parse().map_err(|error: mesh_core::ids::InvalidId| OpError::from(error))?;
    let held = held(&app);
    let part = Part::Person(id.clone());
    let mut settings = held.settings(&part);
    let known = held.nodes();
    for NodeName(device) in &devices {
        if !known.iter().any(|(node, _)| node == device) {
            return Err(OpError::new(ErrorCode::UnknownNode, format!("no device is called `{device}`"))
                .hint("`sigil nodes` lists the devices of this mesh"));
        }
        settings.devices.entry(device.clone()).or_default();
    }
    for (node, device) in &mut settings.devices {
        let is_hers = devices.iter().any(|NodeName(name)| name == node);
        device.people.retain(|person| *person != id || is_hers);
        if is_hers && !device.people.contains(&id) {
            device.people.push(id.clone());
        }
    }
    settings.devices.retain(|_, device| *device != crate::config::DeviceSettings::default());
    settings.people.insert(id, PersonSettings { name, role: role.into(), suspended });
    let edited = policy::replace(app.mesh(), &who, &part, &settings, if_match(&headers)?.as_ref(), force).await?;
    Ok(Json(edited.into()))
}

/// Says that a login of the tailnet is hers: at the door there (`tailnet.door`) whoever has it asks as she. Only through the unix
/// socket. The mesh keeps a hash of it.
#[utoipa::path(put, path = "/api/v1/people/{id}/logins/{login}", operation_id = "putLogin", tag = "rights",
    params(("id" = inline(PersonName), Path, description = "The person"),
        ("login" = inline(LoginName), Path, description = "The login, as the tailnet shows it")),
    responses((status = 200, description = "It is hers", body = EditAnswer)))]
pub(super) async fn put_login(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segments(PersonName(id), LoginName(login)): Segments<PersonName, LoginName>,
) -> Result<Json<EditAnswer>, OpError> {
    let written = logins::set(app.mesh(), &who, &id, &login, true).await?;
    Ok(Json(EditAnswer { written, warnings: Vec::new() }))
}

/// Takes a login from her: nobody comes in by it any more. Only through the unix socket.
#[utoipa::path(delete, path = "/api/v1/people/{id}/logins/{login}", operation_id = "deleteLogin", tag = "rights",
    params(("id" = inline(PersonName), Path, description = "The person"),
        ("login" = inline(LoginName), Path, description = "The login, as the tailnet shows it")),
    responses((status = 200, description = "It is hers no more, also where it was not", body = EditAnswer)))]
pub(super) async fn delete_login(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segments(PersonName(id), LoginName(login)): Segments<PersonName, LoginName>,
) -> Result<Json<EditAnswer>, OpError> {
    let written = logins::set(app.mesh(), &who, &id, &login, false).await?;
    Ok(Json(EditAnswer { written, warnings: Vec::new() }))
}

/// Takes a person away: nothing can be asked for her any more. Through the unix socket, or by a new session of the page.
#[utoipa::path(delete, path = "/api/v1/people/{id}", operation_id = "deletePerson", tag = "rights",
    params(("id" = inline(PersonName), Path, description = "The person"), Force,
        ("If-Match" = inline(EntityTags), Header, description = "The ETag of what was read")),
    responses((status = 200, description = "She is gone", body = EditAnswer)))]
pub(super) async fn delete_person(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(PersonName(id)): Segment<PersonName>,
    Query(Force { force }): Query<Force>,
    headers: HeaderMap,
) -> Result<Json<EditAnswer>, OpError> {
    let held = held(&app);
    let part = Part::Person(id.clone());
    let mut settings = held.settings(&part);
    settings.people.remove(&id).ok_or_else(|| nobody(&id))?;
    for device in settings.devices.values_mut() {
        device.people.retain(|person| *person != id);
    }
    settings.devices.retain(|_, device| *device != crate::config::DeviceSettings::default());
    let edited = policy::replace(app.mesh(), &who, &part, &settings, if_match(&headers)?.as_ref(), force).await?;
    Ok(Json(edited.into()))
}

// --- Workspaces ------------------------------------------------------------------------------------------------------

/// A workspace of the list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkspaceRow {
    /// By which it is named.
    #[schema(value_type = String)]
    id: String,
    /// All that is said of it.
    #[schema(value_type = WorkspaceShape)]
    workspace: WorkspaceSettings,
}

/// The workspaces. `mesh`, with the rules that hold in all of them, is among them if it has any.
#[utoipa::path(get, path = "/api/v1/workspaces", operation_id = "listWorkspaces", tag = "rights",
    responses((status = 200, description = "By id; empty: there is none, and tiers decide", body = Page<WorkspaceRow>,
        headers(("ETag" = String, description = "State of all rights")))))]
pub(super) async fn workspaces(State(app): AppState, headers: HeaderMap) -> Result<Response, OpError> {
    check_accept(&headers, JSON)?;
    let held = held(&app);
    let settings = held.settings(&Part::All);
    let rows = settings.workspaces.into_iter().map(|(id, workspace)| WorkspaceRow { id: id.to_string(), workspace });
    with_etag(&held, &Part::All, Json(Page::whole(rows.collect())))
}

/// One workspace, as `[workspaces.ID]` of `sigil.toml` says it.
#[utoipa::path(get, path = "/api/v1/workspaces/{id}", operation_id = "getWorkspace", tag = "rights",
    params(("id" = inline(SpaceName), Path, description = "The workspace; `mesh`: the rules that hold in all of them")),
    responses((status = 200, description = "What is said of it", body = WorkspaceShape,
        headers(("ETag" = String, description = "Its state, for If-Match")))))]
pub(super) async fn workspace(
    State(app): AppState,
    Segment(SpaceName(domain)): Segment<SpaceName>,
    headers: HeaderMap,
) -> Result<Response, OpError> {
    check_accept(&headers, JSON)?;
    let held = held(&app);
    let said = space(&held, &domain)?.workspaces.remove(&domain).unwrap_or_default();
    with_etag(&held, &Part::Workspace(domain), Json(said))
}

/// Makes a workspace, or puts this in the place of what is said of it, rules too. With the first one, workspaces decide
/// instead of tiers. Through the unix socket, or by a new session of the page.
#[utoipa::path(put, path = "/api/v1/workspaces/{id}", operation_id = "putWorkspace", tag = "rights", request_body = WorkspaceShape,
    params(("id" = inline(SpaceName), Path, description = "The workspace; `mesh` has rules only"), Force,
        ("If-Match" = inline(EntityTags), Header, description = "The ETag of what was edited; not of a new one")),
    responses((status = 200, description = "It is so", body = EditAnswer)))]
pub(super) async fn put_workspace(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(SpaceName(domain)): Segment<SpaceName>,
    Query(Force { force }): Query<Force>,
    headers: HeaderMap,
    request: Request<Body>,
) -> Result<Json<EditAnswer>, OpError> {
    let bytes = json_bytes(request, RIGHTS_BODY_BYTES_MAX, false).await?;
    let said: WorkspaceSettings = parse(&bytes, JSON_DEPTH_MAX)?;
    let mut settings = PolicySettings::default();
    settings.workspaces.insert(domain.clone(), said);
    let part = Part::Workspace(domain);
    let edited = policy::replace(app.mesh(), &who, &part, &settings, if_match(&headers)?.as_ref(), force).await?;
    Ok(Json(edited.into()))
}

/// Takes a workspace away, with its members and rules. Workspaces decide all the same; with none left, only owners have
/// something. Through the unix socket, or by a new session of the page.
#[utoipa::path(delete, path = "/api/v1/workspaces/{id}", operation_id = "deleteWorkspace", tag = "rights",
    params(("id" = inline(SpaceName), Path, description = "The workspace; `mesh`: all rules that hold in all of them"), Force,
        ("If-Match" = inline(EntityTags), Header, description = "The ETag of what was read")),
    responses((status = 200, description = "It is gone", body = EditAnswer)))]
pub(super) async fn delete_workspace(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(SpaceName(domain)): Segment<SpaceName>,
    Query(Force { force }): Query<Force>,
    headers: HeaderMap,
) -> Result<Json<EditAnswer>, OpError> {
    space(&held(&app), &domain)?;
    let part = Part::Workspace(domain);
    let none = PolicySettings::default();
    let edited = policy::replace(app.mesh(), &who, &part, &none, if_match(&headers)?.as_ref(), force).await?;
    Ok(Json(edited.into()))
}
