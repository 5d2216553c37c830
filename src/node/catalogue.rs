//! The tools that this device offers: the one list of them, folded from what all providers in force offer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mesh_core::ids::ToolName;
use mesh_core::limits::{CARDS_BYTES_MAX, TOOLS_MAX};
use mesh_core::policy::ToolPattern;
use mesh_core::record::ToolDecl;

use super::card::Card;
use super::provider::{Offer, Offers, Provider, State};
use crate::plugin::PluginName;

/// Origin of a provider. Of two that offer a tool of the same name the lesser one has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// This program.
    Builtin,
    /// `[tools.NAME]` of the settings.
    Settings(ToolName),
    /// `[mcp_servers.NAME]` of the settings.
    Server(PluginName),
    /// A plugin that was installed.
    Plugin(PluginName),
    /// A foreign node that this device hosts.
    Node(PluginName),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => write!(f, "sigil"),
            Self::Settings(name) => write!(f, "tools.{name}"),
            Self::Server(name) => write!(f, "mcp_servers.{name}"),
            Self::Plugin(name) => write!(f, "{name}"),
            Self::Node(name) => write!(f, "nodes.{name}"),
        }
    }
}

/// A provider in force. Cheap to clone.
#[derive(Clone)]
pub struct Member {
    /// Where it comes from; no two in force have the same.
    pub origin: Origin,
    /// The provider in its present version.
    pub provider: Arc<dyn Provider>,
}

impl Member {
    /// True if both are the same version of the same provider.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.provider, &other.provider)
    }
}

/// One tool.
#[derive(Clone)]
pub struct Tool {
    /// The tool, as its provider offers it.
    pub offer: Arc<Offer>,
    /// Pattern of `node.deny` by which the owner of this device forbids it. It is known, so that a call in the queue can be
    /// answered with the reason, but not offered.
    pub denied: Option<ToolPattern>,
    /// The provider that runs it.
    pub provider: Arc<dyn Provider>,
    /// False while that does not work, and tries to recover.
    pub works: bool,
}

/// All tools of this device, by name.
#[derive(Clone, Default)]
pub struct Catalogue {
    tools: BTreeMap<ToolName, Tool>,
    left_out: Vec<LeftOut>,
    deny: Vec<ToolPattern>,
}

/// A tool that a provider offers and this device does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The tool.
    pub tool: ToolName,
    /// Its provider.
    pub origin: Origin,
    /// The cause.
    pub why: WhyLeftOut,
}

/// A reason to leave a tool out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyLeftOut {
    /// Another provider comes first, with a name that differs at most in its capitals.
    Taken(Origin),
    /// Its provider offers more than its share of the [`TOOLS_MAX`], which is this many.
    TooMany(usize),
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tool, origin, why } = self;
        write!(f, "the tool `{tool}` of {origin} is not offered: ")?;
        match why {
            WhyLeftOut::Taken(by) => write!(f, "{by} has one of this name, give it another"),
            WhyLeftOut::TooMany(share) => write!(
                f,
                "this device offers at most {TOOLS_MAX} tools, and {share} of {origin}: name those that you want in its `expose`"
            ),
        }
    }
}

impl Catalogue {
    /// Folds what all these offer now. The order in which they are given does not matter.
    #[must_use]
    pub fn fold(members: &[Member], deny: &[ToolPattern]) -> Self {
        let offered: BTreeMap<&Origin, (Arc<Offers>, &Member)> = members
            .iter()
            .map(|member| (&member.origin, (member.provider.offers().borrow().clone(), member)))
            .collect();
        let mut catalogue = Self { deny: deny.to_vec(), ..Self::default() };
        let mut taken: BTreeMap<String, &Origin> = BTreeMap::new();
        let mut wanted = Vec::new();
        for (origin, (offers, member)) in &offered {
            let mut named = Vec::new();
            for (name, offer) in &offers.tools {
                match taken.get(&*name.folded()) {
                    Some(by) => {
                        let why = WhyLeftOut::Taken((*by).clone());
                        catalogue.left_out.push(LeftOut { tool: name.clone(), origin: (*origin).clone(), why });
                    }
                    None => named.push((name, offer)),
                }
            }
            taken.extend(named.iter().map(|(name, _)| (name.folded().into_owned(), *origin)));
            wanted.push((*origin, *member, offers, named));
        }
        let counts: Vec<usize> = wanted.iter().map(|(.., named): &(_, _, _, Vec<_>)| named.len()).collect();
        let share = share(&counts);
        for (origin, member, offers, named) in wanted {
            for (n, (name, offer)) in named.into_iter().enumerate() {
                if n >= share {
                    let why = WhyLeftOut::TooMany(share);
                    catalogue.left_out.push(LeftOut { tool: name.clone(), origin: origin.clone(), why });
                    continue;
                }
                let folded = name.folded();
                let tool = Tool {
                    offer: offer.clone(),
                    denied: deny.iter().find(|pattern| pattern.is_about(&folded)).cloned(),
                    provider: member.provider.clone(),
                    works: !matches!(offers.state, State::Unhealthy { .. }),
                };
                catalogue.tools.insert(name.clone(), tool);
            }
        }
        catalogue
    }

