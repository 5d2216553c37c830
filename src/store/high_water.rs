//! A small file beside the store that says how far the store had come. When the store knows less than this file, it was
//! rolled back: restored from an older copy, or robbed of its newest rows by damage.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::error::StoreError;

const MAGIC: [u8; 8] = *b"sigilhw1";
/// Magic, number, checksum of both.
const SLOT_BYTES: usize = 24;
/// The two slots are written in turn and lie in different sectors, so that a torn write leaves the other one.
const SLOTS_AT: [u64; 2] = [0, 4096];

/// The high-water mark, and the file that holds it.
#[derive(Debug)]
pub(super) struct HighWater {
    file: File,
    path: PathBuf,
    value: u64,
    next_slot: usize,
    unsynced: bool,
}

impl HighWater {
    /// Reads it; 0 when there is none.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(StoreError::file("opening the high-water mark", path))?;
        let slots = SLOTS_AT.map(|at| read_slot(&file, at));
        let value = slots.into_iter().flatten().max().unwrap_or(0);
        let next_slot = usize::from(slots[0] == Some(value));
        Ok(Self { file, path: path.to_owned(), value, next_slot, unsynced: false })
    }

    pub(super) fn value(&self) -> u64 {
        self.value
    }

    /// True if [`sync`](Self::sync) has something to do.
    pub(super) fn unsynced(&self) -> bool {
        self.unsynced
    }

    /// Raises it. It survives the end of the process at once, and the end of power after [`sync`](Self::sync).
    pub(super) fn raise(&mut self, value: u64) -> Result<(), StoreError> {
        let at = SLOTS_AT.get(self.next_slot).copied().unwrap_or_default();
        let written = self.file.write_all_at(&encode(value), at);
        written.map_err(StoreError::file("writing the high-water mark", &self.path))?;
        self.next_slot = 1 - self.next_slot;
        self.value = value;
        self.unsynced = true;
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.unsynced) {
            self.file.sync_data().map_err(StoreError::file("syncing the high-water mark", &self.path))?;
        }
        Ok(())
    }
}

fn encode(value: u64) -> Vec<u8> {
    let head = [MAGIC, value.to_be_bytes()].concat();
    let sum = xxh3_64(&head).to_be_bytes();
    [head.as_slice(), &sum].concat()
}

fn read_slot(file: &File, at: u64) -> Option<u64> {
    let mut slot = [0; SLOT_BYTES];
    file.read_exact_at(&mut slot, at).ok()?;
    let value = u64::from_be_bytes(slot.get(8..16)?.try_into().ok()?);
    (slot.as_slice() == encode(value)).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_and_a_torn_slot_gives_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("high-water");
        let mut high_water = HighWater::open(&path).unwrap();
        assert_eq!(high_water.value(), 0);
        for value in 1..=7 {
            high_water.raise(value).unwrap();
            high_water.sync().unwrap();
            assert!(!high_water.unsynced());
            assert_eq!(HighWater::open(&path).unwrap().value(), value);
            if value % 2 == 0 {
                high_water = HighWater::open(&path).unwrap();
            }
        }
        for at in SLOTS_AT {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            let kept = std::fs::read(&path).unwrap();
            file.write_all_at(&[0xff; 4], at + 10).unwrap();
            assert!([6, 7].contains(&HighWater::open(&path).unwrap().value()));
            std::fs::write(&path, kept).unwrap();
        }
        // After a torn slot, the good one is not the next to be written.
        let mut torn = HighWater::open(&path).unwrap();
        torn.raise(8).unwrap();
        assert!(read_slot(&torn.file, 0) == Some(7) || read_slot(&torn.file, 4096) == Some(7));
    }
}
