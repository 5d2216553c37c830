//! MCP on standard input and output, handed to the agent's door on the unix socket and back. It keeps nothing but which requests are
//! under way: a call is in the queue of the mesh, and a key makes it one call however often it is handed over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::Response;
use hyper::body::Incoming;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::client::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, reader_gone};
use crate::doors::auth::CLIENT_HEADER;
use crate::doors::mcp::{KEEP_HEADER, PATH, PROFILE_HEADER, SESSION_HEADER, headers_of};
use crate::tasks::TaskGroup;

/// Longest line of a client: what the door takes, and room for a key.
const LINE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Longest document that is no message: a problem.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;
/// Longest event of a stream.
const EVENT_BYTES_MAX: usize = 130 * 1024 * 1024;
/// Time for which an agent that was there is waited for: it is started anew in less.
const RECONNECT: Duration = Duration::from_secs(20);
/// Between two tries, and between two to listen, which nobody waits for.
const RETRY: Duration = Duration::from_millis(200);
const LISTEN_AGAIN: Duration = Duration::from_secs(2);
/// Time that requests under way get once the input has ended.
const LINGER: Duration = Duration::from_millis(700);
/// Requests under way. One more is answered with an error: what takes requests back is read all the time.
const UNDER_WAY_MAX: usize = 128;
/// The agent is not there.
const NO_AGENT: i64 = -32_000;
/// More requests than are handed over at once.
const TOO_MANY: i64 = -32_005;
/// It may or may not have happened.
const UNKNOWN_OUTCOME: i64 = -32_001;

/// A connection of a client.
struct Proxy {
    client: Client,
    ui: Ui,
    agent: Option<String>,
    profile: Option<&'static str>,
    /// Tells its requests from those of other clients of the same name.
    session: String,
    /// True once the agent has answered something.
    met: Mutex<bool>,
    /// One message at a time.
    output: tokio::sync::Mutex<()>,
    /// Told when there is no agent, and never was: there is no use in going on.
    failed: mpsc::Sender<Failure>,
    under_way: Mutex<BTreeSet<u64>>,
    over: Notify,
}

/// Serves until the input ends, or nobody reads the output any more.
pub(super) async fn serve(
    client: &Client,
    agent: Option<&str>,
    profile: Option<&'static str>,
    ui: Ui,
) -> Result<Exit, Failure> {
    let (failed, mut failures) = mpsc::channel(1);
    let proxy = Arc::new(Proxy {
        client: client.clone(),
        ui,
        agent: agent.map(ToOwned::to_owned),
        profile,
        session: random(),
        met: Mutex::new(false),
        output: tokio::sync::Mutex::new(()),
        failed,
        under_way: Mutex::default(),
        over: Notify::new(),
    });
    let tasks = TaskGroup::default();
    let mut input = BufReader::new(tokio::io::stdin());
    let mut number = 0;
    // A client of the older era gets the stream that it would open over HTTP.
    let mut listens = false;
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut input).take(LINE_BYTES_MAX);
        let read = tokio::select! {
            biased;
            Some(failure) = failures.recv() => return Err(failure),
            read = limited.read_until(b'\n', &mut line) => read,
        };
        let count = read.map_err(|error| Failure::new(Exit::Failed, format!("reading standard input: {error}")))?;
        if count == 0 || reader_gone() {
            break;
        }
        if !line.ends_with(b"\n") && line.len() as u64 >= LINE_BYTES_MAX {
            let why = format!("a message may have at most {LINE_BYTES_MAX} bytes");
            return Err(Failure::new(Exit::Usage, why));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        if !listens && method_of(&line).as_deref() == Some("notifications/initialized") {
            listens = true;
            let proxy = proxy.clone();
            tasks.spawn(async move { proxy.listen().await });
        }
        let full = proxy.under_way.lock().unwrap_or_else(PoisonError::into_inner).len() >= UNDER_WAY_MAX;
        if let Some(id) = id_of_request(&line).filter(|_| full) {
            let message = format!("{UNDER_WAY_MAX} requests are under way: wait for one of them, or take one back");
            proxy.say(&error(&id, TOO_MANY, &message)).await;
            continue;
        }
        number += 1;
        proxy.under_way.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        let (proxy, number) = (proxy.clone(), number);
        tasks.spawn(async move {
            proxy.hand_over(line).await;
            proxy.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            proxy.over.notify_one();
        });
    }
    // What is under way may yet be answered. Calls go on in any case.
    let done = async {
        while !proxy.under_way.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            proxy.over.notified().await;
        }
    };
    let _ = timeout(LINGER, done).await;
    match failures.try_recv() {
        Ok(failure) => Err(failure),
        Err(_) => Ok(Exit::Ok),
    }
}

