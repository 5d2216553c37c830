//! A database of one owner on this device's disk, on raw keys: locked, checked and repaired when it is opened, and
//! written by one thread that makes many batches durable with one fsync. Knows nothing of the mesh; `mesh::store` keeps
//! the core's rows on it.

mod batch;
#[cfg(test)]
mod crash_tests;
mod database;
mod engine;
mod error;
mod format;
mod high_water;
mod lock;
mod queue;
mod report;
mod shared;
#[cfg(test)]
mod tests;
mod wal;
mod writer;

pub use batch::{Batch, KEY_BYTES_MAX, Row, Write};
pub(crate) use engine::is_empty_range;
pub use engine::{Engine, Settings};
pub use error::StoreError;
pub use format::Format;
pub use report::{Loss, OpenReport, Repair};
pub use writer::DurableNote;
