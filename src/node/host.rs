//! Runs what the core says to run, after the last look: is it offered, is it allowed here, are the arguments sound.
//!
//! Every [`ToolHost::invoke`] is answered by exactly one [`Input::ToolEnded`], whatever happens to the tool; only when
//! the agent itself is ended is there none, and then the core's journal knows.

#![expect(clippy::result_large_err, reason = "made once for a call, and passed on once")]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use mesh_core::ids::{Attempt, ReqId};
use mesh_core::io::{Input, Invocation, ToolOutcome};
use mesh_core::limits::{ARGUMENTS_BYTES_MAX, INLINE_BYTES_MAX};
use mesh_core::policy::{Cause, ToolPattern};
use mesh_core::record::{Ending, Payload};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::blobs::Blobs;
use super::builtin::INVALID_ARGUMENT;
use super::catalogue::{Catalogue, Member};
use super::provider::{Job, Parts, Run};
use super::results;
use super::roster::Roster;
use super::schema::InputSchema;
use crate::config::value::{show_duration, show_size};
use crate::json::deeper_than;
use crate::mesh::ToolRuns;
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::spool::{BlobSinks, Given, OutputLimits, Spool};
use crate::tasks::TaskGroup;

/// Deepest nesting of arguments. Half of what `serde_json` would take, and more than any person writes.
pub const ARGUMENTS_DEPTH_MAX: usize = crate::json::DEPTH_MAX;
/// Longest wait of a call for a provider that is starting or does not work now.
const PROVIDER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Time beyond its longest run that a provider is given to drain: a run that is ended takes up to 2 s.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

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
    /// Providers in force. Held only to change them and to fold what they offer.
    force: Mutex<Force>,
    catalogue: watch::Sender<Arc<Catalogue>>,
    roster: watch::Sender<Arc<Roster>>,
    blobs: Arc<dyn Blobs>,
    inputs: mpsc::Sender<Input>,
    tasks: TaskGroup,
    running: Mutex<BTreeMap<(ReqId, Attempt), CancellationToken>>,
}

#[derive(Default)]
struct Force {
    members: Vec<Member>,
    deny: Vec<ToolPattern>,
}

/// A run that has passed the last look, in the hands of its provider.
struct Work {
    run: Box<dyn Run>,
    output: OutputLimits,
}

/// What the last look says of a call that may run.
enum Look {
    /// Its provider has taken it.
    Taken(Work),
    /// Its provider takes nothing now, for this reason.
    Hindered(String),
    /// Its arguments are still to be held against this schema, beside the loop.
    Unchecked(Arc<InputSchema>),
}

impl ToolHost {
    /// A host without providers. Results go to `inputs`; it waits while the core is behind.
    pub fn new(blobs: Arc<dyn Blobs>, inputs: mpsc::Sender<Input>, tasks: TaskGroup) -> Self {
        let (force, catalogue, running) = (Mutex::default(), watch::Sender::default(), Mutex::default());
        let roster = watch::Sender::default();
        Self { shared: Arc::new(HostState { force, catalogue, roster, blobs, inputs, tasks, running }) }
    }

    /// Puts these providers in force in place of those before, and says what this device forbids itself.
    ///
    /// A call that is looked at from now on goes to them. Those that are left out are drained: what runs in them ends in
    /// them.
    pub fn put_in_force(&self, members: Vec<Member>, deny: Vec<ToolPattern>) {
        let old = {
            let mut force = self.in_force();
            let old = std::mem::replace(&mut *force, Force { members, deny });
            for member in force.members.iter().filter(|new| !old.members.iter().any(|old| old.is(new))) {
                self.follow(member);
            }
            self.fold(&force);
            old.members.into_iter().filter(|old| !force.members.iter().any(|new| new.is(old))).collect::<Vec<_>>()
        };
        for member in old {
            self.shared.tasks.spawn(drain(member));
        }
    }

    /// What is offered, and each change of it.
    #[must_use]
    pub fn catalogue(&self) -> watch::Receiver<Arc<Catalogue>> {
        self.shared.catalogue.subscribe()
    }

