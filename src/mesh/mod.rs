//! Membership, leadership and shared knowledge of a mesh. The protocol is [`mesh_core`]; this is its shell.

mod adapters;
mod admission;
mod audit_log;
mod blob_fetch;
pub mod blob_ledger;
pub mod blob_needs;
mod blob_readers;
pub mod blobs;
mod boot;
pub(crate) mod bucket;
mod call_queries;
mod cards;
pub mod check_words;
pub mod clock;
pub mod disk_room;
mod driver;
mod error;
mod events;
mod fault_points;
#[cfg(test)]
mod fuzz;
mod handle;
pub mod identity;
pub mod invite;
mod joining;
mod log_reader;
mod machine;
mod node_sessions;
pub(crate) mod pace;
mod payloads;
mod publisher;
mod reach;
mod refusals;
mod replies;
mod request;
mod snapshot;
pub mod store;
pub mod tailnet;
pub mod transport;
mod turns;
mod waiters;
mod warnings;

pub use adapters::{Adapters, GatewayLink, NodeLinks, ToolRuns};
pub use audit_log::{AuditCursor, AuditFilter, AuditItem, AuditPage};
pub use boot::{Booted, Parts, boot, judge};
pub use call_queries::{Asker, CallCursor, CallFilter, CallPage, CallStateFilter, ForNode, verdict_of};
pub use error::{FatalError, JoinError, MeshError};
pub use events::{EVENTS_KEPT, Event, EventKind, EventLog};
pub use handle::MeshHandle;
#[cfg(test)]
pub(crate) use joining::InviteTerms;
pub use joining::{Grant, Invite, InviteInfo, InviteState, JoinTarget, Joined, invite_id};
pub(crate) use machine::entropy;
pub use payloads::ResultBody;
pub use refusals::note_refused;
#[cfg(test)]
pub(crate) use request::Request;
pub use snapshot::{Nearby, Pending, Surroundings};
pub use transport::{LinkInfo, Relayed};
