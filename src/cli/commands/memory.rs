//! Memory: added to, asked, compacted, looked at, taken in and out, corrected, forgotten.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde_json::{Map, Value, json};

use super::console::{confirm, show};
use crate::cli::args::{AddArgs, Format, MemoryAskArgs, MemoryCommand, MemoryForgetArgs, ShowArgs};
use crate::cli::body::Body;
use crate::cli::client::{Client, Extras, segment};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Tone, Ui, clean, clean_lines, fields, items, text};
use crate::mesh::clock;

/// Members of a line that are taken; others are passed over, so that files of other programs can be read.
const MEMBERS: [&str; 6] = ["id", "conversation", "session", "speaker", "text", "timestamp"];
/// Messages and bytes of one request of an import.
const LINES_AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = 2 * 1024 * 1024;
/// Longest silence before an answer: a large memory is read from the disk when it is first asked.
const WITHIN: Duration = Duration::from_mins(2);
/// Items that are shown on a terminal.
const SHOWN: usize = 20;
/// Messages that one request of an export brings.
const PAGE: usize = 200;

pub(super) async fn memory(client: &Client, workspace: &str, command: MemoryCommand, ui: Ui) -> Result<Exit, Failure> {
    let at = Memory { client, base: format!("/api/v1/workspaces/{}/memory", segment(workspace)) };
    match command {
        MemoryCommand::Add(args) => at.add(args, ui).await,
        MemoryCommand::Ask(args) => at.ask(&args, ui).await,
        MemoryCommand::Compact { keep, all } => at.compact(keep, all, ui).await,
        MemoryCommand::Show(args) => at.show(args, ui).await,
        MemoryCommand::Import { file, conversation } => at.import(&file, conversation.as_deref(), ui).await,
        MemoryCommand::Export { format } => at.export(format, ui).await,
        MemoryCommand::Correct { id, text } => at.correct(&id, &text, ui).await,
        MemoryCommand::Forget(args) => at.forget(&args, ui).await,
    }
}

/// The memory of one workspace, as the agent serves it.
struct Memory<'a> {
    client: &'a Client,
    base: String,
}

