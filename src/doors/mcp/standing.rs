//! How a call stands, in words that a model can act on and as a value that a program can: the answer wherever there is no result
//! to give. And what its ending means.

use std::time::Duration;

use mesh_core::frame::Phase;
use mesh_core::io::{CallRecord, CallState, View};
use mesh_core::record::Ending;
use serde_json::{Map, Value, json};

use crate::doors::ops::calls::{Reading, why_waiting};
use crate::doors::ops::devices::is_online;
use crate::mesh::MeshHandle;
use crate::mesh::clock::rfc3339;
use crate::status::OpError;
use crate::text::visible;

/// Longest reason or error of a tool that is handed on, characters.
const REASON_CHARS_MAX: usize = 4_000;

/// The schema of a standing.
pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "call_id": { "type": "string" },
            "state": { "type": "string" },
            "message": { "type": "string" },
        },
        "required": ["call_id", "state", "message"],
    })
}

/// How a call stands.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    /// For the model.
    pub(super) text: String,
    /// For a program; holds `text` too.
    pub(super) value: Map<String, Value>,
    /// True if it is over and has not done what was asked.
    pub(super) is_error: bool,
}

/// The state in one word, as clients of MCP get it.
pub(super) const fn word(state: CallState) -> &'static str {
    match state {
        CallState::Open(Phase::Asking) => "waiting_for_approval",
        CallState::Open(Phase::Accepted | Phase::Queued | Phase::Dispatched) => "queued",
        CallState::Open(Phase::Running) => "running",
        CallState::Ended(ending) => ending.as_str(),
    }
}

/// True if nothing happens with the call before a person or a device does something: nobody should wait for it.
pub(super) fn is_stuck(view: &View, record: &CallRecord) -> bool {
    match record.state {
        CallState::Open(Phase::Asking) => true,
        CallState::Open(Phase::Accepted | Phase::Queued | Phase::Dispatched) => {
            view.by_peer(&record.header.target).is_none_or(|node| !is_online(view, node))
        }
        CallState::Open(Phase::Running) | CallState::Ended(_) => false,
    }
}

/// The standing of a call. `watched`: how long somebody has waited for it here.
pub(super) async fn of(mesh: &MeshHandle, reading: &Reading, watched: Option<Duration>) -> Standing {
    let view = mesh.view();
    let record = reading.record();
    let mut value = Map::new();
    let mut put = |name: &str, to: Value| value.insert(name.to_owned(), to);
    let (id, node) = (reading.own.header.id.to_string(), view.target_name(&record.header).into_owned());
    put("call_id", id.clone().into());
    put("state", word(record.state).into());
    put("device", node.clone().into());
    put("tool", record.header.tool.to_string().into());
    let until = rfc3339(record.header.accepted_ms.saturating_add(record.header.ttl_ms));
    let look = format!(
        "Look with sigil_call_status {{\"call_id\":\"{id}\"}}; sigil_cancel_call stops it. Do not call the tool again for the same thing."
    );
    let text = match record.state {
        CallState::Open(Phase::Asking) => {
            put("expires_at", until.clone().into());
            let (who, why) = approvers(mesh, record).await;
            put("approvers", who.clone().into());
            put("approve_where", WHERE.into());
            let who = if who.is_empty() { "nobody can at the moment".to_owned() } else { who.join(" or ") };
            let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
            format!(
                "Not run yet: a person has to say yes{why}. Who: {who}. Where: {WHERE}. No answer given in this conversation counts. It waits until {until}. {look}"
            )
        }
        CallState::Open(Phase::Running) => {
            let note = note(record).map(|note| format!(", it says: {note}")).unwrap_or_default();
            let so_far = watched.map(|so_far| format!(" after {} s", so_far.as_secs())).unwrap_or_default();
            format!("Still running on `{node}`{so_far}{note}. It goes on by itself, and its result is kept. {look}")
        }
        CallState::Open(Phase::Accepted | Phase::Queued | Phase::Dispatched) => {
            put("expires_at", until.clone().into());
            let why = why_waiting(&view, record).unwrap_or_else(|| format!("it waits for `{node}`, until {until}"));
            put("why", why.clone().into());
            format!("Queued and kept, not run yet: {why}. {look}")
        }
        CallState::Ended(ending) => ended(ending, record, &node, &until, &mut put),
    };
    let is_open = matches!(record.state, CallState::Open(_));
    if is_open {
        put("look", json!({ "tool": "sigil_call_status", "arguments": { "call_id": id } }));
    }
    put("message", text.clone().into());
    Standing { text, value, is_error: !is_open && record.state != CallState::Ended(Ending::Done) }
}

const WHERE: &str = "`sigil approvals` at a device of that person, on its own socket";

