//! Words of owners about people, places and rules, as the edits that say them.

use mesh_core::ids::{Hash, PeerId};
use mesh_core::policy::{
    Agent, Binding, Device, DeviceTools, Key, Offered, Otherwise, Person, Principal, Rule, RuleVerdict, Seat, Title,
    Token, Value, Verdict, Workspace,
};

use super::rights::{Changes, constant};
use crate::plan::Word;

/// The edits; `id_of`: the peer of a number.
pub(super) fn changes(word: &Word, id_of: impl Fn(usize) -> PeerId) -> Changes {
    match word {
        Word::Person { person, role, suspended } => {
            let record = |role| Value::Person(Person { role, suspended: *suspended, ..Person::default() });
            vec![(Key::Person(constant(person)), role.map(record))]
        }
        Word::Agent { agent, suspended } => {
            let Principal::Agent(person, name) = constant(&format!("agent:{agent}")) else { return Vec::new() };
            let record = Value::Agent(Agent { suspended: *suspended, ..Agent::default() });
            vec![(Key::Agent(person, name), Some(record))]
        }
        Word::Sits { peer, people } => {
            let people = people.iter().map(|person| constant(person)).collect();
            vec![(Key::Device(id_of(*peer)), Some(Value::Device(Device { people, ..Device::default() })))]
        }
        Word::Seat { workspace, person, role } => {
            vec![(Key::Member(constant(workspace), Seat::Person(constant(person))), role.map(Value::Member))]
        }
        Word::Workspace { workspace, tools, members, agents } => {
            let otherwise =
                Otherwise { members: *members, agents: *agents, guests: Verdict::Deny, devices: Verdict::Deny };
            let tools = Some(tools.iter().map(|tool| constant(tool)).collect());
            vec![
                (
                    Key::Workspace(constant(workspace)),
                    Some(Value::Workspace(Workspace { otherwise, ..Workspace::default() })),
                ),
                (
                    Key::Binding(constant(workspace), constant("main")),
                    Some(Value::Binding(Binding { nodes: None, tools })),
                ),
            ]
        }
        Word::Tools { peer, tools } => {
            let offered = crate::node::tools().into_iter().map(|tool| Offered::of(&tool));
            let approved = offered.filter(|tool| tools.iter().any(|name| *name == tool.name.as_str()));
            let approved = approved.map(|tool| (tool.name, tool.hash)).collect();
            vec![(Key::Tools(id_of(*peer)), Some(Value::Tools(DeviceTools { approved })))]
        }
        Word::Token { token, holder, tools } => {
            let record = Value::Token(Token {
                title: Title::default(),
                holder: constant(holder),
                hash: Hash::of(token.as_bytes()),
                nodes: None,
                tools: Some(tools.iter().map(|tool| constant(tool)).collect()),
                read_only: false,
                expires_ms: None,
            });
            vec![(Key::Token(constant(token)), (!tools.is_empty()).then_some(record))]
        }
        Word::Rule { at, who, tools, verdict, wait_ms } => {
            let rule = verdict.map(|verdict| {
                Value::Rule(Rule {
                    who: (!who.is_empty()).then(|| who.iter().map(|who| constant(who)).collect()),
                    tools: Some(tools.iter().map(|tool| constant(tool)).collect()),
                    wait_ms: wait_ms.filter(|_| verdict == RuleVerdict::Ask),
                    ..Rule::of(verdict)
                })
            });
            vec![(Key::Rule(constant(at)), rule)]
        }
    }
}
