//! Memory of a workspace over HTTP.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::extract::{
    JSON, JSON_DEPTH_MAX, Query, Segment, Segments, body_or_default, check_accept, json_bytes, parse,
};
use super::model::{Page, time};
use super::shapes::{
    MemoryCursor, MemoryId, MemoryName, MemoryQuestion, MemoryText, MessageTime, SpaceName, SpeakerName, Whole,
    of_query,
};
use crate::doors::app::{App, AppState};
use crate::doors::identity::Identity;
use crate::doors::ops::memory::{self, MESSAGES_MAX, Place, QUESTIONS_MAX, Use};
use crate::memory as mem;
use crate::status::{ErrorCode, OpError};

/// Largest body of messages, bytes.
const MESSAGES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Items on a page, where the query names none.
const PAGE_DEFAULT: u64 = 50;
/// Tokens of an answer, where the question names no limit.
const TOKENS_DEFAULT: u64 = 2_000;
/// Hits, where the question names no number.
const HITS_DEFAULT: u64 = 10;

type PageLimit = Whole<1, 200>;

pub(super) fn place(app: &App, who: &Identity, name: &SpaceName, of: Use) -> Result<Place, OpError> {
    memory::place(app.mesh(), &app.context.memory, who, &name.0, of)
}

/// A time of a message, which may be before 1970.
fn said_at(ms: i64) -> String {
    u64::try_from(ms).map_or_else(|_| jiff_time(ms), time)
}

fn jiff_time(ms: i64) -> String {
    format!("{:.3}", jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MIN))
}

fn count(number: Option<Whole<1, 200>>, default: u64) -> usize {
    usize::try_from(number.map_or(default, |it| it.0)).unwrap_or(usize::MAX)
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MemoryMessage {
    /// The caller's id; the same one with the same content changes nothing. Default: one is given.
    #[serde(default)]
    id: Option<MemoryName>,
    /// The talk that it belongs to; default none.
    #[serde(default)]
    conversation: Option<MemoryName>,
    /// The sitting within the talk; default: a pause of 30 minutes begins another.
    #[serde(default)]
    session: Option<MemoryName>,
    /// Who said it; default nobody.
    #[serde(default)]
    speaker: Option<SpeakerName>,
    /// What was said.
    text: MemoryText,
    /// When it was said; default now.
    #[serde(default)]
    timestamp: Option<MessageTime>,
}

/// Messages, in order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMessages {
    /// At least one.
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<MemoryMessage>,
    /// True: a message without an id gets one of its content, so that the same import again changes nothing.
    #[serde(default)]
    import: bool,
}

/// What became of a message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum MemoryOutcome {
    /// It is stored and durable.
    Stored,
    /// It was there already.
    Unchanged,
    /// Another message has its id; both are kept.
    Beside,
    /// It is not taken: it was forgotten.
    Forgotten,
}

/// A message that was looked at.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessageTaken {
    /// The id by which it is read, corrected and forgotten.
    #[schema(value_type = MemoryId)]
    id: String,
    /// The caller's id, or the one that was given.
    external_id: String,
    /// What became of it.
    outcome: MemoryOutcome,
}

/// What became of messages.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessagesTaken {
    /// Number of those that are stored.
    accepted: usize,
    /// Of those that were there already.
    unchanged: usize,
    /// Of those that were forgotten, and are not taken.
    rejected: usize,
    /// Each of them, in order.
    items: Vec<MessageTaken>,
}

/// Appends messages to the memory of a workspace. They are durable when the answer comes; of a request with a message that is
/// over its limits, nothing is stored.
#[utoipa::path(post, path = "/api/v1/workspaces/{workspace}/memory/messages:batch", operation_id = "appendMemory", tag = "memory",
    request_body = NewMessages, params(("workspace" = inline(SpaceName), Path, description = "`home`")),
    responses((status = 200, description = "What became of each", body = MessagesTaken)))]
