//! Bodies that are for this peer and are not here: an entry came by way of somebody outside of its audience, or this peer
//! came into the audience later. They are asked of the neighbours, one after the other, until they are here. Places for
//! what is lacking are few; what all neighbours were asked for in vain gives its place to what was not asked for yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

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

/// Places of one author that are asked for before it is the next one's turn.
const TURN: usize = 32;

/// Standing of an author, by which its bodies have places among those that are known one by one; in the order in which
/// they are asked for. No author takes a place from one who stands otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// An owner, or ourselves.
    Owner,
    Guest,
    /// A peer that does not belong any more: its entries may count still.
    #[default]
    Excluded,
}

impl Standing {
    const ALL: [Self; 3] = [Self::Owner, Self::Guest, Self::Excluded];

    fn of(author: &PeerId, me: &PeerId, trust: &Trust) -> Self {
        if author == me || trust.is_owner(author) {
            Self::Owner
        } else if trust.member(author).is_some() {
            Self::Guest
        } else {
            Self::Excluded
        }
    }

    /// Places of one such author, and of all together.
    const fn places(self) -> (usize, usize) {
        match self {
            Self::Owner => (limits::LACKING_PER_OWNER_MAX, limits::LACKING_MAX),
            Self::Guest => (limits::LACKING_PER_GUEST_MAX, limits::LACKING_OF_GUESTS_MAX),
            Self::Excluded => (limits::LACKING_PER_EXCLUDED_MAX, limits::LACKING_OF_EXCLUDED_MAX),
        }
    }
}

/// Places that one author has.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    standing: Standing,
    taken: usize,
}

/// Parts of a log in which more may be lacking than there is room for.
#[derive(Debug, Clone, Copy)]
struct Unread {
    /// First and last place of the part that is looked through next.
    ahead: (u64, u64),
    /// The part that all neighbours were asked for in vain: its turn comes again after that.
    again: Option<(u64, u64)>,
}

impl Unread {
    const fn of(ahead: (u64, u64)) -> Self {
        Self { ahead, again: None }
    }

    /// All of it, as the store keeps it.
    fn all(&self) -> (u64, u64) {
        self.again.map_or(self.ahead, |again| joined(again, self.ahead))
    }

    /// The part ahead has been looked through up to `next`. `None`: nothing is left.
    fn read_to(self, next: u64) -> Option<Self> {
        let ahead = (next, self.ahead.1);
        if ahead.0 <= ahead.1 { Some(Self { ahead, ..self }) } else { self.again.map(Self::of) }
    }
}

/// The least range that holds both.
fn joined(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0.min(other.0), one.1.max(other.1))
}

/// The neighbour whose answer is awaited.
#[derive(Debug, Clone)]
struct Asked {
    peer: PeerId,
    /// The places that it was asked for, in order.
    places: Vec<Place>,
    until_ms: u64,
}

/// All bodies that are lacking.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bodies {
    lacking: BTreeMap<Place, LackingRow>,
    /// Of authors with anything lacking or unread.
    shares: BTreeMap<PeerId, Share>,
    /// Places that are taken in all.
    taken: BTreeMap<Standing, usize>,
    unread: BTreeMap<(Standing, LogId), Unread>,
    /// The part that is being read.
    reading: Option<(LogId, (u64, u64))>,
    /// Bodies of the log that is being read which came meanwhile: the answer may show it as it was before.
    came: BTreeSet<u64>,
    /// The log that was read last: the next one is another, if there is one.
    read_last: Option<(Standing, LogId)>,
    next_read: u64,
    /// Neighbours that may have some, and when each may be asked.
    to_ask: BTreeMap<PeerId, u64>,
    asked: Option<Asked>,
    /// Neighbours that were asked since places were given away last.
    tried: BTreeSet<PeerId>,
    /// Ranges that that neighbour is to be asked for then.
    queue: VecDeque<Place>,
    /// When each neighbour may be asked again.
    pauses: BTreeMap<PeerId, u64>,
}

