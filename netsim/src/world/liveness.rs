//! Liveness of the election: the peers agree on one gateway in time, and stay with it.

use std::collections::BTreeMap;

use mesh_core::epoch::Epoch;

use super::peer::{Peers, Sim, State};
use super::stats::Stats;
use crate::event::Phase;
use crate::network::{Network, pair_of};
use crate::plan::{MS, SECOND};
use crate::predicates::Checks;

/// one-gateway-for-all: within this time of the last fault.
const SETTLE_US: u64 = 6 * SECOND;
/// one-gateway-for-all: afterwards no unsettled stretch longer than this.
const UNSETTLED_US: u64 = SECOND;
/// relayed-where-it-can-be: within this time. Two ends notice a cut after 2.4 s, and dial every second.
const RELAYED_US: u64 = 6 * SECOND;
/// Extra wait of class 0 before it claims.
const CLASS_0_US: u64 = 500 * MS;
/// Longest fsync that comes by chance.
const ODD_FSYNC_US: u64 = 300 * MS;

/// The phase of the run, and what was seen of its gateways.
pub(super) struct Liveness {
    pub(super) phase: Phase,
    pub(super) phase_at: u64,
    /// The shape of the mesh changed since it was last judged.
    dirty: bool,
    settled_at: Option<u64>,
    unsettled_at: u64,
    settle_noted: bool,
    /// The gateway that the cut of one link must not change.
    pub(super) kept: Option<Epoch>,
    /// When the leader went, undisturbed by anything else, and whether it was asked to.
    takeover: Option<(u64, bool)>,
    /// Members without a link to the gateway that could have one, since when.
    unrelayed: BTreeMap<usize, u64>,
    /// The plan has leaders hand over.
    handovers: bool,
}

impl Liveness {
    pub(super) fn new(handovers: bool) -> Self {
        Self {
            phase: Phase::Setup,
            phase_at: 0,
            dirty: true,
            settled_at: None,
            unsettled_at: 0,
            settle_noted: true,
            kept: None,
            takeover: None,
            unrelayed: BTreeMap::new(),
            handovers,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now: u64) {
        self.takeover = None;
        self.phase = phase;
        self.phase_at = now;
        self.dirty = true;
        self.settle_noted = matches!(phase, Phase::Setup | Phase::Faults | Phase::LinkCut | Phase::End);
    }

    /// Anything about the shape of the mesh changed.
    pub(super) fn unsettle(&mut self) {
        self.dirty = true;
    }

    /// Something goes wrong: no takeover is undisturbed any more.
    pub(super) fn disturb(&mut self) {
        self.takeover = None;
    }

    /// **relayed-where-it-can-be**: in a mesh where nothing goes wrong, the gateway and a member are linked while one that
    /// relays is linked to both, whatever is cut between the two.
    pub(super) fn relayed_where_it_can_be(&mut self, now: u64, peers: &Peers, network: &Network, checks: &mut Checks) {
        let calm = matches!(self.phase, Phase::Quiet | Phase::LinkCut) && network.loss == 0;
        let Some(gateway) = peers.iter().find(|sim| sim.leads()).map(|sim| sim.index).filter(|_| calm) else {
            self.unrelayed.clear();
            return;
        };
        for member in peers.iter().filter(|sim| sim.index != gateway && sim.awake() && sim.is_member()) {
            let follows = member.gateway == peers[gateway].gateway;
            let linked = network.sees_link(gateway, member.index) && network.sees_link(member.index, gateway);
            let ends = [gateway, member.index];
            let known = |relay: usize| {
                let is_owner = |end: usize| peers[end].holds_for_owner(&peers[relay].id) == Some(true);
                ends.into_iter().all(|end| is_owner(end) && peers.trusts(relay, end) && peers.trusts(end, relay))
            };
            let could = |relay: usize| network.could_relay(relay, pair_of(gateway, member.index).0) && known(relay);
            let can = || (0..peers.len()).any(could);
            if linked || !follows || !can() {
                self.unrelayed.remove(&member.index);
                continue;
            }
            let since = *self.unrelayed.entry(member.index).or_insert(now);
            if now > since + RELAYED_US {
                checks
                    .fail("relayed-where-it-can-be", now, || format!("p{gateway} and p{} have no link", member.index));
            }
        }
    }

    /// True if the mesh has been settled for so long.
    pub(super) fn settled_for(&self, us: u64, now: u64) -> bool {
        self.settled_at.is_some_and(|at| now >= at + us)
    }

    fn must_be_settled(&self) -> bool {
        matches!(self.phase, Phase::Quiet | Phase::Healed)
    }

    /// **one-gateway-for-all**, kept up as things change: when the mesh settled, and for how long it was not.
    pub(super) fn note_settled(
        &mut self,
        now: u64,
        peers: &Peers,
        network: &Network,
        checks: &mut Checks,
        stats: &mut Stats,
    ) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let settled = settled(peers, network);
        if settled && self.settled_at.is_none() {
            let stretch = now - self.unsettled_at;
            let late = self.unsettled_at.max(self.phase_at + SETTLE_US);
            if self.must_be_settled() && now > late + UNSETTLED_US {
                checks.fail("one-gateway-for-all", now, || format!("no one gateway for all for {} ms", stretch / MS));
            }
            self.settled_at = Some(now);
        } else if !settled && let Some(at) = self.settled_at.take() {
            self.unsettled_at = now;
            self.note_settling(at, now, stats);
        }
    }

