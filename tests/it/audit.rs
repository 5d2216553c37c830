//! The audit: what happened at the doors of all devices, for owners alone.

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, done, items, text, wait_converged, wait_until};

fn joined(owner: &Home, name: &str, tier: &str) -> Home {
    let code = text(&owner.post("invites", &json!({ "tier": tier, "node_id": name })).json(), "code").to_owned();
    let home = Home::new(name).started();
    assert!((200..300).contains(&home.join(&code).status));
    home
}

fn lines(home: &Home, query: &str) -> Vec<Value> {
    items(&home.get(&format!("audit?{query}")).expect(200)).to_vec()
}

#[test]
fn k3_what_is_refused_and_edited_anywhere_is_told_to_owners_and_nobody_else() {
    let hub = Home::new("hub").started();
    let desk = joined(&hub, "desk", "owner");
    let tablet = joined(&hub, "tablet", "shared");
    wait_converged(&[&hub, &desk, &tablet], PATIENCE);
    done(&hub, &["person", "add", "mia", "--name", "Mia", "--device", "tablet"]);
    done(&hub, &["workspace", "add", "family", "--node", "hub", "--members", "allow"]);
    done(&hub, &["workspace", "member", "family", "mia"]);
    done(&hub, &["rule", "deny", "family/no-slow", "--who", "mia", "--tool", "slow"]);
    let told = || tablet.cli(&["policy", "explain", "me", "hub", "slow", "--json"]).json(0)["rule"].clone();
    wait_until("the tablet knows", PATIENCE, || told() == "family/no-slow");
    let secret = "a-secret-argument";
    let body = json!({ "node": "hub", "tool": "again", "arguments": { "x": secret }, "ttl_s": 60 });
    let call = text(&tablet.post("calls", &body).json(), "id").to_owned();
    assert_eq!(tablet.wait_ended(&call, PATIENCE)["state"], "done");
    for _ in 0..3 {
        assert_eq!(tablet.cli(&["call", "hub", "slow", "--input", "{\"x\":\"a-secret-argument\"}"]).code, 4);
    }

    // Both owners come to know it; equal refusals are one line.
    let refused = |home: &Home| {
        let all = lines(home, "principal=person:mia&verdict=deny&tool=slow&node=hub");
        all.iter().map(|line| line["count"].as_u64().unwrap_or(0)).sum::<u64>() == 3 && !all.is_empty()
    };
    for home in [&hub, &desk] {
        wait_until("the refusals are there", PATIENCE, || refused(home));
        let all = lines(home, "principal=person:mia&verdict=deny");
        let line = &all[0];
        assert_eq!((&line["what"], &line["rule"]), (&json!("call_refused"), &json!("family/no-slow")), "{line}");
        assert_eq!((&line["device"], &line["node"], &line["tool"]), (&json!("tablet"), &json!("hub"), &json!("slow")));
        // A call tells of itself, with the rule of its acceptance.
        let all = lines(home, "tool=again");
        let line = all.iter().find(|line| line["call"]["id"] == call.as_str()).expect("the call");
        assert_eq!((&line["what"], &line["verdict"]), (&json!("call"), &json!("allow")), "{line}");
        assert_eq!((&line["rule"], &line["call"]["state"]), (&json!("family/otherwise"), &json!("done")), "{line}");
    }
    // Edits, with what they say, and by whom; also at the other owner.
    let edits = |home: &Home| -> Vec<Value> {
        lines(home, "verdict=allow").into_iter().filter(|line| line["what"] == "edited").collect()
    };
    wait_until("the edits are there", PATIENCE, || edits(&desk).len() >= 5);
    let all = edits(&desk);
    let rule = all.iter().find(|line| line["edited"] == "workspaces.family.rules.no-slow").expect("the rule");
    assert_eq!((&rule["principal"], &rule["device"]), (&json!("person:owner"), &json!("hub")), "{rule}");
    assert!(text(rule, "said").contains("slow") && text(rule, "said").contains("deny"), "{rule}");
    let shown = done(&desk, &["audit", "--limit", "200"]);
    assert!(shown.contains("workspaces.family.rules.no-slow") && shown.contains("again on hub"), "{shown}");
    assert!(!shown.contains(secret), "{shown}");
    assert!(!desk.get("audit?limit=200").text().contains(secret));

    // Pages show each line once, newest first.
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let page = hub.get(&format!("audit?limit=2{cursor}")).expect(200);
        seen.extend(items(&page).iter().map(|line| text(line, "last_at").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        assert!(seen.len() < 100, "{seen:?}");
    }
    assert_eq!(seen.len(), lines(&hub, "limit=200").len());
    assert!(lines(&hub, "since=4000000000").is_empty() && lines(&hub, "until=1000").is_empty());
    hub.get("audit?cursor=nonsense").problem(422);
    hub.get("audit?node=nowhere").problem(404);

    // Nobody else reads it, and the device of somebody else does not even have it.
    assert_eq!(tablet.get("audit").problem(403)["code"], "not_owner");
    let said = tablet.cli(&["audit"]);
    assert!(said.code == 4 && said.stderr.contains("owner"), "{said:?}");
    let token = |words: &[&str]| done(&hub, &[&["token"], words].concat()).trim().to_owned();
    let by = |token: &str| hub.ask_by_token(token, "GET", "audit", &Value::Null).status;
    assert_eq!(by(&token(&["--for", "mia"])), 403);
    assert_eq!(by(&token(&["--tool", "again"])), 403);
    assert_eq!(by(&token(&[])), 200);
}

#[test]
fn who_comes_without_a_good_token_is_told_in_one_line() {
    let hub = Home::new("hub").started();
    for _ in 0..5 {
        hub.ask_by_token("no-such-token", "GET", "status", &Value::Null).problem(401);
    }
    let made = hub.cli(&["token", "--tool", "again", "--json"]).json(0);
    let (token, id) = (text(&made, "token"), text(&made, "id"));
    hub.ask_by_token(token, "GET", "doctor", &Value::Null).problem(403);
    let door = || -> Vec<Value> {
        lines(&hub, "verdict=deny").into_iter().filter(|line| line["what"] == "door_refused").collect()
    };
    let count = |rule: &str| -> u64 {
        door().iter().filter(|line| line["rule"] == rule).filter_map(|line| line["count"].as_u64()).sum()
    };
    wait_until("they are told", PATIENCE, || count("door:unauthorized") == 5 && count("door:denied") == 1);
    assert!(door().len() <= 4, "{:?}", door());
    let all = door();
    let line = all.iter().find(|line| line["rule"] == "door:denied").expect("the narrow one");
    assert_eq!((&line["principal"], text(line, "token")), (&json!("person:owner"), id), "{line}");
    assert!(!hub.get("audit").text().contains("no-such-token"));
    // It is there after a start anew, too, and so is what a clean stop had to say.
    hub.ask_by_token(token, "GET", "logs", &Value::Null).problem(403);
    let mut hub = hub;
    hub.stop();
    hub.start();
    let again =
        items(&hub.get("audit?verdict=deny").expect(200)).iter().filter(|line| line["rule"] == "door:denied").count();
    assert_eq!(again, 2, "{:?}", hub.get("audit").text());
}

/// Two owners who do not know of each other change the same rule: both texts are in the audit of both, with their authors,
/// what was taken away holds, and both need an owner, who is told what to press.
#[test]
fn k7_the_text_that_loses_a_conflict_is_told_and_kept_or_restored() {
    let mut hub = Home::new("hub").started();
    let mut desk = joined(&hub, "desk", "owner");
    let mut tablet = joined(&hub, "tablet", "shared");
    wait_converged(&[&hub, &desk, &tablet], PATIENCE);
    done(&hub, &["workspace", "add", "w", "--node", "hub"]);
    wait_until("the desk knows", PATIENCE, || done(&desk, &["workspace", "list"]).contains('w'));
    // It would carry what it hears from the one to the other.
    tablet.stop();
    assert!(done(&desk, &["policy", "conflicts"]).contains("Nothing was edited"));
    desk.stop();
    done(&hub, &["rule", "deny", "w/x", "--tool", "again", "--note", "never"]);
    done(&hub, &["rule", "deny", "w/y", "--tool", "append"]);
    hub.stop();
    desk.start();
    done(&desk, &["rule", "allow", "w/x", "--who", "people", "--tool", "again", "--note", "as ever"]);
    done(&desk, &["rule", "deny", "w/y", "--tool", "slow"]);
    hub.start();
    tablet.start();
    let listed = |home: &Home| -> Vec<Value> { items(&home.get("policy/conflicts").expect(200)).to_vec() };
    let of = |home: &Home, at: &str| listed(home).into_iter().find(|conflict| conflict["at"] == at);
    for home in [&hub, &desk] {
        wait_until("both texts are there", PATIENCE, || {
            let all = lines(home, "limit=200");
            let of_rule: Vec<_> = all.iter().filter(|line| line["edited"] == "workspaces.w.rules.x").collect();
            let by = |device: &str, note: &str| {
                of_rule.iter().any(|line| line["device"] == device && text(line, "said").contains(note))
            };
            by("hub", "never") && by("desk", "as ever")
        });
        assert!(home.get("policy").expect(200)["conflicts"].to_string().contains("workspaces.w.rules.x"));
        wait_until("both are listed", PATIENCE, || listed(home).len() == 2);
        // What the one took away holds; of two bans both do.
        let (x, y) = (of(home, "workspaces.w.rules.x").expect("x"), of(home, "workspaces.w.rules.y").expect("y"));
        let holds = |conflict: &Value| -> Vec<(String, bool)> {
            let texts = conflict["texts"].as_array().cloned().unwrap_or_default();
            let one = |text: &Value| (text["node"].as_str().unwrap_or_default().to_owned(), text["holds"] == true);
            let mut all: Vec<_> = texts.iter().map(one).collect();
            all.sort();
            all
        };
        assert_eq!(holds(&x), [("desk".to_owned(), false), ("hub".to_owned(), true)], "{x}");
        assert_eq!(holds(&y), [("desk".to_owned(), false), ("hub".to_owned(), false)], "{y}");
        let status = home.get("status").expect(200)["warnings"].to_string();
        assert!(status.contains("workspaces.w.rules.x was edited by person:owner at"), "{status}");
        assert!(status.contains("sigil policy conflicts"), "{status}");
        let shown = done(home, &["pending"]);
        assert!(shown.contains("never") && shown.contains("as ever") && shown.contains("sigil policy keep"), "{shown}");
    }
    let x = text(&of(&hub, "workspaces.w.rules.x").expect("x"), "id").to_owned();
    let y = text(&of(&hub, "workspaces.w.rules.y").expect("y"), "id").to_owned();
    assert_eq!(text(&of(&desk, "workspaces.w.rules.x").expect("x"), "id"), x, "the same at every device");
    // Nobody but an owner at an owner's device ends it, and by no token.
    assert!(tablet.get("status").expect(200)["warnings"].to_string().find("conflicts").is_none());
    let said = tablet.cli(&["policy", "keep", &x]);
    assert_ne!(said.code, 0, "{said:?}");
    let token = done(&hub, &["token"]).trim().to_owned();
    let text_id = of(&hub, "workspaces.w.rules.x").expect("x")["texts"][0]["id"].clone();
    hub.ask_by_token(&token, "POST", &format!("policy/conflicts/{x}"), &json!({ "text": text_id })).problem(403);
    // One that nobody says, and one that is not there.
    let nobody = json!({ "text": "0".repeat(16) });
    assert_eq!(hub.post(&format!("policy/conflicts/{x}"), &nobody).problem(409)["code"], "already_decided");
    hub.post(&format!("policy/conflicts/{}", "0".repeat(16)), &nobody).problem(404);
    assert_eq!(hub.cli(&["policy", "keep", &y]).code, 8, "neither ban can be kept alone");
    assert_eq!(hub.cli(&["policy", "restore", &y]).code, 2, "it does not say which");

    // The text that lost is restored at one device, and holds at both.
    let verdict = |home: &Home, tool: &str| {
        let words = ["policy", "explain", "owner", "hub", tool, "--json"];
        home.cli(&words).json(0)["rule"].clone()
    };
    for home in [&hub, &desk] {
        assert_eq!(verdict(home, "again"), "w/x", "it is banned");
        assert_eq!(home.cli(&["policy", "explain", "owner", "hub", "again", "--json"]).json(0)["verdict"], "deny");
    }
    done(&desk, &["policy", "restore", &x]);
    for home in [&hub, &desk] {
        wait_until("one is left", PATIENCE, || listed(home).len() == 1);
        assert_eq!(home.cli(&["policy", "explain", "owner", "hub", "again", "--json"]).json(0)["verdict"], "allow");
        assert!(done(home, &["rule", "list", "w"]).contains("as ever"));
    }
    done(&hub, &["policy", "restore", &y, "1"]);
    for home in [&hub, &desk] {
        wait_until("none is left", PATIENCE, || listed(home).is_empty());
        assert!(!home.get("status").expect(200)["warnings"].to_string().contains("conflicts"));
        assert!(done(home, &["pending"]).starts_with("No device awaits"), "nothing needs anybody");
    }
}

/// What holds of two texts is kept with one command at either of two owners that did not know of each other, and then it is the
/// only one everywhere: what it takes away stays away, and nobody is asked any more.
#[test]
fn k7_what_holds_of_two_texts_is_kept_and_the_other_is_gone_everywhere() {
    let mut hub = Home::new("hub").started();
    let mut desk = joined(&hub, "desk", "owner");
    let mut phone = joined(&hub, "phone", "owner");
    wait_converged(&[&hub, &desk, &phone], PATIENCE);
    done(&hub, &["workspace", "add", "w", "--node", "hub", "--members", "allow"]);
    let knows = |home: &Home| done(home, &["workspace", "list"]).contains('w');
    wait_until("all know", PATIENCE, || [&desk, &phone].into_iter().all(knows));
    // Two halves that are never on at one time: the phone would carry what it hears from the one to the other.
    phone.stop();
    desk.stop();
    done(&hub, &["rule", "deny", "w/z", "--tool", "again", "--note", "never"]);
    hub.stop();
    desk.start();
    done(&desk, &["rule", "allow", "w/z", "--who", "people", "--tool", "again", "--note", "as ever"]);
    hub.start();
    phone.start();
    let all = [&hub, &desk, &phone];
    let listed = |home: &Home| items(&home.get("policy/conflicts").expect(200)).to_vec();
    for home in all {
        wait_until("both texts are there", PATIENCE, || listed(home).len() == 1);
    }
    let id = text(&listed(&desk)[0], "id").to_owned();
    // The one whose text loses keeps what holds: it does not get its own back by that.
    let told = done(&desk, &["policy", "keep", &id]);
    assert!(told.contains("workspaces.w.rules.z") && told.contains("in one version"), "{told}");
    for home in all {
        wait_until("nothing is in two versions", PATIENCE, || listed(home).is_empty());
        let rules = done(home, &["rule", "list", "w"]);
        assert!(rules.contains("never") && !rules.contains("as ever"), "{}: {rules}", home.name);
        let asked = home.cli(&["policy", "explain", "owner", "hub", "again", "--json"]).json(0);
        assert_eq!((&asked["verdict"], &asked["rule"]), (&json!("deny"), &json!("w/z")), "{asked}");
        assert!(done(home, &["pending"]).starts_with("No device awaits"), "nothing needs anybody");
    }
    let again = desk.cli(&["policy", "keep", &id]);
    assert!(again.code == 3 && again.stderr.contains("sigil policy conflicts"), "{again:?}");
    wait_until("both texts stay in the audit, and who kept which", PATIENCE, || {
        let said = lines(&hub, "limit=200");
        let of_rule: Vec<_> = said.iter().filter(|line| line["edited"] == "workspaces.w.rules.z").collect();
        let by = |device: &str, note: &str| {
            of_rule.iter().any(|line| line["device"] == device && text(line, "said").contains(note))
        };
        by("hub", "never") && by("desk", "as ever") && by("desk", "never")
    });
}
