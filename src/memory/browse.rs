//! Looking through a workspace: messages, summaries, facts, numbers.

use std::collections::BTreeSet;
use std::ops::Bound;

use memory_core::facts::{Found, Predicate, subject_text};
use memory_core::ids::{BatchId, MessageKey};
use memory_core::item::{Extractor, Head, Message};
use memory_core::relation::{Shown, current};
use memory_core::resolve::BatchRow;
use memory_core::verify::head_stands;

use super::ask::{Fact, Said};
use super::error::MemoryError;
use super::reader::Reader;

/// A place in the order of messages: when, and which.
pub type Place = (i64, MessageKey);

/// Which messages are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All.
    All,
    /// Those that are in no summary.
    Recent,
    /// Those that are.
    Summarized,
}

/// How a message stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemState {
    /// The batch that it belongs to; `None`: tier 1.
    pub batch: Option<BatchId>,
    /// What it said before it was corrected.
    pub was: Option<String>,
}

/// A message, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The id by which it is read, corrected and forgotten.
    pub key: MessageKey,
    /// As it is now.
    pub message: Message,
    /// How it stands.
    pub state: ItemState,
}

/// A summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SummaryShown {
    /// Its batch.
    pub batch: BatchId,
    /// Time of the first message that it covers, milliseconds since 1970.
    pub from_ms: i64,
    /// Of the last.
    pub to_ms: i64,
    /// Messages that it covers.
    pub messages: usize,
    /// A model's words in front of it, which have passed the check.
    pub head: Option<Head>,
    /// Its lines, each a part of a message.
    pub lines: Vec<Said>,
}

/// Numbers of a workspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that count.
    pub messages: usize,
    /// Those of them that are in no summary: tier 1.
    pub recent: usize,
    /// Summaries.
    pub summaries: usize,
    /// Facts.
    pub facts: usize,
    /// Keys that are forgotten.
    pub forgotten: usize,
    /// Pieces of text in the index.
    pub indexed: usize,
}

