//! From what is written to a [`Plugin`].

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;
use std::ops::RangeInclusive;
use std::path::{Component, PathBuf};
use std::time::Duration;

use mesh_core::ids::ToolName;
use mesh_core::limits::{self, RESULT_BYTES_MAX};
use mesh_core::policy::ToolPattern;
use mesh_core::policy::bounds::LIST_MAX;
use mesh_core::record::Effect;

use super::container::{CPU_DEFAULT, PIDS_DEFAULT};
use super::egress::{Egress, EgressHost};
use super::image::{Image, validate_image};
use super::limits::{CPU_RULE, MEMORY_RULE, MemoryLimit, SIZE_RULE, TMP_DEFAULT, parse_cpu, parse_memory_limit};
use super::names::{PluginName, SecretName};
use super::raw::{Raw, RawExecution, RawOutput, RawServer, RawTool, RawValue};
use super::types::{
    Cancel, Capability, Container, Execution, Instance, Level, Mcp, NetworkMode, Plugin, Process, Program, Protocol,
    Pull, Remote, Runs, Tier, ToolEntry, ToolOutput, User, Value,
};
use crate::json::deeper_than;
use crate::value::{DURATION_RULE, parse_duration, parse_size, show_duration, show_size};

/// Longest part of a bad value that its error repeats.
const SHOWN_BYTES_MAX: usize = 80;
/// Longest run of a call.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);
/// Longest run of a call of which nothing is said.
const TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);
/// Most processes.
const PIDS_MAX: u32 = 32_768;
/// Largest `/tmp`, and most shared memory: they are memory.
const TMP_MAX: u64 = 16 << 30;
/// Runs at once of a plugin of processes.
const CONCURRENCY_JSON: NonZeroU8 = NonZeroU8::new(4).expect("it is not 0");
/// Runs at once of a server.
const CONCURRENCY_SERVER: NonZeroU8 = NonZeroU8::new(8).expect("it is not 0");
/// Most runs at once.
const CONCURRENCY_MAX: u8 = 64;
/// Most containers that wait.
const WARM_MAX: u8 = 4;
/// Time after which a shared container that is not used is stopped, of which nothing is said.
const IDLE_DEFAULT: Duration = Duration::from_mins(5);
/// The user of containers: nobody.
const USER_DEFAULT: User = User::Ids(65_534, 65_534);
/// Tools of one plugin.
const TOOLS_MAX: usize = 128;
/// Arguments of a program; variables; headers; places.
const ITEMS_MAX: usize = 256;
/// Bytes of one argument, variable, path.
const ITEM_BYTES_MAX: usize = 16 << 10;
/// Characters of a description or title.
const TEXT_CHARS_MAX: usize = 200;
/// Bytes and depth of the schema of a tool.
const SCHEMA_BYTES_MAX: usize = 64 << 10;
/// See [`SCHEMA_BYTES_MAX`].
const SCHEMA_DEPTH_MAX: usize = 32;

/// A value that is not one of those that are allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}{key} = {value:?} is not allowed: it must be {allowed}")]
pub struct Invalid {
    /// File, line and column, such as `plugin.yaml:7:12: `; empty if it is not known.
    pub at: String,
    /// The key.
    pub key: String,
    /// The value, cut.
    pub value: String,
    /// Values that are.
    pub allowed: String,
}

/// A file in which a plugin is written.
pub trait Source {
    /// A key of a manifest, such as `execution.network`, as it is called there.
    fn key(&self, key: &str) -> String;

    /// The place of its value, such as `plugin.yaml:7:12: `; empty if it is not known.
    fn at(&self, key: &str) -> String;
}

type Checked<T> = Result<T, Invalid>;

/// Checks a manifest; what does no harm but is hardly meant goes to `warnings`.
pub(super) fn manifest(raw: Raw, source: &dyn Source, warnings: &mut Vec<String>) -> Checked<Plugin> {
    let mut checker = Checker { source, warnings };
    checker.plugin(raw)
}

