//! Cards of tools: all that is told of one, as a blob that its declaration names. An owner who approves a tool approves its card.
//!
//! A card is JSON with its keys in order, so that the same tool has the same card, and the same hash.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use mesh_core::ids::Hash;
use mesh_core::limits::CARD_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::deeper_than;
use crate::text::{visible, visible_lines};

/// Version of the format.
const VERSION: u8 = 1;
/// Deepest schema that is told and checked.
pub const SCHEMA_DEPTH_MAX: usize = 32;
/// Largest schema of arguments, or of results.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Longest description, bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 4 * 1024;
/// Longest title, and name or version of a provider, in characters.
const TITLE_CHARS_MAX: usize = 200;
/// Examples of arguments that are told.
const EXAMPLES_MAX: usize = 8;

/// All that is told of a tool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolDescription {
    /// Version of the format.
    #[serde(default)]
    pub v: u8,
    /// Its name on its device.
    pub name: String,
    /// Its name for people; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// Its description, in lines.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// JSON Schema of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Value>,
    /// JSON Schema of its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// What it says that it does.
    #[serde(default)]
    pub hints: Hints,
    /// The provider that runs it.
    #[serde(default)]
    pub provider: ProviderName,
    /// Level of the sandbox that it runs in: `confined`; empty: it is not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub level: String,
    /// Longest run, milliseconds.
    #[serde(default)]
    pub timeout_ms: u64,
    /// Examples of arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Value>,
}

/// What a tool says that it does; nothing rests on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// It changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// It may destroy something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destructive: Option<bool>,
    /// Twice is as good as once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// It talks to what is outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_world: Option<bool>,
    /// True if the owner of its device says so, and not the tool.
    #[serde(default)]
    pub trusted: bool,
}

/// The provider of a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderName {
    /// `builtin`, `process`, `container`, `mcp`.
    #[serde(default)]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its version; empty: it is not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

/// A finished card. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// SHA-256 of it.
    pub hash: Hash,
    /// The blob.
    pub bytes: Bytes,
}

/// A reason for which there is no card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// A schema is too large.
    #[error("the schema of its {of} has {bytes} bytes, more than {SCHEMA_BYTES_MAX}")]
    SchemaTooLarge {
        /// `arguments` or `results`.
        of: &'static str,
        /// Its bytes.
        bytes: usize,
    },
    /// A schema is too deep.
    #[error("the schema of its {of} is nested deeper than {SCHEMA_DEPTH_MAX}")]
    SchemaTooDeep {
        /// `arguments` or `results`.
        of: &'static str,
    },
    /// A member of a schema has a name with something in it that people would not see, and a model would read.
    #[error("the schema of its {of} names members with characters that nobody sees")]
    HiddenName {
        /// `arguments` or `results`.
        of: &'static str,
    },
    /// All of it is too much.
    #[error("all that is told of it has {bytes} bytes, more than {CARD_BYTES_MAX}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// It is no card.
    #[error("it is no card: {0}")]
    Unreadable(String),
}

impl ToolDescription {
    /// The card. Texts lose what people would not see, and are cut; examples that are too many are left out.
    ///
    /// # Errors
    /// A schema, or all of it, is over its limits.
    pub fn card(&self) -> Result<Card, CardError> {
        for (of, schema) in [("arguments", &self.input_schema), ("results", &self.output_schema)] {
            if let Some(schema) = schema {
                let text = schema.to_string();
                if text.len() > SCHEMA_BYTES_MAX {
                    return Err(CardError::SchemaTooLarge { of, bytes: text.len() });
                }
                if deeper_than(text.as_bytes(), SCHEMA_DEPTH_MAX) {
                    return Err(CardError::SchemaTooDeep { of });
                }
            }
        }
        self.check_names()?;
        let about =
            serde_json::to_value(self.clone().shown()).map_err(|error| CardError::Unreadable(error.to_string()))?;
        let bytes = Bytes::from(sorted(&about).to_string());
        if bytes.len() as u64 > CARD_BYTES_MAX {
            return Err(CardError::TooLarge { bytes: bytes.len() });
        }
        Ok(Card { hash: Hash::of(&bytes), bytes })
    }

    /// Reads a card, which another device may have made.
    ///
    /// # Errors
    /// It is none, or over its limits.
    pub fn read(bytes: &[u8]) -> Result<Self, CardError> {
        if bytes.len() as u64 > CARD_BYTES_MAX {
            return Err(CardError::TooLarge { bytes: bytes.len() });
        }
        // A card is three levels deeper than a schema in it.
        if deeper_than(bytes, SCHEMA_DEPTH_MAX + 3) {
            return Err(CardError::SchemaTooDeep { of: "arguments" });
        }
        let read: Self = serde_json::from_slice(bytes).map_err(|error| CardError::Unreadable(error.to_string()))?;
        if read.v != VERSION {
            return Err(CardError::Unreadable(format!("its version is {}, and this program knows {VERSION}", read.v)));
        }
        read.check_names()?;
        Ok(read.shown())
    }

    /// Names of members are what is sent, so that none of them can be changed.
    fn check_names(&self) -> Result<(), CardError> {
        let hidden = |schema: &Option<Value>| schema.as_ref().is_some_and(has_hidden_names);
        match (hidden(&self.input_schema), hidden(&self.output_schema)) {
            (true, _) => Err(CardError::HiddenName { of: "arguments" }),
            (_, true) => Err(CardError::HiddenName { of: "results" }),
            (false, false) => Ok(()),
        }
    }

