//! Tokens of the loopback door.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problems;
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops;
use crate::status::OpError;

/// A token for loopback HTTP.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenAnswer {
    /// Shown this once; only its hash is kept.
    token: String,
}

/// Makes a token for loopback HTTP. Only through the unix socket, so that a stolen token cannot renew itself.
#[utoipa::path(post, path = "/api/v1/tokens", operation_id = "createToken", tag = "operation",
    responses((status = 201, description = "The token", body = TokenAnswer), Problems))]
pub(super) async fn mint(
    State(app): AppState,
    Extension(who): Extension<Identity>,
) -> Result<(StatusCode, Json<TokenAnswer>), OpError> {
    let token = ops::tokens::mint(&app.context.tokens, who).await?;
    Ok((StatusCode::CREATED, Json(TokenAnswer { token })))
}

/// Revokes all tokens. Only through the unix socket.
#[utoipa::path(delete, path = "/api/v1/tokens", operation_id = "revokeTokens", tag = "operation",
    responses((status = 204, description = "No token is valid any more"), Problems))]
pub(super) async fn revoke(State(app): AppState, Extension(who): Extension<Identity>) -> Result<StatusCode, OpError> {
    ops::tokens::revoke_all(&app.context.tokens, who).await?;
    Ok(StatusCode::NO_CONTENT)
}
