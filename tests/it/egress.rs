//! `network: restricted`: what a tool reaches by the proxy of its agent, in a process and in a container, and what it does
//! not, however it asks. Counted at servers of the test, and in the audit.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::containers::{Dockerd, SLOWLY};
use crate::harness::{Home, PATIENCE, done, items, now, skip, text, wait_until};

/// A server on the loopback of this device, which counts who comes.
struct Server {
    port: u16,
    came: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let came: Arc<AtomicUsize> = Arc::default();
        let counted = came.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                    let mut said = [0; 4096];
                    let len = stream.read(&mut said).unwrap_or(0);
                    let first = String::from_utf8_lossy(&said[..len]).lines().next().unwrap_or_default().to_owned();
                    let body = format!("reached by {first}");
                    let head =
                        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all(format!("{head}{body}").as_bytes());
                });
            }
        });
        Self { port, came }
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }
}

/// All that a tool may reach, and what it must not.
struct Ground {
    allowed: Server,
    by_name: Server,
    other: Server,
    udp: UdpSocket,
}

impl Ground {
    fn new() -> Self {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        udp.set_nonblocking(true).unwrap();
        Self { allowed: Server::start(), by_name: Server::start(), other: Server::start(), udp }
    }

    fn execution(&self) -> String {
        // The name leads to this device, which its rule does not say.
        format!(
            "  network: restricted\n  egress: ['127.0.0.1:{}', 'localhost:{}', api.example.org]\n",
            self.allowed.port, self.by_name.port
        )
    }

    /// Attempts to get out, each with the word for why it is refused; none: nobody even hears of it.
    fn attempts(&self) -> Vec<(&'static str, String, &'static str)> {
        let (allowed, by_name, other) = (self.allowed.port, self.by_name.port, self.other.port);
        let connect = |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let get = |target: &str, host: &str| format!("GET http://{target}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        vec![
            ("another port", connect(&format!("127.0.0.1:{other}")), "not_listed"),
            ("an address in place of a name", connect("93.184.216.34:443"), "not_listed"),
            ("a whole number", connect(&format!("2130706433:{allowed}")), "host_form"),
            ("octal", connect(&format!("0177.0.0.1:{allowed}")), "host_form"),
            ("hexadecimal", connect(&format!("0x7f.0.0.1:{allowed}")), "host_form"),
            ("mapped", connect(&format!("[::ffff:127.0.0.1]:{allowed}")), "not_listed"),
            ("another host's header", get(&format!("127.0.0.1:{allowed}"), "evil.example"), "host_header"),
            (
                "user information",
                get(&format!("127.0.0.1@evil.example:{other}"), &format!("evil.example:{other}")),
                "user_info",
            ),
            ("a dot at its end", connect(&format!("localhost.:{by_name}")), "host_form"),
            ("percent-encoding", get(&format!("loc%%61lhost:{by_name}"), &format!("localhost:{by_name}")), "malformed"),
            ("DNS", connect("8.8.8.8:53"), "not_listed"),
            ("a name that leads to this device", connect(&format!("localhost:{by_name}")), "address"),
            (
                "two requests in one",
                format!("{}X: y\n {}", get("evil.example", "evil.example").trim_end_matches("\r\n"), "\r\n\r\n"),
                "malformed",
            ),
            ("no request for a proxy", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), "no_target"),
        ]
    }
}

fn lines(home: &Home, query: &str) -> Vec<Value> {
    let all = items(&home.get(&format!("audit?limit=200&{query}")).expect(200)).to_vec();
    all.into_iter().filter(|line| line["what"] == "egress").collect()
}

