//! The tailnet of this machine, as the tailscaled that runs on it tells it: which addresses this machine has there, who
//! else is there, and who is at an address. [`answers`] reads and judges, without a socket; [`local_api`] asks.
//!
//! Nothing of it opens a mesh: device keys are proven over a tailnet as over anything else.

pub mod answers;
pub mod local_api;

pub use answers::{Condition, Identity, Node, Status, Tailnet};
pub use local_api::{ApiError, LocalApi};

/// The UDP port of every peer on its tailnet address. One for all, so that a peer is found there by its address alone.
pub const TAILNET_PORT: u16 = 7435;
