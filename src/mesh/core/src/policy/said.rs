//! The body of an entry about rights: what one author says of one key, and what he knew when he said it.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::records::{InvalidRecord, Key, Mode, RuleVerdict, TOOLS_BYTES_MAX, Value};
use crate::entry::{decode, encode};
use crate::ids::Known;
use crate::people::{Principal, Role};

/// Most logs that one statement says it knew.
pub const KNEW_MAX: usize = crate::limits::MARK_MAX;

/// A statement as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Hybrid clock of its entry: of texts the newest counts.
    pub hlc: u64,
    /// All that it says.
    pub said: Said,
}

/// All that is said of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// This holds.
    Value(Box<Value>),
    /// It is taken away.
    Deleted,
    /// Something that is not understood here. It counts for the strictest that it could be.
    Unreadable,
}

impl Content {
    /// True of what takes away and gives nothing, as far as it says so by itself: a deletion, a ban or an ask, a
    /// suspension, and the mode, by which workspaces are left.
    #[must_use]
    pub fn takes(&self) -> bool {
        match self {
            Self::Deleted => true,
            Self::Unreadable => false,
            Self::Value(value) => match &**value {
                Value::Rule(rule) => rule.verdict >= RuleVerdict::Ask,
                Value::Person(person) => person.suspended,
                Value::Agent(agent) => agent.suspended,
                Value::Mode(_) => true,
                Value::Token(_)
                | Value::Workspace(_)
                | Value::Member(_)
                | Value::Binding(_)
                | Value::Device(_)
                | Value::Check(_)
                | Value::Tools(_) => false,
            },
        }
    }
}

impl Value {
    /// Of two values of one key the higher takes more, or both are alike here.
    pub(super) fn strictness(&self) -> (bool, Reverse<Role>, RuleVerdict) {
        let none = (false, Reverse(Role::Owner), RuleVerdict::Always);
        match self {
            Self::Rule(rule) => (none.0, none.1, rule.verdict),
            Self::Person(person) => (person.suspended, Reverse(person.role), none.2),
            Self::Agent(agent) => (agent.suspended, none.1, none.2),
            Self::Member(role) => (none.0, Reverse(*role), none.2),
            Self::Mode(mode) => (*mode == Mode::Workspaces, none.1, none.2),
            Self::Token(_)
            | Self::Workspace(_)
            | Self::Binding(_)
            | Self::Device(_)
            | Self::Check(_)
            | Self::Tools(_) => none,
        }
    }
}

/// One statement about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its subject.
    pub key: Key,
    /// All that is said of it.
    pub content: Content,
    /// One more than the highest of the statements that it knew of. It replaces nothing: of several texts that count the
    /// highest is shown.
    pub generation: u64,
    /// Up to where in which logs its author knew what was said of this key, in order of the logs; of one log also two
    /// places, the last that he held and what others say that they knew. Statements of his own log are known to him in any
    /// case. At most [`KNEW_MAX`].
    pub knew: Vec<Known>,
    /// The editor.
    pub by: Principal,
    /// True if it comes from a file of settings.
    pub declared: bool,
}

/// The signed form. The value is a record of its own, so that the key can be read where that cannot.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    key: Key,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<ByteBuf>,
    generation: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    knew: Vec<Known>,
    by: Principal,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    declared: bool,
}

fn write(value: &Value) -> Vec<u8> {
    match value {
        Value::Person(value) => encode(value),
        Value::Agent(value) => encode(value),
        Value::Token(value) => encode(value),
        Value::Workspace(value) => encode(value),
        Value::Member(value) => encode(value),
        Value::Binding(value) => encode(value),
        Value::Rule(value) => encode(value),
        Value::Device(value) => encode(value),
        Value::Mode(value) => encode(value),
        Value::Check(value) => encode(value),
        Value::Tools(value) => encode(value),
    }
}

