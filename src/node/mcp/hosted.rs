//! A hosted server as a provider: started, watched, started anew when it ends, and its tools offered as far as its owner has seen
//! them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_core::ids::{Hash, ToolName};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::remote::Remote;
use super::result::{self, Mapped};
use super::session::Session;
use super::spec::{CancelPolicy, HttpSpec, PipesSpec, ServerSpec, Transport};
use super::tools::{self, Listed, PinFile, Pinned};
use super::wire::{self, Era, Greeted, INVALID_PARAMS, NOT_TAKEN, NOT_TAKEN_NOW, RpcError};
use crate::node::builtin::INVALID_ARGUMENT;
use crate::node::containers::Lack;
use crate::node::provider::{About, Job, Kind, Offer, Offers, Parts, Place, Provider, Run, Runs, State};
use crate::node::{confine, containers};
use crate::plugin::{Level, Tier, Value as Setting};
use crate::runtime::container::{EngineState, Order, Runtime};
use crate::runtime::egress::{Behalf, Pass, Proxy};
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::process::{Launcher, Spec, WayOut};
use crate::runtime::progress::ErrorStream;
use crate::runtime::sandbox::Network;
use crate::runtime::server::{Errors, Server, Tail};
use crate::runtime::spool::SpoolError;
use crate::secrets::{Redactor, Resolved, Secrets};
use crate::tasks::TaskGroup;
use crate::value::show_duration;

/// First wait before a server that ended is started anew; doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait: it is never given up.
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// Time of work after which a server that ends is not thought to be broken.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);
/// Time for a server to answer a call that was cancelled: it is to work within 2 s.
const CANCEL_WITHIN: Duration = Duration::from_millis(1500);
/// Time for calls to end when the agent stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// Longest wait of a call that was not taken for the next conversation with its server. As for one that is starting.
const AFTER_MAX: Duration = Duration::from_secs(10);
/// Shortest time between two lists of tools: a server that tells of changes all the time is not asked all the time.
const LISTED_EVERY: Duration = Duration::from_secs(1);
/// Time in which what a server that ended had written before is read.
const DRAIN: Duration = Duration::from_millis(200);
/// Time for an engine of containers to be found, just after the agent has started.
const ENGINE_WITHIN: Duration = Duration::from_secs(10);
/// Said of servers at an address where a process is to be started.
const NO_PROCESS: &str = "it is at an address, and no process of this device";
/// Characters of what a server wrote to its error stream that are told with its end.
const TAIL_CHARS_MAX: usize = 400;

/// All that servers are hosted with. Cheap to clone.
#[derive(Clone)]
pub struct McpHost {
    /// Starts them.
    pub launcher: Launcher,
    /// Starts those in containers.
    pub runtime: Arc<dyn Runtime>,
    /// The directory of pins.
    pub pins: PathBuf,
    /// Reads secrets.
    pub secrets: Secrets,
    /// Lets out those whose network is restricted.
    pub proxy: Proxy,
    /// Tools of this device that were approved, as they were shown.
    pub approved: watch::Receiver<Arc<BTreeMap<ToolName, Hash>>>,
    /// Tasks of the agent.
    pub tasks: TaskGroup,
}

impl fmt::Debug for McpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpHost").field("pins", &self.pins).finish_non_exhaustive()
    }
}

