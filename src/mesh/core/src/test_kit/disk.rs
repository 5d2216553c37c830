//! A disk that forgets what was not synced: rows as applied, and the batches that a crash could still undo.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use crate::entry::SignedEntry;
use crate::ids::{Incarnation, PeerId, ReqId};
use crate::io::{Batch, Image, Space, TxnId, Write};
use crate::limits;
use crate::rows::{self, Row, RowKey};

/// The rows of each space, in the order of [`Space::ALL`].
#[derive(Debug, Clone, Default)]
struct Rows([BTreeMap<Vec<u8>, Bytes>; Space::ALL.len()]);

impl Rows {
    fn space(&self, space: Space) -> &BTreeMap<Vec<u8>, Bytes> {
        &self.0[space as usize]
    }

    /// Returns what was there before.
    fn set(&mut self, space: Space, key: &[u8], value: Option<Bytes>) -> Option<Bytes> {
        let rows = &mut self.0[space as usize];
        match value {
            None => rows.remove(key),
            Some(value) => match rows.get_mut(key) {
                Some(row) => Some(std::mem::replace(row, value)),
                None => rows.insert(key.to_vec(), value),
            },
        }
    }
}

/// A batch that is not durable yet, and what its rows held before.
#[derive(Debug, Clone)]
struct Pending {
    txn: TxnId,
    batch: Batch,
    before: Vec<Option<Bytes>>,
}

/// The state of a disk at some time, as a backup or a copied image would hold it.
#[derive(Debug, Clone)]
pub struct Snapshot(Rows);

impl Snapshot {
    /// The keys of a space.
    pub fn keys(&self, space: Space) -> impl Iterator<Item = &[u8]> {
        self.0.space(space).keys().map(Vec::as_slice)
    }

    /// The rows of a space.
    pub fn rows(&self, space: Space) -> impl Iterator<Item = &Bytes> {
        self.0.space(space).values()
    }
}

/// The store of one simulated peer.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    applied: Rows,
    pending: VecDeque<Pending>,
    /// Last transaction of the sync that is on its way.
    pub syncing: Option<TxnId>,
}

/// Two disks are the same when their rows are, and what a crash would leave of them.
impl Hash for MemDisk {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (space, rows) in self.applied.0.iter().enumerate() {
            space.hash(state);
            rows.hash(state);
        }
        for pending in &self.pending {
            pending.before.hash(state);
            pending.batch.sync.hash(state);
            for write in &pending.batch.writes {
                (write.space as usize, &write.key, &write.value).hash(state);
            }
        }
        self.syncing.hash(state);
    }
}

impl MemDisk {
    /// A new mesh begins: rows of the former one go, these come, durable at once.
    pub fn reset(&mut self, batch: &Batch) {
        self.crash(0);
        for space in Space::ALL.into_iter().filter(|space| space.of_mesh()) {
            self.applied.0[space as usize].clear();
        }
        for Write { space, key, value } in &batch.writes {
            self.applied.set(*space, key, value.clone());
        }
    }

    /// Takes a batch; it is visible at once and durable later.
    pub fn commit(&mut self, txn: TxnId, batch: Batch) {
        let before = batch.writes.iter().map(|write| self.applied.set(write.space, &write.key, write.value.clone()));
        let before = before.collect();
        self.pending.push_back(Pending { txn, batch, before });
    }

    /// Begins a sync if one is due and none runs. Batches that nobody waits for go along with those that are waited
    /// for.
    pub fn begin_sync(&mut self) -> Option<TxnId> {
        if self.syncing.is_some() || !self.pending.iter().any(|pending| pending.batch.sync) {
            return None;
        }
        self.syncing = self.pending.back().map(|pending| pending.txn);
        self.syncing
    }

    /// The sync is done: returns the batches that became durable by it.
    pub fn end_sync(&mut self, upto: TxnId) -> Vec<Batch> {
        self.syncing = None;
        let count = self.pending.iter().take_while(|pending| pending.txn <= upto).count();
        self.pending.drain(..count).map(|pending| pending.batch).collect()
    }

    /// Power fails, and the first `survivors` un-synced batches happen to have reached the disk: returns those.
    pub fn crash(&mut self, survivors: usize) -> Vec<Batch> {
        self.syncing = None;
        while self.pending.len() > survivors {
            let Some(Pending { batch, before, .. }) = self.pending.pop_back() else { break };
            for (write, before) in batch.writes.iter().zip(before).rev() {
                self.applied.set(write.space, &write.key, before);
            }
        }
        self.pending.drain(..).map(|pending| pending.batch).collect()
    }

    /// Batches not yet durable.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// State that a crash would leave now.
    pub fn snapshot(&self) -> Snapshot {
        let mut rows = self.applied.clone();
        for pending in self.pending.iter().rev() {
            for (write, before) in pending.batch.writes.iter().zip(&pending.before).rev() {
                rows.set(write.space, &write.key, before.clone());
            }
        }
        Snapshot(rows)
    }

    /// The rows as the process sees them, durable or not.
    pub fn state(&self) -> Snapshot {
        Snapshot(self.applied.clone())
    }

