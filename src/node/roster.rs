//! The providers of this device as people see them.

use std::collections::BTreeMap;

use mesh_core::ids::ToolName;

use super::catalogue::{Catalogue, Member, Origin};
use super::provider::{About, Absent, State};
use crate::mesh::clock;

/// A provider in force, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its origin, whose text is its name.
    pub origin: Origin,
    /// Its facts; of what is absent also the tools that another provider has.
    pub about: About,
    /// Its state.
    pub state: State,
    /// Wall time since when it is in that.
    pub since_ms: u64,
    /// Its tools that this device offers, or forbids.
    pub tools: Vec<ToolName>,
}

/// All providers in force, by origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster(BTreeMap<Origin, Listed>);

impl Roster {
    /// Those of the members that a catalogue was folded of; states that stay keep their time.
    #[must_use]
    pub fn of(members: &[Member], catalogue: &Catalogue, before: &Self) -> Self {
        let now_ms = clock::now().wall_ms;
        let listed = |member: &Member| {
            let origin = member.origin.clone();
            let offers = member.provider.offers().borrow().clone();
            let mut about = member.provider.about();
            let left_out = catalogue.left_out().iter().filter(|left_out| left_out.origin == origin);
            about.absent.extend(left_out.map(|left_out| Absent {
                tool: left_out.tool.to_string(),
                why: left_out.to_string(),
                fix: "give it another name, or take the other away".to_owned(),
            }));
            let is_left_out = |name: &ToolName| {
                catalogue.left_out().iter().any(|left_out| left_out.origin == origin && left_out.tool == *name)
            };
            let tools = offers.tools.keys().filter(|name| !is_left_out(name)).cloned().collect();
            let same = before.0.get(&origin).filter(|before| before.state == offers.state);
            let since_ms = same.map_or(now_ms, |before| before.since_ms);
            (origin.clone(), Listed { origin, about, state: offers.state.clone(), since_ms, tools })
        };
        Self(members.iter().map(listed).collect())
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Listed> {
        self.0.values()
    }

    /// The one that is called so.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Listed> {
        self.0.values().find(|listed| listed.origin.to_string() == name)
    }
}
