//! A peer as a model keeps it: the product's whole core, and the disk under it.
//!
//! A model follows many futures, so both are copied at every step; two are the same when all that they hold reads
//! alike.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};

use mesh_core::config::Config;
use mesh_core::crypto::{Signer, Symbolic};
use mesh_core::entry::{Directory, Effect, Tier, ToolDecl};
use mesh_core::ids::PeerId;
use mesh_core::io::{Batch, Command, Input, Now, Output, Reply, View, Welcome};
use mesh_core::peer::{self, Peer};

use crate::dice::Dice;
use crate::disk::MemDisk;

/// Wall time of a model's beginning.
const WALL_MS: u64 = 1_750_000_000_000;

/// Clocks that show `ms` since the model's beginning.
pub(super) fn at(ms: u64) -> Now {
    Now { mono_ms: ms, wall_ms: WALL_MS + ms }
}

/// The same few numbers at every step: chance is the model's business, not the core's.
fn dice() -> Dice {
    Dice::new(0, 0)
}

/// One peer.
#[derive(Clone)]
pub(super) struct Machine {
    key: Symbolic,
    config: Config,
    pub(super) disk: MemDisk,
    core: Option<Peer>,
    print: u64,
}

impl Machine {
    /// A peer that has not started yet.
    fn new(key: Symbolic, config: Config, batch: &Batch) -> Self {
        let mut disk = MemDisk::default();
        disk.reset(batch);
        Self { key, config, disk, core: None, print: 0 }
    }

    pub(super) fn id(&self) -> PeerId {
        self.key.public_key().peer_id()
    }

    fn running(&self) -> &Peer {
        self.core.as_ref().expect("started before the model asks")
    }

    /// The peer's beliefs.
    pub(super) fn view(&self) -> View {
        self.running().view()
    }

    /// When it wants to be woken.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.running().poll_timeout()
    }

    /// Starts, or starts again after a crash that the first `survivors` of the unsynced batches outlived.
    pub(super) fn boot(&mut self, now: Now, survivors: usize) -> Vec<Output> {
        self.disk.crash(survivors);
        let (config, key) = (self.config.clone(), Box::new(self.key.clone()));
        let mut out = Vec::new();
        let core = Peer::boot(config, key, self.disk.image(), now, &mut dice().0, &mut out);
        self.take(core.expect("the disk holds a mesh"), out)
    }

    /// One step of the core.
    pub(super) fn step(&mut self, now: Now, input: Input) -> Vec<Output> {
        let mut core = self.core.take().expect("started before its first step");
        let mut out = Vec::new();
        core.step(now, &mut dice().0, input, &mut out);
        self.take(core, out)
    }

    /// The disk is done with all that it was given.
    pub(super) fn sync(&mut self, now: Now) -> Option<Vec<Output>> {
        let txn = self.disk.begin_sync()?;
        self.disk.end_sync(txn);
        Some(self.step(now, Input::Durable(txn)))
    }

    /// Keeps what was committed; the rest is the model's.
    fn take(&mut self, core: Peer, out: Vec<Output>) -> Vec<Output> {
        let mut rest = Vec::new();
        for output in out {
            if let Output::Commit(txn, batch) = output {
                self.disk.commit(txn, batch);
            } else {
                rest.push(output);
            }
        }
        let mut print = Print(DefaultHasher::new());
        self.disk.hash(&mut print.0);
        write!(print, "{core:?}").expect("hashing does not fail");
        self.print = print.0.finish();
        self.core = Some(core);
        rest
    }

    /// Steps and syncs until nothing waits for the disk; for what precedes a model.
    pub(super) fn settle(&mut self, now: Now, input: Input) -> Vec<Output> {
        let mut out = self.step(now, input);
        while let Some(more) = self.sync(now) {
            out.extend(more);
        }
        out
    }
}

/// Hashes what is written.
struct Print(DefaultHasher);

impl fmt::Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// Two machines are the same when everything that their cores and disks show is.
impl Hash for Machine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.print);
    }
}

impl PartialEq for Machine {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print && self.key.public_key() == other.key.public_key()
    }
}

impl Eq for Machine {}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.print)
    }
}

/// Directory record of each of them.
fn directory(config: &Config) -> Directory {
    let put = ToolDecl {
        name: "put".parse().expect("a valid constant"),
        effect: Effect::Idempotent,
        description: String::new(),
        owner_only: false,
    };
    Directory {
        addresses: Vec::new(),
        platform: "linux".into(),
        version: "0".into(),
        class: config.class.0,
        eligible: config.eligible,
        tools: vec![put],
        services: Vec::new(),
    }
}

/// A mesh of `count` owners with one configuration, all of them started, without links. The first is the founder, and
/// has approved the others.
pub(super) fn mesh(count: u64, config: &Config) -> Vec<Machine> {
    let keys: Vec<Symbolic> = (1..=count).map(Symbolic::new).collect();
    let handle = |n: usize| format!("peer-{n}").parse().expect("a valid constant");
    let founded = peer::founded(&keys[0], "modelled", &handle(0), at(0), &mut dice().0);
    let mut founder = Machine::new(keys[0].clone(), config.clone(), &founded);
    founder.boot(at(0), 0);
    founder.settle(at(0), Input::Wake);
    let mut welcome: Option<Box<Welcome>> = None;
    for round in 0..2 {
        // The second round gives everyone the approvals of the others.
        for (n, key) in keys.iter().enumerate().skip(1) {
            if round == 0 || n + 1 == keys.len() {
                let command = Command::Approve { key: key.public_key(), node_id: handle(n), tier: Tier::Owner };
                for output in founder.settle(at(0), Input::Command(n as u64, command)) {
                    if let Output::Reply(_, Reply::Approved(given)) = output {
                        welcome = Some(given);
                    }
                }
            }
        }
    }
    let welcome = welcome.map(|welcome| *welcome);
    let others = keys.iter().skip(1).map(|key| {
        let mut welcome = welcome.clone().expect("the founder approves everyone");
        welcome.node_id = handle(0);
        let rows = peer::joined(&welcome, &mut dice().0).expect("a welcome of this mesh");
        let mut machine = Machine::new(key.clone(), config.clone(), &rows);
        machine.boot(at(0), 0);
        machine
    });
    let mut machines: Vec<Machine> = std::iter::once(founder).chain(others).collect();
    for machine in &mut machines {
        machine.settle(at(0), Input::Wake);
        machine.settle(at(0), Input::Command(0, Command::SetDirectory(directory(config))));
        // Everyone starts anew with a disk at rest.
        machine.boot(at(0), 0);
        machine.settle(at(0), Input::Wake);
    }
    machines
}
