//! Plugins that are a process for each call: `[tools.NAME]` of the settings, and installed ones. Each is a provider of its own,
//! so that one is replaced without the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::provider::{About, Job, Kind, Offer, Offers, Parts, Place, Provider, Run, Runs, State};
use super::schema::InputSchema;
use super::{card, confine};
use crate::plugin::{self, Egress, NetworkMode, Plugin, Process, Program, Protocol, Tier, ToolEntry, Value};
use crate::runtime::egress::{self, Behalf, Pass, Proxy};
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::process::{self, Launch, Launcher, Spec, WayOut};
use crate::runtime::sandbox::{Network, Sandbox};
use crate::secrets::{Redactor, Resolved, SecretError, Secrets};

/// Starts the programs of plugins: what all of them share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Starter {
    /// Starts programs.
    pub launcher: Launcher,
    /// The secrets that they are given.
    pub secrets: Secrets,
    /// Lets out those whose network is restricted.
    pub proxy: Proxy,
}

/// A plugin of processes.
#[derive(Debug)]
pub struct Commands {
    shared: Arc<Shared>,
    offers: watch::Sender<Arc<Offers>>,
    runs: Runs,
    /// Told when the run that was taken last has begun, or is gone.
    last: Mutex<Option<oneshot::Receiver<()>>>,
}

#[derive(Debug)]
struct Shared {
    plugin: Plugin,
    /// Folder in which a program with `./` is.
    folder: Option<PathBuf>,
    starter: Starter,
}

impl Commands {
    /// True if a plugin is run so.
    #[must_use]
    pub fn runs(plugin: &Plugin) -> bool {
        plugin.execution.protocol == Protocol::Json && matches!(plugin.execution.runs, plugin::Runs::Process(..))
    }

    /// A plugin of [`Self::runs`]; of another no tool is offered. Compiles the schemas of its tools: not for a loop.
    #[must_use]
    pub fn new(plugin: Plugin, folder: Option<PathBuf>, starter: Starter) -> Self {
        let offered = plugin.tools.iter().filter(|_| Self::runs(&plugin));
        let tools: BTreeMap<_, _> =
            offered.map(|tool| (tool.name.clone(), Arc::new(offer(&plugin, tool, folder.is_none())))).collect();
        let offers = watch::Sender::new(Arc::new(Offers { state: State::Ready, tools }));
        let shared = Arc::new(Shared { plugin, folder, starter });
        Self { shared, offers, runs: Runs::default(), last: Mutex::default() }
    }

    /// The plugin.
    #[must_use]
    pub fn plugin(&self) -> &Plugin {
        &self.shared.plugin
    }
}

impl Shared {
    /// The values of the environment of its program.
    fn values(&self) -> Option<&BTreeMap<String, Value>> {
        self.plugin.program().map(|program| &program.env)
    }

    /// Starts the program for a call, with these values.
    fn launch(
        &self,
        job: &Job,
        resolved: Result<Resolved, SecretError>,
    ) -> Result<(Launch, Arc<Redactor>), NotStarted> {
        let plugin::Runs::Process(program, process) = &self.plugin.execution.runs else {
            return Err(NotStarted::NoProgram);
        };
        let tool = self.plugin.tools.iter().find(|tool| tool.name == job.tool).ok_or(NotStarted::NoProgram)?;
        let sandbox = self.sandbox()?;
        let Resolved { values, redactor } = resolved?;
        let spec = spec(program, process, tool, self.folder.as_deref(), values, job).ok_or(NotStarted::NoProgram)?;
        let pass = || Pass { rules: program.egress.clone(), behalf: behalf(&self.plugin, job) };
        let way_out = (sandbox.network == Network::Restricted)
            .then(|| WayOut { proxy: self.starter.proxy.clone(), pass: pass() });
        let redactor = Arc::new(redactor);
        let launch = self.starter.launcher.launch_out(spec, sandbox, way_out).redacting(redactor.clone());
        Ok((launch, redactor))
    }

    fn sandbox(&self) -> Result<Sandbox, NotStarted> {
        let execution = &self.plugin.execution;
        let plugin::Runs::Process(program, process) = &execution.runs else { return Err(NotStarted::NoProgram) };
        confine::sandbox(execution, program, process, self.folder.as_deref()).map_err(NotStarted::Sandbox)
    }
}

