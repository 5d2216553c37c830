//! Calls: made, listed, read, cancelled; results as raw bytes.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use mesh_core::entry::Payload;
use mesh_core::ids::{NodeId, ReqId, ToolName};
use mesh_core::io::{CallRecord, CallState, Command, NewCall, Refusal, Reply, View};
use mesh_core::limits;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::extract::{JSON_DEPTH_MAX, Query, Segment, body_or_default, check_accept, json_bytes, parse};
use super::model::{self, EffectName, Named, Page, time};
use super::problem::Problems;
use super::{App, PRINCIPAL, Shared};
use crate::json::deeper_than;
use crate::mesh::{CallCursor, CallFilter, CallStateFilter, MeshError, ResultBody};
use crate::status::{ErrorCode, Fault};

const JSON: &str = "application/json";
/// Longest `Prefer: wait=`.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// Time to live of a call that says nothing (architecture.md §5).
const TTL_DEFAULT_MS: u64 = 60_000;
/// Longest that a tool may be allowed to run, and what a call that says nothing asks for: the tool's own timeout is
/// shorter and decides.
const TIMEOUT_MS_MAX: u64 = 24 * 3600 * 1000;
/// Outputs up to this size are shown inside the call's JSON (architecture.md §5).
const OUTPUT_SHOWN_BYTES_MAX: u64 = 256 * 1024;
/// What a body may have besides its arguments.
const ENVELOPE_BYTES_MAX: usize = 16 * 1024;
/// Longest reason of a cancellation, bytes.
const REASON_BYTES_MAX: usize = 500;
/// Calls on a page unless said otherwise.
const PAGE_DEFAULT: usize = 50;
/// Most calls on a page.
const PAGE_MAX: usize = 200;
/// An alias of an alias of … is followed this far; two peers' crossing retries make one step.
const ALIAS_STEPS_MAX: usize = 4;

/// A new call.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CallRequest<'a> {
    /// Handle or peer id of the device, or `any`. Not needed when `tool` is a full address.
    node: Option<String>,
    /// Name of the tool, or its address `node:<id>:<tool>`.
    tool: String,
    /// Any JSON, at most 1 MiB and 64 levels deep, handed to the tool byte by byte; default `{}`.
    #[serde(borrow, default)]
    #[schema(value_type = Option<serde_json::Value>)]
    arguments: Option<&'a RawValue>,
    /// Seconds within which it must start, 1 to 604800; default 60.
    #[schema(minimum = 1, maximum = 604_800)]
    ttl_s: Option<f64>,
    /// Only stricter than what the tool declares.
    effect: Option<EffectName>,
    /// Seconds that it may run, above 0 and at most 86400; the tool's own limit holds besides.
    #[schema(exclusive_minimum = 0, maximum = 86_400)]
    timeout_s: Option<f64>,
}

/// A row of a call's history.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct History {
    /// Where the call was.
    state: String,
    /// When, by the clock of whoever noted it.
    at: String,
    /// Peer id of whoever did it.
    peer: String,
    /// Its name, when it is known here.
    node: Option<String>,
    /// Why.
    reason: String,
    /// Which attempt.
    attempt: u8,
    /// Whether the target itself said so.
    confirmed: bool,
}

/// A call.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Call {
    /// Its id, for ever.
    pub id: String,
    /// Handle of the device.
    pub node: String,
    /// The tool.
    pub tool: String,
    /// accepted, queued, dispatched, running; or the ending: done, failed, interrupted, expired, cancelled, denied,
    /// undeliverable.
    pub state: String,
    /// Whether the device itself wrote the ending.
    pub confirmed: bool,
    /// Newest attempt.
    pub attempt: u8,
    /// The call that this one repeats; everything else is read from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<String>,
    /// Why it ended as it did.
    pub reason: String,
    /// Why it has not started, and what happens next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What running it again means.
    pub effect: EffectName,
    /// Seconds from acceptance within which it must start.
    #[serde(serialize_with = "seconds")]
    pub ttl_s: f64,
    /// What the tool said: JSON as it is, text as a string, other bytes as base64. Null while there is none, while its
    /// bytes are elsewhere, and over 256 KiB: then see `result_url`.
    #[schema(value_type = serde_json::Value)]
    pub output: Option<Box<RawValue>>,
    /// How `output` is to be read: json, text or base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_encoding: Option<&'static str>,
    /// Size of the output.
    pub output_bytes: u64,
    /// Where the output is, as raw bytes; null while there is none.
    pub result_url: Option<String>,
    /// What the tool said on its error stream.
    pub error: String,
    /// When it was accepted.
    pub created_at: String,
    /// When it must have started.
    pub expires_at: String,
    /// All that happened, oldest first.
    pub history: Vec<History>,
}

