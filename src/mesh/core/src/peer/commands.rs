//! What someone at a door wants: calls, invites, approvals, leaving.

use std::collections::VecDeque;
use std::sync::Arc;

use rand_core::Rng;

use super::{Peer, STOP_WAIT_MS, declared};
use crate::calls::{self, InferredEnding};
use crate::effects::{Effects, Then};
use crate::entry::{self, CancelRequest, ChangeKind, Directory, Header, Kind, Tier};
use crate::ids::{Hash, Incarnation, NodeId, PeerId, PublicKey, ReqId};
use crate::io::{Batch, CallState, CmdId, Command, NewCall, Now, Output, Refusal, Reply, Welcome};
use crate::limits;
use crate::log;
use crate::protocol_rule::ProtocolRule;
use crate::rows::{self, InviteRow};

impl Peer {
    pub(super) fn handle_command(&mut self, id: CmdId, command: Command, fx: &mut Effects<'_>) {
        let reply = match command {
            Command::Call(new) => self.accept(new, fx),
            Command::Cancel { id, reason } => self.cancel(id, &reason, fx),
            Command::Invite { secret, tier, ttl_ms } => self.invite(secret, tier, ttl_ms, fx),
            Command::Redeem { secret, key, node_id } => self.redeem(secret, key, &node_id, fx),
            Command::Approve { key, node_id, tier } => {
                self.approve(key, &node_id, tier, fx).map(|welcome| Reply::Approved(Box::new(welcome)))
            }
            Command::Revoke { peer } => self.revoke(peer, false, fx).map(|()| Reply::Revoked),
            Command::Leave => self.leave(fx),
            Command::SetDirectory(directory) => {
                self.set_directory(&directory, fx);
                Ok(Reply::Noted)
            }
            Command::Stop => {
                let asked = self.election.stop(fx);
                let wait = if asked { STOP_WAIT_MS } else { 0 };
                self.stopping = Some((id, fx.now.mono_ms + wait));
                return;
            }
        };
        match reply {
            // A promise: it waits for the fsync of whatever this step wrote, or of what was written before.
            Ok(reply) => fx.then(Then::Reply(id, reply)),
            Err(refusal) => fx.out.push(Output::Reply(id, Reply::Refused(refusal))),
        }
    }

