//! The clock of the stage, and waiting by it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::fail::Fail;

/// Between two looks at a condition.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The clock of the stage.
#[expect(clippy::disallowed_methods, reason = "this is no part of the product, and runs on an awake machine")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Set once a person wants no more.
pub(super) fn interrupted() -> &'static Arc<AtomicBool> {
    static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    INTERRUPTED.get_or_init(Arc::default)
}

/// Looks until `look` gives a value; nothing when that takes longer than `within`.
pub(super) fn wait_for<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Result<Option<T>, Fail> {
    let began = now();
    loop {
        if interrupted().load(Ordering::Relaxed) {
            return Err(Fail::Interrupted);
        }
        if let Some(value) = look() {
            return Ok(Some(value));
        }
        if began.elapsed() >= within {
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Lets time pass.
pub(super) fn pause(time: Duration) -> Result<(), Fail> {
    wait_for(time, || None::<()>).map(drop)
}
