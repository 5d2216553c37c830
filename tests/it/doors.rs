//! The doors themselves: who gets in, and what every error looks like.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Home, Mesh, PATIENCE, items, now, text};

#[test]
fn every_error_is_a_problem_document() {
    let home = Home::new("attic").started();
    let json_type = ("Content-Type", "application/json");
    home.get("nothing-here").problem(404);
    home.ask("PUT", "/api/v1/nodes", &[], b"").problem(405);
    home.ask("POST", "/api/v1/calls", &[("Content-Type", "text/plain")], b"hello").problem(415);
    home.ask("POST", "/api/v1/calls", &[json_type], b"{\"node\":").problem(400);
    let odd = json!({ "node": "attic", "tool": "append", "arguments": {}, "nonsense": 1 });
    home.post("calls", &odd).problem(422);
    let huge = vec![b' '; 4 * 1024 * 1024];
    home.ask("POST", "/api/v1/calls", &[json_type], &huge).problem(413);
    home.get("calls/not-an-id").problem(422);
    home.get("calls/00000000000000000000000000").problem(404);
}

#[test]
fn k6_the_loopback_port_wants_a_token_and_its_own_host_name() {
    let home = Home::new("attic").started();
    let host = format!("127.0.0.1:{}", home.http_port);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(home.ask_http(&host, "GET", path, &[]).status, 200);
    }
    home.ask_http(&host, "GET", "/api/v1/status", &[]).problem(401);
    home.ask_http(&host, "GET", "/api/v1/status", &[("Authorization", "Bearer wrong")]).problem(401);
    let token = home.cli(&["token"]);
    assert_eq!(token.code, 0, "{token:?}");
    let bearer = format!("Bearer {}", token.stdout.trim());
    let authorization = ("Authorization", bearer.as_str());
    home.ask_http(&host, "GET", "/api/v1/status", &[authorization]).expect(200);
    // A web page that made its name point at 127.0.0.1, and one that simply asks from elsewhere.
    assert!(home.ask_http("evil.example", "GET", "/api/v1/status", &[authorization]).status >= 400);
    let origin = ("Origin", "https://evil.example");
    assert!(home.ask_http(&host, "POST", "/api/v1/invites", &[authorization, origin]).status >= 400);
    assert!(!home.log().contains(token.stdout.trim()), "a secret is never logged");
}

#[test]
fn the_descriptions_of_itself_are_there() {
    let home = Home::new("attic").started();
    let api = home.ask("GET", "/openapi.json", &[], b"").expect(200);
    assert!(text(&api, "openapi").starts_with("3."), "{api}");
    assert!(api["paths"].as_object().is_some_and(|paths| paths.len() > 15));
    let metrics = home.ask("GET", "/metrics", &[], b"");
    assert_eq!(metrics.status, 200);
    assert!(metrics.text().contains("sigil_"), "{}", metrics.text());
    home.get("doctor").expect(200);
    home.get("logs").expect(200);
}

#[test]
fn waiting_for_a_call_returns_it_when_it_has_ended() {
    let mesh = Mesh::named(&["attic", "bureau"]);
    let body = json!({ "node": "bureau", "tool": "device.info", "arguments": {} }).to_string();
    let headers = [("Content-Type", "application/json"), ("Prefer", "wait=20")];
    let call = mesh.homes[0].ask("POST", "/api/v1/calls", &headers, body.as_bytes()).expect(200);
    assert_eq!(call["state"], "done", "{call}");
    assert_eq!(call["confirmed"], true);
    assert!(!call["output"].is_null(), "{call}");
    let result = mesh.homes[0].get(&format!("calls/{}/result", text(&call, "id")));
    assert_eq!(result.status, 200);
    assert!(!result.body.is_empty());
}

#[test]
fn lists_of_calls_have_pages() {
    let home = Home::new("attic").started();
    let mut made: Vec<String> = (0..7).map(|_| home.call("attic", "device.info", 60)).collect();
    for id in &made {
        home.wait_ended(id, PATIENCE);
    }
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let path = cursor.map_or("calls?limit=3".to_owned(), |cursor| format!("calls?limit=3&cursor={cursor}"));
        let page = home.get(&path).expect(200);
        seen.extend(items(&page).iter().map(|call| text(call, "id").to_owned()));
        cursor = page["next_cursor"].as_str().map(ToOwned::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    seen.sort();
    made.sort();
    assert_eq!(seen, made);
}

#[test]
fn events_come_as_they_happen_and_can_be_resumed() {
    let home = Home::new("attic").started();
    let listen = |headers: &str, wanted: &str| {
        let mut stream = UnixStream::connect(home.path("run/sigil.sock")).expect("the door is open");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").expect("it can be asked");
        let mut lines = BufReader::new(stream).lines();
        // Once the head is there, the stream is subscribed.
        lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
        let id = home.call("attic", "device.info", 60);
        let wanted = if wanted.is_empty() { &id } else { wanted };
        let (started, mut event, mut about) = (now(), String::new(), false);
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("id:") {
                number.trim().clone_into(&mut event);
            }
            about |= line.starts_with("data:") && line.contains(wanted);
            // An empty line ends an event.
            if line.is_empty() && about {
                return (id, event);
            }
            assert!(started.elapsed() < PATIENCE, "no event about {id}");
        }
        panic!("the stream of events ended");
    };
    let (first, event) = listen("", "");
    assert!(!event.is_empty(), "events are numbered");
    home.wait_ended(&first, PATIENCE);
    let (run, number) = event.split_once('-').expect("the run of the agent, and a number in it");
    let before = number.parse::<u64>().expect("a number") - 1;
    let (_, again) = listen(&format!("Last-Event-ID: {run}-{before}\r\n"), &first);
    assert_eq!(again, event, "a client that resumes gets what it missed");
}

