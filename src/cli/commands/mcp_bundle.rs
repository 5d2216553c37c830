//! A bundle (.mcpb) of `sigil mcp`: what a client installs by opening it. It holds no program, but where this one is, for which home and
//! as whom it asks.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Where the start script is in the bundle.
const ENTRY: &str = "server/sigil";
/// Version of the form of manifests that is written (MCPB 2.1.2 knows 0.1 to 0.4).
const MANIFEST_VERSION: &str = "0.3";

/// Writes a bundle.
///
/// # Errors
/// The file cannot be written, or a path is no text.
pub(super) fn write(program: &Path, home: &Path, agent: &str, file: &Path) -> io::Result<()> {
    let mut zip = ZipWriter::new(File::create_new(file)?);
    let plain = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("manifest.json", plain.unix_permissions(0o644))?;
    zip.write_all(format!("{:#}\n", manifest()).as_bytes())?;
    zip.start_file(ENTRY, plain.unix_permissions(0o755))?;
    zip.write_all(script(program, home, agent)?.as_bytes())?;
    zip.finish()?.sync_all()
}

fn manifest() -> Value {
    let platform = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    json!({
        "manifest_version": MANIFEST_VERSION,
        "name": "sigil",
        "display_name": "sigil",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "The tools of all your devices, those that sleep among them, and the memory of your home",
        "author": { "name": "sigil" },
        "license": "Apache-2.0",
        "server": {
            "type": "binary",
            "entry_point": ENTRY,
            "mcp_config": { "command": format!("${{__dirname}}/{ENTRY}"), "args": [], "env": {} },
        },
        "tools_generated": true,
        "compatibility": { "platforms": [platform] },
    })
}

/// Starts the program that wrote it: a copy would grow old beside the agent.
fn script(program: &Path, home: &Path, agent: &str) -> io::Result<String> {
    let quoted = |path: &Path| {
        let text = path.to_str().ok_or_else(|| io::Error::other(format!("{} is no text", path.display())))?;
        Ok::<_, io::Error>(format!("'{}'", text.replace('\'', r"'\''")))
    };
    Ok(format!("#!/bin/sh\nexec {} mcp --as {agent} --home {}\n", quoted(program)?, quoted(home)?))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_bundle_has_a_manifest_and_a_script_that_may_run() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sigil.mcpb");
        write(Path::new("/opt/it's/sigil"), Path::new("/home/x y"), "claude", &file).unwrap();
        let mut zip = zip::ZipArchive::new(File::open(&file).unwrap()).unwrap();
        let mut text = String::new();
        zip.by_name(ENTRY).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "#!/bin/sh\nexec '/opt/it'\\''s/sigil' mcp --as claude --home '/home/x y'\n");
        assert_eq!(zip.by_name(ENTRY).unwrap().unix_mode().unwrap() & 0o777, 0o755);
        let manifest: Value = serde_json::from_reader(zip.by_name("manifest.json").unwrap()).unwrap();
        assert_eq!(manifest["server"]["mcp_config"]["command"], "${__dirname}/server/sigil");
    }
}
