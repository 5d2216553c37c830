//! The peers that are measured: processes of one program, each with a home of its own.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::agent::{self, Agent};
use testbed::http::{self, Request};
use testbed::text;
use tokio::time::{Instant, sleep};

/// A peer that is not ready by then will not be.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Time for a clean stop, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Longest silence of an agent within one answer.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Has agents that know it (builds with fault points) offer [`NOOP`].
const OFFER_NOOP: (&str, &str) = ("SIGIL_TEST_NOOP", "1");
/// The tool that does nothing.
pub(crate) const NOOP: &str = "noop";

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) home: PathBuf,
    /// Peer id, once it has run.
    pub(crate) id: String,
    program: PathBuf,
    quic_port: u16,
    http_port: u16,
    agent: Agent,
}

/// All of them. Dropping it ends every process and removes every home.
#[derive(Debug)]
pub(crate) struct Fleet<const N: usize> {
    // Before `_root`: fields are dropped in order, and homes go only when nobody lives in them.
    pub(crate) peers: [Peer; N],
    _root: TempDir,
}

impl<const N: usize> Fleet<N> {
    /// Lays out the homes in a new directory under `dir`; nothing runs yet.
    pub(crate) fn new(dir: &Path, program: &Path, names: [&'static str; N]) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("sigil-bench-").tempdir_in(dir).context("laying out the homes")?;
        let peers: Result<Vec<Peer>> = names.iter().map(|name| Peer::new(root.path(), program, name)).collect();
        let Ok(peers) = peers?.try_into() else { bail!("not a home for each name") };
        Ok(Self { peers, _root: root })
    }

    /// Stops all that runs, cleanly if they do it in time.
    pub(crate) async fn stop(&mut self) {
        for peer in self.peers.iter().filter(|peer| peer.agent.runs()) {
            // One that has gone needs no signal.
            let _ = peer.agent.signal(Signal::SIGTERM);
        }
        for peer in &mut self.peers {
            peer.end().await;
        }
    }
}

impl Peer {
    fn new(root: &Path, program: &Path, name: &'static str) -> Result<Self> {
        let home = root.join(name);
        std::fs::create_dir_all(&home).context("laying out a home")?;
        // No LAN discovery, so that it meets nobody by chance.
        std::fs::write(home.join("sigil.toml"), "[discovery]\nlan = false\n").context("laying out a home")?;
        let udp =
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self {
            name,
            home,
            id: String::new(),
            program: program.to_owned(),
            quic_port: udp.local_addr()?.port(),
            http_port: tcp.local_addr()?.port(),
            agent: Agent::default(),
        })
    }

    /// Starts the process and waits until it is ready. Time that this took.
    pub(crate) async fn start(&mut self) -> Result<Duration> {
        let log = agent::log_file(&self.home.join("peer.log"))?;
        let mut command = agent::command(None, &[&self.program, Path::new("up"), Path::new("--with-parent")]);
        command.arg("--home").arg(&self.home).args(["--name", self.name]);
        command.args(["--quic-port", &self.quic_port.to_string(), "--http-port", &self.http_port.to_string()]);
        command.envs([OFFER_NOOP]).stdout(log.try_clone()?).stderr(log);
        // A group of its own: Ctrl-C is for us, and we end the peers in order.
        command.process_group(0);
        let began = Instant::now();
        self.agent.spawn(&mut command).with_context(|| format!("starting {}", self.program.display()))?;
        while !self.ask("GET", "/readyz", None).is_ok_and(|answer| answer.is_success()) {
            let ended = self.agent.exited();
            if ended.is_some() || began.elapsed() > READY_WITHIN {
                let log = std::fs::read_to_string(self.home.join("peer.log")).unwrap_or_default();
                bail!("{} does not get ready ({ended:?}):\n{log}", self.name);
            }
            sleep(Duration::from_millis(2)).await;
        }
        let took = began.elapsed();
        text(&self.get("status")?, "peer_id").clone_into(&mut self.id);
        Ok(took)
    }

    /// Process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.agent.pid()
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.agent.signal(Signal::SIGTERM).with_context(|| format!("stopping {}", self.name))?;
        self.end().await;
        Ok(())
    }

    async fn end(&mut self) {
        let deadline = Instant::now() + STOP_WITHIN;
        while self.agent.runs() && self.agent.exited().is_none() && Instant::now() < deadline {
            sleep(Duration::from_millis(10)).await;
        }
        self.agent.kill();
    }

    /// The unix socket of its API.
    pub(crate) fn socket(&self) -> PathBuf {
        self.home.join("run/sigil.sock")
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<http::Response> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let headers = [("Content-Type", "application/json"), ("Prefer", "wait=30")];
        let request = Request { method, path, headers: &headers, body: body.as_bytes() };
        http::ask_unix(&self.socket(), &request, SILENCE_MAX)
    }

    /// `GET /api/v1/…`.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.order("GET", path, None)
    }

    /// `POST /api/v1/…`.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.order("POST", path, Some(body))
    }

    fn order(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.ask(method, &format!("/api/v1/{path}"), body);
        let answer = answer.with_context(|| format!("{} does not answer {method} {path}", self.name))?;
        if !answer.is_success() {
            bail!("{} refuses {method} {path}: {} {}", self.name, answer.status, answer.text());
        }
        Ok(answer.value())
    }

    /// True if it offers [`NOOP`].
    pub(crate) fn offers_noop(&self) -> bool {
        self.post("calls", &json!({ "node": self.name, "tool": NOOP, "ttl_s": 30 }))
            .is_ok_and(|call| text(&call, "state") == "done")
    }
}
