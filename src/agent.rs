//! The agent: one peer, all parts wired together, from the first file opened to the last link closed.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::entry::{Ending, Payload};
use mesh_core::frame::Frame;
use mesh_core::ids::{Attempt, Hash, NodeId, PeerId, ReqId};
use mesh_core::io::{Input, Invocation, ToolOutcome, View};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{self, Config, ConfigError, LogFormat, Overrides};
use crate::doors::{self, ListenError, LogRing, TokenStore};
use crate::gateway::node_service::{NodeEvent, NodeServer, NodeServerHandle};
use crate::mesh::blobs::BlobStore;
use crate::mesh::identity::{DeviceKey, IdentityError};
use crate::mesh::store::{FjallStore, OpenReport, Store, StoreError};
use crate::mesh::transport::lan::{self, LanConfig, LanEvent};
use crate::mesh::transport::{Code, Links, LinksConfig, LinksError, ServiceId, ServiceIo};
use crate::mesh::{self, Adapters, Booted, FatalError, MeshHandle, NodeLinks, Parts, ToolRuns};
use crate::node::catalogue::Catalogue;
use crate::node::client::{NodeClient, NodeClientEvent, NodeClientHandle, NodeInfo};
use crate::node::executor::{ToolEvent, ToolHost, owners_only};
use crate::runtime::tool_exec;
use crate::tasks::TaskGroup;

/// Ports tried after the default one before a first start gives up.
const PORTS_TRIED: u16 = 200;
/// How long a clean stop waits for what is in hand: event streams, requests, tools.
const GRACE: Duration = Duration::from_millis(1_500);
/// Results and arguments beyond this are dropped, oldest first, at start (mesh-protocol.md §6, retention).
const BLOBS_KEPT_BYTES: u64 = 256 * 1024 * 1024;

/// What an agent is told at its start.
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

