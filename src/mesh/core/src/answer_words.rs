//! Answers of people to a call, as its history tells it: written and read here alone, so that an answer that is given a second
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

/// An answer of which the history of a call tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldAnswer {
    /// The person who answered.
    pub by: PersonId,
    /// The answer.
    pub choice: AnswerChoice,
    /// The asks that it was given to.
    pub of: Vec<RuleRef>,
}

/// Reads an answer in words.
fn told(text: &str) -> Option<ToldAnswer> {
    let (by, said) = text.split_once(' ')?;
    let is_it = |choice: &AnswerChoice| {
        let rest = said.strip_prefix(words(*choice));
        rest.is_some_and(|rest| rest.starts_with(" (") || *choice == AnswerChoice::No && rest.starts_with(": "))
    };
    let all = [AnswerChoice::Once, AnswerChoice::Hour, AnswerChoice::Always, AnswerChoice::No];
    let choice = all.into_iter().find(is_it)?;
    let (_, of) = said.strip_suffix(')')?.rsplit_once('(')?;
    let of = of.split(", ").filter_map(|at| at.parse().ok()).collect();
    Some(ToldAnswer { by: by.parse().ok()?, choice, of })
}

/// All answers of which the history of a call tells: yeses while it was open, and the no that ended it.
#[must_use]
pub fn told_answers(record: &CallRecord) -> Vec<ToldAnswer> {
    // The words of a no may hold whatever its author wrote, and are read whole.
    let open = record.history.iter().filter(|row| matches!(row.state, CallState::Open(_)));
    let yes = open.flat_map(|row| row.reason.split(BETWEEN)).filter_map(told);
    let yes = yes.filter(|answer| answer.choice != AnswerChoice::No);
    let is_denied = record.state == CallState::Ended(Ending::Denied);
    let no = is_denied.then(|| told(&record.reason)).flatten().filter(|answer| answer.choice == AnswerChoice::No);
    let mut all: Vec<ToldAnswer> = Vec::new();
    for answer in yes.chain(no) {
        if !all.contains(&answer) {
            all.push(answer);
        }
    }
    all
}

/// The asks that this person has given this very answer to, if she has. An `always` is not known again: it is a rule.
#[must_use]
pub fn said_before(record: &CallRecord, by: &PersonId, choice: AnswerChoice) -> Option<Vec<RuleRef>> {
    let counts = match choice {
        AnswerChoice::No => record.state == CallState::Ended(Ending::Denied),
        AnswerChoice::Once | AnswerChoice::Hour => goes_or_ran(record.state),
        AnswerChoice::Always => false,
    };
    let mut told = told_answers(record).into_iter().filter(|_| counts);
    told.find(|answer| answer.by == *by && answer.choice == choice).map(|answer| answer.of)
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
