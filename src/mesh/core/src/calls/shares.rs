//! Shares of origins in the book: how many open calls of each, and what they take, so that nobody's keep out another's.
//! Calls that have ended take no place of those that are open.

use std::collections::BTreeMap;

use crate::budget::{Amount, Budget, OverBudget, TIMES};
use crate::config::Config;
use crate::ids::{PeerId, ReqId};
use crate::limits;
use crate::record::{Header, Payload};

/// Share of one origin in the book.
#[derive(Debug, Clone, Default)]
struct Share {
    open: Amount,
    /// Open calls whose arguments are blobs.
    blobs: usize,
    /// Calls that ended and stay, in the order in which they came, with the bytes that they take.
    ended: BTreeMap<(u64, ReqId), u64>,
    ended_bytes: u64,
}

/// All shares.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    by_origin: BTreeMap<PeerId, Share>,
    /// Open calls of ours by target: how many, and how many bytes of arguments.
    own: BTreeMap<PeerId, (usize, u64)>,
    /// Open calls of others for others.
    foreign: u64,
}

/// Room that a call takes: arguments that are no blob are held in memory.
fn amount(header: &Header) -> Amount {
    let arguments = match &header.arguments {
        Payload::Inline(bytes) => bytes.len() as u64,
        Payload::Blob { .. } => 0,
    };
    Amount::one(arguments)
}

fn is_foreign(header: &Header, origin: &PeerId, me: &PeerId) -> bool {
    origin != me && header.target != *me
}

fn is_large(header: &Header) -> bool {
    matches!(header.arguments, Payload::Blob { .. })
}

impl Shares {
    /// A call is open.
    pub(super) fn add(&mut self, header: &Header, origin: PeerId, me: PeerId) {
        let share = self.by_origin.entry(origin).or_default();
        share.open.add(amount(header));
        share.blobs += usize::from(is_large(header));
        self.foreign += u64::from(is_foreign(header, &origin, &me));
        if origin == me {
            let own = self.own.entry(header.target).or_default();
            own.0 += 1;
            own.1 += header.arguments.len();
        }
    }

    /// It is not open any more.
    pub(super) fn remove(&mut self, header: &Header, origin: PeerId, me: PeerId) {
        if let Some(share) = self.by_origin.get_mut(&origin) {
            share.open.take(amount(header));
            share.blobs = share.blobs.saturating_sub(usize::from(is_large(header)));
            self.foreign = self.foreign.saturating_sub(u64::from(is_foreign(header, &origin, &me)));
        }
        self.tidy(&origin);
        if origin == me
            && let Some(own) = self.own.get_mut(&header.target)
        {
            own.0 = own.0.saturating_sub(1);
            own.1 = own.1.saturating_sub(header.arguments.len());
            if own.0 == 0 {
                self.own.remove(&header.target);
            }
        }
    }

    fn tidy(&mut self, origin: &PeerId) {
        if self.by_origin.get(origin).is_some_and(|share| share.open.entries == 0 && share.ended.is_empty()) {
            self.by_origin.remove(origin);
        }
    }

    /// A call has ended and stays in the book. Those that are too many come back, the oldest first.
    pub(super) fn add_ended(&mut self, id: ReqId, origin: PeerId, arrival: u64, bytes: u64) -> Vec<ReqId> {
        let share = self.by_origin.entry(origin).or_default();
        let known = share.ended.insert((arrival, id), bytes).unwrap_or(0);
        share.ended_bytes = share.ended_bytes.saturating_sub(known).saturating_add(bytes);
        let mut over = Vec::new();
        while (share.ended.len() > limits::ENDED_MAX || share.ended_bytes > limits::ENDED_BYTES_MAX)
            && let Some(((_, oldest), bytes)) = share.ended.pop_first()
        {
            share.ended_bytes = share.ended_bytes.saturating_sub(bytes);
            over.push(oldest);
        }
        over
    }

    /// Calls that ended and stay, of origins that do not belong any more, beyond those that stay of such a one: the oldest.
    pub(super) fn ended_of_excluded(&self, is_excluded: impl Fn(&PeerId) -> bool) -> Vec<ReqId> {
        let of = |(origin, share): (&PeerId, &Share)| {
            let surplus = share.ended.len().saturating_sub(limits::ENDED_OF_EXCLUDED_MAX);
            let surplus = if surplus > 0 && is_excluded(origin) { surplus } else { 0 };
            share.ended.keys().take(surplus).map(|(_, id)| *id).collect::<Vec<_>>()
        };
        self.by_origin.iter().flat_map(of).collect()
    }

    /// It leaves the book.
    pub(super) fn remove_ended(&mut self, id: ReqId, origin: PeerId, arrival: u64) {
        if let Some(share) = self.by_origin.get_mut(&origin)
            && let Some(bytes) = share.ended.remove(&(arrival, id))
        {
            share.ended_bytes = share.ended_bytes.saturating_sub(bytes);
        }
        self.tidy(&origin);
    }

    /// Number of open calls of ours for a target, and the bytes of their arguments.
    pub(super) fn own_open(&self, target: &PeerId) -> (usize, u64) {
        self.own.get(target).copied().unwrap_or_default()
    }

