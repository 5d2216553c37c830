//! The helper as the first process of a container: it is there before any program of the image is, shuts the container in
//! further than its engine does, and starts a command for each order of the agent.
//!
//! Its file and the socket to the agent are bound into the container, read-only. It connects once; the agent then takes the
//! socket away. When the agent closes the connection this process ends, and all of the container with it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process_group, pidfd_open,
    set_dumpable_behavior, wait,
};
use rustix::thread::set_no_new_privs;

use crate::filter::filter;
use crate::own_net;
use crate::process::{NOT_STARTED, Why, explain, running, tool};
use crate::remove;
use crate::wire::{self, Exit, FILES_MAX, Go, Network, OUT_DIR, Order, Report};

/// Between asking a command to end and ending it.
const TERM_GRACE: Duration = Duration::from_millis(500);
/// How often what others have left is reaped while there is some of it.
const REAP_EVERY: Duration = Duration::from_secs(1);
/// Names of files that are looked at; a tool may leave a million.
const NAMES_MAX: usize = 1_000;

/// A command that runs.
struct Call {
    control: UnixStream,
    /// Its first process, which is the number of its group as well.
    tool: Pid,
    /// Readable when that has ended.
    ends: OwnedFd,
    status: Option<WaitStatus>,
    /// When it is killed, once it was asked to end.
    kill_at: Option<Instant>,
    /// True if we have killed it.
    killed: bool,
    /// Processes that the kernel had killed for want of memory before it began.
    starved: u64,
    /// The directory of its further results, if there is one.
    out: Option<PathBuf>,
}

/// The whole of it.
#[must_use]
pub fn entry(args: impl Iterator<Item = OsString>) -> ExitCode {
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("sigil-shim: {why}");
            ExitCode::from(NOT_STARTED)
        }
    }
}

fn serve(mut args: impl Iterator<Item = OsString>) -> Result<(), Why> {
    let word = args.next().unwrap_or_default();
    let network = Network::from_word(&word.to_string_lossy()).ok_or("sigil starts this program in its containers")?;
    let agent = UnixStream::connect(wire::AGENT_SOCKET).map_err(|error| format!("the agent: {error}"))?;
    // What the agent tells us is in our memory, and its connection is among our files.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|errno| format!("closing ourselves: {errno}"))?;
    set_no_new_privs(true).map_err(|errno| format!("no new privileges: {errno}"))?;
    // For us as well, and for all that comes of us.
    seccompiler::apply_filter(&filter(network, false, true))
        .map_err(|error| format!("the filter of calls: {error}"))?;
    wire::tell(&agent, &Report::Ready).map_err(|error| format!("the agent is gone: {error}"))?;
    let mut calls = Vec::new();
    loop {
        let others = reap(&mut calls);
        end_those_that_have_ended(&mut calls);
        match next(&agent, &mut calls, others)? {
            Next::Order => match wire::receive_in_container(&agent) {
                Ok(Order::Start(go, [stdin, stdout, stderr, control])) => {
                    begin(&go, [stdin, stdout, stderr], UnixStream::from(control), &mut calls);
                }
                Ok(Order::Socket(by)) => hand_socket(&UnixStream::from(by)),
                Ok(Order::Listener(by)) => {
                    let by = UnixStream::from(by);
                    if let Err(why) = own_net::hand_listener(&by) {
                        let _ = wire::tell(&by, &Report::NotStarted(why));
                    }
                }
                // The agent is gone, or has closed this container: the kernel ends the rest.
                Err(_) => return Ok(()),
            },
            Next::Other => {}
        }
    }
}

enum Next {
    /// The agent has said something, or has gone.
    Order,
    /// Something else has happened, or time has passed.
    Other,
}

/// Waits for what comes next. Asks commands to end whose caller does not want them any more.
fn next(agent: &UnixStream, calls: &mut [Call], others: bool) -> Result<Next, Why> {
    let now = now();
    let mut wait = others.then_some(REAP_EVERY);
    for call in calls.iter_mut() {
        if let Some(at) = call.kill_at.filter(|_| !call.killed) {
            let left = at.saturating_duration_since(now);
            if left.is_zero() {
                call.killed = true;
                let _ = kill_process_group(call.tool, Signal::KILL);
            } else {
                wait = Some(wait.map_or(left, |wait| wait.min(left)));
            }
        }
    }
    let mut fds = vec![PollFd::new(agent.as_fd(), PollFlags::POLLIN)];
    // Of one that was asked to end there is nothing more to hear.
    let heard = |call: &&Call| call.kill_at.is_none();
    fds.extend(calls.iter().filter(heard).map(|call| PollFd::new(call.control.as_fd(), PollFlags::POLLIN)));
    fds.extend(calls.iter().map(|call| PollFd::new(call.ends.as_fd(), PollFlags::POLLIN)));
    // Rounded up: what is over by a moment is over.
    let time = wait.map(|wait| PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX));
    match poll(&mut fds, time.unwrap_or(PollTimeout::NONE)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(errno) => return Err(format!("waiting: {errno}")),
    }
    let told: Vec<bool> = fds.iter().map(|fd| fd.revents().is_some_and(|told| !told.is_empty())).collect();
    let heard = calls.iter_mut().filter(|call| call.kill_at.is_none());
    for (call, told) in heard.zip(told.get(1..).unwrap_or_default()) {
        if *told {
            call.kill_at = Some(now + TERM_GRACE);
            let _ = kill_process_group(call.tool, Signal::TERM);
        }
    }
    Ok(if told.first() == Some(&true) { Next::Order } else { Next::Other })
}

