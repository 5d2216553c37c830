//! One home: its directory, its agent process, its doors.

use std::fs;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::agent::{self, Agent};
use testbed::http::{Request, Response, ask_tcp, ask_unix};
use testbed::witness;

use super::{PATIENCE, call_is_over, items, now, text, wait_for, wait_until};

/// Longest that a server may stay silent within one answer.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Longest that a command of the CLI may take; then `timeout` ends it, with exit code 124.
const CLI_SECONDS_MAX: &str = "60";

/// The program that is tested: the one that was built with the tests, or another, whose figures are wanted.
fn program() -> String {
    std::env::var("SIGIL_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sigil").to_owned())
}

/// Output of a command of the CLI.
#[derive(Debug)]
pub(crate) struct Cli {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Cli {
    /// Standard output as one JSON document, when the exit code is as expected.
    #[track_caller]
    pub(crate) fn json(&self, code: i32) -> Value {
        assert_eq!(self.code, code, "stdout: {} stderr: {}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}): {:?} {:?}", self.stdout, self.stderr))
    }
}

/// A home in a temporary directory. Its agent never outlives it.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
    pub(crate) name: String,
    quic_port: u16,
    pub(crate) http_port: u16,
    environment: Vec<(String, String)>,
    namespace: Option<String>,
    agent: Agent,
}

impl Home {
    /// A home whose agent does not run yet: no LAN discovery, and the tools `append` (effect `once`), `again`
    /// (`idempotent`) and `slow` (`once`, half a second), which all add a line to the witness file.
    pub(crate) fn new(name: &str) -> Self {
        let home = Self {
            dir: tempfile::Builder::new().prefix("sgl").tempdir().expect("a temporary directory"),
            name: name.to_owned(),
            quic_port: free_port(),
            http_port: free_port(),
            environment: Vec::new(),
            namespace: None,
            agent: Agent::default(),
        };
        let tools = [("append", "once", ""), ("again", "idempotent", ""), ("slow", "once", "sleep 0.5; ")];
        let witness = home.witness_file();
        let tools = tools.map(|(tool, effect, before)| witness::tool(tool, effect, &witness, before, ""));
        home.with_config("[discovery]\nlan = false\n").with_config(&tools.join("\n"))
    }

