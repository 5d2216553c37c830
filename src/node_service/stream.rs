//! Shared parts of both ends of a node stream: a connection that can be ended from outside, a queue with limits, and
//! what may be wrong with a message.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use mesh_core::ids::{InvalidId, PeerId};
use mesh_core::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::mesh::transport::ServicePeer;
use crate::mesh::transport::wire::WireError;
use crate::node_service::read_pace::GuestPace;

/// Largest message that either side takes: a signed entry ([`mesh_core::limits::ENTRY_BYTES_MAX`]) and its copies in
/// the contract's text fields fit.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// HTTP/2 window of the one stream and of its connection. QUIC below has its own flow control, so this one only must
/// not be the narrower of the two: 1 MiB is 40 ms of a 200 Mbit/s line.
pub(crate) const WINDOW_BYTES: u32 = 1024 * 1024;
/// Time for the first message of the node, and for the gateway's answer to it.
pub(crate) const REGISTER_WITHIN: Duration = Duration::from_secs(5);
/// Messages that may wait for a slow reader. One (origin, target) pair may have 1,000 calls open, and a node that comes
/// back gets what waits for it in one go. Full = the stream is ended; the node registers anew.
pub(crate) const QUEUE_MAX: usize = 2048;
/// Bytes of those messages.
pub(crate) const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A reason for which a message is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConvertError {
    /// A field that we need.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An entry that is something else.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// An id.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// A part that mesh frames have too.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A signed thing of someone else.
    #[error("{0} is not by the peer that sent it")]
    Author(&'static str),
    /// The message and what is signed speak of different calls.
    #[error("{0} is about another call or attempt")]
    Mismatch(&'static str),
}

/// A text of a peer, within [`limits::TEXT_BYTES_MAX`].
pub(crate) fn cut(mut text: String) -> String {
    text.truncate(limits::cut(&text, limits::TEXT_BYTES_MAX).len());
    text
}

/// Identity of the other end of a byte stream, as the handshake of the link has proven it.
pub trait ProvenPeer: Clone + Send + Sync + 'static {
    /// The peer.
    fn peer(&self) -> PeerId;
}

impl ProvenPeer for PeerId {
    fn peer(&self) -> PeerId {
        *self
    }
}

impl ProvenPeer for ServicePeer {
    fn peer(&self) -> PeerId {
        self.peer
    }
}

/// One connection: who is at its other end, and the means to end it.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) peer: PeerId,
    /// Cancelled = the bytes stop, whatever HTTP/2 still has to say.
    pub(crate) end: CancellationToken,
    /// Calls of the method that are under way on it.
    pub(crate) calls: Arc<AtomicUsize>,
}

/// A byte stream that fails once its [`Line`] is ended: also while the other side does not read.
pub(crate) struct Guarded<IO> {
    io: IO,
    line: Line,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    pace: Option<GuestPace>,
}

impl<IO> Guarded<IO> {
    pub(crate) fn new(io: IO, peer: PeerId) -> Self {
        let end = CancellationToken::new();
        let line = Line { peer, end: end.clone(), calls: Arc::default() };
        Self { io, ended: Box::pin(end.cancelled_owned()), line, pace: None }
    }

    /// One that is read at a pace.
    pub(super) fn paced(io: IO, peer: PeerId, pace: GuestPace) -> Self {
        Self { pace: Some(pace), ..Self::new(io, peer) }
    }

    pub(crate) fn line(&self) -> Line {
        self.line.clone()
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<IO> Connected for Guarded<IO> {
    type ConnectInfo = Line;
    fn connect_info(&self) -> Line {
        self.line()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let Self { io, pace, .. } = &mut *self;
        let Some(pace) = pace else { return Pin::new(io).poll_read(cx, buf) };
        ready!(pace.poll_ready(cx));
        let before = buf.filled().len();
        let read = Pin::new(io).poll_read(cx, buf);
        pace.note(buf.filled().len() - before);
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The sending side of a stream: never waits. Limits: [`QUEUE_MAX`], [`QUEUE_BYTES_MAX`].
#[derive(Debug)]
pub(crate) struct FrameQueue<T> {
    queue: mpsc::Sender<(T, usize)>,
    waiting: Arc<AtomicUsize>,
}

impl<T> Clone for FrameQueue<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), waiting: self.waiting.clone() }
    }
}

/// Receiving side, drained by tonic. Ends when every [`FrameQueue`] is gone.
#[derive(Debug)]
pub(crate) struct Outgoing<T> {
    queue: mpsc::Receiver<(T, usize)>,
    waiting: Arc<AtomicUsize>,
}

/// A queue towards the other side.
pub(crate) fn queue<T>() -> (FrameQueue<T>, Outgoing<T>) {
    let (tx, rx) = mpsc::channel(QUEUE_MAX);
    let waiting = Arc::new(AtomicUsize::new(0));
    (FrameQueue { queue: tx, waiting: waiting.clone() }, Outgoing { queue: rx, waiting })
}

impl<T> FrameQueue<T> {
    /// Queues `item` of `size` bytes. False when the queue is full, or nobody drains it any more.
    pub(crate) fn push(&self, item: T, size: usize) -> bool {
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        let taken = before.saturating_add(size) <= QUEUE_BYTES_MAX && self.queue.try_send((item, size)).is_ok();
        if !taken {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
        }
        taken
    }
}

impl<T> Stream for Outgoing<T> {
    type Item = T;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.queue.poll_recv(cx).map(|next| {
            next.map(|(item, size)| {
                self.waiting.fetch_sub(size, Ordering::Relaxed);
                item
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_queue_refuses_past_its_bytes_and_takes_again_once_drained() {
        let (queue, mut outgoing) = queue();
        assert!(queue.push(1, QUEUE_BYTES_MAX));
        assert!(!queue.push(2, 1));
        assert_eq!(outgoing.next().await, Some(1));
        assert!(queue.push(3, 1));
        drop(queue);
        assert_eq!(outgoing.next().await, Some(3));
        assert_eq!(outgoing.next().await, None);
    }

    #[test]
    fn a_queue_refuses_past_its_count() {
        let (queue, _outgoing) = queue();
        for n in 0..QUEUE_MAX {
            assert!(queue.push(n, 1));
        }
        assert!(!queue.push(0, 1));
    }

    #[tokio::test]
    async fn an_ended_line_stops_reading_and_writing() {
        let (ours, _theirs) = tokio::io::duplex(1);
        let mut io = Guarded::new(ours, PeerId([1; 32]));
        io.write_all(b"x").await.expect("room for one byte");
        io.line().end.cancel();
        assert_eq!(io.write(b"y").await.expect_err("ended").kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(io.read_u8().await.expect_err("ended").kind(), io::ErrorKind::ConnectionAborted);
    }
}
