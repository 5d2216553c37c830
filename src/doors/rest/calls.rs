//! Calls: made, listed, read, cancelled; results as raw bytes.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, InvalidHeaderValue, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use mesh_core::ids::ToolName;
use mesh_core::io::View;
use mesh_core::limits;
use mesh_core::record::Payload;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{Object, Ref, RefOr};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::extract::{JSON, JSON_DEPTH_MAX, Query, Segment, body_or_default, check_accept, json_bytes, parse};
use super::model::{EffectName, NamedPeer, Page, time};
use super::payload::{content_type, file_type, show_output};
use super::results::{RESULT_WAIT, RawBytes, prefer_wait, url};
use super::shapes::{
    CallId, CallStates, CallsCursor, ClientKey, DeviceRef, NameOfAgent, NameOfTool, Reason, Seconds, Shape, SpaceName,
    ToolAddress, Whole, of_query,
};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::calls::{self, Reading};
use crate::doors::ops::devices::name_of;
use crate::mesh::{CallCursor, ResultBody};
use crate::status::{ErrorCode, OpError};

/// Bytes that a body may have besides its arguments.
const ENVELOPE_BYTES_MAX: usize = 16 * 1024;
/// Calls on a page unless the client names a limit.
pub(super) const PAGE_DEFAULT: u64 = 50;
/// Calls on a page, 200 at most.
pub(super) type PageLimit = Whole<1, 200>;
#[expect(clippy::cast_possible_truncation, reason = "a week")]
const TTL_MAX_S: u32 = (limits::TTL_MS_MAX / 1000) as u32;
#[expect(clippy::cast_possible_truncation, reason = "a day")]
const TIMEOUT_MAX_S: u32 = calls::TIMEOUT_MAX.as_secs() as u32;
/// Time within which a call must start.
const TTL: Seconds = Seconds {
    name: "ttl_s",
    about: "Seconds within which it must start; default: `ttl` under `[calls]` in `sigil.toml`, 60 if not set.",
    min_s: 1,
    max_s: TTL_MAX_S,
};
/// Time that a call may run.
const TIMEOUT: Seconds = Seconds {
    name: "timeout_s",
    about: "Seconds that it may run; the tool's own limit holds besides.",
    min_s: 0,
    max_s: TIMEOUT_MAX_S,
};

/// A new call: a tool's name together with its device, or its address alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallRequest<'a> {
    node: Option<DeviceRef>,
    tool: ToolRef,
    #[serde(borrow, default, deserialize_with = "present")]
    arguments: Option<&'a RawValue>,
    ttl_s: Option<f64>,
    effect: Option<EffectName>,
    timeout_s: Option<f64>,
    workspace: Option<SpaceName>,
    agent: Option<NameOfAgent>,
}

/// A tool as clients name it.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
enum ToolRef {
    Name(NameOfTool),
    Address(ToolAddress),
}

impl TryFrom<String> for ToolRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.contains(':') {
            ToolAddress::read(&text).map(Self::Address)
        } else {
            NameOfTool::read(&text).map(Self::Name)
        }
    }
}

impl CallRequest<'_> {
    /// The device and the tool that are meant.
    fn addressee(&self) -> Result<(&str, &ToolName), OpError> {
        match (&self.node, &self.tool) {
            (Some(node), ToolRef::Name(tool)) => Ok((&node.0, &tool.0)),
            (None, ToolRef::Address(ToolAddress((node, tool)))) => Ok((node, tool)),
            (Some(_), ToolRef::Address(_)) => {
                Err(OpError::new(ErrorCode::Invalid, "`tool` is an address, which names the device already")
                    .hint("leave `node` out"))
            }
            (None, ToolRef::Name(_)) => {
                Err(OpError::new(ErrorCode::Invalid, "`node` is missing").hint("give a name, or `any`"))
            }
        }
    }

    /// The description of one of its two forms.
    fn described(title: &str, node: Object, tool: RefOr<Schema>, needs: &[&str]) -> Object {
        let arguments = "Any JSON, at most 1 MiB and 64 levels deep, handed to the tool byte by byte; default `{}`.";
        let null = ObjectBuilder::new().schema_type(Type::Null);
        let effect = OneOfBuilder::new().item(Ref::from_schema_name(EffectName::name())).item(null);
        let effect = effect.description(Some("Effect of running it again: only stricter than what the tool declares."));
        let mut object = ObjectBuilder::new()
            .title(Some(title))
            .property("node", node)
            .property("tool", tool)
            .property("arguments", ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some(arguments)))
            .property("ttl_s", TTL.schema())
            .property("effect", effect)
            .property("timeout_s", TIMEOUT.schema())
            .property("workspace", or_null(SpaceName::schema()))
            .property("agent", or_null(NameOfAgent::schema()))
            .additional_properties(Some(AdditionalProperties::FreeForm(false)));
        for name in needs {
            object = object.required(*name);
        }
        object.build()
    }
}

