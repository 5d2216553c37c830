//! Incarnations of this device's database: a store that was restored to an older state, or copied, must not run a call
//! a second time.
//!
//! Proof is the device's own signature: an entry of ours that we do not hold. So that there is one whenever anybody
//! could have received news of a run, a run that lasts puts a checkpoint into our log, unless something else came there since.
//! From the proof on we write under a new incarnation, take our own lost entries back from whoever has them, and start
//! no call that was meant for the incarnation whose journal is lost. Two processes with one key are seen from outside
//! as well: their sessions alternate ([`crate::links::Links`]).

use std::collections::BTreeSet;

use rand_core::Rng;

use crate::effects::Effects;
use crate::entry::{Kind, SignedEntry};
use crate::ids::{COUNTER_MAX, Hash, Incarnation, PeerId, ReqId};
use crate::io::{Halt, LogReader, Output};
use crate::log::Logs;
use crate::protocol_rule::ProtocolRule;
use crate::record::Outcome;
use crate::rows::{self, IncarnationsRow};

/// A restored store may have lost this many claims of ours; the random part on top keeps two incarnations apart that
/// begin with the same backup. Together far below [`crate::limits::EPOCH_JUMP_MAX`].
const CLAIMS_LOST_MAX: u64 = 4_096;
const CLAIMS_APART: u64 = 32_768;
/// A run that is over sooner needs no checkpoint: its outcome is one. Rolled back within this time, a device may run a
/// call again that nobody but itself knew of. Longer than most tools take, since a checkpoint costs an fsync; shorter
/// than rolling a store back takes.
const CHECKPOINT_AFTER_MS: u64 = 200;
/// Entries of ours from outside that are compared with our log at one time. What finds no place is shown again.
const SUSPECTS_MAX: usize = 64;

/// Counter above which a store claims that is older than its promises, and last knew `known`.
pub(crate) fn lost_floor(known: u64, rng: &mut dyn Rng) -> u64 {
    known.saturating_add(CLAIMS_LOST_MAX + rng.next_u64() % CLAIMS_APART)
}

/// An entry that we signed, as it comes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnEntry {
    /// Nothing new, or our log is asked.
    Known,
    /// Of a former incarnation: it goes into that one's log.
    Former,
    /// The same, and the first that we receive of that incarnation: our store is older than it.
    Lost,
    /// It contradicts our log, or goes on behind its end.
    Contradicts,
}

/// Our own incarnations.
#[derive(Debug, Clone)]
pub(crate) struct Incarnations {
    /// All that we know of.
    stored: IncarnationsRow,
    /// Calls accepted in this incarnation.
    counter: u64,
    /// Set when this process started one because of what others held.
    renewed: bool,
    /// Set when another process speaks as us.
    copied: bool,
    /// Entries of this incarnation that came from outside and may contradict our log, which is asked.
    suspects: BTreeSet<(u64, Hash)>,
    /// Length of our log when this process started.
    at_start: u64,
    /// The incarnation before, of which our log is asked for the outcomes of this process, and how far it has answered.
    to_reissue: Option<(Incarnation, u64)>,
    /// Length of our log when the last call started of which nothing there tells, and when it gets a checkpoint.
    uncovered: Option<(u64, u64)>,
}

/// Meaning of an entry that we signed and do not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LostState {
    /// The first of this process: the store was restored to an older state.
    Restored,
    /// The second: another process uses our key.
    Copied,
    /// That is known by now.
    Known,
}

impl Incarnations {
    /// Takes up what the store says. `counter` and `at_start` are of the incarnation `now`.
    pub(crate) fn restore(stored: Option<IncarnationsRow>, now: Incarnation, counter: u64, at_start: u64) -> Self {
        let mut stored = stored.unwrap_or_default();
        stored.known.insert(now);
        let suspects = BTreeSet::new();
        Self { stored, counter, renewed: false, copied: false, suspects, at_start, to_reissue: None, uncovered: None }
    }

    /// The row as the store is to hold it.
    pub(crate) const fn row(&self) -> &IncarnationsRow {
        &self.stored
    }

    /// The halt while another process speaks as us.
    pub(crate) fn halt(&self) -> Option<Halt> {
        self.copied.then_some(Halt::Copied)
    }

    /// Numbers log and calls anew, under an incarnation that nobody has seen.
    pub(crate) fn start(&mut self, fx: &mut Effects<'_>) -> Incarnation {
        let incarnation = Incarnation(fx.rng.next_u32());
        self.counter = 0;
        self.stored.known.insert(incarnation);
        self.suspects.clear();
        fx.put(rows::incarnation(), &incarnation);
        fx.put(rows::counter(), &self.counter);
        fx.put(rows::incarnations(), &self.stored);
        incarnation
    }