    /// The providers in force for people, and each change of them.
    #[must_use]
    pub fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.shared.roster.subscribe()
    }

    /// Folds anew whenever a provider offers something else, for as long as there is this version of it.
    fn follow(&self, member: &Member) {
        let (mut offers, host) = (member.provider.offers(), Arc::downgrade(&self.shared));
        offers.mark_unchanged();
        let stopping = self.shared.tasks.stopping();
        self.shared.tasks.spawn(async move {
            while let Some(Ok(())) = stopping.run_until_cancelled(offers.changed()).await {
                let Some(shared) = host.upgrade() else { return };
                let host = Self { shared };
                host.fold(&host.in_force());
            }
        });
    }

    fn fold(&self, force: &Force) {
        let catalogue = Catalogue::fold(&force.members, &force.deny);
        for left_out in catalogue.left_out() {
            if !self.shared.catalogue.borrow().left_out().contains(left_out) {
                tracing::warn!("{left_out}");
            }
        }
        let roster = Roster::of(&force.members, &catalogue, &self.shared.roster.borrow());
        self.shared.roster.send_replace(Arc::new(roster));
        self.shared.catalogue.send_replace(Arc::new(catalogue));
    }

    fn in_force(&self) -> MutexGuard<'_, Force> {
        self.shared.force.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Decides whether a call runs here, and hands it to the provider of its tool. The error is its outcome.
    fn last_look(
        &self,
        invocation: &Invocation,
        arguments: &Bytes,
        checked: Option<&Arc<InputSchema>>,
    ) -> Result<Look, ToolOutcome> {
        let header = &invocation.header;
        // Held until the provider has the job: one that is replaced is drained only after that.
        let catalogue = self.shared.catalogue.borrow();
        let Some(tool) = catalogue.get(&header.tool) else {
            return Err(denied(format!("this device offers no tool `{}` ({})", header.tool, Cause::ToolAbsent)));
        };
        if let Some(pattern) = &tool.denied {
            let rule = Cause::Local(pattern.clone());
            return Err(denied(format!("the owner of this device does not allow `{}` ({rule})", header.tool)));
        }
        check_arguments(arguments).map_err(|error| failed(format!("{INVALID_ARGUMENT}{error}")))?;
        let arguments = if arguments.is_empty() { Bytes::from_static(b"{}") } else { arguments.clone() };
        if let Some(schema) = tool.offer.input.as_ref().filter(|schema| Some(*schema) != checked) {
            if !schema.is_quick(arguments.len()) {
                return Ok(Look::Unchecked(schema.clone()));
            }
            schema.check(&arguments).map_err(unfit)?;
        }
        if tool.offer.in_review {
            let why =
                "is new or has changed, and waits for an owner: `sigil pending` shows it, `sigil approve` takes it";
            return Err(denied(format!("`{}` {why}", header.tool)));
        }
        // As it is, and not as it was when the catalogue was folded. Each change of it is a change of the catalogue too.
        if let Some(why) = tool.provider.offers().borrow().state.hindrance() {
            return Ok(Look::Hindered(why));
        }
        let asked = match header.timeout_ms {
            0 => tool.offer.timeout,
            ms => Duration::from_millis(ms),
        };
        let run = tool.provider.take(Job {
            id: invocation.id,
            attempt: invocation.attempt,
            tool: header.tool.clone(),
            arguments,
            timeout: tool.offer.timeout.min(asked),
            node_id: invocation.node_id.clone(),
        });
        let output = OutputLimits { inline: INLINE_BYTES_MAX, total: tool.offer.max_output };
        Ok(Look::Taken(Work { run, output }))
    }

    /// Looks again at each change of what is offered, until the provider has taken the call or it has waited long enough. What takes
    /// long to be held against its schema is looked at beside the loop.
    async fn await_provider(
        &self,
        invocation: &Invocation,
        arguments: &Bytes,
        cancel: &CancellationToken,
    ) -> Result<Work, ToolOutcome> {
        let wait = match invocation.header.timeout_ms {
            0 => PROVIDER_WAIT_MAX,
            ms => PROVIDER_WAIT_MAX.min(Duration::from_millis(ms)),
        };
        let until = Instant::now() + wait;
        let mut changes = self.catalogue();
        let mut checked = None;
        loop {
            changes.mark_unchanged();
            let why = match self.last_look(invocation, arguments, checked.as_ref())? {
                Look::Taken(work) => return Ok(work),
                Look::Hindered(why) => why,
                Look::Unchecked(schema) => {
                    let (of, arguments) = (schema.clone(), arguments.clone());
                    let found = tokio::task::spawn_blocking(move || of.check(&arguments)).await;
                    found.unwrap_or_else(|error| Err(error.to_string())).map_err(unfit)?;
                    checked = Some(schema);
                    continue;
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(ended(Ending::Cancelled, "cancelled before it was started")),
                changed = timeout_at(until, changes.changed()) => if !matches!(changed, Ok(Ok(()))) {
                    let (tool, waited) = (&invocation.header.tool, show_duration(wait));
                    return Err(failed(format!("`{tool}` did not start within {waited}: {why}")));
                },
            }
        }
    }
}

