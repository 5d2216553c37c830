//! Budgets: how much of this peer one author may fill, by its tier (`docs/protocol.md`, Limits).
//!
//! Of an author that is over its budget the log stops here, and nobody else's does. What is held in all is a hard bound;
//! what comes in an hour bounds live entries only, so that whoever was away catches up at once. An origin holds itself to
//! the same budget when it accepts calls, and others allow twice of it, so an honest one never stops anywhere.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::record::Tier;

/// Others allow an author so many times what it allows itself: their clocks and what they have heard differ.
pub(crate) const TIMES: u64 = 2;

/// A number of entries or calls, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Amount {
    /// Number of entries.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// No limit at all.
    pub const UNLIMITED: Self = Self { entries: u64::MAX, bytes: u64::MAX };

    /// One of so many bytes.
    #[must_use]
    pub const fn one(bytes: u64) -> Self {
        Self { entries: 1, bytes }
    }

    /// Adds another amount.
    pub const fn add(&mut self, other: Self) {
        self.entries = self.entries.saturating_add(other.entries);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    /// Takes another amount away.
    pub const fn take(&mut self, other: Self) {
        self.entries = self.entries.saturating_sub(other.entries);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }

    /// The same so many times.
    #[must_use]
    pub const fn times(self, times: u64) -> Self {
        Self { entries: self.entries.saturating_mul(times), bytes: self.bytes.saturating_mul(times) }
    }

    /// True if this and `more` are within `limit`.
    #[must_use]
    pub const fn has_room(mut self, more: Self, limit: Self) -> bool {
        self.add(more);
        self.entries <= limit.entries && self.bytes <= limit.bytes
    }
}

/// True if an origin that has `own` of `taken` places, of `max`, may take one more. Owners may take every one. Anyone else
/// has at most as many as are free beside one that is left for them, so there is always room for one that has none.
pub(crate) const fn has_place(own: usize, taken: usize, max: usize, by_owner: bool) -> bool {
    let free = max.saturating_sub(taken);
    let left_for_owners = if max > 1 { 1 } else { 0 };
    free > 0 && (by_owner || own < free.saturating_sub(left_for_owners))
}

/// Budget of one author, as it holds itself to it. Others allow twice as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Live entries in an hour, and those that answer its calls.
    pub per_hour: Amount,
    /// Entries of its log, besides answers to calls of others.
    pub log: Amount,
    /// Entries of its log that answer calls of others.
    pub answers: Amount,
    /// Open calls, and the bytes of their headers.
    pub open: Amount,
    /// Calls that are over, and their rows on disk; others keep no more either.
    pub closed: Amount,
    /// Open calls whose arguments are blobs, of which others keep a copy.
    pub blobs: usize,
    /// Attempts in the journal of one target.
    pub journal: usize,
    /// Headers beyond the open ones of which others remember where they stand.
    pub deferred: usize,
    /// Client keys that are bound.
    pub keys: usize,
    /// Calls that its own doors accept in a second, and at once after a pause.
    pub calls_per_s: u64,
    /// See [`Self::calls_per_s`].
    pub burst: u64,
}

/// Budgets by tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Of owners, who can do anything anyway: only places are bounded.
    pub owner: Budget,
    /// Of everyone else.
    pub guest: Budget,
}

impl Default for Budgets {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            owner: Budget {
                per_hour: Amount::UNLIMITED,
                log: Amount { entries: 8_000_000, bytes: 4 * 1024 * MIB },
                answers: Amount { entries: 8_000_000, bytes: 4 * 1024 * MIB },
                open: Amount { entries: 5_000, bytes: 64 * MIB },
                closed: Amount { entries: 8_000_000, bytes: 4 * 1024 * MIB },
                blobs: 1_000,
                journal: usize::MAX,
                deferred: limits::DEFERRED_MAX / 2,
                keys: 100_000,
                calls_per_s: u64::MAX,
                burst: u64::MAX,
            },
            guest: Budget {
                per_hour: Amount { entries: 10_000, bytes: 32 * MIB },
                log: Amount { entries: 100_000, bytes: 64 * MIB },
                answers: Amount { entries: 100_000, bytes: 256 * MIB },
                open: Amount { entries: 500, bytes: 4 * MIB },
                closed: Amount { entries: 100_000, bytes: 64 * MIB },
                blobs: 32,
                journal: 20_000,
                deferred: limits::DEFERRED_MAX / 10,
                keys: 5_000,
                calls_per_s: 50,
                burst: 200,
            },
        }
    }
}

impl Budgets {
    /// The budget of a tier; of one who is no member, the least.
    #[must_use]
    pub const fn of(&self, tier: Option<Tier>) -> &Budget {
        match tier {
            Some(Tier::Owner) => &self.owner,
            Some(Tier::Shared | Tier::Ephemeral) | None => &self.guest,
        }
    }
}

/// Room on the disk that the store is on, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Free for this program.
    pub free: u64,
    /// Below this no new work is taken, and nothing that only guests caused; below half of it only what owners decide, end
    /// or drop.
    pub floor: u64,
}

/// All that somebody has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OverBudget {
    /// Of [`Budget::per_hour`].
    PerHour(u64),
    /// Of [`Budget::log`].
    Log(Amount),
    /// Of [`Budget::answers`].
    Answers(Amount),
    /// Of [`Budget::open`].
    Open(Amount),
    /// Of [`Budget::blobs`].
    Blobs(usize),
    /// Of [`Budget::keys`].
    Keys(usize),
    /// Of [`Budget::calls_per_s`].
    Rate(u64),
    /// An entry is larger than one of its kind may be; bytes.
    EntryBytes(usize),
    /// None of its own: the disk of the receiver is nearly full.
    Disk,
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1024 * 1024;
        match self {
            Self::PerHour(entries) => write!(f, "{entries} entries an hour, or their bytes"),
            Self::Log(Amount { entries, bytes }) => write!(f, "{entries} entries or {} MiB in its log", bytes / MIB),
            Self::Answers(Amount { entries, bytes }) => {
                write!(f, "{entries} answers to calls of others, or {} MiB of them", bytes / MIB)
            }
            Self::Open(Amount { entries, bytes }) => {
                write!(f, "{entries} calls that are open at once, or {} MiB of them", bytes / MIB)
            }
            Self::Blobs(blobs) => write!(f, "{blobs} open calls with large arguments"),
            Self::Keys(keys) => write!(f, "{keys} idempotency keys in use"),
            Self::Rate(per_s) => write!(f, "{per_s} calls a second"),
            Self::EntryBytes(max) => write!(f, "{max} bytes for one entry of its kind"),
            Self::Disk => write!(f, "what there is room for on this device's disk, which is nearly full"),
        }
    }
}
