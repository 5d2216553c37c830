//! The private directory of a run, and its end: a tool may leave anything in it.

use std::io;
use std::path::{Path, PathBuf};

use sigil_shim::remove;

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
        if let Err(error) = remove::tree(&self.0) {
            tracing::debug!(%error, "the private directory of a tool is not wholly gone; the next start tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use nix::dir::Dir;
    use nix::fcntl::OFlag;
    use nix::sys::stat::Mode;

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
        let mut at = Dir::open(&path, OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..30_000 {
            nix::sys::stat::mkdirat(at.as_fd(), c"d", Mode::S_IRWXU).unwrap();
            at = Dir::openat(at.as_fd(), c"d", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
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
        assert!(remove::tree(&link).is_err() && kept.exists());
    }
}
