//! Edits of rights: a part of them is read, changed, and put in its place as a whole.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use mesh_core::entry::Place;
use mesh_core::ids::{Hash, NodeId, PeerId};
use mesh_core::io::{Command, Edit, Reply, View};
use mesh_core::policy::{Content, Domain, Key, Mode, Person, PersonId, Principal, Statement, Value};

use super::explain::Rights;
use crate::config::{Devices, PolicyError, PolicySettings};
use crate::doors::identity::Identity;
use crate::mesh::MeshHandle;
use crate::mesh::clock::now;
use crate::status::{ErrorCode, OpError, edited_meanwhile};

/// State of a record: the same as long as nobody edits it, here or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ETag([u8; 16]);

impl ETag {
    /// That of some records, by the places of the statements that count for them.
    #[must_use]
    pub fn of(places: impl IntoIterator<Item = Place>) -> Self {
        let mut places: Vec<Place> = places.into_iter().collect();
        places.sort_unstable();
        let bytes: Vec<u8> = places
            .into_iter()
            .flat_map(|Place { author, incarnation, seq }| {
                [&author.0[..], &incarnation.0.to_be_bytes(), &seq.to_be_bytes()].concat()
            })
            .collect();
        let mut tag = [0; 16];
        tag.copy_from_slice(&Hash::of(&bytes).0[..16]);
        Self(tag)
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Most tags of one `If-Match`: who edits holds one.
const TAGS_MAX: usize = 8;
/// Most bytes of a tag: ours have half of that.
const TAG_BYTES_MAX: usize = 64;

/// `If-Match` (RFC 9110 §13.1.1): the state that a client has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: any, as long as there is something.
    Any,
    /// One of these.
    OneOf(Vec<String>),
}

impl FromStr for IfMatch {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let of_tag = |byte: u8| matches!(byte, b'!' | b'#'..=b'~') && byte != b',';
        // A weak one never matches here.
        let is_tag = |tag: &&str| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            let inner = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            inner.is_some_and(|inner| inner.len() <= TAG_BYTES_MAX && inner.bytes().all(of_tag))
        };
        let (first, rest) = text.split_once(',').map_or((text, None), |(first, rest)| (first, Some(rest)));
        let rest = rest.into_iter().flat_map(|rest| rest.split(',')).map(|tag| tag.strip_prefix(' ').unwrap_or(tag));
        let tags: Vec<&str> = std::iter::once(first).chain(rest).collect();
        if tags.len() <= TAGS_MAX && tags.iter().all(is_tag) {
            Ok(Self::OneOf(tags.into_iter().map(str::to_owned).collect()))
        } else {
            Err("If-Match must be `*`, or the ETag of an answer, in its quotation marks".to_owned())
        }
    }
}

impl IfMatch {
    /// `Err` unless a client has seen `now`; `None`: there is nothing.
    ///
    /// # Errors
    /// [`ErrorCode::PreconditionRequired`] without an `If-Match`, [`ErrorCode::PreconditionFailed`] where somebody has
    /// edited since.
    pub fn check(asked: Option<&Self>, now: Option<ETag>) -> Result<(), OpError> {
        let required = || {
            OpError::new(ErrorCode::PreconditionRequired, "an edit must say which state it is of")
                .hint("send `If-Match` with the ETag of your last GET, or `*` to overwrite whatever is there")
        };
        match (asked, now) {
            (None, Some(_)) => Err(required()),
            (None, None) | (Some(Self::Any), Some(_)) => Ok(()),
            (Some(Self::OneOf(tags)), Some(now)) if tags.contains(&now.to_string()) => Ok(()),
            (Some(_), _) => Err(edited_meanwhile()),
        }
    }
}

/// A part of what people say about rights: what one edit replaces as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All that a file can say.
    All,
    /// A person, and the devices that speak for her.
    Person(PersonId),
    /// A workspace with all that belongs to it; of `mesh` its rules.
    Workspace(Domain),
    /// The rules of a workspace, or of `mesh`.
    Rules(Domain),
}

