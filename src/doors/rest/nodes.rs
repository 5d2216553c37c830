//! This device, the devices of the mesh, and their tools.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use mesh_core::ids::PeerId;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::extract::{JSON, Query, Segment, body, body_or_default, check_accept};
use super::model::{self, Check, Endpoints, Guest, Node, NodeState, Page, RightBy, Status, Tool};
use super::shapes::{DeviceRef, NodeName, Words, not_null, of_query};
use super::stay::{LastingTier, NewStay, describes_grant, granted};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::devices::{self, Named};
use crate::doors::ops::{doctor, policy};
use crate::mesh::clock;
use crate::status::OpError;

/// This device and its mesh at a glance.
#[utoipa::path(get, path = "/api/v1/status", operation_id = "getStatus", tag = "mesh",
    responses((status = 200, description = "The state of this moment", body = Status)))]
pub(super) async fn status(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    headers: HeaderMap,
) -> Result<Json<Status>, OpError> {
    check_accept(&headers, JSON)?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    // They tell of conflicts, strangers and settings: for who looks after the mesh, as in the stream of events.
    let findings = || doctor::warnings(&view, &around, &app.context.memory, &app.context.settings, &app.context.home);
    let looks = who.may_look(&view.rights);
    let warnings = if looks { findings() } else { Vec::new() };
    Ok(Json(Status {
        peer_id: view.me.to_string(),
        node_id: view.node_id.to_string(),
        check: Check::of(&view.me),
        mesh_id: view.mesh.to_string(),
        mesh_name: view.mesh_name.clone(),
        incarnation: view.incarnation.0,
        boot: view.boot,
        gateway: model::gateway(&view),
        links: model::links(&view, &around),
        relaying: (&around.relayed).into(),
        tailnet: model::TailnetUse::new(&around.tailnet, looks, clock::now().wall_ms),
        endpoints: Endpoints::new(&app.bound, &app.tailnet.borrow(), &around.addresses),
        nodes: view.nodes.len(),
        nodes_online: view.nodes.iter().filter(|node| devices::is_online(&view, node)).count(),
        isolated: view.nodes.len() > 1 && view.links.is_empty(),
        features: model::Features::OWN,
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

/// A name for this device.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rename {
    /// The name.
    node_id: NodeName,
    /// The device; default this one. An owner's device is named at itself, any other at an owner's device too: both through the
    /// unix socket, or one that is alone in its mesh by a new session of the page.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    of: Option<DeviceRef>,
}

/// The name that the device has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Renamed {
    /// The name.
    #[schema(value_type = NodeName)]
    node_id: String,
    /// The name for which it asks and which it does not have: an owner has to give it.
    #[schema(value_type = Option<NodeName>)]
    asks: Option<String>,
}

/// Gives a device the name by which all members call it and rights know it. This device, if it is no owner's and an owner
/// gave or saw its name, only asks for another.
#[utoipa::path(post, path = "/api/v1/rename", operation_id = "rename", tag = "mesh", request_body = Rename,
    responses((status = 200, description = "The name that it has now", body = Renamed)))]
pub(super) async fn rename(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<Json<Renamed>, OpError> {
    let Rename { node_id: NodeName(name), of } = body(request).await?;
    let devices::Renamed { node_id, asks } = match of {
        Some(DeviceRef(text)) => devices::rename_other(app.mesh(), &who, &text, name).await?,
        None => devices::rename(app.mesh(), &who, name).await?,
    };
    Ok(Json(Renamed { node_id: node_id.to_string(), asks: asks.map(|name| name.to_string()) }))
}

/// Filter of devices.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NodeFilter {
    /// Only devices in this state.
    #[param(inline)]
    state: Option<NodeState>,
}

/// The devices of the mesh, and those that ask to join it.
#[utoipa::path(get, path = "/api/v1/nodes", operation_id = "listNodes", tag = "mesh", params(NodeFilter),
    responses((status = 200, description = "By name; those that await approval last", body = Page<Node>)))]
