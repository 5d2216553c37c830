//! Model (c): approvals and revocations that cross. A founder and two owners, each the product's whole core, out of
//! touch with each other: each may approve a fourth device, revoke it, and revoke another owner; what they wrote
//! reaches the others entry by entry, in any order.

use std::collections::BTreeSet;

use mesh_core::config::Config;
use mesh_core::crypto::{Signer, Symbolic};
use mesh_core::entry::{Kind, SignedEntry};
use mesh_core::frame::{EntryItem, Frame};
use mesh_core::ids::PeerId;
use mesh_core::io::{Command, Input, Space, View};
use mesh_core::record::Tier;
use mesh_core::rows;
use stateright::{Model, Property};

use super::machine::{Machine, at, mesh};
use crate::predicates::Checks;

const OWNERS: usize = 3;

/// The bounds of the model.
#[derive(Debug)]
pub(super) struct Merge {
    /// Membership changes that are spoken, by whomever.
    pub(super) changes: usize,
    /// And by one of them.
    pub(super) each: usize,
    /// True if the device may belong from the start, and be removed.
    pub(super) device: bool,
    pub(super) config: Config,
}

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    owners: Vec<Machine>,
    /// All changes in the order of signing: signer and entry.
    said: Vec<(usize, Said)>,
    /// By owner: which of it was shown to it.
    shown: Vec<BTreeSet<usize>>,
    broken: Option<&'static str>,
}

/// An entry with a hash that stands for it.
#[derive(Debug, Clone)]
struct Said(SignedEntry);

impl PartialEq for Said {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for Said {}

impl std::hash::Hash for Said {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash.0.hash(state);
    }
}

/// A possible next event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// This owner approves the device.
    Approve(usize),
    /// This owner revokes somebody.
    Revoke { by: usize, whom: usize },
    /// This owner hears what was said as number `nth`.
    Hear { owner: usize, nth: usize },
}

/// The device that none of the three is.
fn device() -> Symbolic {
    Symbolic::new(OWNERS as u64 + 1)
}

fn id(n: usize) -> PeerId {
    Symbolic::new(n as u64 + 1).public_key().peer_id()
}

fn members(view: &View) -> BTreeSet<PeerId> {
    view.nodes.iter().map(|node| node.peer).collect()
}

impl State {
    fn command(&mut self, owner: usize, command: Command) {
        // Clocks differ by what was said so far: ties are broken by more than them.
        let now = at(1_000 + self.said.len() as u64);
        let before = self.changes_of(owner).len();
        self.owners[owner].settle(now, Input::Command(0, command));
        for entry in self.changes_of(owner).split_off(before) {
            let nth = self.said.len();
            self.said.push((owner, Said(entry)));
            self.shown[owner].insert(nth);
        }
    }

    /// An owner's own membership changes in its log, in order.
    fn changes_of(&self, owner: usize) -> Vec<SignedEntry> {
        let rows = self.owners[owner].disk.scan(Space::Log, vec![], vec![255; 45]);
        let entries = rows.filter_map(|(_, value)| SignedEntry::from_stored(value));
        entries.filter(|entry| entry.author == id(owner) && entry.entry.kind == Kind::MEMBERSHIP).collect()
    }

    /// Sends a change to all by its signer: an excluded one's changes about others are taken too.
    fn tell(&mut self, owner: usize, nth: usize) {
        let (by, said) = self.said[nth].clone();
        let received = self.owners[owner].disk.has(&rows::trust(&said.0.hash));
        if received {
            return;
        }
        let entries = vec![EntryItem { entry: said.0, left_ms: None }];
        let now = at(2_000 + self.said.len() as u64);
        self.owners[owner].settle(now, Input::Recv(id(by), Frame::Entries { entries, more: false }));
    }

    fn check(&mut self, owner: usize) {
        let machine = &self.owners[owner];
        let mut checks = Checks::new((0..OWNERS).map(id).collect(), None);
        let tiers = machine.view().nodes.iter().map(|node| (node.peer, node.tier)).collect();
        checks.revocation_not_undone(0, owner, &tiers, &machine.disk);
        if let Some(violation) = checks.violation {
            self.broken.get_or_insert(violation.predicate);
        }
    }

    fn all_received(&self) -> bool {
        self.shown.iter().all(|shown| shown.len() == self.said.len())
    }

    /// True if all members, by their own view, that hold everything agree on the members.
    fn agree(&self) -> bool {
        let views: Vec<(usize, View)> = self.owners.iter().map(Machine::view).enumerate().collect();
        let inside: Vec<BTreeSet<(PeerId, String, bool)>> = views
            .iter()
            .filter(|(owner, view)| members(view).contains(&id(*owner)))
            .map(|(_, view)| {
                let nodes = view.nodes.iter();
                nodes.map(|node| (node.peer, node.node_id.to_string(), node.tier == Tier::Owner)).collect()
            })
            .collect();
        inside.windows(2).all(|pair| pair[0] == pair[1])
    }
}

impl Model for Merge {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let config = Config { eligible: false, ..self.config.clone() };
        // The device is new, or belongs already.
        let counts = if self.device { OWNERS..=OWNERS + 1 } else { OWNERS..=OWNERS };
        counts
            .map(|count| {
                let mut owners = mesh(count as u64, &config);
                owners.truncate(OWNERS);
                State { owners, said: Vec::new(), shown: vec![BTreeSet::new(); OWNERS], broken: None }
            })
            .collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        for owner in 0..OWNERS {
            let spoken = state.said.iter().filter(|(by, _)| *by == owner).count();
            if state.said.len() < self.changes && spoken < self.each {
                actions.push(Action::Approve(owner));
                let whom = if self.device { 0..=OWNERS } else { 0..=OWNERS - 1 };
                let others = whom.filter(|whom| *whom != owner);
                actions.extend(others.map(|whom| Action::Revoke { by: owner, whom }));
            }
            let undelivered = (0..state.said.len()).filter(|nth| !state.shown[owner].contains(nth));
            actions.extend(undelivered.map(|nth| Action::Hear { owner, nth }));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Approve(owner) => {
                let node_id = "device".parse().expect("a valid constant");
                // To another tier when it belongs, or there would be nothing to say.
                let inside = members(&state.owners[owner].view()).contains(&id(OWNERS));
                let tier = if inside { Tier::Shared } else { Tier::Owner };
                let command = Command::Approve { key: device().public_key(), node_id, tier, stay: None };
                state.command(owner, command);
                state.check(owner);
            }
            Action::Revoke { by, whom } => {
                state.command(by, Command::Revoke { peer: id(whom), unsaid: false });
                state.check(by);
            }
            Action::Hear { owner, nth } => {
                state.shown[owner].insert(nth);
                state.tell(owner, nth);
                state.check(owner);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("excluded-has-no-effect: nothing void is in force", |_, state: &State| {
                state.broken != Some("excluded-has-no-effect")
            }),
            Property::always("revocation-wins: no revocation is undone unasked", |_, state: &State| {
                state.broken != Some("revocation-wins")
            }),
            Property::always("revocation-wins: who holds all agrees with all", |_, state: &State| {
                !state.all_received() || state.agree()
            }),
            Property::sometimes("the device belongs", |_, state: &State| {
                state.owners.iter().any(|owner| members(&owner.view()).contains(&id(OWNERS)))
            }),
            Property::sometimes("two have revoked each other", |_, state: &State| {
                let out = |a: usize, b: usize| !members(&state.owners[a].view()).contains(&id(b));
                out(1, 2) && out(2, 1)
            }),
        ]
    }
}
