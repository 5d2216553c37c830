//! `NodeService`, the node side: exactly one registered stream to the gateway of the moment.
//!
//! One task dials, registers, hands what it reads to the core, and dials again. Answers go straight into the stream's
//! queue, without passing it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_core::crypto::Verifier;
use mesh_core::entry::{Kind, SignedEntry};
use mesh_core::epoch::Claim;
use mesh_core::frame::{Answer, AnswerKind, Dispatch, Frame};
use mesh_core::ids::{Attempt, NodeId, PeerId, ReqId};
use mesh_core::io::{Input, View};
use mesh_core::limits;
use mesh_core::record::{Ending, Header, Outcome, Payload};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

use crate::mesh::GatewayLink;
use crate::mesh::transport::wire::{
    attempt_from_pb, claim_from_pb, claim_to_pb, entry_from_pb, entry_to_pb, items_from_pb,
};
use crate::node_service::stream::{
    ConvertError, FrameQueue, Guarded, MESSAGE_BYTES_MAX, REGISTER_WITHIN, WINDOW_BYTES, cut, queue,
};
use crate::pb;
use crate::pb::call_answer::What;
use crate::pb::gateway_message::Msg as FromGateway;
use crate::pb::node_message::Msg as ToGateway;
use crate::pb::node_service_client::NodeServiceClient;
use crate::tasks::TaskGroup;

/// First pause before the same gateway is tried again.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest such pause.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Time to open a byte stream over a link that is there.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// Starts the node side.
#[derive(Debug)]
pub struct NodeClient;

impl NodeClient {
    /// Keeps one registered stream to the gateway that `view` shows, as the node that it shows; none while there is no
    /// gateway, or it is this peer.
    ///
    /// `open` opens a byte stream to a peer over its link. `nonce` is random per process, and never 0. `inputs` gets
    /// the gateway's dispatches, with header and claim checked and the claim its own, and its cancels; reading waits
    /// while it is full: the gateway's queue is where calls should wait. Ends when the receiver of `inputs` is dropped,
    /// and opens no stream any more once the tasks are told to stop.
    pub fn start<Open, Opening, IO>(
        view: watch::Receiver<Arc<View>>,
        open: Open,
        nonce: u64,
        verifier: Arc<dyn Verifier + Send + Sync>,
        inputs: mpsc::Sender<Input>,
        tasks: &TaskGroup,
    ) -> NodeClientHandle
    where
        Open: Fn(PeerId) -> Opening + Send + Sync + 'static,
        Opening: Future<Output = io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handle = NodeClientHandle { registered: Arc::default(), retry: Arc::default() };
        let stopping = tasks.stopping();
        let worker = Worker { view, open, nonce, verifier, inputs, stopping, handle: handle.clone() };
        tasks.spawn(worker.run());
        handle
    }
}

/// Answers to the gateway. Nothing here waits.
#[derive(Debug, Clone)]
pub struct NodeClientHandle {
    /// The registered stream, if there is one.
    registered: Arc<watch::Sender<Option<Stream>>>,
    retry: Arc<Notify>,
}

#[derive(Debug, Clone)]
struct Stream {
    gateway: PeerId,
    queue: FrameQueue<pb::NodeMessage>,
    end: CancellationToken,
}

impl Stream {
    fn push(&self, message: pb::NodeMessage) -> bool {
        let size = message.encoded_len();
        let sent = self.queue.push(message, size);
        if !sent {
            // Too slow a reader: a new stream starts with an empty queue, and the gateway asks again for what it
            // misses.
            self.end.cancel();
        }
        sent
    }
}

impl GatewayLink for NodeClientHandle {
    fn answer(&self, gateway: PeerId, answer: Answer) -> bool {
        let stream = self.registered.borrow().clone();
        let stream = stream.filter(|stream| stream.gateway == gateway);
        stream.is_some_and(|stream| stream.push(answer_to_pb(answer)))
    }

    fn retry_now(&self) {
        self.retry.notify_one();
    }
}

