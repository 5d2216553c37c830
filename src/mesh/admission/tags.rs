//! Devices that come over the tailnet: whom its tags let in, what people are told of the others, and which members' tags do
//! not count now.

use std::collections::BTreeMap;

use mesh_core::ids::PeerId;
use mesh_core::io::View;
use mesh_core::record::{TaggedNode, Tier};
use mesh_core::tailnet::{Asker, Netmap, NotByTag, TagRule, Untagged};

use crate::mesh::snapshot::Nearby;
use crate::mesh::tailnet::{Identity, TailscaleAuth};

/// The rule of this device, and what its tailnet says.
#[derive(Debug, Default)]
pub(super) struct Tags {
    rule: Option<TagRule>,
    /// `None`: nothing was told yet.
    netmap: Option<Netmap>,
}

impl Tags {
    /// Sets whom a tag lets in at this device.
    pub(super) fn set_rule(&mut self, rule: Option<TagRule>) {
        self.rule = rule;
    }

    /// Notes what the tailnet says now.
    pub(super) fn note(&mut self, netmap: Netmap) {
        self.netmap = Some(netmap.after(self.netmap.take()));
    }

    /// True if a device nearby is on a node of our tailnet that has the tag which lets devices in here, by what the tailnet
    /// says now.
    pub(super) fn vouch_for(&self, one: &Nearby) -> bool {
        let (Some(TagRule { tag, .. }), Some(node)) = (&self.rule, &one.node) else { return false };
        let auth = TailscaleAuth { required_tag: Some(tag.clone()) };
        let netmap = self.netmap.as_ref().filter(|netmap| netmap.tailnet == node.tailnet && !netmap.tailnet.is_empty());
        let Some(netmap) = netmap else { return false };
        match netmap.nodes.get(&node.stable_id) {
            Some(now) => !now.key_ended && now.tags.contains(tag),
            // A node in this program is not told of all: then what it said of this one when it came.
            None => !netmap.whole && auth.check_tag(node, one.seen_ms).is_ok(),
        }
    }

    /// The members whose tag does not count now, if `view` does not say so already.
    pub(super) fn news(&self, view: &View) -> Option<BTreeMap<PeerId, Untagged>> {
        let members = view.nodes.iter().filter_map(|node| Some((node.peer, node.of.as_ref()?, node.untagged)));
        let now = self.netmap.as_ref()?.untagged(members);
        let known = view.nodes.iter().filter_map(|node| Some((node.peer, node.untagged?)));
        (!now.iter().map(|(peer, why)| (*peer, *why)).eq(known)).then_some(now)
    }

    /// Judges a device that asks to join from this node of the tailnet.
    ///
    /// # Errors
    /// Why no tag lets it in, for people; empty where none is asked for.
    pub(super) fn admit(&self, node: &Identity, view: &View, now_ms: u64) -> Result<(TaggedNode, Tier), String> {
        let state = node.node.state(now_ms);
        let asker = Asker { tailnet: &node.node.tailnet, node: &node.node.stable_id, state: &state };
        let let_in = view.nodes.iter().filter_map(|node| Some((node.peer, node.of.as_ref()?)));
        let admitted = TagRule::admits(self.rule.as_ref(), asker, let_in).map_err(|why| match why {
            NotByTag::NoRule => String::new(),
            NotByTag::NoTag(tag) => format!("without `{tag}`"),
            NotByTag::KeyEnded => "whose key has expired".to_owned(),
            NotByTag::NoTailnet => "whose tailnet tells no name".to_owned(),
            NotByTag::NodeTaken(peer) => {
                let name = view.by_peer(&peer).map_or_else(|| peer.short(), |node| node.node_id.to_string());
                format!("from which `{name}` was let in already")
            }
        })?;
        let is_owner = view.by_peer(&view.me).is_some_and(|own| own.tier == Tier::Owner);
        if is_owner { Ok(admitted) } else { Err("and this device may let nobody in".to_owned()) }
    }
}

/// Where a device asks from, for people.
pub(super) fn asks(node: &Identity, why: &str) -> String {
    let Identity { node, login } = node;
    let of = login.as_ref().map_or_else(String::new, |login| format!(" of {login}"));
    let gap = if why.is_empty() { "" } else { ", " };
    format!("it asks to join over the tailnet from `{}`{of}{gap}{why}", node.name)
}
