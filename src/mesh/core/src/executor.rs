//! The target's side of a call: the journal that makes "at most once" true (`docs/protocol.md`, Target journal).
//!
//! A tool is invoked only after `started` for its (id, attempt) is durable, and after a second look at halts,
//! permission, cancel request and time. Whatever is found started without an outcome after a restart ends
//! `interrupted`, never runs again.

mod places;
pub(crate) mod screen;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::calls::{Unrun, key_id, request_fingerprint};
use crate::effects::{Effects, Then};
use crate::entry::SignedEntry;
use crate::facts::Facts;
use crate::frame::{Answer, AnswerKind, Frame};
use crate::ids::{ATTEMPTS_MAX, Attempt, Hash, Incarnation, PeerId, ReqId, Series};
use crate::io::{Invocation, Output, ToolOutcome};
use crate::limits;
use crate::protocol_rule::ProtocolRule;
use crate::record::{CancelRequest, Effect, Ending, Header, Outcome, Payload, Source};
use crate::rights::Ruling;
use crate::rows::{self, JournalRow, Journaled, Row as _};
use crate::rule_words;
use crate::trust::Trust;

/// A run that is over sooner than this is told with its outcome alone.
const TELL_RUNNING_AFTER_MS: u64 = 20;
/// Between two looks at what may be forgotten.
const FORGET_EVERY_MS: u64 = 3_600_000;
/// Outcomes kept in memory to be told again without reading the store.
const OUTCOMES_KEPT: usize = 256;
/// Reasons for which a call does not run although its target is there.
const ARGUMENTS_GONE: &str = "its arguments are not kept any more by the device that asked, nor by the gateway";
const ARGUMENTS_AWAY: &str = "TTL expired before its arguments arrived: no device that has them was reached";

/// The call that bound a client key first, and its fingerprint.
type First = (ReqId, Hash);

#[derive(Debug, Clone)]
struct Waiting {
    id: ReqId,
    attempt: Attempt,
    header: Arc<Header>,
    origin: PeerId,
    /// Hash of the entry of its header.
    entry: Hash,
    deadline: u64,
    /// Arguments that are still on their way.
    missing: Option<Hash>,
    fetch_at: u64,
}

impl Waiting {
    /// The answer to a dispatch of it.
    fn answer(&self, fx: &Effects<'_>) -> AnswerKind {
        let lacks = self.missing.is_some() && fx.enforces(ProtocolRule::PlaceShare);
        if lacks { AnswerKind::Lacking } else { AnswerKind::Waiting }
    }
}

#[derive(Debug, Clone)]
struct Running {
    header: Arc<Header>,
    origin: PeerId,
    /// Hash of the entry of its header.
    entry: Hash,
    deadline: u64,
    /// The call that had bound its client key when it started, if another had.
    repeats: Option<First>,
    invoked: bool,
    started_ms: u64,
    tell_at: Option<u64>,
    killed: Option<String>,
}

/// A dispatch that has passed the checks of link, epoch and membership.
pub(crate) struct Screened {
    pub(crate) gateway: PeerId,
    pub(crate) header: Arc<Header>,
    pub(crate) origin: PeerId,
    /// Hash of the entry of its header.
    pub(crate) entry: Hash,
    pub(crate) attempt: Attempt,
    pub(crate) left_ms: u64,
    /// Somebody wants it stopped.
    pub(crate) cancel: Option<CancelRequest>,
    /// Its origin was let in for one call, and another was that.
    pub(crate) spent: bool,
}

/// The outcome of an attempt, to be written; the composition appends it to the log.
#[derive(Debug, Clone)]
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    pub(crate) header: Option<Arc<Header>>,
}

/// The executor of one peer.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    me: PeerId,
    journal: BTreeMap<(ReqId, Attempt), JournalRow>,
    forgotten: BTreeMap<Series, u64>,
    /// Number of rows of the journal, by series.
    by_series: BTreeMap<Series, usize>,
    /// Client keys bound by calls that started or ended here: key to (call, fingerprint).
    client_keys: BTreeMap<Hash, (ReqId, Hash)>,
    waiting: VecDeque<Waiting>,
    running: BTreeMap<(ReqId, Attempt), Running>,
    outcomes: BTreeMap<(ReqId, Attempt), SignedEntry>,
    outcome_order: VecDeque<(ReqId, Attempt)>,
    blobs: BTreeSet<Hash>,
    next_forget: u64,
}

