//! Ways into a mesh and out of it.

use std::time::Duration;

use mesh_core::ids::{MeshId, NodeId, PeerId};
use mesh_core::io::{Command, Refusal, View};
use mesh_core::record::Tier;

use crate::doors::identity::Identity;
use crate::mesh::check_words::CheckWords;
use crate::mesh::clock::now;
use crate::mesh::{Grant, Invite, InviteInfo, JoinError, JoinTarget, Joined, MeshError, MeshHandle, Nearby, Pending};
use crate::status::{ErrorCode, OpError, check};

/// Lifetime of an invite that names none: long enough to walk to another room.
pub const INVITE_TTL_DEFAULT: Duration = Duration::from_mins(15);
/// Longest lifetime of an invite.
pub const INVITE_TTL_MAX: Duration = Duration::from_hours(7 * 24);

/// Devices that await approval, in the order in which they first asked.
#[must_use]
pub fn pending(mesh: &MeshHandle) -> Vec<Pending> {
    let mut waiting = mesh.surroundings().pending.clone();
    waiting.sort_by_key(|pending| (pending.since_ms, pending.peer));
    waiting
}

/// Strangers seen on the local network, by name.
#[must_use]
pub fn nearby(mesh: &MeshHandle) -> Vec<Nearby> {
    let mut seen = mesh.surroundings().nearby.clone();
    seen.sort_by(|a, b| (&a.name, a.peer.to_string()).cmp(&(&b.name, b.peer.to_string())));
    seen
}

/// Makes a single-use invite that grants this, and gives the newcomer this name if there is one; `ttl` =
/// [`INVITE_TTL_DEFAULT`] if none is named. One that makes an owner through the socket only.
///
/// # Errors
/// `ttl` is below one second or above [`INVITE_TTL_MAX`], the caller may not make an owner, another member has the name, or
/// the mesh refuses.
pub async fn invite(
    mesh: &MeshHandle,
    who: &Identity,
    grant: Grant,
    ttl: Option<Duration>,
    name: Option<NodeId>,
) -> Result<Invite, OpError> {
    may_grant(who, grant.tier, "an invite that makes an owner is made", "or ask for one with `\"tier\": \"shared\"`")?;
    let ttl = ttl.unwrap_or(INVITE_TTL_DEFAULT);
    if !(Duration::from_secs(1)..=INVITE_TTL_MAX).contains(&ttl) {
        let detail = format!("an invite must expire after 1 to {} seconds", INVITE_TTL_MAX.as_secs());
        return Err(OpError::new(ErrorCode::Invalid, detail));
    }
    Ok(mesh.invite(grant, ttl, name).await?)
}

/// `Err` if `tier` is more than this caller may hand out: who becomes an owner can do anything with every device, and
/// stays one when the token that made it one is revoked. `what` happens, as a sentence's subject and verb; `or` is what
/// the caller can do without the socket.
///
/// # Errors
/// [`ErrorCode::Denied`].
pub(super) fn may_grant(who: &Identity, tier: Tier, what: &str, or: &str) -> Result<(), OpError> {
    match tier {
        Tier::Owner => who.require_socket(what, &format!("use `sigil` on this machine, {or}")),
        Tier::Shared | Tier::Ephemeral => Ok(()),
    }
}

/// The invites that this device made and keeps, the newest first. One that is over is kept for an hour longer.
///
/// # Errors
/// The agent is stopping.
pub async fn invites(mesh: &MeshHandle) -> Result<Vec<InviteInfo>, OpError> {
    let mut invites = mesh.invites().await?;
    invites.sort_by_key(|invite| (std::cmp::Reverse(invite.created_ms), invite.secret));
    Ok(invites)
}

