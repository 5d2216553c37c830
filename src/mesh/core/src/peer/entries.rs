//! What the replicated log brings: taking entries, applying them, and what a membership change on a peer means for its links.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Peer;
use crate::calls::InferredEnding;
use crate::effects::{Effects, Then};
use crate::entry::{CancelRequest, Directory, Ending, Kind, Outcome, SignedEntry, Source};
use crate::epoch::Claim;
use crate::frame::{EntryItem, Frame};
use crate::ids::{Hash, PeerId};
use crate::io::{CallState, Fact};
use crate::limits;
use crate::log::Ingest;
use crate::protocol_rule::ProtocolRule;
use crate::rows;

impl Peer {
    /// Whether a claim that `from` shows proves a fence. Its author may have been removed since: a leader must rise
    /// above its epoch all the same, or those who once followed it would never follow anyone below.
    pub(super) fn may_prove(&self, from: &PeerId, claim: &Claim) -> bool {
        let author = &claim.epoch.peer;
        self.trust.is_owner(from) || self.trust.was_owner(author)
    }

    pub(super) fn item(&self, entry: SignedEntry, now: u64) -> EntryItem {
        let left_ms = (entry.entry.kind == Kind::CALL).then(|| {
            let id = entry.header().map(|header| header.id);
            let known = id.and_then(|id| self.book.left_ms(&id, now));
            // A call that is over here has no time left anywhere.
            known.or_else(|| self.overflow.left_ms(&entry.place(), now)).unwrap_or(0)
        });
        EntryItem { entry, left_ms }
    }

    pub(super) fn ingest(&mut self, from: PeerId, item: &EntryItem, fx: &mut Effects<'_>) {
        if self.is_unsupported_over_limit(&item.entry, fx) {
            return;
        }
        let place = item.entry.place();
        if place.author == self.me && self.trust.mesh() == item.entry.entry.mesh && self.is_own_known(&item.entry, fx) {
            self.take_change(&item.entry, fx);
            return;
        }
        let own = place.author == self.me && place.incarnation == self.logs.incarnation();
        let is_word = item.entry.entry.kind == Kind::TRUNCATION && self.understands(Kind::TRUNCATION);
        if is_word && !own && self.logs.is_ahead(&item.entry) {
            // Shown out of its place, so that we step over what is gone; which may lead up to it.
            self.apply_truncation(&item.entry, fx);
            if self.logs.is_ahead(&item.entry) {
                return;
            }
        }
        let admitted = self.trust.admits(&place.author, place.incarnation, place.seq);
        match self.logs.ingest(from, item, admitted, fx) {
            Ingest::New => self.apply(&item.entry, item.left_ms, fx),
            // A peer that was removed gets membership changes and nothing else, so they do not follow on what it holds.
            Ingest::Gap if item.entry.entry.kind == Kind::MEMBERSHIP => self.apply_change(&item.entry, fx),
            // One that is void stays in the set, so that everyone judges by the same; and so does one whose place is gone,
            // by the word of whoever stole its author's key.
            Ingest::Refused | Ingest::Known => self.take_change(&item.entry, fx),
            Ingest::Gap | Ingest::Fork => {}
        }
    }

    /// Trust is a set, so a membership change is taken in whatever order and by whatever way it comes, if its author was ever an
    /// owner; its row in the log, if it is not void, follows by sync.
    pub(super) fn take_change(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        if entry.entry.kind == Kind::MEMBERSHIP && self.trust.was_owner(&entry.author) {
            self.apply_change(entry, fx);
        }
    }

