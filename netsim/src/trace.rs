//! The story of a run, line by line, when someone wants to read it.

use std::fmt::Write as _;

/// Level of detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing: seeds by the thousand.
    Off,
    /// Beliefs, faults, calls and endings, in order.
    Story,
    /// Every frame and batch too.
    All,
}

/// Something that a picture of the run shows at its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Moment {
    /// State of a peer.
    Is(usize, Being),
    /// Leader that a peer follows, and its epoch; itself when it leads.
    Follows(usize, Option<(usize, u64)>),
    /// A pair is cut from now on, or not any more.
    Cut(usize, usize, bool),
    /// A call was accepted.
    Accepted(usize),
    /// A tool starts.
    Runs(usize),
    /// An origin has a confirmed ending, or one that is not.
    Ended(usize, &'static str, bool),
    /// Something of the plan happens.
    Fault(String),
    /// A phase begins.
    Phase(String),
}

/// State of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Being {
    Awake,
    Frozen,
    Down,
    Gone,
}

/// Lines and moments with their times.
#[derive(Debug)]
pub(crate) struct Trace {
    level: Level,
    lines: Vec<(u64, String)>,
    pub(crate) moments: Vec<(u64, Moment)>,
}

impl Trace {
    pub(crate) fn new(level: Level) -> Self {
        Self { level, lines: Vec::new(), moments: Vec::new() }
    }

    /// Notes a line of the story.
    pub(crate) fn story(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.level >= Level::Story {
            self.lines.push((now, line()));
        }
    }

    /// Notes what a picture shows.
    pub(crate) fn moment(&mut self, now: u64, moment: impl FnOnce() -> Moment) {
        if self.level >= Level::Story {
            self.moments.push((now, moment()));
        }
    }

    /// Notes a detail.
    pub(crate) fn detail(&mut self, now: u64, line: impl FnOnce() -> String) {
        if self.level >= Level::All {
            self.lines.push((now, line()));
        }
    }

    /// All of it as text.
    pub(crate) fn text(&self) -> String {
        Self::lines(&self.lines)
    }

    /// The last lines.
    pub(crate) fn tail(&self, count: usize) -> String {
        Self::lines(&self.lines[self.lines.len().saturating_sub(count)..])
    }

    fn lines(lines: &[(u64, String)]) -> String {
        let mut text = String::new();
        for (at, line) in lines {
            let _ = writeln!(text, "{:>4}.{:06} {line}", at / 1_000_000, at % 1_000_000);
        }
        text
    }
}
