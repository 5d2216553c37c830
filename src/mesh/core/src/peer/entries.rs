//! The way of an entry into this peer: screened, appended to its log, applied by its kind. Our own entries begin at the
//! second stop. Each stop is a table that asks the owners of what the entry is about.

use std::sync::Arc;

use super::{Peer, facts};
use crate::audience::Audience;
use crate::calls::{Confirmed, InferredEnding};
use crate::effects::{Effects, Then};
use crate::entry::{self, Kind, SignedEntry};
use crate::executor::Finished;
use crate::frame::EntryItem;
use crate::ids::{Hash, PeerId, ReqId};
use crate::incarnations::{self, LostState, OwnEntry};
use crate::io::{CallState, Fact};
use crate::limits;
use crate::log::{self, Ingest};
use crate::membership;
use crate::policy::{Choice, Consent, Note};
use crate::protocol_rule::ProtocolRule;
use crate::record::{CancelRequest, Ending, Outcome, Payload, Source};
use crate::rights;
use crate::rows;
use crate::rule_words;
use crate::spending::{self, Payer};
use crate::trust::Judgement;

/// When membership changes that were taken are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judges {
    /// Within the frame that brings them, because of an entry that follows.
    Early,
    /// At the end of a frame, unless the set is large and was judged a moment ago.
    Due,
    /// In any case: they are our own.
    Now,
}

impl Peer {
    /// Takes an entry that `from` sent. True if its log did not have it.
    pub(super) fn ingest(&mut self, from: PeerId, item: &EntryItem, fx: &mut Effects<'_>) -> bool {
        let entry = &item.entry;
        if !self.screen(entry, fx) {
            return false;
        }
        let place = entry.place();
        let admits = |peer: &Self| peer.trust.admits(&place.author, place.incarnation, place.seq);
        if !admits(self) && self.trust.judges_early(&place.author) {
            self.judge_changes(Judges::Early, fx);
        }
        let by_owner = self.trust.is_owner(&entry.author);
        let payer = spending::answers(entry).map_or(Payer::Unknown, |id| self.book.payer(&id, &entry.author, by_owner));
        let charge = spending::charge(entry, payer);
        let ingested = self.logs.ingest(from, item, charge, &self.trust, fx);
        match ingested {
            Ingest::New => self.apply(entry, item.left_ms, fx),
            // A peer that was removed gets membership changes and nothing else, so they do not follow on what it holds.
            Ingest::Gap if entry.entry.kind == Kind::MEMBERSHIP => self.apply_change(entry),
            // One that is void stays in the set, so that everyone judges by the same; and so does one whose place is gone,
            // by a truncation of whoever stole its author's key.
            Ingest::Known if self.logs.take_body(item, &self.trust, fx) => self.apply_body(entry, item.left_ms, fx),
            Ingest::Refused | Ingest::Known | Ingest::Stopped => self.take_change(entry),
            Ingest::Gap | Ingest::Fork => {}
        }
        ingested == Ingest::New
    }

    /// True if an entry goes on to its author's log.
    fn screen(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        if self.logs.unsupported.is_over_limit(entry, fx) {
            return false;
        }
        let by_us = entry.author == self.local.me;
        if by_us && self.trust.mesh() == entry.entry.mesh && !self.screen_own(entry, fx) {
            self.take_change(entry);
            return false;
        }
        let own = by_us && entry.entry.incarnation == self.logs.incarnation();
        let truncates = entry.entry.kind == Kind::TRUNCATION && self.logs.unsupported.supports(Kind::TRUNCATION);
        if truncates && !own && self.logs.is_ahead(entry) {
            // Shown out of its place, so that we step over what is gone; which may lead up to it.
            self.apply_truncation(entry, fx);
            return !self.logs.is_ahead(entry);
        }
        true
    }

