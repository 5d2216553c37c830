//! The large payloads of this peer: fetched from those who may have them, and kept as long as somebody needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::ids::{Hash, PeerId};
use mesh_core::io::{Input, View};
use mesh_core::limits::CARD_BYTES_MAX;
use mesh_core::record::{Payload, Tier};
use tokio::sync::mpsc;

use crate::mesh::blob_ledger::KEPT_BYTES;
use crate::mesh::blob_needs::Promises;
use crate::mesh::blobs::{BlobStore, RoomFor};
use crate::mesh::cards::Cards;
use crate::mesh::clock;
use crate::mesh::transport::{FetchError, Links};
use crate::tasks::TaskGroup;

/// Blobs that are wanted at a time; those that one peer is the first to be asked for, and those of all who are no owners.
/// More than that is refused, and asked for again by whoever needs it.
const WANTED_MAX: usize = 1024;
const WANTED_OF_PEER_MAX: usize = 128;
const WANTED_OF_GUESTS_MAX: usize = WANTED_MAX / 2;
/// Fetches at a time; those of one peer among them, and those of all who are no owners.
const UNDER_WAY_MAX: usize = 8;
const UNDER_WAY_OF_PEER_MAX: usize = 2;
const UNDER_WAY_OF_GUESTS_MAX: usize = UNDER_WAY_MAX / 2;
/// Peers that are asked for one blob.
const ASKED_MAX: usize = 8;
/// Time after which a blob is not wanted any more, in milliseconds: nobody who has it has come for a day.
const WANTED_MS: u64 = 24 * 3600 * 1000;

/// Time after which the store is looked at again, if some of what is too much stays for a moment only.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// In whose share a blob is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanter {
    /// The first that is asked for it; `None`: nobody in particular.
    first: Option<PeerId>,
    /// True if that is no owner.
    is_guest: bool,
}

/// A fetch that goes on, of at most so many bytes.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    of: Wanter,
    len: u64,
}

#[derive(Debug)]
struct Want {
    len: u64,
    /// Peers that may have it, best first.
    from: Vec<PeerId>,
    of: Wanter,
    /// Our clock after which it is not wanted any more.
    until_ms: u64,
    /// True if it is to be tried as soon as there is room for one more fetch.
    due: bool,
}

/// Blobs that are wanted and not here yet. The end of each fetch comes back as [`Input::Fetched`],
/// [`Input::FetchFailed`] or [`Input::FetchGone`].
#[derive(Debug)]
pub(super) struct BlobFetch {
    me: PeerId,
    blobs: BlobStore,
    links: Links,
    inputs: mpsc::Sender<Input>,
    tasks: TaskGroup,
    wanted: BTreeMap<Hash, Want>,
    under_way: BTreeMap<Hash, UnderWay>,
    promises: Promises,
    cards: Cards,
}

impl BlobFetch {
    /// Creates one that wants nothing.
    pub(super) fn new(
        me: PeerId,
        blobs: BlobStore,
        links: Links,
        inputs: mpsc::Sender<Input>,
        tasks: TaskGroup,
    ) -> Self {
        Self {
            me,
            blobs,
            links,
            inputs,
            tasks,
            wanted: BTreeMap::new(),
            under_way: BTreeMap::new(),
            promises: Promises::default(),
            cards: Cards::default(),
        }
    }

    /// Gets a blob of at most `len` bytes from the first of these peers that has it. It is tried again when one of them
    /// is linked anew; after them the gateway is asked, which has much of what others want. Returns the input to give
    /// to the core now, if the blob is here already or too many are wanted.
    pub(super) fn fetch(&mut self, hash: Hash, len: u64, from: Vec<PeerId>, view: &View) -> Option<Input> {
        if self.blobs.has(hash) {
            return Some(Input::Fetched(hash));
        }
        self.blobs.note_wanted(hash);
        let now_ms = clock::now().mono_ms;
        self.wanted.retain(|_, want| want.until_ms > now_ms);
        let until_ms = now_ms + WANTED_MS;
        if let Some(want) = self.wanted.get_mut(&hash) {
            // Whoever names it too may be asked as well, and takes nobody's place.
            want.from.extend(from.into_iter().filter(|peer| !want.from.contains(peer)).collect::<Vec<_>>());
            want.from.truncate(ASKED_MAX);
            (want.len, want.until_ms, want.due) = (want.len.max(len), until_ms, true);
        } else {
            let first = from.first().copied();
            let of = Wanter { first, is_guest: first.is_some_and(|peer| !is_owner(&peer, view)) };
            if !self.has_room(of) {
                return Some(Input::FetchFailed(hash));
            }
            self.wanted.insert(hash, Want { len, from, of, until_ms, due: true });
        }
        self.start_next(gateway_of(view));
        None
    }