pub(super) async fn list(
    State(app): AppState,
    Query(filter): Query<NodeFilter>,
    headers: HeaderMap,
) -> Result<Json<Page<Node>>, OpError> {
    check_accept(&headers, JSON)?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    let mut items: Vec<_> = view.nodes.iter().map(|node| Node::approved(&view, node, &around)).collect();
    items.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    items.extend(around.pending.iter().map(Node::pending));
    items.retain(|node| filter.state.is_none_or(|state| state == node.state));
    Ok(Json(Page::whole(items)))
}

/// One device.
#[utoipa::path(get, path = "/api/v1/nodes/{id}", operation_id = "getNode", tag = "mesh",
    params(("id" = inline(DeviceRef), Path, description = "Name, peer id, or a prefix of one of at least 7 characters")),
    responses((status = 200, description = "The device", body = Node)))]
pub(super) async fn show(
    State(app): AppState,
    Segment(DeviceRef(id)): Segment<DeviceRef>,
    headers: HeaderMap,
) -> Result<Json<Node>, OpError> {
    check_accept(&headers, JSON)?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    Ok(Json(match devices::resolve(&view, &around.pending, &id)? {
        Named::Member(node) => Node::approved(&view, node, &around),
        Named::Pending(pending) => Node::pending(pending),
    }))
}

/// Terms of an approval: a tier for good, or a stay.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approval {
    #[serde(default, deserialize_with = "not_null")]
    tier: Option<LastingTier>,
    #[serde(default, deserialize_with = "not_null")]
    stay: Option<NewStay>,
    node_id: Option<NodeName>,
    words: Option<Words>,
}

/// The description of one form of [`Approval`].
macro_rules! approves {
    ($(#[$doc:meta])* $name:ident { $(#[$about:meta])* $member:ident: $of:ty }) => {
        $(#[$doc])*
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "it describes")]
        struct $name {
            $(#[$about])*
            $member: $of,
            /// Name to give it; default: the one that it asks for.
            node_id: Option<NodeName>,
            /// Check words that the device must have, if they are given.
            words: Option<Words>,
        }
    };
}

approves!(
    /// For good.
    ApprovalForGood {
        /// Tier to grant; default: shared for a newcomer, unchanged for a member.
        #[schema(nullable = false)]
        tier: Option<LastingTier>
    }
);
approves!(
    /// For a while.
    ApprovalForAWhile {
        /// How long from now, and what for.
        stay: NewStay
    }
);
describes_grant!(Approval, "Terms of an approval.", ApprovalForGood, ApprovalForAWhile);

impl Approval {
    /// The same in the mesh's own types.
    ///
    /// # Errors
    /// It grants a tier and a stay.
    pub(super) fn read(self) -> Result<devices::Approval, OpError> {
        let (node_id, words) = (self.node_id.map(|name| name.0), self.words.map(|words| words.0));
        Ok(devices::Approval { grant: granted(self.tier, self.stay)?, node_id, words })
    }
}

/// Approves a device that awaits it, or changes the tier of a member. With the tier owner only through the unix socket: to
/// a token it is 403.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/approve", operation_id = "approveNode", tag = "mesh",
    params(("id" = inline(DeviceRef), Path, description = "Name, peer id, or a prefix of one of at least 7 characters")),
    request_body = Option<Approval>,
    responses((status = 200, description = "The device, approved", body = Node)))]
pub(super) async fn approve(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(DeviceRef(id)): Segment<DeviceRef>,
    request: Request<Body>,
) -> Result<Json<Node>, OpError> {
    let approval: Approval = body_or_default(request).await?;
    let (view, node) = devices::approve(app.mesh(), &who, &id, approval.read()?).await?;
    Ok(Json(Node::approved(&view, &node, &app.mesh().surroundings())))
}

/// The members that belong by a device's approval, or by that of one of those, and for whom nobody else vouches; not this
/// device, nor whom it let in. They stay when it is forgotten.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/guests", operation_id = "listGuests", tag = "mesh",
    params(("id" = inline(DeviceRef), Path, description = "Name, peer id, or a prefix of one of at least 7 characters")),
    responses((status = 200, description = "Nearest first", body = Page<Guest>)))]
