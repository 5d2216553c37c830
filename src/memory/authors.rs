//! Authors of memory: whose groups are taken from another holder, and how much of them (`docs/decisions/0098`).
//!
//! A holder hands on what others wrote, so it could make authors up. Only who belongs or belonged to the mesh is one, and
//! all of them share one room, along the approvals by which they came in.

use std::collections::{BTreeMap, BTreeSet};

use memory_core::ids::AuthorId;
use memory_core::limits::{ROOM_BYTES_MAX, ROOM_GRAIN_BYTES};
use mesh_core::ids::PeerId;
use mesh_core::io::View;
use mesh_core::rooms::Approvals;

/// Bytes of groups that are held, by author.
pub(super) type Filled = BTreeMap<AuthorId, u64>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Authors {
    approvals: Approvals,
    peers: BTreeMap<AuthorId, PeerId>,
    room: u64,
}

impl Authors {
    /// Those of the mesh, as this device sees it.
    pub(super) fn of(view: &View) -> Self {
        // Whom nobody approved founded the mesh; alone in it, this device did.
        let approved: BTreeSet<&PeerId> = view.vouched_by.keys().collect();
        let by = view.vouched_by.values().flatten();
        let founder = by.filter(|by| !approved.contains(by)).min().copied().unwrap_or(view.me);
        let mut authors = Self::below(Approvals::of(founder, &view.vouched_by));
        let members = view.nodes.iter().map(|node| node.peer).chain([view.me]);
        authors.peers.extend(members.map(|peer| (AuthorId::of_peer(&peer), peer)));
        authors
    }

    pub(super) fn below(approvals: Approvals) -> Self {
        let peers = approvals.peers().map(|peer| (AuthorId::of_peer(peer), *peer)).collect();
        Self { approvals, peers, room: ROOM_BYTES_MAX }
    }

    /// The same with so much room.
    #[cfg(test)]
    pub(super) fn with_room(self, room: u64) -> Self {
        Self { room, ..self }
    }

    /// The device that this author is, if it belongs or belonged.
    pub(super) fn peer(&self, author: &AuthorId) -> Option<&PeerId> {
        self.peers.get(author)
    }

    /// True if so many bytes more of this author have room beside what is held.
    pub(super) fn has_room(&self, author: &AuthorId, more: u64, filled: &Filled) -> bool {
        let Some(peer) = self.peer(author) else { return false };
        if filled.values().sum::<u64>().saturating_add(more) <= self.room {
            return true;
        }
        let mut wanted: BTreeMap<PeerId, u64> = BTreeMap::new();
        // What is here of somebody whose approval does not stand any more is at nobody's charge, and grows no more.
        for (of, bytes) in filled {
            if let Some(of) = self.peer(of) {
                let wants = wanted.entry(*of).or_default();
                *wants = wants.saturating_add(*bytes);
            }
        }
        let wants = wanted.entry(*peer).or_default();
        *wants = wants.saturating_add(more);
        self.approvals.admits(peer, &wanted, self.room, ROOM_GRAIN_BYTES.min(self.room / 64))
    }
}
