//! One workspace beside another holder's: what a session of `memory-core` reads of it, and what comes in.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;

use memory_core::forget::refuses;
use memory_core::group::{ChainError, ChainId, Head, Hlc, SignedGroup, Stamp};
use memory_core::holes::{Hole, Holes, ItemAt};
use memory_core::ids::{AuthorId, MessageKey};
use memory_core::item::{Body, Item};
use memory_core::replica::{Effect, Frame, Holdings, Sent, Session};
use mesh_core::ids::PeerId;

use super::authors::Authors;
use super::error::MemoryError;
use super::keys::{self, Place, TombstoneRow};
use super::store::Stored;
use super::workspace::Workspace;
use crate::mesh::clock;
use crate::mesh::identity::Ed25519Verifier;

/// Tombstones of one author, and of all, that are kept ahead of their chains, each with the header of its group: at most 1.3 kB
/// on disk and in memory, and taken also while the disk is nearly full. Those beyond come with their chains.
const AHEAD_OF_AUTHOR_MAX: usize = 8_192;
const AHEAD_MAX: usize = 4 * AHEAD_OF_AUTHOR_MAX;

/// What a frame of the other holder came to.
#[derive(Debug)]
pub(super) struct Replied {
    /// The session as it is now.
    pub(super) session: Session,
    /// Frames to send, in order.
    pub(super) frames: Vec<Frame>,
    /// Groups that were new here.
    pub(super) taken: usize,
    /// Devices of which no more is taken: they have used up their share of the room.
    pub(super) full: BTreeSet<PeerId>,
    /// It says what no peer of ours says: the session is over.
    pub(super) broken: Option<&'static str>,
}

impl Workspace {
    /// Begins a session; its frame goes out first.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn begin_session(&mut self) -> Result<(Session, Frame), MemoryError> {
        let holdings = Reading::of(self);
        let started = Session::start(&holdings);
        holdings.ended(started)
    }

    /// Takes a frame of the other holder, as far as it is of these authors. What it brings is durable on return.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn handle_frame(
        &mut self,
        mut session: Session,
        mut frame: Frame,
        authors: &Authors,
    ) -> Result<Replied, MemoryError> {
        let (mut frames, mut came) = (Vec::new(), Came::default());
        // What would not be taken is not asked for.
        if let Frame::Digest(chains) = &mut frame {
            let mut admitted: BTreeMap<AuthorId, bool> = BTreeMap::new();
            chains.retain(|(chain, there)| {
                let is_known = authors.peer(&chain.author).is_some();
                let is_ours = || self.heads.get(chain).is_some_and(|own| own.seq >= there.head.seq);
                let mut has_room = || authors.has_room(&chain.author, 1, &self.filled);
                is_known && (is_ours() || *admitted.entry(chain.author).or_insert_with(&mut has_room))
            });
            let peers = admitted.iter().filter(|(_, admitted)| !**admitted).filter_map(|(it, _)| authors.peer(it));
            came.full.extend(peers.copied());
        }
        let first = {
            let holdings = Reading::of(self);
            let effects = session.handle_frame(frame, &holdings);
            holdings.ended(effects)?
        };
        let mut effects: VecDeque<Effect> = first.into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(frame) => frames.push(frame),
                Effect::Forget(sent) => came.forget(self, sent, authors)?,
                Effect::Append(sent) => {
                    if let Some(chain) = came.append(self, sent, authors)? {
                        let holdings = Reading::of(self);
                        let next = session.handle_appended(chain, &holdings);
                        effects.extend(holdings.ended(next)?);
                    }
                }
                Effect::Fill(chain, items) => {
                    came.fill(self, chain, items, authors)?;
                    let holdings = Reading::of(self);
                    let next = session.handle_filled(&holdings);
                    effects.extend(holdings.ended(next)?);
                }
                Effect::Forked(chain) => {
                    tracing::warn!(author = ?chain.author, "a device has written memory from two copies of its store");
                }
                Effect::End(why) => came.broken = Some(why),
            }
            if came.broken.is_some() {
                break;
            }
        }
        let Came { taken, full, broken } = came;
        Ok(Replied { session, frames, taken, full, broken })
    }
}

/// All that came of a frame so far; see [`Replied`].
#[derive(Default)]
struct Came {
    taken: usize,
    full: BTreeSet<PeerId>,
    broken: Option<&'static str>,
}

