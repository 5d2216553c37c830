//! Links to other devices, and the search for strangers on the local network.

use std::net::{Ipv6Addr, SocketAddr};

use mesh_core::ids::NodeId;
use tokio::sync::mpsc;

use super::error::AgentError;
use super::ports::{self, Ports, Wanted};
use crate::config::{Config, LanDiscovery, QUIC_PORT_DEFAULT, TailnetMode};
use crate::mesh::blobs::BlobStore;
use crate::mesh::identity::DeviceKey;
use crate::mesh::tailnet::LocalApi;
use crate::mesh::transport::lan::{self, Discovery, LanConfig, LanEvent, Show};
use crate::mesh::transport::tailnet::{self, TailnetConfig};
use crate::mesh::transport::{LinkEvent, Links, LinksConfig, LinksError, RelayConfig, ServiceId};
use crate::tasks::TaskGroup;

/// Events of links that may wait for the mesh; then the links wait.
const LINK_EVENTS: usize = 1024;
/// Bytes in a second that are relayed to one device: what a fast local network carries, so that a relay is never asked for
/// more than its own links give.
const RELAYED_BYTES_PER_S: u64 = 64 * 1024 * 1024;
/// Events of LAN discovery that may wait for the mesh.
const LAN_EVENTS: usize = 64;

/// File of a home that keeps the networks on which strangers may learn its name.
const KNOWN_NETWORKS: &str = "networks";

/// The ways to other devices, open.
pub(super) struct Network {
    pub(super) links: Links,
    pub(super) link_events: mpsc::Receiver<LinkEvent>,
    pub(super) lan_events: mpsc::Receiver<LanEvent>,
}

/// Opens the UDP port, and starts LAN discovery under `name` unless the settings switch it off.
pub(super) async fn open(
    config: &Config,
    kept: Ports,
    name: &NodeId,
    key: &DeviceKey,
    blobs: &BlobStore,
    tasks: &TaskGroup,
) -> Result<Network, AgentError> {
    let (link_tx, link_events) = mpsc::channel(LINK_EVENTS);
    let start = async |port: u16| {
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let links = LinksConfig {
            key: key.clone(),
            listen,
            services: [ServiceId::NODE, ServiceId::MEMORY].into(),
            relay: RelayConfig { offers: config.relays(), uses: config.relay.used, bytes_per_s: RELAYED_BYTES_PER_S },
            blobs: blobs.clone(),
            tasks: tasks.clone(),
        };
        Links::start(links, link_tx.clone())
    };
    let is_taken = |error: &LinksError| matches!(error, LinksError::PortTaken { .. });
    let wanted = Wanted { what: "quic", set: config.listen.quic_port, kept: kept.quic, default: QUIC_PORT_DEFAULT };
    let links = ports::open(wanted, start, is_taken).await?;

    let (lan_tx, lan_events) = mpsc::channel(LAN_EVENTS);
    if config.tailnet.mode != TailnetMode::Off {
        let api = LocalApi::new(config.tailnet.socket.clone());
        let wanted = config.tailnet.mode == TailnetMode::Host;
        let tailnet = TailnetConfig { api, wanted, key: key.clone(), tasks: tasks.clone() };
        tailnet::start(tailnet, &links, lan_tx.clone())?;
    }
    let show = match config.discovery.lan {
        LanDiscovery::EveryNetwork => Some(Show::EveryNetwork),
        LanDiscovery::KnownNetworks => Some(Show::KnownNetworks),
        LanDiscovery::Off => None,
    };
    if let Some(show) = show {
        let (name, networks, tasks) = (name.clone(), config.home.join(KNOWN_NETWORKS), tasks.clone());
        lan::start(LanConfig { name, show, networks, tasks }, &links, lan_tx);
    } else {
        let _ = lan_tx.try_send(LanEvent::State(Discovery::Off));
    }
    Ok(Network { links, link_events, lan_events })
}
