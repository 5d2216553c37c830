//! Open calls at a gateway: which wait for which node, and dispatching within the credits of its session.

use std::collections::BTreeSet;

use super::sessions::ToolPlaces;
use super::{Book, Given, Open, PROGRESS_AFTER_MS, Sent, asking};
use crate::effects::Effects;
use crate::facts::Facts;
use crate::frame::{Answer, AnswerKind, Dispatch, Frame, Phase};
use crate::ids::{Attempt, PeerId, ReqId};
use crate::io::{Fact, SessionId};
use crate::protocol_rule::ProtocolRule;
use crate::rights::Ruling;

impl Book {
    /// A node's stream is up, and it is registered. Everything sent over an older stream is open again.
    pub(crate) fn handle_node_up(&mut self, peer: PeerId, session: SessionId, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        self.forget_session(&peer);
        self.sessions.begin(peer, session);
        let cancels: Vec<ReqId> = self
            .open
            .iter()
            .filter(|(_, open)| open.record.header.target == peer && open.cancel.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in cancels {
            fx.send(peer, Frame::Cancel { id });
        }
        self.pump(&peer, facts, fx);
    }

    /// Answers whether it was the present session.
    pub(crate) fn handle_node_down(&mut self, peer: PeerId, session: SessionId) -> bool {
        let present = self.session(&peer) == Some(session);
        if present {
            self.forget_session(&peer);
        }
        present
    }

    pub(crate) fn forget_sessions(&mut self) {
        let peers: Vec<PeerId> = self.sessions.nodes().collect();
        for peer in peers {
            self.forget_session(&peer);
        }
    }

    pub(super) fn forget_session(&mut self, peer: &PeerId) {
        for id in self.sessions.end(peer) {
            self.unsend(&id, peer);
        }
    }

    /// The call is not with its target any more, and waits again if it is open.
    pub(super) fn unsend(&mut self, id: &ReqId, target: &PeerId) {
        self.sessions.note_over(target, id);
        if let Some(open) = self.open.get_mut(id)
            && open.sent.take().is_some()
            && !open.ended()
        {
            self.waiting.entry(*target).or_default().insert(open.arrival, (*id, open.record.origin));
        }
    }

    pub(super) fn stop_waiting(&mut self, id: &ReqId) {
        let Some(open) = self.open.get(id) else { return };
        let target = open.record.header.target;
        if let Some(calls) = self.waiting.get_mut(&target) {
            calls.remove(&open.arrival);
            if calls.is_empty() {
                self.waiting.remove(&target);
            }
        }
        self.asking.forget(id);
    }

    /// Sends a node what waits for it, in order of arrival, up to its credits and each origin's share of them.
    pub(crate) fn pump(&mut self, target: &PeerId, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if !facts.leads() {
            return;
        }
        let mut after = 0;
        let mut full = BTreeSet::new();
        let mut places = self.tool_places(target, facts);
        while self.sessions.credits(target, facts) > 0
            && let Some((arrival, id, origin)) = self.next_waiting(target, after, &full)
        {
            after = arrival + 1;
            if !self.sessions.has_credit(target, &origin, facts) {
                full.insert(origin);
            } else if self.takes_tool_place(&id, &mut places, facts) {
                self.dispatch(&id, false, facts, fx);
            }
        }
    }

    /// Places of a node that are taken by tools of which it runs only some at once.
    fn tool_places(&self, target: &PeerId, facts: &Facts<'_>) -> ToolPlaces {
        let mut places = ToolPlaces::of(target, facts);
        if !places.is_empty() {
            let sent = self.sessions.sent(target).filter_map(|id| self.open.get(id)).filter(|open| !open.ended());
            for Open { record, .. } in sent {
                places.note_sent(&record.header.tool, record.origin);
            }
        }
        places
    }

    /// True if there is a place for the tool of this call, which it takes.
    fn takes_tool_place(&self, id: &ReqId, places: &mut ToolPlaces, facts: &Facts<'_>) -> bool {
        places.is_empty()
            || self.open.get(id).is_none_or(|open| places.take(&open.record.header.tool, open.record.origin, facts))
    }

    /// Sends all nodes what waits for them and may go out by now.
    pub(crate) fn pump_all(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        let targets: Vec<PeerId> = self.waiting.keys().copied().collect();
        for target in targets {
            self.pump(&target, facts, fx);
        }
    }

    /// The first call that waits for a node, of those that came at `after` or later, by another origin than these.
    fn next_waiting(&self, target: &PeerId, after: u64, full: &BTreeSet<PeerId>) -> Option<(u64, ReqId, PeerId)> {
        let mut calls = self.waiting.get(target)?.range(after..);
        calls.find(|(_, (_, origin))| !full.contains(origin)).map(|(arrival, (id, origin))| (*arrival, *id, *origin))
    }

    /// The call may be seen by others: one of ours is durable, or another's has come. A gateway takes it from here.
    pub(crate) fn release(&mut self, id: &ReqId, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if let Some(open) = self.open.get_mut(id) {
            open.released = true;
            if let Some(row) = open.record.history.first() {
                fx.fact(Fact::Call(*id, row.clone()));
            }
        }
        self.pump_one(id, facts, fx);
    }

    /// One call is new or open again: it goes out now unless others wait before it.
    pub(super) fn pump_one(&mut self, id: &ReqId, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        let Some(open) = self.open.get_mut(id) else { return };
        if !facts.leads() || open.ended() {
            return;
        }
        let (target, origin) = (open.record.header.target, open.record.origin);
        open.tell_at = Some(fx.now.mono_ms + PROGRESS_AFTER_MS);
        self.agenda.insert((fx.now.mono_ms + PROGRESS_AFTER_MS, *id));
        if origin == self.me {
            self.phase(id, Phase::Queued, self.attempt_of(id), self.me, "", fx);
        }
        self.pump(&target, facts, fx);
    }

    pub(super) fn attempt_of(&self, id: &ReqId) -> Attempt {
        self.open.get(id).map_or(1, |open| open.record.attempt)
    }

    pub(super) fn dispatch(&mut self, id: &ReqId, again: bool, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        let Some(claim) = facts.leading_claim() else { return };
        let now = fx.now.mono_ms;
        if self.open.get(id).is_some_and(|open| self.is_beyond_its_one(id, &open.record.origin, facts)) {
            return;
        }
        let Some(open) = self.open.get_mut(id) else { return };
        let Some(ruling) = open.ruling(facts, fx) else { return };
        let target = open.record.header.target;
        let released = open.released || !fx.enforces(ProtocolRule::HeaderDurable);
        let between_members = facts.may_get_calls(&target) && !facts.trust.is_excluded(&open.record.origin);
        let between_members = between_members || !fx.enforces(ProtocolRule::DispatchToMembers);
        let between_members =
            between_members && open.entry.as_ref().is_some_and(|entry| facts.trust.may_read(entry, &target));
        // What is denied is told by `look`, and the target's own affairs are the target's. It goes out by `pump_all`
        // once more is known here, if this gateway only knew less than the origin.
        if asking::holds_back(&ruling, fx) {
            if let Ruling::Ask(asked) = ruling {
                self.park(id, asked, facts, fx);
            }
            return;
        }
        let consents = match ruling {
            Ruling::Go { consents } => facts.rights.answers(&consents, now),
            Ruling::Ask(_) | Ruling::Behind | Ruling::Untagged { .. } | Ruling::No { .. } => Vec::new(),
        };
        if !released || open.ended() || open.deadline <= now || open.cancel.is_some() || !between_members {
            return;
        }
        if self.sessions.number(&target).is_none() {
            return;
        }
        let attempt = open.record.attempt;
        let pause_ms = match &open.sent {
            Some(sent) if sent.attempt == attempt => {
                if !again || now < sent.again_at {
                    return;
                }
                (sent.pause_ms * 2).min(facts.config().resend_max_ms)
            }
            Some(_) | None => facts.config().resend_min_ms,
        };
        let given = open.given.filter(|given| given.attempt == attempt);
        if let Some(at) = given.map(|given| facts.links.may_repeat_at(&target, given.process))
            && now < at
        {
            self.agenda.insert((at, *id));
            return;
        }
        let Some(header) = open.entry.clone() else { return };
        open.given = Some(Given { attempt, process: facts.links.process(&target) });
        open.sent = Some(Sent { attempt, again_at: now + pause_ms, pause_ms });
        self.agenda.insert((now + pause_ms, *id));
        self.sessions.note_sent(&target, *id, open.record.origin);
        if let Some(calls) = self.waiting.get_mut(&target) {
            calls.remove(&open.arrival);
        }
        let (claim, left_ms) = (claim.clone(), open.deadline - now);
        let frame = Frame::Dispatch(Dispatch { claim, header, attempt, left_ms, consents });
        fx.send(target, frame);
        self.phase(id, Phase::Dispatched, attempt, self.me, "", fx);
    }

    /// Takes a target's answer to a dispatch of ours, short of the outcome.
    pub(crate) fn handle_answer(&mut self, from: PeerId, answer: &Answer, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        let Some(open) = self.open.get_mut(&answer.id) else { return };
        if open.record.header.target != from {
            return;
        }
        let origin = open.record.origin;
        match &answer.what {
            AnswerKind::Running { note } => {
                self.sessions.note_taken(&from, answer.id, origin);
                self.phase(&answer.id, Phase::Running, answer.attempt, from, note, fx);
                if origin != self.me && facts.leads() {
                    let note = note.clone();
                    let (id, attempt) = (answer.id, answer.attempt);
                    fx.send(origin, Frame::Progress { id, attempt, state: Phase::Running, note });
                }
            }
            AnswerKind::Lacking => {
                // It is repeated as others are, since it may have ended unseen, and takes no credit meanwhile.
                if self.sessions.note_lacking(&from, answer.id) {
                    self.pump(&from, facts, fx);
                }
            }
            AnswerKind::Asking => self.handle_asking(&answer.id, from, facts, fx),
            AnswerKind::Busy => {
                self.unsend(&answer.id, &from);
                self.agenda.insert((fx.now.mono_ms + facts.config().resend_min_ms, answer.id));
            }
            AnswerKind::Rejected(reason) => {
                if let Some(sent) = &mut open.sent {
                    sent.pause_ms = facts.config().resend_max_ms;
                    sent.again_at = fx.now.mono_ms + facts.config().resend_max_ms;
                }
                let reason = format!("rejected by the target: {reason}");
                self.phase(&answer.id, Phase::Queued, answer.attempt, from, &reason, fx);
            }
            AnswerKind::Waiting => self.sessions.note_taken(&from, answer.id, origin),
            AnswerKind::Fenced(_) | AnswerKind::Ended(_) => {}
        }
    }
}
