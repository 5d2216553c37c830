//! The face of the mesh for everyone above it: doors, node role, command line.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mesh_core::entry::{Ending, Payload, Tier, ToolDecl};
use mesh_core::ids::{Hash, NodeId, PeerId, PublicKey, ReqId};
use mesh_core::io::{CallRecord, CallState, Command, HistoryRow, Refusal, Reply, View};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::mesh::blobs::BlobStore;
use crate::mesh::invite::InviteCode;

/// Why the mesh could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// The core said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent is going down.
    #[error("the agent is stopping")]
    Stopping,
    /// What was asked for began in a mesh that this device has left meanwhile.
    #[error("this device has since moved to another mesh; ask again")]
    Moved,
    /// Our own store failed.
    #[error("reading the local store: {0}")]
    Store(String),
    /// No one by this name waits or was seen nearby.
    #[error("no {what} `{name}`")]
    Unknown {
        /// "pending device", "nearby device", "node".
        what: &'static str,
        /// What was asked for.
        name: String,
    },
    /// Joining failed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The bytes of a result are not here yet, and whoever has them cannot be reached.
    #[error("the result is still at `{node}`, which cannot be reached now")]
    ResultAway {
        /// Where it is.
        node: NodeId,
    },
}

/// Why a join failed. Each has its own code at the doors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The text is not a code.
    #[error("this is not a sigil code: {0}")]
    BadCode(String),
    /// The inviter says the code has been used.
    #[error("this code has been used already; ask for a new one with `sigil invite` on the other device")]
    Used,
    /// The inviter says it expired, or the code itself says so.
    #[error("this code has expired; ask for a new one with `sigil invite` on the other device")]
    Expired,
    /// The inviter does not know it.
    #[error("this code is not known to the device that it names")]
    UnknownCode,
    /// Nobody answers at the addresses in the code.
    #[error("the inviting device does not answer at {tried}; is it on, and on the same network?")]
    InviterDown {
        /// Addresses that were tried, for people.
        tried: String,
    },
    /// A person said no, or a rule.
    #[error("the other side refused: {0}")]
    Rejected(String),
    /// This home is in a mesh with other devices; leaving it must be said.
    #[error("this device is in a mesh with {others} other devices; leave it first, or say --force")]
    WouldLeave {
        /// How many others there are.
        others: usize,
    },
    /// Nobody by this name is nearby.
    #[error("no device `{0}` is nearby")]
    NotNearby(String),
}

/// Whom to join.
#[derive(Debug, Clone)]
pub enum JoinTarget {
    /// With an invite.
    Code(InviteCode),
    /// A device seen on the LAN: by name, or start of its peer id; `None` = the only one there is.
    Nearby(Option<String>),
    /// A device at an address.
    Address(SocketAddr),
}

/// What became of a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// We are in, under this name.
    Member(NodeId),
    /// A person over there must say yes; the agent keeps asking.
    Pending {
        /// Who has to say yes.
        peer: PeerId,
    },
}

/// An invite, ready to be shown. The code is the secret itself: never log it.
#[derive(Debug, Clone)]
pub struct Invite {
    /// The code.
    pub code: InviteCode,
    /// Wall time.
    pub expires_ms: u64,
}

/// A stranger seen on the LAN. Nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearby {
    /// Its identity.
    pub peer: PeerId,
    /// The name that it shows.
    pub name: String,
    /// Where its QUIC door is.
    pub addresses: Vec<SocketAddr>,
    /// Wall time.
    pub seen_ms: u64,
}

/// Someone who waits for a person's yes: it asks to join, or belonged until the word of whoever approved it became void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its key, proven by the link.
    pub key: PublicKey,
    /// Its identity: what people compare.
    pub peer: PeerId,
    /// Name that it asks for.
    pub node_id: NodeId,
    /// "linux", …
    pub platform: String,
    /// Where it asks from; `None` for one that waits again.
    pub address: Option<SocketAddr>,
    /// Wall time of its first join request, or since when it is known to wait again.
    pub since_ms: u64,
    /// Why it waits, for people.
    pub why: String,
}

