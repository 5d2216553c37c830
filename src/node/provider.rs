//! Providers of tools: what stands between a call and whatever runs it.
//!
//! A provider offers tools and runs them. Which of them are in force, and which tool is whose, the
//! [catalogue](super::catalogue) says; last look, bounds and the one end of each call are the
//! [host](super::host)'s. One that is replaced takes no more jobs and is drained: what runs in it ends in it.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mesh_core::ids::{Attempt, NodeId, ReqId, ToolName};
use mesh_core::record::{Effect, Fitness, ToolDecl};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::card::Card;
use super::schema::InputSchema;
use crate::plugin::{Level, Tier};
use crate::runtime::outcome::RunOutcome;
use crate::runtime::spool::Spool;

/// Time in which what is ended by force is gone: a cancel works within 2 s.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Something that offers tools and runs them.
pub trait Provider: Send + Sync {
    /// Everything that it offers now, and its state, in one snapshot; and each change of it.
    fn offers(&self) -> watch::Receiver<Arc<Offers>>;

    /// Takes a job. Must not wait: jobs are started in the order of these calls. Nothing is taken after
    /// [`Self::stop`] was called.
    fn take(&self, job: Job) -> Box<dyn Run>;

    /// What people are told of it besides what it offers.
    fn about(&self) -> About {
        About::default()
    }

    /// Comes to an end. What runs may end by itself until then; what is left is ended. Returns when nothing runs in it any
    /// more, or when what runs cannot be ended.
    fn stop(&self, until: Instant) -> BoxFuture<'_, ()>;
}

/// A job that a provider has taken. It keeps what it needs of the version of the provider that took it.
///
/// Dropped, it runs no more, and has left nothing behind.
pub trait Run: Send {
    /// Runs it to its end, which comes within the time of its job. `cancel` ends it within 2 s.
    fn finish<'a>(
        self: Box<Self>,
        parts: &'a mut Parts<'_>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, RunOutcome>;
}

/// Facts of a provider, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The kind of what runs its tools.
    pub kind: Kind,
    /// Its version, if it has one.
    pub version: Option<String>,
    /// The tier in which it runs; `None` for what does not run here, and for this program.
    pub tier: Option<Tier>,
    /// The word for how it is spoken to: `json`, `mcp`, `grpc`.
    pub protocol: Option<&'static str>,
    /// How far it is confined.
    pub level: Level,
    /// What that does not stop here.
    pub gaps: Vec<String>,
    /// Tools that it has and does not offer here.
    pub absent: Vec<Absent>,
}

/// Kind of what runs tools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// This program.
    Builtin,
    /// Processes of this device.
    #[default]
    Process,
    /// Containers.
    Container,
    /// An MCP server.
    Mcp,
    /// A program of somebody else, which comes to this device.
    Foreign,
}

/// A tool that is not offered here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Its name.
    pub tool: String,
    /// The cause, for people.
    pub why: String,
    /// The next step.
    pub fix: String,
}

/// One run to be made.
#[derive(Debug, Clone)]
pub struct Job {
    /// The call.
    pub id: ReqId,
    /// Which attempt of it.
    pub attempt: Attempt,
    /// One of the tools of the provider.
    pub tool: ToolName,
    /// JSON, checked.
    pub arguments: Bytes,
    /// Time that the run may take.
    pub timeout: Duration,
    /// The name of this device.
    pub node_id: NodeId,
}

/// All that a run gives before its end.
pub struct Parts<'a> {
    /// Takes its output.
    pub spool: Spool<'a>,
    /// Takes lines of progress, for people.
    pub note: Box<dyn FnMut(String) + Send + 'a>,
}

/// State of a provider, and what it offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offers {
    /// Its state.
    pub state: State,
    /// Its tools, also while it cannot run them.
    pub tools: BTreeMap<ToolName, Arc<Offer>>,
}

/// Fitness of a provider to run its tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// It can.
    #[default]
    Ready,
    /// Not yet; calls wait a little.
    Starting {
        /// What it is at, for people: `pulling the image`.
        step: String,
    },
    /// Not now; it tries to recover, and calls wait a little.
    Unhealthy {
        /// The cause, for people.
        why: String,
    },
    /// Not before its owner has looked at it.
    Review {
        /// What there is to look at, for people.
        changes: String,
    },
    /// Not until its owner does something about it.
    Stopped {
        /// The cause, for people.
        why: String,
    },
}

