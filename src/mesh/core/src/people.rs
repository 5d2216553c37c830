//! Names of people, agents, workspaces and what belongs to them, and how they are written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{InvalidId, NodeId, text_form, text_id};

/// Words that mean something where a name could stand, so that nobody and nothing is called so.
const RESERVED: [&str; 12] =
    ["owner", "mesh", "everyone", "people", "agents", "devices", "any", "self", "me", "nobody", "default", "builtin"];

fn is_slug(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_free(text: &str) -> bool {
    is_slug(text) && !RESERVED.contains(&text)
}

text_id!(
    /// A person, such as `mia`. [`PersonId::is_owner`] is who sits at an owner's device that is nobody's.
    PersonId, "person", "it must be 1 to 63 of a-z, 0-9 and -, not starting or ending with -, and no word of the rules",
    |text| is_free(text) || text == "owner"
);
text_id!(
    /// An agent of a person: a client of MCP, a script.
    AgentName, "agent", "it must be 1 to 63 of a-z, 0-9 and -, not starting or ending with -, and no word of the rules",
    is_free
);
text_id!(
    /// A workspace.
    WorkspaceId, "workspace",
    "it must be 1 to 63 of a-z, 0-9 and -, not starting or ending with -, and no word of the rules",
    is_free
);
text_id!(
    /// A binding or a rule in its workspace, or a check.
    Name, "name", "it must be 1 to 63 of a-z, 0-9 and -, not starting or ending with -, and no word of the rules",
    is_free
);
text_id!(
    /// A token, by the name that its door gave it.
    TokenId, "token", "it must be 1 to 63 of a-z, 0-9 and -, not starting or ending with -",
    is_slug
);

impl PersonId {
    /// The person at an owner-tier device that no person is assigned to; an owner of the mesh.
    ///
    /// # Panics
    /// Never: the name is a constant.
    #[must_use]
    pub fn owner() -> Self {
        "owner".parse().expect("a constant")
    }

    /// True of [`Self::owner`].
    #[must_use]
    pub fn is_owner(&self) -> bool {
        self.as_str() == "owner"
    }
}

/// The asker: `person:mia`, `agent:mia/claude` or `device:panel-hall`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Principal {
    /// A person herself.
    Person(PersonId),
    /// Something that acts for a person.
    Agent(PersonId, AgentName),
    /// A device that acts for nobody.
    Device(NodeId),
}

text_form!(Principal);

impl Principal {
    /// The person who asks or is asked for; `None` of a device.
    #[must_use]
    pub const fn person(&self) -> Option<&PersonId> {
        match self {
            Self::Person(person) | Self::Agent(person, _) => Some(person),
            Self::Device(_) => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(person) => write!(f, "person:{person}"),
            Self::Agent(person, agent) => write!(f, "agent:{person}/{agent}"),
            Self::Device(node) => write!(f, "device:{node}"),
        }
    }
}

impl FromStr for Principal {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::new("principal", "it must be person:NAME, agent:PERSON/NAME or device:NODE", text);
        match text.split_once(':').ok_or_else(invalid)? {
            ("person", person) => person.parse().map(Self::Person),
            ("agent", agent) => {
                let (person, agent) = agent.split_once('/').ok_or_else(invalid)?;
                Ok(Self::Agent(person.parse()?, agent.parse()?))
            }
            ("device", node) => node.parse().map(Self::Device),
            _ => Err(invalid()),
        }
    }
}

/// Whom a workspace can have as a member: `mia`, or `device:panel-hall`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Seat {
    /// A person, and with her her agents.
    Person(PersonId),
    /// A device that acts for nobody.
    Device(NodeId),
}

text_form!(Seat);

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(person) => write!(f, "{person}"),
            Self::Device(node) => write!(f, "device:{node}"),
        }
    }
}

impl FromStr for Seat {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.strip_prefix("device:") {
            Some(node) => node.parse().map(Self::Device),
            None => text.parse().map(Self::Person),
        }
    }
}

