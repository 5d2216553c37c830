//! The underlay over a node of a tailnet in this program, which comes and goes, and how that node is.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::ids::PeerId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::address::canonical;
use super::underlay::Underlay;
use crate::mesh::clock;
use crate::mesh::tailnet::embedded::Ask;
use crate::mesh::tailnet::{EMBEDDED_PORT, EmbeddedCondition, Identity, Node, TAILNET_PORT};

/// Longest wait for an answer of the node: somebody waits for it.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EmbeddedDoor(Mutex<Now>);

#[derive(Debug, Default)]
struct Now {
    open: Option<Open>,
    condition: EmbeddedCondition,
    /// The last address that was refused.
    refused: Option<IpAddr>,
}

/// A node that works.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) underlay: Arc<Underlay>,
    /// Questions to the node.
    pub(super) asks: mpsc::Sender<Ask>,
    /// Those that have come by it.
    pub(super) visits: mpsc::Sender<Visit>,
}

/// A peer that has come from a node of the tailnet, and is no member. The node in this program lists no others: so those are
/// found that find us.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) peer: PeerId,
    pub(super) from: SocketAddr,
    pub(super) node: Node,
}

impl EmbeddedDoor {
    /// The underlay, while it is open.
    pub(super) fn open(&self) -> Option<Arc<Underlay>> {
        self.lock().open.as_ref().map(|open| open.underlay.clone())
    }

    /// Condition of the node.
    pub(super) fn seen(&self) -> EmbeddedCondition {
        self.lock().condition.clone()
    }

    /// Notes the condition of the node. Returns true if it is news.
    pub(super) fn note(&self, condition: EmbeddedCondition) -> bool {
        let mut now = self.lock();
        let is_news = now.condition != condition;
        now.condition = condition;
        is_news
    }

    /// Takes another node, or none, in place of the one there was, whose underlay is returned.
    pub(super) fn put(&self, open: Option<Open>) -> Option<Arc<Underlay>> {
        std::mem::replace(&mut self.lock().open, open).map(|open| open.underlay)
    }

    /// The node of the tailnet at this address, from which a handshake has come over the underlay.
    ///
    /// Sound, since the tailnet authenticates each packet to the node that has its source address. A user is never told.
    pub(super) async fn who_is(&self, at: SocketAddr) -> Option<Identity> {
        let at = canonical(at);
        let found = self.at(at.ip()).await;
        let why = match found {
            Some(node) if !node.has_ended(clock::now().wall_ms) => return Some(Identity { node, login: None }),
            Some(_) => "its key has expired",
            None => "it is no node of the tailnet, or the node in this program does not say",
        };
        // Who is refused comes again and again.
        let before = self.lock().refused.replace(at.ip());
        if before != Some(at.ip()) {
            tracing::info!(ip = %at.ip(), "refused one that comes over the tailnet: {why}");
        }
        None
    }

    /// The node at an address of the tailnet.
    pub(super) async fn at(&self, ip: IpAddr) -> Option<Node> {
        self.ask(|reply| Ask::WhoIs(ip, reply)).await
    }

    /// The addresses of a node by its name in the tailnet.
    pub(super) async fn named(&self, name: &str) -> Option<Node> {
        self.ask(|reply| Ask::Named(name.to_owned(), reply)).await
    }

    /// Notes one that has come. When too many do, some are found later.
    pub(super) fn note_visit(&self, visit: Visit) {
        if let Some(open) = &self.lock().open {
            let _ = open.visits.try_send(visit);
        }
    }

    async fn ask(&self, ask: impl FnOnce(oneshot::Sender<Option<Node>>) -> Ask) -> Option<Node> {
        let asks = self.lock().open.as_ref()?.asks.clone();
        let (reply, answer) = oneshot::channel();
        asks.try_send(ask(reply)).ok()?;
        timeout(ANSWER_MAX, answer).await.ok()?.ok()?
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sockets at which a node of the tailnet may have a peer, best first.
pub(super) fn sockets(ip: IpAddr) -> [SocketAddr; 2] {
    [(ip, TAILNET_PORT).into(), (ip, EMBEDDED_PORT).into()]
}
