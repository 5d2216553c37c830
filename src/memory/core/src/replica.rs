//! Exchange between two holders: what one lacks the other sends, tombstones first.
//!
//! A [`Session`] is one stream between two peers that both may hold the workspace (the shell checks that, at its beginning and
//! when policy changes). Both say [`Frame::Hello`]; when their tombstones differ they exchange the whole difference before
//! anything else, so nothing that is forgotten arrives before its tombstone. Then digests of all chains, and groups in the
//! order of each chain; then single items, where groups came without them and the other's holes are others than ours
//! ([`crate::holes`]): one honest holder suffices, whoever handed the groups on. A session keeps nothing that matters: it may end
//! anywhere and begin anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use mesh_core::crypto::Verifier;
use mesh_core::ids::Signature;

use crate::codec;
use crate::group::{ChainId, GroupError, Head, SignedGroup, Slot};
use crate::holes::{Extent, Holes, ItemAt};
use crate::ids::{MessageKey, WorkspaceId, hash};
use crate::item::Item;
use crate::limits;

/// Version of these frames; peers of two versions exchange nothing. 2: digests tell of holes, and single items are asked for.
pub const VERSION: u16 = 2;
/// Tombstones are compared in so many buckets, by the first byte of their key.
const BUCKETS: usize = 256;

/// A group as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    #[serde(with = "serde_bytes")]
    header: Vec<u8>,
    signature: Signature,
    slots: Vec<Slot>,
}

impl Sent {
    /// A group as it travels.
    #[must_use]
    pub fn of(group: &SignedGroup) -> Self {
        Self { header: group.bytes().to_vec(), signature: group.signature(), slots: group.slots().to_vec() }
    }

    /// Checks it.
    ///
    /// # Errors
    /// See [`SignedGroup::verify`].
    pub fn verify(self, workspace: &WorkspaceId, verifier: &dyn Verifier) -> Result<SignedGroup, GroupError> {
        SignedGroup::verify(self.header, self.signature, self.slots, workspace, verifier)
    }
}

/// Words that two holders say to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// The first frame of both.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// Hash of all tombstones.
        tombstones: [u8; 8],
    },
    /// Hash of the tombstones of each bucket, in order.
    Buckets(Vec<[u8; 8]>),
    /// Groups of which only the tombstones are sent: those of the buckets that differ.
    Tombstones {
        /// The groups; at most [`limits::TOMBSTONES_PER_FRAME`].
        groups: Vec<Sent>,
        /// No more follow.
        last: bool,
    },
    /// Extent to which each chain is held.
    Digest(Vec<(ChainId, Extent)>),
    /// Send the groups of a chain after this number.
    Want(ChainId, u64),
    /// Groups of one chain, in order.
    Groups(Vec<Sent>),
    /// Send these items of a chain, 1 to [`limits::LACKING_MAX`], in rising order.
    Lacking(ChainId, Vec<ItemAt>),
    /// Those of them that are held.
    Found {
        /// Their chain.
        chain: ChainId,
        /// The last place that was looked at: further ones are asked for anew.
        to: ItemAt,
        /// The items, each with its place.
        items: Vec<(ItemAt, Item)>,
    },
    /// All that the other had when it sent its digest is here: once both have said so, the session is over.
    Done,
}

impl Frame {
    /// Encodes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes it; `None` when it is malformed.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        codec::decode(bytes)
    }
}

/// All that a session reads of the store.
pub trait Holdings {
    /// Extent to which each chain is held.
    fn heads(&self) -> BTreeMap<ChainId, Head>;
    /// Groups of a chain after a number, in order; at least one if there is one, further ones while they fit into
    /// `bytes_max`. What is erased is marked so.
    fn groups(&self, chain: ChainId, after: u64, bytes_max: usize) -> Vec<SignedGroup>;
    /// All tombstones, each with a group that has it.
    fn tombstones(&self) -> BTreeMap<MessageKey, SignedGroup>;
    /// Items that are not held although their groups are.
    fn holes(&self) -> &Holes;
    /// An item, if it is held.
    fn item(&self, chain: &ChainId, at: ItemAt) -> Option<Item>;
}

