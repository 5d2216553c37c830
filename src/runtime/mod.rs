//! Running one tool. Nothing here knows the mesh.

pub mod process;
pub mod spool;
pub mod tool_exec;

mod progress;
