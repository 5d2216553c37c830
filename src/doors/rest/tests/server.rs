//! The doors themselves: who gets in, what every route has in common, and how they close.

use super::*;
use crate::doors::listen::ListenError;
use crate::doors::rest::guard::guarded;
use crate::doors::serve::routes;

#[tokio::test]
async fn stopping_ends_event_streams_and_removes_the_socket() {
    let fake = Fake::start().await;
    let mut live = fake.events("", None).await;
    fake.events.push(ACCEPTED_MS, EventKind::Nodes);
    assert!(live.next().await.is_some());
    let socket = fake.bound.socket.clone();
    let (ended, ()) = tokio::join!(live.next(), async {
        // The fake mesh has no stop of its own, so this grace always runs out.
        fake.tasks.shutdown(std::time::Duration::from_secs(1)).await;
    });
    assert!(ended.is_none());
    assert!(!socket.exists());
    assert!(tokio::net::TcpStream::connect(fake.bound.http).await.is_err());
}

#[tokio::test]
async fn every_error_of_the_router_is_a_problem() {
    let fake = Fake::start().await;
    fake.get("/nothing").await.problem(404, "not_found");
    fake.get("/api/v1/nothing").await.problem(404, "not_found");
    let answer = fake.ask(Method::PUT, "/api/v1/calls", Some("{}")).await;
    answer.problem(405, "method_not_allowed");
    assert!(answer.header("allow").contains("GET") && answer.header("allow").contains("POST"), "{answer:?}");
    let answer = fake.ask(Method::from_bytes(b"BREW").unwrap(), "/api/v1/status", None).await;
    answer.problem(405, "method_not_allowed");
    fake.get("/api/v1/nodes/%ff").await.problem(400, "bad_request");
    let large = json!({ "code": "x".repeat(20_000) }).to_string();
    fake.post("/api/v1/join", &large).await.problem(413, "too_large");
    fake.post("/api/v1/join", &"[".repeat(10_000)).await.problem(422, "invalid");
    let head = fake.ask(Method::HEAD, "/api/v1/status", None).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn a_question_to_a_mesh_that_was_left_meanwhile_is_told_so() {
    let fake = Fake::start().await;
    fake.books().moves = true;
    fake.get(&format!("/api/v1/calls/{}", "0".repeat(26))).await.problem(503, "moved");
}

#[tokio::test]
async fn a_panic_is_our_fault_and_ends_one_request_only() {
    let fake = Fake::start().await;
    let app = Arc::new(App::new(fake.idle_context(), fake.bound.clone(), fake.tasks.stopping()));
    let broken = axum::routing::get(async || -> &'static str { panic!("on purpose") });
    let fine = axum::routing::get(async || "fine");
    let router = guarded(axum::Router::new().route("/broken", broken).route("/fine", fine), app);
    let ask = async |path: &str| {
        let mut request = HttpRequest::new(axum::body::Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(Arrival::Socket { owner: true });
        let (parts, body) = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap().into_parts();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    };
    let problem = ask("/broken").await.problem(500, "internal");
    assert!(!problem.to_string().contains("on purpose"));
    assert_eq!(ask("/fine").await.status, 200);
}

#[tokio::test]
async fn a_stranger_at_the_socket_is_refused() {
    let fake = Fake::start().await;
    let app = Arc::new(App::new(fake.idle_context(), fake.bound.clone(), fake.tasks.stopping()));
    for path in ["/api/v1/status", "/healthz"] {
        let mut request = HttpRequest::new(axum::body::Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(Arrival::Socket { owner: false });
        let answer = tower::ServiceExt::oneshot(routes(app.clone()), request).await.unwrap();
        assert_eq!(answer.status(), 403, "{path}");
    }
}

#[tokio::test]
async fn a_stopping_agent_does_not_wait_for_calls() {
    let fake = Fake::start().await;
    let mut events = fake.events("?topics=call", None).await;
    let body = r#"{"tool":"node:desk:slow"}"#;
    let (answer, ()) =
        tokio::join!(fake.ask_with(Method::POST, "/api/v1/calls", &[("prefer", "wait=300")], Some(body)), async {
            events.next().await.unwrap();
            fake.tasks.shutdown(std::time::Duration::from_secs(1)).await;
        });
    assert_eq!(answer.ok(202)["state"], "queued");
}

#[tokio::test]
async fn loopback_asks_for_a_token_our_name_and_our_origin() {
    let fake = Fake::start().await;
    let port = fake.bound.http.port();
    let host = format!("localhost:{port}");
    let bearer = format!("Bearer {}", fake.token);
    let (host, token) = (("host", host.as_str()), ("authorization", bearer.as_str()));
    let status = "/api/v1/status";

    fake.http(Method::GET, status, &[host, token]).await.ok(200);
    let answer = fake.http(Method::GET, status, &[host]).await;
    answer.problem(401, "unauthorized");
    assert!(answer.header("www-authenticate").starts_with("Bearer"));
    fake.http(Method::GET, status, &[host, ("authorization", "Bearer sigil_wrong")]).await.problem(401, "unauthorized");
    fake.http(Method::GET, "/metrics", &[host]).await.problem(401, "unauthorized");
    fake.http(Method::GET, "/nothing", &[host]).await.problem(401, "unauthorized");
    for open in ["/healthz", "/readyz"] {
        assert_eq!(fake.http(Method::GET, open, &[host]).await.status, 200);
    }

    for evil in ["evil.example", "localhost:1", "localhost.evil.example:80"] {
        fake.http(Method::GET, status, &[("host", evil), token]).await.problem(421, "wrong_host");
        fake.http(Method::GET, "/healthz", &[("host", evil)]).await.problem(421, "wrong_host");
    }
    fake.http(Method::GET, status, &[host, ("host", "evil.example"), token]).await.problem(421, "wrong_host");

    let reject = "/api/v1/pending/phone/reject";
    fake.http(Method::POST, reject, &[host, token]).await.ok(204);
    let ours = format!("http://127.0.0.1:{port}");
    fake.http(Method::POST, reject, &[host, token, ("origin", &ours)]).await.ok(204);
    for evil in ["http://evil.example", "null", "https://localhost", "http://localhost:1"] {
        fake.http(Method::POST, reject, &[host, token, ("origin", evil)]).await.problem(403, "cross_origin");
        fake.http(Method::GET, "/api/v1/events", &[host, token, ("origin", evil)]).await.problem(403, "cross_origin");
    }
    let cross = ("sec-fetch-site", "cross-site");
    fake.http(Method::POST, reject, &[host, token, cross]).await.problem(403, "cross_origin");
    let answer = fake.http(Method::GET, status, &[host, token, ("origin", "http://evil.example")]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
}

#[tokio::test]
async fn tokens_are_made_and_voided_through_the_socket_only() {
    let fake = Fake::start().await;
    let host = format!("127.0.0.1:{}", fake.bound.http.port());
    let old = format!("Bearer {}", fake.token);
    let host = ("host", host.as_str());
    fake.http(Method::POST, "/api/v1/tokens", &[host, ("authorization", &old)]).await.problem(403, "denied");
    let made = fake.ask(Method::POST, "/api/v1/tokens", None).await.ok(201);
    let new = format!("Bearer {}", made["token"].as_str().unwrap());
    fake.http(Method::GET, "/api/v1/status", &[host, ("authorization", &new)]).await.ok(200);
    // s28: named, listed without their texts, revoked alone.
    let list = fake.get("/api/v1/tokens").await.ok(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert!(!list.to_string().contains("sigil_"), "{list}");
    let body = r#"{"name":"panel","read_only":true,"expires_s":3600}"#;
    let panel = fake.post("/api/v1/tokens", body).await.ok(201);
    assert_eq!(
        (&panel["name"], &panel["read_only"], &panel["last_used"]),
        (&json!("panel"), &json!(true), &Value::Null)
    );
    let reads = format!("Bearer {}", panel["token"].as_str().unwrap());
    for path in ["/api/v1/status", "/api/v1/people", "/api/v1/policy"] {
        fake.http(Method::GET, path, &[host, ("authorization", &reads)]).await.ok(200);
    }
    for (method, path) in
        [(Method::POST, "/api/v1/invites"), (Method::POST, "/api/v1/calls"), (Method::DELETE, "/api/v1/nodes/nas")]
    {
        fake.http(method, path, &[host, ("authorization", &reads)]).await.problem(403, "denied");
    }
    let one = format!("/api/v1/tokens/{}", panel["id"].as_str().unwrap());
    fake.http(Method::DELETE, &one, &[host, ("authorization", &new)]).await.problem(403, "denied");
    fake.ask(Method::DELETE, &one, None).await.ok(204);
    fake.ask(Method::DELETE, &one, None).await.problem(404, "unknown_token");
    fake.http(Method::GET, "/api/v1/status", &[host, ("authorization", &reads)]).await.problem(401, "unauthorized");
    // Nobody leaves by a token, whatever else it may do.
    fake.http(Method::POST, "/api/v1/leave", &[host, ("authorization", &new)]).await.problem(403, "denied");
    for bad in [r#"{"expires_s":0}"#, r#"{"name":"a\nb"}"#, r#"{"scope":"all"}"#] {
        fake.post("/api/v1/tokens", bad).await.problem(422, "invalid");
    }
    fake.ask(Method::DELETE, "/api/v1/tokens", None).await.ok(204);
    for void in [&old, &new] {
        fake.http(Method::GET, "/api/v1/status", &[host, ("authorization", void)]).await.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn s28_a_token_reaches_no_further_than_it_says() {
    let fake = Fake::start().await;
    let made = fake.post("/api/v1/tokens", r#"{"name":"tv","nodes":["tv"],"tools":["tv.*"]}"#).await.ok(201);
    assert_eq!((&made["principal"], &made["tools"]), (&json!("person:owner"), &json!(["tv.*"])));
    let host = format!("127.0.0.1:{}", fake.bound.http.port());
    let narrow = format!("Bearer {}", made["token"].as_str().unwrap());
    let whole = format!("Bearer {}", fake.token);
    let ask = async |method: Method, path: &str, token: &str| {
        fake.http(method, path, &[("host", &host), ("authorization", token)]).await
    };
    // Not the only owner who may be left, and by one that is narrowed nobody at all.
    ask(Method::DELETE, "/api/v1/nodes/nas", &whole).await.problem(403, "denied");
    for (method, path) in [
        (Method::DELETE, "/api/v1/nodes/tv"),
        (Method::POST, "/api/v1/pending/phone/reject"),
        (Method::POST, "/api/v1/invites"),
        (Method::POST, "/api/v1/reload"),
        (Method::GET, "/api/v1/policy/matrix"),
        (Method::GET, "/api/v1/policy"),
        (Method::GET, "/api/v1/policy/rules"),
        (Method::GET, "/api/v1/people"),
        (Method::GET, "/api/v1/people/owner"),
        (Method::GET, "/api/v1/workspaces"),
        (Method::GET, "/api/v1/invites"),
        (Method::GET, "/api/v1/logs"),
        (Method::GET, "/metrics"),
    ] {
        ask(method, path, &narrow).await.problem(403, "denied");
    }
    assert!(fake.books().revoked.is_empty() && fake.books().rejected.is_empty() && fake.books().invites.is_empty());
    // For somebody whom nobody knows there is none.
    fake.post("/api/v1/tokens", r#"{"principal":"person:mia"}"#).await.problem(404, "unknown_person");
    fake.post("/api/v1/tokens", r#"{"principal":"device:fridge"}"#).await.problem(404, "unknown_node");
    // A device's token sees no calls of people, and its own tokens only; a narrowed one no calls but its own.
    let made = fake.post("/api/v1/tokens", r#"{"principal":"device:desk"}"#).await.ok(201);
    let device = format!("Bearer {}", made["token"].as_str().unwrap());
    let call = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"slow"}"#).await.ok(202);
    let one = format!("/api/v1/calls/{}", call["id"].as_str().unwrap());
    for path in [one.clone(), format!("{one}/result")] {
        ask(Method::GET, &path, &device).await.problem(404, "unknown_call");
    }
    ask(Method::POST, &format!("{one}/cancel"), &device).await.problem(404, "unknown_call");
    let count =
        async |path: &str, token: &str| ask(Method::GET, path, token).await.ok(200)["items"].as_array().unwrap().len();
    assert_eq!([count("/api/v1/calls", &device).await, count("/api/v1/calls", &narrow).await], [0, 0]);
    assert_eq!([count("/api/v1/tokens", &device).await, count("/api/v1/tokens", &whole).await], [1, 3]);
    ask(Method::GET, &one, &narrow).await.problem(404, "unknown_call");
    assert_eq!(ask(Method::GET, &one, &whole).await.ok(200)["id"], call["id"]);
}

#[tokio::test]
async fn the_socket_is_ours_and_replaces_a_dead_one() {
    let fake = Fake::start().await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&fake.bound.socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660);

    let context = || fake.idle_context();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let tasks = &fake.tasks;
    let taken = serve(context(), &fake.bound.socket, any, tasks).await.unwrap_err();
    assert!(matches!(taken, ListenError::SocketInUse(_)), "{taken}");
    let other = fake.home.path().join("other.sock");
    let taken = serve(context(), &other, fake.bound.http, tasks).await.unwrap_err();
    assert!(taken.to_string().contains(&fake.bound.http.port().to_string()), "{taken}");
    assert!(matches!(
        serve(context(), &other, "0.0.0.0:0".parse().unwrap(), tasks).await,
        Err(ListenError::NotLoopback(_))
    ));
    drop(std::os::unix::net::UnixListener::bind(&other).unwrap());
    assert!(other.exists(), "a dead socket");
    serve(context(), &other, any, tasks).await.unwrap();
    let file = fake.home.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(serve(context(), &file, any, tasks).await.is_err());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn half_sent_requests_are_dropped_in_the_end() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let fake = Fake::start().await;
    let mut slow = tokio::net::UnixStream::connect(&fake.bound.socket).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(std::time::Duration::from_mins(1), slow.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "closed by the server");
}

#[tokio::test]
async fn s19_half_sent_requests_shut_no_door() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let fake = Fake::start().await;
    let mut slow = Vec::new();
    for _ in 0..crate::doors::listen::CONNECTIONS_MAX + 50 {
        let mut half = tokio::net::TcpStream::connect(fake.bound.http).await.unwrap();
        half.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
        slow.push(half);
    }
    let began = tokio::time::Instant::now();
    let mut honest = tokio::net::TcpStream::connect(fake.bound.http).await.unwrap();
    let head = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", fake.bound.http);
    honest.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    honest.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Before any of the others has run out of time.
    assert!(began.elapsed() < std::time::Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(fake.get("/api/v1/status").await.status, 200, "and the socket is not touched");
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let fake = Fake::start().await;
    let long = "x".repeat(64 * 1024);
    let answer = fake.ask_with(Method::GET, "/healthz", &[("x-long", &long)], None).await;
    assert_eq!(answer.status, 431);
}

#[tokio::test]
async fn doctor_logs_metrics_and_description() {
    let fake = Fake::start().await;
    let report = fake.get("/api/v1/doctor").await.ok(200);
    let state = |id: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap()["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state("clock"), "ok");
    assert_eq!(state("discovery"), "warn");
    // The key that the fake wrote is readable by everyone, as the umask has it, or not: either way it is looked at.
    assert!(["ok", "error"].contains(&state("identity").as_str()));
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(check["state"] == "ok", check["fix"].is_null(), "{check}");
    }

    let subscriber = tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), fake.logs.layer());
    tracing::subscriber::with_default(subscriber, || tracing::info!(node = "nas", "hello"));
    let logs = fake.get("/api/v1/logs").await.ok(200);
    assert_eq!(logs["items"][0]["message"], "hello node=\"nas\"");
    let cursor = logs["next_cursor"].as_str().unwrap();
    assert_eq!(fake.get(&format!("/api/v1/logs?cursor={cursor}")).await.ok(200)["items"], json!([]));
    fake.get("/api/v1/logs?level=loud").await.problem(422, "invalid");

    fake.get("/nowhere").await.problem(404, "not_found");
    let metrics = fake.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    for name in
        ["sigil_gateway_epoch 4", "sigil_nodes{state=\"offline\"} 1", "process_resident_memory_bytes", "route=\"none\""]
    {
        assert!(text.contains(name), "{name} in {text}");
    }

    let api = fake.get("/openapi.json").await.ok(200);
    let operations = api["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    let mut ids: Vec<_> = operations.filter_map(|operation| operation["operationId"].as_str()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "each operation has an id of its own");
    assert_eq!(api["openapi"].as_str().unwrap().get(..3), Some("3.1"));
    assert!(api["paths"]["/api/v1/calls/{id}/result"]["get"]["responses"]["410"].is_object());
}
