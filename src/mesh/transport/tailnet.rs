//! Follows the tailnet of this machine: opens the underlay while tailscaled runs and is logged in, closes it when it is
//! not, and finds peers among the nodes that tailscaled lists. Where no tailscaled runs, it costs one look at a socket
//! every half minute.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mesh_core::ids::{NodeId, PeerId};
use mesh_core::tailnet::Netmap;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::address::Address;
use super::event::LinkEvent;
use super::interfaces::Interfaces;
use super::lan::LanEvent;
use super::links::Links;
use super::quic::{self, Code};
use super::shared::{LinksState, ToTable};
use super::underlay::{Underlay, UnderlayKind};
use super::{accept, embedded_door, join};
use crate::mesh::clock;
use crate::mesh::identity::DeviceKey;
use crate::mesh::tailnet::local_api::ApiError;
use crate::mesh::tailnet::{Condition, LocalApi, Status, TAILNET_PORT};
use crate::tasks::TaskGroup;

/// Interval of looks while tailscaled answers: tags and keys of others are as they are now within it. On a tailnet of two
/// all of it costs less than 0.1 % of a core.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pauses between looks while it does not, the last again and again.
const RETRIES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];
/// Looks in a row without an answer after which the underlay is closed: a busy machine answers late once.
const SILENT_MAX: usize = 3;
/// Nodes that are asked at once whether they are peers, and the pause while more of them wait.
const ASKED_AT_ONCE: usize = 8;
const MORE_WAIT: Duration = Duration::from_secs(1);
/// Time for one of them to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Pauses before a node that is not linked is asked again, the last again and again.
const ASK_AGAIN: [Duration; 5] = [
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
];

/// Settings of the tailnet.
#[derive(Debug, Clone)]
pub struct TailnetConfig {
    /// The tailscaled of this machine.
    pub api: LocalApi,
    /// The device key.
    pub key: DeviceKey,
    /// Owner of the task; it ends with the links.
    pub tasks: TaskGroup,
}

/// Uses the tailnet of this machine from now on. Peers that are found go to `events`.
///
/// # Errors
/// The device key does not do.
pub fn start(config: TailnetConfig, links: &Links, events: mpsc::Sender<LanEvent>) -> Result<(), super::LinksError> {
    let TailnetConfig { api, key, tasks } = config;
    let shared = links.shared.clone();
    shared.underlays.tailnet.begin(api.clone());
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(shared.credentials.server()?));
    // Who is at an address was asked once: nobody moves to another on an open connection.
    server.transport_config(quic::transport(quic::End::Accepted)).migration(false);
    let endpoint = quic::endpoint_config(&key, "tailnet ");
    let mut keeper = Keeper {
        shared: shared.clone(),
        api,
        endpoint,
        server,
        events,
        failures: 0,
        interface: None,
        netmap: None,
        nodes: BTreeMap::new(),
    };
    tasks.spawn(async move {
        let following = async {
            loop {
                let pause = keeper.look().await;
                sleep(pause).await;
            }
        };
        let _: Option<()> = shared.drain.closing().run_until_cancelled(following).await;
    });
    Ok(())
}

struct Keeper {
    shared: Arc<LinksState>,
    api: LocalApi,
    endpoint: quinn::EndpointConfig,
    server: quinn::ServerConfig,
    events: mpsc::Sender<LanEvent>,
    /// Looks in a row that were not answered.
    failures: usize,
    /// Number of the interface that the underlay is open at.
    interface: Option<u32>,
    /// All that was told of tags and keys last.
    netmap: Option<Netmap>,
    /// Nodes of the tailnet by their stable id.
    nodes: BTreeMap<String, Asked>,
}

/// The questions to one node.
#[derive(Debug)]
struct Asked {
    times: usize,
    next: Instant,
    /// Peer that it turned out to be.
    peer: Option<PeerId>,
}

impl Keeper {
    /// Looks once, and says when to look again.
    async fn look(&mut self) -> Duration {
        let asked = self.api.status().await;
        let status = match asked {
            Ok(status) => status,
            Err(error) => {
                let pause = RETRIES.get(self.failures).or(RETRIES.last()).copied().unwrap_or(LOOK_EVERY);
                self.failures += 1;
                let condition = if matches!(error, ApiError::Absent) {
                    Condition::Absent
                } else if self.failures < SILENT_MAX && self.shared.underlays.tailnet.open().is_some() {
                    return RETRIES[0];
                } else {
                    Condition::Silent(error.to_string())
                };
                self.suspend(condition).await;
                return pause;
            }
        };
        self.failures = 0;
        self.tell_netmap(&status).await;
        let condition = Condition::of(&status, clock::now().wall_ms);
        let Condition::Running { ip, .. } = condition else {
            self.suspend(condition).await;
            return LOOK_EVERY;
        };
        let was_open = self.shared.underlays.tailnet.open().is_some();
        let opened = match self.open(ip) {
            Ok(opened) => opened,
            Err(error) => {
                self.suspend(Condition::NoSocket(error.to_string())).await;
                // The socket that was closed just now has the port for a moment.
                return if was_open { RETRIES[0] } else { LOOK_EVERY };
            }
        };
        let is_news = self.shared.underlays.tailnet.note(condition);
        if opened || is_news {
            self.tell_table().await;
        }
        if self.ask_nodes(&status).await { MORE_WAIT } else { LOOK_EVERY }
    }