/// Whole seconds without a fraction.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
#[expect(clippy::cast_sign_loss, reason = "a time to live is at least 0")]
fn seconds<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 { serializer.serialize_u64(*value as u64) } else { serializer.serialize_f64(*value) }
}

fn call_id(text: &str) -> Result<ReqId, Fault> {
    Ok(text.parse()?)
}

fn url(id: ReqId) -> String {
    format!("/api/v1/calls/{id}")
}

/// `seconds` as milliseconds, rounded up, when it lies in `min_ms..=max_ms`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "checked first"
)]
fn millis(name: &str, seconds: f64, min_ms: u64, max_ms: u64) -> Result<u64, Fault> {
    let ms = (seconds * 1000.0).ceil();
    if ms >= min_ms as f64 && ms <= max_ms as f64 {
        return Ok(ms as u64);
    }
    let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(max_ms));
    let detail = format!("{name} must be {} to {} seconds", min.as_secs_f64(), max.as_secs_f64());
    let fault = Fault::new(ErrorCode::Invalid, detail);
    Err(if seconds == 0.0 {
        fault.hint(format!("leave {name} out to get the default; 0 does not mean unlimited"))
    } else {
        fault
    })
}

/// Which device and tool are meant.
fn addressee(view: &View, node: Option<&str>, tool: &str) -> Result<(String, ToolName), Fault> {
    let (node, tool) = match (node, tool.strip_prefix("node:").and_then(|rest| rest.split_once(':'))) {
        (None, Some((node, tool))) => (node, tool),
        (Some(named), Some((node, tool))) if named == node => (node, tool),
        (Some(_), Some(_)) => {
            return Err(Fault::new(ErrorCode::Invalid, "`node` and the address in `tool` name two devices"));
        }
        (Some(node), None) => (node, tool),
        (None, None) => {
            return Err(Fault::new(ErrorCode::Invalid, "`node` is missing").hint("give a name, or `any`"));
        }
    };
    let tool: ToolName = tool.parse()?;
    if node == "any" {
        return Ok((node.to_owned(), tool));
    }
    match model::resolve(view, &[], node) {
        Ok(Named::Member(node)) => Ok((node.node_id.to_string(), tool)),
        Err(fault) if fault.code == ErrorCode::Ambiguous => Err(fault),
        Ok(Named::Pending(_)) | Err(_) => {
            // Not known here; what is not even a name is told so, the rest is for the core to refuse.
            let node: NodeId = node.parse()?;
            Ok((node.to_string(), tool))
        }
    }
}

/// `Idempotency-Key`: the client's own name for the call.
fn client_key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let max = limits::CLIENT_KEY_BYTES_MAX;
    let key = value.to_str().ok().filter(|key| (1..=max).contains(&key.len()) && values.next().is_none());
    key.map(|key| Some(key.to_owned())).ok_or_else(|| {
        Fault::new(
            ErrorCode::Invalid,
            format!("Idempotency-Key must be one value of 1 to {max} printable ASCII characters"),
        )
    })
}

/// `Prefer: wait=N` (RFC 7240); anything else in it is not for us.
fn prefer_wait(headers: &HeaderMap) -> Option<Duration> {
    let mut preferences =
        headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split([',', ';']));
    let seconds = preferences.find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("wait").then(|| value.parse::<u64>().ok()).flatten()
    })?;
    Some(Duration::from_secs(seconds).min(WAIT_MAX))
}

