//! Messages of MCP on a stream of lines, in both eras that are in use: that of `initialize` (up to 2025-11-25), and that in which
//! each request says for itself which version it is of (2026-07-28). Pure: no stream, no clock.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::secrets::Redactor;

/// Longest line of a server, bytes. Beyond, the server is ended: what it answered is lost, and whoever asked would wait for ever.
pub(super) const LINE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest id of a request of a server, in bytes.
const ID_BYTES_MAX: usize = 256;
/// Longest text of an error of a server that is shown, in characters.
const ERROR_CHARS_MAX: usize = 1_000;
/// Most values of a line: each takes a hundred bytes once it is read, however few it had as text.
const VALUES_MAX: usize = 250_000;
/// The version of the newer era that is spoken.
const MODERN: &str = "2026-07-28";
/// The version that is asked for in the older era; a server may answer with one before it.
const LEGACY: &str = "2025-11-25";
/// Members of `_meta` of a request of the newer era.
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";

/// Errors of JSON-RPC that decide something here.
pub(super) const INVALID_PARAMS: i64 = -32602;
const METHOD_NOT_FOUND: i64 = -32601;
/// Errors of the newer era alone: who answers `server/discover` with one knows it.
const UNSUPPORTED_VERSION: i64 = -32022;
const MISSING_CAPABILITY: i64 = -32021;
const HEADER_MISMATCH: i64 = -32020;
/// Said here, never by a server: the request did not reach it, or it did not take it.
pub(super) const NOT_TAKEN: i64 = i64::MIN;
/// Likewise, and the conversation is over: the next one may take it.
pub(super) const NOT_TAKEN_NOW: i64 = i64::MIN + 1;

/// Era of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::node) enum Era {
    /// Up to 2025-11-25.
    Legacy,
    /// 2026-07-28.
    Modern,
}

/// A message of a server.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    /// The answer to a request of ours.
    Answer(u64, Result<Value, RpcError>),
    /// It asks for something.
    Asks {
        /// As it wrote it.
        id: Value,
        /// What it asks for.
        method: String,
    },
    /// The list of its tools has changed.
    ToolsChanged,
    /// A run has got on.
    Progress(Progress),
    /// Something else, which is no matter here.
    Other,
}

