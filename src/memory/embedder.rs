//! The agent's side of the child that runs a model: started when somebody wants a vector, ended when nobody has for a while,
//! killed when it is late or says something that is none.
//!
//! What goes wrong is told, and tried again after a pause that grows; nothing else depends on it.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use memory_core::ids::ModelId;
use memory_models::catalogue::Entry;
use memory_models::wire::{self, Reply, Request, WireError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::embedder_process;
use super::last_words::LastWords;
use super::model_files::ModelFiles;
use crate::platform;
use crate::tasks::TaskGroup;

/// Times of the child.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// In which it has loaded its model: 0.5 s here, more on a slow card.
    load: Duration,
    /// For the vectors of one request.
    embed: Duration,
    /// Of silence, after which it is ended and its memory given back.
    idle: Duration,
}

const TIMES: Times =
    Times { load: Duration::from_mins(1), embed: Duration::from_secs(30), idle: Duration::from_mins(2) };
/// Pause after a first failure; it doubles with each until [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(2);
/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_hours(6);
/// Time for a child that has failed to be gone, and to be heard out.
const PARTING: Duration = Duration::from_millis(500);
/// Requests that wait, of each kind; then whoever asks waits, or goes without.
const QUEUE: usize = 16;

/// State of the child.
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
    },
}

/// Why there are no vectors.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// No model is on this device.
    #[error("there is no model on this device: `sigil model pull` gets one")]
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

/// A vector for each text, of this model.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// The model.
    pub model: ModelId,
    /// Of length 1 each, and of one dimension.
    pub vectors: Vec<Vec<f32>>,
}

/// The way to the model. Cheap to clone.
#[derive(Clone)]
pub struct Embedder(Arc<Shared>);

struct Shared {
    files: ModelFiles,
    urgent: mpsc::Sender<Job>,
    patient: mpsc::Sender<Job>,
    state: watch::Receiver<ModelState>,
}

struct Job {
    texts: Vec<String>,
    reply: oneshot::Sender<Result<Embedded, EmbedError>>,
}

/// The program of the child, and what it is called with for a model.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    args: fn(&Entry, PathBuf) -> Vec<OsString>,
}

impl Program {
    /// Our own, under its hidden command; `None` where it cannot be found.
    pub(super) fn own() -> Option<Self> {
        let args = |entry: &Entry, dir| embedder_process::arguments(entry, dir).to_vec();
        Some(Self { path: platform::own_program()?, args })
    }
}

impl Embedder {
    /// Starts the task that owns the child; the child itself only when somebody asks.
    #[must_use]
    pub fn start(files: ModelFiles, tasks: &TaskGroup) -> Self {
        Self::start_with(files, Program::own(), TIMES, tasks)
    }

    pub(super) fn start_with(files: ModelFiles, program: Option<Program>, times: Times, tasks: &TaskGroup) -> Self {
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
    #[must_use]
    pub fn files(&self) -> &ModelFiles {
        &self.0.files
    }

    /// State of the child.
    #[must_use]
    pub fn state(&self) -> ModelState {
        self.0.state.borrow().clone()
    }

    /// The vector of a question. What waits in the background comes after it.
    ///
    /// # Errors
    /// See [`EmbedError`].
    ///
    /// # Cancel safety
    /// When dropped, the vector is not made unless it has been begun.
    pub async fn question(&self, text: &str) -> Result<Embedded, EmbedError> {
        Self::ask(&self.0.urgent, vec![wire::cut(text).to_owned()]).await
    }

    /// The vectors of texts, at most [`wire::TEXTS_MAX`]; of each the beginning counts.
    ///
    /// # Errors
    /// See [`EmbedError`].
    ///
    /// # Cancel safety
    /// As [`Self::question`].
    pub async fn texts(&self, texts: &[String]) -> Result<Embedded, EmbedError> {
        Self::ask(&self.0.patient, texts.iter().map(|text| wire::cut(text).to_owned()).collect()).await
    }

    async fn ask(queue: &mpsc::Sender<Job>, texts: Vec<String>) -> Result<Embedded, EmbedError> {
        let (reply, answer) = oneshot::channel();
        queue.send(Job { texts, reply }).await.map_err(|_| EmbedError::Closed)?;
        answer.await.map_err(|_| EmbedError::Closed)?
    }
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedder").field("state", &*self.0.state.borrow()).finish_non_exhaustive()
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
    async fn serve(mut self, mut urgent: mpsc::Receiver<Job>, mut patient: mpsc::Receiver<Job>) {
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
            match stop.run_until_cancelled(self.work(&job.texts)).await {
                // Whoever asked may have gone.
                Some(done) => drop(job.reply.send(done)),
                None => return,
            }
        }
    }

