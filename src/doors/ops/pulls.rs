//! Models that are being fetched, for somebody who has said yes to licence and size. One at a time of each; what has come stays
//! when it breaks off, and the next time goes on from there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memory_models::catalogue::Entry;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::memory::{ModelFiles, models_of};
use crate::model_fetch::{FetchError, pull};
use crate::status::{ErrorCode, OpError};
use crate::tasks::TaskGroup;

/// State of the last time that a model was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pull {
    /// It comes.
    Running {
        /// Bytes of it that are here.
        bytes: u64,
    },
    /// It did not come whole.
    Failed {
        /// Why.
        why: String,
        /// What can be done about it.
        next: Option<&'static str>,
    },
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Pulls(Arc<Shared>);

struct Shared {
    files: ModelFiles,
    tasks: TaskGroup,
    known: Mutex<BTreeMap<&'static str, (Pull, CancellationToken)>>,
}

impl Pulls {
    /// Those of a home; nothing is fetched until somebody says so.
    #[must_use]
    pub fn new(home: &Path, tasks: TaskGroup) -> Self {
        Self(Arc::new(Shared { files: ModelFiles::new(models_of(home)), tasks, known: Mutex::default() }))
    }

    /// How the last time went; `None` when it is whole, and when it was never fetched since the agent started.
    #[must_use]
    pub fn of(&self, entry: &Entry) -> Option<Pull> {
        self.known().get(entry.name).map(|(pull, _)| pull.clone())
    }

    /// Begins to fetch a model, or leaves it to go on.
    ///
    /// # Errors
    /// The agent stops.
    pub fn begin(&self, entry: &'static Entry) -> Result<(), OpError> {
        let mut known = self.known();
        if matches!(known.get(entry.name), Some((Pull::Running { .. }, _))) {
            return Ok(());
        }
        let ended = self.0.tasks.stopping().child_token();
        known.insert(entry.name, (Pull::Running { bytes: 0 }, ended.clone()));
        let (pulls, runtime) = (self.clone(), Handle::current());
        // It writes, syncs and hashes what is large: on a thread of its own.
        let started = self.0.tasks.thread("model pull", move |_| {
            let fetched = runtime.block_on(ended.run_until_cancelled(pulls.fetch(entry)));
            pulls.note(entry, &ended, fetched);
        });
        if started.is_err() {
            known.remove(entry.name);
            return Err(OpError::new(ErrorCode::Stopping, "the agent is stopping"));
        }
        Ok(())
    }

    /// Ends a fetch that goes on; what has come stays. Nothing is known of it afterwards.
    pub fn end(&self, entry: &Entry) {
        if let Some((_, ended)) = self.known().remove(entry.name) {
            ended.cancel();
        }
    }

    async fn fetch(&self, entry: &'static Entry) -> Result<(), FetchError> {
        let mut before: BTreeMap<&'static str, u64> = BTreeMap::new();
        pull(&self.0.files, entry, source().as_deref(), |file, bytes| {
            before.insert(file.name, bytes);
            let bytes = before.values().sum();
            if let Some((pull @ Pull::Running { .. }, _)) = self.known().get_mut(entry.name) {
                *pull = Pull::Running { bytes };
            }
        })
        .await
    }

    fn note(&self, entry: &Entry, ended: &CancellationToken, fetched: Option<Result<(), FetchError>>) {
        let mut known = self.known();
        // Another may have begun since this one was ended.
        if ended.is_cancelled() {
            return;
        }
        match fetched {
            Some(Err(error)) => {
                tracing::warn!(model = entry.name, error = &error as &dyn std::error::Error, "a model was not fetched");
                let failed = Pull::Failed { why: error.to_string(), next: error.next() };
                if let Some((pull, _)) = known.get_mut(entry.name) {
                    *pull = failed;
                }
            }
            Some(Ok(())) | None => drop(known.remove(entry.name)),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<&'static str, (Pull, CancellationToken)>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pulls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulls").field("known", &self.known().len()).finish_non_exhaustive()
    }
}

/// Where models are had; a test has its own server.
fn source() -> Option<String> {
    #[cfg(feature = "fault-points")]
    if let Ok(url) = std::env::var("SIGIL_TEST_MODEL_SOURCE") {
        return Some(url);
    }
    None
}
