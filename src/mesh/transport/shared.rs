//! The state that all tasks of the links share, and how they ask the link table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mesh_core::ids::{MeshId, PeerId};
use ring::rand::SecureRandom as _;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::address::{Address, canonical};
use super::blob::BlobReaders;
use super::event::LinkEvent;
use super::greetings::Greetings;
use super::link::{Answered, Link, LinkInfo, Linked, NewLink, Outbox};
use super::members::Members;
use super::networks::Face;
use super::quic::Code;
use super::relay_state::RelayState;
use super::stream::ServiceId;
use super::tls::Credentials;
use super::underlay::UnderlayKind;
use super::underlays::Underlays;
use crate::mesh::blobs::BlobStore;
use crate::mesh::identity::KnownVerifier;
use crate::mesh::tailnet::{Mode, Node};
use crate::tasks::TaskGroup;

/// See the module.
#[derive(Debug)]
pub(super) struct LinksState {
    pub(super) me: PeerId,
    /// Random per process, so that a restarted peer is not taken for the one that it was.
    pub(super) nonce: u64,
    pub(super) underlays: Underlays,
    /// Settings of every connection that is dialled.
    pub(super) transport: Arc<quinn::TransportConfig>,
    /// The same by a relay.
    pub(super) relayed_transport: Arc<quinn::TransportConfig>,
    /// The same to or from a node of a tailnet that lives in a program.
    pub(super) slow_transport: Arc<quinn::TransportConfig>,
    pub(super) relay: RelayState,
    /// Places for lookups of hosts.
    pub(super) lookups: Arc<Semaphore>,
    pub(super) credentials: Credentials,
    pub(super) verifier: KnownVerifier,
    pub(super) blobs: BlobStore,
    /// Set once the store is read; until then no blob is served.
    pub(super) blob_readers: OnceLock<Arc<dyn BlobReaders>>,
    pub(super) tasks: TaskGroup,
    pub(super) events: mpsc::Sender<LinkEvent>,
    /// Places of frames of all who are no owners in the queue of events.
    pub(super) guests: Arc<Semaphore>,
    pub(super) table: mpsc::Sender<ToTable>,
    pub(super) members: watch::Sender<Arc<Members>>,
    pub(super) member_addresses: MemberAddresses,
    pub(super) greetings: Greetings,
    /// Services that are offered here.
    pub(super) services: BTreeSet<ServiceId>,
    /// The mesh that we belong to; none before it runs.
    pub(super) mesh: watch::Sender<Option<MeshId>>,
    /// All that local networks may know of us.
    pub(super) lan: Face,
    pub(super) drain: Drain,
    /// Wakes the link table: dial everyone who is not linked.
    pub(super) retry: Notify,
    pub(super) live: LiveLinks,
    /// Use of a tailnet that the settings ask for.
    pub(super) tailnet_mode: OnceLock<Mode>,
}

impl LinksState {
    /// True if this peer is approved.
    pub(super) fn is_member(&self, peer: PeerId) -> bool {
        self.members.borrow().get(&peer).is_some_and(|member| !member.leaving)
    }

    /// True unless this peer is a member that was let in for the tag of another node of that tailnet. One that was is told in the
    /// log.
    pub(super) fn may_come_from(&self, peer: PeerId, node: &Node, at: SocketAddr) -> bool {
        let may = self.members.borrow().get(&peer).is_none_or(|member| member.may_come_from(node));
        if !may {
            let why = "its device was let in for the tag of another node (tailnet.other_node)";
            self.underlays.tailnet.note_refused(at, why);
        }
        may
    }

    /// True if this peer is an owner.
    pub(super) fn is_owner(&self, peer: PeerId) -> bool {
        self.members.borrow().get(&peer).is_some_and(|member| member.owner && !member.leaving)
    }

    /// True if this peer may have a link: it is approved, or about to hear that it is not.
    pub(super) fn may_link(&self, peer: PeerId) -> bool {
        self.members.borrow().contains_key(&peer)
    }

    /// True if a member is said to be at this address, or was seen there: a hint to whom room is given first, and no
    /// proof of anything.
    pub(super) fn is_known_address(&self, ip: IpAddr) -> bool {
        self.member_addresses.contains(ip) || self.live.is_at(ip)
    }

    /// True unless the directory record of this peer says that it does not offer the service.
    pub(super) fn may_offer(&self, peer: PeerId, service: ServiceId) -> bool {
        let members = self.members.borrow();
        let known = members.get(&peer).and_then(|member| member.services.as_ref());
        known.is_none_or(|services| services.contains(&service))
    }

