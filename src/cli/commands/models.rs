//! `sigil model`: files on this device, with or without an agent. A running agent looks for them by itself.

use std::path::Path;
use std::time::Duration;

use memory_models::BUILT_IN;
use memory_models::catalogue::{Entry, File, MODELS};
use memory_models::weights::{self, Sha};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::console::confirm;
use crate::cli::args::ModelCommand;
use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, fields};
use crate::memory::{ModelFiles, Presence, models_of};
use crate::model_fetch::{FetchError, Wanted, pull};
use crate::ownership;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Said where the program was built without what runs models.
pub(super) const NOT_BUILT_IN: &str =
    "This program was built without models (`cargo build --features models`): memory works by words alone.";

pub(super) async fn model(client: &Client, command: ModelCommand, ui: Ui) -> Result<Exit, Failure> {
    let home = client.home();
    let models = Models { files: ModelFiles::new(models_of(home)), ui };
    match command {
        ModelCommand::List => Ok(models.list()),
        ModelCommand::Verify { name } => models.verify(name.as_deref()),
        ModelCommand::Pull { name, yes, from } => {
            check(home)?;
            models.pull(name.as_deref(), yes, from.as_deref()).await
        }
        ModelCommand::Remove { name } => {
            check(home)?;
            models.remove(&name)
        }
        ModelCommand::Add { from, sha256 } => {
            check(home)?;
            models.add(&from, sha256).await
        }
    }
}

fn check(home: &Path) -> Result<(), Failure> {
    ownership::check(home).map_err(|why| Failure::new(Exit::Denied, why.to_string()).hint(why.fix()))
}

struct Models {
    files: ModelFiles,
    ui: Ui,
}

impl Models {
    fn list(&self) -> Exit {
        if self.ui.json {
            let models: Vec<Value> = MODELS.iter().map(|entry| self.shown(entry)).collect();
            self.ui.document("sigil.models/1", json!({ "items": models, "built_in": BUILT_IN }));
            return Exit::Ok;
        }
        for entry in &MODELS {
            let state = match self.files.presence(entry) {
                Presence::Whole => "on this device".to_owned(),
                Presence::Partial { bytes } => {
                    format!(
                        "{} of {} here: `sigil model pull {}` goes on",
                        size(bytes),
                        size(entry.bytes()),
                        entry.name
                    )
                }
                Presence::Absent => format!("not on this device: `sigil model pull {}` gets it", entry.name),
            };
            self.ui.print(&format!(
                "{}\n{}",
                entry.name,
                fields(&[facts(entry).as_slice(), &[("state", state)]].concat())
            ));
        }
        if !BUILT_IN {
            self.ui.say(NOT_BUILT_IN);
        }
        Exit::Ok
    }

    fn shown(&self, entry: &Entry) -> Value {
        let (state, bytes) = match self.files.presence(entry) {
            Presence::Whole => ("whole", entry.bytes()),
            Presence::Partial { bytes } => ("partial", bytes),
            Presence::Absent => ("absent", 0),
        };
        let file =
            |file: &File| json!({ "name": file.name, "bytes": file.bytes, "sha256": file.sha256, "url": file.url });
        json!({
            "name": entry.name, "what": entry.what, "licence": entry.licence, "by": entry.by,
            "languages": entry.languages, "bytes": entry.bytes(), "memory_bytes": entry.memory_bytes,
            "state": state, "bytes_here": bytes, "files": entry.files().iter().map(file).collect::<Vec<_>>(),
        })
    }

    async fn pull(&self, name: Option<&str>, yes: bool, from: Option<&str>) -> Result<Exit, Failure> {
        let entry = name.map_or(Ok(&MODELS[0]), named)?;
        if self.files.presence(entry) == Presence::Whole {
            return Ok(self.done(entry, "It is on this device already; `sigil model verify` reads it."));
        }
        self.ui.say(&format!("{}\n{}", entry.name, fields(&facts(entry))));
        if !BUILT_IN {
            self.ui.say(NOT_BUILT_IN);
        }
        if !yes && confirm(self.ui, "Get it?") != Some(true) {
            return Err(Failure::new(
                Exit::Usage,
                "nothing was fetched: it needs a yes to the licence and the size above",
            )
            .hint(format!("`sigil model pull {} --yes`", entry.name)));
        }
        let mut progress = self.progress();
        pull(&self.files, entry, from, |file, bytes| progress(file, bytes)).await.map_err(|error| failure(&error))?;
        self.ui.progress("");
        Ok(self.done(entry, "It is here, and each of its files is the one that was asked for."))
    }

