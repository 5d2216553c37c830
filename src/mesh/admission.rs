//! Admission: ways into a mesh, from both sides.
//!
//! One state machine without a task, a socket or a clock of its own. It is told what happened; what is to be done about
//! it are [`Effect`]s, which the driver polls and carries out in their order.

mod conversation;
mod effect;
mod nearby;
mod newcomers;
mod own_join;
mod tags;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use mesh_core::ids::{NodeId, PeerId};
use mesh_core::io::{Command, Now, Refusal, Reply, View};
use mesh_core::peer::BadWelcome;
use mesh_core::tailnet::{Netmap, TagRule};
use ring::rand::SecureRandom;

pub(super) use conversation::{Conversations, Step};
pub(super) use effect::{Destination, DoorAnswer, DoorReply, Effect, Errand};
use nearby::NearbyDevices;
use newcomers::Newcomers;
use own_join::OwnJoin;
use tags::Tags;

use crate::mesh::error::MeshError;
use crate::mesh::events::EventKind;
use crate::mesh::invite::{self, InviteCode};
use crate::mesh::joining::{Grant, Invite, InviteTerms, JoinTarget, Joined};
use crate::mesh::snapshot::{Nearby, Pending};
use crate::mesh::transport::lan::{Discovery, LanEvent};
use crate::mesh::transport::{Address, JoinAttempt};

/// Devices that want in here, our own way in elsewhere, and the devices nearby.
#[derive(Debug)]
pub(super) struct Admission {
    newcomers: Newcomers,
    own: OwnJoin,
    nearby: NearbyDevices,
    tags: Tags,
    effects: VecDeque<Effect>,
}

impl Admission {
    /// Creates one for a device that asks for this name in other meshes.
    pub(super) fn new(name: NodeId) -> Self {
        Self {
            newcomers: Newcomers::default(),
            own: OwnJoin::new(name),
            nearby: NearbyDevices::default(),
            tags: Tags::default(),
            effects: VecDeque::new(),
        }
    }

    /// Sets the name to ask for in other meshes.
    pub(super) fn set_name(&mut self, name: NodeId) {
        self.own.set_name(name);
    }

    /// Sets whom a tag of the tailnet lets in here.
    pub(super) fn set_tag_rule(&mut self, rule: Option<TagRule>) {
        self.tags.set_rule(rule);
    }

    /// Handles what the tailnet of this device says now.
    pub(super) fn handle_tailnet(&mut self, netmap: Netmap, view: &View) {
        self.tags.note(netmap);
        self.judge_tags(view);
    }

    /// Handles a change of the mesh: other members may belong for a tag.
    pub(super) fn judge_tags(&mut self, view: &View) {
        self.effects.extend(self.tags.news(view).map(Effect::Untagged));
    }

    /// Returns the next thing to do, until there is none.
    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Handles a device that asks to join.
    pub(super) fn handle_attempt(&mut self, attempt: JoinAttempt, view: &View, now: Now) {
        self.newcomers.handle_attempt(attempt, &self.tags, (view, now), &mut self.effects);
    }

    /// Handles what LAN discovery saw.
    pub(super) fn handle_lan(&mut self, event: LanEvent, now: Now) {
        if self.nearby.note(event, now) {
            self.effects.push_back(Effect::Tell(EventKind::Nearby));
        }
        self.effects.push_back(Effect::PublishSurroundings);
    }

    /// Handles a step of a conversation of ours, see [`Conversations`].
    pub(super) fn handle_step(&mut self, number: u64, step: Step, view: &View) {
        self.own.handle_step(number, step, view, &mut self.effects);
    }

