//! Starting and stopping the agent.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use hyper::Method;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{Instant, sleep};

use crate::agent::{self, AgentError, Ended, Endpoints};
use crate::cli::args::UpArgs;
use crate::cli::client::{Client, Extras, Noted, Record, noted, record};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Ui;
use crate::config::LogFormat;
use crate::doors::ListenError;
use crate::memory::{ModelFiles, models_of};
use crate::store::StoreError;

/// Schemas of what an agent says to whoever starts it in the background.
const UP: &str = "sigil.up/1";
const WARNING: &str = "sigil.warning/1";
/// A start takes 0.1 s; a store that must be repaired first, on a slow card, takes longer.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait of `down`: the agent's own grace is shorter.
const DOWN_WITHIN: Duration = Duration::from_secs(5);
/// Time for the threads of the runtime to come back when the agent has stopped.
const LEFT_WITHIN: Duration = Duration::from_secs(1);
/// Bytes of the log that are shown when a start fails.
const TAIL_BYTES: u64 = 4096;

/// `sigil up`: becomes the agent until it is told to stop.
pub(crate) fn foreground(home: &Path, args: UpArgs, ui: Ui) -> Result<Exit, Failure> {
    crate::platform::set_heap();
    if args.own_session {
        // What our starter had open, where it stood and what it allowed others is none of the agent's.
        crate::platform::close_inherited();
        let _ = std::env::set_current_dir("/");
        // Fails only if we lead a session already, which is as good.
        let _ = nix::unistd::setsid();
    }
    umask(Mode::from_bits_truncate(0o077));
    // Keys and payloads are in our memory: no other process of this user may read it, and no core file holds it.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
    #[cfg(target_os = "linux")]
    if args.with_parent {
        let told = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM);
        told.map_err(|error| {
            Failure::new(Exit::Failed, format!("the kernel does not report the end of the parent: {error}"))
        })?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Exit::Failed, format!("the runtime does not start: {error}")))?;
    let ended = runtime.block_on(async {
        refuse_second(&Client::new(home)).await?;
        let detached = args.own_session;
        let ready = Box::new(move |endpoints: &Endpoints| {
            announce(ui, endpoints);
            if detached {
                // Whoever started us knows what he wanted to know.
                let _ = nix::unistd::dup2_stdout(std::io::stderr());
            }
        });
        // In the foreground the log is on the screen of whoever started us.
        let warn: Box<dyn Fn(&str) + Send> = if detached {
            Box::new(move |warning| ui.document(WARNING, json!({ "warning": warning })))
        } else {
            Box::new(|_| ())
        };
        let options = agent::Options {
            home: home.to_owned(),
            name: args.name,
            quic_port: args.quic_port,
            http_port: args.http_port,
            log_file: args.own_session.then(|| log_file(home)),
            warn,
            ready,
        };
        agent::run(options).await.map_err(|ended| failure_of(&ended, detached))
    });
    // What still blocks now hangs on a disk, and would for ever.
    runtime.shutdown_timeout(LEFT_WITHIN);
    ended.map(|()| Exit::Ok)
}

/// The end of an agent for people. Where its log is not on their screen, or is no text, the log has it too.
fn failure_of(ended: &Ended, detached: bool) -> Failure {
    let error = &ended.error;
    let mut detail = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let _ = write!(detail, ": {cause}");
        source = cause.source();
    }
    let logged = match ended.log {
        Some(LogFormat::Json) => true,
        Some(LogFormat::Text) => detached,
        None => false,
    };
    let hint = if let AgentError::NotOurs(why) = error {
        Some(why.fix().to_owned())
    } else if matches!(error, AgentError::Store(StoreError::Locked { .. })) {
        Some("use that one, or stop it with `sigil down`".to_owned())
    } else if let AgentError::Mesh(fatal) = error {
        fatal.fix().map(str::to_owned)
    } else if matches!(error, AgentError::HalfRestored(_)) {
        Some("`sigil restore` again; if it says that the home is not empty, remove what is in it first".to_owned())
    } else {
        None
    };
    if logged {
        if let Some(hint) = &hint {
            tracing::error!("{detail} ({hint})");
        } else {
            tracing::error!("{detail}");
        }
    }
    Failure { hint, logged, ..Failure::new(exit_of(error), detail) }
}

/// Exit of an agent that ended by itself: a wrong setting is a matter of usage; the rest is a failure.
fn exit_of(error: &AgentError) -> Exit {
    match error {
        AgentError::Config(_) | AgentError::Tools { .. } | AgentError::Name(_) => Exit::Usage,
        AgentError::NotOurs(_) => Exit::Denied,
        // Another one was faster.
        AgentError::Store(StoreError::Locked { .. }) | AgentError::Doors(ListenError::SocketInUse(_)) => Exit::Conflict,
        AgentError::Identity(_)
        | AgentError::Store(_)
        | AgentError::Links(_)
        | AgentError::Doors(_)
        | AgentError::Mesh(_)
        | AgentError::Home { .. }
        | AgentError::HalfRestored(_)
        | AgentError::NoPort { .. } => Exit::Failed,
    }
}

