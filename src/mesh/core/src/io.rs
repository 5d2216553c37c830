//! The face of the core: what goes into [`crate::peer::Peer::step`], and what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::audit_record::AuditRow;
use crate::budget::OverBudget;
use crate::entry::{Place, SignedEntry};
use crate::epoch::{Epoch, Fence};
use crate::frame::{Frame, Phase};
use crate::ids::{Attempt, Hash, Incarnation, MeshId, NodeId, PeerId, PublicKey, ReqId, ToolName};
use crate::policy;
use crate::rates::RateLimited;
use crate::record::{Directory, Effect, Ending, Header, Part, Payload, StayTerms, TaggedNode, Tier};
use crate::tailnet::Untagged;
use crate::via::Via;

mod view;

pub use crate::budget::DiskSpace;
pub use crate::reapproval::ReapprovalView;
pub use view::{Halt, NodeView, StoppedLog, Usage, View};

/// The time, handed in and never read: milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since some point; counts while the machine sleeps; never goes back. Durations are measured by it.
    pub mono_ms: u64,
    /// Since 1970. May be wrong, may jump: for people and for the hybrid clock only.
    pub wall_ms: u64,
}

/// Number of a batch; rises by one with each.
pub type TxnId = u64;
/// Number that the shell gives to a command, to know the reply.
pub type CmdId = u64;
/// Number of one `NodeService` stream; a late goodbye of an old one names the old number.
pub type SessionId = u64;

/// Key space of the store. What its keys and rows are is said in [`crate::rows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Single values: fence, incarnation, boot count, mesh, counters.
    Meta,
    /// Entries: author ‖ incarnation ‖ seq, big endian, to [`SignedEntry::to_stored`].
    Log,
    /// Author ‖ incarnation to how far we hold the log.
    Heads,
    /// Entries that trust is computed from: hash to [`SignedEntry::to_stored`].
    Trust,
    /// Peer id to its latest directory entry.
    Directory,
    /// Unused and used invites by hash of their secret.
    Invites,
    /// Calls without a confirmed ending, with their header entry.
    Open,
    /// Calls with a confirmed ending.
    Calls,
    /// Wall time of acceptance ‖ id to nothing: the order in which people list calls.
    CallsByTime,
    /// Client keys to the calls they made.
    Keys,
    /// Target's journal: id ‖ attempt to its state.
    Journal,
    /// Series to its forgotten mark.
    ForgottenMarks,
    /// Hash of a blob ‖ peer to nothing: that peer may have it, although it is no owner.
    BlobReaders,
    /// All that was said about rights: author ‖ incarnation ‖ seq to [`SignedEntry::to_stored`].
    Policy,
    /// Audit of all authors: wall time ‖ author ‖ incarnation ‖ seq to [`SignedEntry::to_stored`]. At owners only.
    Audit,
}

impl Space {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Meta,
        Self::Log,
        Self::Heads,
        Self::Trust,
        Self::Directory,
        Self::Invites,
        Self::Open,
        Self::Calls,
        Self::CallsByTime,
        Self::Keys,
        Self::Journal,
        Self::ForgottenMarks,
        Self::BlobReaders,
        Self::Policy,
        Self::Audit,
    ];

    /// True if all of its rows are handed to [`crate::peer::Peer::boot`]. The others grow with history.
    #[must_use]
    pub const fn in_image(self) -> bool {
        !matches!(self, Self::Log | Self::Calls | Self::CallsByTime | Self::BlobReaders)
    }

    /// True if a peer starts without those of its rows that do not decode: others say again what a device offers, calls
    /// end by their origins' and targets' word, a client key only saves a second call, an invite that is not known lets
    /// nobody in, and the audit only tells. Each other row is a promise.
    #[must_use]
    pub const fn is_dispensable(self) -> bool {
        matches!(self, Self::Directory | Self::Invites | Self::Open | Self::Keys | Self::Audit)
    }

    /// True if a change of mesh empties it.
    #[must_use]
    pub const fn of_mesh(self) -> bool {
        !matches!(self, Self::Calls | Self::CallsByTime)
    }

    /// Its name in the store.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Log => "log",
            Self::Heads => "heads",
            Self::Trust => "trust",
            Self::Directory => "directory",
            Self::Invites => "invites",
            Self::Open => "open",
            Self::Calls => "calls",
            Self::CallsByTime => "calls_by_time",
            Self::Keys => "keys",
            Self::Journal => "journal",
            Self::ForgottenMarks => "forgotten_marks",
            Self::BlobReaders => "blob_readers",
            Self::Policy => "policy",
            Self::Audit => "audit",
        }
    }
}