pub(super) async fn append(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    request: Request<Body>,
) -> Result<Json<MessagesTaken>, OpError> {
    let bytes = json_bytes(request, MESSAGES_BYTES_MAX, false).await?;
    let NewMessages { messages, import } = parse(&bytes, JSON_DEPTH_MAX)?;
    if messages.is_empty() || messages.len() > MESSAGES_MAX {
        return Err(OpError::new(ErrorCode::Invalid, format!("a request has 1 to {MESSAGES_MAX} messages")));
    }
    let new = messages.into_iter().map(|it| mem::NewMessage {
        id: it.id.map(|id| id.0),
        conversation: it.conversation.map(|name| name.0).unwrap_or_default(),
        session: it.session.map(|name| name.0),
        speaker: it.speaker.map(|name| name.0).unwrap_or_default(),
        text: it.text.0,
        time: it.timestamp.map(|time| time.0),
    });
    let place = place(&app, &who, &name, Use::Write)?;
    let taken = memory::append(&place, app.mesh(), new.collect(), import).await?;
    let of = |outcomes: &[mem::Outcome]| taken.iter().filter(|it| outcomes.contains(&it.outcome)).count();
    Ok(Json(MessagesTaken {
        accepted: of(&[mem::Outcome::Stored, mem::Outcome::Beside]),
        unchanged: of(&[mem::Outcome::Unchanged]),
        rejected: of(&[mem::Outcome::Forgotten]),
        items: taken
            .into_iter()
            .map(|it| MessageTaken {
                id: it.key.to_string(),
                external_id: it.external_id,
                outcome: match it.outcome {
                    mem::Outcome::Stored => MemoryOutcome::Stored,
                    mem::Outcome::Unchanged => MemoryOutcome::Unchanged,
                    mem::Outcome::Beside => MemoryOutcome::Beside,
                    mem::Outcome::Forgotten => MemoryOutcome::Forgotten,
                },
            })
            .collect(),
    }))
}

/// What is looked for.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum MemoryMode {
    /// Messages, with the facts and summary lines that were made of them.
    #[default]
    Auto,
    /// Messages.
    Text,
    /// By meaning; without a model by words, and `degraded` says so.
    Semantic,
    /// Messages of which there are facts.
    Facts,
    /// Messages that have a line in a summary.
    Summary,
}

/// Questions.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewQuestions {
    /// At least one.
    #[schema(min_items = 1, max_items = 16)]
    queries: Vec<MemoryQuestion>,
    /// What is looked for; default `auto`.
    #[serde(default)]
    mode: MemoryMode,
    /// Hits of each; default 10.
    #[serde(default)]
    k: Option<Whole<1, 200>>,
    /// Tokens (characters / 4) of all texts of an answer; default 2000. The first hit is given whatever it costs.
    #[serde(default)]
    max_tokens: Option<Whole<1, 100_000>>,
    /// Only what was said up to this time; default now.
    #[serde(default)]
    as_of: Option<MessageTime>,
}

/// A part of a message.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SaidPart {
    /// The message.
    #[schema(value_type = MemoryId)]
    id: String,
    /// The caller's id of it.
    external_id: String,
    /// The talk that it belongs to; may be empty.
    conversation: String,
    /// Who said it; may be empty.
    speaker: String,
    /// When.
    timestamp: String,
    /// What was said.
    text: String,
}

impl From<mem::Said> for SaidPart {
    fn from(said: mem::Said) -> Self {
        let mem::Said { key, external_id, conversation, speaker, time_ms, text } = said;
        Self { id: key.to_string(), external_id, conversation, speaker, timestamp: said_at(time_ms), text }
    }
}

/// A fact.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryFact {
    /// The messages that say it.
    source_ids: Vec<String>,
    /// Of whom or what.
    subject: String,
    /// What is said.
    predicate: String,
    /// Of it.
    object: String,
    /// When it was said.
    timestamp: String,
    /// True if a newer fact has replaced it.
    superseded: bool,
    /// Who found it in the message. What a model found may be wrong, and replaces nothing that rules found.
    by: FoundBy,
}

/// Who found a fact.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FoundBy {
    /// Rules.
    Rules,
    /// A model.
    Model,
}

impl From<mem::Fact> for MemoryFact {
    fn from(fact: mem::Fact) -> Self {
        let mem::Fact { source, subject, predicate, object, time_ms, superseded, by_model } = fact;
        Self {
            source_ids: vec![source.to_string()],
            subject,
            predicate: predicate.to_owned(),
            object,
            timestamp: said_at(time_ms),
            superseded,
            by: if by_model { FoundBy::Model } else { FoundBy::Rules },
        }
    }
}

/// What a score is made of. The parts sum to it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ScoreParts {
    /// Words of the question, here and beside it.
    words: f64,
    /// Meaning.
    meaning: f64,
    /// All that else is in the same talk.
    talk: f64,
    /// The date that is named.
    date: f64,
    /// The speaker that is named.
    who: f64,
    /// It asks instead of telling.
    asks: f64,
}

