//! Commands to the cores that are not answered yet.

use std::collections::BTreeMap;

use mesh_core::ids::ReqId;
use mesh_core::io::{AnswerChoice, CmdId};

/// Reason for a command.
pub(super) enum Purpose {
    /// Of a call of the plan, by a peer that held itself for an owner, or not.
    Ask {
        index: usize,
        by_owner: bool,
    },
    Cancel,
    /// Of a call that asked.
    Answer {
        call: ReqId,
        choice: AnswerChoice,
    },
    /// Of the removal of a peer with what it said about rights.
    Unsay {
        by: usize,
        peer: usize,
    },
    Approve(usize),
    Invite(usize),
    Redeem(usize),
    Stop(u64),
    Leave,
    Other,
}

/// Open commands, by their ids.
#[derive(Default)]
pub(super) struct Commands {
    open: BTreeMap<CmdId, (Purpose, u64)>,
    newest: CmdId,
}

impl Commands {
    /// Notes a command that is given now; its id.
    pub(super) fn add(&mut self, purpose: Purpose, now: u64) -> CmdId {
        self.newest += 1;
        self.open.insert(self.newest, (purpose, now));
        self.newest
    }

    /// Takes a command that was answered: its reason, and when it was given.
    pub(super) fn take(&mut self, id: CmdId) -> Option<(Purpose, u64)> {
        self.open.remove(&id)
    }

    /// Id of the newest command.
    pub(super) fn newest(&self) -> CmdId {
        self.newest
    }
}