    /// Gets the cards of tools that this view names and that are not here. Returns what is to be given to the core now.
    pub(super) fn fetch_cards(&mut self, view: &View) -> Vec<Input> {
        let blobs = self.blobs.clone();
        let wanted = self.cards.wanted(view, |hash| blobs.len_of(hash));
        wanted.into_iter().filter_map(|(hash, peer)| self.fetch(hash, CARD_BYTES_MAX, vec![peer], view)).collect()
    }

    fn has_room(&self, of: Wanter) -> bool {
        let of_peer = self.wanted.values().filter(|want| want.of.first == of.first).count();
        let of_guests = || self.wanted.values().filter(|want| want.of.is_guest).count();
        self.wanted.len() < WANTED_MAX
            && of_peer < WANTED_OF_PEER_MAX
            && (!of.is_guest || of_guests() < WANTED_OF_GUESTS_MAX)
    }

    /// Membership has changed: drops what was to be fetched from guests that are excluded.
    pub(super) fn forget_strangers(&mut self, view: &View) {
        let is_member = |peer: PeerId| view.by_peer(&peer).is_some();
        self.wanted.retain(|_, want| !want.of.is_guest || want.of.first.is_some_and(is_member));
    }

    /// This peer is linked now: what it may have is worth another try.
    pub(super) fn handle_link_up(&mut self, peer: PeerId, gateway: Option<PeerId>) {
        for want in self.wanted.values_mut().filter(|want| want.from.contains(&peer)) {
            want.due = true;
        }
        self.start_next(gateway);
    }

    /// There is more room on the disk, or less: what waits for room may have it now.
    pub(super) fn handle_disk(&mut self, gateway: Option<PeerId>) {
        self.start_next(gateway);
    }

    /// Notes that a fetch has ended; others take its place.
    pub(super) fn note_end(&mut self, end: &Input, gateway: Option<PeerId>) {
        let (hash, over) = match end {
            Input::Fetched(hash) => (*hash, true),
            Input::FetchGone(hash) => {
                self.blobs.note_gone(*hash);
                (*hash, true)
            }
            Input::FetchFailed(hash) => (*hash, false),
            Input::Wake
            | Input::LinkUp(_)
            | Input::LinkVia(..)
            | Input::Session(..)
            | Input::LinkDown(_)
            | Input::Recv(..)
            | Input::Durable(_)
            | Input::LogRead { .. }
            | Input::ClosedRead { .. }
            | Input::ToolProgress(..)
            | Input::ToolEnded(..)
            | Input::Disk(_)
            | Input::NodeUp(..)
            | Input::NodeDown(..)
            | Input::Command(..)
            | Input::Refused(_)
            | Input::Untagged(_) => return,
        };
        self.under_way.remove(&hash);
        if over {
            self.wanted.remove(&hash);
        }
        self.start_next(gateway);
    }

    /// A tool has ended for `origin`: its result is promised.
    pub(super) fn note_result(&mut self, output: &Payload, origin: Option<PeerId>) {
        self.promises.note(output, origin, self.me, clock::now().mono_ms);
    }

    /// Waits until more lies in the store than is kept.
    pub(super) async fn swelled(&self) {
        self.blobs.swelled().await;
    }