    /// **one-gateway-for-all**, afterwards: once settled, in a mesh where nothing goes wrong, nobody changes gateways
    /// but to hand over to a better one.
    pub(super) fn gateway_stays(
        &self,
        now: u64,
        peer: usize,
        before: Option<Epoch>,
        epoch: Option<Epoch>,
        checks: &mut Checks,
    ) {
        let calm = self.must_be_settled() && now >= self.phase_at + SETTLE_US && self.settled_for(SECOND, now);
        if calm && !self.handovers && before.is_some() && before != epoch {
            checks.fail("one-gateway-for-all", now, || {
                format!("p{peer} goes from {before:?} to {epoch:?}, and nothing is wrong")
            });
        }
    }

    /// **one-cut-moves-nothing** cutting one link of a connected component does not change the gateway: every change of
    /// belief while it is cut is judged.
    pub(super) fn gateway_kept(&self, now: u64, peer: usize, epoch: Option<Epoch>, checks: &mut Checks) {
        if self.phase == Phase::LinkCut && !self.handovers && epoch != self.kept {
            checks.fail("one-cut-moves-nothing", now, || {
                format!("one link cut, and p{peer} goes from {:?} to {epoch:?}", self.kept)
            });
        }
    }

    fn note_settling(&mut self, at: u64, now: u64, stats: &mut Stats) {
        let at = at.max(self.phase_at);
        if !self.settle_noted && now >= at + SECOND {
            self.settle_noted = true;
            stats.settle_us.push(at - self.phase_at);
        }
    }

    /// Looked at now and then.
    pub(super) fn look(&mut self, now: u64, stats: &mut Stats) {
        if let Some(at) = self.settled_at {
            self.note_settling(at, now, stats);
        }
    }

    /// **one-gateway-for-all**: the mesh is still not settled, and should be.
    pub(super) fn is_overdue(&self, now: u64) -> bool {
        let late = self.unsettled_at.max(self.phase_at + SETTLE_US - UNSETTLED_US) + UNSETTLED_US;
        self.settled_at.is_none() && now > late
    }

    /// A peer goes, perhaps the leader while nothing else is wrong: then it is measured how long until another leads.
    pub(super) fn note_leaving(&mut self, now: u64, peer: usize, asked: bool, peers: &Peers, network: &Network) {
        let undisturbed = self.phase == Phase::Faults && is_undisturbed_takeover(now, peer, peers, network);
        self.takeover = undisturbed.then_some((now, asked));
    }

