//! Workspaces, rules and answers in a run, and what must be true of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::frame::{Dispatch, Phase};
use mesh_core::ids::{Hash, NodeId, PeerId, ReqId};
use mesh_core::io::{AnswerChoice, CallRecord, CallState, Edit, Invocation, NewAnswer, View};
use mesh_core::limits;
use mesh_core::policy::{
    Binding, Cause, Choice, Credential, Domain, Key, Mode, Otherwise, Principal, Request, Role, Rule, RuleRef,
    RuleVerdict, Seat, Value, Verdict, Workspace, WorkspaceId,
};
use mesh_core::record::{Ending, Header};
use mesh_core::rows;
use mesh_core::rule_words;

use super::peer::{Peers, Sim};
use super::slowly::Settled;
use super::statements::Statements;
use crate::node::Node;
use crate::plan::{Fault, MS, Plan, SECOND, Says};
use crate::predicates::Checks;

/// The workspace of a run.
const WORKSPACE: &str = "home";
/// Of a yes that all know a call starts, or ends, within so long.
const GOES_ON_US: u64 = 2 * SECOND;

/// An answer that was taken, of these asks.
struct Answer {
    at: u64,
    by: usize,
    choice: AnswerChoice,
    of: Vec<RuleRef>,
}

/// All that people said in a run, as the world outside saw it.
#[derive(Default)]
pub(super) struct Rights {
    /// Answers to each call.
    said: BTreeMap<ReqId, Vec<Answer>>,
    /// Answers that were given, whether or not whoever gave them heard that they were taken.
    given: Vec<(ReqId, AnswerChoice)>,
    /// Hours, by what they are about.
    hours: Vec<(u64, ReqId)>,
    /// Whom a peer has removed with what it had said about rights.
    unsaid: Vec<(usize, usize)>,
    /// When a call that waits was first seen to have had a yes.
    waits: BTreeMap<(usize, ReqId), u64>,
    /// Since when a call that asks was seen to have no time left, and one for a peer to read as denied by others there.
    over: BTreeMap<(usize, ReqId), u64>,
    unsure: BTreeMap<(usize, ReqId), u64>,
    /// Since when a call that waits was seen to be denied where it waits.
    forbidden: BTreeMap<(usize, ReqId), u64>,
}

pub(super) fn constant<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid constant")
}

pub(super) type Changes = Vec<(Key, Option<Value>)>;

/// The workspace that holds everything; the owners' tool is nobody else's.
pub(super) fn workspace() -> Changes {
    let id: WorkspaceId = constant(WORKSPACE);
    let private = Rule {
        who: Some(vec![constant("devices")]),
        tools: Some(vec![constant(crate::node::OWNERS_TOOL)]),
        ..Rule::of(RuleVerdict::Deny)
    };
    let otherwise = Otherwise { devices: Verdict::Allow, ..Otherwise::default() };
    vec![
        (Key::Mode, Some(Value::Mode(Mode::Workspaces))),
        (Key::Rule(constant("mesh/owners-tool")), Some(Value::Rule(private))),
        (Key::Workspace(id.clone()), Some(Value::Workspace(Workspace { otherwise, ..Workspace::default() }))),
        (Key::Binding(id, constant("main")), Some(Value::Binding(Binding { nodes: None, tools: None }))),
    ]
}

/// A device has a place in the workspace, or none.
pub(super) fn seat(device: NodeId, gives: bool) -> Changes {
    let key = Key::Member(constant(WORKSPACE), Seat::Device(device));
    vec![(key, gives.then_some(Value::Member(Role::Member)))]
}

/// All that holds of a tool everywhere.
pub(super) fn rule(tool: &str, says: Says, wait_ms: u64) -> Changes {
    let verdict = match says {
        Says::Deny => Some(RuleVerdict::Deny),
        Says::Ask => Some(RuleVerdict::Ask),
        Says::Nothing => None,
    };
    let rule = verdict.map(|verdict| Rule {
        tools: Some(vec![constant(tool)]),
        wait_ms: (verdict == RuleVerdict::Ask).then_some(wait_ms),
        ..Rule::of(verdict)
    });
    vec![(Key::Rule(constant(&format!("mesh/on-{tool}"))), rule.map(Value::Rule))]
}