/// A hosted server.
pub struct Hosted {
    spec: ServerSpec,
    launcher: Launcher,
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

struct Shared {
    offers: watch::Sender<Arc<Offers>>,
    live: Mutex<Option<Arc<Live>>>,
    runs: Runs,
    stop: CancellationToken,
}

/// A server that answers.
struct Live {
    session: Session,
    era: Era,
    /// Names of its tools at the server, by those that they have here.
    names: Mutex<BTreeMap<ToolName, String>>,
    at_work: AtomicUsize,
    restart: Notify,
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosted").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Hosted {
    /// Hosts a server: it is started soon. `before`: what the provider offers whose place it takes; without that what its server told
    /// last counts. As far as it is to offer that too, calls wait for it; nothing of it runs before the server has listed it. Reads its
    /// pins, and compiles schemas.
    #[must_use]
    pub fn start(spec: ServerSpec, host: McpHost, before: &Offers) -> Self {
        let pins = spec.pins.clone().unwrap_or_else(|| host.pins.join(format!("{}.json", spec.name)));
        let pins = PinFile::new(pins);
        let stays = |name: &ToolName| {
            let folded = name.folded();
            folded.strip_prefix(&*spec.prefix.to_ascii_lowercase()).is_some_and(|short| spec.exposes(short))
        };
        let tools = before.tools.iter().filter(|(name, _)| stays(name));
        let mut tools: BTreeMap<_, _> = tools.map(|(name, offer)| (name.clone(), offer.clone())).collect();
        if tools.is_empty()
            && let of @ Pinned::As(_) = pins.read()
        {
            tools = known(&spec, &of, &host.approved.borrow());
        }
        let starting = Offers { state: State::Starting { step: "its server".to_owned() }, tools };
        let shared = Arc::new(Shared {
            offers: watch::Sender::new(Arc::new(starting)),
            live: Mutex::default(),
            runs: Runs::default(),
            stop: CancellationToken::new(),
        });
        let (over, ended) = watch::channel(false);
        let launcher = host.launcher.clone();
        let keeper = Keeper { spec: spec.clone(), pins, shared: shared.clone() };
        host.tasks.clone().spawn(async move {
            keeper.keep(host).await;
            over.send_replace(true);
        });
        Self { spec, launcher, shared, ended }
    }

    /// What it was made of.
    #[must_use]
    pub fn spec(&self) -> &ServerSpec {
        &self.spec
    }
}

/// Tools of a server as it told them last.
fn known(spec: &ServerSpec, of: &Pinned, approved: &BTreeMap<ToolName, Hash>) -> BTreeMap<ToolName, Arc<Offer>> {
    let Pinned::As(pins) = of else { return BTreeMap::new() };
    let greeted = Greeted { name: pins.server.clone(), version: pins.version.clone() };
    let mut listed = tools::listed(spec, &greeted, &pins.told);
    tools::review(spec.trusted_first_list, of, &mut listed, approved, (&greeted, pins.era));
    listed.tools.into_iter().map(|(name, tool)| (name, tool.offer)).collect()
}

impl Provider for Hosted {
    fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.shared.offers.subscribe()
    }

    fn take(&self, job: Job) -> Box<dyn Run> {
        let live = self.shared.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::new(HostedRun {
            server: self.spec.name.clone(),
            cancel_policy: self.spec.cancel,
            shared: self.shared.clone(),
            live,
            job,
            place: self.shared.runs.enter(),
        })
    }

    fn about(&self) -> About {
        let (tier, (level, gaps)) = match &self.spec.transport {
            Transport::Pipes(pipes) => (Some(Tier::Process), confine::shown(&pipes.sandbox, &self.launcher)),
            Transport::Container(_) => (Some(Tier::Container), (Level::Container, Vec::new())),
            Transport::Http(_) => (None, Default::default()),
        };
        About { kind: Kind::Mcp, tier, protocol: Some("mcp"), level, gaps, ..About::default() }
    }

    fn stop(&self, until: Instant) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.shared.runs.stop(until).await;
            self.shared.stop.cancel();
            let _ = self.ended.clone().wait_for(|ended| *ended).await;
        })
    }
}

/// Keeps a server running.
struct Keeper {
    spec: ServerSpec,
    pins: PinFile,
    shared: Arc<Shared>,
}

/// The end of one process of a server.
enum Over {
    /// It is not to run any more.
    Stopped,
    /// It is to be started anew at once.
    Restart,
    /// It ended, or it does not work.
    Broken(String),
}