    async fn work(&mut self, texts: &[String]) -> Result<Embedded, EmbedError> {
        let Some(entry) = self.files.in_use() else {
            self.child = None;
            self.rest = None;
            self.tell(ModelState::Asleep);
            return Err(EmbedError::NoModel);
        };
        if let Some((until, why)) = &self.rest {
            if Instant::now() < *until {
                return Err(EmbedError::Resting(why.clone()));
            }
            self.rest = None;
        }
        let done = self.try_to(entry, texts).await;
        match done {
            Ok(vectors) => {
                self.failures = 0;
                self.tell(ModelState::Ready);
                Ok(Embedded { model: entry.id(), vectors })
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
                    "the model failed; memory works by words meanwhile"
                );
                let pause = PAUSE.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
                self.failures = self.failures.saturating_add(1);
                self.rest = Some((Instant::now() + pause, why.clone()));
                self.tell(ModelState::Resting { why: why.clone() });
                Err(EmbedError::Failed(why))
            }
        }
    }

    async fn try_to(&mut self, entry: &'static Entry, texts: &[String]) -> Result<Vec<Vec<f32>>, WireError> {
        if self.child.as_ref().is_none_or(|child| child.model != entry.id()) {
            self.tell(ModelState::Loading);
            self.child = None;
            let program =
                self.program.as_ref().ok_or_else(|| WireError::Failed("our own program is gone".to_owned()))?;
            let child = self.child.insert(Running::start(program, entry, self.files.dir(entry), &self.tasks)?);
            let late = WireError::Failed("it did not load in time".to_owned());
            timeout(self.times.load, child.load(entry)).await.unwrap_or(Err(late))?;
        }
        let Some(child) = &mut self.child else { return Ok(Vec::new()) };
        let late = WireError::Failed(format!("no answer within {} s", self.times.embed.as_secs()));
        timeout(self.times.embed, child.embed(texts)).await.unwrap_or(Err(late))
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
    dimension: usize,
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
        command.envs(
            std::env::var_os(memory_models::scripted::SETTING).map(|kind| (memory_models::scripted::SETTING, kind)),
        );
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
        let (Some(to), Some(from), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(WireError::Failed("it has no pipes".to_owned()));
        };
        let words = LastWords::default();
        tasks.spawn(words.clone().listen(errors));
        Ok(Self { model: entry.id(), dimension: 0, requests: 0, to, from, words, child })
    }

    /// Waits until it has loaded its model.
    async fn load(&mut self, entry: &Entry) -> Result<(), WireError> {
        self.dimension = self.receive().await?.ready()?;
        let (got, want) = (self.dimension, entry.form.dimension);
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

    async fn embed(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, WireError> {
        self.requests += 1;
        let request = Request { id: self.requests, texts: texts.to_vec() };
        request.check()?;
        self.to.write_all(&wire::frame(&request)?).await?;
        self.to.flush().await?;
        self.receive().await?.vectors(&request, self.dimension)
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

#[cfg(test)]
mod tests {
    use super::*;
    use memory_models::catalogue::MODELS;
    use memory_models::wire::{Outcome, VERSION};

    /// A program that says some bytes and then waits, in a home whose model is whole as far as names and sizes go.
    struct World {
        home: tempfile::TempDir,
        tasks: TaskGroup,
        embedder: Embedder,
    }

    /// Reads what it is sent, and says nothing.
    const WAIT: &str = "cat > /dev/null\ntrue";

    fn unit() -> Vec<f32> {
        let mut vector = vec![0.0; MODELS[0].form.dimension];
        vector[3] = 1.0;
        vector
    }

    fn ready() -> Reply {
        Reply { id: 0, outcome: Outcome::Ready { version: VERSION, dimension: MODELS[0].form.dimension } }
    }

    fn frames(replies: &[Reply]) -> Vec<u8> {
        replies.iter().flat_map(|reply| wire::frame(reply).unwrap()).collect()
    }

    /// `after`: what the program does when it has said everything.
    fn world(said: &[u8], after: &str, times: Times) -> World {
        let home = tempfile::tempdir().unwrap();
        let files = ModelFiles::new(home.path().join("models"));
        std::fs::create_dir_all(files.dir(&MODELS[0])).unwrap();
        for file in MODELS[0].files() {
            std::fs::File::create(files.path(&MODELS[0], &file)).unwrap().set_len(file.bytes).unwrap();
        }
        // The script lies beside the weights, whose directory is the one thing that the program is called with.
        std::fs::write(files.dir(&MODELS[0]).join("said"), said).unwrap();
        std::fs::write(
            files.dir(&MODELS[0]).join("script"),
            format!("echo . >> \"$1/starts\"\ncat \"$1/said\"\n{after}\n"),
        )
        .unwrap();
        let args: fn(&Entry, PathBuf) -> Vec<OsString> = |_, dir| vec![dir.join("script").into(), dir.into()];
        let program = Program { path: "/bin/sh".into(), args };
        let tasks = TaskGroup::default();
        World { embedder: Embedder::start_with(files, Some(program), times, &tasks), home, tasks }
    }

    impl World {
        fn starts(&self) -> usize {
            let path = self.home.path().join("models").join(MODELS[0].name).join("starts");
            std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
        }

        async fn ends(self) {
            self.tasks.shutdown(Duration::from_secs(5)).await;
        }
    }

    async fn fails(said: &[u8], after: &str, words: &str) {
        fails_within(said, after, words, TIMES).await;
    }

    async fn fails_within(said: &[u8], after: &str, words: &str, times: Times) {
        let world = world(said, after, times);
        let error = world.embedder.texts(&["a".to_owned()]).await.unwrap_err();
        assert!(matches!(&error, EmbedError::Failed(why) if why.contains(words)), "{words}: {error}");
        assert!(matches!(world.embedder.state(), ModelState::Resting { .. }));
        // It is left alone for a while, and started once.
        assert!(matches!(world.embedder.question("a").await, Err(EmbedError::Resting(_))));
        assert_eq!(world.starts(), 1);
        world.ends().await;
    }

    #[tokio::test]
    async fn what_a_good_child_says_is_passed_on_and_it_is_started_once() {
        let said = frames(&[ready(), Reply::of(1, &[unit(), unit()]), Reply::of(2, &[unit()])]);
        let world = world(&said, WAIT, TIMES);
        let two = world.embedder.texts(&["a".to_owned(), "b".to_owned()]).await.unwrap();
        assert_eq!(two, Embedded { model: MODELS[0].id(), vectors: vec![unit(), unit()] });
        assert_eq!(world.embedder.question("c").await.unwrap().vectors, [unit()]);
        assert_eq!((world.embedder.state(), world.starts()), (ModelState::Ready, 1));
        world.ends().await;
    }

    #[tokio::test]
    async fn a_child_that_says_what_is_no_vector_is_ended_and_left_alone() {
        let mut nan = unit();
        nan[0] = f32::NAN;
        fails(&frames(&[ready(), Reply::of(1, &[nan])]), WAIT, "not finite").await;
        fails(&frames(&[ready(), Reply::of(1, &[vec![1.0]])]), WAIT, "has 1 numbers").await;
        fails(&frames(&[ready(), Reply::of(1, &[])]), WAIT, "0 vectors").await;
        fails(&frames(&[ready(), Reply::of(9, &[unit()])]), WAIT, "answered 9").await;
        fails(&[frames(&[ready()]), vec![4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]].concat(), WAIT, "cannot be read").await;
        fails(&[frames(&[ready()]), vec![0xff; 64]].concat(), WAIT, "over its limit").await;
        fails(b"", "", "process ended").await;
        fails(&frames(&[ready()]), "kill -ABRT $$", "process ended (signal 6)").await;
        let words = "printf 'memory allocation of\\033[2J 9 bytes failed\\n' >&2";
        fails(&frames(&[ready()]), words, "process ended; it said: memory allocation of[2J 9 bytes failed").await;
        fails(b"", &format!("{words}; kill -KILL $$"), "process ended (signal 9); it said: memory").await;
        let other = Outcome::Ready { version: VERSION, dimension: 3 };
        fails(&frames(&[Reply { id: 0, outcome: other }]), WAIT, "has 3 numbers").await;
        let no = Outcome::Failed("no memory".to_owned());
        fails(&frames(&[Reply { id: 0, outcome: no }]), WAIT, "no memory").await;
    }

    #[tokio::test]
    async fn a_child_that_hangs_is_killed_in_time() {
        let short = Duration::from_millis(300);
        fails_within(&frames(&[ready()]), WAIT, "no answer within", Times { embed: short, ..TIMES }).await;
        fails_within(b"", WAIT, "did not load", Times { load: short, ..TIMES }).await;
        let chatty = format!("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo stuck >&2\n{WAIT}");
        fails_within(b"", &chatty, "it said: x", Times { load: Duration::from_secs(3), ..TIMES }).await;
    }

    #[tokio::test]
    async fn a_child_that_nobody_asks_is_ended_and_started_again() {
        let said = frames(&[ready(), Reply::of(1, &[unit()])]);
        let world = world(&said, WAIT, Times { idle: Duration::from_millis(50), ..TIMES });
        let mut state = world.embedder.0.state.clone();
        for _ in 0..2 {
            assert_eq!(world.embedder.question("a").await.unwrap().vectors.len(), 1);
            let asleep = state.wait_for(|state| *state == ModelState::Asleep);
            drop(timeout(Duration::from_secs(20), asleep).await.unwrap().unwrap());
        }
        assert_eq!(world.starts(), 2);
        world.ends().await;
    }

    #[tokio::test]
    async fn without_a_model_nothing_is_started() {
        let world = world(&frames(&[ready(), Reply::of(1, &[unit()])]), WAIT, TIMES);
        let files = world.embedder.files().clone();
        let hidden = world.home.path().join("away");
        std::fs::rename(files.dir(&MODELS[0]), &hidden).unwrap();
        assert!(matches!(world.embedder.question("a").await, Err(EmbedError::NoModel)));
        // One that comes later is taken.
        std::fs::rename(&hidden, files.dir(&MODELS[0])).unwrap();
        assert_eq!(world.embedder.question("a").await.unwrap().vectors.len(), 1);
        world.ends().await;
    }
}