    /// Applies an entry that is new to us, our own included. Unknown kinds are kept and relayed, nothing more.
    pub(super) fn apply(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        if self.keep_unsupported(entry, fx) {
            return;
        }
        let author = entry.author;
        match entry.entry.kind {
            Kind::MEMBERSHIP => self.apply_change(entry, fx),
            Kind::DIRECTORY => {
                let Some(directory) = entry.record::<Directory>().filter(is_reasonable) else { return };
                let newer = self
                    .directory
                    .get(&author)
                    .is_none_or(|(known, _)| (known.entry.hlc, known.entry.seq) < (entry.entry.hlc, entry.entry.seq));
                let own = self.logs.incarnation();
                let former = author == self.me && entry.entry.incarnation != own;
                if newer && !former {
                    fx.put(rows::directory(&author), entry);
                    self.directory.insert(author, (entry.clone(), Arc::new(directory)));
                    self.refresh_candidates(fx);
                    fx.view_changed = true;
                    if self.logs.has_former_incarnation(&author, entry.entry.incarnation) {
                        self.end_undeliverable(fx); // its store started anew
                    }
                    self.with_env(|book, env| book.pump(&author, env, fx));
                }
            }
            Kind::CALL => {
                let Some(header) = entry.header() else { return };
                if header.id.is_of(&author) && header.is_within_limits() {
                    let left_ms = left_ms.unwrap_or(header.ttl_ms).min(header.ttl_ms);
                    if self.overflows(entry, &header, left_ms, fx) {
                        return;
                    }
                    let id = header.id;
                    let mine = header.target == self.me;
                    let meant = header.is_for(self.logs.incarnation());
                    if mine && self.executor.has_any(&id) && self.book.record(&id).is_none() {
                        return; // it came by a dispatch, and is over
                    }
                    self.with_env(|book, env| book.apply_header(entry, header, left_ms, env, fx));
                    if author == self.me {
                        // Of a former incarnation of ours: it has been durable, and others may have run it.
                        self.with_env(|book, env| book.release(&id, env, fx));
                    }
                    if mine && !meant {
                        self.book.close_calls_of_former_incarnations(self.logs.incarnation(), fx);
                    }
                    if mine && author != self.me {
                        self.expire_here(&[id], fx);
                        if let Some(cancel) = self.book.is_cancelled(&id).cloned() {
                            self.stop_call(&cancel, fx);
                        }
                    }
                }
            }
            Kind::OUTCOME => {
                let Some(outcome) = entry.record::<Outcome>() else { return };
                if let Source::Relayed(target) = outcome.source {
                    self.note_relayed(target, &outcome);
                }
                self.with_env(|book, env| book.apply_told(entry, outcome, env, fx));
            }
            Kind::CANCEL => {
                let Some(cancel) =
                    entry.record::<CancelRequest>().filter(|cancel| cancel.reason.len() <= limits::TEXT_BYTES_MAX)
                else {
                    return;
                };
                let by_origin = cancel.id.is_of(&author);
                if by_origin || self.trust.is_owner(&author) {
                    self.book.apply_cancel(&cancel, fx);
                    self.stop_call(&cancel, fx);
                    self.answer_cancel(&cancel, fx);
                }
            }
            Kind::TRUNCATION => self.apply_truncation(entry, fx),
            _ => {}
        }
    }

    pub(super) fn apply_change(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let was_out = self.is_excluded();
        let void_before: BTreeSet<Hash> = self.trust.void().into_iter().collect();
        let Some(changed) = self.trust.add(entry.clone()) else { return };
        self.logs.set_changes(self.trust.fingerprint());
        fx.put(rows::trust(&entry.hash), entry);
        let mut void = self.trust.void();
        void.retain(|hash| !void_before.contains(hash));
        let neighbours: Vec<PeerId> = self.election.neighbours().collect();
        self.share_void(&void, &neighbours, fx);
        if !changed {
            return;
        }
        fx.fact(Fact::Trust);
        fx.view_changed = true;
        match (was_out, self.is_excluded()) {
            (false, true) => {
                fx.then(Then::Revoked);
                self.end_own(fx);
            }
            (true, false) => self.resume(fx),
            (true, true) | (false, false) => {}
        }
        self.handle_holds(fx);
        self.refresh_neighbours(fx);
        self.logs.ask_all(fx);
        self.deny_outsiders(fx);
        self.end_undeliverable(fx);
        self.read_void(fx);
    }

    /// No log brings what is void: it goes from hand to hand.
    pub(super) fn share_void(&self, void: &[Hash], to: &[PeerId], fx: &mut Effects<'_>) {
        let entries: Vec<SignedEntry> = void
            .iter()
            .filter_map(|hash| self.trust.record(hash))
            .filter(|entry| self.logs.may_show(entry))
            .cloned()
            .collect();
        if entries.is_empty() {
            return;
        }
        for peer in to {
            for frame in in_frames(entries.iter().cloned()) {
                fx.send(*peer, frame);
            }
        }
    }

