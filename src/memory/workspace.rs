//! One open workspace: its chain of groups, and how messages come in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use data_encoding::BASE32_NOPAD;
use memory_core::compaction::Settings;
use memory_core::forget::refuses;
use memory_core::group::{ChainId, Head, Header, Hlc, SignedGroup, Slot, Stamp};
use memory_core::holes::Holes;
use memory_core::ids::{AuthorId, BatchId, Incarnation, MessageKey, Rev, WorkspaceId};
use memory_core::index::columns::Source;
use memory_core::item::{Body, Item, Kind, Message, Salt};
use memory_core::limits::{GROUP_BYTES_MAX, GROUP_ITEMS_MAX, TOMBSTONE_GROUP_ITEMS_MAX};
use memory_core::writing::Tried;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng as _;

use super::authors::Filled;
use super::error::MemoryError;
use super::held::Held;
use super::keys::{self, GroupRow, Meta, Place, TombstoneRow};
use super::reader::Reader;
use super::store::{Store, Stored, seq_value};
use super::vectors::Vectors;
use crate::faults;
use crate::mesh::clock;
use crate::mesh::identity::DeviceKey;
use crate::store::Write;

/// A message as a caller gives it.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The caller's id; `None`: one is given.
    pub id: Option<String>,
    /// See [`Message::conversation`].
    pub conversation: String,
    /// See [`Message::session`].
    pub session: Option<String>,
    /// See [`Message::speaker`].
    pub speaker: String,
    /// See [`Message::text`].
    pub text: String,
    /// When it was said, milliseconds since 1970, and minutes east of UTC; `None`: now.
    pub time: Option<(i64, i16)>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored, and durable.
    Stored,
    /// The same message with the same content was there.
    Unchanged,
    /// Another message has its id. Both are kept; this one is found by the item id that is returned.
    Beside,
    /// It is not taken: a message with this id or content was forgotten.
    Forgotten,
}

/// A message that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The caller's id, or the one that it was given.
    pub external_id: String,
    /// The id by which it is read, corrected and forgotten.
    pub key: MessageKey,
    /// What became of it.
    pub outcome: Outcome,
}

/// An item that was committed: its stamp, the number of its group, and what it says.
pub(super) type Noted = (Stamp, u64, Body);

/// See the module. All methods block.
#[derive(Debug)]
pub struct Workspace {
    pub(super) id: WorkspaceId,
    pub(super) store: Store,
    pub(super) held: Held,
    pub(super) settings: Settings,
    key: DeviceKey,
    chain: ChainId,
    pub(super) heads: BTreeMap<ChainId, Head>,
    /// Bytes of groups that each author has filled. What is erased counts until the next opening.
    pub(super) filled: Filled,
    /// Items that are not held although their groups are.
    pub(super) holes: Holes,
    /// All that is forgotten, and where it is said.
    pub(super) tombstones: BTreeMap<MessageKey, TombstoneRow>,
    /// Tombstones that came ahead of their chains, by author. Those whose chain has come count until the next opening.
    pub(super) ahead: BTreeMap<AuthorId, usize>,
    /// The newest time that was seen.
    pub(super) clock: Hlc,
    /// Steps in which something was written that other holders want.
    pub(super) written: u64,
    /// Something is forgotten whose bytes may still be in the engine's files.
    pub(super) vacuum_due: bool,
    /// Which model was asked about which batch.
    pub(super) tried: BTreeMap<BatchId, Tried>,
    /// What the model fails with.
    unembeddable: BTreeSet<(Source, Rev)>,
    rng: ChaCha8Rng,
}

