//! The lock of a store: one process at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::error::StoreError;

/// Looks at a lock file until its holder's number is in it: 200 ms, and writing it takes microseconds.
const LOOKS: u32 = 40;
const LOOK_EVERY: Duration = Duration::from_millis(5);

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
                return Err(StoreError::Locked { dir: dir.to_owned(), pid: holder(&file) });
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
        // So that nobody reads it once another holds the lock.
        let _ = self.0.set_len(0);
        let _ = self.0.unlock();
    }
}

/// The process that holds the lock; 0 if it does not say so in time. It may have taken it just now: what is there until it
/// has written its number is of a process that is gone.
fn holder(file: &File) -> u32 {
    for _ in 0..LOOKS {
        let mut text = [0; 20];
        let read = file.read_at(&mut text, 0).unwrap_or(0);
        let text = text.get(..read).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
        if let Some(pid) = text.strip_suffix('\n').and_then(|text| text.parse::<u32>().ok())
            && let Ok(raw) = i32::try_from(pid)
            && kill(Pid::from_raw(raw), None) != Err(Errno::ESRCH)
        {
            return pid;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    0
}
