//! Finds peers on the local network, and is found there. An mDNS record says that a device with a QUIC door is here,
//! under a name that is drawn anew at each start and in each network, and nothing else; who it is, its key proves when
//! it is dialled. Nothing of it is trusted: the links prove the key of whoever is then linked, or not.
//!
//! Whoever shouts on a network is heard there by everyone. Where a network is not known ([`Show::KnownNetworks`]), this
//! device tells its name to members only, and dials only devices whose record shows that they know the mesh.

use std::path::PathBuf;

use mesh_core::ids::{NodeId, PeerId};
use tokio::sync::mpsc;

use super::address::Address;
use super::links::Links;
use super::networks::Networks;
pub use super::networks::Show;
use crate::mesh::tailnet::Node;
use crate::tasks::TaskGroup;

#[cfg(feature = "lan")]
mod near;
#[cfg(feature = "lan")]
mod record;
#[cfg(feature = "lan")]
mod search;
#[cfg(feature = "lan")]
mod sockets;

/// Settings of LAN discovery.
#[derive(Debug, Clone)]
pub struct LanConfig {
    /// Name to show.
    pub name: NodeId,
    /// Where it may be shown.
    pub show: Show,
    /// File that keeps the known networks.
    pub networks: PathBuf,
    /// Owner of the task; it ends when the group stops.
    pub tasks: TaskGroup,
}

/// State of LAN discovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Discovery {
    /// It goes on, or will at once.
    #[default]
    Working,
    /// Whoever set up this device wants none.
    Off,
    /// It does not work just now, and why.
    Trouble(String),
}

/// An event of LAN discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LanEvent {
    /// A peer is near; or it has another name or other addresses now.
    Discovered {
        /// Its identity, which it proved at one of the addresses at least.
        peer: PeerId,
        /// The name that it shows, made fit to be a name.
        name: String,
        /// Addresses at which its QUIC endpoint is; 1 to 16.
        addresses: Vec<Address>,
        /// The node of the tailnet that it is on, if it was found there: it proved its identity at the address of that.
        node: Option<Box<Node>>,
    },
    /// Nothing came from it for minutes.
    Gone(PeerId),
    /// Discovery has another state. In trouble it goes on trying; the mesh does not need it.
    State(Discovery),
}

/// Starts to look around and to be seen. `events` may be small: the search waits while it is full.
pub fn start(config: LanConfig, links: &Links, events: mpsc::Sender<LanEvent>) {
    let LanConfig { name, show, networks, tasks } = config;
    let shared = links.shared.clone();
    shared.lan.open(name, Networks::open(networks, show));
    #[cfg(feature = "lan")]
    tasks.clone().spawn(async move {
        tasks.stopping().run_until_cancelled(Box::pin(search::run(shared, events))).await;
    });
    #[cfg(not(feature = "lan"))]
    tasks.spawn(async move {
        let _ = events.send(LanEvent::State(Discovery::Trouble("built without lan".to_owned()))).await;
    });
}
