//! Snapshots of what surrounds the mesh: links, strangers on the LAN, devices that await approval.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::ids::{NodeId, PeerId, PublicKey};
use mesh_core::io::Usage;

use crate::mesh::tailnet::{Identity, Node, Tailnet};
use crate::mesh::transport::lan::Discovery;
use crate::mesh::transport::{Address, LinkInfo, Relayed};

/// State of this moment besides [`View`](mesh_core::io::View), published as it changes.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Addresses at which others may reach this device, best first.
    pub addresses: Vec<Address>,
    /// Links with their addresses.
    pub links: Vec<LinkInfo>,
    /// What this device relays for others.
    pub relayed: Relayed,
    /// The tailnet of this machine.
    pub tailnet: Tailnet,
    /// Strangers on the LAN and on the tailnet.
    pub nearby: Vec<Nearby>,
    /// Devices that await approval.
    pub pending: Vec<Pending>,
    /// State of LAN discovery.
    pub discovery: Discovery,
    /// Calls without an ending that this peer knows of.
    pub open_calls: usize,
    /// Longest time that the one loop of the mesh took for one thing, since this process began.
    pub longest_step: Duration,
    /// The device that we ask to let us join, if any.
    pub asking_to_join: Option<PeerId>,
    /// Amounts that fill the memory and the log of this peer, by whom.
    pub usage: Usage,
}

/// A stranger seen on the LAN. Nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearby {
    /// Its identity.
    pub peer: PeerId,
    /// The name that it shows.
    pub name: String,
    /// Addresses of its QUIC door.
    pub addresses: Vec<Address>,
    /// The node of the tailnet that it is on, if it was found there.
    pub node: Option<Box<Node>>,
    /// Wall time.
    pub seen_ms: u64,
}

/// A device that awaits a person's approval: it asks to join, or it was a member and awaits re-approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its key, proven by the link.
    pub key: PublicKey,
    /// Its identity, which people compare.
    pub peer: PeerId,
    /// Name that it asks for.
    pub node_id: NodeId,
    /// "linux", …
    pub platform: String,
    /// Address that it asks from; `None` for one that awaits re-approval.
    pub address: Option<SocketAddr>,
    /// The node of the tailnet that it asks from, if it asks over one.
    pub tailnet: Option<Identity>,
    /// Wall time of its first attempt, or since which it is known to await re-approval.
    pub since_ms: u64,
    /// The reason for which it waits, for people.
    pub why: String,
}
