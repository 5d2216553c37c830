//! Sessions of nodes at a gateway, and their credits: how many calls each node may be sent, and of whom.

use std::collections::{BTreeMap, BTreeSet};

use crate::budget::has_place;
use crate::facts::Facts;
use crate::ids::{PeerId, ReqId, ToolName};
use crate::io::SessionId;
use crate::protocol_rule::ProtocolRule;

#[derive(Debug, Clone, Default)]
struct Session {
    number: SessionId,
    /// Calls that take a credit, with their origins: they were sent, and have not ended.
    outstanding: BTreeMap<ReqId, PeerId>,
    /// Calls that were sent and take none, since the node lacks their arguments.
    lacking: BTreeSet<ReqId>,
}

/// All sessions, by node.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    of: BTreeMap<PeerId, Session>,
}

impl Sessions {
    /// The present session of a node.
    pub(super) fn number(&self, node: &PeerId) -> Option<SessionId> {
        self.of.get(node).map(|session| session.number)
    }

    /// Nodes that have one.
    pub(super) fn nodes(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.of.keys().copied()
    }

    /// A node has registered.
    pub(super) fn begin(&mut self, node: PeerId, number: SessionId) {
        self.of.insert(node, Session { number, ..Session::default() });
    }

    /// All that was sent to a node and has not ended.
    pub(super) fn sent(&self, node: &PeerId) -> impl Iterator<Item = &ReqId> {
        self.of.get(node).into_iter().flat_map(|session| session.outstanding.keys().chain(&session.lacking))
    }

    /// A session is over. Answers what was sent over it and has not ended.
    pub(super) fn end(&mut self, node: &PeerId) -> Vec<ReqId> {
        let session = self.of.remove(node).unwrap_or_default();
        session.outstanding.into_keys().chain(session.lacking).collect()
    }

    /// A call is sent, perhaps once more.
    pub(super) fn note_sent(&mut self, node: &PeerId, id: ReqId, origin: PeerId) {
        if let Some(session) = self.of.get_mut(node)
            && !session.lacking.contains(&id)
        {
            session.outstanding.insert(id, origin);
        }
    }

    /// A call has its arguments at the node.
    pub(super) fn note_taken(&mut self, node: &PeerId, id: ReqId, origin: PeerId) {
        if let Some(session) = self.of.get_mut(node)
            && session.lacking.remove(&id)
        {
            session.outstanding.insert(id, origin);
        }
    }

    /// The node lacks the arguments of a call. True if that frees a credit.
    pub(super) fn note_lacking(&mut self, node: &PeerId, id: ReqId) -> bool {
        self.of.get_mut(node).is_some_and(|session| {
            let frees = session.outstanding.remove(&id).is_some();
            frees && session.lacking.insert(id)
        })
    }

    /// A call is not with the node any more.
    pub(super) fn note_over(&mut self, node: &PeerId, id: &ReqId) {
        if let Some(session) = self.of.get_mut(node) {
            session.outstanding.remove(id);
            session.lacking.remove(id);
        }
    }

    /// Number of calls that a node may be sent still.
    pub(super) fn credits(&self, node: &PeerId, facts: &Facts<'_>) -> usize {
        self.of.get(node).map_or(0, |session| credits_max(facts).saturating_sub(session.outstanding.len()))
    }

    /// True if a node may be sent one more call of this origin.
    pub(super) fn has_credit(&self, node: &PeerId, origin: &PeerId, facts: &Facts<'_>) -> bool {
        self.of.get(node).is_some_and(|Session { outstanding, .. }| {
            let by_owner = facts.trust.is_owner(origin) || !facts.trust.enforces(ProtocolRule::PlaceShare);
            let own = if by_owner { 0 } else { outstanding.values().filter(|of| *of == origin).count() };
            has_place(own, outstanding.len(), credits_max(facts), by_owner)
        })
    }
}

/// Calls of a tool that may wait at their node beside those that it runs at once: when one ends the next is there already,
/// and those behind it take no place from its other tools.
const TOOL_AHEAD: usize = 2;

/// Places at one node of its tools of which it runs only some at once.
#[derive(Debug)]
pub(super) struct ToolPlaces {
    /// By name in small letters: how many there are, and who has taken them.
    of: BTreeMap<String, (usize, Vec<PeerId>)>,
}

impl ToolPlaces {
    /// Those of a node, all of them free.
    pub(super) fn of(node: &PeerId, facts: &Facts<'_>) -> Self {
        let tools = facts.nodes.with_places(node).into_iter();
        Self { of: tools.map(|(tool, at_once)| (tool, (at_once + TOOL_AHEAD, Vec::new()))).collect() }
    }

    /// True if all its tools run as often as it runs calls.
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// A call of this tool was sent and has not ended.
    pub(super) fn note_sent(&mut self, tool: &ToolName, origin: PeerId) {
        if let Some((_, taken)) = self.of.get_mut(&*tool.folded()) {
            taken.push(origin);
        }
    }

    /// True if one more call of this tool may be sent for this origin: it takes a place.
    pub(super) fn take(&mut self, tool: &ToolName, origin: PeerId, facts: &Facts<'_>) -> bool {
        let Some((max, taken)) = self.of.get_mut(&*tool.folded()) else { return true };
        let by_owner = facts.trust.is_owner(&origin) || !facts.trust.enforces(ProtocolRule::PlaceShare);
        let own = taken.iter().filter(|of| **of == origin).count();
        let has_place = has_place(own, taken.len(), *max, by_owner);
        if has_place {
            taken.push(origin);
        }
        has_place
    }
}

/// Calls that one node may have been sent and not ended.
const fn credits_max(facts: &Facts<'_>) -> usize {
    facts.config().running_max + facts.config().prefetch_max
}
