//! Messages of MCP clients over HTTP, in both eras that are in use: that of `initialize` (up to 2025-11-25), and that in which each
//! request says for itself which version it is of, and its headers say it once more (2026-07-28). Pure.

use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::json::{DEPTH_MAX, deeper_than};

/// The version of the newer era.
pub(super) const MODERN: &str = "2026-07-28";
/// Versions of the older era, the newest first.
pub(super) const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// Members of `_meta` of a request of the newer era.
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Of an answer.
pub(super) const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
/// Of what is said on a subscription.
pub(super) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// The extension by which a call is a task.
pub(super) const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Headers of the newer era, and of sessions in the older.
pub(crate) const VERSION_HEADER: &str = "mcp-protocol-version";
pub(crate) const METHOD_HEADER: &str = "mcp-method";
pub(crate) const NAME_HEADER: &str = "mcp-name";
pub(crate) const SESSION_HEADER: &str = "mcp-session-id";

/// Deepest message: arguments, and what stands around them.
const MESSAGE_DEPTH_MAX: usize = DEPTH_MAX + 3;
/// Longest id of a request, bytes.
const ID_BYTES_MAX: usize = 256;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const INTERNAL: i64 = -32603;
const HEADER_MISMATCH: i64 = -32020;
const MISSING_CAPABILITY: i64 = -32021;
const UNSUPPORTED_VERSION: i64 = -32022;
/// Of our own: too many clients listen.
const TOO_MANY: i64 = -32_000;

/// Era of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Era {
    /// Up to 2025-11-25.
    Legacy,
    /// 2026-07-28.
    Modern,
}

/// An error of JSON-RPC.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
    /// True if the request itself is malformed, and not what it asks for.
    malformed: bool,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None, malformed: false }
    }

    pub(super) fn unknown_method(method: &str) -> Self {
        let shown: String = method.chars().take(80).collect();
        Self::new(METHOD_NOT_FOUND, format!("sigil has no method `{}`", crate::text::visible(&shown)))
    }

    pub(super) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(INTERNAL, message)
    }

    /// The client did not say that it knows tasks.
    pub(super) fn needs_tasks() -> Self {
        Self::needs(TASKS, &json!({ "extensions": { TASKS: {} } }))
    }

    /// The client did not say that it has a capability, told by its name and as a client would say it.
    pub(super) fn needs(name: &str, capabilities: &Value) -> Self {
        let needed = json!({ "requiredCapabilities": capabilities });
        Self::new(MISSING_CAPABILITY, format!("this needs the capability `{name}` of the client")).with(needed)
    }

    /// Too many clients listen.
    pub(super) fn too_many() -> Self {
        Self::new(TOO_MANY, "too many clients listen already: end one, or ask for the list when it is needed")
    }

    #[must_use]
    pub(super) fn with(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    fn malformed(mut self) -> Self {
        self.malformed = true;
        self
    }

    /// HTTP status of the answer. In the older era errors are answers like others, unless no request can be made out.
    pub(super) fn status(&self, era: Era) -> StatusCode {
        match (self.code, era) {
            (PARSE_ERROR | INVALID_REQUEST, _)
            | (HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION, Era::Modern) => StatusCode::BAD_REQUEST,
            (METHOD_NOT_FOUND, Era::Modern) => StatusCode::NOT_FOUND,
            (TOO_MANY, _) => StatusCode::TOO_MANY_REQUESTS,
            _ if self.malformed => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        }
    }

    /// The message that says so.
    pub(super) fn message(&self, id: Option<&Value>) -> Value {
        json!({ "jsonrpc": "2.0", "id": id, "error": self.value() })
    }

    /// The error by itself.
    pub(super) fn value(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let (Some(data), Some(members)) = (&self.data, error.as_object_mut()) {
            members.insert("data".to_owned(), data.clone());
        }
        error
    }
}

