//! What of a log is gone: runs of entries of which only a stub is left (mesh-protocol.md §5, GC).
//!
//! Only an author says which of its entries nobody needs any more ([`Kind::STUBS`]), so a neighbour can neither hide an
//! entry nor be asked to prove that it hides none. Everyone keeps that word beside the log and shows it, before anything
//! else, to whoever has to step over what is gone.

use std::collections::BTreeMap;

use super::{Head, Logs};
use crate::effects::Effects;
use crate::entry::{SignedEntry, Stub, Stubs};
use crate::frame::{EntryItem, Frame};
use crate::ids::{Hash, Incarnation, PeerId};
use crate::limits;
use crate::rows;

/// Pause between two steps of deleting.
const SWEEP_EVERY_MS: u64 = 20;
/// No log gets that long; places are counted on from any that is accepted.
const SEQ_MAX: u64 = u64::MAX / 2;

type Life = (PeerId, Incarnation);

/// An author's newest word on one of its lives.
#[derive(Debug, Clone)]
struct Word {
    entry: SignedEntry,
    /// In order, apart from each other.
    stubs: Vec<Stub>,
}

impl Word {
    /// `None`: the entry does not say anything that could be true.
    fn read(entry: &SignedEntry) -> Option<Self> {
        let body: Stubs = entry.record()?;
        let mut next = 1;
        for stub in &body.stubs {
            if stub.first < next || stub.last < stub.first || stub.last >= SEQ_MAX {
                return None;
            }
            next = stub.last + 2;
        }
        // What says it is not gone itself.
        let sound =
            body.stubs.len() <= limits::STUBS_MAX && body.stubs.last().is_some_and(|stub| stub.last < entry.entry.seq);
        sound.then(|| Self { entry: entry.clone(), stubs: body.stubs })
    }

    fn covers(&self, first: u64, last: u64) -> bool {
        self.stubs.iter().any(|stub| stub.first <= first && last <= stub.last)
    }

    fn end(&self) -> u64 {
        self.stubs.last().map_or(0, |stub| stub.last)
    }
}

/// What is gone of all logs.
#[derive(Debug, Clone, Default)]
pub(super) struct Dropped {
    words: BTreeMap<Life, Word>,
    /// Places whose rows are still to be deleted, from the first run on.
    sweep: BTreeMap<Life, Vec<(u64, u64)>>,
    next_sweep: u64,
}

impl Dropped {
    pub(super) fn restore(&mut self, key: &[u8], value: &[u8]) {
        if rows::is_truncation(key)
            && let Some(entry) = SignedEntry::from_stored(value)
            && let Some(word) = Word::read(&entry)
        {
            self.words.insert((entry.author, entry.entry.incarnation), word);
        } else if let Some(life) = rows::sweep_of(key)
            && let Some(places) = crate::entry::decode(value)
        {
            self.sweep.insert(life, places);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        (!self.sweep.is_empty()).then_some(self.next_sweep)
    }
}

/// What of these runs is in none of the others; all are in order and apart from each other.
fn without(runs: impl Iterator<Item = (u64, u64)>, others: &[Stub]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for (mut first, last) in runs {
        for other in others.iter().filter(|other| other.first <= last) {
            if other.last < first {
                continue;
            }
            if other.first > first {
                left.push((first, other.first - 1));
            }
            first = other.last + 1;
        }
        if first <= last {
            left.push((first, last));
        }
    }
    left
}

/// Stubs that stand for these dead entries too, which come in order. What would make too many runs stays as it is.
pub(crate) fn with_stubs(stubs: &[Stub], dead: impl IntoIterator<Item = Stub>) -> Vec<Stub> {
    let mut runs: BTreeMap<u64, Stub> = stubs.iter().map(|stub| (stub.first, *stub)).collect();
    for one in dead {
        let before = runs.range(..=one.first).next_back().map(|(_, stub)| *stub);
        if before.is_some_and(|before| one.last <= before.last) {
            continue;
        }
        let before = before.filter(|before| before.last + 1 == one.first);
        let after = runs.get(&(one.last + 1)).copied();
        if before.is_none() && after.is_none() && runs.len() >= limits::STUBS_MAX {
            continue;
        }
        let end = after.unwrap_or(one);
        runs.remove(&end.first);
        let first = before.map_or(one.first, |before| before.first);
        runs.insert(first, Stub { first, ..end });
    }
    runs.into_values().collect()
}

impl Logs {
    /// Whether this entry is gone, by its author's word.
    pub(crate) fn is_dropped(&self, life: (PeerId, Incarnation), seq: u64) -> bool {
        self.dropped.words.get(&life).is_some_and(|word| word.covers(seq, seq))
    }

