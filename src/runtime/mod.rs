//! How one tool runs.

pub mod process;
pub mod tool_exec;