impl Bodies {
    /// Takes back a row of [`crate::io::Space::Meta`]. `None`: it is one of ours and damaged. Whose it is, and if it may
    /// stay, [`Self::settle`] says.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(place) = rows::lacking_of(key) {
            self.lacking.insert(place?, LackingRow::from_bytes(value)?);
        } else if let Some(log_id) = rows::unread_of(key) {
            let range = <(u64, u64)>::from_bytes(value).filter(|(first, last)| first <= last && *last < u64::MAX)?;
            self.unread.insert((Standing::default(), log_id?), Unread::of(range));
        }
        Some(())
    }

    fn is_empty(&self) -> bool {
        self.lacking.is_empty() && self.unread.is_empty()
    }

    /// Membership has changed, or all of it was taken back: everyone has the places of its standing. What is beyond is
    /// looked for in the log when there is room.
    pub(super) fn settle(&mut self, me: &PeerId, trust: &Trust, fx: &mut Effects<'_>) {
        self.shares.clear();
        self.taken.clear();
        for ((_, log_id), unread) in std::mem::take(&mut self.unread) {
            let standing = Standing::of(&log_id.0, me, trust);
            self.shares.insert(log_id.0, Share { standing, taken: 0 });
            let merged = self.unread.entry((standing, log_id)).or_insert(unread);
            merged.ahead = joined(merged.ahead, unread.ahead);
        }
        for (place, row) in std::mem::take(&mut self.lacking) {
            let standing = Standing::of(&place.author, me, trust);
            if self.has_room(&place.author, standing) {
                self.keep(place, row, standing);
            } else {
                fx.delete(rows::lacking(&place));
                self.note_unread((place.author, place.incarnation), standing, (place.seq, place.seq), fx);
            }
        }
    }

    fn taken(&self, standing: Standing) -> usize {
        self.taken.get(&standing).copied().unwrap_or(0)
    }

    fn has_room(&self, author: &PeerId, standing: Standing) -> bool {
        let (each, all) = standing.places();
        self.taken(standing) < all && self.shares.get(author).is_none_or(|share| share.taken < each)
    }

    fn keep(&mut self, place: Place, row: LackingRow, standing: Standing) {
        self.lacking.insert(place, row);
        let share = self.shares.entry(place.author).or_default();
        *share = Share { standing, taken: share.taken + 1 };
        *self.taken.entry(standing).or_default() += 1;
    }

    /// A place is free.
    fn free(&mut self, author: &PeerId) {
        let Some(share) = self.shares.get_mut(author) else { return };
        share.taken = share.taken.saturating_sub(1);
        let taken = self.taken.entry(share.standing).or_default();
        *taken = taken.saturating_sub(1);
    }

    fn standing(&self, author: &PeerId) -> Standing {
        self.shares.get(author).map_or(Standing::default(), |share| share.standing)
    }

    /// An entry has come without its body, which is for us.
    fn note(&mut self, entry: &SignedEntry, standing: Standing, fx: &mut Effects<'_>) {
        let place = entry.place();
        if self.lacking.contains_key(&place) {
            return; // a part that is read again
        }
        if self.has_room(&place.author, standing) {
            let row = LackingRow { hash: entry.hash, kind: entry.entry.kind };
            fx.put(rows::lacking(&place), &row);
            self.keep(place, row, standing);
        } else {
            self.note_unread((place.author, place.incarnation), standing, (place.seq, place.seq), fx);
        }
    }

    fn note_unread(&mut self, log_id: LogId, standing: Standing, (first, last): (u64, u64), fx: &mut Effects<'_>) {
        self.shares.entry(log_id.0).or_default().standing = standing;
        let unread = self.unread.entry((standing, log_id)).or_insert(Unread::of((first, last)));
        unread.ahead = joined(unread.ahead, (first, last));
        fx.put(rows::unread(&log_id.0, log_id.1), &unread.all());
        // What came in this very step is in its batch, and to be read only once that is given to the store.
        self.next_read = self.next_read.max(fx.now.mono_ms + 1);
    }

    /// The part of a log that is looked through next: of an author that has room for what is lacking there. Logs whose
    /// authors stand alike take turns.
    fn next_unread(&self) -> Option<(LogId, (u64, u64))> {
        let lowest = (PeerId([0; 32]), Incarnation(0));
        let highest = (PeerId([u8::MAX; 32]), Incarnation(u32::MAX));
        Standing::ALL.into_iter().filter(|standing| self.taken(*standing) < standing.places().1).find_map(|standing| {
            let last = self.read_last.filter(|last| last.0 == standing).unwrap_or((standing, highest));
            let later = self.unread.range((Bound::Excluded(last), Bound::Included((standing, highest))));
            let earlier = self.unread.range((standing, lowest)..=last);
            let next = later.chain(earlier).find(|((_, log_id), _)| self.has_room(&log_id.0, standing))?;
            Some((next.0.1, next.1.ahead))
        })
    }

    /// All neighbours have been asked for what is lacking: where there is more than there is room for, what nobody gave
    /// makes room for it, and is looked for again after it. Else what nobody has would hide for ever what somebody has.
    fn end_round<'a>(&mut self, mut neighbours: impl Iterator<Item = &'a PeerId>, fx: &mut Effects<'_>) {
        if self.asked.is_some() || self.tried.is_empty() || !neighbours.all(|peer| self.tried.contains(peer)) {
            return;
        }
        self.tried.clear();
        let mut crowded = BTreeSet::new();
        for (standing, log_id) in self.unread.keys() {
            if self.taken(*standing) >= standing.places().1 {
                crowded
                    .extend(self.shares.iter().filter(|(_, share)| share.standing == *standing).map(|(peer, _)| *peer));
            } else if !self.has_room(&log_id.0, *standing) {
                crowded.insert(log_id.0);
            }
        }
        let given = self.lacking.extract_if(.., |place, _| crowded.contains(&place.author));
        for place in given.map(|(place, _)| place).collect::<Vec<_>>() {
            self.free(&place.author);
            fx.delete(rows::lacking(&place));
            let (log_id, part) = ((place.author, place.incarnation), (place.seq, place.seq));
            let key = (self.standing(&place.author), log_id);
            let unread = match self.unread.get(&key).copied() {
                Some(unread) => {
                    Unread { again: Some(unread.again.map_or(part, |again| joined(again, part))), ..unread }
                }
                None => Unread::of(part),
            };
            fx.put(rows::unread(&log_id.0, log_id.1), &unread.all());
            self.unread.insert(key, unread);
        }
        self.next_read = self.next_read.max(fx.now.mono_ms + 1);
    }

    /// True if the body of this very entry was lacking: it is not any more.
    fn take(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        let place = entry.place();
        let lacked = entry.has_body() && self.lacking.get(&place).is_some_and(|row| row.hash == entry.hash);
        if lacked {
            self.lacking.remove(&place);
            self.free(&place.author);
            fx.delete(rows::lacking(&place));
            if self.reading.is_some_and(|(log_id, _)| log_id == (place.author, place.incarnation)) {
                self.came.insert(place.seq);
            }
            // It is in the batch of this step, and to be seen only once that is given to the store.
            self.next_read = self.next_read.max(fx.now.mono_ms + 1);
        }
        lacked
    }

    /// Forgets what is truncated.
    pub(super) fn forget(&mut self, (author, incarnation): LogId, is_gone: impl Fn(u64) -> bool, fx: &mut Effects<'_>) {
        let of = |seq| Place { author, incarnation, seq };
        let gone: Vec<Place> = self
            .lacking
            .extract_if(of(0)..=of(u64::MAX), |place, _| is_gone(place.seq))
            .map(|(place, _)| place)
            .collect();
        for place in gone {
            self.free(&place.author);
            fx.delete(rows::lacking(&place));
        }
    }

    /// This neighbour may have some of what is lacking.
    pub(super) fn consider(&mut self, peer: PeerId, now: u64) {
        if !self.is_empty() {
            let pause = self.pauses.get(&peer).copied().unwrap_or(0);
            self.to_ask.entry(peer).or_insert_with(|| pause.max(now + ASK_AFTER_MS));
        }
    }

    /// The neighbour that is asked next, and when.
    fn next_to_ask(&self) -> Option<(u64, PeerId)> {
        self.to_ask.iter().map(|(peer, at)| (*at, *peer)).min()
    }

    /// A link is gone, with what was on its way.
    pub(super) fn handle_link_gone(&mut self, peer: &PeerId) {
        self.to_ask.remove(peer);
        self.pauses.remove(peer);
        self.tried.remove(peer);
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
            self.tried.insert(peer);
            self.queue = self.in_turn(trust);
            if self.ask(peer, fx) {
                self.pauses.insert(peer, now + ASK_AGAIN_MS);
                return false;
            }
            looked = true;
        }
        looked && self.to_ask.is_empty() && !self.lacking.is_empty()
    }

    /// All that is lacking, in the order in which it is asked for: by the standing of its authors, and of these some of
    /// each before more of one.
    fn in_turn(&self, trust: &Trust) -> VecDeque<Place> {
        let mut of_author = (None, 0);
        let mut places = Vec::new();
        for place in self.lacking.keys() {
            let same = of_author.0 == Some(place.author);
            of_author = (Some(place.author), if same { of_author.1 + 1 } else { 0 });
            if trust.admits(&place.author, place.incarnation, place.seq) {
                places.push((self.standing(&place.author), of_author.1 / TURN, *place));
            }
        }
        places.sort_unstable();
        places.into_iter().map(|(_, _, place)| place).collect()
    }

    /// Asks one neighbour for what is next. False when that is nothing.
    fn ask(&mut self, peer: PeerId, fx: &mut Effects<'_>) -> bool {
        let mut places = Vec::new();
        while places.len() < limits::WANTED_MAX
            && let Some(place) = self.queue.pop_front()
        {
            if self.lacking.contains_key(&place) {
                places.push(place);
            }
        }
        if places.is_empty() {
            return false;
        }
        places.sort_unstable();
        let mut wanted: Vec<Places> = Vec::new();
        for Place { author, incarnation, seq } in places.iter().copied() {
            match wanted.last_mut() {
                Some(run) if (run.author, run.incarnation, run.last + 1) == (author, incarnation, seq) => {
                    run.last = seq;
                }
                Some(_) | None => wanted.push(Places { author, incarnation, first: seq, last: seq }),
            }
        }
        fx.send(peer, Frame::Want(wanted));
        self.asked = Some(Asked { peer, places, until_ms: fx.now.mono_ms + ANSWER_MAX_MS });
        true
    }

    /// Does what is due. True when all neighbours have been asked, and something is still lacking.
    fn handle_timeout(&mut self, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let now = fx.now.mono_ms;
        if self.reading.is_none()
            && now >= self.next_read
            && let Some((log_id, range)) = self.next_unread()
        {
            self.reading = Some((log_id, range));
            self.read_last = Some((self.standing(&log_id.0), log_id));
            let ranges = vec![(log_id.0, log_id.1, range.0, range.1)];
            fx.out.push(Output::ReadLog { reader: LogReader::Lacking, ranges });
        }
        self.asked.take_if(|asked| asked.until_ms <= now);
        self.asked.is_none() && self.ask_next(trust, fx)
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let read = (self.reading.is_none() && self.next_unread().is_some()).then_some(self.next_read);
        let ask = match &self.asked {
            Some(asked) => Some(asked.until_ms),
            None => self.next_to_ask().map(|(at, _)| at),
        };
        read.into_iter().chain(ask).min()
    }
}

