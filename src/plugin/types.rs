//! The one description of a plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use mesh_core::ids::ToolName;
use mesh_core::policy::ToolPattern;
use mesh_core::record::Effect;
use schemars::JsonSchema;

use super::egress::Egress;
use super::image::Image;
use super::limits::MemoryLimit;
use super::names::{PluginName, SecretName};

/// What runs tools on this device, as its owner describes it, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// Its name.
    pub name: PluginName,
    /// Its version, for people.
    pub version: Option<semver::Version>,
    /// For people; at most 200 characters.
    pub description: String,
    /// Powers that people are shown: what the manifest names, and otherwise what it asks for.
    pub capabilities: BTreeSet<Capability>,
    /// What stands before the names of its tools, with what is between: `photo-tools.`; empty for nothing.
    pub prefix: String,
    /// The way in which it runs.
    pub execution: Execution,
    /// Its tools, by their whole names. Of an MCP or gRPC server: none, as it tells them itself.
    pub tools: Vec<ToolEntry>,
    /// Choice among the tools of an MCP server.
    pub mcp: Mcp,
}

/// A power that people are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Capability {
    /// It reads or writes files of this device.
    Files,
    /// It reaches the network.
    Network,
}

/// The way in which a plugin runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The way in which it is spoken to.
    pub protocol: Protocol,
    /// Its place.
    pub runs: Runs,
    /// Longest run of a call. At most 24 h.
    pub timeout: Duration,
    /// Bytes of output of a call.
    pub output_limit: u64,
    /// Runs at once; `None`: as many as this device runs calls.
    pub concurrency: Option<NonZeroU8>,
    /// The level below which it does not run.
    pub min_level: Level,
}

/// The way in which a plugin is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A process for each call: arguments on standard input, the answer on standard output.
    Json,
    /// One server, by the Model Context Protocol.
    Mcp,
    /// One server, by `tool.proto`, at this port within its container.
    Grpc(u16),
}

/// Place in which a plugin runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runs {
    /// A process of this device.
    Process(Program, Process),
    /// A container.
    Container(Program, Container),
    /// Elsewhere; it is spoken to over HTTP.
    Remote(Remote),
}

/// Kind of place in which a plugin runs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Tier {
    /// A process, confined as far as the kernel can.
    Process,
    /// A container of an image of its own.
    Container,
}

/// A program, and what it is given and may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Program and arguments; empty: what the image starts. A program with `./` is in the plugin's folder.
    pub command: Vec<String>,
    /// Added to its environment.
    pub env: BTreeMap<String, Value>,
    /// Its network.
    pub network: NetworkMode,
    /// Places that it may reach with [`NetworkMode::Restricted`].
    pub egress: Vec<Egress>,
    /// Absolute paths that it may read.
    pub read: Vec<PathBuf>,
    /// Absolute paths that it may write.
    pub write: Vec<PathBuf>,
    /// Where those of `read` and `write` led when the owner of this device allowed them: one that leads elsewhere now is not given.
    /// Of those that its own settings name none is here.
    pub allowed: BTreeMap<PathBuf, PathBuf>,
    /// Its memory; `None`: as much as there is.
    pub memory_limit: Option<MemoryLimit>,
    /// Its share of the cores, in thousandths; `None`: all.
    pub cpu_limit: Option<u32>,
    /// Its processes; `None`: as many as there may be.
    pub pids_limit: Option<u32>,
    /// Bytes of its private `/tmp`.
    pub tmp_size: u64,
}

/// What concerns processes alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// True if it may connect to sockets in the file system: to a desktop, say.
    pub unix_sockets: bool,
    /// True if what it leaves running when it ends by itself is not ended.
    pub keep_running: bool,
    /// Directory in which it is started; `None`: a private one.
    pub cwd: Option<PathBuf>,
}