impl Workspace {
    /// Opens the workspace whose database is in `dir`, which is made as needed, and takes up a compaction that was
    /// interrupted.
    ///
    /// # Errors
    /// The database cannot be opened or read.
    pub fn open(dir: &Path, id: WorkspaceId, key: DeviceKey, settings: Settings) -> Result<Self, MemoryError> {
        let (store, report) = Store::open(dir)?;
        if let Some(loss) = &report.lost {
            tracing::error!(why = loss.why, "memory was lost on this device: its database could not be repaired");
        }
        let mut held = Held::new(id);
        let found = store.scan(|stamp, body| held.insert(stamp, &body))?;
        if found.meta.is_some_and(|meta| meta.workspace != id) {
            return Err(MemoryError::Damaged("it is of another workspace"));
        }
        for key in found.tombstones.keys() {
            held.forget(*key);
        }
        let useless = held.load(&found.segments);
        held.refresh(&store)?;
        let mut rng = crate::mesh::entropy();
        // A store that is older than what it promised must not say other things under the same numbers.
        let kept = found.meta.filter(|_| !store.is_rolled_back()).map(|meta| meta.incarnation);
        let incarnation = kept.unwrap_or_else(|| Incarnation(rng.next_u32()));
        let author = AuthorId::of(&key.public_key());
        let clock = found.heads.values().map(|head| head.hlc).max().unwrap_or_default();
        let chain = ChainId { author, incarnation };
        let (heads, filled, holes, tombstones) = (found.heads, found.filled, found.holes, found.tombstones);
        let ahead = ahead_in(&tombstones, &id);
        let (vacuum_due, tried, unembeddable) = (found.forgetting, found.tried, BTreeSet::new());
        let mut workspace = Self {
            id,
            store,
            held,
            settings,
            key,
            chain,
            heads,
            filled,
            holes,
            tombstones,
            ahead,
            clock,
            written: 0,
            vacuum_due,
            tried,
            unembeddable,
            rng,
        };
        if kept.is_none() {
            let meta = Meta { workspace: id, incarnation };
            workspace.store.commit(vec![(vec![keys::META], Some(keys::encode(&meta).into()))], true)?;
        }
        if !useless.is_empty() {
            tracing::info!("segments of the index of memory are made anew");
            workspace.store.commit(useless, false)?;
        }
        workspace.keep_segments()?;
        workspace.vectors().load()?;
        workspace.forget_again()?;
        for capture in found.captures {
            workspace.resume(capture)?;
        }
        Ok(workspace)
    }

    /// Appends messages; all of them are durable on return, or none. One that is there already changes nothing.
    ///
    /// # Errors
    /// The first message that breaks a limit, and then nothing is stored; the disk.
    pub fn append(&mut self, new: Vec<NewMessage>, by_content: bool) -> Result<Vec<Appended>, MemoryError> {
        let now_ms = i64::try_from(clock::now().wall_ms).unwrap_or(i64::MAX);
        let mut messages = Vec::with_capacity(new.len());
        for it in new {
            let is_timeless = by_content && it.id.is_none() && it.time.is_none();
            // Of what has neither id nor time, the time of the import is no part of its content.
            let (time_ms, offset_min) = it.time.unwrap_or((if is_timeless { 0 } else { now_ms }, 0));
            let mut message = Message {
                id: String::new(),
                conversation: it.conversation,
                session: it.session,
                speaker: it.speaker,
                text: it.text,
                time_ms,
                offset_min,
            };
            message.id = match it.id {
                Some(id) => id,
                // What is forgotten must not come back under another id by a second import of the same file.
                None if by_content => format!("content-{}", lower(&message.rev().0)),
                None => {
                    let mut drawn = [0; 16];
                    self.rng.fill_bytes(&mut drawn);
                    lower(&drawn)
                }
            };
            message.check()?;
            if is_timeless {
                message.time_ms = now_ms;
            }
            messages.push((message, is_timeless));
        }
        let (mut bodies, mut outcomes) = (Vec::new(), Vec::with_capacity(messages.len()));
        let mut fresh: BTreeSet<(MessageKey, Rev)> = BTreeSet::new();
        for (message, is_timeless) in messages {
            let (key, rev) = (message.key(&self.id), message.rev());
            let row = self.held.rows.message(&key);
            let is_known = row.is_some_and(|row| row.contents.contains_key(&rev)) || fresh.contains(&(key, rev));
            let is_taken = row.is_some_and(|row| !row.contents.is_empty()) || fresh.iter().any(|(of, _)| *of == key);
            let outcome = if refuses(&self.held.rows, &key, &message) {
                Outcome::Forgotten
            } else if is_known || (is_timeless && is_taken) {
                Outcome::Unchanged
            } else if is_taken {
                Outcome::Beside
            } else {
                Outcome::Stored
            };
            outcomes.push((message.id.clone(), key, rev, outcome));
            if matches!(outcome, Outcome::Stored | Outcome::Beside) {
                fresh.insert((key, rev));
                bodies.push(Body::Message(message));
            }
        }
        if !bodies.is_empty() {
            self.say(&bodies, Vec::new())?;
            let _ = faults::pass(faults::Point::MemoryAppended);
        }
        let shown = |(external_id, key, rev, outcome): (String, MessageKey, Rev, Outcome)| {
            let variant = key.variant(&rev);
            let lives = |key: &MessageKey| self.held.view.messages.get(key).is_some_and(|it| it.content == rev);
            let key = if !lives(&key) && lives(&variant) { variant } else { key };
            Appended { external_id, key, outcome }
        };
        Ok(outcomes.into_iter().map(shown).collect())
    }