    pub(super) fn accept(&mut self, new: NewCall, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        if self.stopping.is_some() {
            return Err(Refusal::Stopping);
        }
        let Some(tier) = self.trust.tier(&self.me) else { return Err(Refusal::NotMember) };
        if new.arguments.len() > limits::ARGUMENTS_BYTES_MAX as u64 {
            let max = limits::ARGUMENTS_BYTES_MAX;
            return Err(Refusal::Invalid(format!("the arguments are over {max} bytes")));
        }
        if new.ttl_ms == 0 || new.ttl_ms > limits::TTL_MS_MAX {
            return Err(Refusal::Invalid("the time to live must be over 0 and at most 7 days".to_owned()));
        }
        if new.client_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > limits::CLIENT_KEY_BYTES_MAX) {
            let max = limits::CLIENT_KEY_BYTES_MAX;
            return Err(Refusal::Invalid(format!("an idempotency key has 1 to {max} bytes")));
        }
        let key = new.client_key.as_ref().map(|key| calls::key_id(&new.principal, key));
        let known = key.and_then(|key| self.book.key(&key)).filter(|_| fx.enforces(ProtocolRule::KeyAtOrigin));
        let target = match known {
            Some(known) if new.node == "any" => known.target,
            _ => self.resolve(&new.node, &new.tool)?,
        };
        if let Some(known) = known {
            let same = known.fingerprint == calls::request_fingerprint(&target, new.tool.as_str(), &new.arguments);
            return if same {
                Ok(Reply::Call { id: known.id, created: false })
            } else {
                Err(Refusal::KeyReused(known.id))
            };
        }
        let node_id = self.trust.member(&target).map(|member| member.node_id.clone());
        let Some(node_id) = node_id else { return Err(Refusal::UnknownNode(new.node)) };
        let decl = self
            .directory
            .get(&target)
            .and_then(|(_, directory)| directory.tools.iter().find(|tool| tool.name == new.tool));
        let Some(decl) = decl else {
            return Err(Refusal::UnknownTool { node: node_id, tool: new.tool });
        };
        if decl.owner_only && tier != Tier::Owner && fx.enforces(ProtocolRule::Tier) {
            return Err(Refusal::Denied(format!(
                "`{}` may be called by devices of tier owner only, and this one is {tier:?}",
                decl.name
            )));
        }
        let (open, bytes) = self.book.own_open(&target);
        let full = open >= self.config.open_per_target_max && fx.enforces(ProtocolRule::OpenLimit);
        if full || bytes + new.arguments.len() > limits::OPEN_BYTES_PER_TARGET_MAX {
            return Err(Refusal::QueueFull { node: node_id, open, retry_after_ms: 30_000 });
        }
        let effect = new.effect.map_or(decl.effect, |asked| asked.max(decl.effect));
        self.counter += 1;
        if fx.enforces(ProtocolRule::CounterDurable) {
            fx.put(rows::counter(), &self.counter);
        }
        let id = ReqId::new(&self.me, self.logs.incarnation(), self.counter);
        let header = Header {
            id,
            target,
            node_id,
            tool: new.tool,
            arguments: new.arguments,
            effect,
            ttl_ms: new.ttl_ms,
            accepted_ms: fx.now.wall_ms,
            timeout_ms: new.timeout_ms,
            principal: new.principal,
            client_key: new.client_key,
            needs_approval: false,
            target_incarnation: if target == self.me {
                Some(self.logs.incarnation())
            } else {
                self.directory.get(&target).map(|(entry, _)| entry.entry.incarnation)
            },
        };
        if !header.is_within_limits() {
            return Err(Refusal::Invalid("the call is over a limit of what may be asked of another device".to_owned()));
        }
        let entry = self.logs.append(self.signer.as_ref(), Kind::CALL, 0, entry::encode(&header), fx);
        let ttl_ms = header.ttl_ms;
        // Not before it is durable may anyone see it: the book learns it now, but dispatches it with the push below.
        self.with_env(|book, env| book.apply_header(&entry, Arc::new(header), ttl_ms, env, fx));
        log::push_when_durable(&entry, Some(ttl_ms), fx);
        Ok(Reply::Call { id, created: true })
    }

    pub(super) fn resolve(&self, node: &str, tool: &crate::ids::ToolName) -> Result<PeerId, Refusal> {
        let members = &self.trust.membership().members;
        if node == "any" {
            let online = self.online_now();
            return members
                .keys()
                .filter(|peer| declared(&self.directory, peer, tool.as_str()).is_some())
                .min_by_key(|peer| (!online.contains(*peer), self.book.own_open(peer).0, **peer != self.me))
                .copied()
                .ok_or_else(|| Refusal::UnknownNode(format!("any (nobody offers `{tool}`)")));
        }
        // Handles first, and the id read once: writing out every member's id would cost more than all the rest of a call.
        let by_name = members.iter().find(|(_, member)| member.node_id.as_str() == node).map(|(peer, _)| *peer);
        by_name
            .or_else(|| node.parse().ok().filter(|peer| members.contains_key(peer)))
            .ok_or_else(|| Refusal::UnknownNode(limits::cut(node, 80).to_owned()))
    }

    pub(super) fn cancel(&mut self, id: ReqId, reason: &str, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        let Some(record) = self.book.record(&id) else { return Err(Refusal::UnknownCall(id)) };
        if matches!(record.state, CallState::Ended(_)) || self.book.is_cancelled(&id).is_some() {
            return Ok(Reply::Cancelled);
        }
        let (mine, for_me, attempt) = (record.origin == self.me, record.header.target == self.me, record.attempt);
        let reason = limits::cut(reason, 500).to_owned();
        let cancel = CancelRequest { id, reason: reason.clone(), expired: false };
        self.write_cancel(&cancel, fx);
        if mine && !for_me {
            let ending = entry::Ending::Cancelled;
            self.write_inferred(&InferredEnding { id, attempt, ending, reason, cancel: false }, fx);
        }
        Ok(Reply::Cancelled)
    }

    pub(super) fn require_owner(&self) -> Result<(), Refusal> {
        if self.is_excluded() {
            Err(Refusal::NotMember)
        } else if self.trust.is_owner(&self.me) {
            Ok(())
        } else {
            Err(Refusal::NotOwner)
        }
    }

    pub(super) fn invite(
        &mut self,
        secret: Hash,
        tier: Tier,
        ttl_ms: u64,
        fx: &mut Effects<'_>,
    ) -> Result<Reply, Refusal> {
        self.require_owner()?;
        let now = fx.now.wall_ms;
        let stale: Vec<Hash> =
            self.invites.iter().filter(|(_, row)| row.expires_ms + 3_600_000 < now).map(|(hash, _)| *hash).collect();
        for hash in stale {
            self.invites.remove(&hash);
            fx.delete(rows::invite(&hash));
        }
        if self.invites.values().filter(|row| row.used_by.is_none()).count() >= limits::INVITES_MAX {
            return Err(Refusal::Invalid(format!("{} invites are open already", limits::INVITES_MAX)));
        }
        let row = InviteRow { tier, expires_ms: now + ttl_ms, used_by: None };
        fx.put(rows::invite(&secret), &row);
        self.invites.insert(secret, row);
        Ok(Reply::Invited)
    }

    pub(super) fn redeem(
        &mut self,
        secret: Hash,
        key: PublicKey,
        node_id: &NodeId,
        fx: &mut Effects<'_>,
    ) -> Result<Reply, Refusal> {
        self.require_owner()?;
        let Some(row) = self.invites.get(&secret).cloned() else { return Err(Refusal::InviteUnknown) };
        match row.used_by {
            // The same key again: its reply was lost. It gets the same answer.
            Some(used) if used == key && self.trust.member(&key.peer_id()).is_some() => {
                return self.welcome(&key.peer_id()).map(|welcome| Reply::Approved(Box::new(welcome)));
            }
            Some(_) => return Err(Refusal::InviteUsed),
            None if row.expires_ms <= fx.now.wall_ms => return Err(Refusal::InviteExpired),
            None => {}
        }
        let row = InviteRow { used_by: Some(key), ..row };
        fx.put(rows::invite(&secret), &row);
        let tier = row.tier;
        self.invites.insert(secret, row);
        self.approve(key, node_id, tier, fx).map(|welcome| Reply::Approved(Box::new(welcome)))
    }

    pub(super) fn approve(
        &mut self,
        key: PublicKey,
        node_id: &NodeId,
        tier: Tier,
        fx: &mut Effects<'_>,
    ) -> Result<Welcome, Refusal> {
        self.require_owner()?;
        let peer = key.peer_id();
        if self.trust.membership().members.len() >= limits::PEERS_MAX {
            return Err(Refusal::Invalid(format!("a mesh has at most {} peers", limits::PEERS_MAX)));
        }
        if self.trust.member(&peer).is_none_or(|member| member.tier != tier) {
            let (generation, after) = self.trust.next_change(&peer);
            if after.len() > limits::REVOCATIONS_MAX {
                return Err(Refusal::Invalid("this device was revoked too often: let it make a new key".to_owned()));
            }
            let node_id = self.trust.free_name(node_id, &peer);
            self.say(key, ChangeKind::Approved { tier, node_id, after }, generation, fx);
        }
        self.welcome(&peer)
    }

    pub(super) fn say(&mut self, subject: PublicKey, what: ChangeKind, generation: u32, fx: &mut Effects<'_>) {
        let body = entry::encode(&entry::MembershipChange { subject, what });
        let entry = self.logs.append(self.signer.as_ref(), Kind::MEMBERSHIP, generation, body, fx);
        log::push_when_durable(&entry, None, fx);
        self.apply_change(&entry, fx);
    }

    pub(super) fn welcome(&self, peer: &PeerId) -> Result<Welcome, Refusal> {
        let member = self.trust.member(peer).ok_or(Refusal::NotMember)?;
        Ok(Welcome {
            mesh: self.trust.mesh(),
            trust: self.trust.records_in_order(),
            directory: self.directory.values().map(|(entry, _)| entry.clone()).collect(),
            fence: self.election.fence().clone(),
            node_id: member.node_id.clone(),
            tier: member.tier,
        })
    }

    pub(super) fn revoke(&mut self, peer: PeerId, left: bool, fx: &mut Effects<'_>) -> Result<(), Refusal> {
        if !left {
            self.require_owner()?;
        }
        let membership = self.trust.membership();
        let members = &membership.members;
        let (key, tier) = match (members.get(&peer), membership.awaiting_reapproval.get(&peer)) {
            (Some(member), _) => (member.key, Some(member.tier)),
            // No is an answer too.
            (None, Some(pending)) => (pending.key, None),
            (None, None) => return Err(Refusal::UnknownNode(peer.to_string())),
        };
        let owners = members.values().filter(|member| member.tier == Tier::Owner).count();
        if tier == Some(Tier::Owner) && owners == 1 && members.len() > 1 {
            return Err(Refusal::LastOwner);
        }
        if peer == self.me && !left {
            return Err(Refusal::Invalid("to remove this device itself, use leave".to_owned()));
        }
        let (generation, _) = self.trust.next_change(&peer);
        let cutoffs = self.cutoffs(&peer);
        self.say(key, ChangeKind::Revoked { cutoffs, left }, generation, fx);
        Ok(())
    }

    /// How far we hold what `peer` said that counts: its log, and membership changes that came before their place in it.
    fn cutoffs(&self, peer: &PeerId) -> Vec<(Incarnation, u64)> {
        let mut cutoffs = self.trust.cutoffs(peer);
        for (incarnation, seq) in self.logs.incarnations(peer) {
            let stands = self.trust.standing(peer, incarnation, seq);
            let cutoff = cutoffs.entry(incarnation).or_default();
            *cutoff = stands.max(*cutoff);
        }
        cutoffs.into_iter().collect()
    }

    pub(super) fn leave(&mut self, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        if self.trust.membership().members.len() > 1 && self.trust.member(&self.me).is_some() {
            let me = self.me;
            self.revoke(me, true, fx)?;
        }
        Ok(Reply::Left)
    }

    pub(super) fn set_directory(&mut self, directory: &Directory, fx: &mut Effects<'_>) {
        // A new incarnation of our store says it again: that is how the others learn that the former one is over.
        let own = self.logs.incarnation();
        let known = self.directory.get(&self.me).filter(|(entry, _)| entry.entry.incarnation == own);
        if known.is_some_and(|(_, known)| **known == *directory) {
            return;
        }
        self.write_directory(directory, fx);
    }

    /// A former incarnation of our store, of which the others tell us, was ahead of us: our directory is to be the newest word.
    pub(super) fn say_directory_again(&mut self, fx: &mut Effects<'_>) {
        let known = self.directory.get(&self.me).map(|(entry, known)| (entry.entry.hlc, known.clone()));
        if let Some((hlc, directory)) = known
            && self.logs.is_behind_former(hlc)
        {
            self.write_directory(&directory, fx);
        }
    }

    fn write_directory(&mut self, directory: &Directory, fx: &mut Effects<'_>) {
        let entry = self.logs.append(self.signer.as_ref(), Kind::DIRECTORY, 0, entry::encode(directory), fx);
        log::push_when_durable(&entry, None, fx);
        self.apply(&entry, None, fx);
    }

    /// Ends every open call of ours, because this peer goes to another mesh: the rows to write with the departure.
    pub fn depart(&mut self, now: Now, rng: &mut dyn Rng) -> Batch {
        let mut out = Vec::new();
        let mut fx = Effects {
            rules: self.config.rules,
            now,
            age_ms: self.age.at(now),
            rng,
            me: self.me,
            writes: Vec::new(),
            then: Vec::new(),
            sync: true,
            loopback: VecDeque::new(),
            out: &mut out,
            view_changed: false,
        };
        self.book.depart(&mut fx);
        Batch { writes: fx.writes, sync: true }
    }
}
