//! Packets of inner connections that have come by relays, until the relay underlay reads them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use mesh_core::ids::PeerId;

/// Bytes of one peer that may wait to be read; beyond, its packets are dropped, as a full socket buffer would. Others
/// have room of their own.
const PEER_BYTES_MAX: usize = 512 * 1024;
/// Bytes that came by one relay, for whichever peers it names.
const RELAY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all. As many hostile relays as there are of the former in it would have to flood at once.
const ALL_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a packet counts for at least: it is kept in room of its own.
const PACKET_BYTES_MIN: usize = 128;

/// Tells one connection of a pair from others, by whichever relay its packets come: the end that dials chooses.
pub(super) type Lane = u8;

/// When something came by one relay for one peer, since that was last looked at.
#[derive(Debug, Default)]
pub(super) struct Heard(AtomicU64);

impl Heard {
    fn note(&self, now_ms: u64) {
        // Zero means never.
        self.0.store(now_ms.saturating_add(1), Ordering::Relaxed);
    }

    /// The time, of which nothing is known afterwards.
    pub(super) fn take(&self) -> Option<u64> {
        self.0.swap(0, Ordering::Relaxed).checked_sub(1)
    }
}

/// A packet of an inner connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) peer: PeerId,
    pub(super) relay: PeerId,
    pub(super) lane: Lane,
    pub(super) bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Packet>,
    /// Bytes that wait, by peer and by relay. Of whom nothing waits is not there.
    of_peers: BTreeMap<PeerId, usize>,
    by_relays: BTreeMap<PeerId, usize>,
    all: usize,
    waker: Option<Waker>,
}

impl Inbox {
    /// A packet of `peer` has come by `relay`.
    pub(super) fn put(&self, peer: PeerId, relay: PeerId, lane: Lane, packet: &[u8], heard: &Heard, now_ms: u64) {
        heard.note(now_ms);
        let mut queue = self.lock();
        let size = packet.len().max(PACKET_BYTES_MIN);
        let of = |sizes: &BTreeMap<PeerId, usize>, whose: PeerId| sizes.get(&whose).copied().unwrap_or_default() + size;
        let has_room = of(&queue.of_peers, peer) <= PEER_BYTES_MAX
            && of(&queue.by_relays, relay) <= RELAY_BYTES_MAX
            && queue.all + size <= ALL_BYTES_MAX;
        if !has_room {
            return;
        }
        *queue.of_peers.entry(peer).or_default() += size;
        *queue.by_relays.entry(relay).or_default() += size;
        queue.all += size;
        queue.packets.push_back(Packet { peer, relay, lane, bytes: packet.to_vec() });
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// The oldest packet.
    pub(super) fn take(&self) -> Option<Packet> {
        let mut queue = self.lock();
        let packet = queue.packets.pop_front()?;
        let size = packet.bytes.len().max(PACKET_BYTES_MIN);
        give_back(&mut queue.of_peers, packet.peer, size);
        give_back(&mut queue.by_relays, packet.relay, size);
        queue.all = queue.all.saturating_sub(size);
        Some(packet)
    }

    /// Whoever reads is woken by the next packet; at once if one has come meanwhile.
    pub(super) fn wake_later(&self, waker: &Waker) {
        let mut queue = self.lock();
        if queue.packets.is_empty() {
            queue.waker = Some(waker.clone());
        } else {
            waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_back(sizes: &mut BTreeMap<PeerId, usize>, of: PeerId, size: usize) {
    if let Some(bytes) = sizes.get_mut(&of) {
        *bytes = bytes.saturating_sub(size);
        if *bytes == 0 {
            sizes.remove(&of);
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::test_kit::id;

    use super::*;

    fn drained(inbox: &Inbox) -> Vec<Packet> {
        let all = std::iter::from_fn(|| inbox.take()).collect();
        let queue = inbox.lock();
        assert!(queue.of_peers.is_empty() && queue.by_relays.is_empty() && queue.all == 0, "nothing is left counted");
        all
    }

    #[test]
    fn a_flood_of_one_peer_takes_no_room_of_another() {
        let (inbox, heard, other) = (Inbox::default(), Heard::default(), Heard::default());
        for _ in 0..1_000 {
            inbox.put(id(1), id(9), 0, &[0; 1_400], &heard, 0);
        }
        inbox.put(id(2), id(9), 3, b"hello", &other, 5);
        let all = drained(&inbox);
        assert_eq!(all.iter().filter(|packet| packet.peer == id(1)).count(), PEER_BYTES_MAX / 1_400);
        let last = Packet { peer: id(2), relay: id(9), lane: 3, bytes: b"hello".to_vec() };
        assert_eq!(all.last(), Some(&last));
        assert_eq!((other.take(), other.take()), (Some(5), None));
        assert_eq!(heard.take(), Some(0));
    }

    #[test]
    fn a_relay_that_names_everyone_takes_no_room_of_another_relay() {
        let (inbox, heard) = (Inbox::default(), Heard::default());
        for peer in 1..=60 {
            for _ in 0..1_000 {
                inbox.put(id(peer), id(99), 0, &[0; 1_400], &heard, 0);
                // Empty ones cost room too.
                inbox.put(id(peer), id(98), 0, &[0; 1], &heard, 0);
            }
        }
        inbox.put(id(61), id(97), 0, b"hello", &heard, 5);
        let all = drained(&inbox);
        let bytes = |relay| {
            let sizes = all.iter().filter(|packet| packet.relay == relay).map(|packet| packet.bytes.len().max(128));
            sizes.sum::<usize>()
        };
        assert!(bytes(id(99)) <= RELAY_BYTES_MAX && bytes(id(98)) <= RELAY_BYTES_MAX);
        assert!(bytes(id(99)) > RELAY_BYTES_MAX - 2_000, "and it has that much");
        assert_eq!(bytes(id(97)), 128, "whoever comes by another relay has room");
    }
}
