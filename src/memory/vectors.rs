//! Vectors of a workspace: what lacks one, and what a model said, kept as long as it is of what counts.
//!
//! A model works beside the workspace, on texts that it was given before: [`Vectors::put`] looks at each again, so a
//! vector of what was forgotten or corrected meanwhile is dropped. Vectors are not replicated, and are in no backup.

use std::collections::BTreeSet;

use memory_core::facts::{Predicate, subject_text};
use memory_core::ids::{BatchId, MessageKey, ModelId, Rev};
use memory_core::index::columns::Source;
use memory_core::index::vectors::{self, Vec8};
use memory_core::item::Span;
use memory_core::resolve::BatchRow;
use memory_core::verify::closest;

use super::error::MemoryError;
use super::held::Held;
use super::keys::{self, Searched, VectorRow};
use super::reader::Reader;
use super::store::Store;
use crate::faults;
use crate::store::Write;

/// Of a hundred messages, how many must have a vector before meaning counts beside words.
const ENOUGH_PERCENT: usize = 90;

/// A text that has no vector yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unembedded {
    /// A message, a head or a line of a summary or a fact.
    pub(super) source: Source,
    /// The message as it is.
    pub(super) rev: Rev,
    /// First byte of it in the message's text.
    pub(super) at: u32,
    /// What the model reads.
    pub text: String,
}

/// How far the vectors have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Model whose vectors are searched; `None` until there has been one.
    pub model: Option<ModelId>,
    /// Messages that have their vector.
    pub messages: usize,
    /// Heads and lines of summaries and facts that have.
    pub notes: usize,
    /// Texts that the model failed with; they are found by words.
    pub unembeddable: usize,
}

/// The vectors of an open workspace. All methods block.
#[derive(Debug)]
pub struct Vectors<'a> {
    pub(super) held: &'a mut Held,
    pub(super) store: &'a mut Store,
    /// What the model fails with.
    pub(super) unembeddable: &'a mut BTreeSet<(Source, Rev)>,
}

