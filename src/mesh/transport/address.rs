//! Addresses of peers: where one may be reached, over which underlay, and how that is written.
//!
//! The text form goes into directory records and command lines: `192.168.1.7:7433` and `[fd00::1]:7433` (direct UDP),
//! `udp://home.example.org:7433` (the same, by name), `tailnet://100.64.0.3:7435`, `relay://<peer id>@<address>`. A
//! text of another form is kept as it is, so that a newer version's address survives us, and is never dialled.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
    /// The IP address on the direct UDP underlay, if it says one. IPv4 as IPv4.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Udp(socket) => Some(socket.ip().to_canonical()),
            Self::UdpName(_) | Self::Tailnet(_) | Self::Relay { .. } | Self::Unknown(_) => None,
        }
    }
}

fn parse(text: &str) -> Option<Address> {
    if let Ok(socket) = text.parse() {
        return Some(Address::Udp(socket));
    }
    if let Some(rest) = text.strip_prefix(UDP) {
        return rest.parse().map(Address::Udp).ok().or_else(|| rest.parse().map(Address::UdpName).ok());
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

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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
    fn mapped_addresses_become_what_people_know() {
        assert_eq!(canonical("[::ffff:192.168.1.2]:7433".parse().unwrap()), "192.168.1.2:7433".parse().unwrap());
        assert_eq!(canonical("[fd00::1]:7433".parse().unwrap()), "[fd00::1]:7433".parse().unwrap());
    }

    proptest! {
        #[test]
        fn the_text_of_an_address_reads_as_that_address(text in "(udp://|tailnet://|relay://)?.{0,60}") {
            let address = Address::from(text.as_str());
            prop_assert_eq!(Address::from(address.to_string().as_str()), address);
        }
    }
}
