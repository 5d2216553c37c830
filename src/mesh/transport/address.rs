//! Addresses of peers: where one may be reached, over which underlay, and how that is written.
//!
//! The text form goes into directory records and command lines: `192.168.1.7:7433` and `[fd00::1]:7433` (direct UDP),
//! `udp://home.example.org:7433` (the same, by name), `tailnet://100.64.0.3:7435`, `relay://<peer id>@<address>`. A
//! text of another form is kept as it is, so that a newer version's address survives us, and is never dialled.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use mesh_core::ids::PeerId;

/// Longest host name, in bytes (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

const UDP: &str = "udp://";
const TAILNET: &str = "tailnet://";
const RELAY: &str = "relay://";

/// An address of a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A UDP socket.
    Udp(SocketAddr),
    /// A UDP socket on a host that is looked up when it is dialled.
    UdpName(HostPort),
    /// A socket on a tailnet.
    Tailnet(SocketAddr),
    /// By way of another peer.
    Relay {
        /// The peer that forwards.
        by: PeerId,
        /// An address of that peer; never a relay itself.
        at: Box<Address>,
    },
    /// A text that is no address here. Kept and never dialled.
    Unknown(String),
}

impl From<SocketAddr> for Address {
    fn from(socket: SocketAddr) -> Self {
        Self::Udp(socket)
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        parse(text).unwrap_or_else(|| Self::Unknown(text.to_owned()))
    }
}

impl FromStr for Address {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl Address {
    /// The IP address that it says, if it says one. IPv4 as IPv4.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Udp(socket) | Self::Tailnet(socket) => Some(socket.ip().to_canonical()),
            Self::UdpName(_) | Self::Relay { .. } | Self::Unknown(_) => None,
        }
    }
}

fn parse(text: &str) -> Option<Address> {
    if let Some(socket) = parse_socket(text) {
        return Some(Address::Udp(socket));
    }
    if let Some(rest) = text.strip_prefix(UDP) {
        return parse_socket(rest).map(Address::Udp).or_else(|| rest.parse().map(Address::UdpName).ok());
    }
    if let Some(rest) = text.strip_prefix(TAILNET) {
        return rest.parse().map(Address::Tailnet).ok();
    }
    let (by, at) = text.strip_prefix(RELAY)?.split_once('@')?;
    match parse(at)? {
        Address::Relay { .. } | Address::Unknown(_) => None,
        at @ (Address::Udp(_) | Address::UdpName(_) | Address::Tailnet(_)) => {
            Some(Address::Relay { by: by.parse().ok()?, at: Box::new(at) })
        }
    }
}

/// Reads a socket; the zone of a link-local address may be the number of an interface or its name.
fn parse_socket(text: &str) -> Option<SocketAddr> {
    if let Ok(socket) = text.parse() {
        return Some(socket);
    }
    let (ip, rest) = text.strip_prefix('[')?.split_once('%')?;
    let (zone, port) = rest.split_once("]:")?;
    let (ip, port) = (ip.parse().ok()?, port.parse().ok()?);
    let index = interface_names().into_iter().find(|(_, name)| name == zone)?.0;
    Some(SocketAddrV6::new(ip, port, 0, index).into())
}

/// Interfaces that are up, by number.
fn interface_names() -> Vec<(u32, String)> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    all.into_iter().filter_map(|interface| Some((interface.index?, interface.name))).collect()
}

/// The reason for which a text that a person gave is no address. Fit for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAddress {
    /// Neither an IP address nor a host name, with or without a port.
    #[error(
        "`{0}` is no address: give an IP address or a host name, with or without a port, such as 192.168.1.20, \
         nas.local:7433, [fd00::7]:7433 or fe80::7%eth0"
    )]
    Form(String),
    /// A zone that is no interface of this device.
    #[error("this device has no interface `{zone}`; it has {}", there.join(", "))]
    Zone {
        /// The zone.
        zone: String,
        /// Interfaces that are up.
        there: Vec<String>,
    },
    /// A kind that is not dialled by people.
    #[error("`{0}` cannot be dialled: give an IP address or a host name")]
    Kind(String),
}

