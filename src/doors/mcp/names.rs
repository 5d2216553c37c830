//! Names under which MCP clients see tools: `<device>__<tool>`, in letters, digits and underscores alone, since that is what all of
//! them take. Pure.
//!
//! A device is called after the name by which it was first let in, whatever it is called now: clients keep lists of tools for
//! long, and a rename must not take the names away under them. Which tool a name means is looked up in a table, never read from
//! the name itself. A device that is no owner's, and whose name no owner has confirmed, has no plain name: it may be that of one that is
//! gone, which clients still know.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use data_encoding::BASE32_NOPAD;
use mesh_core::ids::{Hash, PeerId, ToolName};
use mesh_core::io::{NodeView, View};
use mesh_core::record::Tier;

/// Longest name of a device.
const NODE_MAX: usize = 16;
/// Longest name of a tool. Both, and `mcp__sigil__`, which some clients put before them, stay below the 60 characters that the
/// strictest of them takes.
const TOOL_MAX: usize = 28;
/// Characters of a hash, and the underscore before it, at the end of a name that would mean two things, or is too long.
const MARK: usize = 6;
/// Between the two.
const BETWEEN: &str = "__";
/// In place of a device: whichever has the tool.
pub(super) const ANY: &str = "any";
/// Names that are no devices'.
const RESERVED: [&str; 3] = [ANY, "sigil", "memory"];

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Meant {
    /// The device; `None`: whichever has it.
    pub(super) peer: Option<PeerId>,
    /// The tool.
    pub(super) tool: ToolName,
}

/// The names of all tools of a mesh.
#[derive(Debug, Default)]
pub(super) struct Names {
    meanings: BTreeMap<String, Meant>,
    tools: BTreeMap<(PeerId, ToolName), String>,
    nodes: BTreeMap<PeerId, String>,
}

impl Names {
    /// Those of all members, whoever may use what: a name does not depend on who asks.
    pub(super) fn of(view: &View) -> Self {
        let mut members: Vec<&NodeView> = view.nodes.iter().collect();
        // Who was let in first has the plain name.
        members.sort_by_key(|node| (node.since_ms, node.peer));
        let mut names = Self::default();
        let mut taken: BTreeMap<String, PeerId> = RESERVED.map(|name| (name.to_owned(), view.me)).into();
        for node in &members {
            let long = |salt: u32| {
                marked(node.first_name.as_str(), NODE_MAX, &[&node.peer.0[..], &salt.to_be_bytes()].concat())
            };
            // A name that a device of somebody else has given itself may have been another one's before, which clients still know.
            let is_known = node.confirmed || node.tier == Tier::Owner;
            let plain = if is_known { fold(node.first_name.as_str(), NODE_MAX) } else { None };
            let name = claim(&mut taken, plain, long, node.peer);
            names.nodes.insert(node.peer, name);
        }
        for node in &members {
            names.add_tools(node, &long_of(node));
        }
        names
    }

    fn add_tools(&mut self, node: &NodeView, long: &str) {
        let Some(own) = self.nodes.get(&node.peer).cloned() else { return };
        let mut tools: Vec<&ToolName> = node.tools().iter().map(|tool| &tool.name).collect();
        tools.sort();
        let mut taken: BTreeMap<String, ToolName> = BTreeMap::new();
        for tool in tools {
            let mark = |salt: u32| {
                marked(
                    tool.as_str(),
                    TOOL_MAX,
                    &[&node.peer.0[..], tool.as_str().as_bytes(), &salt.to_be_bytes()].concat(),
                )
            };
            let short = claim(&mut taken, fold(tool.as_str(), TOOL_MAX), mark, tool.clone());
            let (name, meant) = (format!("{own}{BETWEEN}{short}"), Meant { peer: Some(node.peer), tool: tool.clone() });
            self.meanings.insert(name.clone(), meant.clone());
            self.tools.insert((node.peer, tool.clone()), name);
            // Should the device ever lose its plain name to another, it is found by this one all the same.
            self.meanings.entry(format!("{long}{BETWEEN}{short}")).or_insert(meant);
        }
    }

    /// The name of a device.
    pub(super) fn node(&self, peer: &PeerId) -> &str {
        self.nodes.get(peer).map_or("", String::as_str)
    }

    /// The name of a tool of a device; empty for one that there is not.
    pub(super) fn tool(&self, peer: &PeerId, tool: &ToolName) -> &str {
        self.tools.get(&(*peer, tool.clone())).map_or("", String::as_str)
    }

