//! The ledger of the blob store: how much lies in it, what nobody may take away just now, and what is gone for good.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use mesh_core::ids::Hash;
use tokio::sync::Notify;

use crate::mesh::clock;

/// Bytes of blobs that are kept besides those that are needed: beyond, the oldest go.
pub const KEPT_BYTES: u64 = 256 * 1024 * 1024;
/// Time for which arguments that a door has put in stay, in milliseconds: their call is accepted meanwhile.
pub(super) const PUT_MS: u64 = 60_000;
/// Time for which a blob that was just finished stays: its call has ended by then.
pub(super) const FINISHED_MS: u64 = 2_000;
/// Blobs of which is remembered that nobody has them any more.
const GONE_MAX: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    bytes: AtomicU64,
    swelled: Notify,
    /// By hash, our clock until which it stays.
    pinned: Mutex<BTreeMap<Hash, u64>>,
    gone: Mutex<VecDeque<Hash>>,
}

impl Ledger {
    /// So much lies in the store, as was counted.
    pub(super) fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.note_size();
    }

    /// As [`Self::set`], without asking for a look.
    pub(super) fn set_quietly(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// One more blob lies there, and stays for `pin_ms`.
    pub(super) fn add(&self, hash: Hash, bytes: u64, pin_ms: u64) {
        self.pin(hash, pin_ms);
        self.forget_gone(hash);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.note_size();
    }

    fn note_size(&self) {
        if self.bytes.load(Ordering::Relaxed) > KEPT_BYTES {
            self.swelled.notify_one();
        }
    }

    /// Bytes that lie in the store.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until more lies in the store than is kept.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn swelled(&self) {
        self.swelled.notified().await;
    }

    /// Asks for another look.
    pub(super) fn recheck_size(&self) {
        self.swelled.notify_one();
    }

    pub(super) fn pin(&self, hash: Hash, ms: u64) {
        let now_ms = clock::now().mono_ms;
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.retain(|_, until| *until > now_ms);
        let until = pinned.entry(hash).or_default();
        *until = (*until).max(now_ms + ms);
    }

    /// Blobs that stay for now.
    pub(super) fn pinned(&self) -> BTreeMap<Hash, u64> {
        let now_ms = clock::now().mono_ms;
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.retain(|_, until| *until > now_ms);
        pinned.clone()
    }

    #[cfg(test)]
    pub(super) fn unpin_all(&self) {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn note_gone(&self, hash: Hash) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if !gone.contains(&hash) {
            if gone.len() >= GONE_MAX {
                gone.pop_front();
            }
            gone.push_back(hash);
        }
    }

    pub(super) fn forget_gone(&self, hash: Hash) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != hash);
    }

    pub(super) fn is_gone(&self, hash: Hash) -> bool {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }
}
