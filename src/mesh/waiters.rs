//! Doors that wait for the ending of a call.

use std::collections::BTreeMap;

use mesh_core::ids::ReqId;
use mesh_core::io::CallRecord;
use tokio::sync::oneshot;

use crate::mesh::error::MeshError;

/// The way back for one call, or for the answer that there is none.
pub(crate) type CallAnswer = oneshot::Sender<Result<Option<CallRecord>, MeshError>>;

/// The way back to each door that waits, by call.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    by_call: BTreeMap<ReqId, Vec<CallAnswer>>,
}

impl Waiters {
    /// Lets a door wait for the ending of an open call.
    pub(super) fn add(&mut self, id: ReqId, reply: CallAnswer) {
        self.by_call.entry(id).or_default().push(reply);
    }

    /// Takes those that wait for this call.
    pub(super) fn take(&mut self, id: &ReqId) -> Vec<CallAnswer> {
        self.by_call.remove(id).unwrap_or_default()
    }

    /// Takes all of them.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = (ReqId, CallAnswer)> + use<> {
        let all = std::mem::take(&mut self.by_call);
        all.into_iter().flat_map(|(id, replies)| replies.into_iter().map(move |reply| (id, reply)))
    }

    /// Drops those that did not want to wait any longer.
    pub(super) fn drop_closed(&mut self) {
        self.by_call.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
    }

    /// Returns true if nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.by_call.is_empty()
    }
}
