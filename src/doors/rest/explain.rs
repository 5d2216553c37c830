//! Answers to "why?": of a question about rights, and of a call.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use mesh_core::config::Rate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::approvals::AnswerName;
use super::extract::{JSON, Query, Segment, check_accept};
use super::rights::VerdictName;
use super::shapes::{Asker, CallId, DeviceRef, NameOfTool, SpaceName, TokenId, of_query};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::policy::{self, CallExplanation, Explanation, PersonAnswer, Question};
use crate::doors::questions::Work;
use crate::status::OpError;

/// A question.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Who would ask. Default: the holder of the token, else whoever sits at the device where it is asked.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    principal: Option<Asker>,
    /// Workspace that would be named.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    workspace: Option<SpaceName>,
    /// Device that has the tool: name, peer id, or a prefix of one of at least 7 characters.
    #[param(inline)]
    node: DeviceRef,
    /// The tool.
    #[param(inline)]
    tool: NameOfTool,
    /// Device at which it would be asked. Default: a device of tier owner; without a principal this one.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    origin: Option<DeviceRef>,
    /// Id of the token by which it would be asked.
    #[serde(default, deserialize_with = "of_query")]
    #[param(inline)]
    token: Option<TokenId>,
}

/// An answer, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explained {
    /// The answer. A call that asks waits until somebody who may says yes (see `/api/v1/approvals`), or it expires.
    verdict: VerdictName,
    /// Rule that decided: `WORKSPACE/RULE`, or the name of what else it was.
    rule: String,
    /// The workspace by which it is so; null: by none.
    workspace: Option<String>,
    /// The same in words.
    text: String,
    /// Everything that was looked at, in order; the last one decided.
    steps: Vec<Step>,
    /// The asks that are open.
    asks: Vec<OpenAsk>,
    /// Change that would give another answer, and who can do it; null of what is allowed.
    change_by: Option<String>,
    /// How often this asker may use the tool at the device that answers, all agents of one person together; null: no rate holds
    /// for it there, or it would be asked at another device, which has its own.
    rate: Option<RateShown>,
}

/// How often something may be asked (`calls.rate`). Over it a call is refused as `rate_limited`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RateShown {
    /// Calls a second.
    per_s: u64,
    /// Calls at once, after a pause.
    burst: u64,
}

/// One thing that was looked at.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Step {
    /// At what.
    layer: String,
    /// Its answer: allow goes on to the next.
    verdict: VerdictName,
    /// What it rests on, if something stood in the way or decided.
    rule: Option<String>,
    /// In words.
    why: String,
}

/// An ask that is open.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OpenAsk {
    /// Its rule, or the `otherwise` of a workspace.
    rule: String,
    /// Who may say yes.
    approvers: Vec<String>,
    /// Seconds for which a call would wait for it.
    wait_s: f64,
}

impl From<Explanation> for Explained {
    fn from(told: Explanation) -> Self {
        let Explanation { verdict, rule, workspace, text, steps, asks, change_by, rate } = told;
        let step = |step: policy::Looked| Step {
            layer: step.layer.as_str().to_owned(),
            verdict: step.verdict.into(),
            rule: step.rule,
            why: step.text,
        };
        let ask = |ask: policy::Asked| OpenAsk {
            rule: ask.rule.to_string(),
            approvers: ask.approvers.iter().map(|person| format!("person:{person}")).collect(),
            wait_s: std::time::Duration::from_millis(ask.wait_ms).as_secs_f64(),
        };
        Self {
            verdict: verdict.into(),
            rule,
            workspace: workspace.map(|id| id.to_string()),
            text,
            steps: steps.into_iter().map(step).collect(),
            asks: asks.into_iter().map(ask).collect(),
            change_by,
            rate: rate.map(|Rate { per_s, burst }| RateShown { per_s, burst }),
        }
    }
}

