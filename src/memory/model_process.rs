//! The agent's side of the child that runs a model: started when somebody wants something of it, ended when nobody has for a
//! while, killed when it is late or says something that is none.
//!
//! What goes wrong is told, and tried again after a pause that grows; nothing else depends on it. What a child is asked for is a
//! [`Task`]; each task has a child of its own.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use memory_core::ids::ModelId;
use memory_models::catalogue::Entry;
use memory_models::wire::{self, Reply, WireError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::last_words::LastWords;
use super::model_child;
use super::model_files::ModelFiles;
use crate::platform;
use crate::tasks::TaskGroup;

/// Times of a child.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// In which it has loaded its model: 0.5 s here, more on a slow card.
    pub(super) load: Duration,
    /// For one request.
    pub(super) answer: Duration,
    /// Of silence, after which it is ended and its memory given back.
    pub(super) idle: Duration,
}

/// Pause after a first failure; it doubles with each until [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(2);
/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_hours(6);
/// Time for a child that has failed to be gone, and to be heard out.
const PARTING: Duration = Duration::from_millis(500);
/// Requests that wait, of each kind; then whoever asks waits, or goes without.
const QUEUE: usize = 16;

/// State of a child.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModelState {
    /// Nobody wants anything of it; it takes no memory.
    #[default]
    Asleep,
    /// It loads its model.
    Loading,
    /// It answers.
    Ready,
    /// It has failed, and is left alone for a while.
    Resting {
        /// What went wrong.
        why: String,
        /// Until when.
        until: Instant,
    },
}

/// Why a model says nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No model for it is on this device.
    #[error("there is no model for it on this device: `sigil model pull` gets one")]
    NoModel,
    /// The child failed with this request, and was ended.
    #[error("the model failed: {0}")]
    Failed(String),
    /// It failed before, and is left alone for a while.
    #[error("the model rests after a failure: {0}")]
    Resting(String),
    /// The agent stops.
    #[error("the agent stops")]
    Closed,
}

/// What a child is asked for: how it is said, and how the answer is checked.
pub(super) trait Task: Send + Sync + 'static {
    /// What comes of it.
    type Answer: Send + 'static;

    /// The model of this device that does it.
    fn model(files: &ModelFiles) -> Option<&'static Entry>;

    /// The frame of the request with this number.
    fn frame(&self, id: u64) -> Result<Vec<u8>, WireError>;

    /// Reads the answer to it. Nothing gets through that is none.
    fn read(&self, id: u64, reply: Reply, entry: &Entry) -> Result<Self::Answer, WireError>;
}

/// The way to a model that does `T`. Cheap to clone.
pub(super) struct Process<T: Task>(Arc<Shared<T>>);

struct Shared<T: Task> {
    files: ModelFiles,
    urgent: mpsc::Sender<Job<T>>,
    patient: mpsc::Sender<Job<T>>,
    state: watch::Receiver<ModelState>,
}

type Answered<T> = Result<(ModelId, <T as Task>::Answer), ModelError>;

struct Job<T: Task> {
    task: T,
    reply: oneshot::Sender<Answered<T>>,
}

/// The program of the child, and what it is called with for a model.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) args: fn(&Entry, PathBuf) -> Vec<OsString>,
}

impl Program {
    /// Our own, under its hidden command; `None` where it cannot be found.
    pub(super) fn own() -> Option<Self> {
        let args = |entry: &Entry, dir| model_child::arguments(entry, dir).to_vec();
        Some(Self { path: platform::own_program()?, args })
    }
}

impl<T: Task> Process<T> {
    /// Starts the task that owns the child; the child itself only when somebody asks.
    pub(super) fn start(files: ModelFiles, program: Option<Program>, times: Times, tasks: &TaskGroup) -> Self {
        let (urgent, urgent_jobs) = mpsc::channel(QUEUE);
        let (patient, patient_jobs) = mpsc::channel(QUEUE);
        let (told, state) = watch::channel(ModelState::Asleep);
        let owner = Owner {
            files: files.clone(),
            program,
            times,
            child: None,
            failures: 0,
            rest: None,
            told,
            tasks: tasks.clone(),
            stop: tasks.stopping(),
        };
        tasks.spawn(owner.serve(urgent_jobs, patient_jobs));
        Self(Arc::new(Shared { files, urgent, patient, state }))
    }