/// Checks `[mcp_servers.NAME]`, written by an owner of this device: it may run as a process with the network of the device,
/// unless it says otherwise. `None`: it is disabled.
///
/// # Errors
/// The first value that is not allowed.
pub fn server(
    name: &str,
    raw: RawServer,
    source: &dyn Source,
    warnings: &mut Vec<String>,
) -> Result<Option<Plugin>, Invalid> {
    let mut checker = Checker { source, warnings };
    let disabled = checker.flag("disabled", raw.disabled)?.unwrap_or_default();
    let is_container = raw.image.is_some() || raw.tier.as_deref() == Some("container");
    let network = match (&raw.url, raw.network, is_container) {
        (None, None, false) => Some("host".to_owned()),
        (_, network, _) => network,
    };
    let execution = RawExecution {
        tier: raw.tier.or_else(|| (raw.url.is_none() && !is_container).then(|| "process".to_owned())),
        protocol: Some("mcp".to_owned()),
        image: raw.image,
        command: raw.command.into_iter().chain(raw.args).collect(),
        cwd: raw.cwd,
        env: raw.env,
        url: raw.url,
        headers: raw.headers,
        network,
        egress: raw.egress,
        read: raw.read,
        write: raw.write,
        output_limit: raw.max_output,
        timeout: raw.timeout,
        lazy: raw.lazy,
        cancel: raw.cancel,
        min_level: Some("bare".to_owned()),
        ..RawExecution::default()
    };
    let plugin = Raw {
        name: Some(name.to_owned()),
        execution,
        expose: raw.expose,
        approve: raw.approve,
        effects: raw.effects,
        ..Raw::default()
    };
    let plugin = checker.plugin(plugin)?;
    Ok((!disabled).then_some(plugin))
}

struct Checker<'a> {
    source: &'a dyn Source,
    warnings: &'a mut Vec<String>,
}

