//! One link to each approved peer that can be reached: who is dialled and when, which of two connections stays, and what
//! the rest of the mesh hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_core::frame::Frame;
use mesh_core::ids::{Hash, PeerId, PublicKey};
use quinn::VarInt;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::dial::{self, Backoff};
use super::join::{self, JoinAttempt, JoinConversation, JoinDialError, JoinRequest};
use super::link::{self, Link, Outbox};
use super::quic::{self, Code};
use super::stream::{self, NodeIo, Tag};
use super::tls::{Credentials, TlsError};
use super::{accept, blob};
use crate::mesh::blobs::BlobStore;
use crate::mesh::identity::{DeviceKey, KnownVerifier};
use crate::mesh::snapshot::LinkInfo;
use crate::tasks::TaskGroup;

pub use super::blob::FetchError;

/// Head start of the lower peer's dial over the higher's, so that one connection is made and not two.
const YIELD: Duration = Duration::from_millis(300);
/// A link that lived this long was a success: the next dial waits as little as the first.
const SUCCESS: Duration = Duration::from_secs(5);
/// What a clean stop waits for queued frames to arrive, and then for the peers to know.
const FLUSH_MAX: Duration = Duration::from_millis(100);
const IDLE_MAX: Duration = Duration::from_millis(150);
/// For how long a link that was replaced still takes what is under way on it, and the other end learns of the new one.
const REPLACED: Duration = Duration::from_millis(500);
/// For how long one that was revoked still hears us: time to learn that it was revoked, and to say whom it approved.
const FAREWELL: Duration = Duration::from_secs(1);
/// How old a link that took the place of one whose address had gone is before another such may take its own: long enough
/// for two who moved together to come to one link, and no longer than a dead link lives.
const MOVED_AGAIN: Duration = Duration::from_millis(1800);
/// Messages from tasks to the actor; when full, the tasks wait.
const INBOX: usize = 256;

/// An approved peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its key; its hash is the peer id.
    pub key: PublicKey,
    /// Where it may be, best first. The first 40 are tried.
    pub addresses: Vec<SocketAddr>,
    /// It was revoked, and may only come to hear so: never dialled; its link takes frames to it and from it only entries
    /// (a few frames of them), and is closed 1 s after it came up, or after its peer was revoked. The same holds for
    /// everyone when we were.
    pub leaving: bool,
}

/// All approved peers, and those that were revoked and should learn it.
pub type Members = BTreeMap<PeerId, Member>;

/// What links need to start.
#[derive(Debug)]
pub struct LinksConfig {
    /// The device key.
    pub key: DeviceKey,
    /// UDP door. `[::]` takes IPv4 too and becomes `0.0.0.0` on a machine without IPv6; port 0 = any free one.
    pub listen: SocketAddr,
    /// Where blobs come from and go to.
    pub blobs: BlobStore,
    /// Owner of all tasks. They end with [`Links::close_all`], or when the group is killed.
    pub tasks: TaskGroup,
}

/// Why links did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinksError {
    /// Another process has the port.
    #[error("UDP port {port} is in use by another program")]
    PortTaken {
        /// Which.
        port: u16,
    },
    /// The socket cannot be opened for another reason.
    #[error("opening the UDP socket {listen}")]
    Socket {
        /// Where.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The device key does not do.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The peer is not linked now.
    #[error("there is no link to {}", .0.short())]
    NotLinked(PeerId),
}

/// What happened on the links. Events of one peer come in their order.
#[derive(Debug)]
pub enum LinkEvent {
    /// A link is up; or a newer one took the place of the one there was, and what was under way on that may be lost.
    /// With the number that the other process drew at its start.
    Up(PeerId, u64),
    /// The link is gone.
    Down(PeerId),
    /// A linked peer sent this; every signature in it has been checked.
    Frame(PeerId, Frame),
    /// An address of this machine has come or gone: [`Links::local_addresses`] says otherwise now.
    Network,
    /// Someone asks to join.
    JoinAttempt(JoinAttempt),
    /// A linked peer opened a `NodeService` connection.
    NodeStream(NodeIo),
    /// A linked peer broke the protocol. For counters; the link is closed when it goes on.
    Bad {
        /// Who.
        peer: PeerId,
        /// What was wrong.
        what: String,
    },
}