/// One row to write, or to delete when there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub space: Space,
    /// Key.
    pub key: Vec<u8>,
    /// Value, or delete.
    pub value: Option<Bytes>,
}

/// Rows that become durable together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// In order; a later write to the same key wins.
    pub writes: Vec<Write>,
    /// True if a promise waits for it: then it is fsynced, else it may wait for the next that is.
    pub sync: bool,
}

/// Content of the store at start: all rows of the spaces that are [`Space::in_image`], sorted.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Rows.
    pub rows: Vec<(Space, Vec<u8>, Bytes)>,
    /// True if the shell found that this store is older than what it had already promised: a new incarnation begins.
    pub rolled_back: bool,
}

/// Input of a step.
#[derive(Debug)]
pub enum Input {
    /// [`crate::peer::Peer::poll_timeout`] is over; harmless at any other time.
    Wake,
    /// A link to an approved peer is up, or to one of [`crate::peer::Peer::revoked_peers`]. If there was one already,
    /// this one replaces it.
    LinkUp(PeerId),
    /// The link to this peer that comes up next, now or as the replacement of the present one, travels like that.
    /// Without it, it is direct.
    LinkVia(PeerId, Via),
    /// The process at the other end of that link drew this nonce when it started.
    Session(PeerId, u64),
    /// The link is gone.
    LinkDown(PeerId),
    /// A linked peer sent this; every signature in it has been checked.
    Recv(PeerId, Frame),
    /// This batch and all before it are durable.
    Durable(TxnId),
    /// Answer to [`Output::ReadLog`]: entries in order.
    LogRead {
        /// As asked.
        reader: LogReader,
        /// The entries.
        entries: Vec<SignedEntry>,
        /// True if the limit of bytes cut it short.
        more: bool,
    },
    /// Answer to [`Output::ReadClosed`]: rows in order.
    ClosedRead {
        /// Ids and rows.
        calls: Vec<(ReqId, Bytes)>,
        /// True if the limit of bytes cut it short.
        more: bool,
    },
    /// A tool has started to run, or said something.
    ToolProgress(ReqId, Attempt, String),
    /// A tool ended.
    ToolEnded(ReqId, Attempt, ToolOutcome),
    /// The blob is in our blob store.
    Fetched(Hash),
    /// The blob could not be had just now.
    FetchFailed(Hash),
    /// All who might have had the blob say that they do not.
    FetchGone(Hash),
    /// Room on our disk, whenever it has crossed the floor or half of it.
    Disk(DiskSpace),
    /// The gateway's side: a node registered, its stream is up. Replaces an older session of that peer at once.
    NodeUp(PeerId, SessionId),
    /// The gateway's side: that stream is gone. Ignored unless it is the peer's present one.
    NodeDown(PeerId, SessionId),
    /// Someone at a door of ours asks.
    Command(CmdId, Command),
    /// A door of ours has refused something itself.
    Refused(Box<AuditRow>),
    /// The members whose approval rests on a tag that does not count now, as the tailnet of this device says: all of them.
    Untagged(BTreeMap<PeerId, Untagged>),
}

/// Ending of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutcome {
    /// `Done`, `Failed` or `Cancelled`; `Denied` when the tool is not there any more or may not do what is asked;
    /// `Interrupted` when its end is not known, so that what it was to do may have happened.
    pub ending: Ending,
    /// Why, for people; when done, a note on it or nothing.
    pub reason: String,
    /// Its output.
    pub output: Payload,
    /// Parts of its result; empty: the output is all of it.
    pub parts: Vec<Part>,
    /// True if the result is what there was when it was ended.
    pub partial: bool,
    /// Tail of its error stream.
    pub error: String,
}

