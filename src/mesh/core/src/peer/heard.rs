//! What a peer had told of its calls before those who heard it knew that it was out. Its entries beyond the mark are void
//! and reach nobody any more, so that the books of the two halves would differ for ever: one of those who heard it says
//! it again, in its own name and unconfirmed.

use std::collections::{BTreeMap, BTreeSet};

use super::Peer;
use crate::effects::Effects;
use crate::entry::{self, Kind, Outcome, SignedEntry};
use crate::ids::{Attempt, Incarnation, PeerId, ReqId};
use crate::io::{Output, Space};
use crate::limits;
use crate::log;
use crate::mutants::Mutant;

/// Rows of [`Space::Meta`] under this name, a call and an attempt: it was said again.
const KEY_HEARD: &[u8] = b"heard:";

/// Why we speak for the target.
const GONE: &str = "said by the node before it was known here that it does not belong to the mesh any more";
const FORKED: &str = "said by the node, which contradicts its own log";

/// How it stands with what others had told us.
#[derive(Debug, Default, Clone)]
pub(super) struct Heard {
    /// Void places that our own log is asked for since our start: from where on, and how far it has answered.
    read: BTreeMap<(PeerId, Incarnation), (u64, u64)>,
    /// What we have said again.
    said: BTreeSet<(ReqId, Attempt)>,
    /// Of calls that are not ours: said again if their origin says otherwise.
    words: BTreeMap<ReqId, Outcome>,
}

impl Heard {
    /// Takes back a row of [`Space::Meta`]. `None`: it is one of ours and damaged.
    pub(super) fn restore(&mut self, row_key: &[u8], value: &[u8]) -> Option<()> {
        if row_key.starts_with(KEY_HEARD) {
            self.said.insert(entry::decode(value)?);
        }
        Some(())
    }
}

impl Peer {
    /// Reads what we hold of those who are out and what is void of it: after a verdict, at the start, and when our log has
    /// answered in part (`on`).
    pub(super) fn read_void(&mut self, on: bool, fx: &mut Effects<'_>) {
        if self.is_out() || fx.without(Mutant::SaidAgain) {
            return;
        }
        let mut ranges = Vec::new();
        for (author, _) in self.trust.out() {
            for (life, held) in self.logs.lives(&author) {
                let from = self.trust.standing(&author, life, held) + 1;
                let next = match self.heard.read.get(&(author, life)) {
                    Some((first, _)) if *first <= from && !on => continue,
                    Some((first, last)) if *first <= from => last + 1,
                    Some(_) | None => from,
                };
                if next <= held {
                    self.heard.read.insert((author, life), (from, next - 1));
                    ranges.push((author, life, next, held));
                }
            }
        }
        if !ranges.is_empty() {
            fx.out.push(Output::ReadLog { to: self.me, ranges });
        }
    }

    /// Our own log answers.
    pub(super) fn handle_void(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let place = entry.place();
        let life = (place.author, place.incarnation);
        let Some((_, last)) = self.heard.read.get_mut(&life) else { return };
        *last = place.seq.max(*last);
        let void = !self.trust.admits(&place.author, place.incarnation, place.seq);
        if !void || !self.trust.is_out(&place.author) || self.is_out() {
            return;
        }
        let outcome = (entry.entry.kind == Kind::OUTCOME).then(|| entry.record::<Outcome>()).flatten();
        let Some(outcome) = outcome else { return };
        // A call that is open here, and another's to run: that was a guess of a gateway.
        let guess = |target: &PeerId| *target != place.author;
        if self.book.record(&outcome.id).is_some_and(|record| guess(&record.header.target)) {
            return;
        }
        let guessed = || self.book.early_word_of_origin(&outcome.id).is_some_and(|word| word != outcome.ending);
        if outcome.id.is_of(&self.me) || guessed() {
            self.say_heard(outcome, GONE, fx);
        } else if self.heard.words.len() < limits::EARLY_OUTCOMES_MAX {
            self.heard.words.insert(outcome.id, outcome);
        }
    }

    /// Another says how a call ended. If that is its origin, and we had heard otherwise from the target, it should know.
    pub(super) fn answer_guess(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        if self.heard.words.is_empty() {
            return;
        }
        let Some(word) = entry.record::<Outcome>().filter(|word| word.id.is_of(&entry.author)) else { return };
        if let Some(outcome) = self.heard.words.remove(&word.id)
            && !word.heard
            && word.ending != outcome.ending
        {
            self.say_heard(outcome, GONE, fx);
        }
    }

    /// A target told us directly what its log will bring nobody, since it contradicts itself there.
    pub(super) fn take_forked(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        if self.logs.is_forked(&entry.author, entry.entry.incarnation, entry.entry.seq)
            && let Some(outcome) = entry.record::<Outcome>()
        {
            self.say_heard(outcome, FORKED, fx);
        }
    }

    fn say_heard(&mut self, outcome: Outcome, reason: &str, fx: &mut Effects<'_>) {
        let what = (outcome.id, outcome.attempt);
        if !self.heard.said.insert(what) {
            return;
        }
        fx.put(Space::Meta, [KEY_HEARD, &outcome.id.0, &[outcome.attempt]].concat(), &what);
        let reason =
            if outcome.reason.is_empty() { reason.to_owned() } else { format!("{} ({reason})", outcome.reason) };
        let reason = limits::cut(&reason, limits::TEXT_BYTES_MAX).to_owned();
        let again = Outcome { reason, heard: true, ..outcome };
        let entry = self.logs.append(self.signer.as_ref(), Kind::OUTCOME, 0, entry::encode(&again), fx);
        log::push_when_durable(&entry, None, fx);
        if self.book.record(&again.id).is_some() {
            self.with_env(|book, env| book.apply_outcome(&entry, env, fx));
        }
    }
}
