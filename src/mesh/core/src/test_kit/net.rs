//! Devices, a network that is cut where a test says so, and disks that sync at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

use super::{Author, Machine, Snapshot, at, done, offers, pushed, tool};
use crate::config::Config;
use crate::crypto::{Signer as _, Symbolic};
use crate::entry::{Kind, SignedEntry};
use crate::epoch::Epoch;
use crate::frame::Frame;
use crate::ids::{Incarnation, PeerId, PublicKey, ReqId};
use crate::io::{
    Batch, CallRecord, CmdId, Command, Fact, Input, Invocation, NewCall, Now, Output, Reply, SessionId, Space,
};
use crate::peer::{Peer, founded, joined};
use crate::record::{Effect, StayTerms, Tier};
use crate::rows;
use crate::via::Via;

/// Clocks of a network begin here: every deadline before it lies in the past.
const START_MS: u64 = 1_000_000;
/// Steps in which time passes.
const STEP_MS: u64 = 50;

/// One device of a network.
#[derive(Debug)]
pub struct Device {
    /// The core and its disk.
    pub machine: Machine,
    /// Facts that its core reported.
    pub facts: Vec<Fact>,
    /// Tools that it ran.
    pub ran: Vec<Invocation>,
    /// Frames that it got, and from whom.
    pub got: Vec<(PeerId, Frame)>,
    /// Number of log reads of its core.
    pub log_reads: usize,
    replies: BTreeMap<CmdId, Reply>,
    /// Devices whose node streams it serves, in which epoch of its own, over which session.
    streams: BTreeMap<usize, (Epoch, SessionId)>,
}

impl Device {
    /// The running core.
    pub fn peer(&self) -> &Peer {
        self.machine.peer()
    }

    /// Rows of its log, of all authors.
    pub fn log(&self) -> Vec<SignedEntry> {
        let rows = self.machine.disk.scan(Space::Log, Vec::new(), vec![u8::MAX; 45]);
        rows.filter_map(|(_, row)| SignedEntry::from_stored(row)).collect()
    }
}

/// Devices that are known by their number, the first being the founder of their mesh.
#[derive(Debug)]
pub struct Net {
    /// All of them.
    pub devices: Vec<Device>,
    /// While false, tools that were started do not end.
    pub tools_end: bool,
    /// While false, no node registers with the gateway by itself.
    pub nodes_register: bool,
    links: BTreeSet<(usize, usize)>,
    todo: VecDeque<(usize, Input)>,
    now_ms: u64,
    rng: ChaCha8Rng,
    numbers: u64,
}

/// The key of device `n`.
pub fn key(n: usize) -> PublicKey {
    Symbolic::new(n as u64).public_key()
}

/// The identity of device `n`.
pub fn id(n: usize) -> PeerId {
    key(n).peer_id()
}

const fn pair(a: usize, b: usize) -> (usize, usize) {
    if a < b { (a, b) } else { (b, a) }
}

impl Net {
    /// A founder and the owners that it approved, linked, of whom one leads. Each offers `echo`.
    pub fn of(count: usize) -> Self {
        let mut net = Self::apart(count);
        net.join_all();
        net
    }

    /// As [`Self::of`], without links.
    pub fn apart(count: usize) -> Self {
        let mut net = Self {
            devices: Vec::new(),
            tools_end: true,
            nodes_register: true,
            links: BTreeSet::new(),
            todo: VecDeque::new(),
            now_ms: START_MS,
            rng: ChaCha8Rng::seed_from_u64(count as u64),
            numbers: 0,
        };
        let rows = founded(&Symbolic::new(0), "home", &"peer-0".parse().unwrap(), net.now(), &mut net.rng);
        net.install(0, &rows);
        for n in 1..count {
            net.invite(0, n, &format!("peer-{n}"), Tier::Owner);
        }
        net
    }

    /// Everyone's clocks.
    pub fn now(&self) -> Now {
        at(self.now_ms)
    }

    /// The running core of a device.
    pub fn peer(&self, n: usize) -> &Peer {
        self.devices[n].peer()
    }

