//! The link is cut, or the agent dies, at a named point of a call's life at its target.
//!
//! | point | is passed |
//! | --- | --- |
//! | `before_started` | when the call was taken, before `started` is durable |
//! | `after_started` | when `started` is durable, before the tool is invoked |
//! | `after_run` | when the tool has ended, before the outcome is durable |
//! | `after_outcome` | when the outcome is durable, before anyone is told |

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Mesh, PATIENCE, text, wait_until};

/// A mesh of two whose second member, not the gateway, has the fault armed.
#[track_caller]
fn armed(fault: &str) -> Mesh {
    let mut mesh = Mesh::named(&["attic", "target"]);
    mesh.homes[1].kill9();
    wait_until("attic leads", PATIENCE, || mesh.homes[0].leads());
    mesh.homes[1].set_env("SIGIL_FAULT", fault);
    mesh.homes[1].start();
    mesh.wait_converged();
    mesh
}

/// The agent dies at `point` while it has a call of `tool`, and is started again.
#[track_caller]
fn die(point: &str, tool: &str) -> (Mesh, Value) {
    let mut mesh = armed(&format!("{point}:die"));
    let id = mesh.homes[0].call("target", tool, 60);
    let status = mesh.homes[1].reap();
    assert!(!status.success(), "the agent was to die at {point}, but ended with {status}");
    mesh.homes[1].set_env("SIGIL_FAULT", "");
    mesh.homes[1].start();
    let call = mesh.homes[0].wait_confirmed(&id, PATIENCE);
    mesh.assert_nothing_ran_twice();
    (mesh, call)
}

/// All links of the target are cut when it passes `point`.
#[track_caller]
fn cut(point: &str) {
    for tool in ["append", "again"] {
        let mesh = armed(&format!("{point}:cut"));
        let id = mesh.homes[0].call("target", tool, 60);
        let call = mesh.homes[0].wait_confirmed(&id, PATIENCE);
        assert_eq!(call["state"], "done", "{call}");
        assert_eq!(mesh.homes[1].runs_of(&id), [1], "{call}");
        mesh.assert_nothing_ran_twice();
    }
}

#[track_caller]
fn assert_done_once(point: &str, tool: &str) {
    let (mesh, call) = die(point, tool);
    assert_eq!(call["state"], "done", "{call}");
    assert_eq!(mesh.homes[1].runs_of(text(&call, "id")), [1], "{call}");
}

#[test]
fn a5_killed_before_started_is_durable_it_is_done_once() {
    assert_done_once("before_started", "append");
    assert_done_once("before_started", "again");
}

#[test]
fn a5_killed_after_the_outcome_is_durable_it_is_done_once() {
    assert_done_once("after_outcome", "append");
    assert_done_once("after_outcome", "again");
}

#[test]
fn a5_a_once_call_cut_between_started_and_run_is_interrupted_and_never_run_again() {
    let (mesh, call) = die("after_started", "append");
    assert_eq!(call["state"], "interrupted", "{call}");
    // Long enough for a gateway to send it again, if it would.
    crate::harness::observe(Duration::from_secs(2), || {
        assert!(mesh.runs_of(text(&call, "id")).is_empty(), "ran after it was told as interrupted");
    });
    assert_eq!(mesh.homes[0].get_call(text(&call, "id"))["state"], "interrupted");
}

#[test]
fn a5_a_once_call_that_ran_unrecorded_is_interrupted_and_never_run_again() {
    let (mesh, call) = die("after_run", "append");
    assert_eq!(call["state"], "interrupted", "{call}");
    crate::harness::observe(Duration::from_secs(2), || {
        assert_eq!(mesh.runs_of(text(&call, "id")), [1]);
    });
}

#[test]
fn a5_an_idempotent_call_that_was_interrupted_is_done_on_attempt_2() {
    let (mesh, call) = die("after_started", "again");
    assert_eq!((&call["state"], &call["attempt"]), (&"done".into(), &2.into()), "{call}");
    assert_eq!(mesh.homes[1].runs_of(text(&call, "id")), [2]);

    let (mesh, call) = die("after_run", "again");
    assert_eq!((&call["state"], &call["attempt"]), (&"done".into(), &2.into()), "{call}");
    assert_eq!(mesh.homes[1].runs_of(text(&call, "id")), [1, 2]);
    let interrupted = call["history"]
        .as_array()
        .is_some_and(|rows| rows.iter().any(|row| text(row, "state") == "interrupted" && row["attempt"] == 1));
    assert!(interrupted, "the interruption stays in the history: {call}");
}

#[test]
fn a5_a_link_cut_before_started_leaves_one_run() {
    cut("before_started");
}

#[test]
fn a5_a_link_cut_while_it_runs_leaves_one_run() {
    cut("after_started");
}

#[test]
fn a5_a_link_cut_after_it_ran_leaves_one_run() {
    cut("after_run");
}

#[test]
fn a5_a_link_cut_before_the_outcome_is_told_leaves_one_run() {
    cut("after_outcome");
}
