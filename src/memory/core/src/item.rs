//! Items: the unit of memory that is hashed, replicated and erased by itself.
//!
//! An item is hashed together with 16 random bytes, its **salt**. When it is erased, salt and body go and the hash stays
//! in its group: without the salt nobody can find out what a short text said by trying.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use mesh_core::ids::Hash;

use crate::codec;
use crate::ids::{BatchId, MessageKey, ModelId, Rev, WorkspaceId, hash};
use crate::limits;

/// Sixteen random bytes of an item, drawn by whoever appends it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Salt(#[serde(with = "serde_bytes")] pub [u8; 16]);

impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// Kind of an item. Numbers are for ever; items of an unknown one are kept and relayed, and count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kind(pub u8);

impl Kind {
    /// [`Body::Message`].
    pub const MESSAGE: Self = Self(1);
    /// [`Body::Correction`].
    pub const CORRECTION: Self = Self(2);
    /// [`Body::Tombstone`].
    pub const TOMBSTONE: Self = Self(3);
    /// [`Body::Summary`].
    pub const SUMMARY: Self = Self(4);
    /// [`Body::Rewrite`].
    pub const REWRITE: Self = Self(5);
    /// [`Body::Fact`].
    pub const FACT: Self = Self(6);
    /// [`Body::Standing`].
    pub const STANDING: Self = Self(7);
    /// [`Body::Head`].
    pub const HEAD: Self = Self(8);
}

/// A message as its caller gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The caller's id; unique in the workspace. 1 to [`limits::NAME_BYTES_MAX`] bytes.
    pub id: String,
    /// The talk that it belongs to; up to [`limits::NAME_BYTES_MAX`] bytes.
    pub conversation: String,
    /// The sitting within the talk. Without one a pause of 30 minutes begins another.
    pub session: Option<String>,
    /// Who said it; up to [`limits::SPEAKER_BYTES_MAX`] bytes, may be empty.
    pub speaker: String,
    /// All that was said; 1 to [`limits::TEXT_BYTES_MAX`] bytes.
    pub text: String,
    /// When, milliseconds since 1970.
    pub time_ms: i64,
    /// East of UTC by so many minutes, for days and months as the speaker knew them.
    pub offset_min: i16,
}

/// Why a message is refused. Nothing of its request is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// It says nothing.
    #[error("message `{id}` has no text")]
    Empty {
        /// The caller's id.
        id: String,
    },
    /// One of its texts is too long.
    #[error("{what} of message `{id}` has {bytes} bytes; at most {max} are taken")]
    TooLong {
        /// The caller's id, cut to 40 characters.
        id: String,
        /// Which text.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It has no id.
    #[error("a message has no id; the peer that takes it gives one to messages that come without")]
    NoId,
    /// Its offset is no time zone's.
    #[error("message `{id}` is {minutes} minutes off UTC; time zones are at most 18 hours off")]
    Offset {
        /// The caller's id.
        id: String,
        /// The offset.
        minutes: i16,
    },
}

impl Message {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first that is exceeded.
    pub fn check(&self) -> Result<(), InvalidMessage> {
        let id: String = self.id.chars().take(40).collect();
        if self.id.is_empty() {
            return Err(InvalidMessage::NoId);
        }
        if self.text.trim().is_empty() {
            return Err(InvalidMessage::Empty { id });
        }
        if self.offset_min.unsigned_abs() > 18 * 60 {
            return Err(InvalidMessage::Offset { id, minutes: self.offset_min });
        }
        for (what, text, max) in [
            ("the text", self.text.as_str(), limits::TEXT_BYTES_MAX),
            ("the id", &self.id, limits::NAME_BYTES_MAX),
            ("the conversation", &self.conversation, limits::NAME_BYTES_MAX),
            ("the session", self.session.as_deref().unwrap_or_default(), limits::NAME_BYTES_MAX),
            ("the speaker", &self.speaker, limits::SPEAKER_BYTES_MAX),
        ] {
            if text.len() > max {
                return Err(InvalidMessage::TooLong { id, what, bytes: text.len(), max });
            }
        }
        Ok(())
    }

    /// Its key in a workspace.
    #[must_use]
    pub fn key(&self, workspace: &WorkspaceId) -> MessageKey {
        MessageKey::of(workspace, &self.id)
    }

