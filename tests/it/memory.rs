//! Memory through the doors of a real agent: kept, asked, compacted, taken in and out, forgotten, and killed in between.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::harness::{Home, Mesh, PATIENCE, items, text, wait_converged, wait_until};

const BASE: &str = "workspaces/home/memory";

fn small() -> Home {
    Home::new("hub").with_config("[memory]\nbatch = 5\nwindow = 3\n")
}

fn message(n: usize) -> Value {
    let speaker = if n.is_multiple_of(2) { "Ann" } else { "Ben" };
    let text = format!("the code of box {n} is {}", 4_000 + n);
    json!({
        "id": format!("m{n}"), "conversation": "boxes", "speaker": speaker, "text": text,
        "timestamp": format!("2026-11-01T10:{n:02}:00Z"),
    })
}

#[track_caller]
fn append(home: &Home, numbers: std::ops::Range<usize>) -> Value {
    let messages: Vec<Value> = numbers.map(message).collect();
    home.post(&format!("{BASE}/messages:batch"), &json!({ "messages": messages })).expect(200)
}

#[track_caller]
fn compact(home: &Home, body: &Value) -> Value {
    home.post(&format!("{BASE}:compact"), body).expect(200)
}

#[track_caller]
fn ask(home: &Home, question: &str) -> Vec<Value> {
    let answer = home.post(&format!("{BASE}:query"), &json!({ "queries": [question] })).expect(200);
    assert_eq!(answer["answers"][0]["degraded"], json!(["vectors"]), "there is no model, and that is said");
    answer["answers"][0]["retrieved"].as_array().expect("hits").clone()
}

/// The caller's ids of what is found, best first.
#[track_caller]
fn found(home: &Home, question: &str) -> Vec<String> {
    ask(home, question).iter().map(|hit| text(hit, "external_id").to_owned()).collect()
}

#[track_caller]
fn all(home: &Home, query: &str) -> Vec<Value> {
    items(&home.get(&format!("{BASE}/{query}")).expect(200)).to_vec()
}

/// Every message is held once, in full and found; none is in two summaries, and no fact is there twice.
#[track_caller]
fn assert_whole(home: &Home, count: usize) {
    // A batch may be taken unasked meanwhile: items and summaries are of one moment if the items are the same after it.
    let (held, summaries, facts) = loop {
        let held = all(home, "items?limit=200");
        let (summaries, facts) = (all(home, "summaries?limit=200"), all(home, "facts?limit=200"));
        if all(home, "items?limit=200") == held {
            break (held, summaries, facts);
        }
    };
    let ids: BTreeSet<&str> = held.iter().map(|item| text(item, "external_id")).collect();
    assert_eq!((held.len(), ids.len()), (count, count), "{held:?}");
    for item in &held {
        let n: usize = text(item, "external_id")[1..].parse().expect("a number");
        assert_eq!(item["text"], message(n)["text"]);
        assert_eq!(found(home, &format!("code of box {n}"))[0], format!("m{n}"));
    }
    let covered: u64 = summaries.iter().map(|it| it["messages"].as_u64().expect("a number")).sum();
    assert_eq!(covered as usize, held.iter().filter(|item| item["tier"] == 2).count());
    let lines: Vec<&str> =
        summaries.iter().flat_map(|it| it["lines"].as_array().expect("lines")).map(|line| text(line, "id")).collect();
    assert_eq!(lines.len(), lines.iter().collect::<BTreeSet<_>>().len(), "a message has one line");
    let facts: Vec<String> = facts.iter().map(ToString::to_string).collect();
    assert_eq!(facts.len(), facts.iter().collect::<BTreeSet<_>>().len(), "a fact is there once");
}

