//! Streams of a connection: what the first byte says they are for, length-delimited messages, and [`NodeIo`].

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use mesh_core::ids::{PeerId, PublicKey};
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// The first byte of every stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Tag {
    /// Frames of the mesh; there is one, opened by whoever dialled.
    Mesh = 1,
    /// The same, in place of a link whose address the dialler has lost.
    Moved = 5,
    /// A `NodeService` connection: HTTP/2.
    Node = 2,
    /// A request to join and its answers.
    Join = 3,
    /// One blob.
    Blob = 4,
}

impl Tag {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Mesh,
            2 => Self::Node,
            3 => Self::Join,
            4 => Self::Blob,
            5 => Self::Moved,
            _ => return None,
        })
    }
}

/// Why a stream gave no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("the stream broke")]
    Broken,
    #[error("a message of {0} bytes is over the limit")]
    TooLarge(usize),
    #[error("a stream of unknown kind {0}")]
    Tag(u8),
}

/// Opens a stream; the peer sees it with the first bytes, so they go out at once.
pub(super) async fn open(connection: &quinn::Connection, tag: Tag) -> Result<(SendStream, RecvStream), StreamError> {
    let (mut send, recv) = connection.open_bi().await.map_err(|_| StreamError::Broken)?;
    send.write_all(&[tag as u8]).await.map_err(|_| StreamError::Broken)?;
    Ok((send, recv))
}

pub(super) async fn read_tag(recv: &mut RecvStream) -> Result<Tag, StreamError> {
    let [byte] = read_array(recv).await?;
    Tag::from_byte(byte).ok_or(StreamError::Tag(byte))
}

pub(super) async fn read_array<const N: usize>(recv: &mut RecvStream) -> Result<[u8; N], StreamError> {
    let mut bytes = [0; N];
    recv.read_exact(&mut bytes).await.map_err(|_| StreamError::Broken)?;
    Ok(bytes)
}

/// Reads one message: four bytes of length, big endian, then the bytes. `None` at a clean end.
pub(super) async fn read_message(recv: &mut RecvStream, max: usize) -> Result<Option<Bytes>, StreamError> {
    let mut prefix = [0; 4];
    match recv.read_exact(&mut prefix).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(_) => return Err(StreamError::Broken),
    }
    let len = u32::from_be_bytes(prefix) as usize;
    if len > max {
        return Err(StreamError::TooLarge(len));
    }
    let mut bytes = vec![0; len];
    recv.read_exact(&mut bytes).await.map_err(|_| StreamError::Broken)?;
    Ok(Some(bytes.into()))
}

/// Writes one message. It must not be longer than `u32::MAX`; all of ours have limits far below.
pub(super) async fn write_message(send: &mut SendStream, bytes: Bytes) -> Result<(), StreamError> {
    let len = u32::try_from(bytes.len()).map_err(|_| StreamError::TooLarge(bytes.len()))?;
    let mut chunks = [Bytes::copy_from_slice(&len.to_be_bytes()), bytes];
    send.write_all_chunks(&mut chunks).await.map_err(|_| StreamError::Broken)
}

/// Who is at the other end of a [`NodeIo`]; tonic puts it into the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePeer {
    /// Identity, proven by the link.
    pub peer: PeerId,
    /// Its key.
    pub key: PublicKey,
    /// Where the link goes to.
    pub address: SocketAddr,
}

/// One `NodeService` connection: a QUIC stream of a link, to be read and written like a TCP connection.
#[derive(Debug)]
pub struct NodeIo {
    /// Identity of the other end, proven by the link.
    pub peer: PeerId,
    /// Its key.
    pub key: PublicKey,
    /// Where the link goes to.
    pub address: SocketAddr,
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
}

impl Connected for NodeIo {
    type ConnectInfo = NodePeer;

    fn connect_info(&self) -> NodePeer {
        NodePeer { peer: self.peer, key: self.key, address: self.address }
    }
}

impl AsyncRead for NodeIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buf)
    }
}

impl AsyncWrite for NodeIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}
