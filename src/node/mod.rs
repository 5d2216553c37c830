//! The tools of this device: which it offers, and how they are run.

pub mod approvals;
pub mod blobs;
pub mod builtin;
pub mod card;
pub mod catalogue;
pub mod commands;
mod confine;
pub mod containers;
pub mod declared;
pub mod files;
pub mod foreign;
pub mod grpc;
pub mod host;
pub mod mcp;
pub mod outbound;
pub mod plugins;
pub mod provider;
pub mod publisher;
pub mod resting;
mod results;
pub mod roster;
pub mod schema;
mod schema_cost;
pub mod servers;
#[cfg(test)]
pub(crate) mod testing;
