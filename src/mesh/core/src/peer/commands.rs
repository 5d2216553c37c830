//! Commands from a door, in one table: each asks the owner of what it is about, and signs what follows from that.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::entries::Judges;
use super::{Peer, facts};
use crate::answer_words;
use crate::audience::Audience;
use crate::audit_record::{AuditRow, Happened};
use crate::calls::InferredEnding;
use crate::calls::accept::{Accepted, accept};
use crate::effects::{Effects, Then};
use crate::entry::{self, Kind, Place};
use crate::ids::{Hash, PeerId, PublicKey, ReqId};
use crate::invites::Redeemed;
use crate::io::{
    AnswerChoice, Approval, CallState, CmdId, Command, Denial, Edit, NewAnswer, NewCall, Output, Refusal, Reply,
};
use crate::limits;
use crate::log;
use crate::membership::{self, Naming, Revoking};
use crate::policy::bounds::OF_MAX;
use crate::policy::{
    Choice, Consent, Domain, Given, InForce, Key, Name, NodePattern, Note, OpenAsk, PersonId, Principal, Request, Rule,
    RuleRef, RuleVerdict, ToolPattern, Value, Verdict, View, Who,
};
use crate::protocol_rule::ProtocolRule;
use crate::rates;
use crate::record::{CancelRequest, Directory, Ending, Header, MembershipChange, Tier};
use crate::rights;
use crate::rows::{self, ConsentRow};
use crate::standing::{HeldAnswer, Standing};
use crate::stays::Due;

/// In the audit, what refused a call that came too often.
const RATE: &str = "rate";
/// Time for which a clean stop waits for the successor's first beacon.
const STOP_WAIT_MS: u64 = 100;

impl Peer {
    pub(super) fn handle_command(&mut self, id: CmdId, command: Command, fx: &mut Effects<'_>) {
        let reply = match command {
            Command::Call(new) => self.accept(new, fx),
            Command::Cancel { id, reason } => self.cancel(id, &reason, fx),
            Command::Invite { secret, tier, ttl_ms, name, stay } => {
                membership::may_invite(name.as_ref(), (tier, stay.as_ref()), &facts!(self))
                    .and_then(|()| self.invites.open(secret, (tier, stay), ttl_ms, name, fx))
                    .map(|()| Reply::Invited)
            }
            Command::VoidInvite { secret } => self.invites.void(secret, fx).map(|()| Reply::InviteVoided),
            Command::Redeem { secret, key, node_id } => self.redeem(secret, key, &node_id, fx),
            Command::Approve { key, node_id, tier, stay } => {
                let until = stay.as_ref().map(|stay| stay.begun_at(fx.now.wall_ms));
                membership::may_stay(tier, stay.as_ref())
                    .and_then(|()| membership::approve(key, Naming::First(&node_id), (tier, until), &facts!(self)))
                    .and_then(|change| self.welcome(&key.peer_id(), change, fx))
            }
            Command::ApproveTagged { key, node_id, tier, of } => {
                membership::approve_tagged(key, &node_id, (tier, of), &facts!(self))
                    .and_then(|change| self.welcome(&key.peer_id(), change, fx))
            }
            Command::Rename { peer, node_id } => membership::rename(peer, &node_id, &facts!(self)).map(|change| {
                if let Some(change) = change {
                    self.sign_change(&change, fx);
                }
                Reply::Renamed
            }),
            Command::Revoke { peer, unsaid } => {
                membership::revoke(peer, Revoking::removal(unsaid), &facts!(self)).map(|change| {
                    self.sign_change(&change, fx);
                    Reply::Revoked
                })
            }
            Command::RevokeAll { peers, unsaid } => self.revoke_all(&peers, Revoking::removal(unsaid), fx),
            Command::Leave => self.leave(fx),
            Command::SetDirectory(directory) => {
                self.set_directory(&directory, fx);
                Ok(Reply::Noted)
            }
            Command::Edit(edit) => self.edit(edit, fx),
            Command::Answer(answer) => {
                let (call, by) = (answer.id, answer.by.clone());
                let answered = self.answer(answer, fx);
                self.note_refused(&answered, Some(call), by, fx);
                answered
            }
            Command::TakeBack { hour, by } => {
                let taken = self.take_back(hour, &by, fx);
                self.note_refused(&taken, None, by, fx);
                taken
            }
            Command::Stop => {
                self.upkeep.audit.sign_now(fx.now.mono_ms);
                let asked = self.election.stop(fx);
                let wait = if asked { STOP_WAIT_MS } else { 0 };
                self.timers.stopping = Some((id, fx.now.mono_ms + wait));
                return;
            }
        };
        match reply {
            // A promise: it waits for the fsync of whatever this step wrote, or of what was written before.
            Ok(reply) => fx.then(Then::Reply(id, reply)),
            Err(refusal) => fx.out.push(Output::Reply(id, Reply::Refused(refusal))),
        }
    }

