//! Model (a): fence, executor's journal and expiry. Two gateways, one target, one call with up to two attempts, crashes
//! of the target with any prefix of its unsynced batches surviving, and a network that duplicates, delays and reorders
//! without end: every dispatch may be delivered at any time, any number of times. The target is the product's whole
//! core; gateways are what anybody could send in their name (also attempt 2 unasked, also a claim far ahead).

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::audience::Audience;
use mesh_core::config::Config;
use mesh_core::crypto::{Signer, Symbolic};
use mesh_core::entry::{BodyCommitment, Entry, Kind, Salt, SignedEntry, encode};
use mesh_core::epoch::{Claim, Epoch};
use mesh_core::frame::{AnswerKind, Dispatch, EntryItem, Frame};
use mesh_core::ids::{Attempt, Hash, Incarnation, MeshId, ReqId};
use mesh_core::io::{Command, Input, Now, Output, Space, ToolOutcome};
use mesh_core::limits;
use mesh_core::record::{Effect, Ending, Header, Outcome, Payload};
use mesh_core::rows;
use stateright::{Model, Property};

use super::machine::{Machine, at, mesh};
use crate::node;

/// No secret in a model.
const SALT: Salt = Salt([7; 16]);
/// Time left as both gateways tell it.
const LEFT_MS: u64 = 10_000;
/// Journal rows are forgotten after this.
const FORGET_MS: u64 = 60_000;
/// The moments that the target's clock may show: in time, after the call's time, when all of it is forgotten.
const CLOCK_MS: [u64; 3] = [1_000, 12_000, 2 * 3_600_000];
/// Number of the key of the call's origin, which is the second gateway.
const ORIGIN: u64 = 2;
/// A claim that no honest peer makes.
const FAR: u64 = 2 * limits::EPOCH_JUMP_MAX;

/// The bounds of the model.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) crashes: u8,
    /// True if the target may hear that its call's origin was revoked, and that it was itself.
    pub(super) changes: bool,
    /// Moments of [`CLOCK_MS`] that its clock may show.
    pub(super) moments: usize,
    pub(super) config: Config,
}

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    target: Machine,
    mesh: MeshId,
    /// Revocations that it may hear yet.
    undelivered: Vec<Received>,
    effect: Effect2,
    clock: usize,
    crashes: u8,
    /// Tools at work in this incarnation.
    working: BTreeSet<Attempt>,
    /// Epoch of the dispatch for which this incarnation journaled `started`.
    cause: BTreeMap<Attempt, u64>,
    /// When the time of the call is over by what this incarnation was told.
    deadline: u64,
    /// Highest epoch for which a tool was run, ever.
    obeyed: u64,
    /// Runs so far, ever.
    runs: BTreeMap<Attempt, u8>,
    /// Endings that the target ever reported of an attempt.
    told: BTreeMap<Attempt, Ended>,
    broken: Option<&'static str>,
}

/// [`Effect`], as far as it matters here, with an order and a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Effect2 {
    Idempotent,
    Once,
}

/// An entry with a hash that stands for it.
#[derive(Debug, Clone)]
struct Received(SignedEntry);

impl PartialEq for Received {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for Received {}

impl std::hash::Hash for Received {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash.0.hash(state);
    }
}

/// [`Ending`] by its name.
type Ended = &'static str;

/// A possible next event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A dispatch of this gateway arrives, in the name of this epoch.
    Deliver { gateway: usize, counter: u64, attempt: Attempt },
    /// The disk is done.
    Sync,
    /// The tool ends.
    ToolEnds(Attempt),
    /// The target's clock goes on to the next of [`CLOCK_MS`].
    TimePasses,
    /// It hears of a revocation.
    Hear(usize),
    /// Power fails, and this many unsynced batches survive.
    Crash(usize),
}

