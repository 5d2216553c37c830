//! Ways into a mesh, from both sides: invites, asking to join, approving, leaving (architecture.md §3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mesh_core::entry::Tier;
use mesh_core::ids::{Hash, NodeId, PeerId};
use mesh_core::io::{Command, Refusal, Reply, View, Welcome};
use mesh_core::peer;
use ring::rand::SecureRandom;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::mesh::actor::{Actor, FatalError, ReplyTo};
use crate::mesh::clock;
use crate::mesh::error::{JoinError, MeshError};
use crate::mesh::events::EventKind;
use crate::mesh::invite::{self, InviteCode};
use crate::mesh::joining::{Invite, JoinTarget, Joined};
use crate::mesh::snapshot::{Nearby, Pending};
use crate::mesh::transport::{Address, JoinAnswer, JoinAttempt, JoinDialError, JoinRequest, Links};

/// Devices that may wait for a person's yes at one peer.
const PENDING_MAX: usize = 64;
/// How many of them from one address, so that one machine cannot keep out the others.
const PENDING_PER_ADDRESS_MAX: usize = 16;
/// Strangers on the LAN that are shown.
const NEARBY_MAX: usize = 256;
/// First and longest pause between two join requests at a door that does not answer.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long an invite that was redeemed may take to get its welcome.
const REDEEM_MAX: Duration = Duration::from_secs(20);
/// After our own leave is durable, the others get this long to hear it.
const FAREWELL: Duration = Duration::from_millis(300);

/// What a conversation of ours came to; handled by the actor.
pub(super) enum Admitted {
    /// We are approved.
    Welcome(Box<Welcome>, PeerId, Address, Option<oneshot::Sender<Result<Joined, MeshError>>>),
    /// A person over there must say yes.
    Waiting(PeerId, Option<oneshot::Sender<Result<Joined, MeshError>>>),
    /// No.
    Refused(JoinError, Option<oneshot::Sender<Result<Joined, MeshError>>>),
    /// We have left, and the others had time to hear it.
    Gone(oneshot::Sender<Result<(), MeshError>>),
}

struct Waiting {
    pending: Pending,
    answers: mpsc::Sender<JoinAnswer>,
}

/// Who wants in here, and where we want in.
pub(super) struct Admission {
    done: mpsc::Sender<Admitted>,
    waiting: BTreeMap<PeerId, Waiting>,
    strangers: BTreeMap<PeerId, Nearby>,
    asking: Option<(PeerId, CancellationToken)>,
    /// Who belonged when we last asked elsewhere.
    members_then: BTreeSet<PeerId>,
    joining: CancellationToken,
    pub(super) discovery_trouble: Option<String>,
}

impl Admission {
    pub(super) fn new(done: mpsc::Sender<Admitted>) -> Self {
        Self {
            done,
            waiting: BTreeMap::new(),
            strangers: BTreeMap::new(),
            asking: None,
            members_then: BTreeSet::new(),
            joining: CancellationToken::new(),
            discovery_trouble: None,
        }
    }

    /// Whether one more at this address may wait.
    fn has_room(&self, ip: IpAddr) -> bool {
        let here = self
            .waiting
            .values()
            .filter(|waiting| waiting.pending.address.is_some_and(|address| address.ip() == ip))
            .count();
        self.waiting.len() < PENDING_MAX && here < PENDING_PER_ADDRESS_MAX
    }

    pub(super) fn note_nearby(&mut self, peer: PeerId, name: String, addresses: Vec<Address>) {
        if self.strangers.len() < NEARBY_MAX || self.strangers.contains_key(&peer) {
            self.strangers.insert(peer, Nearby { peer, name, addresses, seen_ms: clock::now().wall_ms });
        }
    }

    pub(super) fn forget_nearby(&mut self, peer: &PeerId) {
        self.strangers.remove(peer);
    }

    pub(super) fn nearby(&self, is_member: impl Fn(&PeerId) -> bool) -> Vec<Nearby> {
        self.strangers.values().filter(|stranger| !is_member(&stranger.peer)).cloned().collect()
    }

