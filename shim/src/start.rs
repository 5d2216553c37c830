//! From the first instruction of the helper to the tool's, as far as no level but `bare` is asked for; and where the others
//! branch off.

use std::convert::Infallible;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::process::{Resource, getppid, setsid, umask};

use crate::process::{NOT_STARTED, Streams, Why, control, die_with_parent, explain, limit, tool};
use crate::wire::{self, Go, Level, Limits, Network, Report};

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

fn start(control: &UnixStream) -> Result<ExitCode, Why> {
    // First of all: the agent ends a run by its group, which has the number of this process from here on.
    setsid().map_err(|errno| format!("a session of its own: {errno}"))?;
    die_with_parent()?;
    close_inherited(control);
    let (go, streams, by) = wire::receive_tool(control).map_err(|error| format!("reading what to start: {error}"))?;
    is_parent(go.agent)?;
    if go.network == Network::Restricted && (go.level != Level::Isolated || by.is_none()) {
        return Err("a restricted network needs a world of its own: the level isolated".to_owned());
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
        Level::Isolated => crate::isolate::isolate(control, &by_its_path(go)?, streams, by),
        #[cfg(not(all(feature = "levels", target_os = "linux")))]
        Level::Guarded | Level::Confined | Level::Isolated => {
            Err(format!("this build of sigil has no helper, and the level {} needs it", go.level))
        }
    }
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
    let found = found(&go).ok_or_else(|| explain(&go.command, &std::io::ErrorKind::NotFound.into()))?;
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

fn become_tool(control: &UnixStream, go: &Go, streams: Streams) -> Result<Infallible, Why> {
    wire::tell(control, &Report::Ready).map_err(|error| format!("the agent is gone: {error}"))?;
    Err(explain(&go.command, &tool(go, streams).exec()))
}
