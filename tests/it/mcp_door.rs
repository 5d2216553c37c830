//! The MCP door: clients of both eras over HTTP, and `sigil mcp` as a process. What ran is counted by files of the tools.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};
use testbed::http::{Request, ask_tcp};

use crate::harness::{Home, Mesh, PATIENCE, Response, SOON, done, items, now, text, wait_converged, wait_until};

const MODERN: &str = "2026-07-28";

fn post(home: &Home, headers: &[(&str, &str)], message: &Value) -> Response {
    let accept = ("accept", "application/json, text/event-stream");
    let all: Vec<(&str, &str)> =
        [("content-type", "application/json"), accept].into_iter().chain(headers.iter().copied()).collect();
    home.ask("POST", "/mcp", &all, message.to_string().as_bytes())
}

/// The messages of an answer, whether it is a document or a stream.
fn messages(response: &Response) -> Vec<Value> {
    let of = |line: &str| line.strip_prefix("data: ").map(|data| serde_json::from_str(data).expect("JSON"));
    match response.header("content-type") {
        Some(kind) if kind.starts_with("text/event-stream") => response.text().lines().filter_map(of).collect(),
        _ => vec![response.json()],
    }
}

/// A request of the older era; its result.
fn old(home: &Home, method: &str, params: &Value) -> Value {
    let response = post(home, &[], &json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params }));
    assert_eq!(response.status, 200, "{}", response.text());
    messages(&response).pop().expect("an answer")
}

/// A request of the newer era, by a client of this name; status and message.
fn new(home: &Home, method: &str, mut params: Value, capabilities: &Value) -> (u16, Value) {
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": capabilities });
    params["_meta"] = meta;
    let name = ["name", "uri", "taskId"].iter().find_map(|name| params[*name].as_str()).unwrap_or("-").to_owned();
    let headers = [("mcp-protocol-version", MODERN), ("mcp-method", method), ("mcp-name", name.as_str())];
    let response = post(home, &headers, &json!({ "jsonrpc": "2.0", "id": "a", "method": method, "params": params }));
    (response.status, messages(&response).pop().expect("an answer"))
}

fn tasks() -> Value {
    json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } })
}

fn call(home: &Home, name: &str, arguments: &Value) -> Value {
    let answer = old(home, "tools/call", &json!({ "name": name, "arguments": arguments }));
    assert!(answer["result"].is_object(), "{answer}");
    answer["result"].clone()
}

fn names(list: &Value) -> Vec<String> {
    let tools = list["result"]["tools"].as_array().unwrap_or_else(|| panic!("no tools in {list}"));
    tools.iter().map(|tool| text(tool, "name").to_owned()).collect()
}

fn without_meta(mut list: Value) -> String {
    for tool in list["result"]["tools"].as_array_mut().expect("tools") {
        tool.as_object_mut().expect("an object").remove("_meta");
    }
    list["result"].to_string()
}

fn hub_and_nas() -> Mesh {
    let mesh = Mesh::named(&["hub", "nas"]);
    mesh.wait_converged();
    wait_until("its tools are known", PATIENCE, || mesh.homes[0].tool("node:nas:slow").is_some());
    mesh
}

