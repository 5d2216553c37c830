//! Tokens of the loopback door: made and revoked through the socket only, so that a stolen token cannot renew itself.

use std::io;
use std::sync::Arc;

use crate::doors::identity::{Door, Identity};
use crate::doors::tokens::TokenStore;
use crate::status::{ErrorCode, OpError};

/// Makes a token. This is the only moment at which it can be read.
///
/// # Errors
/// The caller did not come by the socket, or the disk failed: then there is no new token.
pub async fn mint(tokens: &Arc<TokenStore>, who: Identity) -> Result<String, OpError> {
    socket_only(who)?;
    let tokens = tokens.clone();
    on_disk(move || tokens.mint()).await
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
    match who.door {
        Door::Socket => Ok(()),
        Door::Http => Err(OpError::new(ErrorCode::Denied, "tokens are made and revoked through the unix socket only")
            .hint("run `sigil token` on this machine")),
    }
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, OpError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(OpError::new(ErrorCode::StoreFailed, format!("keeping the tokens: {error}"))),
        Err(error) => Err(OpError::new(ErrorCode::Internal, error.to_string())),
    }
}