    /// The tailnet does not work: closes the underlay.
    async fn suspend(&mut self, condition: Condition) {
        self.nodes.clear();
        let is_news = self.shared.underlays.tailnet.note(condition.clone());
        if is_news {
            let (told, _) = condition.told(clock::now().wall_ms);
            tracing::info!("tailnet: {told}");
        }
        if self.close() || is_news {
            self.tell_table().await;
        }
    }

    /// Opens the underlay at this address. Returns false if it is open there.
    fn open(&mut self, ip: IpAddr) -> std::io::Result<bool> {
        let at = SocketAddr::from((ip, TAILNET_PORT));
        let interfaces = Interfaces::read()?;
        let interface = interfaces.with(ip);
        // A tailscaled that starts anew makes its interface anew: a socket of the one before hears nothing any more.
        let index = interface.map(|interface| interface.index);
        let before = std::mem::replace(&mut self.interface, index);
        if let Some(open) = self.shared.underlays.tailnet.open() {
            if open.endpoint.local_addr().ok() == Some(at) && before == index {
                return Ok(false);
            }
            self.close();
        }
        let underlay = Arc::new(Underlay::tailnet(at, interface, self.endpoint.clone(), self.server.clone())?);
        self.shared.underlays.tailnet.put(Some(underlay.clone()));
        self.shared.tasks.spawn(accept::run(self.shared.clone(), underlay));
        tracing::info!(%at, "tailnet: open");
        Ok(true)
    }

    /// Closes the underlay. Returns true if it was open.
    fn close(&self) -> bool {
        let Some(old) = self.shared.underlays.tailnet.put(None) else { return false };
        old.endpoint.close(quinn::VarInt::from_u32(Code::Stopping as u32), b"");
        true
    }

    /// Tells who has which tags, if that is news.
    async fn tell_netmap(&mut self, status: &Status) {
        let netmap = status.netmap(clock::now().wall_ms);
        if self.netmap.as_ref() != Some(&netmap) {
            self.netmap = Some(netmap.clone());
            let _ = self.shared.events.send(LinkEvent::Tailnet(netmap)).await;
        }
    }

    async fn tell_table(&self) {
        let _ = self.shared.table.send(ToTable::OwnAddresses(UnderlayKind::Tailnet)).await;
    }

    /// Asks nodes whose turn it is whether they are peers. Returns true if more wait.
    async fn ask_nodes(&mut self, status: &Status) -> bool {
        let now = Instant::now();
        let reachable = status.reachable(clock::now().wall_ms);
        let is_there = |id: &String| reachable.iter().any(|(node, _)| node.stable_id == *id);
        let gone: Vec<String> = self.nodes.keys().filter(|id| !is_there(id)).cloned().collect();
        for id in gone {
            if let Some(peer) = self.nodes.remove(&id).and_then(|asked| asked.peer) {
                let _ = self.events.send(LanEvent::Gone(peer)).await;
            }
        }
        let mut due = Vec::new();
        for (node, ip) in reachable {
            let asked = self.nodes.entry(node.stable_id.clone()).or_insert(Asked { times: 0, next: now, peer: None });
            if asked.next <= now && !self.shared.live.is_at(ip) {
                due.push((asked.times, node, ip));
            }
        }
        due.sort_by_key(|(times, ..)| *times);
        let more = due.len() > ASKED_AT_ONCE;
        due.truncate(ASKED_AT_ONCE);
        let shared = &self.shared;
        let answers = join_all(due.into_iter().map(|(times, node, ip)| async move {
            let addresses = embedded_door::sockets(ip).map(Address::Tailnet);
            let found = timeout(ANSWER_MAX, join::identify(shared, &addresses)).await;
            (times, node, found.ok().and_then(Result::ok))
        }))
        .await;
        for (times, node, found) in answers {
            let peer = found.as_ref().map(|(peer, _)| *peer);
            let pause = ASK_AGAIN.get(times).or(ASK_AGAIN.last()).copied().unwrap_or(LOOK_EVERY);
            let asked = Asked { times: times + 1, next: Instant::now() + pause, peer };
            self.nodes.insert(node.stable_id.clone(), asked);
            // Who is linked needs no other address.
            if let Some((peer, address)) = found.filter(|(peer, _)| !self.shared.live.contains(*peer)) {
                let name = NodeId::slug(&node.name).to_string();
                let (addresses, node) = (vec![address], Some(Box::new(node.clone())));
                let _ = self.events.send(LanEvent::Discovered { peer, name, addresses, node }).await;
            }
        }
        more
    }
}
