//! The fjall database of a store: opened if it can be, repaired if it must be, set aside and made anew if it is beyond
//! repair.

use std::fs;
use std::io;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::compaction::Leveled;
use fjall::{Keyspace, KeyspaceCreateOptions, PersistMode};

use super::error::StoreError;
use super::report::{Loss, OpenReport};
use super::wal;

/// Write-ahead logs on disk. The least that fjall allows is 64 MiB.
const WAL_BYTES: u64 = 128 * 1024 * 1024;
/// Size of a table. While tables are merged, the keys in the index of the one that is being written hold the blocks that
/// they were read in (lsm-tree 3.1), so that this much stays in memory; and the first level, which is merged with every four
/// memtables, grows to four times of it. fjall's own 64 MiB took 60 MB and rewrote all of a store of 200 MB again and again.
const TABLE_BYTES: u64 = 8 * 1024 * 1024;
/// Open table files.
const FILES_MAX: usize = 64;
/// Threads that move rows to tables and merge those. With two, one of them passes the same message round and round
/// while the other merges (fjall 3.1), which cost a tenth of all processor time under load.
const WORKERS: usize = 1;

/// Memtables that wait to be moved to tables, from which on the database is behind.
const BEHIND: usize = 2;

/// The one keyspace. All rows share it because fjall moves a keyspace from the write-ahead log to tables as a whole:
/// what is left after any damage is then a state that once was, never rows of different moments. It also makes the
/// first start ten times faster, and takes less memory.
const ROWS: &str = "rows";
/// Number of the newest group, to be compared with the high-water mark.
const SEQ: &[u8] = b"\0seq";
/// There while the store is known to be rolled back and its owner has not dealt with that.
const ROLLED_BACK: &[u8] = b"\0rolled-back";

/// Memory that a database may take, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// For blocks that were read.
    pub(super) cache: u64,
    /// For rows, before they are moved to a table.
    pub(super) memtable: u64,
}

/// fjall's database and its keyspace.
pub(super) struct Database {
    pub(super) rows: Keyspace,
    pub(super) db: fjall::Database,
}

impl Database {
    /// Opens the database in `dir`; where it is beyond repair, sets it aside and makes an empty one.
    pub(super) fn open(dir: &Path, memory: Memory, report: &mut OpenReport) -> Result<Self, StoreError> {
        let db = dir.join("db");
        match open_repaired(dir, &db, memory, report) {
            Ok(Some(database)) => return Ok(database),
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
        let database = open(&db, memory).map_err(StoreError::engine("creating a new database"))?;
        database.db.persist(PersistMode::SyncAll).map_err(StoreError::engine("syncing"))?;
        Ok(database)
    }

    /// Number of the newest group; 0 if there is none.
    pub(super) fn seq(&self) -> Result<u64, StoreError> {
        let seq = self.rows.get(SEQ).map_err(StoreError::engine("reading"))?;
        Ok(seq.and_then(|seq| <[u8; 8]>::try_from(&*seq).ok()).map_or(0, u64::from_be_bytes))
    }

    /// True if the store was noted as rolled back.
    pub(super) fn is_rolled_back(&self) -> Result<bool, StoreError> {
        self.rows.contains_key(ROLLED_BACK).map_err(StoreError::engine("reading"))
    }

    /// Notes it as rolled back, durably.
    pub(super) fn set_rolled_back(&self) -> Result<(), StoreError> {
        self.rows.insert(ROLLED_BACK, []).map_err(StoreError::engine("writing"))?;
        self.db.persist(PersistMode::SyncData).map_err(StoreError::engine("syncing"))
    }

    /// True while rows that came before those of now are still to be moved to tables. At four times a memtable of them
    /// fjall stops writing.
    pub(super) fn is_behind(&self) -> bool {
        self.rows.sealed_memtable_count() >= BEHIND
    }

    /// Writes one atomic batch as group `seq`. Not durable yet.
    pub(super) fn write(&self, seq: u64, rows: &super::batch::Rows, end_rollback: bool) -> Result<(), StoreError> {
        let mut batch = self.db.batch();
        for (key, value) in rows {
            match value {
                Some(value) => batch.insert(&self.rows, key.as_slice(), &**value),
                None => batch.remove(&self.rows, key.as_slice()),
            }
        }
        batch.insert(&self.rows, SEQ, seq.to_be_bytes());
        if end_rollback {
            batch.remove(&self.rows, ROLLED_BACK);
        }
        batch.commit().map_err(StoreError::engine("writing"))
    }
}

enum NotOpened {
    /// The data is damaged; for people.
    Damaged(String),
    /// Something else is wrong: trying again later may help, and nothing must be touched.
    Refused(StoreError),
}

/// The database, if there is one.
fn open_repaired(
    dir: &Path,
    db: &Path,
    memory: Memory,
    report: &mut OpenReport,
) -> Result<Option<Database>, NotOpened> {
    let exists =
        |path: &Path| path.try_exists().map_err(StoreError::file("looking for", path)).map_err(NotOpened::Refused);
    if !exists(db)? {
        return Ok(None);
    }
    // fjall writes this file last when it makes a database. Whatever lies here without it is no database.
    if !exists(&db.join("version"))? {
        return Err(NotOpened::Damaged("its version file is missing".to_owned()));
    }
    report.repaired = wal::check(db, || new_aside(dir)).map_err(NotOpened::Refused)?;
    // fjall asserts a good deal about what it finds on disk.
    match catch_unwind(|| open(db, memory)) {
        Ok(Ok(database)) => Ok(Some(database)),
        Ok(Err(error)) if is_damage(&error) => Err(NotOpened::Damaged(format!("the database is damaged: {error}"))),
        Ok(Err(error)) => Err(NotOpened::Refused(StoreError::engine("opening the database")(error))),
        Err(_) => Err(NotOpened::Damaged("the database is damaged: the engine gave up".to_owned())),
    }
}

fn open(db: &Path, memory: Memory) -> fjall::Result<Database> {
    let db = fjall::Database::builder(db)
        .cache_size(memory.cache)
        .max_journaling_size(WAL_BYTES)
        .max_cached_files(Some(FILES_MAX))
        .worker_threads(WORKERS)
        .open()?;
    let options = || {
        let tables = Leveled::default().with_table_target_size(TABLE_BYTES);
        KeyspaceCreateOptions::default().max_memtable_size(memory.memtable).compaction_strategy(Arc::new(tables))
    };
    let rows = db.keyspace(ROWS, options)?;
    Ok(Database { rows, db })
}

/// True if this says that the data is wrong, rather than that it cannot be had just now.
fn is_damage(error: &fjall::Error) -> bool {
    use fjall::Error as E;
    let is_data = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "fjall may add kinds; what is unknown is kept aside, not lost")]
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
