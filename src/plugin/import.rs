//! MCP servers as other clients write them down: `mcpServers` of Claude Desktop, Claude Code, Cursor, Windsurf and Cline,
//! `servers` of VS Code. They become `[mcp_servers.NAME]` of `sigil.toml`; what is secret in them is taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::names::{PluginName, SecretName};

/// Servers of one file.
const SERVERS_MAX: usize = 64;
/// Parts of names by which variables and headers are known to be secret.
const SECRET_WORDS: [&str; 9] =
    ["token", "secret", "password", "passwd", "apikey", "api_key", "api-key", "authorization", "credential"];
/// Beginnings of values that are tokens of well-known services.
const TOKEN_STARTS: [&str; 12] =
    ["ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "sk-", "sk_", "xoxb-", "xoxp-", "AKIA", "AIza", "Bearer "];

/// All that a file says of MCP servers, for `sigil.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    /// Those that can be taken, by name.
    pub servers: BTreeMap<PluginName, Imported>,
    /// Others, with the reason.
    pub left_out: Vec<(String, String)>,
}

/// One server.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Imported {
    /// Its section of `sigil.toml`, without the head.
    pub lines: Vec<String>,
    /// Secrets that it needs: names and values.
    pub secrets: BTreeMap<SecretName, String>,
    /// What a person should know of it.
    pub notes: Vec<String>,
}

impl std::fmt::Debug for Imported {
    /// Never the values of secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&SecretName> = self.secrets.keys().collect();
        f.debug_struct("Imported").field("lines", &self.lines).field("secrets", &names).finish_non_exhaustive()
    }
}

/// A file that has no servers in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Not JSON.
    #[error("it is not JSON (take comments out of it): {0}")]
    NotJson(String),
    /// None of the keys.
    #[error("it has neither `mcpServers` nor `servers`")]
    NoServers,
    /// More than a person would look through.
    #[error("it has {0} servers, and at most {SERVERS_MAX} are taken at once")]
    TooMany(usize),
}

/// Reads the file of another client.
///
/// # Errors
/// See [`ImportError`]. A server that cannot be taken is left out, with the reason.
pub fn import(text: &str) -> Result<Import, ImportError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let file: Value = serde_json::from_str(text).map_err(|error| ImportError::NotJson(error.to_string()))?;
    let servers = ["mcpServers", "servers"].iter().find_map(|key| file.get(key)?.as_object());
    let servers = servers.or_else(|| file.get("mcp")?.get("servers")?.as_object()).ok_or(ImportError::NoServers)?;
    if servers.len() > SERVERS_MAX {
        return Err(ImportError::TooMany(servers.len()));
    }
    let mut import = Import::default();
    for (called, server) in servers {
        let Some(name) = PluginName::slug(called) else {
            import
                .left_out
                .push((called.clone(), "nothing of its name fits: give it one of a-z, 0-9 and -".to_owned()));
            continue;
        };
        let made = match server.as_object() {
            Some(server) => of_server(&name, server),
            None => Err("it is no object".to_owned()),
        };
        match made {
            Err(why) => import.left_out.push((called.clone(), why)),
            Ok(_) if import.servers.contains_key(&name) => {
                import.left_out.push((
                    called.clone(),
                    format!("another one is called {name} too, apart from what is not a-z, 0-9 and -"),
                ));
            }
            Ok(mut imported) => {
                if name.as_str() != called {
                    imported.notes.push(format!("`{called}` becomes `{name}`"));
                }
                import.servers.insert(name, imported);
            }
        }
    }
    Ok(import)
}

/// Makes one server.
fn of_server(name: &PluginName, server: &Map<String, Value>) -> Result<Imported, String> {
    let mut made = Imported::default();
    let url = ["url", "serverUrl", "httpUrl"].iter().find_map(|key| server.get(*key)?.as_str());
    if let Some(url) = url {
        if server.get("type").and_then(Value::as_str) == Some("sse") {
            made.notes.push(
                "it speaks the old form of HTTP (sse), which is not spoken here: look for its new address".to_owned(),
            );
        }
        made.lines.push(format!("url = {}", quoted(url)));
        let headers = table(server, "headers")?;
        made.values(name, "headers", &headers);
    } else {
        let command = server.get("command").and_then(Value::as_str).filter(|command| !command.is_empty());
        let command = command.ok_or("it has neither a command nor a url")?;
        let args = words(server, "args")?;
        let mut env = table(server, "env")?;
        match Docker::of(command, &args) {
            Some(Ok(docker)) => made.docker(docker, &mut env),
            other => {
                if let Some(Err(why)) = other {
                    made.notes.push(format!("it stays a process that asks Docker, and is not confined: {why}"));
                }
                made.lines.push(format!("command = {}", quoted(command)));
                if !args.is_empty() {
                    made.lines.push(format!("args = {}", list(&args)));
                }
                if let Some(cwd) = server.get("cwd").and_then(Value::as_str) {
                    made.lines.push(format!("cwd = {}", quoted(cwd)));
                }
            }
        }
        if args.iter().any(|arg| is_token(arg)) {
            made.notes
                .push("one of its arguments looks like a secret: everybody on this machine sees it in `ps`".to_owned());
        }
        made.values(name, "env", &env);
    }
    if server.get("disabled") == Some(&Value::Bool(true)) {
        made.lines.push("disabled = true".to_owned());
    }
    Ok(made)
}