    // --- Calls --------------------------------------------------------------------------------------------------------

    fn accept(&mut self, new: NewCall, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        if self.timers.stopping.is_some() {
            return Err(Refusal::Stopping);
        }
        if self.incarnations.is_used_up() {
            self.start_incarnation(fx);
        }
        if new.client_key.is_some() {
            self.book.keys.forget(fx);
        }
        let accepted = accept(new, &self.book, &facts!(self), fx);
        if let Err(Refusal::Denied(denial)) = &accepted {
            let Denial { request, decision, .. } = &**denial;
            let node = self.nodes.name(&request.target, &self.trust);
            self.upkeep.audit.note(AuditRow::of_call(request, node, &decision.rule.to_string()), fx);
        }
        let (header, approvers) = match accepted? {
            Accepted::Known(id) => return Ok(Reply::Call { id, created: false }),
            Accepted::New { header, approvers } => (header, approvers),
        };
        self.spend(&header, fx)?;
        self.incarnations.use_id(fx);
        let (id, ttl_ms) = (header.id, header.ttl_ms);
        let audience = Audience::of_call(self.local.me, header.target, &approvers);
        let body = entry::encode(&*header);
        let entry = self.logs.append(self.local.signer.as_ref(), Kind::CALL, (audience, &body), fx);
        self.charge_own(&entry, fx);
        // Not before it is durable may anyone see it: the book learns it now, but dispatches it with the push below.
        self.book.apply_header(&entry, header, ttl_ms, &facts!(self), fx);
        log::push_when_durable(&entry, Some(ttl_ms), fx);
        Ok(Reply::Call { id, created: true })
    }

    /// Counts a new call against what this device may ask, and against the rate of whoever asks it.
    fn spend(&mut self, header: &Header, fx: &Effects<'_>) -> Result<(), Refusal> {
        let Header { principal, tool, token, workspace, target, .. } = header;
        let role = principal.person().and_then(|person| self.rights.view().role(person));
        let asker = rates::has_rate(principal, role, false).then_some((principal, tool, self.local.config.rate));
        let asked = self.logs.spending.ask(&self.local.me, asker, &self.trust, fx.now.mono_ms);
        if let Err(Refusal::RateLimited(_)) = &asked {
            let row = AuditRow {
                token: token.clone(),
                workspace: workspace.clone().map(Domain::Workspace),
                target: Some(*target),
                node: self.nodes.name(target, &self.trust),
                tool: Some(tool.clone()),
                ..AuditRow::new(Happened::CallRefused, Some(principal.clone()), Verdict::Deny, RATE)
            };
            self.upkeep.audit.note(row, fx);
        }
        asked
    }

    fn cancel(&mut self, id: ReqId, reason: &str, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        let Some(record) = self.book.record(&id) else { return Err(Refusal::UnknownCall(id)) };
        if matches!(record.state, CallState::Ended(_)) || self.book.is_cancelled(&id).is_some() {
            return Ok(Reply::Cancelled);
        }
        let me = self.local.me;
        let (mine, for_me, attempt) = (record.origin == me, record.header.target == me, record.attempt);
        let reason = limits::cut(reason, limits::TEXT_BYTES_MAX).to_owned();
        let cancel = CancelRequest { id, reason: reason.clone(), expired: false };
        self.write_cancel(&cancel, fx);
        if mine && !for_me {
            let ending = Ending::Cancelled;
            self.write_inferred(&InferredEnding { id, attempt, ending, reason, cancel: false }, fx);
        }
        Ok(Reply::Cancelled)
    }

