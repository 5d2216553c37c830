//! A gRPC server as a provider: its container is started, watched, and started anew when it ends. It follows the engine of this
//! device, as other containers do: what it lacks it says, and what comes back it takes up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_core::ids::ToolName;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::connection;
use super::live::{Live, Present};
use super::run::ServedRun;
use super::tools::{self, Described, Offered};
use crate::node::approvals::Approved;
use crate::node::containers::{self, Containers, Lack};
use crate::node::mcp::hosted::McpHost;
use crate::node::mcp::tools::PinFile;
use crate::node::provider::{About, Absent, Job, Kind, Offer, Offers, Provider, Run, Runs, State};
use crate::node::servers;
use crate::pb::tool_service_client::ToolServiceClient;
use crate::pb::{DescribeRequest, DescribeResponse, ToolSpec};
use crate::plugin::{self, ContainerConfig, Level, NetworkMode, Plugin, Protocol, Tier};
use crate::runtime::container::{Dialer, EngineState, Order};
use crate::runtime::server::{Errors, Server, Tail};
use crate::secrets::{Redactor, Resolved};

/// First wait before a server that ended is started anew; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait: it is never given up.
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// Time of work after which a server that ends is not thought to be broken.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);
/// Time for a server to listen, and then to describe its tools: some load for a long time first.
const START: Duration = Duration::from_mins(1);
/// How often it is looked if it listens.
const DIAL_EVERY: Duration = Duration::from_millis(50);
/// Largest description of all tools, bytes.
const DESCRIPTION_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Time for calls to end when the agent stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Time in which what a server that ended had written before is read.
const DRAIN: Duration = Duration::from_millis(200);
/// Time for the end of a process whose connection has ended to be told.
const ENDED_WITHIN: Duration = Duration::from_millis(300);
/// Characters of what a server wrote that are told with its end.
const TAIL_CHARS_MAX: usize = 400;

