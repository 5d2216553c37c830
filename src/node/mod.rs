//! What this device offers.

mod blob_sinks;
pub mod builtin;
pub mod catalogue;
pub mod executor;
pub mod files;
