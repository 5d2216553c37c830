//! Answers about rights in words: who may use what, why, and what would change it.

use std::fmt::Write as _;

use mesh_core::config::Rate;
use mesh_core::ids::{NodeId, ToolName};
use mesh_core::policy::{
    Cause, Decision, Domain, Layer, Name, PersonId, Principal, Remedy, Request, RuleRef, RuleVerdict, Verdict, View,
    Who, WorkspaceId,
};

use crate::config::PolicySettings;

/// Rights as they are at one moment: ready to be asked, and as people wrote them.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    /// The question.
    pub view: View,
    /// All that people wrote: it gives the words.
    pub said: PolicySettings,
}

/// An answer in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The answer.
    pub verdict: Verdict,
    /// Rule that decided, by its public name.
    pub rule: String,
    /// The workspace by which it is allowed or asked.
    pub workspace: Option<WorkspaceId>,
    /// One or two sentences: the answer, and why.
    pub text: String,
    /// Everything that was looked at, in order; the last one decided.
    pub steps: Vec<Looked>,
    /// The asks that are open, with those who may say yes.
    pub asks: Vec<Asked>,
    /// Change that would give another answer, and who can do it; `None` of what is allowed.
    pub change_by: Option<String>,
    /// How often this asker may use the tool at this device; `None`: as often as she likes, or another device says so.
    pub rate: Option<Rate>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// At what.
    pub layer: Layer,
    /// Its answer: allow goes on to the next.
    pub verdict: Verdict,
    /// What it rests on, if something stood in the way or decided.
    pub rule: Option<String>,
    /// In words.
    pub text: String,
}

/// An ask that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its rule, or the `otherwise` of a workspace.
    pub rule: RuleRef,
    /// Who may say yes. Empty: nobody.
    pub approvers: Vec<PersonId>,
    /// How long a call waits for it, in milliseconds.
    pub wait_ms: u64,
}

/// Subject of a question, by the names that people use.
#[derive(Debug, Clone, Copy)]
struct About<'a> {
    principal: &'a Principal,
    node: &'a NodeId,
    tool: &'a ToolName,
}

impl Rights {
    /// Answers a question and says why. `node` is the name of its target.
    #[must_use]
    pub fn explain(&self, request: &Request, node: &NodeId) -> Explanation {
        let decision = self.view.decide(request);
        let about = About { principal: &request.principal, node, tool: &request.tool };
        let asks = decision.asks.iter().map(|ask| Asked {
            rule: ask.rule.clone(),
            approvers: self.view.approvers(request, ask),
            wait_ms: ask.wait_ms,
        });
        let asks: Vec<Asked> = asks.collect();
        let steps = decision.path.iter().map(|step| Looked {
            layer: step.layer,
            verdict: step.verdict,
            rule: step.cause.as_ref().map(ToString::to_string),
            text: match &step.cause {
                Some(cause) => self.why(cause, step.verdict, about, request),
                None => passed(step.layer).to_owned(),
            },
        });
        Explanation {
            verdict: decision.verdict,
            rule: decision.rule.to_string(),
            workspace: decision.workspace.clone(),
            text: self.text(&decision, &asks, about, request),
            steps: steps.collect(),
            change_by: self.view.would_change(request, &decision).map(|remedy| self.change(&remedy, about, &asks)),
            rate: None,
            asks,
        }
    }

