//! One real peer: its home, its process in a namespace, its door, and the witness file of its tools.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testbed::agent::{self, Agent};
use testbed::witness;

use super::clock::{now, wait_for};
use super::fail::Fail;
use super::http::{Answer, ask, text};
use super::network::QUIC_PORT;
use super::scenario::PeerSpec;

/// An agent that is not ready by then will not be.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// A clean stop takes no longer, with room for a busy machine; the promise is 0.2 s.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// In the log, before each start.
pub(super) const START_LINE: &str = "=== start";

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// As the scenario says.
    pub(super) spec: PeerSpec,
    home: PathBuf,
    /// Peer id, once it has run.
    pub(super) id: String,
    /// True if it is, or once was, in the mesh.
    pub(super) joined: bool,
    namespace: String,
    program: PathBuf,
    fault: String,
    agent: Agent,
}

impl Peer {
    /// Lays out the home.
    pub(super) fn new(
        root: &Path,
        spec: &PeerSpec,
        lan: bool,
        namespace: String,
        program: &Path,
    ) -> Result<Self, Fail> {
        let home = root.join(&spec.name);
        let trouble = |error: std::io::Error| Fail::Trouble(format!("laying out {}: {error}", home.display()));
        fs::create_dir_all(&home).map_err(trouble)?;
        fs::write(home.join("sigil.toml"), settings(spec, lan, &home.with_extension("witness"))).map_err(trouble)?;
        Ok(Self {
            spec: spec.clone(),
            home,
            id: String::new(),
            joined: false,
            namespace,
            program: program.to_owned(),
            fault: String::new(),
            agent: Agent::default(),
        })
    }

    /// Arms a fault point for the starts to come.
    pub(super) fn arm(&mut self, fault: &str) {
        fault.clone_into(&mut self.fault);
    }

    /// Starts the agent and waits until it is ready.
    pub(super) fn start(&mut self) -> Result<(), Fail> {
        let trouble = |error: std::io::Error| Fail::Trouble(format!("{}: {error}", self.spec.name));
        let mut log = agent::log_file(&self.home.with_extension("log")).map_err(trouble)?;
        writeln!(log, "{START_LINE}").map_err(trouble)?;
        let words = [&self.program, Path::new("up"), Path::new("--with-parent"), Path::new("--home"), &self.home];
        let mut command = agent::command(Some(&self.namespace), &words);
        command.args(["--name", self.spec.wanted_name(), "--quic-port", &QUIC_PORT.to_string()]);
        if self.spec.clock_s != 0 {
            command.env("SIGIL_TEST_WALL_OFFSET_MS", (self.spec.clock_s * 1000).to_string());
        }
        if !self.fault.is_empty() {
            command.env("SIGIL_FAULT", &self.fault);
        }
        command.env("SIGIL_LOG_FORMAT", "json").env("SIGIL_LOG_LEVEL", "info");
        // A group of its own: Ctrl-C is for us, and we end the peers.
        command.stdout(Stdio::null()).stderr(log).process_group(0);
        self.agent.spawn(&mut command).map_err(trouble)?;
        let ready = wait_for(READY_WITHIN, || {
            if let Some(status) = self.exited() {
                return Some(Err(status));
            }
            let answer = ask(&self.socket(), "GET", "status", None, None).ok()?;
            answer.is_yes().then_some(Ok(answer))
        })?;
        match ready {
            Some(Ok(answer)) => self.id = answer.text("peer_id"),
            Some(Err(status)) => return Err(self.trouble(&format!("ended at once with {status}"))),
            None => return Err(self.trouble("does not get ready")),
        }
        Ok(())
    }

    fn trouble(&self, what: &str) -> Fail {
        Fail::Trouble(format!("{} {what}", self.spec.name))
    }

