//! One link: a connection that both ends took as theirs, and the tasks that read and write it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mesh_core::frame::{Channel, Frame};
use mesh_core::ids::{PeerId, PublicKey};
use quinn::{RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::links::{LinkEvent, Offer, Shared, ToActor};
use super::quic::Code;
use super::stream::{self, NodeIo, StreamError, Tag};
use super::wire::{self, WireError};
use super::{blob, dial, join};
use crate::mesh::snapshot::LinkInfo;

/// Frames, and bytes of them, that may wait for one peer: more than any burst of a healthy mesh. Beyond, the link closes.
const QUEUE_FRAMES: usize = 4096;
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Malformed messages after which a link closes. One may be a bug; this many are an attack or another protocol.
const BAD_MAX: u32 = 8;
/// Frames of one that was revoked that are looked at on one link: all its membership changes, twice over, among a few others.
const FAREWELLS_MAX: u32 = 64;
/// Time for the first bytes of a new stream.
pub(super) const HELLO_MAX: Duration = Duration::from_secs(5);
/// Time for the last frames to arrive when we stop.
const FLUSH_MAX: Duration = Duration::from_millis(90);
/// Time for a peer that ended its mesh stream to close the connection as well.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// Blobs that one link reads from our disk at a time; the next request waits.
const BLOBS_AT_ONCE: usize = 8;

/// Frames on their way out.
pub(super) type Outbox = mpsc::Receiver<Bytes>;

/// A link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) peer: PeerId,
    pub(super) key: PublicKey,
    pub(super) connection: quinn::Connection,
    /// Whether we dialled.
    pub(super) dialled: bool,
    pub(super) nonce: u64,
    /// Whether it took the place of a link whose address had gone.
    pub(super) moved: bool,
    pub(super) since: Instant,
    /// Set when it is about to be closed because its peer was revoked.
    pub(super) dismissed: AtomicBool,
    outbox: mpsc::Sender<Bytes>,
    queued: AtomicUsize,
    bad: AtomicU32,
    /// Frames looked at since its peer was revoked.
    farewells: AtomicU32,
}

impl Link {
    pub(super) fn new(id: u64, offer: Offer) -> (Arc<Self>, Outbox) {
        let (outbox, rx) = mpsc::channel(QUEUE_FRAMES);
        let link = Self {
            id,
            peer: offer.key.peer_id(),
            key: offer.key,
            connection: offer.connection,
            dialled: offer.dialled,
            nonce: offer.nonce,
            moved: offer.moved,
            since: Instant::now(),
            dismissed: AtomicBool::new(false),
            outbox,
            queued: AtomicUsize::new(0),
            bad: AtomicU32::new(0),
            farewells: AtomicU32::new(0),
        };
        (Arc::new(link), rx)
    }