/// The links of this peer. Cheap to clone. What is not `async` never waits.
#[derive(Debug, Clone)]
pub struct Links {
    pub(super) shared: Arc<Shared>,
}

/// What all tasks of the links share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) me: PeerId,
    /// Random per process, so that a restarted peer is not taken for the one that it was.
    pub(super) nonce: u64,
    pub(super) endpoint: quinn::Endpoint,
    pub(super) transport: Arc<quinn::TransportConfig>,
    pub(super) credentials: Credentials,
    pub(super) verifier: KnownVerifier,
    pub(super) blobs: BlobStore,
    pub(super) tasks: TaskGroup,
    pub(super) events: mpsc::Sender<LinkEvent>,
    pub(super) actor: mpsc::Sender<ToActor>,
    pub(super) members: watch::Sender<Arc<Members>>,
    /// Set when links are to end; writers flush then.
    pub(super) closing: CancellationToken,
    /// Held by each writer until it has flushed.
    pub(super) flushing: Mutex<Option<mpsc::Sender<()>>>,
    flushed: tokio::sync::Mutex<mpsc::Receiver<()>>,
    retry_now: Notify,
    /// Written by the actor only.
    table: Mutex<BTreeMap<PeerId, Arc<Link>>>,
}

impl Shared {
    pub(super) fn link(&self, peer: PeerId) -> Option<Arc<Link>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }

    /// Whether this peer is approved.
    pub(super) fn is_member(&self, peer: PeerId) -> bool {
        self.members.borrow().get(&peer).is_some_and(|member| !member.leaving)
    }

    /// Whether this peer may have a link: approved, or about to hear that it is not.
    pub(super) fn may_link(&self, peer: PeerId) -> bool {
        self.members.borrow().contains_key(&peer)
    }

    /// Asks the actor to take a connection as the link to its peer.
    pub(super) async fn offer(&self, offer: Offer) -> Result<(Arc<Link>, Outbox), Code> {
        let (reply, answer) = oneshot::channel();
        self.actor.send(ToActor::Offer(offer, reply)).await.map_err(|_| Code::Stopping)?;
        answer.await.map_err(|_| Code::Stopping)?
    }
}

/// What tasks tell the actor.
#[derive(Debug)]
pub(super) enum ToActor {
    /// Both ends agree on this connection: may it be the link?
    Offer(Offer, oneshot::Sender<Result<(Arc<Link>, Outbox), Code>>),
    /// A link has ended, and so have its tasks.
    Closed(PeerId, u64),
    /// A dial has ended, whatever came of it.
    Dialled(PeerId, u64),
    /// An address of this machine has come or gone: these are there.
    Network(BTreeSet<IpAddr>),
}

/// A connection that could be the link to its peer.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) key: PublicKey,
    pub(super) connection: quinn::Connection,
    pub(super) dialled: bool,
    /// The other process's nonce.
    pub(super) nonce: u64,
    /// The dialler says that it has lost the address of the link there is.
    pub(super) moved: bool,
}

