//! A provider for tests, which does what they say.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_core::ids::ToolName;
use mesh_core::record::Effect;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::commands::Starter;
use super::containers::Containers;
use super::declared::Means;
use super::foreign::node::{Hosting, Present};
use super::mcp::hosted::McpHost;
use super::provider::{Job, Offer, Offers, Parts, Place, Provider, Run, Runs, State};
use crate::runtime::container::Runtime;
use crate::runtime::container::engine::Engine;
use crate::runtime::egress::Proxy;
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::process::Launcher;
use crate::secrets::Secrets;
use crate::tasks::TaskGroup;

/// Ends each run with its own name as the output.
pub(crate) struct Fake {
    offers: watch::Sender<Arc<Offers>>,
    runs: Runs,
    end: RunEnd,
}

pub(crate) fn offer() -> Offer {
    Offer {
        effect: Effect::Once,
        description: "a test".to_owned(),
        owner_only: false,
        at_once: None,
        timeout: Duration::from_mins(1),
        max_output: 1024,
        card: None,
        input: None,
        in_review: false,
    }
}

impl Fake {
    pub(crate) fn new(tools: &[&str]) -> Self {
        let fake = Self { offers: watch::Sender::default(), runs: Runs::default(), end: RunEnd::Done };
        fake.offer(tools);
        fake
    }

    pub(crate) fn ending(self, end: RunEnd) -> Self {
        Self { end, ..self }
    }

    pub(crate) fn offer(&self, tools: &[&str]) {
        let tools = tools.iter().map(|name| (name.parse::<ToolName>().unwrap(), Arc::new(offer()))).collect();
        self.offers.send_modify(|offers| Arc::make_mut(offers).tools = tools);
    }

    /// Offers one tool, as it is.
    pub(crate) fn offer_as(&self, name: &str, offer: Offer) {
        let tools = [(name.parse::<ToolName>().unwrap(), Arc::new(offer))].into();
        self.offers.send_modify(|offers| Arc::make_mut(offers).tools = tools);
    }

    pub(crate) fn be(&self, state: State) {
        self.offers.send_modify(|offers| Arc::make_mut(offers).state = state);
    }
}

impl Provider for Fake {
    fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.offers.subscribe()
    }

    fn take(&self, job: Job) -> Box<dyn Run> {
        Box::new(FakeRun { job, end: self.end.clone(), _place: self.runs.enter() })
    }

    fn stop(&self, until: Instant) -> BoxFuture<'_, ()> {
        Box::pin(self.runs.stop(until))
    }
}

struct FakeRun {
    job: Job,
    end: RunEnd,
    _place: Place,
}

impl Run for FakeRun {
    fn finish<'a>(self: Box<Self>, parts: &'a mut Parts<'_>, _: &'a CancellationToken) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move {
            parts.spool.push(self.job.tool.as_str().as_bytes()).await.unwrap();
            self.end.into()
        })
    }
}

/// All that providers of this home are made with, and nothing was approved.
pub(crate) fn means(home: &Path, launcher: Launcher, tasks: &TaskGroup) -> Means {
    let secrets = Secrets::of(home);
    // No test of this needs one that is there.
    let (proxy, _) = Proxy::start(tasks);
    let engine = Engine::start(home, "", Vec::new(), launcher.helper().clone(), proxy.clone(), tasks).unwrap();
    let runtime: Arc<dyn Runtime> = Arc::new(engine);
    let hosting = McpHost {
        launcher: launcher.clone(),
        runtime: runtime.clone(),
        pins: home.join("pins"),
        secrets: secrets.clone(),
        proxy: proxy.clone(),
        approved: watch::channel(Arc::default()).1,
        tasks: tasks.clone(),
    };
    let containers = Containers { runtime, secrets: secrets.clone(), tasks: tasks.clone() };
    let foreign = Hosting {
        pins: home.join("pins/nodes"),
        approved: watch::channel(Arc::default()).1,
        present: Present::default(),
    };
    Means { starter: Starter { launcher, secrets, proxy }, hosting, containers, foreign }
}
