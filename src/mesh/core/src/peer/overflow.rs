//! Headers for which the book had no room: their entries are in the log, so nobody tells us of them again. They are read
//! from there when there is room. A restart forgets them; their origins still have them.

use std::collections::BTreeMap;

use super::Peer;
use crate::effects::Effects;
use crate::entry::{Header, Place, SignedEntry};
use crate::io::{LogReader, Output};
use crate::limits;
use crate::protocol_rule::ProtocolRule;

/// Between two looks whether there is room.
const LOOK_EVERY_MS: u64 = 1_000;
/// Headers that are read at once.
const READ_MAX: usize = 64;

/// Places of those headers, each with the time of our clock at which its call is over.
#[derive(Debug, Default, Clone)]
pub(super) struct Overflow {
    waiting: BTreeMap<Place, u64>,
    next_ms: u64,
}

impl Overflow {
    /// How much time the call at this place has left.
    pub(super) fn left_ms(&self, place: &Place, now: u64) -> Option<u64> {
        self.waiting.get(place).map(|until| until.saturating_sub(now))
    }

    /// When [`Peer::read_overflow`] is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(self.next_ms)
    }
}

impl Peer {
    /// Whether there is no room for this header, which is noted then.
    pub(super) fn overflows(&mut self, entry: &SignedEntry, header: &Header, left_ms: u64, fx: &Effects<'_>) -> bool {
        let full = entry.author != self.me
            && header.target != self.me
            && self.book.room(&self.config) == 0
            && self.book.record(&header.id).is_none()
            && fx.enforces(ProtocolRule::QueueLimit);
        if full && left_ms > 0 && self.overflow.waiting.len() < limits::OVERFLOW_MAX {
            if self.overflow.waiting.is_empty() {
                self.overflow.next_ms = fx.now.mono_ms + LOOK_EVERY_MS;
            }
            self.overflow.waiting.insert(entry.place(), fx.now.mono_ms + left_ms);
        }
        full
    }

    /// Reads as many as there is room for.
    pub(super) fn read_overflow(&mut self, fx: &mut Effects<'_>) {
        let now = fx.now.mono_ms;
        if self.overflow.waiting.is_empty() || now < self.overflow.next_ms {
            return;
        }
        self.overflow.next_ms = now + LOOK_EVERY_MS;
        let logs = &self.logs;
        self.overflow
            .waiting
            .retain(|place, until| *until > now && !logs.is_dropped((place.author, place.incarnation), place.seq));
        let room = self.book.room(&self.config).min(READ_MAX);
        let places = self.overflow.waiting.keys().take(room);
        let ranges: Vec<_> = places.map(|place| (place.author, place.incarnation, place.seq, place.seq)).collect();
        if !ranges.is_empty() {
            fx.out.push(Output::ReadLog { reader: LogReader::Deferred, ranges });
        }
    }

    /// Our own log answers.
    pub(super) fn take_overflow(&mut self, entries: &[SignedEntry], fx: &mut Effects<'_>) {
        for entry in entries {
            let place = entry.place();
            if let Some(until) = self.overflow.waiting.remove(&place)
                && self.trust.admits(&place.author, place.incarnation, place.seq)
            {
                self.apply(entry, Some(until.saturating_sub(fx.now.mono_ms)), fx);
            }
        }
    }
}
