use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use mesh_core::io::{Batch, Space, Write};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{DurableNote, FjallStore, MemStore, OpenReport, Store, StoreError};

pub(super) type Notes = mpsc::Receiver<DurableNote>;

pub(super) fn open(home: &Path) -> (FjallStore, Notes, OpenReport) {
    let (tx, rx) = mpsc::channel(1024);
    let (store, report) = FjallStore::open(&home.join("store"), tx).unwrap();
    (store, rx, report)
}

fn put(space: Space, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) -> Write {
    Write { space, key: key.into(), value: Some(value.into()) }
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

fn all(store: &dyn Store, space: Space) -> Vec<super::Row> {
    store.range(space, Bound::Unbounded, Bound::Unbounded, false, usize::MAX).unwrap()
}

/// Batch number `n` of the histories that are damaged below: a row of its own, and a count.
pub(super) fn numbered(n: u64) -> Batch {
    let value = vec![n.to_le_bytes()[0]; 100 + usize::try_from(n).unwrap() * 37 % 900];
    let writes = vec![put(Space::Log, n.to_be_bytes(), value), put(Space::Heads, "count", n.to_be_bytes().to_vec())];
    Batch { writes, sync: true }
}

/// How many of the numbered batches are there; panics unless it is the first ones, whole, and nothing else.
pub(super) fn count(store: &dyn Store) -> u64 {
    let count = store.get(Space::Heads, b"count").unwrap().map_or(0, |n| u64::from_be_bytes(n[..].try_into().unwrap()));
    let rows = all(store, Space::Log);
    let expected: Vec<_> = (1..=count)
        .map(|n| match numbered(n).writes.swap_remove(0) {
            Write { key, value: Some(value), .. } => (key, value),
            write => panic!("{write:?}"),
        })
        .collect();
    assert!(rows == expected, "{} rows, count {count}", rows.len());
    for space in Space::ALL {
        assert!(matches!(space, Space::Log | Space::Heads) || all(store, space).is_empty());
    }
    count
}

// The law: a store is a map.

#[derive(Debug, Clone)]
enum Op {
    Commit(Batch),
    Get(Space, Vec<u8>),
    Range(Space, Bound<Vec<u8>>, Bound<Vec<u8>>, bool, usize),
    Wipe(Batch),
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let space = || prop::sample::select(vec![Space::Meta, Space::Log, Space::Calls]);
    let key = || prop::collection::vec(0..4_u8, 1..3);
    let bound =
        move || prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)];
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from));
    let write = (space(), key(), value).prop_map(|(space, key, value)| Write { space, key, value });
    let batch = (prop::collection::vec(write, 0..6), any::<bool>()).prop_map(|(writes, sync)| Batch { writes, sync });
    let op = prop_oneof![
        8 => batch.clone().prop_map(Op::Commit),
        4 => (space(), key()).prop_map(|(space, key)| Op::Get(space, key)),
        4 => (space(), bound(), bound(), any::<bool>(), 0..8_usize).prop_map(|(s, a, b, r, l)| Op::Range(s, a, b, r, l)),
        1 => batch.prop_map(Op::Wipe),
        1 => Just(Op::Reopen),
    ];
    prop::collection::vec(op, 1..60)
}

type Model = BTreeMap<(Space, Vec<u8>), Bytes>;

fn apply(model: &mut Model, batch: &Batch) {
    for write in &batch.writes {
        match &write.value {
            Some(value) => model.insert((write.space, write.key.clone()), value.clone()),
            None => model.remove(&(write.space, write.key.clone())),
        };
    }
}

