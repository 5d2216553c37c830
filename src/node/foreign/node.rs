//! One foreign node as a provider: its tools are offered as they were when it registered last, and run over its stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures_util::future::BoxFuture;
use mesh_core::ids::{Hash, ToolName};
use mesh_core::limits::{self, TOOLS_MAX};
use mesh_core::record::Effect;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::records::Record;
use crate::mesh::clock::now;
use crate::mesh::pace::Pace;
use crate::node::approvals::Approved;
use crate::node::mcp::tools::{self, Listed, PinFile, Pinned, Tool};
use crate::node::mcp::wire::Greeted;
use crate::node::provider::{About, Absent, Job, Kind, Offer, Offers, Parts, Place, Provider, Run, Runs, State};
use crate::pb::call_answer::What;
use crate::pb::gateway_message::Msg as ToNode;
use crate::pb::node_message::Msg as FromNode;
use crate::pb::{
    CallAnswer, CallCancel, GatewayMessage, NodeMessage, NodeRegister, RegisterAck, ToolExecuteRequest, ToolResult,
};
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::progress::ErrorStream;
use crate::runtime::spool::SpoolError;
use crate::status::{ErrorCode, OpError};
use crate::text::visible;
use crate::value::show_duration;

/// Longest run of a tool of a foreign node.
const TIMEOUT: Duration = Duration::from_hours(1);
/// Runs of one tool at once.
const AT_ONCE: u8 = 8;
/// Messages of one node in a second, and at once after a pause.
const MESSAGES_PER_S: u64 = 200;
const MESSAGES_AHEAD: u64 = 400;
/// Messages that wait for a node that does not read.
pub(super) const QUEUE_MAX: usize = 16;
/// Streams of one node at once.
const STREAMS_MAX: usize = 2;
/// Notes of one run that wait; more of them are lost, and the run goes on.
const NOTES_MAX: usize = 16;
/// Time for a node to register, once its token was taken.
const REGISTER_WITHIN: Duration = Duration::from_secs(5);
/// Time for a node to answer a call that was cancelled: it is to work within 2 s.
const CANCEL_WITHIN: Duration = Duration::from_millis(1_500);
/// Longest platform and version, in bytes.
const WORD_BYTES_MAX: usize = 64;
/// Capabilities that a node may show.
const CAPABILITIES_MAX: usize = 64;
/// Longest reason, characters.
const REASON_CHARS_MAX: usize = 1000;

/// What the door sends to a node.
pub(super) type Outgoing = mpsc::Sender<Result<GatewayMessage, Status>>;

/// All that foreign nodes are hosted with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hosting {
    /// The directory of their pins.
    pub pins: std::path::PathBuf,
    /// Tools of this device that were approved, as they were shown.
    pub approved: watch::Receiver<Approved>,
    /// Those in force, by name: where the door finds them.
    pub present: Present,
}

/// Foreign nodes in force. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Present(Arc<Mutex<BTreeMap<String, Arc<Inner>>>>);

impl Present {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Inner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of a record.
    pub(super) fn of(&self, record: &Record) -> Option<Arc<Inner>> {
        self.all().get(record.name.as_str()).filter(|inner| inner.record == *record).cloned()
    }
}

/// A foreign node in force.
#[derive(Debug)]
pub struct ForeignNode {
    inner: Arc<Inner>,
    present: Present,
}

/// See [`ForeignNode`].
#[derive(Debug)]
pub(super) struct Inner {
    record: Record,
    pins: PinFile,
    approved: watch::Receiver<Approved>,
    offers: watch::Sender<Arc<Offers>>,
    session: watch::Sender<Option<Arc<Session>>>,
    told: Mutex<Told>,
    runs: Runs,
    /// Places of its streams: that of the present one, and of one that takes its place.
    pub(super) streams: Arc<Semaphore>,
    /// Cancelled when it is not let in any more.
    out: CancellationToken,
}

#[derive(Debug, Default)]
struct Told {
    version: Option<String>,
}

/// A registered stream.
#[derive(Debug)]
struct Session {
    to_node: Outgoing,
    /// Cancelled, the stream is ended.
    end: CancellationToken,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    over: bool,
    waiting: BTreeMap<(String, u32), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    end: oneshot::Sender<RunEnded>,
    notes: mpsc::Sender<String>,
}