    /// The id of the next call that is accepted in this incarnation.
    pub(crate) fn next_id(&self, me: &PeerId, own: Incarnation) -> ReqId {
        ReqId::new(me, own, self.counter + 1)
    }

    /// True if every id of this incarnation has been used.
    pub(crate) const fn is_used_up(&self) -> bool {
        self.counter >= COUNTER_MAX
    }

    /// The next id is used, with this step's batch.
    pub(crate) fn use_id(&mut self, fx: &mut Effects<'_>) {
        self.counter += 1;
        if fx.enforces(ProtocolRule::CounterDurable) {
            fx.put(rows::counter(), &self.counter);
        }
    }

    /// An entry that we signed comes back. Where only its row can tell if it contradicts our log, that is read.
    pub(crate) fn compare(&mut self, entry: &SignedEntry, logs: &Logs, fx: &mut Effects<'_>) -> OwnEntry {
        let (incarnation, seq) = (entry.entry.incarnation, entry.entry.seq);
        if incarnation != logs.incarnation() {
            if !self.stored.known.insert(incarnation) {
                return OwnEntry::Former;
            }
            fx.put(rows::incarnations(), &self.stored);
            return OwnEntry::Lost;
        }
        match logs.holds_own(entry) {
            Some(true) => OwnEntry::Known,
            Some(false) => OwnEntry::Contradicts,
            None => {
                if self.suspects.len() < SUSPECTS_MAX && self.suspects.insert((seq, entry.hash)) {
                    let ranges = vec![(entry.author, incarnation, seq, seq)];
                    fx.out.push(Output::ReadLog { reader: LogReader::OwnCheck, ranges });
                }
                OwnEntry::Known
            }
        }
    }

    /// Our log answers what it holds in the places of suspects. True if one of them contradicts it.
    pub(crate) fn handle_own_check(&mut self, held: &[SignedEntry], logs: &Logs) -> bool {
        let mut contradicts = false;
        for held in held {
            let incarnation = held.entry.incarnation;
            if incarnation != logs.incarnation() {
                continue;
            }
            contradicts |= self.suspects.iter().any(|(seq, hash)| *seq == held.entry.seq && *hash != held.hash);
            self.suspects
                .retain(|(seq, _)| *seq != held.entry.seq && !logs.is_dropped((held.author, incarnation), *seq));
        }
        contradicts
    }

    /// We signed what we do not hold, while we wrote in this incarnation.
    pub(crate) fn handle_lost_state(&mut self, own: Incarnation) -> LostState {
        if self.copied {
            LostState::Known
        } else if self.renewed {
            self.copied = true;
            LostState::Copied
        } else {
            self.renewed = true;
            self.to_reissue = Some((own, self.at_start));
            LostState::Restored
        }
    }

    /// Where another process wrote at the same places, the outcomes of what this one ran since its start are not taken:
    /// it issues them again in its new incarnation.
    pub(crate) fn read_reissue(&self, me: &PeerId, logs: &Logs, fx: &mut Effects<'_>) {
        let Some((incarnation, last)) = self.to_reissue else { return };
        let held = logs.held(me, incarnation);
        if last < held {
            let ranges = vec![(*me, incarnation, last + 1, held)];
            fx.out.push(Output::ReadLog { reader: LogReader::Reissue, ranges });
        }
    }

    /// Our own log answers: the outcomes to issue again.
    pub(crate) fn handle_reissue(&mut self, entries: &[SignedEntry]) -> Vec<Outcome> {
        let Some((incarnation, last)) = &mut self.to_reissue else { return Vec::new() };
        let mut outcomes = Vec::new();
        for entry in entries {
            if entry.entry.incarnation != *incarnation || entry.entry.seq <= *last {
                continue;
            }
            *last = entry.entry.seq;
            let outcome = (entry.entry.kind == Kind::OUTCOME).then(|| entry.record::<Outcome>()).flatten();
            outcomes.extend(outcome.filter(|outcome| outcome.started_ms > 0));
        }
        outcomes
    }

    /// A tool has been started here, and there are others who could hold an older state of ours against its outcome.
    pub(crate) fn note_started(&mut self, own_seq: u64, now_ms: u64) {
        if self.uncovered.is_none_or(|(at, _)| at != own_seq) {
            self.uncovered = Some((own_seq, now_ms + CHECKPOINT_AFTER_MS));
        }
    }

    /// When [`Self::needs_checkpoint`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        self.uncovered.map(|(_, due)| due)
    }

    /// True if a call started a while ago and nothing came into our log since: what still runs gets a checkpoint there.
    pub(crate) fn needs_checkpoint(&mut self, own_seq: u64, now_ms: u64) -> bool {
        self.uncovered.take_if(|(_, due)| *due <= now_ms).is_some_and(|(at, _)| at == own_seq)
    }
}
