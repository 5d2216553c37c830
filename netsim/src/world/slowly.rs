//! All that a peer holds about rights, read once more without the product's registers, merge and compiled view: what holds of each
//! key by what was said and nobody replaced who knew it, for the slow evaluator of the test kit.

use std::collections::BTreeMap;

use mesh_core::ids::PeerId;
use mesh_core::io::View;
use mesh_core::policy::{
    Content, Device, DeviceFacts, DeviceTools, Given, Key, Mode, Offered, Otherwise, Person, Request, RuleVerdict,
    Token, Value, Verdict, Workspace,
};
use mesh_core::test_kit::slow;

use super::statements::Statements;

/// See the module.
pub(super) struct Settled {
    records: BTreeMap<Key, Value>,
    devices: BTreeMap<PeerId, DeviceFacts>,
    given: Vec<Given>,
}

impl Settled {
    /// `None`: somebody said what no record can say that all heads agree in. Plans of rules do not.
    pub(super) fn of(view: &View, statements: &Statements) -> Option<Self> {
        let mut records = BTreeMap::new();
        for key in view.said.keys() {
            let contents = statements.counting(&view.said, key);
            if let Some(value) = merged(key, &contents)? {
                records.insert(key.clone(), value);
            }
        }
        let devices = view.nodes.iter().map(|node| {
            let facts = DeviceFacts {
                peer: node.peer,
                node: node.node_id.clone(),
                confirmed: node.confirmed,
                tier: node.tier,
                trusted: true,
                untagged: node.untagged,
                scope: node.stay.as_ref().and_then(|stay| stay.scope.clone()),
                tools: node.tools().iter().map(Offered::of).collect(),
                deny: node.directory.as_ref().map(|directory| directory.deny.clone()).unwrap_or_default(),
            };
            (node.peer, facts)
        });
        let given = view.rights.consents().all().cloned().collect();
        Some(Self { records, devices: devices.collect(), given })
    }

    /// Verdict, and the rule that it goes by.
    pub(super) fn decide(&self, request: &Request) -> (Verdict, String) {
        slow::decide(slow::World { records: &self.records, devices: &self.devices, given: &self.given }, request)
    }
}

/// What holds of a key: nothing, or this.
type Holds = Option<Value>;

/// What holds of a key by all heads of what was said about it; `Some(None)`: nothing.
fn merged(key: &Key, heads: &[&Content]) -> Option<Holds> {
    let mut values = Vec::new();
    let mut gone = false;
    for content in heads {
        match content {
            Content::Value(value) => values.push((**value).clone()),
            Content::Deleted => gone = true,
            Content::Unreadable => return None,
        }
    }
    let Some(first) = values.first().cloned() else { return Some(None) };
    let one = || values.iter().all(|value| *value == first).then(|| first.clone());
    match key {
        Key::Mode => {
            let left = values.contains(&Value::Mode(Mode::Workspaces));
            Some(Some(if left { Value::Mode(Mode::Workspaces) } else { first }))
        }
        Key::Agent(..) => {
            let is_suspended = |value: &&Value| matches!(value, Value::Agent(agent) if agent.suspended);
            let suspended = values.iter().find(is_suspended).cloned();
            Some(suspended.or_else(|| (!gone).then_some(first)))
        }
        Key::Rule(_) => rule(&values, gone),
        Key::Check(_) => Some(None),
        _ if gone => Some(None),
        Key::Person(_) | Key::Workspace(_) | Key::Member(..) | Key::Device(_) | Key::Tools(_) | Key::Token(_) => {
            let both = values.into_iter().try_fold(first, stricter)?;
            Some(Some(both))
        }
        Key::Binding(..) => Some(Some(one()?)),
    }
}

/// Both of these, of one kind: what they have in common.
fn stricter(one: Value, other: Value) -> Option<Value> {
    Some(match (one, other) {
        (Value::Person(one), Value::Person(other)) => {
            Value::Person(Person { role: one.role.min(other.role), suspended: one.suspended || other.suspended, ..one })
        }
        (Value::Workspace(one), Value::Workspace(other)) => {
            let (a, b) = (one.otherwise, other.otherwise);
            let otherwise = Otherwise {
                members: a.members.max(b.members),
                guests: a.guests.max(b.guests),
                agents: a.agents.max(b.agents),
                devices: a.devices.max(b.devices),
            };
            Value::Workspace(Workspace { otherwise, ..one })
        }
        (Value::Member(one), Value::Member(other)) => Value::Member(one.min(other)),
        (Value::Device(one), Value::Device(other)) => {
            let people = one.people.iter().filter(|person| other.people.contains(person)).cloned().collect();
            Value::Device(Device { people, ..one })
        }
        // A tool is approved in the form in which both approve it, and a token opens what both let it open.
        (Value::Tools(one), Value::Tools(other)) => {
            let both = one.approved.into_iter().filter(|(name, hash)| other.approved.get(name) == Some(hash));
            Value::Tools(DeviceTools { approved: both.collect() })
        }
        (Value::Token(one), Value::Token(other)) if one.holder == other.holder => {
            let (Some(opens), Some(too)) = (&one.tools, &other.tools) else { return None };
            let both = opens.iter().filter(|tool| too.contains(tool)).cloned().collect();
            Value::Token(Token { tools: Some(both), ..one })
        }
        _ => return None,
    })
}

/// Of heads that are about the same askers and tools the strictest verdict; what only gives is gone if one head took it away.
fn rule(values: &[Value], gone: bool) -> Option<Holds> {
    let rules: Vec<_> =
        values.iter().filter_map(|value| if let Value::Rule(rule) = value { Some(rule) } else { None }).collect();
    let strictest = (*rules.iter().max_by_key(|rule| rule.verdict)?).clone();
    let alike = rules.iter().all(|rule| (&rule.who, &rule.tools) == (&strictest.who, &strictest.tools));
    let takes = strictest.verdict >= RuleVerdict::Ask;
    if gone && !takes {
        return Some(None);
    }
    // Two that allow for ever may settle different asks, and an ask that also gives is no record once a head took it away.
    let mixed = strictest.verdict == RuleVerdict::Always && rules.iter().any(|rule| **rule != strictest)
        || strictest.verdict == RuleVerdict::Ask && strictest.who.is_some();
    (alike && !mixed).then_some(Some(Value::Rule(strictest)))
}
