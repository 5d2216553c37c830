//! All statements about one key, and which of them count.
//!
//! A register is a set. Its **heads** are the statements that no other knew (`knowledge`); an edit knows all heads that its author
//! held, so it replaces them, and two edits that did not know each other both stay until somebody edits again. What
//! several heads amount to is told in `merge`. So peers with equal sets agree, in whatever order they were filled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::knowledge;
use super::records::{InvalidRecord, Key, Value};
use super::said::{Content, KNEW_MAX, Said, Statement};
use crate::entry::Place;
use crate::ids::{Incarnation, Known, PeerId};
use crate::people::{Domain, PersonId, Principal, RuleRef, WorkspaceId};
use crate::protocol_rule::{ProtocolRule, ProtocolRules};

/// Most people.
pub const PEOPLE_MAX: usize = 256;
/// Most agents that have a record.
pub const AGENTS_MAX: usize = 1024;
/// Most tokens.
pub const TOKENS_MAX: usize = 512;
/// Most workspaces.
pub const WORKSPACES_MAX: usize = 128;
/// Most seats of one workspace.
pub const MEMBERS_MAX: usize = 256;
/// Most bindings of one workspace.
pub const BINDINGS_MAX: usize = 64;
/// Most rules of one workspace, or of the mesh.
pub const WORKSPACE_RULES_MAX: usize = 256;
/// Most rules in all.
pub const RULES_MAX: usize = 2048;
/// Most checks.
pub const CHECKS_MAX: usize = 256;
/// Most patterns in all.
pub const PATTERNS_MAX: usize = 8192;

/// One log of one author.
type Log = (PeerId, Incarnation);

const fn log(place: &Place) -> Log {
    (place.author, place.incarnation)
}

/// All that counts where only the last word does: what rules left out would make of these.
fn newest<'a>(all: Vec<(&'a Place, &'a Statement)>) -> Vec<(&'a Place, &'a Statement)> {
    all.into_iter().max_by_key(|(place, statement)| (statement.hlc, **place)).into_iter().collect()
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Register {
    said: BTreeMap<Place, Statement>,
    rules: ProtocolRules,
}

impl Register {
    /// Adds a statement; `false` if it is there already.
    pub fn insert(&mut self, place: Place, statement: Statement) -> bool {
        self.said.insert(place, statement).is_none()
    }

    /// Adds all that another has.
    pub fn merge(&mut self, other: &Self) {
        self.said.extend(other.said.iter().map(|(place, statement)| (*place, statement.clone())));
    }

    /// All statements, by place.
    pub fn statements(&self) -> impl Iterator<Item = (&Place, &Statement)> {
        self.said.iter()
    }

    /// The heads among those that stand. What does not stand replaces nothing, so that what it replaced counts again.
    ///
    /// A statement replaces those of its log that came before it, and what it says that it knew, unless that knew it in
    /// turn. No number that an author makes up makes it last: whoever knows it replaces it.
    #[must_use]
    pub fn heads(&self, stands: &dyn Fn(&Place) -> bool) -> Vec<(&Place, &Statement)> {
        let standing: Vec<_> = self.said.iter().filter(|(place, _)| stands(place)).collect();
        if self.rules.enforces(ProtocolRule::KnewVector) { knowledge::heads(standing) } else { newest(standing) }
    }

    /// The heads of which it counts what they say together.
    pub(super) fn counting(&self, stands: &dyn Fn(&Place) -> bool) -> Vec<(&Place, &Statement)> {
        let heads = self.heads(stands);
        if self.rules.enforces(ProtocolRule::TakingWins) { heads } else { newest(heads) }
    }

    /// The statement that an edit made here and now makes: it knows all that is held and stands, and what those say that
    /// they knew, as far as there is room for it; what counts comes first. Of a log of which something is held its last
    /// place is named even where another says that it knew more, since that may be made up.
    #[must_use]
    pub fn edit(
        &self,
        (key, value): (Key, Option<Value>),
        by: Principal,
        declared: bool,
        stands: &dyn Fn(&Place) -> bool,
    ) -> Said {
        let standing = || self.said.iter().filter(|(place, _)| stands(place));
        let mut held: BTreeMap<Log, u64> = BTreeMap::new();
        for (place, _) in standing() {
            let seq = held.entry(log(place)).or_default();
            *seq = place.seq.max(*seq);
        }
        let mut told: BTreeMap<Log, u64> = BTreeMap::new();
        for Known { author, incarnation, seq } in standing().flat_map(|(_, statement)| &statement.said.knew) {
            let log = (*author, *incarnation);
            if held.get(&log).is_none_or(|held| held < seq) {
                let told = told.entry(log).or_default();
                *told = (*seq).max(*told);
            }
        }
        let heads: BTreeSet<Log> = self.heads(stands).into_iter().map(|(place, _)| log(place)).collect();
        let known = |(author, incarnation): Log, seq: u64| Known { author, incarnation, seq };
        let of_heads = held.iter().filter(|(log, _)| heads.contains(log));
        let replaced = held.iter().filter(|(log, _)| !heads.contains(log));
        let knew = of_heads.chain(replaced).chain(&told).map(|(log, seq)| known(*log, *seq));
        let mut knew: Vec<Known> = knew.take(KNEW_MAX).collect();
        knew.sort_unstable();
        let generation = standing().map(|(_, statement)| statement.said.generation).max().unwrap_or(0);
        let content = value.map_or(Content::Deleted, |value| Content::Value(Box::new(value)));
        Said { key, content, generation: generation.saturating_add(1), knew, by, declared }
    }

