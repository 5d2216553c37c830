//! Vectors of what was made of messages: heads and lines of summaries, and facts. They are no pieces: by words a message is found once.
//! By meaning they lead to their message, which may say the same in the middle of much else.

use std::collections::BTreeMap;

use super::columns::Source;
use super::vectors::{Signs, Vec8};
use crate::ids::{BatchId, MessageKey, ModelId};

/// See the module.
#[derive(Debug)]
pub(super) struct Notes {
    signs: Signs,
    by_message: BTreeMap<MessageKey, Vec<Note>>,
    /// The message to which the head of a batch leads.
    heads: BTreeMap<BatchId, MessageKey>,
    /// Rows of the signs that are free.
    free: Vec<u32>,
    rows: u32,
}

/// Vector of something that was made of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note {
    /// A line or a fact.
    pub(super) source: Source,
    /// First byte of it in the message's text.
    pub(super) at: u32,
    row: u32,
}

impl Notes {
    pub(super) fn new(model: ModelId, dimension: usize) -> Self {
        Self {
            signs: Signs::new(model, dimension),
            by_message: BTreeMap::new(),
            heads: BTreeMap::new(),
            free: Vec::new(),
            rows: 0,
        }
    }

    /// Adds one, or replaces its vector.
    pub(super) fn put(&mut self, key: MessageKey, source: Source, at: u32, vector: &Vec8) {
        if let Source::Head(batch, _) = source {
            self.remove_head(&batch);
            self.heads.insert(batch, key);
        }
        let of_message = self.by_message.entry(key).or_default();
        let row = if let Some(note) = of_message.iter_mut().find(|note| note.source == source) {
            note.at = at;
            note.row
        } else {
            let row = self.free.pop().unwrap_or_else(|| {
                self.rows += 1;
                self.rows - 1
            });
            of_message.push(Note { source, at, row });
            row
        };
        self.signs.put(row, vector);
    }

    pub(super) fn has(&self, key: &MessageKey, source: &Source) -> bool {
        self.by_message.get(key).is_some_and(|notes| notes.iter().any(|note| note.source == *source))
    }

    pub(super) fn has_head(&self, batch: &BatchId) -> bool {
        self.heads.contains_key(batch)
    }

    /// The head of a batch goes.
    pub(super) fn remove_head(&mut self, batch: &BatchId) {
        let Some(key) = self.heads.remove(batch) else { return };
        let Some(notes) = self.by_message.get_mut(&key) else { return };
        if let Some(at) = notes.iter().position(|note| note.source == Source::Head(*batch, key)) {
            let note = notes.swap_remove(at);
            self.signs.remove(note.row);
            self.free.push(note.row);
        }
    }

    /// Nothing is left of those of a message.
    pub(super) fn remove(&mut self, key: &MessageKey) {
        self.heads.retain(|_, of| of != key);
        for note in self.by_message.remove(key).unwrap_or_default() {
            self.signs.remove(note.row);
            self.free.push(note.row);
        }
    }

    /// All of them with the cosine of their signs and an exact vector.
    pub(super) fn scan(&self, exact: &[f32]) -> impl Iterator<Item = (MessageKey, Note, f64)> {
        let dots = self.signs.scan(exact, self.rows as usize);
        let all = self.by_message.iter().flat_map(|(key, notes)| notes.iter().map(|note| (*key, *note)));
        all.filter_map(move |(key, note)| Some((key, note, (*dots.get(note.row as usize)?)?)))
    }

    pub(super) fn count(&self) -> usize {
        self.by_message.values().map(Vec::len).sum()
    }
}
