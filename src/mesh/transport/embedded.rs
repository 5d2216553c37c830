//! Keeps a node of a tailnet in this program: makes it where it is wanted, opens the underlay over it, makes another when
//! it dies, and ends it when the tailscaled of this machine does better. What comes of it, links over other underlays never notice.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::{NodeId, PeerId};
use mesh_core::tailnet::Netmap;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::accept;
use super::address::Address;
use super::embedded_door::{Open, Visit};
use super::event::LinkEvent;
use super::lan::LanEvent;
use super::links::Links;
use super::quic::{self, Code};
use super::shared::{LinksState, ToTable};
use super::underlay::{OwnAddresses, Underlay, UnderlayKind};
use crate::mesh::clock;
use crate::mesh::identity::DeviceKey;
use crate::mesh::tailnet::answers::is_tailnet;
use crate::mesh::tailnet::embedded::{ReadConfig, Running, Told};
use crate::mesh::tailnet::{
    Condition, Device, EMBEDDED_PORT, EmbeddedCondition, Node, TAILNET_PORT, TailscaleAuth, TailscaleConfig,
};
use crate::tasks::TaskGroup;

/// Time in which a tailscaled must say at the start that it runs, or the node in this program is made.
const HOST_FIRST: Duration = Duration::from_millis(500);
/// Time for which a tailscaled may be away, as when it is updated, before a node is made in its place.
const HOST_AWAY_MAX: Duration = Duration::from_secs(10);
/// Time for which the node stays when a tailscaled runs: long enough for others to learn of the other address.
const LEAVE_AFTER: Duration = Duration::from_mins(1);
/// Pauses before a node that died is made anew, the last again and again; the first again after one that lived for long.
const AGAIN: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_mins(1),
];
const LIVED: Duration = Duration::from_mins(1);
/// Interval at which the node is asked for the tags and keys of members.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Nodes that are asked for at a time: a family has some dozens.
const ASKED_MAX: usize = 64;
/// Strangers that are remembered.
const VISITORS_MAX: usize = 64;
/// Those that have come and are not looked at yet.
const VISITS: usize = 16;

/// Settings of the node.
#[derive(Clone)]
pub struct EmbeddedConfig {
    /// What makes it; `None`: this program was built without.
    pub device: Option<Arc<dyn Device>>,
    /// Settings of the node, read anew for each.
    pub read: ReadConfig,
    /// Only where no tailscaled runs, and where it has a key or was on a tailnet before.
    pub auto: bool,
    /// The tag that lets others in here: whether the node itself has it is told.
    pub auth: TailscaleAuth,
    /// The device key.
    pub key: DeviceKey,
    /// Owner of task and node; they end with the links.
    pub tasks: TaskGroup,
}

/// Keeps a node from now on. Peers that come by it go to `events`.
///
/// # Errors
/// The device key does not do.
pub fn start(config: EmbeddedConfig, links: &Links, events: mpsc::Sender<LanEvent>) -> Result<(), super::LinksError> {
    let shared = links.shared.clone();
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(shared.credentials.server()?));
    // Who is at an address was asked once: nobody moves to another on an open connection.
    server.transport_config(quic::slow_transport(quic::End::Accepted)).migration(false);
    let mut endpoint = quic::endpoint_config(&config.key, "embedded ");
    quic::fit_into_tailnet(&mut endpoint);
    let tasks = config.tasks.clone();
    let mut keeper = Keeper { shared: shared.clone(), config, endpoint, server, events, failures: 0 };
    tasks.spawn(async move {
        let _: Option<()> = shared.drain.closing().run_until_cancelled(keeper.run()).await;
    });
    Ok(())
}

struct Keeper {
    shared: Arc<LinksState>,
    config: EmbeddedConfig,
    endpoint: quinn::EndpointConfig,
    server: quinn::ServerConfig,
    events: mpsc::Sender<LanEvent>,
    /// Nodes in a row that died young.
    failures: usize,
}

/// The way in which the time of a node was over.
enum End {
    /// It died.
    Died(String),
    /// A tailscaled runs here.
    Spare,
}

/// A node in use.
struct Live {
    node: Node,
    at: SocketAddr,
    /// Addresses of its underlay: none once it is to end, so that others dial the better one.
    own: watch::Sender<OwnAddresses>,
    visits: mpsc::Receiver<Visit>,
    visitors: BTreeMap<String, PeerId>,
    /// All that was told of tags and keys last.
    netmap: Option<Netmap>,
}

