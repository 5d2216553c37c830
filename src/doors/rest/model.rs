//! What the API says: JSON shapes and how they come from the mesh's own types. Names as architecture.md §10.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use mesh_core::entry::{Effect, Tier, ToolDecl};
use mesh_core::ids::{NodeId, PeerId};
use mesh_core::io::{Hold, NodeView, View};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::mesh::transport::Address;
use crate::mesh::{LinkInfo, Nearby, Pending, Surroundings};
use crate::status::{ErrorCode, Fault};

/// A page of a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Page<T> {
    /// In the order of the route.
    pub items: Vec<T>,
    /// Give it as `cursor` to get the next page; null at the end.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that fits on one page.
    #[must_use]
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}

/// Wall time as RFC 3339; a time that no calendar has becomes 1970.
#[must_use]
pub fn time(ms: u64) -> String {
    crate::mesh::clock::rfc3339(ms)
}

/// The wall clock, milliseconds since 1970; for people only.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// How far a peer is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TierName {
    /// Named tools only.
    Ephemeral,
    /// Tools within workspaces.
    Shared,
    /// Everything.
    Owner,
}

impl From<Tier> for TierName {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Ephemeral => Self::Ephemeral,
            Tier::Shared => Self::Shared,
            Tier::Owner => Self::Owner,
        }
    }
}

impl From<TierName> for Tier {
    fn from(tier: TierName) -> Self {
        match tier {
            TierName::Ephemeral => Self::Ephemeral,
            TierName::Shared => Self::Shared,
            TierName::Owner => Self::Owner,
        }
    }
}

/// What running a tool again means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EffectName {
    /// Changes nothing.
    None,
    /// Twice is as good as once.
    Idempotent,
    /// Never more than one attempt.
    Once,
}

impl From<Effect> for EffectName {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::None => Self::None,
            Effect::Idempotent => Self::Idempotent,
            Effect::Once => Self::Once,
        }
    }
}

impl From<EffectName> for Effect {
    fn from(effect: EffectName) -> Self {
        match effect {
            EffectName::None => Self::None,
            EffectName::Idempotent => Self::Idempotent,
            EffectName::Once => Self::Once,
        }
    }
}

/// A peer named in passing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Gateway {
    /// Its identity.
    pub peer_id: String,
    /// Its name, when it is known here.
    pub node_id: Option<String>,
    /// Number of its epoch; rises with every change of gateway.
    pub epoch: u64,
    /// Whether it is this device.
    #[serde(rename = "self")]
    pub is_self: bool,
}

/// A link to another device.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Link {
    /// To whom.
    pub peer_id: String,
    /// Its name, when it is known here.
    pub node_id: Option<String>,
    /// Where it is, when that is known.
    pub address: Option<String>,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Whether this device opened it.
    pub dialled: bool,
}

/// Where this agent can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Endpoints {
    /// Unix socket of the API.
    pub socket: String,
    /// Base URL of the API on loopback.
    pub http: String,
    /// UDP addresses of the mesh.
    pub quic: Vec<String>,
}

impl Endpoints {
    pub(super) fn new(socket: &Path, http: SocketAddr, quic: &[Address]) -> Self {
        Self {
            socket: socket.display().to_string(),
            http: format!("http://{http}"),
            quic: quic.iter().map(ToString::to_string).collect(),
        }
    }
}

