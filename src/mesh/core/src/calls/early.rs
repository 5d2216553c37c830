//! Early arrivals: outcomes and cancel requests, kept until their header comes. All of it is limited, since nobody can
//! tell yet whether there is such a call.

use std::collections::BTreeMap;

use crate::budget::Amount;
use crate::effects::Effects;
use crate::entry::SignedEntry;
use crate::ids::{PeerId, ReqId};
use crate::limits;
use crate::protocol_rule::ProtocolRule;
use crate::record::{CancelRequest, Outcome, Source};
use crate::rows::{self, Row as _};

/// Endings of one call, of those who may be its target and of all others, that are kept until its header comes.
const OF_ONE_MAX: usize = 8;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Early {
    outcomes: BTreeMap<ReqId, Vec<SignedEntry>>,
    /// All that is kept of each author's.
    shares: BTreeMap<PeerId, Amount>,
    cancels: BTreeMap<ReqId, CancelRequest>,
}

impl Early {
    /// Restores a row of [`rows::early_outcome`]. `None`: it is damaged.
    pub(super) fn restore_outcome(&mut self, id: ReqId, value: &[u8]) -> Option<ReqId> {
        self.push(id, SignedEntry::from_bytes(value)?);
        Some(id)
    }

    fn push(&mut self, id: ReqId, entry: SignedEntry) {
        self.shares.entry(entry.author).or_default().add(Amount::one(entry.len() as u64));
        self.outcomes.entry(id).or_default().push(entry);
    }

    /// One is not kept any more.
    fn uncount(&mut self, entry: &SignedEntry) {
        if let Some(share) = self.shares.get_mut(&entry.author) {
            share.take(Amount::one(entry.len() as u64));
            if share.entries == 0 {
                self.shares.remove(&entry.author);
            }
        }
    }

    /// Forgets all outcomes of whoever takes the most of what has run out. Those of others stay.
    fn forget_largest(&mut self, size: impl Fn(&Amount) -> u64, fx: &mut Effects<'_>) {
        let Some(author) = self.shares.iter().max_by_key(|(_, share)| size(share)).map(|(author, _)| *author) else {
            return;
        };
        self.shares.remove(&author);
        self.outcomes.retain(|id, entries| {
            for entry in entries.extract_if(.., |entry| entry.author == author) {
                fx.delete(rows::early_outcome(id, &entry.hash));
            }
            !entries.is_empty()
        });
    }

    /// Restores a row of [`rows::early_cancel`]. `None`: it is damaged.
    pub(super) fn restore_cancel(&mut self, id: ReqId, value: &[u8]) -> Option<ReqId> {
        self.cancels.insert(id, CancelRequest::from_bytes(value)?);
        Some(id)
    }

    pub(super) fn cancel(&self, id: &ReqId) -> Option<&CancelRequest> {
        self.cancels.get(id)
    }

    /// The header is here: its cancel request, which is kept with it from now on.
    pub(super) fn take_cancel(&mut self, id: &ReqId, fx: &mut Effects<'_>) -> Option<CancelRequest> {
        let cancel = self.cancels.remove(id)?;
        fx.delete(rows::early_cancel(id));
        Some(cancel)
    }

    /// The header is here: what was said of how it ended.
    pub(super) fn take_outcomes(&mut self, id: &ReqId, fx: &mut Effects<'_>) -> Vec<SignedEntry> {
        let outcomes = self.outcomes.remove(id).unwrap_or_default();
        for outcome in &outcomes {
            fx.delete(rows::early_outcome(id, &outcome.hash));
            self.uncount(outcome);
        }
        outcomes
    }

    /// Keeps an outcome. When there are too many, somebody makes calls up, or has been away for long: all by whoever takes
    /// the most of what has run out are forgotten, so that those cannot keep the place of others' for ever. Who is right, the book judges
    /// later.
    pub(super) fn keep_outcome(&mut self, id: ReqId, entry: &SignedEntry, fx: &mut Effects<'_>) {
        let is_known = |waiting: &Vec<SignedEntry>| waiting.iter().any(|known| known.hash == entry.hash);
        if self.outcomes.get(&id).is_some_and(is_known) {
            return;
        }
        let mut all = Amount::default();
        self.shares.values().for_each(|share| all.add(*share));
        let limit = Amount { entries: limits::EARLY_OUTCOMES_MAX as u64, bytes: limits::EARLY_BYTES_MAX as u64 };
        if all.entries >= limit.entries {
            self.forget_largest(|share| share.entries, fx);
        } else if !all.has_room(Amount::one(entry.len() as u64), limit) {
            self.forget_largest(|share| share.bytes, fx);
        }
        let waiting = self.outcomes.entry(id).or_default();
        // The header will name the target. What others infer must not keep out its outcome; and all keep the same of
        // those: the origin's, and then the first.
        let is_targets_own =
            |entry: &SignedEntry| entry.record::<Outcome>().is_some_and(|said| said.source == Source::Target);
        let rank = |entry: &SignedEntry| (!id.is_of(&entry.author), entry.entry.hlc, entry.hash);
        let kind = is_targets_own(entry);
        let alike = waiting.iter().filter(|known| is_targets_own(known) == kind);
        if alike.clone().count() >= OF_ONE_MAX {
            let Some(last) = alike.max_by_key(|known| rank(known)).filter(|last| rank(last) > rank(entry)).cloned()
            else {
                return;
            };
            waiting.retain(|known| known.hash != last.hash);
            self.uncount(&last);
            fx.delete(rows::early_outcome(&id, &last.hash));
        }
        // The log will not bring it a second time: it must outlive a crash.
        if fx.enforces(ProtocolRule::EarlyDurable) {
            fx.put(rows::early_outcome(&id, &entry.hash), entry);
        }
        self.push(id, entry.clone());
    }

    /// The first cancel request of the origin for whose calls there are the most.
    fn first_of_most(&self) -> Option<ReqId> {
        let mut of_origin: BTreeMap<&[u8], (usize, &ReqId)> = BTreeMap::new();
        for id in self.cancels.keys() {
            of_origin.entry(id.origin()).or_insert((0, id)).0 += 1;
        }
        of_origin.into_values().max_by_key(|(count, _)| *count).map(|(_, first)| *first)
    }

    /// Keeps a cancel request. Those of calls that are over, or never come, must not keep out others for ever.
    pub(super) fn keep_cancel(&mut self, cancel: &CancelRequest, fx: &mut Effects<'_>) {
        if self.cancels.contains_key(&cancel.id) {
            return;
        }
        if self.cancels.len() >= limits::EARLY_OUTCOMES_MAX
            && let Some(other) = self.first_of_most()
        {
            self.cancels.remove(&other);
            fx.delete(rows::early_cancel(&other));
        }
        if fx.enforces(ProtocolRule::EarlyDurable) {
            fx.put(rows::early_cancel(&cancel.id), cancel);
        }
        self.cancels.insert(cancel.id, cancel.clone());
    }
}
