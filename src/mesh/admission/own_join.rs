//! Our own way into another mesh, and out of ours.

use std::collections::{BTreeSet, VecDeque};
use std::mem;

use mesh_core::ids::{MeshId, NodeId, PeerId};
use mesh_core::io::{Command, Refusal, Reply, View, Welcome};
use mesh_core::peer::{self, BadWelcome};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::conversation::{self, Ask, Step, Whom};
use super::effect::{Destination, DoorAnswer, DoorReply, Effect, Errand};
use super::nearby::NearbyDevices;
use super::tags::Tags;
use crate::mesh::error::{JoinError, MeshError};
use crate::mesh::events::EventKind;
use crate::mesh::joining::{JoinTarget, Joined};
use crate::mesh::transport::{Address, JoinRequest};

/// Our own join or leave, at most one at a time: a new join takes the place of one that is not decided yet.
#[derive(Debug)]
pub(super) struct OwnJoin {
    /// Name to ask for.
    name: NodeId,
    state: State,
    /// Conversations and leaves so far: a report of an older one is dropped.
    numbers: u64,
}

#[derive(Debug, Default)]
enum State {
    /// We neither join nor leave.
    #[default]
    Idle,
    /// The first conversation is under way, and a door waits for what it comes to.
    Asking(Conversation, DoorReply<Joined>),
    /// A person at that peer must approve us; the conversation is kept up, and started anew when it breaks.
    AwaitingApproval(Conversation, PeerId),
    /// We are welcome. The welcome is judged, and our store replaced.
    Switching(Option<DoorReply<Joined>>),
    /// We leave: first that becomes durable, then the others get time to receive it, then we found a new mesh.
    Leaving(u64, DoorReply<()>),
}

/// A conversation under way; it ends when this is dropped.
#[derive(Debug)]
struct Conversation {
    number: u64,
    /// The mesh that we want into, if we know which.
    mesh: Option<MeshId>,
    /// Members of our mesh when we began to ask.
    members_before: BTreeSet<PeerId>,
    /// True if we may leave a mesh of several for it: we were told so, or belong to none.
    may_leave: bool,
    _cancel: DropGuard,
}

/// Peer to ask, its addresses, and the secret to show.
struct Plan {
    addresses: Vec<Address>,
    whom: Whom,
    mesh: Option<MeshId>,
    secret: Option<[u8; 16]>,
}

impl OwnJoin {
    /// Creates one that is idle and will ask for this name.
    pub(super) fn new(name: NodeId) -> Self {
        Self { name, state: State::Idle, numbers: 0 }
    }

    /// Sets the name to ask for from now on.
    pub(super) fn set_name(&mut self, name: NodeId) {
        self.name = name;
    }