    /// See [`super::Links::send`].
    pub(super) fn send(&self, frame: &Frame) -> bool {
        let bytes = match wire::encode_frame(frame) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(peer = %self.peer, %error, "a frame of our own cannot be sent");
                return false;
            }
        };
        if frame.channel() == Channel::Datagram && bytes.len() <= wire::DATAGRAM_BYTES_MAX {
            match self.connection.send_datagram(bytes.clone()) {
                Ok(()) => return true,
                Err(quinn::SendDatagramError::ConnectionLost(_)) => return false,
                // Too large for this path just now: the stream takes it.
                Err(_) => {}
            }
        }
        let len = bytes.len();
        let before = self.queued.fetch_add(len, Ordering::Relaxed);
        if before + len > QUEUE_BYTES || self.outbox.try_send(bytes).is_err() {
            tracing::debug!(peer = %self.peer, "too much waits for this peer: closing the link");
            Code::Overload.close(&self.connection);
            return false;
        }
        true
    }

    pub(super) fn node_io(&self, send: SendStream, recv: RecvStream) -> NodeIo {
        let address = dial::canonical(self.connection.remote_address());
        NodeIo { peer: self.peer, key: self.key, address, send, recv }
    }

    pub(super) fn info(&self) -> LinkInfo {
        LinkInfo {
            peer: self.peer,
            address: dial::canonical(self.connection.remote_address()),
            rtt_us: u64::try_from(self.connection.rtt().as_micros()).unwrap_or(u64::MAX),
            dialled: self.dialled,
        }
    }

    /// Writes a frame of the outbox.
    async fn put(&self, send: &mut SendStream, bytes: Bytes) -> bool {
        let len = bytes.len();
        let written = stream::write_message(send, bytes).await.is_ok();
        self.queued.fetch_sub(len, Ordering::Relaxed);
        written
    }

    /// Counts something malformed, and closes the link when there was too much of it.
    async fn on_bad(&self, shared: &Shared, what: String) {
        tracing::debug!(peer = %self.peer, what, "malformed");
        if self.bad.fetch_add(1, Ordering::Relaxed) + 1 >= BAD_MAX {
            Code::Protocol.close(&self.connection);
        }
        let _ = shared.events.send(LinkEvent::Bad { peer: self.peer, what }).await;
    }

    async fn on_frame(&self, shared: &Shared, bytes: Bytes) {
        let member = shared.is_member(self.peer);
        if !member && self.farewells.fetch_add(1, Ordering::Relaxed) >= FAREWELLS_MAX {
            return;
        }
        match wire::decode_frame(bytes, &shared.verifier) {
            // Of one that was revoked only entries are heard: the core takes membership changes from them and nothing else, so that
            // whom it approved without knowing is seen to wait.
            Ok(frame) if !member && !matches!(frame, Frame::Entries { .. }) => {}
            Ok(frame) => {
                let _ = shared.events.send(LinkEvent::Frame(self.peer, frame)).await;
            }
            Err(WireError::Unknown) => tracing::debug!(peer = %self.peer, "a frame of an unknown kind"),
            Err(error) => self.on_bad(shared, error.to_string()).await,
        }
    }
}

/// Our dial got through: agrees with the peer that this connection is to be the link, and runs it.
pub(super) async fn dialled(
    shared: &Arc<Shared>,
    connection: quinn::Connection,
    key: PublicKey,
    peer: PeerId,
    dial: u64,
    moved: bool,
) {
    let hello = async {
        let tag = if moved { Tag::Moved } else { Tag::Mesh };
        let (mut send, mut recv) = stream::open(&connection, tag).await?;
        send.write_all(&shared.nonce.to_be_bytes()).await.map_err(|_| StreamError::Broken)?;
        let nonce = u64::from_be_bytes(stream::read_array(&mut recv).await?);
        Ok::<_, StreamError>((send, recv, nonce))
    };
    let link = match timeout(HELLO_MAX, hello).await {
        Ok(Ok((send, recv, nonce))) => {
            let offer = Offer { key, connection: connection.clone(), dialled: true, nonce, moved };
            shared.offer(offer).await.map(|(link, outbox)| (link, outbox, send, recv))
        }
        Ok(Err(_)) => Err(Code::Done),
        Err(_) => Err(Code::Timeout),
    };
    let _ = shared.actor.send(ToActor::Dialled(peer, dial)).await;
    match link {
        Ok((link, outbox, send, recv)) => run(shared, link, outbox, send, recv).await,
        Err(code) => code.close(&connection),
    }
}

/// A peer that may have a link opened its mesh stream: the other half of [`dialled`].
pub(super) async fn accepted(
    shared: &Arc<Shared>,
    connection: quinn::Connection,
    key: PublicKey,
    moved: bool,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let nonce = match timeout(HELLO_MAX, stream::read_array(&mut recv)).await {
        Ok(Ok(nonce)) => u64::from_be_bytes(nonce),
        _ => return Code::Timeout.close(&connection),
    };
    match shared.offer(Offer { key, connection: connection.clone(), dialled: false, nonce, moved }).await {
        Ok((link, outbox)) => {
            // A failure shows as the end of the connection, which `run` awaits.
            let _ = send.write_all(&shared.nonce.to_be_bytes()).await;
            run(shared, link, outbox, send, recv).await;
        }
        Err(code) => code.close(&connection),
    }
}