    /// An entry that we signed comes back. True if it is news.
    fn screen_own(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        match self.incarnations.compare(entry, &self.logs, fx) {
            OwnEntry::Known => false,
            OwnEntry::Former => true,
            OwnEntry::Lost | OwnEntry::Contradicts => {
                self.handle_lost_state(fx);
                true
            }
        }
    }

    /// Trust is a set, so a membership change is taken in whatever order and by whatever way it comes, if its author was
    /// ever an owner; its row in the log, if it is not void, follows by sync.
    pub(super) fn take_change(&mut self, entry: &SignedEntry) {
        let kept = self.trust.was_owner(&entry.author) || !self.trust.enforces(ProtocolRule::StrangersUnkept);
        if entry.entry.kind == Kind::MEMBERSHIP && kept {
            self.apply_change(entry);
        }
    }

    /// An entry with the time that its call has left, for others.
    pub(super) fn item(&self, entry: SignedEntry, now: u64) -> EntryItem {
        let left_ms = match entry.entry.kind {
            Kind::CALL => Some(self.book.left_ms_of(&entry, now)),
            Kind::CONSENT => self.rights.answer_left_ms(&entry.hash, now),
            _ => None,
        };
        EntryItem { entry, left_ms }
    }

    // --- Our own entries ----------------------------------------------------------------------------------------------

    /// Appends an entry of our own, for everyone, to our log; others get it once it is durable.
    pub(super) fn write(&mut self, kind: Kind, body: &[u8], fx: &mut Effects<'_>) -> SignedEntry {
        self.write_for(Audience::Everyone, kind, body, fx)
    }

    fn write_for(&mut self, audience: Audience, kind: Kind, body: &[u8], fx: &mut Effects<'_>) -> SignedEntry {
        let entry = self.logs.append(self.local.signer.as_ref(), kind, (audience, body), fx);
        self.charge_own(&entry, fx);
        log::push_when_durable(&entry, None, fx);
        entry
    }

    /// Signs what has happened at our doors, for owners, when that is due.
    pub(super) fn time_audit(&mut self, fx: &mut Effects<'_>) {
        if self.is_excluded() {
            self.upkeep.audit.forget_pending();
        }
        if let Some(body) = self.upkeep.audit.handle_timeout(self.trust.is_owner(&self.local.me), fx) {
            let entry = self.write_for(Audience::Owners, Kind::AUDIT, &body, fx);
            self.apply(&entry, None, fx);
        }
    }

    /// Charges our own hour, unless the entry answers a call of somebody else.
    pub(super) fn charge_own(&mut self, entry: &SignedEntry, fx: &Effects<'_>) {
        if !spending::is_answer(entry) {
            let (me, amount) = (self.local.me, spending::amount(entry));
            self.logs.spending.charge(&me, amount, &self.trust, fx.now.mono_ms);
        }
    }

    /// Appends what we say of a call.
    pub(super) fn write_of_call(&mut self, id: &ReqId, kind: Kind, body: &[u8], fx: &mut Effects<'_>) -> SignedEntry {
        let audience = self.audience_of(id, self.local.me);
        self.write_for(audience, kind, body, fx)
    }

    /// The audience of what is said of a call. `target`: where it runs, if the book does not know it any more; then the
    /// origin is whom the id is of.
    pub(super) fn audience_of(&self, id: &ReqId, target: PeerId) -> Audience {
        if let Some(audience) = self.book.audience(id) {
            return audience;
        }
        let origin = self.trust.membership().members.keys().find(|peer| id.is_of(peer)).copied();
        Audience::Call { origin: origin.unwrap_or(self.local.me), target }
    }

    /// The executor has an outcome, if any: it goes into our log, in the batch that journals it, and its place is free.
    pub(super) fn finish(&mut self, finished: Option<Finished>, fx: &mut Effects<'_>) {
        if let Some(finished) = finished {
            self.write_outcome(&finished, fx);
            self.executor.start_next(&facts!(self), fx);
        }
    }