/// A member that may be left out, or be null.
fn or_null(schema: RefOr<Schema>) -> OneOfBuilder {
    OneOfBuilder::new().item(schema).item(ObjectBuilder::new().schema_type(Type::Null))
}

impl PartialSchema for CallRequest<'_> {
    fn schema() -> RefOr<Schema> {
        let null = ObjectBuilder::new().schema_type(Type::Null).build();
        let node = match DeviceRef::schema() {
            RefOr::T(Schema::Object(node)) => node,
            RefOr::T(_) | RefOr::Ref(_) => null.clone(),
        };
        let (name, address) = (NameOfTool::schema(), ToolAddress::schema());
        OneOfBuilder::new()
            .description(Some(
                "A new call: a tool's name together with its device (`any` = whichever has it), or its address alone.",
            ))
            .item(Self::described("By name", node, name, &["node", "tool"]))
            .item(Self::described("By address", null, address, &["tool"]))
            .into()
    }
}

impl ToSchema for CallRequest<'_> {
    fn name() -> std::borrow::Cow<'static, str> {
        "CallRequest".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((EffectName::name().into(), EffectName::schema()));
    }
}

/// Any value that is there, `null` too: that is a document like others.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// A row of a call's history.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct History {
    /// State of the call.
    state: String,
    /// Time, by the clock of the peer that noted it.
    at: String,
    /// Id of that peer.
    peer: String,
    /// Its name, when it is known here.
    node: Option<String>,
    /// Cause.
    reason: String,
    /// Number of the attempt.
    attempt: u8,
    /// True if the target itself reported it.
    confirmed: bool,
}

/// A call.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Call {
    /// Its id, for ever.
    #[schema(value_type = CallId)]
    pub id: String,
    /// Name of the device that it is for, as it is called now; of one that is no member any more, the name that the
    /// device asked by used, unless that means a member: then its short peer id.
    pub node: String,
    /// The tool.
    pub tool: String,
    /// Its arguments: JSON as it is, if every parser takes it; other text as a string, other bytes as base64. Null in lists, and
    /// over 32 KiB.
    #[schema(value_type = serde_json::Value)]
    pub arguments: Option<Box<RawValue>>,
    /// Encoding of `arguments`: json, text or base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments_encoding: Option<&'static str>,
    /// Size of the arguments.
    pub arguments_bytes: u64,
    /// Who asked.
    pub principal: String,
    /// The device at which it was asked.
    pub origin: NamedPeer,
    /// The workspace in which it was asked; null: in none.
    pub workspace: Option<String>,
    /// accepted, asking (somebody has to say yes), queued, dispatched, running; or the ending: done, failed, interrupted, expired, cancelled, denied,
    /// undeliverable.
    pub state: String,
    /// True if the device itself wrote the ending.
    pub confirmed: bool,
    /// Newest attempt.
    pub attempt: u8,
    /// The call that this one repeats; everything else is read from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CallId>)]
    pub alias_of: Option<String>,
    /// Cause of its ending.
    pub reason: String,
    /// Cause of its waiting, and what happens next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Effect of running it again.
    pub effect: EffectName,
    /// Seconds from acceptance within which it must start.
    #[serde(serialize_with = "seconds")]
    pub ttl_s: f64,
    /// Output of the tool: JSON as it is, if every parser takes it; other text as a string, other bytes as base64. Null
    /// while there is none, while its bytes are elsewhere, and over 256 KiB: then see `result_url`.
    #[schema(value_type = serde_json::Value)]
    pub output: Option<Box<RawValue>>,
    /// Encoding of `output`: json, text or base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_encoding: Option<&'static str>,
    /// Size of the output.
    pub output_bytes: u64,
    /// Path of the output as raw bytes; null while there is none.
    pub result_url: Option<String>,
    /// Parts of the result; none: the output is all of it. Where there are any, the output is the first of them, or empty.
    pub parts: Vec<super::parts::Part>,
    /// True if the result is what there was when the run was ended, and not all that it would have given.
    pub partial: bool,
    /// Tail of its stderr.
    pub error: String,
    /// Time of its acceptance.
    pub created_at: String,
    /// Time by which it must have started.
    pub expires_at: String,
    /// Its history, oldest first.
    pub history: Vec<History>,
}

