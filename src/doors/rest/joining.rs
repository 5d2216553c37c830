//! Ways into a mesh and out of it.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use mesh_core::record::Tier;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::extract::{JSON, Segment, body, body_or_default, check_accept};
use super::model::{NearbyDevice, Node, Page, PendingDevice, TierName, time};
use super::nodes::Approval;
use super::problem::Problems;
use crate::config::QUIC_PORT_DEFAULT;
use crate::doors::app::AppState;
use crate::doors::ops::devices;
use crate::doors::ops::joining::{self, JoinState};
use crate::mesh::invite::InviteCode;
use crate::mesh::transport::Address;
use crate::mesh::{JoinError, JoinTarget};
use crate::status::{ErrorCode, OpError};

/// Devices that await approval.
#[utoipa::path(get, path = "/api/v1/pending", operation_id = "listPending", tag = "joining",
    responses((status = 200, description = "In the order in which they first asked", body = Page<PendingDevice>), Problems))]
pub(super) async fn pending(State(app): AppState, headers: HeaderMap) -> Result<Json<Page<PendingDevice>>, OpError> {
    check_accept(&headers, JSON)?;
    Ok(Json(Page::whole(joining::pending(app.mesh()).iter().map(Into::into).collect())))
}

/// Approves a device that awaits it.
#[utoipa::path(post, path = "/api/v1/pending/{id}/approve", operation_id = "approvePending", tag = "joining",
    params(("id" = String, Path, description = "Name, peer id, or a prefix of one of at least 7 characters")),
    request_body = Option<Approval>,
    responses((status = 200, description = "The device, approved", body = Node), Problems))]
pub(super) async fn approve(
    State(app): AppState,
    Segment(id): Segment,
    request: Request<Body>,
) -> Result<Json<Node>, OpError> {
    let approval: Approval = body_or_default(request).await?;
    let (view, node) = devices::approve_pending(app.mesh(), &id, approval.read()?).await?;
    Ok(Json(Node::approved(&view, &node)))
}

/// Rejects a device that awaits approval.
#[utoipa::path(post, path = "/api/v1/pending/{id}/reject", operation_id = "rejectPending", tag = "joining",
    params(("id" = String, Path, description = "Name, peer id, or a prefix of one of at least 7 characters")),
    responses((status = 204, description = "It is rejected"), Problems))]
pub(super) async fn reject(State(app): AppState, Segment(id): Segment) -> Result<StatusCode, OpError> {
    devices::reject_pending(app.mesh(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Strangers seen on the local network.
#[utoipa::path(get, path = "/api/v1/nearby", operation_id = "listNearby", tag = "joining",
    responses((status = 200, description = "By name", body = Page<NearbyDevice>), Problems))]
pub(super) async fn nearby(State(app): AppState, headers: HeaderMap) -> Result<Json<Page<NearbyDevice>>, OpError> {
    check_accept(&headers, JSON)?;
    Ok(Json(Page::whole(joining::nearby(app.mesh()).iter().map(Into::into).collect())))
}

/// Terms of an invite.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewInvite {
    /// Tier that it grants; default owner.
    tier: Option<TierName>,
    /// Seconds until it expires, 1 to 604800; default 900.
    #[schema(minimum = 1, maximum = 604_800)]
    expires_s: Option<u64>,
}

/// An invite. The code is the secret itself: whoever has it can join.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InviteAnswer {
    /// For `sigil join` on the other device; single use.
    code: String,
    /// Time of its expiry.
    expires_at: String,
    /// Addresses at which the newcomer looks for this device.
    addresses: Vec<String>,
    /// What to know about those addresses before the code is handed on; for people.
    warnings: Vec<String>,
    /// Tier that it grants.
    tier: TierName,
}

/// Makes a single-use invite.
#[utoipa::path(post, path = "/api/v1/invites", operation_id = "createInvite", tag = "joining", request_body = Option<NewInvite>,
    responses((status = 201, description = "The invite", body = InviteAnswer), Problems))]