    /// Begins to join another mesh. `force` = even when that means leaving a mesh of several.
    pub(super) fn join(
        &mut self,
        target: JoinTarget,
        force: bool,
        door: DoorReply<Joined>,
        view: &View,
        around: (&NearbyDevices, &Tags),
        effects: &mut VecDeque<Effect>,
    ) {
        let plan = match &self.state {
            State::Leaving(..) | State::Switching(..) => Err(Err(MeshError::Moved)),
            State::Idle | State::Asking(..) | State::AwaitingApproval(..) => plan(target, force, view, around, effects),
        };
        let Plan { addresses, whom, mesh, secret } = match plan {
            Ok(plan) => plan,
            Err(answer) => {
                effects.push_back(Effect::AnswerDoor(DoorAnswer::Joined(door, answer)));
                return;
            }
        };
        let (number, cancel) = (self.next_number(), CancellationToken::new());
        let conversation = Conversation {
            number,
            mesh,
            members_before: view.nodes.iter().map(|node| node.peer).collect(),
            may_leave: force || view.revoked,
            _cancel: cancel.clone().drop_guard(),
        };
        self.state = State::Asking(conversation, door);
        let request = JoinRequest {
            secret,
            node_id: self.name.clone(),
            platform: crate::platform::name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        effects.push_back(Effect::Ask(Box::new(Ask { number, addresses, whom, request, cancel })));
    }

    /// Begins to leave. Whatever we asked elsewhere is dropped.
    pub(super) fn leave(&mut self, door: DoorReply<()>, effects: &mut VecDeque<Effect>) {
        if matches!(self.state, State::Leaving(..) | State::Switching(..)) {
            effects.push_back(Effect::AnswerDoor(DoorAnswer::Done(door, Err(MeshError::Moved))));
            return;
        }
        self.state = State::Leaving(self.next_number(), door);
        effects.push_back(Effect::Command(Command::Leave, Errand::Leave));
    }

    /// Handles the core's answer to our leave.
    pub(super) fn handle_left(&mut self, reply: Result<Reply, Refusal>, effects: &mut VecDeque<Effect>) {
        match (mem::take(&mut self.state), reply) {
            (State::Leaving(number, door), Ok(_)) => {
                self.state = State::Leaving(number, door);
                effects.push_back(Effect::Farewell(number));
            }
            (State::Leaving(_, door), Err(why)) => {
                effects.push_back(Effect::AnswerDoor(DoorAnswer::Done(door, Err(why.into()))));
            }
            (other @ (State::Idle | State::Asking(..) | State::AwaitingApproval(..) | State::Switching(..)), _) => {
                self.state = other;
            }
        }
    }

    /// Handles a step of the conversation or leave of this number.
    pub(super) fn handle_step(&mut self, number: u64, step: Step, view: &View, effects: &mut VecDeque<Effect>) {
        let (conversation, door) = match mem::take(&mut self.state) {
            State::Asking(conversation, door) if conversation.number == number => (conversation, Some(door)),
            State::AwaitingApproval(conversation, _) if conversation.number == number => (conversation, None),
            other @ (State::Idle
            | State::Asking(..)
            | State::AwaitingApproval(..)
            | State::Switching(..)
            | State::Leaving(..)) => {
                if matches!(other, State::Leaving(leave, _) if leave == number) {
                    effects.push_back(Effect::Switch(Destination::Founded));
                }
                self.state = other;
                return;
            }
        };
        match step {
            Step::Waiting(peer) => {
                self.state = State::AwaitingApproval(conversation, peer);
                effects.push_back(Effect::PublishSurroundings);
                answer(door, Ok(Joined::Pending { peer }), effects);
            }
            Step::Welcome { welcome, peer, address } => {
                self.handle_welcome(welcome, peer, address, &conversation, door, view, effects);
            }
            Step::Refused(error) => {
                refuse(door, error, effects);
            }
            // Only a leave has one.
            Step::FarewellOver => {}
        }
    }

    /// Handles the end of a switch to the mesh that we wanted, which looks like this now.
    pub(super) fn handle_switched(&mut self, view: &View, effects: &mut VecDeque<Effect>) {
        match mem::take(&mut self.state) {
            State::Switching(door) => {
                tracing::info!(target: "sigil::events::membership", node = %view.node_id, "joined a mesh");
                answer(door, Ok(member(view)), effects);
            }
            State::Leaving(_, door) => effects.push_back(Effect::AnswerDoor(DoorAnswer::Done(door, Ok(())))),
            other @ (State::Idle | State::Asking(..) | State::AwaitingApproval(..)) => self.state = other,
        }
    }

    /// Handles a welcome that was judged and not taken up: we stay where we are.
    pub(super) fn handle_bad_welcome(&mut self, why: BadWelcome, effects: &mut VecDeque<Effect>) {
        if let State::Switching(door) = mem::take(&mut self.state) {
            refuse(door, why.into(), effects);
        }
    }

    /// Returns the peer at which a person must approve us, if that is what we wait for.
    pub(super) fn asking_to_join(&self) -> Option<PeerId> {
        if let State::AwaitingApproval(_, peer) = self.state { Some(peer) } else { None }
    }

    #[expect(clippy::too_many_arguments, reason = "all of one step")]
    fn handle_welcome(
        &mut self,
        welcome: Box<Welcome>,
        peer: PeerId,
        address: Address,
        conversation: &Conversation,
        door: Option<DoorReply<Joined>>,
        view: &View,
        effects: &mut VecDeque<Effect>,
    ) {
        let crossed = view.by_peer(&peer).is_some() && !conversation.members_before.contains(&peer);
        effects.push_back(Effect::PublishSurroundings);
        if peer::should_switch(view.mesh, &welcome, crossed) {
            // A person's approval may come days later: whoever came in meanwhile is not left without being asked.
            let others = others(view).filter(|other| *other != peer).count();
            if others > 0 && !conversation.may_leave && !view.revoked && welcome.mesh != view.mesh {
                refuse(door, JoinError::WouldLeave { others }, effects);
                return;
            }
            self.state = State::Switching(door);
            effects.push_back(Effect::NoteAddresses(peer, vec![address]));
            effects.push_back(Effect::Switch(Destination::Joined(welcome, conversation.mesh)));
        } else {
            tracing::info!(peer = %peer.short(), "each asked the other: that one comes into this mesh");
            answer(door, Ok(member(view)), effects);
        }
    }

    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

/// Plans a join; the error is the answer that there is already.
fn plan(
    target: JoinTarget,
    force: bool,
    view: &View,
    (nearby, tags): (&NearbyDevices, &Tags),
    effects: &mut VecDeque<Effect>,
) -> Result<Plan, Result<Joined, MeshError>> {
    if let JoinTarget::Code(code) = &target
        && code.mesh == view.mesh
        && code.inviter != view.me
        && !view.revoked
    {
        // The same code again, perhaps after a lost reply: we are in.
        return Err(Ok(member(view)));
    }
    let others = others(view).count();
    if others > 0 && !force && !view.revoked {
        return Err(Err(JoinError::WouldLeave { others }.into()));
    }
    match target {
        JoinTarget::Code(code) if code.inviter == view.me => {
            let own = "this code is this device's own; use it on another".to_owned();
            Err(Err(JoinError::Rejected(own).into()))
        }
        JoinTarget::Code(code) => {
            effects.push_back(Effect::NoteAddresses(code.inviter, code.addresses.clone()));
            let (whom, mesh) = (Whom::Peer(code.inviter), Some(code.mesh));
            Ok(Plan { addresses: code.addresses, whom, mesh, secret: Some(code.secret) })
        }
        JoinTarget::Nearby { name, words } => {
            let found = nearby.find(name.as_deref(), view);
            let found = found.and_then(|one| {
                // Where its tailnet says that it is one of ours, no person has to.
                let is_vouched = words.is_none() && tags.vouch_for(&one);
                let peer = if is_vouched { one.peer } else { conversation::confirm(one.peer, Some(&one.name), words)? };
                Ok((peer, one))
            });
            let (peer, one) = found.map_err(|error| Err(error.into()))?;
            Ok(Plan { addresses: one.addresses, whom: Whom::Peer(peer), mesh: None, secret: None })
        }
        JoinTarget::Address { address, words } => {
            Ok(Plan { addresses: vec![address], whom: Whom::Answers(words), mesh: None, secret: None })
        }
    }
}

/// Members of our mesh besides us.
fn others(view: &View) -> impl Iterator<Item = PeerId> {
    view.nodes.iter().map(|node| node.peer).filter(|peer| *peer != view.me)
}

/// The answer to a join, in the mesh that this is the view of.
fn member(view: &View) -> Joined {
    Joined::Member { node_id: view.node_id.clone(), tier: view.by_peer(&view.me).map(|me| me.tier) }
}

/// Tells that we are not let in: the door if it still waits, else everyone who follows.
fn refuse(door: Option<DoorReply<Joined>>, error: JoinError, effects: &mut VecDeque<Effect>) {
    if door.is_none() {
        let text = format!("joining was refused: {error}");
        effects.push_back(Effect::Tell(EventKind::Warning(text)));
    }
    effects.push_back(Effect::PublishSurroundings);
    answer(door, Err(error.into()), effects);
}

fn answer(door: Option<DoorReply<Joined>>, answer: Result<Joined, MeshError>, effects: &mut VecDeque<Effect>) {
    if let Some(door) = door {
        effects.push_back(Effect::AnswerDoor(DoorAnswer::Joined(door, answer)));
    }
}
