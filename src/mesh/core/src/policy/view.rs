//! Rights as they are decided by: what people said, merged and ready to be looked up, and what the mesh knows of its
//! devices.
//!
//! A view is compiled once and then kept up key by key ([`View::refresh`]): what a change costs does not grow with the
//! mesh. It is cheap enough to be cloned for each snapshot that is shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::consents::Consents;
use super::decision::Request;
use super::merge::{Heads, MergedBinding, MergedDevice, MergedRule};
use super::records::{
    Agent, Check, DeviceTools, Key, Mode, Person, Rule, RuleVerdict, Title, Token, Value, Verdict, Workspace,
};
use super::register::{InForce, Policy};
use crate::entry::{Place, encode};
use crate::glob::{ToolPattern, UNKNOWN};
use crate::ids::{Hash, NodeId, PeerId, ToolName};
use crate::people::{AgentName, Domain, Name, PersonId, Principal, Role, RuleRef, Seat, TokenId, WorkspaceId};
use crate::protocol_rule::ProtocolRules;
use crate::record::{Fitness, Tier, ToolDecl};
use crate::tailnet::Untagged;

/// All that the mesh knows of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its key.
    pub peer: PeerId,
    /// Its name.
    pub node: NodeId,
    /// True if rights know it by that name: an owner gave or saw it, or it is an owner's device.
    pub confirmed: bool,
    /// Its tier.
    pub tier: Tier,
    /// False if its word cannot be trusted: its key is in use twice, or its store was copied.
    pub trusted: bool,
    /// Why the tag on which its approval rests does not count now.
    pub untagged: Option<Untagged>,
    /// Tools as its directory declares them, in that order.
    pub tools: Vec<Offered>,
    /// Tools that it was let in for, as an ephemeral device; `None`: for all.
    pub scope: Option<Vec<ToolPattern>>,
    /// All that it forbids itself.
    pub deny: Vec<ToolPattern>,
}

impl DeviceFacts {
    /// The name by which patterns know it.
    #[must_use]
    pub fn known_as(&self) -> &str {
        if self.confirmed { self.node.as_str() } else { UNKNOWN }
    }
}

/// A tool that a device offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Its name.
    pub name: ToolName,
    /// True if, in a mesh without workspaces, only owner-tier devices call it.
    pub owner_only: bool,
    /// Of its whole declaration, as it is shown to whoever approves it; its card is part of it, by the hash that names it.
    pub hash: Hash,
    /// True if its node holds it back until an owner has approved it as it is now.
    pub review: bool,
}

impl Offered {
    /// A tool as its node declares it. How many of its runs there may be at once is its node's affair, and so is its fitness:
    /// nobody is asked again when these change.
    #[must_use]
    pub fn of(tool: &ToolDecl) -> Self {
        let shown = ToolDecl { at_once: None, state: Fitness::READY, ..tool.clone() };
        let hash = Hash::of(&encode(&shown));
        Self { name: tool.name.clone(), owner_only: tool.owner_only, hash, review: tool.state == Fitness::REVIEW }
    }
}

/// Approval of a tool in the form in which it is offered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolState {
    /// As it is; or nobody ever said which tools of this device may be used, and its node does not hold it back.
    Approved,
    /// Not at all.
    Pending,
    /// To another declaration of it.
    Changed,
}

impl ToolState {
    /// The state of a tool, by what was approved of its device; `None`: nobody ever said.
    #[must_use]
    pub fn of(tool: &Offered, approved: Option<&DeviceTools>) -> Self {
        match approved.map(|tools| tools.approved.get(&tool.name)) {
            None if tool.review => Self::Pending,
            None => Self::Approved,
            Some(None) => Self::Pending,
            Some(Some(hash)) if *hash == tool.hash => Self::Approved,
            Some(Some(_)) => Self::Changed,
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub(super) mode: Mode,
    pub(super) people: BTreeMap<PersonId, Person>,
    pub(super) agents: BTreeMap<PersonId, BTreeMap<AgentName, Agent>>,
    pub(super) tokens: BTreeMap<TokenId, Vec<Token>>,
    pub(super) mesh: Arc<Space>,
    pub(super) workspaces: BTreeMap<WorkspaceId, Arc<Space>>,
    /// Also of workspaces that are not there.
    pub(super) seats: BTreeMap<Seat, BTreeMap<WorkspaceId, Role>>,
    pub(super) devices: BTreeMap<PeerId, Arc<DeviceView>>,
    /// All that people said about devices, members or not.
    said: BTreeMap<PeerId, Arc<SaidOfDevice>>,
    checks: BTreeMap<Name, Check>,
    pub(super) consents: Consents,
    pub(super) rules: ProtocolRules,
}

/// A workspace, or the mesh, with its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) workspace: Workspace,
    pub(super) bindings: Vec<MergedBinding>,
    /// In order of their names.
    pub(super) rules: Vec<MergedRule>,
    /// Placeholder for bindings that cannot be read.
    pub(super) broken: Vec<MergedRule>,
}

impl Space {
    pub(super) fn holds(&self, node: &str, tool: &str) -> bool {
        self.bindings.iter().any(|binding| binding.holds(node, tool))
    }

