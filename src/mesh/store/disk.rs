//! The store on disk: fjall, guarded as mesh-protocol.md §9.2 says.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use mesh_core::io::{Batch, Image, Space, TxnId};
use tokio::sync::mpsc;

use super::high_water::HighWater;
use super::queue::{Found, Queue};
use super::writer::{State, Writer};
use super::{DurableNote, Loss, OpenReport, Row, Store, StoreError, as_slices, is_empty_range, journal};
use crate::platform;

/// Blocks kept in memory. Sized for a process of 30 MB at rest (architecture.md §7).
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// Rows are moved from memory to a table at this size.
const MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;
/// Journals on disk. The least that the engine allows is 64 MiB.
const JOURNAL_BYTES: u64 = 128 * 1024 * 1024;
/// Open table files.
const FILES_MAX: usize = 64;
/// Threads that move rows to tables and merge those. With two, one of them passes the same message round and round while
/// the other merges (fjall 3.1), which cost a tenth of all processor time under load.
const WORKERS: usize = 1;

/// The engine's one key space.
const ROWS: &str = "rows";
/// Number of the newest group, to be compared with the high-water mark.
pub(super) const SEQ: &[u8] = b"\0seq";
/// There while the store is known to be rolled back and the core has not begun a new incarnation.
pub(super) const ROLLED_BACK: &[u8] = b"\0rolled-back";

/// The store on disk. Dropping it closes it.
pub struct FjallStore {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What readers and the writer share.
pub(super) struct Shared {
    pub(super) tables: Tables,
    pub(super) queue: Queue,
    failure: OnceLock<StoreError>,
    rolled_back: AtomicBool,
    // Last, so that it is unlocked when the engine is gone.
    _lock: Lock,
}

/// The engine's names.
pub(super) struct Tables {
    pub(super) rows: Keyspace,
    pub(super) db: Database,
}

/// The engine's key of a row: the number of its space, then its key. All spaces share one key space of the engine,
/// because that one is moved from the journal to tables as a whole: what is left after any damage is then a state that
/// once was, never rows of different moments. It also makes the first start ten times faster, and takes less memory.
pub(super) fn stored_key(space: Space, key: &[u8]) -> Vec<u8> {
    [&[number(space)], key].concat()
}

/// These numbers are the format on disk: never change one. 0 is this module's own.
const fn number(space: Space) -> u8 {
    match space {
        Space::Meta => 1,
        Space::Log => 2,
        Space::Heads => 3,
        Space::Trust => 4,
        Space::Directory => 5,
        Space::Invites => 6,
        Space::Open => 7,
        Space::Calls => 8,
        Space::CallsByTime => 9,
        Space::Keys => 10,
        Space::Journal => 11,
        Space::ForgottenMarks => 12,
        Space::Shell => 13,
    }
}

/// The engine's bounds of a range of keys of one space.
fn stored_bounds(space: Space, (start, end): (Bound<&[u8]>, Bound<&[u8]>)) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let start = match start {
        Bound::Unbounded => Bound::Included(vec![number(space)]),
        Bound::Included(key) => Bound::Included(stored_key(space, key)),
        Bound::Excluded(key) => Bound::Excluded(stored_key(space, key)),
    };
    let end = match end {
        Bound::Unbounded => Bound::Excluded(vec![number(space) + 1]),
        Bound::Included(key) => Bound::Included(stored_key(space, key)),
        Bound::Excluded(key) => Bound::Excluded(stored_key(space, key)),
    };
    (start, end)
}

impl Shared {
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failure.get().cloned()
    }

    /// True when it is the first.
    pub(super) fn set_failure(&self, error: StoreError) -> bool {
        self.failure.set(error).is_ok()
    }

    /// The core writes its own rows again; true when that ends a roll-back.
    pub(super) fn renew(&self) -> bool {
        self.rolled_back.swap(false, Ordering::Relaxed)
    }
}

