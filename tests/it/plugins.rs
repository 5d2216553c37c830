//! Plugins, secrets and the servers of other clients, with what a person does about them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Home, PATIENCE, done, files_below, items, text, wait_converged, wait_until};

/// A folder with a plugin of one tool, whose program is this script.
fn folder(home: &Home, script: &str, execution: &str) -> PathBuf {
    let folder = home.path("from");
    fs::create_dir_all(folder.join("bin")).expect("it is made");
    let manifest = format!(
        "name: lamp\nversion: 1.2.0\ndescription: Turns lamps on\nexecution:\n  tier: process\n  command: [./bin/lamp]\n{execution}tools:\n  - name: on\n    effect: idempotent\n    args: [very]\n"
    );
    fs::write(folder.join("plugin.yaml"), manifest).expect("it is written");
    fs::write(folder.join("bin/lamp"), format!("#!/bin/sh\n{script}\n")).expect("it is written");
    fs::set_permissions(folder.join("bin/lamp"), fs::Permissions::from_mode(0o755)).expect("it is there");
    folder
}

fn provider(home: &Home, name: &str) -> Value {
    home.get(&format!("providers/{name}")).expect(200)
}

fn wait_state(home: &Home, state: &str) {
    wait_until(&format!("it is {state}"), PATIENCE, || {
        let answer = home.get("providers/lamp");
        answer.status == 200 && answer.json()["state"] == state
    });
}

#[test]
fn a_plugin_is_installed_allowed_called_from_another_device_changed_and_removed() {
    let hub = Home::new("hub").started();
    let desk = Home::new("desk").started();
    assert!((200..300).contains(&desk.join(&hub.invite()).status));
    wait_converged(&[&hub, &desk], PATIENCE);
    let dir = folder(&hub, "printf \"on $1 $SIGIL_TOOL\"", "");
    let dir = dir.to_str().expect("text");

    // What is wrong is told with its place, and what it asks for before anything is installed.
    let told = done(&hub, &["plugin", "check", dir]);
    assert!(
        told.contains("lamp.on")
            && told.contains("asks for")
            && told.contains("process")
            && told.contains("confined or better"),
        "{told}"
    );
    let manifest = hub.path("from/plugin.yaml");
    let good = fs::read_to_string(&manifest).expect("it is there");
    fs::write(&manifest, good.replace("tier: process", "tier: process\n  network: internal")).expect("it is written");
    let refused = hub.cli(&["plugin", "install", dir]);
    let said = "plugin.yaml:6:12: execution.network = \"internal\" is not allowed: it must be none, restricted or host";
    assert!(refused.code == 2 && refused.stderr.contains(said), "{refused:?}");
    fs::write(&manifest, &good).expect("it is written");

    // It waits until its owner has allowed what it asks for.
    let told = hub.cli(&["plugin", "install", dir]);
    assert!(told.code == 0 && told.stderr.contains("sigil plugin allow lamp --process"), "{told:?}");
    wait_state(&hub, "review");
    let shown = provider(&hub, "lamp");
    assert_eq!((&shown["kind"], &shown["version"], &shown["tools"]), (&json!("process"), &json!("1.2.0"), &json!([])));
    let absent = &shown["absent"][0];
    assert!(absent["tool"] == "lamp.on" && text(absent, "fix").contains("plugin allow lamp --process"), "{shown}");
    assert!(desk.tool("node:hub:lamp.on").is_none());
    assert_eq!(hub.cli(&["plugin", "allow", "lamp"]).code, 2, "it asks for more than nothing");
    done(&hub, &["plugin", "allow", "lamp", "--process"]);
    wait_until("the other device knows it", PATIENCE, || desk.tool("node:hub:lamp.on").is_some());
    let said = desk.cli(&["call", "hub", "lamp.on"]);
    assert_eq!((said.code, said.stdout.trim_end()), (0, "on very lamp.on"), "{said:?}");
    assert_eq!(done(&hub, &["plugin", "run", "lamp", "on"]).trim_end(), "on very lamp.on");
    let listed = hub.cli(&["plugin", "list", "--json"]).json(0);
    let names: Vec<&str> = items(&listed).iter().map(|one| text(one, "name")).collect();
    assert_eq!(names, ["sigil", "tools.again", "tools.append", "tools.slow", "lamp"]);
    assert_eq!(items(&listed)[0]["absent"][0]["tool"], "files.list");

    // A changed file of it, and another version of it, are not run before somebody has looked.
    let installed = hub.cli(&["plugin", "inspect", "lamp", "--json"]).json(0);
    let program = PathBuf::from(text(&installed, "folder")).join("bin/lamp");
    let before = fs::read_to_string(&program).expect("it is there");
    fs::write(&program, "#!/bin/sh\nprintf evil\n").expect("it is written");
    wait_state(&hub, "review");
    wait_until("the other device knows it", PATIENCE, || desk.tool("node:hub:lamp.on").is_none());
    fs::write(&program, before).expect("it is written");
    wait_state(&hub, "ready");
    folder(&hub, "printf second", "");
    assert_eq!(hub.cli(&["plugin", "install", dir]).code, 0);
    wait_state(&hub, "review");
    done(&hub, &["plugin", "install", dir, "--allow", "process"]);
    wait_state(&hub, "ready");
    wait_until("the other device knows it", PATIENCE, || desk.tool("node:hub:lamp.on").is_some());
    assert_eq!(done(&desk, &["call", "hub", "lamp.on"]).trim_end(), "second");

    // What this version does not offer is told, and nothing of it is offered.
    let container = "name: box\nexecution: { image: ghcr.io/org/box:1, network: host, protocol: grpc, grpc_port: 50051 }\ntools: [{ name: open }]\n";
    fs::write(&manifest, container).expect("it is written");
    done(&hub, &["plugin", "install", dir, "--allow", "host-network"]);
    wait_until("it is told", PATIENCE, || hub.get("providers/box").status == 200);
    let shown = provider(&hub, "box");
    assert!(
        shown["state"] == "stopped" && text(&shown, "why").contains("without the network of this device"),
        "{shown}"
    );

    done(&hub, &["plugin", "remove", "lamp"]);
    wait_until("it is gone", PATIENCE, || {
        hub.get("providers/lamp").status == 404 && desk.tool("node:hub:lamp.on").is_none()
    });
    assert_eq!(hub.cli(&["plugin", "inspect", "lamp"]).code, 3);
    // A narrowed token sees nothing of all that.
    let token = done(&hub, &["token", "--tool", "device.info"]).trim().to_owned();
    hub.ask_by_token(&token, "GET", "providers", &Value::Null).problem(403);
}

