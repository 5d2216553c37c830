//! The one thread that writes. It takes all that is queued, writes it as one atomic batch of the database, syncs once
//! if any of it was promised, and reports. What arrives meanwhile is the next group: no timer, and the slower the disk,
//! the larger the groups.

use std::sync::Arc;
use std::time::Duration;

use fjall::PersistMode;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::batch::{Batch, Rows, merge};
use super::error::StoreError;
use super::high_water::HighWater;
use super::queue::{Group, Replacement, Work};
use super::shared::EngineState;

/// Rows that nothing waits for, and the high-water mark, are synced after this much quiet.
const IDLE_SYNC: Duration = Duration::from_secs(1);
/// The high-water mark is synced at most this often while writing goes on: with every group it would double the cost.
const HIGH_WATER_SYNC_MS: u64 = 1_000;
/// Pause before another try when the receiver of the notes is behind.
const NOTE_RETRY: Duration = Duration::from_millis(5);

/// A report of the writer.
#[derive(Debug, Clone)]
pub enum DurableNote {
    /// This batch and all committed before it are durable. Numbers may be skipped: the highest counts.
    Durable(u64),
    /// The engine has failed for good; see [`Engine`](super::Engine).
    Failed(StoreError),
}

pub(super) struct Writer {
    shared: Arc<EngineState>,
    durable: mpsc::Sender<DurableNote>,
    high_water: HighWater,
    /// Number of the newest group; a row of the database has it.
    seq: u64,
    state: State,
}

/// Set, it leaves out the fsync: so the crash tests can show that they would notice.
#[cfg(test)]
pub(super) const NO_FSYNC: &str = "SIGIL_STORE_TEST_NO_FSYNC";

fn persist_mode() -> PersistMode {
    #[cfg(test)]
    if std::env::var_os(NO_FSYNC).is_some() {
        return PersistMode::Buffer;
    }
    PersistMode::SyncData
}

#[derive(Default)]
struct State {
    /// True if anything is written and not yet synced.
    unsynced: bool,
    /// Newest batch among it.
    unsynced_txn: Option<u64>,
    /// The note that could not be sent yet.
    note: Option<DurableNote>,
    /// Time of the high-water mark's last sync.
    high_water_synced_ms: u64,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<EngineState>,
        durable: mpsc::Sender<DurableNote>,
        high_water: HighWater,
        seq: u64,
    ) -> Self {
        Self { shared, durable, high_water, seq, state: State::default() }
    }

    pub(super) fn run(mut self) {
        loop {
            let result = match self.shared.queue.take(self.patience()) {
                Work::Write(group) => self.write(&group),
                Work::Replace(Replacement { prefixes, batch, reply }) => {
                    let result = self.replace(&prefixes, batch);
                    let _ = reply.send(result.clone());
                    result
                }
                Work::Fail(error) => Err(error),
                Work::Idle if self.state.note.is_some() => Ok(()),
                Work::Idle => self.sync().and_then(|()| self.high_water.sync()),
                Work::Close => break,
            };
            if let Err(error) = result {
                self.fail(error);
            }
            self.send_note();
        }
        if let Err(error) = self.sync().and_then(|()| self.high_water.sync()) {
            self.fail(error);
        }
        self.send_note();
    }

    /// Time to wait for work before something else is due.
    fn patience(&self) -> Option<Duration> {
        let due = self.state.unsynced || self.high_water.unsynced();
        match (&self.state.note, due && self.shared.failure().is_none()) {
            (Some(_), _) => Some(NOTE_RETRY),
            (None, true) => Some(IDLE_SYNC),
            (None, false) => None,
        }
    }

    fn write(&mut self, group: &Group) -> Result<(), StoreError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        self.apply(&group.rows, group.ends_rollback)?;
        self.shared.queue.written();
        self.state.unsynced = true;
        self.state.unsynced_txn = group.txn;
        if group.sync { self.sync() } else { Ok(()) }
    }

    /// Writes one atomic batch. Not durable yet.
    fn apply(&mut self, rows: &Rows, ends_rollback: bool) -> Result<(), StoreError> {
        self.seq += 1;
        let end_rollback = ends_rollback && self.shared.end_rollback();
        self.shared.database.write(self.seq, rows, end_rollback)
    }

    /// Makes durable what is written, and notes it.
    fn sync(&mut self) -> Result<(), StoreError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        if !self.state.unsynced {
            return Ok(());
        }
        self.shared.database.db.persist(persist_mode()).map_err(StoreError::engine("syncing"))?;
        self.state.unsynced = false;
        if let Some(txn) = self.state.unsynced_txn.take() {
            self.state.note = Some(DurableNote::Durable(txn));
            self.send_note();
        }
        self.high_water.raise(self.seq)?;
        let now = crate::platform::boottime_ms();
        if now.saturating_sub(self.state.high_water_synced_ms) >= HIGH_WATER_SYNC_MS {
            self.state.high_water_synced_ms = now;
            self.high_water.sync()?;
        }
        Ok(())
    }

    /// See [`super::Engine::replace`]. The whole change is one batch in memory: it is made once in a while.
    fn replace(&mut self, prefixes: &[Vec<u8>], batch: Batch) -> Result<(), StoreError> {
        self.sync()?;
        let mut rows = Rows::new();
        for prefix in prefixes {
            for guard in self.shared.database.rows.prefix(prefix) {
                let key = guard.key().map_err(StoreError::engine("reading"))?;
                rows.insert(key.to_vec(), None);
            }
        }
        merge(&mut rows, batch.writes, &mut 0)?;
        self.apply(&rows, batch.ends_rollback)?;
        self.state.unsynced = true;
        self.sync()?;
        self.high_water.sync()
    }

    fn fail(&mut self, error: StoreError) {
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
