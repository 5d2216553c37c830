//! Tells which directories and programs of the settings are not there.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::config::{Config, named};
use crate::tasks::{Strays, TaskGroup};

/// Time after which something that does not answer is told as such.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// Looks at once.
const LOOKS_MAX: usize = 16;
/// Warnings that are kept for the starter; the log has all of them.
const WARNINGS_MAX: usize = 64;

/// Looks at all that the settings name, and logs a warning for each that is missing or does not answer; the receiver gets
/// the first [`WARNINGS_MAX`] of them. Beside the start, and on threads that nobody waits for: a dead disk holds neither
/// the start nor the end.
pub(super) fn start(config: &Config, tasks: &TaskGroup) -> mpsc::Receiver<String> {
    let (named, threads) = (named(config), Strays::new("look", LOOKS_MAX));
    let (warnings, told) = mpsc::channel(WARNINGS_MAX);
    tasks.spawn(async move {
        let look = async |named: crate::config::Named| {
            let silent = named.silent();
            match tokio::time::timeout(LOOK_WITHIN, threads.run(move || named.look())).await {
                Ok(Ok(warning)) => warning,
                Ok(Err(_)) | Err(_) => Some(silent),
            }
        };
        let mut looks: FuturesUnordered<_> = named.into_iter().map(look).collect();
        while let Some(looked) = looks.next().await {
            if let Some(warning) = looked {
                tracing::warn!("{warning}");
                // Full, or the start is over: then the log has it.
                let _ = warnings.try_send(warning.to_string());
            }
        }
    });
    told
}
