//! Truncation: runs of entries of which only place, hash and clock of the last are left (`docs/protocol.md`, Log).
//!
//! Only an author says which of its entries nobody needs any more ([`Kind::TRUNCATION`]), so a neighbour can neither
//! hide an entry nor be asked to prove that it hides none. Everyone keeps that entry beside the log and shows it, before
//! anything else, to whoever has to step over what is gone.

use std::collections::BTreeMap;

use super::{Head, Logs, has_room};
use crate::effects::Effects;
use crate::entry::SignedEntry;
use crate::frame::{EntryItem, Frame};
use crate::ids::{Hash, Incarnation, PeerId};
use crate::io::{LogReader, Output};
use crate::limits;
use crate::record::{TruncatedRun, Truncation};
use crate::rows;
use crate::trust::Trust;

/// Pause between two steps of deleting.
const SWEEP_EVERY_MS: u64 = 20;
/// A truncation without its runs, and room to spare.
const ENVELOPE_BYTES_MAX: usize = 1_024;
/// One run of it.
const RUN_BYTES_MAX: usize = limits::TRUNCATION_BYTES_MAX / limits::TRUNCATED_RUNS_MAX;
/// No log gets that long; places are counted on from any that is accepted.
const SEQ_MAX: u64 = u64::MAX / 2;

type LogId = (PeerId, Incarnation);

/// An author's newest truncation of one of its incarnations.
#[derive(Debug, Clone)]
struct LatestTruncation {
    entry: SignedEntry,
    /// In order, apart from each other.
    runs: Vec<TruncatedRun>,
}

impl LatestTruncation {
    /// `None`: the entry does not say anything that could be true.
    fn read(entry: &SignedEntry) -> Option<Self> {
        let body: Truncation = entry.record()?;
        let mut next = 1;
        for run in &body.runs {
            if run.first < next || run.last < run.first || run.last >= SEQ_MAX {
                return None;
            }
            next = run.last + 2;
        }
        // What says it is not gone itself.
        let sound = entry.len() <= ENVELOPE_BYTES_MAX + RUN_BYTES_MAX * body.runs.len()
            && body.runs.len() <= limits::TRUNCATED_RUNS_MAX
            && body.runs.last().is_some_and(|run| run.last < entry.entry.seq);
        sound.then(|| Self { entry: entry.clone(), runs: body.runs })
    }

    fn covers(&self, first: u64, last: u64) -> bool {
        self.runs.iter().any(|run| run.first <= first && last <= run.last)
    }

    fn end(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.last)
    }
}

/// All truncations that are held.
#[derive(Debug, Clone, Default)]
pub(super) struct Dropped {
    latest: BTreeMap<LogId, LatestTruncation>,
    /// Places whose rows are still to be deleted, from the first run on.
    sweep: BTreeMap<LogId, Vec<(u64, u64)>>,
    /// The places that our own log is asked for, to be deleted: their authors' budgets get back what they took.
    reading: Option<(LogId, u64, u64)>,
    next_sweep: u64,
}

impl Dropped {
    pub(super) fn restore(&mut self, key: &[u8], value: &[u8]) {
        if rows::truncation_of(key).is_some()
            && let Some(entry) = SignedEntry::from_stored(value)
            && let Some(latest) = LatestTruncation::read(&entry)
        {
            self.latest.insert((entry.author, entry.entry.incarnation), latest);
        } else if let Some(log_id) = rows::sweep_of(key)
            && let Some(places) = crate::entry::decode::<Vec<(u64, u64)>>(value)
        {
            // What a damaged row names and no log has would be looked for without end.
            let places: Vec<_> = places.into_iter().filter(|(from, last)| from <= last && *last < u64::MAX).collect();
            if !places.is_empty() {
                self.sweep.insert(log_id, places);
            }
        }
    }

    pub(super) fn covers(&self, log_id: &LogId, seq: u64) -> bool {
        self.latest.get(log_id).is_some_and(|latest| latest.covers(seq, seq))
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        (!self.sweep.is_empty() && self.reading.is_none()).then_some(self.next_sweep)
    }
}

