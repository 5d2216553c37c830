//! The membership that the changes which count amount to.

use std::collections::{BTreeMap, BTreeSet};

use super::argumentation::{Graph, Node, Positions, Record, raise};
use super::{AwaitingReapproval, KnownEpochs, Member, Membership, Revocation, genesis_of};
use crate::entry::SignedEntry;
use crate::ids::{Hash, Incarnation, NodeId, PeerId};
use crate::limits;
use crate::protocol_rule::{ProtocolRule, ProtocolRules};
use crate::record::{ChangeKind, Tier};

/// An approval, and the name that it gives.
type Approval<'g, 'a> = (&'g Node<'a>, &'a NodeId);

/// Standing of a peer.
struct Deciding<'g, 'a> {
    /// Approval that decides as what, and under which name.
    best: Approval<'g, 'a>,
    /// Of those that could decide, and give the same tier, the nearest to the founder and first. What the peer says rests
    /// on this one: nobody takes it over by approving it once more.
    ground: &'g Node<'a>,
}

/// All that counts about one peer.
#[derive(Default)]
struct About<'g, 'a> {
    approvals: Vec<Approval<'g, 'a>>,
    revocations: Vec<&'g Node<'a>>,
    /// The last revocations, by log.
    revoked: Positions,
    /// The last approvals to less than owner, by log.
    lowered: Positions,
    /// All that the signer of some approval knew, and of some approval as owner.
    known: [Positions; 2],
    /// Approvals that count for nothing, by somebody who was ever an owner.
    refused: Vec<Approval<'g, 'a>>,
}

impl<'g, 'a> About<'g, 'a> {
    fn add(&mut self, node: &'g Node<'a>) {
        let (log, position) = (node.record.log(), node.record.position());
        match &node.record.change.what {
            ChangeKind::Approved { node_id, .. } if !node.counts() => {
                if node.is_rooted() && node.record.subject != node.record.entry.author {
                    self.refused.push((node, node_id));
                }
            }
            ChangeKind::Approved { tier, node_id, .. } => {
                self.approvals.push((node, node_id));
                let known = node.known().iter().map(|(log, position)| (*log, *position));
                // Everyone knows the own log, up to the place before.
                let own = (position.0 > 0).then(|| (log, (position.0 - 1, Hash([u8::MAX; 32]))));
                let as_owner = *tier == Tier::Owner;
                for (log, position) in known.chain(own) {
                    let [by_any, by_owners] = &mut self.known;
                    raise(by_any, log, position);
                    if as_owner {
                        raise(by_owners, log, position);
                    }
                }
                if !as_owner {
                    raise(&mut self.lowered, log, position);
                }
            }
            ChangeKind::Revoked { .. } if node.counts() => {
                self.revocations.push(node);
                raise(&mut self.revoked, log, position);
            }
            ChangeKind::Revoked { .. } => {}
        }
    }

    /// True if some approval that counts knew this, which is about the same peer.
    fn is_known(&self, node: &Node<'_>, by_owners: bool) -> bool {
        let [by_any, by_owner_approvals] = &self.known;
        let known = if by_owners { by_owner_approvals } else { by_any };
        known.get(&node.record.log()).is_some_and(|known| *known >= node.record.position())
    }

    /// Last places at which the peer's statements about rights stand, if it was lowered since; `None`: its whole log. Every
    /// owner that lowered it must have seen what stands.
    fn rights_until(&self) -> Option<BTreeMap<Incarnation, u64>> {
        let lowering = self.approvals.iter().map(|(node, _)| *node).filter(|node| node.record.is_limit());
        let unknown = lowering.filter(|node| !self.is_known(node, true));
        unknown.map(|node| node.record.rights_until()).reduce(|mut all, other| {
            all.retain(|incarnation, last| {
                let seen = other.get(incarnation).copied();
                *last = (*last).min(seen.unwrap_or(0));
                seen.is_some()
            });
            all
        })
    }

    /// The approvals that know every revocation, and the deciding one: the latest that, if it is one as owner, also knows
    /// every approval to less. Among concurrent ones the lowest tier wins.
    fn deciding(&self, rules: ProtocolRules) -> (Vec<Approval<'g, 'a>>, Option<Deciding<'g, 'a>>) {
        let admits = |node: &Node<'_>| !rules.enforces(ProtocolRule::RevocationWins) || node.knows_all(&self.revoked);
        let admitting: Vec<_> = self.approvals.iter().copied().filter(|(node, _)| admits(node)).collect();
        let decides = |node: &Node<'_>| {
            node.record.is_limit()
                || !rules.enforces(ProtocolRule::DemotionEndsAuthority)
                || node.knows_all(&self.lowered)
        };
        let eligible: Vec<_> = admitting.iter().copied().filter(|(node, _)| decides(node)).collect();
        let mut later = Positions::new();
        for (node, _) in &eligible {
            node.known().iter().for_each(|(log, position)| raise(&mut later, *log, *position));
            let (seq, _) = node.record.position();
            raise(&mut later, node.record.log(), (seq.saturating_sub(1), Hash([u8::MAX; 32])));
        }
        let is_last = |node: &Node<'_>| later.get(&node.record.log()).is_none_or(|at| *at < node.record.position());
        let rank = |node: &Node<'_>| {
            let entry = &node.record.entry;
            (is_last(node), std::cmp::Reverse(node.record.tier()), entry.entry.hlc, entry.author, entry.hash)
        };
        let best = eligible.iter().copied().max_by_key(|(node, _)| rank(node));
        let deciding = best.map(|best| {
            let tier = best.0.record.tier();
            let alike = eligible.iter().map(|(node, _)| *node).filter(|node| node.record.tier() == tier);
            let first = |node: &&Node<'_>| (node.depth, node.record.entry.entry.hlc, node.record.entry.hash);
            Deciding { best, ground: alike.min_by_key(first).unwrap_or(best.0) }
        });
        (admitting, deciding)
    }
}

