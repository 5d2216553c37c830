//! The tools of this device: which it offers, and how they are run.

pub mod blobs;
pub mod builtin;
pub mod catalogue;
pub mod commands;
pub mod declared;
pub mod files;
pub mod host;
pub mod mcp;
pub mod plugins;
pub mod provider;
pub mod publisher;
pub mod resting;
pub mod roster;
pub mod servers;
#[cfg(test)]
pub(crate) mod testing;
