use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use mesh_core::io::{Batch, Space, Write};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{DurableNote, FjallStore, MemStore, OpenReport, Store, StoreError};

type Notes = mpsc::Receiver<DurableNote>;

fn open(home: &Path) -> (FjallStore, Notes, OpenReport) {
    let (tx, rx) = mpsc::channel(1024);
    let (store, report) = FjallStore::open(&home.join("store"), tx).unwrap();
    (store, rx, report)
}

fn put(space: Space, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) -> Write {
    Write { space, key: key.into(), value: Some(value.into()) }
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

// What becomes of a mesh.

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

#[test]
fn a_roll_back_ends_when_the_core_writes_its_own_rows() {
    let home = TempDir::new().unwrap();
    let (store, ..) = open(home.path());
    store.commit(1, Batch { writes: vec![put(Space::Log, "entry", "x")], sync: true });
    drop(store);
    std::fs::remove_dir_all(home.path().join("store")).unwrap();
    let (store, ..) = open(home.path());
    store.commit(1, Batch { writes: vec![put(Space::Log, "entry", "y")], sync: true });
    drop(store);
    let (store, _notes, report) = open(home.path());
    assert!(report.rolled_back && store.image().unwrap().rolled_back);
    store.commit(1, Batch { writes: vec![put(Space::Meta, "incarnation", "2")], sync: true });
    drop(store);
    let (store, _notes, report) = open(home.path());
    assert!(!report.rolled_back && !store.image().unwrap().rolled_back);
}

#[test]
fn a_store_that_vanished_is_rolled_back_until_a_mesh_is_written() {
    let home = TempDir::new().unwrap();
    let (store, ..) = open(home.path());
    store.commit(1, Batch { writes: vec![put(Space::Log, "entry", "x")], sync: true });
    drop(store);
    std::fs::remove_dir_all(home.path().join("store")).unwrap();
    let (store, _notes, report) = open(home.path());
    assert!(report.created && report.rolled_back && report.lost.is_some());
    store.wipe_and_commit(Batch { writes: vec![put(Space::Meta, "mesh", "new")], sync: true }).unwrap();
    assert!(!store.image().unwrap().rolled_back);
}

#[test]
fn a_home_without_a_format_number_is_refused_untouched() {
    let home = TempDir::new().unwrap();
    drop(open(home.path()));
    std::fs::remove_file(home.path().join("store/format")).unwrap();
    let error = FjallStore::open(&home.path().join("store"), mpsc::channel(1).0).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 1, readable: 3, .. }), "{error:?}");
    assert!(error.to_string().contains("join the mesh again"), "{error}");
}
