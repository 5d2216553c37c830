//! The one connection to a server: HTTP/2 over a socket that is there already, never dialled again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

use crate::mesh::pace::{Pace, ReadPace};

/// HTTP/2 window of a stream, and of the connection: what a server may have sent that nobody has taken.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of headers of one answer.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Bytes that are read in a second, and at once after a pause: frames that carry nothing cost work too, and a server could send them
/// without an end.
const BYTES_PER_S: u64 = 32 * 1024 * 1024;
const BYTES_AHEAD: u64 = 32 * 1024 * 1024;

/// Speaks HTTP/2 over a connection. `gone` is cancelled when that is over.
///
/// # Errors
/// The server does not speak it.
pub(super) async fn over(stream: TcpStream, gone: CancellationToken) -> Result<Channel, tonic::transport::Error> {
    let pace = Pace::new(BYTES_PER_S, BYTES_AHEAD).into();
    let io = Watched { stream, pace, _gone: gone.drop_guard() };
    let mut io = Some(TokioIo::new(io));
    Endpoint::from_static("http://tool")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        // One that has ended is started anew, and its connection with it.
        .connect_with_connector(tower::service_fn(move |_| {
            std::future::ready(io.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
        }))
        .await
}

/// A connection that is read at a pace, and tells that it is over.
struct Watched {
    stream: TcpStream,
    pace: ReadPace,
    _gone: DropGuard,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.pace.poll_ready(cx));
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.pace.note(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
