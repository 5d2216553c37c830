//! Ways into a mesh and out of it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use mesh_core::io::View;
use mesh_core::record::Tier;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::extract::{JSON, Segment, body, body_or_default, check_accept};
use super::model::{Check, NamedPeer, NearbyDevice, Node, Page, PendingDevice, TierName, read_words, time};
use super::nodes::Approval;
use super::problem::Problems;
use crate::config::QUIC_PORT_DEFAULT;
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::devices;
use crate::doors::ops::joining::{self, JoinState};
use crate::mesh::check_words::CheckWords;
use crate::mesh::invite::InviteCode;
use crate::mesh::transport::Address;
use crate::mesh::{InviteInfo, InviteState, JoinError, JoinTarget, invite_id};
use crate::status::{ErrorCode, OpError};

/// Devices that await approval.
#[utoipa::path(get, path = "/api/v1/pending", operation_id = "listPending", tag = "joining",
    responses((status = 200, description = "In the order in which they first asked", body = Page<PendingDevice>), Problems))]
pub(super) async fn pending(State(app): AppState, headers: HeaderMap) -> Result<Json<Page<PendingDevice>>, OpError> {
    check_accept(&headers, JSON)?;
    let view = app.mesh().view();
    let items = joining::pending(app.mesh()).iter().map(|pending| PendingDevice::new(&view, pending)).collect();
    Ok(Json(Page::whole(items)))
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
    /// By which it is taken back.
    id: String,
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
        id: invite_id(&invite.code.secret_hash()),
        code: invite.code.to_string(),
        expires_at: time(invite.expires_ms),
        addresses: invite.code.addresses.iter().map(ToString::to_string).collect(),
        warnings: invite.warnings(),
        tier: tier.into(),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// State of an invite.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum InviteStateName {
    /// It may be used.
    Open,
    /// It has let a device in.
    Used,
    /// Nobody used it in time.
    Expired,
    /// It was taken back.
    Void,
}

/// An invite without its code, which is shown once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InviteItem {
    /// By which it is taken back.
    id: String,
    /// Tier that it grants.
    tier: TierName,
    /// Time of its making.
    created_at: String,
    /// Time of its expiry.
    expires_at: String,
    /// Its state of this moment.
    state: InviteStateName,
    /// The device that it let in; null while it has let in none.
    used_by: Option<NamedPeer>,
}

impl InviteItem {
    fn new(view: &View, invite: &InviteInfo) -> Self {
        let (state, used_by) = match invite.state {
            InviteState::Open => (InviteStateName::Open, None),
            InviteState::Used(peer) => (InviteStateName::Used, Some(NamedPeer::new(view, &peer))),
            InviteState::Expired => (InviteStateName::Expired, None),
            InviteState::Void => (InviteStateName::Void, None),
        };
        Self {
            id: invite.id(),
            tier: invite.tier.into(),
            created_at: time(invite.created_ms),
            expires_at: time(invite.expires_ms),
            state,
            used_by,
        }
    }
}

/// The invites that this device made; one that is over is kept for an hour longer.
#[utoipa::path(get, path = "/api/v1/invites", operation_id = "listInvites", tag = "joining",
    responses((status = 200, description = "The newest first", body = Page<InviteItem>), Problems))]
pub(super) async fn invites(State(app): AppState, headers: HeaderMap) -> Result<Json<Page<InviteItem>>, OpError> {
    check_accept(&headers, JSON)?;
    let invites = joining::invites(app.mesh()).await?;
    let view = app.mesh().view();
    Ok(Json(Page::whole(invites.iter().map(|invite| InviteItem::new(&view, invite)).collect())))
}

/// Takes back an invite that nobody has used.
#[utoipa::path(delete, path = "/api/v1/invites/{id}", operation_id = "voidInvite", tag = "joining",
    params(("id" = String, Path, description = "Its id, as the list shows it")),
    responses((status = 204, description = "Its code lets nobody in any more"), Problems))]
pub(super) async fn void_invite(State(app): AppState, Segment(id): Segment) -> Result<StatusCode, OpError> {
    joining::void_invite(app.mesh(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
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
    /// Check words of the device to join, as it shows them itself. Without them a join by `nearby` or `address` is answered
    /// 409 `confirm_peer` with whom it would be, and nobody is asked.
    #[schema(example = "abandon ability able about")]
    words: Option<String>,
    /// Even when that means leaving a mesh of several devices.
    #[serde(default)]
    force: bool,
}

/// Tells `null` from absent.
#[expect(clippy::option_option, reason = "the field's type")]
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn target(request: JoinRequest, words: Option<CheckWords>) -> Result<JoinTarget, OpError> {
    match (request.code, request.nearby, request.address) {
        (Some(code), None, None) => {
            let code = code.trim().parse::<InviteCode>();
            code.map(JoinTarget::Code).map_err(|error| JoinError::BadCode(error.to_string()).into())
        }
        (None, Some(name), None) => Ok(JoinTarget::Nearby { name, words }),
        (None, None, Some(address)) => {
            let address = Address::of_person(&address, QUIC_PORT_DEFAULT);
            address
                .map(|address| JoinTarget::Address { address, words })
                .map_err(|error| OpError::new(ErrorCode::Invalid, error.to_string()))
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
        /// What it may do there; null if it was removed in the meantime.
        tier: Option<TierName>,
    },
    /// A person at the other device must approve; the agent keeps asking.
    Pending {
        /// Device that must approve.
        peer_id: String,
        /// Check words of that device.
        check: Check,
        /// Identity of this device.
        own_peer_id: String,
        /// Check words of this device: what that person compares.
        own_check: Check,
    },
}

/// Joins another mesh.
#[utoipa::path(post, path = "/api/v1/join", operation_id = "join", tag = "joining", request_body = JoinRequest,
    responses((status = 200, description = "Joined", body = JoinAnswer),
              (status = 202, description = "Awaits approval", body = JoinAnswer), Problems))]
pub(super) async fn join(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<JoinAnswer>), OpError> {
    let request: JoinRequest = body(request).await?;
    let force = request.force;
    let words = read_words(request.words.as_deref())?;
    Ok(match joining::join(app.mesh(), who, target(request, words)?, words, force).await? {
        JoinState::Member { node_id, mesh, tier } => {
            let (node_id, mesh_id, tier) = (node_id.to_string(), mesh.to_string(), tier.map(Into::into));
            (StatusCode::OK, Json(JoinAnswer::Member { node_id, mesh_id, tier }))
        }
        JoinState::Pending { peer, me } => {
            let (peer_id, own_peer_id) = (peer.to_string(), me.to_string());
            let (check, own_check) = (Check::of(&peer), Check::of(&me));
            (StatusCode::ACCEPTED, Json(JoinAnswer::Pending { peer_id, check, own_peer_id, own_check }))
        }
    })
}

/// The mesh of one that a device is in after leaving.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LeaveAnswer {
    /// The new mesh.
    mesh_id: String,
}

/// Leaves the mesh and founds one of its own. Open calls end as undeliverable. Only through the unix socket.
#[utoipa::path(post, path = "/api/v1/leave", operation_id = "leave", tag = "joining",
    responses((status = 200, description = "Left", body = LeaveAnswer), Problems))]
pub(super) async fn leave(
    State(app): AppState,
    Extension(who): Extension<Identity>,
) -> Result<Json<LeaveAnswer>, OpError> {
    let mesh = joining::leave(app.mesh(), who).await?;
    Ok(Json(LeaveAnswer { mesh_id: mesh.to_string() }))
}
