//! A device sleeps (SIGSTOP) and wakes.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Mesh, PATIENCE, SOON, now, observe, setting, text, wait_until};

/// Detection takes keep-alive and idle timeout, 2.4 s, and a little for the news to travel; the rest is for a busy machine. Below
/// the 8 s for which the device sleeps.
const SEEN_WITHIN: Duration = Duration::from_secs(6);

#[test]
fn a6_a_frozen_device_is_offline_soon_and_back_under_the_same_id() {
    let freeze = Duration::from_secs(setting("SIGIL_TEST_FREEZE_S", 8));
    let mesh = Mesh::named(&["attic", "bureau", "cellar"]);
    // A follower sleeps, so that what is seen is the sleep and not an election.
    let sleeper = &mesh.homes[mesh.follower()];
    let awake = mesh.homes.iter().find(|home| home.name != sleeper.name).expect("two are awake");
    let identity = sleeper.peer_id();

    let frozen = now();
    sleeper.signal(Signal::SIGSTOP);
    wait_until("it is listed as offline", SEEN_WITHIN, || {
        awake.node_state(&sleeper.name).as_deref() == Some("offline")
    });
    let tool = awake.tool(&format!("node:{}:append", sleeper.name)).expect("its tools do not vanish");
    assert_eq!(tool["available"], false, "{tool}");
    assert!(tool.to_string().contains("currently offline"), "{tool}");

    let brief = awake.call(&sleeper.name, "append", 2);
    let lasting = awake.call(&sleeper.name, "append", 600);
    let asked = now();
    let body = json!({ "node": sleeper.name, "tool": "append", "arguments": {}, "ttl_s": 600 }).to_string();
    let headers = [("Content-Type", "application/json"), ("Prefer", "wait=1")];
    let waited = awake.ask("POST", "/api/v1/calls", &headers, body.as_bytes()).expect(202);
    assert!(asked.elapsed() < SOON, "a call for it hangs: {:?}", asked.elapsed());
    for id in [&brief, &lasting] {
        let state = text(&awake.get_call(id), "state").to_owned();
        assert!(["accepted", "queued", "dispatched"].contains(&state.as_str()), "{state}");
    }
    assert_eq!(awake.wait_ended(&brief, PATIENCE)["state"], "expired");

    observe(freeze.saturating_sub(frozen.elapsed()), || {});
    sleeper.signal(Signal::SIGCONT);
    wait_until("it is back", Duration::from_secs(5), || awake.node_state(&sleeper.name).as_deref() == Some("online"));
    assert_eq!(sleeper.peer_id(), identity);
    assert_eq!(awake.nodes().len(), 3, "no twin");
    for id in [lasting.as_str(), text(&waited, "id")] {
        let call = awake.wait_confirmed(id, PATIENCE);
        assert_eq!(call["state"], "done", "{call}");
        assert_eq!(sleeper.runs_of(id), [1]);
    }
    let call = awake.wait_confirmed(&brief, PATIENCE);
    assert_eq!(call["state"], "expired", "{call}");
    assert!(sleeper.runs_of(&brief).is_empty(), "ran after its time: {call}");
}

#[test]
fn a6_a_frozen_gateway_is_replaced_and_follows_when_it_wakes() {
    let mesh = Mesh::named(&["attic", "bureau", "cellar"]);
    let leader = mesh.leader();
    let (sleeper, awake) = (&mesh.homes[leader], &mesh.homes[(leader + 1) % 3]);
    let before = awake.gateway().expect("there is a gateway");
    sleeper.signal(Signal::SIGSTOP);
    wait_until("another leads", Duration::from_secs(5), || awake.gateway().is_some_and(|next| next.0 != before.0));
    let after = awake.gateway().expect("there is a gateway");
    sleeper.signal(Signal::SIGCONT);
    mesh.wait_converged();
    let settled = awake.gateway().expect("there is a gateway");
    assert!(settled.1 <= after.1 + 1, "the sleeper's return costs at most one more epoch: {after:?} {settled:?}");
}