/// The question that a call asks of the rights of whoever sees the mesh like this. `entry`: hash of that of its header.
fn question(view: &View, header: &Header, origin: PeerId, entry: Hash) -> Request {
    let principal = match &header.principal {
        Principal::Device(_) => {
            let of = |node: &&mesh_core::io::NodeView| node.peer == origin;
            view.nodes.iter().find(of).map(|node| Principal::Device(node.node_id.clone()))
        }
        Principal::Person(_) | Principal::Agent(..) => None,
    };
    Request {
        principal: principal.unwrap_or_else(|| header.principal.clone()),
        origin,
        credential: header.token.clone().map(|token| Credential { token, over: false }),
        workspace: header.workspace.clone().map(Domain::Workspace),
        target: header.target,
        tool: header.tool.clone(),
        call: Some((header.id, entry)),
    }
}

/// True if this step has changed nothing about rights.
fn is_unchanged(sim: &Sim, node: &Node) -> bool {
    sim.rights_before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &node.rights().0))
}

/// The edit by which the owner changes who may do what.
pub(super) fn edit(changes: Changes) -> Edit {
    Edit { by: constant("person:owner"), changes, declared: false, force: true, seen: Vec::new() }
}

/// Whoever answers at a peer, and takes answers back.
pub(super) fn sitter() -> mesh_core::policy::Principal {
    constant("person:owner")
}

/// The owner's answer to a call.
pub(super) fn answer(id: ReqId, choice: AnswerChoice) -> NewAnswer {
    NewAnswer { id, by: sitter(), choice, note: constant("") }
}

impl Rights {
    /// **sent-by-right**: a gateway sends no call that its own rights do not let through, unless that is up to the target.
    /// Not of a step in which rights change: it may have been sent before that.
    pub(super) fn sent_by_right(now: u64, sim: &Sim, dispatch: &Dispatch, checks: &mut Checks) {
        let Some(view) = sim.node.as_ref().filter(|node| is_unchanged(sim, node)).map(Node::view) else { return };
        let Some(header) = dispatch.header.header() else { return };
        let request = question(&view, &header, dispatch.header.author, dispatch.header.hash);
        let decision = view.rights.decide(&request);
        if decision.verdict != Verdict::Allow && !decision.rule.is_of_target() {
            let (id, peer, rule) = (header.id, sim.index, decision.rule.to_string());
            checks.fail("sent-by-right", now, || format!("p{peer} sends {id}, of which {rule} says no or asks"));
        }
    }

    /// **taken-by-right**: a target takes no call that its own rights deny: it would write a start that is none.
    pub(super) fn taken_by_right(now: u64, sim: &Sim, id: ReqId, checks: &mut Checks) {
        let Some(node) = &sim.node else { return };
        let Some(record) = node.open_call(&id).filter(|record| matches!(record.state, CallState::Open(_))) else {
            return;
        };
        let Some(entry) = checks.header_entry(&id).filter(|_| is_unchanged(sim, node)) else { return };
        let view = node.view();
        let decision = view.rights.decide(&question(&view, &record.header, record.origin, entry));
        if decision.verdict == Verdict::Deny {
            let (peer, rule) = (sim.index, decision.rule.to_string());
            checks.fail("taken-by-right", now, || format!("p{peer} takes {id}, to which {rule} says no"));
        }
    }

    /// An answer is given.
    pub(super) fn note_given(&mut self, call: ReqId, choice: AnswerChoice) {
        self.given.push((call, choice));
    }

    /// An answer was taken.
    pub(super) fn note_answer(&mut self, (at, by): (u64, usize), call: ReqId, choice: AnswerChoice, of: Vec<RuleRef>) {
        self.said.entry(call).or_default().push(Answer { at, by, choice, of });
        if choice == AnswerChoice::Hour {
            self.hours.push((at, call));
        }
    }

    /// A peer has removed another with what that one said about rights.
    pub(super) fn note_unsaid(&mut self, by: usize, peer: usize) {
        self.unsaid.push((by, peer));
    }

    /// A peer's own calls that are on no disk yet.
    pub(super) fn unsaid_of(sim: &Sim, checks: &Checks) -> Vec<ReqId> {
        let ids = sim.node.iter().flat_map(Node::open_calls).map(|record| record.header.id);
        ids.filter(|id| id.is_of(&sim.id) && checks.header_entry(id).is_none()).collect()
    }

    /// **accepted-by-right**: an origin accepts no call that its own rights deny. `before`: those that it had accepted.
    pub(super) fn accepted_by_right(
        now: u64,
        sim: &Sim,
        before: &[ReqId],
        statements: &Statements,
        checks: &mut Checks,
    ) {
        let Some(node) = &sim.node else { return };
        let mut new = Self::unsaid_of(sim, checks);
        new.retain(|id| !before.contains(id));
        let new: Vec<_> = new.iter().filter_map(|id| node.open_call(id)).collect();
        if new.is_empty() {
            return;
        }
        let view = node.view();
        let Some(settled) = Settled::of(&view, statements) else { return };
        for record in new {
            let request = Request { call: None, ..question(&view, &record.header, sim.id, Hash([0; 32])) };
            let (verdict, rule) = settled.decide(&request);
            if verdict == Verdict::Deny {
                let (id, peer) = (record.header.id, sim.index);
                checks.fail("accepted-by-right", now, || format!("p{peer} accepts {id}, to which {rule} says no"));
            }
        }
    }

