//! Ways into a mesh and out of it; tokens of the loopback door.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use mesh_core::entry::Tier;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::extract::{Segment, body, body_or_default, check_accept};
use super::model::{self, NearbyDevice, Node, Page, PendingDevice, TierName};
use super::nodes::{Approval, admit};
use super::problem::Problems;
use super::{Door, Shared};
use crate::mesh::invite::InviteCode;
use crate::mesh::transport::Address;
use crate::mesh::{JoinError, JoinTarget, Joined, Pending};
use crate::status::{ErrorCode, Fault};

const JSON: &str = "application/json";
/// How long an invite is good for (architecture.md §3).
const INVITE_TTL_S: u64 = 15 * 60;
/// Longest that an invite may be good for.
const INVITE_TTL_S_MAX: u64 = 7 * 24 * 3600;

/// Devices that ask to join.
#[utoipa::path(get, path = "/api/v1/pending", operation_id = "listPending", tag = "joining",
    responses((status = 200, description = "In the order of their first join request", body = Page<PendingDevice>), Problems))]
pub(super) async fn pending(State(app): Shared, headers: HeaderMap) -> Result<Json<Page<PendingDevice>>, Fault> {
    check_accept(&headers, JSON)?;
    let around = app.mesh().surroundings();
    let mut waiting: Vec<_> = around.pending.iter().collect();
    waiting.sort_by_key(|pending| (pending.since_ms, pending.peer));
    Ok(Json(Page::whole(waiting.into_iter().map(Into::into).collect())))
}

/// Only those who wait: a member of the same name is somebody else.
fn waiting<'a>(pending: &'a [Pending], id: &str) -> Result<&'a Pending, Fault> {
    let start = id.to_ascii_lowercase();
    let long_enough = id.len() >= model::PREFIX_MIN;
    let mut found: Vec<_> = pending
        .iter()
        .filter(|p| p.node_id.as_str() == id || (long_enough && p.peer.to_string().starts_with(&start)))
        .collect();
    if found.len() > 1 {
        let choices: Vec<_> = found.iter().map(|p| format!("{} ({})", p.peer, p.node_id)).collect();
        return Err(Fault::new(
            ErrorCode::Ambiguous,
            format!("more than one waiting device is meant: {}", choices.join(", ")),
        )
        .hint("give more characters of the peer id")
        .with("choices", choices));
    }
    found.pop().ok_or_else(|| {
        let shown: String = id.chars().take(64).flat_map(char::escape_default).collect();
        Fault::new(
            ErrorCode::UnknownPending,
            format!("no device that waits is called `{shown}`, and no peer id starts so"),
        )
        .hint("`sigil pending` lists who waits")
    })
}

/// Approves a device that waits.
#[utoipa::path(post, path = "/api/v1/pending/{id}/approve", operation_id = "approvePending", tag = "joining",
    params(("id" = String, Path, description = "Handle, peer id, or at least 7 first characters of one")),
    request_body = Option<Approval>,
    responses((status = 200, description = "The device, approved", body = Node), Problems))]
pub(super) async fn approve(
    State(app): Shared,
    Segment(id): Segment,
    request: Request<Body>,
) -> Result<Json<Node>, Fault> {
    let approval: Approval = body_or_default(request).await?;
    let peer = waiting(&app.mesh().surroundings().pending, &id)?.peer;
    admit(&app, peer, approval).await
}

/// Refuses a device that waits.
#[utoipa::path(post, path = "/api/v1/pending/{id}/reject", operation_id = "rejectPending", tag = "joining",
    params(("id" = String, Path, description = "Handle, peer id, or at least 7 first characters of one")),
    responses((status = 204, description = "It is told no"), Problems))]
pub(super) async fn reject(State(app): Shared, Segment(id): Segment) -> Result<StatusCode, Fault> {
    let peer = waiting(&app.mesh().surroundings().pending, &id)?.peer;
    app.mesh().reject(peer).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Strangers seen on the local network.
#[utoipa::path(get, path = "/api/v1/nearby", operation_id = "listNearby", tag = "joining",
    responses((status = 200, description = "By name", body = Page<NearbyDevice>), Problems))]
pub(super) async fn nearby(State(app): Shared, headers: HeaderMap) -> Result<Json<Page<NearbyDevice>>, Fault> {
    check_accept(&headers, JSON)?;
    let mut items: Vec<NearbyDevice> = app.mesh().surroundings().nearby.iter().map(Into::into).collect();
    items.sort_by(|a, b| (&a.name, &a.peer_id).cmp(&(&b.name, &b.peer_id)));
    Ok(Json(Page::whole(items)))
}

/// What an invite shall grant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewInvite {
    /// How far to trust whoever uses it; default owner.
    tier: Option<TierName>,
    /// Seconds that it is good for, 1 to 604800; default 900.
    #[schema(minimum = 1, maximum = 604_800)]
    expires_s: Option<u64>,
}

/// An invite. The code is the secret itself: whoever has it is in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InviteAnswer {
    /// For `sigil join` on the other device; good once.
    code: String,
    /// When it stops being good.
    expires_at: String,
    /// Where the newcomer will look for this device.
    addresses: Vec<String>,
    /// What it grants.
    tier: TierName,
}

/// Makes a single-use invite.
#[utoipa::path(post, path = "/api/v1/invites", operation_id = "createInvite", tag = "joining", request_body = Option<NewInvite>,
    responses((status = 201, description = "The invite", body = InviteAnswer), Problems))]
