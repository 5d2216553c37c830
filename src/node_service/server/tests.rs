//! Both sides of `NodeService` against each other, and the gateway's side against clients of other makes, over pipes.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use mesh_core::audience::Audience;
use mesh_core::crypto::{Signer, Symbolic};
use mesh_core::entry::{self, BodyCommitment, Entry, Salt, SignedEntry};
use mesh_core::epoch::{Claim, Epoch};
use mesh_core::ids::{Hash, Incarnation, MeshId, Signature};
use mesh_core::io::NodeView;
use mesh_core::record::{Directory, Effect, Ending, Fitness, Header, Payload, Source, Tier, ToolDecl};
use tokio::io::{AsyncWriteExt, DuplexStream, ReadBuf};
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::mesh::GatewayLink;
use crate::node_service::client::{self, NodeClient, NodeClientHandle};
use crate::pb::node_service_client::NodeServiceClient;

mod conversions;

/// One end of a pipe that knows who is at the other.
struct Pipe(DuplexStream, PeerId);

impl Connected for Pipe {
    type ConnectInfo = PeerId;
    fn connect_info(&self) -> PeerId {
        self.1
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

const GATEWAY: u64 = 1;
const NODE: u64 = 2;
const ORIGIN: u64 = 3;
const OTHER_GATEWAY: u64 = 4;
const STRANGER: u64 = 9;

fn key(n: u64) -> Symbolic {
    Symbolic::new(n)
}

fn id(n: u64) -> PeerId {
    key(n).public_key().peer_id()
}

fn epoch(leader: u64) -> Epoch {
    Epoch { counter: 7, class: 3, peer: id(leader) }
}

fn call_id(counter: u64) -> ReqId {
    ReqId::new(&id(ORIGIN), Incarnation(1), counter)
}

/// View of peer `me` while `leader` leads: peers 1 to 4, called `peer-1` and so on.
fn view(me: u64, leader: Option<u64>) -> Arc<View> {
    let node = |n: u64| NodeView {
        peer: id(n),
        key: key(n).public_key(),
        node_id: format!("peer-{n}").parse().unwrap(),
        first_name: format!("peer-{n}").parse().unwrap(),
        confirmed: true,
        asks: None,
        tier: Tier::Owner,
        approved_by: None,
        since_ms: 0,
        online: true,
        last_seen_ms: 0,
        stay: None,
        of: None,
        untagged: None,
        directory: None,
    };
    Arc::new(View {
        me: id(me),
        node_id: format!("peer-{me}").parse().unwrap(),
        mesh: MeshId([1; 32]),
        mesh_name: "home".to_owned(),
        incarnation: Incarnation(1),
        boot: 1,
        revoked: false,
        awaiting_reapproval: Vec::new(),
        vouched_by: std::collections::BTreeMap::new(),
        halts: Vec::new(),
        copied: Vec::new(),
        forked: Vec::new(),
        stopped: Vec::new(),
        disk: None,
        gateway: leader.map(epoch),
        fence: Epoch::ZERO,
        links: Vec::new(),
        relays: std::collections::BTreeMap::new(),
        nodes: (1..=4).map(node).collect(),
        rights: Arc::default(),
        said: mesh_core::policy::InForce::default(),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "bodies are made where they are passed")]
fn signed(author: u64, kind: Kind, body: Vec<u8>) -> SignedEntry {
    let (signer, salt) = (key(author), Salt([7; 16]));
    let ends = Audience::Call { origin: id(ORIGIN), target: id(NODE) };
    let entry = Entry {
        mesh: MeshId([1; 32]),
        author: signer.public_key(),
        incarnation: Incarnation(1),
        seq: 1,
        hlc: 1,
        kind,
        critical: false,
        previous: Hash::ZERO,
        audience: if kind == Kind::DIRECTORY { Audience::Everyone } else { ends },
        body: BodyCommitment::of(salt, &body),
    };
    SignedEntry::sign(&signer, entry, salt, &body)
}

fn header(id_: ReqId, arguments: Payload) -> SignedEntry {
    let header = Header {
        id: id_,
        target: id(NODE),
        node_id: "peer-2".parse().unwrap(),
        tool: "device.info".parse().unwrap(),
        arguments,
        effect: Effect::Once,
        ttl_ms: 60_000,
        accepted_ms: 0,
        timeout_ms: 1_500,
        principal: "person:owner".parse().expect("a name"),
        client_key: None,
        token: None,
        workspace: None,
        rule: String::new(),
        mark: Vec::new(),
        target_incarnation: None,
    };
    signed(ORIGIN, Kind::CALL, entry::encode(&header))
}

fn dispatch(counter: u64) -> Dispatch {
    Dispatch {
        claim: Claim::sign(&key(GATEWAY), MeshId([1; 32]), epoch(GATEWAY), 1),
        header: header(call_id(counter), Payload::Inline(r#"{"a":1}"#.into())),
        attempt: 1,
        left_ms: 30_000,
        consents: Vec::new(),
    }
}

fn outcome(author: u64, id: ReqId, output: Payload) -> SignedEntry {
    let outcome = Outcome {
        id,
        attempt: 1,
        ending: Ending::Done,
        reason: String::new(),
        output,
        parts: Vec::new(),
        partial: false,
        error: String::new(),
        at_ms: 0,
        started_ms: 0,
        alias_of: None,
        source: Source::Target,
    };
    signed(author, Kind::OUTCOME, entry::encode(&outcome))
}

fn done(counter: u64) -> Answer {
    let id = call_id(counter);
    Answer { id, attempt: 1, what: AnswerKind::Ended(outcome(NODE, id, Payload::Inline("ok".into()))) }
}

/// Waits for something that must come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.expect("it should have come within ten seconds")
}

/// Inputs of the core, in a form that can be compared.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a few of them, in tests")]
enum Seen {
    Up(PeerId, SessionId),
    Down(PeerId, SessionId),
    Frame(PeerId, Frame),
}

#[expect(clippy::wildcard_enum_match_arm, reason = "any other input fails the test")]
fn seen(input: Input) -> Seen {
    match input {
        Input::NodeUp(peer, session) => Seen::Up(peer, session),
        Input::NodeDown(peer, session) => Seen::Down(peer, session),
        Input::Recv(peer, frame) => Seen::Frame(peer, frame),
        other => panic!("not of a node stream: {other:?}"),
    }
}

fn answered(n: u64, answer: Answer) -> Seen {
    Seen::Frame(id(n), Frame::Answer(answer))
}

/// A gateway to test against.
struct Gateway {
    streams: mpsc::Sender<Pipe>,
    view: watch::Sender<Arc<View>>,
    inputs: mpsc::Receiver<Input>,
    handle: NodeServerHandle,
    tasks: TaskGroup,
}

impl Gateway {
    fn new(me: u64) -> Self {
        Self::patient(me, REGISTER_WITHIN)
    }

    fn patient(me: u64, register_within: Duration) -> Self {
        let (streams, incoming) = mpsc::channel(16);
        let (view_tx, view_rx) = watch::channel(view(me, Some(me)));
        let (tx, rx) = mpsc::channel(64);
        let tasks = TaskGroup::default();
        let handle = NodeServer::start_within(register_within, incoming, view_rx, Arc::new(key(0)), tx, &tasks);
        Self { streams, view: view_tx, inputs: rx, handle, tasks }
    }

    fn start() -> Self {
        Self::new(GATEWAY)
    }

    /// A pipe to it from peer `n`.
    async fn pipe(&self, n: u64) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.streams.send(Pipe(theirs, id(n))).await.expect("the gateway serves");
        ours
    }

    async fn next(&mut self) -> Seen {
        seen(soon(self.inputs.recv()).await.expect("the gateway runs"))
    }

    async fn up(&mut self) -> (PeerId, SessionId) {
        let next = self.next().await;
        let Seen::Up(peer, session) = next else { panic!("not up: {next:?}") };
        (peer, session)
    }

    async fn answer(&mut self) -> Answer {
        let next = self.next().await;
        let Seen::Frame(_, Frame::Answer(answer)) = next else { panic!("no answer: {next:?}") };
        answer
    }

    /// A client of no particular make, as peer `n`.
    async fn client(&self, n: u64) -> NodeServiceClient<Channel> {
        let mut io = Some(TokioIo::new(self.pipe(n).await));
        let channel = Endpoint::from_static("http://gateway")
            .connect_with_connector(tower::service_fn(move |_| {
                std::future::ready(io.take().ok_or_else(|| io::Error::other("one pipe only")))
            }))
            .await
            .expect("HTTP/2 over a pipe");
        NodeServiceClient::new(channel)
    }

    async fn raw(&self, n: u64) -> Raw {
        Raw::call(self.client(n).await).await
    }

    /// The same, registered; `nonce` 0 = knows only the contract.
    async fn raw_registered(&mut self, n: u64, nonce: u64) -> (Raw, SessionId) {
        let mut raw = self.raw(n).await;
        raw.send(FromNode::Register(registration(n, nonce))).await;
        let (peer, session) = self.up().await;
        assert_eq!(peer, id(n));
        assert_eq!(raw.ack().await, (true, String::new()));
        (raw, session)
    }

    /// The client of ours, as peer 2; follows this gateway.
    fn node(&self) -> Node {
        Node::start(vec![(id(GATEWAY), self.streams.clone())])
    }
}

struct Raw {
    out: mpsc::Sender<pb::NodeMessage>,
    inbound: Streaming<pb::GatewayMessage>,
}

impl Raw {
    async fn call(mut client: NodeServiceClient<Channel>) -> Self {
        let (out, rx) = mpsc::channel(16);
        let inbound = soon(client.connect(ReceiverStream::new(rx))).await;
        Self { out, inbound: inbound.expect("the method is there").into_inner() }
    }

    async fn send(&self, msg: FromNode) {
        self.out.send(pb::NodeMessage { msg: Some(msg) }).await.expect("the stream is open");
    }

    async fn receive(&mut self) -> Result<Option<ToNode>, Status> {
        Ok(soon(self.inbound.message()).await?.and_then(|message| message.msg))
    }

    async fn ack(&mut self) -> (bool, String) {
        match self.receive().await {
            Ok(Some(ToNode::RegisterAck(ack))) => {
                assert_eq!(ack.accepted, ack.hint.is_empty(), "a refusal says what to do");
                (ack.accepted, ack.error)
            }
            other => panic!("no acknowledgement: {other:?}"),
        }
    }
}

fn registration(n: u64, nonce: u64) -> pb::NodeRegister {
    pb::NodeRegister {
        node_id: format!("peer-{n}"),
        platform: "darwin".to_owned(),
        tools: vec!["screen-capture".to_owned(), "camera-tool".to_owned()],
        capabilities: [("gpu".to_owned(), "none".to_owned())].into(),
        session_nonce: nonce,
        version: String::new(),
    }
}

struct Node {
    view: watch::Sender<Arc<View>>,
    inputs: mpsc::Receiver<Input>,
    handle: NodeClientHandle,
    _tasks: TaskGroup,
}

impl Node {
    /// Follows peer 1, and reaches these gateways.
    fn start(gateways: Vec<(PeerId, mpsc::Sender<Pipe>)>) -> Self {
        let (view, view_rx) = watch::channel(view(NODE, Some(GATEWAY)));
        let (tx, inputs) = mpsc::channel(64);
        let tasks = TaskGroup::default();
        let open = move |peer| {
            let door = gateways.iter().find(|(gateway, _)| *gateway == peer).map(|(_, door)| door.clone());
            async move {
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                let door = door.ok_or(io::ErrorKind::HostUnreachable)?;
                door.send(Pipe(theirs, id(NODE))).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
                Ok(ours)
            }
        };
        let handle = NodeClient::start(view_rx, open, 42, Arc::new(key(0)), tx, &tasks);
        Self { view, inputs, handle, _tasks: tasks }
    }

    async fn next(&mut self) -> Seen {
        seen(soon(self.inputs.recv()).await.expect("the client runs"))
    }

    fn follow(&self, leader: Option<u64>) {
        self.view.send_replace(view(NODE, leader));
    }

    async fn registered_with(&self, leader: Option<u64>) {
        soon(self.handle.registered_with(leader.map(id))).await;
    }
}

#[tokio::test]
async fn seed_n1_a_registered_node_is_reported() {
    let mut gateway = Gateway::start();
    let raw = gateway.raw(NODE).await;
    raw.send(FromNode::Register(registration(NODE, 0))).await;
    assert_eq!(gateway.up().await, (id(NODE), 1));
    assert_eq!(gateway.handle.registered(), [id(NODE)].into());
}

#[tokio::test]
async fn seed_n7_registration_is_checked_and_a_refusal_says_why() {
    let mut gateway = Gateway::start();
    let refused = async |gateway: &Gateway, n, register: pb::NodeRegister| {
        let mut raw = gateway.raw(n).await;
        raw.send(FromNode::Register(register)).await;
        let (accepted, error) = raw.ack().await;
        assert!(!accepted);
        assert_eq!(raw.receive().await.expect("a clean end"), None);
        error
    };
    let good = || registration(NODE, 1);
    let tools = |tools: &[&str]| pb::NodeRegister { tools: tools.iter().map(ToString::to_string).collect(), ..good() };
    let cases = [
        (STRANGER, registration(STRANGER, 1), "not approved"),
        (NODE, registration(ORIGIN, 1), "known here as `peer-2`, not as `peer-3`"),
        (NODE, pb::NodeRegister { node_id: "a:b".to_owned(), ..good() }, "not a valid node id"),
        (NODE, pb::NodeRegister { node_id: String::new(), ..good() }, "not a valid node id"),
        (NODE, tools(&["a/b"]), "not a valid tool name"),
        (NODE, tools(&["a", "b", "a"]), "declared twice"),
        (NODE, pb::NodeRegister { tools: (0..513).map(|n| format!("t{n}")).collect(), ..good() }, "513 tools"),
        (NODE, pb::NodeRegister { platform: "x".repeat(65), ..good() }, "too long"),
    ];
    for (n, register, reason) in cases {
        let error = refused(&gateway, n, register).await;
        assert!(error.contains(reason), "{error:?} should contain {reason:?}");
    }
    assert!(gateway.handle.registered().is_empty());
    assert!(gateway.inputs.try_recv().is_err(), "nobody came up");
}

#[tokio::test]
async fn a_peer_that_does_not_lead_names_who_does() {
    let gateway = Gateway::start();
    gateway.view.send_replace(view(GATEWAY, Some(OTHER_GATEWAY)));
    let mut raw = gateway.raw(NODE).await;
    raw.send(FromNode::Register(registration(NODE, 1))).await;
    assert_eq!(raw.ack().await, (false, "not the gateway".to_owned()));
    let Ok(Some(ToNode::Moved(moved))) = raw.receive().await else { panic!("no hint") };
    assert_eq!(PeerId::from_slice(&moved.gateway), Some(id(OTHER_GATEWAY)));
}

#[tokio::test]
async fn a_stream_that_does_not_register_in_time_is_ended() {
    let gateway = Gateway::patient(GATEWAY, Duration::from_millis(100));
    let mut raw = gateway.raw(NODE).await;
    let status = raw.receive().await.expect_err("ended");
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_nonsense_is_cut() {
    use tokio::io::AsyncReadExt;
    let gateway = Gateway::patient(GATEWAY, Duration::from_millis(100));
    let mut rest = Vec::new();
    let mut silent = gateway.pipe(NODE).await;
    let _ = soon(silent.read_to_end(&mut rest)).await;
    let mut noise = gateway.pipe(NODE).await;
    noise.write_all(&[0xa5; 4096]).await.expect("room");
    let _ = soon(noise.read_to_end(&mut rest)).await;
    assert!(gateway.handle.registered().is_empty());
}

#[tokio::test]
async fn the_first_message_must_register_and_only_the_first() {
    let mut gateway = Gateway::start();
    let mut raw = gateway.raw(NODE).await;
    raw.send(FromNode::Status(pb::NodeStatus::default())).await;
    assert_eq!(raw.receive().await.expect_err("ended").code(), tonic::Code::InvalidArgument);

    let (mut raw, session) = gateway.raw_registered(NODE, 1).await;
    raw.send(FromNode::Register(registration(NODE, 1))).await;
    assert_eq!(raw.receive().await.expect_err("ended").code(), tonic::Code::InvalidArgument);
    assert_eq!(gateway.next().await, Seen::Down(id(NODE), session));
}

#[tokio::test]
async fn a_newer_stream_replaces_the_old_at_once_and_a_late_goodbye_disturbs_nothing() {
    let mut gateway = Gateway::start();
    let (mut old, first) = gateway.raw_registered(NODE, 1).await;
    let mut new = gateway.raw(NODE).await;
    new.send(FromNode::Register(registration(NODE, 1))).await;
    let mut seen = vec![gateway.next().await, gateway.next().await];
    seen.sort_by_key(|event| matches!(event, Seen::Down(..)));
    let Seen::Up(_, second) = seen[0] else { panic!("not up: {seen:?}") };
    assert!(second > first);
    assert_eq!(seen[1], Seen::Down(id(NODE), first));
    assert_eq!(old.receive().await.expect_err("ended").code(), tonic::Code::Aborted);
    assert_eq!(new.ack().await, (true, String::new()));

    // The old one is long gone; the new one still gets its calls.
    drop(old);
    assert!(gateway.handle.cancel(id(NODE), call_id(1)));
    assert!(matches!(new.receive().await, Ok(Some(ToNode::Cancel(_)))));
}

#[tokio::test]
async fn a_second_stream_on_the_same_connection_outlives_the_first() {
    let mut gateway = Gateway::start();
    let client = gateway.client(NODE).await;
    let (mut old, mut new) = (Raw::call(client.clone()).await, Raw::call(client).await);
    old.send(FromNode::Register(registration(NODE, 1))).await;
    assert_eq!(old.ack().await, (true, String::new()));
    gateway.up().await;
    new.send(FromNode::Register(registration(NODE, 1))).await;
    assert_eq!(new.ack().await, (true, String::new()));
    let _ = old.receive().await.expect_err("ended");
    // Longer than the old one's last words may take.
    let cut = timeout(LINGER * 2, new.inbound.message()).await;
    assert!(cut.is_err(), "{cut:?}");
    assert!(gateway.handle.cancel(id(NODE), call_id(1)));
    assert!(matches!(new.receive().await, Ok(Some(ToNode::Cancel(_)))));
}

#[tokio::test]
async fn seed_n3_a_stream_that_breaks_off_is_reported_down() {
    let mut gateway = Gateway::start();
    let (raw, session) = gateway.raw_registered(NODE, 1).await;
    drop(raw);
    assert_eq!(gateway.next().await, Seen::Down(id(NODE), session));
    assert!(!gateway.handle.cancel(id(NODE), call_id(1)));
}

#[tokio::test]
async fn a_call_goes_out_and_its_signed_outcome_comes_back() {
    let mut gateway = Gateway::start();
    let mut node = gateway.node();
    gateway.up().await;
    node.registered_with(Some(GATEWAY)).await;

    for counter in 1..=3 {
        let sent = dispatch(counter);
        assert!(gateway.handle.dispatch(id(NODE), &sent));
        assert_eq!(node.next().await, Seen::Frame(id(GATEWAY), Frame::Dispatch(sent)));
        let kinds = [
            AnswerKind::Waiting,
            AnswerKind::Running { note: "half way".to_owned() },
            AnswerKind::Lacking,
            AnswerKind::Asking,
            AnswerKind::Busy,
            AnswerKind::Fenced(Some(Claim::sign(&key(OTHER_GATEWAY), MeshId([1; 32]), epoch(OTHER_GATEWAY), 3))),
            AnswerKind::Fenced(None),
            AnswerKind::Rejected("no such tool".to_owned()),
        ];
        let answers = kinds.map(|what| Answer { id: call_id(counter), attempt: 1, what });
        for answer in answers.into_iter().chain([done(counter)]) {
            assert!(node.handle.answer(id(GATEWAY), answer.clone()));
            assert_eq!(gateway.next().await, answered(NODE, answer));
        }
    }
    assert!(gateway.handle.cancel(id(NODE), call_id(3)));
    assert_eq!(node.next().await, Seen::Frame(id(GATEWAY), Frame::Cancel { id: call_id(3) }));
    assert!(!node.handle.answer(id(OTHER_GATEWAY), done(1)), "an answer reaches nobody but whom it is for");
}

#[tokio::test]
async fn the_contracts_own_fields_are_filled_both_ways() {
    let mut gateway = Gateway::start();
    let (mut raw, _) = gateway.raw_registered(NODE, 1).await;
    assert!(gateway.handle.dispatch(id(NODE), &dispatch(5)));
    let Ok(Some(ToNode::ToolExecute(request))) = raw.receive().await else { panic!("no call") };
    assert_eq!(request.request_id, call_id(5).to_string());
    assert_eq!(request.tool_name, "device.info");
    assert_eq!(request.arguments, r#"{"a":1}"#);
    assert_eq!(request.timeout_seconds, 2, "1,500 ms, rounded up");

    let Some(FromNode::ToolResult(result)) = client::answer_to_pb(done(5)).msg else { panic!("no result") };
    assert_eq!((result.output.as_str(), result.error.as_str()), ("ok", ""));
    let binary = outcome(NODE, call_id(5), Payload::Inline(vec![0xff, 0xfe].into()));
    let answer = Answer { id: call_id(5), attempt: 1, what: AnswerKind::Ended(binary) };
    let Some(FromNode::ToolResult(result)) = client::answer_to_pb(answer.clone()).msg else { panic!("no result") };
    assert_eq!(result.output, "", "no text, no copy of it");
    raw.send(FromNode::ToolResult(result)).await;
    assert_eq!(gateway.next().await, answered(NODE, answer));
}

#[tokio::test]
async fn results_that_are_not_the_nodes_own_are_dropped() {
    let mut gateway = Gateway::start();
    let (raw, _) = gateway.raw_registered(NODE, 1).await;
    let good = || match client::answer_to_pb(done(1)).msg {
        Some(FromNode::ToolResult(result)) => result,
        _ => panic!("no result"),
    };
    let with = |entry: &SignedEntry| pb::ToolResult {
        outcome: Some(pb::SignedEntry {
            entry: entry.bytes.clone(),
            signature: entry.signature.0.to_vec().into(),
            body: entry.sealed(),
        }),
        ..good()
    };
    let mut forged = with(&outcome(NODE, call_id(1), Payload::empty()));
    forged.outcome.as_mut().unwrap().signature = vec![0; 64].into();
    let mut garbage = good();
    garbage.outcome =
        Some(pb::SignedEntry { entry: vec![1, 2, 3].into(), signature: vec![0; 64].into(), body: bytes::Bytes::new() });
    let bad = [
        forged,
        garbage,
        with(&outcome(ORIGIN, call_id(1), Payload::empty())),
        with(&outcome(NODE, call_id(2), Payload::empty())),
        with(&header(call_id(1), Payload::empty())),
        with(&signed(NODE, Kind::OUTCOME, vec![1, 0])),
        pb::ToolResult { attempt: 2, ..good() },
        pb::ToolResult { attempt: 0, ..good() },
        pb::ToolResult { attempt: 4, ..good() },
        pb::ToolResult { request_id: "nonsense".to_owned(), ..good() },
    ];
    for result in bad {
        raw.send(FromNode::ToolResult(result)).await;
    }
    raw.send(FromNode::Answer(pb::CallAnswer { request_id: call_id(1).to_string(), attempt: 1, what: None })).await;
    raw.out.send(pb::NodeMessage { msg: None }).await.expect("open");
    // The stream has survived them all, and what is good still comes through.
    raw.send(FromNode::ToolResult(good())).await;
    assert_eq!(gateway.next().await, answered(NODE, done(1)));
}

#[tokio::test]
async fn an_oversized_message_ends_the_stream() {
    let mut gateway = Gateway::start();
    let (mut raw, session) = gateway.raw_registered(NODE, 1).await;
    let result = pb::ToolResult { output: "x".repeat(MESSAGE_BYTES_MAX + 1), ..pb::ToolResult::default() };
    raw.send(FromNode::ToolResult(result)).await;
    assert_eq!(gateway.next().await, Seen::Down(id(NODE), session));
    assert_eq!(raw.receive().await.expect_err("ended").code(), tonic::Code::OutOfRange);
}

#[tokio::test]
async fn a_contract_only_client_registers_and_gets_no_call() {
    let mut gateway = Gateway::start();
    let (raw, session) = gateway.raw_registered(NODE, 0).await;
    assert!(gateway.handle.dispatch(id(NODE), &dispatch(1)));
    let answer = gateway.answer().await;
    assert_eq!((answer.id, answer.attempt), (call_id(1), 1));
    assert!(matches!(&answer.what, AnswerKind::Rejected(why) if why.contains("plain contract")), "{answer:?}");

    // A list of its tools, and a result that nobody signed, disturb nothing and prove nothing.
    for node_id in ["peer-2", "peer-3"] {
        let available_tools = vec!["camera".to_owned(), "a:b".to_owned()];
        let status = pb::NodeStatus { node_id: node_id.to_owned(), online: true, available_tools };
        raw.send(FromNode::Status(status)).await;
    }
    let result =
        pb::ToolResult { request_id: call_id(1).to_string(), output: "hi".to_owned(), ..pb::ToolResult::default() };
    raw.send(FromNode::ToolResult(result)).await;
    drop(raw);
    assert_eq!(gateway.next().await, Seen::Down(id(NODE), session));
}

#[tokio::test]
async fn a_registration_lists_the_tools_of_the_directory_record() {
    let mut view = View::clone(&view(NODE, Some(GATEWAY)));
    let tool = |name: &str| ToolDecl {
        name: name.parse().unwrap(),
        effect: Effect::Once,
        description: String::new(),
        owner_only: true,
        at_once: None,
        card: None,
        state: Fitness::READY,
    };
    let own = view.nodes.iter_mut().find(|node| node.peer == id(NODE)).unwrap();
    own.directory = Some(Arc::new(Directory {
        addresses: Vec::new(),
        platform: String::new(),
        version: String::new(),
        class: 0,
        eligible: true,
        tools: vec![tool("files.list"), tool("backup")],
        services: Vec::new(),
        name: None,
        deny: Vec::new(),
    }));
    let Some(FromNode::Register(register)) = client::register(&view, 7).msg else { panic!("no registration") };
    assert_eq!((register.node_id.as_str(), register.session_nonce), ("peer-2", 7));
    assert_eq!(register.tools, ["files.list", "backup"]);
}

#[tokio::test]
async fn another_name_is_another_registration() {
    let mut gateway = Gateway::start();
    let node = gateway.node();
    let (_, session) = gateway.up().await;
    node.registered_with(Some(GATEWAY)).await;
    // This one is refused, since the gateway knows us under the old.
    node.view.send_modify(|view| Arc::make_mut(view).node_id = "peer-9".parse().unwrap());
    assert_eq!(gateway.next().await, Seen::Down(id(NODE), session));
    node.registered_with(None).await;
}

#[tokio::test]
async fn the_node_follows_the_gateway() {
    let (mut first, mut second) = (Gateway::start(), Gateway::new(OTHER_GATEWAY));
    let node = Node::start(vec![(id(GATEWAY), first.streams.clone()), (id(OTHER_GATEWAY), second.streams.clone())]);
    first.up().await;
    node.registered_with(Some(GATEWAY)).await;
    node.follow(Some(OTHER_GATEWAY));
    second.up().await;
    node.registered_with(Some(OTHER_GATEWAY)).await;
    assert_eq!(first.next().await, Seen::Down(id(NODE), 1));
    assert!(!node.handle.answer(id(GATEWAY), done(1)));
    // A call in the name of another epoch than the sender's is refused by the node itself.
    assert!(second.handle.dispatch(id(NODE), &dispatch(1)));
    let answer = second.answer().await;
    assert!(matches!(&answer.what, AnswerKind::Rejected(why) if why.contains("not by the peer")), "{answer:?}");

    // Nobody leads, or we do: no stream.
    for (leader, session) in [(None, 1), (Some(NODE), 2)] {
        node.follow(leader);
        node.registered_with(None).await;
        assert_eq!(second.next().await, Seen::Down(id(NODE), session));
        node.follow(Some(OTHER_GATEWAY));
        assert_eq!(second.up().await, (id(NODE), session + 1));
    }
}

#[tokio::test]
async fn closing_tells_everyone_where_to_go_and_the_node_comes_back_when_it_may() {
    let mut gateway = Gateway::start();
    let node = gateway.node();
    gateway.up().await;
    node.registered_with(Some(GATEWAY)).await;
    gateway.view.send_replace(view(GATEWAY, Some(OTHER_GATEWAY)));
    gateway.handle.abdicate(Some(id(OTHER_GATEWAY)));
    node.registered_with(None).await;
    assert_eq!(gateway.next().await, Seen::Down(id(NODE), 1));
    assert!(gateway.handle.registered().is_empty());
    gateway.view.send_replace(view(GATEWAY, Some(GATEWAY)));
    assert_eq!(gateway.up().await, (id(NODE), 2));
    node.registered_with(Some(GATEWAY)).await;
}

#[tokio::test]
async fn a_revoked_node_loses_its_stream_at_once_and_gets_no_other() {
    let mut gateway = Gateway::start();
    let node = gateway.node();
    gateway.up().await;
    node.registered_with(Some(GATEWAY)).await;
    let mut without = View::clone(&view(GATEWAY, Some(GATEWAY)));
    without.nodes.retain(|node| node.peer != id(NODE));
    gateway.view.send_replace(Arc::new(without));
    gateway.handle.dismiss(id(NODE));
    assert!(!gateway.handle.cancel(id(NODE), call_id(1)));
    node.registered_with(None).await;
    assert_eq!(gateway.next().await, Seen::Down(id(NODE), 1));
    let mut raw = gateway.raw(NODE).await;
    raw.send(FromNode::Register(registration(NODE, 1))).await;
    assert_eq!(raw.ack().await, (false, NotRegistered::NotApproved.to_string()));
}

#[tokio::test]
async fn the_node_answers_calls_that_will_not_do() {
    let mut gateway = Gateway::start();
    let mut node = gateway.node();
    gateway.up().await;
    node.registered_with(Some(GATEWAY)).await;
    let good = dispatch(1);
    let mut forged = good.clone();
    forged.header = SignedEntry::trusted(&good.header.bytes, Signature([0; 64]), &good.header.sealed()).unwrap();
    let mut stolen = good.clone();
    stolen.claim.seq += 1;
    for (bad, reason) in [(forged, "not its author's"), (stolen, "not its leader's")] {
        assert!(gateway.handle.dispatch(id(NODE), &bad));
        let answer = gateway.answer().await;
        assert!(matches!(&answer.what, AnswerKind::Rejected(why) if why.contains(reason)), "{answer:?}");
        assert_eq!(answer.id, call_id(1));
    }
    assert!(gateway.handle.dispatch(id(NODE), &good));
    assert_eq!(node.next().await, Seen::Frame(id(GATEWAY), Frame::Dispatch(good)));
}

#[tokio::test]
async fn a_node_that_does_not_read_loses_its_stream_and_nothing_else_waits() {
    let mut gateway = Gateway::start();
    // Its client task reads nothing: nobody empties the channel behind it.
    let slow = gateway.raw_registered(NODE, 1).await;
    let (mut quick, _) = gateway.raw_registered(ORIGIN, 1).await;
    let mut call = dispatch(1);
    call.header = header(call_id(1), Payload::Inline(vec![b' '; limits::INLINE_BYTES_MAX].into()));
    let mut sent = 0_u32;
    while gateway.handle.dispatch(id(NODE), &call) {
        sent += 1;
        assert!(sent < 10_000, "the queue has no limit");
    }
    assert_eq!(gateway.handle.registered(), [id(ORIGIN)].into());
    assert_eq!(gateway.next().await, Seen::Down(id(NODE), slow.1));
    assert!(gateway.handle.cancel(id(ORIGIN), call_id(1)));
    assert!(matches!(quick.receive().await, Ok(Some(ToNode::Cancel(_)))));
}

/// A door between client and gateway that cuts the bytes of each connection after so many.
async fn flaky(gateway: mpsc::Sender<Pipe>, mut door: mpsc::Receiver<Pipe>, cuts: Vec<u64>) {
    use tokio::io::AsyncReadExt;
    let mut cuts = cuts.into_iter();
    while let Some(Pipe(outer, peer)) = door.recv().await {
        let (inner, theirs) = tokio::io::duplex(64 * 1024);
        gateway.send(Pipe(theirs, peer)).await.expect("the gateway serves");
        let limit = cuts.next().unwrap_or(u64::MAX);
        let (outer_read, mut outer_write) = tokio::io::split(outer);
        let (inner_read, mut inner_write) = tokio::io::split(inner);
        let (mut up, mut down) = (outer_read.take(limit), inner_read.take(limit));
        tokio::select! {
            _ = tokio::io::copy(&mut up, &mut inner_write) => {}
            _ = tokio::io::copy(&mut down, &mut outer_write) => {}
        }
    }
}

#[tokio::test]
async fn a_stream_cut_anywhere_is_made_anew() {
    let mut gateway = Gateway::start();
    let (door, incoming) = mpsc::channel(1);
    let cuts: Vec<u64> = (0..40).map(|n| n * 40).collect();
    gateway.tasks.spawn(flaky(gateway.streams.clone(), incoming, cuts));
    let mut node = Node::start(vec![(id(GATEWAY), door)]);
    // Until a call makes it there and back over the first connection that is not cut.
    let mut told = 0_u64;
    let mut last_up = 0;
    let mut impatience = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            // Forty pauses of two seconds would be a long test.
            _ = impatience.tick() => node.handle.retry_now(),
            next = gateway.next() => match next {
                Seen::Up(_, session) => {
                    assert!(session > last_up);
                    last_up = session;
                    told += 1;
                    let _ = gateway.handle.dispatch(id(NODE), &dispatch(told));
                }
                Seen::Frame(_, Frame::Answer(answer)) if answer == done(told) => {
                    assert!(told > 3, "some of the cuts came after a registration");
                    break;
                }
                Seen::Frame(..) => {}
                Seen::Down(_, session) => assert!(session <= last_up),
            },
            next = node.next() => {
                let Seen::Frame(from, Frame::Dispatch(call)) = next else { panic!("no call: {next:?}") };
                let header: Header = call.header.record().expect("checked");
                let _ = node.handle.answer(from, done(header.id.counter()));
            }
        }
    }
}

#[tokio::test]
async fn both_sides_end_with_their_owners() {
    let gateway = Gateway::start();
    let node = gateway.node();
    node.registered_with(Some(GATEWAY)).await;
    let Gateway { streams, inputs, tasks, .. } = gateway;
    drop((inputs, streams));
    node.registered_with(None).await;
    assert!(tasks.shutdown(Duration::from_secs(10)).await, "nothing had to be killed");
    let Node { inputs, _tasks: tasks, .. } = node;
    drop(inputs);
    assert!(tasks.shutdown(Duration::from_secs(10)).await, "nothing had to be killed");
}