fn announce(ui: Ui, endpoints: &Endpoints) {
    if ui.json {
        ui.document(UP, json!(endpoints));
    } else {
        let quic = endpoints.quic.first().map(|quic| format!(" · mesh {quic}")).unwrap_or_default();
        let peer = crate::cli::output::short(&endpoints.peer_id);
        ui.print(&format!("sigil is up: {peer} · pid {} · {}{quic}", endpoints.pid, url(&endpoints.http)));
        offer_model(&endpoints.home, ui);
    }
}

/// A word about what memory could do, once for each home.
fn offer_model(home: &Path, ui: Ui) {
    if let Some(entry) = ModelFiles::new(models_of(home)).offer() {
        let size = entry.bytes() / 1_000_000;
        ui.say(&format!(
            "Memory is searched by words. `sigil model pull` gets a model of {size} MB ({}), and then by meaning as well.",
            entry.licence
        ));
    }
}

/// The HTTP door as people open it.
pub(crate) fn url(http: &str) -> String {
    if http.contains("://") { http.to_owned() } else { format!("http://{http}") }
}

/// `sigil up --detach`.
pub(crate) async fn detach(home: &Path, args: &UpArgs, ui: Ui) -> Result<Exit, Failure> {
    let client = Client::new(home);
    refuse_second(&client).await?;
    let pid = start(&client, args, ui).await?;
    let status = client.get("/api/v1/status").await?;
    if ui.json {
        let endpoints = status.get("endpoints").cloned().unwrap_or_default();
        ui.document(UP, json!({ "pid": pid, "peer_id": status.get("peer_id"), "node_id": status.get("node_id"), "endpoints": endpoints }));
    } else {
        let node = crate::cli::output::text(&status, "node_id");
        ui.print(&format!("sigil is up as {node} · pid {pid} · stop it with `sigil down`"));
        offer_model(home, ui);
    }
    Ok(Exit::Ok)
}

async fn refuse_second(client: &Client) -> Result<(), Failure> {
    let home = client.home().display();
    if let Some(pid) = client.agent_pid().await {
        return Err(Failure::new(Exit::Conflict, format!("an agent of {home} is running already: pid {pid}"))
            .hint("use it as it is, or stop it first with `sigil down`"));
    }
    let Some(Record::OfOriginal(noted)) = record(client.home()) else { return Ok(()) };
    if let Some(pid) = original_runs(&noted).await {
        let original = noted.home.display();
        return Err(Failure::new(
            Exit::Conflict,
            format!(
                "{home} is a copy of {original}, whose agent is running (pid {pid}): two homes with one device key would disturb each other"
            ),
        )
        .hint(format!(
            "to go on with the copy, stop the other with `sigil --home {original} down`; to make it a device of its own, remove its identity.key, store and run"
        )));
    }
    Ok(())
}

/// The process of an agent that runs on the home of which this record came. A stale one names a process that has ended, or
/// one that is no agent; the original may have been started anew since.
async fn original_runs(noted: &Noted) -> Option<u32> {
    let original = tokio::net::UnixStream::connect(&noted.socket).await.ok();
    let listener = original.and_then(|stream| stream.peer_cred().ok()?.pid()).and_then(|pid| u32::try_from(pid).ok());
    if listener.is_some() && listener == Some(noted.pid) {
        return listener;
    }
    let client = Client::new(&noted.home);
    let status = client.get("/api/v1/status").await.ok()?;
    let is_it = !noted.peer_id.is_empty() && crate::cli::output::text(&status, "peer_id") == noted.peer_id;
    if is_it { client.agent_pid().await } else { None }
}

