//! All that this process knows of relays: those that it uses, and for whom it is one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_core::ids::PeerId;
use mesh_core::relay::{Penalties, Punches};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::mux::Mux;
use super::relay_socket::Routes;
use crate::mesh::bucket::{Bucket, Flow};

/// How often one peer may ask this one to relay, and how often a relay may announce itself: each costs the other end a
/// stream. A mesh of sixteen that loses its gateway asks for fifteen pairs.
const ASKS: Flow = Flow { units: 4, within: Duration::from_secs(1), ahead: 32 };

/// Settings of relaying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayConfig {
    /// Relay for others.
    pub offers: bool,
    /// Be relayed by others.
    pub uses: bool,
    /// Bytes in a second that are relayed to one peer at most.
    pub bytes_per_s: u64,
}

impl RelayConfig {
    /// Neither relays nor is relayed.
    pub const NONE: Self = Self { offers: false, uses: false, bytes_per_s: 0 };
}

/// See the module.
#[derive(Debug)]
pub(super) struct RelayState {
    pub(super) mux: Arc<Mux>,
    pub(super) routes: Arc<Routes>,
    /// Wakes what keeps two relays for each relayed link.
    pub(super) lost: Notify,
    penalties: Mutex<Penalties>,
    punches: Mutex<Punches>,
    opening: Mutex<BTreeSet<(PeerId, PeerId)>>,
    asks: Mutex<BTreeMap<PeerId, Bucket>>,
}

impl RelayState {
    pub(super) fn new(mux: Arc<Mux>, routes: Arc<Routes>) -> Self {
        Self {
            mux,
            routes,
            lost: Notify::new(),
            penalties: Mutex::default(),
            punches: Mutex::default(),
            opening: Mutex::default(),
            asks: Mutex::default(),
        }
    }

    /// The penalties, for a moment.
    pub(super) fn penalties<T>(&self, with: impl FnOnce(&mut Penalties, u64) -> T) -> T {
        with(&mut self.penalties.lock().unwrap_or_else(PoisonError::into_inner), self.mux.now_ms())
    }

    /// True if a round of punching to this peer may begin now; then it does.
    pub(super) fn may_punch(&self, peer: PeerId) -> bool {
        self.punches.lock().unwrap_or_else(PoisonError::into_inner).begin(peer, self.mux.now_ms())
    }

    /// True if this relay is not being asked for this peer; then it is from now on.
    pub(super) fn begin_opening(&self, peer: PeerId, relay: PeerId) -> bool {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner).insert((peer, relay))
    }

    pub(super) fn end_opening(&self, peer: PeerId, relay: PeerId) {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner).remove(&(peer, relay));
    }

    /// True if this peer has not asked too often.
    pub(super) fn may_ask(&self, peer: PeerId) -> bool {
        let now = Instant::now();
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is empty is as one that was never there.
        asks.retain(|of, bucket| *of == peer || bucket.until(&ASKS, ASKS.ahead, now) > Duration::ZERO);
        asks.entry(peer).or_insert_with(|| Bucket::new(now)).take(&ASKS, 1, now)
    }
}
