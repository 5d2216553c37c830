//! What this device offers.

mod blob_sinks;
pub mod builtin;
pub mod catalogue;
pub mod client;
pub(crate) mod convert;
pub(crate) mod stream;
pub mod executor;
pub mod files;
