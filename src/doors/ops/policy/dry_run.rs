//! Rights tried out: what the last calls would be answered if these held.

use mesh_core::ids::{ReqId, ToolName};
use mesh_core::io::CallRecord;
use mesh_core::policy::{Credential, Key, Mode, Name, Principal, Request, Value, Verdict, View};

use super::edit::{Held, Part};
use crate::config::PolicySettings;
use crate::doors::identity::Identity;
use crate::mesh::{CallFilter, MeshHandle};
use crate::status::{ErrorCode, OpError};

/// Most calls that are looked at: a few milliseconds of work.
pub const LAST_MAX: usize = 1_000;
/// Calls that are read at a time.
const PAGE: usize = 200;

/// A call that would be answered differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The call.
    pub call: ReqId,
    /// Who asked.
    pub principal: Principal,
    /// The device that was asked.
    pub node: String,
    /// The tool.
    pub tool: ToolName,
    /// The answer that it would get now.
    pub before: Verdict,
    /// The answer that it would get then.
    pub after: Verdict,
    /// Rule that would decide then.
    pub rule: String,
}

/// All that would be different.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried {
    /// Calls, the newest first.
    pub changed: Vec<Changed>,
    /// Number of calls that were looked at.
    pub total: usize,
    /// Checks that would not hold, with what must be and what would be.
    pub broken: Vec<(Name, Verdict, Verdict)>,
    /// Number of records that would change.
    pub records: usize,
}

/// Tries out rights in the place of all that there are, by the last calls that this device knows. Nothing is changed.
///
/// # Errors
/// The caller looks after nothing, the rights are against a bound, or the mesh cannot answer.
pub async fn dry_run(
    mesh: &MeshHandle,
    who: &Identity,
    wanted: &PolicySettings,
    last: usize,
) -> Result<Tried, OpError> {
    let view = mesh.view();
    who.require_admin(&view.rights)?;
    let held = Held::of(view.clone());
    let changes = held.changes(&Part::All, wanted).map_err(|error| {
        OpError::new(ErrorCode::Invalid, error.to_string()).hint("correct it, then try it again: nothing was changed")
    })?;
    held.nobody(&Part::All, wanted, false)?;
    let after = after(&view.rights, &held, &changes);
    let mut tried = Tried { records: changes.len(), ..Tried::default() };
    tried.broken = after.broken_checks().map(|(name, check, verdict)| (name.clone(), check.expect, verdict)).collect();
    let mut cursor = None;
    loop {
        let limit = PAGE.min(last.min(LAST_MAX) - tried.total);
        if limit == 0 {
            return Ok(tried);
        }
        let page = mesh.calls(CallFilter::default(), cursor, limit).await?;
        for record in &page.items {
            let node = view.target_name(&record.header).into_owned();
            let asker = view.asked_by(&record.header, &record.origin).into_owned();
            tried.changed.extend(changed(record, (asker, node), &view.rights, &after));
        }
        tried.total += page.items.len();
        cursor = page.next;
        if cursor.is_none() {
            return Ok(tried);
        }
    }
}

/// The rights that there would be. The first workspace would decide.
fn after(now: &View, held: &Held, changes: &[(Key, Option<Value>)]) -> View {
    let makes = changes.iter().any(|(key, value)| matches!(key, Key::Workspace(_)) && value.is_some());
    let first = makes && now.workspaces().next().is_none() && now.mode() == Mode::Open;
    let mode = first.then_some((Key::Mode, Some(Value::Mode(Mode::Workspaces))));
    let changes: Vec<_> = mode.into_iter().chain(changes.iter().cloned()).collect();
    held.tried(&changes)
}

/// A call as it would be asked now, in the workspace that gives it.
fn changed(record: &CallRecord, (principal, node): (Principal, String), now: &View, after: &View) -> Option<Changed> {
    let header = &record.header;
    let request = Request {
        principal,
        origin: record.origin,
        credential: header.token.clone().map(|token| Credential { token, over: false }),
        workspace: None,
        target: header.target,
        tool: header.tool.clone(),
        call: None,
    };
    let (before, after) = (now.decide(&request), after.decide(&request));
    (before.verdict != after.verdict).then(|| Changed {
        call: header.id,
        principal: request.principal,
        node,
        tool: header.tool.clone(),
        before: before.verdict,
        after: after.verdict,
        rule: after.rule.to_string(),
    })
}
