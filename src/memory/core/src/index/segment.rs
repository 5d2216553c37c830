//! Segments: postings of up to [`SEGMENT_PIECES`] pieces as one immutable value.
//!
//! Layout: magic `sgms`, version, tokenizer, then of 4 bytes each (big-endian) the first ordinal, the number of pieces, the
//! number of terms, the length of the postings; the table of terms (8 bytes of hash, 4 bytes of offset into the postings), sorted;
//! the postings, per term pairs of varints (ordinal minus the one before, count); and 8 bytes of SHA-256 over it all.

use sha2::{Digest, Sha256};

use crate::text::grams::{TOKENIZER, Term};

/// Pieces of one segment, at most.
pub const SEGMENT_PIECES: usize = 8_192;

const MAGIC: &[u8; 4] = b"sgms";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 22;
const ROW_BYTES: usize = 12;
const SUM_BYTES: usize = 8;

/// One occurrence: which piece, how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posting {
    /// The piece.
    pub ordinal: u32,
    /// How often the term is in it, at most 255.
    pub count: u8,
}

/// A sealed segment.
#[derive(Debug, Clone)]
pub struct Segment {
    bytes: Vec<u8>,
    base: u32,
    pieces: u32,
    terms: usize,
}

/// Why a stored segment cannot be used. It is rebuilt from the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Its checksum does not fit, or it is cut.
    #[error("a segment of the index is damaged")]
    Damaged,
    /// It was made by another version of the format or of the tokenizer.
    #[error("a segment of the index is of another version")]
    Version,
}

impl Segment {
    /// Seals postings of the pieces `base..base + pieces`, which are in order of terms, and of ordinals within each.
    #[must_use]
    pub fn seal(base: u32, pieces: u32, postings: &[(Term, Posting)]) -> Self {
        let mut data = Vec::new();
        let mut table = Vec::new();
        let mut terms = 0_usize;
        for of_term in postings.chunk_by(|(a, _), (b, _)| a == b) {
            let Some((term, _)) = of_term.first() else { continue };
            terms += 1;
            table.extend_from_slice(&term.0.to_be_bytes());
            table.extend_from_slice(&(data.len() as u32).to_be_bytes());
            let mut last = base;
            for (_, posting) in of_term {
                push_varint(&mut data, posting.ordinal - last);
                push_varint(&mut data, u32::from(posting.count));
                last = posting.ordinal;
            }
        }
        let mut bytes = Vec::with_capacity(HEAD_BYTES + table.len() + data.len() + SUM_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, TOKENIZER]);
        for number in [base, pieces, terms as u32, data.len() as u32] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&table);
        bytes.extend_from_slice(&data);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        Self { bytes, base, pieces, terms }
    }

    /// Reads what [`Segment::bytes`] gave.
    ///
    /// # Errors
    /// When it is damaged or of another version.
    pub fn read(bytes: Vec<u8>) -> Result<Self, SegmentError> {
        let number = |at: usize| {
            bytes
                .get(at..at + 4)
                .and_then(|it| it.first_chunk())
                .map(|it| u32::from_be_bytes(*it))
                .ok_or(SegmentError::Damaged)
        };
        let (body, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or(SegmentError::Damaged)?;
        if body.get(..4) != Some(MAGIC) || checksum(body) != *sum {
            return Err(SegmentError::Damaged);
        }
        if body.get(4..6) != Some(&[VERSION, TOKENIZER]) {
            return Err(SegmentError::Version);
        }
        let (base, pieces, terms, data) = (number(6)?, number(10)?, number(14)? as usize, number(18)? as usize);
        let fits = HEAD_BYTES + terms.saturating_mul(ROW_BYTES).saturating_add(data) == body.len();
        if !fits || pieces as usize > SEGMENT_PIECES || base.checked_add(pieces).is_none() {
            return Err(SegmentError::Damaged);
        }
        Ok(Self { bytes, base, pieces, terms })
    }

    /// Its postings, by term and ordinal.
    pub fn all(&self) -> impl Iterator<Item = (Term, Posting)> {
        (0..self.terms).filter_map(|n| self.row(n)).flat_map(|(term, _)| self.postings(term).map(move |it| (term, it)))
    }

    /// The same for pieces with other ordinals: nothing but the first is stored of these.
    #[must_use]
    pub(crate) fn at(self, base: u32) -> Self {
        Self { base, ..self }
    }

    /// Its stored form.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// First ordinal.
    #[must_use]
    pub fn base(&self) -> u32 {
        self.base
    }

    /// Number of pieces.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// The postings of a term, in order of ordinals.
    pub fn postings(&self, term: Term) -> impl Iterator<Item = Posting> {
        let mut data = self.data_of(term).unwrap_or_default();
        let (mut ordinal, end) = (self.base, self.base + self.pieces);
        std::iter::from_fn(move || {
            let (step, count) = (take_varint(&mut data)?, take_varint(&mut data)?);
            ordinal = ordinal.checked_add(step).filter(|it| *it < end)?;
            Some(Posting { ordinal, count: u8::try_from(count).unwrap_or(u8::MAX) })
        })
    }

    fn row(&self, n: usize) -> Option<(Term, usize)> {
        let (hash, rest) = self.bytes.get(HEAD_BYTES + n * ROW_BYTES..)?.split_first_chunk::<8>()?;
        let offset = rest.first_chunk::<4>()?;
        Some((Term(u64::from_be_bytes(*hash)), u32::from_be_bytes(*offset) as usize))
    }

    fn data_of(&self, term: Term) -> Option<&[u8]> {
        let (mut low, mut high) = (0, self.terms);
        while low < high {
            let middle = low.midpoint(high);
            if self.row(middle)?.0 < term { low = middle + 1 } else { high = middle }
        }
        let (found, from) = (low < self.terms).then(|| self.row(low)).flatten()?;
        if found != term {
            return None;
        }
        let data = self.bytes.get(HEAD_BYTES + self.terms * ROW_BYTES..self.bytes.len() - SUM_BYTES)?;
        let to = if low + 1 < self.terms { self.row(low + 1)?.1 } else { data.len() };
        data.get(from..to)
    }
}

