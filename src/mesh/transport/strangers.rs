//! The budget of strangers on one underlay: how many handshakes begin, and how many connections of peers that are no
//! members may be open. Each underlay has its own, so that a flood on one starves no other.
//!
//! A budget is shared out by address and by prefix, and the last part of each share is for addresses that have nothing
//! of it yet: who floods uses up its own share, and a device that comes once is let in beside it. Addresses of members
//! have places and handshakes of their own, which no stranger can use up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::address::Prefix;

/// The most that may be had of something: by one address, by one prefix, and by all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    per_address: usize,
    per_prefix: usize,
    all: usize,
}

/// The size of a budget.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Handshakes begun per second, and in a burst.
    handshakes_per_s: Share,
    /// Handshakes under way at once. From half of them on, an address must first prove that it can receive
    /// (RFC 9000 §8.1.2).
    handshakes_at_once: Share,
    /// The same two for addresses of members that have proven that they can receive, besides those above.
    members_per_s: Share,
    members_at_once: Share,
    /// Connections of strangers at once.
    strangers: Share,
}

impl Limits {
    /// The budget of the direct UDP underlay. A mesh that starts as a whole needs 16 handshakes, all of one address if
    /// it is behind a router that translates addresses; a flood gets no answer.
    pub(super) const UDP: Self = Self {
        handshakes_per_s: Share { per_address: 20, per_prefix: 40, all: 50 },
        handshakes_at_once: Share { per_address: 8, per_prefix: 36, all: 48 },
        members_per_s: Share { per_address: 50, per_prefix: 50, all: 50 },
        members_at_once: Share { per_address: 16, per_prefix: 16, all: 16 },
        strangers: Share { per_address: 8, per_prefix: 24, all: 32 },
    };
}

/// Time after which an address that began a handshake counts as new again.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// A budget in use.
#[derive(Debug)]
pub(super) struct Strangers {
    limits: Limits,
    used: Mutex<Used>,
}

/// What is used up of a budget.
#[derive(Debug)]
struct Used {
    rate: Rate,
    handshakes: Held,
    members_rate: Rate,
    members: Held,
    strangers: Held,
}

/// A handshake that wants to begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Knock {
    /// Where it comes from, as IPv4 where it is that.
    pub(super) ip: IpAddr,
    /// The address has proven that it can receive. One that has not may be asked to.
    pub(super) proven: bool,
    /// A member is said to be at this address, or was seen there.
    pub(super) known: bool,
}

/// The answer to a first packet.
#[derive(Debug)]
pub(super) enum Admission {
    /// Its handshake may begin; it is under way for as long as the place is held.
    Begin(Place),
    /// Its address must first prove that it can receive.
    Prove,
    /// There is no room, and no answer.
    Ignore,
}

/// The shares of which a place may be one.
#[derive(Debug, Clone, Copy)]
enum Of {
    Handshakes,
    Members,
    Strangers,
}

impl Strangers {
    pub(super) fn new(limits: Limits, now: Instant) -> Arc<Self> {
        let used = Used {
            rate: Rate::new(limits.handshakes_per_s, now),
            handshakes: Held::new(limits.handshakes_at_once),
            members_rate: Rate::new(limits.members_per_s, now),
            members: Held::new(limits.members_at_once),
            strangers: Held::new(limits.strangers),
        };
        Arc::new(Self { limits, used: Mutex::new(used) })
    }

    /// Decides about a handshake that wants to begin. Addresses that have proven that they can receive go first: a
    /// flood from made-up ones uses up neither tokens nor places below the half of them, nor more than half of what is
    /// of the address that it pretends to be.
    pub(super) fn admit(self: &Arc<Self>, knock: Knock, now: Instant) -> Admission {
        let Knock { ip, proven, known } = knock;
        let mut used = self.lock();
        let Limits { handshakes_at_once, .. } = self.limits;
        let busy = used.rate.is_low(now)
            || used.handshakes.all >= handshakes_at_once.all / 2
            || used.handshakes.of(ip) >= handshakes_at_once.per_address / 2;
        if busy && !proven {
            return Admission::Prove;
        }
        let Used { rate, handshakes, members_rate, members, .. } = &mut *used;
        let of = if known && proven && members.has_room(ip) && members_rate.take(ip, now) {
            members.take(ip);
            Of::Members
        } else if handshakes.has_room(ip) && rate.take(ip, now) {
            handshakes.take(ip);
            Of::Handshakes
        } else {
            return Admission::Ignore;
        };
        Admission::Begin(Place { strangers: self.clone(), of, ip })
    }

