//! Plugins that offer nothing now: they wait for their owner, or for something that this device does not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plugins::Installed;
use super::provider::{About, Absent, Job, Kind, Offers, Parts, Provider, Run, State};
use crate::plugin::{Level, Plugin, Protocol, Tier};
use crate::runtime::outcome::{RunEnd, RunOutcome};

/// A plugin at rest.
#[derive(Debug)]
pub struct Resting {
    about: About,
    why: String,
    offers: watch::Sender<Arc<Offers>>,
}

impl Resting {
    /// An installed plugin that may not run: its owner has to allow it something, or to look at what has changed, or its
    /// manifest cannot be used.
    #[must_use]
    pub fn waiting(installed: &Installed) -> Self {
        let name = &installed.name;
        let (state, fix) = if let Err(why) = &installed.manifest {
            let fix = "`sigil plugin install DIR` puts a whole one in its place".to_owned();
            (State::Stopped { why: why.clone() }, fix)
        } else {
            let asks = installed.lacks().replace(',', " and ");
            let changes = match (installed.changed, asks.is_empty()) {
                (true, true) => "its files are not those that were installed".to_owned(),
                (true, false) => format!("its files are not those that were installed, and it asks for {asks}"),
                (false, _) => format!("it asks for {asks}"),
            };
            let allow = format!("`sigil plugin allow {name}{}` lets it run", installed.flags());
            (State::Review { changes }, format!("`sigil plugin inspect {name}` shows it, {allow}"))
        };
        let plugin = installed.manifest.as_ref().ok().map(|read| &read.plugin);
        Self::new(plugin, state, &fix)
    }

    /// A plugin that this device cannot run, for this reason.
    #[must_use]
    pub fn stopped(plugin: &Plugin, why: &str, fix: &str) -> Self {
        Self::new(Some(plugin), State::Stopped { why: why.to_owned() }, fix)
    }

    fn new(plugin: Option<&Plugin>, state: State, fix: &str) -> Self {
        let why = state.hindrance().unwrap_or_default();
        let absent = |plugin: &Plugin| {
            let tools = plugin.tools.iter().map(|tool| tool.name.to_string());
            tools.map(|tool| Absent { tool, why: why.clone(), fix: fix.to_owned() }).collect()
        };
        let about = About {
            kind: plugin.map_or(Kind::Process, kind_of),
            version: plugin.and_then(|plugin| plugin.version.as_ref()).map(ToString::to_string),
            tier: plugin.and_then(Plugin::tier),
            protocol: plugin.map(|plugin| match plugin.execution.protocol {
                Protocol::Json => "json",
                Protocol::Mcp => "mcp",
                Protocol::Grpc(_) => "grpc",
            }),
            level: Level::Bare,
            gaps: Vec::new(),
            absent: plugin.map_or_else(Vec::new, absent),
        };
        let offers = Offers { state, tools: BTreeMap::new() };
        Self { about, why, offers: watch::Sender::new(Arc::new(offers)) }
    }
}

/// The kind of what runs the tools of a plugin.
#[must_use]
pub fn kind_of(plugin: &Plugin) -> Kind {
    match (plugin.execution.protocol, plugin.tier()) {
        (Protocol::Mcp, _) => Kind::Mcp,
        (Protocol::Json | Protocol::Grpc(_), Some(Tier::Container)) => Kind::Container,
        (Protocol::Json | Protocol::Grpc(_), Some(Tier::Process) | None) => Kind::Process,
    }
}

impl Provider for Resting {
    fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.offers.subscribe()
    }

    fn take(&self, _: Job) -> Box<dyn Run> {
        Box::new(Refused(self.why.clone()))
    }

    fn about(&self) -> About {
        self.about.clone()
    }

    fn stop(&self, _: Instant) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A run of what offers nothing.
struct Refused(String);

impl Run for Refused {
    fn finish<'a>(self: Box<Self>, _: &'a mut Parts<'_>, _: &'a CancellationToken) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move { RunEnd::NotStarted(self.0).into() })
    }
}
