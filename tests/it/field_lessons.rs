//! Cases that broke other systems, each by the number of its public thread: queue, pairing, naming, auth. Others of them have
//! their tests where their subject is; `tests/README.md` lists all.

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, done, items, text, wait_converged, wait_until};

fn joined(owner: &Home, name: &str, tier: &str) -> Home {
    let answer = owner.post("invites", &json!({ "tier": tier, "node_id": name }));
    let home = Home::new(name).started();
    assert!((200..300).contains(&home.join(text(&answer.json(), "code")).status));
    home
}

/// A revoked node kept pending work: neither what it had asked for runs, nor what waits for it, also not once it is back.
#[test]
fn fl_openclaw_124117_a_revoked_device_keeps_no_pending_work() {
    let hub = Home::new("hub").started();
    let tablet = joined(&hub, "tablet", "owner");
    let mut lamp = joined(&hub, "lamp", "owner");
    wait_converged(&[&hub, &tablet, &lamp], PATIENCE);
    lamp.stop();
    wait_until("it is off", PATIENCE, || tablet.node_state("lamp").as_deref() == Some("offline"));
    let of_tablet = tablet.call("lamp", "again", 600);
    let for_lamp = hub.call("lamp", "again", 600);
    wait_until("the hub has it", PATIENCE, || hub.get(&format!("calls/{of_tablet}")).status == 200);
    done(&hub, &["forget", "tablet"]);
    wait_until("its call is over", PATIENCE, || {
        ["denied", "undeliverable"].contains(&text(&hub.get_call(&of_tablet), "state"))
    });
    lamp.start();
    assert_eq!(hub.wait_ended(&for_lamp, PATIENCE)["state"], "done", "what others asked for runs");
    assert!(lamp.runs_of(&of_tablet).is_empty());
    // And the other way round: what waits for a device ends with it.
    lamp.stop();
    wait_until("it is off", PATIENCE, || hub.node_state("lamp").as_deref() == Some("offline"));
    let orphan = hub.call("lamp", "again", 600);
    done(&hub, &["forget", "lamp"]);
    assert_eq!(hub.wait_ended(&orphan, PATIENCE)["state"], "undeliverable");
    lamp.start();
    wait_until("it learns of it", PATIENCE, || lamp.status()["revoked"] == true);
    assert!((200..300).contains(&lamp.join(&hub.invite()).status));
    wait_converged(&[&hub, &lamp], PATIENCE);
    let news = hub.call("lamp", "again", 60);
    assert_eq!(hub.wait_ended(&news, PATIENCE)["state"], "done");
    assert!(lamp.runs_of(&orphan).is_empty() && lamp.runs_of(&of_tablet).is_empty());
}

/// "Approved" in the log, never stored: an answer that says so is durable, at both ends.
#[test]
fn fl_openclaw_25779_44574_23498_whom_the_answer_calls_approved_is_so_after_a_crash_of_both() {
    let mut hub = Home::new("hub").started();
    let mut tablet = Home::new("tablet").started();
    let asked = tablet.ask_to_join(&hub);
    assert!((200..300).contains(&asked.status), "{}", asked.text());
    wait_until("it is listed", PATIENCE, || !items(&hub.get("pending").expect(200)).is_empty());
    let approval = json!({ "tier": "shared", "words": tablet.check_words() });
    let approved = hub.post("pending/tablet/approve", &approval);
    hub.kill9();
    assert_eq!(approved.expect(200)["tier"], "shared");
    hub.start();
    assert!(hub.nodes().iter().any(|node| node["node_id"] == "tablet"), "{:?}", hub.nodes());
    assert!(items(&hub.get("pending").expect(200)).is_empty());
    wait_until("it is told", PATIENCE, || tablet.nodes().len() == 2);
    tablet.kill9();
    tablet.start();
    wait_converged(&[&hub, &tablet], PATIENCE);
}

