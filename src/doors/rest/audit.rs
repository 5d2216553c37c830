//! The audit: what happened, who wanted it, and what the answer was.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use mesh_core::answer_words::{ToldAnswer, told_answers};
use mesh_core::audit_record::Outside;
use mesh_core::io::{CallRecord, View};
use mesh_core::policy::Content;
use mesh_core::rule_words::rule_of;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::approvals::AnswerName;
use super::calls::{PAGE_DEFAULT, PageLimit, write_cursor};
use super::extract::{JSON, Query, check_accept};
use super::model::{Page, time};
use super::rights::VerdictName;
use super::shapes::{Asker, AuditPlace, CallId, DeviceRef, NameOfTool, VerdictWord, Whole, of_query};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::audit::{self, Filter, Line, Place};
use crate::doors::ops::devices::name_of;
use crate::doors::ops::policy::Held;
use crate::mesh::{AuditItem, verdict_of};
use crate::status::OpError;

/// Seconds since 1970 that a calendar has; the last are in the year 9999.
type Moment = Whole<0, 253_402_300_799>;

/// A call of a line of the audit.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditedCall {
    /// Its id.
    #[schema(value_type = CallId)]
    id: String,
    /// Its state; null: the line is not the call's own.
    state: Option<&'static str>,
}

/// Answer of a person to a call of the audit.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditedAnswer {
    /// The person.
    by: String,
    /// The answer.
    answer: AnswerName,
    /// The asks that it was given to.
    asks: Vec<String>,
}

impl From<ToldAnswer> for AuditedAnswer {
    fn from(ToldAnswer { by, choice, of }: ToldAnswer) -> Self {
        let asks = of.iter().map(ToString::to_string).collect();
        Self { by: format!("person:{by}"), answer: choice.into(), asks }
    }
}

/// What a tool with a restricted network asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditedOutside {
    /// The host, as far as it could be read; `*`: several.
    host: String,
    /// Its port; 0: none could be read, or several.
    port: u16,
    /// Bytes to there, of all that are alike.
    sent_bytes: u64,
    /// Bytes from there, likewise.
    received_bytes: u64,
}

/// Something that happened, or several such that are alike.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditLine {
    /// What: `call`, `call_refused` (it was never accepted), `answer_refused`, `taken_back` (a yes for an hour), `edited`,
    /// `edit_refused`, `door_refused` (before anything was done), `egress` (a tool with a restricted network asked for something
    /// outside); `unknown` to this version.
    what: &'static str,
    /// Time of the first, by the clock of the device.
    at: String,
    /// Time of the last.
    last_at: String,
    /// How many.
    count: u32,
    /// Device at whose door it was; null: it belongs to the mesh no more.
    device: Option<String>,
    /// Who; null: nobody who is known.
    principal: Option<String>,
    /// Id of the token that was shown.
    token: Option<String>,
    /// The workspace: of a call that by which it was decided, of what was refused the one that was named.
    workspace: Option<String>,
    /// Name of the device that was asked for something.
    node: Option<String>,
    /// The tool.
    tool: Option<String>,
    /// The answer.
    verdict: VerdictName,
    /// Rule that decided, or why; of a call the one at its acceptance.
    rule: String,
    /// The call that it is about; null: it is about none.
    call: Option<AuditedCall>,
    /// What people said to the call, where its rule asks; empty of anything else.
    answers: Vec<AuditedAnswer>,
    /// What was edited: the keys that lead to it in `sigil.toml`, or its kind and name.
    edited: Option<String>,
    /// What it says since, as `sigil.toml` says it; null: it was taken away, or it is too long to be kept.
    said: Option<String>,
    /// True if it was taken away.
    taken_away: bool,
    /// What a tool asked for outside; null of anything else.
    outside: Option<AuditedOutside>,
    /// So many more happened there about then, of which nothing else is known.
    left_out: u64,
}

fn of_call(view: &View, record: &CallRecord) -> AuditLine {
    let (header, at) = (&record.header, time(record.listed_ms()));
    AuditLine {
        what: "call",
        last_at: at.clone(),
        at,
        count: 1,
        device: name_of(view, &record.origin),
        principal: Some(view.asked_by(header, &record.origin).to_string()),
        token: header.token.as_ref().map(ToString::to_string),
        workspace: header.workspace.as_ref().map(ToString::to_string),
        node: Some(view.target_name(header).into_owned()),
        tool: Some(header.tool.to_string()),
        verdict: verdict_of(record).into(),
        // The rule that ended it comes before the one by which it was accepted.
        rule: rule_of(record).map_or_else(|| header.rule.clone(), |rule| rule.to_string()),
        call: Some(AuditedCall { id: header.id.to_string(), state: Some(record.state.as_str()) }),
        answers: told_answers(record).into_iter().map(AuditedAnswer::from).collect(),
        edited: None,
        said: None,
        taken_away: false,
        outside: None,
        left_out: 0,
    }
}