/// Something that was found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryHit {
    /// The message, or the part of it.
    #[serde(flatten)]
    said: SaidPart,
    /// Sum of the parts.
    score: f64,
    /// What it is made of.
    parts: ScoreParts,
    /// What was said before and after, as far as there was room.
    context: Vec<SaidPart>,
    /// Facts of it.
    facts: Vec<MemoryFact>,
    /// Its line in a summary; null: there is none.
    summary_line: Option<String>,
    /// What it said before it was corrected; null: it was not.
    was: Option<String>,
}

/// An instruction that is meant to last.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StandingInstruction {
    /// The message that gives it.
    #[schema(value_type = MemoryId)]
    id: String,
    /// Its words.
    text: String,
    /// When it was given.
    timestamp: String,
}

/// The answer to one question.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryAnswer {
    /// The best first.
    retrieved: Vec<MemoryHit>,
    /// Instructions that are meant to last, the newest first.
    standing: Vec<StandingInstruction>,
    /// What did not take part: `vectors`, when there is no model.
    degraded: Vec<String>,
}

/// The answers, in the order of the questions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryAnswers {
    /// One for each question.
    answers: Vec<MemoryAnswer>,
}

fn units(value: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "scores are far below 2^52")]
    let value = value as f64;
    value / 10_000.0
}

fn answer(answer: mem::Answer) -> MemoryAnswer {
    let hit = |hit: mem::Hit| MemoryHit {
        said: hit.said.into(),
        score: units(hit.score),
        parts: ScoreParts {
            words: units(hit.parts.words),
            meaning: units(hit.parts.meaning),
            talk: units(hit.parts.talk),
            date: units(hit.parts.date),
            who: units(hit.parts.who),
            asks: units(hit.parts.asks),
        },
        context: hit.context.into_iter().map(Into::into).collect(),
        facts: hit.facts.into_iter().map(Into::into).collect(),
        summary_line: hit.line.map(|(_, text)| text),
        was: hit.was,
    };
    let standing = |it: mem::Standing| StandingInstruction {
        id: it.source.to_string(),
        text: it.text,
        timestamp: said_at(it.time_ms),
    };
    MemoryAnswer {
        retrieved: answer.hits.into_iter().map(hit).collect(),
        standing: answer.standing.into_iter().map(standing).collect(),
        degraded: if answer.by_meaning { Vec::new() } else { vec!["vectors".to_owned()] },
    }
}

/// Asks the memory of a workspace. Of each hit it is said why it was found.
#[utoipa::path(post, path = "/api/v1/workspaces/{workspace}/memory:query", operation_id = "askMemory", tag = "memory",
    request_body = NewQuestions, params(("workspace" = inline(SpaceName), Path, description = "`home`")),
    responses((status = 200, description = "An answer to each", body = MemoryAnswers)))]
pub(super) async fn ask(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    request: Request<Body>,
) -> Result<Json<MemoryAnswers>, OpError> {
    let NewQuestions { queries, mode, k, max_tokens, as_of } =
        parse(&json_bytes(request, MESSAGES_BYTES_MAX, false).await?, JSON_DEPTH_MAX)?;
    if queries.is_empty() || queries.len() > QUESTIONS_MAX {
        return Err(OpError::new(ErrorCode::Invalid, format!("a request has 1 to {QUESTIONS_MAX} questions")));
    }
    let mode = match mode {
        MemoryMode::Auto => mem::Mode::Auto,
        MemoryMode::Text => mem::Mode::Text,
        MemoryMode::Semantic => mem::Mode::Semantic,
        MemoryMode::Facts => mem::Mode::Facts,
        MemoryMode::Summary => mem::Mode::Summary,
    };
    let question = |text: MemoryQuestion| mem::Question {
        text: text.0,
        mode,
        limit: count(k, HITS_DEFAULT),
        tokens_max: usize::try_from(max_tokens.map_or(TOKENS_DEFAULT, |it| it.0)).unwrap_or(usize::MAX),
        as_of_ms: as_of.as_ref().map(|time| time.0.0),
        vector: None,
    };
    let place = place(&app, &who, &name, Use::Read)?;
    let answers = memory::ask(&place, queries.into_iter().map(question).collect()).await?;
    Ok(Json(MemoryAnswers { answers: answers.into_iter().map(answer).collect() }))
}

