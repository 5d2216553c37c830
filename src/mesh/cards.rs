//! Cards of the tools of all devices: which of them an owner's device wants, and which must stay.
//!
//! Whoever approves a tool reads its card first, so owners have all of them, as far as one device may have any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::ids::{Hash, PeerId};
use mesh_core::io::{NodeView, View};
use mesh_core::limits::{CARD_BYTES_MAX, CARDS_BYTES_MAX};
use mesh_core::record::{Directory, Tier};

/// The cards that all directories of a view name.
pub(super) fn named(view: &View) -> impl Iterator<Item = Hash> + '_ {
    view.nodes.iter().flat_map(NodeView::tools).filter_map(|tool| tool.card)
}

/// What is known to be here of the cards of each device.
#[derive(Debug, Default)]
pub(super) struct Cards {
    /// The directory that was looked at, and if all that it names is here.
    seen: BTreeMap<PeerId, (Arc<Directory>, bool)>,
}

impl Cards {
    /// The cards that are named in `view` and are wanted now, each with the device that has it. Those of a directory that has
    /// not changed and is here wholly are not looked for. `len`: that of a blob that is here.
    pub(super) fn wanted(&mut self, view: &View, len: impl Fn(Hash) -> Option<u64>) -> Vec<(Hash, PeerId)> {
        if view.by_peer(&view.me).is_none_or(|me| me.tier != Tier::Owner) {
            self.seen.clear();
            return Vec::new();
        }
        let members: BTreeSet<PeerId> = view.nodes.iter().map(|node| node.peer).collect();
        self.seen.retain(|peer, _| members.contains(peer));
        let mut wanted = Vec::new();
        for node in view.nodes.iter().filter(|node| node.peer != view.me) {
            let Some(directory) = &node.directory else { continue };
            if self.seen.get(&node.peer).is_some_and(|(seen, whole)| *whole && Arc::ptr_eq(seen, directory)) {
                continue;
            }
            let lacking = lacking(directory, &len);
            self.seen.insert(node.peer, (directory.clone(), lacking.is_empty()));
            wanted.extend(lacking.into_iter().map(|hash| (hash, node.peer)));
        }
        wanted
    }
}

/// Cards of a directory that are not here, as many as there is room for: each may be as large as a card can be.
fn lacking(directory: &Directory, len: impl Fn(Hash) -> Option<u64>) -> BTreeSet<Hash> {
    let cards: BTreeSet<Hash> = directory.tools.iter().filter_map(|tool| tool.card).collect();
    let (mut room, mut lacking) = (CARDS_BYTES_MAX, BTreeSet::new());
    for hash in cards {
        match len(hash) {
            Some(len) => room = room.saturating_sub(len),
            None => drop(lacking.insert(hash)),
        }
    }
    let fits = usize::try_from(room / CARD_BYTES_MAX).unwrap_or(usize::MAX);
    lacking.into_iter().take(fits).collect()
}

#[cfg(test)]
mod tests {
    use mesh_core::record::{Effect, ToolDecl};
    use mesh_core::test_kit::{Net, id, offers, tool};

    use super::*;

    fn carded(cards: impl IntoIterator<Item = u32>) -> Arc<Directory> {
        let decl = |n: u32| ToolDecl { card: Some(hash(n)), ..tool(&format!("t{n}"), Effect::Once) };
        Arc::new(offers(cards.into_iter().map(decl).collect()))
    }

    fn hash(n: u32) -> Hash {
        Hash::of(&n.to_le_bytes())
    }

    #[test]
    fn an_owner_wants_what_is_named_and_not_here_until_it_is() {
        let mut view = View::clone(&Net::of(2).peer(0).view());
        let at = view.nodes.iter().position(|node| node.peer == id(1)).unwrap();
        view.nodes[at].directory = Some(carded([1, 2]));
        let mut cards = Cards::default();
        let one = |of: Hash| (of == hash(1)).then_some(100);
        assert_eq!(named(&view).count(), 2);
        assert_eq!(cards.wanted(&view, one), [(hash(2), id(1))]);
        assert_eq!(cards.wanted(&view, one), [(hash(2), id(1))], "it has not come");
        assert_eq!(cards.wanted(&view, |_| Some(100)), []);
        assert_eq!(cards.wanted(&view, |_| panic!("nothing has changed")), []);
        view.nodes[at].directory = Some(carded([1, 2, 3]));
        let old = |of: Hash| (of != hash(3)).then_some(100);
        assert_eq!(cards.wanted(&view, old), [(hash(3), id(1))]);
    }

    #[test]
    fn a_guest_wants_none_and_one_device_may_not_have_too_many() {
        let mut view = View::clone(&Net::of(2).peer(0).view());
        let at = |view: &View, n| view.nodes.iter().position(|node| node.peer == id(n)).unwrap();
        let (me, other) = (at(&view, 0), at(&view, 1));
        view.nodes[other].directory = Some(carded(0..512));
        assert_eq!(Cards::default().wanted(&view, |_| None).len(), 21, "2 MiB of 96 KiB each");
        let half = |_: Hash| Some(CARDS_BYTES_MAX / 2);
        assert_eq!(Cards::default().wanted(&view, half), []);
        view.nodes[me].tier = Tier::Shared;
        assert_eq!(Cards::default().wanted(&view, |_| None), []);
    }
}
