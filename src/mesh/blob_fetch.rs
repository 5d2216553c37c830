//! Fetching of large payloads from the peers that may have them.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::ids::{Hash, PeerId};
use mesh_core::io::Input;
use tokio::sync::mpsc;

use crate::mesh::blobs::BlobStore;
use crate::mesh::transport::Links;
use crate::tasks::TaskGroup;

/// Blobs that are wanted and not here yet. The end of each fetch comes back as [`Input::Fetched`] or
/// [`Input::FetchFailed`].
#[derive(Debug)]
pub(super) struct BlobFetch {
    blobs: BlobStore,
    links: Links,
    inputs: mpsc::Sender<Input>,
    tasks: TaskGroup,
    /// Length and peers that may have it, until it is here.
    wanted: BTreeMap<Hash, (u64, Vec<PeerId>)>,
    under_way: BTreeSet<Hash>,
}

impl BlobFetch {
    /// Creates one that wants nothing.
    pub(super) fn new(blobs: BlobStore, links: Links, inputs: mpsc::Sender<Input>, tasks: TaskGroup) -> Self {
        Self { blobs, links, inputs, tasks, wanted: BTreeMap::new(), under_way: BTreeSet::new() }
    }

    /// Gets a blob of at most `len` bytes from the first of these peers that has it. It is tried again when one of them
    /// is linked anew; after them the gateway is asked, which has much of what others want. Returns the input to give
    /// to the core now, if the blob is here already.
    pub(super) fn fetch(&mut self, hash: Hash, len: u64, from: Vec<PeerId>, gateway: Option<PeerId>) -> Option<Input> {
        if self.blobs.has(hash) {
            return Some(Input::Fetched(hash));
        }
        self.wanted.insert(hash, (len, from.clone()));
        if self.under_way.insert(hash) {
            let (links, inputs) = (self.links.clone(), self.inputs.clone());
            self.tasks.spawn(async move {
                let mut result = Input::FetchFailed(hash);
                for peer in from.into_iter().chain(gateway) {
                    if links.fetch(peer, hash, len).await.is_ok() {
                        result = Input::Fetched(hash);
                        break;
                    }
                }
                let _ = inputs.send(result).await;
            });
        }
        None
    }

    /// Returns the blobs that this peer may have: it is linked now, so they are worth another try.
    pub(super) fn wanted_from(&self, peer: PeerId) -> Vec<(Hash, u64, Vec<PeerId>)> {
        let of_peer = self.wanted.iter().filter(|(_, (_, from))| from.contains(&peer));
        of_peer.map(|(hash, (len, from))| (*hash, *len, from.clone())).collect()
    }

    /// Notes that a fetch has ended.
    pub(super) fn note_end(&mut self, hash: Hash, fetched: bool) {
        self.under_way.remove(&hash);
        if fetched {
            self.wanted.remove(&hash);
        }
    }
}
