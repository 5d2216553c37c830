//! `sigil plugin`, `sigil secret` and `sigil mcp`.

use std::path::PathBuf;

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
pub(crate) enum McpCommand {
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

fn plugin_name(text: &str) -> Result<PluginName, InvalidName> {
    text.parse()
}

fn secret_name(text: &str) -> Result<SecretName, InvalidName> {
    text.parse()
}