/// Whole seconds without a fraction.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
#[expect(clippy::cast_sign_loss, reason = "a time to live is at least 0")]
fn seconds<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 { serializer.serialize_u64(*value as u64) } else { serializer.serialize_f64(*value) }
}

/// `Idempotency-Key`: the client's own name for the call.
fn client_key(headers: &HeaderMap) -> Result<Option<String>, OpError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    // What is no text, or there twice, is as bad as no key at all.
    let key = value.to_str().ok().filter(|_| values.next().is_none()).unwrap_or_default();
    ClientKey::read(key).map(|key| Some(key.0)).map_err(|why| OpError::new(ErrorCode::Invalid, why))
}

/// Makes a call.
///
/// Answered once the call is durable here: from then on it has exactly one ending.
#[utoipa::path(post, path = "/api/v1/calls", operation_id = "createCall", tag = "calls", request_body = CallRequest,
    params(("Idempotency-Key" = inline(ClientKey), Header, description = "The same key and call: one execution"),
           ("Prefer" = String, Header, description = "`wait=N`: answer when it ended, at most N seconds later; anything else in it is passed over")),
    responses(
        (status = 200, description = "It has ended", body = Call),
        (status = 202, description = "It is under way", body = Call, headers(("Location" = String, description = "The call")),
            links(
            ("get" = (operation_id = "getCall", parameters(("id" = "$response.body#/id")))),
            ("cancel" = (operation_id = "cancelCall", parameters(("id" = "$response.body#/id")))))),
        ))]
pub(super) async fn create(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    headers: HeaderMap,
    request: Request<Body>,
) -> Result<Response, OpError> {
    check_accept(&headers, JSON)?;
    let client_key = client_key(&headers)?;
    let bytes = json_bytes(request, limits::ARGUMENTS_BYTES_MAX + ENVELOPE_BYTES_MAX, false).await?;
    // One level is the body's own.
    let asked: CallRequest<'_> = parse(&bytes, JSON_DEPTH_MAX + 1)?;
    let ttl = asked.ttl_s.map_or(Ok(app.context.settings.loaded().call_ttl), |seconds| TTL.read(seconds))?;
    let timeout = asked.timeout_s.map_or(Ok(calls::TIMEOUT_MAX), |seconds| TIMEOUT.read(seconds))?;
    let (node, tool) = asked.addressee()?;
    let request = calls::Request {
        node,
        tool,
        arguments: asked.arguments.map_or("{}", RawValue::get),
        ttl,
        timeout,
        effect: asked.effect.map(Into::into),
        workspace: asked.workspace.as_ref().map(|name| name.0.clone()),
        agent: asked.agent.as_ref().map(|name| name.0.clone()),
        client_key,
    };
    let roster = app.context.roster.borrow().clone();
    let accepted = calls::call(app.mesh(), &who, &roster, request).await?;
    let wait = prefer_wait(&headers);
    let reading = calls::read(app.mesh(), &who, &app.stop, accepted.id, wait.unwrap_or_default()).await?;
    // A fresh call that nobody waited for is always 202, so that the answer does not depend on luck.
    let over = reading.has_ended() && (wait.is_some() || !accepted.created);
    let status = if over { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, Json(render(&app.mesh().view(), &reading))).into_response();
    let invalid = |error: InvalidHeaderValue| OpError::new(ErrorCode::Internal, error.to_string());
    let location = HeaderValue::from_str(&url(accepted.id)).map_err(invalid)?;
    response.headers_mut().insert(LOCATION, location);
    if let Some(wait) = wait {
        let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs())).map_err(invalid)?;
        response.headers_mut().insert(HeaderName::from_static("preference-applied"), applied);
    }
    Ok(response)
}