impl FjallStore {
    /// Opens the store in `dir` (created as needed), repairing what can be repaired. The high-water mark lies beside
    /// `dir`. Notes about batches come through `durable`; while it is full the newest one waits, so a small one will do.
    /// Blocks.
    ///
    /// # Errors
    /// [`StoreError::Locked`]; files that cannot be used for reasons other than damage, such as permissions, a full
    /// disk or a newer version. Damage is no error: see [`OpenReport`].
    pub fn open(dir: &Path, durable: mpsc::Sender<DurableNote>) -> Result<(Self, OpenReport), StoreError> {
        platform::create_private_dir(dir).map_err(StoreError::file("creating", dir))?;
        let lock = lock(dir)?;
        let mark = HighWater::open(&dir.with_file_name("high-water"))?;
        let mut report = OpenReport::default();
        let tables = open_or_replace(dir, &mut report)?;
        if report.created {
            let home = dir.parent().filter(|home| !home.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = platform::sync_dir(dir).and_then(|()| platform::sync_dir(home));
            synced.map_err(StoreError::file("syncing the directory", dir))?;
        }

        let seq = tables.rows.get(SEQ).map_err(StoreError::engine("reading"))?;
        let seq = seq.and_then(|seq| <[u8; 8]>::try_from(&*seq).ok()).map_or(0, u64::from_be_bytes);
        let known = tables.rows.contains_key(ROLLED_BACK).map_err(StoreError::engine("reading"))?;
        let cut = report.repaired.iter().any(|repair| repair.promised);
        report.rolled_back = known || cut || report.lost.is_some() || seq < mark.value();
        if report.created && report.rolled_back && report.lost.is_none() {
            report.lost = Some(Loss { why: "the store has vanished".to_owned(), kept_at: None });
        }
        if report.rolled_back && !known {
            tables.rows.insert(ROLLED_BACK, []).map_err(StoreError::engine("writing"))?;
            tables.db.persist(PersistMode::SyncData).map_err(StoreError::engine("syncing"))?;
        }

        let shared = Arc::new(Shared {
            tables,
            queue: Queue::default(),
            failure: OnceLock::new(),
            rolled_back: AtomicBool::new(report.rolled_back),
            _lock: lock,
        });
        let seq = seq.max(mark.value());
        let writer = Writer { shared: shared.clone(), durable: durable.clone(), mark, seq, state: State::default() };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn({
            let shared = shared.clone();
            move || {
                // A panic in the engine is a failure like any other, and must be known.
                let panicked = catch_unwind(AssertUnwindSafe(|| writer.run())).is_err();
                shared.queue.close();
                if panicked && shared.set_failure(StoreError::Closed) {
                    let _ = durable.blocking_send(DurableNote::Failed(StoreError::Closed));
                }
            }
        });
        let thread = thread.map_err(StoreError::file("starting the writer of", dir))?;
        let store = Self { shared, writer: Mutex::new(Some(thread)) };
        Ok((store, report))
    }
}

#[cfg(test)]
impl FjallStore {
    pub(super) fn tables_on_disk(&self) -> usize {
        self.shared.tables.rows.table_count()
    }
}

impl Store for FjallStore {
    fn image(&self) -> Result<Image, StoreError> {
        let mut rows = Vec::new();
        for space in Space::ALL.into_iter().filter(|space| space.in_image()) {
            let all = self.range(space, Bound::Unbounded, Bound::Unbounded, false, usize::MAX)?;
            rows.extend(all.into_iter().map(|(key, value)| (space, key, value)));
        }
        Ok(Image { rows, rolled_back: self.shared.rolled_back.load(Ordering::Relaxed) })
    }

    fn commit(&self, txn: TxnId, batch: Batch) {
        let put = self.shared.failure().map_or_else(|| self.shared.queue.put(txn, batch), Err);
        if let Err(error) = put {
            tracing::debug!(error = ?error, txn, "a batch was dropped");
        }
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        if key.is_empty() {
            return Ok(None);
        }
        let key = stored_key(space, key);
        match self.shared.queue.get(&key) {
            Found::Row(value) => return Ok(Some(value)),
            Found::Deleted => return Ok(None),
            Found::Nothing => {}
        }
        let value = self.shared.tables.rows.get(key).map_err(StoreError::engine("reading"))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(
        &self,
        space: Space,
        start: Bound<Vec<u8>>,
        end: Bound<Vec<u8>>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        if is_empty_range(&start, &end) || limit == 0 {
            return Ok(Vec::new());
        }
        let bounds = stored_bounds(space, as_slices(&start, &end));
        // First what is queued, then what is written: a batch that moves over in between is seen twice, never missed.
        let queued = self.shared.queue.range(as_slices(&bounds.0, &bounds.1));
        // Each queued row can take at most one written row away.
        let enough = limit.saturating_add(queued.len());
        let written = self.shared.tables.rows.range(bounds);
        let written: Box<dyn Iterator<Item = fjall::Guard>> =
            if reverse { Box::new(written.rev()) } else { Box::new(written) };
        let mut rows = Vec::new();
        for guard in written.take(enough) {
            let (key, value) = guard.into_inner().map_err(StoreError::engine("reading"))?;
            rows.push((key.get(1..).unwrap_or_default().to_vec(), Bytes::copy_from_slice(&value)));
        }
        if !queued.is_empty() {
            let mut merged: BTreeMap<_, _> = rows.into_iter().collect();
            for (key, value) in queued {
                let key = key.get(1..).unwrap_or_default().to_vec();
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

    fn wipe_and_commit(&self, batch: Batch) -> Result<(), StoreError> {
        let (reply, answer) = sync_channel(1);
        // Its rows are not shown while queued: the rows that it deletes are not known yet.
        self.shared.failure().map_or_else(|| self.shared.queue.wipe(batch, reply), Err)?;
        answer.recv().unwrap_or(Err(StoreError::Closed))
    }

    fn close(&self) {
        let Some(thread) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.shared.queue.close();
        let _ = thread.join();
    }
}

impl Drop for FjallStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallStore").field("failure", &self.shared.failure()).finish_non_exhaustive()
    }
}

/// The lock of the store. Given back in so many words: closing the file is not enough while a process that was just
/// forked, and has not begun its own program yet, still has it open.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Takes the lock of this store and leaves our process id in it.
fn lock(dir: &Path) -> Result<Lock, StoreError> {
    let path = dir.join("lock");
    let failed = || StoreError::file("locking", &path);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = file.map_err(failed())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::Error(error)) => return Err(failed()(error)),
        Err(fs::TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = file.take(20).read_to_string(&mut text);
            let pid = read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0);
            return Err(StoreError::Locked { dir: dir.to_owned(), pid });
        }
    }
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(failed())?;
    Ok(Lock(file))
}

