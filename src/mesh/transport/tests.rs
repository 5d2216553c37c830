//! Links against links, and against adversaries, over real sockets on loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use mesh_core::audience::Audience;
use mesh_core::entry::{BodyCommitment, Entry, Kind, Salt, SignedEntry};
use mesh_core::epoch::{Claim, Epoch, Fence};
use mesh_core::frame::{Beacon, DigestRow, EntryItem, Frame};
use mesh_core::ids::{Hash, Incarnation, MeshId, PeerId};
use mesh_core::io::Welcome;
use mesh_core::record::Tier;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::stream::{self, Tag};
use super::*;
use crate::mesh::blobs::BlobStore;
use crate::mesh::identity::DeviceKey;
use crate::tasks::TaskGroup;

mod relay;
mod strangers;

const LONG: Duration = Duration::from_secs(20);

struct Peer {
    links: Links,
    events: mpsc::Receiver<LinkEvent>,
    key: DeviceKey,
    blobs: BlobStore,
    tasks: TaskGroup,
    home: TempDir,
}

/// Lets everyone have every blob.
#[derive(Debug)]
struct Everyone;

impl BlobReaders for Everyone {
    fn may_read(&self, _: &PeerId, _: &Hash) -> bool {
        true
    }
}

impl Peer {
    fn start() -> Self {
        Self::start_at(tempfile::tempdir().unwrap(), 0)
    }

    fn start_at(home: TempDir, port: u16) -> Self {
        let (tx, events) = mpsc::channel(1024);
        Self::start_with(home, port, tx, events)
    }

    fn start_with(home: TempDir, port: u16, tx: mpsc::Sender<LinkEvent>, events: mpsc::Receiver<LinkEvent>) -> Self {
        let key = DeviceKey::load_or_create(home.path()).unwrap();
        let blobs = BlobStore::open(&home.path().join("blobs")).unwrap();
        let tasks = TaskGroup::default();
        let listen = (Ipv4Addr::LOCALHOST, port).into();
        let services = [ServiceId::NODE].into();
        let relay = RelayConfig { offers: true, uses: true, bytes_per_s: 64 << 20 };
        let config =
            LinksConfig { key: key.clone(), listen, services, relay, blobs: blobs.clone(), tasks: tasks.clone() };
        let links = Links::start(config, tx).unwrap();
        links.serve_blobs(Arc::new(Everyone));
        Self { links, events, key, blobs, tasks, home }
    }

    fn id(&self) -> PeerId {
        self.key.peer_id()
    }

    fn socket(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.links.local_port()).into()
    }

    fn address(&self) -> Address {
        self.socket().into()
    }

    fn endpoint(&self) -> &quinn::Endpoint {
        &self.links.shared.underlays.udp.endpoint
    }

    fn member(&self) -> (PeerId, Member) {
        (
            self.id(),
            Member {
                key: self.key.public_key(),
                addresses: vec![self.address()],
                services: None,
                relays: Vec::new(),
                leaving: false,
                owner: true,
                node: None,
            },
        )
    }

    /// Approves a peer without an address to dial it at.
    fn unreachable(&self) -> (PeerId, Member) {
        (
            self.id(),
            Member {
                key: self.key.public_key(),
                addresses: Vec::new(),
                services: None,
                relays: Vec::new(),
                leaving: false,
                owner: true,
                node: None,
            },
        )
    }

    /// The next event that `wanted` takes, within [`LONG`].
    async fn wait<T>(&mut self, mut wanted: impl FnMut(LinkEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(got) = wanted(self.events.recv().await.expect("links have ended")) {
                    return got;
                }
            }
        };
        timeout(LONG, waiting).await.expect("the event did not come")
    }

    async fn wait_up(&mut self, peer: PeerId) {
        self.wait(|event| matches!(event, LinkEvent::Up(up, ..) if up == peer).then_some(())).await;
    }

    async fn wait_down(&mut self, peer: PeerId) {
        self.wait(|event| matches!(event, LinkEvent::Down(down) if down == peer).then_some(())).await;
    }

    async fn wait_frame(&mut self) -> Frame {
        self.wait(|event| if let LinkEvent::Frame(_, frame, _) = event { Some(frame) } else { None }).await
    }

    /// A connection of this peer's key to an address, with nothing said on it yet.
    async fn raw(&self, to: &Peer) -> quinn::Connection {
        dial::race(&self.links.shared, &[to.address()], Some(to.id())).await.unwrap().connection
    }

    /// Ends as if by SIGKILL: nobody hears of it. The port is free afterwards.
    async fn kill(self) -> TempDir {
        let address = self.socket();
        // Twice, as the endpoint keeps the socket before the present one.
        for _ in 0..2 {
            self.endpoint().rebind_abstract(Arc::new(Nowhere(address))).unwrap();
        }
        self.tasks.shutdown(Duration::ZERO).await;
        drop(self.links);
        until("the port is free", || quic::bind(address).is_ok()).await;
        self.home
    }
}

