//! What the settings say of tools: `[tools.NAME]` and `[mcp_servers.NAME]`, as plugins.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

use mesh_core::ids::ToolName;
use mesh_core::limits;
use mesh_core::record::Effect;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::checker::{Checker, in_home};
use super::settings::{CALLS_RUNNING_MAX, ConfigError, FILE_NAME, TOOL_TIMEOUT_DEFAULT, TOOL_TIMEOUT_MAX, Warning};
use crate::plugin::{self, CommandTool, Invalid, Plugin, PluginName, RawServer, RawValue, Value};
use crate::position::Position;
use crate::value::{SIZE_RULE, parse_size, show_size};

/// Longest description of a tool, in bytes, so that the largest catalogue still fits into one log entry. Within the 200
/// characters of [`mesh_core::record::ToolDecl`].
const DESCRIPTION_BYTES_MAX: usize = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawTool {
    command: String,
    args: Vec<String>,
    timeout: Option<String>,
    effect: Option<String>,
    max_output: Option<String>,
    description: Option<String>,
    env: BTreeMap<String, RawValue>,
    keep_running: Option<String>,
    at_once: Option<String>,
    // Words of a sandbox. A tool of the settings has none: whoever writes them here is to hear so, and not to believe that it has
    // one.
    min_level: Option<IgnoredAny>,
    network: Option<IgnoredAny>,
    egress: Option<IgnoredAny>,
    read: Option<IgnoredAny>,
    write: Option<IgnoredAny>,
    memory_limit: Option<IgnoredAny>,
    pids_limit: Option<IgnoredAny>,
    tier: Option<IgnoredAny>,
    image: Option<IgnoredAny>,
}

impl RawTool {
    fn word_of_a_sandbox(&self) -> Option<&'static str> {
        let words = [
            ("min_level", &self.min_level),
            ("network", &self.network),
            ("egress", &self.egress),
            ("read", &self.read),
            ("write", &self.write),
            ("memory_limit", &self.memory_limit),
            ("pids_limit", &self.pids_limit),
            ("tier", &self.tier),
            ("image", &self.image),
        ];
        words.into_iter().find_map(|(word, said)| said.as_ref().map(|_| word))
    }
}