fn read(key: &Key, bytes: &[u8]) -> Option<Value> {
    let value = match key {
        Key::Person(_) => decode(bytes).map(Value::Person),
        Key::Agent(..) => decode(bytes).map(Value::Agent),
        Key::Token(_) => decode(bytes).map(Value::Token),
        Key::Workspace(_) => decode(bytes).map(Value::Workspace),
        Key::Member(..) => decode(bytes).map(Value::Member),
        Key::Binding(..) => decode(bytes).map(Value::Binding),
        Key::Rule(_) => decode(bytes).map(Value::Rule),
        Key::Device(_) => decode(bytes).map(Value::Device),
        Key::Mode => decode(bytes).map(Value::Mode),
        Key::Check(_) => decode(bytes).map(Value::Check),
        Key::Tools(_) => decode(bytes).map(Value::Tools),
    };
    value.filter(|value| value.check(key).is_ok())
}

impl Said {
    /// The body of its entry.
    ///
    /// # Errors
    /// When the value breaks a bound, or the whole takes more than [`Key::bytes_max`].
    pub fn to_body(&self) -> Result<Vec<u8>, InvalidRecord> {
        let value = match &self.content {
            Content::Value(value) => {
                value.check(&self.key)?;
                Some(ByteBuf::from(write(value)))
            }
            Content::Deleted => None,
            Content::Unreadable => Some(ByteBuf::new()),
        };
        let Self { key, content: _, generation, knew, by, declared } = self;
        if knew.len() > KNEW_MAX {
            return Err(InvalidRecord::TooMany { field: "knew", count: knew.len(), max: KNEW_MAX });
        }
        let body = Body {
            key: key.clone(),
            value,
            generation: *generation,
            knew: knew.clone(),
            by: by.clone(),
            declared: *declared,
        };
        let bytes = encode(&body);
        let max = self.key.bytes_max();
        if bytes.len() > max { Err(InvalidRecord::TooLarge { bytes: bytes.len(), max }) } else { Ok(bytes) }
    }

