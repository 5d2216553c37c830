//! The simulated peers: core, disk, clocks, and what is wrong with them.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use mesh_core::config::Config;
use mesh_core::crypto::Signer;
use mesh_core::epoch::Epoch;
use mesh_core::ids::{Attempt, Hash, NodeId, PeerId, ReqId};
use mesh_core::io::{Input, Now};
use mesh_core::record::Tier;
use mesh_core::rows;
use mesh_core::test_kit::{MemDisk, Snapshot};

use crate::dice::Dice;
use crate::env::Env;
use crate::event::Event;
use crate::keys::Key;
use crate::node::{self, Node};
use crate::plan::{Case, MS, Near, PeerPlan};
use crate::predicates::{Checks, Told};

/// Wall time at which every run begins: a day in 2025.
const WALL_MS: i64 = 1_750_000_000_000;

/// State of a peer's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not of the mesh yet.
    Absent,
    /// Its process is not there.
    Down,
    /// It is.
    Running,
    /// It was removed and will not come back.
    Gone,
}

/// A peer as the simulator keeps it.
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a peer")]
pub(super) struct Sim {
    /// Its number.
    pub(super) index: usize,
    pub(super) key: Key,
    pub(super) id: PeerId,
    pub(super) plan: PeerPlan,
    pub(super) config: Config,
    pub(super) disk: MemDisk,
    pub(super) state: State,
    pub(super) node: Option<Node>,
    /// Starts so far; events of an earlier incarnation are void.
    pub(super) boot: u64,
    /// Frozen until then, if later than now.
    pub(super) frozen_until: u64,
    pub(super) held: Vec<Input>,
    pub(super) mono_ms: u64,
    pub(super) wall_off_ms: i64,
    pub(super) wake_at: Option<u64>,
    pub(super) spins: u32,
    /// It was asked to stop, and has not started again since.
    pub(super) stopping: bool,
    pub(super) gateway: Option<Epoch>,
    pub(super) trusted: BTreeSet<PeerId>,
    /// In a plan in which somebody says who may do what: what held before its last step.
    pub(super) rights_before: Option<Arc<mesh_core::policy::View>>,
    /// And all that was said of it.
    pub(super) said_before: mesh_core::policy::InForce,
    /// Members before they changed in the step at hand.
    pub(super) trusted_before: BTreeSet<PeerId>,
    /// Whom it holds for owners, and whom it did so within the present step.
    pub(super) owners: BTreeSet<PeerId>,
    pub(super) owners_before: BTreeSet<PeerId>,
    pub(super) blobs: BTreeSet<Hash>,
    pub(super) tools: BTreeSet<(ReqId, Attempt)>,
    pub(super) armed: Option<(Near, u64, u64)>,
    pub(super) stall_us: u64,
    /// Until when the present fsync takes longer than usual.
    pub(super) stalled_until: u64,
    pub(super) revoked: bool,
    pub(super) thawing: bool,
    /// True if it holds itself for an owner.
    pub(super) owner: bool,
    /// When it was made, and the disk at that time.
    pub(super) backup: Option<(u64, Snapshot)>,
    /// A backup was played back; every start notices until the core has written again.
    pub(super) rolled_back: bool,
    /// Until then the disk takes nothing.
    pub(super) full_until: u64,
    /// It is gone, and somebody else has its key.
    pub(super) stolen: bool,
    /// Somebody else spoke with its key: once it holds that, it halts.
    pub(super) forged: bool,
    /// Tools that it forbids itself.
    pub(super) forbids: BTreeSet<String>,
    /// When it started last.
    pub(super) booted_at: u64,
    /// How often it went on after it was frozen.
    pub(super) thaws: u64,
}

impl Sim {
    /// Running and not frozen.
    pub(super) fn awake(&self) -> bool {
        self.state == State::Running && !self.frozen()
    }

    /// A duration of the world by this peer's clocks.
    fn own_us(&self, world_us: u64) -> u64 {
        let off = world_us.cast_signed() * self.plan.drift_ppm / 1_000_000;
        world_us.saturating_add_signed(off)
    }

    /// The least duration of the world that is at least `own_us` by this peer's clocks.
    fn world_us(&self, own_us: u64) -> u64 {
        if self.plan.drift_ppm == 0 {
            return own_us;
        }
        let rate = 1_000_000_u64.saturating_add_signed(self.plan.drift_ppm).max(1);
        let world_us = u128::from(own_us) * 1_000_000 / u128::from(rate);
        u64::try_from(world_us).unwrap_or(u64::MAX - 1) + 1
    }

    /// True if it holds a peer for an owner; `None` if that changed in the present step.
    pub(super) fn holds_for_owner(&self, id: &PeerId) -> Option<bool> {
        let now = self.node.as_ref().and_then(|node| node.tier(id)) == Some(Tier::Owner);
        let changed = !self.trusted_before.is_empty();
        let same = self.owners.contains(id) == now && (!changed || self.owners_before.contains(id) == now);
        same.then_some(now)
    }

    /// Frozen just now.
    pub(super) fn frozen(&self) -> bool {
        self.state == State::Running && (self.frozen_until > 0)
    }

    /// The time by its clocks.
    pub(super) fn clocks(&self, now: u64) -> Now {
        let ms = self.own_us(now) / MS;
        let wall = WALL_MS + ms.cast_signed() + self.wall_off_ms;
        Now { mono_ms: self.mono_ms + ms, wall_ms: wall.max(0).cast_unsigned() }
    }

    /// The time by its own clock of durations, in microseconds.
    pub(super) fn own_now(&self, now: u64) -> u64 {
        self.mono_ms * MS + self.own_us(now)
    }

