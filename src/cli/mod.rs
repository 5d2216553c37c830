//! Commands: a client of the REST API, plus the agent itself.
use std::process::ExitCode;
/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