/// Command from a door.
#[derive(Debug, Clone)]
pub enum Command {
    /// A new call.
    Call(NewCall),
    /// Stop a call.
    Cancel {
        /// Which.
        id: ReqId,
        /// Why, for people.
        reason: String,
    },
    /// Keep an invite whose secret hashes to this.
    Invite {
        /// SHA-256 of the secret.
        secret: Hash,
        /// Tier that it grants.
        tier: Tier,
        /// Time that it is good for.
        ttl_ms: u64,
        /// Name that it gives; `None`: who comes with it names itself.
        name: Option<NodeId>,
        /// Of the ephemeral tier, how long and what for.
        stay: Option<StayTerms>,
    },
    /// Take back an invite that nobody has used.
    VoidInvite {
        /// SHA-256 of the secret.
        secret: Hash,
    },
    /// Someone shows the secret of an invite. Its use and the approval become durable together.
    Redeem {
        /// SHA-256 of the secret.
        secret: Hash,
        /// Key that the link has proven.
        key: PublicKey,
        /// Name that the newcomer asks for.
        node_id: NodeId,
    },
    /// Approve a peer by hand.
    Approve {
        /// Its key.
        key: PublicKey,
        /// Name that it asks for.
        node_id: NodeId,
        /// Tier to give it.
        tier: Tier,
        /// Of the ephemeral tier, how long and what for.
        stay: Option<StayTerms>,
    },
    /// Approve a peer for the tag of its node of a tailnet. One that belongs stays as it is, and one that was removed out.
    ApproveTagged {
        /// Its key.
        key: PublicKey,
        /// Name that it asks for.
        node_id: NodeId,
        /// Tier to give it: shared or owner.
        tier: Tier,
        /// The node.
        of: TaggedNode,
    },
    /// Give a member that is no owner the name that rights are to know it by.
    Rename {
        /// Which.
        peer: PeerId,
        /// The name.
        node_id: NodeId,
    },
    /// Revoke and forget a peer.
    Revoke {
        /// Which.
        peer: PeerId,
        /// True to take back what it said about rights and the names that it gave, so that what these replaced holds again.
        unsaid: bool,
    },
    /// Revoke and forget these peers, in one step and with one fsync; at most [`crate::limits::REVOKED_AT_ONCE_MAX`].
    RevokeAll {
        /// Which.
        peers: BTreeSet<PeerId>,
        /// True to take back what they said about rights.
        unsaid: bool,
    },
    /// Leave the mesh: ends with [`Reply::Left`], after which the shell founds a new one.
    Leave,
    /// This peer's directory record has changed.
    SetDirectory(Directory),
    /// Changes who may do what.
    Edit(Edit),
    /// Answers a call that asks.
    Answer(NewAnswer),
    /// Takes back a yes for an hour.
    TakeBack {
        /// Hash of its entry.
        hour: Hash,
        /// The person who takes it back, at a door of people.
        by: policy::Principal,
    },
    /// Clean stop: hands the role on. Ends with [`Reply::Stopped`].
    Stop,
}

/// Changes of what is said about rights, all or none of them.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The person who makes them, at a door of people.
    pub by: policy::Principal,
    /// New values in order; `None` deletes. What holds already is passed over.
    pub changes: Vec<(policy::Key, Option<policy::Value>)>,
    /// True if they come from a file of settings.
    pub declared: bool,
    /// True if they are made although a check would not hold any more. Owners of the mesh only.
    pub force: bool,
    /// State that the editor has seen: places of the statements that counted, in order, by key. If others count by now,
    /// nothing is changed.
    pub seen: Vec<(policy::Key, Vec<Place>)>,
}

/// Answer of a person to a call that asks.
#[derive(Debug, Clone)]
pub struct NewAnswer {
    /// The call.
    pub id: ReqId,
    /// The person who answers, at a door of people.
    pub by: policy::Principal,
    /// The answer.
    pub choice: AnswerChoice,
    /// Remark for people.
    pub note: policy::Note,
}

/// See [`NewAnswer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerChoice {
    /// Yes, to this call.
    Once,
    /// Yes, to this one and those like it, for an hour.
    Hour,
    /// Yes, to this one and those like it: as a rule beside the one that asks.
    Always,
    /// No.
    No,
}

/// A call that waits for a person, as [`crate::peer::Peer::approvals`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The call.
    pub id: ReqId,
    /// Its header.
    pub header: Arc<Header>,
    /// Where it was asked.
    pub origin: PeerId,
    /// Asks, each with those who may say yes to it.
    pub asks: Vec<(policy::RuleRef, Vec<policy::PersonId>)>,
    /// Why it asks, for people.
    pub why: String,
    /// Milliseconds until it is too late.
    pub left_ms: u64,
}

