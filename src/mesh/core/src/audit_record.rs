//! Records of the audit: a row for what happened, and the body of an entry with such rows.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::entry::SignedEntry;
use crate::ids::{NodeId, PeerId, ReqId, ToolName};
use crate::limits;
use crate::people::{Domain, Principal, TokenId};
use crate::policy::{Key, Request, Said, Verdict};

/// Most rows of one entry of an owner.
pub const ROWS_MAX: usize = 64;
/// Most bytes of a host's name (RFC 1035).
pub const HOST_BYTES_MAX: usize = 253;
/// Most bytes of an edit, as it is kept here. Of a longer one the key alone is told.
pub const SAID_BYTES_MAX: usize = 4 * 1024;

/// Kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// A call was refused where it was asked.
    CallRefused,
    /// An answer to a call that asks was refused.
    AnswerRefused,
    /// A yes for an hour was taken back.
    TakenBack,
    /// Something about rights was changed.
    Edited,
    /// A change of rights was refused.
    EditRefused,
    /// A caller was refused before anything was done: its token, or what its token does not reach.
    DoorRefused,
    /// A tool whose network is restricted asked for something outside.
    Egress,
    /// Something that only a newer version knows.
    #[serde(other)]
    Unknown,
}

impl Happened {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallRefused => "call_refused",
            Self::AnswerRefused => "answer_refused",
            Self::TakenBack => "taken_back",
            Self::Edited => "edited",
            Self::EditRefused => "edit_refused",
            Self::DoorRefused => "door_refused",
            Self::Egress => "egress",
            Self::Unknown => "unknown",
        }
    }
}

/// Something outside that a tool asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// The host, as far as it could be read, in at most [`HOST_BYTES_MAX`] bytes; `*`: several.
    pub host: String,
    /// Its port; 0: none could be read, or several.
    pub port: u16,
    /// Bytes to there.
    pub sent: u64,
    /// Bytes from there.
    pub received: u64,
}

/// One thing that happened, or several that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Kind of the event.
    pub what: Happened,
    /// Wall time of the first, by the clock of the device.
    pub at_ms: u64,
    /// Wall time of the last.
    pub last_ms: u64,
    /// Number of such events.
    pub count: u32,
    /// Actor; `None`: nobody who is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// The token that was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// The workspace that was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Domain>,
    /// The device that it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PeerId>,
    /// Its name then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolName>,
    /// The call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<ReqId>,
    /// The answer.
    pub verdict: Verdict,
    /// The rule, or why, in at most [`limits::RULE_BYTES_MAX`] bytes.
    pub rule: String,
    /// The key that was edited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Statement about it, as [`Said::to_body`] writes it; `None`: it is over [`SAID_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<ByteBuf>,
    /// What a tool asked for; its bytes are those of all that are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Outside>,
}

impl AuditRow {
    /// Something that happens once, now.
    #[must_use]
    pub fn new(what: Happened, principal: Option<Principal>, verdict: Verdict, rule: &str) -> Self {
        Self {
            what,
            at_ms: 0,
            last_ms: 0,
            count: 1,
            principal,
            token: None,
            workspace: None,
            target: None,
            node: None,
            tool: None,
            call: None,
            verdict,
            rule: limits::cut(rule, limits::RULE_BYTES_MAX).to_owned(),
            key: None,
            said: None,
            outside: None,
        }
    }

    /// A call that is refused.
    #[must_use]
    pub fn of_call(request: &Request, node: Option<NodeId>, rule: &str) -> Self {
        let Request { principal, credential, workspace, target, tool, .. } = request;
        Self {
            token: credential.as_ref().map(|credential| credential.token.clone()),
            workspace: workspace.clone(),
            target: Some(*target),
            node,
            tool: Some(tool.clone()),
            ..Self::new(Happened::CallRefused, Some(principal.clone()), Verdict::Deny, rule)
        }
    }

    /// A change of rights. Of what its author knew nothing is kept.
    #[must_use]
    pub fn of_edit(said: &Said) -> Self {
        let bare = Said { generation: 0, knew: Vec::new(), ..said.clone() };
        let body = bare.to_body().ok().filter(|body| body.len() <= SAID_BYTES_MAX).map(ByteBuf::from);
        let rule = if let Key::Rule(at) = &said.key { at.to_string() } else { String::new() };
        Self {
            key: Some(said.key.clone()),
            said: body,
            ..Self::new(Happened::Edited, Some(said.by.clone()), Verdict::Allow, &rule)
        }
    }

    /// Statement about [`Self::key`]; `None` also where it is too long to be kept.
    #[must_use]
    pub fn said(&self) -> Option<Said> {
        Said::from_body(self.said.as_ref()?)
    }

    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let uncounted = |row: &Self| {
            let outside = row.outside.clone().map(|outside| Outside { sent: 0, received: 0, ..outside });
            Self { at_ms: 0, last_ms: 0, count: 0, outside, ..row.clone() }
        };
        uncounted(self) == uncounted(other)
    }

    /// Counts one that is like it.
    pub(crate) fn add(&mut self, other: &Self) {
        self.last_ms = other.last_ms;
        self.count = self.count.saturating_add(other.count);
        if let (Some(outside), Some(more)) = (&mut self.outside, &other.outside) {
            outside.sent = outside.sent.saturating_add(more.sent);
            outside.received = outside.received.saturating_add(more.received);
        }
    }

    pub(crate) fn is_within_limits(&self) -> bool {
        self.rule.len() <= limits::RULE_BYTES_MAX
            && self.count > 0
            && self.said.as_ref().is_none_or(|said| said.len() <= SAID_BYTES_MAX)
            && self.outside.as_ref().is_none_or(|outside| outside.host.len() <= HOST_BYTES_MAX)
    }
}

/// Body of an entry of kind [`crate::entry::Kind::AUDIT`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditBatch {
    /// In the order in which each happened first.
    pub rows: Vec<AuditRow>,
    /// So many more happened, for which there was no room.
    #[serde(default)]
    pub left_out: u64,
}

impl AuditBatch {
    /// The body of an entry; `None` when it is no such body, or over a limit.
    #[must_use]
    pub fn of(entry: &SignedEntry) -> Option<Self> {
        let batch: Self = entry.record()?;
        (batch.rows.len() <= ROWS_MAX && batch.rows.iter().all(AuditRow::is_within_limits)).then_some(batch)
    }
}