impl Keeper {
    async fn run(&mut self) {
        let mut patience = HOST_FIRST;
        loop {
            if self.config.auto {
                self.until_alone(patience).await;
                patience = HOST_AWAY_MAX;
            }
            let config = match self.settings().await {
                Ok(config) => config,
                Err(why) => {
                    self.note(EmbeddedCondition::NoWay(why)).await;
                    // A key may be given later.
                    sleep(LEAVE_AFTER).await;
                    continue;
                }
            };
            let began = Instant::now();
            match self.live(config).await {
                End::Spare => {
                    self.failures = 0;
                    self.note(EmbeddedCondition::Off).await;
                }
                End::Died(why) => {
                    if began.elapsed() > LIVED {
                        self.failures = 0;
                    }
                    self.note(EmbeddedCondition::Failed(why)).await;
                    sleep(AGAIN.get(self.failures).or(AGAIN.last()).copied().unwrap_or(LIVED)).await;
                    self.failures += 1;
                }
            }
        }
    }

    /// Waits until no tailscaled has run here for so long.
    async fn until_alone(&self, patience: Duration) {
        let mut host = self.shared.underlays.tailnet.follow();
        loop {
            while is_running(&host.borrow_and_update()) {
                if host.changed().await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = sleep(patience) => return,
                changed = host.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Settings of the node, if it can be made and joins by itself, where nobody asked for it by name.
    async fn settings(&self) -> Result<(Arc<dyn Device>, TailscaleConfig), String> {
        let device = self.config.device.clone();
        let device = device.ok_or("this program was built without it (feature `tailnet`)")?;
        let config = (self.config.read)().await?;
        config.validate().map_err(|error| error.to_string())?;
        if self.config.auto && config.auth_key.is_none() && !config.state_file.exists() {
            return Err("there is neither an auth key (`tailnet.auth_key`) nor the state of one that was here before"
                .to_owned());
        }
        Ok((device, config))
    }

    /// Makes a node and keeps it until it dies or is spare.
    async fn live(&mut self, (device, config): (Arc<dyn Device>, TailscaleConfig)) -> End {
        self.note(EmbeddedCondition::Starting).await;
        let Running { mut told, asks } = match device.begin(config, &self.config.tasks) {
            Ok(running) => running,
            Err(error) => return End::Died(format!("the system gives it no thread: {error}")),
        };
        let mut host = self.shared.underlays.tailnet.follow();
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut live: Option<Live> = None;
        let mut leaves: Option<Instant> = None;
        let end = loop {
            tokio::select! {
                biased;
                () = sleep_until(leaves.unwrap_or_else(Instant::now)), if leaves.is_some() => break End::Spare,
                news = told.recv() => match news {
                    None => break End::Died("its thread ended".to_owned()),
                    Some(Told::Ended(why)) => break End::Died(why),
                    Some(Told::Login(url)) => {
                        tracing::warn!("the node of the tailnet waits to be logged in: `sigil status` shows where");
                        self.note(EmbeddedCondition::NeedsLogin(url)).await;
                    }
                    Some(Told::Node(node)) => if let Some(live) = &mut live {
                        live.node = node;
                        if leaves.is_none() {
                            self.note(self.running(&live.node)).await;
                        }
                    },
                    Some(Told::Open { node, at, packets }) => {
                        let (visits_tx, visits) = mpsc::channel(VISITS);
                        let underlay = Underlay::embedded(at, packets, self.endpoint.clone(), self.server.clone());
                        let (underlay, own) = match underlay {
                            Ok((underlay, own)) => (Arc::new(underlay), own),
                            Err(error) => break End::Died(format!("no endpoint of QUIC: {error}")),
                        };
                        let open = Open { underlay: underlay.clone(), asks: asks.clone(), visits: visits_tx };
                        self.shared.underlays.embedded.put(Some(open));
                        self.shared.tasks.spawn(accept::run(self.shared.clone(), underlay));
                        tracing::info!(%at, name = node.name, "tailnet: open, by a node in this program");
                        self.note(self.running(&node)).await;
                        self.tell_table().await;
                        live = Some(Live { node, at, own, visits, visitors: BTreeMap::new(), netmap: None });
                        ticks.reset_immediately();
                    }
                },
                _ = host.changed(), if self.config.auto => {
                    let runs = is_running(&host.borrow_and_update());
                    match (runs, leaves, &live) {
                        // Nobody has used it yet.
                        (true, None, None) => break End::Spare,
                        (true, None, Some(live)) => {
                            leaves = Some(Instant::now() + LEAVE_AFTER);
                            live.own.send_replace(OwnAddresses::default());
                            self.note(EmbeddedCondition::Leaving).await;
                        }
                        (false, Some(_), Some(live)) => {
                            leaves = None;
                            live.own.send_replace(OwnAddresses::on_tailnet(live.at));
                            self.note(self.running(&live.node)).await;
                        }
                        (true, Some(_), _) | (false, ..) => {}
                    }
                }
                Some(visit) = next_visit(&mut live) => self.note_visit(&mut live, visit).await,
                _ = ticks.tick() => if let Some(live) = &mut live {
                    self.look(live, leaves.is_some()).await;
                },
            }
        };
        drop((told, asks));
        self.close(live).await;
        end
    }

    fn running(&self, node: &Node) -> EmbeddedCondition {
        let untagged = self.config.auth.check_tag(node, clock::now().wall_ms).err();
        EmbeddedCondition::Running { node: node.clone(), untagged }
    }

    /// Notes one that has come, if it is none of ours: it is there, and may be joined.
    async fn note_visit(&self, live: &mut Option<Live>, Visit { peer, from, node }: Visit) {
        let Some(live) = live else { return };
        // From another port comes a program that is no peer's door.
        if !matches!(from.port(), TAILNET_PORT | EMBEDDED_PORT) {
            return;
        }
        let is_known = live.visitors.contains_key(&node.stable_id);
        if !is_known && live.visitors.len() >= VISITORS_MAX {
            return;
        }
        if let Some(before) = live.visitors.insert(node.stable_id.clone(), peer).filter(|before| *before != peer) {
            let _ = self.events.send(LanEvent::Gone(before)).await;
        }
        let (name, addresses) = (NodeId::slug(&node.name).to_string(), vec![Address::Tailnet(from)]);
        let node = Some(Box::new(node));
        let _ = self.events.send(LanEvent::Discovered { peer, name, addresses, node }).await;
    }

    /// Asks for the nodes of members, and tells their tags and keys if they are news. That one is not found says nothing:
    /// the node is not asked for all that there are.
    async fn look(&self, live: &mut Live, leaves: bool) {
        if leaves || is_running(&self.shared.underlays.tailnet.follow().borrow()) {
            return;
        }
        let now_ms = clock::now().wall_ms;
        let mut netmap = Netmap { tailnet: live.node.tailnet.clone(), ..Netmap::default() };
        let mut ips: Vec<IpAddr> = Vec::new();
        for member in self.shared.members.borrow().values() {
            ips.extend(
                member
                    .addresses
                    .iter()
                    .filter(|address| matches!(address, Address::Tailnet(_)))
                    .filter_map(Address::ip),
            );
        }
        ips.retain(|ip| is_tailnet(*ip) && !live.node.ips.contains(ip));
        ips.sort_unstable();
        ips.dedup();
        let mut nodes = vec![live.node.clone()];
        for ip in ips.into_iter().take(ASKED_MAX) {
            nodes.extend(self.shared.underlays.embedded.at(ip).await);
        }
        for node in nodes.into_iter().filter(|node| node.tailnet == live.node.tailnet) {
            netmap.nodes.insert(node.stable_id.clone(), node.state(now_ms));
        }
        if live.netmap.as_ref() != Some(&netmap) {
            live.netmap = Some(netmap.clone());
            let _ = self.shared.events.send(LinkEvent::Tailnet(netmap)).await;
        }
    }

    /// The node is gone: closes the underlay.
    async fn close(&self, live: Option<Live>) {
        if let Some(old) = self.shared.underlays.embedded.put(None) {
            old.endpoint.close(quinn::VarInt::from_u32(Code::Stopping as u32), b"");
            self.tell_table().await;
        }
        for peer in live.into_iter().flat_map(|live| live.visitors.into_values()) {
            let _ = self.events.send(LanEvent::Gone(peer)).await;
        }
    }

    async fn note(&self, condition: EmbeddedCondition) {
        let (told, step) = condition.told(clock::now().wall_ms);
        let has_url = condition.login_url().is_some();
        if self.shared.underlays.embedded.note(condition) {
            // Where somebody logs it in is for `sigil status` alone.
            match step {
                Some(step) if !has_url => tracing::info!("tailnet: {told}; {step}"),
                Some(_) | None => tracing::info!("tailnet: {told}"),
            }
            self.tell_table().await;
        }
    }

    async fn tell_table(&self) {
        let _ = self.shared.table.send(ToTable::OwnAddresses(UnderlayKind::TailnetEmbedded)).await;
    }
}

async fn next_visit(live: &mut Option<Live>) -> Option<Visit> {
    match live {
        Some(live) => live.visits.recv().await,
        None => std::future::pending().await,
    }
}

fn is_running(host: &Condition) -> bool {
    matches!(host, Condition::Running { .. })
}
