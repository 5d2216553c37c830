//! Entries that a newer version wrote and this one does not understand: kept, relayed, and read after an upgrade.

use std::collections::BTreeMap;

use super::Peer;
use crate::effects::Effects;
use crate::entry::{Kind, Place, SignedEntry};
use crate::ids::{Incarnation, PeerId};
use crate::io::{Fact, Hold, LogReader, Output};
use crate::limits;
use crate::rows::{self, Row as _, UnsupportedRow};

/// All of them.
#[derive(Debug, Default, Clone)]
pub(super) struct Unsupported(BTreeMap<Place, UnsupportedRow>);

impl Unsupported {
    /// Takes back a row of [`crate::io::Space::Meta`]. `None`: it is one of ours and damaged.
    pub(super) fn restore(&mut self, row_key: &[u8], value: &[u8]) -> Option<()> {
        let Some(place) = rows::unsupported_of(row_key) else { return Some(()) };
        self.0.insert(place?, UnsupportedRow::from_bytes(value)?);
        Some(())
    }

    fn of(&self, author: &PeerId) -> impl Iterator<Item = &UnsupportedRow> {
        let first = Place { author: *author, incarnation: Incarnation(0), seq: 0 };
        let last = Place { author: *author, incarnation: Incarnation(u32::MAX), seq: u64::MAX };
        self.0.range(first..=last).map(|(_, row)| row)
    }

    fn is_full(&self, author: &PeerId) -> bool {
        let (count, bytes) = self.of(author).fold((0, 0), |(count, bytes), row| (count + 1, bytes + row.len));
        count >= limits::UNSUPPORTED_PER_AUTHOR_MAX || bytes >= limits::UNSUPPORTED_BYTES_PER_AUTHOR_MAX
    }
}

impl Peer {
    pub(super) fn understands(&self, kind: Kind) -> bool {
        kind.is_known() && kind.0 <= self.config.newest_kind
    }

    /// Whether there is no room for one more entry of this author that we do not understand. Its log ends here then, until
    /// an upgrade: what comes later stays with whoever has it.
    pub(super) fn is_unsupported_over_limit(&self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        let full = !self.understands(entry.entry.kind) && self.unsupported.is_full(&entry.author);
        if full {
            fx.fact(Fact::Warning("says more than this version understands; its newer entries wait", entry.author));
        }
        full
    }

    /// Keeps an entry for a version that understands it. False: this one does.
    pub(super) fn keep_unsupported(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        if self.understands(entry.entry.kind) {
            return false;
        }
        let (kind, critical) = (entry.entry.kind, entry.entry.critical);
        let row = UnsupportedRow { kind, critical, len: entry.bytes.len() as u64 };
        fx.put(rows::unsupported(&entry.place()), &row);
        self.unsupported.0.insert(entry.place(), row);
        if critical {
            self.handle_holds(fx);
        }
        true
    }

    /// The newest version's words that this one must not go on without. Only an owner may hold others up.
    pub(super) fn unsupported_critical(&self) -> impl Iterator<Item = Hold> {
        let counts = |place: &Place| {
            self.trust.is_owner(&place.author) && self.trust.admits(&place.author, place.incarnation, place.seq)
        };
        let critical = self.unsupported.0.iter().filter(move |(place, row)| row.critical && counts(place));
        critical.map(|(place, row)| Hold::Unknown { kind: row.kind.0, author: place.author })
    }

    /// After an upgrade: what we understand now is read from our own log.
    pub(super) fn read_unsupported(&self, fx: &mut Effects<'_>) {
        let known = self.unsupported.0.iter().filter(|(_, row)| self.understands(row.kind));
        let ranges: Vec<_> = known.map(|(place, _)| (place.author, place.incarnation, place.seq, place.seq)).collect();
        if !ranges.is_empty() {
            fx.out.push(Output::ReadLog { reader: LogReader::Unsupported, ranges });
        }
    }

    /// What is gone by its author's word will never be read.
    pub(super) fn forget_unsupported(&mut self, (author, incarnation): (PeerId, Incarnation), fx: &mut Effects<'_>) {
        let (unsupported, logs) = (&mut self.unsupported.0, &self.logs);
        let of = |seq| Place { author, incarnation, seq };
        let gone: Vec<Place> = unsupported
            .range(of(0)..=of(u64::MAX))
            .map(|(place, _)| *place)
            .filter(|place| logs.is_dropped((author, incarnation), place.seq))
            .collect();
        let mut critical = false;
        for place in &gone {
            critical |= unsupported.remove(place).is_some_and(|row| row.critical);
            fx.delete(rows::unsupported(place));
        }
        if critical {
            self.handle_holds(fx);
        }
    }

    /// Our own log answers.
    pub(super) fn handle_unsupported(&mut self, entries: Vec<SignedEntry>, more: bool, fx: &mut Effects<'_>) {
        let mut critical = false;
        for entry in entries {
            let place = entry.place();
            let Some(row) = self.unsupported.0.remove(&place) else { continue };
            critical |= row.critical;
            fx.delete(rows::unsupported(&place));
            if self.trust.admits(&place.author, place.incarnation, place.seq) {
                let item = self.item(entry, fx.now.mono_ms);
                self.apply(&item.entry, item.left_ms, fx);
            }
        }
        if more {
            self.read_unsupported(fx);
        }
        if critical {
            self.handle_holds(fx);
        }
    }
}
