//! Accepting a call at its origin: checks what somebody at a door asks for, and makes the header of it.

use std::sync::Arc;

use super::{Book, key_id, request_fingerprint};
use crate::budget::OverBudget;
use crate::effects::Effects;
use crate::facts::Facts;
use crate::ids::{PeerId, ReqId};
use crate::io::{Denial, DiskSpace, NewCall, Refusal};
use crate::limits;
use crate::policy::{Cause, Decision, OpenAsk, Principal, Request, Verdict};
use crate::protocol_rule::ProtocolRule;
use crate::record::Header;
use crate::rule_words;
use crate::tiers;

/// Time after which it makes sense to ask again where a queue is full.
const RETRY_AFTER_MS: u64 = 30_000;

/// A call that may be accepted.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// Its client key names this one, which asks for the same.
    Known(ReqId),
    /// To be signed.
    New {
        /// Its header.
        header: Arc<Header>,
        /// Devices at which somebody may have to say yes, see [`crate::audience::Audience::Asked`].
        approvers: Vec<PeerId>,
    },
}

/// Checks a new call and makes its header, under the next id of this incarnation.
///
/// # Errors
/// The first limit or rule that it violates.
pub(crate) fn accept(new: NewCall, book: &Book, facts: &Facts<'_>, fx: &Effects<'_>) -> Result<Accepted, Refusal> {
    let me = facts.me();
    if facts.is_excluded_here() {
        return Err(Refusal::NotMember);
    }
    check(&new)?;
    let sits = || facts.rights.view().sits_at(&me).ok_or(Refusal::NotMember);
    let principal = new.principal.clone().map_or_else(sits, Ok)?;
    let key = new.client_key.as_ref().map(|key| key_id(&me, &principal, key, facts.trust));
    let known = key.and_then(|key| book.keys.get(&key)).filter(|_| fx.enforces(ProtocolRule::KeyAtOrigin));
    let target = match known {
        // Where another device's call went is its own choice: whoever asks for any gets one of his own.
        Some(known) if new.node == "any" && known.id.is_of(&me) && tiers::may_be_chosen(&known.target, facts) => {
            known.target
        }
        _ => resolve(&new, &principal, book, facts)?,
    };
    if let Some(known) = known {
        let same = known.fingerprint == request_fingerprint(&target, new.tool.as_str(), &new.arguments);
        return if same { Ok(Accepted::Known(known.id)) } else { Err(Refusal::KeyReused(known.id)) };
    }
    let node_id = facts.nodes.name(&target, facts.trust);
    let Some(node_id) = node_id else { return Err(Refusal::UnknownNode(new.node)) };
    let request = request(&new, principal, target, facts);
    let mut decision = facts.rights.view().decide(&request);
    if decision.verdict != Verdict::Deny && book.has_asked_its_one(facts.trust) {
        // Whoever has a second call is its device, which says so at once; gateway and target would deny it.
        (decision.verdict, decision.rule) = (Verdict::Deny, Cause::TierScope);
        decision.asks.clear();
        return Err(denied_as(request, decision, rule_words::beyond_its_one(), facts));
    }
    let Some(decl) = facts.nodes.declared(&target, new.tool.as_str()) else {
        let is_banned = matches!(decision.rule, Cause::Local(_));
        let unknown = || Refusal::UnknownTool { node: node_id, tool: new.tool };
        return Err(if is_banned { denied(request, decision, facts) } else { unknown() });
    };
    match decision.verdict {
        Verdict::Allow | Verdict::Ask => {}
        Verdict::Deny if decision.rule == Cause::OwnerOnly && !fx.enforces(ProtocolRule::Tier) => {}
        Verdict::Deny if !fx.enforces(ProtocolRule::PolicyAtAccept) => {}
        Verdict::Deny => return Err(denied(request, decision, facts)),
    }
    if let Some(DiskSpace { free, floor }) = facts.local.disk {
        return Err(Refusal::DiskFull { free, floor });
    }
    let budget = facts.config().budgets.of(facts.trust.tier(&me));
    let over_budget = |over| Refusal::OverBudget { over, retry_after_ms: RETRY_AFTER_MS };
    let (open, bytes) = book.own_open(&target);
    let full = open >= facts.config().open_per_target_max && fx.enforces(ProtocolRule::OpenLimit);
    if full || bytes + new.arguments.len() > limits::OPEN_BYTES_PER_TARGET_MAX {
        return Err(Refusal::QueueFull { node: node_id, open, retry_after_ms: RETRY_AFTER_MS });
    }
    book.has_room_for_own(&new.arguments, budget).map_err(over_budget)?;
    if new.client_key.is_some() && book.keys.count_of(&me) >= budget.keys {
        return Err(over_budget(OverBudget::Keys(budget.keys)));
    }
    let own = facts.logs.incarnation();
    // Also of asks that an hour has answered: it may be over, or taken back, before the call starts.
    let asks: Vec<OpenAsk> = decision.asks.iter().cloned().chain(facts.rights.answered_by_hours(&decision)).collect();
    let approvers = facts.rights.approvers_at(&request, &asks, facts.trust);
    let header = Header {
        id: facts.incarnations.next_id(&me, own),
        target,
        node_id,
        tool: new.tool,
        arguments: new.arguments,
        effect: new.effect.map_or(decl.effect, |asked| asked.max(decl.effect)),
        ttl_ms: new.ttl_ms.saturating_add(wait_ms(&decision)).min(limits::TTL_MS_MAX),
        accepted_ms: fx.now.wall_ms,
        timeout_ms: new.timeout_ms,
        principal: request.principal,
        token: request.credential.map(|credential| credential.token),
        workspace: decision.workspace,
        rule: decision.rule.to_string(),
        mark: facts.rights.mark(&me, facts.trust),
        client_key: new.client_key,
        target_incarnation: if target == me {
            Some(own)
        } else {
            facts.nodes.entry(&target).map(|entry| entry.entry.incarnation)
        },
    };
    if !header.is_within_limits() {
        return Err(Refusal::Invalid("the call is over a limit of what may be asked of another device".to_owned()));
    }
    Ok(Accepted::New { header: Arc::new(header), approvers })
}

