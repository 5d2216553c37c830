//! Sessions of the web page: who opens one, under which name it counts, what it may, and how it ends.

use super::*;

/// A browser at the page.
struct Browser<'a> {
    fake: &'a Fake,
    host: String,
    cookie: String,
    csrf: String,
}

async fn code(fake: &Fake) -> (String, String) {
    let answer = fake.post("/api/v1/ui/codes", "{}").await.ok(201);
    let url = answer["url"].as_str().unwrap();
    let host = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    assert!(url.ends_with(&format!("/#/in/{}", answer["code"].as_str().unwrap())), "{url}");
    (answer["code"].as_str().unwrap().to_owned(), host.to_owned())
}

async fn sign_in(fake: &Fake, code: &str, headers: &[(&str, &str)]) -> Answer {
    let body = json!({ "code": code }).to_string();
    let mut all = vec![("content-type", "application/json")];
    all.extend(headers);
    let stream = tokio::net::TcpStream::connect(fake.bound.http).await.unwrap();
    Answer::read(send(stream, &fake.tasks, Method::POST, "/api/v1/session", &all, Some(&body)).await).await
}

impl<'a> Browser<'a> {
    async fn open(fake: &'a Fake) -> Self {
        let (code, host) = code(fake).await;
        let answer = sign_in(fake, &code, &[("host", &host)]).await;
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        let csrf = answer.ok(200)["csrf"].as_str().unwrap().to_owned();
        Self { fake, host, cookie, csrf }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&str>) -> Answer {
        let headers = [
            ("host", &*self.host),
            ("cookie", &*self.cookie),
            ("x-sigil-csrf", &*self.csrf),
            ("content-type", "application/json"),
        ];
        let stream = tokio::net::TcpStream::connect(self.fake.bound.http).await.unwrap();
        Answer::read(send(stream, &self.fake.tasks, method, path, &headers, body).await).await
    }
}

#[tokio::test]
async fn only_the_socket_makes_a_code_and_it_opens_one_session() {
    let fake = Fake::start().await;
    fake.post_by_token("/api/v1/ui/codes", "{}").await.problem(403, "denied");
    let (code, host) = code(&fake).await;
    let answer = sign_in(&fake, &code, &[("host", &host), ("user-agent", "a browser")]).await;
    let cookie = answer.header("set-cookie").to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.to_ascii_lowercase().contains("domain"), "{cookie}");
    let session = answer.ok(200);
    assert_eq!((&session["principal"]["id"], &session["principal"]["role"]), (&json!("person:owner"), &json!("owner")));
    sign_in(&fake, &code, &[("host", &host)]).await.problem(410, "sign_in_used");
    sign_in(&fake, "AAAAA-AAAAA", &[("host", &host)]).await.problem(404, "sign_in_unknown");
    sign_in(&fake, "AAAAA", &[("host", &host)]).await.problem(422, "invalid");
}

#[tokio::test]
async fn a_cookie_counts_under_the_name_of_the_page_alone() {
    let fake = Fake::start().await;
    let port = fake.bound.http.port();
    let (code, host) = code(&fake).await;
    for other in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), format!("[::1]:{port}")] {
        let answer = sign_in(&fake, &code, &[("host", &other)]).await;
        assert!(!String::from_utf8_lossy(&answer.body).contains(&host), "its name is told to nobody");
        answer.problem(403, "denied");
    }
    let page = Browser::open(&fake).await;
    page.ask(Method::GET, "/api/v1/status", None).await.ok(200);
    for other in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let headers = [("host", &*other), ("cookie", &*page.cookie)];
        fake.http(Method::GET, "/api/v1/status", &headers).await.problem(401, "unauthorized");
        fake.http(Method::GET, "/api/v1/session", &headers).await.problem(401, "unauthorized");
    }
    let evil = format!("sigil-aaaaaaaaaaaaa.localhost:{port}");
    fake.http(Method::GET, "/api/v1/status", &[("host", &evil), ("cookie", &page.cookie)])
        .await
        .problem(421, "wrong_host");
    // One of two was set by somebody else.
    let two = format!("{}; sigil_session=x", page.cookie);
    fake.http(Method::GET, "/api/v1/status", &[("host", &page.host), ("cookie", &two)])
        .await
        .problem(401, "unauthorized");
}

