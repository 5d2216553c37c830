//! The tools of this device: which it offers, and how they are run.

pub mod blobs;
pub mod builtin;
pub mod catalogue;
pub mod files;
pub mod host;