    /// Makes its home what `from` is; an agent must live in neither.
    fn replace(&self, from: &Path, to: &Path) -> Result<(), Fail> {
        let gone = fs::remove_dir_all(to);
        if let Err(error) = gone
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(self.trouble(&format!("cannot lose {}: {error}", to.display())));
        }
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).stdin(Stdio::null()).status();
        match copied {
            Ok(status) if status.success() => Ok(()),
            other => Err(self.trouble(&format!("cannot copy {}: {other:?}", from.display()))),
        }
    }

    /// Puts a copy of the home aside. What tools and agents have said is not part of it.
    pub(super) fn save(&self) -> Result<(), Fail> {
        self.replace(&self.home, &self.home.with_extension("saved"))
    }

    /// Takes the home that was put aside.
    pub(super) fn restore(&self) -> Result<(), Fail> {
        self.replace(&self.home.with_extension("saved"), &self.home)
    }

    /// Takes a copy of another's home.
    pub(super) fn become_copy(&self, of: &Self) -> Result<(), Fail> {
        self.replace(&of.home, &self.home)
    }

    /// Exit status of the agent, if it ended.
    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        self.agent.exited()
    }

    /// True if it was started and has not been seen to end.
    pub(super) fn runs(&self) -> bool {
        self.agent.runs()
    }

    /// Sends a signal to it, and to nobody else: the id stays its own until we have waited for it.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Fail> {
        self.agent.signal(signal).map_err(|error| self.trouble(&error.to_string()))
    }

    /// SIGKILL; ends a frozen process too.
    pub(super) fn kill(&mut self) {
        self.agent.kill();
    }

    /// Waits for the end that a signal or a fault brings.
    pub(super) fn ends(&mut self) -> Result<ExitStatus, Fail> {
        wait_for(STOP_WITHIN, || self.exited())?.ok_or_else(|| self.trouble("does not end"))
    }

    // --- its door ---

    /// The unix socket of its API.
    pub(super) fn socket(&self) -> PathBuf {
        self.home.join("run/sigil.sock")
    }

    /// Asks; trouble when nobody is there.
    pub(super) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Fail> {
        ask(&self.socket(), method, path, body, None)
            .map_err(|error| self.trouble(&format!("does not answer {method} {path}: {error}")))
    }

    /// Asks, and takes only a yes.
    pub(super) fn order(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Fail> {
        let answer = self.ask(method, path, body)?;
        if answer.is_yes() {
            return Ok(answer);
        }
        Err(self.trouble(&format!("refuses {method} {path}: {} {}", answer.status, answer.body)))
    }

    /// `GET /status`; nothing when it does not answer.
    pub(super) fn status(&self) -> Option<Value> {
        ask(&self.socket(), "GET", "status", None, None).ok().filter(Answer::is_yes).map(|answer| answer.body)
    }

    /// Peer id and epoch of its gateway.
    pub(super) fn gateway(&self) -> Option<(String, u64)> {
        let status = self.status()?;
        let gateway = status.get("gateway")?;
        Some((text(gateway, "peer_id").to_owned(), gateway.get("epoch")?.as_u64()?))
    }

    /// True if it knows so many devices, sees all of them online, and knows their tools.
    pub(super) fn knows(&self, devices: usize) -> bool {
        let nodes = self.ask("GET", "nodes?state=online", None).ok().filter(Answer::is_yes);
        let nodes =
            nodes.and_then(|answer| answer.body.get("items").and_then(Value::as_array).cloned()).unwrap_or_default();
        let offers = |node: &Value| node["tools"].as_array().is_some_and(|tools| !tools.is_empty());
        nodes.len() == devices && nodes.iter().all(offers)
    }

    /// State of the device with this peer id as it sees it: online, offline, pending, or absent.
    pub(super) fn sees(&self, peer: &str) -> Result<String, Fail> {
        let answer = self.ask("GET", &format!("nodes/{peer}"), None)?;
        Ok(if answer.status == 404 { "absent".to_owned() } else { answer.text("state") })
    }

    /// Makes an invite and gives its code.
    pub(super) fn invite(&self, tier: &str) -> Result<String, Fail> {
        Ok(self.order("POST", "invites", Some(&json!({ "tier": tier })))?.text("code"))
    }

    /// One call as it knows it.
    pub(super) fn call(&self, id: &str) -> Result<Answer, Fail> {
        self.ask("GET", &format!("calls/{id}"), None)
    }

    /// All calls that it knows, each with its history.
    pub(super) fn calls(&self) -> Result<Vec<Value>, Fail> {
        let (mut calls, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = if cursor.is_empty() {
                "calls?limit=200".to_owned()
            } else {
                format!("calls?limit=200&cursor={cursor}")
            };
            let page = self.order("GET", &path, None)?;
            calls.extend(page.body.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
            cursor = page.text("next_cursor");
            if cursor.is_empty() {
                return Ok(calls);
            }
        }
    }

    // --- what it left ---

    /// Runs here, in order: id and attempt.
    pub(super) fn witness(&self) -> Vec<(String, u8)> {
        witness::read(&self.home.with_extension("witness"))
    }

    /// Everything its agents said.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.with_extension("log")).unwrap_or_default()).into_owned()
    }
}

/// Its settings; the tools leave their lines in the witness file.
fn settings(spec: &PeerSpec, lan: bool, witness: &Path) -> String {
    use std::fmt::Write as _;
    let mut toml = format!(
        "[node]\nclass = {}\ngateway = {}\n\n[listen]\nhttp_port = 7434\n\n[discovery]\nlan = {lan}\n",
        Value::from(spec.class.as_str()),
        Value::from(spec.gateway.as_str())
    );
    for (tool, effect, after) in [("append", "once", ""), ("again", "idempotent", ""), ("slow", "once", "; sleep 3")] {
        let _ = write!(toml, "\n{}", witness::tool(tool, effect, witness, "", after));
    }
    toml
}

/// Time since `began`.
pub(super) fn since(began: std::time::Instant) -> Duration {
    now().saturating_duration_since(began)
}
