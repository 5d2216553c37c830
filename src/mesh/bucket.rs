//! A bucket that leaks: what is taken fills it, time empties it, and what it holds may be had at once (ITU-T I.371,
//! "generic cell rate algorithm").

use std::time::Duration;

use tokio::time::Instant;

/// The size of a bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    /// Amount that leaks out of it in [`Self::within`]; at least 1.
    pub(crate) units: u64,
    pub(crate) within: Duration,
    /// All that it holds.
    pub(crate) ahead: u64,
}

impl Flow {
    /// One of which so much leaks in a second, and that holds as much.
    pub(crate) const fn per_s(units: u64) -> Self {
        Self { units, within: Duration::from_secs(1), ahead: units }
    }

    /// Time in which `n` leak.
    fn time(&self, n: u64) -> Duration {
        let nanos = u128::from(n) * self.within.as_nanos() / u128::from(self.units.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    empty_at: Instant,
}

impl Bucket {
    /// One that is empty now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { empty_at: now }
    }

    /// Puts `n` in, over the brim if need be. Answers how long it takes until it holds what is in it.
    pub(crate) fn add(&mut self, flow: &Flow, n: u64, now: Instant) -> Duration {
        self.empty_at = self.empty_at.max(now) + flow.time(n);
        (self.empty_at - now).saturating_sub(flow.time(flow.ahead))
    }

    /// Puts `n` in, if it holds them.
    pub(crate) fn take(&mut self, flow: &Flow, n: u64, now: Instant) -> bool {
        let mut after = *self;
        let fits = after.add(flow, n, now).is_zero();
        if fits {
            *self = after;
        }
        fits
    }

    /// Time until it holds `n` more.
    pub(crate) fn until(mut self, flow: &Flow, n: u64, now: Instant) -> Duration {
        self.add(flow, n, now)
    }

    /// True if it is more than half full.
    pub(crate) fn is_low(&self, flow: &Flow, now: Instant) -> bool {
        self.empty_at.saturating_duration_since(now) > flow.time(flow.ahead) / 2
    }

    /// Time for which it has been empty.
    pub(crate) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.empty_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: Flow = Flow { units: 1, within: Duration::from_secs(4), ahead: 8 };

    #[test]
    fn what_it_holds_is_had_at_once_and_the_rest_as_it_leaks() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        assert_eq!((0..100).filter(|_| bucket.take(&FLOW, 1, now)).count(), 8);
        assert_eq!(bucket.until(&FLOW, 1, now), Duration::from_secs(4));
        assert_eq!(bucket.until(&FLOW, 3, now), Duration::from_secs(12));
        assert!(bucket.take(&FLOW, 3, now + Duration::from_secs(12)));
        assert!(!bucket.take(&FLOW, 1, now + Duration::from_secs(15)));
        let calm = now + Duration::from_mins(5);
        assert_eq!((0..100).filter(|_| bucket.take(&FLOW, 1, calm)).count(), 8, "it holds no more after a pause");
    }

    #[test]
    fn a_flood_gets_fifty_a_second() {
        let (flow, now) = (Flow::per_s(50), Instant::now());
        let mut bucket = Bucket::new(now);
        assert_eq!((0..1000).filter(|_| bucket.take(&flow, 1, now)).count(), 50);
        assert!(bucket.is_low(&flow, now + Duration::from_millis(400)));
        assert!(!bucket.is_low(&flow, now + Duration::from_millis(600)));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| bucket.take(&flow, 1, later)).count(), 50);
    }

    #[test]
    fn over_the_brim_it_tells_how_long_to_wait() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        assert_eq!(bucket.add(&FLOW, 8, now), Duration::ZERO);
        assert!(bucket.is_low(&FLOW, now) && !bucket.is_low(&FLOW, now + Duration::from_secs(16)));
        assert_eq!(bucket.add(&FLOW, 2, now), Duration::from_secs(8));
        assert_eq!(bucket.idle(now + Duration::from_secs(41)), Duration::from_secs(1));
    }
}
