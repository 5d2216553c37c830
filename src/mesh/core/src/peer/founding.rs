//! The first rows of a store: a mesh of one, or what a welcome brings once it has been judged.

use std::collections::BTreeMap;
use std::convert::Infallible;

use rand_core::{Rng, TryRng};

use super::Peer;
use crate::audience::Audience;
use crate::config::Config;
use crate::crypto::Signer;
use crate::entry::{self, BodyCommitment, Kind, Salt, SignedEntry};
use crate::epoch::{Epoch, Fence};
use crate::ids::{Hash, Incarnation, MeshId, NodeId, PeerId};
use crate::io::{Batch, Image, Now, Welcome, Write};
use crate::limits;
use crate::nodes;
use crate::record::{Genesis, Tier};
use crate::rights;
use crate::rows::{self, Head};
use crate::trust::{Trust, genesis_of};

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

/// The row by which a device that founds or joins another mesh, or the same one anew, goes on knowing under which incarnations it
/// has spoken. Without it, two of them that come back to it from others would read as two devices with one key.
#[must_use]
pub fn known_incarnations(peer: &Peer) -> Write {
    rows::incarnations().put(peer.incarnations.row())
}

/// Rows of a new mesh of one.
pub fn founded(signer: &dyn Signer, mesh_name: &str, node_id: &NodeId, now: Now, rng: &mut dyn Rng) -> Batch {
    let incarnation = Incarnation(rng.next_u32());
    let body = Genesis { name: limits::cut(mesh_name, 63).to_owned(), nonce: rng.next_u64(), node_id: node_id.clone() };
    let (body, salt) = (entry::encode(&body), Salt::draw(rng));
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
            previous: Hash::ZERO,
            audience: Audience::Everyone,
            body: BodyCommitment::of(salt, &body),
        },
        salt,
        &body,
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

/// Reason for which a welcome is not taken up. Nothing of the present mesh has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadWelcome {
    /// It is of another mesh than the one that was to be joined.
    #[error("it leads into another mesh than the code names")]
    OtherMesh,
    /// The first entry of the mesh that it names is not in it.
    #[error("it does not hold the mesh that it names")]
    NoMesh,
    /// By the membership changes in it, this device does not belong.
    #[error("it does not make this device a member")]
    NotApproved,
    /// No owner's signature shows that the epoch in it was ever claimed.
    #[error("no owner has signed the election epoch that it names")]
    UnprovenFence,
    /// Beyond [`limits::EPOCH_WELCOME_MAX`].
    #[error("the election epoch that it names, {0}, is higher than any mesh comes to")]
    EpochTooHigh(u64),
    /// A peer does not start from it.
    #[error("no device can start from it")]
    Boot(#[source] BootError),
}

/// A welcome that has been judged, as the newcomer takes it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Rows of the store, for an empty one.
    pub rows: Batch,
    /// The name that the newcomer got, by the membership changes in the welcome.
    pub node_id: NodeId,
    /// Its tier, likewise.
    pub tier: Tier,
    /// Entries of the welcome that are none of this mesh's members, or that do not decode. They are not in `rows`.
    pub left_out: usize,
}

