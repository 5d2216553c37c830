//! `sigil secret`: files on this device, with or without an agent, which reads one whenever it starts what names it.

use std::io::Read as _;
use std::path::Path;
use std::time::SystemTime;

use serde_json::json;

use crate::cli::args::SecretCommand;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, span, table};
use crate::ownership;
use crate::secrets::{SECRET_BYTES_MAX, SecretError, Secrets};

pub(super) fn secret(client: &Client, command: SecretCommand, ui: Ui) -> Result<Exit, Failure> {
    let home = client.home();
    let secrets = Secrets::of(home);
    match command {
        SecretCommand::List => list(&secrets, ui),
        SecretCommand::Set { name, from_file } => {
            check(home)?;
            let value = value(&from_file)?;
            secrets.set(&name, &value).map_err(|error| not_kept(&error))?;
            Ok(done(
                ui,
                name.as_str(),
                &format!("The secret {name} is kept. Whatever names it gets it at its next start."),
            ))
        }
        SecretCommand::Remove { name } => {
            check(home)?;
            match secrets.remove(&name) {
                Ok(true) => Ok(done(
                    ui,
                    name.as_str(),
                    &format!("The secret {name} is removed. What names it does not start any more."),
                )),
                Ok(false) => Err(Failure::new(Exit::NotFound, format!("this device has no secret `{name}`"))
                    .hint("`sigil secret list` shows all")),
                Err(error) => Err(Failure::new(Exit::Failed, format!("removing the secret `{name}`: {error}"))),
            }
        }
    }
}

/// Refuses a home in other hands.
pub(super) fn check(home: &Path) -> Result<(), Failure> {
    ownership::check(home).map_err(|why| Failure::new(Exit::Denied, why.to_string()).hint(why.fix()))
}

pub(super) fn not_kept(error: &SecretError) -> Failure {
    Failure::new(Exit::Usage, format!("the secret is not kept: {error}"))
}

fn value(from: &Path) -> Result<Vec<u8>, Failure> {
    let limit = SECRET_BYTES_MAX as u64 + 1;
    let mut value = Vec::new();
    let read = if from == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut value)
    } else {
        std::fs::File::open(from).and_then(|file| file.take(limit).read_to_end(&mut value))
    };
    read.map_err(|error| Failure::new(Exit::Usage, format!("reading {}: {error}", from.display())))?;
    Ok(value)
}

fn list(secrets: &Secrets, ui: Ui) -> Result<Exit, Failure> {
    let listed = secrets.list().map_err(|error| Failure::new(Exit::Failed, format!("listing the secrets: {error}")))?;
    let age = |set| SystemTime::now().duration_since(set).unwrap_or_default().as_secs();
    if ui.json {
        let items: Vec<_> =
            listed.iter().map(|secret| json!({ "name": secret.name.as_str(), "age_s": age(secret.set) })).collect();
        ui.document("sigil.secrets/1", json!({ "items": items }));
    } else if listed.is_empty() {
        ui.print("This device has no secrets. `sigil secret set NAME --from-file FILE` gives it one.");
    } else {
        let rows: Vec<_> = listed.iter().map(|secret| vec![secret.name.to_string(), span(age(secret.set))]).collect();
        ui.print(&table(&["NAME", "AGE"], &rows));
    }
    Ok(Exit::Ok)
}

fn done(ui: Ui, name: &str, told: &str) -> Exit {
    if ui.json {
        ui.document("sigil.secret/1", json!({ "name": name }));
    } else {
        ui.print(told);
    }
    Exit::Ok
}
