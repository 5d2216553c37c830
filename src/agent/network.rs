//! Links to other devices, and the search for strangers on the local network.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mesh_core::ids::NodeId;
use tokio::sync::mpsc;

use super::error::AgentError;
use super::ports::{self, Ports, Wanted};
use crate::config::{self, Config, LanDiscovery, QUIC_PORT_DEFAULT, TailnetMode};
use crate::mesh::blobs::BlobStore;
use crate::mesh::identity::DeviceKey;
use crate::mesh::tailnet::embedded::ReadConfig;
use crate::mesh::tailnet::{AuthKey, Device, LocalApi, Mode, TailscaleAuth, TailscaleConfig};
use crate::mesh::transport::embedded::{self, EmbeddedConfig};
use crate::mesh::transport::lan::{self, Discovery, LanConfig, LanEvent, Show};
use crate::mesh::transport::tailnet::{self, TailnetConfig};
use crate::mesh::transport::{LinkEvent, Links, LinksConfig, LinksError, RelayConfig, ServiceId};
use crate::secrets::Secrets;
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
/// File of a home that keeps the keys of its own node of a tailnet.
const TAILNET_STATE: &str = "tailnet.state";

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
    secrets: &Secrets,
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
    open_tailnet(config, name, key, secrets, tasks, &links, &lan_tx)?;
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

/// Uses a tailnet as the settings say: by the tailscaled of this machine, by a node in this program, or by what there is.
fn open_tailnet(
    config: &Config,
    name: &NodeId,
    key: &DeviceKey,
    secrets: &Secrets,
    tasks: &TaskGroup,
    links: &Links,
    events: &mpsc::Sender<LanEvent>,
) -> Result<(), LinksError> {
    let mode = match config.tailnet.mode {
        TailnetMode::Off => return Ok(()),
        TailnetMode::Host => Mode::Host,
        TailnetMode::Embedded => Mode::Embedded,
        TailnetMode::Auto => Mode::Auto,
    };
    links.set_tailnet_mode(mode);
    if mode != Mode::Embedded {
        let api = LocalApi::new(config.tailnet.socket.clone());
        let tailnet = TailnetConfig { api, key: key.clone(), tasks: tasks.clone() };
        tailnet::start(tailnet, links, events.clone())?;
    }
    if mode != Mode::Host {
        #[cfg(feature = "tailnet")]
        let device: Option<Arc<dyn Device>> = Some(Arc::new(crate::mesh::tailnet::device::Embedded));
        #[cfg(not(feature = "tailnet"))]
        let device: Option<Arc<dyn Device>> = None;
        let required_tag = config.tailnet.tag_rule.as_ref().map(|rule| rule.tag.clone());
        let embedded = EmbeddedConfig {
            device,
            read: reader(config, name, secrets),
            auto: mode == Mode::Auto,
            auth: TailscaleAuth { required_tag },
            key: key.clone(),
            tasks: tasks.clone(),
        };
        embedded::start(embedded, links, events.clone())?;
    }
    Ok(())
}

/// Reads the settings of such a node, and its key, whenever one is made.
fn reader(config: &Config, name: &NodeId, secrets: &Secrets) -> ReadConfig {
    const KEY: &str = "auth_key";
    let hostname = config.tailnet.hostname.clone().unwrap_or_else(|| config::hostname_of(name.as_str()));
    let (control_url, state_file) = (config.tailnet.control_url.clone(), config.home.join(TAILNET_STATE));
    let place: BTreeMap<_, _> = config.tailnet.auth_key.iter().map(|place| (KEY.to_owned(), place.clone())).collect();
    let secrets = secrets.clone();
    Arc::new(move || {
        let (secrets, place) = (secrets.clone(), place.clone());
        let (hostname, control_url, state_file) = (hostname.clone(), control_url.clone(), state_file.clone());
        Box::pin(async move {
            let found = secrets.fetch(&place).await;
            let mut found = found.map_err(|error| format!("its auth key cannot be read: {error}"))?;
            let auth_key = found.values.remove(KEY).map(AuthKey::new);
            Ok(TailscaleConfig { hostname, auth_key, control_url, state_file })
        })
    })
}
