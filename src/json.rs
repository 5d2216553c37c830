//! JSON as text: looked at, laid out and handed on without being parsed, so that every number, key and escape stays as
//! it was written.

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Deepest JSON that is handed on as JSON: nothing honest is deeper, and parsers may recurse.
pub const DEPTH_MAX: usize = 64;

/// True if brackets nest deeper than `max`, found without parsing: strings are skipped, pairs are not matched.
#[must_use]
pub fn deeper_than(json: &[u8], max: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// True for JSON that every parser takes: by the grammar, at most [`DEPTH_MAX`] deep, each number within the range of a
/// double and each surrogate escape with its other half. The grammar alone allows `1e999` and `"\ud800"`, which many
/// parsers refuse together with all that stands around them.
#[must_use]
pub fn is_portable(json: &[u8]) -> bool {
    !deeper_than(json, DEPTH_MAX) && serde_json::from_slice::<Checked>(json).is_ok()
}

/// Any JSON, of which every number and string is read and nothing kept: each output that a door shows passes here.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// Parses JSON that may hold what [`is_portable`] speaks of: such a number is read as its text, half a surrogate pair as
/// U+FFFD. For showing; whoever needs the bytes must not parse them.
///
/// # Errors
/// It is no JSON by the grammar, or deeper than 128.
pub fn parse_lenient(json: &str) -> serde_json::Result<Value> {
    serde_json::from_str(json).or_else(|_| serde_json::from_str(&portable(json)))
}

/// The same JSON without what only some parsers take.
fn portable(json: &str) -> String {
    let mut mended = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(|letter: char| matches!(letter, '"' | '-' | '0'..='9')) {
        let (before, from) = rest.split_at(at);
        mended.push_str(before);
        let len = if from.starts_with('"') { string_len(from) } else { number_len(from) };
        let (token, after) = from.split_at(len);
        if token.starts_with('"') {
            mend_string(token, &mut mended);
        } else if token.parse().is_ok_and(f64::is_infinite) {
            mended.extend(["\"", token, "\""]);
        } else {
            mended.push_str(token);
        }
        rest = after;
    }
    mended.push_str(rest);
    mended
}

/// Bytes of the string that `json` begins with, quotes included; all of it if the string does not end.
fn string_len(json: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

fn number_len(json: &str) -> usize {
    json.find(|letter: char| !matches!(letter, '-' | '+' | '.' | 'e' | 'E' | '0'..='9')).unwrap_or(json.len())
}

fn mend_string(token: &str, mended: &mut String) {
    let half = |text: &str, halves: std::ops::Range<u32>| {
        let hex = text.strip_prefix("\\u").and_then(|rest| rest.get(..4));
        hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).is_some_and(|unit| halves.contains(&unit))
    };
    let mut rest = token;
    while let Some(at) = rest.find('\\') {
        let (before, from) = rest.split_at(at);
        mended.push_str(before);
        let is_high = half(from, 0xd800..0xdc00);
        let (kept, len) = if is_high && from.get(6..).is_some_and(|low| half(low, 0xdc00..0xe000)) {
            (from.get(..12), 12)
        } else if is_high || half(from, 0xdc00..0xe000) {
            (Some("\\ufffd"), 6)
        } else {
            // The escape and the character that it is about.
            let len = from.char_indices().nth(2).map_or(from.len(), |(at, _)| at);
            (from.get(..len), len)
        };
        mended.push_str(kept.unwrap_or_default());
        rest = from.get(len..).unwrap_or_default();
    }
    mended.push_str(rest);
}

/// Lays JSON out for people: one member a line, two spaces for each level. Strings and numbers stay as they are written.
#[must_use]
pub fn pretty(json: &str) -> String {
    let mut laid = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut rest = json.trim_ascii();
    let line = |laid: &mut String, depth: usize| {
        laid.push('\n');
        laid.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(letter) = rest.chars().next() {
        let len = if letter == '"' { string_len(rest) } else { letter.len_utf8() };
        let (token, after) = rest.split_at(len);
        rest = after.trim_ascii_start();
        match letter {
            '{' | '[' => {
                laid.push(letter);
                if rest.starts_with(['}', ']']) {
                    laid.extend(rest.chars().next());
                    rest = rest.get(1..).unwrap_or_default().trim_ascii_start();
                } else {
                    depth += 1;
                    line(&mut laid, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut laid, depth);
                laid.push(letter);
            }
            ',' => {
                laid.push(letter);
                line(&mut laid, depth);
            }
            ':' => laid.push_str(": "),
            _ => laid.push_str(token),
        }
    }
    laid
}

/// A JSON object whose members are not parsed: they keep their order and their bytes, and a name may stand twice.
#[derive(Debug, Clone, Default)]
pub struct RawObject(Vec<(String, Box<RawValue>)>);

impl RawObject {
    /// The first member of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Puts a member in the place of all of this name, or at the end.
    pub fn set(&mut self, name: &str, value: Box<RawValue>) {
        let at = self.0.iter().position(|(key, _)| key == name).unwrap_or(self.0.len());
        self.0.retain(|(key, _)| key != name);
        self.0.insert(at, (name.to_owned(), value));
    }

    /// Adds a member at the end, whether or not there is one of this name.
    pub fn push(&mut self, name: &str, value: Box<RawValue>) {
        self.0.push((name.to_owned(), value));
    }

    /// The members in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), &**value))
    }
}

impl Serialize for RawObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = RawObject;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(RawObject(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        assert!(!deeper_than(nested(64).as_bytes(), 64));
        assert!(deeper_than(nested(65).as_bytes(), 64));
        assert!(deeper_than(nested(10_000).as_bytes(), 64));
        assert!(!deeper_than(br#""[[[[\"[[[[""#, 1));
        assert!(!deeper_than(br"[[],[],[]]", 2));
    }

    #[test]
    fn b01_what_only_some_parsers_take_is_known_and_read_all_the_same() {
        for (odd, read) in [
            ("1e999", r#""1e999""#),
            ("[-1e400, 1e-999, 5]", r#"["-1e400", 0.0, 5]"#),
            (r#""\ud800""#, r#""\ufffd""#),
            (r#"{"\udc00x":"a\ud800\u0041\\ud800"}"#, r#"{"\ufffdx":"a\ufffdA\\ud800"}"#),
            (r#"["\ud83d\ude00\ud83d","-1e999"]"#, r#"["😀\ufffd","-1e999"]"#),
        ] {
            if odd.contains("1e999\"") || !odd.contains("e-999") {
                assert!(!is_portable(odd.as_bytes()), "{odd}");
            }
            assert_eq!(parse_lenient(odd).unwrap(), serde_json::from_str::<Value>(read).unwrap(), "{odd}");
        }
        for plain in [r#"{"a":1.10,"a":12345678901234567890123}"#, r#""\ud83d\ude00""#, "1e308", " null\n"] {
            assert!(is_portable(plain.as_bytes()), "{plain}");
        }
        for none in ["", "nope", "[1,", "\"a", "\"\\", "{\"\\ud8"] {
            assert!(!is_portable(none.as_bytes()) && parse_lenient(none).is_err(), "{none}");
        }
        assert!(!is_portable(nested(DEPTH_MAX + 1).as_bytes()));
    }

    #[test]
    fn b02_a_layout_changes_nothing_but_space() {
        assert_eq!(
            pretty(" {\"z\":1.10 ,\"a\":[ 1e2,\n{} ,[ ]],\"z\":\"x: {,\\\"\"}\n"),
            "{\n  \"z\": 1.10,\n  \"a\": [\n    1e2,\n    {},\n    []\n  ],\n  \"z\": \"x: {,\\\"\"\n}"
        );
        assert_eq!(pretty("12345678901234567890123"), "12345678901234567890123");
    }

    #[test]
    fn b02_members_keep_order_and_bytes() {
        let text = r#"{"b":1.10,"a":[1, 2],"b":"\u0041","schema":3}"#;
        let mut object: RawObject = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&object).unwrap(), text);
        assert_eq!(object.get("b").map(RawValue::get), Some("1.10"));
        object.set("b", RawValue::from_string("1e999".to_owned()).unwrap());
        object.push("a", RawValue::NULL.to_owned());
        assert_eq!(serde_json::to_string(&object).unwrap(), r#"{"b":1e999,"a":[1, 2],"schema":3,"a":null}"#);
    }

    /// A document whose texts hold what a layout looks for.
    fn document() -> impl Strategy<Value = Value> {
        let text = || "[\\[\\]{}\"\\\\:, ü\n]{0,8}";
        let leaf = prop_oneof![text().prop_map(Value::from), any::<i64>().prop_map(Value::from), Just(Value::Null)];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            let members = prop::collection::vec((text(), inner.clone()), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..6).prop_map(Value::from),
                members.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn b02_a_document_that_is_laid_out_says_the_same(document in document()) {
            let laid = pretty(&document.to_string());
            prop_assert_eq!(serde_json::from_str::<Value>(&laid).unwrap(), document);
        }

        #[test]
        fn b02_any_text_is_laid_out_and_read_without_a_panic(text in "[\\[\\]{}\"\\\\u:,d8c0e9 ü-]{0,40}") {
            let laid = pretty(&text);
            let solid = |text: &str| text.chars().filter(|c| !c.is_ascii_whitespace()).collect::<String>();
            prop_assert_eq!(solid(&laid), solid(&text));
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                prop_assert_eq!(parse_lenient(&text).unwrap(), value.clone());
                prop_assert_eq!(serde_json::from_str::<Value>(&laid).unwrap(), value);
            }
            let _ = parse_lenient(&text);
            let parses = serde_json::from_str::<Value>(&text).is_ok();
            prop_assert_eq!(is_portable(text.as_bytes()), parses && !deeper_than(text.as_bytes(), DEPTH_MAX));
        }

        #[test]
        fn depth_agrees_with_a_parser(depth in 0usize..100, text in "[\\[\\]{}\"\\\\a]{0,20}") {
            let json = format!("{}{}{}", "[".repeat(depth), serde_json::to_string(&text).unwrap(), "]".repeat(depth));
            prop_assert_eq!(deeper_than(json.as_bytes(), 64), depth > 64);
        }
    }
}