/// Starts an agent in the background and waits until it is ready. Its process id.
///
/// Until then the agent's standard output is a pipe to us: by it come its warnings, and the cause if it ends.
pub(crate) async fn start(client: &Client, args: &UpArgs, ui: Ui) -> Result<u32, Failure> {
    let home = client.home();
    let failed = |why: String| Failure::new(Exit::Failed, why);
    crate::ownership::check(home).map_err(|why| Failure::new(Exit::Denied, why.to_string()).hint(why.fix()))?;
    let logs = home.join("logs");
    let private = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&logs);
    let look = "`sigil doctor` looks at the disk and at who may write there";
    private.map_err(|error| failed(format!("{} cannot be made: {error}", logs.display())).hint(look))?;
    let log_path = log_file(home);
    let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.map_err(|error| failed(format!("{} cannot be written: {error}", log_path.display())).hint(look))?;
    let written = log.metadata().map_or(0, |data| data.len());
    let mut command = agent_command(home, args)?;
    command.args(["--own-session", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().map_err(|error| failed(format!("the agent does not start: {error}")))?;
    let told = match child.stdout.take() {
        Some(stdout) => tokio::time::timeout(READY_WITHIN, first_words(stdout, ui)).await,
        None => Ok(Ok(None)),
    };
    let failure = match told {
        Ok(Ok(Some(Word::Up))) => return Ok(child.id()),
        Ok(Ok(Some(Word::Failed(failure)))) => failure,
        Ok(Ok(None)) => failed(String::new()),
        Ok(Err(error)) => failed(format!("the agent gives no answer: {error}")),
        // It is ours to end: nobody else knows of it yet.
        Err(_) => {
            let _ = child.kill();
            failed(format!("the agent was not ready within {} s", READY_WITHIN.as_secs()))
        }
    };
    let status = child.wait();
    if !failure.detail.is_empty() && failure.hint.is_some() {
        return Err(failure);
    }
    let mut failure = failure.hint(format!("the whole log is {}", log_path.display()));
    if failure.detail.is_empty() {
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        failure.detail = format!("the agent ended at once ({status})");
        let tail = tail(&log_path, written);
        if !tail.is_empty() {
            let _ = write!(failure.detail, "; its output:\n{tail}");
        }
    }
    Err(failure)
}

/// Last words of an agent that starts in the background to whoever started it.
enum Word {
    Up,
    Failed(Failure),
}

/// Reads what it says until it is up or has failed, and shows its warnings. `None`: it ended without a word.
async fn first_words(stdout: ChildStdout, ui: Ui) -> std::io::Result<Option<Word>> {
    let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(stdout.into())?;
    let mut lines = BufReader::new(pipe).lines();
    while let Some(line) = lines.next_line().await? {
        let document: Value = serde_json::from_str(&line).unwrap_or_default();
        match document.get("schema").and_then(Value::as_str) {
            Some(UP) => return Ok(Some(Word::Up)),
            Some("sigil.error/1") => return Ok(Some(Word::Failed(Failure::from_document(&document)))),
            Some(WARNING) => ui.say(&format!("warning: {}", crate::cli::output::text(&document, "warning"))),
            _ => {}
        }
    }
    Ok(None)
}

/// Log of an agent that runs in the background.
fn log_file(home: &Path) -> PathBuf {
    home.join("logs").join("agent.log")
}

/// Our own program, about to be an agent.
pub(crate) fn agent_command(home: &Path, args: &UpArgs) -> Result<Command, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(Exit::Failed, format!("the path of this program is not known: {error}")))?;
    let mut command = Command::new(program);
    let (heap, value) = crate::platform::HEAP_SETTING;
    command.env(heap, value).arg("--home").arg(home).arg("up");
    if let Some(name) = &args.name {
        command.arg("--name").arg(name);
    }
    if let Some(port) = args.quic_port {
        command.arg("--quic-port").arg(port.to_string());
    }
    if let Some(port) = args.http_port {
        command.arg("--http-port").arg(port.to_string());
    }
    Ok(command)
}