    /// **takeover-in-time** where nothing else goes wrong another leads within 200 ms and a round trip of a clean stop
    /// of the gateway, and within 2 s of its crash (class 0: [`CLASS_0_US`] more). Slow disks, which the promise does
    /// not count, are added.
    pub(super) fn taken_over(
        &mut self,
        now: u64,
        heir: &Sim,
        class: u8,
        network: &Network,
        checks: &mut Checks,
        stats: &mut Stats,
    ) {
        let Some((since, asked)) = self.takeover.take() else { return };
        let took = now - since;
        stats.takeovers.push((asked, class, took));
        let latency = network.pairs.iter().map(|(_, pair)| pair.latency_us).max().unwrap_or(0);
        let within = if asked { 200 * MS } else { 2 * SECOND + if class == 0 { CLASS_0_US } else { 0 } };
        let disks = 2 * heir.plan.fsync_us.1 + ODD_FSYNC_US;
        if took > within + 4 * latency + disks {
            let how = if asked { "clean stop" } else { "crash" };
            checks
                .fail("takeover-in-time", now, || format!("p{} leads only {} ms after a {how}", heir.index, took / MS));
        }
    }
}

/// True if every component has one gateway that all follow, or none when nobody may lead.
fn settled(peers: &Peers, network: &Network) -> bool {
    let count = peers.len();
    let mut done = vec![false; count];
    for start in 0..count {
        if done[start] || !peers[start].is_member() {
            continue;
        }
        let mut component = vec![start];
        done[start] = true;
        let mut next = 0;
        while let Some(&at) = component.get(next) {
            next += 1;
            for (other, done) in done.iter_mut().enumerate() {
                if !*done
                    && peers[other].is_member()
                    && !network.pairs[&pair_of(at, other).0].is_cut()
                    && peers.trusts(at, other)
                    && peers.trusts(other, at)
                {
                    *done = true;
                    component.push(other);
                }
            }
        }
        // One that was let in again as an owner, and whose key another used meanwhile, holds that it is one of two.
        let must_lead = |peer: &usize| peers[*peer].plan.eligible && peers[*peer].owner && !peers[*peer].forged;
        let gateway = peers[start].gateway;
        let agreed = component.iter().all(|peer| peers[*peer].gateway == gateway);
        let sound = match gateway {
            Some(epoch) => component.iter().any(|peer| peers[*peer].id == epoch.peer),
            None => !component.iter().any(must_lead),
        };
        if !agreed || !sound {
            return false;
        }
    }
    true
}

/// True if this peer leads, all who can be asked follow it, an heir is there, and nothing else is wrong.
fn is_undisturbed_takeover(now: u64, peer: usize, peers: &Peers, network: &Network) -> bool {
    let calm = network.loss == 0
        && network.pairs.iter().all(|(_, pair)| !pair.is_cut() && pair.loss == [0; 2])
        && peers.iter().all(|sim| {
            matches!(sim.state, State::Running | State::Absent)
                && !sim.frozen()
                // Who was asked to stop leads no more.
                && (sim.index == peer || !sim.stopping)
                && sim.stall_us == 0
                && sim.stalled_until <= now
        });
    let followed = peers.iter().all(|other| !other.awake() || other.gateway == peers[peer].gateway);
    // At both ends: a peer that the leader has given up is not told of its stop, whatever it still believes itself.
    let linked = peers.iter().all(|other| {
        let both = network.sees_link(other.index, peer) && network.sees_link(peer, other.index);
        other.index == peer || !other.awake() || both
    });
    let heir = |other: &Sim| other.awake() && other.plan.eligible && other.owner;
    let heirs = peers.iter().any(|other| other.index != peer && heir(other));
    peers[peer].leads() && heirs && calm && followed && linked
}

/// Everyone's belief about the gateway, for people.
pub(super) fn beliefs(peers: &Peers, network: &Network) -> String {
    let believes = peers.iter().enumerate().map(|(peer, sim)| {
        let whom = sim.gateway.map(|epoch| (peers.index_of(&epoch.peer), epoch.counter));
        format!(
            "p{peer} {:?} {whom:?} links {}",
            sim.state,
            (0..peers.len()).filter(|other| *other != peer && network.sees_link(peer, *other)).count()
        )
    });
    believes.collect::<Vec<_>>().join(", ")
}
