//! Keys and values on disk.
//!
//! | prefix | key → value |
//! | --- | --- |
//! | 01 | → [`Meta`] |
//! | 02 | → there while something is forgotten and its bytes may still be in the engine's files |
//! | 10 | chain20 seq8 → [`GroupRow`] |
//! | 11 | chain20 → head |
//! | 12 | chain20 hlc8 index2 → item; absent when erased or missing |
//! | 21 | number4 → segment of the index, with a sum of its own · 22 number4 → its columns |
//! | 03 | → [`Searched`] |
//! | 40 | message16 kind1 number1 → [`VectorRow`]: of the message itself, of a line, of a fact, of a head that leads to it |
//! | 60 | message16 chain20 hlc8 index2 → seq8: the items with text about a message |
//! | 61 | message16 → [`TombstoneRow`] |
//! | 70 | batch16 → capture that is not committed |
//! | 71 | batch16 → [`Tried`]: which model was asked about it |
//!
//! Values are a version byte and CBOR. The key of an item is its stamp, so whatever names a stamp finds the text.

use memory_core::group::{ChainId, Head, Header, SignedGroup, Slot, Stamp};
use memory_core::holes::{Hole, Holes, ItemAt};
use memory_core::ids::{AuthorId, BatchId, Incarnation, MessageKey, ModelId, Rev, WorkspaceId};
use memory_core::index::columns::Source;
use memory_core::index::vectors::Vec8;
use memory_core::replica::Sent;
use memory_core::writing::Tried;
use mesh_core::ids::Signature;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::MemoryError;

/// Version of the values.
const VERSION: u8 = 1;

pub(super) const META: u8 = 0x01;
const FORGETTING: u8 = 0x02;
pub(super) const GROUP: u8 = 0x10;
pub(super) const HEAD: u8 = 0x11;
pub(super) const ITEM: u8 = 0x12;
pub(super) const SEGMENT: u8 = 0x21;
pub(super) const COLUMNS: u8 = 0x22;
const SEARCHED: u8 = 0x03;
pub(super) const VECTOR: u8 = 0x40;
const ABOUT: u8 = 0x60;
pub(super) const TOMBSTONE: u8 = 0x61;
pub(super) const CAPTURE: u8 = 0x70;
pub(super) const TRIED: u8 = 0x71;

/// Bytes of a stamp in a key.
const STAMP_LEN: usize = 30;

/// Identity of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) workspace: WorkspaceId,
    pub(super) incarnation: Incarnation,
}

/// State of an item in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// Its row is there.
    Held,
    /// It was erased here, on purpose.
    Erased,
    /// Who sent the group left it out: another is asked for it.
    Missing,
}

/// A group without its items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupRow {
    #[serde(with = "serde_bytes")]
    pub(super) header: Vec<u8>,
    pub(super) signature: Signature,
    pub(super) places: Vec<Place>,
}

/// Place where it is said that a message is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TombstoneRow {
    /// In this group of a chain.
    InChain(ChainId, u64),
    /// It came ahead of its chain, with the header of its group.
    Alone(Box<Sent>),
}

/// The model whose vectors are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Searched {
    pub(super) model: ModelId,
    pub(super) dimension: usize,
}

/// A vector, and what it is of: it counts while that is so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct VectorRow {
    /// The message as it was.
    pub(super) rev: Rev,
    /// The batch of a line or a fact.
    pub(super) batch: Option<BatchId>,
    /// First byte of it in the message's text.
    pub(super) at: u32,
    pub(super) vector: Vec8,
}

impl GroupRow {
    /// The header, read.
    pub(super) fn header_of(&self) -> Option<Header> {
        Header::read(&self.header)
    }

    /// Notes what is not held of it.
    pub(super) fn note_holes(&self, chain: ChainId, seq: u64, holes: &mut Holes) {
        for (index, place) in (0..).zip(&self.places) {
            match place {
                Place::Held => {}
                Place::Erased => holes.set(chain, ItemAt { seq, index }, Hole::Erased),
                Place::Missing => holes.set(chain, ItemAt { seq, index }, Hole::Lacking),
            }
        }
    }

