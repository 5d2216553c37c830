//! Who ends a call without its target's own outcome, and why: pure decisions, one call at a time. Some endings are written down
//! for all ([`InferredEnding`]), some count in one book alone.

use std::sync::Arc;

use super::Open;
use crate::facts::Facts;
use crate::frame::Phase;
use crate::ids::{Attempt, Incarnation, PeerId, ReqId};
use crate::io::{CallRecord, CallState, HistoryRow};
use crate::limits;
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::record::{Ending, Header, Outcome, Source};
use crate::rights::Asked;
use crate::rows::Basis;
use crate::rule_words::{self, STRANGER};

/// Why a call ends in the book of a device that leaves.
pub(super) const LEFT: &str = "this device left the mesh";

/// An ending that somebody other than the target must write down.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InferredEnding {
    pub(crate) id: ReqId,
    pub(crate) attempt: Attempt,
    pub(crate) ending: Ending,
    pub(crate) reason: String,
    /// A cancel request goes out with it, so that the call can no longer start once they meet.
    pub(crate) cancel: bool,
}

/// A call for this peer that is to end without a run.
#[derive(Debug, Clone)]
pub(crate) struct Unrun {
    pub(crate) attempt: Attempt,
    pub(crate) header: Arc<Header>,
    pub(crate) origin: PeerId,
}

impl Unrun {
    pub(super) fn of(record: &CallRecord) -> Self {
        Self { attempt: record.attempt, header: record.header.clone(), origin: record.origin }
    }
}

impl InferredEnding {
    fn of(record: &CallRecord, ending: Ending, reason: &str, cancel: bool) -> Self {
        Self { id: record.header.id, attempt: record.attempt, ending, reason: reason.to_owned(), cancel }
    }
}

/// After time and margin: the origin says so; the gateway does when the origin cannot be asked, or when it has had a
/// second margin and said nothing (its clock may have been lost in a restart, and it believes in much time left).
pub(super) fn overdue(
    me: &PeerId,
    open: &Open,
    asked: Option<&Asked>,
    now: u64,
    facts: &Facts<'_>,
) -> Option<InferredEnding> {
    let Open { record, deadline, .. } = open;
    let (header, origin) = (&record.header, record.origin);
    let margin = 2 * limits::epsilon_ms(header.ttl_ms);
    let silent = now >= deadline + 2 * margin;
    let mine = origin == *me || (facts.leads() && (silent || !facts.election.is_linked(&origin)));
    // Being run at this moment is not "not run in time": its outcome is awaited as long as it may run, and no longer.
    let running = record.state == CallState::Open(Phase::Running);
    if !mine || (running && now < deadline + header.timeout_ms + margin) {
        return None;
    }
    let (ending, reason) = if running {
        (Ending::Interrupted, "no news of its run arrived any more: it may or may not have happened".to_owned())
    } else {
        let late = || "TTL expired before the node started it".to_owned();
        (Ending::Expired, asked.map_or_else(late, |asked| rule_words::no_consent(&asked.asks)))
    };
    Some(InferredEnding::of(record, ending, &reason, true))
}

/// An open call for a peer that does not belong any more, or whose store started anew: its origin says so, or a gateway
/// that cannot ask it. What was for ourselves is our executor's to end: an inference of ours would pass for the
/// target's own outcome.
pub(super) fn undeliverable(me: &PeerId, record: &CallRecord, facts: &Facts<'_>) -> Option<InferredEnding> {
    let (target, origin) = (record.header.target, record.origin);
    if target == *me {
        return None;
    }
    let restored = record.header.target_incarnation.is_some_and(|incarnation| facts.is_over(&target, incarnation));
    let reason = if facts.trust.is_excluded(&target) {
        if record.state == CallState::Open(Phase::Running) {
            "the node does not belong to the mesh any more: it may or may not have happened"
        } else {
            "the node does not belong to the mesh any more"
        }
    } else if restored {
        "the node was restored from an old state: it may or may not have happened"
    } else {
        return None;
    };
    // A restored target that was the origin, too, cannot say anything about it.
    let silent_origin = !facts.election.is_linked(&origin) || (restored && origin == target);
    let mine = origin == *me || (facts.leads() && silent_origin);
    mine.then(|| InferredEnding::of(record, Ending::Undeliverable, reason, false))
}