impl Came {
    fn forget(&mut self, workspace: &mut Workspace, sent: Vec<Sent>, authors: &Authors) -> Result<(), MemoryError> {
        for sent in sent {
            match sent.verify(&workspace.id, &Ed25519Verifier) {
                Ok(group) if authors.peer(&group.chain().author).is_none() => {
                    tracing::debug!("a tombstone of somebody who never belonged is left out");
                }
                Ok(group) => self.taken += usize::from(take_tombstones(workspace, &group)?),
                Err(error) => {
                    tracing::debug!(%error, "a tombstone of another holder is refused");
                    self.broken = Some("a tombstone that is not signed");
                }
            }
        }
        Ok(())
    }

    /// Gives the chain of the groups.
    fn append(
        &mut self,
        workspace: &mut Workspace,
        sent: Vec<Sent>,
        authors: &Authors,
    ) -> Result<Option<ChainId>, MemoryError> {
        let mut chain = None;
        for sent in sent {
            let group = match sent.verify(&workspace.id, &Ed25519Verifier) {
                Ok(group) => group,
                Err(error) => {
                    tracing::debug!(%error, "a group of another holder is refused");
                    self.broken = Some("a group that is not signed");
                    break;
                }
            };
            chain = Some(group.chain());
            let author = group.chain().author;
            let Some(peer) = authors.peer(&author) else {
                self.broken = Some("groups of somebody who never belonged");
                break;
            };
            if !authors.has_room(&author, group.size() as u64, &workspace.filled) {
                self.full.insert(*peer);
                break;
            }
            match take(workspace, group)? {
                ControlFlow::Continue(new) => self.taken += usize::from(new),
                ControlFlow::Break(why) => {
                    tracing::warn!(%why, "a group of another holder does not go onto its chain");
                    break;
                }
            }
        }
        Ok(chain)
    }

    fn fill(
        &mut self,
        workspace: &mut Workspace,
        chain: ChainId,
        items: Vec<(ItemAt, Item)>,
        authors: &Authors,
    ) -> Result<(), MemoryError> {
        let Some(peer) = authors.peer(&chain.author) else {
            self.broken = Some("items of somebody who never belonged");
            return Ok(());
        };
        let size: usize = items.iter().map(|(_, item)| item.size()).sum();
        if !authors.has_room(&chain.author, size as u64, &workspace.filled) {
            self.full.insert(*peer);
            return Ok(());
        }
        match fill(workspace, chain, items)? {
            ControlFlow::Continue(new) => self.taken += new,
            ControlFlow::Break(why) => self.broken = Some(why),
        }
        Ok(())
    }
}

/// Puts a group onto its chain, durably. `Continue(false)`: it is there already.
fn take(workspace: &mut Workspace, group: SignedGroup) -> Result<ControlFlow<ChainError, bool>, MemoryError> {
    let head = workspace.heads.get(&group.chain()).copied().unwrap_or_default();
    match head.accepts(&group) {
        Ok(()) => {}
        Err(ChainError::Known) => return Ok(ControlFlow::Continue(false)),
        Err(error) => return Ok(ControlFlow::Break(error)),
    }
    let mut group = group.doubted();
    let said: Vec<(usize, Body)> =
        group.items().filter_map(|(stamp, item)| Some((usize::from(stamp.index), item.body().ok()?))).collect();
    let mut forgotten: Vec<MessageKey> = Vec::new();
    forgotten
        .extend(said.iter().filter_map(|(_, body)| if let Body::Tombstone(key) = body { Some(*key) } else { None }));
    // What comes late of something that is forgotten is kept erased.
    for (index, body) in &said {
        let about = workspace.texts_about(body);
        if is_late(workspace, body) || about.iter().any(|key| forgotten.contains(key)) {
            group.erase(*index);
        }
    }
    let mut writes = workspace.erasing_of(&forgotten)?;
    let chain = group.chain();
    let said = workspace.rows_of(&group, &mut writes);
    writes.push((keys::head(&chain), Some(keys::encode(&group.head()).into())));
    workspace.store.commit(writes, false)?;
    workspace.heads.insert(chain, group.head());
    workspace.holes.note(&group);
    workspace.fill(&group);
    workspace.clock = workspace.clock.seen(group.header().hlc, clock::now().wall_ms);
    workspace.note(said)?;
    Ok(ControlFlow::Continue(true))
}

