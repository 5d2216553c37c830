//! Newcomers: devices that want into this mesh, with an invite or by a person's approval.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use mesh_core::ids::{Hash, NodeId, PeerId};
use mesh_core::io::{Command, Now, Refusal, Reply, View};
use mesh_core::record::Tier;
use tokio::sync::mpsc;

use super::effect::{DoorAnswer, DoorReply, Effect, Errand};
use super::tags::{self, Tags};
use crate::mesh::error::MeshError;
use crate::mesh::events::EventKind;
use crate::mesh::joining::Grant;
use crate::mesh::snapshot::Pending;
use crate::mesh::transport::{JoinAnswer, JoinAttempt, Prefix, RefusalCode};

/// Devices that may wait for a person's approval at one peer.
const WAITING_MAX: usize = 64;
/// Those of them that may come from one source, so that one machine cannot keep out the others.
const WAITING_PER_SOURCE_MAX: usize = 16;

/// Devices that wait for a person's approval.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    waiting: BTreeMap<PeerId, Newcomer>,
}

#[derive(Debug)]
struct Newcomer {
    pending: Pending,
    /// Our name.
    host: NodeId,
    answers: mpsc::Sender<JoinAnswer>,
}

impl Newcomers {
    /// Handles a device that asks to join: one with an invite redeems it, one that is a member already gets its
    /// welcome, and any other waits for a person.
    pub(super) fn handle_attempt(
        &mut self,
        attempt: JoinAttempt,
        tags: &Tags,
        (view, now): (&View, Now),
        effects: &mut VecDeque<Effect>,
    ) {
        let JoinAttempt { key, peer, underlay: _, tailnet, address, request, answers } = attempt;
        if let Some(secret) = request.secret {
            let command = Command::Redeem { secret: Hash::of(&secret), key, node_id: request.node_id };
            effects.push_back(Effect::Command(command, Errand::Welcome(answers)));
            return;
        }
        if let Some(node) = view.by_peer(&peer) {
            // Approved already, perhaps while it was away.
            let (node_id, tier) = (node.node_id.clone(), node.tier);
            let command = match node.of.clone() {
                Some(of) => Command::ApproveTagged { key, node_id, tier, of },
                None => Command::Approve { key, node_id, tier, stay: None },
            };
            effects.push_back(Effect::Command(command, Errand::Welcome(answers)));
            return;
        }
        let known = self.waiting.get(&peer).map(|waiting| waiting.pending.since_ms);
        if known.is_none() && !self.make_room(Source::of(address.ip()), effects) {
            effects.push_back(Effect::AnswerNewcomer(answers, too_many()));
            return;
        }
        let by_tag = tailnet.as_ref().map(|node| tags.admit(node, view, now.wall_ms));
        let why = match (&tailnet, &by_tag) {
            (Some(node), Some(Err(why))) => tags::asks(node, why),
            (Some(node), _) => tags::asks(node, ""),
            (None, _) => "it asks to join".to_owned(),
        };
        let pending = Pending {
            key,
            peer,
            node_id: request.node_id,
            platform: request.platform,
            address: Some(address),
            tailnet,
            since_ms: known.unwrap_or(now.wall_ms),
            why,
        };
        let newcomer = Newcomer { pending, host: view.node_id.clone(), answers };
        if let Some(Ok((of, tier))) = by_tag {
            let command = Command::ApproveTagged { key, node_id: newcomer.pending.node_id.clone(), tier, of };
            effects.push_back(Effect::Command(command, Errand::Tag(peer)));
        } else {
            effects.push_back(newcomer.waits());
        }
        self.waiting.insert(peer, newcomer);
        announce_change(effects);
    }

    /// Approves a device that waits, one that awaits re-approval, or a member (again, or with another tier).
    pub(super) fn approve(
        &self,
        peer: PeerId,
        grant: Option<Grant>,
        node_id: Option<NodeId>,
        door: DoorReply<NodeId>,
        view: &View,
        effects: &mut VecDeque<Effect>,
    ) {
        let again = || view.awaiting_reapproval.iter().find(|again| again.peer == peer);
        // Only a member keeps its tier: whoever waits is what an owner says, and shared when no more is said.
        let (key, wanted, default) = if let Some(Newcomer { pending, .. }) = self.waiting.get(&peer) {
            (pending.key, &pending.node_id, Tier::Shared)
        } else if let Some(node) = view.by_peer(&peer) {
            (node.key, &node.node_id, node.tier)
        } else if let Some(again) = again() {
            (again.key, &again.node_id, Tier::Shared)
        } else {
            let unknown = Err(MeshError::UnknownPending(peer));
            effects.push_back(Effect::AnswerDoor(DoorAnswer::Approved(door, unknown)));
            return;
        };
        let node_id = node_id.unwrap_or_else(|| wanted.clone());
        let Grant { tier, stay } = grant.unwrap_or_else(|| default.into());
        let command = Command::Approve { key, node_id, tier, stay };
        effects.push_back(Effect::Command(command, Errand::Approve(peer, door)));
    }