impl Logs {
    /// An entry is in the log without its body, which is for us.
    pub(crate) fn note_lacking(&mut self, entry: &SignedEntry, trust: &Trust, fx: &mut Effects<'_>) {
        self.bodies.note(entry, Standing::of(&entry.author, &self.me, trust), fx);
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
    pub(crate) fn recount_bodies(&mut self, trust: &Trust, fx: &mut Effects<'_>) {
        if !fx.enforces(ProtocolRule::BodiesRecounted) {
            return;
        }
        for place in std::mem::take(&mut self.bodies.lacking).into_keys() {
            self.bodies.free(&place.author);
            fx.delete(rows::lacking(&place));
        }
        let own = (self.me, self.incarnation);
        let logs = self.heads.iter().filter(|(log_id, head)| **log_id != own && head.seq > 0);
        for (log_id, head) in logs {
            let standing = Standing::of(&log_id.0, &self.me, trust);
            self.bodies.note_unread(*log_id, standing, (1, head.seq), fx);
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
        let came = std::mem::take(&mut self.bodies.came);
        let standing = Standing::of(&log_id.0, &self.me, trust);
        let mut next = if more { first } else { last + 1 };
        for entry in entries {
            if (entry.author, entry.entry.incarnation) != log_id {
                continue;
            }
            if !self.bodies.has_room(&log_id.0, standing) {
                next = entry.entry.seq;
                break;
            }
            if more {
                next = entry.entry.seq + 1;
            }
            if !entry.has_body() && !came.contains(&entry.entry.seq) && trust.may_read(entry, &self.me) {
                self.bodies.note(entry, standing, fx);
            }
        }
        // Meanwhile more may have been added at either end.
        let key = (standing, log_id);
        if let Some(unread) = self.bodies.unread.remove(&key) {
            let left = if unread.ahead.0 >= first { unread.read_to(next) } else { Some(unread) };
            if let Some(unread) = left {
                fx.put(rows::unread(&log_id.0, log_id.1), &unread.all());
                self.bodies.unread.insert(key, unread);
            } else {
                fx.delete(rows::unread(&log_id.0, log_id.1));
            }
        }
        for peer in self.neighbours.keys() {
            self.bodies.consider(*peer, now);
        }
    }

    /// Does what is due about bodies that are lacking. True when all neighbours have been asked, and something is still
    /// lacking.
    pub(super) fn handle_bodies_timeout(&mut self, trust: &Trust, fx: &mut Effects<'_>) -> bool {
        let lacking = self.bodies.handle_timeout(trust, fx);
        self.bodies.end_round(self.neighbours.keys(), fx);
        lacking
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
    pub(crate) fn handle_bodies(&mut self, from: PeerId, until: Option<Place>, fx: &mut Effects<'_>) {
        let Some(asked) = self.bodies.asked.take_if(|asked| asked.peer == from) else { return };
        // Of an answer that looked at nothing, nothing more of this comes.
        let first = asked.places.first();
        if let Some(until) = until.filter(|until| first.is_some_and(|first| first <= until)) {
            for place in asked.places.into_iter().filter(|place| *place > until).rev() {
                self.bodies.queue.push_front(place);
            }
        }
        if !self.bodies.ask(from, fx) {
            self.bodies.end_round(self.neighbours.keys(), fx);
        }
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
