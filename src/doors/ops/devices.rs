//! The devices of the mesh and those that ask to join it: found by name, approved, forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::ids::{NodeId, PeerId};
use mesh_core::io::{Command, NodeView, Refusal, Reply, View};
use mesh_core::limits::REVOKED_AT_ONCE_MAX;
use mesh_core::names::{Found, PREFIX_MIN, find};
use mesh_core::record::Tier;

use super::joining::{is_alone, may_grant};
use crate::doors::identity::Identity;
use crate::mesh::MeshHandle;
use crate::mesh::check_words::CheckWords;
use crate::mesh::clock::{now, rfc3339};
use crate::mesh::{Grant, JoinError, MeshError, Pending};
use crate::status::{ErrorCode, OpError};

/// The view follows the answer within one step of the driver; a second is far more.
const APPROVAL_SHOWS_WITHIN: Duration = Duration::from_secs(1);
/// Devices that an error names.
const NAMED_MAX: usize = 10;

/// A device that a client named.
#[derive(Debug, Clone)]
pub enum Named<'a> {
    /// An approved peer.
    Member(&'a NodeView),
    /// A device that awaits approval.
    Pending(&'a Pending),
}

impl Named<'_> {
    /// Peer id and name: the texts by which it is found.
    fn names(&self) -> (PeerId, &str) {
        match self {
            Self::Member(node) => (node.peer, node.node_id.as_str()),
            Self::Pending(pending) => (pending.peer, pending.node_id.as_str()),
        }
    }
}

/// The one device that was found, if there is one.
fn only<'a>(text: &str, devices: impl Iterator<Item = Named<'a>>) -> Result<Option<Named<'a>>, OpError> {
    match find(text, devices, Named::names) {
        Found::None => Ok(None),
        Found::One(named) => Ok(Some(named)),
        Found::Several(found) => {
            let choices: Vec<_> =
                found.iter().map(Named::names).map(|(peer, name)| format!("{peer} ({name})")).collect();
            let detail = format!("`{}` may mean: {}", text.escape_debug(), choices.join(", "));
            Err(OpError::new(ErrorCode::Ambiguous, detail)
                .hint("give more characters of the peer id")
                .with("choices", choices))
        }
    }
}

/// `text` for an error: short, and without what could steer a terminal.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

/// Finds the device that `text` means: a name, a peer id, or a prefix of one of at least [`PREFIX_MIN`] characters.
/// A name wins over a prefix, a member's name over one that a stranger merely asks for.
///
/// # Errors
/// [`ErrorCode::UnknownNode`], or [`ErrorCode::Ambiguous`] with the `choices`.
pub fn resolve<'a>(view: &'a View, pending: &'a [Pending], text: &str) -> Result<Named<'a>, OpError> {
    if let Some(node) = view.by_name(text) {
        return Ok(Named::Member(node));
    }
    let devices = view.nodes.iter().map(Named::Member).chain(pending.iter().map(Named::Pending));
    only(text, devices)?.ok_or_else(|| {
        let detail = format!("no device is called `{}`, and no peer id starts so", shown(text));
        OpError::new(ErrorCode::UnknownNode, detail).hint(format!(
            "`sigil nodes` lists the devices of this mesh; a prefix of a peer id needs {PREFIX_MIN} characters"
        ))
    })
}

/// As [`resolve`], among the devices that await approval only: a member of the same name is another device.
///
/// # Errors
/// [`ErrorCode::UnknownPending`], or [`ErrorCode::Ambiguous`] with the `choices`.
pub fn resolve_pending<'a>(pending: &'a [Pending], text: &str) -> Result<&'a Pending, OpError> {
    match only(text, pending.iter().map(Named::Pending))? {
        Some(Named::Pending(pending)) => Ok(pending),
        Some(Named::Member(_)) | None => {
            let detail = format!("no device called `{}` awaits approval, and no peer id starts so", shown(text));
            Err(OpError::new(ErrorCode::UnknownPending, detail).hint("`sigil pending` lists those that do"))
        }
    }
}

/// The name of `peer`, when it is an approved peer.
#[must_use]
pub fn name_of(view: &View, peer: &PeerId) -> Option<String> {
    view.by_peer(peer).map(|node| node.node_id.to_string())
}

/// True if the device can take calls at once.
#[must_use]
pub fn is_online(view: &View, node: &NodeView) -> bool {
    node.peer == view.me || node.online
}