impl Imported {
    /// Variables or headers: what is secret among them becomes a secret of this device.
    fn values(&mut self, server: &PluginName, key: &str, values: &BTreeMap<String, String>) {
        if values.is_empty() {
            return;
        }
        let mut parts = Vec::new();
        for (name, value) in values {
            let value = if let Some(variable) = variable_in(value) {
                format!("{{ env = {} }}", quoted(variable))
            } else if value.starts_with("${") {
                // A value that the other client asks its person for.
                let secret = secret_name(server, name);
                self.notes.push(format!(
                    "`{name}` is asked for by the other client: `sigil secret set {secret} --from-file FILE` gives it"
                ));
                format!("{{ secret = {} }}", quoted(secret.as_str()))
            } else if !value.is_empty() && (is_secret_name(name) || is_token(value)) {
                let secret = secret_name(server, name);
                let reference = format!("{{ secret = {} }}", quoted(secret.as_str()));
                self.secrets.insert(secret, value.clone());
                reference
            } else {
                quoted(value)
            };
            parts.push(format!("{} = {value}", bare(name)));
        }
        self.lines.push(format!("{key} = {{ {} }}", parts.join(", ")));
    }

    /// A container in place of a command that starts one.
    fn docker(&mut self, docker: Docker, env: &mut BTreeMap<String, String>) {
        self.lines.push(format!("image = {}", quoted(&docker.image)));
        if let Some((command, args)) = docker.command.split_first() {
            // After the image stand arguments for what it starts, which here would replace that.
            self.notes.push(format!(
                "`{command}` and what follows it are arguments for what the image starts, which is not known here: write the whole command of the image"
            ));
            self.lines.push(format!("command = {}", quoted(command)));
            if !args.is_empty() {
                self.lines.push(format!("args = {}", list(args)));
            }
        }
        for (key, paths) in [("read", &docker.read), ("write", &docker.write)] {
            if !paths.is_empty() {
                self.lines.push(format!("{key} = {}", list(paths)));
            }
        }
        if docker.host_network {
            self.lines.push("network = \"host\"".to_owned());
        } else {
            self.notes.push(
                "it has no network: `network = \"restricted\"` and `egress = [\"api.example.org\"]` give it some"
                    .to_owned(),
            );
        }
        // `-e NAME` hands on a variable of the client, which the file may have set.
        for (name, value) in docker.env {
            if let Some(value) = value {
                env.insert(name, value);
            } else {
                env.entry(name.clone()).or_insert_with(|| format!("${{env:{name}}}"));
            }
        }
        self.notes.extend(docker.notes);
    }
}

/// `docker run … IMAGE …`, or podman's.
#[derive(Debug, Default)]
struct Docker {
    image: String,
    command: Vec<String>,
    env: Vec<(String, Option<String>)>,
    read: Vec<String>,
    write: Vec<String>,
    host_network: bool,
    notes: Vec<String>,
}

impl Docker {
    /// `None` if it is not that; `Err` with the reason if it says what has no counterpart here.
    fn of(command: &str, args: &[String]) -> Option<Result<Self, String>> {
        let program = command.rsplit('/').next().unwrap_or(command);
        if !["docker", "podman"].contains(&program) || args.first().map(String::as_str) != Some("run") {
            return None;
        }
        Some(Self::read(args.get(1..).unwrap_or_default()))
    }

