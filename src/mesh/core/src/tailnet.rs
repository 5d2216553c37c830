//! Approvals that rest on a tag of a tailnet: whom a tag lets in, and for whom it does not count now. Pure: what tailscaled
//! tells is looked up by the shell.
//!
//! A tag lets in and holds back. It gives nothing that its rule does not say, and takes no device in that an owner removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::ids::PeerId;
use crate::record::{TaggedNode, Tier};

/// Nodes that are remembered: as many as a family's tailnet ever has.
const SEEN_MAX: usize = 1024;

/// A tag that lets devices in, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagRule {
    /// The tag, such as `tag:agent-node`.
    pub tag: String,
    /// Tier of whoever has it: shared or owner.
    pub tier: Tier,
}

/// A node as its tailnet knows it now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Its tags.
    pub tags: Vec<String>,
    /// True if its key has ended.
    pub key_ended: bool,
}

/// A node of a tailnet whose device asks to join.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Domain of its tailnet; empty if none is told.
    pub tailnet: &'a str,
    /// Its stable id.
    pub node: &'a str,
    /// Its tags and key.
    pub state: &'a NodeState,
}

/// Reason for which a tag does not let a device in: a person has to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotByTag {
    /// No tag lets anybody in here.
    NoRule,
    /// It lacks the tag.
    NoTag(String),
    /// The key of its node has ended.
    KeyEnded,
    /// Its tailnet has no name by which it is known again.
    NoTailnet,
    /// Another device belongs for the tag of the same node.
    NodeTaken(PeerId),
}

impl TagRule {
    /// Judges a device that asks. `let_in`: members that belong for a tag.
    ///
    /// # Errors
    /// Why the tag does not let it in.
    pub fn admits<'a>(
        rule: Option<&Self>,
        asker: Asker<'_>,
        let_in: impl IntoIterator<Item = (PeerId, &'a TaggedNode)>,
    ) -> Result<(TaggedNode, Tier), NotByTag> {
        let Self { tag, tier } = rule.ok_or(NotByTag::NoRule)?;
        if !asker.state.tags.contains(tag) {
            return Err(NotByTag::NoTag(tag.clone()));
        }
        if asker.state.key_ended {
            return Err(NotByTag::KeyEnded);
        }
        let (tailnet, node) = (asker.tailnet.to_owned(), asker.node.to_owned());
        let tagged = TaggedNode { tailnet, node, tag: tag.clone() };
        if !tagged.is_within_limits() {
            return Err(NotByTag::NoTailnet);
        }
        // Or one node could fill the mesh with devices.
        let is_asker = |other: &TaggedNode| (&other.tailnet, &other.node) == (&tagged.tailnet, &tagged.node);
        match let_in.into_iter().find(|(_, other)| is_asker(other)) {
            Some((peer, _)) => Err(NotByTag::NodeTaken(peer)),
            None => Ok((tagged, *tier)),
        }
    }
}

/// Reason for which an approval that rests on a tag does not count for calls now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Untagged {
    /// The node has the tag no more.
    NoTag,
    /// The key of the node has ended.
    KeyEnded,
    /// The node is not in the tailnet any more.
    NoNode,
}

impl Untagged {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoTag => "tag-lost",
            Self::KeyEnded => "key-expired",
            Self::NoNode => "node-gone",
        }
    }

    /// What is the matter with the node, for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoTag => "its node of the tailnet has not got the tag any more",
            Self::KeyEnded => "the key of its node of the tailnet has expired",
            Self::NoNode => "its node is not in the tailnet any more",
        }
    }
}

impl fmt::Display for Untagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The nodes of the tailnet that this peer is on, its own among them. A peer is shown those that the access rules of the
/// tailnet let it meet, and no others: that one is not among them says nothing, unless it was before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Netmap {
    /// Domain of the tailnet.
    pub tailnet: String,
    /// By stable id.
    pub nodes: BTreeMap<String, NodeState>,
    /// True if no others are shown.
    pub whole: bool,
    /// Ids of nodes that were among them since this peer started, at most 1,024.
    pub seen: BTreeSet<String>,
}

impl Netmap {
    /// The same, as what comes after `before`.
    #[must_use]
    pub fn after(mut self, before: Option<Self>) -> Self {
        let before = before.filter(|before| before.tailnet == self.tailnet);
        self.seen.extend(before.into_iter().flat_map(|before| before.seen));
        self.seen.extend(self.nodes.keys().cloned());
        while self.seen.len() > SEEN_MAX {
            self.seen.pop_first();
        }
        self
    }

    /// Judges members that belong for a tag. Of a node that this netmap does not know, what was `known` holds on.
    #[must_use]
    pub fn untagged<'a>(
        &self,
        members: impl IntoIterator<Item = (PeerId, &'a TaggedNode, Option<Untagged>)>,
    ) -> BTreeMap<PeerId, Untagged> {
        let judged = |(peer, of, known): (PeerId, &TaggedNode, Option<Untagged>)| {
            Some((peer, if of.tailnet == self.tailnet { self.judge(of, known) } else { known }?))
        };
        members.into_iter().filter_map(judged).collect()
    }

