//! Tokens of the loopback door.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JSON, Segment, body_or_default, check_accept};
use super::model::{Page, time};
use super::shapes::{TokenId, TokenName, Whole};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops;
use crate::doors::ops::tokens::TOKEN_TTL_MAX;
use crate::doors::tokens::TokenInfo;
use crate::status::OpError;

/// Seconds for which a token is valid.
type Lifetime = Whole<1, { TOKEN_TTL_MAX.as_secs() }>;

/// Terms of a token.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// For people; default empty.
    name: Option<TokenName>,
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
    /// True if it only reads.
    read_only: bool,
    /// Time of its making.
    created_at: String,
    /// Time of its end; null: never.
    expires_at: Option<String>,
    /// Time of its last use; null: not yet.
    last_used: Option<String>,
}

impl From<TokenInfo> for Token {
    fn from(token: TokenInfo) -> Self {
        Self {
            id: token.id,
            name: token.terms.name,
            read_only: token.terms.read_only,
            created_at: time(token.created_ms),
            expires_at: token.terms.expires_ms.map(time),
            last_used: token.used_ms.map(time),
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

/// Makes a token for loopback HTTP. Only through the unix socket, so that a stolen token cannot renew itself.
#[utoipa::path(post, path = "/api/v1/tokens", operation_id = "createToken", tag = "operation", request_body = Option<NewToken>,
    responses((status = 201, description = "The token", body = TokenAnswer)))]
pub(super) async fn mint(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<TokenAnswer>), OpError> {
    let NewToken { name, expires_s, read_only } = body_or_default(request).await?;
    let ttl = expires_s.map(|seconds| Duration::from_secs(seconds.0));
    let name = name.map(|name| name.0).unwrap_or_default();
    let (token, info) = ops::tokens::mint(&app.context.tokens, who, name, ttl, read_only).await?;
    Ok((StatusCode::CREATED, Json(TokenAnswer { token, about: info.into() })))
}

/// The tokens that are valid, without their texts.
#[utoipa::path(get, path = "/api/v1/tokens", operation_id = "listTokens", tag = "operation",
    responses((status = 200, description = "The newest first", body = Page<Token>)))]
pub(super) async fn list(State(app): AppState, headers: HeaderMap) -> Result<Json<Page<Token>>, OpError> {
    check_accept(&headers, JSON)?;
    Ok(Json(Page::whole(ops::tokens::list(&app.context.tokens).into_iter().map(Into::into).collect())))
}

/// Revokes one token. Only through the unix socket.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", operation_id = "revokeToken", tag = "operation",
    params(("id" = inline(TokenId), Path, description = "Its id, as the list shows it")),
    responses((status = 204, description = "It is not valid any more")))]
pub(super) async fn revoke(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(TokenId(id)): Segment<TokenId>,
) -> Result<StatusCode, OpError> {
    ops::tokens::revoke(&app.context.tokens, who, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes all tokens. Only through the unix socket.
#[utoipa::path(delete, path = "/api/v1/tokens", operation_id = "revokeTokens", tag = "operation",
    responses((status = 204, description = "No token is valid any more")))]
pub(super) async fn revoke_all(
    State(app): AppState,
    Extension(who): Extension<Identity>,
) -> Result<StatusCode, OpError> {
    ops::tokens::revoke_all(&app.context.tokens, who).await?;
    Ok(StatusCode::NO_CONTENT)
}