/// A plugin that is a gRPC server.
pub struct Served {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

struct Shared {
    plugin: Plugin,
    config: ContainerConfig,
    port: u16,
    idle: Option<Duration>,
    with: Containers,
    pins: PinFile,
    approved: watch::Receiver<Approved>,
    /// What its manifest lists.
    listed: BTreeMap<ToolName, Arc<Offer>>,
    offers: watch::Sender<Arc<Offers>>,
    present: Arc<Present>,
    held: Mutex<Held>,
    runs: Runs,
    stop: CancellationToken,
}

#[derive(Default)]
struct Held {
    absent: Vec<Absent>,
    warnings: Vec<String>,
}

/// The end of one container.
enum Over {
    /// It is not to run any more.
    Stopped,
    /// It is to be started anew at once.
    Restart,
    /// It was not used: the next call starts it.
    Idle,
    /// Its image is not here.
    Lacks(String, String),
    /// It ended, or it does not work.
    Broken(String),
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("plugin", &self.shared.plugin.name).finish_non_exhaustive()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Served {
    /// Runs a plugin, if it is one for this: its server is started soon. Compiles the schemas of its tools: not for a loop.
    #[must_use]
    pub fn start(plugin: &Plugin, folder: Option<&Path>, with: &Containers, host: &McpHost) -> Option<Self> {
        let config = ContainerConfig::from_manifest(plugin).ok()?;
        let Protocol::Grpc(port) = plugin.execution.protocol else { return None };
        if config.network == NetworkMode::Host {
            return None;
        }
        let idle = match &plugin.execution.runs {
            plugin::Runs::Container(_, container) => container.idle,
            plugin::Runs::Process(..) | plugin::Runs::Remote(_) => None,
        };
        let listed = tools::listed(plugin);
        let state = State::Starting { step: "its server".to_owned() };
        let shared = Arc::new(Shared {
            config,
            port,
            idle,
            with: with.clone(),
            // Of the settings' apart from those of MCP servers, which may have the same name.
            pins: PinFile::new(
                servers::pins_of(folder)
                    .unwrap_or_else(|| host.pins.join("grpc").join(format!("{}.json", plugin.name))),
            ),
            approved: host.approved.clone(),
            offers: watch::Sender::new(Arc::new(Offers { state, tools: listed.clone() })),
            listed,
            present: Arc::default(),
            held: Mutex::default(),
            runs: Runs::default(),
            stop: CancellationToken::new(),
            plugin: plugin.clone(),
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

impl Provider for Served {
    fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.shared.offers.subscribe()
    }

    fn take(&self, job: Job) -> Box<dyn Run> {
        let place = self.shared.runs.enter();
        Box::new(ServedRun { present: self.shared.present.clone(), job, place })
    }

    fn about(&self) -> About {
        let held = self.shared.held();
        About {
            kind: Kind::Container,
            version: self.shared.plugin.version.as_ref().map(ToString::to_string),
            tier: Some(Tier::Container),
            protocol: Some("grpc"),
            level: Level::Container,
            gaps: held.warnings.clone(),
            absent: held.absent.clone(),
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

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn be(&self, state: State) {
        self.offers.send_if_modified(|offers| {
            let differs = offers.state != state;
            if differs {
                Arc::make_mut(offers).state = state;
            }
            differs
        });
    }

    /// Offers nothing, for a reason that its owner can do something about.
    fn lacks(&self, why: &str, fix: &str) {
        let names = self.listed.keys().map(ToString::to_string);
        let absent = names.map(|tool| Absent { tool, why: why.to_owned(), fix: fix.to_owned() }).collect();
        self.held().absent = absent;
        let offers = Offers { state: State::Stopped { why: why.to_owned() }, tools: BTreeMap::new() };
        self.offers.send_replace(Arc::new(offers));
    }

    async fn keep(&self) {
        let stopping = self.with.tasks.stopping();
        let (mut wait, mut failures, mut pulled) = (BACKOFF_FIRST, 0_u32, false);
        loop {
            let began = Instant::now();
            let over = self.run_once(&mut pulled).await;
            self.present.is(None);
            let why = match over {
                Over::Stopped => return,
                Over::Restart => {
                    self.be(State::Starting { step: "its server, anew".to_owned() });
                    (wait, failures) = (BACKOFF_FIRST, 0);
                    continue;
                }
                Over::Idle => {
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = stopping.cancelled() => return,
                        () = self.present.wanted() => {}
                    }
                    (wait, failures) = (BACKOFF_FIRST, 0);
                    continue;
                }
                Over::Lacks(why, fix) => {
                    self.lacks(&why, &fix);
                    None
                }
                Over::Broken(why) => Some(why),
            };
            if began.elapsed() >= HEALTHY_AFTER {
                (wait, failures) = (BACKOFF_FIRST, 0);
            }
            if let Some(why) = why {
                failures += 1;
                tracing::warn!(plugin = %self.plugin.name, failures, "a gRPC server ended: {why}");
                self.be(State::Unhealthy { why });
            }
            // Several that ended together do not come back together.
            let jitter = wait.mul_f64(f64::from(began.elapsed().subsec_nanos() % 1000) / 4000.0);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = stopping.cancelled() => return,
                () = sleep(wait + jitter) => {}
            }
            wait = (wait * 2).min(BACKOFF_MAX);
        }
    }

    /// Waits until the engine works; says meanwhile why it does not.
    async fn engine(&self) {
        let mut engine = self.with.runtime.state();
        loop {
            let state = engine.borrow_and_update().clone();
            match state {
                EngineState::Ready(facts) => {
                    self.held().warnings.clone_from(&facts.warnings);
                    return;
                }
                EngineState::Looking => {
                    self.be(State::Starting { step: "the container engine is looked for".to_owned() });
                }
                EngineState::Absent { why, fix } => self.lacks(&why, &fix),
                EngineState::Gone { why } => {
                    self.be(State::Unhealthy { why: format!("the container engine is gone: {why}") });
                }
            }
            if engine.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn run_once(&self, pulled: &mut bool) -> Over {
        let stopping = self.with.tasks.stopping();
        let begun = tokio::select! {
            () = self.stop.cancelled() => return Over::Stopped,
            () = stopping.cancelled() => return Over::Stopped,
            begun = self.begin(pulled) => begun,
        };
        let (mut server, streams, redactor) = match begun {
            Ok(begun) => begun,
            Err(over) => return over,
        };
        let tail = Tail::default();
        let ended = CancellationToken::new();
        let over = {
            let (stdout, errors) = streams;
            let reading = async { tokio::join!(tail.clone().read(stdout), errors.into_tail(tail.clone())) };
            let mut reading = std::pin::pin!(reading);
            let (mut read, mut exit) = (false, None);
            let gone = CancellationToken::new();
            let dialer = server.dialer();
            let talk = async {
                match self.greet(dialer, &gone, &redactor).await {
                    Ok((channel, described)) => self.serve(channel, described, redactor.clone(), &ended).await,
                    Err(why) => Over::Broken(why),
                }
            };
            let over = {
                let mut talk = std::pin::pin!(talk);
                loop {
                    tokio::select! {
                        over = &mut talk => break over,
                        () = self.stop.cancelled() => break Over::Stopped,
                        () = gone.cancelled() => break Over::Broken("it has closed its connection".to_owned()),
                        told = server.ended() => {
                            exit = Some(told);
                            break Over::Broken(String::new());
                        }
                        _ = &mut reading, if !read => read = true,
                    }
                }
            };
            self.present.is(None);
            match over {
                Over::Broken(why) => {
                    // Said before it is looked into: calls that come now wait for the next one.
                    let first = if why.is_empty() { "its server has just ended".to_owned() } else { why.clone() };
                    self.be(State::Unhealthy { why: first });
                    // The end of its process says more than that of its connection.
                    let exit = match exit {
                        Some(exit) => Some(exit),
                        None => timeout(ENDED_WITHIN, server.ended()).await.ok(),
                    };
                    let why = exit.map_or(why, |exit| format!("its server ended: {exit}"));
                    if !read {
                        let _ = timeout(DRAIN, &mut reading).await;
                    }
                    let said = redactor.redacted(&tail.text()).split_whitespace().collect::<Vec<_>>().join(" ");
                    let last: Vec<char> = said.chars().rev().take(TAIL_CHARS_MAX).collect();
                    let last: String = last.into_iter().rev().collect();
                    Over::Broken(if last.is_empty() { why } else { format!("{why}; it wrote last: {last}") })
                }
                over @ (Over::Stopped | Over::Restart | Over::Idle | Over::Lacks(..)) => over,
            }
        };
        match over {
            Over::Stopped | Over::Idle => server.end().await,
            Over::Restart | Over::Lacks(..) | Over::Broken(_) => server.kill().await,
        }
        ended.cancel();
        over
    }

    /// Starts the container, and the server in it.
    async fn begin(
        &self,
        pulled: &mut bool,
    ) -> Result<(Server, (tokio::net::unix::pipe::Receiver, Errors), Arc<Redactor>), Over> {
        self.engine().await;
        let did_not = |why: &dyn std::fmt::Display| Over::Broken(format!("did not start: {why}"));
        let resolved = self.with.secrets.fetch(&self.config.env).await;
        let Resolved { values: env, redactor } = resolved.map_err(|why| did_not(&why))?;
        let mut step = |step: String| self.be(State::Starting { step });
        let image = match containers::have_image(&*self.with.runtime, &self.config, pulled, &mut step).await {
            Ok(image) => image,
            Err(lack @ Lack::Image(_)) => {
                return Err(Over::Lacks(lack.to_string(), format!("`docker pull {}` fetches it", self.config.image)));
            }
            Err(lack @ Lack::Other(_)) => {
                return Err(Over::Lacks(lack.to_string(), containers::takes_image(&self.plugin)));
            }
            Err(Lack::Engine(error)) => return Err(did_not(&error)),
        };
        let mut command = containers::command_of(&self.config, &image, &[], env).map_err(|why| did_not(&why))?;
        command.env.insert("SIGIL_GRPC_PORT".to_owned(), self.port.to_string());
        let order = Order { config: self.config.clone(), image, provider: self.plugin.name.to_string() };
        let started = Server::start_in(self.with.runtime.clone(), &order, command, &self.with.tasks).await;
        let (server, _closed, stdout, errors) = started.map_err(|why| did_not(&why))?;
        Ok((server, (stdout, errors), Arc::new(redactor)))
    }

    /// Connects to a server that was started, and has it describe its tools.
    async fn greet(
        &self,
        dialer: Option<Dialer>,
        gone: &CancellationToken,
        redactor: &Redactor,
    ) -> Result<(Channel, Described), String> {
        let dialer = dialer.ok_or("it is in no container")?;
        let dialled = timeout(START, async {
            loop {
                match dialer.dial(self.port).await {
                    Ok(stream) => break stream,
                    Err(_) => sleep(DIAL_EVERY).await,
                }
            }
        });
        let port = self.port;
        let stream = dialled.await.map_err(|_| format!("it does not listen at port {port} of 127.0.0.1"))?;
        let spoken = async {
            let channel = connection::over(stream, gone.clone()).await.map_err(|error| error.to_string())?;
            let mut client = ToolServiceClient::new(channel.clone()).max_decoding_message_size(DESCRIPTION_BYTES_MAX);
            let said = client.describe(DescribeRequest { protocol: 1 }).await;
            let said = said.map_err(|status| {
                let said = redactor.redacted(status.message());
                let said: String = crate::text::visible(&said).chars().take(TAIL_CHARS_MAX).collect();
                format!("it does not describe its tools ({:?}): {said}", status.code())
            })?;
            let described = tools::read(without_secrets(said.into_inner(), redactor))?;
            Ok::<_, String>((channel, described))
        };
        timeout(START, spoken).await.map_err(|_| "it does not describe its tools in time".to_owned())?
    }

    /// Offers what a server described, until there is a reason not to.
    async fn serve(
        &self,
        channel: Channel,
        described: Described,
        redactor: Arc<Redactor>,
        ended: &CancellationToken,
    ) -> Over {
        let stopping = self.with.tasks.stopping();
        let stopped = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = stopping.cancelled() => self.runs.stop(Instant::now() + STOP_WITHIN).await,
            }
        };
        let mut stopped = std::pin::pin!(stopped);
        let mut approved = self.approved.clone();
        let described = Arc::new(described);
        let yes = approved.borrow_and_update().clone();
        let Some(mut offered) = self.offered(described.clone(), yes).await else {
            return Over::Broken("its tools cannot be read".to_owned());
        };
        let over = CancellationToken::new();
        // What is approved later changes no name.
        let names = std::mem::take(&mut offered.names);
        let (over_told, ended) = (over.clone(), ended.clone());
        let live = Arc::new(Live { channel, names, redactor, work: watch::Sender::default(), over: over_told, ended });
        self.present.is(Some(live.clone()));
        loop {
            let Offered { tools, absent, .. } = offered;
            self.held().absent = absent;
            let offers = Arc::new(Offers { state: State::Ready, tools });
            self.offers.send_if_modified(|held| {
                let differs = *held != offers;
                held.clone_from(&offers);
                differs
            });
            tokio::select! {
                () = &mut stopped => return Over::Stopped,
                () = over.cancelled() => return Over::Restart,
                () = live.idle(self.idle) => return Over::Idle,
                // Nobody approves anything any more; the agent goes down.
                changed = approved.changed() => if changed.is_err() {
                    stopped.await;
                    return Over::Stopped;
                },
            }
            let yes = approved.borrow_and_update().clone();
            offered = match self.offered(described.clone(), yes).await {
                Some(offered) => offered,
                None => return Over::Broken("its tools cannot be read".to_owned()),
            };
        }
    }

    /// Beside the loop: schemas are compiled, and pins written.
    async fn offered(&self, described: Arc<Described>, approved: Approved) -> Option<Offered> {
        let (plugin, config, listed, pins) =
            (self.plugin.clone(), self.config.clone(), self.listed.clone(), self.pins.clone());
        let read = tokio::task::spawn_blocking(move || {
            tools::offered(&plugin, &config, &listed, &described, &pins, &approved)
        });
        read.await.ok()
    }
}

/// What a server describes, before anything of it is shown or kept: a server can say its secrets anywhere.
fn without_secrets(mut said: DescribeResponse, redactor: &Redactor) -> DescribeResponse {
    let without = |text: &mut String| *text = redactor.redacted(text).into_owned();
    without(&mut said.name);
    without(&mut said.version);
    for tool in &mut said.tools {
        let ToolSpec { name, title, description, input_schema, output_schema, effect: _, timeout_seconds: _ } = tool;
        for text in [name, title, description, input_schema, output_schema] {
            without(text);
        }
    }
    said
}
