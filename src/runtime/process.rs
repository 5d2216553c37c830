//! Tools that are programs: started in a process group of their own, watched, and ended as a group.
//!
//! Whatever the program does, [`run`] comes back: at its end, at its time limit, at its output limit, or when
//! cancelled. What it has left running in its group is ended then, unless it may keep running, and named in the outcome
//! either way. A program that moves itself into another session (`setsid`) leaves the group and is not ended with it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::out_dir;
use super::outcome::{RunEnd, RunOutcome};
use super::progress::ErrorStream;
use super::spool::{Spool, SpoolError};
use super::tool_exec;
use crate::config::value::show_duration;
use crate::secrets::Redactor;
use crate::tasks::TaskGroup;

/// Between asking a group to end (`SIGTERM`) and ending it (`SIGKILL`). With the waits below, well under the 2 s in
/// which a cancel must have worked.
const TERM_GRACE: Duration = Duration::from_millis(500);
/// Time that a killed process is waited for. One that hangs in the kernel (a dead network disk) may take for ever.
const KILL_WAIT: Duration = Duration::from_secs(1);
/// Time that pipes are read after the program's end: what it wrote is in them; only an escaped child keeps them open.
const DRAIN: Duration = Duration::from_secs(1);
/// The same, if what the program has started may keep running and so keep the pipes open.
const KEPT_DRAIN: Duration = Duration::from_millis(100);
/// Processes that a note names.
const NAMED_MAX: usize = 8;
/// Bytes read from a pipe at once.
const CHUNK: usize = 32 * 1024;
/// Launches that may wait for the launching thread. The core runs a handful at once; beyond this something is stuck.
const LAUNCHES_MAX: usize = 256;
/// Names of the private directories of runs.
const RUN_DIR_PREFIX: &str = "run-";

/// A program to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Looked up in `PATH`, or absolute.
    pub command: PathBuf,
    /// Passed as they are.
    pub args: Vec<String>,
    /// Added to `PATH`, `HOME` and `LANG` of the agent, which is all that it inherits.
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
}

/// A start that was asked for.
#[derive(Debug)]
pub struct Launch {
    running: oneshot::Receiver<io::Result<Running>>,
    /// Set when it is started or given up: whoever sets it first decides, so that what is told of a cancelled run is
    /// true.
    decided: Arc<AtomicBool>,
    command: PathBuf,
    /// Secrets that are kept out of what it says.
    redactor: Arc<Redactor>,
    /// Keeps the thread, and so the child, alive.
    _launcher: Launcher,
}

#[derive(Debug)]
struct Request {
    spec: Spec,
    reply: oneshot::Sender<io::Result<Running>>,
    decided: Arc<AtomicBool>,
}

/// A program that was started.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) group: Group,
    dir: TempDir,
    kept: bool,
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

impl Running {
    /// Its three streams, once.
    pub(super) fn streams(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take())
    }
}

impl Launch {
    /// Waits until it is started.
    ///
    /// # Errors
    /// The reason for which it was not, for people.
    pub(super) async fn started(self) -> Result<Running, String> {
        match self.running.await {
            Ok(Ok(running)) => Ok(running),
            Ok(Err(error)) => Err(tool_exec::explain(self.command.as_os_str(), &error)),
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
    /// Starts the thread. Runs get private directories under `work`, which is made if needed; what an agent that was
    /// killed has left there is removed. `program` is our own program ([`crate::platform::own_program`]); without it tools are
    /// started directly, without the limits that `tool-exec` sets.
    ///
    /// # Errors
    /// When the directory or the thread cannot be made.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(work: PathBuf, program: Option<PathBuf>, tasks: &TaskGroup) -> io::Result<Self> {
        crate::platform::create_private_dir(&work)?;
        for entry in std::fs::read_dir(&work)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(RUN_DIR_PREFIX) {
                let _ = std::fs::remove_dir_all(entry.path()); // what cannot be removed does not disturb
            }
        }
        let (requests, mut inbox) = mpsc::channel::<Request>(LAUNCHES_MAX);
        let runtime = tokio::runtime::Handle::current();
        // Not told to stop, but out of work: a program lives no longer than this thread, so it ends after the
        // last run.
        tasks.thread("tool-launcher", move |_| {
            let _runtime = runtime.enter();
            while let Some(Request { spec, reply, decided }) = inbox.blocking_recv() {
                if !reply.is_closed() && !decided.swap(true, Ordering::AcqRel) {
                    // Nobody waits any more? Then the run is dropped, and its group with it.
                    let _ = reply.send(start(&spec, program.as_deref(), &work));
                }
            }
        })?;
        Ok(Self { requests })
    }

