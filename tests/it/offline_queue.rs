//! Work for a device that is off.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Home, Mesh, PATIENCE, items, text, wait_converged, wait_until};

/// The history row in which the call got into a state.
fn row<'a>(call: &'a Value, state: &str) -> Option<&'a Value> {
    call["history"].as_array()?.iter().rfind(|row| text(row, "state") == state)
}

#[test]
fn a4_calls_wait_for_a_device_that_is_off_and_outlive_their_gateways() {
    let mut mesh = Mesh::named(&["attic", "bureau", "tablet"]);
    mesh.homes[2].stop();
    mesh.homes[0].wait_node("tablet", "offline");
    mesh.homes[1].wait_node("tablet", "offline");

    // 100 calls from two origins, TTLs in turn.
    let mut made: BTreeMap<usize, Vec<(String, u64)>> = BTreeMap::new();
    for turn in 0..100 {
        let ttl = [5, 60, 3_600][turn % 3];
        let origin = turn % 2;
        let id = mesh.homes[origin].call("tablet", "append", ttl);
        made.entry(origin).or_default().push((id, ttl));
    }

    // The gateway restarts twice, the quick way, and fails over once.
    for _ in 0..2 {
        let leader = mesh.leader();
        mesh.homes[leader].kill9();
        mesh.homes[leader].start();
        wait_converged(&[&mesh.homes[0], &mesh.homes[1]], PATIENCE);
    }
    let leader = mesh.leader();
    mesh.homes[leader].stop();
    let other = 1 - leader;
    wait_until("the other leads", PATIENCE, || mesh.homes[other].leads());
    mesh.homes[leader].start();

    // The short ones are over, with time and reason, before the device is back.
    for (&origin, calls) in &made {
        for (id, _) in calls.iter().filter(|(_, ttl)| *ttl == 5) {
            let call = mesh.homes[origin].wait_ended(id, PATIENCE);
            assert_eq!(call["state"], "expired", "{call}");
            let row = row(&call, "expired").unwrap_or_else(|| panic!("no row: {call}"));
            assert!(!text(row, "at").is_empty() && !text(row, "reason").is_empty(), "{call}");
            assert!(!text(&call, "reason").is_empty(), "{call}");
        }
    }
    assert!(mesh.homes[2].witness().is_empty());

    mesh.homes[2].start();
    mesh.wait_converged();
    for (&origin, calls) in &made {
        let mut starts = Vec::new();
        for (id, ttl) in calls {
            let call = mesh.homes[origin].wait_confirmed(id, Duration::from_mins(1));
            if *ttl == 5 {
                assert_eq!(call["state"], "expired", "{call}");
                assert!(mesh.homes[2].runs_of(id).is_empty(), "ran after its time: {call}");
            } else {
                assert_eq!(call["state"], "done", "{call}");
                assert_eq!(mesh.homes[2].runs_of(id), [1], "{call}");
                starts.push(text(row(&call, "running").unwrap_or(&Value::Null), "at").to_owned());
            }
        }
        assert!(starts.iter().all(|at| !at.is_empty()), "each start has its time: {starts:?}");
        assert!(starts.is_sorted(), "started in the order of acceptance at origin {origin}: {starts:?}");
    }
    for origin in 0..2 {
        let queued = mesh.homes[origin].get("calls?node=tablet&state=queued").expect(200);
        assert!(items(&queued).is_empty(), "{queued}");
    }
    mesh.assert_nothing_ran_twice();
}

#[test]
fn a4_the_queue_of_one_target_is_full_at_a_thousand() {
    let mut mesh = Mesh::named(&["attic", "tablet"]);
    mesh.homes[1].stop();
    mesh.homes[0].wait_node("tablet", "offline");
    let door: &Home = &mesh.homes[0];
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..125 {
                    door.call("tablet", "append", 3_600);
                }
            });
        }
    });
    let refused = door.try_call("tablet", "append", 3_600).expect_err("call 1,001");
    let problem = refused.problem(429);
    assert_eq!(problem["code"], "queue_full");
    assert!(text(&problem, "detail").contains("queue full"), "{problem}");
    let retry: u64 = refused.header("retry-after").and_then(|value| value.parse().ok()).expect("retry advice");
    assert!(retry > 0);
    // Another target is not concerned.
    let id = door.call("attic", "append", 60);
    assert_eq!(door.wait_ended(&id, PATIENCE)["state"], "done");
}

#[test]
fn a_cancelled_call_that_waits_does_not_run() {
    let mut mesh = Mesh::named(&["attic", "tablet"]);
    mesh.homes[1].stop();
    mesh.homes[0].wait_node("tablet", "offline");
    let (wanted, unwanted) = (mesh.homes[0].call("tablet", "append", 600), mesh.homes[0].call("tablet", "append", 600));
    let answer = mesh.homes[0].post(&format!("calls/{unwanted}/cancel"), &serde_json::json!({}));
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    assert_eq!(mesh.homes[0].wait_ended(&unwanted, PATIENCE)["state"], "cancelled");
    mesh.homes[1].start();
    assert_eq!(mesh.homes[0].wait_confirmed(&wanted, PATIENCE)["state"], "done");
    let call = mesh.homes[0].wait_confirmed(&unwanted, PATIENCE);
    assert_eq!(call["state"], "cancelled", "{call}");
    assert_eq!(mesh.runs_of(&wanted), [1]);
    assert!(mesh.runs_of(&unwanted).is_empty());
}

#[test]
fn a_running_tool_is_stopped_within_two_seconds_of_its_cancel() {
    let homes = vec![Home::new("attic"), Home::new("bureau").with_tool("long", "exec sleep 30", "once")];
    let mesh = Mesh::of(homes);
    let id = mesh.homes[0].call("bureau", "long", 60);
    wait_until("it runs", PATIENCE, || mesh.homes[0].get_call(&id)["state"] == "running");
    let answer = mesh.homes[0].post(&format!("calls/{id}/cancel"), &serde_json::json!({}));
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    let call = mesh.homes[0].wait_confirmed(&id, Duration::from_secs(3));
    assert_eq!(call["state"], "cancelled", "{call}");
}
