//! The way to memory from everywhere else: a workspace is opened by the first who asks, owned by one thread, and closed when
//! nobody has asked for a while.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use memory_core::compaction::{Settings, Trigger};
use memory_core::ids::WorkspaceId;
use mesh_core::ids::PeerId;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::error::MemoryError;
use super::meaning::Meaning;
use super::workspace::Workspace;
use super::writing_watch::WritingWatch;
use crate::mesh::identity::DeviceKey;
use crate::tasks::TaskGroup;

/// Time without a question after which a workspace is closed, and takes no memory any more.
pub const IDLE: Duration = Duration::from_mins(5);
/// Requests that wait for the thread; then whoever asks waits.
const QUEUE: usize = 32;

type Job = Box<dyn FnOnce(Result<&mut Workspace, MemoryError>) + Send>;

/// Memory of this device. Cheap to clone.
#[derive(Clone)]
pub struct MemoryHandle(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    key: DeviceKey,
    settings: Settings,
    idle: Duration,
    tasks: TaskGroup,
    open: Mutex<Option<(WorkspaceId, mpsc::Sender<Job>)>>,
    /// The write that failed: memory stays closed until the agent starts anew.
    failed: Mutex<Option<MemoryError>>,
    /// Counts what was written that other holders want.
    written: watch::Sender<u64>,
    /// The model, once there is a way to one.
    meaning: OnceLock<Meaning>,
    /// The model that writes, alike.
    writing: OnceLock<WritingWatch>,
    /// Devices of which no more memory is taken here, as the last session that met it saw.
    full: Mutex<BTreeSet<PeerId>>,
    /// Held by the thread that has a database open: the next one waits until it is closed.
    gate: Mutex<()>,
}

impl MemoryHandle {
    /// Memory below `dir`, which is made when something is kept. Opens nothing.
    #[must_use]
    pub fn new(dir: PathBuf, key: DeviceKey, settings: Settings, idle: Duration, tasks: TaskGroup) -> Self {
        let (open, failed, gate) = (Mutex::new(None), Mutex::new(None), Mutex::new(()));
        let full = Mutex::default();
        let (written, meaning, writing) = (watch::Sender::new(0), OnceLock::new(), OnceLock::new());
        Self(Arc::new(Shared { dir, key, settings, idle, tasks, open, failed, written, meaning, writing, full, gate }))
    }

