//! Ways into a mesh and out of it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use mesh_core::io::View;
use mesh_core::record::Tier;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{OneOfBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::extract::{JSON, Nothing, Segment, body, body_or_default, check_accept};
use super::model::{Check, NamedPeer, NearbyDevice, Node, Page, TierName, time};
use super::nodes::Approval;
use super::shapes::{Code, DeviceAddress, DeviceRef, InviteId, NodeName, Shape as _, Whole, Words, not_null};
use super::stay::{LastingTier, NewStay, StayShown, describes_grant, granted};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::devices;
use crate::doors::ops::joining::{self, INVITE_TTL_MAX, JoinState};
use crate::mesh::{InviteInfo, InviteState, JoinError, JoinTarget, invite_id};
use crate::status::{ErrorCode, OpError};

/// Approves a device that awaits it. With the tier owner only through the unix socket: to a token it is 403.
#[utoipa::path(post, path = "/api/v1/pending/{id}/approve", operation_id = "approvePending", tag = "joining",
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
    let (view, node) = devices::approve_pending(app.mesh(), &who, &id, approval.read()?).await?;
    Ok(Json(Node::approved(&view, &node, &app.mesh().surroundings())))
}

/// Rejects a device that awaits approval.
#[utoipa::path(post, path = "/api/v1/pending/{id}/reject", operation_id = "rejectPending", tag = "joining", request_body = Option<Nothing>,
    params(("id" = inline(DeviceRef), Path, description = "Name, peer id, or a prefix of one of at least 7 characters")),
    responses((status = 204, description = "It is rejected")))]
pub(super) async fn reject(
    State(app): AppState,
    Segment(DeviceRef(id)): Segment<DeviceRef>,
    request: Request<Body>,
) -> Result<StatusCode, OpError> {
    let Nothing {} = body_or_default(request).await?;
    devices::reject_pending(app.mesh(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Strangers seen on the local network.
#[utoipa::path(get, path = "/api/v1/nearby", operation_id = "listNearby", tag = "joining",
    responses((status = 200, description = "By name", body = Page<NearbyDevice>)))]
pub(super) async fn nearby(State(app): AppState, headers: HeaderMap) -> Result<Json<Page<NearbyDevice>>, OpError> {
    check_accept(&headers, JSON)?;
    Ok(Json(Page::whole(joining::nearby(app.mesh()).iter().map(Into::into).collect())))
}

/// Seconds for which an invite may be used.
type Lifetime = Whole<1, { INVITE_TTL_MAX.as_secs() }>;

/// Terms of an invite: a tier for good, or a stay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewInvite {
    #[serde(default, deserialize_with = "not_null")]
    tier: Option<LastingTier>,
    #[serde(default, deserialize_with = "not_null")]
    stay: Option<NewStay>,
    expires_s: Option<Lifetime>,
    #[serde(default, deserialize_with = "not_null")]
    node_id: Option<NodeName>,
}

/// The description of one form of [`NewInvite`].
macro_rules! invites {
    ($(#[$doc:meta])* $name:ident { $(#[$about:meta])* $member:ident: $of:ty }) => {
        $(#[$doc])*
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "it describes")]
        struct $name {
            $(#[$about])*
            $member: $of,
            /// Seconds until it expires; default 900.
            #[schema(inline)]
            expires_s: Option<Lifetime>,
            /// Name that the newcomer gets, and by which rights know it. Without one it names itself: then rights know it by no
            /// name before an owner confirms it, unless it becomes an owner.
            #[schema(nullable = false)]
            node_id: Option<NodeName>,
        }
    };
}

invites!(
    /// For good.
    InviteForGood {
        /// Tier that it grants; default owner.
        #[schema(nullable = false)]
        tier: Option<LastingTier>
    }
);
invites!(
    /// For a while.
    InviteForAWhile {
        /// How long, and what for.
        stay: NewStay
    }
);
describes_grant!(NewInvite, "Terms of an invite.", InviteForGood, InviteForAWhile);

/// An invite. The code is the secret itself: whoever has it can join.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InviteAnswer {
    /// By which it is taken back.
    #[schema(value_type = InviteId)]
    id: String,
    /// For `sigil join` on the other device; single use.
    #[schema(value_type = Code)]
    code: String,
    /// The same as a QR code: rows of `0` (light) and `1` (dark), to be shown with a light margin of four modules.
    qr: Vec<String>,
    /// Time of its expiry.
    expires_at: String,
    /// Addresses at which the newcomer looks for this device.
    addresses: Vec<String>,
    /// Hints about those addresses before the code is handed on; for people.
    warnings: Vec<String>,
    /// Tier that it grants.
    tier: TierName,
    /// Of the ephemeral one, how long and what for; null: the device belongs for good.
    stay: Option<StayShown>,
    /// Name that it gives; null: whoever comes with it names itself.
    #[schema(value_type = Option<NodeName>)]
    node_id: Option<String>,
}

