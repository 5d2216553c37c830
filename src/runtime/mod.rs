//! One run of a tool: its process, its sandbox, its limits, its output. Nothing here knows the mesh.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, chown, geteuid};

use sandbox::{Level, User};

pub mod container;
pub mod egress;
pub mod helper;
pub mod outcome;
pub mod process;
pub mod sandbox;
pub mod server;
pub mod spool;

mod out_dir;
pub(crate) mod progress;
mod run_dir;
mod self_test;
mod streams;

/// Where a path leads, with all links followed. One that leads elsewhere than when it was allowed is another place, whatever its
/// name is: whoever may write a directory above it can do that. The error is for people.
fn led_to(path: &Path, allowed: &BTreeMap<PathBuf, PathBuf>) -> Result<PathBuf, String> {
    let refused = |why: String| format!("it may not have `{}`: {why}", path.display());
    let real = std::fs::canonicalize(path).map_err(|error| refused(error.to_string()))?;
    match allowed.get(path) {
        Some(then) if *then != real => Err(refused(format!(
            "it leads to `{}` now, and led to `{}` when that was allowed; if that is right, `sigil plugin allow` it again",
            real.display(),
            then.display()
        ))),
        Some(_) | None => Ok(real),
    }
}

/// Gives a directory to whom a tool runs as at a level.
fn give_to(dir: &Path, level: Level, user: User) -> io::Result<()> {
    if level == Level::Bare || !geteuid().is_root() {
        return Ok(());
    }
    chown(dir, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
    Ok(())
}
