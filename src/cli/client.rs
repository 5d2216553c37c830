//! A small HTTP client for the agent's unix socket.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::cli::body::Body;
use crate::cli::exit::{Exit, Failure};
use crate::doors::rest::HOME_HEADER;
use crate::ownership;
use crate::platform::FileId;
use crate::tasks::TaskGroup;

/// Longest answer that is read into memory: the largest result, 64 MiB, with its JSON escapes.
const ANSWER_BYTES_MAX: usize = 130 * 1024 * 1024;
/// Longest silence of an agent: on the same machine it answers in milliseconds; past this it hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The agent's own record of its process and socket. It may be long dead.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Noted {
    pub(crate) pid: u32,
    pub(crate) socket: PathBuf,
    /// The home of that agent, when it was started.
    #[serde(default)]
    pub(crate) home: PathBuf,
    home_id: Option<FileId>,
    #[serde(default)]
    pub(crate) peer_id: String,
}

/// The record in `<home>/run/endpoints.json`.
#[derive(Debug, Clone)]
pub(crate) enum Record {
    /// Of an agent of this home.
    Own(Noted),
    /// Of an agent of another home, of which this one is a copy. Not to be believed.
    OfOriginal(Noted),
}

/// Reads the record of a home.
pub(crate) fn record(home: &Path) -> Option<Record> {
    let text = std::fs::read(home.join("run/endpoints.json")).ok()?;
    let noted: Noted = serde_json::from_slice(&text).ok()?;
    let is_own = noted.home_id.is_some() && noted.home_id == FileId::of(home).ok();
    Some(if is_own { Record::Own(noted) } else { Record::OfOriginal(noted) })
}

/// The record of an agent of this home.
pub(crate) fn noted(home: &Path) -> Option<Noted> {
    match record(home)? {
        Record::Own(noted) => Some(noted),
        Record::OfOriginal(_) => None,
    }
}

/// Talks to the agent of one home. One connection per request: on a unix socket that costs microseconds, and no
/// request waits behind another.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    home: PathBuf,
    tasks: TaskGroup,
}

/// A success.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    /// State of what it shows, for whoever edits it.
    pub(crate) etag: Option<String>,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Body, Failure> {
        Body::read(&self.body)
    }
}

/// Parts of a request besides its path.
#[derive(Debug, Default)]
pub(crate) struct Extras<'a> {
    /// JSON.
    pub(crate) body: Option<String>,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// Longest silence before and within the answer, in place of [`ANSWER_WITHIN`].
    pub(crate) within: Option<Duration>,
}

