//! Packets of inner connections that have come by relays, until the relay underlay reads them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use mesh_core::ids::PeerId;

/// Bytes of one peer that may wait to be read; beyond, its packets are dropped, as a full socket buffer would. Others
/// have room of their own.
const QUEUED_BYTES_MAX: usize = 512 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<(PeerId, Vec<u8>)>,
    bytes: BTreeMap<PeerId, usize>,
    /// When something of a peer came by a relay, since that was last looked at.
    heard: BTreeMap<(PeerId, PeerId), u64>,
    waker: Option<Waker>,
}

impl Inbox {
    /// A packet of `peer` has come by `relay`.
    pub(super) fn put(&self, peer: PeerId, relay: PeerId, packet: &[u8], now_ms: u64) {
        let mut queue = self.lock();
        queue.heard.insert((peer, relay), now_ms);
        let bytes = queue.bytes.entry(peer).or_default();
        if *bytes + packet.len() > QUEUED_BYTES_MAX {
            return;
        }
        *bytes += packet.len();
        queue.packets.push_back((peer, packet.to_vec()));
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    /// The oldest packet, and whose it is.
    pub(super) fn take(&self) -> Option<(PeerId, Vec<u8>)> {
        let mut queue = self.lock();
        let (peer, packet) = queue.packets.pop_front()?;
        if let Some(bytes) = queue.bytes.get_mut(&peer) {
            *bytes = bytes.saturating_sub(packet.len());
            if *bytes == 0 {
                queue.bytes.remove(&peer);
            }
        }
        Some((peer, packet))
    }

    /// By which relays something of this peer came since the last time, and when.
    pub(super) fn take_heard(&self, peer: PeerId) -> Vec<(PeerId, u64)> {
        let mut heard = Vec::new();
        self.lock().heard.retain(|(of, relay), at| {
            if *of == peer {
                heard.push((*relay, *at));
            }
            *of != peer
        });
        heard
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

#[cfg(test)]
mod tests {
    use mesh_core::test_kit::id;

    use super::*;

    #[test]
    fn a_flood_of_one_peer_takes_no_room_of_another() {
        let inbox = Inbox::default();
        for _ in 0..1_000 {
            inbox.put(id(1), id(9), &[0; 1_400], 0);
        }
        inbox.put(id(2), id(9), b"hello", 5);
        let all: Vec<_> = std::iter::from_fn(|| inbox.take()).collect();
        assert_eq!(all.iter().filter(|(peer, _)| *peer == id(1)).count(), QUEUED_BYTES_MAX / 1_400);
        assert_eq!(all.last(), Some(&(id(2), b"hello".to_vec())));
        assert!(inbox.lock().bytes.is_empty(), "nothing is counted that is not there");
        assert_eq!(inbox.take_heard(id(2)), [(id(9), 5)]);
        assert_eq!(inbox.take_heard(id(2)), []);
    }
}
