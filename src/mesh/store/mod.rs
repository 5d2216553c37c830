//! Where this peer keeps what it must not forget: spaces of rows, batches that are atomic over all of them, and one
//! writer that makes many batches durable with one fsync.

#[cfg(test)]
mod crash_tests;
mod disk;
mod high_water;
mod journal;
mod mem;
mod queue;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use mesh_core::io::{Batch, Image, Space, TxnId};

pub use disk::FjallStore;
pub use mem::MemStore;

/// Longest key, in bytes: what the storage engine can write, less one. The core's own are far shorter.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize - 1;

/// Key and value.
pub type Row = (Vec<u8>, Bytes);

/// A store of one peer. All methods may be called from any thread.
///
/// # What a read sees
/// [`get`](Store::get), [`range`](Store::range) and [`image`](Store::image) see every batch whose
/// [`commit`](Store::commit) returned before the read began, whether it is written or still queued. What they see may
/// not be durable yet: that is what [`DurableNote::Durable`] says. A range is not a snapshot: of a batch that another
/// thread commits meanwhile it may show some rows and not others.
///
/// # Failure
/// The first failed write or fsync ends the store: it is reported once as [`DurableNote::Failed`], nothing is written
/// or reported as durable any more, and reads answer with the same error. Only a new process with a new open may go on.
pub trait Store: Debug + Send + Sync {
    /// All rows of the spaces that are [`Space::in_image`], and whether this store is older than it should be. That flag
    /// stays, also over restarts, until a batch that writes to [`Space::Meta`] is durable.
    fn image(&self) -> Result<Image, StoreError>;

    /// Hands a batch to the writer. Blocks the thread while 256 batches or 1 MiB wait: the disk is behind. One that need
    /// not be synced may wait 50 ms for others. After [`close`](Store::close) or a failure the batch is dropped.
    fn commit(&self, txn: TxnId, batch: Batch);

    /// One value.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Rows between two keys in the order of their bytes, or the other way round; at most `limit`.
    fn range(
        &self,
        space: Space,
        start: Bound<Vec<u8>>,
        end: Bound<Vec<u8>>,
        reverse: bool,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// Replaces one mesh by another: deletes all rows of the spaces that are [`Space::of_mesh`] and writes `batch`, in
    /// one atomic step that is durable on return. Batches committed before it are written before it. Blocks.
    fn wipe_and_commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Makes everything durable and ends the writer. Blocks. Harmless when called twice.
    fn close(&self);
}

/// What the writer reports.
#[derive(Debug, Clone)]
pub enum DurableNote {
    /// This batch and all committed before it are durable. Numbers may be skipped: the highest counts.
    Durable(TxnId),
    /// The store has failed for good; see [`Store`].
    Failed(StoreError),
}

/// Why the store does not work.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error("the store `{dir}` is in use by process {pid}; one agent at a time may run on a home directory")]
    Locked {
        /// Which store.
        dir: PathBuf,
        /// Who; 0 when that could not be read.
        pid: u32,
    },
    /// A file or directory of ours cannot be used.
    #[error("{doing} `{path}`")]
    File {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The storage engine failed.
    #[error("{doing} in the local store")]
    Engine {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: Arc<fjall::Error>,
    },
    /// A key is empty or longer than [`KEY_BYTES_MAX`].
    #[error("a key of {len} bytes cannot be stored in `{}`", space.name())]
    BadKey {
        /// Where.
        space: Space,
        /// Its length.
        len: usize,
    },
    /// The writer is gone: the store was closed, or its thread died.
    #[error("the local store is closed")]
    Closed,
}

impl StoreError {
    fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source: Arc::new(source) }
    }

    fn engine(doing: &'static str) -> impl FnOnce(fjall::Error) -> Self {
        move |source| Self::Engine { doing, source: Arc::new(source) }
    }
}

/// What was found when the store was opened.
#[derive(Debug, Clone, Default)]
pub struct OpenReport {
    /// There was no store yet, or it was lost: this one is empty.
    pub created: bool,
    /// Journals that were cut at the last good batch.
    pub repaired: Vec<Repair>,
    /// The store could not be repaired, or vanished: membership, calls and history of this peer are gone from this
    /// device (its identity is not). People must be told.
    pub lost: Option<Loss>,
    /// The store is older than what it had made durable; see [`Store::image`].
    pub rolled_back: bool,
}

/// A journal that was damaged and repaired.
#[derive(Debug, Clone)]
pub struct Repair {
    /// Name of its file.
    pub journal: String,
    /// What was wrong, for people.
    pub why: &'static str,
    /// Where it was cut, in bytes from its beginning.
    pub cut_at: u64,
    /// Whether the cut can have taken rows that had been promised. A tail that was being written when the machine
    /// stopped had not been.
    pub promised: bool,
    /// Where the damaged file is kept; none for a mere unfinished tail.
    pub kept_at: Option<PathBuf>,
}

/// A store that was given up.
#[derive(Debug, Clone)]
pub struct Loss {
    /// Why, for people.
    pub why: String,
    /// Where what is left of it is kept.
    pub kept_at: Option<PathBuf>,
}

/// Whether no key can be in this range; collections panic when asked for such a one.
fn is_empty_range(start: &Bound<Vec<u8>>, end: &Bound<Vec<u8>>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end) | Bound::Included(end)) => start >= end,
    }
}

/// The same bounds, borrowed.
fn as_slices<'a>(start: &'a Bound<Vec<u8>>, end: &'a Bound<Vec<u8>>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice))
}