    /// What is gone of a life.
    pub(crate) fn stubs(&self, life: (PeerId, Incarnation)) -> &[Stub] {
        self.dropped.words.get(&life).map_or(&[], |word| &word.stubs)
    }

    /// Whether this is the word that counts for its life.
    pub(crate) fn is_last_word(&self, entry: &SignedEntry) -> bool {
        let word = self.dropped.words.get(&(entry.author, entry.entry.incarnation));
        word.is_some_and(|word| word.entry.hash == entry.hash)
    }

    /// Whether some entries before this one are missing here, so that it does not come in its place.
    pub(crate) fn is_ahead(&self, entry: &SignedEntry) -> bool {
        let head = self.heads.get(&(entry.author, entry.entry.incarnation));
        entry.entry.seq > head.map_or(0, |head| head.seq) + 1
    }

    /// Takes an author's word on what nobody needs of its log any more. True when it was news.
    pub(crate) fn take_stubs(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) -> bool {
        let Some(word) = Word::read(entry) else { return false };
        let life = (entry.author, entry.entry.incarnation);
        let known = self.dropped.words.get(&life);
        let lives = self.dropped.words.keys().filter(|(author, _)| *author == life.0).count();
        if known.is_none() && lives >= limits::LIVES_MAX {
            return false;
        }
        // What was gone stays gone: the rows have been deleted, and only that word explains it.
        let says_all = known.is_none_or(|known| {
            known.stubs != word.stubs && known.stubs.iter().all(|stub| word.covers(stub.first, stub.last))
        });
        if !says_all {
            return false;
        }
        let held = self.heads.get(&life).map_or(0, |head| head.seq);
        let runs =
            word.stubs.iter().map(|stub| (stub.first, stub.last.min(held))).filter(|(first, last)| first <= last);
        let gone = without(runs, known.map_or(&[], |known| &known.stubs));
        fx.put(rows::truncation(&life.0, life.1), entry);
        if !gone.is_empty() {
            let sweep = self.dropped.sweep.entry(life).or_default();
            sweep.extend(gone);
            fx.put(rows::sweep(&life.0, life.1), sweep);
        }
        self.dropped.words.insert(life, word);
        if !self.is_own(&life.0, life.1) {
            self.pass_stubs(life, fx);
        }
        true
    }

    /// What comes next in a log may be gone: then it goes on behind that.
    pub(super) fn pass_stubs(&mut self, life: (PeerId, Incarnation), fx: &mut Effects<'_>) {
        let Some(word) = self.dropped.words.get(&life) else { return };
        let before = self.heads.get(&life).copied();
        let mut head = before.unwrap_or(Head { seq: 0, hash: Hash::ZERO, hlc: 0 });
        for stub in word.stubs.iter().filter(|stub| stub.last > head.seq).copied().collect::<Vec<_>>() {
            if stub.first <= head.seq + 1 {
                head = Head { seq: stub.last, hash: stub.hash, hlc: stub.hlc.max(head.hlc) };
            }
        }
        let room = before.is_some() || self.lives(&life.0).count() < limits::LIVES_MAX;
        if head.seq > before.map_or(0, |head| head.seq) && room {
            self.heads.insert(life, head);
            fx.put(rows::head(&life.0, life.1), &head);
        }
    }