    /// Drops statements that are replaced and that `forget` names. Heads stay whatever it says, deletions too: a peer
    /// that was away for long must still meet them.
    pub fn forget(&mut self, stands: &dyn Fn(&Place) -> bool, forget: &dyn Fn(&Place) -> bool) {
        let heads: Vec<Place> = self.heads(stands).into_iter().map(|(place, _)| *place).collect();
        self.said.retain(|place, _| heads.contains(place) || !forget(place));
    }

    /// True if a head of it is a value, so that something of this key is there.
    fn is_live(&self, stands: &dyn Fn(&Place) -> bool) -> bool {
        self.heads(stands).iter().any(|(_, statement)| statement.said.content != Content::Deleted)
    }
}

/// All that was said about rights at one moment, with what of it stands: for whoever shows or edits it. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    policy: Arc<Policy>,
    void: Arc<BTreeSet<Place>>,
}

impl InForce {
    /// Everything stands but `void`.
    #[must_use]
    pub fn new(policy: Arc<Policy>, void: Arc<BTreeSet<Place>>) -> Self {
        Self { policy, void }
    }

    /// All keys of which something was said, in order. Most of what was said may be that it is taken away.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.policy.keys()
    }

    /// The statements about a key that count, by place. More than one: people edited it without knowing of each other.
    #[must_use]
    pub fn heads(&self, key: &Key) -> Vec<(&Place, &Statement)> {
        let heads = self.policy.register(key).map(|register| register.heads(&|place| !self.void.contains(place)));
        heads.unwrap_or_default()
    }

    /// True if this is what another has, at a glance: a clone of it.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policy, &other.policy) && Arc::ptr_eq(&self.void, &other.void)
    }

    /// All that was said about a key and stands, also what was replaced since, by place.
    pub fn standing(&self, key: &Key) -> impl Iterator<Item = (&Place, &Statement)> {
        let said = self.policy.register(key).into_iter().flat_map(Register::statements);
        said.filter(|(place, _)| !self.void.contains(place))
    }

    /// True of what is held and does not stand.
    #[must_use]
    pub fn is_void(&self, place: &Place) -> bool {
        self.void.contains(place)
    }

    /// The places of these, in order.
    #[must_use]
    pub fn places(&self, key: &Key) -> Vec<Place> {
        self.heads(key).into_iter().map(|(place, _)| *place).collect()
    }

    /// Value of a key, for people: of several values the strictest, of these the newest. `None`: nothing, or nothing that
    /// can be read. So whoever reads it and writes it back, with something else changed, gives nothing that was taken.
    #[must_use]
    pub fn value(&self, key: &Key) -> Option<&Value> {
        let said = self.heads(key).into_iter().filter_map(|(place, statement)| match &statement.said.content {
            Content::Value(value) => Some((value.strictness(), statement.hlc, place, value)),
            Content::Deleted | Content::Unreadable => None,
        });
        said.max_by_key(|(strictness, hlc, place, _)| (*strictness, *hlc, **place)).map(|(.., value)| &**value)
    }

    /// Tries changes out, as if an owner who knew all that is here made them: `see` is told of each key, with all that was
    /// said by then and which of it stands.
    pub(super) fn try_out(
        &self,
        changes: &[(Key, Option<Value>)],
        mut see: impl FnMut(&Policy, &dyn Fn(&Place) -> bool, &Key),
    ) {
        let stands = |place: &Place| !self.void.contains(place);
        let mut policy = Policy::clone(&self.policy);
        for ((key, value), seq) in changes.iter().zip(1..) {
            let by = Principal::Person(PersonId::owner());
            let said = policy.edit((key.clone(), value.clone()), by, false, &stands);
            // In a log that nobody has.
            let place = Place { author: PeerId([0; 32]), incarnation: Incarnation(0), seq };
            policy.insert(place, Statement { hlc: u64::MAX, said });
            see(&policy, &stands, key);
        }
    }

    /// Statements of these authors that count: keys, each with what one of them said last of it, in order.
    pub fn said_by<'a>(
        &'a self,
        authors: &'a BTreeSet<PeerId>,
    ) -> impl Iterator<Item = (&'a Key, &'a Place, &'a Statement)> {
        let of = |key: &'a Key| self.heads(key).into_iter().map(move |(place, statement)| (key, place, statement));
        self.keys().flat_map(of).filter(|(_, place, _)| authors.contains(&place.author))
    }

    /// The device whose file of settings says what this key says, if one does.
    #[must_use]
    pub fn declared_by(&self, key: &Key) -> Option<PeerId> {
        self.heads(key).into_iter().find(|(_, statement)| statement.said.declared).map(|(place, _)| place.author)
    }
}

