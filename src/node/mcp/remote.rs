//! A conversation with a server at an address: Streamable HTTP of both eras, by the client of the whole program. Each message is a
//! request of its own; what comes back is one message, or a stream of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::session::{Hearing, Session};
use super::wire::{self, LINE_BYTES_MAX, Outline, RpcError};
use crate::http_client::{HttpClient, HttpError};
use crate::secrets::Redactor;
use crate::sse::Events;

/// Headers of the protocol.
const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";
const METHOD: &str = "mcp-method";
const NAME: &str = "mcp-name";
/// An id of a session that is longer is none, in bytes.
const SESSION_BYTES_MAX: usize = 1024;
/// Messages that are under way to one server; more of them wait.
const UNDER_WAY_MAX: usize = 64;
/// Time between two looks if somebody still waits for an answer.
const AWAITED_EVERY: Duration = Duration::from_secs(2);
/// Time for what is not answered to be taken.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// Longest answer that tells of an error, in bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Times that a stream that broke off before the answer is taken up without anything new in it.
const TAKEN_UP_MAX: u32 = 3;
/// Time before a stream is opened again where its server says nothing else, doubled each time; and the longest.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_mins(1);
/// Time for a server to be told that its session is over.
const FAREWELL: Duration = Duration::from_secs(2);
/// The version that is said where a server of the older era said none.
const UNSAID: &str = "2025-03-26";

/// A server at an address.
#[derive(Debug)]
pub(super) struct Remote {
    client: HttpClient,
    uri: Uri,
    headers: HeaderMap,
    met: Mutex<Met>,
}

/// What a server of the older era said when it was greeted.
#[derive(Debug, Clone, Default)]
struct Met {
    session: Option<HeaderValue>,
    version: Option<HeaderValue>,
}

/// The end of what was to be done for one message.
enum Over {
    /// It is answered, as far as it will ever be.
    Answered,
    /// The older era's greeting is over: it can be listened to.
    Greeted,
    /// The server takes nothing new, for this reason: what is under way may have an answer yet.
    Away(String),
    /// Nothing more can be said to the server, for this reason.
    Conversation(String),
}

/// A reason for which a stream is not open.
enum NoStream {
    /// The server does not do that.
    Unwilling,
    /// Another time it may be.
    NotNow,
    /// The server cannot be reached, for this reason.
    Away(String),
}

/// The way in which a stream or a document ended.
enum Read {
    /// With the answer.
    Answer,
    /// Without it.
    End,
}

