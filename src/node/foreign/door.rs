//! The door for foreign nodes: gRPC over TCP and TLS, where `[listen] grpc` says. A node shows the token that `sigil node add` gave it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::node::{Inner, Present, QUEUE_MAX};
use super::records::Nodes;
use crate::mesh::clock::now;
use crate::mesh::pace::{Pace, ReadPace};
use crate::mesh::transport::shares::{Held, Share};
use crate::pb::node_service_server::{NodeService, NodeServiceServer};
use crate::pb::{GatewayMessage, NodeMessage};
use crate::status::{ErrorCode, OpError};
use crate::tasks::TaskGroup;

/// Connections at once, whoever they are of. More wait in the backlog of the system.
const CONNECTIONS_MAX: usize = 96;
/// Of those the ones of which it is not known who they are: strangers take no place of nodes, and one address not those of others.
const STRANGERS: Share = Share { per_address: 6, per_prefix: 16, all: 24 };
/// Time for the handshake of TLS, and then for a token that counts.
const GREETED_WITHIN: Duration = Duration::from_secs(5);
/// Largest message of a node: a result of that many bytes, and what is around it.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// HTTP/2 window of a stream, and of a connection.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of headers.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of one connection that are read in a second, and at once after a pause.
const BYTES_PER_S: u64 = 4 * 1024 * 1024;
const BYTES_AHEAD: u64 = 8 * 1024 * 1024;
/// Connections that are taken in a second, and at once after a pause: each costs a handshake, and one token is looked at for it.
const ACCEPTED_PER_S: u64 = 50;
const ACCEPTED_AHEAD: u64 = 100;
/// A node that does not answer a ping of ours in this time is gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_WITHIN: Duration = Duration::from_secs(5);
/// Pause after a connection that could not be taken, when there are too many files, say.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// Time for the last messages of a stream before its connection is cut.
const LINGER: Duration = Duration::from_secs(1);

/// Opens the door. Returns the address that it has.
///
/// # Errors
/// The address is taken, or there is no certificate and none can be made.
pub async fn open(address: SocketAddr, nodes: Nodes, present: Present, tasks: &TaskGroup) -> io::Result<SocketAddr> {
    let of = nodes.clone();
    let made = tokio::task::spawn_blocking(move || of.certificate()).await;
    let acceptor = acceptor(made.map_err(io::Error::other)??)?;
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let (taken, incoming) = mpsc::channel(STRANGERS.all);
    tasks.spawn(accept(listener, acceptor, taken, tasks.clone()));
    let service = Service { nodes, present, tasks: tasks.clone() };
    let service = NodeServiceServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(4 * MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(2)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_WITHIN))
        .add_service(service);
    let stopping = tasks.stopping();
    tasks.spawn(async move {
        let incoming = futures_util::StreamExt::map(ReceiverStream::new(incoming), Ok::<_, io::Error>);
        // Errors of single connections end those connections only.
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopping.cancelled()).await {
            tracing::error!(%error, "the door for foreign nodes is closed");
        }
    });
    Ok(bound)
}

fn acceptor((certificate, key): (String, Vec<u8>)) -> io::Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, taken: mpsc::Sender<Connection>, tasks: TaskGroup) {
    let all = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Arc::new(Mutex::new(Held::new(STRANGERS)));
    let stopping = tasks.stopping();
    let mut pace = Pace::new(ACCEPTED_PER_S, ACCEPTED_AHEAD);
    let mut next = async || {
        pace.wait(1).await;
        // It is never closed.
        let all = all.clone().acquire_owned().await;
        Some((listener.accept().await, all.ok()?))
    };
    while let Some(Some((accepted, all))) = stopping.run_until_cancelled(next()).await {
        let Ok((stream, from)) = accepted else {
            sleep(AFTER_ERROR).await;
            continue;
        };
        // Over its share, it is cut at once: nobody else waits for it.
        let Some(stranger) = Stranger::enter(&strangers, from.ip().to_canonical()) else { continue };
        let (acceptor, taken) = (acceptor.clone(), taken.clone());
        let watchers = tasks.clone();
        tasks.spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(Ok(stream)) = timeout(GREETED_WITHIN, acceptor.accept(stream)).await else { return };
            let line = Line {
                end: CancellationToken::new(),
                calls: Arc::default(),
                refused: Arc::default(),
                stranger: Arc::new(Mutex::new(Some(stranger))),
            };
            let connection = Connection {
                stream,
                pace: Pace::new(BYTES_PER_S, BYTES_AHEAD).into(),
                ended: Box::pin(line.end.clone().cancelled_owned()),
                line: line.clone(),
                _place: all,
            };
            if taken.send(connection).await.is_ok() {
                watchers.spawn(line.cut_if_idle(GREETED_WITHIN));
            }
        });
    }
}