    /// Rejects a device that waits, or revokes one that awaits re-approval.
    pub(super) fn reject(&mut self, peer: PeerId, door: DoorReply<()>, view: &View, effects: &mut VecDeque<Effect>) {
        let answer = if let Some(newcomer) = self.waiting.remove(&peer) {
            let detail = "a person there rejected the request".to_owned();
            let refused = JoinAnswer::Refused { code: RefusalCode::Rejected, detail };
            effects.push_back(Effect::AnswerNewcomer(newcomer.answers, refused));
            announce_change(effects);
            Ok(())
        } else if view.awaiting_reapproval.iter().any(|again| again.peer == peer) {
            effects.push_back(Effect::Command(Command::Revoke { peer, unsaid: false }, Errand::Reject(door)));
            return;
        } else {
            Err(MeshError::UnknownPending(peer))
        };
        effects.push_back(Effect::AnswerDoor(DoorAnswer::Done(door, answer)));
    }

    /// Handles the core's answer to a redeemed invite.
    pub(super) fn handle_welcome(
        answers: mpsc::Sender<JoinAnswer>,
        reply: Result<Reply, Refusal>,
        effects: &mut VecDeque<Effect>,
    ) {
        let answer = match reply {
            Ok(Reply::Approved(welcome)) => JoinAnswer::Welcome(welcome),
            Ok(_) => return,
            Err(why) => JoinAnswer::Refused { code: refusal_code(&why), detail: why.to_string() },
        };
        effects.push_back(Effect::AnswerNewcomer(answers, answer));
    }

    /// Handles the core's answer to an approval: the device gets its welcome, and the door of the person the name. Whom its tag
    /// does not let in after all waits for one.
    pub(super) fn handle_approved(
        &mut self,
        peer: PeerId,
        door: Option<DoorReply<NodeId>>,
        reply: Result<Reply, Refusal>,
        effects: &mut VecDeque<Effect>,
    ) {
        let answer = match reply {
            Ok(Reply::Approved(welcome)) => {
                let node_id = welcome.node_id.clone();
                if let Some(newcomer) = self.waiting.remove(&peer) {
                    effects.push_back(Effect::AnswerNewcomer(newcomer.answers, JoinAnswer::Welcome(welcome)));
                }
                announce_change(effects);
                Ok(node_id)
            }
            Ok(_) => Err(MeshError::Stopping),
            Err(why) => {
                if door.is_none()
                    && let Some(newcomer) = self.waiting.get_mut(&peer)
                {
                    newcomer.pending.why = format!("{}, and its tag does not let it in: {why}", newcomer.pending.why);
                    effects.push_back(newcomer.waits());
                    announce_change(effects);
                }
                Err(why.into())
            }
        };
        effects.extend(door.map(|door| Effect::AnswerDoor(DoorAnswer::Approved(door, answer))));
    }

    /// Returns the devices that await a person: those that ask to join, and those that await re-approval. `before` is
    /// what was published last.
    pub(super) fn pending(&self, view: &View, before: &[Pending], now: Now) -> Vec<Pending> {
        let since = |peer: &PeerId| before.iter().find(|pending| pending.peer == *peer).map(|pending| pending.since_ms);
        let again = view
            .awaiting_reapproval
            .iter()
            .filter(|again| again.peer != view.me && !self.waiting.contains_key(&again.peer))
            .map(|again| Pending {
                key: again.key,
                peer: again.peer,
                node_id: again.node_id.clone(),
                platform: String::new(),
                address: None,
                tailnet: None,
                since_ms: since(&again.peer).unwrap_or(now.wall_ms),
                why: again.why(),
            });
        self.waiting.values().map(|waiting| waiting.pending.clone()).chain(again).collect()
    }