impl Remote {
    /// The server at `url`, to which these headers are sent, secrets and all.
    ///
    /// # Errors
    /// The address or a header cannot be used; for people, without any value.
    pub(super) fn new(url: &str, headers: &BTreeMap<String, String>) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| format!("`{url}` is no address of a server"))?;
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let read = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
            let (key, mut value) =
                read.ok_or_else(|| format!("its header `{name}` has a value that cannot be sent"))?;
            value.set_sensitive(true);
            all.insert(key, value);
        }
        Ok(Self { client: HttpClient::new(), uri, headers: all, met: Mutex::default() })
    }

    /// Begins to speak to it. The future is the conversation's work, and says at its end why it is over: it has to be run.
    pub(super) fn talk(&self, redactor: Redactor) -> (Session, impl Future<Output = String> + Send + '_) {
        let (session, hearing, lines) = Session::parts(redactor);
        (session, async move { self.serve(lines, &hearing).await })
    }

    /// Tells it that the session is over, as far as there is one.
    pub(super) async fn farewell(&self) {
        let has_session = self.met().session.is_some();
        if has_session && let Ok(request) = self.request(Method::DELETE, &Outline::default(), Bytes::new()) {
            let _ = timeout(FAREWELL, self.client.send(request)).await;
        }
    }

    fn met(&self) -> Met {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn serve(&self, mut lines: mpsc::Receiver<Vec<u8>>, hearing: &Hearing) -> String {
        let mut under_way: FuturesUnordered<BoxFuture<'_, (Option<u64>, Over)>> = FuturesUnordered::new();
        let mut awaited: BTreeMap<u64, (CancellationToken, bool)> = BTreeMap::new();
        loop {
            tokio::select! {
                line = lines.recv(), if under_way.len() < UNDER_WAY_MAX => {
                    let Some(line) = line else { return "nobody needs it any more".to_owned() };
                    let outline = Outline::of(&line);
                    // In the newer era a request is given up with its connection; in the older it is told.
                    if let Some((token, _)) = outline.gives_up().and_then(|id| awaited.get(&id))
                        && self.met().version.is_none()
                    {
                        token.cancel();
                        continue;
                    }
                    let token = CancellationToken::new();
                    if let Some(id) = outline.id {
                        awaited.insert(id, (token.clone(), outline.listens()));
                    }
                    under_way.push(async move {
                        let id = outline.id;
                        let over = token.run_until_cancelled(self.exchange(line.into(), outline, hearing)).await;
                        (id, over.unwrap_or(Over::Answered))
                    }.boxed());
                }
                Some((id, over)) = under_way.next(), if !under_way.is_empty() => {
                    if let Some(id) = id {
                        awaited.remove(&id);
                    }
                    match over {
                        Over::Answered => {}
                        Over::Away(_) if awaited.values().any(|(_, listens)| !listens) => {}
                        Over::Greeted => under_way.push(async { (None, self.listen(hearing).await) }.boxed()),
                        Over::Away(why) | Over::Conversation(why) => return hearing.redacted(&why),
                    }
                }
            }
        }
    }

    fn request(&self, method: Method, outline: &Outline, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::new(Full::new(body));
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if method == Method::POST {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        } else {
            headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        }
        let met = self.met();
        if let Some(session) = met.session {
            headers.insert(SESSION, session);
        }
        match outline.named() {
            (name, Some(version)) => {
                let value = |text: &str| {
                    HeaderValue::from_str(&encoded(text)).map_err(|_| format!("`{text}` cannot be sent in a header"))
                };
                headers.insert(VERSION, value(version)?);
                headers.insert(METHOD, value(&outline.method)?);
                if let Some(name) = name {
                    headers.insert(NAME, value(name)?);
                }
            }
            (_, None) => {
                if let Some(version) = met.version {
                    headers.insert(VERSION, version);
                }
            }
        }
        *request.method_mut() = method;
        Ok(request)
    }

    /// Sends one message, and hands on what is answered, until somebody is answered or nobody waits any more.
    async fn exchange(&self, line: Bytes, outline: Outline, hearing: &Hearing) -> Over {
        let mut again = AGAIN_FIRST;
        loop {
            let unawaited = async {
                match outline.id {
                    Some(id) => {
                        while hearing.is_awaited(id) {
                            sleep(AWAITED_EVERY).await;
                        }
                    }
                    // Nothing is answered to it, and it keeps a place.
                    None => sleep(TOLD_WITHIN).await,
                }
            };
            let over = tokio::select! {
                over = self.exchange_once(line.clone(), &outline, hearing) => over,
                () = unawaited => return Over::Answered,
            };
            // A stream of changes that broke off is opened again: what is missed meanwhile is asked for by who is told of a change.
            let goes_on = outline.listens() && outline.id.is_some_and(|id| hearing.is_awaited(id));
            if !goes_on || matches!(over, Over::Away(_) | Over::Conversation(_)) {
                return over;
            }
            sleep(again).await;
            again = (again * 2).min(AGAIN_MAX);
        }
    }

    async fn exchange_once(&self, line: Bytes, outline: &Outline, hearing: &Hearing) -> Over {
        let asked = match self.request(Method::POST, outline, line) {
            Ok(request) => self.client.send(request).await,
            Err(why) => {
                refuse(hearing, outline, RpcError::not_taken(why));
                return Over::Answered;
            }
        };
        let response = match asked {
            Ok(response) => response,
            // What nobody has read has not happened.
            Err(error @ (HttpError::NoAuthorities | HttpError::Unreachable(_))) => {
                refuse(hearing, outline, RpcError::not_taken_now(error.to_string()));
                return Over::Away(error.to_string());
            }
            Err(error @ HttpError::BrokenOff(_)) => {
                tracing::debug!(method = outline.method, "a request to a hosted server: {error}");
                lose(hearing, outline);
                return Over::Answered;
            }
        };
        let status = response.status();
        if !status.is_success() {
            return self.refused(response, outline, hearing).await;
        }
        if outline.method == "initialize" {
            let session = response.headers().get(SESSION).filter(|id| id.len() <= SESSION_BYTES_MAX).cloned();
            let version = Some(HeaderValue::from_static(UNSAID));
            *self.met.lock().unwrap_or_else(PoisonError::into_inner) = Met { session, version };
        }
        if outline.id.is_none() {
            return if outline.method == "notifications/initialized" { Over::Greeted } else { Over::Answered };
        }
        match self.read(response, outline, hearing).await {
            Ok(Read::Answer) => Over::Answered,
            Ok(Read::End) => {
                if !outline.listens() {
                    lose(hearing, outline);
                }
                Over::Answered
            }
            Err(why) => Over::Conversation(why),
        }
    }

    /// Reads what is answered to a request, and takes up a stream that breaks off before the answer. The error ends the conversation.
    async fn read(&self, response: Response<Incoming>, outline: &Outline, hearing: &Hearing) -> Result<Read, String> {
        if !is_stream(&response) {
            let Ok(body) = Limited::new(response.into_body(), LINE_BYTES_MAX).collect().await else {
                return Ok(Read::End);
            };
            return self.hear(&body.to_bytes(), outline, hearing);
        }
        let (mut response, mut events, mut idle) = (response, Events::default(), 0);
        loop {
            let mut fresh = false;
            while let Some(Ok(frame)) = response.body_mut().frame().await {
                let Ok(piece) = frame.into_data() else { continue };
                for event in events.take(&piece).map_err(|error| format!("it sent {error}"))? {
                    fresh |= !event.is_empty();
                    if matches!(self.hear(&event, outline, hearing)?, Read::Answer) {
                        return Ok(Read::Answer);
                    }
                }
            }
            idle = if fresh { 0 } else { idle + 1 };
            let Some(last) = events.last_id().filter(|_| idle < TAKEN_UP_MAX).map(ToOwned::to_owned) else {
                return Ok(Read::End);
            };
            sleep(events.retry().unwrap_or(AGAIN_FIRST).min(AGAIN_MAX)).await;
            let Ok(next) = self.stream(Some(&last)).await else { return Ok(Read::End) };
            response = next;
        }
    }

    /// Opens a stream of the older era: what was missed since an event, or what the server says unasked.
    async fn stream(&self, since: Option<&str>) -> Result<Response<Incoming>, NoStream> {
        let request = self.request(Method::GET, &Outline::default(), Bytes::new());
        let mut request = request.map_err(|_| NoStream::Unwilling)?;
        if let Some(since) = since {
            request
                .headers_mut()
                .insert("last-event-id", HeaderValue::from_str(since).map_err(|_| NoStream::Unwilling)?);
        }
        let response = self.client.send(request).await.map_err(|error| match error {
            HttpError::NoAuthorities | HttpError::Unreachable(_) => NoStream::Away(error.to_string()),
            HttpError::BrokenOff(_) => NoStream::NotNow,
        })?;
        match response.status() {
            status if status.is_success() && is_stream(&response) => Ok(response),
            status if status.is_server_error() => Err(NoStream::NotNow),
            _ => Err(NoStream::Unwilling),
        }
    }

    /// Hands on what a server of the older era says unasked, for as long as it has a stream for that.
    async fn listen(&self, hearing: &Hearing) -> Over {
        let (mut since, mut again) = (None::<String>, AGAIN_FIRST);
        loop {
            match self.stream(since.as_deref()).await {
                Ok(mut response) => {
                    let mut events = Events::default();
                    while let Some(Ok(frame)) = response.body_mut().frame().await {
                        let Ok(piece) = frame.into_data() else { continue };
                        match events.take(&piece) {
                            Ok(events) => {
                                for event in events {
                                    again = AGAIN_FIRST;
                                    if let Err(why) = self.hear(&event, &Outline::default(), hearing) {
                                        return Over::Conversation(why);
                                    }
                                }
                            }
                            Err(error) => return Over::Conversation(format!("it sent {error}")),
                        }
                    }
                    since = events.last_id().map(ToOwned::to_owned).or(since);
                    again = events.retry().map_or(again, |retry| retry.clamp(AGAIN_FIRST, AGAIN_MAX));
                }
                // It is none of those that say something unasked, or it has forgotten the session: the next request tells.
                Err(NoStream::Unwilling) => return Over::Answered,
                Err(NoStream::Away(why)) => return Over::Away(why),
                Err(NoStream::NotNow) => {}
            }
            sleep(again).await;
            again = (again * 2).min(AGAIN_MAX);
        }
    }

    /// Takes a message, or several in one document as the oldest version has them. The error ends the conversation.
    fn hear(&self, message: &[u8], outline: &Outline, hearing: &Hearing) -> Result<Read, String> {
        if message.iter().all(u8::is_ascii_whitespace) {
            return Ok(Read::End);
        }
        if outline.method == "initialize" {
            let said = serde_json::from_slice::<Value>(message).ok();
            let version =
                said.as_ref().and_then(|said| said.pointer("/result/protocolVersion")).and_then(Value::as_str);
            if let Some(Ok(version)) = version.map(HeaderValue::from_str) {
                self.met.lock().unwrap_or_else(PoisonError::into_inner).version = Some(version);
            }
        }
        if message.trim_ascii_start().first() == Some(&b'[') && !wire::has_too_many(message) {
            let messages: Vec<&serde_json::value::RawValue> = serde_json::from_slice(message).unwrap_or_default();
            for message in messages {
                hearing.take(message.get().as_bytes())?;
            }
        } else {
            hearing.take(message)?;
        }
        let answered = outline.id.is_some_and(|id| !hearing.is_awaited(id));
        Ok(if answered { Read::Answer } else { Read::End })
    }

    /// A server has said no, in the words of HTTP.
    async fn refused(&self, response: Response<Incoming>, outline: &Outline, hearing: &Hearing) -> Over {
        let status = response.status();
        let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).map(crate::text::visible);
        let body = timeout(FAREWELL, Limited::new(response.into_body(), ERROR_BYTES_MAX).collect()).await;
        let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if outline.listens() && status.is_server_error() {
            // Opened again later.
            return Over::Answered;
        }
        let why = match status {
            // This tool alone may be more than the token opens.
            StatusCode::FORBIDDEN if outline.method == "tools/call" => {
                "what it is given is not enough for this tool (403 Forbidden)".to_owned()
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let said =
                    if self.headers.is_empty() { "was given no headers" } else { "does not take what it was given" };
                let over = format!(
                    "it asks who we are ({status}) and {said}: give it what it wants, as \
                     `headers = {{ Authorization = {{ secret = \"NAME\" }} }}` and `sigil secret set NAME`"
                );
                refuse(hearing, outline, RpcError::not_taken(over.clone()));
                return Over::Away(over);
            }
            StatusCode::NOT_FOUND if self.met().session.is_some() => {
                refuse(hearing, outline, RpcError::not_taken_now("it has forgotten the session"));
                return Over::Away("it has forgotten the session".to_owned());
            }
            _ if status.is_redirection() => {
                let to = location.unwrap_or_else(|| "elsewhere".to_owned());
                format!("it sends us to {to} ({status}): if that is right, write that address")
            }
            _ => format!("it answered {status}"),
        };
        let error = match (wire::error_of(&body), outline.method.as_str()) {
            (Some(error), _) => error,
            // One that is of the older era knows neither the method nor its headers, and may say so in any words.
            (None, "server/discover") if status.is_client_error() => RpcError::unknown_method(why),
            // Somebody between, or the server itself, has broken down at it: it may have happened.
            (None, method) if status.is_server_error() && method == "tools/call" => {
                lose(hearing, outline);
                return Over::Answered;
            }
            (None, _) => RpcError::not_taken(why),
        };
        refuse(hearing, outline, error);
        Over::Answered
    }
}

fn refuse(hearing: &Hearing, outline: &Outline, error: RpcError) {
    if let Some(id) = outline.id {
        hearing.refuse(id, error);
    }
}

fn lose(hearing: &Hearing, outline: &Outline) {
    if let Some(id) = outline.id {
        hearing.lose(id);
    }
}

fn is_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.get(.."text/event-stream".len()).is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
}

/// A text as the value of a header of the newer era (2026-07-28, Transports: "Value Encoding").
fn encoded(text: &str) -> String {
    let plain = !text.is_empty()
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && text.trim() == text
        && !text.starts_with("=?base64?");
    if plain { text.to_owned() } else { format!("=?base64?{}?=", data_encoding::BASE64.encode(text.as_bytes())) }
}

#[cfg(test)]
mod tests;