    /// Asks the link table to take a connection as the link to its peer.
    pub(super) async fn take_up(&self, new: NewLink) -> Result<(Arc<Link>, Outbox), Code> {
        let (reply, answer) = oneshot::channel();
        self.table.send(ToTable::NewLink(new, reply)).await.map_err(|_| Code::Stopping)?;
        answer.await.map_err(|_| Code::Stopping)?
    }
}

/// The answer to an [`NewLink`].
pub(super) type Taken = Result<(Arc<Link>, Outbox), Code>;

/// Messages of tasks to the link table.
#[derive(Debug)]
pub(super) enum ToTable {
    /// Both ends agree on this connection: may it be the link?
    NewLink(NewLink, oneshot::Sender<Taken>),
    /// A link has ended, and so have its tasks.
    Closed(PeerId, u64),
    /// A dial has ended, whatever came of it.
    Dialled(PeerId, u64),
    /// A peer answered where a relay sees it.
    Punched(PeerId, Box<Answered>),
    /// Own addresses on this underlay have changed.
    OwnAddresses(UnderlayKind),
}

/// The links that are up. Written by the link table only.
#[derive(Debug, Default)]
pub(super) struct LiveLinks(Mutex<BTreeMap<PeerId, Arc<Link>>>);

impl LiveLinks {
    pub(super) fn get(&self, peer: PeerId) -> Option<Arc<Link>> {
        self.lock().get(&peer).cloned()
    }

    pub(super) fn contains(&self, peer: PeerId) -> bool {
        self.lock().contains_key(&peer)
    }

    /// How a peer is linked now.
    pub(super) fn how(&self, peer: PeerId) -> Linked {
        self.lock().get(&peer).map_or(Linked::No, |link| match link.underlay {
            UnderlayKind::Udp => Linked::Directly,
            UnderlayKind::Relay => Linked::ByRelay,
            UnderlayKind::Tailnet | UnderlayKind::TailnetEmbedded => Linked::ByTailnet,
        })
    }

    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn infos(&self) -> Vec<LinkInfo> {
        self.lock().values().map(|link| link.info()).collect()
    }

    /// The peer that is linked at this socket.
    #[cfg(feature = "lan")]
    pub(super) fn at(&self, socket: SocketAddr) -> Option<PeerId> {
        let is_there = |link: &&Arc<Link>| canonical(link.connection.remote_address()) == socket;
        self.lock().values().find(is_there).map(|link| link.peer)
    }

    /// True if a link comes from this address.
    pub(super) fn is_at(&self, ip: IpAddr) -> bool {
        self.lock().values().any(|link| canonical(link.connection.remote_address()).ip() == ip)
    }

    /// Makes this the link to its peer, in place of the one there may be.
    pub(super) fn put(&self, link: Arc<Link>) {
        self.lock().insert(link.peer, link);
    }

    /// Takes out the link with this number, if it is the present one of the peer.
    pub(super) fn remove(&self, peer: PeerId, number: u64) -> Option<Arc<Link>> {
        let mut links = self.lock();
        if links.get(&peer).is_some_and(|link| link.number == number) { links.remove(&peer) } else { None }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PeerId, Arc<Link>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses at which members should be, and the last ones at which they proved their key to us.
#[derive(Debug, Default)]
pub(super) struct MemberAddresses(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    told: BTreeSet<IpAddr>,
    seen: BTreeMap<PeerId, IpAddr>,
}

impl MemberAddresses {
    /// Takes over a new set of members.
    pub(super) fn set(&self, members: &Members) {
        let stay = || members.iter().filter(|(_, member)| !member.leaving);
        let told = stay().flat_map(|(_, member)| member.addresses.iter().filter_map(Address::ip)).collect();
        let mut known = self.lock();
        known.told = told;
        known.seen.retain(|peer, _| members.get(peer).is_some_and(|member| !member.leaving));
    }

    /// Notes that this member proved its key from there.
    pub(super) fn note(&self, peer: PeerId, ip: IpAddr) {
        self.lock().seen.insert(peer, ip);
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let known = self.lock();
        known.told.contains(&ip) || known.seen.values().any(|seen| *seen == ip)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of all links: writers are told, flush, and are waited for.
#[derive(Debug, Default)]
pub(super) struct Drain {
    closing: CancellationToken,
    writers: TaskTracker,
}

impl Drain {
    /// Cancelled when links are to end.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Held by a writer until it has flushed.
    pub(super) fn writer(&self) -> TaskTrackerToken {
        self.writers.token()
    }

    /// Tells everyone to end, and waits for the writers, at most this long.
    pub(super) async fn run(&self, wait: Duration) {
        self.closing.cancel();
        self.writers.close();
        let _ = timeout(wait, self.writers.wait()).await;
    }
}

/// Any number.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without entropy no key could have been made; and a repeated nonce costs a few seconds at a restart, no more.
    let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
    u64::from_be_bytes(bytes)
}
