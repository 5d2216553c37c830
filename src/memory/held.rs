//! All of an open workspace that is in memory: rows, what counts of them, the index, and orders over it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use memory_core::compaction::Waiting;
use memory_core::group::{Hlc, Stamp};
use memory_core::ids::{AuthorId, Incarnation, MessageKey, WorkspaceId};
use memory_core::index::Index;
use memory_core::index::columns::{Column, ForwardRow, Source};
use memory_core::item::{Body, Message, Span};
use memory_core::resolve::{Current, Rows, View};
use memory_core::text::standing::standing;

use super::error::MemoryError;
use super::segments::{self, Read, Text};
use super::store::Store;
use crate::store::Write;

/// Place of a message in time.
pub(super) type Told = (i64, MessageKey);

/// See the module.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) rows: Rows,
    pub(super) view: View,
    pub(super) index: Index,
    /// Messages that count, oldest first.
    pub(super) timeline: BTreeSet<Told>,
    /// Those of them that belong to no batch: tier 1.
    waiting: BTreeSet<Told>,
    times: BTreeMap<MessageKey, i64>,
    /// Parts of messages that ask to be kept in mind always.
    pub(super) standing: BTreeMap<MessageKey, Vec<Span>>,
    /// Keys whose messages are to be looked at anew.
    touched: BTreeSet<MessageKey>,
    /// Numbers of the segments that are on disk, in the order of the index.
    kept: Vec<u32>,
}

impl Held {
    pub(super) fn new(workspace: WorkspaceId) -> Self {
        Self {
            rows: Rows::new(workspace),
            view: View::default(),
            index: Index::new(),
            timeline: BTreeSet::new(),
            waiting: BTreeSet::new(),
            times: BTreeMap::new(),
            standing: BTreeMap::new(),
            touched: BTreeSet::new(),
            kept: Vec::new(),
        }
    }

    /// Puts back the segments of the index that are on disk, once all items are there. Gives the writes that remove those
    /// that are of no use.
    pub(super) fn load(&mut self, stored: &BTreeMap<u32, [Option<Bytes>; 2]>) -> Vec<Write> {
        let now = self.rows.view().messages;
        let mut useless = Vec::new();
        for (number, rows) in stored {
            let read = if let [Some(segment), Some(columns)] = rows { segments::read(segment, columns) } else { None };
            let Some(Read { segment, columns, texts }) = read else {
                useless.extend(segments::removal(*number));
                continue;
            };
            let is_current = |text: &Text| {
                let current = now.get(&text.key);
                current.is_some_and(|it| it.content == text.content && it.rev == text.rev)
                    && !self.times.contains_key(&text.key)
            };
            let living: BTreeMap<MessageKey, Text> =
                texts.into_iter().filter(is_current).map(|text| (text.key, text)).collect();
            let lives = |column: &Column| living.contains_key(&column.source.message());
            if self.index.load(segment, columns, lives).is_err() {
                useless.extend(segments::removal(*number));
                continue;
            }
            self.kept.push(*number);
            for (key, text) in living {
                self.times.insert(key, text.time_ms);
                self.timeline.insert((text.time_ms, key));
                if !text.standing.is_empty() {
                    self.standing.insert(key, text.standing);
                }
            }
        }
        useless
    }

    /// The rows of the next segment that is not on disk; [`Held::set_kept`] once they are.
    pub(super) fn unkept(&self) -> Option<(u32, Vec<Write>)> {
        let number = self.kept.iter().max().map_or(0, |newest| newest + 1);
        Some((number, self.segment_rows(self.kept.len(), number)?))
    }

    pub(super) fn set_kept(&mut self, number: u32) {
        self.kept.push(number);
    }

