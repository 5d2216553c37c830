//! The decision about a call once more, as the design says it and as slow as it likes: no index, no merge, no shared code. Sets
//! of texts, and a matcher that tries everything. Tests and the simulator ask it beside [`crate::policy::View::decide`].
#![expect(clippy::wildcard_enum_match_arm, reason = "what it does not know gives nothing")]

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::PeerId;
use crate::policy::{
    Approver, Choice, Device, DeviceFacts, Domain, Given, Key, Mode, PersonId, Principal, Request, Role, Rule,
    RuleVerdict, Seat, ToolPattern, Value, Verdict, Who,
};
use crate::record::Tier;

/// All that a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// Value that holds for each key.
    pub records: &'a BTreeMap<Key, Value>,
    /// All members.
    pub devices: &'a BTreeMap<PeerId, DeviceFacts>,
    /// Answers of people to calls that ask.
    pub given: &'a [Given],
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|n| glob(rest, &name[n..])),
        ([b'?', rest @ ..], [_, more @ ..]) => glob(rest, more),
        ([a, rest @ ..], [b, more @ ..]) => a == b && glob(rest, more),
        _ => false,
    }
}

fn matches(pattern: &impl ToString, name: &str) -> bool {
    glob(pattern.to_string().as_bytes(), name.as_bytes())
}

fn tool_matches(pattern: &impl ToString, node: &str, tool: &str) -> bool {
    let text = pattern.to_string();
    match text.strip_prefix("node:").and_then(|rest| rest.split_once(':')) {
        Some((nodes, tools)) => matches(&nodes.to_owned(), node) && matches(&tools.to_owned(), tool),
        None => matches(&text, tool),
    }
}

/// Absent = all, empty = none.
fn within<N: ToString, T: ToString>(nodes: Option<&Vec<N>>, tools: Option<&Vec<T>>, node: &str, tool: &str) -> bool {
    nodes.is_none_or(|nodes| nodes.iter().any(|pattern| matches(pattern, node)))
        && tools.is_none_or(|tools| tools.iter().any(|pattern| tool_matches(pattern, node, tool)))
}

/// As [`within`], of something that is taken away: a device without a confirmed name is every device.
fn may_be_within<N: ToString, T: ToString>(
    nodes: Option<&Vec<N>>,
    tools: Option<&Vec<T>>,
    node: &str,
    tool: &str,
) -> bool {
    if !node.is_empty() {
        return within(nodes, tools, node, tool);
    }
    let bare = |text: String| text.rsplit(':').next().unwrap_or_default().to_owned();
    nodes.is_none_or(|nodes| !nodes.is_empty())
        && tools.is_none_or(|tools| tools.iter().any(|pattern| matches(&bare(pattern.to_string()), tool)))
}

struct Slow<'a> {
    world: World<'a>,
    request: &'a Request,
    /// Empty: nobody has confirmed what it is called.
    node: String,
    /// False of a device that asks for itself and whose name nobody has confirmed.
    known: bool,
    tool: String,
}

/// The principal that is judged, with a cap on roles; agents have none.
#[derive(Clone, Copy)]
struct Level<'a> {
    principal: &'a Principal,
    cap: Role,
}

type Refs = BTreeSet<(bool, String, String)>;

fn text((_, domain, name): &(bool, String, String)) -> String {
    format!("{domain}/{name}")
}

fn of_domain(domain: &str, name: &str) -> (bool, String, String) {
    (domain != "mesh", domain.to_owned(), name.to_owned())
}

impl<'a> Slow<'a> {
    fn role(&self, person: &str) -> Option<Role> {
        role(self.world, person)
    }

    fn workspaces(&self) -> Vec<String> {
        let all = self.world.records.keys().filter_map(|key| match key {
            Key::Workspace(id) => Some(id.to_string()),
            _ => None,
        });
        all.collect()
    }

    /// Own role of a principal in a domain; an agent has its person's.
    fn role_in(&self, principal: &Principal, domain: &str) -> Option<Role> {
        let seat = match principal {
            Principal::Person(person) | Principal::Agent(person, _) => {
                let mesh = self.role(person.as_str())?;
                if domain == "mesh" || mesh == Role::Owner {
                    return Some(mesh);
                }
                Seat::Person(person.clone())
            }
            Principal::Device(_) if domain == "mesh" => return Some(Role::Guest),
            Principal::Device(_) if !self.known => return None,
            Principal::Device(node) => Seat::Device(node.clone()),
        };
        let seat = Key::Member(domain.parse().ok()?, seat);
        match self.world.records.get(&seat) {
            Some(Value::Member(role)) => Some(*role),
            _ => None,
        }
    }

