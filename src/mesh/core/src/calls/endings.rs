//! Which ending of a call counts, and if another attempt may follow: pure decisions, so that all books come to say the
//! same in whatever order they receive it.

use std::cmp::Reverse;

use crate::entry::SignedEntry;
use crate::ids::{ATTEMPTS_MAX, Attempt};
use crate::io::{CallRecord, CallState, HistoryRow};
use crate::parts;
use crate::record::{Effect, Ending, Outcome, Source};
use crate::rows::Basis;

/// True if an outcome could be one of a call at all.
pub(super) fn is_possible(outcome: &Outcome) -> bool {
    (1..=ATTEMPTS_MAX).contains(&outcome.attempt) && parts::are_within_limits(&outcome.output, &outcome.parts)
}

/// The basis of an outcome, if it takes the place of what is held; `None` when it does not count.
///
/// A target's own outcome confirms. Of others the origin and owners have a say (`by_owner`), until the target has spoken.
/// `anyone_confirms`: see [`crate::protocol_rule::ProtocolRule::TargetConfirms`].
pub(super) fn basis_of(
    entry: &SignedEntry,
    outcome: &Outcome,
    record: &CallRecord,
    held: Basis,
    by_owner: bool,
    anyone_confirms: bool,
) -> Option<Basis> {
    let author = entry.author;
    let (target, by_origin) = (record.header.target, author == record.origin);
    let confirmed = (author == target && outcome.source == Source::Target) || anyone_confirms;
    let has_say = confirmed || by_origin || by_owner;
    let of_another = matches!(outcome.source, Source::Relayed(of) if of != target);
    if !has_say || of_another {
        return None;
    }
    if confirmed {
        let told = record.history.iter().any(|row| {
            row.peer == author
                && row.attempt == outcome.attempt
                && row.confirmed
                && matches!(row.state, CallState::Ended(_))
        });
        let older = record.confirmed && outcome.attempt < record.attempt;
        return (!told && !older).then_some(Basis::Target);
    }
    let said = Reverse((entry.entry.hlc, entry.hash));
    let basis = match outcome.source {
        Source::Relayed(_) => Basis::Relayed(outcome.attempt),
        Source::Target | Source::Inferred if by_origin => Basis::Origin(said),
        Source::Target | Source::Inferred => Basis::Inferred(said),
    };
    (!record.confirmed && basis > held).then_some(basis)
}

/// The ending as the call reads. The attempt before a second one was interrupted, or there would be none: then it is never
/// "not run", also where the entry of that interruption comes later or was never received.
pub(super) fn ending_of(outcome: &Outcome) -> Ending {
    let not_run =
        matches!(outcome.ending, Ending::Expired | Ending::Cancelled | Ending::Denied | Ending::Undeliverable);
    if outcome.attempt > 1 && not_run { Ending::Interrupted } else { outcome.ending }
}

/// True if another attempt is possible after a confirmed outcome. Whether one follows, each gateway judges for itself
/// ([`follows`]), so the call stays in the book.
pub(super) fn may_follow(outcome: &Outcome, asked: Effect, once_is_once: bool) -> bool {
    outcome.ending == Ending::Interrupted && outcome.attempt < ATTEMPTS_MAX && (asked != Effect::Once || !once_is_once)
}

/// The interruption that its target told, of a call that was opened again for another attempt: that is how the call ended
/// if somebody else ends it by that attempt (`told`). So reads it whoever heard of this ending first.
pub(super) fn interruption_before(record: &CallRecord, told: Attempt) -> Option<&HistoryRow> {
    record.history.iter().rev().find(|row| {
        row.confirmed
            && row.peer == record.header.target
            && row.attempt >= told
            && row.state == CallState::Ended(Ending::Interrupted)
    })
}

/// True if another attempt follows here, where one may: the call was `waiting` for its ending until now, and its node
/// offers the tool still, with an effect that allows it.
pub(super) fn follows(waiting: bool, declared: Option<Effect>, once_is_once: bool) -> bool {
    waiting && declared.is_some_and(|effect| effect != Effect::Once || !once_is_once)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, PeerId, ReqId};
    use crate::record::Payload;

    fn outcome(attempt: Attempt, ending: Ending) -> Outcome {
        Outcome {
            id: ReqId::new(&PeerId([1; 32]), Incarnation(1), 1),
            attempt,
            ending,
            reason: String::new(),
            output: Payload::empty(),
            parts: Vec::new(),
            partial: false,
            error: String::new(),
            at_ms: 0,
            started_ms: 0,
            alias_of: None,
            source: Source::Target,
        }
    }

    #[test]
    fn a_second_attempt_that_did_not_run_reads_as_interrupted() {
        for ending in [Ending::Expired, Ending::Cancelled, Ending::Denied, Ending::Undeliverable] {
            assert_eq!(ending_of(&outcome(1, ending)), ending);
            assert_eq!(ending_of(&outcome(2, ending)), Ending::Interrupted);
        }
        assert_eq!(ending_of(&outcome(2, Ending::Done)), Ending::Done);
    }

    #[test]
    fn another_attempt_may_follow_an_interruption_of_what_may_run_twice() {
        let interrupted = outcome(1, Ending::Interrupted);
        assert!(may_follow(&interrupted, Effect::Idempotent, true));
        assert!(!may_follow(&interrupted, Effect::Once, true));
        assert!(!may_follow(&outcome(ATTEMPTS_MAX, Ending::Interrupted), Effect::Idempotent, true));
        assert!(!may_follow(&outcome(1, Ending::Done), Effect::Idempotent, true));
        assert!(follows(true, Some(Effect::Idempotent), true));
        assert!(!follows(true, Some(Effect::Once), true), "the node says now that it must run once");
        assert!(!follows(true, None, true), "the node offers it no more");
        assert!(!follows(false, Some(Effect::Idempotent), true));
    }
}