/// Lets what runs in a provider that is not in force any more come to its end.
async fn drain(member: Member) {
    let longest = member.provider.offers().borrow().tools.values().map(|offer| offer.timeout).max();
    let until = Instant::now() + longest.unwrap_or_default() + DRAIN_MARGIN;
    member.provider.stop(until).await;
    tracing::debug!(provider = %member.origin, "a provider that was replaced has ended");
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
                let arguments = arguments.clone();
                let looked = self.last_look(&invocation, &arguments, None);
                let (host, cancelled) = (self.clone(), cancel.clone());
                self.spawn(run, cancel, async move {
                    match looked? {
                        Look::Taken(work) => Ok(work),
                        Look::Hindered(_) | Look::Unchecked(_) => {
                            host.await_provider(&invocation, &arguments, &cancelled).await
                        }
                    }
                });
            }
            Payload::Blob { .. } => {
                let (host, cancelled) = (self.clone(), cancel.clone());
                self.spawn(run, cancel, async move {
                    let read = host.shared.blobs.read(&invocation.header.arguments).await;
                    let unreadable = |error| failed(format!("the arguments could not be read here: {error}"));
                    let arguments: Bytes = read.map_err(unreadable)?.into();
                    host.await_provider(&invocation, &arguments, &cancelled).await
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

async fn perform(
    Work { run, output }: Work,
    sinks: &dyn BlobSinks,
    cancel: &CancellationToken,
    note: impl FnMut(String) + Send,
) -> ToolOutcome {
    let mut parts = Parts { spool: Spool::new(sinks, output), note: Box::new(note) };
    let RunOutcome { end, note, stderr } = run.finish(&mut parts, cancel).await;
    let outcome = |ending, partial, reason| ToolOutcome { partial, error: stderr, ..ended(ending, reason) };
    let outcome = match end {
        RunEnd::Done => outcome(Ending::Done, false, note),
        RunEnd::Failed(reason) if note.is_empty() => outcome(Ending::Failed, false, reason),
        RunEnd::Failed(reason) => outcome(Ending::Failed, false, format!("{reason}; {note}")),
        RunEnd::Limit(reason) => outcome(Ending::Failed, true, reason),
        RunEnd::Cancelled(reason) => outcome(Ending::Cancelled, true, reason),
        // None of these has output.
        RunEnd::Denied(reason) => return outcome(Ending::Denied, false, reason),
        RunEnd::Lost(reason) => return outcome(Ending::Interrupted, false, reason),
        RunEnd::NotStarted(reason) => return outcome(Ending::Failed, false, reason),
    };
    match parts.spool.finish().await {
        Ok(given) => with_result(outcome, given),
        Err(why) => ToolOutcome { partial: false, error: outcome.error, ..failed(why.story()) },
    }
}

/// An outcome with all that a run gave. Nothing at all is no part of what there would have been.
fn with_result(outcome: ToolOutcome, given: Given) -> ToolOutcome {
    let (output, parts) = results::of(given);
    let partial = outcome.partial && !(output.is_empty() && parts.is_empty());
    ToolOutcome { output, parts, partial, ..outcome }
}

/// Arguments do not fit the schema of their tool.
#[expect(clippy::needless_pass_by_value, reason = "as an error is mapped")]
fn unfit(why: String) -> ToolOutcome {
    denied(format!("{INVALID_ARGUMENT}{why}"))
}

fn denied(reason: impl Into<String>) -> ToolOutcome {
    ended(Ending::Denied, reason)
}

fn failed(reason: impl Into<String>) -> ToolOutcome {
    ended(Ending::Failed, reason)
}

fn ended(ending: Ending, reason: impl Into<String>) -> ToolOutcome {
    ToolOutcome {
        ending,
        reason: reason.into(),
        output: Payload::empty(),
        parts: Vec::new(),
        partial: false,
        error: String::new(),
    }
}

#[cfg(test)]
mod tests;
