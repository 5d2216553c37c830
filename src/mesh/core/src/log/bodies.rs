//! Bodies that are for this peer and are not here: an entry came by way of somebody outside of its audience, or this peer
//! came into the audience later. They are asked of the neighbours, one after the other, until they are here.

use std::collections::{BTreeMap, BTreeSet};

use super::Logs;
use crate::effects::Effects;
use crate::entry::{Kind, Place, SignedEntry};
use crate::frame::{EntryItem, Frame, Places};
use crate::ids::{Incarnation, PeerId};
use crate::io::{LogReader, Output};
use crate::limits;
use crate::protocol_rule::ProtocolRule;
use crate::rows::{self, LackingRow, Row as _};
use crate::trust::Trust;

/// Time that the whole entry has to come by another way, before it is asked for.
const ASK_AFTER_MS: u64 = 200;
/// Time for an answer; then the next neighbour is asked.
const ANSWER_MAX_MS: u64 = 5_000;
/// Between two searches at one neighbour: whoever shows itself all the time is not asked all the time.
const ASK_AGAIN_MS: u64 = 1_000;
/// Between two looks into our own log.
const READ_EVERY_MS: u64 = 20;

type LogId = (PeerId, Incarnation);

/// The neighbour whose answer is awaited.
#[derive(Debug, Clone, Copy)]
struct Asked {
    peer: PeerId,
    /// The first and the last place that it was asked for.
    first: Place,
    last: Place,
    until_ms: u64,
}

/// All bodies that are lacking.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bodies {
    lacking: BTreeMap<Place, LackingRow>,
    /// Parts of logs in which more may be lacking.
    unread: BTreeMap<LogId, (u64, u64)>,
    /// The part that is being read.
    reading: Option<(LogId, (u64, u64))>,
    next_read: u64,
    /// Neighbours that may have some, and when each may be asked.
    to_ask: BTreeMap<PeerId, u64>,
    asked: Option<Asked>,
    /// When each neighbour may be asked again.
    pauses: BTreeMap<PeerId, u64>,
}

