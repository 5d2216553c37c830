//! What a tool of an MCP server answers, as parts of a result. Pure.

use data_encoding::{BASE64, BASE64_NOPAD};
use serde_json::Value;

use crate::runtime::spool::{Kind, PARTS_MAX};
use crate::text::visible;

/// Longest reason, characters.
const REASON_CHARS_MAX: usize = 1000;
/// Types of images and sounds that are told of as what they say they are.
const MEDIA: [&str; 13] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "image/svg+xml",
    "image/bmp",
    "audio/mpeg",
    "audio/wav",
    "audio/ogg",
    "audio/webm",
    "audio/flac",
    "audio/aac",
];

/// A result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapped {
    /// Its parts, the output first.
    pub(super) parts: Vec<(Kind, Vec<u8>)>,
    /// The reason, if the tool failed, or gave what cannot be read.
    pub(super) failed: Option<String>,
}

/// Reads the answer to `tools/call`.
pub(super) fn of(answer: &Value) -> Mapped {
    let kind_of_answer = answer.get("resultType").and_then(Value::as_str).unwrap_or("complete");
    if kind_of_answer != "complete" {
        let why = format!("it asks for more ({}), which sigil does not give to servers", visible(kind_of_answer));
        return Mapped { parts: Vec::new(), failed: Some(why) };
    }
    let structured = answer.get("structuredContent").filter(|value| !value.is_null());
    let mut parts: Vec<(Kind, Vec<u8>)> = Vec::new();
    if let Some(structured) = structured {
        parts.push((kind("application/json", ""), structured.to_string().into_bytes()));
    }
    let content = answer.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut broken = None;
    for item in content {
        // Servers say what is structured once more as text, for clients that do not know the former.
        let text = item.get("text").and_then(Value::as_str);
        let said_twice = structured.is_some()
            && text.and_then(|text| serde_json::from_str::<Value>(text).ok()).as_ref() == structured;
        if said_twice {
            continue;
        }
        match part(item) {
            Ok(part) => parts.push(part),
            Err(why) => drop(broken.get_or_insert(why)),
        }
    }
    let is_error = answer.get("isError").and_then(Value::as_bool).unwrap_or_default();
    let first_text = content.iter().find_map(|item| item.get("text")?.as_str()).map(visible);
    let said = || {
        first_text.filter(|text| !text.trim().is_empty()).unwrap_or_else(|| "it failed and did not say why".to_owned())
    };
    let mut failed = if is_error { Some(said()) } else { broken };
    if parts.len() > PARTS_MAX {
        failed.get_or_insert_with(|| format!("its result has {} parts, more than {PARTS_MAX}", parts.len()));
        parts.truncate(PARTS_MAX);
    }
    Mapped { parts, failed: failed.map(|why| why.chars().take(REASON_CHARS_MAX).collect()) }
}

