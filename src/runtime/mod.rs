//! One run of a tool: its process, its limits, its output. Nothing here knows the mesh.

pub mod outcome;
pub mod process;
pub mod server;
pub mod spool;
pub mod tool_exec;

mod out_dir;
mod progress;
