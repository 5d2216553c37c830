//! The way to the model that writes.

use std::time::Duration;

use memory_core::ids::ModelId;
use memory_core::writing::Told;
use memory_models::catalogue::Entry;
use memory_models::wire::{self, Prompt, Reply, WireError, WriteRequest};

use super::model_files::ModelFiles;
use super::model_process::{ModelError, ModelState, Process, Program, Task, Times};
use crate::tasks::TaskGroup;

/// A small model on one slow core reads a summary in 20 s and writes to it in 20 more; one whose weights are requantised is
/// loaded in 10.
const TIMES: Times =
    Times { load: Duration::from_mins(2), answer: Duration::from_mins(5), idle: Duration::from_mins(2) };

/// Something to write.
struct Writing(Prompt);

impl Task for Writing {
    type Answer = String;

    fn model(files: &ModelFiles) -> Option<&'static Entry> {
        files.writer()
    }

    fn frame(&self, id: u64) -> Result<Vec<u8>, WireError> {
        let request = WriteRequest { id, prompt: self.0.clone() };
        request.check()?;
        wire::frame(&request)
    }

    fn read(&self, id: u64, reply: Reply, _: &Entry) -> Result<String, WireError> {
        reply.words(&WriteRequest { id, prompt: self.0.clone() })
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer(Process<Writing>);

impl Writer {
    /// Starts the task that owns the child; the child itself only when somebody asks.
    #[must_use]
    pub fn start(files: ModelFiles, tasks: &TaskGroup) -> Self {
        Self(Process::start(files, Program::own(), TIMES, tasks))
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

    /// What a model writes to this. It may be anything.
    ///
    /// # Errors
    /// See [`ModelError`].
    ///
    /// # Cancel safety
    /// When dropped, it is not written unless it has been begun.
    pub async fn write(&self, told: Told) -> Result<(ModelId, String), ModelError> {
        let Told { system, user, tokens_max } = told;
        self.0.patient(Writing(Prompt { system, user, tokens_max })).await
    }
}
