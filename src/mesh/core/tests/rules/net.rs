//! Some peers, a network that is cut where a test says so, and disks that sync at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use mesh_core::config::Config;
use mesh_core::crypto::{Signer as _, Symbolic};
use mesh_core::entry::{Directory, Effect, Ending, Entry, Kind, Payload, SignedEntry, Tier, ToolDecl};
use mesh_core::epoch::Epoch;
use mesh_core::frame::{EntryItem, Frame};
use mesh_core::ids::{Hash, Incarnation, PeerId, PublicKey, ReqId};
use mesh_core::io::{
    Batch, CallRecord, CmdId, Command, Fact, Image, Input, Invocation, NewCall, Now, Output, Reply, SessionId, Space,
    ToolOutcome,
};
use mesh_core::peer::{Peer, founded, joined};
use mesh_core::rows;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

pub(crate) type Rows = BTreeMap<(Space, Vec<u8>), Bytes>;

pub(crate) struct Sim {
    pub(crate) peer: Peer,
    pub(crate) config: Config,
    pub(crate) rows: Rows,
    replies: BTreeMap<CmdId, Reply>,
    pub(crate) facts: Vec<Fact>,
    /// Tools that it ran.
    pub(crate) ran: Vec<Invocation>,
    /// Who is registered with it, in which of its epochs, over which stream.
    streams: BTreeMap<usize, (Epoch, SessionId)>,
}

pub(crate) struct Net {
    pub(crate) sims: Vec<Sim>,
    links: BTreeSet<(usize, usize)>,
    todo: VecDeque<(usize, Input)>,
    now: u64,
    rng: ChaCha8Rng,
    numbers: u64,
    /// While false, tools that were started do not end.
    pub(crate) tools_end: bool,
}

pub(crate) fn key(n: usize) -> PublicKey {
    Symbolic::new(n as u64).public_key()
}

pub(crate) fn id(n: usize) -> PeerId {
    key(n).peer_id()
}

pub(crate) fn call(target: usize) -> NewCall {
    NewCall {
        node: id(target).to_string(),
        tool: "echo".parse().unwrap(),
        arguments: Payload::Inline(Bytes::from_static(b"{}")),
        ttl_ms: 60_000,
        timeout_ms: 1_000,
        effect: None,
        principal: "owner".to_owned(),
        client_key: None,
    }
}

fn directory() -> Directory {
    let echo = ToolDecl {
        name: "echo".parse().unwrap(),
        effect: Effect::Idempotent,
        description: String::new(),
        owner_only: false,
    };
    Directory { eligible: true, class: 3, tools: vec![echo], ..Directory::default() }
}

impl Net {
    /// A founder and the owners that it approved, linked, of whom one leads.
    pub(crate) fn of(count: usize) -> Self {
        let mut net = Self {
            sims: Vec::new(),
            links: BTreeSet::new(),
            todo: VecDeque::new(),
            now: 1_000_000,
            rng: ChaCha8Rng::seed_from_u64(count as u64),
            numbers: 0,
            tools_end: true,
        };
        let rows = founded(&Symbolic::new(0), "home", &"peer-0".parse().unwrap(), net.clock(), &mut net.rng);
        net.install(0, rows);
        for n in 1..count {
            net.invite(0, n, &format!("peer-{n}"), Tier::Owner);
        }
        net.join_all();
        net
    }

    pub(crate) fn clock(&self) -> Now {
        Now { mono_ms: self.now, wall_ms: 1_700_000_000_000 + self.now }
    }

    /// The next peer joins by the word of `by`, without any link as yet.
    pub(crate) fn invite(&mut self, by: usize, n: usize, name: &str, tier: Tier) {
        let reply = self.approve(by, n, name, tier);
        let Reply::Approved(welcome) = reply else { panic!("not approved: {reply:?}") };
        let rows = joined(&welcome, &mut self.rng).unwrap();
        self.install(n, rows);
    }

    pub(crate) fn approve(&mut self, by: usize, n: usize, name: &str, tier: Tier) -> Reply {
        self.command(by, Command::Approve { key: key(n), node_id: name.parse().unwrap(), tier })
    }

    fn install(&mut self, n: usize, batch: Batch) {
        assert_eq!(n, self.sims.len(), "peers join in order");
        let rows: Rows =
            batch.writes.into_iter().filter_map(|write| Some(((write.space, write.key), write.value?))).collect();
        self.start(n, rows, Config::default());
        self.command(n, Command::SetDirectory(directory()));
    }