/// A request to compact.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCompaction {
    /// Newest messages that stay as they are; default 0.
    #[serde(default)]
    keep: Option<Whole<0, 1_000_000>>,
    /// True: as many batches as one request does; false: one.
    #[serde(default)]
    all: bool,
}

/// All that a compaction did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Compacted {
    /// Summaries that are stored.
    summaries_created: usize,
    /// Facts that are stored.
    facts_extracted: usize,
    /// Messages that were looked at.
    messages_processed: usize,
    /// Messages that are in a summary now. Nothing of them is lost.
    messages_trimmed: usize,
    /// Texts that got a vector within this request: 0, since they get it in the background.
    embedded: usize,
    /// Texts that were packed; 0 so far.
    archived: usize,
    /// True if there is more to take: ask again.
    more: bool,
}

/// Compacts: the oldest messages get a summary, whose lines are parts of them, and facts. Nothing is removed. A message that is
/// corrected or forgotten leaves its summary.
#[utoipa::path(post, path = "/api/v1/workspaces/{workspace}/memory:compact", operation_id = "compactMemory", tag = "memory",
    request_body = Option<NewCompaction>, params(("workspace" = inline(SpaceName), Path, description = "`home`")),
    responses((status = 200, description = "What is durable of it", body = Compacted)))]
pub(super) async fn compact(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    request: Request<Body>,
) -> Result<Json<Compacted>, OpError> {
    let NewCompaction { keep, all } = body_or_default(request).await?;
    let keep = usize::try_from(keep.map_or(0, |it| it.0)).unwrap_or(usize::MAX);
    let place = place(&app, &who, &name, Use::Write)?;
    let memory::Compacted { report, more } = memory::compact(&place, keep, all).await?;
    Ok(Json(Compacted {
        summaries_created: report.summaries_created,
        facts_extracted: report.facts_extracted,
        messages_processed: report.messages_processed,
        messages_trimmed: report.messages_trimmed,
        embedded: 0,
        archived: 0,
        more,
    }))
}

/// A message as it is held.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryItem {
    /// The message.
    #[serde(flatten)]
    said: SaidPart,
    /// The sitting that the caller named; null: none.
    session: Option<String>,
    /// Tier: 1 while it is in no summary, 2 after that.
    tier: u8,
    /// The summary that it is in; null: none.
    summary: Option<String>,
    /// What it said before it was corrected; null: it was not.
    was: Option<String>,
}

impl From<mem::Item> for MemoryItem {
    fn from(item: mem::Item) -> Self {
        let mem::Item { key, message, state } = item;
        Self {
            tier: if state.batch.is_some() { 2 } else { 1 },
            summary: state.batch.map(|batch| batch.to_string()),
            was: state.was,
            session: message.session,
            said: SaidPart {
                id: key.to_string(),
                external_id: message.id,
                conversation: message.conversation,
                speaker: message.speaker,
                timestamp: said_at(message.time_ms),
                text: message.text,
            },
        }
    }
}

/// Page of messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ItemsQuery {
    /// 1: those that are in no summary; 2: those that are; default both.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    tier: Option<Whole<1, 2>>,
    /// The id that the caller gave.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    external_id: Option<MemoryName>,
    /// Messages on a page; default 50.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    limit: Option<PageLimit>,
    /// `next_cursor` of the page before.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    cursor: Option<MemoryCursor>,
}

/// The messages of a workspace, oldest first. What is forgotten is not among them.
#[utoipa::path(get, path = "/api/v1/workspaces/{workspace}/memory/items", operation_id = "listMemory", tag = "memory",
    params(("workspace" = inline(SpaceName), Path, description = "`home`"), ItemsQuery),
    responses((status = 200, description = "A page", body = Page<MemoryItem>)))]
