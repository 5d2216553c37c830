//! The one thread that writes. It takes all that is queued, writes it as one atomic batch of the engine, syncs once if
//! any of it was promised, and reports. What arrives meanwhile is the next group: no timer, and the slower the disk,
//! the larger the groups.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;

use fjall::PersistMode;
use mesh_core::io::{Batch, Space, TxnId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::disk::{ROLLED_BACK, SEQ, Shared, stored_key};
use super::high_water::HighWater;
use super::{DurableNote, Merged, StoreError, merge};

/// A group is closed when its values reach this many bytes: it bounds memory, and how long the first of it waits.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Rows that nothing waits for, and the high-water mark, are synced after this much quiet.
const IDLE_SYNC: Duration = Duration::from_secs(1);
/// The high-water mark is synced at most this often while writing goes on: with every group it would double the cost.
const MARK_SYNC_MS: u64 = 1_000;
/// How soon to try again when the receiver of the notes is behind.
const NOTE_RETRY: Duration = Duration::from_millis(5);

pub(super) enum Job {
    Commit(TxnId, u64, Batch),
    Wipe(u64, Batch, SyncSender<Result<(), StoreError>>),
    Close,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) jobs: Receiver<Job>,
    pub(super) durable: mpsc::Sender<DurableNote>,
    pub(super) mark: HighWater,
    /// Number of the newest group; the row [`SEQ`] has it.
    pub(super) seq: u64,
    pub(super) state: State,
}

#[derive(Default)]
pub(super) struct State {
    /// Whether anything is written and not yet synced.
    unsynced: bool,
    /// Newest batch among it.
    unsynced_txn: Option<TxnId>,
    /// What could not be sent yet.
    note: Option<DurableNote>,
    /// When the mark was last synced.
    mark_synced_ms: u64,
}

#[derive(Default)]
struct Group {
    rows: Merged,
    ticket: u64,
    txn: Option<TxnId>,
    sync: bool,
    bytes: usize,
}

impl Writer {
    pub(super) fn run(mut self) {
        let mut next = None;
        loop {
            let Some(job) = next.take().or_else(|| self.wait()) else { break };
            match job {
                Job::Commit(txn, ticket, batch) => {
                    let mut group = Group::default();
                    let added = self.add(&mut group, txn, ticket, batch);
                    let gathered = added.and_then(|()| self.gather(&mut group, &mut next));
                    if let Err(error) = gathered.and_then(|()| self.write(group)) {
                        self.fail(error);
                    }
                }
                Job::Wipe(ticket, batch, reply) => {
                    let result = self.wipe(ticket, batch);
                    if let Err(error) = &result {
                        self.fail(error.clone());
                    }
                    let _ = reply.send(result);
                }
                Job::Close => break,
            }
            self.send_note();
        }
        if let Err(error) = self.sync().and_then(|()| self.mark.sync()) {
            self.fail(error);
        }
        self.send_note();
    }

    /// The next job, doing what falls due while there is none.
    fn wait(&mut self) -> Option<Job> {
        loop {
            let due = self.state.unsynced || self.mark.unsynced();
            let timeout = match (&self.state.note, due && self.shared.failure().is_none()) {
                (Some(_), _) => NOTE_RETRY,
                (None, true) => IDLE_SYNC,
                (None, false) => return self.jobs.recv().ok(),
            };
            match self.jobs.recv_timeout(timeout) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.state.note.is_some() => self.send_note(),
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.sync().and_then(|()| self.mark.sync()) {
                        self.fail(error);
                    }
                    self.send_note();
                }
            }
        }
    }

    fn add(&self, group: &mut Group, txn: TxnId, ticket: u64, batch: Batch) -> Result<(), StoreError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        group.bytes +=
            batch.writes.iter().map(|write| write.value.as_ref().map_or(0, bytes::Bytes::len)).sum::<usize>();
        group.sync |= batch.sync;
        group.ticket = ticket;
        group.txn = Some(txn);
        merge(&mut group.rows, batch)
    }

    /// Takes what is queued already.
    fn gather(&self, group: &mut Group, next: &mut Option<Job>) -> Result<(), StoreError> {
        while group.bytes < GROUP_BYTES_MAX {
            match self.jobs.try_recv() {
                Ok(Job::Commit(txn, ticket, batch)) => self.add(group, txn, ticket, batch)?,
                Ok(job) => {
                    *next = Some(job);
                    break;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        Ok(())
    }

    fn write(&mut self, group: Group) -> Result<(), StoreError> {
        self.apply(group.rows)?;
        self.shared.applied(group.ticket);
        self.state.unsynced = true;
        self.state.unsynced_txn = group.txn;
        if group.sync { self.sync() } else { Ok(()) }
    }

    /// One atomic batch of the engine. Not durable yet.
    fn apply(&mut self, rows: Merged) -> Result<(), StoreError> {
        let Shared { tables, .. } = &*self.shared;
        let mut batch = tables.db.batch();
        let renewed = rows.keys().any(|(space, _)| *space == Space::Meta);
        for ((space, key), value) in rows {
            match value {
                Some(value) => batch.insert(&tables.rows, stored_key(space, &key), &*value),
                None => batch.remove(&tables.rows, stored_key(space, &key)),
            }
        }
        self.seq += 1;
        batch.insert(&tables.rows, SEQ, self.seq.to_be_bytes());
        if renewed && self.shared.renew() {
            batch.remove(&tables.rows, ROLLED_BACK);
        }
        batch.commit().map_err(StoreError::engine("writing"))
    }

    /// Makes durable what is written, and notes it.
    fn sync(&mut self) -> Result<(), StoreError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        if !self.state.unsynced {
            return Ok(());
        }
        self.shared.tables.db.persist(PersistMode::SyncData).map_err(StoreError::engine("syncing"))?;
        self.state.unsynced = false;
        if let Some(txn) = self.state.unsynced_txn.take() {
            self.state.note = Some(DurableNote::Durable(txn));
            self.send_note();
        }
        self.mark.raise(self.seq)?;
        let now = crate::platform::boottime_ms();
        if now.saturating_sub(self.state.mark_synced_ms) >= MARK_SYNC_MS {
            self.state.mark_synced_ms = now;
            self.mark.sync()?;
        }
        Ok(())
    }

    /// See [`super::Store::wipe_and_commit`]. The whole change is one batch in memory: a mesh is left once in a while.
    fn wipe(&mut self, ticket: u64, batch: Batch) -> Result<(), StoreError> {
        self.sync()?;
        let mut rows = Merged::new();
        for space in Space::ALL.into_iter().filter(|space| space.of_mesh()) {
            for guard in self.shared.tables.rows.prefix(stored_key(space, &[])) {
                let key = guard.key().map_err(StoreError::engine("reading"))?;
                rows.insert((space, key.get(1..).unwrap_or_default().to_vec()), None);
            }
        }
        merge(&mut rows, batch)?;
        self.apply(rows)?;
        self.shared.applied(ticket);
        self.state.unsynced = true;
        self.sync()?;
        self.mark.sync()
    }

    pub(super) fn fail(&mut self, error: StoreError) {
        if self.shared.set_failure(error.clone()) {
            tracing::error!(error = ?error, "the local store has failed; nothing is written any more");
            self.state.note = Some(DurableNote::Failed(error));
        }
    }

    /// Notes are cumulative, so one that finds the channel full may be replaced by a newer one.
    fn send_note(&mut self) {
        let Some(note) = self.state.note.take() else { return };
        if let Err(TrySendError::Full(note)) = self.durable.try_send(note) {
            self.state.note = Some(note);
        }
    }
}