    /// Takes what is indexed of messages out of the segments; gives the rows of those that changed.
    pub(super) fn erase(&mut self, keys: &BTreeSet<MessageKey>) -> Vec<Write> {
        let changed = self.index.erase(keys);
        let on_disk = changed.into_iter().filter_map(|place| Some((place, *self.kept.get(place)?)));
        on_disk.filter_map(|(place, number)| self.segment_rows(place, number)).flatten().collect()
    }

    fn segment_rows(&self, place: usize, number: u32) -> Option<Vec<Write>> {
        let (segment, columns) = self.index.sealed(place)?;
        let text = |key: &MessageKey| {
            let current = self.view.messages.get(key)?;
            Some(Text {
                key: *key,
                content: current.content,
                rev: current.rev,
                time_ms: *self.times.get(key)?,
                standing: self.standing.get(key).cloned().unwrap_or_default(),
            })
        };
        Some(segments::rows(number, segment, &columns, text))
    }

    /// Adds an item; what it changes shows after [`Held::refresh`].
    pub(super) fn insert(&mut self, stamp: Stamp, body: &Body) {
        match body {
            Body::Message(message) => {
                self.touched.insert(message.key(self.rows.workspace()));
            }
            Body::Correction(it) => {
                self.touched.insert(it.target);
            }
            Body::Tombstone(key) => {
                self.touched.insert(*key);
            }
            Body::Summary(it) => self.touched.extend(it.covers.iter().map(|(key, _)| *key)),
            Body::Rewrite(_) | Body::Fact(_) | Body::Standing(_) | Body::Head(_) | Body::Unknown(_) => {}
        }
        self.rows.insert(stamp, body);
    }

    /// A key is forgotten, wherever that is said.
    pub(super) fn forget(&mut self, key: MessageKey) {
        let anywhere = Stamp { hlc: Hlc(0), author: AuthorId([0; 16]), incarnation: Incarnation(0), index: 0 };
        self.insert(anywhere, &Body::Tombstone(key));
    }

    /// Brings everything up to date with the items that were added.
    pub(super) fn refresh(&mut self, store: &Store) -> Result<(), MemoryError> {
        let touched = std::mem::take(&mut self.touched);
        // A key without a content of its own may be the variant of a content that is shown elsewhere: whose, only a look at
        // all of them says.
        let is_own = |key: &MessageKey| self.rows.message(key).is_some_and(|row| !row.contents.is_empty());
        let mut callers: BTreeSet<MessageKey> = touched.iter().copied().filter(is_own).collect();
        for key in touched.iter().filter(|key| !is_own(key)) {
            match self.view.messages.get(key) {
                Some(current) => drop(callers.insert(current.caller)),
                None => return self.refresh_all(store),
            }
        }
        for caller in callers {
            let Some(row) = self.rows.message(&caller) else { continue };
            let mut before: BTreeMap<MessageKey, Current> = BTreeMap::new();
            let shown = [caller].into_iter().chain(row.contents.keys().map(|content| caller.variant(content)));
            for key in shown {
                if let Some(current) = self.view.messages.get(&key).filter(|current| current.caller == caller) {
                    before.insert(key, *current);
                }
            }
            let now: BTreeMap<MessageKey, Current> = self.rows.living(caller, row).collect();
            self.replace(&before, &now, store)?;
        }
        Ok(())
    }

    fn refresh_all(&mut self, store: &Store) -> Result<(), MemoryError> {
        let now = self.rows.view().messages;
        let before = self.view.messages.clone();
        self.replace(&before, &now, store)
    }

