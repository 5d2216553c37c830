//! Calls where core meets core: dispatches to our executor, outcomes, membership changes and cancel requests into our log.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Peer;
use super::incarnations::copied;
use crate::calls::{Book, Env, InferredEnding};
use crate::effects::{Effects, Then};
use crate::entry::{
    self, CancelRequest, Directory, Effect, Header, Kind, Outcome, Payload, Place, SignedEntry, Source, Tier,
};
use crate::executor::{Executor, Finished, Offer, Rules};
use crate::frame::{AnswerKind, Dispatch, Frame};
use crate::ids::{Incarnation, PeerId, ReqId};
use crate::io::CallState;
use crate::log;
use crate::protocol_rule::ProtocolRule;
use crate::trust::Trust;

/// Why a call of a revoked or pending device does not run.
const STRANGER: &str = "the device that asked does not belong to the mesh any more";

impl Peer {
    pub(super) fn handle_dispatch(&mut self, from: PeerId, dispatch: &Dispatch, fx: &mut Effects<'_>) {
        let claim = &dispatch.claim;
        let Some(header) = dispatch.header.header() else { return };
        let (id, attempt) = (header.id, dispatch.attempt);
        let refuse = |what: AnswerKind, fx: &mut Effects<'_>| {
            fx.send(from, Frame::Answer(crate::frame::Answer { id, attempt, what }));
        };
        let may_lead = self.trust.is_owner(&from);
        if from != claim.epoch.peer || !may_lead {
            refuse(AnswerKind::Rejected("only a gateway of this mesh may dispatch".to_owned()), fx);
            return;
        }
        if from != self.me && !self.election.observe(claim, may_lead, fx) {
            refuse(AnswerKind::Fenced(self.election.fence().proof.clone()), fx);
            return;
        }
        if let Some(reason) = self.hold()
            && fx.enforces(ProtocolRule::OwnRevocation)
        {
            refuse(AnswerKind::Rejected(reason), fx);
            return;
        }
        let place = dispatch.header.place();
        if !header.is_for(self.logs.incarnation()) {
            refuse(AnswerKind::Rejected("this device was restored from an old state since".to_owned()), fx);
            return;
        }
        let proper = header.target == self.me
            && header.id.is_of(&place.author)
            && dispatch.header.entry.mesh == self.trust.mesh()
            && (1..=crate::ids::ATTEMPTS_MAX).contains(&attempt)
            && header.is_within_limits();
        if !proper {
            refuse(AnswerKind::Rejected("the header is not one for this device".to_owned()), fx);
            return;
        }
        if !self.trust.admits(&place.author, place.incarnation, place.seq) {
            refuse(AnswerKind::Rejected("the call's origin does not belong to the mesh here".to_owned()), fx);
            return;
        }
        // The log may bring the header only after a crash has made us forget what became of it: it belongs in the book.
        // So does the time that is left, also where nothing begins for now: another gateway may believe in more.
        if !self.executor.has_any(&id) {
            let header = header.clone();
            self.with_env(|book, env| book.apply_header(&dispatch.header, header, dispatch.left_ms, env, fx));
        }
        if self.executor.is_new(&id, attempt)
            && let Some(what) = self.reason_to_defer(&from, &place)
        {
            refuse(what, fx);
            return;
        }
        let mut left_ms = dispatch.left_ms.min(header.ttl_ms);
        if let Some(known) = self.book.left_ms(&id, fx.now.mono_ms) {
            left_ms = left_ms.min(known);
        }
        let offer = Offer { gateway: from, header, origin: place.author, attempt, left_ms };
        self.with_rules(fx, |executor, rules, fx| executor.handle_offer(offer, rules, fx));
    }

    /// Why nothing new of this author begins here, if there is a reason beyond trust.
    fn reason_to_defer(&self, from: &PeerId, place: &Place) -> Option<AnswerKind> {
        if *from != self.me && !self.logs.has_compared(from) {
            // A state that was restored shows in our own log first.
            return Some(AnswerKind::Busy);
        }
        let why = if self.copied().contains(&place.author) {
            "two devices use the key of the one that asks"
        } else if self.logs.is_forked(&place.author, place.incarnation, place.seq) {
            "the one that asks contradicts its own log"
        } else {
            return None;
        };
        Some(AnswerKind::Rejected(why.to_owned()))
    }

    /// Runs something of the executor that may finish an attempt, and writes that outcome; its place is free then.
    pub(super) fn with_rules(
        &mut self,
        fx: &mut Effects<'_>,
        run: impl FnOnce(&mut Executor, &Rules<'_>, &mut Effects<'_>) -> Option<Finished>,
    ) {
        let finished = self.consult(fx, run);
        if let Some(finished) = finished {
            self.write_outcome(&finished, fx);
            self.consult(fx, Executor::start_next);
        }
    }

    /// Lets the executor decide by the rules of this moment.
    pub(super) fn consult<T>(
        &mut self,
        fx: &mut Effects<'_>,
        run: impl FnOnce(&mut Executor, &Rules<'_>, &mut Effects<'_>) -> T,
    ) -> T {
        let hold = self.hold();
        let Self { executor, trust, book, config, directory, election, me, .. } = self;
        let own_tools = directory.get(me).map(|(_, directory)| directory.clone());
        let permits = |origin: &PeerId, header: &Header| permits(trust, own_tools.as_deref(), origin, header);
        let cancel = |id: &ReqId| book.is_cancelled(id).cloned();
        let gateway = election.gateway().map(|epoch| epoch.peer);
        let rules = Rules { config, permits: &permits, cancel: &cancel, hold: hold.as_deref(), gateway };
        run(executor, &rules, fx)
    }

    pub(super) fn with_env<T>(&mut self, run: impl FnOnce(&mut Book, &Env<'_>) -> T) -> T {
        let Self { book, trust, config, election, directory, logs, sessions, now_ms, .. } = self;
        let copied = copied(sessions, *now_ms);
        let is_member = |peer: &PeerId| trust.member(peer).is_some() && !copied.contains(peer);
        let is_owner = |peer: &PeerId| trust.is_owner(peer);
        let is_excluded = |peer: &PeerId| trust.is_excluded(peer);
        let is_linked = |peer: &PeerId| election.is_linked(peer);
        let is_over = |peer: &PeerId, incarnation: Incarnation| {
            let present =
                directory.get(peer).map(|(entry, _)| &entry.entry).filter(|entry| entry.incarnation != incarnation);
            let last = logs.latest_clock(peer, incarnation);
            last.zip(present).is_some_and(|(last, present)| last < present.hlc)
        };
        let declared = |peer: &PeerId, tool: &str| declared(directory, peer, tool);
        let env = Env {
            config,
            leading: election.leading_claim(),
            is_member: &is_member,
            is_owner: &is_owner,
            is_excluded: &is_excluded,
            is_linked: &is_linked,
            is_over: &is_over,
            declared: &declared,
        };
        run(book, &env)
    }

    /// Appends a target's outcome to our log, in the batch that journals it.
    pub(super) fn write_outcome(&mut self, finished: &Finished, fx: &mut Effects<'_>) {
        let Outcome { id, attempt, .. } = finished.outcome;
        let entry = self.logs.append(self.signer.as_ref(), Kind::OUTCOME, 0, entry::encode(&finished.outcome), fx);
        log::push_when_durable(&entry, None, fx);
        fx.then(Then::Outcome(id, attempt, entry.clone()));
        self.with_env(|book, env| book.apply_outcome(&entry, env, fx));
    }

    /// Writes an ending that is not the target's word, with a cancel request where it must not start any more.
    pub(super) fn write_inferred(&mut self, change: &InferredEnding, fx: &mut Effects<'_>) {
        if change.cancel {
            let cancel = CancelRequest { id: change.id, reason: change.reason.clone(), expired: true };
            self.write_cancel(&cancel, fx);
        }
        let outcome = Outcome {
            id: change.id,
            attempt: change.attempt,
            ending: change.ending,
            reason: change.reason.clone(),
            output: Payload::empty(),
            error: String::new(),
            at_ms: fx.now.wall_ms,
            started_ms: 0,
            alias_of: None,
            source: Source::Inferred,
        };
        let entry = self.logs.append(self.signer.as_ref(), Kind::OUTCOME, 0, entry::encode(&outcome), fx);
        log::push_when_durable(&entry, None, fx);
        self.with_env(|book, env| book.apply_outcome(&entry, env, fx));
    }

    pub(super) fn write_cancel(&mut self, cancel: &CancelRequest, fx: &mut Effects<'_>) {
        let entry = self.logs.append(self.signer.as_ref(), Kind::CANCEL, 0, entry::encode(cancel), fx);
        log::push_when_durable(&entry, None, fx);
        self.book.apply_cancel(cancel, fx);
        self.stop_call(cancel, fx);
    }

    /// Another's cancel request for a call of ours: it reads as wished at once, until its target says what really happened.
    pub(super) fn answer_cancel(&mut self, cancel: &CancelRequest, fx: &mut Effects<'_>) {
        let Some(record) = self.book.record(&cancel.id) else { return };
        let open = matches!(record.state, CallState::Open(_));
        if open && record.origin == self.me && record.header.target != self.me && !cancel.expired {
            let (id, attempt, reason) = (cancel.id, record.attempt, cancel.reason.clone());
            let ending = entry::Ending::Cancelled;
            self.write_inferred(&InferredEnding { id, attempt, ending, reason, cancel: false }, fx);
        }
    }

    /// If the call is for us: stop it, or end it before it starts.
    pub(super) fn stop_call(&mut self, cancel: &CancelRequest, fx: &mut Effects<'_>) {
        let own = self.logs.incarnation();
        let known =
            self.book.record(&cancel.id).filter(|record| record.header.target == self.me && record.header.is_for(own));
        let interrupted = CallState::Ended(entry::Ending::Interrupted);
        if known.is_some_and(|record| record.confirmed && record.state != interrupted) {
            return; // it is over; its ending is on its way to the disk
        }
        // Of one that was interrupted the attempt after it is cancelled before it starts.
        let (header, attempt) = known
            .map_or((None, 1), |record| (Some(record.header.clone()), record.attempt + u8::from(record.confirmed)));
        let cancel = cancel.clone();
        self.with_rules(fx, |executor, _, fx| executor.handle_cancel_request(&cancel, header, attempt, fx));
    }

    /// Calls for us of devices that do not belong any more: none of them runs, and our word makes it certain.
    pub(super) fn deny_outsiders(&mut self, fx: &mut Effects<'_>) {
        let mut asked = Vec::new();
        for record in self.book.records() {
            let open = matches!(record.state, CallState::Open(_)) && record.header.target == self.me;
            if open && self.trust.is_excluded(&record.origin) {
                asked.push((record.header.id, record.attempt, record.header.clone()));
            }
        }
        for (id, attempt, header) in asked {
            self.with_rules(fx, |executor, _, fx| executor.deny(id, attempt, header, STRANGER, fx));
        }
    }

    /// Calls for us whose time is over: our word makes it certain.
    pub(super) fn expire_here(&mut self, due: &[ReqId], fx: &mut Effects<'_>) {
        for (id, attempt) in self.book.expired_here(due, self.logs.incarnation(), fx.now.mono_ms) {
            if let Some(header) = self.book.record(&id).map(|record| record.header.clone()) {
                self.with_rules(fx, |executor, _, fx| executor.expire(id, attempt, header, fx));
            }
        }
    }
}

pub(super) fn declared(
    directory: &BTreeMap<PeerId, (SignedEntry, Arc<Directory>)>,
    peer: &PeerId,
    tool: &str,
) -> Option<Effect> {
    let (_, directory) = directory.get(peer)?;
    directory.tools.iter().find(|decl| decl.name.as_str() == tool).map(|decl| decl.effect)
}

/// Until workspaces exist: owner-tier devices may call every tool, others what is not for owners only.
fn permits(trust: &Trust, own: Option<&Directory>, origin: &PeerId, header: &Header) -> Result<(), String> {
    let Some(tier) = trust.tier(origin) else {
        return Err(STRANGER.to_owned());
    };
    let Some(decl) = own.and_then(|own| own.tools.iter().find(|decl| decl.name == header.tool)) else {
        return Err(format!("this node offers no tool `{}`", header.tool));
    };
    if decl.owner_only && tier != Tier::Owner && trust.enforces(ProtocolRule::Tier) {
        return Err(format!("`{}` may be called by devices of tier owner only", header.tool));
    }
    Ok(())
}
