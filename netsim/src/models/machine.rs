//! A peer as a model keeps it: the product's whole core, and the disk under it.
//!
//! A model follows many futures, so both are copied at every step; two are the same when all that they hold reads
//! alike.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;

use mesh_core::config::Config;
use mesh_core::crypto::{Signer, Symbolic};
use mesh_core::io::{Batch, Command, Input, Now, Output, Reply, View, Welcome};
use mesh_core::peer;
use mesh_core::record::{Directory, Effect, Tier};
pub(super) use mesh_core::test_kit::at;
use mesh_core::test_kit::{self, offers, tool};

use crate::dice::Dice;

/// The same few numbers at every step: chance is the model's business, not the core's.
fn dice() -> Dice {
    Dice::new(0, 0)
}

/// One peer.
#[derive(Clone)]
pub(super) struct Machine {
    kit: test_kit::Machine,
    print: u64,
}

impl Deref for Machine {
    type Target = test_kit::Machine;

    fn deref(&self) -> &Self::Target {
        &self.kit
    }
}

impl Machine {
    /// A peer that has not started yet.
    fn new(key: Symbolic, config: Config, batch: &Batch) -> Self {
        Self { kit: test_kit::Machine::new(key, config, batch), print: 0 }
    }

    /// The peer's beliefs.
    pub(super) fn view(&self) -> View {
        self.peer().view()
    }

    /// When it wants to be woken.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.peer().poll_timeout()
    }

    /// Starts, or starts again after a crash that the first `survivors` of the unsynced batches outlived.
    pub(super) fn boot(&mut self, now: Now, survivors: usize) -> Vec<Output> {
        let out = self.kit.boot(now, &mut dice().0, survivors, false);
        self.take(out)
    }

    /// One step of the core.
    pub(super) fn step(&mut self, now: Now, input: Input) -> Vec<Output> {
        let out = self.kit.step(now, &mut dice().0, input);
        self.take(out)
    }

    /// The disk is done with all that it was given.
    pub(super) fn sync(&mut self, now: Now) -> Option<Vec<Output>> {
        let durable = self.kit.sync()?;
        Some(self.step(now, durable))
    }

    /// Notes how core and disk read now.
    fn take(&mut self, out: Vec<Output>) -> Vec<Output> {
        let mut print = Print(DefaultHasher::new());
        self.disk.hash(&mut print.0);
        write!(print, "{:?}", self.peer()).expect("hashing does not fail");
        self.print = print.0.finish();
        out
    }

    /// Steps and syncs until nothing waits for the disk; for what precedes a model.
    pub(super) fn settle(&mut self, now: Now, input: Input) -> Vec<Output> {
        let mut out = self.step(now, input);
        while let Some(more) = self.sync(now) {
            out.extend(more);
        }
        out
    }

    /// All that was written reaches the disk, also what nobody waits for; for what precedes a model.
    pub(super) fn persist(&mut self) {
        let pending = self.kit.disk.pending();
        self.kit.disk.crash(pending);
        self.take(Vec::new());
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
        self.print == other.print && self.key().public_key() == other.key().public_key()
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
    Directory { class: config.class.0, eligible: config.eligible, ..offers(vec![tool("put", Effect::Idempotent)]) }
}

/// A mesh of `count` owners with one configuration, all of them started, without links. The first is the founder, and
/// has approved the others.
pub(super) fn mesh(count: u64, config: &Config) -> Vec<Machine> {
    let keys: Vec<Symbolic> = (1..=count).map(Symbolic::new).collect();
    let name = |n: usize| format!("peer-{n}").parse().expect("a valid constant");
    let founded = peer::founded(&keys[0], "modelled", &name(0), at(0), &mut dice().0);
    let mut founder = Machine::new(keys[0].clone(), config.clone(), &founded);
    founder.boot(at(0), 0);
    founder.settle(at(0), Input::Wake);
    let mut welcome: Option<Box<Welcome>> = None;
    for round in 0..2 {
        // The second round gives everyone the approvals of the others.
        for (n, key) in keys.iter().enumerate().skip(1) {
            if round == 0 || n + 1 == keys.len() {
                let command =
                    Command::Approve { key: key.public_key(), node_id: name(n), tier: Tier::Owner, stay: None };
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
        welcome.node_id = name(0);
        let signer = Box::new(key.clone());
        let joined =
            peer::joined(&welcome, None, config, signer, at(0), &mut dice().0).expect("a welcome of this mesh");
        let mut machine = Machine::new(key.clone(), config.clone(), &joined.rows);
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
