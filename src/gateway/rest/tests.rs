//! The doors over real sockets, with a mesh of cardboard behind the handle.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request as HttpRequest, Response as HttpResponse};
use hyper_util::rt::TokioIo;
use mesh_core::entry::{Directory, Effect, Ending, Header, Payload, Tier, ToolDecl};
use mesh_core::epoch::Epoch;
use mesh_core::frame::Phase;
use mesh_core::ids::{Hash, Incarnation, MeshId, NodeId, PeerId, PublicKey, ReqId};
use mesh_core::io::{CallRecord, CallState, Command, HistoryRow, NewCall, NodeView, Refusal, Reply, View, Welcome};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::mesh::blobs::BlobStore;
use crate::mesh::handle::{
    CallCursor, CallPage, EventKind, EventLog, Invite, JoinError, JoinTarget, Joined, Nearby, Pending, Request,
    Surroundings,
};
use crate::mesh::invite::InviteCode;
use crate::tasks::TaskGroup;

const ACCEPTED_MS: u64 = 1_800_000_000_000;

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn node_id(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn node(name: &str, peer: PeerId, tier: Tier, online: bool, tools: &[&str]) -> NodeView {
    let tool = |name: &&str| ToolDecl {
        name: name.parse().unwrap(),
        effect: Effect::Idempotent,
        description: "A tool".to_owned(),
        owner_only: false,
    };
    let directory =
        Directory { platform: "linux".to_owned(), tools: tools.iter().map(tool).collect(), ..Directory::default() };
    NodeView {
        peer,
        key: key(9),
        node_id: node_id(name),
        tier,
        online,
        last_seen_ms: ACCEPTED_MS,
        directory: Some(std::sync::Arc::new(directory)),
    }
}

/// Two peers whose ids begin alike for 7 characters and more.
fn twin(n: u8) -> PeerId {
    let mut bytes = [0x42; 32];
    bytes[31] = n;
    PeerId(bytes)
}

type Waiter = (ReqId, tokio::sync::oneshot::Sender<Result<Option<CallRecord>, crate::mesh::handle::MeshError>>);

#[derive(Default)]
struct Books {
    calls: BTreeMap<ReqId, CallRecord>,
    keys: BTreeMap<String, (ReqId, Hash)>,
    next: u64,
    revoked: Vec<PeerId>,
    rejected: Vec<PeerId>,
    cancelled: Vec<ReqId>,
    moves: bool,
    /// Who waits for an ending.
    waiters: Vec<Waiter>,
}

struct Fake {
    home: tempfile::TempDir,
    books: Arc<Mutex<Books>>,
    view: watch::Sender<Arc<View>>,
    surroundings: watch::Sender<Arc<Surroundings>>,
    events: Arc<EventLog>,
    blobs: BlobStore,
    tasks: TaskGroup,
    bound: Bound,
    token: String,
    logs: LogRing,
}

fn first_view() -> View {
    let me = key(1).peer_id();
    View {
        me,
        node_id: node_id("desk"),
        mesh: MeshId([3; 32]),
        mesh_name: "home".to_owned(),
        incarnation: Incarnation(7),
        boot: 1,
        revoked: false,
        pending: Vec::new(),
        holds: Vec::new(),
        copied: Vec::new(),
        forked: Vec::new(),
        gateway: Some(Epoch { counter: 4, class: 3, peer: me }),
        fence: Epoch { counter: 4, class: 3, peer: me },
        links: vec![twin(1)],
        nodes: vec![
            node("desk", me, Tier::Owner, true, &["echo", "slow", "blob", "fail"]),
            node("nas", twin(1), Tier::Owner, false, &["files.read"]),
            node("tv", twin(2), Tier::Shared, true, &[]),
        ],
    }
}

fn knocker() -> Pending {
    Pending {
        key: key(5),
        peer: key(5).peer_id(),
        node_id: node_id("phone"),
        platform: "ios".to_owned(),
        address: Some("192.168.1.7:7433".parse().unwrap()),
        since_ms: ACCEPTED_MS,
        why: "it asks to join".to_owned(),
    }
}

impl Fake {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("identity.key"), "secret").unwrap();
        let blobs = BlobStore::open(&home.path().join("blobs")).unwrap();
        let (view, view_seen) = watch::channel(Arc::new(first_view()));
        let around = Surroundings {
            pending: vec![knocker()],
            nearby: vec![Nearby {
                peer: key(6).peer_id(),
                name: "guest".to_owned(),
                addresses: vec!["192.168.1.8:7433".parse().unwrap()],
                seen_ms: ACCEPTED_MS,
            }],
            discovery_trouble: Some("no multicast".to_owned()),
            open_calls: 2,
            ..Surroundings::default()
        };
        let (surroundings, surroundings_seen) = watch::channel(Arc::new(around));
        let (requests, mut inbox) = mpsc::channel(16);
        let events = Arc::new(EventLog::default());
        let tasks = TaskGroup::default();
        let mesh = MeshHandle {
            requests,
            view: view_seen,
            surroundings: surroundings_seen,
            events: events.clone(),
            blobs: blobs.clone(),
        };
        let tokens = Arc::new(TokenStore::open(home.path().join("tokens")).unwrap());
        let token = tokens.mint().unwrap();
        let logs = LogRing::default();
        let context = RestContext {
            mesh,
            quic: vec!["[::]:7433".parse().unwrap()],
            tokens,
            logs: logs.clone(),
            home: home.path().to_owned(),
            checks: vec![DoctorCheck(Arc::new(|| Check::ok("store", "it is fine")))],
        };
        let socket = home.path().join("sigil.sock");
        let bound = serve(context, &socket, "127.0.0.1:0".parse().unwrap(), &tasks).await.unwrap();
        let books = Arc::new(Mutex::new(Books::default()));
        let fake = Self { home, books, view, surroundings, events, blobs, tasks, bound, token, logs };
        let actor = Actor {
            books: fake.books.clone(),
            events: fake.events.clone(),
            view: fake.view.clone(),
            surroundings: fake.surroundings.clone(),
        };
        fake.tasks.spawn(async move {
            while let Some(request) = inbox.recv().await {
                actor.answer(request);
            }
        });
        fake
    }

    /// What other doors of the same home would be given, with nobody behind them.
    fn idle_context(&self) -> RestContext {
        RestContext {
            mesh: MeshHandle {
                requests: mpsc::channel(1).0,
                view: self.view.subscribe(),
                surroundings: self.surroundings.subscribe(),
                events: self.events.clone(),
                blobs: self.blobs.clone(),
            },
            quic: Vec::new(),
            tokens: Arc::new(TokenStore::open(self.home.path().join("tokens")).unwrap()),
            logs: LogRing::default(),
            home: self.home.path().to_owned(),
            checks: Vec::new(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// Ends a call and says so.
    fn end(&self, id: ReqId, ending: Ending, output: Payload) {
        let row = row(CallState::Ended(ending), "");
        let mut books = self.books();
        let call = books.calls.get_mut(&id).unwrap();
        (call.state, call.confirmed, call.output) = (row.state, true, output);
        call.history.push(row.clone());
        let call = call.clone();
        let (over, waiters) = std::mem::take(&mut books.waiters).into_iter().partition(|(waited, _)| *waited == id);
        books.waiters = waiters;
        drop(books);
        let over: Vec<_> = over;
        for (_, to) in over {
            reply(to, Ok(Some(call.clone())));
        }
        self.events.push(ACCEPTED_MS, EventKind::Call(id, row));
    }

    /// Over the socket.
    async fn ask(&self, method: Method, path: &str, body: Option<&str>) -> Answer {
        self.ask_with(method, path, &[], body).await
    }

    async fn ask_with(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        let mut all = vec![("host", "localhost")];
        if body.is_some() && !headers.iter().any(|(name, _)| *name == "content-type") {
            all.push(("content-type", "application/json"));
        }
        all.extend(headers);
        let stream = tokio::net::UnixStream::connect(&self.bound.socket).await.unwrap();
        Answer::read(send(stream, &self.tasks, method, path, &all, body).await).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Over loopback HTTP.
    async fn http(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let stream = tokio::net::TcpStream::connect(self.bound.http).await.unwrap();
        Answer::read(send(stream, &self.tasks, method, path, headers, None).await).await
    }

    async fn events(&self, query: &str, last: Option<&str>) -> Events {
        let mut headers = vec![("host", "localhost"), ("accept", "text/event-stream")];
        headers.extend(last.map(|last| ("last-event-id", last)));
        let stream = tokio::net::UnixStream::connect(&self.bound.socket).await.unwrap();
        let path = format!("/api/v1/events{query}");
        let response = send(stream, &self.tasks, Method::GET, &path, &headers, None).await;
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), text: String::new() }
    }
}

fn row(state: CallState, reason: &str) -> HistoryRow {
    let reason = reason.to_owned();
    HistoryRow { state, attempt: 1, at_ms: ACCEPTED_MS, peer: key(1).peer_id(), reason, confirmed: true }
}

fn reply<T>(to: tokio::sync::oneshot::Sender<T>, value: T) {
    // A client that went away does not matter to the mesh.
    let _ = to.send(value);
}

struct Actor {
    books: Arc<Mutex<Books>>,
    events: Arc<EventLog>,
    view: watch::Sender<Arc<View>>,
    surroundings: watch::Sender<Arc<Surroundings>>,
}

impl Actor {
    fn answer(&self, request: Request) {
        match request {
            Request::Command(command, to) => reply(to, self.command(command)),
            Request::Call(id, to) => {
                let books = self.books.lock().unwrap();
                if books.moves {
                    return; // The sender is dropped while the agent lives: it went over to another mesh.
                }
                reply(to, Ok(books.calls.get(&id).cloned()));
            }
            Request::Ended(id, to) => {
                let mut books = self.books.lock().unwrap();
                match books.calls.get(&id) {
                    Some(call) if matches!(call.state, CallState::Open(_)) => books.waiters.push((id, to)),
                    over => reply(to, Ok(over.cloned())),
                }
            }
            Request::Calls(filter, after, limit, to) => {
                let books = self.books.lock().unwrap();
                let order = |call: &CallRecord| (call.header.accepted_ms, call.header.id);
                let mut all: Vec<_> = books.calls.values().cloned().collect();
                all.sort_by_key(|call| std::cmp::Reverse(order(call)));
                all.retain(|call| {
                    filter.node.as_ref().is_none_or(|node| *node == call.header.node_id)
                        && filter.state.is_none_or(|state| state.passes(call.state))
                        && after.is_none_or(|after| order(call) < (after.accepted_ms, after.id))
                });
                let more = all.len() > limit;
                all.truncate(limit);
                let next = all
                    .last()
                    .filter(|_| more)
                    .map(|call| CallCursor { accepted_ms: call.header.accepted_ms, id: call.header.id });
                reply(to, Ok(CallPage { items: all, next }));
            }
            Request::Invite(tier, ttl, to) => {
                let expires_ms = ACCEPTED_MS + ttl.as_millis() as u64;
                let code = InviteCode {
                    mesh: MeshId([3; 32]),
                    inviter: key(1).peer_id(),
                    secret: [8; 16],
                    expires_ms,
                    tier,
                    addresses: vec!["192.168.1.2:7433".parse().unwrap()],
                };
                reply(to, Ok(Invite { code, expires_ms }));
            }
            Request::Join(target, force, to) => reply(
                to,
                match target {
                    JoinTarget::Code(_) if !force => Err(JoinError::WouldLeave { others: 2 }.into()),
                    JoinTarget::Code(_) => Ok(Joined::Member(node_id("desk-2"))),
                    JoinTarget::Nearby(None) => Ok(Joined::Pending { peer: key(6).peer_id() }),
                    JoinTarget::Nearby(Some(name)) => Err(JoinError::NotNearby(name).into()),
                    JoinTarget::Address(_) => Err(JoinError::InviterDown { tried: "there".to_owned() }.into()),
                },
            ),
            Request::Leave(to) => reply(to, Ok(())),
            Request::Admit(peer, tier, name, to) => {
                let name = name.unwrap_or_else(|| node_id("phone"));
                let mut view = View::clone(&self.view.borrow());
                view.nodes.push(node(name.as_str(), peer, tier.unwrap_or(Tier::Shared), true, &[]));
                self.view.send_replace(Arc::new(view));
                self.surroundings.send_replace(Arc::default());
                reply(to, Ok(name));
            }
            Request::Reject(peer, to) => {
                self.books.lock().unwrap().rejected.push(peer);
                reply(to, Ok(()));
            }
            Request::Want(..) | Request::SetTools(_) => {}
        }
    }

    fn command(&self, command: Command) -> Reply {
        let mut books = self.books.lock().unwrap();
        match command {
            Command::Call(new) => self.call(&mut books, new),
            Command::Cancel { id, reason: _ } => {
                books.cancelled.push(id);
                Reply::Cancelled
            }
            Command::Revoke { peer } if peer == twin(2) => Reply::Refused(Refusal::NotOwner),
            Command::Revoke { peer } => {
                books.revoked.push(peer);
                Reply::Revoked
            }
            Command::Approve { node_id: name, tier, .. } => {
                let mut view = View::clone(&self.view.borrow());
                for node in view.nodes.iter_mut().filter(|node| node.node_id == name) {
                    node.tier = tier;
                }
                self.view.send_replace(Arc::new(view));
                Reply::Approved(Box::new(Welcome {
                    mesh: MeshId([3; 32]),
                    trust: Vec::new(),
                    directory: Vec::new(),
                    fence: mesh_core::entry::Fence { epoch: Epoch::ZERO, proof: None },
                    node_id: name,
                    tier,
                }))
            }
            Command::Invite { .. }
            | Command::Redeem { .. }
            | Command::Leave
            | Command::SetDirectory(_)
            | Command::Stop => Reply::Noted,
        }
    }

    fn call(&self, books: &mut Books, new: NewCall) -> Reply {
        assert_eq!(new.principal, PRINCIPAL);
        let view = self.view.borrow().clone();
        let Some(target) = view.nodes.iter().find(|node| node.node_id.as_str() == new.node) else {
            return Reply::Refused(Refusal::UnknownNode(new.node));
        };
        if target.node_id.as_str() == "tv" {
            let node = target.node_id.clone();
            return Reply::Refused(Refusal::QueueFull { node, open: 1000, retry_after_ms: 2500 });
        }
        if !target.tools().iter().any(|tool| tool.name == new.tool) {
            return Reply::Refused(Refusal::UnknownTool { node: target.node_id.clone(), tool: new.tool });
        }
        if let Some(key) = &new.client_key {
            let hash = new.arguments.hash();
            if let Some((id, known)) = books.keys.get(key) {
                return if *known == hash {
                    Reply::Call { id: *id, created: false }
                } else {
                    Reply::Refused(Refusal::KeyReused(*id))
                };
            }
        }
        books.next += 1;
        let id = ReqId::new(&view.me, Incarnation(7), books.next);
        if let Some(key) = &new.client_key {
            books.keys.insert(key.clone(), (id, new.arguments.hash()));
        }
        let (state, output) = match new.tool.as_str() {
            "echo" => (CallState::Ended(Ending::Done), new.arguments.clone()),
            "fail" => (CallState::Ended(Ending::Failed), Payload::empty()),
            _ => (CallState::Open(Phase::Queued), Payload::empty()),
        };
        let header = Header {
            id,
            target: target.peer,
            node_id: target.node_id.clone(),
            tool: new.tool,
            arguments: new.arguments,
            effect: new.effect.unwrap_or(Effect::Idempotent),
            ttl_ms: new.ttl_ms,
            accepted_ms: ACCEPTED_MS + books.next,
            timeout_ms: new.timeout_ms,
            principal: new.principal,
            client_key: new.client_key,
            needs_approval: false,
            target_incarnation: None,
        };
        let history = vec![row(CallState::Open(Phase::Accepted), ""), row(state, "")];
        for row in &history {
            self.events.push(ACCEPTED_MS, EventKind::Call(id, row.clone()));
        }
        books.calls.insert(
            id,
            CallRecord {
                header: Arc::new(header),
                origin: view.me,
                state,
                confirmed: matches!(state, CallState::Ended(_)),
                attempt: 1,
                output,
                error: String::new(),
                reason: String::new(),
                alias_of: None,
                history,
            },
        );
        Reply::Call { id, created: true }
    }
}

async fn send<S>(
    stream: S,
    tasks: &TaskGroup,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> HttpResponse<Incoming>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    let mut request = HttpRequest::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::from(body.unwrap_or_default().to_owned()));
    sender.send_request(request.body(body).unwrap()).await.unwrap()
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap<HeaderValue>,
    body: Bytes,
}

