//! A small blocking HTTP/1.1 client for an agent's unix socket: one request per connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Longest that an agent may stay silent within one answer, also on a disk that is busy with other things.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// The body; null when it is empty or no JSON.
    pub(super) body: Value,
}

impl Answer {
    /// True for a success.
    pub(super) fn is_yes(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A field of the body as text; empty when it is not there.
    pub(super) fn text(&self, field: &str) -> String {
        text(&self.body, field).to_owned()
    }
}

/// A field as text; empty when it is not there.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Asks at `socket`; `key` goes along as `Idempotency-Key`.
pub(super) fn ask(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    key: Option<&str>,
) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    write!(
        stream,
        "{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    read_answer(BufReader::new(stream))
}

fn read_answer(mut stream: impl BufRead) -> io::Result<Answer> {
    let odd = |what: &str| io::Error::new(io::ErrorKind::UnexpectedEof, what.to_owned());
    let line = read_line(&mut stream)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| odd("no status line"))?;
    let (mut len, mut chunked) = (None, false);
    loop {
        let line = read_line(&mut stream)?.to_ascii_lowercase();
        let Some((name, value)) = line.split_once(':') else { break };
        match name {
            "content-length" => len = value.trim().parse::<u64>().ok(),
            "transfer-encoding" => chunked = value.contains("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = u64::from_str_radix(&read_line(&mut stream)?, 16).map_err(|_| odd("no chunk size"))?;
            stream.by_ref().take(size).read_to_end(&mut body)?;
            read_line(&mut stream)?;
            if size == 0 {
                break;
            }
        }
    } else {
        stream.take(len.unwrap_or(u64::MAX)).read_to_end(&mut body)?;
    }
    Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() })
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_and_in_chunks() {
        for wire in [
            "HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\n{\"a\":1}\n",
            "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n",
        ] {
            let answer = read_answer(wire.as_bytes()).expect(wire);
            assert_eq!((answer.status, &answer.body["a"]), (202, &Value::from(1)), "{wire}");
        }
        let answer = read_answer(&b"HTTP/1.1 204 No Content\r\n\r\n"[..]).expect("an empty one");
        assert!(answer.is_yes() && answer.body.is_null());
        assert!(read_answer(&b""[..]).is_err(), "an agent that died says nothing");
    }
}