/// What concerns containers alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its image.
    pub image: Image,
    /// When the image is fetched.
    pub pull: Pull,
    /// The file that keeps which image was run first since the owner of this device allowed what is asked for: another one of its
    /// name waits for another word. `None` where nothing was to be allowed, and of the owner's own settings.
    pub pin: Option<PathBuf>,
    /// The user that it runs as.
    pub user: User,
    /// Bytes of shared memory; 0: none.
    pub shm_size: u64,
    /// For how long one lives.
    pub instance: Instance,
    /// Containers that wait for the next call, 0 to 4.
    pub warm: u8,
    /// Time after which a shared one that is not used is stopped; `None`: never.
    pub idle: Option<Duration>,
}

/// A server elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// `https://…`, or `http://…`.
    pub url: String,
    /// Sent with each request.
    pub headers: BTreeMap<String, Value>,
}

/// Network of a plugin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum NetworkMode {
    /// None at all.
    #[default]
    None,
    /// A proxy to the places that it names. Programs that ignore `HTTPS_PROXY` reach nothing.
    Restricted,
    /// That of this device.
    Host,
}

/// A text that is no [`NetworkMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be none, restricted or host")]
pub struct UnknownNetworkMode;

impl FromStr for NetworkMode {
    type Err = UnknownNetworkMode;

    fn from_str(text: &str) -> Result<Self, UnknownNetworkMode> {
        match text {
            "none" => Ok(Self::None),
            "restricted" => Ok(Self::Restricted),
            "host" => Ok(Self::Host),
            _ => Err(UnknownNetworkMode),
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Restricted => "restricted",
            Self::Host => "host",
        })
    }
}

/// When an image is fetched. Never as a part of a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Pull {
    /// When it is not here.
    #[default]
    Missing,
    /// Not at all.
    Never,
    /// At each start of the plugin.
    Always,
}

/// User within a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// These numbers.
    Ids(u32, u32),
    /// As the image says.
    OfImage,
}

/// For how long an instance lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Instance {
    /// For one call.
    Call,
    /// For many.
    Shared,
}

/// How far a plugin is confined: each level holds what the one before does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Level {
    /// A process group with limits.
    #[default]
    Bare,
    /// And system calls are filtered.
    Guarded,
    /// And paths are.
    Confined,
    /// And it sees processes and mounts of its own alone.
    Isolated,
    /// In a container.
    Container,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => "bare",
            Self::Guarded => "guarded",
            Self::Confined => "confined",
            Self::Isolated => "isolated",
            Self::Container => "container",
        })
    }
}

/// A value of the environment or of a header. It is resolved when a process is started, and not before.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// This text.
    Text(String),
    /// The secret of this name.
    Secret(SecretName),
    /// The variable of this name of the agent's own environment.
    Env(String),
    /// The content of this file, without the line end at its end.
    File(PathBuf),
}

impl fmt::Debug for Value {
    /// Never a text: people write secrets there all the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::Secret(name) => f.debug_tuple("Secret").field(&name.as_str()).finish(),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// A tool of a plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolEntry {
    /// Its whole name.
    pub name: ToolName,
    /// For people; may be empty.
    pub title: String,
    /// For people; at most 200 bytes.
    pub description: String,
    /// Effect of running it again.
    pub effect: Effect,
    /// Added to the command.
    pub args: Vec<String>,
    /// JSON Schema of its arguments; `None`: any.
    pub input_schema: Option<serde_json::Value>,
    /// Kind of its output.
    pub output: ToolOutput,
    /// Longest run; `None`: that of the plugin.
    pub timeout: Option<Duration>,
    /// True if only owners, and whom they give it to, may call it.
    pub owner_only: bool,
}

/// Kind of a tool's output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolOutput {
    /// JSON, text or bytes, by its looks.
    #[default]
    Guessed,
    /// Of this media type.
    Media(String),
    /// The files that it leaves in `$SIGIL_OUT`.
    Parts,
}

/// Choice among the tools of an MCP server, by their names without the prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mcp {
    /// Those that are offered; empty: all.
    pub expose: Vec<ToolPattern>,
    /// Those that a person is to be asked for.
    pub approve: Vec<ToolPattern>,
    /// Effects of running them again; `once` for all others.
    pub effects: BTreeMap<ToolName, Effect>,
    /// What is done with a server that goes on with a call that was cancelled.
    pub cancel: Cancel,
    /// True if it is started by the first call only.
    pub lazy: bool,
}