    pub(super) fn write_outcome(&mut self, finished: &Finished, fx: &mut Effects<'_>) {
        let Outcome { id, attempt, .. } = finished.outcome;
        let entry = self.write_of_call(&id, Kind::OUTCOME, &entry::encode(&finished.outcome), fx);
        fx.then(Then::Outcome(id, attempt, entry.clone()));
        if let Payer::Origin(origin) = self.book.payer(&id, &self.local.me, false) {
            self.logs.spending.charge(&origin, spending::amount(&entry), &self.trust, fx.now.mono_ms);
        }
        self.book.apply_outcome(&entry, &facts!(self), fx);
    }

    /// Writes an ending that is not the target's own, with a cancel request where it must not start any more.
    pub(super) fn write_inferred(&mut self, inferred: &InferredEnding, fx: &mut Effects<'_>) {
        let InferredEnding { id, attempt, ending, .. } = *inferred;
        if inferred.cancel {
            self.write_cancel(&CancelRequest { id, reason: inferred.reason.clone(), expired: true }, fx);
        }
        let outcome = Outcome {
            id,
            attempt,
            ending,
            reason: inferred.reason.clone(),
            output: Payload::empty(),
            parts: Vec::new(),
            partial: false,
            error: String::new(),
            at_ms: fx.now.wall_ms,
            started_ms: 0,
            alias_of: None,
            source: Source::Inferred,
        };
        let entry = self.write_of_call(&id, Kind::OUTCOME, &entry::encode(&outcome), fx);
        self.book.apply_outcome(&entry, &facts!(self), fx);
    }

    /// Issues an outcome again: one that a target told before, in our own name, or our own of a former incarnation, which the
    /// book knows.
    pub(super) fn issue_again(&mut self, outcome: &Outcome, fx: &mut Effects<'_>) {
        let target = if let Source::Relayed(target) = outcome.source { target } else { self.local.me };
        let audience = self.audience_of(&outcome.id, target);
        let entry = self.write_for(audience, Kind::OUTCOME, &entry::encode(outcome), fx);
        if outcome.source != Source::Target && self.book.record(&outcome.id).is_some() {
            self.book.apply_outcome(&entry, &facts!(self), fx);
        }
    }

    pub(super) fn write_cancel(&mut self, cancel: &CancelRequest, fx: &mut Effects<'_>) {
        self.write_of_call(&cancel.id, Kind::CANCEL, &entry::encode(cancel), fx);
        self.book.apply_cancel(cancel, fx);
        self.stop_call(cancel, fx);
    }

    // --- Applying -----------------------------------------------------------------------------------------------------

    /// Applies an entry of our own log that had to wait, if its place still counts.
    pub(super) fn apply_admitted(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        let place = entry.place();
        if self.trust.admits(&place.author, place.incarnation, place.seq) {
            self.apply(entry, left_ms, fx);
        }
    }

    /// Applies an entry that is new to us, our own included. Unsupported kinds are kept and relayed, nothing more.
    pub(super) fn apply(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        match self.logs.unsupported.keep(entry, fx) {
            None => {}
            Some(false) => return,
            Some(true) => return self.handle_halts(fx),
        }
        if entry.has_body() {
            self.apply_known(entry, left_ms, fx);
        } else if self.trust.may_read(entry, &self.local.me) {
            self.logs.note_lacking(entry, &self.trust, fx);
        }
    }

    /// Applies an entry whose body has come late. What its author wrote after it may have been applied before: the book
    /// takes headers, outcomes and cancel requests in any order.
    fn apply_body(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        if self.logs.unsupported.supports(entry.entry.kind) {
            self.apply_known(entry, left_ms, fx);
        }
    }

