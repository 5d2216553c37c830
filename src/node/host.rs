//! Runs what the core says to run, after the last look: is it offered, is it allowed here, are the arguments sound.
//!
//! Every [`ToolHost::invoke`] is answered by exactly one [`Input::ToolEnded`], whatever happens to the tool; only when
//! the agent itself is ended is there none, and then the core's journal knows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use mesh_core::ids::{Attempt, Hash, ReqId};
use mesh_core::io::{Input, Invocation, ToolOutcome};
use mesh_core::limits::{ARGUMENTS_BYTES_MAX, INLINE_BYTES_MAX};
use mesh_core::policy::Cause;
use mesh_core::record::{Ending, Payload};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::blobs::Blobs;
use super::builtin::{self, Builtin, INVALID_ARGUMENT};
use super::catalogue::{Catalogue, Run};
use crate::config::CommandTool;
use crate::config::value::{show_duration, show_size};
use crate::json::deeper_than;
use crate::mesh::ToolRuns;
use crate::runtime::outcome::{Output, RunEnd, RunOutcome};
use crate::runtime::process::{self, Launch, Launcher, Spec, show_spool_error};
use crate::runtime::spool::{BlobSinks, OutputLimits, Spool};
use crate::tasks::TaskGroup;

/// Deepest nesting of arguments. Half of what `serde_json` would take, and more than any person writes.
pub const ARGUMENTS_DEPTH_MAX: usize = crate::json::DEPTH_MAX;

/// A reason to refuse arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentsError {
    /// Too many bytes.
    #[error("arguments of {0} bytes are over the limit of {max}", max = show_size(ARGUMENTS_BYTES_MAX as u64))]
    TooLarge(usize),
    /// Too many brackets.
    #[error("arguments are nested deeper than {ARGUMENTS_DEPTH_MAX}")]
    TooDeep,
    /// Something else.
    #[error("arguments are not JSON: {0}")]
    NotJson(String),
}

/// Checks arguments: JSON, at most 1 MiB, nested at most [`ARGUMENTS_DEPTH_MAX`] deep. Nothing at all stands for `{}`.
pub fn check_arguments(arguments: &[u8]) -> Result<(), ArgumentsError> {
    if arguments.is_empty() {
        return Ok(());
    }
    if arguments.len() > ARGUMENTS_BYTES_MAX {
        return Err(ArgumentsError::TooLarge(arguments.len()));
    }
    if deeper_than(arguments, ARGUMENTS_DEPTH_MAX) {
        return Err(ArgumentsError::TooDeep);
    }
    let text = std::str::from_utf8(arguments).map_err(|error| ArgumentsError::NotJson(error.to_string()))?;
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(ArgumentsError::NotJson(error.to_string())),
    }
}

/// The tools of this device at work. Cheap to clone.
#[derive(Clone)]
pub struct ToolHost {
    shared: Arc<HostState>,
}

struct HostState {
    catalogue: ArcSwap<Catalogue>,
    blobs: Arc<dyn Blobs>,
    launcher: Launcher,
    inputs: mpsc::Sender<Input>,
    tasks: TaskGroup,
    running: Mutex<BTreeMap<(ReqId, Attempt), CancellationToken>>,
}

/// A run that has passed the last look.
struct Work {
    tool: Tool,
    arguments: Bytes,
    timeout: Duration,
    output: OutputLimits,
}

/// All that runs.
enum Tool {
    Builtin(Builtin),
    Program(Launch),
}

impl ToolHost {
    /// Results go to `inputs`; it waits while the core is behind.
    pub fn new(
        catalogue: Catalogue,
        blobs: Arc<dyn Blobs>,
        launcher: Launcher,
        inputs: mpsc::Sender<Input>,
        tasks: TaskGroup,
    ) -> Self {
        let running = Mutex::default();
        let catalogue = ArcSwap::from_pointee(catalogue);
        Self { shared: Arc::new(HostState { catalogue, blobs, launcher, inputs, tasks, running }) }
    }

