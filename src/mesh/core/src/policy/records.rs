//! All that people can say about rights: one type for each kind of record, and the bounds of each.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::entry::Kind;
use crate::glob::{AgentPattern, NodePattern, ToolPattern};
use crate::ids::{Hash, InvalidId, MeshId, NodeId, PeerId, ToolName, text_form, text_id};
use crate::limits;
use crate::people::{AgentName, Name, PersonId, Principal, Role, RuleRef, Seat, TokenId, WorkspaceId};

/// Most patterns in one list.
pub const LIST_MAX: usize = 64;
/// Most bytes of one record, encoded, but for that of a device's tools.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Most characters of a title.
pub const TITLE_CHARS_MAX: usize = 64;
/// Most characters of a note.
pub const NOTE_CHARS_MAX: usize = 200;
/// Most tailnet users of one person.
pub const LOGINS_MAX: usize = 16;
/// Most people that one device may speak for.
pub const DEVICE_PEOPLE_MAX: usize = 8;
/// Most rules that one consent or one `always` rule is about.
pub const OF_MAX: usize = 8;
/// Longest time that a rule may let a call wait for a yes, in milliseconds: 24 h.
pub const WAIT_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// Time that a call waits for consent where its rule says nothing, in milliseconds: 10 min.
pub const WAIT_MS_DEFAULT: u64 = 10 * 60 * 1000;
/// Most tools of one device that can be approved: as many as a directory may name.
pub const TOOLS_MAX: usize = limits::TOOLS_MAX;
/// Most bytes of the record of a device's tools: that many names of 64 characters, each with its hash.
pub const TOOLS_BYTES_MAX: usize = 64 * 1024;

/// Neither a control character nor one that turns the direction of what follows.
fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

text_id!(
    /// Name for people, or an icon; may be empty.
    Title, "title", "it may have 64 characters, no control characters and none that turn the direction of text",
    |text| text.chars().count() <= TITLE_CHARS_MAX && text.chars().all(is_plain)
);
text_id!(
    /// Remark for people; may be empty.
    Note, "note", "it may have 200 characters, no control characters and none that turn the direction of text",
    |text| text.chars().count() <= NOTE_CHARS_MAX && text.chars().all(is_plain)
);

macro_rules! empty_by_default {
    ($($name:ident),*) => {$(
        impl Default for $name {
            fn default() -> Self {
                Self(String::new())
            }
        }

        impl $name {
            fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }
    )*};
}
empty_by_default!(Title, Note);

/// Why a record does not go in. The message is fit for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecord {
    /// A list is too long.
    #[error("`{field}` has {count} items, and may have {max}: say it with fewer, or in two rules")]
    TooMany {
        /// Which list.
        field: &'static str,
        /// Items that it has.
        count: usize,
        /// Items that it may have.
        max: usize,
    },
    /// Over [`Key::bytes_max`].
    #[error("this takes {bytes} bytes, and may take {max}: say it with less")]
    TooLarge {
        /// Bytes that it takes.
        bytes: usize,
        /// Bytes that it may take.
        max: usize,
    },
    /// A rule that gives, without `who`.
    #[error("a rule that gives must say to whom: set `who`, to `everyone` if you mean that")]
    WhoMissing,
    /// A field that means nothing beside this verdict.
    #[error("`{field}` means nothing in a rule that says {verdict}: leave it out")]
    Misplaced {
        /// The field.
        field: &'static str,
        /// The verdict.
        verdict: RuleVerdict,
    },
    /// An `always` rule that is not about exactly named things.
    #[error("a rule that says always needs `{0}`, and in it names without wildcards")]
    AlwaysInexact(&'static str),
    /// An `always` rule for asks of another workspace.
    #[error(
        "a rule that says always settles asks of its own workspace, and `{0}` is of another: set it beside that one"
    )]
    AlwaysElsewhere(RuleRef),
    /// A time beyond its limit.
    #[error("`wait` is {wait_ms} ms, and may be 1000 to {WAIT_MS_MAX}")]
    Wait {
        /// The time.
        wait_ms: u64,
    },
    /// A rule of the name that refers to a workspace's `otherwise`.
    #[error(
        "no rule may be called `otherwise`, which is what a workspace says where no rule speaks: choose another name"
    )]
    ReservedName,
    /// More than `suspended` of `owner`.
    #[error(
        "`owner` is who sits at a device of nobody's: it can be suspended, and nothing else; make a person instead"
    )]
    OwnerRecord,
    /// A value of another kind than its key.
    #[error("this value is not of the kind of its key")]
    OtherKind,
    /// The very same rule stands there already.
    #[error("rule `{0}` says the very same: change that one")]
    DuplicateRule(RuleRef),
    /// The mesh has as many as it may.
    #[error("there are {max} {what} already, which is all that may be: remove one first")]
    Full {
        /// Of what.
        what: &'static str,
        /// Greatest number.
        max: usize,
    },
    /// The thing that it belongs to is not there.
    #[error("there is no workspace `{0}`: make it first")]
    UnknownWorkspace(WorkspaceId),
}