/// All that people have said about rights: a set of statements, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Shared with whoever tries an edit out.
    registers: BTreeMap<Key, Arc<Register>>,
    rules: ProtocolRules,
}

impl Policy {
    /// Nothing yet, of which it counts what these rules say.
    #[must_use]
    pub fn by(rules: ProtocolRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Adds a statement; `false` if it is there already.
    pub fn insert(&mut self, place: Place, statement: Statement) -> bool {
        let rules = self.rules;
        let register = self.registers.entry(statement.said.key.clone());
        let register = register.or_insert_with(|| Arc::new(Register { rules, ..Register::default() }));
        Arc::make_mut(register).insert(place, statement)
    }

    /// Adds all that another has.
    pub fn merge(&mut self, other: &Self) {
        for (key, register) in &other.registers {
            Arc::make_mut(self.registers.entry(key.clone()).or_default()).merge(register);
        }
    }

    /// All that was said of a key.
    #[must_use]
    pub fn register(&self, key: &Key) -> Option<&Register> {
        self.registers.get(key).map(AsRef::as_ref)
    }

    /// All keys of which something was said, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.registers.keys()
    }

    /// The statement that an edit made here and now makes, see [`Register::edit`].
    #[must_use]
    pub fn edit(
        &self,
        (key, value): (Key, Option<Value>),
        by: Principal,
        declared: bool,
        stands: &dyn Fn(&Place) -> bool,
    ) -> Said {
        match self.registers.get(&key) {
            Some(register) => register.edit((key, value), by, declared, stands),
            None => Register::default().edit((key, value), by, declared, stands),
        }
    }

    /// Takes a statement out, as if it had not been heard.
    pub fn remove(&mut self, key: &Key, place: &Place) {
        let Some(register) = self.registers.get_mut(key) else { return };
        Arc::make_mut(register).said.remove(place);
        if register.said.is_empty() {
            self.registers.remove(key);
        }
    }

    /// Drops replaced statements of a key, see [`Register::forget`].
    pub fn forget(&mut self, key: &Key, stands: &dyn Fn(&Place) -> bool, forget: &dyn Fn(&Place) -> bool) {
        if let Some(register) = self.registers.get_mut(key) {
            Arc::make_mut(register).forget(stands, forget);
        }
    }

    /// True if this, and nothing else, is what holds of a key; `None`: that there is nothing.
    #[must_use]
    pub fn says(&self, key: &Key, value: Option<&Value>, stands: &dyn Fn(&Place) -> bool) -> bool {
        let heads = self.registers.get(key).map(|register| register.heads(stands)).unwrap_or_default();
        let said = heads.iter().map(|(_, statement)| &statement.said.content);
        match value {
            None => said.into_iter().all(|content| *content == Content::Deleted),
            Some(value) => {
                let mut said = said.map(|content| matches!(content, Content::Value(said) if **said == *value));
                said.next() == Some(true) && said.next().is_none()
            }
        }
    }

