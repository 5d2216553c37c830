//! Room for statements about rights: so much of each author, and so much of all together, shared along the approvals that
//! they rest on (`docs/decisions/0068`).

use std::collections::{BTreeMap, BTreeSet};

use crate::budget::Amount;
use crate::ids::PeerId;
use crate::limits;
use crate::rooms::{self, Group};
use crate::trust::Trust;

/// Room that a statement takes at least, in bytes: what costs memory is also their number.
const STATEMENT_BYTES_MIN: u64 = 1024;

/// All that is held, by author.
#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    held: BTreeMap<PeerId, Held>,
    /// Bytes of room of all.
    all: u64,
    /// Authors that had something refused for want of room of all since that last changed much.
    refused: BTreeSet<PeerId>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    amount: Amount,
    room: u64,
}

/// Room that a statement of this size takes.
pub(super) fn room_of(len: usize) -> u64 {
    (len as u64).max(STATEMENT_BYTES_MIN)
}

impl Room {
    pub(super) fn add(&mut self, author: PeerId, len: usize) {
        let held = self.held.entry(author).or_default();
        held.amount.add(Amount::one(len as u64));
        held.room += room_of(len);
        self.all += room_of(len);
    }

    pub(super) fn take(&mut self, author: &PeerId, len: usize) {
        let Some(held) = self.held.get_mut(author) else { return };
        held.amount.take(Amount::one(len as u64));
        held.room = held.room.saturating_sub(room_of(len));
        self.all = self.all.saturating_sub(room_of(len));
        if held.amount == Amount::default() {
            self.held.remove(author);
        }
        if self.all <= limits::STATEMENTS_ROOM_MAX / 8 * 7 {
            self.refused.clear();
        }
    }

    /// Bytes of room that are held of an author.
    pub(super) fn of(&self, author: &PeerId) -> u64 {
        self.held.get(author).map_or(0, |held| held.room)
    }

    /// True if the author's own limit allows one more statement besides `more`. Statements that take something away have
    /// room of their own beyond that of the rest.
    pub(super) fn of_author(&self, author: &PeerId, more: Amount, takes: bool) -> bool {
        let mut held = self.held.get(author).map(|held| held.amount).unwrap_or_default();
        held.add(more);
        let share = if takes { 2 } else { 1 };
        held.entries < share * limits::STATEMENTS_MAX && held.bytes < share * limits::STATEMENTS_BYTES_MAX
    }

    /// Membership has changed, and with it the shares.
    pub(super) fn handle_trust(&mut self) {
        self.refused.clear();
    }

    /// True if nothing of this author was refused lately for want of room of all.
    pub(super) fn may_ask(&self, author: &PeerId) -> bool {
        !self.refused.contains(author)
    }

    /// Something of this author was refused, or made room.
    pub(super) fn refuse(&mut self, author: PeerId) {
        self.refused.insert(author);
    }

    /// Authors that must give way for one more statement of this author, with the room that each keeps; `None`: the author
    /// has used up its share.
    pub(super) fn make(&self, author: &PeerId, len: usize, trust: &Trust) -> Option<Vec<(PeerId, u64)>> {
        self.share(author, room_of(len), trust)
    }

    /// True if so many bytes more of this author have room.
    pub(super) fn has_share(&self, author: &PeerId, wanted: u64, trust: &Trust) -> bool {
        self.share(author, wanted, trust).is_some()
    }

    fn share(&self, author: &PeerId, wanted: u64, trust: &Trust) -> Option<Vec<(PeerId, u64)>> {
        if self.all + wanted <= limits::STATEMENTS_ROOM_MAX {
            return Some(Vec::new());
        }
        let order = rooms::tree(trust.founder(), &trust.membership().vouched_by);
        let index: BTreeMap<PeerId, usize> = order.iter().enumerate().map(|(at, (peer, _))| (*peer, at)).collect();
        let mut groups: Vec<Group> = order.iter().map(|(_, parent)| Group::below(*parent)).collect();
        // Whom nobody let in whose word counts is at the founder's charge.
        let group_of = |peer: &PeerId| index.get(peer).copied().unwrap_or(0);
        let asks = [(*author, wanted)];
        for (peer, room) in self.held.iter().map(|(peer, held)| (*peer, held.room)).chain(asks) {
            if let Some(group) = groups.get_mut(group_of(&peer)) {
                group.own += room;
            }
        }
        rooms::share(&mut groups, limits::STATEMENTS_ROOM_MAX, STATEMENT_BYTES_MIN);
        let left = |peer: &PeerId| groups.get(group_of(peer)).map_or(0, |group| group.left);
        if self.of(author) + wanted > left(author) {
            return None;
        }
        let others = self.held.iter().filter(|(peer, held)| *peer != author && held.room > left(peer));
        Some(others.map(|(peer, _)| (*peer, left(peer))).collect())
    }
}
