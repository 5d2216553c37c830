//! Runs what the core says to run, after the last look: is it offered, is it allowed here, are the arguments sound.
//!
//! Every [`ToolHost::invoke`] is answered by exactly one [`ToolEvent::Ended`], whatever happens to the tool; only when
//! the agent itself is ended is there none, and then the journal knows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use mesh_core::entry::{Ending, Tier, ToolDecl};
use mesh_core::ids::{Attempt, PeerId, ReqId};
use mesh_core::io::{Invocation, ToolOutcome};
use mesh_core::limits::ARGUMENTS_BYTES_MAX;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::builtin;
use super::catalogue::{Catalogue, Run};
use crate::config::value::{show_duration, show_size};
use crate::json::deeper_than;
use crate::runtime::process::{self, Bounds, Launch, Launcher, Spec, ended, show_spool_error};
use crate::runtime::spool::{BlobSinks, Spool};
use crate::tasks::TaskGroup;

/// Depth to which arguments may be nested. Half of what `serde_json` would take, and more than any person writes.
pub const ARGUMENTS_DEPTH_MAX: usize = 64;

/// The last word on whether a call may run here: `Err` says why not, fit for the caller. Called for each run.
pub type Policy = Arc<dyn Fn(&Invocation, &ToolDecl) -> Result<(), String> + Send + Sync>;

/// The policy until workspaces exist: tools that are for owners run for calls from peers of the
/// owner tier. `tier_of` answers the tier of an approved peer.
#[must_use]
pub fn owners_only(tier_of: impl Fn(&PeerId) -> Option<Tier> + Send + Sync + 'static) -> Policy {
    Arc::new(move |invocation, decl| match tier_of(&invocation.origin) {
        Some(Tier::Owner) => Ok(()),
        Some(Tier::Shared | Tier::Ephemeral) if !decl.owner_only => Ok(()),
        Some(Tier::Shared | Tier::Ephemeral) => {
            Err(format!("`{}` is for devices of the owner tier, and the calling device is not one", decl.name))
        }
        None => Err("the calling device does not belong to this mesh".to_owned()),
    })
}

/// Event of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolEvent {
    /// A line of progress, at most 200 characters. Lost when nobody keeps up.
    Progress(ReqId, Attempt, String),
    /// The end.
    Ended(ReqId, Attempt, ToolOutcome),
}

/// Why arguments are not sound.
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
    shared: Arc<Shared>,
}

struct Shared {
    catalogue: ArcSwap<Catalogue>,
    sinks: Arc<dyn BlobSinks>,
    policy: Policy,
    launcher: Launcher,
    tasks: TaskGroup,
    running: Mutex<BTreeMap<(ReqId, Attempt), CancellationToken>>,
}

/// State of an invocation after the last look.
enum Work {
    Builtin { tool: Run, arguments: Vec<u8>, bounds: Bounds },
    Program { launch: Launch, arguments: Vec<u8>, bounds: Bounds },
}

impl ToolHost {
    /// `work` is where programs get their private directories; `program` is our own program, see [`Launcher::start`].
    ///
    /// # Errors
    /// When `work` or the launching thread cannot be made.
    pub fn new(
        catalogue: Catalogue,
        sinks: Arc<dyn BlobSinks>,
        policy: Policy,
        work: PathBuf,
        program: Option<PathBuf>,
        tasks: TaskGroup,
    ) -> io::Result<Self> {
        let launcher = Launcher::start(work, program)?;
        let catalogue = ArcSwap::from_pointee(catalogue);
        let running = Mutex::default();
        Ok(Self { shared: Arc::new(Shared { catalogue, sinks, policy, launcher, tasks, running }) })
    }

