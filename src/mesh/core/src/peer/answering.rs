//! Answers of people to calls that ask: given at a door of ours, or heard from others.

use super::Peer;
use crate::effects::{Effects, Then};
use crate::entry::{self, Kind, SignedEntry};
use crate::frame::EntryItem;
use crate::ids::{Hash, ReqId};
use crate::io::{AnswerChoice, Approval, CallState, Edit, NewAnswer, Refusal, Reply};
use crate::limits;
use crate::policy::bounds::OF_MAX;
use crate::policy::{
    Choice, Consent, Domain, Key, Name, NodePattern, OpenAsk, PersonId, Principal, Request, Rule, RuleRef, RuleVerdict,
    ToolPattern, Value, Who,
};
use crate::record::{Ending, Header, Tier};
use crate::rights;
use crate::rows::{self, ConsentRow};

impl Peer {
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

    /// A person at a door of ours answers a call.
    pub(super) fn answer(&mut self, new: NewAnswer, fx: &mut Effects<'_>) -> Result<Reply, Refusal> {
        let NewAnswer { id, by, choice, note } = new;
        let me = self.local.me;
        let Principal::Person(person) = &by else {
            return Err(Refusal::NotApprover(format!(
                "{by} may not answer for people: a person does, at a door of people"
            )));
        };
        let speaks = self.rights.view().speaks_for(&me, &by);
        if !speaks || self.trust.tier(&me).is_none_or(|tier| tier == Tier::Ephemeral) {
            return Err(Refusal::NotApprover(format!(
                "this device may not answer for {person}: answer on one that may"
            )));
        }
        let Some(record) = self.book.record(&id) else { return Err(Refusal::UnknownCall(id)) };
        let (header, origin, hash) = (record.header.clone(), record.origin, self.book.header_hash(&id));
        let (Some(asked), Some(hash)) = (self.book.asked(&id), hash) else { return Err(self.why_not_asked(&id)) };
        if self.book.is_cancelled(&id).is_some() {
            return Err(Refusal::AskOver(id));
        }
        let request = self.rights.question(&header, origin, Some(hash));
        let may = |ask: &&OpenAsk| self.rights.view().approvers(&request, ask).contains(person);
        let mut of: Vec<RuleRef> = asked.asks.iter().filter(may).map(|ask| ask.rule.clone()).collect();
        if of.is_empty() {
            let mut who: Vec<PersonId> =
                asked.asks.iter().flat_map(|ask| self.rights.view().approvers(&request, ask)).collect();
            who.sort();
            who.dedup();
            let who = who.iter().map(PersonId::to_string).collect::<Vec<_>>().join(", ");
            let who = if who.is_empty() { "nobody".to_owned() } else { who };
            return Err(Refusal::NotApprover(format!("{person} may not answer this call: {who} may")));
        }
        of.truncate(OF_MAX);
        if choice == AnswerChoice::Always {
            let changes = self.always(&header, &of)?;
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
        self.write_consent(&id, &consent, left_ms, fx);
        Ok(Reply::Answered { of })
    }

    /// Signs an answer. It counts, here too, once it is durable.
    fn write_consent(&mut self, id: &ReqId, consent: &Consent, left_ms: u64, fx: &mut Effects<'_>) {
        let audience = self.audience_of(id, self.local.me);
        let body = entry::encode(consent);
        let entry = self.logs.append(self.local.signer.as_ref(), Kind::CONSENT, (audience, &body), fx);
        self.charge_own(&entry, fx);
        if rights::call_of(&consent.choice).is_some() {
            let row = ConsentRow { entry: entry.to_stored(), left_ms, saved_ms: fx.now.wall_ms };
            fx.put(rows::consent(&entry.hash), &row);
        }
        fx.then(Then::Push { entry, left_ms: Some(left_ms) });
    }

    fn why_not_asked(&self, id: &ReqId) -> Refusal {
        let over = self.book.record(id).and_then(|record| match record.state {
            CallState::Ended(ending) => Some((ending, record.reason.clone())),
            CallState::Open(_) => None,
        });
        match (over, self.rights.answer_to(id)) {
            (Some((Ending::Denied, reason)), _) => Refusal::AlreadyDecided(format!("call {id} is denied: {reason}")),
            (Some(_), _) => Refusal::AskOver(*id),
            (None, Some((_, consent))) => {
                let said = if matches!(consent.choice, Choice::Deny { .. }) { "no" } else { "yes" };
                Refusal::AlreadyDecided(format!("{} said {said} to call {id} already", consent.by))
            }
            (None, None) => Refusal::AlreadyDecided(format!("call {id} asks nobody, or not any more")),
        }
    }

    /// The rules that settle these asks for calls like this one for ever: one in each domain.
    fn always(&self, header: &Header, of: &[RuleRef]) -> Result<Vec<(Key, Option<Value>)>, Refusal> {
        let node = self.nodes.name(&header.target, &self.trust).unwrap_or_else(|| header.node_id.clone());
        let who = header.principal.to_string().parse::<Who>();
        let (nodes, tools) = (node.as_str().parse::<NodePattern>(), header.tool.folded().parse::<ToolPattern>());
        let (Ok(who), Ok(node), Ok(tool)) = (who, nodes, tools) else {
            return Err(Refusal::Invalid("no rule can name exactly this asker, device and tool".to_owned()));
        };
        let mut changes = Vec::new();
        let mut domains: Vec<&Domain> = of.iter().map(|at| &at.domain).collect();
        domains.dedup();
        for domain in domains {
            let of: Vec<RuleRef> = of.iter().filter(|at| at.domain == *domain).cloned().collect();
            let told = format!("{domain} {} {node} {tool} {of:?}", header.principal);
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

    /// An answer has come.
    pub(super) fn apply_consent(&mut self, entry: &SignedEntry, left_ms: Option<u64>, fx: &mut Effects<'_>) {
        let Some(consent) = rights::read_answer(entry) else { return };
        let mut left_ms = left_ms;
        if let Some(id) = rights::call_of(&consent.choice)
            && let Some(record) = self.book.record(&id)
        {
            if matches!(record.state, CallState::Ended(_)) {
                return;
            }
            left_ms = self.book.left_ms(&id, fx.now.mono_ms);
        }
        self.rights.hear_answer(entry, left_ms, &self.local, &self.trust, fx);
    }

    /// Answers that came with a dispatch: each is held against the rights that are known here, as any other.
    pub(super) fn hear_consents(&mut self, consents: &[EntryItem], fx: &mut Effects<'_>) {
        for EntryItem { entry, left_ms } in consents.iter().take(limits::CONSENTS_OF_CALL_MAX) {
            let place = entry.place();
            let ours = entry.entry.kind == Kind::CONSENT && entry.entry.mesh == self.trust.mesh();
            if ours && self.trust.admits(&place.author, place.incarnation, place.seq) {
                self.apply_consent(entry, *left_ms, fx);
            }
        }
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
