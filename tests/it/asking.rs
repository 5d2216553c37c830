//! Calls that ask, on real peers: approvers who are away, too late, of two minds in two halves, and restarts in between.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, done, items, text, wait_converged, wait_until};

fn guest(owner: &Home, name: &str) -> Home {
    let answer = owner.post("invites", &json!({ "tier": "shared", "node_id": name }));
    let home = Home::new(name).started();
    assert!((200..300).contains(&home.join(text(&answer.json(), "code")).status));
    home
}

fn why(home: &Home, id: &str) -> Value {
    home.cli(&["policy", "explain", "--call", id, "--json"]).json(0)
}

fn waits(home: &Home, id: &str) -> bool {
    items(&home.get("approvals").expect(200)).iter().any(|approval| approval["call_id"] == id)
}

fn answers(home: &Home, id: &str, answer: &str) -> i32 {
    home.cli(&["approvals", "answer", id, answer]).code
}

/// A hub, the tablet of Mia who must ask for `again` of the hub, and the devices of those who answer, for so long.
fn family(approvers: &[(&str, &str)], wait: &str) -> (Home, Home, Vec<Home>) {
    let hub = Home::new("hub").started();
    let tablet = guest(&hub, "tablet");
    let devices: Vec<Home> = approvers.iter().map(|(_, device)| guest(&hub, device)).collect();
    let all: Vec<&Home> = [&hub, &tablet].into_iter().chain(&devices).collect();
    wait_converged(&all, PATIENCE);
    done(&hub, &["person", "add", "mia", "--name", "Mia", "--device", "tablet"]);
    for (person, device) in approvers {
        done(&hub, &["person", "add", person, "--device", device]);
    }
    done(&hub, &["workspace", "add", "family", "--node", "hub", "--members", "allow"]);
    done(&hub, &["workspace", "member", "family", "mia"]);
    let mut rule = vec!["rule", "ask", "family/careful", "--who", "mia", "--tool", "again", "--wait", wait];
    for (person, _) in approvers {
        rule.extend(["--approver", person]);
    }
    done(&hub, &rule);
    let asks = || tablet.cli(&["policy", "explain", "me", "hub", "again", "--json"]).json(0)["verdict"] == "ask";
    wait_until("the tablet knows", PATIENCE, asks);
    (hub, tablet, devices)
}

#[test]
fn an_approver_who_was_away_finds_the_call_and_her_yes_lets_it_run() {
    let (hub, tablet, mut devices) = family(&[("anna", "phone")], "10m");
    devices[0].stop();
    let id = tablet.call("hub", "again", 60);
    wait_until("it asks", PATIENCE, || tablet.get_call(&id)["state"] == "asking");
    let told = why(&tablet, &id);
    assert_eq!((&told["verdict"], &told["rule"]), (&json!("ask"), &json!("family/careful")), "{told}");
    assert!(text(&told, "text").contains("It waits for a yes until"), "{told}");
    assert!(hub.witness().is_empty());
    devices[0].start();
    wait_until("it is listed", PATIENCE, || waits(&devices[0], &id));
    assert_eq!(answers(&devices[0], &id, "yes"), 0);
    assert_eq!(tablet.wait_ended(&id, PATIENCE)["state"], "done");
    assert_eq!(hub.runs_of(&id), [1]);
    // She is cut off while she answers: her yes goes out when she is back.
    let mut hub = hub;
    let late = tablet.call("hub", "again", 60);
    wait_until("it is listed", PATIENCE, || waits(&devices[0], &late));
    let mut tablet = tablet;
    hub.stop();
    tablet.stop();
    assert_eq!(answers(&devices[0], &late, "yes"), 0);
    hub.start();
    tablet.start();
    assert_eq!(tablet.wait_ended(&late, PATIENCE)["state"], "done");
    assert_eq!(hub.runs_of(&late), [1]);
    // Whoever sent it on knows who said so.
    let told = why(&hub, &late);
    assert!(text(&told, "text").contains("anna said yes"), "{told}");
    assert_eq!(told["answers"][0]["choice"], "once", "{told}");
}

#[test]
fn what_nobody_answers_in_time_ends_and_a_yes_comes_too_late() {
    let (hub, tablet, devices) = family(&[("anna", "phone")], "2s");
    let said = tablet.cli(&["call", "hub", "again", "--ttl", "1s", "--wait", "30s"]);
    assert_eq!(said.code, 7, "{said:?}");
    assert!(said.stderr.contains("no_consent") && said.stderr.contains("family/careful"), "{said:?}");
    let list = hub.get("calls?limit=1").expect(200);
    let id = text(&items(&list)[0], "id").to_owned();
    for home in [&hub, &tablet] {
        wait_until("it is over", PATIENCE, || home.get_call(&id)["state"] == "expired");
        let told = why(home, &id);
        assert_eq!((&told["verdict"], &told["rule"]), (&json!("ask"), &json!("family/careful")), "{told}");
        assert!(text(&told, "text").contains("Nobody said yes in time, and nothing ran."), "{told}");
    }
    wait_until("the phone knows", PATIENCE, || devices[0].get_call(&id)["state"] == "expired");
    let refused = devices[0].post(&format!("approvals/{id}"), &json!({ "answer": "once" })).problem(410);
    assert_eq!(refused["code"], "ask_over", "{refused}");
    assert!(hub.witness().is_empty());
}