    /// Gives a stranger at this address a place, if there is one.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let mut used = self.lock();
        used.strangers.has_room(ip).then(|| {
            used.strangers.take(ip);
            Place { strangers: self.clone(), of: Of::Strangers, ip }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place of a budget; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    strangers: Arc<Strangers>,
    of: Of,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut used = self.strangers.lock();
        match self.of {
            Of::Handshakes => used.handshakes.give_back(self.ip),
            Of::Members => used.members.give_back(self.ip),
            Of::Strangers => used.strangers.give_back(self.ip),
        }
    }
}

/// Places that are held, and by whom.
#[derive(Debug)]
struct Held {
    share: Share,
    by_address: BTreeMap<IpAddr, usize>,
    by_prefix: BTreeMap<Prefix, usize>,
    all: usize,
}

impl Held {
    fn new(share: Share) -> Self {
        Self { share, by_address: BTreeMap::new(), by_prefix: BTreeMap::new(), all: 0 }
    }

    fn of(&self, ip: IpAddr) -> usize {
        self.by_address.get(&ip).copied().unwrap_or_default()
    }

    /// True if this address may have one more: the last quarter is for those that have none.
    fn has_room(&self, ip: IpAddr) -> bool {
        let Share { per_address, per_prefix, all } = self.share;
        let mine = self.of(ip);
        let usable = |most: usize| if mine == 0 { most } else { most - most / 4 };
        let here = self.by_prefix.get(&Prefix::of(ip)).copied().unwrap_or_default();
        mine < per_address && here < usable(per_prefix) && self.all < usable(all)
    }

    fn take(&mut self, ip: IpAddr) {
        *self.by_address.entry(ip).or_default() += 1;
        *self.by_prefix.entry(Prefix::of(ip)).or_default() += 1;
        self.all += 1;
    }

