//! Removes what a tool has left, which may be anything.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Names that are looked at, at most: whoever makes them while they are removed is not waited for.
const STEPS_MAX: usize = 10_000_000;
const OPEN: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

/// Removes a directory with all that is in it, following no link. What lies deep is moved up before it is removed, so that neither
/// the stack nor the number of open files grows with the depth, as they do where each directory is entered.
///
/// # Errors
/// Something cannot be removed: another user's, or a place where something is mounted.
pub fn tree(dir: &Path) -> io::Result<()> {
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
