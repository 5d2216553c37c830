//! Calls that wait for a person: listed, and answered.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use mesh_core::io::AnswerChoice;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::calls::{PAGE_DEFAULT, PageLimit, write_cursor};
use super::extract::{JSON, Query, Segment, body, check_accept};
use super::model::{EffectName, Page, time};
use super::payload::show_output;
use super::shapes::{AnswerNote, CallId, CallsCursor, of_query};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::approvals::{self, Waiting};
use crate::doors::ops::devices::name_of;
use crate::mesh::MeshHandle;
use crate::status::OpError;

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum AnswerName {
    /// Yes, to this call.
    Once,
    /// Yes, to this one and, for an hour, to those like it: of the same asker, workspace, device and tool.
    Hour,
    /// Yes, to this one and those like it, by a rule beside the one that asks.
    Always,
    /// No.
    No,
}

impl From<AnswerName> for AnswerChoice {
    fn from(name: AnswerName) -> Self {
        match name {
            AnswerName::Once => Self::Once,
            AnswerName::Hour => Self::Hour,
            AnswerName::Always => Self::Always,
            AnswerName::No => Self::No,
        }
    }
}

impl From<AnswerChoice> for AnswerName {
    fn from(choice: AnswerChoice) -> Self {
        match choice {
            AnswerChoice::Once => Self::Once,
            AnswerChoice::Hour => Self::Hour,
            AnswerChoice::Always => Self::Always,
            AnswerChoice::No => Self::No,
        }
    }
}

/// A call that waits for a person.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WaitingCall {
    /// The call.
    #[schema(value_type = CallId)]
    call_id: String,
    /// State of the call: asking.
    state: String,
    /// Name of the device that it is for.
    node: String,
    /// The tool.
    tool: String,
    /// Its arguments: JSON as it is, if every parser takes it; other text as a string, other bytes as base64. Null if they
    /// are over 32 KiB.
    #[schema(value_type = serde_json::Value)]
    arguments: Option<Box<RawValue>>,
    /// Encoding of `arguments`: json, text or base64; null if they are.
    arguments_encoding: Option<&'static str>,
    /// Size of the arguments.
    arguments_bytes: u64,
    /// Effect of running it again.
    effect: EffectName,
    /// Who asks.
    principal: String,
    /// Name of the device at which it was asked; null: it belongs to the mesh no more.
    origin: Option<String>,
    /// The workspace in which it is asked; null: in none.
    workspace: Option<String>,
    /// Asks. All of them have to be answered.
    asks: Vec<ApprovalAsk>,
    /// Why it asks, for people.
    why: String,
    /// The answers that the caller may give here; empty: somebody else answers.
    choices: Vec<AnswerName>,
    /// Time of its acceptance.
    created_at: String,
    /// Time after which it is too late.
    expires_at: String,
}

/// An ask, and who answers it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApprovalAsk {
    /// Its rule, or the `otherwise` of a workspace.
    rule: String,
    /// Who may answer.
    approvers: Vec<String>,
}

fn render(mesh: &MeshHandle, waiting: Waiting) -> WaitingCall {
    let Waiting { approval, arguments, until_ms, choices } = waiting;
    let (view, header) = (mesh.view(), &approval.header);
    let shown = arguments.as_ref().and_then(|bytes| show_output(bytes));
    let ask = |(rule, people): &(mesh_core::policy::RuleRef, Vec<mesh_core::policy::PersonId>)| ApprovalAsk {
        rule: rule.to_string(),
        approvers: people.iter().map(|person| format!("person:{person}")).collect(),
    };
    WaitingCall {
        call_id: approval.id.to_string(),
        state: mesh_core::io::CallState::Open(mesh_core::frame::Phase::Asking).as_str().to_owned(),
        node: view.target_name(header).into_owned(),
        tool: header.tool.to_string(),
        arguments_encoding: shown.as_ref().map(|(_, encoding)| *encoding),
        arguments: shown.map(|(arguments, _)| arguments),
        arguments_bytes: header.arguments.len(),
        effect: header.effect.into(),
        principal: view.asked_by(header, &approval.origin).to_string(),
        origin: name_of(&view, &approval.origin),
        workspace: header.workspace.as_ref().map(ToString::to_string),
        asks: approval.asks.iter().map(ask).collect(),
        why: approval.why.clone(),
        choices: choices.into_iter().map(Into::into).collect(),
        created_at: time(header.accepted_ms),
        expires_at: time(until_ms),
    }
}

/// Page of calls that wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Calls on a page; default 50.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    limit: Option<PageLimit>,
    /// `next_cursor` of the page before.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    cursor: Option<CallsCursor>,
}

/// The calls that wait for a person's answer, as this device knows them, newest first. By a token that does not look after the
/// mesh, those of its holder; if it is narrowed, those that it made.
#[utoipa::path(get, path = "/api/v1/approvals", operation_id = "listApprovals", tag = "calls", params(ListQuery),
    responses((status = 200, description = "A page", body = Page<WaitingCall>)))]
pub(super) async fn list(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Json<Page<WaitingCall>>, OpError> {
    check_accept(&headers, JSON)?;
    let limit = usize::try_from(query.limit.map_or(PAGE_DEFAULT, |limit| limit.0)).unwrap_or(usize::MAX);
    let page = approvals::list(app.mesh(), &who, query.cursor.map(|cursor| cursor.0), limit).await?;
    let items = page.items.into_iter().map(|waiting| render(app.mesh(), waiting)).collect();
    Ok(Json(Page { items, next_cursor: page.next.map(write_cursor) }))
}

/// An answer to a call that waits.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAnswer {
    /// The answer.
    answer: AnswerName,
    /// Remark for people; default none.
    note: Option<AnswerNote>,
}

/// An answer that is given.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AnswerGiven {
    /// The call.
    #[schema(value_type = CallId)]
    call_id: String,
    /// The answer.
    answer: AnswerName,
    /// The asks that it answers. The call goes on once no other is open.
    asks: Vec<String>,
}

/// Answers a call that waits, as the person who sits at this device. Only through the unix socket: no token and no agent answers
/// for a person.
///
/// The same answer again is answered alike. `already_decided`: somebody was faster, or it has run; `ask_over`: it ended
/// without; `not_approver`: `approvers` says who may.
#[utoipa::path(post, path = "/api/v1/approvals/{id}", operation_id = "answerApproval", tag = "calls", request_body = NewAnswer,
    params(("id" = inline(CallId), Path, description = "Id of the call")),
    responses((status = 200, description = "It is written", body = AnswerGiven)))]
pub(super) async fn answer(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(CallId(id)): Segment<CallId>,
    request: Request<Body>,
) -> Result<Json<AnswerGiven>, OpError> {
    let NewAnswer { answer, note } = body(request).await?;
    let note = note.map(|note| note.0).unwrap_or_default();
    let asks = approvals::answer(app.mesh(), &who, id, answer.into(), note).await?;
    let asks = asks.iter().map(ToString::to_string).collect();
    Ok(Json(AnswerGiven { call_id: id.to_string(), answer, asks }))
}
