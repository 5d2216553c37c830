//! The contract between the mesh and a store of the core's rows.

use std::fmt::Debug;
use std::ops::Bound;

use bytes::Bytes;
use mesh_core::io::{Batch, Image, Space, TxnId};

#[cfg(doc)]
use crate::store::DurableNote;
use crate::store::{Row, StoreError};

/// Rows of one moment, in the order of their keys.
pub type Snapshot = Box<dyn Iterator<Item = Result<Row, StoreError>> + Send>;

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
    /// All rows of the spaces that are [`Space::in_image`], and whether this store is older than it should be. That
    /// flag stays, also over restarts, until a batch that writes to [`Space::Meta`] is durable.
    fn image(&self) -> Result<Image, StoreError>;

    /// True while so much waits for the disk that whoever fills it should wait: well below what makes
    /// [`commit`](Store::commit) wait.
    fn is_behind(&self) -> bool;

    /// Hands a batch to the writer. Blocks the thread while 256 batches or 1 MiB wait: the disk is behind. One that
    /// need not be synced may wait 50 ms for others. After [`close`](Store::close) or a failure the batch is dropped.
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

    /// All rows of one moment: whole batches, and everything that is durable. Each with its key on disk, of which
    /// [`row_of`](super::row_of) tells the space. It costs disk for as long as it lives.
    fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Replaces one mesh by another: deletes all rows of the spaces that are [`Space::of_mesh`] and writes `batch`, in
    /// one atomic step that is durable on return. Batches committed before it are written before it. Blocks.
    fn wipe_and_commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Makes everything durable and ends the writer. Blocks. Harmless when called twice.
    fn close(&self);
}
