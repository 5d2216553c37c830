//! Model (e): a call that asks, two approvers and a cancel request. The target is the product's whole core; the approvers' answers
//! (a yes or a no of each, and the origin's cancel request after its own) were signed by cores that knew the call, and
//! reach the target in any order that their logs allow; dispatches come at any time, with the answers of the one or the
//! other approver or none, and power fails once.

#![expect(clippy::wildcard_enum_match_arm, reason = "what else a peer does is no part of this model")]

use std::collections::BTreeSet;

use mesh_core::config::Config;
use mesh_core::crypto::{Signer, Symbolic};
use mesh_core::entry::{Kind, SignedEntry};
use mesh_core::epoch::{Claim, Epoch};
use mesh_core::frame::{Authors, Dispatch, EntryItem, Frame};
use mesh_core::ids::{Attempt, Hash, PeerId, ReqId};
use mesh_core::io::{AnswerChoice, Command, Edit, Input, NewAnswer, NewCall, Now, Output, Reply, Space, ToolOutcome};
use mesh_core::policy::{Binding, Key, Rule, RuleVerdict, Value, Workspace};
use mesh_core::record::{Ending, Outcome, Payload};
use stateright::{Model, Property};

use super::machine::{Machine, at, mesh};

/// Time that the call waits for its target.
const TTL_MS: u64 = 60_000;
/// All moments of the model are this one: nothing in it rests on time.
const NOW: Now = at(3_000);
/// Dispatches that may arrive.
const DISPATCHES: u8 = 2;
const YES: AnswerChoice = AnswerChoice::Once;
const NO: AnswerChoice = AnswerChoice::No;

/// The bounds of the model.
#[derive(Debug)]
pub(super) struct Consenting {
    pub(super) crashes: u8,
    pub(super) config: Config,
}

/// What the target may hear, in the order of its author's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Meaning {
    Yes,
    No,
    Cancel,
}

#[derive(Debug, Clone)]
struct Word {
    /// The founder, or the origin.
    by: usize,
    entry: SignedEntry,
    means: Meaning,
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

/// The call, for the frames that bring it.
#[derive(Debug, Clone)]
struct Call(ReqId, SignedEntry);

impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Call {}

impl std::hash::Hash for Call {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// A moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    target: Machine,
    call: Call,
    words: Vec<Word>,
    /// Which of them are in the logs that the target holds.
    logged: BTreeSet<usize>,
    /// And which it has heard since its start, also by a dispatch.
    heard: BTreeSet<usize>,
    /// True once it has heard a yes.
    yes: bool,
    dispatches: u8,
    crashes: u8,
    runs: u8,
    works: bool,
    /// What the target told last, and of which attempt.
    ended: Option<(Attempt, &'static str)>,
    broken: Option<&'static str>,
}

/// A possible next event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// The target hears what was said as number `nth`.
    Hear(usize),
    /// The founder sends the call, with what this approver has said, if anything is.
    Dispatch(Option<usize>),
    /// The disk is done.
    Sync,
    /// The tool ends.
    ToolEnds,
    /// Power fails, and this many unsynced batches survive.
    Crash(usize),
}

fn constant<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid constant")
}

fn key(n: usize) -> Symbolic {
    Symbolic::new(n as u64 + 1)
}

fn id(n: usize) -> PeerId {
    key(n).public_key().peer_id()
}

/// Everything belongs to a workspace of the owner, and one tool asks.
fn rights() -> Edit {
    let ask = Rule { tools: Some(vec![constant("put")]), ..Rule::of(RuleVerdict::Ask) };
    let changes = vec![
        (Key::Workspace(constant("home")), Some(Value::Workspace(Workspace::default()))),
        (Key::Binding(constant("home"), constant("main")), Some(Value::Binding(Binding::default()))),
        (Key::Rule(constant("mesh/careful")), Some(Value::Rule(ask))),
    ];
    Edit { by: constant("person:owner"), changes, declared: false, force: true, seen: Vec::new() }
}

/// Entries of a machine's own log, in order.
fn log(machine: &Machine) -> Vec<SignedEntry> {
    let rows = machine.disk.scan(Space::Log, vec![], vec![255; 45]);
    let entries = rows.filter_map(|(_, value)| SignedEntry::from_stored(value));
    entries.filter(|entry| entry.author == machine.id()).collect()
}

fn hears(machine: &mut Machine, from: &PeerId, entry: &SignedEntry) -> Vec<Output> {
    let entries = vec![EntryItem { entry: entry.clone(), left_ms: Some(TTL_MS) }];
    machine.step(NOW, Input::Recv(*from, Frame::Entries { entries, more: false }))
}

fn settle(machine: &mut Machine) {
    while machine.sync(NOW).is_some() {}
}