fn render(view: &View, reading: &Reading) -> Call {
    let shown = reading.output.as_ref().filter(|bytes| !bytes.is_empty()).and_then(|bytes| show_output(bytes));
    let (header, record) = (&reading.own.header, reading.record());
    let len = record.output.len();
    let arguments = match &header.arguments {
        Payload::Inline(bytes) => show_output(bytes),
        Payload::Blob { .. } => None,
    };
    Call {
        id: header.id.to_string(),
        node: view.target_name(header).into_owned(),
        tool: header.tool.to_string(),
        arguments_encoding: arguments.as_ref().map(|(_, encoding)| *encoding),
        arguments: arguments.map(|(arguments, _)| arguments),
        arguments_bytes: header.arguments.len(),
        principal: view.asked_by(header, &reading.own.origin).to_string(),
        origin: NamedPeer::new(view, &reading.own.origin),
        workspace: header.workspace.as_ref().map(ToString::to_string),
        state: record.state.as_str().to_owned(),
        confirmed: record.confirmed,
        attempt: record.attempt,
        alias_of: reading.own.alias_of.map(|id| id.to_string()),
        reason: record.reason.clone(),
        why: calls::why_waiting(view, record),
        effect: record.header.effect.into(),
        ttl_s: Duration::from_millis(header.ttl_ms).as_secs_f64(),
        output_encoding: shown.as_ref().map(|(_, encoding)| *encoding),
        output: shown.map(|(output, _)| output),
        output_bytes: len,
        result_url: (reading.has_ended() && len > 0 && !reading.is_gone).then(|| format!("{}/result", url(header.id))),
        parts: super::parts::of(header.id, record),
        partial: record.partial,
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
                node: name_of(view, &row.peer),
                reason: row.reason.clone(),
                attempt: row.attempt,
                confirmed: row.confirmed,
            })
            .collect(),
    }
}

/// Filter and page of calls.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only calls for this device.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    node: Option<DeviceRef>,
    /// Only calls in this state; also `open`, `queued` (not started) and `ended`.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    state: Option<CallStates>,
    /// Calls on a page; default 50.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    limit: Option<PageLimit>,
    /// `next_cursor` of the page before.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    cursor: Option<CallsCursor>,
}

pub(super) fn write_cursor(cursor: CallCursor) -> String {
    let bytes = [&cursor.accepted_ms.to_be_bytes()[..], cursor.id.as_bytes()].concat();
    data_encoding::BASE64URL_NOPAD.encode(&bytes)
}

/// The calls that this device knows, newest first. Large outputs are left out.
#[utoipa::path(get, path = "/api/v1/calls", operation_id = "listCalls", tag = "calls", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<Call>)))]
pub(super) async fn list(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<Call>>, OpError> {
    check_accept(&headers, JSON)?;
    let limit = query.limit.map_or(PAGE_DEFAULT, |limit| limit.0);
    let node = query.node.as_ref().map(|node| node.0.as_str());
    let (state, after) = (query.state.map(|state| state.0), query.cursor.map(|cursor| cursor.0));
    let page = calls::list(app.mesh(), &who, node, state, after, usize::try_from(limit).unwrap_or(usize::MAX)).await?;
    let view = app.mesh().view();
    let brief = |reading| Call { arguments: None, arguments_encoding: None, ..render(&view, &reading) };
    let items = page.items.into_iter().map(brief).collect();
    Ok(Json(Page { items, next_cursor: page.next.map(write_cursor) }))
}

/// One call with its whole history. With `Prefer: wait=N` answered when it ended, at most N seconds later.
#[utoipa::path(get, path = "/api/v1/calls/{id}", operation_id = "getCall", tag = "calls",
    params(("id" = inline(CallId), Path, description = "Id of the call"),
           ("Prefer" = String, Header, description = "`wait=N`")),
    responses((status = 200, description = "The call", body = Call)))]
