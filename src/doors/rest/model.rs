//! JSON shapes of the API, and how they come from the mesh's own types.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::time::Duration;

use mesh_core::ids::{PeerId, ToolName};
use mesh_core::io::{NodeView, View};
use mesh_core::policy::{Offered, ToolState};
use mesh_core::record::{Effect, Fitness, TaggedNode, Tier, ToolDecl};
use mesh_core::tailnet::Untagged;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::shapes::{NodeName, ToolForm};
use super::stay::StayShown;
use crate::doors::ops::devices::{is_online, name_of, why_offline};
use crate::doors::ops::doctor::why_not_direct;
use crate::doors::ops::policy::SaidBy;
use crate::doors::{Bound, DoorState};
use crate::mesh::check_words::CheckWords;
use crate::mesh::clock;
use crate::mesh::tailnet::{Condition, EmbeddedCondition, Identity, Mode, Tailnet};
use crate::mesh::transport::{Address, UnderlayKind};
use crate::mesh::{LinkInfo, Nearby, Pending, Relayed, Surroundings};

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
    clock::rfc3339(ms)
}

/// Trust in a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TierName {
    /// As a shared one, for a while, and perhaps for some tools or one call alone.
    Ephemeral,
    /// May call every tool that is not for owners only.
    Shared,
    /// May call every tool, approve devices, and become gateway.
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

/// Effect of running a tool again.
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
    /// Counter of its epoch; rises with every change of gateway.
    pub epoch: u64,
    /// True if it is this device.
    #[serde(rename = "self")]
    pub is_self: bool,
}

/// Four words by which people compare devices: the same on every screen, and different for every device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Check {
    /// The words, from a fixed list of 2,048.
    #[schema(min_items = 4, max_items = 4)]
    pub words: Vec<String>,
    /// First characters of its identity.
    pub short: String,
}

impl Check {
    /// Those of a device.
    #[must_use]
    pub fn of(peer: &PeerId) -> Self {
        let words = CheckWords::of(peer).words().map(str::to_owned).into();
        Self { words, short: peer.short() }
    }
}

/// A device named in passing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NamedPeer {
    /// Its identity.
    pub peer_id: String,
    /// Its name, while it is a member.
    pub node_id: Option<String>,
}

impl NamedPeer {
    /// A device as `view` knows it.
    #[must_use]
    pub fn new(view: &View, peer: &PeerId) -> Self {
        Self { peer_id: peer.to_string(), node_id: name_of(view, peer) }
    }
}

/// A member that belongs by the approval of another, or of one of that one's guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Guest {
    /// Its name.
    pub node_id: String,
    /// Its identity.
    pub peer_id: String,
    /// Its tier.
    pub tier: TierName,
    /// The owner whose approval it belongs by.
    pub approved_by: NamedPeer,
    /// Time of that approval, by its signer's clock.
    pub since: String,
}

impl Guest {
    /// A member; `None` for the founder, which is nobody's guest.
    #[must_use]
    pub fn new(view: &View, node: &NodeView) -> Option<Self> {
        Some(Self {
            node_id: node.node_id.to_string(),
            peer_id: node.peer.to_string(),
            tier: node.tier.into(),
            approved_by: NamedPeer::new(view, &node.approved_by?),
            since: time(node.since_ms),
        })
    }
}

/// A statement about rights that stands on the authority of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RightBy {
    /// Its subject: the keys that lead there in `sigil.toml`; of what stands in no file its kind and name.
    pub at: String,
    /// True if it was taken away there.
    pub taken_away: bool,
    /// The device.
    pub by: NamedPeer,
    /// The person who said it there.
    pub principal: String,
    /// When, by the clock of that device.
    pub since: String,
}

impl RightBy {
    pub(super) fn new(view: &View, said: SaidBy) -> Self {
        let SaidBy { at, taken_away, device, by, at_ms } = said;
        Self { at, taken_away, by: NamedPeer::new(view, &device), principal: by.to_string(), since: time(at_ms) }
    }
}

/// A link to another device.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Link {
    /// The other device.
    pub peer_id: String,
    /// Its name, when it is known here.
    pub node_id: Option<String>,
    /// Its address, when that is known.
    pub address: Option<String>,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// True if this device opened it.
    pub dialled: bool,
    /// How its packets travel.
    pub via: LinkVia,
    /// The devices by which they travel, the one in use first; empty unless it is relayed. They cannot read them.
    pub relayed_by: Vec<NamedPeer>,
    /// The reason for which it is not direct, and what helps; null if it is.
    pub why_not_direct: Option<String>,
}

