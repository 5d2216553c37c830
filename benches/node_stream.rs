//! What one node stream costs: dispatch out, outcome back, both sides in this process over a pipe. Keys are symbolic, so
//! Ed25519 (two checks, about 50 µs each) comes on top; HTTP/2, protobuf, queues and wake-ups are all in it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_core::crypto::{Signer, Symbolic};
use mesh_core::entry::{self, Effect, Ending, Entry, Header, Kind, Outcome, Payload, SignedEntry, Tier};
use mesh_core::epoch::{Claim, Epoch};
use mesh_core::frame::{Answer, AnswerKind, Dispatch, Frame};
use mesh_core::ids::{Hash, Incarnation, MeshId, PeerId, ReqId};
use mesh_core::io::{NodeView, View};
use sigil::gateway::node_service::{NodeEvent, NodeServer, NodeServerHandle};
use sigil::node::client::{NodeClient, NodeClientEvent, NodeInfo};
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

fn signed(signer: &Symbolic, kind: Kind, body: Vec<u8>) -> SignedEntry {
    let entry = Entry {
        mesh: MeshId([1; 32]),
        author: signer.public_key(),
        incarnation: Incarnation(1),
        seq: 1,
        hlc: 1,
        kind,
        critical: false,
        generation: 0,
        previous: Hash::ZERO,
        body: body.into(),
    };
    SignedEntry::sign(signer, entry)
}

/// A registered pair, its call and its answer.
struct Pair {
    events: mpsc::Receiver<NodeEvent>,
    handle: NodeServerHandle,
    node: PeerId,
    call: Dispatch,
    /// The other ends of what both sides watch.
    _keep: Box<dyn std::any::Any>,
}

impl Pair {
    async fn start() -> Self {
        let (leader, target) = (Symbolic::new(1), Symbolic::new(2));
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
            principal: "owner".to_owned(),
            client_key: None,
            needs_approval: false,
        };
        let node_view = NodeView {
            peer: node,
            key: target.public_key(),
            node_id: header.node_id.clone(),
            tier: Tier::Owner,
            online: true,
            last_seen_ms: 0,
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
            gateway: Some(epoch),
            fence: epoch,
            links: Vec::new(),
            nodes: vec![node_view],
        };
        let info = NodeInfo {
            node_id: header.node_id.clone(),
            platform: String::new(),
            version: String::new(),
            tools: Vec::new(),
            capabilities: BTreeMap::new(),
            session_nonce: 1,
        };
        let outcome = Outcome {
            id,
            attempt: 1,
            ending: Ending::Done,
            reason: String::new(),
            output: Payload::Inline(r#"{"platform":"linux","cpus":2}"#.into()),
            error: String::new(),
            at_ms: 0,
            alias_of: None,
        };
        let outcome = signed(&target, Kind::OUTCOME, entry::encode(&outcome));
        let answer = Answer { id, attempt: 1, what: AnswerKind::Ended(outcome) };
        let call = Dispatch {
            claim: Claim::sign(&leader, epoch, 1),
            header: signed(&leader, Kind::CALL, entry::encode(&header)),
            attempt: 1,
            left_ms: 60_000,
        };

        let tasks = TaskGroup::default();
        let (streams, incoming) = mpsc::channel(4);
        let (view_tx, view_rx) = watch::channel(Arc::new(view));
        let (events_tx, mut events) = mpsc::channel(1024);
        let handle = NodeServer::start(incoming, view_rx, Arc::new(leader.clone()), events_tx, &tasks);
        let (gateway_tx, gateway_rx) = watch::channel(Some(gateway));
        let (info_tx, info_rx) = watch::channel(Arc::new(info));
        let (node_tx, mut node_events) = mpsc::channel(1024);
        let door = streams.clone();
        let open = move |_| {
            let door = door.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(256 * 1024);
                door.send(Pipe(theirs, node)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
                Ok(ours)
            }
        };
        let client = NodeClient::start(gateway_rx, open, info_rx, Arc::new(leader), node_tx, &tasks);
        // In the place of the node's actor.
        tasks.spawn(async move {
            while let Some(event) = node_events.recv().await {
                if let NodeClientEvent::Dispatch(from, _) = event {
                    assert!(client.answer(from, answer.clone()));
                }
            }
        });
        assert!(matches!(events.recv().await, Some(NodeEvent::Up { .. })));
        Self { events, handle, node, call, _keep: Box::new((streams, view_tx, gateway_tx, info_tx)) }
    }

    fn send(&self) {
        assert!(self.handle.send(self.node, Frame::Dispatch(self.call.clone())));
    }

    async fn answer(&mut self) {
        assert!(matches!(self.events.recv().await, Some(NodeEvent::Answer { .. })));
    }
}

fn node_stream(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut pair = runtime.block_on(Pair::start());
    let mut group = criterion.benchmark_group("node_stream");

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
                let mut under_way = VecDeque::new();
                for n in 0..ROUND {
                    if under_way.len() == IN_FLIGHT {
                        pair.answer().await;
                        under_way.pop_front();
                    }
                    pair.send();
                    under_way.push_back(n);
                }
                for _ in under_way {
                    pair.answer().await;
                }
            });
        });
    });
    group.finish();
}

criterion_group!(benches, node_stream);
criterion_main!(benches);
