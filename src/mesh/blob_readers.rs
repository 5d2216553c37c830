//! Who gets a blob that this peer has: owners, and whoever a call names as its reader.

use std::sync::Arc;

use mesh_core::ids::{Hash, PeerId};
use mesh_core::io::View;
use mesh_core::record::Tier;
use mesh_core::rows;
use tokio::sync::watch;

use crate::mesh::store::Store;
use crate::mesh::transport::BlobReaders;

/// Judges by the present membership, and by the calls that the store holds.
#[derive(Debug)]
pub(super) struct CallReaders {
    store: Arc<dyn Store>,
    view: watch::Receiver<Arc<View>>,
}

impl CallReaders {
    /// Creates one for this store.
    pub(super) fn new(store: Arc<dyn Store>, view: watch::Receiver<Arc<View>>) -> Self {
        Self { store, view }
    }
}

impl BlobReaders for CallReaders {
    fn may_read(&self, peer: &PeerId, hash: &Hash) -> bool {
        let tier = self.view.borrow().by_peer(peer).map(|node| node.tier);
        let is_named = || {
            let at = rows::blob_reader(hash, peer);
            self.store.get(at.space, &at.key).is_ok_and(|row| row.is_some())
        };
        tier.is_some_and(|tier| tier == Tier::Owner || is_named())
    }
}