    /// The models of this device.
    pub(super) fn files(&self) -> &ModelFiles {
        &self.0.files
    }

    /// State of the child.
    pub(super) fn state(&self) -> ModelState {
        self.0.state.borrow().clone()
    }

    #[cfg(test)]
    pub(super) fn watch(&self) -> watch::Receiver<ModelState> {
        self.0.state.clone()
    }

    /// Does what somebody waits for: what is patient comes after it.
    ///
    /// # Cancel safety
    /// When dropped, it is not done unless it has been begun.
    pub(super) async fn urgent(&self, task: T) -> Answered<T> {
        Self::ask(&self.0.urgent, task).await
    }

    /// Does what nobody waits for.
    ///
    /// # Cancel safety
    /// As [`Self::urgent`].
    pub(super) async fn patient(&self, task: T) -> Answered<T> {
        Self::ask(&self.0.patient, task).await
    }

    async fn ask(queue: &mpsc::Sender<Job<T>>, task: T) -> Answered<T> {
        let (reply, answer) = oneshot::channel();
        queue.send(Job { task, reply }).await.map_err(|_| ModelError::Closed)?;
        answer.await.map_err(|_| ModelError::Closed)?
    }
}

impl<T: Task> Clone for Process<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Task> fmt::Debug for Process<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("state", &*self.0.state.borrow()).finish_non_exhaustive()
    }
}

/// Owns the child.
struct Owner {
    files: ModelFiles,
    program: Option<Program>,
    times: Times,
    child: Option<Running>,
    failures: u32,
    rest: Option<(Instant, String)>,
    told: watch::Sender<ModelState>,
    tasks: TaskGroup,
    stop: CancellationToken,
}

impl Owner {
    async fn serve<T: Task>(mut self, mut urgent: mpsc::Receiver<Job<T>>, mut patient: mpsc::Receiver<Job<T>>) {
        loop {
            let idle = async {
                match &self.child {
                    Some(_) => tokio::time::sleep(self.times.idle).await,
                    None => std::future::pending().await,
                }
            };
            let job = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Some(job) = urgent.recv() => job,
                Some(job) = patient.recv() => job,
                () = idle => {
                    // Dropped, it is killed: it holds nothing that is not elsewhere.
                    self.child = None;
                    self.tell(ModelState::Asleep);
                    continue;
                }
                else => return,
            };
            if job.reply.is_closed() {
                continue;
            }
            let stop = self.stop.clone();
            match stop.run_until_cancelled(self.work(&job.task)).await {
                // Whoever asked may have gone.
                Some(done) => drop(job.reply.send(done)),
                None => return,
            }
        }
    }

    async fn work<T: Task>(&mut self, task: &T) -> Answered<T> {
        let Some(entry) = T::model(&self.files) else {
            self.child = None;
            self.rest = None;
            self.tell(ModelState::Asleep);
            return Err(ModelError::NoModel);
        };
        if let Some((until, why)) = &self.rest {
            if Instant::now() < *until {
                return Err(ModelError::Resting(why.clone()));
            }
            self.rest = None;
        }
        let done = self.try_to(entry, task).await;
        match done {
            Ok(answer) => {
                self.failures = 0;
                self.tell(ModelState::Ready);
                Ok((entry.id(), answer))
            }
            Err(error) => {
                let (mut why, mut said) = (chain(&error), String::new());
                if let Some(child) = self.child.take() {
                    let words = child.words.clone();
                    if let Some(signal) = child.end(has_ended(&error)).await {
                        why = format!("{why} (signal {signal})");
                    }
                    said = words.all();
                    why = words.told().map_or_else(|| why.clone(), |told| format!("{why}; it said: {told}"));
                }
                tracing::warn!(
                    error = why,
                    said,
                    model = entry.name,
                    "the model failed; memory works without it meanwhile"
                );
                let pause = PAUSE.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
                self.failures = self.failures.saturating_add(1);
                let until = Instant::now() + pause;
                self.rest = Some((until, why.clone()));
                self.tell(ModelState::Resting { why: why.clone(), until });
                Err(ModelError::Failed(why))
            }
        }
    }

    async fn try_to<T: Task>(&mut self, entry: &'static Entry, task: &T) -> Result<T::Answer, WireError> {
        if self.child.as_ref().is_none_or(|child| child.model != entry.id()) {
            self.tell(ModelState::Loading);
            self.child = None;
            let program =
                self.program.as_ref().ok_or_else(|| WireError::Failed("our own program is gone".to_owned()))?;
            let child = self.child.insert(Running::start(program, entry, self.files.dir(entry), &self.tasks)?);
            let late = WireError::Failed("it did not load in time".to_owned());
            timeout(self.times.load, child.load(entry)).await.unwrap_or(Err(late))?;
        }
        let late = WireError::Failed(format!("no answer within {} s", self.times.answer.as_secs()));
        let Some(child) = &mut self.child else { return Err(late) };
        timeout(self.times.answer, child.answer(task, entry)).await.unwrap_or(Err(late))
    }

    fn tell(&self, state: ModelState) {
        self.told.send_if_modified(|now| {
            let is_new = *now != state;
            *now = state;
            is_new
        });
    }
}

