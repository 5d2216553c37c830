//! Tools that speak gRPC (`proto/sigil/v1/tool.proto`), in real containers without a network: the example of `examples/grpc-tool` as
//! it is, and one that does what no tool should. The image is made on the spot of the Python in `SIGIL_TEST_GRPC`, into which
//! `./test` has installed grpcio.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::containers::{Dockerd, SLOWLY, open_dir};
use crate::harness::{Home, PATIENCE, SOON, distribution, done, median, now, skip, text, wait_until};

const IMAGE: &str = "test/python:1";

fn repository(inside: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(inside)
}

/// An engine with the image; `None` where there cannot be one.
fn engine(test: &str) -> Option<Dockerd> {
    let python = std::env::var_os("SIGIL_TEST_GRPC").filter(|python| !python.is_empty());
    let Some(python) = python else {
        skip(test, "SIGIL_TEST_GRPC names no Python with grpcio; ./test installs one");
        return None;
    };
    let dockerd = Dockerd::new(test)?;
    let files = ["examples/grpc-tool/tool.py", "tests/grpc/hostile.py"].map(repository);
    let made = Command::new(python).arg(repository("tests/grpc/image.py")).args(files).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    dockerd.import_tar(IMAGE, made.stdout, Vec::new());
    Some(dockerd)
}

fn install(home: &Home, manifest: &str) {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("plugin.yaml"), manifest).unwrap();
    done(home, &["plugin", "install", &from.path().to_string_lossy(), "--allow", "host-data,secrets"]);
}

fn provider(home: &Home, name: &str) -> Value {
    home.get(&format!("providers/{name}")).json()
}

fn wait_state(home: &Home, name: &str, state: &str) {
    let within = Duration::from_secs(40);
    wait_until(&format!("{name} is {state}: {}", provider(home, name)), within, || {
        provider(home, name)["state"] == state
    });
}

fn ask(home: &Home, tool: &str, arguments: &Value) -> String {
    let asked = json!({ "node": "box", "tool": tool, "arguments": arguments, "ttl_s": 60 });
    text(&home.post("calls", &asked).json(), "id").to_owned()
}

fn call(home: &Home, tool: &str, arguments: &Value) -> Value {
    let id = ask(home, tool, arguments);
    home.wait_ended(&id, SLOWLY)
}