impl Checker<'_> {
    fn bad(&self, key: &str, value: &str, allowed: impl Into<String>) -> Invalid {
        let shown = limits::cut(value, SHOWN_BYTES_MAX);
        let value = if shown.len() < value.len() { format!("{shown}…") } else { value.to_owned() };
        let allowed: String = allowed.into();
        // Rules of parsers are whole sentences.
        let allowed = allowed.strip_prefix("it must be ").map(ToOwned::to_owned).unwrap_or(allowed);
        Invalid { at: self.source.at(key), key: self.source.key(key), value, allowed }
    }

    fn warn(&mut self, key: &str, what: &str) {
        self.warnings.push(format!("{}{}: {what}", self.source.at(key), self.source.key(key)));
    }

    /// Refuses what is written where it means nothing.
    fn left_out(&self, key: &str, value: Option<&String>, of: &str) -> Checked<()> {
        value.map_or(Ok(()), |value| Err(self.bad(key, value, format!("left out here: {of}"))))
    }

    fn plugin(&mut self, raw: Raw) -> Checked<Plugin> {
        const SCHEMA: &str = "sigil/plugin/v1";
        if let Some(schema) = raw.schema.filter(|schema| schema != SCHEMA) {
            return Err(self.bad("schema", &schema, format!("{SCHEMA}, the only one that this version knows")));
        }
        let name = raw.name.unwrap_or_default();
        let name: PluginName = name.parse().map_err(|_| self.bad("name", &name, PluginName::RULE))?;
        let version = raw.version.map(|version| {
            semver::Version::parse(&version)
                .map_err(|_| self.bad("version", &version, "a version such as 1.2.0 (semver.org)"))
        });
        let prefix = match raw.prefix {
            None => format!("{name}."),
            Some(prefix) if prefix.is_empty() => prefix,
            Some(other) => return Err(self.bad("prefix", &other, "empty, for tools without one, or left out")),
        };
        let execution = self.execution(&raw.execution)?;
        let asked = capabilities_of(&execution);
        let capabilities = match raw.capabilities {
            None => asked,
            Some(named) => self.capabilities(&named, &asked)?,
        };
        let mcp = Mcp {
            expose: self.patterns("expose", raw.expose)?,
            approve: self.patterns("approve", raw.approve)?,
            effects: self.effects(raw.effects)?,
            cancel: self.one_of(
                "execution.cancel",
                raw.execution.cancel.as_ref(),
                Cancel::Tell,
                &[("tell", Cancel::Tell), ("restart", Cancel::Restart)],
            )?,
            lazy: self.flag("execution.lazy", raw.execution.lazy)?.unwrap_or_default(),
        };
        if !mcp.approve.is_empty() {
            self.warnings
                .push("`approve` is not in force yet: `sigil rule ask` makes a rule that asks a person".to_owned());
        }
        let tools = self.tools(raw.tools, &prefix, execution.protocol)?;
        if execution.protocol != Protocol::Mcp && mcp != Mcp::default() {
            let key = if mcp.expose.is_empty() { "approve" } else { "expose" };
            return Err(self.bad(key, "…", "left out here: it chooses among the tools of an MCP server"));
        }
        Ok(Plugin {
            name,
            version: version.transpose()?,
            description: self.text("description", raw.description)?,
            capabilities,
            prefix,
            execution,
            tools,
            mcp,
        })
    }

    fn execution(&mut self, raw: &RawExecution) -> Checked<Execution> {
        let key = |name: &str| format!("execution.{name}");
        let protocols = [("json", "json"), ("mcp", "mcp"), ("grpc", "grpc")];
        let protocol = match self.one_of(&key("protocol"), raw.protocol.as_ref(), "json", &protocols)? {
            "mcp" => Protocol::Mcp,
            "grpc" => Protocol::Grpc(self.port(raw.grpc_port.as_ref())?),
            _ => Protocol::Json,
        };
        if !matches!(protocol, Protocol::Grpc(_)) {
            self.left_out(&key("grpc_port"), raw.grpc_port.as_ref(), "it is of protocol grpc")?;
        }
        if protocol != Protocol::Mcp {
            self.left_out(&key("url"), raw.url.as_ref(), "it is of protocol mcp")?;
            self.left_out(&key("lazy"), raw.lazy.as_ref(), "it is of protocol mcp")?;
            self.left_out(&key("cancel"), raw.cancel.as_ref(), "it is of protocol mcp")?;
        }
        let runs = match &raw.url {
            Some(url) => Runs::Remote(self.remote(raw, url)?),
            None => self.here(raw, protocol)?,
        };
        let levels = [
            ("bare", Level::Bare),
            ("guarded", Level::Guarded),
            ("confined", Level::Confined),
            ("isolated", Level::Isolated),
            ("container", Level::Container),
        ];
        let most = match protocol {
            Protocol::Json => CONCURRENCY_JSON,
            Protocol::Mcp | Protocol::Grpc(_) => CONCURRENCY_SERVER,
        };
        let times = Duration::from_millis(1)..=TIMEOUT_MAX;
        let output = raw.output_limit.as_ref().map(|text| {
            // In the settings as the other sizes there, in a manifest as the other sizes there.
            let size = parse_memory_limit(text).ok().or_else(|| parse_size(text));
            size.filter(|size| (1..=RESULT_BYTES_MAX).contains(size)).ok_or_else(|| {
                self.bad(&key("output_limit"), text, format!("{SIZE_RULE}, at most {}", show_size(RESULT_BYTES_MAX)))
            })
        });
        Ok(Execution {
            protocol,
            runs,
            timeout: self.time(&key("timeout"), raw.timeout.as_ref(), times)?.unwrap_or(TIMEOUT_DEFAULT),
            output_limit: output.transpose()?.unwrap_or(RESULT_BYTES_MAX),
            concurrency: Some(self.concurrency(raw.concurrency.as_ref())?.unwrap_or(most)),
            min_level: self.one_of(&key("min_level"), raw.min_level.as_ref(), Level::Confined, &levels)?,
        })
    }

    /// What runs on this device.
    fn here(&mut self, raw: &RawExecution, protocol: Protocol) -> Checked<Runs> {
        let key = |name: &str| format!("execution.{name}");
        if let Some(name) = raw.headers.keys().next() {
            return Err(self.bad(&key("headers"), name, "left out here: they are sent to a `url`"));
        }
        let tiers = [("process", Tier::Process), ("container", Tier::Container)];
        match self.one_of(&key("tier"), raw.tier.as_ref(), Tier::Container, &tiers)? {
            Tier::Process => {
                for (name, value) in [
                    ("image", &raw.image),
                    ("pull", &raw.pull),
                    ("user", &raw.user),
                    ("shm_size", &raw.shm_size),
                    ("instance", &raw.instance),
                    ("warm", &raw.warm),
                    ("idle", &raw.idle),
                ] {
                    self.left_out(&key(name), value.as_ref(), "it is of containers, and `tier` is process")?;
                }
                if let Protocol::Grpc(_) = protocol {
                    return Err(self.bad(&key("protocol"), "grpc", "json or mcp here: grpc needs a container"));
                }
                let program = self.program(raw, None, None)?;
                if program.command.first().is_none_or(String::is_empty) {
                    let allowed = "the program to run and its arguments, such as [./bin/lamp, --json]";
                    return Err(self.bad(&key("command"), "", allowed));
                }
                Ok(Runs::Process(program, self.process(raw)?))
            }
            Tier::Container => {
                for (name, value) in
                    [("unix_sockets", &raw.unix_sockets), ("keep_running", &raw.keep_running), ("cwd", &raw.cwd)]
                {
                    self.left_out(&key(name), value.as_ref(), "it is of processes, and `tier` is container")?;
                }
                let image = self.image(raw.image.as_deref().unwrap_or_default())?;
                let program = self.program(raw, Some(MemoryLimit::DEFAULT), Some(CPU_DEFAULT))?;
                Ok(Runs::Container(program, self.container(raw, image, protocol)?))
            }
        }
    }

    fn image(&self, text: &str) -> Checked<Image> {
        validate_image(text).map_err(|error| self.bad("execution.image", text, error.to_string()))
    }

    fn program(
        &mut self,
        raw: &RawExecution,
        memory_default: Option<MemoryLimit>,
        cpu_default: Option<u32>,
    ) -> Checked<Program> {
        let key = |name: &str| format!("execution.{name}");
        let network = raw.network.as_deref().unwrap_or("none");
        let network: NetworkMode =
            network.parse().map_err(|_| self.bad(&key("network"), network, "none, restricted or host"))?;
        let egress = self.egress(&raw.egress, network)?;
        let memory_limit = raw.memory_limit.as_ref().map(|text| {
            let limit = parse_memory_limit(text).ok().and_then(MemoryLimit::new);
            limit.ok_or_else(|| self.bad(&key("memory_limit"), text, MEMORY_RULE))
        });
        let cpu_limit = raw
            .cpu_limit
            .as_ref()
            .map(|text| parse_cpu(text).ok_or_else(|| self.bad(&key("cpu_limit"), text, CPU_RULE)));
        let (read, write) = (self.paths(&key("read"), &raw.read)?, self.paths(&key("write"), &raw.write)?);
        // Whoever may write a directory may put another place under each name in it: on the next start that would be given.
        let inner =
            write.iter().chain(&read).find(|inner| write.iter().any(|of| *inner != of && inner.starts_with(of)));
        if let Some(inner) = inner {
            let allowed = "no path below one of `write`, which has it already";
            return Err(self.bad(&key("write"), &inner.display().to_string(), allowed));
        }
        Ok(Program {
            command: self.words(&key("command"), &raw.command)?,
            env: self.env(&raw.env)?,
            network,
            egress,
            read,
            write,
            allowed: BTreeMap::new(),
            memory_limit: memory_limit.transpose()?.or(memory_default),
            cpu_limit: cpu_limit.transpose()?.or(cpu_default),
            pids_limit: self.number(&key("pids_limit"), raw.pids_limit.as_ref(), 1..=PIDS_MAX)?.or(Some(PIDS_DEFAULT)),
            tmp_size: self.size(&key("tmp_size"), raw.tmp_size.as_ref(), 4096..=TMP_MAX)?.unwrap_or(TMP_DEFAULT),
        })
    }

    fn process(&self, raw: &RawExecution) -> Checked<Process> {
        let cwd = raw.cwd.as_ref().map(|cwd| {
            let sound = cwd.starts_with('/') && !cwd.contains('\0') && cwd.len() <= ITEM_BYTES_MAX;
            if sound { Ok(PathBuf::from(cwd)) } else { Err(self.bad("execution.cwd", cwd, "an absolute path")) }
        });
        Ok(Process {
            unix_sockets: self.flag("execution.unix_sockets", raw.unix_sockets.clone())?.unwrap_or_default(),
            keep_running: self.flag("execution.keep_running", raw.keep_running.clone())?.unwrap_or_default(),
            cwd: cwd.transpose()?,
        })
    }

    fn container(&self, raw: &RawExecution, image: Image, protocol: Protocol) -> Checked<Container> {
        let key = |name: &str| format!("execution.{name}");
        let pulls = [("missing", Pull::Missing), ("never", Pull::Never), ("always", Pull::Always)];
        let user = match raw.user.as_deref() {
            None => USER_DEFAULT,
            Some("image") => User::OfImage,
            Some(text) => {
                let (user, group) = text.split_once(':').unwrap_or((text, text));
                let number = |text: &str| {
                    Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u32>().ok()
                };
                let ids = number(user).zip(number(group));
                let wrong = || self.bad(&key("user"), text, "numbers of user and group such as 65534:65534, or image");
                ids.map(|(user, group)| User::Ids(user, group)).ok_or_else(wrong)?
            }
        };
        let instances = [("call", Instance::Call), ("shared", Instance::Shared)];
        let instance = match protocol {
            Protocol::Json => self.one_of(&key("instance"), raw.instance.as_ref(), Instance::Call, &instances)?,
            // One server: it lives for many calls.
            Protocol::Mcp | Protocol::Grpc(_) => {
                let only = [("shared", Instance::Shared)];
                self.one_of(&key("instance"), raw.instance.as_ref(), Instance::Shared, &only)?
            }
        };
        let idle = self.time(&key("idle"), raw.idle.as_ref(), Duration::from_secs(1)..=TIMEOUT_MAX)?;
        let warm = self.number(&key("warm"), raw.warm.as_ref(), 0..=u32::from(WARM_MAX))?;
        Ok(Container {
            image,
            pull: self.one_of(&key("pull"), raw.pull.as_ref(), Pull::Missing, &pulls)?,
            pin: None,
            user,
            shm_size: self.size(&key("shm_size"), raw.shm_size.as_ref(), 0..=TMP_MAX)?.unwrap_or_default(),
            instance,
            warm: warm.and_then(|warm| u8::try_from(warm).ok()).unwrap_or(1),
            idle: if protocol == Protocol::Mcp { idle } else { Some(idle.unwrap_or(IDLE_DEFAULT)) },
        })
    }

    fn remote(&self, raw: &RawExecution, url: &str) -> Checked<Remote> {
        let key = |name: &str| format!("execution.{name}");
        let of = "the server runs elsewhere, at its `url`";
        self.left_out(&key("command"), raw.command.first(), of)?;
        self.left_out(&key("env"), raw.env.keys().next(), of)?;
        self.left_out(&key("read"), raw.read.first(), of)?;
        self.left_out(&key("write"), raw.write.first(), of)?;
        self.left_out(&key("egress"), raw.egress.first(), of)?;
        for (name, value) in [("tier", &raw.tier), ("image", &raw.image), ("network", &raw.network), ("cwd", &raw.cwd)]
        {
            self.left_out(&key(name), value.as_ref(), of)?;
        }
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let is_plain = |rest: &str| {
            let host = rest.split(['/', '?']).next().unwrap_or_default();
            !host.is_empty() && !host.contains('@') && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if url.len() > ITEM_BYTES_MAX || !rest.is_some_and(is_plain) || url.contains('#') {
            let allowed = "https://HOST/PATH or http://HOST:PORT/PATH, without a user or password";
            return Err(self.bad(&key("url"), url, allowed));
        }
        let mut headers = BTreeMap::new();
        for (name, value) in &raw.headers {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            let ours = ["host", "content-length", "content-type", "accept", "connection", "transfer-encoding"];
            let is_ours = ours.iter().any(|ours| name.eq_ignore_ascii_case(ours));
            if name.is_empty() || name.len() > 64 || !name.bytes().all(token) || is_ours {
                let allowed = "a name of letters, digits and -, and none that the protocol itself sets";
                return Err(self.bad(&key("headers"), name, allowed));
            }
            let key = format!("execution.headers.{name}");
            let value = self.value(&key, value)?;
            if let Value::Text(text) = &value
                && text.contains(['\r', '\n'])
            {
                return Err(self.bad(&key, "…", "one line"));
            }
            headers.insert(name.clone(), value);
        }
        self.few(&key("headers"), headers.len())?;
        Ok(Remote { url: url.to_owned(), headers })
    }

    fn egress(&mut self, texts: &[String], network: NetworkMode) -> Checked<Vec<Egress>> {
        let key = "execution.egress";
        self.few(key, texts.len())?;
        match (network, texts.first()) {
            (NetworkMode::None | NetworkMode::Host, Some(first)) => {
                let allowed = format!("left out with network {network}: it is of network restricted");
                return Err(self.bad(key, first, allowed));
            }
            (NetworkMode::Restricted, None) => {
                self.warn("execution.network", "restricted reaches nothing without `egress`");
            }
            (NetworkMode::None | NetworkMode::Host, None) | (NetworkMode::Restricted, Some(_)) => {}
        }
        let mut found = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            let egress: Egress = text.parse().map_err(|error: super::egress::InvalidEgress| {
                self.bad(&format!("{key}.{n}"), text, error.to_string())
            })?;
            found.push(egress);
        }
        for (n, egress) in found.iter().enumerate() {
            if let EgressHost::Below(name) = &egress.host {
                let itself = |other: &Egress| matches!(&other.host, EgressHost::Name(other) if other == name);
                if !found.iter().any(itself) {
                    self.warn(&format!("{key}.{n}"), &format!("*.{name} does not match {name}: add it if it is meant"));
                }
            }
        }
        Ok(found)
    }

    fn capabilities(&self, named: &[String], asked: &BTreeSet<Capability>) -> Checked<BTreeSet<Capability>> {
        let known = [("files", Capability::Files), ("network", Capability::Network)];
        let mut found = BTreeSet::new();
        for (n, name) in named.iter().enumerate() {
            let capability = known.iter().find(|(word, _)| word == name).map(|(_, capability)| *capability);
            let wrong = || self.bad(&format!("capabilities.{n}"), name, "files or network");
            found.insert(capability.ok_or_else(wrong)?);
        }
        match known.iter().find(|(_, capability)| asked.contains(capability) && !found.contains(capability)) {
            None => Ok(found),
            Some((word, _)) => {
                let allowed = format!("with {word} too: `execution` asks for it");
                Err(self.bad("capabilities", &named.join(", "), allowed))
            }
        }
    }

    fn tools(&self, raw: Vec<RawTool>, prefix: &str, protocol: Protocol) -> Checked<Vec<ToolEntry>> {
        match protocol {
            Protocol::Mcp if !raw.is_empty() => {
                let allowed = "left out here: an MCP server tells its tools itself, and `expose` chooses among them";
                return Err(self.bad("tools", "…", allowed));
            }
            Protocol::Json if raw.is_empty() => {
                return Err(self.bad("tools", "", "at least one tool: - name: NAME"));
            }
            Protocol::Json | Protocol::Mcp | Protocol::Grpc(_) => {}
        }
        if raw.len() > TOOLS_MAX {
            return Err(self.bad("tools", &format!("{} tools", raw.len()), format!("at most {TOOLS_MAX}")));
        }
        let mut names = BTreeSet::new();
        let mut tools = Vec::new();
        for (n, tool) in raw.into_iter().enumerate() {
            let tool = self.tool(&format!("tools.{n}"), tool, prefix)?;
            if !names.insert(tool.name.folded().into_owned()) {
                let allowed = "another name: two tools have this one, apart from capitals";
                return Err(self.bad(&format!("tools.{n}.name"), tool.name.as_str(), allowed));
            }
            tools.push(tool);
        }
        Ok(tools)
    }

    fn tool(&self, at: &str, raw: RawTool, prefix: &str) -> Checked<ToolEntry> {
        let key = |name: &str| format!("{at}.{name}");
        let name = raw.name.unwrap_or_default();
        let whole = format!("{prefix}{name}").parse::<ToolName>();
        let rule = || {
            let most = 64 - prefix.len();
            self.bad(
                &key("name"),
                &name,
                format!("1 to {most} of a-z, A-Z, 0-9, . _ and -, so that {prefix}NAME has at most 64"),
            )
        };
        let whole = whole.ok().filter(|_| !name.is_empty()).ok_or_else(rule)?;
        if let Some(schema) = &raw.input_schema {
            let text = schema.to_string();
            let too_deep = deeper_than(text.as_bytes(), SCHEMA_DEPTH_MAX);
            if !schema.is_object() || text.len() > SCHEMA_BYTES_MAX || too_deep {
                let allowed = format!("a JSON Schema: an object of at most 64 KiB, {SCHEMA_DEPTH_MAX} deep");
                return Err(self.bad(&key("input_schema"), "…", allowed));
            }
        }
        let output = match raw.output {
            None => ToolOutput::Guessed,
            Some(RawOutput::Word(word)) if word == "parts" => ToolOutput::Parts,
            Some(RawOutput::Media(media)) if is_media_type(&media) => ToolOutput::Media(media),
            Some(RawOutput::Word(text) | RawOutput::Media(text)) => {
                return Err(self.bad(&key("output"), &text, "parts, or { media_type: image/png }"));
            }
        };
        let effect = self.one_of(&key("effect"), raw.effect.as_ref(), Effect::Once, &EFFECTS)?;
        let times = Duration::from_millis(1)..=TIMEOUT_MAX;
        Ok(ToolEntry {
            title: self.text(&key("title"), raw.title)?,
            description: self.text(&key("description"), raw.description)?,
            effect,
            args: self.words(&key("args"), &raw.args)?,
            input_schema: raw.input_schema,
            output,
            timeout: self.time(&key("timeout"), raw.timeout.as_ref(), times)?,
            owner_only: self.flag(&key("owner_only"), raw.owner_only)?.unwrap_or(true),
            name: whole,
        })
    }

    fn patterns(&self, key: &str, texts: Vec<String>) -> Checked<Vec<ToolPattern>> {
        let rule = "at most 64 names of tools, of a-z, 0-9, . _ and -, in which * is any text and ? any character";
        if texts.len() > LIST_MAX {
            return Err(self.bad(key, &format!("{} patterns", texts.len()), rule));
        }
        let pattern = |(n, text): (usize, String)| {
            let folded = text.to_ascii_lowercase().parse::<ToolPattern>().ok();
            folded.filter(ToolPattern::is_of_any_node).ok_or_else(|| self.bad(&format!("{key}.{n}"), &text, rule))
        };
        texts.into_iter().enumerate().map(pattern).collect()
    }

    fn effects(&self, raw: BTreeMap<String, String>) -> Checked<BTreeMap<ToolName, Effect>> {
        self.few("effects", raw.len())?;
        let mut effects = BTreeMap::new();
        for (name, effect) in raw {
            let key = format!("effects.{name}");
            let tool =
                name.parse().map_err(|error: mesh_core::ids::InvalidId| self.bad("effects", &name, error.why))?;
            effects.insert(tool, self.one_of(&key, Some(&effect), Effect::Once, &EFFECTS)?);
        }
        Ok(effects)
    }

    fn env(&self, raw: &BTreeMap<String, RawValue>) -> Checked<BTreeMap<String, Value>> {
        self.few("execution.env", raw.len())?;
        let mut env = BTreeMap::new();
        for (name, value) in raw {
            if name.is_empty() || name.len() > 256 || name.contains(['=', '\0']) || name.starts_with("SIGIL_") {
                let allowed = "names without `=` and NUL that do not begin with SIGIL_";
                return Err(self.bad("execution.env", &name.escape_debug().to_string(), allowed));
            }
            env.insert(name.clone(), self.value(&format!("execution.env.{name}"), value)?);
        }
        Ok(env)
    }

    fn value(&self, key: &str, raw: &RawValue) -> Checked<Value> {
        match raw {
            // Not shown: it may be secret.
            RawValue::Text(text) if text.contains('\0') || text.len() > ITEM_BYTES_MAX => {
                Err(self.bad(key, "…", "text without NUL, of at most 16 KiB"))
            }
            RawValue::Text(_) | RawValue::From(..) => {
                Value::try_from(raw.clone()).map_err(|(said, allowed)| self.bad(key, &said, allowed))
            }
        }
    }

    fn few(&self, key: &str, count: usize) -> Checked<()> {
        if count <= ITEMS_MAX {
            return Ok(());
        }
        Err(self.bad(key, &format!("{count} of them"), format!("at most {ITEMS_MAX}")))
    }

    fn words(&self, key: &str, words: &[String]) -> Checked<Vec<String>> {
        self.few(key, words.len())?;
        for (n, word) in words.iter().enumerate() {
            if word.contains('\0') || word.len() > ITEM_BYTES_MAX {
                let shown = word.escape_debug().to_string();
                return Err(self.bad(&format!("{key}.{n}"), &shown, "text without NUL, of at most 16 KiB"));
            }
        }
        Ok(words.to_vec())
    }

    fn paths(&self, key: &str, texts: &[String]) -> Checked<Vec<PathBuf>> {
        self.few(key, texts.len())?;
        let path = |(n, text): (usize, &String)| {
            let path = PathBuf::from(text);
            let plain = path.components().all(|part| !matches!(part, Component::ParentDir));
            if path.is_absolute() && plain && !text.contains('\0') && text.len() <= ITEM_BYTES_MAX {
                return Ok(path.components().collect());
            }
            Err(self.bad(&format!("{key}.{n}"), text, "an absolute path without `..`"))
        };
        texts.iter().enumerate().map(path).collect()
    }

    fn text(&self, key: &str, text: Option<String>) -> Checked<String> {
        let text = text.unwrap_or_default();
        if text.chars().count() > TEXT_CHARS_MAX || text.chars().any(char::is_control) {
            return Err(self.bad(key, &text, format!("one line of at most {TEXT_CHARS_MAX} characters")));
        }
        Ok(text)
    }

    fn one_of<T: Copy>(&self, key: &str, value: Option<&String>, default: T, allowed: &[(&str, T)]) -> Checked<T> {
        let Some(value) = value else { return Ok(default) };
        let meaning = allowed.iter().find(|(word, _)| word == value).map(|(_, meaning)| *meaning);
        meaning.ok_or_else(|| {
            let words: Vec<&str> = allowed.iter().map(|(word, _)| *word).collect();
            let words = match words.split_last() {
                Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                Some((only, _)) => (*only).to_owned(),
                None => String::new(),
            };
            self.bad(key, value, words)
        })
    }

    fn flag(&self, key: &str, value: Option<String>) -> Checked<Option<bool>> {
        value.map(|value| self.one_of(key, Some(&value), false, &[("true", true), ("false", false)])).transpose()
    }

    fn number(&self, key: &str, value: Option<&String>, within: RangeInclusive<u32>) -> Checked<Option<u32>> {
        let Some(text) = value else { return Ok(None) };
        let number = text.parse().ok().filter(|number| within.contains(number));
        let rule = || self.bad(key, text, format!("a number from {} to {}", within.start(), within.end()));
        number.map(Some).ok_or_else(rule)
    }

    fn concurrency(&self, value: Option<&String>) -> Checked<Option<NonZeroU8>> {
        let number = self.number("execution.concurrency", value, 1..=u32::from(CONCURRENCY_MAX))?;
        Ok(number.and_then(|number| u8::try_from(number).ok()).and_then(NonZeroU8::new))
    }

    fn port(&self, value: Option<&String>) -> Checked<u16> {
        let number = self.number("execution.grpc_port", value, 1..=u32::from(u16::MAX))?;
        let missing = || self.bad("execution.grpc_port", "", "the port at which the server listens in its container");
        number.and_then(|port| u16::try_from(port).ok()).ok_or_else(missing)
    }

    fn size(&self, key: &str, value: Option<&String>, within: RangeInclusive<u64>) -> Checked<Option<u64>> {
        let Some(text) = value else { return Ok(None) };
        let size = parse_memory_limit(text).ok().filter(|size| within.contains(size));
        let rule = || {
            let (least, most) = (show_size(*within.start()), show_size(*within.end()));
            self.bad(key, text, format!("{SIZE_RULE}, from {least} to {most}"))
        };
        size.map(Some).ok_or_else(rule)
    }

    fn time(&self, key: &str, value: Option<&String>, within: RangeInclusive<Duration>) -> Checked<Option<Duration>> {
        let Some(text) = value else { return Ok(None) };
        let time = parse_duration(text).filter(|time| within.contains(time));
        let rule = || {
            let (least, most) = (show_duration(*within.start()), show_duration(*within.end()));
            self.bad(key, text, format!("{DURATION_RULE}, from {least} to {most}"))
        };
        time.map(Some).ok_or_else(rule)
    }
}