    fn start(&mut self, n: usize, rows: Rows, config: Config) {
        let image = rows.iter().filter(|((space, _), _)| space.in_image());
        let image = Image { rows: image.map(|((s, k), v)| (*s, k.clone(), v.clone())).collect(), rolled_back: false };
        let mut out = Vec::new();
        let signer = Box::new(Symbolic::new(n as u64));
        let peer = Peer::boot(config.clone(), signer, image, self.clock(), &mut self.rng, &mut out).unwrap();
        let sim = Sim {
            peer,
            config,
            rows,
            replies: BTreeMap::new(),
            facts: Vec::new(),
            ran: Vec::new(),
            streams: BTreeMap::new(),
        };
        if n < self.sims.len() {
            self.sims[n] = sim;
        } else {
            self.sims.push(sim);
        }
        self.perform(n, out);
        self.run();
    }

    /// The process ends, and starts again over what it had written. Its links are down.
    pub(crate) fn restart(&mut self, n: usize) {
        let (rows, config) = (self.sims[n].rows.clone(), self.sims[n].config.clone());
        self.restart_as(n, rows, config);
    }

    /// As [`Self::restart`], over these rows and as another version.
    pub(crate) fn restart_as(&mut self, n: usize, rows: Rows, config: Config) {
        for other in 0..self.sims.len() {
            self.unlink(n, other);
        }
        let ran = std::mem::take(&mut self.sims[n].ran);
        self.start(n, rows, config);
        self.sims[n].ran.splice(0..0, ran);
    }

    /// Every tool that runs at `n` ends.
    pub(crate) fn finish_tools(&mut self, n: usize) {
        let running: Vec<_> = self.sims[n].ran.iter().map(|run| (run.id, run.attempt)).collect();
        for (id, attempt) in running {
            self.input(n, Input::ToolEnded(id, attempt, done()));
        }
    }

    pub(crate) fn input(&mut self, n: usize, input: Input) {
        self.todo.push_back((n, input));
        self.run();
    }

    fn run(&mut self) {
        loop {
            while let Some((n, input)) = self.todo.pop_front() {
                let mut out = Vec::new();
                let now = self.clock();
                self.sims[n].peer.step(now, &mut self.rng, input, &mut out);
                self.perform(n, out);
            }
            self.register();
            if self.todo.is_empty() {
                return;
            }
        }
    }

    /// The nodes' streams to the gateway that they follow, as the shells keep them.
    fn register(&mut self) {
        for g in 0..self.sims.len() {
            let leading = self.sims[g].peer.leads().then(|| self.sims[g].peer.view().gateway).flatten();
            for n in (0..self.sims.len()).filter(|n| *n != g) {
                let linked = self.links.contains(&(g.min(n), g.max(n)));
                let up = leading.filter(|_| linked && self.sims[n].peer.view().gateway == leading);
                let known = self.sims[g].streams.get(&n).copied();
                if known.map(|(epoch, _)| epoch) == up {
                    continue;
                }
                self.numbers += 1;
                if let Some(epoch) = up {
                    self.sims[g].streams.insert(n, (epoch, self.numbers));
                    self.todo.push_back((g, Input::NodeUp(id(n), self.numbers)));
                } else if let Some((_, number)) = self.sims[g].streams.remove(&n) {
                    self.todo.push_back((g, Input::NodeDown(id(n), number)));
                }
            }
        }
    }

