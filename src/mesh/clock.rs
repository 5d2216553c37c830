//! The one place that reads the clocks: wall time, and monotonic time that counts while the machine sleeps.
//!
//! Pauses and deadlines within one task are the runtime's (`tokio::time`); none of them outlives a suspend.

use std::time::{Duration, SystemTime};

use mesh_core::io::Now;

use crate::platform;

/// Longest sleep in one piece. The timers of the runtime stand still while the machine sleeps, so a wait is looked at
/// again at least this often: a wake from suspend is noticed within half a second, for two wake-ups a second.
const SLICE: Duration = Duration::from_millis(500);

/// The time now. `mono_ms` counts while the machine sleeps and never goes back.
#[must_use]
pub fn now() -> Now {
    Now { mono_ms: platform::boottime_ms(), wall_ms: wall_ms() }
}

/// Begins to measure how long this process computes.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module reads the clocks")]
pub fn stopwatch() -> std::time::Instant {
    std::time::Instant::now()
}

/// Sleeps until [`now`] reaches `mono_ms`; for ever when there is none. Returns at once when it is over already.
///
/// # Cancel safety
/// Holds nothing.
pub async fn sleep_until(mono_ms: Option<u64>) {
    let Some(deadline) = mono_ms else { return std::future::pending().await };
    loop {
        let left = deadline.saturating_sub(platform::boottime_ms());
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(left).min(SLICE)).await;
    }
}

/// Wall time as the world sees it: `2026-01-31T12:00:00.123Z`. Times beyond the year 9999 are cut to the last one.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    let stamp = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", stamp.unwrap_or(jiff::Timestamp::MAX))
}

/// Wall time for what the operating system compares with its own: times of files.
#[must_use]
pub fn system_time() -> SystemTime {
    SystemTime::now()
}

fn wall_ms() -> u64 {
    // A clock before 1970 is broken; the hybrid clock of the core copes with any value.
    let since = system_time().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    ms.saturating_add_signed(test_offset_ms())
}

#[cfg(feature = "fault-points")]
fn test_offset_ms() -> i64 {
    static OFFSET: std::sync::LazyLock<i64> = std::sync::LazyLock::new(|| {
        std::env::var("SIGIL_TEST_WALL_OFFSET_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    });
    *OFFSET
}

#[cfg(not(feature = "fault-points"))]
const fn test_offset_ms() -> i64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_767_225_600_120), "2026-01-01T00:00:00.120Z");
        assert!(rfc3339(u64::MAX).starts_with("9999-12-"));
    }

    #[tokio::test]
    async fn sleeping_lasts_until_the_time_has_come() {
        let deadline = now().mono_ms + 20;
        sleep_until(Some(deadline)).await;
        assert!(now().mono_ms >= deadline);
        sleep_until(Some(0)).await;
        let forever = tokio::time::timeout(Duration::from_millis(20), sleep_until(None)).await;
        assert!(forever.is_err());
    }
}
