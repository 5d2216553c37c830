//! Who may use what: said by people through the command line, the API and the file of settings, and what a call gets then.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, items, text, wait_converged, wait_until};

fn guest(owner: &Home, name: &str) -> Home {
    let answer = owner.post("invites", &json!({ "tier": "shared" }));
    let home = Home::new(name).started();
    assert!((200..300).contains(&home.join(text(&answer.json(), "code")).status));
    home
}

#[track_caller]
fn done(home: &Home, words: &[&str]) -> String {
    let said = home.cli(words);
    assert_eq!(said.code, 0, "{words:?}: {said:?}");
    said.stdout
}

/// What a device says now about whoever sits at it.
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
        hub.cli(&["policy", "explain", "mia", "hub", "again", "--at", "tablet", "--json"]).json(0),
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
    assert!(said.code == 2 && said.stderr.contains("`who`"), "{said:?}");
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
