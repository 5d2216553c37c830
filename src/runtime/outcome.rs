//! The result of a run, in terms of this module alone.

use bytes::Bytes;

/// The result of one run, but for its output, which is in its [`super::spool::Spool`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutcome {
    /// The way in which it ended.
    pub end: RunEnd,
    /// For people: what it has left running when it ended by itself; empty for nothing.
    pub note: String,
    /// Tail of its stderr: at most 4 KiB.
    pub stderr: String,
}

/// The way in which a run ended. Reasons are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// By itself, and well.
    Done,
    /// By itself, and not well; or its time was up. What it wrote until then is its output.
    Failed(String),
    /// It never started, or its end or its output could not be taken: it has no output.
    Lost(String),
    /// Because it was asked to: it has no output.
    Cancelled(String),
}

/// Output of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// All of it.
    Inline(Bytes),
    /// In a blob, as a [`super::spool::BlobSink`] has named it.
    Stored {
        /// SHA-256 of the bytes.
        hash: [u8; 32],
        /// Their number.
        len: u64,
    },
}

impl RunOutcome {
    /// A run that was lost, with nothing to show but its stderr.
    pub fn lost(reason: impl Into<String>, stderr: String) -> Self {
        Self { end: RunEnd::Lost(reason.into()), note: String::new(), stderr }
    }

    /// A run that was cancelled, with nothing to show but its stderr.
    pub fn cancelled(reason: impl Into<String>, stderr: String) -> Self {
        Self { end: RunEnd::Cancelled(reason.into()), note: String::new(), stderr }
    }
}