impl Keeper {
    async fn keep(self, host: McpHost) {
        let mut pulled = false;
        let (mut wait, mut failures, mut legacy_only) = (BACKOFF_FIRST, 0_u32, false);
        let stopping = host.tasks.stopping();
        loop {
            let began = Instant::now();
            let over = match &self.spec.transport {
                Transport::Http(http) => self.visit_once(&host, http, &mut legacy_only).await,
                Transport::Pipes(_) | Transport::Container(_) => {
                    self.run_once(&host, &mut legacy_only, &mut pulled).await
                }
            };
            *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let why = match over {
                Over::Stopped => return,
                Over::Restart => {
                    self.set_state(State::Starting { step: "its server, anew".to_owned() });
                    continue;
                }
                Over::Broken(why) => why,
            };
            if began.elapsed() >= HEALTHY_AFTER {
                (wait, failures) = (BACKOFF_FIRST, 0);
            }
            failures += 1;
            tracing::warn!(server = %self.spec.name, failures, "a hosted server ended: {why}");
            self.set_state(State::Unhealthy { why });
            // Several that ended together do not come back together.
            let jitter = wait.mul_f64(f64::from(began.elapsed().subsec_nanos() % 1000) / 4000.0);
            tokio::select! {
                () = self.shared.stop.cancelled() => return,
                () = stopping.cancelled() => return,
                () = sleep(wait + jitter) => {}
                () = self.engine_is_back(&host) => {}
            }
            wait = (wait * 2).min(BACKOFF_MAX);
        }
    }

    fn set_state(&self, state: State) {
        self.shared.offers.send_modify(|offers| Arc::make_mut(offers).state = state);
    }

