//! Dropping what nobody needs of the logs any more (mesh-protocol.md §5, GC).
//!
//! Each author judges its own entries, the old ones once in a while and a part at a time, and signs which of them are
//! dead. Everybody else takes its word for its own log, and for nothing else; membership changes do not depend on it at all, since
//! two who hold different sets of them show each other all ([`Peer::compare_changes`]).

use super::Peer;
use crate::effects::Effects;
use crate::entry::{self, CancelRequest, Kind, Outcome, SignedEntry, TruncatedRun, Truncation};
use crate::ids::{Hash, Incarnation, PeerId};
use crate::io::{LogReader, Output};
use crate::limits;
use crate::log;
use crate::protocol_rule::ProtocolRule;

/// The first look comes soon after the start, for devices that never run for long.
const FIRST_LOOK_MS: u64 = 60_000;
/// A look that found more than one step may take goes on so soon.
const GO_ON_MS: u64 = 100;

/// A look at our own log.
#[derive(Debug, Clone)]
pub(super) struct Look {
    next_ms: u64,
    now: Option<Reading>,
}

#[derive(Debug, Clone)]
struct Reading {
    log_id: Incarnation,
    dead: Vec<TruncatedRun>,
}

impl Look {
    pub(super) fn new(now: u64, every_ms: u64) -> Self {
        Self { next_ms: now + every_ms.min(FIRST_LOOK_MS), now: None }
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.now.is_none().then_some(self.next_ms)
    }
}

impl Peer {
    /// Takes an author's word on what is gone of its own log.
    pub(super) fn apply_truncation(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        // Its place does not matter: whoever has a key may say so of what that key wrote, and where a revocation voids
        // such a word, the rows are gone all the same at whoever took it before. But some of that incarnation must count.
        let log_id = (entry.author, entry.entry.incarnation);
        let counts = self.trust.standing(&log_id.0, log_id.1, u64::MAX) > 0;
        if counts && entry.entry.mesh == self.trust.mesh() && self.logs.apply_truncation(entry, fx) {
            self.forget_unsupported(log_id, fx);
        }
    }

    /// Looks at our own log now and then.
    pub(super) fn look_at_own_log(&mut self, fx: &mut Effects<'_>) {
        if self.look.now.is_some() || fx.now.mono_ms < self.look.next_ms {
            return;
        }
        self.look.next_ms = fx.now.mono_ms + self.config.compact_every_ms;
        if self.is_excluded() || !self.understands(Kind::TRUNCATION) {
            return;
        }
        // Former incarnations rest: what was restored to an older state cannot know all that its former self said is gone.
        let log_id = self.logs.incarnation();
        self.look.now = Some(Reading { log_id, dead: Vec::new() });
        self.read_own(log_id, 1, fx);
    }

    /// Reads what is not gone of our own log, from a place on.
    fn read_own(&self, log_id: Incarnation, from: u64, fx: &mut Effects<'_>) {
        let at = (self.me, log_id);
        let held = self.logs.incarnations(&self.me).find(|(of, _)| *of == log_id).map_or(0, |(_, seq)| seq);
        let mut ranges = Vec::new();
        let mut next = from;
        for run in self.logs.runs(at).iter().filter(|run| run.last >= from) {
            if next < run.first {
                ranges.push((self.me, log_id, next, run.first - 1));
            }
            next = run.last + 1;
        }
        if next <= held {
            ranges.push((self.me, log_id, next, held));
        }
        fx.out.push(Output::ReadLog { reader: LogReader::Compaction, ranges });
    }

    /// A part of our own log was read.
    pub(super) fn handle_own_log(&mut self, entries: &[SignedEntry], more: bool, fx: &mut Effects<'_>) {
        let Some(mut reading) = self.look.now.take() else { return };
        let mut whole = !more;
        for entry in entries {
            if !self.is_old(entry, fx) || reading.dead.len() >= limits::DEAD_PER_STEP_MAX {
                whole = true; // what comes later is younger, or waits for the next look
                break;
            }
            if self.is_dead(entry, fx) {
                let seq = entry.entry.seq;
                reading.dead.push(TruncatedRun { first: seq, last: seq, hash: entry.hash, hlc: entry.entry.hlc });
            }
        }
        match entries.last() {
            Some(last) if !whole => {
                self.read_own(reading.log_id, last.entry.seq + 1, fx);
                self.look.now = Some(reading);
            }
            _ => {
                if reading.dead.len() >= limits::DEAD_PER_STEP_MAX {
                    self.look.next_ms = fx.now.mono_ms + GO_ON_MS;
                }
                if reading.log_id == self.logs.incarnation() {
                    self.declare_dead(reading.log_id, reading.dead, fx);
                }
            }
        }
    }

    fn is_old(&self, entry: &SignedEntry, fx: &Effects<'_>) -> bool {
        let age = fx.now.wall_ms.saturating_sub(entry.entry.hlc >> 16);
        age > self.config.keep_entries_ms || !fx.enforces(ProtocolRule::EntriesAge)
    }

    /// Whether nobody needs an old entry of ours. What is not certain is kept.
    fn is_dead(&self, entry: &SignedEntry, fx: &Effects<'_>) -> bool {
        let in_hand = |id| self.book.record(&id).is_some() && fx.enforces(ProtocolRule::TruncationSparesOpen);
        match entry.entry.kind {
            Kind::DIRECTORY => {
                let newest = self.directory.get(&self.me).map(|(newest, _)| newest);
                newest.is_some_and(|newest| newest.hash != entry.hash && newest.entry.hlc > entry.entry.hlc)
            }
            Kind::CALL => entry.header().is_some_and(|header| !in_hand(header.id)),
            Kind::OUTCOME => entry.record::<Outcome>().is_some_and(|outcome| {
                !in_hand(outcome.id) && !self.executor.has_journaled(&outcome.id, outcome.attempt)
            }),
            Kind::CANCEL => entry.record::<CancelRequest>().is_some_and(|cancel| !in_hand(cancel.id)),
            // A later entry says as much.
            Kind::CHECKPOINT => true,
            Kind::TRUNCATION => !self.logs.is_latest_truncation(entry),
            _ => false,
        }
    }

    /// Tells everyone what is dead of our own log, if it is worth an entry.
    fn declare_dead(&mut self, log_id: Incarnation, dead: Vec<TruncatedRun>, fx: &mut Effects<'_>) {
        if dead.len() < self.config.compact_min.max(1) {
            return;
        }
        let known = self.logs.runs((self.me, log_id));
        let runs = log::with_runs(known, dead);
        if runs == known {
            return;
        }
        let body = entry::encode(&Truncation { runs });
        let entry = self.logs.append(self.signer.as_ref(), Kind::TRUNCATION, 0, body, fx);
        log::push_when_durable(&entry, None, fx);
        self.apply_truncation(&entry, fx);
    }

    /// What a neighbour says of the membership changes that it holds. If ours are others, it is shown all of ours: neither a log with
    /// truncated runs nor one that lags may hide a membership change. Once for each pair of sets.
    pub(super) fn compare_changes(&mut self, from: PeerId, theirs: Hash, fx: &mut Effects<'_>) {
        let ours = self.logs.changes();
        if theirs == Hash::ZERO || theirs == ours {
            return;
        }
        if self.compared_changes.insert(from, (theirs, ours)) != Some((theirs, ours)) {
            self.tell_records(from, fx);
        }
    }
}