/// Where rules stand: in a workspace, or in `mesh`, whose rules hold in all of them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Domain {
    /// The mesh. It comes first wherever rules are named in order.
    Mesh,
    /// One workspace.
    Workspace(WorkspaceId),
}

text_form!(Domain);

impl Domain {
    /// The workspace; `None` of the mesh.
    #[must_use]
    pub const fn workspace(&self) -> Option<&WorkspaceId> {
        match self {
            Self::Mesh => None,
            Self::Workspace(workspace) => Some(workspace),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Workspace(workspace) => write!(f, "{workspace}"),
        }
    }
}

impl FromStr for Domain {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text == "mesh" { Ok(Self::Mesh) } else { text.parse().map(Self::Workspace) }
    }
}

/// A rule by its full name, such as `family/doors-ask`. `family/otherwise` is what that workspace says where no rule
/// speaks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuleRef {
    /// Where it stands.
    pub domain: Domain,
    /// Its name there.
    pub name: Name,
}

text_form!(RuleRef);

impl RuleRef {
    /// The `otherwise` of a workspace.
    ///
    /// # Panics
    /// Never: the name is a constant.
    #[must_use]
    pub fn otherwise(workspace: &WorkspaceId) -> Self {
        Self { domain: Domain::Workspace(workspace.clone()), name: "otherwise".parse().expect("a constant") }
    }

    /// True of what [`Self::otherwise`] makes; no rule may be called so.
    #[must_use]
    pub fn is_otherwise(&self) -> bool {
        self.name.as_str() == "otherwise"
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.name)
    }
}

impl FromStr for RuleRef {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (domain, name) = text
            .split_once('/')
            .ok_or_else(|| InvalidId::new("rule", "it must be WORKSPACE/NAME, or mesh/NAME", text))?;
        Ok(Self { domain: domain.parse()?, name: name.parse()? })
    }
}

/// Standing of a person in the mesh, of a person or device in a workspace. The order is that of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Has what rules give to guests.
    Guest,
    /// One of the people.
    #[default]
    Member,
    /// Manages a workspace, but not what belongs to it; in the mesh also people up to members.
    Admin,
    /// Manages everything.
    Owner,
}

impl Role {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        [Self::Guest, Self::Member, Self::Admin, Self::Owner]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| InvalidId::new("role", "it must be owner, admin, member or guest", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{decode, encode};

    #[test]
    fn principals_are_read_as_they_are_written() {
        for text in ["person:mia", "person:owner", "agent:mia/claude", "agent:owner/ci", "device:panel-hall"] {
            let principal: Principal = text.parse().unwrap();
            assert_eq!(principal.to_string(), text);
            assert_eq!(decode::<Principal>(&encode(&principal)), Some(principal));
        }
        for bad in
            ["mia", "person:", "person:Mia", "person:everyone", "agent:mia", "agent:mia/self", "device:a:b", "x:y"]
        {
            assert!(bad.parse::<Principal>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_name_is_a_word_of_the_rules() {
        for word in RESERVED {
            assert!(word.parse::<WorkspaceId>().is_err() && word.parse::<Name>().is_err(), "{word}");
            assert_eq!(word.parse::<PersonId>().is_ok(), word == "owner");
        }
        assert_eq!("mesh/no-shell".parse::<RuleRef>().unwrap().domain, Domain::Mesh);
        assert!("family/".parse::<RuleRef>().is_err() && "family".parse::<RuleRef>().is_err());
    }

    #[test]
    fn rules_of_the_mesh_are_named_before_those_of_workspaces() {
        let mut refs: Vec<RuleRef> =
            ["family/doors", "zoo/a", "mesh/z", "family/alarm"].map(|text| text.parse().unwrap()).to_vec();
        refs.sort();
        assert_eq!(
            refs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["mesh/z", "family/alarm", "family/doors", "zoo/a"]
        );
    }
}
