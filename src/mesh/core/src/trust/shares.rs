//! Room for membership changes, shared along the approvals that they rest on: whoever lets a thousand others in has let
//! them in on its own share. What does not fit is dropped, and which that is depends on the set alone.

use super::argumentation::{Graph, Node};
use crate::ids::{Hash, Incarnation, PeerId};
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::rooms::{self, Group};
use std::collections::BTreeMap;

/// Room that a change takes at least: what costs time is their number.
pub(super) const CHANGE_BYTES_MIN: u64 = 1024;

/// Place of a change among those of its group: the first are kept.
type Order = (PeerId, Incarnation, u64, Hash);

/// A change that takes room.
#[derive(Debug)]
struct Change {
    group: usize,
    bytes: u64,
    order: Order,
    hash: Hash,
}

/// Room that a change of this size takes.
pub(super) fn room_of(len: usize) -> u64 {
    (len as u64).max(CHANGE_BYTES_MIN)
}

/// The approvals of a set as groups.
#[derive(Debug)]
pub(super) struct Shares {
    rules: ProtocolRules,
    /// The genesis, then approvals by depth: what changes rest on.
    groups: Vec<Group>,
    index: BTreeMap<Hash, usize>,
    /// The group by which a peer that was ever approved speaks if it names none that is held.
    of: BTreeMap<PeerId, usize>,
    changes: Vec<Change>,
}

impl Shares {
    pub(super) fn new(graph: &Graph<'_>, genesis: Hash, founder: PeerId, rules: ProtocolRules) -> Self {
        let mut approvals: Vec<&Node<'_>> = graph.nodes().filter(|node| node.admits_somebody()).collect();
        approvals.sort_unstable_by_key(|node| (node.depth, node.record.entry.hash));
        let mut shares = Self {
            rules,
            groups: vec![Group::default()],
            index: BTreeMap::from([(genesis, 0)]),
            of: BTreeMap::from([(founder, 0)]),
            changes: Vec::new(),
        };
        for node in approvals {
            let (at, hash) = (shares.groups.len(), node.record.entry.hash);
            let parent = shares.index.get(&node.record.change.grant).copied().unwrap_or_default();
            shares.groups.push(Group::below(parent));
            shares.index.insert(hash, at);
            shares.of.entry(node.record.subject).or_insert(at);
        }
        shares
    }

    /// Adds a change that takes room. False: nobody whom its author could speak by ever let it in.
    pub(super) fn add(&mut self, node: &Node<'_>) -> bool {
        let entry = &node.record.entry;
        let rests = if node.depth == u32::MAX { None } else { self.index.get(&node.record.change.grant) };
        let group = rests.or_else(|| self.of.get(&entry.author)).copied();
        let stranger = || (!self.rules.enforces(ProtocolRule::StrangersUnkept)).then_some(0);
        let Some(group) = group.or_else(stranger).map(|group| self.sharing(group)) else { return false };
        let order = (entry.author, entry.entry.incarnation, entry.entry.seq, entry.hash);
        self.changes.push(Change { group, bytes: room_of(entry.len()), order, hash: entry.hash });
        true
    }

    /// The group that has a share of its own, or the genesis' if none has.
    fn sharing(&self, group: usize) -> usize {
        if self.rules.enforces(ProtocolRule::RoomIsShared) { group } else { 0 }
    }

    /// Adds one that is not signed yet, the last by this grant, under a hash that none has.
    pub(super) fn add_next(&mut self, author: PeerId, grant: Hash, len: usize) {
        let group = self.sharing(self.index.get(&grant).copied().unwrap_or_default());
        let order = (author, Incarnation(u32::MAX), u64::MAX, Hash::ZERO);
        self.changes.push(Change { group, bytes: room_of(len), order, hash: Hash::ZERO });
    }

    /// Those that do not fit into so many bytes, shared along the approvals ([`rooms::share`]).
    #[expect(clippy::indexing_slicing, reason = "groups are counted where they are made")]
    pub(super) fn beyond(mut self, room: u64) -> Vec<Hash> {
        let all = self.changes.iter().map(|change| change.bytes).sum::<u64>();
        if all <= room || !self.rules.enforces(ProtocolRule::ChangesHaveRoom) {
            return Vec::new();
        }
        for change in &self.changes {
            self.groups[change.group].own += change.bytes;
        }
        rooms::share(&mut self.groups, room, CHANGE_BYTES_MIN);
        self.changes.sort_unstable_by_key(|change| change.order);
        let mut beyond = Vec::new();
        for change in self.changes {
            let group = &mut self.groups[change.group];
            if change.bytes <= group.left {
                group.left -= change.bytes;
            } else {
                beyond.push(change.hash);
            }
        }
        beyond
    }
}