/// The parts of these runs that are in none of the others; all are in order and apart from each other.
fn without(runs: impl Iterator<Item = (u64, u64)>, others: &[TruncatedRun]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for (mut first, last) in runs {
        for other in others.iter().filter(|other| other.first <= last) {
            if other.last < first {
                continue;
            }
            if other.first > first {
                left.push((first, other.first - 1));
            }
            first = other.last + 1;
        }
        if first <= last {
            left.push((first, last));
        }
    }
    left
}

/// Truncated runs that stand for these dead entries too, which come in order. What would make too many runs stays as it
/// is.
pub(crate) fn with_runs(runs: &[TruncatedRun], dead: impl IntoIterator<Item = TruncatedRun>) -> Vec<TruncatedRun> {
    let mut runs: BTreeMap<u64, TruncatedRun> = runs.iter().map(|run| (run.first, *run)).collect();
    for one in dead {
        let before = runs.range(..=one.first).next_back().map(|(_, run)| *run);
        if before.is_some_and(|before| one.last <= before.last) {
            continue;
        }
        let before = before.filter(|before| before.last + 1 == one.first);
        let after = runs.get(&(one.last + 1)).copied();
        if before.is_none() && after.is_none() && runs.len() >= limits::TRUNCATED_RUNS_MAX {
            continue;
        }
        let end = after.unwrap_or(one);
        runs.remove(&end.first);
        let first = before.map_or(one.first, |before| before.first);
        runs.insert(first, TruncatedRun { first, ..end });
    }
    runs.into_values().collect()
}

impl Logs {
    /// True if this entry is gone, by its author's truncation.
    pub(crate) fn is_dropped(&self, log_id: (PeerId, Incarnation), seq: u64) -> bool {
        self.dropped.covers(&log_id, seq)
    }

    /// The runs that are gone of an incarnation.
    pub(crate) fn runs(&self, log_id: (PeerId, Incarnation)) -> &[TruncatedRun] {
        self.dropped.latest.get(&log_id).map_or(&[], |latest| &latest.runs)
    }

    /// True if this is the truncation that counts for its incarnation.
    pub(crate) fn is_latest_truncation(&self, entry: &SignedEntry) -> bool {
        let latest = self.dropped.latest.get(&(entry.author, entry.entry.incarnation));
        latest.is_some_and(|latest| latest.entry.hash == entry.hash)
    }

    /// True if some entries before this one are missing here, so that it does not come in its place.
    pub(crate) fn is_ahead(&self, entry: &SignedEntry) -> bool {
        let head = self.heads.get(&(entry.author, entry.entry.incarnation));
        entry.entry.seq > head.map_or(0, |head| head.seq) + 1
    }

    /// Takes an author's truncation of its own log. True when it was news.
    pub(super) fn apply_truncation(&mut self, entry: &SignedEntry, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let Some(latest) = LatestTruncation::read(entry) else { return false };
        let log_id = (entry.author, entry.entry.incarnation);
        let known = self.dropped.latest.get(&log_id);
        let incarnations = self.dropped.latest.range((log_id.0, Incarnation(0))..=(log_id.0, Incarnation(u32::MAX)));
        if known.is_none() && !has_room(&log_id.0, incarnations.map(|((_, held), _)| *held), trust) {
            return false;
        }
        // What was gone stays gone: the rows have been deleted, and only the truncation explains it.
        let says_all = known.is_none_or(|known| {
            known.runs != latest.runs && known.runs.iter().all(|run| latest.covers(run.first, run.last))
        });
        if !says_all {
            return false;
        }
        if !self.has_room_ahead(&log_id, &latest, trust) {
            return false;
        }
        let held = self.held(&log_id.0, log_id.1);
        let runs = latest.runs.iter().map(|run| (run.first, run.last.min(held))).filter(|(first, last)| first <= last);
        let gone = without(runs, known.map_or(&[], |known| &known.runs));
        fx.put(rows::truncation(&log_id.0, log_id.1), entry);
        if !gone.is_empty() {
            let sweep = self.dropped.sweep.entry(log_id).or_default();
            sweep.extend(gone);
            fx.put(rows::sweep(&log_id.0, log_id.1), sweep);
        }
        let former = self.dropped.latest.insert(log_id, latest);
        self.spending.note_beside(log_id.0, former.map_or(0, |former| former.entry.len()), entry.len());
        if !self.is_own(&log_id.0, log_id.1) {
            self.step_over_runs(log_id, trust, fx);
        }
        true
    }

