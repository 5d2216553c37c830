//! Dialling: all addresses of a peer in a race, each a step later than the one before; the first that proves its key
//! wins.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{SocketAddr, SocketAddrV6, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use mesh_core::ids::PeerId;
use tokio::time::{sleep, timeout};

use super::address::{Address, HostPort, canonical};
use super::embedded_door;
use super::link::Answered;
use super::quic::Code;
use super::shared::LinksState;
use super::tls::{SERVER_NAME, peer_key};
use super::underlay::UnderlayKind;
use crate::mesh::tailnet::EMBEDDED_PORT;
use crate::mesh::tailnet::answers::is_tailnet;

/// Head start of each address over the next (RFC 8305 §5, "Happy Eyeballs", recommends 250 ms).
pub(super) const RACE_STEP: Duration = Duration::from_millis(250);
/// Time for one handshake.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// The same by a relay: its first packet is sent three times meanwhile, and another relay is asked sooner.
const RELAYED_HANDSHAKE_MAX: Duration = Duration::from_millis(2_500);
/// Time for one round of punching.
const PUNCH_MAX: Duration = Duration::from_millis(1_500);
/// Addresses that one race tries.
const RACERS_MAX: usize = 40;
/// Time to look up a host.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Hosts that are looked up at once, each on a thread that cannot be called off: members choose the names.
pub(super) const LOOKUPS_AT_ONCE: usize = 4;
/// Interfaces in which a link-local address without a zone is tried.
const ZONES_MAX: usize = 8;
/// Sockets of one host that are tried: a name with more is a large service, and no peer.
pub(super) const SOCKETS_PER_HOST_MAX: usize = 4;

/// The end of a race without a winner.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// Addresses that were tried.
    pub(super) tried: Vec<Address>,
    /// Another peer that answered, and its address.
    pub(super) stranger: Option<(Address, PeerId)>,
    /// Hosts of which no address was found.
    pub(super) not_found: Vec<HostPort>,
}

/// One address that can be dialled here.
#[derive(Debug)]
enum Racer {
    Socket(Target),
    /// Looked up in its turn; its sockets come next.
    Name(HostPort),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    underlay: UnderlayKind,
    socket: SocketAddr,
}

impl LinksState {
    /// True unless this member was let in for the tag of another node of the tailnet than the one that is there.
    async fn is_at_its_node(&self, peer: PeerId, Target { underlay, socket }: Target) -> bool {
        let is_bound = self.members.borrow().get(&peer).is_some_and(|member| member.node.is_some());
        if !is_bound {
            return true;
        }
        let found = match underlay {
            UnderlayKind::Tailnet => self.underlays.tailnet.who_is(socket).await,
            UnderlayKind::TailnetEmbedded => self.underlays.embedded.who_is(socket).await,
            UnderlayKind::Udp | UnderlayKind::Relay => return true,
        };
        // As who comes in: one of which the tailnet says nothing may be anybody.
        found.is_some_and(|identity| self.may_come_from(peer, &identity.node, socket))
    }
}

/// The end of one racer.
enum Finish {
    Answered(Box<Answered>),
    Found(Vec<Target>),
    NotFound(HostPort),
    Failed(Option<(Address, PeerId)>),
}

/// Connects to the first of `addresses` that answers with the key of `expected` (any key, if nobody is expected).
/// Addresses that no underlay here carries are left out.
pub(super) async fn race(
    shared: &Arc<LinksState>,
    addresses: &[Address],
    expected: Option<PeerId>,
) -> Result<Answered, Unanswered> {
    let on_tailnet = shared.underlays.on_tailnet();
    let tried = dialable(addresses, on_tailnet);
    let zones: Vec<u32> = shared.underlays.udp.own.borrow().interfaces.zones().take(ZONES_MAX).collect();
    let mut distinct = BTreeSet::new();
    let mut waiting: VecDeque<Racer> = tried
        .iter()
        .filter_map(|address| racer(address, on_tailnet))
        .flat_map(|racer| in_zones(racer, &zones))
        .collect();
    let mut not_found = Vec::new();
    let mut racing: FuturesUnordered<BoxFuture<'_, Finish>> = FuturesUnordered::new();
    let mut stranger = None;
    let mut next = true;
    loop {
        while next && let Some(racer) = waiting.pop_front() {
            match racer {
                Racer::Socket(target) if !distinct.insert(target) => continue,
                Racer::Socket(target) => racing.push(Box::pin(connect(shared, target, expected))),
                Racer::Name(name) => racing.push(Box::pin(look_up(shared, name))),
            }
            break;
        }
        if racing.is_empty() {
            return Err(Unanswered { tried, stranger, not_found });
        }
        next = tokio::select! {
            biased;
            finished = racing.next() => {
                match finished {
                    Some(Finish::Answered(winner)) => return Ok(*winner),
                    Some(Finish::Found(targets)) => {
                        for target in targets.into_iter().rev() {
                            waiting.push_front(Racer::Socket(target));
                        }
                    }
                    Some(Finish::Failed(other)) => stranger = stranger.or(other),
                    Some(Finish::NotFound(name)) => not_found.push(name),
                    None => {}
                }
                true
            }
            () = sleep(RACE_STEP), if !waiting.is_empty() => true,
        };
    }
}

