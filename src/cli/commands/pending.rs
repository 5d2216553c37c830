//! All that waits for a person: devices, tools of devices, and edits that were made in two halves of the mesh.

use serde_json::{Map, Value, json};

use super::conflicts;
use super::console::{confirm, show};
use super::mesh::{name_of, words};
use crate::cli::client::{Client, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean, items, relative, table, text};

const PATH: &str = "/api/v1/pending";

/// Everything in one list, each with what to type.
pub(super) async fn pending(client: &Client, ui: Ui) -> Result<Exit, Failure> {
    let body = client.get(PATH).await?;
    Ok(show(ui, "sigil.pending/1", body, pending_text))
}

fn pending_text(body: &Value) -> String {
    let list = |name: &str| json!({ "items": body.get(name).cloned().unwrap_or_default() });
    let conflicts = conflicts::told(&list("conflicts"));
    let rest: Vec<String> =
        [tools_text(&tools(body)), conflicts.map(|told| format!("Edited in two halves of the mesh:\n\n{told}"))]
            .into_iter()
            .flatten()
            .collect();
    if rest.is_empty() || !items(body).is_empty() {
        [vec![pending_devices(body)], rest].concat().join("\n\n")
    } else {
        rest.join("\n\n")
    }
}

fn tools(body: &Value) -> Vec<Value> {
    body.get("tools").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// The tools that wait, with what to type; `None`: there are none.
fn tools_text(tools: &[Value]) -> Option<String> {
    let first = tools.first()?;
    let (node, tool) = (text(first, "node_id"), text(first, "tool"));
    Some(format!(
        "Added or changed by devices since their tools were approved; nobody can use these yet:\n\n{}\n\n`sigil approve {node} --tools` approves all of a device as they are now, `sigil approve {node} --tools {tool}` this one.",
        tools_table(tools)
    ))
}

fn tools_table(tools: &[Value]) -> String {
    let row = |tool: &Value| {
        let changed = tool.get("changed") == Some(&Value::Bool(true));
        vec![
            text(tool, "node_id"),
            text(tool, "tool"),
            if changed { "changed" } else { "new" }.to_owned(),
            text(tool, "effect"),
            text(tool, "description"),
        ]
    };
    table(&["NODE", "TOOL", "WHAT", "EFFECT", "DESCRIPTION"], &tools.iter().map(row).collect::<Vec<_>>())
}

/// Approves tools of a device: these, or if none are named all that wait; if none wait, all that it offers.
pub(super) async fn approve_tools(client: &Client, id: &str, names: &[String], ui: Ui) -> Result<Exit, Failure> {
    let node = client.get(&format!("/api/v1/nodes/{}", segment(id))).await?;
    let peer = text(&node, "peer_id");
    let all = client.get(PATH).await?;
    let waits: Vec<Value> = tools(&all)
        .into_iter()
        .filter(|tool| text(tool, "peer_id") == peer)
        .filter(|tool| names.is_empty() || names.iter().any(|name| *name == text(tool, "tool")))
        .collect();
    let mut body = Map::new();
    let named = |name: &str| {
        let shown = waits.iter().find(|tool| text(tool, "tool") == name).and_then(|tool| tool.get("shown"));
        json!({ "name": name, "shown": shown })
    };
    let chosen: Vec<Value> = if names.is_empty() {
        waits.iter().map(|tool| named(&text(tool, "tool"))).collect()
    } else {
        names.iter().map(|name| named(name)).collect()
    };
    if !chosen.is_empty() {
        body.insert("tools".into(), Value::Array(chosen));
    }
    if !waits.is_empty() {
        let question = format!("{}\n\nMay these be used as they are shown?", tools_table(&waits));
        if confirm(ui, &question) == Some(false) {
            return Err(Failure::new(Exit::Denied, "nothing is approved, and all of it still waits"));
        }
    }
    let path = format!("/api/v1/nodes/{}/tools", segment(&peer));
    let answer = client.post(&path, &Value::Object(body)).await?;
    Ok(show(ui, "sigil.approve-tools/1", answer, |answer| {
        let approved = answer.get("approved").and_then(Value::as_array);
        let approved: Vec<String> = approved.into_iter().flatten().filter_map(Value::as_str).map(clean).collect();
        format!(
            "Approved of `{}`: {}. What it adds or changes from now on waits for you: `sigil pending`.",
            text(answer, "node_id"),
            if approved.is_empty() { "no tool".to_owned() } else { approved.join(", ") }
        )
    }))
}

fn pending_devices(body: &Value) -> String {
    let items = items(body);
    if items.is_empty() {
        return "No device awaits approval. One asks with `sigil join --nearby`, or joins at once with a code of `sigil invite`.".to_owned();
    }
    let row = |item: &Value| {
        let was = text(item, "former_tier");
        vec![
            text(item, "node_id"),
            words(item, "check"),
            text(item, "tier"),
            if was.is_empty() { was } else { format!("was {was}") },
            item.get("approved_by").filter(|by| by.is_object()).map(name_of).unwrap_or_default(),
            text(item, "address"),
            relative(item, "since"),
            text(item, "why"),
        ]
    };
    let rows: Vec<_> = items.iter().map(row).collect();
    format!(
        "{}\n\nCompare the check words with what `sigil status` shows there, then `sigil approve NAME` (as a shared device, unless you say `--tier owner`) or `sigil reject NAME`.",
        table(&["NAME", "CHECK WORDS", "TIER", "BEFORE", "LET IN BY", "FROM", "SINCE", "WHY"], &rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_says_what_to_type() {
        let nothing = pending_text(&json!({ "items": [], "tools": [], "conflicts": [] }));
        assert!(nothing.starts_with("No device awaits approval."), "{nothing}");
        let tool = json!({ "node_id": "panel", "peer_id": "abc", "tool": "lamp.set", "changed": true, "effect": "once", "description": "x" });
        let told = pending_text(&json!({ "items": [], "tools": [tool], "conflicts": [] }));
        assert!(told.contains("lamp.set") && told.contains("changed"), "{told}");
        assert!(told.contains("`sigil approve panel --tools lamp.set`") && !told.contains("No device"), "{told}");
    }
}