fn kind(media_type: &str, name: &str) -> Kind {
    Kind { media_type: media_type.to_owned(), name: name.to_owned() }
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn part(item: &Value) -> Result<(Kind, Vec<u8>), String> {
    match text(item, "type") {
        "text" => Ok((kind("text/plain", ""), text(item, "text").as_bytes().to_vec())),
        "image" | "audio" => {
            let said = text(item, "mimeType");
            let media_type = MEDIA.into_iter().find(|known| known.eq_ignore_ascii_case(said));
            Ok((kind(media_type.unwrap_or("application/octet-stream"), ""), decoded(text(item, "data"))?))
        }
        "resource" => {
            let resource = item.get("resource").unwrap_or(&Value::Null);
            let media_type = match text(resource, "mimeType") {
                "" if resource.get("text").is_some() => "text/plain",
                "" => "application/octet-stream",
                said => said,
            };
            let bytes = match resource.get("blob").and_then(Value::as_str) {
                Some(blob) => decoded(blob)?,
                None => text(resource, "text").as_bytes().to_vec(),
            };
            // Whoever keeps it names it by the last part of where it is.
            let uri = text(resource, "uri");
            Ok((kind(media_type, uri.split(['?', '#']).next().unwrap_or_default()), bytes))
        }
        // Where it leads is for people: it is never fetched.
        "resource_link" => Ok((kind("application/json", text(item, "name")), item.to_string().into_bytes())),
        other => Ok((kind("application/json", other), item.to_string().into_bytes())),
    }
}

fn decoded(base64: &str) -> Result<Vec<u8>, String> {
    let bytes = base64.as_bytes();
    BASE64
        .decode(bytes)
        .or_else(|_| BASE64_NOPAD.decode(bytes))
        .map_err(|_| "it gave a part that is not base64, as it must be".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(answer: &Value) -> (Vec<(String, String, String)>, Option<String>) {
        let Mapped { parts, failed } = of(answer);
        let show =
            |(kind, bytes): (Kind, Vec<u8>)| (kind.media_type, kind.name, String::from_utf8_lossy(&bytes).into_owned());
        (parts.into_iter().map(show).collect(), failed)
    }

    fn part(media_type: &str, name: &str, bytes: &str) -> (String, String, String) {
        (media_type.to_owned(), name.to_owned(), bytes.to_owned())
    }

    #[test]
    fn each_kind_of_content_is_a_part() {
        let answer = json!({ "content": [
            { "type": "text", "text": "hello" },
            { "type": "image", "mimeType": "image/png", "data": "aGk=" },
            { "type": "audio", "mimeType": "text/html", "data": "aGk" },
            { "type": "resource", "resource": { "uri": "file:///a/b.md?x", "mimeType": "text/markdown", "text": "# b" } },
            { "type": "resource", "resource": { "uri": "x:y", "blob": "aGk=" } },
            { "type": "resource_link", "uri": "file:///etc/passwd", "name": "../../x" },
        ] });
        let link = r#"{"name":"../../x","type":"resource_link","uri":"file:///etc/passwd"}"#;
        let (parts, failed) = shown(&answer);
        assert_eq!(failed, None);
        assert_eq!(
            parts[..5],
            [
                part("text/plain", "", "hello"),
                part("image/png", "", "hi"),
                part("application/octet-stream", "", "hi"),
                part("text/markdown", "file:///a/b.md", "# b"),
                part("application/octet-stream", "x:y", "hi"),
            ]
        );
        assert_eq!((parts[5].0.as_str(), parts[5].1.as_str()), ("application/json", "../../x"));
        assert_eq!(serde_json::from_str::<Value>(&parts[5].2).unwrap(), serde_json::from_str::<Value>(link).unwrap());
    }

    #[test]
    fn structured_content_comes_first_and_its_copy_is_dropped() {
        let answer = json!({ "structuredContent": { "b": 1 }, "content": [
            { "type": "text", "text": "{ \"b\": 1 }" }, { "type": "text", "text": "more" },
        ] });
        assert_eq!(
            shown(&answer),
            (vec![part("application/json", "", r#"{"b":1}"#), part("text/plain", "", "more")], None)
        );
    }

    #[test]
    fn errors_keep_their_parts_and_give_a_reason() {
        let answer = json!({ "isError": true, "content": [{ "type": "text", "text": "it went\u{202e} wrong" }] });
        let (parts, failed) = shown(&answer);
        assert_eq!((parts.len(), failed.as_deref()), (1, Some("it went wrong")));
        assert_eq!(shown(&json!({ "isError": true })).1.as_deref(), Some("it failed and did not say why"));
        let bad = json!({ "content": [{ "type": "text", "text": "x" }, { "type": "image", "mimeType": "image/png", "data": "***" }] });
        let (parts, failed) = shown(&bad);
        assert!(parts.len() == 1 && failed.unwrap().contains("base64"));
        let (parts, failed) =
            shown(&json!({ "resultType": "input_required", "content": [{ "type": "text", "text": "x" }] }));
        assert!(parts.is_empty() && failed.unwrap().contains("asks for more"));
    }

    #[test]
    fn nonsense_and_too_much_are_no_surprise() {
        for odd in [json!(null), json!(7), json!({ "content": "x" }), json!({ "content": [] })] {
            assert_eq!(shown(&odd), (Vec::new(), None), "{odd}");
        }
        let many = json!({ "content": vec![json!({ "type": "text", "text": "x" }); 40] });
        let (parts, failed) = shown(&many);
        assert!(parts.len() == PARTS_MAX && failed.unwrap().contains("40 parts"));
    }
}
