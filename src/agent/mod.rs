//! The agent: one peer, all parts built and wired together, from the first file opened to the last link closed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::NodeId;
use mesh_core::io::View;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::backup::Source;
use crate::config::{LogFormat, Overrides};
use crate::doors::Settings;
use crate::memory::{self, Embedder, MemoryHandle, ModelFiles, Writer};
use crate::mesh::disk_room::DiskRoom;
use crate::mesh::identity::DeviceKey;
use crate::mesh::store::Store;
use crate::mesh::transport::Code;
use crate::mesh::{self, Adapters, Parts, Surroundings};
use crate::node::approvals;
use crate::node::catalogue::Catalogue;
use crate::node::commands::Starter;
use crate::node::containers::Containers;
use crate::node::declared::{self, Declared, Means};
use crate::node::foreign::door;
use crate::node::foreign::node::{Hosting, Present};
use crate::node::foreign::records::{Nodes, pins_of};
use crate::node::host::ToolHost;
use crate::node::mcp::hosted::McpHost;
use crate::node::outbound;
use crate::node::plugins::Plugins;
use crate::node::publisher::Publisher;
use crate::node_service;
use crate::platform;
use crate::runtime::container::Runtime;
use crate::runtime::container::engine::{self, Engine};
use crate::runtime::egress::Proxy;
use crate::runtime::process::Launcher;
use crate::secrets::Secrets;
use crate::tasks::TaskGroup;
use doors::Around;
use error::{at, in_file};
use home::Home;
use network::Network;
use ports::Ports;
use settings::{Reloader, Tools};
use signals::{SignalRequest, Signals};

mod doors;
mod error;
mod home;
mod logs;
mod look;
mod network;
mod ports;
mod settings;
mod signals;

pub use error::{AgentError, Ended};
pub use home::Endpoints;

/// Time that a clean stop gives to what is in hand: event streams, requests, tools.
const GRACE: Duration = Duration::from_millis(1_500);

/// Interval at which an agent looks if its socket is still where others look for it, and if its settings have changed.
const CARE_EVERY: Duration = Duration::from_secs(2);
/// Wishes for a reload that may wait; then their requests wait.
const RELOADS: usize = 4;

/// Parameters of a start.
pub struct Options {
    /// Its home.
    pub home: PathBuf,
    /// Name of this device; kept with the home.
    pub name: Option<String>,
    /// UDP port of the mesh.
    pub quic_port: Option<u16>,
    /// TCP port of the loopback HTTP door.
    pub http_port: Option<u16>,
    /// File for its log, in a directory that exists; `None` = stderr.
    pub log_file: Option<PathBuf>,
    /// Called for each warning of the start.
    pub warn: Box<dyn Fn(&str) + Send>,
    /// Called once, when all doors are open.
    pub ready: Box<dyn FnOnce(&Endpoints) + Send>,
}

/// Runs a peer until a signal tells it to stop: SIGINT, SIGTERM, SIGQUIT, or the end of its terminal. SIGHUP has it read
/// its settings anew.
///
/// Everything is built from the ground up before the mesh runs: files, links, mesh, tools and node streams, doors. It
/// is taken down the other way round.
///
/// # Errors
/// It did not start, or has failed.
pub async fn run(options: Options) -> Result<(), Ended> {
    let mut log = None;
    live(options, &mut log).await.map_err(|error| Ended { error, log })
}

