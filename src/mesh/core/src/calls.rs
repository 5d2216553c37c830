//! The book of calls: what every peer knows of them, and what origin and gateway do about it (`docs/protocol.md`, Calls).
//!
//! Accepting is the origin's fsync. Dispatching is soft and may happen twice: the target's journal absorbs it. An ending
//! is confirmed if the target wrote it; anybody else's is unconfirmed and yields to that one.

pub(crate) mod accept;
mod asking;
mod closed;
mod confirming;
mod deferred;
mod early;
mod endings;
mod history;
mod inferred;
mod keys;
mod ones;
mod queue;
mod sessions;
mod shares;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::budget::{Budget, OverBudget, TIMES};
use crate::config::Config;
use crate::effects::{Effects, Then};
use crate::entry::{Place, SignedEntry};
use crate::facts::Facts;
use crate::frame::{Frame, Phase};
use crate::ids::{ATTEMPTS_MAX, Attempt, Hash, Incarnation, PeerId, ReqId};
use crate::io::{CallRecord, CallState, Fact, HistoryRow, Output, SessionId, Usage};
use crate::limits;
use crate::parts;
use crate::protocol_rule::ProtocolRule;
use crate::record::{CancelRequest, Header, Outcome, Payload, Tier};
use crate::rows::{self, Basis, Empty, OpenKey, OpenRow, Row as _};
use crate::spending::{self, Payer};
use crate::trust::Trust;
use asking::Asking;
use closed::Closed;
pub(crate) use confirming::Confirmed;
use deferred::Deferred;
use early::Early;
pub(crate) use inferred::{InferredEnding, Unrun};
use keys::Keys;
pub(crate) use keys::{key_id, request_fingerprint};
use ones::Ones;
use sessions::Sessions;
use shares::Shares;

/// Arguments of so many bytes are not copied into the row of an open call, which has its entry.
const STORED_TWICE_MAX: usize = 1024;
/// A call that is over sooner than this is reported with its ending alone: people see no use in the steps between.
const PROGRESS_AFTER_MS: u64 = 20;
/// An open call whose TTL has expired, and that is not ours to end, is looked at this often.
const POSTPONED_MS: u64 = 5_000;

#[derive(Debug, Clone)]
struct Sent {
    attempt: Attempt,
    again_at: u64,
    pause_ms: u64,
}

/// An attempt, and the nonce of the process that it was sent to.
#[derive(Debug, Clone, Copy)]
struct Given {
    attempt: Attempt,
    process: u64,
}

#[derive(Debug, Clone)]
struct Open {
    record: CallRecord,
    /// Its header's entry, while it is open.
    entry: Option<SignedEntry>,
    /// Our clock.
    deadline: u64,
    /// Set once its header is durable at its origin: until then one of ours is nobody else's business.
    released: bool,
    /// Order in which calls reached us; of one origin it is the order of acceptance.
    arrival: u64,
    sent: Option<Sent>,
    /// The last one that was sent, also after the session over which it was is over.
    given: Option<Given>,
    cancel: Option<CancelRequest>,
    /// When its origin should hear how it stands, if it is still open then.
    tell_at: Option<u64>,
    /// Next look: expiry of ours, or margin over.
    due_at: u64,
    basis: Basis,
}

impl Open {
    fn ended(&self) -> bool {
        matches!(self.record.state, CallState::Ended(_))
    }

    /// All that its row says of it, besides the entry, which has the arguments as well.
    fn stored(&self) -> Cow<'_, CallRecord> {
        match &self.record.header.arguments {
            Payload::Inline(arguments) if self.entry.is_some() && arguments.len() >= STORED_TWICE_MAX => {
                let header = Header { arguments: Payload::empty(), ..(*self.record.header).clone() };
                Cow::Owned(CallRecord { header: Arc::new(header), ..self.record.clone() })
            }
            Payload::Inline(_) | Payload::Blob { .. } => Cow::Borrowed(&self.record),
        }
    }

    /// The call is over: its arguments are only named from now on, and its entry is in the log. Answers the bytes that
    /// stay besides.
    fn drop_bodies(&mut self) -> u64 {
        self.entry = None;
        if let Payload::Inline(bytes) = &self.record.header.arguments
            && !bytes.is_empty()
        {
            let arguments = Payload::Blob { hash: Hash::of(bytes), len: bytes.len() as u64 };
            self.record.header = Arc::new(Header { arguments, ..(*self.record.header).clone() });
        }
        let payloads = parts::payloads(&self.record.output, &self.record.parts);
        let inline = |payload: &Payload| if let Payload::Inline(bytes) = payload { bytes.len() } else { 0 };
        let names: usize = self.record.parts.iter().map(|part| part.media_type.len() + part.name.len()).sum();
        (payloads.map(inline).sum::<usize>() + names + self.record.error.len() + self.record.reason.len()) as u64
    }
}

