//! Arguments of calls against the schema of their tool: looked at here, at the target, before anything runs.

use std::fmt;

use jsonschema::{PatternOptions, Validator};
use mesh_core::ids::Hash;
use serde_json::Value;

use super::card::{SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX, sorted};
use super::schema_cost;
use crate::json::{DEPTH_MAX, deeper_than};
use crate::text::visible;

/// Faults that a caller is told of.
const TOLD_MAX: usize = 5;
/// Longest fault, characters: a message quotes what was given.
const FAULT_CHARS_MAX: usize = 200;
/// Size of one compiled pattern, bytes; `regex` takes 10 MiB where nobody says.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Bytes of arguments, times what their schema asks for at each, that are looked at on a loop: some milliseconds.
const QUICK_MAX: u64 = 200_000;
/// The same beside a loop: some seconds.
const CHECKED_MAX: u64 = 200_000_000;

/// A schema of arguments, compiled. Patterns are matched without backtracking, and references lead nowhere but into it.
pub struct InputSchema {
    hash: Hash,
    /// Steps at one chain of values, at most.
    cost: u64,
    validator: Validator,
}

impl fmt::Debug for InputSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputSchema").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl PartialEq for InputSchema {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for InputSchema {}

/// A reason for which a schema is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Too many bytes.
    #[error("the schema of its arguments has {0} bytes, more than {SCHEMA_BYTES_MAX}")]
    TooLarge(usize),
    /// Too many brackets.
    #[error("the schema of its arguments is nested deeper than {SCHEMA_DEPTH_MAX}")]
    TooDeep,
    /// It asks for too much.
    #[error("the schema of its arguments asks for too much: {0}")]
    TooCostly(String),
    /// It is none, or it refers to another one.
    #[error("the schema of its arguments cannot be used: {0}")]
    Unusable(String),
}

impl InputSchema {
    /// Compiles a schema. Takes milliseconds where it is large: not for a loop.
    ///
    /// # Errors
    /// See [`SchemaError`].
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        let text = sorted(schema).to_string();
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(SchemaError::TooLarge(text.len()));
        }
        if deeper_than(text.as_bytes(), SCHEMA_DEPTH_MAX) {
            return Err(SchemaError::TooDeep);
        }
        let cost = schema_cost::of(schema, DEPTH_MAX).map_err(|costly| SchemaError::TooCostly(costly.to_string()))?;
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        let validator = jsonschema::options().offline().with_pattern_options(patterns).build(schema);
        let validator = validator.map_err(|error| SchemaError::Unusable(fault(&error.to_string())))?;
        Ok(Self { hash: Hash::of(text.as_bytes()), cost, validator })
    }

    /// True if [`Self::check`] of so many bytes may be done on a loop.
    #[must_use]
    pub fn is_quick(&self, bytes: usize) -> bool {
        self.steps(bytes) <= QUICK_MAX
    }

    fn steps(&self, bytes: usize) -> u64 {
        self.cost.saturating_mul(bytes as u64)
    }

    /// Looks at arguments, which are JSON, at most [`DEPTH_MAX`] deep.
    ///
    /// # Errors
    /// What is wrong with them, and where, for people.
    pub fn check(&self, arguments: &[u8]) -> Result<(), String> {
        if self.steps(arguments.len()) > CHECKED_MAX {
            return Err(format!("{} bytes are more than can be held against this schema", arguments.len()));
        }
        let arguments: Value = serde_json::from_slice(arguments).map_err(|error| error.to_string())?;
        let mut faults = self.validator.iter_errors(&arguments);
        let told: Vec<String> = faults
            .by_ref()
            .take(TOLD_MAX)
            .map(|error| {
                let path = error.instance_path().to_string();
                let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
                fault(&format!("{place}{error}"))
            })
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        let more = if faults.next().is_some() { "; and more" } else { "" };
        Err(told.join("; ") + more)
    }
}

fn fault(text: &str) -> String {
    visible(text).chars().take(FAULT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn photo() -> InputSchema {
        InputSchema::compile(&json!({
            "type": "object",
            "properties": {
                "quality": { "type": "integer", "minimum": 1, "maximum": 100 },
                "path": { "$ref": "#/$defs/path" },
                "tags": { "type": "array", "items": { "type": "string" } },
            },
            "required": ["path"],
            "additionalProperties": false,
            "$defs": { "path": { "type": "string", "pattern": "^[a-z/.]+$" } },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let photo = photo();
        assert_eq!(photo.check(br#"{"path":"a.png","quality":100}"#), Ok(()));
        let why = photo.check(br#"{"path":"a.png","quality":120}"#).unwrap_err();
        assert_eq!(why, "/quality: 120 is greater than the maximum of 100");
        let why = photo.check(br#"{"quality":"x\u202ey","more":1}"#).unwrap_err();
        assert!(why.contains("\"path\" is a required property") && why.contains("/quality: "), "{why}");
        assert!(why.contains("'more' was unexpected") && !why.contains('\u{202e}'), "{why}");
        let many = format!(r#"{{"path":"a","tags":[{}]}}"#, vec!["1"; 100].join(","));
        let why = photo.check(many.as_bytes()).unwrap_err();
        assert!(why.matches("/tags/").count() == TOLD_MAX && why.ends_with("; and more"), "{why}");
    }

    #[test]
    fn a_schema_leads_nowhere_and_has_bounds() {
        for far in ["https://example.org/x.json", "file:///etc/passwd"] {
            let error = InputSchema::compile(&json!({ "$ref": far })).unwrap_err();
            assert!(matches!(error, SchemaError::TooCostly(_)), "{error}");
        }
        assert!(matches!(InputSchema::compile(&json!({ "type": 7 })), Err(SchemaError::Unusable(_))));
        let deep = (0..SCHEMA_DEPTH_MAX).fold(json!({}), |inner, _| json!({ "items": inner }));
        assert_eq!(InputSchema::compile(&deep), Err(SchemaError::TooDeep));
        let huge = json!({ "pattern": "(a{1000}){1000}" });
        assert!(matches!(InputSchema::compile(&huge), Err(SchemaError::Unusable(_))));
    }

    #[test]
    fn what_takes_long_is_known_before_it_is_begun() {
        let photo = photo();
        assert!(photo.is_quick(1024) && !photo.is_quick(1 << 20));
        let kinds: Vec<Value> =
            (0..500).map(|n| json!({ "properties": { "x": { "minimum": n } }, "required": ["y"] })).collect();
        let many = InputSchema::compile(&json!({ "items": { "anyOf": kinds } })).unwrap();
        assert!(!many.is_quick(1024));
        let arguments = format!("[{}]", vec!["{}"; 200_000].join(","));
        let why = many.check(arguments.as_bytes()).unwrap_err();
        assert!(why.contains("more than can be held"), "{why}");
    }

    #[test]
    fn no_pattern_takes_long() {
        let schema = InputSchema::compile(&json!({ "type": "string", "pattern": "^(a+)+$" })).unwrap();
        let began = tokio::time::Instant::now();
        let arguments = serde_json::to_vec(&format!("{}!", "a".repeat(100_000))).unwrap();
        assert!(schema.check(&arguments).is_err());
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