impl Run {
    fn dispatch(&self, state: &State, gateway: usize, counter: u64, attempt: Attempt) -> Dispatch {
        let _ = self;
        let (origin, leader) = (Symbolic::new(ORIGIN), Symbolic::new(gateway as u64));
        let (origin_id, leader_id) = (origin.public_key().peer_id(), leader.public_key().peer_id());
        let effect = match state.effect {
            Effect2::Idempotent => Effect::Idempotent,
            Effect2::Once => Effect::Once,
        };
        let header = Header {
            id: the_call(),
            target: state.target.id(),
            target_incarnation: None,
            node_id: "peer-3".parse().expect("a valid constant"),
            tool: "put".parse().expect("a valid constant"),
            arguments: Payload::empty(),
            effect,
            ttl_ms: LEFT_MS,
            accepted_ms: at(0).wall_ms,
            timeout_ms: 60_000,
            principal: "person:owner".parse().expect("a name"),
            client_key: None,
            token: None,
            workspace: None,
            rule: String::new(),
            mark: Vec::new(),
        };
        let body = encode(&header);
        let entry = Entry {
            mesh: state.mesh,
            author: origin.public_key(),
            incarnation: Incarnation(7),
            seq: 1,
            hlc: at(0).wall_ms << 16,
            kind: Kind::CALL,
            critical: false,
            previous: Hash::ZERO,
            audience: Audience::Call { origin: origin_id, target: header.target },
            body: BodyCommitment::of(SALT, &body),
        };
        assert!(header.id.is_of(&origin_id));
        let epoch = Epoch { counter, class: 3, peer: leader_id };
        Dispatch {
            claim: Claim::sign(&leader, state.mesh, epoch, 1),
            header: SignedEntry::sign(&origin, entry, SALT, &body),
            attempt,
            left_ms: LEFT_MS,
            consents: Vec::new(),
        }
    }
}

/// The target is linked to both gateways, and they hold nothing of its log that it lacks: what a restored one must see
/// first.
fn meet(target: &mut Machine, now: Now) -> Vec<Output> {
    let gateways = [1, 2].map(|key| Symbolic::new(key).public_key().peer_id());
    let inputs = gateways.into_iter().flat_map(|gateway| {
        [
            Input::LinkUp(gateway),
            Input::Recv(
                gateway,
                Frame::Digest {
                    authors: mesh_core::frame::Authors::ALL,
                    rows: Vec::new(),
                    changes: mesh_core::ids::Hash::ZERO,
                },
            ),
        ]
    });
    inputs.flat_map(|input| target.step(now, input)).collect()
}

fn the_call() -> ReqId {
    ReqId::new(&Symbolic::new(ORIGIN).public_key().peer_id(), Incarnation(7), 1)
}

impl State {
    fn now(&self) -> Now {
        at(CLOCK_MS[self.clock])
    }

    fn breaks(&mut self, promise: &'static str) {
        self.broken.get_or_insert(promise);
    }

    fn outputs(&mut self, out: Vec<Output>) {
        let now = self.now();
        for output in out {
            match output {
                Output::Invoke(invocation) => self.invoked(invocation.attempt, now),
                Output::Send(_, Frame::Entries { entries, .. }) => {
                    let own = entries.iter().map(|item| &item.entry).filter(|entry| entry.author == self.target.id());
                    let told: Vec<Outcome> =
                        own.filter(|entry| entry.entry.kind == Kind::OUTCOME).filter_map(SignedEntry::record).collect();
                    for outcome in told {
                        self.hears(outcome.attempt, outcome.ending);
                    }
                }
                Output::Send(_, Frame::Answer(answer)) => {
                    if let AnswerKind::Ended(entry) = &answer.what
                        && let Some(outcome) = entry.record::<Outcome>()
                    {
                        self.hears(outcome.attempt, outcome.ending);
                    }
                }
                Output::Send(..)
                | Output::Commit(..)
                | Output::ReadLog { .. }
                | Output::ReadClosed { .. }
                | Output::Kill(..)
                | Output::Fetch { .. }
                | Output::Reply(..)
                | Output::Fact(_) => {}
            }
        }
        let fence = node::fence(&self.target.disk).counter;
        if fence > limits::EPOCH_JUMP_MAX {
            self.breaks("hygiene");
        }
        for attempt in 1..=2 {
            let lost = node::started_is_durable(&self.target.disk, &the_call(), attempt)
                && !self.working.contains(&attempt)
                && self.target.disk.pending() == 0;
            if lost {
                self.breaks("accepted-calls-end");
            }
        }
    }

