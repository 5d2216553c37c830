//! The engine: one open database, its readers and its writer.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use fjall::Readable as _;
use tokio::sync::mpsc;

use super::batch::{Batch, Row};
use super::database::{Database, Memory};
use super::error::StoreError;
use super::format::Format;
use super::high_water::HighWater;
use super::lock::Lock;
use super::queue::Found;
use super::report::{Loss, OpenReport};
use super::shared::EngineState;
use super::writer::{DurableNote, Writer};
use crate::platform;

/// Place, format and size of a store.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of the lock, the format number, the database and what was set aside of it. Created as needed; its
    /// parent is synced when it is new.
    pub dir: PathBuf,
    /// File of the high-water mark. Outside `dir`, so that a copy of `dir` that is put back is noticed.
    pub high_water: PathBuf,
    /// Layout of the owner's rows.
    pub format: Format,
    /// Name of the writer's thread.
    pub thread: &'static str,
    /// Memory for blocks that were read, in bytes.
    pub cache_bytes: u64,
    /// Rows are moved from memory to a table at this size, in bytes.
    pub memtable_bytes: u64,
}

/// A database on raw keys. All methods may be called from any thread. Dropping it closes it.
///
/// Keys have 1 to [`KEY_BYTES_MAX`](super::KEY_BYTES_MAX) bytes; those that begin with 0 are the engine's own, and are
/// neither shown nor taken.
///
/// # What a read sees
/// [`get`](Self::get) and [`range`](Self::range) see every batch whose [`commit`](Self::commit) returned before the
/// read began, whether it is written or still queued. What they see may not be durable yet: that is what
/// [`DurableNote::Durable`] says. A range is not a snapshot: of a batch that another thread commits meanwhile it may
/// show some rows and not others.
///
/// # Failure
/// The first failed write or fsync ends the engine: it is reported once as [`DurableNote::Failed`], nothing is written
/// or reported as durable any more, and reads answer with the same error. Only a new process with a new open may go on.
pub struct Engine {
    shared: Arc<EngineState>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Opens a store, repairing what can be repaired. Notes about batches come through `durable`; while it is full the
    /// newest one waits, so a small one will do. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Locked`]; [`StoreError::Format`], with nothing changed on disk; files that cannot be used for
    /// reasons other than damage, such as permissions, a full disk or a newer version of fjall. Damage is no error: see
    /// [`OpenReport`].
    pub fn open(settings: &Settings, durable: mpsc::Sender<DurableNote>) -> Result<(Self, OpenReport), StoreError> {
        let dir = &settings.dir;
        settings.format.check(dir)?;
        platform::create_private_dir(dir).map_err(StoreError::file("creating", dir))?;
        let lock = Lock::take(dir)?;
        let high_water = HighWater::open(&settings.high_water)?;
        settings.format.write_if_new(dir)?;
        let mut report = OpenReport::default();
        let memory = Memory { cache: settings.cache_bytes, memtable: settings.memtable_bytes };
        let database = Database::open(dir, memory, &mut report)?;
        if report.created {
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = platform::sync_dir(dir).and_then(|()| platform::sync_dir(parent));
            synced.map_err(StoreError::file("syncing the directory", dir))?;
        }

        let seq = database.seq()?;
        let known = database.is_rolled_back()?;
        let cut = report.repaired.iter().any(|repair| repair.promised);
        report.rolled_back = known || cut || report.lost.is_some() || seq < high_water.value();
        if report.created && report.rolled_back && report.lost.is_none() {
            report.lost = Some(Loss { why: "the store has vanished".to_owned(), kept_at: None });
        }
        if report.rolled_back && !known {
            database.set_rolled_back()?;
        }

        let seq = seq.max(high_water.value());
        let shared = Arc::new(EngineState::new(database, lock, report.rolled_back));
        let writer = Writer::new(shared.clone(), durable.clone(), high_water, seq);
        let thread = std::thread::Builder::new().name(settings.thread.to_owned()).spawn({
            let shared = shared.clone();
            move || {
                // A panic in fjall is a failure like any other, and must be known.
                let panicked = catch_unwind(AssertUnwindSafe(|| writer.run())).is_err();
                shared.queue.close();
                if panicked && shared.set_failure(StoreError::Closed) {
                    let _ = durable.blocking_send(DurableNote::Failed(StoreError::Closed));
                }
            }
        });
        let thread = thread.map_err(StoreError::file("starting the writer of", dir))?;
        Ok((Self { shared, writer: Mutex::new(Some(thread)) }, report))
    }

    /// True while the database is older than what it had made durable: restored from an older copy, or cut by damage.
    /// Stays, also over restarts, until a batch that [ends it](Batch::ends_rollback) is durable.
    #[must_use]
    pub fn is_rolled_back(&self) -> bool {
        self.shared.is_rolled_back()
    }