#[test]
fn a_yes_after_the_asker_has_cancelled_runs_nothing() {
    let (hub, tablet, mut devices) = family(&[("anna", "phone")], "10m");
    let id = tablet.call("hub", "again", 60);
    wait_until("it is listed", PATIENCE, || waits(&devices[0], &id));
    // The phone has not heard of it when she says yes.
    let (mut hub, mut tablet) = (hub, tablet);
    devices[0].stop();
    done(&tablet, &["cancel", &id]);
    assert_eq!(tablet.wait_ended(&id, PATIENCE)["state"], "cancelled");
    hub.stop();
    tablet.stop();
    devices[0].start();
    assert_eq!(answers(&devices[0], &id, "yes"), 0, "as far as she knows it waits");
    hub.start();
    tablet.start();
    wait_converged(&[&hub, &tablet, &devices[0]], PATIENCE);
    wait_until("she learns of it", PATIENCE, || devices[0].get_call(&id)["state"] == "cancelled");
    assert_eq!(answers(&devices[0], &id, "yes"), 7, "it is too late now");
    assert_eq!((hub.get_call(&id)["state"].clone(), hub.witness().len()), (json!("cancelled"), 0));
}

#[test]
fn of_a_yes_and_a_no_in_two_halves_the_no_counts_unless_it_has_started() {
    let (hub, tablet, devices) = family(&[("anna", "phone"), ("ben", "watch")], "10m");
    let (mut hub, mut tablet) = (hub, tablet);
    let mut devices = devices.into_iter();
    let (mut phone, mut watch) = (devices.next().expect("a phone"), devices.next().expect("a watch"));
    let id = tablet.call("hub", "again", 600);
    for home in [&phone, &watch] {
        wait_until("it is listed", PATIENCE, || waits(home, &id));
    }
    // Each answers while nobody else is there.
    hub.stop();
    tablet.stop();
    watch.stop();
    assert_eq!(answers(&phone, &id, "yes"), 0);
    phone.stop();
    watch.start();
    assert_eq!(answers(&watch, &id, "no"), 0);
    phone.start();
    tablet.start();
    // Whoever leads may send the call to the hub as soon as that is back: the no must have come to each by then.
    for home in [&phone, &tablet] {
        wait_until("the no has come", PATIENCE, || text(&why(home, &id), "text").contains("ben said no"));
    }
    hub.start();
    let ended = tablet.wait_ended(&id, PATIENCE);
    assert_eq!(ended["state"], "denied", "{ended}");
    for home in [&hub, &tablet, &phone, &watch] {
        wait_until("all agree", PATIENCE, || home.get_call(&id)["state"] == "denied");
        let told = why(home, &id);
        assert_eq!((&told["verdict"], &told["rule"]), (&json!("deny"), &json!("family/careful")), "{told}");
        wait_until("it is told who said no", PATIENCE, || text(&why(home, &id), "text").contains("ben said no"));
    }
    assert!(hub.witness().is_empty());
    assert_eq!(answers(&phone, &id, "yes"), 8, "it is decided");
    // One that has run by a yes is not undone by a no.
    let ran = tablet.call("hub", "again", 600);
    for home in [&phone, &watch] {
        wait_until("it is listed", PATIENCE, || waits(home, &ran));
    }
    watch.stop();
    assert_eq!(answers(&phone, &ran, "yes"), 0);
    assert_eq!(tablet.wait_ended(&ran, PATIENCE)["state"], "done");
    watch.start();
    wait_until("the watch knows", PATIENCE, || watch.get_call(&ran)["state"] == "done");
    assert_eq!(answers(&watch, &ran, "no"), 8);
    assert_eq!((hub.runs_of(&ran), tablet.get_call(&ran)["state"].clone()), (vec![1], json!("done")));
}