    /// Adds to `sigil.toml`.
    pub(crate) fn with_config(self, toml: &str) -> Self {
        let file = self.path("sigil.toml");
        let before = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, format!("{before}{toml}\n")).expect("sigil.toml is written");
        self
    }

    /// Replaces `sigil.toml`.
    pub(crate) fn with_only_config(self, toml: &str) -> Self {
        fs::write(self.path("sigil.toml"), toml).expect("sigil.toml is written");
        self
    }

    /// Adds a command tool that runs a line of shell.
    pub(crate) fn with_tool(self, tool: &str, script: &str, effect: &str) -> Self {
        let script = Value::from(script);
        self.with_config(&format!(
            "[tools.\"{tool}\"]\ncommand = \"sh\"\nargs = [\"-c\", {script}]\neffect = \"{effect}\"\n"
        ))
    }

    /// Runs the agent inside a network namespace.
    pub(crate) fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Sets a variable for the agents started from now on; an empty value removes it.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(key, _)| key != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// A path inside the home.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// Where the QUIC door is, on loopback.
    pub(crate) fn quic_address(&self) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, self.quic_port).into()
    }

    /// A command in this home's network, its first words being `words`.
    fn command(&self, words: &[&str]) -> Command {
        let words: Vec<&Path> = words.iter().map(Path::new).collect();
        agent::command(self.namespace.as_deref(), &words)
    }

    /// Starts `sigil up` without waiting for it.
    #[track_caller]
    pub(crate) fn spawn(&mut self) {
        assert!(!self.agent.runs(), "{} runs already", self.name);
        let log = agent::log_file(&self.path("up.log")).expect("a log file");
        let mut command = self.command(&[&program()]);
        command
            .arg("up")
            .arg("--home")
            .arg(self.dir.path())
            .args(["--name", &self.name, "--quic-port", &self.quic_port.to_string()])
            .args(["--http-port", &self.http_port.to_string()])
            .env("SIGIL_LOG_LEVEL", "info")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(log.try_clone().expect("the log file, twice"))
            .stderr(log);
        self.agent.spawn(&mut command).expect("the agent starts");
    }

    /// Starts the agent and waits until its door answers.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        self.spawn();
        let started = now();
        loop {
            if self.try_ask("GET", "/readyz", &[], b"").is_ok_and(|response| response.status == 200) {
                return;
            }
            if let Some(status) = self.exited() {
                panic!("the agent of {} ended with {status} before it was ready", self.name);
            }
            assert!(started.elapsed() < PATIENCE, "the agent of {} does not get ready", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A started home.
    #[track_caller]
    pub(crate) fn started(mut self) -> Self {
        self.start();
        self
    }

    /// Exit status of the agent, if it ended.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.agent.exited()
    }

    /// Process id of the agent.
    #[track_caller]
    pub(crate) fn pid(&self) -> Pid {
        let pid = self.agent.pid().unwrap_or_else(|| panic!("{} does not run", self.name));
        Pid::from_raw(pid.try_into().expect("process ids fit"))
    }

    /// True if the agent was started and has not been seen to end.
    pub(crate) fn runs(&self) -> bool {
        self.agent.runs()
    }

    /// Sends a signal to the agent.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        self.agent.signal(signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Kills the agent the hard way and waits for its end.
    #[track_caller]
    pub(crate) fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.reap();
    }

    /// Stops the agent cleanly and waits for its end.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.reap();
        assert!(status.success(), "a clean stop of {} ended with {status}", self.name);
    }

    /// Waits for the end of the agent.
    #[track_caller]
    pub(crate) fn reap(&mut self) -> ExitStatus {
        let what = format!("the end of the agent of {}", self.name);
        wait_for(&what, PATIENCE, || self.exited())
    }

    /// The last lines of what the agent said.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
        format!("--- last lines of {} ---\n{}\n", self.name, tail.join("\n"))
    }

    /// Everything the agents of this home said.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("up.log")).unwrap_or_default()).into_owned()
    }

    // --- doors ---

    /// Asks at the socket; an error when the agent is not there.
    pub(crate) fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        ask_unix(&self.path("run/sigil.sock"), &Request { method, path, headers, body }, SILENCE_MAX)
    }

    /// Asks at the socket.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_ask(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path} at {}: {error}", self.name))
    }

    /// Asks at the loopback HTTP port.
    #[track_caller]
    pub(crate) fn ask_http(&self, host: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        ask_tcp(self.http_port, host, &Request { method, path, headers, body: b"" }, SILENCE_MAX)
            .unwrap_or_else(|error| panic!("{method} {path} at {} over HTTP: {error}", self.name))
    }

    /// `/api/v1/…` over HTTP with a token, and JSON in the body unless it is null.
    #[track_caller]
    pub(crate) fn ask_by_token(&self, token: &str, method: &str, path: &str, body: &Value) -> Response {
        let (host, bearer) = (format!("127.0.0.1:{}", self.http_port), format!("Bearer {token}"));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("authorization", &*bearer), ("content-type", "application/json")];
        let path = &format!("/api/v1/{path}");
        ask_tcp(self.http_port, &host, &Request { method, path, headers: &headers, body: body.as_bytes() }, SILENCE_MAX)
            .unwrap_or_else(|error| panic!("{method} {path} at {} by a token: {error}", self.name))
    }

    /// `GET /api/v1/…`.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.ask("GET", &format!("/api/v1/{path}"), &[], b"")
    }

    /// `POST /api/v1/…` with JSON.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.ask(
            "POST",
            &format!("/api/v1/{path}"),
            &[("Content-Type", "application/json")],
            body.to_string().as_bytes(),
        )
    }

    /// `DELETE /api/v1/…`.
    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Response {
        self.ask("DELETE", &format!("/api/v1/{path}"), &[], b"")
    }

    /// Runs a command of the CLI on this home.
    #[track_caller]
    pub(crate) fn cli(&self, arguments: &[&str]) -> Cli {
        let output = self
            .command(&["timeout", CLI_SECONDS_MAX, &program()])
            .args(arguments)
            .arg("--home")
            .arg(self.dir.path())
            .output()
            .expect("the command runs");
        Cli {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    // --- the mesh as this home sees it ---

    /// `GET /status`.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.get("status").expect(200)
    }

    /// Peer id of this home.
    #[track_caller]
    pub(crate) fn peer_id(&self) -> String {
        text(&self.status(), "peer_id").to_owned()
    }

    /// Gateway's peer id and epoch; `None` while there is none, or when the door does not answer.
    pub(crate) fn gateway(&self) -> Option<(String, u64)> {
        let response = self.try_ask("GET", "/api/v1/status", &[], b"").ok()?;
        let status: Value = serde_json::from_slice(&response.body).ok()?;
        let gateway = status.get("gateway")?;
        let peer = gateway.get("peer_id")?.as_str()?;
        Some((peer.to_owned(), epoch_counter(gateway.get("epoch")?)?))
    }

    /// True if this home leads.
    #[track_caller]
    pub(crate) fn leads(&self) -> bool {
        self.status()["gateway"]["self"] == true
    }

    /// All nodes.
    #[track_caller]
    pub(crate) fn nodes(&self) -> Vec<Value> {
        items(&self.get("nodes").expect(200)).to_vec()
    }

    /// State of a node, or nothing when it is not known.
    #[track_caller]
    pub(crate) fn node_state(&self, node: &str) -> Option<String> {
        let response = self.get(&format!("nodes/{node}"));
        (response.status == 200).then(|| text(&response.json(), "state").to_owned())
    }

    /// Waits until a node is in a state.
    #[track_caller]
    pub(crate) fn wait_node(&self, node: &str, state: &str) {
        let what = format!("{node} is {state} at {}", self.name);
        wait_until(&what, PATIENCE, || self.node_state(node).as_deref() == Some(state));
    }

    /// The tool by its full name, `node:<id>:<tool>`.
    #[track_caller]
    pub(crate) fn tool(&self, full_name: &str) -> Option<Value> {
        let list = self.get("tools").expect(200);
        let has_name = |tool: &&Value| {
            tool.as_object().is_some_and(|fields| fields.values().any(|value| value.as_str() == Some(full_name)))
        };
        items(&list).iter().find(has_name).cloned()
    }

    /// Makes an invite and gives its code.
    #[track_caller]
    pub(crate) fn invite(&self) -> String {
        let response = self.post("invites", &json!({}));
        assert!((200..300).contains(&response.status), "{}", response.text());
        text(&response.json(), "code").to_owned()
    }

    /// Joins with a code.
    #[track_caller]
    pub(crate) fn join(&self, code: &str) -> Response {
        self.post("join", &json!({ "code": code }))
    }

    /// Asks to join at an address, whose check words were compared.
    #[track_caller]
    pub(crate) fn ask_to_join(&self, at: &Self) -> Response {
        let body = json!({ "address": at.quic_address().to_string(), "words": at.check_words() });
        self.post("join", &body)
    }

    /// The check words that it shows of itself.
    #[track_caller]
    pub(crate) fn check_words(&self) -> String {
        let status = self.status();
        let words = status["check"]["words"].as_array().expect("four words");
        words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    }

    // --- calls ---

    /// Makes a call and gives its id. A provider's tools are told at a pace, after its state is shown: until then it waits.
    #[track_caller]
    pub(crate) fn call(&self, node: &str, tool: &str, ttl_s: u64) -> String {
        let started = now();
        loop {
            match self.try_call(node, tool, ttl_s) {
                Ok(id) => return id,
                Err(refused) if refused.json()["code"] == "unknown_tool" && started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(refused) => panic!("{} refused: {}", self.name, refused.text()),
            }
        }
    }

    /// Makes a call; the answer when it is not a yes.
    #[track_caller]
    pub(crate) fn try_call(&self, node: &str, tool: &str, ttl_s: u64) -> Result<String, Response> {
        let response = self.post("calls", &json!({ "node": node, "tool": tool, "arguments": {}, "ttl_s": ttl_s }));
        if response.status != 202 {
            return Err(response);
        }
        let call = response.json();
        let id = text(&call, "id").to_owned();
        assert_eq!(response.header("location"), Some(format!("/api/v1/calls/{id}").as_str()));
        Ok(id)
    }

    /// Makes a call with a client key.
    #[track_caller]
    pub(crate) fn call_with_key(&self, key: &str, body: &Value) -> Response {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
        self.ask("POST", "/api/v1/calls", &headers, body.to_string().as_bytes())
    }

    /// One call.
    #[track_caller]
    pub(crate) fn get_call(&self, id: &str) -> Value {
        self.get(&format!("calls/{id}")).expect(200)
    }

    /// Waits until a call has an ending.
    #[track_caller]
    pub(crate) fn wait_ended(&self, id: &str, within: Duration) -> Value {
        let started = now();
        loop {
            let call = self.get_call(id);
            if call_is_over(&call) {
                return call;
            }
            assert!(started.elapsed() < within, "no ending in {within:?}: {call}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the target itself has told the ending.
    #[track_caller]
    pub(crate) fn wait_confirmed(&self, id: &str, within: Duration) -> Value {
        let started = now();
        loop {
            let call = self.get_call(id);
            if call_is_over(&call) && call["confirmed"] == true {
                return call;
            }
            assert!(started.elapsed() < within, "no confirmed ending in {within:?}: {call}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where the tools of this home write their lines.
    pub(crate) fn witness_file(&self) -> PathBuf {
        self.path("witness")
    }

    /// Runs at this home, in order: id and attempt.
    #[track_caller]
    pub(crate) fn witness(&self) -> Vec<(String, u8)> {
        let runs = witness::read(&self.witness_file());
        if let Some((odd, _)) = runs.iter().find(|(_, attempt)| *attempt == 0) {
            panic!("{odd}");
        }
        runs
    }

    /// The attempts of one call that ran here.
    #[track_caller]
    pub(crate) fn runs_of(&self, id: &str) -> Vec<u8> {
        self.witness().into_iter().filter(|(ran, _)| ran == id).map(|(_, attempt)| attempt).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// The counter of an epoch, which is a number, or an object or text that holds one.
fn epoch_counter(epoch: &Value) -> Option<u64> {
    epoch
        .as_u64()
        .or_else(|| epoch.get("counter")?.as_u64())
        .or_else(|| epoch.as_str()?.split('.').next()?.parse().ok())
}

/// A port that is free for UDP and TCP, below the range that the system hands out by itself, and given only once.
pub(crate) fn free_port() -> u16 {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let first = 20_000 + u16::try_from(std::process::id() % 100).expect("below 100") * 100;
    let mut port = next.unwrap_or(first);
    loop {
        port = if port >= 31_000 { 20_000 } else { port + 1 };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("::", port)).is_ok() {
            *next = Some(port);
            return port;
        }
    }
}

/// All files below a directory.
#[track_caller]
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// Runs a command that must end well; what it said.
#[track_caller]
pub(crate) fn done(home: &Home, words: &[&str]) -> String {
    let said = home.cli(words);
    assert_eq!(said.code, 0, "{words:?}: {said:?}");
    said.stdout
}
