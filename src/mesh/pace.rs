//! The pace at which something may go on: so much in a second, and so much at once after a pause.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::bucket::{Bucket, Flow};

/// A pace. What it counts, whoever made it says: bytes, messages, microseconds of work.
#[derive(Debug)]
pub(crate) struct Pace {
    flow: Flow,
    taken: Bucket,
}

impl Pace {
    /// One after a long pause: `ahead` at once, and `per_s` in a second.
    pub(crate) fn new(per_s: u64, ahead: u64) -> Self {
        Self { flow: Flow { units: per_s, within: Duration::from_secs(1), ahead }, taken: Bucket::new(Instant::now()) }
    }

    /// True if all that is ahead may be had at once.
    pub(crate) fn is_rested(&self, now: Instant) -> bool {
        !self.taken.idle(now).is_zero()
    }

    /// Counts so much. Answers how long to wait before the next.
    pub(crate) fn take(&mut self, amount: u64, now: Instant) -> Duration {
        self.taken.add(&self.flow, amount, now)
    }

    /// Counts so much, and waits until that has its time.
    pub(crate) async fn wait(&mut self, amount: u64) {
        let wait = self.take(amount, Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

/// The pace at which the bytes of a stream are read, for its `poll_read`: what has come is taken, and the next waits.
#[derive(Debug)]
pub(crate) struct ReadPace {
    pace: Arc<Mutex<Pace>>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl ReadPace {
    /// The pace of several streams together, or of one.
    pub(crate) fn of(pace: Arc<Mutex<Pace>>) -> Self {
        Self { pace, wait: None }
    }

    /// Ready when the next bytes may be read.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(())
    }

    /// Notes that so many were read.
    pub(crate) fn note(&mut self, bytes: usize) {
        let wait = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(bytes as u64, Instant::now());
        self.wait = (!wait.is_zero()).then(|| Box::pin(sleep(wait)));
    }

    /// True if the next bytes have to wait.
    #[cfg(test)]
    pub(crate) const fn waits(&self) -> bool {
        self.wait.is_some()
    }
}

impl From<Pace> for ReadPace {
    fn from(pace: Pace) -> Self {
        Self::of(Arc::new(Mutex::new(pace)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s31_what_is_ahead_is_free_and_the_rest_takes_its_time() {
        let (mut pace, began) = (Pace::new(2_000, 1_000), Instant::now());
        assert_eq!(pace.take(1_000, began), Duration::ZERO);
        assert_eq!(pace.take(2_000, began), Duration::from_secs(1));
        // Whoever waited for it goes on at the pace.
        assert_eq!(pace.take(2_000, began + Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(pace.take(1, began + Duration::from_secs(9)), Duration::ZERO, "a pause makes up for it");
    }
}
