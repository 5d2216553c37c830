//! `sigil plugin`, `sigil node`, `sigil secret` and `sigil mcp`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{Args, Subcommand, ValueEnum};

use super::named;
use crate::plugin::{Consent, InvalidName, PluginName, SecretName};

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Look at a folder with a plugin.yaml: what it would offer, what it asks for, what is wrong with it
    Check {
        /// The folder
        #[arg(value_parser = PathBufValueParser::new().try_map(named))]
        dir: PathBuf,
    },
    /// Take a copy of a folder with a plugin.yaml, in place of the plugin of its name
    Install {
        /// The folder
        #[arg(value_parser = PathBufValueParser::new().try_map(named))]
        dir: PathBuf,
        /// Allow it at once what it asks for; without it such a plugin waits for `sigil plugin allow`
        #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT")]
        allow: Vec<Allowed>,
    },
    /// All that runs tools on this device, its state, and the tools that are not offered
    List,
    /// What an installed plugin is, asks for and is allowed
    Inspect {
        /// Its name
        #[arg(value_parser = plugin_name)]
        name: PluginName,
    },
    /// Call a tool of a plugin on this device
    Run(PluginRunArgs),
    /// Have the agent look at the settings and at all plugins now
    Reload,
    /// Allow a plugin what it asks for, as its files are now
    Allow {
        /// Its name
        #[arg(value_parser = plugin_name)]
        name: PluginName,
        /// To run as a process of this device
        #[arg(long)]
        process: bool,
        /// To use the network of this device
        #[arg(long)]
        host_network: bool,
        /// To read or write files of this device, talk to its services, or be given variables of the agent
        #[arg(long)]
        host_data: bool,
        /// To be given the secrets that it names
        #[arg(long)]
        secrets: bool,
    },
    /// Remove a plugin and its files
    Remove {
        /// Its name
        #[arg(value_parser = plugin_name)]
        name: PluginName,
    },
    /// Print the JSON Schema of plugin.yaml, for editors
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct PluginRunArgs {
    /// Its name
    #[arg(value_parser = plugin_name)]
    pub(crate) name: PluginName,
    /// The tool, without the name of the plugin
    pub(crate) tool: String,
    /// Arguments as one JSON document: `@FILE`, `-` for standard input, or the JSON itself
    #[arg(long, value_name = "JSON")]
    pub(crate) input: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Keep a secret, which settings and plugins then name; a line end at its end is left out
    Set {
        /// Its name
        #[arg(value_parser = secret_name)]
        name: SecretName,
        /// File with the value; `-` reads it from standard input. Not an argument: other users of this machine can read those
        #[arg(long, value_name = "FILE")]
        from_file: PathBuf,
    },
    /// Names and ages of all secrets; never their values
    List,
    /// Remove a secret
    Remove {
        /// Its name
        #[arg(value_parser = secret_name)]
        name: SecretName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Let a node in: shows its token, this once, and the certificate that it is to trust
    Add {
        /// Its name, which its tools have before theirs: `[a-z0-9-]{1,32}`
        #[arg(value_parser = plugin_name)]
        name: PluginName,
        /// Time after which its token is over, such as `30d`; default: never
        #[arg(long, value_name = "TIME", value_parser = life)]
        expires: Option<Duration>,
    },
    /// All nodes that are let in
    List,
    /// Take a node out, and revoke its token: it is cut off at once
    Remove {
        /// Its name
        #[arg(value_parser = plugin_name)]
        name: PluginName,
    },
}

fn life(text: &str) -> Result<Duration, String> {
    crate::value::parse_duration(text).ok_or_else(|| "a time such as 12h or 30d".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    /// Ask as this agent: rights, and the list of clients, know it by this name; default `mcp`
    #[arg(long = "as", value_name = "NAME", value_parser = agent_name)]
    pub(crate) agent: Option<String>,
    /// Tools that are listed; default: what was said of the client, else `auto`
    #[arg(long, value_enum)]
    pub(crate) profile: Option<McpProfile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpProfile {
    /// All, as long as these are few
    Auto,
    /// All that the client may use
    Full,
    /// A few tools by which all others are found and called
    Compact,
}

impl McpProfile {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Full => "full",
            Self::Compact => "compact",
        }
    }
}

/// A client that is configured in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpClient {
    /// Claude Desktop
    Claude,
    /// Claude Code
    ClaudeCode,
    /// Cursor
    Cursor,
    /// The client `openclaw`
    Openclaw,
    /// VS Code
    Vscode,
    /// Any other that starts servers by a command
    Other,
}

#[derive(Debug, Subcommand)]
pub(crate) enum McpCommand {
    /// Print what a client's own settings have to say, so that it starts `sigil mcp`
    Config {
        /// The client
        #[arg(long, value_enum)]
        client: McpClient,
        /// Ask as this agent; default: the name of the client
        #[arg(long = "as", value_name = "NAME", value_parser = agent_name)]
        agent: Option<String>,
        /// Write a bundle (.mcpb) in place of it, which the client installs
        #[arg(long, value_name = "FILE")]
        bundle: Option<PathBuf>,
    },
    /// MCP clients that were here, and what was said of them
    Clients {
        #[command(subcommand)]
        command: Option<McpClientsCommand>,
    },
    /// Take over the MCP servers of another client: shows what sigil.toml would say
    Import {
        /// Its file, such as `claude_desktop_config.json` or `.vscode/mcp.json`
        #[arg(value_parser = PathBufValueParser::new().try_map(named))]
        file: PathBuf,
        /// Write it, and keep tokens that stand in the file as secrets
        #[arg(long)]
        write: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum McpClientsCommand {
    /// Say what a client is shown; one that was revoked may come again
    Set {
        /// Whom it asks for, as `agent:owner/claude`; a name alone is an agent of whoever sits here
        who: String,
        /// Tools that it is shown
        #[arg(long, value_enum, default_value = "auto")]
        profile: McpProfile,
        /// Names of tools that it is shown besides, where not all are
        #[arg(long, value_delimiter = ',', value_name = "TOOLS")]
        pin: Vec<String>,
    },
    /// Let a client come no more; what it has asked for goes on
    Revoke {
        /// Whom it asks for
        who: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Allowed {
    /// To run as a process of this device
    Process,
    /// To use the network of this device
    HostNetwork,
    /// To read or write files of this device, talk to its services, or be given variables of the agent
    HostData,
    /// To be given the secrets that it names
    Secrets,
}

impl From<Allowed> for Consent {
    fn from(allowed: Allowed) -> Self {
        match allowed {
            Allowed::Process => Self::Process,
            Allowed::HostNetwork => Self::HostNetwork,
            Allowed::HostData => Self::HostData,
            Allowed::Secrets => Self::Secrets,
        }
    }
}

fn agent_name(text: &str) -> Result<String, String> {
    let name: Result<mesh_core::policy::AgentName, _> = text.parse();
    name.map(|name| name.to_string()).map_err(|error| error.to_string())
}

fn plugin_name(text: &str) -> Result<PluginName, InvalidName> {
    text.parse()
}

fn secret_name(text: &str) -> Result<SecretName, InvalidName> {
    text.parse()
}
