//! The budget of strangers on one underlay: how many handshakes begin, and how many connections of peers that are no
//! members may be open. Each underlay has its own, so that a flood on one starves no other.
//!
//! A budget is shared out by address and by prefix, and the last part of each share is for addresses that have nothing
//! of it yet: who floods uses up its own share, and a device that comes once is let in beside it. Addresses of members
//! have places and handshakes of their own, which no stranger can use up.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::shares::{Held, Rate, Share};

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
    /// The budget of the tailnet underlay: whoever comes by it was let into the tailnet, and has few addresses there.
    pub(super) const TAILNET: Self = Self {
        handshakes_per_s: Share { per_address: 10, per_prefix: 20, all: 20 },
        handshakes_at_once: Share { per_address: 4, per_prefix: 16, all: 16 },
        members_per_s: Share { per_address: 20, per_prefix: 20, all: 20 },
        members_at_once: Share { per_address: 8, per_prefix: 16, all: 16 },
        strangers: Share { per_address: 4, per_prefix: 16, all: 16 },
    };
    /// The budget of the underlay over a node in this program: each packet costs it a waking, and its ring holds three.
    pub(super) const EMBEDDED: Self = Self {
        handshakes_per_s: Share { per_address: 5, per_prefix: 10, all: 10 },
        handshakes_at_once: Share { per_address: 4, per_prefix: 8, all: 8 },
        members_per_s: Share { per_address: 10, per_prefix: 10, all: 10 },
        members_at_once: Share { per_address: 4, per_prefix: 8, all: 8 },
        strangers: Share { per_address: 4, per_prefix: 8, all: 8 },
    };
    /// The budget of the relay underlay: each relay of each peer has an address there, and all of one relay have a prefix.
    /// Only members come by it, to whom a relay has opened a way; strangers have no place. A gateway with fifteen members
    /// that one relay carries takes all of their handshakes at once.
    pub(super) const RELAY: Self = Self {
        handshakes_per_s: Share { per_address: 10, per_prefix: 20, all: 60 },
        handshakes_at_once: Share { per_address: 3, per_prefix: 16, all: 48 },
        members_per_s: Share { per_address: 0, per_prefix: 0, all: 0 },
        members_at_once: Share { per_address: 0, per_prefix: 0, all: 0 },
        strangers: Share { per_address: 0, per_prefix: 0, all: 0 },
    };
}

/// A budget in use.
#[derive(Debug)]
pub(super) struct Strangers {
    limits: Limits,
    used: Mutex<Used>,
}

/// Part of a budget that is used up.
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
pub(super) enum Screening {
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
    pub(super) fn admit(self: &Arc<Self>, knock: Knock, now: Instant) -> Screening {
        let Knock { ip, proven, known } = knock;
        let mut used = self.lock();
        let Limits { handshakes_at_once, .. } = self.limits;
        let busy = used.rate.is_low(now)
            || used.handshakes.all() >= handshakes_at_once.all / 2
            || used.handshakes.of(ip) >= handshakes_at_once.per_address / 2;
        if busy && !proven {
            return Screening::Prove;
        }
        let Used { rate, handshakes, members_rate, members, .. } = &mut *used;
        let of = if known && proven && members.has_room(ip) && members_rate.take(ip, now) {
            members.take(ip);
            Of::Members
        } else if handshakes.has_room(ip) && rate.take(ip, now) {
            handshakes.take(ip);
            Of::Handshakes
        } else {
            return Screening::Ignore;
        };
        Screening::Begin(Place { strangers: self.clone(), of, ip })
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn begun(screenings: impl IntoIterator<Item = Screening>) -> Vec<Place> {
        let begun = |screening| if let Screening::Begin(place) = screening { Some(place) } else { None };
        screenings.into_iter().filter_map(begun).collect()
    }

    #[test]
    fn made_up_addresses_use_up_no_more_than_half() {
        let (strangers, now) = strangers();
        let mut held = Vec::new();
        for n in 0..1000_u32 {
            let made_up = Knock { proven: false, ..at((0x0b00_0000 + (n << 8)).to_be_bytes()) };
            match strangers.admit(made_up, now) {
                Screening::Begin(place) => held.push(place),
                Screening::Prove => {}
                Screening::Ignore => panic!("a bucket that is not empty ignores nobody"),
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
        assert!(matches!(strangers.admit(at([10, 0, 0, 7]), now), Screening::Begin(_)));
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
        assert!(matches!(strangers.admit(at([10, 0, 0, 99]), now), Screening::Begin(_)));
        held.extend(begun((10..=60).map(|n| strangers.admit(at([10, 0, 0, n]), now))));
        assert_eq!(held.len(), Limits::UDP.handshakes_at_once.per_prefix);
        assert!(matches!(strangers.admit(at([192, 168, 0, 7]), now), Screening::Begin(_)));

        // All addresses of an IPv6 network are one prefix.
        let v6 = |n: u16| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n);
        let strangers = Strangers::new(Limits::UDP, now);
        let flood = begun((0..10_000).map(|n| strangers.admit(at(v6(n)), now)));
        assert_eq!(flood.len(), Limits::UDP.handshakes_at_once.per_prefix);
        assert!(matches!(strangers.admit(at([10, 0, 0, 7]), now), Screening::Begin(_)));
    }

    #[test]
    fn s12_members_have_places_that_no_stranger_can_take() {
        let (strangers, now) = strangers();
        let flood = begun((0..10_000_u32).map(|n| strangers.admit(at((0x0b00_0000 + (n << 8)).to_be_bytes()), now)));
        assert_eq!(flood.len(), Limits::UDP.handshakes_at_once.all);
        assert!(matches!(strangers.admit(at([10, 0, 0, 7]), now), Screening::Ignore));
        // Who only says that it is at a member's address must prove it.
        let said = Knock { proven: false, ..member([10, 0, 0, 7]) };
        assert!(matches!(strangers.admit(said, now), Screening::Prove));
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
        assert!(used.rate.addresses() <= 1_100, "{}", used.rate.addresses());
        assert_eq!(used.handshakes.all(), 0);
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