/// The reason why a device is offline, or lost the tag that it was let in for, and the next step; `None`: all is well.
#[must_use]
pub fn why_offline(view: &View, node: &NodeView) -> Option<String> {
    if let (Some(of), Some(why)) = (&node.of, node.untagged) {
        return Some(format!("it was let in for `{}`, and {}; `sigil doctor` says what to do", of.tag, why.sentence()));
    }
    if is_online(view, node) {
        return None;
    }
    let cause = if view.gateway.is_none() {
        "no gateway elected, and this device has no link to it".to_owned()
    } else if node.last_seen_ms > 0 {
        format!("it has not been connected since {}", rfc3339(node.last_seen_ms))
    } else {
        "it has not been connected since this agent started".to_owned()
    };
    Some(format!("{cause}; switch it on and see that it has a network; calls are queued for it until they expire"))
}

/// The members whose tools are meant: the one that `text` names, or all.
///
/// # Errors
/// As [`resolve`].
pub fn members<'a>(view: &'a View, text: Option<&str>) -> Result<Vec<&'a NodeView>, OpError> {
    let Some(text) = text else { return Ok(view.nodes.iter().collect()) };
    Ok(match resolve(view, &[], text)? {
        Named::Member(node) => vec![node],
        Named::Pending(_) => Vec::new(),
    })
}

/// Terms of an approval.
#[derive(Debug, Default)]
pub struct Approval {
    /// Tier to grant; `None` = shared for a newcomer, unchanged for a member.
    pub grant: Option<Grant>,
    /// Name to give it; `None` = the one that it asks for.
    pub node_id: Option<NodeId>,
    /// Check words that the device must have, if a person has compared them.
    pub words: Option<CheckWords>,
}

impl Approval {
    /// `Err` if it makes an owner and the caller may not.
    fn may_grant(&self, who: &Identity) -> Result<(), OpError> {
        let or = "or leave `tier` out, or name `shared`";
        self.grant.as_ref().map_or(Ok(()), |grant| may_grant(who, grant.tier, "a device becomes an owner", or))
    }

    /// `Err` unless this is the device that was compared.
    fn confirm(&self, peer: &PeerId) -> Result<(), OpError> {
        let words = CheckWords::of(peer);
        if self.words.is_none_or(|wanted| wanted == words) {
            return Ok(());
        }
        Err(MeshError::Join(JoinError::OtherWords { peer: *peer, words }).into())
    }
}

/// `Err` if this is an owner, and the caller came by no socket: who takes owners away can be the only one who is left.
fn no_owner(who: &Identity, tier: Tier) -> Result<(), OpError> {
    match tier {
        Tier::Owner => who.require_socket("an owner's device is lowered or forgotten", "use `sigil` on this machine"),
        Tier::Shared | Tier::Ephemeral => Ok(()),
    }
}

/// Approves the device that `text` names, or changes the tier of one that is a member. Answers it as it then is. An
/// owner is made, and made less, through the socket only.
///
/// # Errors
/// As [`resolve`]; the caller may not make an owner, or take one away; the name of a member cannot change; or the mesh refuses.
pub async fn approve(
    mesh: &MeshHandle,
    who: &Identity,
    text: &str,
    approval: Approval,
) -> Result<(Arc<View>, NodeView), OpError> {
    approval.may_grant(who)?;
    let (view, around) = (mesh.view(), mesh.surroundings());
    match resolve(&view, &around.pending, text)? {
        Named::Pending(pending) => admit(mesh, pending.peer, approval).await,
        Named::Member(node) => {
            approval.confirm(&node.peer)?;
            if approval.node_id.is_some_and(|wanted| wanted != node.node_id) {
                return Err(OpError::new(ErrorCode::Conflict, "an approval gives a name once, the first time")
                    .hint("`sigil rename NODE NAME` gives a member another; an owner's device renames itself"));
            }
            // One that was let in for a tag needs none from then on.
            let is_news = |grant: &Grant| node.tier != grant.tier || grant.stay.is_some() || node.of.is_some();
            if let Some(Grant { tier, stay }) = approval.grant.filter(is_news) {
                no_owner(who, node.tier)?;
                let (key, node_id) = (node.key, node.node_id.clone());
                mesh.command(Command::Approve { key, node_id, tier, stay }).await?;
            }
            approved(mesh, node.peer).await
        }
    }
}

/// As [`approve`], among the devices that await approval only.
///
/// # Errors
/// As [`resolve_pending`]; the caller may not make an owner; or the mesh refuses.
pub async fn approve_pending(
    mesh: &MeshHandle,
    who: &Identity,
    text: &str,
    approval: Approval,
) -> Result<(Arc<View>, NodeView), OpError> {
    approval.may_grant(who)?;
    let peer = resolve_pending(&mesh.surroundings().pending, text)?.peer;
    admit(mesh, peer, approval).await
}

