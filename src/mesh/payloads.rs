//! Arguments and outputs of calls: inline where they are small, else in the blob store and fetched from where they are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_core::ids::Hash;
use mesh_core::io::{CallRecord, DiskSpace, Refusal, View};
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
    /// The output of a call: inline, or the file it was fetched into. Waits for a fetch under way, at most `wait`.
    ///
    /// # Errors
    /// [`MeshError::ResultAway`] tells how far the fetch has come.
    pub async fn output(&self, call: &CallRecord, wait: Duration) -> Result<ResultBody, MeshError> {
        match &call.output {
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

    /// Returns true if the output of a call is known to be kept by nobody any more.
    #[must_use]
    pub fn is_output_gone(&self, call: &CallRecord) -> bool {
        let Payload::Blob { hash, .. } = &call.output else { return false };
        let is_ours = call.header.target == self.view.borrow().me;
        (is_ours || self.blobs.is_gone(*hash)) && !self.blobs.has(*hash)
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
