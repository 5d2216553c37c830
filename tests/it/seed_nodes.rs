//! Nodes as a client of REST sees them: listed, approved, offline, back again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Home, Mesh, PATIENCE, items, text, wait_until};

/// A founder and a `macbook-pro` with these tools, in one mesh.
#[track_caller]
fn with_macbook(tools: &[&str], platform: &str) -> Mesh {
    let mut macbook = Home::new("macbook-pro");
    for tool in tools {
        let line = format!(
            "echo picture; printf '%s %s\\n' \"$SIGIL_REQUEST_ID\" \"$SIGIL_ATTEMPT\" >> {}",
            macbook.witness_file().display()
        );
        macbook = macbook.with_tool(tool, &line, "once");
    }
    if !platform.is_empty() {
        macbook.set_env("SIGIL_TEST_PLATFORM", platform);
    }
    Mesh::of(vec![Home::new("attic"), macbook])
}

fn tool_names(node: &Value) -> Vec<String> {
    let name = |tool: &Value| tool.as_str().map_or_else(|| text(tool, "name").to_owned(), ToOwned::to_owned);
    node["tools"].as_array().expect("a node has tools").iter().map(name).collect()
}

#[test]
fn seed_n1_a_registered_node_can_be_got_is_online_and_holds_its_tools() {
    // What platform it is comes from the machine; only a build for tests can claim another one.
    let platform = if cfg!(feature = "fault-points") { "darwin" } else { "" };
    let mesh = with_macbook(&["camera-tool", "screen-capture"], platform);
    let node = mesh.homes[0].get("nodes/macbook-pro").expect(200);
    assert_eq!(node["node_id"], "macbook-pro");
    assert_eq!(node["state"], "online");
    assert_eq!(node["platform"], if platform.is_empty() { std::env::consts::OS } else { platform });
    assert_eq!(node["peer_id"], mesh.homes[1].peer_id());
    let names = tool_names(&node);
    for tool in ["camera-tool", "screen-capture"] {
        assert!(names.iter().any(|name| name == tool), "{names:?}");
    }
}

#[test]
fn seed_n2_tools_are_exposed_under_the_prefix_of_their_node() {
    let mesh = with_macbook(&["camera", "screen"], "");
    for home in &mesh.homes {
        for name in ["node:macbook-pro:camera", "node:macbook-pro:screen"] {
            let tool = home.tool(name).unwrap_or_else(|| panic!("{name} is not offered at {}", home.name));
            assert_eq!(tool["available"], true, "{tool}");
        }
    }
    let id = mesh.homes[0].call("macbook-pro", "camera", 60);
    let call = mesh.homes[0].wait_ended(&id, PATIENCE);
    assert_eq!(call["state"], "done", "{call}");
    assert_eq!(mesh.homes[1].runs_of(&id), [1]);
}

#[test]
fn seed_n3_a_disconnected_node_stays_known_and_its_tools_are_currently_offline() {
    let mut mesh = with_macbook(&["camera"], "");
    mesh.homes[1].kill9();
    mesh.homes[0].wait_node("macbook-pro", "offline");
    let node = mesh.homes[0].get("nodes/macbook-pro").expect(200);
    assert!(!text(&node, "why").is_empty(), "{node}");
    assert!(tool_names(&node).iter().any(|name| name == "camera"), "{node}");
    let tool = mesh.homes[0].tool("node:macbook-pro:camera").expect("shown, not vanished");
    assert_eq!(tool["available"], false, "{tool}");
    assert!(tool.to_string().contains("currently offline"), "{tool}");
}

#[test]
fn seed_n4_all_known_nodes_can_be_listed() {
    let mut mesh = Mesh::named(&["attic", "bureau", "cellar"]);
    mesh.homes[2].stop();
    mesh.homes[0].wait_node("cellar", "offline");
    for home in &mesh.homes[..2] {
        let mut listed: Vec<(String, String)> = home
            .nodes()
            .iter()
            .map(|node| (text(node, "node_id").to_owned(), text(node, "state").to_owned()))
            .collect();
        listed.sort();
        let expected = [("attic", "online"), ("bureau", "online"), ("cellar", "offline")];
        assert_eq!(listed, expected.map(|(name, state)| (name.to_owned(), state.to_owned())), "at {}", home.name);
    }
    let shown = mesh.homes[1].cli(&["nodes", "--json"]).json(0);
    assert_eq!(items(&shown).len(), 3);
}

