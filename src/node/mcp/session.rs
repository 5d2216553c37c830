//! One conversation with a server: requests and their answers, each with its own deadline, over two streams of lines, or over
//! whatever carries its messages ([`Session::parts`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::wire::{self, Era, Greeted, Incoming, LINE_BYTES_MAX, RpcError};
use crate::secrets::Redactor;

/// Time for a server to answer its greeting in the newer era; one of the older may be mute to it (as `rmcp` waits).
const PROBE: Duration = Duration::from_secs(10);
/// Time for it to answer all that is asked before its tools run: some load for a long time first.
const START: Duration = Duration::from_mins(1);
/// Lines that wait to be written: a server that reads none holds up whoever calls it, and nobody else.
const LINES_MAX: usize = 64;
/// Notes of one run that wait; more of them are lost, and the run goes on.
const NOTES_MAX: usize = 16;
/// Pages of a list of tools, and tools in all.
const PAGES_MAX: usize = 64;
const TOOLS_MAX: usize = 1024;
/// Bytes of a list of tools, all pages together.
const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The way in which a request ended without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    /// The conversation is over.
    #[error("it ended")]
    Over,
    /// It took too long.
    #[error("it did not answer `{0}` in time")]
    Late(&'static str),
    /// It says no.
    #[error("it answered `{0}` with an error: {1}")]
    Refused(&'static str, String),
    /// Its answer makes no sense.
    #[error("{0}")]
    Strange(String),
}

/// See the module. Cheap to clone; it is over when its server closes its stream, or all clones are gone.
#[derive(Debug, Clone)]
pub(super) struct Session {
    lines: mpsc::Sender<Vec<u8>>,
    open: Arc<Mutex<Open>>,
    changes: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    over: bool,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<Value, RpcError>>,
    notes: mpsc::Sender<String>,
}

/// A request that was sent. Dropped, nobody waits for its answer any more.
#[derive(Debug)]
pub(super) struct Asked {
    /// Its number.
    pub(super) id: u64,
    /// Its answer; an error: the conversation is over.
    pub(super) answer: oneshot::Receiver<Result<Value, RpcError>>,
    /// How far it is.
    pub(super) notes: mpsc::Receiver<String>,
    open: Arc<Mutex<Open>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        locked(&self.open).waiting.remove(&self.id);
    }
}

fn locked(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a server says goes where it belongs. Of it nothing is kept before the secrets were taken out: a server can say them
/// anywhere. Dropped, whoever waits is told that the conversation is over.
#[derive(Debug)]
pub(super) struct Hearing {
    open: Arc<Mutex<Open>>,
    lines: mpsc::WeakSender<Vec<u8>>,
    changed: watch::Sender<u64>,
    redactor: Redactor,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        let mut open = locked(&self.open);
        open.over = true;
        open.waiting.clear();
    }
}

impl Hearing {
    /// Takes a message of at most [`LINE_BYTES_MAX`].
    ///
    /// # Errors
    /// The server is not to be heard any more, for this reason.
    pub(super) fn take(&self, message: &[u8]) -> Result<(), String> {
        if wire::has_too_many(message) {
            return Err("it wrote a line with more values than are read".to_owned());
        }
        match wire::read(message).map(|said| said.redacted(&self.redactor)) {
            Some(Incoming::Answer(id, answer)) => self.answer(id, answer),
            Some(Incoming::Progress(progress)) => {
                if let Some(waiting) = locked(&self.open).waiting.get(&progress.token) {
                    let _ = waiting.notes.try_send(progress.note);
                }
            }
            Some(Incoming::ToolsChanged) => self.changed.send_modify(|changes| *changes += 1),
            Some(Incoming::Asks { id, method }) => {
                if let Some(lines) = self.lines.upgrade() {
                    let _ = lines.try_send(wire::answer(&id, &method));
                }
            }
            Some(Incoming::Other) => {}
            None => tracing::debug!(bytes = message.len(), "a hosted server wrote a line that is no message"),
        }
        Ok(())
    }

    /// Answers a request in place of its server, with an error that may have words of the server in it.
    pub(super) fn refuse(&self, id: u64, RpcError { code, message }: RpcError) {
        self.answer(id, Err(RpcError { code, message: self.redacted(&message) }));
    }