fn obeys_the_model(mut store: Box<dyn Store>, reopen: &dyn Fn(Box<dyn Store>) -> Box<dyn Store>, ops: &[Op]) {
    let mut model = Model::new();
    for (txn, op) in ops.iter().enumerate() {
        match op {
            Op::Commit(batch) => {
                store.commit(txn as u64, batch.clone());
                apply(&mut model, batch);
            }
            Op::Get(space, key) => {
                assert_eq!(store.get(*space, key).unwrap(), model.get(&(*space, key.clone())).cloned());
            }
            Op::Range(space, start, end, reverse, limit) => {
                let inside = |key: &Vec<u8>| {
                    let above = match start {
                        Bound::Included(start) => key >= start,
                        Bound::Excluded(start) => key > start,
                        Bound::Unbounded => true,
                    };
                    let below = match end {
                        Bound::Included(end) => key <= end,
                        Bound::Excluded(end) => key < end,
                        Bound::Unbounded => true,
                    };
                    above && below
                };
                let rows = model.iter().filter(|((s, key), _)| s == space && inside(key));
                let mut rows: Vec<_> = rows.map(|((_, key), value)| (key.clone(), value.clone())).collect();
                if *reverse {
                    rows.reverse();
                }
                rows.truncate(*limit);
                assert_eq!(store.range(*space, start.clone(), end.clone(), *reverse, *limit).unwrap(), rows);
            }
            Op::Wipe(batch) => {
                store.wipe_and_commit(batch.clone()).unwrap();
                model.retain(|(space, _), _| !space.of_mesh());
                apply(&mut model, batch);
            }
            Op::Reopen => store = reopen(store),
        }
    }
    let image = store.image().unwrap();
    assert!(!image.rolled_back);
    let rows = model.iter().filter(|((space, _), _)| space.in_image());
    let rows: Vec<_> = rows.map(|((space, key), value)| (*space, key.clone(), value.clone())).collect();
    assert_eq!(image.rows, rows);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_store_in_memory_is_a_map(ops in ops()) {
        let (tx, _rx) = mpsc::channel(1);
        obeys_the_model(Box::new(MemStore::new(tx)), &|store| store, &ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn the_store_on_disk_is_a_map(ops in ops()) {
        let home = TempDir::new().unwrap();
        let reopen = |store| {
            drop(store);
            Box::new(open(home.path()).0) as Box<dyn Store>
        };
        obeys_the_model(Box::new(open(home.path()).0), &reopen, &ops);
    }
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
        assert_eq!(store.get(Space::Heads, b"count").unwrap().unwrap()[..], n.to_be_bytes());
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
    let (store, _) = FjallStore::open(&home.path().join("store"), tx).unwrap();
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
    store.commit(2, Batch { writes: vec![put(Space::Log, vec![0; 70_000], "x")], sync: true });
    assert!(matches!(notes.blocking_recv(), Some(DurableNote::Failed(StoreError::BadKey { len: 70_000, .. }))));
    store.commit(3, numbered(2));
    assert!(matches!(store.get(Space::Log, b"x"), Err(StoreError::BadKey { .. })));
    assert!(matches!(store.wipe_and_commit(Batch::default()), Err(StoreError::BadKey { .. })));
    drop(store);
    assert!(notes.blocking_recv().is_none(), "nothing is reported after a failure");
    assert_eq!(count(&open(home.path()).0), 1);
}

#[test]
fn a_wipe_keeps_the_history_and_comes_after_what_was_committed() {
    let home = TempDir::new().unwrap();
    let (store, _notes, _) = open(home.path());
    for space in Space::ALL {
        store.commit(1, Batch { writes: vec![put(space, "old", "x")], sync: false });
    }
    store.wipe_and_commit(Batch { writes: vec![put(Space::Meta, "new", "y")], sync: false }).unwrap();
    drop(store);
    let (store, ..) = open(home.path());
    for space in Space::ALL {
        assert_eq!(store.get(space, b"old").unwrap().is_some(), !space.of_mesh(), "{space:?}");
    }
    assert_eq!(store.image().unwrap().rows, [(Space::Meta, b"new".to_vec(), Bytes::from("y"))]);
}

// One process at a time.

#[test]
fn a_second_open_is_told_who_has_the_store() {
    let home = TempDir::new().unwrap();
    let (store, ..) = open(home.path());
    let (tx, _rx) = mpsc::channel(1);
    let error = FjallStore::open(&home.path().join("store"), tx.clone()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { pid, .. } if pid == std::process::id()), "{error}");
    drop(store);
    assert!(FjallStore::open(&home.path().join("store"), tx).is_ok());
}

// Damage.

const BATCHES: u64 = 40;

/// A home whose journal holds [`BATCHES`] batches and ends with the last of them.
fn written_home() -> TempDir {
    let home = TempDir::new().unwrap();
    drop(open(home.path()));
    // The second open cuts the zeroes that a new journal is filled with, so that copies are small.
    let (store, mut notes, _) = open(home.path());
    for n in 1..=BATCHES {
        store.commit(n, numbered(n));
        wait_durable(&mut notes, n); // so that each is a batch of its own in the journal
    }
    drop(store);
    assert!(super::journal::batch_ends(&journal(home.path())).len() as u64 >= BATCHES);
    home
}

fn journal(home: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(home.join("store/db")).unwrap().map(|entry| entry.unwrap().path());
    let mut journals: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "jnl")).collect();
    assert_eq!(journals.len(), 1);
    journals.swap_remove(0)
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
    /// Zeroes after the end, as a new journal has them.
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

