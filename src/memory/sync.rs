//! Holders of a workspace, and what they send each other.
//!
//! One task begins a session with another holder when a link to it comes up, and when something was written here. A session
//! is one stream, over when both have all that the other had; it may end anywhere, and the next one goes on. Who may hold is
//! asked at both ends, at the beginning and before each frame. Memory that nobody uses and nobody writes to stays closed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memory_core::ids::WorkspaceId;
use memory_core::limits::REPLY_BYTES_MAX;
use memory_core::replica::Frame;
use mesh_core::ids::{Hash, PeerId};
use mesh_core::io::View;
use mesh_core::record::Tier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::authors::Authors;
use super::error::MemoryError;
use super::handle::MemoryHandle;
use super::home_of;
use crate::mesh::transport::{Links, ServiceId, ServiceIo};
use crate::tasks::TaskGroup;

/// Streams that other holders have opened and that wait to be served.
const STREAMS: usize = 8;
/// Sessions that others have begun, at once.
const SERVED_MAX: usize = 8;
/// Largest frame, bytes: the groups of one answer, one of which may be over the size alone, and their headers.
const FRAME_BYTES_MAX: usize = 2 * REPLY_BYTES_MAX + 256 * 1024;
/// Longest wait for the next frame of the other, who may be opening its memory or writing to a slow disk.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Time to open a stream over a link that is there.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// After something was written: most often more follows.
const LINGER: Duration = Duration::from_millis(100);
/// Bytes of frames that wait to be written: the tombstones of some ten thousand messages come at once.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Pause after a session that failed; doubled so many times at most after further ones, to three minutes.
const RETRY_AFTER: Duration = Duration::from_millis(1_500);
const RETRY_DOUBLED_MAX: u32 = 7;

/// Starts the exchange over links; returns where streams of other holders go. Full = closed: they try again.
#[must_use]
pub fn start(
    memory: &MemoryHandle,
    links: &Links,
    view: watch::Receiver<Arc<View>>,
    tasks: &TaskGroup,
) -> mpsc::Sender<ServiceIo> {
    let (sender, streams) = mpsc::channel(STREAMS);
    let exchange = Exchange { memory: memory.clone(), view };
    tasks.spawn(serve(exchange.clone(), streams, tasks.clone()));
    tasks.spawn(begin(exchange, links.clone(), tasks.clone()));
    sender
}

/// True if both this peer and that one may hold the workspace of their mesh.
fn may_hold(view: &View, peer: &PeerId) -> bool {
    let is_owner = |peer: &PeerId| view.by_peer(peer).is_some_and(|node| node.tier == Tier::Owner);
    !view.revoked && is_owner(&view.me) && is_owner(peer)
}

/// Name of the workspace on the wire: only who holds it can tell which it is.
fn tag(workspace: &WorkspaceId, from: &PeerId, to: &PeerId) -> [u8; 32] {
    Hash::of(&[b"sigil memory tag 1\0", &workspace.0[..], &from.0, &to.0].concat()).0
}

