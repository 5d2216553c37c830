//! Cost of one node stream: dispatch out, signed outcome back, both sides in this process; over a pipe and over a QUIC
//! link on loopback. Two Ed25519 checks per call are in it: the header's at the node, the outcome's at the gateway.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_core::audience::Audience;
use mesh_core::entry::{self, BodyCommitment, Entry, Kind, Salt, SignedEntry};
use mesh_core::epoch::{Claim, Epoch};
use mesh_core::frame::{Answer, AnswerKind, Dispatch, Frame};
use mesh_core::ids::{Hash, Incarnation, MeshId, PeerId, ReqId};
use mesh_core::io::{Input, NodeView, View};
use mesh_core::record::{Effect, Ending, Header, Outcome, Payload, Source, Tier};
use sigil::mesh::blobs::BlobStore;
use sigil::mesh::identity::{DeviceKey, Ed25519Verifier};
use sigil::mesh::transport::{LinkEvent, Links, LinksConfig, Member, RelayConfig, ServiceId, ServiceIo};
use sigil::mesh::{GatewayLink, NodeLinks};
use sigil::node_service::client::NodeClient;
use sigil::node_service::server::{NodeServer, NodeServerHandle, ProvenPeer};
use sigil::tasks::TaskGroup;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};
use tonic::transport::server::Connected;

/// Calls under way at once in the second measurement.
const IN_FLIGHT: usize = 64;
/// Calls of one round of it.
const ROUND: usize = 2_000;

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

#[expect(clippy::needless_pass_by_value, reason = "bodies are made where they are passed")]
fn signed(signer: &DeviceKey, kind: Kind, body: Vec<u8>) -> SignedEntry {
    let salt = Salt([7; 16]);
    let entry = Entry {
        mesh: MeshId([1; 32]),
        author: signer.public_key(),
        incarnation: Incarnation(1),
        seq: 1,
        hlc: 1,
        kind,
        critical: false,
        previous: Hash::ZERO,
        audience: Audience::Call { origin: signer.peer_id(), target: signer.peer_id() },
        body: BodyCommitment::of(salt, &body),
    };
    SignedEntry::sign(signer, entry, salt, &body)
}

/// A registered pair, its call and its answer.
struct Pair {
    inputs: mpsc::Receiver<Input>,
    handle: NodeServerHandle,
    node: PeerId,
    call: Dispatch,
    /// The other ends of what both sides watch.
    _keep: Box<dyn Any>,
}