/// A message of a client.
#[derive(Debug, Clone)]
pub(super) enum Incoming<'a> {
    /// It waits for an answer.
    Request(Request<'a>),
    /// It does not.
    Notification { method: String, params: Option<&'a RawValue> },
    /// It answers something, which nobody here has asked.
    Answer,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    /// As it was written, a text or a number.
    pub(super) id: Value,
    pub(super) method: String,
    /// As they were written: of arguments each byte counts.
    pub(super) params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    jsonrpc: Option<String>,
    #[serde(default, deserialize_with = "there")]
    id: Option<Value>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// `null` is a value too, and no id.
fn there<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// Reads a message.
pub(super) fn read(body: &[u8]) -> Result<Incoming<'_>, RpcError> {
    let invalid = |why: &str| RpcError::new(INVALID_REQUEST, why);
    if deeper_than(body, MESSAGE_DEPTH_MAX) {
        return Err(invalid(&format!("the JSON is nested deeper than {MESSAGE_DEPTH_MAX}")));
    }
    let trimmed = body.trim_ascii_start();
    if !trimmed.starts_with(b"{") {
        serde_json::from_slice::<serde::de::IgnoredAny>(body)
            .map_err(|error| RpcError::new(PARSE_ERROR, format!("this is not JSON: {error}")))?;
        return Err(invalid(if trimmed.starts_with(b"[") {
            "batches are not taken: send each message by itself"
        } else {
            "a message is a JSON object"
        }));
    }
    let message: Message<'_> = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            invalid(&error.to_string())
        } else {
            RpcError::new(PARSE_ERROR, format!("this is not JSON: {error}"))
        }
    })?;
    if message.jsonrpc.as_deref() != Some("2.0") {
        return Err(invalid("`jsonrpc` must be \"2.0\""));
    }
    let params = message.params.filter(|params| params.get() != "null");
    if params.is_some_and(|params| !params.get().starts_with('{')) {
        return Err(invalid("`params` must be an object"));
    }
    let Some(method) = message.method else { return Ok(Incoming::Answer) };
    let Some(id) = message.id else { return Ok(Incoming::Notification { method, params }) };
    let is_id = match &id {
        Value::String(text) => text.len() <= ID_BYTES_MAX,
        Value::Number(_) => true,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    };
    if !is_id {
        return Err(invalid("`id` must be a number, or a text of at most 256 bytes"));
    }
    Ok(Incoming::Request(Request { id, method, params }))
}

/// What a request says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Meta {
    members: Map<String, Value>,
}

#[derive(Deserialize, Default)]
struct WithMeta {
    #[serde(rename = "_meta", default)]
    meta: Option<Map<String, Value>>,
    name: Option<Value>,
    uri: Option<Value>,
    #[serde(rename = "taskId")]
    task_id: Option<Value>,
    #[serde(rename = "protocolVersion")]
    version: Option<Value>,
}

impl Meta {
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.members.get(name)?.as_str()
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.members.get(name)?.as_f64()
    }

    /// The token by which progress is told; `None`: the client does not want to hear of it.
    pub(super) fn progress_token(&self) -> Option<&Value> {
        self.members.get("progressToken").filter(|token| token.is_string() || token.is_number())
    }

    /// True if the client says that it has a capability.
    #[cfg(feature = "fault-points")]
    pub(super) fn knows(&self, capability: &str) -> bool {
        self.members.get(META_CAPABILITIES).and_then(|it| it.get(capability)).is_some_and(Value::is_object)
    }

    /// True if the client takes a task for an answer.
    pub(super) fn knows_tasks(&self) -> bool {
        let extensions = self.members.get(META_CAPABILITIES).and_then(|it| it.get("extensions"));
        extensions.and_then(|it| it.get(TASKS)).is_some_and(Value::is_object)
    }
}

/// Reads the era of a request, from itself and its headers, which must say the same.
pub(super) fn era(request: &Request<'_>, headers: &HeaderMap) -> Result<(Era, Meta), RpcError> {
    let said: WithMeta = match request.params {
        None => WithMeta::default(),
        Some(params) => serde_json::from_str(params.get())
            .map_err(|error| RpcError::invalid_params(format!("the parameters: {error}")).malformed())?,
    };
    let meta = Meta { members: said.meta.clone().unwrap_or_default() };
    let header = sole(headers, VERSION_HEADER)?;
    // The newer era has no such method, and answers so.
    if request.method == "initialize" && meta.text(META_VERSION) != Some(MODERN) {
        let body = said.version.as_ref().and_then(Value::as_str);
        if header.is_some_and(|header| Some(header) != body) {
            return Err(mismatch(&format!("the header {VERSION_HEADER} and `protocolVersion` differ")));
        }
        return Ok((Era::Legacy, meta));
    }
    let Some(version) = meta.text(META_VERSION) else {
        if request.method == "server/discover" || header.is_some_and(|header| header >= MODERN) {
            return Err(RpcError::invalid_params(format!(
                "`_meta` must have `{META_VERSION}` and `{META_CAPABILITIES}`"
            ))
            .malformed());
        }
        // Without a header it is of 2025-03-26, says the specification.
        return match header {
            Some(other) if !LEGACY.contains(&other) => Err(unsupported(other).malformed()),
            Some(_) | None => Ok((Era::Legacy, meta)),
        };
    };
    match header {
        None => return Err(mismatch(&format!("the header {VERSION_HEADER} is missing"))),
        Some(header) if header != version => {
            return Err(mismatch(&format!("the header {VERSION_HEADER} and `{META_VERSION}` differ")));
        }
        Some(_) => {}
    }
    if LEGACY.contains(&version) {
        return Ok((Era::Legacy, meta));
    }
    if version != MODERN {
        return Err(unsupported(version));
    }
    if !meta.members.get(META_CAPABILITIES).is_some_and(Value::is_object) {
        return Err(RpcError::invalid_params(format!("`_meta` must have `{META_CAPABILITIES}`, an object")).malformed());
    }
    check_names(request, headers, &said)?;
    Ok((Era::Modern, meta))
}

