//! A disk that forgets what was not synced: rows as applied, rows as durable, and the batches in between.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use mesh_core::io::{Batch, Image, Space, TxnId};

type Rows = BTreeMap<(Space, Vec<u8>), Bytes>;

/// The store of one simulated peer.
#[derive(Debug, Default)]
pub(crate) struct MemDisk {
    applied: Rows,
    durable: Rows,
    pending: VecDeque<(TxnId, Batch)>,
    /// Last transaction of the sync that is on its way.
    pub(crate) syncing: Option<TxnId>,
}

fn apply(rows: &mut Rows, batch: &Batch) {
    for write in &batch.writes {
        let key = (write.space, write.key.clone());
        match &write.value {
            Some(value) => rows.insert(key, value.clone()),
            None => rows.remove(&key),
        };
    }
}

impl MemDisk {
    /// A new mesh begins: rows of the former one go, these come, durable at once.
    pub(crate) fn reset(&mut self, batch: &Batch) {
        self.pending.clear();
        self.syncing = None;
        self.durable.retain(|(space, _), _| !space.of_mesh());
        apply(&mut self.durable, batch);
        self.applied = self.durable.clone();
    }

    /// Takes a batch; it is visible at once and durable later.
    pub(crate) fn commit(&mut self, txn: TxnId, batch: Batch) {
        apply(&mut self.applied, &batch);
        self.pending.push_back((txn, batch));
    }

    /// Begins a sync if one is due and none runs. Batches that nobody waits for go along with those that are waited for.
    pub(crate) fn begin_sync(&mut self) -> Option<TxnId> {
        if self.syncing.is_some() || !self.pending.iter().any(|(_, batch)| batch.sync) {
            return None;
        }
        self.syncing = self.pending.back().map(|(txn, _)| *txn);
        self.syncing
    }

    /// The sync is done: returns the batches that became durable by it.
    pub(crate) fn end_sync(&mut self, upto: TxnId) -> Vec<Batch> {
        self.syncing = None;
        let count = self.pending.iter().take_while(|(txn, _)| *txn <= upto).count();
        self.survive(count)
    }

    /// Power fails, and the first `survivors` un-synced batches happen to have reached the disk: returns those.
    pub(crate) fn crash(&mut self, survivors: usize) -> Vec<Batch> {
        let batches = self.survive(survivors);
        self.pending.clear();
        self.syncing = None;
        self.applied = self.durable.clone();
        batches
    }

    fn survive(&mut self, count: usize) -> Vec<Batch> {
        let batches: Vec<Batch> = self.pending.drain(..count).map(|(_, batch)| batch).collect();
        for batch in &batches {
            apply(&mut self.durable, batch);
        }
        batches
    }

    /// Batches not yet durable.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What the core is booted with.
    pub(crate) fn image(&self) -> Image {
        let rows = self.durable.iter().filter(|((space, _), _)| space.in_image());
        Image {
            rows: rows.map(|((space, key), value)| (*space, key.clone(), value.clone())).collect(),
            rolled_back: false,
        }
    }

    /// A row as the process sees it.
    pub(crate) fn applied(&self, space: Space, key: &[u8]) -> Option<&Bytes> {
        self.applied.get(&(space, key.to_vec()))
    }

    /// A row that would survive a crash now.
    pub(crate) fn durable(&self, space: Space, key: &[u8]) -> Option<&Bytes> {
        self.durable.get(&(space, key.to_vec()))
    }

    /// Rows of a space whose keys lie in the range, as the process sees them.
    pub(crate) fn scan(&self, space: Space, from: Vec<u8>, to: Vec<u8>) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.applied.range((space, from)..=(space, to)).map(|((_, key), value)| (key.as_slice(), value))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::io::Write;

    use super::*;

    fn batch(value: &'static [u8], sync: bool) -> Batch {
        Batch {
            writes: vec![Write { space: Space::Meta, key: b"k".to_vec(), value: Some(Bytes::from_static(value)) }],
            sync,
        }
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_what_was_not_synced() {
        let mut disk = MemDisk::default();
        disk.commit(1, batch(b"1", false));
        assert_eq!(disk.begin_sync(), None, "nobody waits");
        disk.commit(2, batch(b"2", true));
        assert_eq!(disk.begin_sync(), Some(2));
        disk.commit(3, batch(b"3", true));
        assert_eq!(disk.begin_sync(), None, "one runs already");
        assert_eq!(disk.end_sync(2).len(), 2);
        assert_eq!(disk.durable(Space::Meta, b"k").unwrap().as_ref(), b"2");
        assert_eq!(disk.applied(Space::Meta, b"k").unwrap().as_ref(), b"3");
        disk.commit(4, batch(b"4", true));
        assert_eq!(disk.crash(1).len(), 1);
        assert_eq!(disk.applied(Space::Meta, b"k").unwrap().as_ref(), b"3");
        assert_eq!(disk.pending(), 0);
    }
}
