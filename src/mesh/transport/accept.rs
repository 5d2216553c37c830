//! The door: who comes in, how fast, and how far a stranger gets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::dial::{HANDSHAKE_MAX, canonical};
use super::join;
use super::link::{self, HELLO_MAX};
use super::links::Shared;
use super::quic::Code;
use super::stream::{self, Tag};
use super::tls::peer_key;

/// Handshakes begun per second, and in a burst. A mesh that starts as a whole needs 16; a flood gets no answer.
const HANDSHAKES_PER_S: u32 = 50;
/// Handshakes under way at once.
const HANDSHAKES_AT_ONCE: usize = 64;
/// From this many on, an address must first prove that it can receive (RFC 9000 §8.1.2).
const RETRY_FROM: usize = HANDSHAKES_AT_ONCE / 2;
/// Connections of strangers at once: in all, and from one address, so that one cannot keep out the others.
const STRANGERS_MAX: usize = 32;
const STRANGERS_PER_ADDRESS: usize = 8;

/// Accepts until the endpoint closes.
pub(super) async fn run(shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    let strangers = Arc::new(Strangers::default());
    let mut bucket = Bucket::new(Instant::now());
    while let Some(incoming) = shared.endpoint.accept().await {
        // Whoever proves that it can receive goes first: a flood from made-up addresses uses up neither tokens nor places
        // below the half of them.
        let busy = bucket.is_low(Instant::now()) || handshakes.available_permits() <= RETRY_FROM;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        if !bucket.take(Instant::now()) {
            incoming.ignore();
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.ignore();
            continue;
        };
        let (shared, strangers) = (shared.clone(), strangers.clone());
        shared.tasks.clone().spawn(async move {
            let Ok(connecting) = incoming.accept() else { return };
            let Ok(Ok(connection)) = timeout(HANDSHAKE_MAX, connecting).await else { return };
            drop(permit);
            greet(&shared, &strangers, connection).await;
        });
    }
}

/// The handshake is done and the key proven: sees what the peer wants.
async fn greet(shared: &Arc<Shared>, strangers: &Arc<Strangers>, connection: quinn::Connection) {
    let Some(key) = peer_key(&connection) else { return Code::Protocol.close(&connection) };
    let peer = key.peer_id();
    let place = if shared.is_member(peer) {
        None
    } else {
        match strangers.enter(canonical(connection.remote_address()).ip()) {
            Some(place) => Some(place),
            None => return Code::Overload.close(&connection),
        }
    };
    let first = async {
        let (send, mut recv) = connection.accept_bi().await.ok()?;
        let tag = stream::read_tag(&mut recv).await.ok()?;
        Some((tag, send, recv))
    };
    match timeout(HELLO_MAX, first).await {
        Ok(Some((Tag::Join, send, recv))) => {
            join::serve(shared, &connection, key, send, recv, place).await;
            Code::Done.close(&connection);
        }
        Ok(Some((tag @ (Tag::Mesh | Tag::Moved), send, recv))) if shared.may_link(peer) => {
            link::accepted(shared, connection, key, tag == Tag::Moved, send, recv).await;
        }
        Ok(Some((Tag::Mesh | Tag::Moved | Tag::Node | Tag::Blob, ..))) if !shared.is_member(peer) => {
            Code::Revoked.close(&connection);
        }
        Ok(Some((Tag::Mesh | Tag::Moved | Tag::Node | Tag::Blob, ..)) | None) => Code::Protocol.close(&connection),
        Err(_) => Code::Timeout.close(&connection),
    }
}

/// A bucket of tokens: `HANDSHAKES_PER_S` drop in each second.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { tokens: f64::from(HANDSHAKES_PER_S), filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let per_s = f64::from(HANDSHAKES_PER_S);
        let drops = now.saturating_duration_since(self.filled).as_secs_f64() * per_s;
        self.tokens = (self.tokens + drops).min(per_s);
        self.filled = now;
    }

    /// Whether less than half is left.
    fn is_low(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens < f64::from(HANDSHAKES_PER_S) / 2.0
    }

    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            true
        } else {
            false
        }
    }
}

/// How many strangers are here, by address.
#[derive(Debug, Default)]
struct Strangers(Mutex<BTreeMap<IpAddr, usize>>);

impl Strangers {
    fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let mut here = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if here.values().sum::<usize>() >= STRANGERS_MAX || here.get(&ip).is_some_and(|n| *n >= STRANGERS_PER_ADDRESS) {
            return None;
        }
        *here.entry(ip).or_default() += 1;
        Some(Place { strangers: self.clone(), ip })
    }
}

/// A stranger's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    strangers: Arc<Strangers>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut here = self.strangers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = here.get_mut(&self.ip) {
            *n -= 1;
            if *n == 0 {
                here.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_gets_fifty_handshakes_a_second() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        assert_eq!((0..1000).filter(|_| bucket.take(now)).count(), 50);
        assert!(bucket.is_low(now + Duration::from_millis(400)));
        assert!(!bucket.is_low(now + Duration::from_millis(600)));
        let mut bucket = Bucket { tokens: 0.0, filled: now };
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| bucket.take(later)).count(), 50);
    }

    #[test]
    fn one_address_cannot_take_all_places_of_strangers() {
        let strangers = Arc::new(Strangers::default());
        let places: Vec<_> = (0..100).filter_map(|_| strangers.enter([10, 0, 0, 1].into())).collect();
        assert_eq!(places.len(), STRANGERS_PER_ADDRESS);
        let others: Vec<_> = (2..=100).filter_map(|n| strangers.enter([10, 0, 0, n].into())).collect();
        assert_eq!(others.len(), STRANGERS_MAX - STRANGERS_PER_ADDRESS);
        drop(places);
        assert!(strangers.enter([10, 0, 0, 1].into()).is_some());
    }
}
