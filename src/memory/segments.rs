//! Segments of the index on disk: made once of many texts, and read whole when the workspace is opened.
//!
//! What is kept of a segment is a value of the index's own form, with its sum, and the columns of its pieces with what else
//! an opening would read the texts for. A segment that is missing, damaged or of another version is made anew from the
//! texts.

use std::collections::BTreeMap;

use bytes::Bytes;
use memory_core::ids::{MessageKey, Rev};
use memory_core::index::columns::{Column, Source};
use memory_core::index::segment::Segment;
use memory_core::item::Span;
use serde::{Deserialize, Serialize};

use super::keys;
use crate::store::Write;

/// Version of the rules by which texts become pieces and columns. Those of another are made anew.
const RULES: u16 = 1;

/// All but the pieces that is known of a message by its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Text {
    pub(super) key: MessageKey,
    /// As it was appended, and as it was when it was indexed.
    pub(super) content: Rev,
    pub(super) rev: Rev,
    pub(super) time_ms: i64,
    pub(super) standing: Vec<Span>,
}

/// A column: text and speaker by their places, span, number, length, talk, session, minutes east, flags.
type Piece = (u32, u32, Span, u16, u32, u64, Option<u64>, i16, u8);

const ASKS: u8 = 1;
const TELLS_TIME: u8 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    rules: u16,
    texts: Vec<Text>,
    speakers: Vec<String>,
    pieces: Vec<Option<Piece>>,
}

/// A segment with all that belongs to it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) segment: Segment,
    pub(super) columns: Vec<Option<Column>>,
    pub(super) texts: Vec<Text>,
}

/// The rows of a segment. Pieces of which `text` knows nothing are left out.
pub(super) fn rows(
    number: u32,
    segment: &Segment,
    columns: &[Option<&Column>],
    text: impl Fn(&MessageKey) -> Option<Text>,
) -> Vec<Write> {
    let mut kept = Kept { rules: RULES, texts: Vec::new(), speakers: Vec::new(), pieces: Vec::new() };
    let mut places: BTreeMap<MessageKey, Option<u32>> = BTreeMap::new();
    let mut speakers: BTreeMap<&str, u32> = BTreeMap::new();
    let place = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    for column in columns {
        let piece = column.and_then(|column| {
            let Source::Message(key) = column.source else { return None };
            let of_text = *places.entry(key).or_insert_with(|| {
                let text = text(&key)?;
                kept.texts.push(text);
                Some(place(kept.texts.len() - 1))
            });
            let speaker = *speakers.entry(&column.speaker).or_insert_with(|| {
                kept.speakers.push(column.speaker.clone());
                place(kept.speakers.len() - 1)
            });
            let flags = u8::from(column.asks) * ASKS + u8::from(column.tells_time) * TELLS_TIME;
            let Column { span, number, length, talk, session, offset_min, .. } = column;
            Some((of_text?, speaker, *span, *number, *length, *talk, *session, *offset_min, flags))
        });
        kept.pieces.push(piece);
    }
    vec![
        (keys::segment(number), Some(Bytes::copy_from_slice(segment.bytes()))),
        (keys::columns(number), Some(keys::encode(&kept).into())),
    ]
}

/// Writes that remove a segment.
pub(super) fn removal(number: u32) -> Vec<Write> {
    vec![(keys::segment(number), None), (keys::columns(number), None)]
}

/// Reads the rows of a segment; `None`: it is to be made anew.
pub(super) fn read(segment: &Bytes, columns: &Bytes) -> Option<Read> {
    let segment = Segment::read(segment.to_vec()).ok()?;
    let kept: Kept = keys::decode(columns).ok().filter(|kept: &Kept| kept.rules == RULES)?;
    let column = |(text, speaker, span, number, length, talk, session, offset_min, flags): &Piece| {
        let text = kept.texts.get(*text as usize)?;
        Some(Column {
            source: Source::Message(text.key),
            span: *span,
            number: *number,
            length: *length,
            talk: *talk,
            session: *session,
            speaker: kept.speakers.get(*speaker as usize)?.clone(),
            time_ms: text.time_ms,
            offset_min: *offset_min,
            asks: flags & ASKS != 0,
            tells_time: flags & TELLS_TIME != 0,
        })
    };
    let columns: Vec<Option<Column>> = kept.pieces.iter().map(|piece| piece.as_ref().and_then(column)).collect();
    let is_whole = columns.iter().zip(&kept.pieces).all(|(column, piece)| column.is_some() == piece.is_some())
        && columns.len() == segment.pieces() as usize;
    is_whole.then_some(Read { segment, columns, texts: kept.texts })
}