    /// Waits until the engine of a server in a container works again, if it does not now.
    async fn engine_is_back(&self, host: &McpHost) {
        let mut state = host.runtime.state();
        let works = |state: &EngineState| matches!(state, EngineState::Ready(_));
        let waits = matches!(self.spec.transport, Transport::Container(_)) && !works(&state.borrow());
        if !waits || state.wait_for(works).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Starts the server. The reason why not is for people.
    async fn begin(
        &self,
        host: &McpHost,
        pulled: &mut bool,
    ) -> Result<(Server, Sender, Receiver, Errors, Redactor), String> {
        let values = match &self.spec.transport {
            Transport::Pipes(pipes) => &pipes.env,
            Transport::Container(config) => &config.env,
            Transport::Http(_) => return Err(NO_PROCESS.to_owned()),
        };
        let Resolved { values: env, redactor } = resolved(host, values).await?;
        let did_not = |why: &dyn fmt::Display| format!("did not start: {why}");
        let (server, stdin, stdout, errors) = match &self.spec.transport {
            Transport::Pipes(pipes) => {
                let PipesSpec { command, args, cwd, sandbox, egress, env: _ } = (**pipes).clone();
                let spec = Spec { command, args, env, cwd, keep_running: false };
                let behalf = Behalf { provider: self.spec.name.clone(), ..Behalf::default() };
                let way_out = (sandbox.network == Network::Restricted)
                    .then(|| WayOut { proxy: host.proxy.clone(), pass: Pass { rules: egress, behalf } });
                Server::start(&host.launcher, spec, sandbox, way_out).await.map_err(|why| did_not(&why))?
            }
            Transport::Container(config) => {
                let mut state = host.runtime.state();
                let looked = timeout(ENGINE_WITHIN, state.wait_for(|state| *state != EngineState::Looking)).await;
                drop(looked);
                let mut step = |step: String| self.set_state(State::Starting { step });
                let image = containers::have_image(&*host.runtime, config, pulled, &mut step).await;
                let image = image.map_err(|why| {
                    let next = match &why {
                        Lack::Other(_) => format!(": `sigil plugin allow {}` takes it as it is now", self.spec.name),
                        Lack::Image(_) => format!(": `docker pull {}` fetches it", config.image),
                        Lack::Engine(_) => String::new(),
                    };
                    did_not(&format!("{why}{next}"))
                })?;
                let command = containers::command_of(config, &image, &[], env)?;
                let order = Order { config: (**config).clone(), image, provider: self.spec.name.clone() };
                Server::start_in(host.runtime.clone(), &order, command, &host.tasks)
                    .await
                    .map_err(|why| did_not(&why))?
            }
            Transport::Http(_) => return Err(NO_PROCESS.to_owned()),
        };
        Ok((server, stdin, stdout, errors, redactor))
    }

    /// Speaks to a server at an address, which is started by others.
    async fn visit_once(&self, host: &McpHost, http: &HttpSpec, legacy_only: &mut bool) -> Over {
        if let Some(name) = http.secret_in_the_clear() {
            let why = format!(
                "its header {name} is a secret, and {} is not encrypted: give it an https:// address",
                http.url
            );
            return Over::Broken(why);
        }
        let begun = async {
            let Resolved { values, mut redactor } = resolved(host, &http.headers).await?;
            // `Bearer` and the like stand before what is secret, and would not be said again.
            for (name, value) in &values {
                if !matches!(http.headers.get(name), Some(Setting::Text(_)))
                    && let Some((_, token)) = value.split_once(' ')
                {
                    redactor.add(name, token);
                }
            }
            Remote::new(&http.url, &values).map(|remote| (remote, redactor))
        };
        let (remote, redactor) = match begun.await {
            Ok(begun) => begun,
            Err(why) => return Over::Broken(why),
        };
        let over = {
            let (session, work) = remote.talk(redactor);
            tokio::select! {
                over = self.converse(host, &session, legacy_only) => over,
                why = work => Over::Broken(why),
            }
        };
        *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
        remote.farewell().await;
        over
    }

    async fn run_once(&self, host: &McpHost, legacy_only: &mut bool, pulled: &mut bool) -> Over {
        let begun = tokio::select! {
            begun = self.begin(host, pulled) => begun,
            () = self.shared.stop.cancelled() => return Over::Stopped,
        };
        let (mut server, stdin, stdout, errors, redactor) = match begun {
            Ok(begun) => begun,
            Err(why) => return Over::Broken(why),
        };
        let tail = Tail::default();
        let (session, work) = Session::over(stdout, stdin, redactor.clone());
        let talk = async {
            // Its work ends with the conversation; then the process is given a moment to say how it ended.
            tokio::select! {
                over = self.converse(host, &session, legacy_only) => over,
                why = work => Over::Broken(why),
            }
        };
        let (over, exit) = {
            let mut reading = std::pin::pin!(errors.into_tail(tail.clone()));
            let mut talk = std::pin::pin!(talk);
            let mut read = false;
            loop {
                tokio::select! {
                    over = &mut talk => {
                        // What it said last may be there a moment after its output has ended.
                        if !read && matches!(over, Over::Broken(_)) {
                            let _ = timeout(DRAIN, &mut reading).await;
                        }
                        break (over, None);
                    }
                    () = &mut reading, if !read => read = true,
                    // What it has started may keep its streams open, so that they do not tell of its end.
                    exit = server.ended() => {
                        let drained = async {
                            if read {
                                let _ = (&mut talk).await;
                            } else {
                                tokio::join!(&mut talk, &mut reading);
                            }
                        };
                        let _ = timeout(DRAIN, drained).await;
                        break (Over::Broken(String::new()), Some(exit));
                    }
                }
            }
        };
        drop(session);
        *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let over = match over {
            Over::Broken(why) => {
                let exit = match exit {
                    Some(exit) => Some(exit),
                    None => timeout(CANCEL_WITHIN, server.ended()).await.ok(),
                };
                let why = exit.map_or(why, |exit| format!("its server ended: {exit}"));
                // In one line, as reasons are shown.
                let said = redactor.redacted(&tail.text()).split_whitespace().collect::<Vec<_>>().join(" ");
                let last = said.chars().rev().take(TAIL_CHARS_MAX).collect::<Vec<_>>();
                let last: String = last.into_iter().rev().collect();
                Over::Broken(if last.is_empty() { why } else { format!("{why}; it wrote last: {last}") })
            }
            over @ (Over::Stopped | Over::Restart) => over,
        };
        server.end().await;
        over
    }

    /// Speaks to a server that was started, until there is a reason not to.
    async fn converse(&self, host: &McpHost, session: &Session, legacy_only: &mut bool) -> Over {
        let pins = self.pins.clone();
        let pinned = tokio::task::spawn_blocking(move || pins.read()).await;
        let mut pinned = pinned.unwrap_or_else(|error| Pinned::Unreadable(error.to_string()));
        if let Pinned::Unreadable(why) = &pinned {
            tracing::warn!(server = %self.spec.name, "its pins cannot be read, so all its tools are in review: {why}");
        }
        let known = match &pinned {
            _ if *legacy_only => Some(Era::Legacy),
            Pinned::As(pins) => pins.era,
            Pinned::Never | Pinned::Unreadable(_) => None,
        };
        let stopping = host.tasks.stopping();
        let stopped = || async {
            tokio::select! {
                () = self.shared.stop.cancelled() => {}
                () = stopping.cancelled() => self.shared.runs.stop(Instant::now() + STOP_WITHIN).await,
            }
        };
        let greeted = tokio::select! {
            () = stopped() => return Over::Stopped,
            greeted = session.greet(known) => greeted,
        };
        let (era, greeted) = match greeted {
            Ok(greeted) => greeted,
            Err(error) => {
                // One that breaks down at words of the newer era gets those of the older alone the next time.
                *legacy_only = known != Some(Era::Legacy) && !*legacy_only;
                return Over::Broken(error.to_string());
            }
        };
        let live = Arc::new(Live {
            session: session.clone(),
            era,
            names: Mutex::default(),
            at_work: AtomicUsize::new(0),
            restart: Notify::new(),
        });
        let _listening = if era == Era::Modern { session.listen().await } else { None };
        let (mut changes, mut approved) = (session.changes(), host.approved.clone());
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = stopped() => return Over::Stopped,
                () = sleep_until(next) => {}
            }
            next = Instant::now() + LISTED_EVERY;
            changes.mark_unchanged();
            approved.mark_unchanged();
            let told = tokio::select! {
                () = stopped() => return Over::Stopped,
                told = session.tools(era) => told,
            };
            match told {
                Ok(told) => {
                    let yes = approved.borrow_and_update().clone();
                    self.offer(&live, &greeted, &told, &mut pinned, &yes).await;
                }
                Err(error) => return Over::Broken(error.to_string()),
            }
            tokio::select! {
                () = stopped() => return Over::Stopped,
                () = live.restart.notified() => return Over::Restart,
                changed = changes.changed() => if changed.is_err() {
                    return Over::Broken("it has closed its output".to_owned());
                },
                // Nobody approves anything any more; the agent goes down.
                changed = approved.changed() => if changed.is_err() {
                    stopped().await;
                    return Over::Stopped;
                },
            }
        }
    }

    /// Offers what a server lists, as far as it was seen.
    async fn offer(
        &self,
        live: &Arc<Live>,
        greeted: &Greeted,
        told: &[Value],
        pinned: &mut Pinned,
        approved: &BTreeMap<ToolName, Hash>,
    ) {
        let (spec, greeted, told) = (self.spec.clone(), greeted.clone(), told.to_vec());
        let (of, approved, era, file) = (pinned.clone(), approved.clone(), live.era, self.pins.clone());
        // Schemas are compiled, and the pins written, beside the loop.
        let read = tokio::task::spawn_blocking(move || {
            let mut listed = tools::listed(&spec, &greeted, &told);
            let mut pins = tools::review(spec.trusted_first_list, &of, &mut listed, &approved, (&greeted, Some(era)));
            pins.keep(told);
            // What cannot be read is not written over: somebody may want to look at it.
            let kept = match &of {
                Pinned::Unreadable(_) => Ok(()),
                Pinned::As(old) if *old == pins => Ok(()),
                Pinned::As(_) | Pinned::Never => file.write(&pins),
            };
            (listed, pins, kept)
        });
        let Ok((listed, pins, kept)) = read.await else { return };
        let Listed { tools, absent } = listed;
        if let Err(error) = kept {
            tracing::warn!(server = %self.spec.name, %error, "its pins could not be written: its tools are in review after a start");
        }
        if let Some((tool, why)) = absent.first() {
            let others = absent.len() - 1;
            tracing::warn!(server = %self.spec.name, others, "its tool `{tool}` is not offered: {why}");
        }
        if !matches!(pinned, Pinned::Unreadable(_)) {
            *pinned = Pinned::As(pins);
        }
        let names = tools.iter().map(|(name, tool)| (name.clone(), tool.own_name.clone())).collect();
        *live.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        *self.shared.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(live.clone());
        let tools = tools.into_iter().map(|(name, tool)| (name, tool.offer)).collect();
        let offers = Arc::new(Offers { state: State::Ready, tools });
        self.shared.offers.send_if_modified(|held| {
            let differs = *held != offers;
            held.clone_from(&offers);
            differs
        });
    }
}

