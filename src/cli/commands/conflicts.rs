//! What was edited in two halves of the mesh: shown with every text, and ended.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::console::show;
use crate::cli::client::{Client, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Ui, clean, clean_lines, items, text};

pub(super) const PATH: &str = "/api/v1/policy/conflicts";

fn texts(conflict: &Value) -> &[Value] {
    conflict.get("texts").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn holds(text: &Value) -> bool {
    text.get("holds") == Some(&Value::Bool(true))
}

/// All of them with what to press; `None`: there are none.
pub(super) fn told(body: &Value) -> Option<String> {
    let all: Vec<String> = items(body).iter().map(one).collect();
    (!all.is_empty()).then(|| all.join("\n\n"))
}

fn one(conflict: &Value) -> String {
    let (id, of) = (text(conflict, "id"), texts(conflict));
    let mut shown = format!("{}, in {} versions ({id})", text(conflict, "at"), of.len());
    for (number, version) in of.iter().enumerate() {
        let node = Some(text(version, "node")).filter(|node| !node.is_empty());
        let node = node.unwrap_or_else(|| "a device that is gone".to_owned());
        let holds = if holds(version) { ", and this holds" } else { "" };
        let _ = write!(shown, "\n  {}. {} at {node}, {}{holds}", number + 1, text(version, "by"), text(version, "at"));
        match version.get("text").and_then(Value::as_str) {
            Some(said) => {
                for line in clean_lines(said).trim_end().lines() {
                    let _ = write!(shown, "\n       {line}");
                }
            }
            None => shown.push_str("\n       took it away"),
        }
    }
    if let Some(node) = conflict.get("declared_by").and_then(Value::as_str) {
        let _ = write!(shown, "\n  It stands in sigil.toml of {}: change it there, then `sigil reload`.", clean(node));
    } else if of.iter().any(holds) {
        let _ = write!(
            shown,
            "\n  `sigil policy keep {id}` keeps what holds; `sigil policy restore {id}` restores the other."
        );
    } else {
        let _ = write!(
            shown,
            "\n  What each takes away holds. `sigil policy restore {id} NUMBER` takes one, and gives back what only the others took."
        );
    }
    shown
}

async fn find(client: &Client, id: &str) -> Result<Value, Failure> {
    let body = client.get(PATH).await?;
    let found = items(&body).iter().find(|conflict| text(conflict, "id") == id).cloned();
    found.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("nothing of the id {} was edited in two halves", clean(id)))
            .hint("`sigil policy conflicts` lists what there is")
    })
}

async fn take(client: &Client, id: &str, version: &Value, ui: Ui) -> Result<Exit, Failure> {
    let body = json!({ "text": version.get("id") });
    let ended = client.post(&format!("{PATH}/{}", segment(id)), &body).await?;
    Ok(show(ui, "sigil.conflict-ended/1", ended, |ended| {
        format!("{} is as {} said it, and in one version.", text(ended, "at"), text(version, "by"))
    }))
}

pub(super) async fn keep(client: &Client, id: &str, ui: Ui) -> Result<Exit, Failure> {
    let conflict = find(client, id).await?;
    match texts(&conflict).iter().find(|version| holds(version)) {
        Some(version) => take(client, id, version, ui).await,
        None => Err(Failure::new(Exit::Conflict, "several texts hold together, so that none can be kept alone")
            .hint(format!("`sigil policy restore {id} NUMBER` takes one of them", id = clean(id)))),
    }
}

pub(super) async fn restore(client: &Client, id: &str, number: Option<usize>, ui: Ui) -> Result<Exit, Failure> {
    let conflict = find(client, id).await?;
    let all = texts(&conflict);
    let chosen = if let Some(number) = number {
        number.checked_sub(1).and_then(|index| all.get(index))
    } else {
        let mut others = all.iter().filter(|version| !holds(version));
        others.next().filter(|_| others.next().is_none())
    };
    match chosen {
        Some(version) => take(client, id, version, ui).await,
        None => Err(Failure::new(Exit::Usage, format!("say which text: 1 to {}", all.len()))
            .hint(format!("`sigil policy conflicts` shows them; `sigil policy restore {} 1`", clean(id)))),
    }
}
