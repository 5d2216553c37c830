//! A small network of namespaces: one per peer, attached to a switch; optionally one or two routers that translate
//! addresses, or a relay. Who hears whom is decided by filter rules at the ears.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::fail::Fail;

/// UDP port of every peer's mesh door.
pub(super) const QUIC_PORT: u16 = 7433;
/// First letters of all our namespaces; the process id of the runner follows.
const PREFIX: &str = "nsm";
/// Host number of the router on both sides, and of the relay.
const ROUTER: u8 = 254;
/// The same of the second router, outside.
const SECOND_ROUTER: u8 = 253;
const RELAY: u8 = 250;

/// Direction of a cut.
#[derive(Debug, Clone, Copy, PartialEq)]
enum LostInput {
    /// Anything.
    All,
    /// This part of the packets, drawn for each.
    Part(f64),
}

/// Where a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// On the common network.
    Outside,
    /// On a network of its own, behind the router.
    Inside,
    /// On another, behind a second router.
    Second,
}

/// The network. Its namespaces go when it goes.
#[derive(Debug)]
pub(super) struct Network {
    prefix: String,
    peers: Vec<(Side, Ipv4Addr)>,
    /// Host number of the router on the outside.
    router: u8,
    has_router: bool,
    has_second: bool,
    /// By (speaker, listener).
    dropped: BTreeMap<(usize, usize), LostInput>,
}

/// Runs a program to its end; what it said when that was no success.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), Fail> {
    let trouble = |why: String| Fail::Trouble(format!("{program} {}: {why}", arguments.join(" ")));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| trouble(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why on its error stream.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| trouble(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(trouble(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

fn ip(arguments: &str) -> Result<(), Fail> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    run("ip", &words, "")
}

/// Why this machine cannot have such networks, if it cannot.
pub(super) fn missing() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    for (program, package) in [("ip", "iproute2"), ("iptables-restore", "iptables")] {
        if run(program, &[if program == "ip" { "-V" } else { "--version" }], "").is_err() {
            return Some(format!("`{program}` is missing (package {package})"));
        }
    }
    let probe = Network {
        prefix: fresh_prefix(),
        peers: Vec::new(),
        router: ROUTER,
        has_router: false,
        has_second: false,
        dropped: BTreeMap::new(),
    };
    let name = probe.switch();
    let all = "*filter\n-A INPUT -m statistic --mode random --probability 0.5 -j DROP\nCOMMIT\n\
               *nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n";
    let tried = ip(&format!("netns add {name}")).and_then(|()| probe.restore(&name, all));
    tried.err().map(|why| format!("no namespace with filter rules can be had: {why}"))
}

/// Removes what runners left behind that were killed the hard way. Their peers ended with them.
pub(super) fn sweep() {
    let left = |directory: &Path| {
        let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_left_over(name))
            .collect::<Vec<_>>()
    };
    // Another runner may be sweeping too.
    for name in left(Path::new("/run/netns")) {
        let _ = ip(&format!("netns del {name}"));
    }
    let homes = std::env::temp_dir();
    for name in left(&homes) {
        let _ = std::fs::remove_dir_all(homes.join(name));
    }
}

/// True if a name is of a runner that is no more.
fn is_left_over(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('x')).map(|(pid, _)| pid.parse::<u32>());
    matches!(pid, Some(Ok(pid)) if !Path::new("/proc").join(pid.to_string()).exists())
}

/// A name that nobody else uses, with the process id of this runner in it.
pub(super) fn fresh_prefix() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn host(side: Side, number: u8) -> Ipv4Addr {
    match side {
        Side::Outside => Ipv4Addr::new(10, 77, 0, number),
        Side::Inside => Ipv4Addr::new(10, 78, 0, number),
        Side::Second => Ipv4Addr::new(10, 79, 0, number),
    }
}

impl Network {
    /// A switch and one namespace per peer; all that are outside reach each other.
    pub(super) fn new(sides: &[Side]) -> Result<Self, Fail> {
        let peers = sides.iter().zip(1..).map(|(side, number)| (*side, host(*side, number))).collect();
        let (has_router, has_second) = (sides.contains(&Side::Inside), sides.contains(&Side::Second));
        let prefix = fresh_prefix();
        let network = Self { prefix, peers, router: ROUTER, has_router, has_second, dropped: BTreeMap::new() };
        let switch = network.switch();
        ip(&format!("netns add {switch}"))?;
        for bridge in ["out", "in", "second"] {
            ip(&format!("-n {switch} link add {bridge} type bridge"))?;
            ip(&format!("-n {switch} link set {bridge} up type bridge mcast_snooping 0"))?;
        }
        for (index, (side, address)) in network.peers.iter().enumerate() {
            let name = network.namespace(index);
            network.plug(&name, "eth0", *side, *address)?;
            if *side != Side::Outside {
                ip(&format!("-n {name} route add default via {}", host(*side, ROUTER)))?;
            }
        }
        if has_router {
            network.put_router(&network.router(), Side::Inside, ROUTER)?;
        }
        if has_second {
            network.put_router(&network.second_router(), Side::Second, SECOND_ROUTER)?;
        }
        Ok(network)
    }

