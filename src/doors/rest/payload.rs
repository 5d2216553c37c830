//! Outputs as bodies: their media type, and how they stand inside JSON.

use std::io::{self, BufReader, Read as _, Seek as _};
use std::path::Path;

use serde_json::value::RawValue;

use super::extract::JSON;
use crate::json::is_portable;

/// JSON as it is, text as a string, the rest in base64. JSON that only some parsers take is text too: it must not make
/// the document, or the whole list, in which it stands unreadable.
pub(super) fn show_output(bytes: &[u8]) -> Option<(Box<RawValue>, &'static str)> {
    let raw = |text: &str| serde_json::value::to_raw_value(text).ok();
    let Ok(text) = std::str::from_utf8(bytes) else {
        return raw(&data_encoding::BASE64.encode(bytes)).map(|raw| (raw, "base64"));
    };
    if is_portable(bytes)
        && let Ok(json) = serde_json::from_str::<Box<RawValue>>(text)
    {
        return Some((json, "json"));
    }
    raw(text).map(|raw| (raw, "text"))
}

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// The media type of these bytes.
pub(super) fn content_type(bytes: &[u8]) -> &'static str {
    if std::str::from_utf8(bytes).is_err() {
        BINARY
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
        JSON
    } else {
        TEXT
    }
}

/// As [`content_type`], without holding the file in memory.
pub(super) fn file_type(path: &Path) -> io::Result<&'static str> {
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
        assert_eq!(shown(b"1e999\n"), (r#""1e999\n""#.to_owned(), "text"), "b01");
        assert_eq!(shown(br#"["\ud800"]"#), (r#""[\"\\ud800\"]""#.to_owned(), "text"), "b01");
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert_eq!(shown(deep.as_bytes()).1, "text");
    }

    proptest! {
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
