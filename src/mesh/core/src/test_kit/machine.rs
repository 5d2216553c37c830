//! A core and the disk under it, as a process is: it can crash and start again.

use rand_core::Rng;

use super::MemDisk;
use crate::config::Config;
use crate::crypto::{Signer as _, Symbolic};
use crate::ids::PeerId;
use crate::io::{Batch, Image, Input, Now, Output};
use crate::peer::Peer;

/// One peer and its disk. It has no clock and no chance of its own: both are handed in, as to the core.
#[derive(Debug, Clone)]
pub struct Machine {
    key: Symbolic,
    /// The configuration that the next start goes by.
    pub config: Config,
    /// Everything that it has written.
    pub disk: MemDisk,
    core: Option<Peer>,
}

impl Machine {
    /// A peer that has not started yet; `rows` are what founding or joining a mesh wrote.
    pub fn new(key: Symbolic, config: Config, rows: &Batch) -> Self {
        let mut disk = MemDisk::default();
        disk.reset(rows);
        Self { key, config, disk, core: None }
    }

    /// Its key.
    pub const fn key(&self) -> &Symbolic {
        &self.key
    }

    /// Its identity.
    pub fn id(&self) -> PeerId {
        self.key.public_key().peer_id()
    }

    /// The running core.
    pub fn peer(&self) -> &Peer {
        self.core.as_ref().expect("started before it is asked")
    }

    /// Starts, or starts again after a crash that the first `survivors` of the unsynced batches outlived.
    /// `rolled_back`: its shell found that the store is older than its promises.
    pub fn boot(&mut self, now: Now, rng: &mut dyn Rng, survivors: usize, rolled_back: bool) -> Vec<Output> {
        self.disk.crash(survivors);
        let image = Image { rolled_back, ..self.disk.image() };
        let mut out = Vec::new();
        let core = Peer::boot(self.config.clone(), Box::new(self.key.clone()), image, now, rng, &mut out);
        self.core = Some(core.expect("the disk holds a mesh"));
        self.keep(out)
    }

    /// One step of the core. What it commits goes to the disk; the rest comes back.
    pub fn step(&mut self, now: Now, rng: &mut dyn Rng, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.core.as_mut().expect("started before its first step").step(now, rng, input, &mut out);
        self.keep(out)
    }

    fn keep(&mut self, out: Vec<Output>) -> Vec<Output> {
        let mut rest = Vec::with_capacity(out.len());
        for output in out {
            if let Output::Commit(txn, batch) = output {
                self.disk.commit(txn, batch);
            } else {
                rest.push(output);
            }
        }
        rest
    }

    /// Syncs all that the disk was given, if anything waits for that: the input that tells the core.
    pub fn sync(&mut self) -> Option<Input> {
        let txn = self.disk.begin_sync()?;
        self.disk.end_sync(txn);
        Some(Input::Durable(txn))
    }

    /// The answer to what reads the store; `None`: it is another output.
    pub fn answer(&self, output: &Output) -> Option<Input> {
        if let Output::ReadClosed { first, last } = output {
            let (calls, more) = self.disk.read_closed(first, last);
            return Some(Input::ClosedRead { calls, more });
        }
        let Output::ReadLog { reader, ranges } = output else { return None };
        let (entries, more) = self.disk.read_log(ranges);
        Some(Input::LogRead { reader: *reader, entries, more })
    }
}
