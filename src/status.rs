//! Errors as the world sees them, once: one row per code, one column per edge.

use std::fmt;
use std::time::Duration;

use memory_core::item::InvalidMessage;
use mesh_core::ids::{InvalidId, PeerId};
use mesh_core::io::Refusal;
use mesh_core::policy::InvalidRecord;
use serde_json::{Value, json};
use tonic::Code;

use crate::memory::MemoryError;
use crate::mesh::check_words::CheckWords;
use crate::mesh::{JoinError, MeshError};

macro_rules! codes {
    ($($name:ident $text:literal $http:literal $grpc:ident $exit:literal $title:literal;)*) => {
        /// Kind of an error, as a stable word. The problem type is `urn:sigil:error:<word>`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ErrorCode {
            $(#[doc = $title] $name,)*
        }

        impl ErrorCode {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Reads the stable word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($text => Some(Self::$name),)* _ => None }
            }

            /// HTTP status.
            #[must_use]
            pub const fn http(self) -> u16 {
                match self { $(Self::$name => $http,)* }
            }

            /// gRPC status.
            #[must_use]
            pub const fn grpc(self) -> Code {
                match self { $(Self::$name => Code::$grpc,)* }
            }

            /// Exit code of the command line.
            #[must_use]
            pub const fn exit(self) -> u8 {
                match self { $(Self::$name => $exit,)* }
            }

            /// A few words for people, the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
//  code             word                   HTTP gRPC               exit title
    BadRequest       "bad_request"          400  InvalidArgument    2 "The request cannot be read";
    Unauthorized     "unauthorized"         401  Unauthenticated    4 "A token is needed";
    Denied           "denied"               403  PermissionDenied   4 "This is not allowed";
    NotOwner         "not_owner"            403  PermissionDenied   4 "Only an owner may do this";
    NotApprover      "not_approver"         403  PermissionDenied   4 "Somebody else answers this";
    NotMember        "not_member"           403  PermissionDenied   4 "This device does not belong to the mesh";
    CrossOrigin      "cross_origin"         403  PermissionDenied   4 "A web page of another site may not do this";
    Csrf             "csrf"                 403  PermissionDenied   4 "The page did not prove itself";
    NotFresh         "not_fresh"            403  PermissionDenied   4 "This session is too old for that";
    JoinRejected     "join_rejected"        403  PermissionDenied   4 "The other side refused";
    NotFound         "not_found"            404  NotFound           3 "There is nothing here";
    UnknownNode      "unknown_node"         404  NotFound           3 "No such node";
    UnknownTool      "unknown_tool"         404  NotFound           3 "No such tool";
    UnknownCall      "unknown_call"         404  NotFound           3 "No such call";
    UnknownHour      "unknown_hour"         404  NotFound           3 "No such yes for an hour";
    UnknownPending   "unknown_pending"      404  NotFound           3 "No such device awaits approval";
    UnknownToken     "unknown_token"        404  NotFound           3 "No such token";
    UnknownNearby    "unknown_nearby"       404  NotFound           3 "No such device nearby";
    UnknownPerson    "unknown_person"       404  NotFound           3 "No such person";
    UnknownWorkspace "unknown_workspace"    404  NotFound           3 "No such workspace";
    UnknownItem      "unknown_item"         404  NotFound           3 "No such message";
    NoOutput         "no_output"            404  NotFound           3 "The call has no output";
    SignInUnknown    "sign_in_unknown"      404  NotFound           3 "This code is not known";
    UnknownSession   "unknown_session"      404  NotFound           3 "No such session";
    InviteUnknown    "invite_unknown"       404  NotFound           3 "This code is not known";
    MethodNotAllowed "method_not_allowed"   405  Unimplemented      2 "Not with this method";
    NotAcceptable    "not_acceptable"       406  InvalidArgument    2 "Not in this format";
    RequestTimeout   "request_timeout"      408  DeadlineExceeded   7 "The request came too slowly";
    Ambiguous        "ambiguous_id"         409  FailedPrecondition 8 "More than one device is meant";
    NotEnded         "not_ended"            409  FailedPrecondition 6 "The call has not ended yet";
    NameTaken        "name_taken"           409  AlreadyExists      8 "Another device has this name";
    LastOwner        "last_owner"           409  FailedPrecondition 8 "The last owner must stay";
    Replaced         "replaced"             409  Aborted            8 "A newer stream of this device took its place";
    WouldLeave       "would_leave"          409  FailedPrecondition 8 "This would leave another mesh";
    ConfirmPeer      "confirm_peer"         409  FailedPrecondition 8 "Compare the check words of the other device first";
    OtherWords       "other_words"          409  FailedPrecondition 8 "Another device than the one that was compared";
    NeedsNewKey      "needs_new_key"        409  FailedPrecondition 8 "This device needs a new key to come back";
    Conflict         "conflict"             409  FailedPrecondition 8 "Not as things stand";
    KeyReused        "key_reused"           409  AlreadyExists      8 "The idempotency key was used for another call";
    AlreadyDecided   "already_decided"      409  FailedPrecondition 8 "This does not wait for an answer any more";
    Declared         "declared"             409  FailedPrecondition 8 "A file of settings says this";
    InviteUsed       "invite_used"          409  FailedPrecondition 8 "This code has been used";
    AskOver          "ask_over"             410  FailedPrecondition 7 "It is too late for an answer";
    ResultGone       "result_gone"          410  NotFound           3 "The output is not kept any more";
    InviteExpired    "invite_expired"       410  FailedPrecondition 7 "This code has expired";
    SignInUsed       "sign_in_used"         410  FailedPrecondition 7 "This code has been used";
    SignInExpired    "sign_in_expired"      410  FailedPrecondition 7 "This code has expired";
    InviteVoid       "invite_void"          410  FailedPrecondition 7 "This code was taken back";
    PreconditionFailed "precondition_failed" 412 FailedPrecondition 8 "Somebody has edited this since";
    TooLarge         "too_large"            413  OutOfRange         2 "Too large";
    UriTooLong       "uri_too_long"         414  OutOfRange         2 "The path is too long";
    UnsupportedMedia "unsupported_media"    415  InvalidArgument    2 "Not this content type";
    WrongHost        "wrong_host"           421  PermissionDenied   4 "Not under this host name";
    Invalid          "invalid"              422  InvalidArgument    2 "A value is out of its limits";
    DuplicateRule    "duplicate_rule"       422  AlreadyExists      2 "Another rule says the very same";
    CheckFailed      "check_failed"         422  FailedPrecondition 2 "Something that must hold would not";
    InviteInvalid    "invite_invalid"       422  InvalidArgument    2 "This is not a sigil code";
    PreconditionRequired "precondition_required" 428 FailedPrecondition 2 "An edit must say which state it is of";
    QueueFull        "queue_full"           429  ResourceExhausted  1 "The queue is full";
    RateLimited      "rate_limited"         429  ResourceExhausted  1 "Asked too often";
    OverBudget       "over_budget"          429  ResourceExhausted  1 "This device is over its budget";
    HeadersTooLarge  "headers_too_large"    431  OutOfRange         2 "The headers are too large";
    Internal         "internal"             500  Internal           1 "Internal error";
    StoreFailed      "store_failed"         500  Internal           1 "The local store failed";
    ResultAway       "result_away"          503  Unavailable        9 "The result is not here yet";
    SchemaAway       "schema_away"          503  Unavailable        9 "What is told of the tool is not here yet";
    NoHolder         "no_holder"            503  Unavailable        6 "No device that may hold this memory is in reach";
    InviterDown      "inviter_down"         503  Unavailable        6 "The inviting device does not answer";
    Moved            "moved"                503  Unavailable        6 "This device has since moved to another mesh";
    DiskFull         "disk_full"            507  ResourceExhausted  1 "The disk of this device is nearly full";
    Stopping         "stopping"             503  Unavailable        5 "The agent is stopping";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One occurrence of an error, on its way to any edge.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct OpError {
    /// Kind.
    pub code: ErrorCode,
    /// This occurrence, for people.
    pub detail: String,
    /// The next step, for people.
    pub hint: Option<String>,
    /// Time after which another try makes sense.
    pub retry_after: Option<Duration>,
    /// More members for machines.
    pub extra: Vec<(&'static str, Value)>,
}

impl OpError {
    /// An error without more.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None, retry_after: None, extra: Vec::new() }
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the time after which another try makes sense.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds a member for machines.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.extra.push((name, value.into()));
        self
    }

    /// For a gRPC edge.
    #[must_use]
    pub fn to_grpc(&self) -> tonic::Status {
        tonic::Status::new(self.code.grpc(), &self.detail)
    }
}

impl From<InvalidId> for OpError {
    fn from(error: InvalidId) -> Self {
        Self::new(ErrorCode::Invalid, error.to_string())
    }
}

impl From<Refusal> for OpError {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::UnknownNode(_) => {
                Self::new(ErrorCode::UnknownNode, detail).hint("`sigil nodes` lists the devices of this mesh")
            }
            Refusal::NameTaken(_) => {
                Self::new(ErrorCode::NameTaken, detail).hint("`sigil nodes` lists the names in use; choose another")
            }
            Refusal::UnknownTool { node, tool } => Self::new(ErrorCode::UnknownTool, detail)
                .hint("`sigil tools` lists what each device offers")
                .with("node", node.as_str())
                .with("tool", tool.as_str()),
            Refusal::UnknownCall(_) => {
                Self::new(ErrorCode::UnknownCall, detail).hint("`sigil calls` lists the calls that this device knows")
            }
            Refusal::QueueFull { node, open, retry_after_ms } => Self::new(ErrorCode::QueueFull, detail)
                .hint("try again later, cancel waiting calls, or switch the device on")
                .retry_after(Duration::from_millis(retry_after_ms))
                .with("node", node.as_str())
                .with("open", open),
            Refusal::OverBudget { retry_after_ms, .. } => Self::new(ErrorCode::OverBudget, detail)
                .hint("call less often, or have an owner make this device an owner: `sigil approve NODE --tier owner`")
                .retry_after(Duration::from_millis(retry_after_ms)),
            Refusal::RateLimited(limited) => Self::new(ErrorCode::RateLimited, detail)
                .hint("ask less often, or set `calls.rate` higher in the `sigil.toml` of the device where it is asked")
                .retry_after(Duration::from_millis(limited.retry_after_ms))
                .with("principal", limited.who.to_string())
                .with("tool", limited.tool.as_str())
                .with("per_s", limited.rate.per_s)
                .with("burst", limited.rate.burst),
            Refusal::DiskFull { free, floor } => Self::new(ErrorCode::DiskFull, detail)
                .hint("make room on this disk, or set `storage.free_min` lower; what runs goes on")
                .retry_after(Duration::from_secs(30))
                .with("free", free)
                .with("floor", floor),
            Refusal::KeyReused(id) => Self::new(ErrorCode::KeyReused, detail)
                .hint("use a fresh Idempotency-Key for a different call")
                .with("call", id.to_string()),
            Refusal::Denied(denial) => {
                let error = Self::new(ErrorCode::Denied, detail)
                    .with("rule", denial.decision.rule.to_string())
                    .with("verdict", denial.decision.verdict.as_str())
                    .with("layer", denial.decision.path.last().map(|step| step.layer.as_str()))
                    .with("workspace", denial.decision.workspace.as_ref().map(ToString::to_string));
                match denial.would_change {
                    Some(remedy) => error.hint(format!("{remedy}; `sigil policy explain` says more")),
                    None => error,
                }
            }
            Refusal::NotApprover(_) => {
                Self::new(ErrorCode::NotApprover, detail).hint("`sigil approvals` says who may answer what")
            }
            Refusal::AlreadyDecided(_) => {
                Self::new(ErrorCode::AlreadyDecided, detail).hint("`sigil calls ID` shows what became of it")
            }
            Refusal::AskOver(_) => Self::new(ErrorCode::AskOver, detail).hint("the call has to be made again"),
            Refusal::UnknownHour(_) => {
                Self::new(ErrorCode::UnknownHour, detail).hint("`sigil approvals hours` lists those that count yet; what others said before this device started is listed at theirs")
            }
            Refusal::NotAllowed(_) => {
                Self::new(ErrorCode::Denied, detail).hint("`sigil person list` shows who is owner or admin of the mesh")
            }
            Refusal::InvalidRecord(InvalidRecord::DuplicateRule(rule)) => {
                Self::new(ErrorCode::DuplicateRule, detail).with("rule", rule.to_string())
            }
            Refusal::InvalidRecord(InvalidRecord::UnknownWorkspace(_)) => {
                Self::new(ErrorCode::UnknownWorkspace, detail)
                    .hint("`sigil workspace list` shows those that there are; `sigil workspace add` makes one")
            }
            Refusal::EditedMeanwhile => edited_meanwhile(),
            Refusal::Declared { file } => Self::new(ErrorCode::Declared, detail)
                .hint("edit it in that file, and run `sigil reload` there")
                .with("peer_id", file.to_string()),
            Refusal::CheckFailed { check, .. } => Self::new(ErrorCode::CheckFailed, detail)
                .hint("edit otherwise, or change the check first; an owner may force it")
                .with("check", check.to_string()),
            Refusal::InvalidRecord(_) | Refusal::Invalid(_) => Self::new(ErrorCode::Invalid, detail),
            Refusal::Full(_) => Self::new(ErrorCode::Conflict, detail).hint("make room: remove what is not needed"),
            Refusal::InviteUnknown => Self::new(ErrorCode::InviteUnknown, detail),
            Refusal::InviteUsed => Self::new(ErrorCode::InviteUsed, detail).hint("ask for a new code"),
            Refusal::InviteExpired => Self::new(ErrorCode::InviteExpired, detail).hint("ask for a new code"),
            Refusal::InviteVoid => Self::new(ErrorCode::InviteVoid, detail).hint("ask for a new code"),
            Refusal::NeedsNewKey => Self::new(ErrorCode::NeedsNewKey, detail).hint(NEW_KEY),
            Refusal::NotOwner => {
                Self::new(ErrorCode::NotOwner, detail).hint("do it on a device that `sigil nodes` shows as owner")
            }
            Refusal::LastOwner => Self::new(ErrorCode::LastOwner, detail).hint("make another device an owner first"),
            Refusal::NotMember => Self::new(ErrorCode::NotMember, detail)
                .hint("`sigil leave` starts afresh; then join again with a new code"),
            Refusal::Stopping => Self::from(MeshError::Stopping),
        }
    }
}

