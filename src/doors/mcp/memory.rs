//! Memory of the mesh as tools: said to it, summed up, and found again, where it is open to the caller and on this device.

use std::sync::Arc;

use mesh_core::policy::Domain;
use serde::Deserialize;
use serde_json::{Value, json};

use super::list::Listed;
use super::own::{arguments, entry};
use crate::doors::app::App;
use crate::doors::identity::Identity;
use crate::doors::ops::memory::{self, HOME, MESSAGES_MAX, Place, Use};
use crate::memory as mem;
use crate::mesh::clock::rfc3339;
use crate::status::{ErrorCode, OpError};

/// Hits and lines, where nobody names a number, and at most.
const HITS: usize = 10;
const HITS_MAX: usize = 100;
/// Tokens (characters / 4) of all texts of an answer.
const TOKENS: usize = 2_000;
const TOKENS_MAX: usize = 50_000;
/// Longest question, characters.
const QUESTION_CHARS_MAX: usize = 2_000;

const APPEND: &str = "memory_append";
const RECALL: &str = "memory_recall";
const SEMANTIC: &str = "memory_semantic";
const SUMMARY: &str = "memory_summary";
const SEARCH: &str = "sigil_memory_search";

/// True for the name of a tool of memory.
pub(super) fn is_own(name: &str) -> bool {
    [APPEND, RECALL, SEMANTIC, SUMMARY, SEARCH].contains(&name)
}

fn place(app: &App, who: &Identity, of: Use) -> Result<Place, OpError> {
    let home: Domain = HOME.parse().map_err(|_| OpError::new(ErrorCode::Internal, "the home workspace has no name"))?;
    memory::place(app.mesh(), &app.context.memory, who, &home, of)
}

/// The tools of memory that the caller may use here.
pub(super) fn listed(app: &App, who: &Identity) -> Vec<Listed> {
    let query = || json!({ "type": "string", "description": "What is looked for", "maxLength": QUESTION_CHARS_MAX });
    let k = || json!({ "type": "integer", "minimum": 1, "maximum": HITS_MAX });
    let time = || json!({ "type": "string", "description": "RFC 3339" });
    let object = || json!({ "type": "object" });
    let mut listed = Vec::new();
    if place(app, who, Use::Read).is_ok() {
        let input = json!({ "type": "object", "required": ["query"], "additionalProperties": false,
            "properties": { "query": query(), "k": k(), "max_tokens": { "type": "integer", "minimum": 1, "maximum": TOKENS_MAX } } });
        listed.push(entry(
            SEARCH,
            "Search memory",
            "Search what was said and kept in this home: by words, and by meaning where there is a model. Gives the messages, with \
             facts and summary lines that were made of them.",
            &input,
            &object(),
            (true, true),
        ));
        listed.push(entry(
            SEMANTIC,
            "Search memory by meaning",
            "The k messages that are nearest in meaning; without a model by words, and `degraded` says so.",
            &input,
            &object(),
            (true, true),
        ));
        listed.push(entry(
            RECALL,
            "Recall facts",
            "Facts that memory holds about somebody or something, the newest first, with the messages that say them.",
            &json!({ "type": "object", "required": ["topic"], "additionalProperties": false,
                "properties": { "topic": query(), "limit": k() } }),
            &object(),
            (true, true),
        ));
    }
    if place(app, who, Use::Write).is_ok() {
        let text = json!({ "type": "string", "minLength": 1 });
        listed.push(entry(
            APPEND,
            "Add to memory",
            "Keep what was said, durably. The same message with the same id changes nothing.",
            &json!({ "type": "object", "required": ["messages"], "additionalProperties": false, "properties": { "messages": {
                "type": "array", "minItems": 1, "maxItems": MESSAGES_MAX, "items": {
                    "type": "object", "required": ["text"], "additionalProperties": false, "properties": {
                        "text": text, "speaker": { "type": "string" }, "conversation": { "type": "string" },
                        "session": { "type": "string" }, "id": { "type": "string" }, "time": time(),
                    } } } } }),
            &object(),
            (false, false),
        ));
        listed.push(entry(
            SUMMARY,
            "Summaries of memory",
            "Summaries of a time, the newest first. With compact true, what is in no summary yet gets one first.",
            &json!({ "type": "object", "additionalProperties": false, "properties": {
                "from": time(), "to": time(), "limit": k(), "compact": { "type": "boolean" },
                "keep": { "type": "integer", "minimum": 0, "description": "Newest messages that compacting leaves as they are" },
            } }),
            &object(),
            (false, true),
        ));
    }
    listed
}