/// Tries all of it with a plugin `net`, whose tool `net.say` says its argument to the proxy, and `net.direct` tries without.
fn tried(home: &Home, ground: &Ground) {
    let run = |tool: &str, arguments: &Value| {
        let body = json!({ "node": "box", "tool": tool, "arguments": arguments, "ttl_s": 60 });
        let id = text(&home.post("calls", &body).json(), "id").to_owned();
        (home.wait_ended(&id, SLOWLY), id)
    };
    let output = |ended: &Value| ended["output"].as_str().unwrap_or_default().to_owned();
    // What is named is reached: asked for, and by a tunnel.
    let place = format!("127.0.0.1:{}", ground.allowed.port);
    let (ended, id) =
        run("net.say", &json!({ "raw": format!("GET http://{place}/a HTTP/1.1\r\nHost: {place}\r\n\r\n") }));
    assert!(output(&ended).contains("reached by GET /a HTTP/1.1"), "{ended}");
    let (ended, _) =
        run("net.say", &json!({ "raw": format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\nhello\n") }));
    assert!(output(&ended).contains("reached by hello"), "{ended}");
    assert_eq!(ground.allowed.came(), 2);
    let (ended, _) = run("net.environment", &json!({}));
    for line in ["HTTPS_PROXY=http://127.0.0.1:3128", "http_proxy=http://127.0.0.1:3128", "NO_PROXY="] {
        assert!(output(&ended).lines().any(|told| told == line), "{line}: {ended}");
    }

    for (name, raw, _) in ground.attempts() {
        let (ended, _) = run("net.say", &json!({ "raw": raw }));
        let said = output(&ended);
        assert!(said.contains("HTTP/1.1 4") && !said.contains("reached by"), "{name}: {ended}");
    }
    // Without the proxy there is nothing: no port of this device, no datagram, no name.
    let udp = ground.udp.local_addr().unwrap().port();
    let (ended, _) = run("net.direct", &json!({ "tcp": ground.allowed.port, "udp": udp }));
    assert!(output(&ended).contains("tried") && !output(&ended).contains("through"), "{ended}");
    assert_eq!(ground.udp.recv(&mut [0; 16]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!((ground.allowed.came(), ground.by_name.came(), ground.other.came()), (2, 0, 0));

    // All of it is in the audit, with whose it was.
    let told = |verdict: &str| lines(home, &format!("verdict={verdict}"));
    wait_until("the audit has what went out", PATIENCE, || told("allow").iter().map(count).sum::<u64>() == 2);
    let line = told("allow").into_iter().find(|line| line["call"]["id"] == id.as_str()).expect("the first of them");
    assert_eq!(
        (&line["outside"]["host"], &line["outside"]["port"]),
        (&json!("127.0.0.1"), &json!(ground.allowed.port))
    );
    assert_eq!((&line["tool"], &line["rule"]), (&json!("net.say"), &json!(format!("net: {place}"))), "{line}");
    assert_eq!((&line["principal"], &line["node"]), (&json!("person:owner"), &json!("box")), "{line}");
    assert!(line["outside"]["sent_bytes"].as_u64() > Some(20) && line["outside"]["received_bytes"].as_u64() > Some(50));
    let refused = ground.attempts();
    let all = || told("deny").iter().map(count).sum::<u64>();
    wait_until("and what did not", PATIENCE, || all() == refused.len() as u64);
    for (name, _, why) in refused {
        assert!(told("deny").iter().any(|line| line["rule"] == format!("net: {why}")), "{name}: {:?}", told("deny"));
    }
    let shown = done(home, &["audit", "--tool", "net.say", "--verdict", "deny"]);
    assert!(shown.contains("8.8.8.8:53") && shown.contains("net: not_listed"), "{shown}");
}

fn count(line: &Value) -> u64 {
    line["count"].as_u64().unwrap_or(0)
}

/// What its argument says, with its escapes, to the proxy; `$1` is what opens a connection.
const TAKE: &str = r#"read -r line; line=${line#*\"raw\":\"}; line=${line%\"*}"#;

#[test]
fn a_process_reaches_what_its_manifest_names_and_nothing_else() {
    let mut home = Home::new("box");
    home.start();
    let mut told = String::new();
    wait_until("its sandbox is known", PATIENCE, || {
        told = home.cli(&["doctor"]).stdout;
        told.contains("limits by rlimit")
    });
    if !told.contains("netns") {
        return skip("egress", "a tool gets no network of its own here");
    }
    let ground = Ground::new();
    let from = tempfile::tempdir().unwrap();
    let script = format!(
        "#!/bin/bash\ncase $1 in\n\
         say) {TAKE}; exec 3<>/dev/tcp/127.0.0.1/3128; printf \"$line\" >&3; exec timeout 5 cat <&3 ;;\n\
         direct) read -r line; tcp=${{line#*\\\"tcp\\\":}}; tcp=${{tcp%%,*}}; udp=${{line#*\\\"udp\\\":}}; udp=${{udp%%\\}}*}}\n\
         (exec 3<>/dev/tcp/127.0.0.1/$tcp) && echo through tcp\n\
         (exec 3<>/dev/tcp/8.8.8.8/53) && echo through route\n\
         (echo x >/dev/udp/127.0.0.1/$udp); (echo x >/dev/udp/8.8.8.8/53) && echo through dns\n\
         getent hosts api.example.org && echo through names; echo tried ;;\n\
         environment) env ;;\nesac\n"
    );
    let program = from.path().join("net.sh");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let tool = |name: &str| format!("  - {{ name: {name}, args: [{name}] }}\n");
    let tools: String = ["say", "direct", "environment"].map(tool).concat();
    let execution = ground.execution();
    let manifest = format!(
        "name: net\nversion: 1.0.0\nexecution:\n  tier: process\n  command: [./net.sh]\n{execution}tools:\n{tools}"
    );
    fs::write(from.path().join("plugin.yaml"), manifest).unwrap();
    let dir = from.path().to_string_lossy().into_owned();
    // What leads into this house waits for its owner.
    done(&home, &["plugin", "install", &dir, "--allow", "process"]);
    let state = || home.get("providers/net").json()["state"].clone();
    wait_until("it waits", PATIENCE, || home.get("providers/net").status == 200 && state() == "review");
    done(&home, &["plugin", "allow", "net", "--process", "--host-network"]);
    wait_until("it is ready", PATIENCE, || state() == "ready");
    let began = now();
    tried(&home, &ground);
    eprintln!("# {} attempts as a process in {:.1?}", ground.attempts().len() + 4, began.elapsed());
}

#[test]
fn a_container_reaches_what_its_manifest_names_and_nothing_else() {
    let Some(dockerd) = Dockerd::new("egress_container") else { return };
    let ground = Ground::new();
    let mut home = Home::new("box");
    home.set_env("DOCKER_HOST", &dockerd.host());
    home.start();
    let say = format!("{TAKE}; printf \"$line\" | busybox nc -w 5 127.0.0.1 3128");
    let direct = "read -r line; tcp=${line#*\\\"tcp\\\":}; tcp=${tcp%%,*}; udp=${line#*\\\"udp\\\":}; udp=${udp%%\\}*}; \
                  busybox nc -w 1 127.0.0.1 $tcp </dev/null && echo through tcp; busybox nc -w 1 8.8.8.8 53 </dev/null && echo through route; \
                  echo x | busybox nc -u -w 1 127.0.0.1 $udp; busybox nslookup api.example.org 8.8.8.8 && echo through dns; \
                  busybox ip link 2>/dev/null | grep -v lo: | grep ' UP ' && echo through a device; echo tried"
        .replace("\\\"", "\"");
    let tool = |(name, script): (&str, &str)| {
        format!("  - {{ name: {name}, effect: once, args: [sh, -c, {}] }}\n", Value::from(script))
    };
    let tools: String = [("say", say.as_str()), ("direct", direct.as_str()), ("environment", "env")].map(tool).concat();
    let execution = ground.execution();
    let manifest = format!(
        "name: net\nversion: 1.0.0\nexecution:\n  tier: container\n  image: test/box:1\n  pull: never\n  memory_limit: 64Mi\n{execution}tools:\n{tools}"
    );
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("plugin.yaml"), manifest).unwrap();
    done(&home, &["plugin", "install", &from.path().to_string_lossy(), "--allow", "host-network"]);
    let is_ready = || {
        let shown = home.get("providers/net");
        shown.status == 200 && shown.json()["state"] == "ready"
    };
    wait_until("it is ready", SLOWLY, is_ready);
    let began = now();
    tried(&home, &ground);
    eprintln!("# {} attempts in containers in {:.1?}", ground.attempts().len() + 4, began.elapsed());
}