    /// All that can be read of it.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader { id: self.id, held: &self.held, store: &self.store }
    }

    /// Its vectors.
    pub fn vectors(&mut self) -> Vectors<'_> {
        let Self { held, store, unembeddable, .. } = self;
        Vectors { held, store, unembeddable }
    }

    #[cfg(test)]
    pub(super) fn chain(&self) -> ChainId {
        self.chain
    }

    /// The write that failed. What is in memory and on disk may differ from then on.
    #[must_use]
    pub fn failure(&self) -> Option<MemoryError> {
        self.store.failure().cloned().map(MemoryError::from)
    }

    /// Says items on our chain, in as few groups as they fit, together with other rows; durable on return.
    pub(super) fn say(&mut self, bodies: &[Body], mut writes: Vec<Write>) -> Result<(), MemoryError> {
        let mut items = Vec::with_capacity(bodies.len());
        for body in bodies {
            let mut salt = [0; 16];
            self.rng.fill_bytes(&mut salt);
            items.push(Item::new(Salt(salt), body));
        }
        let now_ms = clock::now().wall_ms;
        let mut head = self.heads.get(&self.chain).copied().unwrap_or_default();
        let mut said = Vec::new();
        for part in parts(items) {
            self.clock = self.clock.max(head.hlc).next(now_ms);
            let group = SignedGroup::sign(&self.key, self.id, self.chain.incarnation, &head, self.clock, part)
                .map_err(|_| MemoryError::Damaged("a group over its limits"))?;
            head = group.head();
            self.fill(&group);
            said.extend(self.rows_of(&group, &mut writes));
        }
        writes.push((keys::head(&self.chain), Some(keys::encode(&head).into())));
        self.store.commit(writes, false)?;
        self.heads.insert(self.chain, head);
        self.note(said)
    }

    /// Counts a group that is kept.
    pub(super) fn fill(&mut self, group: &SignedGroup) {
        *self.filled.entry(group.chain().author).or_default() += group.size() as u64;
    }

    /// Brings what is in memory up to date with what was committed.
    pub(super) fn note(&mut self, said: Vec<Noted>) -> Result<(), MemoryError> {
        self.written += 1;
        for (stamp, seq, body) in said {
            if let Body::Tombstone(key) = body {
                let chain = ChainId { author: stamp.author, incarnation: stamp.incarnation };
                self.tombstones.insert(key, TombstoneRow::InChain(chain, seq));
            }
            self.held.insert(stamp, &body);
        }
        self.refresh()
    }

    /// Brings what counts up to date, and keeps what was sealed of the index by that.
    pub(super) fn refresh(&mut self) -> Result<(), MemoryError> {
        self.held.refresh(&self.store)?;
        self.keep_segments()
    }

    fn keep_segments(&mut self) -> Result<(), MemoryError> {
        while let Some((number, rows)) = self.held.unkept() {
            self.store.commit(rows, false)?;
            self.held.set_kept(number);
        }
        Ok(())
    }

    /// The rows of a group; gives what it says.
    pub(super) fn rows_of(&self, group: &SignedGroup, writes: &mut Vec<Write>) -> Vec<Noted> {
        let seq = group.header().seq;
        writes.push((keys::group(&group.chain(), seq), Some(keys::encode(&GroupRow::of(group)).into())));
        group.items().filter_map(|(stamp, item)| self.item_rows(stamp, seq, item, writes)).collect()
    }

    /// The rows of one item of a group; gives what it says.
    pub(super) fn item_rows(&self, stamp: Stamp, seq: u64, item: &Item, writes: &mut Vec<Write>) -> Option<Noted> {
        writes.push((keys::item(&stamp), Some(keys::encode(item).into())));
        // What breaks a limit counts for nothing, and stays.
        let body = item.body().ok()?;
        for message in self.texts_about(&body) {
            writes.push((keys::about(&message, &stamp), Some(seq_value(seq))));
        }
        if let Body::Tombstone(key) = body {
            let chain = ChainId { author: stamp.author, incarnation: stamp.incarnation };
            let row = TombstoneRow::InChain(chain, seq);
            writes.push((keys::tombstone(&key), Some(keys::encode(&row).into())));
        }
        Some((stamp, seq, body))
    }

    /// A group as it is held; `None` when there is none.
    pub(super) fn group(&self, chain: &ChainId, seq: u64) -> Result<Option<SignedGroup>, MemoryError> {
        let Some(row) = self.store.group(chain, seq)? else { return Ok(None) };
        let header: Header = row.header_of().ok_or(MemoryError::Damaged("the header of a group"))?;
        let mut slots = Vec::with_capacity(row.places.len());
        for (index, place) in (0_u16..).zip(&row.places) {
            let stamp = Stamp { hlc: header.hlc, author: chain.author, incarnation: chain.incarnation, index };
            slots.push(match place {
                Place::Held => self.store.raw_item(&stamp)?.map_or(Slot::Missing, Slot::Held),
                Place::Erased => Slot::Erased,
                Place::Missing => Slot::Missing,
            });
        }
        let checked = SignedGroup::verify(row.header, row.signature, slots, &self.id, &Stored);
        checked.map(Some).map_err(|_| MemoryError::Damaged("a group"))
    }

    /// The messages that an item has text about: when one is forgotten, so is the item.
    pub(super) fn texts_about(&self, body: &Body) -> Vec<MessageKey> {
        match body {
            Body::Message(message) => vec![message.key(&self.id)],
            Body::Correction(it) => vec![it.target],
            Body::Rewrite(it) => vec![it.key],
            Body::Head(it) => it.sources.iter().map(|(key, _)| *key).collect(),
            Body::Tombstone(_) | Body::Summary(_) | Body::Fact(_) | Body::Standing(_) | Body::Unknown(_) => Vec::new(),
        }
    }
}

/// Number of tombstones of each author that are here ahead of their chains.
fn ahead_in(tombstones: &BTreeMap<MessageKey, TombstoneRow>, id: &WorkspaceId) -> BTreeMap<AuthorId, usize> {
    let mut ahead = BTreeMap::new();
    for row in tombstones.values() {
        if let TombstoneRow::Alone(sent) = row
            && let Ok(group) = (**sent).clone().verify(id, &Stored)
        {
            *ahead.entry(group.chain().author).or_default() += 1;
        }
    }
    ahead
}

/// Items in parts of at most what one group may have.
fn parts(items: Vec<Item>) -> Vec<Vec<Item>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for item in items {
        bytes += item.size();
        let last = parts.last().map_or(0, Vec::len);
        let most = if item.kind == Kind::TOMBSTONE { TOMBSTONE_GROUP_ITEMS_MAX } else { GROUP_ITEMS_MAX };
        if last >= most || (last > 0 && bytes > GROUP_BYTES_MAX) {
            parts.push(Vec::new());
            bytes = item.size();
        }
        if let Some(part) = parts.last_mut() {
            part.push(item);
        }
    }
    parts
}

fn lower(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}