    fn invoked(&mut self, attempt: Attempt, now: Now) {
        let runs = self.runs.entry(attempt).or_default();
        *runs += 1;
        if *runs > 1 {
            self.breaks("at-most-one-run");
        }
        if self.effect == Effect2::Once && self.runs.values().sum::<u8>() > 1 {
            self.breaks("once");
        }
        if !node::started_is_durable(&self.target.disk, &the_call(), attempt) || now.mono_ms >= self.deadline {
            self.breaks("runs-only-when-allowed");
        }
        let cause = self.cause.get(&attempt).copied().unwrap_or(0);
        if cause < self.obeyed || node::durable_fence(&self.target.disk).counter < cause {
            self.breaks("obeyed-epochs-rise");
        }
        self.obeyed = self.obeyed.max(cause);
        let before = node::journaled_ending(&self.target.disk, &the_call(), attempt - 1);
        if attempt > 1 && before != Some(Ending::Interrupted) {
            self.breaks("attempts");
        }
        if self.told.contains_key(&attempt) {
            self.breaks("endings-are-true");
        }
        let view = self.target.view();
        let origin = Symbolic::new(ORIGIN).public_key();
        if view.revoked || !view.nodes.iter().any(|node| node.key == origin) {
            self.breaks("excluded-has-no-effect");
        }
        self.working.insert(attempt);
    }

    fn hears(&mut self, attempt: Attempt, ending: Ending) {
        let before = *self.told.entry(attempt).or_insert(ending.as_str());
        if before != ending.as_str() {
            self.breaks("outcome-never-changes");
        }
        let ran = self.runs.contains_key(&attempt);
        if ran && matches!(ending, Ending::Expired | Ending::Denied) || !ran && ending == Ending::Done {
            self.breaks("endings-are-true");
        }
    }
}