    // --- Membership ---------------------------------------------------------------------------------------------------

    fn redeem(
        &mut self,
        secret: Hash,
        key: PublicKey,
        node_id: &crate::ids::NodeId,
        fx: &mut Effects<'_>,
    ) -> Result<Reply, Refusal> {
        membership::require_owner(&facts!(self))?;
        let peer = key.peer_id();
        let belongs = self.trust.member(&peer).is_some();
        match self.invites.judge(&secret, key, belongs, fx.now)? {
            Redeemed::Now { tier, stay, name } => {
                let stay = stay.map(|stay| stay.begun_at(fx.now.wall_ms));
                let naming = name.as_ref().map_or(Naming::Unseen(node_id), Naming::Invited);
                let change = membership::approve(key, naming, (tier, stay), &facts!(self))?;
                let welcome = self.welcome(&peer, change, fx)?;
                // Only what has let somebody in is used: who is refused may come again.
                self.invites.use_up(secret, key, fx);
                Ok(welcome)
            }
            Redeemed::Before => self.welcome(&peer, None, fx),
        }
    }

    fn welcome(
        &mut self,
        peer: &PeerId,
        change: Option<MembershipChange>,
        fx: &mut Effects<'_>,
    ) -> Result<Reply, Refusal> {
        if let Some(change) = change {
            let again = self.trust.is_excluded(peer);
            self.sign_change(&change, fx);
            if again && fx.enforces(ProtocolRule::LetInForNobody) {
                self.unseat(peer, fx);
            }
        }
        if self.trust.member(peer).is_none() {
            return Err(Refusal::NeedsNewKey);
        }
        membership::welcome(peer, &facts!(self)).map(|welcome| Reply::Approved(Box::new(welcome)))
    }

    /// A device that is let in again speaks for nobody: whoever has it now is not whom it was given to, before somebody says
    /// so.
    fn unseat(&mut self, peer: &PeerId, fx: &mut Effects<'_>) {
        let by = self.rights.view().sits_at(&self.local.me).unwrap_or_else(|| Principal::Person(PersonId::owner()));
        if let Some((kind, body)) = self.rights.unseated(*peer, by) {
            self.say(kind, &body, fx);
        }
    }

    /// Judged once, after all are signed: whom one of them let in is no matter here, and we, an owner, stay.
    fn revoke_all(&mut self, peers: &BTreeSet<PeerId>, how: Revoking, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        membership::require_owner(&facts!(self))?;
        if peers.len() > limits::REVOKED_AT_ONCE_MAX {
            return Err(Refusal::Invalid(format!("at most {} devices at a time", limits::REVOKED_AT_ONCE_MAX)));
        }
        self.judge_changes(Judges::Now, fx);
        let mut refused = Vec::new();
        for peer in peers {
            match membership::revoke(*peer, how, &facts!(self)) {
                Ok(change) => {
                    let entry = self.write(Kind::MEMBERSHIP, &entry::encode(&change), fx);
                    self.trust.take(entry);
                }
                Err(refusal) => refused.push((*peer, refusal)),
            }
        }
        self.judge_changes(Judges::Now, fx);
        Ok(Reply::RevokedAll(refused))
    }

    /// Ends the stays of ephemeral devices whose time, or whose one call, is over. Of a call that ends in this step it is
    /// said in the same batch.
    pub(super) fn end_stays(&mut self, fx: &mut Effects<'_>) {
        let me = self.local.me;
        self.book.ones.settle(&self.trust, fx);
        if self.trust.membership().stays.is_empty() || !self.trust.is_owner(&me) || self.is_excluded() {
            return;
        }
        let says = (facts!(self).leads(), self.book.ones.take_news());
        for due in self.upkeep.stays.due(&self.trust, &me, says, self.book.ones.peers(), fx.now) {
            let change = match due {
                Due::Removal(peer) => membership::revoke(peer, Revoking::removal(false), &facts!(self)).map(Some),
                Due::LastRead(peer) => membership::let_read(&peer, fx.now.wall_ms, &facts!(self)),
            };
            // What cannot be signed now is tried again.
            if let Ok(Some(change)) = change {
                self.sign_change(&change, fx);
            }
        }
    }

