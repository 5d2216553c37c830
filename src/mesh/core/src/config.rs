//! Timings and sizes of one peer's core. All times in milliseconds.

use crate::budget::Budgets;
use crate::entry::Kind;
use crate::limits;
use crate::protocol_rule::ProtocolRules;

/// Class of this machine for the election: higher leads sooner. Preference adds 8 (`docs/protocol.md`, Election).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class(pub u8);

impl Class {
    /// A phone: leads only when nobody else can.
    pub const PHONE: Self = Self(0);
    /// A small or metered device.
    pub const SMALL: Self = Self(1);
    /// A laptop.
    pub const LAPTOP: Self = Self(2);
    /// A desktop.
    pub const DESKTOP: Self = Self(3);
    /// An always-on server or NAS.
    pub const SERVER: Self = Self(4);
    /// Added when the owner prefers this device as gateway.
    pub const PREFERRED: u8 = 8;
}

/// Rate at which something may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In a second.
    pub per_s: u64,
    /// At once, after a pause.
    pub burst: u64,
}

impl Rate {
    /// Half of what the doors of one who is no owner take in all (`budget.rs`): whoever floods one tool there leaves the
    /// other half to others.
    pub const PER_S_DEFAULT: u16 = 25;
    /// The burst is that of so many seconds, as that of a budget is.
    const BURST_S: u64 = 4;

    /// So many in a second, and four times as many at once.
    #[must_use]
    pub fn of(per_s: u16) -> Self {
        Self { per_s: per_s.into(), burst: u64::from(per_s) * Self::BURST_S }
    }
}

/// Timings and sizes; the defaults are those of `docs/protocol.md`, Limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// Class of this device.
    pub class: Class,
    /// True if it may lead at all.
    pub eligible: bool,
    /// Between two beacons of a leader.
    pub beacon_ms: u64,
    /// Silence of the leader that is tolerated.
    pub lease_ms: u64,
    /// Silence after which neighbours are asked.
    pub query_after_ms: u64,
    /// Between two rounds of asking.
    pub query_every_ms: u64,
    /// Grace after the link to the gateway went down: two rounds of asking.
    pub link_down_grace_ms: u64,
    /// Claim delay per class below 4.
    pub claim_step_ms: u64,
    /// Upper end of the random part of the claim delay.
    pub claim_jitter_ms: u64,
    /// Wait of the others after a resignation, before their claim delay.
    pub resign_grace_ms: u64,
    /// A wake-up that comes this much late means that the machine slept.
    pub late_wake_ms: u64,
    /// Time that a better neighbour must be linked before it is handed the role.
    pub handover_after_ms: u64,
    /// Least time between the last change of gateway and a handover.
    pub handover_settle_ms: u64,
    /// Between two rounds of anti-entropy with one random neighbour.
    pub sync_every_ms: u64,
    /// First pause before a dispatch is repeated; doubles.
    pub resend_min_ms: u64,
    /// Longest pause before a dispatch is repeated.
    pub resend_max_ms: u64,
    /// Calls that run at once here.
    pub running_max: usize,
    /// Calls that may wait here to be run.
    pub prefetch_max: usize,
    /// Open calls of one (origin, target) that an origin accepts.
    pub open_per_target_max: usize,
    /// Open calls that a peer holds for others; beyond, headers stay with their origins.
    pub queue_max: usize,
    /// Time for which a yes for an hour counts, on a clock that counts while the machine sleeps.
    pub consent_hour_ms: u64,
    /// Calls of one tool that our doors take from one asker who is no owner.
    pub rate: Rate,
    /// Budgets of the authors of entries, ourselves among them.
    pub budgets: Budgets,
    /// Age at which a journal entry may be forgotten: longest TTL + 24 h.
    pub forget_after_ms: u64,
    /// Time that a finished call stays in the books.
    pub keep_calls_ms: u64,
    /// Age from which a device checks that an entry of its own is still needed: longest TTL, what the books keep, and
    /// 24 h.
    pub keep_entries_ms: u64,
    /// Between two such looks.
    pub compact_every_ms: u64,
    /// So many must be dead before the others are told.
    pub compact_min: usize,
    /// The rules that hold: all of them, except in tests of the tests.
    pub rules: ProtocolRules,
    /// Highest [`crate::entry::Kind`] that is understood. Lower than this version's own only where a simulation plays
    /// an older one.
    pub newest_kind: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            class: Class::DESKTOP,
            eligible: true,
            beacon_ms: 300,
            lease_ms: 1_200,
            query_after_ms: 600,
            query_every_ms: 150,
            link_down_grace_ms: 600,
            claim_step_ms: 150,
            claim_jitter_ms: 150,
            resign_grace_ms: 300,
            late_wake_ms: 600,
            handover_after_ms: 30_000,
            handover_settle_ms: 300_000,
            sync_every_ms: 30_000,
            resend_min_ms: 500,
            resend_max_ms: 30_000,
            running_max: 4,
            prefetch_max: 16,
            open_per_target_max: limits::OPEN_PER_TARGET_MAX,
            queue_max: limits::QUEUE_MAX,
            consent_hour_ms: 3_600_000,
            rate: Rate::of(Rate::PER_S_DEFAULT),
            budgets: Budgets::default(),
            forget_after_ms: 8 * 24 * 3600 * 1000,
            keep_calls_ms: 7 * 24 * 3600 * 1000,
            keep_entries_ms: 15 * 24 * 3600 * 1000,
            compact_every_ms: 3_600_000,
            compact_min: 64,
            rules: ProtocolRules::default(),
            newest_kind: Kind::NEWEST.0,
        }
    }
}
