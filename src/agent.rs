//! The agent: one peer, all parts wired together.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What an agent is told at its start.
pub struct Options {
    /// Its home.
    pub home: PathBuf,
    /// Handle for a home that has none yet.
    pub name: Option<String>,
    /// UDP port of the mesh.
    pub quic_port: Option<u16>,
    /// TCP port of the loopback HTTP door.
    pub http_port: Option<u16>,
    /// Called once, when all doors are open.
    pub ready: Box<dyn FnOnce(&Endpoints) + Send>,
}

/// Where a running agent can be reached: `<home>/run/endpoints.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoints {
    /// Process.
    pub pid: u32,
    /// REST over a unix socket.
    pub socket: PathBuf,
    /// REST over loopback.
    pub http: String,
    /// Addresses of the mesh.
    pub quic: Vec<String>,
    /// Identity.
    pub peer_id: String,
}

/// Why an agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// There is no agent in this build yet.
    #[error("this build holds no agent")]
    Missing,
}

/// Runs a peer until it is told to stop.
#[expect(clippy::unused_async, reason = "the agent itself comes from another branch")]
pub async fn run(options: Options) -> Result<(), AgentError> {
    drop(options);
    Err(AgentError::Missing)
}