impl Checker<'_> {
    pub(super) fn tools(&self, raw: BTreeMap<String, RawTool>) -> Result<BTreeMap<ToolName, Plugin>, ConfigError> {
        let mut tools = BTreeMap::new();
        for (name, tool) in raw {
            let wrong = |error: mesh_core::ids::InvalidId| {
                self.bad_at(&format!("tools.{name}"), "tools", name.clone(), error.why.to_owned())
            };
            let parsed: ToolName = name.parse().map_err(wrong)?;
            let tool = self.tool(&format!("tools.{name}"), parsed.clone(), tool)?;
            tools.insert(parsed, tool.into());
        }
        Ok(tools)
    }

    pub(super) fn servers(
        &self,
        raw: BTreeMap<String, RawServer>,
        warnings: &mut Vec<Warning>,
    ) -> Result<BTreeMap<PluginName, Plugin>, ConfigError> {
        let mut servers = BTreeMap::new();
        for (name, mut server) in raw {
            let section = format!("mcp_servers.{name}");
            let source = Section { name: &section, text: self.text };
            let expanded = |text: String| in_home(&text).unwrap_or(text);
            // What is started in a container is a path there.
            if server.image.is_none() && server.tier.as_deref() != Some("container") {
                let program = |command| self.program(&format!("{section}.command"), command);
                server.command = server.command.as_deref().map(program).transpose()?;
                server.args = server.args.into_iter().map(expanded).collect();
            }
            server.read = server.read.into_iter().map(expanded).collect();
            server.write = server.write.into_iter().map(expanded).collect();
            server.cwd = server.cwd.map(expanded);
            let mut told = Vec::new();
            let plugin = plugin::server(&name, server, &source, &mut told)
                .map_err(|Invalid { at, key, value, allowed }| ConfigError::Value { at, key, value, allowed })?;
            warnings.extend(told.into_iter().map(Warning));
            servers.extend(plugin.map(|plugin| (plugin.name.clone(), plugin)));
        }
        Ok(servers)
    }

    /// A program that the settings name: looked up in `PATH`, or in the home, which `./x` and `bin/x` are relative to.
    fn program(&self, key: &str, text: &str) -> Result<String, ConfigError> {
        let command = PathBuf::from(in_home(text).unwrap_or_else(|| text.to_owned()));
        if text.starts_with('~') && !command.is_absolute() {
            let allowed = "a path that begins with ~/ where HOME is set, or the whole path";
            return Err(self.bad(key, text, allowed));
        }
        // `./x` and `bin/x` would be looked for in the directory that a run happens to have.
        let command = if text.contains('/') { self.home.join(command) } else { command };
        let not_text = |_| self.bad(key, text, "a path in letters of UTF-8, and so the home that it is in");
        command.into_os_string().into_string().map_err(not_text)
    }

    fn tool(&self, section: &str, name: ToolName, raw: RawTool) -> Result<CommandTool, ConfigError> {
        let key = |name: &str| format!("{section}.{name}");
        if raw.command.is_empty() || raw.command.contains('\0') {
            return Err(self.bad(&key("command"), raw.command, "the program to run, such as \"/usr/bin/env\""));
        }
        if let Some(word) = raw.word_of_a_sandbox() {
            let allowed = "left out here: a tool of the settings does what the agent's user does. One in a sandbox is a plugin, `sigil plugin install`";
            return Err(self.bad(&key(word), "…", allowed));
        }
        if let Some(arg) = raw.args.iter().find(|arg| arg.contains('\0')) {
            return Err(self.bad(&key("args"), arg.escape_debug().to_string(), "text without NUL"));
        }
        let env = self.env(&key("env"), raw.env)?;
        let effects = [("none", Effect::None), ("idempotent", Effect::Idempotent), ("once", Effect::Once)];
        let sizes = 1..=limits::RESULT_BYTES_MAX;
        let max_output = raw.max_output.map(|text| {
            parse_size(&text).filter(|size| sizes.contains(size)).ok_or_else(|| {
                let allowed = format!("{SIZE_RULE}, at most {}", show_size(limits::RESULT_BYTES_MAX));
                self.bad(&key("max_output"), text, allowed)
            })
        });
        let times = Duration::from_millis(1)..=TOOL_TIMEOUT_MAX;
        let description = raw.description.unwrap_or_else(|| format!("runs {}", raw.command));
        let program = self.program(&key("command"), &raw.command)?;
        let args = raw.args.into_iter().map(|arg| in_home(&arg).unwrap_or(arg));
        Ok(CommandTool {
            name,
            command: std::iter::once(program).chain(args).collect(),
            timeout: self.duration(&key("timeout"), raw.timeout, TOOL_TIMEOUT_DEFAULT, times)?,
            effect: self.one_of(&key("effect"), raw.effect, Effect::Once, &effects)?,
            max_output: max_output.transpose()?.unwrap_or(limits::RESULT_BYTES_MAX),
            description: limits::cut(&description, DESCRIPTION_BYTES_MAX).to_owned(),
            env,
            at_once: self.at_once(&key("at_once"), raw.at_once)?,
            keep_running: self.one_of(
                &key("keep_running"),
                raw.keep_running,
                false,
                &[("true", true), ("false", false)],
            )?,
        })
    }

    /// Variables of a tool, as those of a manifest.
    fn env(&self, key: &str, raw: BTreeMap<String, RawValue>) -> Result<BTreeMap<String, Value>, ConfigError> {
        let mut env = BTreeMap::new();
        for (name, value) in raw {
            let plain = !name.is_empty() && !name.contains(['=', '\0']);
            let text_is_plain = !matches!(&value, RawValue::Text(text) if text.contains('\0'));
            if !plain || !text_is_plain || name.starts_with("SIGIL_") {
                let allowed = "names without `=` that do not begin with SIGIL_, and nothing with NUL";
                return Err(self.bad(key, name.escape_debug().to_string(), allowed));
            }
            let at = format!("{key}.{name}");
            let value = Value::try_from(value).map_err(|(said, allowed)| self.bad(&at, said, allowed))?;
            env.insert(name, value);
        }
        Ok(env)
    }

    fn at_once(&self, key: &str, value: Option<String>) -> Result<Option<NonZeroU8>, ConfigError> {
        let Some(text) = value else { return Ok(None) };
        let parsed = text.parse().ok().filter(|most: &NonZeroU8| most.get() <= CALLS_RUNNING_MAX);
        parsed.map(Some).ok_or_else(|| self.bad(key, text, format!("a number from 1 to {CALLS_RUNNING_MAX}")))
    }
}

/// A section of the file, whose keys are those of an execution of a manifest.
struct Section<'a> {
    name: &'a str,
    text: &'a str,
}

impl plugin::Source for Section<'_> {
    fn key(&self, key: &str) -> String {
        let key = key.strip_prefix("execution.").unwrap_or(key);
        match key.split('.').next().unwrap_or_default() {
            "name" => self.name.to_owned(),
            "output_limit" => format!("{}.max_output", self.name),
            _ => format!("{}.{key}", self.name),
        }
    }

    fn at(&self, key: &str) -> String {
        let at = Position::of(self.text, &plugin::Source::key(self, key));
        at.map(|at| format!("{FILE_NAME}:{at}: ")).unwrap_or_default()
    }
}