    /// True if the log that this truncation is of is not held as far as it.
    fn is_beyond_log(&self, log_id: &LogId, latest: &LatestTruncation) -> bool {
        latest.entry.entry.seq > self.held(&log_id.0, log_id.1)
    }

    /// True if this truncation may be held, although the log does not reach as far: nobody has paid for the entries
    /// between its runs. Owners and others have as much room each.
    fn has_room_ahead(&self, log_id: &LogId, latest: &LatestTruncation, trust: &Trust) -> bool {
        if self.is_own(&log_id.0, log_id.1) || !self.is_beyond_log(log_id, latest) {
            return true;
        }
        let by_owner = trust.is_owner(&log_id.0);
        let others = self.dropped.latest.iter().filter(|(other, held)| {
            *other != log_id && trust.is_owner(&other.0) == by_owner && self.is_beyond_log(other, held)
        });
        let bytes: usize = others.map(|(_, held)| held.entry.len()).sum();
        bytes + latest.entry.len() <= limits::TRUNCATIONS_AHEAD_BYTES_MAX
    }

    /// Forgets the logs of those who do not belong any more of which a truncation is all that is held.
    pub(super) fn settle_truncations(&mut self, trust: &Trust, fx: &mut Effects<'_>) {
        let empty = self.dropped.latest.iter().filter(|(log_id, latest)| {
            let held = self.held(&log_id.0, log_id.1);
            let live = without((held > 0).then_some((1, held)).into_iter(), &latest.runs);
            trust.is_excluded(&log_id.0) && log_id.0 != self.me && self.is_beyond_log(log_id, latest) && live.is_empty()
        });
        let empty: Vec<LogId> = empty.map(|(log_id, _)| *log_id).collect();
        for log_id in empty {
            if let Some(latest) = self.dropped.latest.remove(&log_id) {
                self.spending.note_beside(log_id.0, latest.entry.len(), 0);
            }
            fx.delete(rows::truncation(&log_id.0, log_id.1));
            if self.heads.remove(&log_id).is_some() {
                fx.delete(rows::head(&log_id.0, log_id.1));
            }
        }
    }

    /// Steps over what comes next in a log and is gone.
    pub(super) fn step_over_runs(&mut self, log_id: (PeerId, Incarnation), trust: &Trust, fx: &mut Effects<'_>) {
        let Some(latest) = self.dropped.latest.get(&log_id) else { return };
        let before = self.heads.get(&log_id).copied();
        let mut head = before.unwrap_or(Head { seq: 0, hash: Hash::ZERO, hlc: 0 });
        for run in latest.runs.iter().filter(|run| run.last > head.seq).copied().collect::<Vec<_>>() {
            if run.first <= head.seq + 1 {
                head = Head { seq: run.last, hash: run.hash, hlc: run.hlc.max(head.hlc) };
            }
        }
        let room = before.is_some() || has_room(&log_id.0, self.incarnations(&log_id.0).map(|(held, _)| held), trust);
        if head.seq > before.map_or(0, |head| head.seq) && room {
            self.heads.insert(log_id, head);
            self.spending.note_step(&log_id.0);
            fx.put(rows::head(&log_id.0, log_id.1), &head);
        }
    }

    /// Before a neighbour gets these ranges: the truncations that it needs to step over what is gone.
    pub(super) fn send_truncations(
        &self,
        to: PeerId,
        ranges: &[(PeerId, Incarnation, u64, u64)],
        fx: &mut Effects<'_>,
    ) {
        for (author, incarnation, first, _) in ranges {
            if let Some(latest) = self.dropped.latest.get(&(*author, *incarnation))
                && latest.end() >= *first
                && self.may_show(&latest.entry)
            {
                let item = EntryItem { entry: latest.entry.clone(), left_ms: None };
                fx.send(to, Frame::Entries { entries: vec![item], more: false });
            }
        }
    }

