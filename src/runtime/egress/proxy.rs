//! The proxy: it listens in networks that have no other way out, and speaks HTTP/1.1 there. One request for each connection: a
//! tunnel, or something to be asked for over plain HTTP.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use sigil_shim::wire::{self, PROXY_PORT, Report};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ledger::{Behalf, Ledger, Told};
use super::target::{Asked, Host, Refusal, TLS_PORT, Target, asked, judge, permit, server_name, told};
use crate::plugin::Egress;
use crate::tasks::{Strays, TaskGroup};

/// Bounds of what goes out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections of one network at once.
    pub(super) connections: usize,
    /// Connections of all of them at once: each holds two sockets of the agent.
    pub(super) connections_of_all: usize,
    /// Time for the head of a request, and for the first words in a tunnel.
    pub(super) head_time: Duration,
    /// Time to find out where a name leads, and time to be connected there, both with all addresses.
    pub(super) reach_time: Duration,
    /// Time in which nothing goes to there or comes from there.
    pub(super) idle: Duration,
    /// Time of a connection in all.
    pub(super) total: Duration,
}

impl Bounds {
    pub(super) const USUAL: Self = Self {
        connections: 64,
        connections_of_all: 256,
        head_time: Duration::from_secs(10),
        reach_time: Duration::from_secs(10),
        idle: Duration::from_mins(1),
        total: Duration::from_hours(1),
    };
}

/// Bytes of the head of a request or an answer, and of the first words in a tunnel.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Lines of such a head.
const HEADERS_MAX: usize = 100;
/// Names that are looked up at once: a server for names that does not answer holds a thread each.
const LOOKUPS_MAX: usize = 16;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;
/// Time for the socket of a network to be handed over.
const HANDED_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of what comes with it.
const HANDED_BYTES_MAX: usize = 2048;
/// Wait after a connection could not be taken: this process has too many files open.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How often it is looked if something that was counted is to be told.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// What is to be told and was not taken yet. Beyond, it is lost: whoever takes it is slower than all tools together for that.
const TOLD_MAX: usize = 256;

/// What is outside, as this device reaches it.
pub(super) trait Outside: Send + Sync {
    /// All addresses to which a name leads.
    fn resolve(&self, name: &str) -> BoxFuture<'_, io::Result<Vec<IpAddr>>>;
    /// A connection.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
    /// Addresses of this device.
    fn own(&self) -> Vec<IpAddr>;
}

/// Lets out what may go out, of networks that have no other way. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

struct Shared {
    outside: Box<dyn Outside>,
    bounds: Bounds,
    places: Semaphore,
    ledger: Mutex<Ledger>,
    told: mpsc::Sender<Told>,
    tasks: TaskGroup,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}

/// What may go out of a network, and on whose behalf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pass {
    /// Places that may be reached.
    pub rules: Vec<Egress>,
    /// Whose network it is.
    pub behalf: Behalf,
}

/// The way out of one network. When it is dropped, all connections are cut, and there is none any more.
#[derive(Debug)]
pub struct Gate {
    behalf: Arc<Mutex<Behalf>>,
    _open: DropGuard,
}

impl Gate {
    /// From now on it is used for this.
    pub fn serves(&self, behalf: Behalf) {
        *self.behalf.lock().unwrap_or_else(PoisonError::into_inner) = behalf;
    }
}

impl Proxy {
    /// One that goes by the network of this device. Also returns all that it lets out and refuses, which somebody is to take.
    #[must_use]
    pub fn start(tasks: &TaskGroup) -> (Self, mpsc::Receiver<Told>) {
        Self::with(Box::new(Device(Strays::new("egress-names", LOOKUPS_MAX))), Bounds::USUAL, tasks)
    }

    pub(super) fn with(outside: Box<dyn Outside>, bounds: Bounds, tasks: &TaskGroup) -> (Self, mpsc::Receiver<Told>) {
        let (told, inbox) = mpsc::channel(TOLD_MAX);
        let places = Semaphore::new(bounds.connections_of_all);
        let ledger = Mutex::default();
        let shared = Arc::new(Shared { outside, bounds, places, ledger, told, tasks: tasks.clone() });
        let (weak, stopping) = (Arc::downgrade(&shared), tasks.stopping());
        tasks.spawn(async move {
            while stopping.run_until_cancelled(sleep(FLUSH_EVERY)).await.is_some() {
                let Some(shared) = weak.upgrade() else { return };
                shared.tell(None);
            }
        });
        (Self { shared }, inbox)
    }

