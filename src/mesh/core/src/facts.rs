//! The read-only view of a peer that its sub-cores decide by.
//!
//! A sub-core owns its own state and gets [`Facts`] for all else, so what it may know of the others stands here in one
//! list. Only [`crate::peer::Peer`] changes what these facts are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::Config;
use crate::crypto::Signer;
use crate::election::Election;
use crate::entry::Place;
use crate::epoch::Claim;
use crate::ids::{Incarnation, NodeId, PeerId, PublicKey};
use crate::incarnations::Incarnations;
use crate::io::{DiskSpace, Halt, Now, ReapprovalView, View};
use crate::links::Links;
use crate::log::Logs;
use crate::nodes::Nodes;
use crate::record::Tier;
use crate::rights::Rights;
use crate::trust::{AwaitingReapproval, Trust};

/// Reason for which nothing begins on a device that was removed.
const EXCLUDED: &str = "this device does not belong to the mesh any more";

/// This process: its key, its configuration, and its number among the starts of its store.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) me: PeerId,
    pub(crate) key: PublicKey,
    pub(crate) signer: Arc<dyn Signer>,
    pub(crate) config: Config,
    /// Starts within the incarnation.
    pub(crate) boot: u64,
    /// Set while our disk is nearly full.
    pub(crate) disk: Option<DiskSpace>,
}

/// The peer at this moment.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// [`crate::io::Now::mono_ms`] of this step.
    pub(crate) now_ms: u64,
    pub(crate) local: &'a Local,
    pub(crate) trust: &'a Trust,
    pub(crate) election: &'a Election,
    pub(crate) logs: &'a Logs,
    pub(crate) nodes: &'a Nodes,
    pub(crate) links: &'a Links,
    pub(crate) incarnations: &'a Incarnations,
    pub(crate) rights: &'a Rights,
}

impl<'a> Facts<'a> {
    pub(crate) const fn me(&self) -> PeerId {
        self.local.me
    }

    pub(crate) const fn config(&self) -> &'a Config {
        &self.local.config
    }

    /// True if this peer does not belong: revoked, or awaiting re-approval.
    pub(crate) fn is_excluded_here(&self) -> bool {
        self.trust.member(&self.local.me).is_none()
    }

    /// The claim in whose name this peer leads, if it does.
    pub(crate) fn leading_claim(&self) -> Option<&'a Claim> {
        self.election.leading_claim()
    }

    pub(crate) fn leads(&self) -> bool {
        self.leading_claim().is_some()
    }

    /// The gateway that this peer follows; itself while it leads.
    pub(crate) fn gateway(&self) -> Option<PeerId> {
        self.election.gateway().map(|epoch| epoch.peer)
    }

    /// True if a peer belongs and may be sent calls: one whose key two devices use gets none.
    pub(crate) fn may_get_calls(&self, peer: &PeerId) -> bool {
        self.trust.member(peer).is_some() && !self.links.is_copied(peer, self.now_ms)
    }

    /// True if this incarnation of a peer's store is known here, and another has taken its place.
    pub(crate) fn is_over(&self, peer: &PeerId, incarnation: Incarnation) -> bool {
        let present = self.nodes.entry(peer).map(|entry| &entry.entry).filter(|now| now.incarnation != incarnation);
        let last = self.logs.latest_clock(peer, incarnation);
        last.zip(present).is_some_and(|(last, present)| last < present.hlc)
    }

    /// True if an excluded author wrote this behind the cut-off of its revocation.
    pub(crate) fn is_void(&self, place: &Place) -> bool {
        self.trust.is_excluded(&place.author) && !self.trust.admits(&place.author, place.incarnation, place.seq)
    }

    /// Peers that are online: as the gateway knows by its node streams, others as it reports, and without one by links.
    /// `sessions` are the node streams that this peer has.
    pub(crate) fn online(&self, sessions: impl Iterator<Item = PeerId>) -> BTreeSet<PeerId> {
        let mut online: BTreeSet<PeerId> = if self.leads() {
            sessions.collect()
        } else if self.gateway().is_some() {
            self.nodes.told_online().clone()
        } else {
            self.election.neighbours().collect()
        };
        online.insert(self.me());
        online
    }

    /// Reasons for which this peer must neither lead nor start calls, although it belongs.
    pub(crate) fn halts(&self) -> impl Iterator<Item = Halt> + 'a {
        self.incarnations.halt().into_iter().chain(self.logs.unsupported.halts(self.trust))
    }

    /// The first reason for which this peer must neither lead nor start calls, for people.
    pub(crate) fn halt(&self) -> Option<String> {
        if self.is_excluded_here() {
            return Some(EXCLUDED.to_owned());
        }
        self.halts().next().map(|halt| halt.to_string())
    }

    /// Peers that may lead, each with its class.
    pub(crate) fn candidates(&self) -> BTreeMap<PeerId, u8> {
        let me = self.me();
        let mut candidates: BTreeMap<PeerId, u8> = self
            .nodes
            .directories()
            .filter(|(peer, directory)| directory.eligible && **peer != me && self.trust.is_owner(peer))
            .map(|(peer, directory)| (*peer, directory.class))
            .collect();
        for (peer, member) in &self.trust.membership().members {
            if member.tier == Tier::Owner && *peer != me && self.nodes.entry(peer).is_none() {
                candidates.insert(*peer, 0);
            }
        }
        let config = self.config();
        if config.eligible && self.trust.is_owner(&me) && self.halts().next().is_none() {
            candidates.insert(me, config.class.0);
        }
        candidates
    }

    /// Name of this device; of one that belongs to no mesh, a word that says so.
    pub(crate) fn own_name(&self) -> NodeId {
        let (me, trust) = (self.me(), self.trust);
        let awaiting = || Some(trust.membership().awaiting_reapproval.get(&me)?.node_id.clone());
        self.nodes.name(&me, trust).or_else(awaiting).unwrap_or_else(|| NodeId::slug("revoked"))
    }

    /// The mesh as this peer sees it, with these peers online, and these relays for those who want one.
    pub(crate) fn view(&self, online: &BTreeSet<PeerId>, now: Now, relays: BTreeMap<PeerId, Vec<PeerId>>) -> View {
        let (me, trust) = (self.me(), self.trust);
        let awaiting = &trust.membership().awaiting_reapproval;
        let reapproval = |(peer, awaiting): (&PeerId, &AwaitingReapproval)| ReapprovalView {
            peer: *peer,
            key: awaiting.key,
            node_id: awaiting.node_id.clone(),
            tier: awaiting.tier,
            approved_by: awaiting.by,
            revoked_by: awaiting.revoked_by,
        };
        View {
            me,
            node_id: self.own_name(),
            mesh: trust.mesh(),
            mesh_name: trust.name().to_owned(),
            incarnation: self.logs.incarnation(),
            boot: self.local.boot,
            revoked: trust.is_revoked(&me),
            awaiting_reapproval: awaiting.iter().map(reapproval).collect(),
            vouched_by: trust.membership().vouched_by.clone(),
            halts: self.halts().collect(),
            copied: self.links.copied(self.now_ms).collect(),
            forked: self.logs.forked().collect(),
            stopped: self.logs.stopped(now),
            disk: self.local.disk,
            gateway: self.election.gateway(),
            fence: self.election.fence().epoch,
            links: self.election.neighbours().collect(),
            relays,
            nodes: self.nodes.view(online, trust),
            rights: self.rights.view().clone(),
            said: self.rights.said(),
        }
    }
}
