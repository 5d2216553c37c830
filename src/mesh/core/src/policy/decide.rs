//! The one function that decides (`docs/decisions/0042`).
//!
//! Layers are asked in order, and the first no decides. In rules and roles: a principal is judged at several **levels**,
//! and what one of them lacks is lacking: an agent also as its person, and whoever asks at a device below the owner tier
//! also at the role that such a device caps. In each workspace a level is given a tool by a rule, by its role, or not.

use std::borrow::Cow;

use super::approvers::Asked;
use super::consents::{Choice, Given};
use super::decision::{Cause, Decision, Layer, OpenAsk, Request, Step};
use super::merge::MergedRule;
use super::records::{Mode, RuleVerdict, Verdict, WAIT_MS_DEFAULT, Who};
use super::view::{DeviceFacts, DeviceView, Space, ToolState, View};
use crate::glob::UNKNOWN;
use crate::ids::{Hash, NodeId, PeerId};
use crate::people::{AgentName, Domain, PersonId, Principal, Role, RuleRef, Seat, WorkspaceId};
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::record::Tier;

/// Levels at most: an agent, and its person at three roles.
const LEVELS: usize = 4;

/// Manner in which a tool is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strength {
    /// Not at all.
    Nothing,
    /// By a role, or by what a workspace says where no rule speaks.
    Role,
    /// By a rule.
    Rule,
}

/// The principal that is judged.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker<'a> {
    Person(&'a PersonId),
    Agent(&'a PersonId, &'a AgentName),
    /// `known`: rights know it by that name.
    Device {
        node: &'a NodeId,
        known: bool,
    },
}

/// One way in which the principal is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level<'a> {
    pub(super) asker: Asker<'a>,
    /// The highest role that the origin lets it have.
    cap: Role,
}

impl Level<'_> {
    /// True of the principal itself, false of the person of an agent that asks.
    fn is_principal(&self, principal: &Principal) -> bool {
        matches!(
            (self.asker, principal),
            (Asker::Person(_), Principal::Person(_))
                | (Asker::Agent(..), Principal::Agent(..))
                | (Asker::Device { .. }, Principal::Device(_))
        )
    }
}

/// A workspace that could decide, or the mesh alone.
#[derive(Clone, Copy)]
pub(super) struct Place<'v> {
    pub(super) id: Option<&'v WorkspaceId>,
    pub(super) space: &'v Space,
    /// Role of the principal's seat there.
    role: Role,
}

/// A rule that asks at this call.
#[derive(Clone, Copy)]
struct Ask<'v> {
    rule: Asking<'v>,
    /// True if no level asks but the agent's.
    of_agent: bool,
}

#[derive(Clone, Copy)]
enum Asking<'v> {
    Rule(&'v MergedRule),
    Otherwise(&'v WorkspaceId),
}

impl Asking<'_> {
    fn at(&self) -> RuleRef {
        match self {
            Self::Rule(rule) => rule.at.clone(),
            Self::Otherwise(workspace) => RuleRef::otherwise(workspace),
        }
    }

    fn is_named(&self, by: &RuleRef) -> bool {
        match self {
            Self::Rule(rule) => rule.at == *by,
            Self::Otherwise(workspace) => by.is_otherwise() && by.domain.workspace() == Some(*workspace),
        }
    }
}

/// All that the rules of one domain say to the levels.
#[derive(Default)]
struct Said<'v> {
    denies: Vec<&'v MergedRule>,
    asks: Vec<Ask<'v>>,
    always: Vec<&'v MergedRule>,
    /// The first rule that gives it to each level.
    gives: [Option<&'v MergedRule>; LEVELS],
}

/// A workspace as it counts, with the rules of the mesh.
struct Standing<'v> {
    place: Place<'v>,
    said: Said<'v>,
    strength: Strength,
    /// Manner in which it is given to the principal itself.
    by: Option<Cause>,
    /// The ask of the workspace's `otherwise`, of agents alone or not.
    otherwise: Option<bool>,
}

/// The layers before rules and roles, passed.
pub(super) struct Admitted<'v> {
    pub(super) target: &'v DeviceView,
    origin: &'v DeviceView,
    /// Name of the tool as patterns meet it.
    pub(super) tool: String,
}

impl Admitted<'_> {
    /// True unless it is a device that asks, and rights know it by no name.
    fn knows(&self, principal: &Principal) -> bool {
        self.origin.facts.confirmed || !matches!(principal, Principal::Device(_))
    }
}

/// Everything that rules and roles are judged by.
pub(super) struct Judging<'v, 'r> {
    view: &'v View,
    request: &'r Request,
    pub(super) at: Admitted<'v>,
    pub(super) levels: Vec<Level<'r>>,
    /// Workspaces that hold the tool and have the principal, or the mesh alone.
    pub(super) holds: Vec<Place<'v>>,
    /// Also what workspaces take away that may hold the tool, see [`View::may_hold`].
    mesh_said: Said<'v>,
    standings: Vec<Standing<'v>>,
}

