//! The doors on the mesh, its nodes and those that may join.

use mesh_core::entry::Place;
use mesh_core::policy::{InForce, Key, Policy, Rule, RuleVerdict, Statement, Value as Said};

use super::*;

#[tokio::test]
async fn status_has_the_names_that_scripts_rely_on() {
    let fake = Fake::start().await;
    let status = fake.get("/api/v1/status").await.ok(200);
    assert_eq!(status["node_id"], "desk");
    assert_eq!(status["peer_id"], key(1).peer_id().to_string());
    assert_eq!(status["incarnation"], 7);
    assert_eq!(
        status["gateway"],
        json!({ "peer_id": key(1).peer_id().to_string(), "node_id": "desk", "epoch": 4, "self": true })
    );
    assert_eq!(status["links"][0]["node_id"], "nas");
    assert_eq!(status["endpoints"]["socket"], fake.bound.socket.display().to_string());
    assert_eq!(status["endpoints"]["http"], format!("http://{}", fake.bound.http));
    assert_eq!(status["endpoints"]["quic"], json!(["[::]:7433"]));
    assert!(status["warnings"][0].as_str().unwrap().contains("no multicast"));
}

#[tokio::test]
async fn nodes_show_state_tools_and_why() {
    let fake = Fake::start().await;
    let list = fake.get("/api/v1/nodes").await.ok(200);
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|n| (&n["node_id"], &n["state"])).collect();
    assert_eq!(json!(names), json!([["desk", "online"], ["nas", "offline"], ["tv", "online"], ["phone", "pending"]]));
    assert_eq!(list["next_cursor"], Value::Null);

    let nas = fake.get("/api/v1/nodes/nas").await.ok(200);
    assert!(nas["why"].as_str().unwrap().contains("switch it on"));
    assert_eq!(nas["tools"][0]["address"], "node:nas:files.read");
    assert_eq!(nas["tools"][0]["available"], false);
    assert_eq!(nas["tools"][0]["why"], "currently offline");
    assert_eq!(nas["gateway"], false);
    let desk = fake.get(&format!("/api/v1/nodes/{}", key(1).peer_id())).await.ok(200);
    assert_eq!((&desk["node_id"], &desk["gateway"], &desk["why"]), (&json!("desk"), &json!(true), &Value::Null));
    assert_eq!(fake.get(&format!("/api/v1/nodes/{}", key(1).peer_id().short())).await.ok(200)["node_id"], "desk");

    let ambiguous = fake.get(&format!("/api/v1/nodes/{}", twin(1).short())).await.problem(409, "ambiguous_id");
    assert_eq!(ambiguous["choices"].as_array().unwrap().len(), 2);
    fake.get("/api/v1/nodes/attic").await.problem(404, "unknown_node");
    fake.get("/api/v1/nodes/ABCDEFG").await.problem(404, "unknown_node");
    for odd in [&"x".repeat(300), "a%00b%2F%3A", "-a", "A", "a%20b"] {
        fake.get(&format!("/api/v1/nodes/{odd}")).await.problem(422, "invalid");
    }
    let online = fake.get("/api/v1/nodes?state=online").await.ok(200);
    assert_eq!(online["items"].as_array().unwrap().len(), 2);
    fake.get("/api/v1/nodes?state=asleep").await.problem(422, "invalid");
    fake.get("/api/v1/nodes?colour=red").await.problem(422, "invalid");

    let tools = fake.get("/api/v1/tools?node=nas").await.ok(200);
    assert_eq!(tools["items"][0]["name"], "files.read");
    assert_eq!(fake.get("/api/v1/tools").await.ok(200)["items"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_join_request_is_approved_under_either_route() {
    for route in ["pending/phone", "nodes/phone"] {
        let fake = Fake::start().await;
        let waiting = fake.get("/api/v1/pending").await.ok(200);
        assert_eq!(waiting["items"][0]["node_id"], "phone");
        let body = r#"{"tier":"owner","node_id":"handy"}"#;
        let node = fake.post(&format!("/api/v1/{route}/approve"), body).await.ok(200);
        assert_eq!(
            (&node["node_id"], &node["tier"], &node["state"]),
            (&json!("handy"), &json!("owner"), &json!("online"))
        );
    }
    let fake = Fake::start().await;
    fake.post("/api/v1/pending/phone/approve", r#"{"node_id":"No!"}"#).await.problem(422, "invalid");
    fake.post("/api/v1/pending/phone/approve", r#"{"tire":"owner"}"#).await.problem(422, "invalid");
    fake.post("/api/v1/pending/nas/approve", "{}").await.problem(404, "unknown_pending");
    assert_eq!(fake.ask(Method::POST, "/api/v1/pending/phone/approve", None).await.ok(200)["tier"], "shared");
}

#[tokio::test]
async fn a_member_changes_tier_and_is_forgotten() {
    let fake = Fake::start().await;
    let node = fake.post("/api/v1/nodes/tv/approve", r#"{"tier":"owner"}"#).await.ok(200);
    assert_eq!(node["tier"], "owner");
    fake.post("/api/v1/nodes/tv/approve", r#"{"node_id":"telly"}"#).await.problem(409, "conflict");
    fake.ask(Method::DELETE, "/api/v1/nodes/nas", None).await.ok(204);
    assert_eq!(fake.books().revoked, [twin(1)]);
    fake.ask(Method::DELETE, "/api/v1/nodes/tv", None).await.problem(403, "not_owner");
    fake.ask(Method::DELETE, "/api/v1/nodes/desk", None).await.problem(409, "conflict");
    fake.ask(Method::DELETE, "/api/v1/nodes/attic", None).await.problem(404, "unknown_node");
    fake.ask(Method::DELETE, "/api/v1/nodes/phone", None).await.ok(204);
    fake.ask(Method::POST, "/api/v1/pending/phone/reject", None).await.ok(204);
    assert_eq!(fake.books().rejected, [key(5).peer_id(), key(5).peer_id()]);
}

#[tokio::test]
async fn s28_a_token_makes_no_owner() {
    let fake = Fake::start().await;
    for (path, body) in [
        ("invites", "{}"),
        ("invites", r#"{"tier":"owner"}"#),
        ("pending/phone/approve", r#"{"tier":"owner"}"#),
        ("nodes/phone/approve", r#"{"tier":"owner"}"#),
        ("nodes/tv/approve", r#"{"tier":"owner"}"#),
    ] {
        let told = fake.post_by_token(&format!("/api/v1/{path}"), body).await.problem(403, "denied");
        let (detail, hint) = (told["detail"].as_str().unwrap(), told["hint"].as_str().unwrap());
        assert!(detail.contains("owner") && detail.contains("socket"), "{detail}");
        assert!(hint.contains("on this machine") && hint.contains("shared"), "{hint}");
    }
    assert!(fake.books().invites.is_empty());
    // Less than that it may hand out.
    fake.post_by_token("/api/v1/invites", r#"{"tier":"shared"}"#).await.ok(201);
    assert_eq!(fake.post_by_token("/api/v1/pending/phone/approve", "{}").await.ok(200)["tier"], "shared");
    // Nor does it make an owner less.
    fake.post_by_token("/api/v1/nodes/nas/approve", r#"{"tier":"shared"}"#).await.problem(403, "denied");
}

#[tokio::test]
async fn invites_and_joins() {
    let fake = Fake::start().await;
    let invite = fake.ask(Method::POST, "/api/v1/invites", None).await.ok(201);
    assert_eq!(invite["tier"], "owner");
    assert_eq!(invite["expires_at"], time(ACCEPTED_MS + 900_000));
    assert_eq!(invite["addresses"], json!(["192.168.1.2:7433"]));
    fake.post("/api/v1/invites", r#"{"expires_s":0}"#).await.problem(422, "invalid");
    for tier in ["king", "ephemeral"] {
        let body = json!({ "tier": tier }).to_string();
        fake.post("/api/v1/invites", &body).await.problem(422, "invalid");
        fake.post("/api/v1/pending/phone/approve", &body).await.problem(422, "invalid");
    }

    let code = invite["code"].as_str().unwrap();
    let would_leave = fake.post("/api/v1/join", &json!({ "code": code }).to_string()).await.problem(409, "would_leave");
    assert_eq!(would_leave["others"], 2);
    let joined = fake.post("/api/v1/join", &json!({ "code": code, "force": true }).to_string()).await.ok(200);
    assert_eq!((&joined["state"], &joined["node_id"]), (&json!("member"), &json!("desk-2")));
    assert_eq!(joined["tier"], "owner");
    // s08: a code names its device, and may be checked; without one nobody is asked before a person has compared.
    let (own, theirs) = (CheckWords::of(&key(1).peer_id()), CheckWords::of(&key(6).peer_id()));
    let body = json!({ "code": code, "force": true, "words": theirs.to_string() }).to_string();
    fake.post("/api/v1/join", &body).await.problem(409, "other_words");
    let asks = fake.post("/api/v1/join", r#"{"nearby":null}"#).await.problem(409, "confirm_peer");
    assert_eq!((&asks["check"]["words"], &asks["own_check"]["words"]), (&json!(theirs.words()), &json!(own.words())));
    assert_eq!(asks["peer_id"], key(6).peer_id().to_string());
    let wrong = json!({ "nearby": null, "words": own.to_string() }).to_string();
    fake.post("/api/v1/join", &wrong).await.problem(409, "other_words");
    fake.post("/api/v1/join", r#"{"nearby":null,"words":"amber canoe"}"#).await.problem(422, "invalid");
    let right = json!({ "nearby": null, "words": theirs.to_string().replace(' ', "-") }).to_string();
    let pending = fake.post("/api/v1/join", &right).await.ok(202);
    assert_eq!((&pending["state"], &pending["own_peer_id"]), (&json!("pending"), &json!(key(1).peer_id().to_string())));
    assert_eq!((&pending["check"], &pending["own_check"]), (&asks["check"], &asks["own_check"]));
    fake.post("/api/v1/join", r#"{"nearby":"attic"}"#).await.problem(404, "unknown_nearby");
    fake.post("/api/v1/join", r#"{"address":"1.2.3.4:7433"}"#).await.problem(503, "inviter_down");
    fake.post("/api/v1/join", r#"{"address":"attic"}"#).await.problem(503, "inviter_down");
    fake.post("/api/v1/join", r#"{"address":"attic/7433"}"#).await.problem(422, "invalid");
    fake.post("/api/v1/join", r#"{"code":"hello"}"#).await.problem(422, "invite_invalid");
    for bad in ["{}", r#"{"force":true}"#, r#"{"nearby":null,"address":"1.2.3.4:7433"}"#] {
        fake.post("/api/v1/join", bad).await.problem(422, "invalid");
    }
    assert_eq!(fake.get("/api/v1/nearby").await.ok(200)["items"][0]["name"], "guest");
    assert_eq!(fake.ask(Method::POST, "/api/v1/leave", None).await.ok(200)["mesh_id"], MeshId([3; 32]).to_string());
}

#[tokio::test]
async fn l02_invites_are_listed_and_taken_back() {
    let fake = Fake::start().await;
    let made = fake.post("/api/v1/invites", r#"{"tier":"shared"}"#).await.ok(201);
    let list = fake.get("/api/v1/invites").await.ok(200);
    let item = &list["items"][0];
    assert_eq!((&item["id"], &item["tier"], &item["state"]), (&made["id"], &json!("shared"), &json!("open")));
    assert!(!list.to_string().contains(made["code"].as_str().unwrap()), "the code is shown once");
    let path = format!("/api/v1/invites/{}", made["id"].as_str().unwrap());
    for _ in 0..2 {
        fake.ask(Method::DELETE, &path, None).await.ok(204);
        assert_eq!(fake.get("/api/v1/invites").await.ok(200)["items"][0]["state"], "void");
    }
    fake.ask(Method::DELETE, "/api/v1/invites/nothing", None).await.problem(422, "invalid");
    fake.ask(Method::DELETE, "/api/v1/invites/abcdefgh234567ab", None).await.problem(404, "invite_unknown");
    fake.books().invites[0].state = InviteState::Used(key(5).peer_id());
    assert_eq!(
        fake.get("/api/v1/invites").await.ok(200)["items"][0]["used_by"]["peer_id"],
        key(5).peer_id().to_string()
    );
    fake.ask(Method::DELETE, &path, None).await.problem(409, "invite_used");
}

#[tokio::test]
async fn s02_a_device_shows_who_let_it_in_and_goes_with_its_guests() {
    let fake = Fake::start().await;
    let mut view = first_view();
    // nas has let tv in, and tv the two after it; one of those has also let us in, and we somebody else.
    let (me, nas) = (view.me, view.nodes[1].peer);
    for (n, by) in [(20, twin(2)), (21, key(20).peer_id()), (22, me)] {
        let name = format!("guest-{n}");
        let mut guest = node(&name, key(n).peer_id(), Tier::Owner, true, &[]);
        (guest.approved_by, guest.since_ms) = (Some(by), ACCEPTED_MS);
        view.nodes.push(guest);
    }
    view.nodes[2].approved_by = Some(nas);
    view.nodes[0].approved_by = Some(key(21).peer_id());
    // We had let nas in ourselves: what hangs on that device is its guests all the same.
    view.nodes[1].approved_by = Some(me);
    let vouched = view.nodes.iter().filter_map(|node| Some((node.peer, [node.approved_by?].into())));
    view.vouched_by = vouched.collect();
    fake.view.send_replace(Arc::new(view));
    let tv = fake.get("/api/v1/nodes/tv").await.ok(200);
    assert_eq!(tv["approved_by"], json!({ "peer_id": nas.to_string(), "node_id": "nas" }));
    let guest = fake.get("/api/v1/nodes/guest-20").await.ok(200);
    assert_eq!(guest["approved_at"], time(ACCEPTED_MS));
    assert_eq!(guest["check"]["words"], json!(CheckWords::of(&key(20).peer_id()).words()));
    let guests = fake.get("/api/v1/nodes/nas/guests").await.ok(200);
    let names: Vec<_> = guests["items"].as_array().unwrap().iter().map(|guest| &guest["node_id"]).collect();
    assert_eq!(json!(names), json!(["tv", "guest-20", "guest-21"]));
    // It was said on purpose, so all of them go; this device and its own guest stay.
    fake.ask(Method::DELETE, "/api/v1/nodes/guest-20?with_guests=true", None).await.ok(204);
    assert_eq!(fake.books().revoked, [key(20).peer_id(), key(21).peer_id()]);
    fake.ask(Method::DELETE, "/api/v1/nodes/nas", None).await.ok(204);
    assert_eq!(fake.books().revoked.len(), 3, "not its guests, when nobody says so");
}

#[tokio::test]
async fn n3_a_device_shows_what_holds_by_its_word_and_takes_it_along() {
    let fake = Fake::start().await;
    let mut view = View::clone(&fake.view.borrow());
    let (nas, tv) = (view.nodes[1].peer, view.nodes[2].peer);
    view.vouched_by.insert(tv, [nas].into());
    let mut said = Policy::default();
    let rule = |at: &str| Key::Rule(at.parse().unwrap());
    let deny = Some(Said::Rule(Rule { who: Some(vec!["people".parse().unwrap()]), ..Rule::of(RuleVerdict::Deny) }));
    let edits =
        [(nas, rule("mesh/doors"), deny.clone()), (tv, rule("mesh/lamps"), None), (view.me, rule("mesh/own"), deny)];
    for (n, (author, key, value)) in (1..).zip(edits) {
        let said_so = said.edit((key, value), "person:mia".parse().unwrap(), false, &|_| true);
        let place = Place { author, incarnation: Incarnation(1), seq: n };
        said.insert(place, Statement { hlc: ACCEPTED_MS << 16, said: said_so });
    }
    view.said = InForce::new(Arc::new(said), Arc::default());
    fake.view.send_replace(Arc::new(view));
    let rights = fake.get("/api/v1/nodes/nas/rights").await.ok(200);
    let nas_named = json!({ "peer_id": nas.to_string(), "node_id": "nas" });
    let first = json!({ "at": "workspaces.mesh.rules.doors", "taken_away": false, "by": nas_named,
        "principal": "person:mia", "since": time(ACCEPTED_MS) });
    assert_eq!(rights["items"][0], first);
    let rest: Vec<_> =
        rights["items"].as_array().unwrap().iter().map(|said| (&said["at"], &said["taken_away"])).collect();
    assert_eq!(
        rest[1..],
        [(&json!("workspaces.mesh.rules.lamps"), &json!(true))],
        "of its guests too, and of nobody else"
    );
    let path = "/api/v1/nodes/nas?with_guests=true&with_rights=true";
    let told = fake.ask_by_token(Method::DELETE, path, None).await.problem(403, "denied");
    assert!(told["detail"].as_str().unwrap().contains("socket"), "{told}");
    assert!(fake.books().revoked.is_empty());
    fake.ask(Method::DELETE, path, None).await.ok(204);
    assert_eq!(fake.books().unsaid, [nas, tv]);
    fake.ask(Method::DELETE, "/api/v1/nodes/nas", None).await.ok(204);
    assert_eq!(fake.books().unsaid.len(), 2, "not when nobody says so");
}

#[tokio::test]
async fn m2_one_guest_that_stays_keeps_no_other_and_is_named() {
    let fake = Fake::start().await;
    let mut view = View::clone(&fake.view.borrow());
    let nas = view.nodes[1].peer;
    for n in 20..30 {
        view.nodes.push(node(&format!("guest-{n}"), key(n).peer_id(), Tier::Shared, true, &[]));
        view.vouched_by.insert(key(n).peer_id(), [nas].into());
    }
    fake.view.send_replace(Arc::new(view));
    let error = fake.ask(Method::DELETE, "/api/v1/nodes/nas?with_guests=true", None).await;
    let error = error.problem(409, "last_owner");
    let detail = error["detail"].as_str().unwrap();
    assert!(detail.contains("of its 10 guests 1 stay: guest-29 (") && !detail.contains("guest-28"), "{detail}");
    let revoked = fake.books().revoked.clone();
    assert_eq!(revoked.len(), 10, "the device and nine guests: {revoked:?}");
}
