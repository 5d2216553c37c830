//! What a run gave, as the mesh is told of it. Whoever gave it says of which kind it is, so types and names are made such as
//! others take.

use mesh_core::ids::Hash;
use mesh_core::limits::PART_NAME_BYTES_MAX;
use mesh_core::parts::{is_media_type, is_part_name};
use mesh_core::record::{Part, Payload};

use crate::runtime::outcome::Output;
use crate::runtime::spool::{Given, Kind, PARTS_MAX};

const _: () = assert!(PARTS_MAX == mesh_core::limits::PARTS_MAX, "a spool takes as many parts as an outcome has");

/// Type of bytes of which nothing is known.
const UNKNOWN: &str = "application/octet-stream";

/// The output and the parts of a result. Output alone of which nobody said what it is has no parts.
pub(super) fn of(given: Given) -> (Payload, Vec<Part>) {
    let Given { output, kind, more, .. } = given;
    let output = payload(output);
    if kind.is_none() && more.is_empty() {
        return (output, Vec::new());
    }
    // A program that leaves files and writes nothing has them alone as its result.
    let first = kind.or_else(|| (!output.is_empty()).then(|| Kind { media_type: guessed(&output), ..Kind::default() }));
    let first = first.map(|kind| part(kind, None));
    let more = more.into_iter().map(|(kind, output)| part(kind, Some(payload(output))));
    (output, first.into_iter().chain(more).collect())
}

fn part(Kind { media_type, name }: Kind, payload: Option<Payload>) -> Part {
    let media_type = if is_media_type(&media_type) { media_type } else { UNKNOWN.to_owned() };
    Part { media_type, name: base_name(&name), payload }
}

/// The last part of a path, in visible characters; nothing, if that can be no name of a file.
pub(super) fn base_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let visible = crate::text::visible(last);
    let cut = mesh_core::limits::cut(visible.trim(), PART_NAME_BYTES_MAX);
    if is_part_name(cut) { cut.to_owned() } else { String::new() }
}

fn guessed(output: &Payload) -> String {
    let kind = match output {
        Payload::Inline(bytes) if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() => "application/json",
        Payload::Inline(bytes) if std::str::from_utf8(bytes).is_ok() => "text/plain",
        Payload::Inline(_) | Payload::Blob { .. } => UNKNOWN,
    };
    kind.to_owned()
}

fn payload(output: Output) -> Payload {
    match output {
        Output::Inline(bytes) => Payload::Inline(bytes),
        Output::Stored { hash, len } => Payload::Blob { hash: Hash(hash), len },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(output: &'static str, kind: Option<Kind>, more: Vec<(Kind, Output)>) -> Given {
        Given { output: Output::Inline(output.into()), kind, more, cut_at: None }
    }

    fn kind(media_type: &str, name: &str) -> Kind {
        Kind { media_type: media_type.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn output_alone_has_no_parts() {
        assert_eq!(of(given("{}", None, Vec::new())), (Payload::Inline("{}".into()), Vec::new()));
    }

    #[test]
    fn the_output_is_the_first_part_unless_there_is_none() {
        let file = || (kind("image/png", "/tmp/../x\u{200b}.png"), Output::Stored { hash: [1; 32], len: 9 });
        let png = Part {
            media_type: "image/png".to_owned(),
            name: "x.png".to_owned(),
            payload: Some(Payload::Blob { hash: Hash([1; 32]), len: 9 }),
        };
        assert_eq!(of(given("", None, vec![file()])).1, std::slice::from_ref(&png));
        let json = Part { media_type: "application/json".to_owned(), name: String::new(), payload: None };
        assert_eq!(of(given("1", None, vec![file()])).1, [json, png]);
    }

    #[test]
    fn kinds_are_made_such_as_others_take() {
        let (output, parts) = of(given("x", Some(kind("text/html\r\nx: y", "..")), Vec::new()));
        assert_eq!(parts, [Part { media_type: UNKNOWN.to_owned(), name: String::new(), payload: None }]);
        assert!(mesh_core::parts::are_within_limits(&output, &parts));
        assert!(base_name(&"ä".repeat(400)).len() <= PART_NAME_BYTES_MAX);
    }
}