impl Answer {
    async fn read(response: HttpResponse<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    #[track_caller]
    fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("x-content-type-options"), "nosniff");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// Checks that this is a problem with all that belongs to one.
    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), PROBLEM_JSON, "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["type"], format!("urn:sigil:error:{code}"));
        assert_eq!(body["status"], status);
        for member in ["title", "detail", "trace_id"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {body}");
        }
        if matches!(status, 429 | 503) {
            assert!(self.header("retry-after").parse::<u64>().unwrap() >= 1);
        }
        body
    }
}

struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// The next block of the stream, also one that is no event: (id, name, data). `None` when the stream ends.
    async fn block(&mut self) -> Option<(String, String, String)> {
        let read = async {
            loop {
                if let Some((block, rest)) = self.text.split_once("\n\n") {
                    let field = |name: &str| {
                        let line = block.lines().find_map(|line| line.strip_prefix(name));
                        line.unwrap_or_default().trim().to_owned()
                    };
                    let found = (field("id:"), field("event:"), field("data:"));
                    self.text = rest.to_owned();
                    return Some(found);
                }
                let frame = self.body.frame().await?.unwrap();
                if let Ok(data) = frame.into_data() {
                    self.text.push_str(std::str::from_utf8(&data).unwrap());
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), read).await.expect("an event within 30 s")
    }

    /// The next event.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            let (id, name, data) = self.block().await?;
            if !data.is_empty() {
                return Some((id, name, serde_json::from_str(&data).unwrap()));
            }
        }
    }
}