impl Memory<'_> {
    async fn get(&self, path: &str) -> Result<Body, Failure> {
        let extras = Extras { within: Some(WITHIN), ..Extras::default() };
        self.client.ask(Method::GET, &format!("{}{path}", self.base), extras).await?.json()
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Body, Failure> {
        let extras = Extras { body: Some(body.to_string()), within: Some(WITHIN), ..Extras::default() };
        self.client.ask(Method::POST, &format!("{}{path}", self.base), extras).await?.json()
    }

    async fn add(&self, args: AddArgs, ui: Ui) -> Result<Exit, Failure> {
        let AddArgs { text: said, speaker, conversation, at, id } = args;
        let mut message = Map::from_iter([("text".to_owned(), json!(said))]);
        let members = [("speaker", speaker), ("conversation", conversation), ("timestamp", at), ("id", id)];
        for (name, value) in members.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            message.insert(name.to_owned(), json!(value));
        }
        let answer = self.post("/messages:batch", &json!({ "messages": [message] })).await?;
        let outcome = answer.get("items").and_then(|items| items.get(0)).map(|item| text(item, "outcome"));
        let exit = show(ui, "sigil.memory.added/1", answer, |answer| {
            let item = answer.get("items").and_then(|items| items.get(0)).cloned().unwrap_or_default();
            let id = text(&item, "id");
            match text(&item, "outcome").as_str() {
                "stored" => format!("Kept as {id}."),
                "unchanged" => format!("It is there already, as {id}."),
                "beside" => format!("Another message has that id; this one is kept beside it, as {id}."),
                _ => "It is not taken: it was forgotten, and that is for ever.".to_owned(),
            }
        });
        Ok(if outcome.as_deref() == Some("forgotten") { Exit::Conflict } else { exit })
    }

    async fn ask(&self, args: &MemoryAskArgs, ui: Ui) -> Result<Exit, Failure> {
        let MemoryAskArgs { question, k, mode, max_tokens, as_of } = args;
        // Null is the same as leaving it out.
        let body = json!({
            "queries": [question], "mode": mode.as_str(), "k": k, "max_tokens": max_tokens, "as_of": as_of,
        });
        let answer = self.post(":query", &body).await?;
        Ok(show(ui, "sigil.memory.answer/1", answer, |body| {
            let answer = body.get("answers").and_then(|answers| answers.get(0)).cloned().unwrap_or_default();
            answer_text(&answer, ui)
        }))
    }

    async fn compact(&self, keep: u32, all: bool, ui: Ui) -> Result<Exit, Failure> {
        let names =
            ["summaries_created", "facts_extracted", "messages_processed", "messages_trimmed", "embedded", "archived"];
        let mut sums = [0_u64; 6];
        loop {
            let answer = self.post(":compact", &json!({ "keep": keep, "all": all })).await?;
            for (sum, name) in sums.iter_mut().zip(names) {
                *sum += answer.get(name).and_then(Value::as_u64).unwrap_or_default();
            }
            let more = answer.get("more") == Some(&Value::Bool(true));
            if !all || !more {
                let [summaries, facts, _, trimmed, ..] = sums;
                let total: Map<String, Value> =
                    names.iter().zip(sums).map(|(name, sum)| ((*name).to_owned(), json!(sum))).collect();
                let total = Value::Object(total).to_string();
                return Ok(show(ui, "sigil.memory.compacted/1", Body::read(total.as_bytes())?, |_| {
                    if summaries == 0 {
                        return "There is nothing to compact.".to_owned();
                    }
                    let rest = if more { "\nThere is more: `--all` takes it." } else { "" };
                    format!(
                        "{} and {} of {}; none of them is lost.{rest}",
                        counted(summaries, "summary", "summaries"),
                        counted(facts, "fact", "facts"),
                        counted(trimmed, "message", "messages")
                    )
                }));
            }
            let [summaries, ..] = sums;
            ui.progress(&format!("{} so far", counted(summaries, "summary", "summaries")));
        }
    }

    async fn show(&self, args: ShowArgs, ui: Ui) -> Result<Exit, Failure> {
        if let Some(id) = args.id {
            let item = self.get(&format!("/items/{}", segment(&id))).await?;
            return Ok(show(ui, "sigil.memory.item/1", item, item_text));
        }
        if args.messages {
            let page = self.get(&format!("/items?limit={SHOWN}")).await?;
            return Ok(show(ui, "sigil.memory.items/1", page, |page| listed(page, item_line, EMPTY)));
        }
        if args.summaries {
            let page = self.get(&format!("/summaries?limit={SHOWN}")).await?;
            let empty = "There is no summary yet: `sigil memory compact` makes one.";
            return Ok(show(ui, "sigil.memory.summaries/1", page, |page| {
                listed(page, |it| summary_text(it, ui), empty)
            }));
        }
        if let Some(topic) = args.facts {
            let topic = if topic.is_empty() { String::new() } else { format!("&topic={}", segment(&topic)) };
            let page = self.get(&format!("/facts?limit={SHOWN}{topic}")).await?;
            let empty =
                "No fact has these words. Facts are extracted when messages are compacted: `sigil memory compact`.";
            return Ok(show(ui, "sigil.memory.facts/1", page, |page| listed(page, fact_line, empty)));
        }
        let stats = self.get("/stats").await?;
        Ok(show(ui, "sigil.memory.stats/1", stats, |stats| {
            if stats.get("messages") == Some(&json!(0)) {
                return EMPTY.to_owned();
            }
            let model = match text(stats, "model") {
                none if none.is_empty() => "none: words alone count".to_owned(),
                model => model,
            };
            fields(&[
                ("messages", text(stats, "messages")),
                ("not summarized", text(stats, "tier1")),
                ("summaries", text(stats, "summaries")),
                ("facts", text(stats, "facts")),
                ("forgotten", text(stats, "forgotten")),
                ("model", model),
            ])
        }))
    }

    async fn import(&self, file: &Path, conversation: Option<&str>, ui: Ui) -> Result<Exit, Failure> {
        let stopwatch = clock::stopwatch();
        let unread = |error: std::io::Error| Failure::new(Exit::Usage, format!("reading {}: {error}", file.display()));
        let mut lines = BufReader::new(std::fs::File::open(file).map_err(unread)?).lines();
        let mut sums = [0_u64; 3];
        let (mut first, mut last, mut ended) = (1, 0, false);
        while !ended {
            let (mut messages, mut bytes) = (Vec::new(), 0);
            while messages.len() < LINES_AT_ONCE && bytes < BYTES_AT_ONCE {
                let Some(line) = lines.next() else {
                    ended = true;
                    break;
                };
                last += 1;
                let line = line.map_err(unread)?;
                if line.trim().is_empty() {
                    continue;
                }
                bytes += line.len();
                messages.push(message(&line, conversation).map_err(|why| {
                    let taken: u64 = sums.iter().sum();
                    Failure::new(Exit::Usage, format!("line {last} of {}: {why}", file.display())).hint(format!(
                        "{taken} messages before it are kept; correct the line and import the file again"
                    ))
                })?);
            }
            if messages.is_empty() {
                continue;
            }
            let answer = self.post("/messages:batch", &json!({ "messages": messages, "import": true })).await;
            let answer = answer.map_err(|failure| Failure {
                detail: format!("lines {first} to {last} of {}: {}", file.display(), failure.detail),
                ..failure
            })?;
            for (sum, name) in sums.iter_mut().zip(["accepted", "unchanged", "rejected"]) {
                *sum += answer.get(name).and_then(Value::as_u64).unwrap_or_default();
            }
            first = last + 1;
            ui.progress(&format!("{last} lines"));
        }
        ui.progress("");
        let [accepted, unchanged, rejected] = sums;
        let seconds = stopwatch.elapsed().as_secs_f64();
        let total = json!({ "accepted": accepted, "unchanged": unchanged, "rejected": rejected, "seconds": seconds })
            .to_string();
        show(ui, "sigil.memory.imported/1", Body::read(total.as_bytes())?, |_| {
            let mut told = format!("{} taken in {seconds:.1} s", counted(accepted, "message", "messages"));
            if unchanged > 0 {
                let _ = write!(told, "; {unchanged} were there already");
            }
            if rejected > 0 {
                let _ = write!(told, "; {rejected} were forgotten before and are not taken");
            }
            told + "."
        });
        Ok(if rejected > 0 { Exit::Conflict } else { Exit::Ok })
    }

    async fn export(&self, format: Format, ui: Ui) -> Result<Exit, Failure> {
        let (mut cursor, mut talk, mut day) = (String::new(), None::<String>, String::new());
        loop {
            let page = self.get(&format!("/items?limit={PAGE}{cursor}")).await?;
            for item in items(&page) {
                match format {
                    Format::Jsonl => ui.print(&exported(item).to_string()),
                    Format::Md => {
                        let (now, time) = (text(item, "conversation"), text(item, "timestamp"));
                        let today = time.get(..10).unwrap_or_default().to_owned();
                        if talk.as_ref() != Some(&now) || day != today {
                            let name = if now.is_empty() { "notes" } else { &now };
                            ui.print(&format!("\n## {name}, {today}\n"));
                            (talk, day) = (Some(now), today);
                        }
                        let said = item.get("text").and_then(Value::as_str).map(clean_lines).unwrap_or_default();
                        let clock = time.get(11..16).unwrap_or_default();
                        ui.print(&format!("**{}** {clock}  \n{said}\n", text(item, "speaker")));
                    }
                }
            }
            match page.get("next_cursor").and_then(Value::as_str) {
                Some(next) => cursor = format!("&cursor={}", segment(next)),
                None => return Ok(Exit::Ok),
            }
        }
    }

    async fn correct(&self, id: &str, said: &str, ui: Ui) -> Result<Exit, Failure> {
        let item = self.post(&format!("/items/{}/correct", segment(id)), &json!({ "text": said })).await?;
        Ok(show(ui, "sigil.memory.item/1", item, item_text))
    }

    async fn forget(&self, args: &MemoryForgetArgs, ui: Ui) -> Result<Exit, Failure> {
        let mut body = Map::new();
        if !args.ids.is_empty() {
            body.insert("ids".to_owned(), json!(args.ids));
        }
        for (name, value) in [("conversation", &args.conversation), ("speaker", &args.speaker), ("since", &args.since)]
        {
            if let Some(value) = value {
                body.insert(name.to_owned(), json!(value));
            }
        }
        body.insert("preview".to_owned(), json!(true));
        let preview = self.post(":forget", &Value::Object(body.clone())).await?;
        let goes = |gone: &Value| {
            format!(
                "{}, {} of summaries and {}",
                counted(number(gone, "messages"), "message", "messages"),
                counted(number(gone, "lines"), "line", "lines"),
                counted(number(gone, "facts"), "fact", "facts")
            )
        };
        let count = number(&preview, "messages");
        if count == 0 {
            let none = Failure::new(Exit::NotFound, "there is no such message, or it is forgotten already");
            return Err(none.hint("`sigil memory show --messages` lists messages with their ids"));
        }
        if args.preview {
            return Ok(show(ui, "sigil.memory.forgotten/1", preview, |gone| format!("Would go: {}.", goes(gone))));
        }
        if !args.yes {
            match confirm(ui, &format!("Forget {}, for ever?", goes(&preview))) {
                Some(true) => {}
                Some(false) => return Err(Failure::new(Exit::Failed, "nothing was forgotten")),
                None => {
                    let asked = Failure::new(Exit::Usage, format!("this forgets {}, for ever", goes(&preview)));
                    return Err(asked.hint("pass --yes, or look first with --preview"));
                }
            }
        }
        body.insert("preview".to_owned(), json!(false));
        let gone = self.post(":forget", &Value::Object(body)).await?;
        if args.now {
            let extras = Extras { within: Some(WITHIN), ..Extras::default() };
            self.client.ask(Method::POST, &format!("{}:vacuum", self.base), extras).await?;
        }
        Ok(show(ui, "sigil.memory.forgotten/1", gone, |gone| format!("Forgotten: {}.", goes(gone))))
    }
}

