//! Tools that are programs: started by the [helper] in a session of their own and in the sandbox that they are
//! to have, watched, and ended as a group.
//!
//! Whatever the program does, [`run`] comes back: at its end, at its time limit, at its output limit, or when
//! cancelled. What it has left running in its group is ended then, unless it may keep running, and named in the outcome
//! either way. A program that moves itself into another session (`setsid`) leaves the group and is not ended with it, but for
//! one at the level `isolated`, of which nothing outlives it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sigil_shim::wire::{Exit, Go, Report};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::egress::{Gate, Pass, Proxy};
use super::helper::{self, Ends, Helper};
use super::out_dir;
use super::outcome::{RunEnd, RunOutcome};
use super::progress::ErrorStream;
use super::run_dir::RunDir;
use super::sandbox::{Level, Network, Offered, Sandbox};
use super::self_test;
use super::spool::{Spool, SpoolError};
use super::streams::Streams;
use crate::secrets::Redactor;
use crate::tasks::TaskGroup;
use crate::value::show_duration;

/// Between asking a group to end (`SIGTERM`) and ending it (`SIGKILL`). With the waits below, well under the 2 s in
/// which a cancel must have worked.
const TERM_GRACE: Duration = Duration::from_millis(500);
/// Time that a killed process is waited for. One that hangs in the kernel (a dead network disk) may take for ever.
const KILL_WAIT: Duration = Duration::from_secs(1);
/// Time that pipes are read after the program's end: what it wrote is in them; only an escaped child keeps them open.
const DRAIN: Duration = Duration::from_secs(1);
/// The same, if what the program has started may keep running and so keep the pipes open.
const KEPT_DRAIN: Duration = Duration::from_millis(100);
/// Time in which what a program that is cancelled has said is read.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(20);
/// The end of what needed more memory than it may have.
const OUT_OF_MEMORY: &str = "over its memory limit";
/// Processes that a note names.
const NAMED_MAX: usize = 8;
/// Launches that may wait for the launching thread. The core runs a handful at once; beyond this something is stuck.
const LAUNCHES_MAX: usize = 256;
/// Time that a start in a sandbox waits for the self-test of it, just after the agent has started.
const TESTED_WITHIN: Duration = Duration::from_secs(5);
/// Time for the last words of a helper that has ended.
const SAID_WITHIN: Duration = Duration::from_millis(100);
/// Time for a helper to become its tool, or to say why not.
const BEGUN_WITHIN: Duration = Duration::from_secs(5);
/// Names of the private directories of runs.
const RUN_DIR_PREFIX: &str = "run-";
/// Directory of the home for the file of the helper.
const HELPER_DIR: &str = "run";

/// A program to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Looked up in `PATH`, or absolute.
    pub command: PathBuf,
    /// Passed as they are.
    pub args: Vec<String>,
    /// Added to `PATH`, `HOME` and `LANG` of the agent, which is all that it inherits. From the level `confined` on its home is
    /// its private directory.
    pub env: BTreeMap<String, String>,
    /// Its working directory; `None`: a private one, which goes with it.
    pub cwd: Option<PathBuf>,
    /// True if what the program leaves running when it ends by itself is not ended.
    pub keep_running: bool,
}

/// Starts programs, in the order in which it is asked. Cheap to clone.
///
/// One thread of its own does it: a child asks to be killed when the *thread* that made it ends (`PR_SET_PDEATHSIG`),
/// and the runtime's threads may end before the agent does.
#[derive(Debug, Clone)]
pub struct Launcher {
    requests: mpsc::Sender<Request>,
    helper: Helper,
    offered: watch::Receiver<Option<Arc<Offered>>>,
}

/// A start that was asked for.
#[derive(Debug)]
pub struct Launch {
    running: oneshot::Receiver<Result<Running, String>>,
    /// Set when it is started or given up: whoever sets it first decides, so that what is told of a cancelled run is
    /// true.
    decided: Arc<AtomicBool>,
    /// Secrets that are kept out of what it says.
    redactor: Arc<Redactor>,
    /// Keeps the thread, and so the child, alive.
    _launcher: Launcher,
}

/// The way out of a program whose network is restricted.
#[derive(Debug, Clone)]
pub struct WayOut {
    /// Lets it out.
    pub proxy: Proxy,
    /// What may go out.
    pub pass: Pass,
}

