//! Dropping what nobody needs of the logs any more (mesh-protocol.md §5, GC).
//!
//! Each author judges its own entries, the old ones once in a while and a part at a time, and signs which of them are
//! dead. Everybody else takes its word for its own log, and for nothing else; verdicts do not depend on it at all, since
//! two who hold different sets of them show each other all ([`Peer::compare_verdicts`]).

use super::Peer;
use crate::effects::Effects;
use crate::entry::{self, CancelWish, Kind, Outcome, SignedEntry, Stub, Stubs};
use crate::ids::{Hash, Incarnation, PeerId};
use crate::io::Output;
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
    life: Incarnation,
    dead: Vec<Stub>,
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
    pub(super) fn take_stubs(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        // Its place does not matter: whoever has a key may say so of what that key wrote, and where a revocation voids
        // such a word, the rows are gone all the same at whoever took it before. But some of that life must count.
        let life = (entry.author, entry.entry.incarnation);
        let counts = self.trust.standing(&life.0, life.1, u64::MAX) > 0;
        if counts && entry.entry.mesh == self.trust.mesh() && self.logs.take_stubs(entry, fx) {
            self.forget_unread(life, fx);
        }
    }

    /// Looks at our own log now and then.
    pub(super) fn look_at_own_log(&mut self, fx: &mut Effects<'_>) {
        if self.look.now.is_some() || fx.now.mono_ms < self.look.next_ms {
            return;
        }
        self.look.next_ms = fx.now.mono_ms + self.config.compact_every_ms;
        if self.is_out() || !self.understands(Kind::STUBS) {
            return;
        }
        // Former lives rest: what was restored to an older state cannot know all that its former self said is gone.
        let life = self.logs.incarnation();
        self.look.now = Some(Reading { life, dead: Vec::new() });
        self.read_own(life, 1, fx);
    }

    /// Reads what is not gone of our own log, from a place on.
    fn read_own(&self, life: Incarnation, from: u64, fx: &mut Effects<'_>) {
        let at = (self.me, life);
        let held = self.logs.lives(&self.me).find(|(of, _)| *of == life).map_or(0, |(_, seq)| seq);
        let mut ranges = Vec::new();
        let mut next = from;
        for stub in self.logs.stubs(at).iter().filter(|stub| stub.last >= from) {
            if next < stub.first {
                ranges.push((self.me, life, next, stub.first - 1));
            }
            next = stub.last + 1;
        }
        if next <= held {
            ranges.push((self.me, life, next, held));
        }
        fx.out.push(Output::ReadLog { to: self.me, ranges });
    }

    /// A part of our own log was read. What else reads it may answer in between: then this look is only a shorter one.
    pub(super) fn handle_own_log(&mut self, entries: &[SignedEntry], more: bool, fx: &mut Effects<'_>) {
        let me = self.me;
        let Some(mut reading) = self.look.now.take_if(|reading| {
            entries.iter().all(|entry| entry.author == me && entry.entry.incarnation == reading.life)
        }) else {
            return;
        };
        let mut whole = !more;
        for entry in entries {
            if !self.is_old(entry, fx) || reading.dead.len() >= limits::DEAD_PER_STEP_MAX {
                whole = true; // what comes later is younger, or waits for the next look
                break;
            }
            if self.is_dead(entry, fx) {
                let seq = entry.entry.seq;
                reading.dead.push(Stub { first: seq, last: seq, hash: entry.hash, hlc: entry.entry.hlc });
            }
        }
        match entries.last() {
            Some(last) if !whole => {
                self.read_own(reading.life, last.entry.seq + 1, fx);
                self.look.now = Some(reading);
            }
            _ => {
                if reading.dead.len() >= limits::DEAD_PER_STEP_MAX {
                    self.look.next_ms = fx.now.mono_ms + GO_ON_MS;
                }
                if reading.life == self.logs.incarnation() {
                    self.declare_dead(reading.life, reading.dead, fx);
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
        let in_hand = |id| self.book.record(&id).is_some() && fx.enforces(ProtocolRule::StubsSpareOpen);
        match entry.entry.kind {
            Kind::DIRECTORY => {
                let newest = self.directory.get(&self.me).map(|(newest, _)| newest);
                newest.is_some_and(|newest| newest.hash != entry.hash && newest.entry.hlc > entry.entry.hlc)
            }
            Kind::CALL => entry.header().is_some_and(|header| !in_hand(header.id)),
            Kind::OUTCOME => entry.record::<Outcome>().is_some_and(|outcome| {
                !in_hand(outcome.id) && !self.executor.has_journaled(&outcome.id, outcome.attempt)
            }),
            Kind::CANCEL => entry.record::<CancelWish>().is_some_and(|wish| !in_hand(wish.id)),
            // A later entry says as much.
            Kind::MARK => true,
            Kind::STUBS => !self.logs.is_last_word(entry),
            _ => false,
        }
    }

    /// Tells everyone what is dead of our own log, if it is worth an entry.
    fn declare_dead(&mut self, life: Incarnation, dead: Vec<Stub>, fx: &mut Effects<'_>) {
        if dead.len() < self.config.compact_min.max(1) {
            return;
        }
        let known = self.logs.stubs((self.me, life));
        let stubs = log::with_stubs(known, dead);
        if stubs == known {
            return;
        }
        let body = entry::encode(&Stubs { stubs });
        let entry = self.logs.append(self.signer.as_ref(), Kind::STUBS, 0, body, fx);
        log::push_when_durable(&entry, None, fx);
        self.take_stubs(&entry, fx);
    }

    /// What a neighbour says of the verdicts that it holds. If ours are others, it is shown all of ours: neither a log with
    /// stubs nor one that lags may hide a verdict. Once for each pair of sets.
    pub(super) fn compare_verdicts(&mut self, from: PeerId, theirs: Hash, fx: &mut Effects<'_>) {
        let ours = self.logs.verdicts();
        if theirs == Hash::ZERO || theirs == ours {
            return;
        }
        if self.compared_verdicts.insert(from, (theirs, ours)) != Some((theirs, ours)) {
            self.tell_records(from, fx);
        }
    }
}
