//! The same client key means the same call.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Home, Mesh, PATIENCE, text, wait_until};

fn body(tag: &str) -> Value {
    json!({ "node": "target", "tool": "slow", "arguments": { "tag": tag }, "ttl_s": 120 })
}

/// Makes a keyed call and gives the id that it got.
#[track_caller]
fn keyed(door: &Home, key: &str, tag: &str) -> String {
    let response = door.call_with_key(key, &body(tag));
    assert!(response.status == 200 || response.status == 202, "{}", response.text());
    text(&response.json(), "id").to_owned()
}

#[test]
fn a8_one_key_is_one_call_at_one_door() {
    let mesh = Mesh::named(&["attic", "target"]);
    let door = &mesh.homes[0];
    let first = keyed(door, "lamp-1", "a");
    // Again at once, and from many sides at the same time.
    let others: Vec<String> = thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| keyed(door, "lamp-1", "a"))).collect();
        asking.into_iter().map(|thread| thread.join().expect("it was answered")).collect()
    });
    assert!(others.iter().all(|id| *id == first), "{first} {others:?}");
    assert_eq!(door.wait_confirmed(&first, PATIENCE)["state"], "done");
    // And after its end.
    assert_eq!(keyed(door, "lamp-1", "a"), first);
    assert_eq!(mesh.homes[1].witness(), [(first.clone(), 1)]);

    let reused = door.call_with_key("lamp-1", &body("b")).problem(409);
    assert_eq!(reused["code"], "key_reused");
    assert_ne!(keyed(door, "lamp-2", "a"), first, "another key is another call");
}

#[test]
fn a8_concurrent_first_uses_make_one_call() {
    let mesh = Mesh::named(&["attic", "target"]);
    let door = &mesh.homes[0];
    let ids: Vec<String> = thread::scope(|scope| {
        let asking: Vec<_> = (0..16).map(|_| scope.spawn(|| keyed(door, "door-1", "a"))).collect();
        asking.into_iter().map(|thread| thread.join().expect("it was answered")).collect()
    });
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
    assert_eq!(door.wait_confirmed(&ids[0], PATIENCE)["state"], "done");
    assert_eq!(mesh.homes[1].witness().len(), 1);
}

#[test]
fn a8_one_key_at_two_peers_and_across_a_gateway_change_is_one_run() {
    let mut mesh = Mesh::named(&["attic", "bureau", "target"]);
    // The target is away, so that the calls of both doors wait side by side.
    mesh.homes[2].stop();
    for door in &mesh.homes[..2] {
        door.wait_node("target", "offline");
    }
    let first = keyed(&mesh.homes[0], "heater", "a");
    let second = keyed(&mesh.homes[1], "heater", "a");
    let leader = mesh.leader();
    mesh.homes[leader].kill9();
    wait_until("the other leads", PATIENCE, || mesh.homes[1 - leader].leads());
    mesh.homes[leader].start();
    assert_eq!(keyed(&mesh.homes[0], "heater", "a"), first, "the key outlives the restart");
    mesh.homes[2].start();
    mesh.wait_converged();

    let one = mesh.homes[0].wait_ended(&first, Duration::from_mins(1));
    let two = mesh.homes[1].wait_ended(&second, Duration::from_mins(1));
    assert_eq!(one["state"], "done", "{one}");
    assert_eq!(two["state"], "done", "an alias reads as the call that it stands for: {two}");
    assert_eq!(mesh.homes[2].witness().len(), 1, "{one} {two}");
    if first != second {
        let aliases = [text(&one, "alias_of"), text(&two, "alias_of")];
        assert!(
            aliases == ["", first.as_str()] || aliases == [second.as_str(), ""],
            "one of them is the alias of the other: {one} {two}"
        );
    }
}