    /// True while a quarter of what makes [`commit`](Self::commit) wait is queued, or rows come faster than they are moved
    /// to tables: whoever can wait should.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.shared.queue.is_behind() || self.shared.database.is_behind()
    }

    /// Hands a batch to the writer, which reports it by its number. Blocks the thread while 256 batches or 1 MiB wait:
    /// the disk is behind. After [`close`](Self::close) or a failure the batch is dropped.
    pub fn commit(&self, txn: u64, batch: Batch) {
        let put = self.shared.failure().map_or_else(|| self.shared.queue.put(txn, batch), Err);
        if let Err(error) = put {
            tracing::debug!(error = ?error, txn, "a batch was dropped");
        }
    }

    /// One value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        if key.first().is_none_or(|&first| first == 0) {
            return Ok(None);
        }
        match self.shared.queue.get(key) {
            Found::Row(value) => return Ok(Some(value)),
            Found::Deleted => return Ok(None),
            Found::Nothing => {}
        }
        let value = self.shared.database.rows.get(key).map_err(StoreError::engine("reading"))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Rows between two keys in the order of their bytes, or the other way round; at most `limit`.
    pub fn range(
        &self,
        start: Bound<Vec<u8>>,
        end: Bound<Vec<u8>>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        let start = match start {
            Bound::Included(key) if key.first().is_some_and(|&first| first != 0) => Bound::Included(key),
            Bound::Excluded(key) if key.first().is_some_and(|&first| first != 0) => Bound::Excluded(key),
            Bound::Included(_) | Bound::Excluded(_) | Bound::Unbounded => Bound::Included(vec![1]),
        };
        if is_empty_range(&start, &end) || limit == 0 {
            return Ok(Vec::new());
        }
        // First what is queued, then what is written: a batch that moves over in between is seen twice, never missed.
        let queued = self.shared.queue.range((start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice)));
        // Each queued row can take at most one written row away.
        let enough = limit.saturating_add(queued.len());
        let written = self.shared.database.rows.range((start, end));
        let written: Box<dyn Iterator<Item = fjall::Guard>> =
            if reverse { Box::new(written.rev()) } else { Box::new(written) };
        let mut rows = Vec::new();
        for guard in written.take(enough) {
            let (key, value) = guard.into_inner().map_err(StoreError::engine("reading"))?;
            rows.push((key.to_vec(), Bytes::copy_from_slice(&value)));
        }
        if !queued.is_empty() {
            let mut merged: BTreeMap<_, _> = rows.into_iter().collect();
            for (key, value) in queued {
                match value {
                    Some(value) => merged.insert(key, value),
                    None => merged.remove(&key),
                };
            }
            rows = if reverse { merged.into_iter().rev().collect() } else { merged.into_iter().collect() };
        }
        rows.truncate(limit);
        Ok(rows)
    }

    /// All rows as they are at this moment, in the order of their keys: whole batches, and all that is durable. What is
    /// queued and not yet written is not among them. Old rows are kept on disk for as long as this lives.
    pub fn snapshot(&self) -> Result<impl Iterator<Item = Result<Row, StoreError>> + Send + use<>, StoreError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        let database = &self.shared.database;
        let rows = database.db.snapshot().range(&database.rows, vec![1_u8]..);
        Ok(rows.map(|guard| {
            let (key, value) = guard.into_inner().map_err(StoreError::engine("reading"))?;
            Ok((key.to_vec(), Bytes::copy_from_slice(&value)))
        }))
    }

    /// Notes, durably, that the rows are older than what their owner has promised since: see
    /// [`is_rolled_back`](Self::is_rolled_back).
    pub fn set_rolled_back(&self) -> Result<(), StoreError> {
        self.shared.database.set_rolled_back()?;
        self.shared.begin_rollback();
        Ok(())
    }

    /// Deletes all rows whose keys begin with one of these prefixes and writes `batch`, in one atomic step that is
    /// durable on return. Batches committed before it are written before it. Blocks.
    pub fn replace(&self, prefixes: Vec<Vec<u8>>, batch: Batch) -> Result<(), StoreError> {
        let (reply, answer) = sync_channel(1);
        // Its rows are not shown while queued: the rows that it deletes are not known yet.
        self.shared.failure().map_or_else(|| self.shared.queue.replace(prefixes, batch, reply), Err)?;
        answer.recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Makes everything durable and ends the writer. Blocks. Harmless when called twice.
    pub fn close(&self) {
        let Some(thread) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.shared.queue.close();
        let _ = thread.join();
    }
}

#[cfg(test)]
impl Engine {
    pub(super) fn tables_on_disk(&self) -> usize {
        self.shared.database.rows.table_count()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("failure", &self.shared.failure()).finish_non_exhaustive()
    }
}

/// True if no key can be in this range; collections panic when asked for such a one.
pub(crate) fn is_empty_range(start: &Bound<Vec<u8>>, end: &Bound<Vec<u8>>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end) | Bound::Included(end)) => start >= end,
    }
}
