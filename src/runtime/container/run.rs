//! One command in a container, to its end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sigil_shim::wire::Exit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::instance::{Exec, Told};
use crate::config::value::show_size;
use crate::runtime::out_dir;
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::process::{End, LAST_WORDS, outcome};
use crate::runtime::progress::ErrorStream;
use crate::runtime::spool::{Spool, SpoolError};
use crate::secrets::Redactor;

/// Time for the helper to end a command that it was told to end: it insists after half a second. With what follows, under the 2 s
/// in which a cancel must have worked.
const STOPPED_WITHIN: Duration = Duration::from_millis(1_200);
/// Time that streams are read after the end of a command: what it wrote is in them.
const DRAIN: Duration = Duration::from_secs(1);

/// Bounds of a run.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Longest.
    pub time: Duration,
    /// Bytes of memory of its container, for people.
    pub memory: u64,
}

/// Runs a command that was handed over to its end, which comes within its time: `stdin` goes in, output goes to `spool`, which
/// is for the caller to finish, lines of its error stream go to `note`.
///
/// # Cancel safety
/// Dropping the future asks the command to end.
pub async fn run(
    exec: Exec,
    bounds: Bounds,
    stdin: Bytes,
    redactor: Arc<Redactor>,
    cancel: &CancellationToken,
    spool: &mut Spool<'_>,
    mut note: impl FnMut(String),
) -> RunOutcome {
    let (mut ends, stop, streams) = exec.split();
    let mut errors = ErrorStream::new(Instant::now(), redactor);
    let (end, files) = {
        let mut pipes = pin!(streams.pump(stdin, spool, &mut errors, &mut note));
        let mut told = pin!(ends.told());
        let mut pipes_open = true;
        let over = Instant::now() + bounds.time;
        let stopped = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break Err(End::Cancelled),
                told = &mut told => break Ok(told),
                result = &mut pipes, if pipes_open => {
                    pipes_open = false;
                    if let Err(error) = result {
                        break Err(End::Output(error));
                    }
                }
                () = sleep_until(over) => break Err(End::TimedOut),
            }
        };
        match stopped {
            Err(why) => {
                stop.stop();
                let files = match timeout(STOPPED_WITHIN, &mut told).await {
                    Ok(Told::Ended { files, .. }) => files,
                    Ok(Told::NotStarted(_) | Told::Lost) | Err(_) => Vec::new(),
                };
                // What it had said by then may lie in the pipes unread, and counts.
                if pipes_open {
                    let _ = timeout(LAST_WORDS, &mut pipes).await;
                }
                (why, files)
            }
            Ok(Told::NotStarted(why)) => (End::NotStarted(why), Vec::new()),
            Ok(Told::Lost) => {
                (End::Lost("its container ended while it ran: it may have happened".to_owned()), Vec::new())
            }
            Ok(Told::Ended { exit, left, files }) => {
                let mut note = match left.join(", ") {
                    left if left.is_empty() => left,
                    left => format!("left running, and ended with it: {left}"),
                };
                let drained = if pipes_open { timeout(DRAIN, &mut pipes).await } else { Ok(Ok(())) };
                match drained {
                    Ok(Err(error)) => (End::Output(error), files),
                    Ok(Ok(())) => (End::Ended(exit, note), files),
                    Err(_) => {
                        note.push_str(if note.is_empty() { "" } else { "; " });
                        note.push_str("something that it started still holds its output, of which no more is read");
                        (End::Ended(exit, note), files)
                    }
                }
            }
        }
    };
    let given: Result<(), SpoolError> = if files.is_empty() { Ok(()) } else { out_dir::give(files, spool).await };
    let end = match (given, end) {
        (Err(why), end) if end.is_well() => End::Output(why),
        (_, end) => end,
    };
    let error = errors.finish(Instant::now(), &mut note);
    let out_of_memory = matches!(end, End::Ended(Exit::Memory, _));
    let outcome = outcome(end, error, bounds.time);
    if out_of_memory {
        return RunOutcome {
            end: RunEnd::Limit(format!("over its memory limit of {}", show_size(bounds.memory))),
            ..outcome
        };
    }
    outcome
}
