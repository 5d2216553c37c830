//! The database of one workspace: rows in, durable; texts out.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use bytes::Bytes;
use memory_core::compaction::Capture;
use memory_core::group::{ChainId, Head, Stamp};
use memory_core::holes::Holes;
use memory_core::ids::{BatchId, MessageKey};
use memory_core::index::columns::Source;
use memory_core::item::{Body, Item};
use memory_core::writing::Tried;
use mesh_core::crypto::Verifier;
use mesh_core::ids::{PublicKey, Signature};
use tokio::sync::mpsc;

use super::authors::Filled;
use super::error::MemoryError;
use super::keys::{self, GroupRow, Meta, Place, Searched, TombstoneRow, VectorRow};
use crate::store::{Batch, DurableNote, Engine, Format, OpenReport, Row, Settings, StoreError, Write};

const FORMAT: Format = Format {
    number: 2,
    remedy: "move the directory `memory` out of the home, and import what was exported by the older version",
};
/// The database in its directory, its high-water mark, and both while they are written anew.
const STORE: &str = "store";
const HIGH_WATER: &str = "high-water";
const NEW: &str = "store.new";
const NEW_HIGH_WATER: &str = "high-water.new";
/// The database that was, until it is removed.
const OLD: &str = "store.old";
/// Keys of all that was forgotten, 16 bytes each. Outside of the database, so that an older copy of that forgets it again.
const FORGOTTEN: &str = "forgotten";
/// Bytes of one batch while all is written anew.
const REWRITE_BYTES: usize = 1024 * 1024;
/// Memory for blocks and rows, bytes: several may be open at once.
const CACHE_BYTES: u64 = 1024 * 1024;
const MEMTABLE_BYTES: u64 = 2 * 1024 * 1024;

/// All that is on disk of a workspace, read once when it is opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) meta: Option<Meta>,
    pub(super) heads: BTreeMap<ChainId, Head>,
    /// Bytes of the groups of each author.
    pub(super) filled: Filled,
    /// Items that are not held although their groups are.
    pub(super) holes: Holes,
    pub(super) captures: Vec<Capture>,
    /// Which model was asked about which batch.
    pub(super) tried: BTreeMap<BatchId, Tried>,
    pub(super) tombstones: BTreeMap<MessageKey, TombstoneRow>,
    /// Segments of the index, each with its columns.
    pub(super) segments: BTreeMap<u32, [Option<Bytes>; 2]>,
    /// Bytes of what is forgotten may still be in the engine's files.
    pub(super) forgetting: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    /// `None` after a rewriting that failed in its last steps.
    engine: Option<Engine>,
    notes: mpsc::Receiver<DurableNote>,
    txn: u64,
    failed: Option<StoreError>,
}

impl Store {
    /// Opens the database below `dir`, and ends a rewriting that was cut off. Blocks.
    pub(super) fn open(dir: &Path) -> Result<(Self, OpenReport), StoreError> {
        crate::platform::create_private_dir(dir).map_err(failed("creating", dir))?;
        end_rewriting(dir)?;
        let (sender, notes) = mpsc::channel(4);
        let (engine, report) = Engine::open(&settings(&dir.join(STORE), &dir.join(HIGH_WATER)), sender)?;
        Ok((Self { dir: dir.to_owned(), engine: Some(engine), notes, txn: 0, failed: None }, report))
    }

    fn engine(&self) -> Result<&Engine, StoreError> {
        self.engine.as_ref().ok_or(StoreError::Closed)
    }

