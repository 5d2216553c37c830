//! Knowledge of a peer about the mesh, as people and the shell see it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::budget::{Amount, DiskSpace, OverBudget};
use crate::epoch::Epoch;
use crate::ids::{Incarnation, MeshId, NodeId, PeerId, PublicKey};
use crate::policy;
use crate::reapproval::ReapprovalView;
use crate::record::{Directory, Stay, TaggedNode, Tier, ToolDecl};
use crate::tailnet::Untagged;

/// Knowledge of a peer about the mesh: the snapshot behind status, nodes and tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// This peer.
    pub me: PeerId,
    /// Its name.
    pub node_id: NodeId,
    /// The mesh.
    pub mesh: MeshId,
    /// Name of the mesh.
    pub mesh_name: String,
    /// Incarnation of our database.
    pub incarnation: Incarnation,
    /// Starts of this process within the incarnation.
    pub boot: u64,
    /// True if we hold our own revocation.
    pub revoked: bool,
    /// Devices that belonged until their approval turned out to be void; we may be one of them.
    /// [`super::Command::Approve`] approves them again, [`super::Command::Revoke`] says no.
    pub awaiting_reapproval: Vec<ReapprovalView>,
    /// Whose approvals of a peer stand, of present and former members but the founder.
    pub vouched_by: BTreeMap<PeerId, BTreeSet<PeerId>>,
    /// Reasons why this peer neither leads nor starts calls.
    pub halts: Vec<Halt>,
    /// Peers that run twice under one key, as far as this peer saw: they get no calls, and none of theirs starts here.
    pub copied: Vec<PeerId>,
    /// Peers that signed two conflicting log entries, and have not started anew since: what they ask for after
    /// that place does not run here.
    pub forked: Vec<PeerId>,
    /// Peers whose logs are stopped here, since they are over a budget.
    pub stopped: Vec<StoppedLog>,
    /// Set while the disk of this device is nearly full, so that it takes no new work.
    pub disk: Option<DiskSpace>,
    /// The gateway, as far as we know.
    pub gateway: Option<Epoch>,
    /// The highest epoch seen.
    pub fence: Epoch,
    /// Linked peers.
    pub links: Vec<PeerId>,
    /// Members to whom a link by relay is wanted, and who may relay, best first.
    pub relays: BTreeMap<PeerId, Vec<PeerId>>,
    /// All approved peers, ourselves included, by peer id.
    pub nodes: Vec<NodeView>,
    /// Rights, ready to be asked.
    pub rights: Arc<policy::View>,
    /// All that people said about it.
    pub said: policy::InForce,
}

/// A log of which nothing more is taken for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedLog {
    /// Its author.
    pub peer: PeerId,
    /// Place of the newest entry that is held.
    pub at: u64,
    /// The budget that is used up.
    pub over: OverBudget,
    /// Wall time at which it goes on; `None`: when its author says that older entries are not needed any more.
    pub until_ms: Option<u64>,
}

impl fmt::Display for StoppedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its log is stopped at {}: over its budget of {}", self.at, self.over)
    }
}

/// Amounts that fill the memory of a peer, by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Open calls and the bytes of their headers, by origin.
    pub open: Vec<(PeerId, Amount)>,
    /// Calls that ended and stay in the book, by origin.
    pub ended: Vec<(PeerId, u64)>,
    /// Calls of others that have left the book, and the bytes of their rows on disk, by origin.
    pub closed: Vec<(PeerId, Amount)>,
    /// Entries and bytes of the logs on disk, by author.
    pub logs: Vec<(PeerId, Amount)>,
}

impl View {
    /// Members for whom nobody vouches but `hosts`, those for whom these vouch, and so on; nearest first. Whoever
    /// approves a device vouches for it; who approved it before still does. This device is nobody's guest.
    #[must_use]
    pub fn guests_of(&self, hosts: &BTreeSet<PeerId>) -> Vec<&NodeView> {
        let mut vouches: BTreeMap<PeerId, Vec<PeerId>> = BTreeMap::new();
        let all = self.vouched_by.iter().flat_map(|(peer, by)| by.iter().map(move |by| (*by, *peer)));
        all.for_each(|(by, peer)| vouches.entry(by).or_default().push(peer));
        let reached = |from: Vec<PeerId>, without: &BTreeSet<PeerId>| {
            let (mut known, mut reached, mut next) = (without.clone(), Vec::new(), VecDeque::from(from));
            while let Some(peer) = next.pop_front() {
                if known.insert(peer) {
                    reached.push(peer);
                    next.extend(vouches.get(&peer).into_iter().flatten());
                }
            }
            reached
        };
        // Whom nobody approved founded the mesh.
        let founders = vouches.keys().filter(|peer| !self.vouched_by.contains_key(*peer)).copied();
        let stay: BTreeSet<PeerId> = reached(founders.chain([self.me]).collect(), hosts).into_iter().collect();
        let theirs = hosts.iter().filter_map(|host| vouches.get(host)).flatten().copied().collect();
        reached(theirs, &stay.union(hosts).copied().collect()).iter().filter_map(|peer| self.by_peer(peer)).collect()
    }
}

/// Reason why a peer neither leads nor starts calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Halt {
    /// A newer version wrote something that must not be passed over.
    Unknown {
        /// Number of the entry's kind.
        kind: u16,
        /// Its author.
        author: PeerId,
    },
    /// Another process speaks with this device's key.
    Copied,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { kind, author } => {
                let author = author.short();
                write!(f, "peer {author} wrote something of kind {kind} that only a newer version of sigil understands")
            }
            Self::Copied => {
                write!(f, "two devices use this key: stop one of them, let it make its own, and start this one")
            }
        }
    }
}

/// One approved peer in its role of offering tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Identity.
    pub peer: PeerId,
    /// Key, to dial it.
    pub key: PublicKey,
    /// Its name.
    pub node_id: NodeId,
    /// The name by which it was first let in, whatever it is called now; of the founder the one that it had then. Not unique.
    pub first_name: NodeId,
    /// True if rights know it by this name: an owner gave or saw it, or it is an owner's device.
    pub confirmed: bool,
    /// Another name, for which it asks and which it does not have.
    pub asks: Option<NodeId>,
    /// Its tier.
    pub tier: Tier,
    /// Owner that approved it; `None`: it founded the mesh.
    pub approved_by: Option<PeerId>,
    /// Wall time of that approval, in milliseconds since 1970, by its signer's clock; 0 = the founder.
    pub since_ms: u64,
    /// True if the gateway has its node stream; without a gateway, if we are linked to it.
    pub online: bool,
    /// Wall time at which we last saw it change between online and offline; 0 = never seen since our start.
    pub last_seen_ms: u64,
    /// Of an ephemeral one, how long and what for.
    pub stay: Option<Stay>,
    /// The node of a tailnet on whose tag its approval rests; `None`: a person's, or an invite's.
    pub of: Option<TaggedNode>,
    /// Why that tag does not count now, so that no new call of it or for it runs here.
    pub untagged: Option<Untagged>,
    /// Its directory record, if one came yet.
    pub directory: Option<Arc<Directory>>,
}

impl NodeView {
    /// The tools that it declared.
    #[must_use]
    pub fn tools(&self) -> &[ToolDecl] {
        self.directory.as_ref().map_or(&[], |directory| &directory.tools)
    }
}