/// A call that someone wants made.
#[derive(Debug, Clone)]
pub struct NewCall {
    /// Name of the node, or `any`.
    pub node: String,
    /// Which tool.
    pub tool: ToolName,
    /// JSON, checked by the shell; a blob is in our blob store already.
    pub arguments: Payload,
    /// Milliseconds within which it must start.
    pub ttl_ms: u64,
    /// Milliseconds that it may run.
    pub timeout_ms: u64,
    /// If the caller wants it stricter than the tool declares.
    pub effect: Option<Effect>,
    /// The asker; `None`: whoever sits at this device.
    pub principal: Option<policy::Principal>,
    /// The token that was shown, if it is asked by one.
    pub credential: Option<policy::Credential>,
    /// The workspace that is named.
    pub workspace: Option<policy::Domain>,
    /// The client's own key for this call.
    pub client_key: Option<String>,
}

/// Answer to a command. An answer that promises something is given only after the fsync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The call.
    Call {
        /// Its id.
        id: ReqId,
        /// False when the client key named a call that was already there.
        created: bool,
    },
    /// Cancelling was noted (or the call had ended already).
    Cancelled,
    /// The invite is kept.
    Invited,
    /// The invite lets nobody in.
    InviteVoided,
    /// The peer belongs to the mesh.
    Approved(Box<Welcome>),
    /// The peer has the name.
    Renamed,
    /// The peer is revoked.
    Revoked,
    /// These peers are revoked, except the ones that are named here, with why not.
    RevokedAll(Vec<(PeerId, Refusal)>),
    /// We have left.
    Left,
    /// The directory record is written.
    Noted,
    /// The answer to a call that asks is written.
    Answered {
        /// The asks that it answers. The call goes on once no other is open.
        of: Vec<policy::RuleRef>,
    },
    /// It is written that an hour is taken back.
    TakenBack {
        /// The asks that it answered and that are open again.
        of: Vec<policy::RuleRef>,
    },
    /// The changes of rights are written: so many, what held already left out.
    Edited {
        /// Number of statements.
        written: usize,
    },
    /// Nothing more to do: the process may end.
    Stopped,
    /// No, and why.
    Refused(Refusal),
}

/// Membership and state that a newcomer needs to join. [`crate::peer::joined`] turns it into a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The mesh.
    pub mesh: MeshId,
    /// Genesis and all approvals, in an order in which each author is known before it speaks.
    pub trust: Vec<SignedEntry>,
    /// Latest directory entries, to know addresses.
    pub directory: Vec<SignedEntry>,
    /// All that holds about rights, so that a newcomer does not take the mesh for one without workspaces.
    pub rights: Vec<SignedEntry>,
    /// The fence of the moment.
    pub fence: Fence,
    /// The name that the newcomer got.
    pub node_id: NodeId,
    /// Its tier.
    pub tier: Tier,
}

/// Why a call is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The question.
    pub request: policy::Request,
    /// The answer.
    pub decision: policy::Decision,
    /// The same as a sentence.
    pub why: String,
    /// Change that would give another answer, if any would.
    pub would_change: Option<policy::Remedy>,
}

