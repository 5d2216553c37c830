//! Witness files: a tool leaves a line for each run, by one short write of a shell to a file opened with `O_APPEND`. So the
//! runs are known from outside of the program.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// A `[tools.…]` table for `sigil.toml`: a command tool that runs `before`, leaves its line in `file`, and runs `after`.
#[must_use]
pub fn tool(name: &str, effect: &str, file: &Path, before: &str, after: &str) -> String {
    let script = format!("{before}echo \"$SIGIL_REQUEST_ID $SIGIL_ATTEMPT\" >> \"$0\"{after}");
    let (name, script, file) = (Value::from(name), Value::from(script), Value::from(file.to_string_lossy()));
    format!("[tools.{name}]\ncommand = \"sh\"\nargs = [\"-c\", {script}, {file}]\neffect = \"{effect}\"\n")
}

/// The runs in this file, in order: id and attempt. A line that is none has attempt 0.
#[must_use]
pub fn read(file: &Path) -> Vec<(String, u8)> {
    let lines = fs::read_to_string(file).unwrap_or_default();
    let read = |line: &str| {
        let (id, attempt) = line.split_once(' ')?;
        Some((id.to_owned(), attempt.parse().ok()?))
    };
    lines.lines().map(|line| read(line).unwrap_or_else(|| (format!("an odd line: {line}"), 0))).collect()
}
