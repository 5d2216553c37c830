//! The first rows of a store: a mesh of one, or what a welcome brings.

use rand_core::Rng;

use crate::crypto::Signer;
use crate::entry::{self, Kind, SignedEntry};
use crate::ids::{Hash, Incarnation, MeshId, NodeId};
use crate::io::{Batch, Now, Welcome};
use crate::limits;
use crate::record::Genesis;
use crate::rows::{self, Head};
use crate::trust::genesis_of;

/// Reason for which a store is not one of a peer of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// There is no mesh in it: found one first.
    #[error("the store holds no mesh")]
    NoMesh,
    /// A row that we cannot do without does not decode.
    #[error("the store's `{0}` does not decode")]
    Damaged(&'static str),
}

/// Rows of a new mesh of one.
pub fn founded(signer: &dyn Signer, mesh_name: &str, node_id: &NodeId, now: Now, rng: &mut dyn Rng) -> Batch {
    let incarnation = Incarnation(rng.next_u32());
    let body = Genesis { name: limits::cut(mesh_name, 63).to_owned(), nonce: rng.next_u64(), node_id: node_id.clone() };
    let genesis = SignedEntry::sign(
        signer,
        entry::Entry {
            mesh: MeshId([0; 32]),
            author: signer.public_key(),
            incarnation,
            seq: 1,
            hlc: now.wall_ms << 16,
            kind: Kind::GENESIS,
            critical: false,
            generation: 0,
            previous: Hash::ZERO,
            body: entry::encode(&body).into(),
        },
    );
    let head = Head { seq: 1, hash: genesis.hash, hlc: genesis.entry.hlc };
    let writes = vec![
        rows::incarnation().put(&incarnation),
        rows::head(&genesis.author, incarnation).put(&head),
        rows::entry(&genesis.author, incarnation, 1).put(&genesis),
        rows::trust(&genesis.hash).put(&genesis),
    ];
    Batch { writes, sync: true }
}

/// True if a newcomer switches to the mesh that welcomes it. `crossed`: since it asked, its own mesh has let its host
/// in, so the host is on its way here. Both judge alike: the join into the lower mesh id proceeds, the other is let go.
#[must_use]
pub fn should_switch(own: MeshId, welcome: &Welcome, crossed: bool) -> bool {
    !crossed || welcome.mesh < own
}

/// Rows of a newcomer to a mesh.
///
/// # Errors
/// When the welcome holds no genesis of the mesh that it names.
pub fn joined(welcome: &Welcome, rng: &mut dyn Rng) -> Result<Batch, BootError> {
    let known = welcome.trust.iter().filter_map(genesis_of).any(|(mesh, _)| mesh == welcome.mesh);
    if !known {
        return Err(BootError::NoMesh);
    }
    let mut fence = welcome.fence.clone();
    fence.proof.take_if(|proof| proof.mesh != welcome.mesh);
    let mut writes = vec![rows::incarnation().put(&Incarnation(rng.next_u32())), rows::fence().put(&fence)];
    writes.extend(welcome.trust.iter().map(|record| rows::trust(&record.hash).put(record)));
    writes.extend(welcome.directory.iter().map(|record| rows::directory(&record.author).put(record)));
    Ok(Batch { writes, sync: true })
}