impl Bodies {
    /// Takes back a row of [`crate::io::Space::Meta`]. `None`: it is one of ours and damaged.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(place) = rows::lacking_of(key) {
            self.lacking.insert(place?, LackingRow::from_bytes(value)?);
        } else if let Some(log_id) = rows::unread_of(key) {
            let range = <(u64, u64)>::from_bytes(value).filter(|(first, last)| first <= last && *last < u64::MAX)?;
            self.unread.insert(log_id?, range);
        }
        Some(())
    }

    fn is_empty(&self) -> bool {
        self.lacking.is_empty() && self.unread.is_empty()
    }

    fn is_full(&self) -> bool {
        self.lacking.len() >= limits::LACKING_MAX
    }

    /// An entry has come without its body, which is for us.
    fn note(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let place = entry.place();
        if self.is_full() {
            let (first, last) = (place.seq, place.seq);
            self.note_unread((place.author, place.incarnation), first, last, fx);
        } else {
            let row = LackingRow { hash: entry.hash, kind: entry.entry.kind };
            fx.put(rows::lacking(&place), &row);
            self.lacking.insert(place, row);
        }
    }

    fn note_unread(&mut self, log_id: LogId, first: u64, last: u64, fx: &mut Effects<'_>) {
        let range = self.unread.entry(log_id).or_insert((first, last));
        *range = (range.0.min(first), range.1.max(last));
        fx.put(rows::unread(&log_id.0, log_id.1), range);
        // What came in this very step is in its batch, and to be read only once that is given to the store.
        self.next_read = self.next_read.max(fx.now.mono_ms + 1);
    }

    /// True if the body of this very entry was lacking: it is not any more.
    fn take(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        let place = entry.place();
        let lacked = entry.has_body() && self.lacking.get(&place).is_some_and(|row| row.hash == entry.hash);
        if lacked {
            self.lacking.remove(&place);
            fx.delete(rows::lacking(&place));
        }
        lacked
    }

    /// Forgets what is truncated.
    pub(super) fn forget(&mut self, (author, incarnation): LogId, is_gone: impl Fn(u64) -> bool, fx: &mut Effects<'_>) {
        let of = |seq| Place { author, incarnation, seq };
        for (place, _) in self.lacking.extract_if(of(0)..=of(u64::MAX), |place, _| is_gone(place.seq)) {
            fx.delete(rows::lacking(&place));
        }
    }

    /// This neighbour may have some of what is lacking.
    fn consider(&mut self, peer: PeerId, now: u64) {
        if !self.is_empty() {
            let pause = self.pauses.get(&peer).copied().unwrap_or(0);
            self.to_ask.entry(peer).or_insert_with(|| pause.max(now + ASK_AFTER_MS));
        }
    }

    /// The neighbour that is asked next, and when.
    fn next_to_ask(&self) -> Option<(u64, PeerId)> {
        self.to_ask.iter().map(|(peer, at)| (*at, *peer)).min()
    }

    /// A neighbour is gone.
    pub(super) fn handle_link_down(&mut self, peer: &PeerId) {
        self.to_ask.remove(peer);
        self.pauses.remove(peer);
        self.asked.take_if(|asked| asked.peer == *peer);
    }

    /// Asks the next neighbour. True when all have been asked, and something is still lacking.
    fn ask_next(&mut self, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        if !fx.enforces(ProtocolRule::BodiesAsked) {
            self.to_ask.clear();
        }
        let now = fx.now.mono_ms;
        let mut looked = false;
        while let Some((_, peer)) = self.next_to_ask().filter(|(at, _)| *at <= now) {
            self.to_ask.remove(&peer);
            if self.ask(peer, None, trust, fx) {
                self.pauses.insert(peer, now + ASK_AGAIN_MS);
                return false;
            }
            looked = true;
        }
        looked && self.to_ask.is_empty() && !self.lacking.is_empty()
    }

    /// Asks one neighbour for what comes behind a place. False when that is nothing.
    fn ask(&mut self, peer: PeerId, after: Option<Place>, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let admitted = |place: &Place| trust.admits(&place.author, place.incarnation, place.seq);
        let places = self.lacking.keys().filter(|place| after.is_none_or(|after| **place > after));
        let places: Vec<Place> = places.filter(|place| admitted(place)).take(limits::WANTED_MAX).copied().collect();
        let (Some(first), Some(last)) = (places.first().copied(), places.last().copied()) else { return false };
        let mut wanted: Vec<Places> = Vec::new();
        for Place { author, incarnation, seq } in places {
            match wanted.last_mut() {
                Some(run) if (run.author, run.incarnation, run.last + 1) == (author, incarnation, seq) => {
                    run.last = seq;
                }
                Some(_) | None => wanted.push(Places { author, incarnation, first: seq, last: seq }),
            }
        }
        fx.send(peer, Frame::Want(wanted));
        self.asked = Some(Asked { peer, first, last, until_ms: fx.now.mono_ms + ANSWER_MAX_MS });
        true
    }

    /// Does what is due. True when all neighbours have been asked, and something is still lacking.
    pub(super) fn handle_timeout(&mut self, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let now = fx.now.mono_ms;
        if self.reading.is_none()
            && now >= self.next_read
            && !self.is_full()
            && let Some((log_id, range)) = self.unread.first_key_value()
        {
            self.reading = Some((*log_id, *range));
            let ranges = vec![(log_id.0, log_id.1, range.0, range.1)];
            fx.out.push(Output::ReadLog { reader: LogReader::Lacking, ranges });
        }
        self.asked.take_if(|asked| asked.until_ms <= now);
        self.asked.is_none() && self.ask_next(trust, fx)
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let read = (self.reading.is_none() && !self.is_full() && !self.unread.is_empty()).then_some(self.next_read);
        let ask = match &self.asked {
            Some(asked) => Some(asked.until_ms),
            None => self.next_to_ask().map(|(at, _)| at),
        };
        read.into_iter().chain(ask).min()
    }
}

impl Logs {
    /// An entry is in the log without its body, which is for us.
    pub(crate) fn note_lacking(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        self.bodies.note(entry, fx);
        for peer in self.neighbours.keys() {
            self.bodies.consider(*peer, fx.now.mono_ms);
        }
    }

    /// True if this brings the body of an entry that is in the log without it: it is there now, and shown to neighbours
    /// that have asked for it.
    pub(crate) fn take_body(&mut self, item: &EntryItem, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let entry = &item.entry;
        let place = entry.place();
        if !self.bodies.take(entry, fx) {
            return false;
        }
        fx.put(rows::entry(&place.author, place.incarnation, place.seq), entry);
        for (peer, neighbour) in &mut self.neighbours {
            if neighbour.owed.contains(&place) && trust.may_read(entry, peer) {
                neighbour.owed.remove(&place);
                fx.send(*peer, Frame::Entries { entries: vec![item.clone()], more: false });
            }
        }
        true
    }

    /// Our own standing has changed: looks through all logs for bodies that are for us now.
    pub(crate) fn recount_bodies(&mut self, fx: &mut Effects<'_>) {
        if !fx.enforces(ProtocolRule::BodiesRecounted) {
            return;
        }
        for place in std::mem::take(&mut self.bodies.lacking).into_keys() {
            fx.delete(rows::lacking(&place));
        }
        let own = (self.me, self.incarnation);
        let logs = self.heads.iter().filter(|(log_id, head)| **log_id != own && head.seq > 0);
        for (log_id, head) in logs {
            self.bodies.note_unread(*log_id, 1, head.seq, fx);
        }
    }