impl Address {
    /// Reads an address as people give it: IP address or host name, with or without a port, IPv6 with or without
    /// brackets and with the name or number of an interface as its zone.
    ///
    /// # Errors
    /// See [`InvalidAddress`].
    pub fn of_person(text: &str, default_port: u16) -> Result<Self, InvalidAddress> {
        let text = text.trim();
        let form = || InvalidAddress::Form(text.chars().take(HOST_BYTES_MAX).collect());
        let bare = text.strip_prefix(UDP).unwrap_or(text);
        let found = match Self::from(bare) {
            Self::Unknown(_) => {
                let inner = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(bare);
                let with_port = [format!("{bare}:{default_port}"), format!("[{inner}]:{default_port}")];
                let socket = with_port.iter().find_map(|text| parse_socket(text)).map(Self::Udp);
                let name = || bare.parse().ok().or_else(|| with_port.first()?.parse().ok()).map(Self::UdpName);
                socket.or_else(name)
            }
            Self::Tailnet(_) | Self::Relay { .. } => return Err(InvalidAddress::Kind(text.to_owned())),
            found @ (Self::Udp(_) | Self::UdpName(_)) => Some(found),
        };
        match found {
            // A host name that is all digits and dots is an IP address with a typing error.
            Some(Self::UdpName(name)) if name.host().bytes().all(|byte| byte == b'.' || byte.is_ascii_digit()) => {
                Err(form())
            }
            Some(Self::Udp(socket)) if socket.port() == 0 || socket.ip().is_unspecified() => Err(form()),
            Some(found) => Ok(found),
            None => match text.split_once('%').map(|(_, rest)| rest.split(']').next().unwrap_or(rest)) {
                Some(zone) if !zone.is_empty() => {
                    let mut there: Vec<String> = interface_names().into_iter().map(|(_, name)| name).collect();
                    there.sort();
                    there.dedup();
                    Err(InvalidAddress::Zone { zone: zone.chars().take(HOST_BYTES_MAX).collect(), there })
                }
                Some(_) | None => Err(form()),
            },
        }
    }

    /// True if it means the device itself, wherever it is read.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_loopback())
    }
}

/// With the name of the interface in place of the number of a zone.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(SocketAddr::V6(socket)) if socket.scope_id() != 0 => {
                let zone = interface_names().into_iter().find(|(index, _)| *index == socket.scope_id());
                match zone {
                    Some((_, name)) => write!(f, "[{}%{name}]:{}", socket.ip(), socket.port()),
                    None => write!(f, "{socket}"),
                }
            }
            Self::Udp(socket) => write!(f, "{socket}"),
            Self::UdpName(name) => write!(f, "{UDP}{name}"),
            Self::Tailnet(socket) => write!(f, "{TAILNET}{socket}"),
            Self::Relay { by, at } => write!(f, "{RELAY}{by}@{at}"),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}

/// A host by name, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The host: 1 to 253 letters, digits, `-`, `_` and `.`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A text that is not `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a host name and a port")]
pub struct InvalidHostPort;

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidHostPort)?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.bytes().all(fits) {
            return Err(InvalidHostPort);
        }
        // Without the sign that `u16::from_str` takes, so that one address has one text.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.starts_with('0') {
            return Err(InvalidHostPort);
        }
        let port = port.parse().map_err(|_| InvalidHostPort)?;
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The network of an address, as far as that can be told from outside: IPv4 /24, IPv6 /64. Whoever has one address of
/// it may well have others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpAddr);

impl Prefix {
    /// The prefix of an address; of IPv4 mapped into IPv6, that of the IPv4.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !0xff).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        })
    }
}

