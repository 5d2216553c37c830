//! One device with a clock, whose frames a test carries by hand.

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

use super::Machine;
use crate::config::Config;
use crate::crypto::Symbolic;
use crate::ids::PeerId;
use crate::io::{Command, Input, Now, Output, Reply, Welcome};
use crate::peer::{Peer, founded, joined};

/// A device on its own. What it writes is durable at once, unless it is held; its log is read at once.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The core and its disk.
    pub machine: Machine,
    /// Its clocks.
    pub now: Now,
    /// While set, nothing becomes durable.
    pub held: bool,
    rng: ChaCha8Rng,
    commands: u64,
}

impl Desk {
    /// The founder of a mesh, started.
    pub fn founder(key: Symbolic, now: Now) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let rows = founded(&key, "home", &"attic".parse().unwrap(), now, &mut rng);
        Self::start(Machine::new(key, Config::default(), &rows), now, rng)
    }

    /// A newcomer, started.
    pub fn newcomer(key: Symbolic, welcome: &Welcome, now: Now) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let config = Config::default();
        let joined = joined(welcome, None, &config, Box::new(key.clone()), now, &mut rng).unwrap();
        Self::start(Machine::new(key, config, &joined.rows), now, rng)
    }

    /// A device that starts from what `machine` has on its disk.
    pub fn started(machine: Machine, now: Now) -> Self {
        Self::start(machine, now, ChaCha8Rng::seed_from_u64(3))
    }

    fn start(machine: Machine, now: Now, rng: ChaCha8Rng) -> Self {
        let mut desk = Self { machine, now, held: false, rng, commands: 0 };
        desk.crash();
        desk
    }

    /// Power fails, and one second later the device starts again. What was held back is lost, and nothing else.
    pub fn crash(&mut self) -> Vec<Output> {
        let survivors = if self.held { 0 } else { self.machine.disk.pending() };
        self.held = false;
        self.tick(1_000);
        let out = self.machine.boot(self.now, &mut self.rng, survivors, false);
        self.settle(out)
    }

    fn tick(&mut self, ms: u64) {
        self.now = Now { mono_ms: self.now.mono_ms + ms, wall_ms: self.now.wall_ms + ms };
    }

    /// Its identity.
    pub fn id(&self) -> PeerId {
        self.machine.id()
    }

    /// The running core.
    pub fn peer(&self) -> &Peer {
        self.machine.peer()
    }

    /// One step, and all that follows from it on this device; what is for others comes back.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        let out = self.machine.step(self.now, &mut self.rng, input);
        self.settle(out)
    }

    fn settle(&mut self, mut out: Vec<Output>) -> Vec<Output> {
        let mut rest = Vec::new();
        loop {
            let mut inputs = Vec::new();
            for output in out {
                if let Some(input) = self.machine.answer(&output) {
                    inputs.push(input);
                } else {
                    rest.push(output);
                }
            }
            inputs.extend(if self.held { None } else { self.machine.sync() });
            if inputs.is_empty() {
                return rest;
            }
            out = Vec::new();
            for input in inputs {
                out.extend(self.machine.step(self.now, &mut self.rng, input));
            }
        }
    }

    /// Lets the disk go on; what follows from that comes back.
    pub fn release(&mut self) -> Vec<Output> {
        self.held = false;
        self.settle(Vec::new())
    }

    /// Time passes, and the core is woken when it asks to be.
    pub fn pass(&mut self, ms: u64) -> Vec<Output> {
        let until = self.now.mono_ms + ms;
        let mut out = Vec::new();
        while let Some(due) = self.peer().poll_timeout().filter(|due| *due <= until) {
            self.tick(due.saturating_sub(self.now.mono_ms));
            out.extend(self.step(Input::Wake));
        }
        self.tick(until - self.now.mono_ms);
        out
    }

    /// Someone at a door asks; what follows comes back.
    pub fn command(&mut self, command: Command) -> Vec<Output> {
        self.commands += 1;
        self.step(Input::Command(self.commands, command))
    }

    /// Someone at a door asks, and gets this reply.
    pub fn ask(&mut self, command: Command) -> Reply {
        let out = self.command(command);
        let asked = self.commands;
        let reply = |output| if let Output::Reply(of, reply) = output { (of == asked).then_some(reply) } else { None };
        out.into_iter().find_map(reply).expect("every command has its reply")
    }

    /// Approves a peer; what it needs to join comes back.
    pub fn approve(&mut self, command: Command) -> Welcome {
        let reply = self.ask(command);
        let Reply::Approved(welcome) = reply else { panic!("not approved: {reply:?}") };
        *welcome
    }
}