    fn perform(&mut self, n: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(to, frame) => {
                    let to = (0..self.sims.len()).find(|other| id(*other) == to);
                    if let Some(to) = to.filter(|to| self.links.contains(&(n.min(*to), n.max(*to)))) {
                        self.todo.push_back((to, Input::Recv(id(n), frame)));
                    }
                }
                Output::Commit(txn, batch) => {
                    for write in batch.writes {
                        match write.value {
                            Some(value) => drop(self.sims[n].rows.insert((write.space, write.key), value)),
                            None => drop(self.sims[n].rows.remove(&(write.space, write.key))),
                        }
                    }
                    self.todo.push_back((n, Input::Durable(txn)));
                }
                Output::ReadLog { reader, ranges } => {
                    let mut entries = Vec::new();
                    for (author, incarnation, first, last) in ranges {
                        for seq in first..=last {
                            let row = self.sims[n].rows.get(&(Space::Log, rows::entry(&author, incarnation, seq).key));
                            entries.extend(row.and_then(|stored| SignedEntry::from_stored(stored)));
                        }
                    }
                    self.todo.push_back((n, Input::LogRead { reader, entries, more: false }));
                }
                Output::Reply(command, reply) => drop(self.sims[n].replies.insert(command, reply)),
                Output::Fact(fact) => self.sims[n].facts.push(fact),
                Output::Invoke(invocation) => {
                    let Invocation { id, attempt, .. } = *invocation;
                    self.sims[n].ran.push(*invocation);
                    if self.tools_end {
                        self.todo.push_back((n, Input::ToolEnded(id, attempt, done())));
                    }
                }
                Output::Kill(..) | Output::Fetch { .. } => {}
            }
        }
    }

    /// An entry in the own log of `author`, which is none of the peers here but a member, reaches `to`.
    pub(crate) fn hears(
        &mut self,
        to: usize,
        author: usize,
        seq: u64,
        previous: Hash,
        kind: u16,
        critical: bool,
    ) -> Hash {
        let entry = self.entry(author, Incarnation(1), seq, previous, kind, critical);
        let hash = entry.hash;
        let entries = vec![EntryItem { entry, left_ms: None }];
        self.input(to, Input::Recv(id(author), Frame::Entries { entries, more: false }));
        hash
    }

    fn entry(
        &self,
        author: usize,
        incarnation: Incarnation,
        seq: u64,
        previous: Hash,
        kind: u16,
        critical: bool,
    ) -> SignedEntry {
        let entry = Entry {
            mesh: self.sims[0].peer.view().mesh,
            author: key(author),
            incarnation,
            seq,
            hlc: self.clock().wall_ms << 16,
            kind: Kind(kind),
            critical,
            generation: 0,
            previous,
            body: Bytes::from_static(b"\x01something new"),
        };
        SignedEntry::sign(&Symbolic::new(author as u64), entry)
    }

    /// What `n` hears by way of 0: the first word of an incarnation of its own that is not `known`.
    pub(crate) fn as_another_incarnation(&self, n: usize, known: Incarnation) -> Input {
        let entry = self.entry(n, Incarnation(!known.0), 1, Hash::ZERO, 98, false);
        Input::Recv(id(0), Frame::Entries { entries: vec![EntryItem { entry, left_ms: None }], more: false })
    }

    pub(crate) fn command(&mut self, n: usize, command: Command) -> Reply {
        self.numbers += 1;
        let number = self.numbers;
        self.input(n, Input::Command(number, command));
        self.sims[n].replies.remove(&number).expect("every command has its reply")
    }

    /// A call that is accepted.
    pub(crate) fn ask(&mut self, origin: usize, new: NewCall) -> ReqId {
        let reply = self.command(origin, Command::Call(new));
        let Reply::Call { id, .. } = reply else { panic!("not accepted: {reply:?}") };
        id
    }

    pub(crate) fn revoke(&mut self, by: usize, n: usize) {
        assert_eq!(self.command(by, Command::Revoke { peer: id(n) }), Reply::Revoked);
    }

    pub(crate) fn link(&mut self, a: usize, b: usize) {
        if a != b && self.links.insert((a.min(b), a.max(b))) {
            self.input(a, Input::LinkUp(id(b)));
            self.input(b, Input::LinkUp(id(a)));
        }
    }

    pub(crate) fn unlink(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))) {
            self.input(a, Input::LinkDown(id(b)));
            self.input(b, Input::LinkDown(id(a)));
        }
    }

    /// Only peers of one group reach each other.
    pub(crate) fn split(&mut self, groups: &[&[usize]]) {
        for a in 0..self.sims.len() {
            for b in a + 1..self.sims.len() {
                if groups.iter().any(|group| group.contains(&a) && group.contains(&b)) {
                    self.link(a, b);
                } else {
                    self.unlink(a, b);
                }
            }
        }
        self.pass(5_000);
    }

    pub(crate) fn join_all(&mut self) {
        let all: Vec<usize> = (0..self.sims.len()).collect();
        self.split(&[&all]);
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now += 50;
            for n in 0..self.sims.len() {
                self.input(n, Input::Wake);
            }
        }
    }

    /// Handles of the others, as this peer has them.
    pub(crate) fn names(&self, n: usize) -> BTreeMap<usize, String> {
        let view = self.sims[n].peer.view();
        let number = |peer| (0..100).find(|n| id(*n) == peer).expect("one of ours");
        view.nodes.iter().map(|node| (number(node.peer), node.node_id.to_string())).collect()
    }

    /// A call as this peer has it, open or over.
    pub(crate) fn record(&self, n: usize, id: &ReqId) -> Option<CallRecord> {
        let open = self.sims[n].peer.open_call(id).cloned();
        let over =
            || self.sims[n].rows.get(&(Space::Calls, rows::call(id).key)).and_then(|row| rows::call(id).read(row));
        open.or_else(over)
    }

    /// How many endings of calls this peer has signed.
    pub(crate) fn endings_said(&self, n: usize) -> usize {
        let log = self.sims[n].rows.iter().filter(|((space, _), _)| *space == Space::Log);
        let entries = log.filter_map(|(_, row)| SignedEntry::from_stored(row));
        entries.filter(|entry| entry.author == id(n) && entry.entry.kind == Kind::OUTCOME).count()
    }

    /// How often this call's tool ran, over all peers and attempts.
    pub(crate) fn runs(&self, id: &ReqId) -> usize {
        self.sims.iter().flat_map(|sim| &sim.ran).filter(|run| run.id == *id).count()
    }
}

pub(crate) fn done() -> ToolOutcome {
    let output = Payload::Inline(Bytes::from_static(b"1"));
    ToolOutcome { ending: Ending::Done, reason: String::new(), output, error: String::new() }
}
