//! Who is here, who leads, what all of us know. The protocol is [`mesh_core`]; this is its shell.

mod actor;
pub mod adapters;
mod admission;
pub mod blobs;
pub mod clock;
pub mod handle;
pub mod identity;
pub mod invite;
pub mod store;
pub mod transport;

pub use actor::{Booted, FatalError, Parts, arguments, boot};
pub use adapters::{Adapters, NodeLinks, ToolRuns};
pub use handle::MeshHandle;