/// All calls without a confirmed ending.
#[derive(Debug, Clone)]
pub(crate) struct Book {
    me: PeerId,
    open: BTreeMap<ReqId, Open>,
    /// Open calls that are not with their target, by arrival, with their origins.
    waiting: BTreeMap<PeerId, BTreeMap<u64, (ReqId, PeerId)>>,
    /// Ended and confirmed, but not yet durable here: still to be read from memory.
    unsynced: BTreeMap<ReqId, CallRecord>,
    early: Early,
    deferred: Deferred,
    /// Calls that have left the book.
    pub(crate) closed: Closed,
    pub(crate) keys: Keys,
    sessions: Sessions,
    agenda: BTreeSet<(u64, ReqId)>,
    arrivals: u64,
    /// Time for which an unconfirmed ending waits for the target's own.
    keep_ms: u64,
    shares: Shares,
    asking: Asking,
    pub(crate) ones: Ones,
}

impl Book {
    pub(crate) fn new(me: PeerId, keep_ms: u64) -> Self {
        Self {
            me,
            keep_ms,
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            unsynced: BTreeMap::new(),
            early: Early::default(),
            deferred: Deferred::default(),
            closed: Closed::default(),
            keys: Keys::default(),
            sessions: Sessions::default(),
            agenda: BTreeSet::new(),
            arrivals: 0,
            shares: Shares::default(),
            asking: Asking::default(),
            ones: Ones::default(),
        }
    }

    /// Takes back a row of [`crate::io::Space::Meta`] that was written here; others are none of its business.
    pub(crate) fn restore_meta(&mut self, key: &[u8], value: &[u8], now: u64) {
        self.closed.restore(key, value, now);
        self.ones.restore(key, value);
    }

