//! Command tools: `[tools.NAME]` of the settings, each a provider of its own, so that one is replaced without the others.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use mesh_core::ids::ToolName;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::provider::{Job, Offer, Offers, Parts, Place, Provider, Run, Runs, State};
use crate::config::CommandTool;
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::process::{self, Launch, Launcher, Spec};

/// One command tool: a process for each call.
#[derive(Debug)]
pub struct Command {
    tool: CommandTool,
    launcher: Launcher,
    offers: watch::Sender<Arc<Offers>>,
    runs: Runs,
}

impl Command {
    /// The tool `name`, whose programs `launcher` starts.
    #[must_use]
    pub fn new(name: ToolName, tool: CommandTool, launcher: Launcher) -> Self {
        let offer = Offer {
            effect: tool.effect,
            description: tool.description.clone(),
            owner_only: true,
            at_once: tool.at_once,
            timeout: tool.timeout,
            max_output: tool.max_output,
            card: None,
            input: None,
            in_review: false,
        };
        let offers = Offers { state: State::Ready, tools: BTreeMap::from([(name, Arc::new(offer))]) };
        Self { tool, launcher, offers: watch::Sender::new(Arc::new(offers)), runs: Runs::default() }
    }

    /// The settings that it was made of.
    #[must_use]
    pub fn tool(&self) -> &CommandTool {
        &self.tool
    }
}

impl Provider for Command {
    fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.offers.subscribe()
    }

    fn take(&self, job: Job) -> Box<dyn Run> {
        let launch = self.launcher.launch(spec(&self.tool, &job));
        Box::new(CommandRun { launch, job, place: self.runs.enter() })
    }

    fn stop(&self, until: Instant) -> BoxFuture<'_, ()> {
        Box::pin(self.runs.stop(until))
    }
}

/// The program of a command tool, and the environment that tells it for which call it runs.
fn spec(tool: &CommandTool, job: &Job) -> Spec {
    let mut env = tool.env.clone();
    env.extend([
        ("SIGIL_REQUEST_ID".to_owned(), job.id.to_string()),
        ("SIGIL_ATTEMPT".to_owned(), job.attempt.to_string()),
        ("SIGIL_TOOL".to_owned(), job.tool.to_string()),
        ("SIGIL_NODE".to_owned(), job.node_id.to_string()),
    ]);
    let CommandTool { command, args, keep_running, .. } = tool;
    Spec { command: command.clone(), args: args.clone(), env, cwd: None, keep_running: *keep_running }
}

struct CommandRun {
    launch: Launch,
    job: Job,
    place: Place,
}

impl Run for CommandRun {
    fn finish<'a>(
        self: Box<Self>,
        parts: &'a mut Parts<'_>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move {
            let Self { launch, job, place } = *self;
            let stop = cancel.child_token();
            let Parts { spool, note } = parts;
            let mut run = pin!(process::run(launch, job.timeout, job.arguments, &stop, spool, note));
            tokio::select! {
                biased;
                outcome = &mut run => return outcome,
                () = place.ended() => stop.cancel(),
            }
            let outcome = run.await;
            match outcome.end {
                RunEnd::Cancelled(_) if !cancel.is_cancelled() => {
                    let why = "its tool was replaced or taken away, and it was ended for that while it ran";
                    RunOutcome { end: RunEnd::Lost(why.to_owned()), ..outcome }
                }
                RunEnd::Done
                | RunEnd::Failed(_)
                | RunEnd::Limit(_)
                | RunEnd::Denied(_)
                | RunEnd::Cancelled(_)
                | RunEnd::Lost(_)
                | RunEnd::NotStarted(_) => outcome,
            }
        })
    }
}
