//! The thin layer between the simulator and the core: where the core's face is called, and its rows are read.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::budget::{Amount, Budget, Budgets};
use mesh_core::config::{Class, Config};
use mesh_core::epoch::Epoch;
use mesh_core::ids::{Attempt, Hash, NodeId, PeerId, ReqId};
use mesh_core::io::{
    Approval, Batch, CallRecord, CallState, Image, Input, Now, Output, Space, Usage, View, Welcome, Write,
};
use mesh_core::peer::{self, BadWelcome, Peer};
use mesh_core::policy::{self, InForce};
use mesh_core::record::{Directory, Effect, Ending, Fitness, Tier, ToolDecl};
use mesh_core::relay::{RELAYED_SERVICE, RELAYING_SERVICE};
use mesh_core::rows::{self, CallOutline, JournalRow, Journaled, Row as _};
use mesh_core::standing::HeldAnswer;
use mesh_core::test_kit::{MemDisk, Snapshot};

use crate::dice::Dice;
use crate::keys::Key;
use crate::plan::{PeerPlan, Plan};

/// The tool that only owners may call.
pub(crate) const OWNERS_TOOL: &str = "private";

/// An hour, in the world of the simulator.
const HOUR_MS: u64 = 5_000;

/// So many entries must be dead before they are dropped, in plans that see it.
pub(crate) const COMPACT_MIN: usize = 3;

/// The core of one running peer.
/// Boxed, since it is taken out and put back at every step.
pub(crate) struct Node(Box<Peer>);

/// Boots a core from what its disk holds.
pub(crate) fn boot(
    key: &Key,
    config: Config,
    image: Image,
    now: Now,
    dice: &mut Dice,
    out: &mut Vec<Output>,
) -> Result<Node, String> {
    Peer::boot(config, Box::new(key.clone()), image, now, &mut dice.0, out)
        .map(|peer| Node(Box::new(peer)))
        .map_err(|error| error.to_string())
}

/// Configuration of a peer.
pub(crate) fn config(base: &Config, plan: &Plan, peer: &PeerPlan) -> Config {
    let ages = plan.keep_entries_ms;
    let (running_max, prefetch_max) = peer.credits.unwrap_or((base.running_max, base.prefetch_max));
    Config {
        class: Class(peer.class),
        eligible: peer.eligible,
        forget_after_ms: peer.forget_after_ms,
        handover_after_ms: peer.handover_after_ms,
        handover_settle_ms: peer.handover_settle_ms,
        running_max,
        prefetch_max,
        open_per_target_max: plan.open_per_target_max.unwrap_or(base.open_per_target_max),
        keep_entries_ms: ages.unwrap_or(base.keep_entries_ms),
        keep_calls_ms: ages.map_or(base.keep_calls_ms, |age| age / 2),
        compact_every_ms: ages.map_or(base.compact_every_ms, |_| 1_000),
        compact_min: ages.map_or(base.compact_min, |_| COMPACT_MIN),
        consent_hour_ms: HOUR_MS,
        queue_max: plan.queue_max.unwrap_or(base.queue_max),
        budgets: if plan.small_budgets && !peer.floods { small_budgets(base) } else { base.budgets },
        ..base.clone()
    }
}

/// Budgets that a burst reaches.
fn small_budgets(base: &Config) -> Budgets {
    let few = |entries| Amount { entries, bytes: 1 << 20 };
    let guest = Budget { per_hour: few(60), log: few(60), open: few(8), blobs: 4, ..base.budgets.guest };
    Budgets { guest, ..base.budgets }
}

impl Node {
    /// See [`Peer::usage`].
    pub(crate) fn usage(&self) -> Usage {
        self.0.usage()
    }

    pub(crate) fn step(&mut self, now: Now, dice: &mut Dice, input: Input, out: &mut Vec<Output>) {
        self.0.step(now, &mut dice.0, input, out);
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        self.0.poll_timeout()
    }

    pub(crate) fn view(&self) -> View {
        self.0.view()
    }

    /// See [`Peer::rights`].
    pub(crate) fn rights(&self) -> (Arc<policy::View>, InForce) {
        self.0.rights()
    }

    /// See [`Peer::approvals`].
    pub(crate) fn approvals(&self) -> Vec<Approval> {
        self.0.approvals()
    }

    /// See [`Peer::hours`].
    pub(crate) fn hours(&self) -> Vec<HeldAnswer> {
        self.0.hours()
    }

    /// See [`Peer::members`].
    pub(crate) fn members(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.0.members()
    }

    /// See [`Peer::grant_of`].
    pub(crate) fn grant_of(&self, of: &PeerId) -> Option<Hash> {
        self.0.grant_of(of)
    }

    /// See [`Peer::tier`].
    pub(crate) fn tier(&self, of: &PeerId) -> Option<Tier> {
        self.0.tier(of)
    }

