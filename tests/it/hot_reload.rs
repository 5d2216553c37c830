//! Tools that are replaced by writing the settings, without a command.

use std::fs;

use serde_json::Value;

use crate::harness::{Home, PATIENCE, wait_until};

/// Settings with one tool, which tells its version once its gate is open.
fn settings(hub: &Home, version: &str) -> String {
    let (runs, closed) = (hub.path("runs"), hub.path("closed"));
    let script = format!(
        "echo $SIGIL_REQUEST_ID {version} >> {}; while [ -e {} ]; do sleep 0.05; done; printf {version}",
        runs.display(),
        closed.display()
    );
    let script = Value::from(script);
    format!("[discovery]\nlan = false\n[tools.tool]\ncommand = \"sh\"\nargs = [\"-c\", {script}]\n")
}

fn says(hub: &Home, version: &str) -> bool {
    let said = hub.cli(&["call", "hub", "tool"]);
    said.code == 0 && said.stdout.trim_end() == version
}

#[test]
fn a_file_that_is_written_replaces_its_tools_while_they_run_and_a_bad_one_replaces_nothing() {
    let hub = Home::new("hub");
    let first = settings(&hub, "one");
    let hub = hub.with_only_config(&first).started();
    let closed = hub.path("closed");
    fs::write(&closed, "").expect("it is written");
    let call = hub.call("hub", "tool", 300);
    wait_until("it runs", PATIENCE, || hub.path("runs").exists());

    let second = settings(&hub, "two");
    let hub = hub.with_only_config(&format!("{second}[tools.other]\ncommand = \"true\"\n"));
    wait_until("the others are told", PATIENCE, || hub.tool("node:hub:other").is_some());
    let next = hub.call("hub", "tool", 300);
    wait_until("both run", PATIENCE, || {
        fs::read_to_string(hub.path("runs")).is_ok_and(|runs| runs.lines().count() == 2)
    });
    fs::remove_file(&closed).expect("it was there");
    for (call, version) in [(&call, "one"), (&next, "two")] {
        assert_eq!(hub.wait_ended(call, PATIENCE)["state"], "done");
        let said = hub.cli(&["result", call]);
        assert_eq!(said.stdout.trim_end(), version, "{said:?}");
    }
    let runs = fs::read_to_string(hub.path("runs")).expect("they ran");
    assert_eq!(runs, format!("{call} one\n{next} two\n"));

    // Told with its place, and the tool stays in its version.
    let hub = hub.with_only_config(&format!("{second}timeout = \"soon\"\n"));
    wait_until("it is told", PATIENCE, || {
        hub.status()["warnings"].to_string().contains("sigil.toml:6:11: tools.tool.timeout = `soon` is not allowed")
    });
    assert!(says(&hub, "two"));
    let hub = hub.with_only_config(&second.replace("[\"-c\"", "[\"-c\" 3"));
    wait_until("it is told", PATIENCE, || hub.status()["warnings"].to_string().contains("line 5, column"));
    assert!(!hub.status()["warnings"].to_string().contains("soon"), "what was wrong before is not told any more");
    assert!(says(&hub, "two"));

    // Whatever else is new in it is for a person to take, and the tools with it.
    let third = settings(&hub, "three");
    let hub = hub.with_only_config(&format!("calls.ttl = \"2h\"\n{third}"));
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert!(says(&hub, "two"));
    assert!(hub.status()["warnings"].to_string().contains("sigil reload"));
    assert_eq!(hub.cli(&["reload"]).code, 0);
    assert!(says(&hub, "three"));

    // Two that are one name: the second is told.
    let hub = hub.with_only_config(&format!("calls.ttl = \"2h\"\n{third}[tools.TOOL]\ncommand = \"true\"\n"));
    wait_until("it is told", PATIENCE, || {
        let warnings = hub.status()["warnings"].to_string();
        warnings.contains("the tool `tool` of tools.tool is not offered: tools.TOOL has one of this name")
    });
}