/// How the packets of a link travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkVia {
    /// From one device to the other.
    Direct,
    /// Over the tailnet that both devices are on.
    Tailnet,
    /// By a third device, which is linked to both.
    Relay,
}

impl From<UnderlayKind> for LinkVia {
    fn from(underlay: UnderlayKind) -> Self {
        match underlay {
            UnderlayKind::Udp => Self::Direct,
            UnderlayKind::Tailnet | UnderlayKind::TailnetEmbedded => Self::Tailnet,
            UnderlayKind::Relay => Self::Relay,
        }
    }
}

/// All that this device relays for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Relaying {
    /// True if it does (`relay.offer`).
    pub offers: bool,
    /// Pairs of devices for which it does now.
    pub pairs: usize,
    /// Bytes that it has passed on since its start.
    pub bytes: u64,
    /// Packets over a limit, which it dropped.
    pub dropped: u64,
    /// Pairs that it refused.
    pub refused: u64,
}

impl From<&Relayed> for Relaying {
    fn from(relayed: &Relayed) -> Self {
        let Relayed { offers, pairs, bytes, dropped, refused, .. } = relayed;
        Self { offers: *offers, pairs: pairs.len(), bytes: *bytes, dropped: *dropped, refused: *refused }
    }
}

/// Use of a tailnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TailnetUse {
    /// By what; null: it does not work now, and `told` says why.
    pub by: Option<TailnetBy>,
    /// Address of this device there.
    pub address: Option<String>,
    /// URL at which a person has to log in the node in this program. For whoever looks after the mesh.
    pub login_url: Option<String>,
    /// All of it in words.
    pub told: String,
}

/// Node by which a device is on its tailnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TailnetBy {
    /// The tailscaled of its machine.
    Host,
    /// One in its program.
    Embedded,
}

impl TailnetUse {
    /// `looks`: whoever asks may see findings.
    pub(super) fn new(tailnet: &Tailnet, looks: bool, now_ms: u64) -> Option<Self> {
        if tailnet.mode == Mode::Off {
            return None;
        }
        let (by, ip) = match (&tailnet.condition, &tailnet.embedded) {
            (Condition::Running { ip, .. }, _) => (Some(TailnetBy::Host), Some(*ip)),
            (_, EmbeddedCondition::Running { node, .. }) => (Some(TailnetBy::Embedded), node.ip()),
            _ => (None, None),
        };
        Some(Self {
            by,
            address: ip.map(|ip| ip.to_string()),
            login_url: tailnet.embedded.login_url().filter(|_| looks).map(ToOwned::to_owned),
            told: tailnet.told(now_ms).0,
        })
    }
}

/// Addresses of this agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Endpoints {
    /// Unix socket of the API.
    pub socket: String,
    /// Base URL of the API on loopback.
    pub http: String,
    /// Base URL of the API on the tailnet, while that door is open; null: the settings do not ask for it (`tailnet.door`), or the
    /// tailnet does not work.
    pub tailnet: Option<String>,
    /// UDP addresses of the mesh.
    pub quic: Vec<String>,
}

