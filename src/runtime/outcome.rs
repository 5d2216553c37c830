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
    /// By itself, and not well; or its output could not be taken. What it gave until then is its output, as far as that was
    /// kept.
    Failed(String),
    /// It was ended at a limit: of time, of output. What it gave until then is kept.
    Limit(String),
    /// It may not do what it was asked for, and has not done it: no output.
    Denied(String),
    /// Because it was asked to. What it gave until then is kept.
    Cancelled(String),
    /// Its end is not known: what it was to do may have happened. No output.
    Lost(String),
    /// It never started: no output.
    NotStarted(String),
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

impl From<RunEnd> for RunOutcome {
    /// A run with nothing to say but its end.
    fn from(end: RunEnd) -> Self {
        Self { end, note: String::new(), stderr: String::new() }
    }
}
