//! Rights as people write them: the sections `people`, `agents`, `devices`, `workspaces` and `checks` of `sigil.toml`, and
//! the same shapes in REST.
//!
//! A word that is not known here is an error, and not a warning as elsewhere in the file: a misspelt `tools` would make a
//! rule about all tools.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mesh_core::ids::{InvalidId, NodeId, PeerId};
use mesh_core::policy::{
    Agent, AgentName, Approver, Binding, Check, Device, Domain, InvalidRecord, Key, Name, NodePattern, Note, Otherwise,
    Person, PersonId, Policy, Principal, Role, Rule, RuleRef, RuleVerdict, Seat, Statement, Title, ToolPattern, Value,
    Who, Workspace, WorkspaceId,
};
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use crate::value::{DURATION_RULE, parse_duration, show_duration};

/// Name of the binding that stands in the workspace's own table.
const MAIN: &str = "main";

/// All that people say about rights, but for tokens and the approved tools of devices, which belong to no file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicySettings {
    /// People, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub people: BTreeMap<PersonId, PersonSettings>,
    /// All that is said of agents. One that is not named exists all the same.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub agents: BTreeMap<AgentRef, AgentSettings>,
    /// All that is said of devices, by the name that each has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<NodeId, DeviceSettings>,
    /// Workspaces, and `mesh`, which has rules only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub workspaces: BTreeMap<Domain, WorkspaceSettings>,
    /// What must hold after each edit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<Name, Check>,
}

/// An agent of a person: `mia/claude`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentRef {
    /// Whose.
    pub person: PersonId,
    /// Its name.
    pub agent: AgentName,
}

impl FromStr for AgentRef {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Whatever is wrong is told as of a principal.
        match format!("agent:{text}").parse()? {
            Principal::Agent(person, agent) => Ok(Self { person, agent }),
            Principal::Person(_) | Principal::Device(_) => unreachable!("it begins with agent:"),
        }
    }
}

impl TryFrom<String> for AgentRef {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<AgentRef> for String {
    fn from(agent: AgentRef) -> Self {
        agent.to_string()
    }
}

impl fmt::Display for AgentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.person, self.agent)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PersonSettings {
    /// Name for people.
    #[serde(skip_serializing_if = "is_default")]
    pub name: Title,
    /// Standing in the mesh; default: member.
    #[serde(skip_serializing_if = "is_default")]
    pub role: Role,
    /// True if nothing may be asked for her.
    #[serde(skip_serializing_if = "is_default")]
    pub suspended: bool,
}

/// An agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettings {
    /// Name for people.
    #[serde(skip_serializing_if = "is_default")]
    pub name: Title,
    /// True if nothing may be asked by it.
    #[serde(skip_serializing_if = "is_default")]
    pub suspended: bool,
}

/// A device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSettings {
    /// Name for people.
    #[serde(skip_serializing_if = "is_default")]
    pub name: Title,
    /// Sign for people.
    #[serde(skip_serializing_if = "is_default")]
    pub icon: Title,
    /// People that it may speak for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub people: Vec<PersonId>,
}

/// A workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkspaceSettings {
    /// Name for people.
    #[serde(skip_serializing_if = "is_default")]
    pub title: Title,
    /// Sign for people.
    #[serde(skip_serializing_if = "is_default")]
    pub icon: Title,
    /// Devices that belong to it; absent = all, if `tools` is there. Without both, and without `bind`, none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodePattern>>,
    /// Tools of these that belong to it; absent = all, if `nodes` is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<ToolPattern>>,
    /// Verdict where no rule speaks.
    #[serde(skip_serializing_if = "is_default")]
    pub otherwise: Otherwise,
    /// Who is in it, as what.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<Seat, Role>,
    /// All that else belongs to it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bind: BTreeMap<Name, Binding>,
    /// Its rules.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<Name, RuleSettings>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSettings {
    /// All that it says.
    pub verdict: RuleVerdict,
    /// Whom it is about. A deny or ask without it is about everyone, and then an ask gives nothing; empty = nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Vec<Who>>,
    /// Devices; absent = all, empty = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodePattern>>,
    /// Tools; absent = all, empty = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<ToolPattern>>,
    /// Of an ask: who may say yes. Absent = who manages the workspace, and of an agent's own ask its person; empty = nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvers: Option<Vec<Approver>>,
    /// Of an ask: how long a call waits for a yes, 1 s to 24 h; default 10 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// Of an `always`: the asks that it settles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<RuleRef>,
    /// Remark for people.
    #[serde(default, skip_serializing_if = "is_default")]
    pub note: Note,
}