/// A reason for which a session ended before its end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the stream broke")]
    Io(#[from] io::Error),
    #[error("the other holder was silent for too long")]
    Silent,
    #[error("the other may not hold this memory, or not any more")]
    NoHolder,
    #[error("the disk of this device is nearly full: what it lacks it takes when there is room again")]
    DiskFull,
    #[error("the other holder broke the protocol: {0}")]
    Broken(&'static str),
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

#[derive(Clone)]
struct Exchange {
    memory: MemoryHandle,
    view: watch::Receiver<Arc<View>>,
}

impl Exchange {
    /// The workspace, if this peer and that one may hold it.
    fn workspace(&self, peer: &PeerId) -> Result<WorkspaceId, Ended> {
        let view = self.view.borrow();
        if may_hold(&view, peer) { Ok(home_of(&view.mesh)) } else { Err(Ended::NoHolder) }
    }

    /// A session that we begin.
    async fn ask(&self, links: &Links, peer: PeerId) -> Result<(), Ended> {
        let workspace = self.workspace(&peer)?;
        let opened = timeout(OPEN_WITHIN, links.open(peer, ServiceId::MEMORY)).await.map_err(|_| Ended::Silent)?;
        let mut io = opened.map_err(io::Error::other)?;
        let me = self.view.borrow().me;
        io.write_all(&tag(&workspace, &me, &peer)).await?;
        self.talk(workspace, io).await
    }

    /// A session that another holder begins.
    async fn answer(&self, mut io: ServiceIo) -> Result<(), Ended> {
        let peer = io.peer().peer;
        let workspace = self.workspace(&peer)?;
        let mut named = [0; 32];
        timeout(SILENCE_MAX, io.read_exact(&mut named)).await.map_err(|_| Ended::Silent)??;
        if named != tag(&workspace, &peer, &self.view.borrow().me) {
            return Err(Ended::NoHolder);
        }
        self.talk(workspace, io).await
    }

    async fn talk(&self, workspace: WorkspaceId, io: ServiceIo) -> Result<(), Ended> {
        let peer = io.peer().peer;
        let (reader, writer) = tokio::io::split(io);
        // Both at once: two that write to each other and do not read would wait for ever.
        let out = Outbox::default();
        tokio::try_join!(self.listen(workspace, peer, reader, &out), out.drain(writer))?;
        Ok(())
    }

    async fn listen(
        &self,
        workspace: WorkspaceId,
        peer: PeerId,
        mut reader: ReadHalf<ServiceIo>,
        out: &Outbox,
    ) -> Result<(), Ended> {
        let (mut session, hello) = self.memory.run(workspace, super::Workspace::begin_session).await?;
        out.put(&hello)?;
        let mut said_done = false;
        loop {
            if session.is_settled() && !said_done {
                said_done = true;
                out.put(&Frame::Done)?;
            }
            if said_done && session.is_done_there() {
                out.end();
                return Ok(());
            }
            let frame = read(&mut reader).await?;
            // It may hold no more, or the mesh may be another one by now.
            if self.workspace(&peer)? != workspace {
                return Err(Ended::NoHolder);
            }
            // Tombstones come before, and free room; what takes room waits, as at the doors.
            if matches!(frame, Frame::Groups(_) | Frame::Found { .. }) && self.view.borrow().disk.is_some() {
                return Err(Ended::DiskFull);
            }
            let is_digest = matches!(frame, Frame::Digest(_));
            let authors = Authors::of(&self.view.borrow());
            let replied = self.memory.run(workspace, move |it| it.handle_frame(session, frame, &authors)).await?;
            if is_digest {
                self.memory.set_full(replied.full);
            } else {
                self.memory.add_full(replied.full);
            }
            if replied.taken > 0 {
                tracing::debug!(%peer, groups = replied.taken, "memory came from another holder");
            }
            for frame in &replied.frames {
                out.put(frame)?;
            }
            if let Some(why) = replied.broken {
                return Err(Ended::Broken(why));
            }
            session = replied.session;
        }
    }
}

/// Frames that wait to be written.
#[derive(Default)]
struct Outbox {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    ended: bool,
}

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, frame: &Frame) -> Result<(), Ended> {
        let bytes = frame.encode();
        let mut waiting = self.waiting();
        waiting.bytes += bytes.len();
        if waiting.bytes > WAITING_BYTES_MAX || bytes.len() > FRAME_BYTES_MAX {
            return Err(Ended::Broken("it asks for more than it takes"));
        }
        waiting.frames.push_back(bytes);
        self.more.notify_one();
        Ok(())
    }

    /// Nothing comes any more.
    fn end(&self) {
        self.waiting().ended = true;
        self.more.notify_one();
    }

    /// Writes what comes, until the end.
    async fn drain(&self, mut writer: WriteHalf<ServiceIo>) -> Result<(), Ended> {
        loop {
            let (next, ended) = {
                let mut waiting = self.waiting();
                let next = waiting.frames.pop_front();
                waiting.bytes -= next.as_ref().map_or(0, Vec::len);
                (next, waiting.ended)
            };
            match next {
                Some(bytes) => {
                    let len = u32::try_from(bytes.len()).map_err(|_| Ended::Broken("a frame of ours is too large"))?;
                    let sent = async {
                        writer.write_all(&len.to_be_bytes()).await?;
                        writer.write_all(&bytes).await
                    };
                    timeout(SILENCE_MAX, sent).await.map_err(|_| Ended::Silent)??;
                }
                None if ended => return Ok(writer.shutdown().await?),
                None => self.more.notified().await,
            }
        }
    }
}