#[tokio::test]
async fn what_changes_something_needs_the_value_of_the_page_and_its_origin() {
    let fake = Fake::start().await;
    let page = Browser::open(&fake).await;
    let (port, own) = (fake.bound.http.port(), format!("http://{}", page.host));
    let reject = "/api/v1/pending/phone/reject";
    let (host, cookie) = (("host", &*page.host), ("cookie", &*page.cookie));
    fake.http(Method::POST, reject, &[host, cookie]).await.problem(403, "csrf");
    fake.http(Method::POST, reject, &[host, cookie, ("x-sigil-csrf", "wrong")]).await.problem(403, "csrf");
    let csrf = ("x-sigil-csrf", &*page.csrf);
    let loopback = format!("http://127.0.0.1:{port}");
    for foreign in [&*loopback, "http://evil.example", "null", "https://localhost"] {
        let headers = [host, cookie, csrf, ("origin", foreign)];
        fake.http(Method::POST, reject, &headers).await.problem(403, "cross_origin");
    }
    fake.http(Method::POST, reject, &[host, cookie, csrf, ("sec-fetch-site", "same-site")])
        .await
        .problem(403, "cross_origin");
    for read in ["/api/v1/session", "/api/v1/events"] {
        fake.http(Method::GET, read, &[host, cookie, ("sec-fetch-site", "cross-site")])
            .await
            .problem(403, "cross_origin");
    }
    assert!(fake.books().rejected.is_empty());
    assert_eq!(fake.http(Method::POST, reject, &[host, cookie, csrf, ("origin", &own)]).await.status, 204);
    assert_eq!(fake.books().rejected.len(), 1);
}

