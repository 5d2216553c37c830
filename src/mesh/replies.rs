//! Replies of the core that somebody waits for.

use std::collections::BTreeMap;

use mesh_core::io::{CmdId, Reply};
use tokio::sync::oneshot;

use crate::mesh::admission::Errand;

/// The receiver of a reply.
#[derive(Debug)]
pub(super) enum ReplyTo {
    /// A door, which takes it as it is.
    Door(oneshot::Sender<Reply>),
    /// The admission.
    Admission(Errand),
}

/// The receivers by number of their command.
#[derive(Debug, Default)]
pub(super) struct Replies {
    last: CmdId,
    waiting: BTreeMap<CmdId, ReplyTo>,
}

impl Replies {
    /// Numbers a command; its reply goes to `to`, or to nobody.
    pub(super) fn expect(&mut self, to: Option<ReplyTo>) -> CmdId {
        self.last += 1;
        if let Some(to) = to {
            self.waiting.insert(self.last, to);
        }
        self.last
    }

    /// Takes the receiver of the reply to this command.
    pub(super) fn take(&mut self, id: CmdId) -> Option<ReplyTo> {
        self.waiting.remove(&id)
    }

    /// Drops all receivers: their commands were of a mesh that we have left.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}
