//! One run: virtual time, a heap of events, and the peers as their shells would drive them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use mesh_core::config::Config;
use mesh_core::crypto::Signer;
use mesh_core::entry::Ending;
use mesh_core::epoch::Epoch;
use mesh_core::frame::Frame;
use mesh_core::ids::{Attempt, Hash, NodeId, PeerId, ReqId};
use mesh_core::io::{CmdId, Command, Input, Output, SessionId, TxnId};

mod faults;
mod lifecycle;
mod phases;
mod shell;

use crate::dice::Dice;
use crate::disk::{MemDisk, Snapshot};
use crate::keys::Key;
use crate::net::{Pairs, Session};
use crate::node::{self, Node};
use crate::plan::{Case, MS, Near, PeerPlan, Plan, SECOND};
use crate::predicates::{Checks, Violation};
use crate::trace::{Level, Trace};

/// Wall time at which every run begins: a day in 2025.
const WALL_MS: i64 = 1_750_000_000_000;
/// The setup may take this long.
const SETUP_US: u64 = 15 * SECOND;
/// one-gateway-for-all: within this time of the last fault.
const SETTLE_US: u64 = 6 * SECOND;
/// one-gateway-for-all: afterwards no unsettled stretch longer than this.
const UNSETTLED_US: u64 = SECOND;
/// The first quiescence: topology kept.
const QUIET_US: u64 = 8 * SECOND;
/// The second quiescence lasts at least this long; the first, with its topology, is looked at for longer.
const HEALED_US: u64 = 3 * SECOND;
/// accepted-calls-end: within this time of the full healing, or of the call's own time.
const TERMINAL_US: u64 = 30 * SECOND;
/// Time that the single link stays cut.
const L2_CUT_US: u64 = 4 * SECOND;

/// State of a peer's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
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
pub(crate) struct Sim {
    pub(crate) key: Key,
    pub(crate) id: PeerId,
    pub(crate) plan: PeerPlan,
    config: Config,
    disk: MemDisk,
    pub(crate) state: State,
    node: Option<Node>,
    /// Starts so far; events of an earlier incarnation are void.
    pub(crate) boot: u64,
    /// Frozen until then, if later than now.
    pub(crate) frozen_until: u64,
    held: Vec<Input>,
    mono_ms: u64,
    wall_off_ms: i64,
    wake_at: Option<u64>,
    spins: u32,
    pub(crate) gateway: Option<Epoch>,
    trusted: BTreeSet<PeerId>,
    /// The same before it changed in the step at hand.
    trusted_before: BTreeSet<PeerId>,
    blobs: BTreeSet<Hash>,
    tools: BTreeSet<(ReqId, Attempt)>,
    armed: Option<(Near, u64, u64)>,
    stall_us: u64,
    /// Until when the present fsync takes longer than usual.
    stalled_until: u64,
    revoked: bool,
    thawing: bool,
    /// True if it holds itself for an owner.
    owner: bool,
    /// When it was made, and the disk at that time.
    backup: Option<(u64, Snapshot)>,
    /// A backup was played back; every start notices until the core has written again.
    rolled_back: bool,
    /// Until then the disk takes nothing.
    full_until: u64,
}

impl Sim {
    /// Running and not frozen.
    pub(crate) fn awake(&self) -> bool {
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

    /// Frozen just now.
    pub(crate) fn frozen(&self) -> bool {
        self.state == State::Running && (self.frozen_until > 0)
    }
}

/// An event.
pub(crate) enum Event {
    Wake {
        peer: usize,
        boot: u64,
        at: u64,
    },
    Synced {
        peer: usize,
        boot: u64,
        txn: TxnId,
    },
    Input {
        peer: usize,
        boot: u64,
        input: Box<Input>,
    },
    ToolDone {
        peer: usize,
        boot: u64,
        id: ReqId,
        attempt: Attempt,
        ending: Ending,
    },
    Deliver {
        key: (usize, usize),
        end: usize,
        conn: u64,
        frame: Box<Frame>,
    },
    Detect {
        key: (usize, usize),
        conn: u64,
        end: usize,
    },
    LinkUp {
        key: (usize, usize),
        conn: u64,
        end: usize,
    },
    Dial((usize, usize)),
    Register(usize),
    Goodbye {
        gateway: usize,
        node: usize,
        id: SessionId,
    },
    Moved {
        node: usize,
        id: SessionId,
    },
    CloseUntrusted {
        peer: usize,
        boot: u64,
    },
    Crash {
        peer: usize,
        boot: u64,
        down_us: u64,
    },
    Exit {
        peer: usize,
        boot: u64,
        down_us: u64,
    },
    Boot(usize),
    /// The network tells a machine what time it is.
    ClockFound {
        peer: usize,
        by_ms: i64,
    },
    Thaw {
        peer: usize,
        boot: u64,
    },
    Join(usize),
    Fault(usize),
    Ask(usize),
    Cancel {
        peer: usize,
        id: ReqId,
    },
    Phase(Phase),
    Look,
}

/// Where the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everyone who is there from the start joins.
    Setup,
    /// Things go wrong.
    Faults,
    /// Nothing more goes wrong, the topology stays.
    Quiet,
    /// Everything is whole again.
    Healed,
    /// One link is cut.
    LinkCut,
    /// Over.
    End,
}

