//! Changes of an answer: the least that somebody could do.

use std::fmt;

use super::decide::{Asker, Judging, Strength};
use super::decision::{Cause, Decision, OpenAsk, Request};
use super::records::Verdict;
use super::view::{DeviceFacts, View};
use crate::glob::ToolPattern;
use crate::ids::{NodeId, ToolName};
use crate::people::{Domain, Principal, RuleRef, WorkspaceId};

/// Something that would make a call run, or be asked where it is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// An owner lets the device in, or renews its key.
    AdmitDevice,
    /// The node gets its tag back, or a person approves the device, which then needs none.
    TagNode,
    /// An owner assigns the origin to the principal's person, or it is asked at another device.
    AssignDevice(Principal),
    /// An owner confirms the name of a device that named itself.
    ConfirmName(NodeId),
    /// An owner or admin of the mesh adds the person.
    AddPerson(Principal),
    /// An owner or admin of the mesh ends the suspension.
    Resume(Principal),
    /// Another token of the same principal, or one that reaches further.
    WiderToken,
    /// An owner lets the device in for more.
    WiderTerms,
    /// The device must offer the tool.
    OfferTool(ToolName),
    /// An owner or admin of the mesh approves the tool as it is.
    ApproveTool(ToolName),
    /// The owner of the target takes the pattern out of its `node.deny`.
    LiftLocal(ToolPattern),
    /// It is asked at a device of tier owner, or an owner makes workspaces.
    OwnerDevice,
    /// No workspace, or another, is named.
    NameNone(Domain),
    /// A manager of the workspace makes the principal a member.
    Join(WorkspaceId),
    /// An owner or admin of the mesh binds the tool to the workspace.
    Bind(WorkspaceId),
    /// Rules are edited by who manages their workspace, those of `mesh` by an owner.
    Edit {
        /// Rules that deny, to be lifted.
        lift: Vec<RuleRef>,
        /// Where a rule that allows must stand, and whom it must name.
        allow: Option<(Domain, Vec<Principal>)>,
    },
    /// Somebody says yes.
    Yes(Vec<OpenAsk>),
}

impl View {
    /// The least that would change this answer to the better; `None` of what is allowed.
    #[must_use]
    pub fn would_change(&self, request: &Request, decision: &Decision) -> Option<Remedy> {
        let Request { principal, tool, workspace, .. } = request;
        let named = || workspace.clone().unwrap_or(Domain::Mesh);
        if decision.verdict == Verdict::Allow {
            return None;
        }
        if decision.verdict == Verdict::Ask {
            return Some(Remedy::Yes(decision.asks.clone()));
        }
        Some(match &decision.rule {
            Cause::DeviceUnknown => Remedy::AdmitDevice,
            Cause::Untagged(_) => Remedy::TagNode,
            Cause::PrincipalDevice => Remedy::AssignDevice(principal.clone()),
            Cause::PrincipalUnknown => Remedy::AddPerson(principal.clone()),
            Cause::PrincipalSuspended => Remedy::Resume(self.suspended_of(principal)),
            Cause::TokenOver | Cause::TokenScope => Remedy::WiderToken,
            Cause::TierScope => Remedy::WiderTerms,
            Cause::ToolAbsent => Remedy::OfferTool(tool.clone()),
            Cause::ToolPending | Cause::ToolChanged => Remedy::ApproveTool(tool.clone()),
            Cause::Local(pattern) => Remedy::LiftLocal(pattern.clone()),
            Cause::OwnerOnly => Remedy::OwnerDevice,
            Cause::WorkspaceUnknown => Remedy::NameNone(named()),
            Cause::WorkspaceNotMember => named().workspace().cloned().map(Remedy::Join)?,
            Cause::WorkspaceScope => named().workspace().cloned().map(Remedy::Bind)?,
            Cause::Open | Cause::Owner | Cause::Manager | Cause::Own | Cause::Default | Cause::Rule(_) => {
                if let Some(unknown) = self.to_be_confirmed(request) {
                    return Some(Remedy::ConfirmName(unknown));
                }
                // A person's no to this call: only another call can be answered otherwise.
                if !decision.consents.is_empty() {
                    return None;
                }
                self.edit(request)?
            }
        })
    }

    /// The device whose name is to be confirmed first: that which asks for itself, since no rule could name it, or the target,
    /// if the answer would be another then.
    fn to_be_confirmed(&self, request: &Request) -> Option<NodeId> {
        let unknown = |peer| self.devices.get(peer).map(|device| &device.facts).filter(|facts| !facts.confirmed);
        let asks = unknown(&request.origin).filter(|_| matches!(request.principal, Principal::Device(_)));
        if let Some(facts) = asks {
            return Some(facts.node.clone());
        }
        let target = unknown(&request.target)?;
        let mut confirmed = self.clone();
        confirmed.set_device(DeviceFacts { confirmed: true, ..target.clone() });
        (confirmed.decide(request).verdict != Verdict::Deny).then(|| target.node.clone())
    }