    /// Who awaits approval: those that ask to join, and those that wait again. `before` is what was told last.
    pub(super) fn pending(&self, view: &View, before: &[Pending]) -> Vec<Pending> {
        let since = |peer: &PeerId| before.iter().find(|pending| pending.peer == *peer).map(|pending| pending.since_ms);
        let again = view
            .awaiting_reapproval
            .iter()
            .filter(|again| again.peer != view.me && !self.waiting.contains_key(&again.peer));
        let again = again.map(|again| Pending {
            key: again.key,
            peer: again.peer,
            node_id: again.node_id.clone(),
            platform: String::new(),
            address: None,
            since_ms: since(&again.peer).unwrap_or_else(|| clock::now().wall_ms),
            why: again.why(),
        });
        self.waiting.values().map(|waiting| waiting.pending.clone()).chain(again).collect()
    }

    pub(super) fn asking_to_join(&self) -> Option<PeerId> {
        self.asking.as_ref().map(|(peer, _)| *peer)
    }

    fn stop_asking(&mut self) {
        self.joining.cancel();
        self.joining = CancellationToken::new();
        self.asking = None;
    }
}

/// Code and text for a newcomer that is refused; the codes are those of `JoinRefusal` in `mesh.proto`.
fn refusal(refusal: &Refusal) -> JoinAnswer {
    let code = match refusal {
        Refusal::InviteUnknown => "invite_unknown",
        Refusal::InviteUsed => "invite_used",
        Refusal::InviteExpired => "invite_expired",
        Refusal::NotOwner | Refusal::NotMember => "not_owner",
        Refusal::UnknownNode(_)
        | Refusal::UnknownTool { .. }
        | Refusal::UnknownCall(_)
        | Refusal::QueueFull { .. }
        | Refusal::KeyReused(_)
        | Refusal::Denied(_)
        | Refusal::Invalid(_)
        | Refusal::LastOwner
        | Refusal::Stopping => "invalid",
    };
    JoinAnswer::Refused { code: code.to_owned(), detail: refusal.to_string() }
}

fn join_error(code: &str, detail: String) -> JoinError {
    match code {
        "invite_used" => JoinError::Used,
        "invite_expired" => JoinError::Expired,
        "invite_unknown" => JoinError::UnknownCode,
        _ => JoinError::Rejected(detail),
    }
}