impl View {
    /// Decides. Depends on nothing but the view and the request.
    #[must_use]
    pub fn decide(&self, request: &Request) -> Decision {
        let mut path = Vec::with_capacity(8);
        let admitted = match self.admit(request, &mut path) {
            Ok(admitted) => admitted,
            Err(decision) => return decision.with(path),
        };
        let judging = Judging::new(self, request, admitted);
        match judging.named() {
            Ok(named) => {
                path.push(Step::pass(Layer::Workspace));
                judging.judge(named, &mut path).with(path)
            }
            Err(cause) => Short::deny(cause, None, Layer::Workspace, &mut path).with(path),
        }
    }

    /// People who may give a yes to an ask that is open at this request.
    #[must_use]
    pub fn approvers(&self, request: &Request, ask: &OpenAsk) -> Vec<PersonId> {
        let Ok(admitted) = self.admit(request, &mut Vec::new()) else { return Vec::new() };
        let judging = Judging::new(self, request, admitted);
        let (asked, at) = (judging.asked(), (&ask.rule, ask.of_agent));
        let owner = PersonId::owner();
        let mut people: Vec<PersonId> = self
            .people
            .keys()
            .chain([&owner].into_iter().filter(|owner| !self.people.contains_key(*owner)))
            .filter(|person| self.may_approve(&asked, at, person))
            .cloned()
            .collect();
        people.sort();
        people
    }

    /// True if `origin` may speak for this principal.
    #[must_use]
    pub fn speaks_for(&self, origin: &PeerId, principal: &Principal) -> bool {
        self.devices.get(origin).is_some_and(|device| device.speaks_for(principal))
    }

    /// True if something may be asked for this principal at this device at all: it speaks for it, and nobody is suspended.
    #[must_use]
    pub fn admits(&self, origin: &PeerId, principal: &Principal) -> bool {
        self.devices.get(origin).is_some_and(|device| self.not_for(device, principal).is_none())
    }

    /// Why nothing may be asked for this principal at this device, if so.
    fn not_for(&self, origin: &DeviceView, principal: &Principal) -> Option<Cause> {
        if !origin.speaks_for(principal) && self.rules.enforces(ProtocolRule::SpeaksFor) {
            return Some(Cause::PrincipalDevice);
        }
        let person = principal.person()?;
        if !person.is_owner() && !self.people.contains_key(person) {
            return Some(Cause::PrincipalUnknown);
        }
        self.is_suspended(principal).then_some(Cause::PrincipalSuspended)
    }

    /// The principal that sits at a device when nobody says more: its one person, else the owner at the owner tier, else
    /// the device itself. Where else no owner sat anywhere, the owner does at each owner-tier device.
    #[must_use]
    pub fn sits_at(&self, origin: &PeerId) -> Option<Principal> {
        let device = self.devices.get(origin)?;
        Some(match (device.people.as_slice(), device.facts.tier) {
            ([person], Tier::Owner) if self.role(person) != Some(Role::Owner) && !self.an_owner_sits() => {
                Principal::Person(PersonId::owner())
            }
            ([person], _) => Principal::Person(person.clone()),
            (_, Tier::Owner) => Principal::Person(PersonId::owner()),
            (_, Tier::Shared | Tier::Ephemeral) => Principal::Device(device.facts.node.clone()),
        })
    }

    /// Role of a person in the mesh; `None` if there is no such person, or she is suspended.
    ///
    /// **An owner stays**, whatever is said and by whom: `owner` is suspended only while another owner sits at an owner-tier
    /// device.
    #[must_use]
    pub fn role(&self, person: &PersonId) -> Option<Role> {
        match (self.people.get(person), person.is_owner()) {
            (Some(_), _) if self.is_person_suspended(person) => None,
            (_, true) => Some(Role::Owner),
            (Some(person), false) => Some(person.role),
            (None, false) => None,
        }
    }

    /// Role of a person in a domain, not capped; `None` if she is not in it, or suspended.
    #[must_use]
    pub fn role_in(&self, person: &PersonId, domain: &Domain) -> Option<Role> {
        let mesh = self.role(person)?;
        match domain {
            Domain::Mesh => Some(mesh),
            Domain::Workspace(id) if mesh == Role::Owner => self.workspaces.contains_key(id).then_some(Role::Owner),
            Domain::Workspace(id) => {
                let role = self.seats.get(&Seat::Person(person.clone()))?.get(id)?;
                self.workspaces.contains_key(id).then_some(*role)
            }
        }
    }