    /// A router with this host number outside, as people have them at home. Where there are two, they drop whatever comes
    /// unasked, before anything notes it: else a first packet that comes too early takes the port that the router itself
    /// would use.
    fn put_router(&self, name: &str, side: Side, number: u8) -> Result<(), Fail> {
        self.plug(name, "wan", Side::Outside, host(Side::Outside, number))?;
        self.plug(name, "lan", side, host(side, ROUTER))?;
        run("ip", &["netns", "exec", name, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], "")?;
        let mut tables = "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n".to_owned();
        if self.has_second {
            tables.push_str(
                "*filter\n-A INPUT -i wan -j DROP\n-A FORWARD -i wan -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
                 -A FORWARD -i wan -j DROP\nCOMMIT\n",
            );
        }
        self.restore(name, &tables)
    }

    /// Makes the namespace if need be, and puts a cable from it into the switch.
    fn plug(&self, name: &str, device: &str, side: Side, address: Ipv4Addr) -> Result<(), Fail> {
        static PORT: AtomicU32 = AtomicU32::new(0);
        let (switch, port) = (self.switch(), format!("p{}", PORT.fetch_add(1, Ordering::Relaxed)));
        let bridge = match side {
            Side::Outside => "out",
            Side::Inside => "in",
            Side::Second => "second",
        };
        if !PathBuf::from("/run/netns").join(name).exists() {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        ip(&format!("-n {switch} link add {port} type veth peer name {device} netns {name}"))?;
        ip(&format!("-n {switch} link set {port} master {bridge} up"))?;
        ip(&format!("-n {name} addr add {address}/24 dev {device}"))?;
        ip(&format!("-n {name} link set {device} up"))
    }

    fn switch(&self) -> String {
        format!("{}s", self.prefix)
    }

    fn router(&self) -> String {
        format!("{}r", self.prefix)
    }

    fn second_router(&self) -> String {
        format!("{}r2", self.prefix)
    }

    fn relay(&self) -> String {
        format!("{}y", self.prefix)
    }

    /// Name of a peer's namespace.
    pub(super) fn namespace(&self, peer: usize) -> String {
        format!("{}p{peer}", self.prefix)
    }

    /// Where a peer's door is.
    pub(super) fn address(&self, peer: usize) -> Ipv4Addr {
        self.peers[peer].1
    }

    fn restore(&self, namespace: &str, tables: &str) -> Result<(), Fail> {
        debug_assert!(namespace.starts_with(&self.prefix), "never the machine's own rules");
        run("ip", &["netns", "exec", namespace, "iptables-restore", "-w"], tables)
    }

    /// Lets `listener` hear only a part of what `speaker` says: `rate` of the packets are lost, 1 is all of them.
    pub(super) fn drop_input(&mut self, speaker: usize, listener: usize, rate: f64) -> Result<(), Fail> {
        let lost = if rate >= 1.0 { LostInput::All } else { LostInput::Part(rate) };
        self.dropped.insert((speaker, listener), lost);
        self.filter(listener)
    }

    /// Peers of different groups do not hear each other from now on; who is in no group is not touched.
    pub(super) fn split(&mut self, groups: &[Vec<usize>]) -> Result<(), Fail> {
        let group = |peer: usize| groups.iter().position(|group| group.contains(&peer));
        for a in 0..self.peers.len() {
            for b in 0..self.peers.len() {
                if let (Some(one), Some(other)) = (group(a), group(b)) {
                    self.dropped.remove(&(a, b));
                    if one != other {
                        self.dropped.insert((a, b), LostInput::All);
                    }
                }
            }
        }
        self.filter_all()
    }

    /// Everyone hears everyone.
    pub(super) fn heal(&mut self) -> Result<(), Fail> {
        self.dropped.clear();
        self.filter_all()
    }

    fn filter_all(&self) -> Result<(), Fail> {
        (0..self.peers.len()).try_for_each(|listener| self.filter(listener))
    }

    /// Writes a listener's rules anew: one table, put in place at once.
    fn filter(&self, listener: usize) -> Result<(), Fail> {
        use std::fmt::Write as _;
        let mut table = "*filter\n:INPUT ACCEPT [0:0]\n".to_owned();
        for ((speaker, _), lost) in self.dropped.iter().filter(|((_, to), _)| *to == listener) {
            let (side, address) = self.peers[*speaker];
            // Those on other networks see only the router of those inside.
            let source = match side {
                Side::Inside if side != self.peers[listener].0 => host(Side::Outside, self.router),
                Side::Second if side != self.peers[listener].0 => host(Side::Outside, SECOND_ROUTER),
                Side::Outside | Side::Inside | Side::Second => address,
            };
            let part = match lost {
                LostInput::All => String::new(),
                LostInput::Part(rate) => format!("-m statistic --mode random --probability {rate} "),
            };
            let _ = writeln!(table, "-A INPUT -s {source} {part}-j DROP");
        }
        table.push_str("COMMIT\n");
        self.restore(&self.namespace(listener), &table)
    }

    /// Gives a peer another address: it has moved to another place of the network.
    pub(super) fn move_peer(&mut self, peer: usize, number: u8) -> Result<(), Fail> {
        let (side, old) = self.peers[peer];
        let (name, new) = (self.namespace(peer), host(side, number));
        ip(&format!("-n {name} addr del {old}/24 dev eth0"))?;
        ip(&format!("-n {name} addr add {new}/24 dev eth0"))?;
        if side != Side::Outside {
            ip(&format!("-n {name} route replace default via {}", host(side, ROUTER)))?;
        }
        self.peers[peer].1 = new;
        self.filter_all()
    }

    /// Gives the router another address outside, and with it a memory without connections.
    pub(super) fn move_router(&mut self, number: u8) -> Result<(), Fail> {
        let name = self.router();
        // Down and up again: the kernel forgets the translations of an address that goes with its device.
        ip(&format!("-n {name} link set wan down"))?;
        ip(&format!("-n {name} addr del {}/24 dev wan", host(Side::Outside, self.router)))?;
        ip(&format!("-n {name} addr add {}/24 dev wan", host(Side::Outside, number)))?;
        ip(&format!("-n {name} link set wan up"))?;
        self.router = number;
        self.filter_all()
    }

    /// Makes the relay's namespace and sends all peers' packets for each other there. The relay listens at the answer's
    /// address, for each (sender, receiver) on the port [`relay_port`].
    pub(super) fn detour(&self) -> Result<(String, Ipv4Addr), Fail> {
        use std::fmt::Write as _;
        let (name, address) = (self.relay(), host(Side::Outside, RELAY));
        self.plug(&name, "eth0", Side::Outside, address)?;
        for from in 0..self.peers.len() {
            let mut table = "*nat\n:OUTPUT ACCEPT [0:0]\n".to_owned();
            for to in (0..self.peers.len()).filter(|to| *to != from) {
                let (door, port) = (self.address(to), relay_port(from, to));
                let _ = writeln!(
                    table,
                    "-A OUTPUT -p udp -d {door} --dport {QUIC_PORT} -j DNAT --to-destination {address}:{port}"
                );
            }
            table.push_str("COMMIT\n");
            self.restore(&self.namespace(from), &table)?;
        }
        Ok((name, address))
    }
}

/// Port at which the relay takes what `from` sends to `to`'s door.
pub(super) fn relay_port(from: usize, to: usize) -> u16 {
    10_000 + from as u16 * 100 + to as u16
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was never made cannot be removed, and nothing depends on it: the names are never used again.
        let extra = [(self.has_router, self.router()), (self.has_second, self.second_router())];
        let extra = extra.into_iter().filter_map(|(is_there, name)| is_there.then_some(name));
        let names = (0..self.peers.len()).map(|peer| self.namespace(peer)).chain([self.switch(), self.relay()]);
        for name in names.chain(extra) {
            if PathBuf::from("/run/netns").join(&name).exists() {
                let _ = ip(&format!("netns del {name}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_runners_left_is_swept() {
        // No process has this id: it is above what any kernel gives out.
        assert!(is_left_over("nsm4194305x0s") && is_left_over("nsm4194305x12-abcdef"));
        assert!(!is_left_over(&fresh_prefix()), "we live");
        for name in ["nsm", "nsmx1", "nsmabcx1", "eth0", "nsm4194305"] {
            assert!(!is_left_over(name), "{name}");
        }
    }

    #[test]
    fn relay_ports_are_each_pairs_own() {
        let ports: std::collections::BTreeSet<u16> =
            (0..10).flat_map(|a| (0..10).map(move |b| relay_port(a, b))).collect();
        assert_eq!(ports.len(), 100);
    }
}