/// Takes back the invite of this short name: its code lets nobody in any more.
///
/// # Errors
/// There is no such invite here, or somebody has used it: then that device is a member, which `forget` removes.
pub async fn void_invite(mesh: &MeshHandle, id: &str) -> Result<(), OpError> {
    let found = mesh.invites().await?.into_iter().find(|invite| invite.id() == id);
    let unknown = || {
        OpError::new(ErrorCode::InviteUnknown, "this device keeps no invite of that id")
            .hint("`sigil invite --list` shows them; each device knows its own only")
    };
    let invite = found.ok_or_else(unknown)?;
    match mesh.command(Command::VoidInvite { secret: invite.secret }).await {
        Ok(_) => Ok(()),
        Err(MeshError::Refused(Refusal::InviteUsed)) => {
            Err(OpError::new(ErrorCode::InviteUsed, "this code has been used already")
                .hint("`sigil forget` removes the device that it let in; `sigil invite --list` names it"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The state of this device after a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinState {
    /// This device belongs to `mesh` under the name `node_id`.
    Member {
        /// The name that it got.
        node_id: NodeId,
        /// The mesh.
        mesh: MeshId,
        /// Its tier there; `None` if it was removed in the meantime.
        tier: Option<Tier>,
    },
    /// A person at the other device must approve; the agent keeps asking.
    Pending {
        /// The device that must approve.
        peer: PeerId,
        /// This device: the id that the person there compares.
        me: PeerId,
    },
}

/// `Err` unless the caller came by the socket, whatever else it says; or, at a device that is alone in its mesh and so has
/// nothing but itself to lose, by a session of the page that is new (`docs/decisions/0145`).
///
/// # Errors
/// [`ErrorCode::Denied`]; [`ErrorCode::NotFresh`] for an older session.
pub fn may_join(mesh: &MeshHandle, who: &Identity) -> Result<(), OpError> {
    let (what, next) = ("a device joins a mesh", "run `sigil join` on this machine");
    if is_alone(&mesh.view()) {
        return who.require_fresh(now().wall_ms, what, next);
    }
    who.require_socket(what, next)
}

/// True if no other device belongs to the mesh of this one.
pub(super) fn is_alone(view: &View) -> bool {
    view.by_peer(&view.me).is_some() && view.nodes.len() == 1
}

/// Joins another mesh. `force` = even when that means leaving a mesh of several devices. `words` = check words that the
/// device of a code must have; for the other targets they are in the target itself. Through the socket only: the owners
/// of that mesh can do anything with this device from then on, and a stolen token should not reach that far.
///
/// # Errors
/// The caller did not come by the socket. Each other cause has its own code: see [`JoinError`].
pub async fn join(
    mesh: &MeshHandle,
    who: &Identity,
    target: JoinTarget,
    words: Option<CheckWords>,
    force: bool,
) -> Result<JoinState, OpError> {
    may_join(mesh, who)?;
    if let JoinTarget::Code(code) = &target
        && let Some(words) = words.filter(|words| *words != CheckWords::of(&code.inviter))
    {
        let detail =
            format!("this code is of a device whose check words are {}, not {words}", CheckWords::of(&code.inviter));
        return Err(OpError::new(ErrorCode::OtherWords, detail).hint("ask the device that you mean for a code"));
    }
    let joined = mesh.join(target, force).await.map_err(|error| {
        let asks = matches!(error, MeshError::Join(JoinError::Unconfirmed { .. } | JoinError::OtherWords { .. }));
        let error = OpError::from(error);
        if asks { error.with("own_check", check(&mesh.view().me)) } else { error }
    })?;
    let view = mesh.view();
    Ok(match joined {
        Joined::Member { node_id, tier } => JoinState::Member { node_id, mesh: view.mesh, tier },
        Joined::Pending { peer } => JoinState::Pending { peer, me: view.me },
    })
}

/// Leaves the mesh and founds one of its own, which is answered. Open calls end as undeliverable. Through the socket
/// only: it cannot be taken back, and a stolen token should not reach that far.
///
/// # Errors
/// The caller did not come by the socket, or the mesh refuses.
pub async fn leave(mesh: &MeshHandle, who: &Identity) -> Result<MeshId, OpError> {
    who.require_socket("a device leaves its mesh", "run `sigil leave` on this machine")?;
    mesh.leave().await?;
    Ok(mesh.view().mesh)
}