#[cfg(test)]
impl NodeClientHandle {
    /// Waits until this is the gateway that we are registered with.
    pub(super) async fn registered_with(&self, gateway: Option<PeerId>) {
        let mut registered = self.registered.subscribe();
        let is = |stream: &Option<Stream>| stream.as_ref().map(|stream| stream.gateway) == gateway;
        registered.wait_for(is).await.expect("the sender is in our hands");
    }
}

/// A reason for which an attempt at a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("opening a stream to the gateway")]
    Open(#[source] io::Error),
    #[error("the gateway does not answer")]
    Silent,
    #[error("connecting over the stream")]
    Connect(#[source] tonic::transport::Error),
    #[error("the gateway ended the stream: {0}")]
    Status(Status),
    #[error("the gateway ended the stream")]
    Closed,
    #[error("the gateway refused: {0}")]
    Refused(String),
    #[error("our own name has changed, or the queue was full")]
    Restart,
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

struct Worker<Open> {
    view: watch::Receiver<Arc<View>>,
    open: Open,
    nonce: u64,
    verifier: Arc<dyn Verifier + Send + Sync>,
    inputs: mpsc::Sender<Input>,
    stopping: CancellationToken,
    handle: NodeClientHandle,
}

impl<Open, Opening, IO> Worker<Open>
where
    Open: Fn(PeerId) -> Opening + Send + Sync,
    Opening: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    async fn run(self) {
        let mut views = self.view.clone();
        let mut pause = BACKOFF_MIN;
        while !self.stopping.is_cancelled() {
            let gateway = gateway_of(&views.borrow_and_update());
            let began = Instant::now();
            if let Some(gateway) = gateway {
                let mut changes = views.clone();
                tokio::select! {
                    biased;
                    () = self.inputs.closed() => {}
                    _ = changes.wait_for(|view| gateway_of(view) != Some(gateway)) => {}
                    ended = self.session(gateway) => {
                        tracing::debug!(gateway = %gateway.short(), error = %ended, "no node stream");
                    }
                }
                self.handle.registered.send_replace(None);
            }
            if began.elapsed() > BACKOFF_MAX {
                pause = BACKOFF_MIN;
            }
            let wait = async {
                match gateway {
                    Some(_) => tokio::time::sleep(jittered(pause)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.inputs.closed() => return,
                () = self.stopping.cancelled() => return,
                changed = views.wait_for(|view| gateway_of(view) != gateway) => {
                    if changed.is_err() {
                        return;
                    }
                    pause = BACKOFF_MIN;
                }
                () = self.handle.retry.notified() => pause = BACKOFF_MIN,
                () = wait => pause = (pause * 2).min(BACKOFF_MAX),
            }
        }
    }

    /// One stream, from dialling to its end.
    async fn session(&self, gateway: PeerId) -> Ended {
        match self.try_session(gateway).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_session(&self, gateway: PeerId) -> Result<Infallible, Ended> {
        let opened = timeout(OPEN_WITHIN, (self.open)(gateway)).await.map_err(|_| Ended::Silent)?;
        let io = Guarded::new(opened.map_err(Ended::Open)?, gateway);
        let end = io.line().end;
        // Whatever way this ends, the bytes stop.
        let _cut = end.clone().drop_guard();
        let (queue, outgoing) = queue();
        let stream = Stream { gateway, queue, end };

        let view = self.view.borrow().clone();
        stream.push(register(&view, self.nonce));
        let (mut inbound, ack) = timeout(REGISTER_WITHIN, async {
            let channel = connect(io).await?;
            let mut client = NodeServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let mut inbound = client.connect(outgoing).await?.into_inner();
            let ack = inbound.message().await?.and_then(|message| message.msg);
            Ok::<_, Ended>((inbound, ack))
        })
        .await
        .map_err(|_| Ended::Silent)??;
        let Some(FromGateway::RegisterAck(ack)) = ack else { return Err(Ended::Closed) };
        if !ack.accepted {
            let (error, hint) = (cut(ack.error), cut(ack.hint));
            tracing::info!(gateway = %gateway.short(), error, hint, "the gateway does not take this node");
            return Err(Ended::Refused(error));
        }
        self.handle.registered.send_replace(Some(stream.clone()));
        self.read(&stream, &mut inbound, &view.node_id).await
    }

    /// A registered stream, to its end.
    async fn read(
        &self,
        stream: &Stream,
        inbound: &mut Streaming<pb::GatewayMessage>,
        registered_as: &NodeId,
    ) -> Result<Infallible, Ended> {
        let gateway = stream.gateway;
        let mut known = None;
        let mut views = self.view.clone();
        let mut renamed = std::pin::pin!(views.wait_for(|view| view.node_id != *registered_as));
        let mut cut = std::pin::pin!(stream.end.cancelled());
        loop {
            let message = tokio::select! {
                biased;
                () = &mut cut => return Err(Ended::Restart),
                _ = &mut renamed => return Err(Ended::Restart),
                message = inbound.message() => message?.ok_or(Ended::Closed)?,
            };
            let Some(message) = message.msg else { continue };
            match self.frame(stream, message, &mut known) {
                Ok(Some(frame)) => self.inputs.send(Input::Recv(gateway, frame)).await.map_err(|_| Ended::Closed)?,
                Ok(None) => {}
                Err(error) => {
                    metrics::counter!("sigil_node_messages_refused_total", "side" => "node").increment(1);
                    tracing::debug!(gateway = %gateway.short(), %error, "a message of the gateway was dropped");
                }
            }
        }
    }

    /// A message as a frame, if it is one for the core. A dispatch that will not do is answered here.
    fn frame(
        &self,
        stream: &Stream,
        message: FromGateway,
        known: &mut KnownClaim,
    ) -> Result<Option<Frame>, ConvertError> {
        match message {
            FromGateway::ToolExecute(request) => {
                let (id, attempt) = (request.request_id.clone(), request.attempt);
                match dispatch_from_pb(request, stream.gateway, known, self.verifier.as_ref()) {
                    Ok(dispatch) => Ok(Some(Frame::Dispatch(dispatch))),
                    Err(error) => {
                        // An id that is none cannot be answered.
                        if let Ok(id) = id.parse() {
                            let attempt = u8::try_from(attempt).unwrap_or_default().max(1);
                            let what = AnswerKind::Rejected(error.to_string());
                            stream.push(answer_to_pb(Answer { id, attempt, what }));
                        }
                        Err(error)
                    }
                }
            }
            FromGateway::Cancel(cancel) => Ok(Some(Frame::Cancel { id: cancel.request_id.parse()? })),
            // A hint, proven by nothing: the election tells where to go.
            FromGateway::Moved(_) | FromGateway::RegisterAck(_) => Ok(None),
        }
    }
}

/// The gateway to register with: none if there is none, or it is this peer.
fn gateway_of(view: &View) -> Option<PeerId> {
    view.gateway.map(|epoch| epoch.peer).filter(|peer| *peer != view.me)
}

/// HTTP/2 over one byte stream.
async fn connect<IO>(io: Guarded<IO>) -> Result<tonic::transport::Channel, Ended>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Some(TokioIo::new(io));
    Endpoint::from_static("http://sigil")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .buffer_size(1)
        // The byte stream is there already; a second one must come from a new session.
        .connect_with_connector(tower::service_fn(move |_| {
            std::future::ready(io.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
        }))
        .await
        .map_err(Ended::Connect)
}

/// Registration of this peer, with the tools that its directory record lists.
pub(super) fn register(view: &View, nonce: u64) -> pb::NodeMessage {
    let own = view.nodes.iter().find(|node| node.peer == view.me).and_then(|node| node.directory.as_ref());
    pb::NodeMessage {
        msg: Some(ToGateway::Register(pb::NodeRegister {
            node_id: view.node_id.to_string(),
            platform: crate::platform::name().to_owned(),
            tools: own.into_iter().flat_map(|own| &own.tools).map(|tool| tool.name.to_string()).collect(),
            capabilities: HashMap::new(),
            session_nonce: nonce,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })),
    }
}

/// Between half of `pause` and all of it, so that the nodes of a fallen gateway do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    pause.mul_f64(0.5 + f64::from(random as u16) / 1024.0)
}

fn to_gateway(msg: ToGateway) -> pb::NodeMessage {
    pb::NodeMessage { msg: Some(msg) }
}

/// A claim that has been checked: a leader's comes with each of its calls, and only the first time is worth a signature
/// check (about 50 µs).
pub(super) type KnownClaim = Option<(pb::Claim, Claim)>;

fn checked_claim(claim: pb::Claim, known: &mut KnownClaim, verifier: &dyn Verifier) -> Result<Claim, ConvertError> {
    if let Some((_, checked)) = known.as_ref().filter(|(seen, _)| *seen == claim) {
        return Ok(checked.clone());
    }
    let checked = claim_from_pb(claim.clone(), verifier)?;
    *known = Some((claim, checked.clone()));
    Ok(checked)
}

/// A request of `gateway`, checked. What runs is what the origin signed; the contract's text fields are not looked at.
pub(super) fn dispatch_from_pb(
    request: pb::ToolExecuteRequest,
    gateway: PeerId,
    known: &mut KnownClaim,
    verifier: &dyn Verifier,
) -> Result<Dispatch, ConvertError> {
    let id: ReqId = request.request_id.parse()?;
    let claim = checked_claim(request.claim.ok_or(ConvertError::Missing("the claim"))?, known, verifier)?;
    if claim.epoch.peer != gateway {
        return Err(ConvertError::Author("the claim"));
    }
    let header = entry_from_pb(&request.header.ok_or(ConvertError::Missing("the signed header"))?, verifier)?;
    if header.entry.kind != Kind::CALL {
        return Err(ConvertError::Malformed("the header"));
    }
    let call: Header = header.record().ok_or(ConvertError::Malformed("the header"))?;
    if call.id != id {
        return Err(ConvertError::Mismatch("the header"));
    }
    let left_ms = request.left_ms.min(limits::TTL_MS_MAX);
    if request.consents.len() > limits::CONSENTS_OF_CALL_MAX {
        return Err(ConvertError::Malformed("what people said to it"));
    }
    let consents = items_from_pb(request.consents, verifier)?;
    if consents.iter().any(|item| item.entry.entry.kind != Kind::CONSENT) {
        return Err(ConvertError::Malformed("what people said to it"));
    }
    Ok(Dispatch { claim, header, attempt: attempt_from_pb(request.attempt)?, left_ms, consents })
}

/// A node's answer about a call, for the gateway.
pub(super) fn answer_to_pb(answer: Answer) -> pb::NodeMessage {
    let what = match answer.what {
        AnswerKind::Ended(entry) => return result_to_pb(answer.id, answer.attempt, &entry),
        AnswerKind::Waiting => What::Waiting(pb::call_answer::Waiting {}),
        AnswerKind::Running { note } => What::Running(pb::call_answer::Running { note }),
        AnswerKind::Lacking => What::Lacking(pb::call_answer::Lacking {}),
        AnswerKind::Asking => What::Asking(pb::call_answer::Asking {}),
        AnswerKind::Busy => What::Busy(pb::call_answer::Busy {}),
        AnswerKind::Fenced(proof) => What::Fenced(pb::call_answer::Fenced { proof: proof.as_ref().map(claim_to_pb) }),
        AnswerKind::Rejected(reason) => What::Refused(reason),
    };
    to_gateway(ToGateway::Answer(pb::CallAnswer {
        request_id: answer.id.to_string(),
        attempt: u32::from(answer.attempt),
        what: Some(what),
    }))
}

fn result_to_pb(id: ReqId, attempt: Attempt, entry: &SignedEntry) -> pb::NodeMessage {
    // The contract's own fields, for whoever reads only those.
    let (output, error) = entry.record::<Outcome>().map_or_else(Default::default, |outcome| {
        let output = match outcome.output {
            Payload::Inline(bytes) => String::from_utf8(bytes.into()).unwrap_or_default(),
            Payload::Blob { .. } => String::new(),
        };
        let silent = outcome.error.is_empty() && outcome.ending != Ending::Done;
        let error = match outcome.reason {
            reason if silent && reason.is_empty() => outcome.ending.as_str().to_owned(),
            reason if silent => reason,
            _ => outcome.error,
        };
        (output, error)
    });
    to_gateway(ToGateway::ToolResult(pb::ToolResult {
        request_id: id.to_string(),
        output,
        error,
        attempt: u32::from(attempt),
        outcome: Some(entry_to_pb(entry)),
    }))
}