impl Part {
    fn has(&self, key: &Key) -> bool {
        let is_rule_of = |domain: &Domain| matches!(key, Key::Rule(at) if at.domain == *domain);
        match self {
            Self::All => !matches!(key, Key::Mode | Key::Token(_) | Key::Tools(_)),
            Self::Person(person) => matches!(key, Key::Person(id) if id == person) || matches!(key, Key::Device(_)),
            Self::Workspace(domain) => {
                is_rule_of(domain) || domain.workspace().is_some_and(|id| key.workspace() == Some(id))
            }
            Self::Rules(domain) => is_rule_of(domain),
        }
    }
}

/// All that an edit has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// Number of records that changed.
    pub written: usize,
    /// All that most likely is not meant; for people.
    pub warnings: Vec<String>,
}

/// Something that holds by the word of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaidBy {
    /// Its subject, as the keys that lead there in a file; of what stands in no file its kind and name.
    pub at: String,
    /// True if it was taken away there.
    pub taken_away: bool,
    /// The device.
    pub device: PeerId,
    /// Who said it there.
    pub by: Principal,
    /// When, by the clock of that device: ms since 1970.
    pub at_ms: u64,
}

/// All that people say about rights, as this device holds it at one moment.
#[derive(Debug, Clone)]
pub struct Held(Arc<View>);

impl Devices for Held {
    fn peer(&self, node: &NodeId) -> Option<PeerId> {
        self.0.rights.known_as(node)
    }

    fn node(&self, peer: &PeerId) -> Option<NodeId> {
        self.0.rights.name_of(peer).cloned()
    }
}

impl Held {
    /// That of this view.
    #[must_use]
    pub fn of(view: Arc<View>) -> Self {
        Self(view)
    }