/// Opens the database; where it is beyond repair, sets it aside and makes an empty one.
fn open_or_replace(dir: &Path, report: &mut OpenReport) -> Result<Tables, StoreError> {
    let db = dir.join("db");
    match open_repaired(dir, &db, report) {
        Ok(Some(tables)) => return Ok(tables),
        Ok(None) => {}
        Err(NotOpened::Refused(error)) => return Err(error),
        Err(NotOpened::Damaged(why)) => {
            let aside = new_aside(dir)?;
            let target = aside.join("db");
            fs::rename(&db, &target).map_err(StoreError::file("setting the damaged store aside as", &target))?;
            report.lost = Some(Loss { why, kept_at: Some(aside) });
        }
    }
    report.created = true;
    let tables = open_tables(&db).map_err(StoreError::engine("creating a new database"))?;
    tables.db.persist(PersistMode::SyncAll).map_err(StoreError::engine("syncing"))?;
    Ok(tables)
}

enum NotOpened {
    /// The data is damaged; for people.
    Damaged(String),
    /// Something else is wrong: trying again later may help, and nothing must be touched.
    Refused(StoreError),
}

/// The database, if there is one.
fn open_repaired(dir: &Path, db: &Path, report: &mut OpenReport) -> Result<Option<Tables>, NotOpened> {
    let exists =
        |path: &Path| path.try_exists().map_err(StoreError::file("looking for", path)).map_err(NotOpened::Refused);
    if !exists(db)? {
        return Ok(None);
    }
    // The engine writes this file last when it makes a database. Whatever lies here without it is no database.
    if !exists(&db.join("version"))? {
        return Err(NotOpened::Damaged("its version file is missing".to_owned()));
    }
    report.repaired = journal::check(db, || new_aside(dir)).map_err(NotOpened::Refused)?;
    // The engine asserts a good deal about what it finds on disk.
    match catch_unwind(|| open_tables(db)) {
        Ok(Ok(tables)) => Ok(Some(tables)),
        Ok(Err(error)) if is_damage(&error) => Err(NotOpened::Damaged(format!("the database is damaged: {error}"))),
        Ok(Err(error)) => Err(NotOpened::Refused(StoreError::engine("opening the database")(error))),
        Err(_) => Err(NotOpened::Damaged("the database is damaged: the engine gave up".to_owned())),
    }
}

fn open_tables(db: &Path) -> fjall::Result<Tables> {
    let db = Database::builder(db)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNAL_BYTES)
        .max_cached_files(Some(FILES_MAX))
        .worker_threads(WORKERS)
        .open()?;
    let rows = db.keyspace(ROWS, || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))?;
    Ok(Tables { rows, db })
}

/// Whether this says that the data is wrong, rather than that it cannot be had just now.
fn is_damage(error: &fjall::Error) -> bool {
    use fjall::Error as E;
    let is_data = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
    };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the engine may add kinds; what is unknown is kept aside, not lost"
    )]
    match error {
        E::Storage(fjall::LsmError::Io(error)) | E::Io(error) => is_data(error),
        E::InvalidVersion(version) => version.is_none(),
        E::Poisoned | E::KeyspaceDeleted | E::Locked => false,
        _ => true,
    }
}

/// A new directory for what was damaged.
fn new_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    for n in 1_u32.. {
        let aside = dir.join(format!("damaged-{n}"));
        match fs::create_dir(&aside) {
            Ok(()) => return Ok(aside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::file("creating", aside)(error)),
        }
    }
    Err(StoreError::file("creating a place for damaged files in", dir)(io::ErrorKind::AlreadyExists.into()))
}