#[derive(Debug)]
struct Request {
    spec: Spec,
    sandbox: Sandbox,
    way_out: Option<WayOut>,
    reply: oneshot::Sender<Result<Running, String>>,
    decided: Arc<AtomicBool>,
}

/// A program that was started.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) group: Group,
    pub(super) said: Said,
    pub(super) streams: Streams,
    pub(super) dir: RunDir,
    /// Its way out, for as long as it runs.
    pub(super) gate: Option<Gate>,
    kept: bool,
}

/// What the helper of a run has said, and says.
#[derive(Debug)]
pub(super) struct Said {
    socket: UnixStream,
    level: Level,
    ready: bool,
}

/// The process group of a run; killed when dropped, so that no path forgets it.
#[derive(Debug)]
pub(super) struct Group(Option<Pid>);

impl Group {
    /// Asks all of it to end.
    pub(super) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may be gone already, and that is what we want.
            let _ = killpg(group, signal);
        }
    }

    /// Ends all that is left. To be called at once when the first process has been waited for: while any other member
    /// lives the number stays taken, and a number that is free now is not given out again so soon.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.0 = None;
    }

    /// Leaves it to itself.
    fn release(&mut self) {
        self.0 = None;
    }

    /// The processes that are left in it, as people know them. To be called when the first one has been waited for.
    async fn members(&self) -> Vec<String> {
        match self.0 {
            // Most often nobody is left: then one question to the kernel is enough.
            Some(group) if killpg(group, None).is_ok() => {
                tokio::task::spawn_blocking(move || members_of(group)).await.unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }
}

/// Looks through all processes for those of a group: `name (number)`. None where there is no `/proc`.
fn members_of(group: Pid) -> Vec<String> {
    let member = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        // `pid (name) state parent group …`; the name may hold anything.
        let stat = String::from_utf8_lossy(&stat);
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut words = rest.split_ascii_whitespace();
        let (state, _parent, of) = (words.next()?, words.next()?, words.next()?);
        (!matches!(state, "Z" | "X") && of.parse() == Ok(group.as_raw())).then(|| format!("{name} ({pid})"))
    };
    let mut members: Vec<_> = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(member).collect();
    let more = members.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        members.truncate(NAMED_MAX);
        members.push(format!("{more} more"));
    }
    members
}