fn random() -> String {
    let mut bytes = [0; 16];
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    data_encoding::HEXLOWER.encode(&bytes)
}

/// The end of one try to hand a message over.
enum Tried {
    Done,
    /// The agent has not got it.
    NotSent(Failure),
    /// It may have got it.
    Lost,
}

/// What has to be known of a message.
struct Known {
    id: Option<Value>,
    method: String,
    /// True if it may be handed over twice.
    again: bool,
}

impl Proxy {
    async fn hand_over(&self, line: Vec<u8>) {
        let (line, known) = prepared(line);
        let headers = headers_of(&line);
        let Ok(text) = String::from_utf8(line) else {
            return self.say(&json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32700, "message": "this is not UTF-8" } })).await;
        };
        let deadline = Instant::now() + RECONNECT;
        let mut acknowledged = false;
        loop {
            let tried = self.try_once(&text, &headers, &known, &mut acknowledged).await;
            let met = *self.met.lock().unwrap_or_else(PoisonError::into_inner);
            match tried {
                Tried::Done => return,
                Tried::NotSent(failure) if !met || Instant::now() >= deadline => {
                    if let Some(id) = &known.id {
                        let hint = failure.hint.clone().unwrap_or_default();
                        let message = format!("{}. {hint}", failure.detail);
                        self.say(&error(id, NO_AGENT, &message)).await;
                    }
                    if !met {
                        let _ = self.failed.try_send(failure);
                    }
                    return;
                }
                Tried::Lost if !known.again => {
                    if let Some(id) = &known.id {
                        let message = "the agent has gone while it was at this: it may or may not have happened";
                        self.say(&error(id, UNKNOWN_OUTCOME, message)).await;
                    }
                    return;
                }
                Tried::NotSent(_) | Tried::Lost => sleep(RETRY).await,
            }
        }
    }

    async fn try_once(
        &self,
        text: &str,
        said: &[(&'static str, String)],
        known: &Known,
        acknowledged: &mut bool,
    ) -> Tried {
        let mut headers = self.headers();
        headers.extend(said.iter().map(|(name, value)| (*name, value.as_str())));
        let response = match self.client.stream(PATH, Some(text.to_owned()), &headers).await {
            Ok(response) => response,
            // Before there is a connection nothing was said.
            Err(failure) if matches!(failure.exit, Exit::NoAgent | Exit::Denied) => return Tried::NotSent(failure),
            Err(_) => return Tried::Lost,
        };
        *self.met.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let kind =
            response.headers().get("content-type").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        if kind.starts_with("text/event-stream") {
            return self.events(response, known, acknowledged).await;
        }
        if kind.starts_with("application/json") {
            return self.document(response).await;
        }
        let status = response.status();
        let body = Limited::new(response.into_body(), PROBLEM_BYTES_MAX).collect().await;
        if let (Some(id), false) = (&known.id, status.is_success()) {
            let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let failure = Failure::from_answer(status.as_u16(), &bytes);
            let hint = failure.hint.as_deref().map(|hint| format!(". {hint}")).unwrap_or_default();
            let error =
                json!({ "code": -32603, "message": format!("{}{hint}", failure.detail), "data": failure.problem });
            self.say(&json!({ "jsonrpc": "2.0", "id": id, "error": error })).await;
        }
        Tried::Done
    }

    /// What every request says of the client.
    fn headers(&self) -> Vec<(&str, &str)> {
        let mut headers: Vec<(&str, &str)> = vec![
            ("accept", "application/json, text/event-stream"),
            (SESSION_HEADER, self.session.as_str()),
            (KEEP_HEADER, "1"),
        ];
        headers.extend(self.agent.as_deref().map(|agent| (CLIENT_HEADER, agent)));
        headers.extend(self.profile.map(|profile| (PROFILE_HEADER, profile)));
        headers
    }

    /// Hands on what the agent says by itself, for as long as the process lives: in the older era that the list has changed.
    async fn listen(&self) {
        let nothing = Known { id: None, method: String::new(), again: true };
        let mut again = false;
        loop {
            if let Ok(response) = self.client.stream(PATH, None, &self.headers()).await {
                let kind = response.headers().get("content-type").and_then(|it| it.to_str().ok()).unwrap_or_default();
                if kind.starts_with("text/event-stream") {
                    // What has changed while the agent was away nobody tells.
                    if std::mem::replace(&mut again, true) {
                        self.say(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" })).await;
                    }
                    self.events(response, &nothing, &mut false).await;
                } else if matches!(response.status().as_u16(), 404 | 405) {
                    return;
                }
            }
            sleep(LISTEN_AGAIN).await;
        }
    }

    async fn say(&self, message: &Value) {
        let _turn = self.output.lock().await;
        self.ui.message(format!("{message}\n").as_bytes());
    }

    /// Hands a document on, as it comes: it may be larger than what is good to hold.
    async fn document(&self, response: Response<Incoming>) -> Tried {
        let mut body = response.into_body();
        // Nothing is written before something has come: until then it can be asked again.
        let first = match body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) | None => return Tried::Lost,
        };
        let _turn = self.output.lock().await;
        self.ui.message(&first);
        while let Some(frame) = body.frame().await {
            match frame.map(|frame| frame.into_data().unwrap_or_default()) {
                Ok(bytes) => self.ui.message(&bytes),
                // Half a message is on its way: a line that is none, and the client is told no more of it.
                Err(_) => break,
            }
        }
        self.ui.message(b"\n");
        Tried::Done
    }

    /// Hands on the messages of a stream. The last one is the answer.
    async fn events(&self, response: Response<Incoming>, known: &Known, acknowledged: &mut bool) -> Tried {
        let mut body = response.into_body();
        let mut held: Vec<u8> = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            held.extend_from_slice(&frame.into_data().unwrap_or_default());
            if held.len() > EVENT_BYTES_MAX {
                return Tried::Lost;
            }
            while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let rest = held.split_off(end + 1);
                let line = std::mem::replace(&mut held, rest);
                let Some(data) = line.strip_prefix(b"data:") else { continue };
                let data = data.trim_ascii();
                let is_answer = is_answer(data);
                // A subscription that was opened anew is acknowledged once more.
                let is_ack = !is_answer && known.method == "subscriptions/listen" && is_acknowledgement(data);
                if !is_ack || !std::mem::replace(acknowledged, true) {
                    let _turn = self.output.lock().await;
                    self.ui.message(&[data, b"\n"].concat());
                }
                if is_answer {
                    return Tried::Done;
                }
            }
        }
        Tried::Lost
    }
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