/// State of one link, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// To whom.
    pub peer: PeerId,
    /// Where it is.
    pub address: SocketAddr,
    /// Round trip as QUIC measures it, microseconds.
    pub rtt_us: u64,
    /// Whether we dialled.
    pub dialled: bool,
}

/// Which calls to list.
#[derive(Debug, Clone, Default)]
pub struct CallFilter {
    /// Only calls for this node.
    pub node: Option<NodeId>,
    /// Only calls in this state. [`CallStateFilter::Queued`] is everything that has not started.
    pub state: Option<CallStateFilter>,
}

/// See [`CallFilter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStateFilter {
    /// Exactly this one.
    Is(CallState),
    /// Accepted, queued or dispatched.
    Queued,
    /// Any ending.
    Ended,
    /// No ending yet.
    Open,
}

impl CallStateFilter {
    /// Whether a call in `state` passes.
    #[must_use]
    pub fn passes(self, state: CallState) -> bool {
        use mesh_core::frame::Phase;
        match self {
            Self::Is(wanted) => wanted == state,
            Self::Queued => matches!(state, CallState::Open(Phase::Accepted | Phase::Queued | Phase::Dispatched)),
            Self::Ended => matches!(state, CallState::Ended(_)),
            Self::Open => matches!(state, CallState::Open(_)),
        }
    }

    /// Reads the word that people use: `queued`, `open`, `ended`, or a state's own name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        use mesh_core::frame::Phase;
        Some(match word {
            "queued" => Self::Queued,
            "open" => Self::Open,
            "ended" => Self::Ended,
            "accepted" => Self::Is(CallState::Open(Phase::Accepted)),
            "dispatched" => Self::Is(CallState::Open(Phase::Dispatched)),
            "running" => Self::Is(CallState::Open(Phase::Running)),
            "done" => Self::Is(CallState::Ended(Ending::Done)),
            "failed" => Self::Is(CallState::Ended(Ending::Failed)),
            "interrupted" => Self::Is(CallState::Ended(Ending::Interrupted)),
            "expired" => Self::Is(CallState::Ended(Ending::Expired)),
            "cancelled" => Self::Is(CallState::Ended(Ending::Cancelled)),
            "denied" => Self::Is(CallState::Ended(Ending::Denied)),
            "undeliverable" => Self::Is(CallState::Ended(Ending::Undeliverable)),
            _ => return None,
        })
    }
}

/// Where a page of calls begins: wall time of acceptance and id of the last one shown; newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallCursor {
    /// Wall time of acceptance.
    pub accepted_ms: u64,
    /// The call.
    pub id: ReqId,
}

/// A page of calls, newest first.
#[derive(Debug, Clone)]
pub struct CallPage {
    /// The calls.
    pub items: Vec<CallRecord>,
    /// Where the next page begins.
    pub next: Option<CallCursor>,
}

/// One thing that happened, numbered so that a client can resume.
#[derive(Debug, Clone)]
pub struct Event {
    /// Rises by one; starts anew with the process.
    pub id: u64,
    /// Wall time.
    pub at_ms: u64,
    /// What.
    pub what: EventKind,
}

/// See [`Event`].
#[derive(Debug, Clone)]
pub enum EventKind {
    /// Who leads has changed: peer and counter of the epoch.
    Gateway(Option<(PeerId, u64)>),
    /// Nodes, links or tiers have changed.
    Nodes,
    /// A call has changed.
    Call(ReqId, HistoryRow),
    /// The list of pending devices has changed.
    Pending,
    /// The list of nearby devices has changed.
    Nearby,
    /// Something asks for attention.
    Warning(String),
}

/// How many events are kept for clients that resume.
pub const EVENTS_KEPT: usize = 4096;

/// The newest [`EVENTS_KEPT`] events, and a live feed of them.
#[derive(Debug)]
pub struct EventLog {
    kept: Mutex<(u64, VecDeque<Arc<Event>>)>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { kept: Mutex::default(), live: broadcast::channel(1024).0 }
    }
}

