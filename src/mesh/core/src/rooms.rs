//! Room that is shared along a tree: whoever lets a thousand others in has let them in on its own share.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::PeerId;

/// All who belong or belonged, each below whoever let it in: the tree along which room is shared, for what is kept of authors
/// outside of the core.
#[derive(Debug, Clone)]
pub struct Approvals(Vec<(PeerId, usize)>);

impl Approvals {
    /// Those who are reached from the founder by approvals that stand (`View::vouched_by`).
    #[must_use]
    pub fn of(founder: PeerId, vouched_by: &BTreeMap<PeerId, BTreeSet<PeerId>>) -> Self {
        Self(tree(founder, vouched_by))
    }

    /// Everyone, the founder first.
    pub fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.0.iter().map(|(peer, _)| peer)
    }

    /// Bytes that each who wants some has of `room`, in grains of `grain` bytes for whom others let in. What is wanted of
    /// somebody who is not among them is at the founder's charge.
    #[must_use]
    pub fn share(&self, wanted: &BTreeMap<PeerId, u64>, room: u64, grain: u64) -> BTreeMap<PeerId, u64> {
        let index: BTreeMap<&PeerId, usize> = self.0.iter().enumerate().map(|(at, (peer, _))| (peer, at)).collect();
        let mut groups: Vec<Group> = self.0.iter().map(|(_, parent)| Group::below(*parent)).collect();
        for (peer, bytes) in wanted {
            if let Some(group) = groups.get_mut(index.get(peer).copied().unwrap_or(0)) {
                group.own = group.own.saturating_add(*bytes);
            }
        }
        share(&mut groups, room, grain.max(1));
        self.0
            .iter()
            .zip(groups)
            .filter(|(_, group)| group.left > 0)
            .map(|((peer, _), group)| (*peer, group.left))
            .collect()
    }
}

/// Everyone who was ever validly approved, the founder first, with the position of its approver; of several the one nearest
/// to the founder.
pub(crate) fn tree(founder: PeerId, vouched_by: &BTreeMap<PeerId, BTreeSet<PeerId>>) -> Vec<(PeerId, usize)> {
    let mut let_in: BTreeMap<PeerId, BTreeSet<PeerId>> = BTreeMap::new();
    for (peer, by) in vouched_by {
        for by in by {
            let_in.entry(*by).or_default().insert(*peer);
        }
    }
    let (mut order, mut seen) = (vec![(founder, 0)], BTreeSet::from([founder]));
    let mut next = VecDeque::from([0]);
    while let Some(at) = next.pop_front() {
        let guests = order.get(at).and_then(|(peer, _)| let_in.get(peer));
        for guest in guests.into_iter().flatten().filter(|guest| seen.insert(**guest)) {
            next.push_back(order.len());
            order.push((*guest, at));
        }
    }
    order
}

/// Somebody who has a share, and lets others share it.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Who let it in, which stands before it.
    pub(crate) parent: usize,
    /// Bytes that it wants itself.
    pub(crate) own: u64,
    /// Bytes that it has, once shared.
    pub(crate) left: u64,
    /// Bytes that it and all below it want.
    all: u64,
    children: Vec<usize>,
}

impl Group {
    /// One that `parent` let in.
    pub(crate) fn below(parent: usize) -> Self {
        Self { parent, ..Self::default() }
    }
}

/// Shares bytes among groups along the tree of approvals, the root first. A group takes up to three quarters of its share
/// before its children; they share the rest evenly in whole grains, and what one does not use passes to the others.
#[expect(clippy::indexing_slicing, reason = "groups are counted where they are made, parents first")]
pub(crate) fn share(groups: &mut [Group], room: u64, grain: u64) {
    for at in (0..groups.len()).rev() {
        groups[at].all += groups[at].own;
        if at > 0 && groups[at].all > 0 {
            let (all, parent) = (groups[at].all, groups[at].parent);
            groups[parent].all += all;
            groups[parent].children.push(at);
        }
    }
    let Some(first) = groups.first_mut() else { return };
    first.left = room;
    for at in 0..groups.len() {
        let Group { own, all, left: share, .. } = groups[at];
        let own = own.min(share.saturating_sub(all - own).max(share / 4 * 3));
        groups[at].left = own;
        let mut rest = share - own;
        let mut children = std::mem::take(&mut groups[at].children);
        children.sort_unstable_by_key(|child| (groups[*child].all, *child));
        for (nth, child) in children.iter().enumerate() {
            let even = rest / (children.len() - nth) as u64;
            let part = groups[*child].all.min(even - even % grain);
            groups[*child].left = part;
            rest -= part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k2_made_up_guests_share_what_their_host_has() {
        let peer = |n: u8| PeerId([n; 32]);
        let by = |n: u8| BTreeSet::from([peer(n)]);
        // 1 founded, and let 2 and 3 in; 3 let in forty that it made up.
        let mut vouched_by = BTreeMap::from([(peer(2), by(1)), (peer(3), by(1))]);
        vouched_by.extend((100..140).map(|n| (peer(n), by(3))));
        let approvals = Approvals::of(peer(1), &vouched_by);
        assert_eq!(approvals.peers().count(), 43);
        let mut wanted: BTreeMap<PeerId, u64> = (100..140).map(|n| (peer(n), 1_000)).collect();
        wanted.extend([(peer(1), 200), (peer(2), 300), (peer(3), 1_000), (peer(9), 50)]);
        let shares = approvals.share(&wanted, 1_000, 1);
        let of = |n| shares.get(&peer(n)).copied().unwrap_or_default();
        assert_eq!((of(1), of(2)), (250, 300), "who wants little has it, and the founder answers for who is unknown");
        let theirs: u64 = of(3) + (100..140).map(of).sum::<u64>();
        assert!(theirs <= 450, "forty have no more than one: {theirs}");
        // With room for all, everyone has what it wants.
        assert_eq!(approvals.share(&wanted, 100_000, 1).values().sum::<u64>(), wanted.values().sum::<u64>());
    }
}
