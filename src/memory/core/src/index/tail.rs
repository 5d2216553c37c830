//! Postings of the pieces that are in no segment yet.
//!
//! All of them are in one list, each with the place of the one before of its term: so a term costs no allocation, and all of
//! it goes at once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::segment::Posting;
use crate::text::grams::Term;

/// No posting before.
const FIRST: u32 = u32::MAX;

/// A hasher of terms, which are hashes.
#[derive(Debug, Default)]
struct TermHasher(u64);

impl Hasher for TermHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[derive(Debug)]
struct Entry {
    posting: Posting,
    before: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tail {
    last: HashMap<Term, u32, BuildHasherDefault<TermHasher>>,
    entries: Vec<Entry>,
}

impl Tail {
    /// Adds a posting; ordinals rise.
    pub(super) fn push(&mut self, term: Term, posting: Posting) {
        // One term of the tail has at most 2^32 postings: a segment is sealed long before.
        let place = u32::try_from(self.entries.len()).unwrap_or(FIRST);
        let before = self.last.insert(term, place).unwrap_or(FIRST);
        self.entries.push(Entry { posting, before });
    }

    /// Postings of a term, the newest first.
    pub(super) fn postings(&self, term: Term) -> impl Iterator<Item = Posting> {
        let last = self.last.get(&term).copied().unwrap_or(FIRST);
        let first = self.entries.get(last as usize);
        std::iter::successors(first, |entry| self.entries.get(entry.before as usize)).map(|entry| entry.posting)
    }

    /// Takes out all postings of ordinals below `end`, by term and ordinal.
    pub(super) fn take_below(&mut self, end: u32) -> Vec<(Term, Posting)> {
        let (mut taken, mut left) = (Vec::with_capacity(self.entries.len()), Vec::new());
        let terms: Vec<Term> = self.last.keys().copied().collect();
        for term in terms {
            for posting in self.postings(term) {
                if posting.ordinal < end { &mut taken } else { &mut left }.push((term, posting));
            }
        }
        let order = |(term, posting): &(Term, Posting)| (*term, posting.ordinal);
        taken.sort_unstable_by_key(order);
        left.sort_unstable_by_key(|(term, posting)| (posting.ordinal, *term));
        *self = Self::default();
        for (term, posting) in left {
            self.push(term, posting);
        }
        taken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