/// What a node has said of a call in the end.
#[derive(Debug)]
enum RunEnded {
    Result { output: String, error: String },
    Refused(String),
    Busy,
}

impl Session {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever waits is told that it is over.
    fn close(&self) {
        self.end.cancel();
        let mut open = self.open();
        open.over = true;
        open.waiting.clear();
    }

    /// Takes a message about a call. One about none of ours is no matter.
    fn take(&self, message: FromNode) {
        match message {
            FromNode::ToolResult(ToolResult { request_id, output, error, attempt, .. }) => {
                self.end(&request_id, attempt, RunEnded::Result { output, error });
            }
            FromNode::Answer(CallAnswer { request_id, attempt, what }) => match what {
                Some(What::Running(running)) => {
                    let open = self.open();
                    if let Some(waiting) = open.find(&request_id, attempt).and_then(|key| open.waiting.get(&key)) {
                        let _ = waiting.notes.try_send(limits::cut(&running.note, limits::TEXT_BYTES_MAX).to_owned());
                    }
                }
                Some(What::Refused(why)) => self.end(&request_id, attempt, RunEnded::Refused(why)),
                Some(What::Busy(_)) => self.end(&request_id, attempt, RunEnded::Busy),
                Some(What::Waiting(_) | What::Lacking(_) | What::Asking(_) | What::Fenced(_)) | None => {}
            },
            FromNode::Register(_) | FromNode::Status(_) => {}
        }
    }

    fn end(&self, id: &str, attempt: u32, ended: RunEnded) {
        let mut open = self.open();
        let waiting = open.find(id, attempt).and_then(|key| open.waiting.remove(&key));
        drop(open);
        if let Some(waiting) = waiting {
            let _ = waiting.end.send(ended);
        }
    }
}

impl Open {
    /// The run that is meant. A client that knows only the first fields of the contract says no attempt: there is one at a time.
    fn find(&self, id: &str, attempt: u32) -> Option<(String, u32)> {
        let all = self.waiting.keys().filter(|(of, n)| of == id && (attempt == 0 || attempt == *n));
        all.max_by_key(|(_, n)| *n).cloned()
    }
}

/// A reason for which a registration is refused, for the user of the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum NotRegistered {
    #[error("this token is that of the node `{known}`, and it calls itself otherwise")]
    OtherName { known: String },
    #[error("{0} tools are more than a node may declare, which is {TOOLS_MAX}")]
    TooManyTools(usize),
    #[error("the name of a tool cannot be used: `{0}`")]
    BadTool(String),
    #[error("the tool `{0}` is declared twice")]
    ToolTwice(String),
    #[error("{0} is too long")]
    TooLong(&'static str),
}

impl NotRegistered {
    fn hint(&self) -> &'static str {
        match self {
            Self::OtherName { .. } => "register under the name that `sigil node add` was given",
            Self::TooManyTools(_) => "offer fewer tools",
            Self::BadTool(_) => "use letters, digits, dots, dashes and underscores; with its node's name 64 at most",
            Self::ToolTwice(_) => "give every tool its own name",
            Self::TooLong(_) => "shorten it",
        }
    }
}

/// A reason for which a stream is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum StreamEnd {
    #[error("no registration in time")]
    TooLate,
    #[error("the first message must be `register`")]
    NotRegistered,
    #[error("a stream registers once: open another")]
    RegisteredTwice,
    #[error("this node has registered anew")]
    Replaced,
    #[error("the token of this node was revoked, or is over")]
    Revoked,
    #[error("the agent is stopping")]
    Stopping,
}

impl From<StreamEnd> for Status {
    fn from(end: StreamEnd) -> Self {
        let code = match end {
            StreamEnd::TooLate => ErrorCode::RequestTimeout,
            StreamEnd::NotRegistered | StreamEnd::RegisteredTwice => ErrorCode::BadRequest,
            StreamEnd::Replaced => ErrorCode::Replaced,
            StreamEnd::Revoked => ErrorCode::Unauthorized,
            StreamEnd::Stopping => ErrorCode::Stopping,
        };
        OpError::new(code, end.to_string()).to_grpc()
    }
}

