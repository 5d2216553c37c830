//! Peers for the demo: processes of our own program, each with a home of its own, none of which
//! outlives us.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::cli::args::UpArgs;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::up;

/// A peer that is not ready by then will not be.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Longest clean stop of a peer before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// One peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) home: PathBuf,
    pub(crate) client: Client,
    /// Known once it has run.
    pub(crate) id: String,
    pub(crate) http: String,
    quic_port: u16,
    http_port: u16,
    child: Option<Child>,
}

/// All of them. Dropping it ends every process and removes every home.
#[derive(Debug)]
pub(crate) struct Fleet<const N: usize> {
    // Before `root`: fields are dropped in order, and homes go only when nobody lives in them.
    pub(crate) peers: [Peer; N],
    root: TempDir,
}

impl<const N: usize> Fleet<N> {
    /// Lays out the homes in a new directory under `dir`; nothing runs yet.
    pub(crate) fn new(dir: &Path, names: [&'static str; N]) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("laying out the homes: {error}"));
        let root = tempfile::Builder::new().prefix("sigil-demo-").tempdir_in(dir).map_err(failed)?;
        let peers: Result<Vec<Peer>, _> = names.iter().map(|name| Peer::new(root.path(), name)).collect();
        let peers = peers.map_err(failed)?.try_into();
        let peers = peers.map_err(|_| failed(std::io::Error::other("not a home for each name")))?;
        Ok(Self { peers, root })
    }

    /// Directory of the homes.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Stops all that runs, cleanly if they do it in time.
    pub(crate) async fn stop(&mut self) {
        for peer in &self.peers {
            // A frozen process hears nothing until it is woken. One that has gone needs no signal.
            let _ = peer.signal(Signal::SIGCONT);
            let _ = peer.signal(Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while Instant::now() < deadline && self.peers.iter_mut().any(Peer::runs) {
            sleep(Duration::from_millis(10)).await;
        }
        for peer in &mut self.peers {
            peer.end();
        }
    }

    /// The last words of each peer, for when something went wrong.
    pub(crate) fn last_words(&self) -> String {
        let words = self.peers.iter().map(|peer| format!("--- {} ---\n{}", peer.name, up::tail(&peer.log(), 0)));
        words.collect::<Vec<_>>().join("\n")
    }
}

impl Peer {
    fn new(root: &Path, name: &'static str) -> std::io::Result<Self> {
        let home = root.join(name);
        std::fs::create_dir_all(home.join("shared"))?;
        let (quic_port, http_port) = free_ports()?;
        let peer = Self {
            name,
            client: Client::new(&home),
            id: String::new(),
            http: format!("http://127.0.0.1:{http_port}"),
            quic_port,
            http_port,
            child: None,
            home,
        };
        std::fs::write(peer.home.join("sigil.toml"), peer.settings())?;
        std::fs::write(peer.shared_file(), peer.shared_text())?;
        Ok(peer)
    }

    /// No LAN discovery, so that the demo meets nobody by chance; one root for files; and the tool that leaves a
    /// line for each run: one short write to a file opened with `O_APPEND`, by a shell, not by us.
    fn settings(&self) -> String {
        let quoted = |path: &Path| Value::from(path.to_string_lossy()).to_string();
        let script = r#"echo "$SIGIL_REQUEST_ID $SIGIL_ATTEMPT" >> "$0" && echo '"written"'"#;
        format!(
            "[discovery]\nlan = false\n\n[files]\nroots = [{}]\n\n[tools.append]\ndescription = \"adds its request id to a file\"\ncommand = \"sh\"\nargs = [\"-c\", {}, {}]\ntimeout = \"10s\"\neffect = \"once\"\n",
            quoted(&self.home.join("shared")),
            Value::from(script),
            quoted(&self.witness_file()),
        )
    }

    /// A file that others may read.
    pub(crate) fn shared_file(&self) -> PathBuf {
        self.home.join("shared/note.txt")
    }

    /// Its content.
    pub(crate) fn shared_text(&self) -> String {
        format!("A note on {}: the spare key is under the third stone.\n", self.name)
    }

    /// File in which the tool leaves its lines.
    pub(crate) fn witness_file(&self) -> PathBuf {
        self.home.join("ran.txt")
    }

    /// Runs of each (id, attempt) here, as the tool itself wrote them.
    pub(crate) fn witness(&self) -> BTreeMap<(String, String), usize> {
        let mut ran = BTreeMap::new();
        for line in std::fs::read_to_string(self.witness_file()).unwrap_or_default().lines() {
            let (id, attempt) = line.split_once(' ').unwrap_or((line, ""));
            *ran.entry((id.to_owned(), attempt.to_owned())).or_default() += 1;
        }
        ran
    }

    fn log(&self) -> PathBuf {
        self.home.join("peer.log")
    }

    /// Starts the process and waits until it is ready; how long that took.
    pub(crate) async fn start(&mut self) -> Result<Duration, Failure> {
        let failed = |why: String| Failure::new(Exit::Failed, format!("{} does not start: {why}", self.name));
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.map_err(|error| failed(error.to_string()))?;
        let log_too = log.try_clone().map_err(|error| failed(error.to_string()))?;
        let args = UpArgs {
            name: Some(self.name.to_owned()),
            detach: false,
            quic_port: Some(self.quic_port),
            http_port: Some(self.http_port),
            own_session: false,
            with_parent: true,
        };
        let mut command = up::agent_command(&self.home, &args)?;
        // Settings of the person who runs the demo are for their own home.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIGIL_")) {
            command.env_remove(name);
        }
        // A group of its own: Ctrl-C is for us, and we end the peers in order.
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(log).stderr(log_too).process_group(0);
        let began = Instant::now();
        let child = self.child.insert(command.spawn().map_err(|error| failed(error.to_string()))?);
        if let Err(why) = up::wait_ready(&self.client, child, READY_WITHIN).await {
            return Err(failed(why));
        }
        let took = began.elapsed();
        let status = self.client.get("/api/v1/status").await?;
        self.id = crate::cli::output::text(&status, "peer_id");
        Ok(took)
    }

    /// Process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends a signal to it, and to nobody else: the id stays its own until we have waited for it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        match self.pid() {
            Some(pid) => up::signal(pid, signal),
            None => Err(Failure::new(Exit::Failed, format!("{} does not run", self.name))),
        }
    }

    fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL, at once; ends a frozen process too.
    pub(crate) fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A free UDP port, and a free TCP port on loopback.
fn free_ports() -> std::io::Result<(u16, u16)> {
    let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok((udp.local_addr()?.port(), tcp.local_addr()?.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> Fleet<3> {
        Fleet::new(&std::env::temp_dir(), ["kitchen", "study", "attic"]).expect("a temp dir")
    }

    #[test]
    fn the_witness_counts_lines_by_id_and_attempt() {
        let fleet = fleet();
        let [kitchen, ..] = &fleet.peers;
        assert!(kitchen.witness().is_empty());
        std::fs::write(kitchen.witness_file(), "a 1\nb 1\na 1\na 2\n").expect("writable");
        let ran: Vec<_> =
            kitchen.witness().into_iter().map(|((id, attempt), count)| (format!("{id}{attempt}"), count)).collect();
        assert_eq!(ran, [("a1".to_owned(), 2), ("a2".to_owned(), 1), ("b1".to_owned(), 1)]);
    }

    /// The line is written by a real shell, from exactly the arguments that stand in the settings.
    #[test]
    fn the_tool_of_the_settings_leaves_one_line() {
        let fleet = fleet();
        let [kitchen, ..] = &fleet.peers;
        let settings = kitchen.settings();
        let args = settings.lines().find_map(|line| line.strip_prefix("args = ")).expect("arguments");
        let args: Vec<String> = serde_json::from_str(args).expect("TOML strings that are JSON strings too");
        let output = std::process::Command::new("sh")
            .args(&args)
            .env("SIGIL_REQUEST_ID", "r1")
            .env("SIGIL_ATTEMPT", "1")
            .output();
        assert_eq!(output.expect("a shell").stdout, b"\"written\"\n");
        assert_eq!(std::fs::read_to_string(kitchen.witness_file()).expect("a line"), "r1 1\n");
    }

    #[test]
    fn homes_go_with_the_fleet() {
        let fleet = fleet();
        let root = fleet.root().to_owned();
        assert!(root.join("attic/sigil.toml").is_file());
        drop(fleet);
        assert!(!root.exists());
    }
}