/// Header and body name the same method, and the same tool, resource or task.
fn check_names(request: &Request<'_>, headers: &HeaderMap, said: &WithMeta) -> Result<(), RpcError> {
    if sole(headers, METHOD_HEADER)? != Some(request.method.as_str()) {
        return Err(mismatch(&format!("the header {METHOD_HEADER} must be the method")));
    }
    let Some(name) = named(&request.method, said) else { return Ok(()) };
    let header = sole(headers, NAME_HEADER)?;
    if header.and_then(decoded).as_deref() != Some(name) {
        return Err(mismatch(&format!("the header {NAME_HEADER} must be what the request names")));
    }
    Ok(())
}

fn named<'a>(method: &str, said: &'a WithMeta) -> Option<&'a str> {
    let of = match method {
        "tools/call" | "prompts/get" => &said.name,
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => &said.uri,
        "tasks/get" | "tasks/update" | "tasks/cancel" => &said.task_id,
        _ => return None,
    };
    of.as_ref()?.as_str()
}

/// Headers that a message of the newer era needs, for whoever has the message alone: name and value. None of a message that is
/// of no such request.
pub(crate) fn headers_of(message: &[u8]) -> Vec<(&'static str, String)> {
    let Ok(Incoming::Request(request)) = read(message) else { return Vec::new() };
    let Some(Ok(said)) = request.params.map(|params| serde_json::from_str::<WithMeta>(params.get())) else {
        return Vec::new();
    };
    let version = said.meta.as_ref().and_then(|meta| meta.get(META_VERSION)).and_then(Value::as_str);
    let Some(version) = version else { return Vec::new() };
    let name = named(&request.method, &said).map(|name| (NAME_HEADER, encoded(name)));
    [(VERSION_HEADER, encoded(version)), (METHOD_HEADER, encoded(&request.method))].into_iter().chain(name).collect()
}

fn encoded(text: &str) -> String {
    let plain = !text.is_empty()
        && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte) || byte == b' ')
        && text.trim() == text
        && !text.starts_with("=?base64?");
    if plain { text.to_owned() } else { format!("=?base64?{}?=", data_encoding::BASE64.encode(text.as_bytes())) }
}

fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|inner| inner.strip_suffix("?=")) {
        Some(inner) => String::from_utf8(data_encoding::BASE64.decode(inner.as_bytes()).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

/// The one value of a header. Two could be read in two ways.
fn sole<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, RpcError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(mismatch(&format!("the header {name} stands twice")));
    }
    value.to_str().map(Some).map_err(|_| mismatch(&format!("the header {name} is no text")))
}

fn mismatch(why: &str) -> RpcError {
    RpcError::new(HEADER_MISMATCH, why).malformed()
}

fn unsupported(version: &str) -> RpcError {
    let shown: String = version.chars().take(40).collect();
    let data = json!({ "requested": shown, "supported": versions() });
    RpcError::new(UNSUPPORTED_VERSION, format!("sigil does not speak version {shown} of MCP")).with(data)
}

/// All versions, the newest first.
pub(super) fn versions() -> Vec<&'static str> {
    [MODERN].into_iter().chain(LEGACY).collect()
}

/// The version for a client of the older era: the one that it asks for, or the newest that there is.
pub(super) fn negotiated(asked: Option<&str>) -> &'static str {
    let [newest, ..] = LEGACY;
    LEGACY.into_iter().find(|version| Some(*version) == asked).unwrap_or(newest)
}

/// How long a client may hold an answer for true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fresh {
    /// It is no answer to be held.
    No,
    /// So many milliseconds.
    Ms(u64),
}

