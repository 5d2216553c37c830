//! Model (d): one rule, two writers, and their meeting. Three owners out of touch with each other, each the product's whole core:
//! two of them say what a rule says, one after the other or without knowledge of each other, and each hears the words of the
//! others in any order in which logs can bring them. What each decides must follow from what it has heard, and from what
//! was known to whoever said it; both are the model's own record.

use std::collections::BTreeSet;

use mesh_core::config::Config;
use mesh_core::crypto::{Signer, Symbolic};
use mesh_core::entry::SignedEntry;
use mesh_core::frame::{EntryItem, Frame};
use mesh_core::ids::PeerId;
use mesh_core::io::{Command, Edit, Input, Now, Space};
use mesh_core::policy::{Binding, Key, Person, Request, Role, Rule, RuleVerdict, Seat, Value, Verdict, Workspace};
use stateright::{Model, Property};

use super::machine::{Machine, at, mesh};

const OWNERS: usize = 3;
/// All moments of the model are this one: no audit is due, which would come between two words in a log.
const NOW: Now = at(1_000);
/// Those of them who say something.
const WRITERS: usize = 2;
/// All that a rule can say; `None`: it is gone.
const WORDS: [Option<RuleVerdict>; 4] =
    [Some(RuleVerdict::Allow), Some(RuleVerdict::Ask), Some(RuleVerdict::Deny), None];

/// The bounds of the model.
#[derive(Debug)]
pub(super) struct Edits {
    /// Words that are said, by whomever.
    pub(super) words: usize,
    pub(super) config: Config,
}

/// A word as it was said.
#[derive(Debug, Clone)]
struct Word {
    by: usize,
    entry: SignedEntry,
    says: Option<RuleVerdict>,
    /// Words that its author had heard.
    knew: BTreeSet<usize>,
}

impl PartialEq for Word {
    fn eq(&self, other: &Self) -> bool {
        self.entry.hash == other.entry.hash
    }
}

impl Eq for Word {}

impl std::hash::Hash for Word {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.entry.hash.0.hash(state);
    }
}

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    owners: Vec<Machine>,
    said: Vec<Word>,
    /// By owner: which of it that one has heard.
    heard: Vec<BTreeSet<usize>>,
    broken: bool,
}

/// A possible next event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// This owner says this of the rule.
    Say { by: usize, says: Option<RuleVerdict> },
    /// This owner hears what was said as number `nth`.
    Hear { owner: usize, nth: usize },
}

fn constant<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid constant")
}

fn id(n: usize) -> PeerId {
    Symbolic::new(n as u64 + 1).public_key().peer_id()
}

fn rule(says: Option<RuleVerdict>) -> (Key, Option<Value>) {
    let rule = |verdict| Rule { who: Some(vec![constant("mia")]), ..Rule::of(verdict) };
    (Key::Rule(constant("home/mias")), says.map(|verdict| Value::Rule(rule(verdict))))
}

/// Mia belongs to a workspace that holds everything and gives nothing.
fn home() -> Vec<(Key, Option<Value>)> {
    vec![
        (Key::Person(constant("mia")), Some(Value::Person(Person::default()))),
        (Key::Workspace(constant("home")), Some(Value::Workspace(Workspace::default()))),
        (Key::Member(constant("home"), Seat::Person(constant("mia"))), Some(Value::Member(Role::Member))),
        (Key::Binding(constant("home"), constant("main")), Some(Value::Binding(Binding::default()))),
    ]
}

impl State {
    /// An owner says something; the entries by which it does.
    fn says(&mut self, owner: usize, changes: Vec<(Key, Option<Value>)>) -> Vec<SignedEntry> {
        let before = self.words_of(owner).len();
        let edit = Edit { by: constant("person:owner"), changes, declared: false, force: true, seen: Vec::new() };
        self.owners[owner].settle(NOW, Input::Command(0, Command::Edit(edit)));
        self.words_of(owner).split_off(before)
    }

    /// An owner's own words about rights in its log, in order.
    fn words_of(&self, owner: usize) -> Vec<SignedEntry> {
        let rows = self.owners[owner].disk.scan(Space::Log, vec![], vec![255; 45]);
        let entries = rows.filter_map(|(_, value)| SignedEntry::from_stored(value));
        entries.filter(|entry| entry.author == id(owner) && entry.entry.kind.is_about_rights()).collect()
    }

