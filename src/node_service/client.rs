//! `NodeService`, the node side: exactly one registered stream to the gateway of the moment.
//!
//! One task dials, registers, reads and dials again. Answers go straight into the stream's queue, without passing it.

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_core::crypto::Verifier;
use mesh_core::frame::{Answer, AnswerKind, Dispatch};
use mesh_core::ids::{NodeId, PeerId, ReqId, ToolName};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

use crate::node_service::convert;
use crate::node_service::stream::{Guarded, MESSAGE_BYTES_MAX, Outbox, REGISTER_WITHIN, WINDOW_BYTES, outbox};
use crate::pb;
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

/// What this device says of itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The handle that it was approved with.
    pub node_id: NodeId,
    /// "linux", …; at most 64 bytes.
    pub platform: String,
    /// Of this program; at most 64 bytes.
    pub version: String,
    /// What it offers; at most [`mesh_core::limits::TOOLS_MAX`].
    pub tools: Vec<ToolName>,
    /// At most 64.
    pub capabilities: BTreeMap<String, String>,
    /// Random per process, never 0.
    pub session_nonce: u64,
}

/// What comes from the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeClientEvent {
    /// The gateway took us: answers reach it from now on.
    Registered {
        /// Which.
        gateway: PeerId,
    },
    /// The gateway did not take us; we keep trying, every 2 s in the end.
    Refused {
        /// Which.
        gateway: PeerId,
        /// Why, for people.
        error: String,
        /// What to do about it, for people.
        hint: String,
    },
    /// A registered stream is gone.
    Lost {
        /// To which gateway.
        gateway: PeerId,
    },
    /// Run this. Claim and header have been checked; the claim is the gateway's own.
    Dispatch(PeerId, Dispatch),
    /// Stop this call.
    Cancel(PeerId, ReqId),
    /// The gateway does not lead any more, and names another, if it knows one. A hint, proven by nothing.
    Moved(Option<PeerId>),
}

/// Starts the node side.
#[derive(Debug)]
pub struct NodeClient;

impl NodeClient {
    /// Keeps one registered stream to `gateway`; `None` = there is none, or it is ourselves.
    ///
    /// `open` opens a byte stream to a peer over its link. Ends when the receiver of `events` is dropped, and opens no
    /// stream any more once the tasks are told to stop.
    pub fn start<Open, Opening, IO>(
        gateway: watch::Receiver<Option<PeerId>>,
        open: Open,
        info: watch::Receiver<Arc<NodeInfo>>,
        verifier: Arc<dyn Verifier + Send + Sync>,
        events: mpsc::Sender<NodeClientEvent>,
        tasks: &TaskGroup,
    ) -> NodeClientHandle
    where
        Open: Fn(PeerId) -> Opening + Send + Sync + 'static,
        Opening: Future<Output = io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handle = NodeClientHandle { stream: Arc::default(), hurry: Arc::default() };
        let worker =
            Worker { gateway, open, info, verifier, events, stopping: tasks.stopping(), handle: handle.clone() };
        tasks.spawn(worker.run());
        handle
    }
}

/// Answers to the gateway. Nothing here waits.
#[derive(Debug, Clone)]
pub struct NodeClientHandle {
    /// The registered stream, if there is one.
    stream: Arc<Mutex<Option<Stream>>>,
    hurry: Arc<Notify>,
}

#[derive(Debug, Clone)]
struct Stream {
    gateway: PeerId,
    outbox: Outbox<pb::NodeMessage>,
    end: CancellationToken,
}

impl Stream {
    fn push(&self, message: pb::NodeMessage) -> bool {
        let size = message.encoded_len();
        let sent = self.outbox.push(message, size);
        if !sent {
            // Too slow a reader: a new stream starts with an empty queue, and the gateway asks again for what it misses.
            self.end.cancel();
        }
        sent
    }
}

impl NodeClientHandle {
    /// Sends an answer to `to`. False when there is no registered stream to that peer, or its queue was full (the stream
    /// is ended then, and a new one registered).
    #[must_use]
    pub fn answer(&self, to: PeerId, answer: Answer) -> bool {
        let stream = self.lock().clone();
        stream.filter(|stream| stream.gateway == to).is_some_and(|stream| stream.push(convert::answer_to_pb(answer)))
    }

    /// Whom we are registered with.
    #[must_use]
    pub fn registered_with(&self) -> Option<PeerId> {
        self.lock().as_ref().map(|stream| stream.gateway)
    }

