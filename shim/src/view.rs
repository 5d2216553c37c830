//! What a tool sees of the file system at the level `isolated`: all of it, with empty directories where people and services
//! keep theirs, and in these again what it may read and write.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount};
use rustix::process::umask;

use crate::process::Why;
use crate::wire::{Go, User};

/// Places in which everybody may write: private to the tool.
const SCRATCH: &[&str] = &["/tmp", "/var/tmp", "/dev/shm"];
/// Places of people, and those in which services have their sockets. All else is closed by the rules for files alone: each place
/// costs a start a twentieth of a millisecond.
const HIDDEN: &[&str] = &["/home", "/root", "/run", "/var/lib"];
/// Bytes and files of a directory that is empty for the tool: only what stays visible below it is made there.
const HIDDEN_ROOM: &str = "size=1m,nr_inodes=4k,mode=0755";
/// Files in what is private to the tool.
const SCRATCH_FILES: &str = "nr_inodes=64k";

/// One change of the view, at a place.
enum Change {
    /// An empty directory, for everybody to write to or not.
    Empty { scratch: bool },
    /// What was there before, to be read alone or not.
    Kept { what: OwnedFd, read_only: bool },
    /// An empty directory for the tool alone.
    Own,
}

/// Makes the view, in a mount name space that is ours, and enters the directory of the tool. `owner`: whom the tool runs as.
pub(crate) fn make(go: &Go, owner: User) -> Result<(), Why> {
    let before = umask(Mode::WGRP | Mode::WOTH);
    let made = changed(go, owner);
    umask(before);
    made
}

fn changed(go: &Go, owner: User) -> Result<(), Why> {
    let failed = |what: &Path| {
        let what = what.display().to_string();
        move |error: io::Error| format!("its view of {what}: {error}")
    };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| failed(Path::new("/"))(errno.into()))?;
    let scratch = SCRATCH.iter().map(|path| (PathBuf::from(path), true));
    let hidden = HIDDEN.iter().map(PathBuf::from).chain(go.hide.iter().cloned()).map(|path| (path, false));
    // A link such as `/var/run` is as hidden as what it leads to.
    let real = |(path, scratch): (PathBuf, bool)| {
        let path = fs::canonicalize(path).ok().filter(|path| path.is_dir() && path.parent().is_some())?;
        Some((path, scratch))
    };
    let mut empty: Vec<(PathBuf, bool)> = scratch.chain(hidden).filter_map(real).collect();
    empty.sort();
    empty.dedup_by(|one, other| one.0 == other.0);

    let own = fs::canonicalize(&go.dir).map_err(failed(&go.dir))?;
    let mut changes = Vec::new();
    let read = go.read.iter().map(PathBuf::as_path).chain([Path::new(&go.command)]).map(|path| (path, true));
    for (path, read_only) in read.chain(go.write.iter().map(|path| (path.as_path(), false))) {
        // By the name that it was given, which may be a link, and by that of what it leads to.
        for place in places(path) {
            if place.starts_with(&own) || empty.iter().any(|(hidden, _)| place.starts_with(hidden)) {
                let kept = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|errno| failed(path)(errno.into()))?;
                changes.push((place, Change::Kept { what: kept, read_only }));
            }
        }
    }
    changes.extend(empty.into_iter().map(|(path, scratch)| (path, Change::Empty { scratch })));
    changes.push((own.clone(), Change::Own));
    // From the root down: what is below something else changes after it. At one place that stays visible after it is hidden.
    changes.sort_by_key(|(path, change)| (path.components().count(), matches!(change, Change::Kept { .. })));

    let size = go.limits.scratch;
    for (path, change) in changes {
        let done = match change {
            // Gone already, with what it is in.
            Change::Empty { .. } if !path.is_dir() => Ok(()),
            Change::Empty { scratch: false } => tmpfs(&path, HIDDEN_ROOM),
            Change::Empty { scratch: true } => tmpfs(&path, &format!("size={size},{SCRATCH_FILES},mode=1777")),
            Change::Kept { what, read_only: false } => bind(&what, &path),
            Change::Kept { what, read_only: true } => bind(&what, &path).and_then(|()| protect(&path)),
            Change::Own => DirBuilder::new().recursive(true).mode(0o755).create(&path).and_then(|()| {
                let User { uid, gid } = owner;
                tmpfs(&path, &format!("size={size},{SCRATCH_FILES},mode=0700,uid={uid},gid={gid}"))
            }),
        };
        done.map_err(failed(&path))?;
    }
    std::env::set_current_dir(&own).map_err(failed(&own))
}

/// Where something is to be found; nowhere if it is not there.
fn places(path: &Path) -> Vec<PathBuf> {
    let Ok(real) = fs::canonicalize(path) else { return Vec::new() };
    let named = path.parent().and_then(|parent| Some(fs::canonicalize(parent).ok()?.join(path.file_name()?)));
    let mut places = vec![real];
    places.extend(named.filter(|named| !places.contains(named)));
    places
}

fn tmpfs(path: &Path, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    mount("sigil", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
    Ok(())
}

/// Puts back what `kept` is, at a place that may be empty now.
fn bind(kept: &OwnedFd, path: &Path) -> io::Result<()> {
    let source = format!("/proc/self/fd/{}", kept.as_raw_fd());
    if fs::symlink_metadata(path).is_err() {
        if fs::metadata(&source)?.is_dir() {
            DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        } else {
            let parent = path.parent().unwrap_or(Path::new("/"));
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            File::create(path)?;
        }
    }
    mount_bind_recursive(OsStr::new(&source), path)?;
    Ok(())
}

/// Makes what was put back read-only. Rules for files allow below a directory what they allow in it, so that they do not protect
/// what is read in a place where everything may be written.
fn protect(path: &Path) -> io::Result<()> {
    // The kernel lets nobody drop these here, so they are told again.
    let had = rustix::fs::statvfs(path)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (had_it, flag) in [
        (had.contains(StatVfsMountFlags::NOSUID), MountFlags::NOSUID),
        (had.contains(StatVfsMountFlags::NODEV), MountFlags::NODEV),
        (had.contains(StatVfsMountFlags::NOEXEC), MountFlags::NOEXEC),
        (had.contains(StatVfsMountFlags::NOATIME), MountFlags::NOATIME),
        (had.contains(StatVfsMountFlags::NODIRATIME), MountFlags::NODIRATIME),
        (had.contains(StatVfsMountFlags::RELATIME), MountFlags::RELATIME),
    ] {
        flags.set(flag, had_it);
    }
    mount_remount(path, flags, c"")?;
    // What is mounted below it keeps its own flags, and would stay open in a place of the tool's own.
    let own = SCRATCH.iter().any(|place| path.starts_with(place));
    let below = format!("{}/", path.display()).replace('\\', "\\134").replace(' ', "\\040");
    if own && fs::read_to_string("/proc/self/mountinfo")?.lines().any(|line| mounted_at(line).starts_with(&below)) {
        return Err(io::Error::other("other file systems are mounted in it"));
    }
    Ok(())
}

/// The place that a line of `mountinfo` is about, with its spaces as they are written there.
fn mounted_at(line: &str) -> &str {
    line.split(' ').nth(4).unwrap_or_default()
}
