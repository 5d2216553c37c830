//! Room that is shared along a tree: whoever lets a thousand others in has let them in on its own share.

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
