//! Real agents for tests, scenarios and measurements: their processes, their doors, and the witness of their tools.

pub mod agent;
pub mod http;
pub mod witness;

use serde_json::Value;

/// Text of a field; empty when it is not there.
#[must_use]
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
