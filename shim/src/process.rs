//! What every way to a tool has: its streams, its limits, its death with the agent, its command.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::wire::Go;

/// Processes that are named of those that a tool has left.
#[cfg(all(feature = "levels", target_os = "linux"))]
const NAMED_MAX: usize = 8;
/// Exit code when the tool has not been started; shells use the same.
pub const NOT_STARTED: u8 = 127;

/// Standard input, output and error stream of the tool.
pub(crate) type Streams = [OwnedFd; 3];

/// Reason for which a tool was not started, for people.
pub(crate) type Why = String;

/// The socket that a helper was started with, as a descriptor that the tool does not get.
pub(crate) fn control() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Asks to be killed when the parent ends. Systems other than Linux do not offer it.
pub(crate) fn die_with_parent() -> Result<(), Why> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|errno| format!("death with the agent: {errno}"))?;
    Ok(())
}

/// Lowers a limit, for good; one that is lower already stays.
pub(crate) fn limit(resource: Resource, max: u64) -> Result<(), Why> {
    let max = getrlimit(resource).maximum.map_or(max, |hard| hard.min(max));
    setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) })
        .map_err(|errno| format!("its limits ({resource:?}): {errno}"))
}

/// The tool, with its streams and environment.
pub(crate) fn tool(go: &Go, streams: Streams) -> Command {
    let [stdin, stdout, stderr] = streams;
    let mut command = Command::new(&go.command);
    command.args(&go.args).env_clear().envs(go.env.iter().map(|(name, value)| (name, value)));
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    command
}

/// The reason for which a command could not be started, for people.
#[must_use]
pub fn explain(command: &OsStr, error: &io::Error) -> String {
    let name = Path::new(command).display();
    if error.kind() == io::ErrorKind::NotFound {
        format!("command `{name}` not found (or what its first line names)")
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        format!("command `{name}` may not be executed")
    } else {
        format!("command `{name}` cannot be started: {error}")
    }
}

/// Names of processes that are still running in the world that this is the first of, a few at most, by the group that each is in.
#[cfg(all(feature = "levels", target_os = "linux"))]
pub(crate) fn running(is_meant: impl Fn(i32) -> bool) -> Vec<String> {
    let name = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok().filter(|pid| *pid != 1)?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        // `pid (name) state parent group …`; the name may hold anything.
        let stat = String::from_utf8_lossy(&stat);
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut words = rest.split_ascii_whitespace();
        let (state, group) = (words.next()?, words.nth(1)?.parse().ok()?);
        (!matches!(state, "Z" | "X") && is_meant(group)).then(|| format!("{name} ({pid})"))
    };
    let mut names: Vec<String> = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(name).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        names.truncate(NAMED_MAX);
        names.push(format!("{more} more"));
    }
    names
}