/// True if an item comes late: it is about something that is forgotten.
fn is_late(workspace: &Workspace, body: &Body) -> bool {
    match body {
        Body::Message(message) => refuses(&workspace.held.rows, &message.key(&workspace.id), message),
        Body::Correction(_)
        | Body::Tombstone(_)
        | Body::Summary(_)
        | Body::Rewrite(_)
        | Body::Fact(_)
        | Body::Standing(_)
        | Body::Head(_)
        | Body::Unknown(_) => {
            let about = workspace.texts_about(body);
            about.iter().any(|key| workspace.held.rows.message(key).is_some_and(|row| row.forgotten))
        }
    }
}

/// Puts items that were lacking into their groups, durably. Gives how many are new here; `Break`: one is not what was signed.
fn fill(
    workspace: &mut Workspace,
    chain: ChainId,
    items: Vec<(ItemAt, Item)>,
) -> Result<ControlFlow<&'static str, usize>, MemoryError> {
    let mut groups: BTreeMap<u64, Vec<(u16, Item)>> = BTreeMap::new();
    for (at, item) in items {
        groups.entry(at.seq).or_default().push((at.index, item));
    }
    let (mut writes, mut said, mut holes, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (seq, items) in groups {
        let Some(mut row) = workspace.store.group(&chain, seq)? else { continue };
        let header = row.header_of().ok_or(MemoryError::Damaged("the header of a group"))?;
        let filled = holes.len();
        for (index, item) in items {
            if header.items.get(usize::from(index)) != Some(&item.hash()) {
                return Ok(ControlFlow::Break("an item that is not the one that was signed"));
            }
            let Some(place) = row.places.get_mut(usize::from(index)).filter(|place| **place == Place::Missing) else {
                continue;
            };
            let body = item.body().ok();
            // Tombstones come first in every session: one that is not known by now comes with the next.
            if matches!(&body, Some(Body::Tombstone(key)) if !workspace.tombstones.contains_key(key)) {
                continue;
            }
            let at = ItemAt { seq, index };
            if body.as_ref().is_some_and(|body| is_late(workspace, body)) {
                *place = Place::Erased;
                holes.push((at, Some(Hole::Erased)));
                continue;
            }
            *place = Place::Held;
            holes.push((at, None));
            bytes += item.size() as u64;
            let stamp = Stamp { hlc: header.hlc, author: chain.author, incarnation: chain.incarnation, index };
            said.extend(workspace.item_rows(stamp, seq, &item, &mut writes));
        }
        if holes.len() > filled {
            writes.push((keys::group(&chain, seq), Some(keys::encode(&row).into())));
        }
    }
    if holes.is_empty() {
        return Ok(ControlFlow::Continue(0));
    }
    workspace.store.commit(writes, false)?;
    let mut new = 0;
    for (at, hole) in holes {
        if let Some(hole) = hole {
            workspace.holes.set(chain, at, hole);
        } else {
            workspace.holes.fill(&chain, &at);
            new += 1;
        }
    }
    *workspace.filled.entry(chain.author).or_default() += bytes;
    // What was not kept is no news to others.
    if new > 0 {
        workspace.note(said)?;
    }
    Ok(ControlFlow::Continue(new))
}

