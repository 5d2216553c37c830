//! The handle to the links: starts them, and everything that the rest of the program asks of them.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_core::frame::Frame;
use mesh_core::ids::{Hash, MeshId, PeerId};
use quinn::VarInt;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::address::Address;
use super::blob::{BlobReaders, FetchError};
use super::dial::LOOKUPS_AT_ONCE;
use super::embedded_door::EmbeddedDoor;
use super::event::LinkEvent;
use super::greetings::Greetings;
use super::join_messages::{JoinConversation, JoinDialError, JoinRequest};
use super::link::LinkInfo;
use super::link_table::LinkTable;
use super::members::Members;
use super::mux::Relayed;
use super::networks::Face;
use super::quic::{self, Code};
use super::relay_socket::Routes;
use super::relay_state::{RelayConfig, RelayState};
use super::session::GUESTS_QUEUED_MAX;
use super::shared::{Drain, LinksState, LiveLinks, MemberAddresses, ToTable, random};
use super::stream::{self, ServiceId, ServiceIo, Tag};
use super::tailnet_door::TailnetDoor;
use super::tls::{Credentials, TlsError};
use super::underlay::{Underlay, UnderlayKind};
use super::underlays::Underlays;
use super::{accept, blob, join, relay};
use crate::mesh::blobs::BlobStore;
use crate::mesh::identity::{DeviceKey, KnownVerifier};
use crate::mesh::tailnet::{Mode, Tailnet};
use crate::tasks::TaskGroup;

/// Time that a clean stop waits for queued frames to arrive, and then for the peers to know.
const FLUSH_MAX: Duration = Duration::from_millis(100);
const IDLE_MAX: Duration = Duration::from_millis(150);
/// Messages from tasks to the link table; when full, the tasks wait.
const INBOX: usize = 256;

/// Everything that links need to start.
#[derive(Debug)]
pub struct LinksConfig {
    /// The device key.
    pub key: DeviceKey,
    /// Address of the UDP endpoint. `[::]` takes IPv4 too and becomes `0.0.0.0` on a machine without IPv6; port 0 = any
    /// free one.
    pub listen: SocketAddr,
    /// Services that peers may open streams to. Streams to others are refused.
    pub services: BTreeSet<ServiceId>,
    /// Relaying for others, and by others; adds the services that say so.
    pub relay: RelayConfig,
    /// Store that blobs come from and go to.
    pub blobs: BlobStore,
    /// Owner of all tasks. They end with [`Links::close_all`], or when the group is killed.
    pub tasks: TaskGroup,
}

/// The reason for which links did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinksError {
    /// Another process has the port.
    #[error(
        "UDP port {port} is in use by another program; choose another with --quic-port, or `listen.quic_port` in sigil.toml"
    )]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The socket cannot be opened for another reason.
    #[error("opening the UDP socket {listen}")]
    Socket {
        /// The address.
        listen: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The device key does not do.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The reason for which no stream to a service was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The peer is not linked now.
    #[error("there is no link to {}", .0.short())]
    NotLinked(PeerId),
    /// The directory record of the peer does not offer the service.
    #[error("{} does not offer service {service}", .peer.short())]
    NotOffered {
        /// The peer.
        peer: PeerId,
        /// The service.
        service: ServiceId,
    },
}

/// The links of this peer. Cheap to clone. What is not `async` never waits.
#[derive(Debug, Clone)]
pub struct Links {
    pub(super) shared: Arc<LinksState>,
}

