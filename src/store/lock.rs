//! The lock of a store: one process at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::error::StoreError;

/// Held while the store is open. Given back in so many words: closing the file is not enough while a process that was
/// just forked, and has not begun its own program yet, still has it open.
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of the store in `dir`, and leaves our process id in it.
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("lock");
        let failed = || StoreError::file("locking", &path);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = file.map_err(failed())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::Error(error)) => return Err(failed()(error)),
            Err(fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = file.take(20).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0);
                return Err(StoreError::Locked { dir: dir.to_owned(), pid });
            }
        }
        let pid = std::process::id();
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{pid}"));
        written.map_err(failed())?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}