#[test]
fn seed_m1_m2_m4_compaction_takes_the_oldest_batch_and_says_so() {
    let home = small().started();
    assert_eq!(home.get(&format!("{BASE}/stats")).expect(200)["messages"], 0);
    assert!(ask(&home, "anything").is_empty() && all(&home, "summaries").is_empty() && all(&home, "facts").is_empty());
    append(&home, 0..7);
    assert_eq!(all(&home, "items?tier=1").len(), 7);
    let report = compact(&home, &json!({}));
    for (name, number) in [("summaries_created", 1), ("messages_processed", 5), ("messages_trimmed", 5)] {
        assert_eq!(report[name], number, "{report}");
    }
    assert_eq!(report["facts_extracted"].as_u64(), Some(all(&home, "facts").len() as u64), "{report}");
    let latest = &all(&home, "summaries")[0];
    assert!(!latest["lines"].as_array().expect("lines").is_empty(), "{latest}");
    assert!(all(&home, "items?tier=1").len() <= 5);
    // What is below a batch too, since somebody asks; then there is nothing left.
    assert_eq!(compact(&home, &json!({}))["messages_trimmed"], 2);
    assert_eq!(compact(&home, &json!({}))["summaries_created"], 0);
    assert_whole(&home, 7);
}

#[test]
fn seed_m3_m6_a_fact_of_alice_and_a_search_for_each_tier() {
    let home = small().started();
    let said = json!({ "text": "Alice is a software engineer at Acme Corp", "timestamp": "2026-11-02T09:00:00+01:00" });
    home.post(&format!("{BASE}/messages:batch"), &json!({ "messages": [said] })).expect(200);
    assert!(compact(&home, &json!({}))["facts_extracted"].as_u64() >= Some(1));
    assert!(all(&home, "facts?topic=alice").iter().any(|fact| text(fact, "object").contains("software engineer")));
    assert!(all(&home, "facts?topic=nobody").is_empty());
    assert!(all(&home, "facts?topic=alice&as_of=2026-11-01T00:00:00Z").is_empty());
    assert_eq!(all(&home, "summaries?from=2026-11-02T00:00:00Z&to=2026-11-03T00:00:00Z").len(), 1);
    assert!(all(&home, "summaries?to=2026-11-01T00:00:00Z").is_empty());
    for mode in ["auto", "text", "semantic", "facts", "summary"] {
        let body = json!({ "queries": ["Where does Alice work?"], "mode": mode, "k": 3, "max_tokens": 200 });
        let answer = home.post(&format!("{BASE}:query"), &body).expect(200);
        let hit = &answer["answers"][0]["retrieved"][0];
        assert!(text(hit, "text").contains("Acme"), "{mode}: {answer}");
        let parts: f64 = hit["parts"].as_object().expect("parts").values().filter_map(Value::as_f64).sum();
        assert!((parts - hit["score"].as_f64().expect("a score")).abs() < 1e-9, "{hit}");
    }
}

#[test]
fn seed_m1_by_itself_once_a_batch_and_a_window_wait() {
    let home = small().started();
    append(&home, 0..7);
    append(&home, 7..8);
    wait_until("a batch is taken unasked", PATIENCE, || all(&home, "items?tier=1").len() == 3);
    assert_whole(&home, 8);
}

/// The agent dies when it passes `point`, and is started anew.
#[cfg(feature = "fault-points")]
#[track_caller]
fn dies_at(home: &mut Home, point: &str, ask: impl FnOnce(&Home)) {
    home.stop();
    home.set_env("SIGIL_FAULT", &format!("{point}:die"));
    home.start();
    ask(home);
    let status = home.reap();
    assert!(!status.success(), "the agent was to die at {point}, but ended with {status}");
    home.set_env("SIGIL_FAULT", "");
    home.start();
}

#[cfg(feature = "fault-points")]
#[test]
fn killed_at_every_point_nothing_is_lost_and_nothing_is_there_twice() {
    let mut home = small().started();
    let json_type = [("Content-Type", "application/json")];
    let send = |home: &Home, path: &str, body: &Value| {
        // It dies with the question in hand.
        let _ = home.try_ask("POST", &format!("/api/v1/{BASE}{path}"), &json_type, body.to_string().as_bytes());
    };
    let mut count = 0;
    let messages = |numbers: std::ops::Range<usize>| json!({ "messages": numbers.map(message).collect::<Vec<_>>() });
    dies_at(&mut home, "memory_appended", |home| send(home, "/messages:batch", &messages(0..7)));
    // Whoever got no answer asks again: nothing is there twice.
    assert_eq!(append(&home, 0..7)["unchanged"], 7);
    count += 7;
    assert_whole(&home, count);
    for point in ["memory_captured", "memory_drafted", "memory_compacted"] {
        append(&home, count..count + 6);
        count += 6;
        dies_at(&mut home, point, |home| send(home, ":compact", &json!({})));
        assert_whole(&home, count);
        compact(&home, &json!({ "all": true }));
        assert_whole(&home, count);
    }
    let gone = text(&all(&home, "items?limit=1")[0], "id").to_owned();
    dies_at(&mut home, "memory_forgotten", |home| send(home, ":forget", &json!({ "ids": [gone] })));
    home.get(&format!("{BASE}/items/{gone}")).problem(404);
    assert_eq!(append(&home, 0..1)["rejected"], 1, "it does not come back");
    assert_eq!(all(&home, "items?limit=200").len(), count - 1);
}