    /// The layers before workspaces: `Err` has decided.
    pub(super) fn admit(&self, request: &Request, path: &mut Vec<Step>) -> Result<Admitted<'_>, Box<Short>> {
        let no = |layer, cause, path: &mut Vec<Step>| Err(Box::new(Short::deny(cause, None, layer, path)));
        let devices = (self.devices.get(&request.origin), self.devices.get(&request.target));
        let (Some(origin), Some(target)) = devices else { return no(Layer::Device, Cause::DeviceUnknown, path) };
        if !origin.facts.trusted || !target.facts.trusted {
            return no(Layer::Device, Cause::DeviceUnknown, path);
        }
        if let Some(why) = origin.facts.untagged.or(target.facts.untagged) {
            return no(Layer::Device, Cause::Untagged(why), path);
        }
        path.push(Step::pass(Layer::Device));

        let principal = &request.principal;
        if let Some(cause) = self.not_for(origin, principal) {
            return no(Layer::Principal, cause, path);
        }
        path.push(Step::pass(Layer::Principal));

        let (node, tool) = (target.facts.known_as(), request.tool.folded());
        if let Some(credential) = &request.credential {
            let tokens = self.tokens.get(&credential.token).filter(|_| !credential.over);
            let Some(tokens) = tokens.filter(|tokens| tokens.iter().all(|token| token.holder == *principal)) else {
                return no(Layer::Credential, Cause::TokenOver, path);
            };
            let opens = tokens.iter().all(|token| {
                !token.read_only
                    && token.nodes.as_ref().is_none_or(|nodes| nodes.iter().any(|pattern| pattern.matches(node)))
                    && token.tools.as_ref().is_none_or(|tools| tools.iter().any(|pattern| pattern.matches(node, &tool)))
            });
            if !opens {
                return no(Layer::Credential, Cause::TokenScope, path);
            }
        }
        let within = |scope: &Vec<super::ToolPattern>| scope.iter().any(|pattern| pattern.matches(node, &tool));
        let in_scope = origin.facts.scope.as_ref().is_none_or(within) && !origin.unreadable;
        if origin.facts.tier == Tier::Ephemeral && !in_scope {
            return no(Layer::Credential, Cause::TierScope, path);
        }
        path.push(Step::pass(Layer::Credential));

        // A device lists no tool that it forbids itself: the ban is what people read, not that the tool is not there.
        let banned = target.facts.deny.iter().find(|pattern| pattern.may_mean(node, &tool));
        if let Some(pattern) = banned.filter(|_| self.rules.enforces(ProtocolRule::LocalDeny)) {
            return no(Layer::Local, Cause::Local(pattern.clone()), path);
        }
        path.push(Step::pass(Layer::Local));

        let offered = target.tools.get(tool.as_ref()).filter(|offered| offered.name == request.tool);
        let Some(offered) = offered else { return no(Layer::Tool, Cause::ToolAbsent, path) };
        match offered.state {
            ToolState::Approved => path.push(Step::pass(Layer::Tool)),
            ToolState::Pending => return no(Layer::Tool, Cause::ToolPending, path),
            ToolState::Changed => return no(Layer::Tool, Cause::ToolChanged, path),
        }

        if self.mode == Mode::Open {
            if origin.facts.tier != Tier::Owner && offered.owner_only {
                return no(Layer::Open, Cause::OwnerOnly, path);
            }
            if request.workspace.is_some() {
                return no(Layer::Workspace, Cause::WorkspaceUnknown, path);
            }
            path.push(Step { layer: Layer::Open, verdict: Verdict::Allow, cause: Some(Cause::Open) });
            return Err(Box::new(Short::new(Verdict::Allow, Cause::Open, None)));
        }
        let tool = tool.into_owned();
        Ok(Admitted { target, origin, tool })
    }

    fn is_suspended(&self, principal: &Principal) -> bool {
        let agent = match principal {
            Principal::Agent(person, agent) => self.agents.get(person).and_then(|agents| agents.get(agent)),
            Principal::Person(_) | Principal::Device(_) => None,
        };
        principal.person().is_some_and(|person| self.is_person_suspended(person))
            || agent.is_some_and(|agent| agent.suspended)
    }

    /// The one whose suspension keeps a principal from asking: of an agent its person, if she is suspended herself.
    pub(super) fn suspended_of(&self, principal: &Principal) -> Principal {
        match principal.person().filter(|person| self.is_person_suspended(person)) {
            Some(person) => Principal::Person(person.clone()),
            None => principal.clone(),
        }
    }

    /// True if a person is suspended; see [`Self::role`].
    fn is_person_suspended(&self, person: &PersonId) -> bool {
        let suspended = self.people.get(person).is_some_and(|record| record.suspended);
        suspended && (!person.is_owner() || self.another_owner_sits())
    }

    /// The people who have an owner-tier device of their own.
    fn seated(&self) -> impl Iterator<Item = Option<&PersonId>> {
        let owners = self.devices.values().filter(|device| device.facts.tier == Tier::Owner);
        owners.map(|device| match device.people.as_slice() {
            [person] => Some(person),
            _ => None,
        })
    }

    fn another_owner_sits(&self) -> bool {
        self.seated().flatten().any(|person| !person.is_owner() && self.role(person) == Some(Role::Owner))
    }

    /// True if somebody of role owner sits at an owner-tier device by what is said of these.
    fn an_owner_sits(&self) -> bool {
        let owner = PersonId::owner();
        self.seated().any(|person| self.role(person.unwrap_or(&owner)) == Some(Role::Owner))
    }
}

