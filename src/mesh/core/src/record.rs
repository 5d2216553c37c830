//! The bodies of log entries: what each [`crate::entry::Kind`] says.

use std::num::NonZeroU8;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::glob::ToolPattern;
use crate::ids::{Attempt, Hash, Incarnation, Known, NodeId, PeerId, PublicKey, ReqId, ToolName};
use crate::limits;
use crate::people::{Principal, TokenId, WorkspaceId};

/// First entry of a mesh, signed by its founder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// For people.
    pub name: String,
    /// Random, so that two meshes of one founder differ.
    pub nonce: u64,
    /// The founder's name.
    pub node_id: NodeId,
}

/// Tier of a peer (`docs/protocol.md`, Trust).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// For a while, and perhaps for some tools or one call alone: see [`Stay`].
    Ephemeral,
    /// Tools within workspaces.
    Shared,
    /// Everything; may lead and approve.
    Owner,
}

/// Terms on which a device is let in as an ephemeral one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StayTerms {
    /// Milliseconds from its approval until it is removed: 1 to [`limits::STAY_MS_MAX`].
    pub lasts_ms: u64,
    /// Tools that it may ask for, of what rights give it; `None` = all, empty = none. At most [`limits::STAY_SCOPE_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<ToolPattern>>,
    /// True if it may make one call, and is removed once that is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_time: bool,
}

impl StayTerms {
    /// True if all is within its limits.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        (1..=limits::STAY_MS_MAX).contains(&self.lasts_ms) && is_short(self.scope.as_deref())
    }

    /// The stay of who is approved at this wall time.
    #[must_use]
    pub fn begun_at(&self, now_ms: u64) -> Stay {
        let Self { lasts_ms, scope, one_time } = self;
        Stay { until_ms: now_ms.saturating_add(*lasts_ms), scope: scope.clone(), one_time: *one_time }
    }
}

fn is_short(scope: Option<&[ToolPattern]>) -> bool {
    scope.is_none_or(|scope| scope.len() <= limits::STAY_SCOPE_MAX)
}

/// Time for which an ephemeral device belongs, and its purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// Wall time at which it is removed, by the clock of whoever approved it.
    pub until_ms: u64,
    /// As in [`StayTerms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<ToolPattern>>,
    /// As in [`StayTerms`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_time: bool,
}

impl Stay {
    /// True if all is within its limits.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        is_short(self.scope.as_deref())
    }
}

/// The node of a tailnet on whose tag an approval rests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaggedNode {
    /// Domain of the tailnet: an id means a node of that one alone.
    pub tailnet: String,
    /// Stable id of the node, which it keeps whatever its key and its addresses are.
    pub node: String,
    /// The tag.
    pub tag: String,
}

impl TaggedNode {
    /// True if all is there and within its limits.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        let fits = |text: &String| (1..=limits::TAILNET_TEXT_BYTES_MAX).contains(&text.len());
        [&self.tailnet, &self.node, &self.tag].into_iter().all(fits)
    }
}

/// Body of [`crate::entry::Kind::MEMBERSHIP`]: what an owner says about a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChange {
    /// The peer's key.
    pub subject: PublicKey,
    /// The approval as owner by which the signer belongs, or the genesis for the founder: what this rests on. A change
    /// counts for nothing when its grant does not count. Whoever leaves names the approval by which it belongs.
    pub grant: Hash,
    /// Of a revocation, and of an approval to less than owner: all that the subject said about members that the signer
    /// held and that counted. Whatever else it says by the same grant is void. At most
    /// [`limits::CHANGES_NAMED_MAX`].
    pub stands: Vec<Hash>,
    /// Of an approval of a former owner to less: the last entry of each incarnation of its log that the signer held and
    /// that counted. What it said about rights later does not stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rights: Vec<(Incarnation, u64)>,
    /// Counter of the highest epoch that the signer knew: claims of the subject to higher ones prove nothing.
    pub fence: u64,
    /// The change.
    pub what: ChangeKind,
}

/// See [`MembershipChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// The peer belongs to the mesh.
    Approved {
        /// Its tier.
        tier: Tier,
        /// The name it asked for; see `Trust` for what it gets when that is taken.
        node_id: NodeId,
        /// The newest changes about the peer that its signer held and that counted, one of each author's log. They and
        /// those before them in the same log are taken back by this one; one that it does not know beats it. At most
        /// [`limits::CHANGES_NAMED_MAX`].
        after: Vec<Hash>,
        /// True if the peer named itself and no owner saw the name: it came with an invite that names nobody. Rights do not
        /// know it by this name (`docs/decisions/0067`).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unseen: bool,
        /// Of an approval as ephemeral, how long and what for; of any other it says nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stay: Option<Stay>,
        /// The node of a tailnet on whose tag it rests; `None`: on a person's word, or an invite's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<TaggedNode>,
    },
    /// The peer does not belong to the mesh any more.
    Revoked {
        /// The last entry of each incarnation of the revoked peer that the signer held. What the peer wrote later, or
        /// in an incarnation that is not named, is void.
        cutoffs: Vec<(Incarnation, u64)>,
        /// True if the peer asked for it (`sigil leave`).
        left: bool,
        /// True if nothing that the peer said about rights in these incarnations stands, also not before the cut-offs.
        /// Of a peer that leaves it says nothing.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unsaid: bool,
    },
}

