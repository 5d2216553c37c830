//! The value that the heads of a register amount to.
//!
//! One principle for all kinds: **what gives must be said by all heads, what takes by any** (`docs/decisions/0041`). So
//! whoever took something away has taken it away, whatever somebody else wrote who did not know of it. Only texts,
//! which give nothing, are the newest's. A head that cannot be read gives nothing and takes all that it may concern.

use super::records::{
    Agent, Approver, Binding, Check, Device, DeviceTools, Mode, Otherwise, Person, Rule, RuleVerdict, Title, Token,
    Value, Verdict, WAIT_MS_DEFAULT, Workspace,
};
use super::register::Register;
use super::said::Content;
use super::said::Statement;
use crate::entry::Place;
use crate::glob::{NodePattern, ToolPattern};
use crate::people::{PersonId, Role, RuleRef};

/// The heads of one register, of which each is a value, a deletion or unreadable.
pub(super) struct Heads<'a> {
    heads: Vec<(&'a Place, &'a Statement)>,
}

/// A type of value, taken out of any.
trait Of: Sized {
    fn of(value: &Value) -> Option<&Self>;
}

macro_rules! of {
    ($($kind:ident => $name:ty),* $(,)?) => {$(
        impl Of for $name {
            fn of(value: &Value) -> Option<&Self> {
                if let Value::$kind(value) = value { Some(value) } else { None }
            }
        }
    )*};
}
of!(Person => Person, Agent => Agent, Token => Token, Workspace => Workspace, Member => Role, Binding => Binding,
    Rule => Rule, Device => Device, Mode => Mode, Check => Check, Tools => DeviceTools);

impl<'a> Heads<'a> {
    pub(super) fn of(register: Option<&'a Register>, stands: &dyn Fn(&Place) -> bool) -> Self {
        Self { heads: register.map(|register| register.counting(stands)).unwrap_or_default() }
    }

