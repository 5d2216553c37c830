//! The validated settings, their defaults and limits.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_core::config::Class;
use mesh_core::ids::{NodeId, ToolName};
use mesh_core::policy::ToolPattern;
use mesh_core::tailnet::TagRule;

use super::policy::{PolicyError, PolicySettings};
use crate::plugin::{Plugin, PluginName, Value};

/// Name of the settings file in a home.
pub const FILE_NAME: &str = "sigil.toml";
/// First choice of the QUIC port; the next free one is taken when nobody set it.
pub const QUIC_PORT_DEFAULT: u16 = 7433;
/// First choice of the HTTP port; likewise.
pub const HTTP_PORT_DEFAULT: u16 = 7434;
/// Time to live of a call whose caller names none: longer than any reconnect, shorter than a person's patience.
pub const CALL_TTL_DEFAULT: Duration = Duration::from_mins(1);
/// Calls that run at once on a device whose owner names no number. A place is held from the journal's fsync to the end
/// of the run, so that few of them make the speed of the disk that of the queue: with 4, two cores that are shared by
/// three busy peers end half as many calls as with 16.
pub const CALLS_RUNNING_DEFAULT: u8 = 16;
/// The most that may be asked for: each may be a process.
pub const CALLS_RUNNING_MAX: u8 = 64;
/// See [`mesh_core::config::Rate::PER_S_DEFAULT`].
pub(super) const CALLS_RATE_DEFAULT: u16 = mesh_core::config::Rate::PER_S_DEFAULT;
/// More than one device takes of anybody.
pub(super) const CALLS_RATE_MAX: u16 = 10_000;
/// Time that a tool may run when its owner says nothing: as long as a default call may wait.
pub const TOOL_TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);
/// Longest time that a tool may be given.
pub const TOOL_TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// Bytes of a log file whose owner says nothing: at `info` years, at `debug` a day.
pub const LOG_SIZE_DEFAULT: u64 = 8 << 20;
/// Least and most that may be asked for.
pub const LOG_SIZES: RangeInclusive<u64> = 64 << 10..=1 << 30;

/// Socket of tailscaled where packages put it.
pub const TAILNET_SOCKET_DEFAULT: &str = "/var/run/tailscale/tailscaled.sock";

/// Everything that can be set, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The home that these settings are for.
    pub home: PathBuf,
    /// Role of this device in its mesh.
    pub node: Node,
    /// Ports to listen on.
    pub listen: Listen,
    /// Discovery of other devices.
    pub discovery: Discovery,
    /// Relaying for others, and by others.
    pub relay: Relay,
    /// The tailnet of this machine.
    pub tailnet: Tailnet,
    /// Reach of the files tools.
    pub files: Files,
    /// Commands that `shell.run` may run.
    pub shell: Shell,
    /// Command tools by name.
    pub tools: BTreeMap<ToolName, Plugin>,
    /// MCP servers by name; without those that are disabled.
    pub mcp_servers: BTreeMap<PluginName, Plugin>,
    /// Defaults of calls.
    pub calls: Calls,
    /// `[memory]`.
    pub memory: Memory,
    /// `[storage]`.
    pub storage: Storage,
    /// Logging of the agent.
    pub log: Log,
    /// Who may use what, as far as this file says it.
    pub rights: Rights,
}

/// All that the file says about rights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// The same, read.
    pub said: PolicySettings,
    /// The whole file, for the lines of what turns out to be wrong; empty if it says nothing about rights.
    pub text: String,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name to ask for; `None` = made from the host name.
    pub name: Option<NodeId>,
    /// Class for election, set or guessed. Without [`Class::PREFERRED`].
    pub class: Class,
    /// Preference for being the gateway.
    pub gateway: GatewayPreference,
    /// Tools that never run here, whoever asks. At most [`mesh_core::policy::bounds::LIST_MAX`].
    pub deny: Vec<ToolPattern>,
}