impl Reader<'_> {
    /// One message.
    ///
    /// # Errors
    /// There is none; the disk.
    pub fn get(&self, key: &MessageKey) -> Result<Item, MemoryError> {
        let unknown = || MemoryError::UnknownItem(key.to_string());
        let message = self.held.message(key, self.store)?.ok_or_else(unknown)?;
        let batch = self.held.view.messages.get(key).and_then(|current| current.batch);
        let was = self.held.original(key, self.store)?.map(|message| message.text);
        Ok(Item { key: *key, message, state: ItemState { batch, was } })
    }

    /// The messages under a caller's id: one in nearly all cases.
    ///
    /// # Errors
    /// The disk.
    pub fn by_external_id(&self, id: &str) -> Result<Vec<Item>, MemoryError> {
        let caller = MessageKey::of(&self.id, id);
        let Some(row) = self.held.rows.message(&caller) else { return Ok(Vec::new()) };
        let living = self.held.rows.living(caller, row);
        let items = living.map(|(key, _)| self.get(&key)).filter(|item| !is_unknown(item));
        items.collect()
    }

    /// Messages after a place, oldest first, at most so many; and the place of the last if there are more.
    ///
    /// # Errors
    /// The disk.
    pub fn list(
        &self,
        wanted: Wanted,
        after: Option<Place>,
        limit: usize,
    ) -> Result<(Vec<Item>, Option<Place>), MemoryError> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let fits = |(_, key): &&Place| match wanted {
            Wanted::All => true,
            Wanted::Recent => self.held.waits(key),
            Wanted::Summarized => !self.held.waits(key),
        };
        let mut places: Vec<Place> =
            self.held.timeline.range((start, Bound::Unbounded)).filter(fits).take(limit + 1).copied().collect();
        let more = places.len() > limit;
        places.truncate(limit);
        let items = places.iter().map(|(_, key)| self.get(key)).filter(|item| !is_unknown(item));
        Ok((items.collect::<Result<_, _>>()?, places.last().copied().filter(|_| more)))
    }

    /// Summaries that reach into a time, the newest first, at most so many.
    ///
    /// # Errors
    /// The disk.
    pub fn summaries(&self, from_ms: i64, to_ms: i64, limit: usize) -> Result<Vec<SummaryShown>, MemoryError> {
        let held = &self.held;
        let span = |(batch, keys): (&BatchId, &BTreeSet<MessageKey>)| {
            let times = keys.iter().filter_map(|key| held.time_of(key));
            let (first, last) = (times.clone().min()?, times.max()?);
            (first <= to_ms && last >= from_ms).then_some((last, first, *batch, keys.len()))
        };
        let mut spans: Vec<_> = held.view.covered.iter().filter_map(span).collect();
        spans.sort_unstable_by(|a, b| b.cmp(a));
        let mut shown = Vec::new();
        for (to_ms, from_ms, batch, messages) in spans.into_iter().take(limit) {
            let Some(row) = held.rows.batch(&batch) else { continue };
            let mut lines = Vec::new();
            for line in held.view.lines(row) {
                let Some(message) = held.message(&line.key, self.store)? else { continue };
                lines.extend(line.span.of(&message.text).map(|text| Said::of(line.key, &message, text)));
            }
            shown.push(SummaryShown { batch, from_ms, to_ms, messages, head: self.head(row)?, lines });
        }
        Ok(shown)
    }

    /// A model's words in front of a summary: the first that rest on what counts and stand their check here.
    pub(super) fn head(&self, row: &BatchRow) -> Result<Option<Head>, MemoryError> {
        for head in self.held.view.heads(row) {
            let sources = self.texts(head)?;
            let said: Vec<(&str, &str)> = sources.iter().map(|it| (it.speaker.as_str(), it.text.as_str())).collect();
            if sources.len() == head.sources.len() && head_stands(&head.text, &said) {
                return Ok(Some(head.clone()));
            }
        }
        Ok(None)
    }

    /// The messages that a head rests on, in its order, as far as they are here.
    pub(super) fn texts(&self, head: &Head) -> Result<Vec<Message>, MemoryError> {
        let read = |(key, _): &(MessageKey, _)| self.held.message(key, self.store).transpose();
        head.sources.iter().filter_map(read).collect()
    }

    /// Facts that have all words of a topic, and those that replaced them, the newest first, at most so many. A value that a
    /// newer one has replaced is marked.
    ///
    /// # Errors
    /// The disk.
    pub fn facts(&self, topic: &str, as_of_ms: Option<i64>, limit: usize) -> Result<Vec<Fact>, MemoryError> {
        let words: Vec<String> = topic.split_whitespace().map(str::to_lowercase).collect();
        let held = &self.held;
        let mut messages: Vec<(MessageKey, Message, bool)> = Vec::new();
        // All facts decide which of them count; those about the topic are shown, and what replaced them.
        let mut found: Vec<(usize, Found, bool)> = Vec::new();
        let mut by_models: Vec<bool> = Vec::new();
        for row in held.view.covered.keys().filter_map(|batch| held.rows.batch(batch)) {
            for fact in held.view.facts(row) {
                let told = held.time_of(&fact.key).is_some_and(|time| as_of_ms.is_none_or(|as_of| time <= as_of));
                let Some(predicate) = Predicate::of(fact.predicate).filter(|_| told) else { continue };
                if messages.last().is_none_or(|(key, _, _)| *key != fact.key) {
                    let Some(message) = held.message(&fact.key, self.store)? else { continue };
                    let corrected = held.view.messages.get(&fact.key).is_some_and(|it| it.corrected.is_some());
                    messages.push((fact.key, message, corrected));
                }
                let Some((_, message, _)) = messages.last() else { continue };
                let object = fact.object.of(&message.text).unwrap_or_default();
                let subject = subject_text(&fact.subject, message).unwrap_or_default();
                let all = format!("{subject} {} {object}", predicate.shown()).to_lowercase();
                let is_about = words.iter().all(|word| all.contains(word));
                let by_model = matches!(fact.extractor, Extractor::Model(_));
                let fact = Found { subject: fact.subject, predicate, object: fact.object };
                found.push((messages.len() - 1, fact, is_about));
                by_models.push(by_model);
            }
        }
        let shown: Vec<Shown<'_>> = found
            .iter()
            .filter_map(|(at, fact, _)| {
                let (_, message, corrected) = messages.get(*at)?;
                Some(Shown { fact: *fact, message, corrected: *corrected })
            })
            .collect();
        // What a model made of a message replaces nothing that rules found.
        let by_rules: Vec<usize> = (0..shown.len()).filter(|place| by_models.get(*place) == Some(&false)).collect();
        let of_rules: Vec<Shown<'_>> = by_rules.iter().filter_map(|place| shown.get(*place).copied()).collect();
        let mut replaced = current(&shown);
        for (place, by) in by_rules.iter().zip(current(&of_rules)) {
            if let Some(replaced) = replaced.get_mut(*place) {
                *replaced = by.and_then(|by| by_rules.get(by).copied());
            }
        }
        let replacing: BTreeSet<usize> =
            found.iter().zip(&replaced).filter_map(|((_, _, is_about), by)| by.filter(|_| *is_about)).collect();
        let mut facts: Vec<Fact> = found
            .iter()
            .zip(&replaced)
            .enumerate()
            .filter(|(place, ((_, _, is_about), _))| *is_about || replacing.contains(place))
            .filter_map(|(place, ((at, fact, _), replaced))| {
                let (key, message, _) = messages.get(*at)?;
                Some(Fact {
                    source: *key,
                    subject: fact.subject(message)?.to_owned(),
                    predicate: fact.predicate.shown(),
                    object: fact.object.of(&message.text)?.to_owned(),
                    time_ms: message.time_ms,
                    superseded: replaced.is_some(),
                    by_model: by_models.get(place).copied().unwrap_or_default(),
                })
            })
            .collect();
        facts.sort_by(|a, b| (b.time_ms, &a.source, &a.object).cmp(&(a.time_ms, &b.source, &b.object)));
        facts.truncate(limit);
        Ok(facts)
    }

    /// Numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let held = &self.held;
        let rows = held.view.covered.keys().filter_map(|batch| held.rows.batch(batch));
        Stats {
            messages: held.view.messages.len(),
            recent: held.waiting(),
            summaries: held.view.covered.len(),
            facts: rows.map(|row| held.view.facts(row).len()).sum(),
            forgotten: held.rows.tombstones().count(),
            indexed: held.index.pieces().0,
        }
    }
}

/// A message whose text has not come yet is not shown.
fn is_unknown(item: &Result<Item, MemoryError>) -> bool {
    matches!(item, Err(MemoryError::UnknownItem(_)))
}