/// Time for which a call waits for people besides its own, in milliseconds: as long as the most patient ask.
fn wait_ms(decision: &Decision) -> u64 {
    decision.asks.iter().map(|ask| ask.wait_ms).max().unwrap_or(0)
}

/// The question that a new call asks of this target.
fn request(new: &NewCall, principal: Principal, target: PeerId, facts: &Facts<'_>) -> Request {
    let (credential, workspace, tool) = (new.credential.clone(), new.workspace.clone(), new.tool.clone());
    Request { principal, origin: facts.me(), credential, workspace, target, tool, call: None }
}

fn denied(request: Request, decision: Decision, facts: &Facts<'_>) -> Refusal {
    let why = rule_words::denied(&request, &decision);
    denied_as(request, decision, why, facts)
}

fn denied_as(request: Request, decision: Decision, why: String, facts: &Facts<'_>) -> Refusal {
    let would_change = facts.rights.view().would_change(&request, &decision);
    Refusal::Denied(Box::new(Denial { request, decision, why, would_change }))
}

fn check(new: &NewCall) -> Result<(), Refusal> {
    if !new.arguments.is_within_limits() {
        let max = limits::INLINE_BYTES_MAX;
        return Err(Refusal::Invalid(format!("arguments over {max} bytes travel as a blob")));
    }
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
    Ok(())
}

/// The peer that a call names: by node name, by id, or `any` for one that offers the tool and may be chosen: where it
/// is allowed before where it is asked, then the least busy one.
fn resolve(new: &NewCall, principal: &Principal, book: &Book, facts: &Facts<'_>) -> Result<PeerId, Refusal> {
    let (node, tool) = (new.node.as_str(), &new.tool);
    let verdict = |target: &PeerId| {
        let request = request(new, principal.clone(), *target, facts);
        facts.rights.view().decide(&request).verdict
    };
    let members = &facts.trust.membership().members;
    if node == "any" {
        let online = facts.online(book.online());
        return members
            .keys()
            .filter(|peer| tiers::may_be_chosen(peer, facts))
            .filter(|peer| facts.nodes.declared(peer, tool.as_str()).is_some())
            .min_by_key(|peer| (verdict(peer), !online.contains(*peer), book.own_open(peer).0, **peer != facts.me()))
            .copied()
            .ok_or_else(|| Refusal::UnknownNode(format!("any (no device of an owner offers `{tool}`)")));
    }
    // Names first, and the id read once: writing out every member's id would cost more than all the rest of a call.
    facts
        .nodes
        .named(node, facts.trust)
        .or_else(|| node.parse().ok().filter(|peer| members.contains_key(peer)))
        .ok_or_else(|| Refusal::UnknownNode(limits::cut(node, 80).to_owned()))
}
