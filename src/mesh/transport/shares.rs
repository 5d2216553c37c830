//! Shares of something that strangers use up: by address, by prefix, and in all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::address::Prefix;

/// The most that may be had of something: by one address, by one prefix, and by all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) per_address: usize,
    pub(super) per_prefix: usize,
    pub(super) all: usize,
}

/// Time after which an address that took something counts as new again.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Places that are held, and by whom.
#[derive(Debug)]
pub(super) struct Held {
    share: Share,
    by_address: BTreeMap<IpAddr, usize>,
    by_prefix: BTreeMap<Prefix, usize>,
    all: usize,
}

impl Held {
    pub(super) fn new(share: Share) -> Self {
        Self { share, by_address: BTreeMap::new(), by_prefix: BTreeMap::new(), all: 0 }
    }

    /// Places that are held, by whomever.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    pub(super) fn of(&self, ip: IpAddr) -> usize {
        self.by_address.get(&ip).copied().unwrap_or_default()
    }

    /// True if this address may have one more: the last quarter is for those that have none.
    pub(super) fn has_room(&self, ip: IpAddr) -> bool {
        let Share { per_address, per_prefix, all } = self.share;
        let mine = self.of(ip);
        let usable = |most: usize| if mine == 0 { most } else { most - most / 4 };
        let here = self.by_prefix.get(&Prefix::of(ip)).copied().unwrap_or_default();
        mine < per_address && here < usable(per_prefix) && self.all < usable(all)
    }

    pub(super) fn take(&mut self, ip: IpAddr) {
        *self.by_address.entry(ip).or_default() += 1;
        *self.by_prefix.entry(Prefix::of(ip)).or_default() += 1;
        self.all += 1;
    }

    pub(super) fn give_back(&mut self, ip: IpAddr) {
        give_one_back(&mut self.by_address, ip);
        give_one_back(&mut self.by_prefix, Prefix::of(ip));
        self.all = self.all.saturating_sub(1);
    }
}

fn give_one_back<K: Ord>(held: &mut BTreeMap<K, usize>, key: K) {
    if let Some(n) = held.get_mut(&key) {
        *n -= 1;
        if *n == 0 {
            held.remove(&key);
        }
    }
}

/// Tokens by address, by prefix and for all. An address is kept while it is not new, so that there are never more than
/// those that were let in within [`FORGOTTEN`].
#[derive(Debug)]
pub(super) struct Rate {
    share: Share,
    by_address: BTreeMap<IpAddr, Bucket>,
    by_prefix: BTreeMap<Prefix, Bucket>,
    all: Bucket,
    swept: Instant,
}

impl Rate {
    pub(super) fn new(share: Share, now: Instant) -> Self {
        let all = Bucket::new(share.all, now);
        Self { share, by_address: BTreeMap::new(), by_prefix: BTreeMap::new(), all, swept: now }
    }

    /// Addresses that are remembered.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.by_address.len()
    }

    /// True if less than half is left for all.
    pub(super) fn is_low(&mut self, now: Instant) -> bool {
        self.all.is_low(now)
    }

    /// Takes a token of this address: the lower half of what its prefix and all have is for addresses that are new.
    pub(super) fn take(&mut self, ip: IpAddr, now: Instant) -> bool {
        if now.saturating_duration_since(self.swept) > FORGOTTEN {
            self.by_address.retain(|_, bucket| !bucket.is_forgotten(now));
            self.by_prefix.retain(|_, bucket| !bucket.is_forgotten(now));
            self.swept = now;
        }
        let is_new = self.by_address.get(&ip).is_none_or(|bucket| bucket.is_forgotten(now));
        let prefix = Prefix::of(ip);
        let mut mine = self.by_address.get(&ip).copied().unwrap_or_else(|| Bucket::new(self.share.per_address, now));
        let mut near = self.by_prefix.get(&prefix).copied().unwrap_or_else(|| Bucket::new(self.share.per_prefix, now));
        if !is_new && (near.is_low(now) || self.all.is_low(now)) {
            return false;
        }
        if !(mine.take(now) && near.take(now) && self.all.take(now)) {
            return false;
        }
        self.by_address.insert(ip, mine);
        self.by_prefix.insert(prefix, near);
        true
    }
}

/// A bucket of tokens: `per_s` drop in each second, and it holds as many.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    per_s: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(per_s: usize, now: Instant) -> Self {
        let per_s = u32::try_from(per_s).map_or(f64::MAX, f64::from);
        Self { per_s, tokens: per_s, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let drops = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_s;
        self.tokens = (self.tokens + drops).min(self.per_s);
        self.filled = now;
    }

    /// True if nothing was taken for long.
    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.filled) > FORGOTTEN
    }

    /// True if less than half is left.
    fn is_low(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens < self.per_s / 2.0
    }

    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }
}

#[cfg(test)]
mod tests {
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
}
