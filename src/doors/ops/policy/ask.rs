//! Questions about rights, by the names that people use.

use std::sync::Arc;

use mesh_core::ids::{PeerId, ToolName};
use mesh_core::io::View;
use mesh_core::policy::{Domain, Principal, WorkspaceId};

use super::edit::Held;
use super::explain::Explanation;
use super::matrix::{By, Matrix};
use crate::doors::ops::devices::{Named, resolve};
use crate::status::{ErrorCode, OpError};

/// May this one use that?
#[derive(Debug, Clone)]
pub struct Question {
    /// Who; `None`: whoever sits at the device where it is asked.
    pub principal: Option<Principal>,
    /// The workspace that is named, if one is.
    pub workspace: Option<Domain>,
    /// Name or peer id of the device that has the tool.
    pub node: String,
    /// The tool.
    pub tool: ToolName,
    /// Name or peer id of the device at which it is asked; `None`: of a device that asks itself that one, else one of
    /// tier owner; if nobody is named this one.
    pub at: Option<String>,
}

/// Answers a question, and says why.
///
/// # Errors
/// A device that is not there, or that two names mean.
pub fn ask(view: &Arc<View>, question: Question) -> Result<Explanation, OpError> {
    let Question { principal, workspace, node, tool, at } = question;
    let rights = Held::of(view.clone()).rights();
    let (target, node) = member(view, &node)?;
    let at = at.map(|at| member(view, &at)).transpose()?.map(|(peer, _)| peer);
    let (principal, at) = if let Some(principal) = principal {
        (principal, at)
    } else {
        let at = at.unwrap_or(view.me);
        (rights.view.sits_at(&at).ok_or_else(nobody_asks)?, Some(at))
    };
    let request = rights.view.question(&principal, workspace, &node, &tool);
    let mut request = request.ok_or_else(nobody_asks)?;
    request.target = target;
    request.origin = at.unwrap_or(request.origin);
    Ok(rights.explain(&request, &node))
}

/// The table of a workspace, or of all devices.
///
/// # Errors
/// No such workspace, or the table would have too many cells.
pub fn matrix(view: &Arc<View>, workspace: Option<&WorkspaceId>, by: By) -> Result<Matrix, OpError> {
    if let Some(id) = workspace.filter(|id| !view.rights.workspaces().any(|(other, _)| other == *id)) {
        return Err(OpError::new(ErrorCode::UnknownWorkspace, format!("there is no workspace `{id}`"))
            .hint("`sigil workspace list` shows those that there are"));
    }
    let held = Held::of(view.clone());
    held.rights().matrix(workspace, by, &held.nodes())
}

fn nobody_asks() -> OpError {
    OpError::new(ErrorCode::UnknownNode, "no device of this mesh is one at which this can be asked")
        .hint("name one: `sigil policy explain WHO NODE TOOL --at DEVICE`")
}

fn member(view: &View, text: &str) -> Result<(PeerId, mesh_core::ids::NodeId), OpError> {
    match resolve(view, &[], text)? {
        Named::Member(node) => Ok((node.peer, node.node_id.clone())),
        Named::Pending(_) => Err(OpError::new(ErrorCode::UnknownNode, "this device is no member yet")),
    }
}
