//! What this device offers.

pub mod builtin;
pub mod catalogue;
pub mod client;
pub mod executor;
pub mod files;