    fn contents(&self) -> impl Iterator<Item = &'a Content> {
        self.heads.iter().map(|(_, statement)| &statement.said.content)
    }

    fn values<T: Of + 'a>(&self) -> impl Iterator<Item = &'a T> {
        self.contents().filter_map(|content| match content {
            Content::Value(value) => T::of(value),
            Content::Deleted | Content::Unreadable => None,
        })
    }

    fn is_deleted(&self) -> bool {
        self.heads.is_empty() || self.contents().any(|content| *content == Content::Deleted)
    }

    fn is_unreadable(&self) -> bool {
        self.contents().any(|content| *content == Content::Unreadable)
    }

    /// The value of the newest head: declared before edited, then by generation, clock and author.
    fn newest<T: Of + 'a>(&self) -> Option<&'a T> {
        let newest = self.heads.iter().max_by_key(|(place, statement)| {
            (statement.said.declared, statement.said.generation, statement.hlc, **place)
        });
        match &newest?.1.said.content {
            Content::Value(value) => T::of(value),
            Content::Deleted | Content::Unreadable => None,
        }
    }

    /// A text of the newest head that has a value.
    fn text<T: Of + 'a>(&self, text: impl Fn(&T) -> &Title) -> Title {
        self.newest().map(text).cloned().unwrap_or_default()
    }

    /// The person as all heads say: deleted or suspended if one says so; of roles the lowest; the logins that all of them
    /// name.
    pub(super) fn person(&self) -> Option<Person> {
        let mut all = self.values::<Person>();
        if self.is_deleted() {
            return None;
        }
        let unreadable = self.is_unreadable();
        let title = self.text(|person: &Person| &person.title);
        let Some(first) = all.next().cloned() else {
            return Some(Person { title, role: Role::Guest, logins: Vec::new(), suspended: true });
        };
        Some(all.fold(Person { title, suspended: first.suspended || unreadable, ..first }, |mut so_far, other| {
            so_far.role = so_far.role.min(other.role);
            so_far.suspended |= other.suspended;
            so_far.logins.retain(|login| other.logins.contains(login));
            so_far
        }))
    }

    /// Suspended by one: it is, also if another took its record away, since an agent needs none.
    pub(super) fn agent(&self) -> Option<Agent> {
        let suspended = self.is_unreadable() || self.values::<Agent>().any(|agent| agent.suspended);
        if self.is_deleted() && !suspended {
            return None;
        }
        Some(Agent { title: self.text(|agent: &Agent| &agent.title), suspended })
    }

    /// Opens what all heads open, of whom none took it away.
    pub(super) fn token(&self) -> Option<Vec<Token>> {
        let gone = self.is_deleted() || self.is_unreadable();
        (!gone).then(|| self.values().cloned().collect())
    }

    /// The strictest answers of all. An unreadable one answers nothing but no.
    pub(super) fn workspace(&self) -> Option<Workspace> {
        if self.is_deleted() {
            return None;
        }
        let strictest = |answer: fn(&Otherwise) -> Verdict| {
            let unreadable = self.is_unreadable().then_some(Verdict::Deny);
            let said = self.values::<Workspace>().map(|workspace| answer(&workspace.otherwise));
            said.chain(unreadable).max().unwrap_or(Verdict::Deny)
        };
        Some(Workspace {
            title: self.text(|workspace: &Workspace| &workspace.title),
            icon: self.text(|workspace: &Workspace| &workspace.icon),
            otherwise: Otherwise {
                members: strictest(|otherwise| otherwise.members),
                guests: strictest(|otherwise| otherwise.guests),
                agents: strictest(|otherwise| otherwise.agents),
                devices: strictest(|otherwise| otherwise.devices),
            },
        })
    }

    /// The lowest role.
    pub(super) fn member(&self) -> Option<Role> {
        let gone = self.is_deleted() || self.is_unreadable();
        (!gone).then(|| self.values().copied().min()).flatten()
    }

    /// Values that all heads hold, of whom none took it away.
    pub(super) fn binding(&self) -> Option<MergedBinding> {
        if self.is_deleted() {
            return None;
        }
        let unreadable = self.is_unreadable();
        // It may have held anything: it holds all then, and nothing of it may be used.
        let all = if unreadable { Vec::new() } else { self.values().cloned().collect() };
        Some(MergedBinding { all, unreadable })
    }

    pub(super) fn rule(&self, at: &RuleRef) -> Option<MergedRule> {
        let mut heads: Vec<Rule> = self.values().cloned().collect();
        if self.is_unreadable() {
            heads.push(Rule::of(RuleVerdict::Deny));
        }
        let rule = MergedRule { at: at.clone(), gives: !self.is_deleted(), heads };
        let takes = rule.heads.iter().any(|head| head.verdict >= RuleVerdict::Ask);
        (rule.gives || takes).then_some(rule)
    }

    /// The people that all heads name, of whom none took it away.
    pub(super) fn device(&self) -> MergedDevice {
        let gone = self.is_deleted() || self.is_unreadable();
        let mut people: Vec<PersonId> = Vec::new();
        if let (false, Some(first)) = (gone, self.values::<Device>().next()) {
            let by_all = |person: &&PersonId| self.values::<Device>().all(|device| device.people.contains(person));
            people = first.people.iter().filter(by_all).cloned().collect();
        }
        let title = self.text(|device: &Device| &device.title);
        MergedDevice { title, people, unreadable: self.is_unreadable() }
    }

    pub(super) fn mode(&self) -> Mode {
        let unreadable = self.is_unreadable().then_some(Mode::Workspaces);
        self.values().copied().chain(unreadable).max().unwrap_or_default()
    }

    pub(super) fn check(&self) -> Option<Check> {
        self.newest().cloned()
    }

    /// `None` if nobody ever said which tools may be used; else what all heads approve.
    pub(super) fn tools(&self) -> Option<DeviceTools> {
        if self.heads.is_empty() {
            return None;
        }
        let mut tools = DeviceTools::default();
        if let (false, false, Some(first)) =
            (self.is_deleted(), self.is_unreadable(), self.values::<DeviceTools>().next())
        {
            tools.approved.clone_from(&first.approved);
            for other in self.values::<DeviceTools>() {
                tools.approved.retain(|tool, hash| other.approved.get(tool) == Some(hash));
            }
        }
        Some(tools)
    }
}

