//! A question about rights, and its answer.

use std::fmt;
use std::str::FromStr;

use super::records::Verdict;
use crate::glob::ToolPattern;
use crate::ids::{Hash, InvalidId, PeerId, ReqId, ToolName};
use crate::people::{Domain, Principal, RuleRef, TokenId, WorkspaceId};
use crate::tailnet::Untagged;

/// May this principal, at this device, use that tool of that device?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The asker.
    pub principal: Principal,
    /// The device at which it is asked.
    pub origin: PeerId,
    /// The token that was shown, if it was asked by one.
    pub credential: Option<Credential>,
    /// The workspace that is named. Of a call that is on its way: the one that its origin chose.
    pub workspace: Option<Domain>,
    /// The device that the tool is of.
    pub target: PeerId,
    /// The tool.
    pub tool: ToolName,
    /// The call and the hash of its header's entry, once there is one.
    pub call: Option<(ReqId, Hash)>,
}

/// A token that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Which.
    pub token: TokenId,
    /// True if it has expired by the clock of its door.
    pub over: bool,
}

/// Answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// Rule that decided.
    pub rule: Cause,
    /// The workspace by which it is allowed or asked, for the call's header. `None`: by the mesh alone.
    pub workspace: Option<WorkspaceId>,
    /// Every layer that was asked, in order; the last one decided.
    pub path: Vec<Step>,
    /// The asks that are open, in order of their names. Empty unless the verdict is ask.
    pub asks: Vec<OpenAsk>,
    /// Entries of the consents that settle the others, for the target to see. Each once.
    pub consents: Vec<Hash>,
}

/// One layer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub layer: Layer,
    /// Its answer: allow goes on to the next.
    pub verdict: Verdict,
    /// Ground that it rests on; `None` where nothing stood in the way.
    pub cause: Option<Cause>,
}

/// Layers of a decision, in order. The first that says no has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Both devices belong.
    Device,
    /// There is such a principal, and this device may speak for it.
    Principal,
    /// Token and terms of a device reach so far.
    Credential,
    /// The target does not forbid it itself.
    Local,
    /// The tool is offered and approved.
    Tool,
    /// Tiers, in a mesh without workspaces; nothing else is asked there.
    Open,
    /// The workspace that is named.
    Workspace,
    /// Rules and roles.
    Rules,
    /// A person's yes.
    Consent,
}

impl Layer {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Principal => "principal",
            Self::Credential => "credential",
            Self::Tool => "tool",
            Self::Local => "local",
            Self::Open => "open",
            Self::Workspace => "workspace",
            Self::Rules => "rules",
            Self::Consent => "consent",
        }
    }
}

/// An ask that waits for consent. Who may give it: [`super::View::approvers`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAsk {
    /// Its rule, or the `otherwise` of a workspace.
    pub rule: RuleRef,
    /// True if it is the agent alone who is asked, and its person would not be.
    pub of_agent: bool,
    /// Time that the call waits for consent, in milliseconds.
    pub wait_ms: u64,
}

/// Cause of a decision. Its text is the public name: a rule's full name, or that of the layer that says no.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Origin or target does not belong to the mesh, or is not trusted to.
    DeviceUnknown,
    /// Origin or target was let in for a tag of a tailnet, which does not count now.
    Untagged(Untagged),
    /// The origin may not speak for the principal.
    PrincipalDevice,
    /// There is no such person.
    PrincipalUnknown,
    /// The person or agent is suspended.
    PrincipalSuspended,
    /// The token is another's, was taken back, or has expired.
    TokenOver,
    /// The token does not reach so far.
    TokenScope,
    /// The terms of an ephemeral device do not reach so far.
    TierScope,
    /// The device offers no such tool.
    ToolAbsent,
    /// Nobody has approved the tool yet.
    ToolPending,
    /// The tool has changed since it was approved.
    ToolChanged,
    /// The target's own `node.deny`.
    Local(ToolPattern),
    /// Without workspaces: the tool is for owner-tier devices.
    OwnerOnly,
    /// There is no such workspace.
    WorkspaceUnknown,
    /// The principal is not in that workspace.
    WorkspaceNotMember,
    /// The tool does not belong to that workspace.
    WorkspaceScope,
    /// Without workspaces: allowed by tier.
    Open,
    /// An owner, where no workspace holds the tool.
    Owner,
    /// An owner or admin of the workspace.
    Manager,
    /// A person at her own owner-tier device, and a tool of that.
    Own,
    /// Nothing gives it.
    Default,
    /// A rule, or a workspace's `otherwise`.
    Rule(RuleRef),
}

