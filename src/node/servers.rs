//! MCP servers of the settings and of manifests, as what hosts them wants them described.

use std::path::{Path, PathBuf};

use crate::plugin::{Cancel, ContainerConfig, Plugin, Program, Protocol, Runs, Value};
use crate::runtime::sandbox::Sandbox;

use super::mcp::spec::{CancelPolicy, HttpSpec, PipesSpec, ServerSpec, Transport};
use super::plugins::PINS;
use super::{commands, confine};

/// Origin of a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenBy {
    /// The owner of this device, in its settings: the first list of tools is taken as it is.
    Owner,
    /// Somebody else, in a manifest: it is reviewed.
    Others,
}

/// A server as it is to be hosted; `None` for what is no MCP server, or asks for what is not offered. `folder`: that in which a
/// program with a path is.
#[must_use]
pub fn spec(plugin: &Plugin, folder: Option<&Path>, by: WrittenBy) -> Option<ServerSpec> {
    if plugin.execution.protocol != Protocol::Mcp {
        return None;
    }
    let transport = match &plugin.execution.runs {
        Runs::Process(program, process) => {
            let sandbox = confine::sandbox(&plugin.execution, program, process, folder).ok()?;
            Transport::Pipes(Box::new(pipes(program, folder, process.cwd.clone(), sandbox)?))
        }
        Runs::Remote(remote) => Transport::Http(HttpSpec { url: remote.url.clone(), headers: remote.headers.clone() }),
        Runs::Container(..) => Transport::Container(Box::new(ContainerConfig::from_manifest(plugin).ok()?)),
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
        pins: pins_of(folder),
        ..ServerSpec::new(plugin.name.as_str(), transport)
    })
}

/// The file of what was seen of an installed plugin whose files are in this folder: it goes when the plugin does.
pub(super) fn pins_of(folder: Option<&Path>) -> Option<PathBuf> {
    folder.and_then(Path::parent).map(|plugin| plugin.join(PINS))
}

fn pipes(program: &Program, folder: Option<&Path>, cwd: Option<PathBuf>, sandbox: Sandbox) -> Option<PipesSpec> {
    let (command, args) = commands::words(program, folder)?;
    let env = program
        .env
        .clone()
        .into_iter()
        .chain(commands::of_plugin(folder).map(|(name, folder)| (name, Value::Text(folder))));
    let way_out = commands::way_out_of(program.network, &program.egress).into_iter();
    let env = way_out.map(|(name, value)| (name, Value::Text(value))).chain(env).collect();
    Some(PipesSpec { command, args, env, cwd, sandbox, egress: program.egress.clone() })
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
        let of = |name: &str, by| spec(&config.mcp_servers[&name.parse().unwrap()], None, by);
        let time = of("time", WrittenBy::Owner).unwrap();
        let Transport::Pipes(pipes) = &time.transport else { panic!("pipes") };
        assert_eq!((pipes.command.to_str(), &pipes.args[..]), (Some("uvx"), &["mcp-server-time".to_owned()][..]));
        assert_eq!(pipes.env["C"], crate::plugin::Value::Secret("d".parse().unwrap()));
        assert_eq!(pipes.cwd.as_deref(), Some(std::path::Path::new("/tmp")));
        assert!(time.lazy && time.trusted_first_list && time.exposes("get_x") && !time.exposes("set_x"));
        assert_eq!((time.prefix.as_str(), time.timeout.as_secs()), ("time.", 5));
        assert_eq!(time.effects[&"get_current_time".parse().unwrap()], Effect::None);
        let far = of("far", WrittenBy::Others).unwrap();
        assert!(matches!(far.transport, Transport::Http(_)) && !far.trusted_first_list);
        let Transport::Container(contained) = of("box", WrittenBy::Owner).unwrap().transport else {
            panic!("a container")
        };
        assert_eq!(contained.image.as_str(), "docker.io/mcp/time:latest");
        assert_eq!(spec(&config.tools[&"x".parse().unwrap()], None, WrittenBy::Owner), None);
    }
}
