//! The life of a core: founded, booted, taken into another mesh, ended; and what it needs for that, the device key and a
//! source of randomness. The driver steps it.

use bytes::Bytes;
use mesh_core::config::Config;
use mesh_core::ids::{MeshId, NodeId};
use mesh_core::io::{Batch, DiskSpace, Image, Input, Output, Welcome, Write};
use mesh_core::peer::{self, BadWelcome, BootError, Joined, Peer};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use ring::rand::SecureRandom;

use crate::mesh::clock;
use crate::mesh::disk_room::DiskRoom;
use crate::mesh::identity::DeviceKey;

/// The core of one peer, and what a new one is made from when the mesh changes.
pub(super) struct Machine {
    pub(super) peer: Peer,
    /// Source of chance of each step of the core.
    pub(super) rng: ChaCha8Rng,
    key: DeviceKey,
    config: Config,
    /// Name to found a mesh with.
    name: NodeId,
    disk: DiskRoom,
    /// All that the core was told of the disk last.
    space: Option<DiskSpace>,
}

impl Machine {
    /// Takes up the mesh in `image`; with what is to be done first.
    pub(super) fn boot(
        key: DeviceKey,
        config: Config,
        name: NodeId,
        disk: DiskRoom,
        image: Image,
        mut rng: ChaCha8Rng,
    ) -> Result<(Self, Vec<Output>), BootError> {
        let mut out = Vec::new();
        let peer = Peer::boot(config.clone(), Box::new(key.clone()), image, clock::now(), &mut rng, &mut out)?;
        Ok((Self { peer, rng, key, config, name, disk, space: None }, out))
    }

    /// Takes up another mesh in place of the present one.
    pub(super) fn reboot(&mut self, image: Image) -> Result<Vec<Output>, BootError> {
        let mut out = Vec::new();
        let signer = Box::new(self.key.clone());
        self.peer = Peer::boot(self.config.clone(), signer, image, clock::now(), &mut self.rng, &mut out)?;
        Ok(out)
    }

    /// Notes what a batch writes. True if it is time to look at the disk.
    pub(super) fn note_written(&mut self, batch: &Batch) -> bool {
        let bytes = |write: &Write| write.key.len() + write.value.as_ref().map_or(0, Bytes::len);
        self.disk.note_written(batch.writes.iter().map(bytes).sum::<usize>() as u64)
    }

    /// Looks at the disk, now and then; the input for the core if there is news.
    pub(super) fn look_at_disk(&mut self) -> Option<Input> {
        let space = self.disk.look(clock::now().mono_ms)?;
        self.space = Some(space);
        Some(Input::Disk(space))
    }

    /// All that the core was told of the disk last: a new one has to know.
    pub(super) fn disk(&self) -> Option<Input> {
        self.space.map(Input::Disk)
    }

    /// Ends what is open, as the last thing in this mesh; the rows that say so.
    pub(super) fn depart(&mut self) -> Batch {
        self.peer.depart(clock::now(), &mut self.rng)
    }

    /// Sets the name to found a mesh with.
    pub(super) fn set_name(&mut self, name: NodeId) {
        self.name = name;
    }

    /// Rows of a new mesh of one.
    pub(super) fn found(&mut self) -> Batch {
        let mut rows = founded(&self.key, &self.name, &mut self.rng);
        rows.writes.push(peer::known_incarnations(&self.peer));
        rows
    }

    /// Judges the welcome to another mesh, which must be `mesh` if that is known.
    ///
    /// # Errors
    /// It is not one that this device can live in.
    pub(super) fn join(&mut self, welcome: &Welcome, mesh: Option<MeshId>) -> Result<Joined, BadWelcome> {
        let signer = Box::new(self.key.clone());
        let mut joined = peer::joined(welcome, mesh, &self.config, signer, clock::now(), &mut self.rng)?;
        joined.rows.writes.push(peer::known_incarnations(&self.peer));
        Ok(joined)
    }
}

/// Rows of a new mesh of one.
pub(super) fn founded(key: &DeviceKey, name: &NodeId, rng: &mut ChaCha8Rng) -> Batch {
    peer::founded(key, &format!("mesh of {name}"), name, clock::now(), rng)
}

/// A source of randomness for the core, seeded by the operating system.
pub(crate) fn entropy() -> ChaCha8Rng {
    let mut seed = [0; 32];
    // Without entropy nothing here is safe: TLS would not have come up either.
    ring::rand::SystemRandom::new().fill(&mut seed).expect("the operating system gives random bytes");
    ChaCha8Rng::from_seed(seed)
}
