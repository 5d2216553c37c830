//! How one tool runs.

pub mod process;
