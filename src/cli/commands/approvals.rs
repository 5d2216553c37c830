//! Calls that wait for a person: looked at, and answered.

use std::fmt::Write as _;

use hyper::Method;
use serde_json::{Value, json};

use super::console::show;
use crate::cli::args::{Answer, ApprovalsArgs, ApprovalsCommand};
use crate::cli::client::{Client, Extras, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Tone, Ui, clean, fields, items, relative, table, text};

const APPROVALS: &str = "/api/v1/approvals";
const HOURS: &str = "/api/v1/hours";
/// Characters of the id of a yes for an hour that are shown.
const HOUR_ID_SHOWN: usize = 8;
/// Letters of arguments that are shown; `--json` has all of them.
const ARGUMENTS_SHOWN_MAX: usize = 2_000;

pub(super) async fn approvals(client: &Client, args: ApprovalsArgs, ui: Ui) -> Result<Exit, Failure> {
    match args.command {
        None => list(client, args.limit, args.cursor.as_deref(), ui).await,
        Some(ApprovalsCommand::Hours) => {
            Ok(show(ui, "sigil.hours/1", client.get(HOURS).await?, |body| hours_text(body, ui)))
        }
        Some(ApprovalsCommand::Withdraw { id }) => withdraw(client, &id, ui).await,
        Some(ApprovalsCommand::Answer { call, answer, note }) => self::answer(client, &call, answer, note, ui).await,
    }
}

async fn list(client: &Client, limit: u32, cursor: Option<&str>, ui: Ui) -> Result<Exit, Failure> {
    let cursor = cursor.map(|cursor| format!("&cursor={}", segment(cursor))).unwrap_or_default();
    let body = client.get(&format!("{APPROVALS}?limit={limit}{cursor}")).await?;
    Ok(show(ui, "sigil.approvals/1", body, |body| approvals_text(body, ui)))
}

async fn answer(client: &Client, call: &str, answer: Answer, note: Option<String>, ui: Ui) -> Result<Exit, Failure> {
    // Looked at before: the same answer again is taken also once the call is over, and a no ends it.
    let before = client.get(&format!("/api/v1/calls/{}", segment(call))).await.ok();
    let ended = before.map(|call| text(&call, "state")).filter(|state| Exit::of_call(state) != Exit::Queued);
    let body = json!({ "answer": answer.as_str(), "note": note });
    let extras = Extras { body: Some(body.to_string()), ..Extras::default() };
    let answered = client.ask(Method::POST, &format!("{APPROVALS}/{}", segment(call)), extras).await?.json()?;
    Ok(show(ui, "sigil.answered/1", answered, |answered| {
        let id = text(answered, "call_id");
        if let Some(state) = ended {
            return format!("Call {id} is over already: {state}. `sigil calls {id}` tells the rest.");
        }
        let told = match answer {
            Answer::Yes => "may run, as far as you are asked",
            Answer::Hour => {
                "may run, and those like it for an hour, as far as you are asked (`sigil approvals hours` shows it, and takes it back)"
            }
            Answer::Always => "may run, and those like it from now on: `sigil rule list` shows the rule",
            Answer::No => "does not run",
        };
        format!("Call {id} {told}. `sigil calls {id}` shows what becomes of it.")
    }))
}

/// The one id that begins so.
fn whole_id(hours: &Value, start: &str) -> Result<String, Failure> {
    let ids: Vec<String> =
        items(hours).iter().map(|hour| text(hour, "id")).filter(|id| id.starts_with(start)).collect();
    match ids.as_slice() {
        [] => Err(Failure::new(
            Exit::NotFound,
            format!("no yes for an hour that counts has an id that begins with `{}`", clean(start)),
        )
        .hint("`sigil approvals hours` lists them")),
        _ if start.is_empty() => Err(Failure::new(Exit::Usage, "which yes for an hour?")
            .hint("`sigil approvals hours` lists them: pass an id, or its beginning")),
        [id] => Ok(id.clone()),
        _ => Err(Failure::new(
            Exit::Conflict,
            format!("{} yeses for an hour have an id that begins with `{}`", ids.len(), clean(start)),
        )
        .hint("give more of it: `sigil approvals hours` shows their beginnings, `--json` all of them")),
    }
}

async fn withdraw(client: &Client, start: &str, ui: Ui) -> Result<Exit, Failure> {
    let start = start.to_ascii_lowercase();
    let id = whole_id(&client.get(HOURS).await?.into_value(), &start)?;
    client.ask(Method::DELETE, &format!("{HOURS}/{}", segment(&id)), Extras::default()).await?;
    Ok(show(ui, "sigil.withdrawn/1", json!({ "id": id }).into(), |_| {
        "Taken back: calls like it ask again. What runs already goes on; `sigil cancel` stops that.".to_owned()
    }))
}