    fn verify(&self, name: Option<&str>) -> Result<Exit, Failure> {
        let entries: Vec<&Entry> = match name {
            Some(name) => vec![named(name)?],
            None => MODELS.iter().filter(|entry| self.files.presence(entry) != Presence::Absent).collect(),
        };
        if entries.is_empty() {
            return Err(Failure::new(Exit::NotFound, "no model is on this device").hint("`sigil model pull` gets one"));
        }
        for entry in &entries {
            self.files.verify(entry).map_err(|error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                Failure::new(Exit::Failed, format!("{error}{cause}"))
                    .hint(format!("`sigil model remove {0}`, then `sigil model pull {0}`", entry.name))
            })?;
        }
        let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
        if self.ui.json {
            self.ui.document("sigil.models.verified/1", json!({ "items": names }));
        } else {
            self.ui.print(&format!("{}: every file is the one that was asked for.", names.join(", ")));
        }
        Ok(Exit::Ok)
    }

    fn remove(&self, name: &str) -> Result<Exit, Failure> {
        let entry = named(name)?;
        let removed = self.files.remove(entry).map_err(|error| {
            Failure::new(Exit::Failed, format!("removing {}: {error}", self.files.dir(entry).display()))
        })?;
        if !removed {
            return Err(Failure::new(Exit::NotFound, format!("`{name}` is not on this device")));
        }
        Ok(self.done(entry, "It is removed. Memory goes on by words; what it has made stays for when it comes back."))
    }

    async fn add(&self, from: &Path, sha: Option<Sha>) -> Result<Exit, Failure> {
        let url = from.to_str().filter(|text| text.contains("://"));
        let sha = match (url, sha) {
            (_, Some(sha)) => sha,
            (Some(_), None) => {
                return Err(Failure::new(Exit::Usage, "a file from a URL needs the hash that it should have")
                    .hint("pass --sha256 HEX; `sigil model list --json` shows those of the models that are known"));
            }
            (None, None) => weights::hash_of(from).map_err(|error| {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                Failure::new(Exit::Usage, format!("{error}{cause}"))
            })?,
        };
        let Some((entry, file)) = Entry::with_file(&sha) else {
            return Err(Failure::new(
                Exit::Usage,
                format!("no known model has a file with the hash {}", weights::hex(&sha)),
            )
            .hint("this version runs the models of `sigil model list` alone, and each by its very files"));
        };
        self.ui.say(&format!("{} of {}\n{}", file.name, entry.name, fields(&facts(entry))));
        let wanted = Wanted::of(&self.files, entry, &file).map_err(|error| failure(&error))?;
        let mut shown = self.progress();
        let progress = |bytes| shown(&file, bytes);
        match url {
            Some(url) => wanted.fetch(url, progress).await,
            None => wanted.copy(from, progress),
        }
        .map_err(|error| failure(&error))?;
        self.ui.progress("");
        let lacking: Vec<&str> =
            entry.files().iter().filter(|file| !self.files.path(entry, file).is_file()).map(|file| file.name).collect();
        let told = if lacking.is_empty() {
            "It is here, and each of its files is the one that was asked for.".to_owned()
        } else {
            format!("The file is here. Still lacking: {}.", lacking.join(", "))
        };
        Ok(self.done(entry, &told))
    }

    fn progress(&self) -> impl FnMut(&File, u64) + use<> {
        let (ui, mut shown) = (self.ui, None::<Instant>);
        move |file, bytes| {
            let (name, all) = (file.name, file.bytes);
            if shown.is_none_or(|shown| shown.elapsed() >= PROGRESS_EVERY) {
                shown = Some(Instant::now());
                ui.progress(&format!("{name}: {} of {} ({} %)", size(bytes), size(all), bytes * 100 / all.max(1)));
            }
        }
    }

    fn done(&self, entry: &Entry, told: &str) -> Exit {
        if self.ui.json {
            self.ui.document("sigil.model/1", self.shown(entry));
        } else {
            self.ui.print(told);
        }
        Exit::Ok
    }
}

fn failure(error: &FetchError) -> Failure {
    let exit = if error.is_of_the_asker() { Exit::Usage } else { Exit::Failed };
    let failure = Failure::new(exit, error.to_string());
    match error.next() {
        Some(next) => failure.hint(next),
        None => failure,
    }
}

fn named(name: &str) -> Result<&'static Entry, Failure> {
    Entry::named(name).ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("no model is called `{name}`")).hint("`sigil model list` shows all")
    })
}

fn facts(entry: &Entry) -> Vec<(&'static str, String)> {
    vec![
        ("for", entry.what.to_owned()),
        ("by", entry.by.to_owned()),
        ("licence", entry.licence.to_owned()),
        ("languages", entry.languages.to_owned()),
        ("size", size(entry.bytes())),
        ("memory", format!("{} while it is used", size(entry.memory_bytes))),
    ]
}

fn size(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}