/// `sigil mcp` of a home, as a client starts it.
struct Pipe {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Pipe {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let program = std::env::var("SIGIL_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sigil").to_owned());
        let mut child = Command::new(program)
            .arg("mcp")
            .args(arguments)
            .arg("--home")
            .arg(home.path(""))
            .env("RUST_LOG", "trace")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (lines, received) = sync_channel(1_024);
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        Self { input: child.stdin.take(), child, lines: received }
    }

    fn send(&mut self, message: &Value) {
        let input = self.input.as_mut().expect("it is open");
        writeln!(input, "{message}").and_then(|()| input.flush()).expect("it reads");
    }

    /// The next message; whatever is no JSON is a failure.
    #[track_caller]
    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON ({error}): {line:?}"))
    }

    #[track_caller]
    fn ask(&mut self, id: u64, method: &str, params: &Value) -> Value {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let message = self.next();
            if message["id"] == id {
                return message;
            }
        }
    }

    /// Closes its input; its exit code.
    #[track_caller]
    fn end(mut self) -> i32 {
        drop(self.input.take());
        let started = now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status.code().unwrap_or(-1);
            }
            assert!(started.elapsed() < Duration::from_secs(3), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_mesh_is_one_list_in_both_eras() {
    let mut mesh = hub_and_nas();
    let (hub, nas) = (&mesh.homes[0], &mesh.homes[1]);
    let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
    let hello = old(hub, "initialize", &hello)["result"].clone();
    assert_eq!((text(&hello, "protocolVersion"), &hello["serverInfo"]["name"]), ("2025-06-18", &json!("sigil")));
    let future = old(hub, "initialize", &json!({ "protocolVersion": "2031-01-01" }));
    assert_eq!(future["result"]["protocolVersion"], "2025-11-25");

    let list = old(hub, "tools/list", &json!({}));
    let all = names(&list);
    assert!(
        all.is_sorted()
            && all.iter().all(|name| name.len() <= 46
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
    );
    for name in
        ["any__append", "hub__append", "nas__append", "nas__device_info", "sigil_call", "sigil_nodes", "memory_append"]
    {
        assert!(all.iter().any(|it| it == name), "{name} is not in {all:?}");
    }
    let shown = without_meta(list.clone());
    for home in [hub, hub, nas] {
        assert_eq!(without_meta(old(home, "tools/list", &json!({}))), shown, "the same bytes everywhere");
    }
    let device_info =
        list["result"]["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == "nas__device_info").unwrap();
    let hints =
        json!({ "readOnlyHint": true, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false });
    assert_eq!((&device_info["annotations"], &device_info["_meta"]["sigil/online"]), (&hints, &json!(true)));

    // It is called once, and says so.
    let ran = call(hub, "nas__append", &json!({}));
    assert_eq!((&ran["isError"], nas.witness().len()), (&json!(false), 1), "{ran}");
    let told = hub.get_call(text(&items(&hub.get("calls?limit=1").expect(200))[0], "id"));
    assert_eq!(
        (&told["arguments"], &told["arguments_bytes"], text(&told, "principal"), text(&told["origin"], "node_id")),
        (&json!({}), &json!(2), "agent:owner/mcp", "hub")
    );
    let error = old(hub, "tools/call", &json!({ "name": "nas__nothing" }));
    assert_eq!(error["error"]["code"], -32602, "{error}");
    let info = call(hub, "nas__device_info", &json!({}));
    assert!(info["structuredContent"].is_object() && info["content"][0]["type"] == "text", "{info}");

    // The newer era.
    let (_, hello) = new(hub, "server/discover", json!({}), &json!({}));
    assert_eq!(
        (&hello["result"]["resultType"], &hello["result"]["supportedVersions"][0]),
        (&json!("complete"), &json!(MODERN))
    );
    assert_eq!((&hello["result"]["cacheScope"], &hello["result"]["ttlMs"]), (&json!("private"), &json!(60_000)));
    let (_, listed) = new(hub, "tools/list", json!({}), &json!({}));
    assert_eq!((names(&listed), &listed["result"]["ttlMs"]), (all, &json!(5_000)));
    let (_, done) = new(hub, "tools/call", json!({ "name": "nas__append", "arguments": {} }), &json!({}));
    assert_eq!((&done["result"]["resultType"], nas.witness().len()), (&json!("complete"), 2), "{done}");
    let (status, error) = new(hub, "prompts/list", json!({}), &json!({}));
    assert_eq!((status, &error["error"]["code"]), (404, &json!(-32601)));
    let (status, error) = new(hub, "tasks/get", json!({ "taskId": "x" }), &json!({}));
    assert_eq!((status, &error["error"]["code"]), (400, &json!(-32021)));
    let mismatch = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": {
        "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {} } } });
    let refused = post(hub, &[("mcp-protocol-version", MODERN), ("mcp-method", "tools/call")], &mismatch);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!(-32020)));

    // A rename takes no name away, and a device that is off stays listed.
    done_rename(hub, nas);
    let renamed = old(hub, "tools/list", &json!({}));
    let append =
        renamed["result"]["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == "nas__append").cloned();
    assert_eq!(append.expect("it is there")["title"], "attic: append");
    mesh.homes[1].stop();
    let hub = &mesh.homes[0];
    hub.wait_node("attic", "offline");
    assert_eq!(without_meta(old(hub, "tools/list", &json!({}))), without_meta(renamed));
}

fn done_rename(hub: &Home, nas: &Home) {
    done(nas, &["rename", "attic"]);
    wait_until("it has its new name", PATIENCE, || hub.node_state("attic").is_some());
}

#[test]
fn whoever_may_not_come_in_does_not() {
    let hub = Home::new("hub").started();
    let ask = |host: &str, headers: &[(&str, &str)], body: &[u8]| {
        let headers: Vec<(&str, &str)> =
            [("content-type", "application/json")].into_iter().chain(headers.iter().copied()).collect();
        let request = Request { method: "POST", path: "/mcp", headers: &headers, body };
        ask_tcp(hub.http_port, host, &request, PATIENCE).expect("it answers")
    };
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let ours = format!("127.0.0.1:{}", hub.http_port);
    let token = done(&hub, &["token"]).split_whitespace().next().expect("a token").to_owned();
    let bearer = format!("Bearer {token}");
    let by = ("authorization", bearer.as_str());
    assert_eq!(ask(&ours, &[by], list.as_bytes()).status, 200);
    let unknown = ask(&ours, &[], list.as_bytes());
    assert!(text(&unknown.problem(401), "hint").contains("sigil token"));
    assert_eq!(ask("evil.example", &[by], list.as_bytes()).status, 421);
    assert_eq!(ask(&ours, &[by, ("origin", "http://evil.example")], list.as_bytes()).status, 403);
    let other_port = format!("http://127.0.0.1:{}", hub.http_port + 1);
    assert_eq!(ask(&ours, &[by, ("origin", other_port.as_str())], list.as_bytes()).status, 403);
    // What cannot be read.
    let code = |body: &str| ask(&ours, &[by], body.as_bytes()).json()["error"]["code"].as_i64();
    assert_eq!((code("{"), code("[]"), code("7")), (Some(-32700), Some(-32600), Some(-32600)));
    let deep =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}{}}}"#, "[".repeat(80), "]".repeat(80));
    assert_eq!(code(&deep), Some(-32600));
    let large =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "ping", "params": { "a": "x".repeat(2_000_000) } }).to_string();
    assert_eq!(ask(&ours, &[by], large.as_bytes()).status, 413);
    assert_eq!(ask(&ours, &[by, ("content-encoding", "gzip")], list.as_bytes()).status, 415);
    let get = Request { method: "GET", path: "/mcp", headers: &[by], body: b"" };
    assert_eq!(ask_tcp(hub.http_port, &ours, &get, PATIENCE).expect("it answers").status, 405);

    // On the socket it is an agent, which a person lets in, and may look at no calls but its own.
    let id = hub.call("hub", "append", 60);
    hub.wait_ended(&id, PATIENCE);
    let status = call(&hub, "sigil_call_status", &json!({ "call_id": id }));
    assert_eq!((&status["isError"], &status["structuredContent"]["error"]), (&json!(true), &json!("unknown_call")));
    let claude = [("sigil-mcp-client", "claude")];
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(post(&hub, &claude, &ping).status, 200);
    assert_eq!(post(&hub, &[("sigil-mcp-client", "Not A Name")], &ping).status, 422);
    let listed = hub.get("mcp/clients").expect(200);
    assert!(
        items(&listed).iter().any(|it| it["principal"] == "agent:owner/claude" && it["last_seen"].is_string()),
        "{listed}"
    );
    done(&hub, &["mcp", "clients", "revoke", "claude"]);
    assert_eq!(post(&hub, &claude, &ping).problem(403)["code"], "denied");
    done(&hub, &["mcp", "clients", "set", "claude", "--profile", "compact"]);
    let listed = post(&hub, &claude, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).json();
    assert!(names(&listed).iter().all(|name| name.starts_with("sigil_") || name.starts_with("memory_")), "{listed}");
    let append = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "sigil_call", "arguments": { "name": "hub__append" } } });
    let ran = post(&hub, &claude, &append);
    let ran = messages(&ran).pop().expect("an answer");
    assert_eq!((&ran["result"]["structuredContent"]["state"], hub.witness().len()), (&json!("done"), 2), "{ran}");
}