    /// **hours-end**: a peer that has just started holds no hour of anybody's consent.
    pub(super) fn hours_end_at_boot(now: u64, sim: &Sim, checks: &mut Checks) {
        let Some((rights, _)) = sim.node.as_ref().map(Node::rights) else { return };
        let is_hour = |given: &&mesh_core::policy::Given| matches!(given.consent.choice, Choice::Hour { .. });
        if let Some(given) = rights.consents().all().find(is_hour) {
            let peer = sim.index;
            checks.fail("hours-end", now, || format!("p{peer} starts with {:?}", given.consent));
        }
    }

    /// **runs-by-right**: a tool is invoked only if all that its target has applied about rights lets it, by the decision and
    /// by the slow evaluator over what it holds, which knows neither registers nor compiled rules. If that rests on a yes, some person gave one to that header, or an hour that is not over; and nobody whose no the target holds
    /// said no.
    pub(super) fn runs_by_right(
        &self,
        now: u64,
        sim: &Sim,
        invocation: &Invocation,
        statements: &Statements,
        checks: &mut Checks,
    ) {
        let Some(view) = sim.node.as_ref().map(Node::view) else { return };
        let Some(entry) = checks.header_entry(&invocation.id) else { return };
        let request = question(&view, &invocation.header, invocation.origin, entry);
        let (id, peer) = (invocation.id, sim.index);
        let decision = view.rights.decide(&request);
        if decision.verdict != Verdict::Allow {
            let rule = decision.rule.to_string();
            checks.fail("runs-by-right", now, || format!("{id} runs at p{peer}, where {rule} says no or asks"));
        }
        if let Some((verdict, rule)) = Settled::of(&view, statements).map(|settled| settled.decide(&request))
            && verdict != Verdict::Allow
        {
            let by = if rule == Cause::PrincipalDevice.to_string() { "asks-for-its-own" } else { "runs-by-right" };
            let principal = &request.principal;
            checks.fail(by, now, || format!("{id} runs for {principal} at p{peer}, where {rule} means {verdict:?}"));
        }
        for hash in &decision.consents {
            let given = view.rights.consents().all().find(|given| given.hash == *hash);
            let Some(given) = given.cloned() else { continue };
            let was_said = match &given.consent.choice {
                Choice::Once { call, header } => {
                    *call == id && *header == entry && self.given.contains(&(id, AnswerChoice::Once))
                }
                Choice::Hour { .. } => self.hours.iter().any(|(at, _)| now <= at + 2 * sim.config.consent_hour_ms * MS),
                Choice::Deny { .. } | Choice::Withdrawn { .. } => false,
            };
            if !was_said {
                checks.fail("runs-by-right", now, || format!("{id} runs at p{peer} by {:?}", given.consent));
            }
        }
    }

    /// **unsaid-has-no-effect**: of what a peer said about rights nothing holds at those who know that it is removed, if it
    /// was removed so by one who is an owner still.
    fn unsaid_has_no_effect(&self, now: u64, peers: &Peers, plan: &Plan, checks: &mut Checks) {
        let lost = |peer: usize| {
            plan.faults.iter().any(|(_, fault)| {
                matches!(fault, Fault::Restore { peer: other, .. } | Fault::Wipe { peer: other, .. } if *other == peer)
            })
        };
        for (by, of) in self.unsaid.iter().copied().filter(|(by, _)| !lost(*by)) {
            let author = peers[of].id;
            for sim in peers.iter().filter(|sim| sim.is_member() && peers[by].is_member() && peers[by].owner) {
                let Some(view) = sim.node.as_ref().map(Node::view) else { continue };
                let stands = view.said.said_by(&[author].into()).next().map(|(key, ..)| key.clone());
                if view.by_peer(&author).is_none()
                    && view.by_peer(&peers[by].id).is_some()
                    && let Some(key) = stands
                {
                    checks.fail("unsaid-has-no-effect", now, || {
                        format!("p{} holds what p{of} said of {key:?}, which p{by} took back", sim.index)
                    });
                }
            }
        }
    }

