//! The socket of the relay underlay: it has no port. Each relay of each peer has a made-up address on it, and what is
//! sent there goes by that relay alone until the other end has proven its key; from then on by whichever relay of that
//! peer passes packets on ([`Path`]).
//!
//! A handshake is not protected against whoever passes it on: one packet that is changed, or made up, ends it. So none
//! mixes the packets of two relays, and one that is hostile ruins its own handshakes and no others
//! (`docs/decisions/0105`).

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use mesh_core::ids::PeerId;
use mesh_core::relay::{Path, Ways};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio_util::sync::CancellationToken;

use super::mux::{Mux, Token};
use super::relay_inbox::{Heard, Inbox, Lane};

/// Prefix of every address (unique local, RFC 4193); none is ever seen outside of the process.
const PREFIX: [u8; 6] = [0xfd, 0x51, 0x69, 0x67, 0x69, 0x6c];
/// Set in the lanes of the lower of two peers, so that crossing dials have different ones.
const OF_LOWER: Lane = 0x80;

/// One relay of one peer, by number. Relays have numbers too, so that each has a prefix of its own: budgets of
/// handshakes are shared out by prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    relay: u16,
    number: u64,
}

impl Slot {
    /// The address of a connection there. Its port tells the lane.
    fn address(self, lane: Lane) -> SocketAddr {
        let mut octets = [0; 16];
        let parts = PREFIX.into_iter().chain(self.relay.to_be_bytes()).chain(self.number.to_be_bytes());
        for (octet, byte) in octets.iter_mut().zip(parts) {
            *octet = byte;
        }
        (Ipv6Addr::from(octets), u16::from(lane) + 1).into()
    }

    fn of(address: SocketAddr) -> Option<(Self, Lane)> {
        let IpAddr::V6(ip) = address.ip() else { return None };
        let bits = ip.to_bits();
        let relay = u16::try_from(bits >> 64 & u128::from(u16::MAX)).ok()?;
        let number = u64::try_from(bits & u128::from(u64::MAX)).ok()?;
        let lane = Lane::try_from(address.port().checked_sub(1)?).ok()?;
        Some((Self { relay, number }, lane))
    }
}

/// A relay of a peer: the link to it, and the token for what is sent.
#[derive(Debug, Clone)]
struct Carrier {
    link: quinn::Connection,
    token: Token,
    slot: Slot,
    heard: Arc<Heard>,
    /// Cancelled when it is no use.
    ended: CancellationToken,
}

/// The relays of one peer.
#[derive(Debug, Default)]
struct Route {
    path: Path,
    carriers: BTreeMap<PeerId, Carrier>,
    /// Connections at whose other end the peer has proven to be, by their lanes: they go by all of its relays.
    proven: BTreeMap<Lane, SocketAddr>,
    /// Round trip of the connection on top, as it was last.
    rtt_ms: u64,
}

