//! The `sigil` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = sigil::runtime::tool_exec::entry() {
        return code;
    }
    sigil::cli::main()
}