#[test]
fn kill_9_while_it_appends_and_compacts_loses_nothing_that_was_answered() {
    let mut home = small().started();
    let mut count = 0;
    for round in 0..crate::harness::setting("SIGIL_TEST_MEMORY_KILLS", 4) {
        append(&home, count..count + 3);
        count += 3;
        let path = home.path("run/sigil.sock");
        let asked = std::thread::spawn(move || {
            let headers = [("Content-Type", "application/json")];
            let path_and_body = (format!("/api/v1/{BASE}:compact"), b"{\"all\":true}");
            let request = testbed::http::Request {
                method: "POST",
                path: &path_and_body.0,
                headers: &headers,
                body: path_and_body.1,
            };
            testbed::http::ask_unix(&path, &request, std::time::Duration::from_secs(5)).is_ok()
        });
        std::thread::sleep(std::time::Duration::from_millis(round * 3 % 17));
        home.kill9();
        let _ = asked.join();
        home.start();
        assert_whole(&home, count);
    }
}

#[test]
fn a_chat_is_taken_in_asked_corrected_forgotten_and_taken_out() {
    let home = small().started();
    let file = home.path("chat.jsonl");
    let lines: Vec<String> = (0..12).map(|n| message(n).to_string()).collect();
    fs::write(&file, lines.join("\n") + "\n{\"text\":\"no id, and more: the boiler is at 1.6 bar\",\"likes\":3}\n")
        .unwrap();
    let path = file.to_str().expect("a path");
    assert!(home.cli(&["memory", "show"]).stdout.contains("Nothing is kept yet"));
    let first = home.cli(&["memory", "import", path, "--json"]).json(0);
    assert_eq!((&first["accepted"], &first["unchanged"]), (&json!(13), &json!(0)));
    let again = home.cli(&["memory", "import", path, "--json"]).json(0);
    assert_eq!((&again["accepted"], &again["unchanged"]), (&json!(0), &json!(13)), "also of those without an id");
    let answer = home.cli(&["memory", "ask", "What is the code of box 7?"]);
    assert!(answer.stdout.contains("4007") && answer.stdout.contains("words +"), "{answer:?}");
    assert!(home.cli(&["memory", "compact", "--all"]).stdout.contains("none of them is lost"));
    let after = home.cli(&["memory", "ask", "What is the code of box 7?"]);
    assert!(after.stdout.contains("4007"), "{after:?}");
    let id = text(&all(&home, "items?external_id=m7")[0], "id").to_owned();
    assert!(home.cli(&["memory", "correct", &id, "the code of box 7 is 9999"]).stdout.contains("was"));
    assert_eq!(ask(&home, "code of box 7")[0]["was"], "the code of box 7 is 4007");

    let exported = home.cli(&["memory", "export"]);
    assert_eq!(exported.stdout.lines().count(), 13);
    let other = small().started();
    let taken = home.path("out.jsonl");
    fs::write(&taken, &exported.stdout).unwrap();
    let taken = other.cli(&["memory", "import", taken.to_str().expect("a path"), "--json"]).json(0);
    assert_eq!(taken["accepted"], 13);
    assert_eq!(found(&other, "code of box 7")[0], "m7");

    let preview = home.cli(&["memory", "forget", &id, "--preview", "--json"]).json(0);
    assert_eq!((&preview["messages"], &preview["preview"]), (&json!(1), &json!(true)));
    assert_eq!(home.cli(&["memory", "forget", &id]).code, 2, "nobody can be asked here");
    assert_eq!(home.cli(&["memory", "forget", &id, "--yes"]).code, 0);
    assert_eq!(home.cli(&["memory", "forget", &id, "--yes"]).code, 3);
    assert_eq!(home.cli(&["memory", "show", &id]).code, 3);
    let back = home.cli(&["memory", "import", path, "--json"]);
    assert_eq!(back.json(8)["rejected"], 1, "an old export does not bring it back");
    assert!(!found(&home, "code of box 7").contains(&"m7".to_owned()));
    assert!(!home.cli(&["memory", "export"]).stdout.contains("9999"));
}

