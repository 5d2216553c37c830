//! Foreign nodes: the example of `examples/foreign-node`, with a witness outside, hosted by one device and called from another; and
//! nodes that do what none should. By the Python in `SIGIL_TEST_GRPC`, into which `./test` has installed grpcio.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Home, Mesh, PATIENCE, SOON, done, free_port, median, now, skip, text, wait_until};

/// What a node of Python may take to come up on a busy machine.
const SLOWLY: Duration = Duration::from_secs(20);

fn repository(inside: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(inside)
}

/// A Python with the modules of the contract.
struct Python {
    program: PathBuf,
    dir: tempfile::TempDir,
}

impl Python {
    fn new(test: &str) -> Option<Self> {
        let program = std::env::var_os("SIGIL_TEST_GRPC").filter(|program| !program.is_empty()).map(PathBuf::from);
        let Some(program) = program else {
            skip(test, "SIGIL_TEST_GRPC names no Python with grpcio; ./test installs one");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().display();
        let made = Command::new(&program)
            .args(["-m", "grpc_tools.protoc", &format!("-I{}", repository("proto").display())])
            .args([format!("--python_out={to}"), format!("--grpc_python_out={to}")])
            .args(["sigil/v1/node.proto", "sigil/v1/mesh.proto"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(Self { program, dir })
    }

    fn run(&self, script: &str) -> Command {
        let mut command = Command::new(&self.program);
        let path = format!("{}:{}", self.dir.path().display(), repository("examples/foreign-node").display());
        command.arg(repository(script)).env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// A device that hosts nodes, and what a node needs to come to it.
struct Host {
    address: String,
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> (Self, String) {
        let address = format!("127.0.0.1:{}", free_port());
        let settings = format!("[listen]\ngrpc = \"{address}\"\n");
        (Self { address, dir: tempfile::tempdir().unwrap() }, settings)
    }

    fn witness(&self) -> PathBuf {
        self.dir.path().join("witness")
    }

    fn lines(&self, with: &str) -> usize {
        fs::read_to_string(self.witness()).unwrap_or_default().lines().filter(|line| line.contains(with)).count()
    }

    /// Lets a node in; returns its token.
    fn add(&self, home: &Home, words: &[&str]) -> String {
        let added = home.cli(&[&["node", "add", "cam", "--json"], words].concat()).json(0);
        fs::write(self.dir.path().join("crt"), text(&added, "certificate")).unwrap();
        let token = self.dir.path().join("token");
        fs::write(&token, text(&added, "token")).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        text(&added, "token").to_owned()
    }

    fn node(&self, python: &Python, also: &str) -> Node {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = python
            .run("tests/grpc/witness_node.py")
            .args(["--at", &self.address, "--name", "cam"])
            .arg("--token-file")
            .arg(self.dir.path().join("token"))
            .arg("--certificate")
            .arg(self.dir.path().join("crt"))
            .env("WITNESS", self.witness())
            .env("ALSO", also)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Node(child)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn bad(&self, python: &Python, token: &str, how: &str) -> Command {
        let mut command = python.run("tests/grpc/bad_node.py");
        command.args(["--at", &self.address, "--token", token, "--how", how, "--certificate"]);
        command.arg(self.dir.path().join("crt"));
        command
    }
}

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(hub: &Home, tool: &str, arguments: &Value) -> String {
    let asked = json!({ "node": "nas", "tool": tool, "arguments": arguments, "ttl_s": 60 });
    text(&hub.post("calls", &asked).json(), "id").to_owned()
}

fn call(hub: &Home, tool: &str, arguments: &Value) -> Value {
    let id = ask(hub, tool, arguments);
    hub.wait_confirmed(&id, SLOWLY)
}

fn state(home: &Home) -> String {
    text(&home.get("providers/nodes.cam").json(), "state").to_owned()
}

fn is_available(hub: &Home, tool: &str) -> bool {
    hub.tool(&format!("node:nas:{tool}")).is_some_and(|tool| tool["available"] == true)
}

#[test]
fn a_node_in_python_is_hosted_and_its_calls_have_one_true_end() {
    let Some(python) = Python::new("foreign node") else { return };
    let (host, settings) = Host::new();
    let mut mesh = Mesh::of(vec![Home::new("hub"), Home::new("nas").with_config(&settings)]);
    mesh.wait_converged();
    host.add(&mesh.homes[1], &[]);
    let mut node = host.node(&python, "");
    wait_until("its tools are known", SLOWLY, || is_available(&mesh.homes[0], "cam.say"));
    let hub = &mesh.homes[0];
    let said = call(hub, "cam.say", &json!({ "text": "hi" }));
    assert_eq!((text(&said, "state"), &said["output"]), ("done", &json!({ "said": "hi" })), "{said}");
    let failed = call(hub, "cam.fails", &json!({}));
    assert_eq!((text(&failed, "state"), text(&failed, "reason")), ("failed", "ValueError: out of paper"));
    let counted = ask(hub, "cam.count", &json!({ "to": 2, "seconds": 0.4 }));
    assert_eq!(hub.wait_confirmed(&counted, SLOWLY)["output"], json!({ "counted": 2 }));
    wait_until("its progress is told", PATIENCE, || {
        hub.get_call(&counted)["history"].to_string().contains("counted to 1")
    });
    let shown = mesh.homes[1].get("providers/nodes.cam").expect(200);
    assert_eq!((text(&shown, "kind"), text(&shown, "source"), text(&shown, "state")), ("foreign", "node", "ready"));
    let listed = done(&mesh.homes[1], &["plugin", "list"]);
    assert!(listed.contains("nodes.cam"), "{listed}");

    // Told to stop, it does.
    let ticks = ask(hub, "cam.ticks", &json!({}));
    wait_until("it runs", SLOWLY, || host.lines(&ticks) == 1);
    hub.post(&format!("calls/{ticks}/cancel"), &json!({}));
    assert_eq!(text(&hub.wait_confirmed(&ticks, PATIENCE), "state"), "cancelled");
    wait_until("it has stopped", PATIENCE, || host.lines("ticks stopped") == 1);

    // Cut off in the middle, nobody knows what happened, and it is not run again.
    let cut = ask(hub, "cam.ticks", &json!({}));
    wait_until("it runs", SLOWLY, || host.lines(&cut) == 1);
    let began = now();
    drop(node);
    let ended = hub.wait_confirmed(&cut, PATIENCE);
    assert_eq!(text(&ended, "state"), "interrupted", "{ended}");
    eprintln!("interrupted {:?} after the cut: {}", began.elapsed(), text(&ended, "reason"));
    wait_until("it is away", PATIENCE, || state(&mesh.homes[1]) == "unhealthy");
    // What is asked meanwhile waits a little, and runs when it is back. A tool that is new then waits for an owner.
    let waits = ask(hub, "cam.say", &json!({ "text": "again" }));
    node = host.node(&python, "new");
    assert_eq!(hub.wait_confirmed(&waits, SLOWLY)["output"], json!({ "said": "again" }));
    assert_eq!((host.lines(&waits), host.lines(&cut)), (1, 1), "each ran once");
    wait_until("it is known", PATIENCE, || hub.tool("node:nas:cam.new").is_some());
    assert!(!is_available(hub, "cam.new"));
    hub.try_call("nas", "cam.new", 60).expect_err("it waits").problem(403);
    // A result that is larger than a message costs the node its stream, and its call ends.
    let large = call(hub, "cam.large", &json!({}));
    assert_eq!(text(&large, "state"), "interrupted", "{large}");

    // Its host is down: what is asked waits, and runs once when both are back.
    mesh.homes[1].stop();
    let hub = &mesh.homes[0];
    wait_until("it is away", PATIENCE, || hub.node_state("nas").as_deref() == Some("offline"));
    let queued = ask(hub, "cam.say", &json!({ "text": "later" }));
    assert_eq!(host.lines(&queued), 0);
    mesh.homes[1].start();
    let hub = &mesh.homes[0];
    let ran = hub.wait_confirmed(&queued, Duration::from_secs(40));
    assert_eq!((text(&ran, "state"), host.lines(&queued)), ("done", 1), "{ran} {}", host.log());

    // Taken out, it is cut off at once, and its token opens nothing.
    done(&mesh.homes[1], &["node", "remove", "cam"]);
    wait_until("it is told", SLOWLY, || node.0.try_wait().unwrap().is_some_and(|exit| exit.code() == Some(4)));
    assert!(host.log().contains("UNAUTHENTICATED"), "{}", host.log());
    wait_until("its tools are gone", PATIENCE, || hub.tool("node:nas:cam.say").is_none());
    assert!(!mesh.homes[1].log().contains(&fs::read_to_string(host.dir.path().join("token")).unwrap()));
}

#[test]
fn what_a_foreign_node_must_not_do_gets_a_typed_refusal_and_the_rest_goes_on() {
    let Some(python) = Python::new("foreign node refusals") else { return };
    let (host, settings) = Host::new();
    let nas = Home::new("nas").with_config(&settings).started();
    let token = host.add(&nas, &[]);
    wait_until("it is known", PATIENCE, || state(&nas) == "unhealthy");
    let told = |token: &str, how: &str| {
        let said = host.bad(&python, token, how).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
        eprintln!("{how:12} {}", said.trim());
        said
    };
    let not_known = "status UNAUTHENTICATED this token is not known here";
    for wrong in ["sigil_node_aaaa", "x"] {
        assert!(told(wrong, "good").starts_with(not_known));
    }
    assert!(told(&"x".repeat(9_000), "good").starts_with("status "));
    assert!(told("", "good").starts_with("status UNAUTHENTICATED show the token"));
    for (how, refusal) in [
        ("long-id", "ack False this token is that of the node `cam`"),
        ("other-name", "ack False this token is that of the node `cam`"),
        ("many-tools", "ack False 10000 tools are more than a node may declare, which is 512"),
        ("bad-tool", "ack False the name of a tool cannot be used: `a b`"),
        ("twice-tool", "ack False the tool `A` is declared twice"),
        ("long-version", "ack False the version is too long"),
        ("silent", "status DEADLINE_EXCEEDED no registration in time"),
        ("not-first", "status INVALID_ARGUMENT the first message must be `register`"),
        ("huge", "status "),
    ] {
        let said = told(&token, how);
        assert!(said.starts_with(refusal), "{how}: {said}");
    }
    assert!(told(&token, "twice").contains("status INVALID_ARGUMENT a stream registers once"));
    // One that is flooded with words serves others all the same.
    for how in ["floods", "statuses"] {
        let flood = Node(host.bad(&python, &token, how).stdout(Stdio::null()).spawn().unwrap());
        wait_until("it is there", SLOWLY, || state(&nas) == "ready");
        let mut times = Vec::new();
        for _ in 0..20 {
            let began = now();
            let id = nas.call("nas", "device.info", 60);
            assert_eq!(text(&nas.wait_ended(&id, PATIENCE), "state"), "done");
            times.push(began.elapsed());
        }
        eprintln!("device.info beside {how}: {:?}", median(&times));
        assert!(median(&times) < SOON, "{times:?}");
        drop(flood);
        wait_until("it is away", PATIENCE, || state(&nas) == "unhealthy");
    }
    // Strangers of one address keep nobody of another out, however many they are.
    let mut held = Node(host.bad(&python, "", "hold").stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(held.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "held");
    let node = host.node(&python, "");
    let began = now();
    wait_until("it comes in", SLOWLY, || state(&nas) == "ready");
    eprintln!("let in beside strangers after {:?}", began.elapsed());
    drop((held, node));

    done(&nas, &["node", "remove", "cam"]);
    assert!(told(&token, "good").starts_with(not_known), "it was revoked");
    let short = host.add(&nas, &["--expires", "3s"]);
    let went = Node(host.bad(&python, &short, "good").stdout(Stdio::null()).spawn().unwrap());
    wait_until("it is over", SLOWLY, || {
        told(&short, "long-id").starts_with("status UNAUTHENTICATED this token is over")
    });
    wait_until("it was cut off when its token was over", PATIENCE, || state(&nas) == "unhealthy");
    drop(went);
    assert!(!nas.log().contains(&token) && !nas.log().contains(&short));
}