    /// The answer, and why.
    fn text(&self, decision: &Decision, asks: &[Asked], about: About<'_>, request: &Request) -> String {
        let About { principal, node, tool } = about;
        let who = self.principal(principal);
        let said_yes = !decision.consents.is_empty();
        let said = if said_yes { Verdict::Ask } else { decision.verdict };
        let mut why = sentence(&self.why(&decision.rule, said, about, request));
        for peer in [&request.origin, &request.target] {
            if let Some(name) = self.view.unknown_name(peer) {
                let _ = write!(
                    why,
                    " `{name}` named itself: until an owner confirms that (`sigil rename {name} {name}`), what gives to devices \
                     by name gives it nothing, and what takes away from devices by name takes from it."
                );
                break;
            }
        }
        match decision.verdict {
            Verdict::Allow if said_yes => format!("{who} may use `{tool}` of `{node}`, since somebody said yes. {why}"),
            Verdict::Allow => format!("{who} may use `{tool}` of `{node}`. {why}"),
            Verdict::Deny => format!("{who} may not use `{tool}` of `{node}`. {why}"),
            Verdict::Ask => {
                let yes: Vec<String> = asks.iter().map(|ask| self.who_says_yes(ask, asks.len() > 1)).collect();
                format!("{who} may use `{tool}` of `{node}` once somebody says yes. {why} {}", yes.join(" "))
            }
        }
    }

    fn who_says_yes(&self, ask: &Asked, several: bool) -> String {
        let wait = crate::config::value::show_duration(std::time::Duration::from_millis(ask.wait_ms));
        let to = if several { format!(" to {}", self.rule(&ask.rule)) } else { String::new() };
        if ask.approvers.is_empty() {
            return format!("There is nobody who may say yes{to}.");
        }
        // Whoever sits at an owner's device has a name, if anybody has one.
        let named = || ask.approvers.iter().filter(|person| !person.is_owner());
        let all: Vec<&PersonId> = if named().count() == 0 { ask.approvers.iter().collect() } else { named().collect() };
        let names: Vec<String> = all.into_iter().map(|person| self.person(person)).collect();
        format!("{} can say yes{to}, within {wait}: `sigil approvals`.", any_of(&names))
    }

    /// Why a question about a tool of this device has this answer, as the end of a sentence or a sentence of its own.
    pub(super) fn why_of(&self, cause: &Cause, verdict: Verdict, request: &Request, node: &NodeId) -> String {
        self.why(cause, verdict, About { principal: &request.principal, node, tool: &request.tool }, request)
    }

    /// Why, as the end of a sentence or a sentence of its own.
    fn why(&self, cause: &Cause, verdict: Verdict, about: About<'_>, request: &Request) -> String {
        let who = self.principal(about.principal);
        let workspace = |id: Option<&Domain>| id.map_or_else(|| "the mesh".to_owned(), |domain| self.domain(domain));
        let named = workspace(request.workspace.as_ref());
        match cause {
            Cause::Rule(at) if at.is_otherwise() => {
                let says = match verdict {
                    Verdict::Allow => "it is allowed",
                    Verdict::Ask => "somebody is asked",
                    Verdict::Deny => "it is not allowed",
                };
                format!("no rule speaks of it, and in {} {says} then", self.domain(&at.domain))
            }
            Cause::Rule(at) => {
                let said = self.rule_said(at).map_or_else(String::new, |said| format!(": {said}"));
                format!("that is {}{said}", self.rule(at))
            }
            Cause::Default => format!("no rule gives it to {who}"),
            Cause::Owner => format!("{who} is an owner, and the tool belongs to no workspace"),
            Cause::Manager => format!("{who} manages a workspace that the tool belongs to"),
            Cause::Own => format!("it is {who}'s own device"),
            Cause::PrincipalDevice => format!("the device that asks is not one at which {who} is spoken for"),
            Cause::WorkspaceNotMember => format!("{who} is not in {named}"),
            Cause::WorkspaceScope => format!("the tool does not belong to {named}"),
            Cause::DeviceUnknown
            | Cause::Untagged(_)
            | Cause::PrincipalUnknown
            | Cause::PrincipalSuspended
            | Cause::TokenOver
            | Cause::TokenScope
            | Cause::TierScope
            | Cause::ToolAbsent
            | Cause::ToolPending
            | Cause::ToolChanged
            | Cause::Local(_)
            | Cause::OwnerOnly
            | Cause::WorkspaceUnknown
            | Cause::Open => cause.sentence(request, verdict),
        }
    }

