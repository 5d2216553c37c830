//! A holder of memory, with its disk in memory: what the shell of the product does with what `memory-core` decides.

use std::collections::BTreeMap;

use memory_core::compaction::{Capture, Draft, Report, Waiting};
use memory_core::forget::refuses;
use memory_core::group::{ChainId, Head, Hlc, SignedGroup, Slot, Stamp};
use memory_core::holes::{Hole, Holes, HolesHash, ItemAt};
use memory_core::ids::{AuthorId, BatchId, Incarnation, MessageKey, ModelId, Rev, WorkspaceId};
use memory_core::item::{Body, Item, Message, Salt};
use memory_core::replica::Holdings;
use memory_core::resolve::{BatchRow, Rows, View};
use memory_core::verify::head_stands;
use memory_core::writing::{Reading, Taken, Tried};
use mesh_core::crypto::{Signer as _, Symbolic, Verifier};
use mesh_core::ids::{PublicKey, Signature};

use super::Without;

/// The workspace.
pub(super) const WS: WorkspaceId = WorkspaceId([7; 16]);
/// The model of every holder.
pub(super) const MODEL: ModelId = ModelId([9; 16]);
/// Keys that sign.
pub(super) const SIGNERS: u64 = 8;
/// Age at which a mutant lets tombstones go.
const EXPIRY_MS: u64 = 30_000;

/// Believes the keys of the simulated devices.
pub(super) struct Keys;

impl Verifier for Keys {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        (0..SIGNERS).any(|n| {
            let signer = Symbolic::new(n);
            signer.public_key() == *key && signer.sign(message) == *signature
        })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Holder {
    signer: Symbolic,
    chain: ChainId,
    groups: BTreeMap<ChainId, Vec<SignedGroup>>,
    tombstones: BTreeMap<MessageKey, SignedGroup>,
    holes: Holes,
    rows: Rows,
    /// A compaction that is not committed.
    pub(super) capture: Option<Capture>,
    tried: BTreeMap<BatchId, Tried>,
    clock: Hlc,
    drawn: u64,
    without: Option<Without>,
}

impl Holder {
    pub(super) fn new(n: usize, without: Option<Without>) -> Self {
        let signer = Symbolic::new(n as u64);
        let chain = ChainId { author: AuthorId::of(&signer.public_key()), incarnation: Incarnation(1) };
        Self {
            signer,
            chain,
            groups: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            holes: Holes::default(),
            rows: Rows::new(WS),
            capture: None,
            tried: BTreeMap::new(),
            clock: Hlc::default(),
            drawn: n as u64,
            without,
        }
    }

    pub(super) fn view(&self) -> View {
        self.rows.view()
    }

    pub(super) fn batch(&self, batch: &BatchId) -> Option<&BatchRow> {
        self.rows.batch(batch)
    }

    pub(super) fn has_forgotten(&self, key: &MessageKey) -> bool {
        self.rows.message(key).is_some_and(|row| row.forgotten)
    }

    /// Hash of what is not held of each chain: while two differ, one asks the other.
    pub(super) fn holes_of(&self) -> BTreeMap<ChainId, HolesHash> {
        self.heads().into_iter().map(|(chain, head)| (chain, self.holes.hash(&chain, head.seq))).collect()
    }

    /// All items with text that are held, each with the messages that it is about.
    pub(super) fn texts(&self) -> impl Iterator<Item = (MessageKey, Body)> + '_ {
        let bodies =
            self.groups.values().flatten().flat_map(SignedGroup::items).filter_map(|(_, item)| item.body().ok());
        bodies.flat_map(|body| about(&body).into_iter().map(move |key| (key, body.clone())).collect::<Vec<_>>())
    }

    /// Appends a message, unless it is forgotten or there; true if it was accepted.
    pub(super) fn append_message(&mut self, message: Message, now: u64) -> Option<SignedGroup> {
        let (key, rev) = (message.key(&WS), message.rev());
        let is_known = self.rows.message(&key).is_some_and(|row| row.contents.contains_key(&rev));
        let forgotten = refuses(&self.rows, &key, &message) && self.without != Some(Without::OldestWins);
        (!is_known && !forgotten).then(|| self.say(&[Body::Message(message)], now))
    }

    /// Forgets a message, with every text about it.
    pub(super) fn forget(&mut self, key: MessageKey, now: u64) -> SignedGroup {
        self.say(&[Body::Tombstone(key)], now)
    }