impl ForeignNode {
    /// A node that was let in: the door finds it from now on. Reads its pins: not for a loop.
    #[must_use]
    pub fn new(record: Record, hosting: &Hosting) -> Self {
        let pins = PinFile::new(hosting.pins.join(format!("{}.json", record.name)));
        let known: Vec<String> = match pins.read() {
            Pinned::As(pins) => pins.tools.into_keys().collect(),
            Pinned::Never | Pinned::Unreadable(_) => Vec::new(),
        };
        let inner = Inner {
            pins,
            approved: hosting.approved.clone(),
            offers: watch::Sender::default(),
            session: watch::Sender::default(),
            told: Mutex::default(),
            runs: Runs::default(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            out: CancellationToken::new(),
            record,
        };
        let tools = inner.reviewed(&known, false, &inner.approved.borrow().clone());
        inner.offers.send_replace(Arc::new(Offers { state: away(), tools }));
        let inner = Arc::new(inner);
        hosting.present.all().insert(inner.record.name.to_string(), inner.clone());
        Self { inner, present: hosting.present.clone() }
    }
}

impl Drop for ForeignNode {
    fn drop(&mut self) {
        self.inner.out.cancel();
        let mut all = self.present.all();
        // A newer one of its name stays.
        if all.get(self.inner.record.name.as_str()).is_some_and(|inner| Arc::ptr_eq(inner, &self.inner)) {
            all.remove(self.inner.record.name.as_str());
        }
    }
}

fn away() -> State {
    State::Unhealthy { why: "the node is not connected".to_owned() }
}

impl Provider for ForeignNode {
    fn offers(&self) -> watch::Receiver<Arc<Offers>> {
        self.inner.offers.subscribe()
    }

    fn take(&self, job: Job) -> Box<dyn Run> {
        let place = self.inner.runs.enter();
        let session = self.inner.session.borrow().clone();
        Box::new(ForeignRun { node: self.inner.record.name.to_string(), session, job, place })
    }

    fn about(&self) -> About {
        let version = self.inner.told.lock().unwrap_or_else(PoisonError::into_inner).version.clone();
        let absent = Vec::<Absent>::new();
        About { kind: Kind::Foreign, version, tier: None, protocol: Some("grpc"), absent, ..About::default() }
    }

    /// It is only taken out when it was removed, so that nothing of it is waited for.
    fn stop(&self, _: Instant) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.inner.out.cancel();
            self.inner.runs.stop(Instant::now()).await;
        })
    }
}

impl Inner {
    fn name(&self) -> &str {
        self.record.name.as_str()
    }

    fn whole(&self, own: &str) -> Result<ToolName, NotRegistered> {
        let bad = || NotRegistered::BadTool(visible(own).chars().take(64).collect());
        if own.is_empty() || own.len() > 64 {
            return Err(bad());
        }
        format!("{}.{own}", self.name()).parse().map_err(|_| bad())
    }

    /// Its tools, with those held back that are new since an owner has seen it. Reads its pins, and writes them if it is `told` by the
    /// node.
    fn reviewed(
        &self,
        own: &[String],
        told: bool,
        approved: &BTreeMap<ToolName, Hash>,
    ) -> BTreeMap<ToolName, Arc<Offer>> {
        let offer = |own: &String| Offer {
            // What a foreign node has done twice nobody knows.
            effect: Effect::Once,
            description: format!("`{own}` of the node {}", self.name()),
            owner_only: true,
            at_once: std::num::NonZeroU8::new(AT_ONCE),
            timeout: TIMEOUT,
            max_output: limits::RESULT_BYTES_MAX,
            card: None,
            input: None,
            in_review: false,
        };
        let tool = |own: &String| {
            let hash = HEXLOWER.encode(&Hash::of(own.as_bytes()).0);
            Some((self.whole(own).ok()?, Tool { own_name: own.clone(), offer: Arc::new(offer(own)), hash }))
        };
        let mut listed = Listed { tools: own.iter().filter_map(tool).collect(), absent: Vec::new() };
        let of = self.pins.read();
        // Its name and its token are the owner's word, and so is its first list.
        let pins = tools::review(true, &of, &mut listed, approved, (&Greeted::default(), None));
        let is_new = told && !matches!(&of, Pinned::As(old) if *old == pins) && !matches!(of, Pinned::Unreadable(_));
        if is_new && let Err(error) = self.pins.write(&pins) {
            tracing::warn!(node = self.name(), %error, "its pins could not be written: its tools are in review after a start");
        }
        listed.tools.into_iter().map(|(name, tool)| (name, tool.offer)).collect()
    }