    pub(super) fn of(group: &SignedGroup) -> Self {
        let place = |slot: &Slot| match slot {
            Slot::Held(_) => Place::Held,
            Slot::Erased => Place::Erased,
            Slot::Missing => Place::Missing,
        };
        Self {
            header: group.bytes().to_vec(),
            signature: group.signature(),
            places: group.slots().iter().map(place).collect(),
        }
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(vec![VERSION], value).expect("our values are plain data")
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MemoryError> {
    let body = bytes.strip_prefix(&[VERSION]).ok_or(MemoryError::Damaged("a row is of another version"))?;
    cbor4ii::serde::from_slice(body).map_err(|_| MemoryError::Damaged("a row cannot be read"))
}

fn push_chain(key: &mut Vec<u8>, chain: &ChainId) {
    key.extend_from_slice(&chain.author.0);
    key.extend_from_slice(&chain.incarnation.0.to_be_bytes());
}

pub(super) fn group(chain: &ChainId, seq: u64) -> Vec<u8> {
    let mut key = vec![GROUP];
    push_chain(&mut key, chain);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

/// The chain of a key of [`GROUP`], and the number in it.
pub(super) fn group_at(key: &[u8]) -> Option<(ChainId, u64)> {
    let (of_chain, seq) = key.split_last_chunk::<8>()?;
    Some((chain(of_chain)?, u64::from_be_bytes(*seq)))
}

pub(super) fn head(chain: &ChainId) -> Vec<u8> {
    let mut key = vec![HEAD];
    push_chain(&mut key, chain);
    key
}

/// Key of the mark that a rewriting is due.
pub(super) fn forgetting() -> Vec<u8> {
    vec![FORGETTING]
}

pub(super) fn segment(number: u32) -> Vec<u8> {
    [&[SEGMENT][..], &number.to_be_bytes()].concat()
}

pub(super) fn columns(number: u32) -> Vec<u8> {
    [&[COLUMNS][..], &number.to_be_bytes()].concat()
}

/// The number of a key of [`SEGMENT`] or [`COLUMNS`].
pub(super) fn segment_number(key: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(key.get(1..)?.try_into().ok()?))
}

/// True for a row of a kind that this version writes.
pub(super) fn is_known(key: &[u8]) -> bool {
    let kinds =
        [META, FORGETTING, SEARCHED, GROUP, HEAD, ITEM, SEGMENT, COLUMNS, VECTOR, ABOUT, TOMBSTONE, CAPTURE, TRIED];
    key.first().is_some_and(|kind| kinds.contains(kind))
}

/// True for a row that is made anew from others when it is lacking.
pub(super) fn is_made_anew(key: &[u8]) -> bool {
    matches!(key.first(), Some(&SEGMENT | &COLUMNS | &SEARCHED | &VECTOR | &TRIED))
}

/// Key of the model whose vectors are kept.
pub(super) fn searched() -> Vec<u8> {
    vec![SEARCHED]
}

/// All keys that begin so are of vectors of this message and of what was made of it.
pub(super) fn vector_prefix(message: &MessageKey) -> Vec<u8> {
    [&[VECTOR][..], &message.0].concat()
}

/// Key of a vector.
pub(super) fn vector(source: &Source) -> Vec<u8> {
    let (message, tail) = match source {
        Source::Message(key) => (key, [0, 0]),
        Source::Line(_, key) => (key, [1, 0]),
        Source::Fact(_, key, number) => (key, [2, *number]),
        Source::Head(_, key) => (key, [3, 0]),
    };
    [vector_prefix(message).as_slice(), &tail].concat()
}

/// The source of a key of [`VECTOR`] whose row names this batch.
pub(super) fn vector_source(key: &[u8], batch: Option<BatchId>) -> Option<Source> {
    let (message, tail) = key.get(1..)?.split_first_chunk::<16>()?;
    let message = MessageKey(*message);
    match (tail, batch) {
        ([0, 0], None) => Some(Source::Message(message)),
        ([1, 0], Some(batch)) => Some(Source::Line(batch, message)),
        ([2, number], Some(batch)) => Some(Source::Fact(batch, message, *number)),
        ([3, 0], Some(batch)) => Some(Source::Head(batch, message)),
        _ => None,
    }
}

pub(super) fn capture(batch: &BatchId) -> Vec<u8> {
    [&[CAPTURE][..], &batch.0].concat()
}

/// Key of what was tried of a batch.
pub(super) fn tried(batch: &BatchId) -> Vec<u8> {
    [&[TRIED][..], &batch.0].concat()
}

/// A row of [`TRIED`].
pub(super) fn tried_row(key: &[u8], value: &[u8]) -> Result<(BatchId, Tried), MemoryError> {
    let batch = key.get(1..).and_then(|batch| batch.try_into().ok()).map(BatchId);
    Ok((batch.ok_or(MemoryError::Damaged("the key of what was tried"))?, decode(value)?))
}

pub(super) fn tombstone(message: &MessageKey) -> Vec<u8> {
    [&[TOMBSTONE][..], &message.0].concat()
}

/// The message of a key of [`TOMBSTONE`].
pub(super) fn forgotten(key: &[u8]) -> Option<MessageKey> {
    Some(MessageKey(key.get(1..)?.try_into().ok()?))
}

fn push_stamp(key: &mut Vec<u8>, stamp: &Stamp) {
    push_chain(key, &ChainId { author: stamp.author, incarnation: stamp.incarnation });
    key.extend_from_slice(&stamp.hlc.0.to_be_bytes());
    key.extend_from_slice(&stamp.index.to_be_bytes());
}

pub(super) fn item(stamp: &Stamp) -> Vec<u8> {
    let mut key = vec![ITEM];
    push_stamp(&mut key, stamp);
    key
}

/// All keys that begin so are of items about this message.
pub(super) fn about_prefix(message: &MessageKey) -> Vec<u8> {
    [&[ABOUT][..], &message.0].concat()
}

pub(super) fn about(message: &MessageKey, stamp: &Stamp) -> Vec<u8> {
    let mut key = about_prefix(message);
    push_stamp(&mut key, stamp);
    key
}

/// The stamp at the end of a key.
pub(super) fn stamp(key: &[u8]) -> Option<Stamp> {
    let (author, rest) = key.get(key.len().checked_sub(STAMP_LEN)?..)?.split_first_chunk::<16>()?;
    let (incarnation, rest) = rest.split_first_chunk::<4>()?;
    let (hlc, index) = rest.split_first_chunk::<8>()?;
    Some(Stamp {
        hlc: memory_core::group::Hlc(u64::from_be_bytes(*hlc)),
        author: AuthorId(*author),
        incarnation: Incarnation(u32::from_be_bytes(*incarnation)),
        index: u16::from_be_bytes(index.try_into().ok()?),
    })
}

/// The chain of a key of [`HEAD`].
pub(super) fn chain(key: &[u8]) -> Option<ChainId> {
    let (author, incarnation) = key.get(1..)?.split_first_chunk::<16>()?;
    let incarnation = Incarnation(u32::from_be_bytes(incarnation.try_into().ok()?));
    Some(ChainId { author: AuthorId(*author), incarnation })
}

/// A row of a head.
pub(super) fn head_row(key: &[u8], value: &[u8]) -> Result<(ChainId, Head), MemoryError> {
    Ok((chain(key).ok_or(MemoryError::Damaged("the key of a head"))?, decode(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory_core::group::Hlc;

    #[test]
    fn keys_read_as_they_are_written() {
        let stamp = Stamp { hlc: Hlc(77), author: AuthorId([3; 16]), incarnation: Incarnation(9), index: 258 };
        let chain = ChainId { author: stamp.author, incarnation: stamp.incarnation };
        assert_eq!(super::stamp(&item(&stamp)), Some(stamp));
        assert_eq!(super::stamp(&about(&MessageKey([1; 16]), &stamp)), Some(stamp));
        assert_eq!(super::chain(&head(&chain)), Some(chain));
        assert_eq!(super::group_at(&group(&chain, 99)), Some((chain, 99)));
        assert_eq!(super::stamp(&[ITEM]), None);
        assert!(about(&MessageKey([1; 16]), &stamp).starts_with(&about_prefix(&MessageKey([1; 16]))));
    }

    #[test]
    fn keys_of_vectors_read_as_they_are_written() {
        let (batch, key) = (BatchId([4; 16]), MessageKey([1; 16]));
        for (source, of) in [
            (Source::Message(key), None),
            (Source::Line(batch, key), Some(batch)),
            (Source::Fact(batch, key, 7), Some(batch)),
            (Source::Head(batch, key), Some(batch)),
        ] {
            let written = vector(&source);
            assert!(written.starts_with(&vector_prefix(&key)) && is_known(&written) && is_made_anew(&written));
            assert_eq!(vector_source(&written, of), Some(source));
            assert_eq!(vector_source(&written, of.is_none().then_some(batch)), None);
        }
        let tried = Tried { model: ModelId([1; 16]), lines: Rev([2; 8]), attempts: 3, over: true };
        assert_eq!(tried_row(&super::tried(&batch), &encode(&tried)).unwrap(), (batch, tried));
    }

    #[test]
    fn a_value_of_another_version_is_refused() {
        let meta = Meta { workspace: WorkspaceId([1; 16]), incarnation: Incarnation(2) };
        let mut bytes = encode(&meta);
        assert_eq!(decode::<Meta>(&bytes).unwrap(), meta);
        bytes[0] = 2;
        assert!(matches!(decode::<Meta>(&bytes), Err(MemoryError::Damaged(_))));
    }
}
