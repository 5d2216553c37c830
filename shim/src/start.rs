//! From the first instruction of the helper to the tool's, as far as no level but `bare` is asked for; and where the others
//! branch off.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getppid, getrlimit, setrlimit, setsid, umask};

use crate::wire::{self, Go, Level, Limits, Network, Report};

/// Exit code when the tool has not been started; shells use the same.
pub const NOT_STARTED: u8 = 127;

/// Standard input, output and error stream of the tool.
pub(crate) type Streams = [OwnedFd; 3];

/// Reason for which a tool was not started, for people.
pub(crate) type Why = String;

/// The whole of the helper: takes an order from the socket that is its standard input, and becomes the tool, or stays with it
/// to its end. To be called before any thread is started.
#[must_use]
pub fn entry() -> ExitCode {
    let control = match control() {
        Ok(control) => control,
        Err(error) => {
            eprintln!("sigil starts this program, once for each run of a tool: {error}");
            return ExitCode::from(NOT_STARTED);
        }
    };
    match start(&control) {
        Ok(code) => code,
        Err(why) => {
            // Nobody to tell? Then nobody waits for the tool either.
            let _ = wire::tell(&control, &Report::NotStarted(why));
            ExitCode::from(NOT_STARTED)
        }
    }
}

/// The socket that a helper was started with, as a descriptor that the tool does not get.
pub(crate) fn control() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn start(control: &UnixStream) -> Result<ExitCode, Why> {
    // First of all: the agent ends a run by its group, which has the number of this process from here on.
    setsid().map_err(|errno| format!("a session of its own: {errno}"))?;
    die_with_parent()?;
    close_inherited(control);
    let (go, streams) = wire::receive(control).map_err(|error| format!("reading what to start: {error}"))?;
    is_parent(go.agent)?;
    if go.network == Network::Restricted {
        return Err("a restricted network is not offered yet".to_owned());
    }
    umask(Mode::RWXG | Mode::RWXO);
    lower(&go.limits)?;
    match go.level {
        Level::Bare => {
            enter(&go.dir)?;
            become_tool(control, &go, streams).map(|never| match never {})
        }
        #[cfg(all(feature = "levels", target_os = "linux"))]
        Level::Guarded | Level::Confined => {
            enter(&go.dir)?;
            let go = by_its_path(go)?;
            let rules = crate::confine::rules(&go)?;
            crate::confine::drop_root(go.user)?;
            die_with_parent()?;
            is_parent(go.agent)?;
            crate::confine::confine(&go, rules)?;
            become_tool(control, &go, streams).map(|never| match never {})
        }
        #[cfg(all(feature = "levels", target_os = "linux"))]
        Level::Isolated => crate::isolate::isolate(control, &by_its_path(go)?, streams),
        #[cfg(not(all(feature = "levels", target_os = "linux")))]
        Level::Guarded | Level::Confined | Level::Isolated => {
            Err(format!("this build of sigil has no helper, and the level {} needs it", go.level))
        }
    }
}

/// Asks to be killed when the parent ends. Systems other than Linux do not offer it.
pub(crate) fn die_with_parent() -> Result<(), Why> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|errno| format!("death with the agent: {errno}"))?;
    Ok(())
}

/// The agent may have died before [`die_with_parent`]; then this is another's child already.
fn is_parent(agent: u32) -> Result<(), Why> {
    let parent = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    if parent == Some(agent) { Ok(()) } else { Err("the agent is gone".to_owned()) }
}

/// Closes what whoever started the agent had open. Ours are closed when the tool begins.
fn close_inherited(control: &UnixStream) {
    let Ok(listed) = std::fs::read_dir("/dev/fd") else { return };
    let numbers = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // The listing has a descriptor of its own, which is closed before the loop: closing it again fails and harms nobody.
    let numbers: Vec<i32> = numbers.filter(|number| *number > 2 && *number != control.as_raw_fd()).collect();
    for number in numbers {
        let _ = nix::unistd::close(number);
    }
}

/// What is allowed and what stays visible is told by paths.
#[cfg(all(feature = "levels", target_os = "linux"))]
fn by_its_path(go: Go) -> Result<Go, Why> {
    let found = found(&go).ok_or_else(|| explain(&go.command, &io::ErrorKind::NotFound.into()))?;
    Ok(Go { command: found.into_os_string(), ..go })
}

/// Where the command is: as the shell would look for it.
#[cfg(all(feature = "levels", target_os = "linux"))]
fn found(go: &Go) -> Option<std::path::PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;

    let executable = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let command = Path::new(&go.command);
    if go.command.as_bytes().contains(&b'/') {
        // Relative to where it begins. Whether it may be executed the kernel says.
        return Some(go.dir.join(command));
    }
    let path = go.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let path = path.unwrap_or_else(|| std::ffi::OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path).map(|dir| dir.join(command)).find(|path| executable(path))
}

fn enter(dir: &Path) -> Result<(), Why> {
    std::env::set_current_dir(dir).map_err(|error| format!("its directory: {error}"))
}

/// Lowers what needs no other level. That of processes comes last of all: it would count the helper's own.
fn lower(limits: &Limits) -> Result<(), Why> {
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, limits.open_files.into())?;
    for (resource, max) in [(Resource::Data, limits.memory), (Resource::Fsize, limits.file_size)] {
        max.map_or(Ok(()), |max| limit(resource, max))?;
    }
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

fn become_tool(control: &UnixStream, go: &Go, streams: Streams) -> Result<Infallible, Why> {
    wire::tell(control, &Report::Ready).map_err(|error| format!("the agent is gone: {error}"))?;
    Err(explain(&go.command, &tool(go, streams).exec()))
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