/// One connection: the means to end it, and what is known of it.
#[derive(Debug, Clone)]
struct Line {
    /// Cancelled, the bytes stop, whatever HTTP/2 still has to say.
    end: CancellationToken,
    /// Streams of nodes on it.
    calls: Arc<AtomicUsize>,
    /// A token that was shown on it did not count: no other is looked at.
    refused: Arc<AtomicBool>,
    /// Its place among those of which nobody knows who they are.
    stranger: Arc<Mutex<Option<Stranger>>>,
}

/// A place among those of which nobody knows who they are.
#[derive(Debug)]
struct Stranger {
    all: Arc<Mutex<Held>>,
    from: IpAddr,
}

impl Stranger {
    /// One for this address, if it has room.
    fn enter(all: &Arc<Mutex<Held>>, from: IpAddr) -> Option<Self> {
        let mut held = all.lock().unwrap_or_else(PoisonError::into_inner);
        held.has_room(from).then(|| {
            held.take(from);
            Self { all: all.clone(), from }
        })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.from);
    }
}

impl Line {
    /// It is known who it is.
    fn is_known(&self) {
        drop(self.stranger.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Cuts it if nobody is registered on it by then.
    async fn cut_if_idle(self, after: Duration) {
        tokio::select! {
            () = self.end.cancelled() => {}
            () = sleep(after) => if self.calls.load(Ordering::Acquire) == 0 {
                self.end.cancel();
            },
        }
    }
}

/// A connection that is read at a pace, and can be ended from outside.
struct Connection {
    stream: TlsStream<TcpStream>,
    pace: ReadPace,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    line: Line,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.line.end.cancel();
    }
}

impl Connected for Connection {
    type ConnectInfo = Line;
    fn connect_info(&self) -> Line {
        self.line.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        ready!(self.pace.poll_ready(cx));
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.pace.note(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct Service {
    nodes: Nodes,
    present: Present,
    tasks: TaskGroup,
}

impl Service {
    /// The node whose token is shown.
    async fn node(&self, request: &Request<Streaming<NodeMessage>>) -> Result<Arc<Inner>, Status> {
        let shown = request.metadata().get("authorization").and_then(|shown| shown.to_str().ok());
        let token = shown.and_then(|shown| shown.strip_prefix("Bearer ")).map(str::to_owned);
        let token = token.ok_or_else(|| {
            refused(ErrorCode::Unauthorized, "show the token of `sigil node add`: authorization: Bearer TOKEN")
        })?;
        let nodes = self.nodes.clone();
        let found = tokio::task::spawn_blocking(move || nodes.by_token(&token, now().wall_ms)).await;
        let record = found
            .map_err(|error| refused(ErrorCode::Internal, error.to_string()))?
            .map_err(|why| refused(ErrorCode::Unauthorized, why.to_string()))?;
        self.present.of(&record).ok_or_else(|| {
            refused(ErrorCode::Conflict, "this node was just let in, and is not known to the agent yet: try again")
        })
    }
}

fn refused(code: ErrorCode, why: impl Into<String>) -> Status {
    OpError::new(code, why).to_grpc()
}

#[tonic::async_trait]
impl NodeService for Service {
    type ConnectStream = ReceiverStream<Result<GatewayMessage, Status>>;

    async fn connect(&self, request: Request<Streaming<NodeMessage>>) -> Result<Response<Self::ConnectStream>, Status> {
        let line = request.extensions().get::<Line>().cloned();
        let line = line.ok_or_else(|| refused(ErrorCode::Internal, "this connection is none of the door"))?;
        let found = if line.refused.load(Ordering::Acquire) {
            Err(refused(ErrorCode::Unauthorized, "one token for one connection: open another"))
        } else {
            self.node(&request).await
        };
        let entered = found.and_then(|node| {
            let streams = node.streams.clone();
            let many = || refused(ErrorCode::RateLimited, "this node has as many streams open as it may: close one");
            streams.try_acquire_owned().map(|place| (node, place)).map_err(|_| many())
        });
        let (node, place) = match entered {
            Ok(entered) => entered,
            Err(refusal) => {
                line.refused.store(true, Ordering::Release);
                self.tasks.spawn(line.cut_if_idle(LINGER));
                return Err(refusal);
            }
        };
        line.is_known();
        let (to_node, outgoing) = mpsc::channel(QUEUE_MAX);
        line.calls.fetch_add(1, Ordering::AcqRel);
        let inbound = request.into_inner();
        let stopping = self.tasks.stopping();
        self.tasks.spawn(async move {
            node.serve(inbound, to_node, line.end.child_token(), stopping).await;
            drop(place);
            line.calls.fetch_sub(1, Ordering::AcqRel);
            line.cut_if_idle(LINGER).await;
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}