pub(super) async fn items(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    Query(query): Query<ItemsQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<MemoryItem>>, OpError> {
    check_accept(&headers, JSON)?;
    let place = place(&app, &who, &name, Use::Read)?;
    let wanted = match query.tier.map(|tier| tier.0) {
        None => mem::Wanted::All,
        Some(1) => mem::Wanted::Recent,
        Some(_) => mem::Wanted::Summarized,
    };
    if let Some(MemoryName(id)) = query.external_id {
        let mut items: Vec<MemoryItem> =
            memory::by_external_id(&place, id).await?.into_iter().map(Into::into).collect();
        items.retain(|item| query.tier.is_none_or(|tier| u64::from(item.tier) == tier.0));
        return Ok(Json(Page::whole(items)));
    }
    let after = query.cursor.map(|cursor| cursor.0);
    let page = memory::list(&place, wanted, after, count(query.limit, PAGE_DEFAULT)).await?;
    let cursor = |(time_ms, key): mem::Place| {
        data_encoding::BASE64URL_NOPAD.encode(&[&time_ms.to_be_bytes()[..], &key.0].concat())
    };
    let items = page.items.into_iter().map(Into::into).collect();
    Ok(Json(Page { items, next_cursor: page.next.map(cursor) }))
}

/// One message.
#[utoipa::path(get, path = "/api/v1/workspaces/{workspace}/memory/items/{message}", operation_id = "getMemory", tag = "memory",
    params(("workspace" = inline(SpaceName), Path, description = "`home`"), ("message" = inline(MemoryId), Path, description = "Its id")),
    responses((status = 200, description = "The message", body = MemoryItem)))]
pub(super) async fn show(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segments(name, id): Segments<SpaceName, MemoryId>,
    headers: HeaderMap,
) -> Result<Json<MemoryItem>, OpError> {
    check_accept(&headers, JSON)?;
    let place = place(&app, &who, &name, Use::Read)?;
    Ok(Json(memory::get(&place, id.0).await?.into()))
}

/// Forgets one message, for ever, with its line and its facts. `memory:forget` shows first what goes.
#[utoipa::path(delete, path = "/api/v1/workspaces/{workspace}/memory/items/{message}", operation_id = "forgetMemoryItem", tag = "memory",
    params(("workspace" = inline(SpaceName), Path, description = "`home`"), ("message" = inline(MemoryId), Path, description = "Its id")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn forget_one(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segments(name, id): Segments<SpaceName, MemoryId>,
) -> Result<StatusCode, OpError> {
    let place = place(&app, &who, &name, Use::Write)?;
    let gone = memory::forget(&place, mem::Selection::Keys(vec![id.0]), false).await?;
    if gone.messages.is_empty() {
        return Err(mem::MemoryError::UnknownItem(id.0.to_string()).into());
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A correction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCorrection {
    /// What the message says from now on.
    text: MemoryText,
}

/// Corrects a message. What it said before stays readable as `was`, and is not found any more.
#[utoipa::path(post, path = "/api/v1/workspaces/{workspace}/memory/items/{message}/correct", operation_id = "correctMemory", tag = "memory",
    request_body = NewCorrection,
    params(("workspace" = inline(SpaceName), Path, description = "`home`"), ("message" = inline(MemoryId), Path, description = "Its id")),
    responses((status = 200, description = "The message as it is now", body = MemoryItem)))]
pub(super) async fn correct(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segments(name, id): Segments<SpaceName, MemoryId>,
    request: Request<Body>,
) -> Result<Json<MemoryItem>, OpError> {
    let NewCorrection { text } = parse(&json_bytes(request, MESSAGES_BYTES_MAX, false).await?, JSON_DEPTH_MAX)?;
    let place = place(&app, &who, &name, Use::Write)?;
    memory::correct(&place, id.0, text.0).await?;
    Ok(Json(memory::get(&place, id.0).await?.into()))
}

/// What is to be forgotten.
#[derive(Debug, Deserialize)]
#[serde(try_from = "ForgetMembers")]
pub(super) struct NewForget {
    selection: mem::Selection,
    preview: bool,
}

/// Members of [`NewForget`] as they are written. One that is left out is none; null is no value of any.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgetMembers {
    #[serde(default, deserialize_with = "given")]
    ids: Option<Vec<MemoryId>>,
    #[serde(default, deserialize_with = "given")]
    conversation: Option<MemoryName>,
    #[serde(default, deserialize_with = "given")]
    speaker: Option<SpeakerName>,
    #[serde(default, deserialize_with = "given")]
    since: Option<MessageTime>,
    #[serde(default)]
    preview: bool,
}

