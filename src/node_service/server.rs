//! `NodeService`, the gateway side: one registered stream per node, over which calls go out and answers come back. The
//! contract is `proto/sigil/v1/node.proto`.
//!
//! A task per stream reads it and hands what it reads to the core; sending never waits. The last registration under a
//! key counts: the stream before is ended at once, and its late goodbye names its own, older session number.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use mesh_core::crypto::Verifier;
use mesh_core::entry::Kind;
use mesh_core::frame::{Answer, AnswerKind, Dispatch, Frame};
use mesh_core::ids::{InvalidId, NodeId, PeerId, ReqId, ToolName};
use mesh_core::io::{Input, SessionId, View};
use mesh_core::limits;
use mesh_core::record::{Header, Outcome, Payload, Tier};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::mesh::NodeLinks;
use crate::mesh::pace::Pace;
use crate::mesh::transport::wire::{
    attempt_from_pb, claim_from_pb, claim_to_pb, entry_from_pb, entry_to_pb, item_to_pb,
};
use crate::node_service::read_pace::Paces;
pub use crate::node_service::stream::ProvenPeer;
use crate::node_service::stream::{
    ConvertError, FrameQueue, Guarded, Line, MESSAGE_BYTES_MAX, Outgoing, REGISTER_WITHIN, WINDOW_BYTES, cut, queue,
};
use crate::pb;
use crate::pb::call_answer::What;
use crate::pb::gateway_message::Msg as ToNode;
use crate::pb::node_message::Msg as FromNode;
use crate::pb::node_service_server::{NodeService, NodeServiceServer};
use crate::status::{ErrorCode, OpError};
use crate::tasks::TaskGroup;

/// Longest platform and version that a node may show, in bytes.
const WORD_BYTES_MAX: usize = 64;
/// Capabilities that a node may show.
const CAPABILITIES_MAX: usize = 64;
/// Messages in a second that are taken of a node whose device is no owner, and at once after a pause: more than its tools
/// answer, and so few that others' calls keep their speed.
const GUEST_MESSAGES_PER_S: u64 = 1_000;
const GUEST_MESSAGES_AHEAD: u64 = 200;
/// Time for the last messages on a stream before its connection is cut.
const LINGER: Duration = Duration::from_secs(1);

/// Starts the gateway side. It runs on every peer, and refuses registrations while the peer does not lead.
#[derive(Debug)]
pub struct NodeServer;

impl NodeServer {
    /// Serves every stream that comes out of `streams`.
    ///
    /// `view` says who is approved under which name, and who leads; it must show that we lead no more *before*
    /// [`NodeLinks::abdicate`] is called.
    ///
    /// `inputs` gets, in order for each node, `NodeUp`, its answers and `NodeDown`; reading waits while it is full. An
    /// outcome in an answer is signed by that node, and about that call and attempt. An older session of a node is over
    /// with a newer `NodeUp`, whenever its own `NodeDown` comes. Streams end when the receiver of `inputs` is dropped.
    pub fn start<IO>(
        streams: mpsc::Receiver<IO>,
        view: watch::Receiver<Arc<View>>,
        verifier: Arc<dyn Verifier + Send + Sync>,
        inputs: mpsc::Sender<Input>,
        tasks: &TaskGroup,
    ) -> NodeServerHandle
    where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IO::ConnectInfo: ProvenPeer,
    {
        Self::start_within(REGISTER_WITHIN, streams, view, verifier, inputs, tasks)
    }

    fn start_within<IO>(
        register_within: Duration,
        streams: mpsc::Receiver<IO>,
        view: watch::Receiver<Arc<View>>,
        verifier: Arc<dyn Verifier + Send + Sync>,
        inputs: mpsc::Sender<Input>,
        tasks: &TaskGroup,
    ) -> NodeServerHandle
    where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IO::ConnectInfo: ProvenPeer,
    {
        let shared = Arc::new(ServerState {
            register_within,
            view,
            verifier,
            inputs,
            tasks: tasks.clone(),
            sessions: Mutex::default(),
            paces: Paces::default(),
            last_session: AtomicU64::new(0),
        });
        let watchdogs = shared.clone();
        let incoming = ReceiverStream::new(streams).map(move |io| {
            let peer = io.connect_info().peer();
            let asked = watchdogs.clone();
            let pace = watchdogs.paces.of(peer, move || !asked.is_owner(peer));
            let io = Guarded::paced(io, peer, pace);
            let line = io.line();
            let watchdog = watchdogs.clone();
            watchdogs.tasks.spawn(async move { watchdog.cut_if_idle(&line, register_within).await });
            Ok::<_, io::Error>(io)
        });
        let service = NodeServiceServer::new(Service(shared.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let server = Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_concurrent_streams(4)
            .add_service(service);
        let stopping = tasks.stopping();
        tasks.spawn(async move {
            // Errors of single connections end those connections only.
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopping.cancelled()).await {
                tracing::error!(%error, "the node service ended");
            }
        });
        NodeServerHandle { shared }
    }
}

/// Sends to registered nodes. Nothing here waits.
#[derive(Debug, Clone)]
pub struct NodeServerHandle {
    shared: Arc<ServerState>,
}

impl NodeLinks for NodeServerHandle {
    /// A client without a journal of ours cannot promise to run a call at most once, so it gets none: its dispatches
    /// are answered with a refusal.
    fn dispatch(&self, node: PeerId, dispatch: &Dispatch) -> bool {
        let Some(session) = self.session(node) else { return false };
        if session.foreign {
            return self.shared.refuse_foreign(node, dispatch);
        }
        dispatch_to_pb(dispatch).is_some_and(|message| self.send(node, &session, message))
    }

