//! The providers of this device's tools: what runs them, in which state it is, and which tools are not offered and why.

use mesh_core::ids::ToolName;

use super::doctor::{Check, Severity};
use crate::doors::identity::Identity;
use crate::mesh::MeshHandle;
use crate::node::roster::{Listed, Roster};
use crate::status::{ErrorCode, OpError};

/// All of them, by origin.
///
/// # Errors
/// The caller does not look after this device ([`ErrorCode::Denied`]).
pub fn list(mesh: &MeshHandle, who: &Identity, roster: &Roster) -> Result<Vec<Listed>, OpError> {
    may_look(mesh, who)?;
    Ok(roster.all().cloned().collect())
}

/// One.
///
/// # Errors
/// As of [`list`], and none is called so ([`ErrorCode::NotFound`]).
pub fn show(mesh: &MeshHandle, who: &Identity, roster: &Roster, name: &str) -> Result<Listed, OpError> {
    may_look(mesh, who)?;
    roster.find(name).cloned().ok_or_else(|| {
        OpError::new(ErrorCode::NotFound, format!("nothing that runs tools here is called `{name}`"))
            .hint("`sigil plugin list` shows all that is")
    })
}

/// What does not run its tools now, each with the next step.
pub fn findings(roster: &Roster) -> impl Iterator<Item = Check> {
    roster.all().filter_map(|Listed { origin, about, state, .. }| {
        let (word, why) = state.told();
        let cause = format!("{origin} runs no tools, it is {word}: {}", why?);
        let fix = about.absent.first().map(|absent| absent.fix.clone());
        let fix = fix.unwrap_or_else(|| "`sigil plugin list` shows it, `sigil logs` tells more".to_owned());
        Some(Check { id: "providers", severity: Severity::Warn, cause, fix: Some(fix) })
    })
}

/// What to say of a call for a tool that this device would have, and does not offer now; `None` to those who do not look after it.
pub(super) fn absent(mesh: &MeshHandle, who: &Identity, roster: &Roster, tool: &ToolName) -> Option<OpError> {
    may_look(mesh, who).ok()?;
    let all = roster.all().flat_map(|listed| &listed.about.absent);
    let absent = all.into_iter().find(|absent| absent.tool == tool.as_str())?;
    let detail = format!("`{tool}` is not offered here now: {}", absent.why);
    Some(OpError::new(ErrorCode::UnknownTool, detail).hint(absent.fix.clone()).with("tool", tool.as_str()))
}

fn may_look(mesh: &MeshHandle, who: &Identity) -> Result<(), OpError> {
    if who.may_look(&mesh.view().rights) {
        return Ok(());
    }
    Err(OpError::new(ErrorCode::Denied, "this token calls tools, and sees nothing of what runs them")
        .hint("run `sigil` on this machine, or use a token of an owner or admin that is not narrowed"))
}
