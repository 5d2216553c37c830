//! Founding, joining, starting, stopping, crashing, freezing.

use mesh_core::crypto::Signer;
use mesh_core::entry::Tier;
use mesh_core::ids::Hash;
use mesh_core::io::{Batch, Command, Input, Welcome};

use super::{Event, Phase, Purpose, State, World};
use crate::net::pair_of;
use crate::node;
use crate::plan::{Fault, MS, Near};
use crate::trace::{Being, Mark};

impl World {
    pub(super) fn found(&mut self) {
        let batch = node::founded(&self.peers[0].key, &self.wanted_name(0), self.now_of(0), &mut self.dice);
        self.install(0, &batch);
        for peer in 1..self.peers.len() {
            if self.peers[peer].plan.join_at == 0 {
                self.at(peer as u64 * 150 * MS, Event::Join(peer));
            }
        }
        self.at(0, Event::Look);
    }

    pub(super) fn install(&mut self, peer: usize, batch: &Batch) {
        self.peers[peer].disk.reset(batch);
        self.note_durable(peer, std::slice::from_ref(batch));
        self.peers[peer].state = State::Down;
        self.boot(peer);
    }

    /// A newcomer asks an owner that is there; the first that is up.
    pub(super) fn join(&mut self, peer: usize) {
        if self.peers[peer].state != State::Absent {
            return;
        }
        let owners: Vec<usize> = (0..self.peers.len())
            .filter(|owner| {
                // Whom a revoked owner approved is another story, told with crossing revocations.
                let doomed = |fault: &Fault| matches!(fault, Fault::Revoke { peer, .. } if peer == owner);
                let sim = &self.peers[*owner];
                sim.awake()
                    && sim.plan.tier == Tier::Owner
                    && (self.plan.crossing || !self.plan.faults.iter().any(|(_, fault)| doomed(fault)))
            })
            .collect();
        self.at(1_500 * MS, Event::Join(peer));
        if owners.is_empty() {
            return;
        }
        let owner = if self.phase == Phase::Setup { owners[0] } else { self.dice.pick(&owners) };
        let (key, tier) = (self.peers[peer].key.public_key(), self.peers[peer].plan.tier);
        if self.peers[peer].plan.invited {
            let secret = Hash::of(&[peer as u8, self.command_ids as u8, 7]);
            self.invited.insert(peer, secret);
            self.command(owner, Purpose::Invite(peer), Command::Invite { secret, tier, ttl_ms: 600_000 });
        } else {
            let node_id = self.wanted_name(peer);
            self.command(owner, Purpose::Approve(peer), Command::Approve { key, node_id, tier });
        }
    }

    pub(super) fn welcome(&mut self, peer: usize, welcome: &Welcome) {
        if self.peers[peer].state != State::Absent {
            return;
        }
        match node::joined(welcome, &mut self.dice) {
            Ok(batch) => self.install(peer, &batch),
            Err(error) => self.checks.fail("join", self.now, || format!("p{peer} cannot join: {error}")),
        }
    }

    pub(super) fn boot(&mut self, peer: usize) {
        if self.peers[peer].state != State::Down {
            return;
        }
        if self.peers[peer].full_until > self.now {
            // It cannot write that it starts, so it does not.
            self.at(500 * MS, Event::Boot(peer));
            return;
        }
        self.trace.story(self.now, || format!("p{peer} starts"));
        self.trace.mark(self.now, || Mark::Is(peer, Being::Awake));
        let now = self.now_of(peer);
        let mut out = Vec::new();
        let sim = &mut self.peers[peer];
        sim.boot += 1;
        sim.wake_at = None;
        sim.gateway = None;
        sim.spins = 0;
        let mut image = sim.disk.image();
        image.rolled_back = sim.rolled_back;
        match node::boot(&sim.key, sim.config.clone(), image, now, &mut self.dice, &mut out) {
            Ok(node) => sim.node = Some(node),
            Err(error) => {
                self.checks.fail("boot", self.now, || format!("p{peer} does not start: {error}"));
                return;
            }
        }
        sim.state = State::Running;
        self.refresh_trust(peer);
        self.outputs(peer, &mut out);
        self.set_timer(peer);
        let directory = node::directory(peer, &self.peers[peer].plan);
        self.command(peer, Purpose::Other, Command::SetDirectory(directory));
        self.dial_all(peer);
        self.dirty = true;
    }