impl EventLog {
    /// Adds an event and tells whoever listens.
    pub fn push(&self, at_ms: u64, what: EventKind) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 += 1;
        let event = Arc::new(Event { id: kept.0, at_ms, what });
        kept.1.push_back(event.clone());
        if kept.1.len() > EVENTS_KEPT {
            kept.1.pop_front();
        }
        // Nobody listening is fine. Sent under the lock, so that a subscriber sees no gap and no double.
        let _ = self.live.send(event);
    }

    /// Number of the newest event, 0 before the first: with [`Self::since`] the place to begin without a gap.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Events after `after` that are still kept, and the feed of what follows them. `None` in place of the list when
    /// some after `after` are gone (the client must start over).
    #[must_use]
    pub fn since(&self, after: Option<u64>) -> (Option<Vec<Arc<Event>>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        let Some(after) = after else { return (Some(Vec::new()), live) };
        let oldest = kept.1.front().map_or(kept.0 + 1, |event| event.id);
        let old = (after + 1 >= oldest && after <= kept.0)
            .then(|| kept.1.iter().filter(|event| event.id > after).cloned().collect());
        (old, live)
    }
}

/// What the name asks of the actor.
#[derive(Debug)]
pub(crate) enum Request {
    Command(Command, oneshot::Sender<Reply>),
    Call(ReqId, oneshot::Sender<Result<Option<CallRecord>, MeshError>>),
    /// Answered when the call has ended; at once when there is no such call.
    Ended(ReqId, oneshot::Sender<Result<Option<CallRecord>, MeshError>>),
    Calls(CallFilter, Option<CallCursor>, usize, oneshot::Sender<Result<CallPage, MeshError>>),
    Invite(Tier, Duration, oneshot::Sender<Result<Invite, MeshError>>),
    Join(JoinTarget, bool, oneshot::Sender<Result<Joined, MeshError>>),
    Leave(oneshot::Sender<Result<(), MeshError>>),
    Admit(PeerId, Option<Tier>, Option<NodeId>, oneshot::Sender<Result<NodeId, MeshError>>),
    Reject(PeerId, oneshot::Sender<Result<(), MeshError>>),
    SetTools(Vec<ToolDecl>),
    Want(Hash, u64, PeerId),
}

/// What the actor publishes besides [`View`].
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Links with their addresses.
    pub links: Vec<LinkInfo>,
    /// Strangers on the LAN.
    pub nearby: Vec<Nearby>,
    /// Who awaits approval.
    pub pending: Vec<Pending>,
    /// Why LAN discovery does not work, if it does not.
    pub discovery_trouble: Option<String>,
    /// Calls without an ending that this peer knows of.
    pub open_calls: usize,
    /// The device that we ask to let us join, if any.
    pub asking_to_join: Option<PeerId>,
}

/// The bytes of a result.
#[derive(Debug, Clone)]
pub enum ResultBody {
    /// Small.
    Inline(Bytes),
    /// In a file of the blob store.
    File {
        /// Where.
        path: PathBuf,
        /// Bytes.
        len: u64,
    },
}

/// The mesh, for everyone above it. Cheap to clone; every method may be called from any task.
#[derive(Debug, Clone)]
pub struct MeshHandle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) surroundings: watch::Receiver<Arc<Surroundings>>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) blobs: BlobStore,
}

impl MeshHandle {
    /// The mesh as this peer sees it now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The view as it changes.
    #[must_use]
    pub fn watch_view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Links, strangers, newcomers.
    #[must_use]
    pub fn surroundings(&self) -> Arc<Surroundings> {
        self.surroundings.borrow().clone()
    }

    /// What happened and happens.
    #[must_use]
    pub fn events(&self) -> Arc<EventLog> {
        self.events.clone()
    }

    /// Where large payloads are.
    #[must_use]
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, MeshError> {
        let (tx, rx) = oneshot::channel();
        self.requests.send(request(tx)).await.map_err(|_| MeshError::Stopping)?;
        // Gone unanswered while the actor lives: with the mesh that it was asked in.
        rx.await.map_err(|_| if self.requests.is_closed() { MeshError::Stopping } else { MeshError::Moved })
    }