fn list<T>(field: &'static str, items: &[T], max: usize) -> Result<(), InvalidRecord> {
    if items.len() > max { Err(InvalidRecord::TooMany { field, count: items.len(), max }) } else { Ok(()) }
}

fn patterns<T>(field: &'static str, items: Option<&Vec<T>>) -> Result<(), InvalidRecord> {
    items.map_or(Ok(()), |items| list(field, items, LIST_MAX))
}

/// Answer to a call. The order is that of strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It may run.
    Allow,
    /// It may run once somebody says yes.
    Ask,
    /// It does not run.
    Deny,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Verdict of a rule. The order is that of strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleVerdict {
    /// The asks that it names need no yes any more.
    Always,
    /// It may be used.
    Allow,
    /// It may be used with a yes each time.
    Ask,
    /// It may not be used.
    Deny,
}

impl fmt::Display for RuleVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        })
    }
}

/// Whom a rule is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Who {
    /// Everybody and everything that can ask.
    Everyone,
    /// People that are members or more where the rule stands.
    People,
    /// Agents of anyone.
    Agents,
    /// Devices that ask for themselves.
    Devices,
    /// People and devices of exactly this role where the rule stands; never agents.
    Role(Role),
    /// This person, and not her agents.
    Person(PersonId),
    /// Agents by name.
    Agent(AgentPattern),
    /// Devices that ask for themselves, by name.
    Device(NodePattern),
}

text_form!(Who);

impl Who {
    fn is_exact(&self) -> bool {
        match self {
            Self::Person(_) => true,
            Self::Agent(pattern) => pattern.is_exact(),
            Self::Device(pattern) => pattern.is_exact(),
            Self::Everyone | Self::People | Self::Agents | Self::Devices | Self::Role(_) => false,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("everyone"),
            Self::People => f.write_str("people"),
            Self::Agents => f.write_str("agents"),
            Self::Devices => f.write_str("devices"),
            Self::Role(role) => write!(f, "role:{role}"),
            // Alone the word would be taken for the role.
            Self::Person(person) if person.is_owner() => write!(f, "person:{person}"),
            Self::Person(person) => write!(f, "{person}"),
            Self::Agent(pattern) => write!(f, "agent:{pattern}"),
            Self::Device(pattern) => write!(f, "device:{pattern}"),
        }
    }
}

impl FromStr for Who {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match (text, text.split_once(':')) {
            ("everyone", _) => Ok(Self::Everyone),
            ("people", _) => Ok(Self::People),
            ("agents", _) => Ok(Self::Agents),
            ("devices", _) => Ok(Self::Devices),
            (_, Some(("role", role))) => role.parse().map(Self::Role),
            (_, Some(("agent", pattern))) => pattern.parse().map(Self::Agent),
            (_, Some(("device", pattern))) => pattern.parse().map(Self::Device),
            (_, Some(("person", person))) => person.parse().map(Self::Person),
            ("owner", _) => Err(InvalidId::new("who", "write role:owner for owners", text)),
            (_, None) => text.parse().map(Self::Person),
            (_, Some(_)) => Err(InvalidId::new(
                "who",
                "it must be a person, role:ROLE, people, agents, devices, everyone, agent:PERSON/AGENT or device:NODE",
                text,
            )),
        }
    }
}

/// Those who may say yes to what a rule asks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Approver {
    /// The person who asks, or whose agent asks.
    Myself,
    /// People that are members or more where the rule stands.
    People,
    /// People of exactly this role where the rule stands.
    Role(Role),
    /// This person.
    Person(PersonId),
}

text_form!(Approver);

impl fmt::Display for Approver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Myself => f.write_str("self"),
            Self::People => f.write_str("people"),
            Self::Role(role) => write!(f, "role:{role}"),
            Self::Person(person) => write!(f, "{person}"),
        }
    }
}

