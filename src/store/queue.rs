//! Batches that wait for the writer: one open group of rows, of each key the last write. Readers look here before they
//! ask the database. A group that nothing waits for is left open for a moment: most often something that must be synced
//! follows, and both cost one write and one waking of the writer.

use std::ops::Bound;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::batch::{Batch, Rows, merge};
use super::error::StoreError;

/// Batches in one group. More means that the disk is behind, and whoever commits has to wait.
const GROUP_BATCHES_MAX: usize = 256;
/// A group is full when its values reach this many bytes: it bounds memory, and how long the first of it waits.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Time for which a group that nothing waits for stays open.
const LINGER: Duration = Duration::from_millis(50);

/// State of a key in the queue.
pub(super) enum Found {
    /// Its newest value.
    Row(Bytes),
    /// That it is deleted.
    Deleted,
    /// Unknown here: ask the database.
    Nothing,
}

/// Batches that are written as one.
#[derive(Default)]
pub(super) struct Group {
    pub(super) rows: Arc<Rows>,
    /// Number of the newest batch.
    pub(super) txn: Option<u64>,
    /// True if somebody waits until it is durable.
    pub(super) sync: bool,
    /// True if one of its batches ends a rollback.
    pub(super) ends_rollback: bool,
    batches: usize,
    bytes: usize,
}

impl Group {
    fn is_full(&self) -> bool {
        self.holds(1)
    }

    /// True if the group has reached this part of what one may hold.
    fn holds(&self, part: usize) -> bool {
        self.batches >= GROUP_BATCHES_MAX / part || self.bytes >= GROUP_BYTES_MAX / part
    }
}

/// The writer's next task.
pub(super) enum Work {
    Write(Group),
    Replace(Replacement),
    /// A batch could not be taken.
    Fail(StoreError),
    Close,
    /// Nothing came in time.
    Idle,
}

/// Rows that are to take the place of all those under some prefixes.
pub(super) struct Replacement {
    pub(super) prefixes: Vec<Vec<u8>>,
    pub(super) batch: Batch,
    pub(super) reply: SyncSender<Result<(), StoreError>>,
}

#[derive(Default)]
struct State {
    open: Group,
    /// Taken by the writer, and not in the database yet.
    writing: Arc<Rows>,
    replacement: Option<Replacement>,
    failed: Option<StoreError>,
    closed: bool,
    /// The writer waits for anything at all, not only for what is urgent.
    asleep: bool,
}

impl State {
    /// `lingered`: what nothing waits for has been left open long enough.
    fn next(&mut self, lingered: bool) -> Option<Work> {
        if let Some(error) = self.failed.take() {
            return Some(Work::Fail(error));
        }
        let urgent = self.open.sync || self.open.is_full() || self.replacement.is_some() || self.closed;
        if self.open.batches > 0 && (urgent || lingered) {
            let group = std::mem::take(&mut self.open);
            self.writing = group.rows.clone();
            return Some(Work::Write(group));
        }
        if let Some(replacement) = self.replacement.take() {
            return Some(Work::Replace(replacement));
        }
        self.closed.then_some(Work::Close)
    }
}

/// Between those who commit and read, and the writer.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while the open group has a quarter of what it may hold.
    pub(super) fn is_behind(&self) -> bool {
        self.state().open.holds(4)
    }

    /// Adds a batch to the open group. Blocks while that is full.
    pub(super) fn put(&self, txn: u64, batch: Batch) -> Result<(), StoreError> {
        let mut state = self.state();
        while state.open.is_full() && !state.closed {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(StoreError::Closed);
        }
        let open = &mut state.open;
        let merged = merge(Arc::make_mut(&mut open.rows), batch.writes, &mut open.bytes);
        open.batches += 1;
        open.txn = Some(txn);
        open.sync |= batch.sync;
        open.ends_rollback |= batch.ends_rollback;
        if let Err(error) = merged {
            state.failed = Some(error);
        }
        if state.open.sync || state.open.is_full() || state.failed.is_some() || state.asleep {
            state.asleep = false;
            self.work.notify_one();
        }
        Ok(())
    }

    /// Asks for a replacement, after all that was put before.
    pub(super) fn replace(
        &self,
        prefixes: Vec<Vec<u8>>,
        batch: Batch,
        reply: SyncSender<Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.closed {
            return Err(StoreError::Closed);
        }
        state.replacement = Some(Replacement { prefixes, batch, reply });
        self.work.notify_one();
        Ok(())
    }

    /// Takes nothing more; the writer ends after what is queued.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.work.notify_one();
        self.room.notify_all();
    }

    /// Waits for work, at most this long if there is a limit.
    pub(super) fn take(&self, limit: Option<Duration>) -> Work {
        let mut state = self.state();
        let mut waited = Duration::ZERO;
        loop {
            let lingered = waited >= LINGER;
            if let Some(work) = state.next(lingered) {
                self.room.notify_all();
                return work;
            }
            if limit.is_some_and(|limit| waited >= limit) {
                return Work::Idle;
            }
            state.asleep = lingered;
            let next = if lingered { limit } else { Some(limit.map_or(LINGER, |limit| limit.min(LINGER))) };
            let Some(next) = next else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                waited = Duration::ZERO;
                continue;
            };
            let pause = next.saturating_sub(waited);
            let (woken, timeout) = self.work.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            waited = if timeout.timed_out() { waited + pause } else { Duration::ZERO };
        }
    }

    /// The group that was taken last can be read from the database now.
    pub(super) fn written(&self) {
        self.state().writing = Arc::default();
    }

    /// Newest queued state of this key.
    pub(super) fn get(&self, key: &[u8]) -> Found {
        let state = self.state();
        match state.open.rows.get(key).or_else(|| state.writing.get(key)) {
            Some(Some(value)) => Found::Row(value.clone()),
            Some(None) => Found::Deleted,
            None => Found::Nothing,
        }
    }

    /// Queued rows of this range.
    pub(super) fn range(&self, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> Rows {
        let state = self.state();
        let older = state.writing.range::<[u8], _>(bounds);
        older.chain(state.open.rows.range::<[u8], _>(bounds)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}
