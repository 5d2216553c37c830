//! limits-hold: what must stay small does. (Logs: see `logs`. Journals are forgotten by age alone.)

use mesh_core::config::Config;
use mesh_core::ids::{PeerId, ReqId};
use mesh_core::io::{CallRecord, CallState};

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
