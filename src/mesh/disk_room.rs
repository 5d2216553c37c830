//! Room on the disk that the home is on: below a floor this device takes no new work.

use std::path::PathBuf;

use mesh_core::io::DiskSpace;

use crate::platform;

/// The floor where nobody set one: the larger of these, but at most [`FLOOR_PART_MAX`] of the file system.
const FLOOR_BYTES: u64 = 500_000_000;
const FLOOR_PART: u64 = 20;
const FLOOR_PART_MAX: u64 = 10;
/// Between two looks, in milliseconds, however often somebody asks.
const LOOK_EVERY_MS: u64 = 2_000;

/// Watches the disk.
#[derive(Debug)]
pub struct DiskRoom {
    dir: PathBuf,
    /// Bytes below which no new work is taken; `None`: by the size of the file system.
    floor: Option<u64>,
    low: bool,
    looked_ms: Option<u64>,
}

impl DiskRoom {
    /// Watches the disk that `dir` is on. `floor`: bytes that must be free; `None`: the larger of 500 MB and 5 % of the
    /// file system, at most a tenth of it.
    #[must_use]
    pub fn new(dir: PathBuf, floor: Option<u64>) -> Self {
        Self { dir, floor, low: false, looked_ms: None }
    }

    /// Looks again, at most every two seconds. Returns what it found if the floor was crossed since the last time.
    pub(super) fn look(&mut self, now_ms: u64) -> Option<DiskSpace> {
        if self.looked_ms.is_some_and(|at| now_ms < at + LOOK_EVERY_MS) {
            return None;
        }
        self.looked_ms = Some(now_ms);
        // A file system that does not say how full it is takes work.
        let (free, whole) = platform::disk_space(&self.dir).ok()?;
        self.judge(free, whole)
    }

    fn judge(&mut self, free: u64, whole: u64) -> Option<DiskSpace> {
        let floor = self.floor.unwrap_or_else(|| FLOOR_BYTES.max(whole / FLOOR_PART).min(whole / FLOOR_PART_MAX));
        // Room comes and goes around the floor: it is left with an eighth more.
        let low = if self.low { free < floor.saturating_add(floor / 8) } else { free < floor };
        if low == self.low {
            return None;
        }
        self.low = low;
        Some(DiskSpace { free: if low { free.min(floor.saturating_sub(1)) } else { free.max(floor) }, floor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s14_the_floor_follows_the_size_of_the_disk_and_is_told_when_it_is_crossed() {
        const GB: u64 = 1_000_000_000;
        let mut small = DiskRoom::new(PathBuf::new(), None);
        assert_eq!(small.judge(300_000_000, 2 * GB), None, "a tenth of a small disk is enough");
        assert_eq!(small.judge(100_000_000, 2 * GB).map(|space| space.floor), Some(200_000_000));
        assert_eq!(small.judge(210_000_000, 2 * GB), None, "not back at once");
        assert!(small.judge(230_000_000, 2 * GB).is_some_and(|space| space.free >= space.floor));
        let mut large = DiskRoom::new(PathBuf::new(), None);
        assert_eq!(large.judge(40 * GB, 1_000 * GB).map(|space| space.floor), Some(50 * GB));
        let mut set = DiskRoom::new(PathBuf::new(), Some(0));
        assert_eq!(set.judge(0, GB), None);
    }
}