/// This device and its mesh at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Status {
    /// Identity of this device.
    pub peer_id: String,
    /// Its name.
    pub node_id: String,
    /// Its mesh.
    pub mesh_id: String,
    /// Name of the mesh.
    pub mesh_name: String,
    /// Incarnation of this device's database.
    pub incarnation: u32,
    /// Starts of the agent within it.
    pub boot: u64,
    /// Who leads; null while nobody is known to.
    pub gateway: Option<Gateway>,
    /// Open links.
    pub links: Vec<Link>,
    /// Where this agent can be reached.
    pub endpoints: Endpoints,
    /// Approved devices, this one included.
    pub nodes: usize,
    /// Those of them that are online.
    pub nodes_online: usize,
    /// Devices that await approval.
    pub pending: usize,
    /// Strangers seen on the local network.
    pub nearby: usize,
    /// Calls without an ending that this device knows of.
    pub open_calls: usize,
    /// Whether this device has been revoked.
    pub revoked: bool,
    /// The device whose user must say yes to us, if we ask to join.
    pub asking_to_join: Option<String>,
    /// What asks for attention, each with the next step.
    pub warnings: Vec<String>,
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When the agent started.
    pub started_at: String,
}

/// The name of `peer`, when it is an approved peer.
#[must_use]
pub fn name_of(view: &View, peer: &PeerId) -> Option<String> {
    view.nodes.iter().find(|node| node.peer == *peer).map(|node| node.node_id.to_string())
}

/// What people must look at before the mesh works as it should: what it is, and what to press.
#[must_use]
pub fn attention(view: &View) -> Vec<(String, String)> {
    let named = |peer: &PeerId| name_of(view, peer).unwrap_or_else(|| peer.short());
    let mut found: Vec<(String, String)> = Vec::new();
    for again in &view.awaiting_reapproval {
        let why = again.why();
        if again.peer == view.me {
            let press = format!("on an owner's device: `sigil approve {}`", again.peer.short());
            found.push((format!("this device awaits re-approval, and nothing it asks for runs: {why}"), press));
        } else {
            let press = format!("`sigil approve {0}` or `sigil reject {0}`", again.peer.short());
            found.push((format!("`{}` awaits re-approval: {why}", again.node_id), press));
        }
    }
    for hold in &view.holds {
        let press = match hold {
            Hold::Unknown { .. } => "update sigil on this device",
            Hold::Copied => "remove `identity.key` from the copy's home and join it again as a device of its own",
        };
        found.push((format!("this device neither leads nor starts calls: {hold}"), press.to_owned()));
    }
    for peer in &view.copied {
        let press = "stop one of them, remove `identity.key` from its home, and join it again as a device of its own";
        found.push((format!("`{}` runs twice under one key, and gets no calls", named(peer)), press.to_owned()));
    }
    for peer in &view.forked {
        let press = format!("if it was restored from a backup, restart it; if not, `sigil forget {}`", peer.short());
        found.push((format!("`{}` said two conflicting log entries", named(peer)), press));
    }
    found
}

/// The gateway as `view` knows it.
#[must_use]
pub fn gateway(view: &View) -> Option<Gateway> {
    view.gateway.map(|epoch| Gateway {
        peer_id: epoch.peer.to_string(),
        node_id: name_of(view, &epoch.peer),
        epoch: epoch.counter,
        is_self: epoch.peer == view.me,
    })
}

pub(super) fn links(view: &View, around: &Surroundings) -> Vec<Link> {
    let link = |peer: &PeerId| {
        let info: Option<&LinkInfo> = around.links.iter().find(|info| info.peer == *peer);
        Link {
            peer_id: peer.to_string(),
            node_id: name_of(view, peer),
            address: info.map(|info| info.address.to_string()),
            rtt_ms: info.map(|info| Duration::from_micros(info.rtt_us).as_secs_f64() * 1000.0),
            dialled: info.is_some_and(|info| info.dialled),
        }
    };
    view.links.iter().map(link).collect()
}