impl FromStr for Approver {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match (text, text.split_once(':')) {
            ("self", _) => Ok(Self::Myself),
            ("people", _) => Ok(Self::People),
            (_, Some(("role", role))) => role.parse().map(Self::Role),
            ("owner", _) => Err(InvalidId::new("approver", "write role:owner for owners", text)),
            (_, None) => text.parse().map(Self::Person),
            (_, Some(_)) => {
                Err(InvalidId::new("approver", "only people approve: a person, role:ROLE, people or self", text))
            }
        }
    }
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Person {
    /// Name for people.
    #[serde(skip_serializing_if = "Title::is_empty")]
    pub title: Title,
    /// Standing in the mesh.
    pub role: Role,
    /// Users of the tailnet that she is: SHA-256 of mesh id and user. At most [`LOGINS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logins: Vec<Hash>,
    /// True if nothing may be asked for her.
    pub suspended: bool,
}

impl Person {
    /// A login of a tailnet as a record has it: nothing leads back from it to a mail address for whoever does not know it.
    /// Capitals do not count, as they do not where people log in.
    #[must_use]
    pub fn login(mesh: &MeshId, login: &str) -> Hash {
        Hash::of(&[mesh.0.as_slice(), login.to_lowercase().as_bytes()].concat())
    }
}

/// An agent. One without a record exists all the same: its person stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// Name for people.
    #[serde(skip_serializing_if = "Title::is_empty")]
    pub title: Title,
    /// True if nothing may be asked by it.
    pub suspended: bool,
}

/// A token: a credential for one principal, which may be narrower than what the principal may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Name for people.
    #[serde(default, skip_serializing_if = "Title::is_empty")]
    pub title: Title,
    /// Whom it is for.
    pub holder: Principal,
    /// SHA-256 of its 256 random bits.
    pub hash: Hash,
    /// Devices that it opens; absent = all, empty = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodePattern>>,
    /// Tools that it opens; absent = all, empty = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<ToolPattern>>,
    /// True if it calls no tool.
    #[serde(default)]
    pub read_only: bool,
    /// Its end by the wall clock of the door, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// Answer of a workspace to whom no rule of it speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Otherwise {
    /// To its members.
    pub members: Verdict,
    /// To its guests.
    pub guests: Verdict,
    /// To agents of people in it.
    pub agents: Verdict,
    /// To devices in it.
    pub devices: Verdict,
}

impl Default for Otherwise {
    fn default() -> Self {
        Self { members: Verdict::Deny, guests: Verdict::Deny, agents: Verdict::Deny, devices: Verdict::Deny }
    }
}

/// A workspace: people and devices that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workspace {
    /// Name for people.
    #[serde(skip_serializing_if = "Title::is_empty")]
    pub title: Title,
    /// Sign for people.
    #[serde(skip_serializing_if = "Title::is_empty")]
    pub icon: Title,
    /// Verdict where no rule speaks.
    pub otherwise: Otherwise,
}

/// All that belongs to a workspace: tools of devices. A workspace without a binding holds nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Binding {
    /// Absent = all, also later ones; empty = none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodePattern>>,
    /// Absent = all, also later ones; empty = none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<ToolPattern>>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// All that it says.
    pub verdict: RuleVerdict,
    /// Whom it is about. Absent in a deny or ask = everyone, and then an ask gives nothing; empty = nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Vec<Who>>,
    /// Devices; absent = all, empty = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodePattern>>,
    /// Tools; absent = all, empty = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<ToolPattern>>,
    /// Of an ask: who may say yes. Absent = who manages the workspace, and of an agent's own ask its person; empty =
    /// nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvers: Option<Vec<Approver>>,
    /// Of an ask: how long a call waits for consent, in milliseconds. Absent = [`WAIT_MS_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// Of an `always`: the asks that it settles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<RuleRef>,
    /// Of an `always`: the devices as they were paired when it was said. One that is paired anew is asked for again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound: Vec<PeerId>,
    /// Remark for people.
    #[serde(default, skip_serializing_if = "Note::is_empty")]
    pub note: Note,
}

impl Rule {
    /// A rule of this verdict about everything and everyone.
    #[must_use]
    pub fn of(verdict: RuleVerdict) -> Self {
        Self {
            verdict,
            who: None,
            nodes: None,
            tools: None,
            approvers: None,
            wait_ms: None,
            of: Vec::new(),
            bound: Vec::new(),
            note: Note::default(),
        }
    }