#[tokio::test]
async fn a_session_may_what_its_person_may_and_nothing_of_the_socket_alone() {
    let fake = Fake::start().await;
    let page = Browser::open(&fake).await;
    page.ask(Method::GET, "/api/v1/doctor", None).await.ok(200);
    page.ask(Method::POST, "/api/v1/calls", Some(r#"{"tool":"node:desk:slow"}"#)).await.ok(202);
    for (method, path, body) in [
        (Method::POST, "/api/v1/tokens", "{}"),
        (Method::POST, "/api/v1/ui/codes", "{}"),
        (Method::POST, "/api/v1/leave", "{}"),
        (Method::POST, "/api/v1/invites", r#"{"tier":"owner"}"#),
        (Method::POST, "/api/v1/pending/phone/approve", r#"{"tier":"owner"}"#),
        (Method::GET, "/api/v1/backup", ""),
    ] {
        let body = Some(body).filter(|body| !body.is_empty());
        assert_eq!(page.ask(method, path, body).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn a_new_session_edits_rights_part_by_part_and_joins_only_where_it_is_alone() {
    let fake = Fake::start().await;
    let page = Browser::open(&fake).await;
    // Judged by what it says, not refused at the door.
    let edit = page.ask(Method::PUT, "/api/v1/people/mia", Some(r#"{"name":"Mia","devices":["none"]}"#)).await;
    edit.problem(404, "unknown_node");
    for (method, path, body) in [
        (Method::PUT, "/api/v1/people/mia?force=true", r#"{"name":"Mia"}"#),
        (Method::PUT, "/api/v1/policy", r#"{"toml":""}"#),
        (Method::PUT, "/api/v1/policy/mode", r#"{"mode":"open"}"#),
        (Method::PUT, "/api/v1/people/mia/logins/mia@example.com", ""),
        (Method::POST, "/api/v1/rename", r#"{"node_id":"other"}"#),
        (Method::POST, "/api/v1/join", r#"{"code":"sigil1-none"}"#),
    ] {
        let body = Some(body).filter(|body| !body.is_empty());
        page.ask(method, path, body).await.problem(403, "denied");
    }
    fake.view.send_modify(|view| {
        let mut alone = View::clone(view);
        alone.nodes.retain(|node| node.peer == alone.me);
        *view = Arc::new(alone);
    });
    page.ask(Method::POST, "/api/v1/join", Some(r#"{"code":"sigil1-none"}"#)).await.problem(422, "invite_invalid");
    fake.ask_by_token(Method::POST, "/api/v1/join", Some(r#"{"code":"sigil1-none"}"#)).await.problem(403, "denied");
}

#[tokio::test]
async fn sessions_are_listed_and_ended_and_an_old_one_ends_only_itself() {
    let fake = Fake::start().await;
    let (mine, other) = (Browser::open(&fake).await, Browser::open(&fake).await);
    fake.ask_by_token(Method::GET, "/api/v1/sessions", None).await.problem(403, "denied");
    let list = mine.ask(Method::GET, "/api/v1/sessions", None).await.ok(200);
    let items = list["items"].as_array().unwrap();
    let id = |current: bool| {
        let found = items.iter().find(|item| item["current"] == json!(current)).unwrap();
        found["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(items.len(), 2);
    mine.ask(Method::DELETE, "/api/v1/sessions/aaaaaaaaaaaaaaaa", None).await.problem(404, "unknown_session");
    assert_eq!(mine.ask(Method::DELETE, &format!("/api/v1/sessions/{}", id(false)), None).await.status, 204);
    other.ask(Method::GET, "/api/v1/status", None).await.problem(401, "unauthorized");
    let answer = mine.ask(Method::DELETE, "/api/v1/session", None).await;
    assert!(answer.status == 204 && answer.header("set-cookie").contains("Max-Age=0"));
    mine.ask(Method::GET, "/api/v1/status", None).await.problem(401, "unauthorized");
    assert_eq!(fake.get("/api/v1/sessions").await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn a_session_ends_when_another_sits_here() {
    let fake = Fake::start().await;
    let page = Browser::open(&fake).await;
    let mut headers = vec![("accept", "text/event-stream")];
    headers.extend([("host", &*page.host), ("cookie", &*page.cookie)]);
    let stream = tokio::net::TcpStream::connect(fake.bound.http).await.unwrap();
    let response = send(stream, &fake.tasks, Method::GET, "/api/v1/events", &headers, None).await;
    let mut events = Events { body: response.into_body(), text: String::new() };
    fake.view.send_modify(|view| {
        let mut lowered = View::clone(view);
        for node in &mut lowered.nodes {
            node.tier = Tier::Shared;
        }
        let facts = |node: &NodeView| DeviceFacts {
            peer: node.peer,
            node: node.node_id.clone(),
            confirmed: node.confirmed,
            tier: node.tier,
            trusted: true,
            untagged: None,
            scope: None,
            tools: Vec::new(),
            deny: Vec::new(),
        };
        let rights = mesh_core::policy::View::new(&Policy::default(), &|_| true, lowered.nodes.iter().map(facts));
        lowered.rights = Arc::new(rights);
        *view = Arc::new(lowered);
    });
    fake.events.push(ACCEPTED_MS, EventKind::Nodes);
    let ended = tokio::time::timeout(Duration::from_secs(1), async { while events.next().await.is_some() {} }).await;
    assert!(ended.is_ok());
    page.ask(Method::GET, "/api/v1/status", None).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_session_that_is_ended_ends_its_events_at_once() {
    let fake = Fake::start().await;
    let page = Browser::open(&fake).await;
    let headers = [("accept", "text/event-stream"), ("host", &*page.host), ("cookie", &*page.cookie)];
    let stream = tokio::net::TcpStream::connect(fake.bound.http).await.unwrap();
    let response = send(stream, &fake.tasks, Method::GET, "/api/v1/events", &headers, None).await;
    let mut events = Events { body: response.into_body(), text: String::new() };
    assert_eq!(fake.ask(Method::DELETE, "/api/v1/sessions", None).await.status, 204);
    let ended = tokio::time::timeout(Duration::from_secs(1), async { while events.next().await.is_some() {} }).await;
    assert!(ended.is_ok());
}

#[cfg(feature = "ui")]
#[tokio::test]
async fn files_of_the_page_are_for_everybody_and_bring_its_policy() {
    let fake = Fake::start().await;
    let host = format!("localhost:{}", fake.bound.http.port());
    let page = fake.http(Method::GET, "/", &[("host", &host)]).await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("require-trusted-types-for 'script'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!((page.header("cross-origin-opener-policy"), page.header("cache-control")), ("same-origin", "no-cache"));
    let tag = page.header("etag").to_owned();
    assert_eq!(fake.http(Method::GET, "/", &[("host", &host), ("if-none-match", &tag)]).await.status, 304);
    fake.http(Method::GET, "/assets/none.js", &[("host", &host)]).await.problem(404, "not_found");
    fake.http(Method::GET, "/", &[("host", "evil.example")]).await.problem(421, "wrong_host");
    let data = fake.http(Method::GET, "/api/v1/status", &[("host", &host)]).await;
    assert!(data.header("content-security-policy").contains("sandbox"));
}
