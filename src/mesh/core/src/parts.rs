//! Parts of a result: what a tool gives besides, or in place of, one run of bytes.

use crate::ids::Hash;
use crate::limits;
use crate::record::{Part, Payload};

/// All the bytes of a result: its output, and those of its parts.
pub fn payloads<'a>(output: &'a Payload, parts: &'a [Part]) -> impl Iterator<Item = &'a Payload> {
    std::iter::once(output).chain(parts.iter().filter_map(|part| part.payload.as_ref()))
}

/// The blobs among them, with their lengths.
pub fn blobs<'a>(output: &'a Payload, parts: &'a [Part]) -> impl Iterator<Item = (Hash, u64)> + 'a {
    payloads(output, parts).filter_map(|payload| match payload {
        Payload::Blob { hash, len } => Some((*hash, *len)),
        Payload::Inline(_) => None,
    })
}

/// True if a result of these parts is one that may be told: few enough, of types and names that are what they seem, with no
/// more bytes than a result may have, and with no more inside the entry than there is room for.
#[must_use]
pub fn are_within_limits(output: &Payload, parts: &[Part]) -> bool {
    let total = payloads(output, parts).fold(0_u64, |all, payload| all.saturating_add(payload.len()));
    let inline = payloads(output, parts).fold(0_usize, |all, payload| match payload {
        Payload::Inline(bytes) => all.saturating_add(bytes.len()),
        Payload::Blob { .. } => all,
    });
    parts.len() <= limits::PARTS_MAX
        && total <= limits::RESULT_BYTES_MAX
        && inline <= limits::INLINE_BYTES_MAX
        && parts.iter().enumerate().all(|(at, part)| {
            is_media_type(&part.media_type) && is_part_name(&part.name) && (at == 0 || part.payload.is_some())
        })
}

/// True if this is a type with its subtype, and perhaps parameters, in characters that are no surprise in a header.
#[must_use]
pub fn is_media_type(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let (essence, parameters) = text.split_once(';').map_or((text, ""), |(essence, rest)| (essence, rest));
    text.len() <= limits::MEDIA_TYPE_BYTES_MAX
        && essence.split_once('/').is_some_and(|(kind, subtype)| is_word(kind) && is_word(subtype))
        && parameters.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// True if this may be the name of a part: nothing, or the name of a file without a path, in visible characters.
#[must_use]
pub fn is_part_name(text: &str) -> bool {
    text.len() <= limits::PART_NAME_BYTES_MAX
        && !matches!(text, "." | "..")
        && !text.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: Option<usize>) -> Part {
        let payload = bytes.map(|len| Payload::Inline(vec![0; len].into()));
        Part { media_type: "text/plain".to_owned(), name: String::new(), payload }
    }

    #[test]
    fn all_limits_are_exact() {
        let none = Payload::empty();
        assert!(are_within_limits(&none, &[]));
        let full = vec![part(Some(limits::INLINE_BYTES_MAX / limits::PARTS_MAX)); limits::PARTS_MAX];
        assert!(are_within_limits(&none, &full));
        assert!(!are_within_limits(&Payload::Inline(vec![0; 1].into()), &full), "a byte too much inside");
        assert!(!are_within_limits(&none, &vec![part(Some(0)); limits::PARTS_MAX + 1]));

        let blob = |len| Part { payload: Some(Payload::Blob { hash: Hash([1; 32]), len }), ..part(None) };
        assert!(are_within_limits(&none, &[blob(limits::RESULT_BYTES_MAX - 1), blob(1)]));
        assert!(!are_within_limits(&none, &[blob(limits::RESULT_BYTES_MAX), blob(1)]));
        assert!(!are_within_limits(&none, &[blob(u64::MAX), blob(u64::MAX)]));

        assert!(are_within_limits(&none, &[part(None), part(Some(1))]));
        assert!(!are_within_limits(&none, &[part(Some(1)), part(None)]), "only the first is the output");
    }

    #[test]
    fn types_and_names_hold_no_surprise() {
        for good in ["text/plain", "image/svg+xml", "text/plain; charset=utf-8"] {
            assert!(is_media_type(good), "{good}");
        }
        for bad in ["", "text", "text/", "/x", "a b/c", "text/plain\r\nX: y", "text/ä", &"x/y".repeat(100)] {
            assert!(!is_media_type(bad), "{bad}");
        }
        for good in ["", "a photo.png", "ä.txt", "...", ".x"] {
            assert!(is_part_name(good), "{good}");
        }
        for bad in [".", "..", "a/b", "a\\b", "a\nb", "a\0", &"x".repeat(256)] {
            assert!(!is_part_name(bad), "{bad}");
        }
    }
}