    /// Hash of all but the id: two messages with one id and one revision are the same message.
    #[must_use]
    pub fn rev(&self) -> Rev {
        let session = self.session.as_deref();
        Rev(hash(
            "sigil rev 1",
            &[
                self.conversation.as_bytes(),
                &[u8::from(session.is_some())],
                session.unwrap_or_default().as_bytes(),
                self.speaker.as_bytes(),
                self.text.as_bytes(),
                &self.time_ms.to_be_bytes(),
                &self.offset_min.to_be_bytes(),
            ],
        ))
    }
}

/// Another text for a message. The original stays readable; only the corrected text is indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// Which message.
    pub target: MessageKey,
    /// One more than the highest that its author knew: of several the highest counts.
    pub generation: u32,
    /// The text that it should have said; 1 to [`limits::TEXT_BYTES_MAX`] bytes.
    pub text: String,
}

impl Correction {
    /// Revision of a message with this text.
    #[must_use]
    pub fn rev(&self) -> Rev {
        Rev(hash("sigil rev corrected 1", &[&self.target.0, self.text.as_bytes()]))
    }
}

/// Bytes `start..end` of a message's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Byte after the last.
    pub end: u32,
}

impl Span {
    /// The span of `from..to`; texts are below 4 GiB by their limit.
    #[must_use]
    pub fn new(from: usize, to: usize) -> Self {
        Self { start: u32::try_from(from).unwrap_or(u32::MAX), end: u32::try_from(to).unwrap_or(u32::MAX) }
    }

    /// Part of `text` that it shows; `None` when it lies outside, is empty or cuts a character.
    #[must_use]
    pub fn of(self, text: &str) -> Option<&str> {
        text.get(self.start as usize..self.end as usize).filter(|shown| !shown.is_empty())
    }
}

/// A line of a summary: a part of a message. It copies no text, so corrections and forgetting reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Line {
    /// Of which message.
    pub key: MessageKey,
    /// Which part.
    pub span: Span,
}

/// What a compaction captured, and which lines stand for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// See [`BatchId::of`].
    pub batch: BatchId,
    /// Generation of the algorithm: of several batches with one message the highest wins it.
    pub algorithm: u16,
    /// All messages that it covers, with their revision then. At most [`limits::BATCH_MESSAGES_MAX`].
    pub covers: Vec<(MessageKey, Rev)>,
    /// Its lines, in order of time. Each is of a message that it covers.
    pub lines: Vec<Line>,
}

/// A model's words in the place of one line. Every receiver checks them against the message ([`crate::verify`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Of which batch.
    pub batch: BatchId,
    /// Of which message.
    pub key: MessageKey,
    /// As it was then.
    pub rev: Rev,
    /// Whose words they are.
    pub model: ModelId,
    /// The words.
    pub text: String,
}

/// A model's words in front of a summary, at most three sentences, shown as such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of which batch.
    pub batch: BatchId,
    /// Whose words they are.
    pub model: ModelId,
    /// The words; up to [`limits::HEAD_BYTES_MAX`] bytes.
    pub text: String,
    /// The messages that they rest on. When one is gone or changed, so are they.
    pub sources: Vec<(MessageKey, Rev)>,
}

/// Of whom or what a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// Of who said the message.
    Speaker,
    /// Of what a part of its text names.
    Words(Span),
}

/// Who found a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Extractor {
    /// Rules of [`crate::facts`].
    Rules,
    /// A model; checked like any other output of one.
    Model(ModelId),
}

/// Subject, predicate and object; subject and object are parts of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Of which batch.
    pub batch: BatchId,
    /// Of which message.
    pub key: MessageKey,
    /// As it was then.
    pub rev: Rev,
    /// Number among the facts of this batch and message, below [`limits::FACTS_PER_MESSAGE_MAX`].
    pub number: u8,
    /// Of whom or what.
    pub subject: Subject,
    /// [`crate::facts::Predicate`] by number; an unknown one is kept and not shown.
    pub predicate: u16,
    /// All that is said.
    pub object: Span,
    /// Who found it.
    pub extractor: Extractor,
}

/// A part of a message that asks to be kept in mind always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Of which message.
    pub key: MessageKey,
    /// As it was then.
    pub rev: Rev,
    /// Which part.
    pub span: Span,
}

