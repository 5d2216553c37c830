//! The relaying peer's side: for which pairs it passes packets on, and how much of them. It queues nothing: what is over
//! is dropped, and the two ends see it as they see any loss.

use std::collections::BTreeMap;
use std::fmt;

use crate::ids::PeerId;
use crate::via::Via;

/// Pairs that one peer relays for.
const PAIRS_MAX: usize = 32;
/// Pairs of which one peer may be an end, so that nobody uses up all of them.
const PAIRS_OF_PEER_MAX: usize = 8;
/// Time without a packet after which a pair is given up. An end that still wants it asks again.
const IDLE_MS: u64 = 60_000;
/// Depth of the bucket, as time: enough for a burst of one congestion window, too little to fill a router's queue.
const DEPTH_MS: u64 = 25;
/// Least depth, in bytes: a few packets, whatever the rate.
const DEPTH_MIN: u64 = 16 * 1024;
/// Time for which a pair that sent something has a share of its receiver's rate.
const ACTIVE_MS: u64 = 1_000;
/// Packets up to this many bytes are small: control, calls, acknowledgements.
const SMALL_BYTES: u64 = 300;
/// Bytes of small packets of one pair in a second that are passed on whatever else is relayed.
const SMALL_BYTES_PER_S: u64 = 64 * 1024;
/// A bucket counts in thousandths of a byte, so that a low rate is not rounded away between two packets.
const MILLI: u64 = 1_000;

/// The reason for which a peer does not relay, or does not any more. Numbers are said on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// It does not relay for others.
    Declined = 1,
    /// It has no room for another pair, or none for another of this peer's.
    Busy = 2,
    /// It has no link to the other end.
    NotLinked = 3,
    /// One of the two does not belong to the mesh, as it knows it.
    NotMember = 4,
    /// Its own link to one of the two is relayed.
    OneHop = 5,
    /// Nothing was sent for a minute.
    Idle = 6,
}

impl Refusal {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason of this number. One that is not known counts as [`Self::Declined`].
    #[must_use]
    pub const fn of_code(code: u8) -> Self {
        match code {
            2 => Self::Busy,
            3 => Self::NotLinked,
            4 => Self::NotMember,
            5 => Self::OneHop,
            6 => Self::Idle,
            _ => Self::Declined,
        }
    }

    /// True if it may well be otherwise in a moment, through nobody's decision.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::NotLinked | Self::Idle)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Declined => "it does not relay; set `relay.offer` there",
            Self::Busy => "it relays for as many as it can; let another device relay too",
            Self::NotLinked => "it has no link to the other device itself",
            Self::NotMember => "it does not know both devices as members yet",
            Self::OneHop => "its own link to one of the two is relayed",
            Self::Idle => "nothing was sent for a minute",
        })
    }
}

/// Knowledge of an end when a pair is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The peer.
    pub peer: PeerId,
    /// True if it belongs.
    pub member: bool,
    /// The link to it, if there is one.
    pub link: Option<Via>,
}

/// A pair that is relayed for. Its number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug, Clone)]
struct Pair {
    ends: (PeerId, PeerId),
    used_ms: u64,
}

/// One way of a pair.
type Lane = (Ticket, PeerId);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Thousandths of a byte.
    level: u64,
    small: u64,
    at_ms: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Desk {
    offers: bool,
    /// Bytes in a second that are relayed to one peer, shared evenly among the pairs that send to it.
    rate: u64,
    pairs: BTreeMap<Ticket, Pair>,
    buckets: BTreeMap<Lane, Bucket>,
    last: u64,
    refused: u64,
}

impl Desk {
    /// Creates one for a peer that relays, or does not. `rate`: bytes in a second to one peer.
    #[must_use]
    pub fn new(offers: bool, rate: u64) -> Self {
        Self { offers, rate, pairs: BTreeMap::new(), buckets: BTreeMap::new(), last: 0, refused: 0 }
    }

    /// Takes a pair, or says why not. One that is there already is taken again under a new ticket: its ends have lost
    /// the former one, or are about to.
    ///
    /// # Errors
    /// The first reason that holds, in the order of [`Refusal`]'s weight: nothing is told of links to one that does not
    /// belong.
    pub fn open(&mut self, a: Ask, b: Ask, now_ms: u64) -> Result<Ticket, Refusal> {
        self.judge(a, b).inspect_err(|_| self.refused += 1)?;
        self.last += 1;
        let ticket = Ticket(self.last);
        self.pairs.insert(ticket, Pair { ends: ends(a.peer, b.peer), used_ms: now_ms });
        Ok(ticket)
    }

