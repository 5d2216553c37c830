//! Tells which directories and programs of the settings are not there.

use std::time::Duration;

use futures_util::future::join_all;

use crate::config::{Config, Warning, named};
use crate::tasks::{Strays, TaskGroup};

/// Time after which something that does not answer is told as such.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// Looks at once.
const LOOKS_MAX: usize = 16;

/// Looks at all that the settings name, and hands on a warning for each that is missing or does not answer. Beside the
/// start, and on threads that nobody waits for: a dead disk holds neither the start nor the end.
pub(super) fn start(config: &Config, tasks: &TaskGroup, mut warn: impl FnMut(&Warning) + Send + 'static) {
    let (named, threads) = (named(config), Strays::new("look", LOOKS_MAX));
    tasks.spawn(async move {
        let looks = named.into_iter().map(async |named| {
            let silent = named.silent();
            let look = threads.run(move || named.look());
            match tokio::time::timeout(LOOK_WITHIN, look).await {
                Ok(Ok(warning)) => warning,
                Ok(Err(_)) | Err(_) => Some(silent),
            }
        });
        join_all(looks).await.iter().flatten().for_each(&mut warn);
    });
}