    /// The device that leads, if there is exactly one.
    pub fn leader(&self) -> Option<usize> {
        let mut leaders = (0..self.devices.len()).filter(|n| self.peer(*n).leads());
        leaders.next().filter(|_| leaders.next().is_none())
    }

    /// The next device joins by an invite of `by`, without any link as yet.
    pub fn invite(&mut self, by: usize, n: usize, name: &str, tier: Tier) {
        let reply = self.approve(by, n, name, tier);
        self.join_by(n, &reply);
    }

    /// The next device joins for a while, without any link as yet.
    pub fn invite_for(&mut self, by: usize, n: usize, name: &str, stay: StayTerms) {
        let reply = self.approve_for(by, n, name, stay);
        self.join_by(n, &reply);
    }

    /// The next device joins by the answer to its approval, without any link as yet.
    pub fn join_by(&mut self, n: usize, reply: &Reply) {
        let Reply::Approved(welcome) = reply else { panic!("not approved: {reply:?}") };
        let (signer, now) = (Box::new(Symbolic::new(n as u64)), self.now());
        let joined = joined(welcome, None, &Config::default(), signer, now, &mut self.rng).unwrap();
        self.install(n, &joined.rows);
    }

    /// Approves a device, which need not be there.
    pub fn approve(&mut self, by: usize, n: usize, name: &str, tier: Tier) -> Reply {
        self.command(by, Command::Approve { key: key(n), node_id: name.parse().unwrap(), tier, stay: None })
    }

    /// Approves a device for a while.
    pub fn approve_for(&mut self, by: usize, n: usize, name: &str, stay: StayTerms) -> Reply {
        let (node_id, tier) = (name.parse().unwrap(), Tier::Ephemeral);
        self.command(by, Command::Approve { key: key(n), node_id, tier, stay: Some(stay) })
    }

    fn install(&mut self, n: usize, rows: &Batch) {
        assert_eq!(n, self.devices.len(), "devices join in order");
        self.devices.push(Device {
            machine: Machine::new(Symbolic::new(n as u64), Config::default(), rows),
            facts: Vec::new(),
            ran: Vec::new(),
            got: Vec::new(),
            log_reads: 0,
            replies: BTreeMap::new(),
            streams: BTreeMap::new(),
        });
        self.boot(n, false);
        self.offer(n);
    }

    /// The device says what it offers, as its shell does at every start.
    fn offer(&mut self, n: usize) {
        self.command(n, Command::SetDirectory(offers(vec![tool("echo", Effect::Idempotent)])));
    }

    fn boot(&mut self, n: usize, rolled_back: bool) {
        let now = self.now();
        let device = &mut self.devices[n];
        device.facts.clear();
        device.replies.clear();
        device.streams.clear();
        let survivors = device.machine.disk.pending();
        let out = device.machine.boot(now, &mut self.rng, survivors, rolled_back);
        self.perform(n, out);
        self.run();
    }

    /// The process ends, and starts again over what it had written. Its links are down.
    pub fn restart(&mut self, n: usize) {
        self.cut_off(n);
        self.boot(n, false);
    }

    /// As [`Self::restart`], as another version or with other settings.
    pub fn restart_as(&mut self, n: usize, config: Config) {
        self.devices[n].machine.config = config;
        self.restart(n);
    }

    /// As [`Self::restart`], over an older state of its disk. `noticed`: by its shell.
    pub fn restore(&mut self, n: usize, backup: &Snapshot, noticed: bool) {
        self.cut_off(n);
        self.devices[n].machine.disk.restore(backup);
        self.boot(n, noticed);
        if noticed {
            self.offer(n);
        }
    }

    /// The state of a disk, as a backup would hold it.
    pub fn backup(&self, n: usize) -> Snapshot {
        self.devices[n].machine.disk.state()
    }

    /// All links of a device go down.
    pub fn cut_off(&mut self, n: usize) {
        for other in 0..self.devices.len() {
            self.unlink(n, other);
        }
    }