fn hours_text(body: &Value, ui: Ui) -> String {
    let hours = items(body);
    if hours.is_empty() {
        return "No yes for an hour counts now, as far as this device knows: what others said before it started is listed at theirs. \
                `sigil approvals answer CALL hour` says one.".to_owned();
    }
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let rows = hours.iter().map(|hour| {
        vec![
            text(hour, "id").chars().take(HOUR_ID_SHOWN).collect(),
            text(hour, "principal"),
            format!("{} on {}", text(hour, "tool"), dash(text(hour, "node"))),
            dash(text(hour, "workspace")),
            text(hour, "by"),
            relative(hour, "expires_at"),
        ]
    });
    let list = table(&["ID", "WHO", "MAY USE", "WORKSPACE", "SAID BY", "OVER"], &rows.collect::<Vec<_>>());
    let can = hours.iter().any(|hour| hour.get("revocable").and_then(Value::as_bool) == Some(true));
    let next = if can {
        ui.paint(Tone::Strong, "sigil approvals withdraw ID") + " takes one back."
    } else {
        "Whoever said one takes it back, or who may answer such calls, each at a device of theirs.".to_owned()
    };
    format!("{list}\n\n{next}")
}

fn texts(value: &Value, name: &str) -> Vec<String> {
    let list = value.get(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(clean).collect()
}

fn approvals_text(body: &Value, ui: Ui) -> String {
    let blocks: Vec<String> = items(body).iter().map(|approval| approval_text(approval, ui)).collect();
    if blocks.is_empty() {
        return "Nothing waits for an answer. Calls do where a rule asks: `sigil rule ask --help`.".to_owned();
    }
    let mut shown = blocks.join("\n\n");
    if let Some(cursor) = body.get("next_cursor").and_then(Value::as_str) {
        let _ = write!(shown, "\n\nMore: sigil approvals --cursor {}", clean(cursor));
    }
    shown
}

/// A call as it has to be looked at before an answer: what it does comes first, and stands apart from who asks.
fn approval_text(approval: &Value, ui: Ui) -> String {
    let id = text(approval, "call_id");
    let asks = approval.get("asks").and_then(Value::as_array).into_iter().flatten();
    let asks: Vec<String> = asks.map(|ask| format!("{}: {} may answer", text(ask, "rule"), people(ask))).collect();
    let choices: Vec<String> = texts(approval, "choices")
        .into_iter()
        .map(|word| if word == "once" { "yes".to_owned() } else { word })
        .collect();
    let answer = if choices.is_empty() {
        "not here, or not by you".to_owned()
    } else {
        ui.paint(Tone::Strong, &format!("sigil approvals answer {id} {}", choices.join("|")))
    };
    let at = match text(approval, "origin") {
        gone if gone.is_empty() => "at a device that is gone".to_owned(),
        origin => format!("at {origin}"),
    };
    let head = format!(
        "{} on {}",
        ui.paint(Tone::Strong, &text(approval, "tool")),
        ui.paint(Tone::Strong, &text(approval, "node"))
    );
    let rows = fields(&[
        ("  arguments", arguments(approval)),
        ("  asked by", format!("{} {at}, {}", text(approval, "principal"), relative(approval, "created_at"))),
        ("  workspace", text(approval, "workspace")),
        ("  why", text(approval, "why")),
        ("  rule", asks.join("; ")),
        ("  too late", relative(approval, "expires_at")),
        ("  call", id),
        ("  answer", answer),
    ]);
    format!("{head}\n{rows}")
}

fn people(ask: &Value) -> String {
    let people = texts(ask, "approvers");
    let names: Vec<&str> = people.iter().map(|person| person.strip_prefix("person:").unwrap_or(person)).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(" or ") }
}

fn arguments(approval: &Value) -> String {
    let bytes = approval.get("arguments_bytes").and_then(Value::as_u64).unwrap_or_default();
    let shown = match approval.get("arguments") {
        None | Some(Value::Null) if bytes > 4 => return format!("{bytes} bytes, too many to be shown"),
        None | Some(Value::Null) => return "none".to_owned(),
        Some(_) => text(approval, "arguments"),
    };
    let mut letters = shown.chars();
    let start: String = letters.by_ref().take(ARGUMENTS_SHOWN_MAX).collect();
    if letters.next().is_none() { start } else { format!("{start} … ({bytes} bytes; --json shows all)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_told_with_what_it_does_first_and_steers_no_terminal() {
        let ui = Ui::plain(false);
        assert!(approvals_text(&json!({ "items": [] }), ui).starts_with("Nothing waits"));
        let mut approval = json!({
            "call_id": "2nzv4a80000000000000000004", "node": "hub", "tool": "lock.open",
            "arguments": { "door": "fr\u{1b}[2Jont" }, "arguments_bytes": 16,
            "principal": "agent:mia/claude", "origin": "tablet", "workspace": "family",
            "asks": [{ "rule": "family/doors", "approvers": ["person:anna", "person:owner"] }],
            "why": "", "choices": ["once", "hour", "no"], "created_at": "", "expires_at": "",
        });
        let shown = approvals_text(&json!({ "items": [approval] }), ui);
        assert!(shown.starts_with("lock.open on hub\n  arguments  {\"door\":"), "{shown}");
        assert!(!shown.contains('\u{1b}') && shown.contains("family/doors: anna or owner may answer"), "{shown}");
        assert!(shown.contains("sigil approvals answer 2nzv4a80000000000000000004 yes|hour|no"), "{shown}");
        approval["choices"] = json!([]);
        approval["arguments"] = Value::Null;
        approval["arguments_bytes"] = json!(40_000);
        let shown = approvals_text(&json!({ "items": [approval] }), ui);
        assert!(shown.contains("not by you") && shown.contains("40000 bytes, too many"), "{shown}");
    }
}