    fn judge(&self, a: Ask, b: Ask) -> Result<(), Refusal> {
        if !self.offers {
            return Err(Refusal::Declined);
        }
        if !a.member || !b.member {
            return Err(Refusal::NotMember);
        }
        if a.peer == b.peer {
            return Err(Refusal::NotLinked);
        }
        match (a.link, b.link) {
            (None, _) | (_, None) => return Err(Refusal::NotLinked),
            (Some(Via::Relayed), _) | (_, Some(Via::Relayed)) => return Err(Refusal::OneHop),
            (Some(Via::Direct), Some(Via::Direct)) => {}
        }
        let of = |peer: PeerId| self.pairs.values().filter(|pair| pair.ends.0 == peer || pair.ends.1 == peer).count();
        // Only the one that asks uses up its share: else a peer could take away another's.
        if self.pairs.len() >= PAIRS_MAX || of(a.peer) >= PAIRS_OF_PEER_MAX {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// The pair is over.
    pub fn close(&mut self, ticket: Ticket) {
        self.pairs.remove(&ticket);
        self.buckets.retain(|(of, _), _| *of != ticket);
    }

    /// The reason for which a pair must end now, if there is one.
    #[must_use]
    pub fn verdict(&self, ticket: Ticket, a: Ask, b: Ask, now_ms: u64) -> Option<Refusal> {
        let Some(pair) = self.pairs.get(&ticket) else { return Some(Refusal::Idle) };
        if !self.offers {
            Some(Refusal::Declined)
        } else if !a.member || !b.member {
            Some(Refusal::NotMember)
        } else if a.link == Some(Via::Relayed) || b.link == Some(Via::Relayed) {
            Some(Refusal::OneHop)
        } else if now_ms >= pair.used_ms + IDLE_MS {
            Some(Refusal::Idle)
        } else {
            None
        }
    }

    /// True if these packets, of `each` bytes but perhaps the last, go on to `to` now; else they are dropped.
    pub fn admit(&mut self, ticket: Ticket, to: PeerId, bytes: u64, each: u64, now_ms: u64) -> bool {
        let Some(pair) = self.pairs.get_mut(&ticket) else { return false };
        pair.used_ms = now_ms;
        let lane = (ticket, to);
        let is_active = |(of, bucket): (&Lane, &Bucket)| of.1 == to && *of != lane && now_ms < bucket.at_ms + ACTIVE_MS;
        let active = 1 + self.buckets.iter().filter(|(of, bucket)| is_active((of, bucket))).count();
        let share = self.rate / u64::try_from(active).unwrap_or(u64::MAX);
        let depth = (share * DEPTH_MS / 1_000).max(DEPTH_MIN) * MILLI;
        let small_depth = SMALL_BYTES_PER_S * MILLI / 4;
        let bucket = self.buckets.entry(lane).or_insert(Bucket { level: depth, small: small_depth, at_ms: now_ms });
        let passed = now_ms.saturating_sub(bucket.at_ms).min(10_000);
        bucket.level = (bucket.level + passed * share).min(depth);
        bucket.small = (bucket.small + passed * SMALL_BYTES_PER_S).min(small_depth);
        bucket.at_ms = now_ms;
        let cost = bytes * MILLI;
        let is_small = each <= SMALL_BYTES;
        let passes = bucket.level >= cost || (is_small && bucket.small >= cost);
        if passes {
            bucket.level = bucket.level.saturating_sub(cost);
            if is_small {
                bucket.small = bucket.small.saturating_sub(cost);
            }
        }
        passes
    }

    /// Pairs that are relayed for now.
    #[must_use]
    pub fn pairs(&self) -> Vec<(PeerId, PeerId)> {
        self.pairs.values().map(|pair| pair.ends).collect()
    }

    /// Pairs that were refused since the start.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }
}

fn ends(a: PeerId, b: PeerId) -> (PeerId, PeerId) {
    if a < b { (a, b) } else { (b, a) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: u64 = 1_000_000;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn end(n: u8) -> Ask {
        Ask { peer: peer(n), member: true, link: Some(Via::Direct) }
    }

    #[test]
    fn a_pair_is_refused_for_the_reason_that_its_ends_can_do_something_about() {
        let mut desk = Desk::new(true, RATE);
        let unlinked = Ask { link: None, ..end(2) };
        let relayed = Ask { link: Some(Via::Relayed), ..end(2) };
        let stranger = Ask { member: false, link: None, ..end(2) };
        assert_eq!(desk.open(end(1), unlinked, 0), Err(Refusal::NotLinked));
        assert_eq!(desk.open(end(1), relayed, 0), Err(Refusal::OneHop));
        assert_eq!(desk.open(Ask { link: Some(Via::Relayed), ..end(1) }, end(2), 0), Err(Refusal::OneHop));
        assert_eq!(desk.open(end(1), stranger, 0), Err(Refusal::NotMember), "links of strangers are nobody's business");
        assert_eq!(desk.open(Ask { member: false, ..end(1) }, end(2), 0), Err(Refusal::NotMember));
        assert_eq!(desk.open(end(1), end(1), 0), Err(Refusal::NotLinked));
        assert_eq!(Desk::new(false, RATE).open(end(1), end(2), 0), Err(Refusal::Declined));
        assert_eq!(desk.refused(), 6);
        assert!(desk.pairs().is_empty());
        assert!(desk.open(end(2), end(1), 0).is_ok());
        assert_eq!(desk.pairs(), [(peer(1), peer(2))]);
    }

    #[test]
    fn nobody_uses_up_the_places_of_others() {
        let mut desk = Desk::new(true, RATE);
        let of_one = (0..100).filter(|n| desk.open(end(1), end(n + 2), 0).is_ok()).count();
        assert_eq!(of_one, PAIRS_OF_PEER_MAX);
        assert_eq!(desk.open(end(1), end(200), 0), Err(Refusal::Busy));
        // One that others asked for as the other end may still ask itself.
        assert!(desk.open(end(2), end(3), 0).is_ok());
        let all: usize = (10..200).filter(|n| desk.open(end(*n), end(n + 1), 0).is_ok()).count();
        assert_eq!(all + of_one + 1, PAIRS_MAX);
    }

    #[test]
    fn a_place_is_free_again_when_its_pair_is_over() {
        let mut desk = Desk::new(true, RATE);
        for round in 0..100 {
            let ticket = desk.open(end(1), end(2), round).unwrap();
            assert!(desk.admit(ticket, peer(2), 1200, 1200, round));
            desk.close(ticket);
            assert!(!desk.admit(ticket, peer(2), 100, 100, round), "nothing is passed on for a pair that is over");
        }
        assert!(desk.pairs().is_empty() && desk.buckets.is_empty());
    }

    #[test]
    fn a_pair_ends_with_what_it_stands_on() {
        let mut desk = Desk::new(true, RATE);
        let ticket = desk.open(end(1), end(2), 0).unwrap();
        assert_eq!(desk.verdict(ticket, end(1), end(2), IDLE_MS - 1), None);
        assert_eq!(desk.verdict(ticket, end(1), end(2), IDLE_MS), Some(Refusal::Idle));
        assert!(desk.admit(ticket, peer(1), 40, 40, IDLE_MS - 1));
        assert_eq!(desk.verdict(ticket, end(1), end(2), IDLE_MS), None);
        let revoked = Ask { member: false, ..end(2) };
        assert_eq!(desk.verdict(ticket, end(1), revoked, 1), Some(Refusal::NotMember));
        let relayed = Ask { link: Some(Via::Relayed), ..end(1) };
        assert_eq!(desk.verdict(ticket, relayed, end(2), 1), Some(Refusal::OneHop));
    }

    /// Bytes of both pairs that came through in ten seconds, each sending four times the rate.
    fn flood(desk: &mut Desk, tickets: &[Ticket]) -> Vec<u64> {
        let mut through = vec![0; tickets.len()];
        for ms in 0..10_000 {
            for (ticket, through) in tickets.iter().zip(&mut through) {
                for _ in 0..4 {
                    if desk.admit(*ticket, peer(9), 1_000, 1_000, ms) {
                        *through += 1_000;
                    }
                }
            }
        }
        through
    }

    #[test]
    fn what_is_over_is_dropped_and_pairs_have_even_shares() {
        let mut desk = Desk::new(true, RATE);
        let alone = desk.open(end(1), end(9), 0).unwrap();
        let through = flood(&mut desk, &[alone])[0];
        assert!((9_900_000..10_100_000).contains(&through), "{through}");
        let mut desk = Desk::new(true, RATE);
        let both = [desk.open(end(1), end(9), 0).unwrap(), desk.open(end(2), end(9), 0).unwrap()];
        for through in flood(&mut desk, &both) {
            assert!((4_900_000..5_200_000).contains(&through), "{through}");
        }
    }

    #[test]
    fn small_packets_are_passed_on_beside_a_flood_up_to_their_own_rate() {
        let mut desk = Desk::new(true, RATE);
        let ticket = desk.open(end(1), end(9), 0).unwrap();
        let (mut calls, mut asked) = (0, 0);
        for ms in 0..10_000 {
            for _ in 0..4 {
                desk.admit(ticket, peer(9), 1_200, 1_200, ms);
            }
            if ms % 10 == 0 {
                asked += 1;
                calls += usize::from(desk.admit(ticket, peer(9), 256, 256, ms));
            }
        }
        assert_eq!(calls, asked, "25 kB in a second of calls");
        // Bulk that is cut into small packets is bulk: no more than the rate and their own comes through.
        let mut bytes = 0;
        for ms in 10_000..20_000 {
            for size in [1_200, 300, 300, 300, 1_200] {
                bytes += if desk.admit(ticket, peer(9), size, size, ms) { size } else { 0 };
            }
        }
        let most = 10 * (RATE + SMALL_BYTES_PER_S) + DEPTH_MIN + RATE * DEPTH_MS / 1_000 + SMALL_BYTES_PER_S;
        assert!(bytes <= most, "{bytes} of {most}");
    }

    proptest! {
        #[test]
        fn no_order_of_asks_passes_the_limits(asks in proptest::collection::vec((0_u8..40, 0_u8..40, any::<bool>()), 0..400)) {
            let mut desk = Desk::new(true, RATE);
            let mut open = Vec::new();
            for (a, b, close) in asks {
                if close && !open.is_empty() {
                    desk.close(open.remove(usize::from(a) % open.len()));
                } else if let Ok(ticket) = desk.open(end(a), end(b), 0) {
                    open.push(ticket);
                }
                prop_assert!(desk.pairs().len() <= PAIRS_MAX);
                prop_assert_eq!(desk.pairs().len(), open.len());
            }
        }
    }
}