    /// Tries again at once instead of after the pause: a link to the gateway has come up.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Stream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an attempt at a stream ended.
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
    gateway: watch::Receiver<Option<PeerId>>,
    open: Open,
    info: watch::Receiver<Arc<NodeInfo>>,
    verifier: Arc<dyn Verifier + Send + Sync>,
    events: mpsc::Sender<NodeClientEvent>,
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
        let mut gateways = self.gateway.clone();
        let mut pause = BACKOFF_MIN;
        while !self.stopping.is_cancelled() {
            let gateway = *gateways.borrow_and_update();
            let began = Instant::now();
            if let Some(gateway) = gateway {
                let mut changes = gateways.clone();
                tokio::select! {
                    biased;
                    () = self.events.closed() => {}
                    _ = changes.wait_for(|now| *now != Some(gateway)) => {}
                    ended = self.session(gateway) => {
                        tracing::debug!(gateway = %gateway.short(), error = %ended, "no node stream");
                    }
                }
                let lost = self.handle.lock().take();
                if lost.is_some() && self.events.send(NodeClientEvent::Lost { gateway }).await.is_err() {
                    return;
                }
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
                () = self.events.closed() => return,
                () = self.stopping.cancelled() => return,
                changed = gateways.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pause = BACKOFF_MIN;
                }
                () = self.handle.hurry.notified() => pause = BACKOFF_MIN,
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

    async fn try_session(&self, gateway: PeerId) -> Result<std::convert::Infallible, Ended> {
        let opened = timeout(OPEN_WITHIN, (self.open)(gateway)).await.map_err(|_| Ended::Silent)?;
        let io = Guarded::new(opened.map_err(Ended::Open)?, gateway);
        let end = io.line().end;
        // Whatever way this ends, the bytes stop.
        let _cut = end.clone().drop_guard();
        let (outbox, outgoing) = outbox();
        let stream = Stream { gateway, outbox, end };

        let mut info = self.info.clone();
        let registered = info.borrow_and_update().clone();
        stream.push(register(&registered));
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
            let (error, hint) = (convert::cut(ack.error), convert::cut(ack.hint));
            self.tell(NodeClientEvent::Refused { gateway, error: error.clone(), hint }).await?;
            if let Ok(Ok(Some(pb::GatewayMessage { msg: Some(FromGateway::Moved(moved)) }))) =
                timeout(BACKOFF_MIN, inbound.message()).await
            {
                self.tell(NodeClientEvent::Moved(PeerId::from_slice(&moved.gateway))).await?;
            }
            return Err(Ended::Refused(error));
        }
        *self.handle.lock() = Some(stream.clone());
        self.tell(NodeClientEvent::Registered { gateway }).await?;
        self.read(&stream, inbound, info, registered).await
    }

    /// The life of a registered stream.
    async fn read(
        &self,
        stream: &Stream,
        mut inbound: Streaming<pb::GatewayMessage>,
        mut info: watch::Receiver<Arc<NodeInfo>>,
        mut told: Arc<NodeInfo>,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut known = None;
        let mut cut = std::pin::pin!(stream.end.cancelled());
        loop {
            let message = tokio::select! {
                biased;
                () = &mut cut => return Err(Ended::Restart),
                changed = info.changed() => {
                    if changed.is_err() {
                        return Err(Ended::Restart);
                    }
                    let now = info.borrow_and_update().clone();
                    if (NodeInfo { tools: told.tools.clone(), ..(*now).clone() }) != *told {
                        return Err(Ended::Restart);
                    }
                    if now.tools != told.tools {
                        stream.push(status(&now));
                    }
                    told = now;
                    continue;
                }
                message = inbound.message() => message?.ok_or(Ended::Closed)?,
            };
            let Some(message) = message.msg else { continue };
            match self.event(stream, message, &mut known) {
                Ok(Some(event)) => self.tell(event).await?,
                Ok(None) => {}
                Err(error) => {
                    metrics::counter!("sigil_node_messages_refused_total", "side" => "node").increment(1);
                    tracing::debug!(gateway = %stream.gateway.short(), %error, "a message of the gateway was dropped");
                }
            }
        }
    }

    /// What a message says. A dispatch that will not do is answered here.
    fn event(
        &self,
        stream: &Stream,
        message: FromGateway,
        known: &mut convert::KnownClaim,
    ) -> Result<Option<NodeClientEvent>, convert::ConvertError> {
        let gateway = stream.gateway;
        match message {
            FromGateway::ToolExecute(request) => {
                let (id, attempt) = (request.request_id.clone(), request.attempt);
                match convert::dispatch_from_pb(request, gateway, known, self.verifier.as_ref()) {
                    Ok(dispatch) => Ok(Some(NodeClientEvent::Dispatch(gateway, dispatch))),
                    Err(error) => {
                        // An id that is none cannot be answered.
                        if let Ok(id) = id.parse() {
                            let attempt = u8::try_from(attempt).unwrap_or_default().max(1);
                            let what = AnswerKind::Refused(error.to_string());
                            stream.push(convert::answer_to_pb(Answer { id, attempt, what }));
                        }
                        Err(error)
                    }
                }
            }
            FromGateway::Cancel(cancel) => Ok(Some(NodeClientEvent::Cancel(gateway, cancel.request_id.parse()?))),
            FromGateway::Moved(moved) => Ok(Some(NodeClientEvent::Moved(PeerId::from_slice(&moved.gateway)))),
            FromGateway::RegisterAck(_) => Ok(None),
        }
    }

    /// Waits while the receiver is busy: the gateway's queue is where calls should wait.
    async fn tell(&self, event: NodeClientEvent) -> Result<(), Ended> {
        self.events.send(event).await.map_err(|_| Ended::Closed)
    }
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

fn register(info: &NodeInfo) -> pb::NodeMessage {
    pb::NodeMessage {
        msg: Some(ToGateway::Register(pb::NodeRegister {
            node_id: info.node_id.to_string(),
            platform: info.platform.clone(),
            tools: info.tools.iter().map(ToString::to_string).collect(),
            capabilities: info.capabilities.clone().into_iter().collect(),
            session_nonce: info.session_nonce,
            version: info.version.clone(),
        })),
    }
}

fn status(info: &NodeInfo) -> pb::NodeMessage {
    pb::NodeMessage {
        msg: Some(ToGateway::Status(pb::NodeStatus {
            node_id: info.node_id.to_string(),
            online: true,
            available_tools: info.tools.iter().map(ToString::to_string).collect(),
        })),
    }
}

/// Between half of `pause` and all of it, so that the nodes of a fallen gateway do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 512;
    pause.mul_f64(0.5 + f64::from(random as u16) / 1024.0)
}