    /// Does `work` on the thread that owns the workspace, which is opened if need be.
    ///
    /// # Errors
    /// It cannot be opened; [`MemoryError::Closed`]; those of `work`.
    ///
    /// # Cancel safety
    /// When dropped, the work may still be done.
    pub async fn run<T: Send + 'static>(
        &self,
        workspace: WorkspaceId,
        work: impl FnOnce(&mut Workspace) -> Result<T, MemoryError> + Send + 'static,
    ) -> Result<T, MemoryError> {
        let (reply, answer) = oneshot::channel();
        let mut job: Job = Box::new(move |opened| {
            // Whoever asked may have gone.
            let _ = reply.send(opened.and_then(work));
        });
        // A thread that closes takes nothing more; the second one is new.
        for _ in 0..2 {
            let sender = self.sender(workspace)?;
            match sender.send(job).await {
                Ok(()) => return answer.await.map_err(|_| MemoryError::Closed)?,
                Err(mpsc::error::SendError(back)) => job = back,
            }
        }
        Err(MemoryError::Closed)
    }

    /// True while a workspace is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().is_some_and(|(_, sender)| !sender.is_closed())
    }

    /// From now on questions have vectors, as far as this way leads to a model.
    pub fn use_meaning(&self, meaning: Meaning) {
        // Set once, when the agent starts.
        let _ = self.0.meaning.set(meaning);
    }

    /// The way to the model.
    #[must_use]
    pub fn meaning(&self) -> Option<&Meaning> {
        self.0.meaning.get()
    }

    /// From now on is shown how a model's words are coming along.
    pub fn use_writing(&self, writing: WritingWatch) {
        // Set once, when the agent starts.
        let _ = self.0.writing.set(writing);
    }

    /// How a model's words are coming along.
    #[must_use]
    pub fn writing(&self) -> Option<&WritingWatch> {
        self.0.writing.get()
    }

    /// Shows when something was written that other holders want.
    #[must_use]
    pub fn watch_written(&self) -> watch::Receiver<u64> {
        self.0.written.subscribe()
    }

    /// True if something of this workspace is kept here, open or not.
    #[must_use]
    pub fn is_kept(&self, workspace: WorkspaceId) -> bool {
        self.0.dir.join(workspace.to_string()).is_dir()
    }

    /// The write that failed, after which memory is closed until the agent starts anew.
    #[must_use]
    pub fn failure(&self) -> Option<MemoryError> {
        self.0.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Devices of which no more memory is taken here: they have used up their share of its room.
    #[must_use]
    pub fn full(&self) -> BTreeSet<PeerId> {
        self.0.full.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A session has looked at what another holder has of all authors: these are full.
    pub(super) fn set_full(&self, peers: BTreeSet<PeerId>) {
        let mut full = self.0.full.lock().unwrap_or_else(PoisonError::into_inner);
        for peer in peers.difference(&full) {
            tracing::info!(%peer, "no more memory of a device is taken: it has used up its share of the room");
        }
        *full = peers;
    }

    /// These are full as well.
    pub(super) fn add_full(&self, mut peers: BTreeSet<PeerId>) {
        if !peers.is_empty() {
            peers.extend(self.full());
            self.set_full(peers);
        }
    }

    fn sender(&self, workspace: WorkspaceId) -> Result<mpsc::Sender<Job>, MemoryError> {
        if self.0.tasks.stopping().is_cancelled() {
            return Err(MemoryError::Closed);
        }
        if let Some(failed) = self.failure() {
            return Err(failed);
        }
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, sender)) = open.as_ref()
            && *id == workspace
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let (sender, jobs) = mpsc::channel(QUEUE);
        let (shared, runtime) = (self.0.clone(), Handle::current());
        let started = self.0.tasks.thread("memory", move |stop| shared.serve(workspace, jobs, stop, &runtime));
        started.map_err(|_| MemoryError::Closed)?;
        // With the sender of another workspace goes the last that could ask it: it closes.
        *open = Some((workspace, sender.clone()));
        Ok(sender)
    }
}

impl fmt::Debug for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryHandle").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Opens, serves, closes.
    fn serve(&self, id: WorkspaceId, mut jobs: mpsc::Receiver<Job>, stop: &CancellationToken, runtime: &Handle) {
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.dir.join(id.to_string());
        let mut opened = Workspace::open(&dir, id, self.key.clone(), self.settings);
        if let Err(error) = &opened {
            tracing::error!(error = error as &dyn std::error::Error, "memory cannot be opened");
        }
        let mut told = 0;
        // Compaction waits until nobody does; one that fails, until there is something new.
        let mut compacts = true;
        while let Ok(workspace) = &mut opened {
            if compacts && jobs.is_empty() && workspace.is_compaction_due() && !stop.is_cancelled() {
                if let Err(error) = workspace.compact(Trigger::Unasked) {
                    tracing::error!(error = &error as &dyn std::error::Error, "messages were not compacted");
                    compacts = false;
                }
            } else {
                let next = async { tokio::time::timeout(self.idle, jobs.recv()).await };
                // Stopped, idle for long enough, or nobody is left who could ask.
                let job = match runtime.block_on(stop.run_until_cancelled(next)) {
                    Some(Ok(Some(job))) => job,
                    Some(Ok(None) | Err(_)) => {
                        // Nobody waits now: the time to let go of what was forgotten.
                        if workspace.is_vacuum_due()
                            && let Err(error) = workspace.vacuum()
                        {
                            tracing::error!(
                                error = &error as &dyn std::error::Error,
                                "forgotten bytes are still there"
                            );
                        }
                        break;
                    }
                    None => break,
                };
                job(Ok(workspace));
                compacts = true;
            }
            if std::mem::replace(&mut told, workspace.written) != workspace.written {
                self.written.send_modify(|written| *written += 1);
            }
            if let Some(error) = workspace.failure() {
                tracing::error!(error = &error as &dyn std::error::Error, "memory is closed until the next start");
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                opened = Err(error);
            }
        }
        jobs.close();
        while let Some(job) = jobs.blocking_recv() {
            match &mut opened {
                Ok(workspace) => job(Ok(workspace)),
                Err(error) => job(Err(error.clone())),
            }
        }
    }
}
