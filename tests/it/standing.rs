//! What is left of a device that was removed, of a token that was narrowed, and of a disk that is full: nothing that others
//! have to pay for.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use testbed::http::{Request, Response, ask_tcp};

use crate::harness::{Home, Mesh, PATIENCE, done, items, observe, text, wait_converged, wait_until};

#[track_caller]
fn let_in(owner: &Home, home: &Home, terms: &Value) {
    let answer = owner.post("invites", terms);
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    assert!((200..300).contains(&home.join(text(&answer.json(), "code")).status));
    wait_converged(&[owner, home], PATIENCE);
}

/// Mia asks at her phone and uses everything of the hub.
fn mias_phone(hub: &Home) -> Home {
    let phone = Home::new("phone").started();
    let_in(hub, &phone, &json!({ "tier": "shared", "node_id": "phone" }));
    done(hub, &["person", "add", "mia", "--device", "phone"]);
    done(hub, &["workspace", "add", "family", "--node", "hub", "--members", "allow"]);
    done(hub, &["workspace", "member", "family", "mia"]);
    phone
}

/// Verdict and rule of what Mia may do at this device, as the hub knows it.
fn mia_at(hub: &Home, device: &str) -> (String, String) {
    let words = ["policy", "explain", "mia", "hub", "again", "--origin", device, "--json"];
    let told = hub.cli(&words).json(0);
    (text(&told, "verdict").to_owned(), text(&told, "rule").to_owned())
}

#[test]
fn k1_a_device_that_is_let_in_again_asks_for_nobody_before_somebody_says_so() {
    let hub = Home::new("hub").started();
    let phone = mias_phone(&hub);
    let id = phone.peer_id();
    assert_eq!(mia_at(&hub, &id).0, "allow");
    done(&hub, &["forget", "phone"]);
    wait_until("the phone knows", PATIENCE, || phone.status()["revoked"] == true);
    done(&phone, &["leave"]);
    // Whoever has it now comes under another name, or gets the old one: it is the same key.
    let_in(&hub, &phone, &json!({ "tier": "shared" }));
    for confirmed in [false, true] {
        if confirmed {
            done(&hub, &["rename", &id, "phone"]);
        }
        assert_eq!(mia_at(&hub, &id), ("deny".to_owned(), "principal:device".to_owned()), "{confirmed}");
        let refused = phone.try_call("hub", "again", 60).expect_err("it asks for itself").problem(403);
        assert_eq!(refused["code"], "denied", "{refused}");
    }
    assert!(hub.witness().is_empty());
    done(&hub, &["person", "set", "mia", "--device", "phone"]);
    assert_eq!(mia_at(&hub, &id).0, "allow");
}

#[test]
fn k1_forgetting_a_device_stops_what_runs_for_it() {
    let hub = Home::new("hub").with_tool("camera", "sleep 120", "once").started();
    let phone = mias_phone(&hub);
    let explained = || phone.cli(&["policy", "explain", "me", "hub", "camera", "--json"]).json(0);
    wait_until("the phone knows", PATIENCE, || explained()["verdict"] == "allow");
    let id = phone.call("hub", "camera", 60);
    wait_until("it runs", PATIENCE, || hub.get(&format!("calls/{id}")).json()["state"] == "running");
    done(&hub, &["forget", "phone"]);
    let call = hub.wait_ended(&id, Duration::from_secs(20));
    assert_eq!((&call["state"], &call["confirmed"]), (&json!("cancelled"), &json!(true)), "{call}");
    assert!(text(&call, "reason").contains("does not belong to the mesh any more"), "{call}");
}

/// A call with a client key and a token.
#[track_caller]
fn call_by_token(home: &Home, (token, key): (&str, &str), tool: &str) -> Response {
    let (host, bearer) = (format!("127.0.0.1:{}", home.http_port), format!("Bearer {token}"));
    let body = json!({ "node": "hub", "tool": tool, "arguments": {} }).to_string();
    let headers = [("authorization", &*bearer), ("content-type", "application/json"), ("idempotency-key", key)];
    let request = Request { method: "POST", path: "/api/v1/calls", headers: &headers, body: body.as_bytes() };
    ask_tcp(home.http_port, &host, &request, Duration::from_secs(30)).expect("an answer")
}

