//! The containers of one plugin: some are started before a call comes, each call gets one, and none outlives its work.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{Instance, Order, Runtime, RuntimeError};
use crate::tasks::TaskGroup;

/// For how long containers of a plugin live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lives {
    /// For one call; so many are started ahead.
    Call {
        /// Their number.
        warm: usize,
    },
    /// For many calls, all in one.
    Shared {
        /// Time without a call after which it is stopped; `None`: never.
        idle: Option<Duration>,
    },
}

/// The containers of one plugin. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Arc<dyn Runtime>,
    order: Order,
    lives: Lives,
    tasks: TaskGroup,
    held: Mutex<Held>,
    /// Held while the one container of all calls is started: there is one start at a time.
    starting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    /// Those that wait for a call.
    ready: VecDeque<Instance>,
    /// True while some are started ahead.
    filling: bool,
    /// The one for all calls, with the number of those that it had.
    common: Option<(Arc<Instance>, u64)>,
    closed: bool,
}

/// A container in the hands of a call.
pub struct Lease {
    instance: Option<Arc<Instance>>,
    pool: Pool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("lives", &self.shared.lives).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Pool {
    /// An empty one. Containers are started when they are needed, or by [`Self::fill`].
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, order: Order, lives: Lives, tasks: TaskGroup) -> Self {
        let (held, starting) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { shared: Arc::new(Shared { runtime, order, lives, tasks, held, starting }) }
    }

    /// What containers are made of.
    #[must_use]
    pub fn order(&self) -> &Order {
        &self.shared.order
    }

    /// A container for a call.
    ///
    /// # Errors
    /// None can be started.
    pub async fn take(&self) -> Result<Lease, RuntimeError> {
        let instance = match self.shared.lives {
            Lives::Call { .. } => {
                let waiting = self.waiting();
                // The next call finds one again.
                self.fill();
                match waiting {
                    Some(instance) => Arc::new(instance),
                    None => Arc::new(self.start().await?),
                }
            }
            Lives::Shared { .. } => self.common().await?,
        };
        Ok(Lease { instance: Some(instance), pool: self.clone() })
    }

    /// Starts containers ahead, one after the other, until there are as many as there should be.
    pub fn fill(&self) {
        let Lives::Call { warm } = self.shared.lives else { return };
        let lacks = move |held: &Held| !held.closed && held.ready.len() < warm;
        {
            let mut held = self.held();
            if held.filling || !lacks(&held) {
                return;
            }
            held.filling = true;
        }
        let pool = self.clone();
        let stopping = self.shared.tasks.stopping();
        self.shared.tasks.spawn(async move {
            loop {
                let started = stopping.run_until_cancelled(pool.start()).await;
                let mut held = pool.held();
                match started {
                    Some(Ok(instance)) if !held.closed => held.ready.push_back(instance),
                    Some(Ok(instance)) => {
                        drop(held);
                        return pool.end(instance);
                    }
                    // A call that needs one says why there is none.
                    Some(Err(_)) | None => {
                        held.filling = false;
                        return;
                    }
                }
                if !lacks(&held) {
                    held.filling = false;
                    return;
                }
            }
        });
    }

