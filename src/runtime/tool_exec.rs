//! Becomes a tool, after setting what must be set between fork and exec.

use std::ffi::OsString;
use std::process::ExitCode;

/// Sets limits and executes the tool.
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    drop(args);
    ExitCode::from(127)
}