#[derive(serde::Deserialize)]
struct Sketch {
    id: Option<serde::de::IgnoredAny>,
    method: Option<String>,
}

fn is_answer(data: &[u8]) -> bool {
    serde_json::from_slice::<Sketch>(data).is_ok_and(|it| it.id.is_some() && it.method.is_none())
}

fn is_acknowledgement(data: &[u8]) -> bool {
    method_of(data).as_deref() == Some("notifications/subscriptions/acknowledged")
}

fn method_of(line: &[u8]) -> Option<String> {
    serde_json::from_slice::<Sketch>(line).ok()?.method
}

/// The id of a request; `None` of all that is not answered.
fn id_of_request(line: &[u8]) -> Option<Value> {
    let members: BTreeMap<String, Value> = serde_json::from_slice(line).ok()?;
    members.get("id").filter(|id| !id.is_null() && members.contains_key("method")).cloned()
}

type Members = BTreeMap<String, Box<RawValue>>;

/// Looks at a message, and gives a call a key if it has none: handed over twice, it is one call. All else stays byte by byte.
fn prepared(line: Vec<u8>) -> (Vec<u8>, Known) {
    let unknown = Known { id: None, method: String::new(), again: true };
    let Ok(mut message) = serde_json::from_slice::<Members>(line.trim_ascii()) else {
        return (line.trim_ascii().to_vec(), unknown);
    };
    let read = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).ok();
    let id = message.get("id").and_then(|id| read(id)).filter(|id| !id.is_null());
    let method = message.get("method").and_then(|it| read(it)).and_then(|it| it.as_str().map(ToOwned::to_owned));
    let mut known = Known { id, method: method.unwrap_or_default(), again: true };
    if known.method == "tools/call"
        && let Some(params) = message.get("params")
        && let Ok(mut params) = serde_json::from_str::<Members>(params.get())
    {
        let name = params.get("name").and_then(|name| read(name));
        // It has no key of its own that would make two into one.
        known.again = name.as_ref().and_then(Value::as_str) != Some("memory_append");
        let meta = params.get("_meta").map(|meta| serde_json::from_str::<Members>(meta.get()));
        let raw = |text: String| RawValue::from_string(text).ok();
        if let Ok(mut meta) = meta.unwrap_or_else(|| Ok(Members::new()))
            && let (false, Some(key)) = (meta.contains_key(KEY), raw(format!("\"mcp-{}\"", random())))
        {
            meta.insert(KEY.to_owned(), key);
            let texts = serde_json::to_string(&meta).ok().and_then(raw);
            if let Some(meta) = texts {
                params.insert("_meta".to_owned(), meta);
            }
            if let Some(params) = serde_json::to_string(&params).ok().and_then(raw) {
                message.insert("params".to_owned(), params);
            }
        }
    }
    let text = serde_json::to_vec(&message).unwrap_or(line);
    (text, known)
}

const KEY: &str = "sigil/idempotency_key";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gets_a_key_and_keeps_its_arguments_byte_by_byte() {
        let line = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","arguments":{"n": 1.10, "n": 2e999}}}"#;
        let (text, known) = prepared(line.to_vec());
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains(r#"{"n": 1.10, "n": 2e999}"#) && text.contains(KEY), "{text}");
        assert!(known.again && known.id == Some(json!(7)));
        assert_ne!(prepared(line.to_vec()).0, prepared(line.to_vec()).0, "each call has its own");
        let own = br#"{"id":7,"method":"tools/call","params":{"name":"x","_meta":{"sigil/idempotency_key":"k"}}}"#;
        let (text, _) = prepared(own.to_vec());
        assert!(String::from_utf8(text).unwrap().contains(r#""sigil/idempotency_key":"k""#));
        let append = br#"{"id":7,"method":"tools/call","params":{"name":"memory_append"}}"#;
        assert!(!prepared(append.to_vec()).1.again);
        assert_eq!(prepared(b"nonsense\n".to_vec()).0, b"nonsense");
    }

    #[test]
    fn answers_are_told_from_words_in_between() {
        assert!(is_answer(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
        assert!(!is_answer(br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#) && !is_answer(b"x"));
    }
}