/// Makes a call.
///
/// Answered once the call is durable here: from then on it has exactly one ending.
#[utoipa::path(post, path = "/api/v1/calls", operation_id = "createCall", tag = "calls", request_body = CallRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and call: one execution"),
           ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when it ended, at most N seconds later")),
    responses(
        (status = 200, description = "It has ended", body = Call),
        (status = 202, description = "It is under way", body = Call, headers(("Location" = String, description = "The call")),
            links(
            ("get" = (operation_id = "getCall", parameters(("id" = "$response.body#/id")))),
            ("cancel" = (operation_id = "cancelCall", parameters(("id" = "$response.body#/id")))))),
        Problems))]
pub(super) async fn create(State(app): Shared, headers: HeaderMap, request: Request<Body>) -> Result<Response, Fault> {
    check_accept(&headers, JSON)?;
    let client_key = client_key(&headers)?;
    let bytes = json_bytes(request, limits::ARGUMENTS_BYTES_MAX + ENVELOPE_BYTES_MAX, false).await?;
    // One level is the body's own.
    let asked: CallRequest<'_> = parse(&bytes, JSON_DEPTH_MAX + 1)?;
    let arguments = asked.arguments.map_or("{}", RawValue::get);
    if arguments.len() > limits::ARGUMENTS_BYTES_MAX {
        let detail = format!("the arguments may have at most {} bytes", limits::ARGUMENTS_BYTES_MAX);
        return Err(Fault::new(ErrorCode::TooLarge, detail).hint("put large data into a file and pass its path"));
    }
    let ttl_ms = asked.ttl_s.map_or(Ok(TTL_DEFAULT_MS), |s| millis("ttl_s", s, 1000, limits::TTL_MS_MAX))?;
    let timeout_ms = asked.timeout_s.map_or(Ok(TIMEOUT_MS_MAX), |s| millis("timeout_s", s, 1, TIMEOUT_MS_MAX))?;
    let (node, tool) = addressee(&app.mesh().view(), asked.node.as_deref(), &asked.tool)?;
    let arguments = app.mesh().keep(Bytes::copy_from_slice(arguments.as_bytes())).await?;
    let new = NewCall {
        node,
        tool,
        arguments,
        ttl_ms,
        timeout_ms,
        effect: asked.effect.map(Into::into),
        principal: PRINCIPAL.to_owned(),
        client_key,
    };
    let (id, created) = match app.mesh().command(Command::Call(new)).await? {
        Reply::Call { id, created } => (id, created),
        Reply::Refused(refusal) => return Err(refusal.into()),
        Reply::Cancelled
        | Reply::Invited
        | Reply::Approved(_)
        | Reply::Revoked
        | Reply::Left
        | Reply::Noted
        | Reply::Stopped => return Err(Fault::new(ErrorCode::Internal, "the mesh answered something else")),
    };
    let wait = prefer_wait(&headers);
    let call = ended(&app, id, wait.unwrap_or_default()).await?;
    // A fresh call that nobody waited for is always 202, so that the answer does not depend on luck.
    let over = call.ended && (wait.is_some() || !created);
    let mut response = (if over { StatusCode::OK } else { StatusCode::ACCEPTED }, Json(call.answer)).into_response();
    let location =
        HeaderValue::from_str(&url(id)).map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))?;
    response.headers_mut().insert(LOCATION, location);
    if let Some(wait) = wait {
        let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs()));
        let applied = applied.map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))?;
        response.headers_mut().insert(HeaderName::from_static("preference-applied"), applied);
    }
    Ok(response)
}

struct Rendered {
    answer: Call,
    ended: bool,
}