    /// The tools as they are now.
    #[must_use]
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.shared.catalogue.load_full()
    }

    /// Other tools from now on; what runs goes on.
    pub fn set_catalogue(&self, catalogue: Catalogue) {
        self.shared.catalogue.store(Arc::new(catalogue));
    }

    /// Number of runs without an end.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running_now().len()
    }

    /// Runs a tool. Does not block; programs are started in the order of these calls. A second invocation of what runs
    /// already is ignored: the first one's end answers both.
    pub fn invoke(&self, invocation: &Invocation, arguments: Vec<u8>, events: mpsc::Sender<ToolEvent>) {
        let (id, attempt) = (invocation.id, invocation.attempt);
        let cancel = CancellationToken::new();
        match self.running_now().entry((id, attempt)) {
            Entry::Occupied(_) => return,
            Entry::Vacant(place) => place.insert(cancel.clone()),
        };
        let work = self.last_look(invocation, arguments);
        let host = self.clone();
        self.shared.tasks.spawn(async move {
            let outcome = match work {
                Err(why) => ended(Ending::Denied, why),
                Ok(work) => {
                    let note = |text| {
                        // Full: the caller sees one line less.
                        let _ = events.try_send(ToolEvent::Progress(id, attempt, text));
                    };
                    let run = AssertUnwindSafe(perform(work, &*host.shared.sinks, &cancel, note)).catch_unwind();
                    run.await.unwrap_or_else(|_| ended(Ending::Failed, "the tool broke down inside of sigil"))
                }
            };
            host.running_now().remove(&(id, attempt));
            // Nobody listens any more: the agent goes down.
            let _ = events.send(ToolEvent::Ended(id, attempt, outcome)).await;
        });
    }

    /// Stops a run, within 2 s: it ends as cancelled, or as it had ended by then. One that is not running is no matter.
    pub fn kill(&self, id: ReqId, attempt: Attempt) {
        if let Some(cancel) = self.running_now().get(&(id, attempt)) {
            cancel.cancel();
        }
    }

    fn running_now(&self) -> MutexGuard<'_, BTreeMap<(ReqId, Attempt), CancellationToken>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_look(&self, invocation: &Invocation, arguments: Vec<u8>) -> Result<Work, String> {
        let header = &invocation.header;
        let catalogue = self.shared.catalogue.load();
        let Some(tool) = catalogue.get(&header.tool) else {
            return Err(format!("this device offers no tool `{}`", header.tool));
        };
        if tool.denied {
            return Err(format!("the owner of this device does not allow `{}` (node.deny)", header.tool));
        }
        (self.shared.policy)(invocation, &tool.decl)?;
        check_arguments(&arguments).map_err(|error| error.to_string())?;
        let asked = match header.timeout_ms {
            0 => tool.timeout,
            ms => Duration::from_millis(ms),
        };
        let bounds = Bounds { timeout: tool.timeout.min(asked), max_output: tool.max_output };
        Ok(match &tool.run {
            Run::Command(command) => {
                let launch = self.shared.launcher.launch(Spec {
                    command: command.command.clone(),
                    args: command.args.clone(),
                    env: command.env.clone(),
                    id: invocation.id,
                    attempt: invocation.attempt,
                    tool: header.tool.clone(),
                    node: header.node_id.clone(),
                });
                let arguments = if arguments.is_empty() { b"{}".to_vec() } else { arguments };
                Work::Program { launch, arguments, bounds }
            }
            tool @ (Run::Noop | Run::DeviceInfo | Run::FilesList(_) | Run::FilesRead(_)) => {
                Work::Builtin { tool: tool.clone(), arguments, bounds }
            }
        })
    }
}

async fn perform(
    work: Work,
    sinks: &dyn BlobSinks,
    cancel: &CancellationToken,
    note: impl FnMut(String),
) -> ToolOutcome {
    match work {
        Work::Program { launch, arguments, bounds } => {
            process::run(launch, bounds, Bytes::from(arguments), cancel, sinks, note).await
        }
        Work::Builtin { tool, arguments, bounds } => {
            let mut spool = Spool::new(sinks, bounds.max_output);
            let result = tokio::select! {
                biased;
                () = cancel.cancelled() => return ended(Ending::Cancelled, "cancelled while it ran"),
                result = tokio::time::timeout(bounds.timeout, builtin::run(&tool, &arguments, &mut spool)) => result,
            };
            match result {
                Err(_) => ended(Ending::Failed, format!("timed out after {}", show_duration(bounds.timeout))),
                Ok(Err(error)) => ended(error.ending(), error.to_string()),
                Ok(Ok(())) => match spool.finish().await {
                    Ok(output) => ToolOutcome { output, ..ended(Ending::Done, "") },
                    Err(error) => ended(Ending::Failed, show_spool_error(&error)),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