    /// When [`Self::end_stays`] is due.
    pub(super) fn stays_timeout(&self) -> Option<u64> {
        let says_spent = facts!(self).leads() && self.book.ones.peers().next().is_some();
        self.upkeep.stays.poll_timeout(&self.trust, &self.local.me, says_spent, self.timers.now)
    }

    pub(super) fn time_stop(&mut self, fx: &mut Effects<'_>) {
        let Some((id, until)) = self.timers.stopping else { return };
        let successor_leads = self.election.gateway().is_some_and(|epoch| epoch.peer != self.local.me);
        if fx.now.mono_ms >= until || successor_leads {
            self.timers.stopping = None;
            fx.sync = true;
            fx.then(Then::Reply(id, Reply::Stopped));
        }
    }

    fn leave(&mut self, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        let me = self.local.me;
        if self.trust.membership().members.len() > 1 && self.trust.member(&me).is_some() {
            let change = membership::revoke(me, Revoking::Leave, &facts!(self))?;
            self.sign_change(&change, fx);
        }
        Ok(Reply::Left)
    }

    fn sign_change(&mut self, change: &MembershipChange, fx: &mut Effects<'_>) {
        self.judge_changes(Judges::Now, fx);
        let entry = self.write(Kind::MEMBERSHIP, &entry::encode(change), fx);
        self.trust.take(entry);
        self.judge_changes(Judges::Now, fx);
    }

    // --- Rights -------------------------------------------------------------------------------------------------------

    pub(super) fn edit(&mut self, edit: Edit, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        membership::require_owner(&facts!(self))?;
        let next = Place { author: self.local.me, incarnation: self.logs.incarnation(), seq: self.logs.own_seq() + 1 };
        let (by, first) = (edit.by.clone(), edit.changes.first().map(|(key, _)| key.clone()));
        let judged = self.rights.judge(edit, next, fx.now.wall_ms << 16, &self.trust);
        if let Err(why @ (Refusal::NotAllowed(_) | Refusal::CheckFailed { .. })) = &judged {
            let row = AuditRow::new(Happened::EditRefused, Some(by), Verdict::Deny, &why.to_string());
            self.upkeep.audit.note(AuditRow { key: first, ..row }, fx);
        }
        let entries = judged?;
        let written = entries.len();
        for (kind, body) in entries {
            self.say(kind, &body, fx);
        }
        Ok(Reply::Edited { written })
    }

    /// Says something about rights.
    fn say(&mut self, kind: Kind, body: &[u8], fx: &mut Effects<'_>) {
        let entry = self.write(kind, body, fx);
        if let Some(said) = rights::read(&entry) {
            self.upkeep.audit.note(AuditRow::of_edit(&said), fx);
        }
        self.apply(&entry, None, fx);
    }

    // --- Directory ----------------------------------------------------------------------------------------------------

    /// Writes what this device says about itself, unless its newest entry says the same.
    pub(super) fn set_directory(&mut self, directory: &Directory, fx: &mut Effects<'_>) {
        if !self.nodes.says(&self.local.me, self.logs.incarnation(), directory) {
            self.write_directory(directory, fx);
        }
    }

    /// A former incarnation of our store, of which the others tell us, was ahead of us: our directory is to be the newest.
    pub(super) fn renew_directory(&mut self, fx: &mut Effects<'_>) {
        let me = self.local.me;
        if self.nodes.entry(&me).is_some_and(|entry| self.logs.is_older_than_former(entry.entry.hlc))
            && let Some(directory) = self.nodes.directory(&me).cloned()
        {
            self.write_directory(&directory, fx);
        }
    }

    fn write_directory(&mut self, directory: &Directory, fx: &mut Effects<'_>) {
        let entry = self.write(Kind::DIRECTORY, &entry::encode(directory), fx);
        self.apply(&entry, None, fx);
        self.executor.start_next(&facts!(self), fx); // a tool may have more places now
    }