    /// We belong again. What we say from now on must not stand where the revocation voids it.
    fn resume(&mut self, fx: &mut Effects<'_>) {
        let incarnation = self.logs.incarnation();
        let next =
            self.logs.incarnations(&self.me).find(|(held, _)| *held == incarnation).map_or(1, |(_, seq)| seq + 1);
        if !self.trust.admits(&self.me, incarnation, next) {
            self.start_incarnation(fx);
        }
    }
    /// Who belongs has changed: parts with those who were removed, and tells them; meets those who are welcome again.
    pub(super) fn refresh_neighbours(&mut self, fx: &mut Effects<'_>) {
        let linked: Vec<PeerId> = self.linked.iter().copied().collect();
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
        let members_only = fx.enforces(ProtocolRule::DispatchToMembers);
        let gone = self.book.online().filter(|peer| members_only && self.trust.member(peer).is_none());
        let gone: Vec<PeerId> = gone.collect();
        for peer in &gone {
            if let Some(session) = self.book.session(peer) {
                self.book.handle_node_down(*peer, session);
            }
        }
        if !gone.is_empty() {
            self.tell_presence(fx);
        }
    }

    /// Tells a peer that was removed all that it needs to see that for itself.
    pub(super) fn dismiss(&mut self, peer: PeerId, fx: &mut Effects<'_>) {
        if !self.linked.contains(&peer) || self.trust.member(&peer).is_some() {
            return;
        }
        self.tell_records(peer, fx);
    }

    pub(super) fn tell_records(&self, to: PeerId, fx: &mut Effects<'_>) {
        let records = self.trust.records_in_order().into_iter().filter(|entry| self.logs.may_show(entry));
        for frame in in_frames(records) {
            fx.send(to, frame);
        }
    }

    /// We are excluded: what we asked of others will not be done.
    fn end_own(&mut self, fx: &mut Effects<'_>) {
        let changes: Vec<InferredEnding> = self
            .book
            .records()
            .filter(|record| record.origin == self.me && record.header.target != self.me)
            .filter(|record| matches!(record.state, CallState::Open(_)))
            .map(|record| InferredEnding {
                id: record.header.id,
                attempt: record.attempt,
                ending: Ending::Undeliverable,
                reason: "this device does not belong to the mesh any more".to_owned(),
                cancel: true,
            })
            .collect();
        for change in changes {
            self.write_inferred(&change, fx);
        }
    }

    /// Somebody tells us all that it needs to know to be out; if we are not, it lacks what we hold. Once for each link.
    pub(super) fn object(&mut self, to: PeerId, fx: &mut Effects<'_>) {
        if self.is_excluded() || !self.objected.insert(to) {
            return;
        }
        self.tell_records(to, fx);
    }

    /// Ends the calls whose target does not belong any more.
    pub(super) fn end_undeliverable(&mut self, fx: &mut Effects<'_>) {
        let mut changes = Vec::new();
        self.with_env(|book, env| changes = book.undeliverable(env));
        for change in changes {
            self.write_inferred(&change, fx);
        }
    }
}

/// Entries in as many frames as it takes, none over [`limits::SYNC_BYTES_MAX`] unless a single entry is.
pub(super) fn in_frames(records: impl Iterator<Item = SignedEntry>) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut entries = Vec::new();
    let mut bytes = 0;
    for entry in records {
        if bytes > 0 && bytes + entry.bytes.len() > limits::SYNC_BYTES_MAX {
            frames.push(Frame::Entries { entries: std::mem::take(&mut entries), more: false });
            bytes = 0;
        }
        bytes += entry.bytes.len();
        entries.push(EntryItem { entry, left_ms: None });
    }
    frames.push(Frame::Entries { entries, more: false });
    frames
}

fn is_reasonable(directory: &Directory) -> bool {
    directory.addresses.len() <= limits::ADDRESSES_MAX
        && directory.addresses.iter().all(|address| address.len() <= 64)
        && directory.tools.len() <= limits::TOOLS_MAX
        && directory.services.len() <= limits::SERVICES_MAX
        && directory.platform.len() <= 32
        && directory.version.len() <= 32
        && directory.tools.iter().all(|tool| tool.description.len() <= 800)
}
