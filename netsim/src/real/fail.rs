//! Failures of a scenario.

/// Reason for which a scenario did not come to a good end.
#[derive(Debug, Clone)]
pub(super) enum Fail {
    /// A promise was broken.
    Broken { promise: &'static str, what: String },
    /// The stage itself failed, or a peer did what no promise speaks of.
    Trouble(String),
    /// A person wants no more.
    Interrupted,
}

impl std::fmt::Display for Fail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken { promise, what } => write!(f, "{promise}: {what}"),
            Self::Trouble(what) => write!(f, "the stage: {what}"),
            Self::Interrupted => f.write_str("stopped before the end"),
        }
    }
}

/// A promise that was broken.
pub(super) fn broken(promise: &'static str, what: String) -> Fail {
    Fail::Broken { promise, what }
}