    /// Writes all rows but `mark` into a new database, which takes the place of the old one; that is removed, with what was
    /// set aside of it when it was damaged. Blocks.
    pub(super) fn rewrite(&mut self, mark: &[u8]) -> Result<(), MemoryError> {
        let engine = self.engine.as_ref().ok_or(StoreError::Closed)?;
        let (place, new) = (self.dir.join(STORE), self.dir.join(NEW));
        end_rewriting(&self.dir)?;
        // The new one begins where the old one has come to, and so is never taken for an older copy of it.
        let (mark_now, mark_new) = (self.dir.join(HIGH_WATER), self.dir.join(NEW_HIGH_WATER));
        fs::copy(&mark_now, &mark_new).map_err(failed("copying", &mark_now))?;
        let (written, _) = Engine::open(&settings(&new, &mark_new), mpsc::channel(4).0)?;
        let (mut writes, mut bytes) = (Vec::new(), 0);
        for row in engine.snapshot()? {
            let (key, value) = row?;
            if key != mark {
                bytes += key.len() + value.len();
                writes.push((key, Some(value)));
            }
            if bytes >= REWRITE_BYTES {
                bytes = 0;
                let batch = Batch { writes: std::mem::take(&mut writes), sync: true, ends_rollback: false };
                written.replace(Vec::new(), batch)?;
            }
        }
        written.replace(Vec::new(), Batch { writes, sync: true, ends_rollback: !engine.is_rolled_back() })?;
        written.close();
        drop(written);
        crate::platform::sync_dir(&new).map_err(failed("syncing", &new))?;
        // From here on there is no way back: what reads meanwhile is told that memory is closed.
        self.engine = None;
        let old = self.dir.join(OLD);
        let swapped = fs::rename(&place, &old)
            .and_then(|()| fs::rename(&new, &place))
            .and_then(|()| crate::platform::sync_dir(&self.dir))
            .map_err(failed("exchanging", &place))
            .and_then(|()| end_rewriting(&self.dir))
            .and_then(|()| Self::open(&self.dir));
        match swapped {
            Ok((store, _)) => {
                *self = store;
                Ok(())
            }
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error.into())
            }
        }
    }

    pub(super) fn is_rolled_back(&self) -> bool {
        self.engine.as_ref().is_some_and(Engine::is_rolled_back)
    }

    /// All rows as they are at this moment.
    pub(super) fn rows(&self) -> Result<impl Iterator<Item = Result<Row, StoreError>> + Send + use<>, StoreError> {
        self.engine()?.snapshot()
    }

    /// Notes, durably, that the rows are older than what their device has said since.
    pub(super) fn set_rolled_back(&self) -> Result<(), StoreError> {
        self.engine()?.set_rolled_back()
    }

    /// Keys that were forgotten here, as far as the file beside the database tells: it is never replaced with it.
    pub(super) fn forgotten(&self) -> Result<BTreeSet<MessageKey>, StoreError> {
        let path = self.dir.join(FORGOTTEN);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            read => read.map_err(failed("reading", &path))?,
        };
        // What is left at the end of a write that was cut off is no key.
        Ok(bytes.chunks_exact(16).filter_map(|key| Some(MessageKey(key.try_into().ok()?))).collect())
    }

    /// Adds to them, durably.
    pub(super) fn note_forgotten(&self, keys: &[MessageKey]) -> Result<(), StoreError> {
        let path = self.dir.join(FORGOTTEN);
        let bytes: Vec<u8> = keys.iter().flat_map(|key| key.0).collect();
        let append = || {
            let mut file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
            // A key is never split by what a write that was cut off has left.
            let over = file.metadata()?.len() % 16;
            if over != 0 {
                file.write_all(&vec![0; usize::try_from(16 - over).unwrap_or(0)])?;
            }
            file.write_all(&bytes)?;
            file.sync_all()
        };
        append().map_err(failed("writing", &path))?;
        crate::platform::sync_dir(&self.dir).map_err(failed("syncing", &self.dir))
    }

    /// Reads everything once: items go to `each`.
    pub(super) fn scan(&self, mut each: impl FnMut(Stamp, Body)) -> Result<Found, MemoryError> {
        let mut found = Found::default();
        for row in self.engine()?.snapshot()? {
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
                Some(&keys::TRIED) => {
                    let (batch, tried) = keys::tried_row(&key, &value)?;
                    found.tried.insert(batch, tried);
                }
                Some(&keys::CAPTURE) => found.captures.push(keys::decode(&value)?),
                Some(kind @ &(keys::SEGMENT | keys::COLUMNS)) => {
                    let number = keys::segment_number(&key).ok_or(MemoryError::Damaged("the key of a segment"))?;
                    let [segment, columns] = found.segments.entry(number).or_default();
                    *(if *kind == keys::SEGMENT { segment } else { columns }) = Some(value);
                }
                Some(_) if key == keys::forgetting() => found.forgetting = true,
                Some(&keys::GROUP) => {
                    let (chain, seq) = keys::group_at(&key).ok_or(MemoryError::Damaged("the key of a group"))?;
                    *found.filled.entry(chain.author).or_default() += value.len() as u64;
                    keys::decode::<GroupRow>(&value)?.note_holes(chain, seq, &mut found.holes);
                }
                Some(&keys::ITEM) => {
                    let stamp = keys::stamp(&key).ok_or(MemoryError::Damaged("the key of an item"))?;
                    *found.filled.entry(stamp.author).or_default() += value.len() as u64;
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
        self.engine()?.commit(self.txn, Batch { writes, sync: true, ends_rollback });
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
        self.engine()?.get(&keys::item(stamp))?.map(|value| keys::decode(&value)).transpose()
    }

    /// A group without its items.
    pub(super) fn group(&self, chain: &ChainId, seq: u64) -> Result<Option<GroupRow>, MemoryError> {
        self.engine()?.get(&keys::group(chain, seq))?.map(|value| keys::decode(&value)).transpose()
    }

    /// The model whose vectors are kept.
    pub(super) fn searched(&self) -> Result<Option<Searched>, MemoryError> {
        self.engine()?.get(&keys::searched())?.map(|value| keys::decode(&value)).transpose()
    }

    /// One vector.
    pub(super) fn vector(&self, source: &Source) -> Result<Option<VectorRow>, MemoryError> {
        self.engine()?.get(&keys::vector(source))?.map(|value| keys::decode(&value)).transpose()
    }

    /// Keys and values of the vectors of messages whose keys begin with this byte.
    pub(super) fn vectors(&self, first: u8) -> Result<Vec<Row>, StoreError> {
        let start = vec![keys::VECTOR, first];
        let end = [&[keys::VECTOR, first][..], &[0xff; 17]].concat();
        self.engine()?.range(Bound::Included(start), Bound::Included(end), false, usize::MAX)
    }

    /// Writes that remove the vectors of a message and of what was made of it.
    pub(super) fn without_vectors(&self, message: &MessageKey) -> Result<Vec<Write>, StoreError> {
        let start = keys::vector_prefix(message);
        let end = [start.as_slice(), &[0xff; 2]].concat();
        let rows = self.engine()?.range(Bound::Included(start), Bound::Included(end), false, usize::MAX)?;
        Ok(rows.into_iter().map(|(key, _)| (key, None)).collect())
    }

    /// Stamps of the items with text about a message, each with the number of its group.
    pub(super) fn about(&self, message: &MessageKey) -> Result<Vec<(Stamp, u64)>, MemoryError> {
        let start = keys::about_prefix(message);
        let mut end = start.clone();
        end.extend_from_slice(&[0xff; 32]);
        let rows = self.engine()?.range(Bound::Included(start), Bound::Included(end), false, usize::MAX)?;
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

fn settings(dir: &Path, high_water: &Path) -> Settings {
    Settings {
        dir: dir.to_owned(),
        high_water: high_water.to_owned(),
        format: FORMAT,
        thread: "memory-store",
        cache_bytes: CACHE_BYTES,
        memtable_bytes: MEMTABLE_BYTES,
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { doing, path, source: std::sync::Arc::new(source) }
}

/// Ends a rewriting wherever it was cut off: a new database counts from the moment when the old one has left its place.
fn end_rewriting(dir: &Path) -> Result<(), StoreError> {
    let (place, new, old) = (dir.join(STORE), dir.join(NEW), dir.join(OLD));
    if !place.exists() && old.exists() {
        // Where the new one is not there, the disk has kept less than it was told: the old one has everything.
        let whole = if new.exists() { &new } else { &old };
        fs::rename(whole, &place).map_err(failed("renaming", whole))?;
        crate::platform::sync_dir(dir).map_err(failed("syncing", dir))?;
    }
    for gone in [new, old] {
        match fs::remove_dir_all(&gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", &gone)(error)),
            _ => {}
        }
    }
    match fs::remove_file(dir.join(NEW_HIGH_WATER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing", &dir.join(NEW_HIGH_WATER))(error))
        }
        _ => Ok(()),
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
