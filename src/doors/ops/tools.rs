//! Tools that wait for an owner: what a device offers beyond what was approved of it, or in another form.
//!
//! As long as nobody has approved tools of a device, all that it offers counts as approved. With the first approval that ends:
//! from then on what was not approved waits, so does what it adds or changes, and what was approved stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::{Hash, PeerId, ToolName};
use mesh_core::io::{Edit, NodeView, View};
use mesh_core::policy::{DeviceTools, Key, Offered, Principal, ToolState, Value};
use mesh_core::record::{Fitness, Tier, ToolDecl};

use super::devices::{Named, resolve};
use super::policy::{for_edit, write};
use crate::doors::identity::Identity;
use crate::mesh::MeshHandle;
use crate::node::card::{CardError, ToolDescription};
use crate::status::{ErrorCode, OpError, edited_meanwhile};

/// A tool that waits for an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingTool {
    /// Its device.
    pub peer: PeerId,
    /// True if an earlier form of it was approved: that one is not there any more.
    pub changed: bool,
    /// As its device declares it.
    pub tool: ToolDecl,
}

impl PendingTool {
    /// What an approval of it names, so that nothing else is approved than what was shown.
    #[must_use]
    pub fn shown(&self) -> Hash {
        Offered::of(&self.tool).hash
    }
}

/// Tools that wait, by device and name; none on a device that may approve none.
#[must_use]
pub fn pending(view: &View) -> Vec<PendingTool> {
    if view.by_peer(&view.me).is_none_or(|me| me.tier != Tier::Owner) {
        return Vec::new();
    }
    view.nodes.iter().flat_map(|node| pending_of(view, node)).collect()
}

fn pending_of<'a>(view: &'a View, node: &'a NodeView) -> impl Iterator<Item = PendingTool> + 'a {
    let waits = view.rights.tools(&node.peer).filter(|(_, state)| *state != ToolState::Approved);
    waits.filter_map(|(name, state)| {
        let tool = node.tools().iter().find(|tool| tool.name == *name)?.clone();
        Some(PendingTool { peer: node.peer, changed: state == ToolState::Changed, tool })
    })
}

/// A tool of a device, and all that is told of it.
#[derive(Debug, Clone)]
pub struct ToolRead {
    /// The mesh.
    pub view: Arc<View>,
    /// The device.
    pub node: NodeView,
    /// As its device declares it.
    pub tool: ToolDecl,
    /// Its card; `None`: there is no more to tell.
    pub about: Option<ToolDescription>,
}

/// One tool of a device. Its card is waited for, at most `wait`, if it is not here.
///
/// # Errors
/// No such device; it offers no such tool ([`ErrorCode::UnknownTool`]); its card is away ([`ErrorCode::SchemaAway`]) or is none
/// ([`ErrorCode::Conflict`]).
pub async fn show(mesh: &MeshHandle, text: &str, name: &ToolName, wait: Duration) -> Result<ToolRead, OpError> {
    let view = mesh.view();
    let node = member(mesh, &view, text)?;
    let tool = node.tools().iter().find(|tool| tool.name == *name).cloned().ok_or_else(|| offers_no(&node, name))?;
    let about = match tool.card {
        None => None,
        Some(card) => {
            let bytes = mesh.payloads().card(card, node.peer, wait).await?;
            let unreadable = |error: CardError| {
                OpError::new(
                    ErrorCode::Conflict,
                    format!("what `{}` tells of it cannot be read: {error}", node.node_id),
                )
                .hint("a newer sigil on one of the two devices may be the cause: update both")
            };
            Some(ToolDescription::read(&bytes).map_err(unreadable)?)
        }
    };
    Ok(ToolRead { view, node, tool, about })
}

/// A tool that somebody approves, in the form in which it was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approved {
    /// Its name.
    pub name: ToolName,
    /// [`PendingTool::shown`] of it; `None`: as it is offered when the approval is made.
    pub shown: Option<Hash>,
}

/// What an approval of tools has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolsApproved {
    /// The mesh.
    pub view: Arc<View>,
    /// The device.
    pub node: NodeView,
    /// Names of the tools of it that may be used now.
    pub approved: Vec<ToolName>,
}

/// Approves tools of a device; `tools` = `None`: all that it offers now. What was approved before stays; as long as nobody had
/// approved any, all counted, and from now on these alone do.
///
/// # Errors
/// Not through the socket; no such device; it offers no such tool ([`ErrorCode::UnknownTool`]), or in another form than was
/// shown ([`ErrorCode::PreconditionFailed`]); who approves may not.
pub async fn approve(
    mesh: &MeshHandle,
    who: &Identity,
    text: &str,
    tools: Option<&[Approved]>,
) -> Result<ToolsApproved, OpError> {
    let held = for_edit(mesh, who)?;
    let view = mesh.view();
    let node = member(mesh, &view, text)?;
    let chosen = chosen(&node, tools)?;
    // Where nobody had approved any, a yes to what its device holds back takes nothing away from what could be used.
    let held_back = node.tools().iter().any(|tool| tool.state == Fitness::REVIEW && chosen.contains(&tool.name));
    let mut approved = approved(&view, &node, |heads| heads > 0 || held_back);
    let offered = node.tools().iter().map(Offered::of);
    approved.extend(offered.filter(|tool| chosen.contains(&tool.name)).map(|tool| (tool.name, tool.hash)));
    say(mesh, held.editor()?, &view, node, approved).await
}

