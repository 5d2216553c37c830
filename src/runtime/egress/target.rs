//! What a request asks a proxy for, and whether that may go out. Pure: names are resolved by whoever asks.

use std::fmt;
use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap};
use hyper::http::uri::Authority;
use hyper::{Method, Uri, Version};

use crate::plugin::{Egress, EgressHost, Place, place, plain_host_name};

/// Port of `http://` addresses that name none.
const HTTP_PORT: u16 = 80;
/// Port at which the name in the first words of TLS has to be that of the host.
pub(super) const TLS_PORT: u16 = 443;
/// Characters of what was asked for that are told: it may be anything.
const TOLD_CHARS_MAX: usize = 80;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: u16,
}

/// A host, in the one form in which it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// In small letters.
    Name(String),
    Address(IpAddr),
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) target: Target,
    /// A tunnel; else to be asked there in its place.
    pub(super) tunnel: bool,
}

/// A rule by which something may go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Permit {
    /// The rule, as it is written.
    pub(super) rule: String,
    /// The name may lead into the networks of this house.
    house: bool,
}

/// A reason for which something does not go out. For whoever asked, and for the audit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The request cannot be read.
    #[error("the request is malformed")]
    Malformed,
    /// It is not for a proxy.
    #[error("the request names no host: this is a proxy")]
    NoTarget,
    /// Another scheme than `http`.
    #[error("only http:// is asked in the place of a client; https:// goes through CONNECT")]
    Scheme,
    /// It has a name or a password in front of its host.
    #[error("the address has user information in it")]
    UserInfo,
    /// The host is neither a plain name nor an address in its usual form.
    #[error("the host is neither a plain name nor an address in its usual form")]
    HostForm,
    /// The port is none.
    #[error("the port is none")]
    Port,
    /// The header says another host, none, or several.
    #[error("the header `Host` does not name the host that is asked for")]
    HostHeader,
    /// No rule is about it.
    #[error("no rule of `egress` allows it")]
    NotListed,
    /// The name leads nowhere.
    #[error("the name is not known")]
    UnknownName,
    /// The name leads where it must not.
    #[error("the name leads to {0}, which is {1}")]
    Address(IpAddr, &'static str),
    /// The first words of TLS name another host, or there are none.
    #[error("what is said in the tunnel is not TLS for that host")]
    OtherServer,
    /// Too much at once.
    #[error("too many connections are open")]
    TooMany,
    /// Nobody answers there.
    #[error("nobody answers there")]
    Unreachable,
}

impl Refusal {
    /// The word for it in the audit.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoTarget => "no_target",
            Self::Scheme => "scheme",
            Self::UserInfo => "user_info",
            Self::HostForm => "host_form",
            Self::Port => "port",
            Self::HostHeader => "host_header",
            Self::NotListed => "not_listed",
            Self::UnknownName => "unknown_name",
            Self::Address(..) => "address",
            Self::OtherServer => "other_server",
            Self::TooMany => "too_many",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host @ (Host::Name(_) | Host::Address(IpAddr::V4(_))) => write!(f, "{host}:{}", self.port),
        }
    }
}

impl Target {
    /// Reads `host:port`, or `host` where a port goes without saying.
    ///
    /// # Errors
    /// It is in no form that all who read it understand in the same way.
    pub(super) fn read(text: &str, default: Option<u16>) -> Result<Self, Refusal> {
        if text.contains('@') {
            return Err(Refusal::UserInfo);
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or(Refusal::HostForm)?;
            let address: std::net::Ipv6Addr = address.parse().map_err(|_| Refusal::HostForm)?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(Refusal::HostForm)?) };
            (Host::Address(address.into()), port)
        } else {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let host = match host.parse::<std::net::Ipv4Addr>() {
                Ok(address) => Host::Address(address.into()),
                Err(_) => Host::Name(plain_host_name(host).ok_or(Refusal::HostForm)?),
            };
            (host, port)
        };
        let is_number = |port: &&str| !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = match port {
            Some(port) => Some(port).filter(is_number).and_then(|port| port.parse().ok()),
            None => default,
        };
        Ok(Self { host, port: port.ok_or(Refusal::Port)? })
    }
}