/// Judges a welcome and makes it into the rows of a newcomer's store: a peer is started from it in memory, so that what
/// is taken up is what was looked at. `mesh`: the one that was to be joined, if that is known.
///
/// Directory entries of others than members, and entries that do not decode, are left out: the log brings what there is
/// to know of them.
///
/// # Errors
/// See [`BadWelcome`].
pub fn joined(
    welcome: &Welcome,
    mesh: Option<MeshId>,
    config: &Config,
    signer: Box<dyn Signer>,
    now: Now,
    rng: &mut dyn Rng,
) -> Result<Joined, BadWelcome> {
    if mesh.is_some_and(|mesh| mesh != welcome.mesh) {
        return Err(BadWelcome::OtherMesh);
    }
    let is_of_mesh = |entry: &&SignedEntry| match genesis_of(entry) {
        Some((mesh, _)) => mesh == welcome.mesh,
        None => entry.entry.kind == Kind::MEMBERSHIP,
    };
    let incarnation = rows::incarnation().put(&Incarnation(rng.next_u32()));
    let mut writes = vec![incarnation.clone()];
    writes.extend(welcome.trust.iter().filter(is_of_mesh).map(|record| rows::trust(&record.hash).put(record)));
    let rows = writes.into_iter().filter_map(|write| Some((write.space, write.key, write.value?))).collect();
    let image = Image { rows, rolled_back: false };
    let peer = match Peer::boot(config.clone(), signer, image, now, &mut NoChance, &mut Vec::new()) {
        Ok(peer) => peer,
        Err(BootError::NoMesh) => return Err(BadWelcome::NoMesh),
        Err(error @ BootError::Damaged(_)) => return Err(BadWelcome::Boot(error)),
    };
    let Some(member) = peer.trust.member(&peer.local.me) else { return Err(BadWelcome::NotApproved) };
    judge_fence(&peer.trust, &welcome.fence)?;
    // Only what trust itself has kept: the rest is of no use to anybody.
    let trust = peer.trust.records_in_order();
    let directory = directories_of_members(&peer.trust, &welcome.directory);
    let rights: Vec<&SignedEntry> = welcome
        .rights
        .iter()
        .filter(|entry| entry.entry.mesh == peer.trust.mesh() && peer.trust.rights_stand(&entry.place()))
        .filter(|entry| rights::read(entry).is_some())
        .collect();
    let left_out = welcome.trust.len().saturating_sub(trust.len())
        + welcome.directory.len().saturating_sub(directory.len())
        + (welcome.rights.len() - rights.len());
    let mut writes = vec![incarnation, rows::fence().put(&welcome.fence)];
    writes.extend(trust.iter().map(|record| rows::trust(&record.hash).put(record)));
    writes.extend(directory.iter().map(|(author, record)| rows::directory(author).put(record)));
    writes.extend(rights.iter().map(|entry| rows::statement(&entry.place()).put(*entry)));
    let rows = Batch { writes, sync: true };
    Ok(Joined { rows, node_id: member.node_id.clone(), tier: member.tier, left_out })
}

/// `Err` unless an owner of this mesh has signed for the fence, and claims above it are left for as long as anybody
/// lives.
fn judge_fence(trust: &Trust, fence: &Fence) -> Result<(), BadWelcome> {
    let proven = fence.proof.as_ref().is_some_and(|proof| {
        proof.mesh == trust.mesh() && proof.epoch == fence.epoch && trust.was_owner(&proof.epoch.peer)
    });
    if fence.epoch.counter > limits::EPOCH_WELCOME_MAX {
        Err(BadWelcome::EpochTooHigh(fence.epoch.counter))
    } else if proven || fence.epoch == Epoch::ZERO {
        Ok(())
    } else {
        Err(BadWelcome::UnprovenFence)
    }
}

/// The newest readable directory entry of each member among these.
fn directories_of_members<'a>(trust: &Trust, entries: &'a [SignedEntry]) -> BTreeMap<PeerId, &'a SignedEntry> {
    let mut newest: BTreeMap<PeerId, &SignedEntry> = BTreeMap::new();
    for entry in entries {
        let place = entry.place();
        let counts = entry.entry.kind == Kind::DIRECTORY
            && entry.entry.mesh == trust.mesh()
            && trust.member(&place.author).is_some()
            && trust.admits(&place.author, place.incarnation, place.seq)
            && nodes::read(entry).is_some();
        if counts && newest.get(&place.author).is_none_or(|known| nodes::is_older(known, entry)) {
            newest.insert(place.author, entry);
        }
    }
    newest
}

/// A source of randomness for a peer that is started only to be looked at.
struct NoChance;

impl TryRng for NoChance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(0)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(0);
        Ok(())
    }
}
