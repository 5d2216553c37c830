//! The private directory of a run, and its end: a tool may leave anything in it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Names that are looked at, at most: whoever makes them while they are removed is not waited for.
const STEPS_MAX: usize = 10_000_000;
const OPEN: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

/// A directory that is removed with all that is in it when this is dropped. That blocks, for as long as there is much.
#[derive(Debug)]
pub(super) struct RunDir(PathBuf);

impl RunDir {
    /// Makes one, with a name that nobody guesses.
    ///
    /// # Errors
    /// The disk says no.
    pub(super) fn make(of: &Path, prefix: &str) -> io::Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix(prefix).tempdir_in(of)?.keep()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::debug!(%error, "the private directory of a tool is not wholly gone; the next start tries again");
        }
    }
}

/// Removes a directory with all that is in it, following no link. What lies deep is moved up before it is removed, so that neither
/// the stack nor the number of open files grows with the depth, as they do where each directory is entered.
///
/// # Errors
/// Something cannot be removed: another user's, or a place where something is mounted.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let mut steps = 0;
    let mut moved = 0_u64;
    {
        let mut top = Dir::open(dir, OPEN, Mode::empty())?;
        loop {
            let names = names(&mut top)?;
            if names.is_empty() {
                break;
            }
            for name in names {
                steps += 1;
                if gone(&top, &name)? {
                    continue;
                }
                steps += flatten(&top, &name, &mut moved)?;
                if steps > STEPS_MAX {
                    return Err(io::Error::other("something makes files there all the time"));
                }
            }
        }
    }
    std::fs::remove_dir(dir)
}

/// Moves what is in one directory of `top` up into it, and removes it. Returns how many names it had.
fn flatten(top: &Dir, name: &CStr, moved: &mut u64) -> io::Result<usize> {
    let mut inner = match Dir::openat(top.as_fd(), name, OPEN, Mode::empty()) {
        Err(Errno::EACCES) => {
            open_up(top, name)?;
            Dir::openat(top.as_fd(), name, OPEN, Mode::empty())?
        }
        opened => opened?,
    };
    let names = names(&mut inner)?;
    for child in &names {
        let removed = match gone(&inner, child) {
            Err(error) if error.raw_os_error() == Some(Errno::EACCES as i32) => {
                open_up(top, name)?;
                gone(&inner, child)?
            }
            removed => removed?,
        };
        if removed {
            continue;
        }
        let up = loop {
            *moved += 1;
            let up = CString::new(format!(".removed-{moved}")).unwrap_or_default();
            // A name that the tool has used would be written over, or refuse: the next one is tried.
            let found = fstatat(top.as_fd(), up.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            if found.is_err_and(|errno| errno == Errno::ENOENT) {
                break up;
            }
        };
        match renameat(inner.as_fd(), child.as_c_str(), top.as_fd(), up.as_c_str()) {
            // A directory that changes its parent is written to.
            Err(Errno::EACCES) => {
                open_up(&inner, child)?;
                renameat(inner.as_fd(), child.as_c_str(), top.as_fd(), up.as_c_str())?;
            }
            renamed => renamed?,
        }
    }
    unlinkat(top.as_fd(), name, UnlinkatFlags::RemoveDir)?;
    Ok(names.len())
}

/// Removes a file or an empty directory; false: it is a directory with something in it.
fn gone(of: &Dir, name: &CStr) -> io::Result<bool> {
    match unlinkat(of.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match unlinkat(of.as_fd(), name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives ourselves the rights that the tool took away. Root has them all the same, so that no link leads it to another's file.
fn open_up(of: &Dir, name: &CStr) -> io::Result<()> {
    Ok(fchmodat(of.as_fd(), name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?)
}

fn names(of: &mut Dir) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in of.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn whatever_lies_there_is_gone_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let kept = home.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "x").unwrap();
        let run = RunDir::make(home.path(), "run-").unwrap();
        let at = |name: &str| run.path().join(name);
        for dir in ["a/b/c", ".removed-1/x/y", "closed/in/it", "empty"] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        for file in ["a/b/c/file", "a/file", ".removed-2"] {
            std::fs::write(at(file), "x").unwrap();
        }
        symlink(&kept, at("a/link")).unwrap();
        symlink("/nowhere", at("a/b/dangling")).unwrap();
        for closed in ["closed/in/it", "closed/in", "closed"] {
            std::fs::set_permissions(at(closed), std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        let path = run.path().to_owned();
        drop(run);
        assert!(!path.exists() && kept.join("file").exists());
    }

    #[test]
    fn no_depth_is_too_deep() {
        let home = tempfile::tempdir().unwrap();
        let run = RunDir::make(home.path(), "run-").unwrap();
        let path = run.path().to_owned();
        let mut at = Dir::open(&path, OPEN, Mode::empty()).unwrap();
        for _ in 0..30_000 {
            nix::sys::stat::mkdirat(at.as_fd(), c"d", Mode::S_IRWXU).unwrap();
            at = Dir::openat(at.as_fd(), c"d", OPEN, Mode::empty()).unwrap();
        }
        drop(at);
        drop(run);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_directory_of_ours_is_not_entered() {
        let home = tempfile::tempdir().unwrap();
        let kept = home.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        let link = home.path().join("link");
        symlink(&kept, &link).unwrap();
        assert!(remove(&link).is_err() && kept.exists());
    }
}