/// Purpose of a command.
enum Purpose {
    Ask(usize),
    Cancel,
    Approve(usize),
    Invite(usize),
    Redeem(usize),
    Stop(u64),
    Leave,
    Other,
}

struct Timed {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// A call that someone got a receipt for.
#[derive(Debug, Clone)]
struct Accepted {
    origin: usize,
    at: u64,
    ttl_ms: u64,
    /// Extra time that its origin may wait for its ending when the target is not there any more.
    timeout_ms: u64,
}

/// Statistics of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stats {
    pub(crate) virtual_us: u64,
    pub(crate) events: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) runs: u64,
    /// Endings at the origins, by word; a star marks those that the target has not confirmed.
    pub(crate) endings: BTreeMap<String, u64>,
    /// Times to settle after the faults and after the healing.
    pub(crate) settle_us: Vec<u64>,
    pub(crate) epochs_led: u64,
    /// Undisturbed changes of leader: whether the old one was asked to stop, class of the new one, how long nobody led.
    pub(crate) takeovers: Vec<(bool, u8, u64)>,
}

/// Outcome of a run.
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
}

/// The whole of it.
pub(crate) struct World {
    pub(crate) now: u64,
    heap: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    pub(crate) dice: Dice,
    pub(crate) plan: Plan,
    pub(crate) peers: Vec<Sim>,
    pub(crate) pairs: Pairs,
    pub(crate) conns: u64,
    pub(crate) split: Vec<u8>,
    pub(crate) sparse_holds: bool,
    pub(crate) loss: u64,
    pub(crate) sessions: Vec<Option<Session>>,
    pub(crate) registering: Vec<bool>,
    pub(crate) registered: BTreeMap<(usize, usize), SessionId>,
    pub(crate) session_ids: SessionId,
    commands: BTreeMap<CmdId, (Purpose, u64)>,
    command_ids: CmdId,
    accepted: BTreeMap<ReqId, Accepted>,
    /// Calls whose confirmed ending their origin has told since the healing: nothing crashes any more, and
    /// outcome-never-changes keeps them.
    over: BTreeSet<ReqId>,
    invited: BTreeMap<usize, Hash>,
    phase: Phase,
    phase_at: u64,
    faults_at: u64,
    /// When the groups of a split last came apart.
    split_at: u64,
    dirty: bool,
    settled_at: Option<u64>,
    unsettled_at: u64,
    settle_noted: bool,
    kept: Option<Epoch>,
    /// When the leader went, undisturbed by anything else, and whether it was asked to.
    takeover: Option<(u64, bool)>,
    /// When a call was last seen open at its origin, after the healing.
    open_at: u64,
    /// Calls that were seen to have an ending at their origin.
    seen_ended: BTreeSet<ReqId>,
    /// Longest time that a frame or a frozen peer was on its way, for runs-only-when-allowed's time.
    slack_us: u64,
    stats: Stats,
    /// Spare room for the outputs of a step.
    out: Vec<Output>,
    pub(crate) checks: Checks,
    pub(crate) trace: Trace,
}

/// Runs one case. A panic of a core breaks a promise like any other.
pub(crate) fn run(case: &Case, level: Level) -> Outcome {
    std::panic::catch_unwind(|| run_to_the_end(case, level)).unwrap_or_else(|_| Outcome {
        violation: Some(Violation { predicate: "panic", at: 0, what: "see standard error".into() }),
        stats: Stats::default(),
        trace: Trace::new(Level::Off),
    })
}

fn run_to_the_end(case: &Case, level: Level) -> Outcome {
    let mut world = World::new(case, level);
    world.drive();
    world.stats.virtual_us = world.now;
    world.stats.runs = world.checks.runs.len() as u64;
    Outcome { violation: world.checks.violation, stats: world.stats, trace: world.trace }
}