    /// Keys of a part of which something was said, in order. Of devices that rights know by no name, and of those that are no
    /// members, nothing can be said in a file.
    fn keys<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = &'a Key> {
        let is_known = |key: &&Key| !matches!(key, Key::Device(peer) if self.node(peer).is_none());
        self.0.said.keys().filter(|key| part.has(key)).filter(is_known)
    }

    fn values<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        self.keys(part).filter_map(|key| Some((key, self.0.said.value(key)?)))
    }

    /// All that a part says, as people write it.
    #[must_use]
    pub fn settings(&self, part: &Part) -> PolicySettings {
        PolicySettings::of(self.values(part), self)
    }

    /// State of a part; `None` of a person or workspace that is not there.
    #[must_use]
    pub fn etag(&self, part: &Part) -> Option<ETag> {
        let is_there = match part {
            Part::All | Part::Rules(_) | Part::Workspace(Domain::Mesh) => true,
            Part::Person(person) => person.is_owner() || self.0.rights.person(person).is_some(),
            Part::Workspace(Domain::Workspace(id)) => self.0.rights.workspaces().any(|(other, _)| other == id),
        };
        is_there.then(|| ETag::of(self.keys(part).flat_map(|key| self.0.said.places(key))))
    }

    /// Rights, ready to be explained.
    #[must_use]
    pub fn rights(&self) -> Rights {
        Rights { view: (*self.0.rights).clone(), said: self.settings(&Part::All) }
    }

    /// Members with their names, in the order of these.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeId, PeerId)> {
        let mut nodes: Vec<_> = self.0.nodes.iter().map(|node| (node.node_id.clone(), node.peer)).collect();
        nodes.sort();
        nodes
    }

    /// Keys of a part that people have edited without knowing of each other.
    pub(super) fn in_conflict<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = &'a Key> {
        self.keys(part).filter(|key| self.0.said.heads(key).len() > 1)
    }

    pub(super) fn view(&self) -> &View {
        &self.0
    }

    /// The name of a device by which rights know it.
    pub(super) fn node_of(&self, peer: &PeerId) -> Option<NodeId> {
        self.node(peer)
    }

    /// The keys that lead to it in a file; of what stands in no file its kind and name.
    #[must_use]
    pub fn name_of_key(&self, key: &Key) -> String {
        match key {
            Key::Mode => "mode".to_owned(),
            Key::Token(id) => format!("token {id}"),
            Key::Tools(peer) => {
                format!("tools of {}", self.node(peer).map_or_else(|| peer.short(), |node| node.to_string()))
            }
            Key::Person(_)
            | Key::Agent(..)
            | Key::Workspace(_)
            | Key::Member(..)
            | Key::Binding(..)
            | Key::Rule(_)
            | Key::Device(_)
            | Key::Check(_) => crate::config::place_of_key(key, self),
        }
    }

    /// The rights that there would be after these changes.
    pub(super) fn tried(&self, changes: &[(Key, Option<Value>)]) -> mesh_core::policy::View {
        self.0.rights.tried(&self.0.said, changes)
    }

    /// One record as a file says it; empty of what stands in no file.
    #[must_use]
    pub fn text_of(&self, key: &Key, value: &Value) -> String {
        match value {
            Value::Mode(Mode::Open) => "tiers alone decide".to_owned(),
            Value::Mode(Mode::Workspaces) => "workspaces decide".to_owned(),
            Value::Person(_)
            | Value::Agent(_)
            | Value::Token(_)
            | Value::Workspace(_)
            | Value::Member(_)
            | Value::Binding(_)
            | Value::Rule(_)
            | Value::Device(_)
            | Value::Check(_)
            | Value::Tools(_) => PolicySettings::of([(key, value)], self).to_toml(),
        }
    }

    /// All that holds by the word of these devices, in the order of keys.
    #[must_use]
    pub fn said_by(&self, devices: &BTreeSet<PeerId>) -> Vec<SaidBy> {
        let said = self.0.said.said_by(devices).map(|(key, place, statement)| SaidBy {
            at: self.name_of_key(key),
            taken_away: statement.said.content == Content::Deleted,
            device: place.author,
            by: statement.said.by.clone(),
            at_ms: statement.hlc >> 16,
        });
        said.collect()
    }

    fn unknown_device(&self, node: &NodeId) -> OpError {
        let error = |detail| OpError::new(ErrorCode::UnknownNode, detail);
        match self.0.rights.named(node) {
            Some(_) => error(format!("device `{node}` named itself, and no owner has confirmed that"))
                .hint(format!("`sigil rename {node} {node}` confirms it, or gives it another name")),
            None => error(format!("no device is called `{node}`")).hint("`sigil nodes` lists the devices of this mesh"),
        }
    }

    /// The person who edits at this device.
    pub(in crate::doors::ops) fn editor(&self) -> Result<Principal, OpError> {
        match self.0.rights.sits_at(&self.0.me) {
            Some(person @ Principal::Person(_)) => Ok(person),
            Some(Principal::Agent(..) | Principal::Device(_)) | None => {
                let detail = "this device is nobody's, so that nobody edits rights at it";
                Err(OpError::new(ErrorCode::Denied, detail).hint("do it on a device that `sigil nodes` shows as owner"))
            }
        }
    }

    fn says(&self, key: &Key, value: &Value) -> bool {
        let heads = self.0.said.heads(key);
        let [(_, statement)] = heads.as_slice() else { return false };
        matches!(&statement.said.content, Content::Value(said) if **said == *value)
    }

    /// Refuses what names somebody who is none: a rule for such a person is no rule, and a no of it no no. Gives what stood
    /// there already, or is forced.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownPerson`].
    pub(super) fn nobody(&self, part: &Part, wanted: &PolicySettings, force: bool) -> Result<Vec<String>, OpError> {
        // Whoever says all says who there is.
        let is_person = |person: &PersonId| *part != Part::All && self.0.rights.person(person).is_some();
        let told = |settings: &PolicySettings| -> Vec<String> {
            settings.warnings(&is_person, None).iter().map(ToString::to_string).collect()
        };
        let (found, before) = (told(wanted), told(&self.settings(&Part::All)));
        match found.iter().find(|told| !before.contains(told)).filter(|_| !force) {
            Some(new) => Err(OpError::new(ErrorCode::UnknownPerson, new.clone())
                .hint("`sigil person list` shows the people of this mesh, and `sigil person add` adds one")),
            None => Ok(found),
        }
    }

    /// What whoever makes these changes may take for settled and is not.
    fn warnings(&self, part: &Part, changes: &[(Key, Option<Value>)]) -> Vec<String> {
        let is_left = |key: &Key| !changes.iter().any(|(changed, _)| changed == key);
        let left = self.in_conflict(part).filter(|key| is_left(key));
        let mut warnings: Vec<String> = left
            .map(|key| {
                format!(
                    "{} was changed at two devices that did not know of each other, so that the stricter holds, whatever is \
                     shown: `sigil policy conflicts` shows both texts, and ends that",
                    self.name_of_key(key)
                )
            })
            .collect();
        let makes = |alike: fn(&Key) -> bool| changes.iter().any(|(key, value)| value.is_some() && alike(key));
        let rules = makes(|key| matches!(key, Key::Rule(_)));
        let first = self.0.rights.workspaces().next().is_none() && makes(|key| matches!(key, Key::Workspace(_)));
        if rules && !first && self.0.rights.mode() == Mode::Open {
            warnings.push(
                "workspaces do not decide yet, so that no rule holds before `sigil policy on` or the first workspace"
                    .to_owned(),
            );
        }
        warnings
    }

    /// What is to change so that a part says what `wanted` says of it. What no file can say stays as it is, and so does what
    /// is wanted just as it was shown: of two statements that did not know of each other one alone is shown, and to say that
    /// again would undo what the other takes, which nobody has seen.
    pub(super) fn changes(
        &self,
        part: &Part,
        wanted: &PolicySettings,
    ) -> Result<Vec<(Key, Option<Value>)>, PolicyError> {
        let mut records = wanted.records(self, None)?;
        records.retain(|key, _| part.has(key));
        // Two halves of a mesh may have made what no single edit could: then nothing counts as shown.
        let shown = self.settings(part).records(self, None).unwrap_or_default();
        let gone: Vec<_> = self.values(part).filter(|(key, _)| !records.contains_key(key)).collect();
        let mut changes: Vec<_> = gone.into_iter().map(|(key, _)| (key.clone(), None)).collect();
        for (key, mut value) in records {
            if shown.get(&key) == Some(&value) {
                continue;
            }
            if let (Value::Person(new), Some(Value::Person(Person { logins, .. }))) =
                (&mut value, self.0.said.value(&key))
            {
                new.logins.clone_from(logins);
            }
            changes.push((key, Some(value)));
        }
        changes.retain(|(key, value)| value.as_ref().is_none_or(|value| !self.says(key, value)));
        Ok(changes)
    }
}

