//! Network interfaces of this machine: which of their addresses are worth telling, and which network each is on.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use mesh_core::ids::Hash;

/// First letters of interfaces that programs make for their containers and virtual machines.
const VIRTUAL: [&str; 10] = ["docker", "br-", "veth", "virbr", "vnet", "cni", "flannel", "podman", "lxc", "lxd"];

/// An interface that is not loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// The kernel's number, which is also the zone of link-local IPv6 addresses.
    pub(super) index: u32,
    /// Addresses, each with the bits of its prefix.
    pub(super) ips: Vec<(IpAddr, u8)>,
    pub(super) usefulness: Usefulness,
}

/// Usefulness of an interface's addresses to others, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Usefulness {
    /// A default route leaves by it.
    DefaultRoute,
    /// A network card, with a carrier.
    Physical,
    /// Another with a carrier: a tunnel, a bridge.
    Other,
    /// Made for containers or virtual machines.
    Virtual,
    /// Nothing is connected to it.
    NoCarrier,
}

/// The facts by which an interface is judged.
#[derive(Debug, Clone, Copy)]
struct Facts<'a> {
    name: &'a str,
    has_carrier: bool,
    has_default_route: bool,
    is_physical: bool,
}

impl Facts<'_> {
    fn usefulness(self) -> Usefulness {
        if !self.has_carrier {
            Usefulness::NoCarrier
        } else if self.has_default_route {
            Usefulness::DefaultRoute
        } else if self.is_physical {
            Usefulness::Physical
        } else if VIRTUAL.iter().any(|prefix| self.name.starts_with(prefix)) {
            Usefulness::Virtual
        } else {
            Usefulness::Other
        }
    }
}

/// The interfaces of this machine, and all of its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interfaces {
    /// By usefulness.
    pub(super) all: Vec<Interface>,
    /// Loopback addresses.
    pub(super) loopback: Vec<IpAddr>,
}

/// Index, carrier, and addresses with the lengths of their prefixes.
type Found = (u32, bool, Vec<(IpAddr, u8)>);

impl Interfaces {
    /// Asks the system.
    pub(super) fn read() -> io::Result<Self> {
        let mut loopback = Vec::new();
        let mut by_name: BTreeMap<String, Found> = BTreeMap::new();
        for found in if_addrs::get_if_addrs()? {
            if found.is_loopback() {
                loopback.push(found.ip());
                continue;
            }
            let bits = match &found.addr {
                if_addrs::IfAddr::V4(v4) => v4.prefixlen,
                if_addrs::IfAddr::V6(v6) => v6.prefixlen,
            };
            let has_carrier = found.is_oper_up();
            let (index, carrier, ips) = by_name.entry(found.name.clone()).or_default();
            *index = found.index.unwrap_or(*index);
            *carrier |= has_carrier;
            ips.push((found.ip(), bits));
        }
        let routes = default_routes();
        let mut all: Vec<Interface> = by_name
            .into_iter()
            .map(|(name, (index, has_carrier, ips))| {
                let facts = Facts {
                    name: &name,
                    has_carrier,
                    has_default_route: routes.iter().any(|route| route.interface == name),
                    is_physical: Path::new("/sys/class/net").join(&name).join("device").exists(),
                };
                let usefulness = facts.usefulness();
                Interface { name, index, ips, usefulness }
            })
            .collect();
        all.sort_by(|a, b| a.usefulness.cmp(&b.usefulness).then_with(|| a.name.cmp(&b.name)));
        Ok(Self { all, loopback })
    }

    /// All addresses of this machine.
    pub(super) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.all.iter().flat_map(|interface| &interface.ips).map(|(ip, _)| *ip).chain(self.loopback.iter().copied())
    }

    /// Addresses at which others may reach this machine, best first; loopback, which only this machine can reach, last.
    /// Link-local ones (of IPv6 without a zone, which means nothing elsewhere) of interfaces that have no other.
    pub(super) fn announced(&self, with_ipv6: bool) -> Vec<IpAddr> {
        let fits = |ip: &IpAddr| with_ipv6 || ip.is_ipv4();
        let told = |interface: &Interface| {
            let ips = || interface.ips.iter().map(|(ip, _)| *ip).filter(fits);
            let mut told: Vec<IpAddr> = ips().filter(|ip| !is_link_local(*ip)).collect();
            if told.is_empty() {
                told = ips().collect();
            }
            told.sort_by(by_family);
            told
        };
        let mut announced: Vec<(bool, IpAddr)> =
            self.all.iter().flat_map(told).map(|ip| (is_link_local(ip), ip)).collect();
        // Stable: within each half they stay in the order of their interfaces.
        announced.sort_by_key(|(is_link_local, _)| *is_link_local);
        let mut loopback: Vec<IpAddr> = self.loopback.iter().copied().filter(fits).collect();
        loopback.sort_by(by_family);
        announced.into_iter().map(|(_, ip)| ip).chain(loopback).collect()
    }

    /// The interface that has this address.
    pub(super) fn with(&self, ip: IpAddr) -> Option<&Interface> {
        self.all.iter().find(|interface| interface.ips.iter().any(|(own, _)| *own == ip))
    }

    /// Zones in which a link-local IPv6 address may be.
    pub(super) fn zones(&self) -> impl Iterator<Item = u32> {
        self.all.iter().filter(|interface| interface.has_link_local_v6()).map(|interface| interface.index)
    }

    /// The interface on whose network an address is. `zone` of a link-local IPv6 address, 0 if it has none.
    pub(super) fn of(&self, ip: IpAddr, zone: u32) -> Option<&Interface> {
        if zone != 0 {
            return self.all.iter().find(|interface| interface.index == zone);
        }
        self.all.iter().find(|interface| interface.ips.iter().any(|(own, bits)| is_in(ip, *own, *bits)))
    }
}

