//! Holes: items that are not held although their groups are.
//!
//! A group checks without its items, so a holder that hands it on can leave them out, or call them erased. Its word is not
//! taken: an item is *erased* only by whoever erased it here, knowing the tombstone. What others leave out is *lacking*, and is
//! asked for at every holder whose holes differ from ours. What all have forgotten is a hole of all, and costs nothing more.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::group::{ChainId, Head, SignedGroup, Slot};
use crate::ids::hash;

/// Place of an item in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ItemAt {
    /// Number of its group.
    pub seq: u64,
    /// Place in the group.
    pub index: u16,
}

/// Reason for which an item is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hole {
    /// It was erased here: it is about something that is forgotten, and is never taken again.
    Erased,
    /// Whoever sent its group left it out.
    Lacking,
}

/// Hash of the holes of a chain; zeroes when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HolesHash(#[serde(with = "serde_bytes")] pub [u8; 16]);

/// Extent to which a holder has a chain, as it tells others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extent {
    /// The last group.
    pub head: Head,
    /// Holes up to there.
    pub holes: HolesHash,
}

/// All holes of a holder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holes(BTreeMap<ChainId, BTreeMap<ItemAt, Hole>>);

impl Holes {
    /// Notes what is not held of a group.
    pub fn note(&mut self, group: &SignedGroup) {
        let seq = group.header().seq;
        for (index, slot) in (0..).zip(group.slots()) {
            match slot {
                Slot::Held(_) => {}
                Slot::Erased => self.set(group.chain(), ItemAt { seq, index }, Hole::Erased),
                Slot::Missing => self.set(group.chain(), ItemAt { seq, index }, Hole::Lacking),
            }
        }
    }

    /// Notes one.
    pub fn set(&mut self, chain: ChainId, at: ItemAt, hole: Hole) {
        self.0.entry(chain).or_default().insert(at, hole);
    }

    /// The item has come.
    pub fn fill(&mut self, chain: &ChainId, at: &ItemAt) {
        if let Some(of_chain) = self.0.get_mut(chain) {
            of_chain.remove(at);
            if of_chain.is_empty() {
                self.0.remove(chain);
            }
        }
    }

    /// Hash of the holes of a chain in its groups up to a number. Erased or lacking, a hole is a hole: of holders that have
    /// the same, one asks the other for nothing.
    #[must_use]
    pub fn hash(&self, chain: &ChainId, to: u64) -> HolesHash {
        let mut bytes = Vec::new();
        for at in self.0.get(chain).into_iter().flat_map(BTreeMap::keys).take_while(|at| at.seq <= to) {
            bytes.extend_from_slice(&at.seq.to_be_bytes());
            bytes.extend_from_slice(&at.index.to_be_bytes());
        }
        if bytes.is_empty() { HolesHash::default() } else { HolesHash(hash("sigil memory holes 1", &[&bytes])) }
    }

    /// Places of a chain that are lacking, in order, after one and in groups up to a number.
    pub fn lacking(&self, chain: &ChainId, after: Option<ItemAt>, to: u64) -> impl Iterator<Item = ItemAt> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let of_chain = self.0.get(chain).into_iter().flat_map(move |of_chain| of_chain.range(from));
        of_chain.take_while(move |(at, _)| at.seq <= to).filter(|(_, hole)| **hole == Hole::Lacking).map(|(at, _)| *at)
    }

    /// Items that are lacking, of all chains.
    #[must_use]
    pub fn count_lacking(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).filter(|hole| **hole == Hole::Lacking).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AuthorId, Incarnation};

    const CHAIN: ChainId = ChainId { author: AuthorId([1; 16]), incarnation: Incarnation(1) };

    fn holes(all: &[(u64, u16, Hole)]) -> Holes {
        let mut holes = Holes::default();
        for (seq, index, hole) in all {
            holes.set(CHAIN, ItemAt { seq: *seq, index: *index }, *hole);
        }
        holes
    }

    #[test]
    fn a_hole_is_a_hole_whoever_made_it() {
        let (erased, lacking) = (holes(&[(2, 1, Hole::Erased)]), holes(&[(2, 1, Hole::Lacking)]));
        assert_eq!(erased.hash(&CHAIN, 9), lacking.hash(&CHAIN, 9));
        assert_ne!(erased.hash(&CHAIN, 9), HolesHash::default());
        assert_eq!(erased.hash(&CHAIN, 1), HolesHash::default(), "beyond what the other has");
        assert_ne!(erased.hash(&CHAIN, 9), holes(&[(2, 2, Hole::Erased)]).hash(&CHAIN, 9));
        assert_eq!((erased.count_lacking(), lacking.count_lacking()), (0, 1));
    }

    #[test]
    fn what_is_lacking_is_asked_for_and_what_was_erased_is_not() {
        let mut all =
            holes(&[(1, 0, Hole::Lacking), (1, 3, Hole::Erased), (2, 0, Hole::Lacking), (7, 0, Hole::Lacking)]);
        let at = |seq, index| ItemAt { seq, index };
        assert_eq!(all.lacking(&CHAIN, None, 5).collect::<Vec<_>>(), [at(1, 0), at(2, 0)]);
        assert_eq!(all.lacking(&CHAIN, Some(at(1, 0)), 9).collect::<Vec<_>>(), [at(2, 0), at(7, 0)]);
        for one in [at(1, 0), at(1, 3), at(2, 0), at(7, 0)] {
            all.fill(&CHAIN, &one);
        }
        assert_eq!(all, Holes::default());
    }
}