    /// Says items in one group, durably.
    pub(super) fn say(&mut self, bodies: &[Body], now: u64) -> SignedGroup {
        let items = bodies.iter().map(|body| {
            self.drawn += SIGNERS;
            let mut salt = [0; 16];
            salt[..8].copy_from_slice(&self.drawn.to_be_bytes());
            Item::new(Salt(salt), body)
        });
        let items: Vec<Item> = items.collect();
        let head = self.heads().get(&self.chain).copied().unwrap_or_default();
        self.clock = self.clock.max(head.hlc).next(now);
        let group = SignedGroup::sign(&self.signer, WS, self.chain.incarnation, &head, self.clock, items)
            .expect("a group within its limits");
        for (stamp, item) in group.items() {
            if let Ok(body) = item.body() {
                self.insert(stamp, &body);
            }
        }
        self.take_tombstones(&group, now);
        self.groups.entry(self.chain).or_default().push(group.clone());
        self.relent();
        group
    }

    /// Puts a group onto its chain; false if it does not go there.
    pub(super) fn append(&mut self, group: SignedGroup, now: u64) -> bool {
        let head = self.heads().get(&group.chain()).copied().unwrap_or_default();
        if head.accepts(&group).is_err() {
            return false;
        }
        self.clock = self.clock.seen(group.header().hlc, now);
        let mut group = group.doubted();
        self.take_tombstones(&group, now);
        let (mut late, chain, seq) = (Vec::new(), group.chain(), group.header().seq);
        for (stamp, item) in group.items() {
            let Ok(body) = item.body() else { continue };
            if self.is_late(&stamp, &body) {
                late.push(stamp.index);
            } else {
                self.insert(stamp, &body);
            }
        }
        self.holes.note(&group);
        for index in late {
            group.erase(usize::from(index));
            self.holes.set(chain, ItemAt { seq, index }, Hole::Erased);
        }
        self.groups.entry(chain).or_default().push(group);
        self.relent();
        true
    }

    /// Puts an item that was lacking into its group.
    pub(super) fn fill(&mut self, chain: ChainId, at: ItemAt, item: Item) {
        let group = self.groups.get_mut(&chain).and_then(|all| all.iter_mut().find(|it| it.header().seq == at.seq));
        let Some(group) = group else { return };
        if !group.fill(usize::from(at.index), item) {
            return;
        }
        let filled = group.only(|_| true);
        let Some((stamp, item)) = filled.items().find(|(stamp, _)| stamp.index == at.index) else { return };
        let Ok(body) = item.body() else { return };
        if matches!(&body, Body::Tombstone(key) if !self.tombstones.contains_key(key)) || self.is_late(&stamp, &body) {
            let is_late = !matches!(body, Body::Tombstone(_));
            if let Some(group) =
                self.groups.get_mut(&chain).and_then(|all| all.iter_mut().find(|it| it.header().seq == at.seq))
            {
                group.erase(usize::from(at.index));
            }
            if is_late {
                self.holes.set(chain, at, Hole::Erased);
            }
            return;
        }
        self.holes.fill(&chain, &at);
        self.insert(stamp, &body);
        self.relent();
    }

    /// Applies the tombstones of a group, on its chain or ahead of it, and erases every text about what they name.
    pub(super) fn take_tombstones(&mut self, group: &SignedGroup, now: u64) {
        for (stamp, item) in group.items() {
            let Ok(Body::Tombstone(key)) = item.body() else { continue };
            let is_old = stamp.hlc < Hlc::at(now.saturating_sub(EXPIRY_MS));
            if self.without == Some(Without::NoExpiry) && is_old {
                continue;
            }
            self.insert(stamp, &Body::Tombstone(key));
            self.tombstones.entry(key).or_insert_with(|| group.only(|it| it == item));
            self.erase(key, stamp);
        }
    }

    /// A mutant lets go of tombstones that are old.
    pub(super) fn let_go(&mut self, now: u64) {
        if self.without != Some(Without::NoExpiry) {
            return;
        }
        let is_old = |group: &SignedGroup| group.header().hlc < Hlc::at(now.saturating_sub(EXPIRY_MS));
        self.tombstones.retain(|_, group| !is_old(group));
        let left = self.tombstones.clone();
        self.rebuild(|key, _| left.contains_key(key));
    }