#[test]
fn an_hour_is_shown_and_taken_back() {
    let (hub, tablet, devices) = family(&[("anna", "phone")], "10m");
    let none = devices[0].cli(&["approvals", "hours"]);
    assert!(none.stdout.contains("No yes for an hour counts now"), "{}", none.stdout);
    let first = tablet.call("hub", "again", 60);
    wait_until("it asks at the phone", PATIENCE, || waits(&devices[0], &first));
    assert_eq!(answers(&devices[0], &first, "hour"), 0);
    assert_eq!(tablet.wait_ended(&first, PATIENCE)["state"], "done");
    assert_eq!(tablet.cli(&["call", "hub", "again"]).code, 0, "one like it runs unasked");
    assert_eq!(hub.witness().len(), 2);
    let hours = items(&devices[0].get("hours").expect(200)).to_vec();
    let [hour] = hours.as_slice() else { panic!("{hours:?}") };
    let told = ["by", "at", "principal", "node", "tool"].map(|name| text(hour, name).to_owned());
    assert_eq!(told, ["person:anna", "phone", "person:mia", "hub", "again"]);
    assert_eq!((&hour["revocable"], &hour["asks"]), (&json!(true), &json!(["family/careful"])));
    // Mia sees it, and does not take it back; no token does.
    let path = format!("hours/{}", text(hour, "id"));
    assert_eq!(tablet.get("hours").expect(200)["items"][0]["revocable"], false);
    assert_eq!(tablet.delete(&path).problem(403)["code"], "not_approver");
    let start = &text(hour, "id")[..8];
    let taken = devices[0].cli(&["approvals", "withdraw", start]);
    assert!(taken.code == 0 && taken.stdout.contains("ask again"), "{} {}", taken.stdout, taken.stderr);
    wait_until("all know", PATIENCE, || items(&hub.get("hours").expect(200)).is_empty());
    let second = tablet.call("hub", "again", 60);
    wait_until("it asks again", PATIENCE, || tablet.get_call(&second)["state"] == "asking");
    assert_eq!(hub.witness().len(), 2);
    for none in ["zzzzzzz", "", "AAAAAAA"] {
        assert!([2, 3].contains(&devices[0].cli(&["approvals", "withdraw", none]).code), "{none}");
    }
    // A call that an hour has let through, and that waits, is answered by whoever could have been asked.
    let again = |id: &str| tablet.get_call(id)["state"] == "asking";
    assert_eq!(answers(&devices[0], &second, "hour"), 0);
    assert_eq!(tablet.wait_ended(&second, PATIENCE)["state"], "done");
    let (mut hub, ran) = (hub, 3);
    assert_eq!(hub.witness().len(), ran);
    let all =
        || items(&tablet.get("hours").expect(200)).len() == 1 && items(&devices[0].get("hours").expect(200)).len() == 1;
    wait_until("the second hour is known", PATIENCE, all);
    hub.stop();
    let third = tablet.call("hub", "again", 600);
    let hour = text(&items(&devices[0].get("hours").expect(200))[0], "id").to_owned();
    assert_eq!(devices[0].cli(&["approvals", "withdraw", &hour]).code, 0);
    wait_until("the tablet knows", PATIENCE, || items(&tablet.get("hours").expect(200)).is_empty());
    hub.start();
    wait_until("it asks", PATIENCE, || again(&third));
    wait_until("at the phone", PATIENCE, || waits(&devices[0], &third));
    assert_eq!(hub.witness().len(), ran);
    let told = devices[0].cli(&["approvals", "answer", &third, "no"]);
    assert!(told.code == 0 && told.stdout.contains("does not run"), "{told:?}");
    assert_eq!(tablet.wait_ended(&third, PATIENCE)["state"], "denied");
    let audited = || items(&hub.get("audit").expect(200)).iter().any(|line| line["what"] == "taken_back");
    wait_until("the audit tells", PATIENCE, audited);
}

#[test]
fn a_call_that_asks_survives_the_death_of_gateway_target_and_asker() {
    let (hub, tablet, devices) = family(&[("anna", "phone")], "10m");
    let mut lamp = guest(&hub, "lamp");
    wait_converged(&[&hub, &tablet, &devices[0], &lamp], PATIENCE);
    done(&hub, &["workspace", "set", "family", "--node", "lamp"]);
    wait_until("the tablet knows", PATIENCE, || {
        tablet.cli(&["policy", "explain", "me", "lamp", "again", "--json"]).json(0)["verdict"] == "ask"
    });
    let (mut hub, mut tablet) = (hub, tablet);
    let id = tablet.call("lamp", "again", 600);
    wait_until("it is listed", PATIENCE, || waits(&devices[0], &id));
    for home in [&mut hub, &mut lamp, &mut tablet] {
        home.kill9();
        home.start();
    }
    wait_converged(&[&hub, &tablet, &devices[0], &lamp], PATIENCE);
    for home in [&hub, &tablet, &devices[0]] {
        wait_until("it still asks", PATIENCE, || waits(home, &id));
    }
    assert!(lamp.witness().is_empty());
    assert_eq!(answers(&devices[0], &id, "yes"), 0);
    // Once more before it has run, as far as anybody can tell.
    hub.kill9();
    hub.start();
    let ended = tablet.wait_ended(&id, Duration::from_mins(1));
    assert_eq!(ended["state"], "done", "{ended}");
    assert_eq!(lamp.runs_of(&id), [1]);
    // A yes to one is none to the next.
    let next = tablet.call("lamp", "again", 600);
    wait_until("it asks", PATIENCE, || waits(&devices[0], &next));
    assert!(lamp.runs_of(&next).is_empty());
}
