//! Tools that a device adds or changes after its tools were approved: they wait in the one list of what waits, and what was
//! approved stays live.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, done, items, text, wait_converged, wait_until};

/// The tools of the panel, as its file of settings declares them, with a description each.
fn declares(panel: &Home, tools: &[(&str, &str)]) {
    let tools = tools.iter().map(|(name, about)| {
        format!("[tools.\"{name}\"]\ncommand = \"cat\"\neffect = \"idempotent\"\ndescription = \"{about}\"\n")
    });
    let text: String = std::iter::once("[discovery]\nlan = false\n".to_owned()).chain(tools).collect();
    fs::write(panel.path("sigil.toml"), text).expect("it is written");
    if panel.runs() {
        done(panel, &["reload"]);
    }
}

fn waiting(home: &Home) -> Vec<(String, bool)> {
    let all = home.get("pending").expect(200)["tools"].as_array().cloned().expect("a list");
    all.iter().map(|tool| (text(tool, "tool").to_owned(), tool["changed"] == true)).collect()
}

#[test]
fn what_a_device_adds_or_changes_waits_in_one_list_and_the_rest_stays_live() {
    let hub = Home::new("hub").started();
    let panel = Home::new("panel");
    declares(&panel, &[("lamp", "turns the lamp on")]);
    let panel = panel.started();
    let code = text(&hub.post("invites", &json!({ "tier": "shared", "node_id": "panel" })).json(), "code").to_owned();
    assert!((200..300).contains(&panel.join(&code).status));
    wait_converged(&[&hub, &panel], PATIENCE);
    wait_until("its tools are known", PATIENCE, || hub.tool("node:panel:lamp").is_some());
    let runs = |tool: &str| {
        let id = hub.call("panel", tool, 60);
        hub.wait_ended(&id, PATIENCE)["state"].clone()
    };
    let refused = |tool: &str| hub.try_call("panel", tool, 60).expect_err("it waits").problem(403);

    // As long as nobody has approved any, all count.
    declares(&panel, &[("lamp", "turns the lamp on"), ("heat", "turns the heating on")]);
    wait_until("it is known", PATIENCE, || hub.tool("node:panel:heat").is_some());
    assert!(waiting(&hub).is_empty() && done(&hub, &["pending"]).starts_with("No device awaits approval."));
    assert_eq!(runs("heat"), "done");
    // An empty list gives nothing.
    hub.post("nodes/panel/tools", &json!({ "tools": [] })).expect(200);
    wait_until("all wait", PATIENCE, || waiting(&hub).len() == 3);
    assert_eq!((&refused("lamp")["rule"], &refused("heat")["rule"]), (&json!("tool:pending"), &json!("tool:pending")));
    let told = done(&hub, &["approve", "panel", "--tools"]);
    assert!(told.contains("heat") && told.contains("lamp") && told.contains("sigil pending"), "{told}");

    // Growth waits, and what was approved does not.
    declares(&panel, &[("lamp", "turns the lamp on"), ("heat", "turns the heating on"), ("siren", "wakes the street")]);
    wait_until("it waits", PATIENCE, || waiting(&hub) == [("siren".to_owned(), false)]);
    assert_eq!(runs("lamp"), "done");
    let why = refused("siren");
    assert_eq!(why["rule"], "tool:pending", "{why}");
    let asked = hub.cli(&["policy", "explain", "owner", "panel", "siren", "--json"]).json(0);
    let press = "`sigil approve panel --tools siren`";
    assert!(text(&asked, "rule") == "tool:pending" && text(&asked, "change_by").contains(press), "{asked}");
    let shown = hub.tool("node:panel:siren").expect("it is listed");
    assert!(shown["available"] == false && text(&shown, "why").contains("sigil pending"), "{shown}");
    for said in [done(&hub, &["pending"]), hub.get("status").expect(200)["warnings"].to_string()] {
        assert!(said.contains("siren") && said.contains("sigil approve panel --tools"), "{said}");
    }
    // Its own device has no say in that, a token neither, and nothing else is approved than was shown.
    assert!(waiting(&panel).is_empty() && panel.cli(&["approve", "panel", "--tools"]).code != 0);
    let token = done(&hub, &["token"]).trim().to_owned();
    hub.ask_by_token(&token, "POST", "nodes/panel/tools", &json!({})).problem(403);
    let first = hub.get("pending").expect(200)["tools"][0].clone();
    declares(&panel, &[("lamp", "turns the lamp on"), ("siren", "wakes the town")]);
    wait_until("it is another by now", PATIENCE, || {
        hub.get("pending").expect(200)["tools"][0]["description"] == "wakes the town"
    });
    let stale = json!({ "tools": [{ "name": "siren", "shown": first["shown"] }] });
    hub.post("nodes/panel/tools", &stale).problem(412);
    hub.post("nodes/panel/tools", &json!({ "tools": [{ "name": "nothing" }] })).problem(404);
    hub.post("nodes/nobody/tools", &json!({})).problem(404);
    assert_eq!(refused("siren")["rule"], "tool:pending");

    // What is taken away needs nobody, and comes back as it was.
    declares(&panel, &[("lamp", "turns the lamp on"), ("heat", "turns the heating on")]);
    wait_until("nothing waits", PATIENCE, || waiting(&hub).is_empty() && hub.tool("node:panel:heat").is_some());
    assert_eq!((runs("lamp"), runs("heat")), (json!("done"), json!("done")));

    // A change waits too, in words; and is approved by what the list says.
    declares(&panel, &[("lamp", "turns the lamp on, for ever"), ("heat", "turns the heating on")]);
    wait_until("it waits", PATIENCE, || waiting(&hub) == [("lamp".to_owned(), true)]);
    assert_eq!(refused("lamp")["rule"], "tool:changed");
    assert_eq!(runs("heat"), "done");
    let told = done(&hub, &["approve", "panel", "--tools", "lamp"]);
    assert!(told.contains("heat, lamp"), "{told}");
    wait_until("nothing waits", PATIENCE, || waiting(&hub).is_empty());
    assert_eq!(runs("lamp"), "done");
    // Words are written together, some seconds later.
    let is_told = |line: &Value| line["edited"] == "tools of panel";
    wait_until("the audit tells who approved", PATIENCE, || items(&hub.get("audit").expect(200)).iter().any(is_told));
}

