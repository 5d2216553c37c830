//! `sigil demo`: three real peers, told step by step.

mod report;
mod story;

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::story::Story;
use crate::cli::args::DemoArgs;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Tone, Ui};

/// Why a story ends when a person wants no more of it.
const STOPPED: &str = "stopped before its end";

/// Tells what happens, with the time since the beginning: to standard output, or beside the report of `--json` to
/// standard error.
#[derive(Debug, Clone, Copy)]
struct Teller {
    ui: Ui,
    began: Instant,
}

impl Teller {
    fn line(self, text: &str) {
        if self.ui.json {
            self.ui.say(text);
        } else {
            self.ui.print(text);
        }
    }

    fn paint(self, tone: Tone, text: &str) -> String {
        if self.ui.json { text.to_owned() } else { self.ui.paint(tone, text) }
    }

    /// A new chapter.
    fn step(self, title: &str) {
        let at = format!("{:5.1} s", self.began.elapsed().as_secs_f64());
        self.line(&format!("\n{}  {}", self.paint(Tone::Faint, &at), self.paint(Tone::Strong, title)));
    }

    /// Tells the observer.
    fn tell(self, text: &str) {
        for line in text.lines() {
            self.line(&format!("         {line}"));
        }
    }

    fn promise(self, promise: &report::Promise) {
        let mark = if promise.held { self.paint(Tone::Good, "held  ") } else { self.paint(Tone::Bad, "BROKEN") };
        self.line(&format!("  {mark} {} ({})", promise.name, promise.detail));
    }
}

pub(crate) async fn run(args: &DemoArgs, ui: Ui) -> Result<Exit, Failure> {
    let teller = Teller { ui, began: Instant::now() };
    let mut stop = Stop::listen()?;
    let mut story = Story::new(teller)?;
    let told = tokio::select! {
        told = story.tell() => told,
        () = stop.wanted() => Err(Failure::new(Exit::Failed, STOPPED)),
    };
    if let Err(failure) = &told {
        story.broke_off(failure);
    }
    let held = story.verdict();
    if ui.json {
        ui.document("sigil.demo/1", story.to_json());
    }
    if held && !args.once {
        story.epilogue();
        stop.wanted().await;
        teller.line("\nStopping the three peers.");
    }
    story.end().await;
    told?;
    Ok(if held { Exit::Ok } else { Exit::Failed })
}

/// Every polite way of being asked to stop. Listening from the start, so that none of them ends us before our peers.
struct Stop([tokio::signal::unix::Signal; 3]);

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("signals cannot be listened for: {error}")))
        };
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    async fn wanted(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Milliseconds that have passed.
fn ms(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

/// A flag of an answer.
fn is_true(body: &Value, name: &str) -> bool {
    body.get(name) == Some(&Value::Bool(true))
}