impl Interface {
    pub(super) fn has_ipv4(&self) -> Option<Ipv4Addr> {
        self.ips.iter().find_map(|(ip, _)| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None })
    }

    pub(super) fn has_link_local_v6(&self) -> bool {
        self.ips.iter().any(|(ip, _)| ip.is_ipv6() && is_link_local(*ip))
    }

    /// A number by which the network that this interface is on is known again, here only: from its prefixes, and from
    /// the hardware address of its router, since half of all networks are 192.168.1.0/24. `None` while there is a
    /// router whose address is not known.
    pub(super) fn network(&self) -> Option<Hash> {
        let mut text = Vec::new();
        for (ip, bits) in &self.ips {
            if !is_link_local(*ip) {
                text.push(format!("{}/{bits}", masked(*ip, *bits)));
            }
        }
        text.sort();
        text.dedup();
        if text.is_empty() {
            // Every network without a router or addresses looks alike; the best that there is.
            text.push(format!("link-local on {}", self.name));
        }
        for route in default_routes().iter().filter(|route| route.interface == self.name) {
            text.push(hardware_address(route.gateway)?);
        }
        Some(Hash::of(text.join("\n").as_bytes()))
    }
}

/// IPv4 first: it works on more networks.
fn by_family(a: &IpAddr, b: &IpAddr) -> Ordering {
    a.is_ipv6().cmp(&b.is_ipv6()).then_with(|| a.cmp(b))
}

pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

fn is_in(ip: IpAddr, own: IpAddr, bits: u8) -> bool {
    ip.is_ipv4() == own.is_ipv4() && masked(ip, bits) == masked(own, bits)
}

/// A default route.
#[derive(Debug, PartialEq, Eq)]
struct Route {
    interface: String,
    /// Unspecified for IPv6, whose routers are told apart by the prefixes that they give.
    gateway: Ipv4Addr,
}

/// The default routes; none where the system has no such files.
fn default_routes() -> Vec<Route> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = parse_routes_v4(&read("/proc/net/route"));
    routes.extend(parse_routes_v6(&read("/proc/net/ipv6_route")));
    routes
}

fn parse_routes_v4(text: &str) -> Vec<Route> {
    let route = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (interface, to, gateway) = (words.next()?, words.next()?, words.next()?);
        // The kernel writes the four bytes as a number of this machine.
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        let mask = words.nth(4)?;
        (to == "00000000" && mask == "00000000").then(|| Route { interface: interface.to_owned(), gateway })
    };
    text.lines().filter_map(route).collect()
}

fn parse_routes_v6(text: &str) -> Vec<Route> {
    let route = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [to, bits, .., interface] = words.as_slice() else { return None };
        let is_default = *bits == "00" && to.bytes().all(|byte| byte == b'0') && *interface != "lo";
        is_default.then(|| Route { interface: (*interface).to_owned(), gateway: Ipv4Addr::UNSPECIFIED })
    };
    text.lines().filter_map(route).collect()
}

/// The hardware address of a router; empty for a route without one.
fn hardware_address(router: Ipv4Addr) -> Option<String> {
    if router.is_unspecified() {
        return Some(String::new());
    }
    parse_hardware_address(&std::fs::read_to_string("/proc/net/arp").unwrap_or_default(), router)
}

