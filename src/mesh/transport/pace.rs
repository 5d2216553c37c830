//! The pace at which frames are read of links to those who are no owners: more than any honest one sends for long, and so
//! little that neither disk nor processor nor the links to others fill with it. What is not read yet waits at the sender.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bucket::{Bucket, Flow};

/// Bytes in a second. A log of a guest that is as long as it may be comes within about a minute.
const BYTES_PER_S: u64 = 2 * 1024 * 1024;
/// Bytes that come at once after a pause: a frame as large as it may be, or a thousand small ones.
const AHEAD_BYTES: u64 = 1024 * 1024;
const FLOW: Flow = Flow { units: BYTES_PER_S, within: Duration::from_secs(1), ahead: AHEAD_BYTES };
/// What the smallest frame counts as: 2,000 of them in a second, a call being about ten.
const FRAME_BYTES_MIN: u64 = 1024;

/// The pace of one link.
#[derive(Debug)]
pub(super) struct Pace(Bucket);

impl Pace {
    /// One after a long pause.
    pub(super) fn new() -> Self {
        Self(Bucket::new(Instant::now()))
    }

    /// Counts a frame of so many bytes. Answers how long to wait before it is looked at.
    fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        self.0.add(&FLOW, (bytes as u64).max(FRAME_BYTES_MIN), now)
    }

    /// Waits until a frame of so many bytes may be looked at.
    pub(super) async fn wait(&mut self, bytes: usize) {
        let wait = self.take(bytes, Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s31_what_is_ahead_is_free_and_the_rest_takes_its_time() {
        let (mut pace, began) = (Pace::new(), Instant::now());
        assert_eq!(pace.take(AHEAD_BYTES as usize, began), Duration::ZERO);
        assert_eq!(pace.take(BYTES_PER_S as usize, began), Duration::from_secs(1));
        // Whoever waited for it goes on at the pace.
        assert_eq!(pace.take(BYTES_PER_S as usize, began + Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(pace.take(1, began + Duration::from_secs(9)), Duration::ZERO, "a pause makes up for it");
        let calm = began + Duration::from_mins(1);
        let waits = (0..10_000).map(|_| pace.take(10, calm)).filter(|wait| !wait.is_zero()).count();
        assert_eq!(waits, 10_000 - (AHEAD_BYTES / FRAME_BYTES_MIN) as usize, "small frames are not free");
    }
}