impl DeviceView {
    pub(super) fn speaks_for(&self, principal: &Principal) -> bool {
        match principal {
            Principal::Device(node) => self.facts.node == *node,
            Principal::Person(person) | Principal::Agent(person, _) => {
                self.facts.tier == Tier::Owner || self.people.contains(person)
            }
        }
    }
}

/// A decision but for its path.
pub(super) struct Short {
    verdict: Verdict,
    rule: Cause,
    workspace: Option<WorkspaceId>,
    asks: Vec<OpenAsk>,
    consents: Vec<Hash>,
}

impl Short {
    fn new(verdict: Verdict, rule: Cause, workspace: Option<WorkspaceId>) -> Self {
        Self { verdict, rule, workspace, asks: Vec::new(), consents: Vec::new() }
    }

    fn deny(rule: Cause, workspace: Option<WorkspaceId>, layer: Layer, path: &mut Vec<Step>) -> Self {
        path.push(Step { layer, verdict: Verdict::Deny, cause: Some(rule.clone()) });
        Self::new(Verdict::Deny, rule, workspace)
    }

    fn with(self, path: Vec<Step>) -> Decision {
        let Self { verdict, rule, workspace, asks, consents } = self;
        Decision { verdict, rule, workspace, path, asks, consents }
    }
}

impl Step {
    fn pass(layer: Layer) -> Self {
        Self { layer, verdict: Verdict::Allow, cause: None }
    }
}

impl<'v, 'r> Judging<'v, 'r> {
    pub(super) fn new(view: &'v View, request: &'r Request, at: Admitted<'v>) -> Self {
        let levels = levels(&request.principal, &at.origin.facts, view.rules);
        let holds = view.holds(request, &at);
        let mut judging = Self { view, request, at, levels, holds, mesh_said: Said::default(), standings: Vec::new() };
        if judging.holds.iter().any(|place| place.id.is_none()) || view.rules.enforces(ProtocolRule::MeshEverywhere) {
            judging.mesh_said = judging.said(&view.mesh, judging.mesh_role());
        }
        for (space, role) in view.may_hold(request, &judging.at) {
            let Said { denies, asks, .. } = judging.said(space, role);
            judging.mesh_said.denies.extend(denies);
            judging.mesh_said.asks.extend(asks);
        }
        judging.standings = judging.holds.iter().map(|place| judging.standing(*place)).collect();
        judging
    }

    /// Role of the principal in the mesh, not capped. Devices are guests there.
    fn mesh_role(&self) -> Role {
        self.request.principal.person().and_then(|person| self.view.role(person)).unwrap_or(Role::Guest)
    }

