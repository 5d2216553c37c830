//! What people have edited without knowing of each other: shown with every text, and ended by a person who takes one of them.

use std::fmt;

use mesh_core::entry::Place;
use mesh_core::ids::{Hash, NodeId};
use mesh_core::io::{Edit, View};
use mesh_core::policy::{Content, Key, Principal, Statement, Value};
use mesh_core::record::Tier;

use super::edit::{ETag, Held, Part, for_edit, write};
use crate::doors::identity::Identity;
use crate::mesh::MeshHandle;
use crate::status::{ErrorCode, OpError};

/// Id of a conflict, or of one of its texts: the same at every device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EditId([u8; 8]);

impl EditId {
    fn of(bytes: &[u8]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&Hash::of(bytes).0[..8]);
        Self(id)
    }

    fn of_key(key: &Key) -> Self {
        Self::of(&mesh_core::entry::encode(key))
    }

    fn of_text(place: &Place) -> Self {
        Self::of(ETag::of([*place]).to_string().as_bytes())
    }

    /// Reads one as it is written.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for EditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Something that people have edited without knowing of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its id.
    pub id: EditId,
    /// Its subject, as the keys that lead there in a file; of what stands in no file its kind and name.
    pub at: String,
    /// All that was said of it and counts, by place.
    pub texts: Vec<ConflictText>,
    /// The device whose file of settings says it, if one does: it is ended there.
    pub declared_by: Option<NodeId>,
}

/// One of several texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictText {
    /// Its id.
    pub id: EditId,
    /// Who said it.
    pub by: Principal,
    /// The device at which it was; `None`: it is gone.
    pub node: Option<NodeId>,
    /// When, by the clock of that device: ms since 1970.
    pub at_ms: u64,
    /// What it says, as `sigil.toml` would; `None`: it took it away.
    pub text: Option<String>,
    /// True if to take this one changes nothing: it is as if nobody had said anything else.
    pub holds: bool,
}

impl Held {
    /// All that was edited in two halves of the mesh, until somebody takes one text or edits it again.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.in_conflict(&Part::All).map(|key| self.conflict(key)).collect()
    }

    fn conflict(&self, key: &Key) -> Conflict {
        let heads = self.view().said.heads(key);
        let holds = self.holding(key, &heads);
        let texts = heads.iter().map(|(place, statement)| ConflictText {
            id: EditId::of_text(place),
            by: statement.said.by.clone(),
            node: self.node_of(&place.author),
            at_ms: statement.hlc >> 16,
            text: match &statement.said.content {
                Content::Value(value) => Some(self.text_of(key, value)),
                Content::Deleted => None,
                Content::Unreadable => {
                    Some("# this version of sigil cannot read it, and takes it for the strictest".to_owned())
                }
            },
            holds: holds == Some(**place),
        });
        let declared_by = self.view().said.declared_by(key).and_then(|peer| self.node_of(&peer));
        Conflict { id: EditId::of_key(key), at: self.name_of_key(key), texts: texts.collect(), declared_by }
    }

    /// The one statement that says by itself what holds. What gives must be said by all and what takes by any, so often
    /// there is none.
    fn holding(&self, key: &Key, heads: &[(&Place, &Statement)]) -> Option<Place> {
        let first = |is: &dyn Fn(&Content) -> bool| {
            let mut all = heads.iter().filter(|(_, statement)| is(&statement.said.content)).map(|(place, _)| **place);
            (all.next(), all.next())
        };
        if matches!(key, Key::Rule(_)) {
            // A ban or an ask holds beside whatever else is said, and what is taken away gives nothing.
            let takes =
                |content: &Content| *content != Content::Deleted && content.takes() || *content == Content::Unreadable;
            return match first(&takes) {
                (Some(one), None) => Some(one),
                (Some(_), Some(_)) => None,
                (None, _) => first(&|content| *content == Content::Deleted).0,
            };
        }
        let same = heads.iter().find(|(_, statement)| {
            let value = match &statement.said.content {
                Content::Value(value) => Some((**value).clone()),
                Content::Deleted => None,
                Content::Unreadable => return false,
            };
            self.tried(&[(key.clone(), value)]) == *self.view().rights
        });
        same.map(|(place, _)| **place)
    }
}

