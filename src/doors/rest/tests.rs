//! The doors over real sockets, with a mesh of cardboard behind the name.

mod approvals;
mod calls;
mod contract;
mod events;
mod nodes;
mod rights;
mod server;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request as HttpRequest, Response as HttpResponse};
use hyper_util::rt::TokioIo;
use mesh_core::entry::Place;
use mesh_core::epoch::Epoch;
use mesh_core::frame::Phase;
use mesh_core::ids::{Hash, Incarnation, MeshId, NodeId, PeerId, PublicKey, ReqId};
use mesh_core::io::{
    AnswerChoice, CallRecord, CallState, Command, Edit, HistoryRow, NewAnswer, NewCall, NodeView, Refusal, Reply, View,
    Welcome,
};
use mesh_core::policy::{DeviceFacts, InForce, Key, Offered, Policy, Principal, Statement, Title, Token};
use mesh_core::record::{Directory, Effect, Ending, Fitness, Header, Payload, Tier, ToolDecl};
use mesh_core::standing::Standing;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::model::time;
use super::problem::PROBLEM_JSON;
use crate::backup::Source;
use crate::doors::app::{App, Context};
use crate::doors::listen::{Arrival, Bound};
use crate::doors::log_ring::LogRing;
use crate::doors::ops::pulls::Pulls;
use crate::doors::serve::serve;
use crate::doors::sessions::Sessions;
use crate::doors::settings::Settings;
use crate::doors::tokens::hash_of;
use crate::mesh::MeshHandle;
use crate::mesh::blobs::BlobStore;
use crate::mesh::check_words::CheckWords;
use crate::mesh::invite::InviteCode;
use crate::mesh::store::MemStore;
use crate::mesh::{
    AuditPage, CallCursor, CallPage, EventKind, EventLog, Grant, Invite, InviteInfo, InviteState, InviteTerms,
    JoinError, JoinTarget, Joined, Nearby, Pending, Request, Surroundings,
};
use crate::node::builtin::Builtins;
use crate::node::catalogue::{Catalogue, Member, Origin};
use crate::node::roster::Roster;
use crate::platform::FileId;
use crate::runtime::process::Launcher;
use crate::tasks::TaskGroup;

/// A token of whoever sits at this device, which the mesh has from the start.
const TOKEN: &str = "sigil_first";

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
        at_once: None,
        card: None,
        state: Fitness::READY,
    };
    let directory =
        Directory { platform: "linux".to_owned(), tools: tools.iter().map(tool).collect(), ..Directory::default() };
    NodeView {
        peer,
        key: key(9),
        node_id: node_id(name),
        first_name: node_id(name),
        confirmed: true,
        asks: None,
        tier,
        approved_by: None,
        since_ms: 0,
        online,
        last_seen_ms: ACCEPTED_MS,
        stay: None,
        of: None,
        untagged: None,
        directory: Some(std::sync::Arc::new(directory)),
    }
}

/// Two peers whose ids begin alike for 7 characters and more.
fn twin(n: u8) -> PeerId {
    let mut bytes = [0x42; 32];
    bytes[31] = n;
    PeerId(bytes)
}

type Waiter = (ReqId, tokio::sync::oneshot::Sender<Result<Option<CallRecord>, crate::mesh::MeshError>>);

#[derive(Default)]
struct Books {
    calls: BTreeMap<ReqId, CallRecord>,
    keys: BTreeMap<String, (ReqId, Hash)>,
    next: u64,
    revoked: Vec<PeerId>,
    unsaid: Vec<PeerId>,
    rejected: Vec<PeerId>,
    invites: Vec<InviteInfo>,
    cancelled: Vec<ReqId>,
    moves: bool,
    /// Those who wait for an ending.
    waiters: Vec<Waiter>,
    said: Said,
    approvals: Vec<mesh_core::io::Approval>,
    /// All that people answered.
    answers: Vec<(ReqId, AnswerChoice)>,
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
        awaiting_reapproval: Vec::new(),
        vouched_by: std::collections::BTreeMap::new(),
        halts: Vec::new(),
        copied: Vec::new(),
        forked: Vec::new(),
        stopped: Vec::new(),
        disk: None,
        gateway: Some(Epoch { counter: 4, class: 3, peer: me }),
        fence: Epoch { counter: 4, class: 3, peer: me },
        links: vec![twin(1)],
        relays: std::collections::BTreeMap::new(),
        nodes: vec![
            node("desk", me, Tier::Owner, true, &["echo", "slow", "blob", "fail"]),
            node("nas", twin(1), Tier::Owner, false, &["files.read"]),
            node("tv", twin(2), Tier::Shared, true, &[]),
        ],
        rights: Arc::default(),
        said: InForce::default(),
    }
}

