//! Everything that handlers share.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::backup::Source;
use crate::doors::identity::Identity;
use crate::doors::listen::Bound;
use crate::doors::log_ring::LogRing;
#[cfg(feature = "mcp")]
use crate::doors::mcp;
use crate::doors::ops::pulls::Pulls;
use crate::doors::questions::Questions;
use crate::doors::sessions::Sessions;
use crate::doors::settings::Settings;
use crate::doors::tailnet::DoorState;
use crate::doors::tokens::Tokens;
use crate::memory::MemoryHandle;
use crate::mesh::MeshHandle;
use crate::mesh::clock;
use crate::mesh::tailnet::LocalApi;
use crate::node::roster::Roster;
use crate::platform::FileId;
use crate::runtime::container::EngineState;
use crate::runtime::sandbox::Offered;

/// Backups that are taken at once: each holds a thread, and the store as it was when it began.
const BACKUPS_AT_ONCE: usize = 2;

/// The parts of an agent that the doors need.
#[derive(Debug)]
pub struct Context {
    /// The mesh.
    pub mesh: MeshHandle,
    /// Tokens of the loopback door.
    pub tokens: Arc<Tokens>,
    /// Sessions of the web page.
    pub sessions: Arc<Sessions>,
    /// The newest log lines.
    pub logs: LogRing,
    /// Home of this installation: `doctor` looks at its file modes and free space.
    pub home: PathBuf,
    /// Identity of that directory: a request that means another home is refused.
    pub home_id: FileId,
    /// The home as one file.
    pub backup: Source,
    /// Memory of workspaces.
    pub memory: MemoryHandle,
    /// Models that are being fetched for it.
    pub pulls: Pulls,
    /// The settings that run.
    pub settings: Settings,
    /// The providers of tools in force.
    pub roster: watch::Receiver<Arc<Roster>>,
    /// What this device offers as a sandbox; `None` until that is tested.
    pub sandbox: watch::Receiver<Option<Arc<Offered>>>,
    /// State of the engine of containers.
    pub engine: watch::Receiver<EngineState>,
    /// Told when the file of the unix socket has vanished: the door makes it anew.
    pub socket_gone: Arc<Notify>,
    /// The tailscaled of this machine, if there is to be a door on its tailnet.
    pub tailnet: Option<LocalApi>,
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
    /// A place for each backup that may be taken now.
    pub(super) backups: Arc<Semaphore>,
    /// How often tokens ask about rights.
    pub(super) questions: Questions,
    /// The door on the tailnet.
    pub(super) tailnet: watch::Sender<DoorState>,
    /// What the MCP door keeps.
    #[cfg(feature = "mcp")]
    pub(super) mcp: Arc<mcp::Desk>,
}

impl App {
    pub(super) fn new(context: Context, bound: Bound, stop: CancellationToken) -> Self {
        let backups = Arc::new(Semaphore::new(BACKUPS_AT_ONCE));
        Self {
            #[cfg(feature = "mcp")]
            mcp: Arc::new(mcp::Desk::new(&context.home)),
            context,
            bound,
            stop,
            started_ms: clock::now().wall_ms,
            backups,
            questions: Questions::default(),
            tailnet: watch::Sender::default(),
        }
    }

    pub(super) fn mesh(&self) -> &MeshHandle {
        &self.context.mesh
    }

    /// False once that by which a caller came in counts no more.
    pub(super) fn counts(&self, who: &Identity) -> bool {
        who.still_counts(&self.mesh().view(), clock::now().wall_ms)
    }
}

/// The extractor by which a handler gets the [`App`].
pub(super) type AppState = axum::extract::State<Arc<App>>;