pub(super) async fn invite(
    State(app): AppState,
    request: Request<Body>,
) -> Result<(StatusCode, Json<InviteAnswer>), OpError> {
    let new: NewInvite = body_or_default(request).await?;
    let tier = Tier::from(new.tier.unwrap_or(TierName::Owner));
    let invite = joining::invite(app.mesh(), tier, new.expires_s.map(Duration::from_secs)).await?;
    let answer = InviteAnswer {
        code: invite.code.to_string(),
        expires_at: time(invite.expires_ms),
        addresses: invite.code.addresses.iter().map(ToString::to_string).collect(),
        warnings: invite.warnings(),
        tier: tier.into(),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Target of a join: exactly one of `code`, `nearby` and `address`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinRequest {
    /// Code that `sigil invite` printed on the other device.
    code: Option<String>,
    /// Name or peer id of a device nearby; null = the only one there is.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    #[expect(clippy::option_option, reason = "absent, null and a name are three things")]
    nearby: Option<Option<String>>,
    /// IP address or host name of a device, with or without a port (7433 is meant then); the zone of a link-local
    /// IPv6 address may be the name of an interface.
    address: Option<String>,
    /// Even when that means leaving a mesh of several devices.
    #[serde(default)]
    force: bool,
}

/// Tells `null` from absent.
#[expect(clippy::option_option, reason = "the field's type")]
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn target(request: JoinRequest) -> Result<JoinTarget, OpError> {
    match (request.code, request.nearby, request.address) {
        (Some(code), None, None) => {
            let code = code.trim().parse::<InviteCode>();
            code.map(JoinTarget::Code).map_err(|error| JoinError::BadCode(error.to_string()).into())
        }
        (None, Some(name), None) => Ok(JoinTarget::Nearby(name)),
        (None, None, Some(address)) => {
            let address = Address::of_person(&address, QUIC_PORT_DEFAULT).map(JoinTarget::Address);
            address.map_err(|error| OpError::new(ErrorCode::Invalid, error.to_string()))
        }
        _ => Err(OpError::new(ErrorCode::Invalid, "give exactly one of `code`, `nearby` and `address`")),
    }
}

/// Result of a join.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum JoinAnswer {
    /// This device belongs to the mesh.
    Member {
        /// Name that it got.
        node_id: String,
        /// The mesh.
        mesh_id: String,
    },
    /// A person at the other device must approve; the agent keeps asking.
    Pending {
        /// Device that must approve.
        peer_id: String,
        /// Identity of this device: what that person compares.
        own_peer_id: String,
    },
}

/// Joins another mesh.
#[utoipa::path(post, path = "/api/v1/join", operation_id = "join", tag = "joining", request_body = JoinRequest,
    responses((status = 200, description = "Joined", body = JoinAnswer),
              (status = 202, description = "Awaits approval", body = JoinAnswer), Problems))]
pub(super) async fn join(
    State(app): AppState,
    request: Request<Body>,
) -> Result<(StatusCode, Json<JoinAnswer>), OpError> {
    let request: JoinRequest = body(request).await?;
    let force = request.force;
    Ok(match joining::join(app.mesh(), target(request)?, force).await? {
        JoinState::Member { node_id, mesh } => {
            (StatusCode::OK, Json(JoinAnswer::Member { node_id: node_id.to_string(), mesh_id: mesh.to_string() }))
        }
        JoinState::Pending { peer, me } => {
            let answer = JoinAnswer::Pending { peer_id: peer.to_string(), own_peer_id: me.to_string() };
            (StatusCode::ACCEPTED, Json(answer))
        }
    })
}

/// The mesh of one that a device is in after leaving.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LeaveAnswer {
    /// The new mesh.
    mesh_id: String,
}

/// Leaves the mesh and founds one of its own. Open calls end as undeliverable.
#[utoipa::path(post, path = "/api/v1/leave", operation_id = "leave", tag = "joining",
    responses((status = 200, description = "Left", body = LeaveAnswer), Problems))]
pub(super) async fn leave(State(app): AppState) -> Result<Json<LeaveAnswer>, OpError> {
    let mesh = joining::leave(app.mesh()).await?;
    Ok(Json(LeaveAnswer { mesh_id: mesh.to_string() }))
}