impl Pair {
    async fn start<Open, Opening, IO, NodeIO>(
        (leader, target): (DeviceKey, DeviceKey),
        incoming: mpsc::Receiver<IO>,
        open: Open,
    ) -> Self
    where
        Open: Fn(PeerId) -> Opening + Send + Sync + 'static,
        Opening: Future<Output = io::Result<NodeIO>> + Send + 'static,
        NodeIO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        IO: AsyncRead + AsyncWrite + Connected<ConnectInfo: ProvenPeer> + Unpin + Send + 'static,
    {
        let (gateway, node) = (leader.public_key().peer_id(), target.public_key().peer_id());
        let epoch = Epoch { counter: 1, class: 3, peer: gateway };
        let (id, handle_name) = (ReqId::new(&gateway, Incarnation(1), 1), "node".parse().expect("valid"));
        let header = Header {
            id,
            target: node,
            node_id: handle_name,
            tool: "device.info".parse().expect("valid"),
            arguments: Payload::Inline("{}".into()),
            effect: Effect::None,
            ttl_ms: 60_000,
            accepted_ms: 0,
            timeout_ms: 1_000,
            principal: "person:owner".parse().expect("a name"),
            client_key: None,
            token: None,
            workspace: None,
            rule: String::new(),
            mark: Vec::new(),
            target_incarnation: None,
        };
        let node_view = NodeView {
            peer: node,
            key: target.public_key(),
            node_id: header.node_id.clone(),
            first_name: header.node_id.clone(),
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
        let view = View {
            me: gateway,
            node_id: "gateway".parse().expect("valid"),
            mesh: MeshId([1; 32]),
            mesh_name: String::new(),
            incarnation: Incarnation(1),
            boot: 1,
            revoked: false,
            awaiting_reapproval: Vec::new(),
            halts: Vec::new(),
            copied: Vec::new(),
            forked: Vec::new(),
            vouched_by: std::collections::BTreeMap::new(),
            stopped: Vec::new(),
            disk: None,
            gateway: Some(epoch),
            fence: epoch,
            links: Vec::new(),
            relays: BTreeMap::new(),
            nodes: vec![node_view],
            rights: Arc::default(),
            said: mesh_core::policy::InForce::default(),
        };
        let outcome = Outcome {
            id,
            attempt: 1,
            ending: Ending::Done,
            reason: String::new(),
            output: Payload::Inline(r#"{"platform":"linux","cpus":2}"#.into()),
            parts: Vec::new(),
            partial: false,
            error: String::new(),
            at_ms: 0,
            started_ms: 0,
            alias_of: None,
            source: Source::Target,
        };
        let outcome = signed(&target, Kind::OUTCOME, entry::encode(&outcome));
        let answer = Answer { id, attempt: 1, what: AnswerKind::Ended(outcome) };
        let call = Dispatch {
            claim: Claim::sign(&leader, MeshId([1; 32]), epoch, 1),
            header: signed(&leader, Kind::CALL, entry::encode(&header)),
            attempt: 1,
            left_ms: 60_000,
            consents: Vec::new(),
        };

        let tasks = TaskGroup::default();
        let node_view = View { me: node, node_id: header.node_id.clone(), ..view.clone() };
        let (view_tx, view_rx) = watch::channel(Arc::new(view));
        let (inputs_tx, mut inputs) = mpsc::channel(1024);
        let handle = NodeServer::start(incoming, view_rx, Arc::new(Ed25519Verifier), inputs_tx, &tasks);
        let (node_tx, node_rx) = watch::channel(Arc::new(node_view));
        let (calls_tx, mut calls) = mpsc::channel(1024);
        let client = NodeClient::start(node_rx, open, 1, Arc::new(Ed25519Verifier), calls_tx, &tasks);
        // In the place of the node's core.
        tasks.spawn(async move {
            while let Some(input) = calls.recv().await {
                if let Input::Recv(from, Frame::Dispatch(_)) = input {
                    assert!(client.answer(from, answer.clone()));
                }
            }
        });
        assert!(matches!(inputs.recv().await, Some(Input::NodeUp(..))));
        Self { inputs, handle, node, call, _keep: Box::new((view_tx, node_tx)) }
    }

    fn send(&self) {
        assert!(self.handle.dispatch(self.node, &self.call));
    }

    async fn answer(&mut self) {
        assert!(matches!(self.inputs.recv().await, Some(Input::Recv(_, Frame::Answer(_)))));
    }
}

fn key(home: &tempfile::TempDir) -> DeviceKey {
    DeviceKey::load_or_create(home.path()).expect("a key")
}

/// A pair over a pipe, and over a link.
async fn pairs(homes: &[tempfile::TempDir; 2]) -> (Pair, Pair) {
    let keys = || (key(&homes[0]), key(&homes[1]));
    let node = keys().1.peer_id();
    let (door, incoming) = mpsc::channel::<Pipe>(4);
    let open = move |_| {
        let door = door.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(256 * 1024);
            door.send(Pipe(theirs, node)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(ours)
        }
    };
    let piped = Pair::start(keys(), incoming, open).await;

    let tasks = TaskGroup::default();
    let links = homes.each_ref().map(|home| {
        let (tx, events) = mpsc::channel(1024);
        let blobs = BlobStore::open(home.path()).expect("a directory");
        let config = LinksConfig {
            key: key(home),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            services: [ServiceId::NODE].into(),
            relay: RelayConfig::NONE,
            blobs,
            tasks: tasks.clone(),
        };
        (Links::start(config, tx).expect("a port"), events)
    });
    let members: BTreeMap<_, _> = (links.iter().zip(homes))
        .map(|((links, _), home)| (key(home), links.local_addresses()))
        .map(|(key, addresses)| {
            (
                key.peer_id(),
                Member {
                    key: key.public_key(),
                    addresses,
                    services: None,
                    relays: Vec::new(),
                    leaving: false,
                    owner: true,
                    node: None,
                },
            )
        })
        .collect();
    let [(gateway, mut events), (node, mut node_events)] = links;
    gateway.set_members(members.clone());
    node.set_members(members);
    while !matches!(node_events.recv().await.expect("links run"), LinkEvent::Up(..)) {}
    let (door, incoming) = mpsc::channel::<ServiceIo>(4);
    tasks.spawn(async move {
        let _gateway = gateway;
        while let Some(event) = events.recv().await {
            if let LinkEvent::Stream { io, .. } = event {
                door.send(io).await.expect("the gateway serves");
            }
        }
    });
    tasks.spawn(async move { while node_events.recv().await.is_some() {} });
    let open = move |peer| {
        let node = node.clone();
        async move { node.open(peer, ServiceId::NODE).await.map_err(io::Error::other) }
    };
    (piped, Pair::start(keys(), incoming, open).await)
}

fn node_stream(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let homes = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let (piped, linked) = runtime.block_on(pairs(&homes));
    for (name, mut pair) in [("node_stream/pipe", piped), ("node_stream/link", linked)] {
        let mut group = criterion.benchmark_group(name);
        group.bench_function("one call there and back", |bench| {
            bench.iter(|| {
                runtime.block_on(async {
                    pair.send();
                    pair.answer().await;
                });
            });
        });
        group.throughput(Throughput::Elements(ROUND as u64));
        group.bench_function("64 in flight", |bench| {
            bench.iter(|| {
                runtime.block_on(async {
                    for n in 0..ROUND + IN_FLIGHT {
                        if n >= IN_FLIGHT {
                            pair.answer().await;
                        }
                        if n < ROUND {
                            pair.send();
                        }
                    }
                });
            });
        });
        group.finish();
    }
}

criterion_group!(benches, node_stream);
criterion_main!(benches);
