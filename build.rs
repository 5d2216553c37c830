//! Compiles `proto/` with protox, so that no protoc is needed on the machine; and builds the helper of `shim/`, which is
//! put into the program.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The helper in `OUT_DIR`; empty where it could not be built.
const SHIM: &str = "sigil-shim";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["sigil/v1/node.proto", "sigil/v1/mesh.proto", "sigil/v1/tool.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;

    for path in ["build.rs", "shim/src", "shim/Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=SIGIL_BUILD_SHIM");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let (bytes, why) = match shim(&out) {
        Ok(bytes) => (bytes, String::new()),
        Err(why) => {
            println!("cargo::warning=built without the helper of tools, so that they run at the level bare: {why}");
            (Vec::new(), why)
        }
    };
    fs::write(out.join(SHIM), bytes)?;
    println!("cargo::rustc-env=SIGIL_SHIM_WHY={}", why.replace('\n', " "));
    Ok(())
}

/// Builds the helper by a cargo of its own: static, unlike us. Returns the program, or why there is none.
fn shim(out: &Path) -> Result<Vec<u8>, String> {
    let (os, target) = (var("CARGO_CFG_TARGET_OS")?, var("TARGET")?);
    if os != "linux" {
        return Err(format!("it is for Linux, and this is built for {os}"));
    }
    let machine = var("CARGO_CFG_TARGET_ARCH")?;
    if !matches!(machine.as_str(), "x86_64" | "aarch64") {
        return Err(format!("its filter of calls is not written for {machine}"));
    }
    if env::var("SIGIL_BUILD_SHIM").is_ok_and(|wanted| wanted == "0") {
        return Err("SIGIL_BUILD_SHIM=0 says so".to_owned());
    }
    // One for all features of ours, which have no say in it: beside the directories of build scripts, where cargo's own lock
    // keeps two of these apart.
    let shared = out.ancestors().find(|dir| dir.ends_with("build")).and_then(Path::parent);
    let dir = shared.unwrap_or(out).join("shim");
    let mut cargo = Command::new(var("CARGO")?);
    cargo
        .args(["build", "--release", "--locked", "--quiet", "--package", SHIM, "--features", "levels"])
        .args(["--manifest-path", "shim/Cargo.toml", "--target", &target, "--target-dir"])
        .arg(&dir)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .envs([
            ("CARGO_INCREMENTAL", "false"),
            ("CARGO_PROFILE_RELEASE_INCREMENTAL", "false"),
            ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
            ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
            ("CARGO_PROFILE_RELEASE_LTO", "fat"),
            ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
            ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
            ("CARGO_PROFILE_RELEASE_STRIP", "true"),
        ]);
    // What whoever builds us wants of our own crates: clippy, other flags, another place.
    for name in
        ["RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "CARGO_BUILD_RUSTFLAGS"]
    {
        cargo.env_remove(name);
    }
    let done = cargo.output().map_err(|error| format!("starting cargo: {error}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let first = said.lines().find(|line| line.starts_with("error")).unwrap_or("cargo failed");
        return Err(format!("{first} (a static C library, libc.a, is needed)"));
    }
    let program = dir.join(&target).join("release").join(SHIM);
    fs::read(&program).map_err(|error| format!("{}: {error}", program.display()))
}

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