impl Links {
    /// Opens the door and begins to accept. Nobody is approved until [`Self::set_members`].
    ///
    /// `events` should hold a thousand or so; when it is full, links stop reading until there is room.
    pub fn start(config: LinksConfig, events: mpsc::Sender<LinkEvent>) -> Result<Self, LinksError> {
        let LinksConfig { key, listen, blobs, tasks } = config;
        let socket_error = |source: io::Error| {
            if source.kind() == io::ErrorKind::AddrInUse {
                LinksError::PortTaken { port: listen.port() }
            } else {
                LinksError::Socket { listen, source }
            }
        };
        let credentials = Credentials::new(key.pkcs8_der())?;
        let transport = quic::transport(quic::End::Dialled);
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(credentials.server()?));
        server.transport_config(quic::transport(quic::End::Accepted));
        let endpoint = quinn::Endpoint::new(
            quic::endpoint_config(&key),
            Some(server),
            quic::bind(listen).map_err(socket_error)?,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(socket_error)?;
        let (actor, inbox) = mpsc::channel(INBOX);
        let (flushing, flushed) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            me: key.peer_id(),
            nonce: random(),
            endpoint,
            transport,
            credentials,
            verifier: KnownVerifier::default(),
            blobs,
            tasks: tasks.clone(),
            events,
            actor,
            members: watch::channel(Arc::default()).0,
            closing: CancellationToken::new(),
            flushing: Mutex::new(Some(flushing)),
            flushed: tokio::sync::Mutex::new(flushed),
            retry_now: Notify::new(),
            table: Mutex::default(),
        });
        tasks.spawn(accept::run(shared.clone()));
        let members = shared.members.subscribe();
        let actor = Actor {
            shared: shared.clone(),
            members,
            dials: BTreeMap::new(),
            seen: BTreeMap::new(),
            moved: BTreeSet::new(),
            last: 0,
        };
        tasks.spawn(actor.run(inbox));
        tasks.spawn(watch_addresses(shared.clone()));
        Ok(Self { shared })
    }

    /// Replaces the set of approved peers: who may be linked, and whom to dial. Links to others are closed at once, to
    /// those that are [`Member::leaving`] after 1 s.
    /// A peer whose addresses changed is dialled anew without the pause that had grown.
    pub fn set_members(&self, members: Members) {
        self.shared.members.send_replace(Arc::new(members));
    }

    /// Dials everyone who is not linked now, at once: after a join, a change of network, or a suspend.
    pub fn retry_now(&self) {
        self.shared.retry_now.notify_one();
    }

    /// Queues a frame for a linked peer. False when it is not linked, or when so much waits for it that its link is
    /// closed now: the peers resync when it is back, so nothing is lost in silence.
    #[must_use]
    pub fn send(&self, peer: PeerId, frame: &Frame) -> bool {
        self.shared.link(peer).is_some_and(|link| link.send(frame))
    }

    /// Opens a `NodeService` connection to a linked peer.
    pub async fn open_node_stream(&self, peer: PeerId) -> Result<NodeIo, LinksError> {
        let link = self.shared.link(peer).ok_or(LinksError::NotLinked(peer))?;
        match stream::open(&link.connection, Tag::Node).await {
            Ok((send, recv)) => Ok(link.node_io(send, recv)),
            Err(_) => Err(LinksError::NotLinked(peer)),
        }
    }

    /// Gets a blob of at most `len_max` bytes from a linked peer into our blob store. Answers how many bytes it has.
    pub async fn fetch(&self, peer: PeerId, hash: Hash, len_max: u64) -> Result<u64, FetchError> {
        let link = self.shared.link(peer).ok_or(FetchError::NotLinked)?;
        blob::fetch(&link.connection, &self.shared.blobs, hash, len_max).await
    }

    /// Asks to join at the first of these addresses that answers, with the key of `expected` if it is known.
    pub async fn join(
        &self,
        addresses: &[SocketAddr],
        expected: Option<PeerId>,
        request: &JoinRequest,
    ) -> Result<JoinConversation, JoinDialError> {
        join::ask(&self.shared, addresses, expected, request).await
    }

    /// State of all links, by peer id.
    #[must_use]
    pub fn infos(&self) -> Vec<LinkInfo> {
        let table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.values().map(|link| link.info()).collect()
    }

    /// The UDP port of the door.
    #[must_use]
    pub fn local_port(&self) -> u16 {
        self.shared.endpoint.local_addr().map_or(0, |address| address.port())
    }

    /// What checks signatures here, with its memory of good ones: the same entries come over node streams too.
    #[must_use]
    pub fn verifier(&self) -> KnownVerifier {
        self.shared.verifier.clone()
    }

    /// Where others may reach the door: addresses of all interfaces, loopback last. Link-local ones are left out, for
    /// they mean nothing on another machine.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let Ok(bound) = self.shared.endpoint.local_addr().map(dial::canonical) else { return Vec::new() };
        if !bound.ip().is_unspecified() {
            return vec![bound];
        }
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let mut addresses: Vec<SocketAddr> = interfaces
            .iter()
            .map(if_addrs::Interface::ip)
            .filter(|ip| match ip {
                IpAddr::V4(ip) => !ip.is_link_local(),
                IpAddr::V6(ip) => bound.is_ipv6() && !ip.is_unicast_link_local(),
            })
            .map(|ip| (ip, bound.port()).into())
            .collect();
        addresses.sort_by_key(|address| (address.ip().is_loopback(), address.is_ipv6(), *address));
        addresses.dedup();
        if addresses.is_empty() {
            addresses.push((Ipv4Addr::LOCALHOST, bound.port()).into());
        }
        addresses
    }

    /// Ends all links and the door: frames queued before go out first (at most 100 ms), then the peers learn `code` (at
    /// most 150 ms more). No [`LinkEvent::Down`] is promised after this.
    pub async fn close_all(&self, code: Code) {
        self.shared.closing.cancel();
        drop(self.shared.flushing.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut flushed = self.shared.flushed.lock().await;
        let _ = timeout(FLUSH_MAX, flushed.recv()).await;
        self.shared.endpoint.close(VarInt::from_u32(code as u32), b"");
        let _ = timeout(IDLE_MAX, self.shared.endpoint.wait_idle()).await;
    }
}

