//! Warnings about peers, paced: however often a thing shows, people are told of it once in a while.

use std::collections::BTreeMap;

use mesh_core::ids::PeerId;
use mesh_core::io::Now;
use mesh_core::limits;

/// Time after which the same warning about the same peer is given again.
const AGAIN_MS: u64 = 10 * 60 * 1000;

/// The times at which warnings were given last, for at most [`limits::PEERS_MAX`] of them.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    given: BTreeMap<(&'static str, PeerId), u64>,
}

impl Warnings {
    /// Logs a warning and returns its text for people; `None` if it was given less than 10 min ago.
    pub(super) fn give(&mut self, what: &'static str, peer: PeerId, now: Now) -> Option<String> {
        if self.given.get(&(what, peer)).is_some_and(|last| now.mono_ms < *last + AGAIN_MS) {
            return None;
        }
        self.given.insert((what, peer), now.mono_ms);
        if self.given.len() > limits::PEERS_MAX {
            self.given.pop_first();
        }
        tracing::warn!(peer = %peer, what, "a peer needs attention");
        Some(format!("peer {} {what}", peer.short()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_warning_is_given_again_only_after_a_while() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let at = |mono_ms| Now { mono_ms, wall_ms: 0 };
        let mut warnings = Warnings::default();
        assert!(warnings.give("runs twice", a, at(5)).is_some());
        assert!(warnings.give("runs twice", a, at(AGAIN_MS)).is_none());
        assert!(warnings.give("runs twice", b, at(AGAIN_MS)).is_some());
        assert!(warnings.give("forked its log", a, at(AGAIN_MS)).is_some());
        assert!(warnings.give("runs twice", a, at(AGAIN_MS + 5)).is_some());
    }
}