    fn cancel(&self, node: PeerId, id: ReqId) -> bool {
        let message = to_node(ToNode::Cancel(pb::CallCancel { request_id: id.to_string() }));
        self.session(node).is_some_and(|session| self.send(node, &session, message))
    }

    /// Each stream still yields its `NodeDown`.
    fn abdicate(&self, moved_to: Option<PeerId>) {
        let sessions = std::mem::take(&mut *self.shared.sessions());
        for session in sessions.into_values() {
            session.push(moved(moved_to));
            session.end.cancel();
        }
    }

    /// The stream still yields its `NodeDown`.
    fn dismiss(&self, node: PeerId) {
        let session = self.shared.sessions().remove(&node);
        if let Some(session) = session {
            session.end_with(StreamEnd::NotApproved);
        }
    }
}

impl NodeServerHandle {
    fn session(&self, peer: PeerId) -> Option<Session> {
        self.shared.sessions().get(&peer).cloned()
    }

    fn send(&self, peer: PeerId, session: &Session, message: pb::GatewayMessage) -> bool {
        let sent = session.push(message);
        if !sent {
            metrics::counter!("sigil_node_queue_overflows_total").increment(1);
            self.shared.forget(peer, session.number);
            session.end.cancel();
        }
        sent
    }

    /// The nodes that are registered now.
    #[cfg(test)]
    fn registered(&self) -> BTreeSet<PeerId> {
        self.shared.sessions().keys().copied().collect()
    }
}

/// A reason for which a stream is ended; the node gets it as the status of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum StreamEnd {
    #[error("the link has proven no identity")]
    NoIdentity,
    #[error("no registration in time")]
    TooLate,
    #[error("the first message must be `register`")]
    NotRegistered,
    #[error("a stream registers once: open another")]
    RegisteredTwice,
    #[error("this device has registered anew")]
    Replaced,
    #[error("this device is not approved in this mesh")]
    NotApproved,
}

impl From<StreamEnd> for Status {
    fn from(end: StreamEnd) -> Self {
        let code = match end {
            StreamEnd::NoIdentity => ErrorCode::Unauthorized,
            StreamEnd::TooLate => ErrorCode::RequestTimeout,
            StreamEnd::NotRegistered | StreamEnd::RegisteredTwice => ErrorCode::BadRequest,
            StreamEnd::Replaced => ErrorCode::Replaced,
            StreamEnd::NotApproved => ErrorCode::NotMember,
        };
        OpError::new(code, end.to_string()).to_grpc()
    }
}

/// A reason for which a node may not register. The texts are for its user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
enum NotRegistered {
    #[error("not the gateway")]
    NotLeading { gateway: Option<PeerId> },
    #[error("this device is not approved in this mesh")]
    NotApproved,
    #[error("this device is known here as `{known}`, not as `{asked}`")]
    OtherName { known: NodeId, asked: NodeId },
    #[error(transparent)]
    Id(#[from] InvalidId),
    #[error("{0} tools are more than a node may declare, which is {max}", max = limits::TOOLS_MAX)]
    TooManyTools(usize),
    #[error("the tool `{0}` is declared twice")]
    ToolTwice(ToolName),
    #[error("{0} is too long")]
    TooLong(&'static str),
}

impl NotRegistered {
    fn hint(&self) -> &'static str {
        match self {
            Self::NotLeading { .. } => "register with the gateway; every peer knows who that is",
            Self::NotApproved => "approve it on an owner device: `sigil pending`, then `sigil approve`",
            Self::OtherName { .. } => "register under the name that this device was approved with",
            Self::Id(_) => "rename it in the configuration of this device",
            Self::TooManyTools(_) => "offer fewer tools",
            Self::ToolTwice(_) => "give every tool its own name",
            Self::TooLong(_) => "shorten it",
        }
    }
}

/// A registered stream.
#[derive(Debug, Clone)]
struct Session {
    number: SessionId,
    queue: FrameQueue<Result<pb::GatewayMessage, Status>>,
    /// True if the client knows only the contract's first fields: it shows no random number of its process.
    foreign: bool,
    end: CancellationToken,
}

impl Session {
    fn push(&self, message: pb::GatewayMessage) -> bool {
        let size = message.encoded_len();
        self.queue.push(Ok(message), size)
    }

