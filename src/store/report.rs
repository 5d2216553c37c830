//! Findings of an open.

use std::path::PathBuf;

/// State in which a store was found.
#[derive(Debug, Clone, Default)]
pub struct OpenReport {
    /// There was no database yet, or it was lost: this one is empty.
    pub created: bool,
    /// Write-ahead logs that were cut at the last good batch.
    pub repaired: Vec<Repair>,
    /// The database could not be repaired, or vanished: all that it held is gone from this device. People must be told.
    pub lost: Option<Loss>,
    /// The database is older than what it had made durable; see
    /// [`Engine::is_rolled_back`](super::Engine::is_rolled_back).
    pub rolled_back: bool,
}

/// A write-ahead log that was damaged and repaired.
#[derive(Debug, Clone)]
pub struct Repair {
    /// Name of its file.
    pub file: String,
    /// Kind of damage, for people.
    pub why: &'static str,
    /// Place of the cut, in bytes from the beginning of the file.
    pub cut_at: u64,
    /// True if the cut can have taken rows that had been promised. A tail that was being written when the machine
    /// stopped had not been.
    pub promised: bool,
    /// Copy of the damaged file; none for a mere unfinished tail.
    pub kept_at: Option<PathBuf>,
}

/// A database that was given up.
#[derive(Debug, Clone)]
pub struct Loss {
    /// Cause, for people.
    pub why: String,
    /// Directory with what is left of it.
    pub kept_at: Option<PathBuf>,
}
