//! Forgetting: what goes is listed, or goes for ever.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use memory_core::forget::Preview;
pub use memory_core::forget::Selection;
use memory_core::group::ChainId;
use memory_core::holes::{Hole, ItemAt};
use memory_core::ids::{MessageKey, Rev};
use memory_core::index::columns::Source;
use memory_core::item::{Body, Message};

use super::error::MemoryError;
use super::keys;
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
        Ok(shown(&select(self, selection)?))
    }

    /// Forgets: tombstones and the erasure of every text are one durable step. It cannot be undone; the same ids and contents
    /// are not taken again.
    ///
    /// # Errors
    /// The disk.
    pub fn forget(&mut self, selection: &Selection) -> Result<Forgotten, MemoryError> {
        let preview = select(self, selection)?;
        if preview.messages.is_empty() {
            return Ok(Forgotten::default());
        }
        let writes = self.erasing_of(&preview.messages)?;
        self.say(&preview.tombstones(), writes)?;
        let _ = faults::pass(faults::Point::MemoryForgotten);
        Ok(shown(&preview))
    }

    /// True while something is forgotten whose bytes may still be in the engine's files.
    #[must_use]
    pub fn is_vacuum_due(&self) -> bool {
        self.vacuum_due
    }

    /// Writes all that is left into new files, and removes the old ones: nothing of what is forgotten is in them. Takes as
    /// long as the disk needs for all of it, and its room for a second time.
    ///
    /// # Errors
    /// The disk. Before the old files make room they stay as they are; after, memory is closed.
    pub fn vacuum(&mut self) -> Result<(), MemoryError> {
        self.store.rewrite(&keys::forgetting())?;
        self.vacuum_due = false;
        Ok(())
    }

    /// Writes that erase every text about these messages, which are about to be forgotten, and what is indexed of them.
    pub(super) fn erasing_of(&mut self, keys: &[MessageKey]) -> Result<Vec<Write>, MemoryError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut items = Vec::new();
        let mut indexed: BTreeSet<MessageKey> = keys.iter().copied().collect();
        let mut variants: Option<BTreeMap<MessageKey, (MessageKey, Rev)>> = None;
        for key in keys {
            items.extend(self.store.about(key)?.into_iter().map(|(stamp, seq)| (*key, stamp, seq)));
            let row = self.held.rows.message(key).filter(|row| !row.contents.is_empty());
            if let Some(row) = row {
                // All contents under the caller's id go, also those that are found by ids of their own.
                for variant in row.contents.keys().map(|content| key.variant(content)) {
                    indexed.insert(variant);
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
            if self.held.view.messages.get(caller).is_some_and(|it| it.content == *content) {
                indexed.insert(*caller);
            }
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
        self.store.note_forgotten(keys)?;
        let mut writes = Vec::new();
        for (_, stamp, _) in &items {
            // The vector of a head is with one of its sources, whichever is forgotten.
            if let Some(Body::Head(head)) = self.store.item(stamp)? {
                self.held.index.drop_head(&head.batch);
                let rows = head.sources.iter().map(|(key, _)| keys::vector(&Source::Head(head.batch, *key)));
                writes.extend(rows.map(|key| (key, None)));
            }
        }
        writes.extend(self.store.erasing(&items)?);
        for (_, stamp, seq) in &items {
            let chain = ChainId { author: stamp.author, incarnation: stamp.incarnation };
            self.holes.set(chain, ItemAt { seq: *seq, index: stamp.index }, Hole::Erased);
        }
        writes.extend(self.held.erase(&indexed));
        for key in &indexed {
            writes.extend(self.store.without_vectors(key)?);
        }
        // What came late and was never stored leaves nothing behind.
        if !items.is_empty() {
            writes.push((keys::forgetting(), Some(Bytes::from_static(&[1]))));
            self.vacuum_due = true;
        }
        Ok(writes)
    }

    /// Forgets anew what the database, which may be an older copy, does not know to be forgotten.
    pub(super) fn forget_again(&mut self) -> Result<(), MemoryError> {
        let known = self.store.forgotten()?;
        let back: Vec<MessageKey> = known.into_iter().filter(|key| !self.tombstones.contains_key(key)).collect();
        if back.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            count = back.len(),
            "an older copy of memory was put back: what was forgotten since is forgotten again"
        );
        let writes = self.erasing_of(&back)?;
        let bodies: Vec<Body> = back.into_iter().map(Body::Tombstone).collect();
        self.say(&bodies, writes)
    }
}

fn select(workspace: &Workspace, selection: &Selection) -> Result<Preview, MemoryError> {
    let mut texts: BTreeMap<Rev, Message> = BTreeMap::new();
    if !matches!(selection, Selection::Keys(_)) {
        for (key, current) in &workspace.held.view.messages {
            // Only what the selection looks at is kept.
            if let Some(message) = workspace.held.message(key, &workspace.store)? {
                texts.insert(current.rev, Message { text: String::new(), ..message });
            }
        }
    }
    Ok(Preview::of(&workspace.held.rows, &workspace.held.view, selection, |rev| texts.get(rev).cloned()))
}

fn shown(preview: &Preview) -> Forgotten {
    Forgotten { messages: preview.messages.clone(), lines: preview.lines.len(), facts: preview.facts.len() }
}
