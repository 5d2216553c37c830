//! Model (b): the election of two claimants, both the product's whole core. Each has a clock of its own that goes from
//! one of its deadlines to the next at any time, so no timing is assumed at all; frames arrive in any order, and one of
//! them twice; power may fail, with any prefix of the unsynced batches surviving. Only the frames of the election
//! travel.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use mesh_core::config::Config;
use mesh_core::epoch::Epoch;
use mesh_core::frame::Frame;
use mesh_core::io::{Fact, Input, Output};
use stateright::{Model, Property};

use super::machine::{Machine, at, mesh};
use crate::node;

/// The bounds of the model.
#[derive(Debug)]
pub(super) struct Elect {
    /// Deadlines that each clock reaches.
    pub(super) ticks: u8,
    /// Crashes of either.
    pub(super) crashes: u8,
    /// Frames that arrive twice.
    pub(super) duplicates: u8,
    pub(super) config: Config,
}

/// A frame under way; two are the same when they read alike.
#[derive(Debug, Clone)]
struct Flying {
    text: String,
    frame: Frame,
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Flying {}

impl Hash for Flying {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    peers: [Machine; 2],
    /// Clocks.
    now: [u64; 2],
    ticks: [u8; 2],
    crashes: u8,
    duplicates: u8,
    boots: [u8; 2],
    gateways: [Option<Epoch>; 2],
    /// By receiver.
    under_way: [BTreeSet<Flying>; 2],
    /// Epochs ever led, with the incarnation.
    epochs_led: BTreeSet<(Epoch, u8)>,
    /// Durable fences as they were last.
    fences: [Epoch; 2],
    broken: Option<&'static str>,
}

/// A possible next event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// This frame arrives at this peer, and may arrive once more.
    Deliver { to: usize, nth: usize, again: bool },
    /// This peer's disk is done.
    Sync(usize),
    /// This peer's clock reaches its next deadline.
    Tick(usize),
    /// This peer's power fails.
    Crash { peer: usize, survivors: usize },
}

impl State {
    fn breaks(&mut self, promise: &'static str) {
        self.broken.get_or_insert(promise);
    }

    fn outputs(&mut self, peer: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(_, frame) if is_of_election(&frame) => {
                    self.under_way[1 - peer].insert(Flying { text: format!("{frame:?}"), frame });
                }
                Output::Fact(Fact::Gateway(epoch)) => {
                    self.gateways[peer] = epoch;
                    if let Some(epoch) = epoch.filter(|epoch| epoch.peer == self.peers[peer].id()) {
                        self.leads(peer, epoch);
                    }
                }
                Output::Send(..)
                | Output::Commit(..)
                | Output::ReadLog { .. }
                | Output::ReadClosed { .. }
                | Output::Invoke(_)
                | Output::Kill(..)
                | Output::Fetch { .. }
                | Output::Reply(..)
                | Output::Fact(_) => {}
            }
        }
        let fence = node::durable_fence(&self.peers[peer].disk);
        let before = std::mem::replace(&mut self.fences[peer], fence);
        if fence < before {
            self.breaks("obeyed-epochs-rise");
        }
    }

    fn leads(&mut self, peer: usize, epoch: Epoch) {
        let other_incarnation =
            self.epochs_led.iter().any(|(leading, boot)| *leading == epoch && *boot != self.boots[peer]);
        if other_incarnation || node::durable_fence(&self.peers[peer].disk) < epoch {
            self.breaks("one-leader-per-epoch");
        }
        self.epochs_led.insert((epoch, self.boots[peer]));
    }

    /// Nothing is under way, and no disk is busy.
    fn at_rest(&self) -> bool {
        self.under_way.iter().all(BTreeSet::is_empty) && self.peers.iter().all(|peer| peer.disk.pending() == 0)
    }

    fn leaders(&self) -> usize {
        let leads = |peer: &usize| self.gateways[*peer].is_some_and(|epoch| epoch.peer == self.peers[*peer].id());
        [0, 1].iter().filter(|peer| leads(peer)).count()
    }
}

/// True for the frames that travel. A neighbour that is asked (`Query`) answers with a beacon that could as well have
/// come later, so that adds states and no news; the rest is not of the election.
fn is_of_election(frame: &Frame) -> bool {
    matches!(frame, Frame::Beacon(_) | Frame::Notice(_) | Frame::Resign { .. } | Frame::Handover { .. })
}