    fn apply_known(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        match entry.entry.kind {
            Kind::MEMBERSHIP => self.apply_change(entry),
            Kind::DIRECTORY => self.apply_directory(entry, fx),
            Kind::CALL => self.apply_call(entry, left_ms, fx),
            Kind::OUTCOME => self.apply_outcome(entry, fx),
            Kind::CANCEL => self.apply_cancel(entry, fx),
            Kind::CONSENT => self.apply_consent(entry, left_ms, fx),
            Kind::TRUNCATION => self.apply_truncation(entry, fx),
            Kind::AUDIT if self.trust.is_owner(&self.local.me) => self.upkeep.audit.hear(entry, fx),
            kind if kind.is_about_rights() => self.rights.hear(entry, &self.trust, fx),
            _ => {}
        }
    }

    /// Membership changes are judged together, at the end of the frame that brings them.
    fn apply_change(&mut self, entry: &SignedEntry) {
        self.trust.take(entry.clone());
    }

    /// Judges the membership changes that were taken, if any were.
    pub(super) fn judge_changes(&mut self, judges: Judges, fx: &mut Effects<'_>) {
        let now = fx.now.mono_ms;
        match self.trust.poll_timeout() {
            None => return self.trust.end_frame(),
            Some(due) if due > now && judges == Judges::Due => return,
            Some(_) => {}
        }
        let was_excluded = self.is_excluded();
        let was_owner = self.trust.is_owner(&self.local.me);
        let judged = self.trust.judge(judges != Judges::Early, now);
        let Some(Judgement { kept, dropped, void, changed }) = judged else { return };
        for hash in &dropped {
            fx.delete(rows::trust(hash));
        }
        self.logs.set_changes(self.trust.fingerprint());
        for entry in &kept {
            fx.put(rows::trust(&entry.hash), entry);
        }
        let neighbours: Vec<PeerId> = self.election.neighbours().collect();
        membership::send_void(&void, &neighbours, &facts!(self), fx);
        if !changed {
            return;
        }
        if was_owner != self.trust.is_owner(&self.local.me) {
            self.logs.recount_bodies(&self.trust, fx);
        }
        self.refresh_devices();
        self.rights.handle_trust(&self.trust, &self.logs, fx);
        fx.fact(Fact::Trust);
        fx.view_changed = true;
        self.settle_authors(fx);
        match (was_excluded, self.is_excluded()) {
            (false, true) => {
                fx.then(Then::Revoked);
                self.write_all_inferred(self.book.abandoned(), fx);
            }
            (true, false) => self.resume(fx),
            (true, true) | (false, false) => {}
        }
        self.handle_halts(fx);
        self.refresh_neighbours(fx);
        self.logs.ask_all(&self.trust, fx);
        for unrun in self.book.of_strangers(&facts!(self)) {
            let finished = self.executor.deny(unrun, rule_words::STRANGER, &facts!(self), fx);
            self.finish(finished, fx);
        }
        let executor = &self.executor;
        self.book.free_strangers(|id| executor.has_any(id), &facts!(self), fx);
        self.end_undeliverable(fx);
        self.logs.resume_stopped(&self.trust, fx);
        self.upkeep.reattestation.read(&facts!(self), fx);
        self.say_for_former_owners(fx);
    }

    /// What those who have no say any more told us of calls of ours, others may never hear: we say it from now on.
    fn say_for_former_owners(&mut self, fx: &mut Effects<'_>) {
        if self.is_excluded() || !fx.enforces(ProtocolRule::Reissued) {
            return;
        }
        for outcome in self.book.said_by_former_owners(&facts!(self)) {
            self.issue_again(&outcome, fx);
            self.book.note_said_here(&outcome.id, fx);
        }
    }

    /// Whatever is held by author, and is not its log: of those who do not belong any more it shrinks to what their
    /// cut-offs need, and of those who belong again it is taken up.
    pub(super) fn settle_authors(&mut self, fx: &mut Effects<'_>) {
        self.nodes.settle(&self.local.me, &self.trust, fx);
        self.logs.settle(&self.trust, fx);
    }