    /// Every tool that runs at `n` ends.
    pub fn finish_tools(&mut self, n: usize) {
        let running: Vec<_> = self.devices[n].ran.iter().map(|run| (run.id, run.attempt)).collect();
        for (id, attempt) in running {
            self.input(n, Input::ToolEnded(id, attempt, done()));
        }
    }

    /// Something happens at a device; all that follows from it has happened when this returns.
    pub fn input(&mut self, n: usize, input: Input) {
        self.todo.push_back((n, input));
        self.run();
    }

    fn run(&mut self) {
        loop {
            while let Some((n, input)) = self.todo.pop_front() {
                if let Input::Recv(from, frame) = &input {
                    self.devices[n].got.push((*from, frame.clone()));
                }
                let now = self.now();
                let out = self.devices[n].machine.step(now, &mut self.rng, input);
                self.perform(n, out);
            }
            if self.nodes_register {
                self.register();
            }
            if self.todo.is_empty() {
                return;
            }
        }
    }

    /// The nodes' streams to the gateway that they follow, as the shells keep them.
    fn register(&mut self) {
        for g in 0..self.devices.len() {
            let epoch = self.peer(g).leads().then(|| self.peer(g).view().gateway).flatten();
            for n in (0..self.devices.len()).filter(|n| *n != g) {
                let linked = self.links.contains(&pair(g, n));
                let up = epoch.filter(|_| linked && self.peer(n).view().gateway == epoch);
                let known = self.devices[g].streams.get(&n).copied();
                if known.map(|(epoch, _)| epoch) == up {
                    continue;
                }
                self.numbers += 1;
                if let Some(epoch) = up {
                    self.devices[g].streams.insert(n, (epoch, self.numbers));
                    self.todo.push_back((g, Input::NodeUp(id(n), self.numbers)));
                } else if let Some((_, number)) = self.devices[g].streams.remove(&n) {
                    self.todo.push_back((g, Input::NodeDown(id(n), number)));
                }
            }
        }
    }

    fn perform(&mut self, n: usize, out: Vec<Output>) {
        for output in out {
            if let Some(input) = self.devices[n].machine.answer(&output) {
                self.devices[n].log_reads += 1;
                self.todo.push_back((n, input));
                continue;
            }
            match output {
                Output::Send(to, frame) => {
                    let to = (0..self.devices.len()).find(|other| id(*other) == to);
                    if let Some(to) = to.filter(|to| self.links.contains(&pair(n, *to))) {
                        self.todo.push_back((to, Input::Recv(id(n), frame)));
                    }
                }
                Output::Reply(command, reply) => drop(self.devices[n].replies.insert(command, reply)),
                Output::Fact(fact) => self.devices[n].facts.push(fact),
                Output::Invoke(invocation) => {
                    let Invocation { id, attempt, .. } = *invocation;
                    self.devices[n].ran.push(*invocation);
                    if self.tools_end {
                        self.todo.push_back((n, Input::ToolEnded(id, attempt, done())));
                    }
                }
                Output::Commit(..)
                | Output::ReadLog { .. }
                | Output::ReadClosed { .. }
                | Output::Kill(..)
                | Output::Fetch { .. } => {}
            }
        }
        if let Some(durable) = self.devices[n].machine.sync() {
            self.todo.push_back((n, durable));
        }
    }

    /// A member that is none of the devices here, to write a log of its own.
    pub fn author(&self, n: usize) -> Author {
        Author::new(Symbolic::new(n as u64), self.peer(0).view().mesh, self.now())
    }

    /// An entry of that author reaches a device.
    pub fn hears(&mut self, to: usize, author: &Author, entry: SignedEntry) {
        self.input(to, Input::Recv(author.id(), pushed(entry)));
    }

    /// Entry that `n` receives by way of 0: the first entry of an incarnation of its own that is not `known`.
    pub fn as_another_incarnation(&self, n: usize, known: Incarnation) -> Input {
        let mut other = self.author(n);
        other.incarnation = Incarnation(!known.0);
        let entry = other.says(Kind(98), b"\x02something new".to_vec());
        Input::Recv(id(0), pushed(entry))
    }