fn dial_error(error: &JoinDialError) -> JoinError {
    if let JoinDialError::Nobody { tried } = error {
        JoinError::InviterDown { tried: tried.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") }
    } else {
        JoinError::Rejected(error.to_string())
    }
}

impl Actor {
    // --- others want in here

    pub(super) fn handle_join_attempt(&mut self, attempt: JoinAttempt) {
        let JoinAttempt { key, peer, underlay: _, address, request, answers } = attempt;
        let answer = {
            let answers = answers.clone();
            move |answer: JoinAnswer| drop(answers.try_send(answer))
        };
        let on_reply = move |_: &mut Self, reply: Result<Reply, Refusal>| match reply {
            Ok(Reply::Approved(welcome)) => answer(JoinAnswer::Welcome(welcome)),
            Ok(_) => {}
            Err(why) => answer(refusal(&why)),
        };
        if let Some(secret) = request.secret {
            let command = Command::Redeem { secret: Hash::of(&secret), key, node_id: request.node_id };
            self.command(command, ReplyTo::Admission(Box::new(on_reply)));
            return;
        }
        let view = self.view();
        let member = view.nodes.iter().find(|node| node.peer == peer).cloned();
        if let Some(node) = member {
            // Approved already, perhaps while it was away: it gets its welcome now.
            let command = Command::Approve { key, node_id: node.node_id, tier: node.tier };
            self.command(command, ReplyTo::Admission(Box::new(on_reply)));
            return;
        }
        let known = self.admission.waiting.get(&peer).map(|waiting| waiting.pending.since_ms);
        if known.is_none() && !self.admission.has_room(address.ip()) {
            self.admission.waiting.retain(|_, waiting| !waiting.answers.is_closed());
            if !self.admission.has_room(address.ip()) {
                let detail = "as many devices as may wait for an answer already; try again later".to_owned();
                drop(answers.try_send(JoinAnswer::Refused { code: "too_many".to_owned(), detail }));
                return;
            }
        }
        let pending = Pending {
            key,
            peer,
            node_id: request.node_id,
            platform: request.platform,
            address: Some(address),
            since_ms: known.unwrap_or_else(|| clock::now().wall_ms),
            why: "it asks to join".to_owned(),
        };
        drop(answers.try_send(JoinAnswer::Waiting { node_id: view.node_id.clone() }));
        self.admission.waiting.insert(peer, Waiting { pending, answers });
        self.pending_changed();
    }

    fn pending_changed(&mut self) {
        self.events.push(clock::now().wall_ms, EventKind::Pending);
        self.surroundings_dirty = true;
        self.publish_surroundings();
    }

    pub(super) fn admit(
        &mut self,
        peer: PeerId,
        tier: Option<Tier>,
        node_id: Option<NodeId>,
        reply: oneshot::Sender<Result<NodeId, MeshError>>,
    ) {
        let view = self.view();
        let member = view.nodes.iter().find(|node| node.peer == peer);
        let (key, wanted, tier) = match (self.admission.waiting.get(&peer), member) {
            (Some(waiting), _) => (waiting.pending.key, waiting.pending.node_id.clone(), tier.unwrap_or(Tier::Shared)),
            (None, Some(node)) => (node.key, node.node_id.clone(), tier.unwrap_or(node.tier)),
            (None, None) => {
                // One that belonged, until the word of whoever approved it turned out to be void.
                let Some(again) = view.awaiting_reapproval.iter().find(|pending| pending.peer == peer) else {
                    drop(reply.send(Err(MeshError::UnknownPending(peer))));
                    return;
                };
                (again.key, again.node_id.clone(), tier.unwrap_or(again.tier))
            }
        };
        let command = Command::Approve { key, node_id: node_id.unwrap_or(wanted), tier };
        let then = move |actor: &mut Self, answer: Result<Reply, Refusal>| match answer {
            Ok(Reply::Approved(welcome)) => {
                let node_id = welcome.node_id.clone();
                if let Some(waiting) = actor.admission.waiting.remove(&peer) {
                    drop(waiting.answers.try_send(JoinAnswer::Welcome(welcome)));
                }
                actor.pending_changed();
                drop(reply.send(Ok(node_id)));
            }
            Ok(_) => drop(reply.send(Err(MeshError::Stopping))),
            Err(why) => drop(reply.send(Err(why.into()))),
        };
        self.command(command, ReplyTo::Admission(Box::new(then)));
    }

    pub(super) fn reject(&mut self, peer: PeerId, reply: oneshot::Sender<Result<(), MeshError>>) {
        let answer = match self.admission.waiting.remove(&peer) {
            Some(waiting) => {
                let detail = "a person there rejected the request".to_owned();
                drop(waiting.answers.try_send(JoinAnswer::Refused { code: "rejected".to_owned(), detail }));
                self.pending_changed();
                Ok(())
            }
            None if self.view().awaiting_reapproval.iter().any(|pending| pending.peer == peer) => {
                let then = move |_: &mut Self, answer: Result<Reply, Refusal>| {
                    drop(reply.send(answer.map(drop).map_err(MeshError::from)));
                };
                self.command(Command::Revoke { peer }, ReplyTo::Admission(Box::new(then)));
                return;
            }
            None => Err(MeshError::UnknownPending(peer)),
        };
        drop(reply.send(answer));
    }

    pub(super) fn invite(&mut self, tier: Tier, ttl: Duration, reply: oneshot::Sender<Result<Invite, MeshError>>) {
        let mut secret = [0; 16];
        if ring::rand::SystemRandom::new().fill(&mut secret).is_err() {
            drop(reply.send(Err(MeshError::NoEntropy)));
            return;
        }
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let expires_ms = clock::now().wall_ms.saturating_add(ttl_ms);
        let mut addresses = self.links.local_addresses();
        addresses.truncate(invite::ADDRESSES_MAX);
        let code =
            InviteCode { mesh: self.view().mesh, inviter: self.key.peer_id(), secret, expires_ms, tier, addresses };
        let command = Command::Invite { secret: code.secret_hash(), tier, ttl_ms };
        let then = move |_: &mut Self, answer: Result<Reply, Refusal>| {
            drop(reply.send(answer.map(|_| Invite { code, expires_ms }).map_err(MeshError::from)));
        };
        self.command(command, ReplyTo::Admission(Box::new(then)));
    }

    // --- we want in elsewhere

    pub(super) fn join(&mut self, target: JoinTarget, force: bool, reply: oneshot::Sender<Result<Joined, MeshError>>) {
        let view = self.view();
        if let JoinTarget::Code(code) = &target
            && code.mesh == view.mesh
            && code.inviter != view.me
            && !view.revoked
        {
            // The same code again, perhaps after a lost reply: we are in.
            drop(reply.send(Ok(Joined::Member(view.node_id.clone()))));
            return;
        }
        let others = view.nodes.iter().filter(|node| node.peer != view.me).count();
        if others > 0 && !force && !view.revoked {
            drop(reply.send(Err(JoinError::WouldLeave { others }.into())));
            return;
        }
        let request = JoinRequest {
            secret: None,
            node_id: self.name.clone(),
            platform: crate::platform::name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (addresses, expected, request) = match target {
            JoinTarget::Code(code) if code.inviter == view.me => {
                let own = JoinError::Rejected("this code is this device's own; use it on another".to_owned());
                drop(reply.send(Err(own.into())));
                return;
            }
            JoinTarget::Code(code) => {
                self.seen_at.insert(code.inviter, code.addresses.clone());
                let request = JoinRequest { secret: Some(code.secret), ..request };
                (code.addresses, Some(code.inviter), request)
            }
            JoinTarget::Nearby(name) => {
                let strangers = self.admission.nearby(|peer| view.nodes.iter().any(|node| node.peer == *peer));
                let mut fits = strangers.into_iter().filter(|stranger| {
                    name.as_ref().is_none_or(|name| {
                        stranger.name == *name || (name.len() >= 7 && stranger.peer.to_string().starts_with(name))
                    })
                });
                match (fits.next(), fits.next()) {
                    (Some(one), None) => (one.addresses, Some(one.peer), request),
                    (Some(_), Some(_)) => {
                        let many = "several devices are nearby under that name; name one by its peer id".to_owned();
                        drop(reply.send(Err(JoinError::Rejected(many).into())));
                        return;
                    }
                    (None, _) => {
                        let name = name.unwrap_or_else(|| "any".to_owned());
                        drop(reply.send(Err(JoinError::NotNearby(name).into())));
                        return;
                    }
                }
            }
            JoinTarget::Address(address) => (vec![address], None, request),
        };
        self.admission.stop_asking();
        self.admission.members_then = view.nodes.iter().map(|node| node.peer).collect();
        let cancel = self.admission.joining.clone();
        let (links, done) = (self.links.clone(), self.admission.done.clone());
        self.tasks.spawn(async move {
            let asking = ask(links, addresses, expected, request, done, reply);
            cancel.run_until_cancelled(asking).await;
        });
    }

    pub(super) fn leave(&mut self, reply: oneshot::Sender<Result<(), MeshError>>) {
        self.admission.stop_asking();
        let then = move |actor: &mut Self, answer: Result<Reply, Refusal>| match answer {
            Ok(_) => {
                let done = actor.admission.done.clone();
                actor.tasks.spawn(async move {
                    tokio::time::sleep(FAREWELL).await;
                    let _ = done.send(Admitted::Gone(reply)).await;
                });
            }
            Err(why) => drop(reply.send(Err(why.into()))),
        };
        self.command(Command::Leave, ReplyTo::Admission(Box::new(then)));
    }

    pub(super) fn handle_admitted(&mut self, admitted: Admitted) -> Result<(), FatalError> {
        match admitted {
            Admitted::Welcome(welcome, peer, address, reply) => {
                let view = self.view();
                let let_in = view.nodes.iter().any(|node| node.peer == peer);
                let crossed = let_in && !self.admission.members_then.contains(&peer);
                if !peer::should_switch(view.mesh, &welcome, crossed) {
                    self.admission.asking = None;
                    self.surroundings_dirty = true;
                    tracing::info!(peer = %peer.short(), "each asked the other: that one comes into this mesh");
                    tell(reply, Ok(Joined::Member(view.node_id.clone())));
                    return Ok(());
                }
                let rows = match peer::joined(&welcome, &mut self.rng) {
                    Ok(rows) => rows,
                    Err(error) => {
                        tell(reply, Err(JoinError::Rejected(error.to_string()).into()));
                        return Ok(());
                    }
                };
                self.admission.asking = None;
                self.seen_at.entry(peer).or_default().push(address);
                self.switch(rows)?;
                tracing::info!(target: "sigil::events::membership", node = %welcome.node_id, "joined a mesh");
                tell(reply, Ok(Joined::Member(welcome.node_id.clone())));
            }
            Admitted::Waiting(peer, reply) => {
                self.admission.asking = Some((peer, self.admission.joining.clone()));
                self.surroundings_dirty = true;
                self.publish_surroundings();
                tell(reply, Ok(Joined::Pending { peer }));
            }
            Admitted::Refused(error, reply) => {
                if reply.is_none() {
                    let text = format!("joining was refused: {error}");
                    self.events.push(clock::now().wall_ms, EventKind::Warning(text));
                }
                self.admission.asking = None;
                self.surroundings_dirty = true;
                tell(reply, Err(error.into()));
            }
            Admitted::Gone(reply) => {
                let mesh_name = format!("mesh of {}", self.name);
                let rows = peer::founded(&self.key, &mesh_name, &self.name, clock::now(), &mut self.rng);
                self.switch(rows)?;
                drop(reply.send(Ok(())));
            }
        }
        Ok(())
    }
}

fn tell<T>(reply: Option<oneshot::Sender<Result<T, MeshError>>>, answer: Result<T, MeshError>) {
    if let Some(reply) = reply {
        drop(reply.send(answer));
    }
}

/// Asks until there is a yes or a no. With an invite the first conversation decides; a join request goes on for as long as
/// nobody has answered it.
async fn ask(
    links: Links,
    addresses: Vec<Address>,
    expected: Option<PeerId>,
    request: JoinRequest,
    done: mpsc::Sender<Admitted>,
    reply: oneshot::Sender<Result<Joined, MeshError>>,
) {
    let mut reply = Some(reply);
    let mut pause = ASK_AGAIN_MIN;
    loop {
        let lost = match links.join(&addresses, expected, &request).await {
            Err(error) => dial_error(&error),
            Ok(mut conversation) => {
                let lost = JoinError::Rejected("the connection broke before there was an answer".to_owned());
                loop {
                    let step = if reply.is_some() {
                        tokio::time::timeout(REDEEM_MAX, conversation.answers.recv()).await.unwrap_or(None)
                    } else {
                        conversation.answers.recv().await
                    };
                    match step {
                        Some(JoinAnswer::Waiting { .. }) => {
                            pause = ASK_AGAIN_MIN;
                            let _ = done.send(Admitted::Waiting(conversation.peer, reply.take())).await;
                        }
                        Some(JoinAnswer::Welcome(welcome)) => {
                            let admitted =
                                Admitted::Welcome(welcome, conversation.peer, conversation.address, reply.take());
                            let _ = done.send(admitted).await;
                            return;
                        }
                        Some(JoinAnswer::Refused { code, detail }) => {
                            let _ = done.send(Admitted::Refused(join_error(&code, detail), reply.take())).await;
                            return;
                        }
                        None => break lost,
                    }
                }
            }
        };
        if reply.is_some() {
            let _ = done.send(Admitted::Refused(lost, reply.take())).await;
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_AGAIN_MAX);
    }
}
