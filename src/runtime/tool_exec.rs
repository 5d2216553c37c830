//! `sigil tool-exec`: what must be set between fork and exec, without `unsafe`.
//!
//! The agent starts its own program again under this hidden command. It sets limits on itself, asks to die with the
//! agent, and then becomes the tool.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Name of the hidden command.
pub const COMMAND: &str = "tool-exec";
/// Exit code when the tool could not be started; shells use the same.
pub const NOT_STARTED: u8 = 127;
/// Prefix of our own error message, on the error stream.
pub const COMPLAINT: &str = "sigil tool-exec: ";
/// Open files that a tool may have: the usual soft limit of a login.
const OPEN_FILES_MAX: u64 = 1024;

/// The arguments that make our program run `command`: to be followed by the command's own.
pub(super) fn arguments(command: &Path) -> [OsString; 3] {
    [COMMAND.into(), std::process::id().to_string().into(), command.into()]
}

/// To be called first thing in `main`, before any thread is started: becomes the tool when the program was started as
/// `tool-exec`, and then returns only if that failed.
#[must_use]
pub fn entry() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != COMMAND {
        return None;
    }
    let why = match become_tool(args) {
        Ok(never) => match never {},
        Err(why) => why,
    };
    eprintln!("{COMPLAINT}{why}");
    Some(ExitCode::from(NOT_STARTED))
}

fn become_tool(mut args: impl Iterator<Item = OsString>) -> Result<Infallible, String> {
    let usage = "this command is for the agent only: tool-exec AGENT_PID COMMAND [ARGS]";
    let agent: u32 = args.next().and_then(|pid| pid.to_str()?.parse().ok()).ok_or(usage)?;
    let command = args.next().ok_or(usage)?;

    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(|errno| format!("prctl: {errno}"))?;
    // The agent may have died before the line above; then we have another parent already.
    if parent_id() != agent {
        return Err("the agent is gone".to_owned());
    }
    // Ours are closed by exec; what the agent's own starter had open is not.
    crate::platform::close_inherited();
    limit(Resource::RLIMIT_CORE, 0)?;
    limit(Resource::RLIMIT_NOFILE, OPEN_FILES_MAX)?;
    umask(Mode::from_bits_truncate(0o077));
    Err(explain(&command, &Command::new(&command).args(args).exec()))
}

/// Lowers a limit, for good; one that is lower already stays.
fn limit(resource: Resource, max: u64) -> Result<(), String> {
    let (_, hard) = getrlimit(resource).map_err(|errno| format!("getrlimit: {errno}"))?;
    let max = max.min(hard);
    setrlimit(resource, max, max).map_err(|errno| format!("setrlimit: {errno}"))
}

/// The reason for which a command could not be started, for people.
pub(super) fn explain(command: &OsStr, error: &io::Error) -> String {
    let name = Path::new(command).display();
    if error.kind() == io::ErrorKind::NotFound {
        format!("command `{name}` not found (or what its first line names)")
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        format!("command `{name}` may not be executed")
    } else {
        format!("command `{name}` cannot be started: {error}")
    }
}