    /// True if both say the same, whatever their notes.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let bare = |rule: &Self| Self { note: Note::default(), ..rule.clone() };
        bare(self) == bare(other)
    }

    fn check(&self, at: &RuleRef) -> Result<(), InvalidRecord> {
        let Self { verdict, who, nodes, tools, approvers, wait_ms, of, bound, note: _ } = self;
        if at.is_otherwise() {
            return Err(InvalidRecord::ReservedName);
        }
        patterns("who", who.as_ref())?;
        patterns("nodes", nodes.as_ref())?;
        patterns("tools", tools.as_ref())?;
        patterns("approvers", approvers.as_ref())?;
        list("of", of, OF_MAX)?;
        list("bound", bound, LIST_MAX)?;
        let misplaced = |field| Err(InvalidRecord::Misplaced { field, verdict: *verdict });
        if *verdict <= RuleVerdict::Allow && who.is_none() {
            return Err(InvalidRecord::WhoMissing);
        }
        if *verdict == RuleVerdict::Ask {
            if let Some(wait_ms) = *wait_ms
                && !(1000..=WAIT_MS_MAX).contains(&wait_ms)
            {
                return Err(InvalidRecord::Wait { wait_ms });
            }
        } else if approvers.is_some() {
            return misplaced("approvers");
        } else if wait_ms.is_some() {
            return misplaced("wait");
        }
        if *verdict == RuleVerdict::Always {
            let exact = |field, good: bool| if good { Ok(()) } else { Err(InvalidRecord::AlwaysInexact(field)) };
            exact("who", who.iter().flatten().all(Who::is_exact))?;
            exact("nodes", nodes.as_ref().is_some_and(|nodes| nodes.iter().all(NodePattern::is_exact)))?;
            exact("tools", tools.as_ref().is_some_and(|tools| tools.iter().all(ToolPattern::is_exact)))?;
            exact("of", !of.is_empty())?;
            if let Some(other) = of.iter().find(|ask| ask.domain != at.domain) {
                return Err(InvalidRecord::AlwaysElsewhere(other.clone()));
            }
        } else if !of.is_empty() {
            return misplaced("of");
        } else if !bound.is_empty() {
            return misplaced("bound");
        }
        Ok(())
    }
}

/// All that people say about a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// Name for people.
    #[serde(skip_serializing_if = "Title::is_empty")]
    pub title: Title,
    /// Sign for people.
    #[serde(skip_serializing_if = "Title::is_empty")]
    pub icon: Title,
    /// People that may be spoken for there. At most [`DEVICE_PEOPLE_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub people: Vec<PersonId>,
}

/// True if rights are those of workspaces or of tiers alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Owner-tier devices call everything, others what its device declares open.
    #[default]
    Open,
    /// Deny: no workspace gives it.
    Workspaces,
}

/// Something that must hold. An edit after which it would not is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The asker.
    pub principal: Principal,
    /// Workspace that is named, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceId>,
    /// Device.
    pub node: NodeId,
    /// Tool.
    pub tool: ToolName,
    /// The answer that must be.
    pub expect: Verdict,
}

/// Tools of a device that somebody approved, each by the hash of what was shown then.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceTools {
    /// At most [`TOOLS_MAX`]; empty = none.
    pub approved: BTreeMap<ToolName, Hash>,
}

/// Subject of a record: at most one of each key holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// A person.
    Person(PersonId),
    /// An agent of a person.
    Agent(PersonId, AgentName),
    /// A token.
    Token(TokenId),
    /// A workspace.
    Workspace(WorkspaceId),
    /// A seat in a workspace.
    Member(WorkspaceId, Seat),
    /// Part of what belongs to a workspace.
    Binding(WorkspaceId, Name),
    /// A rule.
    Rule(RuleRef),
    /// A device, as it was paired.
    Device(PeerId),
    /// The mode of the mesh.
    Mode,
    /// Something that must hold.
    Check(Name),
    /// The approved tools of a device, as it was paired.
    Tools(PeerId),
}

