//! limits-hold: what must stay small does. (Logs: see `logs`. Journals are forgotten by age alone.)

use mesh_core::budget::{Amount, Budget};
use mesh_core::config::Config;
use mesh_core::ids::{PeerId, ReqId};
use mesh_core::io::{CallRecord, CallState, Usage, View};

use super::Checks;

impl Checks {
    /// **limits-hold** no more tools run at once than the target allows.
    pub(crate) fn running_within_limit(&mut self, now: u64, peer: usize, running: usize, config: &Config) {
        if running > config.running_max {
            self.fail("limits-hold", now, || format!("p{peer} runs {running} tools at once"));
        }
    }

    /// **limits-hold** an origin accepts a call only while it has fewer open ones for that target than the limit.
    pub(crate) fn open_calls_within_limit<'a>(
        &mut self,
        now: u64,
        peer: usize,
        me: PeerId,
        accepted: &ReqId,
        open: impl Iterator<Item = &'a CallRecord> + Clone,
        config: &Config,
    ) {
        let Some(target) = open.clone().find(|record| record.header.id == *accepted).map(|r| r.header.target) else {
            return; // over already
        };
        let of_target = open.filter(|record| {
            record.origin == me && record.header.target == target && matches!(record.state, CallState::Open(_))
        });
        let count = of_target.count();
        if count > config.open_per_target_max {
            self.fail("limits-hold", now, || format!("p{peer} accepted a call for {target} as its {count}th open one"));
        }
    }

    /// **budgets-hold** what an author that floods fills here is within twice its budget; and no other's log is stopped.
    pub(crate) fn budgets_hold(
        &mut self,
        now: u64,
        peer: usize,
        (view, usage): (&View, &Usage),
        floods: impl Fn(&PeerId) -> bool,
        config: &Config,
    ) {
        if let Some(stopped) = view.stopped.iter().find(|stopped| !floods(&stopped.peer)) {
            self.fail("budgets-hold", now, || format!("p{peer} stopped the log of {}: {stopped}", stopped.peer));
        }
        let Budget { log, open, .. } = config.budgets.guest;
        let twice = |amount: Amount| amount.entries * 2;
        let of_flood = |(author, amount): &&(PeerId, Amount)| floods(author).then_some(amount.entries);
        // Answers to calls of others are counted with it here.
        if let Some(held) = usage.logs.iter().find_map(|row| of_flood(&row).filter(|held| *held > 2 * twice(log))) {
            self.fail("budgets-hold", now, || format!("p{peer} holds {held} entries of one that floods"));
        }
        if let Some(held) = usage.open.iter().find_map(|row| of_flood(&row).filter(|held| *held > twice(open))) {
            self.fail("budgets-hold", now, || format!("p{peer} holds {held} open calls of one that floods"));
        }
    }

    /// **limits-hold** a peer holds at most so many headers that are neither its own nor for it.
    pub(crate) fn queue_within_limit<'a>(
        &mut self,
        now: u64,
        peer: usize,
        me: PeerId,
        open: impl Iterator<Item = &'a CallRecord>,
        config: &Config,
    ) {
        let foreign = open.filter(|record| {
            record.origin != me && record.header.target != me && matches!(record.state, CallState::Open(_))
        });
        let count = foreign.count();
        if count > config.queue_max {
            self.fail("limits-hold", now, || format!("p{peer} queues {count} calls of others"));
        }
    }
}