/// A handler of wrong tokens deleted the pairing itself: whoever shows wrong ones is refused, and nobody loses anything.
#[test]
fn fl_openclaw_23498_wrong_tokens_cost_nobody_its_membership() {
    let hub = Home::new("hub").started();
    let tablet = joined(&hub, "tablet", "shared");
    wait_converged(&[&hub, &tablet], PATIENCE);
    let token = done(&hub, &["token"]).trim().to_owned();
    for home in [&hub, &tablet] {
        for wrong in ["sigil_wrong", "", "sigil_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
            for path in ["status", "nodes", "leave"] {
                let method = if path == "leave" { "POST" } else { "GET" };
                home.ask_by_token(wrong, method, path, &Value::Null).problem(401);
            }
        }
    }
    wait_converged(&[&hub, &tablet], PATIENCE);
    assert_eq!(hub.ask_by_token(&token, "GET", "status", &Value::Null).status, 200, "the good one goes on");
    assert_eq!(hub.nodes().len(), 2);
}

/// Approval of a device alone exposed a shell: who is let in gets no program of anybody by that, nor gives its own away.
#[test]
fn fl_openclaw_65168_65542_an_approval_alone_gives_no_program() {
    let hub = Home::new("hub").started();
    let tablet = joined(&hub, "tablet", "shared");
    wait_converged(&[&hub, &tablet], PATIENCE);
    for tool in ["again", "append", "slow"] {
        let refused = tablet.try_call("hub", tool, 60).expect_err("nobody gave it").problem(403);
        assert_eq!(refused["rule"], "tier:owner-only", "{refused}");
    }
    done(&hub, &["workspace", "add", "family", "--node", "hub"]);
    let told = |tool: &str| tablet.cli(&["policy", "explain", "me", "hub", tool, "--json"]).json(0)["rule"].clone();
    wait_until("the tablet knows", PATIENCE, || told("again") == "default");
    assert_eq!(tablet.try_call("hub", "again", 60).expect_err("nor any rule").problem(403)["rule"], "default");
    assert!(hub.witness().is_empty());
}

/// A wider scope that no local tool could approve: an owner raises a device with the command at hand, without its doing.
#[test]
fn fl_openclaw_124589_a_device_is_raised_with_the_command_at_hand() {
    let hub = Home::new("hub").started();
    let tablet = joined(&hub, "tablet", "shared");
    wait_converged(&[&hub, &tablet], PATIENCE);
    tablet.try_call("hub", "again", 60).expect_err("a shared device").problem(403);
    done(&hub, &["approve", "tablet", "--tier", "owner"]);
    wait_until("it is an owner", PATIENCE, || tablet.get("nodes/tablet").expect(200)["tier"] == "owner");
    let id = tablet.call("hub", "again", 60);
    assert_eq!(tablet.wait_ended(&id, PATIENCE)["state"], "done");
}

/// Equal names resolved silently to one device: names are unique, and what could mean two is refused with both.
#[test]
fn fl_openclaw_136636_teleport_3190_no_name_means_two_devices() {
    let hub = Home::new("hub").started();
    let twin = |code: &str| {
        let home = Home::new("lamp").started();
        assert!((200..300).contains(&home.join(code).status));
        home
    };
    let (first, second) = (twin(&hub.invite()), twin(&hub.invite()));
    wait_converged(&[&hub, &first, &second], PATIENCE);
    let name = |home: &Home| text(&home.status(), "node_id").to_owned();
    let mut names = [name(&first), name(&second)];
    names.sort();
    assert_eq!(names, ["lamp", "lamp-2"]);
    for home in [&first, &second] {
        let id = hub.call(&name(home), "append", 60);
        assert_eq!(hub.wait_ended(&id, PATIENCE)["state"], "done");
        assert_eq!(home.runs_of(&id), [1], "the one that was named, and no other");
    }
    // Nobody is given a name that another has.
    let taken = hub.post("invites", &json!({ "tier": "shared", "node_id": "lamp" })).problem(409);
    assert_eq!(taken["code"], "name_taken", "{taken}");
    hub.try_call("lam", "append", 60).expect_err("a beginning of a name is no name").problem(404);
}