/// Meaning of a tool's repeated run (`docs/protocol.md`, Calls).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Changes nothing.
    None,
    /// Twice is as good as once.
    Idempotent,
    /// Never more than one attempt.
    Once,
}

/// A tool as its node declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolDecl {
    /// Name on its node.
    pub name: ToolName,
    /// Effect of a repeated run.
    pub effect: Effect,
    /// For people; at most 200 characters.
    pub description: String,
    /// True if only owner-tier principals may call it.
    pub owner_only: bool,
    /// So many of its runs at once, at most; `None`: as many as its node runs calls. No part of what is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<NonZeroU8>,
    /// The blob that tells all of it, such as its schemas, at most [`limits::CARD_BYTES_MAX`]; `None`: there is no more to
    /// tell. Part of what is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Hash>,
    /// Its fitness now. No part of what is approved.
    #[serde(default, skip_serializing_if = "Fitness::is_ready")]
    pub state: Fitness,
}

/// Fitness of a tool to run, as its node says. Numbers beyond the ones named here are of a later version: not ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fitness(pub u8);

impl Fitness {
    /// It runs.
    pub const READY: Self = Self(0);
    /// What runs it does not work now.
    pub const UNHEALTHY: Self = Self(1);
    /// It is new or has changed, and waits for an owner: pending, unless it is approved as it is now.
    pub const REVIEW: Self = Self(2);

    /// True if it runs.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.0 == Self::READY.0
    }
}

/// Body of [`crate::entry::Kind::DIRECTORY`]: what a peer says about itself. Single writer, the highest seq counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Addresses of its QUIC endpoints as text, best first.
    pub addresses: Vec<String>,
    /// "linux", "darwin", "ios", …
    pub platform: String,
    /// Version of the program.
    pub version: String,
    /// Class for election, see [`crate::config::Class`].
    pub class: u8,
    /// True if it may lead at all.
    pub eligible: bool,
    /// Tools that it offers.
    pub tools: Vec<ToolDecl>,
    /// Services that it serves over a link, by number; see `docs/protocol.md`, Frames. Nobody opens a stream of
    /// another.
    pub services: Vec<u16>,
    /// Name that it has given itself since it was approved; `None` = that of its approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeId>,
    /// All that it forbids itself (`node.deny`), whatever the mesh says. At most [`crate::policy::bounds::LIST_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<ToolPattern>,
}

/// Bytes named by their hash: inline when small, else fetched from whoever has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// At most [`limits::INLINE_BYTES_MAX`].
    Inline(Bytes),
    /// In the blob store of its maker, and of those who fetched it.
    Blob {
        /// SHA-256 of the bytes.
        hash: Hash,
        /// Number of bytes.
        len: u64,
    },
}

impl Payload {
    /// Nothing at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self::Inline(Bytes::new())
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob { len, .. } => *len,
        }
    }

    /// True if there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True unless it holds more than may travel inside an entry.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        match self {
            Self::Inline(bytes) => bytes.len() <= limits::INLINE_BYTES_MAX,
            Self::Blob { .. } => true,
        }
    }

    /// SHA-256 of the bytes.
    #[must_use]
    pub fn hash(&self) -> Hash {
        match self {
            Self::Inline(bytes) => Hash::of(bytes),
            Self::Blob { hash, .. } => *hash,
        }
    }
}

/// One part of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Type of its bytes (RFC 6838), such as `image/png`; at most [`limits::MEDIA_TYPE_BYTES_MAX`].
    pub media_type: String,
    /// Name of a file, without a path; empty for none. At most [`limits::PART_NAME_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its bytes; `None`: they are the output itself, and it is the first part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
}