impl Client {
    pub(crate) fn new(home: &Path) -> Self {
        Self { home: home.to_owned(), tasks: TaskGroup::default() }
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Opens the socket of this home's agent. Most failures mean that none runs.
    ///
    /// Whoever listens there must be us, root, or the owner of the home: to anybody else nothing is said.
    pub(crate) async fn connect(&self) -> Result<UnixStream, Failure> {
        // A home that was moved has taken its socket along; one with a long path has it elsewhere.
        let usual = self.home.join("run/sigil.sock");
        let elsewhere = noted(&self.home).map(|noted| noted.socket).filter(|socket| *socket != usual);
        let mut failure = None;
        for socket in [usual].into_iter().chain(elsewhere) {
            match UnixStream::connect(&socket).await {
                Ok(stream) => return self.trusted(stream, &socket),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(self.unreachable(failure.map(|error| error.kind())))
    }

    fn trusted(&self, stream: UnixStream, socket: &Path) -> Result<UnixStream, Failure> {
        let listener = stream.peer_cred().map(|peer| peer.uid());
        let owner = std::fs::metadata(&self.home).map(|home| home.uid());
        match listener {
            Ok(uid) if may_answer(uid, nix::unistd::geteuid().as_raw(), owner.ok()) => Ok(stream),
            Ok(uid) => Err(Failure::new(
                Exit::Denied,
                format!("at {} listens {}, and nothing was said to him", socket.display(), ownership::user(uid)),
            )
            .hint("remove that socket, then start the agent with `sigil up --detach`")),
            Err(error) => {
                Err(Failure::new(Exit::Failed, format!("who listens at {} is not known: {error}", socket.display())))
            }
        }
    }

    fn unreachable(&self, why: Option<std::io::ErrorKind>) -> Failure {
        let home = self.home.display();
        if why == Some(std::io::ErrorKind::PermissionDenied) {
            let owner = self.home.ancestors().find_map(|path| std::fs::metadata(path).ok()).map(|found| found.uid());
            let owner = owner.map_or_else(|| "another user".to_owned(), ownership::user);
            return Failure::new(Exit::Denied, format!("{home} is not open to this user: it belongs to {owner}"))
                .hint(format!("run this as {owner}"));
        }
        let (mut detail, mut hint) =
            (format!("no agent is running for {home}"), "start it with `sigil up --detach`".to_owned());
        if let Some(Record::OfOriginal(noted)) = record(&self.home) {
            let _ = write!(
                detail,
                "; it is a copy of {}, and what its run/endpoints.json says is of that one",
                noted.home.display()
            );
        } else if let (Some(user), true, false) =
            (std::env::var_os("SUDO_USER"), nix::unistd::geteuid().is_root(), self.home.exists())
        {
            let user = user.to_string_lossy();
            let _ = write!(detail, ", the home of root");
            hint = format!("without sudo it is the home of `{user}` that is looked at; or pass --home DIR");
        }
        Failure::new(Exit::NoAgent, detail).hint(hint)
    }

    /// The process that listens at the socket, as the kernel knows it.
    pub(crate) async fn agent_pid(&self) -> Option<u32> {
        let stream = self.connect().await.ok()?;
        stream.peer_cred().ok()?.pid()?.try_into().ok()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Body, Failure> {
        self.ask(Method::GET, path, Extras::default()).await?.json()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Body, Failure> {
        self.ask(Method::POST, path, Extras { body: Some(body.to_string()), ..Extras::default() }).await?.json()
    }

    /// Sends a request and reads the whole answer, for as long as it comes. Anything but 2xx is a [`Failure`].
    pub(crate) async fn ask(&self, method: Method, path: &str, extras: Extras<'_>) -> Result<Answer, Failure> {
        let within = extras.within.unwrap_or(ANSWER_WITHIN);
        let asked = self.open(method, path, extras);
        let response = tokio::time::timeout(within, asked).await.map_err(|_| silent(within))??;
        let status = response.status().as_u16();
        let etag = response.headers().get("etag").and_then(|etag| etag.to_str().ok()).map(ToOwned::to_owned);
        let mut body = Vec::new();
        let collect = |piece: &[u8]| {
            body.extend_from_slice(piece);
            Ok(())
        };
        pieces(Limited::new(response.into_body(), ANSWER_BYTES_MAX), within, collect).await?;
        if (200..300).contains(&status) {
            Ok(Answer { body: body.into(), etag })
        } else {
            Err(Failure::from_answer(status, &body))
        }
    }

    /// Sends a request, and hands each piece of the answer to `take` as it comes, however many there are.
    pub(crate) async fn download(
        &self,
        path: &str,
        take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let asked = self.open(Method::GET, path, Extras::default());
        let response = tokio::time::timeout(ANSWER_WITHIN, asked).await.map_err(|_| silent(ANSWER_WITHIN))??;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            return pieces(response.into_body(), ANSWER_WITHIN, take).await;
        }
        let mut body = Vec::new();
        let collect = |piece: &[u8]| {
            body.extend_from_slice(piece);
            Ok(())
        };
        pieces(Limited::new(response.into_body(), ANSWER_BYTES_MAX), ANSWER_WITHIN, collect).await?;
        Err(Failure::from_answer(status, &body))
    }

    /// Sends a request, with JSON in it or without, and gives the answer as it comes.
    #[cfg(feature = "mcp")]
    pub(crate) async fn stream(
        &self,
        path: &str,
        body: Option<String>,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, Failure> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        self.open(method, path, Extras { body, headers, within: None }).await
    }

    async fn open(&self, method: Method, path: &str, extras: Extras<'_>) -> Result<Response<Incoming>, Failure> {
        let stream = self.connect().await?;
        let broken = |error: hyper::Error| Failure::new(Exit::Failed, format!("talking to the agent: {error}"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        self.tasks.spawn(async move {
            // Whatever goes wrong on the connection, the request sees it too.
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if let Ok(home) = FileId::of(&self.home) {
            request = request.header(HOME_HEADER, home.to_string());
        }
        for (name, value) in extras.headers {
            request = request.header(*name, *value);
        }
        let body = match extras.body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Bytes::from(body)
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::new(Exit::Usage, format!("this cannot be asked over HTTP: {error}")))?;
        sender.send_request(request).await.map_err(broken)
    }
}

fn silent(within: Duration) -> Failure {
    Failure::new(Exit::NoAgent, format!("the agent has been silent for {} s", within.as_secs()))
        .hint("look at `sigil logs`, or at logs/agent.log in the home")
}

/// Reads a body for as long as it comes.
async fn pieces<B>(
    mut body: B,
    within: Duration,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure>
where
    B: BodyExt<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    while let Some(frame) = tokio::time::timeout(within, body.frame()).await.map_err(|_| silent(within))? {
        let frame =
            frame.map_err(|error| Failure::new(Exit::Failed, format!("the agent broke off its answer: {error}")))?;
        take(frame.data_ref().map_or(&[][..], |bytes| bytes))?;
    }
    Ok(())
}

/// True if a process of user `uid` may hear what user `us` has to say to the agent of a home.
fn may_answer(uid: u32, us: u32, owner: Option<u32>) -> bool {
    uid == 0 || uid == us || Some(uid) == owner
}

/// Makes any text safe as one segment of a path or one value of a query.
pub(crate) fn segment(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => safe.push(char::from(byte)),
            _ => {
                safe.push('%');
                safe.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
            }
        }
    }
    // A segment of dots would be taken for a step up.
    if safe.chars().all(|letter| letter == '.') { safe.replace('.', "%2E") } else { safe }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[test]
    fn k6_segments_cannot_leave_their_place() {
        assert_eq!(segment("macbook-pro"), "macbook-pro");
        assert_eq!(segment("../x?y=ü z"), "..%2Fx%3Fy%3D%C3%BC%20z");
        assert_eq!(segment(".."), "%2E%2E");
    }

    #[test]
    fn s18_only_we_root_and_the_owner_of_the_home_are_spoken_to() {
        let (nobody, user) = (65_534, 1_000);
        assert!(may_answer(0, user, Some(user)) && may_answer(user, user, None));
        assert!(may_answer(user, 0, Some(user)), "root looks after a user's agent");
        assert!(!may_answer(nobody, 0, Some(0)) && !may_answer(nobody, 0, None));
        assert!(!may_answer(nobody, user, Some(user)));
    }

    #[test]
    fn b04_a_record_that_came_with_a_copy_is_not_believed() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        for home in [&one, &two] {
            std::fs::create_dir_all(home.join("run")).expect("a fresh dir");
        }
        let id = FileId::of(&one).expect("it is there");
        let text = serde_json::json!({ "pid": 7, "socket": "/x", "home": one, "home_id": id }).to_string();
        for home in [&one, &two] {
            std::fs::write(home.join("run/endpoints.json"), &text).expect("writable");
        }
        assert_eq!(noted(&one).map(|noted| noted.pid), Some(7));
        assert!(noted(&two).is_none() && matches!(record(&two), Some(Record::OfOriginal(noted)) if noted.home == one));
        let text = serde_json::json!({ "pid": 7, "socket": "/x" }).to_string();
        std::fs::write(one.join("run/endpoints.json"), text).expect("writable");
        assert!(noted(&one).is_none(), "a record that does not say whose it is");
    }

    fn home_with_listener() -> (tempfile::TempDir, UnixListener) {
        let home = tempfile::tempdir().expect("a temp dir");
        std::fs::create_dir(home.path().join("run")).expect("a fresh dir");
        let listener = UnixListener::bind(home.path().join("run/sigil.sock")).expect("a fresh path");
        (home, listener)
    }

    async fn answer_once(listener: UnixListener, answer: &'static [u8]) -> String {
        let (mut stream, _) = listener.accept().await.expect("someone connects");
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let count = stream.read(&mut buffer).await.expect("a request");
            request.extend_from_slice(&buffer[..count]);
        }
        stream.write_all(answer).await.expect("the client reads");
        String::from_utf8_lossy(&request).into_owned()
    }

    #[tokio::test]
    async fn a_request_and_its_answer() {
        let (home, listener) = home_with_listener();
        let client = Client::new(home.path());
        let served = answer_once(listener, b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"ok\":true}");
        let (request, answer) = tokio::join!(served, client.get("/api/v1/status"));
        assert!(request.starts_with("GET /api/v1/status HTTP/1.1\r\n"), "{request}");
        assert_eq!(answer.expect("a success")["ok"], true);
    }

    #[tokio::test]
    async fn a_problem_is_a_failure() {
        let (home, listener) = home_with_listener();
        let client = Client::new(home.path());
        let served =
            answer_once(listener, b"HTTP/1.1 404 Not Found\r\ncontent-length: 18\r\n\r\n{\"detail\":\"no x.\"}");
        let (_, answer) = tokio::join!(served, client.get("/x"));
        let failure = answer.expect_err("a 404");
        assert_eq!((failure.exit, failure.detail.as_str()), (Exit::NotFound, "no x."));
    }

    #[tokio::test]
    async fn no_socket_means_no_agent() {
        let home = tempfile::tempdir().expect("a temp dir");
        let failure = Client::new(home.path()).get("/x").await.expect_err("nobody there");
        assert_eq!(failure.exit, Exit::NoAgent);
        assert!(failure.hint.is_some_and(|hint| hint.contains("sigil up")));
    }

    #[tokio::test]
    async fn a_silent_agent_is_given_up() {
        let (home, listener) = home_with_listener();
        let client = Client::new(home.path());
        let extras = Extras { within: Some(Duration::from_millis(50)), ..Extras::default() };
        let failure = client.ask(Method::GET, "/x", extras).await.expect_err("no answer");
        assert_eq!(failure.exit, Exit::NoAgent, "7 says that a call did not run");
        drop(listener);
    }

    #[tokio::test]
    async fn b06_an_answer_may_take_long_while_bytes_come() {
        let (home, listener) = home_with_listener();
        let client = Client::new(home.path());
        let served = async {
            let (mut stream, _) = listener.accept().await.expect("someone connects");
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n").await.expect("the client reads");
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                stream.write_all(b"x").await.expect("the client reads");
            }
        };
        let extras = Extras { within: Some(Duration::from_millis(200)), ..Extras::default() };
        let ((), answer) = tokio::join!(served, client.ask(Method::GET, "/x", extras));
        assert_eq!(answer.expect("it came, twice as slow as one silence").body.len(), 40);
    }
}
