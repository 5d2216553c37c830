//! Rules against those that lie, left out one at a time: the tests that are about them must fail.

use std::cell::Cell;
use std::panic::catch_unwind;

use mesh_core::protocol_rule::ProtocolRule;

thread_local! {
    /// Rule that the honest peers of this thread's tests do not follow.
    pub(crate) static LEFT_OUT: Cell<Option<ProtocolRule>> = const { Cell::new(None) };
}

/// Rules, and tests that fail without.
const MISSED_BY: &[(ProtocolRule, fn())] = &[
    (ProtocolRule::AnyIsOwners, crate::k4_any_goes_to_no_device_that_only_says_it_has_the_tool),
    (ProtocolRule::LogBudget, super::s05_over_its_budget_a_log_stops_and_nobody_elses_does),
    (ProtocolRule::FormerOwnerBudget, super::k2_a_lowered_owner_keeps_what_it_had_and_gets_a_guests_share),
    (ProtocolRule::FreedBySteps, super::s05_what_a_truncation_frees_is_not_filled_again_at_once),
    (ProtocolRule::OpenShare, super::s06_an_origin_has_a_share_of_the_book_and_the_forgotten_has_none),
    (ProtocolRule::PlaceShare, super::k2_calls_whose_arguments_never_come_take_no_place),
    (ProtocolRule::PlaceShare, super::k2_a_guests_runs_leave_places_for_others),
    (ProtocolRule::ToolRunningLimit, crate::rates::p12_no_more_of_a_tool_run_at_once_than_its_device_says),
    (ProtocolRule::PolicyAtTarget, crate::rates::k1_a_call_that_is_not_allowed_does_not_wait_for_a_place),
    (ProtocolRule::EndingBudget, super::s14_calls_that_never_run_are_within_their_origins_budget_too),
    (ProtocolRule::ClosedBudget, super::s05_calls_that_are_over_stay_within_their_origins_budget),
    (ProtocolRule::OwnRevocation, crate::k1_a_halted_device_begins_nothing),
    (ProtocolRule::ConsentApprover, crate::s03_a_forged_yes_of_who_speaks_for_nobody_counts_for_nothing),
    (ProtocolRule::LetInForNobody, crate::standing::k1_whoever_is_let_in_again_speaks_for_nobody),
    (ProtocolRule::RunsEndWithStanding, crate::standing::k1_what_runs_for_a_device_that_is_removed_is_stopped),
    (ProtocolRule::DiskFloor, super::s14_what_others_write_does_not_fill_the_disk),
];

#[test]
fn every_rule_left_out_is_missed() {
    for rule in ProtocolRule::AGAINST_LIARS {
        assert!(MISSED_BY.iter().any(|(missed, _)| missed == rule), "{rule:?} has no test here");
    }
    for (rule, test) in MISSED_BY {
        LEFT_OUT.set(Some(*rule));
        let missed = catch_unwind(test).is_err();
        LEFT_OUT.set(None);
        assert!(missed, "{rule:?} can be left out and nobody sees it");
    }
}
