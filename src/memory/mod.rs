//! Memory of workspaces on this device: what `memory-core` decides, kept on disk and found again.
//!
//! Each workspace has a database of its own, opened when somebody asks and closed when nobody has for a while; one thread
//! owns it ([`MemoryHandle`]). A workspace is a set of items in signed groups, and what counts of them, which is in memory
//! while it is open. Nothing here knows HTTP, or who asks.
//!
//! The seam for models is `memory_core::writing`, which takes of a model's words what passes its check, and
//! `memory_core::rank::Query`, which takes a vector: without a model both stay empty, and answers say so.

mod ask;
mod authors;
mod browse;
mod compact;
mod copies;
mod correct;
#[cfg(test)]
mod disk_tests;
mod embedder;
mod embedding;
mod error;
mod exchange;
mod forget;
mod handle;
mod held;
#[cfg(test)]
mod holes_tests;
mod keys;
mod last_words;
mod meaning;
mod model_child;
mod model_files;
mod model_process;
mod reader;
mod segments;
mod store;
mod sync;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vector_tests;
mod vectors;
mod words;
mod workspace;
mod writer;
mod writing;
mod writing_watch;

use memory_core::ids::WorkspaceId;
use mesh_core::ids::{Hash, MeshId};

pub use ask::{Answer, Fact, Hit, Mode, Question, Said, Standing};
pub use browse::{Item, ItemState, Place, Stats, SummaryShown, Wanted};
pub use copies::{Returning, Rows, kept_in, rows_of_stopped};
pub use embedder::{Embedded, Embedder};
pub use embedding::start as start_embedding;
pub use error::MemoryError;
pub use forget::{Forgotten, Selection};
pub use handle::{IDLE, MemoryHandle};
pub use meaning::{Embedding, JobState, Meaning};
pub use model_child::entry as model_entry;
pub use model_files::{ModelFiles, Presence, dir_of as models_of};
pub use model_process::{ModelError, ModelState};
pub use sync::start as start_sync;
pub use vectors::{Progress, Unembedded, Vectors};
pub use words::Kept;
pub use workspace::{Appended, NewMessage, Outcome, Workspace};
pub use writer::Writer;
pub use writing::start as start_writing;
pub use writing_watch::{Writing, WritingWatch};

/// The id of `home` in a mesh: the same at every device of it, and of no other mesh.
#[must_use]
pub fn home_of(mesh: &MeshId) -> WorkspaceId {
    let hash = Hash::of(&[b"sigil memory home 1\0", &mesh.0[..]].concat());
    let mut id = [0; 16];
    id.iter_mut().zip(hash.0).for_each(|(to, from)| *to = from);
    WorkspaceId(id)
}