    /// The place that the request names, if it names one.
    pub(super) fn named(&self) -> Result<Option<&'v WorkspaceId>, Cause> {
        let id = match &self.request.workspace {
            None => return Ok(None),
            Some(Domain::Mesh) => return Err(Cause::WorkspaceUnknown),
            Some(Domain::Workspace(id)) => id,
        };
        if let Some(place) = self.holds.iter().find(|place| place.id == Some(id)) {
            return Ok(place.id);
        }
        if !self.view.workspaces.contains_key(id) {
            return Err(Cause::WorkspaceUnknown);
        }
        let in_it = match &self.request.principal {
            Principal::Person(person) | Principal::Agent(person, _) => {
                self.view.role_in(person, &Domain::Workspace(id.clone())).is_some()
            }
            Principal::Device(node) => {
                let seats =
                    self.view.seats.get(&Seat::Device(node.clone())).filter(|_| self.at.knows(&self.request.principal));
                seats.is_some_and(|seats| seats.contains_key(id))
            }
        };
        Err(if in_it { Cause::WorkspaceScope } else { Cause::WorkspaceNotMember })
    }

    /// All that the rules of one domain say, where the principal has this role.
    fn said(&self, space: &'v Space, role: Role) -> Said<'v> {
        let (node, tool) = (self.at.target.facts.known_as(), self.at.tool.as_str());
        let mut said = Said::default();
        for rule in space.rules.iter().chain(&space.broken) {
            // Nearly all rules are about other tools, and have one head.
            if !rule.heads.iter().any(|head| head.may_be_about(node, tool)) {
                continue;
            }
            let (mut denied, mut asked, mut asked_of_person) = (false, false, false);
            for (level, first) in self.levels.iter().zip(&mut said.gives) {
                let role = role.min(level.cap);
                let mut gives = rule.gives;
                for head in &rule.heads {
                    let who = head.who.as_ref();
                    let takes = head.may_be_about(node, tool)
                        && who.is_none_or(|who| who.iter().any(|who| who.may_mean(level.asker, role)));
                    denied |= takes && head.verdict == RuleVerdict::Deny;
                    let asks = takes && head.verdict == RuleVerdict::Ask;
                    asked |= asks;
                    asked_of_person |= asks && !matches!(level.asker, Asker::Agent(..));
                    gives &= matches!(head.verdict, RuleVerdict::Allow | RuleVerdict::Ask)
                        && head.is_about(node, tool)
                        && who.is_some_and(|who| who.iter().any(|who| who.means(level.asker, role)));
                }
                if gives {
                    first.get_or_insert(rule);
                }
            }
            if denied {
                said.denies.push(rule);
            }
            if asked {
                said.asks.push(Ask { rule: Asking::Rule(rule), of_agent: !asked_of_person });
            }
            if self.settles(rule) {
                said.always.push(rule);
            }
        }
        said
    }

    /// True if all heads of a rule settle asks of the principal itself, at this device as it was paired then.
    fn settles(&self, rule: &MergedRule) -> bool {
        let (node, tool) = (self.at.target.facts.known_as(), self.at.tool.as_str());
        let Some(level) = self.levels.first() else { return false };
        rule.gives
            && rule.heads.iter().all(|head| {
                head.verdict == RuleVerdict::Always
                    && head.bound.contains(&self.request.target)
                    && head.is_about(node, tool)
                    && head.who.iter().flatten().any(|who| who.means(level.asker, level.cap))
            })
    }

    fn standing(&self, place: Place<'v>) -> Standing<'v> {
        let said = if place.id.is_some() { self.said(place.space, place.role) } else { Said::default() };
        let mut standing = Standing { place, said, strength: Strength::Rule, by: None, otherwise: None };
        let (mut rule, mut role) = (None, None);
        let mut person_is_asked = false;
        for (index, level) in self.levels.iter().enumerate() {
            let gives = [&standing.said, &self.mesh_said].into_iter().find_map(|said| *said.gives.get(index)?);
            let of_principal = level.is_principal(&self.request.principal);
            if let Some(gives) = gives {
                // Of one asked at several roles: a rule is named before a role.
                if of_principal {
                    rule.get_or_insert_with(|| Cause::Rule(gives.at.clone()));
                }
                continue;
            }
            let (strength, cause) = self.by_role(level, place);
            standing.strength = standing.strength.min(strength);
            if let Some((cause, verdict)) = cause {
                if verdict == Verdict::Ask {
                    standing.otherwise = Some(true);
                    person_is_asked |= !matches!(level.asker, Asker::Agent(..));
                }
                if of_principal {
                    role.get_or_insert(cause);
                }
            }
        }
        standing.by = rule.or(role);
        standing.otherwise = standing.otherwise.map(|_| !person_is_asked);
        standing
    }

    /// Manner in which a level that no rule gives the tool has it all the same.
    fn by_role(&self, level: &Level<'_>, place: Place<'v>) -> (Strength, Option<(Cause, Verdict)>) {
        let allow = |cause| (Strength::Role, Some((cause, Verdict::Allow)));
        let role = place.role.min(level.cap);
        if let Asker::Person(person) = level.asker {
            if place.id.is_some() && role >= Role::Admin {
                return allow(Cause::Manager);
            }
            if place.id.is_none() && role == Role::Owner {
                return allow(Cause::Owner);
            }
            let own = &self.at.origin;
            if self.request.origin == self.request.target
                && own.facts.tier == Tier::Owner
                && own.people.contains(person)
            {
                return allow(Cause::Own);
            }
        }
        let Some(id) = place.id else { return (Strength::Nothing, None) };
        let otherwise = &place.space.workspace.otherwise;
        let verdict = match (level.asker, role) {
            (Asker::Agent(..), _) => otherwise.agents,
            (Asker::Device { .. }, _) => otherwise.devices,
            (Asker::Person(_), Role::Guest) => otherwise.guests,
            (Asker::Person(_), Role::Member | Role::Admin | Role::Owner) => otherwise.members,
        };
        match verdict {
            Verdict::Deny => (Strength::Nothing, None),
            Verdict::Allow | Verdict::Ask => (Strength::Role, Some((Cause::Rule(RuleRef::otherwise(id)), verdict))),
        }
    }

    /// Rules that deny in this workspace, by name.
    fn denies(&self, standing: &Standing<'v>) -> Option<&'v RuleRef> {
        let all = self.mesh_said.denies.iter().chain(&standing.said.denies);
        all.map(|rule| &rule.at).min()
    }

    /// Of the candidates, those that give the tool most firmly, and whether that is by rule alone.
    fn judge(&self, named: Option<&WorkspaceId>, path: &mut Vec<Step>) -> Short {
        let candidates = || self.standings.iter().filter(|standing| named.is_none() || standing.place.id == named);
        let strong = |standing: &&Standing<'v>| standing.strength == Strength::Rule && self.denies(standing).is_none();
        let weak = |standing: &&Standing<'v>| standing.strength == Strength::Role;
        let of_named = || named.cloned();
        if candidates().any(|standing| strong(&standing)) {
            return self.best(candidates().filter(strong), false, path);
        }
        if candidates().any(|standing| weak(&standing)) {
            // What only a role gives yields to the rules of all workspaces that hold the tool.
            let yields = self.view.rules.enforces(ProtocolRule::RuleBeatsRole);
            let asked =
                self.standings.iter().filter(|standing| yields || named.is_none() || standing.place.id == named);
            if let Some(at) = asked.filter_map(|standing| self.denies(standing)).min() {
                return Short::deny(Cause::Rule(at.clone()), of_named(), Layer::Rules, path);
            }
            return self.best(candidates().filter(weak), yields, path);
        }
        let denies = candidates().filter_map(|standing| self.denies(standing)).min();
        let cause = denies.map_or(Cause::Default, |at| Cause::Rule(at.clone()));
        Short::deny(cause, of_named(), Layer::Rules, path)
    }

    /// The best of these workspaces: allowed before asked, without an ask before with one, then by name.
    fn best<'s>(
        &self,
        standings: impl Iterator<Item = &'s Standing<'v>>,
        asks_of_all: bool,
        path: &mut Vec<Step>,
    ) -> Short
    where
        'v: 's,
    {
        let settled = standings.map(|standing| self.settle(standing, asks_of_all));
        let best = settled.min_by_key(|(short, asked, _)| (short.verdict, *asked));
        let Some((short, asked, by)) = best else { return Short::deny(Cause::Default, None, Layer::Rules, path) };
        let given = by.unwrap_or_else(|| short.rule.clone());
        path.push(Step { layer: Layer::Rules, verdict: Verdict::Allow, cause: Some(given) });
        if asked {
            path.push(Step { layer: Layer::Consent, verdict: short.verdict, cause: Some(short.rule.clone()) });
        }
        short
    }

    /// The answer of a workspace that gives the tool, whether anything asks there, and what gives it.
    fn settle(&self, standing: &Standing<'v>, asks_of_all: bool) -> (Short, bool, Option<Cause>) {
        let own = [&standing.said];
        let all: Vec<&Said<'v>> = self.standings.iter().map(|standing| &standing.said).collect();
        let saids = || [&self.mesh_said].into_iter().chain(if asks_of_all { all.clone() } else { own.to_vec() });
        let mut asks: Vec<Ask<'v>> = saids().flat_map(|said| said.asks.iter().copied()).collect();
        if let (Some(of_agent), Some(id)) = (standing.otherwise.filter(|_| asks_of_all), standing.place.id) {
            asks.push(Ask { rule: Asking::Otherwise(id), of_agent });
        }
        asks.sort_by_cached_key(|ask| ask.rule.at());
        let workspace = standing.place.id.cloned();
        let Some(first) = asks.first() else {
            let by = standing.by.clone().unwrap_or(Cause::Default);
            return (Short::new(Verdict::Allow, by, workspace), false, standing.by.clone());
        };

        let domain = standing.place.id.map_or(Domain::Mesh, |id| Domain::Workspace(id.clone()));
        let counts = |given: &Given, ask: &Ask<'v>| self.counts(given, ask);
        let said_no = |given: &&Given| matches!(given.consent.choice, Choice::Deny { .. });
        let no = self.of_call().filter(said_no).find_map(|given| {
            let ask = asks.iter().find(|ask| counts(given, ask))?;
            Some((given.hash, ask.rule.at()))
        });
        if let Some((hash, at)) = no {
            let mut short = Short::new(Verdict::Deny, Cause::Rule(at), workspace);
            short.consents.push(hash);
            return (short, true, standing.by.clone());
        }

        let mut short = Short::new(Verdict::Allow, Cause::Rule(first.rule.at()), workspace);
        for (index, ask) in asks.iter().enumerate() {
            // Beside an ask, and in its own domain: else who manages a workspace could settle what the mesh asks.
            let always = saids().flat_map(|said| &said.always).find(|rule| {
                rule.heads.iter().all(|head| head.of.iter().any(|of| ask.rule.is_named(of)))
                    && ask.rule.at().domain == rule.at.domain
            });
            if let Some(rule) = always {
                if index == 0 {
                    short.rule = Cause::Rule(rule.at.clone());
                }
                continue;
            }
            let asker = Some(&self.request.principal).filter(|asker| self.at.knows(asker));
            let hours =
                asker.map(|asker| self.view.consents.of_hour(asker, &domain, self.request.target, &self.request.tool));
            let hours = hours.into_iter().flatten();
            let yes = self.of_call().filter(|given| !said_no(given)).chain(hours).find(|given| counts(given, ask));
            match yes {
                Some(given) if short.consents.contains(&given.hash) => {}
                Some(given) => short.consents.push(given.hash),
                None => {
                    let wait_ms = match ask.rule {
                        Asking::Rule(rule) => rule.wait_ms(self.at.target.facts.known_as(), &self.at.tool),
                        Asking::Otherwise(_) => WAIT_MS_DEFAULT,
                    };
                    short.asks.push(OpenAsk { rule: ask.rule.at(), of_agent: ask.of_agent, wait_ms });
                }
            }
        }
        if let Some(open) = short.asks.first() {
            short.verdict = Verdict::Ask;
            short.rule = Cause::Rule(open.rule.clone());
        }
        (short, true, standing.by.clone())
    }

    fn of_call(&self) -> impl Iterator<Item = &'v Given> {
        let is_once = |given: &&Given| matches!(given.consent.choice, Choice::Once { .. });
        let of_others = (!self.view.rules.enforces(ProtocolRule::ConsentBound)).then(|| self.view.consents.all());
        self.view.consents.of_call(self.request.call).chain(of_others.into_iter().flatten().filter(is_once))
    }

    /// True if what was said is an answer to this ask: it names it, by one who may approve it, at a device that may
    /// speak for that person, and was not taken back.
    fn counts(&self, given: &Given, ask: &Ask<'v>) -> bool {
        let (at, asked) = (ask.rule.at(), self.asked());
        let may = self.view.may_approve(&asked, (&at, ask.of_agent), &given.consent.by);
        let named = given.consent.of.iter().any(|of| ask.rule.is_named(of));
        named && self.view.is_spoken(given) && may && !self.view.is_taken_back(given, &at)
    }

    /// That which the asks of the request are about.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            asker: &self.request.principal,
            node: self.at.target.facts.known_as(),
            tool: Cow::Borrowed(&self.at.tool),
        }
    }

    /// State of each place that holds the tool, for whoever looks for what would change the answer.
    pub(super) fn outlook(&self) -> impl Iterator<Item = Outlook<'v, '_>> {
        self.standings.iter().map(|standing| Outlook {
            id: standing.place.id,
            strength: standing.strength,
            denies: self.mesh_said.denies.iter().chain(&standing.said.denies).map(|rule| &rule.at).collect(),
            lacking: self
                .levels
                .iter()
                .enumerate()
                .filter_map(|(index, level)| {
                    let said = [&standing.said, &self.mesh_said];
                    let given = said.into_iter().any(|said| said.gives.get(index).is_some_and(Option::is_some));
                    let by_role = self.by_role(level, standing.place).0 == Strength::Role;
                    (!given).then_some((level, by_role))
                })
                .collect(),
        })
    }
}