/// The body of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// See [`Message`].
    Message(Message),
    /// See [`Correction`].
    Correction(Correction),
    /// A message is forgotten, for ever, whatever its content. Beats everything.
    Tombstone(MessageKey),
    /// See [`Summary`].
    Summary(Summary),
    /// See [`Rewrite`].
    Rewrite(Rewrite),
    /// See [`Fact`].
    Fact(Fact),
    /// See [`Standing`].
    Standing(Standing),
    /// See [`Head`].
    Head(Head),
    /// Of a later version: kept and relayed.
    Unknown(Kind),
}

/// A salted body as it is stored and sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// See the module.
    pub salt: Salt,
    /// Kind of the bytes.
    pub kind: Kind,
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Item {
    /// Leaves out what it says.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item").field("kind", &self.kind).field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Why an item is not what its kind says, or too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidItem {
    /// Its bytes are none of its kind.
    #[error("an item is not what its kind says")]
    Malformed,
    /// Over [`limits::ITEM_BYTES_MAX`].
    #[error("an item is too large")]
    TooLarge,
    /// A count, a span or a text in it breaks a limit.
    #[error("an item breaks a limit of its kind")]
    Limit,
}

impl Item {
    /// Encodes a body under a salt. An [`Body::Unknown`] has no bytes of ours and becomes empty.
    #[must_use]
    pub fn new(salt: Salt, body: &Body) -> Self {
        let (kind, bytes) = match body {
            Body::Message(it) => (Kind::MESSAGE, codec::encode(it)),
            Body::Correction(it) => (Kind::CORRECTION, codec::encode(it)),
            Body::Tombstone(it) => (Kind::TOMBSTONE, codec::encode(it)),
            Body::Summary(it) => (Kind::SUMMARY, codec::encode(it)),
            Body::Rewrite(it) => (Kind::REWRITE, codec::encode(it)),
            Body::Fact(it) => (Kind::FACT, codec::encode(it)),
            Body::Standing(it) => (Kind::STANDING, codec::encode(it)),
            Body::Head(it) => (Kind::HEAD, codec::encode(it)),
            Body::Unknown(kind) => (*kind, Vec::new()),
        };
        Self { salt, kind, bytes }
    }

    /// SHA-256 of salt, kind and body: what its group signs.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut sha = Sha256::new();
        sha.update(self.salt.0);
        sha.update([self.kind.0]);
        sha.update(&self.bytes);
        Hash(sha.finalize().into())
    }

    /// Size in bytes, salt and kind included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + 17
    }

    /// Decodes and checks the limits of its kind.
    ///
    /// # Errors
    /// When it is malformed, too large, or breaks a limit; it then counts for nothing, but stays in its group.
    pub fn body(&self) -> Result<Body, InvalidItem> {
        if self.size() > limits::ITEM_BYTES_MAX {
            return Err(InvalidItem::TooLarge);
        }
        let bytes = self.bytes.as_slice();
        let body = match self.kind {
            Kind::MESSAGE => codec::decode(bytes).map(Body::Message),
            Kind::CORRECTION => codec::decode(bytes).map(Body::Correction),
            Kind::TOMBSTONE => codec::decode(bytes).map(Body::Tombstone),
            Kind::SUMMARY => codec::decode(bytes).map(Body::Summary),
            Kind::REWRITE => codec::decode(bytes).map(Body::Rewrite),
            Kind::FACT => codec::decode(bytes).map(Body::Fact),
            Kind::STANDING => codec::decode(bytes).map(Body::Standing),
            Kind::HEAD => codec::decode(bytes).map(Body::Head),
            other => Some(Body::Unknown(other)),
        };
        let body = body.ok_or(InvalidItem::Malformed)?;
        if within_limits(&body) { Ok(body) } else { Err(InvalidItem::Limit) }
    }
}