/// Waits for the ending, for the call that it repeats if it is an alias, and for the bytes: at most `wait` together.
async fn ended(app: &App, id: ReqId, wait: Duration) -> Result<Rendered, Fault> {
    let deadline = tokio::time::Instant::now() + wait;
    let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
    let mut record = wait_for(app, id, wait).await?;
    if let Some(first) = record.alias_of.filter(|_| !wait.is_zero()) {
        wait_for(app, first, left()).await?;
        // Its own row may have changed meanwhile.
        record = app.mesh().call(id).await?.unwrap_or(record);
    }
    render(app, record, Look::Wait(left())).await
}

/// A stopping agent waits for nothing: the client gets the state of the moment.
async fn wait_for(app: &App, id: ReqId, wait: Duration) -> Result<CallRecord, Fault> {
    let found = if wait.is_zero() { None } else { app.stop.run_until_cancelled(app.mesh().wait_call(id, wait)).await };
    let found = match found {
        Some(found) => found?,
        None => app.mesh().call(id).await?,
    };
    Ok(found.ok_or(MeshError::from(Refusal::UnknownCall(id)))?)
}

/// How hard to look for an output that is not inside the record.
#[derive(Debug, Clone, Copy)]
enum Look {
    /// Not at all: a list stays cheap.
    Skip,
    /// This long.
    Wait(Duration),
}

/// The call whose state and output are shown for `record`.
async fn read_as(app: &App, record: &CallRecord) -> Result<Option<CallRecord>, Fault> {
    let mut first = None;
    let mut next = record.alias_of;
    for _ in 0..ALIAS_STEPS_MAX {
        let Some(id) = next else { break };
        let Some(found) = app.mesh().call(id).await? else { break };
        next = found.alias_of;
        first = Some(found);
    }
    Ok(first)
}

async fn render(app: &App, own: CallRecord, look: Look) -> Result<Rendered, Fault> {
    let first = read_as(app, &own).await?;
    let record = first.as_ref().unwrap_or(&own);
    let ended = matches!(record.state, CallState::Ended(_));
    let len = record.output.len();
    let bytes = match (&record.output, look) {
        (Payload::Inline(bytes), _) => Some(bytes.clone()),
        (Payload::Blob { hash, len }, Look::Wait(wait)) if *len <= OUTPUT_SHOWN_BYTES_MAX => {
            let here = app.mesh().blobs().wait_for(*hash, wait).await;
            // A file that vanished just now is away, like one that has not come yet.
            if here { tokio::fs::read(app.mesh().blobs().path(*hash)).await.ok().map(Bytes::from) } else { None }
        }
        (Payload::Blob { .. }, _) => None,
    };
    let shown = bytes.filter(|bytes| !bytes.is_empty()).and_then(|bytes| show_output(&bytes));
    let view = app.mesh().view();
    let header = &own.header;
    let answer = Call {
        id: header.id.to_string(),
        node: header.node_id.to_string(),
        tool: header.tool.to_string(),
        state: record.state.as_str().to_owned(),
        confirmed: record.confirmed,
        attempt: record.attempt,
        alias_of: own.alias_of.map(|id| id.to_string()),
        reason: record.reason.clone(),
        why: why_waiting(&view, record),
        effect: record.header.effect.into(),
        ttl_s: Duration::from_millis(header.ttl_ms).as_secs_f64(),
        output_encoding: shown.as_ref().map(|(_, encoding)| *encoding),
        output: shown.map(|(output, _)| output),
        output_bytes: len,
        result_url: (ended && len > 0).then(|| format!("{}/result", url(header.id))),
        error: record.error.clone(),
        created_at: time(header.accepted_ms),
        expires_at: time(header.accepted_ms.saturating_add(header.ttl_ms)),
        history: record
            .history
            .iter()
            .map(|row| History {
                state: row.state.as_str().to_owned(),
                at: time(row.at_ms),
                peer: row.peer.to_string(),
                node: model::name_of(&view, &row.peer),
                reason: row.reason.clone(),
                attempt: row.attempt,
                confirmed: row.confirmed,
            })
            .collect(),
    };
    Ok(Rendered { answer, ended })
}

