//! What a peer had told of its calls before those who heard it knew that it was excluded. Its entries beyond the cut-off are void
//! and reach nobody any more, so that the books of the two halves would differ for ever: one of those who heard it says
//! it again, in its own name and unconfirmed. The origin of the call does so at once; an owner, unless somebody else has
//! done so meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use super::Peer;
use crate::effects::Effects;
use crate::entry::{self, Kind, Outcome, Place, SignedEntry, Source, Tier};
use crate::ids::{Attempt, Incarnation, PeerId, ReqId};
use crate::io::{LogReader, Output};
use crate::limits;
use crate::log;
use crate::protocol_rule::ProtocolRule;
use crate::rows::{self, Row as _, VoidRow};

/// How long the first of the owners waits for the origin to speak, and each after it for the ones before.
const TURN_MS: u64 = 500;
/// From this turn on all wait alike: with so many owners one of the first is there.
const TURNS_MAX: usize = 4;

/// Why we speak for the target.
const GONE: &str = "said by the node before it was known here that it does not belong to the mesh any more";
const FORKED: &str = "said by the node, which contradicts its own log";

/// How it stands with what others had told us.
#[derive(Debug, Default, Clone)]
pub(super) struct Reissue {
    /// Void places of each log, all that our log was asked for.
    read: BTreeMap<(PeerId, Incarnation), VoidRow>,
    /// Of calls that are not ours: said again unless somebody else does.
    words: BTreeMap<(ReqId, Attempt), (Place, Outcome)>,
    /// When, and when the places read are dealt with.
    due: Option<u64>,
    /// What a target that contradicts its log has told us, and we have said again.
    forked: BTreeSet<(ReqId, Attempt)>,
}

impl Reissue {
    /// Takes back a row of [`crate::io::Space::Meta`]. `None`: it is one of ours and damaged.
    pub(super) fn restore(&mut self, row_key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(incarnation) = rows::void_of(row_key) {
            self.read.insert(incarnation?, VoidRow::from_bytes(value)?);
        }
        Some(())
    }

    /// When [`Peer::say_again`] is due.
    pub(super) const fn poll_timeout(&self) -> Option<u64> {
        self.due
    }
}

impl Peer {
    /// Reads what we hold of those who are excluded and what is void of it: after a membership change, at the start, and when our log has
    /// answered in part.
    pub(super) fn read_void(&mut self, fx: &mut Effects<'_>) {
        if self.is_excluded() || !fx.enforces(ProtocolRule::SaidAgain) {
            return;
        }
        let mut ranges = Vec::new();
        for (author, _) in self.trust.excluded() {
            for (incarnation, held) in self.logs.incarnations(&author) {
                let first = self.trust.standing(&author, incarnation, held) + 1;
                let read = self.reissue.read.entry((author, incarnation)).or_insert(VoidRow { first, last: first - 1 });
                if first < read.first || read.last < first {
                    *read = VoidRow { first, last: first - 1 };
                }
                if read.last < held {
                    ranges.push((author, incarnation, read.last + 1, held));
                }
            }
        }
        if !ranges.is_empty() {
            fx.out.push(Output::ReadLog { reader: LogReader::Reattest, ranges });
        }
    }

    /// Our own log answers.
    pub(super) fn handle_void(&mut self, entries: &[SignedEntry], more: bool, fx: &mut Effects<'_>) {
        for entry in entries {
            self.note_void(entry, fx);
        }
        if more {
            self.read_void(fx);
        }
    }

    fn note_void(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let place = entry.place();
        let void = self.is_void(&place);
        let read = self.reissue.read.get_mut(&(place.author, place.incarnation));
        let Some(read) = read.filter(|read| void && place.seq > read.last) else { return };
        read.last = place.seq;
        let owners = self.trust.membership().members.iter().filter(|(_, member)| member.tier == Tier::Owner);
        let turn = owners.map(|(peer, _)| *peer).position(|peer| peer == self.me);
        self.reissue.due.get_or_insert(fx.now.mono_ms + TURN_MS * (1 + turn.unwrap_or(0).min(TURNS_MAX)) as u64);
        let outcome = (entry.entry.kind == Kind::OUTCOME).then(|| entry.record::<Outcome>()).flatten();
        let Some(outcome) = outcome.filter(|outcome| outcome.source == Source::Target) else { return };
        if outcome.id.is_of(&self.me) {
            self.reissue_outcomes(place.author, outcome, GONE, fx);
        } else if turn.is_some() && self.reissue.words.len() < limits::EARLY_OUTCOMES_MAX {
            self.reissue.words.insert((outcome.id, outcome.attempt), (place, outcome));
        }
    }

    fn is_void(&self, place: &Place) -> bool {
        self.trust.is_excluded(&place.author) && !self.trust.admits(&place.author, place.incarnation, place.seq)
    }

    /// Somebody else says again what a target had said.
    pub(super) fn note_relayed(&mut self, target: PeerId, outcome: &Outcome) {
        let what = (outcome.id, outcome.attempt);
        if self.reissue.words.get(&what).is_some_and(|(place, _)| place.author == target) {
            self.reissue.words.remove(&what);
        }
    }

    /// Our turn has come: says what nobody else said.
    pub(super) fn say_again(&mut self, fx: &mut Effects<'_>) {
        if self.reissue.due.take_if(|due| *due <= fx.now.mono_ms).is_none() {
            return;
        }
        for (place, outcome) in std::mem::take(&mut self.reissue.words).into_values() {
            if self.is_void(&place) && !self.is_excluded() {
                self.reissue_outcomes(place.author, outcome, GONE, fx);
            }
        }
        for ((author, incarnation), range) in &self.reissue.read {
            if range.first <= range.last {
                fx.put(rows::void(author, *incarnation), range);
            }
        }
    }

    /// A target told us directly what its log will bring nobody, since it contradicts itself there.
    pub(super) fn take_forked(&mut self, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let place = entry.place();
        let admitted = entry.entry.mesh == self.trust.mesh()
            && self.trust.admits(&place.author, place.incarnation, place.seq)
            && self.logs.is_forked(&place.author, place.incarnation, place.seq);
        if admitted
            && let Some(outcome) = entry.record::<Outcome>().filter(|outcome| outcome.source == Source::Target)
            && self.reissue.forked.len() < limits::EARLY_OUTCOMES_MAX
            && self.reissue.forked.insert((outcome.id, outcome.attempt))
        {
            self.with_env(|book, env| book.apply_outcome(entry, env, fx));
            self.reissue_outcomes(place.author, outcome, FORKED, fx);
        }
    }

    fn reissue_outcomes(&mut self, target: PeerId, outcome: Outcome, reason: &str, fx: &mut Effects<'_>) {
        let reason =
            if outcome.reason.is_empty() { reason.to_owned() } else { format!("{} ({reason})", outcome.reason) };
        let reason = limits::cut(&reason, limits::TEXT_BYTES_MAX).to_owned();
        let again = Outcome { reason, source: Source::Relayed(target), ..outcome };
        let entry = self.logs.append(self.signer.as_ref(), Kind::OUTCOME, 0, entry::encode(&again), fx);
        log::push_when_durable(&entry, None, fx);
        if self.book.record(&again.id).is_some() {
            self.with_env(|book, env| book.apply_outcome(&entry, env, fx));
        }
    }
}
