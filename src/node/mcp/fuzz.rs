//! What a hosted server may say, changed at random: whatever comes is read or refused, and what of it reaches people and the mesh
//! keeps its bounds.

use std::collections::BTreeMap;

use mesh_core::test_kit::{Mutation, fuzz};
use serde_json::{Value, json};

use super::spec::{HttpSpec, ServerSpec, Transport};
use super::wire::{Era, Greeted, Incoming, greeted, read};
use super::{result, tools};
use crate::runtime::spool::PARTS_MAX;

fn golden() -> Vec<Vec<u8>> {
    let schema = json!({
        "type": "object",
        "properties": { "path": { "type": "string", "pattern": "^[a-z/]+$" }, "depth": { "$ref": "#/$defs/depth" } },
        "required": ["path"],
        "$defs": { "depth": { "type": "integer", "minimum": 0 } },
    });
    let tool = json!({
        "name": "list", "title": "List", "description": "Lists files", "inputSchema": schema, "outputSchema": { "type": "object" },
        "annotations": { "readOnlyHint": true, "title": "List" }, "execution": { "taskSupport": "optional" },
    });
    let content = json!([
        { "type": "text", "text": "{\"a\":1}" },
        { "type": "image", "mimeType": "image/png", "data": "iVBORw0KGgo=" },
        { "type": "resource", "resource": { "uri": "file:///a/b?c", "mimeType": "text/plain", "text": "x" } },
        { "type": "resource", "resource": { "uri": "x:y", "blob": "AAAA" } },
        { "type": "resource_link", "name": "n", "uri": "https://example.org" },
    ]);
    let lines = [
        json!({ "jsonrpc": "2.0", "id": 1, "result": { "protocolVersion": "2025-11-25", "capabilities": {},
            "serverInfo": { "name": "files", "version": "1.2" } } }),
        json!({ "jsonrpc": "2.0", "id": 1, "result": { "supportedVersions": ["2026-07-28"],
            "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "files", "version": "1.2" } } } }),
        json!({ "jsonrpc": "2.0", "id": 2, "result": { "tools": [tool, { "name": "" }], "nextCursor": "x" } }),
        json!({ "jsonrpc": "2.0", "id": 3, "result": { "content": content, "structuredContent": { "a": 1 }, "isError": false } }),
        json!({ "jsonrpc": "2.0", "id": 3, "result": { "resultType": "input_required", "isError": true, "content": [] } }),
        json!({ "jsonrpc": "2.0", "id": 4, "error": { "code": -32602, "message": "no such tool" } }),
        json!({ "jsonrpc": "2.0", "id": "a", "method": "sampling/createMessage", "params": {} }),
        json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }),
        json!({ "jsonrpc": "2.0", "method": "notifications/progress",
            "params": { "progressToken": 3, "progress": 4, "total": 10, "message": "half \u{202e}way" } }),
    ];
    lines.iter().map(|line| line.to_string().into_bytes()).collect()
}

/// Text for people: short, and nothing in it that acts on a terminal.
fn is_plain(text: &str, max: usize) -> bool {
    text.chars().count() <= max && text.chars().all(|letter| !letter.is_control())
}

fn sound(line: &[u8]) {
    let spec = ServerSpec::new("photo", Transport::Http(HttpSpec { url: String::new(), headers: BTreeMap::new() }));
    match read(line) {
        Some(Incoming::Progress(progress)) => assert!(is_plain(&progress.note, 200), "{progress:?}"),
        Some(Incoming::Answer(_, Ok(answer))) => {
            for era in [Era::Legacy, Era::Modern] {
                if let Ok(Greeted { name, version }) = greeted(era, &answer) {
                    assert!(is_plain(&name, 100) && is_plain(&version, 100), "{name:?} {version:?}");
                }
            }
            let offered = answer.get("tools").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let listed = tools::listed(&spec, &Greeted::default(), offered);
            assert!(listed.tools.len() + listed.absent.len() <= offered.len());
            for (name, tool) in &listed.tools {
                assert!(name.as_str().starts_with("photo.") && is_plain(&tool.offer.description, 200), "{name}");
            }
            let mapped = result::of(&answer);
            assert!(mapped.parts.len() <= PARTS_MAX);
            assert!(mapped.failed.is_none_or(|why| is_plain(&why, 1000)));
        }
        Some(Incoming::Answer(_, Err(_)) | Incoming::Asks { .. } | Incoming::ToolsChanged | Incoming::Other) | None => {
        }
    }
}

#[test]
fn fuzz_lines_of_servers() {
    let golden = golden();
    for line in &golden {
        sound(line);
    }
    assert!(golden.iter().all(|line| read(line).is_some()), "what is changed is valid to begin with");
    fuzz("mcp", 20, &[], |case| {
        let mut mutation = Mutation::new(case);
        let mut line = mutation.pick(&golden).clone();
        mutation.bytes(&mut line, &golden);
        sound(&line);
    });
}
