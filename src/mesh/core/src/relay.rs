//! Relayed links: links of two peers whose packets a third, linked to both, passes on (`docs/protocol.md`, Relaying).
//!
//! Here is decided what the mesh makes of them: which are wanted (`wanted`), by whom ([`Desk`]), on which of two ways
//! a packet goes ([`Path`]), when the two try each other directly ([`Punches`]), and how far a peer reaches (`Reach`). A relayed link is a link as any other: beacons,
//! leases, logs and node streams do not ask how their bytes travel. It ends where its relays do, so that what depends
//! on it is counted behind what stands by itself.

mod desk;
mod path;
mod punch;

use std::collections::{BTreeMap, BTreeSet};

pub use desk::{Ask, Desk, Refusal, Ticket};
pub use path::{Path, Penalties, Ways};
pub use punch::{Punches, ROUNDS_MS, may_be_punched};

pub use crate::via::Via;

use crate::facts::Facts;
use crate::ids::PeerId;
use crate::protocol_rule::ProtocolRule;
use crate::record::Tier;
use crate::via::Reach;

/// The service of one that may be reached by a relay. Its directory record lists it.
pub const RELAYED_SERVICE: u16 = 3;
/// The service of one that relays for others.
pub const RELAYING_SERVICE: u16 = 4;
/// Relays that are named for one peer: two carry it, the others are there when these fail.
const NAMED_MAX: usize = 4;

/// Members to whom we want a link by relay, as there is no direct one, each with those who may carry it, best first:
/// the gateway to everyone, everyone to the gateway, and no other pair. Nobody without a relay is named.
///
/// Only one hop: a relay stands on direct links to both ends. Its word about its links is not proven; one that lies is
/// a relay that does not answer.
pub(crate) fn wanted(facts: &Facts<'_>) -> BTreeMap<PeerId, Vec<PeerId>> {
    let me = facts.me();
    let Some(gateway) = facts.gateway() else { return BTreeMap::new() };
    let direct: BTreeSet<PeerId> = if facts.trust.enforces(ProtocolRule::RelaysStayNamed) {
        facts.logs.direct().collect()
    } else {
        facts.election.neighbours().collect()
    };
    let carriers: Vec<PeerId> = in_order(direct.iter().copied().filter(|peer| may_relay(facts, peer)), facts);
    let members = facts.trust.membership().members.keys().copied();
    members
        .filter(|peer| *peer != me && (gateway == me || gateway == *peer) && !direct.contains(peer))
        .filter(|peer| serves(facts, peer, RELAYED_SERVICE))
        .filter_map(|peer| {
            let links_it =
                |relay: &&PeerId| **relay != peer && facts.logs.linked_directly_to(relay).any(|to| *to == peer);
            let relays: Vec<PeerId> = carriers.iter().filter(links_it).take(NAMED_MAX).copied().collect();
            (!relays.is_empty()).then_some((peer, relays))
        })
        .collect()
}

/// Reach of this peer and of each of its neighbours reach, as far as they said.
pub(crate) fn reaches(facts: &Facts<'_>) -> BTreeMap<PeerId, Reach> {
    let peers = facts.election.neighbours().chain([facts.me()]);
    peers.map(|peer| (peer, reach(facts, &peer))).collect()
}

fn reach(facts: &Facts<'_>, peer: &PeerId) -> Reach {
    let me = facts.me();
    let links = |of: &PeerId| -> BTreeSet<PeerId> {
        let direct: BTreeSet<PeerId> = if *of == me {
            facts.logs.direct().collect()
        } else {
            facts.logs.linked_directly_to(of).copied().collect()
        };
        direct.into_iter().filter(|other| other != peer && facts.trust.member(other).is_some()).collect()
    };
    let direct = links(peer);
    let mut could = direct.clone();
    for relay in direct.iter().filter(|relay| may_relay(facts, relay)) {
        could.extend(links(relay));
    }
    Reach { could: could.len() + 1, direct: direct.len() + 1 }
}

/// True if this peer relays for others: an owner that says so.
fn may_relay(facts: &Facts<'_>, peer: &PeerId) -> bool {
    let is_owner = facts.trust.member(peer).is_some_and(|member| member.tier == Tier::Owner);
    is_owner && serves(facts, peer, RELAYING_SERVICE)
}

fn serves(facts: &Facts<'_>, peer: &PeerId, service: u16) -> bool {
    facts.nodes.directory(peer).is_some_and(|directory| directory.services.contains(&service))
}

/// The strongest machine first, then the lower id.
fn in_order(peers: impl Iterator<Item = PeerId>, facts: &Facts<'_>) -> Vec<PeerId> {
    let class = |peer: &PeerId| facts.nodes.directory(peer).map_or(0, |directory| directory.class);
    let mut peers: Vec<PeerId> = peers.collect();
    peers.sort_by_key(|peer| (std::cmp::Reverse(class(peer)), *peer));
    peers
}