impl State {
    /// The reason for which it takes no job now.
    #[must_use]
    pub fn hindrance(&self) -> Option<String> {
        match self {
            Self::Ready => None,
            Self::Starting { step } => Some(format!("it is starting: {step}")),
            Self::Unhealthy { why } => Some(format!("it does not work now: {why}")),
            Self::Review { changes } => Some(format!("its owner has to look at it first: {changes}")),
            Self::Stopped { why } => Some(format!("it is stopped: {why}")),
        }
    }

    /// The word for it, and the cause if it is not [`Self::Ready`].
    #[must_use]
    pub fn told(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Ready => ("ready", None),
            Self::Starting { step } => ("starting", Some(step)),
            Self::Unhealthy { why } => ("unhealthy", Some(why)),
            Self::Review { changes } => ("review", Some(changes)),
            Self::Stopped { why } => ("stopped", Some(why)),
        }
    }
}

/// A tool as its provider offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Effect of a repeated run.
    pub effect: Effect,
    /// For people; at most 200 characters.
    pub description: String,
    /// True if only owner-tier principals may call it.
    pub owner_only: bool,
    /// So many of its runs at once, at most; `None`: as many as this device runs calls.
    pub at_once: Option<NonZeroU8>,
    /// Longest run.
    pub timeout: Duration,
    /// Bytes of output.
    pub max_output: u64,
    /// All that is told of it; `None`: this is all.
    pub card: Option<Card>,
    /// What its arguments must be like; `None`: its provider looks at them itself.
    pub input: Option<Arc<InputSchema>>,
    /// True if it is new or has changed, and waits for an owner: it is told of, and not run.
    pub in_review: bool,
}

impl Offer {
    /// Its description for the mesh. `works`: what runs it works now.
    #[must_use]
    pub fn decl(&self, name: &ToolName, works: bool) -> ToolDecl {
        ToolDecl {
            name: name.clone(),
            effect: self.effect,
            description: self.description.clone(),
            owner_only: self.owner_only,
            at_once: self.at_once,
            card: self.card.as_ref().map(|card| card.hash),
            state: match (self.in_review, works) {
                (true, _) => Fitness::REVIEW,
                (false, true) => Fitness::READY,
                (false, false) => Fitness::UNHEALTHY,
            },
        }
    }
}

/// Runs in the hands of one provider: counted, so that it can be drained, and ended when they outstay that.
#[derive(Debug)]
pub struct Runs {
    count: watch::Sender<usize>,
    end: CancellationToken,
}

/// A place among [`Runs`]; free again when dropped.
#[derive(Debug)]
pub struct Place {
    count: watch::Sender<usize>,
    end: CancellationToken,
}

impl Default for Runs {
    fn default() -> Self {
        Self { count: watch::Sender::new(0), end: CancellationToken::new() }
    }
}

impl Runs {
    /// Counts one more.
    #[must_use]
    pub fn enter(&self) -> Place {
        self.count.send_modify(|count| *count += 1);
        Place { count: self.count.clone(), end: self.end.clone() }
    }

    /// Waits until none is left, ending them when their time is up. See [`Provider::stop`].
    pub async fn stop(&self, until: Instant) {
        let mut count = self.count.subscribe();
        // The sender is in our hands, so the wait ends in no other way.
        if tokio::time::timeout_at(until, count.wait_for(|count| *count == 0)).await.is_err() {
            self.end.cancel();
            let _ = tokio::time::timeout(END_WITHIN, count.wait_for(|count| *count == 0)).await;
        }
    }
}

impl Place {
    /// Waits until the run has to end because its provider does.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_runs_and_ends_those_that_outstay_it() {
        let runs = Runs::default();
        let began = Instant::now();
        runs.stop(began + Duration::from_mins(1)).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing runs");

        let (quick, slow) = (runs.enter(), runs.enter());
        let end = |place: Place, after| async move {
            tokio::select! {
                () = place.ended() => true,
                () = tokio::time::sleep(after) => false,
            }
        };
        let until = began + Duration::from_mins(1);
        let (quick, slow, ()) =
            tokio::join!(end(quick, Duration::from_secs(5)), end(slow, Duration::from_secs(90)), runs.stop(until));
        assert!(!quick && slow, "one ended by itself, the other was ended");
        assert_eq!(began.elapsed(), Duration::from_mins(1));
    }

    #[tokio::test(start_paused = true)]
    async fn now_is_now_and_what_hangs_is_left() {
        let runs = Runs::default();
        let (began, hangs) = (Instant::now(), runs.enter());
        runs.stop(began).await;
        assert_eq!(began.elapsed(), END_WITHIN);
        drop(hangs);
        assert_eq!(*runs.count.borrow(), 0);
    }
}
