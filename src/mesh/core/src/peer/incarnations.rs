//! Incarnations of this device's database: what was restored to an older state, or copied, must not run a call a second time
//! (mesh-protocol.md §6, Target restored).
//!
//! Proof is the device's own signature: an entry of ours that we do not hold. So that there is one whenever anybody could
//! have heard of a run, a run that lasts puts a checkpoint into our log, unless something else came there since. From the proof on we write under a new
//! incarnation, take our own lost words back from whoever has them, and start no call that was meant for the incarnation whose
//! journal is lost. Two processes with one key are seen from outside as well: their sessions alternate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Peer, lost_floor};
use crate::effects::Effects;
use crate::entry::{Kind, Outcome, SignedEntry};
use crate::ids::{Hash, Incarnation, PeerId};
use crate::io::{Fact, Hold, LogReader, Output};
use crate::log;
use crate::protocol_rule::ProtocolRule;
use crate::rows::{self, IncarnationsRow};

/// A run that is over sooner needs no checkpoint: its outcome is one. Set back within this time, a device may run a call again
/// that nobody but itself knew of. Longer than most tools take, since a checkpoint costs an fsync; shorter than a rolled-back takes.
const CHECKPOINT_AFTER_MS: u64 = 200;
/// How long two sessions that alternate hold a peer, counted from the last change.
const COPIED_MS: u64 = 600_000;
/// Nonces of former sessions that are remembered of one peer.
const SESSIONS_KEPT: usize = 8;
/// Entries of ours from outside that are compared with our log at one time. What finds no place is shown again.
const SUSPECTS_MAX: usize = 64;

/// Our own incarnations.
#[derive(Debug, Clone)]
pub(super) struct Incarnations {
    /// All that we know of.
    stored: IncarnationsRow,
    /// Whether this process has begun one because of what others held.
    renewed: bool,
    /// Whether another process speaks as us.
    copied: bool,
    /// Entries of this incarnation that came from outside and may contradict our log, which is asked.
    suspects: BTreeSet<(u64, Hash)>,
    /// How long our log was when this process started.
    at_start: u64,
    /// The incarnation before, of which our log is asked what this process has said, and how far it has answered.
    to_say_again: Option<(Incarnation, u64)>,
    /// How far our log had come when the last call started of which nothing there tells, and when it gets a checkpoint.
    untold: Option<(u64, u64)>,
}

impl Incarnations {
    /// What the store says, where it says something.
    pub(super) fn restore(stored: Option<IncarnationsRow>, incarnation: Incarnation, at_start: u64) -> Self {
        let mut stored = stored.unwrap_or_default();
        stored.known.insert(incarnation);
        let suspects = BTreeSet::new();
        Self { stored, renewed: false, copied: false, suspects, at_start, to_say_again: None, untold: None }
    }

    /// As the store is to hold them.
    pub(super) const fn row(&self) -> &IncarnationsRow {
        &self.stored
    }
}

/// Sessions of one other peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    now: u64,
    former: VecDeque<u64>,
    copied_until: u64,
}

impl Peer {
    /// Our log and our calls are numbered anew, under an incarnation that nobody has seen. What was meant for the incarnation
    /// before does not start any more.
    pub(super) fn start_incarnation(&mut self, fx: &mut Effects<'_>) {
        let incarnation = Incarnation(fx.rng.next_u32());
        self.logs.start_incarnation(incarnation);
        self.counter = 0;
        self.incarnations.stored.known.insert(incarnation);
        self.incarnations.suspects.clear();
        fx.put(rows::incarnation(), &incarnation);
        fx.put(rows::counter(), &self.counter);
        fx.put(rows::incarnations(), &self.incarnations.stored);
        self.executor.drop_waiting(incarnation);
        self.book.close_calls_of_former_incarnations(incarnation, fx);
        if let Some((_, directory)) = self.directory.remove(&self.me) {
            self.set_directory(&directory, fx);
        }
        fx.view_changed = true;
    }

    /// An entry that we signed comes back. True when it is nothing new.
    pub(super) fn is_own_known(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        let (incarnation, seq) = (entry.entry.incarnation, entry.entry.seq);
        if incarnation != self.logs.incarnation() {
            if self.incarnations.stored.known.insert(incarnation) {
                fx.put(rows::incarnations(), &self.incarnations.stored);
                self.handle_lost_state(fx);
            }
            return false;
        }
        match self.logs.own_says(entry) {
            Some(true) => true,
            Some(false) => {
                self.handle_lost_state(fx);
                false
            }
            None => {
                if self.incarnations.suspects.len() < SUSPECTS_MAX
                    && self.incarnations.suspects.insert((seq, entry.hash))
                {
                    let ranges = vec![(self.me, incarnation, seq, seq)];
                    fx.out.push(Output::ReadLog { reader: LogReader::OwnCheck, ranges });
                }
                true
            }
        }
    }

    /// Our own log answers what it has where an entry of ours came from outside.
    pub(super) fn resolve_doubts(&mut self, held: &[SignedEntry], fx: &mut Effects<'_>) {
        for held in held {
            let incarnation = held.entry.incarnation;
            if held.author != self.me || incarnation != self.logs.incarnation() {
                continue;
            }
            let (suspects, logs) = (&mut self.incarnations.suspects, &self.logs);
            let contradicts = suspects.iter().any(|(seq, hash)| *seq == held.entry.seq && *hash != held.hash);
            suspects.retain(|(seq, _)| *seq != held.entry.seq && !logs.is_dropped((held.author, incarnation), *seq));
            if contradicts {
                self.handle_lost_state(fx);
            }
        }
    }