    fn judge(&self, of: &TaggedNode, known: Option<Untagged>) -> Option<Untagged> {
        match self.nodes.get(&of.node) {
            Some(state) if state.key_ended => Some(Untagged::KeyEnded),
            Some(state) => (!state.tags.contains(&of.tag)).then_some(Untagged::NoTag),
            None if self.whole && self.seen.contains(&of.node) => Some(Untagged::NoNode),
            None => known,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = "tag:agent-node";

    fn state(tags: &[&str], key_ended: bool) -> NodeState {
        NodeState { tags: tags.iter().map(ToString::to_string).collect(), key_ended }
    }

    fn of(node: &str) -> TaggedNode {
        TaggedNode { tailnet: "t.example".to_owned(), node: node.to_owned(), tag: AGENT.to_owned() }
    }

    fn asks(tailnet: &str, tags: &[&str], key_ended: bool, others: &[(PeerId, TaggedNode)]) -> Result<Tier, NotByTag> {
        let rule = TagRule { tag: AGENT.to_owned(), tier: Tier::Shared };
        let state = state(tags, key_ended);
        let others = others.iter().map(|(peer, node)| (*peer, node));
        let asker = Asker { tailnet, node: "n1", state: &state };
        TagRule::admits(Some(&rule), asker, others).map(|(node, tier)| {
            assert_eq!(node, of("n1"));
            tier
        })
    }

    #[test]
    fn seed_t2_the_required_tag_lets_in_and_no_other_does() {
        assert_eq!(asks("t.example", &[AGENT, "tag:server"], false, &[]), Ok(Tier::Shared));
        let lacks = || Err(NotByTag::NoTag(AGENT.to_owned()));
        assert_eq!(asks("t.example", &["tag:server"], false, &[]), lacks());
        assert_eq!(asks("t.example", &[], false, &[]), lacks());
        assert_eq!(asks("t.example", &["tag:agent-node-2", "agent-node"], false, &[]), lacks());
    }

    #[test]
    fn seed_t4_a_tag_lets_nobody_in_without_its_rule_key_tailnet_or_for_a_second_device() {
        let state = state(&[AGENT], false);
        let asker = Asker { tailnet: "t.example", node: "n1", state: &state };
        assert_eq!(TagRule::admits(None, asker, []), Err(NotByTag::NoRule));
        assert_eq!(asks("t.example", &[AGENT], true, &[]), Err(NotByTag::KeyEnded));
        assert_eq!(asks("", &[AGENT], false, &[]), Err(NotByTag::NoTailnet));
        let (first, other) = (PeerId([1; 32]), PeerId([2; 32]));
        assert_eq!(asks("t.example", &[AGENT], false, &[(first, of("n2"))]), Ok(Tier::Shared));
        let elsewhere = TaggedNode { tailnet: "u.example".to_owned(), ..of("n1") };
        assert_eq!(asks("t.example", &[AGENT], false, &[(first, elsewhere)]), Ok(Tier::Shared));
        assert_eq!(asks("t.example", &[AGENT], false, &[(other, of("n1"))]), Err(NotByTag::NodeTaken(other)));
    }

    #[test]
    fn a_tag_counts_while_its_node_has_it_and_a_good_key() {
        let peers = [PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32]), PeerId([4; 32]), PeerId([5; 32])];
        let nodes = [("n1", state(&[AGENT], false)), ("n2", state(&["tag:x"], false)), ("n3", state(&[AGENT], true))];
        let nodes = nodes.into_iter().map(|(id, state)| (id.to_owned(), state)).collect();
        let mut netmap = Netmap { tailnet: "t.example".to_owned(), nodes, whole: true, ..Netmap::default() };
        let elsewhere = TaggedNode { tailnet: "u.example".to_owned(), ..of("n9") };
        let let_in = [of("n1"), of("n2"), of("n3"), of("n4"), elsewhere];
        let judged = |netmap: &Netmap, known: Option<Untagged>| -> Vec<Option<Untagged>> {
            let all = netmap.untagged(peers.iter().zip(&let_in).map(|(peer, of)| (*peer, of, known)));
            peers.iter().map(|peer| all.get(peer).copied()).collect()
        };
        let (no_tag, ended) = (Some(Untagged::NoTag), Some(Untagged::KeyEnded));
        // A netmap says nothing of a node that it never showed, nor of another tailnet's.
        assert_eq!(judged(&netmap, None), [None, no_tag, ended, None, None]);
        assert_eq!(judged(&netmap, no_tag), [None, no_tag, ended, no_tag, no_tag]);
        let mut before = netmap.clone();
        before.nodes.insert("n4".to_owned(), state(&[AGENT], false));
        netmap = netmap.after(Some(before.after(None)));
        assert_eq!(judged(&netmap, None), [None, no_tag, ended, Some(Untagged::NoNode), None]);
        // Nor does a part of one, or one of another tailnet that came before.
        netmap.whole = false;
        assert_eq!(judged(&netmap, None), [None, no_tag, ended, None, None]);
        netmap.tailnet = "u.example".to_owned();
        let back = Netmap { tailnet: "t.example".to_owned(), whole: true, ..Netmap::default() };
        assert!(back.after(Some(netmap)).seen.is_empty());
    }
}
