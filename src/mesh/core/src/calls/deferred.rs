//! Headers for which the book had no room: their entries are in the log, so nobody tells us of them again. They are
//! read from there when there is room. A restart forgets them; their origins still have them.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::entry::{Place, SignedEntry};
use crate::ids::PeerId;
use crate::io::{LogReader, Output};
use crate::limits;
use crate::log::Logs;

/// Between two looks whether there is room.
const CHECK_EVERY_MS: u64 = 1_000;
/// Headers that are read at once.
const READ_MAX: usize = 64;

/// Places of those headers, each with the time of our clock at which its call is over.
#[derive(Debug, Default, Clone)]
pub(super) struct Deferred {
    waiting: BTreeMap<Place, u64>,
    of_author: BTreeMap<PeerId, usize>,
    next_ms: u64,
}

impl Deferred {
    /// Time that the call at this place has left.
    pub(super) fn left_ms(&self, place: &Place, now: u64) -> Option<u64> {
        self.waiting.get(place).map(|until| until.saturating_sub(now))
    }

    /// Notes a header that is to be read later. `max`: how many of its author are noted.
    pub(super) fn keep(&mut self, place: Place, left_ms: u64, max: usize, now: u64) {
        let of_author = self.of_author.get(&place.author).copied().unwrap_or(0);
        if left_ms == 0 || self.waiting.len() >= limits::DEFERRED_MAX || of_author >= max {
            return;
        }
        if self.waiting.is_empty() {
            self.next_ms = now + CHECK_EVERY_MS;
        }
        if self.waiting.insert(place, now + left_ms).is_none() {
            *self.of_author.entry(place.author).or_default() += 1;
        }
    }

    fn retain(&mut self, keep: impl Fn(&Place, u64) -> bool) {
        let of_author = &mut self.of_author;
        self.waiting.retain(|place, until| {
            let stays = keep(place, *until);
            if !stays {
                uncount(of_author, &place.author);
            }
            stays
        });
    }

    /// Origins of which any are noted.
    pub(super) fn origins(&self) -> Vec<PeerId> {
        self.of_author.keys().copied().collect()
    }

    /// Forgets those of some origins.
    pub(super) fn forget(&mut self, of: impl Fn(&PeerId) -> bool) {
        self.retain(|place, _| !of(&place.author));
    }

    /// Once it is due: reads as many of each origin as it has room for.
    pub(super) fn handle_timeout(&mut self, mut rooms: BTreeMap<PeerId, u64>, logs: &Logs, fx: &mut Effects<'_>) {
        let now = fx.now.mono_ms;
        self.next_ms = now + CHECK_EVERY_MS;
        self.retain(|place, until| until > now && !logs.is_dropped((place.author, place.incarnation), place.seq));
        let mut has_room = |place: &&Place| {
            let room = rooms.get_mut(&place.author);
            room.is_some_and(|room| std::mem::replace(room, room.saturating_sub(1)) > 0)
        };
        let places = self.waiting.keys().filter(&mut has_room).take(READ_MAX);
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
            uncount(&mut self.of_author, &entry.author);
            Some((entry, until.saturating_sub(now)))
        });
        taken.collect()
    }
}

fn uncount(of_author: &mut BTreeMap<PeerId, usize>, author: &PeerId) {
    if let Some(count) = of_author.get_mut(author) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            of_author.remove(author);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;
    use crate::test_kit::id;

    #[test]
    fn s05_headers_of_one_author_that_wait_keep_out_nobody_elses() {
        let (liar, other) = (id(1), id(2));
        let place = |author: &PeerId, seq| Place { author: *author, incarnation: Incarnation(1), seq };
        let mut deferred = Deferred::default();
        for seq in 1..=20_000 {
            deferred.keep(place(&liar, seq), 60_000, 1_000, 0);
        }
        deferred.keep(place(&other, 1), 60_000, 1_000, 0);
        assert_eq!(deferred.left_ms(&place(&liar, 1_000), 0), Some(60_000));
        assert_eq!(deferred.left_ms(&place(&liar, 1_001), 0), None, "so many of one author");
        assert_eq!(deferred.left_ms(&place(&other, 1), 0), Some(60_000));
        deferred.forget(|author| *author == liar);
        assert_eq!(deferred.origins(), [other], "and of the forgotten none");
    }
}