/// Whether a device can take calls at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Waits for a yes.
    Pending,
    /// Here.
    Online,
    /// Away; calls wait for it.
    Offline,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Node {
    /// Its name; while pending, the one that it asks for.
    pub node_id: String,
    /// Its identity: what people compare.
    pub peer_id: String,
    /// "linux", "darwin", …; null while nothing is known.
    pub platform: Option<String>,
    /// Version of its program.
    pub version: Option<String>,
    /// How far it is trusted; null while pending.
    pub tier: Option<TierName>,
    /// Whether it can take calls at once.
    pub state: NodeState,
    /// Whether it leads.
    pub gateway: bool,
    /// Whether it is this device.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// What it offers.
    pub tools: Vec<Tool>,
    /// Where it says that it is.
    pub addresses: Vec<String>,
    /// When it last came or went, as seen from here; null when not since the agent started.
    pub last_seen: Option<String>,
    /// Why it is not online, and the next step.
    pub why: Option<String>,
}

/// A tool of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tool {
    /// Name on its device.
    pub name: String,
    /// Handle of its device.
    pub node: String,
    /// `node:<id>:<tool>`.
    pub address: String,
    /// What running it again means.
    pub effect: EffectName,
    /// For people.
    pub description: String,
    /// Whether only owner-tier devices may call it.
    pub owner_only: bool,
    /// Whether it would run at once.
    pub available: bool,
    /// Why not.
    pub why: Option<String>,
}

impl Tool {
    fn new(node: &NodeView, tool: &ToolDecl, online: bool) -> Self {
        Self {
            name: tool.name.to_string(),
            node: node.node_id.to_string(),
            address: format!("node:{}:{}", node.node_id, tool.name),
            effect: tool.effect.into(),
            description: tool.description.clone(),
            owner_only: tool.owner_only,
            available: online,
            why: (!online).then(|| "currently offline".to_owned()),
        }
    }
}

/// Tools of one approved peer.
pub(super) fn tools(view: &View, node: &NodeView) -> Vec<Tool> {
    let online = is_online(view, node);
    node.tools().iter().map(|tool| Tool::new(node, tool, online)).collect()
}

pub(super) fn is_online(view: &View, node: &NodeView) -> bool {
    node.peer == view.me || node.online
}

impl Node {
    /// An approved peer.
    #[must_use]
    pub fn approved(view: &View, node: &NodeView) -> Self {
        let online = is_online(view, node);
        let since = (node.last_seen_ms > 0).then(|| time(node.last_seen_ms));
        let why = (!online).then(|| {
            let cause = match (&view.gateway, &since) {
                (None, _) => "no gateway is known just now, and this device has no link to it".to_owned(),
                (Some(_), Some(since)) => format!("it has not been connected since {since}"),
                (Some(_), None) => "it has not been connected since this agent started".to_owned(),
            };
            format!("{cause}; switch it on and see that it has a network, calls wait for it until their time is over")
        });
        let directory = node.directory.as_deref();
        Self {
            node_id: node.node_id.to_string(),
            peer_id: node.peer.to_string(),
            platform: directory.map(|d| d.platform.clone()),
            version: directory.map(|d| d.version.clone()),
            tier: Some(node.tier.into()),
            state: if online { NodeState::Online } else { NodeState::Offline },
            gateway: view.gateway.is_some_and(|epoch| epoch.peer == node.peer),
            is_self: node.peer == view.me,
            tools: tools(view, node),
            addresses: directory.map(|d| d.addresses.clone()).unwrap_or_default(),
            last_seen: since,
            why,
        }
    }

    /// A device that asks to join.
    #[must_use]
    pub fn pending(pending: &Pending) -> Self {
        let peer = pending.peer.to_string();
        Self {
            node_id: pending.node_id.to_string(),
            platform: (!pending.platform.is_empty()).then(|| pending.platform.clone()),
            version: None,
            tier: None,
            state: NodeState::Pending,
            gateway: false,
            is_self: false,
            tools: Vec::new(),
            addresses: pending.address.iter().map(ToString::to_string).collect(),
            last_seen: None,
            why: Some(format!(
                "{}: compare its id {} with the one that it shows, then `sigil approve {}` or `sigil reject {}`",
                pending.why,
                pending.peer.short(),
                pending.peer.short(),
                pending.peer.short(),
            )),
            peer_id: peer,
        }
    }
}