impl Endpoints {
    pub(super) fn new(bound: &Bound, tailnet: &DoorState, quic: &[Address]) -> Self {
        let tailnet = match tailnet {
            DoorState::Open(url) => Some(url.clone()),
            DoorState::Off | DoorState::Waits | DoorState::Failed(_) => None,
        };
        let Bound { socket, http } = bound;
        Self {
            tailnet,
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
    /// Its check words: what people compare when it joins, or is joined.
    pub check: Check,
    /// Its mesh.
    pub mesh_id: String,
    /// Name of the mesh.
    pub mesh_name: String,
    /// Incarnation of this device's store.
    pub incarnation: u32,
    /// Starts of the agent within it.
    pub boot: u64,
    /// The gateway; null while none is known.
    pub gateway: Option<Gateway>,
    /// Open links.
    pub links: Vec<Link>,
    /// What it relays for others.
    pub relaying: Relaying,
    /// The tailnet that it uses; null: none (`tailnet.mode`).
    pub tailnet: Option<TailnetUse>,
    /// Addresses of this agent.
    pub endpoints: Endpoints,
    /// Approved devices, this one included.
    pub nodes: usize,
    /// Those of them that are online.
    pub nodes_online: usize,
    /// True if there are other members, and this device is linked to none of them.
    pub isolated: bool,
    /// What the program was built with.
    pub features: Features,
    /// Devices that await approval.
    pub pending: usize,
    /// Strangers seen on the local network.
    pub nearby: usize,
    /// Calls without an ending that this device knows of.
    pub open_calls: usize,
    /// True if this device has been revoked.
    pub revoked: bool,
    /// The device that must approve our join request, if there is one.
    pub asking_to_join: Option<String>,
    /// Findings that need attention, each with the next step.
    pub warnings: Vec<String>,
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Start of the agent.
    pub started_at: String,
}

/// Parts of the program that it may be built without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part by itself")]
pub struct Features {
    /// Devices on the local network are found.
    pub lan: bool,
    /// The MCP door.
    pub mcp: bool,
    /// Models run on this device.
    pub models: bool,
    /// It can be a node of a tailnet itself.
    pub tailnet: bool,
    /// The web page.
    pub ui: bool,
}

impl Features {
    /// Those of this program.
    pub(super) const OWN: Self = Self {
        lan: cfg!(feature = "lan"),
        mcp: cfg!(feature = "mcp"),
        models: cfg!(feature = "models"),
        tailnet: cfg!(feature = "tailnet"),
        ui: cfg!(feature = "ui"),
    };
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
        let relays = info.map_or(&[][..], |info| &info.relays);
        let via = info.map_or(LinkVia::Direct, |info| info.underlay.into());
        Link {
            peer_id: peer.to_string(),
            node_id: name_of(view, peer),
            address: info.filter(|_| via != LinkVia::Relay).map(|info| info.address.to_string()),
            rtt_ms: info.map(|info| Duration::from_micros(info.rtt_us).as_secs_f64() * 1000.0),
            dialled: info.is_some_and(|info| info.dialled),
            via,
            why_not_direct: (via != LinkVia::Direct).then(|| why_not_direct(view, peer)),
            relayed_by: relays.iter().map(|relay| NamedPeer::new(view, relay)).collect(),
        }
    };
    view.links.iter().map(link).collect()
}

/// Reachability of a device: online means that it can take calls at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Awaits approval: it asks to join, or awaits re-approval.
    Pending,
    /// Connected.
    Online,
    /// Not connected; calls are queued for it.
    Offline,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Node {
    /// Its name; while it awaits approval, the one that it asks for.
    #[schema(value_type = NodeName)]
    pub node_id: String,
    /// True if rights know it by this name: an owner gave or saw it, or it is an owner's device. Otherwise what gives to
    /// devices by name gives it nothing, and what takes away from devices by name takes from it.
    pub confirmed: bool,
    /// The name for which it asks and which it does not have: an owner has to give it.
    #[schema(value_type = Option<NodeName>)]
    pub asks: Option<String>,
    /// Its identity.
    pub peer_id: String,
    /// Its check words: what people compare.
    pub check: Check,
    /// "linux", "darwin", …; null while nothing is known.
    pub platform: Option<String>,
    /// Version of its program.
    pub version: Option<String>,
    /// Its tier; null while it awaits approval.
    pub tier: Option<TierName>,
    /// Of an ephemeral one, how long and what for; null: it belongs for good.
    pub stay: Option<StayShown>,
    /// The tag of the tailnet that it was let in for; null: by a person.
    pub let_in_for: Option<LetInFor>,
    /// The owner whose approval it belongs by; null for the founder, and while pending.
    pub approved_by: Option<NamedPeer>,
    /// Time of that approval, by its signer's clock.
    pub approved_at: Option<String>,
    /// Reachability.
    pub state: NodeState,
    /// How packets travel between it and this device; null while the two are not linked.
    pub via: Option<LinkVia>,
    /// True if it is the gateway.
    pub gateway: bool,
    /// True if it is this device.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Tools that it offers.
    pub tools: Vec<Tool>,
    /// Addresses that it reports.
    pub addresses: Vec<String>,
    /// Time when it last connected or disconnected, as seen from here; null when not since the agent started.
    pub last_seen: Option<String>,
    /// Cause of its being offline or awaiting approval, and the next step.
    pub why: Option<String>,
}

/// The tag of the tailnet that a device was let in for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LetInFor {
    /// The tag.
    pub tag: String,
    /// Domain of the tailnet.
    pub tailnet: String,
    /// Stable id of its node there.
    pub node: String,
    /// Cause of the tag's not counting now, so that no call from or to the device begins here; null: it counts.
    pub lost: Option<String>,
}

