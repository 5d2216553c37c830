//! Manifests of plugins, as anybody may write them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sigil::plugin::{ContainerConfig, parse_memory_limit, read, validate_image};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    match read(&text) {
        Ok(read) => {
            let _ = ContainerConfig::from_manifest(&read.plugin);
            assert!(read.plugin.tools.iter().all(|tool| tool.name.as_str().starts_with(&read.plugin.prefix)));
        }
        Err(error) => {
            let told = error.to_string();
            assert!(told.starts_with("plugin.yaml") && !told.contains('\n'), "{told}");
        }
    }
    let _ = (parse_memory_limit(&text), validate_image(&text));
});
