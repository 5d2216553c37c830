//! The one place that spawns: every task belongs to a group that can be told to stop, and then be ended.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one peer. Two signals: *stop* (take no new work, finish what is in hand) and *kill* (drop the rest).
#[derive(Debug, Clone, Default)]
pub struct TaskGroup {
    stop: CancellationToken,
    kill: CancellationToken,
    tracker: TaskTracker,
}

impl TaskGroup {
    /// Starts a task of this group.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.tracker.spawn(async move {
            kill.run_until_cancelled(task).await;
        });
    }

    /// Resolves when tasks should take no new work.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells the tasks to stop, waits for `grace`, then ends what is left. True when nothing had to be ended.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        let clean = tokio::time::timeout(grace, self.tracker.wait()).await.is_ok();
        self.kill.cancel();
        self.tracker.wait().await;
        clean
    }
}