    /// True if it holds the tool, or would if the device had another name.
    pub(super) fn may_hold(&self, node: &str, tool: &str) -> bool {
        self.bindings.iter().any(|binding| binding.may_hold(node, tool))
    }

    pub(super) fn rule(&self, at: &RuleRef) -> Option<&MergedRule> {
        let index = self.rules.binary_search_by(|rule| rule.at.cmp(at)).ok()?;
        self.rules.get(index)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SaidOfDevice {
    device: MergedDevice,
    tools: Option<DeviceTools>,
}

/// A member, with what people said about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DeviceView {
    pub(super) facts: DeviceFacts,
    pub(super) people: Vec<PersonId>,
    /// True if something was said of it that cannot be read.
    pub(super) unreadable: bool,
    /// By their names in small letters.
    pub(super) tools: BTreeMap<Box<str>, ToolView>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ToolView {
    pub(super) name: ToolName,
    pub(super) state: ToolState,
    pub(super) owner_only: bool,
}

impl DeviceView {
    fn new(facts: DeviceFacts, said: &SaidOfDevice) -> Self {
        let mut tools = BTreeMap::new();
        for offered in &facts.tools {
            // Of two names that are equal in small letters the first is offered.
            tools.entry(offered.name.folded().into()).or_insert_with(|| ToolView {
                name: offered.name.clone(),
                state: ToolState::of(offered, said.tools.as_ref()),
                owner_only: offered.owner_only,
            });
        }
        Self { facts, people: said.device.people.clone(), unreadable: said.device.unreadable, tools }
    }
}

impl View {
    /// Compiles all that is said and `stands`, for these devices.
    #[must_use]
    pub fn new(
        policy: &Policy,
        stands: &dyn Fn(&Place) -> bool,
        devices: impl IntoIterator<Item = DeviceFacts>,
    ) -> Self {
        let mut view = Self::default();
        for key in policy.keys() {
            // Of a workspace all is compiled at once.
            if matches!(key, Key::Rule(RuleRef { domain: Domain::Workspace(_), .. }) | Key::Binding(..)) {
                continue;
            }
            view.refresh(policy, stands, key);
        }
        for facts in devices {
            view.set_device(facts);
        }
        view
    }

    /// The same, judged by these rules.
    #[must_use]
    pub fn by(self, rules: ProtocolRules) -> Self {
        Self { rules, ..self }
    }

    /// The view that there would be after these changes of what is said.
    #[must_use]
    pub fn tried(&self, said: &InForce, changes: &[(Key, Option<Value>)]) -> Self {
        let mut view = self.clone();
        said.try_out(changes, |policy, stands, key| view.refresh(policy, stands, key));
        view
    }

    /// Takes up what is said of one key by now.
    pub fn refresh(&mut self, policy: &Policy, stands: &dyn Fn(&Place) -> bool, key: &Key) {
        let heads = Heads::of(policy.register(key), stands);
        match key {
            Key::Person(person) => put(&mut self.people, person, heads.person()),
            Key::Agent(person, agent) => {
                let agents = self.agents.entry(person.clone()).or_default();
                put(agents, agent, heads.agent());
                if agents.is_empty() {
                    self.agents.remove(person);
                }
            }
            Key::Token(token) => put(&mut self.tokens, token, heads.token()),
            Key::Workspace(id) => match (heads.workspace(), self.workspaces.get_mut(id)) {
                (None, _) => drop(self.workspaces.remove(id)),
                (Some(workspace), Some(space)) => Arc::make_mut(space).workspace = workspace,
                (Some(workspace), None) => {
                    let mut space = Space { workspace, ..Space::default() };
                    space.bind(id, policy, stands);
                    let domain = Domain::Workspace(id.clone());
                    let rules = policy.rules_of(&domain);
                    space.rules =
                        rules.filter_map(|(at, register)| Heads::of(Some(register), stands).rule(at)).collect();
                    self.workspaces.insert(id.clone(), Arc::new(space));
                }
            },
            Key::Member(workspace, seat) => {
                let seats = self.seats.entry(seat.clone()).or_default();
                put(seats, workspace, heads.member());
                if seats.is_empty() {
                    self.seats.remove(seat);
                }
            }
            Key::Binding(id, _) => {
                if let Some(space) = self.workspaces.get_mut(id) {
                    Arc::make_mut(space).bind(id, policy, stands);
                }
            }
            Key::Rule(at) => {
                let space = match &at.domain {
                    Domain::Mesh => Some(&mut self.mesh),
                    Domain::Workspace(id) => self.workspaces.get_mut(id),
                };
                let Some(space) = space else { return };
                let rules = &mut Arc::make_mut(space).rules;
                match (heads.rule(at), rules.binary_search_by(|rule| rule.at.cmp(at))) {
                    (Some(rule), Ok(index)) => {
                        if let Some(place) = rules.get_mut(index) {
                            *place = rule;
                        }
                    }
                    (Some(rule), Err(index)) => rules.insert(index, rule),
                    (None, Ok(index)) => drop(rules.remove(index)),
                    (None, Err(_)) => {}
                }
            }
            Key::Device(peer) => {
                Arc::make_mut(self.said.entry(*peer).or_default()).device = heads.device();
                self.renew(*peer);
            }
            Key::Tools(peer) => {
                Arc::make_mut(self.said.entry(*peer).or_default()).tools = heads.tools();
                self.renew(*peer);
            }
            Key::Mode => self.mode = heads.mode(),
            Key::Check(name) => put(&mut self.checks, name, heads.check()),
        }
    }

    /// Takes up what the mesh knows of a member by now.
    pub fn set_device(&mut self, facts: DeviceFacts) {
        let peer = facts.peer;
        let said = self.said.get(&peer).map(AsRef::as_ref);
        let device = DeviceView::new(facts, said.unwrap_or(&SaidOfDevice::default()));
        self.devices.insert(peer, Arc::new(device));
    }

    /// Takes a device out that does not belong any more.
    pub fn remove_device(&mut self, peer: &PeerId) {
        self.devices.remove(peer);
    }

    /// Consents that may count.
    #[must_use]
    pub fn consents(&self) -> &Consents {
        &self.consents
    }

    /// The same, for whoever keeps them up.
    pub fn consents_mut(&mut self) -> &mut Consents {
        &mut self.consents
    }

    /// The mode of the mesh.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A person by name, suspended or not.
    #[must_use]
    pub fn person(&self, id: &PersonId) -> Option<&Person> {
        self.people.get(id)
    }

    /// The person who has this login, see [`Person::login`]; `None` also if two have.
    #[must_use]
    pub fn person_by_login(&self, login: &Hash) -> Option<&PersonId> {
        let mut found = self.people.iter().filter(|(_, person)| person.logins.contains(login));
        let (person, _) = found.next()?;
        found.next().is_none().then_some(person)
    }

    /// All people, in order.
    pub fn people(&self) -> impl Iterator<Item = (&PersonId, &Person)> {
        self.people.iter()
    }

    /// All tokens, in order, each with all that is said of it: it opens what each of these opens.
    pub fn tokens(&self) -> impl Iterator<Item = (&TokenId, &[Token])> {
        self.tokens.iter().map(|(id, said)| (id, said.as_slice()))
    }

    /// All that is said of a token; `None`: there is none.
    #[must_use]
    pub fn token(&self, id: &TokenId) -> Option<&[Token]> {
        self.tokens.get(id).map(Vec::as_slice)
    }

    /// All workspaces, in order.
    pub fn workspaces(&self) -> impl Iterator<Item = (&WorkspaceId, &Workspace)> {
        self.workspaces.iter().map(|(id, space)| (id, &space.workspace))
    }

    /// Title and people of a member, as people said them.
    #[must_use]
    pub fn device(&self, peer: &PeerId) -> Option<(Title, &[PersonId])> {
        let title = self.said.get(peer).map(|said| said.device.title.clone()).unwrap_or_default();
        self.devices.get(peer).map(|device| (title, device.people.as_slice()))
    }

    /// State of each tool that a member offers, in order of their names in small letters.
    pub fn tools(&self, peer: &PeerId) -> impl Iterator<Item = (&ToolName, ToolState)> {
        self.devices.get(peer).into_iter().flat_map(|device| device.tools.values()).map(|tool| (&tool.name, tool.state))
    }

    /// The member that rights know by this name.
    #[must_use]
    pub fn known_as(&self, node: &NodeId) -> Option<PeerId> {
        self.named(node).filter(|peer| self.name_of(peer).is_some())
    }

    /// The name by which rights know a member, if they know it by one.
    #[must_use]
    pub fn name_of(&self, peer: &PeerId) -> Option<&NodeId> {
        self.devices.get(peer).filter(|device| device.facts.confirmed).map(|device| &device.facts.node)
    }

    /// The name that a member gave itself, and by which rights do not know it; `None`: they know it, or it is no member.
    #[must_use]
    pub fn unknown_name(&self, peer: &PeerId) -> Option<&NodeId> {
        self.devices.get(peer).filter(|device| !device.facts.confirmed).map(|device| &device.facts.node)
    }

    /// The member of this name, whether rights know it by that or not.
    #[must_use]
    pub fn named(&self, node: &NodeId) -> Option<PeerId> {
        self.devices.values().find(|device| device.facts.node == *node).map(|device| device.facts.peer)
    }

    /// The question that is meant when no origin is named: from the device itself if a device asks, else from an
    /// owner-tier device, another than the target if there is one. `None` without such a device, or without that node.
    #[must_use]
    pub fn question(
        &self,
        principal: &Principal,
        workspace: Option<Domain>,
        node: &NodeId,
        tool: &ToolName,
    ) -> Option<Request> {
        let target = self.named(node)?;
        let origin = match principal {
            Principal::Device(device) => self.named(device)?,
            Principal::Person(_) | Principal::Agent(..) => {
                let owners = self.devices.values().filter(|device| device.facts.tier == Tier::Owner);
                let mut owners = owners.map(|device| device.facts.peer);
                owners.clone().find(|peer| *peer != target).or_else(|| owners.next())?
            }
        };
        let (principal, tool) = (principal.clone(), tool.clone());
        Some(Request { principal, origin, credential: None, workspace, target, tool, call: None })
    }

    /// Checks that do not hold, with the answer in place of the one that must be. A device or tool that is not there
    /// gives no.
    pub fn broken_checks(&self) -> impl Iterator<Item = (&Name, &Check, Verdict)> {
        self.checks.iter().filter_map(|(name, check)| {
            let Check { principal, workspace, node, tool, expect } = check;
            let domain = workspace.clone().map(Domain::Workspace);
            let request = self.question(principal, domain, node, tool);
            let verdict = request.map_or(Verdict::Deny, |request| self.decide(&request).verdict);
            (verdict != *expect).then_some((name, check, verdict))
        })
    }

    fn renew(&mut self, peer: PeerId) {
        if let Some(device) = self.devices.get(&peer) {
            self.set_device(device.facts.clone());
        }
    }
}

impl Space {
    fn bind(&mut self, id: &WorkspaceId, policy: &Policy, stands: &dyn Fn(&Place) -> bool) {
        self.bindings.clear();
        self.broken.clear();
        for (name, register) in policy.bindings_of(id) {
            let Some(binding) = Heads::of(Some(register), stands).binding() else { continue };
            if binding.unreadable {
                let at = RuleRef { domain: Domain::Workspace(id.clone()), name: name.clone() };
                self.broken.push(MergedRule { at, gives: false, heads: vec![Rule::of(RuleVerdict::Deny)] });
            }
            self.bindings.push(binding);
        }
    }
}

/// Puts a value in place of the one that was there, or takes that out.
fn put<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: &K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value)),
        None => drop(map.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;
    use crate::record::Effect;

    #[test]
    fn an_approval_is_bound_to_what_is_shown_and_the_card_is() {
        let decl = ToolDecl {
            name: "lamp".parse().unwrap(),
            effect: Effect::Once,
            description: "a lamp".to_owned(),
            owner_only: false,
            at_once: None,
            card: Some(Hash::of(b"a card")),
            state: Fitness::READY,
        };
        let approved = DeviceTools { approved: [(decl.name.clone(), Offered::of(&decl).hash)].into() };
        let state = |decl: &ToolDecl, approved| ToolState::of(&Offered::of(decl), approved);
        let of_now = ToolDecl { at_once: NonZeroU8::new(1), state: Fitness::UNHEALTHY, ..decl.clone() };
        assert_eq!(state(&of_now, Some(&approved)), ToolState::Approved, "how it is now is no part of it");
        let other = ToolDecl { card: Some(Hash::of(b"another card")), ..decl.clone() };
        assert_eq!(state(&other, Some(&approved)), ToolState::Changed);
        assert_eq!(state(&other, None), ToolState::Approved, "nobody ever said which may be used");
        let held_back = ToolDecl { state: Fitness::REVIEW, ..decl };
        assert_eq!(state(&held_back, None), ToolState::Pending, "its device asks for a yes");
        assert_eq!(
            state(&held_back, Some(&approved)),
            ToolState::Approved,
            "it has come, and its device will hear of it"
        );
    }
}
