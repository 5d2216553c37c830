//! Reachability: addresses of the other members for the links, and our own record for them.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::ids::{NodeId, PeerId, PublicKey};
use mesh_core::io::View;
use mesh_core::limits;
use mesh_core::policy::ToolPattern;
use mesh_core::record::{Directory, Tier, ToolDecl};

use crate::mesh::transport::{Address, Member, Members, ServiceId};

/// Addresses that were seen on the LAN or in an invite, and what our own record says besides addresses.
#[derive(Debug)]
pub(super) struct Reach {
    seen_at: BTreeMap<PeerId, Vec<Address>>,
    own: Directory,
}

impl Reach {
    /// Creates one. `own`: our record, without addresses.
    pub(super) fn new(own: Directory) -> Self {
        Self { seen_at: BTreeMap::new(), own }
    }

    /// Replaces the addresses at which a peer was seen. At most [`limits::PEERS_MAX`] peers are kept.
    pub(super) fn note(&mut self, peer: PeerId, addresses: Vec<Address>) {
        self.seen_at.insert(peer, addresses);
        if self.seen_at.len() > limits::PEERS_MAX {
            self.seen_at.pop_first();
        }
    }

    /// Puts addresses before those at which a peer was seen.
    pub(super) fn note_first(&mut self, peer: PeerId, mut addresses: Vec<Address>) {
        let known = self.seen_at.remove(&peer).unwrap_or_default();
        addresses.extend(known);
        addresses.truncate(limits::ADDRESSES_MAX);
        self.note(peer, addresses);
    }

    /// Replaces the tools that our own record offers, and what it says that this device forbids itself.
    pub(super) fn set_offer(&mut self, tools: Vec<ToolDecl>, deny: Vec<ToolPattern>) {
        self.own.tools = tools;
        self.own.deny = deny;
    }

    /// Replaces the name that we have given ourselves in the present mesh.
    pub(super) fn set_name(&mut self, name: Option<NodeId>) {
        self.own.name = name;
    }

    /// Our directory record with these addresses.
    pub(super) fn own_record(&self, addresses: &[Address]) -> Directory {
        let addresses = addresses.iter().take(limits::ADDRESSES_MAX).map(ToString::to_string).collect();
        Directory { addresses, ..self.own.clone() }
    }

    /// The peers that may be linked: members, and those that were revoked and should learn it.
    pub(super) fn members(&self, view: &View, revoked: Vec<(PeerId, PublicKey)>) -> Members {
        let mut members = Members::new();
        for node in view.nodes.iter().filter(|node| node.peer != view.me) {
            // Revoked ourselves, we dial nobody; but who comes may hear why, and tell us that we are welcome again.
            if view.revoked {
                members.insert(node.peer, Member::leaving(node.key));
                continue;
            }
            let mut addresses = self.seen_at.get(&node.peer).cloned().unwrap_or_default();
            let told = node.directory.iter().flat_map(|directory| &directory.addresses);
            addresses.extend(told.map(|text| Address::from(text.as_str())));
            let mut once = BTreeSet::new();
            addresses.retain(|address| once.insert(address.clone()));
            let services =
                node.directory.as_ref().map(|record| record.services.iter().copied().map(ServiceId).collect());
            let owner = node.tier == Tier::Owner;
            let relays = view.relays.get(&node.peer).cloned().unwrap_or_default();
            let (key, of) = (node.key, node.of.clone());
            members.insert(node.peer, Member { key, addresses, services, relays, leaving: false, owner, node: of });
        }
        for (peer, key) in revoked.into_iter().filter(|(peer, _)| *peer != view.me) {
            members.entry(peer).or_insert(Member::leaving(key));
        }
        members
    }
}
