//! Dropping what nobody needs of our own log any more.
//!
//! Each author judges its own entries, the old ones once in a while and a part at a time, and signs which of them are
//! dead. Everybody else applies that to its log, and to no other; membership changes do not depend on it at
//! all, since two who hold different sets of them show each other all ([`crate::links::Links::begin_comparison`]).

use crate::calls::Book;
use crate::effects::Effects;
use crate::entry::{Kind, SignedEntry};
use crate::executor::Executor;
use crate::facts::Facts;
use crate::ids::Incarnation;
use crate::io::{LogReader, Output};
use crate::limits;
use crate::log;
use crate::policy::{Choice, Consent};
use crate::protocol_rule::ProtocolRule;
use crate::record::{CancelRequest, Outcome, TruncatedRun, Truncation};

/// The first look comes soon after the start, for devices that never run for long.
const FIRST_LOOK_MS: u64 = 60_000;
/// A look that found more than one step may take goes on so soon.
const GO_ON_MS: u64 = 100;

/// Looks at our own log.
#[derive(Debug, Clone)]
pub(crate) struct Compaction {
    next_ms: u64,
    /// The look that waits for the log.
    reading: Option<Reading>,
}

#[derive(Debug, Clone)]
struct Reading {
    incarnation: Incarnation,
    dead: Vec<TruncatedRun>,
}

impl Compaction {
    /// `every_ms`: time between two looks.
    pub(crate) fn new(now: u64, every_ms: u64) -> Self {
        Self { next_ms: now + every_ms.min(FIRST_LOOK_MS), reading: None }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        self.reading.is_none().then_some(self.next_ms)
    }

    /// Looks at our own log now and then.
    pub(crate) fn handle_timeout(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if self.reading.is_some() || fx.now.mono_ms < self.next_ms {
            return;
        }
        self.next_ms = fx.now.mono_ms + facts.config().compact_every_ms;
        if facts.is_excluded_here() || !facts.logs.unsupported.supports(Kind::TRUNCATION) {
            return;
        }
        // Former incarnations rest: what was restored to an older state cannot know all that its former self dropped.
        let incarnation = facts.logs.incarnation();
        self.reading = Some(Reading { incarnation, dead: Vec::new() });
        read_on(incarnation, 1, facts, fx);
    }

    /// A part of our own log was read. Answers what is to be declared dead, if it is worth an entry.
    pub(crate) fn handle_log_read(
        &mut self,
        entries: &[SignedEntry],
        more: bool,
        (book, executor): (&Book, &Executor),
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) -> Option<Truncation> {
        let mut reading = self.reading.take()?;
        let mut whole = !more;
        for entry in entries {
            if !is_old(entry, facts, fx) || reading.dead.len() >= limits::DEAD_PER_STEP_MAX {
                whole = true; // what comes later is younger, or waits for the next look
                break;
            }
            if is_dead(entry, book, executor, facts, fx) {
                let seq = entry.entry.seq;
                reading.dead.push(TruncatedRun { first: seq, last: seq, hash: entry.hash, hlc: entry.entry.hlc });
            }
        }
        if let Some(last) = entries.last().filter(|_| !whole) {
            read_on(reading.incarnation, last.entry.seq + 1, facts, fx);
            self.reading = Some(reading);
            return None;
        }
        if reading.dead.len() >= limits::DEAD_PER_STEP_MAX {
            self.next_ms = fx.now.mono_ms + GO_ON_MS;
        }
        let worth =
            reading.incarnation == facts.logs.incarnation() && reading.dead.len() >= facts.config().compact_min.max(1);
        let known = facts.logs.runs((facts.me(), reading.incarnation));
        let runs = worth.then(|| log::with_runs(known, reading.dead))?;
        (runs != known).then_some(Truncation { runs })
    }
}

/// Reads what is not gone of our own log, from a place on.
fn read_on(incarnation: Incarnation, from: u64, facts: &Facts<'_>, fx: &mut Effects<'_>) {
    let me = facts.me();
    let held = facts.logs.held(&me, incarnation);
    let mut ranges = Vec::new();
    let mut next = from;
    for run in facts.logs.runs((me, incarnation)).iter().filter(|run| run.last >= from) {
        if next < run.first {
            ranges.push((me, incarnation, next, run.first - 1));
        }
        next = run.last + 1;
    }
    if next <= held {
        ranges.push((me, incarnation, next, held));
    }
    fx.out.push(Output::ReadLog { reader: LogReader::Compaction, ranges });
}

fn is_old(entry: &SignedEntry, facts: &Facts<'_>, fx: &Effects<'_>) -> bool {
    let age = fx.now.wall_ms.saturating_sub(entry.entry.hlc >> 16);
    age > facts.config().keep_entries_ms || !fx.enforces(ProtocolRule::EntriesAge)
}

/// True if nobody needs an old entry of ours. What is not certain is kept.
fn is_dead(entry: &SignedEntry, book: &Book, executor: &Executor, facts: &Facts<'_>, fx: &Effects<'_>) -> bool {
    let is_open = |id| book.record(&id).is_some() && fx.enforces(ProtocolRule::TruncationSparesOpen);
    match entry.entry.kind {
        Kind::DIRECTORY => facts
            .nodes
            .entry(&facts.me())
            .is_some_and(|newest| newest.hash != entry.hash && newest.entry.hlc > entry.entry.hlc),
        Kind::CALL => entry.header().is_some_and(|header| !is_open(header.id)),
        Kind::OUTCOME => entry
            .record::<Outcome>()
            .is_some_and(|outcome| !is_open(outcome.id) && !executor.has_journaled(&outcome.id, outcome.attempt)),
        Kind::CANCEL => entry.record::<CancelRequest>().is_some_and(|cancel| !is_open(cancel.id)),
        Kind::CONSENT => entry.record::<Consent>().is_some_and(|consent| match consent.choice {
            Choice::Once { call, .. } | Choice::Deny { call, .. } => !is_open(call),
            // Its hour is long over, and so is what it took back.
            Choice::Hour { .. } | Choice::Withdrawn { .. } => true,
        }),
        // Of the audit owners keep what they have received. A later entry says as much as a checkpoint.
        Kind::AUDIT | Kind::CHECKPOINT => true,
        Kind::TRUNCATION => !facts.logs.is_latest_truncation(entry),
        kind => kind.is_about_rights() && facts.rights.is_replaced(entry),
    }
}