/// A machine does this, and the others hear all that it says by that.
fn does(machines: &mut [Machine], by: usize, command: Command) -> Vec<Output> {
    let before = log(&machines[by]).len();
    let out = machines[by].settle(NOW, Input::Command(1, command));
    let from = machines[by].id();
    for entry in log(&machines[by]).split_off(before) {
        for other in (0..machines.len()).filter(|other| *other != by) {
            hears(&mut machines[other], &from, &entry);
            settle(&mut machines[other]);
        }
    }
    out
}

/// Words of a copy of this machine that gives that answer to the call, and takes the call back.
fn answers(machine: &Machine, call: ReqId, choice: AnswerChoice, cancels: bool) -> Vec<(SignedEntry, Meaning)> {
    let (mut machine, before) = (machine.clone(), log(machine).len());
    let answer = NewAnswer { id: call, by: constant("person:owner"), choice, note: constant("") };
    machine.settle(NOW, Input::Command(2, Command::Answer(answer)));
    if cancels {
        machine.settle(NOW, Input::Command(3, Command::Cancel { id: call, reason: "not any more".to_owned() }));
    }
    let said = log(&machine).split_off(before).into_iter().filter_map(|entry| match entry.entry.kind {
        Kind::CONSENT if choice == YES => Some((entry, Meaning::Yes)),
        Kind::CONSENT => Some((entry, Meaning::No)),
        Kind::CANCEL => Some((entry, Meaning::Cancel)),
        _ => None,
    });
    said.collect()
}

impl State {
    fn heard(&self, means: Meaning) -> bool {
        self.heard.iter().any(|nth| self.words[*nth].means == means)
    }

    fn word(&self) -> Option<&'static str> {
        self.ended.map(|(_, word)| word)
    }

    fn hears(&mut self, nth: usize) {
        self.heard.insert(nth);
        self.yes |= self.words[nth].means == Meaning::Yes;
    }

    fn outputs(&mut self, out: Vec<Output>) {
        for output in out {
            let ended = match output {
                Output::Invoke(_) => {
                    self.runs += 1;
                    self.works = true;
                    let unasked = !self.yes || self.heard(Meaning::No) || self.heard(Meaning::Cancel);
                    if unasked || self.runs > 1 || self.ended.is_some() {
                        self.broken.get_or_insert("runs-by-right");
                    }
                    None
                }
                Output::Send(_, Frame::Entries { entries, .. }) => {
                    let own = entries
                        .into_iter()
                        .map(|item| item.entry)
                        .find(|entry| entry.author == self.target.id() && entry.entry.kind == Kind::OUTCOME);
                    own.and_then(|entry| entry.record::<Outcome>())
                }
                _ => None,
            };
            let Some(outcome) = ended.filter(|outcome| outcome.id == self.call.0) else { continue };
            let word = outcome.ending.as_str();
            let unrun = matches!(outcome.ending, Ending::Denied | Ending::Expired);
            // Another attempt may follow an interruption, and end without a run.
            let may_say = self.ended.is_none_or(|(attempt, had)| {
                (attempt, had) == (outcome.attempt, word) || attempt < outcome.attempt && had == "interrupted"
            });
            self.ended = Some((outcome.attempt, word));
            if !may_say || unrun && outcome.attempt == 1 && self.runs > 0 {
                self.broken.get_or_insert("endings-are-true");
            }
        }
    }
}