    fn end_with(&self, reason: StreamEnd) {
        self.queue.push(Err(reason.into()), 0);
        self.end.cancel();
    }
}

struct ServerState {
    register_within: Duration,
    view: watch::Receiver<Arc<View>>,
    verifier: Arc<dyn Verifier + Send + Sync>,
    inputs: mpsc::Sender<Input>,
    tasks: TaskGroup,
    sessions: Mutex<BTreeMap<PeerId, Session>>,
    paces: Paces,
    last_session: AtomicU64,
}

impl std::fmt::Debug for ServerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeServer").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl ServerState {
    fn sessions(&self) -> MutexGuard<'_, BTreeMap<PeerId, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a node. The acknowledgement is queued before anyone can send on the new session.
    fn admit(
        &self,
        peer: PeerId,
        register: pb::NodeRegister,
        queue: &FrameQueue<Result<pb::GatewayMessage, Status>>,
    ) -> Result<Session, NotRegistered> {
        let asked: NodeId = register.node_id.parse()?;
        for (what, text) in [("the platform", &register.platform), ("the version", &register.version)] {
            if text.len() > WORD_BYTES_MAX {
                return Err(NotRegistered::TooLong(what));
            }
        }
        let longest = register.capabilities.iter().map(|(name, value)| name.len().max(value.len())).max();
        if register.capabilities.len() > CAPABILITIES_MAX || longest.unwrap_or(0) > limits::TEXT_BYTES_MAX {
            return Err(NotRegistered::TooLong("the list of capabilities"));
        }
        check_tools(register.tools)?;
        // Asked under the lock: an `abdicate` that comes after the view has changed misses nobody.
        let mut sessions = self.sessions();
        {
            let view = self.view.borrow();
            let gateway = view.gateway.map(|epoch| epoch.peer);
            let member = view.nodes.iter().find(|node| node.peer == peer).ok_or(NotRegistered::NotApproved)?;
            if gateway != Some(view.me) || view.revoked {
                return Err(NotRegistered::NotLeading { gateway: gateway.filter(|gateway| *gateway != view.me) });
            }
            if member.node_id != asked {
                return Err(NotRegistered::OtherName { known: member.node_id.clone(), asked });
            }
        }
        let session = Session {
            number: self.last_session.fetch_add(1, Ordering::Relaxed) + 1,
            queue: queue.clone(),
            foreign: register.session_nonce == 0,
            end: CancellationToken::new(),
        };
        session.push(ack(None));
        if let Some(old) = sessions.insert(peer, session.clone()) {
            old.end_with(StreamEnd::Replaced);
        }
        Ok(session)
    }

    /// Takes a session off the list, unless a newer one of that peer is there.
    fn forget(&self, peer: PeerId, number: SessionId) {
        let mut sessions = self.sessions();
        if sessions.get(&peer).is_some_and(|session| session.number == number) {
            sessions.remove(&peer);
        }
    }

    fn refuse_foreign(&self, peer: PeerId, dispatch: &Dispatch) -> bool {
        let Some(header) = dispatch.header.record::<Header>() else { return false };
        let reason = "this node speaks only the plain contract, and calls to such nodes are not supported yet";
        let what = AnswerKind::Rejected(reason.to_owned());
        let answer = Answer { id: header.id, attempt: dispatch.attempt, what };
        self.inputs.try_send(Input::Recv(peer, Frame::Answer(answer))).is_ok()
    }