impl Route {
    fn hear(&mut self) {
        for (relay, carrier) in &self.carriers {
            if let Some(at) = carrier.heard.take() {
                self.path.handle_heard(*relay, at);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    routes: BTreeMap<PeerId, Route>,
    /// The peer and the relay of each slot in use.
    slots: BTreeMap<Slot, (PeerId, PeerId)>,
    relays: BTreeMap<PeerId, u16>,
    last_slot: u64,
    last_lane: Lane,
}

impl Table {
    fn slot(&mut self, peer: PeerId, relay: PeerId) -> Slot {
        let next = u16::try_from(self.relays.len() % usize::from(u16::MAX)).unwrap_or_default();
        let of_relay = *self.relays.entry(relay).or_insert(next);
        self.last_slot += 1;
        let slot = Slot { relay: of_relay, number: self.last_slot };
        self.slots.insert(slot, (peer, relay));
        slot
    }

    /// Forgets what nothing uses any more: slots of this peer, and the peer.
    fn tidy(&mut self, peer: PeerId) {
        let Some(route) = self.routes.get(&peer) else { return };
        self.slots.retain(|slot, (of, _)| {
            let is_carrier = || route.carriers.values().any(|carrier| carrier.slot == *slot);
            let is_proven = || route.proven.iter().any(|(lane, address)| slot.address(*lane) == *address);
            *of != peer || is_carrier() || is_proven()
        });
        if route.carriers.is_empty() && route.proven.is_empty() {
            self.routes.remove(&peer);
        }
    }

    /// The address from which a packet seems to come; none if it is nobody's any more.
    fn source(&self, peer: PeerId, relay: PeerId, lane: Lane) -> Option<SocketAddr> {
        let route = self.routes.get(&peer)?;
        let by_relay = || route.carriers.get(&relay).map(|carrier| carrier.slot.address(lane));
        route.proven.get(&lane).copied().or_else(by_relay)
    }
}

/// The ways to all peers that are reached by relays.
#[derive(Debug)]
pub(super) struct Routes {
    mux: Arc<Mux>,
    pub(super) inbox: Arc<Inbox>,
    me: PeerId,
    table: Mutex<Table>,
}

/// A relay that was taken.
#[derive(Debug)]
pub(super) struct Added {
    /// Noted by whoever gets its packets.
    pub(super) heard: Arc<Heard>,
    /// Cancelled when it is no use.
    pub(super) ended: CancellationToken,
}

impl Routes {
    pub(super) fn new(mux: Arc<Mux>, me: PeerId) -> Arc<Self> {
        Arc::new(Self { mux, inbox: Arc::default(), me, table: Mutex::default() })
    }

    /// A relay is there for this peer. None if it is no use: it is there already.
    pub(super) fn add(&self, peer: PeerId, relay: PeerId, link: quinn::Connection, token: Token) -> Option<Added> {
        let mut table = self.lock();
        if table.routes.get(&peer).is_some_and(|route| route.carriers.contains_key(&relay)) {
            return None;
        }
        let slot = table.slot(peer, relay);
        let (heard, ended) = (Arc::<Heard>::default(), CancellationToken::new());
        let route = table.routes.entry(peer).or_default();
        route.carriers.insert(relay, Carrier { link, token, slot, heard: heard.clone(), ended: ended.clone() });
        route.path.add(relay);
        Some(Added { heard, ended })
    }

    /// A relay is gone.
    pub(super) fn remove(&self, peer: PeerId, relay: PeerId) {
        let mut table = self.lock();
        if let Some(route) = table.routes.get_mut(&peer) {
            route.carriers.remove(&relay);
            route.path.remove(relay);
        }
        table.tidy(peer);
    }

    /// Lets a relay go by which the peer was not reached, so that another may be asked.
    pub(super) fn let_go(&self, peer: PeerId, relay: PeerId) {
        if let Some(carrier) = self.lock().routes.get(&peer).and_then(|route| route.carriers.get(&relay)) {
            carrier.ended.cancel();
        }
    }

    /// Relays of this peer, the one in use first.
    pub(super) fn relays(&self, peer: PeerId) -> Vec<PeerId> {
        self.lock().routes.get(&peer).map_or_else(Vec::new, |route| route.path.relays().collect())
    }

    /// An address at which a peer is dialled by this relay alone.
    pub(super) fn to_dial(&self, peer: PeerId, relay: PeerId) -> Option<SocketAddr> {
        let mut table = self.lock();
        let slot = table.routes.get(&peer)?.carriers.get(&relay)?.slot;
        let side = if self.me < peer { OF_LOWER } else { 0 };
        // A lane is used again after 128 dials. One of a connection that has lived so long is left out.
        for _ in 0..=u8::MAX {
            table.last_lane = table.last_lane.wrapping_add(1);
            let lane = table.last_lane & !OF_LOWER | side;
            if table.routes.get(&peer).is_some_and(|route| !route.proven.contains_key(&lane)) {
                return Some(slot.address(lane));
            }
        }
        None
    }

    /// The peer at this end of a connection has proven its key: from now on the connection goes by all of its relays,
    /// first by the one that it came up by. False if it is not the one to whom that relay was opened.
    pub(super) fn prove(&self, address: SocketAddr, peer: PeerId) -> bool {
        let mut table = self.lock();
        let Some((slot, lane)) = Slot::of(address) else { return false };
        let Some((of, relay)) = table.slots.get(&slot).copied() else { return false };
        if of != peer {
            return false;
        }
        let Some(route) = table.routes.get_mut(&peer) else { return false };
        if route.proven.get(&lane).is_some_and(|other| *other != address) {
            return false;
        }
        route.proven.insert(lane, address);
        route.path.prefer(relay);
        true
    }

    /// The connection at this address is over.
    pub(super) fn forget(&self, address: SocketAddr, peer: PeerId) {
        let mut table = self.lock();
        if let Some(route) = table.routes.get_mut(&peer) {
            route.proven.retain(|_, of| *of != address);
        }
        table.tidy(peer);
    }

    /// Notes the round trip of the connection to a peer.
    pub(super) fn note_rtt(&self, peer: PeerId, rtt_ms: u64) {
        if let Some(route) = self.lock().routes.get_mut(&peer) {
            route.rtt_ms = rtt_ms;
        }
    }

    /// Something that this peer has proven to be its own has come since the last time.
    pub(super) fn note_proven(&self, peer: PeerId) {
        if let Some(route) = self.lock().routes.get_mut(&peer) {
            route.hear();
            route.path.handle_proven();
        }
    }

    /// The relays by which a packet to this address goes now, at most two.
    fn carriers(&self, to: SocketAddr) -> (Lane, [Option<(quinn::Connection, Token)>; 2]) {
        let mut table = self.lock();
        let Some((slot, lane)) = Slot::of(to) else { return (0, [None, None]) };
        let Some((peer, relay)) = table.slots.get(&slot).copied() else { return (lane, [None, None]) };
        let Some(route) = table.routes.get_mut(&peer) else { return (lane, [None, None]) };
        let ways = if route.proven.get(&lane) == Some(&to) {
            route.hear();
            match route.path.send(route.rtt_ms, self.mux.now_ms()) {
                Ways::None => [None, None],
                Ways::One(relay) => [Some(relay), None],
                Ways::Both(first, second) => [Some(first), Some(second)],
            }
        } else {
            [Some(relay).filter(|_| route.carriers.get(&relay).is_some_and(|carrier| carrier.slot == slot)), None]
        };
        let carrier = |relay: PeerId| route.carriers.get(&relay).map(|carrier| (carrier.link.clone(), carrier.token));
        (lane, ways.map(|relay| relay.and_then(carrier)))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for Routes {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.mux.poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        let (lane, carriers) = self.carriers(transmit.destination);
        for (link, token) in carriers.into_iter().flatten() {
            self.mux.send(&link, token, lane, transmit.contents, segment);
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
        let next = || {
            while let Some(packet) = self.inbox.take() {
                let source = self.lock().source(packet.peer, packet.relay, packet.lane);
                // None is of a relay that has gone since.
                if let Some(addr) = source {
                    return Some((addr, packet.bytes));
                }
            }
            None
        };
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
            let Some((addr, packet)) = next() else { break };
            let len = packet.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..len), packet.get(..len)) {
                to.copy_from_slice(from);
            }
            *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        self.inbox.wake_later(cx.waker());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(Slot { relay: u16::MAX, number: 0 }.address(0))
    }

    fn max_transmit_segments(&self) -> usize {
        self.mux.segments()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_tells_slot_and_lane() {
        for (relay, number, lane) in [(0, 1, 0), (7, u64::MAX, 255), (u16::MAX, 3, 128)] {
            let slot = Slot { relay, number };
            assert_eq!(Slot::of(slot.address(lane)), Some((slot, lane)));
        }
        assert_eq!(Slot::of(([127, 0, 0, 1], 1).into()), None);
    }
}
