//! Last lines that a child wrote to its error stream: few, short, and without what a terminal would obey.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Lines that are kept.
const LINES_MAX: usize = 8;
/// Those of them that are told beside a failure; the log has all.
const TOLD_MAX: usize = 3;
/// Characters of a line.
const LINE_CHARS_MAX: usize = 200;
/// Bytes of a line: what follows is passed over until the next.
const LINE_BYTES_MAX: usize = 4 * LINE_CHARS_MAX;
const CHUNK: usize = 4096;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct LastWords(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Heard {
    lines: VecDeque<String>,
    begun: Vec<u8>,
}

impl LastWords {
    /// Reads until the stream ends. It must be read always: who writes to a pipe that is full stands still.
    pub(super) async fn listen(self, mut from: impl AsyncRead + Unpin) {
        let _ended = self.0.ended.clone().drop_guard();
        let mut chunk = vec![0; CHUNK];
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            self.heard().take(chunk.get(..read).unwrap_or_default());
        }
        self.heard().end_line();
    }

    /// Waits until the stream has ended, so long at most.
    pub(super) async fn wait(&self, at_most: Duration) {
        // What came until then counts.
        let _ = timeout(at_most, self.0.ended.cancelled()).await;
    }

    /// All lines that are kept, for the log; empty when nothing was said.
    pub(super) fn all(&self) -> String {
        self.last(LINES_MAX)
    }

    /// The last few, for people; `None` when nothing was said.
    pub(super) fn told(&self) -> Option<String> {
        Some(self.last(TOLD_MAX)).filter(|told| !told.is_empty())
    }

    fn last(&self, count: usize) -> String {
        let heard = self.heard();
        let lines: Vec<&str> = heard.lines.iter().map(String::as_str).collect();
        lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join(" / ")
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                self.end_line();
            } else if self.begun.len() < LINE_BYTES_MAX {
                self.begun.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        let begun = std::mem::take(&mut self.begun);
        let text = String::from_utf8_lossy(&begun);
        let plain = text.chars().filter(|letter| !letter.is_control() && *letter != char::REPLACEMENT_CHARACTER);
        let line: String = plain.take(LINE_CHARS_MAX).collect();
        let line = line.trim();
        if !line.is_empty() {
            self.lines.push_back(line.to_owned());
            if self.lines.len() > LINES_MAX {
                self.lines.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(bytes: &[u8]) -> LastWords {
        let words = LastWords::default();
        words.clone().listen(bytes).await;
        words.wait(Duration::from_secs(5)).await;
        words
    }

    #[tokio::test]
    async fn the_last_lines_are_kept_without_what_a_terminal_obeys() {
        let words = heard(b"one\n\n  two\x1b[31m \xff\nthree\rfour").await;
        assert_eq!(words.all(), "one / two[31m / three / four");
        assert_eq!(words.told().unwrap(), "two[31m / three / four");
        assert_eq!(heard(b" \n\n").await.told(), None);
    }

    #[tokio::test]
    async fn however_much_is_said_little_is_kept() {
        let mut said = vec![b'x'; 3_000_000];
        said.push(b'\n');
        for n in 0..10_000 {
            said.extend(format!("line {n}\n").bytes());
        }
        said.extend(vec![b'y'; 100_000]);
        let words = heard(&said).await;
        let all = words.all();
        assert!(all.starts_with("line 9993 / ") && all.ends_with("yyy"));
        assert!(all.len() <= LINES_MAX * (LINE_CHARS_MAX + 3), "{} bytes", all.len());
    }
}