    /// The fewest rules to lift or add so that rules and roles give the tool.
    fn edit(&self, request: &Request) -> Option<Remedy> {
        let admitted = self.admit(request, &mut Vec::new()).ok()?;
        let judging = Judging::new(self, request, admitted);
        let named = judging.named().ok()?;
        let all: Vec<&RuleRef> = sorted(judging.outlook().flat_map(|outlook| outlook.denies));
        let ways = judging.outlook().filter(|outlook| named.is_none() || outlook.id == named).map(|outlook| {
            // By a rule the workspace's own denies count, by a role those of all that hold the tool.
            let by_role = outlook.strength == Strength::Role;
            let lift = if by_role { all.clone() } else { sorted(outlook.denies.into_iter()) };
            // Who has it by a role needs no rule, where nothing denies it: what is given by a role yields to that.
            let role_does = all.iter().all(|at| lift.contains(at));
            let lacking = outlook.lacking.iter().filter(|(_, by_role)| !(role_does && *by_role));
            let lacking = lacking.map(|(level, _)| match level.asker {
                Asker::Person(person) => Principal::Person(person.clone()),
                Asker::Agent(person, agent) => Principal::Agent(person.clone(), agent.clone()),
                Asker::Device { node, .. } => Principal::Device(node.clone()),
            });
            let mut lacking: Vec<Principal> = lacking.collect();
            lacking.dedup();
            let domain = outlook.id.map_or(Domain::Mesh, |id| Domain::Workspace(id.clone()));
            let allow = (outlook.strength == Strength::Nothing).then_some((domain, lacking));
            (lift, allow)
        });
        let (lift, allow) = ways.min_by_key(|(lift, allow)| lift.len() + usize::from(allow.is_some()))?;
        Some(Remedy::Edit { lift: lift.into_iter().cloned().collect(), allow })
    }
}

fn sorted<'a>(refs: impl Iterator<Item = &'a RuleRef>) -> Vec<&'a RuleRef> {
    let mut refs: Vec<&RuleRef> = refs.collect();
    refs.sort();
    refs.dedup();
    refs
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TagNode => f.write_str(
                "its node gets the tag and a good key back in the tailnet, or an owner approves the device by hand: `sigil approve`",
            ),
            Self::AdmitDevice => f.write_str("an owner lets the device in"),
            Self::AssignDevice(of) => {
                write!(f, "an owner assigns this device to {of}, or it is asked at another device")
            }
            Self::ConfirmName(node) => write!(
                f,
                "an owner confirms the name of the device: `sigil rename {node} {node}` at an owner's device, or another name"
            ),
            Self::AddPerson(who) => write!(f, "an owner or admin of the mesh adds {who}"),
            Self::Resume(who) => write!(f, "an owner or admin of the mesh ends the suspension of {who}"),
            Self::WiderToken => f.write_str("another token, one that opens this and is not over"),
            Self::WiderTerms => {
                f.write_str("an owner lets this device in for more: `sigil approve NODE --for TIME --only TOOL`")
            }
            Self::OfferTool(tool) => write!(f, "the device offers `{tool}`"),
            Self::ApproveTool(tool) => write!(f, "an owner or admin of the mesh approves `{tool}` as it is now"),
            Self::LiftLocal(pattern) => write!(f, "`{pattern}` is taken out of `node.deny` on the device itself"),
            Self::OwnerDevice => f.write_str("it is asked at a device of tier owner, or an owner makes workspaces"),
            Self::NameNone(domain) => write!(f, "another workspace than `{domain}` is named, or none"),
            Self::Join(workspace) => write!(f, "who manages `{workspace}` adds a member"),
            Self::Bind(workspace) => write!(f, "an owner or admin of the mesh binds the tool to `{workspace}`"),
            Self::Edit { lift, allow } => {
                let names: Vec<String> = lift.iter().map(|rule| format!("`{rule}`")).collect();
                let mesh = lift.iter().map(|rule| &rule.domain).chain(allow.iter().map(|(domain, _)| domain));
                let who = if mesh.into_iter().any(|domain| *domain == Domain::Mesh) {
                    "an owner of the mesh"
                } else {
                    "who manages the workspace"
                };
                write!(f, "{who} ")?;
                if !names.is_empty() {
                    write!(f, "lifts {}", names.join(" and "))?;
                }
                if let Some((domain, people)) = allow {
                    let people: Vec<String> = people.iter().map(ToString::to_string).collect();
                    let and = if names.is_empty() { "" } else { ", and " };
                    write!(f, "{and}adds a rule in `{domain}` that allows it to {}", people.join(" and "))?;
                }
                Ok(())
            }
            Self::Yes(asks) => {
                let names: Vec<String> = asks.iter().map(|ask| format!("`{}`", ask.rule)).collect();
                write!(f, "somebody who may says yes to {}", names.join(" and "))
            }
        }
    }
}
