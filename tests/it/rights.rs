//! Who may use what: said by people through the command line, the API and the file of settings, and what a call gets then.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, SOON, distribution, done, items, median, now, text, wait_converged, wait_until};

fn guest(owner: &Home, name: &str) -> Home {
    let answer = owner.post("invites", &json!({ "tier": "shared", "node_id": name }));
    let home = Home::new(name).started();
    assert!((200..300).contains(&home.join(text(&answer.json(), "code")).status));
    home
}

/// Statement of a device about whoever sits at it.
fn explained(home: &Home, node: &str, tool: &str) -> Value {
    home.cli(&["policy", "explain", "me", node, tool, "--json"]).json(0)
}

#[test]
fn a_rule_forbids_a_call_and_taking_it_away_lets_it_through() {
    let hub = Home::new("hub").started();
    assert!(done(&hub, &["person", "list"]).contains("Nobody was named yet"));
    assert!(done(&hub, &["workspace", "list"]).contains("There is no workspace"));
    assert_eq!(items(&hub.get("people").expect(200)).len(), 0);
    let tablet = guest(&hub, "tablet");
    wait_converged(&[&hub, &tablet], PATIENCE);
    let denied = tablet.try_call("hub", "again", 60).expect_err("by its tier").problem(403);
    assert_eq!(denied["rule"], "tier:owner-only", "{denied}");

    done(&hub, &["person", "add", "mia", "--name", "Mia", "--device", "tablet"]);
    done(&hub, &["workspace", "add", "family", "--node", "hub", "--members", "allow"]);
    done(&hub, &["workspace", "member", "family", "mia"]);
    wait_until("the tablet knows", PATIENCE, || explained(&tablet, "hub", "again")["verdict"] == "allow");
    let first = tablet.call("hub", "again", 60);
    assert_eq!(tablet.wait_ended(&first, PATIENCE)["state"], "done");
    // An agent of hers gets nothing that nobody gives to agents.
    assert_eq!(tablet.cli(&["call", "hub", "again", "--as", "claude"]).code, 4);

    done(&hub, &["rule", "deny", "family/no-again", "--who", "mia", "--node", "hub", "--tool", "again"]);
    wait_until("the rule is there", PATIENCE, || explained(&tablet, "hub", "again")["verdict"] == "deny");
    let said = tablet.cli(&["call", "hub", "again"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.stderr.contains("family/no-again") && said.stderr.contains("next:"), "{said:?}");
    let refused = tablet.try_call("hub", "again", 60).expect_err("by the rule").problem(403);
    assert_eq!((&refused["code"], &refused["rule"]), (&json!("denied"), &json!("family/no-again")), "{refused}");
    for told in [
        explained(&tablet, "hub", "again"),
        hub.cli(&["policy", "explain", "mia", "hub", "again", "--origin", "tablet", "--json"]).json(0),
    ] {
        assert_eq!((&told["verdict"], &told["rule"]), (&json!("deny"), &json!("family/no-again")), "{told}");
        assert!(text(&told, "text").starts_with("Mia may not use `again` of `hub`."), "{told}");
    }
    let table = hub.get("policy/matrix?workspace=family").expect(200);
    let col = table["cols"].as_array().and_then(|cols| cols.iter().position(|col| col["tool"] == "again"));
    let row = table["rows"].as_array().and_then(|rows| rows.iter().position(|row| row == "person:mia"));
    let cell = table["cells"].as_array().into_iter().flatten().find(|cell| {
        (cell["row"].as_u64(), cell["col"].as_u64()) == (row.map(|at| at as u64), col.map(|at| at as u64))
    });
    assert_eq!(cell.map(|cell| &cell["rule"]), Some(&json!("family/no-again")), "{table}");
    assert_eq!(hub.witness().len(), 1);
    // She may not take it away.
    let said = tablet.cli(&["rule", "remove", "family/no-again"]);
    assert_eq!(said.code, 4, "{said:?}");

    done(&hub, &["rule", "remove", "family/no-again"]);
    wait_until("the rule is gone", PATIENCE, || explained(&tablet, "hub", "again")["verdict"] == "allow");
    let second = tablet.call("hub", "again", 60);
    assert_eq!(tablet.wait_ended(&second, PATIENCE)["state"], "done");
    assert_eq!((hub.runs_of(&first), hub.runs_of(&second), hub.witness().len()), (vec![1], vec![1], 2));
}

#[test]
fn an_edit_names_the_state_that_it_is_of() {
    let hub = Home::new("hub").started();
    done(&hub, &["workspace", "add", "family", "--node", "hub"]);
    let json_type = ("Content-Type", "application/json");
    let rule = |name: &str| json!({ "rules": { name: { "verdict": "deny", "tools": ["again"] } } }).to_string();
    let put = |headers: &[(&str, &str)], name: &str| {
        hub.ask("PUT", "/api/v1/policy/rules?workspace=family", headers, rule(name).as_bytes())
    };
    assert_eq!(put(&[json_type], "a").problem(428)["code"], "precondition_required");
    put(&[json_type, ("If-Match", "*")], "a").expect(200);
    let before = hub.get("policy/rules?workspace=family").header("etag").expect("an ETag").to_owned();
    put(&[json_type, ("If-Match", &before)], "b").expect(200);
    let late = put(&[json_type, ("If-Match", &before)], "c").problem(412);
    assert_eq!(late["code"], "precondition_failed");
    let rules = hub.get("policy/rules?workspace=family").expect(200);
    assert_eq!(
        rules["rules"].as_object().map(|rules| rules.keys().cloned().collect::<Vec<_>>()),
        Some(vec!["b".into()])
    );
    hub.get("policy/rules?workspace=cellar").problem(404);
    hub.get("people/nobody-here").problem(404);
    // A rule that gives says to whom; one that nobody needs twice is refused with the name of the first.
    let said = hub.cli(&["rule", "allow", "family/all"]);
    assert!(said.code == 2 && said.stderr.contains("--who"), "{said:?}");
    let said = hub.cli(&["rule", "deny", "family/twin", "--tool", "again"]);
    assert!(said.code == 2 && said.stderr.contains("family/b"), "{said:?}");
}

#[test]
fn what_the_file_says_is_edited_in_the_file() {
    let hub = Home::new("hub");
    let bare = fs::read_to_string(hub.path("sigil.toml")).expect("the settings");
    let rights = "[people.mia]\nname = \"Mia\"\n[workspaces.family]\nnodes = [\"hub\"]\nmembers = { mia = \"member\", mai = \"guest\" }\n";
    let hub = hub.with_config(rights).started();
    wait_until("the file is taken", PATIENCE, || done(&hub, &["person", "list"]).contains("Mia"));
    assert!(hub.cli(&["doctor"]).stdout.contains("nobody is called `mai`"), "a name that nobody has is told");
    let said = hub.cli(&["person", "set", "mia", "--name", "Maria"]);
    assert!(said.code == 8 && said.stderr.contains("sigil.toml") && said.stderr.contains("sigil reload"), "{said:?}");
    // What the file does not say is edited everywhere.
    done(&hub, &["rule", "deny", "mesh/no-again", "--who", "mia", "--tool", "again"]);

    let write = |text: String| fs::write(hub.path("sigil.toml"), text).expect("it can be written");
    write(format!("{bare}\n{}", rights.replace("nodes", "nodse")));
    let said = hub.cli(&["reload"]);
    assert!(said.code == 2 && said.stderr.contains("line ") && said.stderr.contains("nodse"), "{said:?}");
    assert!(done(&hub, &["person", "list"]).contains("Mia"), "it stays as it was");
    write(bare);
    done(&hub, &["reload"]);
    let shown = done(&hub, &["policy", "show"]);
    assert!(!shown.contains("mia]") && shown.contains("no-again"), "{shown}");
}

#[test]
fn s28_a_token_asks_as_its_holder_for_what_it_names_until_it_is_revoked() {
    let hub = Home::new("hub").started();
    let tablet = guest(&hub, "tablet");
    wait_converged(&[&hub, &tablet], PATIENCE);
    done(&hub, &["person", "add", "mia", "--device", "tablet"]);
    done(&hub, &["workspace", "add", "family", "--node", "hub", "--members", "allow"]);
    done(&hub, &["workspace", "member", "family", "mia"]);
    // Only an owner's word about rights counts.
    let said = tablet.cli(&["token"]);
    assert!(said.code == 4 && said.stderr.contains("owner"), "{said:?}");
    let made = hub.cli(&["token", "--name", "panel", "--for", "mia", "--tool", "again", "--json"]).json(0);
    let (token, id) = (text(&made, "token").to_owned(), text(&made, "id").to_owned());
    assert_eq!((&made["principal"], &made["tools"]), (&json!("person:mia"), &json!(["again"])));
    let list = done(&hub, &["token", "--list"]);
    assert!(list.contains("panel") && list.contains("person:mia") && !list.contains(&token), "{list}");

    // At every device that speaks for her.
    wait_until("the tablet knows", PATIENCE, || {
        tablet.ask_by_token(&token, "GET", "status", &Value::Null).status == 200
    });
    let call = |home: &Home, tool: &str| {
        home.ask_by_token(&token, "POST", "calls", &json!({ "node": "hub", "tool": tool, "ttl_s": 60 }))
    };
    for home in [&hub, &tablet] {
        let accepted = call(home, "again").json();
        assert_eq!(home.wait_ended(text(&accepted, "id"), PATIENCE)["state"], "done");
        assert_eq!(call(home, "device.info").problem(403)["rule"], "token:scope");
    }
    // It looks after nothing, sees no calls but hers, and asks about itself only.
    let other = hub.call("hub", "again", 60);
    hub.ask_by_token(&token, "GET", &format!("calls/{other}"), &Value::Null).problem(404);
    hub.ask_by_token(&token, "DELETE", "nodes/tablet", &Value::Null).problem(403);
    hub.ask_by_token(&token, "GET", "policy/explain?principal=person:owner&node=hub&tool=again", &Value::Null)
        .problem(403);
    for (tool, verdict, rule) in [("again", "allow", "family/otherwise"), ("device.info", "deny", "token:scope")] {
        let path = format!("policy/explain?node=hub&tool={tool}");
        let told = hub.ask_by_token(&token, "GET", &path, &Value::Null).expect(200);
        assert_eq!((&told["verdict"], &told["rule"]), (&json!(verdict), &json!(rule)), "{told}");
        let told = hub.cli(&["policy", "explain", "mia", "hub", tool, "--token", &id, "--json"]).json(0);
        assert_eq!((&told["verdict"], &told["rule"]), (&json!(verdict), &json!(rule)), "{told}");
    }

    done(&hub, &["token", "--revoke", &id]);
    assert_eq!(call(&hub, "again").problem(401)["code"], "unauthorized");
    wait_until("the tablet knows", PATIENCE, || call(&tablet, "again").status == 401);
}

/// A device that joins with an invite that names nobody, and asks for this name.
fn stranger(owner: &Home, name: &str) -> Home {
    let answer = owner.post("invites", &json!({ "tier": "shared" }));
    let home = Home::new(name).started();
    assert!((200..300).contains(&home.join(text(&answer.json(), "code")).status));
    home
}

#[test]
fn r11_a_name_that_a_device_chose_gives_it_nothing_before_an_owner_confirms_it() {
    let hub = Home::new("hub").started();
    done(&hub, &["workspace", "add", "family", "--node", "hub"]);
    done(&hub, &["rule", "allow", "mesh/panels", "--who", "device:panel-*", "--node", "hub", "--tool", "again"]);
    let (tablet, panel) = (guest(&hub, "tablet"), stranger(&hub, "panel-y"));
    wait_converged(&[&hub, &tablet, &panel], PATIENCE);
    assert_eq!(explained(&panel, "hub", "again")["verdict"], "deny", "it named itself");
    assert_eq!(explained(&tablet, "hub", "again")["verdict"], "deny");
    // A shared device whose name an owner gave only asks for another, and is told who gives it.
    let said = done(&tablet, &["rename", "panel-x"]);
    assert!(said.contains("goes on being `tablet`") && said.contains("sigil rename tablet panel-x"), "{said}");
    wait_until("the hub shows what it asks for", PATIENCE, || {
        hub.get("nodes/tablet").expect(200)["asks"] == json!("panel-x")
    });
    assert!(done(&hub, &["nodes"]).contains("tablet (asks to be `panel-x`)"));
    assert!(done(&hub, &["nodes"]).contains("panel-y (named itself)"));
    let status = hub.get("status").expect(200).to_string();
    assert!(
        status.contains("sigil rename tablet panel-x") && status.contains("sigil rename panel-y panel-y"),
        "{status}"
    );
    for (device, name) in [(&panel, "panel-y"), (&tablet, "tablet")] {
        let refused = device.try_call("hub", "again", 60).expect_err("rights do not know it so").problem(403);
        assert_eq!(refused["rule"], "default", "{name}: {refused}");
    }
    let told = explained(&panel, "hub", "again");
    assert!(text(&told, "text").contains("named itself"), "{told}");
    assert!(text(&told, "change_by").contains("sigil rename panel-y panel-y"), "{told}");
    // Nor does anything that an owner says by that name reach it.
    let said = hub.cli(&["person", "add", "mia", "--device", "panel-y"]);
    assert!(said.code != 0 && said.stderr.contains("sigil rename panel-y panel-y"), "{said:?}");
    assert_eq!(hub.witness().len(), 0);

    // A ban goes on to hold for who would like to be called otherwise, and for who could be anybody.
    done(&hub, &["rule", "allow", "mesh/all-of-them", "--who", "devices", "--node", "hub", "--tool", "again"]);
    done(&hub, &["rule", "deny", "mesh/no-tablet", "--who", "device:tablet", "--node", "hub", "--tool", "again"]);
    wait_until("the rule is there", PATIENCE, || explained(&tablet, "hub", "again")["rule"] == "mesh/no-tablet");
    wait_until("and at the panel", PATIENCE, || explained(&panel, "hub", "again")["rule"] == "mesh/no-tablet");

    // Only an owner's device gives the name to another.
    let said = tablet.cli(&["rename", "panel-y", "panel-y"]);
    assert!(said.code != 0 && said.stderr.contains("owner"), "{said:?}");
    let said = done(&hub, &["rename", "panel-y", "panel-y"]);
    assert!(said.contains("all rules"), "{said}");
    wait_until("rights know it", PATIENCE, || explained(&panel, "hub", "again")["verdict"] == "allow");
    let id = panel.call("hub", "again", 60);
    assert_eq!(panel.wait_ended(&id, PATIENCE)["state"], "done");
    done(&hub, &["rule", "remove", "mesh/all-of-them"]);
    done(&hub, &["rule", "remove", "mesh/no-tablet"]);
    done(&hub, &["rename", "tablet", "panel-x"]);
    wait_until("rights know it", PATIENCE, || explained(&tablet, "hub", "again")["rule"] == "mesh/panels");
    assert_eq!(tablet.get("status").expect(200)["node_id"], "panel-x");
    let taken = hub.cli(&["rename", "panel-x", "panel-y"]);
    assert_eq!(taken.code, 8, "{taken:?}");
}

#[test]
fn r11_a_narrowed_token_sees_and_stops_only_the_calls_that_it_made() {
    let hub = Home::new("hub").started();
    let made = |words: &[&str]| {
        let made = hub.cli(&[&["token", "--json"], words].concat()).json(0);
        text(&made, "token").to_owned()
    };
    let (narrow, other) = (made(&["--tool", "again"]), made(&["--node", "hub"]));
    let call = json!({ "node": "hub", "tool": "again", "ttl_s": 60 });
    let own = hub.ask_by_token(&narrow, "POST", "calls", &call).json();
    let own = text(&own, "id").to_owned();
    hub.wait_ended(&own, PATIENCE);
    for id in
        [hub.call("hub", "again", 60), text(&hub.ask_by_token(&other, "POST", "calls", &call).json(), "id").into()]
    {
        hub.wait_ended(&id, PATIENCE);
        for path in [format!("calls/{id}"), format!("calls/{id}/result")] {
            hub.ask_by_token(&narrow, "GET", &path, &Value::Null).problem(404);
        }
        hub.ask_by_token(&narrow, "POST", &format!("calls/{id}/cancel"), &json!({})).problem(404);
    }
    assert_eq!(hub.ask_by_token(&narrow, "GET", &format!("calls/{own}"), &Value::Null).expect(200)["id"], json!(own));
    let list = hub.ask_by_token(&narrow, "GET", "calls", &Value::Null).expect(200);
    let ids: Vec<&str> = items(&list).iter().map(|call| text(call, "id")).collect();
    assert_eq!(ids, [own.as_str()], "{list}");
}

#[test]
fn s28_no_token_makes_an_owner_less() {
    let hub = Home::new("hub").started();
    let desk = Home::new("desk").started();
    let answer = hub.post("invites", &json!({ "tier": "owner" }));
    assert!((200..300).contains(&desk.join(text(&answer.json(), "code")).status));
    let tablet = guest(&hub, "tablet");
    wait_converged(&[&hub, &desk, &tablet], PATIENCE);
    let token = done(&hub, &["token"]).trim().to_owned();
    let ask = |method: &str, path: &str, body: Value| hub.ask_by_token(&token, method, path, &body).status;
    assert_eq!(ask("POST", "nodes/desk/approve", json!({ "tier": "shared" })), 403);
    assert_eq!(ask("DELETE", "nodes/desk", Value::Null), 403);
    assert_eq!(ask("DELETE", "nodes/desk?with_guests=true", Value::Null), 403);
    // A shared one it may forget: it is narrowed in nothing, and an owner's.
    assert_eq!(ask("DELETE", "nodes/tablet", Value::Null), 204);
    assert!(done(&hub, &["nodes"]).contains("desk"));
}

#[test]
fn a_call_that_asks_runs_by_the_yes_of_its_approver_at_a_third_device() {
    let hub = Home::new("hub").started();
    let (tablet, phone) = (guest(&hub, "tablet"), guest(&hub, "phone"));
    wait_converged(&[&hub, &tablet, &phone], PATIENCE);
    done(&hub, &["person", "add", "mia", "--device", "tablet"]);
    done(&hub, &["person", "add", "anna", "--device", "phone"]);
    done(&hub, &["workspace", "add", "family", "--node", "hub", "--members", "allow"]);
    done(&hub, &["workspace", "member", "family", "mia"]);
    let rule =
        ["rule", "ask", "family/careful", "--who", "mia", "--tool", "again", "--approver", "anna", "--wait", "1m"];
    done(&hub, &rule);
    let asks = || {
        let told = explained(&tablet, "hub", "again");
        told["verdict"] == "ask" && told["asks"][0]["approvers"] == json!(["person:anna"])
    };
    wait_until("the tablet knows", PATIENCE, asks);
    assert!(done(&phone, &["approvals"]).contains("Nothing waits"));
    let waiting = |home: &Home, id: &str| {
        let list = home.get("approvals").expect(200);
        items(&list).iter().any(|approval| approval["call_id"] == id)
    };

    let first = tablet.call("hub", "again", 60);
    for home in [&hub, &phone, &tablet] {
        wait_until("it is listed", PATIENCE, || waiting(home, &first));
    }
    let shown = done(&phone, &["approvals"]);
    assert!(shown.contains("again on hub") && shown.contains("person:mia at tablet"), "{shown}");
    assert!(shown.contains("family/careful: anna may answer"), "{shown}");
    // Whoever asks may not answer, nor an owner whom the rule does not name, nor any token.
    let said = tablet.cli(&["approvals", "answer", &first, "yes"]);
    assert!(said.code == 4 && said.stderr.contains("anna"), "{said:?}");
    let path = format!("approvals/{first}");
    let refused = hub.post(&path, &json!({ "answer": "once" })).problem(403);
    assert_eq!((&refused["code"], &refused["approvers"]), (&json!("not_approver"), &json!(["person:anna"])));
    for holder in ["owner", "anna"] {
        let token = done(&hub, &["token", "--for", holder]).trim().to_owned();
        hub.ask_by_token(&token, "POST", &path, &json!({ "answer": "once" })).problem(403);
    }
    assert!(hub.witness().is_empty() && waiting(&phone, &first));

    done(&phone, &["approvals", "answer", &first, "yes"]);
    assert_eq!(tablet.wait_ended(&first, PATIENCE)["state"], "done");
    done(&phone, &["approvals", "answer", &first, "yes"]);
    assert_eq!(phone.cli(&["approvals", "answer", &first, "no"]).code, 8);
    assert_eq!((hub.runs_of(&first), hub.witness().len()), (vec![1], 1));

    let second = tablet.call("hub", "again", 60);
    wait_until("it is listed", PATIENCE, || waiting(&phone, &second));
    done(&phone, &["approvals", "answer", &second, "no", "--note", "not at night"]);
    let ended = tablet.wait_ended(&second, PATIENCE);
    assert_eq!(ended["state"], "denied");
    assert!(text(&ended, "reason").contains("anna said no: not at night"), "{ended}");
    assert_eq!((hub.runs_of(&second), hub.witness().len()), (vec![], 1));
    assert_eq!(phone.cli(&["approvals", "answer", &"0".repeat(26), "no"]).code, 3);
}

/// A rule for a person who is none is refused; that somebody is named who is gone by now keeps nobody from other edits.
#[test]
fn t7xj_11_an_edit_names_nobody_who_is_none() {
    let hub = Home::new("hub").started();
    for person in ["mia", "oma"] {
        done(&hub, &["person", "add", person]);
    }
    done(&hub, &["workspace", "add", "w", "--node", "hub"]);
    for person in ["mia", "oma"] {
        done(&hub, &["workspace", "member", "w", person]);
    }
    for words in [
        &["workspace", "member", "w", "zoe"][..],
        &["rule", "deny", "w/x", "--who", "zoe", "--tool", "again"],
        &["rule", "deny", "w/x", "--who", "agent:zoe/claude", "--tool", "again"],
        &["rule", "ask", "w/x", "--tool", "again", "--approver", "zoe"],
    ] {
        let said = hub.cli(words);
        assert!(said.code == 3 && said.stderr.contains("nobody is called `zoe`"), "{words:?}: {said:?}");
    }
    done(&hub, &["rule", "deny", "w/oma", "--who", "oma", "--tool", "again"]);
    done(&hub, &["person", "remove", "oma"]);
    done(&hub, &["rule", "deny", "w/x", "--who", "mia", "--tool", "again"]);
    done(&hub, &["rule", "remove", "w/oma"]);
    done(&hub, &["workspace", "member", "w", "oma", "--remove"]);
    assert_eq!(explained_for(&hub, "mia"), json!("deny"));
}

/// Two owners who do not know of each other change the same rule and person: whoever changes something else afterwards,
/// or a name, gives nothing back that was taken.
#[test]
fn r04_an_edit_of_something_else_ends_no_conflict() {
    let mut hub = Home::new("hub").started();
    let code = text(&hub.post("invites", &json!({ "tier": "owner" })).json(), "code").to_owned();
    let mut desk = Home::new("desk").started();
    assert!((200..300).contains(&desk.join(&code).status));
    let said = hub.cli(&["rule", "deny", "mesh/early", "--tool", "nothing"]);
    assert!(format!("{said:?}").contains("no rule holds before"), "{said:?}");
    done(&hub, &["person", "add", "mia"]);
    done(&hub, &["workspace", "add", "w", "--node", "hub"]);
    done(&hub, &["workspace", "member", "w", "mia"]);
    done(&hub, &["rule", "allow", "w/x", "--who", "mia", "--tool", "again"]);
    let verdict =
        |home: &Home| home.cli(&["policy", "explain", "mia", "hub", "again", "--json"]).json(0)["rule"].clone();
    wait_until("the desk knows", PATIENCE, || verdict(&desk) == "w/x");

    desk.stop();
    done(&hub, &["rule", "deny", "w/x", "--who", "mia", "--tool", "again"]);
    done(&hub, &["person", "set", "mia", "--suspend"]);
    hub.stop();
    desk.start();
    done(&desk, &["rule", "allow", "w/x", "--who", "mia", "--tool", "again", "--note", "as ever"]);
    done(&desk, &["person", "set", "mia", "--name", "Mia"]);
    hub.start();
    wait_until("both know", PATIENCE, || [&hub, &desk].iter().all(|home| verdict(home) == "principal:suspended"));
    let said = desk.cli(&["rule", "allow", "w/other", "--who", "mia", "--tool", "other"]);
    assert!(said.code == 0 && format!("{said:?}").contains("the stricter holds"), "{said:?}");
    done(&desk, &["person", "set", "mia", "--name", "Mia M"]);
    assert_eq!(verdict(&desk), "principal:suspended");
    done(&desk, &["person", "set", "mia", "--resume"]);
    assert_eq!(explained_for(&desk, "mia"), json!("deny"), "the rule is as it was");
    done(&desk, &["rule", "allow", "w/x", "--who", "mia", "--tool", "again"]);
    assert_eq!(explained_for(&desk, "mia"), json!("allow"), "whoever changes it ends the conflict");
}

fn explained_for(home: &Home, who: &str) -> Value {
    home.cli(&["policy", "explain", who, "hub", "again", "--json"]).json(0)["verdict"].clone()
}

/// A parent's first quarter of an hour, with what README says and nothing else: three people, two devices, "the small one may use
/// the lights but not the lock, and the agent must ask".
#[test]
fn p12_a_parents_first_quarter_of_an_hour() {
    let tool = |home: Home, name: &str| home.with_tool(name, "echo done", "idempotent");
    let hub = tool(tool(Home::new("hub"), "lights.on"), "lock.open").started();
    let tablet = Home::new("tablet").started();
    let code = hub.cli(&["invite", "--tier", "shared", "--name", "tablet"]);
    assert_eq!(code.code, 0, "{code:?}");
    assert!((200..300).contains(&tablet.join(code.stdout.trim()).status));
    wait_converged(&[&hub, &tablet], PATIENCE);
    let told = done(&hub, &["person", "add", "anna", "--name", "Anna", "--role", "owner", "--device", "hub"]);
    assert!(told.contains("Who sits at hub asks and answers as anna"), "{told}");
    let told = done(&hub, &["person", "add", "tom", "--name", "Tom"]);
    assert!(told.contains("`sigil person set tom --device NAME` gives tom a device"), "{told}");
    done(&hub, &["person", "add", "mia", "--name", "Mia", "--device", "tablet"]);
    done(&hub, &["workspace", "add", "family", "--node", "hub", "--members", "allow"]);
    for who in ["mia", "tom"] {
        done(&hub, &["workspace", "member", "family", who]);
    }
    done(&hub, &["rule", "deny", "family/no-lock", "--who", "mia", "--tool", "lock.*"]);
    // Before the agent is spoken of, it gets nothing, and the next step names both ways.
    let asked = hub.cli(&["policy", "explain", "agent:anna/claude", "hub", "lights.on"]);
    assert!(asked.stdout.contains("`rule ask` for an agent that must ask each time"), "{asked:?}");
    done(&hub, &["rule", "ask", "family/agents-ask", "--who", "agents"]);
    wait_until("the tablet knows", PATIENCE, || {
        tablet.cli(&["policy", "explain", "me", "hub", "lock.open", "--json"]).json(0)["rule"] == "family/no-lock"
    });
    assert_eq!(tablet.cli(&["call", "hub", "lights.on"]).code, 0);
    let refused = tablet.cli(&["call", "hub", "lock.open"]);
    assert!(refused.code == 4 && refused.stderr.contains("family/no-lock"), "{refused:?}");
    let why = done(&tablet, &["policy", "explain", "me", "hub", "lock.open"]);
    assert!(why.contains("Mia may not use `lock.open` of `hub`. That is rule `family/no-lock`"), "{why}");
    // The agent of the small one is no way around it, and that of the parent waits for her.
    assert_eq!(tablet.cli(&["call", "hub", "lock.open", "--as", "claude"]).code, 4);
    let asks = hub.cli(&["call", "hub", "lock.open", "--as", "claude", "--wait", "1s"]);
    assert_eq!(asks.code, 6, "{asks:?}");
    let waits = done(&hub, &["approvals"]);
    assert!(waits.contains("agent:anna/claude at hub") && waits.contains("family/agents-ask"), "{waits}");
    let id = asks.stdout.trim();
    done(&hub, &["approvals", "answer", id, "yes"]);
    assert_eq!(hub.wait_ended(id, PATIENCE)["state"], "done");
    let table = done(&hub, &["policy", "matrix"]);
    let row =
        |who: &str| table.lines().find(|line| line.starts_with(who) && line.contains(" hub ")).unwrap_or_default();
    assert!(row("person:mia").trim_end().ends_with("lock.open"), "{table}");
    assert!(row("person:tom").contains("lock.open"), "{table}");
    let nobody = done(&hub, &["policy", "matrix", "--by", "agent"]);
    assert!(nobody.contains("agent:PERSON/NAME"), "{nobody}");
}

/// Issue 12, line 5: an edit is in force at every connected peer within 500 ms of its answer, that is of its fsync. The median is
/// judged: a busy machine may hold up one.
#[test]
fn p12_an_edit_is_in_force_at_every_connected_peer_soon() {
    let hub = Home::new("hub").started();
    let desk = Home::new("desk").started();
    assert!((200..300).contains(&desk.join(&hub.invite()).status));
    let tablet = guest(&hub, "tablet");
    wait_converged(&[&hub, &desk, &tablet], PATIENCE);
    done(&hub, &["workspace", "add", "home", "--node", "hub"]);
    let head = [("Content-Type", "application/json"), ("If-Match", "*")];
    let mut times = Vec::new();
    for turn in 0..10 {
        // Edited at either owner, a deny and its end in turn.
        let (at, verdict) = ([&hub, &desk][turn / 2 % 2], if turn % 2 == 0 { "deny" } else { "allow" });
        let rule = json!({ "rules": { "x": { "verdict": verdict, "who": ["role:owner"], "tools": ["again"] } } });
        at.ask("PUT", "/api/v1/policy/rules?workspace=home", &head, rule.to_string().as_bytes()).expect(200);
        let since = now();
        for home in [&hub, &desk, &tablet] {
            let path = "policy/explain?principal=person:owner&node=hub&tool=again&workspace=home";
            wait_until("it is in force", PATIENCE, || home.get(path).expect(200)["verdict"] == verdict);
        }
        times.push(since.elapsed());
    }
    eprintln!("{}", distribution("in force at all three", &times));
    assert!(median(&times) < SOON, "{times:?}");
}
