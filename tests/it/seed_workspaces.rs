//! Workspaces bind devices and tools: what a person gets of which device, and by which workspace.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Home, PATIENCE, done, text, wait_converged, wait_until};

const IPHONES: [&str; 2] = ["iphone-sean", "iphone-wife"];

/// The notebook of Sean, an owner, with these devices let in by it; all of them are one mesh.
fn of_sean(others: Vec<Home>) -> (Home, Vec<Home>) {
    let pro = Home::new("macbook-pro").started();
    let others: Vec<Home> = others.into_iter().map(Home::started).collect();
    for home in &others {
        let joined = home.join(&pro.invite());
        assert!((200..300).contains(&joined.status), "{}", joined.text());
    }
    let all: Vec<&Home> = std::iter::once(&pro).chain(&others).collect();
    wait_converged(&all, PATIENCE);
    done(&pro, &["person", "add", "sean", "--role", "owner", "--device", "macbook-pro"]);
    (pro, others)
}

/// A workspace of which Sean is a member.
fn workspace(pro: &Home, id: &str, binding: &[&str]) {
    let words = ["workspace", "add", id, "--members", "allow"];
    done(pro, &words.iter().chain(binding).copied().collect::<Vec<_>>());
    done(pro, &["workspace", "member", id, "sean"]);
}

/// Asks for a tool in a workspace: the call runs, or this rule denies it.
#[track_caller]
fn asks(pro: &Home, target: &Home, tool: &str, workspace: &str, denied_by: Option<&str>) {
    let said = pro.cli(&["call", &target.name, tool, "--workspace", workspace]);
    let told = pro.cli(&["policy", "explain", "sean", &target.name, tool, "--workspace", workspace, "--json"]).json(0);
    match denied_by {
        None => {
            assert_eq!((said.code, &told["verdict"]), (0, &Value::from("allow")), "{said:?}: {told}");
        }
        Some(rule) => {
            assert_eq!(said.code, 4, "{tool} of {} in {workspace}: {said:?}", target.name);
            assert!(said.stderr.contains(rule), "{said:?}");
            assert_eq!((&told["verdict"], text(&told, "rule")), (&Value::from("deny"), rule), "{told}");
        }
    }
}

/// The tools that a workspace gives Sean, as the table of rights shows them.
fn allowed(pro: &Home, workspace: &str) -> BTreeSet<String> {
    let table = pro.get(&format!("policy/matrix?workspace={workspace}")).expect(200);
    let list = |name: &str| table[name].as_array().cloned().unwrap_or_default();
    let (rows, cols) = (list("rows"), list("cols"));
    let of_sean = rows.iter().position(|row| row == "person:sean").expect("a row of his");
    let is_allowed = |cell: &&Value| cell["row"] == of_sean && cell["verdict"] == "allow";
    let name = |cell: &Value| {
        let col = &cols[usize::try_from(cell["col"].as_u64().expect("a number")).expect("a few")];
        format!("node:{}:{}", text(col, "node"), text(col, "tool"))
    };
    list("cells").iter().filter(is_allowed).map(name).collect()
}

#[test]
fn seed_w1_each_device_is_allowed_in_its_own_workspace_and_denied_in_the_other() {
    let (pro, others) = of_sean(["homelab-server", IPHONES[0], IPHONES[1]].map(Home::new).into());
    let [server, iphone, wifes] = others.as_slice() else { panic!("three") };
    workspace(&pro, "homelab", &["--node", "macbook-pro", "--node", "homelab-server"]);
    workspace(&pro, "family", &["--node", IPHONES[0], "--node", IPHONES[1]]);
    for (own, other, homes) in [("homelab", "family", [&pro, server]), ("family", "homelab", [iphone, wifes])] {
        for home in homes {
            asks(&pro, home, "again", own, None);
            asks(&pro, home, "again", other, Some("workspace:scope"));
            assert_eq!(home.witness().len(), 1, "{}", home.name);
        }
    }
}

#[test]
fn seed_w2_a_pattern_allows_the_devices_that_it_selects() {
    let (pro, iphones) = of_sean(IPHONES.map(Home::new).into());
    workspace(&pro, "family", &["--node", "iphone-*"]);
    for iphone in &iphones {
        asks(&pro, iphone, "again", "family", None);
        assert_eq!(iphone.witness().len(), 1, "{}", iphone.name);
    }
    asks(&pro, &pro, "again", "family", Some("workspace:scope"));
    assert!(pro.witness().is_empty());
}

/// A device with tools that do nothing.
fn with_tools(name: &str, tools: &[&str]) -> Home {
    tools.iter().fold(Home::new(name), |home, tool| home.with_tool(tool, "cat", "idempotent"))
}

#[test]
fn seed_w3_a_binding_with_tools_gives_those_alone() {
    let iphone = with_tools("iphone-sean", &["camera", "location", "filesystem"]);
    let (pro, others) = of_sean(vec![iphone]);
    let [iphone] = others.as_slice() else { panic!("one") };
    workspace(&pro, "family", &["--node", "iphone-*", "--tool", "camera", "--tool", "location"]);
    let expected = ["camera", "location"].map(|tool| format!("node:iphone-sean:{tool}"));
    wait_until("the tools are known", PATIENCE, || allowed(&pro, "family") == BTreeSet::from(expected.clone()));
    for tool in ["camera", "location"] {
        asks(&pro, iphone, tool, "family", None);
    }
    asks(&pro, iphone, "filesystem", "family", Some("workspace:scope"));
}

#[test]
fn seed_w4_a_workspace_allows_and_denies_by_patterns_of_tools_and_deny_wins() {
    let tools = ["camera", "exec.run", "exec.list"];
    let (pro, others) = of_sean(vec![with_tools("iphone-sean", &tools), with_tools("watch", &tools)]);
    let [iphone, watch] = others.as_slice() else { panic!("two") };
    done(&pro, &["workspace", "add", "family", "--node", "*"]);
    done(&pro, &["workspace", "member", "family", "sean"]);
    done(&pro, &["rule", "allow", "family/camera", "--who", "sean", "--tool", "node:iphone-*:camera"]);
    done(&pro, &["rule", "allow", "family/run", "--who", "sean", "--tool", "exec.run"]);
    let by_owner = |home: &Home, tool: &str, rule: &str| {
        let told = pro.cli(&["policy", "explain", "sean", &home.name, tool, "--workspace", "family", "--json"]).json(0);
        assert_eq!(text(&told, "rule"), rule, "{tool} of {}: {told}", home.name);
    };
    asks(&pro, iphone, "camera", "family", None);
    by_owner(iphone, "camera", "family/camera");
    // Elsewhere it is not the rule that gives it, but that he is an owner.
    by_owner(watch, "camera", "builtin/manager");
    asks(&pro, iphone, "exec.run", "family", None);
    done(&pro, &["rule", "deny", "family/no-exec", "--tool", "exec.*"]);
    for home in [iphone, watch] {
        for tool in ["exec.run", "exec.list"] {
            asks(&pro, home, tool, "family", Some("family/no-exec"));
        }
    }
    asks(&pro, iphone, "camera", "family", None);
}