/// A result in the words of an era.
pub(super) fn result(id: &Value, era: Era, mut result: Map<String, Value>, fresh: Fresh) -> Value {
    if era == Era::Modern {
        result.entry("resultType").or_insert_with(|| "complete".into());
        if let Fresh::Ms(ms) = fresh {
            result.insert("ttlMs".to_owned(), ms.into());
            result.insert("cacheScope".to_owned(), "private".into());
        }
    }
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(text: &str) -> Request<'_> {
        match read(text.as_bytes()) {
            Ok(Incoming::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ä b","arguments":{"n":1.10},
        "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;

    #[test]
    fn messages_are_told_apart() {
        let code = |text: &str| read(text.as_bytes()).unwrap_err().code;
        assert_eq!(code("{"), PARSE_ERROR);
        assert_eq!(code("nonsense"), PARSE_ERROR);
        for bad in [
            "[]",
            "7",
            r#"{"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":[],"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[1]}"#,
        ] {
            assert_eq!(code(bad), INVALID_REQUEST, "{bad}");
        }
        let deep =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":{}{}}}}}"#, "[".repeat(70), "]".repeat(70));
        assert_eq!(code(&deep), INVALID_REQUEST);
        assert!(matches!(read(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#), Ok(Incoming::Answer)));
        let said = read(br#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#).unwrap();
        assert!(matches!(said, Incoming::Notification { params: None, .. }));
        assert!(request(CALL).params.unwrap().get().contains("1.10"), "numbers stay as they were written");
    }

    #[test]
    fn a_request_of_the_newer_era_says_the_same_in_its_headers() {
        let call = request(CALL);
        let all = headers_of(CALL.as_bytes());
        let all: Vec<(&'static str, &str)> = all.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (era_of, meta) = era(&call, &headers(&all)).unwrap();
        assert_eq!((era_of, meta.knows_tasks()), (Era::Modern, false));
        for left_out in 0..all.len() {
            let mut some = all.clone();
            some.remove(left_out);
            let error = era(&call, &headers(&some)).unwrap_err();
            assert_eq!(
                (error.code, error.status(Era::Modern)),
                (HEADER_MISMATCH, StatusCode::BAD_REQUEST),
                "{left_out}"
            );
        }
        let mut other = all.clone();
        other[2].1 = "other";
        assert_eq!(era(&call, &headers(&other)).unwrap_err().code, HEADER_MISMATCH);
    }

    #[test]
    fn the_newer_era_has_no_greeting() {
        let hello = CALL.replace("tools/call", "initialize");
        let all = headers_of(hello.as_bytes());
        let all: Vec<(&'static str, &str)> = all.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(era(&request(&hello), &headers(&all)).unwrap().0, Era::Modern);
        let old =
            request(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2026-07-28"}}"#);
        assert_eq!(era(&old, &headers(&[])).unwrap().0, Era::Legacy);
    }

    #[test]
    fn each_era_is_known_by_what_it_says() {
        let list = request(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
        assert_eq!(era(&list, &headers(&[])).unwrap().0, Era::Legacy);
        assert_eq!(era(&list, &headers(&[(VERSION_HEADER, "2025-06-18")])).unwrap().0, Era::Legacy);
        assert_eq!(era(&list, &headers(&[(VERSION_HEADER, "2026-07-28")])).unwrap_err().code, INVALID_PARAMS);
        assert_eq!(era(&list, &headers(&[(VERSION_HEADER, "1999-01-01")])).unwrap_err().code, UNSUPPORTED_VERSION);
        let discover = request(r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#);
        assert_eq!(era(&discover, &headers(&[])).unwrap_err().code, INVALID_PARAMS);
        let newer = CALL.replace(MODERN, "2027-01-01");
        let error = era(&request(&newer), &headers(&[(VERSION_HEADER, "2027-01-01")])).unwrap_err();
        assert!(error.code == UNSUPPORTED_VERSION && error.data.unwrap()["supported"][0] == MODERN);
        assert_eq!((negotiated(Some("2025-06-18")), negotiated(Some("2030-01-01"))), ("2025-06-18", "2025-11-25"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let mut object = br#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"#.to_vec();
            object.extend(bytes);
            if let Ok(Incoming::Request(request)) = read(&object) {
                let _ = era(&request, &HeaderMap::new());
            }
        }

        #[test]
        fn any_name_survives_its_header(name in ".{0,40}") {
            prop_assert_eq!(decoded(&encoded(&name)).unwrap(), name);
        }
    }
}