/// Identity headers were believed, or a door stood open: nobody is let in by a header, and each path asks for a token.
#[test]
fn fl_openclaw_820_50630_no_header_of_anybody_opens_the_loopback_port() {
    let hub = Home::new("hub").started();
    let host = format!("127.0.0.1:{}", hub.http_port);
    for header in ["Tailscale-User-Login", "X-Forwarded-User", "X-Remote-User", "Remote-User", "X-Real-IP"] {
        for path in ["status", "calls", "nodes", "policy", "approvals"] {
            let answer = hub.ask_http(&host, "GET", &format!("/api/v1/{path}"), &[(header, "owner@example.org")]);
            assert_eq!(answer.problem(401)["code"], "unauthorized", "{header} {path}");
        }
    }
}

/// Rotation left old tokens and open sessions valid: a token that is revoked opens nothing any more, at any device, and what
/// it has open ends.
#[test]
fn fl_zeroclaw_6984_openclaw_57646_a_revoked_token_opens_nothing_anywhere() {
    let hub = Home::new("hub").started();
    let desk = joined(&hub, "desk", "owner");
    wait_converged(&[&hub, &desk], PATIENCE);
    let made = hub.cli(&["token", "--json"]).json(0);
    let (token, id) = (text(&made, "token").to_owned(), text(&made, "id").to_owned());
    let status = |home: &Home, token: &str| home.ask_by_token(token, "GET", "status", &Value::Null).status;
    wait_until("the desk knows", PATIENCE, || status(&desk, &token) == 200);
    let newer = done(&hub, &["token"]).trim().to_owned();
    done(&hub, &["token", "--revoke", &id]);
    assert_eq!(status(&hub, &token), 401);
    wait_until("the desk knows", PATIENCE, || status(&desk, &token) == 401);
    assert_eq!(status(&hub, &newer), 200, "the other one goes on");
    let mut desk = desk;
    desk.kill9();
    desk.start();
    wait_until("nor after a crash, once it has heard the others", PATIENCE, || status(&desk, &token) == 401);
    crate::harness::observe(std::time::Duration::from_secs(1), || assert_eq!(status(&desk, &token), 401));
}

/// Section 2, row 2: a node's id came from what it said of itself, so that whoever knew the shared token could be any device that
/// was off. Here a name is an owner's to give: who calls itself like another gets another, and nothing that was given to the name.
#[test]
fn fl_2_2_who_calls_itself_like_a_device_that_is_off_is_another() {
    let hub = Home::new("hub").started();
    let mut lamp = joined(&hub, "lamp", "shared");
    wait_converged(&[&hub, &lamp], PATIENCE);
    done(&hub, &["workspace", "add", "home", "--node", "hub"]);
    done(&hub, &["rule", "allow", "mesh/lamp", "--who", "device:lamp", "--node", "hub", "--tool", "again"]);
    let may = |home: &Home| home.cli(&["policy", "explain", "me", "hub", "again", "--json"]).json(0)["verdict"].clone();
    wait_until("it may", PATIENCE, || may(&lamp) == "allow");
    let real = lamp.peer_id();
    lamp.stop();
    wait_until("it is off", PATIENCE, || hub.node_state("lamp").as_deref() == Some("offline"));
    let waits = hub.call("lamp", "append", 600);
    // By a code that gives no name, so that it names itself.
    let twin = Home::new("lamp").started();
    let code = text(&hub.post("invites", &json!({ "tier": "shared" })).json(), "code").to_owned();
    assert!((200..300).contains(&twin.join(&code).status));
    wait_until("it is there", PATIENCE, || hub.node_state("lamp-2").as_deref() == Some("online"));
    wait_until("it knows its name", PATIENCE, || text(&twin.status(), "node_id") == "lamp-2");
    assert_eq!(hub.get("nodes/lamp").expect(200)["peer_id"], real.as_str());
    wait_until("it knows the rules", PATIENCE, || may(&twin) == "deny");
    // Nor by asking for that name.
    assert!(twin.cli(&["rename", "lamp"]).code != 0 || text(&twin.status(), "node_id") != "lamp");
    twin.try_call("hub", "again", 60).expect_err("it is another").problem(403);
    lamp.start();
    assert_eq!(hub.wait_ended(&waits, PATIENCE)["state"], "done");
    assert_eq!((lamp.runs_of(&waits), twin.runs_of(&waits)), (vec![1], Vec::new()));
}

