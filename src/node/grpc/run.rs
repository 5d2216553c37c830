//! One call of a tool of a gRPC server, to its one end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_core::limits::cut;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tower::ServiceExt as _;

use super::live::{AtWork, Live, Present};
use crate::mesh::pace::Pace;
use crate::node::commands::{self, without_secrets};
use crate::node::provider::{Job, Parts, Place, Run};
use crate::pb::execute_event::{End, Event, PartStart, Progress, Status as Said};
use crate::pb::tool_service_client::ToolServiceClient;
use crate::pb::{ExecuteEvent, ExecuteRequest};
use crate::runtime::outcome::{RunEnd, RunOutcome};
use crate::runtime::progress::ErrorStream;
use crate::runtime::spool::{Kind, Spool, SpoolError};
use crate::text::visible;
use crate::value::show_duration;

/// Largest message of a run, bytes. Arguments have at most as many.
const EVENT_BYTES_MAX: usize = 1024 * 1024 + 1024;
/// Events of one run in a second, and at once after a pause: each costs work, however small it is.
const EVENTS_PER_S: u64 = 2_000;
const EVENTS_AHEAD: u64 = 2_000;
/// Longest wait for a server that is not there just now.
const SERVER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Time for a stream to end by itself after the last event.
const CLOSED_WITHIN: Duration = Duration::from_millis(500);
/// Time for a container to be gone, in which a cancel has worked.
const GONE_WITHIN: Duration = Duration::from_millis(1_700);
/// What is looked at of a line of the error stream, and of a note, in bytes: all that is kept of it.
const LOG_BYTES_MAX: usize = 4096;
const NOTE_BYTES_MAX: usize = 1024;
/// Longest reason, characters.
const REASON_CHARS_MAX: usize = 1000;

pub(super) struct ServedRun {
    pub(super) present: Arc<Present>,
    pub(super) job: Job,
    pub(super) place: Place,
}

impl Run for ServedRun {
    fn finish<'a>(
        self: Box<Self>,
        parts: &'a mut Parts<'_>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, RunOutcome> {
        Box::pin(async move {
            let Self { present, job, place } = *self;
            let until = Instant::now() + job.timeout;
            let found = tokio::select! {
                biased;
                () = cancel.cancelled() => return RunEnd::Cancelled("cancelled before it was started".to_owned()).into(),
                () = place.ended() => return RunEnd::NotStarted("its tool was replaced or taken away".to_owned()).into(),
                found = timeout(SERVER_WAIT_MAX.min(job.timeout), present.live()) => found,
            };
            let Ok((live, at_work)) = found else {
                return RunEnd::NotStarted("its server did not come up in time".to_owned()).into();
            };
            let Some(tool) = live.names.get(&job.tool).cloned() else {
                return RunEnd::NotStarted("its server does not offer it any more".to_owned()).into();
            };
            run(&live, at_work, &tool, &job, &place, until, parts, cancel).await
        })
    }
}

/// A reason for which a run was stopped.
enum Stopped {
    Cancelled,
    TimedOut,
    Replaced,
}

