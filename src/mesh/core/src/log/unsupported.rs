//! Entries of kinds that a newer version wrote and this one does not support: kept, relayed, and read after an upgrade.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::entry::{Kind, Place, SignedEntry};
use crate::ids::{Incarnation, PeerId};
use crate::io::{Fact, Halt, LogReader, Output};
use crate::limits;
use crate::rows::{self, Row as _, UnsupportedRow};
use crate::trust::Trust;

/// All of them, by their places.
#[derive(Debug, Clone)]
pub(crate) struct Unsupported {
    newest_kind: u16,
    rows: BTreeMap<Place, UnsupportedRow>,
}

impl Unsupported {
    /// `newest_kind`: number of the newest kind that this version supports.
    pub(crate) fn new(newest_kind: u16) -> Self {
        Self { newest_kind, rows: BTreeMap::new() }
    }

    /// Restores a row of [`crate::io::Space::Meta`]. `None`: it is one of ours and damaged.
    pub(crate) fn restore(&mut self, row_key: &[u8], value: &[u8]) -> Option<()> {
        let Some(place) = rows::unsupported_of(row_key) else { return Some(()) };
        self.rows.insert(place?, UnsupportedRow::from_bytes(value)?);
        Some(())
    }

    pub(crate) fn supports(&self, kind: Kind) -> bool {
        kind.is_known() && kind.0 <= self.newest_kind
    }

    /// True if there is no room for one more entry of this author that is not supported. Its log ends here then, until
    /// an upgrade: what comes later stays with whoever has it.
    pub(crate) fn is_over_limit(&self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        let full = !self.supports(entry.entry.kind) && self.is_full(&entry.author);
        if full {
            fx.fact(Fact::Warning("wrote more entries of unsupported kinds than are kept; its newer entries wait until this device is updated", entry.author));
        }
        full
    }

    fn is_full(&self, author: &PeerId) -> bool {
        let first = Place { author: *author, incarnation: Incarnation(0), seq: 0 };
        let last = Place { author: *author, incarnation: Incarnation(u32::MAX), seq: u64::MAX };
        let of_author = self.rows.range(first..=last);
        let (count, bytes) = of_author.fold((0, 0), |(count, bytes), (_, row)| (count + 1, bytes + row.len));
        count >= limits::UNSUPPORTED_PER_AUTHOR_MAX || bytes >= limits::UNSUPPORTED_BYTES_PER_AUTHOR_MAX
    }

    /// Keeps an entry for a version that supports it. `None`: this one does. Else true if it must not be passed over.
    pub(crate) fn keep(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) -> Option<bool> {
        if self.supports(entry.entry.kind) {
            return None;
        }
        let (kind, critical) = (entry.entry.kind, entry.entry.critical);
        let row = UnsupportedRow { kind, critical, len: entry.len() as u64 };
        fx.put(rows::unsupported(&entry.place()), &row);
        self.rows.insert(entry.place(), row);
        Some(critical)
    }

    /// Entries that this version must not go on without. Only those of an owner halt others.
    pub(crate) fn halts<'a>(&'a self, trust: &'a Trust) -> impl Iterator<Item = Halt> + 'a {
        let counts =
            |place: &Place| trust.is_owner(&place.author) && trust.admits(&place.author, place.incarnation, place.seq);
        let critical = self.rows.iter().filter(move |(place, row)| row.critical && counts(place));
        critical.map(|(place, row)| Halt::Unknown { kind: row.kind.0, author: place.author })
    }

    /// After an upgrade: what is supported now is read from our own log.
    pub(crate) fn read(&self, fx: &mut Effects<'_>) {
        let known = self.rows.iter().filter(|(_, row)| self.supports(row.kind));
        let ranges: Vec<_> = known.map(|(place, _)| (place.author, place.incarnation, place.seq, place.seq)).collect();
        if !ranges.is_empty() {
            fx.out.push(Output::ReadLog { reader: LogReader::Unsupported, ranges });
        }
    }

    /// Our own log answers: the entries to apply now, and true if one of them must not be passed over.
    pub(crate) fn handle_log_read(
        &mut self,
        mut entries: Vec<SignedEntry>,
        more: bool,
        fx: &mut Effects<'_>,
    ) -> (Vec<SignedEntry>, bool) {
        let mut critical = false;
        entries.retain(|entry| {
            let row = self.rows.remove(&entry.place());
            critical |= row.as_ref().is_some_and(|row| row.critical);
            if row.is_some() {
                fx.delete(rows::unsupported(&entry.place()));
            }
            row.is_some()
        });
        if more {
            self.read(fx);
        }
        (entries, critical)
    }

    /// Forgets entries that are truncated. True if one of them was critical.
    pub(super) fn forget(
        &mut self,
        (author, incarnation): (PeerId, Incarnation),
        is_gone: impl Fn(u64) -> bool,
        fx: &mut Effects<'_>,
    ) -> bool {
        let of = |seq| Place { author, incarnation, seq };
        let mut critical = false;
        for (place, row) in self.rows.extract_if(of(0)..=of(u64::MAX), |place, _| is_gone(place.seq)) {
            fx.delete(rows::unsupported(&place));
            critical |= row.critical;
        }
        critical
    }
}