/// A reason for which a program is not started.
#[derive(Debug, thiserror::Error)]
enum NotStarted {
    #[error("its plugin has no program for this tool")]
    NoProgram,
    #[error("{0}")]
    Sandbox(String),
    #[error("what it is to be given cannot be had: {0}")]
    Secret(#[from] SecretError),
}

/// A tool as it is offered. `by_owner`: it is the owner of this device who says so.
pub(super) fn offer(plugin: &Plugin, tool: &ToolEntry, by_owner: bool) -> Offer {
    let schema = tool.input_schema.as_ref();
    let input = schema.and_then(|schema| match InputSchema::compile(schema) {
        Ok(input) => Some(Arc::new(input)),
        Err(error) => {
            tracing::warn!(tool = %tool.name, "its arguments are not looked at here: {error}");
            None
        }
    });
    let timeout = tool.timeout.unwrap_or(plugin.execution.timeout);
    // What a declaration tells is all that there is of most tools of the settings.
    let card = schema.map(|schema| card::ToolDescription {
        name: tool.name.to_string(),
        title: tool.title.clone(),
        description: tool.description.clone(),
        input_schema: Some(schema.clone()),
        hints: card::Hints { trusted: by_owner, ..card::Hints::default() },
        provider: card::ProviderName {
            kind: match plugin.tier() {
                Some(Tier::Container) => "container",
                Some(Tier::Process) | None => "process",
            }
            .to_owned(),
            name: plugin.name.to_string(),
            version: plugin.version.as_ref().map(ToString::to_string).unwrap_or_default(),
        },
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        ..card::ToolDescription::default()
    });
    let card = card.and_then(|about| match about.card() {
        Ok(card) => Some(card),
        Err(error) => {
            tracing::warn!(tool = %tool.name, "it is told of without its schema: {error}");
            None
        }
    });
    Offer {
        effect: tool.effect,
        description: described(plugin, tool),
        owner_only: tool.owner_only,
        at_once: plugin.execution.concurrency,
        timeout,
        max_output: plugin.execution.output_limit,
        card,
        input,
        in_review: false,
    }
}

/// The description of a tool for others: what it says of itself, or what its plugin does.
fn described(plugin: &Plugin, tool: &ToolEntry) -> String {
    let said = [&tool.description, &tool.title, &plugin.description].into_iter().find(|text| !text.is_empty());
    let said = said.cloned().unwrap_or_else(|| format!("a tool of {}", plugin.name));
    // As much as fits into a directory record with as many tools as there may be.
    mesh_core::limits::cut(&said, 200).to_owned()
}

/// The environment that tells a program for which call it runs.
pub(super) fn of_call(job: &Job) -> [(String, String); 4] {
    [
        ("SIGIL_REQUEST_ID".to_owned(), job.id.to_string()),
        ("SIGIL_ATTEMPT".to_owned(), job.attempt.to_string()),
        ("SIGIL_TOOL".to_owned(), job.tool.to_string()),
        ("SIGIL_NODE".to_owned(), job.node_id.to_string()),
    ]
}

/// On whose behalf something goes out in a call.
pub(super) fn behalf(plugin: &Plugin, job: &Job) -> Behalf {
    Behalf { provider: plugin.name.to_string(), tool: Some(job.tool.to_string()), call: Some(job.id.to_string()) }
}

/// The environment by which a program finds its way out, where its network is restricted.
pub(super) fn way_out_of(network: NetworkMode, rules: &[Egress]) -> BTreeMap<String, String> {
    match network {
        NetworkMode::Restricted => egress::environment(rules),
        NetworkMode::None | NetworkMode::Host => BTreeMap::new(),
    }
}

/// The environment that tells the program of an installed plugin where its files are.
pub(super) fn of_plugin(folder: Option<&Path>) -> Option<(String, String)> {
    folder.map(|folder| ("SIGIL_PLUGIN_DIR".to_owned(), folder.display().to_string()))
}

/// The program and its arguments. Of an installed plugin what names a file of its own is that, wherever it runs: the program if
/// there is a `/` in it, and each argument of `command` that starts with `./`, as a script does that an interpreter is given.
pub(super) fn words(program: &Program, folder: Option<&Path>) -> Option<(PathBuf, Vec<String>)> {
    let (command, args) = program.command.split_first()?;
    let Some(folder) = folder else { return Some((PathBuf::from(command), args.to_vec())) };
    let command = if command.contains('/') { folder.join(command) } else { PathBuf::from(command) };
    let of_plugin = |word: &String| match word.strip_prefix("./") {
        Some(file) => folder.join(file).display().to_string(),
        None => word.clone(),
    };
    Some((command, args.iter().map(of_plugin).collect()))
}

/// The program of a tool, and the environment that tells it for which call it runs.
fn spec(
    program: &Program,
    process: &Process,
    tool: &ToolEntry,
    folder: Option<&Path>,
    values: BTreeMap<String, String>,
    job: &Job,
) -> Option<Spec> {
    let (command, mut args) = words(program, folder)?;
    let mut env = way_out_of(program.network, &program.egress);
    env.extend(values);
    env.extend(of_call(job));
    env.extend(of_plugin(folder));
    args.extend(tool.args.iter().cloned());
    Some(Spec { command, args, env, cwd: process.cwd.clone(), keep_running: process.keep_running })
}

impl Provider for Commands {
    fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.offers.subscribe()
    }

    fn take(&self, job: Job) -> Box<dyn Run> {
        let (place, shared) = (self.runs.enter(), self.shared.clone());
        let at_hand = shared.values().and_then(|values| shared.starter.secrets.at_hand(values));
        let begins = if let Some(resolved) = at_hand {
            match shared.launch(&job, resolved) {
                Ok((launch, redactor)) => Begins::Now(launch, redactor),
                Err(why) => return Box::new(Unstarted(why.to_string())),
            }
        } else {
            // A disk is asked first, and those that come later stand behind.
            let (done, next) = oneshot::channel();
            let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(next);
            Begins::Later { shared, before, done }
        };
        Box::new(CommandRun { begins, job, place })
    }