const EMPTY: &str =
    "Nothing is kept yet. `sigil memory add TEXT` keeps a message, `sigil memory import FILE` a whole chat.";

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A line of an import as the API takes it.
fn message(line: &str, conversation: Option<&str>) -> Result<Value, String> {
    let parsed: Value = serde_json::from_str(line).map_err(|error| format!("it is no JSON: {error}"))?;
    let Value::Object(members) = parsed else { return Err("it is no JSON object".to_owned()) };
    let known = |(name, value): &(String, Value)| MEMBERS.contains(&name.as_str()) && !value.is_null() && value != "";
    let mut message: Map<String, Value> = members.into_iter().filter(known).collect();
    if !message.contains_key("text") {
        return Err("it has no `text`".to_owned());
    }
    if let (Some(name), false) = (conversation, message.contains_key("conversation")) {
        message.insert("conversation".to_owned(), json!(name));
    }
    Ok(Value::Object(message))
}

/// A message as an import reads it.
fn exported(item: &Value) -> Value {
    let mut line = Map::new();
    for (name, from) in [
        ("id", "external_id"),
        ("conversation", "conversation"),
        ("session", "session"),
        ("speaker", "speaker"),
        ("text", "text"),
        ("timestamp", "timestamp"),
    ] {
        if let Some(value) = item.get(from).filter(|value| !value.is_null() && *value != "") {
            line.insert(name.to_owned(), value.clone());
        }
    }
    Value::Object(line)
}