/// JSON as it is, text as a string, the rest in base64.
fn show_output(bytes: &[u8]) -> Option<(Box<RawValue>, &'static str)> {
    let raw = |text: &str| serde_json::value::to_raw_value(text).ok();
    let Ok(text) = std::str::from_utf8(bytes) else {
        return raw(&data_encoding::BASE64.encode(bytes)).map(|raw| (raw, "base64"));
    };
    if !deeper_than(bytes, JSON_DEPTH_MAX)
        && let Ok(json) = serde_json::from_str::<Box<RawValue>>(text)
    {
        return Some((json, "json"));
    }
    raw(text).map(|raw| (raw, "text"))
}

/// What an open call waits for, when that is known.
fn why_waiting(view: &View, record: &CallRecord) -> Option<String> {
    if !CallStateFilter::Queued.passes(record.state) {
        return None;
    }
    let until = time(record.header.accepted_ms.saturating_add(record.header.ttl_ms));
    let node = view.nodes.iter().find(|node| node.peer == record.header.target)?;
    if view.gateway.is_none() {
        return Some(format!("no gateway is known just now; it goes on when one is elected, until {until}"));
    }
    (!model::is_online(view, node))
        .then(|| format!("`{}` is offline; it runs when that device is back, until {until}", record.header.node_id))
}

/// Which calls to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only calls for this device.
    node: Option<String>,
    /// Only calls in this state; also `open`, `queued` (not started) and `ended`.
    state: Option<String>,
    /// Calls on a page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

fn write_cursor(cursor: CallCursor) -> String {
    let bytes = [&cursor.accepted_ms.to_be_bytes()[..], cursor.id.as_bytes()].concat();
    data_encoding::BASE64URL_NOPAD.encode(&bytes)
}

fn read_cursor(text: &str) -> Result<CallCursor, Fault> {
    let read = || {
        let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let (time, id) = bytes.split_first_chunk::<8>()?;
        Some(CallCursor { accepted_ms: u64::from_be_bytes(*time), id: ReqId::from_slice(id)? })
    };
    read().ok_or_else(|| Fault::new(ErrorCode::Invalid, "`cursor` is not one that this route gave out"))
}

/// The calls that this device knows, newest first. Large outputs are left out.
#[utoipa::path(get, path = "/api/v1/calls", operation_id = "listCalls", tag = "calls", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<Call>), Problems))]
pub(super) async fn list(
    State(app): Shared,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<Call>>, Fault> {
    check_accept(&headers, JSON)?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Fault::new(ErrorCode::Invalid, format!("limit must be 1 to {PAGE_MAX}")));
    }
    let state = match &query.state {
        None => None,
        Some(word) => Some(CallStateFilter::parse(word).ok_or_else(|| {
            Fault::new(ErrorCode::Invalid, format!("`{}` is not a state", word.escape_debug())).hint(
                "open, queued, ended, accepted, dispatched, running, done, failed, interrupted, expired, cancelled, denied \
                 or undeliverable",
            )
        })?),
    };
    let node = match &query.node {
        None => None,
        Some(text) => Some(match model::resolve(&app.mesh().view(), &[], text) {
            Ok(Named::Member(node)) => node.node_id.clone(),
            Err(fault) if fault.code == ErrorCode::Ambiguous => return Err(fault),
            // Calls of a device that has been forgotten can still be listed by its name.
            Ok(Named::Pending(_)) | Err(_) => text.parse()?,
        }),
    };
    let after = query.cursor.as_deref().map(read_cursor).transpose()?;
    let page = app.mesh().calls(CallFilter { node, state }, after, limit).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for record in page.items {
        items.push(render(&app, record, Look::Skip).await?.answer);
    }
    Ok(Json(Page { items, next_cursor: page.next.map(write_cursor) }))
}

async fn find(app: &App, text: &str) -> Result<CallRecord, Fault> {
    let id = call_id(text)?;
    Ok(app.mesh().call(id).await?.ok_or(MeshError::from(Refusal::UnknownCall(id)))?)
}