    /// Deletes the oldest blobs that are not `needed`, beside the loop.
    pub(super) fn sweep(&mut self, mut needed: BTreeSet<Hash>) {
        needed.extend(self.promises.hashes(clock::now().mono_ms));
        let blobs = self.blobs.clone();
        self.tasks.spawn(async move {
            let store = blobs.clone();
            let sweep =
                tokio::task::spawn_blocking(move || store.sweep(KEPT_BYTES, &|hash| needed.contains(&hash))).await;
            match sweep {
                Ok(Ok(swept)) if swept.pinned => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    blobs.recheck_size();
                }
                Ok(Err(error)) => tracing::warn!(%error, "old blobs could not be removed"),
                Ok(Ok(_)) | Err(_) => {}
            }
        });
    }

    /// Begins as many fetches as there is room for, here and on the disk; those of one peer do not keep out another's.
    fn start_next(&mut self, gateway: Option<PeerId>) {
        if !self.wanted.values().any(|want| want.due) {
            return;
        }
        let (for_owners, for_guests) = (self.blobs.room_for(RoomFor::Owners), self.blobs.room_for(RoomFor::Guests));
        while self.under_way.len() < UNDER_WAY_MAX {
            let of_peer = |of: Wanter| self.under_way.values().filter(|other| other.of.first == of.first).count();
            let of_guests = self.under_way.values().filter(|other| other.of.is_guest).count();
            let taken = self.under_way.values().fold(0_u64, |all, other| all.saturating_add(other.len));
            let fits = |want: &Want| {
                let room = if want.of.is_guest { for_guests } else { for_owners };
                taken.saturating_add(want.len) <= room
            };
            let next = self.wanted.iter().find(|(hash, want)| {
                want.due
                    && !self.under_way.contains_key(*hash)
                    && (want.of.first.is_none() || of_peer(want.of) < UNDER_WAY_OF_PEER_MAX)
                    && (!want.of.is_guest || of_guests < UNDER_WAY_OF_GUESTS_MAX)
                    && fits(want)
            });
            let Some(hash) = next.map(|(hash, _)| *hash) else { return };
            let Some(want) = self.wanted.get_mut(&hash) else { return };
            want.due = false;
            let len = want.len;
            let mut peers = want.from.clone();
            self.under_way.insert(hash, UnderWay { of: want.of, len });
            peers.extend(gateway);
            peers.retain(|peer| *peer != self.me);
            let (links, inputs) = (self.links.clone(), self.inputs.clone());
            self.tasks.spawn(async move {
                let end = fetch_from(&links, peers, hash, len).await;
                let _ = inputs.send(end).await;
            });
        }
    }
}

fn is_owner(peer: &PeerId, view: &View) -> bool {
    *peer == view.me || view.by_peer(peer).is_some_and(|node| node.tier == Tier::Owner)
}

fn gateway_of(view: &View) -> Option<PeerId> {
    view.gateway.map(|epoch| epoch.peer)
}