/// Waits until the agent that `child` is answers that it is ready. The error is a sentence.
pub(crate) async fn wait_ready(client: &Client, child: &mut Child, within: Duration) -> Result<(), String> {
    let deadline = Instant::now() + within;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the agent ended at once ({status})"));
        }
        if client.agent_pid().await == Some(child.id()) {
            let extras = Extras { within: Some(Duration::from_secs(2)), ..Extras::default() };
            if client.ask(Method::GET, "/readyz", extras).await.is_ok() {
                return Ok(());
            }
        }
        if Instant::now() >= deadline {
            return Err(format!("the agent was not ready within {} s", within.as_secs()));
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// The last of what a log has grown by since it had `from` bytes.
pub(crate) fn tail(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(len.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    read().unwrap_or_default()
}

/// `sigil down`: asks the agent of this home to stop, and waits until it has.
pub(crate) async fn down(client: &Client, ui: Ui) -> Result<Exit, Failure> {
    // Connecting says why if nobody is there. The kernel says who listens, and two witnesses that this is the agent of
    // this home: itself, or its record if it hangs. A stale file cannot make us end a stranger.
    let stream = client.connect().await?;
    let listener = stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok());
    let extras = Extras { within: Some(Duration::from_secs(1)), ..Extras::default() };
    let asked = client.ask(Method::GET, "/api/v1/status", extras).await.and_then(|answer| answer.json());
    let said =
        asked.ok().and_then(|status| status.get("pid").and_then(Value::as_u64)).and_then(|pid| pid.try_into().ok());
    let noted = said.or_else(|| noted(client.home()).map(|noted| noted.pid));
    let (Some(pid), true) = (listener, listener == noted) else {
        return Err(Failure::new(
            Exit::Conflict,
            format!(
                "process {} listens at the socket of {} and is not its agent",
                listener.map_or_else(|| "?".to_owned(), |pid| pid.to_string()),
                client.home().display()
            ),
        )
        .hint("nothing was ended; look what process that is, and which home it serves"));
    };
    drop(stream);
    signal(pid, Signal::SIGTERM)?;
    let began = Instant::now();
    while alive(pid) {
        if began.elapsed() > DOWN_WITHIN {
            return Err(Failure::new(
                Exit::Expired,
                format!("the agent (pid {pid}) is still stopping after {} s", DOWN_WITHIN.as_secs()),
            )
            .hint("look again with `sigil status`, and at logs/agent.log in the home"));
        }
        sleep(Duration::from_millis(10)).await;
    }
    if ui.json {
        ui.document(
            "sigil.down/1",
            json!({ "pid": pid, "stopped": true, "elapsed_ms": began.elapsed().as_millis() as u64 }),
        );
    } else {
        ui.print(&format!("stopped (pid {pid}, {} ms)", began.elapsed().as_millis()));
    }
    Ok(Exit::Ok)
}

/// Sends a signal to a process that is known to be ours.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(Exit::Failed, format!("process {pid} cannot be sent {signal}: {why}"));
    let target = i32::try_from(pid).ok().filter(|pid| *pid > 1).ok_or_else(|| failed("no such process id".into()))?;
    kill(Pid::from_raw(target), signal).map_err(|error| failed(error.to_string()))
}

/// True if a process still runs. One that has ended but was not waited for by its parent does not.
pub(crate) fn alive(pid: u32) -> bool {
    let Ok(target) = i32::try_from(pid) else { return false };
    if kill(Pid::from_raw(target), None).is_err() {
        return false;
    }
    // /proc/PID/stat is "pid (name) state …"; the name may hold anything, so look behind the last parenthesis.
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).unwrap_or_default();
    !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_setting_is_a_matter_of_usage() {
        let bad = crate::config::ConfigError::Value {
            at: String::new(),
            key: "k".into(),
            value: "v".into(),
            allowed: "w".into(),
        };
        assert_eq!(exit_of(&bad.into()), Exit::Usage);
        assert_eq!(exit_of(&AgentError::NoPort { what: "quic", from: 1, until: 2 }), Exit::Failed);
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("sleep is there");
        assert!(alive(child.id()));
        signal(child.id(), Signal::SIGKILL).expect("it is ours");
        let deadline = std::time::Duration::from_secs(5);
        let began = crate::cli::up::Instant::now();
        while alive(child.id()) {
            assert!(began.elapsed() < deadline, "killed, yet alive");
            std::thread::yield_now();
        }
        child.wait().expect("it ended");
        assert!(!alive(child.id()));
    }

    #[test]
    fn only_real_processes_are_signalled() {
        for pid in [0, 1, u32::MAX] {
            assert!(signal(pid, Signal::SIGCONT).is_err(), "{pid}");
        }
    }

    #[test]
    fn the_tail_is_what_came_since() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let log = dir.path().join("log");
        std::fs::write(&log, "old\nnew\n").expect("writable");
        assert_eq!(tail(&log, 4), "new");
        assert_eq!(tail(&log, 400), "");
        assert_eq!(tail(&dir.path().join("none"), 0), "");
        std::fs::write(&log, "x".repeat(10_000)).expect("writable");
        assert_eq!(tail(&log, 0).len(), TAIL_BYTES as usize);
    }

    #[tokio::test]
    async fn nobody_to_stop() {
        let home = tempfile::tempdir().expect("a temp dir");
        let failure = down(&Client::new(home.path()), Ui::plain(true)).await.expect_err("no agent");
        assert_eq!(failure.exit, Exit::NoAgent);
    }

    #[tokio::test]
    async fn a_stranger_at_the_socket_is_not_ended() {
        let home = tempfile::tempdir().expect("a temp dir");
        let run = home.path().join("run");
        std::fs::create_dir(&run).expect("a fresh dir");
        let socket = run.join("sigil.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a fresh path");
        let endpoints = json!({ "pid": 4_000_000, "socket": socket, "http": "", "quic": [], "peer_id": "" });
        std::fs::write(run.join("endpoints.json"), endpoints.to_string()).expect("writable");
        let failure = down(&Client::new(home.path()), Ui::plain(true)).await.expect_err("not the one we know");
        assert_eq!(failure.exit, Exit::Conflict);
        let failure = refuse_second(&Client::new(home.path())).await.expect_err("someone listens");
        assert!(failure.detail.contains(&std::process::id().to_string()), "{}", failure.detail);
    }
}