/// Runs a link to its end, and tells the actor when all of its tasks are done.
async fn run(shared: &Arc<Shared>, link: Arc<Link>, outbox: Outbox, send: SendStream, recv: RecvStream) {
    tracing::debug!(peer = %link.peer, dialled = link.dialled, "link up");
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let tasks = [
        spawnable(write(shared.clone(), link.clone(), outbox, send)),
        spawnable(read(shared.clone(), link.clone(), recv)),
        spawnable(read_datagrams(shared.clone(), link.clone())),
        spawnable(accept_streams(shared.clone(), link.clone())),
    ];
    for task in tasks {
        let alive = alive.clone();
        shared.tasks.spawn(async move {
            task.await;
            drop(alive);
        });
    }
    drop(alive);
    let why = link.connection.closed().await;
    ended.recv().await;
    tracing::debug!(peer = %link.peer, %why, "link down");
    let _ = shared.actor.send(ToActor::Closed(link.peer, link.id)).await;
}

fn spawnable(task: impl Future<Output = ()> + Send + 'static) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(task)
}

async fn write(shared: Arc<Shared>, link: Arc<Link>, mut outbox: Outbox, mut send: SendStream) {
    let flushing = shared.flushing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    loop {
        tokio::select! {
            biased;
            () = shared.closing.cancelled() => break,
            _ = link.connection.closed() => return,
            bytes = outbox.recv() => match bytes {
                Some(bytes) => {
                    if !link.put(&mut send, bytes).await {
                        return;
                    }
                }
                None => return,
            },
        }
    }
    let flush = async {
        while let Ok(bytes) = outbox.try_recv() {
            if !link.put(&mut send, bytes).await {
                return;
            }
        }
        if send.finish().is_ok() {
            let _ = send.stopped().await;
        }
    };
    let _ = timeout(FLUSH_MAX, flush).await;
    drop(flushing);
}

async fn read(shared: Arc<Shared>, link: Arc<Link>, mut recv: RecvStream) {
    loop {
        match stream::read_message(&mut recv, wire::FRAME_BYTES_MAX).await {
            Ok(Some(bytes)) => link.on_frame(&shared, bytes).await,
            Ok(None) => break,
            Err(error) => {
                if matches!(error, StreamError::TooLarge(_)) {
                    link.on_bad(&shared, error.to_string()).await;
                }
                // Without the stream there is no link. If the connection ended by itself, this says nothing.
                Code::Protocol.close(&link.connection);
                return;
            }
        }
    }
    if timeout(LINGER_MAX, link.connection.closed()).await.is_err() {
        Code::Done.close(&link.connection);
    }
}

async fn read_datagrams(shared: Arc<Shared>, link: Arc<Link>) {
    while let Ok(bytes) = link.connection.read_datagram().await {
        if bytes.len() > wire::DATAGRAM_BYTES_MAX {
            link.on_bad(&shared, format!("a datagram of {} bytes", bytes.len())).await;
        } else {
            link.on_frame(&shared, bytes).await;
        }
    }
}

async fn accept_streams(shared: Arc<Shared>, link: Arc<Link>) {
    let blobs = Arc::new(Semaphore::new(BLOBS_AT_ONCE));
    while let Ok((send, mut recv)) = link.connection.accept_bi().await {
        let (shared, link, blobs) = (shared.clone(), link.clone(), blobs.clone());
        // QUIC's own limit on open streams bounds how many of these there are.
        shared.tasks.clone().spawn(async move {
            match timeout(HELLO_MAX, stream::read_tag(&mut recv)).await {
                Ok(Ok(Tag::Node | Tag::Blob)) if !shared.is_member(link.peer) => {}
                Ok(Ok(Tag::Node)) => {
                    let _ = shared.events.send(LinkEvent::NodeStream(link.node_io(send, recv))).await;
                }
                Ok(Ok(Tag::Blob)) => {
                    if let Ok(_permit) = blobs.acquire().await {
                        blob::serve(&shared.blobs, send, recv).await;
                    }
                }
                // Approved already: its first answer was lost, and it asks again.
                Ok(Ok(Tag::Join)) => join::serve(&shared, &link.connection, link.key, send, recv, None).await,
                Ok(Ok(Tag::Mesh | Tag::Moved)) => link.on_bad(&shared, "a second mesh stream".to_owned()).await,
                Ok(Err(StreamError::Tag(tag))) => link.on_bad(&shared, format!("a stream of kind {tag}")).await,
                Ok(Err(_)) | Err(_) => {}
            }
        });
    }
}
