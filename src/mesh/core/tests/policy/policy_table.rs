//! The table of cases (`cases/`), by the compiled view and by the slow evaluator.

use mesh_core::policy::{Key, Policy, Statement, Verdict, View};
use mesh_core::test_kit::slow;
use serde_json::Value as Json;

use crate::world::{World, place, said};

fn cases() -> Vec<Json> {
    include_str!("cases/cases.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asks every case and tells those that are answered otherwise.
fn ask_all(answer: impl Fn(&World, &View, &Json) -> (Verdict, String), view: impl Fn(&World) -> View) {
    let cases = cases();
    assert_eq!(cases.len(), 150);
    let mut wrong = Vec::new();
    for name in ["family", "homelab", "open"] {
        let world = World::load(name);
        let view = view(&world);
        for case in cases.iter().filter(|case| case["world"] == name) {
            let (verdict, rule) = answer(&world, &view, case);
            let expected = (case["expect"].as_str().unwrap(), case["rule"].as_str().unwrap());
            if (verdict.as_str(), rule.as_str()) != expected {
                wrong.push(format!("{}: {verdict} {rule}, not {expected:?}: {}", case["id"], case["note"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compiled(world: &World, view: &View, case: &Json) -> (Verdict, String) {
    let decision = view.decide(&world.request(case));
    (decision.verdict, decision.rule.to_string())
}

#[test]
fn all_cases_of_the_table_have_their_verdict_and_their_rule() {
    ask_all(compiled, World::view);
}

#[test]
fn the_slow_evaluator_agrees_with_the_table() {
    ask_all(|world, _, case| slow::decide(world.said(), &world.request(case)), World::view);
}

#[test]
fn the_order_in_which_records_come_is_nothing() {
    ask_all(compiled, |world| {
        let mut policy = Policy::default();
        for ((key, value), seq) in world.records.iter().rev().zip(1..) {
            policy.insert(place(9, seq), Statement { hlc: 1, said: said(key.clone(), value.clone()) });
        }
        // Key by key, workspaces last.
        let mut view = View::default();
        for facts in world.devices.values().rev() {
            view.set_device(facts.clone());
        }
        let mut keys: Vec<&Key> = policy.keys().collect();
        keys.reverse();
        keys.sort_by_key(|key| matches!(key, Key::Workspace(_)));
        for key in keys {
            view.refresh(&policy, &|_| true, key);
        }
        for given in world.given.iter().rev() {
            view.consents_mut().insert(given.clone());
        }
        view
    });
}

#[test]
fn every_decision_says_why_and_every_no_what_would_change_it() {
    for case in cases() {
        let world = World::load(case["world"].as_str().unwrap());
        let (view, request) = (world.view(), world.request(&case));
        let decision = view.decide(&request);
        let last = decision.path.last().unwrap();
        assert_eq!(last.verdict, decision.verdict, "{case}");
        assert!(decision.path.is_sorted_by_key(|step| step.layer), "{case}");
        assert!(!decision.why(&request).is_empty());
        let change = view.would_change(&request, &decision);
        let answered = decision.verdict == Verdict::Deny && !decision.consents.is_empty();
        assert_eq!(change.is_none(), decision.verdict == Verdict::Allow || answered, "{case}");
    }
}