/// A request over loopback HTTP by a process of another user: its status.
fn as_nobody(host: &str, address: &str, port: u16, cookie: &str) -> Option<String> {
    use std::os::unix::process::CommandExt as _;
    let script = "import socket,sys\n\
        s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n\
        s.sendall(('GET /api/v1/status HTTP/1.1\\r\\nHost: %s\\r\\nCookie: sigil_session=%s\\r\\n\\r\\n'%(sys.argv[3],sys.argv[4])).encode())\n\
        print(s.recv(12).decode()[9:12],end='')";
    let mut python = std::process::Command::new("python3");
    python.args(["-I", "-c", script, address, &port.to_string(), host, cookie]).uid(65534).gid(65534);
    let said = python.output().ok()?;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).ok()
}

#[test]
fn nobody_else_is_taken_for_the_door_and_a_session_is_its_users_alone() {
    let home = Home::new("attic").started();
    let port = home.http_port;
    // Browsers take the page's name for `[::1]` first: whoever listened there would be given the code.
    let ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    if ipv6 {
        assert!(std::net::TcpListener::bind(("::1", port)).is_err(), "the port is ours at both addresses");
        let refused = home.ask_http("evil.example", "GET", "/api/v1/status", &[]).json();
        assert!(text(&refused, "hint").contains(&format!("http://127.0.0.1:{port}")), "{refused}");
        // One that somebody else has there already is no port for us.
        let other = Home::new("cellar");
        let _squatter = std::net::TcpListener::bind(("::1", other.http_port)).expect("it is free");
        let up = other.cli(&["up", "--http-port", &other.http_port.to_string()]);
        assert!(up.code != 0 && up.stderr.contains("in use by another program"), "{up:?}");
    }
    let code = home.post("ui/codes", &json!({})).expect(201);
    let host = text(&code, "page").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let body = json!({ "code": code["code"] }).to_string();
    let signed_in = testbed::http::ask_tcp(
        port,
        &host,
        &testbed::http::Request {
            method: "POST",
            path: "/api/v1/session",
            headers: &[("Content-Type", "application/json")],
            body: body.as_bytes(),
        },
        PATIENCE,
    )
    .expect("it answers");
    assert_eq!(signed_in.status, 200);
    let cookie = signed_in.header("set-cookie").expect("a cookie");
    let cookie = cookie.trim_start_matches("sigil_session=").split(';').next().expect("a value").to_owned();
    let own = format!("sigil_session={cookie}");
    assert_eq!(home.ask_http(&host, "GET", "/api/v1/status", &[("Cookie", &own)]).status, 200);
    if !nix::unistd::geteuid().is_root() || !crate::mcp::python() {
        return crate::harness::skip("a session of another user", "another user is played by root, with python3");
    }
    for address in ["127.0.0.1", "::1"].iter().take(if ipv6 { 2 } else { 1 }) {
        assert_eq!(as_nobody(&host, address, port, &cookie).as_deref(), Some("401"), "{address}");
    }
    assert_eq!(
        home.ask_http(&host, "GET", "/api/v1/status", &[("Cookie", &own)]).status,
        200,
        "it goes on for its own"
    );
}

#[test]
fn events_say_which_device_and_which_call() {
    let mut mesh = Mesh::named(&["hub", "nas"]);
    mesh.wait_converged();
    let mut stream = UnixStream::connect(mesh.homes[0].path("run/sigil.sock")).expect("the door is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    write!(stream, "GET /api/v1/events?topics=nodes,call HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("it can be asked");
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
    let mut next = |about: &str| {
        let data = lines.find(|line| line.starts_with("data:") && line.contains(about)).expect("it is told");
        serde_json::from_str::<serde_json::Value>(data.trim_start_matches("data:")).expect("JSON")
    };
    let id = mesh.homes[0].call("nas", "device.info", 60);
    let call = next(&id);
    assert_eq!((text(&call, "node"), text(&call, "tool"), text(&call, "origin")), ("nas", "device.info", "hub"));
    let peer = mesh.homes[1].peer_id();
    mesh.homes[1].stop();
    let nodes = next("offline");
    let nas = json!({ "node_id": "nas", "peer_id": peer, "what": "offline" });
    assert!(nodes["changed"].as_array().is_some_and(|all| all.contains(&nas)), "{nodes}");
}