    fn read(args: &[String]) -> Result<Self, String> {
        let mut docker = Self::default();
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            if !word.starts_with('-') {
                docker.image.clone_from(word);
                docker.command = rest.cloned().collect();
                return Ok(docker);
            }
            let (flag, given) = match word.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
                _ => (word.as_str(), None),
            };
            let mut value = || given.clone().or_else(|| rest.next().cloned()).ok_or(format!("`{flag}` has no value"));
            match flag {
                "-i" | "-t" | "-it" | "-ti" | "--interactive" | "--tty" | "--rm" | "--init" | "-q" | "--quiet"
                | "--read-only" => {}
                "-e" | "--env" => {
                    let value = value()?;
                    let (name, value) = match value.split_once('=') {
                        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                        None => (value, None),
                    };
                    docker.env.push((name, value));
                }
                "-v" | "--volume" => docker.bind(&value()?)?,
                "--network" | "--net" => docker.host_network = value()? == "host",
                "--name" | "--pull" | "--platform" | "--memory" | "-m" | "--cpus" | "-l" | "--label"
                | "--log-driver" | "--cap-drop" | "--security-opt" | "--pids-limit" => {
                    let value = value()?;
                    docker.notes.push(format!("`{flag} {value}` is left out: this device sets that itself"));
                }
                other => return Err(format!("`{other}` has no counterpart here")),
            }
        }
        Err("it names no image".to_owned())
    }

    fn bind(&mut self, text: &str) -> Result<(), String> {
        let mut parts = text.split(':');
        let (from, to, mode) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
        if !from.starts_with('/') || from != to {
            return Err(format!("`-v {text}` puts a path in another place, and here it keeps its own"));
        }
        let reads = mode.is_some_and(|mode| mode.split(',').any(|word| word == "ro"));
        if reads {
            self.read.push(from.to_owned());
        } else {
            self.write.push(from.to_owned());
        }
        Ok(())
    }
}