    /// Ends all that wait. What is in hand stays with its calls; nothing is started ahead any more.
    pub async fn close(&self) {
        let Held { ready, common, .. } = mem::replace(&mut *self.held(), Held { closed: true, ..Held::default() });
        let mut left: Vec<Instance> = ready.into();
        left.extend(common.and_then(|(common, _)| Arc::into_inner(common)));
        futures_util::future::join_all(left.into_iter().map(|instance| self.shared.runtime.stop(instance))).await;
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that waits and still lives.
    fn waiting(&self) -> Option<Instance> {
        loop {
            let instance = self.held().ready.pop_front()?;
            if instance.lives() {
                return Some(instance);
            }
            self.end(instance);
        }
    }

    /// Starts one, in a task of its own: a start that nobody waits for any more is not left half done.
    async fn start(&self) -> Result<Instance, RuntimeError> {
        let (done, started) = oneshot::channel();
        let pool = self.clone();
        self.shared.tasks.spawn(async move {
            let started = pool.shared.runtime.start(&pool.shared.order).await;
            if let Err(Ok(instance)) = done.send(started) {
                pool.keep(instance);
            }
        });
        started.await.unwrap_or_else(|_| Err(RuntimeError::NotStarted("this agent is stopping".to_owned())))
    }

    /// Keeps one that nobody waits for, if there is room.
    fn keep(&self, instance: Instance) {
        let mut held = self.held();
        match self.shared.lives {
            Lives::Call { warm } if !held.closed && held.ready.len() < warm => held.ready.push_back(instance),
            Lives::Call { .. } | Lives::Shared { .. } => {
                drop(held);
                self.end(instance);
            }
        }
    }

    async fn common(&self) -> Result<Arc<Instance>, RuntimeError> {
        let _one_at_a_time = self.shared.starting.lock().await;
        let dead = {
            let mut held = self.held();
            match &mut held.common {
                Some((instance, calls)) if instance.lives() => {
                    *calls += 1;
                    return Ok(instance.clone());
                }
                Some(_) | None => held.common.take(),
            }
        };
        if let Some(instance) = dead.and_then(|(dead, _)| Arc::into_inner(dead)) {
            self.end(instance);
        }
        let instance = Arc::new(self.start().await?);
        let mut held = self.held();
        if !held.closed {
            held.common = Some((instance.clone(), 1));
        }
        Ok(instance)
    }

    /// Ends one, beside whoever asks.
    fn end(&self, instance: Instance) {
        let runtime = self.shared.runtime.clone();
        self.shared.tasks.spawn(async move { runtime.stop(instance).await });
    }

    /// A call has given a container back.
    fn back(&self, instance: Arc<Instance>) {
        match self.shared.lives {
            Lives::Call { .. } => {
                if let Some(instance) = Arc::into_inner(instance) {
                    self.end(instance);
                }
            }
            Lives::Shared { idle } => {
                // The last hold on one that was replaced, or outlived its pool.
                if let Some(instance) = Arc::into_inner(instance) {
                    return self.end(instance);
                }
                let Some(idle) = idle else { return };
                let Some(calls) = self.held().common.as_ref().map(|(_, calls)| *calls) else { return };
                let (pool, stopping) = (self.clone(), self.shared.tasks.stopping());
                self.shared.tasks.spawn(async move {
                    if stopping.run_until_cancelled(sleep(idle)).await.is_none() {
                        return;
                    }
                    let unused =
                        |(instance, had): &mut (Arc<Instance>, u64)| *had == calls && Arc::strong_count(instance) == 1;
                    let common = pool.held().common.take_if(unused);
                    if let Some(instance) = common.and_then(|(instance, _)| Arc::into_inner(instance)) {
                        pool.end(instance);
                    }
                });
            }
        }
    }
}

impl Lease {
    /// The container.
    ///
    /// # Panics
    /// Never: it is there until this is dropped.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        self.instance.as_ref().expect("it is taken by its drop alone")
    }

    /// What runs it.
    #[must_use]
    pub fn runtime(&self) -> &dyn Runtime {
        &*self.pool.shared.runtime
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.pool.back(instance);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use futures_util::future::BoxFuture;
    use tokio::sync::watch;

    use super::*;
    use crate::plugin::{ContainerConfig, Image, read};
    use crate::runtime::container::facts::{EngineState, ImageFacts};

    /// Containers that are a socket each, whose other ends are here.
    #[derive(Default)]
    struct Fake {
        started: Mutex<Vec<UnixStream>>,
        stopped: watch::Sender<usize>,
    }

    impl Runtime for Fake {
        fn state(&self) -> watch::Receiver<EngineState> {
            watch::channel(EngineState::Looking).1
        }

        fn image<'a>(&'a self, _: &'a Image) -> BoxFuture<'a, Result<Option<ImageFacts>, RuntimeError>> {
            Box::pin(async { Ok(None) })
        }

        fn pull<'a>(
            &'a self,
            _: &'a Image,
            _: &'a mut (dyn FnMut(String) + Send),
        ) -> BoxFuture<'a, Result<(), RuntimeError>> {
            Box::pin(async { Ok(()) })
        }