    fn replace(
        &mut self,
        before: &BTreeMap<MessageKey, Current>,
        now: &BTreeMap<MessageKey, Current>,
        store: &Store,
    ) -> Result<(), MemoryError> {
        for (key, old) in before {
            let new = now.get(key);
            if new == Some(old) {
                continue;
            }
            self.view.messages.remove(key);
            if let Some(batch) = old.batch {
                // The head may rest on it.
                self.index.drop_head(&batch);
                let left = self.view.covered.get_mut(&batch);
                if left.is_some_and(|left| left.remove(key) && left.is_empty()) {
                    self.view.covered.remove(&batch);
                }
            }
            if new.is_none_or(|new| new.batch != old.batch) {
                // What the batch said of it counts no more.
                self.index.drop_notes(key);
            }
            if new.is_none_or(|new| new.rev != old.rev || new.content != old.content) {
                self.index.kill(&Source::Message(*key));
                self.standing.remove(key);
                if let Some(time_ms) = self.times.remove(key) {
                    self.timeline.remove(&(time_ms, *key));
                    self.waiting.remove(&(time_ms, *key));
                }
            }
        }
        for (key, new) in now {
            if before.get(key) == Some(new) {
                continue;
            }
            let time_ms = if let Some(time_ms) = self.times.get(key) {
                *time_ms
            } else {
                // A body that is missing or broken is found again when it comes.
                let Some(message) = self.text(key, new, store)? else { continue };
                for row in ForwardRow::of(Source::Message(*key), &message, &message.text) {
                    self.index.append(row);
                }
                // At once: while many come in, what is not sealed takes five times the memory.
                self.index.seal(false);
                let asks = standing(&message.text);
                if !asks.is_empty() {
                    self.standing.insert(*key, asks);
                }
                self.times.insert(*key, message.time_ms);
                self.timeline.insert((message.time_ms, *key));
                message.time_ms
            };
            self.view.messages.insert(*key, *new);
            if let Some(batch) = new.batch {
                self.view.covered.entry(batch).or_default().insert(*key);
                self.waiting.remove(&(time_ms, *key));
            } else {
                self.waiting.insert((time_ms, *key));
            }
        }
        Ok(())
    }

    /// A message as it is now.
    pub(super) fn message(&self, key: &MessageKey, store: &Store) -> Result<Option<Message>, MemoryError> {
        self.view.messages.get(key).map_or(Ok(None), |current| self.text(key, current, store))
    }

    /// A message as it was appended, if it was corrected since.
    pub(super) fn original(&self, key: &MessageKey, store: &Store) -> Result<Option<Message>, MemoryError> {
        match self.view.messages.get(key) {
            Some(current) if current.corrected.is_some() => self.appended(current, store),
            Some(_) | None => Ok(None),
        }
    }

    fn appended(&self, current: &Current, store: &Store) -> Result<Option<Message>, MemoryError> {
        let row = self.rows.message(&current.caller);
        let Some(stamp) = row.and_then(|row| row.contents.get(&current.content)) else { return Ok(None) };
        match store.item(stamp)? {
            Some(Body::Message(message)) => Ok(Some(message)),
            Some(_) | None => Ok(None),
        }
    }

    fn text(&self, key: &MessageKey, current: &Current, store: &Store) -> Result<Option<Message>, MemoryError> {
        let Some(message) = self.appended(current, store)? else { return Ok(None) };
        let Some(corrected) = &current.corrected else { return Ok(Some(message)) };
        match store.item(&corrected.stamp)? {
            Some(Body::Correction(it)) if it.target == *key => Ok(Some(Message { text: it.text, ..message })),
            Some(_) | None => Ok(None),
        }
    }

    /// When a message was said.
    pub(super) fn time_of(&self, key: &MessageKey) -> Option<i64> {
        self.times.get(key).copied()
    }

    /// Messages of tier 1.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// True if the message is in tier 1.
    pub(super) fn waits(&self, key: &MessageKey) -> bool {
        self.view.messages.get(key).is_some_and(|current| current.batch.is_none())
    }

    /// The oldest of tier 1, at most so many.
    pub(super) fn oldest_waiting(&self, limit: usize) -> Vec<Waiting> {
        let waiting = |(time_ms, key): &Told| {
            let rev = self.view.messages.get(key)?.rev;
            Some(Waiting { time_ms: *time_ms, key: *key, rev })
        };
        self.waiting.iter().take(limit).filter_map(waiting).collect()
    }
}