/// Preference of a device for being the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayPreference {
    /// As its class says.
    Auto,
    /// Before all that do not say this.
    Prefer,
    /// Not at all.
    Never,
}

/// `[listen]`. Port 0 = any free one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// UDP; `None` = nobody set it: [`QUIC_PORT_DEFAULT`] or what is free.
    pub quic_port: Option<u16>,
    /// TCP on loopback; `None` = nobody set it: [`HTTP_PORT_DEFAULT`] or what is free.
    pub http_port: Option<u16>,
    /// TCP, for foreign nodes; `None`: none come in.
    pub grpc: Option<SocketAddr>,
}

/// `[discovery]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Search for devices on the local network.
    pub lan: LanDiscovery,
}

/// See [`Discovery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanDiscovery {
    /// This device does not show itself and looks for nobody.
    Off,
    /// Members find each other everywhere; strangers only on networks on which the home was set up, or over which a
    /// device has joined.
    KnownNetworks,
    /// Strangers find each other everywhere.
    EveryNetwork,
}

/// `[relay]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Pass packets on for two others that reach each other by this device alone.
    pub offer: RelayOffer,
    /// Be reached by such a device.
    pub used: bool,
}

/// See [`Relay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayOffer {
    /// On a desktop or server; not on what runs from a battery.
    Auto,
    /// Whatever this device is.
    Always,
    /// Not at all.
    Never,
}

/// `[tailnet]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tailnet {
    /// Use of a tailnet.
    pub mode: TailnetMode,
    /// Socket of its tailscaled. An absolute path.
    pub socket: PathBuf,
    /// Tag that lets devices in here, and as what; `None` = none does.
    pub tag_rule: Option<TagRule>,
    /// True if people at other nodes of it may come in by HTTP, as who they are there.
    pub door: bool,
    /// Host name of a node in this program; `None` = the name of the device.
    pub hostname: Option<String>,
    /// Where the key is with which such a node joins. Never the key itself.
    pub auth_key: Option<Value>,
    /// URL of the control server of such a node; `None` = that of Tailscale.
    pub control_url: Option<String>,
}

/// See [`Tailnet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailnetMode {
    /// Not at all.
    Off,
    /// By the tailscaled of this machine where it runs, else by a node in this program where that can join.
    Auto,
    /// By the tailscaled of this machine, which should run.
    Host,
    /// By a node in this program.
    Embedded,
}

/// `[files]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Absolute paths. None = no files tools.
    pub roots: Vec<PathBuf>,
    /// True if files there may be written, moved and removed.
    pub write: bool,
}

/// `[shell]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
    /// Commands, word by word, in each of which `*` is any run of characters. None = no such tool.
    pub allow: Vec<Vec<String>>,
    /// Longest run of one.
    pub timeout: Duration,
}

/// `[calls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// Time to live of a call whose caller names none.
    pub ttl: Duration,
    /// Calls that run at once here; more wait their turn.
    pub running: u8,
    /// Calls of one tool that one asker who is no owner may make here in a second; at once as many as
    /// [`mesh_core::config::Rate::of`] says.
    pub rate: u16,
}

/// Messages of one batch of compaction, where nobody set it.
pub(super) const MEMORY_BATCH_DEFAULT: u16 = 50;
/// The largest batch.
pub(super) const MEMORY_BATCH_MAX: u16 = memory_core::limits::BATCH_MESSAGES_MAX as u16;
/// Messages that wait beyond a batch before one is taken unasked, where nobody set it.
pub(super) const MEMORY_WINDOW_DEFAULT: u16 = 20;
/// The largest window.
pub(super) const MEMORY_WINDOW_MAX: u16 = 10_000;

/// `[memory]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Messages that one compaction takes.
    pub batch: u16,
    /// Messages that stay out of it when it comes by itself.
    pub window: u16,
    /// True if facts are extracted.
    pub facts: bool,
    /// When a model writes heads of summaries and proposes facts, where there is one.
    pub summarizer: memory_core::writing::When,
}

