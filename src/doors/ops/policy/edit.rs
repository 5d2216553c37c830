//! Edits of rights: what one is checked for before it is signed.

use std::fmt;
use std::str::FromStr;

use mesh_core::entry::Place;
use mesh_core::ids::{Hash, Incarnation, PeerId};
use mesh_core::policy::{InvalidRecord, Key, NotAllowed, Policy, Principal, Role, Said, Statement, Value, View, Who};

use crate::status::{ErrorCode, OpError};

/// State of a record: the same as long as nobody edits it, here or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ETag([u8; 16]);

impl ETag {
    /// That of some records, by the statements that count for them: the heads of their registers.
    #[must_use]
    pub fn of<'a>(heads: impl IntoIterator<Item = &'a Place>) -> Self {
        let mut places: Vec<_> = heads.into_iter().map(|place| (place.author, place.incarnation, place.seq)).collect();
        places.sort_unstable();
        let bytes: Vec<u8> = places
            .into_iter()
            .flat_map(|(author, incarnation, seq)| {
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
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let tags: Vec<String> = text.split(',').map(|tag| tag.trim().to_owned()).collect();
        let is_tag = |tag: &String| tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"');
        // A weak one never matches here.
        if tags.iter().all(|tag| is_tag(tag) || tag.strip_prefix("W/").is_some_and(|tag| is_tag(&tag.to_owned()))) {
            Ok(Self::OneOf(tags))
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
        let changed = || {
            OpError::new(ErrorCode::PreconditionFailed, "somebody has edited this since you read it")
                .hint("GET it again, and look whether your edit is still what you want")
        };
        match (asked, now) {
            (None, Some(_)) => Err(required()),
            (None, None) | (Some(Self::Any), Some(_)) => Ok(()),
            (Some(Self::OneOf(tags)), Some(now)) if tags.contains(&now.to_string()) => Ok(()),
            (Some(_), _) => Err(changed()),
        }
    }
}

/// One edit; a value of `None` takes the record away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What it is about.
    pub key: Key,
    /// What it is to say.
    pub value: Option<Value>,
}

/// All that people have said, and what of it counts.
#[derive(Clone, Copy)]
pub struct Held<'a> {
    /// Every statement.
    pub policy: &'a Policy,
    /// Whether a statement counts.
    pub stands: &'a dyn Fn(&Place) -> bool,
    /// What these amount to.
    pub view: &'a View,
}

/// Edits that may be signed, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The statements.
    pub said: Vec<Said>,
    /// What most likely is not meant; for people.
    pub warnings: Vec<String>,
}

/// The author of statements that are not signed yet: no peer has this id.
const PLANNED: PeerId = PeerId([0; 32]);

