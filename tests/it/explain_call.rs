//! Why a call is as it is: told by `sigil policy explain --call` at every device that knows it, in the words of its ending.

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, done, text, wait_converged, wait_until};

fn joined(owner: &Home, home: Home, tier: &str) -> Home {
    let answer = owner.post("invites", &json!({ "tier": tier, "node_id": home.name }));
    let home = home.started();
    assert!((200..300).contains(&home.join(text(&answer.json(), "code")).status));
    home
}

fn why(home: &Home, id: &str) -> Value {
    home.cli(&["policy", "explain", "--call", id, "--json"]).json(0)
}

fn explained(home: &Home, node: &str, tool: &str) -> Value {
    home.cli(&["policy", "explain", "me", node, tool, "--json"]).json(0)
}

/// A hub, the tablet of Mia, and a lamp that is off; `family` gives her what the lamp has.
fn family() -> [Home; 3] {
    let hub = Home::new("hub").started();
    let tablet = joined(&hub, Home::new("tablet"), "shared");
    let mut lamp = joined(&hub, Home::new("lamp"), "shared");
    wait_converged(&[&hub, &tablet, &lamp], PATIENCE);
    done(&hub, &["person", "add", "mia", "--name", "Mia", "--device", "tablet"]);
    done(&hub, &["workspace", "add", "family", "--node", "lamp", "--members", "allow"]);
    done(&hub, &["workspace", "member", "family", "mia"]);
    wait_until("the tablet knows", PATIENCE, || explained(&tablet, "lamp", "slow")["verdict"] == "allow");
    lamp.stop();
    wait_until("it is off", PATIENCE, || tablet.node_state("lamp").as_deref() == Some("offline"));
    [hub, tablet, lamp]
}

/// Scenario 8 of the field lessons; openclaw PR #46815: queued work outlived a policy change.
#[test]
fn fl_openclaw_46815_what_waits_is_denied_by_the_rule_that_took_the_tool_and_every_device_says_so() {
    let [hub, tablet, mut lamp] = family();
    let (again, slow) = (tablet.call("lamp", "again", 600), tablet.call("lamp", "slow", 600));
    for home in [&hub, &tablet] {
        let told = why(home, &again);
        assert_eq!(told["verdict"], "allow", "{told}");
        assert!(["accepted", "queued"].contains(&text(&told, "state")), "{told}");
        assert_eq!(told["rule"], "family/otherwise", "{told}");
        let said = text(&told, "text");
        assert!(said.starts_with("Mia asked for `again` of `lamp` at `tablet`"), "{said}");
        assert!(said.contains("`lamp` is offline; it runs when that device is back"), "{said}");
    }
    // One is taken out of the workspace, the other by a rule.
    done(&hub, &["rule", "deny", "family/no-slow", "--who", "mia", "--tool", "slow", "--note", "bedtime"]);
    done(&hub, &["workspace", "set", "family", "--tool", "slow"]);
    lamp.start();
    for (id, rule, words) in [
        (&again, "workspace:scope", "The tool does not belong to `family`."),
        (&slow, "family/no-slow", "That is rule `family/no-slow`: Mia may not use `slow` (bedtime)."),
    ] {
        for home in [&hub, &tablet, &lamp] {
            // Also the lamp knows, which was off when it was denied.
            let state = || home.get(&format!("calls/{id}"));
            wait_until("it is denied", PATIENCE, || state().status == 200 && state().json()["state"] == "denied");
            let call = home.get_call(id);
            assert!(text(&call, "reason").ends_with(&format!("({rule})")), "{call}");
            let told = why(home, id);
            assert_eq!((&told["verdict"], &told["rule"]), (&json!("deny"), &json!(rule)), "{}: {told}", home.name);
            assert_eq!(
                (&told["state"], &told["accepted_by"]),
                (&json!("denied"), &json!("family/otherwise")),
                "{told}"
            );
            let said = text(&told, "text");
            assert!(said.contains("It was denied, and nothing ran.") && said.contains(words), "{said}");
            assert!(said.contains(" says so"), "{said}");
            assert!(said.contains("Asked again now: Mia may not use"), "{said}");
            assert_eq!(told["now"]["verdict"], "deny", "{told}");
        }
    }
    assert!(lamp.witness().is_empty(), "{:?}", lamp.witness());
    // The audit names the rule that denied it, not the one by which it was accepted.
    let audit = hub.get("audit").json();
    let of_slow = |line: &&Value| line["call"]["id"] == json!(slow) && line["what"] == "call";
    let line = audit["items"].as_array().and_then(|items| items.iter().find(of_slow)).expect("it is in the audit");
    assert_eq!((&line["verdict"], &line["rule"]), (&json!("deny"), &json!("family/no-slow")), "{line}");
    let shown = done(&tablet, &["policy", "explain", "--call", &slow]);
    assert!(shown.contains("deny: Mia asked for") && shown.contains("rule    family/no-slow"), "{shown}");
    assert!(shown.contains("change  "), "{shown}");
    // What would be answered now is another thing than what was.
    done(&hub, &["rule", "remove", "family/no-slow"]);
    wait_until("the tablet knows", PATIENCE, || why(&tablet, &slow)["now"]["verdict"] == "allow");
    assert_eq!(
        (&why(&tablet, &slow)["verdict"], &why(&tablet, &slow)["rule"]),
        (&json!("deny"), &json!("family/no-slow"))
    );
}