    /// Open calls of one origin.
    pub(super) fn open_of(&self, origin: &PeerId) -> Amount {
        self.by_origin.get(origin).map_or(Amount::default(), |share| share.open)
    }

    /// Open calls of one origin whose arguments are blobs.
    pub(super) fn blobs_of(&self, origin: &PeerId) -> usize {
        self.by_origin.get(origin).map_or(0, |share| share.blobs)
    }

    /// Checks one more call of our own.
    ///
    /// # Errors
    /// The budget that is used up.
    pub(super) fn has_room_for_own(&self, me: &PeerId, arguments: &Payload, budget: &Budget) -> Result<(), OverBudget> {
        let (large, bytes) = match arguments {
            Payload::Inline(bytes) => (false, bytes.len() as u64),
            Payload::Blob { .. } => (true, 0),
        };
        if !self.open_of(me).has_room(Amount::one(bytes), budget.open) {
            return Err(OverBudget::Open(budget.open));
        }
        if large && self.blobs_of(me) >= budget.blobs {
            return Err(OverBudget::Blobs(budget.blobs));
        }
        Ok(())
    }

    /// Number of calls of another origin that have room here still: in its share; and, of those that are `foreign`, for
    /// another peer than this one, in the book as a whole, of which those who are no owners get half.
    pub(super) fn room(&self, origin: &PeerId, foreign: bool, by_owner: bool, budget: &Budget, config: &Config) -> u64 {
        let open = self.open_of(origin);
        let limit = budget.open.times(TIMES);
        let share = if open.bytes < limit.bytes { limit.entries.saturating_sub(open.entries) } else { 0 };
        if !foreign {
            return share;
        }
        let whole = config.queue_max as u64;
        let whole = if by_owner { whole } else { whole.div_ceil(2) };
        whole.saturating_sub(self.foreign).min(share)
    }

    /// Number of open calls.
    pub(super) fn count_open(&self) -> usize {
        self.by_origin.values().map(|share| share.open.entries as usize).sum()
    }

    /// Open calls by origin.
    pub(super) fn open(&self) -> impl Iterator<Item = (PeerId, Amount)> + '_ {
        self.by_origin.iter().map(|(origin, share)| (*origin, share.open)).filter(|(_, open)| open.entries > 0)
    }

    /// Calls that ended and stay, by origin.
    pub(super) fn ended(&self) -> impl Iterator<Item = (PeerId, u64)> + '_ {
        self.by_origin.iter().map(|(origin, share)| (*origin, share.ended.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budgets;
    use crate::test_kit::{header, id};

    #[test]
    fn s06_what_ended_takes_no_place_of_what_is_open() {
        let (me, origin) = (id(0), id(1));
        let config = Config { queue_max: 4, ..Config::default() };
        let budget = Budgets::default().guest;
        let mut shares = Shares::default();
        assert_eq!(shares.room(&origin, true, true, &budget, &config), 4);
        let calls: Vec<Header> = (1..=4).map(|n| header(&origin, n, id(2), "t")).collect();
        for call in &calls {
            shares.add(call, origin, me);
        }
        assert_eq!((shares.room(&origin, true, true, &budget, &config), shares.count_open()), (0, 4));
        for (arrival, call) in calls.iter().enumerate() {
            shares.remove(call, origin, me);
            assert!(shares.add_ended(call.id, origin, arrival as u64, 100).is_empty());
        }
        assert_eq!((shares.room(&origin, true, true, &budget, &config), shares.count_open()), (4, 0));
        let large = header(&origin, 5, id(2), "t").id;
        let oldest = shares.add_ended(large, origin, 9, limits::ENDED_BYTES_MAX - 300);
        assert_eq!(oldest, [calls[0].id], "the oldest leaves the book");
        for (arrival, call) in calls.iter().enumerate().skip(1) {
            shares.remove_ended(call.id, origin, arrival as u64);
        }
        shares.remove_ended(large, origin, 9);
        assert!(shares.by_origin.is_empty(), "nothing is kept of one that has nothing here");
    }

    #[test]
    fn s05_of_who_is_gone_few_ended_calls_stay() {
        let (gone, here) = (id(1), id(3));
        let mut shares = Shares::default();
        let beyond = 5;
        for origin in [gone, here] {
            for n in 1..=(limits::ENDED_OF_EXCLUDED_MAX + beyond) as u64 {
                let call = header(&origin, n, id(2), "t").id;
                assert!(shares.add_ended(call, origin, n, 100).is_empty());
            }
        }
        let over = shares.ended_of_excluded(|origin| *origin == gone);
        let oldest: Vec<ReqId> = (1..=beyond as u64).map(|n| header(&gone, n, id(2), "t").id).collect();
        assert_eq!(over, oldest);
        for (arrival, call) in (1..).zip(&over) {
            shares.remove_ended(*call, gone, arrival);
        }
        assert!(shares.ended_of_excluded(|_| false).is_empty());
        assert!(shares.ended_of_excluded(|origin| *origin == gone).is_empty());
    }
}
