//! Everything that handlers share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::doors::listen::Bound;
use crate::doors::log_ring::LogRing;
use crate::doors::tokens::TokenStore;
use crate::mesh::MeshHandle;
use crate::mesh::clock;

/// The parts of an agent that the doors need.
#[derive(Debug)]
pub struct Context {
    /// The mesh.
    pub mesh: MeshHandle,
    /// Tokens of the loopback door.
    pub tokens: Arc<TokenStore>,
    /// The newest log lines.
    pub logs: LogRing,
    /// Home of this installation: `doctor` looks at its file modes and free space.
    pub home: PathBuf,
    /// Time to live of a call that names none: `[calls] ttl` of `sigil.toml`.
    pub call_ttl: Duration,
}

/// The context of doors that are open.
#[derive(Debug)]
pub(crate) struct App {
    pub(super) context: Context,
    pub(super) bound: Bound,
    /// Cancelled when the agent stops: then nothing is waited for any more.
    pub(super) stop: CancellationToken,
    /// Wall time of the start, milliseconds since 1970.
    pub(super) started_ms: u64,
}

impl App {
    pub(super) fn new(context: Context, bound: Bound, stop: CancellationToken) -> Self {
        Self { context, bound, stop, started_ms: clock::now().wall_ms }
    }

    pub(super) fn mesh(&self) -> &MeshHandle {
        &self.context.mesh
    }
}

/// The extractor by which a handler gets the [`App`].
pub(super) type AppState = axum::extract::State<Arc<App>>;
