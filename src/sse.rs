//! Events of a stream of server-sent events (`text/event-stream`), by the grammar of the HTML standard, as far as messages are
//! carried by them: data, the last id, and the time after which to come back. Pure.

use std::time::Duration;

/// Longest line and longest event that are read, in bytes.
const EVENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest id that is kept; a longer one is none.
const ID_BYTES_MAX: usize = 1024;

/// What makes a stream useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {} MiB", EVENT_BYTES_MAX >> 20)]
pub struct TooLarge;

/// Puts the events of one stream together from its pieces.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    /// A line has just ended in a carriage return: a line feed after it is of the same end.
    after_return: bool,
    begun: bool,
    data: Vec<u8>,
    has_data: bool,
    last_id: Option<String>,
    retry: Option<Duration>,
}

impl Events {
    /// Takes a piece, and gives the data of each event that it completes. Events without data are none.
    ///
    /// # Errors
    /// An event is longer than is read: nothing more is to be read of this stream.
    pub fn take(&mut self, piece: &[u8]) -> Result<Vec<Vec<u8>>, TooLarge> {
        let mut events = Vec::new();
        for &byte in piece {
            match byte {
                b'\n' if std::mem::take(&mut self.after_return) => {}
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    if let Some(event) = self.end_line(&line) {
                        events.push(event);
                    }
                    self.line = line;
                    self.line.clear();
                    self.line.shrink_to(64 * 1024);
                }
                _ => {
                    self.after_return = false;
                    if self.line.len() + self.data.len() >= EVENT_BYTES_MAX {
                        return Err(TooLarge);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    /// The last id that was given: whoever comes back names it.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The time after which to come back, if it was said.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn end_line(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let line = if std::mem::replace(&mut self.begun, true) {
            line
        } else {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
        };
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(at) => (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default()),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"id" if !value.contains(&0) && value.len() <= ID_BYTES_MAX => {
                self.last_id = std::str::from_utf8(value).ok().filter(|id| !id.is_empty()).map(ToOwned::to_owned);
            }
            b"retry" => {
                let ms = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                self.retry = ms.and_then(|ms| ms.parse().ok()).map(Duration::from_millis).or(self.retry);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &str) -> Vec<String> {
        let events = Events::default().take(text.as_bytes()).unwrap();
        events.into_iter().map(|event| String::from_utf8(event).unwrap()).collect()
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        // Its own examples.
        assert_eq!(all("data: YHOO\ndata: +2\ndata: 10\n\n"), ["YHOO\n+2\n10"]);
        assert_eq!(
            all(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n").len(),
            3
        );
        assert_eq!(all("data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
        assert_eq!(all("data:test\n\ndata: test\n\n"), ["test", "test"]);
        assert_eq!(all("\u{feff}data: a\r\n\r\ndata: b\r\rdata: c"), ["a", "b"]);
    }

    #[test]
    fn the_last_id_and_the_time_to_come_back_are_kept() {
        let mut events = Events::default();
        events.take(b"id: 7\nretry: 250\ndata:\n\nid: a\0b\nretry: soon\n\n").unwrap();
        assert_eq!((events.last_id(), events.retry()), (Some("7"), Some(Duration::from_millis(250))));
        events.take(b"id\n\n").unwrap();
        assert_eq!(events.last_id(), None);
    }

    #[test]
    fn an_event_without_an_end_is_given_up() {
        let (mut events, piece) = (Events::default(), vec![b'y'; 1 << 20]);
        assert!((0..40).any(|_| events.take(&piece).is_err()));
        let (mut events, line) = (Events::default(), [b"data: ".as_slice(), &vec![b'y'; 1 << 20], b"\n"].concat());
        assert!((0..40).any(|_| events.take(&line).is_err()), "many lines of one event are bounded too");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "(data|id|retry|:|x| |\r|\n|\r\n|7|é){0,60}", cut in 0_usize..200) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let (mut whole, mut cut_up) = (Events::default(), Events::default());
            let events = whole.take(bytes).unwrap();
            let mut pieces = cut_up.take(&bytes[..cut]).unwrap();
            pieces.extend(cut_up.take(&bytes[cut..]).unwrap());
            prop_assert_eq!(events, pieces);
            prop_assert_eq!(whole.last_id(), cut_up.last_id());
        }
    }
}
