//! The settings that run, as the doors see them, and the way to have them read anew.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::Rate;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Stamp;
use crate::status::{ErrorCode, OpError};

/// Settings that the agent has taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Time to live of a call that names none: `[calls] ttl`.
    pub call_ttl: Duration,
    /// Bytes that must be free on the disk for new work, where somebody set it: `[storage] free_min`.
    pub free_min: Option<u64>,
    /// Calls of one tool that one asker may make at this device: `[calls] rate`, as the agent was started with.
    pub call_rate: Option<Rate>,
    /// The file as it was when it was read; `None` = there was none.
    pub stamp: Option<Stamp>,
    /// Settings in it that are hardly meant.
    pub warnings: Vec<String>,
    /// Keys that were changed and take effect at the next start.
    pub at_next_start: Vec<String>,
}

/// All that a reload has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose new values are in use.
    pub changed: Vec<String>,
    /// Keys whose new values take effect at the next start.
    pub at_next_start: Vec<String>,
    /// Settings in the file that are hardly meant.
    pub warnings: Vec<String>,
}

/// A reload that somebody waits for. The error leaves everything as it was.
pub type ReloadRequest = oneshot::Sender<Result<Reloaded, OpError>>;

/// The settings of a running agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Settings {
    loaded: watch::Receiver<Arc<Loaded>>,
    reloads: mpsc::Sender<ReloadRequest>,
}

impl Settings {
    /// Shows what `loaded` holds, and hands requests to the reader of `reloads`.
    #[must_use]
    pub fn new(loaded: watch::Receiver<Arc<Loaded>>, reloads: mpsc::Sender<ReloadRequest>) -> Self {
        Self { loaded, reloads }
    }

    /// Settings that stay as they are: a reload is answered with [`ErrorCode::Stopping`].
    #[must_use]
    pub fn fixed(call_ttl: Duration) -> Self {
        let loaded = Arc::new(Loaded { call_ttl, ..Loaded::default() });
        Self { loaded: watch::channel(loaded).1, reloads: mpsc::channel(1).0 }
    }

    /// The settings of this moment.
    #[must_use]
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.borrow().clone()
    }

    /// Has the file read anew.
    ///
    /// # Errors
    /// [`ErrorCode::Invalid`] with what is wrong in the file, which changes nothing; or the agent is stopping.
    pub async fn reload(&self) -> Result<Reloaded, OpError> {
        let stopping = || OpError::from(crate::mesh::MeshError::Stopping);
        let (reply, answer) = oneshot::channel();
        self.reloads.send(reply).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Findings on the settings, each with the next step: the file is newer than what runs, has parts that wait for the
    /// next start, or parts that mean nothing.
    #[must_use]
    pub fn findings(&self, home: &Path) -> Vec<(String, &'static str)> {
        let loaded = self.loaded();
        let mut found = Vec::new();
        if Stamp::of(home) != loaded.stamp {
            found.push(("sigil.toml is newer than the settings that run".to_owned(), "`sigil reload` takes them"));
        }
        if !loaded.at_next_start.is_empty() {
            let keys = loaded.at_next_start.join(", ");
            found.push((format!("changed settings wait for the next start: {keys}"), "`sigil down`, then `sigil up`"));
        }
        found.extend(loaded.warnings.iter().map(|warning| (warning.clone(), "correct it, then `sigil reload`")));
        found
    }
}

/// The answer to a reload whose file cannot be used.
#[must_use]
pub fn refused(why: &str) -> OpError {
    OpError::new(ErrorCode::Invalid, format!("{why}; the settings stay as they were"))
        .hint("correct sigil.toml, then `sigil reload`")
}
