//! This device, the devices of the mesh, and their tools.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use mesh_core::ids::NodeId;
use mesh_core::io::Command;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::extract::{Query, Segment, body_or_default, check_accept};
use super::model::{self, Endpoints, Named, Node, NodeState, Page, Status, TierName, Tool};
use super::problem::Problems;
use crate::status::{ErrorCode, Fault};

const JSON: &str = "application/json";

/// This device and its mesh at a glance.
#[utoipa::path(get, path = "/api/v1/status", operation_id = "getStatus", tag = "mesh",
    responses((status = 200, description = "The state of this moment", body = Status), Problems))]
pub(super) async fn status(State(app): Shared, headers: HeaderMap) -> Result<Json<Status>, Fault> {
    check_accept(&headers, JSON)?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    let mut warnings = Vec::new();
    if view.revoked {
        warnings.push("this device has been revoked; `sigil leave` starts afresh".to_owned());
    } else if view.gateway.is_none() {
        warnings.push("no gateway is known just now; calls are taken and wait here until one is elected".to_owned());
    }
    warnings.extend(model::attention(&view).into_iter().map(|(what, press)| format!("{what}; {press}")));
    if let Some(trouble) = &around.discovery_trouble {
        warnings.push(format!("finding devices on the local network does not work: {trouble}"));
    }
    Ok(Json(Status {
        peer_id: view.me.to_string(),
        node_id: view.node_id.to_string(),
        mesh_id: view.mesh.to_string(),
        mesh_name: view.mesh_name.clone(),
        incarnation: view.incarnation.0,
        boot: view.boot,
        gateway: model::gateway(&view),
        links: model::links(&view, &around),
        endpoints: Endpoints::new(&app.bound.socket, app.bound.http, &app.context.quic),
        nodes: view.nodes.len(),
        nodes_online: view.nodes.iter().filter(|node| model::is_online(&view, node)).count(),
        pending: around.pending.len(),
        nearby: around.nearby.len(),
        open_calls: around.open_calls,
        revoked: view.revoked,
        asking_to_join: around.asking_to_join.map(|peer| peer.to_string()),
        warnings,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: model::time(app.started_ms),
    }))
}

/// Which devices to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NodeFilter {
    /// Only devices in this state.
    state: Option<NodeState>,
}

/// The devices of the mesh, and those that ask to join it.
#[utoipa::path(get, path = "/api/v1/nodes", operation_id = "listNodes", tag = "mesh", params(NodeFilter),
    responses((status = 200, description = "By name; pending ones last", body = Page<Node>), Problems))]
pub(super) async fn list(
    State(app): Shared,
    Query(filter): Query<NodeFilter>,
    headers: HeaderMap,
) -> Result<Json<Page<Node>>, Fault> {
    check_accept(&headers, JSON)?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    let mut items: Vec<_> = view.nodes.iter().map(|node| Node::approved(&view, node)).collect();
    items.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    items.extend(around.pending.iter().map(Node::pending));
    items.retain(|node| filter.state.is_none_or(|state| state == node.state));
    Ok(Json(Page::whole(items)))
}

/// One device.
#[utoipa::path(get, path = "/api/v1/nodes/{id}", operation_id = "getNode", tag = "mesh",
    params(("id" = String, Path, description = "Handle, peer id, or at least 7 first characters of one")),
    responses((status = 200, description = "The device", body = Node), Problems))]
pub(super) async fn show(State(app): Shared, Segment(id): Segment, headers: HeaderMap) -> Result<Json<Node>, Fault> {
    check_accept(&headers, JSON)?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    Ok(Json(match model::resolve(&view, &around.pending, &id)? {
        Named::Member(node) => Node::approved(&view, node),
        Named::Pending(pending) => Node::pending(pending),
    }))
}

/// How to approve a device.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Approval {
    /// How far to trust it; default: shared for a newcomer, unchanged for a member.
    pub(super) tier: Option<TierName>,
    /// Handle to give it; default: the one that it asks for.
    pub(super) node_id: Option<String>,
}

/// Approves a device that waits, or changes the tier of one that belongs to the mesh.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/approve", operation_id = "approveNode", tag = "mesh",
    params(("id" = String, Path, description = "Handle, peer id, or at least 7 first characters of one")),
    request_body = Option<Approval>,
    responses((status = 200, description = "The device, approved", body = Node), Problems))]
