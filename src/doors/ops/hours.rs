//! Yeses for an hour: listed, and taken back by whoever sits at this device.

use mesh_core::ids::Hash;
use mesh_core::io::{Command, Refusal, Reply};
use mesh_core::policy::{Choice, Domain, Given, PersonId, Principal, RuleRef};
use mesh_core::standing::HeldAnswer;

use super::approvals::sitter;
use super::devices::name_of;
use crate::doors::identity::Identity;
use crate::mesh::MeshHandle;
use crate::mesh::clock::now;
use crate::status::{ErrorCode, OpError};

/// A yes for an hour that counts.
#[derive(Debug, Clone)]
pub struct Hour {
    /// Hash of its entry.
    pub id: Hash,
    /// The person who said it.
    pub by: PersonId,
    /// Name of the device at which that was; `None`: it belongs to the mesh no more.
    pub at: Option<String>,
    /// Whose calls it lets through.
    pub asker: Principal,
    /// The workspace in which they are made; `None`: in none.
    pub workspace: Option<String>,
    /// Name of the device that they are for; `None`: it belongs to the mesh no more.
    pub node: Option<String>,
    /// The tool.
    pub tool: String,
    /// The asks that it answers.
    pub of: Vec<RuleRef>,
    /// Wall time at which it is over.
    pub until_ms: u64,
    /// True if the caller may take it back here.
    pub is_revocable: bool,
}

/// Lists the yeses for an hour that count and concern the caller, as far as this device knows: what is over first, first.
///
/// # Errors
/// The mesh cannot answer.
pub async fn list(mesh: &MeshHandle, who: &Identity) -> Result<Vec<Hour>, OpError> {
    let (all, view, now_ms) = (mesh.hours().await?, mesh.view(), now().wall_ms);
    let sitter = sitter(&view, who);
    let hour = |held: HeldAnswer| {
        let HeldAnswer { id, at, consent, left_ms } = held;
        let Choice::Hour { principal, domain, target, tool } = consent.choice.clone() else { return None };
        if !who.may_see(&principal, &view.rights) {
            return None;
        }
        let given = Given { hash: id, at, consent };
        let may = |person: &PersonId| given.consent.of.iter().any(|at| view.rights.may_take_back(&given, at, person));
        let is_revocable = sitter.as_ref().is_some_and(may);
        Some(Hour {
            id,
            by: given.consent.by,
            at: name_of(&view, &at),
            asker: principal,
            workspace: match domain {
                Domain::Mesh => None,
                Domain::Workspace(workspace) => Some(workspace.to_string()),
            },
            node: name_of(&view, &target),
            tool: tool.to_string(),
            of: given.consent.of,
            until_ms: now_ms.saturating_add(left_ms),
            is_revocable,
        })
    };
    let mut hours: Vec<Hour> = all.into_iter().filter_map(hour).collect();
    hours.sort_by_key(|hour| (hour.until_ms, hour.id));
    Ok(hours)
}

/// Takes back a yes for an hour as the person who sits at this device; gives the asks that are open again. What runs goes on;
/// what waits, and what is asked later, asks again. Taken back twice is answered alike.
///
/// # Errors
/// [`ErrorCode::NotApprover`] for a token or login, and for whoever did not say it and may not answer such calls, or not at this
/// device; [`ErrorCode::UnknownHour`].
pub async fn take_back(mesh: &MeshHandle, who: &Identity, hour: Hash) -> Result<Vec<RuleRef>, OpError> {
    if !who.sits_here() {
        let detail = "what a person said is taken back at a device, and by no token or login";
        return Err(OpError::new(ErrorCode::NotApprover, detail).hint(
            "run `sigil approvals withdraw ID` at a device of whoever said it, or of one who may answer such calls",
        ));
    }
    let by = mesh.view().rights.sits_at(&mesh.view().me).ok_or_else(|| OpError::from(Refusal::NotMember))?;
    let Reply::TakenBack { of } = mesh.command(Command::TakeBack { hour, by }).await? else {
        return Err(OpError::new(ErrorCode::Internal, "the mesh answered something else"));
    };
    Ok(of)
}