/// Puts `wanted` in the place of a part, if it still is what `if_match` says. `force`: also where something would not hold
/// any more that must, if an owner says so.
///
/// # Errors
/// Not through the socket, or at a device that is nobody's; somebody has edited it since
/// ([`ErrorCode::PreconditionFailed`]); it stands in a file of settings ([`ErrorCode::Declared`]); who edits may not
/// ([`ErrorCode::Denied`], [`ErrorCode::NotOwner`]); a bound, a rule that stands twice, a check that would fail.
pub async fn replace(
    mesh: &MeshHandle,
    who: &Identity,
    part: &Part,
    wanted: &PolicySettings,
    if_match: Option<&IfMatch>,
    force: bool,
) -> Result<Edited, OpError> {
    let held = for_edit(mesh, who)?;
    if force || *part == Part::All {
        who.require_socket("all rights at once, or one against a check, are edited", "run `sigil` on this machine")?;
    }
    IfMatch::check(if_match, held.etag(part))?;
    if let Some(node) = wanted.devices.keys().find(|node| held.peer(node).is_none()) {
        return Err(held.unknown_device(node));
    }
    let changes = held.changes(part, wanted).map_err(|error| match &error.twin {
        Some(rule) => OpError::new(ErrorCode::DuplicateRule, error.to_string()).with("rule", rule.to_string()),
        None => OpError::new(ErrorCode::Invalid, error.to_string()),
    })?;
    let mut warnings = held.nobody(part, wanted, force)?;
    warnings.extend(held.warnings(part, &changes));
    let seen = held.keys(part).map(|key| (key.clone(), held.0.said.places(key))).collect();
    let written = write(mesh, Edit { by: held.editor()?, changes, declared: false, force, seen }).await?;
    Ok(Edited { written, warnings })
}