    fn check(&self, register: &NodeRegister) -> Result<(), NotRegistered> {
        if register.node_id != self.name() {
            return Err(NotRegistered::OtherName { known: self.name().to_owned() });
        }
        for (what, text) in [("the platform", &register.platform), ("the version", &register.version)] {
            if text.len() > WORD_BYTES_MAX {
                return Err(NotRegistered::TooLong(what));
            }
        }
        let longest = register.capabilities.iter().map(|(name, value)| name.len().max(value.len())).max();
        if register.capabilities.len() > CAPABILITIES_MAX || longest.unwrap_or(0) > limits::TEXT_BYTES_MAX {
            return Err(NotRegistered::TooLong("the list of capabilities"));
        }
        self.check_tools(&register.tools)
    }

    fn check_tools(&self, own: &[String]) -> Result<(), NotRegistered> {
        if own.len() > TOOLS_MAX {
            return Err(NotRegistered::TooManyTools(own.len()));
        }
        let mut seen = std::collections::BTreeSet::new();
        for own in own {
            if !seen.insert(self.whole(own)?.folded().into_owned()) {
                return Err(NotRegistered::ToolTwice(visible(own)));
            }
        }
        Ok(())
    }

    /// Offers what the node says on this stream, unless another has taken its place.
    async fn offer(self: &Arc<Self>, session: &Arc<Session>, own: &[String], state: State) {
        let (inner, own, approved) = (self.clone(), own.to_vec(), self.approved.borrow().clone());
        let is_present = || self.session.borrow().as_ref().is_some_and(|held| Arc::ptr_eq(held, session));
        if !is_present() || self.out.is_cancelled() {
            return;
        }
        // Pins are read and written beside the loop.
        let read = tokio::task::spawn_blocking(move || inner.reviewed(&own, true, &approved)).await;
        let Ok(tools) = read else { return };
        if !is_present() {
            return;
        }
        let offers = Arc::new(Offers { state, tools });
        self.offers.send_if_modified(|held| {
            let differs = *held != offers;
            held.clone_from(&offers);
            differs
        });
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

    /// One stream, from its first message to its end. `end` is cancelled by whoever ends it, and when it has ended; `stopping`
    /// when the agent stops.
    pub(super) async fn serve(
        self: Arc<Self>,
        mut inbound: Streaming<NodeMessage>,
        to_node: Outgoing,
        end: CancellationToken,
        stopping: CancellationToken,
    ) {
        let first = stopping.run_until_cancelled(timeout(REGISTER_WITHIN, inbound.message())).await;
        let Some(first) = first else { return drop(to_node.try_send(Err(StreamEnd::Stopping.into()))) };
        let register = match first {
            Ok(Ok(Some(NodeMessage { msg: Some(FromNode::Register(register)) }))) => register,
            Ok(Ok(_)) => return drop(to_node.try_send(Err(StreamEnd::NotRegistered.into()))),
            Ok(Err(status)) => return drop(to_node.try_send(Err(status))),
            Err(_) => return drop(to_node.try_send(Err(StreamEnd::TooLate.into()))),
        };
        if let Err(refusal) = self.check(&register) {
            tracing::debug!(node = self.name(), %refusal, "registration refused");
            let (error, hint) = (refusal.to_string(), refusal.hint().to_owned());
            drop(to_node.try_send(Ok(to(ToNode::RegisterAck(RegisterAck { accepted: false, error, hint })))));
            return;
        }
        let NodeRegister { tools, version, .. } = register;
        let version = visible(&version);
        self.told.lock().unwrap_or_else(PoisonError::into_inner).version = (!version.is_empty()).then_some(version);
        let session = Arc::new(Session { to_node: to_node.clone(), end, open: Mutex::default() });
        let accepted = RegisterAck { accepted: true, error: String::new(), hint: String::new() };
        drop(to_node.try_send(Ok(to(ToNode::RegisterAck(accepted)))));
        if let Some(old) = self.session.send_replace(Some(session.clone())) {
            drop(old.to_node.try_send(Err(StreamEnd::Replaced.into())));
            old.close();
        }
        tracing::info!(target: "sigil::events::node", node = self.name(), tools = tools.len(), "a foreign node has come");
        let read = stopping.run_until_cancelled(self.read(&session, &mut inbound, tools)).await;
        let status = read.unwrap_or_else(|| Some(StreamEnd::Stopping.into()));
        let is_present = self.session.send_if_modified(|held| {
            let is_present = held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &session));
            if is_present {
                *held = None;
            }
            is_present
        });
        if is_present {
            self.be(away());
            tracing::info!(target: "sigil::events::node", node = self.name(), "a foreign node has gone");
        }
        if let Some(status) = status {
            drop(to_node.try_send(Err(status)));
        }
        session.close();
    }

    async fn read(
        self: &Arc<Self>,
        session: &Arc<Session>,
        inbound: &mut Streaming<NodeMessage>,
        mut own: Vec<String>,
    ) -> Option<Status> {
        let mut approved = self.approved.clone();
        approved.mark_unchanged();
        self.offer(session, &own, State::Ready).await;
        let mut pace = Pace::new(MESSAGES_PER_S, MESSAGES_AHEAD);
        let left = self.record.expires_ms.map(|end| Duration::from_millis(end.saturating_sub(now().wall_ms)));
        let mut expired = std::pin::pin!(async {
            match left {
                Some(left) => sleep(left).await,
                None => std::future::pending().await,
            }
        });
        let mut online = true;
        let not_available = || State::Unhealthy { why: "the node says that it is not available".to_owned() };
        let state = |online: bool| if online { State::Ready } else { not_available() };
        loop {
            let message = tokio::select! {
                biased;
                () = session.end.cancelled() => return None,
                () = self.out.cancelled() => return Some(StreamEnd::Revoked.into()),
                () = &mut expired => return Some(StreamEnd::Revoked.into()),
                Ok(()) = approved.changed() => {
                    self.offer(session, &own, state(online)).await;
                    continue;
                }
                message = inbound.message() => message,
            };
            match message {
                Ok(Some(NodeMessage { msg: Some(FromNode::Register(_)) })) => {
                    return Some(StreamEnd::RegisteredTwice.into());
                }
                Ok(Some(NodeMessage { msg: Some(FromNode::Status(status)) })) => {
                    online = status.online;
                    // What cannot be offered leaves what there was.
                    if self.check_tools(&status.available_tools).is_ok() {
                        own = status.available_tools;
                    }
                    self.offer(session, &own, state(online)).await;
                    // Each change is told to the whole mesh.
                    pace.wait(MESSAGES_PER_S).await;
                }
                Ok(Some(NodeMessage { msg: Some(message) })) => session.take(message),
                // Of a newer version.
                Ok(Some(NodeMessage { msg: None })) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
            tokio::select! {
                () = pace.wait(1) => {}
                () = session.end.cancelled() => return None,
            }
        }
    }
}

