//! From text to a validated [`Config`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memory_core::writing::When;
use mesh_core::config::Class;
use mesh_core::ids::NodeId;
use mesh_core::limits;
use mesh_core::policy::ToolPattern;
use mesh_core::policy::bounds::LIST_MAX;
use serde::Deserialize;
use toml::de::DeTable;

use super::checker::{Checker, Origins, in_home};
use super::class::{self, Probe};
use super::policy::PolicySettings;
use super::settings::{
    CALL_TTL_DEFAULT, CALLS_RATE_DEFAULT, CALLS_RATE_MAX, CALLS_RUNNING_DEFAULT, CALLS_RUNNING_MAX, Calls, Config,
    ConfigError, Discovery, FILE_NAME, Files, GatewayPreference, LOG_SIZE_DEFAULT, LOG_SIZES, LanDiscovery, Listen,
    Log, LogFormat, MEMORY_BATCH_DEFAULT, MEMORY_BATCH_MAX, MEMORY_WINDOW_DEFAULT, MEMORY_WINDOW_MAX, Memory, Node,
    Overrides, Relay, RelayOffer, Rights, Shell, Storage, TOOL_TIMEOUT_DEFAULT, TOOL_TIMEOUT_MAX, Warning,
};
use super::tailnet::{self, RawTailnet};
use super::tools::RawTool;
use crate::plugin::{RawServer, SERVER_KEYS};
use crate::position::Position;
use crate::value::{SIZE_RULE, nearest, parse_size, show_size};

/// Commands of `shell.allow`, and words of one.
const SHELL_COMMANDS_MAX: usize = 256;
const SHELL_WORDS_MAX: usize = 64;

/// Every key by section; `tools.*` is each tool's.
const KEYS: [(&str, &[&str]); 14] = [
    (
        "",
        &[
            "node",
            "listen",
            "discovery",
            "relay",
            "tailnet",
            "files",
            "shell",
            "tools",
            "mcp_servers",
            "calls",
            "memory",
            "storage",
            "log",
            "people",
            "agents",
            "devices",
            "workspaces",
            "checks",
        ],
    ),
    ("node", &["name", "class", "gateway", "deny"]),
    ("listen", &["quic_port", "http_port", "grpc"]),
    ("discovery", &["lan"]),
    ("relay", &["offer", "use"]),
    ("tailnet", tailnet::KEYS),
    ("files", &["roots", "write"]),
    ("shell", &["allow", "timeout"]),
    (
        "tools.*",
        &["command", "args", "timeout", "effect", "max_output", "description", "env", "keep_running", "at_once"],
    ),
    ("mcp_servers.*", SERVER_KEYS),
    ("calls", &["ttl", "running", "rate"]),
    ("memory", &["batch", "window", "facts", "summarizer"]),
    ("storage", &["free_min"]),
    ("log", &["level", "format", "max_size"]),
];

/// Keys with a single value, which the environment can set too: `node.name` as `SIGIL_NODE_NAME`.
const SCALARS: [&str; 30] = [
    "node.name",
    "node.class",
    "node.gateway",
    "listen.quic_port",
    "listen.http_port",
    "listen.grpc",
    "discovery.lan",
    "relay.offer",
    "relay.use",
    "tailnet.mode",
    "tailnet.socket",
    "tailnet.required_tag",
    "tailnet.tier",
    "tailnet.door",
    "tailnet.hostname",
    "tailnet.auth_key",
    "tailnet.control_url",
    "files.write",
    "shell.timeout",
    "calls.ttl",
    "calls.running",
    "calls.rate",
    "memory.batch",
    "memory.window",
    "memory.facts",
    "memory.summarizer",
    "storage.free_min",
    "log.level",
    "log.format",
    "log.max_size",
];

