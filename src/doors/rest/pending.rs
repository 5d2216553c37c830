//! All that waits for somebody who looks after the mesh, in one list; and the tools among it, approved.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use mesh_core::ids::ToolName;
use mesh_core::limits::TOOLS_MAX;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::conflicts::ConflictItem;
use super::extract::{JSON, JSON_DEPTH_MAX, Segment, check_accept, json_bytes, parse};
use super::model::{EffectName, PendingDevice};
use super::shapes::{DeviceRef, NameOfTool, NodeName, ToolForm, not_null};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::devices::name_of;
use crate::doors::ops::tools::{self, Approved, PendingTool, ToolsApproved};
use crate::doors::ops::{joining, policy};
use crate::status::OpError;

/// Longest list of tools to approve: all that a device may offer, with the forms in which they were shown (200 bytes each).
const TOOLS_BODY_BYTES_MAX: usize = 128 * 1024;

/// Everything that waits for a person.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AllPending {
    /// Devices that await approval, in the order in which they first asked.
    items: Vec<PendingDevice>,
    /// Always null: the lists are whole.
    next_cursor: Option<String>,
    /// Tools that devices have added or changed since theirs were approved, by device and name: nobody can use them yet.
    tools: Vec<PendingToolItem>,
    /// What people have edited without knowing of each other, by key.
    conflicts: Vec<ConflictItem>,
}

/// A tool that waits for approval.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PendingToolItem {
    /// Identity of its device.
    peer_id: String,
    /// Name of its device.
    #[schema(value_type = NodeName)]
    node_id: String,
    /// Its name there.
    #[schema(value_type = NameOfTool)]
    tool: String,
    /// True if it was approved in another form, which is not there any more; false: it is new.
    changed: bool,
    /// Effect of running it again.
    effect: EffectName,
    /// True if, without workspaces, only owner-tier devices may call it.
    owner_only: bool,
    /// For people.
    description: String,
    /// Form in which it is shown here: an approval that names it approves nothing else.
    #[schema(value_type = ToolForm)]
    shown: String,
}

/// All that waits for a person: devices, tools of devices, and edits that were made in two halves of the mesh.
#[utoipa::path(get, path = "/api/v1/pending", operation_id = "listPending", tag = "joining",
    responses((status = 200, description = "Everything; empty lists: nothing waits", body = AllPending)))]
pub(super) async fn list(State(app): AppState, headers: HeaderMap) -> Result<Json<AllPending>, OpError> {
    check_accept(&headers, JSON)?;
    let view = app.mesh().view();
    let item = |waits: PendingTool| PendingToolItem {
        peer_id: waits.peer.to_string(),
        node_id: name_of(&view, &waits.peer).unwrap_or_else(|| waits.peer.short()),
        shown: data_encoding::HEXLOWER.encode(&waits.shown().0),
        tool: waits.tool.name.to_string(),
        changed: waits.changed,
        effect: waits.tool.effect.into(),
        owner_only: waits.tool.owner_only,
        description: waits.tool.description,
    };
    Ok(Json(AllPending {
        items: joining::pending(app.mesh()).iter().map(|pending| PendingDevice::new(&view, pending)).collect(),
        next_cursor: None,
        tools: tools::pending(&view).into_iter().map(item).collect(),
        conflicts: policy::Held::of(view.clone()).conflicts().into_iter().map(Into::into).collect(),
    }))
}

/// A tool to approve.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToolToApprove {
    /// Its name.
    name: NameOfTool,
    /// Form in which it was shown; if it is another by now, nothing is approved. Default: as it is offered now.
    shown: Option<ToolForm>,
}

/// Terms of an approval of tools.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToolsToApprove {
    /// The tools; default: all that the device offers now. What was approved before stays approved.
    #[serde(default, deserialize_with = "as_many_as_offered")]
    #[schema(nullable = false, max_items = 512)]
    tools: Option<Vec<ToolToApprove>>,
}

/// As many as a device may offer tools.
fn as_many_as_offered<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let tools: Option<Vec<T>> = not_null(deserializer)?;
    if tools.as_ref().is_some_and(|tools| tools.len() > TOOLS_MAX) {
        return Err(D::Error::custom(format!("`tools` has at most {TOOLS_MAX}, as many as a device may offer")));
    }
    Ok(tools)
}

/// Tools of a device after an approval.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ToolsAnswer {
    /// Name of the device.
    #[schema(value_type = NodeName)]
    node_id: String,
    /// Those of its tools that are approved. What it adds or changes from now on waits.
    approved: Vec<String>,
}

/// Approves tools of a device. As long as nobody has, all of them count as approved; from the first approval on those alone do
/// that were. Through the unix socket, or by a new session of the page.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/tools", operation_id = "approveTools", tag = "mesh",
    params(("id" = inline(DeviceRef), Path, description = "Name, peer id, or a prefix of one of at least 7 characters")),
    request_body = Option<ToolsToApprove>,
    responses((status = 200, description = "They are approved", body = ToolsAnswer)))]
pub(super) async fn approve_tools(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(DeviceRef(id)): Segment<DeviceRef>,
    request: Request<Body>,
) -> Result<Json<ToolsAnswer>, OpError> {
    let bytes = json_bytes(request, TOOLS_BODY_BYTES_MAX, true).await?;
    let wanted: ToolsToApprove = parse(&bytes, JSON_DEPTH_MAX)?;
    let read = |tool: ToolToApprove| Approved { name: tool.name.0, shown: tool.shown.map(|shown| shown.0) };
    let wanted: Option<Vec<Approved>> = wanted.tools.map(|tools| tools.into_iter().map(read).collect());
    let done = tools::approve(app.mesh(), &who, &id, wanted.as_deref()).await?;
    Ok(Json(answer(&done)))
}

/// Tools whose approval is taken back.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToolsToReject {
    /// Their names; default: all that were approved.
    #[serde(default, deserialize_with = "as_many_as_offered")]
    #[schema(nullable = false, max_items = 512)]
    tools: Option<Vec<NameOfTool>>,
}

/// Takes the approval of tools of a device back: they wait again, and calls of them are refused as `tool:pending`; what runs
/// goes on. As long as nobody had approved any of the device, all its others count as approved from now on, and what it adds
/// or changes waits. Through the unix socket, or by a new session of the page.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/tools/reject", operation_id = "rejectTools", tag = "mesh",
    params(("id" = inline(DeviceRef), Path, description = "Name, peer id, or a prefix of one of at least 7 characters")),
    request_body = Option<ToolsToReject>,
    responses((status = 200, description = "All that is approved of the device yet", body = ToolsAnswer)))]
pub(super) async fn reject_tools(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(DeviceRef(id)): Segment<DeviceRef>,
    request: Request<Body>,
) -> Result<Json<ToolsAnswer>, OpError> {
    let bytes = json_bytes(request, TOOLS_BODY_BYTES_MAX, true).await?;
    let ToolsToReject { tools } = parse(&bytes, JSON_DEPTH_MAX)?;
    let tools: Option<Vec<ToolName>> = tools.map(|tools| tools.into_iter().map(|name| name.0).collect());
    Ok(Json(answer(&tools::reject(app.mesh(), &who, &id, tools.as_deref()).await?)))
}

fn answer(done: &ToolsApproved) -> ToolsAnswer {
    let approved = done.approved.iter().map(ToString::to_string).collect();
    ToolsAnswer { node_id: done.node.node_id.to_string(), approved }
}