    fn apply_directory(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let (author, incarnation) = (entry.author, entry.entry.incarnation);
        let former = author == self.local.me && incarnation != self.logs.incarnation();
        if former || !self.nodes.apply(entry, &self.local.me, &self.trust, fx) {
            return;
        }
        self.refresh_devices();
        self.refresh_candidates(fx);
        if self.logs.has_former_incarnation(&author, incarnation) {
            self.end_undeliverable(fx); // its store started anew
        }
        self.book.pump(&author, &facts!(self), fx);
    }

    fn apply_call(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        let Some(header) = entry.header() else { return };
        let (author, id, me) = (entry.author, header.id, self.local.me);
        let proper = header.id.is_of(&author) && entry.entry.audience.is_of_call(&author, &header.target);
        if !proper || !header.is_within_limits() {
            return;
        }
        let left_ms = left_ms.unwrap_or(header.ttl_ms).min(header.ttl_ms);
        if self.book.defers(entry.place(), &header, left_ms, &facts!(self), fx) {
            return;
        }
        let mine = header.target == me;
        let meant = header.is_for(self.logs.incarnation());
        if mine && self.executor.has_any(&id) && self.book.record(&id).is_none() {
            return; // it came by a dispatch, and is over
        }
        self.book.apply_header(entry, header, left_ms, &facts!(self), fx);
        if author == me {
            // Of a former incarnation of ours: it has been durable, and others may have run it.
            self.book.release(&id, &facts!(self), fx);
        }
        if mine && !meant {
            self.book.close_calls_of_former_incarnations(self.logs.incarnation(), &self.trust, fx);
        }
        if mine && author != me {
            self.confirm_here(&[id], fx);
            if let Some(cancel) = self.book.is_cancelled(&id).cloned() {
                self.stop_call(&cancel, fx);
            }
        }
    }

    fn apply_outcome(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let Some(outcome) = entry.record::<Outcome>() else { return };
        if let Source::Relayed(target) = outcome.source
            && self.may_reattest(entry, &outcome.id)
        {
            self.upkeep.reattestation.note_relayed(target, &outcome);
        }
        self.book.apply_told(entry, outcome, &facts!(self), fx);
    }

    /// True if what this peer attests again counts: nobody else needs to, then.
    fn may_reattest(&self, entry: &SignedEntry, id: &ReqId) -> bool {
        self.trust.stands(&entry.place()) || self.book.record(id).is_some_and(|record| record.origin == entry.author)
    }

    fn apply_cancel(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let cancel = entry.record::<CancelRequest>().filter(|cancel| cancel.reason.len() <= limits::TEXT_BYTES_MAX);
        let Some(cancel) = cancel else { return };
        let known = self.book.record(&cancel.id).map(|record| record.origin == entry.author);
        if known.unwrap_or_else(|| cancel.id.is_of(&entry.author)) || self.trust.stands(&entry.place()) {
            self.book.apply_cancel(&cancel, fx);
            self.stop_call(&cancel, fx);
            self.answer_cancel(&cancel, fx);
        }
    }

    pub(super) fn apply_truncation(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        if self.logs.handle_truncation(entry, &self.trust, fx) {
            self.handle_halts(fx);
        }
        self.rights.handle_truncation(entry, &self.logs, &self.trust, fx);
    }

    // --- What follows from them ---------------------------------------------------------------------------------------

    /// Another's cancel request for a call of ours: it reads as cancelled at once, until its target says what really
    /// happened.
    fn answer_cancel(&mut self, cancel: &CancelRequest, fx: &mut Effects<'_>) {
        let Some(record) = self.book.record(&cancel.id) else { return };
        let (me, open) = (self.local.me, matches!(record.state, CallState::Open(_)));
        if open && record.origin == me && record.header.target != me && !cancel.expired {
            let (id, attempt, reason) = (cancel.id, record.attempt, cancel.reason.clone());
            let ending = Ending::Cancelled;
            self.write_inferred(&InferredEnding { id, attempt, ending, reason, cancel: false }, fx);
        }
    }

