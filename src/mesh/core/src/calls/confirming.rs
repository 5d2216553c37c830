//! Endings of calls for this peer that others gave up, and that are its own to confirm (`docs/decisions/0085`): that one was
//! denied as soon as it hears so, any other once the call's time is over.

use super::{Book, Open, Unrun};
use crate::ids::{Incarnation, PeerId, ReqId};
use crate::io::CallState;
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::record::Ending;

/// A call for this peer that never reached its journal, and that may be said of it, confirmed.
#[derive(Debug)]
pub(crate) enum Confirmed {
    /// Others denied it, with this reason.
    Denied(Unrun, String),
    /// Its time is over.
    Expired(Unrun),
}

impl Open {
    fn is_denied(&self) -> bool {
        self.record.state == CallState::Ended(Ending::Denied)
    }

    /// When a call that has ended is looked at again: the books keep it for `keep_ms` after its time, in case that its
    /// target says otherwise; one for `me` that others gave up is ours to confirm.
    pub(super) fn due_once_ended(&self, me: &PeerId, keep_ms: u64) -> u64 {
        let ours_to_confirm = self.record.header.target == *me && !self.record.confirmed;
        match (ours_to_confirm, self.is_denied()) {
            (true, true) => 0,
            (true, false) => self.deadline,
            (false, _) => self.deadline.saturating_add(keep_ms),
        }
    }
}

impl Book {
    /// Those of these calls that are ours to confirm now.
    pub(crate) fn to_confirm(&self, ids: &[ReqId], own: Incarnation, now: u64, rules: ProtocolRules) -> Vec<Confirmed> {
        let denies = rules.enforces(ProtocolRule::DenialConfirmed);
        let ours = ids.iter().filter_map(|id| self.open.get(id)).filter(|open| {
            let header = &open.record.header;
            header.target == self.me && header.is_for(own) && !open.record.confirmed
        });
        ours.filter_map(|open| {
            if open.is_denied() && denies {
                Some(Confirmed::Denied(Unrun::of(&open.record), open.record.reason.clone()))
            } else {
                (open.deadline <= now).then(|| Confirmed::Expired(Unrun::of(&open.record)))
            }
        })
        .collect()
    }
}
