//! Memory of workspaces on this device: what `memory-core` decides, kept on disk and found again.
//!
//! Each workspace has a database of its own, opened when somebody asks and closed when nobody has for a while; one thread
//! owns it ([`MemoryHandle`]). A workspace is a set of items in signed groups, and what counts of them, which is in memory
//! while it is open. Nothing here knows HTTP, or who asks.
//!
//! The seam for models is `memory_core::compaction::Draft`, which takes a model's words after its own check, and
//! `memory_core::rank::Query`, which takes a vector: without a model both stay empty, and answers say so.

mod ask;
mod browse;
mod compact;
mod correct;
mod error;
mod forget;
mod handle;
mod held;
mod keys;
mod store;
#[cfg(test)]
mod tests;
mod workspace;

pub use ask::{Answer, Fact, Hit, Mode, Question, Said, Standing};
pub use browse::{Item, ItemState, Place, Stats, SummaryShown, Wanted};
pub use error::MemoryError;
pub use forget::{Forgotten, Selection};
pub use handle::{IDLE, MemoryHandle};
pub use workspace::{Appended, NewMessage, Outcome, Workspace};
