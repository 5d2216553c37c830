//! Output: data to standard output, talk to standard error.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use crate::cli::body::Body;
use crate::cli::exit::{Exit, Failure};
use crate::json;
use crate::mesh::clock;

/// The first write to standard output that failed. All writes go through [`write`], and [`lost`] tells it when the
/// command is over, so that no command has to think of it.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

fn write(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// The failure to tell at the end of a command of which something did not reach standard output. None when only its
/// reader has gone (`sigil calls | head`): that is no error of ours.
pub(crate) fn lost() -> Option<Failure> {
    let error = LOST.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    (error.kind() != io::ErrorKind::BrokenPipe).then(|| {
        Failure::new(Exit::Failed, format!("writing to standard output: {error}"))
            .hint("what was to be shown is lost; ask again with room for it")
    })
}

/// True once nothing can be written to standard output any more, above all because its reader has gone. Files have no
/// readers, so that they are always there.
pub(crate) fn reader_gone() -> bool {
    let stdout = io::stdout();
    // No question but for what is told unasked: error, hang-up, no file.
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|told| told > 0)
}

/// The form in which this run of the program shows things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    /// One JSON document instead of text.
    pub(crate) json: bool,
    screen: Screen,
    /// Standard error is a terminal: progress lines may be redrawn.
    pub(crate) live: bool,
}

/// Kind of standard output. On a terminal, what is shown is laid out and cannot steer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Screen {
    /// A pipe or a file: bytes.
    Not,
    Plain,
    Coloured,
}

/// Meaning of a piece of text; the colours follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Waiting,
    Bad,
    Faint,
    Strong,
}

impl Ui {
    pub(crate) fn new(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let screen = match (io::stdout().is_terminal(), plain) {
            (false, _) => Screen::Not,
            (true, true) => Screen::Plain,
            (true, false) => Screen::Coloured,
        };
        Self { json, screen, live: io::stderr().is_terminal() }
    }

    #[cfg(test)]
    pub(crate) fn plain(json: bool) -> Self {
        Self { json, screen: Screen::Not, live: false }
    }

    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        if self.screen != Screen::Coloured {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Waiting => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A state in its colour.
    pub(crate) fn state(self, state: &str) -> String {
        let tone = match state {
            "online" | "done" | "ok" | "ready" => Tone::Good,
            "offline" | "accepted" | "asking" | "queued" | "dispatched" | "running" | "pending" | "warning"
            | "warn" | "starting" | "review" => Tone::Waiting,
            "cancelled" => Tone::Faint,
            _ => Tone::Bad,
        };
        self.paint(tone, &clean(state))
    }

    /// Prints the document of `--json`: the agent's own bytes under the name of a schema. Laid out on a terminal only.
    pub(crate) fn document(self, schema: &str, body: impl Into<Body>) {
        let text = body.into().under(schema);
        if self.screen == Screen::Not { self.print(&text) } else { self.print(&clean_lines(&json::pretty(&text))) }
    }

    /// Prints data.
    #[expect(clippy::unused_self, reason = "all that is shown goes through here")]
    pub(crate) fn print(self, text: &str) {
        write(format!("{text}\n").as_bytes());
    }

    /// Writes a piece of a message of a protocol, byte for byte whatever reads it.
    #[cfg(feature = "mcp")]
    #[expect(clippy::unused_self, reason = "all that is shown goes through here")]
    pub(crate) fn message(self, bytes: &[u8]) {
        write(bytes);
    }

    /// Prints help, or the version.
    pub(crate) fn help(self, asked: &clap::Error) {
        let text = asked.render();
        self.print(if self.screen == Screen::Coloured { text.ansi().to_string() } else { text.to_string() }.trim_end());
    }

    /// Hands on the output of a tool: into a pipe or a file byte for byte, on a terminal so that it can be read and
    /// steers nothing.
    pub(crate) fn output(self, bytes: &[u8]) {
        if self.screen == Screen::Not {
            write(bytes);
        } else if !bytes.is_empty() {
            self.print(&for_terminal(bytes));
        }
    }

    /// Says something that is not data.
    #[expect(clippy::unused_self, reason = "all that is shown goes through here")]
    pub(crate) fn say(self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// Redraws the progress line; an empty one takes it away. Only on a terminal.
    pub(crate) fn progress(self, text: &str) {
        if self.live && !self.json {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{text}");
            let _ = stderr.flush();
        }
    }
}

fn for_terminal(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
    if is_json { clean_lines(&json::pretty(&text)) } else { clean_lines(text.strip_suffix('\n').unwrap_or(&text)) }
}

/// Takes out what could steer a terminal: control characters, and marks that reorder text. Names, reasons and errors
/// are written by other devices.
pub(crate) fn clean(text: &str) -> String {
    clean_but(text, |_| false)
}

/// Like [`clean`], for text of several lines.
pub(crate) fn clean_lines(text: &str) -> String {
    clean_but(text, |letter| matches!(letter, '\n' | '\t'))
}

fn clean_but(text: &str, keep: impl Fn(char) -> bool) -> String {
    let steers = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|letter| if steers(letter) && !keep(letter) { '\u{fffd}' } else { letter }).collect()
}

/// Aligned columns, two spaces apart; the last one is never padded. Cells may carry colours.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| width(head)).collect();
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let lines = std::iter::once(&heads).chain(rows).map(|row| {
        let mut line = String::new();
        for (column, (cell, widest)) in row.iter().zip(&widths).enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widest - width(cell) + 2));
            }
        }
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Letters that are seen, colours not counted.
fn width(cell: &str) -> usize {
    let mut seen = 0;
    let mut letters = cell.chars();
    while let Some(letter) = letters.next() {
        if letter == '\x1b' {
            letters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            seen += 1;
        }
    }
    seen
}