#[test]
fn a_secret_is_given_by_name_and_found_nowhere_else() {
    const SECRET: &str = "hunter2-s3cret-hunter2";
    let hub = Home::new("hub");
    let value = hub.path("value");
    fs::write(&value, format!("{SECRET}\n")).expect("it is written");
    let settings = "[discovery]\nlan = false\n[log]\nlevel = \"debug\"\n[tools.leaky]\ncommand = \"sh\"\n\
        args = [\"-c\", \"echo ::progress at $KEY >&2; echo with $KEY >&2; sleep 1; test -n \\\"$KEY\\\" && exit 3\"]\nenv = { KEY = { secret = \"key\" } }\n";
    let hub = hub.with_only_config(settings).started();
    let dir = folder(&hub, "echo \"using $KEY\" >&2; sleep 2; printf ${#KEY}", "  env: { KEY: { secret: key } }\n");
    done(&hub, &["plugin", "install", dir.to_str().expect("text"), "--allow", "process,secrets"]);
    wait_until("it is offered", PATIENCE, || hub.tool("node:hub:lamp.on").is_some());

    // Without it nothing starts, and the reason says what to do.
    let refused = hub.wait_ended(&hub.call("hub", "lamp.on", 60), PATIENCE);
    let why = text(&refused, "reason");
    assert!(refused["state"] == "failed" && why.contains("sigil secret set key"), "{refused}");
    done(&hub, &["secret", "set", "key", "--from-file", value.to_str().expect("text")]);
    fs::remove_file(&value).expect("it was there");
    let listed = hub.cli(&["secret", "list", "--json"]).json(0);
    assert!(items(&listed)[0]["name"] == "key" && !listed.to_string().contains(SECRET), "{listed}");

    // It is read when a program is started: no restart, no reload.
    let (good, bad) = (hub.call("hub", "lamp.on", 60), hub.call("hub", "leaky", 60));
    let mut commands = Vec::new();
    wait_until("both run", PATIENCE, || {
        let running = |id: &str| hub.get_call(id)["state"] == "running";
        commands = command_lines();
        running(&good) && running(&bad)
    });
    commands.extend(command_lines());
    let (good, bad) = (hub.wait_ended(&good, PATIENCE), hub.wait_ended(&bad, PATIENCE));
    assert_eq!((&good["state"], &bad["state"]), (&json!("done"), &json!("failed")), "{good} {bad}");
    let said = hub.cli(&["result", text(&good, "id")]);
    assert_eq!(said.stdout.trim_end(), SECRET.len().to_string(), "{said:?}");
    assert!(bad.to_string().contains("[secret key]") && good.to_string().contains("[secret key]"), "{bad} {good}");

    let backup = hub.path("all.backup");
    done(&hub, &["backup", backup.to_str().expect("text")]);
    let mut told = commands;
    for path in
        ["providers", "providers/lamp", "calls", "tools", "status", "doctor", "logs?lines=1000", "audit", "nodes"]
    {
        told.push(String::from_utf8_lossy(&hub.get(path).body).into_owned());
    }
    told.extend(
        [&["plugin", "inspect", "lamp"][..], &["plugin", "list"], &["secret", "list"]]
            .map(|words| format!("{:?}", hub.cli(words))),
    );
    told.push(hub.log());
    for words in told {
        assert!(!words.contains(SECRET), "{words}");
    }
    let kept = hub.path("secrets/key");
    for file in files_below(&hub.path("")).into_iter().filter(|file| *file != kept) {
        // What vanishes meanwhile tells nobody anything.
        let bytes = fs::read(&file).unwrap_or_default();
        assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{}", file.display());
    }
    done(&hub, &["secret", "remove", "key"]);
    let refused = hub.wait_ended(&hub.call("hub", "leaky", 60), PATIENCE);
    assert!(text(&refused, "reason").contains("no secret `key`"), "{refused}");
}

