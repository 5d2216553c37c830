//! Membership, leadership and shared knowledge of a mesh. The protocol is [`mesh_core`]; this is its shell.

mod actor;
mod adapters;
mod admission;
pub mod blobs;
mod call_queries;
pub mod clock;
mod error;
mod events;
mod handle;
pub mod identity;
pub mod invite;
mod joining;
mod request;
mod snapshot;
pub mod store;
pub mod transport;

pub use actor::{Booted, FatalError, Parts, boot};
pub use adapters::{Adapters, NodeLinks, ToolRuns};
pub use call_queries::{CallCursor, CallFilter, CallPage, CallStateFilter};
pub use error::{JoinError, MeshError};
pub use events::{EVENTS_KEPT, Event, EventKind, EventLog};
pub use handle::{MeshHandle, ResultBody};
pub use joining::{Invite, JoinTarget, Joined};
#[cfg(test)]
pub(crate) use request::Request;
pub use snapshot::{Nearby, Pending, Surroundings};
pub use transport::LinkInfo;