    /// Descriptions for the mesh: of all tools but the denied ones, by name.
    #[must_use]
    pub fn decls(&self) -> Vec<ToolDecl> {
        let offered = self.tools.iter().filter(|(_, tool)| tool.denied.is_none());
        let mut room = CARDS_BYTES_MAX;
        let decl = |(name, tool): (&ToolName, &Tool)| {
            let decl = tool.offer.decl(name, tool.works);
            let len = tool.offer.card.as_ref().map_or(0, |card| card.bytes.len() as u64);
            // Others take no more cards of one device than this, so it would be named in vain.
            match room.checked_sub(len) {
                Some(left) => {
                    room = left;
                    decl
                }
                None => ToolDecl { card: None, ..decl },
            }
        };
        offered.map(decl).collect()
    }

    /// Cards of all tools that are offered.
    pub fn cards(&self) -> impl Iterator<Item = &Card> {
        self.tools.values().filter(|tool| tool.denied.is_none()).filter_map(|tool| tool.offer.card.as_ref())
    }

    /// All that this device forbids itself.
    #[must_use]
    pub fn deny(&self) -> &[ToolPattern] {
        &self.deny
    }

    /// One tool, denied or not.
    #[must_use]
    pub fn get(&self, name: &ToolName) -> Option<&Tool> {
        self.tools.get(name)
    }

    /// Tools that providers offer and this device does not.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }
}

/// The most tools that each provider may have so that all together are at most [`TOOLS_MAX`]: whoever wants less leaves the rest to
/// the others, and one that offers hundreds takes the place of none (max-min fairness).
fn share(wanted: &[usize]) -> usize {
    let fits = |share: usize| wanted.iter().map(|count| share.min(*count)).sum::<usize>() <= TOOLS_MAX;
    // True up to the share, false beyond: found in ten steps.
    let (mut low, mut high) = (0, TOOLS_MAX);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::{Fake, offer};
    use mesh_core::record::Fitness;

    fn tool(name: &str) -> ToolName {
        name.parse().unwrap()
    }

    fn member(origin: Origin, tools: &[&str]) -> Member {
        Member { origin, provider: Arc::new(Fake::new(tools)) }
    }

    #[test]
    fn the_first_of_two_with_a_name_has_it_in_whatever_order_they_are_given() {
        let settings = |name: &str, tools: &[&str]| member(Origin::Settings(tool(name)), tools);
        let mut members =
            vec![settings("b", &["two", "LAMP"]), settings("a", &["lamp", "one"]), member(Origin::Builtin, &["One"])];
        for _ in 0..3 {
            members.rotate_left(1);
            let catalogue = Catalogue::fold(&members, &[]);
            let names: Vec<String> = catalogue.decls().iter().map(|decl| decl.name.to_string()).collect();
            assert_eq!(names, ["One", "lamp", "two"]);
            let told: Vec<String> = catalogue.left_out().iter().map(ToString::to_string).collect();
            assert_eq!(
                told,
                [
                    "the tool `one` of tools.a is not offered: sigil has one of this name, give it another",
                    "the tool `LAMP` of tools.b is not offered: tools.a has one of this name, give it another"
                ]
            );
        }
    }

    #[test]
    fn denied_tools_are_known_but_not_offered() {
        let catalogue = Catalogue::fold(&[member(Origin::Builtin, &["a.x", "b"])], &["a.*".parse().unwrap()]);
        assert_eq!(catalogue.decls(), [offer().decl(&tool("b"), true)]);
        assert!(catalogue.get(&tool("a.x")).unwrap().denied.is_some());
    }

    #[test]
    fn what_does_not_work_now_is_told_and_offered() {
        let fake = Arc::new(Fake::new(&["lamp"]));
        let members = [Member { origin: Origin::Builtin, provider: fake.clone() }];
        let state = || Catalogue::fold(&members, &[]).decls()[0].state;
        assert_eq!(state(), Fitness::READY);
        fake.be(State::Starting { step: "pulling".to_owned() });
        assert_eq!(state(), Fitness::READY, "calls wait for it");
        fake.be(State::Unhealthy { why: "no engine".to_owned() });
        assert_eq!(state(), Fitness::UNHEALTHY);
    }

    #[test]
    fn one_provider_with_hundreds_of_tools_takes_the_place_of_no_other() {
        let names: Vec<String> = (0..2 * TOOLS_MAX).map(|n| format!("t{n:04}")).collect();
        let many = |from: usize, count: usize| names[from..from + count].iter().map(String::as_str).collect::<Vec<_>>();
        let server = |name: &str, tools: &[&str]| member(Origin::Server(name.parse().unwrap()), tools);
        let count = |catalogue: &Catalogue, from: usize, count: usize| {
            many(from, count).iter().filter(|name| catalogue.get(&tool(name)).is_some()).count()
        };
        let big = server("a", &many(0, 560));
        let catalogue = Catalogue::fold(
            &[big.clone(), server("b", &many(600, 10)), member(Origin::Settings(tool("x")), &["x"])],
            &[],
        );
        assert_eq!(
            (catalogue.decls().len(), count(&catalogue, 0, 560), count(&catalogue, 600, 10)),
            (TOOLS_MAX, 501, 10)
        );
        assert!(catalogue.get(&tool("x")).is_some());
        assert_eq!((catalogue.left_out().len(), &catalogue.left_out()[0].why), (59, &WhyLeftOut::TooMany(501)));
        let told = catalogue.left_out()[0].to_string();
        assert!(told.contains("at most 512 tools, and 501 of mcp_servers.a") && told.contains("expose"), "{told}");
        // Two that want all of it have half each, whatever the third is.
        let catalogue = Catalogue::fold(&[big, server("c", &many(600, 400))], &[]);
        assert_eq!((count(&catalogue, 0, 560), count(&catalogue, 600, 400)), (256, 256));
    }
}
