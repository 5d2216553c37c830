//! The one place that spawns: every task and every thread belongs to a group that can be told to stop, and then be
//! ended; but for threads that may hang in the kernel, which nobody waits for ([`Strays`]).

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for threads to come back once nothing is left that could keep them busy. Nothing can end a thread by force, so
/// one that hangs in the kernel (a dead network disk) is left to the end of the process.
const THREADS_WAIT: Duration = Duration::from_secs(1);

/// The tasks and threads of one peer. Two signals: *stop* (take no new work, finish what is in hand) and *kill* (drop
/// the rest). Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct TaskGroup {
    stop: CancellationToken,
    kill: CancellationToken,
    tracker: TaskTracker,
    threads: Threads,
}

#[derive(Debug, Clone, Default)]
struct Threads {
    running: TaskTracker,
    handles: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl TaskGroup {
    /// Starts a task of this group.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.tracker.spawn(async move {
            kill.run_until_cancelled(task).await;
        });
    }

    /// Starts a thread of this group, called `name` (at most 15 bytes are shown by Linux), for work that blocks.
    ///
    /// `work` gets the token that is cancelled at *stop*. It must come back soon after that, or once the tasks that it
    /// serves are gone: [`Self::shutdown`] joins it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn thread(&self, name: &str, work: impl FnOnce(&CancellationToken) + Send + 'static) -> io::Result<()> {
        let (stop, running) = (self.stop.clone(), self.threads.running.token());
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped last, also when `work` panics.
            let _running = running;
            work(&stop);
        })?;
        let mut handles = self.threads.handles.lock().unwrap_or_else(PoisonError::into_inner);
        // Some come and go for as long as the process runs.
        for ended in handles.extract_if(.., |handle| handle.is_finished()) {
            join(ended);
        }
        handles.push(handle);
        Ok(())
    }

    /// Token that is cancelled when tasks should take no new work.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells tasks and threads to stop, waits for `grace`, ends the tasks that are left, and joins the threads. True
    /// when nothing had to be ended or left behind.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        let clean = tokio::time::timeout(grace, self.tracker.wait()).await.is_ok();
        self.kill.cancel();
        self.tracker.wait().await;
        self.threads.join().await && clean
    }
}

impl Threads {
    async fn join(&self) -> bool {
        self.running.close();
        let ended = tokio::time::timeout(THREADS_WAIT, self.running.wait()).await.is_ok();
        let handles = std::mem::take(&mut *self.handles.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in handles {
            let name = handle.thread().name().unwrap_or_default().to_owned();
            if !ended && !handle.is_finished() {
                tracing::error!(thread = name, "a thread did not stop");
            } else {
                join(handle);
            }
        }
        ended
    }
}

fn join(handle: JoinHandle<()>) {
    let name = handle.thread().name().unwrap_or_default().to_owned();
    if handle.join().is_err() {
        tracing::error!(thread = name, "a thread panicked");
    }
}

/// Longest wait for a place among [`Strays`]: what is at work for longer hangs, and so would what comes after it.
const PLACE_WITHIN: Duration = Duration::from_secs(5);
/// Time for which a thread of [`Strays`] waits for more work before it ends.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Threads for work that may never come back, such as a read of a dead network disk, which nothing can end. They are
/// bounded, and they neither belong to a [`TaskGroup`] nor hold the end of the process. One that has come back takes the
/// next work, for a while: a new thread for each costs more than a look at a disk. Cheap to clone; clones share the
/// threads.
#[derive(Debug, Clone)]
pub struct Strays {
    name: &'static str,
    max: usize,
    places: Arc<Semaphore>,
    patience: Duration,
    idle: Arc<Idle>,
}

/// Work, and the place that it keeps until its thread is idle again.
struct Job {
    work: Box<dyn FnOnce() + Send>,
    place: OwnedSemaphorePermit,
}

/// Threads that wait for work, the one that came back last at the end.
#[derive(Debug, Default)]
struct Idle(Mutex<Vec<(ThreadId, mpsc::SyncSender<Job>)>>);

impl Idle {
    /// Hands work to a thread that waits for it.
    ///
    /// # Errors
    /// The work, when none does.
    fn hand_on(&self, job: Job) -> Result<(), Job> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread looks for work once more after it has left the list, so what is sent to one in the list is done.
        match idle.pop() {
            Some((_, thread)) => thread.send(job).map_err(|mpsc::SendError(job)| job),
            None => Err(job),
        }
    }

    /// Works on a thread of its own until no work has come for [`IDLE_MAX`].
    fn work(&self, first: Job) {
        let own = std::thread::current().id();
        // Whoever hands work on takes the thread out of the list, so there is never more than one piece.
        let (to_own, jobs) = mpsc::sync_channel(1);
        let mut next = Some(first);
        while let Some(Job { work, place }) = next {
            work();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((own, to_own.clone()));
            // After that, so that whoever gets the place finds this thread.
            drop(place);
            next = jobs.recv_timeout(IDLE_MAX).ok().or_else(|| {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(thread, _)| *thread != own);
                jobs.try_recv().ok()
            });
        }
    }
}

/// A reason for which work on a thread of its own gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StrayError {
    /// All places are taken, and none came free within 5 s.
    #[error("{max} earlier calls have not come back")]
    Full {
        /// Number of the places.
        max: usize,
    },
    /// The system gives no thread.
    #[error("no thread for it: {0}")]
    NoThread(#[source] io::Error),
    /// The work panicked.
    #[error("the work broke down")]
    Panicked,
}