    fn about(&self) -> About {
        let (level, gaps) =
            self.shared.sandbox().map(|it| confine::shown(&it, &self.shared.starter.launcher)).unwrap_or_default();
        About {
            kind: Kind::Process,
            version: self.shared.plugin.version.as_ref().map(ToString::to_string),
            tier: Some(Tier::Process),
            protocol: Some("json"),
            level,
            gaps,
            ..About::default()
        }
    }

    fn stop(&self, until: Instant) -> BoxFuture<'_, ()> {
        Box::pin(self.runs.stop(until))
    }
}

/// A run that cannot begin.
struct Unstarted(String);

impl Run for Unstarted {
    fn finish<'a>(self: Box<Self>, _: &'a mut Parts<'_>, _: &'a CancellationToken) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move { RunEnd::NotStarted(self.0).into() })
    }
}

struct CommandRun {
    begins: Begins,
    job: Job,
    place: Place,
}

/// The beginning of a run.
enum Begins {
    /// It was made when the run was taken.
    Now(Launch, Arc<Redactor>),
    /// It is made once a disk has told what its program is to be given, and after that of the run before.
    Later { shared: Arc<Shared>, before: Option<oneshot::Receiver<()>>, done: oneshot::Sender<()> },
}

impl Run for CommandRun {
    fn finish<'a>(
        self: Box<Self>,
        parts: &'a mut Parts<'_>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move {
            let Self { begins, job, place } = *self;
            let began = Instant::now();
            let (launch, redactor, time) = match begins {
                Begins::Now(launch, redactor) => (launch, redactor, job.timeout),
                Begins::Later { shared, before, done } => {
                    let begun = async {
                        if let Some(before) = before {
                            // Gone without a word: it does not begin any more.
                            let _ = before.await;
                        }
                        let none = BTreeMap::new();
                        let resolved = shared.starter.secrets.fetch(shared.values().unwrap_or(&none)).await;
                        shared.launch(&job, resolved)
                    };
                    let begun = tokio::select! {
                        biased;
                        () = cancel.cancelled() => {
                            return RunEnd::Cancelled("cancelled before it was started".to_owned()).into();
                        }
                        () = place.ended() => {
                            return RunEnd::NotStarted("its tool was replaced or taken away".to_owned()).into();
                        }
                        begun = timeout(job.timeout, begun) => begun,
                    };
                    drop(done);
                    match begun {
                        Ok(Ok((launch, redactor))) => (launch, redactor, job.timeout.saturating_sub(began.elapsed())),
                        Ok(Err(why)) => return RunEnd::NotStarted(why.to_string()).into(),
                        Err(_) => return RunEnd::NotStarted(SecretError::Stuck.to_string()).into(),
                    }
                }
            };
            let stop = cancel.child_token();
            let Parts { spool, note } = parts;
            let mut run = pin!(process::run(launch, time, job.arguments, &stop, spool, note));
            tokio::select! {
                biased;
                outcome = &mut run => return without_secrets(&redactor, outcome),
                () = place.ended() => stop.cancel(),
            }
            let outcome = without_secrets(&redactor, run.await);
            if cancel.is_cancelled() { outcome } else { replaced(outcome) }
        })
    }
}

/// The outcome of a run that was ended because its provider was.
pub(super) fn replaced(outcome: RunOutcome) -> RunOutcome {
    match outcome.end {
        RunEnd::Cancelled(_) => {
            let why = "its tool was replaced or taken away, and it was ended for that while it ran";
            RunOutcome { end: RunEnd::Lost(why.to_owned()), ..outcome }
        }
        RunEnd::Done
        | RunEnd::Failed(_)
        | RunEnd::Limit(_)
        | RunEnd::Denied(_)
        | RunEnd::Lost(_)
        | RunEnd::NotStarted(_) => outcome,
    }
}

/// Takes secrets out of what is told of a run; its error stream has none.
pub(super) fn without_secrets(redactor: &Redactor, outcome: RunOutcome) -> RunOutcome {
    let redacted = |text: String| redactor.redacted(&text).into_owned();
    let end = match outcome.end {
        RunEnd::Done => RunEnd::Done,
        RunEnd::Failed(why) => RunEnd::Failed(redacted(why)),
        RunEnd::Limit(why) => RunEnd::Limit(redacted(why)),
        RunEnd::Denied(why) => RunEnd::Denied(redacted(why)),
        RunEnd::Cancelled(why) => RunEnd::Cancelled(redacted(why)),
        RunEnd::Lost(why) => RunEnd::Lost(redacted(why)),
        RunEnd::NotStarted(why) => RunEnd::NotStarted(redacted(why)),
    };
    RunOutcome { end, note: redacted(outcome.note), stderr: outcome.stderr }
}