    /// If the call is for us: stop it, or end it before it starts.
    pub(super) fn stop_call(&mut self, cancel: &CancelRequest, fx: &mut Effects<'_>) {
        let (me, own) = (self.local.me, self.logs.incarnation());
        let known =
            self.book.record(&cancel.id).filter(|record| record.header.target == me && record.header.is_for(own));
        let interrupted = CallState::Ended(Ending::Interrupted);
        if known.is_some_and(|record| record.confirmed && record.state != interrupted) {
            return; // it is over; its ending is on its way to the disk
        }
        // Of one that was interrupted the attempt after it is cancelled before it starts.
        let (known, attempt) = known.map_or((None, 1), |record| {
            (Some((record.header.clone(), record.origin)), record.attempt + u8::from(record.confirmed))
        });
        let finished = self.executor.handle_cancel_request(cancel, known, attempt, &facts!(self), fx);
        self.finish(finished, fx);
    }

    /// Calls for us whose TTL has expired, or that others denied: our outcome confirms it.
    pub(super) fn confirm_here(&mut self, due: &[ReqId], fx: &mut Effects<'_>) {
        for confirmed in self.book.to_confirm(due, self.logs.incarnation(), fx.now.mono_ms, fx.rules) {
            let finished = match confirmed {
                Confirmed::Denied(unrun, why) => self.executor.deny(unrun, &why, &facts!(self), fx),
                Confirmed::Expired(unrun) => {
                    let asked = self.book.no_consent(&unrun.header.id);
                    self.executor.expire(unrun, asked.as_deref(), &facts!(self), fx)
                }
            };
            self.finish(finished, fx);
        }
    }

    /// Ends the calls whose target does not belong any more.
    pub(super) fn end_undeliverable(&mut self, fx: &mut Effects<'_>) {
        self.write_all_inferred(self.book.undeliverable(&facts!(self)), fx);
    }

    pub(super) fn write_all_inferred(&mut self, endings: Vec<InferredEnding>, fx: &mut Effects<'_>) {
        for inferred in endings {
            self.write_inferred(&inferred, fx);
        }
    }

    /// After a change of membership: parts with those who were removed, and tells them; meets those who are welcome again.
    fn refresh_neighbours(&mut self, fx: &mut Effects<'_>) {
        let linked: Vec<PeerId> = self.links.iter().collect();
        for peer in linked {
            match (self.trust.member(&peer).is_some(), self.election.is_linked(&peer)) {
                (true, false) => self.meet(peer, fx),
                (false, true) => {
                    self.part(peer, fx);
                    fx.then(Then::Dismiss(peer));
                }
                (true, true) | (false, false) => {}
            }
        }
        if !fx.enforces(ProtocolRule::DispatchToMembers) {
            return;
        }
        let gone: Vec<PeerId> = self.book.online().filter(|peer| self.trust.member(peer).is_none()).collect();
        for peer in &gone {
            if let Some(session) = self.book.session(peer) {
                self.book.handle_node_down(*peer, session);
            }
        }
        if !gone.is_empty() {
            self.tell_presence(fx);
        }
    }

    /// We belong again. Our next entries must not stand where the revocation voids them.
    fn resume(&mut self, fx: &mut Effects<'_>) {
        let incarnation = self.logs.incarnation();
        let next = self.logs.held(&self.local.me, incarnation) + 1;
        if !self.trust.admits(&self.local.me, incarnation, next) {
            self.start_incarnation(fx);
        }
    }

