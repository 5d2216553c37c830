//! Questions about rights, by the names that people use.

use std::sync::Arc;

use mesh_core::config::Rate;
use mesh_core::ids::{PeerId, ToolName};
use mesh_core::io::View;
use mesh_core::policy::{Credential, Domain, Principal, Request, Token, TokenId, Verdict, WorkspaceId};
use mesh_core::rates::has_rate;
use mesh_core::record::Tier;

use super::edit::Held;
use super::explain::Explanation;
use super::matrix::{By, Matrix};
use crate::doors::identity::Identity;
use crate::doors::ops::devices::{Named, resolve};
use crate::doors::tokens::is_over;
use crate::mesh::clock::now;
use crate::status::{ErrorCode, OpError};

/// May this one use that?
#[derive(Debug, Clone)]
pub struct Question {
    /// Who; `None`: the holder of the token, else whoever sits at the device where it is asked.
    pub principal: Option<Principal>,
    /// The workspace that is named, if one is.
    pub workspace: Option<Domain>,
    /// Name or peer id of the device that has the tool.
    pub node: String,
    /// The tool.
    pub tool: ToolName,
    /// Name or peer id of the device at which it is asked; `None`: of a device that asks itself that one, else one of
    /// tier owner; if nobody is named this one.
    pub origin: Option<String>,
    /// The token with which it is asked, if it is by one.
    pub token: Option<TokenId>,
}

/// Answers a question, and says why. `rate`: calls of one tool that one asker may make at this device.
///
/// # Errors
/// A device that is not there, or that two names mean.
pub fn ask(view: &Arc<View>, who: &Identity, question: Question, rate: Option<Rate>) -> Result<Explanation, OpError> {
    let Question { principal, workspace, node, tool, origin, token } = question;
    let rights = Held::of(view.clone()).rights();
    let (target, node) = member(view, &node)?;
    let origin = origin.map(|origin| member(view, &origin)).transpose()?.map(|(peer, _)| peer);
    // Who comes with a token asks for herself, and by that token, unless she looks after the mesh.
    let shown = who.token().filter(|_| !who.is_admin(&view.rights));
    let token = token.or_else(|| shown.map(|shown| shown.id.clone()));
    let said = token.as_ref().map(|token| view.rights.token(token).unwrap_or_default());
    let principal = principal.or_else(|| said.and_then(<[Token]>::first).map(|token| token.holder.clone()));
    let principal = principal.or_else(|| who.holder().filter(|_| who.token().is_none()).cloned());
    let (principal, origin) = if let Some(principal) = principal {
        (principal, origin)
    } else {
        let origin = origin.unwrap_or(view.me);
        (rights.view.sits_at(&origin).ok_or_else(nobody_asks)?, Some(origin))
    };
    if !who.may_see(&principal, &view.rights) {
        return Err(OpError::new(ErrorCode::Denied, "a token or login asks what its own holder may, and nobody else")
            .hint("leave the principal out, or run `sigil policy explain` on this machine"));
    }
    let request = rights.view.question(&principal, workspace, &node, &tool);
    let mut request = request.ok_or_else(nobody_asks)?;
    request.target = target;
    request.origin = origin.unwrap_or(request.origin);
    let over = said.is_some_and(|said| is_over(said, now().wall_ms));
    request.credential = token.map(|token| Credential { token, over });
    let mut told = rights.explain(&request, &node);
    told.rate = rate_of(view, &request).and(rate).filter(|_| told.verdict != Verdict::Deny);
    Ok(told)
}

/// `None` where calls of this asker are not counted, or where another device counts them.
fn rate_of(view: &View, request: &Request) -> Option<()> {
    let role = request.principal.person().and_then(|person| view.rights.role(person));
    let has_budget = view.by_peer(&view.me).is_some_and(|me| me.tier != Tier::Owner);
    (request.origin == view.me && has_rate(&request.principal, role, has_budget)).then_some(())
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
        .hint("name one: `sigil policy explain WHO NODE TOOL --origin DEVICE`")
}

fn member(view: &View, text: &str) -> Result<(PeerId, mesh_core::ids::NodeId), OpError> {
    match resolve(view, &[], text)? {
        Named::Member(node) => Ok((node.peer, node.node_id.clone())),
        Named::Pending(_) => Err(OpError::new(ErrorCode::UnknownNode, "this device is no member yet")),
    }
}
