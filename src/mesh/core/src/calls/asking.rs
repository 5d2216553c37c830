//! Calls that wait for a person's yes, and the look at all that waits when something about rights has changed.
//!
//! Which calls ask is in no row: it follows from the book and the rights of the moment, here as at every other peer. So
//! each device of an approver finds them by itself, and a restart loses none.

use std::collections::{BTreeMap, BTreeSet};

use super::{Book, InferredEnding, Open, PROGRESS_AFTER_MS, Unrun, inferred};
use crate::audience::Audience;
use crate::effects::Effects;
use crate::facts::Facts;
use crate::frame::{Frame, Phase};
use crate::ids::{Hash, PeerId, ReqId};
use crate::io::CallState;
use crate::limits;
use crate::protocol_rule::ProtocolRule;
use crate::rights::{Asked, Ruling};
use crate::rule_words;

/// Why a call waits of which its target says so.
const TARGET_ASKS: &str = "as the node knows the rules, a person has to say yes first";

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Asking {
    calls: BTreeMap<ReqId, Asked>,
    /// Calls to look at next.
    soon: BTreeSet<ReqId>,
    /// The first call that the look at all has not come to; `None`: there is no look.
    next: Option<ReqId>,
    /// Something has changed since that look began.
    again: bool,
}

/// All that a look at calls has found.
#[derive(Debug, Default)]
pub(crate) struct Redecided {
    /// Calls that are denied, to be said for all.
    pub(crate) denied: Vec<InferredEnding>,
    /// Calls for ourselves that are denied, and why.
    pub(crate) denied_here: Vec<(Unrun, String)>,
    /// Calls for ourselves that ask by now.
    pub(crate) asking_here: Vec<ReqId>,
    /// True if others may go out by now.
    pub(crate) frees: bool,
}

impl Asking {
    pub(super) fn asked(&self, id: &ReqId) -> Option<&Asked> {
        self.calls.get(id)
    }

    /// The call is over, or on its way.
    pub(super) fn forget(&mut self, id: &ReqId) -> Option<Asked> {
        self.soon.remove(id);
        self.calls.remove(id)
    }

    /// The next calls to look at, and whether they are part of the look at all.
    fn take(&mut self, open: &BTreeMap<ReqId, Open>) -> Vec<(ReqId, bool)> {
        let mut taken: Vec<(ReqId, bool)> = std::mem::take(&mut self.soon).into_iter().map(|id| (id, false)).collect();
        let Some(next) = self.next.take() else { return taken };
        let mut rest = open.range(next..);
        taken.extend(rest.by_ref().take(limits::REDECIDED_PER_STEP_MAX).map(|(id, _)| (*id, true)));
        self.next = rest.next().map(|(id, _)| *id);
        if self.next.is_none() && std::mem::take(&mut self.again) {
            self.next = Some(ReqId([0; 16]));
        }
        taken
    }
}

impl Open {
    /// Decision on it here; `None` for one that is over.
    pub(super) fn ruling(&self, facts: &Facts<'_>, fx: &Effects<'_>) -> Option<Ruling> {
        let entry = self.entry.as_ref().filter(|_| !self.ended())?;
        Some(facts.rights.rule(
            &self.record.header,
            (self.record.origin, entry.hash),
            (facts.logs, facts.trust),
            fx.rules,
        ))
    }
}

impl Book {
    /// Something about rights has changed: all that waits is looked at again, [`limits::REDECIDED_PER_STEP_MAX`] calls in
    /// a step.
    pub(crate) fn redecide_all(&mut self) {
        self.asking.again = self.asking.next.is_some();
        self.asking.next.get_or_insert(ReqId([0; 16]));
    }

    /// One call is to be looked at in this step.
    pub(crate) fn redecide_soon(&mut self, id: &ReqId) {
        self.asking.soon.insert(*id);
    }

    /// When [`Self::redecide`] is due.
    pub(crate) fn redecide_timeout(&self) -> Option<u64> {
        let due = self.asking.next.is_some() || !self.asking.soon.is_empty();
        due.then_some(0)
    }

    /// Decides anew on calls that wait: what asks leaves the queue, what may go comes back.
    pub(crate) fn redecide(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) -> Redecided {
        let mut redecided = Redecided::default();
        for (id, by_change) in self.asking.take(&self.open) {
            redecided.frees |= by_change;
            let Some(open) = self.open.get(&id) else { continue };
            let Some(mut ruling) = open.ruling(facts, fx) else { continue };
            if self.is_beyond_its_one(&id, &open.record.origin, facts) {
                ruling = Ruling::No { why: rule_words::beyond_its_one(), of_target: false };
            }
            let mine = open.record.header.target == self.me;
            match ruling {
                Ruling::Ask(asked) => {
                    if mine {
                        redecided.asking_here.push(id);
                    }
                    self.park(&id, asked, facts, fx);
                }
                Ruling::No { why, of_target } => {
                    // A gateway sends itself nothing that it holds back: it says so as the target that it is.
                    if mine && (by_change || facts.leads() && !of_target) {
                        redecided.denied_here.push((Unrun::of(&open.record), why));
                    } else if !of_target {
                        redecided.denied.extend(inferred::denied(&self.me, &open.record, &why, facts, fx.rules));
                    }
                }
                Ruling::Go { consents } => {
                    redecided.frees |= self.unpark(&id, &facts.rights.said_yes(&consents), facts, fx);
                }
                Ruling::Behind | Ruling::Untagged { .. } => {}
            }
        }
        redecided
    }