/// An approval that was a mistake is taken back: through REST and the command line, of a tool or of all.
#[test]
fn an_approval_of_tools_is_taken_back_and_what_waits_for_them_is_refused() {
    let hub = Home::new("hub").started();
    let panel = Home::new("panel");
    declares(&panel, &[("lamp", "turns the lamp on"), ("siren", "wakes the street")]);
    let mut panel = panel.started();
    let code = text(&hub.post("invites", &json!({ "tier": "shared", "node_id": "panel" })).json(), "code").to_owned();
    assert!((200..300).contains(&panel.join(&code).status));
    wait_converged(&[&hub, &panel], PATIENCE);
    wait_until("its tools are known", PATIENCE, || hub.tool("node:panel:siren").is_some());
    let runs = |tool: &str| {
        let id = hub.call("panel", tool, 60);
        hub.wait_ended(&id, PATIENCE)["state"].clone()
    };
    let refused = |tool: &str| hub.try_call("panel", tool, 60).expect_err("it waits").problem(403)["rule"].clone();
    assert_eq!(runs("siren"), "done");

    // Nobody had approved any: one is taken out, and all the others count from now on.
    let told = done(&hub, &["reject", "panel", "--tools", "siren"]);
    assert!(told.contains("lamp") && !told.contains("siren") && told.contains("sigil pending"), "{told}");
    assert_eq!(waiting(&hub), [("siren".to_owned(), false)]);
    assert_eq!((refused("siren"), runs("lamp")), (json!("tool:pending"), json!("done")));
    declares(&panel, &[("lamp", "turns the lamp on"), ("siren", "wakes the street"), ("heat", "turns the heating on")]);
    wait_until("it waits too", PATIENCE, || waiting(&hub).len() == 2);

    // What waits for a device that is off is refused when it is back.
    assert!(done(&hub, &["approve", "panel", "--tools", "siren"]).contains("sigil reject NODE --tools TOOL"));
    assert_eq!(runs("siren"), "done");
    panel.stop();
    wait_until("it is off", PATIENCE, || hub.node_state("panel").as_deref() == Some("offline"));
    let queued = hub.call("panel", "siren", 600);
    let left = hub.post("nodes/panel/tools/reject", &json!({ "tools": ["siren"] })).expect(200);
    assert!(!left["approved"].to_string().contains("siren") && left["approved"].to_string().contains("lamp"), "{left}");
    panel.start();
    let ended = hub.wait_ended(&queued, PATIENCE);
    assert!(ended["state"] == "denied" && text(&ended, "reason").contains("tool:pending"), "{ended}");

    // All of it, and its limits.
    let token = done(&hub, &["token"]).trim().to_owned();
    hub.ask_by_token(&token, "POST", "nodes/panel/tools/reject", &json!({})).problem(403);
    hub.post("nodes/panel/tools/reject", &json!({ "tools": ["nothing"] })).problem(404);
    hub.post("nodes/nobody/tools/reject", &json!({})).problem(404);
    hub.post("nodes/panel/tools/reject", &json!({ "tools": null })).problem(422);
    assert!(panel.cli(&["reject", "panel", "--tools"]).code != 0, "its own device has no say in that");
    assert_eq!(hub.post("nodes/panel/tools/reject", &json!({})).expect(200)["approved"], json!([]));
    assert_eq!((refused("lamp"), refused("device.info")), (json!("tool:pending"), json!("tool:pending")));
    done(&hub, &["approve", "panel", "--tools", "lamp"]);
    wait_until("it knows", PATIENCE, || runs("lamp") == "done");
}