impl Strays {
    /// At most `max` threads at once, called `name` (at most 15 bytes are shown by Linux).
    #[must_use]
    pub fn new(name: &'static str, max: usize) -> Self {
        Self { name, max, places: Arc::new(Semaphore::new(max)), patience: PLACE_WITHIN, idle: Arc::default() }
    }

    /// Runs `work` on a thread that does nothing else meanwhile.
    ///
    /// # Errors
    /// See [`StrayError`].
    ///
    /// # Cancel safety
    /// When dropped, the thread goes on alone until its work ends, if it ever does, and keeps its place until then.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StrayError> {
        let full = StrayError::Full { max: self.max };
        let place = tokio::time::timeout(self.patience, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(full) };
        let (done, result) = oneshot::channel();
        // Nobody waits for it any more, perhaps.
        let work = Box::new(move || drop(done.send(work())));
        if let Err(job) = self.idle.hand_on(Job { work, place }) {
            let idle = self.idle.clone();
            let thread = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || idle.work(job));
            thread.map_err(StrayError::NoThread)?;
        }
        result.await.map_err(|_| StrayError::Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn a_thread_is_named_told_to_stop_and_joined() {
        let tasks = TaskGroup::default();
        let (name, mut names) = tokio::sync::mpsc::channel(1);
        let ended = Arc::new(AtomicBool::new(false));
        let at_end = ended.clone();
        tasks
            .thread("worker", move |stop| {
                let _ = name.blocking_send(std::thread::current().name().map(ToOwned::to_owned));
                tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(stop.cancelled());
                at_end.store(true, Ordering::SeqCst);
            })
            .unwrap();
        assert_eq!(names.recv().await.unwrap().as_deref(), Some("worker"));
        assert!(!ended.load(Ordering::SeqCst));
        assert!(tasks.shutdown(Duration::from_secs(10)).await);
        assert!(ended.load(Ordering::SeqCst), "shutdown has waited for it");
    }

    #[tokio::test]
    async fn a_thread_may_serve_tasks_until_they_are_gone() {
        let tasks = TaskGroup::default();
        let (requests, mut inbox) = tokio::sync::mpsc::channel::<()>(1);
        tasks.thread("server", move |_| while inbox.blocking_recv().is_some() {}).unwrap();
        tasks.spawn(async move {
            requests.send(()).await.unwrap();
            std::future::pending::<()>().await;
        });
        // The task is ended by force, and with it goes what the thread waits for.
        assert!(!tasks.shutdown(Duration::from_millis(10)).await);
        assert!(tasks.threads.running.is_empty());
    }

    #[tokio::test]
    async fn b08_work_that_hangs_keeps_its_place_and_nothing_else() {
        // Threads take real time, so a paused clock would run ahead of them.
        let strays = Strays { patience: Duration::from_millis(50), ..Strays::new("stray", 2) };
        assert_eq!(strays.run(|| 7).await.unwrap(), 7);
        assert!(matches!(strays.run(|| panic!("a bug")).await, Err(StrayError::Panicked)));
        let (release, hold) = std::sync::mpsc::sync_channel::<()>(1);
        let hang = strays.run(move || hold.recv().unwrap_or_default());
        assert!(tokio::time::timeout(Duration::from_millis(10), hang).await.is_err());
        assert_eq!(strays.run(|| 8).await.unwrap(), 8, "the other place is free");
        let (release_too, hold) = std::sync::mpsc::sync_channel::<()>(1);
        let hang = strays.run(move || hold.recv().unwrap_or_default());
        assert!(tokio::time::timeout(Duration::from_millis(10), hang).await.is_err());
        assert!(matches!(strays.run(|| 9).await, Err(StrayError::Full { max: 2 })));
        drop((release, release_too));
        while strays.places.available_permits() < 2 {
            std::thread::yield_now();
        }
        assert_eq!(strays.run(|| 10).await.unwrap(), 10, "a disk that is back is a disk again");
    }

    #[tokio::test]
    async fn work_that_comes_back_leaves_its_thread_to_the_next() {
        let strays = Strays::new("stray", 2);
        let on = || std::thread::current().id();
        let first = strays.run(on).await.unwrap();
        while strays.places.available_permits() < 2 {
            std::thread::yield_now();
        }
        assert_eq!(strays.run(on).await.unwrap(), first);
        let both = async || tokio::join!(strays.run(on), strays.run(on));
        for _ in 0..50 {
            both().await.0.unwrap();
        }
        while strays.places.available_permits() < 2 {
            std::thread::yield_now();
        }
        assert!(strays.idle.0.lock().unwrap().len() <= 2, "no more threads than places");
    }

    #[tokio::test]
    async fn a_thread_that_hangs_or_panics_does_not_hold_the_shutdown() {
        let tasks = TaskGroup::default();
        let (release, hold) = std::sync::mpsc::sync_channel::<()>(1);
        tasks.thread("hangs", move |_| hold.recv().unwrap_or_default()).unwrap();
        tasks.thread("panics", |_| panic!("a bug")).unwrap();
        assert!(!tasks.shutdown(Duration::from_secs(10)).await);
        drop(release);
    }
}
