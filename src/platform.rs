//! Parts that differ between operating systems. Everything here is for Unix; Windows would get its own.

use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use nix::time::{ClockId, clock_gettime};

/// A monotonic clock that counts while the machine sleeps.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOTTIME: ClockId = ClockId::CLOCK_BOOTTIME;
/// On macOS and the BSDs the monotonic clock is the one that counts through sleep, or the best there is.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const BOOTTIME: ClockId = ClockId::CLOCK_MONOTONIC;

/// Milliseconds since the machine started, sleep included.
#[must_use]
pub fn boottime_ms() -> u64 {
    // The call fails for a clock that the system lacks, and this one it has.
    clock_gettime(BOOTTIME)
        .map_or(0, |time| time.tv_sec().unsigned_abs() * 1000 + time.tv_nsec().unsigned_abs() / 1_000_000)
}

/// The permission bits of a file, if anyone but its owner may read or write it.
#[must_use]
pub fn open_to_others(metadata: &Metadata) -> Option<u32> {
    let mode = metadata.mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

/// Creates a directory, and its parents, that only its owner may enter. One that exists stays as it is.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the names in a directory durable: without it, a file that was just created or renamed may vanish in a crash.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Returns the bytes that are free for this program on the file system of `path`, and all that it has.
pub fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let unit = stat.fragment_size();
    Ok((stat.blocks_available().saturating_mul(unit), stat.blocks().saturating_mul(unit)))
}

/// This platform's name in the contract: "linux", "darwin", …
#[must_use]
pub fn name() -> &'static str {
    #[cfg(feature = "fault-points")]
    if std::env::var("SIGIL_TEST_PLATFORM").is_ok_and(|name| name == "darwin") {
        return "darwin";
    }
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}