/// Asks one peer after the other. It is gone if all of them say that they do not have it.
async fn fetch_from(links: &Links, peers: Vec<PeerId>, hash: Hash, len: u64) -> Input {
    let mut gone = !peers.is_empty();
    for peer in peers {
        match links.fetch(peer, hash, len).await {
            Ok(_) => return Input::Fetched(hash),
            Err(FetchError::NotFound) => {}
            Err(error) => {
                tracing::debug!(peer = %peer.short(), %error, "a blob was not fetched");
                gone = false;
            }
        }
    }
    if gone { Input::FetchGone(hash) } else { Input::FetchFailed(hash) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use mesh_core::test_kit::{Net, id};

    use super::*;
    use crate::mesh::disk_room::DiskRoom;
    use crate::mesh::identity::DeviceKey;
    use crate::mesh::transport::{LinksConfig, RelayConfig};

    fn started() -> (BlobFetch, mpsc::Receiver<Input>, tempfile::TempDir) {
        let home = tempfile::tempdir().unwrap();
        let key = DeviceKey::load_or_create(home.path()).unwrap();
        let blobs = BlobStore::open(&home.path().join("blobs")).unwrap();
        let tasks = TaskGroup::default();
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let services = [].into();
        let relay = RelayConfig::NONE;
        let config = LinksConfig { key, listen, services, relay, blobs: blobs.clone(), tasks: tasks.clone() };
        let links = Links::start(config, mpsc::channel(16).0).unwrap();
        let (inputs, ends) = mpsc::channel(64);
        (BlobFetch::new(id(0), blobs, links, inputs, tasks), ends, home)
    }

    #[tokio::test]
    async fn s17_what_one_peer_names_is_fetched_a_little_at_a_time_and_keeps_out_nobody_elses() {
        let (mut fetch, mut ends, _home) = started();
        let view = Net::of(3).peer(0).view();
        let (liar, other) = (id(1), id(2));
        let hash = |n: u32| Hash::of(&n.to_le_bytes());
        let of = |fetch: &BlobFetch, peer| fetch.under_way.values().filter(|way| way.of.first == Some(peer)).count();

        let asked = (0..15_000).map(|n| fetch.fetch(hash(n), 10, vec![liar], &view));
        assert_eq!(asked.filter(Option::is_none).count(), WANTED_OF_PEER_MAX, "the rest is refused");
        assert!(fetch.fetch(hash(20_000), 10, vec![other], &view).is_none());
        assert_eq!((of(&fetch, liar), of(&fetch, other)), (UNDER_WAY_OF_PEER_MAX, 1));
        // However often it comes anew.
        for _ in 0..100 {
            fetch.handle_link_up(liar, None);
            assert_eq!(of(&fetch, liar), UNDER_WAY_OF_PEER_MAX);
        }
        // It does not have them: each is tried once, and then not before it is linked again.
        let mut tried = 0;
        while !fetch.under_way.is_empty() {
            let end = ends.recv().await.unwrap();
            fetch.note_end(&end, None);
            tried += 1;
            assert!(of(&fetch, liar) <= UNDER_WAY_OF_PEER_MAX);
        }
        assert!((WANTED_OF_PEER_MAX + 1..=WANTED_OF_PEER_MAX + 1 + UNDER_WAY_OF_PEER_MAX).contains(&tried), "{tried}");
    }

    #[tokio::test]
    async fn l4_below_the_floor_nothing_large_is_fetched_and_nothing_is_forgotten() {
        let (mut fetch, _ends, home) = started();
        let mut net = Net::of(3);
        net.approve(0, 10, "guest", Tier::Shared);
        let view = net.peer(0).view();
        let free = DiskRoom::new(home.path().to_owned(), Some(0)).gauge().look().unwrap().free;
        // Owners' blobs have room above half of the floor: about an eighth of what is free.
        fetch.blobs.watch_disk(DiskRoom::new(home.path().to_owned(), Some(free / 4 * 7)).gauge());
        let hash = |n: u32| Hash::of(&n.to_le_bytes());
        for (n, len, from) in [(0, free, 1), (1, 1_000, 10), (2, 1_000, 1)] {
            assert!(fetch.fetch(hash(n), len, vec![id(from)], &view).is_none(), "it stays wanted");
        }
        let under_way: Vec<_> = fetch.under_way.keys().copied().collect();
        assert_eq!((under_way, fetch.wanted.len()), (vec![hash(2)], 3), "an owner's small one");
        assert!(fetch.wanted[&hash(0)].due && fetch.wanted[&hash(1)].due, "the others wait for room");
        // What is written here goes on, until the rest is for the log.
        let bytes = || 3_u32.to_le_bytes().to_vec().into();
        assert!(fetch.blobs.put(hash(3), bytes()).await.is_ok());
        let (full, _ends, home) = started();
        full.blobs.watch_disk(DiskRoom::new(home.path().to_owned(), Some(free * 16)).gauge());
        let error = full.blobs.put(hash(3), bytes()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }

    #[tokio::test]
    async fn k2_guests_keep_no_owner_from_large_payloads_and_go_with_what_they_named() {
        let (mut fetch, _ends, _home) = started();
        let mut net = Net::of(3);
        for n in 10..20 {
            net.approve(0, n, &format!("guest-{n}"), Tier::Shared);
        }
        let hash = |n: u32| Hash::of(&n.to_le_bytes());
        let view = net.peer(0).view();
        for (n, guest) in (0..).step_by(120).zip(10..20) {
            for n in n..n + 120 {
                fetch.fetch(hash(n), 10, vec![id(guest)], &view);
            }
        }
        assert_eq!(fetch.wanted.len(), WANTED_OF_GUESTS_MAX);
        assert_eq!(fetch.under_way.len(), UNDER_WAY_OF_GUESTS_MAX);
        assert!(fetch.fetch(hash(20_000), 10, vec![id(1)], &view).is_none(), "an owner's has a place");
        assert!(fetch.under_way.contains_key(&hash(20_000)), "and is fetched at once");
        // Who names the same takes neither its place nor those who are asked.
        fetch.fetch(hash(20_000), 1, vec![id(11)], &view);
        let want = &fetch.wanted[&hash(20_000)];
        assert_eq!((want.len, want.from.as_slice(), want.of.is_guest), (10, [id(1), id(11)].as_slice(), false));
        for n in 10..20 {
            net.revoke(0, n);
        }
        fetch.forget_strangers(&net.peer(0).view());
        assert_eq!(fetch.wanted.len(), 1, "nothing is wanted of those who do not belong");
    }
}