/// What a device is called after a change of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// Its name.
    pub node_id: NodeId,
    /// The name for which it asks now: an owner has to give it (`docs/decisions/0067`).
    pub asks: Option<NodeId>,
}

/// Gives the device that `text` names the name by which all call it, and by which rights know it.
///
/// # Errors
/// As [`resolve`]; it is an owner's, which chooses its name itself; it is not asked through the socket of an owner's device;
/// or another member has the name.
pub async fn rename_other(mesh: &MeshHandle, who: &Identity, text: &str, name: NodeId) -> Result<Renamed, OpError> {
    let (view, around) = (mesh.view(), mesh.surroundings());
    let peer = match resolve(&view, &around.pending, text)? {
        Named::Member(node) if node.peer == view.me && node.tier == Tier::Owner => {
            return rename(mesh, who, name).await;
        }
        Named::Member(node) => node.peer,
        Named::Pending(pending) => {
            let detail = format!("`{}` awaits approval, and has no name yet", pending.node_id);
            return Err(OpError::new(ErrorCode::Conflict, detail)
                .hint(format!("`sigil approve {} --name {name}` lets it in under this name", pending.peer.short())));
        }
    };
    who.require_socket(
        "the name of another device is given, which decides on its rights",
        "run `sigil` on this machine",
    )?;
    mesh.command(Command::Rename { peer, node_id: name }).await?;
    let (_, node) = approved(mesh, peer).await?;
    Ok(Renamed { node_id: node.node_id, asks: node.asks })
}

/// Gives this device another name, by which all members call it. One that is no owner's and whose name an owner gave or saw
/// only asks for it.
///
/// # Errors
/// Another member has the name, or has had it by its approval; this device belongs to no mesh now; it is an owner's, and the
/// caller came by no socket; or the agent is stopping.
pub async fn rename(mesh: &MeshHandle, who: &Identity, name: NodeId) -> Result<Renamed, OpError> {
    let view = mesh.view();
    let Some(own) = view.by_peer(&view.me) else {
        return Err(OpError::new(ErrorCode::Conflict, "this device belongs to no mesh now, and has no name there")
            .hint("`sigil leave` starts afresh"));
    };
    if own.tier == Tier::Owner {
        let what = "the name of an owner's device is given, which decides on its rights";
        let next = "run `sigil rename` on this machine";
        if is_alone(&view) {
            who.require_fresh(now().wall_ms, what, next)?;
        } else {
            who.require_socket(what, next)?;
        }
    }
    let taken = || {
        let detail = format!("`{name}` means another member of this mesh");
        OpError::new(ErrorCode::NameTaken, detail).hint("`sigil nodes` lists the names in use; choose another")
    };
    match view.find(name.as_str()) {
        Found::One(node) if node.peer != view.me => return Err(taken()),
        Found::Several(_) => return Err(taken()),
        Found::One(_) | Found::None => {}
    }
    mesh.rename(name.clone()).await?;
    let now = mesh.view();
    if let Some(node) = now.by_peer(&now.me).filter(|node| node.tier != Tier::Owner && node.confirmed) {
        return Ok(Renamed { node_id: node.node_id.clone(), asks: node.asks.clone() });
    }
    if now.node_id != name {
        // Its own approval has given it to another member, which has given itself another since.
        mesh.rename(view.node_id.clone()).await?;
        return Err(taken());
    }
    Ok(Renamed { node_id: name, asks: None })
}

/// Rejects a device that awaits approval.
///
/// # Errors
/// As [`resolve_pending`], or the mesh refuses.
pub async fn reject_pending(mesh: &MeshHandle, text: &str) -> Result<(), OpError> {
    let peer = resolve_pending(&mesh.surroundings().pending, text)?.peer;
    Ok(mesh.reject(peer).await?)
}

/// What goes with a device that is forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Along {
    /// Its guests ([`View::guests_of`]), and whom these let in until they are gone.
    pub guests: bool,
    /// All that it said about rights, and what those say who go along: what that replaced holds again.
    pub rights: bool,
}

