//! Failures of memory.

use memory_core::item::InvalidMessage;

use crate::store::StoreError;

/// Why memory did not do what was asked. Nothing of it was stored.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A message breaks a limit.
    #[error(transparent)]
    Message(#[from] InvalidMessage),
    /// There is no message with this id, or it is forgotten.
    #[error("there is no message `{0}`, or it is forgotten")]
    UnknownItem(String),
    /// The database on disk does not work.
    #[error("the memory on this device's disk does not work")]
    Store(#[from] StoreError),
    /// Rows of the database are none that this program writes.
    #[error("the memory on this device's disk is damaged: {0}")]
    Damaged(&'static str),
    /// The agent is stopping, or the thread that owned the database broke down.
    #[error("the agent is stopping, or its memory has just been closed")]
    Closed,
}