/// What is done with a server that goes on with a call that was cancelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Cancel {
    /// It is told.
    #[default]
    Tell,
    /// It is told, and started anew if it does not listen and runs nothing else.
    Restart,
}

/// Something that an installed plugin does only once the owner of this device has allowed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consent {
    /// To run as a process of this device.
    Process,
    /// To use the network of this device, or to reach something of this house.
    HostNetwork,
    /// To read or write files of this device, talk to its services over unix sockets, or be given variables of the agent.
    HostData,
    /// To be given secrets of this device.
    Secrets,
}

impl fmt::Display for Consent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::HostNetwork => "host-network",
            Self::HostData => "host-data",
            Self::Secrets => "secrets",
        })
    }
}

impl Plugin {
    /// The program that is started, if one is.
    #[must_use]
    pub fn program(&self) -> Option<&Program> {
        match &self.execution.runs {
            Runs::Process(program, _) | Runs::Container(program, _) => Some(program),
            Runs::Remote(_) => None,
        }
    }

    /// The tier that it asks for; `None` for what does not run here.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        match self.execution.runs {
            Runs::Process(..) => Some(Tier::Process),
            Runs::Container(..) => Some(Tier::Container),
            Runs::Remote(_) => None,
        }
    }

    /// What an owner has to allow before it runs, if it was installed.
    #[must_use]
    pub fn consents(&self) -> BTreeSet<Consent> {
        let mut consents = BTreeSet::new();
        if self.tier() == Some(Tier::Process) {
            consents.insert(Consent::Process);
        }
        // What is at an address is asked by the agent, from where it is.
        let is_inside = |program: &Program| program.egress.iter().any(Egress::is_inside);
        if self.program().is_none_or(|program| program.network == NetworkMode::Host || is_inside(program)) {
            consents.insert(Consent::HostNetwork);
        }
        let reaches_out = self.program().is_some_and(|program| !program.read.is_empty() || !program.write.is_empty());
        let to_services = matches!(&self.execution.runs, Runs::Process(_, process) if process.unix_sockets);
        if reaches_out || to_services || !self.given().is_empty() {
            consents.insert(Consent::HostData);
        }
        if !self.secrets().is_empty() {
            consents.insert(Consent::Secrets);
        }
        consents
    }

    /// Values of its environment or headers, by name.
    fn values(&self) -> &BTreeMap<String, Value> {
        match &self.execution.runs {
            Runs::Process(program, _) | Runs::Container(program, _) => &program.env,
            Runs::Remote(remote) => &remote.headers,
        }
    }

    /// The files and variables of this device whose content it is given, for people.
    #[must_use]
    pub fn given(&self) -> BTreeSet<String> {
        let given = self.values().values().filter_map(|value| match value {
            Value::File(path) => Some(path.display().to_string()),
            Value::Env(name) => Some(format!("${name}")),
            Value::Text(_) | Value::Secret(_) => None,
        });
        given.collect()
    }

    /// The secrets that it is given.
    #[must_use]
    pub fn secrets(&self) -> BTreeSet<&SecretName> {
        let names = self.values().values().filter_map(|value| match value {
            Value::Secret(name) => Some(name),
            Value::Text(_) | Value::Env(_) | Value::File(_) => None,
        });
        names.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_c4_network_modes_are_three_and_no_more() {
        for (text, mode) in
            [("none", NetworkMode::None), ("restricted", NetworkMode::Restricted), ("host", NetworkMode::Host)]
        {
            assert_eq!(text.parse(), Ok(mode));
            assert_eq!(mode.to_string(), text);
        }
        for other in ["", "internal", "bridge", "None", "HOST", " none", "none ", "default", "container:x"] {
            assert_eq!(other.parse::<NetworkMode>(), Err(UnknownNetworkMode), "{other:?}");
        }
    }

    #[test]
    fn no_text_of_a_manifest_is_in_a_debug() {
        assert!(!format!("{:?}", Value::Text("hunter2".to_owned())).contains("hunter2"));
    }
}