    fn holds(&self) -> Vec<String> {
        let bound = |workspace: &String| {
            self.world.records.iter().any(|(key, value)| match (key, value) {
                (Key::Binding(id, _), Value::Binding(binding)) => {
                    id.as_str() == workspace
                        && within(binding.nodes.as_ref(), binding.tools.as_ref(), &self.node, &self.tool)
                }
                _ => false,
            })
        };
        let member = |workspace: &String| self.role_in(&self.request.principal, workspace).is_some();
        self.workspaces().into_iter().filter(|workspace| member(workspace) && bound(workspace)).collect()
    }

    fn rules(&self, domain: &str) -> Vec<(String, &'a Rule)> {
        let all = self.world.records.iter().filter_map(|(key, value)| match (key, value) {
            (Key::Rule(at), Value::Rule(rule)) if at.domain.to_string() == domain => Some((at.name.to_string(), rule)),
            _ => None,
        });
        all.filter(|(_, rule)| may_be_within(rule.nodes.as_ref(), rule.tools.as_ref(), &self.node, &self.tool))
            .collect()
    }

    fn means(&self, who: &Who, level: Level<'_>, domain: &str) -> bool {
        let role = self.role_in(level.principal, domain).map(|role| role.min(level.cap));
        match (who, level.principal) {
            (Who::Everyone, _) => true,
            (Who::People, Principal::Person(_)) => role >= Some(Role::Member),
            (Who::Agents, principal) => matches!(principal, Principal::Agent(..)),
            (Who::Devices, principal) => matches!(principal, Principal::Device(_)),
            (Who::Role(wanted), Principal::Person(_) | Principal::Device(_)) => role == Some(*wanted),
            (Who::Person(id), Principal::Person(person)) => id == person,
            (Who::Agent(pattern), Principal::Agent(person, agent)) => {
                let text = pattern.to_string();
                let (people, agents) = text.split_once('/').unwrap();
                matches(&people.to_owned(), person.as_str()) && matches(&agents.to_owned(), agent.as_str())
            }
            (Who::Device(pattern), Principal::Device(_)) if !self.known => pattern.to_string() == "*",
            (Who::Device(pattern), Principal::Device(node)) => matches(pattern, node.as_str()),
            _ => false,
        }
    }

    fn may_mean(&self, who: &Who, level: Level<'_>, domain: &str) -> bool {
        let is_device = matches!((who, level.principal), (Who::Device(_) | Who::Role(_), Principal::Device(_)));
        (is_device && !self.known) || self.means(who, level, domain)
    }

    fn gives(&self, rule: &Rule) -> bool {
        within(rule.nodes.as_ref(), rule.tools.as_ref(), &self.node, &self.tool)
    }

    /// Rules that give, or settle.
    fn said(&self, domain: &str, level: Level<'_>, what: impl Fn(&Rule) -> bool) -> Refs {
        let meant =
            |rule: &Rule| rule.who.as_ref().is_none_or(|who| who.iter().any(|who| self.means(who, level, domain)));
        let rules = self.rules(domain).into_iter().filter(|(_, rule)| what(rule) && self.gives(rule) && meant(rule));
        rules.map(|(name, _)| of_domain(domain, &name)).collect()
    }

    /// Rules of a domain and the mesh that take away by this verdict.
    fn taking(&self, domain: &str, level: Level<'_>, verdict: RuleVerdict) -> Refs {
        let of = |domain: &str| -> Refs {
            let meant = |rule: &Rule| {
                rule.who.as_ref().is_none_or(|who| who.iter().any(|who| self.may_mean(who, level, domain)))
            };
            let rules = self.rules(domain).into_iter().filter(|(_, rule)| rule.verdict == verdict && meant(rule));
            rules.map(|(name, _)| of_domain(domain, &name)).collect()
        };
        let mut refs = of(domain);
        refs.extend(of("mesh"));
        refs.extend(self.may_hold().iter().flat_map(|other| of(other)));
        refs
    }