fn listed(page: &Value, line: impl Fn(&Value) -> String, empty: &str) -> String {
    let lines: Vec<String> = items(page).iter().map(line).collect();
    if lines.is_empty() { empty.to_owned() } else { lines.join("\n") }
}

/// Day and time of a message, to the minute.
fn when(value: &Value) -> String {
    text(value, "timestamp").chars().take(16).collect::<String>().replace('T', " ")
}

fn said(value: &Value) -> String {
    let speaker = text(value, "speaker");
    let words = value.get("text").and_then(Value::as_str).map(clean_lines).unwrap_or_default();
    if speaker.is_empty() { words } else { format!("{speaker}: {words}") }
}

fn item_line(item: &Value) -> String {
    let said: String = said(item).replace('\n', " ");
    let mut letters = said.chars();
    let start: String = letters.by_ref().take(100).collect();
    let rest = if letters.next().is_some() { "…" } else { "" };
    format!("{}  {}  {start}{rest}", text(item, "id"), when(item))
}

fn item_text(item: &Value) -> String {
    let tier = if text(item, "tier") == "1" {
        "not summarized yet".to_owned()
    } else {
        format!("in summary {}", text(item, "summary"))
    };
    let mut rows = vec![
        ("id", text(item, "id")),
        ("your id", text(item, "external_id")),
        ("conversation", text(item, "conversation")),
        ("said", when(item)),
        ("state", tier),
    ];
    if !text(item, "was").is_empty() {
        rows.push(("was", text(item, "was")));
    }
    rows.retain(|(_, value)| !value.is_empty());
    format!("{}\n\n{}", said(item), fields(&rows))
}

fn fact_line(fact: &Value) -> String {
    let day: String = text(fact, "timestamp").chars().take(10).collect();
    let by = if fact.get("by").is_some_and(|by| by == "model") { "  (found by a model)" } else { "" };
    let old = if fact.get("superseded") == Some(&Value::Bool(true)) { "  (replaced since)" } else { "" };
    format!("{day}  {} {} {}{by}{old}", text(fact, "subject"), text(fact, "predicate"), text(fact, "object"))
}

