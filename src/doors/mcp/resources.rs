//! Resources: parts of results, at `sigil://result/<call>/<part>`. Large ones are handed on as they are read from the disk.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::stream::{self, Stream, StreamExt as _};
use mesh_core::ids::ReqId;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt as _;

use super::result::{is_text, kind, uri};
use super::wire::{Era, Fresh, RpcError, result};
use crate::doors::app::App;
use crate::doors::identity::Identity;
use crate::doors::ops::calls;
use crate::mesh::ResultBody;
use crate::status::{ErrorCode, OpError};

/// Wait for bytes that are on their way here.
const WAIT: Duration = Duration::from_secs(20);
/// Largest text that is read as one.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes that are encoded at once: a multiple of 3, so that no padding stands in between.
const PIECE_BYTES: usize = 48 * 1024;
/// A result does not change. Whether the caller may still see it may.
const FRESH: Fresh = Fresh::Ms(60_000);

#[derive(Deserialize)]
struct ReadParams {
    uri: String,
}

/// The one template.
pub(super) fn templates() -> Map<String, Value> {
    let template = json!({
        "uriTemplate": "sigil://result/{call}/{part}",
        "name": "result",
        "title": "Part of the result of a call",
        "description": "The bytes of a result that is too large for an answer. Its address stands in that answer.",
    });
    let mut result = Map::new();
    result.insert("resourceTemplates".to_owned(), json!([template]));
    result
}

/// `resources/read`: the whole message, as a body.
pub(super) async fn read(app: &Arc<App>, who: &Identity, id: &Value, era: Era, params: &str) -> Result<Body, RpcError> {
    let params: ReadParams =
        serde_json::from_str(params).map_err(|error| RpcError::invalid_params(format!("the parameters: {error}")))?;
    let unknown = || {
        let shown: String = params.uri.chars().take(100).collect();
        RpcError::invalid_params(format!("there is no resource `{}`", crate::text::visible(&shown)))
            .with(json!({ "uri": params.uri }))
    };
    let (call, number) = address(&params.uri).ok_or_else(unknown)?;
    let (media_type, body) = find(app, who, call, number).await.map_err(|error| {
        if matches!(error.code, ErrorCode::UnknownCall | ErrorCode::NoOutput) {
            return unknown();
        }
        let hint = error.hint.map(|hint| format!(": {hint}")).unwrap_or_default();
        RpcError::internal(format!("{}{hint}", error.detail))
    })?;
    let failed = |error: std::io::Error| RpcError::internal(format!("reading the result: {error}"));
    let (bytes, path, len) = match body {
        ResultBody::Inline(bytes) => (Some(bytes), None, 0),
        ResultBody::File { path, len } if len <= TEXT_BYTES_MAX => {
            (Some(Bytes::from(tokio::fs::read(&path).await.map_err(failed)?)), None, len)
        }
        ResultBody::File { path, len } => (None, Some(path), len),
    };
    let media_type =
        media_type.unwrap_or_else(|| bytes.as_ref().map_or("application/octet-stream", |it| kind(it)).to_owned());
    let whole = |member: &str, said: String| {
        let mut contents = json!({ "uri": params.uri, "mimeType": media_type });
        if let Some(members) = contents.as_object_mut() {
            members.insert(member.to_owned(), said.into());
        }
        let mut answer = Map::new();
        answer.insert("contents".to_owned(), json!([contents]));
        result(id, era, answer, FRESH).to_string()
    };
    if let Some(bytes) = bytes {
        return Ok(Body::from(match std::str::from_utf8(&bytes) {
            Ok(said) if is_text(&media_type) => whole("text", said.to_owned()),
            Ok(_) | Err(_) => whole("blob", BASE64.encode(&bytes)),
        }));
    }
    let file = tokio::fs::File::open(path.unwrap_or_default()).await.map_err(failed)?;
    // The bytes go where an empty text stands. In a text its quotes would be escaped, so that it stands nowhere else.
    let frame = whole("blob", String::new());
    let at = frame.find(r#""blob":"""#).map(|at| at + r#""blob":""#.len());
    let (before, after) =
        at.and_then(|at| frame.split_at_checked(at)).ok_or_else(|| RpcError::internal("no room for its bytes"))?;
    let ends = |text: &str| stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(text.as_bytes()))]);
    Ok(Body::from_stream(ends(before).chain(encoded(file, len)).chain(ends(after))))
}

async fn find(
    app: &Arc<App>,
    who: &Identity,
    call: ReqId,
    number: usize,
) -> Result<(Option<String>, ResultBody), OpError> {
    match calls::part(app.mesh(), who, call, number, WAIT).await {
        Ok(part) => Ok((Some(part.media_type), part.body)),
        // A result without parts is its output.
        Err(error) if error.code == ErrorCode::NoOutput && number == 0 => {
            Ok((None, calls::result(app.mesh(), who, call, WAIT).await?))
        }
        Err(error) => Err(error),
    }
}

fn address(text: &str) -> Option<(ReqId, usize)> {
    let (call, number) = text.strip_prefix("sigil://result/")?.split_once('/')?;
    let found = (call.parse().ok()?, number.parse().ok()?);
    // No second way to write the same.
    (uri(found.0, found.1) == text).then_some(found)
}

/// The bytes of a file in base64, a piece at a time.
fn encoded(file: tokio::fs::File, len: u64) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::unfold((file, len), |(mut file, left)| async move {
        if left == 0 {
            return None;
        }
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let mut bytes = vec![0; piece];
        match file.read_exact(&mut bytes).await {
            Ok(_) => Some((Ok(Bytes::from(BASE64.encode(&bytes))), (file, left.saturating_sub(piece as u64)))),
            Err(error) => Some((Err(error), (file, 0))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_one_text_of_base64() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..PIECE_BYTES * 2 + 100).map(|n| u8::try_from(n % 251).unwrap()).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let open = tokio::fs::File::open(file.path()).await.unwrap();
        let pieces: Vec<Bytes> = encoded(open, bytes.len() as u64).map(Result::unwrap).collect().await;
        assert_eq!(BASE64.decode(&pieces.concat()).unwrap(), bytes);
    }

    #[test]
    fn addresses_are_read_in_one_form_alone() {
        let id = ReqId([7; 16]);
        assert_eq!(address(&uri(id, 3)), Some((id, 3)));
        let zero = uri(id, 3).replace("/3", "/03");
        for bad in ["", "sigil://result/", "sigil://result/x/1", "file:///etc/passwd", &zero] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