#[test]
fn who_may_not_read_a_call_is_not_told_why_it_is_as_it_is() {
    let hub = Home::new("hub").started();
    let id = hub.call("hub", "again", 60);
    assert_eq!(hub.wait_ended(&id, PATIENCE)["state"], "done");
    done(&hub, &["person", "add", "mia"]);
    let token = |words: &[&str]| done(&hub, &[&["token"], words].concat()).trim().to_owned();
    let path = format!("calls/{id}/explanation");
    for narrow in [token(&["--for", "mia"]), token(&["--tool", "again"])] {
        hub.ask_by_token(&narrow, "GET", &path, &Value::Null).problem(404);
    }
    let told = hub.ask_by_token(&token(&[]), "GET", &path, &Value::Null).expect(200);
    assert_eq!((&told["verdict"], &told["rule"]), (&json!("allow"), &json!("builtin/open")), "{told}");
    assert!(text(&told, "text").contains("It ran, and is done. `hub` itself says so."), "{told}");
    let unknown = "0".repeat(26);
    assert_eq!(hub.cli(&["policy", "explain", "--call", &unknown]).code, 3);
    hub.get(&format!("calls/{unknown}/explanation")).problem(404);
    hub.get("calls/nonsense/explanation").problem(422);
    // A call is named, or a question asked, and not both.
    assert_eq!(hub.cli(&["policy", "explain", "me", "hub", "again", "--call", &id]).code, 2);
    assert_eq!(hub.cli(&["policy", "explain", "me", "hub"]).code, 2);
}

/// What a device forbids itself stands in no list of its tools: who asks for it reads the ban, at every device.
#[test]
fn a_ban_of_the_device_itself_is_told_with_its_pattern() {
    let [hub, tablet, mut lamp] = family();
    let waits = tablet.call("lamp", "slow", 600);
    let file = lamp.path("sigil.toml");
    let before = std::fs::read_to_string(&file).expect("the settings");
    std::fs::write(&file, format!("[node]\ndeny = [\"slo*\"]\n{before}")).expect("it can be written");
    lamp.start();
    for home in [&hub, &tablet, &lamp] {
        wait_until("its own device says so", PATIENCE, || home.get_call(&waits)["confirmed"] == true);
        let told = why(home, &waits);
        assert_eq!((&told["verdict"], &told["rule"]), (&json!("deny"), &json!("local:slo*")), "{}: {told}", home.name);
        wait_until("all know", PATIENCE, || home.tool("node:lamp:slow").is_none());
        let asked = home.cli(&["policy", "explain", "mia", "lamp", "slow", "--origin", "tablet", "--json"]).json(0);
        assert_eq!(
            (&asked["verdict"], &asked["rule"]),
            (&json!("deny"), &json!("local:slo*")),
            "{}: {asked}",
            home.name
        );
        assert!(text(&asked, "change_by").contains("node.deny"), "{asked}");
    }
    let refused = tablet.try_call("lamp", "slow", 60).expect_err("it is banned").problem(403);
    assert_eq!((&refused["code"], &refused["rule"]), (&json!("denied"), &json!("local:slo*")), "{refused}");
    // What is not there at all is still called so.
    tablet.try_call("lamp", "nothing", 60).expect_err("there is none").problem(404);
    assert!(lamp.witness().is_empty());
}
