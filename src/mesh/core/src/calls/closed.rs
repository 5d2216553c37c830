//! Calls that have left the book: their rows stay for people, charged to their origins. Of an origin that is over its
//! budget the oldest go, as their ids sort. A peer's own calls are its own to keep.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Book;
use crate::budget::Amount;
use crate::effects::Effects;
use crate::facts::Facts;
use crate::ids::{Incarnation, PeerId, ReqId};
use crate::io::{CallRecord, Output};
use crate::limits;
use crate::protocol_rule::ProtocolRule;
use crate::rows::{self, Row as _};

/// Between a call that is closed, or a change of tiers, and the look whether that is too much.
const CHECK_AFTER_MS: u64 = 1_000;
/// Between two steps of deleting.
const GO_ON_MS: u64 = 20;
/// Calls of who is gone that are closed in one step.
const CLOSED_PER_STEP: usize = 256;
/// An account's row is written when it is off by so much: a crash forgets no more than that.
const SAVE_AFTER: Amount = Amount { entries: 32, bytes: 32 * 1024 };

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    held: Amount,
    saved: Amount,
    /// Where the next look goes on: what was before it is gone.
    after: Option<ReqId>,
}

/// Room that the rows of each origin take.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closed {
    accounts: BTreeMap<PeerId, Account>,
    /// The origin whose rows were asked for.
    reading: Option<PeerId>,
    due_at: Option<u64>,
}

impl Closed {
    /// Takes back a row of [`rows::closed`]; others are none of its business.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8], now: u64) {
        if let Some(origin) = rows::closed_of(key)
            && let Some(held) = Amount::from_bytes(value)
        {
            self.accounts.insert(origin, Account { held, saved: held, after: None });
            self.due_at = Some(now);
        }
    }

    /// Writes the row of a call that leaves the book.
    pub(crate) fn put(&mut self, id: &ReqId, record: &CallRecord, fx: &mut Effects<'_>) {
        let row = rows::call(id).put(record);
        if record.origin != fx.me {
            let bytes = row.value.as_ref().map_or(0, Bytes::len) as u64;
            self.accounts.entry(record.origin).or_default().held.add(Amount::one(bytes));
            self.save(&record.origin, fx);
            self.due_at.get_or_insert(fx.now.mono_ms + CHECK_AFTER_MS);
        }
        fx.writes.push(row);
    }

    fn save(&mut self, origin: &PeerId, fx: &mut Effects<'_>) {
        let Some(Account { held, saved, .. }) = self.accounts.get_mut(origin) else { return };
        let off = held.entries.abs_diff(saved.entries) >= SAVE_AFTER.entries
            || held.bytes.abs_diff(saved.bytes) >= SAVE_AFTER.bytes;
        if *held == Amount::default() {
            self.accounts.remove(origin);
            fx.delete(rows::closed(origin));
        } else if off {
            *saved = *held;
            fx.put(rows::closed(origin), held);
        }
    }

    /// Tiers have changed.
    pub(crate) fn check_soon(&mut self, now: u64) {
        if !self.accounts.is_empty() {
            self.due_at.get_or_insert(now + CHECK_AFTER_MS);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        self.due_at.filter(|_| self.reading.is_none())
    }

    /// Reads the oldest rows of an origin that is over its budget.
    pub(crate) fn handle_timeout(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if self.poll_timeout().is_none_or(|at| fx.now.mono_ms < at) {
            return;
        }
        self.due_at = None;
        let over = self.accounts.iter().find(|(origin, account)| !is_within(account.held, limit(origin, facts)));
        let Some((origin, account)) = over.filter(|_| fx.enforces(ProtocolRule::ClosedBudget)) else { return };
        self.reading = Some(*origin);
        let first = account.after.unwrap_or(ReqId::new(origin, Incarnation(0), 0));
        let last = ReqId::new(origin, Incarnation(u32::MAX), u64::from(u32::MAX));
        fx.out.push(Output::ReadClosed { first, last });
    }

    /// The store answers with rows in order: deletes the oldest, until an eighth of the budget is free.
    pub(crate) fn handle_read(
        &mut self,
        calls: &[(ReqId, Bytes)],
        more: bool,
        facts: &Facts<'_>,
        fx: &mut Effects<'_>,
    ) {
        let Some(origin) = self.reading.take() else { return };
        self.due_at = Some(fx.now.mono_ms + GO_ON_MS);
        let Some(account) = self.accounts.get_mut(&origin) else { return };
        let limit = limit(&origin, facts);
        let calm = Amount { entries: limit.entries - limit.entries / 8, bytes: limit.bytes - limit.bytes / 8 };
        let whole = !more && account.after.is_none();
        let mut rest = calls.iter();
        for (id, row) in rest.by_ref() {
            if is_within(account.held, calm) {
                break;
            }
            account.after = Some(*id);
            let record = CallRecord::from_bytes(row);
            if record.as_ref().is_some_and(|record| record.origin != origin) {
                continue; // of a key that looks alike
            }
            if let Some(record) = record {
                fx.delete(rows::call_by_time(record.listed_ms(), id));
            }
            fx.delete(rows::call(id));
            account.held.take(Amount::one(row.len() as u64));
        }
        if rest.next().is_none() && !more {
            account.after = None;
            if whole {
                account.held = Amount::default(); // there is no more of it, whatever we had counted
            }
        }
        self.save(&origin, fx);
    }

    /// Room that the rows of each origin take.
    pub(crate) fn held(&self) -> impl Iterator<Item = (PeerId, Amount)> + '_ {
        self.accounts.iter().map(|(origin, account)| (*origin, account.held))
    }
}

impl Book {
    /// Closes what is too much of it: of calls that are over on disk, and of those that have ended and stay in the book.
    pub(crate) fn time_closed(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        if self.closed.poll_timeout().is_some_and(|at| at <= fx.now.mono_ms) {
            self.closed.handle_timeout(facts, fx);
            self.close_ended_of_excluded(facts, fx);
        }
    }

    /// Closes the oldest calls of origins that do not belong any more, some in a step.
    pub(super) fn close_ended_of_excluded(&mut self, facts: &Facts<'_>, fx: &mut Effects<'_>) {
        let me = self.me;
        let is_gone = |origin: &PeerId| *origin != me && facts.trust.is_excluded(origin);
        let over = self.shares.ended_of_excluded(is_gone);
        for id in over.iter().take(CLOSED_PER_STEP) {
            self.close(id, fx);
        }
        if over.len() > CLOSED_PER_STEP {
            self.closed.due_at = Some(fx.now.mono_ms + GO_ON_MS);
        }
    }
}

const fn is_within(held: Amount, limit: Amount) -> bool {
    held.entries <= limit.entries && held.bytes <= limit.bytes
}

/// Room that the rows of an origin may take: of one that was removed enough to see what it did last.
fn limit(origin: &PeerId, facts: &Facts<'_>) -> Amount {
    let Amount { entries, bytes } = facts.config().budgets.of(facts.trust.tier(origin)).closed;
    if facts.trust.is_excluded(origin) {
        return Amount {
            entries: entries.min(limits::CLOSED_OF_EXCLUDED_MAX),
            bytes: bytes.min(limits::CLOSED_BYTES_OF_EXCLUDED_MAX),
        };
    }
    Amount { entries, bytes }
}