    /// A call asks: it leaves the queue. One that is with its target is that one's to hold.
    pub(super) fn park(&mut self, id: &ReqId, asked: Asked, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        let Some(open) = self.open.get(id) else { return };
        let CallState::Open(state) = open.record.state else { return };
        // One that was sent and is not any more may read as dispatched: it waits all the same.
        if open.sent.is_some() || state > Phase::Dispatched {
            return;
        }
        let (origin, attempt) = (open.record.origin, open.record.attempt);
        let why = asked.why.clone();
        let known = self.asking.asked(id) == Some(&asked) && state == Phase::Asking;
        self.stop_waiting(id);
        self.asking.calls.insert(*id, asked);
        if known {
            return;
        }
        self.phase(id, Phase::Asking, attempt, self.me, &why, fx);
        if origin != self.me && facts.leads() {
            fx.send(origin, Frame::Progress { id: *id, attempt, state: Phase::Asking, note: why });
        }
    }

    /// A call asks no more: it waits for its target again. False if it did not ask. `why`: who said yes.
    fn unpark(&mut self, id: &ReqId, why: &str, facts: &Facts<'_>, fx: &mut Effects<'_>) -> bool {
        if self.asking.forget(id).is_none() {
            return false;
        }
        let open = self.open.get_mut(id).filter(|open| open.sent.is_none() && !open.ended());
        let Some(open) = open else { return false };
        let (target, origin, attempt, arrival) =
            (open.record.header.target, open.record.origin, open.record.attempt, open.arrival);
        if facts.leads() {
            open.tell_at = Some(fx.now.mono_ms + PROGRESS_AFTER_MS);
            self.agenda.insert((fx.now.mono_ms + PROGRESS_AFTER_MS, *id));
        }
        self.waiting.entry(target).or_default().insert(arrival, (*id, origin));
        self.phase(id, Phase::Queued, attempt, self.me, why, fx);
        true
    }

    /// The target of a call says that it asks: it is sent again after a while, unless more is known here by then.
    pub(super) fn handle_asking(&mut self, id: &ReqId, from: PeerId, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        self.unsend(id, &from);
        self.agenda.insert((fx.now.mono_ms + facts.config().resend_min_ms, *id));
        self.redecide_soon(id);
        let Some(open) = self.open.get(id) else { return };
        let (origin, attempt) = (open.record.origin, open.record.attempt);
        self.phase(id, Phase::Asking, attempt, from, TARGET_ASKS, fx);
        if origin != self.me && facts.leads() {
            let note = TARGET_ASKS.to_owned();
            fx.send(origin, Frame::Progress { id: *id, attempt, state: Phase::Asking, note });
        }
    }

    /// True if a call is known here that has not started, as far as is known.
    pub(crate) fn has_to_start(&self, id: &ReqId) -> bool {
        let state = self.open.get(id).map(|open| open.record.state);
        matches!(state, Some(CallState::Open(phase)) if phase < Phase::Running)
    }

    /// The yeses that a call waits for.
    pub(crate) fn asked(&self, id: &ReqId) -> Option<&Asked> {
        self.asking.asked(id)
    }

    /// All calls that ask, as far as they were looked at.
    pub(crate) fn all_asking(&self) -> impl Iterator<Item = (&ReqId, &Asked)> {
        self.asking.calls.iter()
    }

    /// Why a call that asks is over, once it is too late for a yes.
    pub(crate) fn no_consent(&self, id: &ReqId) -> Option<String> {
        self.asking.asked(id).map(|asked| rule_words::no_consent(&asked.asks))
    }

    /// Hash of the entry of an open call's header.
    pub(crate) fn header_hash(&self, id: &ReqId) -> Option<Hash> {
        self.open.get(id)?.entry.as_ref().map(|entry| entry.hash)
    }

    /// The audience of what is said of a call.
    pub(crate) fn audience(&self, id: &ReqId) -> Option<Audience> {
        if let Some(entry) = self.open.get(id).and_then(|open| open.entry.as_ref()) {
            return Some(entry.entry.audience.clone());
        }
        let record = self.record(id)?;
        Some(Audience::Call { origin: record.origin, target: record.header.target })
    }
}

/// True if this rule lets a gateway hold back what its rights do not let through.
pub(super) fn holds_back(ruling: &Ruling, fx: &Effects<'_>) -> bool {
    let held = match ruling {
        Ruling::Go { .. } | Ruling::No { of_target: true, .. } => false,
        Ruling::Behind | Ruling::Untagged { .. } | Ruling::Ask(_) | Ruling::No { of_target: false, .. } => true,
    };
    held && fx.enforces(ProtocolRule::PolicyAtDispatch)
}