#[test]
fn seed_n5_a_call_for_an_offline_node_is_queued_with_a_ttl_and_listed() {
    let mut mesh = with_macbook(&["camera"], "");
    mesh.homes[1].stop();
    let door = &mesh.homes[0];
    door.wait_node("macbook-pro", "offline");
    let plain = door.post("calls", &json!({ "node": "macbook-pro", "tool": "camera", "arguments": {} })).expect(202);
    assert_eq!(plain["ttl_s"], 60, "{plain}");
    let (plain, chosen) = (text(&plain, "id").to_owned(), door.call("macbook-pro", "camera", 3));
    assert_eq!(plain.len(), 26);
    assert_eq!(door.get_call(&chosen)["ttl_s"], 3);

    wait_until("both are listed as queued", PATIENCE, || {
        let list = door.get("calls?node=macbook-pro&state=queued").expect(200);
        let ids: Vec<&str> = items(&list).iter().map(|call| text(call, "id")).collect();
        ids.contains(&plain.as_str()) && (ids.contains(&chosen.as_str()) || call_ended(door, &chosen))
    });
    let listed = door.cli(&["calls", "--node", "macbook-pro", "--queued", "--json"]).json(0);
    assert!(items(&listed).iter().any(|call| text(call, "id") == plain), "{listed}");
    // The one with the short time ends without the node; the other still waits.
    assert_eq!(door.wait_ended(&chosen, PATIENCE)["state"], "expired");
    assert!(!call_ended(door, &plain));
}

fn call_ended(door: &Home, id: &str) -> bool {
    crate::harness::call_is_over(&door.get_call(id))
}

#[test]
fn seed_n6_on_reconnect_the_queue_drains_and_the_tools_are_back() {
    let mut mesh = with_macbook(&["camera"], "");
    let identity = mesh.homes[1].peer_id();
    mesh.homes[1].stop();
    mesh.homes[0].wait_node("macbook-pro", "offline");
    let ids: Vec<String> = (0..5).map(|_| mesh.homes[0].call("macbook-pro", "camera", 600)).collect();
    mesh.homes[1].start();
    mesh.homes[0].wait_node("macbook-pro", "online");
    for id in &ids {
        let call = mesh.homes[0].wait_confirmed(id, PATIENCE);
        assert_eq!(call["state"], "done", "{call}");
        assert_eq!(mesh.homes[1].runs_of(id), [1]);
    }
    let node = mesh.homes[0].get("nodes/macbook-pro").expect(200);
    assert_eq!(node["peer_id"], identity, "the same key has proven itself again");
    assert_eq!(mesh.homes[0].tool("node:macbook-pro:camera").expect("back")["available"], true);
    let queued = mesh.homes[0].get("calls?node=macbook-pro&state=queued").expect(200);
    assert!(items(&queued).is_empty(), "{queued}");
}

#[test]
fn seed_n7_tools_of_a_node_count_only_after_it_is_known_and_approved() {
    let attic = Home::new("attic").started();
    let stranger = Home::new("macbook-pro").with_tool("camera", "echo picture", "none").started();
    let asked = stranger.ask_to_join(&attic);
    assert_eq!(asked.status, 202, "{}", asked.text());
    let mut waiting = Value::Null;
    wait_until("its join request is here", PATIENCE, || {
        let pending = attic.get("pending").expect(200);
        waiting = items(&pending).first().cloned().unwrap_or_default();
        text(&waiting, "node_id") == "macbook-pro"
    });
    assert_eq!(text(&waiting, "peer_id"), stranger.peer_id(), "what people compare");
    assert!(attic.tool("node:macbook-pro:camera").is_none(), "not before it is approved");
    let refused = attic.try_call("macbook-pro", "camera", 60).expect_err("not before it is approved");
    assert!([403, 404].contains(&refused.status), "{}", refused.text());

    let approved = attic.post(&format!("pending/{}/approve", text(&waiting, "peer_id")), &json!({}));
    assert!((200..300).contains(&approved.status), "{}", approved.text());
    attic.wait_node("macbook-pro", "online");
    wait_until("its tools are offered", PATIENCE, || attic.tool("node:macbook-pro:camera").is_some());
    let id = attic.call("macbook-pro", "camera", 60);
    assert_eq!(attic.wait_ended(&id, PATIENCE)["state"], "done");

    // A hand approval makes a shared device: its own calls reach `device.info` and nothing else.
    wait_until("it knows the mesh", PATIENCE, || stranger.node_state("attic").as_deref() == Some("online"));
    let denied = stranger.try_call("attic", "append", 60).expect_err("policy").problem(403);
    assert_eq!(denied["code"], "denied");
    let id = stranger.call("attic", "device.info", 60);
    assert_eq!(stranger.wait_ended(&id, Duration::from_secs(20))["state"], "done");
}