#[expect(clippy::disallowed_methods, reason = "half a second of grace; what sleeps meanwhile may have more of it")]
fn now() -> Instant {
    Instant::now()
}

/// Takes note of all that has ended. True if something is left that is not waited for otherwise.
fn reap(calls: &mut [Call]) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if let Some(call) = calls.iter_mut().find(|call| call.tool == pid) {
                    call.status = Some(status);
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Makes a socket of this container's network, and hands it to the agent, which connects it: to a server that is started here.
fn hand_socket(by: &UnixStream) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let _ = match socket_with(AddressFamily::INET, SocketType::STREAM, flags, None) {
        Ok(socket) => wire::tell_with(by, &Report::Socket, &[socket.as_fd()]),
        Err(errno) => wire::tell(by, &Report::NotStarted(format!("a socket in its container: {errno}"))),
    };
}

fn begin(go: &Go, streams: [OwnedFd; 3], control: UnixStream, calls: &mut Vec<Call>) {
    // Without it there are no files among its results, and nothing else is lacking.
    let out = out_dir();
    match started(go, streams, out.as_deref()) {
        Ok((tool, ends)) => {
            let starved = starved();
            let _ = wire::tell(&control, &Report::Ready);
            calls.push(Call { control, tool, ends, status: None, kill_at: None, killed: false, starved, out });
        }
        Err(why) => {
            let _ = wire::tell(&control, &Report::NotStarted(why));
        }
    }
}

/// Makes a directory whose name nobody could know before: in a container for many calls another one would have made it, with
/// what is no result of this call.
fn out_dir() -> Option<PathBuf> {
    let mut random = [0; 8];
    File::open("/dev/urandom").ok()?.read_exact(&mut random).ok()?;
    let out = PathBuf::from(format!("{OUT_DIR}-{:016x}", u64::from_ne_bytes(random)));
    DirBuilder::new().mode(0o700).create(&out).ok()?;
    Some(out)
}

fn started(go: &Go, streams: [OwnedFd; 3], out: Option<&Path>) -> Result<(Pid, OwnedFd), Why> {
    let mut command = tool(go, streams);
    // The image has an environment, which goes before what the agent gives.
    let given: Vec<&OsString> = go.env.iter().map(|(name, _)| name).collect();
    command.envs(std::env::vars_os().filter(|(name, _)| !given.contains(&name)));
    if let Some(out) = out {
        command.env(wire::OUT_VARIABLE, out);
    }
    let child = command.process_group(0).spawn().map_err(|error| explain(&go.command, &error))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("it has no number")?;
    let ends = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| {
        let _ = kill_process_group(pid, Signal::KILL);
        format!("the kernel does not tell of its end (pidfd_open): {errno}")
    })?;
    Ok((pid, ends))
}

fn end_those_that_have_ended(calls: &mut Vec<Call>) {
    let alone = calls.len() == 1;
    calls.retain(|call| {
        let Some(status) = call.status else { return true };
        let left = left(call.tool, alone);
        let _ = kill_process_group(call.tool, Signal::KILL);
        let exit = match crate::isolate::exit(status) {
            // As shells tell of what they have started.
            Exit::Signal(9) | Exit::Code(137) if !call.killed && starved() > call.starved => Exit::Memory,
            exit @ (Exit::Code(_) | Exit::Signal(_) | Exit::Memory) => exit,
        };
        let files = call.out.as_deref().map(files).unwrap_or_default();
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(|(_, file)| file.as_fd()).collect();
        let names = files.iter().map(|(name, _)| name.clone()).collect();
        if !files.is_empty() {
            let _ = wire::tell_with(&call.control, &Report::Files(names), &fds);
        }
        let _ = wire::tell(&call.control, &Report::Ended { exit, left });
        if let Some(out) = &call.out {
            let _ = remove::tree(out);
        }
        false
    });
}

/// Names of what is still running: of the group of a command, or all.
fn left(group: Pid, all: bool) -> Vec<String> {
    running(|of| all || of == group.as_raw_nonzero().get())
}

/// Regular files that a command has left as further parts of its result, by name: one more than fit at most, so that whoever
/// leaves too many is told.
fn files(out: &Path) -> Vec<(String, File)> {
    let mut names: Vec<OsString> =
        fs::read_dir(out).into_iter().flatten().take(NAMES_MAX).flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    let open = |name: OsString| {
        // Neither a link nor a pipe without a writer holds us up.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        let file = File::options().read(true).custom_flags(flags).open(out.join(&name)).ok()?;
        file.metadata().is_ok_and(|found| found.is_file()).then(|| (name.to_string_lossy().into_owned(), file))
    };
    names.into_iter().filter_map(open).take(FILES_MAX).collect()
}

/// Processes of this container that the kernel has killed for want of memory, as its control group counts them.
fn starved() -> u64 {
    let counted = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
    };
    counted("/sys/fs/cgroup/memory.events").or_else(|| counted("/sys/fs/cgroup/memory/memory.oom_control")).unwrap_or(0)
}