/// Section 2, row 3: `:` in node ids and tool names let two nodes yield one tool name. It is refused wherever a name comes in.
#[test]
fn fl_2_3_no_name_has_a_colon_wherever_it_comes_from() {
    let hub = Home::new("hub").started();
    let before = std::fs::read_to_string(hub.path("sigil.toml")).expect("the settings");
    for bad in ["a:b", "a/b", "a\u{0}b", ""] {
        hub.post("invites", &json!({ "tier": "shared", "node_id": bad })).problem(422);
        hub.post("rename", &json!({ "node_id": bad })).problem(422);
        hub.post("calls", &json!({ "node": "hub", "tool": bad })).problem(422);
        let table = format!("{before}\n[tools.{}]\ncommand = \"true\"\n", Value::from(bad));
        std::fs::write(hub.path("sigil.toml"), table).expect("it is written");
        assert!(hub.cli(&["reload"]).code != 0, "{bad:?}");
    }
    std::fs::write(hub.path("sigil.toml"), before).expect("it is written");
    done(&hub, &["reload"]);
    assert_eq!(text(&hub.status(), "node_id"), "hub");
    let all = hub.get("tools").expect(200);
    let names = items(&all).iter().map(|tool| text(tool, "address").to_owned());
    assert!(names.into_iter().all(|name| name.matches(':').count() == 2 && name.starts_with("node:hub:")), "{all}");
}

/// Section 2, row 5: queued calls were not looked at again when the node came back with fewer tools or in another workspace.
#[test]
fn fl_2_5_what_waits_is_looked_at_again_when_its_node_comes_back_with_less() {
    let hub = Home::new("hub").started();
    let mut lamp = joined(&hub, "lamp", "owner");
    wait_converged(&[&hub, &lamp], PATIENCE);
    done(&hub, &["person", "add", "mia"]);
    done(&hub, &["workspace", "add", "home", "--node", "lamp", "--members", "allow"]);
    done(&hub, &["workspace", "member", "home", "mia"]);
    let by_mia = hub.cli(&["token", "--for", "mia"]);
    assert_eq!(by_mia.code, 0, "{by_mia:?}");
    let by_mia = by_mia.stdout.trim().to_owned();
    lamp.stop();
    wait_until("it is off", PATIENCE, || hub.node_state("lamp").as_deref() == Some("offline"));
    let asks = |tool: &str| {
        let body = json!({ "node": "lamp", "tool": tool, "ttl_s": 600 });
        text(&hub.ask_by_token(&by_mia, "POST", "calls", &body).expect(202), "id").to_owned()
    };
    let (gone, moved, stays) = (asks("again"), asks("slow"), asks("append"));
    // It comes back without one tool, and by then another is in another workspace.
    done(&hub, &["workspace", "add", "other", "--node", "lamp", "--tool", "slow"]);
    done(&hub, &["workspace", "set", "home", "--tool", "append"]);
    let settings = std::fs::read_to_string(lamp.path("sigil.toml")).expect("the settings");
    let fewer = settings.replace("[tools.\"again\"]", "[tools.\"another\"]");
    assert!(fewer != settings, "{settings}");
    std::fs::write(lamp.path("sigil.toml"), fewer).expect("it is written");
    lamp.start();
    for (id, rules) in [(&gone, ["tool:absent", "workspace:scope"]), (&moved, ["workspace:scope", "default"])] {
        let ended = hub.wait_ended(id, PATIENCE);
        let names = rules.iter().any(|rule| text(&ended, "reason").contains(rule));
        assert!(ended["state"] == "denied" && names, "{ended}");
        assert!(lamp.runs_of(id).is_empty());
    }
    assert_eq!(hub.wait_ended(&stays, PATIENCE)["state"], "done");
}