    /// A backup is played back: everything since is gone.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        self.pending.clear();
        self.syncing = None;
        self.applied = snapshot.0.clone();
    }

    /// Image that the core is booted with; nothing is pending when it starts.
    pub fn image(&self) -> Image {
        let rows = Space::ALL.into_iter().filter(|space| space.in_image()).flat_map(|space| {
            self.applied.space(space).iter().map(move |(key, value)| (space, key.clone(), value.clone()))
        });
        Image { rows: rows.collect(), rolled_back: false }
    }

    /// A row as the process sees it.
    pub fn applied(&self, space: Space, key: &[u8]) -> Option<&Bytes> {
        self.applied.space(space).get(key)
    }

    /// A row that would survive a crash now.
    pub fn durable(&self, space: Space, key: &[u8]) -> Option<&Bytes> {
        for pending in &self.pending {
            let at = pending.batch.writes.iter().position(|write| write.space == space && write.key == key);
            if let Some(before) = at.and_then(|at| pending.before.get(at)) {
                return before.as_ref();
            }
        }
        self.applied(space, key)
    }

    /// As [`Self::applied`], read; `None` also when it is damaged.
    pub fn applied_row<T: Row>(&self, at: &RowKey<T>) -> Option<T> {
        at.read(self.applied(at.space, &at.key)?)
    }

    /// As [`Self::durable`], read; `None` also when it is damaged.
    pub fn durable_row<T: Row>(&self, at: &RowKey<T>) -> Option<T> {
        at.read(self.durable(at.space, &at.key)?)
    }

    /// True if a crash now would leave this row.
    pub fn keeps<T>(&self, at: &RowKey<T>) -> bool {
        self.durable(at.space, &at.key).is_some()
    }

    /// True if the process sees this row.
    pub fn has<T>(&self, at: &RowKey<T>) -> bool {
        self.applied(at.space, &at.key).is_some()
    }

    /// Rows of a space whose keys lie in the range, as the process sees them.
    pub fn scan(&self, space: Space, from: Vec<u8>, to: Vec<u8>) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.applied.space(space).range(from..=to).map(|(key, value)| (key.as_slice(), value))
    }

    /// Rows of one author's logs, as the process sees them.
    pub fn logs_of<'a>(&'a self, author: &PeerId) -> impl Iterator<Item = (&'a [u8], &'a Bytes)> + use<'a> {
        let (first, last) = rows::logs_of(author);
        self.scan(Space::Log, first, last)
    }

    /// Entries of these ranges (author, incarnation, first, last), until their bytes reach [`limits::SYNC_BYTES_MAX`];
    /// true when there is more. `read` decodes a row.
    pub fn read_log_by(
        &self,
        ranges: &[(PeerId, Incarnation, u64, u64)],
        read: impl Fn(&[u8], &Bytes) -> Option<SignedEntry>,
    ) -> (Vec<SignedEntry>, bool) {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (author, incarnation, first, last) in ranges {
            if first > last {
                continue;
            }
            let key = |seq| rows::entry(author, *incarnation, seq).key;
            for (key, value) in self.scan(Space::Log, key(*first), key(*last)) {
                if bytes + value.len() > limits::SYNC_BYTES_MAX && !entries.is_empty() {
                    return (entries, true);
                }
                bytes += value.len();
                entries.extend(read(key, value));
            }
        }
        (entries, false)
    }

    /// Rows of closed calls, until their bytes reach [`limits::SYNC_BYTES_MAX`]; true when there is more.
    pub fn read_closed(&self, first: &ReqId, last: &ReqId) -> (Vec<(ReqId, Bytes)>, bool) {
        let mut calls = Vec::new();
        let mut bytes = 0;
        for (key, row) in self.scan(Space::Calls, first.0.to_vec(), last.0.to_vec()) {
            if bytes + row.len() > limits::SYNC_BYTES_MAX && !calls.is_empty() {
                return (calls, true);
            }
            bytes += row.len();
            calls.extend(ReqId::from_slice(key).map(|id| (id, row.clone())));
        }
        (calls, false)
    }

    /// As [`Self::read_log_by`], decoding each row. One that holds an entry of another place does not count.
    pub fn read_log(&self, ranges: &[(PeerId, Incarnation, u64, u64)]) -> (Vec<SignedEntry>, bool) {
        let is_at = |entry: &SignedEntry, key: &[u8]| rows::place_of(key) == Some(entry.place());
        self.read_log_by(ranges, |key, value| SignedEntry::from_stored(value).filter(|entry| is_at(entry, key)))
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(disk.durable(Space::Meta, b"k"), None);
        disk.commit(2, batch(b"2", true));
        assert_eq!(disk.begin_sync(), Some(2));
        disk.commit(3, batch(b"3", true));
        assert_eq!(disk.begin_sync(), None, "one runs already");
        assert_eq!(disk.end_sync(2).len(), 2);
        assert_eq!(disk.durable(Space::Meta, b"k").unwrap().as_ref(), b"2");
        assert_eq!(disk.applied(Space::Meta, b"k").unwrap().as_ref(), b"3");
        disk.commit(4, batch(b"4", true));
        assert_eq!(disk.durable(Space::Meta, b"k").unwrap().as_ref(), b"2");
        assert_eq!(disk.crash(1).len(), 1);
        assert_eq!(disk.applied(Space::Meta, b"k").unwrap().as_ref(), b"3");
        assert_eq!(disk.pending(), 0);
    }

    #[test]
    fn a_backup_comes_back_as_it_was() {
        let mut disk = MemDisk::default();
        disk.reset(&batch(b"old", true));
        disk.commit(1, batch(b"new", true));
        let backup = disk.snapshot();
        disk.end_sync(1);
        disk.restore(&backup);
        assert_eq!(disk.durable(Space::Meta, b"k").unwrap().as_ref(), b"old");
    }

    #[test]
    fn spaces_are_numbered_as_they_are_listed() {
        assert!(Space::ALL.into_iter().enumerate().all(|(number, space)| space as usize == number));
    }
}
