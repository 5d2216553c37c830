//! The result of a run, in terms of this module alone.

use bytes::Bytes;

/// The result of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutcome {
    /// The way in which it ended.
    pub end: RunEnd,
    /// For people: what it has left running when it ended by itself; empty for nothing.
    pub note: String,
    /// Its output, as far as it came.
    pub output: Output,
    /// Tail of its stderr: at most 4 KiB.
    pub stderr: String,
}

/// The way in which a run ended. Reasons are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// By itself, and well.
    Done,
    /// By itself, and not well; or it never started; or a limit ended it.
    Failed(String),
    /// Because it was asked to.
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
    /// A run that failed, with nothing to show but its stderr.
    pub fn failed(reason: impl Into<String>, stderr: String) -> Self {
        Self { end: RunEnd::Failed(reason.into()), note: String::new(), output: Output::Inline(Bytes::new()), stderr }
    }

    /// A run that was cancelled, with nothing to show but its stderr.
    pub fn cancelled(reason: impl Into<String>, stderr: String) -> Self {
        let end = RunEnd::Cancelled(reason.into());
        Self { end, note: String::new(), output: Output::Inline(Bytes::new()), stderr }
    }
}