    /// **forbidden-ends**: where everyone is linked, no call waits on that the rights of whoever has it in its books deny.
    fn forbidden_ends(&mut self, now: u64, peers: &Peers, checks: &mut Checks) {
        let mut denied = BTreeMap::new();
        for sim in peers.iter().filter(|sim| sim.is_member()) {
            let Some(node) = &sim.node else { continue };
            let view = node.view();
            let waits = |state| matches!(state, CallState::Open(phase) if phase < Phase::Running);
            for record in node.open_calls().filter(|record| waits(record.state)) {
                let (id, Some(entry)) = (record.header.id, checks.header_entry(&record.header.id)) else { continue };
                let decision = view.rights.decide(&question(&view, &record.header, record.origin, entry));
                // Who was an owner when the call came is told no more of it.
                let own = [record.origin, record.header.target].contains(&sim.id);
                // Nor is one that was removed and does not know it yet.
                let hears = own
                    || peers
                        .index_of(&record.origin)
                        .is_some_and(|origin| peers.trusts(sim.index, origin) && peers.trusts(origin, sim.index));
                let told = (sim.owner || own) && hears;
                if !told || decision.verdict != Verdict::Deny || decision.rule.is_of_target() {
                    continue;
                }
                let since = self.forbidden.get(&(sim.index, id)).copied().unwrap_or(now);
                denied.insert((sim.index, id), since);
                if now > since + GOES_ON_US {
                    let (peer, rule, ms) = (sim.index, decision.rule.to_string(), (now - since) / MS);
                    checks.fail("forbidden-ends", now, || {
                        format!("{id} waits at p{peer} although {rule} says no to it there, for {ms} ms")
                    });
                }
            }
        }
        self.forbidden = denied;
    }

    /// **answered-calls-go-on**: where everyone is linked nothing asks on for long whose time is over.
    fn asks_no_longer(&mut self, now: u64, peers: &Peers, checks: &mut Checks) {
        let mut over = BTreeMap::new();
        for sim in peers.iter().filter(|sim| sim.is_member()) {
            let approvals = sim.node.as_ref().map(Node::approvals).unwrap_or_default();
            for approval in approvals.into_iter().filter(|approval| approval.left_ms == 0) {
                // Whoever may not hear of its ending any more cannot know it.
                let told = sim.owner || [approval.origin, approval.header.target].contains(&sim.id);
                let (id, epsilon) = (approval.id, limits::epsilon_ms(approval.header.ttl_ms) * MS);
                let hears = peers.index_of(&approval.origin).is_some_and(|origin| {
                    peers[origin].is_member() && peers.trusts(sim.index, origin) && peers.trusts(origin, sim.index)
                });
                let since = self.over.get(&(sim.index, id)).copied().unwrap_or(now);
                over.insert((sim.index, id), since);
                if told && hears && now > since + 2 * epsilon + GOES_ON_US {
                    let (peer, ms) = (sim.index, (now - since) / MS);
                    checks.fail("answered-calls-go-on", now, || format!("{id} asks at p{peer} {ms} ms after its time"));
                }
            }
        }
        self.over = over;
    }

    /// **denials-are-confirmed**: where everyone is linked no call is denied for a peer by others that says nothing of it.
    fn denials_are_confirmed(&mut self, now: u64, peers: &Peers, checks: &mut Checks) {
        let mut unsure = BTreeMap::new();
        for sim in peers.iter().filter(|sim| sim.is_member() && !sim.forged) {
            let Some(node) = &sim.node else { continue };
            let mine = node.open_calls().filter(|record| record.header.target == sim.id && !record.confirmed);
            for record in mine.filter(|record| record.state == CallState::Ended(Ending::Denied)) {
                let id = record.header.id;
                let works = sim.tools.iter().any(|(running, _)| *running == id);
                if works || !record.header.is_for(node.view().incarnation) {
                    continue;
                }
                let since = self.unsure.get(&(sim.index, id)).copied().unwrap_or(now);
                unsure.insert((sim.index, id), since);
                if now > since + GOES_ON_US {
                    let (peer, ms) = (sim.index, (now - since) / MS);
                    checks.fail("denials-are-confirmed", now, || {
                        format!("{id} is denied for p{peer} by others, which has said nothing of it for {ms} ms")
                    });
                }
            }
        }
        self.unsure = unsure;
    }

