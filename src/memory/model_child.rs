//! `sigil model-host`: the child that runs a model, and the limits that it sets on itself.
//!
//! The agent starts its own program again under this hidden command. The child is polite (it yields to everything else), dies
//! with the agent, is the first to be ended when memory runs out, and cannot take more than its budget.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::parent_id;
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::process::ExitCode;

use memory_models::catalogue::Entry;
use memory_models::host;
use nix::sys::resource::{Resource, setrlimit};

/// Name of the hidden command.
pub(super) const COMMAND: &str = "model-host";
/// How willingly it yields the processor, 0 to 19. At 19 a question, which takes 30 ms, waits for seconds beside a build.
const NICE: i32 = 10;
/// How early it is ended when the machine runs out of memory (-1000 to 1000).
const OOM_SCORE: &str = "500";
/// A failure of the pipe, or a command line that is not the agent's.
const BROKEN: u8 = 2;

/// The arguments that make our program run a model.
pub(super) fn arguments(model: &Entry, dir: PathBuf) -> [OsString; 4] {
    [COMMAND.into(), std::process::id().to_string().into(), model.name.into(), dir.into()]
}

/// To be called in `main` before any thread is started: serves the model when the program was started as `model-host`.
#[must_use]
pub fn entry() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != COMMAND {
        return None;
    }
    std::panic::set_hook(Box::new(tell_panic));
    Some(match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("sigil {COMMAND}: {why}");
            ExitCode::from(BROKEN)
        }
    })
}

/// Says where it happened. The agent logs it, so a message that was put together, which may have words of people in it, is left
/// out.
fn tell_panic(info: &PanicHookInfo<'_>) {
    let said = info.payload().downcast_ref::<&'static str>().copied().unwrap_or("its message may tell texts");
    match info.location() {
        Some(at) => eprintln!("panicked at {}:{}: {said}", at.file(), at.line()),
        None => eprintln!("panicked: {said}"),
    }
}

fn serve(mut args: impl Iterator<Item = OsString>) -> Result<(), String> {
    let usage = "this command is for the agent only: model-host AGENT_PID MODEL DIR";
    let agent: u32 = args.next().and_then(|pid| pid.to_str()?.parse().ok()).ok_or(usage)?;
    let model = args.next().and_then(|name| name.into_string().ok()).ok_or(usage)?;
    let dir = PathBuf::from(args.next().ok_or(usage)?);
    crate::platform::close_inherited();
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(|errno| format!("prctl: {errno}"))?;
        // What cannot be made worse for us stays as it is.
        let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        // Texts of people are in our memory. After this our own files below /proc are closed to us.
        let _ = nix::sys::prctl::set_dumpable(false);
    }
    // The agent may have died before the line above; then we have another parent already.
    if parent_id() != agent {
        return Err("the agent is gone".to_owned());
    }
    let _ = rustix::process::nice(NICE);
    limit(Resource::RLIMIT_CORE, 0)?;
    if let Some(entry) = Entry::named(&model) {
        limit(Resource::RLIMIT_DATA, entry.budget_bytes())?;
    }
    let (mut from, mut to) = (io::stdin().lock(), io::stdout().lock());
    host::serve(&model, &dir, &mut from, &mut to).map_err(|error| error.to_string())
}

fn limit(resource: Resource, max: u64) -> Result<(), String> {
    setrlimit(resource, max, max).map_err(|errno| format!("setrlimit: {errno}"))
}
