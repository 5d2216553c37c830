//! The doors of an agent: REST over a unix socket and over loopback, and over a tailnet where that is wanted.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::error::{AgentError, at};
use super::home::Home;
use super::ports::{self, Ports, Wanted};
use crate::backup::Source;
use crate::config::{Config, HTTP_PORT_DEFAULT};
use crate::doors::{self, Bound, ListenError, LogRing, Settings};
use crate::memory::MemoryHandle;
use crate::mesh::MeshHandle;
use crate::mesh::tailnet::LocalApi;
use crate::node::roster::Roster;
use crate::runtime::container::EngineState;
use crate::runtime::sandbox::Offered;
use crate::tasks::TaskGroup;

/// All that the doors show besides the mesh.
pub(super) struct Around<'a> {
    pub(super) home: &'a Home,
    pub(super) logs: LogRing,
    pub(super) backup: Source,
    pub(super) memory: MemoryHandle,
    pub(super) settings: Settings,
    pub(super) roster: watch::Receiver<Arc<Roster>>,
    pub(super) sandbox: watch::Receiver<Option<Arc<Offered>>>,
    pub(super) engine: watch::Receiver<EngineState>,
    /// Told when the file of the socket has vanished.
    pub(super) socket_gone: Arc<Notify>,
}

/// Opens them. Requests wait until the mesh runs.
pub(super) async fn open(
    config: &Config,
    kept: Ports,
    mesh: MeshHandle,
    around: Around<'_>,
    tasks: &TaskGroup,
) -> Result<Bound, AgentError> {
    let Around { home, logs, backup, memory, settings, roster, sandbox, engine, socket_gone } = around;
    let (socket, tokens) = (home.socket()?, Arc::new(doors::Tokens::default()));
    let sessions = doors::Sessions::open(home.path()).map_err(at("keeping sessions of the page in", home.path()))?;
    let sessions = Arc::new(sessions);
    let pulls = doors::Pulls::new(home.path(), tasks.clone());
    let serve = async |port: u16| {
        let context = doors::Context {
            mesh: mesh.clone(),
            tokens: tokens.clone(),
            sessions: sessions.clone(),
            logs: logs.clone(),
            home: home.path().to_owned(),
            home_id: home.id(),
            backup: backup.clone(),
            memory: memory.clone(),
            pulls: pulls.clone(),
            settings: settings.clone(),
            roster: roster.clone(),
            sandbox: sandbox.clone(),
            engine: engine.clone(),
            socket_gone: socket_gone.clone(),
            tailnet: config.tailnet.door.then(|| LocalApi::new(config.tailnet.socket.clone())),
        };
        doors::serve(context, &socket, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), tasks).await
    };
    let is_taken = |error: &ListenError| matches!(error, ListenError::PortInUse(_));
    let wanted = Wanted { what: "http", set: config.listen.http_port, kept: kept.http, default: HTTP_PORT_DEFAULT };
    ports::open(wanted, serve, is_taken).await
}
