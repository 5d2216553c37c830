//! The error stream of a running tool: lines of progress, and the tail that is kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::secrets::{RedactStream, Redactor};

/// Bytes of the tail: enough for the last words of a stack trace, and it fits into a log entry beside the output.
const TAIL_BYTES_MAX: usize = 4096;
/// Longest note that is passed on, in characters.
const NOTE_CHARS_MAX: usize = 200;
/// Bytes of a line that are looked at: all that the tail could keep.
const LINE_BYTES_MAX: usize = TAIL_BYTES_MAX;
/// Lines with this prefix are progress only, and not part of the error text.
const PREFIX: &str = "::progress ";
/// Notes that may come at once, before [`REFILL`] sets the pace: a short job is told in full.
const BURST: u32 = 10;
/// One more note each time this has passed: a person cannot read faster, and each is a message through the mesh.
const REFILL: Duration = Duration::from_millis(200);

/// Reads an error stream.
pub(crate) struct ErrorStream {
    secrets: RedactStream,
    tail: VecDeque<u8>,
    line: Vec<u8>,
    tokens: u32,
    refilled: Instant,
}

impl ErrorStream {
    /// A stream of which these secrets are kept out.
    pub(crate) fn new(now: Instant, redactor: Arc<Redactor>) -> Self {
        Self {
            secrets: RedactStream::new(redactor),
            tail: VecDeque::new(),
            line: Vec::new(),
            tokens: BURST,
            refilled: now,
        }
    }

    /// Takes a chunk; hands the notes in it to `note`, as far as the pace allows.
    pub(crate) fn push(&mut self, chunk: &[u8], now: Instant, note: &mut impl FnMut(String)) {
        let certain = self.secrets.push(chunk);
        self.lines(&certain, now, note);
    }

    fn lines(&mut self, chunk: &[u8], now: Instant, note: &mut impl FnMut(String)) {
        for part in chunk.split_inclusive(|&byte| byte == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            if !part.ends_with(b"\n") {
                self.line.extend(part.iter().take(room));
                continue;
            }
            self.line.extend(part.iter().take(room));
            self.end_line(now, note);
        }
        // A last line without an end is part of the tail only when the stream ends.
    }

    /// The stream is over: what is left is a line too. Returns the last [`TAIL_BYTES_MAX`] of text.
    pub(crate) fn finish(mut self, now: Instant, note: &mut impl FnMut(String)) -> String {
        let left = self.secrets.finish();
        self.lines(&left, now, note);
        if !self.line.is_empty() {
            self.end_line(now, note);
        }
        let bytes: Vec<u8> = self.tail.into();
        let text = String::from_utf8_lossy(&bytes);
        // Replacement characters may have made it longer.
        let start = text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES_MAX));
        text.get(start..).unwrap_or_default().trim_end().to_owned()
    }

    fn end_line(&mut self, now: Instant, note: &mut impl FnMut(String)) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let marked = text.strip_prefix(PREFIX);
        if marked.is_none() {
            self.tail.extend(&line);
            let over = self.tail.len().saturating_sub(TAIL_BYTES_MAX);
            self.tail.drain(..over);
        }
        let said = marked.unwrap_or(&text).trim();
        if !said.is_empty() && self.take_token(now) {
            note(said.chars().filter(|c| !c.is_control()).take(NOTE_CHARS_MAX).collect());
        }
    }

    fn take_token(&mut self, now: Instant) -> bool {
        let new = now.duration_since(self.refilled).as_millis() / REFILL.as_millis();
        if new > 0 {
            self.tokens = BURST.min(self.tokens.saturating_add(u32::try_from(new).unwrap_or(BURST)));
            self.refilled = now;
        }
        let had = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        had
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(chunks: &[&[u8]]) -> (Vec<String>, String) {
        let now = Instant::now();
        let mut stream = ErrorStream::new(now, Arc::default());
        let mut notes = Vec::new();
        for chunk in chunks {
            stream.push(chunk, now, &mut |note| notes.push(note));
        }
        let tail = stream.finish(now, &mut |note| notes.push(note));
        (notes, tail)
    }

    #[test]
    fn lines_become_notes_and_marked_ones_stay_out_of_the_error() {
        let (notes, tail) = run(&[b"::progress 1 of", b" 2\nwarn: \x1b[1mx\n\n", b"\xff last"]);
        assert_eq!(notes, ["1 of 2", "warn: [1mx", "\u{fffd} last"]);
        assert_eq!(tail, "warn: \u{1b}[1mx\n\n\u{fffd} last");
    }

    #[test]
    fn a_flood_is_cut() {
        let flood = "x".repeat(100_000);
        let (notes, tail) = run(&[flood.as_bytes(), b"\n", "line\n".repeat(5000).as_bytes()]);
        assert_eq!(notes.len(), BURST as usize);
        assert_eq!(notes[0].len(), NOTE_CHARS_MAX);
        assert_eq!(tail.len(), TAIL_BYTES_MAX - 1);
        assert!(tail.ends_with("line"));
    }

    #[test]
    fn no_secret_is_in_a_note_or_the_tail_however_long_it_is() {
        let mut redactor = Redactor::default();
        let secret = "s3cret".repeat(1000);
        redactor.add("key", &secret);
        let now = Instant::now();
        let mut stream = ErrorStream::new(now, Arc::new(redactor));
        let mut notes = Vec::new();
        for piece in format!("with {secret}\n::progress {secret}\n").as_bytes().chunks(100) {
            stream.push(piece, now, &mut |note| notes.push(note));
        }
        let tail = stream.finish(now, &mut |note| notes.push(note));
        assert_eq!(
            (notes.join(","), tail.as_str()),
            ("with [secret key],[secret key]".to_owned(), "with [secret key]")
        );
    }

    #[test]
    fn the_pace_comes_back_with_time() {
        let start = Instant::now();
        let mut stream = ErrorStream::new(start, Arc::default());
        let mut notes = 0;
        stream.push("x\n".repeat(50).as_bytes(), start, &mut |_| notes += 1);
        stream.push(b"x\nx\n", start + REFILL, &mut |_| notes += 1);
        assert_eq!(notes, BURST + 1);
    }
}
