//! Forgetting: what goes is listed, or goes for ever.

use std::collections::BTreeMap;

use memory_core::forget::Preview;
pub use memory_core::forget::Selection;
use memory_core::ids::{MessageKey, Rev};
use memory_core::item::{Body, Message};

use super::error::MemoryError;
use super::workspace::Workspace;
use crate::faults;

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
        let mut items = Vec::new();
        for key in &preview.messages {
            let Some(current) = self.held.view.messages.get(key) else { continue };
            for (stamp, seq) in self.store.about(key)? {
                items.push((*key, stamp, seq));
            }
            if current.caller == *key {
                // All contents under the caller's id go, also those that are found by ids of their own.
                let row = self.held.rows.message(key);
                for variant in row.into_iter().flat_map(|row| row.contents.keys()).map(|content| key.variant(content)) {
                    for (stamp, seq) in self.store.about(&variant)? {
                        items.push((variant, stamp, seq));
                    }
                }
                continue;
            }
            for (stamp, seq) in self.store.about(&current.caller)? {
                match self.store.item(&stamp)? {
                    Some(Body::Message(message)) if message.rev() == current.content => {
                        items.push((current.caller, stamp, seq));
                    }
                    Some(_) | None => {}
                }
            }
        }
        items.sort_unstable();
        items.dedup();
        let writes = self.store.erasing(&items)?;
        self.say(&preview.tombstones(), writes)?;
        let _ = faults::pass(faults::Point::MemoryForgotten);
        Ok(shown(&preview))
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