impl Cause {
    /// True if it says no for want of something. Whoever knows less than a call's origin does not deny for this: it first
    /// fetches what it lacks.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        match self {
            Self::PrincipalUnknown
            | Self::PrincipalDevice
            | Self::WorkspaceUnknown
            | Self::WorkspaceNotMember
            | Self::WorkspaceScope
            | Self::ToolPending
            | Self::ToolChanged
            | Self::Default => true,
            Self::DeviceUnknown
            | Self::Untagged(_)
            | Self::PrincipalSuspended
            | Self::TokenOver
            | Self::TokenScope
            | Self::TierScope
            | Self::ToolAbsent
            | Self::Local(_)
            | Self::OwnerOnly
            | Self::Open
            | Self::Owner
            | Self::Manager
            | Self::Own
            | Self::Rule(_) => false,
        }
    }

    /// True if it says no to whoever asks, whatever is asked for: the device is out, does not speak for that person, there is
    /// no such person, it is suspended, or the token is gone.
    #[must_use]
    pub const fn is_of_asker(&self) -> bool {
        matches!(
            self,
            Self::DeviceUnknown
                | Self::PrincipalDevice
                | Self::PrincipalUnknown
                | Self::PrincipalSuspended
                | Self::TokenOver
        )
    }

    /// True if it says no by what the target offers, or forbids itself; or because one of both devices is unknown. That
    /// nobody approved of a tool is said by owners, whatever the target offers by now.
    #[must_use]
    pub const fn is_of_target(&self) -> bool {
        match self {
            Self::DeviceUnknown | Self::ToolAbsent | Self::ToolChanged | Self::Local(_) | Self::OwnerOnly => true,
            Self::ToolPending
            | Self::Untagged(_)
            | Self::PrincipalDevice
            | Self::PrincipalUnknown
            | Self::PrincipalSuspended
            | Self::TokenOver
            | Self::TokenScope
            | Self::TierScope
            | Self::WorkspaceUnknown
            | Self::WorkspaceNotMember
            | Self::WorkspaceScope
            | Self::Open
            | Self::Owner
            | Self::Manager
            | Self::Own
            | Self::Default
            | Self::Rule(_) => false,
        }
    }

    /// A sentence for people: why it is so.
    #[must_use]
    pub fn sentence(&self, request: &Request, verdict: Verdict) -> String {
        let Request { principal, tool, workspace, .. } = request;
        let asker = asker(principal);
        let named = workspace.as_ref().map_or_else(String::new, ToString::to_string);
        match self {
            Self::DeviceUnknown => "one of the two devices does not belong to this mesh".to_owned(),
            Self::Untagged(why) => {
                format!("one of the two devices was let in for its tag on the tailnet, and {}", why.sentence())
            }
            Self::PrincipalDevice => {
                format!("this device may not ask for {asker}: assign it to the person, or ask from another device")
            }
            Self::PrincipalUnknown => format!("nobody here is called {asker}"),
            Self::PrincipalSuspended => match principal {
                Principal::Agent(person, _) => format!("{asker} may ask nothing, since it or {person} is suspended"),
                Principal::Person(_) | Principal::Device(_) => format!("{asker} is suspended"),
            },
            Self::TokenOver => format!("the token is not one of {asker}, or it is over"),
            Self::TokenScope => format!("the token does not open `{tool}` there"),
            Self::TierScope => {
                format!(
                    "this device was let in for certain tools or for one call, and `{tool}` there is none of what is left"
                )
            }
            Self::ToolAbsent => format!("the device offers no tool `{tool}`"),
            Self::ToolPending => format!("nobody has approved `{tool}` yet"),
            Self::ToolChanged => format!("`{tool}` is not what it was when it was approved"),
            Self::Local(pattern) => format!("the device itself forbids `{pattern}`"),
            Self::OwnerOnly => format!("`{tool}` is for devices of tier owner"),
            Self::WorkspaceUnknown => format!("there is no workspace `{named}`"),
            Self::WorkspaceNotMember => format!("{asker} is not in workspace `{named}`"),
            Self::WorkspaceScope => format!("`{tool}` of that device does not belong to workspace `{named}`"),
            Self::Open => "there are no workspaces, so that tiers decide".to_owned(),
            Self::Owner => format!("{asker} is an owner, and no workspace holds that tool"),
            Self::Manager => format!("{asker} manages the workspace that holds it"),
            Self::Own => format!("it is {asker}'s own device"),
            Self::Default => format!("nothing gives it to {asker}"),
            Self::Rule(rule) if rule.is_otherwise() => {
                format!("no rule speaks of it, and workspace `{}` says {verdict} then", rule.domain)
            }
            Self::Rule(rule) => format!("rule `{rule}` says {verdict}"),
        }
    }
}

