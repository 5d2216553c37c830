//! Age of the store: what may be forgotten is decided by this and by no wall clock, which somebody may
//! set, or which begins again at every start (`docs/protocol.md`, Calls).

use crate::effects::Effects;
use crate::io::Now;
use crate::rows;

/// A crash may lose so much of the age; what is to be kept is kept for longer then.
const SAVED_EVERY_MS: u64 = 60_000;

/// Milliseconds during which a process of this store ran, over all its starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Age {
    at_boot: u64,
    booted: u64,
    saved: u64,
}

impl Age {
    /// `stored` is what the last process saved. A new store's age begins at its wall clock, right or wrong.
    pub(crate) fn restore(stored: Option<u64>, now: Now) -> Self {
        let at_boot = stored.unwrap_or(now.wall_ms);
        Self { at_boot, booted: now.mono_ms, saved: stored.unwrap_or(0) }
    }

    pub(crate) fn at(self, now: Now) -> u64 {
        self.at_boot + now.mono_ms.saturating_sub(self.booted)
    }

    /// Goes along with what is written anyway.
    pub(crate) fn save(&mut self, fx: &mut Effects<'_>) {
        if !fx.writes.is_empty() && fx.age_ms >= self.saved + SAVED_EVERY_MS {
            self.saved = fx.age_ms;
            fx.put(rows::age(), &self.saved);
        }
    }
}