    /// Asks for a start. It happens soon, whether or not the launch is waited for, unless it is dropped before.
    #[must_use]
    pub fn launch(&self, spec: Spec) -> Launch {
        let (reply, running) = oneshot::channel();
        let command = spec.command.clone();
        // Full or gone: the dropped sender tells `run`.
        let decided = Arc::new(AtomicBool::new(false));
        let _ = self.requests.try_send(Request { spec, reply, decided: decided.clone() });
        Launch { running, decided, command, redactor: Arc::default(), _launcher: self.clone() }
    }
}

impl Launch {
    /// The same, with secrets that are kept out of what the program says on its error stream.
    #[must_use]
    pub fn redacting(self, redactor: Arc<Redactor>) -> Self {
        Self { redactor, ..self }
    }
}

fn start(spec: &Spec, program: Option<&Path>, work: &Path) -> io::Result<Running> {
    let run_dir = || tempfile::Builder::new().prefix(RUN_DIR_PREFIX).tempdir_in(work);
    let dir = match run_dir() {
        // A cleaner may have taken the directory away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            crate::platform::create_private_dir(work)?;
            run_dir()?
        }
        made => made?,
    };
    let mut command = match program {
        Some(program) => {
            let mut command = Command::new(program);
            command.args(tool_exec::arguments(&spec.command));
            command
        }
        None => Command::new(&spec.command),
    };
    command.args(&spec.args).current_dir(spec.cwd.as_deref().unwrap_or(dir.path())).env_clear();
    command.env("PATH", crate::platform::PATH_DEFAULT);
    command.envs(["PATH", "HOME", "LANG"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.env(out_dir::VARIABLE, out_dir::make(dir.path())?);
    command.envs(&spec.env);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.process_group(0).kill_on_drop(true).spawn()?;
    // The child leads its group: both have the same number.
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    Ok(Running { child, group, dir, kept: spec.keep_running })
}

/// The cause for which a run was over.
enum End {
    /// By itself; with a note about what it has left.
    Exited(ExitStatus, String),
    Lost(io::Error),
    TimedOut,
    Cancelled,
    Output(SpoolError),
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
    let Launch { mut running, decided, command, redactor, _launcher } = launch;
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
    let Running { mut child, mut group, dir, kept } = match started {
        Ok(Ok(running)) => running,
        Ok(Err(error)) => return RunEnd::NotStarted(tool_exec::explain(command.as_os_str(), &error)).into(),
        Err(_) => return RunEnd::NotStarted("too many programs wait to be started".to_owned()).into(),
    };

    let mut errors = ErrorStream::new(Instant::now(), redactor);
    let process = (&mut child, &mut group, kept);
    let end = watch(process, time, stdin, cancel, spool, &mut errors, &mut note).await;
    if !matches!(end, End::Exited(..)) {
        stop(&mut child, &mut group).await;
    }
    let end = match end {
        End::Exited(..) | End::TimedOut | End::Cancelled => match (out_dir::take(dir.path(), spool).await, end) {
            (Err(why), End::Exited(exit, _)) if exit.success() => End::Output(why),
            (_, end) => end,
        },
        End::Lost(_) | End::Output(_) => end,
    };
    // A tool may have left a million files.
    tokio::task::spawn_blocking(move || drop(dir));

    let error = errors.finish(Instant::now(), &mut note);
    outcome(end, error, time)
}

async fn watch(
    (child, group, keep_running): (&mut Child, &mut Group, bool),
    time: Duration,
    stdin: Bytes,
    cancel: &CancellationToken,
    spool: &mut Spool<'_>,
    errors: &mut ErrorStream,
    note: &mut impl FnMut(String),
) -> End {
    let (to_tool, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut pipes = pin!(async {
        // What the tool said before it gave too much is read before that ends it.
        let streams = async { tokio::try_join!(biased; read_errors(stderr, errors, note), read_output(stdout, spool)) };
        tokio::select! {
            result = streams => result.map(|_| ()),
            never = feed(to_tool, stdin) => match never {},
        }
    });
    let mut pipes_open = true;
    let mut exited = None;
    let mut until = Instant::now() + time;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled(), if exited.is_none() => return End::Cancelled,
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
                Err(error) => return End::Lost(error),
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

/// Hands the arguments over and closes the pipe. A tool that does not read them is free not to.
async fn feed(pipe: Option<ChildStdin>, stdin: Bytes) -> Infallible {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(&stdin).await;
    }
    std::future::pending().await
}

async fn read_output(pipe: Option<impl AsyncRead + Unpin>, spool: &mut Spool<'_>) -> Result<(), SpoolError> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut chunk = vec![0; CHUNK];
    // Reading a pipe of ours does not fail; if it did, it would be at its end.
    while let Ok(len @ 1..) = pipe.read(&mut chunk).await {
        spool.push(chunk.get(..len).unwrap_or_default()).await?;
    }
    Ok(())
}

async fn read_errors(
    pipe: Option<impl AsyncRead + Unpin>,
    errors: &mut ErrorStream,
    note: &mut impl FnMut(String),
) -> Result<(), SpoolError> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut chunk = vec![0; 4096];
    while let Ok(len @ 1..) = pipe.read(&mut chunk).await {
        errors.push(chunk.get(..len).unwrap_or_default(), Instant::now(), note);
    }
    Ok(())
}

/// Ends a group that did not end by itself: asks, waits a little, insists.
async fn stop(child: &mut Child, group: &mut Group) {
    group.signal(Signal::SIGTERM);
    let _ = timeout(TERM_GRACE, child.wait()).await;
    group.kill();
    let _ = timeout(KILL_WAIT, child.wait()).await;
}

fn outcome(end: End, stderr: String, time: Duration) -> RunOutcome {
    let (end, note) = match end {
        End::Exited(exit, note) if exit.success() => (RunEnd::Done, note),
        End::Exited(exit, note) => match stderr.strip_prefix(tool_exec::COMPLAINT) {
            Some(why) if exit.code() == Some(tool_exec::NOT_STARTED.into()) => {
                return RunEnd::NotStarted(why.to_owned()).into();
            }
            _ => (RunEnd::Failed(show_exit(exit)), note),
        },
        End::TimedOut => (RunEnd::Limit(format!("timed out after {}", show_duration(time))), String::new()),
        End::Cancelled => (RunEnd::Cancelled("cancelled while it ran".to_owned()), String::new()),
        End::Lost(lost) => (RunEnd::Lost(format!("waiting for it: {lost}")), String::new()),
        End::Output(why @ SpoolError::TooLarge(_)) => (RunEnd::Limit(why.story()), String::new()),
        End::Output(why @ (SpoolError::TooMany | SpoolError::Store(_))) => (RunEnd::Failed(why.story()), String::new()),
    };
    RunOutcome { end, note, stderr }
}

/// The way in which a program ended, for people.
pub(super) fn show_exit(exit: ExitStatus) -> String {
    match (exit.code(), exit.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => exit.to_string(),
    }
}

#[cfg(test)]
mod tests;