/// Values with the secrets that they name.
async fn resolved(host: &McpHost, values: &BTreeMap<String, Setting>) -> Result<Resolved, String> {
    host.secrets.fetch(values).await.map_err(|error| error.to_string())
}

struct HostedRun {
    server: String,
    cancel_policy: CancelPolicy,
    shared: Arc<Shared>,
    live: Option<Arc<Live>>,
    job: Job,
    place: Place,
}

/// Counts a run among those of a server.
struct AtWork(Arc<Live>);

impl AtWork {
    fn new(live: Arc<Live>) -> Self {
        live.at_work.fetch_add(1, Ordering::AcqRel);
        Self(live)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Run for HostedRun {
    fn finish<'a>(
        self: Box<Self>,
        parts: &'a mut Parts<'_>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move { self.run(parts, cancel).await.into() })
    }
}

impl Shared {
    /// The next conversation with the server, if there is one soon.
    async fn after(&self, before: &Arc<Live>, until: Instant) -> Option<Arc<Live>> {
        let mut offers = self.offers.subscribe();
        let next = async {
            loop {
                offers.mark_unchanged();
                let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(live) = live.filter(|live| !Arc::ptr_eq(live, before)) {
                    return Some(live);
                }
                offers.changed().await.ok()?;
            }
        };
        timeout_at(until.min(Instant::now() + AFTER_MAX), next).await.ok().flatten()
    }
}

