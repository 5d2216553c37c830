//! The commands that people and scripts use: their JSON and their exit codes.

use serde_json::Value;

use crate::harness::{Home, Mesh, items, text};

#[test]
fn the_same_commands_work_on_every_peer() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    for home in &mesh.homes {
        let status = home.cli(&["status", "--json"]).json(0);
        assert!(status.get("schema").is_some(), "{status}");
        for field in ["peer_id", "node_id", "mesh_id", "incarnation", "gateway", "links", "endpoints"] {
            assert!(!status[field].is_null(), "no {field} in {status}");
        }
        assert_eq!(status["gateway"]["self"].as_bool(), Some(home.leads()));
        assert_eq!(items(&home.cli(&["nodes", "--json"]).json(0)).len(), 2);
        for command in ["tools", "calls", "pending", "nearby", "logs"] {
            home.cli(&[command, "--json"]).json(0);
        }
        let other = if home.name == "attic" { "bureau" } else { "attic" };
        let call = home.cli(&["call", other, "device.info", "--json"]).json(0);
        assert_eq!(call["state"], "done", "{call}");
        let result = home.cli(&["result", text(&call, "id")]);
        assert_eq!(result.code, 0);
        assert!(!result.stdout.is_empty());
        for human in [&["status"][..], &["nodes"], &["tools"], &["calls"], &["doctor"]] {
            let said = home.cli(human);
            assert!(!said.stdout.is_empty(), "{human:?}: {said:?}");
            assert!(!said.stdout.contains('\u{1b}'), "no colours without a terminal: {said:?}");
        }
    }
}

#[test]
fn exit_codes_say_what_happened() {
    let failing = Home::new("attic").with_tool("fail", "echo broken >&2; exit 3", "none");
    assert_eq!(failing.cli(&["status"]).code, 5, "no agent runs");
    let home = failing.started();
    assert_eq!(home.cli(&["frobnicate"]).code, 2);
    assert_eq!(home.cli(&["nodes", "nowhere"]).code, 3);
    assert_eq!(home.cli(&["call", "nowhere", "device.info"]).code, 3);
    assert_eq!(home.cli(&["call", "attic", "no-such-tool"]).code, 3);
    assert_eq!(home.cli(&["call", "attic", "append"]).code, 0);
    let failed = home.cli(&["call", "attic", "fail", "--json"]);
    assert_eq!(failed.code, 1);
    let call: Value = serde_json::from_str(&failed.stdout).expect("the call, although it failed");
    assert_eq!(call["state"], "failed");
    assert!(call.to_string().contains("broken"), "what it said on its error stream: {call}");
    assert_eq!(home.cli(&["up"]).code, 8, "it runs already");
}

#[test]
fn waiting_for_a_device_that_is_off_ends_with_6_and_the_call_goes_on() {
    let mut mesh = Mesh::named(&["attic", "tablet"]);
    mesh.homes[1].stop();
    mesh.homes[0].wait_node("tablet", "offline");
    let said = mesh.homes[0].cli(&["call", "tablet", "append", "--ttl", "10m", "--wait", "1s", "--json"]);
    assert_eq!(said.code, 6, "{said:?}");
    let said = mesh.homes[0].cli(&["call", "tablet", "append", "--ttl", "1s", "--wait", "20s", "--json"]);
    assert_eq!(said.code, 7, "expired: {said:?}");
}

#[test]
fn a_call_that_names_no_ttl_gets_that_of_the_settings() {
    let home = Home::new("attic").with_config("[calls]\nttl = \"2h\"").started();
    assert_eq!(home.cli(&["call", "attic", "device.info", "--json"]).json(0)["ttl_s"], 7200);
    assert_eq!(home.cli(&["call", "attic", "device.info", "--ttl", "30s", "--json"]).json(0)["ttl_s"], 30);
    let unit = home.cli(&["call", "attic", "device.info", "--ttl", "30"]);
    assert_eq!(unit.code, 2);
    assert!(unit.stderr.contains("write 30s"), "{unit:?}");
}

#[test]
fn an_invite_prints_its_code_once() {
    let home = Home::new("attic").started();
    let said = home.cli(&["invite"]);
    assert_eq!(said.code, 0, "{said:?}");
    let code = said.stdout.trim_end();
    assert!(code.len() > 100 && code.lines().count() == 1, "nothing but the code is data: {said:?}");
    assert!(!said.stderr.contains(code), "{said:?}");
    assert_eq!(home.cli(&["invite", "--tier", "ephemeral"]).code, 2);
}

#[test]
fn up_and_down_in_the_background() {
    let home = Home::new("attic");
    let up = home.cli(&["up", "--detach", "--name", "attic", "--quic-port", "0", "--http-port", "0"]);
    assert_eq!(up.code, 0, "{up:?}");
    assert_eq!(home.cli(&["status", "--json"]).json(0)["node_id"], "attic");
    let down = home.cli(&["down"]);
    assert_eq!(down.code, 0, "{down:?}");
    assert_eq!(home.cli(&["status"]).code, 5);
}

#[test]
fn files_are_read_only_below_the_roots() {
    let outside = tempfile::tempdir().expect("a directory");
    std::fs::write(outside.path().join("secret"), "not yours").expect("a file");
    let home = Home::new("attic");
    let root = home.path("shared");
    std::fs::create_dir(&root).expect("a directory");
    std::fs::write(root.join("note"), "milk, bread").expect("a file");
    std::os::unix::fs::symlink(outside.path(), root.join("way-out")).expect("a link");
    let home = home.with_config(&format!("[files]\nroots = [{:?}]\n", root.display().to_string())).started();

    let read = |path: String| home.cli(&["call", "attic", "files.read", "--arg", &format!("path={path}"), "--json"]);
    let inside = read(root.join("note").display().to_string());
    assert_eq!(inside.code, 0, "{inside:?}");
    assert!(inside.stdout.contains("milk, bread"), "{inside:?}");
    for path in [
        outside.path().join("secret"),
        root.join("way-out/secret"),
        root.join("../sigil.toml"),
        root.join("../identity.key"),
        "/etc/passwd".into(),
    ] {
        let refused = read(path.display().to_string());
        assert_ne!(refused.code, 0, "{}: {refused:?}", path.display());
        assert!(!refused.stdout.contains("not yours") && !refused.stdout.contains("root:"), "{refused:?}");
    }
}