/// Runs a tool of memory.
pub(super) async fn run(app: &Arc<App>, who: &Identity, name: &str, said: &str) -> Result<Value, OpError> {
    match name {
        APPEND => append(app, who, said).await,
        RECALL => recall(app, who, said).await,
        SUMMARY => summary(app, who, said).await,
        SEMANTIC => search(app, who, said, mem::Mode::Semantic).await,
        _ => search(app, who, said, mem::Mode::Auto).await,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    text: String,
    #[serde(default)]
    speaker: String,
    #[serde(default)]
    conversation: String,
    session: Option<String>,
    id: Option<String>,
    time: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendArguments {
    messages: Vec<Message>,
}

fn millis(text: &str) -> Result<i64, OpError> {
    let time: jiff::Timestamp =
        text.parse().map_err(|_| OpError::new(ErrorCode::Invalid, "a time is written as in 2026-11-28T15:00:00Z"))?;
    Ok(time.as_millisecond())
}

async fn append(app: &Arc<App>, who: &Identity, said: &str) -> Result<Value, OpError> {
    let AppendArguments { messages } = arguments(said)?;
    if messages.is_empty() || messages.len() > MESSAGES_MAX {
        return Err(OpError::new(ErrorCode::Invalid, format!("1 to {MESSAGES_MAX} messages are taken at once")));
    }
    let place = place(app, who, Use::Write)?;
    let mut new = Vec::with_capacity(messages.len());
    for it in messages {
        let Message { text, speaker, conversation, session, id, time } = it;
        let time = time.as_deref().map(millis).transpose()?.map(|ms| (ms, 0));
        new.push(mem::NewMessage { id, conversation, session, speaker, text, time });
    }
    let taken = memory::append(&place, app.mesh(), new, false).await?;
    let items: Vec<Value> = taken
        .iter()
        .map(|it| {
            let outcome = match it.outcome {
                mem::Outcome::Stored => "stored",
                mem::Outcome::Unchanged => "unchanged",
                mem::Outcome::Beside => "beside",
                mem::Outcome::Forgotten => "forgotten",
            };
            json!({ "id": it.key.to_string(), "external_id": it.external_id, "outcome": outcome })
        })
        .collect();
    Ok(json!({ "items": items }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchArguments {
    query: String,
    k: Option<usize>,
    max_tokens: Option<usize>,
}

fn question(text: &str) -> Result<(), OpError> {
    let chars = text.chars().count();
    if (1..=QUESTION_CHARS_MAX).contains(&chars) {
        return Ok(());
    }
    Err(OpError::new(ErrorCode::Invalid, format!("a question has 1 to {QUESTION_CHARS_MAX} characters")))
}

fn said_at(ms: i64) -> String {
    u64::try_from(ms).map_or_else(
        |_| format!("{:.3}", jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MIN)),
        rfc3339,
    )
}

fn shown(said: &mem::Said) -> Value {
    json!({
        "id": said.key.to_string(),
        "speaker": said.speaker,
        "conversation": said.conversation,
        "time": said_at(said.time_ms),
        "text": said.text,
    })
}

fn fact(fact: &mem::Fact) -> Value {
    json!({
        "subject": fact.subject,
        "predicate": fact.predicate,
        "object": fact.object,
        "time": said_at(fact.time_ms),
        "superseded": fact.superseded,
        "by_a_model": fact.by_model,
        "source": fact.source.to_string(),
    })
}

async fn search(app: &Arc<App>, who: &Identity, said: &str, mode: mem::Mode) -> Result<Value, OpError> {
    let SearchArguments { query, k, max_tokens } = arguments(said)?;
    question(&query)?;
    let question = mem::Question {
        text: query,
        mode,
        limit: k.unwrap_or(HITS).clamp(1, HITS_MAX),
        tokens_max: max_tokens.unwrap_or(TOKENS).clamp(1, TOKENS_MAX),
        as_of_ms: None,
        vector: None,
    };
    let answers = memory::ask(&place(app, who, Use::Read)?, vec![question]).await?;
    let Some(answer) = answers.into_iter().next() else { return Ok(json!({ "hits": [] })) };
    let hits: Vec<Value> = answer
        .hits
        .iter()
        .map(|hit| {
            json!({
                "message": shown(&hit.said),
                "context": hit.context.iter().map(shown).collect::<Vec<_>>(),
                "facts": hit.facts.iter().map(fact).collect::<Vec<_>>(),
                "summary_line": hit.line.as_ref().map(|(_, line)| line.clone()),
                "was": hit.was,
            })
        })
        .collect();
    let standing: Vec<Value> =
        answer.standing.iter().map(|it| json!({ "text": it.text, "time": said_at(it.time_ms) })).collect();
    let degraded: &[&str] = if answer.by_meaning { &[] } else { &["vectors"] };
    Ok(json!({ "hits": hits, "standing": standing, "degraded": degraded }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecallArguments {
    topic: String,
    limit: Option<usize>,
}

async fn recall(app: &Arc<App>, who: &Identity, said: &str) -> Result<Value, OpError> {
    let RecallArguments { topic, limit } = arguments(said)?;
    question(&topic)?;
    let facts =
        memory::facts(&place(app, who, Use::Read)?, topic, None, limit.unwrap_or(HITS).clamp(1, HITS_MAX)).await?;
    Ok(json!({ "facts": facts.iter().map(fact).collect::<Vec<_>>() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SummaryArguments {
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    compact: bool,
    #[serde(default)]
    keep: usize,
}

async fn summary(app: &Arc<App>, who: &Identity, said: &str) -> Result<Value, OpError> {
    let SummaryArguments { from, to, limit, compact, keep } = arguments(said)?;
    let from = from.as_deref().map(millis).transpose()?.unwrap_or(i64::MIN);
    let to = to.as_deref().map(millis).transpose()?.unwrap_or(i64::MAX);
    let place = place(app, who, if compact { Use::Write } else { Use::Read })?;
    let compacted = if compact {
        let memory::Compacted { report, more } = memory::compact(&place, keep, true).await?;
        json!({
            "summaries_created": report.summaries_created,
            "facts_extracted": report.facts_extracted,
            "messages_processed": report.messages_processed,
            "messages_trimmed": report.messages_trimmed,
            "more": more,
        })
    } else {
        Value::Null
    };
    let summaries = memory::summaries(&place, from, to, limit.unwrap_or(HITS).clamp(1, HITS_MAX)).await?;
    let summaries: Vec<Value> = summaries
        .iter()
        .map(|it| {
            json!({
                "from": said_at(it.from_ms),
                "to": said_at(it.to_ms),
                "messages": it.messages,
                "head_by_a_model": it.head.as_ref().map(|head| &head.text),
                "lines": it.lines.iter().map(shown).collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok(json!({ "summaries": summaries, "compacted": compacted }))
}
