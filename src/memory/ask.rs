//! Questions: what is found, why, and what goes along with it.

use std::collections::{BTreeMap, BTreeSet};

use memory_core::facts::{Predicate, subject_text};
use memory_core::ids::{BatchId, MessageKey, ModelId};
use memory_core::index::columns::Source;
use memory_core::item::{Extractor, Message};
use memory_core::limits::{STANDING_MAX, STANDING_TOKENS_MAX};
use memory_core::rank::{self, Parts, Query, pack};
use memory_core::text::tokens;

use super::error::MemoryError;
use super::reader::Reader;
use super::workspace::Workspace;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Messages, with the facts and summary lines that were made of them.
    Auto,
    /// Messages.
    Text,
    /// By meaning. Without a model the words count, and the answer says so.
    Semantic,
    /// Facts.
    Facts,
    /// Lines of summaries.
    Summary,
}

/// A question.
#[derive(Debug, Clone)]
pub struct Question {
    /// Its words.
    pub text: String,
    /// What is looked for.
    pub mode: Mode,
    /// Hits wanted, at most [`rank::HITS_MAX`].
    pub limit: usize,
    /// Tokens (characters / 4) of all texts together; the first hit is always given.
    pub tokens_max: usize,
    /// Only what was said up to this time, milliseconds since 1970.
    pub as_of_ms: Option<i64>,
    /// Its vector, and of which model; without one, or while few messages have one, the words count.
    pub vector: Option<(ModelId, Vec<f32>)>,
}

/// A part of a message, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The message.
    pub key: MessageKey,
    /// The caller's id of it.
    pub external_id: String,
    /// See [`Message::conversation`].
    pub conversation: String,
    /// Who said it.
    pub speaker: String,
    /// When, milliseconds since 1970.
    pub time_ms: i64,
    /// What was said, or the part of it that was found.
    pub text: String,
}

impl Said {
    pub(super) fn of(key: MessageKey, message: &Message, text: &str) -> Self {
        Self {
            key,
            external_id: message.id.clone(),
            conversation: message.conversation.clone(),
            speaker: message.speaker.clone(),
            time_ms: message.time_ms,
            text: text.to_owned(),
        }
    }
}

/// A fact, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// The message that says it.
    pub source: MessageKey,
    /// Of whom or what.
    pub subject: String,
    /// What is said.
    pub predicate: &'static str,
    /// Of it.
    pub object: String,
    /// When it was said.
    pub time_ms: i64,
    /// A newer fact of the list has replaced it.
    pub superseded: bool,
    /// A model found it: its words are the message's, what it makes of them may be wrong.
    pub by_model: bool,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// What.
    pub said: Said,
    /// In units of 1/10,000; the sum of its parts.
    pub score: i64,
    /// What the score is made of.
    pub parts: Parts,
    /// What was said before and after, as far as there was room.
    pub context: Vec<Said>,
    /// The facts of it that count.
    pub facts: Vec<Fact>,
    /// Its line in a summary, and which.
    pub line: Option<(BatchId, String)>,
    /// What it said before it was corrected.
    pub was: Option<String>,
}

/// An instruction that is meant to last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The message that gives it.
    pub source: MessageKey,
    /// Its words.
    pub text: String,
    /// When it was given.
    pub time_ms: i64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was found, best first.
    pub hits: Vec<Hit>,
    /// Instructions that are meant to last, the newest first.
    pub standing: Vec<Standing>,
    /// True if the meaning counted.
    pub by_meaning: bool,
}

impl Workspace {
    /// Looks for what answers a question.
    ///
    /// # Errors
    /// The disk.
    pub fn ask(&mut self, question: &Question) -> Result<Answer, MemoryError> {
        let limit = question.limit.min(rank::HITS_MAX);
        // Of facts and lines there are fewer than of messages: more messages are looked through for them.
        let of_messages = match question.mode {
            Mode::Facts | Mode::Summary => rank::HITS_MAX,
            Mode::Auto | Mode::Text | Mode::Semantic => limit,
        };
        let ours = question.vector.as_ref().filter(|(model, _)| self.held.index.model() == Some(*model));
        let vector = ours.map(|(_, vector)| vector.as_slice());
        let query = Query { text: &question.text, vector, as_of_ms: question.as_of_ms, limit: of_messages };
        if question.mode == Mode::Semantic && vector.is_some() && self.held.index.embedded().0 > 0 {
            let stored = |source: &Source| self.store.vector(source).ok().flatten().map(|row| row.vector);
            let found = rank::semantic(&mut self.held.index, &query, stored);
            return self.reader().answer(question, found);
        }
        let counts = ours.is_some_and(|(model, _)| question.mode != Mode::Text && self.reader().means_enough(*model));
        let query = Query { vector: query.vector.filter(|_| counts), ..query };
        let found = rank::search(&mut self.held.index, &query, None);
        self.reader().answer(question, found)
    }
}