/// A table of texts.
fn table(server: &Map<String, Value>, key: &str) -> Result<BTreeMap<String, String>, String> {
    let Some(table) = server.get(key).filter(|value| !value.is_null()) else { return Ok(BTreeMap::new()) };
    let table = table.as_object().ok_or(format!("its `{key}` is no object"))?;
    let text = |(name, value): (&String, &Value)| match value {
        Value::String(text) => Ok((name.clone(), text.clone())),
        Value::Number(_) | Value::Bool(_) => Ok((name.clone(), value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(format!("its `{key}.{name}` is no text")),
    };
    table.iter().map(text).collect()
}

/// A list of texts.
fn words(server: &Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    let Some(list) = server.get(key).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let words = list.as_array().and_then(|list| list.iter().map(|word| word.as_str().map(ToOwned::to_owned)).collect());
    words.ok_or(format!("its `{key}` is no list of texts"))
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let last = name.rsplit(['_', '-']).next().unwrap_or_default();
    SECRET_WORDS.iter().any(|word| name.contains(word)) || ["key", "pat", "auth", "pass", "pwd"].contains(&last)
}

/// True for what looks like a token, and for an address with a password in it.
fn is_token(value: &str) -> bool {
    let value = value.rsplit_once('=').map_or(value, |(_, value)| value);
    let with_password = value.split_once("://").is_some_and(|(_, rest)| {
        let host = rest.split('/').next().unwrap_or_default();
        host.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    });
    let starts = TOKEN_STARTS.iter().any(|start| value.starts_with(start) && value.len() >= start.len() + 8);
    starts || with_password
}

/// The variable that a value stands for: `${env:NAME}`, `${NAME}`.
fn variable_in(value: &str) -> Option<&str> {
    let inner = value.strip_prefix("${")?.strip_suffix('}')?;
    let name = inner.strip_prefix("env:").unwrap_or(inner);
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some(name)
}

/// `github-token` for `GITHUB_TOKEN` of `github`.
fn secret_name(server: &PluginName, key: &str) -> SecretName {
    let key: String =
        key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let key = key.trim_matches('-');
    let whole = if key.starts_with(server.as_str()) { key.to_owned() } else { format!("{server}-{key}") };
    let short = whole.get(..64).unwrap_or(&whole).trim_end_matches('-');
    // Made of a-z, 0-9 and -, it can only be empty, and then it has the server's own name.
    short.parse().or_else(|_| server.as_str().parse()).unwrap_or_else(|_| "secret".parse().expect("it is a name"))
}

/// A text in TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A list of texts in TOML.
fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

/// A key in TOML.
fn bare(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if plain { key.to_owned() } else { quoted(key) }
}

impl Import {
    /// Leaves those out of which `refused`, given the section of one, has something to say. What it says may have values of the
    /// file in it; where one looks like a token it is told without them.
    pub fn leave_out(&mut self, refused: impl Fn(&str) -> Option<String>) {
        for (name, server) in std::mem::take(&mut self.servers) {
            match refused(&format!("[mcp_servers.{name}]\n{}\n", server.lines.join("\n"))) {
                None => drop(self.servers.insert(name, server)),
                Some(why) if why.split_whitespace().any(|word| is_token(word.trim_matches(['`', '"', '\'', ',']))) => {
                    let why = "one of its values cannot be used, and looks like a secret: it is not shown";
                    self.left_out.push((name.to_string(), why.to_owned()));
                }
                Some(why) => self.left_out.push((name.to_string(), why)),
            }
        }
    }

    /// The sections for `sigil.toml`, but for servers that are there already.
    #[must_use]
    pub fn sections(&self, there: &BTreeSet<String>) -> String {
        let mut text = String::new();
        for (name, server) in self.servers.iter().filter(|(name, _)| !there.contains(name.as_str())) {
            let _ = writeln!(text, "[mcp_servers.{name}]\n{}\n", server.lines.join("\n"));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(import: &Import, name: &str) -> Vec<String> {
        import.servers[&name.parse().unwrap()].lines.clone()
    }

    #[test]
    fn servers_of_the_common_clients_become_sections_and_their_secrets_are_taken_out() {
        let import = import(
            r#"{ "mcpServers": {
              "github": { "command": "npx", "args": ["-y", "@modelcontextprotocol/server-github"],
                          "env": { "GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_0123456789abcdef", "LOG": "de\"bug" } },
              "Brave Search": { "command": "/usr/bin/brave", "env": { "BRAVE_API_KEY": "${env:BRAVE}", "PORT": 80 }, "disabled": true },
              "far": { "type": "http", "url": "https://host/mcp", "headers": { "Authorization": "Bearer abcdefghijk", "X-Org": "me" } },
              "bad": { "args": [] }, "worse": 3, "@": { "command": "x" }
            } }"#,
        )
        .unwrap();
        assert_eq!(
            lines(&import, "github"),
            [
                r#"command = "npx""#,
                r#"args = ["-y", "@modelcontextprotocol/server-github"]"#,
                r#"env = { GITHUB_PERSONAL_ACCESS_TOKEN = { secret = "github-personal-access-token" }, LOG = 'de"bug' }"#,
            ]
        );
        let secrets = &import.servers[&"github".parse().unwrap()].secrets;
        assert_eq!(secrets[&"github-personal-access-token".parse().unwrap()], "ghp_0123456789abcdef");
        assert!(!format!("{import:?}").contains("ghp_"));
        assert_eq!(
            lines(&import, "brave-search")[1..],
            [r#"env = { BRAVE_API_KEY = { env = "BRAVE" }, PORT = "80" }"#, "disabled = true"]
        );
        assert_eq!(
            lines(&import, "far"),
            [
                r#"url = "https://host/mcp""#,
                r#"headers = { Authorization = { secret = "far-authorization" }, X-Org = "me" }"#
            ]
        );
        let left: Vec<&str> = import.left_out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(left, ["@", "bad", "worse"]);
    }

    #[test]
    fn a_command_that_starts_a_container_becomes_one() {
        let import = import(
            r#"{ "servers": {
              "gh": { "command": "docker", "args": ["run", "-i", "--rm", "-e", "GITHUB_TOKEN", "-e", "A=b", "-v", "/srv:/srv:ro",
                      "--network=host", "ghcr.io/github/github-mcp-server"], "env": { "GITHUB_TOKEN": "${input:token}" } },
              "fs": { "command": "docker", "args": ["run", "-i", "-v", "/home/me:/projects", "mcp/filesystem", "/projects"] }
            } }"#,
        )
        .unwrap();
        assert_eq!(
            lines(&import, "gh"),
            [
                r#"image = "ghcr.io/github/github-mcp-server""#,
                r#"read = ["/srv"]"#,
                r#"network = "host""#,
                r#"env = { A = "b", GITHUB_TOKEN = { secret = "gh-github-token" } }"#,
            ]
        );
        assert!(
            import.servers[&"gh".parse().unwrap()]
                .notes
                .iter()
                .any(|note| note.contains("sigil secret set gh-github-token"))
        );
        let fs = &import.servers[&"fs".parse().unwrap()];
        assert!(fs.lines[0] == r#"command = "docker""# && fs.notes[0].contains("/projects"), "{fs:?} {:?}", fs.notes);
    }

    #[test]
    fn what_has_no_servers_is_told() {
        assert!(matches!(import("{ // x\n}"), Err(ImportError::NotJson(_))));
        assert_eq!(import("{}"), Err(ImportError::NoServers));
        assert_eq!(import("[]"), Err(ImportError::NoServers));
        assert!(import(r#"{ "mcp": { "servers": { "a": { "command": "x" } } } }"#).unwrap().servers.len() == 1);
    }

    #[test]
    fn sections_leave_out_what_is_there() {
        let import = import(r#"{ "mcpServers": { "a": { "command": "x" }, "b": { "command": "y" } } }"#).unwrap();
        assert_eq!(import.sections(&BTreeSet::from(["a".to_owned()])), "[mcp_servers.b]\ncommand = \"y\"");
    }
}
