//! Room on the disk that the home is on: below a floor this device takes no new work.

use std::io;
use std::path::{Path, PathBuf};

use mesh_core::io::DiskSpace;

use crate::platform;

/// The floor where nobody set one: the larger of these, but at most [`FLOOR_PART_MAX`] of the file system.
const FLOOR_BYTES: u64 = 500_000_000;
const FLOOR_PART: u64 = 20;
const FLOOR_PART_MAX: u64 = 10;
/// Between two looks, in milliseconds, however often somebody asks; unless so many bytes were written meanwhile.
const LOOK_EVERY_MS: u64 = 2_000;
const LOOK_AFTER_BYTES: u64 = 1 << 20;

/// Thresholds of free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// None.
    Critical,
    /// Half of the floor.
    Low,
    /// The floor.
    Enough,
}

/// A look at the disk that a directory is on.
#[derive(Debug, Clone)]
pub(super) struct DiskGauge {
    dir: PathBuf,
    /// Bytes below which no new work is taken; `None`: by the size of the file system.
    floor: Option<u64>,
}

impl DiskGauge {
    /// Asks the file system, which takes microseconds. `None`: it does not say how full it is.
    pub(super) fn look(&self) -> Option<DiskSpace> {
        disk_space(&self.dir, self.floor).ok()
    }
}

/// Asks the file system of `dir` for its free bytes, and gives those below which no new work is taken: `floor`, or by
/// the size of the file system.
///
/// # Errors
/// The file system does not say how full it is.
pub fn disk_space(dir: &Path, floor: Option<u64>) -> io::Result<DiskSpace> {
    let (free, whole) = platform::disk_space(dir)?;
    Ok(DiskSpace { free, floor: floor_of(floor, whole) })
}

fn floor_of(floor: Option<u64>, whole: u64) -> u64 {
    floor.unwrap_or_else(|| FLOOR_BYTES.max(whole / FLOOR_PART).min(whole / FLOOR_PART_MAX))
}

/// Watches the disk.
#[derive(Debug)]
pub struct DiskRoom {
    gauge: DiskGauge,
    level: Level,
    looked_ms: Option<u64>,
    /// Bytes written since then.
    written: u64,
}

impl DiskRoom {
    /// Watches the disk that `dir` is on. `floor`: bytes that must be free; `None`: the larger of 500 MB and 5 % of the
    /// file system, at most a tenth of it.
    #[must_use]
    pub fn new(dir: PathBuf, floor: Option<u64>) -> Self {
        Self { gauge: DiskGauge { dir, floor }, level: Level::Enough, looked_ms: None, written: 0 }
    }

    /// A look at the same disk for others that write to it.
    pub(super) fn gauge(&self) -> DiskGauge {
        self.gauge.clone()
    }

    /// Notes that so many bytes are about to be written. True if it is time to look, whenever the last time was.
    pub(super) const fn note_written(&mut self, bytes: u64) -> bool {
        self.written = self.written.saturating_add(bytes);
        self.written >= LOOK_AFTER_BYTES
    }

    /// Looks again, at most every two seconds or once in a mebibyte that was written. Returns what it found if the floor,
    /// or half of it, was crossed since the last time.
    pub(super) fn look(&mut self, now_ms: u64) -> Option<DiskSpace> {
        let early = self.written < LOOK_AFTER_BYTES;
        if early && self.looked_ms.is_some_and(|at| now_ms < at + LOOK_EVERY_MS) {
            return None;
        }
        (self.looked_ms, self.written) = (Some(now_ms), 0);
        // A file system that does not say how full it is takes work.
        let space = self.gauge.look()?;
        self.judge(space)
    }

    fn judge(&mut self, DiskSpace { free, floor }: DiskSpace) -> Option<DiskSpace> {
        let half = floor / 2;
        // Room comes and goes around a mark: it is left with an eighth of the floor more.
        let is_above = |mark: u64, was: bool| free >= if was { mark } else { mark.saturating_add(floor / 8) };
        let level = match (is_above(floor, self.level == Level::Enough), is_above(half, self.level >= Level::Low)) {
            (true, _) => Level::Enough,
            (false, true) => Level::Low,
            (false, false) => Level::Critical,
        };
        if level == self.level {
            return None;
        }
        self.level = level;
        let free = match level {
            Level::Enough => free.max(floor),
            Level::Low => free.clamp(half, floor.saturating_sub(1).max(half)),
            Level::Critical => free.min(half.saturating_sub(1)),
        };
        Some(DiskSpace { free, floor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(room: &mut DiskRoom, free: u64, whole: u64) -> Option<DiskSpace> {
        room.judge(DiskSpace { free, floor: floor_of(room.gauge.floor, whole) })
    }

    #[test]
    fn s14_the_floor_follows_the_size_of_the_disk_and_is_told_when_it_is_crossed() {
        const GB: u64 = 1_000_000_000;
        let mut small = DiskRoom::new(PathBuf::new(), None);
        assert_eq!(judge(&mut small, 300_000_000, 2 * GB), None, "a tenth of a small disk is enough");
        assert_eq!(judge(&mut small, 100_000_000, 2 * GB).map(|space| space.floor), Some(200_000_000));
        assert_eq!(judge(&mut small, 210_000_000, 2 * GB), None, "not back at once");
        assert!(judge(&mut small, 230_000_000, 2 * GB).is_some_and(|space| space.free >= space.floor));
        assert!(
            judge(&mut small, 90_000_000, 2 * GB).is_some_and(|space| space.free < space.floor / 2),
            "half of it as well"
        );
        assert_eq!(judge(&mut small, 110_000_000, 2 * GB), None);
        let low = |space: DiskSpace| space.free < space.floor && space.free >= space.floor / 2;
        assert!(judge(&mut small, 130_000_000, 2 * GB).is_some_and(low));
        let mut large = DiskRoom::new(PathBuf::new(), None);
        assert_eq!(judge(&mut large, 40 * GB, 1_000 * GB).map(|space| space.floor), Some(50 * GB));
        let mut set = DiskRoom::new(PathBuf::new(), Some(0));
        assert_eq!(judge(&mut set, 0, GB), None);
    }
}