    fn give_back(&mut self, ip: IpAddr) {
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
struct Rate {
    share: Share,
    by_address: BTreeMap<IpAddr, Bucket>,
    by_prefix: BTreeMap<Prefix, Bucket>,
    all: Bucket,
    swept: Instant,
}

impl Rate {
    fn new(share: Share, now: Instant) -> Self {
        let all = Bucket::new(share.all, now);
        Self { share, by_address: BTreeMap::new(), by_prefix: BTreeMap::new(), all, swept: now }
    }

    /// True if less than half is left for all.
    fn is_low(&mut self, now: Instant) -> bool {
        self.all.is_low(now)
    }

    /// Takes a token of this address: the lower half of what its prefix and all have is for addresses that are new.
    fn take(&mut self, ip: IpAddr, now: Instant) -> bool {
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

    fn strangers() -> (Arc<Strangers>, Instant) {
        let now = Instant::now();
        (Strangers::new(Limits::UDP, now), now)
    }

    fn at(ip: impl Into<IpAddr>) -> Knock {
        Knock { ip: ip.into(), proven: true, known: false }
    }

    fn member(ip: impl Into<IpAddr>) -> Knock {
        Knock { known: true, ..at(ip) }
    }

    /// Places of those that may begin, out of so many.
    fn begun(admissions: impl IntoIterator<Item = Admission>) -> Vec<Place> {
        let begun = |admission| if let Admission::Begin(place) = admission { Some(place) } else { None };
        admissions.into_iter().filter_map(begun).collect()
    }

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
        let (strangers, now) = strangers();
        let mut held = Vec::new();
        for n in 0..1000_u32 {
            let made_up = Knock { proven: false, ..at((0x0b00_0000 + (n << 8)).to_be_bytes()) };
            match strangers.admit(made_up, now) {
                Admission::Begin(place) => held.push(place),
                Admission::Prove => {}
                Admission::Ignore => panic!("a bucket that is not empty ignores nobody"),
            }
        }
        assert_eq!(held.len(), 24);
        // Those that can receive still get in.
        let proven = begun((0..24).map(|n| strangers.admit(at([10, n, 0, 1]), now)));
        assert_eq!(proven.len(), 24);
    }

    #[test]
    fn s12_one_address_cannot_keep_out_another() {
        let (strangers, now) = strangers();
        let flood = begun((0..10_000).map(|_| strangers.admit(at([10, 0, 0, 66]), now)));
        assert_eq!(flood.len(), Limits::UDP.handshakes_at_once.per_address);
        // Nor by handshakes that end at once, for as long as it likes.
        let mut now = now;
        for _ in 0..1_000 {
            now += Duration::from_millis(3);
            for _ in 0..10 {
                drop(strangers.admit(at([10, 0, 0, 66]), now));
            }
        }
        assert!(matches!(strangers.admit(at([10, 0, 0, 7]), now), Admission::Begin(_)));
    }

    #[test]
    fn s12_many_addresses_of_one_network_leave_room_for_one_more_and_for_other_networks() {
        let (strangers, start) = strangers();
        let mut now = start;
        let mut held = Vec::new();
        for _ in 0..1_000 {
            now += Duration::from_millis(3);
            held.extend(begun((1..=8).map(|n| strangers.admit(at([10, 0, 0, n]), now))));
        }
        assert_eq!(held.len(), 27, "the last quarter of a prefix is for addresses that have nothing");
        assert!(matches!(strangers.admit(at([10, 0, 0, 99]), now), Admission::Begin(_)));
        held.extend(begun((10..=60).map(|n| strangers.admit(at([10, 0, 0, n]), now))));
        assert_eq!(held.len(), Limits::UDP.handshakes_at_once.per_prefix);
        assert!(matches!(strangers.admit(at([192, 168, 0, 7]), now), Admission::Begin(_)));

        // All addresses of an IPv6 network are one prefix.
        let v6 = |n: u16| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n);
        let strangers = Strangers::new(Limits::UDP, now);
        let flood = begun((0..10_000).map(|n| strangers.admit(at(v6(n)), now)));
        assert_eq!(flood.len(), Limits::UDP.handshakes_at_once.per_prefix);
        assert!(matches!(strangers.admit(at([10, 0, 0, 7]), now), Admission::Begin(_)));
    }

    #[test]
    fn s12_members_have_places_that_no_stranger_can_take() {
        let (strangers, now) = strangers();
        let flood = begun((0..10_000_u32).map(|n| strangers.admit(at((0x0b00_0000 + (n << 8)).to_be_bytes()), now)));
        assert_eq!(flood.len(), Limits::UDP.handshakes_at_once.all);
        assert!(matches!(strangers.admit(at([10, 0, 0, 7]), now), Admission::Ignore));
        // Who only says that it is at a member's address must prove it.
        let said = Knock { proven: false, ..member([10, 0, 0, 7]) };
        assert!(matches!(strangers.admit(said, now), Admission::Prove));
        let mesh = begun((0..16).map(|n| strangers.admit(member([10, 0, 0, n]), now)));
        assert_eq!(mesh.len(), 16);
    }

    #[test]
    fn who_was_let_in_is_remembered_only_for_a_while() {
        let (strangers, mut now) = strangers();
        for n in 0..100_000_u32 {
            now += Duration::from_millis(20);
            drop(strangers.admit(at((0x0b00_0000 + (n << 8)).to_be_bytes()), now));
        }
        let used = strangers.lock();
        assert!(used.rate.by_address.len() <= 1_100, "{}", used.rate.by_address.len());
        assert!(used.handshakes.by_address.is_empty() && used.handshakes.by_prefix.is_empty());
    }

    #[test]
    fn one_address_cannot_take_all_places_of_strangers() {
        let (strangers, _) = strangers();
        let places: Vec<_> = (0..100).filter_map(|_| strangers.enter([10, 0, 0, 1].into())).collect();
        assert_eq!(places.len(), Limits::UDP.strangers.per_address);
        let others: Vec<_> = (2..=100).filter_map(|n| strangers.enter([10, 0, 0, n].into())).collect();
        assert_eq!(others.len(), Limits::UDP.strangers.per_prefix - Limits::UDP.strangers.per_address);
        let away: Vec<_> = (0..100).filter_map(|n| strangers.enter([192, 168, n, 1].into())).collect();
        assert_eq!(away.len(), Limits::UDP.strangers.all - Limits::UDP.strangers.per_prefix);
        drop(places);
        assert!(strangers.enter([10, 0, 0, 1].into()).is_some());
    }
}