/// What a request asks for.
///
/// # Errors
/// It is not one for a proxy, or could be read in two ways.
pub(super) fn asked(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<Asked, Refusal> {
    if !matches!(version, Version::HTTP_10 | Version::HTTP_11) {
        return Err(Refusal::Malformed);
    }
    let authority = uri.authority().map(Authority::as_str).ok_or(Refusal::NoTarget)?;
    let tunnel = method == Method::CONNECT;
    let target = match (tunnel, uri.scheme_str()) {
        (true, None) => Target::read(authority, None)?,
        (false, Some("http")) => Target::read(authority, Some(HTTP_PORT))?,
        (false, Some(_)) => return Err(Refusal::Scheme),
        (true, Some(_)) | (false, None) => return Err(Refusal::NoTarget),
    };
    let mut named = headers.get_all(HOST).iter();
    match (named.next(), named.next()) {
        // Older clients name none.
        (None, _) if version == Version::HTTP_10 => {}
        (Some(named), None) => {
            // Of a tunnel some name the host without its port.
            let default = if tunnel { target.port } else { HTTP_PORT };
            let named = named.to_str().ok().and_then(|named| Target::read(named, Some(default)).ok());
            if named.as_ref() != Some(&target) {
                return Err(Refusal::HostHeader);
            }
        }
        (None | Some(_), _) => return Err(Refusal::HostHeader),
    }
    Ok(Asked { target, tunnel })
}

/// The rule by which a target may be asked for, before it is known where its name leads.
///
/// # Errors
/// There is none.
pub(super) fn permit(rules: &[Egress], target: &Target) -> Result<Permit, Refusal> {
    let mut found: Option<Permit> = None;
    for rule in rules.iter().filter(|rule| rule.port == target.port) {
        let is_about = match (&rule.host, &target.host) {
            (EgressHost::Name(name), Host::Name(asked)) => name == asked,
            (EgressHost::Below(name), Host::Name(asked)) => asked
                .strip_suffix(name.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
            (EgressHost::Net(..), Host::Address(asked)) => rule.names(*asked),
            (EgressHost::Name(_) | EgressHost::Below(_), Host::Address(_)) | (EgressHost::Net(..), Host::Name(_)) => {
                false
            }
        };
        if is_about {
            let permit = found.get_or_insert_with(|| Permit { rule: rule.to_string(), house: false });
            permit.house |= rule.lan;
        }
    }
    found.ok_or(Refusal::NotListed)
}

/// Judges all addresses to which a name leads, of which one that must not be reached spoils the others: whoever answers for a
/// name may answer otherwise the next time. `own`: those of this device.
///
/// # Errors
/// It leads nowhere, or where it must not.
pub(super) fn judge(
    rules: &[Egress],
    target: &Target,
    permit: &Permit,
    addresses: &[IpAddr],
    own: &[IpAddr],
) -> Result<(), Refusal> {
    if addresses.is_empty() {
        return Err(Refusal::UnknownName);
    }
    let is_named = |address: IpAddr| rules.iter().any(|rule| rule.port == target.port && rule.names(address));
    for address in addresses.iter().copied().filter(|address| !is_named(*address)) {
        let why = match place(address) {
            Place::Closed(what) => what,
            Place::House if !permit.house => "private, and the rule does not begin with `lan:`",
            _ if own.contains(&address) => "of this device",
            Place::Public | Place::House => continue,
        };
        return Err(Refusal::Address(address, why));
    }
    Ok(())
}

/// Text that somebody else wrote, as it is told to people.
pub(super) fn told(text: &str) -> String {
    crate::text::visible(text).chars().take(TOLD_CHARS_MAX).collect()
}

/// The name in the first words of a client of TLS. `None`: more has to come.
///
/// # Errors
/// They are not those of TLS, or name nobody.
pub(super) fn server_name(words: &[u8]) -> Option<Result<String, Refusal>> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut left = words;
    while !left.is_empty() {
        match acceptor.read_tls(&mut left) {
            Ok(0) | Err(_) => return Some(Err(Refusal::OtherServer)),
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(Some(hello)) => {
                let name = hello.client_hello().server_name().map(str::to_ascii_lowercase);
                return Some(name.ok_or(Refusal::OtherServer));
            }
            Ok(None) => {}
            Err(_) => return Some(Err(Refusal::OtherServer)),
        }
    }
    None
}

/// The first words of a client for a host.
#[cfg(test)]
pub(super) fn hello(host: &'static str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host).unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut words = Vec::new();
    client.write_tls(&mut words).unwrap();
    words
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use mesh_core::test_kit::{Mutation, fuzz};

    use super::*;

    fn rules(texts: &[&str]) -> Vec<Egress> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ask(method: &str, uri: &str, hosts: &[&str]) -> Result<Asked, Refusal> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        let uri = uri.parse().map_err(|_| Refusal::Malformed)?;
        asked(&method.parse().unwrap(), &uri, Version::HTTP_11, &headers)
    }

    fn target(text: &str) -> Target {
        Target::read(text, Some(443)).unwrap()
    }

    #[test]
    fn a_target_has_one_form() {
        for (text, shown) in [
            ("api.example.org:443", "api.example.org:443"),
            ("API.Example.org", "api.example.org:443"),
            ("1.2.3.4:80", "1.2.3.4:80"),
            ("[FD00::1]:80", "[fd00::1]:80"),
            ("[::1]", "[::1]:443"),
        ] {
            assert_eq!(target(text).to_string(), shown);
        }
        for (text, why) in [
            ("a@b.example:443", Refusal::UserInfo),
            ("b.example:443@evil.example:443", Refusal::UserInfo),
            ("2130706433:80", Refusal::HostForm),
            ("0x7f000001:80", Refusal::HostForm),
            ("0x7f.1:80", Refusal::HostForm),
            ("0177.0.0.1:80", Refusal::HostForm),
            ("127.1:80", Refusal::HostForm),
            ("127.0.0.1.:80", Refusal::HostForm),
            ("a.example.:443", Refusal::HostForm),
            ("a..example:443", Refusal::HostForm),
            ("%61.example:443", Refusal::HostForm),
            ("a.example%00.b:443", Refusal::HostForm),
            ("a_b.example:443", Refusal::HostForm),
            ("[::ffff:127.0.0.1:80", Refusal::HostForm),
            ("[fe80::1%25eth0]:80", Refusal::HostForm),
            ("[::1]80", Refusal::HostForm),
            ("::1:80", Refusal::HostForm),
            ("", Refusal::HostForm),
            (":80", Refusal::HostForm),
            ("a.example:", Refusal::Port),
            ("a.example:0", Refusal::Port),
            ("a.example:65536", Refusal::Port),
            ("a.example:+80", Refusal::Port),
            ("a.example:00080", Refusal::Port),
            ("a.example:80:80", Refusal::Port),
        ] {
            assert_eq!(Target::read(text, Some(443)), Err(why), "{text}");
        }
        assert_eq!(Target::read("a.example", None), Err(Refusal::Port));
    }

    #[test]
    fn a_request_names_its_host_once_and_the_same_everywhere() {
        let tunnel = ask("CONNECT", "a.example:443", &["a.example:443"]).unwrap();
        assert!(tunnel.tunnel && tunnel.target == target("a.example:443"));
        assert!(ask("CONNECT", "a.example:8443", &["A.example"]).is_ok());
        let asked = ask("GET", "http://a.example/x?y", &["a.example"]).unwrap();
        assert!(!asked.tunnel && asked.target == target("a.example:80"));
        assert!(ask("GET", "http://a.example:8080/", &["a.example:8080"]).is_ok());
        for (method, uri, hosts, why) in [
            ("GET", "/x", &["a.example"][..], Refusal::NoTarget),
            ("GET", "https://a.example/", &["a.example"], Refusal::Scheme),
            ("GET", "ftp://a.example/", &["a.example"], Refusal::Scheme),
            ("GET", "http://a.example/", &["b.example"], Refusal::HostHeader),
            ("GET", "http://a.example/", &["a.example", "b.example"], Refusal::HostHeader),
            ("GET", "http://a.example/", &["a.example, b.example"], Refusal::HostHeader),
            ("GET", "http://a.example/", &["a.example:8080"], Refusal::HostHeader),
            ("GET", "http://a.example/", &[], Refusal::HostHeader),
            ("GET", "http://u:p@a.example/", &["a.example"], Refusal::UserInfo),
            ("GET", "http://a.example@b.example/", &["b.example"], Refusal::UserInfo),
            ("CONNECT", "a.example:443", &["b.example:443"], Refusal::HostHeader),
            ("CONNECT", "a.example", &["a.example"], Refusal::Port),
        ] {
            assert_eq!(ask(method, uri, hosts), Err(why), "{method} {uri} {hosts:?}");
        }
    }

    #[test]
    fn only_what_a_rule_names_is_permitted() {
        let rules = rules(&["api.example.org", "*.example.net:8443", "10.0.0.0/8:53", "lan:nas.home:5000"]);
        for (asked, rule) in [
            ("api.example.org:443", "api.example.org:443"),
            ("a.b.example.net:8443", "*.example.net:8443"),
            ("10.1.2.3:53", "10.0.0.0/8:53"),
            ("nas.home:5000", "lan:nas.home:5000"),
        ] {
            assert_eq!(permit(&rules, &target(asked)).unwrap().rule, rule);
        }
        for asked in [
            "api.example.org:80",
            "example.net:8443",
            "notexample.net:8443",
            "api.example.org.evil.example:443",
            "11.0.0.1:53",
            "10.0.0.1:443",
            "[::ffff:10.0.0.1]:53",
            "93.184.216.34:443",
        ] {
            assert_eq!(permit(&rules, &target(asked)), Err(Refusal::NotListed), "{asked}");
        }
    }

    #[test]
    fn every_address_of_a_name_is_judged() {
        let rules = rules(&["a.example", "lan:nas.home", "10.0.0.0/8:443"]);
        let judged = |name: &str, addresses: &[&str]| {
            let (target, own) = (target(name), ["8.8.4.4".parse().unwrap(), "192.168.1.2".parse().unwrap()]);
            let permit = permit(&rules, &target).unwrap();
            let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            judge(&rules, &target, &permit, &addresses, &own)
        };
        assert_eq!(judged("a.example", &["93.184.216.34", "2606:2800::1"]), Ok(()));
        assert_eq!(judged("a.example", &["10.1.1.1"]), Ok(()), "another rule names that address");
        assert_eq!(judged("nas.home", &["192.168.1.7", "fd00::7"]), Ok(()));
        assert_eq!(judged("a.example", &[]), Err(Refusal::UnknownName));
        for (name, addresses) in [
            ("a.example", &["127.0.0.1"][..]),
            ("a.example", &["93.184.216.34", "127.0.0.1"]),
            ("a.example", &["192.168.1.7"]),
            ("a.example", &["8.8.4.4"]),
            ("a.example", &["::ffff:10.1.1.1"]),
            ("nas.home", &["192.168.1.2"]),
            ("nas.home", &["169.254.169.254"]),
            ("nas.home", &["127.0.0.1"]),
            ("nas.home", &["::ffff:192.168.1.7"]),
        ] {
            assert!(matches!(judged(name, addresses), Err(Refusal::Address(..))), "{name} {addresses:?}");
        }
    }

    #[test]
    fn the_name_in_the_first_words_is_read() {
        let words = hello("a.example");
        assert_eq!(server_name(&words), Some(Ok("a.example".to_owned())));
        for cut in 0..words.len() {
            assert_eq!(server_name(&words[..cut]), None, "{cut}");
        }
        assert_eq!(server_name(b"GET / HTTP/1.1\r\n\r\n"), Some(Err(Refusal::OtherServer)));
        assert_eq!(server_name(b"SSH-2.0-OpenSSH_9.6\r\n"), Some(Err(Refusal::OtherServer)));
        assert_eq!(server_name(&hello("1.2.3.4")), Some(Err(Refusal::OtherServer)), "an address is no name");
    }

    /// Whatever is asked for is read in one way or refused, and what is permitted is what a rule names.
    #[test]
    fn fuzz_what_a_proxy_is_asked_for() {
        let texts = [
            "api.example.org:443",
            "a.example.net:8443",
            "http://api.example.org:443/x?y=http://b",
            "http://u:p@api.example.org:443/",
            "127.0.0.1:80",
            "[::ffff:127.0.0.1]:443",
            "2130706433:443",
            "0x7f.0.0.1:443",
            "api.example.org.:443",
            "%61pi.example.org:443",
            "10.0.0.7:53",
        ];
        let rules = rules(&["api.example.org", "*.example.net:8443", "10.0.0.0/8:53"]);
        let golden: Vec<Vec<u8>> =
            texts.iter().map(|text| text.as_bytes().to_vec()).chain([hello("api.example.org")]).collect();
        fuzz("egress", 1_000, &[], |case| {
            let mut mutation = Mutation::new(case);
            let mut bytes = mutation.pick(&golden).clone();
            mutation.bytes(&mut bytes, &golden);
            let _ = server_name(&bytes);
            let text = String::from_utf8_lossy(&bytes);
            for method in [Method::CONNECT, Method::GET] {
                let Ok(uri) = text.parse::<Uri>() else { continue };
                let mut headers = HeaderMap::new();
                let host = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
                headers.extend(host.map(|host| (HOST, host)));
                let Ok(Asked { target, .. }) = asked(&method, &uri, Version::HTTP_11, &headers) else { continue };
                assert_eq!(Target::read(&target.to_string(), None), Ok(target.clone()), "{text}");
                let Ok(permit) = permit(&rules, &target) else { continue };
                let meant = match &target.host {
                    Host::Name(name) => {
                        (name == "api.example.org" && target.port == 443)
                            || (name.ends_with(".example.net") && target.port == 8443)
                    }
                    Host::Address(IpAddr::V4(address)) => address.octets()[0] == 10 && target.port == 53,
                    Host::Address(IpAddr::V6(_)) => false,
                };
                let authority = uri.authority().map(Authority::as_str).unwrap_or_default();
                assert!(meant && !authority.contains(['@', '%']), "{text} by {}", permit.rule);
            }
        });
    }
}
