//! The `sigil` program.

use std::process::ExitCode;

/// Of calls a tenth of the processor's time went into the C library's heap, and what a flood had filled it seldom gave back
/// (docs/decisions/0065).
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = sigil::runtime::helper::entry() {
        return code;
    }
    if let Some(code) = sigil::memory::model_entry() {
        return code;
    }
    sigil::cli::main()
}