/// A socket that swallows everything.
#[derive(Debug)]
struct Nowhere(SocketAddr);

impl quinn::AsyncUdpSocket for Nowhere {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
        Box::pin(Self(self.0))
    }
    fn try_send(&self, _: &quinn::udp::Transmit<'_>) -> io::Result<()> {
        Ok(())
    }
    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [io::IoSliceMut<'_>],
        _: &mut [quinn::udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

impl quinn::UdpPoller for Nowhere {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn linked() -> (Peer, Peer) {
    let (mut a, mut b) = (Peer::start(), Peer::start());
    a.links.set_members([b.member()].into());
    b.links.set_members([a.member()].into());
    a.wait_up(b.id()).await;
    b.wait_up(a.id()).await;
    (a, b)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A frame of 64 kB.
fn many_neighbours() -> Frame {
    let peers = (0..2000_u16).map(|n| PeerId(Hash::of(&n.to_be_bytes()).0)).collect();
    Frame::Neighbours { peers, relayed: Vec::new() }
}

fn digest(n: u64) -> Frame {
    let rows = vec![DigestRow { author: PeerId([1; 32]), incarnation: Incarnation(1), seq: n, stopped: false }];
    Frame::Digest { authors: mesh_core::frame::Authors::ALL, rows, changes: mesh_core::ids::Hash::ZERO }
}

fn beacon(key: &DeviceKey, covered: u8) -> Frame {
    let epoch = Epoch { counter: 1, class: 1, peer: key.peer_id() };
    Frame::Beacon(Beacon {
        claim: Claim::sign(key, MeshId([5; 32]), epoch, 1),
        age_ms: 3,
        covered: Arc::new((0..covered).map(|n| PeerId([n; 32])).collect()),
    })
}

fn entry(key: &DeviceKey) -> SignedEntry {
    let (salt, body) = (Salt([7; 16]), b"body");
    let entry = Entry {
        mesh: MeshId([1; 32]),
        author: key.public_key(),
        incarnation: Incarnation(1),
        seq: 1,
        hlc: 1,
        kind: Kind::GENESIS,
        critical: false,
        previous: Hash::ZERO,
        audience: Audience::Everyone,
        body: BodyCommitment::of(salt, body),
    };
    SignedEntry::sign(key, entry, salt, body)
}

fn request(secret: Option<[u8; 16]>) -> JoinRequest {
    JoinRequest {
        secret,
        node_id: "laptop".parse().unwrap(),
        platform: "linux".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

#[tokio::test]
async fn crossing_dials_end_as_one_link_that_stays() {
    for _ in 0..5 {
        let (mut a, mut b) = (Peer::start(), Peer::start());
        a.links.set_members([b.member()].into());
        b.links.set_members([a.member()].into());
        // Both at once, so that the dials cross.
        a.links.retry_now();
        b.links.retry_now();
        a.wait_up(b.id()).await;
        b.wait_up(a.id()).await;
        let lower_dialled = |peer: &Peer, other: PeerId| {
            peer.links.infos().first().is_some_and(|info| info.dialled == (peer.id() < other))
        };
        // Either only one dial got through, or the lower's stayed; at both ends the same.
        until("both agree", || {
            let (x, y) = (a.links.infos(), b.links.infos());
            matches!((&x[..], &y[..]), ([x], [y]) if x.dialled != y.dialled)
                && a.endpoint().open_connections() == 1
                && b.endpoint().open_connections() == 1
        })
        .await;
        let kept_lower = lower_dialled(&a, b.id());
        assert_eq!(kept_lower, lower_dialled(&b, a.id()));
        assert!(a.links.send(b.id(), &digest(7)) && b.links.send(a.id(), &digest(8)));
        for (peer, expected) in [(&mut b, digest(7)), (&mut a, digest(8))] {
            let frame = peer
                .wait(|event| match event {
                    LinkEvent::Frame(_, frame, _) => Some(frame),
                    LinkEvent::Down(_) => panic!("a replacement is not an end"),
                    LinkEvent::Up(..)
                    | LinkEvent::Network
                    | LinkEvent::Tailnet(_)
                    | LinkEvent::JoinAttempt(_)
                    | LinkEvent::Stream { .. }
                    | LinkEvent::Bad { .. } => None,
                })
                .await;
            assert_eq!(frame, expected);
        }
    }
}

#[tokio::test]
async fn frames_keep_their_order_and_large_ones_pass() {
    let (a, mut b) = linked().await;
    for n in 0..2000 {
        assert!(a.links.send(b.id(), &digest(n)));
    }
    let many = many_neighbours();
    assert!(a.links.send(b.id(), &many));
    for n in 0..2000 {
        assert_eq!(b.wait_frame().await, digest(n));
    }
    assert_eq!(b.wait_frame().await, many);
}

#[tokio::test]
async fn beacons_travel_whether_or_not_they_fit_a_datagram() {
    let (a, mut b) = linked().await;
    for covered in [0, 5, 50, 200] {
        let frame = beacon(&a.key, covered);
        assert!(a.links.send(b.id(), &frame));
        assert_eq!(b.wait_frame().await, frame);
    }
}

#[tokio::test]
async fn a_queue_that_runs_over_closes_the_link_and_the_peers_meet_again() {
    let (a, mut b) = linked().await;
    let many = many_neighbours();
    // Without an await nothing can be written: the queue must run over.
    let sent = (0..1000).take_while(|_| a.links.send(b.id(), &many)).count();
    assert!(sent < 200, "{sent} frames of 66 kB were queued");
    b.wait_down(a.id()).await;
    b.wait_up(a.id()).await;
}

#[tokio::test]
async fn a_host_is_looked_up_when_it_is_dialled() {
    let (mut a, stranger) = (Peer::start(), Peer::start());
    let at = [
        Address::from("udp://no-such-host.invalid:7433"),
        Address::from("tailnet://100.64.0.3:7435"),
        Address::from(format!("udp://localhost:{}", a.links.local_port()).as_str()),
    ];
    let conversation = stranger.links.join(&at, Some(a.id()), &request(None)).await.unwrap();
    assert_eq!((conversation.peer, conversation.address), (a.id(), a.address()));
    a.wait(|event| matches!(event, LinkEvent::JoinAttempt(_)).then_some(())).await;
}

#[tokio::test]
async fn nobody_at_the_address_is_told_as_that() {
    let a = Peer::start();
    let nobody: Address = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.local_addr().unwrap().into()
    };
    let error = a.links.join(std::slice::from_ref(&nobody), None, &request(None)).await.unwrap_err();
    assert_eq!(error, JoinDialError::Nobody { tried: vec![nobody.clone()] });
    assert!(error.to_string().contains(&nobody.to_string()));
}

#[tokio::test]
async fn who_is_no_member_any_more_loses_the_link_and_does_not_come_back() {
    let (mut a, mut b) = linked().await;
    a.links.set_members(Members::new());
    a.wait_down(b.id()).await;
    b.wait_down(a.id()).await;
    b.links.retry_now();
    assert!(!a.links.send(b.id(), &digest(1)));
    // Its dial is answered with "revoked", every time.
    let connection = b.raw(&a).await;
    let _streams = stream::open(&connection, Tag::Mesh).await.unwrap();
    timeout(LONG, connection.closed()).await.unwrap();
    assert!(a.links.infos().is_empty());
}

#[tokio::test]
async fn who_was_revoked_hears_so_and_says_nothing_but_entries() {
    let (mut a, mut b) = linked().await;
    let leaving = |peer: &Peer| (peer.id(), Member { leaving: true, ..peer.member().1 });
    a.links.set_members([leaving(&b)].into());
    until("it is told to go", || !a.links.shared.is_member(b.id())).await;
    // What it says and opens now counts for nothing, but for entries, a few of them; what it is told still comes.
    let entries = || Frame::Entries { entries: Vec::new(), more: false };
    assert!(b.links.send(a.id(), &digest(1)));
    for _ in 0..100 {
        assert!(b.links.send(a.id(), &entries()));
    }
    let _stream = b.links.open(a.id(), ServiceId::NODE).await.unwrap();
    assert!(a.links.send(b.id(), &digest(2)));
    assert_eq!(b.wait_frame().await, digest(2));
    let mut reissue = 0;
    let mut down = |event| match event {
        LinkEvent::Frame(_, frame, _) if frame == entries() => {
            reissue += 1;
            None
        }
        LinkEvent::Down(_) => Some(()),
        LinkEvent::Frame(..) | LinkEvent::Stream { .. } => panic!("a revoked peer was listened to"),
        LinkEvent::Up(..)
        | LinkEvent::Network
        | LinkEvent::Tailnet(_)
        | LinkEvent::JoinAttempt(_)
        | LinkEvent::Bad { .. } => None,
    };
    a.wait(&mut down).await;
    b.wait_down(a.id()).await;
    // It does not know yet, so it comes again, and is told again.
    a.wait_up(b.id()).await;
    assert!(a.links.send(b.id(), &digest(3)));
    assert_eq!(b.wait_frame().await, digest(3));
    a.wait(&mut down).await;
    assert_eq!(reissue, 63, "the digest was one of the frames that are looked at");
    // Approved again, it gets a link that stays.
    b.wait_down(a.id()).await;
    a.links.set_members([b.member()].into());
    a.wait_up(b.id()).await;
    until("frames come from it again", || b.links.send(a.id(), &digest(4))).await;
    assert_eq!(a.wait_frame().await, digest(4));
}

#[tokio::test]
async fn who_was_revoked_is_not_dialled() {
    let (mut a, b, c) = (Peer::start(), Peer::start(), Peer::start());
    for other in [&b, &c] {
        other.links.set_members([a.unreachable()].into());
    }
    let leaving = (b.id(), Member { leaving: true, ..b.member().1 });
    a.links.set_members([leaving, c.member()].into());
    a.links.retry_now();
    // Dials begin together; the one that is not to be would be there as soon as this one, or a moment later.
    a.wait_up(c.id()).await;
    let connections = b.endpoint().stats().accepted_handshakes;
    assert_eq!(connections, 0);
    assert_eq!(a.links.infos().len(), 1);
}

#[tokio::test]
async fn a_killed_peer_is_back_fast() {
    let (a, mut b) = linked().await;
    let (id, port) = (a.id(), a.links.local_port());
    let home = a.kill().await;
    let since = Instant::now();
    // Only `b` dials: the first sign of the new process is the reset that it sends for the old connection.
    let mut a = Peer::start_at(home, port);
    assert_eq!(a.id(), id);
    a.links.set_members([b.unreachable()].into());
    b.wait_down(id).await;
    let down = since.elapsed();
    b.wait_up(id).await;
    a.wait_up(b.id()).await;
    assert!(down + Duration::from_millis(300) < quic::IDLE, "only the idle timeout told of the restart: {down:?}");
    assert!(b.links.send(id, &digest(1)));
    assert_eq!(a.wait_frame().await, digest(1));
}

#[tokio::test]
async fn a_new_process_of_a_peer_takes_the_place_of_the_old_at_once() {
    let (mut a, b) = (Peer::start(), Peer::start());
    a.links.set_members([b.unreachable()].into());
    for nonce in [1_u64, 2] {
        let connection = b.raw(&a).await;
        let (mut send, mut recv) = stream::open(&connection, Tag::Mesh).await.unwrap();
        send.write_all(&nonce.to_be_bytes()).await.unwrap();
        stream::read_array::<8>(&mut recv).await.unwrap();
        a.wait_up(b.id()).await;
        // Both stay open here, as a dead process's would: only the newer may count.
        std::mem::forget((connection, send, recv));
    }
    until("the old one is closed", || a.endpoint().open_connections() == 1).await;
    assert_eq!(a.links.infos().len(), 1);
    assert!(!matches!(a.events.try_recv(), Ok(LinkEvent::Down(_))));
}

#[tokio::test]
async fn a_blob_comes_whole_or_not_at_all() {
    let (a, b) = linked().await;
    let bytes: Bytes = (0..5 * 1024 * 1024_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    let (hash, len) = (Hash::of(&bytes), bytes.len() as u64);
    a.blobs.put(hash, bytes.clone()).await.unwrap();
    assert_eq!(b.links.fetch(a.id(), hash, len).await.unwrap(), len);
    assert_eq!(std::fs::read(b.blobs.path(hash)).unwrap(), bytes);

    let other = Hash::of(b"another");
    assert!(matches!(b.links.fetch(a.id(), other, len).await, Err(FetchError::NotFound)));
    assert!(matches!(b.links.fetch(PeerId([0; 32]), hash, len).await, Err(FetchError::NotLinked)));
    // The peer serves bytes that are not those of the hash.
    std::fs::write(a.blobs.path(other), &bytes).unwrap();
    assert!(matches!(b.links.fetch(a.id(), other, len - 1).await, Err(FetchError::TooLarge { .. })));
    assert!(matches!(b.links.fetch(a.id(), other, len).await, Err(FetchError::WrongBytes)));
    assert!(!b.blobs.has(other));
}

#[tokio::test]
async fn a_node_stream_carries_bytes_both_ways() {
    let (a, mut b) = linked().await;
    let mut ours = a.links.open(b.id(), ServiceId::NODE).await.unwrap();
    ours.write_all(b"ping").await.unwrap();
    let mut theirs = b.wait(|event| if let LinkEvent::Stream { io, .. } = event { Some(io) } else { None }).await;
    let end = ServicePeer { peer: a.id(), key: a.key.public_key(), address: a.address() };
    assert_eq!(*theirs.peer(), end);
    let mut got = [0; 4];
    theirs.read_exact(&mut got).await.unwrap();
    theirs.write_all(b"pong").await.unwrap();
    ours.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"pong");
    a.links.set_members(Members::new());
    let ended = timeout(LONG, theirs.read(&mut got)).await.unwrap();
    assert!(ended.is_err() || ended.unwrap() == 0);
}

#[tokio::test]
async fn a_service_that_a_peer_does_not_offer_is_refused_at_both_ends() {
    const MEMORY: ServiceId = ServiceId(2);
    let (a, b) = linked().await;
    // Nothing is known of what it offers: it is asked, and says no. The link goes on.
    let mut io = a.links.open(b.id(), MEMORY).await.unwrap();
    let refused = timeout(LONG, io.read_u8()).await.unwrap().unwrap_err();
    let why = refused.get_ref().and_then(|cause| cause.downcast_ref::<UnknownService>());
    assert_eq!((refused.kind(), why), (io::ErrorKind::Unsupported, Some(&UnknownService(MEMORY))));
    assert!(b.links.open(a.id(), ServiceId::NODE).await.is_ok());
    // Its record says what it offers: it is not even asked.
    let (id, mut member) = b.member();
    member.services = Some([ServiceId::NODE].into());
    a.links.set_members([(id, member)].into());
    assert_eq!(a.links.open(id, MEMORY).await.unwrap_err(), OpenError::NotOffered { peer: id, service: MEMORY });
    assert!(a.links.open(id, ServiceId::NODE).await.is_ok());
    let nobody = PeerId([0; 32]);
    assert_eq!(a.links.open(nobody, ServiceId::NODE).await.unwrap_err(), OpenError::NotLinked(nobody));
}

#[tokio::test]
async fn a_mesh_that_does_not_listen_holds_up_no_decision_and_misses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (tx, mut events) = mpsc::channel(1);
    let full = tx.clone();
    let mut a = Peer::start_with(home, 0, tx, mpsc::channel(1).1);
    full.try_send(LinkEvent::Network).unwrap();
    let (mut b, mut c) = (Peer::start(), Peer::start());
    a.links.set_members([b.unreachable(), c.unreachable()].into());
    for peer in [&b, &c] {
        peer.links.set_members([a.member()].into());
    }
    // Both are taken, although the mesh can be told of neither; and no frame goes before its news.
    until("both are in the table", || a.links.infos().len() == 2).await;
    assert!(b.links.infos().is_empty() && c.links.infos().is_empty());
    assert!(matches!(events.recv().await, Some(LinkEvent::Network)));
    a.events = events;
    let mut up = Vec::new();
    for _ in 0..2 {
        up.push(a.wait(|event| if let LinkEvent::Up(peer, ..) = event { Some(peer) } else { None }).await);
    }
    up.sort();
    let mut both = [b.id(), c.id()];
    both.sort();
    assert_eq!(up, both);
    b.wait_up(a.id()).await;
    c.wait_up(a.id()).await;
}

#[tokio::test]
async fn s31_frames_of_one_link_keep_out_nobody_elses() {
    const FLOOD: u64 = 3_000;
    let (mut busy, mut liar, mut honest) = (Peer::start(), Peer::start(), Peer::start());
    busy.links.set_members([liar.unreachable(), honest.unreachable()].into());
    for peer in [&mut liar, &mut honest] {
        peer.links.set_members([busy.member()].into());
        peer.wait_up(busy.id()).await;
        busy.wait_up(peer.id()).await;
    }
    // Nobody looks at what comes; then it is looked at in its order.
    assert!((0..FLOOD).all(|n| liar.links.send(busy.id(), &digest(n))));
    until("a queue fills", || busy.events.len() >= 32).await;
    assert!(honest.links.send(busy.id(), &digest(FLOOD)));
    until("its frame comes", || busy.events.len() >= 33).await;
    let mut before = Vec::new();
    let by = loop {
        match busy.events.try_recv().expect("it is in the queue") {
            LinkEvent::Frame(peer, _, turn) if peer == liar.id() => before.push(turn),
            LinkEvent::Frame(peer, frame, _) => break (peer, frame),
            LinkEvent::Up(..)
            | LinkEvent::Down(_)
            | LinkEvent::Network
            | LinkEvent::Tailnet(_)
            | LinkEvent::JoinAttempt(_)
            | LinkEvent::Stream { .. }
            | LinkEvent::Bad { .. } => {}
        }
    };
    assert_eq!(by, (honest.id(), digest(FLOOD)));
    assert!(before.len() <= 32, "{} frames of the other were in the way", before.len());
    // The flood goes on when there is room, and nothing of it is lost.
    drop(before);
    busy.wait(|event| matches!(event, LinkEvent::Frame(_, frame, _) if frame == digest(FLOOD - 1)).then_some(())).await;
}

#[tokio::test]
async fn s31_a_frame_of_many_entries_comes_in_parts_and_guests_have_few_places_together() {
    let (mut busy, mut friend) = (Peer::start(), Peer::start());
    let mut guests = [Peer::start(), Peer::start()];
    let item = EntryItem { entry: entry(&friend.key), left_ms: None };
    let many = Frame::Entries { entries: vec![item; 100], more: true };
    let mut members = Members::from([friend.unreachable()]);
    members.extend(guests.iter().map(|guest| {
        let (id, member) = guest.unreachable();
        (id, Member { owner: false, ..member })
    }));
    busy.links.set_members(members);
    for peer in guests.iter_mut().chain([&mut friend]) {
        peer.links.set_members([busy.member()].into());
        peer.wait_up(busy.id()).await;
        busy.wait_up(peer.id()).await;
    }
    for (peer, guest) in [(&friend, false), (&guests[0], true)] {
        assert!(peer.links.send(busy.id(), &many));
        let (mut entries, mut last) = (0, false);
        while !last {
            let (part, of_guest, more) = busy
                .wait(|event| {
                    if let LinkEvent::Frame(_, Frame::Entries { entries, more }, turn) = event {
                        Some((entries.len(), turn.is_of_guest(), more))
                    } else {
                        None
                    }
                })
                .await;
            assert!(part <= 16 && of_guest == guest, "{part}");
            (entries, last) = (entries + part, more);
        }
        assert_eq!(entries, 100, "and the last part says what comes after them");
    }
    // Frames of guests that nobody looks at: so many wait here, whoever sends them, and the rest at their senders.
    for guest in &guests {
        assert!((0..200).all(|n| guest.links.send(busy.id(), &digest(n))));
    }
    until("the queues fill", || busy.events.len() >= 64).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(busy.events.len(), 64);
    assert_eq!(busy.links.shared.guests.available_permits(), super::session::GUESTS_QUEUED_MAX - 64);
}

#[tokio::test]
async fn frames_over_the_limit_and_repeated_nonsense_close_the_link() {
    let (mut a, b) = (Peer::start(), Peer::start());
    a.links.set_members([b.unreachable()].into());
    let nonsense = Bytes::from_static(&[0xff; 20]);
    for (bytes, times) in [((u32::MAX).to_be_bytes().to_vec(), 1_u64), ([&[0, 0, 0, 20], &nonsense[..]].concat(), 8)] {
        let connection = b.raw(&a).await;
        let (mut send, mut recv) = stream::open(&connection, Tag::Mesh).await.unwrap();
        send.write_all(&times.to_be_bytes()).await.unwrap();
        stream::read_array::<8>(&mut recv).await.unwrap();
        a.wait_up(b.id()).await;
        for n in 0..times {
            assert!(connection.close_reason().is_none(), "closed after {n} of {times}");
            send.write_all(&bytes).await.unwrap();
            a.wait(|event| matches!(event, LinkEvent::Bad { .. }).then_some(())).await;
        }
        let why = timeout(LONG, connection.closed()).await.unwrap();
        let quinn::ConnectionError::ApplicationClosed(close) = why else { panic!("{why}") };
        assert_eq!(close.error_code, quinn::VarInt::from_u32(Code::Protocol as u32));
        a.wait_down(b.id()).await;
    }
}

#[tokio::test]
async fn random_bytes_at_the_door_change_nothing() {
    let (a, mut b) = linked().await;
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut state = 1_u64;
    for len in (0..1500).step_by(3) {
        let noise: Vec<u8> = (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            })
            .collect();
        socket.send_to(&noise, b.socket()).await.unwrap();
    }
    assert!(a.links.send(b.id(), &digest(3)));
    assert_eq!(b.wait_frame().await, digest(3));
}

#[tokio::test]
async fn a_clean_stop_delivers_what_was_said_before_and_is_known_at_once() {
    let (a, mut b) = linked().await;
    for n in 0..20 {
        assert!(a.links.send(b.id(), &digest(n)));
    }
    let since = Instant::now();
    a.links.close_all(Code::Stopping).await;
    assert!(since.elapsed() < LONG / 4);
    for n in 0..20 {
        assert_eq!(b.wait_frame().await, digest(n));
    }
    b.wait_down(a.id()).await;
    assert!(a.tasks.shutdown(LONG).await, "tasks had to be ended");
}

#[tokio::test]
async fn who_lost_its_address_is_linked_anew_before_the_other_end_notices() {
    let (a, b) = linked().await;
    // The other one accepted, and is not to dial by itself: only its report that the link is dead makes the difference.
    let (mut stays, moves) = if a.links.infos()[0].dialled { (a, b) } else { (b, a) };
    let nonce = moves.links.shared.nonce.to_be_bytes();
    let mut kept = Vec::new();
    for (tag, taken) in [(Tag::Mesh, false), (Tag::Moved, true)] {
        let connection = moves.raw(&stays).await;
        let (mut send, mut recv) = stream::open(&connection, tag).await.unwrap();
        send.write_all(&nonce).await.unwrap();
        assert_eq!(stream::read_array::<8>(&mut recv).await.is_ok(), taken, "{tag:?}");
        if taken {
            stays.wait_up(moves.id()).await;
        }
        kept.push((connection, send, recv));
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let a = Peer::start();
    let home = tempfile::tempdir().unwrap();
    let config = LinksConfig {
        key: DeviceKey::load_or_create(home.path()).unwrap(),
        listen: a.socket(),
        services: [ServiceId::NODE].into(),
        relay: RelayConfig::NONE,
        blobs: BlobStore::open(&home.path().join("blobs")).unwrap(),
        tasks: TaskGroup::default(),
    };
    let error = Links::start(config, mpsc::channel(1).0).unwrap_err();
    assert!(matches!(error, LinksError::PortTaken { port } if port == a.links.local_port()), "{error}");
}

#[tokio::test]
async fn both_families_reach_a_door_that_listens_everywhere() {
    let home = tempfile::tempdir().unwrap();
    let config = LinksConfig {
        key: DeviceKey::load_or_create(home.path()).unwrap(),
        listen: (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        services: [ServiceId::NODE].into(),
        relay: RelayConfig::NONE,
        blobs: BlobStore::open(&home.path().join("blobs")).unwrap(),
        tasks: TaskGroup::default(),
    };
    let links = Links::start(config, mpsc::channel(8).0).unwrap();
    let addresses = links.local_addresses();
    let sockets: Vec<SocketAddr> = addresses.iter().map(|address| address.to_string().parse().unwrap()).collect();
    assert!(sockets.iter().all(|socket| socket.port() == links.local_port()));
    assert!(sockets.last().unwrap().ip().is_loopback());
    let a = Peer::start();
    let loopback: SocketAddr = (Ipv4Addr::LOCALHOST, links.local_port()).into();
    assert!(dial::race(&a.links.shared, &[loopback.into()], Some(links.shared.me)).await.is_ok());
}
