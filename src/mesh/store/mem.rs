//! The store without a disk.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mesh_core::io::{Batch, Image, Space, TxnId, Write};
use tokio::sync::mpsc;

use super::contract::{Snapshot, Store};
use super::keys::stored_key;
use crate::store::{DurableNote, KEY_BYTES_MAX, Row, StoreError, is_empty_range};

/// Rows in memory, for tests: every batch is "durable" at once, and reported so while the channel has room (the next
/// note says it anyway).
#[derive(Debug)]
pub struct MemStore {
    rows: Mutex<BTreeMap<Space, BTreeMap<Vec<u8>, Bytes>>>,
    durable: mpsc::Sender<DurableNote>,
}

impl MemStore {
    /// An empty store. `durable` needs room for the notes that a test does not take at once.
    #[must_use]
    pub fn new(durable: mpsc::Sender<DurableNote>) -> Self {
        Self { rows: Mutex::default(), durable }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<Space, BTreeMap<Vec<u8>, Bytes>>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(rows: &mut BTreeMap<Space, BTreeMap<Vec<u8>, Bytes>>, batch: Batch) -> Result<(), StoreError> {
    if let Some(bad) = batch.writes.iter().find(|write| write.key.len() >= KEY_BYTES_MAX) {
        return Err(StoreError::BadKey { len: bad.key.len() });
    }
    for Write { space, key, value } in batch.writes {
        let table = rows.entry(space).or_default();
        match value {
            Some(value) => table.insert(key, value),
            None => table.remove(&key),
        };
    }
    Ok(())
}

impl Store for MemStore {
    fn image(&self) -> Result<Image, StoreError> {
        let rows = self.rows();
        let rows = rows
            .iter()
            .filter(|(space, _)| space.in_image())
            .flat_map(|(&space, table)| table.iter().map(move |(key, value)| (space, key.clone(), value.clone())));
        Ok(Image { rows: rows.collect(), rolled_back: false })
    }

    fn is_behind(&self) -> bool {
        false
    }

    fn commit(&self, txn: TxnId, batch: Batch) {
        let note = match apply(&mut self.rows(), batch) {
            Ok(()) => DurableNote::Durable(txn),
            Err(error) => DurableNote::Failed(error),
        };
        let _ = self.durable.try_send(note);
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows().get(&space).and_then(|table| table.get(key)).cloned())
    }

    fn range(
        &self,
        space: Space,
        start: Bound<Vec<u8>>,
        end: Bound<Vec<u8>>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.rows();
        let Some(table) = rows.get(&space).filter(|_| !is_empty_range(&start, &end)) else { return Ok(Vec::new()) };
        let found = table
            .range::<[u8], _>((start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice)))
            .map(|(key, value)| (key.clone(), value.clone()));
        Ok(if reverse { found.rev().take(limit).collect() } else { found.take(limit).collect() })
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let rows = self.rows();
        let rows = rows.iter().flat_map(|(&space, table)| {
            table.iter().map(move |(key, value)| Ok((stored_key(space, key), value.clone())))
        });
        Ok(Box::new(rows.collect::<Vec<_>>().into_iter()))
    }

    fn wipe_and_commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut rows = self.rows();
        rows.retain(|space, _| !space.of_mesh());
        apply(&mut rows, batch)
    }

    fn close(&self) {}
}