pub(super) async fn show(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(CallId(id)): Segment<CallId>,
    headers: HeaderMap,
) -> Result<Json<Call>, OpError> {
    check_accept(&headers, JSON)?;
    let wait = prefer_wait(&headers).unwrap_or_default();
    let reading = calls::read(app.mesh(), &who, &app.stop, id, wait).await?;
    Ok(Json(render(&app.mesh().view(), &reading)))
}

/// The output of a call as raw bytes.
///
/// Those that are on their way here are waited for, 30 s unless `Prefer: wait=N` says otherwise; the problem `result_away`
/// then tells how many have come (`received_bytes` of `output_bytes`).
#[utoipa::path(get, path = "/api/v1/calls/{id}/result", operation_id = "getResult", tag = "calls",
    params(("id" = inline(CallId), Path, description = "Id of the call"),
           ("Prefer" = String, Header, description = "`wait=N`")),
    responses((status = 200, description = "JSON, UTF-8 text, or bytes",
        content((serde_json::Value = "application/json"), (String = "text/plain"), (RawBytes = "application/octet-stream")))))]
pub(super) async fn result(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(CallId(id)): Segment<CallId>,
    headers: HeaderMap,
) -> Result<Response, OpError> {
    let open = |error: OpError| {
        let hint = "GET the call with `Prefer: wait=60` to wait for its ending";
        if error.code == ErrorCode::NotEnded { error.hint(hint) } else { error }
    };
    let wait = prefer_wait(&headers).unwrap_or(RESULT_WAIT);
    let (kind, len, body) = match calls::result(app.mesh(), &who, id, wait).await.map_err(open)? {
        ResultBody::Inline(bytes) => (content_type(&bytes), bytes.len() as u64, Body::from(bytes)),
        ResultBody::File { path, len } => {
            let read =
                |error: std::io::Error| OpError::new(ErrorCode::StoreFailed, format!("reading the result: {error}"));
            let file = tokio::fs::File::open(&path).await.map_err(read)?;
            let kind = tokio::task::spawn_blocking(move || file_type(&path))
                .await
                .map_err(|error| OpError::new(ErrorCode::Internal, error.to_string()))?
                .map_err(read)?;
            (kind, len, Body::from_stream(tokio_util::io::ReaderStream::with_capacity(file, 64 * 1024)))
        }
    };
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(kind)), (CONTENT_LENGTH, HeaderValue::from(len))], body)
        .into_response())
}

/// Cause of a cancellation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelRequest {
    /// For people.
    reason: Option<Reason>,
}

/// Cancels a call. One that has ended stays as it ended.
#[utoipa::path(post, path = "/api/v1/calls/{id}/cancel", operation_id = "cancelCall", tag = "calls",
    params(("id" = inline(CallId), Path, description = "Id of the call")), request_body = Option<CancelRequest>,
    responses((status = 200, description = "It has ended", body = Call),
              (status = 202, description = "The cancel request is on its way", body = Call)))]
pub(super) async fn cancel(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(CallId(id)): Segment<CallId>,
    request: Request<Body>,
) -> Result<(StatusCode, Json<Call>), OpError> {
    let asked: CancelRequest = body_or_default(request).await?;
    let reading = calls::cancel(app.mesh(), &who, id, asked.reason.map(|reason| reason.0)).await?;
    let status = if reading.has_ended() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(render(&app.mesh().view(), &reading))))
}

#[cfg(test)]
mod tests {
    use mesh_core::ids::ReqId;

    use super::*;
    use proptest::prelude::*;

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
            prop_assert_eq!(CallsCursor::read(&write_cursor(cursor)).unwrap().0, cursor);
        }

        #[test]
        fn any_text_is_no_panic_as_cursor(text in ".*") {
            let _ = CallsCursor::read(&text);
        }
    }
}