    /// Replaces what is offered. What runs already goes on as it was started.
    pub fn set_catalogue(&self, catalogue: Catalogue) {
        self.shared.catalogue.store(Arc::new(catalogue));
    }

    fn running_now(&self) -> MutexGuard<'_, BTreeMap<(ReqId, Attempt), CancellationToken>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One run, from here to its one end.
    fn spawn(
        &self,
        (id, attempt): (ReqId, Attempt),
        cancel: CancellationToken,
        work: impl Future<Output = Result<Work, ToolOutcome>> + Send + 'static,
    ) {
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            let note = |text| {
                // Full: the caller sees one line less.
                let _ = shared.inputs.try_send(Input::ToolProgress(id, attempt, text));
            };
            let run = async {
                match work.await {
                    Ok(work) => perform(work, &*shared.blobs, &cancel, note).await,
                    Err(outcome) => outcome,
                }
            };
            let ended = AssertUnwindSafe(run).catch_unwind().await;
            let outcome = ended.unwrap_or_else(|_| failed("the tool broke down inside of sigil"));
            shared.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&(id, attempt));
            // Nobody listens any more: the agent goes down.
            let _ = shared.inputs.send(Input::ToolEnded(id, attempt, outcome)).await;
        });
    }

    /// Decides whether and how a call runs here. The error is its outcome.
    fn last_look(&self, invocation: &Invocation, arguments: Bytes) -> Result<Work, ToolOutcome> {
        let header = &invocation.header;
        let catalogue = self.shared.catalogue.load();
        let Some(tool) = catalogue.get(&header.tool) else {
            return Err(denied(format!("this device offers no tool `{}` ({})", header.tool, Cause::ToolAbsent)));
        };
        if let Some(pattern) = &tool.denied {
            let rule = Cause::Local(pattern.clone());
            return Err(denied(format!("the owner of this device does not allow `{}` ({rule})", header.tool)));
        }
        check_arguments(&arguments).map_err(|error| failed(format!("{INVALID_ARGUMENT}{error}")))?;
        let asked = match header.timeout_ms {
            0 => tool.timeout,
            ms => Duration::from_millis(ms),
        };
        let output = OutputLimits { inline: INLINE_BYTES_MAX, total: tool.max_output };
        let timeout = tool.timeout.min(asked);
        let arguments = if arguments.is_empty() { Bytes::from_static(b"{}") } else { arguments };
        let tool = match &tool.run {
            Run::Command(command) => Tool::Program(self.shared.launcher.launch(spec(command, invocation))),
            Run::Builtin(tool) => Tool::Builtin(tool.clone()),
        };
        Ok(Work { tool, arguments, timeout, output })
    }
}

impl ToolRuns for ToolHost {
    /// Runs a tool. Programs are started in the order of these calls, but for those with arguments that
    /// have to be read from the blob store first. A second invocation of what runs already is ignored: the first one's
    /// end answers both.
    fn invoke(&self, invocation: Invocation) {
        let cancel = CancellationToken::new();
        match self.running_now().entry((invocation.id, invocation.attempt)) {
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(cancel.clone()),
        };
        let run = (invocation.id, invocation.attempt);
        match &invocation.header.arguments {
            Payload::Inline(arguments) => {
                let work = self.last_look(&invocation, arguments.clone());
                self.spawn(run, cancel, std::future::ready(work));
            }
            Payload::Blob { .. } => {
                let host = self.clone();
                self.spawn(run, cancel, async move {
                    let read = host.shared.blobs.read(&invocation.header.arguments).await;
                    let unreadable = |error| failed(format!("the arguments could not be read here: {error}"));
                    host.last_look(&invocation, read.map_err(unreadable)?.into())
                });
            }
        }
    }

    /// Stops a run, within 2 s: it ends as cancelled, or as it had ended by then. One that is not running is no matter.
    fn kill(&self, id: ReqId, attempt: Attempt) {
        if let Some(cancel) = self.running_now().get(&(id, attempt)) {
            cancel.cancel();
        }
    }
}