impl Model for Run {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Founder and gateway, another gateway and origin, target.
        let mut peers = mesh(3, &Config { eligible: false, forget_after_ms: FORGET_MS, ..self.config.clone() });
        let mut target = peers.remove(2);
        meet(&mut target, at(0));
        while target.sync(at(0)).is_some() {}
        let undelivered: Vec<Received> = [peers[1].id(), target.id()]
            .into_iter()
            .filter(|_| self.changes)
            .filter_map(|peer| {
                let mut founder = peers[0].clone();
                founder.settle(at(500), Input::Command(1, Command::Revoke { peer, unsaid: false }));
                let rows = founder.disk.scan(Space::Log, vec![], vec![255; 45]);
                let entries = rows.filter_map(|(_, value)| SignedEntry::from_stored(value));
                entries
                    .filter(|entry| entry.entry.kind == Kind::MEMBERSHIP)
                    .max_by_key(|entry| entry.entry.seq)
                    .map(Received)
            })
            .collect();
        [Effect2::Idempotent, Effect2::Once]
            .map(|effect| State {
                mesh: target.view().mesh,
                target: target.clone(),
                undelivered: undelivered.clone(),
                effect,
                clock: 0,
                crashes: 0,
                working: BTreeSet::new(),
                cause: BTreeMap::new(),
                deadline: u64::MAX,
                obeyed: 0,
                runs: BTreeMap::new(),
                told: BTreeMap::new(),
                broken: None,
            })
            .to_vec()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        for (gateway, counter) in [(1, 10), (2, 11), (2, FAR)] {
            for attempt in 1..=2 {
                actions.push(Action::Deliver { gateway, counter, attempt });
            }
        }
        if state.target.disk.pending() > 0 {
            actions.push(Action::Sync);
        }
        actions.extend(state.working.iter().map(|attempt| Action::ToolEnds(*attempt)));
        actions.extend((0..state.undelivered.len()).map(Action::Hear));
        if state.clock + 1 < self.moments {
            actions.push(Action::TimePasses);
        }
        if state.crashes < self.crashes {
            actions.extend((0..=state.target.disk.pending()).map(Action::Crash));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let out = match action {
            Action::Deliver { gateway, counter, attempt } => {
                let dispatch = self.dispatch(&state, gateway, counter, attempt);
                let from = Symbolic::new(gateway as u64).public_key().peer_id();
                let known = state.journaled(attempt);
                let input = Input::Recv(from, Frame::Dispatch(dispatch));
                let out = state.target.step(state.now(), input);
                if !known && state.journaled(attempt) {
                    state.cause.insert(attempt, counter);
                    state.deadline = state.deadline.min(state.now().mono_ms + LEFT_MS);
                }
                out
            }
            Action::Sync => state.target.sync(state.now())?,
            Action::ToolEnds(attempt) => {
                state.working.remove(&attempt);
                let ended = ToolOutcome {
                    ending: Ending::Done,
                    reason: String::new(),
                    output: Payload::empty(),
                    parts: Vec::new(),
                    partial: false,
                    error: String::new(),
                };
                state.target.step(state.now(), Input::ToolEnded(the_call(), attempt, ended))
            }
            Action::TimePasses => {
                state.clock += 1;
                state.target.step(state.now(), Input::Wake)
            }
            Action::Hear(nth) => {
                let entries = vec![EntryItem { entry: state.undelivered.remove(nth).0, left_ms: None }];
                let founder = Symbolic::new(1).public_key().peer_id();
                let input = Input::Recv(founder, Frame::Entries { entries, more: false });
                state.target.step(state.now(), input)
            }
            Action::Crash(survivors) => {
                state.crashes += 1;
                state.working.clear();
                state.cause.clear();
                state.deadline = u64::MAX;
                let now = state.now();
                let mut out = state.target.boot(now, survivors);
                out.extend(meet(&mut state.target, now));
                out
            }
        };
        state.outputs(out);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn kept(promise: &'static str, state: &State) -> bool {
            state.broken != Some(promise)
        }
        let mut properties = vec![
            Property::always("obeyed-epochs-rise: obeyed epochs never decrease", |_, state| {
                kept("obeyed-epochs-rise", state)
            }),
            Property::always("at-most-one-run: one run of an attempt", |_, state| kept("at-most-one-run", state)),
            Property::always("runs-only-when-allowed: started is durable, time is left", |_, state| {
                kept("runs-only-when-allowed", state)
            }),
            Property::always("excluded-has-no-effect: nothing runs for or at the revoked", |_, state| {
                kept("excluded-has-no-effect", state)
            }),
            Property::always("endings-are-true: endings match runs", |_, state| kept("endings-are-true", state)),
            Property::always("outcome-never-changes: a told outcome never changes", |_, state| {
                kept("outcome-never-changes", state)
            }),
            Property::always("attempt 2 only after an interruption", |_, state| kept("attempts", state)),
            Property::always("once is once", |_, state| kept("once", state)),
            Property::always("accepted-calls-end: what was started ends", |_, state| kept("accepted-calls-end", state)),
            Property::always("hygiene: the fence does not jump", |_, state| kept("hygiene", state)),
            Property::sometimes("it is done", |_, state: &State| state.told.values().any(|ending| *ending == "done")),
        ];
        if self.crashes > 0 {
            properties.push(Property::sometimes("the second attempt is done", |_, state: &State| {
                state.told.get(&2) == Some(&"done")
            }));
        }
        if self.moments > 1 {
            properties.push(Property::sometimes("it expires", |_, state: &State| {
                state.told.values().any(|ending| *ending == "expired")
            }));
        }
        properties
    }
}

impl State {
    fn journaled(&self, attempt: Attempt) -> bool {
        self.target.disk.has(&rows::journal(&the_call(), attempt))
    }
}
