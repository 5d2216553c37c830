//! Plugins whose tools run in containers, a process for each call. Each is a provider of its own, which follows the engine of this
//! device: what it lacks it says, and what comes back it takes up.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sigil_shim::wire::TEMP_DIR;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::commands::{self, without_secrets};
use super::provider::{About, Absent, Job, Kind, Offers, Parts, Place, Provider, Run, Runs, State};
use crate::plugin::{self, ContainerConfig, Image, Instance, Level, Plugin, Protocol, Pull, Tier};
use crate::runtime::container::pool::{Lives, Pool};
use crate::runtime::container::run::{Bounds, run};
use crate::runtime::container::{Command, EngineState, ImageFacts, Order, Runtime, RuntimeError};
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::secrets::{Redactor, Resolved, Secrets};
use crate::tasks::TaskGroup;

/// First wait before what failed is tried again; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait: it is never given up.
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// Longest wait of a call for a container.
const START_WAIT_MAX: Duration = Duration::from_secs(10);

/// All that containers of plugins are run with. Cheap to clone.
#[derive(Clone)]
pub struct Containers {
    /// Starts them.
    pub runtime: Arc<dyn Runtime>,
    /// The secrets that they are given.
    pub secrets: Secrets,
    /// Tasks of the agent.
    pub tasks: TaskGroup,
}

impl std::fmt::Debug for Containers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Containers").finish_non_exhaustive()
    }
}

/// A plugin in containers.
pub struct Contained {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

struct Shared {
    plugin: Plugin,
    config: ContainerConfig,
    with: Containers,
    offers: watch::Sender<Arc<Offers>>,
    /// All of its tools, also while none is offered.
    tools: Arc<Offers>,
    held: Mutex<Held>,
    runs: Runs,
    stop: CancellationToken,
}

#[derive(Default)]
struct Held {
    pool: Option<Pool>,
    /// Why no tool is offered, with the next step.
    absent: Option<(String, String)>,
    /// What the engine warns of.
    warnings: Vec<String>,
}

impl std::fmt::Debug for Contained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contained").field("plugin", &self.shared.plugin.name).finish_non_exhaustive()
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Contained {
    /// Runs a plugin, if it is one for this: its image is looked for soon. Compiles the schemas of its tools: not for a loop.
    #[must_use]
    pub fn start(plugin: &Plugin, with: &Containers) -> Option<Self> {
        let config = ContainerConfig::from_manifest(plugin).ok()?;
        if plugin.execution.protocol != Protocol::Json {
            return None;
        }
        let tools = plugin.tools.iter().map(|tool| (tool.name.clone(), Arc::new(commands::offer(plugin, tool, false))));
        let tools = Offers { state: looking(), tools: tools.collect() };
        let shared = Arc::new(Shared {
            plugin: plugin.clone(),
            config,
            with: with.clone(),
            offers: watch::Sender::new(Arc::new(tools.clone())),
            tools: Arc::new(tools),
            held: Mutex::default(),
            runs: Runs::default(),
            stop: CancellationToken::new(),
        });
        let (over, ended) = watch::channel(false);
        let keeper = shared.clone();
        with.tasks.spawn(async move {
            keeper.keep().await;
            over.send_replace(true);
        });
        Some(Self { shared, ended })
    }
}

fn looking() -> State {
    State::Starting { step: "the container engine is looked for".to_owned() }
}

impl Shared {
    /// Follows the engine until this plugin is not wanted any more.
    async fn keep(&self) {
        let stopping = self.with.tasks.stopping();
        let over = async {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = self.stop.cancelled() => {}
            }
        };
        tokio::select! {
            () = over => {}
            () = self.follow() => {}
        }
        let pool = self.held().pool.take();
        if let Some(pool) = pool {
            pool.close().await;
        }
    }

