//! State of an open engine that its readers and its writer share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::database::Database;
use super::error::StoreError;
use super::lock::Lock;
use super::queue::Queue;

pub(super) struct EngineState {
    pub(super) database: Database,
    pub(super) queue: Queue,
    failure: OnceLock<StoreError>,
    rolled_back: AtomicBool,
    // Last, so that it is unlocked when the database is gone.
    _lock: Lock,
}

impl EngineState {
    pub(super) fn new(database: Database, lock: Lock, rolled_back: bool) -> Self {
        let rolled_back = AtomicBool::new(rolled_back);
        Self { database, queue: Queue::default(), failure: OnceLock::new(), rolled_back, _lock: lock }
    }

    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failure.get().cloned()
    }

    /// Keeps the first failure; true for that one.
    pub(super) fn set_failure(&self, error: StoreError) -> bool {
        self.failure.set(error).is_ok()
    }

    pub(super) fn is_rolled_back(&self) -> bool {
        self.rolled_back.load(Ordering::Relaxed)
    }

    pub(super) fn begin_rollback(&self) {
        self.rolled_back.store(true, Ordering::Relaxed);
    }

    /// Ends a rollback; true if there was one.
    pub(super) fn end_rollback(&self) -> bool {
        self.rolled_back.swap(false, Ordering::Relaxed)
    }
}