    /// Lets out of a network from now on what its pass allows. By `by` the socket comes at which its programs ask.
    #[must_use]
    pub fn open(&self, by: UnixStream, pass: Pass) -> Gate {
        let (gate, network) = self.network(pass);
        let stop = network.stop.clone();
        self.shared.tasks.spawn(async move {
            let served = async {
                match handed(by).await {
                    Ok(listener) => network.serve(listener).await,
                    Err(error) => tracing::debug!(%error, "no way out of a network was handed over"),
                }
            };
            stop.run_until_cancelled(served).await;
        });
        gate
    }

    /// The same, once the socket has come.
    ///
    /// # Errors
    /// It does not come.
    pub async fn opened(&self, by: UnixStream, pass: Pass) -> io::Result<Gate> {
        let listener = handed(by).await?;
        let (gate, network) = self.network(pass);
        let stop = network.stop.clone();
        self.shared.tasks.spawn(async move {
            stop.run_until_cancelled(network.serve(listener)).await;
        });
        Ok(gate)
    }

    fn network(&self, Pass { rules, behalf }: Pass) -> (Gate, Network) {
        let stop = CancellationToken::new();
        let behalf = Arc::new(Mutex::new(behalf));
        let gate = Gate { behalf: behalf.clone(), _open: stop.clone().drop_guard() };
        let inner = NetworkInner {
            places: Semaphore::new(self.shared.bounds.connections),
            proxy: self.shared.clone(),
            rules,
            behalf,
        };
        (gate, Network { inner: Arc::new(inner), stop })
    }
}

/// Takes over the socket that listens in a network.
async fn handed(by: UnixStream) -> io::Result<TcpListener> {
    let other = |what: &str| io::Error::other(what.to_owned());
    by.set_nonblocking(true)?;
    let by = tokio::net::UnixStream::from_std(by)?;
    let (mut said, mut fds) = (Vec::new(), Vec::new());
    let heard = async {
        loop {
            by.readable().await?;
            match by.try_io(Interest::READABLE, || wire::hear(&by, &mut said, &mut fds)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
                Ok(len) if len == 0 || said.len() > HANDED_BYTES_MAX => return Err(other("nothing was handed over")),
                Ok(_) => {}
            }
            match wire::reports(&said).into_iter().next() {
                Some(Report::Socket) => return Ok(()),
                Some(Report::NotStarted(why)) => return Err(io::Error::other(why)),
                Some(Report::Ready | Report::Files(_) | Report::Ended { .. }) => {
                    return Err(other("something else came"));
                }
                None => {}
            }
        }
    };
    timeout(HANDED_WITHIN, heard).await.map_err(|_| other("nothing was handed over in time"))??;
    let socket = match (fds.pop(), fds.is_empty()) {
        (Some(socket), true) => Socket::from(socket),
        (Some(_) | None, _) => return Err(other("no socket was handed over")),
    };
    // Whoever hands it over is beside the tool: only a socket of the kind that is meant counts.
    let is_meant = socket.domain()? == Domain::IPV4
        && socket.r#type()? == Type::STREAM
        && socket.is_listener()?
        && socket.local_addr()?.as_socket() == Some((Ipv4Addr::LOCALHOST, PROXY_PORT).into());
    if !is_meant {
        return Err(other("something else was handed over"));
    }
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

impl Shared {
    /// Something has happened; `None`: time has passed.
    fn tell(&self, told: Option<Told>) {
        let (mut out, now) = (Vec::new(), Instant::now());
        {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            match told {
                Some(told) => ledger.take(told, now, &mut out),
                None => ledger.flush(now, &mut out),
            }
        }
        for told in out {
            let Told { behalf, host, port, allowed, why, .. } = &told;
            tracing::debug!(target: "sigil::events::egress", provider = %behalf.provider, host, port, allowed, why, "asked");
            let _ = self.told.try_send(told);
        }
    }
}

/// A network whose programs ask here.
#[derive(Clone)]
pub(super) struct Network {
    inner: Arc<NetworkInner>,
    stop: CancellationToken,
}

struct NetworkInner {
    proxy: Arc<Shared>,
    rules: Vec<Egress>,
    behalf: Arc<Mutex<Behalf>>,
    places: Semaphore,
}

impl Network {
    #[cfg(test)]
    pub(super) fn of(proxy: &Proxy, pass: Pass) -> (Gate, Self) {
        proxy.network(pass)
    }

    pub(super) async fn serve(self, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let network = self.clone();
            self.inner.proxy.tasks.spawn(async move {
                let stop = network.stop.clone();
                stop.run_until_cancelled(network.inner.take(stream)).await;
            });
        }
    }

    #[cfg(test)]
    pub(super) async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) {
        self.inner.clone().converse(stream).await;
    }
}

