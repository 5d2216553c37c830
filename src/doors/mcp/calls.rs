//! A call by an MCP client: made durable first, then waited for, for as long as clients wait. What takes longer goes on by itself,
//! and its client gets how it stands (`docs/decisions/0130`).

use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::{ReqId, ToolName};
use mesh_core::io::CallState;
use mesh_core::policy::Domain;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::desk::{Hold, UnderWay};
use super::names::Meant;
use super::standing::{self, Standing};
use super::{result, tasks};
use crate::doors::app::App;
use crate::doors::identity::Identity;
use crate::doors::ops::calls::{self, Reading, TIMEOUT_MAX};
use crate::doors::ops::devices::is_online;
use crate::mesh::CallStateFilter;
use crate::status::{ErrorCode, OpError};

/// Longest wait for a result within a request: some clients give up after a minute, and forget the call with it.
const INLINE: Duration = Duration::from_secs(25);

/// Tests do not wait as long as people's clients, and less where the answer is a task.
#[cfg_attr(not(feature = "fault-points"), expect(unused_variables, reason = "only tests tell them apart"))]
fn inline(manner: Manner) -> Duration {
    #[cfg(feature = "fault-points")]
    {
        let said = |name: &str| Some(Duration::from_millis(std::env::var(name).ok()?.parse().ok()?));
        let of_task = said("SIGIL_TEST_MCP_TASK_MS").filter(|_| manner == Manner::Task);
        if let Some(said) = of_task.or_else(|| said("SIGIL_TEST_MCP_INLINE_MS")) {
            return said;
        }
    }
    INLINE
}

/// Between two looks at a call, and where its client wants to hear of progress.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_CLOSELY: Duration = Duration::from_millis(200);
/// Longest silence towards a client that wants to hear of progress. Some count from the last word.
const TELL_EVERY: Duration = Duration::from_secs(4);
/// Time within which a call must start that is for a device which is away: people switch devices on the next day.
const TTL_AWAY: Duration = Duration::from_hours(24);

/// A call to make.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) meant: Meant,
    /// JSON, as it was written.
    pub(super) arguments: &'a str,
    /// The client's own key for it.
    pub(super) key: Option<String>,
    /// Time within which it must start.
    pub(super) ttl: Option<Duration>,
    pub(super) workspace: Option<Domain>,
    /// The schema that was told of its results, if one was.
    pub(super) output: Option<Value>,
}

/// How the answer is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// A result, or how the call stands.
    Result,
    /// As that, but in place of how it stands a task.
    Task,
    /// Always how it stands, with the result.
    Standing,
}

/// One step of a call that somebody waits for.
#[derive(Debug)]
pub(super) enum Step {
    /// A word on how far it is: the number of the word, and the word.
    Told(u64, String),
    /// The answer.
    End(Map<String, Value>),
    /// Its client took it back: nobody is told anything.
    TakenBack,
}

/// A call that is durable, and its client waits.
#[derive(Debug)]
pub(super) struct Running {
    app: Arc<App>,
    who: Identity,
    id: ReqId,
    hold: Hold,
    under_way: UnderWay,
    manner: Manner,
    output: Option<Value>,
    began: Instant,
    told: Option<(Instant, String)>,
    words: u64,
    looked: bool,
}

/// Makes a call. From here on it is in the queue of the mesh. `by_connection`: while its client waits, it is taken back by hanging up.
pub(super) async fn begin(
    app: &Arc<App>,
    who: &Identity,
    asked: Asked<'_>,
    (manner, by_connection): (Manner, bool),
    under_way: UnderWay,
) -> Result<Running, OpError> {
    let Asked { meant: Meant { peer, tool }, arguments, key, ttl, workspace, output } = asked;
    let ttl = ttl.unwrap_or_else(|| ttl_for(app, peer.as_ref(), &tool));
    let node = peer.map_or_else(|| super::names::ANY.to_owned(), |peer| peer.to_string());
    let (told, made) = oneshot::channel();
    let (its_app, its_who, arguments) = (app.clone(), who.clone(), arguments.to_owned());
    // A task of its own: a client that hangs up while its call is accepted ends the request, and not this.
    app.mcp.spawn(async move {
        let request = calls::Request {
            node: &node,
            tool: &tool,
            arguments: &arguments,
            ttl,
            timeout: TIMEOUT_MAX,
            effect: None,
            workspace,
            agent: None,
            client_key: key,
        };
        let roster = its_app.context.roster.borrow().clone();
        let made = calls::call(its_app.mesh(), &its_who, &roster, request).await.map(|accepted| {
            let mut hold = its_app.mcp.hold(its_who, accepted.id, by_connection);
            // A key that was used before means a call that goes on by itself already: hanging up takes nothing back.
            if !accepted.created {
                hold.let_go();
            }
            (accepted.id, hold)
        });
        // If nobody waits any more, the hold is dropped here, which takes the call back.
        let _ = told.send(made);
    });
    let stops = |_| OpError::new(ErrorCode::Stopping, "the agent stops");
    let (id, hold) = made.await.map_err(stops)??;
    let (app, who, began) = (app.clone(), who.clone(), Instant::now());
    Ok(Running { app, who, id, hold, under_way, manner, output, began, told: None, words: 0, looked: false })
}

