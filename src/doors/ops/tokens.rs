//! Tokens of the loopback door: made and revoked through the socket only, so that a stolen token cannot renew itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::doors::identity::Identity;
use crate::doors::tokens::{TokenInfo, TokenStore, TokenTerms};
use crate::mesh::clock::now;
use crate::status::{ErrorCode, OpError};

/// Longest name of a token, in characters.
pub const TOKEN_NAME_MAX: usize = 64;
/// Longest lifetime of a token that has one: ten years.
pub const TOKEN_TTL_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// Makes a token; with `ttl` it ends by itself. This is the only moment at which it can be read.
///
/// # Errors
/// The caller did not come by the socket, the terms are out of their limits, or the disk failed: then there is no new
/// token.
pub async fn mint(
    tokens: &Arc<TokenStore>,
    who: Identity,
    name: String,
    ttl: Option<Duration>,
    read_only: bool,
) -> Result<(String, TokenInfo), OpError> {
    socket_only(who)?;
    if name.chars().count() > TOKEN_NAME_MAX || name.chars().any(char::is_control) {
        let detail =
            format!("a token's name has at most {TOKEN_NAME_MAX} characters, none of them a control character");
        return Err(OpError::new(ErrorCode::Invalid, detail));
    }
    if ttl.is_some_and(|ttl| !(Duration::from_secs(1)..=TOKEN_TTL_MAX).contains(&ttl)) {
        let detail = format!("a token ends after 1 to {} seconds, or never", TOKEN_TTL_MAX.as_secs());
        return Err(OpError::new(ErrorCode::Invalid, detail));
    }
    let now_ms = now().wall_ms;
    let end = |ttl: Duration| now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let terms = TokenTerms { name, expires_ms: ttl.map(end), read_only };
    let tokens = tokens.clone();
    on_disk(move || tokens.mint(terms, now_ms)).await
}

/// All tokens that are valid, the newest first; never the tokens themselves.
#[must_use]
pub fn list(tokens: &TokenStore) -> Vec<TokenInfo> {
    tokens.list(now().wall_ms)
}

/// Revokes one token by its short name.
///
/// # Errors
/// The caller did not come by the socket, there is no such token, or the disk failed: then it stays valid.
pub async fn revoke(tokens: &Arc<TokenStore>, who: Identity, id: String) -> Result<(), OpError> {
    socket_only(who)?;
    let tokens = tokens.clone();
    if on_disk(move || tokens.revoke(&id)).await? {
        return Ok(());
    }
    Err(OpError::new(ErrorCode::UnknownToken, "there is no token of that id").hint("`sigil token --list` shows them"))
}

/// Revokes all tokens.
///
/// # Errors
/// The caller did not come by the socket, or the disk failed: then all tokens stay valid.
pub async fn revoke_all(tokens: &Arc<TokenStore>, who: Identity) -> Result<(), OpError> {
    socket_only(who)?;
    let tokens = tokens.clone();
    on_disk(move || tokens.revoke_all()).await
}

fn socket_only(who: Identity) -> Result<(), OpError> {
    who.require_socket("tokens are made and revoked", "run `sigil token` on this machine")
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, OpError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(OpError::new(ErrorCode::StoreFailed, format!("keeping the tokens: {error}"))
            .hint("see that the disk has room and can be written")),
        Err(error) => Err(OpError::new(ErrorCode::Internal, error.to_string())),
    }
}
