//! What tools of our own have in common: how they are listed, and how their arguments are read.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::list::Listed;
use crate::status::{ErrorCode, OpError};

/// A tool of our own as it is listed. Nothing that it does is outside of the mesh.
pub(super) fn entry(
    name: &str,
    title: &str,
    description: &str,
    input: &Value,
    output: &Value,
    (reads, again): (bool, bool),
) -> Listed {
    let entry = json!({
        "name": name,
        "title": title,
        "description": description,
        "inputSchema": input,
        "outputSchema": output,
        "annotations": {
            "readOnlyHint": reads,
            "destructiveHint": !reads && name == "sigil_call",
            "idempotentHint": again,
            "openWorldHint": name == "sigil_call",
        },
    });
    Listed { name: name.to_owned(), entry: crate::node::card::sorted(&entry) }
}

/// Reads the arguments of a tool of our own.
pub(super) fn arguments<T: DeserializeOwned>(text: &str) -> Result<T, OpError> {
    serde_json::from_str(text).map_err(|error| {
        OpError::new(ErrorCode::Invalid, format!("the arguments: {error}"))
            .hint("sigil_describe_tool and the list say what they are")
    })
}