    /// Checks what an edit would make of the whole: that its workspace is there, that nothing is over its number, and
    /// that no rule says what another of its workspace says.
    ///
    /// # Errors
    /// The first of these that does not hold, or a bound of the value itself.
    pub fn admit(&self, key: &Key, value: &Value, stands: &dyn Fn(&Place) -> bool) -> Result<(), InvalidRecord> {
        value.check(key)?;
        let live = || self.registers.iter().filter(|(other, register)| *other != key && register.is_live(stands));
        if let Some(workspace) = key.workspace()
            && !matches!(key, Key::Workspace(_))
            && !self.is_live(&Key::Workspace(workspace.clone()), stands)
        {
            return Err(InvalidRecord::UnknownWorkspace(workspace.clone()));
        }
        let number = |what: &'static str, max: usize, alike: &dyn Fn(&Key) -> bool| {
            let count = live().filter(|(other, _)| alike(other)).count();
            if count < max { Ok(()) } else { Err(InvalidRecord::Full { what, max }) }
        };
        let of = key.workspace();
        match key {
            Key::Person(_) => number("people", PEOPLE_MAX, &|other| matches!(other, Key::Person(_)))?,
            Key::Agent(..) => number("agents", AGENTS_MAX, &|other| matches!(other, Key::Agent(..)))?,
            Key::Token(_) => number("tokens", TOKENS_MAX, &|other| matches!(other, Key::Token(_)))?,
            Key::Workspace(_) => {
                number("workspaces", WORKSPACES_MAX, &|other| matches!(other, Key::Workspace(_)))?;
            }
            Key::Member(..) => number("members in the workspace", MEMBERS_MAX, &|other| {
                matches!(other, Key::Member(..)) && other.workspace() == of
            })?,
            Key::Binding(..) => number("bindings in the workspace", BINDINGS_MAX, &|other| {
                matches!(other, Key::Binding(..)) && other.workspace() == of
            })?,
            Key::Rule(rule) => {
                let beside = |other: &Key| matches!(other, Key::Rule(at) if at.domain == rule.domain);
                number("rules in the workspace", WORKSPACE_RULES_MAX, &beside)?;
                number("rules", RULES_MAX, &|other| matches!(other, Key::Rule(_)))?;
                if let Some(twin) = self.twin(rule, value, stands) {
                    return Err(InvalidRecord::DuplicateRule(twin));
                }
            }
            Key::Check(_) => number("checks", CHECKS_MAX, &|other| matches!(other, Key::Check(_)))?,
            Key::Device(_) | Key::Mode | Key::Tools(_) => {}
        }
        let patterns = |register: &Register| -> usize {
            let heads = register.heads(stands);
            let of_head = |(_, statement): &(&Place, &Statement)| match &statement.said.content {
                Content::Value(value) => value.patterns(),
                Content::Deleted | Content::Unreadable => 0,
            };
            heads.iter().map(of_head).sum()
        };
        let all: usize = live().map(|(_, register)| patterns(register)).sum();
        if value.patterns() > 0 && all + value.patterns() > PATTERNS_MAX {
            return Err(InvalidRecord::Full { what: "patterns", max: PATTERNS_MAX });
        }
        Ok(())
    }

    /// Of every log that said anything here, how far: what a call carries, so that a peer that knows less does not deny
    /// it for want of what its origin knew. At most [`KNEW_MAX`], the longest first.
    #[must_use]
    pub fn mark(&self) -> Vec<Known> {
        let mut mark: BTreeMap<Log, u64> = BTreeMap::new();
        for place in self.registers.values().flat_map(|register| register.said.keys()) {
            let seq = mark.entry(log(place)).or_default();
            *seq = place.seq.max(*seq);
        }
        let mut mark: Vec<Known> =
            mark.into_iter().map(|((author, incarnation), seq)| Known { author, incarnation, seq }).collect();
        mark.sort_by_key(|known| (std::cmp::Reverse(known.seq), *known));
        mark.truncate(KNEW_MAX);
        mark
    }

    /// The rest of a mark that is not held up to there, by how far each log is `held`.
    #[must_use]
    pub fn lacking(mark: &[Known], held: impl Fn(&PeerId, Incarnation) -> u64) -> Vec<Known> {
        mark.iter().filter(|known| held(&known.author, known.incarnation) < known.seq).copied().collect()
    }

    fn is_live(&self, key: &Key, stands: &dyn Fn(&Place) -> bool) -> bool {
        self.registers.get(key).is_some_and(|register| register.is_live(stands))
    }

    fn twin(&self, rule: &RuleRef, value: &Value, stands: &dyn Fn(&Place) -> bool) -> Option<RuleRef> {
        let Value::Rule(wanted) = value else { return None };
        let says_it = |statement: &Statement| match &statement.said.content {
            Content::Value(value) => matches!(&**value, Value::Rule(other) if other.says_the_same(wanted)),
            Content::Deleted | Content::Unreadable => false,
        };
        self.rules_of(&rule.domain)
            .filter(|(at, _)| *at != rule)
            .find(|(_, register)| register.heads(stands).iter().any(|(_, statement)| says_it(statement)))
            .map(|(at, _)| at.clone())
    }

    /// The rules of a domain, in order of their names.
    pub(super) fn rules_of(&self, domain: &Domain) -> impl Iterator<Item = (&RuleRef, &Register)> {
        self.registers.iter().filter_map(move |(key, register)| {
            let Key::Rule(rule) = key else { return None };
            (rule.domain == *domain).then_some((rule, &**register))
        })
    }

    /// The bindings of a workspace, in order of their names.
    pub(super) fn bindings_of(&self, of: &WorkspaceId) -> impl Iterator<Item = (&super::Name, &Register)> {
        self.registers.iter().filter_map(move |(key, register)| {
            let Key::Binding(workspace, name) = key else { return None };
            (workspace == of).then_some((name, &**register))
        })
    }
}