/// Revokes a member: its links drop, its waiting calls end as undeliverable. Rejects a device that awaits approval.
///
/// # Errors
/// As [`resolve`]; it is this device; it is an owner's and the caller came by no socket; rights are to go along and it is
/// not asked through the socket; the mesh refuses; or some of the guests stay, which are named with why. All others are
/// forgotten.
pub async fn forget(mesh: &MeshHandle, who: &Identity, text: &str, along: Along) -> Result<(), OpError> {
    if along.rights {
        who.require_socket("who may do what is changed", "run `sigil forget` on this machine")?;
    }
    let (view, around) = (mesh.view(), mesh.surroundings());
    let host = match resolve(&view, &around.pending, text)? {
        Named::Member(node) if node.peer == view.me => {
            return Err(OpError::new(ErrorCode::Conflict, "a device cannot forget itself")
                .hint("`sigil leave` takes it out of the mesh"));
        }
        Named::Member(node) => {
            no_owner(who, node.tier)?;
            mesh.command(Command::Revoke { peer: node.peer, unsaid: along.rights }).await?;
            node.peer
        }
        Named::Pending(pending) => {
            mesh.reject(pending.peer).await?;
            pending.peer
        }
    };
    // Those who are gone lead to nobody any more, so they are remembered.
    let mut gone = BTreeSet::from([host]);
    if !along.guests {
        return Ok(());
    }
    let mut left = Vec::new();
    loop {
        let view = mesh.view();
        let next: Vec<_> = view.guests_of(&gone).into_iter().filter(|guest| !gone.contains(&guest.peer)).collect();
        next.iter().try_for_each(|guest| no_owner(who, guest.tier))?;
        let next: Vec<_> = next.into_iter().map(|guest| (guest.peer, guest.node_id.clone())).collect();
        gone.extend(next.iter().map(|(peer, _)| *peer));
        if next.is_empty() {
            return all_gone(&left, gone.len() - 1);
        }
        for (number, part) in next.chunks(REVOKED_AT_ONCE_MAX).enumerate() {
            let peers = part.iter().map(|(peer, _)| *peer).collect();
            let name = |peer| part.iter().find(|(other, _)| *other == peer).map(|(_, name)| name.clone());
            match mesh.command(Command::RevokeAll { peers, unsaid: along.rights }).await {
                Ok(Reply::RevokedAll(refused)) => {
                    // Whom nobody knows has gone by itself in the meantime.
                    let refused = refused.into_iter().filter(|(_, why)| !matches!(why, Refusal::UnknownNode(_)));
                    left.extend(refused.filter_map(|(peer, why)| Some((name(peer)?, OpError::from(why)))));
                }
                Ok(_) => return Err(OpError::new(ErrorCode::Internal, "the mesh answered something else")),
                // What is said once the agent stops, or in another mesh, holds for the rest.
                Err(error @ (MeshError::Stopping | MeshError::Moved)) => return Err(error.into()),
                Err(error) => {
                    let error = OpError::from(error);
                    left.extend(part.iter().map(|(_, name)| (name.clone(), error.clone())));
                }
            }
            let done = (number + 1) * REVOKED_AT_ONCE_MAX;
            tracing::info!(of = next.len(), done = done.min(next.len()), "forgetting guests");
        }
    }
}

/// What came of forgetting so many guests, of whom these stay.
fn all_gone(left: &[(NodeId, OpError)], guests: usize) -> Result<(), OpError> {
    let Some((_, first)) = left.first() else { return Ok(()) };
    let named = left.iter().take(NAMED_MAX).map(|(name, why)| format!("{name} ({})", why.detail));
    let more = if left.len() > NAMED_MAX { format!(", and {} more", left.len() - NAMED_MAX) } else { String::new() };
    let named: Vec<_> = named.collect();
    let detail =
        format!("the device is forgotten; of its {guests} guests {} stay: {}{more}", left.len(), named.join(", "));
    Err(OpError::new(first.code, detail).hint("`sigil nodes` shows who let them in; `sigil forget` removes each"))
}

async fn admit(mesh: &MeshHandle, peer: PeerId, approval: Approval) -> Result<(Arc<View>, NodeView), OpError> {
    approval.confirm(&peer)?;
    mesh.admit(peer, approval.grant, approval.node_id).await?;
    approved(mesh, peer).await
}

/// The device as it is in the view, once the approval shows there.
async fn approved(mesh: &MeshHandle, peer: PeerId) -> Result<(Arc<View>, NodeView), OpError> {
    let mut watch = mesh.watch_view();
    let there = watch.wait_for(|view| view.by_peer(&peer).is_some());
    let view = match tokio::time::timeout(APPROVAL_SHOWS_WITHIN, there).await {
        Ok(Ok(view)) => view.clone(),
        Ok(Err(_)) => return Err(MeshError::Stopping.into()),
        Err(_) => mesh.view(),
    };
    let node = view.by_peer(&peer).cloned();
    node.map(|node| (view, node))
        .ok_or_else(|| OpError::new(ErrorCode::Internal, "the device is approved, but does not show in the mesh yet"))
}
