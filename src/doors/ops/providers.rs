//! The providers of this device's tools: what runs them, in which state it is, and which tools are not offered and why.

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
    Ok(roster.iter().cloned().collect())
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

fn may_look(mesh: &MeshHandle, who: &Identity) -> Result<(), OpError> {
    if who.may_look(&mesh.view().rights) {
        return Ok(());
    }
    Err(OpError::new(ErrorCode::Denied, "this token calls tools, and sees nothing of what runs them")
        .hint("run `sigil` on this machine, or use a token of an owner or admin that is not narrowed"))
}
