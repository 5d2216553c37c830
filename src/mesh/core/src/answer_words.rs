//! What people said to a call, as its history tells it: written and read here alone, so that an answer that is given a second
//! time, also once the call is over, is known again.

use crate::io::{AnswerChoice, CallRecord, CallState, Refusal};
use crate::policy::{Choice, Consent, Note, PersonId, RuleRef};
use crate::record::Ending;

/// Between the answers that a call has got.
const BETWEEN: &str = "; ";

/// The words of an answer.
const fn words(choice: AnswerChoice) -> &'static str {
    match choice {
        AnswerChoice::Once => "said yes",
        AnswerChoice::Hour => "said yes for an hour",
        AnswerChoice::Always => "said always",
        AnswerChoice::No => "said no",
    }
}

/// The yeses that let a call run; empty if nobody was asked.
pub(crate) fn yes<'a>(said: impl Iterator<Item = &'a Consent>) -> String {
    let all = said.filter_map(|Consent { choice, by, of, .. }| {
        let choice = match choice {
            Choice::Once { .. } => AnswerChoice::Once,
            Choice::Hour { .. } => AnswerChoice::Hour,
            Choice::Deny { .. } | Choice::Withdrawn { .. } => return None,
        };
        let of: Vec<String> = of.iter().map(ToString::to_string).collect();
        Some(format!("{by} {} ({})", words(choice), of.join(", ")))
    });
    all.collect::<Vec<_>>().join(BETWEEN)
}

/// The no that ended a call, and the ask that it was said to.
pub(crate) fn no(by: &PersonId, note: &Note, rule: &str) -> String {
    let note = note.as_str();
    let note = if note.is_empty() { String::new() } else { format!(": {note}") };
    format!("{by} {}{note} ({rule})", words(AnswerChoice::No))
}

/// The asks that this person has given this very answer to, if she has. An `always` is not known again: it is a rule.
#[must_use]
pub fn said_before(record: &CallRecord, by: &PersonId, choice: AnswerChoice) -> Option<Vec<RuleRef>> {
    let begins = format!("{by} {}", words(choice));
    let is_it = |text: &&str| {
        let rest = text.strip_prefix(&begins);
        rest.is_some_and(|rest| rest.starts_with(" (") || choice == AnswerChoice::No && rest.starts_with(": "))
    };
    let text = match choice {
        AnswerChoice::No if record.state == CallState::Ended(Ending::Denied) => {
            Some(record.reason.as_str()).filter(is_it)
        }
        AnswerChoice::No | AnswerChoice::Always => None,
        AnswerChoice::Once | AnswerChoice::Hour if !goes_or_ran(record.state) => None,
        AnswerChoice::Once | AnswerChoice::Hour => {
            record.history.iter().flat_map(|row| row.reason.split(BETWEEN)).find(is_it)
        }
    };
    let (_, of) = text?.rsplit_once('(')?;
    Some(of.trim_end_matches(')').split(", ").filter_map(|at| at.parse().ok()).collect())
}

/// True of a call that a yes has let run, or will.
const fn goes_or_ran(state: CallState) -> bool {
    match state {
        CallState::Open(_) | CallState::Ended(Ending::Done | Ending::Failed | Ending::Interrupted) => true,
        CallState::Ended(Ending::Expired | Ending::Cancelled | Ending::Denied | Ending::Undeliverable) => false,
    }
}

/// Why a call takes no answer that asks nobody, or not any more.
#[must_use]
pub fn too_late(record: &CallRecord) -> Refusal {
    let id = record.header.id;
    let mut told = record.history.iter().rev().map(|row| row.reason.as_str());
    let said = told.find(|reason| reason.contains(words(AnswerChoice::Once))).unwrap_or("no answer is wanted any more");
    match record.state {
        CallState::Open(_) => Refusal::AlreadyDecided(format!("call {id} goes on: {said}")),
        CallState::Ended(Ending::Denied) => Refusal::AlreadyDecided(format!("call {id} is denied: {}", record.reason)),
        CallState::Ended(ending @ (Ending::Done | Ending::Failed | Ending::Interrupted)) => {
            Refusal::AlreadyDecided(format!("call {id} has run and is {}: {said}", CallState::Ended(ending).as_str()))
        }
        CallState::Ended(Ending::Expired | Ending::Cancelled | Ending::Undeliverable) => Refusal::AskOver(id),
    }
}
