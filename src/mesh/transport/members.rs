//! The peers that may be linked.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::ids::{PeerId, PublicKey};
use mesh_core::record::TaggedNode;

use super::address::Address;
use super::stream::ServiceId;
use crate::mesh::tailnet::Node;

/// An approved peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its key; its hash is the peer id.
    pub key: PublicKey,
    /// Addresses at which it may be, best first. The first 40 that can be dialled here are tried.
    pub addresses: Vec<Address>,
    /// Services that its directory record offers. `None` while there is no record: then it may be asked, and refuses
    /// what it does not know.
    pub services: Option<BTreeSet<ServiceId>>,
    /// Peers by which it is wanted to be linked while it is not linked directly, best first.
    pub relays: Vec<PeerId>,
    /// It was revoked, and may only come to hear so: never dialled; its link takes frames to it and from it only
    /// entries (a few frames of them), and is closed 1 s after it came up, or after its peer was revoked. The same
    /// holds for everyone when we were.
    pub leaving: bool,
    /// It is of tier owner. What others send is read at a pace.
    pub owner: bool,
    /// The node of a tailnet that its approval rests on, if it rests on a tag. By a link over that tailnet it comes from there.
    pub node: Option<TaggedNode>,
}

impl Member {
    /// True if it may come from this node: it is bound to none of its tailnet, or to this.
    pub(super) fn may_come_from(&self, node: &Node) -> bool {
        self.node.as_ref().is_none_or(|of| of.tailnet != node.tailnet || of.node == node.stable_id)
    }

    /// One that was revoked.
    #[must_use]
    pub fn leaving(key: PublicKey) -> Self {
        Self { key, addresses: Vec::new(), services: None, relays: Vec::new(), leaving: true, owner: false, node: None }
    }
}

/// All approved peers, and those that were revoked and should learn it.
pub type Members = BTreeMap<PeerId, Member>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_member_comes_from_its_node_alone() {
        let of = |tailnet: &str, node: &str| TaggedNode {
            tailnet: tailnet.to_owned(),
            node: node.to_owned(),
            tag: "tag:agent-node".to_owned(),
        };
        let member = |node| Member { node, leaving: false, ..Member::leaving(PublicKey([0; 32])) };
        let from = Node { tailnet: "t.example".to_owned(), stable_id: "n1".to_owned(), ..Node::default() };
        assert!(member(None).may_come_from(&from));
        assert!(member(Some(of("t.example", "n1"))).may_come_from(&from));
        assert!(!member(Some(of("t.example", "n2"))).may_come_from(&from));
        // What another tailnet calls its nodes says nothing here.
        assert!(member(Some(of("u.example", "n2"))).may_come_from(&from));
    }
}
