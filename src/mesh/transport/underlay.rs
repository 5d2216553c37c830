//! Underlays: what carries the packets of links. Each has its own QUIC endpoint, its own addresses and its own budget
//! of strangers. Direct UDP and relays are always there, the tailnet while this machine, or a node in this program, is on one.
//! What another takes is listed in `ARCHITECTURE.md`, *Another underlay*.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_core::relay::Via;
use quinn::Runtime as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::address::{Address, canonical};
use super::interfaces::{Interface, Interfaces};
use super::mux::Mux;
use super::packet_socket::PacketSocket;
use super::quic;
use super::relay_socket::Routes;
use super::relay_state::RelayConfig;
use super::strangers::{Limits, Strangers};
use crate::mesh::tailnet::EMBEDDED_PORT;
use crate::mesh::tailnet::embedded::Packets;

/// Interval at which own addresses are read where the system does not report changes.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The kind of an underlay; of two links of one pair, the one of the greater kind stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnderlayKind {
    /// Over a tailnet, by a node that lives in the program of one of the two: slow.
    TailnetEmbedded,
    /// By a third peer.
    Relay,
    /// Over the tailnet that both machines are on.
    Tailnet,
    /// UDP from machine to machine.
    Udp,
}

impl UnderlayKind {
    /// All that the mesh needs to know of it.
    #[must_use]
    pub const fn via(self) -> Via {
        match self {
            Self::Relay => Via::Relayed,
            Self::TailnetEmbedded | Self::Tailnet | Self::Udp => Via::Direct,
        }
    }

    /// True for those over a tailnet, where it is known which node is at an address.
    pub(super) const fn is_tailnet(self) -> bool {
        matches!(self, Self::Tailnet | Self::TailnetEmbedded)
    }

    /// Kind of a connection to there over an underlay of this kind, as both ends see it: where one end of two on a tailnet
    /// has its node in its program, its port says so.
    pub(super) fn towards(self, socket: SocketAddr) -> Self {
        match self {
            Self::Tailnet if socket.port() == EMBEDDED_PORT => Self::TailnetEmbedded,
            Self::TailnetEmbedded | Self::Relay | Self::Tailnet | Self::Udp => self,
        }
    }
}

/// One underlay.
#[derive(Debug)]
pub(super) struct Underlay {
    pub(super) kind: UnderlayKind,
    pub(super) endpoint: quinn::Endpoint,
    /// Addresses of this machine on it, as they change.
    pub(super) own: watch::Receiver<OwnAddresses>,
    pub(super) strangers: Arc<Strangers>,
}

/// Addresses of this machine on one underlay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OwnAddresses {
    /// Addresses at which others may reach us, best first.
    pub(super) announced: Vec<Address>,
    /// All that packets may come from. A connection that was accepted at another is dead.
    pub(super) local: BTreeSet<IpAddr>,
    /// The interfaces that they are of.
    pub(super) interfaces: Interfaces,
}

impl OwnAddresses {
    /// Those of an underlay over a tailnet.
    pub(super) fn on_tailnet(at: SocketAddr) -> Self {
        let announced = vec![Address::Tailnet(at)];
        Self { announced, local: [at.ip()].into(), interfaces: Interfaces::default() }
    }
}

impl Underlay {
    /// Opens the direct UDP underlay. The second value keeps its own addresses current; the third passes relay frames on.
    pub(super) fn udp(
        listen: SocketAddr,
        relay: RelayConfig,
        endpoint: quinn::EndpointConfig,
        server: quinn::ServerConfig,
    ) -> io::Result<(Self, OwnWatcher, Arc<Mux>)> {
        let runtime = Arc::new(quinn::TokioRuntime);
        let mux = Mux::new(runtime.wrap_udp_socket(quic::bind(listen)?)?, relay.offers, relay.bytes_per_s);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(endpoint, Some(server), mux.clone(), runtime)?;
        let bound = canonical(endpoint.local_addr()?);
        let (own_tx, own) = watch::channel(own_addresses(bound, Interfaces::read().unwrap_or_default()));
        let strangers = Strangers::new(Limits::UDP, Instant::now());
        let underlay = Self { kind: UnderlayKind::Udp, endpoint, own, strangers };
        Ok((underlay, OwnWatcher { bound, own: own_tx }, mux))
    }