/// All that people say, as a peer keeps it.
#[derive(Default)]
struct Said {
    policy: Policy,
    seq: u64,
}

impl Said {
    fn edit(&mut self, edit: Edit, view: &mut View) -> usize {
        let written = edit.changes.len();
        for (key, value) in edit.changes {
            self.seq += 1;
            let place = Place { author: view.me, incarnation: view.incarnation, seq: self.seq };
            let said = self.policy.edit((key, value), edit.by.clone(), edit.declared, &|_| true);
            self.policy.insert(place, Statement { hlc: ACCEPTED_MS << 16, said });
        }
        let facts = |node: &NodeView| DeviceFacts {
            peer: node.peer,
            node: node.node_id.clone(),
            confirmed: node.confirmed,
            tier: node.tier,
            trusted: true,
            untagged: None,
            scope: None,
            tools: node.tools().iter().map(Offered::of).collect(),
            deny: Vec::new(),
        };
        let rights = mesh_core::policy::View::new(&self.policy, &|_| true, view.nodes.iter().map(facts));
        view.rights = Arc::new(rights);
        view.said = InForce::new(Arc::new(self.policy.clone()), Arc::default());
        written
    }
}

/// The providers of a device that nobody has given tools.
fn roster() -> watch::Receiver<Arc<Roster>> {
    let home = tempfile::tempdir().unwrap();
    let config = crate::config::load(home.path(), &crate::config::Overrides::default()).unwrap().0;
    let launcher = Launcher::start(home.path().join("work"), None, &TaskGroup::default()).unwrap();
    let members = [Member { origin: Origin::Builtin, provider: Arc::new(Builtins::new(&config, launcher)) }];
    watch::channel(Arc::new(Roster::of(&members, &Catalogue::fold(&members, &[]), &Roster::default()))).1
}

fn first_token() -> Edit {
    let by: Principal = "person:owner".parse().unwrap();
    let token = Token {
        title: Title::default(),
        holder: by.clone(),
        hash: hash_of(TOKEN),
        nodes: None,
        tools: None,
        read_only: false,
        expires_ms: None,
    };
    let changes = vec![(Key::Token("aaaaaaaaaa".parse().unwrap()), Some(mesh_core::policy::Value::Token(token)))];
    Edit { by, changes, declared: false, force: false, seen: Vec::new() }
}

fn newcomer() -> Pending {
    Pending {
        key: key(5),
        peer: key(5).peer_id(),
        node_id: node_id("phone"),
        platform: "ios".to_owned(),
        address: Some("192.168.1.7:7433".parse().unwrap()),
        tailnet: None,
        since_ms: ACCEPTED_MS,
        why: "it asks to join".to_owned(),
    }
}