#[test]
fn k4_a_narrowed_token_takes_no_key_of_its_holder_and_sees_no_call_by_one() {
    let hub = Home::new("hub").started();
    let token = text(&hub.cli(&["token", "--tool", "again", "--json"]).json(0), "token").to_owned();
    assert!((200..300).contains(&call_by_token(&hub, (&token, "nightly-1"), "again").status));
    // The script of the holder gets its own run, and so does the token afterwards: each by itself, and each once.
    let body = json!({ "node": "hub", "tool": "append", "arguments": {} });
    let first = hub.call_with_key("nightly-1", &body);
    assert_eq!(first.status, 202, "{}", first.text());
    let id = text(&first.json(), "id").to_owned();
    assert_eq!(hub.wait_ended(&id, PATIENCE)["state"], "done");
    let other = json!({ "node": "hub", "tool": "again", "arguments": {} });
    let second = hub.call_with_key("nightly-2", &other);
    assert_eq!(second.status, 202, "{}", second.text());
    let own = call_by_token(&hub, (&token, "nightly-2"), "again");
    assert!((200..300).contains(&own.status), "{}", own.text());
    assert_ne!(own.json()["id"], second.json()["id"], "it does not get the call of its holder");
    let again = call_by_token(&hub, (&token, "nightly-2"), "again");
    assert_eq!(again.json()["id"], own.json()["id"], "the same key is the same call");
}

#[test]
fn s28_a_token_names_no_owners_device_and_a_narrowed_one_reads_no_findings() {
    let hub = Home::new("hub").with_config("[log]\nlevle = \"info\"\n").started();
    let warnings = |status: &Value| status["warnings"].as_array().map_or(0, Vec::len);
    assert!(warnings(&hub.status()) > 0, "a misspelt key is told");
    let token = |words: &[&str]| text(&hub.cli(&[&["token", "--json"], words].concat()).json(0), "token").to_owned();
    let (whole, narrowed) = (token(&[]), token(&["--tool", "again"]));
    let refused = hub.ask_by_token(&whole, "POST", "rename", &json!({ "node_id": "lock-front" })).problem(403);
    assert_eq!(refused["code"], "denied", "{refused}");
    assert_eq!(hub.status()["node_id"], "hub");
    let seen = |token: &str| warnings(&hub.ask_by_token(token, "GET", "status", &Value::Null).expect(200));
    assert_eq!((seen(&whole) > 0, seen(&narrowed)), (true, 0));
    done(&hub, &["rename", "lock-front"]);
    assert_eq!(hub.status()["node_id"], "lock-front");
}

#[test]
fn k2_a_token_whose_streams_do_not_end_keeps_no_other_from_the_door() {
    const PLACES: usize = 256;
    let hub = Home::new("hub").started();
    let token = |words: &[&str]| text(&hub.cli(&[&["token", "--json"], words].concat()).json(0), "token").to_owned();
    let (whole, narrowed) = (token(&[]), token(&["--tool", "again"]));
    let mut held = Vec::new();
    for _ in 0..PLACES {
        let mut stream = TcpStream::connect(("127.0.0.1", hub.http_port)).expect("the door is open");
        let head = format!(
            "GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {narrowed}\r\n\r\n",
            hub.http_port
        );
        stream.write_all(head.as_bytes()).expect("it is taken");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        assert!(stream.read(&mut [0; 64]).expect("the stream begins") > 0);
        held.push(stream);
    }
    hub.ask_by_token(&whole, "GET", "status", &Value::Null).expect(200);
    hub.ask_by_token(&narrowed, "GET", "status", &Value::Null).expect(200);
}

const MEMORY: &str = "workspaces/home/memory";

#[test]
fn b17_a_holder_whose_disk_is_nearly_full_takes_no_memory_until_there_is_room() {
    let mut mesh = Mesh::of(vec![Home::new("attic"), Home::new("bureau")]);
    let said = |home: &Home, text: &str| {
        home.post(&format!("{MEMORY}/messages:batch"), &json!({ "messages": [{ "text": text }] })).expect(200)
    };
    let held = |home: &Home| items(&home.get(&format!("{MEMORY}/items?limit=200")).expect(200)).len();
    said(&mesh.homes[0], "the boiler is at 1.6 bar");
    wait_until("the other has it", PATIENCE, || held(&mesh.homes[1]) == 1);
    mesh.homes[1].stop();
    mesh.homes[1].set_env("SIGIL_STORAGE_FREE_MIN", "900000GB");
    mesh.homes[1].start();
    mesh.wait_converged();
    let knows = |home: &Home| home.status()["warnings"].to_string().contains("nearly full");
    wait_until("it knows of its disk", PATIENCE, || knows(&mesh.homes[1]));
    said(&mesh.homes[0], "the code of the safe is 4711");
    observe(Duration::from_secs(5), || assert_eq!(held(&mesh.homes[1]), 1, "its disk is nearly full"));
    mesh.homes[1].stop();
    mesh.homes[1].set_env("SIGIL_STORAGE_FREE_MIN", "0B");
    mesh.homes[1].start();
    wait_until("there is room again", PATIENCE, || held(&mesh.homes[1]) == 2);
}