    fn erase(&mut self, key: MessageKey, by: Stamp) {
        let oldest_wins = self.without != Some(Without::OldestWins);
        for (chain, groups) in &mut self.groups {
            for group in groups {
                let seq = group.header().seq;
                let gone: Vec<u16> = group
                    .items()
                    .filter(|(stamp, _)| oldest_wins || *stamp < by)
                    .filter(|(_, item)| item.body().is_ok_and(|body| about(&body).contains(&key)))
                    .map(|(stamp, _)| stamp.index)
                    .collect();
                for index in gone {
                    group.erase(usize::from(index));
                    self.holes.set(*chain, ItemAt { seq, index }, Hole::Erased);
                }
            }
        }
    }

    fn is_late(&self, stamp: &Stamp, body: &Body) -> bool {
        let forgotten = |key: &MessageKey| {
            let by = self.tombstones.get(key).map(|group| group.header().hlc);
            let beats = self.without != Some(Without::OldestWins) || by.is_some_and(|by| stamp.hlc < by);
            self.has_forgotten(key) && beats && self.without != Some(Without::Late)
        };
        about(body).iter().any(forgotten)
    }

    fn insert(&mut self, stamp: Stamp, body: &Body) {
        let mut stamp = stamp;
        if matches!(body, Body::Summary(_)) && self.without == Some(Without::OneWinner) {
            // As they come, and not as they were said.
            self.drawn += SIGNERS;
            stamp.hlc = Hlc(self.drawn);
        }
        self.rows.insert(stamp, body);
    }

    /// A mutant believes whoever speaks last.
    fn relent(&mut self) {
        if self.without != Some(Without::OldestWins) {
            return;
        }
        let mut newest: BTreeMap<MessageKey, Stamp> = BTreeMap::new();
        for (stamp, item) in self.groups.values().flatten().flat_map(SignedGroup::items) {
            if let Ok(Body::Message(message)) = item.body() {
                let known = newest.entry(message.key(&WS)).or_insert(stamp);
                *known = stamp.max(*known);
            }
        }
        self.rebuild(|key, by| newest.get(key).is_none_or(|said| said.hlc < by));
    }

    /// The rows anew, with those tombstones that count.
    fn rebuild(&mut self, counts: impl Fn(&MessageKey, Hlc) -> bool) {
        let mut rows = Rows::new(WS);
        for (stamp, item) in self.groups.values().flatten().flat_map(SignedGroup::items) {
            match item.body() {
                Ok(Body::Tombstone(key)) if !counts(&key, stamp.hlc) => {}
                Ok(body) => rows.insert(stamp, &body),
                Err(_) => {}
            }
        }
        for (key, group) in &self.tombstones {
            if counts(key, group.header().hlc) {
                let anywhere = Stamp { hlc: Hlc(0), author: AuthorId([0; 16]), incarnation: Incarnation(0), index: 0 };
                rows.insert(anywhere, &Body::Tombstone(*key));
            }
        }
        self.rows = rows;
    }