/// Tells the actor whenever an address of this machine comes or goes. Where the system does not say, links that are dead
/// are noticed by their silence.
async fn watch_addresses(shared: Arc<Shared>) {
    let mut watcher = match if_watch::tokio::IfWatcher::new() {
        Ok(watcher) => watcher,
        Err(error) => return tracing::debug!(%error, "changes of address are not told here"),
    };
    let all = || if_addrs::get_if_addrs().map(|list| list.iter().map(if_addrs::Interface::ip).collect::<BTreeSet<_>>());
    let watching = async {
        let mut known = all().unwrap_or_default();
        // It begins with the addresses that are there already.
        while let Some(Ok(_)) = watcher.next().await {
            let Ok(here) = all() else { continue };
            if here != known {
                known.clone_from(&here);
                if shared.actor.send(ToActor::Network(here)).await.is_err() {
                    return;
                }
            }
        }
    };
    shared.closing.run_until_cancelled(watching).await;
}

fn random() -> u64 {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 8];
    // Without entropy no key could have been made; and a repeated nonce costs a few seconds at a restart, no more.
    let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
    u64::from_be_bytes(bytes)
}

/// Owner of all decisions about links: one at a time, so that both ends come to the same one.
struct Actor {
    shared: Arc<Shared>,
    members: watch::Receiver<Arc<Members>>,
    /// Every member but ourselves.
    dials: BTreeMap<PeerId, Dial>,
    /// Where members were seen last: their door, since everyone dials from it.
    seen: BTreeMap<PeerId, SocketAddr>,
    /// Whose links have lost our address: dead, although the other end may not have noticed yet.
    moved: BTreeSet<PeerId>,
    /// Number of the newest link or dial.
    last: u64,
}

/// How it stands with dialling one member.
struct Dial {
    addresses: Vec<SocketAddr>,
    backoff: Backoff,
    state: DialState,
}

enum DialState {
    /// Linked; or nowhere to dial.
    Resting,
    /// Due then.
    Waiting(Instant),
    /// Under way; dropping the guard ends it.
    Running(u64, #[expect(dead_code, reason = "held for its drop")] DropGuard),
}

impl Actor {
    async fn run(mut self, mut inbox: mpsc::Receiver<ToActor>) {
        let shared = self.shared.clone();
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => return,
                Ok(()) = self.members.changed() => self.refresh(),
                () = shared.retry_now.notified() => {
                    self.refresh();
                    self.retry_now();
                }
                Some(message) = inbox.recv() => self.on_message(message).await,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.dial_due(),
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.dials
            .values()
            .filter_map(|dial| match dial.state {
                DialState::Waiting(at) => Some(at),
                DialState::Resting | DialState::Running(..) => None,
            })
            .min()
    }