/// See [`Judging::outlook`].
pub(super) struct Outlook<'v, 'j> {
    pub(super) id: Option<&'v WorkspaceId>,
    pub(super) strength: Strength,
    pub(super) denies: Vec<&'v RuleRef>,
    /// Levels that no rule gives the tool, and if each has it by its role.
    pub(super) lacking: Vec<(&'j Level<'j>, bool)>,
}

/// The levels at which a principal is judged that asks at this device.
fn levels<'a>(principal: &'a Principal, origin: &DeviceFacts, rules: ProtocolRules) -> Vec<Level<'a>> {
    let mut caps: &[Role] = match origin.tier {
        Tier::Owner => &[Role::Owner],
        Tier::Shared => &[Role::Owner, Role::Member],
        Tier::Ephemeral => &[Role::Owner, Role::Member, Role::Guest],
    };
    if !rules.enforces(ProtocolRule::TierCap) {
        caps = &[Role::Owner];
    } else if !rules.enforces(ProtocolRule::EveryRole) {
        caps = caps.last().map_or(caps, std::slice::from_ref);
    }
    let at_caps = |asker| caps.iter().map(move |cap| Level { asker, cap: *cap });
    match principal {
        Principal::Person(person) => at_caps(Asker::Person(person)).collect(),
        Principal::Device(node) => at_caps(Asker::Device { node, known: origin.confirmed }).collect(),
        Principal::Agent(person, agent) => {
            let agent = Level { asker: Asker::Agent(person, agent), cap: Role::Owner };
            let person = at_caps(Asker::Person(person)).filter(|_| rules.enforces(ProtocolRule::AgentCeiling));
            [agent].into_iter().chain(person).collect()
        }
    }
}

