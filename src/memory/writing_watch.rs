//! How a model's words are coming along, for whoever looks.

use memory_core::writing::When;
use tokio::sync::watch;

use super::meaning::JobState;
use super::model_process::ModelState;
use super::words::Kept;
use super::writer::Writer;

/// State of a model's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writing {
    /// When a model writes here.
    pub when: When,
    /// The model of this device; `None` without one.
    pub model: Option<&'static str>,
    /// State of the job.
    pub job: JobState,
    /// State of the model's process.
    pub process: ModelState,
    /// What it came to since the agent started.
    pub kept: Kept,
}

/// The way to see how a model's words are coming along. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WritingWatch {
    pub(super) writer: Writer,
    pub(super) when: When,
    pub(super) job: watch::Receiver<(JobState, Kept)>,
}

impl WritingWatch {
    /// State of a model's words.
    #[must_use]
    pub fn writing(&self) -> Writing {
        let (job, kept) = self.job.borrow().clone();
        let model = self.writer.files().writer().map(|entry| entry.name);
        let job = if model.is_none() { JobState::NoModel } else { job };
        Writing { when: self.when, model, job, process: self.writer.state(), kept }
    }
}
