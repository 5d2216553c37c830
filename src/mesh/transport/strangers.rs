//! The budget of strangers on one underlay: how many handshakes begin, and how many connections of peers that are no
//! members may be open. Each underlay has its own, so that a flood on one starves no other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The size of a budget.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Handshakes begun per second, and in a burst.
    handshakes_per_s: u32,
    /// Handshakes under way at once. From half of them on, an address must first prove that it can receive
    /// (RFC 9000 §8.1.2).
    handshakes_at_once: usize,
    /// Connections of strangers at once.
    strangers: usize,
    /// The same from one IP address, so that one cannot keep out the others.
    per_address: usize,
}

impl Limits {
    /// The budget of the direct UDP underlay. A mesh that starts as a whole needs 16 handshakes; a flood gets no
    /// answer.
    pub(super) const UDP: Self = Self { handshakes_per_s: 50, handshakes_at_once: 64, strangers: 32, per_address: 8 };
}

/// A budget in use.
#[derive(Debug)]
pub(super) struct Strangers {
    limits: Limits,
    bucket: Mutex<Bucket>,
    handshakes: Arc<Semaphore>,
    /// Connections of strangers, by address.
    here: Mutex<BTreeMap<IpAddr, usize>>,
}

/// The answer to a first packet.
#[derive(Debug)]
pub(super) enum Admission {
    /// Its handshake may begin; it is under way for as long as the permit is held.
    Begin(OwnedSemaphorePermit),
    /// Its address must first prove that it can receive.
    Prove,
    /// There is no room, and no answer.
    Ignore,
}

impl Strangers {
    pub(super) fn new(limits: Limits, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            limits,
            bucket: Mutex::new(Bucket::new(limits.handshakes_per_s, now)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes_at_once)),
            here: Mutex::default(),
        })
    }

    /// Decides about a handshake that wants to begin. `may_prove`: its address has not proven yet that it can receive,
    /// and may be asked to. Those that have proven it go first: a flood from made-up addresses uses up neither tokens
    /// nor places below the half of them.
    pub(super) fn admit(&self, may_prove: bool, now: Instant) -> Admission {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = bucket.is_low(now) || self.handshakes.available_permits() <= self.limits.handshakes_at_once / 2;
        if busy && may_prove {
            return Admission::Prove;
        }
        if !bucket.take(now) {
            return Admission::Ignore;
        }
        match self.handshakes.clone().try_acquire_owned() {
            Ok(permit) => Admission::Begin(permit),
            Err(_) => Admission::Ignore,
        }
    }

    /// Gives a stranger at this address a place, if there is one.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        let Limits { strangers, per_address, .. } = self.limits;
        if here.values().sum::<usize>() >= strangers || here.get(&ip).is_some_and(|n| *n >= per_address) {
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
        let mut here = self.strangers.here.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = here.get_mut(&self.ip) {
            *n -= 1;
            if *n == 0 {
                here.remove(&self.ip);
            }
        }
    }
}

/// A bucket of tokens: `per_s` drop in each second, and it holds as many.
#[derive(Debug)]
struct Bucket {
    per_s: u32,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(per_s: u32, now: Instant) -> Self {
        Self { per_s, tokens: f64::from(per_s), filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let per_s = f64::from(self.per_s);
        let drops = now.saturating_duration_since(self.filled).as_secs_f64() * per_s;
        self.tokens = (self.tokens + drops).min(per_s);
        self.filled = now;
    }

    /// True if less than half is left.
    fn is_low(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens < f64::from(self.per_s) / 2.0
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_gets_fifty_handshakes_a_second() {
        let now = Instant::now();
        let mut bucket = Bucket::new(50, now);
        assert_eq!((0..1000).filter(|_| bucket.take(now)).count(), 50);
        assert!(bucket.is_low(now + Duration::from_millis(400)));
        assert!(!bucket.is_low(now + Duration::from_millis(600)));
        let mut bucket = Bucket { tokens: 0.0, ..Bucket::new(50, now) };
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| bucket.take(later)).count(), 50);
    }

    #[test]
    fn made_up_addresses_use_up_no_more_than_half() {
        let now = Instant::now();
        let strangers = Strangers::new(Limits::UDP, now);
        let mut begun = Vec::new();
        for _ in 0..1000 {
            match strangers.admit(true, now) {
                Admission::Begin(permit) => begun.push(permit),
                Admission::Prove => {}
                Admission::Ignore => panic!("a bucket that is not empty ignores nobody"),
            }
        }
        assert_eq!(begun.len(), 26);
        // Those that can receive still get in, until the tokens of this second are used up.
        let proven: Vec<_> = (0..100).map(|_| strangers.admit(false, now)).collect();
        let began = proven.iter().filter(|admission| matches!(admission, Admission::Begin(_))).count();
        let ignored = proven.iter().filter(|admission| matches!(admission, Admission::Ignore)).count();
        assert_eq!((began, ignored), (24, 76));
    }

    #[test]
    fn one_address_cannot_take_all_places_of_strangers() {
        let strangers = Strangers::new(Limits::UDP, Instant::now());
        let places: Vec<_> = (0..100).filter_map(|_| strangers.enter([10, 0, 0, 1].into())).collect();
        assert_eq!(places.len(), Limits::UDP.per_address);
        let others: Vec<_> = (2..=100).filter_map(|n| strangers.enter([10, 0, 0, n].into())).collect();
        assert_eq!(others.len(), Limits::UDP.strangers - Limits::UDP.per_address);
        drop(places);
        assert!(strangers.enter([10, 0, 0, 1].into()).is_some());
    }
}