    async fn follow(&self) {
        let mut engine = self.with.runtime.state();
        let mut pulled = false;
        let mut wait = BACKOFF_FIRST;
        loop {
            let state = engine.borrow_and_update().clone();
            let again = match state {
                EngineState::Looking => {
                    self.be(looking());
                    None
                }
                EngineState::Absent { why, fix } => {
                    self.lacks(&why, fix);
                    None
                }
                EngineState::Gone { why } => {
                    self.be(State::Unhealthy { why: format!("the container engine is gone: {why}") });
                    None
                }
                EngineState::Ready(facts) => {
                    self.held().warnings.clone_from(&facts.warnings);
                    let prepared = tokio::select! {
                        prepared = self.prepare(&mut pulled) => prepared,
                        // Another state counts.
                        changed = engine.changed() => match changed {
                            Ok(()) => continue,
                            Err(_) => return,
                        },
                    };
                    match prepared {
                        Ok(()) => {
                            wait = BACKOFF_FIRST;
                            self.be(State::Ready);
                            None
                        }
                        Err(lack @ Lack::Image(_)) => {
                            self.lacks(&lack.to_string(), format!("`docker pull {}` fetches it", self.config.image));
                            Some(wait)
                        }
                        Err(lack @ Lack::Other(_)) => {
                            self.lacks(&lack.to_string(), takes_image(&self.plugin));
                            None
                        }
                        Err(Lack::Engine(error)) => {
                            self.be(State::Unhealthy { why: error.to_string() });
                            Some(wait)
                        }
                    }
                }
            };
            let later = async {
                match again {
                    Some(wait) => sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = later => wait = (wait * 2).min(BACKOFF_MAX),
                changed = engine.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Has the image here, and a pool of it.
    async fn prepare(&self, pulled: &mut bool) -> Result<(), Lack> {
        let mut step = |step: String| self.be(State::Starting { step });
        let facts = have_image(&*self.with.runtime, &self.config, pulled, &mut step).await?;
        let old = {
            let mut held = self.held();
            match &held.pool {
                Some(pool) if pool.order().image == facts => None,
                Some(_) | None => held.pool.replace(self.pool(facts)),
            }
        };
        if let Some(old) = old {
            old.close().await;
        }
        if let Some(pool) = &self.held().pool {
            pool.fill();
        }
        Ok(())
    }

    fn pool(&self, image: ImageFacts) -> Pool {
        let lives = match &self.plugin.execution.runs {
            plugin::Runs::Container(_, container) => match container.instance {
                Instance::Call => Lives::Call { warm: container.warm.into() },
                Instance::Shared => Lives::Shared { idle: container.idle },
            },
            plugin::Runs::Process(..) | plugin::Runs::Remote(_) => Lives::Call { warm: 0 },
        };
        let order = Order { config: self.config.clone(), image, provider: self.plugin.name.to_string() };
        Pool::new(self.with.runtime.clone(), order, lives, self.with.tasks.clone())
    }

    /// True if a container has one call only.
    fn is_of_one_call(&self) -> bool {
        match &self.plugin.execution.runs {
            plugin::Runs::Container(_, container) => container.instance == Instance::Call,
            plugin::Runs::Process(..) | plugin::Runs::Remote(_) => true,
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers all of its tools, in a state.
    fn be(&self, state: State) {
        self.held().absent = None;
        self.tell(Offers { state, tools: self.tools.tools.clone() });
    }

    /// Offers none, for a reason that its owner can do something about.
    fn lacks(&self, why: &str, fix: String) {
        self.held().absent = Some((why.to_owned(), fix));
        self.tell(Offers { state: State::Stopped { why: why.to_owned() }, tools: BTreeMap::new() });
    }

    fn tell(&self, offers: Offers) {
        self.offers.send_if_modified(|held| {
            let differs = **held != offers;
            *held = Arc::new(offers);
            differs
        });
    }

    /// The command of a tool, and what is secret in it.
    async fn command(&self, pool: &Pool, job: &Job) -> Result<(Command, Redactor), String> {
        let tool = self.plugin.tools.iter().find(|tool| tool.name == job.tool).ok_or("its plugin has no such tool")?;
        let resolved = self.with.secrets.fetch(&self.config.env).await;
        let Resolved { values, redactor } =
            resolved.map_err(|error| format!("what it is to be given cannot be had: {error}"))?;
        let mut command = command_of(&self.config, &pool.order().image, &tool.args, values)?;
        command.env.extend(commands::of_call(job));
        Ok((command, redactor))
    }
}

/// What a plugin in containers lacks.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lack {
    /// Its image, which is not to be fetched.
    #[error("the image {0} is not on this device, and its manifest says `pull: never`")]
    Image(Image),
    /// The owner's word: what it was allowed was allowed another image of that name.
    #[error("the image {0} is another one than when its plugin was allowed what it asks for")]
    Other(Image),
    /// Help of the engine.
    #[error(transparent)]
    Engine(#[from] RuntimeError),
}

/// Has an image here; fetches it where its manifest says so, and tells how far that is. `pulled`: it was fetched since the plugin
/// was started.
pub(super) async fn have_image(
    runtime: &dyn Runtime,
    config: &ContainerConfig,
    pulled: &mut bool,
    step: &mut (dyn FnMut(String) + Send),
) -> Result<ImageFacts, Lack> {
    let facts = some_image(runtime, config, pulled, step).await?;
    let (pin, id) = (config.pin.clone(), facts.id.clone());
    let seen = tokio::task::spawn_blocking(move || is_the_one(pin.as_deref(), &id)).await;
    match seen.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Ok(true) => Ok(facts),
        Ok(false) => Err(Lack::Other(config.image.clone())),
        Err(error) => Err(Lack::Engine(RuntimeError::NotStarted(format!("which image was allowed: {error}")))),
    }
}

/// True if this image is the one that was run first since its plugin was allowed what it asks for, which it is from now on if
/// there was none. Blocks.
fn is_the_one(pin: Option<&Path>, id: &str) -> std::io::Result<bool> {
    let Some(pin) = pin else { return Ok(true) };
    match std::fs::read_to_string(pin) {
        Ok(kept) => Ok(kept.trim() == id),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            crate::platform::replace_file(pin, id.as_bytes()).map(|()| true)
        }
        Err(error) => Err(error),
    }
}

async fn some_image(
    runtime: &dyn Runtime,
    config: &ContainerConfig,
    pulled: &mut bool,
    step: &mut (dyn FnMut(String) + Send),
) -> Result<ImageFacts, Lack> {
    let image = &config.image;
    let facts = runtime.image(image).await?;
    let wanted = match config.pull {
        Pull::Never => false,
        Pull::Missing => facts.is_none(),
        Pull::Always => facts.is_none() || !*pulled,
    };
    if !wanted {
        return facts.ok_or_else(|| Lack::Image(image.clone()));
    }
    step(format!("pulling the image {image}"));
    let mut far = |far: String| step(format!("pulling the image {image}: {far}"));
    match (runtime.pull(image, &mut far).await, facts) {
        (Ok(()), _) => *pulled = true,
        // What is here is better than nothing.
        (Err(error), Some(facts)) => {
            tracing::warn!(%image, "it is not renewed: {error}");
            return Ok(facts);
        }
        (Err(error), None) => return Err(error.into()),
    }
    runtime.image(image).await?.ok_or_else(|| Lack::Image(image.clone()))
}

/// What an owner does about an image that is another one now.
pub(super) fn takes_image(plugin: &Plugin) -> String {
    let flags: Vec<String> = plugin.consents().iter().map(|it| format!(" --{it}")).collect();
    format!("look at where it comes from; `sigil plugin allow {}{}` takes it as it is now", plugin.name, flags.concat())
}

/// What is started in a container, with these arguments and this environment.
pub(super) fn command_of(
    config: &ContainerConfig,
    image: &ImageFacts,
    args: &[String],
    values: BTreeMap<String, String>,
) -> Result<Command, String> {
    let program = if config.command.is_empty() { &image.command } else { &config.command };
    if program.is_empty() && args.is_empty() {
        return Err("neither its manifest nor its image says what to run: give a `command`".to_owned());
    }
    let mut env: BTreeMap<String, String> =
        ["HOME", "TMPDIR"].map(|name| (name.to_owned(), TEMP_DIR.to_owned())).into();
    env.extend(commands::way_out_of(config.network, &config.egress));
    env.extend(values);
    Ok(Command { program: program.iter().chain(args).cloned().collect(), env })
}

impl Provider for Contained {
    fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.shared.offers.subscribe()
    }

    fn take(&self, job: Job) -> Box<dyn Run> {
        let shared = self.shared.clone();
        let place = shared.runs.enter();
        let pool = shared.held().pool.clone();
        Box::new(ContainedRun { shared, pool, job, place })
    }

    fn about(&self) -> About {
        let held = self.shared.held();
        let absent = held.absent.iter().flat_map(|(why, fix)| {
            let names = self.shared.tools.tools.keys();
            names.map(move |name| Absent { tool: name.to_string(), why: why.clone(), fix: fix.clone() })
        });
        About {
            kind: Kind::Container,
            version: self.shared.plugin.version.as_ref().map(ToString::to_string),
            tier: Some(Tier::Container),
            protocol: Some("json"),
            level: Level::Container,
            gaps: held.warnings.clone(),
            absent: absent.collect(),
        }
    }

    fn stop(&self, until: Instant) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.shared.runs.stop(until).await;
            self.shared.stop.cancel();
            let _ = self.ended.clone().wait_for(|ended| *ended).await;
        })
    }
}

