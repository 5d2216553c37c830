//! What this device offers.

pub mod builtin;
pub mod catalogue;
pub mod client;
