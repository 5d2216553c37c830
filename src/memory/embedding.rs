//! Vectors made in the background: what was written gets its vectors when nobody writes any more, a few at a time.
//!
//! The job knows nothing for itself. What lacks a vector the workspace says, also after a restart; what a vector is of it looks
//! at again before it keeps one. So the job may end anywhere, and what was forgotten while a model had it never comes back.

use std::sync::Arc;
use std::time::Duration;

use memory_core::ids::{ModelId, WorkspaceId};
use memory_models::catalogue::Entry;
use memory_models::wire::TEXTS_MAX;
use mesh_core::io::View;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::embedder::Embedder;
use super::error::MemoryError;
use super::handle::MemoryHandle;
use super::home_of;
use super::meaning::{JobState, Meaning};
use super::model_process::ModelError;
use super::vectors::Unembedded;
use crate::tasks::TaskGroup;

/// Silence after which what was written is embedded: it is asked for in the order of its arrival, and more may come.
const QUIET: Duration = Duration::from_secs(2);
/// Longest wait for that silence.
const QUIET_WITHIN: Duration = Duration::from_secs(30);
/// Pause after trouble; it doubles with each until [`PAUSE_MAX`]. Memory, which a look keeps open, may close meanwhile.
const PAUSE: Duration = Duration::from_secs(3);
/// Longest pause after trouble.
const PAUSE_MAX: Duration = Duration::from_hours(1);
/// Interval at which is looked if a model has come or gone.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Texts that the workspace is asked for at once.
const AT_ONCE: usize = 512;

/// Starts the job for the memory of the mesh's home, and gives its questions the way to the model. It does nothing until
/// there is a model.
pub fn start(memory: &MemoryHandle, embedder: Embedder, view: watch::Receiver<Arc<View>>, tasks: &TaskGroup) {
    let (told, job) = watch::channel((JobState::NoModel, 0));
    let work = Job { memory: memory.clone(), embedder: embedder.clone(), view, told, size: TEXTS_MAX, troubles: 0 };
    let stop = tasks.stopping();
    tasks.spawn(async move {
        stop.run_until_cancelled(work.run()).await;
    });
    memory.use_meaning(Meaning::new(embedder, job));
}

struct Job {
    memory: MemoryHandle,
    embedder: Embedder,
    view: watch::Receiver<Arc<View>>,
    told: watch::Sender<(JobState, u64)>,
    /// Texts of one request: halved when the model fails with so many.
    size: usize,
    /// Failures since something last went well.
    troubles: u32,
}

/// Why there is nothing more to do for now.
enum Pause {
    Done,
    Trouble(String),
    Closed,
}

impl Job {
    async fn run(mut self) {
        let mut written = self.memory.watch_written();
        // What an earlier run has left is looked for once.
        let mut due = true;
        loop {
            let entry = self.embedder.files().in_use();
            let workspace = home_of(&self.view.borrow().mesh);
            if entry.is_none() {
                self.tell(JobState::NoModel);
                due = true;
            } else if !due {
                self.tell(JobState::Idle);
            }
            if let Some(entry) = entry.filter(|_| due && self.memory.is_kept(workspace)) {
                // Those who write, and compaction, come first.
                let quiet = async { while timeout(QUIET, written.changed()).await.is_ok_and(|told| told.is_ok()) {} };
                let _ = timeout(QUIET_WITHIN, quiet).await;
                self.tell(JobState::Running);
                match self.all(entry, workspace).await {
                    Pause::Done => due = false,
                    Pause::Trouble(why) => {
                        self.tell(JobState::Waiting { why });
                        let pause = PAUSE.saturating_mul(1 << self.troubles.min(16)).min(PAUSE_MAX);
                        self.troubles = self.troubles.saturating_add(1);
                        sleep(pause).await;
                    }
                    Pause::Closed => return,
                }
                continue;
            }
            due |= tokio::select! {
                told = written.changed() => {
                    if told.is_err() {
                        return;
                    }
                    true
                }
                () = sleep(LOOK_EVERY) => false,
            };
        }
    }

    /// Embeds until nothing lacks a vector.
    async fn all(&mut self, entry: &'static Entry, workspace: WorkspaceId) -> Pause {
        loop {
            let (model, dimension) = (entry.id(), entry.dimension());
            let texts = self.memory.run(workspace, move |it| it.vectors().unembedded(model, dimension, AT_ONCE)).await;
            let texts = match texts {
                Ok(texts) if texts.is_empty() => return Pause::Done,
                Ok(texts) => texts,
                Err(MemoryError::Closed) => return Pause::Closed,
                Err(error) => return Pause::Trouble(error.to_string()),
            };
            let mut rest = texts.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(self.size.min(rest.len()));
                match self.some(model, workspace, now).await {
                    Ok(()) => {
                        rest = later;
                        self.troubles = 0;
                        self.size = TEXTS_MAX;
                    }
                    Err(Trouble::Memory(MemoryError::Closed) | Trouble::Model(ModelError::Closed)) => {
                        return Pause::Closed;
                    }
                    Err(Trouble::Memory(error)) => return Pause::Trouble(error.to_string()),
                    Err(Trouble::Model(error @ ModelError::Failed(_))) => {
                        // One of these texts may be what it fails with: it is told apart by halves, and passed over.
                        if let [text] = now {
                            let text = text.clone();
                            let passed = self.memory.run(workspace, move |it| {
                                it.vectors().pass_over(&text);
                                Ok(())
                            });
                            if passed.await.is_err() {
                                return Pause::Closed;
                            }
                            self.size = TEXTS_MAX;
                        } else {
                            self.size = now.len().div_ceil(2);
                        }
                        return Pause::Trouble(error.to_string());
                    }
                    Err(Trouble::Model(error)) => return Pause::Trouble(error.to_string()),
                }
            }
        }
    }

    async fn some(&self, model: ModelId, workspace: WorkspaceId, texts: &[Unembedded]) -> Result<(), Trouble> {
        let wanted: Vec<String> = texts.iter().map(|text| text.text.clone()).collect();
        let embedded = self.embedder.texts(&wanted).await.map_err(Trouble::Model)?;
        if embedded.model != model {
            // Another model has come in between; the next round asks for its vectors.
            return Ok(());
        }
        let said: Vec<(Unembedded, Vec<f32>)> = texts.iter().cloned().zip(embedded.vectors).collect();
        let kept =
            self.memory.run(workspace, move |it| it.vectors().put(model, &said)).await.map_err(Trouble::Memory)?;
        self.told.send_modify(|(_, made)| *made += kept as u64);
        Ok(())
    }

    fn tell(&self, state: JobState) {
        self.told.send_if_modified(|(now, _)| {
            let is_new = *now != state;
            *now = state;
            is_new
        });
    }
}

enum Trouble {
    Model(ModelError),
    Memory(MemoryError),
}