    /// Takes over a new set of members.
    fn refresh(&mut self) {
        let members = self.members.borrow_and_update().clone();
        let stays = |peer: &PeerId| members.get(peer).is_some_and(|member| !member.leaving);
        self.dials.retain(|peer, _| stays(peer));
        self.seen.retain(|peer, _| stays(peer));
        let table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        for (peer, link) in table.iter() {
            match members.get(peer) {
                Some(member) if member.leaving => self.dismiss(link),
                Some(_) => {}
                None => Code::Revoked.close(&link.connection),
            }
        }
        for (peer, member) in members.iter().filter(|(peer, _)| **peer != self.shared.me && stays(peer)) {
            if self.dials.get(peer).is_some_and(|dial| dial.addresses == member.addresses) {
                continue;
            }
            let state = if table.contains_key(peer) {
                DialState::Resting
            } else {
                DialState::Waiting(Instant::now() + head_start(self.shared.me, *peer))
            };
            let dial = Dial { addresses: member.addresses.clone(), backoff: Backoff::default(), state };
            self.dials.insert(*peer, dial);
        }
    }

    /// Closes the link of one that was revoked, once it had time to learn that.
    fn dismiss(&self, link: &Link) {
        if link.dismissed.swap(true, Ordering::Relaxed) {
            return;
        }
        let connection = link.connection.clone();
        self.shared.tasks.spawn(async move {
            let _ = timeout(FAREWELL, connection.closed()).await;
            Code::Revoked.close(&connection);
        });
    }

    /// Dials everyone who is not linked, now.
    fn retry_now(&mut self) {
        let table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        for (peer, dial) in &mut self.dials {
            if !table.contains_key(peer) {
                dial.backoff = Backoff::default();
                dial.state = DialState::Waiting(Instant::now());
            }
        }
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        for (peer, dial) in &mut self.dials {
            if !matches!(dial.state, DialState::Waiting(at) if at <= now) {
                continue;
            }
            let addresses: Vec<_> = self.seen.get(peer).into_iter().chain(&dial.addresses).copied().collect();
            if addresses.is_empty() {
                dial.state = DialState::Resting;
                continue;
            }
            self.last += 1;
            let moved = self.moved.contains(peer);
            let (id, cancel) = (self.last, CancellationToken::new());
            dial.state = DialState::Running(id, cancel.clone().drop_guard());
            let (shared, peer) = (self.shared.clone(), *peer);
            self.shared.tasks.spawn(async move {
                // Only the race can be called off: once a link is offered, it is seen through.
                if let Some(Ok((connection, key, _))) =
                    cancel.run_until_cancelled(dial::race(&shared, &addresses, Some(peer))).await
                {
                    link::dialled(&shared, connection, key, peer, id, moved).await;
                } else {
                    let _ = shared.actor.send(ToActor::Dialled(peer, id)).await;
                }
            });
        }
    }

    async fn on_message(&mut self, message: ToActor) {
        match message {
            ToActor::Offer(offer, reply) => {
                let (peer, nonce) = (offer.key.peer_id(), offer.nonce);
                let taken = self.take(offer);
                let up = taken.is_ok();
                // First the event, then the go-ahead: no frame of a link comes before its `Up`.
                if up && self.shared.events.send(LinkEvent::Up(peer, nonce)).await.is_err() {
                    return;
                }
                let _ = reply.send(taken);
            }
            ToActor::Closed(peer, id) => {
                let lived = {
                    let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
                    if table.get(&peer).is_none_or(|link| link.id != id) {
                        return;
                    }
                    table.remove(&peer).map(|link| link.since.elapsed())
                };
                if lived.is_some_and(|lived| lived >= SUCCESS)
                    && let Some(dial) = self.dials.get_mut(&peer)
                {
                    dial.backoff = Backoff::default();
                }
                self.schedule(peer);
                let _ = self.shared.events.send(LinkEvent::Down(peer)).await;
            }
            ToActor::Network(here) => {
                self.follow_addresses(&here);
                let _ = self.shared.events.send(LinkEvent::Network).await;
            }
            ToActor::Dialled(peer, id) => {
                let linked = self.shared.link(peer).is_some();
                match self.dials.get_mut(&peer) {
                    Some(dial) if matches!(dial.state, DialState::Running(now, _) if now == id) => {
                        dial.state = DialState::Resting;
                        if !linked || self.moved.contains(&peer) {
                            self.schedule(peer);
                        }
                    }
                    Some(_) | None => {}
                }
            }
        }
    }

