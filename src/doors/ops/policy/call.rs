//! Answers about one call in words: what rights said to it, what people did, and how it stands.

use std::fmt::Write as _;

use mesh_core::answer_words::{ToldAnswer, told_answers};
use mesh_core::frame::Phase;
use mesh_core::ids::{NodeId, PeerId, ReqId};
use mesh_core::io::{AnswerChoice, CallRecord, CallState, HistoryRow, View};
use mesh_core::policy::{Cause, Choice, Principal, RuleRef, Verdict, WorkspaceId};
use mesh_core::record::Ending;
use mesh_core::rule_words::rule_of;
use mesh_core::standing::{HeldAnswer, Standing};

use super::edit::Held;
use super::explain::{Explanation, Rights, all_of, sentence};
use crate::doors::identity::Identity;
use crate::doors::ops::calls::{find, why_waiting};
use crate::doors::ops::devices::name_of;
use crate::doors::tokens::is_over;
use crate::mesh::clock::{now, rfc3339};
use crate::mesh::{MeshHandle, verdict_of};
use crate::status::OpError;

/// A call, and why it is as it is.
#[derive(Debug, Clone)]
pub struct CallExplanation {
    /// The call.
    pub record: CallRecord,
    /// Answer that rights gave to it.
    pub verdict: Verdict,
    /// Rule that gave that answer; `None`: something else ended it, which its reason tells.
    pub rule: Option<String>,
    /// All of it in words.
    pub text: String,
    /// Rule by which its origin took it, and the workspace.
    pub accepted_by: (String, Option<WorkspaceId>),
    /// All that people said to it.
    pub answers: Vec<PersonAnswer>,
    /// Devices that have said something about rights which its origin knew and which has not come here.
    pub behind: Vec<String>,
    /// The same question now: of an open call how it stands, of one that is over what would be answered if it were asked again.
    pub now: Explanation,
}

/// Answer of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonAnswer {
    /// Who.
    pub by: String,
    /// What.
    pub choice: AnswerChoice,
    /// The asks that are answered.
    pub of: Vec<RuleRef>,
    /// The device at which it was; `None`: it is not told any more.
    pub at: Option<String>,
    /// Milliseconds for which it counts yet; `None`: the call is over, or goes on by it.
    pub left_ms: Option<u64>,
}

/// Tells why a call is as it is.
///
/// # Errors
/// [`crate::status::ErrorCode::UnknownCall`], also of one that does not concern the caller; or the mesh cannot answer.
pub async fn explain_call(mesh: &MeshHandle, who: &Identity, id: ReqId) -> Result<CallExplanation, OpError> {
    let record = find(mesh, who, id).await?;
    let mut standing = mesh.standing(&record).await?;
    let view = mesh.view();
    if let Some(shown) = standing.request.credential.as_mut().filter(|_| matches!(record.state, CallState::Ended(_))) {
        // Asked again, the token would be looked at again.
        shown.over = is_over(view.rights.token(&shown.token).unwrap_or_default(), now().wall_ms);
    }
    Ok(Held::of(view.clone()).rights().explain_call(&view, record, &standing))
}

impl Rights {
    fn explain_call(&self, view: &View, record: CallRecord, standing: &Standing) -> CallExplanation {
        let now = self.explain(&standing.request, node_id(&record, view));
        let answers = self.answers(view, &record, standing);
        let behind: Vec<String> = standing.behind.iter().map(|peer| device(view, peer)).collect();
        let cause = rule_of(&record);
        let verdict = verdict_of(&record);
        let rule = match verdict {
            Verdict::Deny => cause.as_ref().map(ToString::to_string),
            Verdict::Ask => {
                let asks = now.asks.first().map(|ask| ask.rule.to_string());
                cause.as_ref().map(ToString::to_string).or(asks).or_else(|| Some(record.header.rule.clone()))
            }
            Verdict::Allow => Some(record.header.rule.clone()),
        };
        let text = self.tell(view, &record, standing, (&now, cause.as_ref(), &answers, &behind));
        let accepted_by = (record.header.rule.clone(), record.header.workspace.clone());
        CallExplanation {
            record,
            verdict,
            rule: rule.filter(|rule| !rule.is_empty()),
            text,
            accepted_by,
            answers,
            behind,
            now,
        }
    }

    /// Answers that count yet, else those of which the history tells.
    fn answers(&self, view: &View, record: &CallRecord, standing: &Standing) -> Vec<PersonAnswer> {
        let held = standing.answers.iter().filter_map(|HeldAnswer { at, consent, left_ms, .. }| {
            let choice = match &consent.choice {
                Choice::Once { .. } => AnswerChoice::Once,
                Choice::Hour { .. } => AnswerChoice::Hour,
                Choice::Deny { .. } => AnswerChoice::No,
                Choice::Withdrawn { .. } => return None,
            };
            let (by, of) = (self.person(&consent.by), consent.of.clone());
            Some(PersonAnswer { by, choice, of, at: Some(device(view, at)), left_ms: Some(*left_ms) })
        });
        let held: Vec<PersonAnswer> = held.collect();
        if !held.is_empty() {
            return held;
        }
        let told = told_answers(record).into_iter().map(|ToldAnswer { by, choice, of }| PersonAnswer {
            by: self.person(&by),
            choice,
            of,
            at: None,
            left_ms: None,
        });
        told.collect()
    }