fn summary_text(summary: &Value, ui: Ui) -> String {
    let day = |name: &str| text(summary, name).chars().take(10).collect::<String>();
    let mut shown = ui.paint(
        Tone::Strong,
        &format!("{} to {}, {}", day("from"), day("to"), counted(number(summary, "messages"), "message", "messages")),
    );
    if let Some(head) = summary.get("head").filter(|head| head.is_object()) {
        let _ = write!(shown, "\n  {} ({}, a model)", text(head, "text"), text(head, "model"));
    }
    for line in summary.get("lines").and_then(Value::as_array).into_iter().flatten() {
        let _ = write!(shown, "\n  {}", said(line).replace('\n', " "));
    }
    shown
}

fn answer_text(answer: &Value, ui: Ui) -> String {
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let hits = list("retrieved");
    if hits.is_empty() {
        return "Nothing that is kept has to do with it. `sigil memory show` says how much is kept.".to_owned();
    }
    let mut blocks = Vec::new();
    for hit in &hits {
        let mut block = format!("{}  {}", when(hit), ui.paint(Tone::Strong, &said(hit)));
        if let Some(was) = hit.get("was").and_then(Value::as_str) {
            let _ = write!(block, "\n  was: {}", clean(was));
        }
        for near in hit.get("context").and_then(Value::as_array).into_iter().flatten() {
            let _ = write!(block, "\n  {}", ui.paint(Tone::Faint, &said(near).replace('\n', " ")));
        }
        for fact in hit.get("facts").and_then(Value::as_array).into_iter().flatten() {
            let _ = write!(
                block,
                "\n  fact: {} {} {}",
                text(fact, "subject"),
                text(fact, "predicate"),
                text(fact, "object")
            );
        }
        let _ = write!(block, "\n  {}", ui.paint(Tone::Faint, &format!("{}  {}", text(hit, "id"), why(hit))));
        blocks.push(block);
    }
    for standing in list("standing") {
        blocks.push(format!("always: {}", text(&standing, "text")));
    }
    blocks.join("\n\n")
}

/// The parts of a score that count for something, the largest first.
fn why(hit: &Value) -> String {
    let parts = hit.get("parts").and_then(Value::as_object);
    let mut parts: Vec<(&String, f64)> =
        parts.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_f64()?))).collect();
    parts.retain(|(_, value)| value.abs() >= 0.05);
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let shown: Vec<String> = parts.iter().map(|(name, value)| format!("{name} {value:+.1}")).collect();
    format!("score {:.1}: {}", hit.get("score").and_then(Value::as_f64).unwrap_or_default(), shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_is_exported_and_what_is_unknown_is_passed_over() {
        let line =
            r#"{"id":"D1:3","speaker":"Ann","text":"hi","timestamp":"2023-05-08T13:56:00","session":"1","dia":7}"#;
        let read = message(line, Some("chat")).expect("a message");
        assert_eq!(read["conversation"], "chat");
        assert!(read.get("dia").is_none());
        let item = json!({ "id": "x", "external_id": "D1:3", "speaker": "Ann", "text": "hi", "conversation": "", "session": null });
        assert_eq!(exported(&item), json!({ "id": "D1:3", "speaker": "Ann", "text": "hi" }));
        for bad in ["[]", "{", r#"{"id":"x"}"#] {
            assert!(message(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_says_why_and_steers_no_terminal() {
        let ui = Ui::plain(false);
        assert!(answer_text(&json!({ "retrieved": [] }), ui).starts_with("Nothing that is kept"));
        let hit = json!({
            "id": "a", "timestamp": "2026-11-27T14:30:00.000Z", "speaker": "Ann", "text": "1.6\u{1b}[2J bar", "score": 3.5,
            "parts": { "words": 3.6, "asks": -0.1, "who": 0.0 }, "context": [], "facts": [], "was": null,
        });
        let shown = answer_text(&json!({ "retrieved": [hit], "standing": [{ "text": "be brief" }] }), ui);
        assert!(shown.contains("2026-11-27 14:30  Ann: 1.6") && !shown.contains('\u{1b}'), "{shown}");
        assert!(shown.contains("score 3.5: words +3.6, asks -0.1") && shown.ends_with("always: be brief"), "{shown}");
        assert!(listed(&json!({ "items": [] }), item_line, EMPTY).starts_with("Nothing is kept yet"));
    }
}