/// Why a command was refused. Each names the cause; the door adds the next step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such node.
    #[error("no node is called `{0}`")]
    UnknownNode(String),
    /// Another member has the name.
    #[error("`{0}` means another member of this mesh")]
    NameTaken(NodeId),
    /// No such tool on that node.
    #[error("node `{node}` offers no tool `{tool}`")]
    UnknownTool {
        /// The node.
        node: NodeId,
        /// The tool.
        tool: ToolName,
    },
    /// No such call.
    #[error("no call has the id {0}")]
    UnknownCall(ReqId),
    /// Too much waits for this target.
    #[error("queue full: {open} calls wait for `{node}`")]
    QueueFull {
        /// The node.
        node: NodeId,
        /// Number of open calls.
        open: usize,
        /// When to try again, in milliseconds.
        retry_after_ms: u64,
    },
    /// This device has used up what it may ask of the others.
    #[error("this device is over its budget of {over}")]
    OverBudget {
        /// The budget.
        over: OverBudget,
        /// When to try again, in milliseconds.
        retry_after_ms: u64,
    },
    /// The asker uses this tool too often.
    #[error("{0}")]
    RateLimited(Box<RateLimited>),
    /// The disk of this device is nearly full.
    #[error("the disk of this device is nearly full: {free} bytes are free, and new work needs {floor}")]
    DiskFull {
        /// Bytes that are free.
        free: u64,
        /// Bytes below which no new work is taken.
        floor: u64,
    },
    /// The client key belongs to a call with other arguments.
    #[error("this idempotency key was used for another call, {0}")]
    KeyReused(ReqId),
    /// Policy.
    #[error("{}", .0.why)]
    Denied(Box<Denial>),
    /// The answerer may not answer this, or not here.
    #[error("{0}")]
    NotApprover(String),
    /// Somebody was faster, or it does not ask any more.
    #[error("{0}")]
    AlreadyDecided(String),
    /// The call that asked is over.
    #[error("call {0} is over: nobody waits for an answer any more")]
    AskOver(ReqId),
    /// No yes for an hour of this entry is held here.
    #[error("no yes for an hour has the id {0}: it is over, or was never known here")]
    UnknownHour(Hash),
    /// The role of whoever edits does not reach so far.
    #[error(transparent)]
    NotAllowed(policy::NotAllowed),
    /// An edit of rights breaks a bound, or contradicts what is there.
    #[error(transparent)]
    InvalidRecord(policy::InvalidRecord),
    /// Somebody has edited it since whoever edits has looked.
    #[error("somebody has edited this since you read it")]
    EditedMeanwhile,
    /// A file of settings says it.
    #[error("this stands in the `sigil.toml` of device {}", .file.short())]
    Declared {
        /// The device whose file it is.
        file: PeerId,
    },
    /// A check would not hold any more.
    #[error("after this, check `{check}` would not hold: the answer would be {verdict}, and must be {expect}")]
    CheckFailed {
        /// The check.
        check: policy::Name,
        /// The answer that there would be.
        verdict: policy::Verdict,
        /// The answer that must be.
        expect: policy::Verdict,
    },
    /// A value is out of its limits.
    #[error("{0}")]
    Invalid(String),
    /// There are as many as there may be.
    #[error("{0}")]
    Full(String),
    /// No such invite at this peer.
    #[error("this code is not known here")]
    InviteUnknown,
    /// Used by someone else.
    #[error("this code has been used already")]
    InviteUsed,
    /// Too late.
    #[error("this code has expired")]
    InviteExpired,
    /// Taken back.
    #[error("this code was taken back")]
    InviteVoid,
    /// A revocation of this peer stands that no approval of ours takes back.
    #[error("this device cannot be let in under its present key: a removal of it stands that no approval takes back")]
    NeedsNewKey,
    /// Only owners may do this.
    #[error("only a peer of tier owner may do this, and this one is not")]
    NotOwner,
    /// The last owner must stay.
    #[error("the last owner can be neither revoked nor leave while other devices remain")]
    LastOwner,
    /// This peer has been revoked.
    #[error("this device does not belong to the mesh any more")]
    NotMember,
    /// The peer is stopping.
    #[error("this peer is stopping")]
    Stopping,
}

/// The part of the core that asked for entries of the store's log, and the only one that gets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogReader {
    /// A linked peer lacks them.
    Peer(PeerId),
    /// Looks for entries of our own that nobody needs any more.
    Compaction,
    /// Reads entries that an older version of ours could not understand.
    Unsupported,
    /// Re-issues the outcomes that a peer had reported before it was known to be excluded.
    Reattest,
    /// Issues again, in a new incarnation, the outcomes of the one before.
    Reissue,
    /// Compares an entry of ours that came from outside with what our log holds in its place.
    OwnCheck,
    /// Takes up the calls for which the book had no room.
    Deferred,
    /// Reads rows of entries that their author truncated, to delete them.
    Sweep,
    /// Looks for bodies that this peer may read now and does not hold.
    Lacking,
    /// A linked peer may read the bodies of these, and lacks them.
    Want(PeerId),
    /// Looks for what was said about rights by somebody who has turned out to be an owner.
    Rights,
    /// Takes up the directories of peers that belong again.
    Directories,
}

