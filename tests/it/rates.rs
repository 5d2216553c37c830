//! How often an asker may use a tool, and how many runs of one tool there are at once.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, done, items, wait_until};

#[test]
fn p12_an_agent_in_a_loop_is_told_when_to_come_back_and_its_person_is_not_held_up() {
    let hub = Home::new("hub").with_config("[calls]\nrate = 1\n").started();
    let ask = |agent: Option<&str>| {
        let mut body = json!({ "node": "hub", "tool": "device.info", "ttl_s": 60 });
        if let Some(agent) = agent {
            body["agent"] = json!(agent);
        }
        hub.post("calls", &body)
    };
    let answers: Vec<_> = (0..12).map(|n| ask(Some(["claude", "other"][n % 2]))).collect();
    let taken = answers.iter().filter(|answer| answer.status == 202).count();
    // Four at once, and one more for each second that this takes.
    assert!((4..=8).contains(&taken), "{taken}");
    let refused = answers.iter().rev().find(|answer| answer.status == 429).expect("too many");
    let problem = refused.problem(429);
    assert_eq!((&problem["code"], &problem["per_s"]), (&json!("rate_limited"), &json!(1)), "{problem}");
    let after: u64 = refused.header("retry-after").expect("when to try again").parse().expect("seconds");
    assert!((1..=5).contains(&after), "{after}");
    for _ in 0..12 {
        assert_eq!(ask(None).status, 202, "its person");
    }
    let said = hub.cli(&["call", "hub", "device.info", "--as", "third"]);
    assert!(said.code == 1 && said.stderr.contains("calls.rate"), "{said:?}");
    wait_until("the audit tells it", PATIENCE, || {
        let rows = hub.get("audit").expect(200);
        items(&rows).iter().any(|row| row["rule"] == "rate" && row["tool"] == "device.info")
    });
    // Who asks why is told how often she may.
    let asked =
        |who: &str| hub.cli(&["policy", "explain", who, "hub", "device.info", "--json"]).json(0)["rate"].clone();
    assert_eq!(asked("agent:owner/claude"), json!({ "per_s": 1, "burst": 4 }));
    assert_eq!(asked("owner"), Value::Null, "her calls are not counted");
    let told = hub.cli(&["policy", "explain", "agent:owner/claude", "hub", "device.info"]);
    assert!(told.stdout.contains("1 calls a second at this device, 4 at once (`calls.rate`)"), "{told:?}");
    std::thread::sleep(Duration::from_secs(after));
    assert_eq!(ask(Some("claude")).status, 202, "it comes back when it was told to");
}

#[test]
fn p12_a_tool_has_as_many_runs_at_once_as_its_settings_say_and_a_reload_changes_that() {
    let mut hub = Home::new("hub");
    let file = hub.path("runs");
    let script = format!("echo begins >> {0}; sleep 0.2; echo ends >> {0}", file.display());
    let settings = |at_once: &str| {
        let script = Value::from(script.as_str());
        format!("[discovery]\nlan = false\n[tools.one]\ncommand = \"sh\"\nargs = [\"-c\", {script}]\n{at_once}\n")
    };
    hub = hub.with_only_config(&settings("at_once = 1")).started();
    let shown = |hub: &Home| {
        let tools = hub.get("tools").expect(200);
        items(&tools).iter().find(|tool| tool["name"] == "one").map(|tool| tool["at_once"].clone())
    };
    assert_eq!(shown(&hub), Some(json!(1)));
    let calls: Vec<String> = (0..24).map(|_| hub.call("hub", "one", 60)).collect();
    let other = hub.call("hub", "device.info", 60);
    assert_eq!(hub.wait_ended(&other, PATIENCE)["state"], "done");
    let still = hub.get_call(&calls[23]);
    assert!(still["state"] != "done", "another tool does not wait behind it: {still}");
    let why = still["why"].as_str().unwrap_or_default();
    assert!(why.contains("at most 1 runs at once") && why.contains("its turn"), "{still}");
    for call in &calls[..4] {
        assert_eq!(hub.wait_ended(call, PATIENCE)["state"], "done");
    }
    let runs = fs::read_to_string(&file).expect("it ran");
    assert!(runs.starts_with(&"begins\nends\n".repeat(4)), "{runs}");
    let hub = hub.with_only_config(&settings(""));
    assert_eq!(hub.cli(&["reload"]).code, 0);
    assert_eq!(shown(&hub), Some(Value::Null));
    for call in &calls {
        assert_eq!(hub.wait_ended(call, PATIENCE)["state"], "done");
    }
    let runs = fs::read_to_string(&file).expect("it ran");
    assert_eq!((runs.matches("begins").count(), runs.matches("ends").count()), (24, 24));
    assert!(runs.contains("begins\nbegins\n"), "several at once by now: {runs}");
}

/// Questions about rights are work of the thread that everything waits on: a token of an agent gets so many and no more, and who
/// sits at the device all.
#[test]
fn p12_a_token_that_asks_about_rights_without_end_is_told_when_to_come_back() {
    let hub = Home::new("hub").started();
    done(&hub, &["person", "add", "anna", "--role", "admin"]);
    let token = done(&hub, &["token", "--for", "anna"]).trim().to_owned();
    // A table is ten questions: slow enough for a busy machine to be asked too often.
    let ask = || hub.ask_by_token(&token, "GET", "policy/matrix", &Value::Null);
    let answers: Vec<_> = (0..60).map(|_| ask()).collect();
    let refused = answers.iter().rev().find(|answer| answer.status == 429).expect("too many");
    let problem = refused.problem(429);
    assert_eq!((&problem["code"], &problem["per_s"]), (&json!("rate_limited"), &json!(5)), "{problem}");
    let after: u64 = refused.header("retry-after").expect("when to try again").parse().expect("seconds");
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 10);
    for _ in 0..60 {
        assert_eq!(hub.get("policy/matrix").status, 200, "at the device itself");
    }
    std::thread::sleep(Duration::from_secs(after));
    assert_eq!(ask().status, 200);
}
