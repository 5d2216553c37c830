//! Answers of the agent: their own bytes, and what is read from them.

use std::ops::Deref;

use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::cli::exit::{Exit, Failure};
use crate::json::{RawObject, parse_lenient};

/// A document: what the agent wrote, byte for byte, and its value for whoever shows it to people.
///
/// Outputs of tools stand in the agent's documents as they were written. They may hold what this program's own parser
/// refuses or rounds; so only people see the value, and `--json` prints the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    members: RawObject,
    value: Value,
}

impl Body {
    /// Reads an answer; an empty one is an empty object.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::new(Exit::Failed, format!("the agent's answer is not a JSON object: {why}"))
        };
        let text = std::str::from_utf8(bytes).map_err(|error| failed(&error))?;
        let text = if text.is_empty() { "{}" } else { text };
        let members = serde_json::from_str(text).map_err(|error| failed(&error))?;
        let value = parse_lenient(text).map_err(|error| failed(&error))?;
        Ok(Self { members, value })
    }

    /// The value alone.
    pub(crate) fn into_value(self) -> Value {
        self.value
    }

    /// Puts a member in the place of the one of this name.
    pub(crate) fn set(&mut self, name: &str, raw: Box<RawValue>) {
        if let (Some(fields), Ok(value)) = (self.value.as_object_mut(), parse_lenient(raw.get())) {
            fields.insert(name.to_owned(), value);
        }
        self.members.set(name, raw);
    }

    /// The document under the name of its schema, which stands first.
    pub(crate) fn under(&self, schema: &str) -> String {
        let mut named = RawObject::default();
        named.set("schema", raw(&schema));
        for (name, value) in self.members.iter() {
            if name != "schema" {
                named.push(name, value.to_owned());
            }
        }
        raw(&named).get().to_owned()
    }
}

/// The JSON of what cannot fail to become JSON: text, numbers, and objects of them.
pub(crate) fn raw(value: &impl serde::Serialize) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_default()
}

impl Deref for Body {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

impl From<Value> for Body {
    /// A document of our own. One that is no object becomes the member `value` of one.
    fn from(value: Value) -> Self {
        let value = match value {
            Value::Null => Value::Object(serde_json::Map::new()),
            Value::Object(_) => value,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Value::Object(serde_json::Map::from_iter([("value".to_owned(), value)]))
            }
        };
        Self { members: serde_json::from_str(&value.to_string()).unwrap_or_default(), value }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn b02_a_document_keeps_the_bytes_of_what_it_holds() {
        let answer = r#"{"id":"c1","output":{"z":1.10,"a":12345678901234567890123,"z":2},"history":[]}"#;
        let body = Body::read(answer.as_bytes()).expect("an object");
        assert_eq!(body.get("id"), Some(&json!("c1")));
        assert_eq!(body.under("sigil.call/1"), format!(r#"{{"schema":"sigil.call/1",{}"#, &answer[1..]));
        assert_eq!(Body::from(json!({"b": 1, "schema": "old"})).under("x/1"), r#"{"schema":"x/1","b":1}"#);
        assert_eq!(Body::from(json!([1])).under("x/1"), r#"{"schema":"x/1","value":[1]}"#);
        assert_eq!(Body::read(b"").expect("empty").under("x/1"), r#"{"schema":"x/1"}"#);
    }

    #[test]
    fn b01_an_odd_row_spoils_no_list() {
        let answer = r#"{"items":[{"id":"a","output":1e999},{"id":"b","output":"\ud800"},{"id":"c"}]}"#;
        let body = Body::read(answer.as_bytes()).expect("a list");
        let ids: Vec<_> = crate::cli::output::items(&body).iter().map(|row| row["id"].clone()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        assert_eq!(body.under("s"), format!(r#"{{"schema":"s",{}"#, &answer[1..]));
        for no_object in ["[1]", "3", "{", "\u{feff}{}"] {
            assert!(Body::read(no_object.as_bytes()).is_err(), "{no_object}");
        }
    }

    #[test]
    fn b02_a_member_is_replaced_where_it_stands() {
        let mut body = Body::read(br#"{"a":1,"output":null,"b":2}"#).expect("an object");
        body.set("output", RawValue::from_string("1e2".to_owned()).expect("JSON"));
        assert_eq!(body.under("s"), r#"{"schema":"s","a":1,"output":1e2,"b":2}"#);
        assert_eq!(body["output"], json!(100.0));
    }
}
