//! Which devices and tools belong to which workspace, by bindings alone.

use std::collections::BTreeMap;

use super::records::Binding;
use crate::glob::{NodePattern, ToolPattern};
use crate::ids::{NodeId, ToolName};
use crate::people::WorkspaceId;

/// Bindings of workspaces, for whoever asks what a workspace holds. Who may use what of it is [`super::View::decide`]'s.
///
/// A workspace without a binding holds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspaceBinder {
    bindings: BTreeMap<WorkspaceId, Vec<Binding>>,
}

impl WorkspaceBinder {
    /// Makes all tools of these devices part of a workspace, also those that they offer later.
    pub fn bind(&mut self, workspace: WorkspaceId, nodes: Vec<NodePattern>) {
        self.bindings.entry(workspace).or_default().push(Binding { nodes: Some(nodes), tools: None });
    }

    /// Makes some tools of these devices part of a workspace.
    pub fn bind_tools(&mut self, workspace: WorkspaceId, nodes: Vec<NodePattern>, tools: Vec<ToolPattern>) {
        self.bindings.entry(workspace).or_default().push(Binding { nodes: Some(nodes), tools: Some(tools) });
    }

    /// True if something of this device could belong to the workspace.
    #[must_use]
    pub fn is_allowed(&self, workspace: &WorkspaceId, node: &NodeId) -> bool {
        self.of(workspace).any(|binding| binding.reaches(node.as_str()))
    }

    /// Of the tools that a device offers, those that belong to the workspace, as `node:DEVICE:TOOL`, in their order.
    #[must_use]
    pub fn allowed_tools(&self, workspace: &WorkspaceId, node: &NodeId, offered: &[ToolName]) -> Vec<String> {
        let holds = |tool: &&ToolName| {
            let folded = tool.folded();
            self.of(workspace).any(|binding| binding.holds(node.as_str(), &folded))
        };
        offered.iter().filter(holds).map(|tool| format!("node:{node}:{tool}")).collect()
    }

    fn of(&self, workspace: &WorkspaceId) -> impl Iterator<Item = &Binding> {
        self.bindings.get(workspace).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<T> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn node(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    fn workspace(text: &str) -> WorkspaceId {
        text.parse().unwrap()
    }

    #[test]
    fn seed_w1_each_device_is_allowed_in_its_own_workspace_and_denied_in_the_other() {
        let mut binder = WorkspaceBinder::default();
        binder.bind(workspace("homelab"), all(&["macbook-pro", "homelab-server"]));
        binder.bind(workspace("family"), all(&["iphone-sean", "iphone-wife"]));
        for (own, other, nodes) in [
            ("homelab", "family", ["macbook-pro", "homelab-server"]),
            ("family", "homelab", ["iphone-sean", "iphone-wife"]),
        ] {
            for name in nodes {
                assert!(binder.is_allowed(&workspace(own), &node(name)), "{name} in {own}");
                assert!(!binder.is_allowed(&workspace(other), &node(name)), "{name} in {other}");
            }
        }
        assert!(!binder.is_allowed(&workspace("empty"), &node("macbook-pro")));
    }

    #[test]
    fn seed_w2_a_pattern_allows_the_devices_that_it_selects() {
        let mut binder = WorkspaceBinder::default();
        binder.bind(workspace("family"), all(&["iphone-*"]));
        assert!(binder.is_allowed(&workspace("family"), &node("iphone-sean")));
        assert!(binder.is_allowed(&workspace("family"), &node("iphone-wife")));
        assert!(!binder.is_allowed(&workspace("family"), &node("macbook-pro")));
    }

    #[test]
    fn seed_w3_a_binding_with_tools_holds_those_alone() {
        let mut binder = WorkspaceBinder::default();
        binder.bind_tools(workspace("family"), all(&["iphone-*"]), all(&["camera", "location"]));
        let offered = all(&["filesystem", "camera", "location"]);
        let allowed = binder.allowed_tools(&workspace("family"), &node("iphone-sean"), &offered);
        assert_eq!(allowed, ["node:iphone-sean:camera", "node:iphone-sean:location"]);
        assert!(binder.allowed_tools(&workspace("family"), &node("macbook-pro"), &offered).is_empty());
        assert!(binder.allowed_tools(&workspace("homelab"), &node("iphone-sean"), &offered).is_empty());
    }

    #[test]
    fn tools_of_some_devices_are_held_by_their_scoped_pattern_and_empty_lists_hold_nothing() {
        let mut binder = WorkspaceBinder::default();
        binder.bind_tools(workspace("prod"), all(&["*"]), all(&["node:app-*:deploy.*"]));
        binder.bind_tools(workspace("none"), all(&["*"]), Vec::new());
        binder.bind(workspace("none"), Vec::new());
        let offered = all(&["Deploy.App", "db.query"]);
        assert_eq!(binder.allowed_tools(&workspace("prod"), &node("app-1"), &offered), ["node:app-1:Deploy.App"]);
        assert!(binder.is_allowed(&workspace("prod"), &node("app-1")));
        assert!(!binder.is_allowed(&workspace("prod"), &node("db-1")));
        assert!(!binder.is_allowed(&workspace("none"), &node("app-1")));
    }
}