    // --- What people say to calls that ask -----------------------------------------------------------------------------

    /// Calls that wait for a person, as far as this peer knows.
    #[must_use]
    pub fn approvals(&self) -> Vec<Approval> {
        let now = self.timers.now.mono_ms;
        let asking = self.book.all_asking().filter_map(|(id, asked)| {
            let record = self.book.record(id)?;
            let request = self.rights.question(&record.header, record.origin, self.book.header_hash(id));
            let of = |ask: &OpenAsk| (ask.rule.clone(), self.rights.view().approvers(&request, ask));
            Some(Approval {
                id: *id,
                header: record.header.clone(),
                origin: record.origin,
                asks: asked.asks.iter().map(of).collect(),
                why: asked.why.clone(),
                left_ms: self.book.left_ms(id, now).unwrap_or(0),
            })
        });
        asking.collect()
    }

    /// A call that this peer knows, or has known, as rights see it here and now.
    #[must_use]
    pub fn standing(&self, header: &Header, origin: PeerId) -> Standing {
        let (id, now) = (header.id, self.timers.now.mono_ms);
        let is_open = self.book.record(&id).is_some_and(|record| matches!(record.state, CallState::Open(_)));
        let entry = self.book.header_hash(&id).filter(|_| is_open);
        let request = self.rights.question(header, origin, entry);
        let settled = self.rights.view().decide(&request).consents;
        let given = self.rights.view().consents().all();
        let counts =
            given.filter(|given| settled.contains(&given.hash) || rights::call_of(&given.consent.choice) == Some(id));
        let answers = counts.map(|given| self.held_answer(given)).collect();
        let behind = self.rights.lacking(&header.mark, &self.logs, &self.trust).map(|known| known.author).collect();
        Standing { request, answers, behind, left_ms: self.book.left_ms(&id, now).filter(|_| is_open) }
    }

    /// Keeps in the audit that somebody may not answer.
    fn note_refused(
        &mut self,
        done: &Result<Reply, Refusal>,
        call: Option<ReqId>,
        by: Principal,
        fx: &mut Effects<'_>,
    ) {
        if let Err(Refusal::NotApprover(why)) = done {
            let row = AuditRow::new(Happened::AnswerRefused, Some(by), Verdict::Deny, why);
            self.upkeep.audit.note(AuditRow { call, ..row }, fx);
        }
    }

    fn held_answer(&self, given: &Given) -> HeldAnswer {
        let left_ms = self.rights.answer_left_ms(&given.hash, self.timers.now.mono_ms).unwrap_or(0);
        HeldAnswer { id: given.hash, at: given.at, consent: given.consent.clone(), left_ms }
    }

    /// The yeses for an hour that are held here and count, with the asks that they answer yet.
    #[must_use]
    pub fn hours(&self) -> Vec<HeldAnswer> {
        let view = self.rights.view();
        let held = self.rights.hours().filter_map(|given| {
            let of = view.answered_yet(&given);
            let held = self.held_answer(&given);
            (!of.is_empty()).then_some(HeldAnswer { consent: Consent { of, ..held.consent }, ..held })
        });
        held.collect()
    }