    /// The power fails.
    pub(super) fn crash(&mut self, peer: usize, down_us: u64) {
        if self.peers[peer].state != State::Running {
            return;
        }
        let pending = self.peers[peer].disk.pending();
        let survivors = self.dice.index(pending + 1);
        self.trace.story(self.now, || format!("p{peer} CRASHES, {survivors} of {pending} unsynced batches survive"));
        let batches = self.peers[peer].disk.crash(survivors);
        self.note_takeover(peer, false);
        self.note_durable(peer, &batches);
        self.gone(peer, false, down_us);
        if self.dice.chance(500) {
            // The machine itself went down: its clock of durations starts anew.
            self.peers[peer].mono_ms = self.dice.range(0..=100_000);
        }
    }

    /// The process ended as asked; what it committed is flushed.
    pub(super) fn exit(&mut self, peer: usize, down_us: u64) {
        if self.peers[peer].state != State::Running {
            return;
        }
        self.trace.story(self.now, || format!("p{peer} has stopped"));
        let pending = self.peers[peer].disk.pending();
        let batches = self.peers[peer].disk.crash(pending);
        self.note_durable(peer, &batches);
        self.gone(peer, true, down_us);
    }

    pub(super) fn gone(&mut self, peer: usize, clean: bool, down_us: u64) {
        let sim = &mut self.peers[peer];
        sim.node = None;
        sim.state = if sim.revoked { State::Gone } else { State::Down };
        sim.boot += 1;
        sim.frozen_until = 0;
        sim.held.clear();
        sim.tools.clear();
        sim.gateway = None;
        sim.armed = None;
        let gone = sim.state == State::Gone;
        self.trace.mark(self.now, || Mark::Is(peer, if gone { Being::Gone } else { Being::Down }));
        self.trace.mark(self.now, || Mark::Follows(peer, None));
        self.checks.process_gone(peer);
        self.drop_ends(peer, clean);
        self.dirty = true;
        if !gone {
            let delay = if self.phase == Phase::Faults { down_us } else { self.dice.range(0..=100 * MS) };
            self.at(delay, Event::Boot(peer));
        }
    }

    pub(super) fn freeze(&mut self, peer: usize, for_us: u64) {
        if !self.peers[peer].awake() {
            return;
        }
        self.trace.story(self.now, || format!("p{peer} freezes for {} ms", for_us / MS));
        self.trace.mark(self.now, || Mark::Is(peer, Being::Frozen));
        self.slack_us += for_us;
        self.peers[peer].frozen_until = self.now + for_us;
        let boot = self.peers[peer].boot;
        self.at(for_us, Event::Thaw { peer, boot });
        for other in (0..self.peers.len()).filter(|other| *other != peer) {
            let (key, end) = pair_of(peer, other);
            let pair = &self.pairs[&key];
            if pair.alive {
                let conn = pair.conn;
                let delay = self.dice.range(1_800 * MS..=2_400 * MS);
                self.at(delay, Event::Detect { key, conn, end: 1 - end });
            }
        }
        self.dirty = true;
    }

    pub(super) fn thaw(&mut self, peer: usize) {
        if !self.peers[peer].frozen() {
            return;
        }
        self.trace.story(self.now, || format!("p{peer} thaws"));
        self.trace.mark(self.now, || Mark::Is(peer, Being::Awake));
        // The late timer and what waited in the sockets come in either order; only once it is all handed over is the
        // peer awake, so that nothing of now overtakes what came before.
        let wake_first = self.dice.chance(500);
        self.peers[peer].thawing = true;
        if wake_first {
            self.input(peer, Input::Wake);
        }
        for input in std::mem::take(&mut self.peers[peer].held) {
            self.input(peer, input);
        }
        self.input(peer, Input::Wake);
        self.peers[peer].thawing = false;
        self.peers[peer].frozen_until = 0;
        self.peers[peer].wake_at = None;
        self.set_timer(peer);
        self.begin_sync(peer);
        for other in (0..self.peers.len()).filter(|other| *other != peer) {
            let (key, end) = pair_of(peer, other);
            let pair = &self.pairs[&key];
            let conn = pair.conn;
            if pair.view[end] == conn && !pair.alive && conn != 0 {
                let delay = self.dice.range(0..=2_400 * MS);
                self.at(delay, Event::Detect { key, conn, end });
            }
        }
        self.dial_all(peer);
        self.register(peer);
        self.dirty = true;
    }

    pub(super) fn armed(&mut self, peer: usize, near: Near) {
        if let Some((what, after_us, down_us)) = self.peers[peer].armed
            && what == near
            && self.phase == Phase::Faults
        {
            self.peers[peer].armed = None;
            let boot = self.peers[peer].boot;
            self.at(after_us, Event::Crash { peer, boot, down_us });
        }
    }
}