impl HostedRun {
    async fn run(self, parts: &mut Parts<'_>, cancel: &CancellationToken) -> RunEnd {
        let Self { server, cancel_policy, shared, live, job, place } = self;
        let not_started = |why: &str| RunEnd::NotStarted(format!("the server `{server}` {why}"));
        let Some(mut live) = live else { return not_started("does not run now") };
        let arguments = serde_json::from_slice::<Box<RawValue>>(&job.arguments).ok();
        let Some(arguments) = arguments.filter(|arguments| arguments.get().starts_with('{')) else {
            return RunEnd::Denied(format!("{INVALID_ARGUMENT}they must be an object"));
        };
        let until = Instant::now() + job.timeout;
        let mut again = true;
        let mut paced = ErrorStream::new(Instant::now(), Arc::default());
        let (at_work, mut asked, why, reason) = 'talk: loop {
            let own_name = live.names.lock().unwrap_or_else(PoisonError::into_inner).get(&job.tool).cloned();
            let Some(own_name) = own_name else { return not_started("does not offer it any more") };
            let at_work = AtWork::new(live.clone());
            let asked = tokio::select! {
                biased;
                () = cancel.cancelled() => return RunEnd::Cancelled("cancelled before it was started".to_owned()),
                () = sleep_until(until) => return not_started("takes nothing: it does not read what it is asked"),
                asked = live.session.call(live.era, &own_name, &arguments) => asked,
            };
            let Ok(mut asked) = asked else { return not_started("has just ended") };
            let mut told_enough = false;
            let (why, reason) = loop {
                tokio::select! {
                    biased;
                    answer = &mut asked.answer => {
                        drop(at_work);
                        let answer = match answer {
                            // One that was started anew knows nothing of the conversation before; nothing has happened yet.
                            Ok(Err(error)) if error.code == NOT_TAKEN_NOW && std::mem::take(&mut again) => {
                                let next = tokio::select! {
                                    next = shared.after(&live, until) => next,
                                    () = cancel.cancelled() => None,
                                };
                                if let Some(next) = next {
                                    live = next;
                                    continue 'talk;
                                }
                                Ok(Err(error))
                            }
                            answer => answer,
                        };
                        return match answer {
                            Ok(answer) => given(answer, parts).await,
                            Err(_) => RunEnd::Lost(format!("the server `{server}` ended while it ran: it may have happened")),
                        };
                    }
                    note = asked.notes.recv(), if !told_enough => match note {
                        // At the pace of any tool.
                        Some(note) => {
                            let line = format!("::progress {note}\n");
                            paced.push(line.as_bytes(), Instant::now(), &mut |text| (parts.note)(text));
                        }
                        None => told_enough = true,
                    },
                    () = cancel.cancelled() => break (Stopped::Cancelled, "cancelled"),
                    () = sleep_until(until) => break (Stopped::TimedOut, "its time is up"),
                    () = place.ended() => break (Stopped::Replaced, "its server is replaced"),
                }
            };
            break (at_work, asked, why, reason);
        };
        live.session.tell(wire::cancelled(asked.id, reason));
        // Some answer then, some go on, some end.
        // One whose conversation has ended has not answered.
        let answered = matches!(timeout(CANCEL_WITHIN, &mut asked.answer).await, Ok(Ok(_)));
        if !answered && cancel_policy == CancelPolicy::Restart && live.at_work.load(Ordering::Acquire) == 1 {
            live.restart.notify_one();
        }
        drop(at_work);
        let goes_on = if answered { "" } else { "the server was told to stop, and may go on" };
        match why {
            Stopped::Cancelled => RunEnd::Cancelled(goes_on.to_owned()),
            Stopped::TimedOut => {
                let goes_on = if goes_on.is_empty() { String::new() } else { format!("; {goes_on}") };
                RunEnd::Limit(format!("timed out after {}{goes_on}", show_duration(job.timeout)))
            }
            Stopped::Replaced => RunEnd::Lost("its server was replaced or taken away while it ran".to_owned()),
        }
    }
}