impl Reader<'_> {
    /// What was found, with its texts, as far as it fits the question.
    fn answer(&self, question: &Question, mut found: rank::Found) -> Result<Answer, MemoryError> {
        let limit = question.limit.min(rank::HITS_MAX);
        // Below zero there is less reason for it than for the average message.
        found.hits.retain(|hit| hit.score > 0);
        let mut texts: BTreeMap<MessageKey, Message> = BTreeMap::new();
        for key in found.hits.iter().map(|hit| hit.source.message()).collect::<BTreeSet<_>>() {
            for key in self.around(key) {
                if let Some(message) = self.held.message(&key, self.store)? {
                    texts.insert(key, message);
                }
            }
        }
        let text_of = |source: &Source| texts.get(&source.message()).map(|message| message.text.clone());
        let passages = pack::pack(&self.held.index, &found.hits, question.tokens_max, text_of);
        let mut hits = Vec::new();
        for passage in passages {
            let Some((key, message)) = texts.get_key_value(&passage.hit.source.message()) else {
                continue;
            };
            let said = Said::of(*key, message, passage.hit.span.of(&message.text).unwrap_or_default());
            let around = passage.pieces.iter().filter(|(source, _)| *source != passage.hit.source);
            let context = around.filter_map(|(source, span)| {
                let (key, message) = texts.get_key_value(&source.message())?;
                Some(Said::of(*key, message, span.of(&message.text)?))
            });
            let hit = Hit {
                score: passage.hit.score,
                parts: passage.hit.parts,
                context: context.collect(),
                facts: self.facts_of(key, message),
                line: self.line_of(key, message),
                was: self.held.original(key, self.store)?.map(|message| message.text),
                said,
            };
            let fits = match question.mode {
                Mode::Facts => !hit.facts.is_empty(),
                Mode::Summary => hit.line.is_some(),
                Mode::Auto | Mode::Text | Mode::Semantic => true,
            };
            if fits && hits.len() < limit {
                hits.push(hit);
            }
        }
        Ok(Answer { hits, standing: self.standing()?, by_meaning: found.by_meaning })
    }

    /// A message and its neighbours in its sitting.
    fn around(&self, key: MessageKey) -> Vec<MessageKey> {
        let index = &self.held.index;
        let source = Source::Message(key);
        let mut keys = vec![key];
        for ordinal in index.ordinals(&source) {
            for near in [index.previous(*ordinal), index.next(*ordinal)].into_iter().flatten() {
                keys.extend(index.column(near).map(|column| column.source.message()));
            }
        }
        keys
    }

    /// The facts of a message that count.
    pub(super) fn facts_of(&self, key: &MessageKey, message: &Message) -> Vec<Fact> {
        let batch = self.held.view.messages.get(key).and_then(|current| current.batch);
        let Some(row) = batch.and_then(|batch| self.held.rows.batch(&batch)) else { return Vec::new() };
        let facts = self.held.view.facts(row).into_iter().filter(|fact| fact.key == *key);
        let shown = facts.filter_map(|fact| {
            Some(Fact {
                source: *key,
                subject: subject_text(&fact.subject, message)?.to_owned(),
                predicate: Predicate::of(fact.predicate)?.shown(),
                object: fact.object.of(&message.text)?.to_owned(),
                time_ms: message.time_ms,
                superseded: false,
                by_model: matches!(fact.extractor, Extractor::Model(_)),
            })
        });
        shown.collect()
    }

    fn line_of(&self, key: &MessageKey, message: &Message) -> Option<(BatchId, String)> {
        let batch = self.held.view.messages.get(key)?.batch?;
        let row = self.held.rows.batch(&batch)?;
        let line = self.held.view.lines(row).find(|line| line.key == *key)?;
        Some((batch, line.span.of(&message.text)?.to_owned()))
    }

    fn standing(&self) -> Result<Vec<Standing>, MemoryError> {
        let held = &self.held;
        let mut newest: Vec<_> = held.standing.keys().filter_map(|key| Some((held.time_of(key)?, *key))).collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        let (mut given, mut spent) = (Vec::new(), 0);
        for (time_ms, source) in newest {
            let Some(message) = held.message(&source, self.store)? else { continue };
            for span in held.standing.get(&source).into_iter().flatten() {
                let Some(text) = span.of(&message.text) else { continue };
                spent += tokens(text);
                if given.len() == STANDING_MAX || spent > STANDING_TOKENS_MAX {
                    return Ok(given);
                }
                given.push(Standing { source, text: text.to_owned(), time_ms });
            }
        }
        Ok(given)
    }
}
