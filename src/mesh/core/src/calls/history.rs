//! Histories of calls: which steps of a call are told, in the order in which they became known here.

use super::Book;
use crate::effects::Effects;
use crate::frame::Phase;
use crate::ids::{Attempt, PeerId, ReqId};
use crate::io::{CallRecord, CallState, Fact, HistoryRow};
use crate::limits;

/// Rows of one call's history; then the middle is left out.
const HISTORY_MAX: usize = 64;

impl Book {
    /// A row of history; told at once unless it is an ending, which is told when durable.
    pub(super) fn note(&mut self, id: &ReqId, row: HistoryRow, fx: &mut Effects<'_>) {
        let Some(open) = self.open.get_mut(id) else { return };
        open.record.state = row.state;
        open.record.attempt = row.attempt;
        if let CallState::Open(_) = row.state {
            fx.fact(Fact::Call(*id, row.clone()));
        }
        if open.record.history.len() >= HISTORY_MAX {
            open.record.history.remove(HISTORY_MAX / 2);
        }
        open.record.history.push(row);
    }

    /// This peer has said itself what its book read by another's word, so that it does so once.
    pub(crate) fn note_said_here(&mut self, id: &ReqId, fx: &mut Effects<'_>) {
        let said = self.open.get(id).and_then(|open| open.record.history.last()).filter(|row| row.peer != self.me);
        if let Some(row) = said {
            let row = HistoryRow { peer: self.me, ..row.clone() };
            self.note(id, row, fx);
            self.save(id, fx);
        }
    }

    /// Calls of ours that do not get on, since no linked device may or can bring what they wait for: it is said in their
    /// histories, once until something else happens.
    pub(crate) fn note_withheld(
        &mut self,
        of: impl Fn(&CallRecord) -> bool,
        reason: &'static str,
        fx: &mut Effects<'_>,
    ) {
        let mine = self.open.values().map(|open| &open.record).filter(|record| record.origin == self.me);
        let told = |record: &CallRecord| record.history.last().is_some_and(|row| row.reason == reason);
        let waiting: Vec<(ReqId, Phase, Attempt)> = mine
            .filter(|record| record.header.target != self.me && of(record) && !told(record))
            .filter_map(|record| match record.state {
                CallState::Open(phase) => Some((record.header.id, phase, record.attempt)),
                CallState::Ended(_) => None,
            })
            .collect();
        for (id, phase, attempt) in waiting {
            self.phase(&id, phase, attempt, self.me, reason, fx);
            self.save(&id, fx);
        }
    }

    /// The target says when it started the tool: that is the time of the row, also where somebody received it later.
    pub(super) fn note_start(&mut self, id: &ReqId, attempt: Attempt, at_ms: u64, fx: &mut Effects<'_>) {
        let Some(open) = self.open.get_mut(id).filter(|_| at_ms > 0) else { return };
        let state = CallState::Open(Phase::Running);
        let peer = open.record.header.target;
        let told = open.record.history.iter_mut().find(|row| row.state == state && row.attempt == attempt);
        if let Some(row) = told {
            row.at_ms = at_ms;
        } else {
            self.note(id, HistoryRow { state, attempt, at_ms, peer, reason: String::new(), confirmed: true }, fx);
        }
    }

    /// A step of a call on its way, if it is ahead of what is known.
    pub(super) fn phase(
        &mut self,
        id: &ReqId,
        phase: Phase,
        attempt: Attempt,
        peer: PeerId,
        reason: &str,
        fx: &mut Effects<'_>,
    ) {
        let Some(open) = self.open.get(id) else { return };
        let state = CallState::Open(phase);
        let ahead = match open.record.state {
            CallState::Open(now) => (attempt, phase) > (open.record.attempt, now) || !reason.is_empty(),
            CallState::Ended(_) => false,
        };
        if ahead {
            let row = HistoryRow {
                state,
                attempt,
                at_ms: fx.now.wall_ms,
                peer,
                reason: limits::cut(reason, 200).to_owned(),
                confirmed: true,
            };
            self.note(id, row, fx);
        }
    }
}
