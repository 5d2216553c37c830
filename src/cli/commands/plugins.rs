//! `sigil plugin`: folders on this device, with or without an agent. A running agent looks for them by itself.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::secrets::check;
use super::{calls, care};
use crate::cli::args::{CallArgs, PluginCommand, PluginRunArgs};
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean, fields, items, relative, table, text};
use crate::node::plugins::{Installed, Looked, PluginError, Plugins, look};
use crate::plugin::{Capability, Consent, Level, Plugin, PluginName, Runs, SecretName, schema};

pub(super) async fn plugin(client: &Client, command: PluginCommand, ui: Ui) -> Result<Exit, Failure> {
    let home = client.home();
    let plugins = Plugins::of(home);
    match command {
        PluginCommand::Check { dir } => checked(&dir, ui),
        PluginCommand::Install { dir, allow } => {
            check(home)?;
            let allowed = allow.into_iter().map(Into::into).collect();
            let installed = plugins.install(&dir, &allowed).map_err(|error| failed(&error))?;
            Ok(done(&installed, "is installed", ui))
        }
        PluginCommand::List => list(client, &plugins, ui).await,
        PluginCommand::Inspect { name } => {
            let installed = plugins.find(&name).map_err(|error| failed(&error))?;
            if ui.json {
                ui.document("sigil.plugin/1", shown(&installed));
            } else {
                ui.print(&told(&installed));
            }
            Ok(Exit::Ok)
        }
        PluginCommand::Run(args) => run(client, &plugins, args, ui).await,
        PluginCommand::Reload => care::reload(client, ui).await,
        PluginCommand::Allow { name, process, host_network, host_data, secrets } => {
            check(home)?;
            let allowed = [
                (process, Consent::Process),
                (host_network, Consent::HostNetwork),
                (host_data, Consent::HostData),
                (secrets, Consent::Secrets),
            ];
            let allowed = allowed.into_iter().filter_map(|(said, consent)| said.then_some(consent)).collect();
            allow(&plugins, &name, &allowed, ui)
        }
        PluginCommand::Remove { name } => {
            check(home)?;
            plugins.remove(&name).map_err(|error| failed(&error))?;
            if ui.json {
                ui.document("sigil.plugin.removed/1", json!({ "name": name.as_str() }));
            } else {
                ui.print(&format!("The plugin {name} is removed. What runs of it comes to its end."));
            }
            Ok(Exit::Ok)
        }
        PluginCommand::Schema => {
            // As it stands in a file, so that it can be written into one.
            ui.print(&serde_json::to_string_pretty(&schema()).unwrap_or_default());
            Ok(Exit::Ok)
        }
    }
}

fn failed(error: &PluginError) -> Failure {
    let exit = match error {
        PluginError::Unknown(_) => Exit::NotFound,
        PluginError::Disk { .. } => Exit::Failed,
        PluginError::Manifest(_)
        | PluginError::NoManifest(_)
        | PluginError::Entry { .. }
        | PluginError::TooLarge
        | PluginError::TooMany => Exit::Usage,
    };
    let failure = Failure::new(exit, error.to_string());
    if exit == Exit::NotFound { failure.hint("`sigil plugin list` shows all") } else { failure }
}

fn checked(dir: &Path, ui: Ui) -> Result<Exit, Failure> {
    let Looked { read, hash, files, bytes, .. } = look(dir).map_err(|error| failed(&error))?;
    if ui.json {
        let mut shown = of_plugin(&read.plugin);
        if let Some(shown) = shown.as_object_mut() {
            shown.insert("hash".to_owned(), json!(hash));
            shown.insert("files".to_owned(), json!(files));
            shown.insert("bytes".to_owned(), json!(bytes));
            shown.insert("warnings".to_owned(), json!(read.warnings));
        }
        ui.document("sigil.plugin.check/1", shown);
    } else {
        for warning in &read.warnings {
            ui.say(&format!("warning: {}", clean(warning)));
        }
        ui.print(&describe(&read.plugin));
    }
    Ok(if read.warnings.is_empty() { Exit::Ok } else { Exit::DoctorWarning })
}

fn allow(plugins: &Plugins, name: &PluginName, allowed: &BTreeSet<Consent>, ui: Ui) -> Result<Exit, Failure> {
    let found = plugins.find(name).map_err(|error| failed(&error))?;
    let lacking: Vec<String> = found
        .lacking
        .iter()
        .filter(|consent| !allowed.contains(consent))
        .map(|consent| format!("--{consent}"))
        .collect();
    if !lacking.is_empty() {
        let all = found.flags();
        return Err(Failure::new(
            Exit::Usage,
            format!("`{name}` asks for more than that, and runs with all of it or not at all"),
        )
        .hint(format!("`sigil plugin allow {name}{all}`")));
    }
    let allowed = plugins.allow(name, allowed).map_err(|error| failed(&error))?;
    Ok(done(&allowed, "may run as its files are now", ui))
}

