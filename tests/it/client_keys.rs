//! The same client key means the same call.

use std::thread;
use std::time::Duration;

use mesh_core::entry::{Kind, encode};
use mesh_core::ids::{Incarnation, PeerId, ReqId};
use mesh_core::record::{Ending, Header};
use serde_json::{Value, json};

use crate::harness::{Home, Mesh, PATIENCE, text, wait_converged, wait_until};
use crate::hostile_peer::{Fellow, header, outcome, peer, runtime};

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

/// The script of an owner asks, by the command line: the id of the call that it got, which is its own and ran here.
#[track_caller]
fn script(owner: &Home, node: &str, key: &str, runs_at: &[&Home]) -> String {
    let said = owner.cli(&["call", node, "append", "--key", key, "--json"]);
    let call = said.json(0);
    let id = text(&call, "id").to_owned();
    let req: ReqId = id.parse().expect("an id");
    assert!(req.is_of(&peer(owner)), "{call}");
    assert_eq!(text(&call, "state"), "done", "{call}");
    assert!(!call.to_string().contains("made up"), "{call}");
    let ran: Vec<u8> = runs_at.iter().flat_map(|home| home.runs_of(&id)).collect();
    assert_eq!(ran, [1], "{call}");
    id
}

#[test]
fn s04_no_key_of_a_shared_device_takes_over_an_owners_script() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let (attic, bureau) = (&mesh.homes[0], &mesh.homes[1]);
    let tablet = Home::new("tablet").started();
    let code = text(&attic.post("invites", &json!({ "tier": "shared" })).json(), "code").to_owned();
    assert!((200..300).contains(&tablet.join(&code).status));
    wait_converged(&[attic, bureau, &tablet], PATIENCE);
    let runtime = runtime();
    let mut phone = Fellow::join(&runtime, attic, "phone", "shared");
    let itself = phone.id();
    phone.offers_append();
    let state = |home: &Home, id: &ReqId| text(&home.get(&format!("calls/{id}")).json(), "state").to_owned();
    let mut asks = |n: u64, key: &str, target: PeerId, ending: &str| {
        let id = ReqId::new(&itself, Incarnation(1), n);
        let call = Header { client_key: Some(key.to_owned()), ..header(id, target) };
        phone.says(Kind::CALL, encode(&call));
        if target == itself {
            phone.says(Kind::OUTCOME, encode(&outcome(id, Ending::Done)));
        }
        for home in [attic, bureau] {
            wait_until("its call has ended", PATIENCE, || state(home, &id) == ending);
        }
    };

    // It calls itself under the key of tonight's script, and answers.
    asks(1, "nightly-1", itself, "done");
    asks(2, "nightly-2", itself, "done");
    script(bureau, "any", "nightly-1", &[attic, bureau]);
    script(attic, "any", "nightly-2", &[attic, bureau]);
    // It asks for the very same, and is denied.
    asks(3, "nightly-3", peer(attic), "denied");
    asks(4, "nightly-4", peer(bureau), "denied");
    script(bureau, "attic", "nightly-3", &[attic]);
    script(attic, "bureau", "nightly-4", &[bureau]);
    // It uses the key for what it may, with the ordinary program.
    for (key, owner, other) in [("nightly-5", attic, bureau), ("nightly-6", bureau, attic)] {
        let own = tablet.cli(&["call", "attic", "device.info", "--key", key, "--json"]).json(0);
        assert_eq!(text(&own, "state"), "done", "{own}");
        wait_until("all know of it", PATIENCE, || {
            let id = text(&own, "id").parse().expect("an id");
            state(attic, &id) == "done" && state(bureau, &id) == "done"
        });
        let id = script(owner, "attic", key, &[attic]);
        wait_until("the other owner knows of it", PATIENCE, || other.get(&format!("calls/{id}")).status == 200);
        let again = other.cli(&["call", "attic", "append", "--key", key, "--json"]).json(0);
        assert_eq!(text(&again, "id"), id, "owners share their keys");
        let still = tablet.cli(&["call", "attic", "device.info", "--key", key, "--json"]).json(0);
        assert_eq!(text(&still, "id"), text(&own, "id"), "and it has its own");
    }
}