impl View {
    /// Workspaces that the principal is in and that hold the tool; if there is none, the mesh alone.
    fn holds<'v>(&'v self, request: &Request, at: &Admitted<'v>) -> Vec<Place<'v>> {
        let (node, tool) = (at.target.facts.known_as(), at.tool.as_str());
        let mesh_role = request.principal.person().and_then(|person| self.role(person)).unwrap_or(Role::Guest);
        let mut holds: Vec<Place<'v>> = if mesh_role == Role::Owner {
            let all = self.workspaces.iter().filter(|(_, space)| space.holds(node, tool));
            all.map(|(id, space)| Place { id: Some(id), space, role: Role::Owner }).collect()
        } else {
            let seat = match &request.principal {
                Principal::Person(person) | Principal::Agent(person, _) => Seat::Person(person.clone()),
                Principal::Device(node) => Seat::Device(node.clone()),
            };
            let seats = self.seats.get(&seat).filter(|_| at.knows(&request.principal)).into_iter().flatten();
            seats
                .filter_map(|(id, role)| {
                    let (id, space) = self.workspaces.get_key_value(id)?;
                    space.holds(node, tool).then_some(Place { id: Some(id), space, role: *role })
                })
                .collect()
        };
        if holds.is_empty() {
            holds.push(Place { id: None, space: &self.mesh, role: mesh_role });
        }
        holds
    }
}

