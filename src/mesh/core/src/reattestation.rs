//! Outcomes of a peer that was later revoked, attested again by those who had received them.
//!
//! Entries beyond a revocation's cut-off are void and reach nobody any more, so the books of the two halves would differ
//! for ever: one of those who received such an outcome issues it in its own name, unconfirmed. The origin of the call does
//! so at once; an owner in its turn, unless somebody else did meanwhile. The same goes for what a target that contradicts
//! its own log told us directly.

use std::collections::{BTreeMap, BTreeSet};

use crate::effects::Effects;
use crate::entry::{Kind, Place, SignedEntry};
use crate::facts::Facts;
use crate::ids::{Attempt, Incarnation, PeerId, ReqId};
use crate::io::{LogReader, Output};
use crate::limits;
use crate::protocol_rule::ProtocolRule;
use crate::record::{Outcome, Source, Tier};
use crate::rows::{self, Row as _, VoidRow};

/// Time for which the first of the owners waits for the origin, and each after it for the ones before.
const TURN_MS: u64 = 500;
/// From this turn on all wait alike: with so many owners one of the first is there.
const TURNS_MAX: usize = 4;

/// Reasons for speaking in the target's place.
const GONE: &str = "reported by the node before it was known here that it does not belong to the mesh any more";
const FORKED: &str = "reported by the node, which contradicts its own log";

/// Outcomes that others may lack for ever.
#[derive(Debug, Default, Clone)]
pub(crate) struct Reattestation {
    /// Void places of each log for which ours was asked.
    read: BTreeMap<(PeerId, Incarnation), VoidRow>,
    /// Of calls that are not ours: attested unless somebody else does.
    waiting: BTreeMap<(ReqId, Attempt), (Place, Outcome)>,
    /// True if there was no room for some.
    full: bool,
    /// When, and when the places read are dealt with.
    due: Option<u64>,
    /// Outcomes of a target that contradicts its log, attested already.
    forked: BTreeSet<(ReqId, Attempt)>,
}

impl Reattestation {
    /// Restores a row of [`crate::io::Space::Meta`]. `None`: it is one of ours and damaged.
    pub(crate) fn restore(&mut self, row_key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(log) = rows::void_of(row_key) {
            self.read.insert(log?, VoidRow::from_bytes(value)?);
        }
        Some(())
    }

    /// Reads what we hold of excluded peers and what is void of it: after a membership change, at the start, and when our
    /// log has answered in part.
    pub(crate) fn read(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if facts.is_excluded_here() || !fx.enforces(ProtocolRule::Reissued) {
            return;
        }
        let mut ranges = Vec::new();
        for (author, _) in facts.trust.excluded() {
            for (incarnation, held) in facts.logs.incarnations(&author) {
                let first = facts.trust.standing(&author, incarnation, held) + 1;
                let read = self.read.entry((author, incarnation)).or_insert(VoidRow { first, last: first - 1 });
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

    /// Our own log answers: the outcomes to issue now. Others wait for our turn.
    pub(crate) fn handle_log_read(
        &mut self,
        entries: &[SignedEntry],
        more: bool,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) -> Vec<Outcome> {
        let mut owners = facts.trust.membership().members.iter().filter(|(_, member)| member.tier == Tier::Owner);
        let turn = owners.position(|(peer, _)| *peer == facts.me());
        let due = fx.now.mono_ms + TURN_MS * (1 + turn.unwrap_or(0).min(TURNS_MAX)) as u64;
        let mut now = Vec::new();
        let mut full = BTreeSet::new();
        for entry in entries {
            let place = entry.place();
            if full.contains(&(place.author, place.incarnation)) {
                continue;
            }
            let outcome = (entry.entry.kind == Kind::OUTCOME).then(|| entry.record::<Outcome>()).flatten();
            let outcome = outcome.filter(|outcome| outcome.source == Source::Target);
            let waits = outcome.as_ref().is_some_and(|outcome| turn.is_some() && !outcome.id.is_of(&facts.me()));
            if waits && self.waiting.len() >= limits::EARLY_OUTCOMES_MAX {
                // It is read again once those that wait have been issued.
                full.insert((place.author, place.incarnation));
                continue;
            }
            let read = self.read.get_mut(&(place.author, place.incarnation));
            let Some(read) = read.filter(|read| facts.is_void(&place) && place.seq > read.last) else { continue };
            read.last = place.seq;
            self.due.get_or_insert(due);
            let Some(outcome) = outcome else { continue };
            if outcome.id.is_of(&facts.me()) {
                now.push(relayed(place.author, outcome, GONE));
            } else if waits {
                self.waiting.insert((outcome.id, outcome.attempt), (place, outcome));
            }
        }
        self.full |= !full.is_empty();
        if more && full.is_empty() {
            self.read(facts, fx);
        }
        now
    }

    /// Somebody else has re-issued an outcome of this target.
    pub(crate) fn note_relayed(&mut self, target: PeerId, outcome: &Outcome) {
        let what = (outcome.id, outcome.attempt);
        if self.waiting.get(&what).is_some_and(|(place, _)| place.author == target) {
            self.waiting.remove(&what);
        }
    }

    /// Once our turn has come: the outcomes that nobody else issued.
    pub(crate) fn handle_timeout(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) -> Vec<Outcome> {
        if self.due.take_if(|due| *due <= fx.now.mono_ms).is_none() {
            return Vec::new();
        }
        for ((author, incarnation), range) in &self.read {
            if range.first <= range.last {
                fx.put(rows::void(author, *incarnation), range);
            }
        }
        let waiting = std::mem::take(&mut self.waiting).into_values();
        if std::mem::take(&mut self.full) {
            self.read(facts, fx);
        }
        waiting
            .filter(|(place, _)| facts.is_void(place) && !facts.is_excluded_here())
            .map(|(place, outcome)| relayed(place.author, outcome, GONE))
            .collect()
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) const fn poll_timeout(&self) -> Option<u64> {
        self.due
    }

    /// A target told us directly what its log will bring nobody, since it contradicts itself there: the outcome to issue,
    /// once for each attempt.
    pub(crate) fn handle_forked(&mut self, entry: &SignedEntry, facts: &Facts<'_>) -> Option<Outcome> {
        let Place { author, incarnation, seq } = entry.place();
        let admitted = entry.entry.mesh == facts.trust.mesh()
            && facts.trust.admits(&author, incarnation, seq)
            && facts.logs.is_forked(&author, incarnation, seq);
        let outcome = admitted.then(|| entry.record::<Outcome>()).flatten();
        let outcome = outcome.filter(|outcome| outcome.source == Source::Target)?;
        let fresh = self.forked.len() < limits::EARLY_OUTCOMES_MAX && self.forked.insert((outcome.id, outcome.attempt));
        fresh.then(|| relayed(author, outcome, FORKED))
    }
}

/// The outcome that a target told, as somebody else issues it.
fn relayed(target: PeerId, outcome: Outcome, reason: &str) -> Outcome {
    let reason = if outcome.reason.is_empty() { reason.to_owned() } else { format!("{} ({reason})", outcome.reason) };
    let reason = limits::cut(&reason, limits::TEXT_BYTES_MAX).to_owned();
    Outcome { reason, source: Source::Relayed(target), ..outcome }
}