fn checksum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let full: [u8; 32] = Sha256::digest(bytes).into();
    *full.first_chunk().expect("32 bytes begin with 8")
}

fn push_varint(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take_varint(data: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn flat(postings: &BTreeMap<Term, Vec<Posting>>) -> Vec<(Term, Posting)> {
        postings.iter().flat_map(|(term, all)| all.iter().map(|it| (*term, *it))).collect()
    }

    fn postings() -> impl Strategy<Value = BTreeMap<Term, Vec<Posting>>> {
        let list = proptest::collection::btree_map(100u32..400, 1u8..=255, 1..30)
            .prop_map(|map| map.into_iter().map(|(ordinal, count)| Posting { ordinal, count }).collect());
        proptest::collection::btree_map((0u64..50).prop_map(Term), list, 0..20)
    }

    proptest! {
        #[test]
        fn a_segment_reads_as_it_was_sealed(postings in postings()) {
            let segment = Segment::read(Segment::seal(100, 300, &flat(&postings)).bytes).unwrap();
            prop_assert_eq!(segment.all().collect::<Vec<_>>(), flat(&postings));
            for term in (0..51).map(Term) {
                let expected = postings.get(&term).cloned().unwrap_or_default();
                prop_assert_eq!(segment.postings(term).collect::<Vec<_>>(), expected);
            }
        }

        #[test]
        fn a_changed_byte_is_found(postings in postings(), at: proptest::sample::Index, bit in 0u8..8) {
            let mut bytes = Segment::seal(100, 300, &flat(&postings)).bytes;
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Segment::read(bytes).is_err());
        }

        #[test]
        fn fuzz_any_bytes_with_a_good_sum_do_no_harm(body in proptest::collection::vec(any::<u8>(), 0..200), head: bool, sizes: [u8; 3]) {
            let mut bytes = if head { [MAGIC.as_slice(), &[VERSION, TOKENIZER]].concat() } else { Vec::new() };
            if head {
                for size in [0, sizes[0], sizes[1], sizes[2]] {
                    bytes.extend_from_slice(&u32::from(size).to_be_bytes());
                }
            }
            bytes.extend_from_slice(&body);
            let sum = checksum(&bytes);
            bytes.extend_from_slice(&sum);
            if let Ok(segment) = Segment::read(bytes) {
                for term in 0..20 {
                    prop_assert!(segment.postings(Term(term)).all(|it| it.ordinal < segment.base() + segment.pieces()));
                }
            }
        }
    }
}