    /// A person at a door of ours takes back a yes for an hour. It goes to all who were told that yes.
    pub(super) fn take_back(&mut self, hour: Hash, by: &Principal, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        let person = self.answerer(by)?.clone();
        let view = Arc::clone(self.rights.view());
        let given = self.rights.hours().find(|given| given.hash == hour).ok_or(Refusal::UnknownHour(hour))?;
        let audience = self.rights.answer_audience(&hour).ok_or(Refusal::UnknownHour(hour))?;
        let Choice::Hour { target, tool, .. } = &given.consent.choice else {
            return Err(Refusal::UnknownHour(hour));
        };
        let may = |at: &&RuleRef| view.may_take_back(&given, at, &person);
        let of: Vec<RuleRef> = given.consent.of.iter().filter(may).cloned().collect();
        if of.is_empty() {
            let who = &given.consent.by;
            return Err(Refusal::NotApprover(format!(
                "{person} may not take back the yes of {who}: {who} may, and whoever may answer such calls"
            )));
        }
        // What is taken back already is not said again.
        if view.answered_yet(&given).iter().any(|at| of.contains(at)) {
            let consent = Consent {
                choice: Choice::Withdrawn { consent: hour },
                by: person,
                of: of.clone(),
                note: Note::default(),
            };
            self.write_consent(audience, &consent, limits::TTL_MS_MAX, fx);
            let rules: Vec<String> = of.iter().map(ToString::to_string).collect();
            let row = AuditRow::new(Happened::TakenBack, Some(by.clone()), Verdict::Ask, &rules.join(", "));
            let node = view.name_of(target).cloned();
            self.upkeep.audit.note(AuditRow { target: Some(*target), node, tool: Some(tool.clone()), ..row }, fx);
        }
        Ok(Reply::TakenBack { of })
    }

