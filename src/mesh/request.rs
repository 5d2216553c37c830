//! Requests of the handle to the driver.

use std::sync::Arc;

use mesh_core::audit_record::AuditRow;
use mesh_core::ids::{Hash, NodeId, PeerId, ReqId};
use mesh_core::io::{Approval, Command, Reply};
use mesh_core::policy::ToolPattern;
use mesh_core::record::{Header, ToolDecl};
use mesh_core::standing::{HeldAnswer, Standing};
use tokio::sync::oneshot;

use crate::mesh::audit_log::{AuditCursor, AuditFilter, AuditPage};
use crate::mesh::call_queries::{CallCursor, CallFilter, CallPage};
use crate::mesh::error::MeshError;
use crate::mesh::joining::{Grant, Invite, InviteInfo, InviteTerms, JoinTarget, Joined};
use crate::mesh::waiters::CallAnswer;

/// One request, with the way back for its answer.
#[derive(Debug)]
pub(crate) enum Request {
    Command(Command, oneshot::Sender<Reply>),
    Call(ReqId, CallAnswer),
    /// Answered when the call has ended; at once when there is no such call.
    Ended(ReqId, CallAnswer),
    Calls(CallFilter, Option<CallCursor>, usize, oneshot::Sender<Result<CallPage, MeshError>>),
    /// What owners keep of the audit.
    Audit(AuditFilter, Option<AuditCursor>, usize, oneshot::Sender<Result<AuditPage, MeshError>>),
    /// A door has refused something itself; nobody waits for an answer.
    Refused(Box<AuditRow>),
    /// Calls that wait for a person.
    Approvals(oneshot::Sender<Vec<Approval>>),
    /// Yeses for an hour.
    Hours(oneshot::Sender<Vec<HeldAnswer>>),
    /// A call of this header and origin, as rights see it.
    Standing(Arc<Header>, PeerId, oneshot::Sender<Standing>),
    Invite(InviteTerms, oneshot::Sender<Result<Invite, MeshError>>),
    /// The invites that are kept here.
    Invites(oneshot::Sender<Vec<InviteInfo>>),
    Join(JoinTarget, bool, oneshot::Sender<Result<Joined, MeshError>>),
    Leave(oneshot::Sender<Result<(), MeshError>>),
    Admit(PeerId, Option<Grant>, Option<NodeId>, oneshot::Sender<Result<NodeId, MeshError>>),
    Reject(PeerId, oneshot::Sender<Result<(), MeshError>>),
    Want(Hash, u64, PeerId),
    /// Answered when it shows in the view.
    Rename(NodeId, oneshot::Sender<()>),
    /// Answered when the core has been told.
    Offer(Vec<ToolDecl>, Vec<ToolPattern>, oneshot::Sender<()>),
}