    /// Returns true if one more from this source may wait, perhaps in the place of one that has gone, or of the newest
    /// from the source that has the most of them: so that the places are shared out, and nobody is kept out by some who
    /// came before with more.
    fn make_room(&mut self, source: Source, effects: &mut VecDeque<Effect>) -> bool {
        if self.has_room(source) {
            return true;
        }
        self.waiting.retain(|_, waiting| !waiting.answers.is_closed());
        let here = self.count(source);
        if !self.has_room(source)
            && here < WAITING_PER_SOURCE_MAX
            && let Some((most, newest)) = self.largest_share()
            && most > here + 1
            && let Some(newcomer) = self.waiting.remove(&newest)
        {
            effects.push_back(Effect::AnswerNewcomer(newcomer.answers, too_many()));
            announce_change(effects);
        }
        self.has_room(source)
    }

    fn has_room(&self, source: Source) -> bool {
        self.waiting.len() < WAITING_MAX && self.count(source) < WAITING_PER_SOURCE_MAX
    }

    fn count(&self, source: Source) -> usize {
        self.waiting.values().filter(|waiting| waiting.source() == Some(source)).count()
    }

    /// The source from which the most wait: how many, and the newest of them.
    fn largest_share(&self) -> Option<(usize, PeerId)> {
        let mut shares: BTreeMap<Source, (usize, u64, PeerId)> = BTreeMap::new();
        for (peer, waiting) in &self.waiting {
            let Some(source) = waiting.source() else { continue };
            let (count, since_ms, newest) = shares.entry(source).or_insert((0, 0, *peer));
            *count += 1;
            if waiting.pending.since_ms >= *since_ms {
                (*since_ms, *newest) = (waiting.pending.since_ms, *peer);
            }
        }
        shares.into_values().max().map(|(count, _, newest)| (count, newest))
    }
}

impl Newcomer {
    /// It is told that it waits for a person.
    fn waits(&self) -> Effect {
        Effect::AnswerNewcomer(self.answers.clone(), JoinAnswer::Waiting { node_id: self.host.clone() })
    }

    fn source(&self) -> Option<Source> {
        self.pending.address.map(|address| Source::of(address.ip()))
    }
}

/// Whoever may be one machine: an IPv4 address, or all IPv6 addresses of a /64, of which a machine has as many as it
/// likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Address(IpAddr),
    Prefix(Prefix),
}

impl Source {
    fn of(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        if ip.is_ipv4() { Self::Address(ip) } else { Self::Prefix(Prefix::of(ip)) }
    }
}

fn too_many() -> JoinAnswer {
    let detail = "as many devices as may wait for an answer already; try again later".to_owned();
    JoinAnswer::Refused { code: RefusalCode::TooMany, detail }
}

fn announce_change(effects: &mut VecDeque<Effect>) {
    effects.extend([Effect::Tell(EventKind::Pending), Effect::PublishSurroundings]);
}

/// The code of the core's refusal for a newcomer.
fn refusal_code(refusal: &Refusal) -> RefusalCode {
    match refusal {
        Refusal::InviteUnknown => RefusalCode::InviteUnknown,
        Refusal::InviteUsed => RefusalCode::InviteUsed,
        Refusal::InviteExpired => RefusalCode::InviteExpired,
        Refusal::InviteVoid => RefusalCode::InviteVoid,
        Refusal::NeedsNewKey => RefusalCode::NeedsNewKey,
        Refusal::NotOwner | Refusal::NotMember => RefusalCode::NotOwner,
        Refusal::UnknownNode(_)
        | Refusal::NameTaken(_)
        | Refusal::UnknownTool { .. }
        | Refusal::UnknownCall(_)
        | Refusal::QueueFull { .. }
        | Refusal::OverBudget { .. }
        | Refusal::RateLimited(_)
        | Refusal::DiskFull { .. }
        | Refusal::KeyReused(_)
        | Refusal::Denied(_)
        | Refusal::NotApprover(_)
        | Refusal::AlreadyDecided(_)
        | Refusal::AskOver(_)
        | Refusal::UnknownHour(_)
        | Refusal::NotAllowed(_)
        | Refusal::InvalidRecord(_)
        | Refusal::EditedMeanwhile
        | Refusal::Declared { .. }
        | Refusal::CheckFailed { .. }
        | Refusal::Invalid(_)
        | Refusal::Full(_)
        | Refusal::LastOwner
        | Refusal::Stopping => RefusalCode::Invalid,
    }
}