struct ContainedRun {
    shared: Arc<Shared>,
    pool: Option<Pool>,
    job: Job,
    place: Place,
}

impl Run for ContainedRun {
    fn finish<'a>(
        self: Box<Self>,
        parts: &'a mut Parts<'_>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move {
            let Self { shared, pool, job, place } = *self;
            let Some(pool) = pool else {
                return RunEnd::NotStarted("its container engine is not ready".to_owned()).into();
            };
            let began = Instant::now();
            let stop = cancel.child_token();
            let command = tokio::select! {
                biased;
                () = cancel.cancelled() => return RunEnd::Cancelled("cancelled before it was started".to_owned()).into(),
                command = shared.command(&pool, &job) => command,
            };
            let (command, redactor) = match command {
                Ok(command) => command,
                Err(why) => return RunEnd::NotStarted(why).into(),
            };
            let taken = tokio::select! {
                biased;
                () = cancel.cancelled() => return RunEnd::Cancelled("cancelled before it was started".to_owned()).into(),
                () = place.ended() => return RunEnd::NotStarted("its tool was replaced or taken away".to_owned()).into(),
                taken = timeout(START_WAIT_MAX.min(job.timeout), pool.take()) => taken,
            };
            let lease = match taken {
                Ok(Ok(lease)) => lease,
                Ok(Err(error)) => return RunEnd::NotStarted(error.to_string()).into(),
                Err(_) => return RunEnd::NotStarted("no container for it came up in time".to_owned()).into(),
            };
            if shared.is_of_one_call() {
                lease.instance().serves(commands::behalf(&shared.plugin, &job));
            }
            let exec = match lease.runtime().exec(lease.instance(), command).await {
                Ok(exec) => exec,
                Err(error) => return RunEnd::NotStarted(error.to_string()).into(),
            };
            let bounds =
                Bounds { time: job.timeout.saturating_sub(began.elapsed()), memory: shared.config.memory_limit };
            let redactor = Arc::new(redactor);
            let Parts { spool, note } = parts;
            let mut run = pin!(run(exec, bounds, job.arguments, redactor.clone(), &stop, spool, note));
            let outcome = tokio::select! {
                biased;
                outcome = &mut run => without_secrets(&redactor, outcome),
                () = place.ended() => {
                    stop.cancel();
                    let outcome = without_secrets(&redactor, run.await);
                    if cancel.is_cancelled() { outcome } else { commands::replaced(outcome) }
                }
            };
            drop(lease);
            outcome
        })
    }
}