    /// We signed what we do not hold: our store is an older state of itself, or another process runs with our key.
    pub(super) fn handle_lost_state(&mut self, fx: &mut Effects<'_>) {
        let me = self.local.me;
        match self.incarnations.handle_lost_state(self.logs.incarnation()) {
            LostState::Restored => {}
            LostState::Copied => {
                // The other may have seen one incarnation of ours, and takes itself for restored. A second one tells it.
                self.start_incarnation(fx);
                self.handle_halts(fx);
                fx.fact(Fact::Warning("is one of two that use the same key", me));
                return;
            }
            LostState::Known => return,
        }
        let floor = incarnations::lost_floor(self.election.fence().epoch.counter, fx.rng);
        fx.put(rows::claim_floor(), &floor);
        self.election.raise_floor(floor, fx);
        self.start_incarnation(fx);
        self.invites.void_all(fx);
        self.incarnations.read_reissue(&me, &self.logs, fx);
        fx.fact(Fact::Warning("was restored to an older state, or copied; calls that it may have run do not run", me));
        self.logs.ask_all(&self.trust, fx);
    }

    /// Our log and our calls are numbered anew. What was meant for the incarnation before does not start any more.
    pub(super) fn start_incarnation(&mut self, fx: &mut Effects<'_>) {
        let incarnation = self.incarnations.start(fx);
        self.logs.start_incarnation(incarnation);
        self.executor.drop_waiting(incarnation);
        self.book.close_calls_of_former_incarnations(incarnation, &self.trust, fx);
        if let Some(directory) = self.nodes.take(&self.local.me) {
            self.set_directory(&directory, fx);
        }
        fx.view_changed = true;
    }

    /// An answer has come.
    pub(super) fn apply_consent(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        let Some(consent) = rights::read_answer(entry) else { return };
        let mut left_ms = left_ms;
        if let Some(id) = rights::call_of(&consent.choice)
            && let Some(record) = self.book.record(&id)
        {
            if matches!(record.state, CallState::Ended(_)) {
                return;
            }
            left_ms = self.book.left_ms(&id, fx.now.mono_ms);
        }
        self.hear_answer(entry, left_ms, fx);
        if let Choice::Withdrawn { consent: hour } = consent.choice
            && entry.author != self.local.me
        {
            self.confirm_taken_back(hour, fx);
        }
    }

    /// An hour that was said here is taken back at another device: this one says so too. Else it would count again once that
    /// device speaks for nobody any more who may take it back.
    fn confirm_taken_back(&mut self, hour: Hash, fx: &mut Effects<'_>) {
        let (me, view) = (self.local.me, Arc::clone(self.rights.view()));
        let Some(given) = view.consents().get(&hour).filter(|given| given.at == me) else { return };
        let is_over = given.consent.of.iter().all(|at| view.is_taken_back(given, at));
        let is_said = view.consents().all().any(|other| {
            other.at == me && matches!(other.consent.choice, Choice::Withdrawn { consent } if consent == hour)
        });
        if let Some(audience) = self.rights.answer_audience(&hour)
            && is_over
            && !is_said
            && self.trust.tier(&me).is_some()
        {
            let choice = Choice::Withdrawn { consent: hour };
            let consent = Consent { choice, note: Note::default(), ..given.consent.clone() };
            self.write_consent(audience, &consent, limits::TTL_MS_MAX, fx);
        }
    }

    pub(super) fn hear_answer(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        let (book, times) = (&self.book, (left_ms, self.local.config.consent_hour_ms));
        self.rights.hear_answer(entry, times, &|id| book.has_to_start(id), &self.trust, fx);
    }

    /// Answers that came with a dispatch: each is held against the rights that are known here, as any other.
    pub(super) fn hear_consents(&mut self, consents: &[EntryItem], fx: &mut Effects<'_>) {
        for EntryItem { entry, left_ms } in consents.iter().take(limits::CONSENTS_OF_CALL_MAX) {
            let place = entry.place();
            let ours = entry.entry.kind == Kind::CONSENT && entry.entry.mesh == self.trust.mesh();
            if ours && self.trust.admits(&place.author, place.incarnation, place.seq) {
                self.apply_consent(entry, *left_ms, fx);
            }
        }
    }
}
