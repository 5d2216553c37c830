//! The rows of this peer's core: spaces of rows, and batches that are atomic over all of them, on an engine of
//! [`crate::store`].

mod contract;
mod disk;
mod keys;
mod mem;
#[cfg(test)]
mod tests;

pub use contract::{Snapshot, Store};
pub use disk::{FORMAT_NUMBER, FjallStore};
pub use keys::row_of;
pub use mem::MemStore;

pub use crate::store::{DurableNote, OpenReport, Row, StoreError};