fn of_other(held: &Held, view: &View, item: AuditItem) -> AuditLine {
    let AuditItem { device, row, left_out, .. } = item;
    let said = row.said().map(|said| said.content);
    let text = match (&row.key, &said) {
        (Some(key), Some(Content::Value(value))) => Some(held.text_of(key, value)),
        _ => None,
    };
    AuditLine {
        what: row.what.as_str(),
        at: time(row.at_ms),
        last_at: time(row.last_ms),
        count: row.count,
        device: name_of(view, &device),
        principal: row.principal.as_ref().map(ToString::to_string),
        token: row.token.as_ref().map(ToString::to_string),
        workspace: row.workspace.as_ref().map(ToString::to_string),
        node: row.target.and_then(|target| name_of(view, &target)).or_else(|| row.node.map(|node| node.to_string())),
        tool: row.tool.as_ref().map(ToString::to_string),
        verdict: row.verdict.into(),
        rule: row.rule,
        call: row.call.as_ref().map(|id| AuditedCall { id: id.to_string(), state: None }),
        answers: Vec::new(),
        edited: row.key.as_ref().map(|key| held.name_of_key(key)),
        said: text.filter(|text| !text.is_empty()),
        taken_away: said == Some(Content::Deleted),
        outside: row.outside.map(|Outside { host, port, sent, received }| AuditedOutside {
            host,
            port,
            sent_bytes: sent,
            received_bytes: received,
        }),
        left_out,
    }
}

/// Page of the audit.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only of this principal.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    principal: Option<Asker>,
    /// Only what this device was asked for: name, peer id, or a prefix of one of at least 7 characters.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    node: Option<DeviceRef>,
    /// Only what was about this tool.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    tool: Option<NameOfTool>,
    /// Only what was answered so.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    verdict: Option<VerdictWord>,
    /// Only what happened at this time or later: seconds since 1970.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    since: Option<Moment>,
    /// Only what happened before this time: seconds since 1970.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    until: Option<Moment>,
    /// Lines on a page; default 50.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    limit: Option<PageLimit>,
    /// `next_cursor` of the page before.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    cursor: Option<AuditPlace>,
}

fn write_place(Place { rows, calls }: Place) -> String {
    let row = rows.map_or_else(String::new, |at| {
        let key = mesh_core::rows::audit(at.at_ms, &at.place).key;
        data_encoding::BASE64URL_NOPAD.encode(&[&key[..], &at.row.to_be_bytes()].concat())
    });
    format!("{row}.{}", calls.map_or_else(String::new, write_cursor))
}

/// What happened, newest first: calls, and what was refused or edited at the doors of all devices. Never an argument or a
/// result.
///
/// For owners of the mesh, at devices of tier owner; a token must be an owner's and not be narrowed. What was refused or edited is
/// kept for 90 days or up to 64 MiB, and comes some seconds later.
#[utoipa::path(get, path = "/api/v1/audit", operation_id = "listAudit", tag = "rights", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<AuditLine>)))]
pub(super) async fn list(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<AuditLine>>, OpError> {
    check_accept(&headers, JSON)?;
    let limit = usize::try_from(query.limit.map_or(PAGE_DEFAULT, |limit| limit.0)).unwrap_or(usize::MAX);
    let millis = |moment: Moment| moment.0.saturating_mul(1_000);
    let filter = Filter {
        principal: query.principal.map(|asker| asker.0),
        node: query.node.map(|node| node.0),
        tool: query.tool.map(|tool| tool.0),
        verdict: query.verdict.map(|verdict| verdict.0),
        since_ms: query.since.map(millis),
        until_ms: query.until.map(millis),
    };
    let after = query.cursor.map_or_else(Place::default, |cursor| cursor.0);
    let page = audit::list(app.mesh(), &who, filter, after, limit).await?;
    let view = app.mesh().view();
    let held = Held::of(view.clone());
    let line = |line: Line| match line {
        Line::Call(record) => of_call(&view, &record),
        Line::Other(item) => of_other(&held, &view, *item),
    };
    Ok(Json(Page { items: page.items.into_iter().map(line).collect(), next_cursor: page.next.map(write_place) }))
}