pub(super) async fn guests(
    State(app): AppState,
    Segment(DeviceRef(id)): Segment<DeviceRef>,
    headers: HeaderMap,
) -> Result<Json<Page<Guest>>, OpError> {
    check_accept(&headers, JSON)?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    let guests = match devices::resolve(&view, &around.pending, &id)? {
        Named::Member(node) => view.guests_of(&[node.peer].into()),
        Named::Pending(pending) => view.guests_of(&[pending.peer].into()),
    };
    Ok(Json(Page::whole(guests.into_iter().filter_map(|node| Guest::new(&view, node)).collect())))
}

/// Statements about rights that stand on the authority of a device or one of its guests. They still stand after these are
/// forgotten, unless their withdrawal is asked for too.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/rights", operation_id = "listRightsBy", tag = "mesh",
    params(("id" = inline(DeviceRef), Path, description = "Name, peer id, or a prefix of one of at least 7 characters")),
    responses((status = 200, description = "By key", body = Page<RightBy>)))]
pub(super) async fn rights(
    State(app): AppState,
    Segment(DeviceRef(id)): Segment<DeviceRef>,
    headers: HeaderMap,
) -> Result<Json<Page<RightBy>>, OpError> {
    check_accept(&headers, JSON)?;
    let (view, around) = (app.mesh().view(), app.mesh().surroundings());
    let device = match devices::resolve(&view, &around.pending, &id)? {
        Named::Member(node) => node.peer,
        Named::Pending(pending) => pending.peer,
    };
    let mut authors: BTreeSet<PeerId> = view.guests_of(&[device].into()).into_iter().map(|node| node.peer).collect();
    authors.insert(device);
    let said = policy::Held::of(view.clone()).said_by(&authors);
    Ok(Json(Page::whole(said.into_iter().map(|said| RightBy::new(&view, said)).collect())))
}

/// Terms of forgetting a device.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Forgetting {
    /// True to forget its guests too: everyone who belongs by its approval, or by that of one of those, and by nobody else's.
    #[serde(default)]
    with_guests: bool,
    /// True to take back what it said about rights and the names that it gave to devices, and what those said and gave who go
    /// too: what that replaced holds again. Only through the unix socket.
    #[serde(default)]
    with_rights: bool,
}

/// Revokes and forgets a device: its links drop, its waiting calls end as undeliverable. Rejects one that awaits
/// approval. Whom it let in stays, unless its guests go too; and what it said about rights holds on, unless that goes too.
#[utoipa::path(delete, path = "/api/v1/nodes/{id}", operation_id = "forgetNode", tag = "mesh",
    params(("id" = inline(DeviceRef), Path, description = "Name, peer id, or a prefix of one of at least 7 characters"), Forgetting),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn forget(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(DeviceRef(id)): Segment<DeviceRef>,
    Query(Forgetting { with_guests, with_rights }): Query<Forgetting>,
) -> Result<StatusCode, OpError> {
    let along = devices::Along { guests: with_guests, rights: with_rights };
    devices::forget(app.mesh(), &who, &id, along).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Filter of tools.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ToolFilter {
    /// Only tools of this device: name, peer id, or a prefix of one of at least 7 characters.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    node: Option<DeviceRef>,
}

/// The tools of all devices; those of devices that are offline stay listed.
#[utoipa::path(get, path = "/api/v1/tools", operation_id = "listTools", tag = "mesh", params(ToolFilter),
    responses((status = 200, description = "By device, then name", body = Page<Tool>)))]
pub(super) async fn tools(
    State(app): AppState,
    Query(filter): Query<ToolFilter>,
    headers: HeaderMap,
) -> Result<Json<Page<Tool>>, OpError> {
    check_accept(&headers, JSON)?;
    let view = app.mesh().view();
    let members = devices::members(&view, filter.node.as_ref().map(|node| node.0.as_str()))?;
    let mut items: Vec<Tool> = members.into_iter().flat_map(|node| model::tools(&view, node)).collect();
    items.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
    Ok(Json(Page::whole(items)))
}