    /// Someone at a door of `n` asks, and gets this reply.
    pub fn command(&mut self, n: usize, command: Command) -> Reply {
        self.numbers += 1;
        let number = self.numbers;
        self.input(n, Input::Command(number, command));
        self.devices[n].replies.remove(&number).expect("every command has its reply")
    }

    /// A call that is accepted.
    pub fn ask(&mut self, origin: usize, new: NewCall) -> ReqId {
        let reply = self.command(origin, Command::Call(new));
        let Reply::Call { id, .. } = reply else { panic!("not accepted: {reply:?}") };
        id
    }

    /// Revokes a device.
    pub fn revoke(&mut self, by: usize, n: usize) {
        assert_eq!(self.command(by, Command::Revoke { peer: id(n), unsaid: false }), Reply::Revoked);
    }

    /// Links two devices.
    pub fn link(&mut self, a: usize, b: usize) {
        if a != b && self.links.insert(pair(a, b)) {
            self.input(a, Input::LinkUp(id(b)));
            self.input(b, Input::LinkUp(id(a)));
        }
    }

    /// Links two devices by a third. If they were linked, that link is replaced.
    pub fn link_by_relay(&mut self, a: usize, b: usize) {
        self.links.insert(pair(a, b));
        for (me, other) in [(a, b), (b, a)] {
            self.input(me, Input::LinkVia(id(other), Via::Relayed));
            self.input(me, Input::LinkUp(id(other)));
        }
    }

    /// A direct link takes the place of the relayed one.
    pub fn link_directly(&mut self, a: usize, b: usize) {
        self.links.insert(pair(a, b));
        for (me, other) in [(a, b), (b, a)] {
            self.input(me, Input::LinkVia(id(other), Via::Direct));
            self.input(me, Input::LinkUp(id(other)));
        }
    }

    /// Cuts their link.
    pub fn unlink(&mut self, a: usize, b: usize) {
        if self.links.remove(&pair(a, b)) {
            self.input(a, Input::LinkDown(id(b)));
            self.input(b, Input::LinkDown(id(a)));
        }
    }

    /// Only devices of one group reach each other; time for an election.
    pub fn split(&mut self, groups: &[&[usize]]) {
        for a in 0..self.devices.len() {
            for b in a + 1..self.devices.len() {
                if groups.iter().any(|group| group.contains(&a) && group.contains(&b)) {
                    self.link(a, b);
                } else {
                    self.unlink(a, b);
                }
            }
        }
        self.pass(5_000);
    }

    /// Everyone reaches everyone; time for an election.
    pub fn join_all(&mut self) {
        let all: Vec<usize> = (0..self.devices.len()).collect();
        self.split(&[&all]);
    }

    /// Time passes.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.now_ms += STEP_MS;
            for n in 0..self.devices.len() {
                self.input(n, Input::Wake);
            }
        }
    }

    /// Names of the others, as this device has them.
    pub fn names(&self, n: usize) -> BTreeMap<usize, String> {
        let number = |peer| (0..100).find(|n| id(*n) == peer).expect("one of ours");
        self.peer(n).view().nodes.iter().map(|node| (number(node.peer), node.node_id.to_string())).collect()
    }

    /// A call as this device has it, open or over.
    pub fn record(&self, n: usize, id: &ReqId) -> Option<CallRecord> {
        let device = &self.devices[n];
        device.peer().open_call(id).cloned().or_else(|| device.machine.disk.applied_row(&rows::call(id)))
    }

    /// Number of endings of calls this device has signed.
    pub fn endings_said(&self, n: usize) -> usize {
        let said = |entry: &SignedEntry| entry.author == id(n) && entry.entry.kind == Kind::OUTCOME;
        self.devices[n].log().iter().filter(|entry| said(entry)).count()
    }

    /// Runs of this call's tool, over all devices and attempts.
    pub fn runs(&self, id: &ReqId) -> usize {
        self.devices.iter().flat_map(|device| &device.ran).filter(|run| run.id == *id).count()
    }
}