/// A child; killed when it is dropped.
struct Running {
    model: ModelId,
    requests: u64,
    to: ChildStdin,
    from: ChildStdout,
    words: LastWords,
    child: Child,
}

impl Running {
    fn start(program: &Program, entry: &Entry, dir: PathBuf, tasks: &TaskGroup) -> Result<Self, WireError> {
        let mut command = Command::new(&program.path);
        command.args((program.args)(entry, dir)).env_clear().current_dir("/");
        // One thread: two wait for each other when the machine has something else to do.
        command.env("RAYON_NUM_THREADS", "1").env("CANDLE_NUM_THREADS", "1");
        // KiB that the allocator takes at once. Its 1 GiB would count as taken, and be over the child's budget at once.
        command.env("MIMALLOC_ARENA_RESERVE", "32768");
        #[cfg(feature = "fault-points")]
        command.envs(std::env::vars_os().filter(|(name, _)| {
            let names = [memory_models::scripted::setting(entry), memory_models::scripted::LOG];
            names.iter().any(|known| name == known)
        }));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
        let (Some(to), Some(from), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(WireError::Failed("it has no pipes".to_owned()));
        };
        let words = LastWords::default();
        tasks.spawn(words.clone().listen(errors));
        Ok(Self { model: entry.id(), requests: 0, to, from, words, child })
    }

    /// Waits until it has loaded its model.
    async fn load(&mut self, entry: &Entry) -> Result<(), WireError> {
        let (got, want) = (self.receive().await?.ready()?, entry.dimension());
        if got == want {
            return Ok(());
        }
        Err(memory_core::index::vectors::VectorError::Dimension { got, want }.into())
    }

    /// Ends it, and hears it out. Gives the signal that ended it, if it ended by itself.
    async fn end(mut self, by_itself: bool) -> Option<i32> {
        let mut status = None;
        if by_itself {
            status = timeout(PARTING, self.child.wait()).await.ok().and_then(Result::ok);
        }
        // It may be gone already.
        let _ = self.child.start_kill();
        self.words.wait(PARTING).await;
        status.and_then(|status| status.signal())
    }

    async fn answer<T: Task>(&mut self, task: &T, entry: &Entry) -> Result<T::Answer, WireError> {
        self.requests += 1;
        self.to.write_all(&task.frame(self.requests)?).await?;
        self.to.flush().await?;
        task.read(self.requests, self.receive().await?, entry)
    }

    async fn receive(&mut self) -> Result<Reply, WireError> {
        let mut four = [0; 4];
        self.from.read_exact(&mut four).await?;
        let mut body = vec![0; wire::length(four)?];
        self.from.read_exact(&mut body).await?;
        wire::read(&body)
    }
}

/// True for what is seen of a child that is gone: nothing comes any more, or nothing can be sent.
fn has_ended(error: &WireError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, UnexpectedEof};
    matches!(error, WireError::Pipe(source) if matches!(source.kind(), UnexpectedEof | BrokenPipe))
}

fn chain(error: &WireError) -> String {
    if has_ended(error) {
        return "its process ended".to_owned();
    }
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
