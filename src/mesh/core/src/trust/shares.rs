//! Room for membership changes, shared along the approvals that they rest on: whoever lets a thousand others in has let
//! them in on its own share. What does not fit is dropped, and which that is depends on the set alone.

use super::argumentation::{Graph, Node};
use crate::ids::{Hash, Incarnation, PeerId};
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use std::collections::BTreeMap;

/// Room that a change takes at least: what costs time is their number.
pub(super) const CHANGE_BYTES_MIN: u64 = 1024;

/// An approval that changes rest on, or the genesis: its subject speaks by it.
#[derive(Debug, Default)]
struct Group {
    /// What it rests on itself, which stands before it.
    parent: usize,
    /// Bytes of what rests on it.
    own: u64,
    /// And of what rests on those.
    all: u64,
    children: Vec<usize>,
    /// Bytes that are left of its share for what rests on it.
    left: u64,
}

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
    /// The genesis, then approvals by depth.
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
            shares.groups.push(Group { parent, ..Group::default() });
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

    /// Those that do not fit into so many bytes. Of a share the changes that rest on its approval itself have up to three
    /// quarters before those that rest on approvals among them; these share the rest evenly, who wants less than that
    /// leaving it to the others.
    #[expect(clippy::indexing_slicing, reason = "groups are counted where they are made, parents first")]
    pub(super) fn beyond(mut self, room: u64) -> Vec<Hash> {
        let all = self.changes.iter().map(|change| change.bytes).sum::<u64>();
        if all <= room || !self.rules.enforces(ProtocolRule::ChangesHaveRoom) {
            return Vec::new();
        }
        for change in &self.changes {
            self.groups[change.group].own += change.bytes;
        }
        for at in (0..self.groups.len()).rev() {
            self.groups[at].all += self.groups[at].own;
            if at > 0 && self.groups[at].all > 0 {
                let (all, parent) = (self.groups[at].all, self.groups[at].parent);
                self.groups[parent].all += all;
                self.groups[parent].children.push(at);
            }
        }
        self.groups[0].left = room;
        for at in 0..self.groups.len() {
            let Group { own, all, left: share, .. } = self.groups[at];
            let own = own.min(share.saturating_sub(all - own).max(share / 4 * 3));
            self.groups[at].left = own;
            let mut rest = share - own;
            let mut children = std::mem::take(&mut self.groups[at].children);
            children.sort_unstable_by_key(|child| (self.groups[*child].all, *child));
            for (nth, child) in children.iter().enumerate() {
                let even = rest / (children.len() - nth) as u64;
                let part = self.groups[*child].all.min(even - even % CHANGE_BYTES_MIN);
                self.groups[*child].left = part;
                rest -= part;
            }
        }
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