    /// A text without secrets.
    pub(super) fn redacted(&self, text: &str) -> String {
        self.redactor.redacted(text).into_owned()
    }

    fn answer(&self, id: u64, answer: Result<Value, RpcError>) {
        let waiting = locked(&self.open).waiting.remove(&id);
        if let Some(waiting) = waiting {
            let _ = waiting.answer.send(answer);
        }
    }

    /// Whoever waits for the answer to this request is told that there will be none.
    pub(super) fn lose(&self, id: u64) {
        locked(&self.open).waiting.remove(&id);
    }

    /// True while somebody waits for the answer to this request.
    pub(super) fn is_awaited(&self, id: u64) -> bool {
        locked(&self.open).waiting.contains_key(&id)
    }
}

impl Session {
    /// A conversation for whoever carries its messages: what is heard is given to the second, and what is to be sent comes out of
    /// the third, line by line. That one ends when all clones of the conversation are gone.
    pub(super) fn parts(redactor: Redactor) -> (Self, Hearing, mpsc::Receiver<Vec<u8>>) {
        let (lines, to_write) = mpsc::channel(LINES_MAX);
        let (changed, changes) = watch::channel(0);
        let open = Arc::new(Mutex::new(Open::default()));
        let hearing = Hearing { open: open.clone(), lines: lines.downgrade(), changed, redactor };
        (Self { lines, open, changes }, hearing, to_write)
    }

    /// A conversation over these streams. The future is its work, and says at its end why it is over: it has to be run, and ends
    /// when the server closes its stream; `writes` is closed when all clones are gone.
    pub(super) fn over<R, W>(reads: R, writes: W, redactor: Redactor) -> (Self, impl Future<Output = String> + Send)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let (session, hearing, to_write) = Self::parts(redactor);
        let work = async move {
            tokio::select! {
                why = read_all(reads, &hearing) => why,
                why = write_all(writes, to_write) => why,
            }
        };
        (session, work)
    }

    /// Number of the changes of the list of tools that were told.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The conversation is over, and the request was not sent.
    async fn send(&self, line: impl FnOnce(u64) -> Vec<u8>) -> Result<Asked, AskError> {
        // A place first: what is registered is sent.
        let place = self.lines.reserve().await.map_err(|_| AskError::Over)?;
        let ((answers, answer), (to, notes)) = (oneshot::channel(), mpsc::channel(NOTES_MAX));
        let mut open = locked(&self.open);
        if open.over {
            return Err(AskError::Over);
        }
        open.last += 1;
        let id = open.last;
        open.waiting.insert(id, Waiting { answer: answers, notes: to });
        drop(open);
        place.send(line(id));
        Ok(Asked { id, answer, notes, open: self.open.clone() })
    }

    /// Tells something that has no answer. A server that reads nothing is not waited for.
    pub(super) fn tell(&self, line: Vec<u8>) {
        let _ = self.lines.try_send(line);
    }

    async fn answer_within(
        &self,
        within: Duration,
        method: &'static str,
        line: impl FnOnce(u64) -> Vec<u8>,
    ) -> Result<Result<Value, RpcError>, AskError> {
        let asked = async {
            let mut asked = self.send(line).await?;
            (&mut asked.answer).await.map_err(|_| AskError::Over)
        };
        timeout(within, asked).await.map_err(|_| AskError::Late(method))?
    }

    /// Greets the server, and finds out which era it is of. `known`: that is known of it. A server of the older era that was
    /// asked in words of the newer one is asked again over the same streams.
    ///
    /// # Errors
    /// It cannot be spoken to.
    pub(super) async fn greet(&self, known: Option<Era>) -> Result<(Era, Greeted), AskError> {
        if known != Some(Era::Legacy) {
            match self.answer_within(PROBE, "server/discover", |id| wire::hello(Era::Modern, id)).await {
                Ok(Ok(answer)) => {
                    let greeted = wire::greeted(Era::Modern, &answer).map_err(AskError::Strange)?;
                    return Ok((Era::Modern, greeted));
                }
                Ok(Err(error)) if !error.is_of_legacy() => {
                    return Err(AskError::Refused("server/discover", error.message));
                }
                Ok(Err(_)) | Err(AskError::Late(_)) => {}
                Err(error @ (AskError::Over | AskError::Refused(..) | AskError::Strange(_))) => return Err(error),
            }
        }
        let answer = self.answer_within(START, "initialize", |id| wire::hello(Era::Legacy, id)).await?;
        let answer = answer.map_err(|error| AskError::Refused("initialize", error.message))?;
        let greeted = wire::greeted(Era::Legacy, &answer).map_err(AskError::Strange)?;
        self.tell(wire::initialized());
        Ok((Era::Legacy, greeted))
    }

    /// Asks to be told of changes; the answer comes when the conversation is over.
    pub(super) async fn listen(&self) -> Option<Asked> {
        self.send(wire::listen).await.ok()
    }

    /// All tools of the server.
    ///
    /// # Errors
    /// It does not list them.
    pub(super) async fn tools(&self, era: Era) -> Result<Vec<Value>, AskError> {
        const METHOD: &str = "tools/list";
        let (mut tools, mut cursor, mut bytes) = (Vec::new(), None, 0);
        for _ in 0..PAGES_MAX {
            let mut params = Map::new();
            if let Some(cursor) = cursor {
                params.insert("cursor".to_owned(), cursor);
            }
            let answer = self.answer_within(START, METHOD, |id| wire::request(era, id, METHOD, params)).await?;
            let answer = answer.map_err(|error| AskError::Refused(METHOD, error.message))?;
            let page = answer.get("tools").and_then(Value::as_array);
            let page = page.ok_or_else(|| AskError::Strange("its list of tools is no list".to_owned()))?;
            bytes += page.iter().map(|tool| tool.to_string().len()).sum::<usize>();
            if bytes > LIST_BYTES_MAX {
                let why = format!("its list of tools has more than {} MiB", LIST_BYTES_MAX >> 20);
                return Err(AskError::Strange(why));
            }
            tools.extend(page.iter().take(TOOLS_MAX - tools.len()).cloned());
            cursor = answer.get("nextCursor").filter(|cursor| cursor.is_string()).cloned();
            if cursor.is_none() || tools.len() >= TOOLS_MAX {
                break;
            }
        }
        Ok(tools)
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// The conversation is over, and nothing was asked.
    pub(super) async fn call(&self, era: Era, tool: &str, arguments: &RawValue) -> Result<Asked, AskError> {
        self.send(|id| wire::call(era, id, tool, arguments)).await
    }
}