    /// What a name means.
    pub(super) fn meant(&self, name: &str) -> Option<Meant> {
        if let Some(meant) = self.meanings.get(name) {
            return Some(meant.clone());
        }
        let wanted = name.strip_prefix(ANY)?.strip_prefix(BETWEEN)?;
        let mut all = self.tools.keys().filter(|(_, tool)| any_name(tool).is_some_and(|any| any.ends_with(wanted)));
        let (_, tool) = all.find(|(_, tool)| any_name(tool).as_deref() == Some(name))?;
        Some(Meant { peer: None, tool: tool.clone() })
    }
}

/// The name of a tool of whichever device has it; `None`: its own is too long for that.
pub(super) fn any_name(tool: &ToolName) -> Option<String> {
    fold(tool.as_str(), TOOL_MAX).map(|tool| format!("{ANY}{BETWEEN}{tool}"))
}

fn long_of(node: &NodeView) -> String {
    marked(node.first_name.as_str(), NODE_MAX, &[&node.peer.0[..], &0u32.to_be_bytes()].concat())
}

/// Takes the plain name if it is free, else the first one with a mark that is.
fn claim<T: Clone>(
    taken: &mut BTreeMap<String, T>,
    plain: Option<String>,
    marked: impl Fn(u32) -> String,
    by: T,
) -> String {
    let wanted = plain.into_iter().chain((0..).map(marked));
    for name in wanted {
        if let Entry::Vacant(free) = taken.entry(name.clone()) {
            free.insert(by);
            return name;
        }
    }
    String::new()
}

/// The text in small letters, digits and single underscores; `None` if that is too long, or nothing.
fn fold(text: &str, max: usize) -> Option<String> {
    let folded = folded(text);
    (!folded.is_empty() && folded.len() <= max).then_some(folded)
}

fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() {
            folded.push(letter.to_ascii_lowercase());
        } else if !folded.is_empty() && !folded.ends_with('_') {
            folded.push('_');
        }
    }
    folded.truncate(folded.trim_end_matches('_').len());
    folded
}

/// As much of the text as there is room for, and five characters of the hash of what it is of.
fn marked(text: &str, max: usize, of: &[u8]) -> String {
    let mut short: String = folded(text).chars().take(max - MARK).collect();
    short.truncate(short.trim_end_matches('_').len());
    if short.is_empty() {
        short.push('x');
    }
    let hash = BASE32_NOPAD.encode(&Hash::of(of).0).to_ascii_lowercase();
    format!("{short}_{}", hash.get(..MARK - 1).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_those_that_every_client_takes() {
        assert_eq!(fold("Kitchen-Pi", NODE_MAX).as_deref(), Some("kitchen_pi"));
        assert_eq!(fold("files.list", TOOL_MAX).as_deref(), Some("files_list"));
        assert_eq!((fold("a-name-that-is-too-long", NODE_MAX), fold("..", NODE_MAX)), (None, None));
        assert_eq!(any_name(&"files.list".parse().unwrap()).as_deref(), Some("any__files_list"));
        let long = marked("a-name-that-is-too-long", NODE_MAX, b"x");
        assert!(long.len() == NODE_MAX && long.starts_with("a_name_tha_"), "{long}");
    }

    #[test]
    fn the_first_has_the_plain_name_and_no_two_have_one() {
        let mut taken = BTreeMap::new();
        let mut claimed = |text: &str| {
            claim(
                &mut taken,
                fold(text, NODE_MAX),
                |salt| marked(text, NODE_MAX, format!("{text} {salt}").as_bytes()),
                0_u8,
            )
        };
        assert_eq!(claimed("hall-cam"), "hall_cam");
        assert!(claimed("hall.cam").starts_with("hall_cam_"));
        let all: Vec<String> = (0..2_000).map(|n| claimed(&format!("a-long-name-of-number-{n}"))).collect();
        let different: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(different.len(), 2_000);
    }

    proptest! {
        #[test]
        fn any_text_becomes_a_name(text in ".{0,60}") {
            let name = fold(&text, TOOL_MAX).unwrap_or_else(|| marked(&text, TOOL_MAX, text.as_bytes()));
            prop_assert!((1..=TOOL_MAX).contains(&name.len()), "{}", name);
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{}", name);
        }
    }
}