#[test]
fn a_device_that_sleeps_gets_its_call_when_it_wakes() {
    let mut mesh = hub_and_nas();
    mesh.homes[1].stop();
    let hub = &mesh.homes[0];
    hub.wait_node("nas", "offline");
    let began = now();
    let queued = call(hub, "nas__append", &json!({}));
    let took = began.elapsed();
    println!("answered for a sleeping device in {took:?}");
    assert!(took < SOON, "{took:?}");
    let standing = &queued["structuredContent"];
    assert_eq!((&queued["isError"], text(standing, "state")), (&json!(false), "queued"), "{queued}");
    let said = text(&queued["content"][0], "text");
    assert!(said.contains("nas") && said.contains("offline") && said.contains("sigil_call_status"), "{said}");
    let id = text(standing, "call_id").to_owned();
    assert_eq!(hub.get_call(&id)["ttl_s"], 86_400);

    // As a task, where the client knows them; the very same book.
    let (_, task) = new(hub, "tools/call", json!({ "name": "nas__append", "arguments": {} }), &tasks());
    let task = task["result"].clone();
    assert_eq!((text(&task, "resultType"), text(&task, "status")), ("task", "working"), "{task}");
    let (_, third) = new(hub, "tools/call", json!({ "name": "nas__append", "arguments": {} }), &tasks());
    let third = text(&third["result"], "taskId").to_owned();
    let (_, cancelled) = new(hub, "tasks/cancel", json!({ "taskId": third }), &tasks());
    assert_eq!(cancelled["result"], json!({ "resultType": "complete" }));

    // Its keeper dies meanwhile.
    mesh.homes[0].kill9();
    mesh.homes[0].start();
    mesh.homes[1].start();
    let hub = &mesh.homes[0];
    let status = call(hub, "sigil_call_status", &json!({ "call_id": id, "wait_s": 20 }));
    assert_eq!(text(&status["structuredContent"], "state"), "done", "{status}");
    let task_id = text(&task, "taskId");
    wait_until("the task is done", PATIENCE, || {
        new(hub, "tasks/get", json!({ "taskId": task_id }), &tasks()).1["result"]["status"] == "completed"
    });
    let (_, got) = new(hub, "tasks/get", json!({ "taskId": task_id }), &tasks());
    assert_eq!(
        (&got["result"]["result"]["isError"], got["result"]["result"]["content"].is_array()),
        (&json!(false), true),
        "{got}"
    );
    let (_, got) = new(hub, "tasks/get", json!({ "taskId": third }), &tasks());
    assert_eq!(got["result"]["status"], "cancelled", "{got}");
    let nas = &mesh.homes[1];
    assert_eq!((nas.runs_of(&id), nas.runs_of(task_id), nas.runs_of(&third)), (vec![1], vec![1], vec![]));
    assert_eq!(nas.witness().len(), 2);
}