impl Fake {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("identity.key"), "secret").unwrap();
        let blobs = BlobStore::open(&home.path().join("blobs")).unwrap();
        let (mut first, mut said) = (first_view(), Said::default());
        said.edit(first_token(), &mut first);
        let (view, view_seen) = watch::channel(Arc::new(first));
        let around = Surroundings {
            addresses: vec!["[::]:7433".into()],
            pending: vec![newcomer()],
            nearby: vec![Nearby {
                peer: key(6).peer_id(),
                name: "guest".to_owned(),
                addresses: vec!["192.168.1.8:7433".parse().unwrap()],
                node: None,
                seen_ms: ACCEPTED_MS,
            }],
            discovery: crate::mesh::transport::lan::Discovery::Trouble("no multicast".to_owned()),
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
        let logs = LogRing::default();
        let context = Context {
            mesh,
            tokens: Arc::default(),
            sessions: Arc::new(Sessions::open(home.path()).unwrap()),
            logs: logs.clone(),
            home: home.path().to_owned(),
            home_id: FileId::of(home.path()).unwrap(),
            backup: no_rows(home.path(), &blobs, &tasks),
            memory: memory(home.path(), &tasks),
            pulls: Pulls::new(home.path(), tasks.clone()),
            settings: Settings::fixed(Duration::from_hours(2)),
            roster: roster(),
            sandbox: tokio::sync::watch::channel(None).1,
            engine: tokio::sync::watch::channel(crate::runtime::container::EngineState::default()).1,
            socket_gone: Arc::default(),
            tailnet: None,
        };
        let socket = home.path().join("sigil.sock");
        let bound = serve(context, &socket, "127.0.0.1:0".parse().unwrap(), &tasks).await.unwrap();
        let books = Arc::new(Mutex::new(Books { said, ..Books::default() }));
        let fake = Self { home, books, view, surroundings, events, blobs, tasks, bound, token: TOKEN.to_owned(), logs };
        let mesh_end = FakeMesh {
            books: fake.books.clone(),
            events: fake.events.clone(),
            view: fake.view.clone(),
            surroundings: fake.surroundings.clone(),
        };
        fake.tasks.spawn(async move {
            while let Some(request) = inbox.recv().await {
                mesh_end.answer(request);
            }
        });
        fake
    }

    /// The context of other doors of the same home, with nobody behind them.
    fn idle_context(&self) -> Context {
        Context {
            mesh: MeshHandle {
                requests: mpsc::channel(1).0,
                view: self.view.subscribe(),
                surroundings: self.surroundings.subscribe(),
                events: self.events.clone(),
                blobs: self.blobs.clone(),
            },
            tokens: Arc::default(),
            sessions: Arc::new(Sessions::open(self.home.path()).unwrap()),
            logs: LogRing::default(),
            home: self.home.path().to_owned(),
            home_id: FileId::of(self.home.path()).unwrap(),
            backup: no_rows(self.home.path(), &self.blobs, &self.tasks),
            memory: memory(self.home.path(), &self.tasks),
            pulls: Pulls::new(self.home.path(), self.tasks.clone()),
            settings: Settings::fixed(Duration::from_mins(1)),
            roster: roster(),
            sandbox: tokio::sync::watch::channel(None).1,
            engine: tokio::sync::watch::channel(crate::runtime::container::EngineState::default()).1,
            socket_gone: Arc::default(),
            tailnet: None,
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

    /// Over loopback HTTP, with a token that may do all that a token may.
    async fn post_by_token(&self, path: &str, body: &str) -> Answer {
        self.ask_by_token(Method::POST, path, Some(body)).await
    }

    async fn ask_by_token(&self, method: Method, path: &str, body: Option<&str>) -> Answer {
        let (host, bearer) = (format!("127.0.0.1:{}", self.bound.http.port()), format!("Bearer {}", self.token));
        let headers = [("host", &*host), ("authorization", &*bearer), ("content-type", "application/json")];
        let stream = tokio::net::TcpStream::connect(self.bound.http).await.unwrap();
        Answer::read(send(stream, &self.tasks, method, path, &headers, body).await).await
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

fn no_rows(home: &std::path::Path, blobs: &BlobStore, tasks: &TaskGroup) -> Source {
    let store = Arc::new(MemStore::new(mpsc::channel(1).0));
    Source::new(home.to_owned(), store, blobs.clone(), memory(home, tasks))
}

fn memory(home: &std::path::Path, tasks: &TaskGroup) -> crate::memory::MemoryHandle {
    // Not the file beside it, which is no key.
    let dir = home.join("memory-key");
    std::fs::create_dir_all(&dir).unwrap();
    let key = crate::mesh::identity::DeviceKey::load_or_create(&dir).unwrap();
    let settings = memory_core::compaction::Settings::default();
    crate::memory::MemoryHandle::new(home.join("memory"), key, settings, Duration::from_mins(1), tasks.clone())
}

fn row(state: CallState, reason: &str) -> HistoryRow {
    let reason = reason.to_owned();
    HistoryRow { state, attempt: 1, at_ms: ACCEPTED_MS, peer: key(1).peer_id(), reason, confirmed: true }
}

fn reply<T>(to: tokio::sync::oneshot::Sender<T>, value: T) {
    // A client that went away does not matter to the mesh.
    let _ = to.send(value);
}

struct FakeMesh {
    books: Arc<Mutex<Books>>,
    events: Arc<EventLog>,
    view: watch::Sender<Arc<View>>,
    surroundings: watch::Sender<Arc<Surroundings>>,
}

impl FakeMesh {
    fn answer(&self, request: Request) {
        match request {
            Request::Command(command, to) => reply(to, self.command(command)),
            Request::Call(id, to) => {
                let books = self.books.lock().unwrap();
                if books.moves {
                    return; // The sender is dropped while the agent lives: it moved to another mesh.
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
                    filter.passes(call) && after.is_none_or(|after| order(call) < (after.accepted_ms, after.id))
                });
                let more = all.len() > limit;
                all.truncate(limit);
                let next = all
                    .last()
                    .filter(|_| more)
                    .map(|call| CallCursor { accepted_ms: call.header.accepted_ms, id: call.header.id });
                reply(to, Ok(CallPage { items: all, next }));
            }
            Request::Standing(header, origin, to) => {
                let request = mesh_core::policy::Request {
                    principal: header.principal.clone(),
                    origin,
                    credential: None,
                    workspace: None,
                    target: header.target,
                    tool: header.tool.clone(),
                    call: None,
                };
                let nothing = Standing { request, answers: Vec::new(), behind: BTreeSet::new(), left_ms: None };
                reply(to, nothing);
            }
            Request::Hours(to) => reply(to, Vec::new()),
            Request::Approvals(to) => reply(to, self.books.lock().unwrap().approvals.clone()),
            Request::Invite(InviteTerms { grant: Grant { tier, stay }, ttl, name }, to) => {
                let expires_ms = ACCEPTED_MS + ttl.as_millis() as u64;
                let code = InviteCode {
                    mesh: MeshId([3; 32]),
                    inviter: key(1).peer_id(),
                    secret: [8; 16],
                    expires_ms,
                    tier,
                    addresses: vec!["192.168.1.2:7433".parse().unwrap()],
                };
                self.books.lock().unwrap().invites.push(InviteInfo {
                    secret: code.secret_hash(),
                    tier,
                    stay,
                    name,
                    created_ms: ACCEPTED_MS,
                    expires_ms,
                    state: InviteState::Open,
                });
                reply(to, Ok(Invite { code, expires_ms, left_out: Vec::new() }));
            }
            Request::Invites(to) => reply(to, self.books.lock().unwrap().invites.clone()),
            Request::Join(target, force, to) => reply(
                to,
                match target {
                    JoinTarget::Code(_) if !force => Err(JoinError::WouldLeave { others: 2 }.into()),
                    JoinTarget::Code(_) => Ok(Joined::Member { node_id: node_id("desk-2"), tier: Some(Tier::Owner) }),
                    JoinTarget::Nearby { name: None, words } => {
                        let peer = key(6).peer_id();
                        let its = CheckWords::of(&peer);
                        match words {
                            Some(words) if words == its => Ok(Joined::Pending { peer }),
                            Some(_) => Err(JoinError::OtherWords { peer, words: its }.into()),
                            None => Err(JoinError::Unconfirmed { peer, name: None, words: its }.into()),
                        }
                    }
                    JoinTarget::Nearby { name: Some(name), .. } => Err(JoinError::NotNearby(name).into()),
                    JoinTarget::Address { .. } => Err(JoinError::InviterDown { tried: "there".to_owned() }.into()),
                },
            ),
            Request::Leave(to) => reply(to, Ok(())),
            Request::Admit(peer, grant, name, to) => {
                let name = name.unwrap_or_else(|| node_id("phone"));
                let mut view = View::clone(&self.view.borrow());
                let Grant { tier, stay } = grant.unwrap_or_else(|| Tier::Shared.into());
                let stay = stay.map(|stay| stay.begun_at(ACCEPTED_MS));
                view.nodes.push(NodeView { stay, ..node(name.as_str(), peer, tier, true, &[]) });
                self.view.send_replace(Arc::new(view));
                self.surroundings.send_replace(Arc::default());
                reply(to, Ok(name));
            }
            Request::Reject(peer, to) => {
                self.books.lock().unwrap().rejected.push(peer);
                reply(to, Ok(()));
            }
            Request::Want(..) | Request::Refused(_) => {}
            Request::Rename(_, to) | Request::Offer(_, _, to) => drop(to.send(())),
            Request::Audit(_, _, _, to) => reply(to, Ok(AuditPage::default())),
        }
    }

    fn command(&self, command: Command) -> Reply {
        let mut books = self.books.lock().unwrap();
        match command {
            Command::Call(new) => self.call(&mut books, new),
            Command::Cancel { id, reason: _ } => {
                // As the book of a peer, which holds open calls only.
                if books.calls.get(&id).is_none_or(|call| matches!(call.state, CallState::Ended(_))) {
                    return Reply::Refused(Refusal::UnknownCall(id));
                }
                books.cancelled.push(id);
                Reply::Cancelled
            }
            Command::Edit(edit) => {
                let mut view = View::clone(&self.view.borrow());
                let written = books.said.edit(edit, &mut view);
                self.view.send_replace(Arc::new(view));
                Reply::Edited { written }
            }
            Command::Revoke { peer, .. } if peer == twin(2) => Reply::Refused(Refusal::NotOwner),
            Command::Revoke { peer, unsaid } => {
                books.revoked.push(peer);
                books.unsaid.extend(unsaid.then_some(peer));
                Reply::Revoked
            }
            Command::RevokeAll { peers, unsaid } => {
                let (refused, gone): (Vec<_>, Vec<_>) = peers.into_iter().partition(|peer| *peer == key(29).peer_id());
                books.unsaid.extend(gone.iter().filter(|_| unsaid));
                books.revoked.extend(gone);
                Reply::RevokedAll(refused.into_iter().map(|peer| (peer, Refusal::LastOwner)).collect())
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
                    rights: Vec::new(),
                    fence: mesh_core::epoch::Fence { epoch: Epoch::ZERO, proof: None },
                    node_id: name,
                    tier,
                }))
            }
            Command::VoidInvite { secret } => {
                for invite in books.invites.iter_mut().filter(|invite| invite.secret == secret) {
                    if matches!(invite.state, InviteState::Used(_)) {
                        return Reply::Refused(Refusal::InviteUsed);
                    }
                    invite.state = InviteState::Void;
                }
                Reply::InviteVoided
            }
            Command::TakeBack { hour, .. } => Reply::Refused(Refusal::UnknownHour(hour)),
            Command::Answer(answer) => Self::take(&mut books, &answer),
            Command::Rename { .. } => Reply::Renamed,
            Command::ApproveTagged { .. }
            | Command::Invite { .. }
            | Command::Redeem { .. }
            | Command::Leave
            | Command::SetDirectory(_)
            | Command::Stop => Reply::Noted,
        }
    }

    fn take(books: &mut Books, answer: &NewAnswer) -> Reply {
        let Some(at) = books.approvals.iter().position(|approval| approval.id == answer.id) else {
            // As the book of a peer, which forgets calls that are over.
            return Reply::Refused(Refusal::UnknownCall(answer.id));
        };
        let (rule, people) = &books.approvals[at].asks[0];
        if !people.iter().any(|person| answer.by == Principal::Person(person.clone())) {
            return Reply::Refused(Refusal::NotApprover(format!("{} may not answer this call", answer.by)));
        }
        let (of, said) = (vec![rule.clone()], format!("owner said yes ({rule})"));
        books.approvals.remove(at);
        books.answers.push((answer.id, answer.choice));
        let call = books.calls.get_mut(&answer.id).unwrap();
        call.history.push(row(CallState::Open(Phase::Queued), &said));
        Reply::Answered { of }
    }

    fn call(&self, books: &mut Books, new: NewCall) -> Reply {
        let owner: Principal = "person:owner".parse().unwrap();
        assert!(new.principal.as_ref().is_none_or(|asker| *asker == owner), "who sits at the device, or its token");
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
            principal: new.principal.unwrap_or(owner),
            client_key: new.client_key,
            token: new.credential.map(|credential| credential.token),
            workspace: None,
            rule: String::new(),
            mark: Vec::new(),
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
                parts: Vec::new(),
                partial: false,
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