    /// One stream, from its first message to its end.
    async fn serve(
        &self,
        line: Line,
        mut inbound: Streaming<pb::NodeMessage>,
        queue: FrameQueue<Result<pb::GatewayMessage, Status>>,
    ) {
        let status = match first_message(&mut inbound, self.register_within).await {
            Ok(register) => match self.admit(line.peer, register, &queue) {
                Ok(session) => self.registered(line.peer, &session, &mut inbound).await,
                Err(refusal) => {
                    tracing::debug!(peer = %line.peer.short(), %refusal, "registration refused");
                    queue.push(Ok(ack(Some(&refusal))), 0);
                    if let NotRegistered::NotLeading { gateway } = refusal {
                        queue.push(Ok(moved(gateway)), 0);
                    }
                    None
                }
            },
            Err(status) => Some(status),
        };
        if let Some(status) = status {
            queue.push(Err(status), 0);
        }
        // Ends the response, once what is queued has gone.
        drop((queue, inbound));
        line.calls.fetch_sub(1, Ordering::Relaxed);
        self.cut_if_idle(&line, LINGER).await;
    }

    /// Cuts a connection on which no call is under way after `wait`. When the peer stops, the server closes it.
    async fn cut_if_idle(&self, line: &Line, wait: Duration) {
        let stopping = self.tasks.stopping();
        tokio::select! {
            () = stopping.cancelled() => {}
            () = self.inputs.closed() => {}
            () = line.end.cancelled() => {}
            () = tokio::time::sleep(wait) => {
                if line.calls.load(Ordering::Relaxed) == 0 {
                    line.end.cancel();
                }
            }
        }
    }

    /// A registered stream, to its end. Returns the status to end it with.
    async fn registered(
        &self,
        peer: PeerId,
        session: &Session,
        inbound: &mut Streaming<pb::NodeMessage>,
    ) -> Option<Status> {
        let number = session.number;
        tracing::debug!(peer = %peer.short(), session = number, "node registered");
        let up = self.inputs.send(Input::NodeUp(peer, number)).await;
        let status = if up.is_ok() { self.read(peer, session, inbound).await } else { None };
        self.forget(peer, number);
        // Nobody to tell = the peer is going down.
        let _ = self.inputs.send(Input::NodeDown(peer, number)).await;
        status
    }

    /// True if this peer is an owner.
    fn is_owner(&self, peer: PeerId) -> bool {
        self.view.borrow().by_peer(&peer).is_some_and(|node| node.tier == Tier::Owner)
    }

    async fn read(&self, peer: PeerId, session: &Session, inbound: &mut Streaming<pb::NodeMessage>) -> Option<Status> {
        let mut ended = std::pin::pin!(session.end.cancelled());
        let mut closed = std::pin::pin!(self.inputs.closed());
        let mut pace = Pace::new(GUEST_MESSAGES_PER_S, GUEST_MESSAGES_AHEAD);
        loop {
            let message = tokio::select! {
                biased;
                () = &mut ended => return None,
                () = &mut closed => return None,
                message = inbound.message() => message,
            };
            let message = match message {
                Ok(Some(message)) => message.msg,
                Ok(None) => return None,
                Err(status) => return Some(status),
            };
            if !self.is_owner(peer) {
                pace.wait(1).await;
            }
            let answer = match message {
                Some(FromNode::Register(_)) => return Some(StreamEnd::RegisteredTwice.into()),
                Some(FromNode::ToolResult(result)) => result_from_pb(result, peer, self.verifier.as_ref()),
                Some(FromNode::Answer(answer)) => answer_from_pb(answer, self.verifier.as_ref()),
                // A node's tools are in its signed directory record; other kinds this version does not know.
                Some(FromNode::Status(_)) | None => continue,
            };
            match answer {
                Ok(answer) => {
                    if self.inputs.send(Input::Recv(peer, Frame::Answer(answer))).await.is_err() {
                        return None;
                    }
                }
                // Dropped and counted: one bad message must not cost the node its other calls.
                Err(error) => {
                    metrics::counter!("sigil_node_messages_refused_total", "side" => "gateway").increment(1);
                    tracing::debug!(peer = %peer.short(), %error, "a node's message was dropped");
                }
            }
        }
    }
}

struct Service(Arc<ServerState>);

#[tonic::async_trait]
impl NodeService for Service {
    type ConnectStream = Outgoing<Result<pb::GatewayMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::NodeMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let Some(line) = request.extensions().get::<Line>().cloned() else {
            return Err(StreamEnd::NoIdentity.into());
        };
        let (queue, outgoing) = queue();
        let shared = self.0.clone();
        line.calls.fetch_add(1, Ordering::Relaxed);
        self.0.tasks.spawn(async move { shared.serve(line, request.into_inner(), queue).await });
        Ok(Response::new(outgoing))
    }
}