#[cfg(feature = "fault-points")]
#[test]
fn what_takes_long_is_told_of_and_goes_on_by_itself() {
    let script = "i=0; while [ $i -lt 20 ]; do echo \"::progress $i of 20\" >&2; echo x >> \"$0.steps\"; sleep 0.2; i=$((i+1)); done; ";
    let mut hub = Home::new("hub");
    let witness = hub.witness_file();
    hub = hub.with_config(&testbed::witness::tool("long", "once", &witness, script, ""));
    hub.set_env("SIGIL_TEST_MCP_INLINE_MS", "1500");
    hub.start();
    let steps = || std::fs::read_to_string(format!("{}.steps", witness.display())).unwrap_or_default().len() / 2;
    let params = json!({ "name": "hub__long", "arguments": {}, "_meta": { "progressToken": "p" } });
    let response = post(&hub, &[], &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }));
    let all = messages(&response);
    let (answer, told) = all.split_last().expect("an answer");
    let progress: Vec<f64> = told.iter().filter_map(|it| it["params"]["progress"].as_f64()).collect();
    assert!(progress.len() >= 2 && progress.is_sorted() && told[0]["params"]["progressToken"] == "p", "{all:?}");
    assert!(told.iter().any(|it| text(&it["params"], "message").contains("of 20")), "{all:?}");
    let standing = &answer["result"]["structuredContent"];
    assert_eq!(text(standing, "state"), "running", "{answer}");
    let id = text(standing, "call_id").to_owned();
    // Detached, it is nobody's but the mesh's.
    let status = call(&hub, "sigil_call_status", &json!({ "call_id": id, "wait_s": 20 }));
    assert_eq!((text(&status["structuredContent"], "state"), steps()), ("done", 20), "{status}");

    // Before that, hanging up takes it back.
    let body = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "hub__long", "arguments": {} } }).to_string();
    let mut stream = std::os::unix::net::UnixStream::connect(hub.path("run/sigil.sock")).expect("it listens");
    let head =
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("it reads");
    wait_until("it runs", PATIENCE, || steps() > 21);
    let began = now();
    drop(stream);
    let newest = || items(&hub.get("calls?limit=1").expect(200))[0].clone();
    wait_until("it is stopped", PATIENCE, || newest()["state"] == "cancelled");
    println!("stopped {:?} after its client hung up", began.elapsed());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());

    // So does a word of the older era, for its own request alone.
    let session = [("mcp-session-id", "one")];
    let before = steps();
    let params = json!({ "name": "hub__long", "arguments": {} });
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            post(&hub, &session, &json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params }))
        });
        wait_until("it runs", PATIENCE, || steps() > before + 1);
        let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 3 } });
        assert_eq!(post(&hub, &[("mcp-session-id", "two")], &cancel).status, 202);
        assert_eq!(newest()["state"], "running");
        assert_eq!(post(&hub, &session, &cancel).status, 202);
        wait_until("it is stopped", PATIENCE, || newest()["state"] == "cancelled");
        let _ = waits.join();
    });
    let status = call(&hub, "sigil_call_status", &json!({ "call_id": newest()["id"] }));
    assert_eq!(text(&status["structuredContent"], "state"), "cancelled", "{status}");
}