impl Memory {
    /// The same for the core of memory.
    #[must_use]
    pub fn compaction(&self) -> memory_core::compaction::Settings {
        let Self { batch, window, facts, .. } = *self;
        memory_core::compaction::Settings { batch: batch.into(), window: window.into(), facts }
    }
}

/// `[storage]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Bytes that must be free on the disk of the home, or this device takes no new work. `None` = nobody set it: the
    /// larger of 500 MB and 5 % of the file system, at most a tenth of it.
    pub free_min: Option<u64>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A filter of tracing, such as `info` or `sigil=debug,warn`.
    pub level: String,
    /// Form of the lines.
    pub format: LogFormat,
    /// Bytes of the log file of an agent in the background; it is followed by one of the same size at most.
    pub max_size: u64,
}

/// See [`Log`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Settings of the command line; `None` = not given.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `node.name`
    pub name: Option<String>,
    /// `listen.quic_port`
    pub quic_port: Option<u16>,
    /// `listen.http_port`
    pub http_port: Option<u16>,
}

/// Something in the settings that does no harm but is hardly meant. Fit for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reason why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is there but cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or has a table where a value belongs.
    #[error("{} cannot be understood: {why}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Place and cause.
        why: String,
    },
    /// A value is not one of those that are allowed.
    #[error("{at}{key} = `{value}` is not allowed: it must be {allowed}")]
    Value {
        /// The file, line and column, such as `sigil.toml:7:12: `; empty if it is not from the file.
        at: String,
        /// The key, and where the value comes from if that is not the file.
        key: String,
        /// The value.
        value: String,
        /// Values that are.
        allowed: String,
    },
    /// Its words about rights cannot be.
    #[error("{}: {why}", path.display())]
    Rights {
        /// The file.
        path: PathBuf,
        /// Line, place and cause.
        why: Box<PolicyError>,
    },
}

/// Mark by which a changed settings file is told from the one that was read, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    changed: (i64, i64),
    bytes: u64,
    inode: u64,
}

impl Stamp {
    /// Mark of the file in `home`; `None` if there is none, or it cannot be looked at.
    #[must_use]
    pub fn of(home: &Path) -> Option<Self> {
        let found = std::fs::metadata(home.join(FILE_NAME)).ok()?;
        Some(Self { changed: (found.mtime(), found.mtime_nsec()), bytes: found.len(), inode: found.ino() })
    }
}

/// Keys in which two configurations differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// A running agent takes these.
    pub live: Vec<String>,
    /// These are built into the parts of an agent when it starts.
    pub at_next_start: Vec<String>,
}