impl NetworkInner {
    async fn take(self: Arc<Self>, stream: TcpStream) {
        let inner = self.clone();
        let (Ok(_of_network), Ok(_of_all)) = (inner.places.try_acquire(), inner.proxy.places.try_acquire()) else {
            // Closed at once: waiting would hold a socket for each.
            return self.tell(&Refused { host: String::new(), port: 0, why: Refusal::TooMany });
        };
        let _ = stream.set_nodelay(true);
        let total = self.proxy.bounds.total;
        let _ = timeout(total, self.converse(stream)).await;
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Arc<Self>, stream: S) {
        let bounds = self.proxy.bounds;
        let talk = Arc::new(Talk { network: self.clone(), meter: Arc::default(), tunnel: Mutex::default() });
        let service = {
            let talk = talk.clone();
            service_fn(move |request| {
                let talk = talk.clone();
                async move { Ok::<_, Infallible>(talk.answer(request).await) }
            })
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            // Who has said all may close that side, as simple programs do.
            .half_close(true)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_time)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let whole = async {
            let ended = connection.await;
            if ended.is_err_and(|error| error.is_parse() || error.is_parse_too_large()) {
                self.tell(&Refused { host: String::new(), port: 0, why: Refusal::Malformed });
            }
            let tunnel = talk.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(tunnel) = tunnel {
                tunnel.run(bounds).await;
            }
        };
        tokio::select! {
            () = whole => {}
            () = talk.meter.idle(bounds.idle) => {}
        }
    }

    fn tell(&self, refused: &Refused) {
        let behalf = self.behalf.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Refused { host, port, why } = refused;
        let (host, port, why) = (host.clone(), *port, why.word().to_owned());
        self.proxy.tell(Some(Told { behalf, host, port, allowed: false, why, sent: 0, received: 0, count: 1 }));
    }
}

/// Something that is not let out.
struct Refused {
    host: String,
    port: u16,
    why: Refusal,
}

/// Something that is let out: told of when it is over, however that comes about.
struct Passage {
    network: Arc<NetworkInner>,
    behalf: Behalf,
    target: Target,
    rule: String,
    meter: Arc<Meter>,
    refused: Option<Refusal>,
}

impl Drop for Passage {
    fn drop(&mut self) {
        let (sent, received) = self.meter.counts();
        let why = self.refused.as_ref().map_or_else(|| self.rule.clone(), |refused| refused.word().to_owned());
        self.network.proxy.tell(Some(Told {
            behalf: self.behalf.clone(),
            host: self.target.host.to_string(),
            port: self.target.port,
            allowed: self.refused.is_none(),
            why,
            sent,
            received,
            count: 1,
        }));
    }
}

/// One connection of a tool, with its one request.
struct Talk {
    network: Arc<NetworkInner>,
    meter: Arc<Meter>,
    tunnel: Mutex<Option<Tunnel>>,
}

type Body = Either<Full<Bytes>, Kept>;

/// The body of an answer. With it goes the passage that it came by.
type Kept = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;

