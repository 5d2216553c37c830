//! The rows of this peer's core: spaces of rows, and batches that are atomic over all of them, on an engine of
//! [`crate::store`].

mod contract;
mod disk;
mod keys;
mod mem;
#[cfg(test)]
mod tests;

pub use contract::Store;
pub use disk::FjallStore;
pub use mem::MemStore;

pub use crate::store::{DurableNote, OpenReport, StoreError};