    /// See [`Peer::is_revoked`].
    pub(crate) fn is_revoked(&self) -> bool {
        self.0.is_revoked()
    }

    pub(crate) fn open_calls(&self) -> impl Iterator<Item = &CallRecord> + Clone {
        self.0.open_calls()
    }

    pub(crate) fn open_call(&self, id: &ReqId) -> Option<&CallRecord> {
        self.0.open_call(id)
    }
}

/// Rows of a mesh of one.
pub(crate) fn founded(key: &Key, node_id: &NodeId, now: Now, dice: &mut Dice) -> Batch {
    peer::founded(key, "simulated", node_id, now, &mut dice.0)
}

/// Rows of a newcomer that judges its welcome.
pub(crate) fn joined(
    key: &Key,
    config: &Config,
    welcome: &Welcome,
    now: Now,
    dice: &mut Dice,
) -> Result<Batch, BadWelcome> {
    let judged = peer::joined(welcome, Some(welcome.mesh), config, Box::new(key.clone()), now, &mut dice.0);
    judged.map(|joined| joined.rows)
}

/// The tools that every device offers.
pub(crate) fn tools() -> Vec<ToolDecl> {
    let tool = |name: &str, effect, owner_only| ToolDecl {
        name: name.parse().expect("a valid constant"),
        effect,
        description: String::new(),
        owner_only,
        at_once: None,
        card: None,
        state: Fitness::READY,
    };
    vec![
        tool("look", Effect::None, false),
        tool("put", Effect::Idempotent, false),
        tool("print", Effect::Once, false),
        tool(OWNERS_TOOL, Effect::Once, true),
    ]
}

/// The peer's directory record, with all that it forbids itself.
pub(crate) fn directory(index: usize, plan: &PeerPlan, forbids: &BTreeSet<String>) -> Directory {
    Directory {
        addresses: vec![format!("10.0.0.{index}:7100")],
        platform: "linux".into(),
        version: "0".into(),
        class: plan.class,
        eligible: plan.eligible,
        name: None,
        tools: tools(),
        services: match plan.relays {
            None => Vec::new(),
            Some(false) => vec![RELAYED_SERVICE],
            Some(true) => vec![RELAYED_SERVICE, RELAYING_SERVICE],
        },
        deny: forbids.iter().map(|tool| tool.parse().expect("a valid constant")).collect(),
    }
}

/// The fence that the peer would have after a crash now.
pub(crate) fn durable_fence(disk: &MemDisk) -> Epoch {
    disk.durable_row(&rows::fence()).map_or(Epoch::ZERO, |fence| fence.epoch)
}

/// The fence that the process goes by.
pub(crate) fn fence(disk: &MemDisk) -> Epoch {
    disk.applied_row(&rows::fence()).map_or(Epoch::ZERO, |fence| fence.epoch)
}

/// Ending of this attempt that a crash now would leave.
pub(crate) fn journaled_ending(disk: &MemDisk, id: &ReqId, attempt: Attempt) -> Option<Ending> {
    match disk.durable_row(&rows::journal(id, attempt))?.state {
        Journaled::Ended(ending) => Some(ending),
        Journaled::Started => None,
    }
}

/// True if a crash now would leave this call in the book of open ones, with an ending that may still change.
pub(crate) fn open_call_has_ended(disk: &MemDisk, id: &ReqId) -> bool {
    let at = rows::open_call(id);
    let row = disk.durable(at.space, &at.key).and_then(|value| CallOutline::of_open(value));
    row.is_some_and(|row| matches!(row.state, CallState::Ended(_)))
}

/// True if this state of a disk has a call for its peer that is not over.
pub(crate) fn is_in_hand(state: &Snapshot, me: PeerId) -> bool {
    let started = |value| JournalRow::from_bytes(value).is_some_and(|row| row.state == Journaled::Started);
    let mine = |value| CallOutline::of_open(value).is_some_and(|row| row.header.target == me);
    state.rows(Space::Journal).any(|value| started(value)) || state.rows(Space::Open).any(|value| mine(value))
}

/// The attempt that a write says is started, if it does.
pub(crate) fn started(write: &Write) -> Option<(ReqId, Attempt)> {
    let row = write.value.as_ref().filter(|_| write.space == Space::Journal)?;
    let row = JournalRow::from_bytes(row)?;
    (row.state == Journaled::Started).then(|| rows::journal_of(&write.key)).flatten()
}

/// True if a crash now would leave this attempt journaled as started.
pub(crate) fn started_is_durable(disk: &MemDisk, id: &ReqId, attempt: Attempt) -> bool {
    disk.durable_row(&rows::journal(id, attempt)).is_some_and(|row| row.state == Journaled::Started)
}