    /// Handles the reply to a command that was run for `errand`.
    pub(super) fn handle_reply(&mut self, errand: Errand, reply: Result<Reply, Refusal>) {
        let effects = &mut self.effects;
        match errand {
            Errand::Welcome(answers) => Newcomers::handle_welcome(answers, reply, effects),
            Errand::Approve(peer, door) => self.newcomers.handle_approved(peer, Some(door), reply, effects),
            Errand::Tag(peer) => self.newcomers.handle_approved(peer, None, reply, effects),
            Errand::Reject(door) => {
                let answer = reply.map(drop).map_err(MeshError::from);
                effects.push_back(Effect::AnswerDoor(DoorAnswer::Done(door, answer)));
            }
            Errand::Invite(invite, door) => {
                let answer = reply.map(|_| *invite).map_err(MeshError::from);
                effects.push_back(Effect::AnswerDoor(DoorAnswer::Invited(door, answer)));
            }
            Errand::Leave => self.own.handle_left(reply, effects),
        }
    }

    /// Handles the end of [`Effect::Switch`], after which the mesh looks like this; the error says what is wrong with the
    /// welcome.
    pub(super) fn handle_switched(&mut self, switched: Result<&View, BadWelcome>) {
        match switched {
            Ok(view) => self.own.handle_switched(view, &mut self.effects),
            Err(why) => self.own.handle_bad_welcome(why, &mut self.effects),
        }
    }

    /// Makes a single-use invite. `addresses`: where the newcomer may reach us.
    pub(super) fn invite(
        &mut self,
        terms: InviteTerms,
        mut addresses: Vec<Address>,
        door: DoorReply<Invite>,
        view: &View,
        now: Now,
    ) {
        let InviteTerms { grant: Grant { tier, stay }, ttl, name } = terms;
        let mut secret = [0; 16];
        if ring::rand::SystemRandom::new().fill(&mut secret).is_err() {
            self.effects.push_back(Effect::AnswerDoor(DoorAnswer::Invited(door, Err(MeshError::NoEntropy))));
            return;
        }
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let expires_ms = now.wall_ms.saturating_add(ttl_ms);
        let left_out = addresses.split_off(addresses.len().min(invite::ADDRESSES_MAX));
        let code = InviteCode { mesh: view.mesh, inviter: view.me, secret, expires_ms, tier, addresses };
        let command = Command::Invite { secret: code.secret_hash(), tier, ttl_ms, name, stay };
        let invite = Box::new(Invite { code, expires_ms, left_out });
        self.effects.push_back(Effect::Command(command, Errand::Invite(invite, door)));
    }

    /// Approves a device; see [`crate::mesh::MeshHandle::admit`].
    pub(super) fn approve(
        &mut self,
        peer: PeerId,
        grant: Option<Grant>,
        node_id: Option<NodeId>,
        door: DoorReply<NodeId>,
        view: &View,
    ) {
        self.newcomers.approve(peer, grant, node_id, door, view, &mut self.effects);
    }

    /// Rejects a device.
    pub(super) fn reject(&mut self, peer: PeerId, door: DoorReply<()>, view: &View) {
        self.newcomers.reject(peer, door, view, &mut self.effects);
    }

    /// Begins to join another mesh.
    pub(super) fn join(&mut self, target: JoinTarget, force: bool, door: DoorReply<Joined>, view: &View) {
        self.own.join(target, force, door, view, (&self.nearby, &self.tags), &mut self.effects);
    }

    /// Begins to leave the mesh.
    pub(super) fn leave(&mut self, door: DoorReply<()>) {
        self.own.leave(door, &mut self.effects);
    }

    /// Returns the devices that await a person. `before` is what was published last.
    pub(super) fn pending(&self, view: &View, before: &[Pending], now: Now) -> Vec<Pending> {
        self.newcomers.pending(view, before, now)
    }

    /// Returns the strangers nearby.
    pub(super) fn strangers(&self, view: &View) -> Vec<Nearby> {
        self.nearby.strangers(view)
    }

    /// Returns the state of LAN discovery.
    pub(super) fn discovery(&self) -> Discovery {
        self.nearby.discovery()
    }

    /// Returns the peer at which a person must approve us, if that is what we wait for.
    pub(super) fn asking_to_join(&self) -> Option<PeerId> {
        self.own.asking_to_join()
    }
}