impl Held<'_> {
    /// The state of some records together; `None` if there is none of them.
    #[must_use]
    pub fn etag<'k>(&self, keys: impl IntoIterator<Item = &'k Key>) -> Option<ETag> {
        let registers = keys.into_iter().filter_map(|key| self.policy.register(key));
        let heads: Vec<&Place> =
            registers.flat_map(|register| register.heads(self.stands)).map(|(place, _)| place).collect();
        (!heads.is_empty()).then(|| ETag::of(heads))
    }

    /// Checks edits by `by` as a whole, one after the other. `force`: also where something would not hold any more that
    /// must, if an owner says so.
    ///
    /// # Errors
    /// A record that stands in a file of settings ([`ErrorCode::Declared`]); who may not edit ([`ErrorCode::Denied`]); a
    /// bound or a rule that stands twice ([`ErrorCode::Invalid`], [`ErrorCode::DuplicateRule`]); a check that would fail
    /// ([`ErrorCode::CheckFailed`]).
    pub fn plan(&self, by: &Principal, edits: &[Edit], force: bool) -> Result<Planned, OpError> {
        let stands = |place: &Place| place.author == PLANNED || (self.stands)(place);
        let (mut policy, mut view) = (self.policy.clone(), self.view.clone());
        let mut said = Vec::new();
        for (edit, seq) in edits.iter().zip(1..) {
            let Edit { key, value } = edit;
            self.not_declared(key)?;
            view.may_edit(by, key, value.as_ref()).map_err(|error| denied(&error))?;
            if let Some(value) = value {
                policy.admit(key, value, &stands).map_err(|error| invalid(&error))?;
            }
            let statement = policy.edit((key.clone(), value.clone()), by.clone(), false, &stands);
            let place = Place { author: PLANNED, incarnation: Incarnation(0), seq };
            policy.insert(place, Statement { hlc: u64::MAX, said: statement.clone() });
            view.refresh(&policy, &stands, key);
            said.push(statement);
        }
        let before: Vec<_> = self.view.broken_checks().map(|(name, ..)| name).collect();
        let broken = view.broken_checks().filter(|(name, ..)| !before.contains(name));
        let mut warnings: Vec<String> = broken
            .map(|(name, check, now)| {
                format!(
                    "check `{name}` would not hold: {} must get {} for `{}` of `{}`, and would get {now}",
                    check.principal, check.expect, check.tool, check.node
                )
            })
            .collect();
        let may_force = || by.person().and_then(|person| self.view.role(person)) == Some(Role::Owner);
        if let Some(first) = warnings.first()
            && !(force && may_force())
        {
            return Err(OpError::new(ErrorCode::CheckFailed, first.clone())
                .hint("edit otherwise, or take the check away; an owner may add `?force=true`"));
        }
        warnings.extend(edits.iter().filter_map(|edit| odd(edit, &view)));
        Ok(Planned { said, warnings })
    }

    /// `Err` if a record is what a file says: edited here, it would be as in the file again after its next start.
    fn not_declared(&self, key: &Key) -> Result<(), OpError> {
        let heads = self.policy.register(key).map(|register| register.heads(self.stands)).unwrap_or_default();
        let Some((place, _)) = heads.into_iter().find(|(_, statement)| statement.said.declared) else { return Ok(()) };
        let detail = format!("this stands in `sigil.toml` of device {}", place.author.short());
        Err(OpError::new(ErrorCode::Declared, detail)
            .hint("edit it in that file and run `sigil reload` there")
            .with("peer_id", place.author.to_string()))
    }
}

/// What is allowed and most likely a mistake.
fn odd(edit: &Edit, view: &View) -> Option<String> {
    let (Key::Rule(at), Some(Value::Rule(rule))) = (&edit.key, &edit.value) else { return None };
    let nobody = |who: &Who| match who {
        Who::Person(person) if !person.is_owner() && view.person(person).is_none() => Some(format!("`{person}`")),
        Who::Everyone
        | Who::People
        | Who::Agents
        | Who::Devices
        | Who::Role(_)
        | Who::Person(_)
        | Who::Agent(_)
        | Who::Device(_) => None,
    };
    let gone: Vec<String> = rule.who.iter().flatten().filter_map(nobody).collect();
    if gone.is_empty() {
        None
    } else {
        Some(format!(
            "rule `{at}` names {}, and nobody is called so: `sigil person list` shows who is",
            gone.join(", ")
        ))
    }
}

fn denied(error: &NotAllowed) -> OpError {
    OpError::new(ErrorCode::Denied, error.to_string()).hint("`sigil person list` shows who is owner or admin")
}

fn invalid(error: &InvalidRecord) -> OpError {
    if let InvalidRecord::DuplicateRule(rule) = error {
        return OpError::new(ErrorCode::DuplicateRule, error.to_string()).with("rule", rule.to_string());
    }
    let unknown = matches!(error, InvalidRecord::UnknownWorkspace(_));
    OpError::new(if unknown { ErrorCode::UnknownWorkspace } else { ErrorCode::Invalid }, error.to_string())
}