impl LetInFor {
    fn new(of: &TaggedNode, untagged: Option<Untagged>) -> Self {
        let TaggedNode { tailnet, node, tag } = of.clone();
        Self { tag, tailnet, node, lost: untagged.map(|why| why.sentence().to_owned()) }
    }
}

/// Approval of a tool in the form in which it is offered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolApproval {
    /// As it is, or nobody ever said which tools of its device may be used.
    Approved,
    /// Not at all.
    Pending,
    /// Another form of it.
    Changed,
}

impl From<ToolState> for ToolApproval {
    fn from(state: ToolState) -> Self {
        match state {
            ToolState::Approved => Self::Approved,
            ToolState::Pending => Self::Pending,
            ToolState::Changed => Self::Changed,
        }
    }
}

/// A tool of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tool {
    /// Name on its device.
    pub name: String,
    /// Name of its device.
    pub node: String,
    /// `node:<id>:<tool>`.
    pub address: String,
    /// Effect of running it again.
    pub effect: EffectName,
    /// For people.
    pub description: String,
    /// True if only owner-tier devices may call it.
    pub owner_only: bool,
    /// So many of its runs at once, and more wait their turn; null: as many as its device runs calls.
    pub at_once: Option<u8>,
    /// Approval of it, as it is now: approved, pending (new), changed.
    pub approval: ToolApproval,
    /// SHA-256 of its card, which tells all of it: `GET` the tool of its device; null: there is no more to tell.
    pub card: Option<String>,
    /// Form in which it is shown here: an approval that names it approves nothing else.
    #[schema(value_type = ToolForm)]
    pub shown: String,
    /// True if it would run at once.
    pub available: bool,
    /// Cause of its not being available.
    pub why: Option<String>,
}

impl Tool {
    pub(super) fn new(node: &NodeView, tool: &ToolDecl, online: bool, state: ToolState) -> Self {
        let waits = state != ToolState::Approved;
        let why = match (online, waits, tool.state) {
            (_, true, _) => Some("nobody has approved it as it is now: `sigil pending`"),
            (false, false, _) => Some("currently offline"),
            (true, false, Fitness::READY) => None,
            (true, false, Fitness::REVIEW) => Some("it was approved just now, and its device has not heard of it"),
            (true, false, _) => Some("what runs it does not work now; `sigil doctor` on its device says why"),
        };
        Self {
            name: tool.name.to_string(),
            node: node.node_id.to_string(),
            address: format!("node:{}:{}", node.node_id, tool.name),
            effect: tool.effect.into(),
            description: tool.description.clone(),
            owner_only: tool.owner_only,
            at_once: tool.at_once.map(NonZeroU8::get),
            approval: state.into(),
            card: tool.card.map(|card| data_encoding::HEXLOWER.encode(&card.0)),
            shown: data_encoding::HEXLOWER.encode(&Offered::of(tool).hash.0),
            available: why.is_none(),
            why: why.map(str::to_owned),
        }
    }
}

/// Tools of one approved peer.
pub(super) fn tools(view: &View, node: &NodeView) -> Vec<Tool> {
    let online = is_online(view, node);
    let states: BTreeMap<&ToolName, ToolState> = view.rights.tools(&node.peer).collect();
    let state = |tool: &ToolDecl| states.get(&tool.name).copied().unwrap_or(ToolState::Approved);
    node.tools().iter().map(|tool| Tool::new(node, tool, online, state(tool))).collect()
}

impl Node {
    /// An approved peer.
    #[must_use]
    pub fn approved(view: &View, node: &NodeView, around: &Surroundings) -> Self {
        let link = around.links.iter().find(|link| link.peer == node.peer);
        let directory = node.directory.as_deref();
        Self {
            node_id: node.node_id.to_string(),
            confirmed: node.confirmed,
            asks: node.asks.as_ref().map(ToString::to_string),
            peer_id: node.peer.to_string(),
            check: Check::of(&node.peer),
            approved_by: node.approved_by.map(|by| NamedPeer::new(view, &by)),
            approved_at: node.approved_by.map(|_| time(node.since_ms)),
            platform: directory.map(|d| d.platform.clone()),
            version: directory.map(|d| d.version.clone()),
            tier: Some(node.tier.into()),
            stay: node.stay.as_ref().map(Into::into),
            let_in_for: node.of.as_ref().map(|of| LetInFor::new(of, node.untagged)),
            state: if is_online(view, node) { NodeState::Online } else { NodeState::Offline },
            via: link.map(|link| link.underlay.into()),
            gateway: view.gateway.is_some_and(|epoch| epoch.peer == node.peer),
            is_self: node.peer == view.me,
            tools: tools(view, node),
            addresses: directory.map(|d| d.addresses.clone()).unwrap_or_default(),
            last_seen: (node.last_seen_ms > 0).then(|| time(node.last_seen_ms)),
            why: why_offline(view, node),
        }
    }