impl Links {
    /// Opens the underlays and begins to accept. Nobody is approved until [`Self::set_members`].
    ///
    /// `events` should hold a thousand or so; when it is full, links stop reading until there is room.
    pub fn start(config: LinksConfig, events: mpsc::Sender<LinkEvent>) -> Result<Self, LinksError> {
        let LinksConfig { key, listen, mut services, relay, blobs, tasks } = config;
        if relay.uses {
            services.insert(ServiceId::RELAYED);
        }
        if relay.offers {
            services.insert(ServiceId::RELAYING);
        }
        let socket_error = |source: io::Error| {
            if source.kind() == io::ErrorKind::AddrInUse {
                LinksError::PortTaken { port: listen.port() }
            } else {
                LinksError::Socket { listen, source }
            }
        };
        let credentials = Credentials::new(key.pkcs8_der())?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(credentials.server()?));
        server.transport_config(quic::transport(quic::End::Accepted));
        let mut relayed = server.clone();
        relayed.transport_config(quic::relayed_transport(quic::End::Accepted));
        // Their addresses are made up here, and never change.
        relayed.migration(false);
        let endpoint = |underlay| quic::endpoint_config(&key, underlay);
        let (udp, watcher, mux) = Underlay::udp(listen, relay, endpoint(""), server).map_err(socket_error)?;
        let routes = Routes::new(mux.clone(), key.peer_id());
        let relayed = Underlay::relay(routes.clone(), endpoint("relayed "), relayed).map_err(socket_error)?;
        let (table, inbox) = mpsc::channel(INBOX);
        let shared = Arc::new(LinksState {
            me: key.peer_id(),
            nonce: random(),
            underlays: Underlays {
                udp: Arc::new(udp),
                relay: Arc::new(relayed),
                tailnet: TailnetDoor::default(),
                embedded: EmbeddedDoor::default(),
            },
            relay: RelayState::new(mux, routes),
            transport: quic::transport(quic::End::Dialled),
            relayed_transport: quic::relayed_transport(quic::End::Dialled),
            slow_transport: quic::slow_transport(quic::End::Dialled),
            lookups: Arc::new(Semaphore::new(LOOKUPS_AT_ONCE)),
            credentials,
            verifier: KnownVerifier::default(),
            blobs,
            blob_readers: OnceLock::new(),
            tasks: tasks.clone(),
            events,
            guests: Arc::new(Semaphore::new(GUESTS_QUEUED_MAX)),
            table,
            members: watch::channel(Arc::default()).0,
            member_addresses: MemberAddresses::default(),
            greetings: Greetings::default(),
            services,
            mesh: watch::channel(None).0,
            lan: Face::default(),
            drain: Drain::default(),
            retry: Notify::new(),
            live: LiveLinks::default(),
            tailnet_mode: OnceLock::new(),
        });
        for underlay in shared.underlays.all() {
            tasks.spawn(accept::run(shared.clone(), underlay.clone()));
            tasks.spawn(report_addresses(shared.clone(), underlay.clone()));
        }
        let closing = shared.drain.closing().clone();
        tasks.spawn(async move {
            closing.run_until_cancelled(watcher.run()).await;
        });
        tasks.spawn(relay::keep(shared.clone()));
        tasks.spawn(LinkTable::new(shared.clone()).run(inbox));
        Ok(Self { shared })
    }

    /// Replaces the set of approved peers: who may be linked, and whom to dial. Links to others are closed at once, to
    /// those that are `Member::leaving` after 1 s.
    /// A peer whose addresses changed is dialled anew without the pause that had grown.
    pub fn set_members(&self, members: Members) {
        self.shared.member_addresses.set(&members);
        self.shared.members.send_replace(Arc::new(members));
    }

    /// Says to which mesh we belong: on local networks, those who know it are told that we do.
    pub fn set_mesh(&self, mesh: MeshId) {
        self.shared.mesh.send_if_modified(|known| known.replace(mesh) != Some(mesh));
    }

    /// Dials everyone who is not linked now, at once: after a join, a change of network, or a suspend.
    pub fn retry_now(&self) {
        self.shared.retry.notify_one();
    }

    /// Queues a frame for a linked peer. False when it is not linked, or when so much waits for it that its link is
    /// closed now: the peers resync when it is back, so nothing is lost in silence.
    #[must_use]
    pub fn send(&self, peer: PeerId, frame: &Frame) -> bool {
        self.shared.live.get(peer).is_some_and(|link| link.send(frame))
    }

    /// Opens a stream to a service of a linked peer. If the peer turns out not to know the service, the stream fails
    /// with [`super::UnknownService`] when it is read or written.
    pub async fn open(&self, peer: PeerId, service: ServiceId) -> Result<ServiceIo, OpenError> {
        let link = self.shared.live.get(peer).ok_or(OpenError::NotLinked(peer))?;
        if !self.shared.may_offer(peer, service) {
            return Err(OpenError::NotOffered { peer, service });
        }
        match stream::open(&link.connection, Tag::Service(service)).await {
            Ok((send, recv)) => Ok(link.service_io(service, send, recv)),
            Err(_) => Err(OpenError::NotLinked(peer)),
        }
    }

    /// Serves blobs from now on, each to whom `readers` says. Only the first call counts.
    pub fn serve_blobs(&self, readers: Arc<dyn BlobReaders>) {
        let _ = self.shared.blob_readers.set(readers);
    }

    /// Gets a blob of at most `len_max` bytes from a linked peer into our blob store. Answers how many bytes it has.
    pub async fn fetch(&self, peer: PeerId, hash: Hash, len_max: u64) -> Result<u64, FetchError> {
        let link = self.shared.live.get(peer).ok_or(FetchError::NotLinked)?;
        blob::fetch(&link.connection, &self.shared.blobs, hash, len_max).await
    }

    /// Asks to join at the first of these addresses that answers, with the key of `expected` if it is known.
    pub async fn join(
        &self,
        addresses: &[Address],
        expected: Option<PeerId>,
        request: &JoinRequest,
    ) -> Result<JoinConversation, JoinDialError> {
        join::ask(&self.shared, addresses, expected, request).await
    }

    /// Connects to the first of these addresses that answers, learns whose key that is, and goes again.
    pub async fn identify(&self, addresses: &[Address]) -> Result<PeerId, JoinDialError> {
        join::identify(&self.shared, addresses).await.map(|(peer, _)| peer)
    }

    /// State of all links, by peer id.
    #[must_use]
    pub fn infos(&self) -> Vec<LinkInfo> {
        let mut infos = self.shared.live.infos();
        for info in &mut infos {
            let link = self.shared.live.get(info.peer);
            if link.is_some_and(|link| link.underlay == UnderlayKind::Relay) {
                info.relays = self.shared.relay.routes.relays(info.peer);
            }
        }
        infos
    }

    /// The tailnet as this device uses it.
    #[must_use]
    pub fn tailnet(&self) -> Tailnet {
        let Underlays { tailnet, embedded, .. } = &self.shared.underlays;
        let mode = self.shared.tailnet_mode.get().copied().unwrap_or_default();
        Tailnet { mode, condition: tailnet.seen(), embedded: embedded.seen() }
    }

    /// Says which use of a tailnet the settings ask for. Only the first call counts.
    pub fn set_tailnet_mode(&self, mode: Mode) {
        let _ = self.shared.tailnet_mode.set(mode);
    }

    /// What this peer relays for others.
    #[must_use]
    pub fn relayed(&self) -> Relayed {
        self.shared.relay.mux.relayed()
    }

    /// The port of the direct UDP underlay.
    #[must_use]
    pub fn local_port(&self) -> u16 {
        self.shared.underlays.udp.port()
    }

    /// The verifier of signatures, with its memory of good ones: the same entries come over node streams too.
    #[must_use]
    pub fn verifier(&self) -> KnownVerifier {
        self.shared.verifier.clone()
    }

    /// Addresses at which others may reach us, best first: those of the interfaces with a default route, of network
    /// cards, tunnels and bridges, and of those that nothing is connected to; loopback last. Link-local ones of
    /// interfaces that have no other, without a zone, which means nothing on another machine.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<Address> {
        self.shared.underlays.announced()
    }

    /// Services that are offered here: for the directory record.
    #[must_use]
    pub fn services(&self) -> &BTreeSet<ServiceId> {
        &self.shared.services
    }

    /// Ends all links and closes the endpoints: frames queued before go out first (at most 100 ms), then the peers learn
    /// `code` (at most 150 ms more). No [`LinkEvent::Down`] is promised after this.
    pub async fn close_all(&self, code: Code) {
        self.shared.drain.run(FLUSH_MAX).await;
        for underlay in self.shared.underlays.all() {
            underlay.endpoint.close(VarInt::from_u32(code as u32), b"");
            let _ = timeout(IDLE_MAX, underlay.endpoint.wait_idle()).await;
        }
    }
}

/// Tells the link table whenever own addresses on this underlay change.
async fn report_addresses(shared: Arc<LinksState>, underlay: Arc<Underlay>) {
    let mut own = underlay.own.clone();
    let reporting = async {
        while own.changed().await.is_ok() {
            if shared.table.send(ToTable::OwnAddresses(underlay.kind)).await.is_err() {
                return;
            }
        }
    };
    shared.drain.closing().run_until_cancelled(reporting).await;
}