/// Body of [`crate::entry::Kind::CALL`]: the immutable header of a call, signed by its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Identity.
    pub id: ReqId,
    /// The one peer that may run it.
    pub target: PeerId,
    /// The incarnation of the target's database that the origin knew. A target that was restored from an old state
    /// since cannot know what it did for this call: it does not run it, and says nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_incarnation: Option<Incarnation>,
    /// Its name at acceptance, for people.
    pub node_id: NodeId,
    /// Which tool.
    pub tool: ToolName,
    /// JSON.
    pub arguments: Payload,
    /// The stricter of what the tool declared and the caller asked.
    pub effect: Effect,
    /// Milliseconds from acceptance within which it must start. At most [`limits::TTL_MS_MAX`].
    pub ttl_ms: u64,
    /// Wall time of acceptance, for people only: nothing is decided by it.
    pub accepted_ms: u64,
    /// Milliseconds that the tool may run.
    pub timeout_ms: u64,
    /// The asker. Of a device that asks for itself the name is for people: which one it is, the signature says.
    pub principal: Principal,
    /// The token that was shown, if it was asked by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// The workspace by which the origin allowed it; `None`: by the mesh alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceId>,
    /// Rule that decided so there, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Place up to which the origin knew what was said about rights. Whoever knows less does not deny the call before it knows as
    /// much.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mark: Vec<Known>,
    /// The client's own key for this call, if it gave one.
    pub client_key: Option<String>,
}

impl Header {
    /// True if this call was meant for the incarnation `own` of its target's store.
    #[must_use]
    pub fn is_for(&self, own: Incarnation) -> bool {
        self.target_incarnation.is_none_or(|incarnation| incarnation == own)
    }

    /// True if everything in it is within its limits: an origin that says more is not one of ours, and what it says is
    /// not acted on.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        (1..=limits::TTL_MS_MAX).contains(&self.ttl_ms)
            && self.timeout_ms <= limits::TTL_MS_MAX
            && self.arguments.len() <= limits::ARGUMENTS_BYTES_MAX as u64
            && self.arguments.is_within_limits()
            && self.rule.len() <= limits::RULE_BYTES_MAX
            && self.mark.len() <= limits::MARK_MAX
            && self.client_key.as_ref().is_none_or(|key| (1..=limits::CLIENT_KEY_BYTES_MAX).contains(&key.len()))
    }
}

/// Ending of an attempt (`docs/protocol.md`, Calls).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// Ran once, here is the output.
    Done,
    /// Ran once, the tool reported an error or broke a limit.
    Failed,
    /// Started and cut: may or may not have happened.
    Interrupted,
    /// Not run in time.
    Expired,
    /// Not run, or stopped, because someone said so.
    Cancelled,
    /// Policy, approval or a local rule said no.
    Denied,
    /// The target was revoked, wiped or restored from an old state.
    Undeliverable,
}

impl Ending {
    /// The word that the world sees.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Undeliverable => "undeliverable",
        }
    }
}

/// Body of [`crate::entry::Kind::OUTCOME`]. By the target it is confirmed; by anyone else it yields to the target's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which call.
    pub id: ReqId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Its ending.
    pub ending: Ending,
    /// Why, for people.
    pub reason: String,
    /// Output of the tool.
    pub output: Payload,
    /// Parts of its result, at most [`limits::PARTS_MAX`]; empty: the output is all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// True if the result is what there was when the run was ended, and not all that it would have given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Tail of its stderr.
    pub error: String,
    /// Wall time, for people.
    pub at_ms: u64,
    /// Wall time at which the tool was started, for people; 0 = it was not.
    pub started_ms: u64,
    /// The call that this one turned out to repeat (same client key, same arguments): read that one instead.
    pub alias_of: Option<ReqId>,
    /// Source of the author's knowledge.
    #[serde(default, skip_serializing_if = "Source::is_target")]
    pub source: Source,
}

/// Source of what the author of an [`Outcome`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Source {
    /// It says that it is the target.
    #[default]
    Target,
    /// It received this from that target, whose own entries reach nobody any more. That beats what anyone infers.
    Relayed(PeerId),
    /// It received nothing from the target.
    Inferred,
}

impl Source {
    const fn is_target(&self) -> bool {
        matches!(self, Self::Target)
    }
}

/// Body of [`crate::entry::Kind::CANCEL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// Which call.
    pub id: ReqId,
    /// Why, for people.
    pub reason: String,
    /// True if it is asked because the TTL has expired, so that the target may say `expired`.
    pub expired: bool,
}

/// Body of [`crate::entry::Kind::TRUNCATION`]: which entries of this incarnation of its author's log nobody needs any
/// more. The newest such entry counts, and says all that the former ones did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncation {
    /// In order, before this entry, apart from each other; at most [`limits::TRUNCATED_RUNS_MAX`].
    pub runs: Vec<TruncatedRun>,
}

/// Remainder of a run of entries: enough for the chain to go on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TruncatedRun {
    /// Place of the first of them.
    pub first: u64,
    /// Place of the last.
    pub last: u64,
    /// Hash of the last.
    pub hash: Hash,
    /// Clock of the last.
    pub hlc: u64,
}