/// A time as people write it: `5m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Wait(Duration);

impl TryFrom<String> for Wait {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{}` is not {DURATION_RULE}", mesh_core::limits::cut(&text, 40).escape_debug());
        parse_duration(&text).map(Self).ok_or_else(wrong)
    }
}

impl From<Wait> for String {
    fn from(wait: Wait) -> Self {
        show_duration(wait.0)
    }
}

/// Something that is wrong with what people wrote. Its text says where and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// Line, from 1, if it is a file.
    pub line: Option<usize>,
    /// Place: the keys that lead there, such as `workspaces.family.rules.doors`; empty where it is not TOML at all.
    pub at: String,
    /// Cause, and what to write instead.
    pub cause: String,
    /// The rule that says the very same, if that is what is wrong.
    pub twin: Option<RuleRef>,
}

impl std::error::Error for PolicyError {}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        f.write_str(&self.cause)
    }
}

/// Something odd that is no error.
pub type PolicyWarning = PolicyError;

/// What names in the settings stand for, by the mesh as it is.
pub trait Devices {
    /// The member of this name.
    fn peer(&self, node: &NodeId) -> Option<PeerId>;
    /// The name of this member.
    fn node(&self, peer: &PeerId) -> Option<NodeId>;
}

/// The keys that lead to a record in the file.
fn place_of(key: &Key, node: impl Fn(&PeerId) -> Option<NodeId>) -> Vec<String> {
    let domain = |domain: &Domain| ["workspaces".to_owned(), domain.to_string()];
    let workspace = |id: &WorkspaceId| domain(&Domain::Workspace(id.clone()));
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    match key {
        Key::Person(person) => words(&["people", person.as_str()]),
        Key::Agent(person, agent) => vec!["agents".to_owned(), format!("{person}/{agent}")],
        Key::Workspace(id) => workspace(id).to_vec(),
        Key::Member(id, seat) => [workspace(id).as_slice(), &["members".to_owned(), seat.to_string()]].concat(),
        Key::Binding(id, name) if name.as_str() == MAIN => workspace(id).to_vec(),
        Key::Binding(id, name) => [workspace(id).as_slice(), &words(&["bind", name.as_str()])].concat(),
        Key::Rule(at) => [domain(&at.domain).as_slice(), &words(&["rules", at.name.as_str()])].concat(),
        Key::Device(peer) => {
            vec!["devices".to_owned(), node(peer).map_or_else(|| peer.short(), |node| node.to_string())]
        }
        Key::Check(name) => words(&["checks", name.as_str()]),
        Key::Mode | Key::Token(_) | Key::Tools(_) => Vec::new(),
    }
}

/// The keys that lead to a record in the file, as one text.
#[must_use]
pub fn place_of_key(key: &Key, devices: &dyn Devices) -> String {
    joined(&place_of(key, |peer| devices.node(peer)))
}

fn joined(keys: &[impl AsRef<str>]) -> String {
    let key = |key: &str| {
        let bare = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if bare { key.to_owned() } else { format!("\"{}\"", key.escape_default()) }
    };
    keys.iter().map(|part| key(part.as_ref())).collect::<Vec<_>>().join(".")
}

/// Line of a byte in a text, from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|b| *b == b'\n').count()
}

/// Line in which a text names the last of these keys; of the last one before it that is there.
fn line_of_keys(text: &str, keys: &[impl AsRef<str>]) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut found = None;
    for wanted in keys {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == wanted.as_ref()) else { break };
        found = Some(line_of(text, key.span().start));
        let DeValue::Table(inner) = value.get_ref() else { break };
        table = inner;
    }
    found
}

impl PolicySettings {
    /// Reads the sections about rights of a file of settings; the others are passed over.
    ///
    /// # Errors
    /// It is not TOML, or something in these sections is not of its form.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let read: Self = toml::from_str(text).map_err(|error| PolicyError {
            line: error.span().map(|span| line_of(text, span.start)),
            at: String::new(),
            cause: error.message().to_owned(),
            twin: None,
        })?;
        Ok(read)
    }

    /// True if nothing is said about rights.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The records that this stands for, in order of their keys. Devices that are no members here are left out.
    ///
    /// # Errors
    /// A value that violates a bound or a rule of its kind, or is written twice. `text` is where it was read from, for the line.
    pub fn records(&self, devices: &dyn Devices, text: Option<&str>) -> Result<BTreeMap<Key, Value>, PolicyError> {
        let failed = |keys: &[String], cause: String| PolicyError {
            line: text.and_then(|text| line_of_keys(text, keys)),
            at: joined(keys),
            cause,
            twin: None,
        };
        let mut records = BTreeMap::new();
        for (id, said) in &self.people {
            let PersonSettings { name, role, suspended } = said.clone();
            let person = Person { title: name, role, logins: Vec::new(), suspended };
            records.insert(Key::Person(id.clone()), Value::Person(person));
        }
        for (AgentRef { person, agent }, said) in &self.agents {
            let AgentSettings { name, suspended } = said.clone();
            records.insert(Key::Agent(person.clone(), agent.clone()), Value::Agent(Agent { title: name, suspended }));
        }
        for (node, said) in &self.devices {
            let DeviceSettings { name, icon, people } = said.clone();
            if let Some(peer) = devices.peer(node) {
                let device = Device { title: name, icon, people };
                records.insert(Key::Device(peer), Value::Device(device));
            }
        }
        for (domain, said) in &self.workspaces {
            let keys = ["workspaces".to_owned(), domain.to_string()];
            said.records(domain, devices, &mut records).map_err(|cause| failed(&keys, cause.to_owned()))?;
        }
        for (name, check) in &self.checks {
            records.insert(Key::Check(name.clone()), Value::Check(check.clone()));
        }
        // One after the other into a set of their own: what is too many or stands twice shows there.
        let mut policy = Policy::default();
        let by: Principal = Principal::Person(PersonId::owner());
        let workspaces = records.iter().filter(|(key, _)| matches!(key, Key::Workspace(_)));
        let others = records.iter().filter(|(key, _)| !matches!(key, Key::Workspace(_)));
        for ((key, value), seq) in workspaces.chain(others).zip(1..) {
            policy.admit(key, value, &|_| true).map_err(|error| PolicyError {
                twin: if let InvalidRecord::DuplicateRule(rule) = &error { Some(rule.clone()) } else { None },
                ..failed(&place_of(key, |peer| devices.node(peer)), cause_of(&error))
            })?;
            let said = policy.edit((key.clone(), Some(value.clone())), by.clone(), true, &|_| true);
            let place =
                mesh_core::entry::Place { author: PeerId([0; 32]), incarnation: mesh_core::ids::Incarnation(0), seq };
            policy.insert(place, Statement { hlc: seq, said });
        }
        Ok(records)
    }

    /// What records stand for, as people write it.
    #[must_use]
    pub fn of<'a>(records: impl IntoIterator<Item = (&'a Key, &'a Value)>, devices: &dyn Devices) -> Self {
        let mut settings = Self::default();
        for (key, value) in records {
            settings.take(key, value, devices);
        }
        settings
    }

    fn workspace(&mut self, domain: Domain) -> &mut WorkspaceSettings {
        self.workspaces.entry(domain).or_default()
    }

    fn take(&mut self, key: &Key, value: &Value, devices: &dyn Devices) {
        let own = |id: &WorkspaceId| Domain::Workspace(id.clone());
        match (key, value.clone()) {
            (Key::Person(id), Value::Person(Person { title, role, logins: _, suspended })) => {
                self.people.insert(id.clone(), PersonSettings { name: title, role, suspended });
            }
            (Key::Agent(person, agent), Value::Agent(Agent { title, suspended })) => {
                let at = AgentRef { person: person.clone(), agent: agent.clone() };
                self.agents.insert(at, AgentSettings { name: title, suspended });
            }
            (Key::Workspace(id), Value::Workspace(Workspace { title, icon, otherwise })) => {
                let at = self.workspace(own(id));
                (at.title, at.icon, at.otherwise) = (title, icon, otherwise);
            }
            (Key::Member(id, seat), Value::Member(role)) => {
                self.workspace(own(id)).members.insert(seat.clone(), role);
            }
            (Key::Binding(id, name), Value::Binding(binding)) => {
                let at = self.workspace(own(id));
                if name.as_str() == MAIN && binding != Binding::default() {
                    (at.nodes, at.tools) = (binding.nodes, binding.tools);
                } else {
                    at.bind.insert(name.clone(), binding);
                }
            }
            (Key::Rule(at), Value::Rule(rule)) => {
                self.workspace(at.domain.clone()).rules.insert(at.name.clone(), rule.into());
            }
            (Key::Device(peer), Value::Device(Device { title, icon, people })) => {
                if let Some(node) = devices.node(peer) {
                    self.devices.insert(node, DeviceSettings { name: title, icon, people });
                }
            }
            (Key::Check(name), Value::Check(check)) => {
                self.checks.insert(name.clone(), check);
            }
            (
                Key::Person(_)
                | Key::Agent(..)
                | Key::Token(_)
                | Key::Workspace(_)
                | Key::Member(..)
                | Key::Binding(..)
                | Key::Rule(_)
                | Key::Device(_)
                | Key::Mode
                | Key::Check(_)
                | Key::Tools(_),
                _,
            ) => {}
        }
    }

    /// The same as TOML: [`Self::parse`] reads it back.
    ///
    /// # Panics
    /// Never: every type here has a form in TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("tables of texts, lists and truths")
    }

    /// All that is no error and most likely a mistake: names of people that nobody has.
    #[must_use]
    pub fn warnings(&self, is_person: &dyn Fn(&PersonId) -> bool, text: Option<&str>) -> Vec<PolicyWarning> {
        let known = |person: &PersonId| person.is_owner() || self.people.contains_key(person) || is_person(person);
        let mut warnings = Vec::new();
        let mut look = |keys: &[&str], person: &PersonId| {
            if !known(person) {
                let cause = format!("nobody is called `{person}`: add `[people.{person}]`, or correct the name");
                let line = text.and_then(|text| line_of_keys(text, keys));
                warnings.push(PolicyError { line, at: joined(keys), cause, twin: None });
            }
        };
        for AgentRef { person, agent } in self.agents.keys() {
            look(&["agents", &format!("{person}/{agent}")], person);
        }
        for (node, device) in &self.devices {
            device.people.iter().for_each(|person| look(&["devices", node.as_str(), "people"], person));
        }
        for (domain, workspace) in &self.workspaces {
            let domain = domain.to_string();
            for seat in workspace.members.keys() {
                if let Seat::Person(person) = seat {
                    look(&["workspaces", &domain, "members", person.as_str()], person);
                }
            }
            for (name, rule) in &workspace.rules {
                let keys = |list| ["workspaces", &domain, "rules", name.as_str(), list];
                for who in rule.who.iter().flatten() {
                    let named = match who {
                        Who::Person(person) => Some(person.clone()),
                        Who::Agent(agents) => agents.person().and_then(|person| person.parse().ok()),
                        Who::Everyone | Who::People | Who::Agents | Who::Devices | Who::Role(_) | Who::Device(_) => {
                            None
                        }
                    };
                    if let Some(person) = named {
                        look(&keys("who"), &person);
                    }
                }
                for approver in rule.approvers.iter().flatten() {
                    if let Approver::Person(person) = approver {
                        look(&keys("approvers"), person);
                    }
                }
            }
        }
        for (name, check) in &self.checks {
            if let Some(person) = check.principal.person() {
                look(&["checks", name.as_str(), "principal"], person);
            }
        }
        warnings
    }
}

fn cause_of(error: &InvalidRecord) -> String {
    // People write it as a duration.
    if let InvalidRecord::Wait { wait_ms } = error {
        return format!("`wait` is {}, and may be 1s to 24h", show_duration(Duration::from_millis(*wait_ms)));
    }
    error.to_string()
}

impl WorkspaceSettings {
    /// Adds the records of this workspace. `Err` tells what may not stand in it.
    fn records(
        &self,
        domain: &Domain,
        devices: &dyn Devices,
        records: &mut BTreeMap<Key, Value>,
    ) -> Result<(), &'static str> {
        let Self { title, icon, nodes, tools, otherwise, members, bind, rules } = self.clone();
        for (name, rule) in rules {
            let at = RuleRef { domain: domain.clone(), name };
            records.insert(Key::Rule(at), Value::Rule(rule.record(devices)));
        }
        let main: Option<Binding> = (nodes.is_some() || tools.is_some()).then_some(Binding { nodes, tools });
        let Domain::Workspace(id) = domain else {
            let bare = Self { rules: self.rules.clone(), ..Self::default() };
            return if *self == bare {
                Ok(())
            } else {
                Err("`mesh` is no workspace: it has `rules`, which hold in all of them, and nothing else")
            };
        };
        records.insert(Key::Workspace(id.clone()), Value::Workspace(Workspace { title, icon, otherwise }));
        for (seat, role) in members {
            records.insert(Key::Member(id.clone(), seat), Value::Member(role));
        }
        for (name, binding) in bind {
            if name.as_str() == MAIN && main.is_some() {
                return Err("what `bind.main` says stands in the workspace itself: give it another name");
            }
            records.insert(Key::Binding(id.clone(), name), Value::Binding(binding));
        }
        if let Some(main) = main
            && let Ok(name) = MAIN.parse()
        {
            records.insert(Key::Binding(id.clone(), name), Value::Binding(main));
        }
        Ok(())
    }
}

impl RuleSettings {
    /// The record. An `always` is bound to the devices that have these names now: one that is paired anew is asked for again.
    #[must_use]
    pub fn record(self, devices: &dyn Devices) -> Rule {
        let Self { verdict, who, nodes, tools, approvers, wait, of, note } = self;
        let named = nodes.iter().flatten().filter_map(|node| node.to_string().parse().ok());
        let bound = match verdict {
            RuleVerdict::Always => named.filter_map(|node| devices.peer(&node)).collect(),
            RuleVerdict::Allow | RuleVerdict::Ask | RuleVerdict::Deny => Vec::new(),
        };
        let wait_ms = wait.map(|Wait(wait)| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        Rule { verdict, who, nodes, tools, approvers, wait_ms, of, bound, note }
    }
}

impl From<Rule> for RuleSettings {
    fn from(rule: Rule) -> Self {
        let Rule { verdict, who, nodes, tools, approvers, wait_ms, of, bound: _, note } = rule;
        let wait = wait_ms.map(|wait_ms| Wait(Duration::from_millis(wait_ms)));
        Self { verdict, who, nodes, tools, approvers, wait, of, note }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mesh of two.
    struct Two;

    impl Devices for Two {
        fn peer(&self, node: &NodeId) -> Option<PeerId> {
            match node.as_str() {
                "hub" => Some(PeerId([1; 32])),
                "panel" => Some(PeerId([2; 32])),
                _ => None,
            }
        }

        fn node(&self, peer: &PeerId) -> Option<NodeId> {
            ["hub", "panel"].iter().map(|name| name.parse().unwrap()).find(|node| self.peer(node) == Some(*peer))
        }
    }

    fn error(text: &str) -> String {
        let read = PolicySettings::parse(text).and_then(|settings| settings.records(&Two, Some(text)));
        read.unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_its_cause() {
        for (text, line, parts) in [
            ("\n[people", 2, vec![]),
            ("[people.mia]\nnmae = \"Mia\"", 2, vec!["nmae", "name"]),
            ("[people.mia]\nrole = \"boss\"", 2, vec!["boss", "guest"]),
            ("[people.Mia]\nname = \"Mia\"", 1, vec!["a-z"]),
            ("[agents.claude]", 1, vec!["agent:PERSON/NAME"]),
            (
                "[people.mia]\n\n[workspaces.x.rules.a]\nverdict = \"deny\"\ntoools = [\"a\"]",
                5,
                vec!["toools", "tools"],
            ),
            ("[workspaces.x.rules.a]\nverdict = \"deny\"\ntools = [\"a\", \"[x]\"]", 3, vec!["[x]"]),
            ("[workspaces.x.rules.a]\nverdict = \"ask\"\nwait = \"soon\"", 3, vec!["soon", "5m"]),
            ("[people.mia]\n[workspaces.x.rules.a]\nverdict = \"allow\"", 2, vec!["workspaces.x.rules.a", "`who`"]),
            ("\n[workspaces.x.rules.a]\nverdict = \"ask\"\nwait = \"2d\"", 2, vec!["2d", "24h"]),
            ("[workspaces.x.rules.a]\nverdict = \"deny\"\nwait = \"1m\"", 1, vec!["`wait` means nothing", "deny"]),
            ("[workspaces.mesh]\nmembers = { mia = \"member\" }", 1, vec!["workspaces.mesh", "`rules`"]),
            ("[workspaces.x]\nnodes = []\n[workspaces.x.bind.main]", 1, vec!["bind.main"]),
            (
                "[workspaces.x.rules.a]\nverdict = \"deny\"\n[workspaces.x.rules.b]\nverdict = \"deny\"\nnote = \"n\"",
                3,
                vec!["x/a"],
            ),
            ("[people.owner]\nname = \"Me\"", 1, vec!["people.owner", "suspended"]),
            (
                "[checks.c]\nprincipal = \"mia\"\nnode = \"hub\"\ntool = \"t\"\nexpect = \"deny\"",
                2,
                vec!["person:NAME"],
            ),
        ] {
            let told = error(text);
            assert!(told.starts_with(&format!("line {line}: ")), "{text}: {told}");
            assert!(parts.iter().all(|part| told.contains(part)), "{text}: {told}");
        }
    }

    #[test]
    fn other_sections_are_nobodys_business_here() {
        let text = "[node]\nname = \"hub\"\n[tools.x]\ncommand = \"x\"\n[people.mia]\n";
        let settings = PolicySettings::parse(text).unwrap();
        assert_eq!(settings.people.len(), 1);
        assert!(PolicySettings::parse("[node]\nname = \"hub\"").unwrap().is_empty());
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let text = r#"
[people.anna]
name = "Anna"
role = "owner"
[people.mia]
[agents."mia/robot"]
suspended = true
[devices.panel]
name = "Panel in the hall"
people = ["mia"]
[workspaces.mesh.rules.ask]
verdict = "ask"
tools = ["*.delete"]
[workspaces.family]
title = "Family"
nodes = ["hub", "tv-*"]
otherwise = { members = "allow" }
members = { mia = "member", "device:panel" = "guest" }
[workspaces.family.bind.all]
[workspaces.family.rules.doors]
verdict = "ask"
who = ["role:guest", "agent:*/claude"]
tools = []
approvers = ["self"]
wait = "1h30m"
note = "both \"doors\""
[workspaces.family.rules.lights]
verdict = "always"
who = ["agent:mia/claude"]
nodes = ["hub"]
tools = ["lights.on"]
of = ["family/doors"]
[checks.lights]
principal = "person:mia"
node = "hub"
tool = "lights.on"
expect = "allow"
"#;
        let settings = PolicySettings::parse(text).unwrap();
        let records = settings.records(&Two, Some(text)).unwrap();
        let back = PolicySettings::of(&records, &Two);
        assert_eq!(back, settings);
        let written = back.to_toml();
        assert_eq!(PolicySettings::parse(&written).unwrap(), settings, "{written}");
        assert_eq!(PolicySettings::parse(&written).unwrap().to_toml(), written);
        assert_eq!(settings.records(&Two, None).unwrap(), records);
        let Some(Value::Rule(rule)) = records.get(&Key::Rule("family/lights".parse().unwrap())) else { panic!() };
        assert_eq!(rule.bound, [PeerId([1; 32])]);
    }

    #[test]
    fn a_name_that_nobody_has_is_told() {
        let text = "[people.mia]\n[workspaces.x]\nmembers = { mai = \"member\" }\n[workspaces.x.rules.a]\nverdict = \"deny\"\nwho = [\"mia\", \"ben\"]";
        let settings = PolicySettings::parse(text).unwrap();
        let told: Vec<String> = settings
            .warnings(&|person| person.as_str() == "anna", Some(text))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("line 3: workspaces.x.members.mai: nobody is called `mai`"), "{told:?}");
        assert!(told[1].starts_with("line 6: workspaces.x.rules.a.who: nobody is called `ben`"), "{told:?}");
    }
}