    /// **answered-calls-go-on**: where everyone is linked, nothing waits for an answer that was given, and nothing that its
    /// origin allowed is denied where nothing was taken from anybody.
    pub(super) fn look(&mut self, now: u64, peers: &Peers, plan: &Plan, checks: &mut Checks) {
        for sim in peers.iter() {
            let Some(node) = sim.node.as_ref().filter(|_| sim.is_member()) else { continue };
            for approval in node.approvals() {
                let said = self.said.get(&approval.id).and_then(|said| {
                    let by_owner = said.iter().all(|answer| peers[answer.by].owner && peers[answer.by].is_member());
                    // What is asked by now may be another question than the one that was answered.
                    let is_asked = |answer: &&Answer| approval.asks.iter().any(|(ask, _)| answer.of.contains(ask));
                    let mut said = said.iter().filter(is_asked);
                    let no = said.clone().find(|answer| answer.choice == AnswerChoice::No);
                    let yes = said.next().filter(|_| approval.asks.len() == 1);
                    no.or(yes).filter(|_| by_owner)
                });
                let Some(&Answer { at, by, choice, .. }) = said else { continue };
                let goes_on = match choice {
                    AnswerChoice::Once | AnswerChoice::No => true,
                    // A rule, which somebody may take away.
                    AnswerChoice::Always => plan.keeps_statements(),
                    AnswerChoice::Hour => false,
                };
                // Who was an owner when the call came may still list it, and is told no more.
                let told = sim.owner || [approval.origin, approval.header.target].contains(&sim.id);
                // One that was removed and does not know it yet hears of no answer.
                let talk = peers.trusts(sim.index, by) && peers.trusts(by, sim.index);
                if !goes_on || !told || approval.left_ms == 0 || !talk {
                    continue;
                }
                let since = *self.waits.entry((sim.index, approval.id)).or_insert(now);
                if now > since + GOES_ON_US {
                    checks.fail("answered-calls-go-on", now, || {
                        let (id, late) = (approval.id, (now - at) / MS);
                        format!("{id} waits at p{} although p{by} said {choice:?} {late} ms ago", sim.index)
                    });
                }
            }
        }
        self.asks_no_longer(now, peers, checks);
        self.denials_are_confirmed(now, peers, checks);
        self.forbidden_ends(now, peers, checks);
        self.unsaid_has_no_effect(now, peers, plan, checks);
        if plan.keeps_what_gives() || plan.only_gives() {
            never_denied(now, peers, plan.only_gives(), checks);
        }
    }
}

/// True of a no that says that something is not there.
const fn is_absence(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::Default
            | Cause::WorkspaceUnknown
            | Cause::WorkspaceNotMember
            | Cause::WorkspaceScope
            | Cause::PrincipalUnknown
    )
}

/// **allowed-is-not-denied**. That there is a workspace takes something from guests: what they asked for before that is
/// none of it.
fn never_denied(now: u64, peers: &Peers, only_gives: bool, checks: &mut Checks) {
    for sim in peers.iter().filter(|sim| sim.is_member()) {
        let Some(node) = &sim.node else { continue };
        if let Some(record) = node.open_calls().find(|record| is_denied_unduly(record, only_gives)) {
            fail_denied(now, sim.index, record, checks);
        }
    }
}

fn is_denied_unduly(record: &CallRecord, only_gives: bool) -> bool {
    // Where nothing but a rule takes, or a person's no, it is one that is there that denies.
    let cause = rule_words::rule_of(record).filter(|_| record.state == CallState::Ended(Ending::Denied));
    let by_right = cause.is_some_and(|cause| only_gives || is_absence(&cause));
    let in_workspaces = record.header.rule != Cause::Open.to_string();
    // Where a rule comes to ask while `started` is on its way to the disk, the attempt is used up and cannot wait for a yes.
    let asks_too_late = record.reason.contains("` says ask (");
    by_right && in_workspaces && !asks_too_late && record.header.tool.as_str() != crate::node::OWNERS_TOOL
}

fn fail_denied(now: u64, peer: usize, record: &CallRecord, checks: &mut Checks) {
    let (id, reason) = (record.header.id, record.reason.clone());
    checks.fail("allowed-is-not-denied", now, || format!("{id} is denied at p{peer}: {reason}"));
}

/// **allowed-is-not-denied**, of a denial that is told at a peer now: a confirmed one leaves its book in the same step.
pub(super) fn denied(now: u64, sim: &Sim, id: &ReqId, plan: &Plan, checks: &mut Checks) {
    if !(plan.keeps_what_gives() || plan.only_gives()) || !sim.is_member() {
        return;
    }
    let open = sim.node.as_ref().and_then(|node| node.open_call(id)).cloned();
    let record = open.or_else(|| sim.disk.applied_row(&rows::call(id)));
    if let Some(record) = record.filter(|record| is_denied_unduly(record, plan.only_gives())) {
        fail_denied(now, sim.index, &record, checks);
    }
}
