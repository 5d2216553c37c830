//! The database of one workspace: rows in, durable; texts out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use memory_core::compaction::Capture;
use memory_core::group::{ChainId, Head, Stamp};
use memory_core::ids::MessageKey;
use memory_core::item::{Body, Item};
use mesh_core::crypto::Verifier;
use mesh_core::ids::{PublicKey, Signature};
use tokio::sync::mpsc;

use super::error::MemoryError;
use super::keys::{self, GroupRow, Meta, Place, TombstoneRow};
use crate::store::{Batch, DurableNote, Engine, Format, OpenReport, Settings, StoreError, Write};

const FORMAT: Format = Format {
    number: 2,
    remedy: "move the directory `memory` out of the home, and import what was exported by the older version",
};
/// Memory for blocks and rows, bytes: several may be open at once.
const CACHE_BYTES: u64 = 1024 * 1024;
const MEMTABLE_BYTES: u64 = 2 * 1024 * 1024;

/// All that is on disk of a workspace, read once when it is opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) meta: Option<Meta>,
    pub(super) heads: BTreeMap<ChainId, Head>,
    pub(super) captures: Vec<Capture>,
    pub(super) tombstones: BTreeMap<MessageKey, TombstoneRow>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    engine: Engine,
    notes: mpsc::Receiver<DurableNote>,
    txn: u64,
    failed: Option<StoreError>,
}

impl Store {
    /// Opens the database below `dir`. Blocks.
    pub(super) fn open(dir: &Path) -> Result<(Self, OpenReport), StoreError> {
        let settings = Settings {
            dir: dir.join("store"),
            high_water: dir.join("high-water"),
            format: FORMAT,
            thread: "memory-store",
            cache_bytes: CACHE_BYTES,
            memtable_bytes: MEMTABLE_BYTES,
        };
        crate::platform::create_private_dir(dir).map_err(|source| StoreError::File {
            doing: "creating",
            path: dir.to_owned(),
            source: std::sync::Arc::new(source),
        })?;
        let (sender, notes) = mpsc::channel(4);
        let (engine, report) = Engine::open(&settings, sender)?;
        Ok((Self { engine, notes, txn: 0, failed: None }, report))
    }

    pub(super) fn is_rolled_back(&self) -> bool {
        self.engine.is_rolled_back()
    }

    /// Reads everything once: items go to `each`.
    pub(super) fn scan(&self, mut each: impl FnMut(Stamp, Body)) -> Result<Found, MemoryError> {
        let mut found = Found::default();
        for row in self.engine.snapshot()? {
            let (key, value) = row?;
            match key.first() {
                Some(&keys::META) => found.meta = Some(keys::decode(&value)?),
                Some(&keys::HEAD) => {
                    let (chain, head) = keys::head_row(&key, &value)?;
                    found.heads.insert(chain, head);
                }
                Some(&keys::TOMBSTONE) => {
                    let message = keys::forgotten(&key).ok_or(MemoryError::Damaged("the key of a tombstone"))?;
                    found.tombstones.insert(message, keys::decode(&value)?);
                }
                Some(&keys::CAPTURE) => found.captures.push(keys::decode(&value)?),
                Some(&keys::ITEM) => {
                    let stamp = keys::stamp(&key).ok_or(MemoryError::Damaged("the key of an item"))?;
                    // What breaks a limit counts for nothing, and stays.
                    if let Ok(body) = keys::decode::<Item>(&value)?.body() {
                        each(stamp, body);
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Writes rows as one, and comes back when they are durable. Blocks.
    pub(super) fn commit(&mut self, writes: Vec<Write>, ends_rollback: bool) -> Result<(), StoreError> {
        self.txn += 1;
        self.engine.commit(self.txn, Batch { writes, sync: true, ends_rollback });
        let error = loop {
            match self.notes.blocking_recv() {
                Some(DurableNote::Durable(txn)) if txn >= self.txn => return Ok(()),
                Some(DurableNote::Durable(_)) => {}
                Some(DurableNote::Failed(error)) => break error,
                None => break StoreError::Closed,
            }
        };
        self.failed = Some(error.clone());
        Err(error)
    }

    /// The write that failed: nothing goes on until a new process has read what is really there.
    pub(super) fn failure(&self) -> Option<&StoreError> {
        self.failed.as_ref()
    }

    /// An item; `None` when it is erased or missing.
    pub(super) fn item(&self, stamp: &Stamp) -> Result<Option<Body>, MemoryError> {
        Ok(self.raw_item(stamp)?.and_then(|item| item.body().ok()))
    }

    /// The same with its salt.
    pub(super) fn raw_item(&self, stamp: &Stamp) -> Result<Option<Item>, MemoryError> {
        self.engine.get(&keys::item(stamp))?.map(|value| keys::decode(&value)).transpose()
    }

    /// A group without its items.
    pub(super) fn group(&self, chain: &ChainId, seq: u64) -> Result<Option<GroupRow>, MemoryError> {
        self.engine.get(&keys::group(chain, seq))?.map(|value| keys::decode(&value)).transpose()
    }

    /// Stamps of the items with text about a message, each with the number of its group.
    pub(super) fn about(&self, message: &MessageKey) -> Result<Vec<(Stamp, u64)>, MemoryError> {
        let start = keys::about_prefix(message);
        let mut end = start.clone();
        end.extend_from_slice(&[0xff; 32]);
        let rows = self.engine.range(Bound::Included(start), Bound::Included(end), false, usize::MAX)?;
        let read = |(key, value): (Vec<u8>, Bytes)| Some((keys::stamp(&key)?, seq_of(&value)?));
        rows.into_iter().map(|row| read(row).ok_or(MemoryError::Damaged("an item about a message"))).collect()
    }

    /// Writes that erase these items: the rows go, and their groups say so.
    pub(super) fn erasing(&self, items: &[(MessageKey, Stamp, u64)]) -> Result<Vec<Write>, MemoryError> {
        let mut writes = Vec::new();
        let mut groups: BTreeMap<(ChainId, u64), GroupRow> = BTreeMap::new();
        for (message, stamp, seq) in items {
            let chain = ChainId { author: stamp.author, incarnation: stamp.incarnation };
            let row = match groups.entry((chain, *seq)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let row = self.group(&chain, *seq)?;
                    new.insert(row.ok_or(MemoryError::Damaged("an item without its group"))?)
                }
            };
            if let Some(place) = row.places.get_mut(usize::from(stamp.index)) {
                *place = Place::Erased;
            }
            writes.push((keys::item(stamp), None));
            writes.push((keys::about(message, stamp), None));
        }
        for ((chain, seq), row) in &groups {
            writes.push((keys::group(chain, *seq), Some(keys::encode(row).into())));
        }
        Ok(writes)
    }
}

/// Value of a row about a message.
pub(super) fn seq_value(seq: u64) -> Bytes {
    Bytes::copy_from_slice(&seq.to_be_bytes())
}

fn seq_of(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// Lets through what was checked when it came in.
pub(super) struct Stored;

impl Verifier for Stored {
    fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        true
    }
}