/// Tries a peer once at an address that a relay told, in the moment in which it tries us: at most five packets.
pub(super) async fn punch(shared: &Arc<LinksState>, peer: PeerId, socket: SocketAddr) -> Option<Answered> {
    let target = Target { underlay: UnderlayKind::Udp, socket: canonical(socket) };
    // Its packets come as soon after one another as those by a relay: 0, 0.3 and 0.9 s.
    match timeout(PUNCH_MAX, connect_as(shared, target, Some(peer), &shared.relayed_transport)).await {
        Ok(Finish::Answered(answered)) => Some(*answered),
        Ok(Finish::Found(_) | Finish::NotFound(_) | Finish::Failed(_)) | Err(_) => None,
    }
}

/// Connects to a peer by this relay alone.
pub(super) async fn by_relay(shared: &Arc<LinksState>, peer: PeerId, relay: PeerId) -> Option<Answered> {
    let socket = shared.relay.routes.to_dial(peer, relay)?;
    let target = Target { underlay: UnderlayKind::Relay, socket };
    match timeout(RELAYED_HANDSHAKE_MAX, connect(shared, target, Some(peer))).await {
        Ok(Finish::Answered(answered)) => Some(*answered),
        Ok(Finish::Found(_) | Finish::NotFound(_) | Finish::Failed(_)) | Err(_) => None,
    }
}

/// Returns those of `addresses` that can be dialled here, each once, in their order; those on the tailnet last, and of them
/// those of slow nodes. `on_tailnet` carries them.
fn dialable(addresses: &[Address], on_tailnet: Option<UnderlayKind>) -> Vec<Address> {
    let mut distinct = BTreeSet::new();
    let mut dialable: Vec<Address> = addresses
        .iter()
        .map(|address| match address {
            Address::Udp(socket) => Address::Udp(canonical(*socket)),
            other @ (Address::UdpName(_) | Address::Tailnet(_) | Address::Relay { .. } | Address::Unknown(_)) => {
                other.clone()
            }
        })
        .filter(|address| racer(address, on_tailnet).is_some() && distinct.insert(address.clone()))
        .take(RACERS_MAX)
        .collect();
    dialable.sort_by_key(|address| match address {
        Address::Tailnet(socket) if socket.port() == EMBEDDED_PORT => 2,
        Address::Tailnet(_) => 1,
        Address::Udp(_) | Address::UdpName(_) | Address::Relay { .. } | Address::Unknown(_) => 0,
    });
    dialable
}

fn racer(address: &Address, on_tailnet: Option<UnderlayKind>) -> Option<Racer> {
    match address {
        Address::Udp(socket) => {
            is_unicast(*socket).then_some(Racer::Socket(Target { underlay: UnderlayKind::Udp, socket: *socket }))
        }
        Address::UdpName(name) => Some(Racer::Name(name.clone())),
        Address::Tailnet(socket) => {
            let is_there = is_tailnet(socket.ip()) && socket.port() != 0;
            Some(Racer::Socket(Target { underlay: on_tailnet.filter(|_| is_there)?, socket: *socket }))
        }
        // No underlay here carries them.
        Address::Relay { .. } | Address::Unknown(_) => None,
    }
}

/// A link-local IPv6 address without a zone is tried in each that there is: who told it cannot know ours.
fn in_zones(racer: Racer, zones: &[u32]) -> Vec<Racer> {
    match racer {
        Racer::Socket(Target { underlay, socket: SocketAddr::V6(v6) })
            if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 =>
        {
            let socket = |zone: &u32| SocketAddrV6::new(*v6.ip(), v6.port(), 0, *zone).into();
            zones.iter().map(|zone| Racer::Socket(Target { underlay, socket: socket(zone) })).collect()
        }
        racer @ (Racer::Socket(_) | Racer::Name(_)) => vec![racer],
    }
}

fn is_unicast(socket: SocketAddr) -> bool {
    socket.port() != 0 && !socket.ip().is_unspecified() && !socket.ip().is_multicast()
}

async fn look_up(shared: &Arc<LinksState>, name: HostPort) -> Finish {
    let host = name.clone();
    // A node in this program has names that the machine does not know.
    if let Some(ip) = shared.underlays.embedded.named(name.host()).await.and_then(|node| node.ip()) {
        let target = |socket| Target { underlay: UnderlayKind::TailnetEmbedded, socket };
        return Finish::Found(embedded_door::sockets(ip).map(target).into());
    }
    let looking = async {
        let permit = shared.lookups.clone().acquire_owned().await.map_err(io::Error::other)?;
        tokio::task::spawn_blocking(move || {
            let sockets = (name.host(), name.port()).to_socket_addrs();
            drop(permit);
            sockets
        })
        .await
        .map_err(io::Error::other)?
    };
    match timeout(LOOKUP_MAX, looking).await {
        Ok(Ok(sockets)) => Finish::Found(
            sockets
                .map(canonical)
                .filter(|socket| is_unicast(*socket))
                .take(SOCKETS_PER_HOST_MAX)
                .map(|socket| Target { underlay: UnderlayKind::Udp, socket })
                .collect(),
        ),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a host was not found");
            Finish::NotFound(host)
        }
        Err(_) => Finish::NotFound(host),
    }
}

