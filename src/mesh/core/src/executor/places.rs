//! Places of a target: to wait, to run, and to run one tool. An origin that is no owner has a share of the first two.

use super::{Executor, Waiting};
use crate::budget::has_place;
use crate::effects::Effects;
use crate::facts::Facts;
use crate::ids::{PeerId, ToolName};
use crate::protocol_rule::ProtocolRule;

impl Executor {
    /// Calls of this origin that wait for their arguments.
    pub(super) fn lacking_of(&self, origin: &PeerId) -> usize {
        self.waiting.iter().filter(|waiting| waiting.origin == *origin && waiting.missing.is_some()).count()
    }

    /// True if one more call of this origin may wait for a place to run. One that lacks its arguments has none.
    pub(super) fn may_wait(&self, origin: &PeerId, facts: &Facts<'_>, fx: &Effects<'_>) -> bool {
        let shared = fx.enforces(ProtocolRule::PlaceShare);
        let ready = self.waiting.iter().filter(|waiting| waiting.missing.is_none() || !shared);
        let own = ready.clone().filter(|waiting| waiting.origin == *origin).count();
        has_place(own, ready.count(), facts.config().prefetch_max, !shared || self.is_owners(origin, facts))
    }

    /// True if this call may run now.
    pub(super) fn may_run(&self, waiting: &Waiting, facts: &Facts<'_>, fx: &Effects<'_>) -> bool {
        let origin = &waiting.origin;
        let by_owner = !fx.enforces(ProtocolRule::PlaceShare) || self.is_owners(origin, facts);
        let own = self.running.values().filter(|running| running.origin == *origin).count();
        let has_place = has_place(own, self.running.len(), facts.config().running_max, by_owner)
            || !fx.enforces(ProtocolRule::RunningLimit);
        has_place && (self.has_tool_place(&waiting.header.tool, facts) || !fx.enforces(ProtocolRule::ToolRunningLimit))
    }

    /// True if this tool may run once more beside those of its runs that are not over.
    fn has_tool_place(&self, tool: &ToolName, facts: &Facts<'_>) -> bool {
        facts.nodes.at_once(&self.me, tool).is_none_or(|max| {
            let folded = tool.folded();
            self.running.values().filter(|running| running.header.tool.folded() == folded).count() < max
        })
    }

    /// True if a place is an owner's, or for whoever is at this device's own doors.
    fn is_owners(&self, origin: &PeerId, facts: &Facts<'_>) -> bool {
        *origin == self.me || facts.trust.is_owner(origin)
    }
}
