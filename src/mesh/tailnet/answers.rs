//! Answers of tailscaled's `LocalAPI`, read and judged. Pure: bytes and the time come in.
//!
//! tailscaled is trusted as far as this machine is, but what it tells of other nodes was written by others: lists and
//! texts are cut to their limits, and a node of which no tailnet address is told is none.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mesh_core::tailnet::{Netmap, NodeState};
use serde::Deserialize;

/// Nodes of a tailnet that are looked at. A family has some dozens.
pub const NODES_MAX: usize = 256;
/// Tags of a node, and addresses of it, that are kept.
const LIST_MAX: usize = 32;
/// Longest name, tag, login or id that is kept, in bytes; a DNS name has at most 253 (RFC 1035 §2.3.4).
const TEXT_BYTES_MAX: usize = 253;
/// Time before the end of a key from which on people are told.
pub(super) const EXPIRY_TOLD: Duration = Duration::from_hours(14 * 24);
/// The state of a tailscaled that works.
const RUNNING: &str = "Running";
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The reason for which an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tailscaled answered something that is not understood: {0}")]
pub struct Unreadable(String);

/// A node of the tailnet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The identity that it keeps for as long as it is in the tailnet, whatever its key and addresses are.
    pub stable_id: String,
    /// Its host name.
    pub name: String,
    /// Its name in the DNS of its tailnet, without a dot at the end; empty if none is told.
    pub dns: String,
    /// Domain of its tailnet; empty if none is told.
    pub tailnet: String,
    /// Its addresses on the tailnet.
    pub ips: Vec<IpAddr>,
    /// Its tags, such as `tag:agent-node`.
    pub tags: Vec<String>,
    /// Control says that it is connected.
    pub online: bool,
    /// Wall time at which its key ends; `None` = never.
    pub key_expiry_ms: Option<u64>,
    /// Control says that its key has ended.
    pub expired: bool,
}

/// The state of the tailscaled of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Its word for its state: `Running`, `Stopped`, `NeedsLogin`, `NeedsMachineAuth`, `Starting`, `NoState`.
    pub state: String,
    /// It has an interface of the system. Without one the traffic of others comes from loopback, and nobody is told
    /// apart.
    pub has_interface: bool,
    /// This machine.
    pub own: Node,
    /// The others, at most [`NODES_MAX`], in the order of their ids.
    pub others: Vec<Node>,
    /// True if there are no more of them.
    pub whole: bool,
}

