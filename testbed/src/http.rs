//! A small blocking HTTP/1.1 client: one request per connection, every read and write with a deadline.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body as it came, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// A header by its name, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// True for a status of success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is empty or no JSON.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {:?}", self.status, self.text()))
    }

    /// The body, when the status is as expected.
    ///
    /// # Panics
    /// It is another.
    #[expect(clippy::must_use_candidate, reason = "an assertion, for whoever wants no more")]
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The problem document (RFC 9457) that every error is.
    ///
    /// # Panics
    /// It is none.
    #[expect(clippy::must_use_candidate, reason = "an assertion, for whoever wants no more")]
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "{kind:?}: {}", self.text());
        let problem = self.json();
        assert_eq!(problem.get("status"), Some(&Value::from(status)), "{problem}");
        for field in ["type", "title", "detail", "code"] {
            assert!(!crate::text(&problem, field).is_empty(), "no {field} in {problem}");
        }
        problem
    }
}

/// A request; headers one by one.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// In capitals.
    pub method: &'a str,
    /// With its query.
    pub path: &'a str,
    /// Besides `Host`, `Connection` and `Content-Length`.
    pub headers: &'a [(&'a str, &'a str)],
    /// Empty for none.
    pub body: &'a [u8],
}

/// Asks over a unix socket.
///
/// # Errors
/// Nobody listens, or the server is silent for longer than `silence_max` within one answer.
pub fn ask_unix(socket: &Path, request: &Request<'_>, silence_max: Duration) -> io::Result<Response> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(silence_max))?;
    stream.set_write_timeout(Some(silence_max))?;
    exchange(stream, "localhost", request)
}

/// Asks over loopback TCP; `host` goes into the Host header.
///
/// # Errors
/// Nobody listens, or the server is silent for longer than `silence_max` within one answer.
pub fn ask_tcp(port: u16, host: &str, request: &Request<'_>, silence_max: Duration) -> io::Result<Response> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(silence_max))?;
    stream.set_write_timeout(Some(silence_max))?;
    exchange(stream, host, request)
}

/// The unix socket of the agent of a home.
#[must_use]
pub fn socket(home: &Path) -> std::path::PathBuf {
    home.join("run/sigil.sock")
}

fn exchange(mut stream: impl Read + Write, host: &str, request: &Request<'_>) -> io::Result<Response> {
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n", request.method, request.path);
    for (name, value) in request.headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if !request.body.is_empty() || request.method != "GET" {
        head.extend(["Content-Length: ", &request.body.len().to_string(), "\r\n"]);
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A server that refuses early (body too large) answers and closes while we still write: read its answer.
    let sent = stream.write_all(request.body).and_then(|()| stream.flush());
    match read_response(BufReader::new(stream)) {
        Ok(response) => Ok(response),
        Err(error) => Err(sent.err().unwrap_or(error)),
    }
}

fn read_response(mut stream: impl BufRead) -> io::Result<Response> {
    let line = read_line(&mut stream)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, format!("no status line: {line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(&mut stream)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    if response.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        response.body = read_chunks(&mut stream)?;
    } else if let Some(len) = response.header("content-length").and_then(|len| len.parse().ok()) {
        stream.take(len).read_to_end(&mut response.body)?;
    } else {
        stream.read_to_end(&mut response.body)?;
    }
    Ok(response)
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn read_chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = read_line(stream)?;
        let size = size.split(';').next().unwrap_or_default();
        let len = u64::from_str_radix(size, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("no chunk size: {size:?}")))?;
        let mut chunk = Vec::new();
        stream.take(len).read_to_end(&mut chunk)?;
        body.extend_from_slice(&chunk);
        read_line(stream)?;
        if len == 0 {
            return Ok(body);
        }
    }
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
            let answer = read_response(wire.as_bytes()).expect(wire);
            assert_eq!((answer.status, &answer.value()["a"]), (202, &Value::from(1)), "{wire}");
        }
        let answer = read_response(&b"HTTP/1.1 204 No Content\r\n\r\n"[..]).expect("an empty one");
        assert!(answer.is_success() && answer.value().is_null());
        assert!(read_response(&b""[..]).is_err(), "an agent that died says nothing");
    }
}
