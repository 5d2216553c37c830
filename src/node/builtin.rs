//! Built-in tools.
/// x
pub const NAMES: [&str; 3] = ["device.info", "files.list", "files.read"];
