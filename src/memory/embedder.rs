//! The way to the model that gives texts vectors.

use memory_core::ids::ModelId;
use memory_models::catalogue::Entry;
use memory_models::wire::{self, Reply, Request, WireError};
use std::time::Duration;

use super::model_files::ModelFiles;
use super::model_process::{ModelError, ModelState, Process, Program, Task, Times};
use crate::tasks::TaskGroup;

const TIMES: Times =
    Times { load: Duration::from_mins(1), answer: Duration::from_secs(30), idle: Duration::from_mins(2) };

/// A vector for each text, of this model.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// The model.
    pub model: ModelId,
    /// Of length 1 each, and of one dimension.
    pub vectors: Vec<Vec<f32>>,
}

/// Texts whose vectors are wanted.
struct Texts(Vec<String>);

impl Task for Texts {
    type Answer = Vec<Vec<f32>>;

    fn model(files: &ModelFiles) -> Option<&'static Entry> {
        files.in_use()
    }

    fn frame(&self, id: u64) -> Result<Vec<u8>, WireError> {
        let request = Request { id, texts: self.0.clone() };
        request.check()?;
        wire::frame(&request)
    }

    fn read(&self, id: u64, reply: Reply, entry: &Entry) -> Result<Vec<Vec<f32>>, WireError> {
        reply.vectors(&Request { id, texts: self.0.clone() }, entry.dimension())
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Embedder(Process<Texts>);

impl Embedder {
    /// Starts the task that owns the child; the child itself only when somebody asks.
    #[must_use]
    pub fn start(files: ModelFiles, tasks: &TaskGroup) -> Self {
        Self::start_with(files, Program::own(), TIMES, tasks)
    }

    pub(super) fn start_with(files: ModelFiles, program: Option<Program>, times: Times, tasks: &TaskGroup) -> Self {
        Self(Process::start(files, program, times, tasks))
    }

    /// The models of this device.
    #[must_use]
    pub fn files(&self) -> &ModelFiles {
        self.0.files()
    }

    /// State of the child.
    #[must_use]
    pub fn state(&self) -> ModelState {
        self.0.state()
    }

    /// The vector of a question. What waits in the background comes after it.
    ///
    /// # Errors
    /// See [`ModelError`].
    ///
    /// # Cancel safety
    /// When dropped, the vector is not made unless it has been begun.
    pub async fn question(&self, text: &str) -> Result<Embedded, ModelError> {
        let (model, vectors) = self.0.urgent(Texts(vec![wire::cut(text).to_owned()])).await?;
        Ok(Embedded { model, vectors })
    }

    /// The vectors of texts, at most [`wire::TEXTS_MAX`]; of each the beginning counts.
    ///
    /// # Errors
    /// See [`ModelError`].
    ///
    /// # Cancel safety
    /// As [`Self::question`].
    pub async fn texts(&self, texts: &[String]) -> Result<Embedded, ModelError> {
        let texts = texts.iter().map(|text| wire::cut(text).to_owned()).collect();
        let (model, vectors) = self.0.patient(Texts(texts)).await?;
        Ok(Embedded { model, vectors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::path::PathBuf;

    use memory_models::catalogue::MODELS;
    use memory_models::wire::{self, Outcome, VERSION};
    use tokio::time::timeout;

    /// A program that says some bytes and then waits, in a home whose model is whole as far as names and sizes go.
    struct World {
        home: tempfile::TempDir,
        tasks: TaskGroup,
        embedder: Embedder,
    }

    /// Reads what it is sent, and says nothing.
    const WAIT: &str = "cat > /dev/null\ntrue";

    fn unit() -> Vec<f32> {
        let mut vector = vec![0.0; MODELS[0].dimension()];
        vector[3] = 1.0;
        vector
    }

    fn ready() -> Reply {
        Reply { id: 0, outcome: Outcome::Ready { version: VERSION, dimension: MODELS[0].dimension() } }
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
        assert!(matches!(&error, ModelError::Failed(why) if why.contains(words)), "{words}: {error}");
        assert!(matches!(world.embedder.state(), ModelState::Resting { .. }));
        // It is left alone for a while, and started once.
        assert!(matches!(world.embedder.question("a").await, Err(ModelError::Resting(_))));
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
        fails_within(&frames(&[ready()]), WAIT, "no answer within", Times { answer: short, ..TIMES }).await;
        fails_within(b"", WAIT, "did not load", Times { load: short, ..TIMES }).await;
        let chatty = format!("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo stuck >&2\n{WAIT}");
        fails_within(b"", &chatty, "it said: x", Times { load: Duration::from_secs(3), ..TIMES }).await;
    }

    #[tokio::test]
    async fn a_child_that_nobody_asks_is_ended_and_started_again() {
        let said = frames(&[ready(), Reply::of(1, &[unit()])]);
        let world = world(&said, WAIT, Times { idle: Duration::from_millis(50), ..TIMES });
        let mut state = world.embedder.0.watch();
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
        assert!(matches!(world.embedder.question("a").await, Err(ModelError::NoModel)));
        // One that comes later is taken.
        std::fs::rename(&hidden, files.dir(&MODELS[0])).unwrap();
        assert_eq!(world.embedder.question("a").await.unwrap().vectors.len(), 1);
        world.ends().await;
    }
}
