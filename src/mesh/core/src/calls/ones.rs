//! The one call of a device that was let in for one (`docs/decisions/0081`): which of its calls it is, and that it is over.
//!
//! That it is over is written with the ending that says so, in the same batch: whoever has seen it knows it after a restart.

use std::collections::BTreeMap;

use super::{Book, Open};
use crate::effects::Effects;
use crate::facts::Facts;
use crate::frame::Phase;
use crate::ids::{COUNTER_MAX, Incarnation, PeerId, ReqId};
use crate::io::CallState;
use crate::record::{Ending, Stay};
use crate::rows::{self, OneRow, Row as _};
use crate::stays::has_its_call;
use crate::trust::Trust;

/// The one calls that are over, by their origins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ones {
    spent: BTreeMap<PeerId, OneRow>,
    /// One of them is new since [`Self::take_news`].
    news: bool,
}

impl Ones {
    /// Takes back a row of [`rows::one`]; others are none of its business.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) {
        if let Some(origin) = rows::one_of(key)
            && let Some(row) = OneRow::from_bytes(value)
        {
            self.spent.insert(origin, row);
        }
    }

    /// Forgets those of devices that do not belong any more, or were let in anew since.
    pub(crate) fn settle(&mut self, trust: &Trust, fx: &mut Effects<'_>) {
        let counts = |origin: &PeerId, row: &OneRow| {
            let member = trust.member(origin).filter(|member| has_its_call(member));
            member.and_then(|member| member.stay.as_ref()).is_some_and(|stay| stay.until_ms == row.until_ms)
        };
        let over: Vec<PeerId> = self.spent.iter().filter(|(at, row)| !counts(at, row)).map(|(at, _)| *at).collect();
        for origin in over {
            self.spent.remove(&origin);
            fx.delete(rows::one(&origin));
        }
    }

    /// Devices whose one call is over.
    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.spent.keys().copied()
    }

    /// True once if one was noted since the last time.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// The call that used up this stay, as far as it was seen here.
    fn used(&self, origin: &PeerId, stay: &Stay) -> Option<&ReqId> {
        self.spent.get(origin).filter(|row| row.until_ms == stay.until_ms).map(|row| &row.call)
    }
}

/// The stay of a device that was let in for one call.
fn for_one<'a>(origin: &PeerId, trust: &'a Trust) -> Option<&'a Stay> {
    trust.member(origin)?.stay.as_ref().filter(|stay| stay.one_time)
}

impl Book {
    /// A call is over. What was denied did not run, and has not been used.
    pub(super) fn note_one(&mut self, id: &ReqId, trust: &Trust, fx: &mut Effects<'_>) {
        let Some(record) = self.record(id) else { return };
        let (origin, state) = (record.origin, record.state);
        let used = matches!(state, CallState::Ended(_)) && state != CallState::Ended(Ending::Denied);
        let Some(stay) = for_one(&origin, trust).filter(|_| used && trust.member(&origin).is_some_and(has_its_call))
        else {
            return;
        };
        if self.ones.used(&origin, stay).is_none() {
            let row = OneRow { until_ms: stay.until_ms, call: *id };
            fx.put(rows::one(&origin), &row);
            self.ones.spent.insert(origin, row);
            self.ones.news = true;
        }
    }

    /// True if another call than this has used up what its origin was let in for.
    pub(crate) fn is_spent(&self, id: &ReqId, origin: &PeerId, trust: &Trust) -> bool {
        let used = for_one(origin, trust).and_then(|stay| self.ones.used(origin, stay));
        used.is_some_and(|used| used != id)
    }

    /// True if this peer was let in for one call, and has asked for one that is open, or over and was not denied.
    pub(super) fn has_asked_its_one(&self, trust: &Trust) -> bool {
        let stay = for_one(&self.me, trust);
        stay.is_some_and(|stay| self.ones.used(&self.me, stay).is_some() || self.shares.open_of(&self.me).entries > 0)
    }

    /// True of any but one of the calls of a device that was let in for one: the one that is over, or has begun, or is the
    /// oldest.
    pub(super) fn is_beyond_its_one(&self, id: &ReqId, origin: &PeerId, facts: &Facts<'_>) -> bool {
        if for_one(origin, facts.trust).is_none() {
            return false;
        }
        if self.is_spent(id, origin, facts.trust) {
            return true;
        }
        if self.shares.open_of(origin).entries < 2 {
            return false;
        }
        let first = ReqId::new(origin, Incarnation(0), 0);
        let last = ReqId::new(origin, Incarnation(u32::MAX), COUNTER_MAX);
        let open = self.open.range(first..=last).filter(|(_, open)| open.record.origin == *origin && !open.ended());
        let begun = |open: &Open| open.sent.is_some() || open.record.state > CallState::Open(Phase::Queued);
        let the_one = open.min_by_key(|(at, open)| (!begun(open), **at));
        the_one.is_some_and(|(at, _)| at != id)
    }
}
