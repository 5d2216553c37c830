//! Forgetting: what goes is listed, or goes for ever.

use std::collections::BTreeMap;

use memory_core::forget::Preview;
pub use memory_core::forget::Selection;
use memory_core::ids::{MessageKey, Rev};
use memory_core::item::{Body, Message};

use super::error::MemoryError;
use super::workspace::Workspace;
use crate::faults;
use crate::store::Write;

/// What goes, or has gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Messages.
    pub messages: Vec<MessageKey>,
    /// Lines of summaries.
    pub lines: usize,
    /// Facts.
    pub facts: usize,
}

impl Workspace {
    /// Lists what a selection comes to.
    ///
    /// # Errors
    /// The disk.
    pub fn preview(&self, selection: &Selection) -> Result<Forgotten, MemoryError> {
        Ok(shown(&self.select(selection)?))
    }

    /// Forgets: tombstones and the erasure of every text are one durable step. It cannot be undone; the same ids and contents
    /// are not taken again.
    ///
    /// # Errors
    /// The disk.
    pub fn forget(&mut self, selection: &Selection) -> Result<Forgotten, MemoryError> {
        let preview = self.select(selection)?;
        if preview.messages.is_empty() {
            return Ok(Forgotten::default());
        }
        let writes = self.erasing_of(&preview.messages)?;
        self.say(&preview.tombstones(), writes)?;
        let _ = faults::pass(faults::Point::MemoryForgotten);
        Ok(shown(&preview))
    }

    /// Writes that erase every text about these messages, which are about to be forgotten.
    pub(super) fn erasing_of(&self, keys: &[MessageKey]) -> Result<Vec<Write>, MemoryError> {
        let mut items = Vec::new();
        let mut variants: Option<BTreeMap<MessageKey, (MessageKey, Rev)>> = None;
        for key in keys {
            items.extend(self.store.about(key)?.into_iter().map(|(stamp, seq)| (*key, stamp, seq)));
            let row = self.held.rows.message(key).filter(|row| !row.contents.is_empty());
            if let Some(row) = row {
                // All contents under the caller's id go, also those that are found by ids of their own.
                for variant in row.contents.keys().map(|content| key.variant(content)) {
                    items.extend(self.store.about(&variant)?.into_iter().map(|(stamp, seq)| (variant, stamp, seq)));
                }
                continue;
            }
            // One content of a caller's id, which may hold the id here.
            let variants = variants.get_or_insert_with(|| {
                let all = self.held.view.messages.values();
                all.map(|it| (it.caller.variant(&it.content), (it.caller, it.content))).collect()
            });
            let Some((caller, content)) = variants.get(key) else { continue };
            for (stamp, seq) in self.store.about(caller)? {
                let is_it = match self.store.item(&stamp)? {
                    Some(Body::Message(message)) => message.rev() == *content,
                    // Corrections under the caller's id are of the content that holds it.
                    Some(Body::Correction(_)) => {
                        self.held.view.messages.get(caller).is_some_and(|it| it.content == *content)
                    }
                    Some(_) | None => false,
                };
                if is_it {
                    items.push((*caller, stamp, seq));
                }
            }
        }
        items.sort_unstable();
        items.dedup();
        self.store.erasing(&items)
    }

    fn select(&self, selection: &Selection) -> Result<Preview, MemoryError> {
        let mut texts: BTreeMap<Rev, Message> = BTreeMap::new();
        if !matches!(selection, Selection::Keys(_)) {
            for (key, current) in &self.held.view.messages {
                // Only what the selection looks at is kept.
                if let Some(message) = self.held.message(key, &self.store)? {
                    texts.insert(current.rev, Message { text: String::new(), ..message });
                }
            }
        }
        Ok(Preview::of(&self.held.rows, &self.held.view, selection, |rev| texts.get(rev).cloned()))
    }
}

fn shown(preview: &Preview) -> Forgotten {
    Forgotten { messages: preview.messages.clone(), lines: preview.lines.len(), facts: preview.facts.len() }
}