/// The node at an address, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: Node,
    /// Login of its user; `None` for a node with tags, which has no user.
    pub login: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawStatus {
    #[serde(default)]
    backend_state: String,
    #[serde(rename = "TUN", default)]
    tun: bool,
    #[serde(rename = "Self")]
    own: Option<RawPeer>,
    peer: Option<BTreeMap<String, RawPeer>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawPeer {
    #[serde(rename = "ID")]
    id: String,
    host_name: String,
    #[serde(rename = "DNSName")]
    dns_name: String,
    #[serde(rename = "TailscaleIPs")]
    ips: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    online: bool,
    key_expiry: Option<String>,
    expired: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawWhois {
    node: Option<RawNode>,
    user_profile: Option<RawUser>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawNode {
    #[serde(rename = "StableID")]
    stable_id: String,
    name: String,
    addresses: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    online: Option<bool>,
    key_expiry: Option<String>,
    expired: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawUser {
    login_name: String,
}

impl Status {
    /// Reads the answer to `status`.
    ///
    /// # Errors
    /// It is no such answer.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let raw: RawStatus = serde_json::from_slice(bytes).map_err(|error| Unreadable(error.to_string()))?;
        if raw.backend_state.is_empty() {
            return Err(Unreadable("it tells no state".to_owned()));
        }
        let mut others: Vec<Node> = raw.peer.unwrap_or_default().into_values().filter_map(RawPeer::node).collect();
        others.sort_by(|a, b| a.stable_id.cmp(&b.stable_id));
        let whole = others.len() <= NODES_MAX;
        others.truncate(NODES_MAX);
        Ok(Self {
            state: cut(&raw.backend_state),
            has_interface: raw.tun,
            own: raw.own.and_then(RawPeer::node).unwrap_or_default(),
            others,
            whole,
        })
    }

    /// The tags and keys of its nodes. While tailscaled does not run it knows at most that the own key has ended.
    #[must_use]
    pub fn netmap(&self, now_ms: u64) -> Netmap {
        let runs = self.state == RUNNING;
        let counts = |node: &&Node| if runs { !node.stable_id.is_empty() } else { node.has_ended(now_ms) };
        let others = self.others.iter().filter(|_| runs);
        let nodes = others.chain([&self.own].into_iter().filter(counts));
        let nodes = nodes.filter(|node| node.tailnet == self.own.tailnet);
        Netmap {
            tailnet: self.own.tailnet.clone(),
            nodes: nodes.map(|node| (node.stable_id.clone(), node.state(now_ms))).collect(),
            whole: runs && self.whole,
            ..Netmap::default()
        }
    }

    /// Addresses of nodes that are connected and whose key has not ended: IPv4 where a node has one.
    #[must_use]
    pub fn reachable(&self, now_ms: u64) -> Vec<(&Node, IpAddr)> {
        let is_there = |node: &&Node| node.online && !node.has_ended(now_ms);
        self.others.iter().filter(is_there).filter_map(|node| Some((node, node.ip()?))).collect()
    }
}

impl Identity {
    /// Reads the answer to `whois` for a node at `ip`. An answer about another address is none.
    ///
    /// # Errors
    /// It is no such answer.
    pub fn read(bytes: &[u8], ip: IpAddr) -> Result<Self, Unreadable> {
        let raw: RawWhois = serde_json::from_slice(bytes).map_err(|error| Unreadable(error.to_string()))?;
        let node = raw.node.ok_or_else(|| Unreadable("it tells no node".to_owned()))?;
        let login = raw.user_profile.map(|user| cut(&user.login_name)).filter(|login| !login.is_empty());
        let tags = texts(node.tags);
        let node = Node {
            stable_id: id(&node.stable_id).ok_or_else(|| Unreadable("it tells no id of the node".to_owned()))?,
            name: cut(node.name.split('.').next().unwrap_or_default()),
            dns: dns(&node.name),
            tailnet: domain(&node.name),
            ips: ips(node.addresses),
            online: node.online.unwrap_or_default(),
            key_expiry_ms: time(node.key_expiry.as_deref()),
            expired: node.expired,
            tags,
        };
        if !node.ips.contains(&ip.to_canonical()) {
            return Err(Unreadable(format!("it is about another address than {ip}")));
        }
        // A node with tags belongs to nobody; what it tells as its user is a placeholder.
        let login = login.filter(|_| node.tags.is_empty());
        Ok(Self { node, login })
    }
}

impl RawPeer {
    fn node(self) -> Option<Node> {
        let ips = ips(self.ips);
        Some(Node {
            stable_id: id(&self.id)?,
            name: cut(&self.host_name),
            dns: dns(&self.dns_name),
            tailnet: domain(&self.dns_name),
            ips,
            tags: texts(self.tags),
            online: self.online,
            key_expiry_ms: time(self.key_expiry.as_deref()),
            expired: self.expired,
        })
    }
}

/// A node as whoever knows the tailnet tells it; nothing is cut to its limits yet.
#[derive(Debug, Clone, Default)]
pub struct ToldNode {
    /// Its stable id.
    pub stable_id: String,
    /// The first label of its DNS name.
    pub name: String,
    /// Domain of its tailnet.
    pub tailnet: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Its tags.
    pub tags: Vec<String>,
    /// True unless control says that it is not connected.
    pub online: bool,
    /// Wall time at which its key ends, ms since 1970; before 1970 is never.
    pub key_expiry_ms: Option<i64>,
}

impl ToldNode {
    /// The node, within the limits; `None` without an id that can be kept.
    #[must_use]
    pub fn node(self) -> Option<Node> {
        let (name, tailnet) = (cut(&self.name), id(&self.tailnet).unwrap_or_default());
        Some(Node {
            stable_id: id(&self.stable_id)?,
            dns: if tailnet.is_empty() { String::new() } else { dns(&format!("{name}.{tailnet}")) },
            name,
            tailnet,
            ips: self.ips.into_iter().filter(|ip| is_tailnet(*ip)).take(LIST_MAX).collect(),
            tags: texts(Some(self.tags)),
            online: self.online,
            key_expiry_ms: self.key_expiry_ms.and_then(|ms| u64::try_from(ms).ok()),
            expired: false,
        })
    }
}

impl Node {
    /// Its address: IPv4 if it has one, since some machines have no IPv6 at all.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.ips.iter().find(|ip| ip.is_ipv4()).or(self.ips.first()).copied()
    }

    /// Its tags and key, as approvals by tag are judged by them.
    #[must_use]
    pub fn state(&self, now_ms: u64) -> NodeState {
        NodeState { tags: self.tags.clone(), key_ended: self.has_ended(now_ms) }
    }

    /// True if its key has ended: control says so, or its time is over and nobody has told us yet.
    #[must_use]
    pub fn has_ended(&self, now_ms: u64) -> bool {
        self.expired || self.key_expiry_ms.is_some_and(|end| end <= now_ms)
    }
}

/// The tailnet of this machine, as far as this program can use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nobody has looked, or the settings say not to.
    #[default]
    Off,
    /// No tailscaled runs here.
    Absent,
    /// It does not answer, or not in a way that is understood.
    Silent(String),
    /// It is switched off.
    Stopped,
    /// Nobody is logged in.
    NeedsLogin,
    /// An admin of the tailnet must approve this machine.
    NeedsApproval,
    /// It is on its way up.
    Starting,
    /// It runs without an interface of the system.
    NoInterface,
    /// The key of this machine has ended.
    Expired,
    /// It works, but our socket there cannot be opened.
    NoSocket(String),
    /// It works.
    Running {
        /// Name of this machine there.
        name: String,
        /// Its name in the DNS of the tailnet; empty if it has none.
        dns: String,
        /// Its address there.
        ip: IpAddr,
        /// Other nodes that are connected.
        others: usize,
        /// Wall time at which the key of this machine ends.
        key_expiry_ms: Option<u64>,
    },
}

impl Condition {
    /// Judges a status.
    #[must_use]
    pub fn of(status: &Status, now_ms: u64) -> Self {
        match status.state.as_str() {
            RUNNING => {}
            "Stopped" => return Self::Stopped,
            "NeedsLogin" if status.own.has_ended(now_ms) => return Self::Expired,
            "NeedsLogin" => return Self::NeedsLogin,
            "NeedsMachineAuth" => return Self::NeedsApproval,
            "Starting" | "NoState" => return Self::Starting,
            other => return Self::Silent(format!("it says that its state is `{other}`")),
        }
        if status.own.has_ended(now_ms) {
            return Self::Expired;
        }
        if !status.has_interface {
            return Self::NoInterface;
        }
        match status.own.ip() {
            Some(ip) => Self::Running {
                name: status.own.name.clone(),
                dns: status.own.dns.clone(),
                ip,
                others: status.reachable(now_ms).len(),
                key_expiry_ms: status.own.key_expiry_ms,
            },
            None => Self::Starting,
        }
    }

    /// The state in words, and the next step if there is something to do.
    #[must_use]
    pub fn told(&self, now_ms: u64) -> (String, Option<&'static str>) {
        const UP: &str = "run `tailscale up` on this device";
        match self {
            Self::Off => ("the tailnet is not used (tailnet.mode)".to_owned(), None),
            Self::Absent => ("no tailscaled runs on this device; links go by other ways".to_owned(), None),
            Self::Silent(why) => (
                format!("the tailscaled of this device cannot be asked: {why}"),
                Some("see that tailscaled runs and is 1.50 or newer, and that `tailnet.socket` is its socket"),
            ),
            Self::Stopped => ("Tailscale is switched off on this device".to_owned(), Some(UP)),
            Self::NeedsLogin => ("nobody is logged in to Tailscale on this device".to_owned(), Some(UP)),
            Self::NeedsApproval => (
                "the tailnet has not approved this device".to_owned(),
                Some("approve it in the admin console of the tailnet"),
            ),
            Self::Starting => ("Tailscale is starting on this device".to_owned(), None),
            Self::NoInterface => (
                "the tailscaled of this device runs in userspace, where nobody can be told apart by address".to_owned(),
                Some("run tailscaled with an interface: without `--tun=userspace-networking`"),
            ),
            Self::Expired => (
                "the tailnet key of this device has expired".to_owned(),
                Some("run `tailscale up --force-reauth` on this device"),
            ),
            Self::NoSocket(why) => (
                format!("the tailnet works, but its UDP port {} cannot be opened: {why}", super::TAILNET_PORT),
                Some("see that no other program has the port; it is tried again by itself"),
            ),
            Self::Running { name, dns: _, ip, others, key_expiry_ms } => {
                let told = format!("on the tailnet as `{name}` at {ip}; {others} other nodes are connected");
                let left = key_expiry_ms.map(|end| end.saturating_sub(now_ms));
                match left.filter(|left| u128::from(*left) <= EXPIRY_TOLD.as_millis()) {
                    Some(left) => (
                        format!("{told}; its key expires in {} days", left / DAY_MS),
                        Some("run `tailscale up --force-reauth` on this device, or disable key expiry for it"),
                    ),
                    None => (told, None),
                }
            }
        }
    }
}

/// A text within its limit, without control characters.
fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().filter(|c| !c.is_control()).collect()
}