impl Model for Elect {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Few deadlines, far apart and the same for both: what a deadline means must not matter for safety.
        let config = Config {
            lease_ms: 2_000,
            beacon_ms: 1_500,
            query_after_ms: 1_500,
            query_every_ms: 5_000,
            claim_step_ms: 0,
            claim_jitter_ms: 0,
            resign_grace_ms: 0,
            sync_every_ms: 3_600_000,
            late_wake_ms: 3_600_000,
            ..self.config.clone()
        };
        let peers = mesh(2, &config);
        let mut state = State {
            fences: [node::durable_fence(&peers[0].disk), node::durable_fence(&peers[1].disk)],
            peers: peers.try_into().unwrap_or_else(|_| unreachable!("a mesh of two has two")),
            now: [0; 2],
            ticks: [0; 2],
            crashes: 0,
            duplicates: 0,
            boots: [0; 2],
            gateways: [None; 2],
            under_way: [BTreeSet::new(), BTreeSet::new()],
            epochs_led: BTreeSet::new(),
            broken: None,
        };
        for peer in 0..2 {
            let other = state.peers[1 - peer].id();
            // Who had the mesh to itself leads already; what it did then is no part of the model.
            state.peers[peer].boot(at(0), 0);
            state.peers[peer].settle(at(0), Input::LinkUp(other));
            state.fences[peer] = node::durable_fence(&state.peers[peer].disk);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        for peer in 0..2 {
            for nth in 0..state.under_way[peer].len() {
                actions.push(Action::Deliver { to: peer, nth, again: false });
                if state.duplicates < self.duplicates {
                    actions.push(Action::Deliver { to: peer, nth, again: true });
                }
            }
            let pending = state.peers[peer].disk.pending();
            if pending > 0 {
                actions.push(Action::Sync(peer));
            }
            if state.ticks[peer] < self.ticks {
                actions.push(Action::Tick(peer));
            }
            if state.crashes < self.crashes {
                actions.extend((0..=pending).map(|survivors| Action::Crash { peer, survivors }));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver { to, nth, again } => {
                let flying = state.under_way[to].iter().nth(nth)?.clone();
                if again {
                    state.duplicates += 1;
                } else {
                    state.under_way[to].remove(&flying);
                }
                let from = state.peers[1 - to].id();
                let out = state.peers[to].step(at(state.now[to]), Input::Recv(from, flying.frame));
                state.outputs(to, out);
            }
            Action::Sync(peer) => {
                let out = state.peers[peer].sync(at(state.now[peer]))?;
                state.outputs(peer, out);
            }
            Action::Tick(peer) => {
                let due = state.peers[peer].poll_timeout()?;
                state.ticks[peer] += 1;
                state.now[peer] = due.max(state.now[peer]);
                let out = state.peers[peer].step(at(state.now[peer]), Input::Wake);
                state.outputs(peer, out);
            }
            Action::Crash { peer, survivors } => {
                state.crashes += 1;
                state.boots[peer] += 1;
                state.gateways[peer] = None;
                // The connection is gone with the process; what it had sent may still arrive.
                state.under_way[peer].clear();
                let out = state.peers[peer].boot(at(state.now[peer]), survivors);
                state.outputs(peer, out);
                for (me, other) in [(1 - peer, peer), (peer, 1 - peer)] {
                    let id = state.peers[other].id();
                    if me != peer {
                        let out = state.peers[me].step(at(state.now[me]), Input::LinkDown(id));
                        state.outputs(me, out);
                    }
                    let out = state.peers[me].step(at(state.now[me]), Input::LinkUp(id));
                    state.outputs(me, out);
                }
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one-leader-per-epoch: one leader per epoch, durable before", |_, state: &State| {
                state.broken != Some("one-leader-per-epoch")
            }),
            Property::always("obeyed-epochs-rise: the fence never falls", |_, state: &State| {
                state.broken != Some("obeyed-epochs-rise")
            }),
            Property::always("at rest at most one leads", |_, state: &State| !state.at_rest() || state.leaders() <= 1),
            Property::sometimes("both lead for a moment", |_, state: &State| state.leaders() == 2),
            Property::sometimes("one leads and the other follows it", |_, state: &State| {
                state.at_rest() && state.leaders() == 1 && state.gateways[0] == state.gateways[1]
            }),
            Property::sometimes("a second incarnation leads anew", |_, state: &State| {
                state.epochs_led.iter().any(|(_, boot)| *boot > 0)
            }),
        ]
    }
}