/// Derives who belongs, as what and under which name.
pub(super) fn membership(graph: &Graph<'_>, genesis: &SignedEntry, rules: ProtocolRules) -> Membership {
    let mut all: BTreeMap<PeerId, About<'_, '_>> = BTreeMap::new();
    for node in graph.nodes() {
        all.entry(node.record.subject).or_default().add(node);
    }
    let founder = genesis.author;
    let mut ordered: Vec<(u64, PeerId, Member)> = Vec::new();
    let by_genesis = all.get(&founder).is_none_or(|about| about.revoked.is_empty() && about.lowered.is_empty());
    if by_genesis && let Some((_, body)) = genesis_of(genesis) {
        let (key, grant) = (genesis.entry.author, genesis.hash);
        let node_id = body.node_id;
        let tier = Tier::Owner;
        let member = Member {
            key,
            tier,
            first_name: node_id.clone(),
            node_id,
            depth: 0,
            by: None,
            since_ms: 0,
            named_hlc: 0,
            confirmed: true,
            grant,
            stay: None,
            of: None,
        };
        ordered.push((0, founder, member));
    }
    let mut derived = Membership::default();
    derived.said_rights.insert(founder, None);
    let inherited = graph.known_epochs();
    for (peer, about) in &all {
        let (admitting, best) = about.deciding(rules);
        if let Some(Deciding { best: (node, node_id), ground }) = best
            && !(by_genesis && *peer == founder)
            && let Some(tier) = node.record.tier()
        {
            // Names that are taken back with whoever gave them give way to the last that somebody else gave.
            let kept = |(node, _): &&Approval<'_, '_>| !is_taken_back(node.record, &all, rules);
            let latest = |(node, _): &&Approval<'_, '_>| {
                let entry = &node.record.entry;
                (entry.entry.hlc, entry.author, entry.hash)
            };
            let node_id = if kept(&&(node, node_id)) {
                node_id
            } else {
                admitting.iter().filter(kept).max_by_key(latest).map_or(node_id, |(_, name)| *name)
            };
            // A later approval, to another tier, does not cost a peer its name.
            let named = || admitting.iter().filter(|(_, other)| *other == node_id);
            let first = admitting.iter().min_by_key(|(node, _)| {
                let entry = &node.record.entry;
                (entry.entry.hlc, entry.author, entry.hash)
            });
            let since = named().map(|(node, _)| node.record.entry.entry.hlc).min().unwrap_or_default();
            let entry = &ground.record.entry;
            let member = Member {
                key: node.record.change.subject,
                tier,
                node_id: node_id.clone(),
                first_name: first.map_or(node_id, |(_, name)| *name).clone(),
                depth: ground.depth.saturating_add(1),
                by: Some(entry.author),
                since_ms: entry.entry.hlc >> 16,
                named_hlc: since,
                confirmed: named().filter(kept).any(|(node, _)| node.record.names_seen()),
                grant: entry.hash,
                stay: node.record.stay().cloned(),
                of: node.record.of().cloned(),
            };
            ordered.push((since, *peer, member));
        }
        let revocations = about.revocations.iter().map(|node| Revocation {
            key: node.record.change.subject,
            by: node.record.entry.author,
            hlc: node.record.entry.entry.hlc,
            cutoffs: node.record.cutoffs.clone(),
            unsaid: node.record.unsays(),
            taken_back: about.is_known(node, false),
        });
        if !about.revocations.is_empty() {
            derived.revocations.insert(*peer, revocations.collect());
        }
        let lowering = about.approvals.iter().map(|(node, _)| *node).filter(|node| node.record.is_limit());
        let ending = lowering.chain(about.revocations.iter().copied()).filter(|node| !about.is_known(node, true));
        if *peer == founder || about.approvals.iter().any(|(node, _)| !node.record.is_limit()) {
            derived.said_rights.insert(*peer, about.rights_until());
        }
        let own = ending.map(|node| KnownEpochs { counter: node.record.change.fence, ended: *peer }).min();
        // Whoever was made an owner by no word that stands proves as much as whoever said so.
        let refused = about.refused.iter().filter(|(node, _)| !node.record.is_limit());
        let inherited = refused.filter_map(|(node, _)| inherited.get(&node.record.entry.hash)).max().copied();
        let inherited = inherited.filter(|_| !about.approvals.iter().any(|(node, _)| !node.record.is_limit()));
        if let Some(known) = own.into_iter().chain(inherited).min() {
            derived.known_epochs.insert(*peer, known);
        }
        if *peer == founder {
            continue;
        }
        let vouching = about.approvals.iter().map(|(node, _)| node.record.entry.author);
        let admits = |peer: &PeerId| admitting.iter().any(|(node, _)| node.record.entry.author == *peer);
        let vouching = vouching.filter(|by| admitting.is_empty() || admits(by));
        derived.vouched_by.insert(*peer, vouching.collect());
    }
    derived.vouched_by.retain(|_, by| !by.is_empty());
    derived.members = named(ordered);
    let stays = derived.members.iter().filter(|(_, member)| member.stay.is_some());
    derived.stays = stays.map(|(peer, _)| *peer).collect();
    for (peer, about) in &all {
        if about.revocations.is_empty()
            && !derived.members.contains_key(peer)
            && let Some(awaiting) = awaiting_reapproval(graph, about)
        {
            derived.awaiting_reapproval.insert(*peer, awaiting);
        }
    }
    derived
}