/// All that the shell does with a frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this.
    Send(Frame),
    /// Check these groups ([`Sent::verify`]) and apply their tombstones, in one synced batch and before anything else of this
    /// session. They do not extend a chain.
    Forget(Vec<Sent>),
    /// Check these groups and append them to their chain, with what they carry, in one batch with its head. Then
    /// [`Session::handle_appended`].
    Append(Vec<Sent>),
    /// Check these items ([`SignedGroup::fill`]) and put those that were lacking into their groups, in one synced batch, as if
    /// their groups had come with them. Then [`Session::handle_filled`].
    Fill(ChainId, Vec<(ItemAt, Item)>),
    /// The author of this chain has appended to a copy of its store. The first stays; the author is told.
    Forked(ChainId),
    /// End the session: the other says what no peer of ours says.
    End(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tombs {
    /// The other has not said yet what it has.
    Unknown,
    /// They are equal, or theirs are all here.
    Settled,
    /// Theirs are coming.
    Coming,
}

/// See the module.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an event of the conversation, and they come in several orders"
)]
#[derive(Debug, Clone)]
pub struct Session {
    theirs: Tombs,
    /// Ours were sent, or are equal.
    sent_ours: bool,
    /// The other has asked for the buckets in which we differ. It may do so when they were equal for us: between our hello and
    /// its own something was forgotten.
    compared: bool,
    /// The other's digest, which came while its tombstones were on their way: it had found them equal.
    early: Option<Vec<(ChainId, Extent)>>,
    /// We have sent our digest.
    digested: bool,
    /// All that the other has, from its digest; `None` before it.
    heard: Option<BTreeMap<ChainId, Extent>>,
    /// Chains of which the other has more. They are asked for one after the other, so that never more than one answer is on its
    /// way.
    wanted: VecDeque<ChainId>,
    /// Last group of the first of them that was here when it was asked for.
    asked: u64,
    /// Chains of which the other may have items that are lacking here; known once all groups are here. One after the other,
    /// likewise.
    patchy: Option<VecDeque<ChainId>>,
    /// Items of the first of them that were asked for: the first and the last.
    sought: Option<(ItemAt, ItemAt)>,
    /// The other has said that it is done.
    done_there: bool,
}

impl Session {
    /// Begins a session; the frame goes out first.
    #[must_use]
    pub fn start(holdings: &dyn Holdings) -> (Self, Frame) {
        let session = Self {
            theirs: Tombs::Unknown,
            sent_ours: false,
            compared: false,
            early: None,
            digested: false,
            heard: None,
            wanted: VecDeque::new(),
            asked: 0,
            patchy: None,
            sought: None,
            done_there: false,
        };
        let hello = Frame::Hello { version: VERSION, tombstones: root(&holdings.tombstones()) };
        (session, hello)
    }