impl Incoming {
    /// The same without secrets.
    pub(super) fn redacted(self, redactor: &Redactor) -> Self {
        match self {
            Self::Answer(id, Ok(answer)) => Self::Answer(id, Ok(redactor.redacted_json(answer))),
            Self::Answer(id, Err(RpcError { code, message })) => {
                Self::Answer(id, Err(RpcError { code, message: redactor.redacted(&message).into_owned() }))
            }
            Self::Progress(Progress { token, note }) => {
                Self::Progress(Progress { token, note: redactor.redacted(&note).into_owned() })
            }
            plain @ (Self::Asks { .. } | Self::ToolsChanged | Self::Other) => plain,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Progress {
    /// The request that it is of.
    pub(super) token: u64,
    /// For people: `40% text`.
    pub(super) note: String,
}

/// An error that a server answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RpcError {
    /// Its number.
    pub(super) code: i64,
    /// For people.
    pub(super) message: String,
}

impl RpcError {
    /// True if a server that answers `server/discover` with it does not know that: it is of the older era.
    pub(super) const fn is_of_legacy(&self) -> bool {
        !matches!(self.code, UNSUPPORTED_VERSION | MISSING_CAPABILITY | HEADER_MISMATCH | NOT_TAKEN | NOT_TAKEN_NOW)
    }

    /// The error of a request that no server has taken.
    pub(super) fn not_taken(why: impl Into<String>) -> Self {
        Self { code: NOT_TAKEN, message: why.into() }
    }

    /// The same, where another conversation may do better.
    pub(super) fn not_taken_now(why: impl Into<String>) -> Self {
        Self { code: NOT_TAKEN_NOW, message: why.into() }
    }

    /// The error of a request that its server does not know.
    pub(super) fn unknown_method(why: impl Into<String>) -> Self {
        Self { code: METHOD_NOT_FOUND, message: why.into() }
    }
}

/// True for a line that has more values than are read, counted without reading it: what stands between them, texts left out.
pub(super) fn has_too_many(line: &[u8]) -> bool {
    let (mut values, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values > VALUES_MAX
}

/// Reads a line; `None`: it is no message.
pub(super) fn read(line: &[u8]) -> Option<Incoming> {
    let message: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let method = message.get("method").and_then(Value::as_str);
    let Some(method) = method else {
        let id = message.get("id")?.as_u64()?;
        let answer = match (message.get("result"), message.get("error")) {
            (Some(result), None) => Ok(result.clone()),
            (_, Some(error)) => Err(rpc_error(error)),
            (None, None) => return None,
        };
        return Some(Incoming::Answer(id, answer));
    };
    if let Some(id) = message.get("id") {
        // It is said back to it.
        if !(id.is_number() || id.as_str().is_some_and(|id| id.len() <= ID_BYTES_MAX)) {
            return Some(Incoming::Other);
        }
        return Some(Incoming::Asks { id: id.clone(), method: method.to_owned() });
    }
    Some(match method {
        "notifications/tools/list_changed" => Incoming::ToolsChanged,
        "notifications/progress" => {
            message.get("params").and_then(progress).map_or(Incoming::Other, Incoming::Progress)
        }
        _ => Incoming::Other,
    })
}

fn rpc_error(error: &Value) -> RpcError {
    RpcError {
        code: error.get("code").and_then(Value::as_i64).filter(|code| *code > NOT_TAKEN_NOW).unwrap_or_default(),
        message: crate::text::visible(error.get("message").and_then(Value::as_str).unwrap_or("no reason given"))
            .chars()
            .take(ERROR_CHARS_MAX)
            .collect(),
    }
}

/// The error in a message that names no request, as servers over HTTP answer what they do not take.
pub(super) fn error_of(message: &[u8]) -> Option<RpcError> {
    let message: Map<String, Value> = serde_json::from_slice(message).ok()?;
    message.get("error").filter(|error| error.is_object()).map(rpc_error)
}

/// What whoever carries a message of ours over HTTP has to know of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Outline {
    /// Its number; `None`: nothing is answered.
    pub(super) id: Option<u64>,
    /// What it asks for or tells; empty: it is an answer.
    #[serde(default)]
    pub(super) method: String,
    #[serde(default)]
    params: OutlineParams,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
struct OutlineParams {
    name: Option<String>,
    #[serde(rename = "requestId")]
    request: Option<u64>,
    #[serde(default, rename = "_meta")]
    meta: OutlineMeta,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
struct OutlineMeta {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<String>,
}

impl Outline {
    /// The outline of a message of ours.
    pub(super) fn of(message: &[u8]) -> Self {
        let read: Option<Self> = serde_json::from_slice(message).ok();
        // An answer has the number of what a server asked; of it nothing has to be known.
        read.filter(|outline| !outline.method.is_empty()).unwrap_or_default()
    }

    /// True if it asks to be told of changes, which is answered at the end of the conversation.
    pub(super) fn listens(&self) -> bool {
        self.method == "subscriptions/listen"
    }

    /// The request that nobody waits for any more, if it says that.
    pub(super) fn gives_up(&self) -> Option<u64> {
        self.params.request.filter(|_| self.method == "notifications/cancelled")
    }

    /// The tool that it calls, and the version that it says it is of: in the newer era headers say them once more.
    pub(super) fn named(&self) -> (Option<&str>, Option<&str>) {
        (self.params.name.as_deref().filter(|_| self.method == "tools/call"), self.params.meta.version.as_deref())
    }
}

fn progress(params: &Value) -> Option<Progress> {
    let number = |name: &str| params.get(name).and_then(Value::as_f64);
    let share = match (number("progress"), number("total")) {
        (Some(done), Some(total)) if total > 0.0 && done.is_finite() => {
            format!("{:.0}%", (done / total * 100.0).clamp(0.0, 100.0))
        }
        (Some(done), _) => done.to_string(),
        (None, _) => String::new(),
    };
    let said = params.get("message").and_then(Value::as_str).map(crate::text::visible).unwrap_or_default();
    let note =
        [share.as_str(), said.trim()].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
    let token = params.get("progressToken")?.as_u64()?;
    Some(Progress { token, note: note.chars().take(200).collect() })
}

fn line(message: &Value) -> Vec<u8> {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

fn client() -> Value {
    json!({ "name": "sigil", "version": env!("CARGO_PKG_VERSION") })
}

/// A request, in the words of an era.
pub(super) fn request(era: Era, id: u64, method: &str, mut params: Map<String, Value>) -> Vec<u8> {
    let meta = meta(era, None);
    if !meta.is_empty() {
        params.insert("_meta".to_owned(), Value::Object(meta));
    }
    line(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
}

/// A call of a tool that is to tell its progress. Its arguments go out as they were written: no number of theirs is read here.
pub(super) fn call(era: Era, id: u64, tool: &str, arguments: &RawValue) -> Vec<u8> {
    let head = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call" }).to_string();
    let params = json!({ "name": tool, "_meta": meta(era, Some(id)) }).to_string();
    let open = |object: &str| object.strip_suffix('}').unwrap_or(object).to_owned();
    // A line end is white space in JSON, never part of a text, and would end the message here.
    let arguments = arguments.get().replace(['\n', '\r'], " ");
    let mut line = format!("{},\"params\":{},\"arguments\":{arguments}}}}}", open(&head), open(&params)).into_bytes();
    line.push(b'\n');
    line
}

fn meta(era: Era, progress: Option<u64>) -> Map<String, Value> {
    let mut meta = Map::new();
    if era == Era::Modern {
        meta.insert(META_VERSION.to_owned(), MODERN.into());
        meta.insert(META_CLIENT.to_owned(), client());
        meta.insert(META_CAPABILITIES.to_owned(), json!({}));
    }
    if let Some(token) = progress {
        meta.insert("progressToken".to_owned(), token.into());
    }
    meta
}

/// The first request of an era.
pub(super) fn hello(era: Era, id: u64) -> Vec<u8> {
    match era {
        Era::Modern => request(era, id, "server/discover", Map::new()),
        Era::Legacy => {
            let params = json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client() });
            line(&json!({ "jsonrpc": "2.0", "id": id, "method": "initialize", "params": params }))
        }
    }
}

/// What a server said of itself when it was greeted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::node) struct Greeted {
    /// Its own name.
    pub(in crate::node) name: String,
    /// Its version.
    pub(in crate::node) version: String,
}

/// Reads the answer to [`hello`]. The error says why it cannot be spoken to.
pub(super) fn greeted(era: Era, answer: &Value) -> Result<Greeted, String> {
    let info = match era {
        Era::Legacy => {
            let version = answer.get("protocolVersion").and_then(Value::as_str);
            if !version.is_some_and(|version| ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY].contains(&version)) {
                return Err(format!("it speaks version {}, which sigil does not", version.unwrap_or("none")));
            }
            answer.get("serverInfo")
        }
        Era::Modern => {
            let versions = answer.get("supportedVersions").and_then(Value::as_array);
            if !versions.is_some_and(|versions| versions.iter().any(|version| version == MODERN)) {
                return Err("it speaks no version that sigil does".to_owned());
            }
            answer.get("_meta").and_then(|meta| meta.get(META_SERVER))
        }
    };
    let text = |name: &str| {
        let text = info.and_then(|info| info.get(name)).and_then(Value::as_str).unwrap_or_default();
        crate::text::visible(text).chars().take(100).collect::<String>()
    };
    Ok(Greeted { name: text("name"), version: text("version") })
}

/// Said after the older era's greeting was answered.
pub(super) fn initialized() -> Vec<u8> {
    line(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
}

/// Asks to be told when the list of tools changes, which in the older era is told unasked.
pub(super) fn listen(id: u64) -> Vec<u8> {
    let params = json!({ "notifications": { "toolsListChanged": true } });
    let Value::Object(params) = params else { return Vec::new() };
    request(Era::Modern, id, "subscriptions/listen", params)
}

/// Tells that nobody waits for a request any more.
pub(super) fn cancelled(id: u64, reason: &str) -> Vec<u8> {
    let params = json!({ "requestId": id, "reason": reason });
    line(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }))
}

/// The answer to what a server asks: we say that we can do nothing but be there.
pub(super) fn answer(id: &Value, method: &str) -> Vec<u8> {
    line(&if method == "ping" {
        json!({ "jsonrpc": "2.0", "id": id, "result": {} })
    } else {
        json!({ "jsonrpc": "2.0", "id": id, "error": { "code": METHOD_NOT_FOUND, "message": "sigil does not do this for servers" } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(line: impl AsRef<[u8]>) -> Value {
        let (end, text) = line.as_ref().split_last().unwrap();
        assert!(*end == b'\n' && !text.contains(end));
        serde_json::from_slice(text).unwrap()
    }

    #[test]
    fn answers_notifications_and_nonsense_are_told_apart() {
        let ok = read(br#"{"jsonrpc":"2.0","id":3,"result":{"a":1}}"#);
        assert_eq!(ok, Some(Incoming::Answer(3, Ok(json!({"a": 1})))));
        let error = read(br#"{"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"bad"}}"#);
        let bad = RpcError { code: INVALID_PARAMS, message: "bad".to_owned() };
        assert_eq!(error, Some(Incoming::Answer(3, Err(bad))));
        assert_eq!(read(br#"{"method":"notifications/tools/list_changed"}"#), Some(Incoming::ToolsChanged));
        assert_eq!(read(br#"{"method":"x"}"#), Some(Incoming::Other));
        assert!(matches!(read(br#"{"id":"a","method":"ping"}"#), Some(Incoming::Asks { .. })));
        for none in
            [&b"this is not JSON"[..], b"\xff\xfe\x00", b"[]", b"7", b"{}", br#"{"id":1}"#, br#"{"id":-1,"result":1}"#]
        {
            assert_eq!(read(none), None, "{none:?}");
        }
    }

    #[test]
    fn progress_is_a_share_and_a_text() {
        let note =
            |params: &str| match read(format!(r#"{{"method":"notifications/progress","params":{params}}}"#).as_bytes())
            {
                Some(Incoming::Progress(Progress { token: 7, note })) => note,
                other => panic!("{other:?}"),
            };
        assert_eq!(note(r#"{"progressToken":7,"progress":2,"total":5,"message":"step\u202e 2"}"#), "40% step 2");
        assert_eq!(note(r#"{"progressToken":7,"progress":9,"total":5}"#), "100%");
        assert_eq!(note(r#"{"progressToken":7,"progress":1.5}"#), "1.5");
        assert_eq!(note(r#"{"progressToken":7,"message":"busy"}"#), "busy");
        assert_eq!(
            read(br#"{"method":"notifications/progress","params":{"progressToken":"x"}}"#),
            Some(Incoming::Other)
        );
    }

    #[test]
    fn each_era_is_greeted_in_its_words() {
        let old = said(hello(Era::Legacy, 1));
        assert_eq!((old["method"].as_str(), old["params"]["capabilities"].clone()), (Some("initialize"), json!({})));
        assert_eq!(said(hello(Era::Modern, 1))["params"]["_meta"][META_VERSION], MODERN);
        let greeting = json!({"protocolVersion": "2025-06-18", "serverInfo": {"name": "x\u{200b}", "version": "1"}});
        assert_eq!(greeted(Era::Legacy, &greeting), Ok(Greeted { name: "x".into(), version: "1".into() }));
        assert!(greeted(Era::Legacy, &json!({"protocolVersion": "1999-01-01"})).is_err());
        let greeting = json!({"supportedVersions": [MODERN], "_meta": {META_SERVER: {"name": "y"}}});
        assert_eq!(greeted(Era::Modern, &greeting).unwrap().name, "y");
        assert!(greeted(Era::Modern, &json!({})).is_err());
        let unknown = RpcError { code: METHOD_NOT_FOUND, message: String::new() };
        assert!(unknown.is_of_legacy());
        assert!(!RpcError { code: UNSUPPORTED_VERSION, ..unknown }.is_of_legacy());
    }

    #[test]
    fn a_server_gets_an_answer_to_all_that_it_asks() {
        assert_eq!(said(answer(&json!("a"), "ping"))["result"], json!({}));
        assert_eq!(said(answer(&json!(1), "sampling/createMessage"))["error"]["code"], METHOD_NOT_FOUND);
        let call = said(call(Era::Legacy, 4, "a", &RawValue::from_string("{}".to_owned()).unwrap()));
        assert_eq!(call["params"]["_meta"], json!({ "progressToken": 4 }));
    }

    #[test]
    fn a_line_of_nothing_but_values_is_not_read() {
        let line = |values: usize| format!("[{}0]", "0,".repeat(values)).into_bytes();
        assert!(!has_too_many(&line(1_000)) && has_too_many(&line(VALUES_MAX)));
        let text = json!({ "text": ",[{\"\\".repeat(VALUES_MAX) }).to_string();
        assert!(!has_too_many(text.as_bytes()));
    }

    #[test]
    fn arguments_go_out_as_they_were_written() {
        let written = "{\n  \"n\": 12345678901234567890123,\r\n  \"x\": 1.10000000000000000001,\"t\":\"a\\nb\" }";
        let raw: Box<RawValue> = serde_json::from_str(written).unwrap();
        let line = String::from_utf8(call(Era::Modern, 7, "a \"b\"", &raw)).unwrap();
        assert!(line.contains("12345678901234567890123") && line.contains("1.10000000000000000001"), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["params"]["name"], "a \"b\"");
        assert_eq!(read["params"]["arguments"]["t"], "a\nb");
        assert_eq!(read["params"]["_meta"]["progressToken"], 7);
        assert_eq!(read["params"]["_meta"][META_VERSION], MODERN);
        assert_eq!((&read["id"], &read["method"]), (&json!(7), &json!("tools/call")));
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn any_members_are_read_or_are_none(method in ".{0,20}", id in any::<i64>(), number in any::<f64>(), text in ".{0,40}") {
            let params = json!({ "progressToken": id, "progress": number, "total": number, "message": text });
            for message in [
                json!({ "id": id, "method": method, "params": params }),
                json!({ "method": "notifications/progress", "params": params }),
                json!({ "id": id, "error": { "code": text, "message": id } }),
                json!({ "id": id, "result": text }),
            ] {
                if let Some(Incoming::Progress(progress)) = read(message.to_string().as_bytes()) {
                    prop_assert!(progress.note.chars().count() <= 200);
                }
            }
        }
    }
}