pub(super) async fn approve(
    State(app): Shared,
    Segment(id): Segment,
    request: Request<Body>,
) -> Result<Json<Node>, Fault> {
    let approval: Approval = body_or_default(request).await?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    match model::resolve(&view, &around.pending, &id)? {
        Named::Pending(pending) => admit(&app, pending.peer, approval).await,
        Named::Member(node) => {
            if approval.node_id.is_some_and(|wanted| wanted != node.node_id.as_str()) {
                return Err(Fault::new(ErrorCode::Invalid, "a name is given once, at the first approval")
                    .hint("forget the device and let it join again under the other name"));
            }
            let peer = node.peer;
            if let Some(tier) = approval.tier.filter(|tier| TierName::from(node.tier) != *tier) {
                let (key, node_id) = (node.key, node.node_id.clone());
                app.mesh().command(Command::Approve { key, node_id, tier: tier.into() }).await?;
            }
            approved(&app, peer).await
        }
    }
}

/// Lets someone in who waits.
pub(super) async fn admit(
    app: &super::App,
    peer: mesh_core::ids::PeerId,
    approval: Approval,
) -> Result<Json<Node>, Fault> {
    let node_id = approval.node_id.map(|id| id.parse::<NodeId>()).transpose()?;
    app.mesh().admit(peer, approval.tier.map(Into::into), node_id).await?;
    approved(app, peer).await
}

/// The device as it is in the view once the approval has got there: the view follows the answer within one step of
/// the actor, so the wait is bounded by a second and hardly ever felt.
async fn approved(app: &super::App, peer: mesh_core::ids::PeerId) -> Result<Json<Node>, Fault> {
    let mut watch = app.mesh().watch_view();
    let there = watch.wait_for(|view| view.nodes.iter().any(|node| node.peer == peer));
    let view = match tokio::time::timeout(std::time::Duration::from_secs(1), there).await {
        Ok(Ok(view)) => view.clone(),
        Ok(Err(_)) => return Err(crate::mesh::MeshError::Stopping.into()),
        Err(_) => app.mesh().view(),
    };
    let node = view.nodes.iter().find(|node| node.peer == peer);
    node.map(|node| Json(Node::approved(&view, node)))
        .ok_or_else(|| Fault::new(ErrorCode::Internal, "the device is approved, but does not show in the mesh yet"))
}

/// Revokes and forgets a device: its links drop, its waiting calls end as undeliverable. Rejects one that is pending.
#[utoipa::path(delete, path = "/api/v1/nodes/{id}", operation_id = "forgetNode", tag = "mesh",
    params(("id" = String, Path, description = "Handle, peer id, or at least 7 first characters of one")),
    responses((status = 204, description = "It is gone"), Problems))]
pub(super) async fn forget(State(app): Shared, Segment(id): Segment) -> Result<StatusCode, Fault> {
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    match model::resolve(&view, &around.pending, &id)? {
        Named::Member(node) if node.peer == view.me => {
            return Err(Fault::new(ErrorCode::Invalid, "a device cannot forget itself")
                .hint("`sigil leave` takes it out of the mesh"));
        }
        Named::Member(node) => drop(app.mesh().command(Command::Revoke { peer: node.peer }).await?),
        Named::Pending(pending) => app.mesh().reject(pending.peer).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Which tools to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ToolFilter {
    /// Only tools of this device: handle, peer id, or at least 7 first characters of one.
    node: Option<String>,
}

/// The tools of all devices; those of devices that are away stay listed.
#[utoipa::path(get, path = "/api/v1/tools", operation_id = "listTools", tag = "mesh", params(ToolFilter),
    responses((status = 200, description = "By device, then name", body = Page<Tool>), Problems))]
pub(super) async fn tools(
    State(app): Shared,
    Query(filter): Query<ToolFilter>,
    headers: HeaderMap,
) -> Result<Json<Page<Tool>>, Fault> {
    check_accept(&headers, JSON)?;
    let view = app.mesh().view();
    let mut items: Vec<Tool> = match filter.node {
        Some(node) => match model::resolve(&view, &[], &node)? {
            Named::Member(node) => model::tools(&view, node),
            Named::Pending(_) => Vec::new(),
        },
        None => view.nodes.iter().flat_map(|node| model::tools(&view, node)).collect(),
    };
    items.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
    Ok(Json(Page::whole(items)))
}
