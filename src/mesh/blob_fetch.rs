//! The large payloads of this peer: fetched from those who may have them, and kept as long as somebody needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::ids::{Hash, PeerId};
use mesh_core::io::Input;
use mesh_core::record::Payload;
use tokio::sync::mpsc;

use crate::mesh::blob_ledger::KEPT_BYTES;
use crate::mesh::blob_needs::Promises;
use crate::mesh::blobs::BlobStore;
use crate::mesh::clock;
use crate::mesh::transport::{FetchError, Links};
use crate::tasks::TaskGroup;

/// Blobs that are wanted at a time; and those that one peer is the first to be asked for. What is beyond is refused, and
/// asked for again by whoever needs it.
const WANTED_MAX: usize = 1024;
const WANTED_OF_PEER_MAX: usize = 128;
/// Fetches at a time, and those of one peer among them.
const UNDER_WAY_MAX: usize = 8;
const UNDER_WAY_OF_PEER_MAX: usize = 2;
/// Time after which a blob is not wanted any more, in milliseconds: nobody who has it has come for a day.
const WANTED_MS: u64 = 24 * 3600 * 1000;

/// Time after which the store is looked at again, if some of what is too much stays for a moment only.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Want {
    len: u64,
    /// Peers that may have it, best first.
    from: Vec<PeerId>,
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
    /// The first peer that each is asked of.
    under_way: BTreeMap<Hash, PeerId>,
    promises: Promises,
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
        }
    }

    /// Gets a blob of at most `len` bytes from the first of these peers that has it. It is tried again when one of them
    /// is linked anew; after them the gateway is asked, which has much of what others want. Returns the input to give
    /// to the core now, if the blob is here already or too many are wanted.
    pub(super) fn fetch(&mut self, hash: Hash, len: u64, from: Vec<PeerId>, gateway: Option<PeerId>) -> Option<Input> {
        if self.blobs.has(hash) {
            return Some(Input::Fetched(hash));
        }
        self.blobs.note_wanted(hash);
        let now_ms = clock::now().mono_ms;
        self.wanted.retain(|_, want| want.until_ms > now_ms);
        if !self.wanted.contains_key(&hash) && !self.has_room(from.first()) {
            return Some(Input::FetchFailed(hash));
        }
        self.wanted.insert(hash, Want { len, from, until_ms: now_ms + WANTED_MS, due: true });
        self.start_next(gateway);
        None
    }

    fn has_room(&self, first: Option<&PeerId>) -> bool {
        let of_peer = self.wanted.values().filter(|want| want.from.first() == first).count();
        self.wanted.len() < WANTED_MAX && of_peer < WANTED_OF_PEER_MAX
    }

    /// This peer is linked now: what it may have is worth another try.
    pub(super) fn handle_link_up(&mut self, peer: PeerId, gateway: Option<PeerId>) {
        for want in self.wanted.values_mut().filter(|want| want.from.contains(&peer)) {
            want.due = true;
        }
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
            | Input::Command(..) => return,
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
                    blobs.look_again();
                }
                Ok(Err(error)) => tracing::warn!(%error, "old blobs could not be removed"),
                Ok(Ok(_)) | Err(_) => {}
            }
        });
    }

    /// Begins as many fetches as there is room for; those of one peer do not keep out another's.
    fn start_next(&mut self, gateway: Option<PeerId>) {
        while self.under_way.len() < UNDER_WAY_MAX {
            let of_peer = |peer: &PeerId| self.under_way.values().filter(|other| *other == peer).count();
            let next = self.wanted.iter().find(|(hash, want)| {
                want.due
                    && !self.under_way.contains_key(*hash)
                    && want.from.first().is_none_or(|peer| of_peer(peer) < UNDER_WAY_OF_PEER_MAX)
            });
            let Some(hash) = next.map(|(hash, _)| *hash) else { return };
            let Some(want) = self.wanted.get_mut(&hash) else { return };
            want.due = false;
            let len = want.len;
            let mut peers = want.from.clone();
            self.under_way.insert(hash, peers.first().copied().unwrap_or(self.me));
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

    use mesh_core::test_kit::id;

    use super::*;
    use crate::mesh::identity::DeviceKey;
    use crate::mesh::transport::LinksConfig;

    #[tokio::test]
    async fn s17_what_one_peer_names_is_fetched_a_little_at_a_time_and_keeps_out_nobody_elses() {
        let home = tempfile::tempdir().unwrap();
        let key = DeviceKey::load_or_create(home.path()).unwrap();
        let blobs = BlobStore::open(&home.path().join("blobs")).unwrap();
        let tasks = TaskGroup::default();
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let services = [].into();
        let config = LinksConfig { key, listen, services, blobs: blobs.clone(), tasks: tasks.clone() };
        let links = Links::start(config, mpsc::channel(16).0).unwrap();
        let (inputs, mut ends) = mpsc::channel(64);
        let mut fetch = BlobFetch::new(id(0), blobs, links, inputs, tasks);
        let (liar, other) = (id(1), id(2));
        let hash = |n: u32| Hash::of(&n.to_le_bytes());
        let of = |fetch: &BlobFetch, peer| fetch.under_way.values().filter(|first| **first == peer).count();

        let asked = (0..15_000).map(|n| fetch.fetch(hash(n), 10, vec![liar], None));
        assert_eq!(asked.filter(Option::is_none).count(), WANTED_OF_PEER_MAX, "the rest is refused");
        assert!(fetch.fetch(hash(20_000), 10, vec![other], None).is_none());
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
}