async fn read(reader: &mut ReadHalf<ServiceIo>) -> Result<Frame, Ended> {
    let mut len = [0; 4];
    timeout(SILENCE_MAX, reader.read_exact(&mut len)).await.map_err(|_| Ended::Silent)??;
    let len = u32::from_be_bytes(len) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(Ended::Broken("a frame is too large"));
    }
    let mut bytes = vec![0; len];
    timeout(SILENCE_MAX, reader.read_exact(&mut bytes)).await.map_err(|_| Ended::Silent)??;
    Frame::decode(&bytes).ok_or(Ended::Broken("a frame cannot be read"))
}

/// Answers the sessions that others begin.
async fn serve(exchange: Exchange, mut streams: mpsc::Receiver<ServiceIo>, tasks: TaskGroup) {
    let places = Arc::new(Semaphore::new(SERVED_MAX));
    let stop = tasks.stopping();
    while let Some(Some(io)) = stop.run_until_cancelled(streams.recv()).await {
        // With it goes the stream: the other tries again.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (exchange, stop) = (exchange.clone(), stop.clone());
        tasks.spawn(async move {
            let _place = place;
            let peer = io.peer().peer;
            if let Some(Err(error)) = stop.run_until_cancelled(exchange.answer(io)).await {
                tracing::debug!(%peer, %error, "a session of memory ended early");
            }
        });
    }
}

/// Begins sessions, at most one with each other holder.
async fn begin(exchange: Exchange, links: Links, tasks: TaskGroup) {
    let stop = tasks.stopping();
    let (mut view, mut written) = (exchange.view.clone(), exchange.memory.watch_written());
    let (ended_tx, mut ended) = mpsc::channel::<(PeerId, bool)>(STREAMS);
    let (mut linked, mut wanted, mut running) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut failures: BTreeMap<PeerId, u32> = BTreeMap::new();
    let mut known = 0;
    loop {
        let (present, is_kept, authors) = {
            let view = view.borrow_and_update();
            let present: BTreeSet<PeerId> = view.links.iter().filter(|peer| may_hold(&view, peer)).copied().collect();
            (present, exchange.memory.is_kept(home_of(&view.mesh)), view.vouched_by.len() + view.nodes.len())
        };
        // Whose words were not taken before may belong now.
        if std::mem::replace(&mut known, authors) < authors {
            wanted.extend(&linked);
        }
        // Who has nothing waits for those who have something.
        if is_kept {
            wanted.extend(present.difference(&linked).copied());
            linked.clone_from(&present);
        }
        wanted.retain(|peer| present.contains(peer));
        failures.retain(|peer, _| present.contains(peer));
        for peer in wanted.difference(&running).copied().collect::<Vec<_>>() {
            wanted.remove(&peer);
            running.insert(peer);
            let pause = failures.get(&peer).map(|failed| RETRY_AFTER * 2_u32.pow((*failed).min(RETRY_DOUBLED_MAX)));
            let (exchange, links, ended, stop) = (exchange.clone(), links.clone(), ended_tx.clone(), stop.clone());
            tasks.spawn(async move {
                let asked = async {
                    tokio::time::sleep(pause.unwrap_or_default()).await;
                    exchange.ask(&links, peer).await
                };
                let done = stop.run_until_cancelled(asked).await;
                if let Some(Err(error)) = &done {
                    tracing::debug!(%peer, %error, "a session of memory ended early");
                }
                let _ = ended.send((peer, matches!(done, Some(Ok(()))))).await;
            });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some((peer, went_well)) = ended.recv() => {
                running.remove(&peer);
                if went_well {
                    failures.remove(&peer);
                } else {
                    *failures.entry(peer).or_default() += 1;
                    wanted.insert(peer);
                }
            }
            Ok(()) = view.changed() => {}
            Ok(()) = written.changed() => {
                tokio::time::sleep(LINGER).await;
                wanted.extend(present);
            }
        }
    }
}