/// `name: value` lines, aligned.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let widest = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines = pairs.iter().map(|(name, value)| format!("{name:<widest$}  {value}").trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// A field of an answer as text: strings bare, nothing for null, all else as JSON. Safe for a terminal.
pub(crate) fn text(body: &Value, name: &str) -> String {
    match body.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => clean(text),
        Some(other) => clean(&other.to_string()),
    }
}

/// The rows of an answer that is a list.
pub(crate) fn items(body: &Value) -> &[Value] {
    body.get("items").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The beginning of an identity: what people compare first.
pub(crate) fn short(peer: &str) -> String {
    clean(peer).chars().take(7).collect()
}

/// A time of the API as people say it: `12 s ago`, `in 3 min`.
pub(crate) fn relative(body: &Value, name: &str) -> String {
    let time = text(body, name);
    match time.parse::<jiff::Timestamp>() {
        Ok(then) => {
            let now = i64::try_from(clock::now().wall_ms / 1000).unwrap_or(i64::MAX);
            let seconds = now - then.as_second();
            if seconds < 0 {
                format!("in {}", span(seconds.unsigned_abs()))
            } else {
                format!("{} ago", span(seconds.unsigned_abs()))
            }
        }
        Err(_) => time,
    }
}

/// A length of time in its largest useful unit.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows =
            [vec!["a".to_owned(), "online".into(), "x".into()], vec!["längst".into(), "off".into(), String::new()]];
        assert_eq!(table(&["NODE", "STATE", "WHY"], &rows), "NODE    STATE   WHY\na       online  x\nlängst  off");
    }

    #[test]
    fn colours_take_no_room() {
        let colourful = Ui { screen: Screen::Coloured, ..Ui::plain(false) };
        let rows = [vec![colourful.state("done"), "1".into()], vec!["interrupted".into(), "2".into()]];
        let plain: Vec<String> =
            table(&["S", "N"], &rows).lines().map(|line| line.replace("\x1b[32m", "").replace("\x1b[0m", "")).collect();
        assert_eq!(plain, ["S            N", "done         1", "interrupted  2"]);
        assert_eq!(Ui::plain(false).state("done"), "done");
    }

    #[test]
    fn others_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\nc\u{202e}d"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d");
        assert_eq!(clean_lines("a\x1bb\nc\td\r"), "a\u{fffd}b\nc\td\u{fffd}");
        assert_eq!(text(&json!({"a": "\x07x"}), "a"), "\u{fffd}x");
    }

    #[test]
    fn b02_on_a_terminal_numbers_and_keys_stay_what_they_are() {
        assert_eq!(
            for_terminal(b"{\"z\":1.10,\"a\":12345678901234567890123,\"z\":2}\n"),
            "{\n  \"z\": 1.10,\n  \"a\": 12345678901234567890123,\n  \"z\": 2\n}"
        );
        assert_eq!(for_terminal(b"6.10\n"), "6.10");
        assert_eq!(for_terminal(b"a\x1b[2J\xff\n\n"), "a\u{fffd}[2J\u{fffd}\n");
    }

    #[test]
    fn fields_read_as_text() {
        let body = json!({"s": "x", "n": 3, "z": null, "l": ["a"]});
        assert_eq!(
            [text(&body, "s"), text(&body, "n"), text(&body, "z"), text(&body, "l"), text(&body, "q")],
            ["x", "3", "", "[\"a\"]", ""]
        );
        assert_eq!(fields(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2");
        assert!(items(&json!({})).is_empty());
    }

    #[test]
    fn times_are_said_in_the_largest_useful_unit() {
        assert_eq!(
            [span(0), span(119), span(120), span(7_200), span(200_000)],
            ["0 s", "119 s", "2 min", "2 h", "2 d"]
        );
        let ago = clock::rfc3339(clock::now().wall_ms - 300_000);
        let body = json!({"t": ago, "u": "soon"});
        assert_eq!(relative(&body, "t"), "5 min ago");
        assert_eq!(relative(&body, "u"), "soon");
    }
}
