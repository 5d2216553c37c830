//! All that waits for a person: devices, tools of devices, and edits that were made in two halves of the mesh.

use serde_json::{Value, json};

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
        let what = text(tool, "what");
        vec![
            text(tool, "node_id"),
            text(tool, "tool"),
            if what.is_empty() { if changed { "changed" } else { "new" }.to_owned() } else { what },
            text(tool, "effect"),
            text(tool, "description"),
        ]
    };
    table(&["NODE", "TOOL", "WHAT", "EFFECT", "DESCRIPTION"], &tools.iter().map(row).collect::<Vec<_>>())
}

/// Approves tools of a device in the form in which they are shown: these, or if none are named all that wait; if none wait, all
/// that it offers.
pub(super) async fn approve_tools(client: &Client, id: &str, names: &[String], ui: Ui) -> Result<Exit, Failure> {
    let node = client.get(&format!("/api/v1/nodes/{}", segment(id))).await?;
    let peer = text(&node, "peer_id");
    let all = client.get(PATH).await?;
    let waits: Vec<Value> = tools(&all).into_iter().filter(|tool| text(tool, "peer_id") == peer).collect();
    let chosen = chosen(&tools(&node), &waits, names);
    if !chosen.is_empty() {
        let question = format!("{}\n\nMay these be used as they are shown?", tools_table(&chosen));
        if confirm(ui, &question) == Some(false) {
            return Err(Failure::new(Exit::Denied, "nothing is approved: all is as it was"));
        }
    }
    let named = |tool: &Value| json!({ "name": tool.get("tool"), "shown": tool.get("shown") });
    let body = json!({ "tools": chosen.iter().map(named).collect::<Vec<_>>() });
    let path = format!("/api/v1/nodes/{}/tools", segment(&peer));
    let answer = client.post(&path, &body).await?;
    Ok(show(ui, "sigil.approve-tools/1", answer, |answer| {
        let take_back = "`sigil reject NODE --tools TOOL` takes an approval back.";
        format!(
            "{} What it adds or changes from now on waits for you: `sigil pending`. {take_back}",
            approved_of(answer)
        )
    }))
}

/// The tools that are meant of those that a device offers, as [`tools_table`] shows them. What it does not offer is named without
/// a form: the agent says so.
fn chosen(offered: &[Value], waits: &[Value], names: &[String]) -> Vec<Value> {
    let waiting = |name: &str| waits.iter().find(|tool| text(tool, "tool") == name);
    let row = |tool: &Value| {
        let name = text(tool, "name");
        let what = match waiting(&name) {
            Some(tool) if tool.get("changed") == Some(&Value::Bool(true)) => "changed",
            Some(_) => "new",
            None => "offered",
        };
        let member = |name: &str| tool.get(name).cloned().unwrap_or_default();
        json!({
            "node_id": member("node"), "tool": name, "what": what, "effect": member("effect"),
            "description": member("description"), "shown": member("shown"),
        })
    };
    let of = |name: &String| offered.iter().find(|tool| text(tool, "name") == *name);
    if !names.is_empty() {
        return names.iter().map(|name| of(name).map_or_else(|| json!({ "tool": name }), row)).collect();
    }
    let is_meant = |tool: &&Value| waits.is_empty() || waiting(&text(tool, "name")).is_some();
    offered.iter().filter(is_meant).map(row).collect()
}

/// Takes the approval of tools of a device back: of these, or if none are named of all.
pub(super) async fn reject_tools(client: &Client, id: &str, names: &[String], ui: Ui) -> Result<Exit, Failure> {
    let body = if names.is_empty() { json!({}) } else { json!({ "tools": names }) };
    let answer = client.post(&format!("/api/v1/nodes/{}/tools/reject", segment(id)), &body).await?;
    Ok(show(ui, "sigil.reject-tools/1", answer, |answer| {
        let again = "The others wait, and calls of them are refused: `sigil pending` lists them.";
        format!("{} {again}", approved_of(answer))
    }))
}

fn approved_of(answer: &Value) -> String {
    let approved = answer.get("approved").and_then(Value::as_array);
    let approved: Vec<String> = approved.into_iter().flatten().filter_map(Value::as_str).map(clean).collect();
    let approved = if approved.is_empty() { "no tool".to_owned() } else { approved.join(", ") };
    format!("Approved of `{}`: {approved}.", text(answer, "node_id"))
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
        "{}\n\nCompare the check words with what `sigil status` shows there, then `sigil approve NAME` (as a shared device, unless you pass `--tier owner`) or `sigil reject NAME`.",
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

    #[test]
    fn an_approval_names_what_was_shown() {
        let tool =
            |name: &str| json!({ "node": "panel", "name": name, "effect": "once", "description": "x", "shown": name });
        let offered = [tool("lamp"), tool("siren")];
        let waits = [json!({ "tool": "siren", "changed": true })];
        let named = |chosen: Vec<Value>| -> Vec<(String, String, String)> {
            chosen.iter().map(|tool| (text(tool, "tool"), text(tool, "what"), text(tool, "shown"))).collect()
        };
        let row = |name: &str, what: &str| (name.to_owned(), what.to_owned(), name.to_owned());
        assert_eq!(named(chosen(&offered, &waits, &[])), [row("siren", "changed")]);
        // Also where nobody had approved any, and of one that does not wait.
        assert_eq!(named(chosen(&offered, &[], &[])), [row("lamp", "offered"), row("siren", "offered")]);
        let names = ["lamp".to_owned(), "none".to_owned()];
        let told = named(chosen(&offered, &waits, &names));
        assert_eq!(told, [row("lamp", "offered"), ("none".to_owned(), String::new(), String::new())]);
    }
}
