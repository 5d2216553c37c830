//! `[mcp_servers.NAME]` of `sigil.toml`, as far as a server needs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::spec::{HttpSpec, NAME_CHARS_MAX, PipesSpec, ServerSpec, Transport, Value};
use crate::config::TOOL_TIMEOUT_MAX;
use crate::config::value::parse_duration;

#[derive(Debug, Default, Deserialize)]
struct Raw {
    #[serde(default)]
    mcp_servers: BTreeMap<String, RawServer>,
}

#[derive(Debug, Deserialize)]
struct RawServer {
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, RawValue>,
    cwd: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, RawValue>,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    expose: Vec<String>,
    #[serde(default)]
    effects: BTreeMap<String, mesh_core::record::Effect>,
    timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawValue {
    Text(String),
    Secret { secret: String },
    Env { env: String },
    File { file: PathBuf },
}

impl From<RawValue> for Value {
    fn from(raw: RawValue) -> Self {
        match raw {
            RawValue::Text(text) => Self::Text(text),
            RawValue::Secret { secret } => Self::Secret(secret),
            RawValue::Env { env } => Self::Env(env),
            RawValue::File { file } => Self::File(file),
        }
    }
}

/// The servers that a file of settings names, and what is wrong with others. Blocks.
#[must_use]
pub fn read(file: &Path) -> (Vec<ServerSpec>, Vec<String>) {
    let Ok(text) = std::fs::read_to_string(file) else { return Default::default() };
    parse(&text)
}

fn parse(text: &str) -> (Vec<ServerSpec>, Vec<String>) {
    // What is no TOML was told by whoever reads the rest of the file.
    let raw = match toml::from_str::<Raw>(text) {
        Ok(raw) => raw,
        Err(error) => return (Vec::new(), vec![format!("mcp_servers: {}", error.message())]),
    };
    let (mut specs, mut wrong) = (Vec::new(), Vec::new());
    for (name, server) in raw.mcp_servers.into_iter().filter(|(_, server)| !server.disabled) {
        match spec(&name, server) {
            Ok(spec) => specs.push(spec),
            Err(why) => wrong.push(format!("mcp_servers.{name}: {why}")),
        }
    }
    (specs, wrong)
}

fn spec(name: &str, raw: RawServer) -> Result<ServerSpec, String> {
    let letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(letter) {
        return Err(format!("the name of a server has 1 to {NAME_CHARS_MAX} of a-z, 0-9 and -"));
    }
    let values = |raw: BTreeMap<String, RawValue>| raw.into_iter().map(|(name, value)| (name, value.into())).collect();
    let transport = match (raw.command, raw.url) {
        (Some(command), None) => {
            Transport::Pipes(PipesSpec { command: command.into(), args: raw.args, env: values(raw.env), cwd: raw.cwd })
        }
        (None, Some(url)) => Transport::Http(HttpSpec { url, headers: values(raw.headers) }),
        (Some(_), Some(_)) | (None, None) => return Err("it needs either `command` or `url`".to_owned()),
    };
    let mut spec = ServerSpec::new(name, transport);
    for pattern in raw.expose {
        spec.expose.push(pattern.parse().map_err(|error| format!("expose: {error}"))?);
    }
    for (tool, effect) in raw.effects {
        spec.effects.insert(tool.parse().map_err(|error| format!("effects: {error}"))?, effect);
    }
    if let Some(timeout) = raw.timeout {
        let read = parse_duration(&timeout).filter(|time| (Duration::from_millis(1)..=TOOL_TIMEOUT_MAX).contains(time));
        spec.timeout =
            read.ok_or_else(|| format!("timeout: `{timeout}` is not a time such as 30s, from 1ms to a day"))?;
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_what_is_wrong_with_one_does_not_stop_the_others() {
        let (specs, wrong) = parse(
            "[node]\nname = 'x'\n[mcp_servers.time]\ncommand = 'uvx'\nargs = ['a']\nenv = { A = 'b', C = { secret = 'd' } }\n\
             expose = ['get_*']\neffects = { get = 'none' }\ntimeout = '5s'\n[mcp_servers.off]\ncommand = 'x'\ndisabled = true\n\
             [mcp_servers.far]\nurl = 'https://x/mcp'\n[mcp_servers.'A b']\ncommand = 'x'\n[mcp_servers.none]\n",
        );
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["far", "time"]);
        let time = &specs[1];
        assert!(time.timeout.as_secs() == 5 && time.exposes("get_x") && !time.exposes("set_x"));
        let Transport::Pipes(pipes) = &time.transport else { panic!("pipes") };
        assert_eq!(pipes.env["C"], Value::Secret("d".to_owned()));
        assert!(wrong.len() == 2 && wrong[0].contains("A b") && wrong[1].contains("either"), "{wrong:?}");
    }
}