#[tokio::test]
async fn status_has_the_names_that_scripts_rely_on() {
    let fake = Fake::start().await;
    let status = fake.get("/api/v1/status").await.ok(200);
    assert_eq!(status["node_id"], "desk");
    assert_eq!(status["peer_id"], key(1).peer_id().to_string());
    assert_eq!(status["incarnation"], 7);
    assert_eq!(
        status["gateway"],
        json!({ "peer_id": key(1).peer_id().to_string(), "node_id": "desk", "epoch": 4, "self": true })
    );
    assert_eq!(status["links"][0]["node_id"], "nas");
    assert_eq!(status["endpoints"]["socket"], fake.bound.socket.display().to_string());
    assert_eq!(status["endpoints"]["http"], format!("http://{}", fake.bound.http));
    assert_eq!(status["endpoints"]["quic"], json!(["[::]:7433"]));
    assert!(status["warnings"][0].as_str().unwrap().contains("no multicast"));
}

#[tokio::test]
async fn nodes_show_state_tools_and_why() {
    let fake = Fake::start().await;
    let list = fake.get("/api/v1/nodes").await.ok(200);
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|n| (&n["node_id"], &n["state"])).collect();
    assert_eq!(json!(names), json!([["desk", "online"], ["nas", "offline"], ["tv", "online"], ["phone", "pending"]]));
    assert_eq!(list["next_cursor"], Value::Null);

    let nas = fake.get("/api/v1/nodes/nas").await.ok(200);
    assert!(nas["why"].as_str().unwrap().contains("switch it on"));
    assert_eq!(nas["tools"][0]["address"], "node:nas:files.read");
    assert_eq!(nas["tools"][0]["available"], false);
    assert_eq!(nas["tools"][0]["why"], "currently offline");
    assert_eq!(nas["gateway"], false);
    let desk = fake.get(&format!("/api/v1/nodes/{}", key(1).peer_id())).await.ok(200);
    assert_eq!((&desk["node_id"], &desk["gateway"], &desk["why"]), (&json!("desk"), &json!(true), &Value::Null));
    assert_eq!(fake.get(&format!("/api/v1/nodes/{}", key(1).peer_id().short())).await.ok(200)["node_id"], "desk");

    let ambiguous = fake.get(&format!("/api/v1/nodes/{}", twin(1).short())).await.problem(409, "ambiguous_id");
    assert_eq!(ambiguous["choices"].as_array().unwrap().len(), 2);
    fake.get("/api/v1/nodes/attic").await.problem(404, "unknown_node");
    fake.get(&format!("/api/v1/nodes/{}", "x".repeat(300))).await.problem(404, "unknown_node");
    fake.get("/api/v1/nodes/a%00b%2F%3A").await.problem(404, "unknown_node");
    let online = fake.get("/api/v1/nodes?state=online").await.ok(200);
    assert_eq!(online["items"].as_array().unwrap().len(), 2);
    fake.get("/api/v1/nodes?state=asleep").await.problem(422, "invalid");
    fake.get("/api/v1/nodes?colour=red").await.problem(422, "invalid");

    let tools = fake.get("/api/v1/tools?node=nas").await.ok(200);
    assert_eq!(tools["items"][0]["name"], "files.read");
    assert_eq!(fake.get("/api/v1/tools").await.ok(200)["items"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_pending_device_is_approved_under_either_route() {
    for route in ["pending/phone", "nodes/phone"] {
        let fake = Fake::start().await;
        let waiting = fake.get("/api/v1/pending").await.ok(200);
        assert_eq!(waiting["items"][0]["node_id"], "phone");
        let body = r#"{"tier":"owner","node_id":"handy"}"#;
        let node = fake.post(&format!("/api/v1/{route}/approve"), body).await.ok(200);
        assert_eq!(
            (&node["node_id"], &node["tier"], &node["state"]),
            (&json!("handy"), &json!("owner"), &json!("online"))
        );
    }
    let fake = Fake::start().await;
    fake.post("/api/v1/pending/phone/approve", r#"{"node_id":"No!"}"#).await.problem(422, "invalid");
    fake.post("/api/v1/pending/phone/approve", r#"{"tire":"owner"}"#).await.problem(422, "invalid");
    fake.post("/api/v1/pending/nas/approve", "{}").await.problem(404, "unknown_pending");
    assert_eq!(fake.ask(Method::POST, "/api/v1/pending/phone/approve", None).await.ok(200)["tier"], "shared");
}

#[tokio::test]
async fn a_member_changes_tier_and_is_forgotten() {
    let fake = Fake::start().await;
    let node = fake.post("/api/v1/nodes/tv/approve", r#"{"tier":"owner"}"#).await.ok(200);
    assert_eq!(node["tier"], "owner");
    fake.post("/api/v1/nodes/tv/approve", r#"{"node_id":"telly"}"#).await.problem(422, "invalid");
    fake.ask(Method::DELETE, "/api/v1/nodes/nas", None).await.ok(204);
    assert_eq!(fake.books().revoked, [twin(1)]);
    fake.ask(Method::DELETE, "/api/v1/nodes/tv", None).await.problem(403, "not_owner");
    fake.ask(Method::DELETE, "/api/v1/nodes/desk", None).await.problem(422, "invalid");
    fake.ask(Method::DELETE, "/api/v1/nodes/attic", None).await.problem(404, "unknown_node");
    fake.ask(Method::DELETE, "/api/v1/nodes/phone", None).await.ok(204);
    fake.ask(Method::POST, "/api/v1/pending/phone/reject", None).await.ok(204);
    assert_eq!(fake.books().rejected, [key(5).peer_id(), key(5).peer_id()]);
}

#[tokio::test]
async fn invites_and_joins() {
    let fake = Fake::start().await;
    let invite = fake.ask(Method::POST, "/api/v1/invites", None).await.ok(201);
    assert_eq!(invite["tier"], "owner");
    assert_eq!(invite["expires_at"], time(ACCEPTED_MS + 900_000));
    assert_eq!(invite["addresses"], json!(["192.168.1.2:7433"]));
    fake.post("/api/v1/invites", r#"{"expires_s":0}"#).await.problem(422, "invalid");
    fake.post("/api/v1/invites", r#"{"tier":"king"}"#).await.problem(422, "invalid");

    let code = invite["code"].as_str().unwrap();
    let would_leave = fake.post("/api/v1/join", &json!({ "code": code }).to_string()).await.problem(409, "would_leave");
    assert_eq!(would_leave["others"], 2);
    let joined = fake.post("/api/v1/join", &json!({ "code": code, "force": true }).to_string()).await.ok(200);
    assert_eq!((&joined["state"], &joined["node_id"]), (&json!("member"), &json!("desk-2")));
    let pending = fake.post("/api/v1/join", r#"{"nearby":null}"#).await.ok(202);
    assert_eq!((&pending["state"], &pending["own_peer_id"]), (&json!("pending"), &json!(key(1).peer_id().to_string())));
    fake.post("/api/v1/join", r#"{"nearby":"attic"}"#).await.problem(404, "unknown_nearby");
    fake.post("/api/v1/join", r#"{"address":"1.2.3.4:7433"}"#).await.problem(503, "inviter_down");
    fake.post("/api/v1/join", r#"{"address":"attic"}"#).await.problem(422, "invalid");
    fake.post("/api/v1/join", r#"{"code":"hello"}"#).await.problem(422, "invite_invalid");
    for bad in ["{}", r#"{"force":true}"#, r#"{"nearby":null,"address":"1.2.3.4:7433"}"#] {
        fake.post("/api/v1/join", bad).await.problem(422, "invalid");
    }
    assert_eq!(fake.get("/api/v1/nearby").await.ok(200)["items"][0]["name"], "guest");
    assert_eq!(fake.ask(Method::POST, "/api/v1/leave", None).await.ok(200)["mesh_id"], MeshId([3; 32]).to_string());
}

#[tokio::test]
async fn a_call_is_accepted_and_read_back() {
    let fake = Fake::start().await;
    let body = r#"{"node":"desk","tool":"echo","arguments":{"b" : 1.10,"a":"ü"},"ttl_s":90,"effect":"once"}"#;
    let answer = fake.post("/api/v1/calls", body).await;
    let call = answer.ok(202);
    let id = call["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/api/v1/calls/{id}"));
    assert_eq!(answer.header("preference-applied"), "");
    let call = fake.get(&format!("/api/v1/calls/{id}")).await;
    assert!(String::from_utf8_lossy(&call.body).contains(r#""output":{"b" : 1.10,"a":"ü"}"#), "byte for byte");
    let call = call.ok(200);
    assert_eq!(call["state"], "done");
    assert_eq!(call["ttl_s"], 90);
    assert!(String::from_utf8_lossy(&fake.get(&format!("/api/v1/calls/{id}")).await.body).contains("\"ttl_s\":90,"));
    assert_eq!(call["effect"], "once");
    assert_eq!(call["output_encoding"], "json");
    assert_eq!(call["created_at"], time(ACCEPTED_MS + 1));
    assert_eq!(call["expires_at"], time(ACCEPTED_MS + 90_001));
    assert_eq!(call["history"][1]["state"], "done");
    assert_eq!(call["history"][0]["node"], "desk");
    assert_eq!(call.get("alias_of"), None);
    fake.get("/api/v1/calls/zzz").await.problem(422, "invalid");
    fake.get(&format!("/api/v1/calls/{}", "0".repeat(26))).await.problem(404, "unknown_call");
}

#[tokio::test]
async fn prefer_wait_answers_with_the_ending_or_in_time_without() {
    let fake = Fake::start().await;
    let body = r#"{"tool":"node:desk:slow"}"#;
    let late = fake.ask_with(Method::POST, "/api/v1/calls", &[("prefer", "wait=0")], Some(body)).await;
    assert_eq!(late.ok(202)["state"], "queued");
    assert_eq!(late.header("preference-applied"), "wait=0");

    let mut events = fake.events("?topics=call", None).await;
    let (answer, ()) =
        tokio::join!(fake.ask_with(Method::POST, "/api/v1/calls", &[("prefer", "wait=30")], Some(body)), async {
            let (_, _, data) = events.next().await.unwrap();
            let output = Payload::Inline(Bytes::from_static(b"plain text"));
            fake.end(data["id"].as_str().unwrap().parse().unwrap(), Ending::Done, output);
        });
    let call = answer.ok(200);
    assert_eq!((&call["state"], &call["output"]), (&json!("done"), &json!("plain text")));
    assert_eq!(call["output_encoding"], "text");
    assert_eq!(answer.header("preference-applied"), "wait=30");
}

#[tokio::test]
async fn an_idempotency_key_finds_its_call() {
    let fake = Fake::start().await;
    let headers = [("idempotency-key", "k1")];
    let first =
        fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(r#"{"tool":"node:desk:slow"}"#)).await.ok(202);
    let again =
        fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(r#"{"tool":"node:desk:slow"}"#)).await.ok(202);
    assert_eq!(first["id"], again["id"]);
    let other = r#"{"tool":"node:desk:slow","arguments":[1]}"#;
    let conflict = fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(other)).await.problem(422, "key_reused");
    assert_eq!(conflict["call"], first["id"]);
    fake.end(first["id"].as_str().unwrap().parse().unwrap(), Ending::Done, Payload::empty());
    fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(r#"{"tool":"node:desk:slow"}"#)).await.ok(200);
    let long = "k".repeat(256);
    let headers = [("idempotency-key", long.as_str())];
    fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(other)).await.problem(422, "invalid");
}

#[tokio::test]
async fn bad_calls_are_refused_with_the_reason() {
    let fake = Fake::start().await;
    let refused =
        async |body: &str, status: u16, code: &str| fake.post("/api/v1/calls", body).await.problem(status, code);
    refused("{", 400, "bad_request").await;
    refused("", 400, "bad_request").await;
    refused("[]", 422, "invalid").await;
    refused(r#"{"tool":"echo"}"#, 422, "invalid").await;
    refused(r#"{"node":"desk","tool":"echo","args":{}}"#, 422, "invalid").await;
    refused(r#"{"node":"desk","tool":"echo","ttl_s":0.5}"#, 422, "invalid").await;
    refused(r#"{"node":"desk","tool":"echo","ttl_s":604801}"#, 422, "invalid").await;
    let zero = refused(r#"{"node":"desk","tool":"echo","timeout_s":0}"#, 422, "invalid").await;
    assert!(zero["hint"].as_str().unwrap().contains("default"));
    refused(r#"{"node":"nas","tool":"node:desk:echo"}"#, 422, "invalid").await;
    refused(r#"{"node":"attic","tool":"echo"}"#, 404, "unknown_node").await;
    refused(r#"{"node":"desk","tool":"nope"}"#, 404, "unknown_tool").await;
    for bad in ["a:b", "a/b", "", "\\u0000", "é"] {
        refused(&format!(r#"{{"node":"desk","tool":"{bad}"}}"#), 422, "invalid").await;
        refused(&format!(r#"{{"node":"{bad}","tool":"echo"}}"#), 422, "invalid").await;
    }
    refused(&format!(r#"{{"node":"{}","tool":"echo"}}"#, "n".repeat(300)), 422, "invalid").await;
    let full = refused(r#"{"node":"tv","tool":"echo"}"#, 429, "queue_full").await;
    assert_eq!(full["retry_after_s"], 2.5);
    let full = fake.post("/api/v1/calls", r#"{"node":"tv","tool":"echo"}"#).await;
    assert_eq!(full.header("retry-after"), "3");

    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let call = |arguments: &str| format!(r#"{{"node":"desk","tool":"echo","arguments":{arguments}}}"#);
    fake.post("/api/v1/calls", &call(&nested(64))).await.ok(202);
    refused(&call(&nested(65)), 422, "invalid").await;
    refused(&call(&nested(10_000)), 422, "invalid").await;
    let text = |len: usize| format!("\"{}\"", "a".repeat(len - 2));
    fake.post("/api/v1/calls", &call(&text(1024 * 1024))).await.ok(202);
    refused(&call(&text(1024 * 1024 + 1)), 413, "too_large").await;
    refused(&call(&text(2 * 1024 * 1024)), 413, "too_large").await;
    let headers = [("content-type", "text/plain")];
    fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(&call("1"))).await.problem(415, "unsupported_media");
    let headers = [("accept", "image/png")];
    fake.ask_with(Method::POST, "/api/v1/calls", &headers, Some(&call("1"))).await.problem(406, "not_acceptable");
}

#[tokio::test]
async fn calls_are_listed_by_pages() {
    let fake = Fake::start().await;
    for n in 0..7 {
        let tool = if n % 2 == 0 { "echo" } else { "slow" };
        fake.post("/api/v1/calls", &json!({ "node": "desk", "tool": tool }).to_string()).await.ok(202);
    }
    fake.post("/api/v1/calls", r#"{"node":"nas","tool":"files.read"}"#).await.ok(202);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = fake.get(&format!("/api/v1/calls?limit=3{cursor}")).await.ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|call| call["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 8);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first, none twice: {seen:?}");
    assert_eq!(fake.get("/api/v1/calls?state=queued").await.ok(200)["items"].as_array().unwrap().len(), 4);
    let nas = fake.get("/api/v1/calls?node=nas").await.ok(200);
    assert_eq!(nas["items"].as_array().unwrap().len(), 1);
    assert!(nas["items"][0]["why"].as_str().unwrap().contains("offline"));
    assert_eq!(fake.get("/api/v1/calls?node=gone").await.ok(200)["items"], json!([]));
    for bad in ["limit=0", "limit=201", "limit=x", "cursor=x", "state=lost", "node=a:b", "foo=1"] {
        fake.get(&format!("/api/v1/calls?{bad}")).await.problem(422, "invalid");
    }
}

#[tokio::test]
async fn results_are_served_as_they_are() {
    let fake = Fake::start().await;
    let make = async |tool: &str| {
        let call = fake.post("/api/v1/calls", &json!({ "node": "desk", "tool": tool }).to_string()).await.ok(202);
        let id: ReqId = call["id"].as_str().unwrap().parse().unwrap();
        (id, format!("/api/v1/calls/{id}/result"))
    };
    let (id, url) = make("slow").await;
    assert_eq!(fake.get(&url).await.problem(409, "not_ended")["state"], "queued");
    fake.end(id, Ending::Done, Payload::Inline(Bytes::from_static(b"{\"a\":1}")));
    let result = fake.get(&url).await;
    result.ok(200);
    assert_eq!((result.header("content-type"), &result.body[..]), ("application/json", &b"{\"a\":1}"[..]));
    assert_eq!(result.header("content-length"), "7");

    let (id, url) = make("slow").await;
    fake.end(id, Ending::Done, Payload::Inline(Bytes::from_static(b"<html>")));
    assert_eq!(fake.get(&url).await.header("content-type"), "text/plain; charset=utf-8");

    let (_, url) = make("fail").await;
    fake.get(&url).await.problem(404, "no_output");

    // Over 256 KiB: not inside the call, but whole at its own address.
    let large = Bytes::from(vec![0xff; 300 * 1024]);
    let (id, url) = make("blob").await;
    let (hash, len) = (Hash::of(&large), large.len() as u64);
    fake.blobs.put(hash, large.clone()).await.unwrap();
    fake.end(id, Ending::Done, Payload::Blob { hash, len });
    let call = fake.get(&format!("/api/v1/calls/{id}")).await.ok(200);
    assert_eq!((&call["output"], &call["output_bytes"], &call["result_url"]), (&Value::Null, &json!(len), &json!(url)));
    let result = fake.get(&url).await;
    assert_eq!((result.status, result.header("content-type")), (200, "application/octet-stream"));
    assert_eq!(result.body, large);

    // In a file, but small enough to be shown.
    let text = Bytes::from("x".repeat(40 * 1024));
    let (id, _) = make("blob").await;
    let (hash, len) = (Hash::of(&text), text.len() as u64);
    fake.blobs.put(hash, text.clone()).await.unwrap();
    fake.end(id, Ending::Done, Payload::Blob { hash, len });
    let call = fake.get(&format!("/api/v1/calls/{id}")).await.ok(200);
    assert_eq!(call["output"].as_str().unwrap().as_bytes(), &text[..]);
    assert_eq!(fake.get("/api/v1/calls?limit=1").await.ok(200)["items"][0]["output"], Value::Null);
}

#[tokio::test]
async fn an_output_that_is_elsewhere_is_null_with_its_size() {
    let fake = Fake::start().await;
    let call = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"blob"}"#).await.ok(202);
    let id: ReqId = call["id"].as_str().unwrap().parse().unwrap();
    fake.end(id, Ending::Done, Payload::Blob { hash: Hash([1; 32]), len: 100 });
    let call = fake.get(&format!("/api/v1/calls/{id}")).await.ok(200);
    assert_eq!((&call["state"], &call["output"], &call["output_bytes"]), (&json!("done"), &Value::Null, &json!(100)));
}

#[tokio::test]
async fn an_alias_reads_as_the_call_that_it_repeats() {
    let fake = Fake::start().await;
    let first = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"echo","arguments":[7]}"#).await.ok(202);
    let alias = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"slow"}"#).await.ok(202);
    let (first, alias) = (first["id"].as_str().unwrap(), alias["id"].as_str().unwrap());
    {
        let mut books = fake.books();
        let call = books.calls.get_mut(&alias.parse::<ReqId>().unwrap()).unwrap();
        call.alias_of = Some(first.parse().unwrap());
        call.state = CallState::Ended(Ending::Cancelled);
    }
    let shown = fake.get(&format!("/api/v1/calls/{alias}")).await.ok(200);
    assert_eq!((&shown["id"], &shown["alias_of"]), (&json!(alias), &json!(first)));
    assert_eq!((&shown["state"], &shown["output"]), (&json!("done"), &json!([7])));
    assert_eq!(&fake.get(&format!("/api/v1/calls/{alias}/result")).await.body[..], b"[7]");
}

#[tokio::test]
async fn cancelling_says_whether_it_is_over() {
    let fake = Fake::start().await;
    let open = fake.post("/api/v1/calls", r#"{"node":"desk","tool":"slow"}"#).await.ok(202);
    let id = open["id"].as_str().unwrap().to_owned();
    fake.post(&format!("/api/v1/calls/{id}/cancel"), r#"{"reason":"changed my mind"}"#).await.ok(202);
    assert_eq!(fake.books().cancelled, [id.parse::<ReqId>().unwrap()]);
    fake.end(id.parse().unwrap(), Ending::Cancelled, Payload::empty());
    assert_eq!(fake.ask(Method::POST, &format!("/api/v1/calls/{id}/cancel"), None).await.ok(200)["state"], "cancelled");
    let long = json!({ "reason": "x".repeat(501) }).to_string();
    fake.post(&format!("/api/v1/calls/{id}/cancel"), &long).await.problem(422, "invalid");
    fake.post(&format!("/api/v1/calls/{}/cancel", "0".repeat(26)), "{}").await.problem(404, "unknown_call");
}

#[tokio::test]
async fn events_resume_where_a_client_left() {
    let fake = Fake::start().await;
    let mut live = fake.events("?topics=warning,gateway", None).await;
    fake.events.push(ACCEPTED_MS, EventKind::Nodes);
    fake.events.push(ACCEPTED_MS, EventKind::Warning("one\nid: 99".to_owned()));
    fake.events.push(ACCEPTED_MS, EventKind::Gateway(Some((twin(1), 5))));
    let (id, name, data) = live.next().await.unwrap();
    assert_eq!((name.as_str(), &data["text"]), ("warning", &json!("one\nid: 99")));
    assert_eq!(data["at"], time(ACCEPTED_MS));
    let (_, name, data) = live.next().await.unwrap();
    assert_eq!((name.as_str(), &data["gateway"]["node_id"]), ("gateway", &json!("nas")));

    let mut resumed = fake.events("", Some(&id)).await;
    assert_eq!(resumed.next().await.unwrap().1, "gateway");
    fake.events.push(ACCEPTED_MS, EventKind::Pending);
    assert_eq!(resumed.next().await.unwrap().1, "pending");

    for strange in ["1-1", "x", "", "0"] {
        let mut reset = fake.events("", Some(strange)).await;
        let (id, name, _) = reset.next().await.unwrap();
        assert_eq!(name, "reset", "{strange}");
        drop(reset);
        let mut reset = fake.events("", Some(&id)).await;
        fake.events.push(ACCEPTED_MS, EventKind::Nearby);
        assert_eq!(reset.next().await.unwrap().1, "nearby");
    }
    for n in 0..=crate::mesh::handle::EVENTS_KEPT {
        fake.events.push(n as u64, EventKind::Nodes);
    }
    let mut too_old = fake.events("", Some(&id)).await;
    assert_eq!(too_old.next().await.unwrap().1, "reset");

    // A client that has seen no event yet can resume as well.
    let (early_id, ..) = fake.events("?topics=pending", None).await.block().await.unwrap();
    fake.events.push(ACCEPTED_MS, EventKind::Pending);
    let mut early = fake.events("?topics=pending", Some(&early_id)).await;
    assert_eq!(early.next().await.unwrap().1, "pending");

    fake.get("/api/v1/events?topics=weather").await.problem(422, "invalid");
    let headers = [("accept", "application/json")];
    fake.ask_with(Method::GET, "/api/v1/events", &headers, None).await.problem(406, "not_acceptable");
}

#[tokio::test]
async fn a_slow_reader_misses_nothing_that_is_kept() {
    let fake = Fake::start().await;
    let mut live = fake.events("?topics=warning", None).await;
    // More than the live feed holds (1024), fewer than are kept (4096), before the reader gets a turn.
    for n in 0..3000 {
        fake.events.push(n, EventKind::Warning(n.to_string()));
    }
    for n in 0..3000 {
        assert_eq!(live.next().await.unwrap().2["text"], n.to_string());
    }
}

#[tokio::test]
async fn stopping_ends_event_streams_and_removes_the_socket() {
    let fake = Fake::start().await;
    let mut live = fake.events("", None).await;
    fake.events.push(ACCEPTED_MS, EventKind::Nodes);
    assert!(live.next().await.is_some());
    let socket = fake.bound.socket.clone();
    let (ended, ()) = tokio::join!(live.next(), async {
        // The fake actor has no stop of its own, so this grace always runs out.
        fake.tasks.shutdown(std::time::Duration::from_secs(1)).await;
    });
    assert!(ended.is_none());
    assert!(!socket.exists());
    assert!(tokio::net::TcpStream::connect(fake.bound.http).await.is_err());
}

#[tokio::test]
async fn every_error_of_the_router_is_a_problem() {
    let fake = Fake::start().await;
    fake.get("/").await.problem(404, "not_found");
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
    let guard = middleware::from_fn_with_state(app.clone(), around);
    let router = Router::new().route("/broken", broken).route("/fine", axum::routing::get(healthz)).layer(guard);
    let ask = async |path: &str| {
        let mut request = HttpRequest::new(axum::body::Body::empty());
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(Door::Socket { owner: true });
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
        request.extensions_mut().insert(Door::Socket { owner: false });
        let answer = tower::ServiceExt::oneshot(router(app.clone()).0, request).await.unwrap();
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

    let invites = "/api/v1/invites";
    fake.http(Method::POST, invites, &[host, token]).await.ok(201);
    let ours = format!("http://127.0.0.1:{port}");
    fake.http(Method::POST, invites, &[host, token, ("origin", &ours)]).await.ok(201);
    for evil in ["http://evil.example", "null", "https://localhost", "http://localhost:1"] {
        fake.http(Method::POST, invites, &[host, token, ("origin", evil)]).await.problem(403, "cross_origin");
        fake.http(Method::GET, "/api/v1/events", &[host, token, ("origin", evil)]).await.problem(403, "cross_origin");
    }
    let cross = ("sec-fetch-site", "cross-site");
    fake.http(Method::POST, invites, &[host, token, cross]).await.problem(403, "cross_origin");
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
    fake.ask(Method::DELETE, "/api/v1/tokens", None).await.ok(204);
    for void in [&old, &new] {
        fake.http(Method::GET, "/api/v1/status", &[host, ("authorization", void)]).await.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn the_socket_is_ours_and_replaces_a_dead_one() {
    let fake = Fake::start().await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&fake.bound.socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660);

    let context = || fake.idle_context();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let tasks = &fake.tasks;
    let taken = serve(context(), &fake.bound.socket, any, tasks).await.unwrap_err();
    assert!(matches!(taken, ServeError::SocketInUse(_)), "{taken}");
    let other: PathBuf = fake.home.path().join("other.sock");
    let taken = serve(context(), &other, fake.bound.http, tasks).await.unwrap_err();
    assert!(taken.to_string().contains(&fake.bound.http.port().to_string()), "{taken}");
    assert!(matches!(
        serve(context(), &other, "0.0.0.0:0".parse().unwrap(), tasks).await,
        Err(ServeError::NotLoopback(_))
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
    assert_eq!(state("store"), "ok");
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
    assert!(api["paths"]["/api/v1/calls/{id}/result"]["get"]["responses"]["default"].is_object());
}