/// A device that asks to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PendingDevice {
    /// Its identity: what people compare.
    pub peer_id: String,
    /// Name that it asks for.
    pub node_id: String,
    /// "linux", …
    pub platform: String,
    /// Where it asks from; null for one that belonged before and waits again.
    pub address: Option<String>,
    /// When it first asked, or since when it is known to wait again.
    pub since: String,
    /// Why it waits.
    pub why: String,
}

impl From<&Pending> for PendingDevice {
    fn from(pending: &Pending) -> Self {
        Self {
            peer_id: pending.peer.to_string(),
            node_id: pending.node_id.to_string(),
            platform: pending.platform.clone(),
            address: pending.address.map(|address| address.to_string()),
            since: time(pending.since_ms),
            why: pending.why.clone(),
        }
    }
}

/// A stranger on the local network. Nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NearbyDevice {
    /// Its identity.
    pub peer_id: String,
    /// The name that it shows.
    pub name: String,
    /// Where it is.
    pub addresses: Vec<String>,
    /// When it was last seen.
    pub last_seen: String,
}

impl From<&Nearby> for NearbyDevice {
    fn from(nearby: &Nearby) -> Self {
        Self {
            peer_id: nearby.peer.to_string(),
            name: nearby.name.clone(),
            addresses: nearby.addresses.iter().map(ToString::to_string).collect(),
            last_seen: time(nearby.seen_ms),
        }
    }
}

/// Shortest start of a peer id that names it.
pub const PREFIX_MIN: usize = 7;

/// A device that a client named.
#[derive(Debug, Clone)]
pub enum Named<'a> {
    /// An approved peer.
    Member(&'a NodeView),
    /// A device that asks to join.
    Pending(&'a Pending),
}

/// Finds the device that `text` means: a name, a peer id, or a start of one of at least [`PREFIX_MIN`] characters.
/// A name wins over a start of an id, a member's name over one that a stranger merely asks for.
pub(super) fn resolve<'a>(view: &'a View, pending: &'a [Pending], text: &str) -> Result<Named<'a>, Fault> {
    if let Some(node) = view.nodes.iter().find(|node| node.node_id.as_str() == text) {
        return Ok(Named::Member(node));
    }
    let mut found: Vec<(PeerId, &NodeId, Named<'a>)> = Vec::new();
    let start = text.to_ascii_lowercase();
    let meant = |peer: &PeerId| text.len() >= PREFIX_MIN && peer.to_string().starts_with(&start);
    for node in view.nodes.iter().filter(|node| meant(&node.peer)) {
        found.push((node.peer, &node.node_id, Named::Member(node)));
    }
    for asks in pending.iter().filter(|asks| asks.node_id.as_str() == text || meant(&asks.peer)) {
        if !found.iter().any(|(peer, ..)| *peer == asks.peer) {
            found.push((asks.peer, &asks.node_id, Named::Pending(asks)));
        }
    }
    if found.len() > 1 {
        let choices: Vec<_> = found.iter().map(|(peer, node, _)| format!("{peer} ({node})")).collect();
        return Err(Fault::new(
            ErrorCode::Ambiguous,
            format!("`{}` may mean: {}", text.escape_debug(), choices.join(", ")),
        )
        .hint("give more characters of the peer id")
        .with("choices", choices));
    }
    found.pop().map(|(_, _, named)| named).ok_or_else(|| {
        let shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
        let detail = format!("no device is called `{shown}`, and no peer id starts so");
        Fault::new(ErrorCode::UnknownNode, detail).hint(format!(
            "`sigil nodes` lists the devices of this mesh; a start of a peer id needs {PREFIX_MIN} characters"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_763_769_600_123), "2025-11-22T00:00:00.123Z");
        assert!(time(u64::MAX).starts_with("9999-12-"));
    }
}