#[test]
fn a_client_on_pipes_is_served_by_whichever_agent_runs() {
    let mut hub = Home::new("hub");
    let witness = hub.witness_file();
    hub = hub.with_config(&testbed::witness::tool("two_s", "once", &witness, "sleep 2; ", "; echo made"));
    // No agent: the first request says so, and what to do.
    let mut none = Pipe::start(&hub, &[]);
    let answer = none.ask(1, "ping", &json!({}));
    assert!(text(&answer["error"], "message").contains("sigil up"), "{answer}");
    assert_eq!(none.end(), 5);

    hub.start();
    let began = now();
    let mut pipe = Pipe::start(&hub, &["--as", "claude"]);
    let hello = pipe.ask(
        1,
        "initialize",
        &json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } }),
    );
    println!("first answer over pipes after {:?}", began.elapsed());
    assert_eq!(hello["result"]["protocolVersion"], "2025-11-25");
    pipe.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    assert!(names(&pipe.ask(2, "tools/list", &json!({}))).contains(&"hub__two_s".to_owned()));
    let ran = pipe.ask(3, "tools/call", &json!({ "name": "hub__append", "arguments": {} }));
    assert_eq!((&ran["result"]["isError"], hub.witness().len()), (&json!(false), 1), "{ran}");
    let listed = hub.get("mcp/clients").expect(200);
    assert!(items(&listed).iter().any(|it| it["principal"] == "agent:owner/claude" && it["says"] == "t 1"), "{listed}");
    // The newer era says all in the message: the proxy says it in the headers.
    let meta =
        json!({ "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {} });
    let modern = pipe.ask(4, "tools/call", &json!({ "name": "hub__append", "arguments": {}, "_meta": meta }));
    assert_eq!((&modern["result"]["resultType"], hub.witness().len()), (&json!("complete"), 2), "{modern}");

    // Its agent dies while a call is with a tool, and comes back: the call is the same one, and so is its end.
    pipe.send(&json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": { "name": "hub__two_s", "arguments": {} } }));
    wait_until("it runs", PATIENCE, || {
        items(&hub.get("calls?state=open").expect(200)).iter().any(|it| it["state"] == "running")
    });
    hub.kill9();
    hub.start();
    let answer = pipe.next();
    let calls = hub.get("calls").expect(200);
    let of_tool: Vec<&Value> = items(&calls).iter().filter(|it| it["tool"] == "two_s").collect();
    assert_eq!((of_tool.len(), &answer["id"]), (1, &json!(5)), "{answer} {calls}");
    // The tool was cut with its agent: nobody says that it has happened, nor that it has not.
    assert!(text(&answer["result"]["content"][0], "text").contains("may or may not have happened"), "{answer}");
    let again = pipe.ask(6, "tools/call", &json!({ "name": "hub__append", "arguments": {} }));
    assert_eq!(again["result"]["isError"], false, "{again}");

    // The end of its input ends it, and no call.
    pipe.send(&json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": "hub__two_s", "arguments": {} } }));
    wait_until("it runs", PATIENCE, || {
        items(&hub.get("calls?state=open").expect(200)).iter().any(|it| it["state"] == "running")
    });
    let id = text(&items(&hub.get("calls?limit=1").expect(200))[0], "id").to_owned();
    let began = now();
    assert_eq!(pipe.end(), 0);
    println!("ended {:?} after its input", began.elapsed());
    assert_eq!(text(&hub.wait_ended(&id, PATIENCE), "state"), "done");
    assert_eq!(hub.runs_of(&id), [1]);
}

#[test]
fn an_ask_is_answered_by_a_person_alone() {
    let hub = Home::new("hub").started();
    wait_converged(&[&hub], PATIENCE);
    done(&hub, &["workspace", "add", "family", "--node", "hub", "--members", "allow"]);
    done(
        &hub,
        &[
            "rule",
            "ask",
            "family/careful",
            "--who",
            "agents",
            "--tool",
            "again",
            "--wait",
            "10m",
            "--approver",
            "role:owner",
        ],
    );
    let claude = [("sigil-mcp-client", "claude")];
    let ask = |method: &str, params: Value| {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        messages(&post(&hub, &claude, &message)).pop().expect("an answer")
    };
    // What no rule gives to agents is not there for them.
    wait_until("the rule holds", PATIENCE, || {
        let all = names(&ask("tools/list", json!({})));
        all.contains(&"hub__again".to_owned()) && !all.contains(&"hub__append".to_owned())
    });
    assert_eq!(ask("tools/call", json!({ "name": "hub__append" }))["error"]["code"], -32602);
    let waits = ask("tools/call", json!({ "name": "hub__again" }))["result"].clone();
    let standing = &waits["structuredContent"];
    assert_eq!(text(standing, "state"), "waiting_for_approval", "{waits}");
    assert_eq!((&standing["approvers"], &waits["isError"]), (&json!(["person:owner"]), &json!(false)), "{waits}");
    assert!(text(standing, "approve_where").contains("sigil approvals"), "{waits}");
    let id = text(standing, "call_id").to_owned();
    // Nothing that the client says is a yes.
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": tasks() });
    let headers =
        [claude[0], ("mcp-protocol-version", MODERN), ("mcp-method", "tasks/update"), ("mcp-name", id.as_str())];
    let update = json!({ "taskId": id, "inputResponses": { "approve": { "action": "accept" } }, "_meta": meta });
    let update =
        post(&hub, &headers, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tasks/update", "params": update }));
    assert_eq!(update.json()["result"], json!({ "resultType": "complete" }));
    assert!(hub.witness().is_empty() && hub.get_call(&id)["state"] == "asking");
    done(&hub, &["approvals", "answer", &id, "yes"]);
    assert_eq!(hub.wait_ended(&id, PATIENCE)["state"], "done");
    let status = ask("tools/call", json!({ "name": "sigil_call_status", "arguments": { "call_id": id } }));
    assert_eq!(status["result"]["structuredContent"]["state"], "done", "{status}");
    assert_eq!(hub.runs_of(&id), [1]);
}

#[test]
fn results_are_handed_on_as_what_they_are() {
    if !crate::mcp::python() {
        return crate::harness::skip("mcp_door", "python3 is missing");
    }
    let (mesh, _dir) = crate::mcp::hosts("old");
    let hub = &mesh.homes[0];
    wait_until("they are listed", PATIENCE, || {
        names(&old(hub, "tools/list", &json!({}))).contains(&"nas__py_mixed".to_owned())
    });
    let list = old(hub, "tools/list", &json!({}));
    let mixed =
        list["result"]["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == "nas__py_mixed").unwrap();
    assert_eq!(
        (&mixed["_meta"]["sigil/hints"], &mixed["annotations"]["destructiveHint"]),
        (&json!("untrusted"), &json!(true))
    );
    let mixed = call(hub, "nas__py_mixed", &json!({}));
    let kinds: Vec<&str> = mixed["content"].as_array().unwrap().iter().map(|part| text(part, "type")).collect();
    // What has a name is a document.
    assert_eq!(kinds, ["text", "image", "resource", "resource"], "{mixed}");
    let image = data_encoding_of(text(&mixed["content"][1], "data"));
    assert_eq!((image.as_slice(), text(&mixed["content"][1], "mimeType")), (b"\x89PNG cat".as_slice(), "image/png"));
    assert_eq!(call(hub, "nas__py_structured", &json!({}))["structuredContent"], json!({ "n": 1 }));
    let fail = call(hub, "nas__py_fail", &json!({}));
    assert!(fail["isError"] == true && text(&fail["content"][0], "text").contains("it went wrong"), "{fail}");
    let unfit = call(hub, "nas__py_hello", &json!({ "name": "much too long" }));
    assert!(unfit["isError"] == true && text(&unfit["content"][0], "text").contains("nothing ran"), "{unfit}");
    let crash = call(hub, "nas__py_crash", &json!({}));
    let said = text(&crash["content"][0], "text");
    assert!(said.contains("may or may not have happened"), "{crash}");
    assert_eq!(crash["structuredContent"]["retryable"], false);
}

fn data_encoding_of(base64: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in base64.trim_end_matches('=').as_bytes().chunks(4) {
        let bits =
            four.iter().enumerate().fold(0_u32, |bits, (n, byte)| bits | u32::from(value(*byte)) << (18 - 6 * n));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

#[test]
fn what_is_too_large_for_an_answer_is_read_by_itself() {
    let large = "head -c 3000000 /dev/zero | tr '\\0' x";
    let hub = Home::new("hub").with_tool("large", large, "none").started();
    let result = call(&hub, "hub__large", &json!({}));
    let link = &result["content"][0];
    assert_eq!((text(link, "type"), &link["size"]), ("resource_link", &json!(3_000_000)), "{result}");
    let read = old(&hub, "resources/read", &json!({ "uri": link["uri"] }));
    let bytes = data_encoding_of(text(&read["result"]["contents"][0], "blob"));
    assert!(bytes.len() == 3_000_000 && bytes.iter().all(|byte| *byte == b'x'), "{}", bytes.len());
    let unknown = old(&hub, "resources/read", &json!({ "uri": "sigil://result/00000000000000000000000000/0" }));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    // Over pipes it is one line like any other.
    let mut pipe = Pipe::start(&hub, &["--as", "mcp"]);
    let read = pipe.ask(1, "resources/read", &json!({ "uri": link["uri"] }));
    assert_eq!(text(&read["result"]["contents"][0], "blob").len(), 4_000_000);
}

#[test]
fn memory_is_used_by_an_agent_of_its_owner() {
    let hub = Home::new("hub").started();
    let said = ["Alice is a software engineer at Acme Corp", "The dentist is on Friday at nine", "Bob feeds the cat"];
    let messages: Vec<Value> = said.iter().map(|said| json!({ "text": said, "speaker": "mia" })).collect();
    let taken = call(&hub, "memory_append", &json!({ "messages": messages }));
    assert_eq!(taken["structuredContent"]["items"].as_array().map(Vec::len), Some(3), "{taken}");
    let found = call(&hub, "sigil_memory_search", &json!({ "query": "dentist", "k": 2 }));
    let hits = found["structuredContent"]["hits"].as_array().expect("a list");
    assert!(hits.iter().any(|hit| text(&hit["message"], "text").contains("Friday")), "{found}");
    let summed = call(&hub, "memory_summary", &json!({ "compact": true }));
    assert_eq!(summed["structuredContent"]["compacted"]["messages_processed"], 3, "{summed}");
    assert!(!summed["structuredContent"]["summaries"].as_array().expect("a list").is_empty(), "{summed}");
    let facts = call(&hub, "memory_recall", &json!({ "topic": "Alice" }));
    assert!(!facts["structuredContent"]["facts"].as_array().expect("a list").is_empty(), "{facts}");
    let near = call(&hub, "memory_semantic", &json!({ "query": "appointment of teeth" }));
    assert_eq!(near["structuredContent"]["degraded"], json!(["vectors"]), "{near}");
    let bad = call(&hub, "memory_append", &json!({ "messages": [] }));
    assert_eq!((&bad["isError"], &bad["structuredContent"]["error"]), (&json!(true), &json!("invalid")), "{bad}");
}

#[test]
fn clients_start_it_as_they_are_told_to() {
    let hub = Home::new("hub").started();
    for client in ["claude", "claude-code", "cursor", "openclaw", "vscode", "other"] {
        let printed = done(&hub, &["mcp", "config", "--client", client]);
        let settings: Value = serde_json::from_str(&printed).expect("JSON");
        let server = &settings[if client == "vscode" { "servers" } else { "mcpServers" }]["sigil"];
        let arguments: Vec<&str> =
            server["args"].as_array().expect("arguments").iter().filter_map(Value::as_str).collect();
        let mut child = Command::new(text(server, "command"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut input = child.stdin.take().expect("piped");
        writeln!(input, "{}", json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).expect("it reads");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it answers");
        assert!(names(&serde_json::from_str(&line).expect("JSON")).contains(&"hub__append".to_owned()), "{client}");
        drop(input);
        assert!(child.wait().expect("it ends").success());
    }
}

/// A client of the older era that listens, at the socket of a home.
struct Ear(BufReader<std::os::unix::net::UnixStream>);

impl Ear {
    fn open(home: &Home) -> (u16, Self) {
        let mut stream = std::os::unix::net::UnixStream::connect(home.path("run/sigil.sock")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is one");
        write!(stream, "GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").expect("it reads");
        let mut ear = Self(BufReader::new(stream));
        let status = ear.line().split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, ear)
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it says something");
        line
    }

    /// The next message.
    #[track_caller]
    fn next(&mut self) -> Value {
        loop {
            if let Some(data) = self.line().strip_prefix("data: ") {
                return serde_json::from_str(data.trim()).expect("JSON");
            }
        }
    }
}

#[test]
fn in_the_older_era_too_a_client_hears_that_the_list_has_changed() {
    let one = "[discovery]\nlan = false\n[tools.one]\ncommand = \"true\"\n";
    let hub = Home::new("hub").with_only_config(one).started();
    let (status, mut ear) = Ear::open(&hub);
    assert_eq!(status, 200);
    let mut pipe = Pipe::start(&hub, &["--as", "claude"]);
    let hello = pipe.ask(1, "initialize", &json!({ "protocolVersion": "2025-11-25", "capabilities": {} }));
    assert_eq!(hello["result"]["capabilities"]["tools"]["listChanged"], true);
    pipe.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    assert!(names(&pipe.ask(2, "tools/list", &json!({}))).contains(&"hub__one".to_owned()));
    let said = json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {} });
    let mut hub = changed(hub, &pipe);
    assert_eq!(ear.next(), said);
    assert!(!names(&pipe.ask(3, "tools/list", &json!({}))).contains(&"hub__one".to_owned()));
    // The stream ends with its agent, and the proxy listens at the next one.
    hub.stop();
    hub.start();
    changed(hub, &pipe);
    assert_eq!(pipe.end(), 0);
}

/// Changes the tools of a home until a client hears of it: whether it listens already, only this tells.
#[track_caller]
fn changed(mut hub: Home, pipe: &Pipe) -> Home {
    for number in 0..6 {
        hub = hub.with_only_config(&format!("[discovery]\nlan = false\n[tools.t{number}]\ncommand = \"true\"\n"));
        while let Ok(line) = pipe.lines.recv_timeout(Duration::from_secs(4)) {
            if line.contains("notifications/tools/list_changed") {
                return hub;
            }
        }
    }
    panic!("it hears of nothing");
}

#[test]
fn those_who_listen_have_a_number() {
    let hub = Home::new("hub").started();
    let mut ears: Vec<Ear> = (0..64)
        .map(|_| {
            let (status, ear) = Ear::open(&hub);
            assert_eq!(status, 200);
            ear
        })
        .collect();
    assert_eq!(Ear::open(&hub).0, 429);
    let (status, error) = new(&hub, "subscriptions/listen", json!({ "notifications": {} }), &json!({}));
    assert_eq!((status, &error["error"]["code"]), (429, &json!(-32_000)), "{error}");
    // All else is answered, and who goes makes room.
    assert!(!names(&old(&hub, "tools/list", &json!({}))).is_empty());
    ears.pop();
    wait_until("there is room", PATIENCE, || Ear::open(&hub).0 == 200);
}

#[test]
fn a_client_that_hangs_up_at_once_leaves_no_call_behind() {
    let mut hub = Home::new("hub");
    let witness = hub.witness_file();
    hub = hub.with_config(&testbed::witness::tool("nap", "once", &witness, "sleep 4; echo over >> \"$0.over\"; ", ""));
    hub.start();
    let body =
        json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "hub__nap", "arguments": {} } })
            .to_string();
    for micros in [0, 200, 500, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000, 12_000, 20_000] {
        let mut stream = std::os::unix::net::UnixStream::connect(hub.path("run/sigil.sock")).expect("it listens");
        let head =
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("it reads");
        std::thread::sleep(Duration::from_micros(micros));
    }
    std::thread::sleep(Duration::from_millis(300));
    wait_until("none is open", Duration::from_secs(3), || items(&hub.get("calls?state=open").expect(200)).is_empty());
    let calls = hub.get("calls?limit=50").expect(200);
    let states: Vec<&str> = items(&calls).iter().map(|call| text(call, "state")).collect();
    println!("{} of 12 were accepted", states.len());
    assert!(states.len() >= 3 && states.iter().all(|state| *state == "cancelled"), "{states:?}");
    assert!(!std::path::Path::new(&format!("{}.over", witness.display())).exists(), "no run came to its end");
}
