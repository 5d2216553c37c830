//! The settings of a running agent: read anew on request, taken whole or not at all.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::error::in_file;
use crate::config::{self, Config, Overrides, Stamp, Warning};
use crate::doors::ops::policy;
use crate::doors::settings::{Loaded, Reloaded, refused};
use crate::mesh::MeshHandle;
use crate::node::declared::Declared;
use crate::node::foreign::records::{Nodes, Record};
use crate::node::host::ToolHost;
use crate::node::plugins::{self, Plugins};
use crate::node::publisher::Publisher;
use crate::status::OpError;

/// The settings that run, and what takes new ones.
pub(super) struct Reloader {
    home: PathBuf,
    overrides: Overrides,
    /// Settings that the parts of this agent were built with.
    started: Config,
    /// Settings that run now; of keys that only a start takes, those of the file.
    now: Config,
    /// Warnings of the start that are not about the file.
    standing: Vec<String>,
    /// Warnings about what the file says of rights, when that was last said.
    of_rights: Vec<String>,
    shown: watch::Sender<Arc<Loaded>>,
    /// The file at the last look.
    seen: Option<Stamp>,
    /// The file that was last tried without being asked.
    tried: Option<Stamp>,
    /// What was wrong in that.
    mistake: Option<String>,
    tools: Tools,
    mesh: MeshHandle,
}

/// The tools of a running agent: what the settings declare, what runs it, and what tells the mesh of it.
pub(super) struct Tools {
    pub(super) declared: Declared,
    pub(super) host: ToolHost,
    pub(super) publisher: Publisher,
    pub(super) plugins: Plugins,
    /// Installed plugins, as they were when they were last taken.
    pub(super) stamp: plugins::Stamp,
    pub(super) nodes: Nodes,
    /// Foreign nodes that are let in.
    pub(super) records: Vec<Record>,
}

impl Tools {
    /// Tools that are declared and not offered, with the reasons.
    pub(super) fn left_out(&self) -> Vec<String> {
        self.host.catalogue().borrow().left_out().iter().map(ToString::to_string).collect()
    }
}

async fn declare(mesh: &MeshHandle, rights: &config::Rights) -> Result<Vec<String>, OpError> {
    Ok(policy::declare(mesh, &rights.said, &rights.text).await?.warnings)
}

/// Settings as they were read, with what the doors show of them.
pub(super) struct Read {
    pub(super) config: Config,
    pub(super) warnings: Vec<Warning>,
    stamp: Option<Stamp>,
}

impl Read {
    /// Reads them. The stamp is taken first: a file that changes meanwhile counts as newer.
    pub(super) fn from(home: &std::path::Path, overrides: &Overrides) -> Result<Self, config::ConfigError> {
        let stamp = Stamp::of(home);
        let (config, warnings) = config::load(home, overrides)?;
        Ok(Self { config, warnings, stamp })
    }

    fn loaded(&self, standing: &[String], started: &Config, at_next_start: Vec<String>) -> Loaded {
        let warnings = self.warnings.iter().map(ToString::to_string).chain(standing.iter().cloned()).collect();
        let call_rate = Some(started.peer().rate);
        let free_min = started.storage.free_min;
        Loaded { call_ttl: self.config.calls.ttl, call_rate, free_min, stamp: self.stamp, warnings, at_next_start }
    }
}