/// The program of a command tool, and the environment that tells it for which call it runs.
fn spec(command: &CommandTool, invocation: &Invocation) -> Spec {
    let mut env = command.env.clone();
    env.extend([
        ("SIGIL_REQUEST_ID".to_owned(), invocation.id.to_string()),
        ("SIGIL_ATTEMPT".to_owned(), invocation.attempt.to_string()),
        ("SIGIL_TOOL".to_owned(), invocation.header.tool.to_string()),
        ("SIGIL_NODE".to_owned(), invocation.node_id.to_string()),
    ]);
    let CommandTool { command, args, keep_running, .. } = command;
    Spec { command: command.clone(), args: args.clone(), env, keep_running: *keep_running }
}

async fn perform(
    Work { tool, arguments, timeout, output }: Work,
    sinks: &dyn BlobSinks,
    cancel: &CancellationToken,
    note: impl FnMut(String),
) -> ToolOutcome {
    let mut spool = Spool::new(sinks, output);
    let ended = match tool {
        Tool::Program(launch) => tool_outcome(process::run(launch, timeout, arguments, cancel, &mut spool, note).await),
        Tool::Builtin(tool) => run_builtin(&tool, timeout, &arguments, cancel, &mut spool).await,
    };
    match ended {
        Ok(outcome) => match spool.finish().await {
            Ok(output) => ToolOutcome { output: payload(output), ..outcome },
            Err(why) => ToolOutcome { error: outcome.error, ..failed(show_spool_error(&why)) },
        },
        Err(outcome) => outcome,
    }
}

/// Runs a built-in tool. The error is its outcome if it has no output.
async fn run_builtin(
    tool: &Builtin,
    timeout: Duration,
    arguments: &[u8],
    cancel: &CancellationToken,
    spool: &mut Spool<'_>,
) -> Result<ToolOutcome, ToolOutcome> {
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(ended(Ending::Cancelled, "cancelled while it ran")),
        result = tokio::time::timeout(timeout, builtin::run(tool, arguments, spool)) => result,
    };
    match result {
        Err(_) => Err(failed(format!("timed out after {}", show_duration(timeout)))),
        Ok(Err(error)) => {
            let (ending, reason) = error.ending();
            Err(ended(ending, reason))
        }
        Ok(Ok(())) => Ok(ended(Ending::Done, "")),
    }
}

/// A run's outcome in the words of the mesh, but for its output. The error is one that has none.
fn tool_outcome(run: RunOutcome) -> Result<ToolOutcome, ToolOutcome> {
    let RunOutcome { end, note, stderr } = run;
    let outcome = |ending, reason| ToolOutcome { error: stderr, ..ended(ending, reason) };
    match end {
        RunEnd::Done => Ok(outcome(Ending::Done, note)),
        RunEnd::Failed(reason) if note.is_empty() => Ok(outcome(Ending::Failed, reason)),
        RunEnd::Failed(reason) => Ok(outcome(Ending::Failed, format!("{reason}; {note}"))),
        RunEnd::Lost(reason) => Err(outcome(Ending::Failed, reason)),
        RunEnd::Cancelled(reason) => Err(outcome(Ending::Cancelled, reason)),
    }
}

fn payload(output: Output) -> Payload {
    match output {
        Output::Inline(bytes) => Payload::Inline(bytes),
        Output::Stored { hash, len } => Payload::Blob { hash: Hash(hash), len },
    }
}

fn denied(reason: impl Into<String>) -> ToolOutcome {
    ended(Ending::Denied, reason)
}

fn failed(reason: impl Into<String>) -> ToolOutcome {
    ended(Ending::Failed, reason)
}

fn ended(ending: Ending, reason: impl Into<String>) -> ToolOutcome {
    ToolOutcome { ending, reason: reason.into(), output: Payload::empty(), error: String::new() }
}

#[cfg(test)]
mod tests;
