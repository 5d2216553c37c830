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

    /// True if there is room for what this peer wants, of `room` bytes that are shared in grains of `grain`: it is within its
    /// own share, and whoever let it in, with all whom that one let in, within theirs. So nobody has more by letting
    /// others in, in whatever order they come. What is wanted of somebody who is not among them is at the founder's charge.
    #[must_use]
    pub fn admits(&self, peer: &PeerId, wanted: &BTreeMap<PeerId, u64>, room: u64, grain: u64) -> bool {
        let index: BTreeMap<&PeerId, usize> = self.0.iter().enumerate().map(|(at, (peer, _))| (peer, at)).collect();
        let place = |peer: &PeerId| index.get(peer).copied().unwrap_or(0);
        let mut groups: Vec<Group> = self.0.iter().map(|(_, parent)| Group::below(*parent)).collect();
        for (peer, bytes) in wanted {
            if let Some(group) = groups.get_mut(place(peer)) {
                group.own = group.own.saturating_add(*bytes);
            }
        }
        share(&mut groups, room, grain.max(1));
        let mut at = place(peer);
        let Some(group) = groups.get(at).filter(|group| group.own <= group.left) else { return false };
        let mut above = group;
        // The founder's is the whole room, of which everyone has a part.
        while at > 0 {
            if above.all > above.share {
                return false;
            }
            at = above.parent;
            let Some(parent) = groups.get(at) else { return false };
            above = parent;
        }
        true
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
    /// The peer that let it in, which stands before it.
    pub(crate) parent: usize,
    /// Bytes that it wants itself.
    pub(crate) own: u64,
    /// Bytes that it has, once shared.
    pub(crate) left: u64,
    /// Bytes that it and all below it want.
    all: u64,
    /// Bytes that it and all below it have.
    share: u64,
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
        groups[at].share = share;
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
        let mut wanted: BTreeMap<PeerId, u64> = BTreeMap::from([(peer(1), 200), (peer(2), 300), (peer(9), 50)]);
        let admits = |wanted: &BTreeMap<PeerId, u64>, n| approvals.admits(&peer(n), wanted, 1_000, 1);
        // They want as much as they can have, those below first.
        let of_thief = (100..140).chain([3]).collect::<Vec<u8>>();
        for n in &of_thief {
            loop {
                let before = wanted.clone();
                *wanted.entry(peer(*n)).or_default() += 10;
                if !admits(&wanted, *n) {
                    wanted = before;
                    break;
                }
            }
        }
        let theirs: u64 = of_thief.iter().filter_map(|n| wanted.get(&peer(*n))).sum();
        assert!((300..=450).contains(&theirs), "forty and their host have no more than one: {theirs}");
        assert!(
            admits(&wanted, 1) && admits(&wanted, 2),
            "who wants little has it, and the founder answers for who is unknown"
        );
        wanted.insert(peer(2), 400);
        assert!(!admits(&wanted, 100) && !admits(&wanted, 3), "what others come to want is theirs");
        assert!(approvals.admits(&peer(3), &wanted, 100_000, 1), "there is room for all");
    }
}