    /// A device that awaits approval.
    #[must_use]
    pub fn pending(pending: &Pending) -> Self {
        let peer = pending.peer.to_string();
        Self {
            node_id: pending.node_id.to_string(),
            confirmed: false,
            asks: None,
            check: Check::of(&pending.peer),
            approved_by: None,
            approved_at: None,
            platform: (!pending.platform.is_empty()).then(|| pending.platform.clone()),
            version: None,
            tier: None,
            stay: None,
            let_in_for: None,
            state: NodeState::Pending,
            via: None,
            gateway: false,
            is_self: false,
            tools: Vec::new(),
            addresses: pending.address.iter().map(ToString::to_string).collect(),
            last_seen: None,
            why: Some(format!(
                "{}: compare its check words, {}, with the ones that it shows, then `sigil approve {peer}` or `sigil reject {peer}`",
                pending.why,
                CheckWords::of(&pending.peer),
                peer = pending.peer.short(),
            )),
            peer_id: peer,
        }
    }
}

/// A device that awaits approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PendingDevice {
    /// Its identity.
    pub peer_id: String,
    /// Its check words: what people compare.
    pub check: Check,
    /// Name that it asks for.
    #[schema(value_type = NodeName)]
    pub node_id: String,
    /// "linux", …
    pub platform: String,
    /// Address from which it asks; null for a former member that awaits re-approval.
    pub address: Option<String>,
    /// The node of the tailnet from which it asks, as tailscaled knows it; null if it does not ask over one.
    pub tailnet: Option<TailnetAsker>,
    /// Time when it first asked, or since when it is known to await re-approval.
    pub since: String,
    /// Cause of its waiting.
    pub why: String,
    /// Tier that an approval gives it unless another is named.
    pub tier: TierName,
    /// Tier that a former member had.
    pub former_tier: Option<TierName>,
    /// The device that had let a former member in.
    pub approved_by: Option<NamedPeer>,
}

impl PendingDevice {
    /// A device that waits, in the mesh of this view.
    #[must_use]
    pub fn new(view: &View, pending: &Pending) -> Self {
        let again = view.awaiting_reapproval.iter().find(|again| again.peer == pending.peer);
        Self {
            tier: TierName::Shared,
            former_tier: again.map(|again| again.tier.into()),
            approved_by: again.map(|again| NamedPeer::new(view, &again.approved_by)),
            check: Check::of(&pending.peer),
            peer_id: pending.peer.to_string(),
            node_id: pending.node_id.to_string(),
            platform: pending.platform.clone(),
            address: pending.address.map(|address| match pending.tailnet {
                Some(_) => Address::Tailnet(address).to_string(),
                None => Address::from(address).to_string(),
            }),
            tailnet: pending.tailnet.as_ref().map(Into::into),
            since: time(pending.since_ms),
            why: pending.why.clone(),
        }
    }
}

/// A node of the tailnet from which a device asks to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TailnetAsker {
    /// Its name there.
    pub name: String,
    /// Login of its user; null for a node with tags, which has none.
    pub login: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
}

impl From<&Identity> for TailnetAsker {
    fn from(identity: &Identity) -> Self {
        let Identity { node, login } = identity;
        Self { name: node.name.clone(), login: login.clone(), tags: node.tags.clone() }
    }
}

/// A stranger on the local network. Nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NearbyDevice {
    /// Its identity, which is not proven.
    pub peer_id: String,
    /// Check words of that identity.
    pub check: Check,
    /// The name that it shows.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Time when it was last seen.
    pub last_seen: String,
}

impl From<&Nearby> for NearbyDevice {
    fn from(nearby: &Nearby) -> Self {
        Self {
            peer_id: nearby.peer.to_string(),
            check: Check::of(&nearby.peer),
            name: nearby.name.clone(),
            addresses: nearby.addresses.iter().map(ToString::to_string).collect(),
            last_seen: time(nearby.seen_ms),
        }
    }
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