fn notes(home: &Home, id: &str) -> String {
    home.get_call(id)["history"].to_string()
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn the_python_example_runs_in_a_container_without_a_network() {
    let Some(dockerd) = engine("grpc tool") else { return };
    let mut home = Home::new("box");
    home.set_env("DOCKER_HOST", &dockerd.host());
    home.start();
    // As people install it, but for its image: there is no index of images here.
    let manifest = fs::read_to_string(repository("examples/grpc-tool/plugin.yaml")).unwrap();
    let image = "image: sigil-python-tool:1";
    assert!(manifest.contains(image));
    let here =
        format!("image: {IMAGE}\n  command: [/app/python, /app/tool.py]\n  env: {{ PYTHONPATH: /app }}\n  idle: 3s");
    install(&home, &manifest.replace(image, &here));
    let began = now();
    wait_state(&home, "python-tool", "ready");
    eprintln!("ready {:?} after it was installed", began.elapsed());
    let shown = provider(&home, "python-tool");
    assert_eq!(
        (text(&shown, "kind"), text(&shown, "protocol"), text(&shown, "tier")),
        ("container", "grpc", "container")
    );

    let counted = ask(&home, "python-tool.count", &json!({ "to": 4, "seconds": 1 }));
    let ended = home.wait_ended(&counted, SLOWLY);
    assert_eq!((text(&ended, "state"), &ended["output"]), ("done", &json!({ "counted": 4 })), "{ended}");
    assert!(notes(&home, &counted).contains("25% counted to 1"), "{}", notes(&home, &counted));
    let drawn = call(&home, "python-tool.draw", &json!({ "text": "a<b" }));
    let kinds: Vec<&str> = drawn["parts"].as_array().unwrap().iter().map(|part| text(part, "media_type")).collect();
    assert_eq!(kinds, ["image/svg+xml", "text/plain", "application/json"], "{drawn}");
    assert_eq!((&drawn["parts"][1]["name"], text(&drawn, "error")), (&json!("text.txt"), "drew 3 letters"));
    let second = home.get(&format!("calls/{}/result/1", text(&drawn, "id")));
    assert_eq!((second.status, second.body.as_slice()), (200, &b"a<b"[..]));
    let unfit = call(&home, "python-tool.count", &json!({ "to": 0 }));
    assert!(text(&unfit, "state") == "denied" && text(&unfit, "reason").contains("/to: 0"), "{unfit}");

    // Two at once; one is cancelled, and the other goes on in the same container.
    let long = ask(&home, "python-tool.count", &json!({ "to": 10, "seconds": 4 }));
    let other = ask(&home, "python-tool.count", &json!({ "to": 600, "seconds": 600 }));
    wait_until("both run", PATIENCE, || [&long, &other].iter().all(|id| notes(&home, id).contains("counted to 1")));
    let began = now();
    home.post(&format!("calls/{other}/cancel"), &json!({}));
    let cancelled = home.wait_ended(&other, PATIENCE);
    assert_eq!(text(&cancelled, "state"), "cancelled");
    assert!(
        began.elapsed() < Duration::from_secs(2) && text(&cancelled, "reason").contains("may go on"),
        "{cancelled}"
    );
    assert_eq!(home.wait_ended(&long, SLOWLY)["output"], json!({ "counted": 10 }));

    let time = |tool: &str, arguments: &Value| {
        let began = now();
        assert_eq!(text(&call(&home, tool, arguments), "state"), "done");
        began.elapsed()
    };
    let (mut over, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        over.push(time("python-tool.count", &json!({ "to": 1 })));
        plain.push(time("device.info", &json!({})));
    }
    eprintln!("{}", distribution("python-tool.count", &over));
    eprintln!("{}", distribution("device.info", &plain));
    eprintln!("over gRPC {:?} more than device.info", median(&over).saturating_sub(median(&plain)));

    // Nobody needs it for a while: it is ended, and started by the next call.
    wait_until("nothing runs", SLOWLY, || dockerd.ours().is_empty());
    assert_eq!(text(&provider(&home, "python-tool"), "state"), "ready");
    assert_eq!(call(&home, "python-tool.count", &json!({ "to": 2 }))["output"], json!({ "counted": 2 }));
    home.stop();
    wait_until("no container is left", SLOWLY, || dockerd.ours().is_empty());
}

#[test]
fn whatever_a_grpc_tool_does_its_call_has_one_true_end_and_the_rest_goes_on() {
    let Some(dockerd) = engine("grpc hostile") else { return };
    let dir = open_dir(&Home::new("x"), "sglg");
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let mut home = Home::new("box");
    home.set_env("DOCKER_HOST", &dockerd.host());
    fs::create_dir_all(home.path("secrets")).unwrap();
    fs::write(home.path("secrets/key"), "hunter2-hunter2\n").unwrap();
    fs::set_permissions(home.path("secrets/key"), fs::Permissions::from_mode(0o600)).unwrap();
    home.start();
    let manifest = |name: &str, env: &str| {
        format!(
            "name: {name}\nversion: 1.0.0\nexecution:\n  protocol: grpc\n  grpc_port: 50051\n  image: {IMAGE}\n  pull: never\n  \
             command: [/app/python, /app/hostile.py, {0}]\n  write: [{0}]\n  output_limit: 1Mi\n  timeout: 4s\n  \
             env: {{ PYTHONPATH: /app, OUTSIDE: \"{port}\", KEY: {{ secret: key }}{env} }}\n",
            dir.display()
        )
    };
    install(&home, &manifest("bad", ""));
    wait_state(&home, "bad", "ready");
    // What it tells of its own accord waits for an owner.
    wait_until("its tools are known", PATIENCE, || home.tool("node:box:bad.cut").is_some());
    let held = home.try_call("box", "bad.cut", 60).expect_err("it waits").problem(403);
    assert_eq!(held["rule"], "tool:pending", "{held}");
    done(&home, &["approve", "box", "--tools"]);
    let runs = || home.tool("node:box:bad.denies").is_some_and(|tool| tool["available"] == true);
    wait_until("they are approved", PATIENCE, runs);
    wait_until("they run", PATIENCE, || text(&call(&home, "bad.denies", &json!({})), "reason") == "not for you");
    assert_eq!(lines(&dir.join("cut")), 0);

    let ended = |tool: &str| {
        wait_state(&home, "bad", "ready");
        let began = now();
        let ended = call(&home, &format!("bad.{tool}"), &json!({}));
        assert!(began.elapsed() < SOON, "{tool} took {:?}: {ended}", began.elapsed());
        let (state, reason) = (text(&ended, "state").to_owned(), text(&ended, "reason").to_owned());
        eprintln!("{tool:8} {state}: {reason}");
        (state, reason, ended)
    };
    for (tool, why) in [("cut", "without an end"), ("breaks", "it broke"), ("headers", "stream broke")] {
        let (state, reason, _) = ended(tool);
        assert!(state == "interrupted" && reason.contains(why), "{tool} {reason}");
    }
    let (state, reason, failed) = ended("fails");
    assert_eq!(
        (state.as_str(), reason.as_str(), &failed["output"]),
        ("failed", "out of paper", &json!("what there is"))
    );
    assert_eq!(ended("odd").0, "failed");
    let (state, reason, _) = ended("secret");
    assert_eq!((state.as_str(), reason.as_str()), ("failed", "[secret key]"));
    let (state, _, found) = ended("network");
    assert_eq!((state.as_str(), &found["output"]), ("done", &json!([])), "{found}");
    for (tool, why) in
        [("large", "over the limit of 1MiB"), ("endless", "over the limit of 1MiB"), ("parts", "more than 16 parts")]
    {
        let (state, reason, _) = ended(tool);
        assert!(state == "failed" && reason.contains(why), "{tool} {reason}");
    }
    // Others are served meanwhile.
    for tool in ["floods", "notes"] {
        wait_state(&home, "bad", "ready");
        let flood = ask(&home, &format!("bad.{tool}"), &json!({}));
        wait_until("it runs", PATIENCE, || text(&home.get_call(&flood), "state") == "running");
        let mut times = Vec::new();
        for _ in 0..20 {
            let began = now();
            assert_eq!(text(&call(&home, "device.info", &json!({})), "state"), "done");
            times.push(began.elapsed());
        }
        eprintln!("{}", distribution(&format!("device.info beside {tool}"), &times));
        assert!(median(&times) < SOON, "{times:?}");
        let flooded = home.wait_ended(&flood, SLOWLY);
        // It is ended at its time, or its connection is, for frames that carry nothing.
        let reason = text(&flooded, "reason");
        let is_ended = match text(&flooded, "state") {
            "failed" => reason.contains("timed out"),
            "interrupted" => reason.contains("stream broke"),
            _ => false,
        };
        assert!(is_ended, "{flooded}");
    }

    // Told to stop, it does not listen: its container is ended, and with it what it did.
    let ticks = ask(&home, "bad.ticks", &json!({}));
    wait_until("it ticks", SLOWLY, || lines(&dir.join("ticks")) > 3);
    let began = now();
    home.post(&format!("calls/{ticks}/cancel"), &json!({}));
    let cancelled = home.wait_ended(&ticks, PATIENCE);
    let after = lines(&dir.join("ticks"));
    assert!(
        text(&cancelled, "state") == "cancelled" && !text(&cancelled, "reason").contains("may go on"),
        "{cancelled}"
    );
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());

    let (state, _, _) = ended("crash");
    assert_eq!((state.as_str(), lines(&dir.join("crash"))), ("interrupted", 1), "it ran once");
    wait_until("it is back", SLOWLY, || ended("denies").0 == "denied");
    assert!(home.log().contains("exit code 3") && home.log().contains("out of paper"), "{}", home.log());
    assert_eq!(lines(&dir.join("ticks")), after, "nothing has ticked since");
    assert!(!home.log().contains("hunter2"));

    install(&home, &manifest("many", ", MORE: \"10000\""));
    let refused = || text(&provider(&home, "many"), "why").contains("more than 512");
    wait_until("it is told that it is too much", Duration::from_secs(40), refused);
    home.stop();
    wait_until("no container is left", SLOWLY, || dockerd.ours().is_empty());
    let _ = fs::remove_dir_all(dir);
}
