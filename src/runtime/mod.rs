//! One run of a tool: its process, its limits, its output. Nothing here knows the mesh.

pub mod outcome;
pub mod process;
pub mod spool;
pub mod tool_exec;

mod progress;
