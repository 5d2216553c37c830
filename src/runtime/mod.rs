//! One run of a tool: its process, its sandbox, its limits, its output. Nothing here knows the mesh.

use std::io;
use std::path::Path;

use nix::unistd::{Gid, Uid, chown, geteuid};

use sandbox::{Level, User};

pub mod container;
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

/// Gives a directory to whom a tool runs as at a level.
fn give_to(dir: &Path, level: Level, user: User) -> io::Result<()> {
    if level == Level::Bare || !geteuid().is_root() {
        return Ok(());
    }
    chown(dir, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
    Ok(())
}
