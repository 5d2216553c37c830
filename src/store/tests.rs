use std::fs;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::wal::{self, batch_ends};
use super::{Batch, DurableNote, Engine, Format, OpenReport, Settings, StoreError, Write};

pub(super) type Notes = mpsc::Receiver<DurableNote>;

fn settings(home: &Path) -> Settings {
    Settings {
        dir: home.join("store"),
        high_water: home.join("high-water"),
        format: Format { number: 7, remedy: "throw it away" },
        thread: "store",
        cache_bytes: 1 << 20,
        memtable_bytes: 4 << 20,
    }
}

pub(super) fn open(home: &Path) -> (Engine, Notes, OpenReport) {
    let (tx, rx) = mpsc::channel(1024);
    let (store, report) = Engine::open(&settings(home), tx).unwrap();
    (store, rx, report)
}

fn put(key: impl Into<Vec<u8>>, value: impl Into<Bytes>) -> Write {
    (key.into(), Some(value.into()))
}

/// A batch that somebody waits for.
fn synced(writes: Vec<Write>) -> Batch {
    Batch { writes, sync: true, ends_rollback: false }
}

fn wait_durable(notes: &mut Notes, txn: u64) {
    loop {
        match notes.blocking_recv() {
            Some(DurableNote::Durable(durable)) if durable >= txn => return,
            Some(DurableNote::Durable(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// All rows whose keys begin with this byte.
fn all(store: &Engine, first: u8) -> Vec<super::Row> {
    store.range(Bound::Included(vec![first]), Bound::Excluded(vec![first + 1]), false, usize::MAX).unwrap()
}

/// Batch number `n` of the histories that are damaged below: a row of its own, and a count.
pub(super) fn numbered(n: u64) -> Batch {
    let value = vec![n.to_le_bytes()[0]; 100 + usize::try_from(n).unwrap() * 37 % 900];
    let key = [b"r".as_slice(), &n.to_be_bytes()].concat();
    synced(vec![put(key, value), put("count", n.to_be_bytes().to_vec())])
}

/// Counts the numbered batches that are there; panics unless it is the first ones, whole, and nothing else.
pub(super) fn count(store: &Engine) -> u64 {
    let count = store.get(b"count").unwrap().map_or(0, |n| u64::from_be_bytes(n[..].try_into().unwrap()));
    let mut rows = store.range(Bound::Unbounded, Bound::Unbounded, false, usize::MAX).unwrap();
    rows.retain(|(key, _)| key != b"count");
    let expected: Vec<_> = (1..=count)
        .map(|n| match numbered(n).writes.swap_remove(0) {
            (key, Some(value)) => (key, value),
            write => panic!("{write:?}"),
        })
        .collect();
    assert!(rows == expected, "{} rows, count {count}", rows.len());
    count
}

// Group commit.

#[test]
fn notes_rise_and_reach_the_last_batch() {
    let home = TempDir::new().unwrap();
    let (store, mut notes, report) = open(home.path());
    assert!(report.created && !report.rolled_back && report.lost.is_none());
    for n in 1..=2000 {
        store.commit(n, Batch { sync: n % 3 == 0, ..numbered(n) });
        // Read at once, whether it is written yet or not.
        assert_eq!(store.get(b"count").unwrap().unwrap()[..], n.to_be_bytes());
    }
    store.close();
    let mut last = 0;
    while let Ok(note) = notes.try_recv() {
        let DurableNote::Durable(txn) = note else { panic!("{note:?}") };
        assert!(txn > last);
        last = txn;
    }
    assert_eq!(last, 2000);
    drop(store);
    assert_eq!(count(&open(home.path()).0), 2000);
}

#[test]
fn a_batch_that_nobody_waits_for_is_durable_after_a_while() {
    let home = TempDir::new().unwrap();
    let (store, mut notes, _) = open(home.path());
    store.commit(1, Batch { sync: false, ..numbered(1) });
    wait_durable(&mut notes, 1);
}

#[test]
fn a_full_channel_of_notes_stops_nothing_and_gets_the_newest() {
    let home = TempDir::new().unwrap();
    let (tx, mut notes) = mpsc::channel(1);
    let (store, _) = Engine::open(&settings(home.path()), tx).unwrap();
    for n in 1..=1000 {
        store.commit(n, numbered(n));
    }
    wait_durable(&mut notes, 1000);
}

#[test]
fn a_failure_ends_the_store_and_is_told_once() {
    let home = TempDir::new().unwrap();
    let (store, mut notes, _) = open(home.path());
    store.commit(1, numbered(1));
    wait_durable(&mut notes, 1);
    store.commit(2, synced(vec![put(vec![1; 70_000], "x")]));
    assert!(matches!(notes.blocking_recv(), Some(DurableNote::Failed(StoreError::BadKey { len: 70_000 }))));
    store.commit(3, numbered(2));
    assert!(matches!(store.get(b"x"), Err(StoreError::BadKey { .. })));
    assert!(matches!(store.replace(Vec::new(), Batch::default()), Err(StoreError::BadKey { .. })));
    drop(store);
    assert!(notes.blocking_recv().is_none(), "nothing is reported after a failure");
    assert_eq!(count(&open(home.path()).0), 1);
}

// One process at a time.

#[test]
fn a_second_open_is_told_who_has_the_store() {
    let home = TempDir::new().unwrap();
    let (store, ..) = open(home.path());
    let (tx, _rx) = mpsc::channel(1);
    let error = Engine::open(&settings(home.path()), tx.clone()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { pid, .. } if pid == std::process::id()), "{error}");
    drop(store);
    assert!(Engine::open(&settings(home.path()), tx).is_ok());
}

// One format.

/// Every file below `dir` with its bytes.
fn files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
            found.push((path, Vec::new()));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

#[test]
fn a_store_of_another_format_is_refused_untouched() {
    let home = written_home();
    for (text, number) in [(Some("6\n"), 6), (Some("8\n"), 8), (None, 1)] {
        let path = home.path().join("store/format");
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let before = files(home.path());
        let error = Engine::open(&settings(home.path()), mpsc::channel(1).0).unwrap_err();
        assert!(matches!(error, StoreError::Format { found, readable: 7, .. } if found == number), "{error:?}");
        assert!(error.to_string().ends_with("throw it away"), "{error}");
        assert!(files(home.path()) == before);
    }
    fs::write(home.path().join("store/format"), "7\n").unwrap();
    assert_eq!(count(&open(home.path()).0), BATCHES);
}

#[test]
fn a_format_number_that_cannot_be_read_is_no_reason_to_touch_a_database() {
    let home = written_home();
    for text in ["", "seven", "\u{fffd}"] {
        fs::write(home.path().join("store/format"), text).unwrap();
        let before = files(home.path());
        let error = Engine::open(&settings(home.path()), mpsc::channel(1).0).unwrap_err();
        assert!(matches!(error, StoreError::File { .. }), "{error:?}");
        assert!(files(home.path()) == before);
    }
    // A machine that stopped while the store was made leaves half a number and no database.
    fs::remove_dir_all(home.path().join("store/db")).unwrap();
    drop(open(home.path()));
    assert_eq!(fs::read(home.path().join("store/format")).unwrap(), b"7\n");
}

#[test]
fn what_is_the_engines_own_is_neither_shown_nor_taken() {
    let home = written_home();
    let (store, mut notes, _) = open(home.path());
    assert_eq!(store.get(b"\0seq").unwrap(), None);
    for start in [Bound::Unbounded, Bound::Included(Vec::new()), Bound::Excluded(vec![0]), Bound::Included(vec![0])] {
        let rows = store.range(start, Bound::Unbounded, false, usize::MAX).unwrap();
        assert_eq!(rows.len() as u64, BATCHES + 1);
    }
    assert!(store.range(Bound::Unbounded, Bound::Included(vec![0, 255]), true, 9).unwrap().is_empty());
    store.commit(1, synced(vec![put("\0seq", "x")]));
    assert!(matches!(notes.blocking_recv(), Some(DurableNote::Failed(StoreError::BadKey { len: 4 }))));
}

// Damage.

const BATCHES: u64 = 40;

/// A home whose write-ahead log holds [`BATCHES`] batches and ends with the last of them.
fn written_home() -> TempDir {
    let home = TempDir::new().unwrap();
    drop(open(home.path()));
    // The second open cuts the zeroes that a new log is filled with, so that copies are small.
    let (store, mut notes, _) = open(home.path());
    for n in 1..=BATCHES {
        store.commit(n, numbered(n));
        wait_durable(&mut notes, n); // so that each is a batch of its own in the log
    }
    drop(store);
    assert!(batch_ends(&newest_wal(home.path())).len() as u64 >= BATCHES);
    home
}

fn newest_wal(home: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(home.join("store/db")).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "jnl")).collect();
    assert_eq!(logs.len(), 1);
    logs.swap_remove(0)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[derive(Debug, Clone)]
enum Damage {
    /// Cut at this share of the length.
    Truncated(f64),
    /// Some bytes after the end.
    GarbageTail(Vec<u8>),
    /// Zeroes after the end, as a new log has them.
    ZeroTail(usize),
    /// A page of 4 KiB became zeroes.
    ZeroedPage(f64),
    /// One bit.
    Flipped(f64, u8),
    /// One bit in the first 13 bytes of a batch, which no checksum covers.
    FlippedStart(usize, usize),
}

impl Damage {
    /// Does it; the first position that changed.
    fn hit(&self, bytes: &mut Vec<u8>, ends: &[u64]) -> usize {
        #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "a position in a small file")]
        let at = |share: f64| ((bytes.len() - 1) as f64 * share) as usize;
        match self {
            Self::Truncated(share) => {
                let at = at(*share);
                bytes.truncate(at);
                at
            }
            Self::GarbageTail(tail) => {
                let at = bytes.len();
                bytes.extend(tail);
                at
            }
            Self::ZeroTail(len) => {
                let at = bytes.len();
                bytes.resize(at + len, 0);
                at
            }
            Self::ZeroedPage(share) => {
                let at = at(*share) / 4096 * 4096;
                let end = bytes.len().min(at + 4096);
                bytes[at..end].fill(0);
                at
            }
            Self::Flipped(share, bit) => {
                let at = at(*share);
                bytes[at] ^= 1 << bit;
                at
            }
            Self::FlippedStart(batch, bit) => {
                let at = usize::try_from(ends[*batch]).unwrap() + bit / 8;
                bytes[at] ^= 1 << (bit % 8);
                at
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0.0..1.0).prop_map(Damage::Truncated),
        prop::collection::vec(any::<u8>(), 1..9000).prop_map(Damage::GarbageTail),
        (1..100_000_usize).prop_map(Damage::ZeroTail),
        (0.0..1.0).prop_map(Damage::ZeroedPage),
        ((0.0..1.0), 0..8_u8).prop_map(|(at, bit)| Damage::Flipped(at, bit)),
        (0..usize::try_from(BATCHES).unwrap() - 1, 0..13 * 8_usize).prop_map(|(n, bit)| Damage::FlippedStart(n, bit)),
    ]
}

/// Opens a damaged copy of `home`. Whatever is there is a beginning of what was written; all that lies before the
/// damage is there; and when anything promised is missing, that is said, until its owner has dealt with it.
fn survives(home: &Path, damage: &Damage) {
    let copy = TempDir::new().unwrap();
    copy_tree(home, copy.path());
    let path = newest_wal(copy.path());
    let mut bytes = fs::read(&path).unwrap();
    let ends = batch_ends(&newest_wal(home));
    let at = damage.hit(&mut bytes, &ends) as u64;
    fs::write(&path, bytes).unwrap();

    let (store, mut notes, report) = open(copy.path());
    let found = count(&store);
    let before = ends.iter().filter(|&&end| end <= at).count();
    let full = ends.len();
    // Of two batches in the wrong order, both are left out when nobody can tell which number is wrong.
    let is_suspect = usize::from(matches!(damage, Damage::Flipped(..) | Damage::FlippedStart(..)));
    assert!(report.lost.is_none());
    let promised = (before + usize::try_from(BATCHES).unwrap()).saturating_sub(full + is_suspect);
    assert!(found >= promised as u64, "{found} {promised}");
    if before == full {
        assert_eq!(found, BATCHES);
        assert!(matches!(damage, Damage::ZeroTail(_)) == report.repaired.is_empty(), "{report:?}");
    }
    assert_eq!(report.rolled_back, store.is_rolled_back());
    if found < BATCHES {
        assert!(report.rolled_back, "{report:?}");
    }
    for repair in &report.repaired {
        assert!(!repair.promised || repair.kept_at.as_ref().is_some_and(|kept| kept.exists()), "{report:?}");
        let kept = ends.iter().filter(|&&end| end <= repair.cut_at).count();
        assert!(kept == before || kept + is_suspect == before, "{report:?}");
    }
    // It works on, and the flag stays until the owner ends it.
    store.commit(1, numbered(found + 1));
    wait_durable(&mut notes, 1);
    drop(store);
    let (store, mut notes, again) = open(copy.path());
    assert_eq!(count(&store), found + 1);
    assert!(again.repaired.is_empty() && again.rolled_back == report.rolled_back, "{again:?}");
    store.commit(1, Batch { sync: true, ends_rollback: true, ..Batch::default() });
    wait_durable(&mut notes, 1);
    drop(store);
    assert!(!open(copy.path()).2.rolled_back);
}

#[test]
fn damaged_logs_open_with_what_came_before() {
    let home = written_home();
    for damage in [
        Damage::Truncated(0.0),
        Damage::Truncated(0.5),
        Damage::Truncated(0.999),
        Damage::GarbageTail(vec![0xa5; 300]),
        Damage::GarbageTail(vec![1, 255, 255, 255, 255]),
        Damage::ZeroTail(1 << 20),
        Damage::ZeroedPage(0.0),
        Damage::ZeroedPage(0.5),
        Damage::ZeroedPage(1.0),
        Damage::Flipped(0.3, 7),
    ] {
        println!("{damage:?}");
        survives(home.path(), &damage);
    }
}

#[test]
fn any_damage_leaves_a_beginning_of_what_was_written() {
    let home = written_home();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(60));
    runner
        .run(&damage(), |damage| {
            survives(home.path(), &damage);
            Ok(())
        })
        .unwrap();
}

#[test]
fn logs_after_a_damaged_one_are_not_applied_over_the_gap() {
    let home = written_home();
    let bytes = fs::read(newest_wal(home.path())).unwrap();
    let dir = TempDir::new().unwrap();
    let (db, aside) = (dir.path().join("db"), dir.path().join("aside"));
    fs::create_dir_all(&db).unwrap();
    fs::create_dir_all(&aside).unwrap();
    let end = |batch: usize| usize::try_from(batch_ends(&newest_wal(home.path()))[batch]).unwrap();
    let (first, second, third) = (&bytes[..end(9)], &bytes[end(9)..end(19) - 5], &bytes[end(19)..]);
    for (name, bytes) in [("9.jnl", first), ("10.jnl", second), ("11.jnl", third)] {
        fs::write(db.join(name), bytes).unwrap();
    }
    // An unfinished tail is harmless in the newest log only; here it is in the second of three.
    let repaired = wal::check(&db, || Ok(aside.clone())).unwrap();
    assert!(repaired.len() == 1 && repaired[0].file == "10.jnl" && repaired[0].promised, "{repaired:?}");
    assert_eq!(fs::read(db.join("9.jnl")).unwrap(), first);
    assert_eq!(fs::metadata(db.join("10.jnl")).unwrap().len(), repaired[0].cut_at);
    assert!(!db.join("11.jnl").exists());
    assert_eq!(fs::read(aside.join("10.jnl")).unwrap(), second);
    assert_eq!(fs::read(aside.join("11.jnl")).unwrap(), third);
    assert!(wal::check(&db, || unreachable!()).unwrap().is_empty());
}

#[test]
fn a_store_restored_from_an_older_copy_is_noticed() {
    let home = written_home();
    let older = TempDir::new().unwrap();
    copy_tree(&home.path().join("store"), older.path());
    let (store, mut notes, report) = open(home.path());
    assert!(!report.rolled_back);
    store.commit(1, numbered(BATCHES + 1));
    wait_durable(&mut notes, 1);
    drop(store);
    fs::remove_dir_all(home.path().join("store")).unwrap();
    copy_tree(older.path(), &home.path().join("store"));
    let (store, _, report) = open(home.path());
    assert!(report.rolled_back && report.repaired.is_empty() && report.lost.is_none());
    assert_eq!(count(&store), BATCHES);
}

#[test]
fn a_store_that_vanished_is_a_loss_until_its_owner_ends_it() {
    let home = written_home();
    fs::remove_dir_all(home.path().join("store")).unwrap();
    let (store, _, report) = open(home.path());
    assert!(report.created && report.rolled_back && report.lost.is_some());
    store.replace(Vec::new(), Batch { ends_rollback: true, ..Batch::default() }).unwrap();
    assert!(!store.is_rolled_back());
}

#[test]
fn what_cannot_be_repaired_is_set_aside_and_told() {
    let home = written_home();
    for (file, bytes) in [("version", None), ("version", Some("junk")), ("keyspaces/0/current", Some("junk"))] {
        let copy = TempDir::new().unwrap();
        copy_tree(home.path(), copy.path());
        let path = copy.path().join("store/db").join(file);
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let (store, mut notes, report) = open(copy.path());
        let lost = report.lost.unwrap();
        assert!(report.created && report.rolled_back, "{file} {bytes:?}");
        assert!(has_wal(&lost.kept_at.unwrap().join("db")), "{file} {bytes:?}");
        assert_eq!(count(&store), 0);
        store.commit(1, numbered(1));
        wait_durable(&mut notes, 1);
        drop(store);
        assert_eq!(count(&open(copy.path()).0), 1);
    }
}

fn has_wal(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| entry.unwrap().path().extension().is_some_and(|end| end == "jnl"))
}

#[test]
fn damage_to_a_log_takes_nothing_that_is_in_tables() {
    let home = written_home();
    let (store, mut notes, _) = open(home.path());
    for n in 0..7_u8 {
        store.commit(u64::from(n) + 1, synced(vec![put([b'A', n], vec![n; 1 << 20]), put([b'B', n], "x")]));
    }
    wait_durable(&mut notes, 7);
    let deadline = std::time::SystemTime::now() + std::time::Duration::from_mins(1);
    while store.tables_on_disk() == 0 {
        assert!(std::time::SystemTime::now() < deadline, "the engine never moved the rows to a table");
        std::thread::yield_now();
    }
    drop(store);
    let path = newest_wal(home.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (store, _, report) = open(home.path());
    assert!(report.lost.is_none() && report.repaired[0].promised && report.rolled_back);
    let (large, small) = (all(&store, b'A'), all(&store, b'B'));
    assert!((4..=7).contains(&large.len()), "{}", large.len());
    assert!(large.iter().map(|(key, _)| key[1]).eq(small.iter().map(|(key, _)| key[1])), "one moment for all rows");
    assert_eq!(all(&store, b'r').len() as u64, BATCHES);
}