/// IPv4 as IPv4, also where a dual-stack socket shows it mapped into IPv6.
pub(super) fn canonical(socket: SocketAddr) -> SocketAddr {
    match socket {
        SocketAddr::V4(_) => socket,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (v4, v6.port()).into(),
            None => socket,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_is_read_and_written() {
        let by = PeerId([7; 32]);
        let socket: SocketAddr = "100.64.0.3:7435".parse().unwrap();
        for (text, expected) in [
            ("192.168.1.7:7433".to_owned(), Address::Udp("192.168.1.7:7433".parse().unwrap())),
            ("[fd00::1]:7433".to_owned(), Address::Udp("[fd00::1]:7433".parse().unwrap())),
            ("udp://home.example.org:7433".to_owned(), Address::UdpName("home.example.org:7433".parse().unwrap())),
            ("tailnet://100.64.0.3:7435".to_owned(), Address::Tailnet(socket)),
            (
                format!("relay://{by}@192.168.1.7:7433"),
                Address::Relay { by, at: Box::new(Address::Udp("192.168.1.7:7433".parse().unwrap())) },
            ),
        ] {
            assert_eq!(Address::from(text.as_str()), expected);
            assert_eq!(expected.to_string(), text);
        }
        // With and without the scheme it is one address.
        assert_eq!(Address::from("udp://10.0.0.1:7"), Address::from("10.0.0.1:7"));
    }

    #[test]
    fn what_is_not_known_is_kept_as_it_is() {
        let by = PeerId([7; 32]);
        for text in [
            "",
            "192.168.1.7",
            "home.example.org:7433",
            "udp://home.example.org",
            "udp://home.example.org:0",
            "udp://:7433",
            "tailnet://laptop:7435",
            "quic+tcp://10.0.0.1:443",
            &format!("relay://{by}@relay://{by}@10.0.0.1:7"),
            "relay://nobody@10.0.0.1:7",
        ] {
            assert_eq!(Address::from(text), Address::Unknown(text.to_owned()));
            assert_eq!(Address::from(text).to_string(), text);
        }
    }

    #[test]
    fn l11_an_address_is_read_as_people_give_it() {
        let read = |text: &str| Address::of_person(text, 7433).map(|address| address.to_string());
        for (text, expected) in [
            ("192.168.1.20", "192.168.1.20:7433"),
            (" 192.168.1.20:7 ", "192.168.1.20:7"),
            ("fd00::7", "[fd00::7]:7433"),
            ("[fd00::7]", "[fd00::7]:7433"),
            ("[fd00::7]:9", "[fd00::7]:9"),
            ("nas", "udp://nas:7433"),
            ("NAS.local", "udp://nas.local:7433"),
            ("udp://nas.local:9", "udp://nas.local:9"),
            ("fe80::7", "[fe80::7]:7433"),
            ("fe80::7%lo", "[fe80::7%lo]:7433"),
            ("[fe80::7%lo]", "[fe80::7%lo]:7433"),
            ("[fe80::7%lo]:9", "[fe80::7%lo]:9"),
            ("[fe80::7%1]:9", "[fe80::7%lo]:9"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for text in
            ["", ":7433", "a b", "1.2.3", "1.2.3.4.5", "300.1.1.1", "nas:0", "nas:70000", "10.0.0.1:0", "::", "[::"]
        {
            assert!(matches!(read(text), Err(InvalidAddress::Form(_))), "{text}: {:?}", read(text));
        }
        let told = read("fe80::7%none9").unwrap_err().to_string();
        assert!(told.contains("no interface `none9`") && told.contains("lo"), "{told}");
        assert!(matches!(read("tailnet://100.64.0.3:7435"), Err(InvalidAddress::Kind(_))));
    }

    #[test]
    fn mapped_addresses_become_what_people_know() {
        assert_eq!(canonical("[::ffff:192.168.1.2]:7433".parse().unwrap()), "192.168.1.2:7433".parse().unwrap());
        assert_eq!(canonical("[fd00::1]:7433".parse().unwrap()), "[fd00::1]:7433".parse().unwrap());
    }

    proptest! {
        #[test]
        fn no_address_of_a_person_panics(text in "[\\[\\]%:.a-f0-9z]{0,40}|.{0,60}") {
            if let Ok(address) = Address::of_person(&text, 7433) {
                prop_assert_eq!(Address::of_person(&address.to_string(), 1), Ok(address));
            }
        }

        #[test]
        fn the_text_of_an_address_reads_as_that_address(text in "(udp://|tailnet://|relay://)?.{0,60}") {
            let address = Address::from(text.as_str());
            prop_assert_eq!(Address::from(address.to_string().as_str()), address);
        }
    }
}