    /// Opens the relay underlay. Nobody is told an address on it: who may relay is known from links.
    pub(super) fn relay(
        routes: Arc<Routes>,
        endpoint: quinn::EndpointConfig,
        server: quinn::ServerConfig,
    ) -> io::Result<Self> {
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(endpoint, Some(server), routes, runtime)?;
        let (_, own) = watch::channel(OwnAddresses::default());
        Ok(Self { kind: UnderlayKind::Relay, endpoint, own, strangers: Strangers::new(Limits::RELAY, Instant::now()) })
    }

    /// Opens the tailnet underlay at this address, which this interface has.
    pub(super) fn tailnet(
        at: SocketAddr,
        interface: Option<&Interface>,
        endpoint: quinn::EndpointConfig,
        server: quinn::ServerConfig,
    ) -> io::Result<Self> {
        let socket = quic::bind_to_interface(at, interface.map(|interface| interface.name.as_str()))?;
        let endpoint = quinn::Endpoint::new(endpoint, Some(server), socket, Arc::new(quinn::TokioRuntime))?;
        let (_, own) = watch::channel(OwnAddresses::on_tailnet(at));
        let strangers = Strangers::new(Limits::TAILNET, Instant::now());
        Ok(Self { kind: UnderlayKind::Tailnet, endpoint, own, strangers })
    }

    /// Opens the underlay over a node of a tailnet in this program. With the second value its addresses are changed.
    pub(super) fn embedded(
        at: SocketAddr,
        packets: Packets,
        endpoint: quinn::EndpointConfig,
        server: quinn::ServerConfig,
    ) -> io::Result<(Self, watch::Sender<OwnAddresses>)> {
        let runtime = Arc::new(quinn::TokioRuntime);
        let socket = PacketSocket::new(at, packets);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime)?;
        let (own_tx, own) = watch::channel(OwnAddresses::on_tailnet(at));
        let strangers = Strangers::new(Limits::EMBEDDED, Instant::now());
        Ok((Self { kind: UnderlayKind::TailnetEmbedded, endpoint, own, strangers }, own_tx))
    }

    /// The port of the endpoint; 0 when the socket is gone.
    pub(super) fn port(&self) -> u16 {
        self.endpoint.local_addr().map_or(0, |address| address.port())
    }
}

/// Keeps [`Underlay::own`] of the direct UDP underlay current.
#[derive(Debug)]
pub(super) struct OwnWatcher {
    bound: SocketAddr,
    own: watch::Sender<OwnAddresses>,
}

impl OwnWatcher {
    /// Looks at the interfaces whenever the system says that an address came or went; where it does not say, every 15
    /// s.
    pub(super) async fn run(self) {
        match if_watch::tokio::IfWatcher::new() {
            // It begins with the addresses that are there already.
            Ok(mut watcher) => {
                while let Some(Ok(_)) = watcher.next().await {
                    self.update();
                }
            }
            Err(error) => tracing::debug!(%error, "changes of address are not told here"),
        }
        loop {
            sleep(LOOK_EVERY).await;
            self.update();
        }
    }

    fn update(&self) {
        let Ok(interfaces) = Interfaces::read() else { return };
        let now = own_addresses(self.bound, interfaces);
        self.own.send_if_modified(|own| {
            let changed = *own != now;
            *own = now;
            changed
        });
    }
}

/// Own addresses of a socket that is bound there: those of all interfaces, see [`Interfaces::announced`].
fn own_addresses(bound: SocketAddr, interfaces: Interfaces) -> OwnAddresses {
    let local = interfaces.ips().collect();
    if !bound.ip().is_unspecified() {
        return OwnAddresses { announced: vec![bound.into()], local, interfaces };
    }
    let socket = |ip: IpAddr| Address::Udp((ip, bound.port()).into());
    let mut announced: Vec<Address> = interfaces.announced(bound.is_ipv6()).into_iter().map(socket).collect();
    if announced.is_empty() {
        announced.push(socket(Ipv4Addr::LOCALHOST.into()));
    }
    OwnAddresses { announced, local, interfaces }
}
