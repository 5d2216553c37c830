//! `sigil mcp import`: MCP servers of another client into `sigil.toml`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use super::console::read_all;
use super::secrets::{check, not_kept};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean, clean_lines};
use crate::config::{self, FILE_NAME, Overrides};
use crate::plugin::{self, Import, SecretName};
use crate::secrets::Secrets;

pub(super) fn import(client: &Client, file: &Path, write: bool, ui: Ui) -> Result<Exit, Failure> {
    let home = client.home();
    let from = file.display().to_string();
    let opened = std::fs::File::open(file);
    let opened = opened.map_err(|error| Failure::new(Exit::Usage, format!("reading {from}: {error}")))?;
    let mut import = plugin::import(&read_all(&from, opened)?)
        .map_err(|error| Failure::new(Exit::Usage, format!("{from}: {error}")))?;
    let path = home.join(FILE_NAME);
    let present = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.map_err(|error| Failure::new(Exit::Failed, format!("reading {}: {error}", path.display())))?,
    };
    let there = servers_of(&present)?;
    // One that an agent would not take is left out, and the others are not held up by it.
    import.leave_out(|section| tried(section).err());
    let sections = import.sections(&there);
    let gap = if present.is_empty() || present.ends_with("\n\n") || sections.is_empty() {
        ""
    } else if present.ends_with('\n') {
        "\n"
    } else {
        "\n\n"
    };
    let whole = if sections.is_empty() { present } else { format!("{present}{gap}{sections}\n") };
    // Before a secret is kept or a file is touched: what would be written is what an agent takes.
    tried(&whole).map_err(|why| Failure::new(Exit::Usage, format!("with these servers {why}")))?;
    let news: Vec<_> = import.servers.iter().filter(|(name, _)| !there.contains(name.as_str())).collect();
    if write && !news.is_empty() {
        check(home)?;
        let secrets = Secrets::of(home);
        for (name, value) in news.iter().flat_map(|(_, server)| &server.secrets) {
            keep(&secrets, name, value)?;
        }
        replace(&path, &whole)
            .map_err(|error| Failure::new(Exit::Failed, format!("writing {}: {error}", path.display())))?;
    }
    if ui.json {
        let servers: Vec<&str> = news.iter().map(|(name, _)| name.as_str()).collect();
        let kept: Vec<&str> =
            news.iter().flat_map(|(_, server)| server.secrets.keys()).map(SecretName::as_str).collect();
        let left: Vec<_> = import.left_out.iter().map(|(name, why)| json!({ "name": name, "why": why })).collect();
        ui.document(
            "sigil.mcp.import/1",
            json!({ "servers": servers, "secrets": kept, "left_out": left, "added": sections, "written": write && !news.is_empty() }),
        );
        return Ok(Exit::Ok);
    }
    tell(&import, &there, &sections, write, ui);
    Ok(Exit::Ok)
}

fn tell(import: &Import, there: &BTreeSet<String>, sections: &str, write: bool, ui: Ui) {
    for (name, why) in &import.left_out {
        ui.say(&format!("left out: {}: {}", clean(name), clean(why)));
    }
    for name in import.servers.keys().filter(|name| there.contains(name.as_str())) {
        ui.say(&format!("left as it is: {name} is in {FILE_NAME} already"));
    }
    for (name, server) in import.servers.iter().filter(|(name, _)| !there.contains(name.as_str())) {
        for note in &server.notes {
            ui.say(&format!("{name}: {}", clean(note)));
        }
        for secret in server.secrets.keys() {
            let verb = if write { "is kept" } else { "would be kept" };
            ui.say(&format!("{name}: a value that looks secret {verb} as the secret {secret}"));
        }
    }
    if sections.is_empty() {
        ui.print("There is nothing to add.");
        return;
    }
    let added = sections.lines().map(|line| format!("+ {line}")).collect::<Vec<_>>().join(
        "
",
    );
    ui.print(&clean_lines(&added));
    if write {
        ui.say(&format!(
            "Written to {FILE_NAME}. A running agent takes it within seconds; `sigil plugin list` shows the servers."
        ));
    } else {
        ui.say(&format!("Nothing is written yet: `--write` adds this to {FILE_NAME}."));
    }
}

/// Names of the servers that a file has.
fn servers_of(text: &str) -> Result<BTreeSet<String>, Failure> {
    let file: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        Failure::new(Exit::Usage, format!("{FILE_NAME} is not TOML: {}", error.message()))
            .hint("`sigil doctor` says where")
    })?;
    let servers = file.get("mcp_servers").and_then(toml::Value::as_table);
    Ok(servers.into_iter().flat_map(|servers| servers.keys().cloned()).collect())
}

/// Looks if an agent would take a file. The error is for people, and names the key.
fn tried(text: &str) -> Result<(), String> {
    let home =
        tempfile::tempdir().map_err(|error| format!("it cannot be tried: making a directory for that: {error}"))?;
    let path = home.path().join(FILE_NAME);
    std::fs::write(&path, text).map_err(|error| format!("it cannot be tried: writing a file for that: {error}"))?;
    // Where it was tried is nothing to anybody.
    let of_path = |error: &dyn std::fmt::Display| error.to_string().replace(&*path.display().to_string(), FILE_NAME);
    config::load(home.path(), &Overrides::default()).map(|_| ()).map_err(|error| of_path(&error))
}

/// Keeps a secret, unless another value has its name.
fn keep(secrets: &Secrets, name: &SecretName, value: &str) -> Result<(), Failure> {
    match secrets.read(name) {
        Ok(kept) if kept == value.trim_end_matches(['\r', '\n']) => Ok(()),
        Ok(_) => Err(Failure::new(Exit::Conflict, format!("the secret `{name}` has another value already"))
            .hint(format!("`sigil secret remove {name}` makes room for the one of the file"))),
        Err(_) => secrets.set(name, value.as_bytes()).map_err(|error| not_kept(&error)),
    }
}

/// Replaces a file, which keeps its mode.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mode = std::fs::metadata(path).map_or(0o600, |found| found.permissions().mode() & 0o777);
    let mut part = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    part.write_all(text.as_bytes())?;
    part.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
    part.as_file().sync_all()?;
    part.persist(path)?;
    Ok(())
}