impl Key {
    /// The kind of entry that says something about this key. All of them are for everyone, and all but that of a check critical.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind(match self {
            Self::Person(_) => 10,
            Self::Agent(..) => 11,
            Self::Token(_) => 12,
            Self::Workspace(_) => 13,
            Self::Member(..) => 14,
            Self::Binding(..) => 15,
            Self::Rule(_) => 16,
            Self::Device(_) => 17,
            Self::Mode => 18,
            Self::Check(_) => 19,
            Self::Tools(_) => 21,
        })
    }

    /// Most bytes of a record about this key.
    #[must_use]
    pub const fn bytes_max(&self) -> usize {
        if matches!(self, Self::Tools(_)) { TOOLS_BYTES_MAX } else { RECORD_BYTES_MAX }
    }

    /// The workspace that it belongs to, or is.
    #[must_use]
    pub const fn workspace(&self) -> Option<&WorkspaceId> {
        match self {
            Self::Workspace(workspace) | Self::Member(workspace, _) | Self::Binding(workspace, _) => Some(workspace),
            Self::Rule(rule) => rule.domain.workspace(),
            Self::Person(_)
            | Self::Agent(..)
            | Self::Token(_)
            | Self::Device(_)
            | Self::Mode
            | Self::Check(_)
            | Self::Tools(_) => None,
        }
    }
}

/// All that a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`Key::Person`].
    Person(Person),
    /// Of [`Key::Agent`].
    Agent(Agent),
    /// Of [`Key::Token`].
    Token(Token),
    /// Of [`Key::Workspace`].
    Workspace(Workspace),
    /// Of [`Key::Member`].
    Member(Role),
    /// Of [`Key::Binding`].
    Binding(Binding),
    /// Of [`Key::Rule`].
    Rule(Rule),
    /// Of [`Key::Device`].
    Device(Device),
    /// Of [`Key::Mode`].
    Mode(Mode),
    /// Of [`Key::Check`].
    Check(Check),
    /// Of [`Key::Tools`].
    Tools(DeviceTools),
}

impl Value {
    /// Checks that it is of the key's kind and within its bounds.
    ///
    /// # Errors
    /// The first bound that it breaks.
    pub fn check(&self, key: &Key) -> Result<(), InvalidRecord> {
        match (self, key) {
            (Self::Person(person), Key::Person(id)) => {
                list("logins", &person.logins, LOGINS_MAX)?;
                let bare = Person { suspended: person.suspended, role: person.role, ..Person::default() };
                if id.is_owner() && *person != bare { Err(InvalidRecord::OwnerRecord) } else { Ok(()) }
            }
            (Self::Token(token), Key::Token(_)) => {
                patterns("nodes", token.nodes.as_ref())?;
                patterns("tools", token.tools.as_ref())
            }
            (Self::Binding(binding), Key::Binding(..)) => {
                patterns("nodes", binding.nodes.as_ref())?;
                patterns("tools", binding.tools.as_ref())
            }
            (Self::Rule(rule), Key::Rule(at)) => rule.check(at),
            (Self::Device(device), Key::Device(_)) => list("people", &device.people, DEVICE_PEOPLE_MAX),
            (Self::Tools(tools), Key::Tools(_)) if tools.approved.len() > TOOLS_MAX => {
                Err(InvalidRecord::TooMany { field: "approved", count: tools.approved.len(), max: TOOLS_MAX })
            }
            (Self::Agent(_), Key::Agent(..))
            | (Self::Workspace(_), Key::Workspace(_))
            | (Self::Member(_), Key::Member(..))
            | (Self::Mode(_), Key::Mode)
            | (Self::Check(_), Key::Check(_))
            | (Self::Tools(_), Key::Tools(_)) => Ok(()),
            (
                Self::Person(_)
                | Self::Agent(_)
                | Self::Token(_)
                | Self::Workspace(_)
                | Self::Member(_)
                | Self::Binding(_)
                | Self::Rule(_)
                | Self::Device(_)
                | Self::Mode(_)
                | Self::Check(_)
                | Self::Tools(_),
                _,
            ) => Err(InvalidRecord::OtherKind),
        }
    }