/// An open call of ours for another, once this peer is excluded: what we asked for will not be done.
pub(super) fn abandoned(me: &PeerId, record: &CallRecord) -> Option<InferredEnding> {
    let (ending, reason) = if record.state == CallState::Open(Phase::Running) {
        let reason = "this device does not belong to the mesh any more: it may or may not have happened";
        (Ending::Interrupted, reason)
    } else {
        (Ending::Undeliverable, "this device does not belong to the mesh any more")
    };
    let ours = record.origin == *me && record.header.target != *me;
    ours.then(|| InferredEnding::of(record, ending, reason, true))
}

/// The unconfirmed ending of a call of ours for another, said by an owner who is none any more, as it read here: what was
/// told to whoever asked, and what others may never hear, since what its author wrote beyond its cut-off reaches nobody.
pub(super) fn said_by_former_owner(
    me: &PeerId,
    record: &CallRecord,
    basis: Basis,
    facts: &Facts<'_>,
) -> Option<Outcome> {
    let CallState::Ended(ending) = record.state else { return None };
    let source = match basis {
        Basis::Inferred(_) => Source::Inferred,
        Basis::Relayed(_) => Source::Relayed(record.header.target),
        Basis::Nothing | Basis::Origin(_) | Basis::Target => return None,
    };
    let said = record.history.last().filter(|row| row.state == record.state)?;
    let ours = record.origin == *me && record.header.target != *me && said.peer != *me;
    (ours && !facts.trust.is_owner(&said.peer)).then(|| Outcome {
        id: record.header.id,
        attempt: record.attempt,
        ending,
        reason: record.reason.clone(),
        output: record.output.clone(),
        parts: record.parts.clone(),
        partial: record.partial,
        error: record.error.clone(),
        at_ms: said.at_ms,
        started_ms: 0,
        alias_of: record.alias_of,
        source,
    })
}

/// An open call, not running, that what is said about rights forbids by now: its origin says so, or a gateway. What
/// depends on the target alone (what it offers, and forbids itself) that one says.
pub(super) fn denied(
    me: &PeerId,
    record: &CallRecord,
    why: &str,
    facts: &Facts<'_>,
    rules: ProtocolRules,
) -> Option<InferredEnding> {
    let waits = record.state != CallState::Open(Phase::Running);
    let mine = record.header.target != *me && (record.origin == *me || facts.leads());
    let denies = waits && mine && rules.enforces(ProtocolRule::PolicyAtDispatch);
    denies.then(|| InferredEnding::of(record, Ending::Denied, why, false))
}

/// Why this book gives up an open call of a device that does not belong any more: nobody will run it, so what it takes is
/// free. `is_run`: whether our executor has it, and ends it.
pub(super) fn of_stranger(
    me: &PeerId,
    record: &CallRecord,
    is_run: impl Fn(&ReqId) -> bool,
    facts: &Facts<'_>,
) -> Option<&'static str> {
    let others = record.origin != *me && (record.header.target != *me || !is_run(&record.header.id));
    (others && facts.trust.is_excluded(&record.origin)).then_some(STRANGER)
}

/// Why this book gives up an open call that was meant for another incarnation of this device than its `own`.
pub(super) fn of_former_incarnation(me: &PeerId, own: Incarnation, record: &CallRecord) -> Option<&'static str> {
    let former = record.header.target == *me && !record.header.is_for(own);
    former.then_some("this device was restored from an old state: it may or may not have happened")
}

/// The row of a call that the book of `me` gives up.
pub(super) fn given_up(me: PeerId, attempt: Attempt, reason: &str, at_ms: u64) -> HistoryRow {
    let state = CallState::Ended(Ending::Undeliverable);
    HistoryRow { state, attempt, at_ms, peer: me, reason: reason.to_owned(), confirmed: false }
}

/// True of a call of others that reads as interrupted because the attempt after that was never told of here.
pub(super) fn is_given_up(me: &PeerId, record: &CallRecord) -> bool {
    let others = record.origin != *me && record.header.target != *me;
    others
        && record.state == CallState::Ended(Ending::Interrupted)
        && record.history.iter().any(|row| row.attempt > record.attempt)
}