impl Model for Consenting {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // The founder, who leads; the origin; the target.
        let mut machines = mesh(3, &Config { eligible: false, ..self.config.clone() });
        // All know what each offers.
        for by in 0..machines.len() {
            for entry in log(&machines[by]) {
                for other in (0..machines.len()).filter(|other| *other != by) {
                    hears(&mut machines[other], &id(by), &entry);
                    settle(&mut machines[other]);
                }
            }
        }
        does(&mut machines, 0, Command::Edit(rights()));
        let new = NewCall {
            node: "peer-2".to_owned(),
            tool: constant("put"),
            arguments: Payload::empty(),
            ttl_ms: TTL_MS,
            timeout_ms: 60_000,
            effect: None,
            principal: None,
            credential: None,
            workspace: None,
            client_key: None,
        };
        let reply = does(&mut machines, 1, Command::Call(new)).into_iter().find_map(|output| match output {
            Output::Reply(_, Reply::Call { id, .. }) => Some(id),
            _ => None,
        });
        let call = reply.expect("the owner may ask for it");
        let header = log(&machines[1]).into_iter().rfind(|entry| entry.header().is_some()).expect("it is in the log");
        let mut target = machines.remove(2);
        for by in 0..2 {
            target.settle(NOW, Input::LinkUp(id(by)));
            let digest = Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO };
            target.settle(NOW, Input::Recv(id(by), digest));
        }
        // A target that loses a rule allows by what it has left, and its gateway, which has the rule, does not ask it.
        target.persist();
        let of = |by: usize, choice, cancels| {
            let said = answers(&machines[by], call, choice, cancels).into_iter();
            said.map(move |(entry, means)| Word { by, entry, means })
        };
        let mut states = Vec::new();
        for one in [YES, NO] {
            for other in [YES, NO] {
                states.push(State {
                    target: target.clone(),
                    call: Call(call, header.clone()),
                    words: of(0, one, false).chain(of(1, other, true)).collect(),
                    logged: BTreeSet::new(),
                    heard: BTreeSet::new(),
                    yes: false,
                    dispatches: 0,
                    crashes: 0,
                    runs: 0,
                    works: false,
                    ended: None,
                    broken: None,
                });
            }
        }
        states
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        for by in 0..2 {
            // A log brings its author's words in their order.
            let of_author = (0..state.words.len()).filter(|nth| state.words[*nth].by == by);
            let next = of_author.into_iter().find(|nth| !state.logged.contains(nth));
            actions.extend(next.map(Action::Hear));
        }
        if state.dispatches < DISPATCHES {
            actions.extend([None, Some(0), Some(1)].map(Action::Dispatch));
        }
        if state.target.disk.pending() > 0 {
            actions.push(Action::Sync);
            if state.crashes < self.crashes {
                actions.extend((0..=state.target.disk.pending()).map(Action::Crash));
            }
        }
        if state.works {
            actions.push(Action::ToolEnds);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let out = match action {
            Action::Hear(nth) => {
                let Word { by, entry, .. } = state.words[nth].clone();
                state.logged.insert(nth);
                state.hears(nth);
                hears(&mut state.target, &id(by), &entry)
            }
            Action::Dispatch(with) => {
                state.dispatches += 1;
                let answer = |word: &&Word| Some(word.by) == with && word.means != Meaning::Cancel;
                let nth = state.words.iter().position(|word| answer(&word));
                if let Some(nth) = nth {
                    state.hears(nth);
                }
                let consents =
                    nth.map(|nth| EntryItem { entry: state.words[nth].entry.clone(), left_ms: Some(TTL_MS) });
                let epoch = Epoch { counter: 9, class: 3, peer: id(0) };
                let dispatch = Dispatch {
                    claim: Claim::sign(&key(0), state.target.view().mesh, epoch, 1),
                    header: state.call.1.clone(),
                    attempt: 1,
                    left_ms: TTL_MS,
                    consents: consents.into_iter().collect(),
                };
                state.target.step(NOW, Input::Recv(id(0), Frame::Dispatch(dispatch)))
            }
            Action::Sync => state.target.sync(NOW).unwrap_or_default(),
            Action::ToolEnds => {
                state.works = false;
                let outcome = ToolOutcome {
                    ending: Ending::Done,
                    reason: String::new(),
                    output: Payload::empty(),
                    parts: Vec::new(),
                    partial: false,
                    error: String::new(),
                };
                state.target.step(NOW, Input::ToolEnded(state.call.0, 1, outcome))
            }
            Action::Crash(survivors) => {
                state.crashes += 1;
                state.works = false;
                let mut out = state.target.boot(NOW, survivors);
                // What was heard and is not on the disk is heard again, or never was.
                for by in 0..2 {
                    out.extend(state.target.step(NOW, Input::LinkUp(id(by))));
                    let digest = Frame::Digest { authors: Authors::ALL, rows: Vec::new(), changes: Hash::ZERO };
                    out.extend(state.target.step(NOW, Input::Recv(id(by), digest)));
                }
                let kept: BTreeSet<Hash> = log_of_all(&state.target).into_iter().map(|entry| entry.hash).collect();
                let words = &state.words;
                state.logged.retain(|nth| kept.contains(&words[*nth].entry.hash));
                state.heard = state.logged.clone();
                out
            }
        };
        state.outputs(out);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "runs-by-right: nothing runs without a yes, or after a no or a cancel request",
                |_, state: &State| state.broken != Some("runs-by-right"),
            ),
            Property::always("endings-are-true: what did not run says so, once", |_, state: &State| {
                state.broken != Some("endings-are-true")
            }),
            Property::sometimes("it runs to its end", |_, state: &State| state.word() == Some("done")),
            Property::sometimes("a no wins over a yes", |_, state: &State| state.yes && state.word() == Some("denied")),
            Property::sometimes("a cancel request wins over a yes", |_, state: &State| {
                state.yes && state.word() == Some("cancelled")
            }),
        ]
    }
}

/// All entries of logs that a disk keeps, and answers, which it keeps apart.
fn log_of_all(machine: &Machine) -> Vec<SignedEntry> {
    let rows = machine.disk.scan(Space::Log, vec![], vec![255; 45]);
    rows.filter_map(|(_, value)| SignedEntry::from_stored(value)).collect()
}