impl Executor {
    pub(crate) fn new(me: PeerId, now: u64) -> Self {
        Self {
            me,
            journal: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            by_series: BTreeMap::new(),
            client_keys: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            outcome_order: VecDeque::new(),
            blobs: BTreeSet::new(),
            next_forget: now,
        }
    }

    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (id, attempt) = rows::journal_of(key)?;
        let row = JournalRow::from_bytes(value)?;
        if let Some((key, fingerprint)) = row.key.as_deref() {
            self.client_keys.insert(*key, (id, *fingerprint));
        }
        self.note_row(id, attempt, row);
        Some(())
    }

    pub(crate) fn restore_forgotten_mark(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.forgotten.insert(rows::series_of(key)?, u64::from_bytes(value)?);
        Some(())
    }

    /// After a restart: what was started and has no outcome is interrupted.
    pub(crate) fn interrupted(&mut self, fx: &mut Effects<'_>) -> Vec<Finished> {
        if !fx.enforces(ProtocolRule::BootRule) {
            return Vec::new();
        }
        let cut: Vec<(ReqId, Attempt)> =
            self.journal.iter().filter(|(_, row)| row.state == Journaled::Started).map(|(at, _)| *at).collect();
        cut.into_iter()
            .map(|(id, attempt)| {
                let reason = "the device stopped while the tool ran: it may or may not have happened";
                self.finish(id, attempt, Ending::Interrupted, reason, None, fx)
            })
            .collect()
    }

    /// The store is older than its promises: what was started then may have ended since, so it is not told as interrupted.
    pub(crate) fn forget_started(&mut self, fx: &mut Effects<'_>) {
        let by_series = &mut self.by_series;
        self.journal.retain(|(id, attempt), row| {
            let started = row.state == Journaled::Started;
            if started {
                fx.delete(rows::journal(id, *attempt));
                uncount(by_series, &id.series());
            }
            !started
        });
    }

    /// True if any attempt of this call was started or has ended here.
    pub(crate) fn has_any(&self, id: &ReqId) -> bool {
        self.is_forgotten(id) || self.journal.range((*id, 0)..=(*id, ATTEMPTS_MAX)).next().is_some()
    }

    /// True if nothing of this attempt, nor of one after it, is in the journal.
    pub(crate) fn is_new(&self, id: &ReqId, attempt: Attempt) -> bool {
        !self.is_forgotten(id) && self.journal.range((*id, attempt)..=(*id, ATTEMPTS_MAX)).next().is_none()
    }

    /// Drops what waits and was not meant for this incarnation of our store: it may have run in another.
    pub(crate) fn drop_waiting(&mut self, own: Incarnation) {
        self.waiting.retain(|waiting| waiting.header.is_for(own));
    }

    /// True if this very attempt was started or has ended.
    pub(crate) fn has_journaled(&self, id: &ReqId, attempt: Attempt) -> bool {
        self.journal.contains_key(&(*id, attempt))
    }

    fn is_forgotten(&self, id: &ReqId) -> bool {
        self.forgotten.get(&id.series()).is_some_and(|mark| id.counter() <= *mark)
    }

    /// Checks a dispatch and takes it, or answers why not. The order of the checks is that of `docs/protocol.md`, Target
    /// journal.
    pub(crate) fn handle_screened(
        &mut self,
        screened: Screened,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) -> Option<Finished> {
        let (id, attempt) = (screened.header.id, screened.attempt);
        let answer = |what, fx: &mut Effects<'_>| {
            fx.send(screened.gateway, Frame::Answer(Answer { id, attempt, what }));
        };
        if self.is_forgotten(&id) && fx.enforces(ProtocolRule::MarkChecked) {
            answer(AnswerKind::Rejected("too old: its TTL expired long ago".to_owned()), fx);
            return None;
        }
        let newest =
            self.journal.range((id, 0)..=(id, ATTEMPTS_MAX)).next_back().map(|((_, n), row)| (*n, row.clone()));
        if let Some((known, row)) = newest
            && known >= attempt
            && fx.enforces(ProtocolRule::Journal)
        {
            match row.state {
                Journaled::Started => {
                    let what = AnswerKind::Running { note: String::new() };
                    fx.send(screened.gateway, Frame::Answer(Answer { id, attempt: known, what }));
                }
                Journaled::Ended(_) => self.tell(id, known, screened.gateway, facts.trust, fx),
            }
            return None;
        }
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.id == id) {
            waiting.deadline = waiting.deadline.min(fx.now.mono_ms + screened.left_ms);
            answer(waiting.answer(fx), fx);
            return None;
        }
        if attempt > 1 && screened.header.effect == Effect::Once && fx.enforces(ProtocolRule::OnceIsOnce) {
            // No gateway may decide this for us (`docs/protocol.md`, Calls).
            answer(AnswerKind::Rejected("this call may run only once".to_owned()), fx);
            return None;
        }
        if attempt > 1 && fx.enforces(ProtocolRule::AttemptOrder) {
            let before = self.journal.get(&(id, attempt - 1)).map(|row| row.state.clone());
            if before != Some(Journaled::Ended(Ending::Interrupted)) {
                answer(AnswerKind::Rejected("the attempt before was not interrupted here".to_owned()), fx);
                return None;
            }
        }
        let header = screened.header;
        if let Some(why) = self.refuses(&screened.origin, facts, fx) {
            answer(why, fx);
            return None;
        }
        if screened.spent || self.has_another_one(&id, &screened.origin, facts.trust) {
            return Some(self.finish(id, attempt, Ending::Denied, &rule_words::beyond_its_one(), Some(header), fx));
        }
        match facts.rights.rule(&header, (screened.origin, screened.entry), (facts.logs, facts.trust), fx.rules) {
            Ruling::No { why, .. } if fx.enforces(ProtocolRule::PolicyAtTarget) => {
                return Some(self.finish(id, attempt, Ending::Denied, &why, Some(header), fx));
            }
            Ruling::Behind | Ruling::Untagged { .. } => {
                answer(AnswerKind::Busy, fx);
                return None;
            }
            Ruling::Ask(_) if fx.enforces(ProtocolRule::AskAtTarget) => {
                answer(AnswerKind::Asking, fx);
                return None;
            }
            Ruling::Go { .. } | Ruling::Ask(_) | Ruling::No { .. } => {}
        }
        if let Some(finished) = self.repeats(&header, &screened.origin, attempt, facts.trust, fx) {
            return Some(finished);
        }
        if let Some(cancel) = screened.cancel {
            return Some(self.finish_unrun(&header, attempt, &cancel, fx));
        }
        if screened.left_ms == 0 {
            let reason = "its TTL expired before it reached the node";
            return Some(self.finish(id, attempt, Ending::Expired, reason, Some(header), fx));
        }
        if facts.local.disk.is_some() {
            answer(AnswerKind::Busy, fx);
            return None;
        }
        let mut missing = None;
        if let Payload::Blob { hash, len } = header.arguments
            && !self.blobs.contains(&hash)
        {
            if self.lacking_of(&screened.origin) >= limits::ARGUMENTS_LACKING_MAX
                && fx.enforces(ProtocolRule::PlaceShare)
            {
                answer(AnswerKind::Lacking, fx);
                return None;
            }
            missing = Some(hash);
            fx.out.push(Output::Fetch { hash, len, from: vec![screened.origin, screened.gateway] });
        } else if !self.may_wait(&screened.origin, facts, fx) {
            answer(AnswerKind::Busy, fx);
            return None;
        }
        self.waiting.push_back(Waiting {
            id,
            attempt,
            header,
            origin: screened.origin,
            entry: screened.entry,
            deadline: fx.now.mono_ms + screened.left_ms,
            missing,
            fetch_at: u64::MAX,
        });
        self.start_next(facts, fx);
        if let Some(waiting) = self.waiting.iter().find(|waiting| waiting.id == id) {
            answer(waiting.answer(fx), fx);
        }
        None
    }

    /// True if another call of a device that was let in for one waits or runs here: two gateways may each have sent one.
    fn has_another_one(&self, id: &ReqId, origin: &PeerId, trust: &Trust) -> bool {
        let stay = trust.member(origin).and_then(|member| member.stay.as_ref());
        let waiting = self.waiting.iter().map(|waiting| (&waiting.id, &waiting.origin));
        let mut all = waiting.chain(self.running.iter().map(|((id, _), running)| (id, &running.origin)));
        stay.is_some_and(|stay| stay.one_time) && all.any(|(other, by)| other != id && by == origin)
    }

    /// The answer to a dispatch of one more call of this origin, if it may not leave a row in the journal and an outcome
    /// in our log: each call does so, however it ends, also if it never runs.
    fn refuses(&self, origin: &PeerId, facts: &Facts<'_>, fx: &Effects<'_>) -> Option<AnswerKind> {
        if *origin == self.me || !fx.enforces(ProtocolRule::EndingBudget) {
            return None;
        }
        let by_owner = facts.trust.is_owner(origin);
        let budget = facts.config().budgets.of(facts.trust.tier(origin));
        if self.journaled_of(origin) >= budget.journal {
            let why = format!("its origin has had {} calls here within 8 days, its budget", budget.journal);
            return Some(AnswerKind::Rejected(why));
        }
        let full = facts.local.disk.is_some() && !by_owner;
        let busy = full || !facts.logs.spending.may_answer(&self.me, by_owner, facts.trust);
        busy.then_some(AnswerKind::Busy)
    }

    /// What is told of a call that may not start now and is none that ends: it goes back to its gateway.
    fn goes_back(header: &Header, call: (PeerId, Hash), facts: &Facts<'_>, fx: &Effects<'_>) -> Option<AnswerKind> {
        match facts.rights.rule(header, call, (facts.logs, facts.trust), fx.rules) {
            Ruling::Ask(_) => fx.enforces(ProtocolRule::AskAtTarget).then_some(AnswerKind::Asking),
            Ruling::Untagged { .. } => Some(AnswerKind::Busy),
            Ruling::Go { .. } | Ruling::Behind | Ruling::No { .. } => None,
        }
    }

    fn give_back(id: ReqId, attempt: Attempt, what: AnswerKind, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if let Some(gateway) = facts.gateway() {
            fx.send(gateway, Frame::Answer(Answer { id, attempt, what }));
        }
    }

    /// A call that waits here for its turn asks by now: it goes back to its gateway until somebody has said yes.
    pub(crate) fn park(&mut self, id: &ReqId, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.id == *id)
            && fx.enforces(ProtocolRule::AskAtTarget)
            && let Some(waiting) = self.waiting.remove(at)
        {
            Self::give_back(waiting.id, waiting.attempt, AnswerKind::Asking, facts, fx);
        }
    }

    /// A client key that another call bound here: the same fingerprint = this one is that one; another = refused.
    fn repeats(
        &mut self,
        header: &Arc<Header>,
        origin: &PeerId,
        attempt: Attempt,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) -> Option<Finished> {
        if !fx.enforces(ProtocolRule::KeyAtTarget) {
            return None;
        }
        let key_of = |origin: &PeerId, header: &Header| {
            header.client_key.as_ref().map(|key| key_id(origin, &header.principal, key, trust))
        };
        let key = key_of(origin, header)?;
        let unfinished = self
            .waiting
            .iter()
            .map(|waiting| (&waiting.origin, &waiting.header))
            .chain(self.running.values().map(|running| (&running.origin, &running.header)))
            .filter(|(_, other)| other.id != header.id)
            .find(|(origin, other)| key_of(origin, other) == Some(key))
            .map(|(_, other)| (other.id, request_fingerprint(&self.me, other.tool.as_str(), &other.arguments)));
        let (first, fingerprint) = unfinished.or_else(|| self.client_keys.get(&key).copied())?;
        if first == header.id {
            return None;
        }
        // One that only waits has not bound the key yet. Nor does this one, which does not run.
        Some(self.finish_repeat(header, attempt, (first, fingerprint), fx))
    }

    /// Ends a call whose client key another one has.
    fn finish_repeat(
        &mut self,
        header: &Arc<Header>,
        attempt: Attempt,
        (first, fingerprint): First,
        fx: &mut Effects<'_>,
    ) -> Finished {
        let same = fingerprint == request_fingerprint(&self.me, header.tool.as_str(), &header.arguments);
        let (ending, reason) = if same {
            (Ending::Cancelled, format!("the same request as {first}: that one counts"))
        } else {
            (Ending::Denied, format!("key reused: {first} has it, with other arguments"))
        };
        let mut finished = self.finish(header.id, attempt, ending, &reason, Some(header.clone()), fx);
        finished.outcome.alias_of = same.then_some(first);
        finished
    }

    fn finish_unrun(
        &mut self,
        header: &Arc<Header>,
        attempt: Attempt,
        cancel: &CancelRequest,
        fx: &mut Effects<'_>,
    ) -> Finished {
        let ending = if cancel.expired { Ending::Expired } else { Ending::Cancelled };
        self.finish(header.id, attempt, ending, &cancel.reason, Some(header.clone()), fx)
    }

    /// Journals `started` for what waits, in order of arrival, while there are free places.
    pub(crate) fn start_next(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if facts.halt().is_some() && fx.enforces(ProtocolRule::OwnRevocation) {
            return;
        }
        loop {
            // One that waits for its arguments, or whose origin or tool has its share, steps out of the order.
            let next =
                self.waiting.iter().position(|waiting| waiting.missing.is_none() && self.may_run(waiting, facts, fx));
            let Some(waiting) = next.and_then(|at| self.waiting.remove(at)) else { return };
            let Waiting { id, attempt, header, origin, entry, deadline, .. } = waiting;
            // An hour may have ended while it waited, or a tag been lost.
            if let Some(what) = Self::goes_back(&header, (origin, entry), facts, fx) {
                Self::give_back(id, attempt, what, facts, fx);
                continue;
            }
            // While it waited its origin may have come into another namespace, where the key is another call's.
            let bound = self.bind(&header, &origin, facts.trust);
            let repeats = bound.as_ref().err().copied().filter(|_| fx.enforces(ProtocolRule::KeyAtTarget));
            let key = bound.ok().flatten().filter(|_| fx.enforces(ProtocolRule::KeyInJournal));
            let row = JournalRow { state: Journaled::Started, received_ms: fx.age_ms, key };
            fx.put(rows::journal(&id, attempt), &row);
            self.note_row(id, attempt, row);
            self.running.insert(
                (id, attempt),
                Running {
                    header,
                    origin,
                    entry,
                    deadline,
                    repeats,
                    invoked: false,
                    started_ms: 0,
                    tell_at: None,
                    killed: None,
                },
            );
            fx.then(Then::Started(id, attempt));
        }
    }

    /// `started` is durable: look a second time, since the disk may have taken long, then run.
    pub(crate) fn handle_started(
        &mut self,
        id: ReqId,
        attempt: Attempt,
        cancel: Option<CancelRequest>,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) -> Option<Finished> {
        let running = self.running.get_mut(&(id, attempt))?;
        if running.invoked {
            return None;
        }
        let header = running.header.clone();
        let (origin, entry, repeats) = (running.origin, running.entry, running.repeats);
        let late = running.deadline <= fx.now.mono_ms && fx.enforces(ProtocolRule::SecondLook);
        let cancel = cancel.filter(|_| fx.enforces(ProtocolRule::SecondLookAtCancel));
        if let Some(reason) = facts.halt()
            && fx.enforces(ProtocolRule::OwnRevocation)
        {
            return Some(self.finish(id, attempt, Ending::Denied, &reason, Some(header), fx));
        }
        // It was allowed when the call was taken: whatever is lacking by now was taken away since.
        let reason = match facts.rights.rule(&header, (origin, entry), (facts.logs, facts.trust), fx.rules) {
            Ruling::Go { .. } => None,
            Ruling::Ask(asked) => Some(asked.why).filter(|_| fx.enforces(ProtocolRule::AskAtTarget)),
            Ruling::Behind => Some("what allowed it was taken away meanwhile".to_owned()),
            Ruling::Untagged { why } | Ruling::No { why, .. } => Some(why),
        };
        if let Some(reason) = reason.filter(|_| fx.enforces(ProtocolRule::SecondLookAtPolicy)) {
            return Some(self.finish(id, attempt, Ending::Denied, &reason, Some(header), fx));
        }
        if let Some(first) = repeats {
            return Some(self.finish_repeat(&header, attempt, first, fx));
        }
        if let Some(cancel) = cancel {
            return Some(self.finish_unrun(&header, attempt, &cancel, fx));
        }
        if late {
            let reason = "its TTL expired before the tool ran";
            return Some(self.finish(id, attempt, Ending::Expired, reason, Some(header), fx));
        }
        if let Some(running) = self.running.get_mut(&(id, attempt)) {
            running.invoked = true;
            running.started_ms = fx.now.wall_ms;
            running.tell_at = Some(fx.now.mono_ms + TELL_RUNNING_AFTER_MS);
        }
        let node_id = facts.own_name();
        fx.out.push(Output::Invoke(Box::new(Invocation { id, attempt, header, origin, node_id })));
        None
    }

    pub(crate) fn handle_progress(
        &mut self,
        id: ReqId,
        attempt: Attempt,
        note: String,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) {
        if let (Some(running), Some(gateway)) = (self.running.get_mut(&(id, attempt)), facts.gateway()) {
            running.tell_at = None;
            fx.send(gateway, Frame::Answer(Answer { id, attempt, what: AnswerKind::Running { note } }));
        }
    }

    /// The tool has ended. `None` when nothing of the kind runs here.
    pub(crate) fn handle_tool_ended(
        &mut self,
        id: ReqId,
        attempt: Attempt,
        ended: ToolOutcome,
        fx: &mut Effects<'_>,
    ) -> Option<Finished> {
        let running = self.running.get(&(id, attempt))?;
        let header = running.header.clone();
        let started_ms = running.started_ms;
        let reason = match (&ended.ending, &running.killed) {
            (Ending::Cancelled, Some(why)) if ended.reason.is_empty() => why.clone(),
            // It may say that something goes on all the same.
            (Ending::Cancelled, Some(why)) => format!("{why}; {}", ended.reason),
            _ => ended.reason,
        };
        let mut finished = self.finish(id, attempt, ended.ending, &reason, Some(header), fx);
        let ToolOutcome { output, parts, partial, error, .. } = ended;
        finished.outcome = Outcome { output, parts, partial, error, started_ms, ..finished.outcome };
        Some(finished)
    }

    /// Somebody wants the call stopped. `known`: if it is known here, with its origin, and not in hand, it ends without a
    /// run.
    pub(crate) fn handle_cancel_request(
        &mut self,
        cancel: &CancelRequest,
        known: Option<(Arc<Header>, PeerId)>,
        attempt: Attempt,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) -> Option<Finished> {
        let id = cancel.id;
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.id == id) {
            let waiting = self.waiting.remove(at)?;
            return Some(self.finish_unrun(&waiting.header, waiting.attempt, cancel, fx));
        }
        let key = self.running.range((id, 0)..=(id, ATTEMPTS_MAX)).next_back().map(|(key, _)| *key);
        if let Some((id, attempt)) = key
            && let Some(running) = self.running.get_mut(&(id, attempt))
        {
            if running.invoked && running.killed.is_none() && !cancel.expired {
                running.killed = Some(cancel.reason.clone());
                fx.out.push(Output::Kill(id, attempt));
            }
            return None; // one not invoked yet is caught by the second look
        }
        if self.is_forgotten(&id) || self.has_journaled(&id, attempt) {
            return None;
        }
        let (header, origin) = known?;
        let may_end = self.refuses(&origin, facts, fx).is_none();
        may_end.then(|| self.finish_unrun(&header, attempt, cancel, fx))
    }

    /// Stops what runs for whoever may ask nothing any more: a device that was removed, or does not speak for that person now,
    /// somebody who is suspended, a token that was revoked.
    pub(crate) fn stop_excluded(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if facts.is_excluded_here() || !fx.enforces(ProtocolRule::RunsEndWithStanding) {
            return; // who is out itself knows nothing of others
        }
        let running = self.running.iter_mut().filter(|(_, running)| running.invoked && running.killed.is_none());
        for ((id, attempt), running) in running {
            running.killed = facts.rights.exclusion(&running.header, running.origin);
            if running.killed.is_some() {
                fx.out.push(Output::Kill(*id, *attempt));
            }
        }
    }

    /// A call for us whose TTL has expired without ever being dispatched here. `asked`: why, if it waited for a yes.
    pub(crate) fn expire(
        &mut self,
        unrun: Unrun,
        asked: Option<&str>,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) -> Option<Finished> {
        let waits = self.waiting.iter().any(|waiting| waiting.id == unrun.header.id && waiting.missing.is_some());
        let late = asked.unwrap_or("TTL expired before the node started it");
        let reason = if waits { ARGUMENTS_AWAY } else { late };
        self.end_unrun(unrun, Ending::Expired, reason, facts, fx)
    }

    /// A call for us that is not to run. One that was started is left to the second look.
    pub(crate) fn deny(
        &mut self,
        unrun: Unrun,
        reason: &str,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) -> Option<Finished> {
        self.end_unrun(unrun, Ending::Denied, reason, facts, fx)
    }

    /// `None`: it is over already, or its origin has used up what it may have here: then it stays as it is.
    fn end_unrun(
        &mut self,
        unrun: Unrun,
        ending: Ending,
        reason: &str,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) -> Option<Finished> {
        let Unrun { attempt, header, origin } = unrun;
        let id = header.id;
        self.waiting.retain(|waiting| waiting.id != id);
        if self.is_forgotten(&id) || self.has_journaled(&id, attempt) {
            return None;
        }
        let may_end = self.refuses(&origin, facts, fx).is_none();
        may_end.then(|| self.finish(id, attempt, ending, reason, Some(header), fx))
    }

    /// Binds the client key of a call that starts, if it has one. A call that ends without a run binds nothing: nobody
    /// gets its ending in place of a run of his own.
    ///
    /// # Errors
    /// The other call that has bound the key here.
    fn bind(&mut self, header: &Header, origin: &PeerId, trust: &Trust) -> Result<Option<Box<(Hash, Hash)>>, First> {
        let Some(key) = &header.client_key else { return Ok(None) };
        let key = key_id(origin, &header.principal, key, trust);
        let fingerprint = request_fingerprint(&self.me, header.tool.as_str(), &header.arguments);
        let first = *self.client_keys.entry(key).or_insert((header.id, fingerprint));
        if first.0 == header.id { Ok(Some(Box::new((key, fingerprint)))) } else { Err(first) }
    }

    /// Gives back a client key that this call had bound to start, unless another attempt of it has it.
    fn unbind(&mut self, id: &ReqId, key: &Hash) {
        let mut attempts = self.journal.range((*id, 0)..=(*id, ATTEMPTS_MAX)).map(|(_, row)| row);
        let has_it = |row: &JournalRow| row.key.as_ref().is_some_and(|bound| bound.0 == *key);
        if !attempts.any(has_it) && self.client_keys.get(key).is_some_and(|(first, _)| first == id) {
            self.client_keys.remove(key);
        }
    }

    fn finish(
        &mut self,
        id: ReqId,
        attempt: Attempt,
        ending: Ending,
        reason: &str,
        header: Option<Arc<Header>>,
        fx: &mut Effects<'_>,
    ) -> Finished {
        let ran = self.running.remove(&(id, attempt)).is_none_or(|running| running.invoked);
        let known = self.journal.get(&(id, attempt)).cloned();
        let received_ms = known.as_ref().map_or(fx.age_ms, |row| row.received_ms);
        // What was started by a former process may have run.
        let (key, unbound) = known
            .and_then(|row| row.key)
            .map_or((None, None), |key| if ran { (Some(key), None) } else { (None, Some(key.0)) });
        let row = JournalRow { state: Journaled::Ended(ending), received_ms, key };
        fx.put(rows::journal(&id, attempt), &row);
        self.note_row(id, attempt, row);
        if let Some(key) = unbound {
            self.unbind(&id, &key);
        }
        let outcome = Outcome {
            id,
            attempt,
            ending,
            reason: limits::cut(reason, limits::TEXT_BYTES_MAX).to_owned(),
            output: Payload::empty(),
            parts: Vec::new(),
            partial: false,
            error: String::new(),
            at_ms: fx.now.wall_ms,
            started_ms: 0,
            alias_of: None,
            source: Source::Target,
        };
        Finished { outcome, header }
    }

    /// The outcome is durable: from now on it may be told. Before that a repeated dispatch gets no answer.
    pub(crate) fn keep_outcome(&mut self, id: ReqId, attempt: Attempt, entry: SignedEntry) {
        self.outcomes.insert((id, attempt), entry);
        self.outcome_order.push_back((id, attempt));
        if self.outcome_order.len() > OUTCOMES_KEPT
            && let Some(oldest) = self.outcome_order.pop_front()
        {
            self.outcomes.remove(&oldest);
        }
    }

    /// Tells a gateway how an attempt ended. One that is not in memory any more is in our log, which it reads anyway.
    pub(crate) fn tell(&self, id: ReqId, attempt: Attempt, gateway: PeerId, trust: &Trust, fx: &mut Effects<'_>) {
        if let Some(entry) = self.outcomes.get(&(id, attempt))
            && trust.may_read(entry, &gateway)
        {
            let what = AnswerKind::Ended(entry.clone());
            fx.send(gateway, Frame::Answer(Answer { id, attempt, what }));
        }
    }

    pub(crate) fn handle_fetched(&mut self, hash: Hash, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if self.blobs.len() > OUTCOMES_KEPT {
            self.blobs.clear(); // only saves a question to the blob store
        }
        self.blobs.insert(hash);
        let (mut came, others): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.missing == Some(hash));
        self.waiting = others;
        // What finds no place is dispatched again.
        while let Some(waiting) = came.pop_front() {
            if self.may_wait(&waiting.origin, facts, fx) {
                self.waiting.push_back(Waiting { missing: None, ..waiting });
            }
        }
        self.start_next(facts, fx);
    }

    pub(crate) fn handle_fetch_failed(&mut self, hash: Hash, now: u64) {
        for waiting in &mut self.waiting {
            if waiting.missing == Some(hash) {
                waiting.fetch_at = now + 1_000;
            }
        }
    }

    /// Arguments that nobody has any more: what waits for them does not run.
    pub(crate) fn handle_fetch_gone(&mut self, hash: Hash, facts: &Facts<'_>, fx: &mut Effects<'_>) -> Vec<Finished> {
        let gone: Vec<Unrun> = self.unrun(|waiting| waiting.missing == Some(hash));
        gone.into_iter()
            .filter_map(|unrun| self.end_unrun(unrun, Ending::Undeliverable, ARGUMENTS_GONE, facts, fx))
            .collect()
    }

    fn unrun(&self, of: impl Fn(&Waiting) -> bool) -> Vec<Unrun> {
        let of = self.waiting.iter().filter(|waiting| of(waiting));
        of.map(|Waiting { attempt, header, origin, .. }| Unrun {
            attempt: *attempt,
            header: header.clone(),
            origin: *origin,
        })
        .collect()
    }

    /// Attempts in the journal of calls of this origin.
    fn journaled_of(&self, origin: &PeerId) -> usize {
        self.by_series.range(Series::all_of(origin)).map(|(_, rows)| rows).sum()
    }

    fn note_row(&mut self, id: ReqId, attempt: Attempt, row: JournalRow) {
        if self.journal.insert((id, attempt), row).is_none() {
            *self.by_series.entry(id.series()).or_default() += 1;
        }
    }

    pub(crate) fn handle_timeout(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) -> Vec<Finished> {
        let now = fx.now.mono_ms;
        let mut tell = Vec::new();
        for ((id, attempt), running) in &mut self.running {
            if running.tell_at.is_some_and(|at| at <= now) {
                running.tell_at = None;
                tell.push((*id, *attempt));
            }
        }
        if let Some(gateway) = facts.gateway() {
            for (id, attempt) in tell {
                let what = AnswerKind::Running { note: String::new() };
                fx.send(gateway, Frame::Answer(Answer { id, attempt, what }));
            }
        }
        for waiting in &mut self.waiting {
            if waiting.fetch_at <= now
                && let Payload::Blob { hash, len } = waiting.header.arguments
            {
                waiting.fetch_at = u64::MAX;
                fx.out.push(Output::Fetch {
                    hash,
                    len,
                    from: [Some(waiting.origin), facts.gateway()].into_iter().flatten().collect(),
                });
            }
        }
        let late = self.unrun(|waiting| waiting.deadline <= now);
        let mut finished: Vec<Finished> =
            late.into_iter().filter_map(|unrun| self.expire(unrun, None, facts, fx)).collect();
        if now >= self.next_forget {
            self.next_forget = now + FORGET_EVERY_MS.min(facts.config().forget_after_ms / 8);
            self.forget(facts.config().forget_after_ms, fx);
        }
        finished.retain(|f| f.header.is_some());
        finished
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        let running = self.running.values().filter_map(|running| running.tell_at);
        let waiting = self.waiting.iter().map(|waiting| waiting.deadline.min(waiting.fetch_at));
        running.chain(waiting).min()
    }

    /// True if [`Self::handle_timeout`] has anything to do.
    pub(crate) fn is_due(&self, now: u64) -> bool {
        now >= self.next_forget || self.poll_timeout().is_some_and(|at| at <= now)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Drops old journal rows, each together with raising the forgotten mark of its series: forgetting can only refuse, never run
    /// twice, however wrong the clocks are.
    fn forget(&mut self, after_ms: u64, fx: &mut Effects<'_>) {
        let mut stopped: BTreeSet<Series> = BTreeSet::new();
        let mut old = Vec::new();
        for ((id, attempt), row) in &self.journal {
            let series = id.series();
            if stopped.contains(&series) {
                continue;
            }
            let aged = fx.age_ms.saturating_sub(row.received_ms) > after_ms;
            if aged && row.state != Journaled::Started {
                old.push((*id, *attempt, row.key.as_ref().map(|key| key.0)));
            } else {
                stopped.insert(series); // the forgotten mark never passes a row that stays
            }
        }
        // A row of attempt 2 may stay while attempt 1 is old: then the whole call stays.
        old.retain(|(id, ..)| {
            !self.journal.range((*id, 0)..=(*id, ATTEMPTS_MAX)).any(|(_, row)| {
                row.state == Journaled::Started || fx.age_ms.saturating_sub(row.received_ms) <= after_ms
            })
        });
        for (id, attempt, key) in old {
            self.journal.remove(&(id, attempt));
            uncount(&mut self.by_series, &id.series());
            fx.delete(rows::journal(&id, attempt));
            if let Some(key) = key {
                self.client_keys.remove(&key);
            }
            if !fx.enforces(ProtocolRule::MarkRaised) {
                continue;
            }
            let mark = self.forgotten.entry(id.series()).or_default();
            *mark = (*mark).max(id.counter());
            fx.put(rows::forgotten_mark(&id.series()), mark);
            fx.sync = true;
        }
    }
}

fn uncount(by_series: &mut BTreeMap<Series, usize>, series: &Series) {
    if let Some(rows) = by_series.get_mut(series) {
        *rows = rows.saturating_sub(1);
        if *rows == 0 {
            by_series.remove(series);
        }
    }
}