pub(super) async fn invite(
    State(app): Shared,
    request: Request<Body>,
) -> Result<(StatusCode, Json<InviteAnswer>), Fault> {
    let new: NewInvite = body_or_default(request).await?;
    let ttl_s = new.expires_s.unwrap_or(INVITE_TTL_S);
    if !(1..=INVITE_TTL_S_MAX).contains(&ttl_s) {
        return Err(Fault::new(ErrorCode::Invalid, format!("expires_s must be 1 to {INVITE_TTL_S_MAX} seconds")));
    }
    let tier = Tier::from(new.tier.unwrap_or(TierName::Owner));
    let invite = app.mesh().invite(tier, Duration::from_secs(ttl_s)).await?;
    Ok((
        StatusCode::CREATED,
        Json(InviteAnswer {
            code: invite.code.to_string(),
            expires_at: model::time(invite.expires_ms),
            addresses: invite.code.addresses.iter().map(ToString::to_string).collect(),
            tier: tier.into(),
        }),
    ))
}

/// Whom to join: exactly one of `code`, `nearby` and `address`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinRequest {
    /// What `sigil invite` printed on the other device.
    code: Option<String>,
    /// Name or peer id of a device nearby; null = the only one there is.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    #[expect(clippy::option_option, reason = "absent, null and a name are three things")]
    nearby: Option<Option<String>>,
    /// `ip:port` of a device.
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

/// What became of a join.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(super) enum JoinAnswer {
    /// This device belongs to the mesh.
    Member {
        /// The name that it got.
        node_id: String,
        /// The mesh.
        mesh_id: String,
    },
    /// A person over there must say yes; the agent keeps asking.
    Pending {
        /// Who has to say yes.
        peer_id: String,
        /// Identity of this device: what that person compares.
        own_peer_id: String,
    },
}

/// Joins another mesh.
#[utoipa::path(post, path = "/api/v1/join", operation_id = "join", tag = "joining", request_body = JoinRequest,
    responses((status = 200, description = "In", body = JoinAnswer),
              (status = 202, description = "Waits for a yes", body = JoinAnswer), Problems))]
pub(super) async fn join(State(app): Shared, request: Request<Body>) -> Result<(StatusCode, Json<JoinAnswer>), Fault> {
    let JoinRequest { code, nearby, address, force } = body(request).await?;
    let target = match (code, nearby, address) {
        (Some(code), None, None) => {
            let code: InviteCode = code.trim().parse().map_err(|error: <InviteCode as std::str::FromStr>::Err| {
                Fault::from(JoinError::BadCode(error.to_string()))
            })?;
            JoinTarget::Code(code)
        }
        (None, Some(name), None) => JoinTarget::Nearby(name),
        (None, None, Some(address)) => {
            JoinTarget::Address(address.parse::<SocketAddr>().map(Address::Udp).map_err(|_| {
                Fault::new(ErrorCode::Invalid, "`address` must be IP:PORT, such as 192.168.1.20:7433 or [fe80::1]:7433")
            })?)
        }
        _ => return Err(Fault::new(ErrorCode::Invalid, "give exactly one of `code`, `nearby` and `address`")),
    };
    Ok(match app.mesh().join(target, force).await? {
        Joined::Member(node_id) => {
            let answer =
                JoinAnswer::Member { node_id: node_id.to_string(), mesh_id: app.mesh().view().mesh.to_string() };
            (StatusCode::OK, Json(answer))
        }
        Joined::Pending { peer } => {
            let own_peer_id = app.mesh().view().me.to_string();
            (StatusCode::ACCEPTED, Json(JoinAnswer::Pending { peer_id: peer.to_string(), own_peer_id }))
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
pub(super) async fn leave(State(app): Shared) -> Result<Json<LeaveAnswer>, Fault> {
    app.mesh().leave().await?;
    Ok(Json(LeaveAnswer { mesh_id: app.mesh().view().mesh.to_string() }))
}

/// A token for loopback HTTP.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenAnswer {
    /// Shown this once; only its hash is kept.
    token: String,
}

fn socket_only(door: Door) -> Result<(), Fault> {
    match door {
        Door::Socket { .. } => Ok(()),
        Door::Http { .. } => {
            Err(Fault::new(ErrorCode::Denied, "tokens are made and voided through the unix socket only")
                .hint("run `sigil token` on this machine"))
        }
    }
}

/// Makes a token for loopback HTTP. Only through the unix socket, so that a stolen token cannot renew itself.
#[utoipa::path(post, path = "/api/v1/tokens", operation_id = "createToken", tag = "operation",
    responses((status = 201, description = "The token", body = TokenAnswer), Problems))]
pub(super) async fn mint_token(State(app): Shared, Extension(door): Extension<Door>) -> Result<Response, Fault> {
    socket_only(door)?;
    let token = on_disk(move || app.context.tokens.mint()).await?;
    Ok((StatusCode::CREATED, Json(TokenAnswer { token })).into_response())
}

/// Voids all tokens. Only through the unix socket.
#[utoipa::path(delete, path = "/api/v1/tokens", operation_id = "revokeTokens", tag = "operation",
    responses((status = 204, description = "No token is good any more"), Problems))]
pub(super) async fn revoke_tokens(State(app): Shared, Extension(door): Extension<Door>) -> Result<StatusCode, Fault> {
    socket_only(door)?;
    on_disk(move || app.context.tokens.revoke_all()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Fault::new(ErrorCode::StoreFailed, format!("keeping the tokens: {error}"))),
        Err(error) => Err(Fault::new(ErrorCode::Internal, error.to_string())),
    }
}
