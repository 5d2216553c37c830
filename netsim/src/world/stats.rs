//! Statistics of a run.

use std::collections::BTreeMap;

/// Figures of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stats {
    pub(crate) virtual_us: u64,
    pub(crate) events: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) runs: u64,
    /// Endings at the origins, by word; a star marks those that the target has not confirmed.
    pub(crate) endings: BTreeMap<String, u64>,
    /// Times to settle after the faults and after the healing.
    pub(crate) settle_us: Vec<u64>,
    pub(crate) epochs_led: u64,
    /// Undisturbed changes of leader: whether the old one was asked to stop, class of the new one, how long nobody led.
    pub(crate) takeovers: Vec<(bool, u8, u64)>,
}