    /// Reads some of what is gone, to delete it.
    pub(super) fn sweep(&mut self, fx: &mut Effects<'_>) {
        if self.dropped.poll_timeout().is_none_or(|at| fx.now.mono_ms < at) {
            return;
        }
        let Some((log_id, places)) = self.dropped.sweep.first_key_value() else { return };
        let Some((first, last)) = places.last().copied() else { return };
        let until = last.min(first.saturating_add(limits::SWEEP_ROWS_MAX as u64 - 1));
        self.dropped.reading = Some((*log_id, first, until));
        let ranges = vec![(log_id.0, log_id.1, first, until)];
        fx.out.push(Output::ReadLog { reader: LogReader::Sweep, ranges });
    }

    /// Our own log answers: deletes those rows. The truncation that explains it is in an earlier batch, or in this one.
    pub(crate) fn handle_sweep_read(
        &mut self,
        entries: &[SignedEntry],
        more: bool,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        let Some((log_id, first, until)) = self.dropped.reading.take() else { return };
        self.dropped.next_sweep = fx.now.mono_ms + SWEEP_EVERY_MS;
        let until = if more { entries.last().map_or(first, |entry| entry.entry.seq).min(until) } else { until };
        for entry in entries {
            self.spending.release(entry, &self.me, trust, fx);
        }
        for seq in first..=until {
            fx.delete(rows::entry(&log_id.0, log_id.1, seq));
        }
        let Some(mut places) = self.dropped.sweep.remove(&log_id) else { return };
        // What was added meanwhile stands behind it.
        for (from, last) in &mut places {
            if *from == first {
                *from = until + 1;
            }
            debug_assert!(*from <= *last + 1, "a chunk ends within its range");
        }
        places.retain(|(from, last)| from <= last);
        if places.is_empty() {
            fx.delete(rows::sweep(&log_id.0, log_id.1));
        } else {
            fx.put(rows::sweep(&log_id.0, log_id.1), &places);
            self.dropped.sweep.insert(log_id, places);
        }
        self.resume_stopped(trust, fx);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fuzz_a_damaged_row_of_what_is_to_be_deleted_keeps_nobody_busy() {
        for places in [vec![], vec![(3, 2)], vec![(0, u64::MAX)]] {
            let mut dropped = Dropped::default();
            let row = rows::sweep(&PeerId([1; 32]), Incarnation(1));
            dropped.restore(&row.key, &crate::entry::encode(&places));
            assert_eq!(dropped.poll_timeout(), None, "{places:?}");
        }
    }

    fn run_of(seq: u64) -> TruncatedRun {
        TruncatedRun { first: seq, last: seq, hash: Hash::of(&seq.to_be_bytes()), hlc: seq }
    }

    fn places(runs: &[TruncatedRun]) -> BTreeSet<u64> {
        runs.iter().flat_map(|run| run.first..=run.last).collect()
    }

    proptest! {
        #[test]
        fn runs_are_what_was_put_in(first in proptest::collection::btree_set(1..200_u64, 0..150),
                                    then in proptest::collection::btree_set(1..200_u64, 0..150)) {
            let before = with_runs(&[], first.iter().copied().map(run_of));
            let after = with_runs(&before, then.iter().copied().map(run_of));
            prop_assert_eq!(places(&before), first.clone());
            prop_assert_eq!(places(&after), first.union(&then).copied().collect::<BTreeSet<_>>());
            prop_assert!(after.windows(2).all(|two| two[0].last + 1 < two[1].first), "apart");
            prop_assert!(after.iter().all(|run| run.hash == run_of(run.last).hash && run.hlc == run.last));
            let fresh = without(after.iter().map(|run| (run.first, run.last)), &before);
            let fresh: BTreeSet<u64> = fresh.into_iter().flat_map(|(first, last)| first..=last).collect();
            prop_assert_eq!(fresh, then.difference(&first).copied().collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn what_makes_too_many_runs_stays() {
        let most = with_runs(&[], (1..=limits::TRUNCATED_RUNS_MAX as u64).map(|n| run_of(3 * n)));
        assert_eq!(most.len(), limits::TRUNCATED_RUNS_MAX);
        let more = with_runs(&most, [run_of(1), run_of(4), run_of(5), run_of(10_000)]);
        assert_eq!(more.len(), limits::TRUNCATED_RUNS_MAX);
        let grown = places(&more);
        assert!(
            places(&most).is_subset(&grown) && grown.contains(&5) && grown.contains(&10_000) && !grown.contains(&1)
        );
    }
}