/// One call with its whole history. With `Prefer: wait=N` answered when it ended, at most N seconds later.
#[utoipa::path(get, path = "/api/v1/calls/{id}", operation_id = "getCall", tag = "calls",
    params(("id" = String, Path, description = "Id of the call"),
           ("Prefer" = Option<String>, Header, description = "`wait=N`")),
    responses((status = 200, description = "The call", body = Call), Problems))]
pub(super) async fn show(State(app): Shared, Segment(id): Segment, headers: HeaderMap) -> Result<Json<Call>, Fault> {
    check_accept(&headers, JSON)?;
    let id = call_id(&id)?;
    Ok(Json(ended(&app, id, prefer_wait(&headers).unwrap_or_default()).await?.answer))
}

/// The output of a call as raw bytes.
#[utoipa::path(get, path = "/api/v1/calls/{id}/result", operation_id = "getResult", tag = "calls",
    params(("id" = String, Path, description = "Id of the call")),
    responses((status = 200, description = "JSON, UTF-8 text, or bytes",
        content((String = "application/json"), (String = "text/plain"), (Vec<u8> = "application/octet-stream"))), Problems))]
pub(super) async fn result(State(app): Shared, Segment(id): Segment) -> Result<Response, Fault> {
    let own = find(&app, &id).await?;
    let record = read_as(&app, &own).await?.unwrap_or(own);
    if matches!(record.state, CallState::Open(_)) {
        let detail = format!("the call is {}, so it has no result yet", record.state.as_str());
        return Err(Fault::new(ErrorCode::NotEnded, detail)
            .hint("GET the call with `Prefer: wait=60` to wait for its ending")
            .with("state", record.state.as_str()));
    }
    if record.output.is_empty() {
        let detail = format!("the call ended as {} and gave no output", record.state.as_str());
        let fault = Fault::new(ErrorCode::NoOutput, detail).with("state", record.state.as_str());
        return Err(if record.reason.is_empty() { fault } else { fault.hint(record.reason.clone()) });
    }
    let (kind, len, body) = match app.mesh().result(&record).await? {
        ResultBody::Inline(bytes) => (content_type(&bytes), bytes.len() as u64, Body::from(bytes)),
        ResultBody::File { path, len } => {
            let read =
                |error: std::io::Error| Fault::new(ErrorCode::StoreFailed, format!("reading the result: {error}"));
            let file = tokio::fs::File::open(&path).await.map_err(read)?;
            let kind = tokio::task::spawn_blocking(move || file_type(&path))
                .await
                .map_err(|error| Fault::new(ErrorCode::Internal, error.to_string()))?
                .map_err(read)?;
            (kind, len, Body::from_stream(tokio_util::io::ReaderStream::with_capacity(file, 64 * 1024)))
        }
    };
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(kind)), (CONTENT_LENGTH, HeaderValue::from(len))], body)
        .into_response())
}

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

fn content_type(bytes: &[u8]) -> &'static str {
    if std::str::from_utf8(bytes).is_err() {
        BINARY
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
        JSON
    } else {
        TEXT
    }
}

/// As [`content_type`], without holding the file in memory.
fn file_type(path: &std::path::Path) -> std::io::Result<&'static str> {
    use std::io::{BufReader, Read, Seek};
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 64 * 1024];
    // Bytes of a character that the last piece cut: at most 3.
    let mut held = 0;
    loop {
        let (_, free) = buffer.split_at_mut(held);
        let read = file.read(free)?;
        let Some(piece) = buffer.get(..held + read) else { return Ok(BINARY) };
        let good = match std::str::from_utf8(piece) {
            Ok(_) => piece.len(),
            Err(error) if error.error_len().is_none() && read > 0 => error.valid_up_to(),
            Err(_) => return Ok(BINARY),
        };
        let end = piece.len();
        if read == 0 {
            break;
        }
        buffer.copy_within(good..end, 0);
        held = end - good;
    }
    file.rewind()?;
    let json = serde_json::from_reader::<_, serde::de::IgnoredAny>(BufReader::with_capacity(64 * 1024, file));
    Ok(if json.is_ok() { JSON } else { TEXT })
}