fn within_limits(body: &Body) -> bool {
    match body {
        Body::Message(message) => message.check().is_ok(),
        Body::Correction(it) => !it.text.trim().is_empty() && it.text.len() <= limits::TEXT_BYTES_MAX,
        Body::Tombstone(_) | Body::Standing(_) | Body::Unknown(_) => true,
        Body::Summary(it) => {
            let covers = |key: &MessageKey| it.covers.iter().any(|(covered, _)| covered == key);
            (1..=limits::BATCH_MESSAGES_MAX).contains(&it.covers.len())
                && it.lines.len() <= it.covers.len()
                && it.lines.iter().all(|line| line.span.start < line.span.end && covers(&line.key))
        }
        Body::Rewrite(it) => {
            !it.text.trim().is_empty() && it.text.len() <= limits::REWRITE_TIMES_MAX * limits::TEXT_BYTES_MAX
        }
        Body::Fact(it) => usize::from(it.number) < limits::FACTS_PER_MESSAGE_MAX && it.object.start < it.object.end,
        Body::Head(it) => {
            !it.text.trim().is_empty()
                && it.text.len() <= limits::HEAD_BYTES_MAX
                && (1..=limits::BATCH_MESSAGES_MAX).contains(&it.sources.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn message(id: &str, text: &str) -> Message {
        Message {
            id: id.to_owned(),
            conversation: "talk".to_owned(),
            session: None,
            speaker: "Ann".to_owned(),
            text: text.to_owned(),
            time_ms: 0,
            offset_min: 0,
        }
    }

    #[test]
    fn one_text_under_two_salts_has_two_hashes() {
        let body = Body::Message(message("a", "yes"));
        let (one, two) = (Item::new(Salt([1; 16]), &body), Item::new(Salt([2; 16]), &body));
        assert_ne!(one.hash(), two.hash());
        assert_eq!(one.body(), two.body());
    }

    #[test]
    fn a_revision_is_of_the_content_not_of_the_id() {
        assert_eq!(message("a", "yes").rev(), message("b", "yes").rev());
        assert_ne!(message("a", "yes").rev(), message("a", "no").rev());
        let sitting = Message { session: Some(String::new()), ..message("a", "yes") };
        assert_ne!(sitting.rev(), message("a", "yes").rev());
    }

    #[test]
    fn limits_of_a_message_are_told() {
        let long = message("a", &"x".repeat(limits::TEXT_BYTES_MAX + 1));
        assert!(matches!(long.check(), Err(InvalidMessage::TooLong { what: "the text", .. })));
        assert_eq!(message("", "x").check(), Err(InvalidMessage::NoId));
        assert!(matches!(message("a", "  ").check(), Err(InvalidMessage::Empty { .. })));
        let item = Item::new(Salt([0; 16]), &Body::Message(long));
        assert_eq!(item.body(), Err(InvalidItem::Limit));
    }

    #[test]
    fn a_line_of_a_message_that_is_not_covered_is_refused() {
        let (a, b) = (MessageKey([1; 16]), MessageKey([2; 16]));
        let summary = Summary {
            batch: BatchId([0; 16]),
            algorithm: 1,
            covers: vec![(a, Rev([0; 8]))],
            lines: vec![Line { key: b, span: Span::new(0, 1) }],
        };
        assert_eq!(Item::new(Salt([0; 16]), &Body::Summary(summary)).body(), Err(InvalidItem::Limit));
    }

    #[test]
    fn what_is_unknown_is_kept() {
        let item = Item { salt: Salt([0; 16]), kind: Kind(99), bytes: vec![1, 2, 3] };
        assert_eq!(item.body(), Ok(Body::Unknown(Kind(99))));
    }

    #[test]
    fn a_span_never_cuts_a_character() {
        assert_eq!(Span::new(0, 1).of("ä"), None);
        assert_eq!(Span::new(0, 2).of("ä"), Some("ä"));
        assert_eq!(Span::new(5, 9).of("ä"), None);
    }

    proptest! {
        #[test]
        fn an_item_reads_as_it_was_written(id in ".{1,20}", text in "[a-z ]{0,40}x", time_ms: i64, session in proptest::option::of(".{0,9}")) {
            let body = Body::Message(Message { id, session, text, time_ms, ..message("", "") });
            prop_assert_eq!(Item::new(Salt([3; 16]), &body).body(), Ok(body));
        }

        #[test]
        fn any_bytes_are_an_item_or_an_error(kind in 0u8..12, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Item { salt: Salt([0; 16]), kind: Kind(kind), bytes }.body());
        }
    }
}
