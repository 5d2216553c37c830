//! The face of the mesh for everyone above it: doors, node role, command line.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::{NodeId, PeerId, ReqId};
use mesh_core::io::{Approval, CallRecord, Command, Reply, View};
use mesh_core::policy::ToolPattern;
use mesh_core::record::ToolDecl;
use mesh_core::standing::{HeldAnswer, Standing};
use tokio::sync::{mpsc, oneshot, watch};

use crate::mesh::audit_log::{AuditCursor, AuditFilter, AuditPage};
use crate::mesh::blobs::BlobStore;
use crate::mesh::call_queries::{CallCursor, CallFilter, CallPage};
use crate::mesh::error::MeshError;
use crate::mesh::events::EventLog;
use crate::mesh::joining::{Grant, Invite, InviteInfo, InviteTerms, JoinTarget, Joined};
use crate::mesh::payloads::Payloads;
use crate::mesh::request::Request;
use crate::mesh::snapshot::Surroundings;

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

    /// Arguments and outputs of calls.
    #[must_use]
    pub const fn payloads(&self) -> Payloads<'_> {
        Payloads { blobs: &self.blobs, view: &self.view, requests: &self.requests }
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

    /// The yeses for an hour that are held here and count. They are taken back with [`Command::TakeBack`].
    pub async fn hours(&self) -> Result<Vec<HeldAnswer>, MeshError> {
        self.ask(Request::Hours).await
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
}
