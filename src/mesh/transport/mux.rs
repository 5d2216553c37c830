//! The UDP socket of the direct underlay, shared by QUIC and relay frames. A packet whose first byte is 64 or more
//! is QUIC's (RFC 9443 §3); any other is ours: a relay frame, which is passed on, or handed to the relay
//! underlay of this peer.
//!
//! A relay frame is `[1][lane][0 0][token, 8 bytes][one QUIC packet of the inner connection]`. Nothing is decrypted here and
//! nothing is queued: what the desk does not let through, or the socket does not take, is dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use mesh_core::ids::PeerId;
use mesh_core::relay::{Desk, Ticket};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::Instant;

use super::address::canonical;
use super::relay_inbox::{Heard, Inbox, Lane};

/// Bytes before the inner packet.
pub(super) const HEAD_BYTES: usize = 12;
/// First byte of a relay frame.
const RELAY_FRAME: u8 = 1;
/// First bytes from here on are QUIC's: one of the two highest bits is set in each of its packets, while no end greases
/// the second (RFC 9287).
const QUIC_FIRST: u8 = 0x40;

/// Tells one way of one pair from all others; random, so that nobody who is not told can use it.
pub(super) type Token = u64;

/// One way of a pair that this peer relays for.
pub(super) struct Hop {
    /// The link that its frames come by: no other is believed.
    pub(super) from: quinn::Connection,
    /// The link that they go on to.
    pub(super) to: quinn::Connection,
    pub(super) to_peer: PeerId,
    /// Their token at the receiver.
    pub(super) token: Token,
    pub(super) ticket: Ticket,
}

/// One way of a pair of which this peer is an end.
pub(super) struct End {
    /// The link to the relay: no other is believed.
    pub(super) relay: quinn::Connection,
    pub(super) relay_peer: PeerId,
    /// The peer at the other end.
    pub(super) peer: PeerId,
    pub(super) inbox: Arc<Inbox>,
    pub(super) heard: Arc<Heard>,
}

enum Way {
    Hop(Hop),
    End(End),
}

/// What was relayed here, since the start.
#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    dropped: AtomicU64,
    unknown: AtomicU64,
}

/// What this peer relays for others, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relayed {
    /// True if this peer relays for others.
    pub offers: bool,
    /// Pairs of peers for which it does now.
    pub pairs: Vec<(PeerId, PeerId)>,
    /// Bytes that were passed on since the start.
    pub bytes: u64,
    /// Packets over a limit, which were dropped.
    pub dropped: u64,
    /// Frames that named no pair of this device, or came from elsewhere than their link.
    pub unknown: u64,
    /// Pairs that were refused.
    pub refused: u64,
}

/// See the module.
pub(super) struct Mux {
    udp: Arc<dyn AsyncUdpSocket>,
    /// Not locked while a packet is sent or kept.
    ways: Mutex<HashMap<Token, Arc<Way>>>,
    desk: Mutex<(Desk, bool)>,
    began: Instant,
    counters: Counters,
    /// What this relay does to the frames that it passes on, in tests.
    #[cfg(test)]
    pub(super) malice: Mutex<Malice>,
    /// Of each pair and way the packet that is passed on after the next one.
    #[cfg(test)]
    late: Mutex<std::collections::HashMap<Option<Token>, Vec<u8>>>,
    /// All that was passed on, of a relay that listens.
    #[cfg(test)]
    pub(super) held: Mutex<Vec<u8>>,
}