    fn tell(
        &self,
        view: &View,
        record: &CallRecord,
        standing: &Standing,
        (now, cause, answers, behind): (&Explanation, Option<&Cause>, &[PersonAnswer], &[String]),
    ) -> String {
        let (header, node) = (&record.header, view.target_name(&record.header));
        let (who, at) = (self.principal(&header.principal), rfc3339(record.listed_ms()));
        let at_device = match &header.principal {
            Principal::Device(_) => String::new(),
            Principal::Person(_) | Principal::Agent(..) => format!(" at `{}`", device(view, &record.origin)),
        };
        let mut text = sentence(&format!("{who} asked for `{}` of `{node}`{at_device} on {at}", header.tool));
        for PersonAnswer { by, choice, of, at, .. } in answers {
            let of: Vec<String> = of.iter().map(|at| self.rule(at)).collect();
            let of = if of.is_empty() { String::new() } else { format!(" to {}", all_of(&of)) };
            let at = at.as_ref().map_or_else(String::new, |at| format!(", at `{at}`"));
            let _ = write!(text, " {by} {}{of}{at}.", answered(*choice));
        }
        let _ = write!(text, " {}", self.present(view, record, (now, cause), standing));
        if !behind.is_empty() {
            let _ = write!(
                text,
                " `{}` knew something that was said about rights at {} and has not come here yet: until it has, this device \
                 neither lets the call through nor denies it.",
                device(view, &record.origin),
                all_of(&behind.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>())
            );
        }
        if let Some(original) = record.alias_of {
            let _ = write!(text, " It repeats call {original}, which tells the rest.");
        } else if matches!(record.state, CallState::Ended(_)) {
            let _ = write!(text, " Asked again now: {}", now.text);
        }
        text
    }

    /// How a call stands, in one or more sentences.
    fn present(
        &self,
        view: &View,
        record: &CallRecord,
        (now, cause): (&Explanation, Option<&Cause>),
        standing: &Standing,
    ) -> String {
        let node = view.target_name(&record.header);
        let ending = match record.state {
            CallState::Open(Phase::Asking) => {
                let until = rfc3339(record.header.accepted_ms.saturating_add(record.header.ttl_ms));
                return format!("It waits for a yes until {until}. {}", now.text);
            }
            CallState::Open(Phase::Running) => return format!("It runs now. {}", now.text),
            CallState::Open(Phase::Accepted | Phase::Queued | Phase::Dispatched) => {
                let waits =
                    why_waiting(view, record).map_or_else(|| format!("It waits for `{node}`."), |why| sentence(&why));
                return format!("{waits} {}", now.text);
            }
            CallState::Ended(ending) => ending,
        };
        let says = record.history.iter().rev().find(|row| row.state == record.state);
        let says = says.map_or_else(String::new, |HistoryRow { peer, confirmed, .. }| {
            let by = device(view, peer);
            if *confirmed {
                format!(" `{by}` itself says so.")
            } else {
                format!(" `{by}` says so; `{node}` has not said anything yet.")
            }
        });
        let because =
            |cause: &Cause, verdict| sentence(&self.why_of(cause, verdict, &standing.request, node_id(record, view)));
        match (ending, cause) {
            (Ending::Denied, Some(Cause::Rule(_))) if was_refused_by_a_person(record) => {
                format!("So it was denied, and nothing ran.{says}")
            }
            (Ending::Denied, Some(cause)) => {
                format!("It was denied, and nothing ran. {}{says}", because(cause, Verdict::Deny))
            }
            (Ending::Denied, None) => format!("It was denied, and nothing ran. {}{says}", sentence(&record.reason)),
            (Ending::Expired, Some(cause)) => {
                format!("Nobody said yes in time, and nothing ran. {}{says}", because(cause, Verdict::Ask))
            }
            (Ending::Expired, None) => format!("Its time to live ended before it could run, and nothing ran.{says}"),
            (Ending::Done, _) => format!("It ran, and is done.{says}"),
            (Ending::Failed, _) => format!("It ran, and failed.{}{says}", reason(record)),
            (Ending::Interrupted, _) => {
                format!("It was cut short: it may or may not have happened.{}{says}", reason(record))
            }
            (Ending::Cancelled, _) => format!("It was cancelled.{}{says}", reason(record)),
            (Ending::Undeliverable, _) => format!("It could not be brought to `{node}`.{}{says}", reason(record)),
        }
    }
}

fn reason(record: &CallRecord) -> String {
    if record.reason.is_empty() { String::new() } else { format!(" {}", sentence(&record.reason)) }
}

/// True of a call that a person's no ended: then the rule is the one that asked.
fn was_refused_by_a_person(record: &CallRecord) -> bool {
    told_answers(record).iter().any(|answer| answer.choice == AnswerChoice::No)
}

fn node_id<'a>(record: &'a CallRecord, view: &'a View) -> &'a NodeId {
    view.by_peer(&record.header.target).map_or(&record.header.node_id, |node| &node.node_id)
}

const fn answered(choice: AnswerChoice) -> &'static str {
    match choice {
        AnswerChoice::Once => "said yes",
        AnswerChoice::Hour => "said yes for an hour",
        AnswerChoice::Always => "said always",
        AnswerChoice::No => "said no",
    }
}

fn device(view: &View, peer: &PeerId) -> String {
    name_of(view, peer).unwrap_or_else(|| peer.short())
}