impl View {
    /// Workspaces that would hold the tool if a device that rights know by no name were called otherwise, with the
    /// principal's role there: they grant nothing, and their restrictions apply.
    fn may_hold<'v>(&'v self, request: &Request, at: &Admitted<'v>) -> Vec<(&'v Space, Role)> {
        let knows_asker = at.knows(&request.principal);
        if at.target.facts.confirmed && knows_asker {
            return Vec::new();
        }
        let (node, tool) = (at.target.facts.known_as(), at.tool.as_str());
        let role = |id: &WorkspaceId| match (&request.principal, knows_asker) {
            (Principal::Person(person) | Principal::Agent(person, _), _) => {
                self.role_in(person, &Domain::Workspace(id.clone()))
            }
            (Principal::Device(node), true) => self.seats.get(&Seat::Device(node.clone()))?.get(id).copied(),
            (Principal::Device(_), false) => {
                let mut devices = self.seats.iter().filter(|(seat, _)| matches!(seat, Seat::Device(_)));
                devices.any(|(_, seats)| seats.contains_key(id)).then_some(Role::Guest)
            }
        };
        let may = self.workspaces.iter().filter(|(_, space)| !(knows_asker && space.holds(node, tool)));
        may.filter(|(_, space)| space.may_hold(node, tool))
            .filter_map(|(id, space)| Some((&**space, role(id)?)))
            .collect()
    }
}

impl Who {
    /// True if it means this asker, who has that role where the rule stands. Roles never mean agents.
    fn means(&self, asker: Asker<'_>, role: Role) -> bool {
        match (self, asker) {
            (Self::Everyone, _) | (Self::Agents, Asker::Agent(..)) | (Self::Devices, Asker::Device { .. }) => true,
            (Self::People, Asker::Person(_)) => role >= Role::Member,
            (Self::Role(wanted), Asker::Person(_) | Asker::Device { .. }) => *wanted == role,
            (Self::Person(id), Asker::Person(person)) => id == person,
            (Self::Agent(pattern), Asker::Agent(person, agent)) => pattern.matches(person.as_str(), agent.as_str()),
            (Self::Device(pattern), Asker::Device { node, known }) => {
                pattern.matches(if known { node.as_str() } else { UNKNOWN })
            }
            (
                Self::Agents
                | Self::Devices
                | Self::People
                | Self::Role(_)
                | Self::Person(_)
                | Self::Agent(_)
                | Self::Device(_),
                Asker::Person(_) | Asker::Agent(..) | Asker::Device { .. },
            ) => false,
        }
    }

    /// As [`Self::means`], where something is taken away: a device that rights know by no name could be any.
    fn may_mean(&self, asker: Asker<'_>, role: Role) -> bool {
        let is_any = matches!((self, asker), (Self::Device(_) | Self::Role(_), Asker::Device { known: false, .. }));
        is_any || self.means(asker, role)
    }
}