    /// Change that would give another answer, and who can do it.
    fn change(&self, remedy: &Remedy, about: About<'_>, asks: &[Asked]) -> String {
        let who = self.principal(about.principal);
        let About { node, tool, .. } = about;
        let text = match remedy {
            Remedy::Yes(_) => {
                let rules: Vec<String> = asks.iter().map(|ask| self.rule(&ask.rule)).collect();
                format!("whoever manages {} lets it give the tool: `sigil rule allow`", all_of(&rules))
            }
            Remedy::ApproveTool(_) => {
                format!("an owner or admin of the mesh approves it as it is now: `sigil approve {node} --tools {tool}`")
            }
            Remedy::AssignDevice(_) => {
                format!("an owner says whose device it is (`people` of that device), or {who} asks at another device")
            }
            Remedy::AddPerson(_) => format!("an owner or admin adds {who}: `sigil person add`"),
            Remedy::Resume(whom) => {
                format!(
                    "an owner or admin ends the suspension of {}: `sigil person set --resume`",
                    self.principal(whom)
                )
            }
            Remedy::Join(id) => {
                format!("whoever manages {} makes {who} a member", self.domain(&Domain::Workspace(id.clone())))
            }
            Remedy::Bind(id) => {
                format!(
                    "an owner or admin adds `{tool}` of `{node}` to {}",
                    self.domain(&Domain::Workspace(id.clone()))
                )
            }
            Remedy::Edit { lift, allow } => self.edit(lift, allow.as_ref(), about),
            Remedy::AdmitDevice
            | Remedy::TagNode
            | Remedy::WiderToken
            | Remedy::WiderTerms
            | Remedy::OfferTool(_)
            | Remedy::LiftLocal(_)
            | Remedy::OwnerDevice
            | Remedy::ConfirmName(_)
            | Remedy::NameNone(_) => remedy.to_string(),
        };
        sentence(&text)
    }

    fn edit(&self, lift: &[RuleRef], allow: Option<&(Domain, Vec<Principal>)>, about: About<'_>) -> String {
        let About { node, tool, .. } = about;
        let of_mesh = lift
            .iter()
            .map(|at| &at.domain)
            .chain(allow.map(|(domain, _)| domain))
            .any(|domain| *domain == Domain::Mesh);
        let who = if of_mesh { "an owner" } else { "whoever manages the workspace" };
        let rules: Vec<String> = lift.iter().map(|at| self.rule(at)).collect();
        let mut does = Vec::new();
        if !rules.is_empty() {
            does.push(format!("takes away or narrows {}", all_of(&rules)));
        }
        if let Some((domain, principals)) = allow {
            let named: Vec<String> = principals.iter().map(word_for).collect();
            let is_agent = principals.iter().any(|principal| matches!(principal, Principal::Agent(..)));
            let or_ask = if is_agent { ", or `rule ask` for an agent that must ask each time" } else { "" };
            let name = example_name(tool);
            does.push(format!(
                "adds a rule: `sigil rule allow {domain}/{name} --who {} --node {node} --tool {tool}`{or_ask}",
                named.join(" --who ")
            ));
        }
        format!("{who} {}", does.join(", and "))
    }

    pub(super) fn person(&self, id: &PersonId) -> String {
        match self.view.person(id).map(|person| person.title.as_str()) {
            Some(title) if !title.is_empty() => title.to_owned(),
            Some(_) | None if id.is_owner() => "the owner".to_owned(),
            Some(_) | None => id.to_string(),
        }
    }

    pub(super) fn principal(&self, principal: &Principal) -> String {
        match principal {
            Principal::Person(person) => self.person(person),
            Principal::Agent(person, agent) => format!("{}'s agent `{agent}`", self.person(person)),
            Principal::Device(node) => format!("the device `{node}`"),
        }
    }

    fn domain(&self, domain: &Domain) -> String {
        let title = self.said.workspaces.get(domain).map(|workspace| workspace.title.as_str());
        match (domain, title) {
            (Domain::Mesh, _) => "the whole mesh".to_owned(),
            (Domain::Workspace(id), Some(title)) if !title.is_empty() && title != id.as_str() => {
                format!("{title} (`{id}`)")
            }
            (Domain::Workspace(id), _) => format!("`{id}`"),
        }
    }