/// Output of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to a linked peer, the way [`Frame::channel`] says.
    Send(PeerId, Frame),
    /// Write, and answer [`Input::Durable`] when the batch and all before it are durable.
    Commit(TxnId, Batch),
    /// Read entries of one author from the log, `from..=to`, until the bytes reach [`crate::limits::SYNC_BYTES_MAX`]
    /// over all ranges; answer [`Input::LogRead`].
    ReadLog {
        /// The part of the core that gets the answer.
        reader: LogReader,
        /// (author, incarnation, first, last), in order.
        ranges: Vec<(PeerId, Incarnation, u64, u64)>,
    },
    /// Read rows of [`Space::Calls`], until their bytes reach [`crate::limits::SYNC_BYTES_MAX`]; answer
    /// [`Input::ClosedRead`].
    ReadClosed {
        /// The first that may come.
        first: ReqId,
        /// The last.
        last: ReqId,
    },
    /// Run a tool; answer [`Input::ToolEnded`].
    Invoke(Box<Invocation>),
    /// Stop a running tool; it answers with [`Input::ToolEnded`] as cancelled.
    Kill(ReqId, Attempt),
    /// Get a blob from one of these peers into our blob store; answer [`Input::Fetched`] or [`Input::FetchFailed`].
    Fetch {
        /// SHA-256.
        hash: Hash,
        /// Bytes.
        len: u64,
        /// Peers that may have it, best first.
        from: Vec<PeerId>,
    },
    /// Answer a command.
    Reply(CmdId, Reply),
    /// Something that people or the shell want to know.
    Fact(Fact),
}

/// A tool to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Which call.
    pub id: ReqId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The call. Its name of the device is the origin's word.
    pub header: Arc<Header>,
    /// Its origin.
    pub origin: PeerId,
    /// The name of this device.
    pub node_id: NodeId,
}

/// Something that happened, for the event stream, the logs and the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The gateway has changed; `None` = none that we know.
    Gateway(Option<Epoch>),
    /// [`View`] has changed.
    View,
    /// A call has changed; its newest row.
    Call(ReqId, HistoryRow),
    /// A call has its (perhaps unconfirmed) ending, durable here.
    CallEnded(ReqId),
    /// The set of approved peers, their tiers or names changed: links may have to close.
    Trust,
    /// We hold our own revocation.
    Revoked,
    /// A node asks for attention; constant text with the peer it is about.
    Warning(&'static str, PeerId),
}

/// A row of a call's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// Where the call was.
    pub state: CallState,
    /// Which attempt.
    pub attempt: Attempt,
    /// Wall time of whoever noted it.
    pub at_ms: u64,
    /// Peer that did it.
    pub peer: PeerId,
    /// Why, for people.
    pub reason: String,
    /// True if the target itself reported it.
    pub confirmed: bool,
}

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CallState {
    /// On its way.
    Open(Phase),
    /// Over.
    Ended(Ending),
}

impl CallState {
    /// The word that the world sees.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open(phase) => phase.as_str(),
            Self::Ended(ending) => ending.as_str(),
        }
    }
}

/// A call as one peer knows it; the value of [`Space::Calls`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The immutable header.
    pub header: Arc<Header>,
    /// Its origin.
    pub origin: PeerId,
    /// Where it is.
    pub state: CallState,
    /// True if the target itself wrote the ending.
    pub confirmed: bool,
    /// Newest attempt that anything is known of.
    pub attempt: Attempt,
    /// Output of the tool.
    pub output: Payload,
    /// Parts of its result; empty: the output is all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// True if the result is what there was when the run was ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Tail of its stderr.
    pub error: String,
    /// Why it ended as it did.
    pub reason: String,
    /// The call that this one repeats, as its target says: see [`Self::repeats`].
    pub alias_of: Option<ReqId>,
    /// All that happened, oldest first.
    pub history: Vec<HistoryRow>,
}

impl CallRecord {
    /// Wall time by which it is listed: that of its acceptance, or of its coming here if that lies in the future.
    #[must_use]
    pub fn listed_ms(&self) -> u64 {
        self.history.first().map_or(self.header.accepted_ms, |row| row.at_ms)
    }

    /// True if this call repeats `other`: the same client key, principal, device, tool and arguments. What its target says
    /// of [`Self::alias_of`] is believed of no other, or it could name any call of the mesh.
    #[must_use]
    pub fn repeats(&self, other: &Self) -> bool {
        let (own, other) = (&self.header, &other.header);
        own.client_key.is_some()
            && own.id != other.id
            && own.client_key == other.client_key
            && own.principal == other.principal
            && own.target == other.target
            && own.tool == other.tool
            && own.arguments.hash() == other.arguments.hash()
    }
}
