//! Rights tried out by the last calls.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::{Extension, Json};
use mesh_core::policy::{Name, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JSON_DEPTH_MAX, json_bytes, parse};
use super::rights::{FailedCheck, RIGHTS_BODY_BYTES_MAX, VerdictName};
use super::shapes::{CallId, RightsText, Whole};
use crate::doors::app::AppState;
use crate::doors::identity::Identity;
use crate::doors::ops::policy;
use crate::doors::questions::Work;
use crate::status::OpError;

/// Calls that are looked at if nothing is said.
const LAST_DEFAULT: usize = 200;

/// Rights to try out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTrial {
    /// At most 1 MiB: all rights as `sigil.toml` says them, as of `PUT /api/v1/policy`.
    toml: RightsText,
    /// Number of the last calls to look at; default 200.
    last: Option<Whole<1, 1_000>>,
}

/// All that would be different with other rights.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Trial {
    /// Calls that would be answered differently, the newest first.
    changed: Vec<ChangedCall>,
    /// Number of calls that were looked at.
    total: usize,
    /// Checks that would not hold.
    failed_checks: Vec<FailedCheck>,
    /// Number of records that would change.
    records: usize,
}

/// A call that would be answered differently if it were asked anew.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangedCall {
    /// The call.
    #[schema(value_type = CallId)]
    call_id: String,
    /// Who asked.
    principal: String,
    /// Name of the device that was asked.
    node: String,
    /// The tool.
    tool: String,
    /// The answer now.
    before: VerdictName,
    /// The answer then.
    after: VerdictName,
    /// Rule that would decide then.
    rule: String,
}

/// Tries out rights in the place of all that there are: which of the last calls that this device knows would be answered
/// differently. Nothing is changed.
#[utoipa::path(post, path = "/api/v1/policy/dry-run", operation_id = "dryRun", tag = "rights", request_body = NewTrial,
    responses((status = 200, description = "What would be different", body = Trial)))]
pub(super) async fn dry_run(
    State(app): AppState,
    Extension(who): Extension<Identity>,
    request: Request<Body>,
) -> Result<Json<Trial>, OpError> {
    app.questions.ask(&who, Work::DryRun, &app.mesh().view().rights)?;
    let bytes = json_bytes(request, RIGHTS_BODY_BYTES_MAX, false).await?;
    let NewTrial { toml: RightsText(wanted), last } = parse(&bytes, JSON_DEPTH_MAX)?;
    let last = last.map_or(LAST_DEFAULT, |last| usize::try_from(last.0).unwrap_or(policy::LAST_MAX));
    let policy::Tried { changed, total, broken, records } = policy::dry_run(app.mesh(), &who, &wanted, last).await?;
    let call = |policy::Changed { call, principal, node, tool, before, after, rule }| ChangedCall {
        call_id: call.to_string(),
        principal: principal.to_string(),
        node: node.clone(),
        tool: tool.to_string(),
        before: before.into(),
        after: after.into(),
        rule,
    };
    let failed = |(name, expect, verdict): (Name, Verdict, Verdict)| FailedCheck {
        name: name.to_string(),
        expect: expect.into(),
        verdict: verdict.into(),
    };
    Ok(Json(Trial {
        changed: changed.into_iter().map(call).collect(),
        total,
        failed_checks: broken.into_iter().map(failed).collect(),
        records,
    }))
}
