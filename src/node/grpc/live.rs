//! The server of a plugin that answers now, the runs in it, and those that wait for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use mesh_core::ids::ToolName;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::secrets::Redactor;

/// The server that answers now, if there is one.
#[derive(Default)]
pub(super) struct Present {
    live: watch::Sender<Option<Arc<Live>>>,
    /// A call waits for the server.
    wanted: Notify,
}

impl Present {
    /// A server that takes a run, and a place in it.
    pub(super) async fn live(&self) -> (Arc<Live>, AtWork) {
        let mut live = self.live.subscribe();
        let takes = |live: &Option<Arc<Live>>| live.as_ref().is_some_and(|live| !live.work.borrow().closed);
        if !takes(&live.borrow()) {
            self.wanted.notify_one();
        }
        loop {
            let found = live.wait_for(takes).await.map(|found| found.clone());
            let Ok(found) = found else { return std::future::pending().await };
            if let Some((live, at_work)) = found.and_then(|live| Some((live.clone(), AtWork::of(&live)?))) {
                return (live, at_work);
            }
        }
    }

    /// This one answers from now on; `None`: none does.
    pub(super) fn is(&self, live: Option<Arc<Live>>) {
        let answers = live.is_some();
        self.live.send_replace(live);
        if answers {
            // Whoever wanted it has it now: another is not to be started for that later.
            let _ = self.wanted.notified().now_or_never();
        }
    }

    /// Waits until a call wants one.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

/// A server that answers.
pub(super) struct Live {
    pub(super) channel: Channel,
    /// Names of its tools at the server, by those that they have here.
    pub(super) names: BTreeMap<ToolName, String>,
    pub(super) redactor: Arc<Redactor>,
    pub(super) work: watch::Sender<Work>,
    /// Cancelled, its container is ended at once.
    pub(super) over: CancellationToken,
    /// Cancelled when its container has been ended.
    pub(super) ended: CancellationToken,
}

/// What runs in it.
#[derive(Default)]
pub(super) struct Work {
    running: usize,
    /// Nothing more is taken.
    closed: bool,
}

/// A place among the runs of a server.
pub(super) struct AtWork(Arc<Live>);

impl AtWork {
    fn of(live: &Arc<Live>) -> Option<Self> {
        let entered = live.work.send_if_modified(|work| {
            work.running += usize::from(!work.closed);
            !work.closed
        });
        entered.then(|| Self(live.clone()))
    }

    /// Lets nothing more in, if no other run is in it. True if so.
    pub(super) fn close_if_alone(&self) -> bool {
        self.0.close_if(1)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.work.send_modify(|work| work.running = work.running.saturating_sub(1));
    }
}

impl Live {
    fn close_if(&self, running: usize) -> bool {
        self.work.send_if_modified(|work| {
            work.closed |= work.running <= running;
            work.closed
        })
    }

    /// Waits until nothing has run in it for so long, and lets nothing in any more then.
    pub(super) async fn idle(&self, after: Option<Duration>) {
        let Some(after) = after else { return std::future::pending().await };
        let mut work = self.work.subscribe();
        loop {
            let quiet = work.borrow_and_update().running == 0;
            tokio::select! {
                changed = work.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = sleep(after), if quiet => if self.close_if(0) {
                    return;
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    fn live() -> Arc<Live> {
        Arc::new(Live {
            channel: tonic::transport::Endpoint::from_static("http://tool").connect_lazy(),
            names: BTreeMap::new(),
            redactor: Arc::default(),
            work: watch::Sender::default(),
            over: CancellationToken::new(),
            ended: CancellationToken::new(),
        })
    }

    #[tokio::test]
    async fn a_server_is_closed_by_the_one_run_that_is_alone_in_it() {
        let live = live();
        let (one, two) = (AtWork::of(&live).unwrap(), AtWork::of(&live).unwrap());
        assert!(!one.close_if_alone(), "another runs in it");
        drop(two);
        assert!(one.close_if_alone());
        assert!(AtWork::of(&live).is_none(), "nothing is let in any more");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_idle_once_nothing_has_run_for_a_while() {
        let live = live();
        let began = Instant::now();
        let (minute, of) = (Duration::from_mins(1), live.clone());
        let work = async {
            sleep(minute / 2).await;
            let at_work = AtWork::of(&live).unwrap();
            sleep(minute * 3).await;
            drop(at_work);
        };
        tokio::join!(of.idle(Some(minute)), work);
        assert_eq!(began.elapsed(), minute * 4 + minute / 2);
        assert!(AtWork::of(&live).is_none());
        assert!(timeout(minute * 1000, live.idle(None)).await.is_err(), "without a limit it never is");
    }
}