#[expect(clippy::too_many_arguments, reason = "all that a run has")]
async fn run(
    live: &Arc<Live>,
    at_work: AtWork,
    tool: &str,
    job: &Job,
    place: &Place,
    until: Instant,
    parts: &mut Parts<'_>,
    cancel: &CancellationToken,
) -> RunOutcome {
    let redactor = live.redactor.clone();
    let Ok(arguments) = String::from_utf8(job.arguments.to_vec()) else {
        return RunEnd::Denied("its arguments are no text".to_owned()).into();
    };
    let Ok(channel) = live.channel.clone().ready_oneshot().await else {
        return RunEnd::NotStarted("its server has just ended".to_owned()).into();
    };
    let request = ExecuteRequest {
        request_id: job.id.to_string(),
        attempt: job.attempt.into(),
        tool: tool.to_owned(),
        arguments,
        timeout_ms: u32::try_from(job.timeout.as_millis()).unwrap_or(u32::MAX),
        node_id: job.node_id.to_string(),
    };
    let Parts { spool, note } = parts;
    let mut errors = ErrorStream::new(Instant::now(), redactor.clone());
    let ended = {
        let mut talk = std::pin::pin!(converse(channel, request, spool, &mut errors, note));
        tokio::select! {
            biased;
            end = &mut talk => Ok(end),
            () = cancel.cancelled() => Err(Stopped::Cancelled),
            () = sleep_until(until) => Err(Stopped::TimedOut),
            () = place.ended() => Err(Stopped::Replaced),
        }
        // What was not heard to its end is ended here: its stream is reset.
    };
    let is_over = matches!(&ended, Ok(Heard { whole: true, .. }));
    let goes_on = if is_over { false } else { !ended_with_its_server(live, &at_work).await };
    let more = if goes_on { "its server was told to stop, and may go on" } else { "" };
    let end = match ended {
        Ok(Heard { end, .. }) => end,
        Err(Stopped::Cancelled) => RunEnd::Cancelled(more.to_owned()),
        Err(Stopped::TimedOut) => {
            let more = if more.is_empty() { String::new() } else { format!("; {more}") };
            RunEnd::Limit(format!("timed out after {}{more}", show_duration(job.timeout)))
        }
        Err(Stopped::Replaced) => RunEnd::Cancelled(String::new()),
    };
    let replaced = matches!(end, RunEnd::Cancelled(_)) && !cancel.is_cancelled();
    let stderr = errors.finish(Instant::now(), note);
    let outcome = without_secrets(&redactor, RunOutcome { end, note: String::new(), stderr });
    if replaced { commands::replaced(outcome) } else { outcome }
}

/// Ends the server, if nothing else runs in it. True if that has ended this run for sure.
async fn ended_with_its_server(live: &Live, at_work: &AtWork) -> bool {
    if !at_work.close_if_alone() {
        return false;
    }
    live.over.cancel();
    timeout(GONE_WITHIN, live.ended.cancelled()).await.is_ok()
}

/// What a stream told.
struct Heard {
    end: RunEnd,
    /// True if the server has said that it was all, or is gone.
    whole: bool,
}

impl Heard {
    fn whole(end: RunEnd) -> Self {
        Self { end, whole: true }
    }

    /// Nothing more is heard of it, and it may go on.
    fn cut(end: RunEnd) -> Self {
        Self { end, whole: false }
    }
}

async fn converse(
    channel: Channel,
    request: ExecuteRequest,
    spool: &mut Spool<'_>,
    errors: &mut ErrorStream,
    note: &mut (dyn FnMut(String) + Send),
) -> Heard {
    let mut client = ToolServiceClient::new(channel)
        .max_decoding_message_size(EVENT_BYTES_MAX)
        .max_encoding_message_size(2 * EVENT_BYTES_MAX);
    let mut events = match client.execute(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return broken(&status),
    };
    let mut pace = Pace::new(EVENTS_PER_S, EVENTS_AHEAD);
    let mut begun = false;
    loop {
        pace.wait(1).await;
        let event = match events.message().await {
            Ok(Some(ExecuteEvent { event })) => event,
            Ok(None) => return Heard::whole(lost("its stream ended without an end")),
            Err(status) => return broken(&status),
        };
        let taken = match event {
            Some(Event::Progress(progress)) => {
                errors.push(line(&progress).as_bytes(), Instant::now(), &mut |text| note(text));
                Ok(())
            }
            Some(Event::Log(text)) => {
                let line = format!("{}\n", cut(&text, LOG_BYTES_MAX));
                errors.push(line.as_bytes(), Instant::now(), &mut |text| note(text));
                Ok(())
            }
            Some(Event::Part(PartStart { media_type, name })) => {
                let kind = Kind { media_type, name };
                if std::mem::replace(&mut begun, true) {
                    spool.begin(kind).await
                } else {
                    spool.set_kind(kind);
                    Ok(())
                }
            }
            Some(Event::Data(bytes)) => {
                begun = true;
                spool.push(&bytes).await
            }
            Some(Event::End(end)) => {
                closed(events).await;
                return Heard::whole(as_said(&end));
            }
            // Of a newer version.
            None => Ok(()),
        };
        match taken {
            Ok(()) => {}
            Err(why @ (SpoolError::TooLarge(_) | SpoolError::TooMany)) => {
                return Heard::cut(RunEnd::Limit(why.story()));
            }
            Err(why @ SpoolError::Store(_)) => return Heard::cut(RunEnd::Failed(why.story())),
        }
    }
}