/// The answer to an edit of a state that is none any more.
#[must_use]
pub fn edited_meanwhile() -> OpError {
    OpError::new(ErrorCode::PreconditionFailed, "somebody has edited this since you read it")
        .hint("read it again, and look whether your edit is still what you want")
}

/// The next step of a device that no approval lets in under its present key.
const NEW_KEY: &str =
    "on that device: `sigil down`, move `identity.key` out of its home, `sigil up`, and join as a new device";

/// Check words of a device, for machines.
#[must_use]
pub fn check(peer: &PeerId) -> Value {
    json!({ "words": CheckWords::of(peer).words(), "short": peer.short() })
}

impl From<JoinError> for OpError {
    fn from(error: JoinError) -> Self {
        let detail = error.to_string();
        match error {
            JoinError::Unconfirmed { peer, name, words } => Self::new(ErrorCode::ConfirmPeer, detail)
                .hint(format!(
                    "`sigil status` there shows them; if they are the same, join again with `--yes {}`",
                    words.to_string().replace(' ', "-")
                ))
                .with("peer_id", peer.to_string())
                .with("name", name)
                .with("check", check(&peer)),
            JoinError::OtherWords { peer, .. } => Self::new(ErrorCode::OtherWords, detail)
                .hint("do not join; look at what `sigil status` shows on the device that you mean")
                .with("peer_id", peer.to_string())
                .with("check", check(&peer)),
            JoinError::BadWelcome(_) => Self::new(ErrorCode::JoinRejected, detail)
                .hint("this device is still where it was; join through another device of that mesh"),
            JoinError::Void => Self::new(ErrorCode::InviteVoid, detail),
            JoinError::NeedsNewKey => Self::new(ErrorCode::NeedsNewKey, detail).hint(NEW_KEY),
            JoinError::BadCode(_) => Self::new(ErrorCode::InviteInvalid, detail)
                .hint("copy the whole code that `sigil invite` printed on the other device"),
            JoinError::Used => Self::new(ErrorCode::InviteUsed, detail),
            JoinError::Expired => Self::new(ErrorCode::InviteExpired, detail),
            JoinError::UnknownCode => Self::new(ErrorCode::InviteUnknown, detail)
                .hint("ask for a new one with `sigil invite` on the other device"),
            JoinError::InviterDown { .. } => {
                Self::new(ErrorCode::InviterDown, detail).retry_after(Duration::from_secs(5))
            }
            JoinError::Unreachable(_) => Self::new(ErrorCode::InviterDown, detail),
            JoinError::Rejected(_) => Self::new(ErrorCode::JoinRejected, detail),
            JoinError::WouldLeave { others } => Self::new(ErrorCode::WouldLeave, detail).with("others", others),
            JoinError::NotNearby(_) => Self::new(ErrorCode::UnknownNearby, detail)
                .hint("`sigil nearby` lists what is seen on the local network"),
        }
    }
}