    pub(super) fn rule(&self, at: &RuleRef) -> String {
        if at.is_otherwise() {
            format!("what {} says where no rule speaks", self.domain(&at.domain))
        } else {
            format!("rule `{at}`")
        }
    }

    /// All that a rule says, in words.
    fn rule_said(&self, at: &RuleRef) -> Option<String> {
        let rule = self.said.workspaces.get(&at.domain)?.rules.get(&at.name)?;
        let who = rule.who.as_ref().map(|who| any_of(&who.iter().map(|who| self.who(who)).collect::<Vec<_>>()));
        let what = match (&rule.tools, &rule.nodes) {
            (None, None) => "everything".to_owned(),
            (Some(tools), None) => listed(tools, "no tool"),
            (None, Some(nodes)) => format!("everything of {}", listed(nodes, "no device")),
            (Some(tools), Some(nodes)) => format!("{} of {}", listed(tools, "no tool"), listed(nodes, "no device")),
        };
        let who = who.unwrap_or_else(|| "everyone".to_owned());
        let mut said = match rule.verdict {
            RuleVerdict::Allow => format!("{who} may use {what}"),
            RuleVerdict::Always => format!("{who} may use {what} without being asked for again"),
            RuleVerdict::Deny if rule.who.is_none() => format!("nobody may use {what}"),
            RuleVerdict::Deny => format!("{who} may not use {what}"),
            RuleVerdict::Ask => format!("{who} must ask for {what}"),
        };
        if !rule.note.as_str().is_empty() {
            said = format!("{said} ({})", rule.note);
        }
        Some(said)
    }

    fn who(&self, who: &Who) -> String {
        match who {
            Who::Everyone => "everyone".to_owned(),
            Who::People => "people".to_owned(),
            Who::Agents => "agents".to_owned(),
            Who::Devices => "devices that ask for themselves".to_owned(),
            Who::Role(role) => format!("{role}s"),
            Who::Person(person) => self.person(person),
            Who::Agent(pattern) => format!("agents `{pattern}`"),
            Who::Device(pattern) => format!("the device `{pattern}`"),
        }
    }
}

/// Finding of a layer that stood in nobody's way has found.
const fn passed(layer: Layer) -> &'static str {
    match layer {
        Layer::Device => "both devices belong to the mesh",
        Layer::Principal => "the device that asks may speak for whom it asks",
        Layer::Credential => "the token, if one was shown, reaches so far",
        Layer::Tool => "the device offers the tool, and it does not wait for approval",
        Layer::Local => "the device itself does not forbid it",
        Layer::Open => "there are no workspaces",
        Layer::Workspace => "the workspace that is named, if one is, holds it",
        Layer::Rules => "rules and roles give it",
        Layer::Consent => "nobody has to say yes",
    }
}

/// The word by which a rule names a principal.
fn word_for(principal: &Principal) -> String {
    match principal {
        Principal::Person(person) => person.to_string(),
        Principal::Agent(person, agent) => format!("agent:{person}/{agent}"),
        Principal::Device(node) => format!("device:{node}"),
    }
}

/// A name for a rule about a tool.
fn example_name(tool: &ToolName) -> Name {
    let slug: String = tool.as_str().to_ascii_lowercase().replace(['.', '_'], "-");
    slug.trim_matches('-').parse().unwrap_or_else(|_| "more".parse().expect("a constant"))
}

fn listed<T: ToString>(items: &[T], none: &str) -> String {
    if items.is_empty() {
        return none.to_owned();
    }
    all_of(&items.iter().map(|item| format!("`{}`", item.to_string())).collect::<Vec<_>>())
}

pub(super) fn all_of(items: &[String]) -> String {
    joined(items, "and")
}

fn any_of(items: &[String]) -> String {
    if items.is_empty() { "nobody".to_owned() } else { joined(items, "or") }
}

fn joined(items: &[String], word: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} {word} {last}", first.join(", ")),
    }
}

/// With a capital letter and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}
