//! The face of the mesh for everyone above it: doors, node role, command line.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_core::ids::{Hash, NodeId, PeerId, ReqId};
use mesh_core::io::{Approval, CallRecord, Command, DiskSpace, Refusal, Reply, View};
use mesh_core::policy::ToolPattern;
use mesh_core::record::{Payload, ToolDecl};
use mesh_core::standing::Standing;
use tokio::sync::{mpsc, oneshot, watch};

use crate::mesh::audit_log::{AuditCursor, AuditFilter, AuditPage};
use crate::mesh::blobs::BlobStore;
use crate::mesh::call_queries::{CallCursor, CallFilter, CallPage};
use crate::mesh::error::MeshError;
use crate::mesh::events::EventLog;
use crate::mesh::joining::{Grant, Invite, InviteInfo, InviteTerms, JoinTarget, Joined};
use crate::mesh::request::Request;
use crate::mesh::snapshot::Surroundings;

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

/// The mesh, for everyone above it. Cheap to clone; every method may be called from any task.
#[derive(Debug, Clone)]
pub struct MeshHandle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) surroundings: watch::Receiver<Arc<Surroundings>>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) blobs: BlobStore,
}

impl MeshHandle {
    /// The mesh as this peer sees it now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The view as it changes.
    #[must_use]
    pub fn watch_view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Links, strangers nearby, devices that await approval.
    #[must_use]
    pub fn surroundings(&self) -> Arc<Surroundings> {
        self.surroundings.borrow().clone()
    }

    /// A receiver of the same, as it changes.
    #[must_use]
    pub fn watch_surroundings(&self) -> watch::Receiver<Arc<Surroundings>> {
        self.surroundings.clone()
    }

    /// Events of the past and their live feed.
    #[must_use]
    pub fn events(&self) -> Arc<EventLog> {
        self.events.clone()
    }

    /// Store of large payloads.
    #[must_use]
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// Returns true once the mesh answers nothing any more: the agent is stopping.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, MeshError> {
        let (tx, rx) = oneshot::channel();
        self.requests.send(request(tx)).await.map_err(|_| MeshError::Stopping)?;
        // Gone unanswered while the driver lives: with the mesh that it was asked in.
        rx.await.map_err(|_| if self.requests.is_closed() { MeshError::Stopping } else { MeshError::Moved })
    }

    /// Runs a command of the core. A refusal is an error.
    pub async fn command(&self, command: Command) -> Result<Reply, MeshError> {
        let reply = self.ask(|tx| Request::Command(command, tx)).await?;
        if let Reply::Refused(refusal) = reply { Err(refusal.into()) } else { Ok(reply) }
    }

    /// One call as this peer knows it.
    pub async fn call(&self, id: ReqId) -> Result<Option<CallRecord>, MeshError> {
        self.ask(|tx| Request::Call(id, tx)).await?
    }

    /// A page of calls, newest first; `limit` at most 200.
    pub async fn calls(
        &self,
        filter: CallFilter,
        after: Option<CallCursor>,
        limit: usize,
    ) -> Result<CallPage, MeshError> {
        self.ask(|tx| Request::Calls(filter, after, limit.min(200), tx)).await?
    }

    /// Waits until the call has an ending (confirmed or not), at most for `wait`; then its state of that moment.
    pub async fn wait_call(&self, id: ReqId, wait: Duration) -> Result<Option<CallRecord>, MeshError> {
        match tokio::time::timeout(wait, self.ask(|tx| Request::Ended(id, tx))).await {
            Ok(call) => call?,
            Err(_) => self.call(id).await,
        }
    }

    /// Calls that wait for a person, as this peer knows them. They are answered with [`Command::Answer`].
    pub async fn approvals(&self) -> Result<Vec<Approval>, MeshError> {
        self.ask(Request::Approvals).await
    }

    /// A call that [`Self::call`] has given, as rights see it here and now.
    pub async fn standing(&self, call: &CallRecord) -> Result<Standing, MeshError> {
        self.ask(|tx| Request::Standing(call.header.clone(), call.origin, tx)).await
    }

    /// A page of the audit as this device keeps it, newest first; `limit` at most 200. Only owners keep any.
    pub async fn audit(
        &self,
        filter: AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> Result<AuditPage, MeshError> {
        self.ask(|tx| Request::Audit(filter, after, limit.min(200), tx)).await?
    }

    /// Makes a single-use invite.
    pub async fn invite(&self, grant: Grant, ttl: Duration, name: Option<NodeId>) -> Result<Invite, MeshError> {
        self.ask(|tx| Request::Invite(InviteTerms { grant, ttl, name }, tx)).await?
    }

    /// The invites that this device has made and still keeps, in no order.
    pub async fn invites(&self) -> Result<Vec<InviteInfo>, MeshError> {
        self.ask(Request::Invites).await
    }

    /// Joins another mesh. `force` = even when that means leaving a mesh of several.
    pub async fn join(&self, target: JoinTarget, force: bool) -> Result<Joined, MeshError> {
        self.ask(|tx| Request::Join(target, force, tx)).await?
    }

    /// Leaves the mesh and founds one of its own.
    pub async fn leave(&self) -> Result<(), MeshError> {
        self.ask(Request::Leave).await?
    }

    /// Approves a device that awaits approval. Defaults: tier shared, the name it asks for. Answers the name that it got.
    pub async fn admit(
        &self,
        peer: PeerId,
        grant: Option<Grant>,
        node_id: Option<NodeId>,
    ) -> Result<NodeId, MeshError> {
        self.ask(|tx| Request::Admit(peer, grant, node_id, tx)).await?
    }

    /// Rejects a device that awaits approval.
    pub async fn reject(&self, peer: PeerId) -> Result<(), MeshError> {
        self.ask(|tx| Request::Reject(peer, tx)).await?
    }

    /// Gives this device another name: in the present mesh, and to ask for in later ones.
    pub async fn rename(&self, name: NodeId) -> Result<(), MeshError> {
        self.ask(|tx| Request::Rename(name, tx)).await
    }

    /// Offers these tools from now on, in place of those before, and shows what this device forbids itself.
    pub async fn offer(&self, tools: Vec<ToolDecl>, deny: Vec<ToolPattern>) -> Result<(), MeshError> {
        self.ask(|tx| Request::Offer(tools, deny, tx)).await
    }

    /// The output of a call: inline, or the file it was fetched into. Waits for a fetch under way, at most `wait`.
    ///
    /// # Errors
    /// [`MeshError::ResultAway`] tells how far the fetch has come.
    pub async fn result(&self, call: &CallRecord, wait: Duration) -> Result<ResultBody, MeshError> {
        match &call.output {
            Payload::Inline(bytes) => Ok(ResultBody::Inline(bytes.clone())),
            Payload::Blob { hash, len } => {
                let (path, len) = (self.blobs.path(*hash), *len);
                if !self.blobs.has(*hash) {
                    if call.header.target == self.view().me {
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
                    let node = self.view().target_name(&call.header).into_owned();
                    Err(MeshError::ResultAway { node, received, len })
                }
            }
        }
    }

    /// Returns true if the output of a call is known to be kept by nobody any more.
    #[must_use]
    pub fn is_result_gone(&self, call: &CallRecord) -> bool {
        let Payload::Blob { hash, .. } = &call.output else { return false };
        let is_ours = call.header.target == self.view().me;
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
