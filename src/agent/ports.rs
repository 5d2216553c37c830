//! Ports of an agent: set by a person, or chosen at the first start of a home and kept while they are free.

use serde::{Deserialize, Serialize};

use super::error::AgentError;

/// Ports tried after the default one before a start gives up.
const TRIED: u16 = 200;

/// Ports of a home.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) quic: Option<u16>,
    pub(super) http: Option<u16>,
}

/// A requested port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// "quic" or "http".
    pub(super) what: &'static str,
    /// Set by a person: this one or none.
    pub(super) set: Option<u16>,
    /// That of the last start.
    pub(super) kept: Option<u16>,
    /// Where the search for a free one begins.
    pub(super) default: u16,
}

/// Opens the port that is set; without one the kept port, or the first of every second port from the default on that is
/// not taken.
pub(super) async fn open<T, E: Into<AgentError>>(
    wanted: Wanted,
    open: impl AsyncFn(u16) -> Result<T, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<T, AgentError> {
    let Wanted { what, set, kept, default } = wanted;
    if let Some(port) = set {
        return open(port).await.map_err(Into::into);
    }
    let until = default + TRIED;
    for port in kept.into_iter().chain((default..until).step_by(2)) {
        match open(port).await {
            Err(error) if is_taken(&error) => {
                if kept == Some(port) {
                    tracing::warn!(
                        what,
                        port,
                        "the port of the last start is in use by another program: taking another"
                    );
                }
            }
            other => return other.map_err(Into::into),
        }
    }
    Err(AgentError::NoPort { what, from: default, until })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::transport::LinksError;

    async fn opened(set: Option<u16>, kept: Option<u16>, taken: &[u16]) -> Result<u16, AgentError> {
        let wanted = Wanted { what: "quic", set, kept, default: 7_433 };
        let try_port = async |port| if taken.contains(&port) { Err(LinksError::PortTaken { port }) } else { Ok(port) };
        open(wanted, try_port, |error| matches!(error, LinksError::PortTaken { .. })).await
    }

    #[tokio::test]
    async fn b09_a_port_that_nobody_set_falls_back_and_one_that_was_set_does_not() {
        assert_eq!(opened(None, None, &[]).await.unwrap(), 7_433);
        assert_eq!(opened(None, Some(7_443), &[]).await.unwrap(), 7_443);
        assert_eq!(opened(None, Some(7_443), &[7_443]).await.unwrap(), 7_433);
        assert_eq!(opened(None, Some(7_433), &[7_433, 7_435]).await.unwrap(), 7_437);
        let refused = opened(Some(9_000), Some(7_433), &[9_000]).await.unwrap_err().to_string();
        assert!(refused.contains("9000") && refused.contains("--quic-port"), "{refused}");
    }
}