fn to(msg: ToNode) -> GatewayMessage {
    GatewayMessage { msg: Some(msg) }
}

struct ForeignRun {
    node: String,
    session: Option<Arc<Session>>,
    job: Job,
    place: Place,
}

/// A place among the calls of a session.
struct Asked {
    session: Arc<Session>,
    key: (String, u32),
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.session.open().waiting.remove(&self.key);
    }
}

/// A reason for which a run was stopped.
enum Stopped {
    Cancelled,
    TimedOut,
    Replaced,
}

impl Run for ForeignRun {
    fn finish<'a>(
        self: Box<Self>,
        parts: &'a mut Parts<'_>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move { self.run(parts, cancel).await.into() })
    }
}

impl ForeignRun {
    async fn run(self, parts: &mut Parts<'_>, cancel: &CancellationToken) -> RunEnd {
        let Self { node, session, job, place } = self;
        let not_started = |why: &str| RunEnd::NotStarted(format!("the node `{node}` {why}"));
        let Some(session) = session else { return not_started("is not connected") };
        let Ok(arguments) = String::from_utf8(job.arguments.to_vec()) else {
            return RunEnd::Denied("its arguments are no text".to_owned());
        };
        let own = job.tool.as_str().strip_prefix(&format!("{node}.")).unwrap_or(job.tool.as_str()).to_owned();
        let until = Instant::now() + job.timeout;
        // A place first: what is registered is sent.
        let place_to_send = tokio::select! {
            biased;
            () = cancel.cancelled() => return RunEnd::Cancelled("cancelled before it was started".to_owned()),
            () = place.ended() => return not_started("was removed"),
            () = session.end.cancelled() => return not_started("has just gone"),
            () = sleep_until(until) => return not_started("takes nothing: it does not read what it is asked"),
            reserved = session.to_node.reserve() => reserved,
        };
        let Ok(place_to_send) = place_to_send else { return not_started("has just gone") };
        let key = (job.id.to_string(), u32::from(job.attempt));
        let ((tell, mut told), (tell_note, mut notes)) = (oneshot::channel(), mpsc::channel(NOTES_MAX));
        {
            let mut open = session.open();
            if open.over {
                return not_started("has just gone");
            }
            open.waiting.insert(key.clone(), Waiting { end: tell, notes: tell_note });
        }
        let _asked = Asked { session: session.clone(), key: key.clone() };
        let seconds = job.timeout.as_secs() + u64::from(job.timeout.subsec_nanos() > 0);
        place_to_send.send(Ok(to(ToNode::ToolExecute(ToolExecuteRequest {
            request_id: key.0.clone(),
            tool_name: own,
            arguments,
            timeout_seconds: i32::try_from(seconds).unwrap_or(i32::MAX),
            header: None,
            attempt: key.1,
            claim: None,
            left_ms: u64::try_from(job.timeout.as_millis()).unwrap_or(u64::MAX),
            consents: Vec::new(),
        }))));
        let mut errors = ErrorStream::new(Instant::now(), Arc::default());
        let mut told_enough = false;
        let why = loop {
            tokio::select! {
                biased;
                said = &mut told => return match said {
                    Ok(said) => given(said, &node, parts).await,
                    Err(_) => RunEnd::Lost(format!("the node `{node}` went away while it ran: it may have happened")),
                },
                note = notes.recv(), if !told_enough => match note {
                    // At the pace of any tool.
                    Some(note) => {
                        let line = format!("::progress {}\n", visible(&note));
                        errors.push(line.as_bytes(), Instant::now(), &mut |text| (parts.note)(text));
                    }
                    None => told_enough = true,
                },
                () = cancel.cancelled() => break Stopped::Cancelled,
                () = sleep_until(until) => break Stopped::TimedOut,
                () = place.ended() => break Stopped::Replaced,
            }
        };
        let asked = session.to_node.try_send(Ok(to(ToNode::Cancel(CallCancel { request_id: key.0.clone() })))).is_ok();
        let answered = timeout(CANCEL_WITHIN, &mut told).await.is_ok_and(|said| said.is_ok());
        let goes_on = match (answered, asked) {
            (true, _) => "",
            (false, true) => "the node was told to stop, and may go on",
            (false, false) => "the node could not be told to stop, and may go on",
        };
        match why {
            Stopped::Cancelled => RunEnd::Cancelled(goes_on.to_owned()),
            Stopped::TimedOut => {
                let goes_on = if goes_on.is_empty() { String::new() } else { format!("; {goes_on}") };
                RunEnd::Limit(format!("timed out after {}{goes_on}", show_duration(job.timeout)))
            }
            Stopped::Replaced => {
                RunEnd::Lost(format!("the node `{node}` was removed while it ran: it may have happened"))
            }
        }
    }
}

async fn given(said: RunEnded, node: &str, parts: &mut Parts<'_>) -> RunEnd {
    let text = |why: &str, without: &str| {
        let why: String = visible(why).chars().take(REASON_CHARS_MAX).collect();
        if why.trim().is_empty() { without.to_owned() } else { why }
    };
    match said {
        RunEnded::Refused(why) => RunEnd::Denied(text(&why, "the node refused and did not say why")),
        RunEnded::Busy => RunEnd::NotStarted(format!("the node `{node}` is busy")),
        RunEnded::Result { output, error } => match parts.spool.push(output.as_bytes()).await {
            Err(why @ (SpoolError::TooLarge(_) | SpoolError::TooMany)) => RunEnd::Limit(why.story()),
            Err(why @ SpoolError::Store(_)) => RunEnd::Failed(why.story()),
            Ok(()) if error.is_empty() => RunEnd::Done,
            Ok(()) => RunEnd::Failed(text(&error, "it failed and did not say why")),
        },
    }
}
