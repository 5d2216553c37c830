//! Listeners: the unix socket and loopback HTTP, with limits on connections, headers and idle time.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::other_end::OtherEnd;
use super::seats::{Seat, Seats};
use crate::mesh::tailnet::Identity;
use crate::tasks::TaskGroup;

/// Open connections of one door. The next one takes the place of one that waits for a request; if none does, it waits.
pub const CONNECTIONS_MAX: usize = 256;
/// Longest time for the head of a request, and longest silence of a kept-alive connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// Bytes of the head of a request. What is shorter and still too long is answered with the reason.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// The reason why the doors could not be opened. Each of them ends `up`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another agent answers at the socket.
    #[error("another agent is listening on {0}")]
    SocketInUse(PathBuf),
    /// The socket cannot be made.
    #[error("listening on {path}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Someone else has the port.
    #[error(
        "TCP port {} is in use by another program; choose another with --http-port, or `listen.http_port` in sigil.toml",
        .0.port()
    )]
    PortInUse(SocketAddr),
    /// The port cannot be opened.
    #[error("listening on {address}")]
    Http {
        /// Its address.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Only loopback is served until there is TLS.
    #[error("{0} is not a loopback address")]
    NotLoopback(SocketAddr),
}

/// Names and port of a door on the tailnet.
#[derive(Debug, PartialEq, Eq)]
pub struct Site {
    /// Names and addresses of this machine there, as a URL has them.
    pub hosts: Vec<String>,
    /// Its port.
    pub port: u16,
}

/// A connection over the tailnet.
#[derive(Debug, PartialEq, Eq)]
pub struct Visit {
    /// The door that it came to.
    pub site: Arc<Site>,
    /// The node that it came from.
    pub node: Identity,
}

/// The way a connection came in. In the extensions of each of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// The unix socket.
    Socket {
        /// True if the process at the other end runs as our user or as root.
        owner: bool,
    },
    /// Loopback HTTP.
    Http {
        /// Port of the listener, for the host check.
        port: u16,
        /// Whoever is at the other end.
        from: Arc<OtherEnd>,
    },
    /// HTTP on the tailnet.
    Tailnet(Arc<Visit>),
}

/// Addresses of the doors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Unix socket.
    pub socket: PathBuf,
    /// Loopback HTTP.
    pub http: SocketAddr,
}

/// Both doors, bound but not served yet: connections wait in the kernel's backlog.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    /// The same port at the other loopback address, which `localhost` and all names below it mean as well.
    tcp6: Option<TcpListener>,
    unix: UnixListener,
    bound: Bound,
}