async fn live(options: Options, log: &mut Option<LogFormat>) -> Result<(), AgentError> {
    let Options { home, name, quic_port, http_port, log_file, warn, ready } = options;
    let home = Home::create(home)?;
    let signals = Signals::early().map_err(at("taking the signals of", home.path()))?;
    let overrides = Overrides { name, quic_port, http_port };
    let read = settings::Read::from(home.path(), &overrides)?;
    let config = read.config.clone();
    let logs = logs::start(&config, log_file.as_deref())?;
    *log = Some(config.log.format);
    let mut told: Vec<String> = read.warnings.iter().map(ToString::to_string).collect();
    told.extend(crate::ownership::above(home.path()).into_iter().map(|finding| finding.cause));
    for warning in &told {
        tracing::warn!("{warning}");
        warn(warning);
    }
    declared::check(&config).map_err(in_file(home.path()))?;
    let given = config.node.name.clone();
    let name = given.clone().or_else(|| home.name()).unwrap_or_else(|| NodeId::slug(&hostname()));
    home.keep_name(&name)?;

    let tasks = TaskGroup::default();
    let mut missing = look::start(&config, &tasks);
    let key = DeviceKey::load_or_create(home.path())?;
    let peer_id = key.peer_id();
    let (store, report, durable) = home.open_store()?;
    let blobs = home.open_blobs()?;
    // The home is ours alone from here on: what lies in there is of agents that were killed.
    let work = home.work();
    let launcher = Launcher::start(work.clone(), platform::own_program(), &tasks).map_err(at("making", &work))?;
    let sandbox = launcher.offered();
    let (approvals, approved) = watch::channel(approvals::Approved::default());
    let secrets = Secrets::of(home.path());
    let identity = home.id().to_string();
    let (proxy, went_out) = Proxy::start(&tasks);
    let helper = launcher.helper().clone();
    let engine = Engine::start(home.path(), &identity, engine::sockets(), helper, proxy.clone(), &tasks)
        .map_err(at("making directories below", home.path()))?;
    let engine_state = engine.state();
    let runtime: Arc<dyn Runtime> = Arc::new(engine);
    let hosting = McpHost {
        launcher: launcher.clone(),
        runtime: runtime.clone(),
        pins: home.path().join("pins"),
        secrets: secrets.clone(),
        proxy: proxy.clone(),
        approved: approved.clone(),
        tasks: tasks.clone(),
    };
    let present = Present::default();
    let foreign = Hosting { pins: pins_of(home.path()), approved, present: present.clone() };
    let containers = Containers { runtime, secrets: secrets.clone(), tasks: tasks.clone() };
    let means = Means { starter: Starter { launcher, secrets: secrets.clone(), proxy }, hosting, containers, foreign };
    let plugins = Plugins::of(home.path());
    plugins.tidy();
    let stamp = plugins.stamp();
    let installed = plugins.list().unwrap_or_else(|error| {
        tracing::warn!(%error, "no installed plugin is offered");
        Vec::new()
    });
    let foreign_nodes = Nodes::of(home.path());
    let records = foreign_nodes.list().unwrap_or_else(|error| {
        tracing::warn!(%error, "no foreign node is let in");
        Vec::new()
    });
    let declared =
        Declared::new(&config, means).map_err(in_file(home.path()))?.with_plugins(&installed).with_nodes(&records);
    logs::report(&report);
    let store: Arc<dyn Store> = Arc::new(store);
    let kept = home.ports();
    let Network { links, link_events, lan_events } =
        network::open(&config, kept, &name, &key, &blobs, &secrets, &tasks).await?;
    let memory = MemoryHandle::new(home.memory(), key.clone(), config.memory.compaction(), memory::IDLE, tasks.clone());
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
        tools: Catalogue::fold(&declared.members(), &config.node.deny).decls(),
        deny: config.node.deny.clone(),
        tag_rule: config.tailnet.tag_rule.clone(),
        tasks: tasks.clone(),
    })?;
    let host = ToolHost::new(Arc::new(blobs.clone()), booted.inputs(), tasks.clone());
    host.put_in_force(declared.members(), config.node.deny.clone());
    let publisher = Publisher::new(host.catalogue(), Arc::new(booted.handle.clone()), Arc::new(blobs.clone()));
    tasks.spawn(publisher.clone().follow(tasks.stopping()));
    tasks.spawn(outbound::follow(booted.handle.clone(), went_out));
    let nodes = node_service::start(&links, booted.handle.watch_view(), booted.inputs(), &tasks);
    if memory_models::CAN_RUN {
        let embedder = Embedder::start(ModelFiles::new(memory::models_of(home.path())), &tasks);
        memory::start_embedding(&memory, embedder, booted.handle.watch_view(), &tasks);
        let writer = Writer::start(ModelFiles::new(memory::models_of(home.path())), &tasks);
        let when = config.memory.summarizer;
        memory::start_writing(&memory, writer, when, booted.handle.watch_view(), &tasks);
    }
    let memory_streams = memory::start_sync(&memory, &links, booted.handle.watch_view(), &tasks);
    let (reload_tx, mut reloads) = mpsc::channel(RELOADS);
    tasks.spawn(approvals::follow(booted.handle.watch_view(), approvals));
    if let Some(address) = config.listen.grpc {
        let bound = door::open(address, foreign_nodes.clone(), present, &tasks).await;
        let bound = bound.map_err(at("opening listen.grpc at", std::path::Path::new(&address.to_string())))?;
        tracing::info!(target: "sigil::events::agent", address = %bound, "foreign nodes may come in");
    }
    let tools = Tools { declared, host: host.clone(), publisher, plugins, stamp, nodes: foreign_nodes, records };
    let left_out = tools.left_out();
    let mut reloader = Reloader::new(home.path().to_owned(), overrides, read, tools, booted.handle.clone());
    for warning in left_out {
        warn(&warning);
        reloader.say(warning);
    }
    if let Some(warning) = given.and_then(|given| ignored_name(&given, &booted.handle.view().node_id)) {
        tracing::warn!("{warning}");
        warn(&warning);
        reloader.note(warning);
    }
    let socket_gone = Arc::new(Notify::new());
    let around = Around {
        home: &home,
        logs,
        backup: Source::new(home.path().to_owned(), store.clone(), blobs.clone(), memory.clone()),
        memory,
        settings: Settings::new(reloader.watch(), reload_tx),
        roster: host.roster(),
        sandbox,
        engine: engine_state,
        socket_gone: socket_gone.clone(),
    };
    let doors = doors::open(&config, kept, booted.handle.clone(), around, &tasks).await?;

    let stop = CancellationToken::new();
    let (ended_tx, mut ended) = tokio::sync::oneshot::channel();
    let adapters = Adapters {
        nodes: Box::new(nodes.server),
        gateway: Box::new(nodes.client),
        node_streams: nodes.connections,
        memory_streams,
        tools: Box::new(host),
    };
    let surroundings = booted.handle.watch_surroundings();
    let mut view = booted.handle.watch_view();
    let mut chosen = chosen_name(&view.borrow_and_update());
    let mesh = Box::pin(booted.run(adapters, stop.clone()));
    tasks.spawn(async move { drop(ended_tx.send(mesh.await)) });
    reloader.declare().await;

    home.keep_ports(Ports { quic: Some(links.local_port()), http: Some(doors.http.port()) })?;
    let endpoints = Endpoints {
        pid: std::process::id(),
        socket: doors.socket.clone(),
        http: doors.http.to_string(),
        quic: links.local_addresses().iter().map(ToString::to_string).collect(),
        peer_id: peer_id.to_string(),
        home: home.path().to_owned(),
        home_id: home.id(),
    };
    // Others come later, or never: the start does not wait for a disk.
    while let Ok(warning) = missing.try_recv() {
        warn(&warning);
        reloader.note(warning);
    }
    home.publish(&endpoints)?;
    tasks.spawn(keep_published(home.clone(), endpoints.clone(), surroundings, tasks.stopping()));
    let mut signals = signals.with_stopping().map_err(at("taking the signals of", home.path()))?;
    tracing::info!(target: "sigil::events::agent", pid = endpoints.pid, http = %endpoints.http, "ready");
    ready(&endpoints);

    let mut care = tokio::time::interval(CARE_EVERY);
    care.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut ended => break ended,
            request = signals.next() => match request {
                SignalRequest::Stop(signal) => {
                    tracing::info!(target: "sigil::events::agent", %signal, "stopping");
                    stop.cancel();
                    break (&mut ended).await;
                }
                // What went wrong is in the log.
                SignalRequest::Reload => drop(reloader.reload().await),
            },
            Some(request) = reloads.recv() => {
                // Whoever asked may have gone.
                let _ = request.send(reloader.reload().await);
            }
            _ = care.tick() => {
                if home.keep_up(&endpoints) {
                    socket_gone.notify_one();
                }
                reloader.look().await;
            }
            Ok(()) = view.changed() => {
                let now = chosen_name(&view.borrow_and_update());
                if now != chosen {
                    if let Some(Err(error)) = now.as_ref().map(|name| home.keep_name(name)) {
                        tracing::warn!(%error, "the name of this device is not kept for a mesh that it joins later");
                    }
                    chosen = now;
                }
            }
        }
    };
    // With it goes the last hold on the launcher of tools, whose thread is waited for.
    drop(reloader);
    links.close_all(Code::Stopping).await;
    tasks.shutdown(GRACE).await;
    let _ = tokio::task::spawn_blocking(move || store.close()).await;
    home.unpublish();
    // The task cannot vanish without a word: only the shutdown above ends it otherwise.
    ended.unwrap_or(Ok(())).map_err(AgentError::from)
}