fn parse_hardware_address(text: &str, router: Ipv4Addr) -> Option<String> {
    let router = router.to_string();
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let found = (words.next()? == router).then(|| words.nth(2)).flatten()?;
        (found != "00:00:00:00:00:00").then(|| found.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, ips: &[&str], has_carrier: bool, has_default_route: bool) -> Interface {
        let facts = Facts { name, has_carrier, has_default_route, is_physical: name.starts_with("en") };
        let ips = ips.iter().map(|text| {
            let (ip, bits) = text.split_once('/').unwrap();
            (ip.parse().unwrap(), bits.parse().unwrap())
        });
        Interface { name: name.to_owned(), index: 2, ips: ips.collect(), usefulness: facts.usefulness() }
    }

    fn interfaces(mut all: Vec<Interface>) -> Interfaces {
        all.sort_by_key(|interface| interface.usefulness);
        Interfaces { all, loopback: ["::1", "127.0.0.1"].map(|ip| ip.parse().unwrap()).to_vec() }
    }

    fn announced(all: Vec<Interface>) -> Vec<String> {
        interfaces(all).announced(true).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn b05_the_address_of_the_lan_comes_before_those_of_bridges() {
        let mut all: Vec<Interface> = (17..32)
            .map(|n| interface(&format!("br-{n}"), &[&format!("172.{n}.0.1/16"), "fe80::9/64"], false, false))
            .collect();
        all.push(interface("br-w", &["10.8.0.1/24"], false, false));
        all.push(interface("docker0", &["172.16.0.1/16"], true, false));
        all.push(interface("wg0", &["10.9.0.1/24"], true, false));
        all.push(interface("eth0", &["192.168.50.1/24", "fe80::1/64", "fd00::7/64"], true, false));
        all.push(interface("enp3s0", &["192.168.60.1/24"], true, false));
        all.push(interface("wlan0", &["192.168.70.1/24"], true, true));
        let told = announced(all);
        assert_eq!(told[..5], ["192.168.70.1", "192.168.60.1", "10.9.0.1", "192.168.50.1", "fd00::7"]);
        assert_eq!(told[5], "172.16.0.1");
        assert_eq!(told[told.len() - 2..], ["127.0.0.1", "::1"]);
        assert!(!told.iter().any(|ip| ip.starts_with("fe80")), "{told:?}");
    }

    #[test]
    fn b19_link_local_addresses_are_told_where_there_are_no_others() {
        let told = announced(vec![
            interface("eth0", &["169.254.7.7/16", "fe80::1/64"], true, false),
            interface("eth1", &["10.0.0.1/24", "fe80::2/64"], true, false),
        ]);
        assert_eq!(told, ["10.0.0.1", "169.254.7.7", "fe80::1", "127.0.0.1", "::1"]);
        let none = interfaces(Vec::new());
        assert!(none.announced(true).iter().all(IpAddr::is_loopback));
        assert_eq!(none.announced(false).len(), 1);
    }

    #[test]
    fn an_address_belongs_to_the_interface_on_whose_network_it_is() {
        let mut lan = interface("eth0", &["192.168.1.7/24", "fe80::1/64"], true, true);
        lan.index = 3;
        let all = interfaces(vec![lan, interface("wg0", &["10.9.0.1/16"], true, false)]);
        let of = |ip: &str, zone| all.of(ip.parse().unwrap(), zone).map(|interface| interface.name.as_str());
        assert_eq!(of("192.168.1.200", 0), Some("eth0"));
        assert_eq!(of("10.9.77.1", 0), Some("wg0"));
        assert_eq!(of("fe80::99", 3), Some("eth0"));
        assert_eq!(of("8.8.8.8", 0), None);
        assert_eq!(of("2001:db8::1", 0), None);
    }

    #[test]
    fn routes_and_the_address_of_a_router_are_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        let routes = parse_routes_v4(table);
        assert_eq!(routes.len(), 1);
        if cfg!(target_endian = "little") {
            assert_eq!(routes[0].gateway, Ipv4Addr::new(192, 168, 1, 1));
        }
        let zero = "0".repeat(32);
        let line = |to: &str, bits: &str, name: &str| {
            format!("{to} {bits} {zero} 00 fe800000000000000000000000000001 00000400 1 0 00450003 {name}\n")
        };
        let table = line(&zero, "00", "wlan0") + &line(&zero, "00", "lo") + &line("fe80", "40", "eth0");
        assert_eq!(parse_routes_v6(&table).len(), 1);
        let arp = "IP address       HW type     Flags       HW address            Mask     Device\n\
            192.168.1.1      0x1         0x2         aa:bb:cc:dd:ee:ff     *        eth0\n\
            192.168.1.2      0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        let of = |n| parse_hardware_address(arp, Ipv4Addr::new(192, 168, 1, n));
        assert_eq!(of(1).as_deref(), Some("aa:bb:cc:dd:ee:ff"));
        assert_eq!((of(2), of(3)), (None, None));
    }

    #[test]
    fn no_table_of_the_kernel_panics() {
        for text in ["", "\n", "a", "a b c d e f g h", "eth0 0 0 0 0 0 0 0", "\u{fffd} \t 00"] {
            parse_routes_v4(text);
            parse_routes_v6(text);
            parse_hardware_address(text, Ipv4Addr::LOCALHOST);
        }
    }
}