#[test]
fn memory_is_for_whoever_looks_after_the_mesh_and_held_by_owners() {
    let hub = small().started();
    append(&hub, 0..2);
    // A token that is narrowed gets the same answer for a workspace that is there and one that is not.
    hub.get("workspaces/family/memory/stats").problem(404);
    let token = |body: &Value| text(&hub.post("tokens", body).expect(201), "token").to_owned();
    let narrow = token(&json!({ "tools": ["files.*"] }));
    let reads = token(&json!({ "read_only": true }));
    let whole = token(&json!({}));
    let stats = format!("{BASE}/stats");
    for token in [&reads, &whole] {
        assert_eq!(hub.ask_by_token(token, "GET", &stats, &Value::Null).expect(200)["messages"], 2);
    }
    let body = json!({ "messages": [message(3)] });
    let path = format!("{BASE}/messages:batch");
    for name in ["home", "nowhere"] {
        let (stats, path) = (stats.replace("home", name), path.replace("home", name));
        assert_eq!(hub.ask_by_token(&narrow, "GET", &stats, &Value::Null).problem(403)["code"], "denied");
        assert_eq!(hub.ask_by_token(&narrow, "POST", &path, &body).problem(403)["code"], "denied");
    }
    assert_eq!(hub.ask_by_token(&reads, "POST", &path, &body).problem(403)["code"], "denied");
    hub.ask_by_token(&whole, "POST", &path, &body).expect(200);
    let over = json!({ "messages": [{ "text": "ü".repeat(40_000) }] });
    assert_eq!(hub.post(&path, &over).problem(413)["code"], "too_large");
    assert_eq!(hub.post(&path, &json!({ "messages": [] })).problem(422)["code"], "invalid");
    hub.post(&path, &json!({ "messages": [{ "text": "  " }] })).problem(422);
    hub.post(&path, &json!({ "messages": [{ "text": "x", "timestamp": "2026-13-01T00:00:00Z" }] })).problem(422);
    assert_eq!(hub.get(&format!("{BASE}/items/{}", "a".repeat(26))).problem(404)["code"], "unknown_item");

    let code = text(&hub.post("invites", &json!({ "tier": "shared" })).json(), "code").to_owned();
    let tablet = Home::new("tablet").started();
    assert!((200..300).contains(&tablet.join(&code).status));
    wait_converged(&[&hub, &tablet], PATIENCE);
    let refused = tablet.get(&stats).problem(503);
    assert_eq!(refused["code"], "no_holder", "{refused}");
    assert!(!tablet.path("memory").exists(), "and holds nothing");
}

/// Two owners' devices, compacting small batches.
fn two_holders() -> Mesh {
    let small = |name: &str| Home::new(name).with_config("[memory]\nbatch = 5\nwindow = 100\n");
    Mesh::of(vec![small("attic"), small("bureau")])
}

#[track_caller]
fn wait_found(home: &Home, count: usize) {
    wait_until("all messages have come", PATIENCE, || all(home, "items?limit=200").len() == count);
}

/// All that a home shows of its memory.
fn shown(home: &Home) -> Vec<Value> {
    ["items?limit=200", "summaries?limit=200", "facts?limit=200"].iter().flat_map(|query| all(home, query)).collect()
}