/// Makes a single-use invite. With the tier owner only through the unix socket: to a token it is 403.
#[utoipa::path(post, path = "/api/v1/invites", operation_id = "createInvite", tag = "joining", request_body = Option<NewInvite>,
    responses((status = 201, description = "The invite", body = InviteAnswer)))]
pub(super) async fn invite(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<InviteAnswer>), OpError> {
    let new: NewInvite = body_or_default(request).await?;
    let grant = granted(new.tier, new.stay)?.unwrap_or_else(|| Tier::Owner.into());
    let ttl = new.expires_s.map(|seconds| Duration::from_secs(seconds.0));
    let name = new.node_id.map(|NodeName(name)| name);
    let invite = joining::invite(app.mesh(), &who, grant.clone(), ttl, name.clone()).await?;
    let answer = InviteAnswer {
        id: invite_id(&invite.code.secret_hash()),
        code: invite.code.to_string(),
        qr: invite.code.qr_rows(),
        expires_at: time(invite.expires_ms),
        addresses: invite.code.addresses.iter().map(ToString::to_string).collect(),
        warnings: invite.warnings(),
        tier: grant.tier.into(),
        stay: grant.stay.as_ref().map(Into::into),
        node_id: name.map(|name| name.to_string()),
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
    #[schema(value_type = InviteId)]
    id: String,
    /// Tier that it grants.
    tier: TierName,
    /// Of the ephemeral one, how long and what for; null: the device belongs for good.
    stay: Option<StayShown>,
    /// Name that it gives; null: whoever comes with it names itself.
    #[schema(value_type = Option<NodeName>)]
    node_id: Option<String>,
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
            stay: invite.stay.as_ref().map(Into::into),
            node_id: invite.name.as_ref().map(ToString::to_string),
            created_at: time(invite.created_ms),
            expires_at: time(invite.expires_ms),
            state,
            used_by,
        }
    }
}

/// The invites that this device made; one that is over is kept for an hour longer.
#[utoipa::path(get, path = "/api/v1/invites", operation_id = "listInvites", tag = "joining",
    responses((status = 200, description = "The newest first", body = Page<InviteItem>)))]
pub(super) async fn invites(State(app): AppState, headers: HeaderMap) -> Result<Json<Page<InviteItem>>, OpError> {
    check_accept(&headers, JSON)?;
    let invites = joining::invites(app.mesh()).await?;
    let view = app.mesh().view();
    Ok(Json(Page::whole(invites.iter().map(|invite| InviteItem::new(&view, invite)).collect())))
}

/// Takes back an invite that nobody has used.
#[utoipa::path(delete, path = "/api/v1/invites/{id}", operation_id = "voidInvite", tag = "joining",
    params(("id" = inline(InviteId), Path, description = "Its id, as the list shows it")),
    responses((status = 204, description = "Its code lets nobody in any more")))]
