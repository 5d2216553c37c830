//! Where an address leads. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Out, to anybody.
    Public,
    /// Into the networks of this house: RFC 1918, and unique local addresses (RFC 4193).
    House,
    /// Nowhere that a name should lead: the word for it.
    Closed(&'static str),
}

/// Where an address leads (IANA's registries of special-purpose addresses).
#[must_use]
pub fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(address) => place_v4(address),
        IpAddr::V6(address) => place_v6(address),
    }
}

fn place_v4(address: Ipv4Addr) -> Place {
    match address.octets() {
        [0, ..] => Place::Closed("this network"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Place::House,
        [127, ..] => Place::Closed("loopback"),
        [100, 64..=127, ..] => Place::Closed("shared (RFC 6598)"),
        // With the services by which machines in clouds learn their secrets.
        [169, 254, ..] => Place::Closed("link-local"),
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Place::Closed("reserved")
        }
        [224..=239, ..] => Place::Closed("multicast"),
        [240..=255, ..] => Place::Closed("reserved"),
        _ => Place::Public,
    }
}

fn place_v6(address: Ipv6Addr) -> Place {
    let [first, second, third, fourth, fifth, sixth, high, low] = address.segments();
    let within = |high: u16, low: u16| {
        let ([one, two], [three, four]) = (high.to_be_bytes(), low.to_be_bytes());
        // What is wrapped is let through only where it leads out.
        match place_v4(Ipv4Addr::new(one, two, three, four)) {
            Place::Public => Place::Public,
            Place::House => Place::Closed("a private address in another form"),
            Place::Closed(what) => Place::Closed(what),
        }
    };
    match (first, second, third, fourth) {
        _ if address.is_unspecified() => Place::Closed("this network"),
        _ if address.is_loopback() => Place::Closed("loopback"),
        // Mapped (::ffff:0:0/96), and the older forms of the same.
        (0, ..) => match address.to_ipv4() {
            Some(_) => within(high, low),
            None => Place::Closed("reserved"),
        },
        // NAT64 (RFC 6052), and its local form (RFC 8215), whose meaning is not known here.
        (0x64, 0xff9b, 0, 0) if (fifth, sixth) == (0, 0) => within(high, low),
        (0x64, 0xff9b, ..) => Place::Closed("a private address in another form"),
        // 6to4 (RFC 3056).
        (0x2002, high, low, _) => within(high, low),
        // Protocol assignments (RFC 2928), Teredo among them; documentation.
        (0x2001, 0..=0x1ff | 0xdb8, ..) | (0x3fff, 0..=0xfff, ..) => Place::Closed("reserved"),
        (0xfc00..=0xfdff, ..) => Place::House,
        (0xfe80..=0xfebf, ..) => Place::Closed("link-local"),
        (0xff00..=0xffff, ..) => Place::Closed("multicast"),
        (0x2000..=0x3fff, ..) => Place::Public,
        _ => Place::Closed("reserved"),
    }
}

/// True if the first `bits` of both are the same.
pub(super) fn is_in(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    let shared = |a: u128, b: u128, width: u32| {
        let off = width.saturating_sub(bits.into());
        a.checked_shr(off).unwrap_or(0) == b.checked_shr(off).unwrap_or(0)
    };
    match (address, net) {
        (IpAddr::V4(a), IpAddr::V4(b)) => shared(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => shared(a.to_bits(), b.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_out_is_public() {
        for public in ["1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:2800::1", "64:ff9b::101:101"] {
            assert_eq!(place(public.parse().unwrap()), Place::Public, "{public}");
        }
        for house in ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.7", "fd00::1", "fc00::1"] {
            assert_eq!(place(house.parse().unwrap()), Place::House, "{house}");
        }
        for closed in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.9",
            "100.64.0.1",
            "169.254.169.254",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.251",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "64:ff9b::1:0:808:808",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::fb",
            "4000::1",
            "100::1",
        ] {
            assert!(matches!(place(closed.parse().unwrap()), Place::Closed(_)), "{closed}");
        }
    }

    #[test]
    fn a_net_has_the_addresses_that_begin_as_it_does() {
        let is = |address: &str, net: &str, bits| is_in(address.parse().unwrap(), net.parse().unwrap(), bits);
        assert!(is("10.9.8.7", "10.0.0.0", 8) && !is("11.0.0.1", "10.0.0.0", 8));
        assert!(is("1.2.3.4", "9.9.9.9", 0) && is("::1", "fd00::", 0) && !is("::1", "0.0.0.0", 0));
        assert!(is("fd00::1", "fd00::1", 128) && !is("fd00::2", "fd00::1", 128));
        assert!(is("192.168.1.7", "192.168.1.7", 32) && !is("192.168.1.8", "192.168.1.7", 32));
        assert!(!is("::ffff:10.0.0.1", "10.0.0.0", 8), "another form is another address");
    }
}