#[test]
fn what_one_holder_appends_the_other_finds_and_halves_that_both_compact_agree() {
    let mut mesh = two_holders();
    append(&mesh.homes[0], 0..7);
    wait_found(&mesh.homes[1], 7);
    append(&mesh.homes[1], 7..9);
    wait_found(&mesh.homes[0], 9);
    assert_eq!(found(&mesh.homes[1], "code of box 3")[0], "m3");
    // Each half compacts the same messages while the other is away.
    let half = |home: &Home, numbers: std::ops::Range<usize>| {
        append(home, numbers);
        assert_eq!(compact(home, &json!({}))["messages_trimmed"], 5);
    };
    mesh.homes[1].kill9();
    half(&mesh.homes[0], 9..11);
    mesh.homes[0].kill9();
    mesh.homes[1].start();
    half(&mesh.homes[1], 11..13);
    mesh.homes[0].start();
    mesh.wait_converged();
    wait_until("both show the same", PATIENCE, || {
        let one = shown(&mesh.homes[0]);
        one.len() > 13 && one == shown(&mesh.homes[1])
    });
    mesh.homes.iter().for_each(|home| assert_whole(home, 13));
    for home in &mesh.homes {
        compact(home, &json!({ "all": true }));
    }
    wait_until("both show the same", PATIENCE, || {
        let one = shown(&mesh.homes[0]);
        one == shown(&mesh.homes[1]) && one.iter().all(|it| it["tier"] != 1)
    });
    mesh.homes.iter().for_each(|home| assert_whole(home, 13));
}

#[test]
fn what_is_forgotten_while_a_holder_is_away_goes_there_too_and_a_shared_device_gets_nothing() {
    let mut mesh = two_holders();
    let code = text(&mesh.homes[0].post("invites", &json!({ "tier": "shared" })).json(), "code").to_owned();
    let tablet = Home::new("tablet").started();
    assert!((200..300).contains(&tablet.join(&code).status));
    wait_converged(&[&mesh.homes[0], &mesh.homes[1], &tablet], PATIENCE);
    append(&mesh.homes[0], 0..3);
    wait_found(&mesh.homes[1], 3);
    mesh.homes[1].kill9();
    let gone = text(&all(&mesh.homes[0], "items?external_id=m1")[0], "id").to_owned();
    mesh.homes[0].delete(&format!("{BASE}/items/{gone}")).expect(204);
    mesh.homes[1].start();
    wait_found(&mesh.homes[1], 2);
    assert_eq!(append(&mesh.homes[1], 0..3)["rejected"], 1);
    assert!(!found(&mesh.homes[1], "code of box 1").contains(&"m1".to_owned()));
    assert!(!tablet.path("memory").exists(), "a device that may not hold it has nothing of it");
    tablet.get(&format!("{BASE}/stats")).problem(503);
}

#[test]
fn a_backup_has_memory_and_nothing_that_was_forgotten_and_forgetting_now_leaves_no_byte() {
    let mut home = small().started();
    append(&home, 0..9);
    compact(&home, &json!({}));
    let canary =
        json!({ "id": "c", "text": "the canary Zwitscherbein sings at dawn", "timestamp": "2026-11-01T09:00:00Z" });
    let kept = home.post(&format!("{BASE}/messages:batch"), &json!({ "messages": [canary] })).expect(200);
    let id = text(&kept["items"][0], "id").to_owned();
    compact(&home, &json!({ "all": true }));
    let forgotten = home.cli(&["memory", "forget", &id, "--yes", "--now"]);
    assert_eq!(forgotten.code, 0, "{forgotten:?}");
    let grep = |home: &Home| {
        let found = std::process::Command::new("grep").args(["-ra", "Zwitscherbein"]).arg(home.path("")).output();
        String::from_utf8_lossy(&found.expect("grep runs").stdout).into_owned()
    };
    assert_eq!(grep(&home), "");
    assert_whole(&home, 9);
    let place = tempfile::tempdir().expect("a temporary directory");
    let file = place.path().join("backup");
    let name = file.to_str().expect("UTF-8");
    let running = home.cli(&["backup", name]);
    assert_eq!(running.code, 0, "{running:?}");
    home.stop();
    let stopped = home.cli(&["backup", name, "--force"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    for entry in fs::read_dir(home.path("")).expect("it is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("it is ours");
    }
    let restored = home.cli(&["restore", name, "--identity-gone"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    home.start();
    assert_whole(&home, 9);
    let again = home.post(&format!("{BASE}/messages:batch"), &json!({ "messages": [canary] })).expect(200);
    assert_eq!(again["items"][0]["outcome"], "forgotten", "{again}");
    assert_eq!(grep(&home), "");
}