    /// Runs a command of the core. A refusal is an error.
    pub async fn command(&self, command: Command) -> Result<Reply, MeshError> {
        let reply = self.ask(|tx| Request::Command(command, tx)).await?;
        if let Reply::Refused(refusal) = reply { Err(refusal.into()) } else { Ok(reply) }
    }

    /// One call as this peer knows it.
    pub async fn call(&self, id: ReqId) -> Result<Option<CallRecord>, MeshError> {
        self.ask(|tx| Request::Call(id, tx)).await?
    }

    /// A page of calls, newest first; `limit` at most 200.
    pub async fn calls(
        &self,
        filter: CallFilter,
        after: Option<CallCursor>,
        limit: usize,
    ) -> Result<CallPage, MeshError> {
        self.ask(|tx| Request::Calls(filter, after, limit.min(200), tx)).await?
    }

    /// Waits until the call has an ending (confirmed or not), at most for `wait`; then its state of that moment.
    pub async fn wait_call(&self, id: ReqId, wait: Duration) -> Result<Option<CallRecord>, MeshError> {
        match tokio::time::timeout(wait, self.ask(|tx| Request::Ended(id, tx))).await {
            Ok(call) => call?,
            Err(_) => self.call(id).await,
        }
    }

    /// Makes a single-use invite.
    pub async fn invite(&self, tier: Tier, ttl: Duration) -> Result<Invite, MeshError> {
        self.ask(|tx| Request::Invite(tier, ttl, tx)).await?
    }

    /// Joins another mesh. `force` = even when that means leaving a mesh of several.
    pub async fn join(&self, target: JoinTarget, force: bool) -> Result<Joined, MeshError> {
        self.ask(|tx| Request::Join(target, force, tx)).await?
    }

    /// Leaves the mesh and founds one of its own.
    pub async fn leave(&self) -> Result<(), MeshError> {
        self.ask(Request::Leave).await?
    }

    /// Says yes to someone pending. Defaults: tier shared, the name it asks for. Answers the name that it got.
    pub async fn admit(&self, peer: PeerId, tier: Option<Tier>, node_id: Option<NodeId>) -> Result<NodeId, MeshError> {
        self.ask(|tx| Request::Admit(peer, tier, node_id, tx)).await?
    }

    /// Says no to someone pending.
    pub async fn reject(&self, peer: PeerId) -> Result<(), MeshError> {
        self.ask(|tx| Request::Reject(peer, tx)).await?
    }

    /// What this device offers has changed.
    pub async fn set_tools(&self, tools: Vec<ToolDecl>) -> Result<(), MeshError> {
        self.requests.send(Request::SetTools(tools)).await.map_err(|_| MeshError::Stopping)
    }

    /// The output of a call: inline, or the file it was fetched into (waits up to 30 s for a fetch under way).
    pub async fn result(&self, call: &CallRecord) -> Result<ResultBody, MeshError> {
        match &call.output {
            Payload::Inline(bytes) => Ok(ResultBody::Inline(bytes.clone())),
            Payload::Blob { hash, len } => {
                let (path, len) = (self.blobs.path(*hash), *len);
                if !self.blobs.has(*hash) {
                    let want = Request::Want(*hash, len, call.header.target);
                    self.requests.send(want).await.map_err(|_| MeshError::Stopping)?;
                }
                if self.blobs.wait_for(*hash, Duration::from_secs(30)).await {
                    Ok(ResultBody::File { path, len })
                } else {
                    Err(MeshError::ResultAway { node: call.header.node_id.clone() })
                }
            }
        }
    }

    /// Keeps arguments for a call: inline when small, else in the blob store.
    pub async fn keep(&self, bytes: Bytes) -> Result<Payload, MeshError> {
        if bytes.len() <= mesh_core::limits::INLINE_BYTES_MAX {
            return Ok(Payload::Inline(bytes));
        }
        let (hash, len) = (Hash::of(&bytes), bytes.len() as u64);
        self.blobs.put(hash, bytes).await.map_err(|error| MeshError::Store(error.to_string()))?;
        Ok(Payload::Blob { hash, len })
    }
}