    /// Our own log answers: what is lacking of this part of it.
    pub(crate) fn handle_lacking_read(
        &mut self,
        entries: &[SignedEntry],
        more: bool,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        let now = fx.now.mono_ms;
        self.bodies.next_read = now + READ_EVERY_MS;
        let Some((log_id, (first, last))) = self.bodies.reading.take() else { return };
        let mut next = if more { first } else { last + 1 };
        for entry in entries {
            if (entry.author, entry.entry.incarnation) != log_id {
                continue;
            }
            if self.bodies.is_full() {
                next = entry.entry.seq;
                break;
            }
            if more {
                next = entry.entry.seq + 1;
            }
            if !entry.has_body() && trust.may_read(entry, &self.me) {
                self.bodies.note(entry, fx);
            }
        }
        // Meanwhile more may have been added at either end.
        if let Some(range) = self.bodies.unread.get_mut(&log_id).filter(|range| range.0 >= first) {
            range.0 = next;
            if range.0 <= range.1 {
                fx.put(rows::unread(&log_id.0, log_id.1), range);
            } else {
                self.bodies.unread.remove(&log_id);
                fx.delete(rows::unread(&log_id.0, log_id.1));
            }
        }
        for peer in self.neighbours.keys() {
            self.bodies.consider(*peer, now);
        }
    }

    /// A neighbour shows itself: it may have what is lacking.
    pub(super) fn consider(&mut self, peer: PeerId, fx: &Effects<'_>) {
        if self.neighbours.contains_key(&peer) {
            self.bodies.consider(peer, fx.now.mono_ms);
        }
    }

    /// A neighbour lacks bodies that are for it: it is answered now or when its pace allows it. More than one frame may ask
    /// for is not answered.
    pub(crate) fn handle_want(&mut self, from: PeerId, wanted: Vec<Places>, trust: &Trust, fx: &mut Effects<'_>) {
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        let count = |run: &Places| run.last.saturating_sub(run.first).saturating_add(1);
        let all = wanted.iter().fold(0_u64, |all, run| all.saturating_add(count(run)));
        if all > limits::WANTED_MAX as u64 {
            return;
        }
        // Whoever asks again before it is answered wants that instead.
        neighbour.wanted = None;
        if neighbour.may_ask(fx.now.mono_ms) {
            self.read_wanted(from, &wanted, trust, fx);
        } else {
            neighbour.wanted = Some(wanted);
        }
    }

    /// Reads what a neighbour wants.
    pub(super) fn read_wanted(&mut self, from: PeerId, wanted: &[Places], trust: &Trust, fx: &mut Effects<'_>) {
        let Some(neighbour) = self.neighbours.get_mut(&from) else { return };
        neighbour.note_read(fx.now.mono_ms);
        let mut ranges = Vec::new();
        for run in wanted {
            let Places { author, incarnation, first, last } = *run;
            let last = trust.standing(&author, incarnation, last);
            if first <= last {
                ranges.push((author, incarnation, first, last));
                if neighbour.owed.len() < limits::OWED_MAX {
                    neighbour.owed.extend((first..=last).map(|seq| Place { author, incarnation, seq }));
                }
            }
        }
        fx.out.push(Output::ReadLog { reader: LogReader::Want(from), ranges });
    }

    /// Our own log answers: what a neighbour gets.
    pub(crate) fn handle_want_read(
        &mut self,
        to: PeerId,
        items: Vec<EntryItem>,
        more: bool,
        trust: &Trust,
        fx: &mut Effects<'_>,
    ) {
        let Some(neighbour) = self.neighbours.get_mut(&to) else { return };
        let until = items.last().filter(|_| more).map(|item| item.entry.place());
        let mut entries = items;
        entries.retain(|item| item.entry.has_body() && trust.may_read(&item.entry, &to));
        for item in &entries {
            neighbour.owed.remove(&item.entry.place());
        }
        fx.send(to, Frame::Bodies { entries, until });
    }

    /// A neighbour has answered: it is asked for the rest.
    pub(crate) fn handle_bodies(&mut self, from: PeerId, until: Option<Place>, trust: &Trust, fx: &mut Effects<'_>) {
        let Some(asked) = self.bodies.asked.take_if(|asked| asked.peer == from) else { return };
        // An answer that looked at nothing is the last one.
        let after = until.filter(|until| (asked.first..=asked.last).contains(until)).unwrap_or(asked.last);
        self.bodies.ask(from, Some(after), trust, fx);
    }

    /// Authors of outcomes whose bodies are for us and lacking.
    pub(crate) fn withheld_outcomes(&self) -> BTreeSet<PeerId> {
        let outcomes = self.bodies.lacking.iter().filter(|(_, row)| row.kind == Kind::OUTCOME);
        outcomes.map(|(place, _)| place.author).collect()
    }

    /// True if there are neighbours, and none of them may read this entry.
    pub(crate) fn nobody_may_read(&self, entry: &SignedEntry, trust: &Trust) -> bool {
        !self.neighbours.is_empty() && !self.neighbours.keys().any(|peer| trust.may_read(entry, peer))
    }
}