impl Talk {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let (asked, mut passage, stream) = match self.reached(&request).await {
            Ok(reached) => reached,
            Err(refused) => {
                self.network.tell(&refused);
                return refusal(&refused);
            }
        };
        if asked.tunnel {
            let client = hyper::upgrade::on(&mut request);
            let tunnel = Tunnel { client, stream, passage };
            *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
            return Response::new(Either::Left(Full::default()));
        }
        let Some(response) = self.forward(request, &asked.target, stream).await else {
            let Target { host, port } = asked.target;
            passage.refused = Some(Refusal::Unreachable);
            return refusal(&Refused { host: host.to_string(), port, why: Refusal::Unreachable });
        };
        response.map(|body| {
            // Until the whole of it has gone to the tool, or the tool is gone.
            let kept = body.map_frame(move |frame| {
                let _held = &passage;
                frame
            });
            Either::Right(kept.boxed_unsync())
        })
    }

    /// Reads, judges and connects.
    async fn reached(&self, request: &Request<Incoming>) -> Result<(Asked, Passage, Metered), Refused> {
        let network = &self.network;
        let asked = asked(request.method(), request.uri(), request.version(), request.headers()).map_err(|why| {
            let authority = request.uri().authority().map(Authority::as_str).unwrap_or_default();
            // A password may stand before it.
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            Refused { host: told(host), port: 0, why }
        })?;
        let refused = |why| Refused { host: asked.target.host.to_string(), port: asked.target.port, why };
        let behalf = network.behalf.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let permit = permit(&network.rules, &asked.target).map_err(refused)?;
        let outside = &network.proxy.outside;
        let reach_time = network.proxy.bounds.reach_time;
        let addresses = match &asked.target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let found = timeout(reach_time, outside.resolve(name)).await;
                let found = found.ok().and_then(Result::ok).ok_or(Refusal::UnknownName).map_err(refused)?;
                judge(&network.rules, &asked.target, &permit, &found, &outside.own()).map_err(refused)?;
                found
            }
        };
        let connected = timeout(reach_time, async {
            for address in addresses.into_iter().take(ADDRESSES_MAX) {
                // This very address, and nothing that a name means by now.
                if let Ok(stream) = outside.connect(SocketAddr::new(address, asked.target.port)).await {
                    return Some(stream);
                }
            }
            None
        });
        let stream = connected.await.ok().flatten().ok_or(Refusal::Unreachable).map_err(refused)?;
        let _ = stream.set_nodelay(true);
        let passage = Passage {
            network: network.clone(),
            behalf,
            target: asked.target.clone(),
            rule: permit.rule,
            meter: self.meter.clone(),
            refused: None,
        };
        self.meter.open.store(true, Ordering::Release);
        Ok((asked, passage, Metered { stream, meter: self.meter.clone() }))
    }

    /// Asks in the place of a client. `None`: there is no answer that can be handed on.
    async fn forward(
        &self,
        request: Request<Incoming>,
        target: &Target,
        stream: Metered,
    ) -> Option<Response<Incoming>> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = Uri::try_from(path).ok()?;
        head.version = Version::HTTP_11;
        hop_by_hop(&mut head.headers);
        let host = match target.port {
            80 => target.to_string().trim_end_matches(":80").to_owned(),
            _ => target.to_string(),
        };
        head.headers.insert(header::HOST, HeaderValue::from_str(&host).ok()?);
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .ok()?;
        let meter = self.meter.clone();
        let idle = self.network.proxy.bounds.idle;
        // Ends with the body of the answer, or with whoever waits for that.
        self.network.proxy.tasks.spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = meter.idle(idle) => {}
            }
        });
        let mut response = sender.send_request(Request::from_parts(head, body)).await.ok()?;
        if response.status().is_informational() {
            return None;
        }
        hop_by_hop(response.headers_mut());
        Some(response)
    }
}

