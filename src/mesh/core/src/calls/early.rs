//! Early arrivals: outcomes and cancel requests, kept until their header comes. All of it is limited, since nobody can
//! tell yet whether there is such a call.

use std::collections::BTreeMap;

use crate::effects::Effects;
use crate::entry::SignedEntry;
use crate::ids::ReqId;
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
    bytes: usize,
    cancels: BTreeMap<ReqId, CancelRequest>,
}

impl Early {
    /// Restores a row of [`rows::early_outcome`]. `None`: it is damaged.
    pub(super) fn restore_outcome(&mut self, id: ReqId, value: &[u8]) -> Option<ReqId> {
        let entry = SignedEntry::from_bytes(value)?;
        self.bytes += entry.len();
        self.outcomes.entry(id).or_default().push(entry);
        Some(id)
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
            self.bytes = self.bytes.saturating_sub(outcome.len());
        }
        outcomes
    }

    /// Keeps an outcome. When there are too many, somebody makes calls up: all are forgotten, so that those cannot keep
    /// the place of real ones for ever. Who is right, the book judges later.
    pub(super) fn keep_outcome(&mut self, id: ReqId, entry: &SignedEntry, fx: &mut Effects<'_>) {
        if self.outcomes.len() >= limits::EARLY_OUTCOMES_MAX || self.bytes + entry.len() > limits::EARLY_BYTES_MAX {
            for (id, entries) in std::mem::take(&mut self.outcomes) {
                for entry in entries {
                    fx.delete(rows::early_outcome(&id, &entry.hash));
                }
            }
            self.bytes = 0;
        }
        let waiting = self.outcomes.entry(id).or_default();
        if waiting.iter().any(|known| known.hash == entry.hash) {
            return;
        }
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
            self.bytes = self.bytes.saturating_sub(last.len());
            fx.delete(rows::early_outcome(&id, &last.hash));
        }
        // The log will not bring it a second time: it must outlive a crash.
        if fx.enforces(ProtocolRule::EarlyDurable) {
            fx.put(rows::early_outcome(&id, &entry.hash), entry);
        }
        self.bytes += entry.len();
        waiting.push(entry.clone());
    }

    /// Keeps a cancel request. Those of calls that are over, or never come, must not keep out others for ever.
    pub(super) fn keep_cancel(&mut self, cancel: &CancelRequest, fx: &mut Effects<'_>) {
        if self.cancels.contains_key(&cancel.id) {
            return;
        }
        if self.cancels.len() >= limits::EARLY_OUTCOMES_MAX
            && let Some((other, _)) = self.cancels.pop_first()
        {
            fx.delete(rows::early_cancel(&other));
        }
        if fx.enforces(ProtocolRule::EarlyDurable) {
            fx.put(rows::early_cancel(&cancel.id), cancel);
        }
        self.cancels.insert(cancel.id, cancel.clone());
    }
}
