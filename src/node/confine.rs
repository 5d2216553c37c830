//! The sandbox of a plugin that is a process, and what of it this device gives.

use std::path::Path;

use crate::plugin::{self, Execution, NetworkMode, Process, Program};
use crate::runtime::process::Launcher;
use crate::runtime::sandbox::{Level, Limits, Network, Sandbox};

/// Processes of a plugin that does not say how many.
const PROCESSES: u32 = 256;
/// Bytes of one file that it writes.
const FILE_BYTES: u64 = 1 << 30;

/// The sandbox of a program. One that stands in the settings, and of which its owner says nothing (all files, the network of the
/// device, no least level), has none (`docs/decisions/0114`); what was installed gets the best level that there is. `folder`: that
/// of the files of what was installed, which it may read.
///
/// # Errors
/// It asks for a container, for people.
pub(super) fn sandbox(
    execution: &Execution,
    program: &Program,
    process: &Process,
    folder: Option<&Path>,
) -> Result<Sandbox, String> {
    let least = level(execution.min_level).ok_or("its least level is a container, and it is a process")?;
    let says_nothing = program.network == NetworkMode::Host && program.read.is_empty() && program.write.is_empty();
    if folder.is_none() && says_nothing && least == Level::Bare {
        return Ok(Sandbox::BARE);
    }
    let read = program.read.iter().cloned().chain(folder.map(Path::to_owned)).collect();
    Ok(Sandbox {
        network: match program.network {
            NetworkMode::None => Network::None,
            NetworkMode::Restricted => Network::Restricted,
            NetworkMode::Host => Network::Host,
        },
        unix_sockets: process.unix_sockets,
        read,
        write: program.write.clone(),
        allowed: program.allowed.clone(),
        limits: Limits {
            memory: program.memory_limit.map(plugin::MemoryLimit::bytes),
            file_size: Some(FILE_BYTES),
            processes: Some(program.pids_limit.unwrap_or(PROCESSES)),
            scratch: program.tmp_size,
            ..Limits::FREE
        },
        ..Sandbox::best(least)
    })
}

/// The level that a sandbox gets here, and attacks that get through at it; bare until this device is tested.
#[must_use]
pub(super) fn shown(sandbox: &Sandbox, launcher: &Launcher) -> (plugin::Level, Vec<String>) {
    let offered = launcher.offered().borrow().clone();
    let Some(offered) = offered.filter(|_| sandbox.wanted > Level::Bare) else { return Default::default() };
    let shown = match sandbox.wanted.min(offered.level) {
        Level::Bare => plugin::Level::Bare,
        Level::Guarded => plugin::Level::Guarded,
        Level::Confined => plugin::Level::Confined,
        Level::Isolated => plugin::Level::Isolated,
    };
    (shown, offered.gaps.iter().map(|gap| gap.as_str().to_owned()).collect())
}

fn level(of: plugin::Level) -> Option<Level> {
    match of {
        plugin::Level::Bare => Some(Level::Bare),
        plugin::Level::Guarded => Some(Level::Guarded),
        plugin::Level::Confined => Some(Level::Confined),
        plugin::Level::Isolated => Some(Level::Isolated),
        plugin::Level::Container => None,
    }
}