pub(super) async fn void_invite(
    State(app): AppState,
    Segment(InviteId(id)): Segment<InviteId>,
) -> Result<StatusCode, OpError> {
    joining::void_invite(app.mesh(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Target of a join: exactly one of `code`, `nearby` and `address`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinRequest {
    /// Read as a [`Code`] later: a bad one has an error code of its own.
    #[serde(default, deserialize_with = "not_null")]
    code: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    #[expect(clippy::option_option, reason = "absent, null and a name are three things")]
    nearby: Option<Option<DeviceRef>>,
    #[serde(default, deserialize_with = "not_null")]
    address: Option<DeviceAddress>,
    words: Option<Words>,
    #[serde(default)]
    force: bool,
}

/// The description of one form of [`JoinRequest`].
macro_rules! join_by {
    ($(#[$doc:meta])* $name:ident { $(#[$about:meta])* $member:ident: $of:ty }) => {
        $(#[$doc])*
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "it describes")]
        struct $name {
            $(#[$about])*
            #[schema(required = true)]
            $member: $of,
            /// Check words of the device to join, as it shows them itself. Without them a join by `nearby` or `address` is
            /// answered 409 `confirm_peer` with whom it would be, and nobody is asked.
            words: Option<Words>,
            /// Even when that means leaving a mesh of several devices.
            #[serde(default)]
            force: bool,
        }
    };
}

join_by!(
    /// By a code.
    JoinByCode {
        /// Code that `sigil invite` printed on the other device.
        code: Code
    }
);
join_by!(
    /// A device on the local network.
    JoinNearby {
        /// Name or peer id of a device nearby; null = the only one there is.
        nearby: Option<DeviceRef>
    }
);
join_by!(
    /// A device whose address is known.
    JoinByAddress {
        /// IP address or host name of a device, with or without a port (7433 is meant then); the zone of a link-local
        /// IPv6 address may be the name of an interface.
        address: DeviceAddress
    }
);

impl PartialSchema for JoinRequest {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .description(Some("Target of a join."))
            .item(JoinByCode::schema())
            .item(JoinNearby::schema())
            .item(JoinByAddress::schema())
            .into()
    }
}

impl ToSchema for JoinRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        JoinByCode::schemas(schemas);
        JoinNearby::schemas(schemas);
        JoinByAddress::schemas(schemas);
    }
}

fn target(request: JoinRequest) -> Result<JoinTarget, OpError> {
    let words = request.words.map(|words| words.0);
    match (request.code, request.nearby, request.address) {
        (Some(code), None, None) => {
            Code::read(&code).map(|code| JoinTarget::Code(code.0)).map_err(|why| JoinError::BadCode(why).into())
        }
        (None, Some(name), None) => Ok(JoinTarget::Nearby { name: name.map(|name| name.0), words }),
        (None, None, Some(DeviceAddress(address))) => Ok(JoinTarget::Address { address, words }),
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
        /// Its tier there; null if it was removed in the meantime.
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

/// Joins another mesh. Through the unix socket; at a device that is alone in its mesh also by a new session of the page.
#[utoipa::path(post, path = "/api/v1/join", operation_id = "join", tag = "joining", request_body = JoinRequest,
    responses((status = 200, description = "Joined", body = JoinAnswer),
              (status = 202, description = "Awaits approval", body = JoinAnswer)))]
pub(super) async fn join(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<JoinAnswer>), OpError> {
    joining::may_join(app.mesh(), &who)?;
    let request: JoinRequest = body(request).await?;
    let (force, words) = (request.force, request.words.as_ref().map(|words| words.0));
    Ok(match joining::join(app.mesh(), &who, target(request)?, words, force).await? {
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
#[utoipa::path(post, path = "/api/v1/leave", operation_id = "leave", tag = "joining", request_body = Option<Nothing>,
    responses((status = 200, description = "Left", body = LeaveAnswer)))]
pub(super) async fn leave(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<Json<LeaveAnswer>, OpError> {
    let Nothing {} = body_or_default(request).await?;
    let mesh = joining::leave(app.mesh(), &who).await?;
    Ok(Json(LeaveAnswer { mesh_id: mesh.to_string() }))
}