    /// A connection that we accepted answers from the address at which it was asked for. When that is gone it is dead, and
    /// neither end knows: they are dialled anew. What we dialled ourselves goes on from the new address.
    fn follow_addresses(&mut self, here: &BTreeSet<IpAddr>) {
        {
            let table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
            let own = |link: &Link| link.connection.local_ip().map(|ip| ip.to_canonical());
            let lost = table.iter().filter(|(_, link)| own(link).is_some_and(|ip| !here.contains(&ip)));
            self.moved.extend(lost.map(|(peer, _)| *peer));
        }
        for peer in &self.moved {
            if let Some(dial) = self.dials.get_mut(peer) {
                dial.backoff = Backoff::default();
                dial.state = DialState::Waiting(Instant::now());
            }
        }
        self.retry_now();
    }

    /// Plans the next dial of a member that is not linked.
    fn schedule(&mut self, peer: PeerId) {
        if let Some(dial) = self.dials.get_mut(&peer) {
            let pause = dial.backoff.next(random()) + head_start(self.shared.me, peer);
            dial.state = DialState::Waiting(Instant::now() + pause);
        }
    }

    /// Decides whether a connection becomes the link.
    fn take(&mut self, offer: Offer) -> Result<(Arc<Link>, Outbox), Code> {
        let peer = offer.key.peer_id();
        if !self.shared.may_link(peer) {
            return Err(Code::Revoked);
        }
        let leaving = !self.shared.is_member(peer);
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = table.get(&peer) {
            let standing = |dialled: bool, nonce| Standing { by_lower: dialled == (self.shared.me < peer), nonce };
            let dead = offer.moved && !(present.moved && present.since.elapsed() < MOVED_AGAIN);
            if !dead && !standing(offer.dialled, offer.nonce).replaces(standing(present.dialled, present.nonce)) {
                return Err(Code::Duplicate);
            }
            let old = present.connection.clone();
            self.shared.tasks.spawn(async move {
                let _ = timeout(REPLACED, old.closed()).await;
                Code::Replaced.close(&old);
            });
        }
        if !leaving {
            self.seen.insert(peer, dial::canonical(offer.connection.remote_address()));
            quic::raise_limits(&offer.connection);
        }
        self.last += 1;
        let (link, outbox) = Link::new(self.last, offer);
        if leaving {
            self.dismiss(&link);
        }
        table.insert(peer, link.clone());
        self.moved.remove(&peer);
        if let Some(dial) = self.dials.get_mut(&peer)
            && matches!(dial.state, DialState::Waiting(_))
        {
            dial.state = DialState::Resting;
        }
        Ok((link, outbox))
    }
}

/// The lower peer dials first.
fn head_start(me: PeerId, peer: PeerId) -> Duration {
    if me < peer { Duration::ZERO } else { YIELD }
}

/// What decides between two connections of one pair of peers.
#[derive(Debug, Clone, Copy)]
struct Standing {
    by_lower: bool,
    nonce: u64,
}

impl Standing {
    /// Whether a newcomer takes the place of the present link. Both ends say the same, in whatever order they see the
    /// two: of crossing connections the lower peer's stays, of two from the same side the newer. A new process at the
    /// other end always wins, for whatever the former one had is dead.
    fn replaces(self, present: Self) -> bool {
        self.nonce != present.nonce || self.by_lower || !present.by_lower
    }
}