    fn tell(&mut self, owner: usize, by: usize, entry: SignedEntry) {
        let entries = vec![EntryItem { entry, left_ms: None }];
        self.owners[owner].settle(NOW, Input::Recv(id(by), Frame::Entries { entries, more: false }));
    }

    /// The words that count for whoever has heard these: those that no other of them knew.
    fn heads(&self, heard: &BTreeSet<usize>) -> Vec<Option<RuleVerdict>> {
        let is_known = |nth: &usize| heard.iter().any(|other| self.said[*other].knew.contains(nth));
        heard.iter().filter(|nth| !is_known(nth)).map(|nth| self.said[*nth].says).collect()
    }

    /// The verdict on Mia's wish that follows from these: what takes counts if one says it, what gives if all do.
    fn verdict(heads: &[Option<RuleVerdict>]) -> Verdict {
        let one = |verdict| heads.contains(&Some(verdict));
        let gives = !heads.is_empty() && !heads.contains(&None);
        match (one(RuleVerdict::Deny) || !gives, one(RuleVerdict::Ask)) {
            (true, _) => Verdict::Deny,
            (false, true) => Verdict::Ask,
            (false, false) => Verdict::Allow,
        }
    }

    fn decides(&self, owner: usize) -> Verdict {
        let request = Request {
            principal: constant("person:mia"),
            origin: id(owner),
            credential: None,
            workspace: None,
            target: id(owner),
            tool: constant("put"),
            call: None,
        };
        self.owners[owner].view().rights.decide(&request).verdict
    }

    fn check(&mut self, owner: usize) {
        self.broken |= self.decides(owner) != Self::verdict(&self.heads(&self.heard[owner]));
    }
}

impl Model for Edits {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let config = Config { eligible: false, ..self.config.clone() };
        let owners = mesh(OWNERS as u64, &config);
        let heard = vec![BTreeSet::new(); OWNERS];
        let mut state = State { owners, said: Vec::new(), heard, broken: false };
        let _ = state.says(0, home());
        // All hold all logs: what is said from now on comes next in them.
        for by in 0..OWNERS {
            let rows = state.owners[by].disk.scan(Space::Log, vec![], vec![255; 45]);
            let entries = rows.filter_map(|(_, value)| SignedEntry::from_stored(value));
            for entry in entries.filter(|entry| entry.author == id(by)).collect::<Vec<_>>() {
                for owner in (0..OWNERS).filter(|owner| *owner != by) {
                    state.tell(owner, by, entry.clone());
                }
            }
        }
        for owner in 0..OWNERS {
            state.check(owner);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken {
            return;
        }
        for owner in 0..OWNERS {
            if owner < WRITERS && state.said.len() < self.words {
                actions.extend(WORDS.map(|says| Action::Say { by: owner, says }));
            }
            // A log brings its author's words in their order.
            for by in (0..WRITERS).filter(|by| *by != owner) {
                let of_author = (0..state.said.len()).filter(|nth| state.said[*nth].by == by);
                let next = of_author.into_iter().find(|nth| !state.heard[owner].contains(nth));
                actions.extend(next.map(|nth| Action::Hear { owner, nth }));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Say { by, says } => {
                // Who says what holds already says nothing.
                let entry = state.says(by, vec![rule(says)]).pop()?;
                let nth = state.said.len();
                let knew = state.heard[by].clone();
                state.said.push(Word { by, entry, says, knew });
                state.heard[by].insert(nth);
                state.check(by);
            }
            Action::Hear { owner, nth } => {
                let Word { by, entry, .. } = state.said[nth].clone();
                state.tell(owner, by, entry);
                state.heard[owner].insert(nth);
                state.check(owner);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("taking-stands: what holds follows from what was heard and known", |_, state: &State| {
                !state.broken
            }),
            Property::sometimes("two words count, and one of them takes", |_, state: &State| {
                let heads = state.heads(&state.heard[2]);
                heads.len() > 1 && heads.contains(&Some(RuleVerdict::Deny)) && heads.contains(&Some(RuleVerdict::Allow))
            }),
            Property::sometimes("a ban is lifted by one who knew it", |_, state: &State| {
                state.said.iter().any(|word| word.says == Some(RuleVerdict::Deny)) && state.decides(2) == Verdict::Allow
            }),
        ]
    }
}