impl TryFrom<RawValue> for Value {
    /// What was said, and what may be.
    type Error = (String, String);

    fn try_from(raw: RawValue) -> Result<Self, Self::Error> {
        let (kind, name) = match raw {
            RawValue::Text(text) => return Ok(Self::Text(text)),
            RawValue::From(kind, name) => (kind, name),
        };
        let is_variable = !name.is_empty() && !name.contains(['=', '\0']);
        let is_path = name.starts_with('/') && !name.contains('\0');
        match kind.as_str() {
            "secret" => match name.parse::<SecretName>() {
                Ok(name) => Ok(Self::Secret(name)),
                Err(_) => Err((name, format!("the name of a secret: {}", SecretName::RULE))),
            },
            "env" if is_variable => Ok(Self::Env(name)),
            "env" => Err((name, "the name of a variable".to_owned())),
            "file" if is_path => Ok(Self::File(name.into())),
            "file" => Err((name, "the absolute path of a file".to_owned())),
            _ => Err((kind, "a text, or one of secret, env and file with what it is".to_owned())),
        }
    }
}

/// Words for the effects of running a tool again.
const EFFECTS: [(&str, Effect); 3] =
    [("none", Effect::None), ("idempotent", Effect::Idempotent), ("once", Effect::Once)];

/// The powers that are asked for.
fn capabilities_of(execution: &Execution) -> BTreeSet<Capability> {
    let mut asked = BTreeSet::new();
    match &execution.runs {
        Runs::Process(program, _) | Runs::Container(program, _) => {
            if !program.read.is_empty() || !program.write.is_empty() {
                asked.insert(Capability::Files);
            }
            if program.network != NetworkMode::None {
                asked.insert(Capability::Network);
            }
        }
        Runs::Remote(_) => {
            asked.insert(Capability::Network);
        }
    }
    asked
}

fn is_media_type(text: &str) -> bool {
    let word = |word: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        (1..=64).contains(&word.len()) && word.bytes().all(plain)
    };
    text.split_once('/').is_some_and(|(kind, of)| word(kind) && word(of))
}
