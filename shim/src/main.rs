//! The helper as a program of its own: static, so that no loader and no library of whoever runs beside it has a say.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        None => sigil_shim::start::entry(),
        Some(word) if word == sigil_shim::isolate::INIT => sigil_shim::isolate::init(),
        Some(word) if word == sigil_shim::wire::CONTAINER => sigil_shim::container::entry(args),
        Some(word) if word == sigil_shim::attack::ATTACK => sigil_shim::attack::entry(args),
        Some(_) => {
            eprintln!("sigil-shim: sigil starts this program, once for each run of a tool");
            ExitCode::from(sigil_shim::process::NOT_STARTED)
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    sigil_shim::start::entry()
}
