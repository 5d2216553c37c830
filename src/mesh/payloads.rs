//! Arguments and outputs of calls: inline where they are small, else in the blob store and fetched from where they are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_core::ids::{Hash, PeerId};
use mesh_core::io::{CallRecord, DiskSpace, Refusal, View};
use mesh_core::limits::CARD_BYTES_MAX;
use mesh_core::record::Payload;
use tokio::sync::{mpsc, watch};

use crate::mesh::blobs::BlobStore;
use crate::mesh::error::MeshError;
use crate::mesh::request::Request;

/// The bytes of a result.
#[derive(Debug, Clone)]
pub enum ResultBody {
    /// Small.
    Inline(Bytes),
    /// In a file of the blob store.
    File {
        /// Its path.
        path: PathBuf,
        /// Bytes.
        len: u64,
    },
}

/// Reads and keeps what calls carry. See the module.
#[derive(Debug, Clone, Copy)]
pub struct Payloads<'a> {
    pub(super) blobs: &'a BlobStore,
    pub(super) view: &'a watch::Receiver<Arc<View>>,
    pub(super) requests: &'a mpsc::Sender<Request>,
}

impl Payloads<'_> {
    /// Bytes of the result of a call, as its record names them: inline, or the file they were fetched into. Waits for a fetch
    /// under way, at most `wait`.
    ///
    /// # Errors
    /// [`MeshError::ResultAway`] tells how far the fetch has come.
    pub async fn result(&self, call: &CallRecord, of: &Payload, wait: Duration) -> Result<ResultBody, MeshError> {
        match of {
            Payload::Inline(bytes) => Ok(ResultBody::Inline(bytes.clone())),
            Payload::Blob { hash, len } => {
                let (path, len) = (self.blobs.path(*hash), *len);
                if !self.blobs.has(*hash) {
                    if call.header.target == self.view.borrow().me {
                        return Err(MeshError::ResultGone);
                    }
                    let want = Request::Want(*hash, len, call.header.target);
                    self.requests.send(want).await.map_err(|_| MeshError::Stopping)?;
                }
                if self.blobs.wait_for(*hash, wait).await {
                    Ok(ResultBody::File { path, len })
                } else if self.blobs.is_gone(*hash) {
                    Err(MeshError::ResultGone)
                } else {
                    let received = self.blobs.arriving(*hash);
                    let node = self.view.borrow().target_name(&call.header).into_owned();
                    Err(MeshError::ResultAway { node, received, len })
                }
            }
        }
    }

    /// Returns true if these bytes of the result of a call are known to be kept by nobody any more.
    #[must_use]
    pub fn is_gone(&self, call: &CallRecord, of: &Payload) -> bool {
        let Payload::Blob { hash, .. } = of else { return false };
        let is_ours = call.header.target == self.view.borrow().me;
        (is_ours || self.blobs.is_gone(*hash)) && !self.blobs.has(*hash)
    }

    /// The blob of the card of a tool of this device: read, or fetched from there. Waits for it at most `wait`.
    ///
    /// # Errors
    /// [`MeshError::CardAway`].
    pub async fn card(&self, hash: Hash, of: PeerId, wait: Duration) -> Result<Vec<u8>, MeshError> {
        if !self.blobs.has(hash) {
            let want = Request::Want(hash, CARD_BYTES_MAX, of);
            self.requests.send(want).await.map_err(|_| MeshError::Stopping)?;
        }
        let here = self.blobs.wait_for(hash, wait).await;
        let is_card = self.blobs.len_of(hash).is_some_and(|len| len <= CARD_BYTES_MAX);
        if !(here && is_card) {
            return Err(MeshError::CardAway);
        }
        tokio::fs::read(self.blobs.path(hash)).await.map_err(MeshError::Blob)
    }

    /// Keeps arguments for a call: inline when small, else in the blob store.
    pub async fn keep(&self, bytes: Bytes) -> Result<Payload, MeshError> {
        if bytes.len() <= mesh_core::limits::INLINE_BYTES_MAX {
            return Ok(Payload::Inline(bytes));
        }
        let (hash, len) = (Hash::of(&bytes), bytes.len() as u64);
        if let Some(DiskSpace { free, floor }) = self.blobs.disk()
            && free < floor.saturating_add(len)
            && !self.blobs.has(hash)
        {
            return Err(Refusal::DiskFull { free, floor }.into());
        }
        self.blobs.put(hash, bytes).await.map_err(MeshError::Blob)?;
        Ok(Payload::Blob { hash, len })
    }
}
