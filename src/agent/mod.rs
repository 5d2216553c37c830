//! The agent: one peer, all parts built and wired together, from the first file opened to the last link closed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::NodeId;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Overrides};
use crate::mesh::disk_room::DiskRoom;
use crate::mesh::identity::DeviceKey;
use crate::mesh::store::Store;
use crate::mesh::transport::Code;
use crate::mesh::{self, Adapters, Booted, Parts};
use crate::node::blobs::Blobs;
use crate::node::catalogue::Catalogue;
use crate::node::host::{ToolHost, tiers_of};
use crate::node_service;
use crate::runtime::process::Launcher;
use crate::runtime::tool_exec;
use crate::tasks::TaskGroup;
use error::at;
use home::Home;
use network::Network;
use ports::Ports;

mod doors;
mod error;
mod home;
mod logs;
mod network;
mod ports;

pub use error::AgentError;
pub use home::Endpoints;

/// Time that a clean stop gives to what is in hand: event streams, requests, tools.
const GRACE: Duration = Duration::from_millis(1_500);

/// Parameters of a start.
pub struct Options {
    /// Its home.
    pub home: PathBuf,
    /// Name for a home that has none yet.
    pub name: Option<String>,
    /// UDP port of the mesh.
    pub quic_port: Option<u16>,
    /// TCP port of the loopback HTTP door.
    pub http_port: Option<u16>,
    /// Called once, when all doors are open.
    pub ready: Box<dyn FnOnce(&Endpoints) + Send>,
}

/// Runs a peer until it is told to stop by SIGINT or SIGTERM.
///
/// Everything is built from the ground up before the mesh runs: files, links, mesh, tools and node streams, doors. It
/// is taken down the other way round.
pub async fn run(options: Options) -> Result<(), AgentError> {
    let Options { home, name, quic_port, http_port, ready } = options;
    let home = Home::create(home)?;
    let (config, warnings) =
        config::load(home.path(), &Overrides { name, quic_port, http_port, ..Overrides::default() })?;
    let logs = logs::start(&config);
    for warning in &warnings {
        tracing::warn!("{warning}");
        eprintln!("warning: {warning}");
    }
    let catalogue = Catalogue::new(&config)?;
    let name = config.node.name.clone().unwrap_or_else(|| NodeId::slug(&hostname()));

    let tasks = TaskGroup::default();
    let key = DeviceKey::load_or_create(home.path())?;
    let peer_id = key.peer_id();
    let (store, report, durable) = home.open_store()?;
    let blobs = home.open_blobs()?;
    logs::report(&report);
    let store: Arc<dyn Store> = Arc::new(store);
    let kept = home.ports();
    let Network { links, link_events, lan_events } = network::open(&config, kept, &name, &key, &blobs, &tasks).await?;
    let booted = mesh::boot(Parts {
        key,
        config: config.peer(),
        store: store.clone(),
        durable,
        links: links.clone(),
        link_events,
        lan_events,
        blobs: blobs.clone(),
        disk: DiskRoom::new(home.path().to_owned(), config.storage.free_min),
        name,
        tools: catalogue.decls(),
        tasks: tasks.clone(),
    })?;
    let work = home.work();
    let launcher = Launcher::start(work.clone(), tool_exec::launcher(), &tasks).map_err(at("making", &work))?;
    let tools = tool_host(&booted, catalogue, Arc::new(blobs), launcher, &tasks);
    let nodes = node_service::start(&links, booted.handle.watch_view(), booted.inputs(), &tasks);
    let doors = doors::open(&config, kept, &home, booted.handle.clone(), &links, logs, &tasks).await?;

    let stop = CancellationToken::new();
    let (ended_tx, mut ended) = tokio::sync::oneshot::channel();
    let adapters = Adapters {
        nodes: Box::new(nodes.server),
        gateway: Box::new(nodes.client),
        node_streams: nodes.connections,
        tools: Box::new(tools),
    };
    let mesh = booted.run(adapters, stop.clone());
    tasks.spawn(async move { drop(ended_tx.send(mesh.await)) });

    home.keep_ports(Ports { quic: Some(links.local_port()), http: Some(doors.http.port()) })?;
    let endpoints = Endpoints {
        pid: std::process::id(),
        socket: doors.socket.clone(),
        http: doors.http.to_string(),
        quic: links.local_addresses().iter().map(ToString::to_string).collect(),
        peer_id: peer_id.to_string(),
    };
    home.publish(&endpoints)?;
    tracing::info!(target: "sigil::events::agent", pid = endpoints.pid, http = %endpoints.http, "ready");
    ready(&endpoints);

    let ended = tokio::select! {
        () = signalled() => {
            tracing::info!(target: "sigil::events::agent", "stopping");
            stop.cancel();
            (&mut ended).await
        }
        ended = &mut ended => ended,
    };
    links.close_all(Code::Stopping).await;
    tasks.shutdown(GRACE).await;
    let _ = tokio::task::spawn_blocking(move || store.close()).await;
    home.unpublish();
    // The task cannot vanish without a word: only the shutdown above ends it otherwise.
    ended.unwrap_or(Ok(())).map_err(AgentError::from)
}

/// The tools of this device, run for peers whose tier in the mesh allows it.
fn tool_host(
    booted: &Booted,
    catalogue: Catalogue,
    blobs: Arc<dyn Blobs>,
    launcher: Launcher,
    tasks: &TaskGroup,
) -> ToolHost {
    ToolHost::new(catalogue, tiers_of(booted.handle.watch_view()), blobs, launcher, booted.inputs(), tasks.clone())
}

/// Resolves at SIGINT or SIGTERM.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}
