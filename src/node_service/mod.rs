//! `NodeService`, the gRPC contract between a node and its gateway (`proto/sigil/v1/node.proto`), from both sides.

use std::io;
use std::sync::Arc;

use mesh_core::frame::Frame;
use mesh_core::ids::PeerId;
use mesh_core::io::{Input, View};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{mpsc, watch};

use crate::mesh::NodeLinks;
use crate::mesh::transport::{Links, ServiceId, ServiceIo};
use crate::tasks::TaskGroup;
use client::{NodeClient, NodeClientHandle};
use server::{NodeServer, NodeServerHandle};

pub mod client;
mod convert;
pub mod server;
mod stream;

/// Connections that peers have opened and that wait to be served. Full = closed: the node tries again.
const ACCEPTED_MAX: usize = 64;

/// The node streams of one peer: those of nodes that are registered here, and its own to the gateway.
#[derive(Debug)]
pub struct NodeStreams {
    server: NodeServerHandle,
    client: NodeClientHandle,
    accepted: mpsc::Sender<ServiceIo>,
}

impl NodeStreams {
    /// Starts both sides. Everything that arrives goes to `inputs`.
    #[must_use]
    pub fn start(
        links: &Links,
        view: watch::Receiver<Arc<View>>,
        inputs: mpsc::Sender<Input>,
        tasks: &TaskGroup,
    ) -> Self {
        let verifier = Arc::new(links.verifier());
        let (accepted, incoming) = mpsc::channel(ACCEPTED_MAX);
        let server = NodeServer::start(incoming, view.clone(), verifier.clone(), inputs.clone(), tasks);
        let opener = links.clone();
        let open = move |peer| {
            let links = opener.clone();
            async move { links.open(peer, ServiceId::NODE).await.map_err(io::Error::other) }
        };
        let client = NodeClient::start(view, open, nonce(), verifier, inputs, tasks);
        Self { server, client, accepted }
    }
}

impl NodeLinks for NodeStreams {
    fn send(&self, peer: PeerId, frame: Frame) -> bool {
        match frame {
            Frame::Dispatch(dispatch) => self.server.dispatch(peer, &dispatch),
            Frame::Cancel { id } => self.server.cancel(peer, id),
            Frame::Answer(answer) => self.client.answer(peer, answer),
            Frame::Beacon(_)
            | Frame::Query
            | Frame::Notice(_)
            | Frame::Resign { .. }
            | Frame::Handover { .. }
            | Frame::Neighbours(_)
            | Frame::Digest { .. }
            | Frame::Entries { .. }
            | Frame::Presence { .. }
            | Frame::Progress { .. } => false,
        }
    }

    fn abdicate(&self, moved_to: Option<PeerId>) {
        self.server.close_all(moved_to);
    }

    fn accept(&self, stream: ServiceIo) {
        let _ = self.accepted.try_send(stream);
    }

    fn dismiss(&self, peer: PeerId) {
        self.server.dismiss(peer);
    }

    fn retry_now(&self) {
        self.client.retry_now();
    }
}

/// Random number of this process, never 0.
fn nonce() -> u64 {
    let mut bytes = [0; 8];
    // Without entropy TLS would not have come up.
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_be_bytes(bytes) | 1
}
