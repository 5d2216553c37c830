//! Plans with people: persons of several roles, their agents and devices, a second workspace that holds some tools, and rules
//! about who; said in two halves, where one has not heard of the other.

use mesh_core::io::AnswerChoice;
use mesh_core::policy::{Role, RuleVerdict, Verdict};
use mesh_core::record::Tier;

use super::{Ask, FAULTS_US, Fault, MS, Plan, SECOND, Says, Word};
use crate::dice::Dice;

/// The workspace beside the one that holds everything.
const DEN: &str = "den";
/// People besides the owner.
const PEOPLE: [&str; 2] = ["anna", "ben"];
const AGENTS: [&str; 2] = ["anna/bot", "ben/bot"];
const ASKERS: [&str; 7] = [
    "person:owner",
    "person:anna",
    "person:anna",
    "person:ben",
    "agent:anna/bot",
    "agent:ben/bot",
    "agent:owner/helper",
];
const TOOLS: [&str; 3] = ["look", "put", "print"];
/// Tokens, each with whom it is for.
const TOKENS: [(&str, &str); 3] =
    [("anna-panel", "person:anna"), ("bens-bot", "agent:ben/bot"), ("script", "person:owner")];

/// A rule by its name: who and what it is about stay, what it says changes.
type PlannedRule = (&'static str, &'static [&'static str], &'static [&'static str], &'static [RuleVerdict]);

const RULES: [PlannedRule; 6] = [
    ("den/give-ben", &["ben"], &["print", "look"], &[RuleVerdict::Allow]),
    ("den/bots", &["agents"], &["look", "put"], &[RuleVerdict::Allow]),
    ("den/no-admin", &["role:admin"], &["put", "print"], &[RuleVerdict::Deny]),
    ("den/not-anna", &["anna"], &["look", "print"], &[RuleVerdict::Deny]),
    ("den/never", &[], &["put"], &[RuleVerdict::Deny, RuleVerdict::Ask]),
    ("mesh/no-bots", &["agent:anna/*"], &["print"], &[RuleVerdict::Deny]),
];

impl Plan {
    pub(super) fn draw_people(&mut self, dice: &mut Dice) {
        let count = self.peers.len();
        // A third of the plans take nothing from anybody.
        let takes = dice.chance(670);
        for ask in &mut self.asks {
            ask.1.timeout_ms = Some(4_000);
        }
        for peer in &mut self.peers {
            peer.handover_settle_ms = 3_600_000;
        }
        if !takes {
            self.faults.retain(|(_, fault)| !matches!(fault, Fault::Revoke { .. }));
        }
        // Two owners at least, of whom each half has one, and a device of another tier.
        for (peer, tier) in [(1, Tier::Owner), (count - 1, Tier::Shared)] {
            (self.peers[peer].tier, self.peers[peer].join_at) = (tier, 0);
        }
        let owners: Vec<usize> = (0..count).filter(|peer| self.peers[*peer].tier == Tier::Owner).collect();
        let guests: Vec<usize> = (0..count).filter(|peer| self.peers[*peer].tier == Tier::Shared).collect();
        let apart = dice.range(SECOND..=FAULTS_US / 3);
        let whole = apart + dice.range(3 * SECOND..=11 * SECOND);
        if dice.chance(800) {
            let half = |peer| if peer < 2 { peer as u8 + 1 } else { 0 };
            let split =
                (0..count).map(|peer| if half(peer) > 0 { half(peer) } else { dice.range(1..=2) as u8 }).collect();
            self.faults.push((apart, Fault::Split { groups: split }));
            self.faults.push((whole, Fault::Unsplit));
        }
        self.draw_first_words(dice, &guests);
        if takes {
            for _ in 0..dice.range(3..=9) {
                let at = if dice.chance(700) { dice.range(apart..=whole) } else { dice.range(SECOND..=FAULTS_US) };
                let word = Self::draw_word(dice, count);
                self.faults.push((at, Fault::Say { by: dice.pick(&owners), word: word.clone() }));
                // The other half says something of the same, or the same.
                if dice.chance(500) {
                    let at = (at + dice.range(0..=2 * SECOND)).min(FAULTS_US);
                    self.faults.push((at, Fault::Say { by: dice.pick(&owners), word: Self::draw_other(dice, &word) }));
                }
            }
            for _ in 0..dice.range(0..=2) {
                let (at, peer, forbids) = (dice.range(0..=FAULTS_US), dice.index(count), dice.chance(700));
                self.faults.push((at, Fault::Forbid { peer, tool: dice.pick(&TOOLS).to_owned(), forbids }));
            }
            if owners.len() > 2 && dice.chance(400) {
                let peer = owners[owners.len() - 1];
                let at = dice.range(apart..=whole);
                let fault = if dice.chance(600) {
                    Fault::Demote { by: 0, peer }
                } else {
                    Fault::Revoke { by: 0, peer, unsaid: false }
                };
                self.faults.push((at, fault));
                // What it says in the other half, or before it hears of that.
                for _ in 0..dice.range(1..=3) {
                    let at = dice.range(at..=whole);
                    self.faults.push((at, Fault::Say { by: peer, word: Self::draw_word(dice, count) }));
                }
            }
        }
        for _ in 0..dice.range(0..=3) {
            let (at, by) = (dice.range(200 * MS..=FAULTS_US), dice.pick(&owners));
            let says = if takes { dice.pick(&[Says::Ask, Says::Ask, Says::Deny, Says::Nothing]) } else { Says::Ask };
            let wait_ms = dice.range(1_000..=6_000);
            self.faults.push((at, Fault::Rule { by, tool: dice.pick(&TOOLS).to_owned(), says, wait_ms }));
        }
        self.draw_their_asks(dice, &guests);
        for _ in 0..dice.range(4..=12) {
            let choice = match dice.range(0..=9) {
                0..=5 => AnswerChoice::Once,
                6..=7 => AnswerChoice::Hour,
                8 if takes => AnswerChoice::No,
                _ => AnswerChoice::Always,
            };
            let (at, peer) = (dice.range(SECOND..=FAULTS_US), dice.index(count));
            self.faults.push((at, Fault::Answer { peer, choice }));
            if takes && choice == AnswerChoice::Hour && dice.chance(500) {
                let at = dice.range(at..=FAULTS_US);
                self.faults.push((at, Fault::TakeBack { peer: dice.index(count) }));
            }
        }
        for _ in 0..dice.range(0..=2) {
            let (at, peer) = (dice.range(SECOND..=FAULTS_US), dice.index(count));
            self.faults.push((at, Fault::Crash { peer, down_us: dice.range(50 * MS..=1_500 * MS) }));
        }
        // Now and then somebody comes when all of this is said already.
        if count > 3 && dice.chance(300) {
            self.peers[2].join_at = dice.range(3 * SECOND..=15 * SECOND);
        }
    }

    /// The mesh as the owner makes it at first: each thing is said once, and gives.
    fn draw_first_words(&mut self, dice: &mut Dice, guests: &[usize]) {
        let mut said = vec![(0, Fault::Govern { by: 0 })];
        let says = |at: u64, word| (at, Fault::Say { by: 0, word });
        for person in PEOPLE {
            let role = Some(dice.pick(&[Role::Member, Role::Member, Role::Admin, Role::Owner]));
            said.push(says(20 * MS, Word::Person { person: person.to_owned(), role, suspended: false }));
            let role = Some(dice.pick(&[Role::Guest, Role::Member, Role::Admin, Role::Admin]));
            said.push(says(40 * MS, Word::Seat { workspace: DEN.to_owned(), person: person.to_owned(), role }));
        }
        // What a workspace asks by itself waits for ten minutes, so that such a plan takes long.
        let answers = [Verdict::Allow, Verdict::Deny, if dice.chance(150) { Verdict::Ask } else { Verdict::Allow }];
        let tools = if dice.chance(500) { vec!["put", "print"] } else { vec!["look", "put", "print"] };
        let tools = tools.into_iter().map(str::to_owned).collect();
        let (members, agents) = (dice.pick(&answers), dice.pick(&answers));
        said.push(says(30 * MS, Word::Workspace { workspace: DEN.to_owned(), tools, members, agents }));
        for peer in guests.iter().copied() {
            let people = PEOPLE.iter().filter(|_| dice.chance(700)).map(|person| (*person).to_owned()).collect();
            said.push(says(50 * MS, Word::Sits { peer, people }));
            said.push((60 * MS, Fault::Seat { by: 0, peer, gives: true }));
        }
        self.faults.extend(said);
    }

    fn draw_word(dice: &mut Dice, count: usize) -> Word {
        let person = dice.pick(&PEOPLE).to_owned();
        match dice.range(0..=9) {
            0..=4 => {
                let (at, who, tools, verdicts) = dice.pick(&RULES);
                let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
                let verdict = dice.chance(750).then(|| dice.pick(verdicts));
                let wait_ms = Some(dice.range(1_000..=6_000));
                Word::Rule { at: at.to_owned(), who: texts(who), tools: texts(tools), verdict, wait_ms }
            }
            5 => {
                let role = dice.chance(700).then(|| dice.pick(&[Role::Guest, Role::Member, Role::Admin]));
                Word::Person { person, role, suspended: dice.chance(400) }
            }
            6..=7 => {
                let role = dice.chance(600).then(|| dice.pick(&[Role::Guest, Role::Member, Role::Admin]));
                Word::Seat { workspace: DEN.to_owned(), person, role }
            }
            8 => {
                let people = PEOPLE.iter().filter(|_| dice.chance(400)).map(|person| (*person).to_owned()).collect();
                Word::Sits { peer: dice.index(count), people }
            }
            _ => Word::Agent { agent: dice.pick(&AGENTS).to_owned(), suspended: dice.chance(600) },
        }
    }

    /// Something else about the same.
    fn draw_other(dice: &mut Dice, word: &Word) -> Word {
        let mut other = word.clone();
        match &mut other {
            Word::Person { role, suspended, .. } => {
                (*role, *suspended) = (Some(dice.pick(&[Role::Guest, Role::Member, Role::Admin])), dice.chance(300));
            }
            Word::Agent { suspended, .. } => *suspended = dice.chance(500),
            Word::Sits { people, .. } => *people = vec![dice.pick(&PEOPLE).to_owned()],
            Word::Seat { role, .. } => *role = dice.chance(700).then(|| dice.pick(&[Role::Guest, Role::Admin])),
            Word::Workspace { members, .. } => *members = dice.pick(&[Verdict::Allow, Verdict::Deny]),
            Word::Tools { tools, .. } | Word::Token { tools, .. } => *tools = Self::some_tools(dice),
            Word::Rule { at, verdict, .. } => {
                let of = RULES.iter().find(|(name, ..)| name == at);
                *verdict = of.filter(|_| dice.chance(600)).map(|(.., verdicts)| dice.pick(verdicts));
            }
        }
        other
    }

    /// People and their agents ask, at their own devices and at others; some under one client key.
    fn draw_their_asks(&mut self, dice: &mut Dice, guests: &[usize]) {
        let count = self.peers.len();
        for argument in 0..dice.range(10..=30) {
            let origin = if dice.chance(500) { dice.pick(guests) } else { dice.index(count) };
            let ask = Ask {
                origin,
                target: Some(dice.index(count)),
                tool: dice.pick(&TOOLS).to_owned(),
                ttl_ms: dice.pick(&[2_000, 5_000, 8_000, 15_000]),
                timeout_ms: Some(4_000),
                strict: false,
                key: dice.chance(100).then(|| "theirs".to_owned()),
                argument: 50_000 + argument,
                blob: false,
                cancel_after_us: dice.chance(80).then(|| dice.range(0..=2 * SECOND)),
                principal: Some(dice.pick(&ASKERS).to_owned()),
                token: None,
            };
            self.asks.push((dice.range(300 * MS..=FAULTS_US), ask));
        }
    }

    fn some_tools(dice: &mut Dice) -> Vec<String> {
        TOOLS.iter().filter(|_| dice.chance(600)).map(|tool| (*tool).to_owned()).collect()
    }

    /// Tokens by which some ask, said early, narrowed and revoked later; and tools of devices that are approved, some and others,
    /// each by owners who may not have heard each other.
    pub(super) fn draw_tokens(&mut self, dice: &mut Dice) {
        let count = self.peers.len();
        let owners: Vec<usize> = (0..count).filter(|peer| self.peers[*peer].tier == Tier::Owner).collect();
        let token = |of: (&str, &str), tools: Vec<String>| {
            let (token, holder) = (of.0.to_owned(), of.1.to_owned());
            Word::Token { token, holder, tools }
        };
        for of in TOKENS {
            let tools = if dice.chance(500) { TOOLS.map(str::to_owned).to_vec() } else { Self::some_tools(dice) };
            self.faults.push((70 * MS, Fault::Say { by: 0, word: token(of, tools) }));
        }
        for _ in 0..dice.range(2..=8) {
            let word = if dice.chance(500) {
                // Half of these revoke.
                let tools = if dice.chance(500) { Vec::new() } else { Self::some_tools(dice) };
                token(dice.pick(&TOKENS), tools)
            } else {
                Word::Tools { peer: dice.index(count), tools: Self::some_tools(dice) }
            };
            let at = dice.range(SECOND..=FAULTS_US);
            self.faults.push((at, Fault::Say { by: dice.pick(&owners), word: word.clone() }));
            if dice.chance(500) {
                let at = (at + dice.range(0..=2 * SECOND)).min(FAULTS_US);
                self.faults.push((at, Fault::Say { by: dice.pick(&owners), word: Self::draw_other(dice, &word) }));
            }
        }
        for (_, ask) in &mut self.asks {
            if dice.chance(400) {
                let (token, holder) = dice.pick(&TOKENS);
                (ask.token, ask.principal) = (Some(token.to_owned()), Some(holder.to_owned()));
            }
        }
    }
}
