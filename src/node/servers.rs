//! MCP servers of the settings and of manifests, as what hosts them wants them described.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::plugin::{self, Cancel, Plugin, Program, Protocol, Runs, Tier};

use super::mcp::spec::{CancelPolicy, HttpSpec, PipesSpec, ServerSpec, Transport, Value};

/// Origin of a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenBy {
    /// The owner of this device, in its settings: the first list of tools is taken as it is.
    Owner,
    /// Somebody else, in a manifest: it is reviewed.
    Others,
}

/// The servers of the settings that can be hosted, as they are to be.
#[must_use]
pub fn specs(config: &Config) -> Vec<ServerSpec> {
    config.mcp_servers.values().filter_map(|plugin| spec(plugin, WrittenBy::Owner)).collect()
}

/// Why a server of the settings is not hosted, with the next step; `None`: it is.
#[must_use]
pub fn hindrance(plugin: &Plugin) -> Option<(&'static str, &'static str)> {
    match plugin.tier() {
        Some(Tier::Container) => {
            Some(("the container tier is not there yet", "give it a `command` of this device in place of its `image`"))
        }
        // What hosts servers takes `specs` and ends this.
        Some(Tier::Process) | None => Some((
            "this version reads MCP servers and does not host them yet",
            "offer the program as a command tool, `[tools.NAME]`, or wait for the next version",
        )),
    }
}

/// A server as it is to be hosted; `None` for what is no MCP server, or is to run in a container.
#[must_use]
pub fn spec(plugin: &Plugin, by: WrittenBy) -> Option<ServerSpec> {
    if plugin.execution.protocol != Protocol::Mcp {
        return None;
    }
    let transport = match &plugin.execution.runs {
        Runs::Process(program, process) => Transport::Pipes(pipes(program, process.cwd.clone())?),
        Runs::Remote(remote) => Transport::Http(HttpSpec { url: remote.url.clone(), headers: values(&remote.headers) }),
        Runs::Container(..) => return None,
    };
    Some(ServerSpec {
        prefix: plugin.prefix.clone(),
        expose: plugin.mcp.expose.clone(),
        approve: plugin.mcp.approve.clone(),
        effects: plugin.mcp.effects.clone(),
        timeout: plugin.execution.timeout,
        max_output: plugin.execution.output_limit,
        cancel: match plugin.mcp.cancel {
            Cancel::Tell => CancelPolicy::Tell,
            Cancel::Restart => CancelPolicy::Restart,
        },
        lazy: plugin.mcp.lazy,
        trusted_first_list: by == WrittenBy::Owner,
        ..ServerSpec::new(plugin.name.as_str(), transport)
    })
}

fn pipes(program: &Program, cwd: Option<std::path::PathBuf>) -> Option<PipesSpec> {
    let (command, args) = program.command.split_first()?;
    Some(PipesSpec { command: command.into(), args: args.to_vec(), env: values(&program.env), cwd })
}

fn values(values: &BTreeMap<String, plugin::Value>) -> BTreeMap<String, Value> {
    let value = |value: &plugin::Value| match value {
        plugin::Value::Text(text) => Value::Text(text.clone()),
        plugin::Value::Secret(name) => Value::Secret(name.to_string()),
        plugin::Value::Env(name) => Value::Env(name.clone()),
        plugin::Value::File(path) => Value::File(path.clone()),
    };
    values.iter().map(|(key, of)| (key.clone(), value(of))).collect()
}

#[cfg(test)]
mod tests {
    use mesh_core::record::Effect;

    use super::*;
    use crate::config::{Overrides, load};

    #[test]
    fn servers_of_the_settings_are_described_for_their_host() {
        let home = tempfile::tempdir().unwrap();
        let text = "[mcp_servers.time]\ncommand = 'uvx'\nargs = ['mcp-server-time']\nenv = { A = 'b', C = { secret = 'd' } }\n\
            expose = ['get_*']\neffects = { get_current_time = 'none' }\ntimeout = '5s'\nlazy = true\ncwd = '/tmp'\n\
            [mcp_servers.far]\nurl = 'https://host/mcp'\n[mcp_servers.box]\nimage = 'mcp/time'\n[tools.x]\ncommand = 'x'\n";
        std::fs::write(home.path().join("sigil.toml"), text).unwrap();
        let config = load(home.path(), &Overrides::default()).unwrap().0;
        let of = |name: &str, by| spec(&config.mcp_servers[&name.parse().unwrap()], by);
        let time = of("time", WrittenBy::Owner).unwrap();
        let Transport::Pipes(pipes) = &time.transport else { panic!("pipes") };
        assert_eq!((pipes.command.to_str(), &pipes.args[..]), (Some("uvx"), &["mcp-server-time".to_owned()][..]));
        assert_eq!(pipes.env["C"], Value::Secret("d".to_owned()));
        assert_eq!(pipes.cwd.as_deref(), Some(std::path::Path::new("/tmp")));
        assert!(time.lazy && time.trusted_first_list && time.exposes("get_x") && !time.exposes("set_x"));
        assert_eq!((time.prefix.as_str(), time.timeout.as_secs()), ("time.", 5));
        assert_eq!(time.effects[&"get_current_time".parse().unwrap()], Effect::None);
        let far = of("far", WrittenBy::Others).unwrap();
        assert!(matches!(far.transport, Transport::Http(_)) && !far.trusted_first_list);
        assert_eq!(of("box", WrittenBy::Owner), None);
        assert_eq!(specs(&config).iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["far", "time"]);
        assert_eq!(spec(&config.tools[&"x".parse().unwrap()], WrittenBy::Owner), None);
    }
}
