//! Headers for which the book had no room: their entries are in the log, so nobody tells us of them again. They are
//! read from there when there is room. A restart forgets them; their origins still have them.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::entry::{Place, SignedEntry};
use crate::io::{LogReader, Output};
use crate::limits;
use crate::log::Logs;

/// Between two looks whether there is room.
const LOOK_EVERY_MS: u64 = 1_000;
/// Headers that are read at once.
const READ_MAX: usize = 64;

/// Places of those headers, each with the time of our clock at which its call is over.
#[derive(Debug, Default, Clone)]
pub(super) struct Deferred {
    waiting: BTreeMap<Place, u64>,
    next_ms: u64,
}

impl Deferred {
    /// Time that the call at this place has left.
    pub(super) fn left_ms(&self, place: &Place, now: u64) -> Option<u64> {
        self.waiting.get(place).map(|until| until.saturating_sub(now))
    }

    /// Notes a header that is to be read later.
    pub(super) fn keep(&mut self, place: Place, left_ms: u64, now: u64) {
        if left_ms == 0 || self.waiting.len() >= limits::DEFERRED_MAX {
            return;
        }
        if self.waiting.is_empty() {
            self.next_ms = now + LOOK_EVERY_MS;
        }
        self.waiting.insert(place, now + left_ms);
    }

    /// Reads as many as there is `room` for.
    pub(super) fn handle_timeout(&mut self, room: usize, logs: &Logs, fx: &mut Effects<'_>) {
        let now = fx.now.mono_ms;
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.next_ms = now + LOOK_EVERY_MS;
        self.waiting
            .retain(|place, until| *until > now && !logs.is_dropped((place.author, place.incarnation), place.seq));
        let places = self.waiting.keys().take(room.min(READ_MAX));
        let ranges: Vec<_> = places.map(|place| (place.author, place.incarnation, place.seq, place.seq)).collect();
        if !ranges.is_empty() {
            fx.out.push(Output::ReadLog { reader: LogReader::Deferred, ranges });
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(self.next_ms)
    }

    /// Our own log answers: each header with the time that its call has left.
    pub(super) fn handle_log_read(&mut self, entries: Vec<SignedEntry>, now: u64) -> Vec<(SignedEntry, u64)> {
        let taken = entries.into_iter().filter_map(|entry| {
            let until = self.waiting.remove(&entry.place())?;
            Some((entry, until.saturating_sub(now)))
        });
        taken.collect()
    }
}
