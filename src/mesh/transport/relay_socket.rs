//! The socket of the relay underlay: it has no port. Each peer has a made-up address on it, and what is sent there goes
//! by the relays that there are for that peer.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use mesh_core::ids::PeerId;
use mesh_core::relay::{Path, Ways};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::mux::{Mux, Token};
use super::relay_inbox::Inbox;

/// Prefix of every address (unique local, RFC 4193); none is ever seen outside of the process.
const PREFIX: [u8; 6] = [0xfd, 0x51, 0x69, 0x67, 0x69, 0x6c];

/// The address of a peer on this underlay: half of it is the beginning of its id.
pub(super) fn address_of(peer: PeerId) -> SocketAddr {
    let mut octets = [0; 16];
    // The prefix, two bytes of zeros (the subnet), and as many of the id as there is room for.
    for (octet, byte) in octets.iter_mut().zip(PREFIX.iter().chain(&[0, 0]).chain(&peer.0)) {
        *octet = *byte;
    }
    (Ipv6Addr::from(octets), 1).into()
}

/// A relay of a peer: the link to it, and the token for what is sent.
#[derive(Debug, Clone)]
struct Carrier {
    link: quinn::Connection,
    token: Token,
}

/// The relays of one peer.
#[derive(Debug, Default)]
struct Route {
    path: Path,
    carriers: BTreeMap<PeerId, Carrier>,
    /// Round trip of the connection on top, as it was last.
    rtt_ms: u64,
}

/// The ways to all peers that are reached by relays.
#[derive(Debug)]
pub(super) struct Routes {
    mux: Arc<Mux>,
    pub(super) inbox: Arc<Inbox>,
    me: SocketAddr,
    by_address: Mutex<BTreeMap<SocketAddr, (PeerId, Route)>>,
}

impl Routes {
    pub(super) fn new(mux: Arc<Mux>, me: PeerId) -> Arc<Self> {
        Arc::new(Self { mux, inbox: Arc::default(), me: address_of(me), by_address: Mutex::default() })
    }

    /// A relay is there for this peer. False if it is no use: it is there already, or another peer has this address.
    pub(super) fn add(&self, peer: PeerId, relay: PeerId, link: quinn::Connection, token: Token) -> bool {
        let mut routes = self.lock();
        let (of, route) = routes.entry(address_of(peer)).or_insert_with(|| (peer, Route::default()));
        if *of != peer || route.carriers.contains_key(&relay) {
            return false;
        }
        route.carriers.insert(relay, Carrier { link, token });
        route.path.add(relay);
        true
    }

    /// A relay is gone.
    pub(super) fn remove(&self, peer: PeerId, relay: PeerId) {
        let mut routes = self.lock();
        if let Some((_, route)) = routes.get_mut(&address_of(peer)) {
            route.carriers.remove(&relay);
            route.path.remove(relay);
            if route.carriers.is_empty() {
                routes.remove(&address_of(peer));
            }
        }
    }

    /// Relays of this peer, the one in use first.
    pub(super) fn relays(&self, peer: PeerId) -> Vec<PeerId> {
        self.lock().get(&address_of(peer)).map_or_else(Vec::new, |(_, route)| route.path.relays().collect())
    }

    /// The peer at this address, if there is a relay for one.
    pub(super) fn peer_at(&self, address: SocketAddr) -> Option<PeerId> {
        self.lock().get(&address).map(|(peer, _)| *peer)
    }

    /// Notes the round trip of the connection to a peer.
    pub(super) fn note_rtt(&self, peer: PeerId, rtt_ms: u64) {
        if let Some((_, route)) = self.lock().get_mut(&address_of(peer)) {
            route.rtt_ms = rtt_ms;
        }
    }

    /// Something that this peer has proven to be its own has come since the last time.
    pub(super) fn note_proven(&self, peer: PeerId) {
        if let Some((_, route)) = self.lock().get_mut(&address_of(peer)) {
            for (relay, at) in self.inbox.take_heard(peer) {
                route.path.handle_heard(relay, at);
            }
            route.path.handle_proven();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, (PeerId, Route)>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for Routes {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.mux.poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        let mut routes = self.lock();
        let Some((peer, route)) = routes.get_mut(&transmit.destination) else { return Ok(()) };
        for (relay, at) in self.inbox.take_heard(*peer) {
            route.path.handle_heard(relay, at);
        }
        let ways = match route.path.send(route.rtt_ms, self.mux.now_ms()) {
            Ways::None => [None, None],
            Ways::One(relay) => [Some(relay), None],
            Ways::Both(first, second) => [Some(first), Some(second)],
        };
        for carrier in ways.into_iter().flatten().filter_map(|relay| route.carriers.get(&relay)) {
            self.mux.send(&carrier.link, carrier.token, transmit.contents, segment);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
            let Some((peer, packet)) = self.inbox.take() else { break };
            let len = packet.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..len), packet.get(..len)) {
                to.copy_from_slice(from);
            }
            *meta = RecvMeta { addr: address_of(peer), len, stride: len, ecn: None, dst_ip: Some(self.me.ip()) };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        self.inbox.wake_later(cx.waker());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.me)
    }

    fn max_transmit_segments(&self) -> usize {
        self.mux.segments()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