impl Vectors<'_> {
    /// Texts that have no vector of this model, messages first, at most `limit`. A model that is new here replaces the one
    /// before: vectors of two are never compared.
    ///
    /// # Errors
    /// The disk.
    pub fn unembedded(
        &mut self,
        model: ModelId,
        dimension: usize,
        limit: usize,
    ) -> Result<Vec<Unembedded>, MemoryError> {
        self.search_by(model, dimension)?;
        let index = &self.held.index;
        // Those that the model failed with are passed over.
        let wanted = index.missing_vectors(limit.saturating_add(self.unembeddable.len()));
        let mut texts = Vec::new();
        for source in wanted {
            let key = source.message();
            let Some(rev) = self.held.view.messages.get(&key).map(|current| current.rev) else { continue };
            if self.unembeddable.contains(&(source, rev)) {
                continue;
            }
            if let Some(message) = self.held.message(&key, self.store)? {
                texts.push(Unembedded { source, rev, at: 0, text: message.text });
            }
        }
        if texts.is_empty() {
            texts = self.notes(limit)?;
        }
        texts.truncate(limit);
        Ok(texts)
    }

    /// Heads, lines and facts that have none.
    fn notes(&self, limit: usize) -> Result<Vec<Unembedded>, MemoryError> {
        let held = &*self.held;
        let mut texts = Vec::new();
        for batch in held.view.covered.keys() {
            let Some(row) = held.rows.batch(batch) else { continue };
            texts.extend(self.head(*batch, row)?);
            let lines = held.view.lines(row).map(|line| (line.key, Source::Line(*batch, line.key), None, line.span));
            let facts = held.view.facts(row).into_iter();
            let facts =
                facts.map(|fact| (fact.key, Source::Fact(*batch, fact.key, fact.number), Some(fact), fact.object));
            for (key, source, fact, span) in lines.chain(facts) {
                let Some(rev) = held.view.messages.get(&key).map(|current| current.rev) else { continue };
                let is_there = held.index.has_note(&source) || self.unembeddable.contains(&(source, rev));
                // The message itself says it, and has its own.
                let is_whole = || is_whole(held, &key, span);
                let says_no_more = fact.is_none_or(|fact| fact.predicate == Predicate::Said.number());
                if is_there || (says_no_more && is_whole()) {
                    continue;
                }
                let Some(message) = held.message(&key, self.store)? else { continue };
                let Some(shown) = span.of(&message.text) else { continue };
                let text = match &fact {
                    None => shown.to_owned(),
                    Some(fact) => {
                        let subject = subject_text(&fact.subject, &message).unwrap_or_default();
                        let predicate = Predicate::of(fact.predicate).map_or("", Predicate::shown);
                        format!("{subject} {predicate} {shown}")
                    }
                };
                texts.push(Unembedded { source, rev, at: span.start, text });
                if texts.len() >= limit {
                    return Ok(texts);
                }
            }
        }
        Ok(texts)
    }

    /// The head of a batch, if it has none yet.
    fn head(&self, batch: BatchId, row: &BatchRow) -> Result<Option<Unembedded>, MemoryError> {
        if self.held.index.has_head(&batch) || self.held.view.heads(row).next().is_none() {
            return Ok(None);
        }
        let reader = Reader { id: *self.held.rows.workspace(), held: self.held, store: self.store };
        let Some(head) = reader.head(row)? else { return Ok(None) };
        let sources = reader.texts(&head)?;
        let said: Vec<(&str, &str)> = sources.iter().map(|it| (it.speaker.as_str(), it.text.as_str())).collect();
        let Some((key, rev)) = closest(&head.text, &said).and_then(|at| head.sources.get(at)) else { return Ok(None) };
        let source = Source::Head(batch, *key);
        let is_wanted = !self.unembeddable.contains(&(source, *rev));
        Ok(is_wanted.then_some(Unembedded { source, rev: *rev, at: 0, text: head.text }))
    }

    /// Keeps what a model said of texts, durably: vectors of what is as it was, and no others. Gives the number of those that
    /// are kept.
    ///
    /// # Errors
    /// The disk.
    pub fn put(&mut self, model: ModelId, said: &[(Unembedded, Vec<f32>)]) -> Result<usize, MemoryError> {
        let Some(searched) = self.store.searched()?.filter(|searched| searched.model == model) else { return Ok(0) };
        let (mut writes, mut kept): (Vec<Write>, Vec<(Source, u32, Vec8)>) = (Vec::new(), Vec::new());
        for (text, vector) in said {
            let batch = batch_of(&text.source);
            let is_good = vectors::check(vector, searched.dimension).is_ok();
            if !is_good || !self.still_is(&text.source, text.rev) {
                continue;
            }
            let key = keys::vector(&text.source);
            let row = VectorRow { rev: text.rev, batch, at: text.at, vector: Vec8::of(vector) };
            writes.push((key, Some(keys::encode(&row).into())));
            kept.push((text.source, text.at, row.vector));
        }
        if kept.is_empty() {
            return Ok(0);
        }
        self.store.commit(writes, false)?;
        let _ = faults::pass(faults::Point::MemoryEmbedded);
        for (source, at, vector) in &kept {
            self.index_vector(model, *source, *at, vector);
        }
        Ok(kept.len())
    }

    /// The model fails with this text: it is passed over until the workspace is opened anew.
    pub fn pass_over(&mut self, text: &Unembedded) {
        self.unembeddable.insert((text.source, text.rev));
    }

    /// Puts back the vectors that are on disk, as far as they are of what counts.
    pub(super) fn load(&mut self) -> Result<(), MemoryError> {
        let Some(Searched { model, dimension }) = self.store.searched()? else { return Ok(()) };
        self.held.index.use_model(model, dimension);
        // In parts: all of them at once are 400 bytes for each message.
        for first in 0..=u8::MAX {
            for (key, value) in self.store.vectors(first)? {
                // One that cannot be read is made anew.
                let Ok(row) = keys::decode::<VectorRow>(&value) else { continue };
                let Some(source) = keys::vector_source(&key, row.batch) else { continue };
                if self.still_is(&source, row.rev) {
                    self.index_vector(model, source, row.at, &row.vector);
                }
            }
        }
        Ok(())
    }

    fn index_vector(&mut self, model: ModelId, source: Source, at: u32, vector: &Vec8) {
        let index = &mut self.held.index;
        let done = match source {
            Source::Message(_) => index.put_vector(model, &source, vector),
            Source::Line(..) | Source::Fact(..) | Source::Head(..) => index.put_note(model, source, at, vector),
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a vector is left out");
        }
    }

    /// True if what a vector is of counts as it was.
    fn still_is(&self, source: &Source, rev: Rev) -> bool {
        let view = &self.held.view;
        let (current, batch) = (view.messages.get(&source.message()), batch_of(source));
        if let Source::Head(batch, _) = source
            && self.held.rows.batch(batch).is_none_or(|row| view.heads(row).next().is_none())
        {
            return false;
        }
        current.is_some_and(|current| current.rev == rev && (batch.is_none() || current.batch == batch))
    }

    fn search_by(&mut self, model: ModelId, dimension: usize) -> Result<(), MemoryError> {
        let new = Searched { model, dimension };
        if self.store.searched()? != Some(new) {
            let mut writes = vec![(keys::searched(), Some(keys::encode(&new).into()))];
            for first in 0..=u8::MAX {
                writes.extend(self.store.vectors(first)?.into_iter().map(|(key, _)| (key, None)));
            }
            self.store.commit(writes, false)?;
        }
        self.held.index.use_model(model, dimension);
        Ok(())
    }

    /// How far the vectors have come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let (messages, notes) = self.held.index.embedded();
        Progress { model: self.held.index.model(), messages, notes, unembeddable: self.unembeddable.len() }
    }
}

impl Reader<'_> {
    /// True if enough has a vector of this model for meaning to count beside words.
    pub(super) fn means_enough(&self, model: ModelId) -> bool {
        let all = self.held.view.messages.len();
        self.held.index.model() == Some(model) && all > 0 && self.held.index.embedded().0 * 100 >= all * ENOUGH_PERCENT
    }
}

/// True if a span is all of a message that is one piece.
fn is_whole(held: &Held, key: &MessageKey, span: Span) -> bool {
    let pieces = held.index.ordinals(&Source::Message(*key));
    matches!(pieces, [only] if held.index.column(*only).is_some_and(|column| column.span == span))
}

fn batch_of(source: &Source) -> Option<BatchId> {
    match source {
        Source::Line(batch, _) | Source::Fact(batch, _, _) | Source::Head(batch, _) => Some(*batch),
        Source::Message(_) => None,
    }
}