fn done(installed: &Installed, what: &str, ui: Ui) -> Exit {
    if ui.json {
        ui.document("sigil.plugin/1", shown(installed));
        return Exit::Ok;
    }
    if let Ok(read) = &installed.manifest {
        for warning in &read.warnings {
            ui.say(&format!("warning: {}", clean(warning)));
        }
    }
    let name = &installed.name;
    ui.print(&format!("The plugin {name} {what}. A running agent takes it within seconds."));
    if !installed.lacking.is_empty() {
        let flags = installed.flags();
        let asks = installed.lacks().replace(',', " and ");
        ui.say(&format!("It asks for {asks}, and waits until you have looked at it: `sigil plugin inspect {name}`, then `sigil plugin allow {name}{flags}`"));
    }
    Exit::Ok
}

/// What a plugin is and asks for, in lines.
fn describe(plugin: &Plugin) -> String {
    let mut lines = vec![("name", plugin.name.to_string())];
    if let Some(version) = &plugin.version {
        lines.push(("version", version.to_string()));
    }
    if !plugin.description.is_empty() {
        lines.push(("for", clean(&plugin.description)));
    }
    let runs = match &plugin.execution.runs {
        Runs::Process(program, _) => format!("as a process: {}", clean(&program.command.join(" "))),
        Runs::Container(_, container) => format!("in a container of {}", container.image),
        Runs::Remote(remote) => format!("elsewhere: {}", clean(&remote.url)),
    };
    lines.push(("runs", runs));
    if let Runs::Process(..) = plugin.execution.runs {
        let level = match plugin.execution.min_level {
            Level::Bare => "bare: it can do what the agent's user can".to_owned(),
            least @ (Level::Guarded | Level::Confined | Level::Isolated | Level::Container) => {
                format!("{least} or better; `sigil doctor` shows what this device offers")
            }
        };
        lines.push(("level", level));
    }
    if let Some(program) = plugin.program() {
        let network: Vec<String> = program.egress.iter().map(ToString::to_string).collect();
        let network = if network.is_empty() {
            program.network.to_string()
        } else {
            format!("{}: {}", program.network, network.join(", "))
        };
        lines.push(("network", network));
        for (key, paths) in [("reads", &program.read), ("writes", &program.write)] {
            if !paths.is_empty() {
                let paths: Vec<String> = paths.iter().map(|path| clean(&path.display().to_string())).collect();
                lines.push((key, paths.join(", ")));
            }
        }
    }
    let given: Vec<String> = plugin.given().iter().map(|one| clean(one)).collect();
    if !given.is_empty() {
        lines.push(("is given", given.join(", ")));
    }
    let secrets: Vec<&str> = plugin.secrets().into_iter().map(SecretName::as_str).collect();
    if !secrets.is_empty() {
        lines.push(("secrets", secrets.join(", ")));
    }
    let asks: Vec<String> = plugin.consents().iter().map(ToString::to_string).collect();
    if !asks.is_empty() {
        lines.push(("asks for", asks.join(", ")));
    }
    let tools: Vec<&str> = plugin.tools.iter().map(|tool| tool.name.as_str()).collect();
    lines.push(("tools", if tools.is_empty() { "as the server tells them".to_owned() } else { tools.join(", ") }));
    fields(&lines)
}

fn told(installed: &Installed) -> String {
    let state = match (&installed.manifest, installed.allowed()) {
        (Err(why), _) => format!("cannot be used: {}", clean(why)),
        (Ok(_), Some(_)) => "may run".to_owned(),
        (Ok(_), None) if installed.changed => {
            "changed since it was installed: waits for `sigil plugin allow`".to_owned()
        }
        (Ok(_), None) => format!("waits to be allowed: {}", installed.lacks()),
    };
    let of_disk = fields(&[
        ("state", state),
        ("folder", installed.folder.display().to_string()),
        ("hash", installed.hash.clone()),
    ]);
    match &installed.manifest {
        Ok(read) => format!("{}\n{of_disk}", describe(&read.plugin)),
        Err(_) => of_disk,
    }
}