    /// Reads a body. `None` when not even its key can be read, or it is over its limits.
    #[must_use]
    pub fn from_body(bytes: &[u8]) -> Option<Self> {
        let body: Body = (bytes.len() <= TOOLS_BYTES_MAX).then(|| decode(bytes))??;
        let Body { key, value, generation, knew, by, declared } = body;
        if knew.len() > KNEW_MAX || bytes.len() > key.bytes_max() {
            return None;
        }
        let content = match value {
            None => Content::Deleted,
            Some(bytes) => read(&key, &bytes).map_or(Content::Unreadable, |value| Content::Value(Box::new(value))),
        };
        Some(Self { key, content, generation, knew, by, declared })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::records::{
        Agent, Binding, Check, Device, DeviceTools, Mode, Otherwise, Person, Rule, RuleVerdict, Title, Token, Verdict,
        Workspace,
    };
    use super::super::{Role, Seat};
    use super::*;
    use crate::ids::{Hash, Incarnation, PeerId};

    fn said(key: Key, content: Content) -> Said {
        let knew = vec![Known { author: PeerId([7; 32]), incarnation: Incarnation(3), seq: 9 }];
        Said { key, content, generation: 2, knew, by: "person:anna".parse().unwrap(), declared: true }
    }

    /// One of each kind, with every field in use.
    fn examples() -> Vec<(Key, Value)> {
        let peer = PeerId([5; 32]);
        let (ws, name) = ("family".parse::<super::super::WorkspaceId>().unwrap(), "main".parse().unwrap());
        let nodes = Some(vec!["cam-*".parse().unwrap()]);
        let tools = Some(vec!["node:hub:lights.*".parse().unwrap(), "tv.?".parse().unwrap()]);
        let person =
            Person { title: "Mia".parse().unwrap(), role: Role::Admin, logins: vec![Hash([1; 32])], suspended: true };
        vec![
            (Key::Person("mia".parse().unwrap()), Value::Person(person)),
            (
                Key::Agent("mia".parse().unwrap(), "claude".parse().unwrap()),
                Value::Agent(Agent { title: "x".parse().unwrap(), suspended: true }),
            ),
            (
                Key::Token("ha".parse().unwrap()),
                Value::Token(Token {
                    title: Title::default(),
                    holder: "agent:sean/ha".parse().unwrap(),
                    hash: Hash([2; 32]),
                    nodes: nodes.clone(),
                    tools: tools.clone(),
                    read_only: true,
                    expires_ms: Some(77),
                }),
            ),
            (
                Key::Workspace(ws.clone()),
                Value::Workspace(Workspace {
                    title: "Family".parse().unwrap(),
                    icon: "🏠".parse().unwrap(),
                    otherwise: Otherwise { agents: Verdict::Ask, ..Otherwise::default() },
                }),
            ),
            (Key::Member(ws.clone(), Seat::Device("panel".parse().unwrap())), Value::Member(Role::Guest)),
            (Key::Binding(ws.clone(), name), Value::Binding(Binding { nodes: nodes.clone(), tools: tools.clone() })),
            (
                Key::Rule("family/doors".parse().unwrap()),
                Value::Rule(Rule {
                    who: Some(vec!["agent:*/claude".parse().unwrap(), "role:guest".parse().unwrap()]),
                    nodes,
                    tools: tools.clone(),
                    approvers: Some(vec!["self".parse().unwrap(), "role:owner".parse().unwrap()]),
                    wait_ms: Some(5000),
                    note: "n".parse().unwrap(),
                    ..Rule::of(RuleVerdict::Ask)
                }),
            ),
            (
                Key::Device(peer),
                Value::Device(Device {
                    title: "t".parse().unwrap(),
                    icon: "i".parse().unwrap(),
                    people: vec!["mia".parse().unwrap()],
                }),
            ),
            (Key::Mode, Value::Mode(Mode::Workspaces)),
            (
                Key::Check("c".parse().unwrap()),
                Value::Check(Check {
                    principal: "person:mia".parse().unwrap(),
                    workspace: Some(ws),
                    node: "hub".parse().unwrap(),
                    tool: "lock.open".parse().unwrap(),
                    expect: Verdict::Ask,
                }),
            ),
            (
                Key::Tools(peer),
                Value::Tools(DeviceTools { approved: BTreeMap::from([("Lights.On".parse().unwrap(), Hash([3; 32]))]) }),
            ),
        ]
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        let mut kinds = Vec::new();
        for (key, value) in examples() {
            kinds.push(key.kind().0);
            for content in [Content::Value(Box::new(value.clone())), Content::Deleted, Content::Unreadable] {
                let said = said(key.clone(), content);
                assert_eq!(Said::from_body(&said.to_body().unwrap()), Some(said));
            }
        }
        assert_eq!(kinds, [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21]);
    }

    #[test]
    fn what_is_not_understood_is_told_from_what_is_deleted() {
        #[derive(Serialize)]
        struct Newer {
            verdict: &'static str,
            who: Vec<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            hours: Option<u8>,
        }
        let key = Key::Rule("family/doors".parse().unwrap());
        let body = |value: Vec<u8>| {
            let by = "person:anna".parse().unwrap();
            let value = Some(ByteBuf::from(value));
            encode(&Body { key: key.clone(), value, generation: 1, knew: Vec::new(), by, declared: false })
        };
        let newer =
            |verdict, who, hours| Said::from_body(&body(encode(&Newer { verdict, who, hours }))).unwrap().content;
        assert!(matches!(newer("allow", vec!["people"], None), Content::Value(_)));
        assert_eq!(newer("allow", vec!["people"], Some(8)), Content::Unreadable);
        assert_eq!(newer("perhaps", vec!["people"], None), Content::Unreadable);
        assert_eq!(newer("allow", vec!["[ab]"], None), Content::Unreadable);
        assert_eq!(Said::from_body(b"\x03nonsense"), None);
        assert_eq!(Said::from_body(&vec![3; TOOLS_BYTES_MAX + 1]), None);
    }

    #[test]
    fn all_tools_that_a_directory_may_name_can_be_approved() {
        let name = |n: usize| format!("{n:0>64}").parse().unwrap();
        let approved = (0..super::super::bounds::TOOLS_MAX).map(|n| (name(n), Hash([n as u8; 32]))).collect();
        let tools = said(Key::Tools(PeerId([1; 32])), Content::Value(Box::new(Value::Tools(DeviceTools { approved }))));
        assert_eq!(Said::from_body(&tools.to_body().unwrap()), Some(tools));
    }

    #[test]
    fn what_breaks_a_bound_is_not_written() {
        let key = Key::Rule("family/doors".parse().unwrap());
        let bad = said(key, Content::Value(Box::new(Value::Rule(Rule::of(RuleVerdict::Allow)))));
        assert_eq!(bad.to_body(), Err(InvalidRecord::WhoMissing));
    }
}