/// Takes the tombstones of a group that is not on its chain yet, durably. False: they are all known.
fn take_tombstones(workspace: &mut Workspace, group: &SignedGroup) -> Result<bool, MemoryError> {
    let said: Vec<_> = group
        .items()
        .filter_map(|(stamp, item)| match item.body() {
            Ok(Body::Tombstone(key)) if !workspace.tombstones.contains_key(&key) => Some((stamp, key)),
            Ok(_) | Err(_) => None,
        })
        .collect();
    let author = group.chain().author;
    let (all, of_author) = (workspace.ahead.values().sum::<usize>(), workspace.ahead.get(&author).copied());
    let of_author = of_author.unwrap_or_default() + said.len();
    if said.is_empty() || of_author > AHEAD_OF_AUTHOR_MAX || all + said.len() > AHEAD_MAX {
        return Ok(false);
    }
    workspace.ahead.insert(author, of_author);
    let keys: Vec<MessageKey> = said.iter().map(|(_, key)| *key).collect();
    let mut writes = workspace.erasing_of(&keys)?;
    // Each is kept with what proves it and nothing else that its group brings.
    let alone = |key: &MessageKey| {
        let is_it = |item: &Item| item.body() == Ok(Body::Tombstone(*key));
        TombstoneRow::Alone(Box::new(Sent::of(&group.only(is_it))))
    };
    let rows: Vec<TombstoneRow> = keys.iter().map(alone).collect();
    for (key, row) in keys.iter().zip(&rows) {
        writes.push((keys::tombstone(key), Some(keys::encode(row).into())));
    }
    workspace.store.commit(writes, false)?;
    for ((stamp, key), row) in said.into_iter().zip(rows) {
        workspace.tombstones.insert(key, row);
        workspace.held.insert(stamp, &Body::Tombstone(key));
    }
    workspace.written += 1;
    workspace.refresh()?;
    Ok(true)
}

/// The workspace as a session reads it. Reads that fail are told at the end.
struct Reading<'a> {
    workspace: &'a Workspace,
    failed: RefCell<Option<MemoryError>>,
    /// The group of which an item was read last, and its clock.
    group: Cell<Option<(ChainId, u64, Hlc)>>,
}

impl<'a> Reading<'a> {
    fn of(workspace: &'a Workspace) -> Self {
        Self { workspace, failed: RefCell::new(None), group: Cell::new(None) }
    }

    /// `value`, unless something could not be read for it.
    fn ended<T>(self, value: T) -> Result<T, MemoryError> {
        self.failed.into_inner().map_or(Ok(value), Err)
    }

    fn or_told<T>(&self, read: Result<Option<T>, MemoryError>) -> Option<T> {
        read.unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            None
        })
    }
}

impl Holdings for Reading<'_> {
    fn heads(&self) -> BTreeMap<ChainId, Head> {
        self.workspace.heads.clone()
    }

    fn groups(&self, chain: ChainId, after: u64, bytes_max: usize) -> Vec<SignedGroup> {
        let (mut groups, mut bytes) = (Vec::new(), 0);
        for seq in after.saturating_add(1).. {
            let Some(group) = self.or_told(self.workspace.group(&chain, seq)) else { break };
            bytes += group.size();
            if !groups.is_empty() && bytes > bytes_max {
                break;
            }
            groups.push(group);
        }
        groups
    }

    fn holes(&self) -> &Holes {
        &self.workspace.holes
    }

    fn item(&self, chain: &ChainId, at: ItemAt) -> Option<Item> {
        // Items of one group are asked for one after the other.
        let known = self.group.get().filter(|(of, seq, _)| (of, *seq) == (chain, at.seq)).map(|(_, _, hlc)| hlc);
        let hlc = if let Some(hlc) = known {
            hlc
        } else {
            let row = self.or_told(self.workspace.store.group(chain, at.seq))?;
            let hlc = row.header_of()?.hlc;
            self.group.set(Some((*chain, at.seq, hlc)));
            hlc
        };
        let stamp = Stamp { hlc, author: chain.author, incarnation: chain.incarnation, index: at.index };
        self.or_told(self.workspace.store.raw_item(&stamp))
    }

    fn tombstones(&self) -> BTreeMap<MessageKey, SignedGroup> {
        let mut all = BTreeMap::new();
        let mut last: Option<((ChainId, u64), SignedGroup)> = None;
        for (key, row) in &self.workspace.tombstones {
            let group = match row {
                TombstoneRow::InChain(chain, seq) => {
                    // Those of one forgetting are in few groups.
                    if last.as_ref().is_none_or(|(at, _)| *at != (*chain, *seq)) {
                        last = self.or_told(self.workspace.group(chain, *seq)).map(|group| ((*chain, *seq), group));
                    }
                    last.as_ref().map(|(_, group)| group.clone())
                }
                TombstoneRow::Alone(sent) => (**sent).clone().verify(&self.workspace.id, &Stored).ok(),
            };
            let is_it = |item: &Item| item.body() == Ok(Body::Tombstone(*key));
            if let Some(group) = group {
                all.insert(*key, group.only(is_it));
            }
        }
        all
    }
}