/// Lets a server finish what it does after its last event.
async fn closed(mut events: Streaming<ExecuteEvent>) {
    let _ = timeout(CLOSED_WITHIN, events.message()).await;
}

fn as_said(End { status, reason }: &End) -> RunEnd {
    let reason: String = visible(cut(reason, 4 * REASON_CHARS_MAX)).chars().take(REASON_CHARS_MAX).collect();
    let said = |without: &str| if reason.is_empty() { without.to_owned() } else { reason.clone() };
    match Said::try_from(*status) {
        Ok(Said::Ok) => RunEnd::Done,
        Ok(Said::Failed) => RunEnd::Failed(said("it failed and did not say why")),
        Ok(Said::Denied) => RunEnd::Denied(said("it refused and did not say why")),
        // Nobody has cancelled it: whoever does so hears no more of it.
        Ok(Said::Cancelled) => RunEnd::Failed(said("it stopped by itself")),
        Ok(Said::Unspecified) | Err(_) => {
            RunEnd::Failed(format!("it ended with the status {status}, which sigil does not know"))
        }
    }
}

/// A stream that ended otherwise than by its last event.
fn broken(status: &Status) -> Heard {
    // Our own word, of a message that is longer than is read. A server that says so is no better off.
    if status.code() == Code::OutOfRange {
        return Heard::cut(RunEnd::Limit("one of its messages is over the limit of 1MiB".to_owned()));
    }
    let said: String = visible(cut(status.message(), 4 * REASON_CHARS_MAX)).chars().take(REASON_CHARS_MAX).collect();
    let code = status.code();
    Heard::whole(lost(&format!("its stream broke ({code:?}): {said}")))
}

fn lost(why: &str) -> RunEnd {
    RunEnd::Lost(format!("{why}: it may have happened"))
}

/// How far it is, as a line of the error stream that is progress alone.
fn line(Progress { note, fraction }: &Progress) -> String {
    let share = fraction.filter(|fraction| fraction.is_finite());
    let share = share.map(|fraction| format!("{:.0}%", f64::from(fraction.clamp(0.0, 1.0)) * 100.0));
    let note = visible(cut(note, NOTE_BYTES_MAX));
    let words: Vec<&str> =
        [share.as_deref().unwrap_or_default(), note.trim()].into_iter().filter(|word| !word.is_empty()).collect();
    format!("::progress {}\n", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: i32, reason: &str) -> RunEnd {
        as_said(&End { status, reason: reason.to_owned() })
    }

    #[test]
    fn an_end_is_taken_as_it_is_said() {
        assert_eq!(end(1, ""), RunEnd::Done);
        assert_eq!(end(2, "out of\u{202e} paper"), RunEnd::Failed("out of paper".to_owned()));
        assert_eq!(end(3, "no"), RunEnd::Denied("no".to_owned()));
        assert_eq!(end(4, ""), RunEnd::Failed("it stopped by itself".to_owned()));
        for odd in [0, 9, -1] {
            assert!(matches!(end(odd, ""), RunEnd::Failed(why) if why.contains(&odd.to_string())));
        }
        let RunEnd::Failed(long) = end(2, &"x".repeat(100_000)) else { panic!("it failed") };
        assert_eq!(long.len(), REASON_CHARS_MAX);
    }

    #[test]
    fn progress_is_one_line_whatever_is_in_it() {
        let said = |note: &str, fraction| line(&Progress { note: note.to_owned(), fraction });
        assert_eq!(said("step\n2", Some(0.4)), "::progress 40% step 2\n");
        assert_eq!(said("", Some(7.0)), "::progress 100%\n");
        assert_eq!(said("x", Some(f32::NAN)), "::progress x\n");
        assert_eq!(said(" ", None), "::progress \n");
    }
}