/// The file as it is written. Values are text until they are checked, so that every error reads alike.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    node: RawNode,
    listen: RawListen,
    discovery: RawDiscovery,
    relay: RawRelay,
    tailnet: RawTailnet,
    files: RawFiles,
    shell: RawShell,
    tools: BTreeMap<String, RawTool>,
    mcp_servers: BTreeMap<String, RawServer>,
    calls: RawCalls,
    memory: RawMemory,
    storage: RawStorage,
    log: RawLog,
    // Read by `PolicySettings`, which knows lines and refuses what it does not know.
    people: serde_json::Value,
    agents: serde_json::Value,
    devices: serde_json::Value,
    workspaces: serde_json::Value,
    checks: serde_json::Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawNode {
    name: Option<String>,
    class: Option<String>,
    gateway: Option<String>,
    deny: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawListen {
    quic_port: Option<String>,
    http_port: Option<String>,
    grpc: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawRelay {
    offer: Option<String>,
    #[serde(rename = "use")]
    used: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawDiscovery {
    lan: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawFiles {
    roots: Vec<String>,
    write: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawShell {
    allow: Vec<Vec<String>>,
    timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawCalls {
    ttl: Option<String>,
    running: Option<String>,
    rate: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawMemory {
    batch: Option<String>,
    window: Option<String>,
    facts: Option<String>,
    summarizer: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawStorage {
    free_min: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawLog {
    level: Option<String>,
    format: Option<String>,
    max_size: Option<String>,
}

/// Reads the settings of a home: its [`FILE_NAME`] if there is one, the environment, and the command line.
///
/// # Errors
/// See [`ConfigError`]; what is merely strange is a [`Warning`].
pub fn load(home: &Path, overrides: &Overrides) -> Result<(Config, Vec<Warning>), ConfigError> {
    let path = home.join(FILE_NAME);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(ConfigError::Read { path, source }),
    };
    // A variable that is not UTF-8 is none of ours: all of our names and values are.
    let env = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    read(home, &text, env, overrides, &Probe::this_machine())
}

fn read(
    home: &Path,
    text: &str,
    env: impl Iterator<Item = (String, String)>,
    overrides: &Overrides,
    probe: &Probe,
) -> Result<(Config, Vec<Warning>), ConfigError> {
    let mut warnings = Vec::new();
    let mut origins = Origins::new();
    let shape = |error: config::ConfigError| {
        let at = key_of(&error).and_then(|key| Position::of(text, key));
        let why = at.map_or_else(|| error.to_string(), |at| at.before(&error.to_string()));
        ConfigError::Shape { path: home.join(FILE_NAME), why }
    };
    if let Err(error) = DeTable::parse(text) {
        let at = error.span().map(|span| Position::of_byte(text, span.start));
        let why = at.map_or_else(|| error.message().to_owned(), |at| at.before(error.message()));
        return Err(ConfigError::Shape { path: home.join(FILE_NAME), why });
    }

    let mut builder = config::Config::builder().add_source(config::File::from_str(text, config::FileFormat::Toml));
    for (key, value, origin) in from_env(env, &mut warnings).into_iter().chain(from_flags(overrides)) {
        builder = builder.set_override(key, value).map_err(shape)?;
        origins.insert(key, origin);
    }
    let settings = builder.build().map_err(shape)?;
    let raw: Raw = serde_ignored::deserialize(settings, |path| {
        let (section, key) = split_key(&path.to_string());
        warnings.push(unknown_key(&section, &key));
    })
    .map_err(shape)?;
    let mut config = Checker { home, text, origins }.config(raw, probe, &mut warnings)?;
    let wrong = |why| ConfigError::Rights { path: home.join(FILE_NAME), why: Box::new(why) };
    let said = PolicySettings::parse(text).map_err(wrong)?;
    if !said.is_empty() {
        config.rights = Rights { said, text: text.to_owned() };
    }
    Ok((config, warnings))
}

/// The key whose value is not of its shape.
fn key_of(error: &config::ConfigError) -> Option<&str> {
    if let config::ConfigError::At { key: None, error, .. } = error {
        return key_of(error);
    }
    if let config::ConfigError::Type { key, .. } | config::ConfigError::At { key, .. } = error {
        return key.as_deref();
    }
    None
}

fn env_name(key: &str) -> String {
    format!("SIGIL_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// Values from the environment. Other programs' and our own other variables (`SIGIL_HOME`, …) pass without a word, but
/// one that begins like a section is a typing error.
fn from_env(
    env: impl Iterator<Item = (String, String)>,
    warnings: &mut Vec<Warning>,
) -> Vec<(&'static str, String, String)> {
    let mut values = Vec::new();
    for (name, value) in env {
        if let Some(key) = SCALARS.into_iter().find(|key| env_name(key) == name) {
            values.push((key, value, name));
        } else if KEYS.iter().any(|(section, _)| !section.is_empty() && name.starts_with(&(env_name(section) + "_"))) {
            let known: Vec<String> = SCALARS.into_iter().map(env_name).collect();
            let hint = nearest(&name, known.iter().map(String::as_str));
            warnings.push(Warning(format!("environment variable {name} sets nothing{hint}")));
        }
    }
    values
}

fn from_flags(flags: &Overrides) -> impl Iterator<Item = (&'static str, String, String)> + use<> {
    [
        ("node.name", "--name", flags.name.clone()),
        ("listen.quic_port", "--quic-port", flags.quic_port.map(|port| port.to_string())),
        ("listen.http_port", "--http-port", flags.http_port.map(|port| port.to_string())),
    ]
    .into_iter()
    .filter_map(|(key, flag, value)| Some((key, value?, flag.to_owned())))
}

/// Splits the path of an unknown key. A tool's name may hold dots, a key never does.
fn split_key(path: &str) -> (String, String) {
    match path.rsplit_once('.') {
        Some((section, key)) => (section.to_owned(), key.to_owned()),
        None => (String::new(), path.to_owned()),
    }
}

fn unknown_key(section: &str, key: &str) -> Warning {
    let kind = match section.split_once('.') {
        Some(("tools", _)) => "tools.*",
        Some(("mcp_servers", _)) => "mcp_servers.*",
        Some(_) | None => section,
    };
    let known = KEYS.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, keys)| *keys);
    let full = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    Warning(format!("{FILE_NAME}: unknown key `{full}`{}", nearest(key, known.iter().copied())))
}

impl Checker<'_> {
    fn config(self, raw: Raw, probe: &Probe, warnings: &mut Vec<Warning>) -> Result<Config, ConfigError> {
        let Raw {
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
            ..
        } = raw;
        Ok(Config {
            home: self.home.to_owned(),
            node: self.node(node, probe)?,
            listen: Listen {
                quic_port: self.port("listen.quic_port", listen.quic_port)?,
                http_port: self.port("listen.http_port", listen.http_port)?,
                grpc: self.address("listen.grpc", listen.grpc)?,
            },
            discovery: Discovery {
                lan: self.one_of(
                    "discovery.lan",
                    discovery.lan,
                    LanDiscovery::KnownNetworks,
                    &[
                        ("known", LanDiscovery::KnownNetworks),
                        ("true", LanDiscovery::EveryNetwork),
                        ("false", LanDiscovery::Off),
                    ],
                )?,
            },
            relay: Relay {
                offer: self.one_of(
                    "relay.offer",
                    relay.offer,
                    RelayOffer::Auto,
                    &[("auto", RelayOffer::Auto), ("always", RelayOffer::Always), ("never", RelayOffer::Never)],
                )?,
                used: self.one_of("relay.use", relay.used, true, &[("true", true), ("false", false)])?,
            },
            tailnet: self.tailnet(tailnet)?,
            files: Files {
                roots: self.roots(files.roots)?,
                write: self.one_of("files.write", files.write, false, &[("true", true), ("false", false)])?,
            },
            shell: Shell {
                allow: self.commands(shell.allow)?,
                timeout: self.duration(
                    "shell.timeout",
                    shell.timeout,
                    TOOL_TIMEOUT_DEFAULT,
                    Duration::from_secs(1)..=TOOL_TIMEOUT_MAX,
                )?,
            },
            tools: self.tools(tools)?,
            mcp_servers: self.servers(mcp_servers, warnings)?,
            calls: Calls {
                ttl: self.duration(
                    "calls.ttl",
                    calls.ttl,
                    CALL_TTL_DEFAULT,
                    Duration::from_secs(1)..=Duration::from_millis(limits::TTL_MS_MAX),
                )?,
                running: self.running(calls.running)?,
                rate: self.count("calls.rate", calls.rate, CALLS_RATE_DEFAULT, 1..=CALLS_RATE_MAX)?,
            },
            memory: Memory {
                batch: self.count("memory.batch", memory.batch, MEMORY_BATCH_DEFAULT, 1..=MEMORY_BATCH_MAX)?,
                window: self.count("memory.window", memory.window, MEMORY_WINDOW_DEFAULT, 0..=MEMORY_WINDOW_MAX)?,
                facts: self.one_of("memory.facts", memory.facts, true, &[("true", true), ("false", false)])?,
                summarizer: self.one_of(
                    "memory.summarizer",
                    memory.summarizer,
                    When::Idle,
                    &[("auto", When::Idle), ("rules", When::Never), ("model", When::AtOnce)],
                )?,
            },
            storage: Storage { free_min: self.size("storage.free_min", storage.free_min)? },
            log: self.log(log)?,
            rights: Rights::default(),
        })
    }

    fn port(&self, key: &str, value: Option<String>) -> Result<Option<u16>, ConfigError> {
        let parse =
            |text: String| text.parse().map_err(|_| self.bad(key, text, "a port from 0 (any free one) to 65535"));
        value.map(parse).transpose()
    }

    fn address(&self, key: &str, value: Option<String>) -> Result<Option<SocketAddr>, ConfigError> {
        let parse = |text: String| {
            text.parse().map_err(|_| self.bad(key, text, "an address and a port, such as 0.0.0.0:7443 or [::]:7443"))
        };
        value.map(parse).transpose()
    }

    fn running(&self, value: Option<String>) -> Result<u8, ConfigError> {
        let Some(text) = value else { return Ok(CALLS_RUNNING_DEFAULT) };
        let parsed = text.parse().ok().filter(|running| (1..=CALLS_RUNNING_MAX).contains(running));
        parsed.ok_or_else(|| self.bad("calls.running", text, format!("a number from 1 to {CALLS_RUNNING_MAX}")))
    }

    fn size(&self, key: &str, value: Option<String>) -> Result<Option<u64>, ConfigError> {
        let parse = |text: String| parse_size(&text).ok_or_else(|| self.bad(key, text, SIZE_RULE));
        value.map(parse).transpose()
    }

    fn node(&self, raw: RawNode, probe: &Probe) -> Result<Node, ConfigError> {
        let name = raw.name.map(|name| name.parse::<NodeId>().map_err(|error| self.bad("node.name", name, error.why)));
        let classes = [
            ("phone", Class::PHONE),
            ("small", Class::SMALL),
            ("laptop", Class::LAPTOP),
            ("desktop", Class::DESKTOP),
            ("server", Class::SERVER),
        ];
        let preferences = [
            ("auto", GatewayPreference::Auto),
            ("prefer", GatewayPreference::Prefer),
            ("never", GatewayPreference::Never),
        ];
        let rule = "at most 64 names of tools, of a-z, 0-9, . _ and -, in which * is any text and ? any character";
        let pattern = |text: String| {
            let folded = text.to_ascii_lowercase().parse::<ToolPattern>().ok();
            folded.filter(ToolPattern::is_of_any_node).ok_or_else(|| self.bad("node.deny", text, rule))
        };
        let deny: Vec<ToolPattern> = raw.deny.into_iter().map(pattern).collect::<Result<_, _>>()?;
        if deny.len() > LIST_MAX {
            return Err(self.bad("node.deny", format!("{} patterns", deny.len()), rule));
        }
        Ok(Node {
            name: name.transpose()?,
            class: self.one_of("node.class", raw.class, class::guess(probe), &classes)?,
            gateway: self.one_of("node.gateway", raw.gateway, GatewayPreference::Auto, &preferences)?,
            deny,
        })
    }

    fn roots(&self, raw: Vec<String>) -> Result<Vec<PathBuf>, ConfigError> {
        let mut roots = Vec::new();
        for text in raw {
            let path = PathBuf::from(in_home(&text).unwrap_or_else(|| text.clone()));
            let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
            if !path.is_absolute() || !plain || text.contains('\0') {
                return Err(self.bad("files.roots", text, "absolute paths without `..`, or paths that begin with ~/"));
            }
            // Written anew from its parts: without a slash at the end, doubled slashes or `.`.
            roots.push(path.components().collect());
        }
        Ok(roots)
    }

    /// Commands that may be run: the program as it is, and patterns for its arguments.
    fn commands(&self, raw: Vec<Vec<String>>) -> Result<Vec<Vec<String>>, ConfigError> {
        let is_line = |line: &Vec<String>| {
            let program = line.first().is_some_and(|program| !program.is_empty() && !program.contains('*'));
            program && line.len() <= SHELL_WORDS_MAX && !line.iter().any(|word| word.contains('\0'))
        };
        if raw.len() > SHELL_COMMANDS_MAX {
            let rule = format!("at most {SHELL_COMMANDS_MAX} commands");
            return Err(self.bad("shell.allow", raw.len().to_string(), &rule));
        }
        match raw.iter().find(|line| !is_line(line)) {
            Some(line) => {
                let rule = format!("lists of 1 to {SHELL_WORDS_MAX} words, the first of them a program without `*`");
                Err(self.bad("shell.allow", line.join(" "), &rule))
            }
            None => Ok(raw),
        }
    }

    fn log(&self, raw: RawLog) -> Result<Log, ConfigError> {
        let level = raw.level.unwrap_or_else(|| "info".to_owned());
        // A lone word that is no level would be read as a target with everything switched on.
        let is_level = |part: &str| {
            part.rsplit('=').next().is_some_and(|level| level.parse::<tracing::level_filters::LevelFilter>().is_ok())
        };
        if !level.split(',').all(is_level) || level.parse::<tracing_subscriber::filter::Targets>().is_err() {
            let allowed = "one of off, error, warn, info, debug, trace, also per target, such as sigil=debug,warn";
            return Err(self.bad("log.level", level, allowed));
        }
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let max_size = raw.max_size.map(|text| {
            parse_size(&text).filter(|size| LOG_SIZES.contains(size)).ok_or_else(|| {
                let range = format!("from {} to {}", show_size(*LOG_SIZES.start()), show_size(*LOG_SIZES.end()));
                self.bad("log.max_size", text, format!("{SIZE_RULE}, {range}"))
            })
        });
        Ok(Log {
            level,
            format: self.one_of("log.format", raw.format, LogFormat::Text, &formats)?,
            max_size: max_size.transpose()?.unwrap_or(LOG_SIZE_DEFAULT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Cancel, NetworkMode, PluginName, Protocol, Runs, Value};
    use mesh_core::record::Effect;

    fn read_all(text: &str, env: &[(&str, &str)], flags: &Overrides) -> Result<(Config, Vec<Warning>), ConfigError> {
        let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        read(Path::new("/home-of-sigil"), text, env, flags, &Probe::default())
    }

    fn good(text: &str) -> Config {
        let (config, warnings) = read_all(text, &[], &Overrides::default()).unwrap();
        assert_eq!(warnings, []);
        config
    }

    fn error(text: &str) -> String {
        read_all(text, &[], &Overrides::default()).unwrap_err().to_string()
    }

    #[test]
    fn the_list_in_docs_names_every_key() {
        let list = include_str!("../../docs/settings.md");
        for (section, keys) in KEYS.iter().filter(|(section, _)| !section.is_empty()) {
            for key in *keys {
                let key = format!("`{}.{key}`", section.replace('*', "NAME"));
                assert!(list.contains(&key), "docs/settings.md lacks {key}");
            }
        }
        for (_, sections) in KEYS.iter().filter(|(section, _)| section.is_empty()) {
            for section in *sections {
                let named = [format!("`{section}`"), format!("`{section}.")];
                assert!(named.iter().any(|name| list.contains(name)), "docs/settings.md lacks {section}");
            }
        }
    }

    #[test]
    fn nothing_needs_to_be_set() {
        let config = good("");
        assert_eq!(config.calls.ttl, Duration::from_mins(1));
        assert_eq!(config.listen, Listen { quic_port: None, http_port: None, grpc: None });
        assert_eq!(config.discovery.lan, LanDiscovery::KnownNetworks);
        assert!(config.files.roots.is_empty() && config.tools.is_empty());
        assert_eq!(config.node.class, Class::DESKTOP);
        assert!(config.peer().eligible);
    }

    #[test]
    fn a_whole_file_is_understood() {
        let config = good(
            r#"
            [node]
            name = "nas"
            class = "server"
            gateway = "prefer"
            deny = ["files.*", "Reboot"]
            [listen]
            quic_port = 7000
            http_port = 0
            [discovery]
            lan = false
            [calls]
            ttl = "2h"
            running = 2
            [log]
            level = "sigil=debug,warn"
            format = "json"
            [files]
            roots = ["/"]
            [tools."My.tool"]
            command = "bin/x"
            args = ["-v", "a b"]
            timeout = "5m"
            effect = "idempotent"
            max_output = "1MiB"
            description = "does x"
            env = { TOKEN = "hunter2", lower = { secret = "low" } }
            keep_running = true
            "#,
        );
        let tool = &config.tools[&"My.tool".parse().unwrap()];
        let Runs::Process(program, process) = &tool.execution.runs else { panic!("a process") };
        assert_eq!(program.command, ["/home-of-sigil/bin/x", "-v", "a b"]);
        assert_eq!((tool.execution.timeout, tool.execution.output_limit), (Duration::from_mins(5), 1 << 20));
        assert_eq!((tool.tools.len(), tool.tools[0].effect), (1, Effect::Idempotent));
        assert_eq!(program.env.keys().collect::<Vec<_>>(), ["TOKEN", "lower"]);
        assert!(process.keep_running);
        assert_eq!(program.env["lower"], Value::Secret("low".parse().unwrap()));
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.peer().class, Class(Class::SERVER.0 + Class::PREFERRED));
        assert_eq!(config.peer().running_max, 2);
        assert_eq!(config.listen, Listen { quic_port: Some(7000), http_port: Some(0), grpc: None });
        assert!(config.node.deny[0].matches("nas", "files.read"));
        assert!(!config.node.deny[1].matches("nas", "reboot2"));
    }

    #[test]
    fn b24_a_path_may_begin_with_the_home_of_whoever_runs_the_agent() {
        let home = std::env::var("HOME").expect("the tests run in a home");
        let home = home.trim_end_matches('/');
        let config = good(
            "[files]\nroots = ['~/docs']\n[tools.x]\ncommand = '~/bin/x'\nargs = ['~/list', '-o~/y', '~', 'a ~/b', './~/c']\n",
        );
        let tool = &config.tools[&"x".parse().unwrap()];
        assert_eq!(config.files.roots, [Path::new(&format!("{home}/docs"))]);
        let command = &tool.program().expect("it runs here").command;
        assert_eq!(*command, [&format!("{home}/bin/x"), &format!("{home}/list"), "-o~/y", "~", "a ~/b", "./~/c"]);
        for command in ["~", "~bob/x"] {
            let error = error(&format!("[tools.x]\ncommand = '{command}'"));
            assert!(error.contains("tools.x.command") && error.contains("begins with ~/"), "{error}");
        }
    }

    #[test]
    fn servers_become_plugins_like_those_of_a_manifest() {
        let config = good(
            r#"
            [mcp_servers.time]
            command = "uvx"
            args = ["mcp-server-time"]
            env = { TOKEN = { secret = "tok" }, PORT = 80, ON = true }
            cancel = "restart"
            max_output = "1MiB"
            [mcp_servers.everything]
            image = "mcp/everything"
            network = "restricted"
            egress = ["example.org"]
            [mcp_servers.far]
            url = "https://host/mcp"
            headers = { Authorization = { env = "AUTH" } }
            expose = ["read_*"]
            effects = { read_file = "none" }
            [mcp_servers.off]
            command = "x"
            disabled = true
            "#,
        );
        assert_eq!(
            config.mcp_servers.keys().map(PluginName::as_str).collect::<Vec<_>>(),
            ["everything", "far", "time"]
        );
        let server = |name: &str| &config.mcp_servers[&name.parse().unwrap()];
        let time = server("time");
        let Runs::Process(program, _) = &time.execution.runs else { panic!("a process") };
        assert_eq!((program.command.join(" ").as_str(), program.network), ("uvx mcp-server-time", NetworkMode::Host));
        assert_eq!(program.env["PORT"], Value::Text("80".to_owned()));
        assert_eq!(
            (time.prefix.as_str(), time.execution.protocol, time.mcp.cancel),
            ("time.", Protocol::Mcp, Cancel::Restart)
        );
        assert_eq!((time.secrets().len(), time.execution.output_limit), (1, 1 << 20));
        let everything = server("everything");
        let Runs::Container(program, container) = &everything.execution.runs else { panic!("a container") };
        assert_eq!(container.image.as_str(), "docker.io/mcp/everything:latest");
        assert_eq!(program.network, NetworkMode::Restricted);
        assert!(matches!(&server("far").execution.runs, Runs::Remote(remote) if remote.headers.len() == 1));
        for (text, parts) in [
            (
                "[mcp_servers.x]\ncommand = 'x'\nnetwork = 'internal'",
                ["sigil.toml:3:11: mcp_servers.x.network = `internal`", "restricted or host"],
            ),
            ("[mcp_servers.X]\ncommand = 'x'", ["mcp_servers.X = `X`", "a-z"]),
            ("[mcp_servers.x]", ["mcp_servers.x.command", "program"]),
            (
                "[mcp_servers.x]\ncommand = 'x'\nurl = 'https://x'",
                ["sigil.toml:2:11: mcp_servers.x.command", "elsewhere"],
            ),
            ("[mcp_servers.x]\nurl = 'x'", ["sigil.toml:2:7: mcp_servers.x.url", "https://"]),
            ("[mcp_servers.x]\ncommand = 'x'\nmax_output = '65MiB'", ["mcp_servers.x.max_output", "at most 64MiB"]),
            ("[mcp_servers.x]\ncommand = 'x'\nenv = { A = { secret = '' } }", ["mcp_servers.x.env.A", "secret"]),
            ("[mcp_servers.x]\nimage = '../x'", ["mcp_servers.x.image", "reference"]),
            ("[tools.x]\ncommand = 'x'\nenv = { A = { secret = '' } }", ["tools.x.env.A", "secret"]),
        ] {
            let error = error(text);
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
        let text = "[mcp_servers.x]\ncomand = 'x'\ncommand = 'x'\nnetwork = 'restricted'\n";
        let (_, warnings) = read_all(text, &[], &Overrides::default()).unwrap();
        let told: Vec<&str> = warnings.iter().map(|warning| warning.0.as_str()).collect();
        assert_eq!(
            told,
            [
                "sigil.toml: unknown key `mcp_servers.x.comand`, did you mean `command`?",
                "sigil.toml:4:11: mcp_servers.x.network: restricted reaches nothing without `egress`",
            ]
        );
    }

    #[test]
    fn flags_beat_environment_beats_file() {
        let text = "[node]\nname = 'a'\nclass = 'phone'\n[listen]\nquic_port = 1\n";
        let env =
            [("SIGIL_NODE_NAME", "b"), ("SIGIL_LISTEN_QUIC_PORT", "2"), ("SIGIL_HOME", "/x"), ("SIGIL_NODE", "y")];
        let flags = Overrides { quic_port: Some(3), ..Overrides::default() };
        let (config, warnings) = read_all(text, &env, &flags).unwrap();
        assert_eq!(config.node.name, Some("b".parse().unwrap()));
        assert_eq!((config.listen.quic_port, config.node.class), (Some(3), Class::PHONE));
        assert_eq!(warnings, []);
    }

    #[test]
    fn unknown_keys_are_told_with_a_guess() {
        let text = "colour = 1\n[node]\nnmae = 'a'\n[tools.'my.x']\ncommand = 'x'\ntimout = '1s'\n[fils]\nroots = []\n";
        let env = [("SIGIL_LISTEN_QUICPORT", "1")];
        let (_, warnings) = read_all(text, &env, &Overrides::default()).unwrap();
        let mut told: Vec<&str> = warnings.iter().map(|warning| warning.0.as_str()).collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [
                "environment variable SIGIL_LISTEN_QUICPORT sets nothing, did you mean `SIGIL_LISTEN_QUIC_PORT`?",
                "sigil.toml: unknown key `colour`",
                "sigil.toml: unknown key `fils`, did you mean `files`?",
                "sigil.toml: unknown key `node.nmae`, did you mean `name`?",
                "sigil.toml: unknown key `tools.my.x.timout`, did you mean `timeout`?",
            ]
        );
    }

    #[test]
    fn bad_values_name_key_value_and_what_is_allowed() {
        assert_eq!(
            error("[node]\nclass = 'tablet'"),
            "sigil.toml:2:9: node.class = `tablet` is not allowed: it must be one of phone, small, laptop, desktop, server"
        );
        let name = error(&format!("[node]\nname = '{}:'", "a".repeat(300)));
        assert!(name.len() < 300 && name.matches("it must be").count() == 1, "{name}");
        for (text, parts) in [
            ("[listen]\nquic_port = 70000", ["listen.quic_port", "70000", "65535"]),
            ("[listen]\ngrpc = 7443", ["listen.grpc", "7443", "[::]:7443"]),
            ("[listen]\nhttp_port = 'x'", ["listen.http_port", "`x`", "65535"]),
            ("[calls]\nttl = '8d'", ["calls.ttl", "8d", "to 7d"]),
            ("[calls]\nrunning = 0", ["calls.running", "`0`", "1 to 64"]),
            ("[calls]\nrate = 0", ["calls.rate", "`0`", "1 to 10000"]),
            ("[tools.x]\ncommand = 'x'\nat_once = 0", ["tools.x.at_once", "`0`", "1 to 64"]),
            ("[calls]\nrunning = 'many'", ["calls.running", "many", "1 to 64"]),
            ("[calls]\nttl = 60", ["calls.ttl", "`60`", "30s"]),
            ("[node]\nname = 'A:b'", ["node.name", "A:b", "a-z"]),
            ("[node]\ndeny = ['a**b']", ["node.deny", "a**b", "any text"]),
            ("[node]\ndeny = ['node:x:y']", ["node.deny", "node:x:y", "names of tools"]),
            ("[tailnet]\nrequired_tag = 'agent-node'", ["tailnet.required_tag", "agent-node", "tag:agent-node"]),
            ("[tailnet]\nrequired_tag = 'tag:'", ["tailnet.required_tag", "tag:", "tag:agent-node"]),
            ("[tailnet]\nmode = 'both'", ["tailnet.mode", "both", "off, auto, host, embedded"]),
            ("[tailnet]\nhostname = 'Attic'", ["tailnet.hostname", "Attic", "a-z"]),
            (
                "[tailnet]\ncontrol_url = 'https://a/b'",
                ["tailnet.control_url", "https://a/b", "a host and perhaps a port"],
            ),
            ("[tailnet]\nauth_key = 'tskey-auth-1'", ["tailnet.auth_key", "(not shown)", "secret ="]),
            ("[tailnet]\nauth_key = { file = 'key' }", ["tailnet.auth_key", "key", "absolute path"]),
            ("[tailnet]\nmode = 'embedded'\ndoor = true", ["tailnet.door", "true", "auto or host"]),
            ("[tailnet]\ntier = 'ephemeral'", ["tailnet.tier", "ephemeral", "shared, owner"]),
            ("[discovery]\nlan = 'maybe'", ["discovery.lan", "maybe", "true, false"]),
            ("[files]\nroots = ['docs']", ["files.roots", "docs", "absolute"]),
            ("[shell]\nallow = [['*', 'x']]", ["shell.allow", "* x", "without `*`"]),
            ("[shell]\nallow = [[]]", ["shell.allow", "program", "words"]),
            ("[files]\nroots = ['/a/../b']", ["files.roots", "/a/../b", "absolute"]),
            ("[log]\nlevel = 'loud'", ["log.level", "loud", "debug"]),
            ("[tools.'a:b']\ncommand = 'x'", ["tools", "a:b", "a-z"]),
            ("[tools.x]\nargs = []", ["tools.x.command", "``", "program"]),
            ("[tools.x]\ncommand = 'x'\neffect = 'twice'", ["tools.x.effect", "twice", "none, idempotent, once"]),
            ("[tools.x]\ncommand = 'x'\nmax_output = '65MiB'", ["tools.x.max_output", "65MiB", "at most 64MiB"]),
            ("[tools.x]\ncommand = 'x'\ntimeout = '0s'", ["tools.x.timeout", "0s", "from 1ms"]),
            ("[tools.x]\ncommand = 'x'\nenv = { SIGIL_X = '1' }", ["tools.x.env", "SIGIL_X", "SIGIL_"]),
        ] {
            let error = error(text);
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
        let env = [("SIGIL_LISTEN_QUIC_PORT", "no")];
        let error = read_all("", &env, &Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("listen.quic_port (from SIGIL_LISTEN_QUIC_PORT) = `no`"), "{error}");
    }

    #[test]
    fn what_is_not_toml_or_not_its_shape_is_told_with_its_place() {
        let broken = error("[node\nname = 1");
        assert!(broken.contains("sigil.toml") && broken.contains("line 1, column 6: "), "{broken}");
        assert!(!broken.contains('\n'), "{broken}");
        let shape = error("node = 3");
        assert!(shape.contains("node"), "{shape}");
        let shape = error("[node]\nname = ['a']");
        assert!(shape.contains("node.name") && shape.contains("line 2, column 8: "), "{shape}");
        for (text, place) in [
            ("[calls]\nttl = '1h'\n[tools.x]\nargs = []", "3:8"),
            ("[tools.x]\ncommand = 'x'\n  timeout = '0s'", "3:13"),
            ("[tools.a]\ncommand = 'x'\n[tools.'b b']\ncommand = 'x'", "3:8"),
        ] {
            let error = error(text);
            assert!(error.starts_with(&format!("sigil.toml:{place}: tools")), "{text}: {error}");
        }
    }

    #[test]
    fn every_known_key_is_taken() {
        for (section, keys) in KEYS.into_iter().filter(|(section, _)| !section.is_empty()) {
            for key in keys {
                let value = match *key {
                    "write" if section == "files" => "'x'",
                    "deny" | "args" | "roots" | "read" | "write" | "egress" | "expose" | "approve" | "allow" => "[]",
                    "env" | "headers" | "effects" => "{}",
                    "door" => "false",
                    _ => "'x'",
                };
                let section = section.replace('*', "x");
                let text = format!("[{section}]\n{key} = {value}\n");
                if let Ok((_, warnings)) = read_all(&text, &[], &Overrides::default()) {
                    assert_eq!(warnings, [], "{text}");
                }
                let settings = config::Config::builder()
                    .add_source(config::File::from_str(&text, config::FileFormat::Toml))
                    .build()
                    .unwrap();
                let _: Raw = serde_ignored::deserialize(settings, |path| panic!("{path} is not taken")).unwrap();
            }
        }
    }
}