/// True if the owner that removed the author of this approval took back what it said of rights, to which names belong. The
/// approval itself counts: who belongs is judged by itself.
fn is_taken_back(record: &Record, all: &BTreeMap<PeerId, About<'_, '_>>, rules: ProtocolRules) -> bool {
    let entry = &record.entry;
    let takes_back =
        |node: &&Node<'_>| node.record.unsays() && node.record.cutoffs.contains_key(&entry.entry.incarnation);
    let revoked = all.get(&entry.author).is_some_and(|about| about.revocations.iter().any(takes_back));
    revoked && entry.author != record.subject && rules.enforces(ProtocolRule::UnsaidIsVoid)
}

fn awaiting_reapproval(graph: &Graph<'_>, about: &About<'_, '_>) -> Option<AwaitingReapproval> {
    let rank = |node: &Node<'_>| (node.record.entry.entry.hlc, node.record.entry.author, node.record.entry.hash);
    let (node, node_id) = about.refused.iter().max_by_key(|(node, _)| rank(node))?;
    Some(AwaitingReapproval {
        key: node.record.change.subject,
        node_id: (*node_id).clone(),
        tier: node.record.tier()?,
        by: node.record.entry.author,
        revoked_by: graph.voided_by(node).map(|limit| limit.record.entry.author),
    })
}

/// Of two with one name the one approved later becomes `name-2`, everywhere alike; one that took it by itself before one
/// that an owner gave it to.
fn named(mut ordered: Vec<(u64, PeerId, Member)>) -> BTreeMap<PeerId, Member> {
    ordered.sort_by_key(|(since, peer, member)| (!member.confirmed, *since, *peer));
    let mut taken: BTreeSet<NodeId> = BTreeSet::new();
    let mut next: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut members = BTreeMap::new();
    for (_, peer, mut member) in ordered {
        let from = next.get(&member.node_id).copied().unwrap_or(2);
        let (name, nth) = free(&member.node_id, from, |name| taken.contains(name));
        next.insert(std::mem::replace(&mut member.node_id, name.clone()), nth);
        taken.insert(name);
        members.insert(peer, member);
    }
    members
}

/// The wanted name, or the first free one of `wanted-from`, …; and the number after which to go on.
pub(super) fn free(wanted: &NodeId, from: usize, is_taken: impl Fn(&NodeId) -> bool) -> (NodeId, usize) {
    if !is_taken(wanted) {
        return (wanted.clone(), from);
    }
    (from..=limits::PEERS_MAX + from)
        .map(|n| (wanted.variant(n), n))
        .find(|(name, _)| !is_taken(name))
        .unwrap_or_else(|| (wanted.clone(), from))
}