impl Config {
    /// Keys in which `self` differs from what runs: `now` for what a running agent takes, `started` for the rest.
    #[must_use]
    pub fn differences(&self, now: &Self, started: &Self) -> Differences {
        let Self {
            home: _,
            node,
            listen,
            discovery,
            relay,
            tailnet,
            files,
            shell,
            tools,
            mcp_servers,
            calls,
            memory,
            storage,
            log,
            rights,
        } = self;
        let mut live = Vec::new();
        let mut note = |key: &str, same: bool| {
            if !same {
                live.push(key.to_owned());
            }
        };
        note("node.deny", node.deny == now.node.deny);
        note("files.roots", files.roots == now.files.roots);
        note("files.write", files.write == now.files.write);
        note("shell.allow", shell.allow == now.shell.allow);
        note("shell.timeout", shell.timeout == now.shell.timeout);
        note("calls.ttl", calls.ttl == now.calls.ttl);
        let (new, old) = (&rights.said, &now.rights.said);
        note("people", new.people == old.people);
        note("agents", new.agents == old.agents);
        note("devices", new.devices == old.devices);
        note("workspaces", new.workspaces == old.workspaces);
        note("checks", new.checks == old.checks);
        let names: std::collections::BTreeSet<_> = tools.keys().chain(now.tools.keys()).collect();
        for name in names {
            note(&format!("tools.{name}"), tools.get(name) == now.tools.get(name));
        }
        let names: std::collections::BTreeSet<_> = mcp_servers.keys().chain(now.mcp_servers.keys()).collect();
        for name in names {
            note(&format!("mcp_servers.{name}"), mcp_servers.get(name) == now.mcp_servers.get(name));
        }
        let fixed = [
            ("node.name", node.name == started.node.name),
            ("node.class", node.class == started.node.class),
            ("node.gateway", node.gateway == started.node.gateway),
            ("listen.quic_port", listen.quic_port == started.listen.quic_port),
            ("listen.http_port", listen.http_port == started.listen.http_port),
            ("listen.grpc", listen.grpc == started.listen.grpc),
            ("discovery.lan", *discovery == started.discovery),
            ("relay.offer", relay.offer == started.relay.offer),
            ("relay.use", relay.used == started.relay.used),
            ("tailnet", *tailnet == started.tailnet),
            ("calls.running", calls.running == started.calls.running),
            ("calls.rate", calls.rate == started.calls.rate),
            ("memory", *memory == started.memory),
            ("storage.free_min", *storage == started.storage),
            ("log.level", log.level == started.log.level),
            ("log.format", log.format == started.log.format),
            ("log.max_size", log.max_size == started.log.max_size),
        ];
        let at_next_start = fixed.into_iter().filter(|(_, same)| !same).map(|(key, _)| key.to_owned()).collect();
        Differences { live, at_next_start }
    }

    /// True if this device relays for others.
    #[must_use]
    pub fn relays(&self) -> bool {
        match self.relay.offer {
            RelayOffer::Auto => self.node.class >= Class::DESKTOP,
            RelayOffer::Always => true,
            RelayOffer::Never => false,
        }
    }

    /// The slice of the settings that the core gets.
    #[must_use]
    pub fn peer(&self) -> mesh_core::config::Config {
        let Class(class) = self.node.class;
        let preferred = if self.node.gateway == GatewayPreference::Prefer { Class::PREFERRED } else { 0 };
        mesh_core::config::Config {
            class: Class(class + preferred),
            eligible: self.node.gateway != GatewayPreference::Never,
            running_max: self.calls.running.into(),
            rate: mesh_core::config::Rate::of(self.calls.rate),
            ..mesh_core::config::Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(FILE_NAME), text).unwrap();
        crate::config::load(home.path(), &Overrides::default()).unwrap().0
    }

    #[test]
    fn b16_what_a_running_agent_takes_is_told_from_what_waits() {
        let started = config("[node]\nname = 'a'\n[tools.x]\ncommand = 'x'\n[tools.y]\ncommand = 'y'\n");
        let newer = config(
            "[node]\nname = 'b'\ndeny = ['z']\n[listen]\nquic_port = 7\n[tools.x]\ncommand = 'x'\n[tools.y]\ncommand = 'yy'\n[tools.z]\ncommand = 'z'\n[calls]\nttl = '2m'\nrunning = 3\n",
        );
        let found = newer.differences(&started, &started);
        assert_eq!(found.live, ["node.deny", "calls.ttl", "tools.y", "tools.z"]);
        assert_eq!(found.at_next_start, ["node.name", "listen.quic_port", "calls.running"]);
        // What runs has been taken by an earlier reload; what waits still does.
        let again = newer.differences(&newer, &started);
        assert_eq!((again.live.len(), again.at_next_start), (0, found.at_next_start));
        assert_eq!(started.differences(&started, &started), Differences::default());
    }

    #[test]
    fn b16_a_changed_file_has_another_stamp() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Stamp::of(home.path()), None);
        std::fs::write(home.path().join(FILE_NAME), "a").unwrap();
        let first = Stamp::of(home.path());
        assert!(first.is_some() && Stamp::of(home.path()) == first);
        std::fs::write(home.path().join(FILE_NAME), "ab").unwrap();
        assert_ne!(Stamp::of(home.path()), first);
    }
}