/// Who may say yes, and why somebody must.
async fn approvers(mesh: &MeshHandle, record: &CallRecord) -> (Vec<String>, String) {
    let all = mesh.approvals().await.unwrap_or_default();
    let Some(found) = all.into_iter().find(|approval| approval.id == record.header.id) else {
        return (Vec::new(), String::new());
    };
    let mut people: Vec<String> =
        found.asks.iter().flat_map(|(_, people)| people).map(|person| format!("person:{person}")).collect();
    people.sort();
    people.dedup();
    (people, visible(&found.why))
}

/// What a tool that runs has said last.
pub(super) fn note(record: &CallRecord) -> Option<String> {
    let row = record.history.iter().rev().find(|row| row.state == CallState::Open(Phase::Running))?;
    Some(visible(&row.reason)).filter(|note| !note.trim().is_empty())
}

fn ended(
    ending: Ending,
    record: &CallRecord,
    node: &str,
    until: &str,
    put: &mut impl FnMut(&str, Value) -> Option<Value>,
) -> String {
    let said = |text: &str| visible(text).chars().take(REASON_CHARS_MAX).collect::<String>();
    let reason = said(&record.reason);
    let because = if reason.is_empty() { String::new() } else { format!(" {reason}.") };
    put("confirmed", record.confirmed.into());
    if !reason.is_empty() {
        put("reason", reason.clone().into());
    }
    // Twice is as good as once, or nothing has happened.
    let retryable = match ending {
        Ending::Expired => record.confirmed,
        Ending::Cancelled
        | Ending::Interrupted
        | Ending::Failed
        | Ending::Done
        | Ending::Denied
        | Ending::Undeliverable => false,
    };
    put("retryable", retryable.into());
    let unsure = if record.confirmed {
        String::new()
    } else {
        format!(" `{node}` itself has not confirmed this yet: look again later before you repeat anything.")
    };
    match ending {
        Ending::Done => format!("`{node}` ran it once and said so.{unsure}"),
        Ending::Failed => {
            let tail = said(&record.error);
            if !tail.trim().is_empty() {
                put("error", tail.clone().into());
            }
            let tail = if tail.trim().is_empty() { String::new() } else { format!("\nWhat it said:\n{tail}") };
            format!("It ran on `{node}` and failed.{because}{unsure}{tail}")
        }
        Ending::Interrupted => format!(
            "`{node}` was cut off after it had started. It may or may not have happened; it is not tried again by itself. Find out what \
             happened before you repeat it.{because}{unsure}"
        ),
        Ending::Expired => format!("It did not start before {until}, so it did not run.{because}{unsure}"),
        Ending::Cancelled => format!("It was stopped. If it had started, it may have done a part.{because}{unsure}"),
        Ending::Denied => {
            if let Some(rule) = mesh_core::rule_words::rule_of(record) {
                put("rule", rule.to_string().into());
            }
            format!(
                "Not allowed, and nothing ran.{because} A person can see why with `sigil policy explain --call {}`, and who may change \
                 it. Do not try to get around it.",
                record.header.id
            )
        }
        Ending::Undeliverable => format!("`{node}` is not part of this mesh any more, so it did not run.{because}"),
    }
}

/// The answer to a call that was not taken.
pub(super) fn refused(error: &OpError) -> Standing {
    let mut value = Map::new();
    value.insert("call_id".to_owned(), "".into());
    value.insert("state".to_owned(), "refused".into());
    value.insert("error".to_owned(), error.code.as_str().into());
    for (name, member) in &error.extra {
        value.insert((*name).to_owned(), member.clone());
    }
    let mut text = format!("Not taken, and nothing ran: {}.", error.detail.trim_end_matches('.'));
    if let Some(hint) = &error.hint {
        value.insert("hint".to_owned(), hint.clone().into());
        text = format!("{text} What a person can do: {hint}.");
    }
    if let Some(wait) = error.retry_after {
        let seconds = wait.as_secs().max(1);
        value.insert("retry_after_s".to_owned(), seconds.into());
        text = format!("{text} Another try makes sense after {seconds} s.");
    }
    value.insert("message".to_owned(), text.clone().into());
    Standing { text, value, is_error: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ErrorCode;

    #[test]
    fn a_refusal_says_what_to_do_and_fits_the_schema() {
        let error = OpError::new(ErrorCode::QueueFull, "the queue of `x` is full")
            .hint("try again later")
            .retry_after(Duration::from_millis(200))
            .with("open", 7);
        let refused = refused(&error);
        assert!(refused.is_error && refused.text.contains("after 1 s") && refused.text.contains("nothing ran"));
        let schema = crate::node::schema::InputSchema::compile(&schema()).unwrap();
        schema.check(Value::Object(refused.value).to_string().as_bytes()).unwrap();
    }
}
