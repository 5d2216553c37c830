//! Tokens of the loopback door.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use mesh_core::policy::{NodePattern, ToolPattern};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JSON, Segment, body_or_default, check_accept};
use super::model::{Page, time};
use super::rights::schema::{node_patterns, tool_patterns};
use super::shapes::{Asker, TokenId, TokenName, Whole};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops;
use crate::doors::ops::tokens::{TOKEN_TTL_MAX, TokenInfo, TokenTerms};
use crate::status::OpError;

/// Seconds for which a token is valid.
type Lifetime = Whole<1, { TOKEN_TTL_MAX.as_secs() }>;

/// Terms of a token.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// For people; default empty.
    name: Option<TokenName>,
    /// Whom it is for. Default: whoever sits at this device.
    #[schema(inline)]
    principal: Option<Asker>,
    /// Devices that it opens; default all that this principal may use, empty: none.
    #[schema(schema_with = node_patterns)]
    nodes: Option<Vec<NodePattern>>,
    /// Tools that it opens; default all that this principal may use, empty: none.
    #[schema(schema_with = tool_patterns)]
    tools: Option<Vec<ToolPattern>>,
    /// Seconds until it ends; default never.
    #[schema(inline)]
    expires_s: Option<Lifetime>,
    /// True if it only reads; default false.
    #[serde(default)]
    read_only: bool,
}

/// A token without its text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Token {
    /// By which it is revoked.
    #[schema(value_type = TokenId)]
    id: String,
    /// For people.
    name: String,
    /// Whom it is for.
    principal: String,
    /// Devices that it opens; null: all that this principal may use.
    nodes: Option<Vec<String>>,
    /// Tools that it opens; null: all that this principal may use.
    tools: Option<Vec<String>>,
    /// True if it only reads.
    read_only: bool,
    /// Time of its making.
    created_at: String,
    /// Time of its end; null: never.
    expires_at: Option<String>,
    /// Time of its last use at this device; null: not since this agent started.
    last_used: Option<String>,
}

impl From<TokenInfo> for Token {
    fn from(token: TokenInfo) -> Self {
        let TokenInfo { id, said, created_ms, used_ms } = token;
        Self {
            id: id.to_string(),
            name: said.title.to_string(),
            principal: said.holder.to_string(),
            nodes: said.nodes.map(|nodes| nodes.iter().map(ToString::to_string).collect()),
            tools: said.tools.map(|tools| tools.iter().map(ToString::to_string).collect()),
            read_only: said.read_only,
            created_at: time(created_ms),
            expires_at: said.expires_ms.map(time),
            last_used: used_ms.map(time),
        }
    }
}

/// A token for loopback HTTP.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenAnswer {
    /// Shown this once; only its hash is kept.
    token: String,
    /// All else.
    #[serde(flatten)]
    about: Token,
}

/// Makes a token for loopback HTTP, at every device that speaks for its principal. Only at a device of tier owner, through the unix socket, so that a stolen token cannot renew itself.
#[utoipa::path(post, path = "/api/v1/tokens", operation_id = "createToken", tag = "operation", request_body = Option<NewToken>,
    responses((status = 201, description = "The token", body = TokenAnswer)))]
pub(super) async fn mint(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<TokenAnswer>), OpError> {
    let NewToken { name, principal, nodes, tools, expires_s, read_only } = body_or_default(request).await?;
    let terms = TokenTerms {
        name: name.map(|name| name.0).unwrap_or_default(),
        holder: principal.map(|principal| principal.0),
        nodes,
        tools,
        read_only,
        ttl: expires_s.map(|seconds| Duration::from_secs(seconds.0)),
    };
    let (token, info) = ops::tokens::mint(app.mesh(), &who, terms).await?;
    Ok((StatusCode::CREATED, Json(TokenAnswer { token, about: info.into() })))
}

/// The tokens of the mesh that are not over, without their texts; by a token that does not look after the mesh, those of its
/// principal.
#[utoipa::path(get, path = "/api/v1/tokens", operation_id = "listTokens", tag = "operation",
    responses((status = 200, description = "The newest first", body = Page<Token>)))]
pub(super) async fn list(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    headers: HeaderMap,
) -> Result<Json<Page<Token>>, OpError> {
    check_accept(&headers, JSON)?;
    let tokens = ops::tokens::list(app.mesh(), &who, &app.context.tokens);
    Ok(Json(Page::whole(tokens.into_iter().map(Into::into).collect())))
}

/// Revokes one token, at all devices. Only at a device of tier owner, through the unix socket.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", operation_id = "revokeToken", tag = "operation",
    params(("id" = inline(TokenId), Path, description = "Its id, as the list shows it")),
    responses((status = 204, description = "It is not valid any more")))]
pub(super) async fn revoke(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(TokenId(id)): Segment<TokenId>,
) -> Result<StatusCode, OpError> {
    ops::tokens::revoke(app.mesh(), &who, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes all tokens of the mesh. Only at a device of tier owner, through the unix socket.
#[utoipa::path(delete, path = "/api/v1/tokens", operation_id = "revokeTokens", tag = "operation",
    responses((status = 204, description = "No token is valid any more")))]
pub(super) async fn revoke_all(
    State(app): AppState,
    Extension(who): Extension<Identity>,
) -> Result<StatusCode, OpError> {
    ops::tokens::revoke_all(app.mesh(), &who).await?;
    Ok(StatusCode::NO_CONTENT)
}