    /// Before a neighbour gets these ranges: the words of their authors that it needs to step over what is gone.
    pub(super) fn show_stubs(&self, to: PeerId, ranges: &[(PeerId, Incarnation, u64, u64)], fx: &mut Effects<'_>) {
        for (author, incarnation, first, _) in ranges {
            if let Some(word) = self.dropped.words.get(&(*author, *incarnation))
                && word.end() >= *first
                && self.may_show(&word.entry)
            {
                let item = EntryItem { entry: word.entry.clone(), left_ms: None };
                fx.send(to, Frame::Entries { entries: vec![item], more: false });
            }
        }
    }

    /// Deletes some rows of what is gone. The word that explains it is in an earlier batch, or in this one.
    pub(super) fn sweep(&mut self, fx: &mut Effects<'_>) {
        let Some((life, mut places)) = self.dropped.sweep.first_key_value().map(|(life, p)| (*life, p.clone())) else {
            return;
        };
        if fx.now.mono_ms < self.dropped.next_sweep {
            return;
        }
        self.dropped.next_sweep = fx.now.mono_ms + SWEEP_EVERY_MS;
        let mut room = limits::SWEEP_ROWS_MAX as u64;
        while room > 0
            && let Some((first, last)) = places.pop()
        {
            let until = last.min(first + room - 1);
            for seq in first..=until {
                fx.delete(rows::entry(&life.0, life.1, seq));
            }
            room -= until - first + 1;
            if until < last {
                places.push((until + 1, last));
            }
        }
        if places.is_empty() {
            self.dropped.sweep.remove(&life);
            fx.delete(rows::sweep(&life.0, life.1));
        } else {
            fx.put(rows::sweep(&life.0, life.1), &places);
            self.dropped.sweep.insert(life, places);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn stub(seq: u64) -> Stub {
        Stub { first: seq, last: seq, hash: Hash::of(&seq.to_be_bytes()), hlc: seq }
    }

    fn places(stubs: &[Stub]) -> BTreeSet<u64> {
        stubs.iter().flat_map(|stub| stub.first..=stub.last).collect()
    }

    proptest! {
        #[test]
        fn runs_are_what_was_put_in(first in proptest::collection::btree_set(1..200_u64, 0..150),
                                    then in proptest::collection::btree_set(1..200_u64, 0..150)) {
            let before = with_stubs(&[], first.iter().copied().map(stub));
            let after = with_stubs(&before, then.iter().copied().map(stub));
            prop_assert_eq!(places(&before), first.clone());
            prop_assert_eq!(places(&after), first.union(&then).copied().collect::<BTreeSet<_>>());
            prop_assert!(after.windows(2).all(|two| two[0].last + 1 < two[1].first), "apart");
            prop_assert!(after.iter().all(|run| run.hash == stub(run.last).hash && run.hlc == run.last));
            let fresh = without(after.iter().map(|run| (run.first, run.last)), &before);
            let fresh: BTreeSet<u64> = fresh.into_iter().flat_map(|(first, last)| first..=last).collect();
            prop_assert_eq!(fresh, then.difference(&first).copied().collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn what_makes_too_many_runs_stays() {
        let most = with_stubs(&[], (1..=limits::STUBS_MAX as u64).map(|n| stub(3 * n)));
        assert_eq!(most.len(), limits::STUBS_MAX);
        let more = with_stubs(&most, [stub(1), stub(4), stub(5), stub(10_000)]);
        assert_eq!(more.len(), limits::STUBS_MAX);
        let grown = places(&more);
        assert!(
            places(&most).is_subset(&grown) && grown.contains(&5) && grown.contains(&10_000) && !grown.contains(&1)
        );
    }
}
