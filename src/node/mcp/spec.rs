//! The plain description of a hosted MCP server: what settings and manifests say of it, whoever has read them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use mesh_core::ids::ToolName;
use mesh_core::policy::ToolPattern;
use mesh_core::record::Effect;

use crate::plugin::{ContainerConfig, Egress, Value};
use crate::runtime::sandbox::Sandbox;

/// Longest name of a server: it stands before each of its tools, whose whole name has at most 64 characters.
pub const NAME_CHARS_MAX: usize = 32;
/// Longest run of a tool where its settings say nothing. As of a command tool.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);

/// A server that this device hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSpec {
    /// Its name: `[a-z0-9-]{1,32}`. It names the pins and the provider.
    pub name: String,
    /// Prefix of its tools, with what stands between: `photo.`; empty for none.
    pub prefix: String,
    /// The way in which it is spoken to.
    pub transport: Transport,
    /// Tools that are offered, by their names without the prefix; empty = all.
    pub expose: Vec<ToolPattern>,
    /// Tools that a person is to be asked for, likewise: offered at install as `ask` rules. Without workspaces they are for
    /// owners only.
    pub approve: Vec<ToolPattern>,
    /// Effects of repeated runs, by the names of tools without the prefix. [`Effect::Once`] for all others, whatever the server
    /// says of itself.
    pub effects: BTreeMap<ToolName, Effect>,
    /// Longest run of one call.
    pub timeout: Duration,
    /// Bytes of output of one call.
    pub max_output: u64,
    /// What is done with a server that does not end a call that was cancelled.
    pub cancel: CancelPolicy,
    /// True if it is to be started by the first call only. Not done yet: it is started with the agent.
    pub lazy: bool,
    /// True if an owner of this device wrote it into its settings: then the first list of its tools is taken as it is. That of
    /// an installed plugin is reviewed.
    pub trusted_first_list: bool,
    /// The file of its pins; `None`: that of its name, where those of the settings are. What was seen of a plugin goes with it.
    pub pins: Option<PathBuf>,
}

/// The way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A process, by its standard streams.
    Pipes(Box<PipesSpec>),
    /// A process in a container of its own, likewise.
    Container(Box<ContainerConfig>),
    /// Streamable HTTP.
    Http(HttpSpec),
}

/// A server that is a process of this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipesSpec {
    /// Program: looked up in `PATH`, or absolute.
    pub command: PathBuf,
    /// Its arguments, as they are. Never secrets: everybody on the machine sees them.
    pub args: Vec<String>,
    /// Added to its environment.
    pub env: BTreeMap<String, Value>,
    /// Its working directory; `None`: a private one.
    pub cwd: Option<PathBuf>,
    /// The sandbox that it runs in.
    pub sandbox: Sandbox,
    /// Places that it may reach, where its network is restricted.
    pub egress: Vec<Egress>,
}

/// A server at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSpec {
    /// `https://…`, or `http://` of this machine.
    pub url: String,
    /// Sent with every request.
    pub headers: BTreeMap<String, Value>,
}

impl HttpSpec {
    /// A header that would be sent so that everybody on the way could read it, and is no text of the settings: the connection
    /// is not encrypted, and leaves this machine.
    #[must_use]
    pub fn secret_in_the_clear(&self) -> Option<&str> {
        let uri: hyper::Uri = self.url.parse().ok()?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let is_secret = |value: &Value| match value {
            Value::Text(_) => false,
            Value::Secret(_) | Value::Env(_) | Value::File(_) => true,
        };
        let found = self.headers.iter().find(|(_, value)| is_secret(value)).map(|(name, _)| name.as_str());
        found.filter(|_| uri.scheme_str() == Some("http") && !is_here)
    }
}

/// What is done with a server that goes on with a call that was cancelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CancelPolicy {
    /// It is told, and the call ends as cancelled, though it may go on.
    #[default]
    Tell,
    /// It is told, and if it does not answer within 1.5 s and runs nothing else it is ended and started anew.
    Restart,
}

impl ServerSpec {
    /// A server of the settings, with all that they need not say at its default.
    #[must_use]
    pub fn new(name: impl Into<String>, transport: Transport) -> Self {
        let name = name.into();
        Self {
            prefix: format!("{name}."),
            name,
            transport,
            expose: Vec::new(),
            approve: Vec::new(),
            effects: BTreeMap::new(),
            timeout: TIMEOUT_DEFAULT,
            max_output: mesh_core::limits::RESULT_BYTES_MAX,
            cancel: CancelPolicy::default(),
            lazy: false,
            trusted_first_list: true,
            pins: None,
        }
    }

    /// The word for how it is spoken to, in the cards of its tools.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.transport {
            Transport::Container(config) if config.grpc_port.is_some() => "grpc",
            Transport::Pipes(_) | Transport::Container(_) | Transport::Http(_) => "mcp",
        }
    }

    /// True if a tool of this name, without the prefix and in small letters, is offered.
    #[must_use]
    pub fn exposes(&self, folded: &str) -> bool {
        self.expose.is_empty() || self.expose.iter().any(|pattern| pattern.is_about(folded))
    }

    /// True if a person is to be asked for a tool of this name, without the prefix and in small letters.
    #[must_use]
    pub fn asks_for(&self, folded: &str) -> bool {
        self.approve.iter().any(|pattern| pattern.is_about(folded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_to_no_other_machine_unencrypted() {
        let secret = || Value::Secret("tok".parse().unwrap());
        let in_the_clear = |url: &str, value: Value| {
            let headers = [("Authorization".to_owned(), value)].into();
            HttpSpec { url: url.to_owned(), headers }.secret_in_the_clear().is_some()
        };
        for (url, refused) in [
            ("https://host.example/mcp", false),
            ("http://127.0.0.1:8080/mcp", false),
            ("http://localhost/mcp", false),
            ("http://[::1]:80/", false),
            ("http://host.example/mcp", true),
            ("http://192.168.1.7:8123/", true),
            ("http://localhost.example/", true),
            ("http://127.0.0.1.example/", true),
        ] {
            assert_eq!(in_the_clear(url, secret()), refused, "{url}");
            assert!(!in_the_clear(url, Value::Text("x".to_owned())), "{url}");
        }
    }

    #[test]
    fn no_text_of_the_settings_is_in_a_debug() {
        let env = BTreeMap::from([
            ("A".to_owned(), Value::Text("hunter2".to_owned())),
            ("B".to_owned(), Value::Secret("photo-key".parse().unwrap())),
        ]);
        let pipes = PipesSpec {
            command: "x".into(),
            args: Vec::new(),
            env,
            cwd: None,
            sandbox: Sandbox::BARE,
            egress: Vec::new(),
        };
        let shown = format!("{:?}", ServerSpec::new("photo", Transport::Pipes(Box::new(pipes))));
        assert!(!shown.contains("hunter2") && shown.contains("photo-key"), "{shown}");
    }

    #[test]
    fn all_tools_are_offered_unless_some_are_named() {
        let http = || Transport::Http(HttpSpec { url: "https://x/mcp".to_owned(), headers: BTreeMap::new() });
        let all = ServerSpec::new("x", http());
        assert!(all.exposes("read_file") && !all.asks_for("read_file"));
        let pattern = |text: &str| text.parse::<ToolPattern>().unwrap();
        let some = ServerSpec { expose: vec![pattern("read_*")], approve: vec![pattern("read_s*")], ..all };
        assert!(some.exposes("read_file") && !some.exposes("write_file"));
        assert!(some.asks_for("read_secret") && !some.asks_for("read_file"));
    }
}