impl Listeners {
    /// Binds both doors.
    ///
    /// # Errors
    /// See [`ListenError`]; nothing is left open then.
    pub async fn bind(unix_path: &Path, http_addr: SocketAddr) -> Result<Self, ListenError> {
        if !http_addr.ip().is_loopback() {
            return Err(ListenError::NotLoopback(http_addr));
        }
        let tcp = TcpListener::bind(http_addr).await.map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                ListenError::PortInUse(http_addr)
            } else {
                ListenError::Http { address: http_addr, source }
            }
        })?;
        let http = tcp.local_addr().map_err(|source| ListenError::Http { address: http_addr, source })?;
        let tcp6 = bind_other(http).await?;
        let unix = bind_socket(unix_path).await?;
        Ok(Self { tcp, tcp6, unix, bound: Bound { socket: unix_path.to_owned(), http } })
    }

    /// Addresses of the doors.
    #[must_use]
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Serves `routes` at both doors until `tasks` stops: then no new connection is taken, and requests under way are
    /// finished. Each request carries its [`Arrival`]. `socket_gone` tells that the file of the socket has vanished: then
    /// it is made anew, in a directory that is there.
    pub fn serve(self, routes: &Router, socket_gone: Arc<Notify>, tasks: &TaskGroup) {
        let Self { tcp, tcp6, mut unix, bound } = self;
        let seats = Seats::new(CONNECTIONS_MAX);
        for tcp in std::iter::once(tcp).chain(tcp6) {
            let (stop, group, router, port) = (tasks.stopping(), tasks.clone(), routes.clone(), bound.http.port());
            let seats = seats.clone();
            tasks.spawn(async move {
                while let Some(accepted) = stop.run_until_cancelled(tcp.accept()).await {
                    match accepted {
                        Ok((stream, theirs)) => {
                            // Answers are small and written at once; waiting for more bytes only costs time.
                            let _ = stream.set_nodelay(true);
                            let Some(seat) = stop.run_until_cancelled(seats.take()).await else { break };
                            let Ok(ours) = stream.local_addr() else { continue };
                            let arrival = Arrival::Http { port, from: Arc::new(OtherEnd::new(ours, theirs)) };
                            group.spawn(connection(stream, arrival, &router, group.stopping(), seat));
                        }
                        Err(error) => pause(&error).await,
                    }
                }
            });
        }
        let (stop, group, router) = (tasks.stopping(), tasks.clone(), routes.clone());
        tasks.spawn(async move {
            let seats = Seats::new(CONNECTIONS_MAX);
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = socket_gone.notified() => {
                        match bind_socket(&bound.socket).await {
                            Ok(anew) => unix = anew,
                            Err(error) => tracing::debug!(%error, "the socket cannot be made anew"),
                        }
                        continue;
                    }
                    accepted = unix.accept() => accepted,
                };
                match accepted {
                    Ok((stream, _)) => {
                        let Some(seat) = stop.run_until_cancelled(seats.take()).await else { break };
                        let us = nix::unistd::geteuid().as_raw();
                        let owner = stream.peer_cred().is_ok_and(|cred| cred.uid() == us || cred.uid() == 0);
                        group.spawn(connection(stream, Arrival::Socket { owner }, &router, group.stopping(), seat));
                    }
                    Err(error) => pause(&error).await,
                }
            }
            // A file that stays behind does no harm: the next start replaces it.
            let _ = std::fs::remove_file(bound.socket);
        });
    }
}

/// Opens the port of a door at the other loopback address: `localhost` and `NAME.localhost` mean both, and a browser tries `[::1]`
/// first, where any other user could listen otherwise and be taken for us. Without IPv6 there is nobody to be taken for us.
async fn bind_other(http: SocketAddr) -> Result<Option<TcpListener>, ListenError> {
    let address = match http.ip() {
        IpAddr::V4(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, http.port())),
        IpAddr::V6(_) => return Ok(None),
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(ListenError::PortInUse(address)),
        Err(error) => {
            tracing::debug!(%error, "there is no IPv6 loopback");
            Ok(None)
        }
    }
}

/// Out of file descriptors, or the client is gone already: neither may become a loop that burns the processor.
pub(super) async fn pause(error: &io::Error) {
    tracing::debug!(%error, "taking a connection failed");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Serves one connection, until it ends, has lost its seat, or `stop`: then the request under way is finished.
pub(super) fn connection<S>(
    stream: S,
    arrival: Arrival,
    router: &Router,
    stop: CancellationToken,
    seat: Seat,
) -> impl Future<Output = ()> + Send + 'static + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (router, mark) = (router.clone(), seat.mark());
    let service = service_fn(move |mut request: Request<Incoming>| {
        let answering = mark.answer();
        request.extensions_mut().insert(arrival.clone());
        request.extensions_mut().insert(mark.clone());
        let answer = router.clone().oneshot(request.map(Body::new));
        async move { answer.await.map(|response| response.map(|body| answering.until_sent(body))) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    async move {
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = seat.lost() => Ok(()),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// Makes the socket, in the place of one that a dead agent left behind.
async fn bind_socket(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Socket { path: path.to_owned(), source };
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket")));
        }
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(ListenError::SocketInUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever gets in before this line is still asked for its credentials.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}