impl From<MemoryError> for OpError {
    fn from(error: MemoryError) -> Self {
        let detail = error.to_string();
        match error {
            MemoryError::Message(InvalidMessage::TooLong { .. }) => {
                Self::new(ErrorCode::TooLarge, detail).hint("split it into several messages")
            }
            MemoryError::Message(_) => Self::new(ErrorCode::Invalid, detail),
            MemoryError::UnknownItem(_) => {
                Self::new(ErrorCode::UnknownItem, detail).hint("`sigil memory show` lists messages with their ids")
            }
            MemoryError::Store(source) => Self::new(ErrorCode::StoreFailed, format!("{detail}: {source}"))
                .hint("`sigil doctor` looks for the cause; memory is opened anew at the next `sigil up`"),
            MemoryError::Damaged(_) => Self::new(ErrorCode::StoreFailed, detail)
                .hint("move its directory out of `memory` in the home, and import what was exported"),
            MemoryError::Closed => {
                Self::new(ErrorCode::Stopping, detail).hint("ask again").retry_after(Duration::from_secs(2))
            }
        }
    }
}

impl From<MeshError> for OpError {
    fn from(error: MeshError) -> Self {
        let detail = error.to_string();
        match error {
            MeshError::Refused(refusal) => refusal.into(),
            MeshError::Stopping => Self::new(ErrorCode::Stopping, detail)
                .hint("`sigil up` starts it again")
                .retry_after(Duration::from_secs(2)),
            MeshError::Moved => Self::new(ErrorCode::Moved, detail).retry_after(Duration::from_secs(1)),
            MeshError::Store(source) => Self::new(ErrorCode::StoreFailed, format!("{detail}: {source}"))
                .hint("`sigil doctor` looks for the cause"),
            MeshError::Blob(source) => Self::new(ErrorCode::StoreFailed, format!("{detail}: {source}"))
                .hint("`sigil doctor` looks for the cause"),
            MeshError::NoEntropy => Self::new(ErrorCode::Internal, detail),
            MeshError::UnknownPending(_) => Self::new(ErrorCode::UnknownPending, detail)
                .hint("`sigil pending` lists the devices that await approval"),
            MeshError::Join(error) => error.into(),
            MeshError::ResultGone => Self::new(ErrorCode::ResultGone, detail)
                .hint("the newest outputs are kept, 256 MiB of them; call again, or fetch it sooner"),
            MeshError::CardAway => Self::new(ErrorCode::SchemaAway, detail)
                .hint("switch that device on; owners' devices get it by themselves once it can be reached")
                .retry_after(Duration::from_secs(30)),
            MeshError::ResultAway { node, received, len } => {
                let away = Self::new(ErrorCode::ResultAway, detail)
                    .with("node", json!(node))
                    .with("received_bytes", received.unwrap_or_default())
                    .with("output_bytes", len);
                if received.is_some() {
                    away.hint("ask again: the bytes are coming").retry_after(Duration::from_secs(1))
                } else {
                    away.hint("switch that device on; the bytes come by themselves once it can be reached")
                        .retry_after(Duration::from_secs(30))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_read_back() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
            assert!((400..600).contains(&code.http()), "{code}");
            assert_ne!(code.grpc(), Code::Ok, "{code}");
            assert!((1..=11).contains(&code.exit()), "{code}");
        }
    }

    #[test]
    fn busy_answers_say_when_to_try_again() {
        let refusal = Refusal::QueueFull { node: "n".parse().unwrap(), open: 1000, retry_after_ms: 1500 };
        let error = OpError::from(MeshError::Refused(refusal));
        assert_eq!(error.code, ErrorCode::QueueFull);
        assert_eq!(error.retry_after, Some(Duration::from_millis(1500)));
        let away = OpError::from(MeshError::ResultAway { node: "n".parse().unwrap(), received: Some(1), len: 2 });
        for error in [OpError::from(MeshError::Stopping), OpError::from(MeshError::Moved), away] {
            assert_eq!(error.code.http(), 503);
            assert!(error.retry_after.is_some());
        }
    }
}