/// How a relay harms those that it relays for.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Malice {
    #[default]
    None,
    /// It passes nothing on.
    Drops,
    /// It changes a bit of each packet.
    Flips,
    /// It passes everything on three times.
    Repeats,
    /// It passes everything on two seconds late.
    Delays,
    /// It passes each packet on after the one that came later.
    Reorders,
    /// It sends fifty made-up packets with each that it passes on.
    Floods,
    /// It says that it relays, without a word to the other end.
    Lies,
    /// It keeps a copy of everything.
    Listens,
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Mux {
    pub(super) fn new(udp: Arc<dyn AsyncUdpSocket>, offers: bool, rate: u64) -> Arc<Self> {
        Arc::new(Self {
            udp,
            ways: Mutex::default(),
            desk: Mutex::new((Desk::new(offers, rate), offers)),
            began: Instant::now(),
            counters: Counters::default(),
            #[cfg(test)]
            malice: Mutex::default(),
            #[cfg(test)]
            late: Mutex::default(),
            #[cfg(test)]
            held: Mutex::default(),
        })
    }

    /// Milliseconds since the start, the clock of desk and paths.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The desk, for a moment.
    pub(super) fn desk<T>(&self, with: impl FnOnce(&mut Desk) -> T) -> T {
        with(&mut self.desk.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    pub(super) fn relayed(&self) -> Relayed {
        let desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Relayed {
            offers: desk.1,
            pairs: desk.0.pairs(),
            bytes: count(&self.counters.bytes),
            dropped: count(&self.counters.dropped),
            unknown: count(&self.counters.unknown),
            refused: desk.0.refused(),
        }
    }

    /// What comes with this token goes on. False if the token is in use.
    pub(super) fn put_hop(&self, token: Token, hop: Hop) -> bool {
        self.put_way(token, Way::Hop(hop))
    }

    /// What comes with this token is ours. False if the token is in use: a relay names it, and must not take over what
    /// comes by another.
    pub(super) fn put_end(&self, token: Token, end: End) -> bool {
        self.put_way(token, Way::End(end))
    }

    fn put_way(&self, token: Token, way: Way) -> bool {
        match self.ways().entry(token) {
            Entry::Vacant(place) => {
                place.insert(Arc::new(way));
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    pub(super) fn remove(&self, token: Token) {
        self.ways().remove(&token);
    }

    /// Sends packets of one size, the last perhaps shorter, to the relay at the other end of this link. What the socket
    /// does not take now is lost.
    pub(super) fn send(&self, relay: &quinn::Connection, token: Token, lane: Lane, contents: &[u8], segment: usize) {
        let segment = segment.max(1);
        let mut frames = Vec::with_capacity(contents.len() + HEAD_BYTES * contents.len().div_ceil(segment));
        for packet in contents.chunks(segment) {
            frames.extend_from_slice(&[RELAY_FRAME, lane, 0, 0]);
            frames.extend_from_slice(&token.to_be_bytes());
            frames.extend_from_slice(packet);
        }
        let size = (contents.len() > segment).then_some(segment + HEAD_BYTES);
        self.put(relay, &frames, size);
    }

    /// From the address that the link uses: another is not expected there, nor let through by a router on the way.
    fn put(&self, link: &quinn::Connection, contents: &[u8], segment_size: Option<usize>) -> bool {
        let (destination, src_ip) = (link.remote_address(), link.local_ip());
        self.udp.try_send(&Transmit { destination, ecn: None, contents, segment_size, src_ip }).is_ok()
    }

    pub(super) fn segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    pub(super) fn poller(&self) -> Pin<Box<dyn UdpPoller>> {
        self.udp.clone().create_io_poller()
    }

    /// Relay frames of one token and one size, the last perhaps shorter, that came together.
    fn handle_run(&self, from: SocketAddr, run: &mut [u8], stride: usize) {
        let packets = run.len().div_ceil(stride) as u64;
        let way = token_of(run).and_then(|token| self.ways().get(&token).cloned());
        match way.as_deref() {
            Some(Way::End(end)) if is_from(&end.relay, from) => {
                for frame in run.chunks(stride) {
                    if let Some(packet) = frame.get(HEAD_BYTES..).filter(|packet| !packet.is_empty())
                        && let Some(lane) = frame.get(1)
                    {
                        end.inbox.put(end.peer, end.relay_peer, *lane, packet, &end.heard, self.now_ms());
                    }
                }
            }
            Some(Way::Hop(hop)) if is_from(&hop.from, from) => {
                let bytes = run.len() as u64;
                let admitted = self.desk(|desk| {
                    desk.admit(hop.ticket, hop.to_peer, bytes, stride.min(run.len()) as u64, self.now_ms())
                });
                let sent = admitted && {
                    for frame in run.chunks_mut(stride) {
                        if let Some(token) = frame.get_mut(4..HEAD_BYTES) {
                            token.copy_from_slice(&hop.token.to_be_bytes());
                        }
                    }
                    #[cfg(test)]
                    let harmed = self.harm(&hop.to, run, stride);
                    #[cfg(not(test))]
                    let harmed = false;
                    harmed || self.put(&hop.to, run, (run.len() > stride).then_some(stride))
                };
                let (counter, by) =
                    if sent { (&self.counters.bytes, bytes) } else { (&self.counters.dropped, packets) };
                counter.fetch_add(by, Ordering::Relaxed);
            }
            Some(Way::End(_) | Way::Hop(_)) | None => {
                self.counters.unknown.fetch_add(packets, Ordering::Relaxed);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn lies(&self) -> bool {
        *self.malice.lock().unwrap_or_else(PoisonError::into_inner) == Malice::Lies
    }

    /// True if there is nothing left to be passed on.
    #[cfg(test)]
    #[expect(clippy::disallowed_methods, reason = "a packet that is late ends with the runtime of its test")]
    fn harm(&self, to: &quinn::Connection, run: &mut [u8], stride: usize) -> bool {
        let size = (run.len() > stride).then_some(stride);
        match *self.malice.lock().unwrap_or_else(PoisonError::into_inner) {
            Malice::None => {}
            Malice::Listens => self.held.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(run),
            Malice::Drops | Malice::Lies => return true,
            Malice::Flips => run.chunks_mut(stride).filter_map(|frame| frame.last_mut()).for_each(|last| *last ^= 1),
            Malice::Repeats => {
                self.put(to, run, size);
                self.put(to, run, size);
            }
            Malice::Delays => {
                let (udp, late) = (self.udp.clone(), run.to_vec());
                let (destination, src_ip) = (to.remote_address(), to.local_ip());
                tokio::spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                    let _ =
                        udp.try_send(&Transmit { destination, ecn: None, contents: &late, segment_size: size, src_ip });
                });
                return true;
            }
            Malice::Reorders => {
                let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
                for frame in run.chunks(stride) {
                    match late.remove(&token_of(frame)) {
                        Some(before) => {
                            self.put(to, frame, None);
                            self.put(to, &before, None);
                        }
                        None => {
                            late.insert(token_of(frame), frame.to_vec());
                        }
                    }
                }
                return true;
            }
            Malice::Floods => {
                for n in 0..50_u8 {
                    let mut made_up = run.get(..stride.min(run.len())).unwrap_or_default().to_vec();
                    made_up.iter_mut().skip(HEAD_BYTES + 1).for_each(|byte| *byte = byte.wrapping_mul(31) ^ n);
                    self.put(to, &made_up, None);
                }
            }
        }
        false
    }

    /// Takes the relay frames out of what came in one read; what is left is QUIC's.
    fn sort(&self, bytes: &mut [u8], meta: &mut RecvMeta) {
        let (len, stride) = (meta.len.min(bytes.len()), meta.stride.max(1));
        let is_quic = |at: usize, bytes: &[u8]| bytes.get(at).is_some_and(|first| *first >= QUIC_FIRST);
        if (0..len).step_by(stride).all(|at| is_quic(at, bytes)) {
            return;
        }
        let (mut at, mut kept) = (0, 0);
        while at < len {
            let mut end = (at + stride).min(len);
            if is_quic(at, bytes) {
                bytes.copy_within(at..end, kept);
                kept += end - at;
            } else {
                let token = bytes.get(at..end).and_then(token_of);
                while end < len && !is_quic(end, bytes) && bytes.get(end..len).and_then(token_of) == token {
                    end = (end + stride).min(len);
                }
                if let Some(run) = bytes.get_mut(at..end) {
                    self.handle_run(meta.addr, run, stride);
                }
            }
            at = end;
        }
        meta.len = kept;
    }

    fn ways(&self) -> MutexGuard<'_, HashMap<Token, Arc<Way>>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_from(link: &quinn::Connection, from: SocketAddr) -> bool {
    canonical(link.remote_address()) == canonical(from)
}

fn token_of(frame: &[u8]) -> Option<Token> {
    let token = frame.get(4..HEAD_BYTES)?.try_into().ok()?;
    (frame.first() == Some(&RELAY_FRAME)).then_some(u64::from_be_bytes(token))
}

impl AsyncUdpSocket for Mux {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.udp.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.udp.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = polled {
            for (bytes, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(count) {
                self.sort(bytes, meta);
            }
        }
        polled
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}
