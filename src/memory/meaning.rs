//! The way to the model: for questions, and for whoever wants to know how the vectors are coming along.

use std::time::Duration;

use memory_core::ids::ModelId;
use memory_models::catalogue::Entry;
use tokio::sync::watch;
use tokio::time::timeout;

use super::embedder::Embedder;
use super::model_process::ModelState;
use super::vectors::Progress;

/// Longest wait of a question for its vector; then the words count.
const QUESTION_WITHIN: Duration = Duration::from_millis(1_500);

/// State of the job.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum JobState {
    /// There is no model on this device: words alone count.
    #[default]
    NoModel,
    /// There is nothing to do.
    Idle,
    /// Vectors are made.
    Running,
    /// The model failed, or memory did; it is tried again.
    Waiting {
        /// What went wrong.
        why: String,
    },
}

/// How the vectors of a workspace are coming along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedding {
    /// The model of this device; `None` without one.
    pub model: Option<&'static str>,
    /// State of the job.
    pub job: JobState,
    /// State of the model's process.
    pub process: ModelState,
    /// All that have a vector.
    pub progress: Progress,
    /// Vectors that this agent has made since it started.
    pub made: u64,
}

/// The way to the model, for questions and for the job. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Meaning {
    embedder: Embedder,
    job: watch::Receiver<(JobState, u64)>,
}

impl Meaning {
    pub(super) fn new(embedder: Embedder, job: watch::Receiver<(JobState, u64)>) -> Self {
        Self { embedder, job }
    }

    /// The vector of a question, and of which model; `None` when there is none in time.
    pub async fn of_question(&self, text: &str) -> Option<(ModelId, Vec<f32>)> {
        self.embedder.files().in_use()?;
        match timeout(QUESTION_WITHIN, self.embedder.question(text)).await {
            Ok(Ok(mut embedded)) => Some((embedded.model, embedded.vectors.pop()?)),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// The model of this device.
    #[must_use]
    pub fn model(&self) -> Option<&'static Entry> {
        self.embedder.files().in_use()
    }

    /// What went wrong with the model, while it is left alone.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match self.embedder.state() {
            ModelState::Resting { why, .. } => Some(why),
            ModelState::Asleep | ModelState::Loading | ModelState::Ready => None,
        }
    }

    /// How the vectors are coming along, beside what the workspace says of them.
    #[must_use]
    pub fn embedding(&self, progress: Progress) -> Embedding {
        let (job, made) = self.job.borrow().clone();
        let model = self.model().map(|entry| entry.name);
        // What the job saw last may be older than what is on the disk now.
        let job = if model.is_none() { JobState::NoModel } else { job };
        Embedding { model, job, process: self.embedder.state(), progress, made }
    }
}