/// Reads a member that, once it is there, has a value.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl TryFrom<ForgetMembers> for NewForget {
    type Error = String;

    fn try_from(members: ForgetMembers) -> Result<Self, String> {
        let ForgetMembers { ids, conversation, speaker, since, preview } = members;
        let selection = match (ids, conversation, speaker, since) {
            (Some(ids), None, None, None) if (1..=MESSAGES_MAX).contains(&ids.len()) => {
                mem::Selection::Keys(ids.into_iter().map(|id| id.0).collect())
            }
            (Some(_), None, None, None) => return Err(format!("`ids` has 1 to {MESSAGES_MAX} of them")),
            (None, Some(name), None, None) => mem::Selection::Conversation(name.0),
            (None, None, Some(name), since) => {
                mem::Selection::Speaker { speaker: name.0, since_ms: since.map_or(i64::MIN, |time| time.0.0) }
            }
            _ => {
                return Err("give one of `ids`, `conversation` and `speaker`; `since` goes with `speaker`".to_owned());
            }
        };
        Ok(Self { selection, preview })
    }
}

impl PartialSchema for NewForget {
    fn schema() -> RefOr<Schema> {
        let preview = ObjectBuilder::new().schema_type(Type::Boolean);
        let preview =
            preview.description(Some("True: nothing is done, and the answer lists what would go; default false"));
        let preview = Schema::from(preview);
        let one_of = |name: &str, of: RefOr<Schema>, what: &str| {
            let object = ObjectBuilder::new().schema_type(Type::Object).property(name, of).required(name);
            let object = object.property("preview", preview.clone()).description(Some(what));
            object.additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        let ids = ArrayBuilder::new().items(MemoryId::schema()).min_items(Some(1)).max_items(Some(MESSAGES_MAX));
        let speaker = one_of("speaker", SpeakerName::schema(), "What one speaker said, from a time on or ever");
        OneOfBuilder::new()
            .item(one_of("ids", Schema::from(ids).into(), "These messages"))
            .item(one_of("conversation", MemoryName::schema(), "A whole conversation"))
            .item(speaker.property("since", MessageTime::schema()))
            .into()
    }
}

impl ToSchema for NewForget {}

/// What goes, or is gone.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryForgotten {
    /// True: nothing was done.
    preview: bool,
    /// Number of messages.
    messages: usize,
    /// Number of lines of summaries.
    lines: usize,
    /// Number of facts.
    facts: usize,
    /// Ids of the messages.
    ids: Vec<String>,
}

/// Forgets messages, for ever: their texts, lines and facts go, and the same ids and imports are not taken again.
#[utoipa::path(post, path = "/api/v1/workspaces/{workspace}/memory:forget", operation_id = "forgetMemory", tag = "memory",
    request_body = NewForget, params(("workspace" = inline(SpaceName), Path, description = "`home`")),
    responses((status = 200, description = "What goes, or is gone", body = MemoryForgotten)))]
pub(super) async fn forget(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    request: Request<Body>,
) -> Result<Json<MemoryForgotten>, OpError> {
    let NewForget { selection, preview } =
        parse(&json_bytes(request, MESSAGES_BYTES_MAX, false).await?, JSON_DEPTH_MAX)?;
    let place = place(&app, &who, &name, if preview { Use::Read } else { Use::Write })?;
    let gone = memory::forget(&place, selection, preview).await?;
    Ok(Json(MemoryForgotten {
        preview,
        messages: gone.messages.len(),
        lines: gone.lines,
        facts: gone.facts,
        ids: gone.messages.iter().map(ToString::to_string).collect(),
    }))
}

/// Numbers of a workspace's memory.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryStats {
    /// Messages.
    messages: usize,
    /// Those of them that are in no summary.
    tier1: usize,
    /// Summaries.
    summaries: usize,
    /// Facts.
    facts: usize,
    /// Messages that were forgotten.
    forgotten: usize,
    /// Pieces of text that are searched.
    indexed: usize,
    /// The model of this device; null: there is none, and words alone count.
    model: Option<String>,
    /// Messages that are found by meaning.
    embedded: usize,
}

/// How much is in the memory of a workspace.
#[utoipa::path(get, path = "/api/v1/workspaces/{workspace}/memory/stats", operation_id = "getMemoryStats", tag = "memory",
    params(("workspace" = inline(SpaceName), Path, description = "`home`")),
    responses((status = 200, description = "Numbers", body = MemoryStats)))]