impl World {
    fn new(case: &Case, level: Level) -> Self {
        let plan = &case.plan;
        let mut dice = Dice::new(case.seed, 2);
        let count = plan.peers.len();
        let peers = plan.peers.iter().enumerate().map(|(index, peer)| {
            let key = Key::new(case.seed.wrapping_mul(1_000) + index as u64, case.real_keys);
            Sim {
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
                gateway: None,
                trusted: BTreeSet::new(),
                trusted_before: BTreeSet::new(),
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
            }
        });
        let peers: Vec<Sim> = peers.collect();
        let ids = peers.iter().map(|sim| sim.id).collect();
        let pairs = Pairs::new(count, &plan.latency_us);
        Self {
            now: 0,
            heap: BinaryHeap::new(),
            sequence: 0,
            dice,
            peers,
            pairs,
            conns: 0,
            split: Vec::new(),
            sparse_holds: false,
            loss: 0,
            sessions: vec![None; count],
            registering: vec![false; count],
            registered: BTreeMap::new(),
            session_ids: 0,
            commands: BTreeMap::new(),
            command_ids: 0,
            accepted: BTreeMap::new(),
            over: BTreeSet::new(),
            invited: BTreeMap::new(),
            phase: Phase::Setup,
            phase_at: 0,
            faults_at: 0,
            split_at: 0,
            dirty: true,
            settled_at: None,
            unsettled_at: 0,
            settle_noted: true,
            kept: None,
            takeover: None,
            open_at: 0,
            seen_ended: BTreeSet::new(),
            slack_us: 0,
            stats: Stats::default(),
            out: Vec::new(),
            checks: Checks::new(ids, plan.keep_entries_ms.map(|ms| ms * MS)),
            trace: Trace::new(level),
            plan: plan.clone(),
        }
    }

    /// The name that a peer asks for.
    fn wanted_name(&self, peer: usize) -> NodeId {
        NodeId::slug(&format!("device {}", self.peers[peer].plan.named_like.unwrap_or(peer)))
    }

    // --- The loop -------------------------------------------------------------------------------------------------

    /// Something happens `delay` microseconds from now.
    pub(crate) fn at(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse(Timed { at: self.now + delay, sequence: self.sequence, event }));
    }

    fn drive(&mut self) {
        self.found();
        while let Some(Reverse(Timed { at, event, .. })) = self.heap.pop() {
            self.now = at;
            self.stats.events += 1;
            self.handle(event);
            if self.dirty {
                self.dirty = false;
                self.note_settled();
            }
            if self.checks.violation.is_some() || self.phase == Phase::End {
                return;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake { peer, boot, at } => self.wake(peer, boot, at),
            Event::Synced { peer, boot, txn } => self.synced(peer, boot, txn),
            Event::Input { peer, boot, input } => {
                if self.peers[peer].boot == boot {
                    self.input(peer, *input);
                }
            }
            Event::ToolDone { peer, boot, id, attempt, ending } => self.tool_done(peer, boot, id, attempt, ending),
            Event::Deliver { key, end, conn, frame } => self.deliver(key, end, conn, *frame),
            Event::Detect { key, conn, end } => self.detect(key, conn, end),
            Event::LinkUp { key, conn, end } => self.link_up(key, conn, end),
            Event::Dial(key) => self.dialled(key),
            Event::Register(node) => self.try_register(node),
            Event::Goodbye { gateway, node, id } => self.goodbye(gateway, node, id),
            Event::Moved { node, id } => self.moved(node, id),
            Event::CloseUntrusted { peer, boot } => {
                if self.peers[peer].boot == boot {
                    self.close_untrusted(peer);
                }
            }
            Event::Crash { peer, boot, down_us } => {
                if self.peers[peer].boot == boot {
                    self.crash(peer, down_us);
                }
            }
            Event::Exit { peer, boot, down_us } => {
                if self.peers[peer].boot == boot {
                    self.exit(peer, down_us);
                }
            }
            Event::Boot(peer) => self.boot(peer),
            Event::ClockFound { peer, by_ms } => self.peers[peer].wall_off_ms += by_ms,
            Event::Thaw { peer, boot } => {
                if self.peers[peer].boot == boot {
                    self.thaw(peer);
                }
            }
            Event::Join(peer) => self.join(peer),
            Event::Fault(index) => self.fault(index),
            Event::Ask(index) => self.ask(index),
            Event::Cancel { peer, id } => {
                if self.peers[peer].state == State::Running {
                    self.command(
                        peer,
                        Purpose::Cancel,
                        Command::Cancel { id, reason: "the person changed their mind".into() },
                    );
                }
            }
            Event::Phase(phase) => self.enter(phase),
            Event::Look => self.look(),
        }
    }
}