    /// Workspaces in which the principal could be and the tool, if both devices' names were others.
    fn may_hold(&self) -> Vec<String> {
        let (holds, unknown) = (self.holds(), !self.known || self.node.is_empty());
        let bound = |workspace: &String| {
            self.world.records.iter().any(|(key, value)| match (key, value) {
                (Key::Binding(id, _), Value::Binding(binding)) => {
                    id.as_str() == workspace
                        && may_be_within(binding.nodes.as_ref(), binding.tools.as_ref(), &self.node, &self.tool)
                }
                _ => false,
            })
        };
        let has_devices = |workspace: &String| {
            let mut keys = self.world.records.keys();
            keys.any(|key| matches!(key, Key::Member(id, Seat::Device(_)) if id.as_str() == workspace))
        };
        let member = |workspace: &String| {
            if self.known { self.role_in(&self.request.principal, workspace).is_some() } else { has_devices(workspace) }
        };
        let all = self.workspaces().into_iter().filter(|_| unknown);
        all.filter(|workspace| !holds.contains(workspace) && bound(workspace) && member(workspace)).collect()
    }

    /// 2, 1 or 0; what gives it; whether the workspace's `otherwise` asks.
    fn strength(&self, domain: &str, level: Level<'_>) -> (u8, String, bool) {
        let gives = |rule: &Rule| rule.who.is_some() && matches!(rule.verdict, RuleVerdict::Allow | RuleVerdict::Ask);
        let (own, mesh) = (self.said(domain, level, gives), self.said("mesh", level, gives));
        if let Some(first) = own.first().or(mesh.first()) {
            return (2, text(first), false);
        }
        let role = self.role_in(level.principal, domain).map_or(Role::Guest, |role| role.min(level.cap));
        if let Principal::Person(person) = level.principal {
            if domain != "mesh" && role >= Role::Admin {
                return (1, "builtin/manager".to_owned(), false);
            }
            if domain == "mesh" && role == Role::Owner {
                return (1, "builtin/owner".to_owned(), false);
            }
            let here = &self.world.devices[&self.request.origin];
            let own = self.request.origin == self.request.target
                && here.tier == Tier::Owner
                && people_of(self.world, &here.peer).contains(&person.to_string());
            if own {
                return (1, "builtin/own".to_owned(), false);
            }
        }
        let Ok(Domain::Workspace(id)) = domain.parse::<Domain>() else { return (0, String::new(), false) };
        let Some(Value::Workspace(workspace)) = self.world.records.get(&Key::Workspace(id)) else { panic!() };
        let answer = match level.principal {
            Principal::Agent(..) => workspace.otherwise.agents,
            Principal::Device(_) => workspace.otherwise.devices,
            Principal::Person(_) if role == Role::Guest => workspace.otherwise.guests,
            Principal::Person(_) => workspace.otherwise.members,
        };
        match answer {
            Verdict::Deny => (0, String::new(), false),
            answer => (1, format!("{domain}/otherwise"), answer == Verdict::Ask),
        }
    }

    fn may_approve(&self, ask: &str, of_agent: bool, person: &str) -> bool {
        if self.role(person).is_none() {
            return false;
        }
        let (domain, name) = ask.split_once('/').unwrap();
        let role = self.role_in(&Principal::Person(person.parse().unwrap()), domain);
        let asker = self.request.principal.person().is_some_and(|asker| asker.as_str() == person);
        let approvers = self
            .rules(domain)
            .into_iter()
            .find(|(other, _)| other == name)
            .and_then(|(_, rule)| rule.approvers.as_ref());
        match approvers {
            None => role >= Some(Role::Admin) || of_agent && asker,
            Some(list) => list.iter().any(|approver| match approver {
                Approver::Myself => asker,
                Approver::People => role >= Some(Role::Member),
                Approver::Role(wanted) => role == Some(*wanted),
                Approver::Person(id) => id.as_str() == person,
            }),
        }
    }

    fn speaks_at(&self, given: &Given) -> bool {
        self.world.devices.get(&given.at).is_some_and(|device| {
            device.tier != Tier::Ephemeral
                && (device.tier == Tier::Owner
                    || people_of(self.world, &given.at).contains(&given.consent.by.to_string()))
        })
    }

