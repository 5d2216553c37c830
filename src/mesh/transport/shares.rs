//! Shares of something that strangers use up: by address, by prefix, and in all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::address::Prefix;
use crate::mesh::bucket::{Bucket, Flow};

/// The most that may be had of something: by one address, by one prefix, and by all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) per_address: usize,
    pub(crate) per_prefix: usize,
    pub(crate) all: usize,
}

/// Time after which an address that took something counts as new again.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Places that are held, and by whom.
#[derive(Debug)]
pub(crate) struct Held {
    share: Share,
    by_address: BTreeMap<IpAddr, usize>,
    by_prefix: BTreeMap<Prefix, usize>,
    all: usize,
}

impl Held {
    pub(crate) fn new(share: Share) -> Self {
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
    pub(crate) fn has_room(&self, ip: IpAddr) -> bool {
        let Share { per_address, per_prefix, all } = self.share;
        let mine = self.of(ip);
        let usable = |most: usize| if mine == 0 { most } else { most - most / 4 };
        let here = self.by_prefix.get(&Prefix::of(ip)).copied().unwrap_or_default();
        mine < per_address && here < usable(per_prefix) && self.all < usable(all)
    }

    pub(crate) fn take(&mut self, ip: IpAddr) {
        *self.by_address.entry(ip).or_default() += 1;
        *self.by_prefix.entry(Prefix::of(ip)).or_default() += 1;
        self.all += 1;
    }

    pub(crate) fn give_back(&mut self, ip: IpAddr) {
        give_one_back(&mut self.by_address, &ip);
        give_one_back(&mut self.by_prefix, &Prefix::of(ip));
        self.all = self.all.saturating_sub(1);
    }
}

fn give_one_back<K: Ord>(held: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(n) = held.get_mut(key) {
        *n -= 1;
        if *n == 0 {
            held.remove(key);
        }
    }
}

/// How much may be taken in a second, by address, by prefix and by all. An address is kept while it is not new, so that
/// there are never more than those that were let in within [`FORGOTTEN`] and the second before.
#[derive(Debug)]
pub(super) struct Rate {
    per_address: Flow,
    per_prefix: Flow,
    per_all: Flow,
    by_address: BTreeMap<IpAddr, Bucket>,
    by_prefix: BTreeMap<Prefix, Bucket>,
    all: Bucket,
    swept: Instant,
}

impl Rate {
    pub(super) fn new(share: Share, now: Instant) -> Self {
        let flow = |most: usize| Flow::per_s(most as u64);
        Self {
            per_address: flow(share.per_address),
            per_prefix: flow(share.per_prefix),
            per_all: flow(share.all),
            by_address: BTreeMap::new(),
            by_prefix: BTreeMap::new(),
            all: Bucket::new(now),
            swept: now,
        }
    }

    /// Addresses that are remembered.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.by_address.len()
    }

    /// True if less than half is left for all.
    pub(super) fn is_low(&self, now: Instant) -> bool {
        self.all.is_low(&self.per_all, now)
    }

    /// Takes one of this address: the second half of what its prefix and all have is for addresses that are new.
    pub(super) fn take(&mut self, ip: IpAddr, now: Instant) -> bool {
        let is_new = |bucket: &Bucket| bucket.idle(now) > FORGOTTEN;
        if now.saturating_duration_since(self.swept) > FORGOTTEN {
            self.by_address.retain(|_, bucket| !is_new(bucket));
            self.by_prefix.retain(|_, bucket| !is_new(bucket));
            self.swept = now;
        }
        let prefix = Prefix::of(ip);
        let here = self.by_address.get(&ip).copied();
        let mut near = self.by_prefix.get(&prefix).copied().unwrap_or_else(|| Bucket::new(now));
        if !here.as_ref().is_none_or(is_new) && (near.is_low(&self.per_prefix, now) || self.is_low(now)) {
            return false;
        }
        let mut mine = here.unwrap_or_else(|| Bucket::new(now));
        if !(mine.take(&self.per_address, 1, now)
            && near.take(&self.per_prefix, 1, now)
            && self.all.take(&self.per_all, 1, now))
        {
            return false;
        }
        self.by_address.insert(ip, mine);
        self.by_prefix.insert(prefix, near);
        true
    }
}