/// Takes the approval of tools of a device back: they wait again, and calls of them are refused. `tools` = `None`: of all that
/// were approved. As long as nobody had approved any, all others count as approved from now on.
///
/// # Errors
/// Not through the socket; no such device; a tool that it neither offers nor was approved for ([`ErrorCode::UnknownTool`]); who
/// takes it back may not.
pub async fn reject(
    mesh: &MeshHandle,
    who: &Identity,
    text: &str,
    tools: Option<&[ToolName]>,
) -> Result<ToolsApproved, OpError> {
    let held = for_edit(mesh, who)?;
    let view = mesh.view();
    let node = member(mesh, &view, text)?;
    let mut approved = approved(&view, &node, |_| true);
    match tools {
        None => approved.clear(),
        Some(tools) => {
            for name in tools {
                if approved.remove(name).is_none() && !node.tools().iter().any(|tool| tool.name == *name) {
                    return Err(offers_no(&node, name));
                }
            }
        }
    }
    say(mesh, held.editor()?, &view, node, approved).await
}

/// The member that is meant.
fn member(mesh: &MeshHandle, view: &View, text: &str) -> Result<NodeView, OpError> {
    match resolve(view, &mesh.surroundings().pending, text)? {
        Named::Member(node) => Ok(node.clone()),
        Named::Pending(pending) => {
            let detail = format!("`{}` awaits approval, and offers nothing yet", pending.node_id);
            Err(OpError::new(ErrorCode::Conflict, detail)
                .hint(format!("`sigil approve {}` lets it in first", pending.peer.short())))
        }
    }
}

/// All that is approved of a device. What was approved and is not offered now is among it, since it may come back as it was; of
/// several heads only what all of them approve. `counts`: whether what can be used now is, by how many heads there are.
fn approved(view: &View, node: &NodeView, counts: impl Fn(usize) -> bool) -> BTreeMap<ToolName, Hash> {
    let key = Key::Tools(node.peer);
    let heads = view.said.heads(&key).len();
    let mut approved = match view.said.value(&key) {
        Some(Value::Tools(tools)) if heads == 1 => tools.approved.clone(),
        _ => DeviceTools::default().approved,
    };
    let is_live = |state| state == ToolState::Approved && counts(heads);
    let live = view.rights.tools(&node.peer).filter(|(_, state)| is_live(*state));
    let live: BTreeSet<&ToolName> = live.map(|(name, _)| name).collect();
    let offered = node.tools().iter().map(Offered::of).filter(|offered| live.contains(&offered.name));
    approved.extend(offered.map(|offered| (offered.name, offered.hash)));
    approved
}

/// Says which tools of a device are approved, in place of what was said of it in this view.
async fn say(
    mesh: &MeshHandle,
    by: Principal,
    view: &View,
    node: NodeView,
    approved: BTreeMap<ToolName, Hash>,
) -> Result<ToolsApproved, OpError> {
    let key = Key::Tools(node.peer);
    let names = node.tools().iter().map(|tool| tool.name.clone());
    let names = names.filter(|name| approved.contains_key(name)).collect();
    let seen = vec![(key.clone(), view.said.places(&key))];
    let changes = vec![(key, Some(Value::Tools(DeviceTools { approved })))];
    write(mesh, Edit { by, changes, declared: false, force: false, seen }).await?;
    Ok(ToolsApproved { view: mesh.view(), node, approved: names })
}

fn offers_no(node: &NodeView, name: &ToolName) -> OpError {
    let detail = format!("`{}` offers no tool `{name}`", node.node_id);
    OpError::new(ErrorCode::UnknownTool, detail)
        .hint(format!("`sigil tools --node {}` lists what it offers", node.node_id))
}

/// Names of the tools that are meant, each of them offered as it was shown.
fn chosen(node: &NodeView, tools: Option<&[Approved]>) -> Result<BTreeSet<ToolName>, OpError> {
    let Some(tools) = tools else { return Ok(node.tools().iter().map(|tool| tool.name.clone()).collect()) };
    let mut chosen = BTreeSet::new();
    for Approved { name, shown } in tools {
        let Some(tool) = node.tools().iter().find(|tool| tool.name == *name) else {
            return Err(offers_no(node, name));
        };
        if shown.is_some_and(|shown| shown != Offered::of(tool).hash) {
            return Err(edited_meanwhile()
                .hint(format!("`{name}` is not what was shown any more: `sigil pending` shows it as it is now")));
        }
        chosen.insert(name.clone());
    }
    Ok(chosen)
}