/// The usual time, but for a device that is away.
fn ttl_for(app: &App, peer: Option<&mesh_core::ids::PeerId>, tool: &ToolName) -> Duration {
    let (view, usual) = (app.mesh().view(), app.context.settings.loaded().call_ttl);
    let is_there = match peer {
        Some(peer) => view.by_peer(peer).is_some_and(|node| is_online(&view, node)),
        None => view.nodes.iter().any(|node| is_online(&view, node) && node.tools().iter().any(|it| it.name == *tool)),
    };
    if is_there { usual } else { usual.max(TTL_AWAY) }
}

impl Running {
    /// The next step. `tell`: whether the client wants to hear of progress.
    pub(super) async fn step(&mut self, tell: bool) -> Result<Step, OpError> {
        let cancelled = self.under_way.cancelled.clone();
        loop {
            let left = inline(self.manner).saturating_sub(self.began.elapsed());
            // The first look waits for nothing: whether somebody is away is known.
            let pause = if tell { LOOK_CLOSELY } else { LOOK };
            let wait = if std::mem::replace(&mut self.looked, true) { pause.min(left) } else { Duration::ZERO };
            let look = calls::read(self.app.mesh(), &self.who, &self.app.stop, self.id, wait);
            let Some(reading) = cancelled.run_until_cancelled(look).await else {
                self.hold.take_back();
                return Ok(Step::TakenBack);
            };
            let reading = reading?;
            let stops = self.app.stop.is_cancelled();
            if reading.has_ended() {
                self.hold.let_go();
                return Ok(Step::End(self.ended(&reading).await));
            }
            if stops || left.is_zero() || standing::is_stuck(&self.app.mesh().view(), reading.record()) {
                self.hold.let_go();
                return Ok(Step::End(self.detached(&reading).await));
            }
            if tell && let Some(word) = self.word(&reading) {
                self.words += 1;
                return Ok(Step::Told(self.words, word));
            }
        }
    }

    /// A word for the client, if there is news or it has not heard anything for long.
    fn word(&mut self, reading: &Reading) -> Option<String> {
        let record = reading.record();
        let node = self.app.mesh().view().target_name(&record.header).into_owned();
        let news = match (standing::note(record), record.state) {
            (Some(note), CallState::Open(_)) => format!("{node}: {note}"),
            (None, state) if !CallStateFilter::Queued.passes(state) => format!("running on {node}"),
            (None, _) => format!("waiting for {node}"),
            (Some(note), CallState::Ended(_)) => note,
        };
        let now = Instant::now();
        let is_due = self.told.as_ref().is_none_or(|(at, told)| *told != news || now >= *at + TELL_EVERY);
        if !is_due {
            return None;
        }
        let seconds = self.began.elapsed().as_secs();
        self.told = Some((now, news.clone()));
        Some(if seconds == 0 { news } else { format!("{news} ({seconds} s)") })
    }

    async fn ended(&self, reading: &Reading) -> Map<String, Value> {
        let result = result::of(&self.app, &self.who, reading, self.output.as_ref()).await;
        match self.manner {
            Manner::Result | Manner::Task => result,
            Manner::Standing => result::with_standing(result, standing::of(self.app.mesh(), reading, None).await),
        }
    }

    async fn detached(&self, reading: &Reading) -> Map<String, Value> {
        let standing = standing::of(self.app.mesh(), reading, Some(self.began.elapsed())).await;
        match self.manner {
            Manner::Task => tasks::created(&self.app.mesh().view(), reading, &standing),
            Manner::Result | Manner::Standing => answer(standing),
        }
    }
}

/// A standing as the result of a call.
pub(super) fn answer(standing: Standing) -> Map<String, Value> {
    let Standing { text, value, is_error } = standing;
    let mut result = Map::new();
    result.insert("content".to_owned(), json!([{ "type": "text", "text": text }]));
    result.insert("structuredContent".to_owned(), Value::Object(value));
    result.insert("isError".to_owned(), is_error.into());
    result
}