/// Takes away what is meant for the next hop alone. An upgrade is not asked for, and so not made.
fn hop_by_hop(headers: &mut hyper::HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // The end of a body is not for them to take away.
        .filter(|name: &HeaderName| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    let usual = [
        header::CONNECTION,
        header::PROXY_AUTHORIZATION,
        header::PROXY_AUTHENTICATE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    for name in named.into_iter().chain(usual) {
        headers.remove(name);
    }
}

fn refusal(Refused { host, port, why }: &Refused) -> Response<Body> {
    let status = match why {
        Refusal::Malformed
        | Refusal::NoTarget
        | Refusal::Scheme
        | Refusal::UserInfo
        | Refusal::HostForm
        | Refusal::Port
        | Refusal::HostHeader => StatusCode::BAD_REQUEST,
        Refusal::NotListed | Refusal::Address(..) | Refusal::OtherServer => StatusCode::FORBIDDEN,
        Refusal::UnknownName | Refusal::Unreachable => StatusCode::BAD_GATEWAY,
        Refusal::TooMany => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = Response::new(Either::Left(Full::from(format!("sigil: {host}:{port} is not reached: {why}\n"))));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// A tunnel that was agreed to.
struct Tunnel {
    client: OnUpgrade,
    stream: Metered,
    passage: Passage,
}

impl Tunnel {
    async fn run(self, bounds: Bounds) {
        let Self { client, mut stream, mut passage } = self;
        let Ok(client) = client.await else { return };
        let mut client = TokioIo::new(client);
        if passage.target.port == TLS_PORT {
            match timeout(bounds.head_time, first_words(&mut client, &passage.target.host)).await {
                // It has hung up.
                Ok(Ok(words)) if words.is_empty() => return,
                Ok(Ok(words)) => {
                    if stream.write_all(&words).await.is_err() {
                        return;
                    }
                }
                Ok(Err(refusal)) => {
                    passage.refused = Some(refusal);
                    return;
                }
                Err(_) => {
                    passage.refused = Some(Refusal::OtherServer);
                    return;
                }
            }
        }
        let _ = copy_bidirectional(&mut client, &mut stream).await;
    }
}

/// The first words of a client of TLS, which has to mean the host that it was let out to. Of an address nothing can be said:
/// such a client names nobody.
async fn first_words(client: &mut (impl AsyncRead + Unpin), host: &Host) -> Result<Vec<u8>, Refusal> {
    let mut words = Vec::new();
    let mut chunk = [0; 4096];
    while words.len() <= HEAD_BYTES_MAX {
        let len = client.read(&mut chunk).await.map_err(|_| Refusal::OtherServer)?;
        if len == 0 {
            return if words.is_empty() { Ok(words) } else { Err(Refusal::OtherServer) };
        }
        words.extend(chunk.iter().take(len));
        match (server_name(&words), host) {
            (None, _) => {}
            (Some(Ok(named)), Host::Name(name)) if named == *name => return Ok(words),
            (Some(Ok(_)), Host::Name(_)) => return Err(Refusal::OtherServer),
            (Some(named), Host::Address(_)) => {
                // It may name nobody, and nothing but TLS goes here.
                return match named {
                    Err(_) if words.first() == Some(&0x16) => Ok(words),
                    Ok(_) | Err(_) => Err(Refusal::OtherServer),
                };
            }
            (Some(Err(refusal)), Host::Name(_)) => return Err(refusal),
        }
    }
    Err(Refusal::OtherServer)
}

/// What went by, and when the last of it did.
#[derive(Debug)]
struct Meter {
    began: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    /// Milliseconds since it began.
    last: AtomicU64,
    /// There is a connection to there.
    open: AtomicBool,
}

impl Default for Meter {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self { began: Instant::now(), sent: zero(), received: zero(), last: zero(), open: AtomicBool::default() }
    }
}

impl Meter {
    fn moved(&self, of: &AtomicU64, bytes: usize) {
        of.fetch_add(bytes as u64, Ordering::Relaxed);
        self.last.store(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn counts(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    /// Waits until nothing has gone by for so long, once there is a connection.
    async fn idle(&self, after: Duration) {
        let mut seen = None;
        loop {
            sleep(after / 4).await;
            if !self.open.load(Ordering::Acquire) {
                continue;
            }
            // From when it was seen open: until then other times count.
            let seen = *seen.get_or_insert_with(Instant::now);
            let last = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed));
            if last.max(seen).elapsed() >= after {
                return;
            }
        }
    }
}

/// A connection to outside, whose bytes are counted.
struct Metered {
    stream: TcpStream,
    meter: Arc<Meter>,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.meter.moved(&self.meter.received, buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.meter.moved(&self.meter.sent, len);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What is outside, by the network of this device.
struct Device(Strays);

impl Outside for Device {
    fn resolve(&self, name: &str) -> BoxFuture<'_, io::Result<Vec<IpAddr>>> {
        let name = format!("{name}:0");
        Box::pin(async move {
            let looked_up = move || {
                use std::net::ToSocketAddrs as _;
                name.to_socket_addrs().map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
            };
            let mut found = self.0.run(looked_up).await.map_err(io::Error::other)??;
            found.dedup();
            Ok(found)
        })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(to))
    }

    fn own(&self) -> Vec<IpAddr> {
        if_addrs::get_if_addrs().unwrap_or_default().into_iter().map(|interface| interface.ip()).collect()
    }
}
