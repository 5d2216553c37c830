//! Results of calls as MCP clients get them: texts, structured content, images and sounds where they are small, and links to the
//! bytes where they are not. What a tool gives is handed on as it is; it is nobody's word but its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use mesh_core::io::CallState;
use mesh_core::record::Ending;
use serde_json::{Map, Value, json};

use super::standing::{self, Standing};
use crate::doors::app::App;
use crate::doors::identity::Identity;
use crate::doors::ops::calls::{self, OUTPUT_SHOWN_BYTES_MAX, Reading};
use crate::mesh::ResultBody;
use crate::node::schema::InputSchema;

/// Largest image, sound or other bytes that stand in an answer.
const INLINE_BYTES_MAX: u64 = 1024 * 1024;
/// Wait for the bytes of a part that are on their way here.
const PART_WAIT: Duration = Duration::from_secs(2);

/// A piece of a result.
struct Piece {
    number: usize,
    media_type: String,
    name: String,
    len: u64,
    /// `None`: too large, or not here.
    bytes: Option<Bytes>,
}

/// The address of a part of a result; without a number of the output.
pub(super) fn uri(id: mesh_core::ids::ReqId, number: usize) -> String {
    format!("sigil://result/{id}/{number}")
}

/// The result of a call that is over. `output`: the schema that was told of it, which it then fits.
pub(super) async fn of(
    app: &Arc<App>,
    who: &Identity,
    reading: &Reading,
    output: Option<&Value>,
) -> Map<String, Value> {
    let standing = standing::of(app.mesh(), reading, None).await;
    let record = reading.record();
    let is_done = record.state == CallState::Ended(Ending::Done);
    let pieces = pieces(app, who, reading).await;
    let mut content: Vec<Value> = Vec::new();
    if !is_done {
        content.push(text(&standing.text));
    } else if !record.confirmed {
        content.push(text("(Its device has not confirmed this result itself yet.)"));
    }
    for piece in &pieces {
        content.push(shown(reading, piece));
    }
    if content.is_empty() {
        content.push(text("It is done and gave no output."));
    }
    let mut result = Map::new();
    let structured = pieces.first().and_then(|piece| structured(piece, output));
    match structured.filter(|_| is_done) {
        // What a tool says does not stand where how a call stands is said.
        Some(value) if value.get("call_id").is_some() => {
            let mut standing = standing.value;
            standing.insert("output".to_owned(), value);
            result.insert("structuredContent".to_owned(), Value::Object(standing));
        }
        Some(value) => drop(result.insert("structuredContent".to_owned(), value)),
        // Where a schema was told, something that fits has to be there.
        None if output.is_some() || !is_done => {
            result.insert("structuredContent".to_owned(), Value::Object(standing.value));
        }
        None => {}
    }
    result.insert("content".to_owned(), content.into());
    result.insert("isError".to_owned(), standing.is_error.into());
    result.insert("_meta".to_owned(), json!({ "sigil/call_id": reading.own.header.id.to_string() }));
    result
}

/// The same, with how the call stands in place of what is structured.
pub(super) fn with_standing(mut result: Map<String, Value>, standing: Standing) -> Map<String, Value> {
    let mut value = standing.value;
    let output = match result.remove("structuredContent") {
        Some(Value::Object(mut standing)) if standing.contains_key("call_id") => standing.remove("output"),
        output => output,
    };
    if let Some(output) = output {
        value.insert("output".to_owned(), output);
    }
    result.insert("structuredContent".to_owned(), Value::Object(value));
    result
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

async fn pieces(app: &Arc<App>, who: &Identity, reading: &Reading) -> Vec<Piece> {
    let (record, id) = (reading.record(), reading.own.header.id);
    let mut pieces = Vec::new();
    if record.parts.is_empty() {
        let len = record.output.len();
        if len > 0 {
            let media_type = reading.output.as_ref().map_or(String::new(), |bytes| kind(bytes).to_owned());
            let media_type = if media_type.is_empty() { BINARY.to_owned() } else { media_type };
            pieces.push(Piece { number: 0, media_type, name: String::new(), len, bytes: reading.output.clone() });
        }
        return pieces;
    }
    for (number, part) in record.parts.iter().enumerate() {
        let len = part.payload.as_ref().unwrap_or(&record.output).len();
        let max = if is_text(&part.media_type) { OUTPUT_SHOWN_BYTES_MAX } else { INLINE_BYTES_MAX };
        let bytes = if len <= max { bytes_of(app, who, id, number).await } else { None };
        pieces.push(Piece { number, media_type: part.media_type.clone(), name: part.name.clone(), len, bytes });
    }
    pieces
}

async fn bytes_of(app: &Arc<App>, who: &Identity, id: mesh_core::ids::ReqId, number: usize) -> Option<Bytes> {
    match calls::part(app.mesh(), who, id, number, PART_WAIT).await.ok()?.body {
        ResultBody::Inline(bytes) => Some(bytes),
        ResultBody::File { path, .. } => tokio::fs::read(path).await.ok().map(Bytes::from),
    }
}

const JSON: &str = "application/json";
const BINARY: &str = "application/octet-stream";

/// The type of an output that has no parts, and says nothing of itself.
pub(super) fn kind(bytes: &[u8]) -> &'static str {
    if std::str::from_utf8(bytes).is_err() {
        BINARY
    } else if crate::json::is_portable(bytes) {
        JSON
    } else {
        "text/plain"
    }
}

fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(super) fn is_text(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence.starts_with("text/") || essence == JSON
}

fn shown(reading: &Reading, piece: &Piece) -> Value {
    let essence = essence(&piece.media_type);
    let Some(bytes) = &piece.bytes else { return link(reading, piece) };
    let uri = uri(reading.own.header.id, piece.number);
    if is_text(&essence)
        && let Ok(said) = std::str::from_utf8(bytes)
    {
        // What has a name is a document, and no word of the tool's.
        let document = || json!({ "type": "resource", "resource": { "uri": uri, "mimeType": essence, "text": said } });
        return if piece.name.is_empty() { text(said) } else { document() };
    }
    let kind = match essence.as_str() {
        "image/png" | "image/jpeg" | "image/gif" | "image/webp" => "image",
        "audio/mpeg" | "audio/wav" | "audio/ogg" | "audio/webm" | "audio/flac" | "audio/aac" => "audio",
        _ => "resource",
    };
    let data = BASE64.encode(bytes);
    if kind == "resource" {
        return json!({ "type": "resource", "resource": { "uri": uri, "mimeType": essence, "blob": data } });
    }
    json!({ "type": kind, "data": data, "mimeType": essence })
}

fn link(reading: &Reading, piece: &Piece) -> Value {
    let name =
        if piece.name.is_empty() { format!("result {}", piece.number) } else { crate::text::visible(&piece.name) };
    json!({
        "type": "resource_link",
        "uri": uri(reading.own.header.id, piece.number),
        "name": name,
        "mimeType": essence(&piece.media_type),
        "size": piece.len,
        "description": "Too large for an answer, or not here yet: read it with resources/read",
    })
}

/// The first piece as a value, if it is an object and fits what was told of it.
fn structured(piece: &Piece, schema: Option<&Value>) -> Option<Value> {
    let bytes = piece.bytes.as_ref().filter(|_| is_text(&piece.media_type))?;
    // What only some parsers take must not make the whole answer unreadable.
    let value: Value =
        Some(bytes).filter(|bytes| crate::json::is_portable(bytes)).and_then(|it| serde_json::from_slice(it).ok())?;
    let fits = schema.is_none_or(|schema| InputSchema::compile(schema).is_ok_and(|schema| schema.check(bytes).is_ok()));
    Some(value).filter(|value| value.is_object() && fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(media_type: &str, bytes: &'static [u8]) -> Piece {
        let bytes = Some(Bytes::from_static(bytes));
        Piece { number: 0, media_type: media_type.to_owned(), name: String::new(), len: 0, bytes }
    }

    #[test]
    fn only_what_fits_is_structured() {
        let object = piece(JSON, br#"{"n":1}"#);
        assert_eq!(structured(&object, None), Some(json!({ "n": 1 })));
        let schema = json!({ "type": "object", "required": ["m"] });
        assert_eq!(structured(&object, Some(&schema)), None);
        assert_eq!(structured(&piece(JSON, b"[1]"), None), None);
        assert_eq!(structured(&piece(JSON, br#"{"n":1e999}"#), None), None);
        assert_eq!(structured(&piece("image/png", br#"{"n":1}"#), None), None);
        assert_eq!((kind(b"\xff"), kind(b"[1]"), kind(b"hi")), (BINARY, JSON, "text/plain"));
    }
}
