//! Output of the demo on the terminal.

use serde_json::Value;
use tokio::time::Instant;

use super::report::Promise;
use crate::cli::output::{Tone, Ui};

/// Cause of the end of a story that a person stops.
pub(super) const STOPPED: &str = "stopped before its end";

/// Tells what happens, with the time since the beginning: to standard output, or beside the report of `--json` to
/// standard error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Teller {
    ui: Ui,
    pub(super) began: Instant,
}

impl Teller {
    pub(super) fn new(ui: Ui) -> Self {
        Self { ui, began: Instant::now() }
    }

    pub(super) fn line(self, text: &str) {
        if self.ui.json {
            self.ui.say(text);
        } else {
            self.ui.print(text);
        }
    }

    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        if self.ui.json { text.to_owned() } else { self.ui.paint(tone, text) }
    }

    /// A new chapter.
    pub(super) fn step(self, title: &str) {
        let at = format!("{:5.1} s", self.began.elapsed().as_secs_f64());
        self.line(&format!("\n{}  {}", self.paint(Tone::Faint, &at), self.paint(Tone::Strong, title)));
    }

    /// An observation.
    pub(super) fn tell(self, text: &str) {
        for line in text.lines() {
            self.line(&format!("         {line}"));
        }
    }

    pub(super) fn promise(self, promise: &Promise) {
        let label = if promise.held { self.paint(Tone::Good, "held  ") } else { self.paint(Tone::Bad, "BROKEN") };
        self.line(&format!("  {label} {} ({})", promise.name, promise.detail));
    }
}

/// Milliseconds that have passed.
pub(super) fn ms(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

/// A flag of an answer.
pub(super) fn is_true(body: &Value, name: &str) -> bool {
    body.get(name) == Some(&Value::Bool(true))
}