/// The name that this device has given itself in its mesh.
fn chosen_name(view: &View) -> Option<NodeId> {
    view.by_peer(&view.me)?.directory.as_ref()?.name.clone()
}

/// The warning that a name which was given is not used, because this device has one in its mesh. One that was made
/// unique there is the one that was given.
fn ignored_name(given: &NodeId, present: &NodeId) -> Option<String> {
    let numbered = present.as_str().strip_prefix(given.as_str()).and_then(|rest| rest.strip_prefix('-'));
    let made_unique = numbered.is_some_and(|number| number.parse::<u32>().is_ok());
    (given != present && !made_unique).then(|| {
        format!(
            "the name `{given}` is kept for a mesh that this device joins later: in the present one it stays `{present}`, until `sigil rename {given}`"
        )
    })
}

/// Publishes the endpoints anew whenever this device has other addresses.
async fn keep_published(
    home: Home,
    mut endpoints: Endpoints,
    mut around: watch::Receiver<Arc<Surroundings>>,
    stop: CancellationToken,
) {
    while let Some(Ok(())) = stop.run_until_cancelled(around.changed()).await {
        let quic: Vec<String> = around.borrow_and_update().addresses.iter().map(ToString::to_string).collect();
        if quic != endpoints.quic {
            endpoints.quic = quic;
            if let Err(error) = home.publish(&endpoints) {
                tracing::warn!(%error, "the addresses of this device cannot be published");
            }
        }
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b11_a_name_that_is_not_used_is_told() {
        let name = |text: &str| text.parse::<NodeId>().unwrap();
        assert!(ignored_name(&name("attic"), &name("vm")).is_some_and(|told| told.contains("stays `vm`")));
        for present in ["attic", "attic-2"] {
            assert_eq!(ignored_name(&name("attic"), &name(present)), None);
        }
        assert!(ignored_name(&name("attic"), &name("attic-room")).is_some());
    }
}