/// The tools that several heads of a binding hold in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MergedBinding {
    /// Must all match.
    pub(super) all: Vec<Binding>,
    /// True if one of them cannot be read: what it holds may not be used.
    pub(super) unreadable: bool,
}

impl MergedBinding {
    pub(super) fn holds(&self, node: &str, tool: &str) -> bool {
        self.all.iter().all(|binding| binding.holds(node, tool))
    }

    pub(super) fn may_hold(&self, node: &str, tool: &str) -> bool {
        self.all.iter().all(|binding| may_be_within(binding.nodes.as_ref(), binding.tools.as_ref(), node, tool))
    }
}

impl Binding {
    /// True if this tool of this device belongs to it. `tool` is in small letters.
    #[must_use]
    pub fn holds(&self, node: &str, tool: &str) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.iter().any(|pattern| pattern.matches(node)))
            && self.tools.as_ref().is_none_or(|tools| tools.iter().any(|pattern| pattern.matches(node, tool)))
    }

    /// True if some tool of this device could belong to it.
    #[must_use]
    pub fn reaches(&self, node: &str) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.iter().any(|pattern| pattern.matches(node)))
            && self.tools.as_ref().is_none_or(|tools| tools.iter().any(|pattern| pattern.selects(node)))
    }
}

impl Rule {
    /// True if it is about this tool of this device, whoever asks. `tool` is in small letters.
    #[must_use]
    pub fn is_about(&self, node: &str, tool: &str) -> bool {
        self.nodes.as_ref().is_none_or(|nodes| nodes.iter().any(|pattern| pattern.matches(node)))
            && self.tools.as_ref().is_none_or(|tools| tools.iter().any(|pattern| pattern.matches(node, tool)))
    }

    /// True if what it takes away may be this tool of this device: of one that rights know by no name, any by which it is
    /// about the tool.
    #[must_use]
    pub fn may_be_about(&self, node: &str, tool: &str) -> bool {
        may_be_within(self.nodes.as_ref(), self.tools.as_ref(), node, tool)
    }
}

/// True if these lists may mean this tool of this device, see [`NodePattern::may_mean`].
fn may_be_within(nodes: Option<&Vec<NodePattern>>, tools: Option<&Vec<ToolPattern>>, node: &str, tool: &str) -> bool {
    nodes.is_none_or(|nodes| nodes.iter().any(|pattern| pattern.may_mean(node)))
        && tools.is_none_or(|tools| tools.iter().any(|pattern| pattern.may_mean(node, tool)))
}

/// All that people said about a device, of several heads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MergedDevice {
    pub(super) title: Title,
    pub(super) people: Vec<PersonId>,
    /// True if something was said that cannot be read: then nothing may be asked for there.
    pub(super) unreadable: bool,
}

/// Joint meaning of several heads of a rule. At a given call it **denies** if a head denies, **asks** if a head asks, **gives**
/// if all heads give and none took the rule away, and **settles** an ask if all heads do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MergedRule {
    pub(super) at: RuleRef,
    /// False if a head took the rule away: what it denies and asks stays until that head is edited by one who knows.
    pub(super) gives: bool,
    /// Nearly always one.
    pub(super) heads: Vec<Rule>,
}

impl MergedRule {
    /// Of an ask: how long a call waits for consent, in milliseconds.
    pub(super) fn wait_ms(&self, node: &str, tool: &str) -> u64 {
        let waits = self.asking(node, tool).map(|head| head.wait_ms.unwrap_or(WAIT_MS_DEFAULT));
        waits.min().unwrap_or(WAIT_MS_DEFAULT)
    }

    /// True if each head that asks here takes this for an approver: `by_default` where it names none.
    pub(super) fn lets_approve(
        &self,
        node: &str,
        tool: &str,
        by_default: &dyn Fn() -> bool,
        is: &dyn Fn(&Approver) -> bool,
    ) -> bool {
        self.asking(node, tool).all(|head| match &head.approvers {
            None => by_default(),
            Some(approvers) => approvers.iter().any(is),
        })
    }

    fn asking(&self, node: &str, tool: &str) -> impl Iterator<Item = &Rule> {
        self.heads.iter().filter(move |head| head.verdict == RuleVerdict::Ask && head.may_be_about(node, tool))
    }
}