impl Reloader {
    pub(super) fn new(home: PathBuf, overrides: Overrides, read: Read, tools: Tools, mesh: MeshHandle) -> Self {
        let shown = watch::channel(Arc::new(read.loaded(&[], &read.config, Vec::new()))).0;
        let Read { config, stamp: seen, .. } = read;
        let started = config.clone();
        let (standing, of_rights) = (Vec::new(), Vec::new());
        Self {
            home,
            overrides,
            started,
            now: config,
            standing,
            of_rights,
            shown,
            seen,
            tried: None,
            mistake: None,
            tools,
            mesh,
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<Loaded>> {
        self.shown.subscribe()
    }

    /// Adds a warning of the start that stays whatever the file says.
    pub(super) fn note(&mut self, warning: String) {
        self.standing.push(warning.clone());
        self.say(warning);
    }

    /// Adds a warning that stays until the file is taken anew.
    pub(super) fn say(&self, warning: String) {
        self.shown.send_modify(|loaded| Arc::make_mut(loaded).warnings.push(warning));
    }

    /// Says in the mesh what the file says about rights. What is refused of it is a warning: the agent runs, and the rights
    /// that the mesh had hold.
    pub(super) async fn declare(&mut self) {
        let warnings = declare(&self.mesh, &self.now.rights).await.unwrap_or_else(|error| {
            vec![format!("what {} says about rights was not taken: {}", config::FILE_NAME, error.detail)]
        });
        self.of_rights.clone_from(&warnings);
        for warning in warnings {
            self.warn(warning);
        }
    }

    /// Reads the file and takes what a running agent can take.
    ///
    /// # Errors
    /// The file cannot be used, or others may write it: nothing has changed.
    pub(super) async fn reload(&mut self) -> Result<Reloaded, OpError> {
        self.look_at_plugins().await;
        self.look_at_nodes().await;
        match self.read().await {
            Ok((read, declared)) => {
                // A file is taken whole or not at all, and this is what the mesh may refuse.
                match declare(&self.mesh, &read.config.rights).await {
                    Ok(warnings) => self.of_rights = warnings,
                    Err(error) => {
                        tracing::warn!(%error, "sigil.toml was not taken: the settings stay as they were");
                        return Err(refused(&error.detail));
                    }
                }
                self.take(read, declared).await
            }
            Err(why) => {
                tracing::warn!(%why, "sigil.toml was not taken: the settings stay as they were");
                Err(refused(&why))
            }
        }
    }

    /// Takes the file without being asked, if tools alone have changed in it since it was taken, and it lies still: the
    /// same at two looks. Whatever else is new in it waits for [`Self::reload`], and the tools with it. What is wrong is
    /// said once.
    pub(super) async fn look(&mut self) {
        self.look_at_plugins().await;
        self.look_at_nodes().await;
        let stamp = Stamp::of(&self.home);
        let before = std::mem::replace(&mut self.seen, stamp);
        let waits = stamp.is_some() && stamp != self.shown.borrow().stamp && stamp != self.tried;
        if !waits || stamp != before {
            return;
        }
        self.tried = stamp;
        let (read, declared) = match self.read().await {
            Ok(read) => read,
            Err(why) => return self.tell_mistake(Some(format!("{why}; the tools stay as they were"))),
        };
        self.tell_mistake(None);
        let differences = read.config.differences(&self.now, &self.started);
        let tools_alone =
            differences.live.iter().all(|key| key.starts_with("tools.") || key.starts_with("mcp_servers."));
        // What was said about rights is not said again: it may have been changed elsewhere since.
        if tools_alone && differences.at_next_start == self.shown.borrow().at_next_start {
            // What is wrong with it is in the log.
            let _ = self.take(read, declared).await;
        }
    }

    /// Takes installed plugins that are new or have changed.
    async fn look_at_plugins(&mut self) {
        let (plugins, seen) = (self.tools.plugins.clone(), self.tools.stamp.clone());
        let looked = tokio::task::spawn_blocking(move || {
            // First the mark: what changes while it is read counts as newer.
            let stamp = plugins.stamp();
            (stamp != seen).then(|| (stamp, plugins.list()))
        });
        let Ok(Some((stamp, listed))) = looked.await else { return };
        self.tools.stamp = stamp;
        let installed = match listed {
            Ok(installed) => installed,
            Err(error) => return tracing::warn!(%error, "the plugins stay as they were"),
        };
        let (declared, of) = (self.tools.declared.clone(), installed.clone());
        // Pins are read and schemas compiled.
        let Ok(declared) = tokio::task::spawn_blocking(move || declared.with_plugins(&of)).await else { return };
        self.tools.host.put_in_force(declared.members(), self.now.node.deny.clone());
        self.tools.declared = declared;
        if let Err(error) = self.tools.publisher.publish().await {
            tracing::warn!(%error, "the mesh is not told of changed plugins");
        }
        tracing::info!(target: "sigil::events::agent", count = installed.len(), "plugins taken");
    }

    /// Takes foreign nodes that were let in or taken out.
    async fn look_at_nodes(&mut self) {
        let nodes = self.tools.nodes.clone();
        let Ok(Ok(records)) = tokio::task::spawn_blocking(move || nodes.list()).await else { return };
        if records == self.tools.records {
            return;
        }
        let (declared, of) = (self.tools.declared.clone(), records.clone());
        let Ok(declared) = tokio::task::spawn_blocking(move || declared.with_nodes(&of)).await else { return };
        self.tools.host.put_in_force(declared.members(), self.now.node.deny.clone());
        self.tools.declared = declared;
        if let Err(error) = self.tools.publisher.publish().await {
            tracing::warn!(%error, "the mesh is not told of changed nodes");
        }
        tracing::info!(target: "sigil::events::agent", count = records.len(), "foreign nodes taken");
        self.tools.records = records;
    }

    /// Tells what is wrong in the file in place of what was wrong before.
    fn tell_mistake(&mut self, mistake: Option<String>) {
        let before = std::mem::replace(&mut self.mistake, mistake.clone());
        self.shown.send_modify(|loaded| Arc::make_mut(loaded).warnings.retain(|told| Some(told) != before.as_ref()));
        if let Some(mistake) = mistake {
            self.warn(mistake);
        }
    }

    fn warn(&self, warning: String) {
        tracing::warn!("{warning}");
        self.say(warning);
    }

    async fn read(&self) -> Result<(Read, Declared), String> {
        let (home, overrides, declared) = (self.home.clone(), self.overrides.clone(), self.tools.declared.clone());
        let read = tokio::task::spawn_blocking(move || -> Result<_, String> {
            crate::ownership::check(&home).map_err(|error| error.to_string())?;
            let read = Read::from(&home, &overrides).map_err(|error| error.to_string())?;
            let declared = declared.renewed(&read.config).map_err(in_file(&home)).map_err(|error| error.to_string())?;
            Ok((read, declared))
        });
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Takes settings whose rights have been said.
    async fn take(&mut self, read: Read, declared: Declared) -> Result<Reloaded, OpError> {
        let differences = read.config.differences(&self.now, &self.started);
        // First what runs, then what the others are told of it.
        self.tools.host.put_in_force(declared.members(), read.config.node.deny.clone());
        self.tools.declared = declared;
        self.tools.publisher.publish().await?;
        let mut loaded = read.loaded(&self.standing, &self.started, differences.at_next_start.clone());
        loaded.warnings.extend(self.of_rights.iter().cloned());
        loaded.warnings.extend(self.tools.left_out());
        let warnings = loaded.warnings.clone();
        self.shown.send_replace(Arc::new(loaded));
        self.now = read.config;
        tracing::info!(
            target: "sigil::events::agent",
            changed = ?differences.live, at_next_start = ?differences.at_next_start, "settings reloaded"
        );
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        Ok(Reloaded { changed: differences.live, at_next_start: differences.at_next_start, warnings })
    }
}