    /// The person, if this device answers for that one.
    fn answerer<'a>(&self, by: &'a Principal) -> Result<&'a PersonId, Refusal> {
        let me = self.local.me;
        let Principal::Person(person) = by else {
            return Err(Refusal::NotApprover(format!(
                "{by} may not answer for people: a person does, at a door of people"
            )));
        };
        let speaks = self.rights.view().speaks_for(&me, by);
        if !speaks || self.trust.tier(&me).is_none_or(|tier| tier == Tier::Ephemeral) {
            return Err(Refusal::NotApprover(format!(
                "this device may not answer for {person}: answer on one that may"
            )));
        }
        Ok(person)
    }

    /// A person at a door of ours answers a call.
    pub(super) fn answer(&mut self, new: NewAnswer, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        let NewAnswer { id, by, choice, note } = new;
        let person = self.answerer(&by)?;
        let Some(record) = self.book.record(&id) else { return Err(Refusal::UnknownCall(id)) };
        let (header, origin, hash) = (record.header.clone(), record.origin, self.book.header_hash(&id));
        let (Some(asked), Some(hash)) = (self.book.asked(&id), hash) else {
            let of = answer_words::said_before(record, person, choice);
            return of.map(|of| Reply::Answered { of }).ok_or_else(|| answer_words::too_late(record));
        };
        if self.book.is_cancelled(&id).is_some() {
            return Err(Refusal::AskOver(id));
        }
        let request = self.rights.question(&header, origin, Some(hash));
        let may = |ask: &&OpenAsk| self.rights.view().approvers(&request, ask).contains(person);
        let mut of: Vec<RuleRef> = asked.asks.iter().filter(may).map(|ask| ask.rule.clone()).collect();
        if of.is_empty() {
            // The same again: what is open by now is for others.
            if let Some(of) = self.rights.answered(&id, person, choice) {
                return Ok(Reply::Answered { of });
            }
            let mut who: Vec<PersonId> =
                asked.asks.iter().flat_map(|ask| self.rights.view().approvers(&request, ask)).collect();
            who.sort();
            who.dedup();
            let who = who.iter().map(PersonId::to_string).collect::<Vec<_>>().join(", ");
            let who = if who.is_empty() { "nobody".to_owned() } else { who };
            return Err(Refusal::NotApprover(format!("{person} may not answer this call: {who} may")));
        }
        of.truncate(OF_MAX);
        if matches!(choice, AnswerChoice::Hour | AnswerChoice::Always) && !self.rights.knows_asker(&request) {
            return Err(Refusal::Invalid(
                "the device that asks named itself, so that rights know no calls alike: say yes to this one alone, or give the \
                 device its name first (`sigil rename`)"
                    .to_owned(),
            ));
        }
        if choice == AnswerChoice::Always {
            if self.rights.view().name_of(&header.target).is_none() {
                return Err(Refusal::Invalid(
                    "the device that it is for named itself, so that no rule can name it: say yes to this one alone or for an \
                     hour, or give the device its name first (`sigil rename`)"
                        .to_owned(),
                ));
            }
            let changes = self.always(&header, &request.principal, &of)?;
            self.edit(Edit { by, changes, declared: false, force: false, seen: Vec::new() }, fx)?;
            return Ok(Reply::Answered { of });
        }
        let choice = match choice {
            AnswerChoice::Once => Choice::Once { call: id, header: hash },
            AnswerChoice::No => Choice::Deny { call: id, header: hash },
            AnswerChoice::Hour | AnswerChoice::Always => hour(&header, &request),
        };
        let left_ms = match choice {
            Choice::Hour { .. } => self.local.config.consent_hour_ms,
            Choice::Once { .. } | Choice::Deny { .. } | Choice::Withdrawn { .. } => {
                self.book.left_ms(&id, fx.now.mono_ms).unwrap_or(0)
            }
        };
        let consent = Consent { choice, by: person.clone(), of: of.clone(), note };
        self.write_consent(self.audience_of(&id, self.local.me), &consent, left_ms, fx);
        Ok(Reply::Answered { of })
    }

    /// Signs an answer. It counts, here too, once it is durable.
    pub(super) fn write_consent(&mut self, audience: Audience, consent: &Consent, left_ms: u64, fx: &mut Effects<'_>) {
        let body = entry::encode(consent);
        let entry = self.logs.append(self.local.signer.as_ref(), Kind::CONSENT, (audience, &body), fx);
        self.charge_own(&entry, fx);
        // Of an hour, too: after a restart it counts here no more, and is taken back here.
        let row = ConsentRow { entry: entry.to_stored(), left_ms, saved_ms: fx.now.wall_ms };
        fx.put(rows::consent(&entry.hash), &row);
        fx.then(Then::Push { entry, left_ms: Some(left_ms) });
    }

    /// The rules that settle these asks for calls like this one for ever: one in each domain.
    fn always(&self, header: &Header, asker: &Principal, of: &[RuleRef]) -> Result<Vec<(Key, Option<Value>)>, Refusal> {
        let node = self.nodes.name(&header.target, &self.trust).unwrap_or_else(|| header.node_id.clone());
        let who = asker.to_string().parse::<Who>();
        let (nodes, tools) = (node.as_str().parse::<NodePattern>(), header.tool.folded().parse::<ToolPattern>());
        let (Ok(who), Ok(node), Ok(tool)) = (who, nodes, tools) else {
            return Err(Refusal::Invalid("no rule can name exactly this asker, device and tool".to_owned()));
        };
        let mut changes = Vec::new();
        let mut domains: Vec<&Domain> = of.iter().map(|at| &at.domain).collect();
        domains.dedup();
        for domain in domains {
            let of: Vec<RuleRef> = of.iter().filter(|at| at.domain == *domain).cloned().collect();
            let told = format!("{domain} {asker} {node} {tool} {of:?}");
            let name: Result<Name, _> = format!("always-{}", hex16(&Hash::of(told.as_bytes()))).parse();
            let Ok(name) = name else { return Err(Refusal::Invalid("the rule cannot be named".to_owned())) };
            let rule = Rule {
                who: Some(vec![who.clone()]),
                nodes: Some(vec![node.clone()]),
                tools: Some(vec![tool.clone()]),
                of,
                bound: vec![header.target],
                ..Rule::of(RuleVerdict::Always)
            };
            changes.push((Key::Rule(RuleRef { domain: domain.clone(), name }), Some(Value::Rule(rule))));
        }
        Ok(changes)
    }

    /// The rights by which this peer decides, and all that was said of them: what [`Self::view`] shows of these, and no more.
    #[must_use]
    pub fn rights(&self) -> (Arc<View>, InForce) {
        (self.rights.view().clone(), self.rights.said())
    }
}

fn hour(header: &Header, request: &Request) -> Choice {
    Choice::Hour {
        principal: request.principal.clone(),
        domain: header.workspace.clone().map_or(Domain::Mesh, Domain::Workspace),
        target: header.target,
        tool: header.tool.clone(),
    }
}

/// The first bytes of a hash, in letters and digits.
fn hex16(hash: &Hash) -> String {
    let first = hash.0.first_chunk().copied().map_or(0, u64::from_be_bytes);
    format!("{first:016x}")
}
