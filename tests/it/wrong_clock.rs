//! A wall clock that is a day wrong changes nothing.

use std::time::Duration;

use crate::harness::{Home, Mesh, PATIENCE, now, observe, setting};

/// One day, milliseconds.
const DAY_MS: i64 = 24 * 3600 * 1000;

#[track_caller]
fn a_day_wrong(offset_ms: i64) {
    let mut wrong = Home::new("wrong");
    wrong.set_env("SIGIL_TEST_WALL_OFFSET_MS", &offset_ms.to_string());
    let mut mesh = Mesh::of(vec![Home::new("attic"), Home::new("bureau"), wrong]);

    // Calls from it and to it.
    for (origin, target) in [(2, "attic"), (0, "wrong"), (2, "wrong")] {
        let id = mesh.homes[origin].call(target, "append", 60);
        let call = mesh.homes[origin].wait_confirmed(&id, PATIENCE);
        assert_eq!(call["state"], "done", "{call}");
        assert_eq!(mesh.runs_of(&id), [1]);
    }

    let first = mesh.homes[0].gateway().expect("there is a gateway").1;
    observe(Duration::from_secs(setting("SIGIL_TEST_CLOCK_S", 8)), || {
        for home in &mesh.homes {
            if let Some((_, epoch)) = home.gateway() {
                assert!(epoch <= first + 2, "epochs run away: {first} to {epoch}");
            }
        }
    });

    // A TTL holds: not over before its time, not alive long after it; and a long one is not cut short.
    mesh.homes[1].stop();
    for origin in [0, 2] {
        mesh.homes[origin].wait_node("bureau", "offline");
        let made = now();
        let (brief, lasting) =
            (mesh.homes[origin].call("bureau", "append", 2), mesh.homes[origin].call("bureau", "append", 600));
        let call = mesh.homes[origin].wait_ended(&brief, PATIENCE);
        assert_eq!(call["state"], "expired", "{call}");
        let took = made.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(12), "expired after {took:?}");
        assert!(!crate::harness::call_is_over(&mesh.homes[origin].get_call(&lasting)));
    }
}

#[test]
fn a7_a_wall_clock_a_day_ahead_changes_nothing() {
    a_day_wrong(DAY_MS);
}

#[test]
fn a7_a_wall_clock_a_day_behind_changes_nothing() {
    a_day_wrong(-DAY_MS);
}