async fn write_all(mut writes: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<Vec<u8>>) -> String {
    while let Some(line) = lines.recv().await {
        if let Err(error) = async {
            writes.write_all(&line).await?;
            writes.flush().await
        }
        .await
        {
            return format!("it reads nothing any more: {error}");
        }
    }
    "nobody needs it any more".to_owned()
}

async fn read_all(reads: impl AsyncRead + Unpin, hearing: &Hearing) -> String {
    let mut reads = BufReader::new(reads);
    let mut line = Vec::new();
    loop {
        match next_line(&mut reads, &mut line).await {
            Ok(true) => {}
            Ok(false) => return "it has closed its output".to_owned(),
            Err(why) => return why,
        }
        if let Err(why) = hearing.take(&line) {
            return why;
        }
        line.clear();
        line.shrink_to(64 * 1024);
    }
}

/// Reads a line; false: there is none any more.
async fn next_line(reads: &mut BufReader<impl AsyncRead + Unpin>, line: &mut Vec<u8>) -> Result<bool, String> {
    loop {
        let available = reads.fill_buf().await.map_err(|error| error.to_string())?;
        if available.is_empty() {
            return Ok(false);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |at| at + 1);
        if line.len() + taken > LINE_BYTES_MAX {
            return Err(format!("it wrote a line of more than {} MiB", LINE_BYTES_MAX >> 20));
        }
        line.extend_from_slice(available.get(..taken).unwrap_or_default());
        reads.consume(taken);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::TaskGroup;
    use serde_json::json;
    use tokio::io::{DuplexStream, duplex};

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    struct Server {
        reads: BufReader<DuplexStream>,
        writes: DuplexStream,
        tasks: TaskGroup,
    }

    fn started() -> (Session, Server, oneshot::Receiver<String>) {
        let ((to, reads), (writes, from)) = (duplex(1 << 16), duplex(1 << 16));
        let (session, work) = Session::over(from, to, Redactor::default());
        let (tasks, (over, why)) = (TaskGroup::default(), oneshot::channel());
        tasks.spawn(async move { drop(over.send(work.await)) });
        (session, Server { reads: BufReader::new(reads), writes, tasks }, why)
    }

    impl Server {
        async fn next(&mut self) -> Value {
            let mut line = Vec::new();
            assert!(next_line(&mut self.reads, &mut line).await.unwrap());
            serde_json::from_slice(&line).unwrap()
        }

        async fn say(&mut self, message: Value) {
            self.writes.write_all(format!("{message}\n").as_bytes()).await.unwrap();
        }

        async fn answer(&mut self, asked: &Value, result: Value) {
            self.say(json!({ "id": asked["id"], "result": result })).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_mute_server_of_the_older_era_is_greeted_in_its_words() {
        let (session, mut server, _why) = started();
        let serves = async {
            assert_eq!(server.next().await["method"], "server/discover");
            let hello = server.next().await;
            assert_eq!(hello["method"], "initialize");
            server
                .answer(
                    &hello,
                    json!({ "protocolVersion": "2025-06-18", "serverInfo": { "name": "x", "version": "2" } }),
                )
                .await;
            assert_eq!(server.next().await["method"], "notifications/initialized");
            let list = server.next().await;
            server.answer(&list, json!({ "tools": [{ "name": "a" }], "nextCursor": "p2" })).await;
            let list = server.next().await;
            assert_eq!(list["params"]["cursor"], "p2");
            server.answer(&list, json!({ "tools": [{ "name": "b" }] })).await;
        };
        let asks = async {
            let (era, greeted) = session.greet(None).await.unwrap();
            assert_eq!((era, greeted.version.as_str()), (Era::Legacy, "2"));
            assert_eq!(session.tools(era).await.unwrap().len(), 2);
        };
        tokio::join!(serves, asks);
    }

    #[tokio::test]
    async fn answers_and_notes_find_their_request_whatever_else_is_written() {
        let (session, mut server, why) = started();
        let mut one = session.call(Era::Legacy, "a", &raw("{}")).await.unwrap();
        let mut two = session.call(Era::Legacy, "b", &raw("{}")).await.unwrap();
        let (first, second) = (server.next().await, server.next().await);
        server.writes.write_all(b"this is not JSON\n\xff\xfe\x00\n").await.unwrap();
        server.say(json!({ "id": 99, "result": 1 })).await;
        server.say(json!({ "method": "notifications/progress", "params": { "progressToken": first["id"], "progress": 1, "total": 2 } })).await;
        server.say(json!({ "id": "s", "method": "ping" })).await;
        server.answer(&second, json!("b")).await;
        server.answer(&first, json!("a")).await;
        assert_eq!((&mut two.answer).await.unwrap(), Ok(json!("b")));
        assert_eq!((&mut one.answer).await.unwrap(), Ok(json!("a")));
        assert_eq!(one.notes.recv().await.as_deref(), Some("50%"));
        assert_eq!(server.next().await["id"], "s");

        let three = session.call(Era::Legacy, "c", &raw("{}")).await.unwrap();
        server.next().await;
        drop(server.writes);
        let mut three = three;
        assert!((&mut three.answer).await.is_err(), "whoever waits is told");
        assert_eq!(why.await.unwrap(), "it has closed its output");
        assert_eq!(session.call(Era::Legacy, "d", &raw("{}")).await.unwrap_err(), AskError::Over);
        assert!(server.tasks.shutdown(Duration::from_secs(1)).await);
    }

    #[tokio::test]
    async fn a_line_without_an_end_ends_the_conversation() {
        let (session, mut server, why) = started();
        let asked = session.call(Era::Legacy, "a", &raw("{}")).await.unwrap();
        let flood = async {
            let chunk = vec![b'y'; 1 << 16];
            while server.writes.write_all(&chunk).await.is_ok() {}
        };
        let (why, ()) = tokio::join!(why, flood);
        assert!(why.unwrap().contains("more than 32 MiB"));
        let mut asked = asked;
        assert!((&mut asked.answer).await.is_err());
    }
}