    fn shown(mut self) -> Self {
        let line = |text: &str| visible(text).trim().chars().take(TITLE_CHARS_MAX).collect::<String>();
        self.v = VERSION;
        self.title = line(&self.title);
        let description = visible_lines(&self.description);
        mesh_core::limits::cut(description.trim(), DESCRIPTION_BYTES_MAX).clone_into(&mut self.description);
        self.provider.name = line(&self.provider.name);
        self.provider.version = line(&self.provider.version);
        self.level = line(&self.level);
        self.examples.truncate(EXAMPLES_MAX);
        for value in self.input_schema.iter_mut().chain(&mut self.output_schema).chain(&mut self.examples) {
            show(value);
        }
        self
    }
}

fn has_hidden_names(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(name, value)| visible(name) != *name || has_hidden_names(value)),
        Value::Array(items) => items.iter().any(has_hidden_names),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Takes out of all texts, but not of names of members, what people would not see.
fn show(value: &mut Value) {
    match value {
        Value::String(text) => *text = visible_lines(text),
        Value::Array(items) => items.iter_mut().for_each(show),
        Value::Object(members) => members.values_mut().for_each(show),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The same value with the keys of all its objects in order, whatever order this program's JSON keeps.
#[must_use]
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members: BTreeMap<&String, Value> = members.iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(members.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

impl From<CardError> for io::Error {
    fn from(error: CardError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn about(input_schema: Value) -> ToolDescription {
        ToolDescription {
            name: "photo.resize".to_owned(),
            description: "Resizes\u{200b} a photo\u{202e}\r\nquickly".to_owned(),
            input_schema: Some(input_schema),
            provider: ProviderName { kind: "mcp".to_owned(), name: "photo".to_owned(), version: "1".to_owned() },
            ..ToolDescription::default()
        }
    }

    #[test]
    fn the_same_tool_has_the_same_card_in_whatever_order_it_was_told() {
        let one = about(serde_json::from_str(r#"{"type":"object","b":{"y":1,"x":[{"q":1,"p":2}]}}"#).unwrap());
        let two = about(serde_json::from_str(r#"{"b":{"x":[{"p":2,"q":1}],"y":1},"type":"object"}"#).unwrap());
        let (one, two) = (one.card().unwrap(), two.card().unwrap());
        assert_eq!(one, two);
        let text = std::str::from_utf8(&one.bytes).unwrap();
        assert!(text.contains(r#""input_schema":{"b":{"x":[{"p":2,"q":1}],"y":1},"type":"object"}"#), "{text}");
        let read = ToolDescription::read(&one.bytes).unwrap();
        assert_eq!((read.name.as_str(), read.description.as_str()), ("photo.resize", "Resizes a photo\nquickly"));
        assert_eq!(read.card().unwrap(), one, "what is read is what was told");
    }

    #[test]
    fn hidden_text_is_gone_from_a_schema_too() {
        let card = about(json!({"description": "x\u{e0041}y"})).card().unwrap();
        assert!(std::str::from_utf8(&card.bytes).unwrap().contains(r#""description":"xy""#));
        // A name cannot be changed, so that such a tool is none.
        let named = json!({ "properties": { "path\u{e0041}": {} } });
        assert_eq!(about(named).card(), Err(CardError::HiddenName { of: "arguments" }));
        let told = "{\"v\":1,\"name\":\"x\",\"hints\":{},\"provider\":{\"kind\":\"mcp\",\"name\":\"x\"},\"output_schema\":{\"a\u{200b}\":1}}";
        assert_eq!(ToolDescription::read(told.as_bytes()), Err(CardError::HiddenName { of: "results" }));
        // A device that sends it all the same is read without it.
        let told = br#"{"v":1,"name":"x","title":"a\u200bb","hints":{},"provider":{"kind":"mcp","name":"x"}}"#;
        assert_eq!(ToolDescription::read(told).unwrap().title, "ab");
    }

    #[test]
    fn limits_are_kept_on_both_sides() {
        let deep = (0..SCHEMA_DEPTH_MAX).fold(json!({}), |inner, _| json!({ "a": inner }));
        assert_eq!(about(deep).card(), Err(CardError::SchemaTooDeep { of: "arguments" }));
        let large = json!({ "a": "x".repeat(SCHEMA_BYTES_MAX) });
        assert!(matches!(about(large.clone()).card(), Err(CardError::SchemaTooLarge { of: "arguments", .. })));
        let half = json!({ "a": "x".repeat(SCHEMA_BYTES_MAX - 100) });
        let both = ToolDescription { output_schema: Some(half.clone()), ..about(half) };
        assert!(matches!(both.card(), Err(CardError::TooLarge { .. })));
        let over = vec![b' '; usize::try_from(CARD_BYTES_MAX).unwrap() + 1];
        assert!(matches!(ToolDescription::read(&over), Err(CardError::TooLarge { .. })));
        assert!(ToolDescription::read("[".repeat(100).as_bytes()).is_err());
        assert!(matches!(ToolDescription::read(br#"{"v":9,"name":"x"}"#), Err(CardError::Unreadable(_))));
    }
}