/// An id. One that would have to be cut is none: two might become one.
fn id(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= TEXT_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

/// A DNS name of a node without the dot at the end.
fn dns(name: &str) -> String {
    id(name.trim_end_matches('.')).unwrap_or_default()
}

/// The domain in a DNS name of a node: all but its first label and the dot at the end.
fn domain(name: &str) -> String {
    let domain = name.trim_end_matches('.').split_once('.').map_or("", |(_, domain)| domain);
    id(domain).unwrap_or_default()
}

/// Tags; one that would have to be cut is left out, for it is compared.
fn texts(all: Option<Vec<String>>) -> Vec<String> {
    all.unwrap_or_default().iter().filter_map(|text| id(text)).take(LIST_MAX).collect()
}

/// Addresses, each alone or as a prefix of its own length.
fn ips(all: Option<Vec<String>>) -> Vec<IpAddr> {
    let ip = |text: &String| text.split('/').next()?.parse().ok().filter(|ip| is_tailnet(*ip));
    all.unwrap_or_default().iter().filter_map(ip).take(LIST_MAX).collect()
}

/// True for addresses that tailnets give to nodes: 100.64.0.0/10 and `fd7a:115c:a1e0::/48`.
#[must_use]
pub fn is_tailnet(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64,
        IpAddr::V6(v6) => v6.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

/// Wall time of an RFC 3339 text. Year 1, which is Go's "no time", and what cannot be read are none.
fn time(text: Option<&str>) -> Option<u64> {
    let time: jiff::Timestamp = text?.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::tailnet::{EmbeddedCondition, Mode, Tailnet};

    /// In the form of tailscaled 1.102.5: `ipnstate.Status` and `apitype.WhoIsResponse`.
    const STATUS: &str = include_str!("../../../tests/tailnet/answers/status.json");
    const WHOIS: &str = include_str!("../../../tests/tailnet/answers/whois.json");

    fn running() -> Status {
        Status::read(STATUS.as_bytes()).unwrap()
    }

    #[test]
    fn a_status_is_read() {
        let status = running();
        assert_eq!((status.state.as_str(), status.has_interface), ("Running", true));
        assert_eq!(status.own.name, "h1");
        assert_eq!(status.own.ip().map(is_tailnet), Some(true));
        let reachable: Vec<&str> = status.reachable(0).iter().map(|(node, _)| node.name.as_str()).collect();
        assert_eq!(reachable, ["h2"]);
        assert!(matches!(Condition::of(&status, 0), Condition::Running { others: 1, .. }));
    }

    #[test]
    fn a_whois_is_read_and_is_about_the_address_that_was_asked_for() {
        let ip = running().others[0].ip().unwrap();
        let found = Identity::read(WHOIS.as_bytes(), ip).unwrap();
        assert_eq!(found.node.stable_id, running().others[0].stable_id);
        assert_eq!((found.node.name.as_str(), found.node.tailnet.as_str()), ("h2", "tailnet.example"));
        assert!(Identity::read(WHOIS.as_bytes(), "100.64.9.9".parse().unwrap()).is_err());
    }

    #[test]
    fn each_state_has_its_words_and_what_can_be_done_its_step() {
        let told = |state: &str| {
            let condition = Condition::of(&Status { state: state.to_owned(), ..running() }, 0);
            let (words, step) = condition.told(0);
            (condition, words, step.is_some())
        };
        assert!(matches!(told("Stopped"), (Condition::Stopped, _, true)));
        assert!(matches!(told("NeedsLogin"), (Condition::NeedsLogin, _, true)));
        assert!(matches!(told("NeedsMachineAuth"), (Condition::NeedsApproval, _, true)));
        assert!(matches!(told("Starting"), (Condition::Starting, _, false)));
        assert!(matches!(told("Dancing"), (Condition::Silent(_), words, true) if words.contains("Dancing")));
        let userspace = Status { has_interface: false, ..running() };
        assert_eq!(Condition::of(&userspace, 0), Condition::NoInterface);
    }

    #[test]
    fn a_netmap_has_tags_and_keys_of_one_tailnet_and_says_if_it_is_whole() {
        let mut status = running();
        status.others[0].tags = vec!["tag:agent-node".to_owned()];
        status.others[0].key_expiry_ms = Some(5);
        status.others.push(Node {
            stable_id: "shared-in".to_owned(),
            tailnet: "other.example".to_owned(),
            ..Node::default()
        });
        let netmap = status.netmap(5);
        assert_eq!((netmap.tailnet.as_str(), netmap.whole, netmap.nodes.len()), ("tailnet.example", true, 2));
        assert!(netmap.nodes.values().all(|node| node.tags == ["tag:agent-node"]));
        assert!(netmap.nodes[&status.others[0].stable_id].key_ended && !netmap.nodes[&status.own.stable_id].key_ended);
        status.whole = false;
        assert!(!status.netmap(5).whole);
        // Logged out, it knows nothing of the others.
        status.state = "NeedsLogin".to_owned();
        status.whole = true;
        assert_eq!(status.netmap(5), Netmap { tailnet: "tailnet.example".to_owned(), ..Netmap::default() });
        status.own.expired = true;
        let netmap = status.netmap(5);
        assert!(!netmap.whole && netmap.nodes.len() == 1 && netmap.nodes[&status.own.stable_id].key_ended);
    }

    #[test]
    fn what_nobody_counts_on_is_no_trouble() {
        let told =
            |condition: &Condition, mode, embedded| Tailnet { mode, condition: condition.clone(), embedded }.told(0);
        let no_way = || EmbeddedCondition::NoWay("there is no key".to_owned());
        for condition in [Condition::Absent, Condition::Stopped, Condition::NeedsLogin] {
            assert!(told(&condition, Mode::Auto, no_way()).1.is_none());
            assert!(told(&condition, Mode::Host, EmbeddedCondition::Off).1.is_some());
        }
        assert!(told(&Condition::Expired, Mode::Auto, no_way()).1.is_some());
    }

    #[test]
    fn the_choice_of_auto_is_explained() {
        let tailnet = |condition, embedded| Tailnet { mode: Mode::Auto, condition, embedded };
        let login = EmbeddedCondition::NeedsLogin("https://login.example/a/1".to_owned());
        let (told, step) = tailnet(Condition::Absent, login).told(0);
        assert!(told.contains("in this program") && told.contains("no tailscaled runs"), "{told}");
        assert!(step.unwrap().contains("https://login.example/a/1"));
        let (told, step) = tailnet(Condition::of(&running(), 0), EmbeddedCondition::Leaving).told(0);
        assert!(
            told.contains("by the tailscaled") && told.contains("ends within a minute") && step.is_none(),
            "{told}"
        );
        let (told, _) = tailnet(Condition::Absent, EmbeddedCondition::NoWay("there is no key".to_owned())).told(0);
        assert!(told.contains("there is no key"), "{told}");
    }

    #[test]
    fn a_node_that_is_told_is_kept_within_limits() {
        let told = ToldNode {
            stable_id: "n1".to_owned(),
            name: "attic".to_owned(),
            tailnet: "tailnet.example".to_owned(),
            ips: vec!["10.0.0.1".parse().unwrap(), "100.64.0.1".parse().unwrap()],
            tags: vec!["tag:agent-node".to_owned()],
            online: true,
            // Go's "no time".
            key_expiry_ms: Some(-62_135_596_800_000),
        };
        let node = told.clone().node().unwrap();
        assert_eq!((node.dns.as_str(), node.ips.len(), node.key_expiry_ms), ("attic.tailnet.example", 1, None));
        assert_eq!(ToldNode { stable_id: String::new(), ..told }.node(), None);
    }

    #[test]
    fn a_key_that_ends_is_told_fourteen_days_ahead_and_then_is_the_reason() {
        let day = |days: u64| days * DAY_MS;
        let mut status = running();
        status.own.key_expiry_ms = Some(day(100));
        assert_eq!(Condition::of(&status, day(80)).told(day(80)).1, None);
        let (words, step) = Condition::of(&status, day(90)).told(day(90));
        assert!(words.contains("expires in 10 days") && step.is_some(), "{words}");
        assert_eq!(Condition::of(&status, day(100)), Condition::Expired);
        // Of others likewise, whether control has said so yet or not.
        status.others[0].key_expiry_ms = Some(day(100));
        assert_eq!((status.reachable(day(99)).len(), status.reachable(day(100)).len()), (1, 0));
        status.own.key_expiry_ms = None;
        status.own.expired = true;
        status.state = "NeedsLogin".to_owned();
        assert_eq!(Condition::of(&status, 0), Condition::Expired);
    }

    #[test]
    fn what_others_wrote_is_cut_to_its_limits() {
        let long = "x".repeat(10_000);
        let peer = |n: usize| {
            format!(
                r#""k{n}":{{"ID":"n{n}","HostName":"{long}","TailscaleIPs":["100.64.0.1","10.0.0.1","no"],"Tags":["tag:a","{long}"],"Online":true,"KeyExpiry":"0001-01-01T00:00:00Z"}}"#
            )
        };
        let peers: Vec<String> = (0..NODES_MAX + 9).map(peer).collect();
        let text = format!(r#"{{"BackendState":"Running","TUN":true,"Self":null,"Peer":{{{}}}}}"#, peers.join(","));
        let status = Status::read(text.as_bytes()).unwrap();
        assert_eq!(status.others.len(), NODES_MAX);
        let node = &status.others[0];
        assert_eq!((node.name.len(), node.tags.len(), node.ips.len()), (TEXT_BYTES_MAX, 1, 1));
        assert_eq!(node.key_expiry_ms, None);
        // A machine without an address is not there yet.
        assert_eq!(Condition::of(&status, 0), Condition::Starting);
    }

    #[test]
    fn a_node_with_tags_has_no_user() {
        let text = |tags: &str| {
            format!(
                r#"{{"Node":{{"StableID":"n1","Name":"h.x.","Addresses":["100.64.0.1/32"],"Tags":{tags}}},"UserProfile":{{"LoginName":"ada@example.org"}}}}"#
            )
        };
        let login = |tags: &str| Identity::read(text(tags).as_bytes(), "100.64.0.1".parse().unwrap()).unwrap().login;
        assert_eq!(login("null").as_deref(), Some("ada@example.org"));
        assert_eq!(login(r#"["tag:agent-node"]"#), None);
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[{}\\[\\]\":,a-zA-Z0-9]{0,80}") {
            let _ = Status::read(&bytes);
            let _ = Status::read(text.as_bytes());
            let _ = Identity::read(&bytes, IpAddr::from([100, 64, 0, 1]));
        }
    }
}
