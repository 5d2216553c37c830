//! Election: an eventual leader detector with totally ordered durable epochs (`docs/protocol.md`, Election).
//!
//! No quorum: it works with one peer, and two halves of a mesh both have a gateway. Safety does not rest here but on
//! the target's journal; this decides who dispatches, and how soon another does when that one is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::Config;
use crate::crypto::Signer;
use crate::effects::{Effects, Then};
use crate::epoch::{Claim, Epoch, Fence};
use crate::frame::{Beacon, Frame};
use crate::ids::{MeshId, PeerId};
use crate::io::Fact;
use crate::limits;
use crate::protocol_rule::ProtocolRule;
use crate::rows;
use crate::via::Reach;

/// Neighbours asked in one round of queries (`docs/protocol.md`, Election).
const QUERIED_MAX: usize = 8;
/// Interval at which a leader looks for a better neighbour.
const HANDOVER_LOOK_MS: u64 = 5_000;

/// Role of this peer. Never resumed after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// Follows, or waits for `claim_at` to claim.
    Follower { leader: Option<Following>, claim_at: u64 },
    /// Its claim is on the way to the disk.
    Claiming { epoch: Epoch },
    /// Its claim is durable and beaconed.
    Leader { claim: Claim, beaconed_at: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Following {
    beacon: Beacon,
    /// Our clock at which the leader sent that beacon.
    sent_at: u64,
    /// When it is given up.
    lease_until: u64,
    /// Our link to it went down since that beacon: others are asked in every round.
    lost: bool,
}

/// The election core of one peer.
#[derive(Debug, Clone)]
pub(crate) struct Election {
    config: Config,
    me: PeerId,
    /// The mesh of its claims.
    mesh: MeshId,
    fence: Fence,
    /// Our own claims lie above this counter: a store that is older than its promises does not know which it has made.
    floor: u64,
    role: Role,
    /// Linked peers, since when.
    neighbours: BTreeMap<PeerId, u64>,
    /// When these last changed.
    linked_at: u64,
    /// Class of every approved peer that may lead.
    candidates: BTreeMap<PeerId, u8>,
    next_query: u64,
    /// When the gateway last changed.
    changed_at: u64,
    next_handover_look: u64,
    stopped: bool,
}

impl Election {
    pub(crate) fn boot(config: Config, me: PeerId, mesh: MeshId, fence: Option<Fence>, floor: u64, now: u64) -> Self {
        Self {
            config,
            me,
            mesh,
            fence: fence.unwrap_or(Fence { epoch: Epoch::ZERO, proof: None }),
            floor,
            role: Role::Follower { leader: None, claim_at: u64::MAX },
            neighbours: BTreeMap::new(),
            linked_at: now,
            candidates: BTreeMap::new(),
            next_query: now,
            changed_at: now,
            next_handover_look: now,
            stopped: false,
        }
    }

    /// Starts the clock of the first claim: at once when nobody else belongs to the mesh.
    pub(crate) fn start(&mut self, fx: &mut Effects<'_>) {
        let wait = if self.is_alone() { 0 } else { self.config.lease_ms + self.delay(fx) };
        self.role = Role::Follower { leader: None, claim_at: fx.now.mono_ms + wait };
    }

    /// Sets the candidates and their classes: approved owners that say they can lead.
    pub(crate) fn set_candidates(&mut self, candidates: BTreeMap<PeerId, u8>, fx: &mut Effects<'_>) {
        self.candidates = candidates;
        if !self.may_claim() && !matches!(self.role, Role::Follower { .. }) {
            self.resign(None, fx);
        }
        if self.may_claim()
            && let Role::Follower { leader: None, claim_at: u64::MAX } = self.role
        {
            let wait = self.config.lease_ms + self.delay(fx);
            self.role = Role::Follower { leader: None, claim_at: fx.now.mono_ms + wait };
        }
    }

    /// Our own claims lie above this counter from now on; one below it, if we lead by it, may not be the only one.
    pub(crate) fn raise_floor(&mut self, floor: u64, fx: &mut Effects<'_>) {
        self.floor = floor;
        self.resign(None, fx);
    }

    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The epoch that this peer leads or follows.
    pub(crate) fn gateway(&self) -> Option<Epoch> {
        match &self.role {
            Role::Follower { leader, .. } => leader.as_ref().map(|leader| leader.beacon.claim.epoch),
            Role::Claiming { .. } => None,
            Role::Leader { claim, .. } => Some(claim.epoch),
        }
    }

    /// The claim in whose name this peer dispatches, while it leads.
    pub(crate) fn leading_claim(&self) -> Option<&Claim> {
        match &self.role {
            Role::Leader { claim, .. } => Some(claim),
            Role::Follower { .. } | Role::Claiming { .. } => None,
        }
    }

    pub(crate) fn neighbours(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.neighbours.keys().copied()
    }

    pub(crate) fn is_linked(&self, peer: &PeerId) -> bool {
        self.neighbours.contains_key(peer)
    }

    fn is_alone(&self) -> bool {
        self.neighbours.is_empty() && self.candidates.keys().all(|peer| *peer == self.me)
    }

    fn may_claim(&self) -> bool {
        self.config.eligible && !self.stopped && self.candidates.contains_key(&self.me)
    }

    fn class(&self) -> u8 {
        self.config.class.0
    }

    fn delay(&self, fx: &mut Effects<'_>) -> u64 {
        u64::from(4_u8.saturating_sub(self.class())) * self.config.claim_step_ms + fx.below(self.config.claim_jitter_ms)
    }

    pub(crate) fn handle_link_up(&mut self, peer: PeerId, fx: &mut Effects<'_>) {
        self.linked_at = fx.now.mono_ms;
        self.neighbours.insert(peer, fx.now.mono_ms);
        let frame = self.latest_beacon(fx.now.mono_ms).map_or(Frame::Query, Frame::Beacon);
        fx.send(peer, frame);
    }

    pub(crate) fn handle_link_down(&mut self, peer: PeerId, fx: &mut Effects<'_>) {
        self.linked_at = fx.now.mono_ms;
        self.neighbours.remove(&peer);
        let now = fx.now.mono_ms;
        let delay = self.delay(fx);
        let rounds = if fx.enforces(ProtocolRule::LinkDownGrace) { self.config.link_down_grace_ms } else { 0 };
        let grace = now + rounds + delay;
        if let Role::Follower { leader: Some(leader), .. } = &mut self.role
            && leader.beacon.claim.epoch.peer == peer
        {
            // Two rounds of asking fit into the grace, so one cut link does not move the gateway.
            leader.lease_until = leader.lease_until.min(grace);
            leader.lost = true;
            self.query_all(fx);
        }
    }

    /// A beacon, by whatever way. `may_lead`: whether its author belongs to those who may.
    pub(crate) fn handle_beacon(&mut self, from: PeerId, beacon: Beacon, may_lead: bool, fx: &mut Effects<'_>) {
        let epoch = beacon.claim.epoch;
        if epoch.peer == self.me || !may_lead || !self.is_plausible(epoch, fx) {
            return;
        }
        if epoch < self.fence.epoch {
            self.correct(from, fx);
            return;
        }
        let now = fx.now.mono_ms;
        let sent_at = now.saturating_sub(beacon.age_ms);
        if let Role::Follower { leader: Some(leader), .. } = &self.role {
            let known = &leader.beacon.claim;
            if known.epoch == epoch && known.seq >= beacon.claim.seq {
                return;
            }
        }
        self.raise_fence(&beacon.claim, fx);
        let lease_until = sent_at + self.config.lease_ms + self.delay(fx);
        if lease_until <= now {
            return; // an old echo: its epoch counts, its freshness does not
        }
        let changed = self.gateway() != Some(epoch);
        self.forward(from, &beacon, sent_at, fx);
        self.role = Role::Follower {
            leader: Some(Following { beacon, sent_at, lease_until, lost: false }),
            claim_at: u64::MAX,
        };
        if changed {
            self.note_change(fx);
        }
    }

    /// Answers a beacon below our fence: whoever leads by our knowledge, or the proof that the fence is higher.
    fn correct(&self, from: PeerId, fx: &mut Effects<'_>) {
        if let Some(beacon) = self.latest_beacon(fx.now.mono_ms) {
            fx.send(from, Frame::Beacon(beacon));
        } else if let Some(proof) = self.fence.proof.as_ref().filter(|_| fx.enforces(ProtocolRule::Notice)) {
            fx.send(from, Frame::Notice(proof.clone()));
        }
    }

    fn forward(&self, from: PeerId, beacon: &Beacon, sent_at: u64, fx: &mut Effects<'_>) {
        let next: Vec<PeerId> = self
            .neighbours()
            .filter(|peer| *peer != from && *peer != beacon.claim.epoch.peer && !beacon.covered.contains(peer))
            .collect();
        if next.is_empty() || !fx.enforces(ProtocolRule::Forward) {
            return;
        }
        let mut covered = BTreeSet::clone(&beacon.covered);
        covered.extend(self.neighbours());
        covered.insert(self.me);
        let covered = Arc::new(covered);
        let age_ms = fx.now.mono_ms.saturating_sub(sent_at);
        for peer in next {
            fx.send(peer, Frame::Beacon(Beacon { claim: beacon.claim.clone(), age_ms, covered: covered.clone() }));
        }
    }

    pub(crate) fn handle_query(&mut self, from: PeerId, fx: &mut Effects<'_>) {
        if let Some(beacon) = self.latest_beacon(fx.now.mono_ms) {
            fx.send(from, Frame::Beacon(beacon));
        }
    }

    pub(crate) fn handle_notice(&mut self, claim: &Claim, may_lead: bool, fx: &mut Effects<'_>) {
        let epoch = claim.epoch;
        if !may_lead || epoch <= self.fence.epoch || !self.is_plausible(epoch, fx) {
            return;
        }
        let led = matches!(self.role, Role::Leader { .. });
        self.raise_fence(claim, fx);
        if led && self.may_claim() {
            self.claim(fx);
        }
    }

    /// Somebody dispatches in the name of this claim: the fence rises with it, in the same batch as `started`.
    pub(crate) fn observe(&mut self, claim: &Claim, may_lead: bool, fx: &mut Effects<'_>) -> bool {
        let fenced = claim.epoch < self.fence.epoch && fx.enforces(ProtocolRule::Fence);
        if !may_lead || fenced || !self.is_plausible(claim.epoch, fx) {
            return false;
        }
        self.raise_fence(claim, fx);
        true
    }

    pub(crate) fn handle_resign(
        &mut self,
        from: PeerId,
        epoch: Epoch,
        successor: Option<PeerId>,
        fx: &mut Effects<'_>,
    ) {
        let follows = matches!(&self.role, Role::Follower { leader: Some(l), .. } if l.beacon.claim.epoch == epoch);
        if from != epoch.peer || !follows {
            return;
        }
        if successor == Some(self.me) && self.may_claim() {
            self.claim(fx);
        } else {
            let wait = self.config.resign_grace_ms + self.delay(fx);
            self.unfollow(wait, fx);
        }
    }

    pub(crate) fn handle_handover(&mut self, from: PeerId, epoch: Epoch, fx: &mut Effects<'_>) {
        if from == epoch.peer && self.gateway() == Some(epoch) && self.may_claim() {
            self.claim(fx);
        }
    }

    /// Our claim is durable.
    pub(crate) fn handle_claimed(&mut self, epoch: Epoch, signer: &dyn Signer, fx: &mut Effects<'_>) {
        let claim = Claim::sign(signer, self.mesh, epoch, 1);
        if self.fence.epoch == epoch && self.fence.proof.is_none() {
            // Also where it may not lead by it any more: whoever leads below must rise above it.
            self.fence.proof = Some(claim.clone());
        }
        if self.role != (Role::Claiming { epoch }) {
            return;
        }
        if self.fence.epoch != epoch || !self.may_claim() {
            let wait = self.config.lease_ms + self.delay(fx);
            self.role = Role::Follower { leader: None, claim_at: fx.now.mono_ms + wait };
            return;
        }
        self.lead(claim, fx);
        self.note_change(fx);
    }

    fn lead(&mut self, claim: Claim, fx: &mut Effects<'_>) {
        self.fence.proof = Some(claim.clone());
        self.role = Role::Leader { claim, beaconed_at: fx.now.mono_ms };
        if let Some(beacon) = self.latest_beacon(fx.now.mono_ms) {
            let peers: Vec<PeerId> = self.neighbours().collect();
            for peer in peers {
                fx.send(peer, Frame::Beacon(beacon.clone()));
            }
        }
    }

    /// The machine slept, or this process was not run for long: whatever was believed may be over.
    pub(crate) fn handle_late_wake(&mut self, fx: &mut Effects<'_>) {
        if self.is_alone() {
            return;
        }
        let wait = self.config.query_after_ms + self.delay(fx);
        match &mut self.role {
            Role::Leader { .. } => self.resign(None, fx),
            Role::Follower { leader: Some(leader), .. } => {
                leader.lease_until = fx.now.mono_ms + wait;
            }
            Role::Follower { leader: None, claim_at } => {
                if *claim_at != u64::MAX {
                    *claim_at = (*claim_at).max(fx.now.mono_ms + wait);
                }
            }
            Role::Claiming { .. } => {}
        }
        self.query_all(fx);
    }

    /// Gives the role up and says so. Harmless when we do not lead.
    pub(crate) fn resign(&mut self, successor: Option<PeerId>, fx: &mut Effects<'_>) {
        if let Role::Leader { claim, .. } = &self.role {
            let epoch = claim.epoch;
            let peers: Vec<PeerId> = self.neighbours().collect();
            for peer in peers {
                fx.send(peer, Frame::Resign { epoch, successor });
            }
        }
        if !matches!(self.role, Role::Follower { .. }) {
            let wait = self.config.resign_grace_ms + self.config.lease_ms + self.delay(fx);
            self.unfollow(wait, fx);
        }
    }

    /// Clean stop: hands on to the best connected candidate and never claims again. True when somebody was asked to.
    pub(crate) fn stop(&mut self, fx: &mut Effects<'_>) -> bool {
        self.stopped = true;
        let led = matches!(self.role, Role::Leader { .. });
        let successor =
            self.neighbours().filter_map(|p| self.candidates.get(&p).map(|class| (*class, p))).max().map(|(_, p)| p);
        let successor = successor.filter(|_| fx.enforces(ProtocolRule::Successor));
        self.resign(successor, fx);
        led && successor.is_some()
    }

    pub(crate) fn handle_timeout(
        &mut self,
        signer: &dyn Signer,
        reaches: &BTreeMap<PeerId, Reach>,
        fx: &mut Effects<'_>,
    ) {
        let now = fx.now.mono_ms;
        match &self.role {
            Role::Leader { claim, beaconed_at } => {
                if now >= beaconed_at + self.config.beacon_ms {
                    let next = Claim::sign(signer, self.mesh, claim.epoch, claim.seq + 1);
                    self.lead(next, fx);
                }
                if now >= self.next_handover_look {
                    self.next_handover_look = now + HANDOVER_LOOK_MS;
                    self.offer_handover(reaches, fx);
                }
            }
            Role::Follower { leader: Some(leader), .. } => {
                if now >= leader.lease_until {
                    if self.may_claim() {
                        self.claim(fx);
                    } else {
                        self.unfollow(u64::MAX, fx);
                    }
                } else if now >= self.query_at(leader) {
                    self.query_all(fx);
                }
            }
            Role::Follower { leader: None, claim_at } => {
                if now >= *claim_at && self.may_claim() {
                    self.claim(fx);
                } else if now >= self.next_query && !self.neighbours.is_empty() {
                    self.query_all(fx);
                }
            }
            Role::Claiming { .. } => {}
        }
    }

    /// True if this peer leads, and it is time to look for a neighbour that would do better.
    pub(crate) fn looks_for_better(&self, now_ms: u64) -> bool {
        matches!(self.role, Role::Leader { .. }) && now_ms >= self.next_handover_look
    }

    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        match &self.role {
            Role::Leader { beaconed_at, .. } => {
                // Without neighbours a beacon says nothing to anybody: an idle mesh of one sleeps.
                (!self.neighbours.is_empty()).then_some(beaconed_at + self.config.beacon_ms)
            }
            Role::Follower { leader: Some(leader), .. } => Some(leader.lease_until.min(self.query_at(leader))),
            Role::Follower { leader: None, claim_at } => {
                let claim = if self.may_claim() { *claim_at } else { u64::MAX };
                let query = if self.neighbours.is_empty() { u64::MAX } else { self.next_query };
                Some(claim.min(query)).filter(|at| *at != u64::MAX)
            }
            Role::Claiming { .. } => None,
        }
    }

    /// When others are asked next about the leader that we follow.
    fn query_at(&self, leader: &Following) -> u64 {
        let silent = if leader.lost { 0 } else { leader.sent_at + self.config.query_after_ms };
        self.next_query.max(silent)
    }

    fn claim(&mut self, fx: &mut Effects<'_>) {
        let Some(counter) = self.fence.epoch.counter.max(self.floor).checked_add(1) else {
            fx.fact(Fact::Warning("cannot lead: no epoch is left above the highest that was claimed", self.me));
            return self.unfollow(u64::MAX, fx);
        };
        let epoch = Epoch { counter, class: self.class(), peer: self.me };
        let had = self.gateway().is_some();
        // Without a proof nobody can be shown it before we lead: a Notice would make the other claim again.
        self.fence = Fence { epoch, proof: None };
        fx.put(rows::fence(), &self.fence);
        fx.then(Then::Claimed(epoch));
        self.role = Role::Claiming { epoch };
        if had {
            self.note_change(fx);
        }
    }

    fn unfollow(&mut self, wait: u64, fx: &mut Effects<'_>) {
        let had = self.gateway().is_some();
        self.role = Role::Follower { leader: None, claim_at: fx.now.mono_ms.saturating_add(wait) };
        self.query_all(fx);
        if had {
            self.note_change(fx);
        }
    }

    /// Raises the fence in memory and in this step's batch, and drops whatever it puts an end to.
    fn raise_fence(&mut self, claim: &Claim, fx: &mut Effects<'_>) {
        if claim.epoch <= self.fence.epoch {
            if self.fence.proof.is_none() && claim.epoch == self.fence.epoch {
                self.fence.proof = Some(claim.clone());
            }
            return;
        }
        self.fence = Fence { epoch: claim.epoch, proof: Some(claim.clone()) };
        if fx.enforces(ProtocolRule::FenceDurable) {
            fx.put(rows::fence(), &self.fence);
            fx.sync = true;
        }
        let superseded = match &self.role {
            Role::Follower { leader, .. } => {
                leader.as_ref().is_some_and(|leader| leader.beacon.claim.epoch < claim.epoch)
            }
            Role::Claiming { .. } | Role::Leader { .. } => true,
        };
        if superseded {
            let wait = self.config.lease_ms + self.delay(fx);
            self.unfollow(wait, fx);
        }
    }

    fn is_plausible(&self, epoch: Epoch, fx: &mut Effects<'_>) -> bool {
        let plausible = !fx.enforces(ProtocolRule::EpochJump)
            || epoch.counter <= self.fence.epoch.counter.saturating_add(limits::EPOCH_JUMP_MAX);
        if !plausible {
            fx.fact(Fact::Warning("claimed an epoch too far ahead; refused", epoch.peer));
        }
        plausible
    }

    /// The freshest sign of a live leader that we can pass on.
    fn latest_beacon(&self, now: u64) -> Option<Beacon> {
        match &self.role {
            Role::Leader { claim, beaconed_at } => {
                Some(Beacon { claim: claim.clone(), age_ms: now.saturating_sub(*beaconed_at), covered: self.covered() })
            }
            Role::Follower { leader: Some(leader), .. } if now < leader.lease_until => Some(Beacon {
                age_ms: now.saturating_sub(leader.sent_at),
                covered: self.covered(),
                claim: leader.beacon.claim.clone(),
            }),
            Role::Follower { .. } | Role::Claiming { .. } => None,
        }
    }

    /// Peers that a beacon reaches by us if we send it now.
    fn covered(&self) -> Arc<BTreeSet<PeerId>> {
        Arc::new(self.neighbours().chain([self.me]).collect())
    }

    fn query_all(&mut self, fx: &mut Effects<'_>) {
        self.next_query = fx.now.mono_ms + self.config.query_every_ms;
        if !fx.enforces(ProtocolRule::Query) {
            return;
        }
        let peers: Vec<PeerId> = self.neighbours().take(QUERIED_MAX).collect();
        for peer in peers {
            fx.send(peer, Frame::Query);
        }
    }

    /// Hands the role to a neighbour that has been linked to more members than we are for a while, so that calls reach
    /// those too, or to one that is linked to as many and of a better class.
    fn offer_handover(&mut self, reaches: &BTreeMap<PeerId, Reach>, fx: &mut Effects<'_>) {
        let now = fx.now.mono_ms;
        let Some(epoch) = self.gateway() else { return };
        if now < self.changed_at.max(self.linked_at) + self.config.handover_after_ms {
            return;
        }
        let settled = now >= self.changed_at + self.config.handover_settle_ms;
        let Some(ours) = reaches.get(&self.me) else { return };
        let better = self
            .neighbours
            .iter()
            .filter(|(_, since)| now >= **since + self.config.handover_after_ms)
            .filter_map(|(peer, _)| Some((*reaches.get(peer)?, *self.candidates.get(peer)?, *peer)))
            .max()
            .filter(|(reach, class, _)| reach > ours || (settled && reach == ours && *class > self.class()));
        if let Some((_, _, peer)) = better {
            fx.send(peer, Frame::Handover { epoch });
        }
    }

    fn note_change(&mut self, fx: &mut Effects<'_>) {
        self.changed_at = fx.now.mono_ms;
        fx.fact(Fact::Gateway(self.gateway()));
        fx.view_changed = true;
    }
}