/// Tells whether somebody may use a tool, why, and what would change it: the answer that a call would get now.
#[utoipa::path(get, path = "/api/v1/policy/explain", operation_id = "explain", tag = "rights", params(Asked),
    responses((status = 200, description = "The answer", body = Explained)))]
pub(super) async fn explain(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Json<Explained>, OpError> {
    check_accept(&headers, JSON)?;
    let Asked { principal, workspace, node, tool, origin, token } = asked;
    let question = Question {
        principal: principal.map(|asker| asker.0),
        workspace: workspace.map(|name| name.0),
        node: node.0,
        tool: tool.0,
        origin: origin.map(|origin| origin.0),
        token: token.map(|token| token.0),
    };
    let view = app.mesh().view();
    app.questions.ask(&who, Work::Explain, &view.rights)?;
    Ok(Json(policy::ask(&view, &who, question, app.context.settings.loaded().call_rate)?.into()))
}

/// A call, and why it is as it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExplainedCall {
    /// The call.
    call_id: String,
    /// Its state.
    state: &'static str,
    /// Answer that it got: deny if it was denied, ask while it waits for a person or if nobody answered in time, else allow.
    verdict: VerdictName,
    /// Rule that gave that answer: `WORKSPACE/RULE`, or the name of what else it was; null: something else ended it, which
    /// its `reason` tells.
    rule: Option<String>,
    /// All of it in words.
    text: String,
    /// Rule by which it was taken where it was asked.
    accepted_by: String,
    /// The workspace by which it was taken; null: by none.
    workspace: Option<String>,
    /// All that people said to it.
    answers: Vec<PersonSaid>,
    /// Devices that have said something about rights which was known where it was asked, and which has not come here.
    behind: Vec<String>,
    /// The same question now: of an open call how it stands, of one that is over what would be answered if it were asked again.
    now: Explained,
}

/// Answer of a person to a call.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PersonSaid {
    /// Who, for people.
    by: String,
    /// All but `no` are a yes.
    choice: AnswerName,
    /// The asks that are answered.
    of: Vec<String>,
    /// The device at which it was; null: that is not told any more.
    at: Option<String>,
    /// Seconds for which it counts yet; null: the call goes on by it, or is over.
    left_s: Option<f64>,
}

impl From<CallExplanation> for ExplainedCall {
    fn from(told: CallExplanation) -> Self {
        let CallExplanation { record, verdict, rule, text, accepted_by, answers, behind, now } = told;
        let answer = |PersonAnswer { by, choice, of, at, left_ms }: PersonAnswer| PersonSaid {
            by,
            choice: choice.into(),
            of: of.iter().map(ToString::to_string).collect(),
            at,
            left_s: left_ms.map(|ms| std::time::Duration::from_millis(ms).as_secs_f64()),
        };
        Self {
            call_id: record.header.id.to_string(),
            state: record.state.as_str(),
            verdict: verdict.into(),
            rule,
            text,
            accepted_by: accepted_by.0,
            workspace: accepted_by.1.map(|id| id.to_string()),
            answers: answers.into_iter().map(answer).collect(),
            behind,
            now: now.into(),
        }
    }
}

/// Tells why a call is as it is: the rule that took, held or ended it, what people said to it, and how the same question
/// stands now. For whoever may read the call.
#[utoipa::path(get, path = "/api/v1/calls/{id}/explanation", operation_id = "explainCall", tag = "rights",
    params(("id" = inline(CallId), Path, description = "Id of the call")),
    responses((status = 200, description = "Why", body = ExplainedCall)))]
pub(super) async fn explain_call(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    Segment(CallId(id)): Segment<CallId>,
    headers: HeaderMap,
) -> Result<Json<ExplainedCall>, OpError> {
    check_accept(&headers, JSON)?;
    app.questions.ask(&who, Work::ExplainCall, &app.mesh().view().rights)?;
    Ok(Json(policy::explain_call(app.mesh(), &who, id).await?.into()))
}