/// Says whether workspaces decide, or tiers alone.
///
/// # Errors
/// As of [`replace`].
pub async fn set_mode(mesh: &MeshHandle, who: &Identity, mode: Mode) -> Result<Edited, OpError> {
    who.require_socket("whether workspaces decide is said", "run `sigil` on this machine")?;
    let held = for_edit(mesh, who)?;
    let changes = vec![(Key::Mode, Some(Value::Mode(mode)))];
    let edit = Edit { by: held.editor()?, changes, declared: false, force: false, seen: Vec::new() };
    Ok(Edited { written: write(mesh, edit).await?, warnings: Vec::new() })
}

/// Says what the file of settings of this device says, in the place of what it said before.
///
/// # Errors
/// This device may not say anything about rights, or something in the file cannot be.
pub async fn declare(mesh: &MeshHandle, wanted: &PolicySettings, text: &str) -> Result<Edited, OpError> {
    let held = Held::of(mesh.view());
    let me = held.0.me;
    let records = wanted.records(&held, Some(text)).map_err(|error| {
        OpError::new(ErrorCode::Invalid, error.to_string()).hint("correct sigil.toml, then `sigil reload`")
    })?;
    let ours = held.values(&Part::All).filter(|(key, _)| held.0.said.declared_by(key) == Some(me));
    let gone = ours.filter(|(key, _)| !records.contains_key(key)).map(|(key, _)| (key.clone(), None));
    let mut changes: Vec<(Key, Option<Value>)> = gone.collect();
    // What was said here stays said, whatever others have said since who did not know of it.
    let is_news = |key: &Key, value: &Value| {
        !held.0.said.heads(key).into_iter().any(|(place, Statement { said, .. })| {
            place.author == me && said.declared && matches!(&said.content, Content::Value(said) if **said == *value)
        })
    };
    changes
        .extend(records.into_iter().filter(|(key, value)| is_news(key, value)).map(|(key, value)| (key, Some(value))));
    if changes.is_empty() {
        return Ok(Edited { written: 0, warnings: Vec::new() });
    }
    let is_person = |person: &PersonId| held.0.rights.person(person).is_some();
    let mut warnings: Vec<String> = wanted.warnings(&is_person, Some(text)).iter().map(ToString::to_string).collect();
    let unknown = wanted.devices.keys().filter(|node| held.peer(node).is_none());
    warnings.extend(unknown.map(|node| match held.0.rights.named(node) {
        Some(_) => format!(
            "devices.{node}: the device that is called so named itself: `sigil rename {node} {node}` confirms that, then \
             `sigil reload` takes it"
        ),
        None => format!("devices.{node}: no device of the mesh is called so: `sigil reload` takes it once one is"),
    }));
    let edit = Edit { by: held.editor()?, changes, declared: true, force: true, seen: Vec::new() };
    Ok(Edited { written: write(mesh, edit).await?, warnings })
}

/// What is held, for whoever may edit at all: through the socket, or by a session of the page that is new
/// (`docs/decisions/0145`). Whether it may be this edit, the core judges by whoever sits here.
pub(in crate::doors::ops) fn for_edit(mesh: &MeshHandle, who: &Identity) -> Result<Held, OpError> {
    who.require_fresh(now().wall_ms, "who may do what is edited", "run `sigil` on this machine")?;
    Ok(Held::of(mesh.view()))
}

/// Makes an edit; answers the number of records that changed.
///
/// # Errors
/// All that the mesh has against it.
pub(in crate::doors::ops) async fn write(mesh: &MeshHandle, edit: Edit) -> Result<usize, OpError> {
    if edit.changes.is_empty() {
        return Ok(0);
    }
    let Reply::Edited { written } = mesh.command(Command::Edit(edit)).await? else {
        return Err(OpError::new(ErrorCode::Internal, "the mesh answered something else"));
    };
    Ok(written)
}