    /// True once all that the other had when it sent its digest was asked for and has come.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let is_whole = self.patchy.as_ref().is_some_and(VecDeque::is_empty);
        self.digested && self.heard.is_some() && self.wanted.is_empty() && is_whole
    }

    /// True once the other has said [`Frame::Done`].
    #[must_use]
    pub fn is_done_there(&self) -> bool {
        self.done_there
    }

    /// A frame came.
    pub fn handle_frame(&mut self, frame: Frame, holdings: &dyn Holdings) -> Vec<Effect> {
        match frame {
            Frame::Hello { version, tombstones } => self.handle_hello(version, tombstones, holdings),
            Frame::Buckets(theirs) => self.handle_buckets(&theirs, holdings),
            Frame::Tombstones { groups, last } => {
                if self.theirs != Tombs::Coming || groups.len() > limits::TOMBSTONES_PER_FRAME {
                    return vec![Effect::End("tombstones that were not announced")];
                }
                let mut effects = vec![Effect::Forget(groups)];
                if last {
                    self.theirs = Tombs::Settled;
                    effects.extend(self.digest(holdings));
                    if let Some(early) = self.early.take() {
                        effects.extend(self.handle_digest(&early, holdings));
                    }
                }
                effects
            }
            Frame::Digest(theirs) => self.handle_digest(&theirs, holdings),
            Frame::Want(chain, after) => {
                if !self.sent_ours {
                    return vec![Effect::End("groups were asked for before the tombstones")];
                }
                let groups = holdings.groups(chain, after, limits::REPLY_BYTES_MAX);
                vec![Effect::Send(Frame::Groups(groups.iter().map(Sent::of).collect()))]
            }
            Frame::Groups(groups) => {
                if self.theirs != Tombs::Settled {
                    return vec![Effect::End("groups came before the tombstones")];
                }
                if groups.is_empty() {
                    return vec![Effect::End("groups that were announced are not there")];
                }
                vec![Effect::Append(groups)]
            }
            Frame::Lacking(chain, places) => self.handle_lacking(chain, &places, holdings),
            Frame::Found { chain, to, items } => self.handle_found(chain, to, items),
            Frame::Done => {
                self.done_there = true;
                Vec::new()
            }
        }
    }

    /// Groups of a chain were appended, or none of them could be. Asks for what comes next.
    pub fn handle_appended(&mut self, chain: ChainId, holdings: &dyn Holdings) -> Vec<Effect> {
        if self.wanted.front() != Some(&chain) {
            return Vec::new();
        }
        let own = holdings.heads().get(&chain).map_or(0, |head| head.seq);
        let there = self.heard.as_ref().and_then(|heard| heard.get(&chain)).map_or(0, |it| it.head.seq);
        // Another session may have brought some of them.
        if own <= self.asked || own >= there {
            self.wanted.pop_front();
        }
        self.want(holdings)
    }

    /// Items that were found were put into their groups. Asks for what comes next.
    pub fn handle_filled(&mut self, holdings: &dyn Holdings) -> Vec<Effect> {
        self.want(holdings)
    }

    /// The question for what comes next: groups of a chain, then single items.
    fn want(&mut self, holdings: &dyn Holdings) -> Vec<Effect> {
        let there =
            |chain: &ChainId| self.heard.as_ref().and_then(|heard| heard.get(chain)).map_or(0, |it| it.head.seq);
        let ours = if self.wanted.is_empty() { BTreeMap::new() } else { holdings.heads() };
        while let Some(chain) = self.wanted.front().copied() {
            let own = ours.get(&chain).map_or(0, |head| head.seq);
            if own < there(&chain) {
                self.asked = own;
                return vec![Effect::Send(Frame::Want(chain, own))];
            }
            // Another session has brought all of them.
            self.wanted.pop_front();
        }
        let Some(heard) = &self.heard else { return Vec::new() };
        let patchy = self.patchy.get_or_insert_with(|| {
            let ours = holdings.holes();
            let differs = |(chain, there): &(&ChainId, &Extent)| ours.hash(chain, there.head.seq) != there.holes;
            heard.iter().filter(differs).map(|(chain, _)| *chain).collect()
        });
        while let Some(chain) = patchy.front() {
            let (to, after) = (heard.get(chain).map_or(0, |it| it.head.seq), self.sought.map(|(_, last)| last));
            let places: Vec<_> = holdings.holes().lacking(chain, after, to).take(limits::LACKING_MAX).collect();
            if let (Some(first), Some(last)) = (places.first(), places.last()) {
                self.sought = Some((*first, *last));
                return vec![Effect::Send(Frame::Lacking(*chain, places))];
            }
            self.sought = None;
            patchy.pop_front();
        }
        Vec::new()
    }

    fn handle_lacking(&self, chain: ChainId, places: &[ItemAt], holdings: &dyn Holdings) -> Vec<Effect> {
        if !self.sent_ours {
            return vec![Effect::End("items were asked for before the tombstones")];
        }
        let is_rising = places.windows(2).all(|two| matches!(two, [a, b] if a < b));
        let (Some(first), true) = (places.first(), is_rising && places.len() <= limits::LACKING_MAX) else {
            return vec![Effect::End("items were asked for in a way that no holder asks")];
        };
        let (mut to, mut items, mut bytes) = (*first, Vec::new(), 0);
        for at in places {
            if let Some(item) = holdings.item(&chain, *at) {
                bytes += item.size();
                if !items.is_empty() && bytes > limits::REPLY_BYTES_MAX {
                    break;
                }
                items.push((*at, item));
            }
            to = *at;
        }
        vec![Effect::Send(Frame::Found { chain, to, items })]
    }

    fn handle_found(&mut self, chain: ChainId, to: ItemAt, items: Vec<(ItemAt, Item)>) -> Vec<Effect> {
        let asked = self.sought.filter(|_| self.patchy.as_ref().and_then(VecDeque::front) == Some(&chain));
        let Some((first, last)) = asked.filter(|(first, last)| (*first..=*last).contains(&to)) else {
            return vec![Effect::End("items came that nobody asked for")];
        };
        if items.len() > limits::LACKING_MAX || items.iter().any(|(at, _)| !(first..=last).contains(at)) {
            return vec![Effect::End("items came that nobody asked for")];
        }
        self.sought = Some((first, to));
        vec![Effect::Fill(chain, items)]
    }

    /// A group of our own is durable: the other gets it at once, if it has all tombstones before it.
    #[must_use]
    pub fn push(&self, group: &SignedGroup) -> Option<Frame> {
        self.sent_ours.then(|| Frame::Groups(vec![Sent::of(group)]))
    }

    /// The digest again, as a holder sends it every 30 s to one other.
    #[must_use]
    pub fn repeat_digest(&self, holdings: &dyn Holdings) -> Option<Frame> {
        self.digested.then(|| digest_of(holdings))
    }

    fn handle_hello(&mut self, version: u16, tombstones: [u8; 8], holdings: &dyn Holdings) -> Vec<Effect> {
        if version != VERSION {
            return vec![Effect::End("another version of memory: update the older of the two devices")];
        }
        if self.theirs != Tombs::Unknown {
            return vec![Effect::End("a session begins once")];
        }
        let ours = holdings.tombstones();
        if root(&ours) == tombstones {
            (self.theirs, self.sent_ours) = (Tombs::Settled, true);
            return self.digest(holdings);
        }
        self.theirs = Tombs::Coming;
        vec![Effect::Send(Frame::Buckets(buckets(&ours)))]
    }

    fn handle_buckets(&mut self, theirs: &[[u8; 8]], holdings: &dyn Holdings) -> Vec<Effect> {
        if theirs.len() != BUCKETS || std::mem::replace(&mut self.compared, true) {
            return vec![Effect::End("malformed buckets of tombstones")];
        }
        let ours = holdings.tombstones();
        let differs: Vec<bool> = buckets(&ours).iter().zip(theirs).map(|(a, b)| a != b).collect();
        let sent: Vec<Sent> = ours
            .iter()
            .filter(|(key, _)| differs.get(bucket(key)).copied().unwrap_or(false))
            .map(|(_, group)| Sent::of(group))
            .collect();
        let frames = sent.chunks(limits::TOMBSTONES_PER_FRAME);
        let count = frames.len();
        let mut effects: Vec<Effect> = frames
            .enumerate()
            .map(|(n, groups)| Effect::Send(Frame::Tombstones { groups: groups.to_vec(), last: n + 1 == count }))
            .collect();
        if effects.is_empty() {
            effects.push(Effect::Send(Frame::Tombstones { groups: Vec::new(), last: true }));
        }
        self.sent_ours = true;
        effects.extend(self.digest(holdings));
        effects
    }

    /// Our digest, once all tombstones of both are where they belong.
    fn digest(&mut self, holdings: &dyn Holdings) -> Vec<Effect> {
        if self.theirs != Tombs::Settled || !self.sent_ours || self.digested {
            return Vec::new();
        }
        self.digested = true;
        vec![Effect::Send(digest_of(holdings))]
    }

    fn handle_digest(&mut self, theirs: &[(ChainId, Extent)], holdings: &dyn Holdings) -> Vec<Effect> {
        match self.theirs {
            Tombs::Settled => {}
            Tombs::Coming => {
                self.early = Some(theirs.to_vec());
                return Vec::new();
            }
            Tombs::Unknown => return vec![Effect::End("a digest came before the tombstones")],
        }
        let ours = holdings.heads();
        let is_asking = !self.wanted.is_empty();
        let mut asked: BTreeSet<ChainId> = self.wanted.iter().copied().collect();
        let mut effects = Vec::new();
        for (chain, Extent { head, .. }) in theirs {
            let own = ours.get(chain).copied().unwrap_or_default();
            if own.is_fork_of(head) {
                effects.push(Effect::Forked(*chain));
            } else if head.seq > own.seq && asked.insert(*chain) {
                self.wanted.push_back(*chain);
            }
            if self.wanted.len() > limits::CHAINS_MAX {
                return vec![Effect::End("more chains than devices could have")];
            }
        }
        self.heard = Some(theirs.iter().copied().collect());
        // A question that is on its way brings the next one along.
        if !is_asking && self.sought.is_none() {
            self.patchy = None;
            effects.extend(self.want(holdings));
        }
        effects
    }
}