async fn first_message(inbound: &mut Streaming<pb::NodeMessage>, within: Duration) -> Result<pb::NodeRegister, Status> {
    let message = timeout(within, inbound.message()).await.map_err(|_| StreamEnd::TooLate)??;
    match message.and_then(|message| message.msg) {
        Some(FromNode::Register(register)) => Ok(register),
        Some(FromNode::ToolResult(_) | FromNode::Status(_) | FromNode::Answer(_)) | None => {
            Err(StreamEnd::NotRegistered.into())
        }
    }
}

/// Checks the names of declared tools.
fn check_tools(names: Vec<String>) -> Result<(), NotRegistered> {
    if names.len() > limits::TOOLS_MAX {
        return Err(NotRegistered::TooManyTools(names.len()));
    }
    let mut seen = BTreeSet::new();
    for name in names {
        let tool: ToolName = name.parse()?;
        if !seen.insert(tool.clone()) {
            return Err(NotRegistered::ToolTwice(tool));
        }
    }
    Ok(())
}

fn ack(refusal: Option<&NotRegistered>) -> pb::GatewayMessage {
    to_node(ToNode::RegisterAck(pb::RegisterAck {
        accepted: refusal.is_none(),
        error: refusal.map(ToString::to_string).unwrap_or_default(),
        hint: refusal.map(NotRegistered::hint).unwrap_or_default().to_owned(),
    }))
}

fn moved(gateway: Option<PeerId>) -> pb::GatewayMessage {
    to_node(ToNode::Moved(pb::Moved { gateway: gateway.map(|peer| peer.0.to_vec()).unwrap_or_default().into() }))
}

fn to_node(msg: ToNode) -> pb::GatewayMessage {
    pb::GatewayMessage { msg: Some(msg) }
}

/// The request, with the contract's own fields filled from the header. `None` when the header holds no call.
fn dispatch_to_pb(dispatch: &Dispatch) -> Option<pb::GatewayMessage> {
    let header: Header = dispatch.header.record()?;
    let arguments = match &header.arguments {
        Payload::Inline(bytes) => std::str::from_utf8(bytes).unwrap_or_default().to_owned(),
        Payload::Blob { .. } => String::new(),
    };
    Some(to_node(ToNode::ToolExecute(pb::ToolExecuteRequest {
        request_id: header.id.to_string(),
        tool_name: header.tool.into(),
        arguments,
        timeout_seconds: i32::try_from(header.timeout_ms.div_ceil(1000)).unwrap_or(i32::MAX),
        header: Some(entry_to_pb(&dispatch.header)),
        attempt: u32::from(dispatch.attempt),
        claim: Some(claim_to_pb(&dispatch.claim)),
        left_ms: dispatch.left_ms,
        consents: dispatch.consents.iter().map(item_to_pb).collect(),
    })))
}

/// A result with its signed outcome, from the peer that ran the call. A result without one, from a client that knows
/// only the contract's first fields, proves nothing to other peers and ends no call.
fn result_from_pb(result: pb::ToolResult, peer: PeerId, verifier: &dyn Verifier) -> Result<Answer, ConvertError> {
    let id: ReqId = result.request_id.parse()?;
    let outcome = result.outcome.ok_or(ConvertError::Missing("the signed outcome"))?;
    let attempt = attempt_from_pb(result.attempt)?;
    let entry = entry_from_pb(&outcome, verifier)?;
    if entry.author != peer {
        return Err(ConvertError::Author("the outcome"));
    }
    if entry.entry.kind != Kind::OUTCOME {
        return Err(ConvertError::Malformed("the outcome"));
    }
    let outcome: Outcome = entry.record().ok_or(ConvertError::Malformed("the outcome"))?;
    if outcome.id != id || outcome.attempt != attempt {
        return Err(ConvertError::Mismatch("the outcome"));
    }
    Ok(Answer { id, attempt, what: AnswerKind::Ended(entry) })
}

/// Anything short of a result.
fn answer_from_pb(answer: pb::CallAnswer, verifier: &dyn Verifier) -> Result<Answer, ConvertError> {
    let what = match answer.what.ok_or(ConvertError::Missing("what"))? {
        What::Waiting(_) => AnswerKind::Waiting,
        What::Running(running) => AnswerKind::Running { note: cut(running.note) },
        What::Lacking(_) => AnswerKind::Lacking,
        What::Asking(_) => AnswerKind::Asking,
        What::Busy(_) => AnswerKind::Busy,
        What::Fenced(fenced) => {
            AnswerKind::Fenced(fenced.proof.map(|proof| claim_from_pb(proof, verifier)).transpose()?)
        }
        What::Refused(reason) => AnswerKind::Rejected(cut(reason)),
    };
    Ok(Answer { id: answer.request_id.parse()?, attempt: attempt_from_pb(answer.attempt)?, what })
}

#[cfg(test)]
mod tests;
