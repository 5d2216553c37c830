//! All that the index knows of each piece beside its terms, and how pieces follow each other.

use serde::{Deserialize, Serialize};

use crate::ids::{BatchId, MessageKey, hash};
use crate::item::{Message, Span};
use crate::text::grams::{Term, terms};
use crate::text::{dates, pieces};

/// A pause that ends a sitting where the caller names none, milliseconds.
pub const PAUSE_MS: i64 = 30 * 60_000;

/// No such piece.
pub(crate) const NONE: u32 = u32::MAX;

/// Message that a piece is a part of. Of equal scores the lower comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// A message.
    Message(MessageKey),
    /// Words of a summary for a message.
    Line(BatchId, MessageKey),
    /// A fact.
    Fact(BatchId, MessageKey, u8),
    /// A model's words in front of a summary, and the message to which they lead: the one that says most of them.
    Head(BatchId, MessageKey),
}

impl Source {
    /// The message that it is, or stands for.
    #[must_use]
    pub fn message(&self) -> MessageKey {
        match self {
            Self::Message(key) | Self::Line(_, key) | Self::Fact(_, key, _) | Self::Head(_, key) => *key,
        }
    }
}

/// All that the index needs of one piece: made when it is appended, kept until its segment is sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForwardRow {
    /// Its terms with their counts, sorted.
    pub terms: Vec<(u64, u8)>,
    /// The rest.
    pub column: Column,
}

/// All that is kept of a piece in memory and beside its segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The message that it is a part of.
    pub source: Source,
    /// Which part of the text.
    pub span: Span,
    /// Number among the pieces of its source.
    pub number: u16,
    /// Number of its terms, with repeats.
    pub length: u32,
    /// Hash of the conversation.
    pub talk: u64,
    /// Hash of the session, if the caller named one.
    pub session: Option<u64>,
    /// Who said it.
    pub speaker: String,
    /// When, milliseconds since 1970.
    pub time_ms: i64,
    /// Minutes east of UTC.
    pub offset_min: i16,
    /// It ends in a question mark.
    pub asks: bool,
    /// It says when something was or will be.
    pub tells_time: bool,
}

impl Column {
    /// In the place of a piece that is erased.
    pub(crate) fn erased() -> Self {
        Self {
            source: Source::Head(BatchId([0; 16]), MessageKey([0; 16])),
            span: Span::new(0, 0),
            number: 0,
            length: 0,
            talk: 0,
            session: None,
            speaker: String::new(),
            time_ms: 0,
            offset_min: 0,
            asks: false,
            tells_time: false,
        }
    }
}

impl ForwardRow {
    /// The rows of a text that is a part of `source`, with the message that gives speaker, talk and time.
    #[must_use]
    pub fn of(source: Source, message: &Message, text: &str) -> Vec<Self> {
        let named = |name: &str| u64::from_be_bytes(hash("sigil name 1", &[name.as_bytes()]));
        let row = |(number, span): (u16, Span)| {
            let shown = span.of(text).unwrap_or_default();
            let rendered =
                if message.speaker.is_empty() { shown.to_owned() } else { format!("{}: {shown}", message.speaker) };
            let mut all = terms(&rendered);
            all.sort_unstable();
            let count = |same: &[Term]| Some((same.first()?.0, u8::try_from(same.len()).unwrap_or(u8::MAX)));
            let column = Column {
                source,
                span,
                number,
                length: all.len() as u32,
                talk: named(&message.conversation),
                session: message.session.as_deref().map(named),
                speaker: message.speaker.clone(),
                time_ms: message.time_ms,
                offset_min: message.offset_min,
                asks: shown.trim_end().ends_with(['?', '？']),
                tells_time: dates::tells_time(shown),
            };
            Self { terms: all.chunk_by(|a, b| a == b).filter_map(count).collect(), column }
        };
        (0..).zip(pieces::pieces(text)).map(row).collect()
    }
}

/// How pieces follow each other within sittings. Dead pieces are passed over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Links {
    /// The piece before, in the same sitting.
    pub(crate) previous: Vec<u32>,
    /// The piece after, in the same sitting.
    pub(crate) next: Vec<u32>,
    /// Number of the sitting.
    pub(crate) sitting: Vec<u32>,
    /// Number of sittings.
    pub(crate) sittings: u32,
}

impl Links {
    pub(crate) fn of(columns: &[Column], dead: &[bool]) -> Self {
        let mut order: Vec<(u32, &Column)> =
            (0..).zip(columns).zip(dead).filter(|(_, dead)| !**dead).map(|(living, _)| living).collect();
        let place = |c: &Column| (c.talk, c.session, c.time_ms, c.source, c.number);
        order.sort_unstable_by_key(|(_, column)| place(column));
        let mut links = Self {
            previous: vec![NONE; columns.len()],
            next: vec![NONE; columns.len()],
            sitting: vec![0; columns.len()],
            sittings: 0,
        };
        let mut before: Option<(u32, &Column)> = None;
        for (ordinal, column) in order {
            let same = before.filter(|(_, last)| {
                last.talk == column.talk
                    && last.session == column.session
                    && (column.session.is_some() || column.time_ms.saturating_sub(last.time_ms) <= PAUSE_MS)
            });
            match same {
                Some((last, _)) => links.join(last, ordinal),
                None => links.sittings += 1,
            }
            if let Some(sitting) = links.sitting.get_mut(ordinal as usize) {
                *sitting = links.sittings - 1;
            }
            before = Some((ordinal, column));
        }
        links
    }

    fn join(&mut self, before: u32, after: u32) {
        if let Some(next) = self.next.get_mut(before as usize) {
            *next = after;
        }
        if let Some(previous) = self.previous.get_mut(after as usize) {
            *previous = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(n: u8, session: Option<u64>, minute: i64) -> Column {
        Column {
            source: Source::Message(MessageKey([n; 16])),
            span: Span::new(0, 1),
            number: 0,
            length: 1,
            talk: 1,
            session,
            speaker: String::new(),
            time_ms: minute * 60_000,
            offset_min: 0,
            asks: false,
            tells_time: false,
        }
    }

    #[test]
    fn a_pause_begins_a_sitting_and_order_of_arrival_does_not_matter() {
        let columns = [column(1, None, 50), column(2, None, 0), column(3, None, 20), column(4, None, 90)];
        let links = Links::of(&columns, &[false; 4]);
        assert_eq!(links.previous, [2, NONE, 1, NONE]);
        assert_eq!(links.next, [NONE, 2, 0, NONE]);
        assert_eq!(links.sitting, [0, 0, 0, 1]);
    }

    #[test]
    fn a_named_session_is_not_cut_by_time_and_the_dead_are_passed_over() {
        let columns =
            [column(1, Some(1), 0), column(2, Some(1), 500), column(3, Some(1), 900), column(4, Some(2), 901)];
        let links = Links::of(&columns, &[false, true, false, false]);
        assert_eq!(links.next, [2, NONE, NONE, NONE]);
        assert_ne!(links.sitting[2], links.sitting[3]);
    }
}
