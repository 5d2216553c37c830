//! Named points at which a test may tell the agent to die or to cut its links: `SIGIL_FAULT=<point>:<action>`.
//! Compiled only with the cargo feature `fault-points`; otherwise every point is nothing at all.

/// Where. See `docs/protocol.md`, Calls and Target journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The target has a call, and `started` is not durable.
    BeforeStarted,
    /// `started` is durable, the tool has not run.
    AfterStarted,
    /// The tool has run, the outcome is not durable.
    AfterRun,
    /// The outcome is durable and has not been told.
    AfterOutcome,
    /// Messages are durable in memory, and whoever appends them has not been told.
    MemoryAppended,
    /// A batch is captured, and nothing is made of it.
    MemoryCaptured,
    /// A summary is made, and not committed.
    MemoryDrafted,
    /// A batch is committed, and whoever asked has not been told.
    MemoryCompacted,
    /// Vectors are durable, and not searched yet.
    MemoryEmbedded,
    /// It is noted that a model is asked about a summary, and it is not asked yet.
    MemoryTold,
    /// A model's words are durable.
    MemoryWritten,
    /// Messages are forgotten, and whoever asked has not been told.
    MemoryForgotten,
}

/// Action that a test asked for at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Drop all links, once.
    Cut,
}

/// Passes a point. The process ends here if it was told to die; an answer says what else was asked, the first time
/// only.
#[cfg(feature = "fault-points")]
#[must_use]
pub fn pass(point: Point) -> Option<Action> {
    use std::sync::atomic::{AtomicBool, Ordering};
    static PASSED: AtomicBool = AtomicBool::new(false);
    let wanted = std::env::var("SIGIL_FAULT").ok()?;
    let (name, action) = wanted.split_once(':')?;
    let here = match point {
        Point::BeforeStarted => "before_started",
        Point::AfterStarted => "after_started",
        Point::AfterRun => "after_run",
        Point::AfterOutcome => "after_outcome",
        Point::MemoryAppended => "memory_appended",
        Point::MemoryCaptured => "memory_captured",
        Point::MemoryDrafted => "memory_drafted",
        Point::MemoryCompacted => "memory_compacted",
        Point::MemoryEmbedded => "memory_embedded",
        Point::MemoryTold => "memory_told",
        Point::MemoryWritten => "memory_written",
        Point::MemoryForgotten => "memory_forgotten",
    };
    if name != here || PASSED.swap(true, Ordering::SeqCst) {
        return None;
    }
    tracing::warn!(point = here, action, "a test's fault point was reached");
    match action {
        "die" => std::process::abort(),
        "cut" => Some(Action::Cut),
        _ => None,
    }
}

/// Nothing at all.
#[cfg(not(feature = "fault-points"))]
#[must_use]
#[inline]
pub const fn pass(_: Point) -> Option<Action> {
    None
}

/// True once when a test wants the node of the tailnet to die: the file that `SIGIL_FAULT_TAILNET` names is there, and is gone
/// then.
#[cfg(feature = "fault-points")]
#[must_use]
pub fn tailnet_dies() -> bool {
    std::env::var_os("SIGIL_FAULT_TAILNET").is_some_and(|file| std::fs::remove_file(file).is_ok())
}

/// Never.
#[cfg(not(feature = "fault-points"))]
#[must_use]
#[inline]
pub const fn tailnet_dies() -> bool {
    false
}