fn digest_of(holdings: &dyn Holdings) -> Frame {
    let extent = |(chain, head): (ChainId, Head)| {
        let holes = holdings.holes().hash(&chain, head.seq);
        (chain, Extent { head, holes })
    };
    Frame::Digest(holdings.heads().into_iter().map(extent).collect())
}

fn bucket(key: &MessageKey) -> usize {
    let [first, ..] = key.0;
    usize::from(first)
}

fn root(tombstones: &BTreeMap<MessageKey, SignedGroup>) -> [u8; 8] {
    hash_keys(tombstones.keys())
}

fn buckets(tombstones: &BTreeMap<MessageKey, SignedGroup>) -> Vec<[u8; 8]> {
    (0..BUCKETS).map(|n| hash_keys(tombstones.keys().filter(|key| bucket(key) == n))).collect()
}

fn hash_keys<'a>(keys: impl Iterator<Item = &'a MessageKey>) -> [u8; 8] {
    let mut bytes = Vec::new();
    for key in keys {
        bytes.extend_from_slice(&key.0);
    }
    hash("sigil tombstones 1", &[&bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forget;
    use crate::group::Hlc;
    use crate::holes::Hole;
    use crate::ids::Incarnation;
    use crate::item::{Body, Message, Salt};
    use crate::resolve::Rows;
    use mesh_core::crypto::{Signer, Symbolic};
    use mesh_core::ids::PublicKey;
    use proptest::prelude::*;

    const WS: WorkspaceId = WorkspaceId([7; 16]);

    struct AnyKey;

    impl Verifier for AnyKey {
        fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
            (0..4).any(|n| Symbolic::new(n).public_key() == *key && Symbolic::new(n).sign(message) == *signature)
        }
    }

    /// A holder in memory.
    struct Holder {
        signer: Symbolic,
        incarnation: Incarnation,
        chains: BTreeMap<ChainId, Vec<SignedGroup>>,
        forgotten: BTreeMap<MessageKey, SignedGroup>,
        holes: Holes,
        rows: Rows,
        drawn: u8,
        /// Hands groups on without what they say, and claims to have all of it.
        withholds: Option<Slot>,
    }

    impl Holder {
        fn new(n: u64) -> Self {
            Self {
                signer: Symbolic::new(n),
                incarnation: Incarnation(1),
                chains: BTreeMap::new(),
                forgotten: BTreeMap::new(),
                holes: Holes::default(),
                rows: Rows::new(WS),
                drawn: n as u8,
                withholds: None,
            }
        }

        fn say(&mut self, body: &Body) {
            self.drawn = self.drawn.wrapping_add(7);
            let chain =
                ChainId { author: crate::ids::AuthorId::of(&self.signer.public_key()), incarnation: self.incarnation };
            let head = self.heads().get(&chain).copied().unwrap_or_default();
            let item = Item::new(Salt([self.drawn; 16]), body);
            let group = SignedGroup::sign(
                &self.signer,
                WS,
                self.incarnation,
                &head,
                head.hlc.max(Hlc::at(9)).next(0),
                vec![item],
            )
            .unwrap();
            assert!(self.append(group));
        }

        fn append(&mut self, group: SignedGroup) -> bool {
            let head = self.heads().get(&group.chain()).copied().unwrap_or_default();
            if head.accepts(&group).is_err() {
                return false;
            }
            let mut group = group.doubted();
            self.forget(&group);
            let mut late = Vec::new();
            for (stamp, item) in group.items() {
                let body = item.body().unwrap();
                let refused = |it: &Message| forget::refuses(&self.rows, &it.key(&WS), it);
                if matches!(&body, Body::Message(message) if refused(message)) {
                    late.push(usize::from(stamp.index));
                } else {
                    self.rows.insert(stamp, &body);
                }
            }
            for at in late {
                group.erase(at);
            }
            self.holes.note(&group);
            self.chains.entry(group.chain()).or_default().push(group);
            true
        }

        /// Puts an item into its group.
        fn fill(&mut self, chain: ChainId, at: ItemAt, item: Item) {
            let group = self.chains.get_mut(&chain).and_then(|all| all.iter_mut().find(|it| it.header().seq == at.seq));
            let Some(group) = group else { panic!("no such group") };
            if !group.fill(usize::from(at.index), item) {
                return;
            }
            let filled = group.only(|_| true);
            let is_it = |stamp: &crate::group::Stamp| stamp.index == at.index;
            let (stamp, body) =
                filled.items().find(|(stamp, _)| is_it(stamp)).map(|(stamp, it)| (stamp, it.body().unwrap())).unwrap();
            if matches!(&body, Body::Message(it) if forget::refuses(&self.rows, &it.key(&WS), it)) {
                group.erase(usize::from(at.index));
                self.holes.set(chain, at, Hole::Erased);
                return;
            }
            self.holes.fill(&chain, &at);
            self.rows.insert(stamp, &body);
            if let Body::Tombstone(_) = body {
                self.forget(&filled);
            }
        }

        /// Applies the tombstones of a group, and erases what they are of.
        fn forget(&mut self, group: &SignedGroup) {
            for (stamp, item) in group.items() {
                let Ok(Body::Tombstone(key)) = item.body() else { continue };
                self.rows.insert(stamp, &Body::Tombstone(key));
                self.forgotten.entry(key).or_insert_with(|| group.only(|it| it == item));
                for held in self.chains.values_mut().flatten() {
                    let gone: Vec<usize> = held
                        .items()
                        .filter(|(_, item)| matches!(item.body(), Ok(Body::Message(it)) if it.key(&WS) == key))
                        .map(|(stamp, _)| usize::from(stamp.index))
                        .collect();
                    for at in gone {
                        held.erase(at);
                    }
                    self.holes.note(held);
                }
            }
        }
    }

    impl Holdings for Holder {
        fn heads(&self) -> BTreeMap<ChainId, Head> {
            self.chains.iter().filter_map(|(chain, groups)| Some((*chain, groups.last()?.head()))).collect()
        }

        fn groups(&self, chain: ChainId, after: u64, _: usize) -> Vec<SignedGroup> {
            let groups = self.chains.get(&chain).into_iter().flatten();
            let mut sent: Vec<_> = groups.filter(|group| group.header().seq > after).take(2).cloned().collect();
            if let Some(slot) = &self.withholds {
                for group in &mut sent {
                    *group = group.only(|_| false);
                    if *slot == Slot::Erased {
                        (0..group.slots().len()).for_each(|at| group.erase(at));
                    }
                }
            }
            sent
        }

        fn tombstones(&self) -> BTreeMap<MessageKey, SignedGroup> {
            self.forgotten.clone()
        }

        fn holes(&self) -> &Holes {
            &self.holes
        }

        fn item(&self, chain: &ChainId, at: ItemAt) -> Option<Item> {
            let group = self.chains.get(chain)?.iter().find(|group| group.header().seq == at.seq)?;
            match group.slots().get(usize::from(at.index))? {
                Slot::Held(item) if self.withholds.is_none() => Some(item.clone()),
                Slot::Held(_) | Slot::Erased | Slot::Missing => None,
            }
        }
    }

    /// Runs a session between two holders, until it is quiet or `frames` have passed.
    fn sync(holders: &mut [Holder], a: usize, b: usize, frames: usize) {
        let ((mut one, first), (mut two, second)) = (Session::start(&holders[a]), Session::start(&holders[b]));
        let mut wire = VecDeque::from([(b, first), (a, second)]);
        for _ in 0..frames {
            let Some((to, frame)) = wire.pop_front() else { break };
            let frame = Frame::decode(&frame.encode()).expect("frames read as they were written");
            let (session, from) = if to == a { (&mut one, b) } else { (&mut two, a) };
            let mut effects = VecDeque::from(session.handle_frame(frame, &holders[to]));
            while let Some(effect) = effects.pop_front() {
                match effect {
                    Effect::Send(frame) => wire.push_back((from, frame)),
                    Effect::Forget(sent) => {
                        for sent in sent {
                            let group = sent.verify(&WS, &AnyKey).unwrap();
                            holders[to].forget(&group);
                        }
                    }
                    Effect::Append(sent) => {
                        let groups: Vec<_> = sent.into_iter().map(|it| it.verify(&WS, &AnyKey).unwrap()).collect();
                        let Some(chain) = groups.first().map(SignedGroup::chain) else { continue };
                        for group in groups {
                            holders[to].append(group);
                        }
                        effects.extend(session.handle_appended(chain, &holders[to]));
                    }
                    Effect::Fill(chain, items) => {
                        for (at, item) in items {
                            holders[to].fill(chain, at, item);
                        }
                        effects.extend(session.handle_filled(&holders[to]));
                    }
                    Effect::Forked(chain) => panic!("no fork here: {chain:?}"),
                    Effect::End(why) => panic!("{why}"),
                }
            }
        }
        if frames == usize::MAX {
            assert!(one.is_settled() && two.is_settled(), "what ends by itself has ended");
        }
    }

    fn message(id: u8, content: u8) -> Message {
        Message {
            id: id.to_string(),
            conversation: String::new(),
            session: None,
            speaker: String::new(),
            text: format!("text {content}"),
            time_ms: 0,
            offset_min: 0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Holders append and forget; sessions between any two end anywhere. After healing all agree, what was said is there
        /// or forgotten, and what is forgotten is in nobody's groups.
        #[test]
        fn holders_agree_after_healing(steps in proptest::collection::vec((0u8..8, 0usize..3, 0u8..6, 0u8..2, 0usize..12), 1..60)) {
            let mut holders: Vec<Holder> = (0..3).map(Holder::new).collect();
            let (mut said, mut gone) = (BTreeSet::new(), BTreeSet::new());
            for (what, who, id, content, frames) in steps {
                let key = message(id, 0).key(&WS);
                match what {
                    0..4 if !forget::refuses(&holders[who].rows, &key, &message(id, content)) => {
                        holders[who].say(&Body::Message(message(id, content)));
                        said.insert((key, message(id, content).rev()));
                    }
                    4 => {
                        holders[who].say(&Body::Tombstone(key));
                        gone.insert(key);
                    }
                    5.. => sync(&mut holders, who, (who + 1 + usize::from(content)) % 3, frames),
                    _ => {}
                }
            }
            for _ in 0..2 {
                for (a, b) in [(0, 1), (1, 2), (2, 0)] {
                    sync(&mut holders, a, b, usize::MAX);
                }
            }
            let view = holders[0].rows.view();
            for holder in &holders {
                prop_assert_eq!(&holder.rows.view(), &view);
                prop_assert_eq!(holder.heads(), holders[0].heads());
                let of = |item: &Item| if let Ok(Body::Message(it)) = item.body() { Some(it.key(&WS)) } else { None };
                let mut held = holder.chains.values().flatten().flat_map(SignedGroup::items).filter_map(|(_, item)| of(item));
                prop_assert!(held.all(|key| !gone.contains(&key)));
            }
            let shown: BTreeSet<_> = view.messages.values().map(|it| (it.caller, it.content)).collect();
            said.retain(|(key, _)| !gone.contains(key));
            prop_assert_eq!(shown, said);
        }

        /// A hostile holder among three honest ones hands on what others wrote and leaves out what it says. Sessions of any two go
        /// on meanwhile. Once each honest holder has met the others, nothing is lacking that was not forgotten, and a further
        /// session sends nothing.
        #[test]
        fn one_honest_holder_suffices(
            steps in proptest::collection::vec((0u8..9, 0usize..3, 0u8..6, 0u8..2, 0usize..12), 1..60),
            erased: bool,
        ) {
            let mut holders: Vec<Holder> = (0..4).map(Holder::new).collect();
            holders[3].withholds = Some(if erased { Slot::Erased } else { Slot::Missing });
            let (mut said, mut gone) = (BTreeSet::new(), BTreeSet::new());
            for (what, who, id, content, frames) in steps {
                let key = message(id, 0).key(&WS);
                match what {
                    0..4 if !forget::refuses(&holders[who].rows, &key, &message(id, content)) => {
                        holders[who].say(&Body::Message(message(id, content)));
                        said.insert((key, message(id, content).rev()));
                    }
                    4 => {
                        holders[who].say(&Body::Tombstone(key));
                        gone.insert(key);
                    }
                    5 => sync(&mut holders, who, (who + 1 + usize::from(content)) % 3, frames),
                    6.. => sync(&mut holders, 3, who, usize::MAX),
                    _ => {}
                }
            }
            for _ in 0..2 {
                for (a, b) in [(0, 1), (1, 2), (2, 0)] {
                    sync(&mut holders, a, b, usize::MAX);
                }
            }
            said.retain(|(key, _)| !gone.contains(key));
            for n in 0..3 {
                let view = holders[n].rows.view();
                let shown: BTreeSet<_> = view.messages.values().map(|it| (it.caller, it.content)).collect();
                prop_assert_eq!(&shown, &said);
                let (mut one, _) = Session::start(&holders[n]);
                one.handle_frame(Session::start(&holders[(n + 1) % 3]).1, &holders[n]);
                let asked = one.handle_frame(digest_of(&holders[(n + 1) % 3]), &holders[n]);
                prop_assert_eq!(asked, Vec::new(), "what all have forgotten is not asked for");
                prop_assert!(one.is_settled());
            }
        }

        #[test]
        fn fuzz_any_bytes_are_a_frame_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(Frame::decode(&bytes));
            drop(Frame::decode(&[&[codec::VERSION][..], &bytes].concat()));
        }
    }

    #[test]
    fn nothing_is_sent_before_the_tombstones() {
        let mut holders = [Holder::new(1), Holder::new(2)];
        holders[0].say(&Body::Message(message(1, 1)));
        holders[1].say(&Body::Tombstone(message(1, 1).key(&WS)));
        let (mut session, _) = Session::start(&holders[0]);
        let chain = *holders[0].chains.keys().next().unwrap();
        assert!(matches!(session.handle_frame(Frame::Want(chain, 0), &holders[0])[..], [Effect::End(_)]));
        let group = holders[0].chains[&chain][0].clone();
        assert_eq!(session.push(&group), None);
        sync(&mut holders, 0, 1, usize::MAX);
        assert!(holders.iter().all(|holder| holder.rows.view().messages.is_empty()));
        assert_eq!(holders[1].chains[&chain][0].slots(), [Slot::Missing], "it arrives erased");
    }

    #[test]
    fn what_is_forgotten_between_two_hellos_ends_no_session() {
        let mut holders = [Holder::new(1), Holder::new(2)];
        let (mut one, first) = Session::start(&holders[0]);
        let (mut two, second) = Session::start(&holders[1]);
        let key = message(1, 1).key(&WS);
        holders[1].say(&Body::Tombstone(key));
        let chain = *holders[1].chains.keys().next().unwrap();
        let group = holders[1].chains[&chain][0].clone();
        // The one has it by another way, before the other's hello of before comes.
        holders[0].append(group);
        let buckets = two.handle_frame(first, &holders[1]);
        let [Effect::Send(buckets @ Frame::Buckets(_))] = &buckets[..] else { panic!("{buckets:?}") };
        let mut told = one.handle_frame(second, &holders[0]);
        told.extend(one.handle_frame(buckets.clone(), &holders[0]));
        assert!(!told.iter().any(|effect| matches!(effect, Effect::End(_))), "{told:?}");
        let again = one.handle_frame(buckets.clone(), &holders[0]);
        assert!(matches!(again[..], [Effect::End(_)]), "once in a session");
    }

    #[test]
    fn a_fork_is_told_and_not_taken() {
        let (mut one, mut two) = (Holder::new(1), Holder::new(1));
        one.say(&Body::Message(message(1, 1)));
        two.say(&Body::Message(message(2, 1)));
        let (mut session, _) = Session::start(&one);
        let hello = Session::start(&two).1;
        session.handle_frame(hello, &one);
        let effects = session.handle_frame(digest_of(&two), &one);
        assert!(matches!(effects[..], [Effect::Forked(_)]));
    }

    #[test]
    fn items_that_nobody_asked_for_end_the_session() {
        let mut holders = [Holder::new(1), Holder::new(2), Holder::new(3)];
        for n in 0..3 {
            holders[0].say(&Body::Message(message(n, 1)));
        }
        sync(&mut holders, 0, 1, usize::MAX);
        holders[1].withholds = Some(Slot::Erased);
        sync(&mut holders, 1, 2, usize::MAX);
        let chain = *holders[0].chains.keys().next().unwrap();
        assert_eq!(holders[2].holes.count_lacking(), 3);
        let at = |seq| ItemAt { seq, index: 0 };
        let (mut asks, _) = Session::start(&holders[2]);
        asks.handle_frame(Session::start(&holders[0]).1, &holders[2]);
        let asked = asks.handle_frame(digest_of(&holders[0]), &holders[2]);
        assert_eq!(asked, [Effect::Send(Frame::Lacking(chain, vec![at(1), at(2), at(3)]))]);
        assert!(!asks.is_settled());
        let item = holders[0].item(&chain, at(1)).unwrap();
        let found = |to, items| Frame::Found { chain, to, items };
        for frame in [found(at(9), Vec::new()), found(at(0), Vec::new()), found(at(2), vec![(at(4), item.clone())])] {
            assert!(matches!(asks.clone().handle_frame(frame, &holders[2])[..], [Effect::End(_)]));
        }
        // What was not looked at is asked for again; what is not there is passed over.
        let filled = asks.handle_frame(found(at(1), vec![(at(1), item)]), &holders[2]);
        assert!(matches!(filled[..], [Effect::Fill(..)]));
        let next = asks.handle_filled(&holders[2]);
        assert_eq!(next, [Effect::Send(Frame::Lacking(chain, vec![at(2), at(3)]))]);
        asks.handle_frame(found(at(3), Vec::new()), &holders[2]);
        assert_eq!(asks.handle_filled(&holders[2]), Vec::new());
        assert!(asks.is_settled());
        // The other side answers what is asked as a holder asks.
        let (mut answers, _) = Session::start(&holders[0]);
        let lacking = |places: &[u64]| Frame::Lacking(chain, places.iter().copied().map(at).collect());
        assert!(matches!(answers.handle_frame(lacking(&[1]), &holders[0])[..], [Effect::End(_)]), "before tombstones");
        answers.handle_frame(Session::start(&holders[2]).1, &holders[0]);
        for places in [&[][..], &[2, 1], &[1, 1]] {
            assert!(matches!(answers.handle_frame(lacking(places), &holders[0])[..], [Effect::End(_)]));
        }
        let found = answers.handle_frame(lacking(&[1, 7]), &holders[0]);
        let [Effect::Send(Frame::Found { to, items, .. })] = &found[..] else { panic!("{found:?}") };
        assert_eq!((*to, items.len()), (at(7), 1));
    }

    #[test]
    fn an_older_version_is_told_to_update() {
        let holder = Holder::new(1);
        let (mut session, _) = Session::start(&holder);
        let hello = Frame::Hello { version: 0, tombstones: [0; 8] };
        assert!(matches!(session.handle_frame(hello, &holder)[..], [Effect::End(_)]));
    }
}