/// Why to cancel.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelRequest {
    /// For people, at most 500 bytes.
    reason: Option<String>,
}

/// Cancels a call. One that has ended stays as it ended.
#[utoipa::path(post, path = "/api/v1/calls/{id}/cancel", operation_id = "cancelCall", tag = "calls",
    params(("id" = String, Path, description = "Id of the call")), request_body = Option<CancelRequest>,
    responses((status = 200, description = "It has ended", body = Call),
              (status = 202, description = "The cancel request is on its way", body = Call), Problems))]
pub(super) async fn cancel(
    State(app): Shared,
    Segment(id): Segment,
    request: Request<Body>,
) -> Result<(StatusCode, Json<Call>), Fault> {
    let asked: CancelRequest = body_or_default(request).await?;
    let reason =
        asked.reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "cancelled by its owner".to_owned());
    if reason.len() > REASON_BYTES_MAX {
        return Err(Fault::new(ErrorCode::Invalid, format!("reason may have at most {REASON_BYTES_MAX} bytes")));
    }
    let own = find(&app, &id).await?;
    let meant = read_as(&app, &own).await?.map_or(own.header.id, |first| first.header.id);
    app.mesh().command(Command::Cancel { id: meant, reason }).await?;
    let call = render(&app, find(&app, &id).await?, Look::Skip).await?;
    Ok((if call.ended { StatusCode::OK } else { StatusCode::ACCEPTED }, Json(call.answer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn outputs_are_shown_as_what_they_are() {
        let shown = |bytes: &[u8]| show_output(bytes).map(|(raw, kind)| (raw.get().to_owned(), kind)).unwrap();
        assert_eq!(shown(br#"{"a": 1.10}"#), (r#"{"a": 1.10}"#.to_owned(), "json"));
        assert_eq!(shown(b"hello\n"), ("\"hello\\n\"".to_owned(), "text"));
        assert_eq!(shown(&[0xff, 0]), ("\"/wA=\"".to_owned(), "base64"));
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert_eq!(shown(deep.as_bytes()).1, "text");
    }

    #[test]
    fn times_have_limits_and_zero_is_explained() {
        assert_eq!(millis("ttl_s", 1.5, 1000, 2000), Ok(1500));
        for bad in [0.0, -1.0, 0.5, 2.1, f64::INFINITY, f64::NAN] {
            assert!(millis("ttl_s", bad, 1000, 2000).is_err(), "{bad}");
        }
        assert!(millis("timeout_s", 0.0, 1, 10).unwrap_err().hint.is_some());
    }

    #[test]
    fn the_wait_preference_is_found_among_others() {
        let wait = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::from_static(value));
            prefer_wait(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("respond-async, Wait=20"), Some(20));
        assert_eq!(wait("wait=\"5\"; foo=bar"), Some(5));
        assert_eq!(wait("wait=99999999"), Some(300));
        assert_eq!(wait("wait=soon"), None);
        assert_eq!(wait("return=minimal"), None);
    }

    proptest! {
        #[test]
        fn cursors_read_back(accepted_ms: u64, id: [u8; 16]) {
            let cursor = CallCursor { accepted_ms, id: ReqId(id) };
            prop_assert_eq!(read_cursor(&write_cursor(cursor)).unwrap(), cursor);
        }

        #[test]
        fn any_text_is_no_panic_as_cursor(text in ".*") {
            let _ = read_cursor(&text);
        }

        #[test]
        fn a_file_is_typed_like_its_bytes(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..64),
            ".{1,64}".prop_map(String::into_bytes),
            (65_530usize..65_540, ".{1,4}").prop_map(|(n, s)| ("a".repeat(n) + &s).into_bytes()),
        ]) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            prop_assert_eq!(file_type(file.path()).unwrap(), content_type(&bytes));
        }
    }
}