async fn connect(shared: &Arc<LinksState>, target: Target, expected: Option<PeerId>) -> Finish {
    let transport = match target.underlay.towards(target.socket) {
        UnderlayKind::Udp | UnderlayKind::Tailnet => &shared.transport,
        UnderlayKind::TailnetEmbedded => &shared.slow_transport,
        UnderlayKind::Relay => &shared.relayed_transport,
    };
    connect_as(shared, target, expected, transport).await
}

async fn connect_as(
    shared: &Arc<LinksState>,
    target: Target,
    expected: Option<PeerId>,
    transport: &Arc<quinn::TransportConfig>,
) -> Finish {
    let Target { underlay, socket } = target;
    let address = match underlay {
        UnderlayKind::Udp => Address::Udp(socket),
        UnderlayKind::Tailnet | UnderlayKind::TailnetEmbedded => Address::Tailnet(socket),
        UnderlayKind::Relay => Address::Unknown("relayed".to_owned()),
    };
    let verifier = shared.credentials.verifier(expected);
    let connecting = shared
        .credentials
        .client(verifier.clone())
        .ok()
        .map(|crypto| {
            let mut config = quinn::ClientConfig::new(Arc::new(crypto));
            config.transport_config(transport.clone());
            config
        })
        .and_then(|config| shared.underlays.get(underlay)?.endpoint.connect_with(config, socket, SERVER_NAME).ok());
    let Some(connecting) = connecting else { return Finish::Failed(None) };
    match timeout(HANDSHAKE_MAX, connecting).await {
        Ok(Ok(connection)) => match peer_key(&connection) {
            Some(key) if key.peer_id() != shared.me => {
                // Whom we dial is bound to its node as who comes in. Who is merely asked its name is told apart by that name.
                if expected.is_some() && !shared.is_at_its_node(key.peer_id(), target).await {
                    Code::OtherNode.close(&connection);
                    return Finish::Failed(None);
                }
                Finish::Answered(Box::new(Answered { connection, key, address, underlay }))
            }
            _ => Finish::Failed(None),
        },
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "no answer");
            Finish::Failed(verifier.stranger().map(|peer| (address, peer)))
        }
        Err(_) => Finish::Failed(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b19_a_link_local_address_without_a_zone_is_tried_in_each() {
        let sockets = |text: &str| -> Vec<String> {
            let racers = in_zones(racer(&Address::from(text), None).unwrap(), &[2, 5]);
            let shown = |racer: &Racer| {
                if let Racer::Socket(target) = racer { target.socket.to_string() } else { String::new() }
            };
            racers.iter().map(shown).collect()
        };
        assert_eq!(sockets("[fe80::7]:7433"), ["[fe80::7%2]:7433", "[fe80::7%5]:7433"]);
        assert_eq!(sockets("[fe80::7%9]:7433"), ["[fe80::7%9]:7433"]);
        assert_eq!(sockets("[fd00::7]:7433"), ["[fd00::7]:7433"]);
    }

    #[test]
    fn only_what_an_underlay_here_carries_is_dialled_and_only_once() {
        let texts = [
            "10.0.0.1:7433",
            "[::ffff:10.0.0.1]:7433",
            "tailnet://100.64.0.3:7435",
            "quic+tcp://10.0.0.1:443",
            "udp://home.example.org:7433",
            "0.0.0.0:7433",
            "10.0.0.2:0",
            "224.0.0.1:7433",
            "udp://Home.example.org:7433",
        ];
        let shown: Vec<String> = dialable(&texts.map(Address::from), None).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.1:7433", "udp://home.example.org:7433"]);
        // On a tailnet its addresses as well, last; what is no address of one never.
        let texts =
            ["tailnet://100.64.0.4:7436", "tailnet://100.64.0.3:7435", "tailnet://10.0.0.1:7435", "10.0.0.1:7433"];
        for kind in [UnderlayKind::Tailnet, UnderlayKind::TailnetEmbedded] {
            let shown = dialable(&texts.map(Address::from), Some(kind));
            let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
            // Those of slow nodes after the others.
            assert_eq!(shown, ["10.0.0.1:7433", "tailnet://100.64.0.3:7435", "tailnet://100.64.0.4:7436"]);
        }
        let many: Vec<Address> = (1..=100).map(|n| SocketAddr::from(([10, 0, 0, n], 7433)).into()).collect();
        assert_eq!(dialable(&many, None), many[..RACERS_MAX]);
    }
}
