//! Ports of an agent: asked for, or chosen at the first start of a home and kept.

use serde::{Deserialize, Serialize};

use super::error::AgentError;

/// Ports tried after the default one before a first start gives up.
const TRIED: u16 = 200;

/// Ports of a home.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) quic: Option<u16>,
    pub(super) http: Option<u16>,
}

/// Opens `port`, or without one the first of every second port from `default` on that is not taken.
pub(super) async fn open<T, E: Into<AgentError>>(
    what: &'static str,
    port: Option<u16>,
    default: u16,
    open: impl AsyncFn(u16) -> Result<T, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<T, AgentError> {
    if let Some(port) = port {
        return open(port).await.map_err(Into::into);
    }
    let until = default + TRIED;
    for port in (default..until).step_by(2) {
        match open(port).await {
            Err(error) if is_taken(&error) => {}
            other => return other.map_err(Into::into),
        }
    }
    Err(AgentError::NoPort { what, from: default, until })
}
