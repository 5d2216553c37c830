//! Hole punching: when two that are relayed try each other directly, at the address at which their relay sees the other.
//!
//! Most routers let in what comes from where something was sent just before. So both ends dial in the same moment: the
//! relay tells each where it sees the other, and rounds are counted from then on, at both. Whoever relays may tell any
//! address, so that what is sent there is bounded: a round is a handful of first packets of a connection, rounds of one
//! peer and of all have a rate, and addresses that are no device's on a network are left out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::ids::PeerId;

/// Times of the rounds after the relay told the address. The first finds both ends at work, the second mends a first
/// that was too early for one of the routers; later ones are for routers that changed.
pub const ROUNDS_MS: [u64; 4] = [0, 2_000, 30_000, 120_000];
/// Least time between two rounds to one peer, but for [`PEER_AHEAD`] of them: two relays tell an address each.
const PEER_EVERY_MS: u64 = 5_000;
const PEER_AHEAD: u64 = 4;
/// The same for all peers.
const ALL_EVERY_MS: u64 = 1_000;
const ALL_AHEAD: u64 = 32;
/// Peers that are remembered.
const REMEMBERED_MAX: usize = 256;
/// Ports below are of services, and not where a router lets devices out.
const PORT_MIN: u16 = 1024;

/// True if this may be where a router lets a device out: an address of one device, on a network.
#[must_use]
pub fn may_be_punched(address: SocketAddr) -> bool {
    let is_of_one = match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            let is_reserved = first == 0 || first >= 240;
            !(is_reserved || ip.is_loopback() || ip.is_multicast() || ip.is_link_local() || ip.octets()[3] == 255)
        }
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local()),
    };
    is_of_one && address.port() >= PORT_MIN
}

/// Rounds that may be begun.
#[derive(Debug, Clone, Default)]
pub struct Punches {
    /// Until when what was begun is paid for, by peer.
    of_peers: BTreeMap<PeerId, u64>,
    all_ms: u64,
}

impl Punches {
    /// True if a round to this peer may begin now; then it does.
    pub fn begin(&mut self, peer: PeerId, now_ms: u64) -> bool {
        if self.of_peers.len() >= REMEMBERED_MAX {
            self.of_peers.retain(|_, until| *until > now_ms);
        }
        let of_peer = self.of_peers.get(&peer).copied().unwrap_or_default().max(now_ms) + PEER_EVERY_MS;
        let of_all = self.all_ms.max(now_ms) + ALL_EVERY_MS;
        let is_free = of_peer <= now_ms + PEER_AHEAD * PEER_EVERY_MS && of_all <= now_ms + ALL_AHEAD * ALL_EVERY_MS;
        if is_free && (self.of_peers.len() < REMEMBERED_MAX || self.of_peers.contains_key(&peer)) {
            self.of_peers.insert(peer, of_peer);
            self.all_ms = of_all;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    #[test]
    fn only_addresses_of_one_device_on_a_network_are_punched() {
        let may = |text: &str| may_be_punched(text.parse().unwrap());
        for good in ["203.0.113.7:7433", "192.168.1.7:1024", "[2001:db8::7]:40000", "[::ffff:203.0.113.7]:7433"] {
            assert!(may(good), "{good}");
        }
        for bad in [
            "127.0.0.1:7433",
            "[::1]:7433",
            "[::ffff:127.0.0.1]:7433",
            "0.0.0.0:7433",
            "0.1.2.3:7433",
            "224.0.0.251:5353",
            "255.255.255.255:7433",
            "192.168.1.255:7433",
            "240.0.0.1:7433",
            "169.254.169.254:8080",
            "[fe80::7]:7433",
            "[ff02::fb]:5353",
            "[::]:7433",
            "203.0.113.7:53",
            "203.0.113.7:0",
        ] {
            assert!(!may(bad), "{bad}");
        }
    }

    #[test]
    fn a_relay_that_tells_addresses_without_end_sends_nobody_many_packets() {
        let mut punches = Punches::default();
        let mut begun = BTreeMap::<PeerId, usize>::new();
        for now in (0..60_000).step_by(10) {
            for n in 0..10 {
                if punches.begin(peer(n), now) {
                    *begun.entry(peer(n)).or_default() += 1;
                }
            }
        }
        let all: usize = begun.values().sum();
        assert!((60..=92).contains(&all), "one a second, and what is ahead: {all}");
        assert!(begun.values().all(|of_one| *of_one <= 16), "{begun:?}");
    }

    #[test]
    fn two_relays_may_tell_an_address_each_and_both_are_tried_twice() {
        let mut punches = Punches::default();
        let begun = [0, 10, 2_000, 2_010, 2_020].map(|now| punches.begin(peer(1), now));
        assert_eq!(begun, [true, true, true, true, false]);
        assert!(punches.begin(peer(2), 2_020), "others have rounds of their own");
    }
}
