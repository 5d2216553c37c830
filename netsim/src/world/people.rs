//! What people do at a peer: they edit rights, answer calls that ask, and forbid their own device a tool.

use mesh_core::io::{AnswerChoice, Command, Edit};

use super::commands::Purpose;
use super::mesh::Mesh;
use super::rights;
use crate::env::Env;
use crate::network::Network;
use crate::node::{self, Node};

impl Mesh {
    /// The owner at a peer changes who may do what.
    pub(super) fn edit(&mut self, env: &mut Env, net: &mut Network, by: usize, edit: Edit) {
        if self.peers[by].awake() {
            self.command(env, net, by, Purpose::Other, Command::Edit(edit));
        }
    }

    /// A peer tells what it offers, and what it forbids itself.
    pub(super) fn set_directory(&mut self, env: &mut Env, net: &mut Network, peer: usize) {
        let directory = node::directory(peer, &self.peers[peer].plan, &self.peers[peer].forbids);
        self.command(env, net, peer, Purpose::Other, Command::SetDirectory(directory));
    }

    /// A device forbids itself a tool, or not any more.
    pub(super) fn forbid(&mut self, env: &mut Env, net: &mut Network, peer: usize, tool: String, forbids: bool) {
        let all = &mut self.peers[peer].forbids;
        let changed = if forbids { all.insert(tool) } else { all.remove(&tool) };
        if changed && self.peers[peer].awake() {
            self.set_directory(env, net, peer);
        }
    }

    /// Somebody at a peer answers all that waits there.
    pub(super) fn answer(&mut self, env: &mut Env, net: &mut Network, peer: usize, choice: AnswerChoice) {
        if !self.peers[peer].awake() {
            return;
        }
        let waiting = self.peers[peer].node.as_ref().map(Node::approvals).unwrap_or_default();
        for approval in waiting {
            let answer = rights::answer(approval.id, choice);
            // Before the reply: it may be durable, and its device crash, before anybody hears so.
            self.rights.note_given(approval.id, choice);
            self.command(env, net, peer, Purpose::Answer { call: approval.id, choice }, Command::Answer(answer));
        }
    }

    /// Somebody at a peer takes back all yeses for an hour that count there.
    pub(super) fn take_back(&mut self, env: &mut Env, net: &mut Network, peer: usize) {
        if !self.peers[peer].awake() {
            return;
        }
        let hours = self.peers[peer].node.as_ref().map(Node::hours).unwrap_or_default();
        for hour in hours {
            let taken = Command::TakeBack { hour: hour.id, by: rights::sitter() };
            self.command(env, net, peer, Purpose::Other, taken);
        }
    }
}
