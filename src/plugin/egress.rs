//! Places in the network that a restricted plugin may reach.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::address::{Place, is_in, place};

/// Port where a rule names none: HTTPS.
const PORT_DEFAULT: u16 = 443;

/// A place that a restricted plugin may reach: `api.example.org:443`, `*.example.net`, `lan:nas.home:5000`,
/// `192.168.1.7:8123`, `10.0.0.0/8:53`, `[fd00::1]:80`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Its host.
    pub host: EgressHost,
    /// Its port; 443 where none is written.
    pub port: u16,
    /// True if the name may lead into a private network (RFC 1918, unique local addresses).
    pub lan: bool,
}

/// See [`Egress`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressHost {
    /// This name alone, in small letters.
    Name(String),
    /// All names below this one, but not itself.
    Below(String),
    /// Addresses of which the first bits are these.
    Net(IpAddr, u8),
}

impl Egress {
    /// True if it names this address, as an address.
    #[must_use]
    pub fn names(&self, address: IpAddr) -> bool {
        match self.host {
            EgressHost::Name(_) | EgressHost::Below(_) => false,
            EgressHost::Net(net, bits) => is_in(address, net, bits),
        }
    }

    /// True if it may lead elsewhere than out: to this device, or to others of this house.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        match self.host {
            EgressHost::Name(_) | EgressHost::Below(_) => self.lan,
            // What else a whole net has in it is not looked for.
            EgressHost::Net(net, bits) => place(net) != Place::Public || bits < if net.is_ipv4() { 32 } else { 128 },
        }
    }
}

/// A text that names no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be a host with a port if it is not 443, such as api.example.org, *.example.net:8443, lan:nas.home:5000 or 192.168.1.7:8123"
)]
pub struct InvalidEgress;

impl FromStr for Egress {
    type Err = InvalidEgress;

    fn from_str(text: &str) -> Result<Self, InvalidEgress> {
        let (lan, place) = text.strip_prefix("lan:").map_or((false, text), |place| (true, place));
        let (host, port) = if let Some(rest) = place.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(InvalidEgress)?;
            let address: std::net::Ipv6Addr = address.parse().map_err(|_| InvalidEgress)?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(InvalidEgress)?) };
            (EgressHost::Net(address.into(), 128), port)
        } else if let Ok(address) = place.parse::<std::net::Ipv6Addr>() {
            (EgressHost::Net(address.into(), 128), None)
        } else {
            let (host, port) = match place.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            };
            (host_of(host)?, port)
        };
        let is_number = |port: &&str| port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port {
            None => PORT_DEFAULT,
            Some(port) => Some(port).filter(is_number).and_then(|port| port.parse().ok()).ok_or(InvalidEgress)?,
        };
        if port == 0 || (lan && matches!(host, EgressHost::Net(..))) {
            return Err(InvalidEgress);
        }
        Ok(Self { host, port, lan })
    }
}

fn host_of(text: &str) -> Result<EgressHost, InvalidEgress> {
    if let Some((address, bits)) = text.split_once('/') {
        let address: IpAddr = address.parse().map_err(|_| InvalidEgress)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse().ok().filter(|bits| *bits <= most).ok_or(InvalidEgress)?;
        return Ok(EgressHost::Net(address, bits));
    }
    if let Ok(address) = text.parse::<std::net::Ipv4Addr>() {
        return Ok(EgressHost::Net(address.into(), 32));
    }
    let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
    let name = plain_host_name(name).ok_or(InvalidEgress)?;
    Ok(if below { EgressHost::Below(name) } else { EgressHost::Name(name) })
}

/// A host's name in small letters, if it is one that nobody reads as something else: labels of letters, digits and hyphens,
/// without a dot at its end, the last of them not a number.
#[must_use]
pub fn plain_host_name(text: &str) -> Option<String> {
    let name = text.to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last part is a number would be read as an address by others: `1.2.3`, `2130706433`, `0x7f.1`.
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    (name.len() <= 253 && !is_numeric && name.split('.').all(is_label)).then_some(name)
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lan {
            f.write_str("lan:")?;
        }
        match &self.host {
            EgressHost::Name(name) => write!(f, "{name}:{}", self.port),
            EgressHost::Below(name) => write!(f, "*.{name}:{}", self.port),
            EgressHost::Net(IpAddr::V4(address), 32) => write!(f, "{address}:{}", self.port),
            EgressHost::Net(IpAddr::V6(address), 128) => write!(f, "[{address}]:{}", self.port),
            EgressHost::Net(address, bits) => write!(f, "{address}/{bits}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_are_names_or_addresses_in_plain_form() {
        for (text, shown) in [
            ("api.example.org:443", "api.example.org:443"),
            ("API.Example.org", "api.example.org:443"),
            ("*.example.net", "*.example.net:443"),
            ("lan:nas.home:5000", "lan:nas.home:5000"),
            ("192.168.1.7:8123", "192.168.1.7:8123"),
            ("10.0.0.0/8:53", "10.0.0.0/8:53"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("fd00::1", "[fd00::1]:443"),
            ("localhost:80", "localhost:80"),
        ] {
            assert_eq!(text.parse::<Egress>().map(|egress| egress.to_string()).as_deref(), Ok(shown), "{text}");
        }
        for bad in [
            "",
            ":443",
            "a:0",
            "a:65536",
            "a:+1",
            "a:",
            "user@host",
            "http://a",
            "a/b",
            "a b",
            "*",
            "*.",
            "a.*.b",
            "2130706433",
            "127.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "0177.0.0.1",
            "10.0.0.0/33",
            "[::1",
            "[::1]x",
            "%41.b",
            "a..b",
            "-a.b",
            "lan:10.0.0.1:80",
            "ä.org",
        ] {
            assert!(bad.parse::<Egress>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_inside_is_told_from_what_is_out() {
        for (text, inside) in [
            ("api.example.org", false),
            ("*.example.net:8443", false),
            ("93.184.216.34", false),
            ("[2606:2800::1]:80", false),
            ("lan:nas.home:5000", true),
            ("192.168.1.7:8123", true),
            ("127.0.0.1:22", true),
            ("169.254.169.254:80", true),
            ("[fd00::1]:80", true),
            ("0.0.0.0/0", true),
            ("93.184.0.0/16", true),
        ] {
            assert_eq!(text.parse::<Egress>().unwrap().is_inside(), inside, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(text in "(lan:)?[a-z0-9.:*/\\[\\]-]{0,30}") {
            if let Ok(egress) = text.parse::<Egress>() {
                prop_assert_eq!(egress.to_string().parse::<Egress>(), Ok(egress));
            }
        }
    }
}
