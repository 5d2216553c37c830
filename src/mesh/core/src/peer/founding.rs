//! The first rows of a store: a mesh of one, or what a welcome brings.

use bytes::Bytes;
use rand_core::Rng;

use super::{BootError, KEY_FENCE, KEY_INCARNATION, KEY_NAME};
use crate::crypto::Signer;
use crate::entry::{self, Genesis, Kind, SignedEntry};
use crate::ids::{Hash, Incarnation, MeshId, NodeId};
use crate::io::{Batch, Now, Space, Welcome};
use crate::limits;
use crate::log::{self, Head};
use crate::trust::genesis_of;

fn write<T: serde::Serialize>(space: Space, key: &[u8], record: &T) -> crate::io::Write {
    crate::io::Write { space, key: key.to_vec(), value: Some(entry::encode(record).into()) }
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
    let stored = Bytes::from(genesis.to_stored());
    let mut writes = vec![
        write(Space::Meta, KEY_INCARNATION, &incarnation),
        write(Space::Heads, &log::log_key(&genesis.author, incarnation, None), &head),
    ];
    for (space, key) in
        [(Space::Log, log::log_key(&genesis.author, incarnation, Some(1))), (Space::Trust, genesis.hash.0.to_vec())]
    {
        writes.push(crate::io::Write { space, key, value: Some(stored.clone()) });
    }
    Batch { writes, sync: true }
}

/// Whether a newcomer switches to the mesh that welcomes it. `crossed`: since it asked, its own mesh has let its host in,
/// so the host is on its way here. Both judge alike: the join into the lower mesh id proceeds, the other is let go.
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
    let mut writes = vec![
        write(Space::Meta, KEY_INCARNATION, &Incarnation(rng.next_u32())),
        write(Space::Meta, KEY_FENCE, &welcome.fence),
        write(Space::Meta, KEY_NAME, &welcome.node_id),
    ];
    for record in &welcome.trust {
        let (key, value) = (record.hash.0.to_vec(), Some(record.to_stored().into()));
        writes.push(crate::io::Write { space: Space::Trust, key, value });
    }
    for record in &welcome.directory {
        let (key, value) = (record.author.0.to_vec(), Some(record.to_stored().into()));
        writes.push(crate::io::Write { space: Space::Directory, key, value });
    }
    Ok(Batch { writes, sync: true })
}