    /// Number of patterns in it.
    #[must_use]
    pub fn patterns(&self) -> usize {
        fn of<T>(list: Option<&Vec<T>>) -> usize {
            list.map_or(0, Vec::len)
        }
        match self {
            Self::Token(token) => of(token.nodes.as_ref()) + of(token.tools.as_ref()),
            Self::Binding(binding) => of(binding.nodes.as_ref()) + of(binding.tools.as_ref()),
            Self::Rule(rule) => of(rule.who.as_ref()) + of(rule.nodes.as_ref()) + of(rule.tools.as_ref()),
            Self::Device(_)
            | Self::Person(_)
            | Self::Agent(_)
            | Self::Workspace(_)
            | Self::Member(_)
            | Self::Mode(_)
            | Self::Check(_)
            | Self::Tools(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: &Rule) -> Result<(), InvalidRecord> {
        Value::Rule(rule.clone()).check(&Key::Rule("family/doors".parse().unwrap()))
    }

    #[test]
    fn a_rule_that_gives_says_to_whom() {
        for verdict in [RuleVerdict::Allow, RuleVerdict::Always] {
            assert_eq!(check(&Rule::of(verdict)), Err(InvalidRecord::WhoMissing));
        }
        assert_eq!(check(&Rule::of(RuleVerdict::Deny)), Ok(()));
        assert_eq!(check(&Rule { who: Some(Vec::new()), ..Rule::of(RuleVerdict::Allow) }), Ok(()));
    }

    #[test]
    fn always_is_about_exact_things_beside_it() {
        let good = Rule {
            who: Some(vec!["agent:anna/claude".parse().unwrap()]),
            nodes: Some(vec!["hub".parse().unwrap()]),
            tools: Some(vec!["lights.on".parse().unwrap()]),
            of: vec!["family/agents-ask".parse().unwrap()],
            bound: vec![PeerId([1; 32])],
            ..Rule::of(RuleVerdict::Always)
        };
        assert_eq!(check(&good), Ok(()));
        for bad in [
            Rule { who: Some(vec![Who::Agents]), ..good.clone() },
            Rule { who: Some(vec!["agent:*/claude".parse().unwrap()]), ..good.clone() },
            Rule { nodes: None, ..good.clone() },
            Rule { tools: Some(vec!["lights.*".parse().unwrap()]), ..good.clone() },
            Rule { tools: Some(vec!["node:hub:lights.on".parse().unwrap()]), ..good.clone() },
            Rule { of: Vec::new(), ..good.clone() },
        ] {
            assert!(matches!(check(&bad), Err(InvalidRecord::AlwaysInexact(_))), "{bad:?}");
        }
        let elsewhere = Rule { of: vec!["mesh/delete-ask".parse().unwrap()], ..good };
        assert!(matches!(check(&elsewhere), Err(InvalidRecord::AlwaysElsewhere(_))));
    }

    #[test]
    fn bounds_hold() {
        let long = Rule { nodes: Some(vec!["a".parse().unwrap(); LIST_MAX + 1]), ..Rule::of(RuleVerdict::Deny) };
        assert!(matches!(check(&long), Err(InvalidRecord::TooMany { field: "nodes", .. })));
        for wait_ms in [0, 999, WAIT_MS_MAX + 1] {
            let rule = Rule { wait_ms: Some(wait_ms), ..Rule::of(RuleVerdict::Ask) };
            assert_eq!(check(&rule), Err(InvalidRecord::Wait { wait_ms }));
        }
        let stray = Rule { approvers: Some(Vec::new()), ..Rule::of(RuleVerdict::Deny) };
        assert!(matches!(check(&stray), Err(InvalidRecord::Misplaced { field: "approvers", .. })));
        assert_eq!(Value::Mode(Mode::Open).check(&Key::Tools(PeerId([1; 32]))), Err(InvalidRecord::OtherKind));
        assert!("x".repeat(65).parse::<Title>().is_err() && "a\u{202e}b".parse::<Note>().is_err());
        let owner = Value::Person(Person { logins: vec![Hash::ZERO], ..Person::default() });
        assert_eq!(owner.check(&Key::Person(PersonId::owner())), Err(InvalidRecord::OwnerRecord));
        let named = Value::Rule(Rule::of(RuleVerdict::Deny));
        assert_eq!(named.check(&Key::Rule("a/otherwise".parse().unwrap())), Err(InvalidRecord::ReservedName));
    }

    #[test]
    fn words_of_who_are_read_as_they_are_written() {
        for text in ["everyone", "people", "agents", "devices", "role:guest", "mia", "agent:*/claude", "device:panel-*"]
        {
            assert_eq!(text.parse::<Who>().unwrap().to_string(), text);
        }
        for bad in ["owner", "self", "role:boss", "agent:mia", "device:", "x:y", ""] {
            assert!(bad.parse::<Who>().is_err(), "{bad}");
        }
        for bad in ["owner", "agents", "agent:mia/claude", "device:hub"] {
            assert!(bad.parse::<Approver>().is_err(), "{bad}");
        }
    }
}