/// Findings on what was edited in two halves, for an owner's device: each with what to press. At most `max`, and then how many
/// more there are.
#[must_use]
pub fn conflicts_to_end(view: &std::sync::Arc<View>, max: usize) -> Vec<(String, String)> {
    if view.by_peer(&view.me).is_none_or(|me| me.tier != Tier::Owner) {
        return Vec::new();
    }
    let held = Held::of(view.clone());
    let all: Vec<(&Key, String)> = held.in_conflict(&Part::All).map(|key| (key, held.name_of_key(key))).collect();
    let told = all.iter().take(max).map(|(key, at)| {
        let who = view.said.heads(key).into_iter().map(|(place, statement)| {
            let node = held
                .node_of(&place.author)
                .map_or_else(|| "a device that is gone".to_owned(), |node| format!("`{node}`"));
            format!("{} at {node}", statement.said.by)
        });
        let who: Vec<String> = who.collect();
        let what = format!(
            "{at} was edited by {} without knowing of each other, and what takes away holds",
            who.join(" and by ")
        );
        (what, "`sigil policy conflicts` shows both texts: keep what holds, or restore the other".to_owned())
    });
    let mut told: Vec<(String, String)> = told.collect();
    if all.len() > max {
        let what = format!("{} more were edited by people who did not know of each other", all.len() - max);
        told.push((what, "`sigil policy conflicts` shows all of them".to_owned()));
    }
    told
}

/// Ends a conflict: this text of it holds from now on, and nothing else that was said of the same.
///
/// # Errors
/// Not through the socket, or at a device that is nobody's or no owner's; there is no such conflict any more
/// ([`ErrorCode::NotFound`]) or nobody says this text any more ([`ErrorCode::AlreadyDecided`]); it stands in a file of
/// settings ([`ErrorCode::Declared`]); who edits may not; a check would not hold any more.
pub async fn end_conflict(mesh: &MeshHandle, who: &Identity, id: EditId, text: EditId) -> Result<String, OpError> {
    let held = for_edit(mesh, who)?;
    let is_it = |key: &&Key| EditId::of_key(key) == id;
    let Some(key) = held.in_conflict(&Part::All).find(is_it) else {
        return Err(OpError::new(
            ErrorCode::NotFound,
            "nothing of this id was edited in two halves, or somebody has ended it",
        )
        .hint("`sigil policy conflicts` lists what there is"));
    };
    let heads = held.view().said.heads(key);
    let Some((_, chosen)) = heads.iter().find(|(place, _)| EditId::of_text(place) == text) else {
        return Err(edited_again());
    };
    let value: Option<Value> = match &chosen.said.content {
        Content::Value(value) => Some((**value).clone()),
        Content::Deleted => None,
        Content::Unreadable => {
            return Err(OpError::new(
                ErrorCode::Conflict,
                "this device cannot read that text, so it cannot say it again",
            )
            .hint("update sigil on this device, or take another text"));
        }
    };
    // Logins are given through the socket alone, and this would give back one that another text has taken away.
    if let (Identity::Session(_), Some(Value::Person(chosen))) = (who, &value) {
        let differs = |head: &Statement| match &head.said.content {
            Content::Value(value) => matches!(&**value, Value::Person(other) if other.logins != chosen.logins),
            Content::Deleted | Content::Unreadable => false,
        };
        if heads.iter().any(|(_, head)| differs(head)) {
            return Err(OpError::new(ErrorCode::Denied, "these texts differ in logins of the tailnet")
                .hint("`sigil policy conflicts` on this device shows them, and ends this one"));
        }
    }
    let (name, seen) = (held.name_of_key(key), vec![(key.clone(), held.view().said.places(key))]);
    let edit = Edit { by: held.editor()?, changes: vec![(key.clone(), value)], declared: false, force: false, seen };
    // It was edited between the two looks.
    let late = |error: OpError| if error.code == ErrorCode::PreconditionFailed { edited_again() } else { error };
    write(mesh, edit).await.map_err(late)?;
    Ok(name)
}

fn edited_again() -> OpError {
    OpError::new(ErrorCode::AlreadyDecided, "nobody says this any more: it was edited again")
        .hint("`sigil policy conflicts` lists what there is")
}