/// Opens a damaged copy of `home`. Whatever is there is a beginning of what was written; all that lies before the damage
/// is there; and when anything promised is missing, that is said, until the core has written to its own rows again.
fn survives(home: &Path, damage: &Damage) {
    let copy = TempDir::new().unwrap();
    copy_tree(home, copy.path());
    let path = journal(copy.path());
    let mut bytes = fs::read(&path).unwrap();
    let ends = super::journal::batch_ends(&journal(home));
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
    assert_eq!(report.rolled_back, store.image().unwrap().rolled_back);
    if found < BATCHES {
        assert!(report.rolled_back, "{report:?}");
    }
    for repair in &report.repaired {
        assert!(!repair.promised || repair.kept_at.as_ref().is_some_and(|kept| kept.exists()), "{report:?}");
        let kept = ends.iter().filter(|&&end| end <= repair.cut_at).count();
        assert!(kept == before || kept + is_suspect == before, "{report:?}");
    }
    // It works on, and the flag stays until the core wrote to its own rows.
    store.commit(1, numbered(found + 1));
    wait_durable(&mut notes, 1);
    drop(store);
    let (store, mut notes, again) = open(copy.path());
    assert_eq!(count(&store), found + 1);
    assert!(again.repaired.is_empty() && again.rolled_back == report.rolled_back, "{again:?}");
    store.commit(1, Batch { writes: vec![put(Space::Meta, "incarnation", "2")], sync: true });
    wait_durable(&mut notes, 1);
    drop(store);
    assert!(!open(copy.path()).2.rolled_back);
}

#[test]
fn damaged_journals_open_with_what_came_before() {
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
fn journals_after_a_damaged_one_are_not_applied_over_the_gap() {
    let home = written_home();
    let bytes = fs::read(journal(home.path())).unwrap();
    let dir = TempDir::new().unwrap();
    let (db, aside) = (dir.path().join("db"), dir.path().join("aside"));
    fs::create_dir_all(&db).unwrap();
    fs::create_dir_all(&aside).unwrap();
    let end = |batch: usize| usize::try_from(super::journal::batch_ends(&journal(home.path()))[batch]).unwrap();
    let (first, second, third) = (&bytes[..end(9)], &bytes[end(9)..end(19) - 5], &bytes[end(19)..]);
    for (name, bytes) in [("9.jnl", first), ("10.jnl", second), ("11.jnl", third)] {
        fs::write(db.join(name), bytes).unwrap();
    }
    // An unfinished tail is harmless in the newest journal only; here it is in the second of three.
    let repaired = super::journal::check(&db, || Ok(aside.clone())).unwrap();
    assert!(repaired.len() == 1 && repaired[0].journal == "10.jnl" && repaired[0].promised, "{repaired:?}");
    assert_eq!(fs::read(db.join("9.jnl")).unwrap(), first);
    assert_eq!(fs::metadata(db.join("10.jnl")).unwrap().len(), repaired[0].cut_at);
    assert!(!db.join("11.jnl").exists());
    assert_eq!(fs::read(aside.join("10.jnl")).unwrap(), second);
    assert_eq!(fs::read(aside.join("11.jnl")).unwrap(), third);
    assert!(super::journal::check(&db, || unreachable!()).unwrap().is_empty());
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
fn a_store_that_vanished_is_a_loss_until_a_mesh_is_written() {
    let home = written_home();
    fs::remove_dir_all(home.path().join("store")).unwrap();
    let (store, _, report) = open(home.path());
    assert!(report.created && report.rolled_back && report.lost.is_some());
    store.wipe_and_commit(Batch { writes: vec![put(Space::Meta, "mesh", "new")], sync: true }).unwrap();
    assert!(!store.image().unwrap().rolled_back);
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
        assert!(journal_in(&lost.kept_at.unwrap().join("db")), "{file} {bytes:?}");
        assert_eq!(count(&store), 0);
        store.commit(1, numbered(1));
        wait_durable(&mut notes, 1);
        drop(store);
        assert_eq!(count(&open(copy.path()).0), 1);
    }
}

fn journal_in(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| entry.unwrap().path().extension().is_some_and(|end| end == "jnl"))
}

#[test]
fn damage_to_a_journal_takes_nothing_that_is_in_tables() {
    let home = written_home();
    let (store, mut notes, _) = open(home.path());
    for n in 0..7_u8 {
        let writes = vec![put(Space::Calls, [n], vec![n; 1 << 20]), put(Space::Shell, [n], "x")];
        store.commit(u64::from(n) + 1, Batch { writes, sync: true });
    }
    wait_durable(&mut notes, 7);
    let deadline = std::time::SystemTime::now() + std::time::Duration::from_mins(1);
    while store.tables_on_disk() == 0 {
        assert!(std::time::SystemTime::now() < deadline, "the engine never moved the rows to a table");
        std::thread::yield_now();
    }
    drop(store);
    let path = journal(home.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (store, _, report) = open(home.path());
    assert!(report.lost.is_none() && report.repaired[0].promised && report.rolled_back);
    let (calls, shell) = (all(&store, Space::Calls), all(&store, Space::Shell));
    assert!((4..=7).contains(&calls.len()), "{}", calls.len());
    assert!(calls.iter().map(|(key, _)| key).eq(shell.iter().map(|(key, _)| key)), "one moment for all spaces");
    assert_eq!(all(&store, Space::Log).len() as u64, BATCHES);
}