    /// We signed what we do not hold. Once that is a state that was restored; when it happens again to one process, there
    /// are two of us.
    fn handle_lost_state(&mut self, fx: &mut Effects<'_>) {
        if self.incarnations.renewed {
            self.incarnations.copied = true;
            self.handle_holds(fx);
            fx.fact(Fact::Warning("is one of two that use the same key", self.me));
            return;
        }
        self.incarnations.renewed = true;
        let floor = lost_floor(self.election.fence().epoch.counter, fx.rng);
        fx.put(rows::claim_floor(), &floor);
        self.election.raise_floor(floor, fx);
        self.incarnations.to_say_again = Some((self.logs.incarnation(), self.incarnations.at_start));
        self.start_incarnation(fx);
        self.read_own_words(fx);
        fx.fact(Fact::Warning(
            "was restored to an older state, or copied; calls that it may have run do not run",
            self.me,
        ));
        self.logs.ask_all(fx);
    }

    /// Where another process wrote at the same places, what this one ran since its start is not taken: it says it again in
    /// its new incarnation.
    pub(super) fn read_own_words(&self, fx: &mut Effects<'_>) {
        let Some((incarnation, last)) = self.incarnations.to_say_again else { return };
        let held =
            self.logs.incarnations(&self.me).find(|(known, _)| *known == incarnation).map_or(0, |(_, held)| held);
        if last < held {
            let ranges = vec![(self.me, incarnation, last + 1, held)];
            fx.out.push(Output::ReadLog { reader: LogReader::Reissue, ranges });
        }
    }

    /// Our own log answers.
    pub(super) fn say_own_again(&mut self, entries: &[SignedEntry], more: bool, fx: &mut Effects<'_>) {
        for entry in entries {
            self.say_one_again(entry, fx);
        }
        if more {
            self.read_own_words(fx);
        }
    }

    fn say_one_again(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let place = entry.place();
        let Some((incarnation, last)) = &mut self.incarnations.to_say_again else { return };
        if place.author != self.me || place.incarnation != *incarnation || place.seq <= *last {
            return;
        }
        *last = place.seq;
        let outcome = (entry.entry.kind == Kind::OUTCOME).then(|| entry.record::<Outcome>()).flatten();
        if outcome.is_some_and(|outcome| outcome.started_ms > 0) {
            let body = entry.entry.body.to_vec();
            let again = self.logs.append(self.signer.as_ref(), Kind::OUTCOME, 0, body, fx);
            log::push_when_durable(&again, None, fx);
        }
    }

    /// A tool has been started here. A mesh of one has nobody to tell.
    pub(super) fn note_started(&mut self, now_ms: u64) {
        let seq = self.logs.own_seq();
        let known = self.incarnations.untold.is_some_and(|(at, _)| at == seq);
        if !known && self.trust.membership().members.len() > 1 {
            self.incarnations.untold = Some((seq, now_ms + CHECKPOINT_AFTER_MS));
        }
    }

    /// When [`Self::checkpoint_runs`] is due.
    pub(super) fn checkpoint_due(&self) -> Option<u64> {
        self.incarnations.untold.map(|(_, due)| due)
    }

    /// What still runs and nothing in our log is newer than: others get something to hold against an older state of ours.
    pub(super) fn checkpoint_runs(&mut self, fx: &mut Effects<'_>) {
        let Some((seq, _)) = self.incarnations.untold.take_if(|(_, due)| *due <= fx.now.mono_ms) else { return };
        if seq == self.logs.own_seq()
            && !self.executor.is_idle()
            && !self.is_excluded()
            && fx.enforces(ProtocolRule::RunsCheckpointed)
        {
            let entry = self.logs.append(self.signer.as_ref(), Kind::CHECKPOINT, 0, Vec::new(), fx);
            log::push_when_durable(&entry, None, fx);
        }
    }

    pub(super) fn own_hold(&self) -> Option<Hold> {
        self.incarnations.copied.then_some(Hold::Copied)
    }

    /// A process of that peer is linked. One whose nonce comes back after another's runs beside that other.
    pub(super) fn handle_session(&mut self, peer: PeerId, nonce: u64, fx: &mut Effects<'_>) {
        let sessions = self.sessions.entry(peer).or_default();
        if sessions.now == nonce {
            return;
        }
        let returned = sessions.former.contains(&nonce);
        if sessions.now != 0 {
            sessions.former.retain(|former| *former != sessions.now);
            sessions.former.push_back(sessions.now);
            if sessions.former.len() > SESSIONS_KEPT {
                sessions.former.pop_front();
            }
        }
        sessions.now = nonce;
        if returned {
            sessions.copied_until = fx.now.mono_ms + COPIED_MS;
            fx.fact(Fact::Warning("runs twice: two devices use its key, and neither gets calls", peer));
            fx.view_changed = true;
        }
    }

    /// Peers that run twice, as far as this peer saw.
    pub(super) fn copied(&self) -> BTreeSet<PeerId> {
        copied(&self.sessions, self.now_ms)
    }
}

/// See [`Peer::copied`].
pub(super) fn copied(sessions: &BTreeMap<PeerId, Sessions>, now: u64) -> BTreeSet<PeerId> {
    sessions.iter().filter(|(_, sessions)| sessions.copied_until > now).map(|(peer, _)| *peer).collect()
}
