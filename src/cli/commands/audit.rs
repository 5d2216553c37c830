//! The audit: what happened, newest first.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::console::show;
use crate::cli::args::AuditArgs;
use crate::cli::client::{Client, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean_lines, items, table, text};

pub(super) async fn audit(client: &Client, args: AuditArgs, ui: Ui) -> Result<Exit, Failure> {
    let AuditArgs { who, node, tool, verdict, since, limit, cursor } = args;
    let mut path = format!("/api/v1/audit?limit={limit}");
    let principal = who.map(|who| if who.contains(':') { who } else { format!("person:{who}") });
    let since = since.map(|since| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(since).as_secs().to_string()
    });
    let verdict = verdict.map(|verdict| verdict.as_str().to_owned());
    for (name, value) in [
        ("principal", principal),
        ("node", node),
        ("tool", tool),
        ("verdict", verdict),
        ("since", since),
        ("cursor", cursor),
    ] {
        if let Some(value) = value {
            path = format!("{path}&{name}={}", segment(&value));
        }
    }
    let body = client.get(&path).await?;
    Ok(show(ui, "sigil.audit/1", body, audit_text))
}

fn audit_text(body: &Value) -> String {
    let lines = items(body);
    if lines.is_empty() {
        return "Nothing of that kind is in the audit. What was refused or edited comes some seconds later.".to_owned();
    }
    let dash = |line: &Value, name: &str| match text(line, name) {
        text if text.is_empty() => "-".to_owned(),
        text => text,
    };
    let rows = lines.iter().map(|line| {
        let count = line.get("count").and_then(Value::as_u64).unwrap_or(1);
        let times = if count > 1 { format!(" ×{count}") } else { String::new() };
        let outside = line.get("outside").filter(|outside| !outside.is_null()).map(|outside| {
            let host = dash(outside, "host");
            let port = outside.get("port").and_then(Value::as_u64).filter(|port| *port > 0);
            port.map_or(host.clone(), |port| format!("{host}:{port}"))
        });
        let what = match (outside, text(line, "edited")) {
            (Some(outside), _) => outside,
            (None, edited) if !edited.is_empty() => edited,
            (None, _) => match (text(line, "tool"), text(line, "node")) {
                (tool, node) if !tool.is_empty() => format!("{tool} on {node}"),
                _ => dash(line.get("call").unwrap_or(&Value::Null), "id"),
            },
        };
        vec![
            text(line, "at"),
            dash(line, "principal"),
            dash(line, "device"),
            format!("{}{times}", text(line, "what")),
            what,
            text(line, "verdict"),
            dash(line, "rule"),
        ]
    });
    let mut shown = table(&["TIME", "WHO", "AT", "WHAT", "ABOUT", "ANSWER", "RULE"], &rows.collect::<Vec<_>>());
    for line in lines {
        let answers = line.get("answers").and_then(Value::as_array).into_iter().flatten();
        for answer in answers {
            let (by, said) = (text(answer, "by"), text(answer, "answer"));
            let about = text(line.get("call").unwrap_or(&Value::Null), "id");
            shown = format!("{shown}\n\n{} call {about}: {by} said {said}", text(line, "at"));
        }
    }
    let edits = lines.iter().filter(|line| !text(line, "edited").is_empty());
    for edit in edits {
        let said = edit.get("said").and_then(Value::as_str).map(clean_lines);
        let gone = edit.get("taken_away").and_then(Value::as_bool) == Some(true);
        let told = match said {
            Some(said) => said.trim().replace('\n', "\n  "),
            None if gone => "taken away".to_owned(),
            None => continue,
        };
        shown = format!("{shown}\n\n{} by {}:\n  {told}", text(edit, "at"), dash(edit, "principal"));
    }
    let left_out: u64 =
        lines.iter().filter_map(|line| line.get("left_out")).filter_map(Value::as_u64).max().unwrap_or(0);
    if left_out > 0 {
        shown = format!("{shown}\n\nMore was refused at once than is told one by one.");
    }
    match text(body, "next_cursor") {
        next if next.is_empty() => shown,
        next => format!("{shown}\n\nOlder: --cursor {next}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_name_who_what_where_and_why_and_steer_no_terminal() {
        assert!(audit_text(&json!({ "items": [] })).starts_with("Nothing of that kind"));
        let line = json!({
            "what": "call_refused", "at": "2026-11-27T14:00:00Z", "count": 3, "principal": "person:mia", "device": "tablet",
            "node": "hub", "tool": "lock.open", "verdict": "deny", "rule": "family/no\u{1b}[2J", "left_out": 0,
        });
        let edit = json!({
            "what": "edited", "at": "2026-11-27T13:00:00Z", "count": 1, "principal": "person:anna", "device": "hub",
            "edited": "workspaces.family.rules.doors", "said": "[workspaces]\nx = 1\n", "verdict": "allow", "rule": "",
        });
        let answer = json!({
            "what": "answer_refused", "at": "2026-11-27T12:00:00Z", "count": 1, "principal": "person:mia",
            "call": { "id": "01J9ZK8W3V5T7M2N4P6Q8R0SXC", "state": null }, "verdict": "deny", "rule": "not an approver",
        });
        let egress = json!({
            "what": "egress", "at": "2026-11-27T12:00:00Z", "count": 1, "verdict": "deny", "rule": "photo: not_listed",
            "outside": { "host": "evil.example", "port": 443, "sent_bytes": 0, "received_bytes": 0 },
        });
        let shown = audit_text(&json!({ "items": [line, edit, answer, egress], "next_cursor": ".x" }));
        assert!(shown.contains("01J9ZK8W3V5T7M2N4P6Q8R0SXC") && shown.contains("evil.example:443"), "{shown}");
        assert!(!shown.contains('\u{1b}') && shown.contains("call_refused ×3") && shown.contains("lock.open on hub"));
        assert!(shown.contains("by person:anna:\n  [workspaces]\n  x = 1") && shown.contains("--cursor .x"), "{shown}");
    }
}
