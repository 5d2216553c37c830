//! The tailnet of this machine, as the tailscaled that runs on it tells it: which addresses this machine has there, who
//! else is there, and who is at an address. [`answers`] reads and judges, without a socket; [`local_api`] asks.
//!
//! Where no tailscaled runs, a node of a tailnet may live in this program: [`embedded`] is what it is told and tells, and the
//! seam behind which the crate `tailscale` is (`device`, with the feature `tailnet`).
//!
//! Nothing of it opens a mesh: device keys are proven over a tailnet as over anything else.

pub mod answers;
mod choice;
#[cfg(feature = "tailnet")]
pub mod device;
pub mod embedded;
pub mod local_api;

pub use answers::{Condition, Identity, Node, Status};
pub use choice::{Mode, Tailnet};
pub use embedded::{AuthKey, Device, EmbeddedCondition, TailscaleAuth, TailscaleConfig};
pub use local_api::{ApiError, LocalApi};

/// The UDP port of every peer on its tailnet address. One for all, so that a peer is found there by its address alone.
pub const TAILNET_PORT: u16 = 7435;
/// The same of a peer whose node lives in its program. It is another, so that both ends of a connection know by its ports alone
/// that it is slow.
pub const EMBEDDED_PORT: u16 = 7436;