fn of_plugin(plugin: &Plugin) -> Value {
    let capability = |capability: &Capability| match capability {
        Capability::Files => "files",
        Capability::Network => "network",
    };
    let paths = |paths: &[std::path::PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let program = plugin.program();
    json!({
        "name": plugin.name.as_str(),
        "version": plugin.version.as_ref().map(ToString::to_string),
        "description": plugin.description,
        "capabilities": plugin.capabilities.iter().map(capability).collect::<Vec<_>>(),
        "tier": match plugin.execution.runs {
            Runs::Process(..) => Some("process"),
            Runs::Container(..) => Some("container"),
            Runs::Remote(_) => None,
        },
        "network": program.map(|program| program.network.to_string()),
        "egress": program.map(|program| program.egress.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "read": program.map(|program| paths(&program.read)),
        "write": program.map(|program| paths(&program.write)),
        "given": plugin.given(),
        "secrets": plugin.secrets().into_iter().map(SecretName::as_str).collect::<Vec<_>>(),
        "asks_for": plugin.consents().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "tools": plugin.tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(),
    })
}

fn shown(installed: &Installed) -> Value {
    let mut shown = match &installed.manifest {
        Ok(read) => of_plugin(&read.plugin),
        Err(why) => json!({ "name": installed.name.as_str(), "why": why }),
    };
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("allowed".to_owned(), json!(installed.allowed().is_some()));
        shown.insert("lacks".to_owned(), json!(installed.lacking.iter().map(ToString::to_string).collect::<Vec<_>>()));
        shown.insert("changed".to_owned(), json!(installed.changed));
        shown.insert("hash".to_owned(), json!(installed.hash));
        shown.insert("folder".to_owned(), json!(installed.folder.display().to_string()));
    }
    shown
}

async fn list(client: &Client, plugins: &Plugins, ui: Ui) -> Result<Exit, Failure> {
    let body = match client.get("/api/v1/providers").await {
        // What is installed is known without an agent; what runs is not.
        Err(failure) if failure.exit == Exit::NoAgent && !ui.json => {
            let installed = plugins.list().map_err(|error| failed(&error))?;
            if installed.is_empty() {
                return Err(failure);
            }
            let rows: Vec<_> = installed
                .iter()
                .map(|one| {
                    let state = if one.allowed().is_some() { "may run" } else { "waits for `sigil plugin allow`" };
                    vec![one.name.to_string(), state.to_owned()]
                })
                .collect();
            ui.print(&table(&["PLUGIN", "STATE"], &rows));
            ui.say("No agent runs: nothing of this is offered now.");
            return Ok(Exit::Ok);
        }
        answer => answer?,
    };
    if ui.json {
        ui.document("sigil.providers/1", body);
        return Ok(Exit::Ok);
    }
    let words = |value: &Value, key: &str| -> String {
        let list = value.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        list.iter().filter_map(Value::as_str).map(clean).collect::<Vec<_>>().join(" ")
    };
    let rows: Vec<_> = items(&body)
        .iter()
        .map(|one| {
            vec![
                text(one, "name"),
                text(one, "kind"),
                text(one, "version"),
                text(one, "level"),
                ui.state(&text(one, "state")),
                relative(one, "since"),
                words(one, "tools"),
            ]
        })
        .collect();
    ui.print(&table(&["NAME", "KIND", "VERSION", "LEVEL", "STATE", "SINCE", "TOOLS"], &rows));
    for one in items(&body) {
        let why = text(one, "why");
        if !why.is_empty() {
            ui.print(&format!("{}: {why}", text(one, "name")));
        }
        // Of plugins: what the settings name is its owner's own program.
        if text(one, "source") == "plugin" {
            for gap in one.get("gaps").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
                ui.print(&format!("gap of {}: {}", text(one, "name"), clean(gap)));
            }
        }
        for absent in one.get("absent").and_then(Value::as_array).into_iter().flatten() {
            ui.print(&format!(
                "not offered: {}: {}\n  next: {}",
                text(absent, "tool"),
                text(absent, "why"),
                text(absent, "fix")
            ));
        }
    }
    Ok(Exit::Ok)
}

async fn run(client: &Client, plugins: &Plugins, args: PluginRunArgs, ui: Ui) -> Result<Exit, Failure> {
    let installed = plugins.find(&args.name).map_err(|error| failed(&error))?;
    let prefix =
        installed.manifest.as_ref().map_or_else(|_| format!("{}.", args.name), |read| read.plugin.prefix.clone());
    let status = client.get("/api/v1/status").await?;
    let call = CallArgs {
        node: text(&status, "node_id"),
        tool: format!("{prefix}{}", args.tool),
        args: Vec::new(),
        input: args.input,
        ttl: None,
        timeout: None,
        effect: None,
        workspace: None,
        agent: None,
        key: None,
        wait: None,
        no_wait: false,
    };
    calls::call(client, call, ui).await
}
