//! `NodeService`, the gRPC contract between a node and its gateway (`proto/sigil/v1/node.proto`), from both sides.

use std::io;
use std::sync::Arc;

use mesh_core::io::{Input, View};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{mpsc, watch};

use crate::mesh::transport::{Links, ServiceId, ServiceIo};
use crate::tasks::TaskGroup;
use client::{NodeClient, NodeClientHandle};
use server::{NodeServer, NodeServerHandle};

pub mod client;
mod read_pace;
pub mod server;
mod stream;

/// Connections that peers have opened and that wait to be served.
const CONNECTIONS_MAX: usize = 64;

/// Both sides of one peer.
#[derive(Debug)]
pub struct BothSides {
    /// The gateway's.
    pub server: NodeServerHandle,
    /// The node's.
    pub client: NodeClientHandle,
    /// Takes the connections that peers open.
    pub connections: mpsc::Sender<ServiceIo>,
}

/// Starts both sides over links. Everything that arrives goes to `inputs`.
#[must_use]
pub fn start(
    links: &Links,
    view: watch::Receiver<Arc<View>>,
    inputs: mpsc::Sender<Input>,
    tasks: &TaskGroup,
) -> BothSides {
    let verifier = Arc::new(links.verifier());
    let (connections, incoming) = mpsc::channel(CONNECTIONS_MAX);
    let server = NodeServer::start(incoming, view.clone(), verifier.clone(), inputs.clone(), tasks);
    let opener = links.clone();
    let open = move |peer| {
        let links = opener.clone();
        async move { links.open(peer, ServiceId::NODE).await.map_err(io::Error::other) }
    };
    let client = NodeClient::start(view, open, nonce(), verifier, inputs, tasks);
    BothSides { server, client, connections }
}

/// Random number of this process, never 0.
fn nonce() -> u64 {
    let mut bytes = [0; 8];
    // Without entropy TLS would not have come up.
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_be_bytes(bytes) | 1
}