/// A reason for which a run was stopped.
enum Stopped {
    Cancelled,
    TimedOut,
    Replaced,
}

/// Gives what a server answered.
async fn given(answer: Result<Value, RpcError>, parts: &mut Parts<'_>) -> RunEnd {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let said = crate::text::visible(&error.message).chars().take(1000).collect::<String>();
            return match error.code {
                INVALID_PARAMS => RunEnd::Denied(format!("{INVALID_ARGUMENT}{said}")),
                NOT_TAKEN | NOT_TAKEN_NOW => RunEnd::NotStarted(format!("its server did not take it: {said}")),
                code => RunEnd::Failed(format!("its server answered: {said} ({code})")),
            };
        }
    };
    let Mapped { parts: given, failed } = result::of(&answer);
    let pushed = async {
        for (n, (kind, bytes)) in given.into_iter().enumerate() {
            if n == 0 {
                parts.spool.set_kind(kind);
            } else {
                parts.spool.begin(kind).await?;
            }
            parts.spool.push(&bytes).await?;
        }
        Ok::<_, SpoolError>(())
    };
    match (pushed.await, failed) {
        (Err(why @ SpoolError::TooLarge(_)), _) => RunEnd::Limit(why.story()),
        (Err(why), _) => RunEnd::Failed(why.story()),
        (Ok(()), Some(why)) => RunEnd::Failed(why),
        (Ok(()), None) => RunEnd::Done,
    }
}
