//! Blobs: one stream each, at a priority below everything else, from file to file.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_core::ids::{Hash, PeerId};
use prost::Message as _;
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::stream::{self, StreamError, Tag};
use crate::mesh::blobs::{BlobError, BlobStore};
use crate::pb;

/// Time without a byte after which a transfer is given up.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Below the frames, whose streams have priority 0: a screenshot never delays a call.
const PRIORITY: i32 = -1;
/// Bytes read and written at a time.
const CHUNK: usize = 64 * 1024;
/// Request and header are far smaller.
const HEAD_BYTES_MAX: usize = 128;

/// Why a blob did not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// No link to the peer.
    #[error("the peer is not linked")]
    NotLinked,
    /// The peer does not have it.
    #[error("the peer does not have it")]
    NotFound,
    /// More bytes than asked for.
    #[error("it has {len} bytes, more than expected")]
    TooLarge {
        /// As the peer announced.
        len: u64,
    },
    /// No byte for ten seconds.
    #[error("the transfer stalled")]
    Stalled,
    /// The link went down, or the peer broke off or said nonsense.
    #[error("the transfer broke off")]
    Broken,
    /// The bytes are not those that were asked for.
    #[error("the peer sent other bytes than those asked for")]
    WrongBytes,
    /// Our own disk.
    #[error("writing to the local blob store")]
    Store(#[source] io::Error),
}

/// Gets a blob into our store.
pub(super) async fn fetch(
    connection: &quinn::Connection,
    blobs: &BlobStore,
    hash: Hash,
    len_max: u64,
) -> Result<u64, FetchError> {
    let opening = async {
        let (mut send, mut recv) = stream::open(connection, Tag::Blob).await?;
        let request = pb::BlobRequest { hash: Bytes::copy_from_slice(&hash.0) };
        stream::write_message(&mut send, request.encode_to_vec().into()).await?;
        let _ = send.finish();
        let head = stream::read_message(&mut recv, HEAD_BYTES_MAX).await?.ok_or(StreamError::Broken)?;
        Ok::<_, StreamError>((head, recv))
    };
    let (head, mut recv) =
        timeout(STALL_MAX, opening).await.map_err(|_| FetchError::Stalled)?.map_err(|_| FetchError::Broken)?;
    let head = pb::BlobHeader::decode(head).map_err(|_| FetchError::Broken)?;
    if !head.found {
        return Err(FetchError::NotFound);
    }
    if head.len > len_max {
        return Err(FetchError::TooLarge { len: head.len });
    }
    let mut writer = blobs.writer_of(hash, head.len).map_err(FetchError::Store)?;
    loop {
        let chunk = timeout(STALL_MAX, recv.read_chunk(CHUNK, true)).await.map_err(|_| FetchError::Stalled)?;
        let Some(chunk) = chunk.map_err(|_| FetchError::Broken)? else { break };
        if writer.len() + chunk.bytes.len() as u64 > head.len {
            return Err(FetchError::WrongBytes);
        }
        writer.write_all(&chunk.bytes).await.map_err(FetchError::Store)?;
    }
    if writer.len() < head.len {
        return Err(FetchError::Broken);
    }
    match writer.finish(Some(hash)).await {
        Ok((_, len)) => Ok(len),
        Err(BlobError::WrongHash { .. }) => Err(FetchError::WrongBytes),
        Err(BlobError::Io(error)) => Err(FetchError::Store(error)),
        Err(error) => Err(FetchError::Store(io::Error::other(error))),
    }
}

/// Decides who gets a blob.
pub trait BlobReaders: Debug + Send + Sync {
    /// True if this peer may have the blob. May block for as long as the store takes.
    fn may_read(&self, peer: &PeerId, hash: &Hash) -> bool;
}

/// Answers one request of `peer` from our store. What it may not have reads as not there, and without `readers` all does.
pub(super) async fn serve(
    blobs: &BlobStore,
    peer: PeerId,
    readers: Option<Arc<dyn BlobReaders>>,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let _ = send.set_priority(PRIORITY);
    let Ok(Ok(Some(request))) = timeout(STALL_MAX, stream::read_message(&mut recv, HEAD_BYTES_MAX)).await else {
        return;
    };
    let Some(hash) = pb::BlobRequest::decode(request).ok().and_then(|request| Hash::from_slice(&request.hash)) else {
        return;
    };
    let asked = move || readers.is_some_and(|readers| readers.may_read(&peer, &hash));
    let may_read = tokio::task::spawn_blocking(asked).await.unwrap_or(false);
    let file = if may_read { blobs.open_read(hash).await.ok() } else { None };
    let head = pb::BlobHeader { found: file.is_some(), len: file.as_ref().map_or(0, |(_, len)| *len) };
    let mut room = send_within(stream::write_message(&mut send, head.encode_to_vec().into())).await.is_some();
    if let Some((mut file, _)) = file {
        let mut chunk = vec![0; CHUNK];
        while room {
            let Ok(read) = file.read(&mut chunk).await else { return };
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            room = send_within(send.write_all(bytes)).await.is_some();
        }
    }
    if room {
        let _ = send.finish();
        let _ = timeout(STALL_MAX, send.stopped()).await;
    }
}

/// The result of a write, unless it failed or the peer took nothing for ten seconds.
async fn send_within<T, E>(write: impl Future<Output = Result<T, E>>) -> Option<T> {
    timeout(STALL_MAX, write).await.ok()?.ok()
}
