//! A model's words made in the background: summaries stand at once, made by rules; later a model writes a head for each and
//! proposes facts.
//!
//! The job knows nothing for itself. Which summary waits the workspace says, also after a restart; what may be kept of what a
//! model says [`memory_core::writing`] decides. So the job may end anywhere.

use std::sync::Arc;
use std::time::Duration;

use memory_core::ids::WorkspaceId;
use memory_core::writing::{Reading, When};
use memory_models::catalogue::Entry;
use mesh_core::io::View;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::error::MemoryError;
use super::handle::MemoryHandle;
use super::home_of;
use super::meaning::JobState;
use super::model_process::{ModelError, ModelState};
use super::words::Kept;
use super::writer::Writer;
use super::writing_watch::WritingWatch;
use crate::platform;
use crate::tasks::TaskGroup;

/// Silence of those who write, after which the device counts as idle.
const QUIET: Duration = Duration::from_secs(30);
/// The same where a model is to write at once.
const QUIET_AT_ONCE: Duration = Duration::from_millis(500);
/// Longest wait for that silence.
const QUIET_WITHIN: Duration = Duration::from_mins(10);
/// Pause after trouble; it doubles with each until [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(5);
/// Longest pause after trouble.
const PAUSE_MAX: Duration = Duration::from_hours(6);
/// Interval at which is looked if a model has come or gone, and if the device is idle by now.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Starts the job for the memory of the mesh's home. It does nothing until there is a model that writes, and nothing at all
/// where none is to.
pub fn start(memory: &MemoryHandle, writer: Writer, when: When, view: watch::Receiver<Arc<View>>, tasks: &TaskGroup) {
    let (told, job) = watch::channel((JobState::NoModel, Kept::default()));
    memory.use_writing(WritingWatch { writer: writer.clone(), when, job });
    if when == When::Never {
        told.send_replace((JobState::Idle, Kept::default()));
        return;
    }
    let work = Job { memory: memory.clone(), writer, when, view, told, troubles: 0 };
    let stop = tasks.stopping();
    tasks.spawn(async move {
        stop.run_until_cancelled(work.run()).await;
    });
}

struct Job {
    memory: MemoryHandle,
    writer: Writer,
    when: When,
    view: watch::Receiver<Arc<View>>,
    told: watch::Sender<(JobState, Kept)>,
    /// Failures since something last went well.
    troubles: u32,
}

/// Why there is nothing more to do for now.
enum Pause {
    Done,
    /// Others need the machine.
    Busy,
    Trouble(String),
    Closed,
}

impl Job {
    async fn run(mut self) {
        let mut written = self.memory.watch_written();
        // What an earlier run has left is looked for once.
        let mut due = true;
        loop {
            let entry = self.writer.files().writer();
            let workspace = home_of(&self.view.borrow().mesh);
            if entry.is_none() {
                self.tell(JobState::NoModel);
                due = true;
            } else if !due {
                self.tell(JobState::Idle);
            }
            if let Some(entry) = entry.filter(|entry| due && self.memory.is_kept(workspace) && self.may(entry)) {
                let quiet = if self.when == When::AtOnce { QUIET_AT_ONCE } else { QUIET };
                let silence = async { while timeout(quiet, written.changed()).await.is_ok_and(|told| told.is_ok()) {} };
                let _ = timeout(QUIET_WITHIN, silence).await;
                match self.all(entry, workspace).await {
                    Pause::Done => due = false,
                    Pause::Busy => sleep(LOOK_EVERY).await,
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

    /// True if a model may write now.
    fn may(&self, entry: &Entry) -> bool {
        self.when == When::AtOnce || platform::is_at_leisure(entry.memory_bytes)
    }

    /// Writes until no summary waits.
    async fn all(&mut self, entry: &'static Entry, workspace: WorkspaceId) -> Pause {
        let model = entry.id();
        loop {
            if !self.may(entry) {
                return Pause::Busy;
            }
            // One that rests would be counted as one that fails.
            if let ModelState::Resting { why, until } = self.writer.state()
                && Instant::now() < until
            {
                self.tell(JobState::Waiting { why });
                sleep_until(until).await;
            }
            let reading = match self.memory.run(workspace, move |it| it.begin_words(model)).await {
                Ok(Some(reading)) => reading,
                Ok(None) => return Pause::Done,
                Err(MemoryError::Closed) => return Pause::Closed,
                Err(error) => return Pause::Trouble(error.to_string()),
            };
            self.tell(JobState::Running);
            match self.one(workspace, reading).await {
                Ok(kept) => {
                    self.troubles = 0;
                    self.told.send_modify(|(_, all)| *all = all.plus(kept));
                }
                Err(Trouble::Model(ModelError::Closed) | Trouble::Memory(MemoryError::Closed)) => return Pause::Closed,
                Err(Trouble::Model(ModelError::NoModel)) => return Pause::Done,
                // It rests now, for longer each time.
                Err(Trouble::Model(error)) => self.tell(JobState::Waiting { why: error.to_string() }),
                Err(Trouble::Memory(error)) => return Pause::Trouble(error.to_string()),
            }
        }
    }

    async fn one(&self, workspace: WorkspaceId, reading: Reading) -> Result<Kept, Trouble> {
        let (model, head) = self.writer.write(reading.head()).await.map_err(Trouble::Model)?;
        let (of_facts, facts) = self.writer.write(reading.facts()).await.map_err(Trouble::Model)?;
        let facts = Some(facts.as_str()).filter(|_| of_facts == model);
        let taken = reading.take(model, Some(&head), facts);
        self.memory.run(workspace, move |it| it.keep_words(&reading, taken)).await.map_err(Trouble::Memory)
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