/// The command lines of all processes of this machine.
fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let line = |process: fs::DirEntry| fs::read(process.path().join("cmdline")).ok();
    processes.filter_map(line).map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
}

#[test]
fn the_servers_of_another_client_are_taken_over_with_their_tokens_as_secrets() {
    const TOKEN: &str = "ghp_0123456789abcdefghij";
    let hub = Home::new("hub").with_only_config("[discovery]\nlan = false\n");
    let file = hub.path("mcp.json");
    let servers = json!({ "mcpServers": {
        "GitHub": { "command": "npx", "args": ["-y", "server-github"], "env": { "GITHUB_TOKEN": TOKEN, "LOG": "1" } },
        "box": { "command": "docker", "args": ["run", "-i", "--rm", "mcp/time"] },
        "broken": { "args": [] },
    } });
    fs::write(&file, servers.to_string()).expect("it is written");
    let file = file.to_str().expect("text");
    let before = fs::read_to_string(hub.path("sigil.toml")).expect("it is there");
    let shown = hub.cli(&["mcp", "import", file]);
    assert!(
        shown.code == 0 && shown.stdout.contains("+ [mcp_servers.github]") && shown.stderr.contains("--write"),
        "{shown:?}"
    );
    assert!(shown.stderr.contains("broken") && !format!("{shown:?}").contains(TOKEN), "{shown:?}");
    assert_eq!(fs::read_to_string(hub.path("sigil.toml")).expect("it is there"), before, "nothing was written");
    assert!(!hub.path("secrets").exists());
    assert_eq!(hub.cli(&["mcp", "import", file, "--write"]).code, 0);
    let after = fs::read_to_string(hub.path("sigil.toml")).expect("it is there");
    assert!(after.starts_with(&before) && after.contains("image = \"mcp/time\"") && !after.contains(TOKEN), "{after}");
    assert_eq!(fs::read_to_string(hub.path("secrets/github-token")).expect("it is kept"), TOKEN);
    let again = hub.cli(&["mcp", "import", file, "--write"]);
    assert!(again.code == 0 && again.stderr.contains("already"), "{again:?}");
    assert_eq!(fs::read_to_string(hub.path("sigil.toml")).expect("it is there"), after);
    let hub = hub.started();
    let status = hub.status()["warnings"].to_string();
    assert!(!status.contains("not allowed") && !status.contains("unknown key"), "{status}");
}

#[test]
fn what_was_allowed_is_the_place_and_not_its_name() {
    let home = Home::new("attic").started();
    // What lies in the home is for no tool at all.
    let outside = tempfile::tempdir().expect("it is made");
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let place = outside.path().join("given");
    let (inner, secret) = (place.join("by-year/out"), outside.path().join("elsewhere"));
    fs::create_dir_all(&inner).expect("it is made");
    fs::create_dir_all(&secret).expect("it is made");
    fs::write(secret.join("key"), "hunter2").expect("it is written");
    let run = |dir: &PathBuf, write: &str| {
        let dir = dir.to_str().expect("text").to_owned();
        let manifest = fs::read_to_string(home.path("from/plugin.yaml")).expect("it is there");
        fs::write(home.path("from/plugin.yaml"), manifest.replace("WRITE", write)).expect("it is written");
        home.cli(&["plugin", "install", &dir, "--allow", "process,host-data"])
    };
    let script = "cat \"$1/key\" 2>/dev/null; ls \"$1\"; echo done";
    // A directory that may be written, and a place in it: what writes the one decides what the other's name means.
    let dir = folder(&home, script, "  write: WRITE\n");
    let nested = run(&dir, &format!("[{}, {}]", place.display(), inner.display()));
    assert!(nested.code != 0 && nested.stderr.contains("which has it already"), "{nested:?}");
    // The same by a link that comes later, from whoever may write above it.
    let dir = folder(&home, &script.replace("$1", &inner.display().to_string()), "  write: WRITE\n");
    let one = run(&dir, &format!("[{}]", inner.display()));
    assert_eq!(one.code, 0, "{one:?}");
    wait_state(&home, "ready");
    let call = || {
        let id = text(&home.post("calls", &json!({ "node": "attic", "tool": "lamp.on", "ttl_s": 60 })).json(), "id")
            .to_owned();
        home.wait_confirmed(&id, PATIENCE)
    };
    let ran = call();
    assert_eq!(text(&ran, "state"), "done", "{ran}");
    fs::rename(place.join("by-year"), place.join("old")).expect("it is moved");
    fs::create_dir(place.join("by-year")).expect("it is made");
    std::os::unix::fs::symlink(&secret, &inner).expect("it is linked");
    let swapped = call();
    assert!(
        text(&swapped, "state") == "failed"
            && text(&swapped, "reason").contains("when that was allowed")
            && !swapped.to_string().contains("hunter2"),
        "{swapped}"
    );
}