impl Launch {
    /// Waits until it is started.
    ///
    /// # Errors
    /// The reason for which it was not, for people.
    pub(super) async fn started(self) -> Result<Running, String> {
        match self.running.await {
            Ok(started) => started,
            Err(_) => Err("too many programs wait to be started".to_owned()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Launcher {
    /// Starts the thread, and finds out beside it what this device offers. Runs get private directories under `work`, a
    /// directory of the home, which is made if needed; what an agent that was killed has left there is removed. `own` is our
    /// own program ([`crate::platform::own_program`]), which is used where there is no [helper].
    ///
    /// # Errors
    /// When the directory, the helper or a thread cannot be made.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(work: PathBuf, own: Option<PathBuf>, tasks: &TaskGroup) -> io::Result<Self> {
        crate::platform::create_private_dir(&work)?;
        let is_left = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(RUN_DIR_PREFIX);
        let left: Vec<_> = std::fs::read_dir(&work)?.flatten().filter(is_left).map(|entry| entry.path()).collect();
        let home = work.parent().unwrap_or(&work).to_owned();
        let helper = Helper::install(&home.join(HELPER_DIR), own)?;
        let (found, offered) = watch::channel(None);
        tasks.thread("sandbox-test", {
            let (helper, home, work) = (helper.clone(), home.clone(), work.clone());
            move |_| {
                let offered = self_test::attack(&helper, &home, &work);
                tracing::info!(target: "sigil::events::sandbox", level = %offered.level, gaps = offered.gaps.len(), "sandbox tested");
                let _ = found.send(Some(Arc::new(offered)));
                // A start does not wait for it: a tool may have left a million files.
                for dir in left {
                    if let Err(error) = sigil_shim::remove::tree(&dir) {
                        tracing::debug!(%error, "what a tool has left cannot be removed, and does not disturb");
                    }
                }
            }
        })?;
        let (requests, mut inbox) = mpsc::channel::<Request>(LAUNCHES_MAX);
        let runtime = tokio::runtime::Handle::current();
        let starter = Starter { helper: helper.clone(), home, work, offered: offered.clone() };
        // Not told to stop, but out of work: a program lives no longer than this thread, so it ends after the
        // last run.
        tasks.thread("tool-launcher", move |_| {
            let _runtime = runtime.enter();
            while let Some(Request { spec, sandbox, way_out, reply, decided }) = inbox.blocking_recv() {
                if !reply.is_closed() && !decided.swap(true, Ordering::AcqRel) {
                    // Nobody waits any more? Then the run is dropped, and its group with it.
                    let _ = reply.send(starter.start(&spec, &sandbox, way_out));
                }
            }
        })?;
        Ok(Self { requests, helper, offered })
    }

    /// The helper that it starts programs with.
    #[must_use]
    pub fn helper(&self) -> &Helper {
        &self.helper
    }

    /// What this device offers; `None` until that is known, some ten milliseconds after the start.
    #[must_use]
    pub fn offered(&self) -> watch::Receiver<Option<Arc<Offered>>> {
        self.offered.clone()
    }

    /// Asks for a start without a sandbox. It happens soon, whether or not the launch is waited for, unless it is dropped before.
    #[must_use]
    pub fn launch(&self, spec: Spec) -> Launch {
        self.launch_in(spec, Sandbox::BARE)
    }

    /// The same in a sandbox.
    #[must_use]
    pub fn launch_in(&self, spec: Spec, sandbox: Sandbox) -> Launch {
        self.launch_out(spec, sandbox, None)
    }

    /// The same, with a way out where its network is restricted: without one such a program does not start.
    #[must_use]
    pub fn launch_out(&self, spec: Spec, sandbox: Sandbox, way_out: Option<WayOut>) -> Launch {
        let (reply, running) = oneshot::channel();
        // Full or gone: the dropped sender tells `run`.
        let decided = Arc::new(AtomicBool::new(false));
        let _ = self.requests.try_send(Request { spec, sandbox, way_out, reply, decided: decided.clone() });
        Launch { running, decided, redactor: Arc::default(), _launcher: self.clone() }
    }
}

impl Launch {
    /// The same, with secrets that are kept out of what the program says on its error stream.
    #[must_use]
    pub fn redacting(self, redactor: Arc<Redactor>) -> Self {
        Self { redactor, ..self }
    }
}

/// What the launching thread starts programs with.
#[derive(Debug)]
struct Starter {
    helper: Helper,
    home: PathBuf,
    work: PathBuf,
    offered: watch::Receiver<Option<Arc<Offered>>>,
}

impl Starter {
    /// Starts a program; the reason why not is for people.
    fn start(&self, spec: &Spec, sandbox: &Sandbox, way_out: Option<WayOut>) -> Result<Running, String> {
        if sandbox.network == Network::Restricted && way_out.is_none() {
            return Err("its network is restricted, and nothing lets it out".to_owned());
        }
        let level = if (sandbox.wanted, sandbox.least) == (Level::Bare, Level::Bare) {
            Level::Bare
        } else {
            sandbox.level(self.tested()?.as_ref(), &self.home, spec.keep_running)?
        };
        let dir = self.run_dir().map_err(|error| format!("its private directory: {error}"))?;
        super::give_to(dir.path(), level, sandbox.user).map_err(|error| format!("its private directory: {error}"))?;
        let given = out_dir::make(dir.path()).and_then(|out| {
            super::give_to(&out, level, sandbox.user)?;
            Ok(out)
        });
        let out = given.map_err(|error| format!("the directory for its results: {error}"))?;
        let begins = match &spec.cwd {
            None => dir.path().to_owned(),
            Some(cwd) if level == Level::Bare => cwd.clone(),
            Some(_) => return Err(format!("`cwd` is for the level bare, and this would be {level}")),
        };
        let go = Go {
            agent: std::process::id(),
            level,
            network: sandbox.network,
            unix_sockets: sandbox.unix_sockets,
            user: sandbox.user,
            limits: sandbox.limits,
            dir: begins,
            hide: self.hidden(),
            read: sandbox.read.clone(),
            write: sandbox.write.iter().cloned().chain([out.clone()]).collect(),
            command: spec.command.clone().into_os_string(),
            args: spec.args.iter().map(OsString::from).collect(),
            env: environment(spec, level, dir.path(), &out),
        };
        let spawn = |command| Command::from(command).kill_on_drop(true).spawn();
        let (child, ends) = self.helper.start(&go, spawn).map_err(|error| format!("its helper: {error}"))?;
        let Ends { said, stdin, stdout, stderr, way_out: by } = ends;
        let gate = way_out.zip(by).map(|(WayOut { proxy, pass }, by)| proxy.open(by, pass));
        let streams = || {
            io::Result::Ok(Streams {
                stdin: pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?,
                stdout: pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?,
                stderr: pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?,
            })
        };
        let streams = streams().map_err(|error| format!("its streams: {error}"))?;
        // The helper leads a session, and so a group, of its own: both have its number.
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let said = Said { socket: said, level, ready: false };
        Ok(Running { child, group, said, streams, dir, gate, kept: spec.keep_running })
    }

    /// Waits for what this device offers.
    fn tested(&self) -> Result<Arc<Offered>, String> {
        let mut offered = self.offered.clone();
        let known = async {
            let known = timeout(TESTED_WITHIN, offered.wait_for(Option::is_some)).await;
            known.ok()?.ok()?.clone()
        };
        let known = tokio::runtime::Handle::current().block_on(known);
        known.ok_or_else(|| "which sandbox this device offers is not known yet".to_owned())
    }

    fn run_dir(&self) -> io::Result<RunDir> {
        let run_dir = || RunDir::make(&self.work, RUN_DIR_PREFIX);
        match run_dir() {
            // A cleaner may have taken the directory away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                crate::platform::create_private_dir(&self.work)?;
                run_dir()
            }
            made => made,
        }
    }

    /// What no tool sees at the level `isolated`: our home, and that of whoever runs us.
    fn hidden(&self) -> Vec<PathBuf> {
        let people = std::env::var_os("HOME").map(PathBuf::from);
        std::iter::once(self.home.clone()).chain(people.filter(|home| home.is_absolute())).collect()
    }
}

/// All of the environment of a program.
fn environment(spec: &Spec, level: Level, dir: &Path, out: &Path) -> Vec<(OsString, OsString)> {
    let mut env = BTreeMap::from([("PATH".to_owned(), OsString::from(crate::platform::PATH_DEFAULT))]);
    for name in ["PATH", "HOME", "LANG"] {
        env.extend(std::env::var_os(name).map(|value| (name.to_owned(), value)));
    }
    if level >= Level::Confined {
        env.extend(["HOME", "TMPDIR"].map(|name| (name.to_owned(), dir.as_os_str().to_owned())));
    }
    env.insert(out_dir::VARIABLE.to_owned(), out.as_os_str().to_owned());
    env.extend(spec.env.iter().map(|(name, value)| (name.clone(), OsString::from(value))));
    env.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

/// The cause for which a run was over.
pub(super) enum End {
    /// By itself; with a note about what it has left.
    Exited(ExitStatus, String),
    /// The same, as the helper tells it.
    Ended(Exit, String),
    NotStarted(String),
    Lost(String),
    TimedOut,
    Cancelled,
    Output(SpoolError),
}

impl End {
    /// True if it ended by itself, and well.
    pub(super) fn is_well(&self) -> bool {
        match self {
            Self::Exited(exit, _) => exit.success(),
            Self::Ended(exit, _) => *exit == Exit::Code(0),
            Self::NotStarted(_) | Self::Lost(_) | Self::TimedOut | Self::Cancelled | Self::Output(_) => false,
        }
    }
}

/// Runs a launched program to its end, which comes within `time`: `stdin` goes in, output goes to `spool`, which is for
/// the caller to finish, lines of its error stream go to `note` (at most 200 characters each, and not faster than a
/// person reads). Its group has been ended when this comes back, unless it may keep running.
///
/// # Cancel safety
/// Dropping the future kills the group.
pub async fn run(
    launch: Launch,
    time: Duration,
    stdin: Bytes,
    cancel: &CancellationToken,
    spool: &mut Spool<'_>,
    mut note: impl FnMut(String),
) -> RunOutcome {
    let Launch { mut running, decided, redactor, _launcher } = launch;
    let started = tokio::select! {
        biased;
        () = cancel.cancelled() => {
            if !decided.swap(true, Ordering::AcqRel) {
                return RunEnd::Cancelled("cancelled before it was started".to_owned()).into();
            }
            running.await
        }
        started = &mut running => started,
    };
    // The way out is there until this comes back.
    let Running { mut child, mut group, said, streams, dir, gate: _gate, kept } = match started {
        Ok(Ok(running)) => running,
        Ok(Err(why)) => return RunEnd::NotStarted(why).into(),
        Err(_) => return RunEnd::NotStarted("too many programs wait to be started".to_owned()).into(),
    };

    let mut errors = ErrorStream::new(Instant::now(), redactor);
    let process = (&mut child, &mut group, kept, streams);
    let end = watch(process, time, stdin, cancel, spool, &mut errors, &mut note).await;
    let end = match end {
        End::Exited(exit, note) => said.told(exit, note),
        End::Ended(..) | End::NotStarted(_) | End::Lost(_) | End::TimedOut | End::Cancelled | End::Output(_) => {
            stop(&mut child, &mut group).await;
            end
        }
    };
    let end = match end {
        End::Exited(..) | End::Ended(..) | End::TimedOut | End::Cancelled => {
            match (out_dir::take(dir.path(), spool).await, end) {
                (Err(why), end) if end.is_well() => End::Output(why),
                (_, end) => end,
            }
        }
        End::NotStarted(_) | End::Lost(_) | End::Output(_) => end,
    };
    // A tool may have left a million files.
    tokio::task::spawn_blocking(move || drop(dir));

    let error = errors.finish(Instant::now(), &mut note);
    outcome(end, error, time)
}

async fn watch(
    (child, group, keep_running, streams): (&mut Child, &mut Group, bool, Streams),
    time: Duration,
    stdin: Bytes,
    cancel: &CancellationToken,
    spool: &mut Spool<'_>,
    errors: &mut ErrorStream,
    note: &mut impl FnMut(String),
) -> End {
    let mut pipes = pin!(streams.pump(stdin, spool, errors, note));
    let mut pipes_open = true;
    let mut exited = None;
    let mut until = Instant::now() + time;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled(), if exited.is_none() => {
                // What it had said by then may lie in the pipes unread, and counts.
                if pipes_open {
                    let _ = timeout(LAST_WORDS, &mut pipes).await;
                }
                return End::Cancelled;
            }
            result = child.wait(), if exited.is_none() => match result {
                Ok(exit) => {
                    let left = group.members().await.join(", ");
                    let note = match (left.is_empty(), keep_running) {
                        (true, _) => String::new(),
                        (false, true) => format!("left running: {left}"),
                        (false, false) => format!("left running, and ended with it: {left}"),
                    };
                    if keep_running { group.release() } else { group.kill() }
                    if !pipes_open {
                        return End::Exited(exit, note);
                    }
                    exited = Some((exit, note));
                    until = Instant::now() + if keep_running { KEPT_DRAIN } else { DRAIN };
                }
                Err(error) => return End::Lost(format!("waiting for it: {error}")),
            },
            result = &mut pipes, if pipes_open => {
                pipes_open = false;
                if let Err(error) = result {
                    return End::Output(error);
                }
                if let Some((exit, note)) = exited {
                    return End::Exited(exit, note);
                }
            }
            () = sleep_until(until) => {
                let Some((exit, mut note)) = exited else { return End::TimedOut };
                note.push_str(if note.is_empty() { "" } else { "; " });
                note.push_str("something that it started still holds its output, of which no more is read");
                return End::Exited(exit, note);
            }
        }
    }
}

/// Ends a group that did not end by itself: asks, waits a little, insists.
async fn stop(child: &mut Child, group: &mut Group) {
    group.signal(Signal::SIGTERM);
    let _ = timeout(TERM_GRACE, child.wait()).await;
    group.kill();
    // A helper that has no session of its own yet is in no group.
    let _ = child.start_kill();
    let _ = timeout(KILL_WAIT, child.wait()).await;
}

impl Said {
    /// Waits until the tool has begun. Blocks.
    ///
    /// # Errors
    /// It has not, for people.
    pub(super) fn begin(&mut self) -> Result<(), String> {
        let _ = self.socket.set_read_timeout(Some(BEGUN_WITHIN));
        loop {
            match helper::next(&self.socket) {
                // At the level `isolated` the tool has been started by then; at others the helper becomes it, and its socket ends.
                Some(Report::Ready) if self.level == Level::Isolated => {
                    self.ready = true;
                    return Ok(());
                }
                Some(Report::Ready) => self.ready = true,
                Some(Report::NotStarted(why)) => return Err(why),
                Some(Report::Ended { .. }) => return Err("it ended at once".to_owned()),
                // Files are told of in containers alone.
                Some(Report::Files(_) | Report::Socket) => {}
                None if self.ready => return Ok(()),
                None => return Err("its helper ended before it".to_owned()),
            }
        }
    }