    /// Tier 1.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let time = |key: &MessageKey| self.message(key).map_or(0, |message| message.time_ms);
        self.view().uncovered().map(|(key, rev)| Waiting { time_ms: time(&key), key, rev }).collect()
    }

    /// A message as it is now.
    pub(super) fn message(&self, key: &MessageKey) -> Option<Message> {
        let view = self.view();
        let current = view.messages.get(key)?;
        let row = self.rows.message(&current.caller)?;
        let Body::Message(message) = self.body(row.contents.get(&current.content)?)? else { return None };
        let Some(corrected) = &current.corrected else { return Some(message) };
        let Body::Correction(it) = self.body(&corrected.stamp)? else { return None };
        Some(Message { text: it.text, ..message })
    }

    fn body(&self, stamp: &Stamp) -> Option<Body> {
        let chain = ChainId { author: stamp.author, incarnation: stamp.incarnation };
        let group = self.groups.get(&chain)?.iter().find(|group| group.header().hlc == stamp.hlc)?;
        group.items().find(|(of, _)| of == stamp)?.1.body().ok()
    }

    /// The messages of a capture, as they are now.
    pub(super) fn read(&self, capture: &Capture) -> Vec<(MessageKey, Rev, Message)> {
        capture.covers.iter().filter_map(|(key, rev)| Some((*key, *rev, self.message(key)?))).collect()
    }

    /// True if all messages of a capture still wait as they were.
    pub(super) fn still_waits(&self, capture: &Capture) -> bool {
        let view = self.view();
        let waits = |(key, rev): &(MessageKey, Rev)| {
            view.messages.get(key).is_some_and(|current| current.batch.is_none() && current.rev == *rev)
        };
        capture.covers.iter().all(waits)
    }

    /// Commits a draft, as far as it still stands, and lets the capture go: one step.
    pub(super) fn commit(&mut self, draft: Draft, now: u64) -> Option<(SignedGroup, Report)> {
        self.capture = None;
        let view = self.view();
        let current = |key: &MessageKey| view.messages.get(key).filter(|it| it.batch.is_none()).map(|it| it.rev);
        let draft = if self.without == Some(Without::Recheck) { Some(draft) } else { draft.recheck(&WS, current) };
        let draft = draft?;
        Some((self.say(&draft.bodies(), now), draft.report()))
    }

    /// The next summary that the model is asked about, noted as asked.
    pub(super) fn begin_words(&mut self) -> Option<Reading> {
        let view = self.view();
        for batch in view.covered.keys() {
            let Some(row) = self.rows.batch(batch) else { continue };
            let Some(tried) = Tried::next(&view, row, MODEL, self.tried.get(batch)) else { continue };
            let text = |key: &MessageKey| Ok::<_, ()>(self.message(key));
            let reading = Reading::of(&view, row, text).ok().flatten();
            self.tried.insert(*batch, tried);
            if reading.is_some() {
                return reading;
            }
        }
        None
    }

    /// Keeps a model's words as far as what they are of is as it was.
    pub(super) fn keep_words(&mut self, reading: &Reading, taken: Taken, now: u64) -> Option<SignedGroup> {
        let (view, batch) = (self.view(), reading.batch());
        if let Some(tried) = self.tried.get_mut(&batch) {
            tried.over = true;
        }
        let counts = |(key, rev): &(MessageKey, Rev)| view.counts(&batch, key, rev);
        let stands = |body: &Body| {
            if let Body::Head(head) = body {
                head.sources.iter().all(counts)
            } else if let Body::Fact(fact) = body {
                counts(&(fact.key, fact.rev))
            } else {
                false
            }
        };
        let checks = self.without != Some(Without::Recheck);
        let bodies: Vec<Body> = taken.bodies.into_iter().filter(|body| !checks || stands(body)).collect();
        (!bodies.is_empty()).then(|| self.say(&bodies, now))
    }

    /// The heads that are shown.
    pub(super) fn heads_shown(&self) -> Vec<String> {
        let view = self.view();
        let rows = view.covered.keys().filter_map(|batch| self.rows.batch(batch));
        let shown = rows.flat_map(|row| view.heads(row).collect::<Vec<_>>()).filter(|head| {
            let texts: Vec<Message> = head.sources.iter().filter_map(|(key, _)| self.message(key)).collect();
            let said: Vec<(&str, &str)> = texts.iter().map(|it| (it.speaker.as_str(), it.text.as_str())).collect();
            said.len() == head.sources.len() && head_stands(&head.text, &said)
        });
        shown.map(|head| head.text.clone()).collect()
    }
}

impl Holdings for Holder {
    fn heads(&self) -> BTreeMap<ChainId, Head> {
        self.groups.iter().filter_map(|(chain, groups)| Some((*chain, groups.last()?.head()))).collect()
    }

    fn groups(&self, chain: ChainId, after: u64, _: usize) -> Vec<SignedGroup> {
        let groups = self.groups.get(&chain).into_iter().flatten();
        groups.filter(|group| group.header().seq > after).take(3).cloned().collect()
    }

    fn tombstones(&self) -> BTreeMap<MessageKey, SignedGroup> {
        self.tombstones.clone()
    }

    fn holes(&self) -> &Holes {
        &self.holes
    }

    fn item(&self, chain: &ChainId, at: ItemAt) -> Option<Item> {
        let group = self.groups.get(chain)?.iter().find(|group| group.header().seq == at.seq)?;
        match group.slots().get(usize::from(at.index))? {
            Slot::Held(item) => Some(item.clone()),
            Slot::Erased | Slot::Missing => None,
        }
    }
}

/// The messages that an item has text about: when one is forgotten, so is the item.
fn about(body: &Body) -> Vec<MessageKey> {
    match body {
        Body::Message(message) => vec![message.key(&WS)],
        Body::Correction(it) => vec![it.target],
        Body::Rewrite(it) => vec![it.key],
        Body::Head(it) => it.sources.iter().map(|(key, _)| *key).collect(),
        Body::Tombstone(_) | Body::Summary(_) | Body::Fact(_) | Body::Standing(_) | Body::Unknown(_) => Vec::new(),
    }
}
