//! The JSON Schema of `plugin.yaml`, for editors.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::raw::Raw;

/// The schema, from the very structs that are read. `docs/plugin.schema.json` is a copy.
#[must_use]
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Raw>();
    schema.insert("title".to_owned(), "plugin.yaml of sigil".into());
    schema.insert("required".to_owned(), json!(["name", "execution"]));
    let mut schema: Value = schema.into();
    if let Some(tool) = schema.pointer_mut("/$defs/tool").and_then(Value::as_object_mut) {
        tool.insert("required".to_owned(), json!(["name"]));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SIGIL_BLESS=1` writes the copy anew.
    #[test]
    fn the_copy_of_the_schema_in_docs_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/plugin.schema.json");
        let fresh = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("SIGIL_BLESS").is_some() {
            std::fs::write(&path, &fresh).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == fresh, "docs/plugin.schema.json is not current; run this once with SIGIL_BLESS=1");
    }

    #[test]
    fn the_schema_knows_every_key_and_what_it_may_be() {
        let schema = schema();
        let execution = &schema["$defs"]["execution"]["properties"];
        assert!(
            execution["network"].to_string().contains("restricted")
                || schema["$defs"].to_string().contains("restricted")
        );
        for key in ["tier", "image", "egress", "memory_limit", "env", "grpc_port"] {
            assert!(execution[key].is_object(), "{key}");
        }
        assert_eq!(schema["$defs"]["tool"]["required"], json!(["name"]));
    }
}