        fn start<'a>(&'a self, _: &'a Order) -> BoxFuture<'a, Result<Instance, RuntimeError>> {
            Box::pin(async {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let mut started = self.started.lock().unwrap();
                started.push(theirs);
                Ok(Instance::new(started.len().to_string(), ours, None))
            })
        }

        fn stop(&self, instance: Instance) -> BoxFuture<'_, ()> {
            drop(instance);
            self.stopped.send_modify(|count| *count += 1);
            Box::pin(std::future::ready(()))
        }
    }

    impl Fake {
        fn count(&self) -> usize {
            self.started.lock().unwrap().len()
        }

        async fn stopped(&self, count: usize) {
            let mut stopped = self.stopped.subscribe();
            tokio::time::timeout(Duration::from_secs(5), stopped.wait_for(|now| *now == count)).await.unwrap().unwrap();
        }
    }

    fn pool(lives: Lives) -> (Arc<Fake>, Pool) {
        let manifest = "{name: x, execution: {image: a/b}, tools: [{name: run}]}";
        let config = ContainerConfig::from_manifest(&read(manifest).unwrap().plugin).unwrap();
        let order = Order { config, image: ImageFacts::default(), provider: "x".to_owned() };
        let fake = Arc::new(Fake::default());
        (fake.clone(), Pool::new(fake, order, lives, TaskGroup::default()))
    }

    async fn ready(pool: &Pool, count: usize) {
        while pool.held().ready.len() != count || pool.held().filling {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_call_gets_one_that_waits_and_the_next_is_started() {
        let (fake, pool) = pool(Lives::Call { warm: 2 });
        pool.fill();
        ready(&pool, 2).await;
        let lease = pool.take().await.unwrap();
        assert_eq!(lease.instance().name, "1");
        ready(&pool, 2).await;
        assert_eq!(fake.count(), 3);
        drop(lease);
        fake.stopped(1).await;
        // One that has died while it waited is nobody's.
        fake.started.lock().unwrap()[1].shutdown(std::net::Shutdown::Both).unwrap();
        let lease = pool.take().await.unwrap();
        assert_eq!(lease.instance().name, "3");
        fake.stopped(2).await;
        ready(&pool, 2).await;
        pool.close().await;
        fake.stopped(4).await;
        drop(lease);
        fake.stopped(5).await;
        assert_eq!(fake.count(), 5, "nothing is left, and nothing more is started");
    }

    #[tokio::test(start_paused = true)]
    async fn one_for_all_calls_is_ended_when_it_is_idle() {
        let (fake, pool) = pool(Lives::Shared { idle: Some(Duration::from_mins(5)) });
        pool.fill();
        let (one, two) = (pool.take().await.unwrap(), pool.take().await.unwrap());
        assert_eq!((one.instance().name.as_str(), two.instance().name.as_str(), fake.count()), ("1", "1", 1));
        drop(one);
        tokio::time::sleep(Duration::from_mins(6)).await;
        assert_eq!(*fake.stopped.borrow(), 0, "a call still runs in it");
        drop(two);
        tokio::time::sleep(Duration::from_mins(6)).await;
        assert_eq!(*fake.stopped.borrow(), 1);
        assert_eq!(pool.take().await.unwrap().instance().name, "2");
    }

    #[tokio::test]
    async fn a_start_that_nobody_waits_for_is_not_lost() {
        let (fake, pool) = pool(Lives::Call { warm: 1 });
        drop(pool.take());
        let taken = tokio::time::timeout(Duration::ZERO, pool.take()).await;
        drop(taken);
        ready(&pool, 1).await;
        pool.close().await;
        let count = fake.count();
        fake.stopped(count).await;
    }
}
