//! Streams of a connection: what the first bytes say they are for, length-delimited messages, and [`ServiceIo`].

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use mesh_core::ids::{PeerId, PublicKey};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::address::Address;

/// A service that peers offer each other over their links. What a peer offers is in its directory record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u16);

impl ServiceId {
    /// `NodeService`, as HTTP/2: the stream of a node at its gateway.
    pub const NODE: Self = Self(1);
    /// Memory between its holders: frames of `memory_core::replica`.
    pub const MEMORY: Self = Self(2);
    /// Being reached by a relay. Streams of it, and of the next, stay within the links.
    pub const RELAYED: Self = Self(mesh_core::relay::RELAYED_SERVICE);
    /// Relaying for others.
    pub const RELAYING: Self = Self(mesh_core::relay::RELAYING_SERVICE);
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first bytes of every stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// Frames of the mesh; there is one, opened by whoever dialled.
    Mesh,
    /// The same, in place of a link whose address the dialler has lost.
    Moved,
    /// The bytes of a service. Its number follows, two bytes, big endian.
    Service(ServiceId),
    /// A request to join and its answers.
    Join,
    /// One blob.
    Blob,
    /// Asks for the name of this device, which it tells on networks that it knows.
    Who,
}

impl Tag {
    const MESH: u8 = 1;
    const SERVICE: u8 = 2;
    const JOIN: u8 = 3;
    const BLOB: u8 = 4;
    const MOVED: u8 = 5;
    const WHO: u8 = 6;

    fn encode(self) -> Bytes {
        match self {
            Self::Mesh => Bytes::from_static(&[Self::MESH]),
            Self::Moved => Bytes::from_static(&[Self::MOVED]),
            Self::Service(ServiceId(id)) => {
                let [high, low] = id.to_be_bytes();
                Bytes::copy_from_slice(&[Self::SERVICE, high, low])
            }
            Self::Join => Bytes::from_static(&[Self::JOIN]),
            Self::Blob => Bytes::from_static(&[Self::BLOB]),
            Self::Who => Bytes::from_static(&[Self::WHO]),
        }
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
    send.write_chunk(tag.encode()).await.map_err(|_| StreamError::Broken)?;
    Ok((send, recv))
}

pub(super) async fn read_tag(recv: &mut RecvStream) -> Result<Tag, StreamError> {
    let [byte] = read_array(recv).await?;
    Ok(match byte {
        Tag::MESH => Tag::Mesh,
        Tag::MOVED => Tag::Moved,
        Tag::SERVICE => Tag::Service(ServiceId(u16::from_be_bytes(read_array(recv).await?))),
        Tag::JOIN => Tag::Join,
        Tag::BLOB => Tag::Blob,
        Tag::WHO => Tag::Who,
        unknown => return Err(StreamError::Tag(unknown)),
    })
}

/// Why one stream was refused, as its opener learns it. The link goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum StreamCode {
    /// The service is not offered here.
    UnknownService = 1,
    /// One of this kind is under way already.
    Busy = 2,
}

impl StreamCode {
    /// Refuses a stream.
    pub(super) fn refuse(self, send: &mut SendStream, recv: &mut RecvStream) {
        // An error says that the stream has ended already.
        let _ = send.reset(self.code());
        let _ = recv.stop(self.code());
    }

    fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
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

/// The other end of a [`ServiceIo`]; tonic puts it into the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePeer {
    /// Its identity, proven by the link.
    pub peer: PeerId,
    /// Its key.
    pub key: PublicKey,
    /// Its address on the link.
    pub address: Address,
}

/// The peer does not offer the service. In an [`io::Error`] of a [`ServiceIo`], of kind `Unsupported`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not know service {0}")]
pub struct UnknownService(pub ServiceId);

/// One stream of a service, to be read and written like a TCP connection. If the peer does not know the service,
/// reading and writing fail with [`UnknownService`].
#[derive(Debug)]
pub struct ServiceIo {
    pub(super) service: ServiceId,
    pub(super) peer: ServicePeer,
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
}

impl ServiceIo {
    /// The other end.
    #[must_use]
    pub fn peer(&self) -> &ServicePeer {
        &self.peer
    }

    /// Shows a refusal as what it is.
    fn explain(&self, error: io::Error) -> io::Error {
        let cause = error.get_ref();
        let read = match cause.and_then(|cause| cause.downcast_ref::<ReadError>()) {
            Some(ReadError::Reset(code)) => Some(*code),
            Some(_) | None => None,
        };
        let written = match cause.and_then(|cause| cause.downcast_ref::<WriteError>()) {
            Some(WriteError::Stopped(code)) => Some(*code),
            Some(_) | None => None,
        };
        if read.or(written) == Some(StreamCode::UnknownService.code()) {
            io::Error::new(io::ErrorKind::Unsupported, UnknownService(self.service))
        } else {
            error
        }
    }
}

impl Connected for ServiceIo {
    type ConnectInfo = ServicePeer;

    fn connect_info(&self) -> ServicePeer {
        self.peer.clone()
    }
}

impl AsyncRead for ServiceIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buf).map_err(|error| self.explain(error))
    }
}

impl AsyncWrite for ServiceIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf).map_err(|error| self.explain(error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}