    /// The end of a run. `exit` and `note`: of the process that was the helper first.
    fn told(self, exit: ExitStatus, note: String) -> End {
        let Self { socket, level, mut ready } = self;
        // Whoever could still say something has ended. What is there is there at once.
        let _ = socket.set_read_timeout(Some(SAID_WITHIN));
        let mut end = None;
        for report in helper::said(&socket) {
            match report {
                Report::Ready => ready = true,
                Report::NotStarted(why) => return End::NotStarted(why),
                Report::Ended { exit, left } => end = Some((exit, left)),
                Report::Files(_) | Report::Socket => {}
            }
        }
        match (end, level) {
            (Some((exit, left)), _) if left.is_empty() => End::Ended(exit, note),
            (Some((exit, left)), _) => {
                End::Ended(exit, format!("left running, and ended with it: {}", left.join(", ")))
            }
            (None, _) if !ready => End::NotStarted(format!("its helper ended before it: {exit}")),
            (None, Level::Isolated) => End::Lost(format!("its helper ended while it ran: {exit}")),
            (None, Level::Bare | Level::Guarded | Level::Confined) => End::Exited(exit, note),
        }
    }

    /// The same in words.
    pub(super) fn story(self, exit: ExitStatus) -> String {
        match self.told(exit, String::new()) {
            End::Exited(exit, _) => show_exit(exit),
            End::Ended(exit, _) => show_end(exit),
            End::NotStarted(why) | End::Lost(why) => why,
            End::TimedOut | End::Cancelled | End::Output(_) => exit.to_string(),
        }
    }
}

pub(super) fn outcome(end: End, stderr: String, time: Duration) -> RunOutcome {
    let (end, note) = match end {
        End::Exited(exit, note) if exit.success() => (RunEnd::Done, note),
        End::Ended(Exit::Code(0), note) => (RunEnd::Done, note),
        End::Exited(exit, note) => (RunEnd::Failed(show_exit(exit)), note),
        End::Ended(Exit::Memory, note) => (RunEnd::Limit(OUT_OF_MEMORY.to_owned()), note),
        End::Ended(exit, note) => (RunEnd::Failed(show_end(exit)), note),
        End::NotStarted(why) => return RunEnd::NotStarted(why).into(),
        End::TimedOut => (RunEnd::Limit(format!("timed out after {}", show_duration(time))), String::new()),
        End::Cancelled => (RunEnd::Cancelled(String::new()), String::new()),
        End::Lost(lost) => (RunEnd::Lost(lost), String::new()),
        End::Output(why @ SpoolError::TooLarge(_)) => (RunEnd::Limit(why.story()), String::new()),
        End::Output(why @ (SpoolError::TooMany | SpoolError::Store(_))) => (RunEnd::Failed(why.story()), String::new()),
    };
    RunOutcome { end, note, stderr }
}

/// The same, as a helper tells it.
pub(super) fn show_end(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(signal) => show_signal(signal.into()),
        Exit::Memory => OUT_OF_MEMORY.to_owned(),
    }
}

/// The way in which a program ended, for people.
fn show_exit(exit: ExitStatus) -> String {
    match (exit.code(), exit.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => show_signal(signal),
        (None, None) => exit.to_string(),
    }
}

fn show_signal(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(Signal::SIGXFSZ) => "over its limit for the size of a file".to_owned(),
        Ok(signal) => format!("killed by {signal}"),
        Err(_) => format!("killed by signal {number}"),
    }
}

#[cfg(test)]
mod tests;