    /// Time by its own clock of durations at which its core wants to be woken, in milliseconds.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.node.as_ref().and_then(Node::poll_timeout)
    }

    /// True if its core wants to be woken by now.
    pub(super) fn is_due(&self, now: u64) -> bool {
        let now_ms = self.mono_ms + self.own_us(now) / MS;
        self.poll_timeout().is_some_and(|timeout| timeout <= now_ms)
    }

    /// Sees to it that its core is woken when it wants to be.
    pub(super) fn set_timer(&mut self, env: &mut Env) {
        let Some(timeout) = self.poll_timeout() else { return };
        let own = timeout.saturating_sub(self.mono_ms).saturating_mul(MS);
        let due = self.world_us(own).max(env.now);
        if self.wake_at.is_some_and(|at| at <= due && at >= env.now) {
            return;
        }
        self.wake_at = Some(due);
        env.at(due - env.now, Event::Wake { peer: self.index, boot: self.boot, at: due });
    }

    /// Begins a sync of its disk if one is due.
    pub(super) fn begin_sync(&mut self, env: &mut Env) {
        if let Some(txn) = self.disk.begin_sync() {
            let (low, high) = self.plan.fsync_us;
            let stall = std::mem::take(&mut self.stall_us);
            self.stalled_until = env.now + stall;
            let odd = if env.dice.chance(3) { env.dice.range(20 * MS..=300 * MS) } else { 0 };
            let delay = env.dice.range(low..=high) + stall + odd;
            env.at(delay, Event::Synced { peer: self.index, boot: self.boot, txn });
        }
    }

    /// Gives its core an input later, if it still runs by then.
    pub(super) fn input_later(&self, env: &mut Env, delay: u64, input: Input) {
        env.at(delay, Event::Input { peer: self.index, boot: self.boot, input: Box::new(input) });
    }

    /// True if it leads, as it believes.
    pub(super) fn leads(&self) -> bool {
        self.gateway.is_some_and(|epoch| epoch.peer == self.id)
    }

    /// True if it counts for the election: running, and not removed.
    pub(super) fn is_member(&self) -> bool {
        self.awake() && !self.revoked
    }

    /// A call as its door would show it.
    pub(super) fn told(&self, id: &ReqId, checks: &Checks) -> Option<Told> {
        let open = self.node.as_ref().and_then(|node| node.open_call(id));
        let over = || checks.told[self.index].get(id).copied();
        let unsynced = || self.disk.applied_row(&rows::call(id));
        open.map(Told::of).or_else(over).or_else(|| unsynced().as_ref().map(Told::of))
    }

    /// True if its core has closed its books on this call.
    pub(super) fn has_closed(&self, id: &ReqId) -> bool {
        self.node.as_ref().is_some_and(|node| node.open_call(id).is_none())
    }
}

/// All peers, by their numbers.
pub(super) struct Peers(Vec<Sim>);

impl Deref for Peers {
    type Target = [Sim];

    fn deref(&self) -> &[Sim] {
        &self.0
    }
}

impl DerefMut for Peers {
    fn deref_mut(&mut self) -> &mut [Sim] {
        &mut self.0
    }
}

impl Peers {
    pub(super) fn new(case: &Case, dice: &mut Dice) -> Self {
        let plan = &case.plan;
        let peers = plan.peers.iter().enumerate().map(|(index, peer)| {
            let key = Key::new(case.seed.wrapping_mul(1_000) + index as u64, case.real_keys);
            Sim {
                index,
                id: key.public_key().peer_id(),
                key,
                plan: peer.clone(),
                config: node::config(&case.config, plan, peer),
                disk: MemDisk::default(),
                state: State::Absent,
                node: None,
                boot: 0,
                frozen_until: 0,
                held: Vec::new(),
                mono_ms: dice.range(0..=10_000_000),
                wall_off_ms: peer.skew_ms,
                wake_at: None,
                spins: 0,
                stopping: false,
                gateway: None,
                trusted: BTreeSet::new(),
                rights_before: None,
                said_before: mesh_core::policy::InForce::default(),
                trusted_before: BTreeSet::new(),
                owners: BTreeSet::new(),
                owners_before: BTreeSet::new(),
                blobs: BTreeSet::new(),
                tools: BTreeSet::new(),
                armed: None,
                stall_us: 0,
                stalled_until: 0,
                revoked: false,
                thawing: false,
                owner: false,
                backup: None,
                rolled_back: false,
                full_until: 0,
                stolen: false,
                forged: false,
                forbids: BTreeSet::new(),
                booted_at: 0,
                thaws: 0,
            }
        });
        Self(peers.collect())
    }

    /// The peer's index, if it is one of ours.
    pub(super) fn index_of(&self, id: &PeerId) -> Option<usize> {
        self.iter().position(|peer| peer.id == *id)
    }

    /// True if `peer` holds `other` approved.
    pub(super) fn trusts(&self, peer: usize, other: usize) -> bool {
        self[peer].trusted.contains(&self[other].id)
    }

    /// True if the log of this call's origin, or of its target, may be stopped at others.
    pub(super) fn is_of_flood(&self, origin: usize, target: &PeerId) -> bool {
        self[origin].plan.floods || self.index_of(target).is_some_and(|target| self[target].plan.floods)
    }

    /// The name that a peer asks for.
    pub(super) fn wanted_name(&self, peer: usize) -> NodeId {
        NodeId::slug(&format!("device {}", self[peer].plan.named_like.unwrap_or(peer)))
    }
}