/// The principal in words.
fn asker(principal: &Principal) -> String {
    match principal {
        Principal::Person(person) => person.to_string(),
        Principal::Agent(person, agent) => format!("{person}'s agent {agent}"),
        Principal::Device(node) => format!("device {node}"),
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeviceUnknown => "device:unknown",
            Self::Untagged(why) => return write!(f, "tailnet:{why}"),
            Self::PrincipalDevice => "principal:device",
            Self::PrincipalUnknown => "principal:unknown",
            Self::PrincipalSuspended => "principal:suspended",
            Self::TokenOver => "token:over",
            Self::TokenScope => "token:scope",
            Self::TierScope => "tier:scope",
            Self::ToolAbsent => "tool:absent",
            Self::ToolPending => "tool:pending",
            Self::ToolChanged => "tool:changed",
            Self::Local(pattern) => return write!(f, "local:{pattern}"),
            Self::OwnerOnly => "tier:owner-only",
            Self::WorkspaceUnknown => "workspace:unknown",
            Self::WorkspaceNotMember => "workspace:not-member",
            Self::WorkspaceScope => "workspace:scope",
            Self::Open => "builtin/open",
            Self::Owner => "builtin/owner",
            Self::Manager => "builtin/manager",
            Self::Own => "builtin/own",
            Self::Default => "default",
            Self::Rule(rule) => return write!(f, "{rule}"),
        })
    }
}

impl FromStr for Cause {
    type Err = InvalidId;
    /// Reads the public name.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Ok(match text {
            "device:unknown" => Self::DeviceUnknown,
            "tailnet:tag-lost" => Self::Untagged(Untagged::NoTag),
            "tailnet:key-expired" => Self::Untagged(Untagged::KeyEnded),
            "tailnet:node-gone" => Self::Untagged(Untagged::NoNode),
            "principal:device" => Self::PrincipalDevice,
            "principal:unknown" => Self::PrincipalUnknown,
            "principal:suspended" => Self::PrincipalSuspended,
            "token:over" => Self::TokenOver,
            "token:scope" => Self::TokenScope,
            "tier:scope" => Self::TierScope,
            "tool:absent" => Self::ToolAbsent,
            "tool:pending" => Self::ToolPending,
            "tool:changed" => Self::ToolChanged,
            "tier:owner-only" => Self::OwnerOnly,
            "workspace:unknown" => Self::WorkspaceUnknown,
            "workspace:not-member" => Self::WorkspaceNotMember,
            "workspace:scope" => Self::WorkspaceScope,
            "builtin/open" => Self::Open,
            "builtin/owner" => Self::Owner,
            "builtin/manager" => Self::Manager,
            "builtin/own" => Self::Own,
            "default" => Self::Default,
            _ => match text.strip_prefix("local:") {
                Some(pattern) => Self::Local(pattern.parse()?),
                None => Self::Rule(text.parse()?),
            },
        })
    }
}

impl Decision {
    /// A sentence for people: why it is so.
    #[must_use]
    pub fn why(&self, request: &Request) -> String {
        let said = if self.consents.is_empty() { self.verdict } else { Verdict::Ask };
        let sentence = self.rule.sentence(request, said);
        match (self.verdict, self.consents.is_empty()) {
            (Verdict::Allow, false) => format!("{sentence}, and somebody said yes"),
            (Verdict::Allow | Verdict::Ask | Verdict::Deny, _) => sentence,
        }
    }
}