    fn answers(&self, given: &Given, ask: &str, of_agent: bool) -> bool {
        // Of others an hour alone, and of what an agent was given its person.
        let hour = matches!(given.consent.choice, Choice::Hour { .. });
        let of_agent_or_its = of_agent || matches!(self.request.principal, Principal::Agent(..));
        let taken_back = self.world.given.iter().any(|other| {
            let by = &other.consent.by;
            matches!(other.consent.choice, Choice::Withdrawn { consent } if consent == given.hash)
                && self.speaks_at(other)
                && (*by == given.consent.by || hour && self.may_approve(ask, of_agent_or_its, by.as_str()))
        });
        given.consent.of.iter().any(|of| of.to_string() == ask)
            && self.speaks_at(given)
            && self.may_approve(ask, of_agent, given.consent.by.as_str())
            && !taken_back
    }

    /// Fate of asks in a workspace: verdict and rule.
    fn settle(
        &self,
        domain: &str,
        asks: &Refs,
        alone: &Refs,
        levels: &[Level<'_>],
        saids: &[String],
    ) -> (Verdict, String) {
        let this_call = |given: &&Given| match &given.consent.choice {
            Choice::Once { call, header } | Choice::Deny { call, header } => {
                self.request.call == Some((*call, *header))
            }
            _ => false,
        };
        let is_no = |given: &&Given| matches!(given.consent.choice, Choice::Deny { .. });
        for given in self.world.given.iter().filter(this_call).filter(is_no) {
            for ask in asks {
                if self.answers(given, &text(ask), alone.contains(ask)) {
                    return (Verdict::Deny, text(ask));
                }
            }
        }
        let this_hour = |given: &&Given| match &given.consent.choice {
            Choice::Hour { principal, domain: of, target, tool } => {
                self.known
                    && *principal == self.request.principal
                    && of.to_string() == domain
                    && *target == self.request.target
                    && *tool == self.request.tool
            }
            _ => false,
        };
        let mut rule = None;
        for ask in asks {
            let always = saids.iter().flat_map(|domain| {
                let settles = |rule: &Rule| {
                    rule.verdict == RuleVerdict::Always
                        && rule.bound.contains(&self.request.target)
                        && rule.of.iter().any(|of| of.to_string() == text(ask))
                };
                self.said(domain, levels[0], settles)
            });
            let always = always.filter(|(_, domain, _)| *domain == ask.1).min();
            if let Some(always) = always {
                rule.get_or_insert(text(&always));
                continue;
            }
            let yes = self.world.given.iter().filter(|given| this_call(given) && !is_no(given) || this_hour(given));
            let mut yes = yes.filter(|given| self.answers(given, &text(ask), alone.contains(ask)));
            if yes.next().is_none() {
                return (Verdict::Ask, text(ask));
            }
            rule.get_or_insert(text(ask));
        }
        (Verdict::Allow, rule.unwrap())
    }

    fn rules_and_roles(&self) -> (Verdict, String) {
        let request = self.request;
        let origin = &self.world.devices[&request.origin];
        let caps: &[Role] = match origin.tier {
            Tier::Owner => &[Role::Owner],
            Tier::Shared => &[Role::Owner, Role::Member],
            Tier::Ephemeral => &[Role::Owner, Role::Member, Role::Guest],
        };
        let person = request.principal.person().map(|person| Principal::Person(person.clone()));
        let mut levels = Vec::new();
        let own_levels = if let (Principal::Agent(..), Some(person)) = (&request.principal, &person) {
            levels.push(Level { principal: &request.principal, cap: Role::Owner });
            levels.extend(caps.iter().map(|cap| Level { principal: person, cap: *cap }));
            1
        } else {
            levels.extend(caps.iter().map(|cap| Level { principal: &request.principal, cap: *cap }));
            levels.len()
        };

        let mut holds = self.holds();
        if let Some(named) = &request.workspace {
            let named = named.to_string();
            if !self.workspaces().contains(&named) {
                return (Verdict::Deny, "workspace:unknown".to_owned());
            }
            if self.role_in(&request.principal, &named).is_none() {
                return (Verdict::Deny, "workspace:not-member".to_owned());
            }
            if !holds.contains(&named) {
                return (Verdict::Deny, "workspace:scope".to_owned());
            }
        }
        if holds.is_empty() {
            holds.push("mesh".to_owned());
        }
        let candidates: Vec<String> = match &request.workspace {
            Some(named) => vec![named.to_string()],
            None => holds.clone(),
        };

        let strength = |domain: &String| levels.iter().map(|level| self.strength(domain, *level).0).min().unwrap();
        let of = |domain: &String, verdict: RuleVerdict, levels: &[Level<'_>]| -> Refs {
            levels.iter().flat_map(|level| self.taking(domain, *level, verdict)).collect()
        };
        let denies = |domain: &String| of(domain, RuleVerdict::Deny, &levels);
        // What is asked of the agent and would not be of its person.
        let persons = if own_levels == 1 && levels.len() > 1 && matches!(request.principal, Principal::Agent(..)) {
            &levels[1..]
        } else {
            &levels[..]
        };
        let is_agent = matches!(request.principal, Principal::Agent(..));
        let by = |domain: &String| {
            let mut all = levels[..own_levels].iter().map(|level| self.strength(domain, *level));
            let best = all.clone().find(|(strength, ..)| *strength == 2);
            best.or_else(|| all.find(|(strength, ..)| *strength == 1)).map(|(_, by, _)| by).unwrap()
        };

        let strong: Vec<&String> =
            candidates.iter().filter(|domain| strength(domain) == 2 && denies(domain).is_empty()).collect();
        let weak: Vec<&String> = candidates.iter().filter(|domain| strength(domain) == 1).collect();
        let mut answers = Vec::new();
        if !strong.is_empty() {
            for domain in strong {
                let asks = of(domain, RuleVerdict::Ask, &levels);
                let asked_of_person = of(domain, RuleVerdict::Ask, persons);
                let alone: Refs =
                    asks.iter().filter(|ask| is_agent && !asked_of_person.contains(*ask)).cloned().collect();
                let (verdict, rule) = if asks.is_empty() {
                    (Verdict::Allow, by(domain))
                } else {
                    self.settle(domain, &asks, &alone, &levels, &[domain.clone(), "mesh".to_owned()])
                };
                answers.push((verdict, !asks.is_empty(), domain.clone(), rule));
            }
        } else if !weak.is_empty() {
            let all_denies: Refs = holds.iter().flat_map(denies).collect();
            if let Some(first) = all_denies.first() {
                return (Verdict::Deny, text(first));
            }
            for domain in weak {
                let mut asks: Refs = holds.iter().flat_map(|domain| of(domain, RuleVerdict::Ask, &levels)).collect();
                let asked_of_person: Refs =
                    holds.iter().flat_map(|domain| of(domain, RuleVerdict::Ask, persons)).collect();
                let mut alone: Refs =
                    asks.iter().filter(|ask| is_agent && !asked_of_person.contains(*ask)).cloned().collect();
                let otherwise = |levels: &[Level<'_>]| levels.iter().any(|level| self.strength(domain, *level).2);
                if otherwise(&levels) {
                    asks.insert(of_domain(domain, "otherwise"));
                    if is_agent && !otherwise(persons) {
                        alone.insert(of_domain(domain, "otherwise"));
                    }
                }
                let mut saids = holds.clone();
                saids.push("mesh".to_owned());
                let (verdict, rule) = if asks.is_empty() {
                    (Verdict::Allow, by(domain))
                } else {
                    self.settle(domain, &asks, &alone, &levels, &saids)
                };
                answers.push((verdict, !asks.is_empty(), domain.clone(), rule));
            }
        } else {
            let denies: Refs = candidates.iter().flat_map(denies).collect();
            return (Verdict::Deny, denies.first().map_or_else(|| "default".to_owned(), text));
        }
        let (verdict, _, _, rule) = answers.into_iter().min().unwrap();
        (verdict, rule)
    }
}

fn people_of(world: World<'_>, peer: &PeerId) -> Vec<String> {
    match world.records.get(&Key::Device(*peer)) {
        Some(Value::Device(device)) => device.people.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

fn role(world: World<'_>, person: &str) -> Option<Role> {
    let record = world.records.iter().find_map(|(key, value)| match (key, value) {
        (Key::Person(id), Value::Person(record)) if id.as_str() == person => Some(record),
        _ => None,
    });
    match (person, record) {
        ("owner", Some(record)) if record.suspended && another_owner_sits(world) => None,
        ("owner", _) => Some(Role::Owner),
        (_, Some(record)) if record.suspended => None,
        (_, record) => record.map(|record| record.role),
    }
}

/// An owner-tier device is that of one person alone, of role owner and not suspended.
fn another_owner_sits(world: World<'_>) -> bool {
    let is_hers = |people: &[PersonId]| match people {
        [one] => one.as_str() != "owner" && role(world, one.as_str()) == Some(Role::Owner),
        _ => false,
    };
    let mut owners = world.devices.values().filter(|device| device.tier == Tier::Owner);
    owners.any(|device| match world.records.get(&Key::Device(device.peer)) {
        Some(Value::Device(Device { people, .. })) => is_hers(people),
        _ => false,
    })
}

/// Verdict, and the rule that it goes by.
pub fn decide(world: World<'_>, request: &Request) -> (Verdict, String) {
    let deny = |rule: &str| (Verdict::Deny, rule.to_owned());
    let (Some(origin), Some(target)) = (world.devices.get(&request.origin), world.devices.get(&request.target)) else {
        return deny("device:unknown");
    };
    if !origin.trusted || !target.trusted {
        return deny("device:unknown");
    }
    if let Some(why) = origin.untagged.or(target.untagged) {
        return deny(&format!("tailnet:{}", why.as_str()));
    }

    let speaks = match &request.principal {
        Principal::Device(node) => *node == origin.node,
        Principal::Person(person) | Principal::Agent(person, _) => {
            origin.tier == Tier::Owner || people_of(world, &request.origin).contains(&person.to_string())
        }
    };
    if !speaks {
        return deny("principal:device");
    }
    if let Some(person) = request.principal.person() {
        let record = world.records.get(&Key::Person(person.clone()));
        if record.is_none() && person.as_str() != "owner" {
            return deny("principal:unknown");
        }
        if record.is_some() && role(world, person.as_str()).is_none() {
            return deny("principal:suspended");
        }
    }
    if let Principal::Agent(person, agent) = &request.principal {
        let record = world.records.get(&Key::Agent(person.clone(), agent.clone()));
        if matches!(record, Some(Value::Agent(record)) if record.suspended) {
            return deny("principal:suspended");
        }
    }

    let node = if target.confirmed { target.node.to_string() } else { String::new() };
    let tool = request.tool.as_str().to_ascii_lowercase();
    let known = origin.confirmed || !matches!(request.principal, Principal::Device(_));
    if let Some(credential) = &request.credential {
        match world.records.get(&Key::Token(credential.token.clone())) {
            Some(Value::Token(token)) if token.holder == request.principal && !credential.over => {
                if token.read_only || !within(token.nodes.as_ref(), token.tools.as_ref(), &node, &tool) {
                    return deny("token:scope");
                }
            }
            _ => return deny("token:over"),
        }
    }
    if let (Tier::Ephemeral, Some(scope)) = (origin.tier, &origin.scope)
        && !scope.iter().any(|pattern| tool_matches(pattern, &node, &tool))
    {
        return deny("tier:scope");
    }

    let is_denied = |pattern: &&ToolPattern| may_be_within(None::<&Vec<String>>, Some(&vec![*pattern]), &node, &tool);
    if let Some(pattern) = target.deny.iter().find(is_denied) {
        return deny(&format!("local:{pattern}"));
    }

    let Some(offered) = target.tools.iter().find(|offered| offered.name.as_str().to_ascii_lowercase() == tool) else {
        return deny("tool:absent");
    };
    if offered.name != request.tool {
        return deny("tool:absent");
    }
    if let Some(Value::Tools(tools)) = world.records.get(&Key::Tools(request.target)) {
        match tools.approved.get(&offered.name) {
            None => return deny("tool:pending"),
            Some(hash) if *hash != offered.hash => return deny("tool:changed"),
            Some(_) => {}
        }
    } else if offered.review {
        return deny("tool:pending");
    }

    if !matches!(world.records.get(&Key::Mode), Some(Value::Mode(Mode::Workspaces))) {
        if offered.owner_only && origin.tier != Tier::Owner {
            return deny("tier:owner-only");
        }
        if request.workspace.is_some() {
            return deny("workspace:unknown");
        }
        return (Verdict::Allow, "builtin/open".to_owned());
    }
    Slow { world, request, node, known, tool }.rules_and_roles()
}
