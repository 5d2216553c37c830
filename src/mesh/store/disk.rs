//! The core's rows on disk.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use mesh_core::io::{self, Image, Space, TxnId};
use tokio::sync::mpsc;

use super::contract::{Snapshot, Store};
use super::keys::{own_key, stored_bounds, stored_key};
use crate::store::{Batch, DurableNote, Engine, Format, OpenReport, Row, Settings, StoreError};

/// Number of the layout of rows and keys, and of what is signed in them.
pub const FORMAT_NUMBER: u32 = 3;
const FORMAT: Format = Format {
    number: FORMAT_NUMBER,
    remedy: "nothing of it can be kept: move this home directory away, or pass --home with a new one, and join the mesh again",
};
/// Blocks kept in memory. Sized for a process of 30 MB at rest.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// Rows are moved from memory to a table at this size.
const MEMTABLE_BYTES: u64 = 2 * 1024 * 1024;

/// The store on disk. Dropping it closes it.
#[derive(Debug)]
pub struct FjallStore {
    engine: Engine,
}

impl FjallStore {
    /// Opens the store in `dir`, with its high-water mark beside `dir`; see [`Engine::open`]. Blocks.
    pub fn open(dir: &Path, durable: mpsc::Sender<DurableNote>) -> Result<(Self, OpenReport), StoreError> {
        let settings = Settings {
            dir: dir.to_owned(),
            high_water: dir.with_file_name("high-water"),
            format: FORMAT,
            thread: "store",
            cache_bytes: CACHE_BYTES,
            memtable_bytes: MEMTABLE_BYTES,
        };
        let (engine, report) = Engine::open(&settings, durable)?;
        Ok((Self { engine }, report))
    }

    /// Writes rows of a [snapshot](Store::snapshot) into a store that is being restored; they are durable on return.
    /// Blocks.
    pub fn put_back(&self, rows: Vec<Row>) -> Result<(), StoreError> {
        let writes = rows.into_iter().map(|(key, value)| (key, Some(value))).collect();
        self.engine.replace(Vec::new(), Batch { writes, sync: true, ends_rollback: false })
    }

    /// Notes, durably, that this store is older than what its device has promised since: it goes on under a new
    /// incarnation. To be called when all rows are back. Blocks.
    pub fn end_restore(&self) -> Result<(), StoreError> {
        self.engine.set_rolled_back()
    }
}

/// The engine's batch. The core writes to its own rows once it has begun a new incarnation: that ends a rollback.
fn stored(batch: io::Batch) -> Batch {
    let io::Batch { writes, sync } = batch;
    let ends_rollback = writes.iter().any(|write| write.space == Space::Meta);
    let writes = writes.into_iter().map(|write| (stored_key(write.space, &write.key), write.value));
    Batch { writes: writes.collect(), sync, ends_rollback }
}

impl Store for FjallStore {
    fn image(&self) -> Result<Image, StoreError> {
        let mut rows = Vec::new();
        for space in Space::ALL.into_iter().filter(|space| space.in_image()) {
            let all = self.range(space, Bound::Unbounded, Bound::Unbounded, false, usize::MAX)?;
            rows.extend(all.into_iter().map(|(key, value)| (space, key, value)));
        }
        Ok(Image { rows, rolled_back: self.engine.is_rolled_back() })
    }

    fn is_behind(&self) -> bool {
        self.engine.is_behind()
    }

    fn commit(&self, txn: TxnId, batch: io::Batch) {
        self.engine.commit(txn, stored(batch));
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.engine.get(&stored_key(space, key))
    }

    fn range(
        &self,
        space: Space,
        start: Bound<Vec<u8>>,
        end: Bound<Vec<u8>>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let (start, end) = stored_bounds(space, start, end);
        let rows = self.engine.range(start, end, reverse, limit)?;
        Ok(rows.into_iter().map(|(key, value)| (own_key(&key), value)).collect())
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Ok(Box::new(self.engine.snapshot()?))
    }

    fn wipe_and_commit(&self, batch: io::Batch) -> Result<(), StoreError> {
        let spaces = Space::ALL.into_iter().filter(|space| space.of_mesh());
        self.engine.replace(spaces.map(|space| stored_key(space, &[])).collect(), stored(batch))
    }

    fn close(&self) {
        self.engine.close();
    }
}