    /// Restores a row of [`Space::Open`]. Across a restart the time left shrinks by the wall clock's difference.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8], now: crate::io::Now) -> Option<ReqId> {
        match OpenKey::of(key)? {
            OpenKey::EarlyOutcome(id) => return self.early.restore_outcome(id, value),
            OpenKey::EarlyCancel(id) => return self.early.restore_cancel(id, value),
            OpenKey::Call(_) | OpenKey::Consent(_) => {}
        }
        let row = OpenRow::from_bytes(value)?;
        let entry = if row.entry.is_empty() { None } else { Some(SignedEntry::from_stored(&row.entry)?) };
        let left = row.left_ms.saturating_sub(now.wall_ms.saturating_sub(row.saved_ms));
        let mut record = row.record.into_owned();
        if let Some(header) = entry.as_ref().and_then(SignedEntry::header) {
            record.header = header;
        }
        if let CallState::Open(_) = record.state {
            record.state = CallState::Open(Phase::Accepted);
        }
        let id = record.header.id;
        let ended = matches!(record.state, CallState::Ended(_));
        if entry.is_none() && !ended {
            return None;
        }
        let origin = record.origin;
        self.insert(record, entry, now.mono_ms.saturating_add(left), row.cancel.map(Cow::into_owned), now.mono_ms);
        if let Some(open) = self.open.get_mut(&id) {
            open.released = true;
            open.basis = row.basis;
            if ended {
                self.agenda.remove(&(open.due_at, id));
                open.due_at = open.due_once_ended(&self.me, self.keep_ms);
                self.agenda.insert((open.due_at, id));
                let bytes = open.drop_bodies();
                self.shares.add_ended(id, origin, open.arrival, bytes);
            }
        }
        Some(id)
    }

    fn insert(
        &mut self,
        record: CallRecord,
        entry: Option<SignedEntry>,
        deadline: u64,
        cancel: Option<CancelRequest>,
        now: u64,
    ) {
        let (id, target, origin) = (record.header.id, record.header.target, record.origin);
        self.arrivals += 1;
        let arrival = self.arrivals;
        if matches!(record.state, CallState::Open(_)) {
            self.waiting.entry(target).or_default().insert(arrival, (id, origin));
            self.shares.add(&record.header, origin, self.me);
        }
        let due_at = if deadline > now { deadline } else { now };
        self.agenda.insert((due_at, id));
        let released = origin != self.me;
        self.open.insert(
            id,
            Open {
                record,
                entry,
                deadline,
                released,
                arrival,
                sent: None,
                given: None,
                cancel,
                tell_at: None,
                due_at,
                basis: Basis::Nothing,
            },
        );
    }

    pub(crate) fn record(&self, id: &ReqId) -> Option<&CallRecord> {
        self.open.get(id).map(|open| &open.record).or_else(|| self.unsynced.get(id))
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &CallRecord> + Clone {
        self.open.values().map(|open| &open.record).chain(self.unsynced.values())
    }

    /// Calls that have no ending.
    fn unended(&self) -> impl Iterator<Item = &CallRecord> {
        self.open.values().filter(|open| !open.ended()).map(|open| &open.record)
    }

    pub(crate) fn count_open(&self) -> usize {
        self.shares.count_open()
    }

    /// Number of calls of another origin that have room here still.
    fn room(&self, origin: &PeerId, foreign: bool, trust: &Trust, config: &Config) -> u64 {
        let tier = trust.tier(origin);
        self.shares.room(origin, foreign, tier == Some(Tier::Owner), config.budgets.of(tier), config)
    }

    /// True if one more call of another origin for this peer has room here.
    pub(crate) fn has_room(&self, origin: &PeerId, facts: &Facts<'_>, fx: &Effects<'_>) -> bool {
        *origin == self.me
            || self.room(origin, false, facts.trust, facts.config()) > 0
            || !fx.enforces(ProtocolRule::OpenShare)
    }

    /// Checks one more call of our own against what we may have open.
    ///
    /// # Errors
    /// The budget that is used up.
    pub(crate) fn has_room_for_own(&self, arguments: &Payload, budget: &Budget) -> Result<(), OverBudget> {
        self.shares.has_room_for_own(&self.me, arguments, budget)
    }

    /// Peer that is charged for what `author` says of this call in answer.
    pub(crate) fn payer(&self, id: &ReqId, author: &PeerId, by_owner: bool) -> Payer {
        let Some(record) = self.record(id) else { return Payer::Unknown };
        let has_say = by_owner || *author == record.header.target;
        if spending::is_charged_to_origin(has_say, record.history.len()) {
            Payer::Origin(record.origin)
        } else {
            Payer::Author
        }
    }

    /// Amounts that fill the book and its rows, by origin.
    pub(crate) fn usage(&self) -> Usage {
        let (open, ended) = (self.shares.open().collect(), self.shares.ended().collect());
        Usage { open, ended, closed: self.closed.held().collect(), logs: Vec::new() }
    }

    /// Number of calls of ours that are open for a target, and the bytes of their arguments.
    pub(crate) fn own_open(&self, target: &PeerId) -> (usize, u64) {
        self.shares.own_open(target)
    }

    pub(crate) fn left_ms(&self, id: &ReqId, now: u64) -> Option<u64> {
        self.open.get(id).map(|open| open.deadline.saturating_sub(now))
    }

    /// The time that a header's call has left, as it is told to others. One that is over here has none left anywhere.
    pub(crate) fn left_ms_of(&self, entry: &SignedEntry, now: u64) -> u64 {
        let known = entry.header().and_then(|header| self.left_ms(&header.id, now));
        known.or_else(|| self.deferred.left_ms(&entry.place(), now)).unwrap_or(0)
    }

    /// True if there is no room for this header: it is read from our log again when there is.
    pub(crate) fn defers(
        &mut self,
        place: Place,
        header: &Header,
        left_ms: u64,
        facts: &Facts<'_>,
        fx: &Effects<'_>,
    ) -> bool {
        let full = place.author != self.me
            && self.record(&header.id).is_none()
            && self.room(&place.author, header.target != self.me, facts.trust, facts.config()) == 0
            && fx.enforces(ProtocolRule::QueueLimit)
            && fx.enforces(ProtocolRule::OpenShare);
        if full {
            let max = facts.config().budgets.of(facts.trust.tier(&place.author)).deferred;
            self.deferred.keep(place, left_ms, max, fx.now.mono_ms);
        }
        full
    }

    /// Reads headers again for which there is room now.
    pub(crate) fn read_deferred(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if self.deferred.poll_timeout().is_none_or(|at| fx.now.mono_ms < at) {
            return;
        }
        let mut rooms: BTreeMap<PeerId, u64> = BTreeMap::new();
        for origin in self.deferred.origins() {
            rooms.insert(origin, self.room(&origin, true, facts.trust, facts.config()));
        }
        self.deferred.handle_timeout(rooms, facts.logs, fx);
    }

    /// When [`Self::read_deferred`] is due.
    pub(crate) fn deferred_timeout(&self) -> Option<u64> {
        self.deferred.poll_timeout()
    }

    /// Our own log answers: each header with the time that its call has left.
    pub(crate) fn take_deferred(&mut self, entries: Vec<SignedEntry>, now: u64) -> Vec<(SignedEntry, u64)> {
        self.deferred.handle_log_read(entries, now)
    }

    pub(crate) fn is_cancelled(&self, id: &ReqId) -> Option<&CancelRequest> {
        self.open.get(id).and_then(|open| open.cancel.as_ref()).or_else(|| self.early.cancel(id))
    }

    /// The present session of a node.
    pub(crate) fn session(&self, peer: &PeerId) -> Option<SessionId> {
        self.sessions.number(peer)
    }

    pub(crate) fn online(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.sessions.nodes()
    }

    /// A header reached us: our own at acceptance, or another's by the log or a dispatch. False when it is known already.
    pub(crate) fn apply_header(
        &mut self,
        entry: &SignedEntry,
        header: Arc<Header>,
        left_ms: u64,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) -> bool {
        let id = header.id;
        let now = fx.now.mono_ms;
        let left_ms = left_ms.min(header.ttl_ms);
        if let Some(open) = self.open.get_mut(&id) {
            if open.entry.as_ref().is_some_and(|known| known.hash != entry.hash) {
                fx.fact(Fact::Warning("signed two calls under one id; the second is refused", entry.author));
            } else if now + left_ms < open.deadline {
                open.deadline = now + left_ms;
                self.agenda.remove(&(open.due_at, id));
                open.due_at = open.deadline;
                self.agenda.insert((open.due_at, id));
            }
            return false;
        }
        if self.unsynced.contains_key(&id) {
            return false;
        }
        self.keys.bind(&entry.author, &header, facts, fx);
        // Whoever claims to be of the future is listed by when it came, or it would stand on top of every list for ever.
        let ahead = header.accepted_ms > fx.now.wall_ms.saturating_add(limits::FUTURE_MS_MAX);
        let at_ms = if ahead { fx.now.wall_ms } else { header.accepted_ms };
        let record = CallRecord {
            origin: entry.author,
            state: CallState::Open(Phase::Accepted),
            confirmed: false,
            attempt: 1,
            output: Payload::empty(),
            parts: Vec::new(),
            partial: false,
            error: String::new(),
            reason: String::new(),
            alias_of: None,
            history: vec![HistoryRow {
                state: CallState::Open(Phase::Accepted),
                attempt: 1,
                at_ms,
                peer: entry.author,
                reason: String::new(),
                confirmed: true,
            }],
            header,
        };
        fx.put(rows::call_by_time(record.listed_ms(), &id), &Empty);
        if let Payload::Blob { hash, .. } = record.header.arguments {
            fx.put(rows::blob_reader(&hash, &record.header.target), &Empty);
        }
        let cancel = self.early.take_cancel(&id, fx);
        self.insert(record, Some(entry.clone()), now + left_ms, cancel, now);
        self.save(&id, fx);
        for outcome in self.early.take_outcomes(&id, fx) {
            self.apply_outcome(&outcome, facts, fx);
        }
        self.want_arguments(&id, facts, fx);
        self.redecide_soon(&id);
        if entry.author != self.me {
            self.release(&id, facts, fx);
        }
        true
    }

    /// Arguments that did not fit into the header: everyone who may dispatch or run the call keeps a copy.
    fn want_arguments(&self, id: &ReqId, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        let blobs_max = |origin: &PeerId| facts.config().budgets.of(facts.trust.tier(origin)).blobs * TIMES as usize;
        if let Some(open) = self.open.get(id)
            && !open.ended()
            && open.record.origin != self.me
            && self.shares.blobs_of(&open.record.origin) <= blobs_max(&open.record.origin)
            && let Payload::Blob { hash, len } = open.record.header.arguments
        {
            fx.out.push(Output::Fetch { hash, len, from: vec![open.record.origin] });
        }
    }

    fn save(&self, id: &ReqId, fx: &mut Effects<'_>) {
        if let Some(open) = self.open.get(id) {
            let row = OpenRow {
                record: open.stored(),
                entry: open.entry.as_ref().map(SignedEntry::to_stored).unwrap_or_default(),
                left_ms: open.deadline.saturating_sub(fx.now.mono_ms),
                saved_ms: fx.now.wall_ms,
                cancel: open.cancel.as_ref().map(Cow::Borrowed),
                basis: open.basis,
            };
            fx.put(rows::open_call(id), &row);
        }
    }

    /// An outcome: the target's (confirmed), or what origin or gateway said without it. Anyone else has no say.
    pub(crate) fn apply_outcome(&mut self, entry: &SignedEntry, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if let Some(outcome) = entry.record::<Outcome>() {
            self.apply_told(entry, outcome, facts, fx);
        }
    }

    /// As [`Self::apply_outcome`], of an entry that was read already.
    pub(crate) fn apply_told(
        &mut self,
        entry: &SignedEntry,
        outcome: Outcome,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) {
        let id = outcome.id;
        if !endings::is_possible(&outcome) {
            return;
        }
        let Some(open) = self.open.get_mut(&id) else {
            if !self.unsynced.contains_key(&id) {
                self.early.keep_outcome(id, entry, fx);
            }
            return;
        };
        let (author, header) = (entry.author, open.record.header.clone());
        let by_owner = facts.trust.stands(&entry.place());
        let anyone_confirms = !fx.enforces(ProtocolRule::TargetConfirms);
        let basis = endings::basis_of(entry, &outcome, &open.record, open.basis, by_owner, anyone_confirms);
        let Some(basis) = basis else { return };
        let confirmed = basis == Basis::Target;
        let was_open = !open.ended();
        let once_is_once = fx.enforces(ProtocolRule::OnceIsOnce);
        let may_follow = endings::may_follow(&outcome, header.effect, once_is_once);
        // What was meant for a store of ours that is gone is in no journal here: the log may bring its header again.
        let of_former_store = header.target == self.me && !header.is_for(facts.logs.incarnation());
        let lingers = confirmed && (may_follow || of_former_store);
        let waiting = was_open && open.cancel.is_none() && open.deadline > fx.now.mono_ms;
        let declared = facts.nodes.declared(&header.target, header.tool.as_str()).map(|tool| tool.effect);
        let follows = confirmed && may_follow && endings::follows(waiting, declared, once_is_once);
        let row = HistoryRow {
            state: CallState::Ended(endings::ending_of(&outcome)),
            attempt: outcome.attempt,
            at_ms: outcome.at_ms,
            peer: author,
            reason: limits::cut(&outcome.reason, limits::TEXT_BYTES_MAX).to_owned(),
            confirmed,
        };
        // Opened again for another attempt, and ended by somebody who had not heard why.
        let before =
            (!confirmed).then(|| endings::interruption_before(&open.record, outcome.attempt)).flatten().cloned();
        open.basis = basis;
        open.record.confirmed = confirmed;
        open.record.reason.clone_from(&row.reason);
        (open.record.output, open.record.parts, open.record.partial) = (outcome.output, outcome.parts, outcome.partial);
        // Its origin had the arguments before anybody else.
        for (hash, _) in parts::blobs(&open.record.output, &open.record.parts) {
            fx.put(rows::blob_reader(&hash, &open.record.origin), &Empty);
        }
        limits::cut(&outcome.error, limits::TEXT_BYTES_MAX).clone_into(&mut open.record.error);
        open.record.alias_of = outcome.alias_of.filter(|_| header.client_key.is_some());
        self.unsend(&id, &header.target);
        self.note_start(&id, outcome.attempt, outcome.started_ms, fx);
        self.note(&id, row, fx);
        if let Some(before) = before {
            self.end_as(&id, before, was_open, facts.trust, fx);
        } else if follows {
            // Until no attempt can follow, the call reads `queued` again, with the interruption in its history.
            if let Some(open) = self.open.get_mut(&id) {
                open.basis = Basis::Nothing;
                open.record.confirmed = false;
                open.record.attempt = outcome.attempt + 1;
                open.record.state = CallState::Open(Phase::Accepted);
            }
            self.phase(&id, Phase::Queued, outcome.attempt + 1, self.me, "", fx);
            self.save(&id, fx);
            self.redecide_soon(&id);
            self.pump_one(&id, facts, fx);
        } else {
            self.conclude(&id, was_open, lingers, outcome.attempt, facts.trust, fx);
        }
        self.pump(&header.target, facts, fx);
    }

    /// The call has an ending. A confirmed one leaves the book, unless another attempt may still be told of (`lingers`).
    fn conclude(
        &mut self,
        id: &ReqId,
        was_open: bool,
        lingers: bool,
        attempt: Attempt,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        self.note_one(id, trust, fx);
        let Some(open) = self.open.get(id) else { return };
        let (target, origin, confirmed) = (open.record.header.target, open.record.origin, open.record.confirmed);
        if was_open {
            self.shares.remove(&open.record.header, origin, self.me);
        }
        if origin == self.me {
            let blobs = parts::blobs(&open.record.output, &open.record.parts);
            fx.out.extend(blobs.map(|(hash, len)| Output::Fetch { hash, len, from: vec![target] }));
        }
        self.stop_waiting(id);
        if confirmed && !lingers {
            if let Some(open) = self.open.remove(id) {
                self.shares.remove_ended(*id, origin, open.arrival);
                self.agenda.remove(&(open.due_at, *id));
                fx.delete(rows::open_call(id));
                self.closed.put(id, &open.record, fx);
                self.unsynced.insert(*id, open.record);
            }
        } else {
            // The target may still come and say otherwise; the books are closed without it after a while.
            if let Some(open) = self.open.get_mut(id) {
                self.agenda.remove(&(open.due_at, *id));
                open.due_at = open.due_once_ended(&self.me, self.keep_ms);
                self.agenda.insert((open.due_at, *id));
                let bytes = open.drop_bodies();
                let over = self.shares.add_ended(*id, origin, open.arrival, bytes);
                self.save(id, fx);
                for id in over {
                    self.close(&id, fx);
                }
            }
        }
        fx.then(Then::Ended(*id, attempt, confirmed));
    }

    /// The ending is durable: tells whoever waits for it.
    pub(crate) fn handle_ended(&mut self, id: &ReqId, attempt: Attempt, confirmed: bool, fx: &mut Effects<'_>) {
        let Some(record) = self.record(id) else { return };
        if record.confirmed && (record.attempt, record.confirmed) != (attempt, confirmed) {
            return; // another ending is on its way to the disk
        }
        if let Some(row) = record.history.last() {
            fx.fact(Fact::Call(*id, row.clone()));
        }
        fx.fact(Fact::CallEnded(*id));
        if confirmed {
            self.unsynced.remove(id);
        }
    }

    /// Somebody wants the call stopped.
    pub(crate) fn apply_cancel(&mut self, cancel: &CancelRequest, fx: &mut Effects<'_>) {
        let id = cancel.id;
        let Some(open) = self.open.get_mut(&id) else { return self.early.keep_cancel(cancel, fx) };
        if open.cancel.is_some() {
            return;
        }
        open.cancel = Some(cancel.clone());
        let target = open.record.header.target;
        self.save(&id, fx);
        if target != self.me && self.sessions.number(&target).is_some() {
            fx.send(target, Frame::Cancel { id });
        }
    }

    /// Takes the progress of a call of ours from its gateway.
    pub(crate) fn handle_progress(
        &mut self,
        from: PeerId,
        id: ReqId,
        attempt: Attempt,
        state: Phase,
        note: &str,
        fx: &mut Effects<'_>,
    ) {
        if attempt <= ATTEMPTS_MAX {
            self.phase(&id, state, attempt, from, note, fx);
            if state == Phase::Asking {
                self.redecide_soon(&id);
            }
        }
    }

    /// Looks at every call whose time has come: repeats dispatches and tells origins. Returns the endings that this peer
    /// infers: expiry after the margin. For revoked targets see [`Self::undeliverable`].
    pub(crate) fn handle_timeout(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) -> Vec<InferredEnding> {
        let now = fx.now.mono_ms;
        let mut inferred = Vec::new();
        while let Some((at, id)) = self.agenda.first().copied()
            && at <= now
        {
            self.agenda.pop_first();
            let Some(open) = self.open.get_mut(&id) else { continue };
            if open.tell_at.is_some_and(|at| at <= now) {
                open.tell_at = None;
                if let CallState::Open(state) = open.record.state
                    && open.record.origin != self.me
                    && facts.leads()
                {
                    let asked = self.asking.asked(&id);
                    let state = match (&open.sent, asked) {
                        (Some(_), _) => state.max(Phase::Dispatched),
                        (None, Some(_)) => Phase::Asking,
                        (None, None) => Phase::Queued,
                    };
                    let (origin, attempt) = (open.record.origin, open.record.attempt);
                    let note = asked.map(|asked| asked.why.clone()).unwrap_or_default();
                    fx.send(origin, Frame::Progress { id, attempt, state, note });
                }
            }
            let Some(open) = self.open.get_mut(&id) else { continue };
            if open.ended() {
                let kept_until = open.deadline.saturating_add(self.keep_ms);
                if open.due_at <= now && now < kept_until {
                    open.due_at = kept_until;
                    self.agenda.insert((kept_until, id));
                } else if open.due_at <= now {
                    self.close(&id, fx);
                }
                continue;
            }
            let twice = if fx.enforces(ProtocolRule::ExpiryMargin) { 2 } else { 0 };
            let margin = open.deadline + twice * limits::epsilon_ms(open.record.header.ttl_ms);
            if now < open.deadline {
                open.due_at = open.deadline;
                self.agenda.insert((open.due_at, id));
                let due = open.sent.as_ref().is_none_or(|sent| sent.again_at <= now);
                let (target, origin) = (open.record.header.target, open.record.origin);
                if due && (open.sent.is_some() || self.sessions.has_credit(&target, &origin, facts)) {
                    self.dispatch(&id, true, facts, fx);
                }
            } else if now < margin {
                open.due_at = margin;
                self.agenda.insert((margin, id));
            } else if open.record.origin != self.me
                && now >= open.deadline.saturating_add(self.keep_ms)
                && (open.record.header.target != self.me || open.record.state != CallState::Open(Phase::Running))
            {
                self.forget(&id, fx);
            } else if open.record.header.target == self.me {
                // Ours to end, once its run is over or its origin may have more here again.
                self.postpone(&id, now);
            } else {
                let overdue = inferred::overdue(&self.me, open, self.asking.asked(&id), now, facts);
                if overdue.is_none() {
                    self.give_up_attempt(&id, facts.trust, fx);
                    self.postpone(&id, now);
                }
                inferred.extend(overdue);
            }
        }
        inferred
    }

    /// Closes the book on a call that ended without its target's own outcome. One of others that was given up here while another
    /// attempt was due leaves no record: how that ended, nobody has told.
    fn close(&mut self, id: &ReqId, fx: &mut Effects<'_>) {
        let Some(open) = self.open.remove(id) else { return };
        self.agenda.remove(&(open.due_at, *id));
        self.shares.remove_ended(*id, open.record.origin, open.arrival);
        fx.delete(rows::open_call(id));
        if inferred::is_given_up(&self.me, &open.record) {
            fx.delete(rows::call_by_time(open.record.listed_ms(), id));
        } else {
            self.closed.put(id, &open.record, fx);
        }
    }

    /// After time and margin, at a bystander: if it waited for another attempt, the interruption was the ending.
    fn give_up_attempt(&mut self, id: &ReqId, trust: &Trust, fx: &mut Effects<'_>) {
        let Some(open) = self.open.get(id) else { return };
        let interrupted = endings::interruption_before(&open.record, open.record.attempt.saturating_sub(1));
        let waits = matches!(open.record.state, CallState::Open(phase) if phase != Phase::Running);
        if let Some(row) = interrupted.filter(|_| waits).cloned() {
            self.end_as(id, row, true, trust, fx);
        }
    }

    /// No other attempt follows an interruption: with that the call ended.
    fn end_as(&mut self, id: &ReqId, interruption: HistoryRow, was_open: bool, trust: &Trust, fx: &mut Effects<'_>) {
        let attempt = interruption.attempt;
        if let Some(open) = self.open.get_mut(id) {
            open.basis = Basis::Target;
            open.record.confirmed = true;
            open.record.reason.clone_from(&interruption.reason);
        }
        self.note(id, interruption, fx);
        self.conclude(id, was_open, true, attempt, trust, fx);
    }

    /// A call of others whose ending nobody will tell here any more: what would have told it may be gone from their logs.
    fn forget(&mut self, id: &ReqId, fx: &mut Effects<'_>) {
        let Some(target) = self.open.get(id).map(|open| open.record.header.target) else { return };
        self.unsend(id, &target);
        self.stop_waiting(id);
        let Some(open) = self.open.remove(id) else { return };
        self.agenda.remove(&(open.due_at, *id));
        self.shares.remove(&open.record.header, open.record.origin, self.me);
        fx.delete(rows::open_call(id));
        fx.delete(rows::call_by_time(open.record.listed_ms(), id));
    }

    /// Somebody else has to end it, or its run may still end: it is looked at again.
    fn postpone(&mut self, id: &ReqId, now: u64) {
        if let Some(open) = self.open.get_mut(id).filter(|open| !open.ended()) {
            open.due_at = now + POSTPONED_MS;
            self.agenda.insert((open.due_at, *id));
        }
    }

    /// Open calls for a peer that does not belong any more, or whose store started anew.
    pub(crate) fn undeliverable(&self, facts: &Facts<'_>) -> Vec<InferredEnding> {
        self.unended().filter_map(|record| inferred::undeliverable(&self.me, record, facts)).collect()
    }

    /// Open calls of ours for others, once this peer is excluded.
    pub(crate) fn abandoned(&self) -> Vec<InferredEnding> {
        self.unended().filter_map(|record| inferred::abandoned(&self.me, record)).collect()
    }

    /// Unconfirmed endings of our calls for others, by somebody who has no say any more: ours to say from now on.
    pub(crate) fn said_by_former_owners(&self, facts: &Facts<'_>) -> Vec<Outcome> {
        let ended = self.open.values().filter(|open| open.ended());
        ended.filter_map(|open| inferred::said_by_former_owner(&self.me, &open.record, open.basis, facts)).collect()
    }

    /// Open calls for ourselves of devices that do not belong any more.
    pub(crate) fn of_strangers(&self, facts: &Facts<'_>) -> Vec<Unrun> {
        self.unended()
            .filter(|record| record.header.target == self.me && facts.trust.is_excluded(&record.origin))
            .map(Unrun::of)
            .collect()
    }

    /// Frees what open calls of devices that do not belong any more take here.
    /// `is_run`: whether our executor has a call, and ends it.
    pub(crate) fn free_strangers(&mut self, is_run: impl Fn(&ReqId) -> bool, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        let me = self.me;
        self.give_up(|record| inferred::of_stranger(&me, record, &is_run, facts), facts.trust, fx);
        self.closed.check_soon(fx.now.mono_ms);
        self.close_ended_of_excluded(facts, fx);
        self.deferred.forget(|origin| facts.trust.is_excluded(origin));
    }

    /// Closes, in our own book alone, what was meant for another incarnation of this device.
    pub(crate) fn close_calls_of_former_incarnations(&mut self, own: Incarnation, trust: &Trust, fx: &mut Effects<'_>) {
        let me = self.me;
        self.give_up(|record| inferred::of_former_incarnation(&me, own, record), trust, fx);
    }

    /// Ends open calls in our own book alone, each for a reason. Its target's own outcome takes the place of such an ending.
    fn give_up(&mut self, reason: impl Fn(&CallRecord) -> Option<&'static str>, trust: &Trust, fx: &mut Effects<'_>) {
        let over: Vec<(ReqId, &'static str)> =
            self.unended().filter_map(|record| Some((record.header.id, reason(record)?))).collect();
        for (id, reason) in over {
            let Some(open) = self.open.get_mut(&id) else { continue };
            let (target, attempt) = (open.record.header.target, open.record.attempt);
            reason.clone_into(&mut open.record.reason);
            let row = inferred::given_up(self.me, attempt, reason, fx.now.wall_ms);
            self.unsend(&id, &target);
            self.note(&id, row, fx);
            self.conclude(&id, true, false, attempt, trust, fx);
        }
    }

    /// Calls for ourselves that are due now; looked at before [`Self::handle_timeout`] takes them off the agenda.
    pub(crate) fn due(&self, now: u64) -> Vec<ReqId> {
        self.agenda.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// Ends everything that is open: this peer leaves the mesh. What is written goes in one batch with the departure.
    pub(crate) fn depart(&mut self, fx: &mut Effects<'_>) {
        for (id, mut open) in std::mem::take(&mut self.open) {
            if !open.ended() {
                let row = inferred::given_up(self.me, open.record.attempt, inferred::LEFT, fx.now.wall_ms);
                open.record.state = row.state;
                open.record.reason.clone_from(&row.reason);
                open.record.history.push(row);
            }
            fx.put(rows::call(&id), &open.record);
        }
    }
}