pub(super) async fn stats(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    headers: HeaderMap,
) -> Result<Json<MemoryStats>, OpError> {
    check_accept(&headers, JSON)?;
    let place = place(&app, &who, &name, Use::Read)?;
    let mem::Stats { messages, recent, summaries, facts, forgotten, indexed } = memory::stats(&place).await?;
    let embedding = memory::embedding(&place).await?;
    let model = embedding.as_ref().and_then(|it| it.model).map(str::to_owned);
    let embedded = embedding.map_or(0, |it| it.progress.messages);
    Ok(Json(MemoryStats { messages, tier1: recent, summaries, facts, forgotten, indexed, model, embedded }))
}

/// A summary.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemorySummary {
    /// Its id.
    id: String,
    /// Time of the first message that it covers.
    from: String,
    /// Of the last.
    to: String,
    /// Number of messages that it covers.
    messages: usize,
    /// A model's words in front of it; null: there are none. Its lines are what was said.
    head: Option<MemoryHead>,
    /// Its lines, each a part of a message.
    lines: Vec<SaidPart>,
}

/// Words of a model, not of a person: at most three sentences whose names and numbers stand in the messages they rest on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryHead {
    /// The words.
    text: String,
    /// The model: its name, or its id where it is not known here.
    model: String,
    /// Ids of the messages that they rest on.
    #[schema(value_type = Vec<MemoryId>)]
    sources: Vec<String>,
}

impl From<memory_core::item::Head> for MemoryHead {
    fn from(head: memory_core::item::Head) -> Self {
        let known = memory_models::catalogue::MODELS.iter().find(|entry| entry.id() == head.model);
        Self {
            text: head.text,
            model: known.map_or_else(|| head.model.to_string(), |entry| entry.name.to_owned()),
            sources: head.sources.iter().map(|(key, _)| key.to_string()).collect(),
        }
    }
}

/// A time.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SummariesQuery {
    /// Its beginning; default the beginning of everything.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    from: Option<MessageTime>,
    /// Its end; default now and later.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    to: Option<MessageTime>,
    /// Summaries at most; default 50.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// The summaries that reach into a time, the newest first.
#[utoipa::path(get, path = "/api/v1/workspaces/{workspace}/memory/summaries", operation_id = "listMemorySummaries", tag = "memory",
    params(("workspace" = inline(SpaceName), Path, description = "`home`"), SummariesQuery),
    responses((status = 200, description = "Summaries", body = Page<MemorySummary>)))]
pub(super) async fn summaries(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    Query(query): Query<SummariesQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<MemorySummary>>, OpError> {
    check_accept(&headers, JSON)?;
    let place = place(&app, &who, &name, Use::Read)?;
    let (from, to) = (query.from.map_or(i64::MIN, |it| it.0.0), query.to.map_or(i64::MAX, |it| it.0.0));
    let found = memory::summaries(&place, from, to, count(query.limit, PAGE_DEFAULT)).await?;
    let shown = found.into_iter().map(|it| MemorySummary {
        id: it.batch.to_string(),
        from: said_at(it.from_ms),
        to: said_at(it.to_ms),
        messages: it.messages,
        head: it.head.map(Into::into),
        lines: it.lines.into_iter().map(Into::into).collect(),
    });
    Ok(Json(Page::whole(shown.collect())))
}

/// A topic.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FactsQuery {
    /// Words that a fact must have; default none.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    topic: Option<MemoryQuestion>,
    /// Only what was said up to this time; default now and later.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    as_of: Option<MessageTime>,
    /// Facts at most; default 50.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// The facts about a topic, the newest first. A value that a newer one has replaced is marked.
#[utoipa::path(get, path = "/api/v1/workspaces/{workspace}/memory/facts", operation_id = "listMemoryFacts", tag = "memory",
    params(("workspace" = inline(SpaceName), Path, description = "`home`"), FactsQuery),
    responses((status = 200, description = "Facts", body = Page<MemoryFact>)))]
pub(super) async fn facts(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(name): Segment<SpaceName>,
    Query(query): Query<FactsQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<MemoryFact>>, OpError> {
    check_accept(&headers, JSON)?;
    let place = place(&app, &who, &name, Use::Read)?;
    let (topic, as_of) = (query.topic.map(|it| it.0).unwrap_or_default(), query.as_of.map(|it| it.0.0));
    let found = memory::facts(&place, topic, as_of, count(query.limit, PAGE_DEFAULT)).await?;
    Ok(Json(Page::whole(found.into_iter().map(Into::into).collect())))
}
