//! Devices that are let in for a while: by a code or by hand, through REST and the command line; gone by themselves.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, done, items, text, wait_converged, wait_until};

fn explained(home: &Home, tool: &str) -> Value {
    home.cli(&["policy", "explain", "me", "hub", tool, "--json"]).json(0)
}

#[test]
fn a_code_lets_a_device_in_for_a_while_and_for_some_tools() {
    let hub = Home::new("hub").started();
    done(&hub, &["workspace", "add", "visit", "--node", "hub", "--devices", "allow", "--guests", "allow"]);
    done(&hub, &["rule", "allow", "mesh/visitors", "--who", "devices", "--node", "hub"]);
    let said = hub.cli(&["invite", "--for", "20s", "--only", "aga*", "--name", "visitor"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("removed by itself 20s after it has joined"), "{said:?}");
    assert!(said.stderr.contains("It may ask for aga* alone, where rules give it."), "{said:?}");
    let listed = items(&hub.get("invites").expect(200))[0].clone();
    assert_eq!((&listed["tier"], &listed["stay"]["for_s"]), (&json!("ephemeral"), &json!(20)), "{listed}");
    let visitor = Home::new("visitor").started();
    assert!((200..300).contains(&visitor.join(said.stdout.trim()).status));
    wait_converged(&[&hub, &visitor], PATIENCE);
    let shown = hub.get("nodes/visitor").expect(200);
    assert_eq!((&shown["tier"], &shown["stay"]["tools"]), (&json!("ephemeral"), &json!(["aga*"])), "{shown}");
    assert!(shown["stay"]["until"].is_string(), "{shown}");
    wait_until("it may", PATIENCE, || explained(&visitor, "again")["verdict"] == "allow");
    let id = visitor.call("hub", "again", 60);
    assert_eq!(visitor.wait_ended(&id, PATIENCE)["state"], "done");
    let refused = visitor.try_call("hub", "slow", 60).expect_err("it came for something else").problem(403);
    assert_eq!(refused["rule"], "tier:scope", "{refused}");
    // The subject is the passing of that time.
    wait_until("it is removed by itself", Duration::from_secs(40), || hub.get("nodes/visitor").status == 404);
    wait_until("it is told", PATIENCE, || visitor.status()["revoked"] == true);
    visitor.try_call("hub", "again", 60).expect_err("it belongs to nothing").problem(403);
    assert_eq!(hub.runs_of(&id), [1]);
}

#[test]
fn a_device_that_waits_is_approved_for_one_call_and_a_crash_of_its_host_changes_nothing() {
    let mut hub = Home::new("hub").started();
    done(&hub, &["workspace", "add", "visit", "--node", "hub"]);
    done(&hub, &["rule", "allow", "mesh/visitors", "--who", "devices", "--node", "hub"]);
    let visitor = Home::new("visitor").started();
    assert!((200..300).contains(&visitor.ask_to_join(&hub).status));
    wait_until("it is listed", PATIENCE, || !items(&hub.get("pending").expect(200)).is_empty());
    let stay = |body: Value| json!({ "stay": body, "words": visitor.check_words() });
    for bad in
        [json!({}), json!({ "for_s": 0 }), json!({ "for_s": 10, "tools": ["a**"] }), json!({ "for_s": 1, "x": 1 })]
    {
        hub.post("pending/visitor/approve", &stay(bad)).problem(422);
    }
    // A tier for good and a stay: which of them is meant nobody can know.
    let both = |path: &str| {
        let problem = hub.post(path, &json!({ "tier": "shared", "stay": { "for_s": 60 } })).problem(422);
        assert!(
            text(&problem, "detail").contains("`tier`") && text(&problem, "detail").contains("`stay`"),
            "{problem}"
        );
    };
    ["pending/visitor/approve", "nodes/visitor/approve", "invites"].into_iter().for_each(both);
    assert!(items(&hub.get("invites").expect(200)).is_empty());
    let many = json!({ "for_s": 60, "tools": vec!["a"; 17] });
    hub.post("pending/visitor/approve", &stay(many)).problem(422);
    let approved = hub.post("pending/visitor/approve", &stay(json!({ "for_s": 3600, "once": true }))).expect(200);
    assert_eq!((&approved["tier"], &approved["stay"]["once"]), (&json!("ephemeral"), &json!(true)), "{approved}");
    hub.kill9();
    hub.start();
    wait_converged(&[&hub, &visitor], PATIENCE);
    assert_eq!(hub.get("nodes/visitor").expect(200)["stay"]["once"], true);
    wait_until("it may", PATIENCE, || explained(&visitor, "slow")["verdict"] == "allow");
    let only = visitor.call("hub", "slow", 60);
    assert_eq!(visitor.wait_ended(&only, PATIENCE)["state"], "done", "it reads the result");
    let next = || explained(&visitor, "slow")["rule"].clone();
    wait_until("and asks for nothing more", PATIENCE, || next() == "tier:scope");
    visitor.try_call("hub", "slow", 60).expect_err("it has made its call").problem(403);
    let soon = Duration::from_mins(1);
    wait_until("its stay is over with its call", soon, || hub.get("nodes/visitor").status == 404);
    wait_until("it is told", PATIENCE, || visitor.status()["revoked"] == true);
    assert_eq!((hub.get_call(&only)["state"].clone(), hub.runs_of(&only)), (json!("done"), vec![1]));
    visitor.try_call("hub", "slow", 60).expect_err("it belongs to nothing").problem(403);
    assert_eq!(text(&hub.get_call(&only), "tool"), "slow");
}
