//! Rows of memory for a backup, and back again.

use std::io;
use std::path::Path;

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;
use memory_core::ids::WorkspaceId;
use tokio::runtime::Handle;

use super::error::MemoryError;
use super::handle::MemoryHandle;
use super::keys;
use super::store::Store;
use crate::store::{Row, StoreError};

/// Rows come back in batches of this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Rows of a workspace at one moment, in the order of their keys, without those that are made anew from others.
pub type Rows = Box<dyn Iterator<Item = Result<Row, StoreError>> + Send>;

/// The workspaces of which something is kept in `dir`, the directory of all memory. None when it is not there.
///
/// # Errors
/// It cannot be looked into.
pub fn kept_in(dir: &Path) -> io::Result<Vec<WorkspaceId>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut kept = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().to_ascii_uppercase();
        let id = BASE32_NOPAD.decode(name.as_bytes()).ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        kept.extend(id.map(WorkspaceId));
    }
    kept.sort_unstable();
    Ok(kept)
}

/// The rows of a workspace in a home without an agent. Blocks.
///
/// # Errors
/// Its database is in use, or cannot be opened.
pub fn rows_of_stopped(dir: &Path, workspace: WorkspaceId) -> Result<Rows, MemoryError> {
    let (store, _) = Store::open(&dir.join(workspace.to_string()))?;
    let rows = rows_of(&store)?;
    // The database stays open for as long as its rows are read.
    Ok(Box::new(rows.inspect(move |_| {
        let _open = &store;
    })))
}

pub(super) fn rows_of(store: &Store) -> Result<Rows, MemoryError> {
    Ok(Box::new(store.rows()?.filter(|row| row.as_ref().map_or(true, |(key, _)| !keys::is_made_anew(key)))))
}

impl MemoryHandle {
    /// The rows of a workspace as they are now; memory goes on meanwhile. Blocks, on a thread that the runtime knows and that
    /// may block.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn rows(&self, workspace: WorkspaceId) -> Result<Rows, MemoryError> {
        Handle::current().block_on(self.run(workspace, |open| rows_of(&open.store)))
    }

    /// Somebody still reads rows of the workspace: it stays open for a while longer. Blocks likewise.
    ///
    /// # Errors
    /// It is closed.
    pub fn keep_open(&self, workspace: WorkspaceId) -> Result<(), MemoryError> {
        Handle::current().block_on(self.run(workspace, |_| Ok(())))
    }
}

/// A workspace whose rows come back into an empty directory.
#[derive(Debug)]
pub struct Returning {
    workspace: WorkspaceId,
    store: Store,
    batch: Vec<Row>,
    bytes: usize,
    last: Vec<u8>,
}

impl Returning {
    /// Begins with a workspace in `dir`, the directory of all memory. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub fn begin(dir: &Path, workspace: WorkspaceId) -> Result<Self, MemoryError> {
        let (store, _) = Store::open(&dir.join(workspace.to_string()))?;
        Ok(Self { workspace, store, batch: Vec::new(), bytes: 0, last: Vec::new() })
    }

    /// The workspace.
    #[must_use]
    pub fn workspace(&self) -> WorkspaceId {
        self.workspace
    }

    /// Takes the next row. Blocks now and then.
    ///
    /// # Errors
    /// It is out of order, or of no known kind; the disk.
    pub fn put(&mut self, key: Vec<u8>, value: Bytes) -> Result<(), MemoryError> {
        if key <= self.last || !keys::is_known(&key) || keys::is_made_anew(&key) {
            return Err(MemoryError::Damaged("a row of memory is out of order, or of no known kind"));
        }
        self.last.clone_from(&key);
        self.bytes += key.len() + value.len();
        self.batch.push((key, value));
        if self.bytes >= BATCH_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// All rows are back. What they say counts as older than what was said since, whether it is or not: the device goes on in
    /// a chain of its own. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub fn end(mut self) -> Result<(), MemoryError> {
        self.write()?;
        Ok(self.store.set_rolled_back()?)
    }

    fn write(&mut self) -> Result<(), MemoryError> {
        self.bytes = 0;
        let writes = std::mem::take(&mut self.batch).into_iter().map(|(key, value)| (key, Some(value))).collect();
        Ok(self.store.commit(writes, false)?)
    }
}
