//! The run of one link: how two ends agree on a connection, and the tasks that read and write it until it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mesh_core::frame::Frame;
use mesh_core::ids::PublicKey;
use quinn::{RecvStream, SendStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::dial_plan::Due;
use super::event::{LinkEvent, Turn};
use super::link::{Answered, Link, NewLink, Outbox};
use super::quic::Code;
use super::shared::{LinksState, ToTable};
use super::stream::{self, ServiceId, StreamCode, StreamError, Tag};
use super::underlay::UnderlayKind;
use super::wire::{self, Part, WireError};
use super::{blob, join, relay};
use crate::mesh::pace::Pace;

/// Malformed messages after which a link closes. One may be a bug; this many are an attack or another protocol.
const BAD_MAX: u32 = 8;
/// Frames of one that was revoked that are looked at on one link: all its membership changes, twice over, among a few
/// others.
const FAREWELLS_MAX: u32 = 64;
/// Time for the first bytes of a new stream.
pub(super) const HELLO_MAX: Duration = Duration::from_secs(5);
/// Time for the last frames to arrive when we stop.
const FLUSH_MAX: Duration = Duration::from_millis(90);
/// Time for a peer that ended its mesh stream to close the connection as well.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// Blobs that one link reads from our disk at a time; the next request waits.
const BLOBS_AT_ONCE: usize = 8;
/// Frames of one link that wait for the mesh to look at them; then the link waits. A large one takes several places, so
/// that what others say does not wait behind megabytes of it.
const FRAMES_QUEUED_MAX: u32 = 32;
/// Bytes for which a frame takes one place.
const PLACE_BYTES: usize = 16 * 1024;
/// Places for frames of all who are no owners together: 2 MiB.
pub(super) const GUESTS_QUEUED_MAX: usize = 128;

/// Entries that are checked and looked at in one go, whoever sent them: about a millisecond of the one thread that all
/// else waits for. An owner passes on what guests say.
const PART_ENTRIES_MAX: usize = 16;

/// Bytes in a second that are read of a link to one who is no owner: more than any honest one sends for long, and so
/// little that neither disk nor processor nor the links to others fill with it: whatever it is, each owner that it is for
/// checks, writes and answers it. What is not read yet waits at the sender. A log of a guest that is as long as it may be
/// comes within about seven minutes.
const GUEST_BYTES_PER_S: u64 = 512 * 1024;
/// Bytes that come at once after a pause: two of the largest headers, or 256 small ones.
const GUEST_BYTES_AHEAD: u64 = 512 * 1024;
/// What the smallest frame or entry counts as: 256 of them in a second. The doors of a guest accept 50 calls in a second.
const GUEST_BYTES_MIN: usize = 2 * 1024;

/// The pace of a link to one who is no owner.
fn guest_pace() -> Pace {
    Pace::new(GUEST_BYTES_PER_S, GUEST_BYTES_AHEAD)
}

/// Agrees with the peer that answered our dial that this connection is to be the link, and runs it.
pub(super) async fn dialled(shared: &Arc<LinksState>, answered: Answered, due: &Due) {
    let Answered { connection, key, underlay, .. } = answered;
    // Who dials by a relay has no other link: one that the other end still has is dead.
    let moved = due.moved || (underlay == UnderlayKind::Relay && !shared.live.contains(due.peer));
    let hello = async {
        let tag = if moved { Tag::Moved } else { Tag::Mesh };
        let (mut send, mut recv) = stream::open(&connection, tag).await?;
        send.write_all(&shared.nonce.to_be_bytes()).await.map_err(|_| StreamError::Broken)?;
        let nonce = u64::from_be_bytes(stream::read_array(&mut recv).await?);
        Ok::<_, StreamError>((send, recv, nonce))
    };
    let link = match timeout(HELLO_MAX, hello).await {
        Ok(Ok((send, recv, nonce))) => {
            let new = NewLink { key, connection: connection.clone(), underlay, dialled: true, nonce, moved };
            shared.take_up(new).await.map(|(link, outbox)| (link, outbox, send, recv))
        }
        Ok(Err(_)) => Err(Code::Done),
        Err(_) => Err(Code::Timeout),
    };
    let _ = shared.table.send(ToTable::Dialled(due.peer, due.number)).await;
    match link {
        Ok((link, outbox, send, recv)) => run(shared, link, outbox, send, recv).await,
        Err(code) => code.close(&connection),
    }
}

/// Agrees with a peer that may have a link and opened its mesh stream: the other half of [`dialled`].
pub(super) async fn accepted(
    shared: &Arc<LinksState>,
    connection: quinn::Connection,
    key: PublicKey,
    underlay: UnderlayKind,
    moved: bool,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let nonce = match timeout(HELLO_MAX, stream::read_array(&mut recv)).await {
        Ok(Ok(nonce)) => u64::from_be_bytes(nonce),
        _ => return Code::Timeout.close(&connection),
    };
    let new = NewLink { key, connection: connection.clone(), underlay, dialled: false, nonce, moved };
    match shared.take_up(new).await {
        Ok((link, outbox)) => {
            // A failure shows as the end of the connection, which `run` awaits.
            let _ = send.write_all(&shared.nonce.to_be_bytes()).await;
            run(shared, link, outbox, send, recv).await;
        }
        Err(code) => code.close(&connection),
    }
}

/// Runs a link to its end, and tells the link table when all of its tasks are done.
async fn run(shared: &Arc<LinksState>, link: Arc<Link>, outbox: Outbox, send: SendStream, recv: RecvStream) {
    tracing::debug!(peer = %link.peer, dialled = link.dialled, "link up");
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let session = Session::new(shared.clone(), link.clone());
    let tasks: [Pin<Box<dyn Future<Output = ()> + Send>>; 4] = [
        Box::pin(session.clone().write(outbox, send)),
        Box::pin(session.clone().read(recv)),
        Box::pin(session.clone().read_datagrams()),
        Box::pin(session.accept_streams()),
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
    let _ = shared.table.send(ToTable::Closed(link.peer, link.number)).await;
}

/// The tasks of one link.
struct Session {
    shared: Arc<LinksState>,
    link: Arc<Link>,
    bad: AtomicU32,
    /// Frames looked at since its peer was revoked.
    farewells: AtomicU32,
    /// Places of its frames in the queue of all links, of those on the stream and of datagrams: beacons are not held up
    /// by what is long.
    frames: Arc<Semaphore>,
    datagrams: Arc<Semaphore>,
}

impl Session {
    fn new(shared: Arc<LinksState>, link: Arc<Link>) -> Arc<Self> {
        let places = || Arc::new(Semaphore::new(FRAMES_QUEUED_MAX as usize));
        let (bad, farewells) = (AtomicU32::new(0), AtomicU32::new(0));
        Arc::new(Self { shared, link, bad, farewells, frames: places(), datagrams: places() })
    }

    async fn write(self: Arc<Self>, mut outbox: Outbox, mut send: SendStream) {
        let Self { shared, link, .. } = &*self;
        let flushing = shared.drain.writer();
        loop {
            tokio::select! {
                biased;
                () = shared.drain.closing().cancelled() => break,
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

    async fn read(self: Arc<Self>, mut recv: RecvStream) {
        let connection = &self.link.connection;
        let mut pace = guest_pace();
        loop {
            match stream::read_message(&mut recv, wire::FRAME_BYTES_MAX).await {
                Ok(Some(bytes)) => self.handle_frame(bytes, &self.frames, &mut pace).await,
                Ok(None) => break,
                Err(error) => {
                    if matches!(error, StreamError::TooLarge(_)) {
                        self.handle_bad(error.to_string()).await;
                    }
                    // Without the stream there is no link. If the connection ended by itself, this says nothing.
                    Code::Protocol.close(connection);
                    return;
                }
            }
        }
        if timeout(LINGER_MAX, connection.closed()).await.is_err() {
            Code::Done.close(connection);
        }
    }

    async fn read_datagrams(self: Arc<Self>) {
        let mut pace = guest_pace();
        while let Ok(bytes) = self.link.connection.read_datagram().await {
            if bytes.len() > wire::DATAGRAM_BYTES_MAX {
                self.handle_bad(format!("a datagram of {} bytes", bytes.len())).await;
            } else {
                self.handle_frame(bytes, &self.datagrams, &mut pace).await;
            }
        }
    }

    async fn accept_streams(self: Arc<Self>) {
        let (blobs, joins) = (Arc::new(Semaphore::new(BLOBS_AT_ONCE)), Arc::new(Semaphore::new(1)));
        while let Ok((send, recv)) = self.link.connection.accept_bi().await {
            let (session, blobs, joins) = (self.clone(), blobs.clone(), joins.clone());
            // QUIC's own limit on open streams bounds how many of these there are.
            self.shared.tasks.spawn(async move { session.serve(&blobs, &joins, send, recv).await });
        }
    }

    /// Serves one stream that the peer opened.
    async fn serve(&self, blobs: &Semaphore, joins: &Semaphore, mut send: SendStream, mut recv: RecvStream) {
        let Self { shared, link, .. } = self;
        match timeout(HELLO_MAX, stream::read_tag(&mut recv)).await {
            Ok(Ok(Tag::Service(_) | Tag::Blob)) if !shared.is_member(link.peer) => {}
            Ok(Ok(Tag::Service(service))) if !shared.services.contains(&service) => {
                StreamCode::UnknownService.refuse(&mut send, &mut recv);
            }
            Ok(Ok(Tag::Service(ServiceId::RELAYING))) => relay::serve_relaying(shared, link, send, recv).await,
            Ok(Ok(Tag::Service(ServiceId::RELAYED))) => relay::serve_relayed(shared, link, send, recv).await,
            Ok(Ok(Tag::Service(service))) => {
                let io = link.service_io(service, send, recv);
                let _ = shared.events.send(LinkEvent::Stream { peer: link.peer, service, io }).await;
            }
            Ok(Ok(Tag::Blob)) => {
                if let Ok(_permit) = blobs.acquire().await {
                    let readers = shared.blob_readers.get().cloned();
                    blob::serve(&shared.blobs, self.link.peer, readers, send, recv).await;
                }
            }
            // Approved already: its first answer was lost, and it asks again.
            Ok(Ok(Tag::Join)) => {
                // One at a time: each answer may be a welcome of megabytes that waits to be read.
                if let Ok(_permit) = joins.try_acquire() {
                    let guest = join::Guest { key: link.key, underlay: link.underlay, tailnet: None, place: None };
                    join::serve(shared, &link.connection, guest, send, recv).await;
                } else {
                    StreamCode::Busy.refuse(&mut send, &mut recv);
                }
            }
            Ok(Ok(Tag::Mesh | Tag::Moved)) => self.handle_bad("a second mesh stream".to_owned()).await,
            Ok(Err(StreamError::Tag(tag))) => self.handle_bad(format!("a stream of kind {tag}")).await,
            // A linked peer knows our name: discovery asks on connections of its own.
            Ok(Ok(Tag::Who) | Err(_)) | Err(_) => {}
        }
    }

    /// Counts something malformed, and closes the link when there was too much of it.
    async fn handle_bad(&self, what: String) {
        let peer = self.link.peer;
        tracing::debug!(%peer, what, "malformed");
        if self.bad.fetch_add(1, Ordering::Relaxed) + 1 >= BAD_MAX {
            Code::Protocol.close(&self.link.connection);
        }
        let _ = self.shared.events.send(LinkEvent::Bad { peer, what }).await;
    }

    async fn handle_frame(&self, bytes: Bytes, places: &Arc<Semaphore>, pace: &mut Pace) {
        let peer = self.link.peer;
        let member = self.shared.is_member(peer);
        if !member && self.farewells.fetch_add(1, Ordering::Relaxed) >= FAREWELLS_MAX {
            return;
        }
        let guest = !self.shared.is_owner(peer);
        let len = bytes.len();
        let parts = match wire::parts(bytes, PART_ENTRIES_MAX) {
            Ok(parts) => parts,
            Err(WireError::Unknown) => return tracing::debug!(%peer, "a frame of an unknown kind"),
            Err(error) => return self.handle_bad(error.to_string()).await,
        };
        if guest {
            let entries = parts.iter().map(Part::entries).sum::<usize>().max(1);
            pace.wait(len.max(entries * GUEST_BYTES_MIN) as u64).await;
        }
        let mut parts = parts.into_iter();
        while let Some(part) = parts.next() {
            let wanted = u32::try_from(part.bytes().div_ceil(PLACE_BYTES)).unwrap_or(u32::MAX);
            let wanted = wanted.clamp(1, FRAMES_QUEUED_MAX);
            let Ok(taken) = places.clone().acquire_many_owned(wanted).await else { return };
            let of_guests = if guest { self.shared.guests.clone().acquire_many_owned(wanted).await.ok() } else { None };
            match part.check(&self.shared.verifier) {
                // Of one that was revoked only entries are read: the core takes membership changes from them and nothing
                // else, so that whom it approved without knowing is seen to wait.
                Ok(frame) if !member && !matches!(frame, Frame::Entries { .. }) => {}
                Ok(frame) => {
                    let turn = Turn { places: taken, of_guests };
                    let _ = self.shared.events.send(LinkEvent::Frame(peer, frame, turn)).await;
                }
                Err(error) => return self.handle_bad(error.to_string()).await,
            }
            // Signatures are most of the work, and everyone else waits for the same thread.
            if guest || parts.len() > 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}