/// Why an agent did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Device key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Store: most often, another agent runs on this home.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// UDP door.
    #[error(transparent)]
    Links(#[from] LinksError),
    /// HTTP doors.
    #[error(transparent)]
    Doors(#[from] ListenError),
    /// The mesh itself.
    #[error(transparent)]
    Mesh(#[from] FatalError),
    /// A file or directory of the home.
    #[error("{doing} `{path}`")]
    Home {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing is free near the default.
    #[error("no free {what} port between {from} and {until}; name one with --{what}-port")]
    NoPort {
        /// "quic" or "http".
        what: &'static str,
        /// First tried.
        from: u16,
        /// Last tried.
        until: u16,
    },
    /// The name is not a valid node name.
    #[error(transparent)]
    Name(#[from] mesh_core::ids::InvalidId),
}

fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> AgentError + 'a {
    move |source| AgentError::Home { doing, path: path.to_owned(), source }
}

/// Ports of a home, chosen at its first start and kept.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Ports {
    quic: Option<u16>,
    http: Option<u16>,
}

impl Ports {
    fn file(home: &Path) -> PathBuf {
        home.join("ports.json")
    }

    fn load(home: &Path) -> Self {
        std::fs::read(Self::file(home)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn save(self, home: &Path) -> Result<(), AgentError> {
        let path = Self::file(home);
        let text = serde_json::to_vec(&self).unwrap_or_default();
        std::fs::write(&path, text).map_err(at("writing", &path))
    }
}

/// Runs a peer until it is told to stop by SIGINT or SIGTERM.
pub async fn run(options: Options) -> Result<(), AgentError> {
    let Options { home, name, quic_port, http_port, ready } = options;
    crate::platform::create_private_dir(&home).map_err(at("making the home", &home))?;
    let overrides = Overrides { name: name.clone(), quic_port, http_port, ..Overrides::default() };
    let (config, warnings) = config::load(&home, &overrides)?;
    let ring = start_logs(&config);
    for warning in &warnings {
        tracing::warn!("{warning}");
        eprintln!("warning: {warning}");
    }
    let tasks = TaskGroup::default();
    let key = DeviceKey::load_or_create(&home)?;
    let (durable_tx, durable) = mpsc::channel(1024);
    let (store, report) = FjallStore::open(&home.join("store"), durable_tx)?;
    say_report(&report);
    let blobs_dir = home.join("blobs");
    let blobs = BlobStore::open(&blobs_dir).map_err(at("opening", &blobs_dir))?;
    let store: Arc<dyn Store> = Arc::new(store);
    let stored = Ports::load(&home);

    let (link_tx, link_events) = mpsc::channel(1024);
    let links = open_links(&config, stored, &key, &blobs, &tasks, &link_tx)?;
    let (lan_tx, lan_events) = mpsc::channel(64);
    let name = config.node.name.clone().unwrap_or_else(|| NodeId::slug(&hostname()));
    if config.discovery.lan {
        let lan =
            LanConfig { seed: key.seed(), name: name.clone(), quic_port: links.local_port(), tasks: tasks.clone() };
        lan::start(lan, lan_tx);
    } else {
        let _ = lan_tx.try_send(LanEvent::Trouble("LAN discovery is switched off (discovery.lan)".to_owned()));
    }

    let mut catalogue = Catalogue::new(&config);
    // Not a setting: only `sigil-bench` and tests have use for it.
    if std::env::var_os("SIGIL_TEST_NOOP").is_some() {
        catalogue.offer_noop(&config);
    }
    let parts = Parts {
        key: key.clone(),
        config: config.peer(),
        store: store.clone(),
        durable,
        links: links.clone(),
        link_events,
        lan_events,
        blobs: blobs.clone(),
        name,
        tools: catalogue.decls(),
        tasks: tasks.clone(),
    };
    let work = home.join("work");
    let booted = mesh::boot(parts)?;
    let mesh_handle = booted.handle.clone();
    let adapters = wire(&booted, catalogue, &links, &blobs, work.clone(), &tasks).map_err(at("making", &work))?;
    let swept = blobs.clone();
    tasks.spawn(async move {
        let sweep = tokio::task::spawn_blocking(move || swept.sweep(BLOBS_KEPT_BYTES, &|_| false));
        if let Ok(Err(error)) = sweep.await {
            tracing::warn!(%error, "old blobs could not be removed");
        }
    });

    let stop_actor = CancellationToken::new();
    let (ended_tx, mut mesh) = tokio::sync::oneshot::channel();
    let running = booted.run(adapters, stop_actor.clone());
    tasks.spawn(async move { drop(ended_tx.send(running.await)) });
    let doors = open_doors(&config, stored, &home, mesh_handle, &links, ring, &tasks).await?;
    Ports { quic: Some(links.local_port()), http: Some(doors.http.port()) }.save(&home)?;
    let endpoints = Endpoints {
        pid: std::process::id(),
        socket: doors.socket.clone(),
        http: doors.http.to_string(),
        quic: links.local_addresses().iter().map(ToString::to_string).collect(),
        peer_id: key.peer_id().to_string(),
    };
    let endpoints_file = home.join("run").join("endpoints.json");
    write_atomically(&endpoints_file, &serde_json::to_vec(&endpoints).unwrap_or_default())
        .map_err(at("writing", &endpoints_file))?;
    tracing::info!(target: "sigil::events::agent", pid = endpoints.pid, http = %endpoints.http, "ready");
    ready(&endpoints);

    let ended = tokio::select! {
        () = signalled() => {
            tracing::info!(target: "sigil::events::agent", "stopping");
            stop_actor.cancel();
            (&mut mesh).await
        }
        ended = &mut mesh => ended,
    };
    links.close_all(Code::Stopping).await;
    tasks.shutdown(GRACE).await;
    let closing = store.clone();
    let _ = tokio::task::spawn_blocking(move || closing.close()).await;
    let _ = std::fs::remove_file(&endpoints_file);
    // The task cannot vanish without a word: only the shutdown above ends it otherwise.
    ended.unwrap_or(Ok(())).map_err(AgentError::from)
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

fn start_logs(config: &Config) -> LogRing {
    let ring = LogRing::default();
    let filter: tracing_subscriber::filter::Targets = config.log.level.parse().unwrap_or_default();
    let registry = tracing_subscriber::registry().with(filter).with(ring.layer());
    let text = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    // Someone else may have set a subscriber in tests; the ring still works through ours only.
    let _ = match config.log.format {
        LogFormat::Json => registry.with(text.json()).try_init(),
        LogFormat::Text => registry.with(text).try_init(),
    };
    ring
}

fn say_report(report: &OpenReport) {
    for repair in &report.repaired {
        tracing::warn!(
            file = repair.file,
            cut_at = repair.cut_at,
            promised = repair.promised,
            why = repair.why,
            "the store was repaired"
        );
    }
    if let Some(loss) = &report.lost {
        tracing::error!(
            why = loss.why, kept_at = ?loss.kept_at,
            "the store could not be repaired: this device has lost its membership and starts anew; join the mesh again"
        );
    }
    if report.rolled_back {
        tracing::warn!("the store is older than what it had promised: this device takes a new incarnation");
    }
}

fn open_links(
    config: &Config,
    stored: Ports,
    key: &DeviceKey,
    blobs: &BlobStore,
    tasks: &TaskGroup,
    events: &mpsc::Sender<crate::mesh::transport::LinkEvent>,
) -> Result<Links, AgentError> {
    let open = |port: u16| {
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let links = LinksConfig {
            key: key.clone(),
            listen,
            services: [ServiceId::NODE].into(),
            blobs: blobs.clone(),
            tasks: tasks.clone(),
        };
        Links::start(links, events.clone())
    };
    if let Some(port) = config.listen.quic_port.or(stored.quic) {
        return Ok(open(port)?);
    }
    let from = crate::config::QUIC_PORT_DEFAULT;
    for port in (from..from + PORTS_TRIED).step_by(2) {
        match open(port) {
            Err(LinksError::PortTaken { .. }) => {}
            other => return Ok(other?),
        }
    }
    Err(AgentError::NoPort { what: "quic", from, until: from + PORTS_TRIED })
}

async fn open_doors(
    config: &Config,
    stored: Ports,
    home: &Path,
    mesh: MeshHandle,
    links: &Links,
    logs: LogRing,
    tasks: &TaskGroup,
) -> Result<doors::Bound, AgentError> {
    let run = home.join("run");
    crate::platform::create_private_dir(&run).map_err(at("making", &run))?;
    let tokens = home.join("tokens");
    let tokens = Arc::new(TokenStore::open(tokens.clone()).map_err(at("reading", &tokens))?);
    let socket = socket_path(&run);
    let serve = |port: u16| {
        let context = doors::Context {
            mesh: mesh.clone(),
            quic: links.local_addresses(),
            tokens: tokens.clone(),
            logs: logs.clone(),
            home: home.to_owned(),
            call_ttl: config.calls.ttl,
        };
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let socket = socket.clone();
        async move { doors::serve(context, &socket, http, tasks).await }
    };
    if let Some(port) = config.listen.http_port.or(stored.http) {
        return Ok(serve(port).await?);
    }
    let from = crate::config::HTTP_PORT_DEFAULT;
    for port in (from..from + PORTS_TRIED).step_by(2) {
        match serve(port).await {
            Err(ListenError::PortInUse(_)) => {}
            other => return Ok(other?),
        }
    }
    Err(AgentError::NoPort { what: "http", from, until: from + PORTS_TRIED })
}

/// The kernel takes 107 bytes; a longer path moves to the runtime directory (architecture.md §10).
fn socket_path(run: &Path) -> PathBuf {
    let usual = run.join("sigil.sock");
    if usual.as_os_str().len() <= 100 {
        return usual;
    }
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let hash = Hash::of(usual.as_os_str().as_encoded_bytes()).to_string();
    base.join(format!("sigil-{}.sock", hash.get(..16).unwrap_or_default()))
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, path)
}

// --- between the mesh and the tools

/// Builds what stands between the mesh and the tools.
fn wire(
    booted: &Booted,
    catalogue: Catalogue,
    links: &Links,
    blobs: &BlobStore,
    work: PathBuf,
    tasks: &TaskGroup,
) -> io::Result<Adapters> {
    let handle = &booted.handle;
    let view = handle.watch_view();
    let names = catalogue.decls().into_iter().map(|tool| tool.name).collect();
    let policy_view = handle.watch_view();
    let policy = owners_only(move |peer| policy_view.borrow().nodes.iter().find(|n| n.peer == *peer).map(|n| n.tier));
    let sinks = Arc::new(blobs.clone());
    let host = ToolHost::new(catalogue, sinks, policy, work, tool_exec::launcher(), tasks.clone())?;

    let (streams, incoming) = mpsc::channel(64);
    let (node_tx, mut node_events) = mpsc::channel(1024);
    let verifier = Arc::new(links.verifier());
    let server = NodeServer::start(incoming, handle.watch_view(), verifier.clone(), node_tx, tasks);

    let (gateway, gateway_rx) = watch::channel(None);
    let mut nonce = [0; 8];
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut nonce);
    let first: Arc<View> = view.borrow().clone();
    let info = watch::Sender::new(Arc::new(NodeInfo {
        node_id: first.node_id.clone(),
        platform: crate::platform::name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tools: names,
        capabilities: std::collections::BTreeMap::new(),
        session_nonce: u64::from_be_bytes(nonce) | 1,
    }));
    let mut views = handle.watch_view();
    let told = info.subscribe();
    tasks.spawn(async move {
        while views.changed().await.is_ok() {
            let node_id = views.borrow_and_update().node_id.clone();
            info.send_if_modified(|info| {
                let changed = info.node_id != node_id;
                if changed {
                    *info = Arc::new(NodeInfo { node_id, ..(**info).clone() });
                }
                changed
            });
        }
    });
    let (client_tx, mut client_events) = mpsc::channel(1024);
    let opener = links.clone();
    let open = move |peer| {
        let links = opener.clone();
        async move { links.open(peer, ServiceId::NODE).await.map_err(io::Error::other) }
    };
    let client = NodeClient::start(gateway_rx, open, told, verifier, client_tx, tasks);

    let (tool_events, mut tool_rx) = mpsc::channel(256);
    let to_core = booted.inputs();
    tasks.spawn(async move {
        while let Some(event) = node_events.recv().await {
            let input = match event {
                NodeEvent::Up { peer, session, .. } => Input::NodeUp(peer, session),
                NodeEvent::Down { peer, session } => Input::NodeDown(peer, session),
                NodeEvent::Answer { peer, answer, .. } => Input::Recv(peer, Frame::Answer(answer)),
                // What a node of ours offers travels in its signed directory record.
                NodeEvent::Status { .. } => continue,
                NodeEvent::ForeignResult { peer, id, .. } => {
                    tracing::debug!(peer = %peer.short(), %id, "a result without a signed outcome is not taken");
                    continue;
                }
            };
            if to_core.send(input).await.is_err() {
                break;
            }
        }
    });
    let to_core = booted.inputs();
    tasks.spawn(async move {
        while let Some(event) = client_events.recv().await {
            let input = match event {
                NodeClientEvent::Dispatch(gateway, dispatch) => Input::Recv(gateway, Frame::Dispatch(dispatch)),
                NodeClientEvent::Cancel(gateway, id) => Input::Recv(gateway, Frame::Cancel { id }),
                NodeClientEvent::Refused { gateway, error, hint } => {
                    tracing::info!(gateway = %gateway.short(), error, hint, "the gateway does not take this node");
                    continue;
                }
                NodeClientEvent::Registered { .. } | NodeClientEvent::Lost { .. } | NodeClientEvent::Moved(_) => {
                    continue;
                }
            };
            if to_core.send(input).await.is_err() {
                break;
            }
        }
    });
    let to_core = booted.inputs();
    tasks.spawn(async move {
        while let Some(event) = tool_rx.recv().await {
            let input = match event {
                ToolEvent::Progress(id, attempt, note) => Input::ToolProgress(id, attempt, note),
                ToolEvent::Ended(id, attempt, outcome) => Input::ToolEnded(id, attempt, outcome),
            };
            if to_core.send(input).await.is_err() {
                break;
            }
        }
    });
    let nodes = Nodes { server, client, streams, gateway };
    let runs = Runs { host, tool_events, blobs: blobs.clone(), inputs: booted.inputs(), tasks: tasks.clone() };
    Ok(Adapters { nodes: Box::new(nodes), tools: Box::new(runs) })
}

/// [`NodeLinks`] as it is in the product.
struct Nodes {
    server: NodeServerHandle,
    client: NodeClientHandle,
    streams: mpsc::Sender<ServiceIo>,
    gateway: watch::Sender<Option<PeerId>>,
}

impl NodeLinks for Nodes {
    fn send(&self, peer: PeerId, frame: Frame) -> bool {
        if let Frame::Answer(answer) = frame { self.client.answer(peer, answer) } else { self.server.send(peer, frame) }
    }

    fn follow(&self, gateway: Option<PeerId>) {
        self.gateway.send_replace(gateway);
    }

    fn abdicate(&self, moved_to: Option<PeerId>) {
        self.server.close_all(moved_to);
    }

    fn accept(&self, stream: ServiceIo) {
        // Full: the node tries again.
        let _ = self.streams.try_send(stream);
    }

    fn dismiss(&self, peer: PeerId) {
        self.server.dismiss(peer);
    }

    fn retry_now(&self) {
        self.client.retry_now();
    }
}

/// [`ToolRuns`] as it is in the product.
struct Runs {
    host: ToolHost,
    tool_events: mpsc::Sender<ToolEvent>,
    blobs: BlobStore,
    inputs: mpsc::Sender<Input>,
    tasks: TaskGroup,
}

impl ToolRuns for Runs {
    fn invoke(&self, invocation: Invocation) {
        if let Payload::Inline(bytes) = &invocation.header.arguments {
            self.host.invoke(&invocation, bytes.to_vec(), self.tool_events.clone());
            return;
        }
        let (host, blobs, events) = (self.host.clone(), self.blobs.clone(), self.tool_events.clone());
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            match blobs.read(&invocation.header.arguments).await {
                Ok(arguments) => host.invoke(&invocation, arguments, events),
                Err(error) => {
                    let outcome = ToolOutcome {
                        ending: Ending::Failed,
                        reason: format!("the arguments could not be read here: {error}"),
                        output: Payload::empty(),
                        error: String::new(),
                    };
                    let _ = inputs.send(Input::ToolEnded(invocation.id, invocation.attempt, outcome)).await;
                }
            }
        });
    }

    fn kill(&self, id: ReqId, attempt: Attempt) {
        self.host.kill(id, attempt);
    }
}
